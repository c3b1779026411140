//! Exceptions that virtual EL2 takes to itself, its exception returns, and what is held until it is gone.

use super::super::exception::{self, Target};
use super::super::registers::{El2, Register};
use super::super::{Note, Outcome};
use super::host::{ENTRY, ERET, Host, Model, RAM_END, UNDEFINED, mrs, msr, msr_immediate, sys};
use crate::features;
use crate::inject::pstate;
use crate::syndrome::{EC_SHIFT, Encoding, Esr, IL};

const VECTORS: u64 = 0x4120_0000;
const EL2T: u64 = 0b1000;
const EL2H: u64 = 0b1001;
const UDF: u32 = 0;
const SP_SEL: Encoding = Encoding::new(3, 0, 4, 2, 0);

fn with_vectors(model: Model) -> Host {
    let mut host = Host::new(model);
    host.write_el2(El2::Vbar, VECTORS);
    host
}

/// ESR_EL2 with this class and these bits of ISS, for an instruction of 32 bits.
fn esr(class: u64, iss: u64) -> Esr {
    Esr::new(class << EC_SHIFT | IL | iss)
}

#[test]
fn without_vectors_the_cpu_is_lost() {
    let mut host = Host::new(Model::cortex_a57());
    let answer = host.execute(UDF);
    assert_eq!(answer.outcome, Outcome::NoVectors { pc: ENTRY, esr: IL });
    assert_eq!(answer.note, Some(Note::UndefinedInstruction(0)));
    assert_eq!(host.cpu.pc, ENTRY);
    let answer = host.execute(0xd400_0002);
    assert_eq!(answer.outcome, Outcome::NoVectors { pc: ENTRY + 4, esr: 0x5a00_0000 });
}

#[test]
fn undefined_instruction() {
    let mut host = with_vectors(Model::cortex_a57());
    host.cpu.spsr |= 0x6000_0000 | pstate::SS | pstate::BTYPE;
    host.cpu.spsr &= !(1 << 7);
    let (pc, spsr) = (host.cpu.pc, host.cpu.spsr);
    let answer = host.execute(UDF);
    assert_eq!(answer.outcome, Outcome::Continue);
    assert_eq!(host.cpu.pc, VECTORS + 0x200);
    assert_eq!(host.cpu.spsr, 0x6000_0000 | pstate::DAIF);
    assert_eq!(host.read_el2(El2::Elr), pc);
    assert_eq!(host.read_el2(El2::Esr), 0x200_0000);
    assert_eq!(host.read_el2(El2::Spsr), spsr | EL2H);
    assert_eq!(host.read_el2(El2::Far), 0);
}

/// PSTATE at the vector, on a CPU with all of its fields: PAN is what it was, since SPAN is a field of FEAT_VHE's.
#[test]
fn pstate_at_the_vector() {
    let mut host = with_vectors(Model::everything());
    host.write_el2(El2::Sctlr, 1 << 44);
    host.cpu.spsr |= pstate::PAN | pstate::UAO | pstate::DIT;
    host.execute(UDF);
    let expected = pstate::DAIF | pstate::PAN | pstate::DIT | pstate::SSBS | pstate::TCO | pstate::ALLINT | pstate::PM;
    assert_eq!(host.cpu.spsr, expected);
    let mut host = with_vectors(Model::everything());
    host.write_el2(El2::Sctlr, 1 << 62);
    host.write_el2(El2::Gcscr, 1 << 6);
    host.execute(UDF);
    assert_eq!(host.cpu.spsr, pstate::DAIF | pstate::TCO | pstate::PM | pstate::EXLOCK);
}

#[test]
fn stack_pointers() {
    let mut host = with_vectors(Model::cortex_a57());
    host.write(Register::SpEl0.encoding(), 0x1000);
    host.cpu.set(Register::SpEl0, 0x2000); // mov sp, ... with SPSel 1
    host.plainly(msr_immediate(0, 5, 0));
    assert_eq!(host.read(SP_SEL), 0);
    assert_eq!(host.cpu.get(Register::SpEl0), 0x1000);
    // The selected one has no name as a register, and SP_EL2 has none below EL3.
    host.el2.set_vectors(VECTORS);
    host.execute(mrs(Register::SpEl0.encoding(), 0));
    // That was undefined, from EL2t, and with SP_EL2 now.
    assert_eq!(host.cpu.pc, VECTORS);
    assert_eq!(host.read_el2(El2::Spsr), pstate::DAIF | EL2T);
    assert_eq!(host.cpu.get(Register::SpEl0), 0x2000);
    assert_eq!(host.read(SP_SEL), 1);
    assert_eq!(host.read(Register::SpEl0.encoding()), 0x1000);
    host.expect_undefined(mrs(Encoding::new(3, 6, 4, 1, 0), 0));
    // Back by ERET.
    host.write_el2(El2::Elr, ENTRY);
    host.write_el2(El2::Spsr, EL2T);
    assert_eq!(host.execute(ERET).outcome, Outcome::Continue);
    assert_eq!((host.cpu.pc, host.cpu.spsr), (ENTRY, 0));
    assert_eq!(host.cpu.get(Register::SpEl0), 0x1000);
    // By MSR (register).
    host.write(SP_SEL, 1);
    assert_eq!(host.cpu.get(Register::SpEl0), 0x2000);
    host.write(SP_SEL, 1);
    assert_eq!(host.cpu.get(Register::SpEl0), 0x2000);
    // At EL1 it is SP_EL0, with SPSel 0 too.
    host.write(SP_SEL, 0);
    host.cpu.set(Register::SpEl0, 0x1500);
    host.write_el2(El2::Spsr, 0x3c5);
    assert!(matches!(host.execute(ERET).outcome, Outcome::GoNative { .. }));
    assert_eq!(host.cpu.get(Register::SpEl0), 0x1500);
}

#[test]
fn calls() {
    let mut host = with_vectors(Model::cortex_a57());
    let pc = host.cpu.pc;
    let answer = host.execute(0xd402_4682);
    assert_eq!((answer.outcome, answer.note), (Outcome::Continue, None));
    assert_eq!(host.cpu.pc, VECTORS + 0x200);
    assert_eq!(host.read_el2(El2::Esr), 0x5a00_1234);
    assert_eq!(host.read_el2(El2::Elr), pc + 4);
    // HCR_EL2.HCD, which without EL3 makes HVC undefined.
    host.write_el2(El2::Hcr, 1 << 31 | 1 << 29);
    host.expect_undefined(0xd402_4682);

    let pc = host.cpu.pc;
    host.cpu.spsr |= pstate::SS | pstate::BTYPE;
    let answer = host.execute(0xd402_4683);
    assert_eq!((answer.outcome, answer.note), (Outcome::Smc(0x1234), None));
    assert_eq!(host.cpu.pc, pc + 4);
    assert_eq!(host.cpu.spsr & (pstate::SS | pstate::BTYPE), 0);

    // SVC and BRK have been taken by the CPU: SVC leaves ELR_EL2 past it.
    let pc = host.cpu.pc;
    host.handle(esr(0x15, 7));
    assert_eq!((host.read_el2(El2::Esr), host.read_el2(El2::Elr)), (0x5600_0007, pc));
    host.handle(esr(0x3c, 0x800));
    assert_eq!(host.read_el2(El2::Esr), 0xf200_0800);
}

#[test]
fn waiting_is_over_at_once() {
    let mut host = Host::new(Model::cortex_a57());
    for iss in [0, 1, 2, 3] {
        let pc = host.cpu.pc;
        let answer = host.handle(esr(0x01, iss));
        assert_eq!((answer.outcome, answer.note), (Outcome::Continue, None));
        assert_eq!(host.cpu.pc, pc + 4);
    }
}

/// Stage 2's faults become external aborts; what the host has done itself stays what it is, from the same level.
#[test]
fn aborts() {
    let mut host = with_vectors(Model::cortex_a57());
    for (esr, far, expected) in [
        // Data abort, translation fault level 2, write, ISV.
        (esr(0x24, 1 << 24 | 0x46), 0x4000_0000, Some((0x9600_0050, 0x4000_0000))),
        // Instruction abort, translation fault level 3.
        (esr(0x20, 0x07), 0x4000_1000, Some((0x8600_0010, 0x4000_1000))),
        // Address size fault level 0.
        (esr(0x24, 0x00), 1 << 50, Some((0x9600_0010, 1 << 50))),
        // An unsupported exclusive access keeps its code.
        (esr(0x24, 0x35), 0x900_0000, Some((0x9600_0035, 0x900_0000))),
        // Alignment fault: with its MMU off, memory is Device.
        (esr(0x24, 0x21), 0x4040_0001, Some((0x9600_0021, 0x4040_0001))),
        // External abort without a FAR.
        (esr(0x24, 0x10 | 1 << 10), 0x4040_0001, Some((0x9600_0410, 0))),
        // External abort with one.
        (esr(0x20, 0x10), 0x4040_0004, Some((0x8600_0010, 0x4040_0004))),
        // Misaligned PC and SP.
        (esr(0x22, 0), 0x4040_0002, Some((0x8a00_0000, 0x4040_0002))),
        (esr(0x26, 0), 5, Some((0x9a00_0000, 0))),
        // Illegal execution state, Branch Target, failed authentication.
        (esr(0x0e, 0), 5, Some((0x3a00_0000, 0))),
        (esr(0x0d, 2), 5, Some((0x3600_0002, 0))),
        (esr(0x1c, 1), 5, Some((0x7200_0001, 0))),
        // Breakpoint and watchpoint.
        (esr(0x30, 0x22), 5, Some((0xc600_0022, 0))),
        (esr(0x34, 0x22), 0x77, Some((0xd600_0022, 0x77))),
        // Instructions that EL0 is kept from, or traps of Exeunt's.
        (esr(0x07, 0), 5, None),
        (esr(0x19, 0), 5, None),
        (esr(0x1d, 0), 5, None),
        (esr(0x0a, 0), 5, None),
        (esr(0x14, 0), 5, None),
        (esr(0x3f, 0), 5, None),
    ] {
        host.write_el2(El2::Far, 0);
        let pc = host.cpu.pc;
        host.cpu.far = far;
        let answer = host.handle(esr);
        assert_eq!(answer.outcome, Outcome::Continue);
        assert_eq!(answer.note, Some(Note::Exception(esr)));
        assert_eq!(host.cpu.pc, VECTORS + 0x200);
        let (syndrome, far) = expected.unwrap_or((IL, 0));
        assert_eq!((host.read_el2(El2::Esr), host.read_el2(El2::Far)), (syndrome, far), "{esr}");
        assert_eq!(host.read_el2(El2::Elr), pc);
    }
}

#[test]
fn an_instruction_that_cannot_be_read_aborts() {
    let mut host = with_vectors(Model::cortex_a57());
    host.cpu.pc = RAM_END;
    let answer = host.handle(UNDEFINED);
    assert_eq!((answer.outcome, answer.note), (Outcome::Continue, Some(Note::NoInstruction)));
    // Instruction abort, same level, external.
    assert_eq!(host.read_el2(El2::Esr), 0x8600_0010);
    assert_eq!((host.read_el2(El2::Far), host.read_el2(El2::Elr)), (RAM_END, RAM_END));
}

#[test]
fn invalidation_outside_ram_aborts() {
    let mut host = with_vectors(Model::cortex_a57());
    host.cpu.x[5] = RAM_END + 0x40;
    let pc = host.cpu.pc;
    assert_eq!(host.execute(sys(0, 7, 6, 1, 5)).outcome, Outcome::Continue);
    // Data abort, same level, external, cache maintenance, a write.
    assert_eq!(host.read_el2(El2::Esr), 0x9600_0150);
    assert_eq!((host.read_el2(El2::Far), host.read_el2(El2::Elr)), (RAM_END + 0x40, pc));
}

/// Every value of SPSR_EL2.M, with RW and TGE both ways, against a list by hand.
#[test]
fn return_targets() {
    use Target::{El2, Illegal, Native, Unsupported};
    const RW: u64 = 1 << 31;
    const TGE: u64 = 1 << 27;
    // AArch32 at EL1 and EL0 (cortex-a57), at EL0 only, nowhere.
    let everywhere = Model::cortex_a57();
    let at_el0 = Model::new(&[(features::IdRegister::Pfr0, 0x1112)], features::Gic::V2);
    let nowhere = Model::nothing();
    for mode in 0..32 {
        for (model, hcr, [el0, el1, user, aarch32]) in [
            (everywhere, RW, [Native, Native, Native, Illegal]),
            (everywhere, 0, [Illegal, Illegal, Unsupported, Unsupported]),
            (everywhere, RW | TGE, [Unsupported, Illegal, Unsupported, Illegal]),
            (everywhere, TGE, [Unsupported, Illegal, Unsupported, Illegal]),
            (at_el0, RW, [Native, Native, Native, Illegal]),
            (at_el0, 0, [Native, Native, Native, Illegal]),
            (nowhere, RW, [Native, Native, Illegal, Illegal]),
        ] {
            let expected = match mode {
                0 => el0,
                4 | 5 => el1,
                8 => El2 { sp_el2: false },
                9 => El2 { sp_el2: true },
                0x10 => user,
                0x11 | 0x12 | 0x13 | 0x17 | 0x1b | 0x1f => aarch32,
                _ => Illegal,
            };
            let target = exception::target(&model.ids, mode | 0x9000_0140, EL2H, hcr, 0);
            assert_eq!(target, expected, "M {mode:#x}, HCR_EL2 {hcr:#x}");
        }
    }
}

#[test]
fn returns() {
    for mode in [0, 4, 5, 8, 9, 0x10, 0x13, 0x1f, 1, 0xd] {
        let mut host = with_vectors(Model::cortex_a57());
        // Only Supervisor mode is seen with RW 0 here: legal, and more than Exeunt does.
        host.write_el2(El2::Hcr, if mode == 0x13 { 0 } else { 1 << 31 });
        host.write_el2(El2::Elr, 0x4300_0000);
        let spsr = mode | 0x9000_0000 | 0x140;
        host.write_el2(El2::Spsr, spsr);
        let pc = host.cpu.pc;
        let answer = host.execute(ERET);
        match mode {
            8 | 9 => {
                assert_eq!((answer.outcome, answer.note), (Outcome::Continue, None));
                assert_eq!((host.cpu.pc, host.cpu.spsr), (0x4300_0000, spsr & !0x1f));
                assert_eq!(host.read(SP_SEL), mode & 1);
            }
            0 | 4 | 5 | 0x10 => {
                assert_eq!(answer.outcome, Outcome::GoNative { pc: 0x4300_0000, pstate: spsr });
                assert_eq!(answer.note, None);
                assert_eq!((host.cpu.pc, host.cpu.spsr), (0x4300_0000, spsr));
            }
            0x13 => {
                assert_eq!(answer.note, Some(Note::UnsupportedReturn(spsr)));
                assert_eq!(host.el2.get(El2::Elr), pc);
                assert!(host.el2.in_window());
            }
            _ => {
                assert_eq!((answer.outcome, answer.note), (Outcome::Continue, Some(Note::IllegalReturn(spsr))));
                // To where it was meant, with IL, the flags and masks of SPSR, still at EL2h.
                assert_eq!((host.cpu.pc, host.cpu.spsr), (0x4300_0000, 0x9000_0140 | pstate::IL));
                // The next instruction is not executed.
                host.handle(esr(0x0e, 0));
                assert_eq!(host.cpu.pc, VECTORS + 0x200);
                assert_eq!(host.read_el2(El2::Spsr), 0x9000_0140 | pstate::IL | EL2H);
                assert_eq!(host.cpu.spsr & pstate::IL, 0);
            }
        }
    }
}

#[test]
fn locked_returns() {
    let mut host = with_vectors(Model::everything());
    host.write_el2(El2::Gcscr, 1 << 6);
    host.write_el2(El2::Elr, 0x4300_0000);
    host.write_el2(El2::Spsr, EL2H);
    assert_eq!(host.execute(ERET).note, Some(Note::IllegalReturn(EL2H)));
    assert_eq!(host.cpu.spsr, pstate::IL | pstate::EXLOCK);
    // From an exception, which locks.
    host.handle(esr(0x0e, 0));
    assert_eq!(host.cpu.spsr & pstate::EXLOCK, pstate::EXLOCK);
    assert_eq!(host.execute(ERET).note, None);
}

#[test]
fn authenticated_returns() {
    const ERETAA: u32 = 0xd69f_0bff;
    const ERETAB: u32 = 0xd69f_0fff;
    let mut host = with_vectors(Model::cortex_a57());
    host.expect_undefined(ERETAA);
    let mut host = with_vectors(Model::max());
    host.write_el2(El2::Sctlr, 1 << 31);
    host.write_el2(El2::Spsr, EL2H);
    assert_eq!(host.execute(ERETAA).note, Some(Note::AuthenticatedReturn));
    host.write_el2(El2::Elr, 0x4300_0000);
    host.write_el2(El2::Spsr, EL2H);
    // Key B is off: no more than ERET.
    let answer = host.execute(ERETAB);
    assert_eq!((answer.outcome, answer.note), (Outcome::Continue, None));
    assert_eq!(host.cpu.pc, 0x4300_0000);
}

fn leave(host: &mut Host) {
    host.write_el2(El2::Elr, 0x4300_0000);
    host.write_el2(El2::Spsr, 0x3c5);
    assert_eq!(host.execute(ERET).outcome, Outcome::GoNative { pc: 0x4300_0000, pstate: 0x3c5 });
}

#[test]
fn an_serror_of_the_window_is_delivered_after_it() {
    let mut host = Host::new(Model::max());
    // Restartable, unrecoverable, corrected: the worst is what the host gets.
    for syndrome in [0x811, 0x411, 0x1811] {
        host.el2.hold_serror(Esr::new(0xbe00_0000 | syndrome));
    }
    leave(&mut host);
    assert_eq!(host.cpu.hcr(), host.model.settings().native_hcr() | 1 << 5 | 1 << 8);
    assert_eq!(host.cpu.el2(features::Register::VsesrEl2), Some(0x411));
    // Once.
    host.enter();
    leave(&mut host);
    assert_eq!(host.cpu.hcr(), host.model.settings().native_hcr());
    // Without FEAT_RAS there is no VSESR_EL2.
    let mut host = Host::new(Model::cortex_a57());
    host.el2.hold_serror(Esr::new(0xbe00_0000));
    leave(&mut host);
    assert_eq!(host.cpu.hcr() & 0x120, 0x120);
}

#[test]
fn an_serror_that_waits_for_el1_waits_while_the_hosts_vectors_run() {
    let mut host = Host::new(Model::max());
    host.el2.hold_serror(Esr::new(0xbe00_0411));
    leave(&mut host);
    host.el2.set_vectors(0x4110_0000);
    host.cpu.spsr = 0x3c5;
    host.el2.call(&mut host.cpu, &host.model.settings(), Esr::new(0x5a00_0000));
    assert!(host.el2.in_window());
    assert_eq!(host.cpu.hcr(), host.model.settings().window_hcr());
    // Another one comes meanwhile.
    host.el2.hold_serror(Esr::new(0xbe00_0811));
    leave(&mut host);
    assert_eq!(host.cpu.hcr() & 0x120, 0x120);
    assert_eq!(host.cpu.el2(features::Register::VsesrEl2), Some(0x411));
}

/// Of HCR_EL2 the host gets what concerns nobody else.
#[test]
fn hcr_of_the_host() {
    let mut host = Host::new(Model::cortex_a57());
    host.write_el2(El2::Hcr, !(1 << 34 | 1 << 27));
    leave(&mut host);
    assert_eq!(host.cpu.hcr(), host.model.settings().native_hcr() | 1 << 9 | 3 << 10);
}

#[test]
fn unknown_operations_say_what_they_were() {
    let mut host = with_vectors(Model::cortex_a57());
    let answer = host.execute(sys(4, 7, 8, 0, 0));
    let note = answer.note.expect("the log should say so");
    assert_eq!(note.to_string(), "SYS S1_4_C7_C8_0, which virtual EL2 does not know; it gets an undefined instruction");
    let answer = host.execute(0xdead_beef);
    assert_eq!(
        answer.note.expect("the log should say so").to_string(),
        "instruction 0xdeadbeef; it gets an undefined instruction"
    );
    let answer = host.execute(msr_immediate(0, 4, 1));
    assert_eq!(answer.note, Some(Note::UndefinedInstruction(0xd500_419f)));
    let answer = host.execute(msr(Encoding::new(3, 0, 0, 0, 0), 0));
    assert!(answer.note.is_some());
}
