//! Syndromes as hardware writes them, in words.

use proptest::prelude::*;

use super::*;
use crate::tests::cases;

fn words(esr: u64, far: u64) -> String {
    Esr::new(esr).with_far(far).to_string()
}

#[test]
fn a_write_to_read_only_memory_at_el2_reads_as_a_sentence() {
    assert_eq!(
        words(0x9600_004f, 0x4020_1000),
        "data abort from EL2: permission fault, level 3, write, FAR 0x40201000"
    );
}

#[test]
fn aborts_of_the_host_name_the_stage_1_walk() {
    assert_eq!(
        words(0x9380_0006, 0xffff_8000_0000_1234),
        "data abort from EL1 or EL0: translation fault, level 2, read, FAR 0xffff800000001234"
    );
    assert_eq!(
        words(0x8200_0087, 0x8000),
        "instruction abort from EL1 or EL0: translation fault, level 3, on a stage 1 walk, FAR 0x8000"
    );
    assert_eq!(
        words(0x9200_0147, 0),
        "data abort from EL1 or EL0: translation fault, level 3, cache maintenance, FAR 0x0"
    );
}

#[test]
fn an_external_abort_may_have_no_address() {
    assert_eq!(words(0x9600_0410, 0x1234), "data abort from EL2: synchronous external abort, read, FAR not valid");
    assert_eq!(words(0x9600_0010, 0x1234), "data abort from EL2: synchronous external abort, read, FAR 0x1234");
    // FnV counts for that one code only.
    assert_eq!(
        words(0x9600_0414, 0x12),
        "data abort from EL2: synchronous external abort on a walk, level 0, read, FAR 0x12"
    );
}

#[test]
fn calls_and_register_accesses_name_what_they_want() {
    assert_eq!(words(0x5a00_0ea1, 1), "HVC #0xea1");
    assert_eq!(words(0x5e00_0000, 1), "trapped SMC #0x0");
    // MRS x3, S3_0_C1_C0_1 (ACTLR_EL1), and MSR of DBGBVR0_EL1 from the zero register.
    assert_eq!(words(0x6232_0461, 1), "trapped MSR, MRS or system instruction: read of S3_0_C1_C0_1, x3");
    assert_eq!(words(0x6228_03e0, 1), "trapped MSR, MRS or system instruction: write of S2_0_C0_C0_4, x31");
    assert_eq!(words(0x0200_0000, 1), "unknown reason");
    assert_eq!(words(0x6600_0000, 1), "trapped SVE access, ISS 0x0");
    assert_eq!(words(0x8a00_0000, 0x41), "PC alignment fault, FAR 0x41");
    assert_eq!(words(0xbe00_0011, 1), "SError, ISS 0x11");
    assert_eq!(words(0xae00_0000, 1), "undefined exception class 0x2b, ISS 0x0");
}

#[test]
fn an_access_is_described_where_isv_says_so() {
    // str w7, [..]: SAS 2, SRT 7, SF 0, WnR.
    let esr = Esr::new(0x9387_0046 & !(3 << 22) | 2 << 22);
    let access = esr.abort().unwrap().access().unwrap();
    assert_eq!(access, Access { size: 4, sign_extend: false, register: 7, register_is_64bit: false });
    // ldrsb x9: SAS 0, SSE, SRT 9, SF.
    let esr = Esr::new(0x24 << 26 | IL | ISS_ISV | 1 << 21 | 9 << 16 | 1 << 15 | 0x06);
    let access = esr.abort().unwrap().access().unwrap();
    assert_eq!(access, Access { size: 1, sign_extend: true, register: 9, register_is_64bit: true });
    assert_eq!(Esr::new(0x9200_0006).abort().unwrap().access(), None);
    // Bit 24 means nothing in an instruction abort.
    assert_eq!(Esr::new(0x8300_0006).abort().unwrap().access(), None);
}

#[test]
fn every_class_has_its_number_and_no_two_the_same() {
    let mut found = 0;
    for bits in 0..=255 {
        let Some(class) = ExceptionClass::from_bits(bits) else { continue };
        assert_eq!(class as u8, bits);
        assert!(usize::from(bits) < CLASSES);
        assert_eq!(ExceptionClass::ALL[found], class, "the list is in the order of the numbers");
        found += 1;
    }
    assert_eq!(found, ExceptionClass::ALL.len());
}

/// The codes as the Arm ARM's table has them in binary, against the table here.
#[test]
fn fault_status_codes_are_the_architectures() {
    let fault = |code: u64| Esr::new(0x25 << 26 | code).abort().unwrap().fault();
    let with_levels = [
        (0b000000, FaultKind::AddressSize),
        (0b000100, FaultKind::Translation),
        (0b001000, FaultKind::AccessFlag),
        (0b001100, FaultKind::Permission),
        (0b010100, FaultKind::ExternalOnWalk),
        (0b011100, FaultKind::ParityOnWalk),
        (0b100100, FaultKind::GranuleProtectionOnWalk),
    ];
    for (first, kind) in with_levels {
        for level in 0..4 {
            assert_eq!(fault(first + level), Fault { kind, level: Some(level as i8) });
        }
    }
    let negative = [
        (0b010011, FaultKind::ExternalOnWalk, -1),
        (0b011011, FaultKind::ParityOnWalk, -1),
        (0b100011, FaultKind::GranuleProtectionOnWalk, -1),
        (0b101001, FaultKind::AddressSize, -1),
        (0b101011, FaultKind::Translation, -1),
        (0b010010, FaultKind::ExternalOnWalk, -2),
        (0b100010, FaultKind::GranuleProtectionOnWalk, -2),
        (0b101100, FaultKind::AddressSize, -2),
        (0b101010, FaultKind::Translation, -2),
    ];
    for (code, kind, level) in negative {
        assert_eq!(fault(code), Fault { kind, level: Some(level) }, "{code:#b}");
    }
    let plain = [
        (0b010000, FaultKind::External),
        (0b010001, FaultKind::TagCheck),
        (0b011000, FaultKind::Parity),
        (0b100001, FaultKind::Alignment),
        (0b101000, FaultKind::GranuleProtection),
        (0b110000, FaultKind::TlbConflict),
        (0b110001, FaultKind::AtomicHardwareUpdate),
        (0b110100, FaultKind::Lockdown),
        (0b110101, FaultKind::ExclusiveOrAtomic),
    ];
    for (code, kind) in plain {
        assert_eq!(fault(code), Fault { kind, level: None }, "{code:#b}");
    }
    let named = with_levels.len() * 4 + negative.len() + plain.len();
    let reserved = (0..64).filter(|&code| fault(code).kind == FaultKind::Reserved).count();
    assert_eq!(named + reserved, 64);
}

proptest! {
    #![proptest_config(cases(2000, 16))]

    #[test]
    fn any_value_has_words_and_its_own_bits(bits: u64, far: u64) {
        let esr = Esr::new(bits);
        prop_assert!(!words(bits, far).is_empty());
        prop_assert_eq!(u64::from(esr.class_bits()), bits >> 26 & 0x3f);
        prop_assert_eq!(u64::from(esr.iss()), bits & 0x1ff_ffff);
        prop_assert_eq!(u64::from(esr.iss2()), bits >> 32 & 0xff_ffff);
        prop_assert_eq!(u64::from(esr.immediate()), bits & 0xffff);
        prop_assert_eq!(esr.abort().is_some(), matches!(esr.class_bits(), 0x20 | 0x21 | 0x24 | 0x25));
    }

    #[test]
    fn a_register_access_gives_back_what_went_in(
        op0 in 0_u8..4,
        op1 in 0_u8..8,
        crn in 0_u8..16,
        crm in 0_u8..16,
        op2 in 0_u8..8,
        rt in 0_u8..32,
        read: bool,
    ) {
        let field = |value: u8, shift: u32| u64::from(value) << shift;
        let encoding = field(op0, 20) | field(op2, 17) | field(op1, 14) | field(crn, 10) | field(crm, 1);
        let iss = encoding | field(rt, 5) | u64::from(read);
        let access = Esr::new(0x18 << 26 | IL | iss).system_access().unwrap();
        prop_assert_eq!(access.encoding(), Encoding { op0, op1, crn, crm, op2 });
        prop_assert_eq!((access.register(), access.is_read()), (rt, read));
    }
}
