//! What becomes of a CPU on which Exeunt has died: the host goes on without it, is panicked into its own dump, or the
//! machine goes off.
//!
//! Owns that decision, and the record of where the host is ([`Point`]) on which it rests. It reads no register and
//! needs no memory but what it is given, since whoever asks may have lost everything else. How it is done is the EL2
//! binary's (`exeunt/src/rescue.rs`); `docs/death.md` has the whole path.
//!
//! # The rule
//!
//! Nothing that the host has asked for counts as answered before the exception return. So a host that goes on executes
//! the instruction that brought it to EL2 *again*, now without Exeunt:
//!
//! | it came to EL2 by | it is executed again by |
//! |---|---|
//! | a stub call | the resident stub, which answers as [`crate::stub`] would: SOFT_RESTART starts the next kernel |
//! | a call of Exeunt's own | the resident stub: STUB_ERR, by which a caller knows that Exeunt is not there |
//! | an SMC | firmware |
//! | a fault of stage 2, a trapped register | the CPU, without stage 2 and traps |
//!
//! What was done before Exeunt died is done twice then, and that is harmless for each call that does anything: a second
//! CPU_ON is answered ALREADY_ON or ON_PENDING, a second SET_VECTORS sets the same address, a suspend suspends, a
//! second CPU_OFF or SYSTEM_OFF is the first that firmware sees. There are two exceptions, where the EL2 binary moves
//! the point on: SOFT_RESTART, whose registers and whose EL1 are given up on the way, goes on with the payload; and
//! REENTER, which would bring a broken Exeunt back for ever, is answered STUB_ERR.

use guest_abi::stub::SOFT_RESTART;

use crate::inject::pstate;
use crate::syndrome::{EC_SHIFT, ExceptionClass, IL};

/// What is to be done when Exeunt dies: the option `fail=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Fail {
    /// The machine goes off. Also before the options are known.
    Halt = 0,
    /// The host goes on without Exeunt on that CPU.
    #[default]
    Leave = 1,
    /// The host panics.
    Panic = 2,
}

impl Fail {
    /// The one with this number; for any other one the first.
    #[must_use]
    pub const fn of(number: u8) -> Self {
        match number {
            1 => Self::Leave,
            2 => Self::Panic,
            _ => Self::Halt,
        }
    }
}

/// PSTATE at EL2 with everything masked: of a payload that begins there.
pub const AT_EL2: u64 = 0x3c9;

/// Where the host goes on if Exeunt dies on this CPU now. The vectors write it when EL2 is entered, and take it back at
/// the return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// ELR_EL2.
    pub pc: u64,
    /// SPSR_EL2.
    pub pstate: u64,
    /// ESR_EL2; 0 if the exception was an interrupt, or if the point was moved on.
    pub esr: u64,
    /// x0 to x3, which answers change.
    pub x: [u64; 4],
}

impl Point {
    /// What the words come to. Zeros do not come to 0.
    #[must_use]
    pub const fn check(pc: u64, pstate: u64, esr: u64) -> u64 {
        (pc ^ !pstate) ^ esr
    }

    /// The point that these words are, if they are whole and a CPU can be there.
    #[must_use]
    pub fn of([pc, pstate, esr, check]: [u64; 4], x: [u64; 4]) -> Option<Self> {
        let point = Self { pc, pstate, esr, x };
        (check == Self::check(pc, pstate, esr) && point.level().is_some()).then_some(point)
    }

    /// Where a payload begins, at EL2.
    #[must_use]
    pub const fn payload(pc: u64, x: [u64; 4]) -> Self {
        Self { pc, pstate: AT_EL2, esr: 0, x }
    }

    fn level(&self) -> Option<Level> {
        match self.pstate & pstate::MODE_MASK {
            pstate::EL0T | pstate::NRW => Some(Level::El0),
            pstate::EL1T | pstate::EL1H => Some(Level::El1),
            mode if mode == AT_EL2 & pstate::MODE_MASK => Some(Level::El2),
            _ => None,
        }
    }

    fn class(&self) -> u64 {
        self.esr >> EC_SHIFT
    }

    /// The instruction that is executed again. An HVC leaves ELR_EL2 after it, everything else at it.
    #[must_use]
    pub fn again(&self) -> u64 {
        if self.class() == ExceptionClass::Hvc64 as u64 { self.pc.wrapping_sub(4) } else { self.pc }
    }

    /// Whether it is SOFT_RESTART.
    fn restarts(&self) -> bool {
        self.class() == ExceptionClass::Hvc64 as u64 && self.x[0] == SOFT_RESTART
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    El0,
    El1,
    El2,
}

/// What Exeunt was doing on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It was starting: there is no host that could go on.
    Starting,
    /// An exit of the host's, or something else with a known end.
    Exit(Point),
    /// The host is in virtual EL2, with registers that only Exeunt knows. It was entered there at this point.
    Window(Point),
    /// The host had been entered, and where it is was lost.
    Unknown,
}

/// What EL1 is, for a host that is to panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct El1 {
    /// VBAR_EL1.
    pub vbar: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// SP_EL0: at EL1 a Linux has an address of its own there.
    pub sp_el0: u64,
}

impl El1 {
    /// SCTLR_EL1.M.
    const MMU: u64 = 1;

    /// Whether it looks as if there were vectors that take an exception.
    const fn has_vectors(&self) -> bool {
        self.sctlr & Self::MMU != 0 && self.vbar & !0x7ff != 0
    }

    /// At which level the host was, as far as this tells.
    const fn pstate(&self) -> u64 {
        pstate::DAIF | if self.sp_el0 >> 55 & 1 == 1 { pstate::EL1H } else { pstate::EL0T }
    }
}

/// What is to be done with a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The host goes on here, at EL1 or EL0, with EL2 at the stub.
    Leave {
        /// Where.
        pc: u64,
        /// In which state.
        pstate: u64,
    },
    /// A payload begins here, at EL2.
    Payload {
        /// Where.
        pc: u64,
    },
    /// The host takes an SError ([`SERROR`]), with EL2 at the stub.
    Panic {
        /// Where it was; VBAR_EL1 if that is not known.
        pc: u64,
        /// In which state.
        pstate: u64,
        /// This is what it was.
        known: bool,
    },
    /// The machine goes off.
    Halt(Why),
}

/// Why nothing can be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The option says so.
    Asked,
    /// There is no host yet.
    NoHost,
    /// Where the host is is not known, and it has no vectors.
    NoVectors,
}

impl Why {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Asked => "fail=halt",
            Self::NoHost => "there is no host yet",
            Self::NoVectors => "where the host is is not known, and it has no vectors",
        }
    }
}

/// ISS of the SError by which the host panics: IDS, since nothing that an ISS can say is true, and "EXU" for who reads
/// the report. With IDS Linux panics whatever else is in it (arch/arm64/include/asm/traps.h, `arm64_is_ras_serror`).
pub const SERROR_ISS: u64 = 1 << 24 | 0x0045_5855;

/// All of its syndrome.
pub const SERROR: u64 = (ExceptionClass::SError as u64) << EC_SHIFT | IL | SERROR_ISS;

/// Decides.
#[must_use]
pub fn plan(fail: Fail, doing: Doing, el1: &El1) -> Plan {
    let point = match (fail, doing) {
        (Fail::Halt, _) => return Plan::Halt(Why::Asked),
        (_, Doing::Starting) => return Plan::Halt(Why::NoHost),
        (_, Doing::Exit(point) | Doing::Window(point)) if point.level() == Some(Level::El2) => {
            return Plan::Payload { pc: point.pc };
        }
        (_, Doing::Exit(point)) if point.level().is_some() => point,
        (_, Doing::Exit(_) | Doing::Window(_) | Doing::Unknown) if el1.has_vectors() => {
            return Plan::Panic { pc: el1.vbar, pstate: el1.pstate(), known: false };
        }
        (_, Doing::Exit(_) | Doing::Window(_) | Doing::Unknown) => return Plan::Halt(Why::NoVectors),
    };
    let pc = point.again();
    match fail {
        // A host that is on its way to its crash kernel would find that it panics already, and lose the dump.
        Fail::Panic if !point.restarts() && el1.has_vectors() => Plan::Panic { pc, pstate: point.pstate, known: true },
        _ => Plan::Leave { pc, pstate: point.pstate },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::cases;

    const HVC: u64 = (ExceptionClass::Hvc64 as u64) << EC_SHIFT | IL;
    const SMC: u64 = (ExceptionClass::Smc64 as u64) << EC_SHIFT | IL;
    const ABORT: u64 = (ExceptionClass::DataAbortLower as u64) << EC_SHIFT | IL | 7;
    const LINUX: El1 = El1 { vbar: 0xffff_8000_8001_0800, sctlr: 0x34f4_d91d, sp_el0: 0xffff_0000_0123_4500 };
    const PURGATORY: El1 = El1 { vbar: 0, sctlr: 0x30d0_0800, sp_el0: 0 };
    const MODES: [u64; 5] = [pstate::EL0T, pstate::NRW, pstate::EL1T, pstate::EL1H, AT_EL2 & 0x1f];

    fn points() -> impl Iterator<Item = Point> {
        MODES.into_iter().flat_map(|mode| {
            [HVC, SMC, ABORT, 0].into_iter().flat_map(move |esr| {
                [0, 1, 2, 0x8400_0008].map(|x0| Point {
                    pc: 0xffff_8000_8123_4564,
                    pstate: pstate::DAIF | mode,
                    esr,
                    x: [x0, 2, 3, 4],
                })
            })
        })
    }

    fn all() -> impl Iterator<Item = (Fail, Doing, El1)> {
        let doings: Vec<_> = points()
            .map(Doing::Exit)
            .chain([Doing::Window(Point::payload(0x4020_0000, [0x4800_0000, 0, 0, 0]))])
            .chain([Doing::Starting, Doing::Unknown])
            .collect();
        [Fail::Leave, Fail::Panic, Fail::Halt].into_iter().flat_map(move |fail| {
            doings.clone().into_iter().flat_map(move |doing| [LINUX, PURGATORY].map(|el1| (fail, doing, el1)))
        })
    }

    #[test]
    fn the_machine_goes_off_only_if_asked_or_if_there_is_nothing_to_go_on() {
        for (fail, doing, el1) in all() {
            let plan = plan(fail, doing, &el1);
            let expected = match (fail, doing) {
                (Fail::Halt, _) => Some(Why::Asked),
                (_, Doing::Starting) => Some(Why::NoHost),
                (_, Doing::Unknown) if el1 == PURGATORY => Some(Why::NoVectors),
                _ => None,
            };
            match expected {
                Some(why) => assert_eq!(plan, Plan::Halt(why), "{fail:?} {doing:?} {el1:x?}"),
                None => assert!(!matches!(plan, Plan::Halt(_)), "{fail:?} {doing:?} {el1:x?}: {plan:?}"),
            }
        }
    }

    #[test]
    fn a_host_that_goes_on_does_so_where_it_was_and_in_the_same_state() {
        for point in points().filter(|point| point.pstate != AT_EL2) {
            let plan = plan(Fail::Leave, Doing::Exit(point), &LINUX);
            let back = if point.esr == HVC { 4 } else { 0 };
            assert_eq!(plan, Plan::Leave { pc: point.pc - back, pstate: point.pstate });
        }
    }

    #[test]
    fn a_soft_restart_is_never_turned_into_a_panic() {
        for point in points().filter(|point| point.pstate != AT_EL2) {
            let plan = plan(Fail::Panic, Doing::Exit(point), &LINUX);
            let restarts = point.esr == HVC && point.x[0] == 1;
            assert_eq!(matches!(plan, Plan::Leave { .. }), restarts, "{point:x?}: {plan:x?}");
        }
    }

    #[test]
    fn what_has_no_vectors_is_not_made_to_panic() {
        for point in points().filter(|point| point.pstate != AT_EL2) {
            let plan = plan(Fail::Panic, Doing::Exit(point), &PURGATORY);
            assert!(matches!(plan, Plan::Leave { .. }), "{plan:x?}");
        }
    }

    #[test]
    fn a_payload_begins_whatever_the_option_but_halt() {
        for doing in [Doing::Exit, Doing::Window].map(|doing| doing(Point::payload(0x4400_0000, [1, 2, 3, 0]))) {
            for fail in [Fail::Leave, Fail::Panic] {
                assert_eq!(plan(fail, doing, &PURGATORY), Plan::Payload { pc: 0x4400_0000 });
            }
        }
    }

    #[test]
    fn of_an_unknown_host_the_stack_pointer_tells_the_level() {
        let user = El1 { sp_el0: 0xffff_c123_4560, ..LINUX };
        for (el1, mode) in [(LINUX, pstate::EL1H), (user, pstate::EL0T)] {
            let expected = Plan::Panic { pc: LINUX.vbar, pstate: pstate::DAIF | mode, known: false };
            assert_eq!(plan(Fail::Leave, Doing::Unknown, &el1), expected);
        }
    }

    proptest! {
        #![proptest_config(cases(4000, 16))]

        /// Exeunt dies at any moment, and any word that it goes by may be broken: there is a plan, the machine goes off
        /// only for one of the reasons that there are, and where the host goes on is what was written down.
        #[test]
        fn whatever_is_broken_there_is_a_plan(
            (fail, doing) in (0_u8..5, 0..4),
            words in any::<[u64; 4]>(),
            mode in 0_u64..32,
            is_whole in prop::bool::weighted(0.8),
            x in any::<[u64; 4]>(),
            restarts in any::<bool>(),
            (hvc, vbar, sctlr, sp_el0) in any::<(bool, u64, u64, u64)>(),
        ) {
            let [pc, pstate, esr, damaged] = words;
            let (pstate, esr) = (pstate & !pstate::MODE_MASK | mode, if hvc { HVC } else { esr });
            let x = [if restarts { SOFT_RESTART } else { x[0] }, x[1], x[2], x[3]];
            let check = if is_whole { Point::check(pc, pstate, esr) } else { damaged };
            let point = Point::of([pc, pstate, esr, check], x);
            let matches = check == Point::check(pc, pstate, esr);
            prop_assert_eq!(point.is_some(), matches && MODES.contains(&mode));
            let (fail, el1) = (Fail::of(fail), El1 { vbar, sctlr, sp_el0 });
            let doing = match (doing, point) {
                (0, _) => Doing::Starting,
                (1, Some(point)) => Doing::Window(Point::payload(point.pc, point.x)),
                (2, Some(point)) => Doing::Exit(point),
                _ => Doing::Unknown,
            };
            let vectors = sctlr & 1 != 0 && vbar >> 11 != 0;
            match (plan(fail, doing, &el1), doing) {
                (Plan::Halt(Why::Asked), _) => prop_assert_eq!(fail, Fail::Halt),
                (Plan::Halt(Why::NoHost), _) => prop_assert_eq!(doing, Doing::Starting),
                (Plan::Halt(Why::NoVectors), _) => prop_assert!(doing == Doing::Unknown && !vectors),
                (Plan::Payload { pc: to }, Doing::Window(_) | Doing::Exit(_)) => prop_assert_eq!(to, pc),
                (Plan::Leave { pc: to, pstate: state }, Doing::Exit(_)) => {
                    prop_assert!(fail == Fail::Leave || !vectors || (hvc && restarts));
                    prop_assert_eq!((to, state), (pc.wrapping_sub(if hvc { 4 } else { 0 }), pstate));
                }
                (Plan::Panic { pc: at, pstate: state, known: true }, Doing::Exit(_)) => {
                    prop_assert!(fail == Fail::Panic && vectors && !(hvc && restarts));
                    prop_assert_eq!((at, state), (pc.wrapping_sub(if hvc { 4 } else { 0 }), pstate));
                }
                (Plan::Panic { known: false, .. }, _) => prop_assert!(doing == Doing::Unknown && vectors),
                (plan, doing) => prop_assert!(false, "{:?} {:?}", doing, plan),
            }
        }
    }

    #[test]
    fn a_damaged_point_is_none() {
        for point in points() {
            let words = [point.pc, point.pstate, point.esr, Point::check(point.pc, point.pstate, point.esr)];
            assert_eq!(Point::of(words, point.x), Some(point));
            for bit in 0..256 {
                let mut damaged = words;
                damaged[bit / 64] ^= 1 << (bit % 64);
                assert_eq!(Point::of(damaged, point.x), None, "bit {bit}");
            }
            // Taken back at the return.
            assert_eq!(Point::of([words[0], words[1], words[2], 0], point.x), None);
        }
        assert_eq!(Point::of([0; 4], [0; 4]), None);
        assert_eq!(Point::of([u64::MAX; 4], [0; 4]), None);
    }

    #[test]
    fn only_states_that_an_exit_can_come_from_are_points() {
        for mode in 0..32 {
            let words = [4, mode, 0, Point::check(4, mode, 0)];
            assert_eq!(Point::of(words, [0; 4]).is_some(), MODES.contains(&mode), "mode {mode:#x}");
        }
    }

    #[test]
    fn every_option_has_its_number() {
        for fail in [Fail::Halt, Fail::Leave, Fail::Panic] {
            assert_eq!(Fail::of(fail as u8), fail);
        }
        assert_eq!(Fail::of(3), Fail::Halt);
    }

    #[test]
    fn the_syndrome_is_one_that_linux_dies_of() {
        assert_eq!(SERROR, 0xbf45_5855);
    }
}
