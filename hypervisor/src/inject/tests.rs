//! Exception entries as hardware would make them: by value, and against a second formulation of the same rules.

use guest_abi::vendor::PANIC_SYNDROME;
use proptest::prelude::*;

use super::*;
use crate::syndrome::Esr;
use crate::tests::cases;

/// A CPU with everything.
const ALL: PstateFeatures =
    PstateFeatures { pan: true, ssbs: true, mte: true, nmi: true, gcs: true, profiling: true, double_fault2: true };
/// An ARMv8.0 CPU.
const NONE: PstateFeatures = PstateFeatures {
    pan: false,
    ssbs: false,
    mte: false,
    nmi: false,
    gcs: false,
    profiling: false,
    double_fault2: false,
};

const VBAR: u64 = 0xffff_8000_0801_0800;
/// DAIF clear, EL1h.
const KERNEL: u64 = 0x5;

fn origin(spsr: u64) -> Origin {
    Origin { spsr, pc: 0xffff_8000_0812_3456, vbar: VBAR, ..Origin::default() }
}

fn abort(esr: u64, stage1_level: Option<i8>) -> Exception {
    Exception::Abort { abort: Esr::new(esr).abort().unwrap(), far: 0xdead_beef, stage1_level }
}

#[test]
fn a_read_by_the_kernel_ends_in_the_abort_that_linux_expects() {
    // 64-bit load of x7, translation fault at stage 2, level 2.
    let entry = take_exception(&origin(0x6000_0005), NONE, abort(0x93c7_8006, None));
    assert_eq!(
        entry,
        Entry {
            elr_el1: 0xffff_8000_0812_3456,
            spsr_el1: 0x6000_0005,
            esr_el1: 0x9600_0010,
            far_el1: Some(0xdead_beef),
            pc: VBAR + 0x200,
            pstate: 0x6000_03c5,
        }
    );
}

#[test]
fn the_vector_goes_by_where_the_host_was() {
    let offset = |spsr| take_exception(&origin(spsr), ALL, Exception::Undefined).pc - VBAR;
    assert_eq!(offset(0x4), 0x000, "EL1t");
    assert_eq!(offset(0x5), 0x200, "EL1h");
    assert_eq!(offset(0x0), 0x400, "EL0");
    for mode in 0x10..0x20 {
        assert_eq!(offset(mode), 0x600, "AArch32 at EL0, {mode:#x}");
    }
    // RES0 bits of VBAR_EL1 do not move it.
    let crooked = Origin { vbar: VBAR | 0x7ff, ..origin(KERNEL) };
    assert_eq!(take_exception(&crooked, ALL, Exception::Undefined).pc, VBAR + 0x200);
}

#[test]
fn the_class_goes_by_data_or_instruction_and_by_where_the_host_was() {
    let esr = |spsr, from| take_exception(&origin(spsr), NONE, abort(from, None)).esr_el1;
    assert_eq!(esr(0x0, 0x8200_0007), 0x8200_0010, "fetch from EL0");
    assert_eq!(esr(0x1f, 0x8000_0007), 0x8200_0010, "T32 fetch from EL0: IL is set for every abort");
    assert_eq!(esr(0x5, 0x8200_0007), 0x8600_0010, "fetch from EL1");
    assert_eq!(esr(0x4, 0x8200_0007), 0x8600_0010, "fetch from EL1t");
    assert_eq!(esr(0x0, 0x9200_0047), 0x9200_0050, "write from EL0");
    assert_eq!(esr(0x5, 0x9200_0047), 0x9600_0050, "write from EL1");
}

#[test]
fn what_describes_the_access_stays_and_what_is_stage_2s_goes() {
    let esr = |from| take_exception(&origin(KERNEL), NONE, abort(from, None)).esr_el1;
    assert_eq!(esr(0x9200_0147), 0x9600_0150, "DC CIVAC: CM and WnR");
    assert_eq!(esr(0x93ff_ff4f), 0x9600_0150, "ISV, all that it makes valid, and AR go");
    assert_eq!(esr(0x9200_3e4f), 0x9600_0050, "VNCR, SET, FnV and EA go");
    assert_eq!(esr(0x9200_0e10), 0x9600_0410, "a real external abort without an address stays without");
    assert_eq!(esr(1 << 40 | 0x9200_0007), 1 << 40 | 0x9600_0010, "an access to a Guarded Control Stack stays one");
    assert_eq!(esr(0xff_feff << 32 | 0x9200_0007), 0x9600_0010, "the rest of ISS2 goes");
    assert_eq!(esr(0x9200_0035), 0x9600_0035, "unsupported exclusive");
    assert_eq!(esr(1 << 40 | 0x8200_014f), 0x8600_0010, "a fetch is no write and no cache maintenance");
}

#[test]
fn a_fault_on_a_stage_1_walk_names_the_level_of_stage_1() {
    let esr = |from, level| take_exception(&origin(KERNEL), NONE, abort(from, level)).esr_el1 & 0x3f;
    for level in -1..4 {
        assert_eq!(esr(0x9200_0087, Some(level)).cast_signed(), 0x14 + i64::from(level));
        assert_eq!(esr(0x8200_008f, Some(level)).cast_signed(), 0x14 + i64::from(level));
    }
    assert_eq!(esr(0x9200_0087, None), 0x17);
    assert_eq!(esr(0x9200_0087, Some(9)), 0x17);
    assert_eq!(esr(0x9200_0087, Some(i8::MIN)), 0x17);
    assert_eq!(esr(0x9200_0007, Some(1)), 0x10, "without S1PTW no level counts");
    // S1PTW itself means nothing at EL1.
    let whole = take_exception(&origin(KERNEL), NONE, abort(0x9200_00c7, Some(2))).esr_el1;
    assert_eq!(whole, 0x9600_0056);
}

#[test]
fn an_undefined_instruction_has_no_address_and_il_set() {
    let entry = take_exception(&origin(0x30), ALL, Exception::Undefined);
    assert_eq!((entry.esr_el1, entry.far_el1), (0x0200_0000, None));
}

#[test]
fn each_field_of_pstate_comes_from_where_the_architecture_says() {
    let pstate = |spsr, sctlr| take_exception(&Origin { sctlr, ..origin(spsr) }, ALL, Exception::Undefined).pstate;
    let always = 0x3c5 | pstate::TCO | pstate::PM;
    let quiet = SCTLR_SPAN | SCTLR_SPINTMASK;
    assert_eq!(pstate(KERNEL, quiet), always);
    assert_eq!(pstate(KERNEL, SCTLR_SPINTMASK), always | pstate::PAN, "SPAN clear sets PAN");
    assert_eq!(pstate(KERNEL | pstate::PAN, quiet), always | pstate::PAN, "SPAN set keeps PAN");
    assert_eq!(pstate(KERNEL, SCTLR_SPAN), always | pstate::ALLINT, "SPINTMASK clear sets ALLINT");
    assert_eq!(pstate(KERNEL, quiet | SCTLR_DSSBS), always | pstate::SSBS);
    assert_eq!(pstate(KERNEL | pstate::SSBS, quiet), always, "SSBS is never kept");
    let gone = pstate::IL | pstate::SS | pstate::UAO | pstate::BTYPE | pstate::PPEND | pstate::PACM;
    assert_eq!(pstate(KERNEL | gone, quiet), always);
    assert_eq!(pstate(KERNEL | pstate::NZCV | pstate::DIT, quiet), always | pstate::NZCV | pstate::DIT);
    // An ARMv8.0 CPU has none of them, whatever stands in SCTLR_EL1.
    let old = |sctlr| take_exception(&Origin { sctlr, ..origin(KERNEL) }, NONE, Exception::Undefined).pstate;
    assert_eq!((old(0), old(u64::MAX)), (0x3c5, 0x3c5));
}

#[test]
fn exlock_is_for_exceptions_that_stay_at_el1() {
    let exlock = |spsr, gcscr| {
        take_exception(&Origin { gcscr, ..origin(spsr) }, ALL, Exception::Undefined).pstate & pstate::EXLOCK != 0
    };
    assert!(exlock(KERNEL, GCSCR_EXLOCKEN) && exlock(0x4, GCSCR_EXLOCKEN));
    assert!(!exlock(KERNEL, !GCSCR_EXLOCKEN) && !exlock(0, GCSCR_EXLOCKEN) && !exlock(0x10, GCSCR_EXLOCKEN));
}

#[test]
fn ease_sends_external_aborts_and_nothing_else_to_the_serror_vector() {
    let origin = Origin { sctlr2: SCTLR2_EASE, ..origin(KERNEL) };
    assert_eq!(take_exception(&origin, ALL, abort(0x9200_0007, None)).pc, VBAR + 0x380);
    assert_eq!(take_exception(&origin, ALL, Exception::Undefined).pc, VBAR + 0x200);
    assert_eq!(take_exception(&origin, NONE, abort(0x9200_0007, None)).pc, VBAR + 0x200);
}

#[test]
fn a_skipped_instruction_counts_as_executed() {
    assert_eq!(skip_instruction(0x1000, KERNEL | pstate::BTYPE | pstate::SS, true), (0x1004, KERNEL));
    assert_eq!(skip_instruction(u64::MAX - 3, KERNEL, true), (0, KERNEL));
    // T32, 16 bits, in the middle of ITTT: the condition stays, the mask moves.
    let it = |it: u64| (it & 0xfc) << 8 | (it & 3) << 25;
    let spsr = 0x30 | pstate::SS;
    assert_eq!(skip_instruction(0xffff_fffe, spsr | it(0b1010_0111), false), (0, 0x30 | it(0b1010_1110)));
    assert_eq!(skip_instruction(0x1000, spsr | it(0b1010_1100), true), (0x1004, 0x30 | it(0b1011_1000)));
    assert_eq!(skip_instruction(0x1000, spsr | it(0b1011_1000), false), (0x1002, 0x30), "the last of the block");
    assert_eq!(skip_instruction(0x1000, spsr, false), (0x1002, 0x30), "no block");
}

/// In every PSTATE: what Linux finds at `el1h_64_error` and `el0t_64_error`, with the registers of an SError that it
/// takes for fatal.
#[test]
fn an_serror_comes_to_its_own_vector_whatever_is_masked() {
    for daif in (0..16).map(|bits| bits << 6) {
        for (mode, offset) in [(0x4, 0x180), (0x5, 0x380), (0x0, 0x580), (0x10, 0x780)] {
            let entry = take_exception(&origin(mode | daif), NONE, Exception::SError { esr: PANIC_SYNDROME });
            assert_eq!(
                entry,
                Entry {
                    elr_el1: 0xffff_8000_0812_3456,
                    spsr_el1: mode | daif,
                    esr_el1: 0xbf45_584e,
                    far_el1: None,
                    pc: VBAR + offset,
                    pstate: 0x3c5,
                }
            );
        }
    }
    assert_eq!(Esr::new(PANIC_SYNDROME).class(), Some(ExceptionClass::SError));
}

/// The rules once more, by the list in the Arm ARM's section on exception entry: the state before, changed field by
/// field.
fn second_opinion(origin: &Origin, features: PstateFeatures) -> u64 {
    let aarch32 = origin.spsr & 0x10 != 0;
    let from_el1 = !aarch32 && origin.spsr >> 2 & 3 == 1;
    let mut bits: [bool; 64] = core::array::from_fn(|bit| origin.spsr >> bit & 1 != 0);
    // What AArch64 has no field for, or another one at the same place.
    for bit in (0..28).chain(32..64).filter(|&bit| bit != 24 && !(bit == 22 && features.pan)) {
        bits[bit] = false;
    }
    for (bit, value) in [0, 2, 6, 7, 8, 9].into_iter().map(|bit| (bit, true)).chain([
        (12, features.ssbs && origin.sctlr >> 44 & 1 != 0),
        (13, features.nmi && origin.sctlr >> 62 & 1 == 0),
        (22, features.pan && (bits[22] || origin.sctlr >> 23 & 1 == 0)),
        (25, features.mte),
        (32, features.profiling),
        (34, features.gcs && from_el1 && origin.gcscr >> 6 & 1 != 0),
    ]) {
        bits[bit] = value;
    }
    (0..64).filter(|&bit| bits[bit]).fold(0, |value, bit| value | 1 << bit)
}

fn any_features() -> impl Strategy<Value = PstateFeatures> {
    prop::array::uniform7(any::<bool>()).prop_map(|[pan, ssbs, mte, nmi, gcs, profiling, double_fault2]| {
        PstateFeatures { pan, ssbs, mte, nmi, gcs, profiling, double_fault2 }
    })
}

/// A PSTATE that can trap to EL2: EL0, EL1t, EL1h or AArch32 at EL0.
fn any_spsr() -> impl Strategy<Value = u64> {
    (any::<u64>(), prop_oneof![Just(0), Just(4), Just(5), 0x10_u64..0x20]).prop_map(|(rest, mode)| rest & !0x1f | mode)
}

proptest! {
    #![proptest_config(cases(4000, 16))]

    #[test]
    fn any_entry_follows_the_rules(
        spsr in any_spsr(), pc: u64, vbar: u64, sctlr: u64, sctlr2: u64, gcscr: u64, features in any_features(),
        class in prop::sample::select(vec![0_u64, 0x20, 0x24]), rest: u64, far: u64, stage1_level: Option<i8>,
    ) {
        let origin = Origin { spsr, pc, vbar, sctlr, sctlr2, gcscr };
        let exception = match Esr::new(rest & !(0x3f << 26) | class << 26).abort() {
            Some(abort) => Exception::Abort { abort, far, stage1_level },
            None if rest & 1 == 0 => Exception::Undefined,
            None => Exception::SError { esr: PANIC_SYNDROME },
        };
        let entry = take_exception(&origin, features, exception);
        prop_assert_eq!(entry.elr_el1, pc);
        prop_assert_eq!(entry.spsr_el1, spsr);
        prop_assert_eq!(entry.pstate, second_opinion(&origin, features));
        prop_assert_eq!(entry.pc & !0x7ff, vbar & !0x7ff);
        prop_assert!([0, 0x200, 0x400, 0x600, 0x180, 0x380, 0x580, 0x780].contains(&(entry.pc & 0x7ff)));
        let esr = Esr::new(entry.esr_el1);
        prop_assert!(esr.is_32bit_instruction());
        match exception {
            Exception::Undefined => {
                prop_assert_eq!(entry.esr_el1, IL);
                prop_assert_eq!(entry.far_el1, None);
            }
            Exception::SError { esr } => {
                prop_assert_eq!(entry.esr_el1, esr);
                prop_assert_eq!(entry.far_el1, None);
                prop_assert_eq!(entry.pc & 0x180, 0x180);
            }
            Exception::Abort { abort, .. } => {
                let taken = esr.abort().unwrap();
                prop_assert_eq!(entry.far_el1, Some(far));
                prop_assert_eq!(taken.is_instruction(), abort.is_instruction());
                prop_assert_eq!(taken.is_write(), abort.is_write());
                prop_assert_eq!(taken.is_cache_maintenance(), abort.is_cache_maintenance());
                prop_assert!(!taken.on_stage1_walk() && taken.access().is_none());
                prop_assert_eq!(taken.far_not_valid(), abort.far_not_valid() && !abort.on_stage1_walk());
                let kind = taken.fault().kind;
                prop_assert_eq!(kind == FaultKind::ExternalOnWalk, abort.on_stage1_walk());
                prop_assert!(matches!(
                    kind,
                    FaultKind::External | FaultKind::ExternalOnWalk | FaultKind::ExclusiveOrAtomic
                ));
            }
        }
    }

    #[test]
    fn a_skip_changes_nothing_else(pc: u64, spsr in any_spsr(), is_32bit: bool) {
        let (_, after) = skip_instruction(pc, spsr, is_32bit);
        let may_change = if spsr & pstate::NRW == 0 {
            pstate::BTYPE | pstate::SS
        } else {
            pstate::A32_IT_HIGH | pstate::A32_IT_LOW | pstate::SS
        };
        prop_assert_eq!(spsr & !may_change, after & !may_change);
        prop_assert_eq!(after & pstate::SS, 0);
    }
}
