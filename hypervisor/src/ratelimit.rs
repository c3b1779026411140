//! A limit on how often something is said.
//!
//! Owns the decision and the count of what was swallowed; the caller owns the clock and the printing. Time comes in as
//! ticks of the system counter (CNTPCT_EL0), which all CPUs share.

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
    /// `Some(n)`: say it; `n` others were swallowed before it and are now accounted for. `None`: swallow it, it was
    /// counted. An `interval` of 0 (the counter's frequency is not known yet) limits nothing. Windows are counted from
    /// tick 0, so that two bursts can meet at the border of two windows: at most `2 * burst` lines in any `interval`
    /// ticks.
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
        // The count belongs to whoever takes it out: no line is reported twice and none is lost. The order towards
        // `state` does not matter, because both are only counted.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_rest_is_counted_into_the_next_line() {
        let limit = RateLimit::new();
        assert_eq!([0, 1, 2, 3, 4].map(|now| limit.allow(now, 100, 3)), [Some(0), Some(0), Some(0), None, None]);
        assert_eq!(limit.allow(99, 100, 3), None);
        assert_eq!([100, 101, 199, 199].map(|now| limit.allow(now, 100, 3)), [Some(3), Some(0), Some(0), None]);
        assert_eq!(limit.allow(1_000_000, 100, 3), Some(1));
    }

    #[test]
    fn a_late_reading_of_the_counter_stays_in_the_newer_window() {
        let limit = RateLimit::new();
        assert_eq!(limit.allow(250, 100, 1), Some(0));
        assert_eq!(limit.allow(199, 100, 1), None);
        assert_eq!(limit.allow(300, 100, 1), Some(1));
    }

    #[test]
    fn no_burst_says_nothing_and_no_interval_says_everything() {
        let limit = RateLimit::new();
        assert_eq!([0, 1000].map(|now| limit.allow(now, 100, 0)), [None, None]);
        assert_eq!([0, 0, 0].map(|now| limit.allow(now, 0, 1)), [Some(2), Some(0), Some(0)]);
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let limit = RateLimit::new();
        assert_eq!(limit.allow(u64::MAX, 1, u16::MAX), Some(0));
        assert_eq!(limit.allow(u64::MAX, 1, 1), None);
        assert_eq!(limit.allow(0, 1, 1), None);
    }

    /// Every line is either said or counted, whatever the CPUs do at the same time.
    #[test]
    fn no_line_is_lost_between_threads() {
        let rounds = if cfg!(miri) { 20 } else { 20_000 };
        let (limit, said, reported) = (RateLimit::new(), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (limit, said, reported) = (&limit, &said, &reported);
                scope.spawn(move || {
                    for now in 0..rounds {
                        if let Some(count) = limit.allow(now + thread, 7, 2) {
                            said.fetch_add(1, Ordering::Relaxed);
                            reported.fetch_add(count, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let left = limit.suppressed.load(Ordering::Relaxed);
        let (said, reported) = (said.into_inner(), reported.into_inner());
        assert_eq!(said + reported + left, 3 * rounds);
        assert!(said <= 2 * (rounds + 2).div_ceil(7));
    }
}
