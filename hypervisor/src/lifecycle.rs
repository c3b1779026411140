//! Whose EL2 is, on each CPU, and at which level the host is entered.
//!
//! Owns these two decisions and the state that they rest on, so that there is one place for each. It touches no
//! register.
//!
//! # The states, and who answers a call in each
//!
//! | state | vectors at VBAR_EL2 | the host can call | who answers |
//! |---|---|---|---|
//! | `Outside` | Exeunt's, whose EL1 half would run; at first none | no: EL1 has not been entered | nobody has to |
//! | `Live` | Exeunt's | yes | Exeunt |
//! | `Leaving` | Exeunt's | no: the host is held inside an exception that EL2 handles | it is held until the decision |
//! | `Stub` | the resident stub's | yes | the resident stub |
//! | `Gone` | the host's own, or the next payload's | yes | they |
//!
//! There is no window between two of them in which a call could find vectors that do not answer. A call needs EL1 to
//! run on this CPU, and EL1 runs only after an ERET; each transition happens in EL2 between an exception and an ERET,
//! and each ERET has one of the three answering tables in VBAR_EL2:
//!
//! - *`Outside` to `Live`.* `boot` installs Exeunt's vectors before anything else; the host is entered after all is set
//!   up.
//! - *`Live` to `Leaving` and back.* Nothing changes in the registers.
//! - *`Leaving` to `Stub` or `Gone`.* The new VBAR_EL2 is written first, then stage 2, traps and MMU go, then the ERET.
//!   The resident stub needs none of what goes, and neither do Linux's vectors, which are made for an EL2 without MMU.
//! - *`Stub` or `Gone` to `Outside`.* REENTER's table is the resident stub. SET_VECTORS to it is one MSR VBAR_EL2 in
//!   whatever stub is there, and REENTER begins by installing Exeunt's vectors.
//!
//! KVM has such a window, between its init vectors and its real ones, and there the calls of a dying kernel meet a
//! table that knows only some of them.
//!
//! An exception from EL2 itself is no call. In Exeunt's code it is a fault of Exeunt's and ends in its panic; from the
//! moment VBAR_EL2 is the stub's, it leaves a breadcrumb there (`boot/src/stub.rs`).

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::features::Gic;
use crate::inject::pstate;

/// What a CPU's EL2 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Not set up: the CPU was never started, or it is between power-up and the host's entry. A CPU that is off stays
    /// in the state in which it went ([`crate::psci`] knows that it is off) and is here again when it arrives.
    Outside = 0,
    /// Exeunt's: its vectors, its translation and the traps for the host are in place.
    Live = 1,
    /// Still Exeunt's, but the host does not run until it is decided whether Exeunt leaves.
    Leaving = 2,
    /// Exeunt has left, and EL2 has the resident stub's vectors.
    Stub = 3,
    /// Exeunt has left, and EL2 has vectors of somebody else's.
    Gone = 4,
}

impl State {
    const ALL: [Self; 5] = [Self::Outside, Self::Live, Self::Leaving, Self::Stub, Self::Gone];

    /// Whether Exeunt has left the CPU: nothing that happens there comes to its notice.
    #[must_use]
    pub const fn is_left(self) -> bool {
        matches!(self, Self::Stub | Self::Gone)
    }
}

/// Which LEAVE: a number that each has, until it comes again after [`Self::COUNT`] others. Nobody is so late that this
/// matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Round(u16);

impl Round {
    /// Bits of the number.
    pub const BITS: u32 = 9;
    /// How many there are.
    pub const COUNT: u32 = 1 << Self::BITS;

    /// The round with this number, of which only the low bits count.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self((number & (Self::COUNT - 1)) as u16)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// The one that comes next.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::new(self.number() + 1)
    }
}

/// A transition that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongState(pub State);

/// The life cycle of EL2 on one CPU. Only that CPU changes it; others may read it.
///
/// One word: the state in bits \[7:0\], and in bits \[31:8\] for which LEAVE the host is held, as [`Round`] plus 1; 0
/// for none, and another number once the control word counts the CPU as outside. Both are read at once, so that a
/// LEAVE never takes a CPU that an earlier one has held for its own.
#[derive(Debug)]
#[repr(transparent)]
pub struct LifeCycle(AtomicU32);

const STATE: u32 = 0xff;
const ROUND_SHIFT: u32 = 8;
/// In the place of a round: the CPU is counted as outside.
const OUT: u32 = Round::COUNT + 1;

/// What a CPU was when Exeunt died on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Died {
    /// Exeunt had left it.
    pub was_left: bool,
    /// The control word does not count it as outside yet.
    pub is_new: bool,
    /// It was about to leave and has not been held: it may lead a LEAVE.
    pub may_lead: bool,
}

impl LifeCycle {
    /// A CPU that was never started.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(State::Outside as u32))
    }

    /// A CPU in the middle of its life.
    #[cfg(test)]
    pub(crate) const fn in_state(state: State) -> Self {
        Self(AtomicU32::new(state as u32))
    }

    /// A CPU that is held.
    #[cfg(test)]
    pub(crate) const fn held_in(round: Round) -> Self {
        Self(AtomicU32::new(State::Leaving as u32 | (round.number() + 1) << ROUND_SHIFT))
    }

    /// Whether it is on its way and counted.
    #[cfg(test)]
    pub(crate) fn is_out(&self) -> bool {
        self.0.load(Ordering::Relaxed) == State::Leaving as u32 | OUT << ROUND_SHIFT
    }

    /// The state. Acquire: who sees one sees what its CPU did before it took it.
    #[must_use]
    pub fn state(&self) -> State {
        // Only numbers of states are ever stored.
        State::ALL.get((self.0.load(Ordering::Acquire) & STATE) as usize).copied().unwrap_or(State::Outside)
    }

    /// For which LEAVE the host is held, if it is: nothing for a CPU that is `Leaving` by itself. Acquire, as above.
    #[must_use]
    pub fn held_for(&self) -> Option<Round> {
        let word = self.0.load(Ordering::Acquire);
        let round = word >> ROUND_SHIFT;
        (word & STATE == State::Leaving as u32 && round != 0 && round != OUT).then(|| Round::new(round - 1))
    }

    /// EL2 belongs to nobody yet: the CPU has come up, or has come back by REENTER, or the payload that it ran is no
    /// more. Whatever EL2 was before, it is set up anew.
    pub fn begin(&self) {
        self.0.store(State::Outside as u32, Ordering::Release);
    }

    /// EL2 is set up and the host may be entered: `Outside` to `Live`.
    ///
    /// # Errors
    ///
    /// It was something else; nothing has changed.
    pub fn go_live(&self) -> Result<(), WrongState> {
        self.change(State::Outside, State::Live)
    }

    /// Exeunt is about to leave, for this CPU's own reasons: `Live` to `Leaving`.
    ///
    /// # Errors
    ///
    /// It was something else; nothing has changed.
    pub fn begin_leave(&self) -> Result<(), WrongState> {
        self.change(State::Live, State::Leaving)
    }

    /// It is `Leaving`, and from now on the control word counts it as outside.
    pub fn set_out(&self) {
        self.0.store(State::Leaving as u32 | OUT << ROUND_SHIFT, Ordering::Release);
    }

    /// The host is held for a LEAVE: `Live` to `Leaving`, or from one LEAVE to another.
    ///
    /// # Errors
    ///
    /// It was something else; nothing has changed.
    pub fn be_held(&self, round: Round) -> Result<(), WrongState> {
        let state = self.state();
        if !matches!(state, State::Live | State::Leaving) {
            return Err(WrongState(state));
        }
        self.0.store(State::Leaving as u32 | (round.number() + 1) << ROUND_SHIFT, Ordering::Release);
        Ok(())
    }

    /// Exeunt stays after all: `Leaving` to `Live`.
    ///
    /// # Errors
    ///
    /// It was something else; nothing has changed.
    pub fn stay(&self) -> Result<(), WrongState> {
        self.change(State::Leaving, State::Live)
    }

    /// Exeunt leaves: `Leaving` to `Gone` if EL2 gets vectors that are not Exeunt's own, else to `Stub`.
    ///
    /// # Errors
    ///
    /// It was something else; nothing has changed.
    pub fn leave(&self, to_others: bool) -> Result<(), WrongState> {
        self.change(State::Leaving, if to_others { State::Gone } else { State::Stub })
    }

    /// Exeunt has died on this CPU, whatever state it was in, and what is left of it goes: `Gone` or `Stub`, as for
    /// [`Self::leave`]. Says what it was.
    ///
    /// A CPU that dies between being counted and saying so counts twice. That costs LOCK, which promises nothing then;
    /// the other way round LOCK would promise too much.
    pub fn die(&self, to_others: bool) -> Died {
        let (state, round) = (self.state(), self.0.load(Ordering::Relaxed) >> ROUND_SHIFT);
        self.0.store(if to_others { State::Gone } else { State::Stub } as u32, Ordering::Release);
        Died {
            was_left: state.is_left(),
            is_new: !state.is_left() && round != OUT,
            may_lead: state == State::Leaving && round == 0,
        }
    }

    /// One CPU does all of this, so that a load and a store are enough; the check is against mistakes. Release: who
    /// reads the new state sees what was done before.
    fn change(&self, from: State, to: State) -> Result<(), WrongState> {
        let state = self.state();
        if state != from {
            return Err(WrongState(state));
        }
        self.0.store(to as u32, Ordering::Release);
        Ok(())
    }
}

impl Default for LifeCycle {
    fn default() -> Self {
        Self::new()
    }
}

/// The Exception level at which the host's first instruction runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryLevel {
    /// EL1: as under any type-1 hypervisor.
    El1 = 1,
    /// Virtual EL2: the host believes that EL2 is its own ([`crate::virtual_el2`]).
    #[default]
    VirtualEl2 = 2,
}

impl fmt::Display for EntryLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::El1 => "EL1",
            Self::VirtualEl2 => "virtual EL2",
        })
    }
}

/// Why a host that was to be entered at virtual EL2 is entered at EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoVirtualEl2 {
    /// The device tree names no GIC that Exeunt knows.
    UnknownGic,
    /// The device tree names a GICv3, and this CPU has no interface to it in system registers that can be used.
    NoCpuInterface,
}

impl fmt::Display for NoVirtualEl2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownGic => {
                "the device tree names no interrupt controller that Exeunt knows, to hold interrupts in virtual EL2"
            }
            Self::NoCpuInterface => {
                "the device tree names a GICv3, and this CPU has no GIC system registers, to hold interrupts in \
                 virtual EL2"
            }
        })
    }
}

impl EntryLevel {
    /// At which level a CPU's host is entered where the options say `self`. `tree` is the GIC of the device tree,
    /// `here` what it is to this CPU ([`Gic::on`]).
    ///
    /// In virtual EL2 TGE routes interrupts to real EL2 whatever PSTATE is, at a CPU's first entry as well as at a
    /// restart, and the GIC is what holds them ([`crate::virtual_el2::interrupts`]). A GIC that is not known may have
    /// one pending at any time, and so there is no virtual EL2 with it.
    ///
    /// # Errors
    ///
    /// Why it is EL1 where the options say otherwise.
    pub const fn on(self, tree: Gic, here: Gic) -> Result<Self, NoVirtualEl2> {
        match (self, tree, here) {
            (Self::El1, ..) => Ok(Self::El1),
            (_, Gic::Other, _) => Err(NoVirtualEl2::UnknownGic),
            (_, _, Gic::Other) => Err(NoVirtualEl2::NoCpuInterface),
            _ => Ok(Self::VirtualEl2),
        }
    }

    /// SPSR_EL2 for the ERET to the host's entry: SP_ELx, D, A, I and F masked (booting.rst, "CPU mode"). Virtual EL2
    /// runs at EL0.
    #[must_use]
    pub const fn spsr(self) -> u64 {
        match self {
            Self::El1 => pstate::DAIF | pstate::EL1H,
            Self::VirtualEl2 => pstate::DAIF,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devicetree;
    use crate::features::{Feature, IdRegister, IdRegisters};

    /// Every transition from every state: those that the text allows happen, the others change nothing.
    #[test]
    fn only_the_transitions_of_the_table_exist() {
        use State::{Gone, Leaving, Live, Outside, Stub};
        type Change = fn(&LifeCycle) -> Result<(), WrongState>;
        let changes: [(Change, State, State); 5] = [
            (LifeCycle::go_live, Outside, Live),
            (LifeCycle::begin_leave, Live, Leaving),
            (LifeCycle::stay, Leaving, Live),
            (|life| life.leave(false), Leaving, Stub),
            (|life| life.leave(true), Leaving, Gone),
        ];
        for state in State::ALL {
            for (change, from, to) in changes {
                let life = LifeCycle::in_state(state);
                let allowed = state == from;
                assert_eq!(change(&life), if allowed { Ok(()) } else { Err(WrongState(state)) });
                assert_eq!(life.state(), if allowed { to } else { state });
            }
            let life = LifeCycle::in_state(state);
            life.begin();
            assert_eq!(life.state(), Outside);
        }
    }

    #[test]
    fn a_host_is_held_for_one_leave_at_a_time() {
        for state in State::ALL {
            let life = LifeCycle::in_state(state);
            assert_eq!(life.held_for(), None);
            for number in [0, 7, Round::COUNT - 1] {
                let allowed = matches!(state, State::Live | State::Leaving);
                assert_eq!(life.be_held(Round::new(number)), if allowed { Ok(()) } else { Err(WrongState(state)) });
                assert_eq!(life.held_for(), allowed.then(|| Round::new(number)));
                assert_eq!(life.state(), if allowed { State::Leaving } else { state });
            }
        }
        for end in [LifeCycle::stay, |life: &LifeCycle| life.leave(false), |life: &LifeCycle| life.leave(true)] {
            let life = LifeCycle::held_in(Round::new(3));
            assert_eq!((end(&life), life.held_for()), (Ok(()), None));
        }
    }

    #[test]
    fn rounds_begin_anew_after_the_last() {
        assert_eq!(Round::new(6).next(), Round::new(7));
        assert_eq!(Round::new(Round::COUNT - 1).next(), Round::new(0));
    }

    #[test]
    fn a_cpu_that_exeunt_has_left_is_out_of_sight() {
        let left = State::ALL.map(State::is_left);
        assert_eq!(left, [false, false, false, true, true]);
    }

    /// A CPU with this field GIC of ID_AA64PFR0_EL1.
    fn cpu(gic: u64) -> IdRegisters {
        IdRegisters::read(|register| if register == IdRegister::Pfr0 { gic << 24 | 0x1111 } else { 0 })
    }

    /// What the options say happens where interrupts can be held, and EL1 everywhere else, with the reason.
    #[test]
    fn virtual_el2_needs_a_gic_that_holds_interrupts() {
        use EntryLevel::{El1, VirtualEl2};
        let (v3, v2) = (cpu(1), cpu(0));
        let frames = devicetree::Gicv2 { distributor: 0x800_0000, cpu_interface: 0x801_0000 };
        let (gicv3, gicv2) = (Some(devicetree::Gic::V3), Some(devicetree::Gic::V2(frames)));
        for (ids, tree, sre, expected) in [
            (v3, gicv3, true, Ok(VirtualEl2)),
            (v2, gicv2, true, Ok(VirtualEl2)),
            // In compatibility mode, where firmware keeps SRE at 0 and nobody asks for it.
            (v3, gicv2, false, Ok(VirtualEl2)),
            (v3, None, true, Err(NoVirtualEl2::UnknownGic)),
            (v2, None, true, Err(NoVirtualEl2::UnknownGic)),
            (v2, gicv3, true, Err(NoVirtualEl2::NoCpuInterface)),
            (v3, gicv3, false, Err(NoVirtualEl2::NoCpuInterface)),
        ] {
            let tree = Gic::from(tree);
            let here = tree.on(&ids, || {
                assert_eq!(tree, Gic::V3, "ICC_SRE_EL2 is left alone with any other GIC");
                assert!(ids.has(Feature::Gicv3), "the CPU has no ICC_SRE_EL2");
                sre
            });
            assert_eq!(VirtualEl2.on(tree, here), expected);
            assert_eq!(El1.on(tree, here), Ok(El1));
        }
    }

    #[test]
    fn every_reason_against_virtual_el2_is_said() {
        for reason in [NoVirtualEl2::UnknownGic, NoVirtualEl2::NoCpuInterface] {
            assert!(reason.to_string().contains("virtual EL2"));
        }
    }

    #[test]
    fn the_host_is_entered_with_everything_masked() {
        assert_eq!(EntryLevel::El1.spsr(), 0x3c5);
        assert_eq!(EntryLevel::VirtualEl2.spsr(), 0x3c0);
    }
}
