//! LEAVE: how all CPUs are brought to leave at once, wherever they are.
//!
//! Owns the protocol between the CPU that calls LEAVE, the *leaver*, and all others, as two state machines of which
//! each step does one thing that another CPU can see: [`Leaver`] and [`held`]. The EL2 binary steps them in loops; the
//! tests step them in every order (`tests.rs`). Stage 2, interrupts and time come through [`Room`].
//!
//! # How
//!
//! 1. The leaver announces itself: its own state is `Leaving`, then the control word says that a LEAVE is under way
//!    ([`Control::begin_leave`]), which excludes another LEAVE, LOCK, RESET_VECTORS and REENTER.
//! 2. It takes stage 2 away from everybody and wakes those that sleep. A CPU that runs the host faults at its next
//!    instruction fetch, also with all interrupts masked. A CPU that comes to EL2 for anything, the fault included,
//!    finds the control word and is *held*: its state becomes `Leaving`, and its PC is at the instruction that brought
//!    it here, which it will execute again.
//! 3. When every CPU that is on is held, or was left before, the leaver gives stage 2 back and then its verdict: leave.
//!    Each CPU that is held leaves by itself. If time runs out or a CPU objects, the verdict is: stay.
//! 4. When none is held any longer, the leaver takes the verdict back, ends the LEAVE in the control word, and goes the
//!    same way.
//!
//! # Meetings
//!
//! *Another LEAVE, LOCK, RESET_VECTORS.* The control word decides who is first. Who comes to EL2 with such a call
//! afterwards is held before the call is looked at, and makes it again when the LEAVE is over: then the stub answers,
//! or Exeunt if it stayed. So is the second of two that announce a LEAVE at the same time.
//!
//! *CPU_ON.* Whoever makes it before the LEAVE is announced is in EL2 with it, and comes out to a stage 2 that is gone:
//! held. Its target is being started, which the leaver waits for: it arrives, enters the host, faults, and is held.
//! Since the leaver looks at one CPU after the other, a CPU_ON that gets to firmware meanwhile has it begin to look
//! anew. A CPU_ON that comes later is made again by the stub's host, to firmware.
//!
//! *A CPU that is on its way through virtual EL2* cannot be left: the host there believes that it is at EL2, and has
//! not yet set it up. It objects, and the LEAVE fails with Busy.
//!
//! *CPU_OFF.* The caller is `Off` for the proxy before firmware is asked, and never comes back to the host: the leaver
//! need not wait for it. If firmware refuses, it comes back to a stage 2 that is gone, or to one that is back again; in
//! the first case it is held, and follows the verdict while there is one. In the second it stays under Exeunt alone,
//! and the count that LEAVE gives does not include it.
//!
//! *Crash on another CPU.* Its SOFT_RESTART is a call like the others: it is made again after the LEAVE, at the latest
//! after [`PATIENCE_MS`].
//!
//! *A CPU that was left before* does not concern the LEAVE. If it calls REENTER meanwhile, it gets Busy and stays
//! outside.

#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU8, Ordering};

use guest_abi::vendor::Error;

use crate::lifecycle::{LifeCycle, State};
use crate::own_calls::control::Control;

/// How long a LEAVE waits for all CPUs to be caught, in milliseconds. CPUs that spin with interrupts masked were seen
/// to arrive within 100 ms under emulation; on hardware it is the time of a broadcast TLB invalidation.
pub const PATIENCE_MS: u64 = 2000;

/// What the leaver has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Verdict {
    None = 0,
    Leave = 1,
    Stay = 2,
    /// A held CPU's: it cannot be left.
    Objection = 3,
}

/// The leaver's word to those that are held, and theirs to it. Shared by all CPUs.
#[derive(Debug)]
pub struct WorldStop(AtomicU8);

impl WorldStop {
    /// No LEAVE.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU8::new(Verdict::None as u8))
    }

    fn verdict(&self) -> Verdict {
        match self.0.load(Ordering::Acquire) {
            1 => Verdict::Leave,
            2 => Verdict::Stay,
            3 => Verdict::Objection,
            _ => Verdict::None,
        }
    }

    /// Release: what the leaver did before is done for whoever sees the verdict.
    fn set(&self, verdict: Verdict) {
        self.0.store(verdict as u8, Ordering::Release);
    }

    /// Gives the verdict, unless a CPU has objected in the last moment.
    fn judge(&self, end: End) -> End {
        let leave = end.is_ok()
            && self
                .0
                .compare_exchange(Verdict::None as u8, Verdict::Leave as u8, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
        if leave {
            return end;
        }
        self.set(Verdict::Stay);
        end.and(Err(Error::Busy))
    }

    fn object(&self) {
        // Only while there is no verdict: one that was given stands.
        let _ =
            self.0.compare_exchange(Verdict::None as u8, Verdict::Objection as u8, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl Default for WorldStop {
    fn default() -> Self {
        Self::new()
    }
}

/// The CPUs, as the leaver sees them.
pub trait Cpus {
    /// How many there are.
    fn count(&self) -> usize;
    /// One's life cycle.
    fn life(&self, cpu: usize) -> State;
    /// Whether one is on, by the PSCI proxy.
    fn is_on(&self, cpu: usize) -> bool;
    /// Whether a CPU_ON for one is in flight.
    fn is_starting(&self, cpu: usize) -> bool;
    /// Begins to look for CPU_ON calls.
    fn forget_starts(&self);
    /// Whether there was one since.
    fn has_new_starts(&self) -> bool;
}

/// What the leaver does to the machine.
pub trait Room {
    /// Takes stage 2 away from every CPU that runs the host: complete, on all of them, when this returns.
    fn hide(&self);
    /// Gives it back.
    fn show(&self);
    /// Wakes CPUs that sleep in the host, and waits a moment. False: time is up.
    fn wait(&self) -> bool;
}

/// What all of this needs to know.
pub struct World<'a, C, R> {
    /// Who may leave.
    pub control: &'a Control,
    /// The verdict.
    pub stop: &'a WorldStop,
    /// The CPUs.
    pub cpus: &'a C,
    /// Stage 2, and time.
    pub room: &'a R,
}

/// How a LEAVE ends: how many CPUs Exeunt leaves, or why it stays.
type End = Result<u16, Error>;

/// A LEAVE, between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaver {
    /// Its own state becomes `Leaving`.
    Begin,
    /// The control word says so.
    Announce,
    /// Stage 2 goes.
    Hide,
    /// A look at all CPUs begins.
    Catch,
    /// One CPU is looked at. `held` are counted so far, the leaver included.
    Look {
        /// Which.
        cpu: usize,
        /// How many are held.
        held: u16,
    },
    /// Stage 2 comes back.
    Show(End),
    /// The verdict.
    Judge(End),
    /// All others have gone by it.
    Release(End),
    /// The verdict is taken back.
    Clear(End),
    /// Its own state becomes `Stub` or `Gone`.
    Depart(End),
    /// The control word says that it is over.
    End(End),
    /// Another LEAVE was announced first, and may have seen this CPU's state: it is held, as if it had come with any
    /// other call.
    Overtaken,
    /// It is over. With an error the CPU is `Live` again, otherwise it has to go.
    Over(End),
}

impl Leaver {
    /// The next step of CPU number `this`, whose life cycle is `life`, and whose EL2 will have vectors of others if
    /// `to_others`.
    #[must_use]
    pub fn step<C: Cpus, R: Room>(self, this: usize, life: &LifeCycle, to_others: bool, world: &World<C, R>) -> Self {
        match self {
            Self::Begin => match life.begin_leave() {
                Ok(()) => Self::Announce,
                Err(_) => Self::Over(Err(Error::WrongState)),
            },
            Self::Announce => match world.control.begin_leave() {
                Ok(()) => Self::Hide,
                Err(Error::Busy) => Self::Overtaken,
                Err(error) => stay(life, error),
            },
            Self::Hide => {
                world.room.hide();
                Self::Catch
            }
            Self::Catch => {
                world.cpus.forget_starts();
                Self::Look { cpu: 0, held: 1 }
            }
            Self::Look { cpu, held } if cpu < world.cpus.count() => match look(cpu, this, world) {
                Some(more) => Self::Look { cpu: cpu + 1, held: held + more },
                None => wait(world),
            },
            Self::Look { held, .. } => match world.stop.verdict() {
                Verdict::Objection => Self::Show(Err(Error::Busy)),
                // A CPU that was off when it was looked at may be on its way, started by one that was looked at later.
                _ if world.cpus.has_new_starts() => wait(world),
                _ => Self::Show(Ok(held)),
            },
            Self::Show(end) => {
                world.room.show();
                Self::Judge(end)
            }
            Self::Judge(end) => Self::Release(world.stop.judge(end)),
            Self::Release(end) => {
                if others(this, world.cpus).any(|cpu| world.cpus.life(cpu) == State::Leaving) {
                    self
                } else {
                    Self::Clear(end)
                }
            }
            Self::Clear(end) => {
                world.stop.set(Verdict::None);
                if end.is_ok() { Self::Depart(end) } else { Self::End(end) }
            }
            Self::Depart(end) => {
                // Before the LEAVE ends, so that the next one does not count this CPU as held.
                let _ = life.leave(to_others);
                Self::End(end)
            }
            Self::End(end) => {
                world.control.end_leave(end.is_ok());
                match end {
                    Ok(_) => Self::Over(end),
                    Err(error) => stay(life, error),
                }
            }
            Self::Over(_) | Self::Overtaken => self,
        }
    }
}

/// The leaver's own way back.
fn stay(life: &LifeCycle, error: Error) -> Leaver {
    // It is `Leaving`, and nobody but this CPU changes that.
    debug_assert!(life.state() == State::Leaving);
    let _ = life.stay();
    Leaver::Over(Err(error))
}

fn others<C: Cpus>(this: usize, cpus: &C) -> impl Iterator<Item = usize> {
    (0..cpus.count()).filter(move |&cpu| cpu != this)
}

/// Looks at one CPU: 1 if it is held, 0 if the LEAVE does not concern it; nothing if it is to be waited for.
fn look<C: Cpus, R: Room>(cpu: usize, this: usize, world: &World<C, R>) -> Option<u16> {
    if cpu == this {
        return Some(0);
    }
    // In this order: a CPU that arrives has a new state before it is no longer starting.
    let starting = world.cpus.is_starting(cpu);
    match world.cpus.life(cpu) {
        State::Leaving => Some(1),
        // On its way to Exeunt, also if that had left it before.
        _ if starting => None,
        State::Live | State::Outside if world.cpus.is_on(cpu) => None,
        // Off, or left before.
        State::Live | State::Outside | State::Stub | State::Gone => Some(0),
    }
}

/// Begins the look anew, or gives up.
fn wait<C: Cpus, R: Room>(world: &World<C, R>) -> Leaver {
    match world.stop.verdict() {
        Verdict::Objection => Leaver::Show(Err(Error::Busy)),
        _ if world.room.wait() => Leaver::Catch,
        _ => Leaver::Show(Err(Error::TimedOut)),
    }
}

/// What becomes of a CPU that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not decided.
    Wait,
    /// Exeunt leaves it; it is still `Leaving`.
    Leave,
    /// It is `Live` again and goes on.
    Stay,
}

/// A CPU has come to EL2 and finds that a LEAVE is under way: the first step. `can_be_left` is false in virtual EL2.
///
/// False: the CPU is not `Live`, and this is nothing that can be.
pub fn hold(life: &LifeCycle, stop: &WorldStop, can_be_left: bool) -> bool {
    let held = life.begin_leave().is_ok();
    if held && !can_be_left {
        stop.object();
    }
    held
}

/// All further steps. A CPU that cannot be left stays, whatever the verdict: it may have come too late to object.
pub fn held(life: &LifeCycle, control: &Control, stop: &WorldStop, can_be_left: bool) -> Fate {
    // In this order: a LEAVE that is over by now had its verdict before, and whoever was held then has followed it. So
    // without a verdict and without a LEAVE this CPU has come too late to be counted.
    let under_way = control.is_leaving();
    match stop.verdict() {
        Verdict::Leave if can_be_left => {
            control.go_along();
            Fate::Leave
        }
        Verdict::None | Verdict::Objection if under_way => Fate::Wait,
        _ => {
            let _ = life.stay();
            Fate::Stay
        }
    }
}
