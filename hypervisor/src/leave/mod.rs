//! LEAVE: how all CPUs are brought to leave at once, wherever they are.
//!
//! Owns the protocol between the CPU that calls LEAVE, the *leaver*, and all others, as two state machines of which
//! each step does one thing that another CPU can see: [`Leaver`] and [`held`]. The EL2 binary steps them in loops; the
//! tests step them in every order (`tests.rs`). Stage 2, interrupts and time come through [`Room`].
//!
//! # How
//!
//! 1. The leaver announces itself: its own state is `Leaving`, then the control word says that a LEAVE is under way
//!    ([`Control::begin_leave`]), which excludes another LEAVE, LOCK, RESET_VECTORS and REENTER. Each LEAVE has its
//!    number there, the *round*.
//! 2. It takes stage 2 away from everybody and wakes those that sleep. A CPU that runs the host faults at its next
//!    instruction fetch, also with all interrupts masked. A CPU that comes to EL2 for anything, the fault included,
//!    finds the control word and is *held*: its state becomes `Leaving` in this round, and its PC is at the instruction
//!    that brought it here, which it will execute again.
//! 3. When every CPU that is on is held in this round, or was left before, the leaver gives stage 2 back and then its
//!    verdict: leave. Each CPU that is held leaves by itself. If time runs out or a CPU objects, the leaver ends the
//!    round without a verdict, and all stay.
//! 4. When none is held any longer, the leaver ends the round and goes the same way.
//!
//! A LEAVE by the doorbell has a verdict of its own, so that all that are held know that they keep the way back open.
//!
//! # A stop
//!
//! The same protocol brings all CPUs to a stand when the host has crashed, so that none of them runs on in the memory
//! of a dead kernel: *a stop*. What is otherwise in it:
//!
//! - The control word says from the start that it is a stop, and so each CPU that is held knows: it keeps its host's
//!   registers first. Virtual EL2 is no reason to object, nor is a lock, since Exeunt stays.
//! - The leader, here the CPU that dies, does not give up when a CPU does not come in time. Its verdict is for those
//!   that have come, and the others are named.
//! - The verdict is `Off`: who is held goes off, by the PSCI proxy. Or there is none, and all go on: then the stop was
//!   for their registers alone.
//! - The leader is `Live` again in the end, whatever has come of it, and goes on with what it came for.
//!
//! # Who dies on the way
//!
//! Nobody waits without limit, so that no CPU that breaks at EL2 takes the others' crash dump with it.
//!
//! *The leaver*, at any step. A CPU that is held waits [`HELD_PATIENCE_MS`] for each round. Then it takes the leaver
//! for dead: it gives stage 2 back and ends the round in its place ([`give_up`]), and all stay. One of those that are
//! held can, since that is a step from the very word that it has seen: a verdict that comes first is followed.
//!
//! *The leaver, after its verdict.* All that are held leave. A CPU in virtual EL2, which does not, waits as long as one
//! that is held, and ends the round.
//!
//! *A CPU that is held*, before it follows the verdict. The leaver waits [`PATIENCE_MS`] for it and ends the round.
//!
//! *The leaver was not dead but slow.* Each of its later steps finds that the round is another one. It gives stage 2
//! back, in case it was it that took it away last, and stays. If its verdict was out it goes outside like a CPU that
//! sets out by itself, or stays if it may not.
//!
//! *Stage 2 is away and no LEAVE is under way*, since the leaver took it away after it was taken for dead: whoever
//! faults gives it back (`exits`). If another LEAVE has just begun, that one may lose it and time out.
//!
//! # Meetings
//!
//! *Another LEAVE, LOCK, RESET_VECTORS.* The control word decides who is first. Who comes to EL2 with such a call
//! afterwards is held before the call is looked at, and makes it again when the LEAVE is over: then the stub answers,
//! or Exeunt if it stayed. So is the second of two that announce a LEAVE at the same time.
//!
//! *A CPU that sets out alone* before the LEAVE is announced is `Leaving` in no round: the leaver waits until it has
//! gone, and does not count it.
//!
//! *CPU_ON.* Whoever makes it before the LEAVE is announced is in EL2 with it, and comes out to a stage 2 that is gone:
//! held. Its target is being started, which the leaver waits for: it arrives, enters the host, faults, and is held.
//! Since the leaver looks at one CPU after the other, a CPU_ON that gets to firmware meanwhile has it begin to look
//! anew. A CPU_ON that comes later is made again by the stub's host, to firmware.
//!
//! *A CPU that is on its way through virtual EL2* cannot be left: the host there believes that it is at EL2, and has
//! not yet set it up. It waits at EL2 like one that is held, but objects, and the LEAVE fails with Busy.
//!
//! *CPU_OFF.* The caller is `Off` for the proxy before firmware is asked, and never comes back to the host: the leaver
//! need not wait for it. If firmware refuses, it comes back to a stage 2 that is gone, or to one that is back again; in
//! the first case it is held, and follows the verdict while there is one. In the second it stays under Exeunt alone,
//! and the count that LEAVE gives does not include it.
//!
//! *Crash on another CPU.* Its SOFT_RESTART is a call like the others: it is made again after the LEAVE, at the latest
//! after [`HELD_PATIENCE_MS`].
//!
//! *A CPU that was left before* does not concern the LEAVE. If it calls REENTER meanwhile, it gets Busy and stays
//! outside.

mod cpu_set;
#[cfg(test)]
mod tests;

use guest_abi::vendor::Error;

pub use cpu_set::{AtomicCpuSet, CpuSet};

use crate::lifecycle::{LifeCycle, Round, State};
use crate::own_calls::control::{Control, UnderWay, Verdict};

/// How long a LEAVE waits for all CPUs to be caught, and then for them to go, in milliseconds. CPUs that spin with
/// interrupts masked were seen to arrive within 100 ms under emulation; on hardware it is the time of a broadcast TLB
/// invalidation.
pub const PATIENCE_MS: u64 = 2000;

/// How long a CPU that is held waits for one LEAVE, in milliseconds: the leaver's patience, and as much again and more
/// for one that is slow.
pub const HELD_PATIENCE_MS: u64 = 5000;

const _: () = assert!(HELD_PATIENCE_MS > 2 * PATIENCE_MS);

/// The CPUs, as the leaver sees them.
pub trait Cpus {
    /// How many there are.
    fn count(&self) -> usize;
    /// One's life cycle; nothing for a CPU that has none, which is off for good.
    fn life(&self, cpu: usize) -> Option<&LifeCycle>;
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
    /// Takes stage 2 away from every CPU that runs the host: complete, on all of them, when this returns. Patience
    /// begins.
    fn hide(&self);
    /// Gives it back; nothing happens if it is there. Patience begins anew.
    fn show(&self);
    /// Waits a moment. Of the CPUs that `awaited` names, those that sleep in the host are woken first; no other is
    /// disturbed, since one that is off would find the interrupt pending when it comes up. False: patience is over.
    fn wait(&self, awaited: &dyn Fn(usize) -> bool) -> bool;
}

/// What all of this needs to know.
pub struct World<'a, C, R> {
    /// Who may leave, and the LEAVE that is under way.
    pub control: &'a Control,
    /// The CPUs.
    pub cpus: &'a C,
    /// Stage 2, and time.
    pub room: &'a R,
    /// How Exeunt leaves if it does: `Leave` or `LeaveOpen`. Or how a stop ends: `Off`, or `Stop` if all go on. Of
    /// interest to a leaver.
    pub verdict: Verdict,
}

impl<C, R> World<'_, C, R> {
    fn begin(&self) -> Result<Round, Error> {
        if self.verdict.stops() { self.control.begin_stop() } else { self.control.begin_leave() }
    }
}

/// How a LEAVE ends: how many CPUs Exeunt leaves, or why it stays.
type End = Result<u16, Error>;

/// A LEAVE or a stop, between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaver {
    /// Its own state becomes `Leaving`.
    Begin,
    /// The control word says so.
    Announce,
    /// Stage 2 goes.
    Hide(Round),
    /// A look at all CPUs begins.
    Catch(Round),
    /// One CPU is looked at. `held` are counted so far, the leaver included.
    Look {
        /// In this LEAVE.
        round: Round,
        /// Which.
        cpu: usize,
        /// How many are held.
        held: u16,
    },
    /// Stage 2 comes back.
    Show(Round, End),
    /// The verdict.
    Judge(Round, u16),
    /// All others have gone by it.
    Release(Round, u16),
    /// The control word says that it is over.
    End(Round, End),
    /// Its own state becomes `Stub` or `Gone`.
    Depart(u16),
    /// Stage 2 comes back, because this LEAVE was ended by another CPU and that may have been too early for it.
    Deposed,
    /// Its own state becomes `Live` again: why, or after a stop how many CPUs stood still.
    Stay(End),
    /// Another LEAVE was announced first: this CPU is held, as if it had come with any other call.
    Overtaken,
    /// It is over. With an error and after a stop the CPU is `Live` again, otherwise it has to go.
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
            Self::Announce => match world.begin() {
                Ok(round) => Self::Hide(round),
                Err(Error::Busy) => Self::Overtaken,
                Err(error) => Self::Stay(Err(error)),
            },
            Self::Hide(round) => {
                world.room.hide();
                Self::Catch(round)
            }
            Self::Catch(round) if world.control.is_under_way(round) => {
                world.cpus.forget_starts();
                Self::Look { round, cpu: 0, held: 1 }
            }
            Self::Catch(_) => Self::Deposed,
            Self::Look { round, cpu, held } if cpu < world.cpus.count() => match look(cpu, this, round, world) {
                Some(more) => Self::Look { round, cpu: cpu + 1, held: held + more },
                None => wait(this, round, world),
            },
            Self::Look { round, held, .. } => match world.control.under_way() {
                Some(UnderWay { verdict: Verdict::Objection, .. }) => Self::Show(round, Err(Error::Busy)),
                // A CPU that was off when it was looked at may be on its way, started by one that was looked at later.
                _ if world.cpus.has_new_starts() => wait(this, round, world),
                _ => Self::Show(round, Ok(held)),
            },
            Self::Show(round, end) => {
                world.room.show();
                match end {
                    Ok(held) if world.verdict != Verdict::Stop => Self::Judge(round, held),
                    _ => Self::End(round, end),
                }
            }
            Self::Judge(round, held) => match world.control.judge(round, world.verdict) {
                Ok(()) => Self::Release(round, held),
                Err(error) => Self::End(round, Err(error)),
            },
            Self::Release(round, held) => {
                let held_still = |life: &LifeCycle| life.held_for() == Some(round);
                if others(this, world.cpus).filter_map(|cpu| world.cpus.life(cpu)).any(held_still)
                    && world.room.wait(&|_| false)
                {
                    self
                } else {
                    Self::End(round, Ok(held))
                }
            }
            Self::End(round, end) if world.verdict.stops() => {
                if world.control.end_leave(round, false) {
                    Self::Stay(end)
                } else {
                    Self::Deposed
                }
            }
            Self::End(round, end) => match (world.control.end_leave(round, end.is_ok()), end) {
                (true, Ok(held)) => {
                    life.set_out();
                    Self::Depart(held)
                }
                // The others have gone by the verdict.
                (false, Ok(held)) if world.control.set_out().is_ok() => {
                    life.set_out();
                    Self::Depart(held)
                }
                (false, Ok(_)) => Self::Stay(Err(Error::TimedOut)),
                (true, Err(_)) => Self::Stay(end),
                (false, Err(_)) => Self::Deposed,
            },
            Self::Depart(held) => {
                let _ = life.leave(to_others);
                Self::Over(Ok(held))
            }
            Self::Deposed => {
                world.room.show();
                Self::Stay(Err(Error::TimedOut))
            }
            Self::Stay(end) => {
                // It is `Leaving`, and nobody but this CPU changes that.
                let stays = life.stay();
                debug_assert!(stays.is_ok());
                Self::Over(end)
            }
            Self::Over(_) | Self::Overtaken => self,
        }
    }
}

fn others<C: Cpus>(this: usize, cpus: &C) -> impl Iterator<Item = usize> {
    (0..cpus.count()).filter(move |&cpu| cpu != this)
}

/// Looks at one CPU: 1 if it is held, 0 if the LEAVE does not concern it; nothing if it is to be waited for.
fn look<C: Cpus, R: Room>(cpu: usize, this: usize, round: Round, world: &World<C, R>) -> Option<u16> {
    if cpu == this {
        return Some(0);
    }
    // In this order: a CPU that arrives has a new state before it is no longer starting.
    let starting = world.cpus.is_starting(cpu);
    let Some(life) = world.cpus.life(cpu) else { return Some(0) };
    if life.held_for() == Some(round) {
        return Some(1);
    }
    match life.state() {
        // On its way to Exeunt, also if that had left it before.
        _ if starting => None,
        State::Live | State::Outside if world.cpus.is_on(cpu) => None,
        // Not held in this round: it leaves by itself, or learns that an earlier LEAVE is over.
        State::Leaving => None,
        // Off, or left before.
        State::Live | State::Outside | State::Stub | State::Gone => Some(0),
    }
}

/// Begins the look anew, or gives up.
fn wait<C: Cpus, R: Room>(this: usize, round: Round, world: &World<C, R>) -> Leaver {
    // One that is being started comes by itself, and may not be there yet.
    let awaited = |cpu| look(cpu, this, round, world).is_none() && !world.cpus.is_starting(cpu);
    match world.control.under_way() {
        Some(UnderWay { verdict: Verdict::Objection, .. }) => Leaver::Show(round, Err(Error::Busy)),
        _ if world.room.wait(&awaited) => Leaver::Catch(round),
        // Those that have come.
        _ if world.verdict.stops() => {
            let held = |&cpu: &usize| world.cpus.life(cpu).is_some_and(|life| life.held_for() == Some(round));
            Leaver::Show(round, Ok(1 + others(this, world.cpus).filter(held).count() as u16))
        }
        _ => Leaver::Show(round, Err(Error::TimedOut)),
    }
}

/// What becomes of a CPU that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// There is more to do for it first.
    Again,
    /// Not known yet, in this LEAVE.
    Wait(UnderWay),
    /// Exeunt leaves it; it is still `Leaving`.
    Leave {
        /// A way back is kept open.
        open: bool,
    },
    /// It goes off; it is `Live` again.
    Off,
    /// It is `Live` again and goes on.
    Stay,
}

/// One step of a CPU that has come to EL2 while a LEAVE or a stop is under way; the first one, too. It is `Live` or
/// `Leaving`; with any other state, which nothing gives a CPU that has a host, it waits and goes on. In a stop
/// `keep` keeps its host's registers, before the leader can see that it is held.
///
/// One that is in virtual EL2 cannot be left (`can_be_left` is false). It objects to a LEAVE and waits, and is never
/// `Leaving` then: a leaver that does not hear of it in time does not count it either.
pub fn held(life: &LifeCycle, control: &Control, can_be_left: bool, keep: impl FnOnce()) -> Fate {
    let Some(under_way) = control.under_way() else {
        // Refused by one that is `Live`.
        let _ = life.stay();
        return Fate::Stay;
    };
    let UnderWay { round, verdict } = under_way;
    match (verdict, can_be_left) {
        (Verdict::None, false) => control.object(round),
        _ if (can_be_left || verdict.stops()) && life.held_for() != Some(round) => {
            if verdict.stops() {
                keep();
            }
            if life.be_held(round).is_err() {
                return Fate::Wait(under_way);
            }
        }
        (Verdict::Leave | Verdict::LeaveOpen, true) if control.go_along(under_way) => {
            life.set_out();
            return Fate::Leave { open: verdict == Verdict::LeaveOpen };
        }
        (Verdict::Off, _) if life.stay().is_ok() => return Fate::Off,
        _ => return Fate::Wait(under_way),
    }
    Fate::Again
}

/// A CPU that is held has lost its patience: it ends the LEAVE as it has seen it last, in the leaver's place. Two
/// steps; `room` gives stage 2 back in the first. False: that LEAVE is no longer there.
pub fn give_up(control: &Control, room: &impl Room, seen: UnderWay) -> bool {
    room.show();
    control.give_up(seen)
}

/// How long a CPU has been held.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience(Option<(Round, u64)>);

impl Patience {
    /// Whether it is over at `now`, with `ticks` for each round.
    pub fn is_over(&mut self, round: Round, now: u64, ticks: u64) -> bool {
        match self.0 {
            Some((known, since)) if known == round => now.wrapping_sub(since) >= ticks,
            _ => {
                self.0 = Some((round, now));
                false
            }
        }
    }
}
