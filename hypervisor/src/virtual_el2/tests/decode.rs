//! Words that an assembler has made, and all others.

use super::super::decode::{Field, Operation, Return, decode, from_syndrome};
use super::super::system::{Maintenance, SetWay};
use super::host::{mrs, msr, msr_immediate, sys, trapped};
use crate::syndrome::Encoding;

const fn register(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Encoding {
    Encoding::new(op0, op1, crn, crm, op2)
}

/// What LLVM's assembler makes of the line in the comment.
const ASSEMBLED: &[(u32, Operation)] = &[
    // mrs x0, CurrentEL
    (0xd538_4240, Operation::Read { register: register(3, 0, 4, 2, 2), rt: 0 }),
    // mrs x30, hcr_el2
    (0xd53c_111e, Operation::Read { register: register(3, 4, 1, 1, 0), rt: 30 }),
    // mrs xzr, mdscr_el1
    (0xd530_025f, Operation::Read { register: register(2, 0, 0, 2, 2), rt: 31 }),
    // msr vbar_el2, x0
    (0xd51c_c000, Operation::Write { register: register(3, 4, 12, 0, 0), rt: 0 }),
    // msr cntvoff_el2, xzr
    (0xd51c_e07f, Operation::Write { register: register(3, 4, 14, 0, 3), rt: 31 }),
    // msr oslar_el1, x2
    (0xd510_1082, Operation::Write { register: register(2, 0, 1, 0, 4), rt: 2 }),
    // msr SPSel, #1
    (0xd500_41bf, Operation::WriteField { field: Field::SpSel, immediate: 1 }),
    // msr DAIFSet, #15
    (0xd503_4fdf, Operation::WriteField { field: Field::DaifSet, immediate: 15 }),
    // msr DAIFClr, #4
    (0xd503_44ff, Operation::WriteField { field: Field::DaifClr, immediate: 4 }),
    // msr PAN, #1
    (0xd500_419f, Operation::WriteField { field: Field::Pan, immediate: 1 }),
    // msr UAO, #0
    (0xd500_407f, Operation::WriteField { field: Field::Uao, immediate: 0 }),
    // msr DIT, #1
    (0xd503_415f, Operation::WriteField { field: Field::Dit, immediate: 1 }),
    // msr SSBS, #0
    (0xd503_403f, Operation::WriteField { field: Field::Ssbs, immediate: 0 }),
    // msr TCO, #1
    (0xd503_419f, Operation::WriteField { field: Field::Tco, immediate: 1 }),
    // msr ALLINT, #1
    (0xd501_411f, Operation::WriteField { field: Field::AllInt, immediate: 1 }),
    // msr PM, #1
    (0xd501_431f, Operation::WriteField { field: Field::Pm, immediate: 3 }),
    // dc ivac, x0
    (0xd508_7620, Operation::System { instruction: register(1, 0, 7, 6, 1), rt: 0 }),
    // dc cisw, x11
    (0xd508_7e4b, Operation::System { instruction: register(1, 0, 7, 14, 2), rt: 11 }),
    // ic iallu
    (0xd508_751f, Operation::System { instruction: register(1, 0, 7, 5, 0), rt: 31 }),
    // tlbi vmalle1
    (0xd508_871f, Operation::System { instruction: register(1, 0, 8, 7, 0), rt: 31 }),
    // tlbi alle2is
    (0xd50c_831f, Operation::System { instruction: register(1, 4, 8, 3, 0), rt: 31 }),
    // at s1e2r, x3
    (0xd50c_7803, Operation::System { instruction: register(1, 4, 7, 8, 0), rt: 3 }),
    // sysl x4, #3, c7, c7, #1
    (0xd52b_7724, Operation::SystemRead { instruction: register(1, 3, 7, 7, 1), rt: 4 }),
    // eret
    (0xd69f_03e0, Operation::Return(Return::Plain)),
    // eretaa
    (0xd69f_0bff, Operation::Return(Return::KeyA)),
    // eretab
    (0xd69f_0fff, Operation::Return(Return::KeyB)),
    // hvc #0
    (0xd400_0002, Operation::Hvc(0)),
    // hvc #0xffff
    (0xd41f_ffe2, Operation::Hvc(0xffff)),
    // smc #0x1234
    (0xd402_4683, Operation::Smc(0x1234)),
    // svc #0
    (0xd400_0001, Operation::Other),
    // brk #1
    (0xd420_0020, Operation::Other),
    // hlt #1
    (0xd440_0020, Operation::Other),
    // dcps1
    (0xd4a0_0001, Operation::Other),
    // nop
    (0xd503_201f, Operation::Other),
    // wfi
    (0xd503_207f, Operation::Other),
    // wfit x1
    (0xd503_1021, Operation::Other),
    // isb
    (0xd503_3fdf, Operation::Other),
    // dsb sy
    (0xd503_3f9f, Operation::Other),
    // clrex
    (0xd503_3f5f, Operation::Other),
    // cfinv
    (0xd500_401f, Operation::Other),
    // smstart
    (0xd503_477f, Operation::Other),
    // udf #0
    (0x0000_0000, Operation::Other),
    // ret
    (0xd65f_03c0, Operation::Other),
    // drps
    (0xd6bf_03e0, Operation::Other),
    // mrrs x0, x1, ttbr0_el1
    (0xd578_2000, Operation::Other),
    // msrr ttbr0_el1, x0, x1
    (0xd558_2000, Operation::Other),
    // sysp #0, c8, c7, #1, x0, x1
    (0xd548_8720, Operation::Other),
    // ptrue p0.b
    (0x2518_e3e0, Operation::Other),
];

#[test]
fn assembled_words_decode() {
    for &(word, operation) in ASSEMBLED {
        assert_eq!(decode(word), operation, "{word:#010x}");
    }
}

#[test]
fn words_of_the_tests_are_those_of_the_assembler() {
    assert_eq!(mrs(register(3, 4, 1, 1, 0), 30), 0xd53c_111e);
    assert_eq!(mrs(register(2, 0, 0, 2, 2), 31), 0xd530_025f);
    assert_eq!(msr(register(3, 4, 14, 0, 3), 31), 0xd51c_e07f);
    assert_eq!(msr_immediate(3, 6, 15), 0xd503_4fdf);
    assert_eq!(sys(0, 7, 6, 1, 0), 0xd508_7620);
}

/// What LLVM's assembler makes of the instructions that Exeunt executes for the host.
#[test]
fn maintenance_is_what_it_is_called() {
    let assembled = [
        (SetWay::DcCisw.encoding(), 0xd508_7e40_u32),
        (SetWay::DcCsw.encoding(), 0xd508_7a40),
        (SetWay::DcCigdsw.encoding(), 0xd508_7ec0),
        (SetWay::DcCgdsw.encoding(), 0xd508_7ac0),
        (Maintenance::IcIallu.encoding(), 0xd508_751f),
        (Maintenance::IcIalluis.encoding(), 0xd508_711f),
        (Maintenance::TlbiAlle1.encoding(), 0xd50c_879f),
        (Maintenance::TlbiAlle1is.encoding(), 0xd50c_839f),
        (Maintenance::TlbiAlle1os.encoding(), 0xd50c_819f),
    ];
    assert_eq!(assembled.len(), Maintenance::ALL.len() + SetWay::ALL.len());
    for (instruction, word) in assembled {
        assert!(matches!(decode(word), Operation::System { instruction: decoded, .. } if decoded == instruction));
    }
}

#[test]
fn a_syndrome_says_the_same_as_the_word() {
    for &(word, operation) in ASSEMBLED {
        if matches!(
            operation,
            Operation::Read { .. } | Operation::Write { .. } | Operation::System { .. } | Operation::SystemRead { .. }
        ) {
            let access = trapped(word).system_access().expect("it is of this class");
            assert_eq!(from_syndrome(access), operation, "{word:#010x}");
        }
    }
}

/// Every word of the system space is decoded to what it says, and encodes to itself.
#[test]
#[cfg_attr(miri, ignore = "four million words")]
fn the_system_space_decodes_without_loss() {
    for word in 0xd500_0000..0xd540_0000_u32 {
        match decode(word) {
            Operation::Read { register, rt } => assert_eq!(mrs(register, rt), word),
            Operation::Write { register, rt } => assert_eq!(msr(register, rt), word),
            Operation::System { instruction, rt } => assert_eq!(msr(instruction, rt), word),
            Operation::SystemRead { instruction, rt } => assert_eq!(mrs(instruction, rt), word),
            Operation::WriteField { .. } => assert_eq!(word & 0xfff8_f01f, 0xd500_401f, "{word:#010x}"),
            Operation::Other => assert_eq!(word & 0x0018_0000, 0, "{word:#010x}"),
            other => panic!("{word:#010x}: {other:?}"),
        }
    }
}
