//! A limit on how often something is said.
//!
//! Owns the decision and the count of what was swallowed; the caller owns the clock and the printing. Time comes in as ticks
//! of the system counter (CNTPCT_EL0), which all CPUs share.

use core::sync::atomic::{AtomicU64, Ordering};

/// Bits of the state that count the lines of the current window.
const COUNT_BITS: u32 = 16;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Lets `burst` lines through in each window of time.
///
/// One word holds the number of the window and the lines in it, so that CPUs that log at the same time agree by one
/// compare-and-exchange and no lock: nothing here can make a CPU wait for another.
#[derive(Debug)]
pub struct RateLimit {
    /// Window number above, lines let through in it below.
    state: AtomicU64,
    /// Lines swallowed since the last that was let through.
    suppressed: AtomicU64,
}

impl RateLimit {
    /// A limit that has let nothing through yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Asks to say one line at time `now`, when at most `burst` may be said in every `interval` ticks.
    ///
    /// `Some(n)`: say it; `n` others were swallowed before it and are now accounted for. `None`: swallow it, it was counted.
    /// An `interval` of 0 (the counter's frequency is not known yet) limits nothing. Windows are counted from tick 0, so
    /// that two bursts can meet at the border of two windows: at most `2 * burst` lines in any `interval` ticks.
    #[must_use]
    pub fn allow(&self, now: u64, interval: u64, burst: u16) -> Option<u64> {
        let fresh = now.checked_div(interval).map(|window| (window << COUNT_BITS) >> COUNT_BITS);
        let taken = fresh.is_none_or(|fresh| {
            self.state
                .try_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
                    let (window, count) = (state >> COUNT_BITS, state & COUNT_MASK);
                    // A CPU that read the counter earlier but comes later stays in the newer window.
                    if fresh > window {
                        (burst > 0).then_some(fresh << COUNT_BITS | 1)
                    } else {
                        (count < u64::from(burst)).then_some(state + 1)
                    }
                })
                .is_ok()
        });
        // The count belongs to whoever takes it out: no line is reported twice and none is lost. The order towards `state`
        // does not matter, because both are only counted.
        if taken {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new()
    }
}
