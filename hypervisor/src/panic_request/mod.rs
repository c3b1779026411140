//! PANIC: how the host is made to panic on a CPU, wherever that CPU is.
//!
//! Owns the protocol between the CPU that asks, the *asker*, and the one that is meant, the *target*, as two sides of
//! one word for each CPU ([`Request`]): [`Asker`], a state machine whose steps another CPU can see one by one, and what
//! the target does while it is held ([`Request::due`], [`Request::settle`]). Who can take a panic is decided here, too
//! ([`can_take`]). The exception itself is [`crate::inject`]'s.
//!
//! # What the host gets
//!
//! An SError, with everything that the architecture does at one, and with no regard to PSTATE.A. Linux panics at an
//! SError in every context, whatever `panic_on_oops` is: from EL0 too, in an interrupt, and with D, A, I and F masked.
//! None of the other ways does:
//!
//! | | PSTATE.A clear | PSTATE.A set |
//! |---|---|---|
//! | a virtual SError (HCR_EL2.VSE) | panics | stays pending, and would hit the crash kernel of a host at EL1 |
//! | a synchronous external abort | at EL0 it ends the program; at EL1 an oops | an oops, which kills one task |
//! | the exception itself | panics | panics |
//!
//! Where PSTATE.A is set hardware takes an SError to EL1 only with FEAT_DoubleFault2 and SCTLR2_EL1.NMEA, which makes
//! it just what this is. A host that is between the instructions of an exception's entry or exit loses ELR_EL1 and
//! SPSR_EL1, as at any exception there. It was going to die.
//!
//! # How the target is reached
//!
//! As for a LEAVE ([`crate::leave`]), of which this is one without a verdict: the asker says in the control word that
//! the CPUs are to be stopped, asks, takes stage 2 away and wakes the target; every CPU that comes to EL2 is held. The
//! target finds that it is meant, and moves its host to the SError vector. The asker sees that, gives stage 2 back and
//! ends the round, and all that were held go on. So a target that spins with everything masked is reached, one that
//! sleeps in WFI, and one at EL0. What a LEAVE excludes is excluded: LEAVE, LOCK, RESET_VECTORS, REENTER, SOFT_RESTART
//! and another PANIC.
//!
//! # Who dies, or is late
//!
//! *The asker.* The CPUs that are held take it for dead after [`crate::leave::HELD_PATIENCE_MS`], give stage 2 back
//! and end the round. The target panics all the same, if it came: that is what it was asked for.
//!
//! *The asker was slow.* It finds that its round is over, and gives stage 2 back in case it took it away after that. If
//! another PANIC for the same target has come meanwhile it does not learn what became of its own, and says TimedOut.
//!
//! *The target* does not come within [`crate::leave::PATIENCE_MS`], since it hangs in EL2 or in firmware. The asker
//! withdraws the request, by an exchange from the very word that it has stored: either the target has taken it before,
//! or it never does. The answer is true in both cases.
//!
//! *A request that nobody withdrew*, since its asker is dead, is for one round. A CPU that is held in another one does
//! not find it due.
//!
//! *The target comes, and cannot take it.* It says so, and goes on as it was.

#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU32, Ordering};

use guest_abi::vendor::Error;

use crate::leave::{Cpus, Room};
use crate::lifecycle::{Round, State};
use crate::own_calls::control::Control;

/// SCTLR_EL1.M.
const SCTLR_M: u64 = 1;

/// Whether the host can take an SError on a CPU on which it is in virtual EL2 or not, with this SCTLR_EL1.
///
/// # Errors
///
/// `WrongState`: in virtual EL2 its vectors are those of an EL2 that it sets up; with the MMU off it is on its way into
/// a kernel or out of one, where VBAR_EL1 is whatever was there before.
pub const fn can_take(in_window: bool, sctlr_el1: u64) -> Result<(), Error> {
    if in_window || sctlr_el1 & SCTLR_M == 0 { Err(Error::WrongState) } else { Ok(()) }
}

/// What is wanted of one CPU. The asker writes the request, and takes it back; the target writes what came of it.
///
/// Bits \[7:0\] are one of the four below, bits \[31:8\] the round in which it was asked for.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Request(AtomicU32);

const STATE: u32 = 0xff;
const ROUND_SHIFT: u32 = 8;
/// Nothing, or withdrawn.
const NONE: u32 = 0;
/// The host is to panic here.
const ASKED: u32 = 1;
/// It does.
const DONE: u32 = 2;
/// It cannot.
const REFUSED: u32 = 3;

const fn word(state: u32, round: Round) -> u32 {
    state | round.number() << ROUND_SHIFT
}

impl Request {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(NONE))
    }

    /// By the asker. There is one in a round: false if its round is over, since the word may be another one's by now.
    /// That is looked at between a load and an exchange, so that the word is the same all the while.
    fn ask(&self, round: Round, control: &Control) -> bool {
        let before = self.0.load(Ordering::Acquire);
        control.is_under_way(round)
            && self.0.compare_exchange(before, word(ASKED, round), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether the CPU that this belongs to, which was held in `round`, is to have its host panic.
    #[must_use]
    pub fn due(&self, round: Round) -> bool {
        self.0.load(Ordering::Acquire) == word(ASKED, round)
    }

    /// By the target: its host panics now, or cannot. False: the request was withdrawn meanwhile, and nothing is to be
    /// done.
    #[must_use]
    pub fn settle(&self, round: Round, can: Result<(), Error>) -> bool {
        self.change(round, if can.is_ok() { DONE } else { REFUSED })
    }

    /// By the asker: true if the target never takes it.
    fn withdraw(&self, round: Round) -> bool {
        self.change(round, NONE)
    }

    fn change(&self, round: Round, to: u32) -> bool {
        self.0.compare_exchange(word(ASKED, round), word(to, round), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// What came of it, if that is known.
    fn answer(&self, round: Round) -> Option<Result<(), Error>> {
        let now = self.0.load(Ordering::Acquire);
        match now & STATE {
            ASKED => None,
            DONE if now == word(DONE, round) => Some(Ok(())),
            REFUSED if now == word(REFUSED, round) => Some(Err(Error::WrongState)),
            // Of another asker, since this one was taken for dead.
            _ => Some(Err(Error::TimedOut)),
        }
    }

    #[cfg(test)]
    pub(crate) const fn of_bits(bits: u32) -> Self {
        Self(AtomicU32::new(bits))
    }

    #[cfg(test)]
    pub(crate) fn bits(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The CPUs, as an asker sees them.
pub trait Targets: Cpus {
    /// One's request; nothing for a CPU that there is not.
    fn request(&self, cpu: usize) -> Option<&Request>;
    /// Whether its host is in virtual EL2.
    fn in_window(&self, cpu: usize) -> bool;
}

/// What an asker needs.
pub struct World<'a, C, R> {
    /// What excludes LEAVE and the others.
    pub control: &'a Control,
    /// The CPUs.
    pub cpus: &'a C,
    /// Stage 2, and time.
    pub room: &'a R,
}

type End = Result<(), Error>;

/// A PANIC for another CPU, between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asker {
    /// Whether there is a target.
    Begin,
    /// The control word says that CPUs are stopped.
    Announce,
    /// The target's word says that it is meant.
    Ask(Round),
    /// Stage 2 goes.
    Hide(Round),
    /// What has the target said, and where is it?
    Look(Round),
    /// The request is taken back.
    Withdraw(Round, Error),
    /// Stage 2 comes back.
    Show(Round, End),
    /// The control word says that it is over.
    End(Round, End),
    /// It is over.
    Over(End),
}

/// Where a target is.
enum Found {
    ToCome,
    Starting,
    Beyond,
}

fn look<C: Targets, R>(target: usize, world: &World<C, R>) -> Found {
    // In this order, as for a LEAVE: a CPU that arrives has a new state before it is no longer starting.
    let starting = world.cpus.is_starting(target);
    let Some(life) = world.cpus.life(target) else { return Found::Beyond };
    match life.state() {
        _ if starting => Found::Starting,
        State::Live | State::Leaving if world.cpus.in_window(target) => Found::Beyond,
        // One that is `Leaving` for the LEAVE before is about to hear that it stays, and to come again.
        State::Live | State::Leaving if world.cpus.is_on(target) => Found::ToCome,
        // Nobody has heard of it yet, and it is not off: its host is not entered.
        State::Outside if world.cpus.is_on(target) => Found::Starting,
        _ => Found::Beyond,
    }
}

impl Asker {
    /// The next step, for this target, which is not the CPU that asks.
    #[must_use]
    pub fn step<C: Targets, R: Room>(self, target: usize, world: &World<C, R>) -> Self {
        let Some(request) = world.cpus.request(target) else { return Self::Over(Err(Error::WrongState)) };
        match self {
            Self::Begin => match look(target, world) {
                Found::Starting => Self::Over(Err(Error::Busy)),
                Found::Beyond => Self::Over(Err(Error::WrongState)),
                Found::ToCome => Self::Announce,
            },
            Self::Announce => match world.control.begin_hold() {
                Ok(round) => Self::Ask(round),
                Err(error) => Self::Over(Err(error)),
            },
            Self::Ask(round) if request.ask(round, world.control) => Self::Hide(round),
            Self::Ask(round) => Self::Show(round, Err(Error::TimedOut)),
            Self::Hide(round) => {
                world.room.hide();
                Self::Look(round)
            }
            Self::Look(round) => match (request.answer(round), look(target, world)) {
                (Some(end), _) => Self::Show(round, end),
                // Over by another CPU's hand.
                _ if !world.control.is_under_way(round) => Self::Withdraw(round, Error::TimedOut),
                (None, Found::Beyond) => Self::Withdraw(round, Error::WrongState),
                (None, found) => {
                    // One that is being started comes by itself.
                    let may_sleep = matches!(found, Found::ToCome);
                    if world.room.wait(&|cpu| may_sleep && cpu == target) {
                        self
                    } else {
                        Self::Withdraw(round, Error::TimedOut)
                    }
                }
            },
            Self::Withdraw(round, error) if request.withdraw(round) => Self::Show(round, Err(error)),
            Self::Withdraw(round, error) => Self::Show(round, request.answer(round).unwrap_or(Err(error))),
            Self::Show(round, end) => {
                world.room.show();
                Self::End(round, end)
            }
            Self::End(round, end) => {
                // False where it was over before.
                let _ = world.control.end_leave(round, false);
                Self::Over(end)
            }
            Self::Over(_) => self,
        }
    }
}
