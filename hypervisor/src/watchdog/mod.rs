//! Whether a CPU hangs: decided from samples, which a timer of EL2's own takes.
//!
//! Owns the decision; [`gic`] owns how that timer's interrupt stands beside those of the host. One [`Watchdog`] belongs
//! to each CPU, which feeds it a [`Sample`] of itself at every tick, a quarter of the time that a hang may last.
//!
//! # What a hang is
//!
//! A CPU hangs if, in every sample over the whole time,
//!
//! - it had its interrupts masked (PSTATE.I), and
//! - it was not asleep: a CPU in WFI with interrupts masked is an idle one, as Linux's idle loop is, and
//! - one and the same thing that it would have to do waited for it: one of its timers had expired and had not been set
//!   anew, or one interrupt was pending; or nothing of it has moved.
//!
//! The third is what makes it sure. A sample can meet a short masked section each time, on a CPU that runs through
//! thousands of them between two samples. But between two of those it takes its timer's interrupt, and sets the timer
//! to another time. So the timer's comparator is a sign of life: while it stands still and lies in the past, no tick of
//! the kernel's was handled. A CPU whose PC moves in a loop hangs all the same, and one that is not masked never does:
//! a kernel that takes interrupts can look after itself.
//!
//! A CPU that was idle may have no timer set, and hang in the interrupt that woke it. Then an interrupt that is pending
//! has to do. It is no such sign: under a storm of them the same one is pending again in the next sample. So it counts
//! only while the CPU stays at one place in its code, and for [`SURE`] times as long.
//!
//! # Before there are timers
//!
//! A kernel that begins has set no timer and turned on no interrupt. If it hangs before its console works nobody ever
//! learns of it. What is left to go by is that nothing moves: over [`SURE`] times as long the CPU is met at one place
//! in its code, and its general registers in one of a few states ([`STATES`]). A loop that waits for a bit to change
//! has as many states as it has instructions that load or compute something, and goes through them again and again.
//!
//! What takes long at that time is no such loop, however short it is:
//!
//! - What clears memory, fills it, tests it (`memtest=`), copies it or unpacks it counts in a register; so does the
//!   checksum of a purgatory. Each sample meets it with an address that it has not met before.
//! - What waits for a time that it reads from a counter has that in a register.
//! - A console that is slow, with interrupts masked as printk has them, has another character each time, or another
//!   count of them. One that takes none at all for so long, since its line is stopped by flow control, is a hang.
//! - What a debugger has stopped shows as a gap.
//!
//! And a loop that does nothing for ever on purpose is found: the end of a bare-metal program, or of a panic without
//! `panic=`, unless it sleeps in WFI, or its interrupts are on, as at the end of Linux's. A CPU whose MMU is off may
//! wait in WFE too: it is one that somebody parked.
//!
//! # Somebody who sees it
//!
//! Between two samples a CPU that was met masked is looked at each second ([`Watchdog::look`]). If it is busy in two
//! looks in a row, and somebody sends a break to the console meanwhile, which a host that lives would have read, there
//! is nothing more to wait for.
//!
//! # What is none
//!
//! Time in which the CPU did not run does not count: held for a LEAVE or a stop, in firmware, or in a machine that was
//! stopped by a debugger. Such time shows as a gap: a tick comes later than it was due by more than half its period.
//! Then everything begins anew. A gap loses at most the time that had been counted.
//!
//! A timer that had expired before the watchdog began does not count either: what the last kernel has left is no task
//! of the next one's, which boots with interrupts masked. A kernel at EL1 that is replaced by another one does not tell
//! EL2. But the next one asks for PSCI_VERSION before it sets a timer, and the watchdog begins anew there.
//!
//! # After a hang
//!
//! The host is to panic ([`Finding::Panic`]), once. Whether it then gets to its crash kernel shows in that the CPU
//! comes to EL2 no more: its watchdog is taken down there. If samples go on to come for the time of grace, with the
//! CPU still stuck, the panic has not helped ([`Finding::Lost`]).

pub mod gic;

/// Ticks in the time that a hang may last.
pub const TICKS: u16 = 4;

/// For how many times as long an interrupt has to be pending, or nothing to move.
pub const SURE: u16 = 4;

/// How many seconds a panic gets at least to come to an end: it prints much, on a console that may be slow.
const GRACE_SECONDS: u64 = 20;

/// The size of a place in the code, in bytes.
const PLACE: u64 = 128;

/// In how many states of its registers a loop may be met that waits, and does nothing else.
const STATES: usize = 4;

/// Whether this command line has Linux reset the machine after a panic (Linux, `kernel-parameters.txt`, `panic=`).
#[must_use]
pub fn asks_for_reset(arguments: &[u8]) -> bool {
    let last = arguments.split(u8::is_ascii_whitespace).filter_map(|word| word.strip_prefix(b"panic=")).next_back();
    last.is_some_and(|value| value.iter().any(|byte| (b'1'..=b'9').contains(byte)))
}

/// What a tick finds of its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// CNTPCT_EL0.
    pub now: u64,
    /// PSTATE.I of the host.
    pub masked: bool,
    /// The host was at a WFI, or past it.
    pub asleep: bool,
    /// Its two timers, each if it is on, not masked, and has expired: the comparator.
    pub expired: [Option<u64>; 2],
    /// An interrupt that is pending: its INTID.
    pub pending: Option<u32>,
    /// Where it was.
    pub pc: u64,
    /// A number that stands for its general registers: with others it is another one.
    pub state: u64,
    /// Its MMU was off: it is on its way up or down, and what waits for it is the last kernel's.
    pub is_bare: bool,
}

/// What a sample says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It runs, as far as is known.
    Well,
    /// It hangs: the host is to panic on it.
    Panic,
    /// It was to panic, and still hangs.
    Lost,
}

impl Sample {
    /// The CPU does something, and takes no interrupt.
    const fn is_busy(&self) -> bool {
        self.masked && !self.asleep
    }
}

/// The times of a watchdog, in ticks of the counter and of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Between two samples.
    pub period: u64,
    /// Between two looks at a CPU that was met masked: a second, or less.
    pub soon: u64,
    /// How many of them a panic gets.
    pub grace: u16,
}

impl Times {
    /// For a hang of `seconds`, with a counter of `frequency`.
    #[must_use]
    pub const fn new(seconds: u16, frequency: u64) -> Self {
        let period = frequency.saturating_mul(seconds as u64) / TICKS as u64;
        let grace = GRACE_SECONDS * TICKS as u64 / if seconds == 0 { 1 } else { seconds as u64 };
        let least = 2 * TICKS;
        let soon = if frequency < period { frequency } else { period };
        Self { period, soon, grace: if grace < least as u64 { least } else { grace as u16 } }
    }
}

/// Something that waits to be done, and in how many samples in a row it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    what: u64,
    pc: u64,
    samples: u16,
}

impl Waiting {
    const NOTHING: Self = Self { what: 0, pc: 0, samples: 0 };

    /// Takes what waits in a sample. Whether it has waited for more than `limit` ticks.
    #[inline(never)]
    const fn has_waited(&mut self, what: Option<u64>, pc: u64, limit: u16) -> bool {
        let Some(what) = what else {
            *self = Self::NOTHING;
            return false;
        };
        if self.samples == 0 || self.what != what || self.pc.abs_diff(pc) >= PLACE {
            *self = Self { what, pc, samples: 0 };
        }
        self.samples = self.samples.saturating_add(1);
        self.samples > limit
    }
}

/// In which states a CPU was met at one place, and in how many samples in a row. Zero is no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Still {
    states: [u64; STATES],
    pc: u64,
    samples: u16,
}

impl Still {
    const NOTHING: Self = Self { states: [0; STATES], pc: 0, samples: 0 };

    /// Takes the state that a CPU was met in, unless it moves for certain. Whether it has not moved for more than
    /// `limit` ticks.
    #[inline(never)]
    fn has_stood(&mut self, state: Option<u64>, pc: u64, limit: u16) -> bool {
        let Some(state) = state else {
            *self = Self::NOTHING;
            return false;
        };
        // As good as any other number.
        let state = state.max(1);
        if self.pc.abs_diff(pc) >= PLACE {
            *self = Self { pc, ..Self::NOTHING };
        }
        match self.states.iter_mut().find(|known| [0, state].contains(known)) {
            Some(known) => *known = state,
            None => *self = Self { states: [state, 0, 0, 0], pc, samples: 0 },
        }
        self.samples = self.samples.saturating_add(1);
        self.samples > limit
    }
}

/// What is known of a CPU. Zeros are what it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// CNTPCT_EL0 when it began.
    began: u64,
    /// CNTPCT_EL0 at the last sample.
    last: u64,
    timers: [Waiting; 2],
    interrupt: Waiting,
    still: Still,
    /// In how many looks in a row it was busy.
    looks: u8,
    /// The host was to panic.
    panicked: bool,
}

impl Watchdog {
    /// Nothing is known.
    #[must_use]
    const fn new() -> Self {
        let nothing = Waiting::NOTHING;
        Self {
            began: 0,
            last: 0,
            timers: [nothing; 2],
            interrupt: nothing,
            still: Still::NOTHING,
            looks: 0,
            panicked: false,
        }
    }

    /// Begins: whatever runs on this CPU now has begun.
    pub const fn begin(&mut self, now: u64) {
        *self = Self { began: now, last: now, ..Self::new() };
    }

    /// The host cannot panic here now, or somebody else panics: all that was counted is forgotten.
    pub const fn forget(&mut self) {
        *self = Self { began: self.began, last: self.last, ..Self::new() };
    }

    /// Looks at what a tick has found. Whether this CPU may be hung: it was busy the last time, too.
    pub const fn look(&mut self, sample: &Sample) -> bool {
        self.looks = if sample.is_busy() { self.looks.saturating_add(1) } else { 0 };
        self.looks > 1
    }

    /// When the next tick is due, after a look at `now`.
    #[must_use]
    pub fn due(&self, now: u64, times: Times) -> u64 {
        let next = self.last.wrapping_add(times.period);
        if self.looks == 0 { next } else { next.min(now.wrapping_add(times.soon)) }
    }

    /// Whether what a tick has found at `now` is a sample: those that only look come earlier.
    #[must_use]
    pub const fn is_sample(&self, now: u64, times: Times) -> bool {
        // A tick is due a period after the last one came, which was a bit before its sample.
        now.wrapping_sub(self.last) >= times.period - times.period / 64
    }

    /// The host is to panic, whatever was found: somebody wants it to.
    pub const fn panics(&mut self) {
        self.forget();
        self.panicked = true;
    }

    /// Takes a sample.
    pub fn sample(&mut self, sample: &Sample, times: Times) -> Finding {
        let gap = sample.now.wrapping_sub(self.last) > times.period + times.period / 2;
        self.last = sample.now;
        let stuck = sample.is_busy() && !gap;
        if !sample.masked {
            self.panicked = false;
        }
        if sample.is_bare {
            self.began = sample.now;
        }
        let has_tasks = stuck && !sample.is_bare;
        let (limit, sure) = if self.panicked { (times.grace, 1) } else { (TICKS, SURE) };
        let mut hangs = false;
        for (timer, expired) in self.timers.iter_mut().zip(sample.expired) {
            let expired = expired.filter(|&at| has_tasks && at > self.began);
            hangs |= timer.has_waited(expired, 0, limit);
        }
        let pending = sample.pending.filter(|_| has_tasks).map(u64::from);
        hangs |= self.interrupt.has_waited(pending, sample.pc, limit * sure);
        hangs |= self.still.has_stood(stuck.then_some(sample.state), sample.pc, limit * sure);
        if !hangs {
            return Finding::Well;
        }
        let was_panicked = self.panicked;
        self.panics();
        if was_panicked { Finding::Lost } else { Finding::Panic }
    }
}

/// What is kept of a CPU for its ticks. Zeros are what it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// What is known of it.
    pub watchdog: Watchdog,
    /// What the host has set in the GIC.
    pub host: gic::Host,
    /// The same: GICC_CTLR of a GICv2, ICC_IGRPEN0_EL1 of a GICv3.
    pub interface: u32,
    /// The ticks were taken away while other CPUs kept theirs, and a GICv2's interface has stayed open for both groups.
    pub stays_open: bool,
    /// Where the redistributor of a GICv3 has the registers of private interrupts.
    pub frame: u64,
}

impl Watch {
    /// Nothing yet.
    pub const NOTHING: Self =
        Self { watchdog: Watchdog::new(), host: gic::Host::NOTHING, interface: 0, stays_open: false, frame: 0 };
}

#[cfg(test)]
mod tests;
