//! Interrupts in the window: what the GIC holds, what is waited for, and the detour.

use super::super::interrupts::{Held, PATIENCE};
use super::super::registers::{El2, Needs, Register};
use super::super::{Note, Outcome, VirtualEl2};
use super::host::{ENTRY, ERET, Hardware, Host, Model, VOID, mrs, msr, msr_immediate, trapped};
use super::linux::{KERNELS, Kernel, boot, expect_native};
use crate::features::{Gic, IdRegister, IdRegisters};
use crate::inject::pstate;
use crate::syndrome::{EC_SHIFT, Encoding, Esr, IL};

const DAIF: Encoding = Encoding::new(3, 3, 4, 2, 1);
const CURRENT_EL: Encoding = Encoding::new(3, 0, 4, 2, 2);

/// The registers of EL1 that an exception to EL1 changes, each with a value of the host's.
const OF_EL1: [(Register, u64); 5] = [
    (Register::VbarEl1, 0xffff_8000_1000_0800),
    (Register::ElrEl1, 0xffff_8000_1111_1110),
    (Register::SpsrEl1, 0x6000_03c5),
    (Register::EsrEl1, 0x5600_0007),
    (Register::FarEl1, 0xffff_8000_2222_2222),
];

fn models() -> Vec<Model> {
    let models = [
        Model::cortex_a57(),
        Model::cortex_a57_gicv2(),
        Model::max(),
        Model::armv9(),
        Model::everything(),
        Model::nothing(),
    ];
    let unheld = models.map(|model| Model { holds: false, ..model });
    models.into_iter().chain(unheld).collect()
}

/// A host with values of its own in the registers of [`OF_EL1`].
fn host(model: Model) -> Host {
    let mut host = Host { model, cpu: Hardware::new(model), el2: VirtualEl2::new(), traps: 0 };
    for (register, value) in OF_EL1 {
        host.cpu.set(register, value);
    }
    host.enter();
    host
}

/// Has interrupts come until the window takes the detour.
fn take_the_detour(host: &mut Host) {
    let (pc, spsr) = (host.cpu.pc, host.cpu.spsr);
    for _ in 0..PATIENCE {
        assert_eq!(host.interrupt(), Held::Again);
        assert_eq!((host.cpu.pc, host.cpu.spsr), (pc, spsr));
    }
    assert_eq!(host.interrupt(), Held::Detour);
    assert_eq!((host.cpu.pc, host.cpu.spsr), (pc, spsr | pstate::DAIF));
}

#[test]
fn a_gicv3_holds_both_groups_and_all_priorities() {
    let model = Model::max();
    let mut cpu = Hardware::new(model);
    let held = [(Register::IccPmrEl1, 0xf0), (Register::IccIgrpen0El1, 1), (Register::IccIgrpen1El1, 1)];
    for (register, value) in held {
        cpu.set(register, value);
    }
    let mut host = Host { model, cpu, el2: VirtualEl2::new(), traps: 0 };
    host.enter();
    for (register, value) in held {
        assert_eq!(host.cpu.get(register), 0, "{}", register.name());
        assert_eq!(host.read(register.encoding()), value, "{}", register.name());
    }
    // What the host writes counts from EL1 on.
    host.write(Register::IccIgrpen0El1.encoding(), 0);
    host.write(Register::IccPmrEl1.encoding(), 0xa0);
    let answer = boot(&mut host, Kernel::V6_12);
    expect_native(&host, answer);
    assert_eq!(held.map(|(register, _)| host.cpu.get(register)), [0xa0, 0, 1]);
}

/// With an EL3 Group 0 is firmware's, and the register may trap there.
#[test]
fn group_0_is_left_to_el3() {
    let max = Model::max();
    let ids =
        IdRegisters::read(|register| max.ids.get(register) | if register == IdRegister::Pfr0 { 1 << 12 } else { 0 });
    let model = Model { ids, ..max };
    assert!(Needs::Gicv3.met(&model.settings()) && !Needs::Gicv3WithoutEl3.met(&model.settings()));
    let mut cpu = Hardware::new(model);
    cpu.set(Register::IccIgrpen0El1, 1);
    let mut host = Host { model, cpu, el2: VirtualEl2::new(), traps: 0 };
    // The fake CPU refuses any access.
    host.enter();
    assert_eq!(host.cpu.get(Register::IccIgrpen0El1), 1);
    host.expect_undefined(mrs(Register::IccIgrpen0El1.encoding(), 0));
    let answer = boot(&mut host, Kernel::V6_12);
    expect_native(&host, answer);
}

/// GICC_PMR of a GICv2 is 0 in the window and comes back, and what the host writes to it there counts afterwards.
#[test]
fn a_gicv2_holds_interrupts_by_its_own_mask() {
    let mut host = Host::new(Model::cortex_a57_gicv2());
    assert_eq!(host.cpu.gicc_pmr, Some(0));
    // One that was signalled before the mask had its effect.
    assert_eq!(host.interrupt(), Held::Again);
    let answer = boot(&mut host, Kernel::V6_12);
    expect_native(&host, answer);
    assert_eq!(host.cpu.gicc_pmr, Some(0xf0));
    assert_eq!(host.interrupt(), Held::Outside);
    assert_eq!(host.cpu.gicc_pmr, Some(0xf0));

    host.enter();
    host.cpu.gicc_pmr = Some(0x80);
    assert_eq!(host.interrupt(), Held::Again);
    assert_eq!(host.cpu.gicc_pmr, Some(0));
    let answer = boot(&mut host, Kernel::V6_12);
    expect_native(&host, answer);
    assert_eq!(host.cpu.gicc_pmr, Some(0x80));
}

/// Nothing is taken from the GIC that is not to hold anything.
#[test]
fn a_gic_that_holds_nothing_is_left_alone() {
    for model in [Model::cortex_a57(), Model::cortex_a57_gicv2()] {
        let model = Model { holds: false, ..model };
        let mut cpu = Hardware::new(model);
        cpu.set(Register::IccPmrEl1, 0xf0);
        cpu.set(Register::IccIgrpen1El1, 1);
        let mut host = Host { model, cpu, el2: VirtualEl2::new(), traps: 0 };
        host.enter();
        if model.gic == Gic::V3 {
            host.write(Register::IccPmrEl1.encoding(), 0xa0);
            assert_eq!((host.cpu.get(Register::IccPmrEl1), host.cpu.get(Register::IccIgrpen1El1)), (0xa0, 1));
        } else {
            assert_eq!(host.cpu.gicc_pmr, Some(0xf0));
        }
        let answer = boot(&mut host, Kernel::V6_12);
        expect_native(&host, answer);
    }
}

/// However many interrupts come, the host goes on; those that come now and then do not add up.
#[test]
fn patience_begins_anew_with_each_exception_of_the_host() {
    for model in models() {
        let mut host = host(model);
        for _ in 0..10 {
            for _ in 0..PATIENCE {
                assert_eq!(host.interrupt(), Held::Again);
            }
            assert_eq!(host.read(CURRENT_EL), 8);
        }
        take_the_detour(&mut host);
        let answer = boot(&mut host, Kernel::V6_12);
        expect_native(&host, answer);
        assert_eq!(host.interrupt(), Held::Outside);
        // The next window begins without.
        host.enter();
        assert_ne!(host.cpu.hcr() & 1 << 27, 0);
    }
}

/// Every kernel starts from the detour as it does without, and its EL1 has what it has written there.
#[test]
fn linux_starts_on_the_detour() {
    for model in models() {
        for kernel in KERNELS {
            let mut direct = host(model);
            let mut host = host(model);
            // Before its first instruction, and in the middle.
            if kernel == Kernel::V6_1 {
                assert_eq!(host.read(CURRENT_EL), 8);
                assert_eq!(direct.read(CURRENT_EL), 8);
            }
            take_the_detour(&mut host);
            let (answer, expected) = (boot(&mut host, kernel), boot(&mut direct, kernel));
            assert_eq!(answer, expected);
            expect_native(&host, answer);
            for register in Register::ALL {
                assert_eq!(host.cpu.get(*register), direct.cpu.get(*register), "{}", register.name());
            }
            for register in El2::ALL {
                assert_eq!(host.el2.get(*register), direct.el2.get(*register), "{}", register.name());
            }
        }
    }
}

#[test]
fn el1_has_the_hosts_values_after_the_detour() {
    let mut host = host(Model::cortex_a57());
    take_the_detour(&mut host);
    for (register, value) in OF_EL1 {
        assert_eq!(host.read(register.encoding()), value, "{}", register.name());
    }
    host.write(Register::ElrEl1.encoding(), 0x1234);
    assert_eq!(host.read(Register::ElrEl1.encoding()), 0x1234);
    let answer = boot(&mut host, Kernel::V5_10);
    expect_native(&host, answer);
    for (register, value) in OF_EL1 {
        let expected = if register == Register::ElrEl1 { 0x1234 } else { value };
        assert_eq!(host.cpu.get(register), expected, "{}", register.name());
    }
}

/// The host's PSTATE.DAIF is its own business, hardware's has everything masked: the fake CPU looks at each step.
#[test]
fn daif_on_the_detour() {
    let mut host = host(Model::cortex_a57());
    host.plainly(msr_immediate(3, 7, 0b0011));
    take_the_detour(&mut host);
    assert_eq!(host.read(DAIF), 0b1100 << 6);
    host.plainly(msr_immediate(3, 7, 0b1111));
    assert_eq!(host.read(DAIF), 0);
    host.plainly(msr_immediate(3, 6, 0b0010));
    assert_eq!(host.read(DAIF), 0b0010 << 6);
    // By the syndrome, as the trap of SCTLR_EL1.UMA tells.
    host.cpu.x[3] = 0b1000 << 6;
    host.handle(trapped(msr(DAIF, 3)));
    host.handle(trapped(mrs(DAIF, 4)));
    assert_eq!(host.cpu.x[4], 0b1000 << 6);
    // An exception to itself, and back.
    host.write_el2(El2::Vbar, ENTRY + 0x1800);
    host.execute(0);
    assert_eq!(host.read(DAIF), pstate::DAIF);
    assert_eq!(host.read_el2(El2::Spsr) & pstate::DAIF, 0b1000 << 6);
    host.execute(ERET);
    assert_eq!(host.read(DAIF), 0b1000 << 6);
}

/// An exception that comes by way of EL1 is told from one of stage 2's that comes directly, and each from the other.
#[test]
fn exceptions_come_both_ways_on_the_detour() {
    let mut host = host(Model::cortex_a57());
    host.write_el2(El2::Vbar, ENTRY + 0x1800);
    take_the_detour(&mut host);
    // An alignment fault of the PC, by EL1.
    let pc = host.cpu.pc;
    host.cpu.far = 0x4040_0002;
    let esr = Esr::new(0x22 << EC_SHIFT | IL);
    assert_eq!(host.handle(esr).note, Some(Note::Exception(esr)));
    assert_eq!([El2::Esr, El2::Far, El2::Elr].map(|register| host.el2.get(register)), [esr.bits(), 0x4040_0002, pc]);
    // A load from where stage 2 has nothing, directly.
    let pc = host.cpu.pc;
    host.cpu.far = VOID;
    let answer = host.handle(Esr::new(0x24 << EC_SHIFT | IL | 0b00_0110));
    assert_eq!(answer.outcome, Outcome::Continue);
    assert_eq!([El2::Esr, El2::Far, El2::Elr].map(|register| host.el2.get(register)), [0x9600_0010, VOID, pc]);
    // A branch of the host's own to the vector that the trick lives on: it was at EL0, and the fault is its own.
    host.cpu.pc = VOID + 0x400;
    host.cpu.far = VOID + 0x400;
    host.cpu.set(Register::EsrEl1, 0);
    host.handle(Esr::new(0x20 << EC_SHIFT | IL | 0b00_0110));
    assert_eq!(
        [El2::Esr, El2::Far, El2::Elr].map(|register| host.el2.get(register)),
        [0x8600_0010, VOID + 0x400, VOID + 0x400]
    );
}
