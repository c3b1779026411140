//! Who may make Exeunt leave, and when: restart policies, the lock, and departures that are under way or done.
//!
//! Owns one word. Everything that excludes each other is in it: LOCK promises that nobody leaves any longer, so it must
//! not succeed while somebody is on the way out, and nobody may set out once it has. A departure is therefore announced
//! here before its first step, and whoever announces first wins. The steps themselves are not this file's.
//!
//! | | nothing under way | a LEAVE under way | CPUs outside | locked |
//! |---|---|---|---|---|
//! | LOCK | locked | Busy | WrongState | locked, as before |
//! | LEAVE | under way | Busy | under way, for the others | Locked |
//! | a stop of all CPUs | under way | Busy | under way, for the others | under way |
//! | a hold, which ends without a verdict ([`crate::panic_request`]) | under way | Busy | under way | under way |
//! | one CPU sets out | one more outside | Busy | one more outside | Locked |
//! | one CPU comes back by REENTER | - | Busy | one fewer outside | - |
//! | one CPU comes up under Exeunt that was outside | - | one fewer outside | one fewer outside | - |
//! | policy `Leave` | set | set | set | Locked |
//!
//! A CPU that sets out while a LEAVE is under way need not: it is caught by that LEAVE, and leaves with it.
//!
//! A LEAVE has its number and its verdict in the word too. So whoever acts in a LEAVE does so in the one that it means,
//! or finds that it is over: its leader, the CPUs that are held, and the one of these that takes a leader for dead.
//!
//! A stop of all CPUs is a LEAVE to all others: who may not leave meanwhile may not leave in a stop either. Exeunt
//! stays in it, so that a lock does not forbid it.

use core::sync::atomic::{AtomicU32, Ordering};

use guest_abi::vendor::{Error, Policy, RESTART_CRASH, RESTART_KEXEC};

use crate::lifecycle::Round;
use crate::restart::Restart;

/// LOCK was called.
const LOCKED: u32 = 1 << 0;
/// The policy for a kexec is `Resident`.
const KEXEC_RESIDENT: u32 = 1 << 1;
/// The policy for a crash is `Resident`.
const CRASH_RESIDENT: u32 = 1 << 2;
/// A LEAVE is under way.
const LEAVING: u32 = 1 << LEAVING_BIT;
/// The number of that bit, for code that looks at the word in memory.
pub const LEAVING_BIT: u32 = 3;
/// Bits \[6:4\]: what has been decided in it ([`Verdict`]); 0 without one.
const VERDICT_SHIFT: u32 = 4;
const VERDICT: u32 = 7 << VERDICT_SHIFT;
/// Bits \[15:7\]: its [`Round`]; without one, that of the next.
const ROUND_SHIFT: u32 = 7;
const ROUND: u32 = (Round::COUNT - 1) << ROUND_SHIFT;
/// Bits \[31:16\]: CPUs that Exeunt has left or is about to leave by themselves.
const OUTSIDE_SHIFT: u32 = 16;
const ONE_OUTSIDE: u32 = 1 << OUTSIDE_SHIFT;

const _: () = assert!(ROUND_SHIFT + Round::BITS == OUTSIDE_SHIFT);

/// What has been decided in a LEAVE. That Exeunt stays is none: the LEAVE is over then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Nothing.
    None = 0,
    /// Exeunt leaves every CPU that is held.
    Leave = 1,
    /// A CPU that is held cannot be left: Exeunt will stay.
    Objection = 2,
    /// As `Leave`, and each CPU keeps a way back open ([`guest_abi::doorbell`]).
    LeaveOpen = 3,
    /// Nothing, in a stop: Exeunt will stay. A CPU in virtual EL2 has no reason to object.
    Stop = 4,
    /// The end of a stop: every CPU that is held goes off.
    Off = 5,
}

impl Verdict {
    /// Whether Exeunt leaves.
    #[must_use]
    pub const fn leaves(self) -> bool {
        matches!(self, Self::Leave | Self::LeaveOpen)
    }

    /// Whether it is one of a stop's.
    #[must_use]
    pub const fn stops(self) -> bool {
        matches!(self, Self::Stop | Self::Off)
    }

    const fn bits(self) -> u32 {
        (self as u32) << VERDICT_SHIFT
    }
}

/// A LEAVE that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnderWay {
    /// Which.
    pub round: Round,
    /// What has been decided.
    pub verdict: Verdict,
}

/// The word. Shared by all CPUs.
#[derive(Debug)]
#[repr(transparent)]
pub struct Control(AtomicU32);

impl Control {
    /// Nothing locked, nobody outside.
    #[must_use]
    pub const fn new(kexec: Policy, crash: Policy) -> Self {
        let kexec = if matches!(kexec, Policy::Resident) { KEXEC_RESIDENT } else { 0 };
        let crash = if matches!(crash, Policy::Resident) { CRASH_RESIDENT } else { 0 };
        Self(AtomicU32::new(kexec | crash))
    }

    /// Policies for a kexec and for a crash.
    #[must_use]
    pub fn policies(&self) -> [Policy; 2] {
        policies(self.load())
    }

    /// Sets the policies that `which` names ([`RESTART_KEXEC`], [`RESTART_CRASH`]), both at once, and gives both.
    ///
    /// # Errors
    ///
    /// `Locked`: only `Resident` is left.
    pub fn set_policies(&self, which: u32, policy: Policy) -> Result<[Policy; 2], Error> {
        let kexec = if which & RESTART_KEXEC != 0 { KEXEC_RESIDENT } else { 0 };
        let crash = if which & RESTART_CRASH != 0 { CRASH_RESIDENT } else { 0 };
        let bits = kexec | crash;
        self.update(|word| match policy {
            Policy::Leave if bits != 0 && word & LOCKED != 0 => Err(Error::Locked),
            Policy::Leave => Ok(word & !bits),
            Policy::Resident => Ok(word | bits),
        })
        .map(policies)
    }

    /// From now on nobody leaves.
    ///
    /// # Errors
    ///
    /// `Busy`: a LEAVE is under way. `WrongState`: a CPU is outside, and nobody can answer for it.
    pub fn lock(&self) -> Result<(), Error> {
        self.update(|word| match word {
            _ if word & LOCKED != 0 => Ok(word),
            _ if word & LEAVING != 0 => Err(Error::Busy),
            _ if word >> OUTSIDE_SHIFT != 0 => Err(Error::WrongState),
            _ => Ok(word | LOCKED | KEXEC_RESIDENT | CRASH_RESIDENT),
        })
        .map(|_| ())
    }

    /// Whether LOCK was called.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.load() & LOCKED != 0
    }

    /// The calling CPU is about to leave by itself: RESET_VECTORS, or EL2 lent to KVM.
    ///
    /// # Errors
    ///
    /// `Locked`. `Busy`: a LEAVE is under way and takes this CPU along; it has only to let itself be caught.
    pub fn set_out(&self) -> Result<(), Error> {
        self.update(|word| match word {
            _ if word & LOCKED != 0 => Err(Error::Locked),
            _ if word & LEAVING != 0 => Err(Error::Busy),
            _ => more_outside(word, 1),
        })
        .map(|_| ())
    }

    /// The calling CPU does a soft restart: what becomes of Exeunt on it. With `Leave` it is about to leave.
    ///
    /// # Errors
    ///
    /// `Busy`: as for [`Self::set_out`].
    pub fn restart(&self, why: Restart) -> Result<Policy, Error> {
        let resident = match why {
            Restart::Kexec => KEXEC_RESIDENT,
            Restart::Crash => CRASH_RESIDENT,
        };
        self.update(|word| match word {
            _ if word & LEAVING != 0 => Err(Error::Busy),
            _ if word & (LOCKED | resident) != 0 => Ok(word),
            _ => more_outside(word, 1),
        })
        .map(|word| if word & (LOCKED | resident) != 0 { Policy::Resident } else { Policy::Leave })
    }

    /// Exeunt has died on the calling CPU, which goes outside whatever the word says: LOCK is a promise that Exeunt
    /// makes while it lives, and a LEAVE that is under way does not meet the CPU any more.
    pub fn die(&self) {
        // Busy if there is no room for more, which no machine comes to.
        let _ = self.update(|word| more_outside(word, 1));
    }

    /// A CPU that was outside has come up anew, and under Exeunt: it went off outside, and a CPU under Exeunt has
    /// started it. A LEAVE that is under way takes it along.
    pub fn come_up(&self) {
        // Never an error: the closure refuses nothing.
        let _ = self.update(|word| Ok(if word >> OUTSIDE_SHIFT == 0 { word } else { word - ONE_OUTSIDE }));
    }

    /// A CPU on which Exeunt is not is about to come back. `was_left`: Exeunt had left it, so that it is one of those
    /// outside; it may as well have been started without Exeunt's knowledge by one of them.
    ///
    /// # Errors
    ///
    /// `Busy`: a LEAVE is under way; the CPU stays outside.
    pub fn come_back(&self, was_left: bool) -> Result<(), Error> {
        self.update(|word| match word {
            _ if word & LEAVING != 0 => Err(Error::Busy),
            _ if !was_left || word >> OUTSIDE_SHIFT == 0 => Ok(word),
            _ => Ok(word - ONE_OUTSIDE),
        })
        .map(|_| ())
    }

    /// The calling CPU begins a LEAVE, whose round this gives.
    ///
    /// # Errors
    ///
    /// `Locked`. `Busy`: there is one under way.
    pub fn begin_leave(&self) -> Result<Round, Error> {
        self.update(|word| match word {
            _ if word & LOCKED != 0 => Err(Error::Locked),
            _ if word & LEAVING != 0 => Err(Error::Busy),
            _ => Ok(word | LEAVING),
        })
        .map(round)
    }

    /// The calling CPU begins a stop of all CPUs, whose round this gives.
    ///
    /// # Errors
    ///
    /// `Busy`: a LEAVE or another stop is under way.
    pub fn begin_stop(&self) -> Result<Round, Error> {
        self.update(|word| match word {
            _ if word & LEAVING != 0 => Err(Error::Busy),
            _ => Ok(word | LEAVING | Verdict::Stop.bits()),
        })
        .map(round)
    }

    /// The calling CPU begins to hold the others as for a LEAVE, and leaves none of them: there will be no verdict. It
    /// excludes whatever a LEAVE excludes, and LOCK does not forbid it.
    ///
    /// # Errors
    ///
    /// `Busy`: a LEAVE, a stop or another of these is under way.
    pub fn begin_hold(&self) -> Result<Round, Error> {
        self.update(|word| if word & LEAVING != 0 { Err(Error::Busy) } else { Ok(word | LEAVING) }).map(round)
    }

    /// The calling CPU is held and cannot be left. It changes nothing in a LEAVE that is decided or over.
    pub fn object(&self, round: Round) {
        let open = UnderWay { round, verdict: Verdict::None };
        let _ = self.update(|word| at(word, open).map(|word| word | Verdict::Objection.bits()));
    }

    /// Every CPU is held: Exeunt leaves them, or they go off, as `verdict` says.
    ///
    /// # Errors
    ///
    /// `Busy`: one has objected. `TimedOut`: the LEAVE is over, since a CPU that was held has waited too long.
    pub fn judge(&self, round: Round, verdict: Verdict) -> Result<(), Error> {
        let open = if verdict.stops() { Verdict::Stop } else { Verdict::None };
        self.update(|word| match under_way(word) {
            Some(UnderWay { round: current, .. }) if current != round => Err(Error::TimedOut),
            Some(UnderWay { verdict: current, .. }) if current == open => Ok(word & !VERDICT | verdict.bits()),
            Some(_) => Err(Error::Busy),
            None => Err(Error::TimedOut),
        })
        .map(|_| ())
    }

    /// The calling CPU, which is held, goes outside, as the verdict of the LEAVE that it has seen says. False: that
    /// LEAVE is over.
    #[must_use]
    pub fn go_along(&self, decided: UnderWay) -> bool {
        self.update(|word| more_outside(at(word, decided)?, 1)).is_ok()
    }

    /// The LEAVE that the calling CPU has begun is over, and this CPU goes outside, or stays because it failed or was a
    /// stop. False:
    /// it was over before.
    #[must_use]
    pub fn end_leave(&self, round: Round, succeeded: bool) -> bool {
        let is_it = |word| under_way(word).filter(|current| current.round == round).ok_or(Error::TimedOut);
        self.update(|word| is_it(word).and_then(|_| more_outside(over(word), u16::from(succeeded)))).is_ok()
    }

    /// The calling CPU, which is held, ends the LEAVE in the place of a leader that does not, if it still is where this
    /// CPU has last seen it. False: it is not.
    #[must_use]
    pub fn give_up(&self, seen: UnderWay) -> bool {
        self.update(|word| at(word, seen).map(over)).is_ok()
    }

    /// The LEAVE that is under way.
    #[must_use]
    pub fn under_way(&self) -> Option<UnderWay> {
        under_way(self.load())
    }

    /// Whether a LEAVE is under way.
    #[must_use]
    #[inline]
    pub fn is_leaving(&self) -> bool {
        self.load() & LEAVING != 0
    }

    /// Whether the LEAVE `round` is.
    #[must_use]
    pub fn is_under_way(&self, round: Round) -> bool {
        self.under_way().is_some_and(|current| current.round == round)
    }

    /// The word, for the black box.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.load()
    }

    /// CPUs that Exeunt has left or is about to leave.
    #[must_use]
    pub fn outside(&self) -> u16 {
        (self.load() >> OUTSIDE_SHIFT) as u16
    }

    /// The word, for tests that keep and compare it.
    #[cfg(test)]
    pub(crate) fn word(&self) -> u32 {
        self.load()
    }

    #[cfg(test)]
    pub(crate) const fn from_word(word: u32) -> Self {
        Self(AtomicU32::new(word))
    }

    #[cfg(test)]
    pub(crate) fn round(&self) -> Round {
        round(self.load())
    }

    /// The word with another round.
    #[cfg(test)]
    pub(crate) fn with_round(&self, round: Round) -> u32 {
        self.load() & !ROUND | round.number() << ROUND_SHIFT
    }

    fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// One step from a word to the next, or a refusal. Acquire and release: what a CPU did before its step is seen by
    /// those whose step comes later.
    fn update(&self, mut step: impl FnMut(u32) -> Result<u32, Error>) -> Result<u32, Error> {
        let mut word = self.load();
        loop {
            let next = step(word)?;
            match self.0.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(next),
                Err(current) => word = current,
            }
        }
    }
}

const fn round(word: u32) -> Round {
    Round::new((word & ROUND) >> ROUND_SHIFT)
}

fn under_way(word: u32) -> Option<UnderWay> {
    let verdict = match (word & VERDICT) >> VERDICT_SHIFT {
        1 => Verdict::Leave,
        2 => Verdict::Objection,
        3 => Verdict::LeaveOpen,
        4 => Verdict::Stop,
        5 => Verdict::Off,
        _ => Verdict::None,
    };
    (word & LEAVING != 0).then_some(UnderWay { round: round(word), verdict })
}

/// The word, if its LEAVE is just there.
fn at(word: u32, seen: UnderWay) -> Result<u32, Error> {
    if under_way(word) == Some(seen) { Ok(word) } else { Err(Error::TimedOut) }
}

/// The word when its LEAVE is over.
const fn over(word: u32) -> u32 {
    word & !(LEAVING | VERDICT | ROUND) | round(word).next().number() << ROUND_SHIFT
}

fn policies(word: u32) -> [Policy; 2] {
    [KEXEC_RESIDENT, CRASH_RESIDENT]
        .map(|bit| if word & (bit | LOCKED) != 0 { Policy::Resident } else { Policy::Leave })
}

/// The word with more CPUs outside. Busy instead of an overflow: no machine has as many.
fn more_outside(word: u32, cpus: u16) -> Result<u32, Error> {
    word.checked_add(u32::from(cpus) << OUTSIDE_SHIFT).ok_or(Error::Busy)
}
