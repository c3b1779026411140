//! Every row of the table, on a CPU that has everything and on one that has nothing.

use super::super::registers::{self, Access, El2, Policy, Register, Row};
use super::super::system::{Maintenance, SetWay};
use super::super::{Note, Outcome, Refused, ids};
use super::host::{Host, Model, mrs, msr, msr_immediate, sys};
use crate::features::{self, IdRegister, Units};
use crate::inject::pstate;
use crate::syndrome::{EC_SHIFT, Encoding, Esr, IL};

/// Registers that are no plain rows: their meaning is tested by name below and among the exceptions.
const SPECIAL: &[El2] = &[El2::Hcr, El2::Sctlr, El2::Vbar, El2::IccSre, El2::Rmr];

#[test]
fn the_rich_cpu_has_every_register() {
    let model = Model::everything();
    for &register in El2::ALL {
        assert!(register.needs().met(&model.settings()), "{}", register.name());
    }
    for &register in Register::ALL {
        assert!(register.needs().met(&model.settings()), "{}", register.name());
    }
}

#[test]
fn values_of_el2_registers_are_kept() {
    let mut host = Host::new(Model::everything());
    for &register in El2::ALL {
        let writes = host.cpu.el2_writes;
        let chosen = register.set_up().and_then(|register| host.cpu.chosen(register));
        if !SPECIAL.contains(&register) {
            assert_eq!(
                host.read_el2(register),
                match register {
                    El2::Tcr => 0x8080_0000,
                    El2::Vtcr => 0x8000_0000,
                    _ => chosen.unwrap_or(0),
                },
                "{} at entry",
                register.name()
            );
            for value in [0, !0, 0x5555_aaaa_1234_8765] {
                host.write_el2(register, value);
                assert_eq!(host.read_el2(register), value, "{}", register.name());
                assert_eq!(host.el2.get(register), value, "{}", register.name());
            }
        }
        // What may reach hardware the fake CPU checks; here is whether it does.
        let written = host.cpu.el2_writes - writes;
        match register.policy() {
            Policy::Filtered { .. } => assert_eq!(written, if chosen.is_some() { 3 } else { 0 }, "{}", register.name()),
            Policy::Shadow | Policy::Special => assert_eq!(written, 0, "{}", register.name()),
        }
    }
}

#[test]
fn accesses_are_counted_by_register_and_told_when_the_host_goes_on_in_hardware() {
    let mut host = Host::new(Model::everything());
    for _ in 0..300 {
        host.read_el2(El2::Vtcr);
    }
    host.write_el2(El2::Hstr, 0);
    let number = |register: El2| register as usize;
    assert_eq!(host.cpu.counted.get(&number(El2::Vtcr)), Some(&256), "what has no room is told at once");
    host.read(Register::CntfrqEl0.encoding());
    host.read(Encoding::new(3, 0, 0, 7, 1));
    host.write_el2(El2::Spsr, pstate::DAIF | pstate::EL1H);
    host.execute(0xd69f_03e0);
    let counted = |number: usize| host.cpu.counted.get(&number).copied();
    assert_eq!((counted(number(El2::Vtcr)), counted(number(El2::Hstr))), (Some(300), Some(1)));
    let encodings = registers::ENCODINGS;
    for register in [Register::CntfrqEl0.encoding(), Encoding::new(3, 0, 0, 7, 1), El2::Vtcr.encoding()] {
        let number = encodings.iter().position(|&found| found == register).unwrap();
        assert!(counted(number).is_some_and(|count| count > 0), "{register}");
    }
    assert_eq!(encodings.len(), registers::COUNT_OTHERS);
}

/// What hardware has after a host has closed all that it can, and opened all.
#[test]
fn filters_open_and_never_close() {
    let mut host = Host::new(Model::everything());
    for &register in El2::ALL {
        let Policy::Filtered { free, open } = register.policy() else { continue };
        let Some(target) = register.set_up() else { panic!("{} is filtered for nothing", register.name()) };
        let Some(chosen) = host.cpu.chosen(target) else { continue };
        host.write_el2(register, 0);
        assert_eq!(host.cpu.el2(target), Some(chosen & !free), "{}", register.name());
        host.write_el2(register, !0);
        assert_eq!(host.cpu.el2(target), Some(chosen | free | open), "{}", register.name());
        host.write_el2(register, chosen);
        assert_eq!(host.cpu.el2(target), Some(chosen), "{}", register.name());
    }
}

#[test]
fn registers_of_el1_are_hardware() {
    let mut host = Host::new(Model::everything());
    for &register in Register::ALL {
        let borrowed = matches!(
            register,
            Register::SctlrEl1
                | Register::CpacrEl1
                | Register::MdscrEl1
                | Register::SpEl0
                | Register::IccPmrEl1
                | Register::IccIgrpen0El1
                | Register::IccIgrpen1El1
        );
        let value = 0x1234_5678_0000_0000 + register as u64;
        let before = host.cpu.get(register);
        if register.access() == Access::ReadOnly {
            host.expect_undefined(msr(register.encoding(), 0));
            host.cpu.set(register, value);
        } else {
            host.write(register.encoding(), value);
            assert_eq!(host.cpu.get(register), if borrowed { before } else { value }, "{}", register.name());
        }
        match (register, register.access()) {
            (_, Access::WriteOnly) => host.expect_undefined(mrs(register.encoding(), 1)),
            // Only if a cache is selected, see below.
            (Register::CcsidrEl1, _) => assert_eq!(host.read(register.encoding()), 0),
            _ => assert_eq!(host.read(register.encoding()), value, "{}", register.name()),
        }
    }
}

#[test]
fn a_register_that_the_cpu_lacks_is_undefined() {
    let mut host = Host::new(Model::nothing());
    let encodings = El2::ALL
        .iter()
        .filter(|register| !register.needs().met(&host.model.settings()))
        .map(|register| register.encoding())
        .chain(
            Register::ALL
                .iter()
                .filter(|register| !register.needs().met(&host.model.settings()))
                .map(|register| register.encoding()),
        )
        .collect::<Vec<_>>();
    assert!(encodings.len() > 80, "{}", encodings.len());
    for encoding in encodings {
        host.expect_undefined(mrs(encoding, 1));
        host.expect_undefined(msr(encoding, 1));
    }
}

/// ID registers promise, and EL3 or the CPU's maker does not keep it: an access that is undefined at EL2 is undefined
/// to the host, and changes nothing else.
#[test]
fn what_the_cpu_refuses_is_undefined() {
    let mut host = Host::new(Model::everything());
    host.cpu.id_space.push(((6, 0), 2 << 56));
    host.cpu.refuses = true;
    let (registers, hcr) = (host.cpu.clone(), host.cpu.hcr());
    for &register in Register::ALL {
        let (read, write) = (mrs(register.encoding(), 1), msr(register.encoding(), 1));
        match register {
            // Borrowed: hardware is not asked.
            Register::SctlrEl1
            | Register::CpacrEl1
            | Register::MdscrEl1
            | Register::SpEl0
            | Register::IccPmrEl1
            | Register::IccIgrpen0El1
            | Register::IccIgrpen1El1 => host.plainly(read),
            _ => {
                host.expect_undefined(read);
                host.expect_undefined(write);
            }
        }
    }
    for &register in El2::ALL {
        host.plainly(mrs(register.encoding(), 1));
        if matches!(register.policy(), Policy::Filtered { .. })
            && register.set_up().is_some_and(|r| host.cpu.chosen(r).is_some())
        {
            let before = host.el2.get(register);
            host.cpu.x[1] = !before;
            host.expect_undefined(msr(register.encoding(), 1));
            assert_eq!(host.el2.get(register), before, "{}", register.name());
        }
    }
    // By set and way, of everything, by address, with tags; of the TLB.
    for word in [sys(0, 7, 14, 2, 2), sys(0, 7, 5, 0, 31), sys(0, 7, 6, 1, 2), sys(0, 7, 6, 5, 2), sys(4, 8, 1, 4, 31)]
    {
        host.expect_undefined(word);
    }
    assert!(host.cpu.maintained == registers.maintained && host.cpu.cleaned.is_empty());
    assert_eq!((host.cpu.hcr(), host.cpu.el2_writes), (hcr, registers.el2_writes));
    for &register in Register::ALL {
        assert_eq!(host.cpu.get(register), registers.get(register), "{}", register.name());
    }
}

#[test]
fn refusals_are_told_apart() {
    for (esr, refused) in [
        (IL, Refused::Undefined),
        (0x18 << EC_SHIFT | IL, Refused::Undefined),
        (0x07 << EC_SHIFT | IL, Refused::Undefined),
        (0x25 << EC_SHIFT | IL | 0x10, Refused::NoMemory),
        (0x25 << EC_SHIFT | IL | 0x150, Refused::NoMemory),
    ] {
        assert_eq!(Refused::of(Esr::new(esr)), refused, "{esr:#x}");
    }
}

#[test]
fn registers_that_virtual_el2_does_not_have() {
    let mut host = Host::new(Model::everything());
    for (name, encoding) in [
        ("TTBR1_EL2", Encoding::new(3, 4, 2, 0, 1)),
        ("CONTEXTIDR_EL2", Encoding::new(3, 4, 13, 0, 1)),
        ("CNTHV_CTL_EL2", Encoding::new(3, 4, 14, 3, 1)),
        ("VNCR_EL2", Encoding::new(3, 4, 2, 2, 0)),
        ("VSTTBR_EL2", Encoding::new(3, 4, 2, 6, 0)),
        ("ICH_LR0_EL2", Encoding::new(3, 4, 12, 12, 0)),
        ("ICH_LR15_EL2", Encoding::new(3, 4, 12, 13, 7)),
    ] {
        assert!(matches!(registers::find(encoding), Some(Row::Absent(_))));
        assert_eq!(registers::name(encoding), Some(name));
        host.expect_undefined(mrs(encoding, 1));
        host.expect_undefined(msr(encoding, 1));
        let note = host.execute(mrs(encoding, 1)).note.expect("the log should say so");
        assert_eq!(note, Note::Unknown { encoding, is_read: true });
        assert_eq!(
            note.to_string(),
            format!("a read of {name}, which virtual EL2 does not have; it gets an undefined instruction")
        );
    }
    // SCTLR_EL12, CNTP_CTL_EL02, SCR_EL3, and a register that nobody has defined.
    for encoding in [
        Encoding::new(3, 5, 1, 0, 0),
        Encoding::new(3, 5, 14, 2, 1),
        Encoding::new(3, 6, 1, 1, 0),
        Encoding::new(3, 4, 1, 6, 3),
    ] {
        assert_eq!(registers::find(encoding), None);
        host.expect_undefined(mrs(encoding, 1));
        host.expect_undefined(msr(encoding, 1));
    }
    let note = host.execute(msr(Encoding::new(3, 4, 1, 6, 3), 1)).note.expect("the log should say so");
    assert_eq!(
        note.to_string(),
        "a write to S3_4_C1_C6_3, which virtual EL2 does not know; it gets an undefined instruction"
    );
}

/// All that an instruction can name, read and written, on CPUs of all kinds. The fake CPU refuses what would be a
/// mistake.
#[test]
#[cfg_attr(miri, ignore = "a million instructions")]
fn every_encoding_is_harmless() {
    for model in [Model::everything(), Model::nothing(), Model::cortex_a57(), Model::max(), Model::armv9()] {
        let mut host = Host::new(model);
        for vectors in [false, true] {
            for word in (0xd500_0000..0xd540_0000_u32).step_by(32) {
                if vectors {
                    host.el2.set_vectors(0x4100_0000);
                }
                for rt in [0, 31] {
                    host.cpu.x[0] = 0x5a5a_5a5a_5a5a_5a5a;
                    let answer = host.execute(word | rt);
                    assert!(matches!(answer.outcome, Outcome::Continue | Outcome::NoVectors { .. }));
                }
            }
        }
    }
}

#[test]
fn hcr_keeps_e2h_out() {
    let mut host = Host::new(Model::cortex_a57());
    assert_eq!(host.read_el2(El2::Hcr), 1 << 31);
    host.write_el2(El2::Hcr, !(1 << 34));
    assert_eq!(host.read_el2(El2::Hcr), !(1 << 34));
    host.cpu.x[0] = 1 << 34;
    assert_eq!(host.execute(msr(El2::Hcr.encoding(), 0)).note, Some(Note::Vhe));
    assert_eq!(host.read_el2(El2::Hcr), 0);
    // Where EL1 has no AArch32, RW is RAO.
    let mut host = Host::new(Model::nothing());
    host.write_el2(El2::Hcr, 0);
    assert_eq!(host.read_el2(El2::Hcr), 1 << 31);
}

#[test]
fn sctlr_has_no_mmu() {
    let mut host = Host::new(Model::cortex_a57());
    assert_eq!(host.read_el2(El2::Sctlr), 0x30c5_0830);
    assert_eq!(host.cpu.get(Register::SctlrEl1), 0x34d4_ca00);
    host.cpu.x[0] = 0x30c5_183f;
    assert_eq!(host.execute(msr(El2::Sctlr.encoding(), 0)).note, Some(Note::Stage1));
    assert_eq!(host.read_el2(El2::Sctlr), 0x30c5_183e);
    // Once is enough for the log.
    assert_eq!(host.execute(msr(El2::Sctlr.encoding(), 0)).note, None);
    // A, SA and I are EL0's now.
    assert_eq!(host.cpu.get(Register::SctlrEl1), 0x34d4_ca00 | 1 << 1 | 1 << 4 | 1 << 12);
    host.write_el2(El2::Sctlr, 1 << 25);
    assert_eq!(host.cpu.get(Register::SctlrEl1), 0x34d4_ca00 | 1 << 24);
    // The keys work where there are any.
    host.write_el2(El2::Sctlr, 0xc800_2000);
    assert_eq!(host.cpu.get(Register::SctlrEl1), 0x34d4_ca00);
    let mut host = Host::new(Model::max());
    host.write_el2(El2::Sctlr, 0xc800_2000);
    assert_eq!(host.cpu.get(Register::SctlrEl1), 0x2_34d4_ca00 | 0xc800_2000);
}

#[test]
fn other_special_registers() {
    let mut host = Host::new(Model::everything());
    assert_eq!(host.el2.vectors(), None);
    assert_eq!(host.read_el2(El2::Vbar), 0);
    host.write_el2(El2::Vbar, 0x4123_4fff);
    assert_eq!(host.read_el2(El2::Vbar), 0x4123_4800);
    assert_eq!(host.el2.vectors(), Some(0x4123_4800));

    assert_eq!(host.read_el2(El2::IccSre), 0xf);
    host.write_el2(El2::IccSre, 0);
    assert_eq!(host.read_el2(El2::IccSre), 0xf);

    assert_eq!(host.read_el2(El2::Rmr), 1);
    host.cpu.x[0] = 3;
    assert_eq!(host.execute(msr(El2::Rmr.encoding(), 0)).note, Some(Note::Reset));
    assert_eq!(host.read_el2(El2::Rmr), 1);

    // A GICv3 that runs as a GICv2 has ICC_SRE_EL2.SRE 0, and no other register.
    let mut host = Host::new(Model { gic: features::Gic::V2, ..Model::cortex_a57() });
    host.write_el2(El2::IccSre, 9);
    assert_eq!(host.read_el2(El2::IccSre), 0);
    host.expect_undefined(msr(El2::IchHcr.encoding(), 0));
    host.expect_undefined(mrs(Register::IccPmrEl1.encoding(), 0));
    host.expect_undefined(mrs(Register::IccIgrpen1El1.encoding(), 0));
    // Without a GICv3 there is no ICC_SRE_EL2 either.
    let mut host = Host::new(Model::cortex_a57_gicv2());
    host.expect_undefined(mrs(El2::IccSre.encoding(), 0));
}

#[test]
fn el3_keeps_its_registers() {
    let mut host = Host::new(Model::cortex_a57());
    assert_eq!(host.read(Register::RvbarEl2.encoding()), 0);
    let secure = Model::new(&[(IdRegister::Pfr0, 0x0100_1222)], features::Gic::V3);
    let mut host = Host::new(secure);
    host.expect_undefined(mrs(El2::Rmr.encoding(), 0));
    host.expect_undefined(mrs(Register::RvbarEl2.encoding(), 0));
    // With EL3, TRFCR_EL1 may be its own; TRFCR_EL2 is only kept.
    let traced = Model::new(&[(IdRegister::Pfr0, 0x1222), (IdRegister::Dfr0, 1 << 40)], features::Gic::V2);
    let mut host = Host::new(traced);
    host.expect_undefined(mrs(Register::TrfcrEl1.encoding(), 0));
    let writes = host.cpu.el2_writes;
    host.write_el2(El2::Trfcr, 3);
    assert_eq!((host.read_el2(El2::Trfcr), host.cpu.el2_writes), (3, writes));
}

/// A rich CPU with EL3.
fn with_el3() -> Model {
    let mut model = Model::everything();
    model.ids = features::IdRegisters::read(|register| {
        let value = model.ids.get(register);
        if register == IdRegister::Pfr0 { value | 0x1000 } else { value }
    });
    model
}

#[test]
fn a_host_that_uses_a_register_asks_for_its_unit() {
    use features::{Register as R, Unit};
    let mut host = Host::new(with_el3());
    // To look at what Exeunt has chosen is nothing yet, and neither is what is only kept.
    assert_eq!(host.read_el2(El2::Brbcr), 0x18);
    host.write_el2(El2::Gcscr, 1);
    host.write_el2(El2::Sctlr2, 1);
    assert_eq!((host.cpu.opened, host.cpu.el2(R::BrbcrEl2)), (Units::NONE, None));
    // Nor does it open anything to set the bit that lets EL1 have it.
    host.write_el2(El2::Hcrx, !0);
    host.write_el2(El2::Hdfgrtr, 7 << 59);
    assert_eq!(host.cpu.el2(R::HcrxEl2).unwrap() & (1 << 22 | 1 << 15), 0);
    assert_eq!(host.cpu.el2(R::HdfgrtrEl2).unwrap() & 7 << 59, 0);

    host.write_el2(El2::Brbcr, 0x78);
    assert_eq!(host.cpu.opened, Units::NONE.with(Unit::Brbe));
    assert_eq!(host.cpu.el2(R::BrbcrEl2), Some(0x78), "what a record may contain is the host's business");
    assert_eq!(host.cpu.el2(R::HdfgrtrEl2).unwrap() & 7 << 59, 7 << 59);
    host.write(Register::Gcscre0El1.encoding(), 0);
    assert_eq!(host.cpu.opened, Units::NONE.with(Unit::Brbe).with(Unit::Gcs));
    assert_eq!(host.cpu.el2(R::HcrxEl2).unwrap() & 1 << 22, 1 << 22);
    host.read(Register::MpamidrEl1.encoding());
    assert!(host.cpu.opened.contains(Unit::Mpam));
    assert_eq!((host.cpu.el2(R::Mpam2El2), host.cpu.el2(R::MpamhcrEl2)), (Some(1 << 50), Some(0)));
    // What is open stays open.
    host.write_el2(El2::Hcrx, 0);
    host.write_el2(El2::Hdfgrtr, 0);
    assert_eq!(host.cpu.el2(R::HcrxEl2).unwrap() & 1 << 22, 1 << 22);
    assert_eq!(host.cpu.el2(R::HdfgrtrEl2).unwrap() & 7 << 59, 7 << 59);
}

#[test]
fn id_registers_are_the_cpus_but_for_what_is_hidden() {
    let mut host = Host::new(Model::max());
    assert_eq!(host.read(Encoding::new(3, 0, 0, 0, 0)), 0xf_0510);
    assert_eq!(host.read(Encoding::new(3, 0, 0, 0, 5)), 0x8000_0000);
    assert_eq!(host.read(ids::MMFR0), 0x2100_0323_1020_1126);
    // FEAT_VHE, FEAT_NV.
    assert_eq!(host.read(ids::MMFR1), 0x0110_1120_1031_2022);
    assert_eq!(host.read(ids::MMFR2), 0x1221_0111_1001_1011);
    // A register that nobody has defined yet, and one of the CPU's own future.
    assert_eq!(host.read(Encoding::new(3, 0, 0, 7, 7)), 0);
    host.cpu.id_space.push(((7, 7), 0x77));
    host.cpu.id_space.push(((7, 4), 0x0ff1_0000));
    assert_eq!(host.read(Encoding::new(3, 0, 0, 7, 7)), 0x77);
    assert_eq!(host.read(ids::MMFR4), 0x0f01_0000);
    for register in [ids::MMFR0, Encoding::new(3, 0, 0, 0, 0), Encoding::new(3, 0, 0, 7, 7)] {
        host.expect_undefined(msr(register, 0));
    }
    // Those that come with a feature.
    host.expect_undefined(mrs(IdRegister::Pmbidr.encoding(), 0));
    let mut host = Host::new(Model::everything());
    assert_eq!(host.read(IdRegister::Pmsidr.encoding()), 1 << 7);
    assert_eq!(host.read(IdRegister::Smidr.encoding()), 1 << 15);
    host.expect_undefined(msr(IdRegister::Pmsidr.encoding(), 0));
    // Nothing else is at CRm 0.
    for op2 in [1, 2, 3, 4, 7] {
        host.expect_undefined(mrs(Encoding::new(3, 0, 0, 0, op2), 0));
    }
}

#[test]
fn granules_for_stage_2_can_be_hidden() {
    let mut host = Host::new(Model { hide: true, ..Model::max() });
    assert_eq!(host.read(ids::MMFR0), 0x2100_0111_1020_1126);
    assert_eq!(ids::at_el1(ids::MMFR0, 0x2100_0323_1020_1126, true), 0x2100_0111_1020_1126);
    assert_eq!(ids::at_el1(ids::MMFR0, 0x2100_0323_1020_1126, false), 0x2100_0323_1020_1126);
    // At EL1 the host may see what virtual EL2 does not have.
    assert_eq!(ids::at_el1(ids::MMFR1, 0x0110_1120_1031_2122, true), 0x0110_1120_1031_2122);
    assert_eq!(host.cpu.hcr() & 1 << 18, 1 << 18);
}

#[test]
fn pstate_is_read_and_written() {
    let mut host = Host::new(Model::everything());
    let view = |op1, crm, op2| Encoding::new(3, op1, 4, crm, op2);
    assert_eq!(host.read(view(0, 2, 2)), 8);
    host.expect_undefined(msr(view(0, 2, 2), 0));
    assert_eq!(host.read(view(0, 2, 0)), 1);
    assert_eq!(host.read(view(3, 2, 1)), pstate::DAIF);
    for (op1, crm, op2, mask) in [
        (3, 2, 0, pstate::NZCV),
        (3, 2, 1, pstate::DAIF),
        (0, 2, 3, pstate::PAN),
        (0, 2, 4, pstate::UAO),
        (3, 2, 5, pstate::DIT),
        (3, 2, 6, pstate::SSBS),
        (3, 2, 7, pstate::TCO),
        (0, 3, 0, pstate::ALLINT),
        (0, 3, 1, pstate::PM),
    ] {
        host.write(view(op1, crm, op2), !0);
        assert_eq!(host.cpu.spsr & mask, mask);
        assert_eq!(host.read(view(op1, crm, op2)), mask);
        host.write(view(op1, crm, op2), 0);
        assert_eq!(host.cpu.spsr & mask, 0);
    }
    for (op1, op2, immediate, mask) in [
        (3, 6, 15, pstate::DAIF),
        (3, 6, 2, pstate::DAIF & 2 << 6),
        (0, 4, 1, pstate::PAN),
        (0, 3, 1, pstate::UAO),
        (3, 2, 1, pstate::DIT),
        (3, 1, 1, pstate::SSBS),
        (3, 4, 1, pstate::TCO),
        (1, 0, 1, pstate::ALLINT),
        (1, 0, 3, pstate::PM),
    ] {
        let before = host.cpu.spsr;
        host.plainly(msr_immediate(op1, op2, immediate));
        assert_eq!(host.cpu.spsr, before | mask);
        let clear = match (op1, op2) {
            (3, 6) => msr_immediate(3, 7, immediate),
            (1, 0) => msr_immediate(1, 0, immediate & 2),
            _ => msr_immediate(op1, op2, 0),
        };
        host.plainly(clear);
        assert_eq!(host.cpu.spsr, before & !mask);
    }
    let mut host = Host::new(Model::nothing());
    for (op1, op2, immediate) in [(0, 4, 1), (0, 3, 1), (3, 2, 1), (3, 1, 1), (3, 4, 1), (1, 0, 1), (1, 0, 3)] {
        host.expect_undefined(msr_immediate(op1, op2, immediate));
    }
    for (op1, crm, op2) in [(0, 2, 3), (0, 2, 4), (3, 2, 5), (3, 2, 6), (3, 2, 7), (0, 3, 0), (0, 3, 1)] {
        host.expect_undefined(mrs(view(op1, crm, op2), 0));
        host.expect_undefined(msr(view(op1, crm, op2), 0));
    }
}

#[test]
fn cache_sizes_are_asked_for_caches_that_there_are() {
    let mut host = Host::new(Model::cortex_a57());
    // Level 1 separate, level 2 unified.
    host.cpu.set(Register::ClidrEl1, 0x0a20_0023);
    host.cpu.set(Register::CcsidrEl1, 0x1234);
    for (selected, exists) in
        [(0, true), (1, true), (2, true), (3, false), (4, false), (12, false), (14, false), (0x10, false)]
    {
        host.write(Register::CsselrEl1.encoding(), selected);
        let expected = if exists { 0x1234 } else { 0 };
        assert_eq!(host.read(Register::CcsidrEl1.encoding()), expected, "CSSELR_EL1 {selected:#x}");
    }
}

/// op1, and for each CRm the values of op2.
type Group = &'static [(u8, &'static [(u8, &'static [u8])])];

/// Every instruction of the SYS space on a CPU with everything: what it does, and that there is no other.
#[test]
fn system_instructions() {
    use Maintenance as M;
    use SetWay as S;
    let mut host = Host::new(Model::everything());
    host.cpu.id_space.push(((6, 0), 2 << 56));
    let clean = [(6, 1, false), (6, 3, true), (6, 5, true)];
    let set_way = [
        (6, 2, S::DcCisw),
        (14, 2, S::DcCisw),
        (10, 2, S::DcCsw),
        (6, 4, S::DcCigdsw),
        (6, 6, S::DcCigdsw),
        (14, 4, S::DcCigdsw),
        (14, 6, S::DcCigdsw),
        (10, 4, S::DcCgdsw),
        (10, 6, S::DcCgdsw),
    ];
    host.cpu.x[2] = 0x4567_8900;
    for (crm, op2, tags) in clean {
        host.plainly(sys(0, 7, crm, op2, 2));
        assert_eq!(host.cpu.cleaned.pop(), Some((0x4567_8900, tags)));
    }
    for (crm, op2, instruction) in set_way {
        host.plainly(sys(0, 7, crm, op2, 2));
        assert_eq!(host.cpu.maintained_sets.pop(), Some((instruction, 0x4567_8900)));
    }
    for (crm, instruction) in [(5, M::IcIallu), (1, M::IcIalluis)] {
        host.plainly(sys(0, 7, crm, 0, 31));
        assert_eq!(host.cpu.maintained.pop(), Some(instruction));
    }
    // CRm and op2 of TLBI by what they do, for op1 0 and 4; nXS variants have CRn 9.
    let local: Group =
        &[(0, &[(7, &[0, 1, 2, 3, 5, 7]), (6, &[1, 3, 5, 7])]), (4, &[(7, &[4, 6]), (4, &[1, 2, 5, 6])])];
    let inner: Group =
        &[(0, &[(3, &[0, 1, 2, 3, 5, 7]), (2, &[1, 3, 5, 7])]), (4, &[(3, &[4, 6]), (0, &[1, 2, 5, 6])])];
    let outer: Group =
        &[(0, &[(1, &[0, 1, 2, 3, 5, 7]), (5, &[1, 3, 5, 7])]), (4, &[(1, &[4, 6]), (4, &[0, 3, 4, 7])])];
    let nothing: Group =
        &[(4, &[(1, &[0, 1, 5]), (2, &[1, 5]), (3, &[0, 1, 5]), (5, &[1, 5]), (6, &[1, 5]), (7, &[0, 1, 5])])];
    let mut known = Vec::new();
    for (group, effect) in
        [(local, Some(M::TlbiAlle1)), (inner, Some(M::TlbiAlle1is)), (outer, Some(M::TlbiAlle1os)), (nothing, None)]
    {
        host.cpu.maintained.clear();
        for &(op1, rows) in group {
            for &(crm, op2s) in rows {
                for &op2 in op2s {
                    for crn in [8, 9] {
                        known.push((op1, crn, crm, op2));
                        host.plainly(sys(op1, crn, crm, op2, 2));
                        assert_eq!(host.cpu.maintained.pop(), effect, "TLBI {op1} {crn} {crm} {op2}");
                    }
                }
            }
        }
    }
    known.extend(clean.map(|(crm, op2, _)| (0, 7, crm, op2)));
    known.extend(set_way.map(|(crm, op2, _)| (0, 7, crm, op2)));
    known.extend([(0, 7, 5, 0), (0, 7, 1, 0)]);
    // Miri takes too long for all 16,384.
    let op1s = if cfg!(miri) { 0..0 } else { 0..8 };
    for (op1, crn) in op1s.flat_map(|op1| (0..16).map(move |crn| (op1, crn))) {
        for (crm, op2) in (0..16).flat_map(|crm| (0..8).map(move |op2| (crm, op2))) {
            let answer = host.execute(sys(op1, crn, crm, op2, 2));
            let expected = known.contains(&(op1, crn, crm, op2));
            assert_eq!(answer.note.is_none(), expected, "{op1} {crn} {crm} {op2}");
        }
    }
}

#[test]
fn system_instructions_that_the_cpu_lacks() {
    let mut host = Host::new(Model::nothing());
    // Tags, TLBI by range, outer shareable, nXS; AT; DC CIVAC, which is native where it is defined; SYSL.
    for word in [
        sys(0, 7, 6, 3, 0),
        sys(0, 7, 10, 6, 0),
        sys(0, 8, 6, 1, 0),
        sys(0, 8, 1, 0, 0),
        sys(0, 9, 7, 0, 0),
        sys(4, 7, 8, 0, 0),
        sys(3, 7, 14, 1, 0),
        0xd52b_7724,
    ] {
        host.expect_undefined(word);
    }
    host.cpu.id_space.push(((6, 0), 1 << 56));
    host.plainly(sys(0, 8, 1, 0, 0));
    host.expect_undefined(sys(0, 8, 6, 1, 0));
}
