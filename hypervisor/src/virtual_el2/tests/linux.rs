//! What Linux does at EL2 before it drops to EL1, operation by operation, on the CPU models of the tests.
//!
//! The sequences are those of Debian's 6.1.0-56 and 6.12.117 kernels (`arch/arm64/kernel/head.S`,
//! `include/asm/el2_setup.h`), and of the source before 5.12 and of one that knows the GICv5 (after 6.17); each follows
//! the ID registers as the kernel does.

use super::super::ids::TRAPPED_READS;
use super::super::registers::{El2, Register};
use super::super::{Answer, Cpu, Outcome, TID3};
use super::host::{ENTRY, ERET, Hardware, Host, Model, mrs, msr};
use crate::features::{self, Gic, SCTLR_EL1_AT_ENTRY, Step};
use crate::syndrome::Encoding;

const CURRENT_EL: Encoding = Encoding::new(3, 0, 4, 2, 2);
const MIDR: Encoding = Encoding::new(3, 0, 0, 0, 0);
const MPIDR: Encoding = Encoding::new(3, 0, 0, 0, 5);
const PFR0: Encoding = Encoding::new(3, 0, 0, 4, 0);
const PFR1: Encoding = Encoding::new(3, 0, 0, 4, 1);
const PFR2: Encoding = Encoding::new(3, 0, 0, 4, 2);
const DFR0: Encoding = Encoding::new(3, 0, 0, 5, 0);
const ISAR1: Encoding = Encoding::new(3, 0, 0, 6, 1);
const MMFR0: Encoding = Encoding::new(3, 0, 0, 7, 0);
const MMFR1: Encoding = Encoding::new(3, 0, 0, 7, 1);
const MMFR3: Encoding = Encoding::new(3, 0, 0, 7, 3);
const MMFR4: Encoding = Encoding::new(3, 0, 0, 7, 4);
const PMBIDR: Encoding = Encoding::new(3, 0, 9, 10, 7);
const PMSIDR: Encoding = Encoding::new(3, 0, 9, 9, 7);
const TRBIDR: Encoding = Encoding::new(3, 0, 9, 11, 7);

/// HCR_HOST_NVHE_FLAGS: RW, API, APK, ATA.
const HCR: u64 = 0x0100_0300_8000_0000;
/// INIT_SCTLR_EL2_MMU_OFF.
const SCTLR_EL2: u64 = 0x30c5_0830;
/// INIT_SCTLR_EL1_MMU_OFF.
const SCTLR_EL1: u64 = 0x3050_0800;
/// INIT_PSTATE_EL1.
const PSTATE_EL1: u64 = 0x3c5;
/// Where `bl init_kernel_el` goes back to.
const RETURN: u64 = ENTRY + 0x1000;
/// `__hyp_stub_vectors`.
const STUB: u64 = ENTRY + 0x80_0800;

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Kernel {
    V5_10,
    V6_1,
    V6_12,
    Latest,
}

pub const KERNELS: [Kernel; 4] = [Kernel::V5_10, Kernel::V6_1, Kernel::V6_12, Kernel::Latest];

fn field(value: u64, shift: u32) -> u64 {
    value >> shift & 0xf
}

/// `primary_entry` and `init_kernel_el`, entered with the MMU off. Returns what the ERET gave.
pub fn boot(host: &mut Host, kernel: Kernel) -> Answer {
    if kernel >= Kernel::V6_12 {
        // record_mmu_state
        assert_eq!(host.read(CURRENT_EL), 8);
        assert_eq!(host.read_el2(El2::Sctlr) & 1, 0);
        // preserve_boot_args: four registers in one cache line, two on later kernels.
        host.cpu.x[0] = ENTRY + 0x40;
        host.plainly(0xd508_7620);
    }
    assert_eq!(host.read(CURRENT_EL), 8);
    if kernel == Kernel::V5_10 {
        return boot_5_10(host);
    }
    if kernel == Kernel::V6_1 {
        host.write_el2(El2::Hcr, HCR);
        host.write_el2(El2::Sctlr, SCTLR_EL2);
    } else {
        host.write_el2(El2::Elr, RETURN);
        assert_eq!(field(host.read(MMFR4), 24), 0, "the kernel would go for VHE");
        host.write_el2(El2::Hcr, HCR);
        host.write(Register::FarEl1.encoding(), 1);
        host.write_el2(El2::Far, 2);
        assert_eq!(host.read(Register::FarEl1.encoding()), 1, "the kernel would go for VHE");
        host.write_el2(El2::Sctlr, SCTLR_EL2);
        hcrx(host, kernel);
        assert_eq!(host.read_el2(El2::Hcr) & 1 << 34, 0);
    }
    host.write_el2(El2::Cnthctl, 3);
    host.write_el2(El2::Cntvoff, 0);
    debug(host, kernel);
    if field(host.read(MMFR1), 16) != 0 {
        host.write(Register::LorcEl1.encoding(), 0);
    }
    host.write_el2(El2::Vttbr, 0);
    gic(host, kernel);
    host.write_el2(El2::Hstr, 0);
    let identity = [host.read(MIDR), host.read(MPIDR)];
    host.write_el2(El2::Vpidr, identity[0]);
    host.write_el2(El2::Vmpidr, identity[1]);
    if kernel >= Kernel::V6_12 {
        assert_eq!(host.read_el2(El2::Hcr) & 1 << 34, 0);
    }
    host.write_el2(El2::Cptr, 0x33ff);
    if field(host.read(MMFR0), 56) != 0 {
        fine_grained_traps(host, kernel);
    }
    if kernel == Kernel::V6_1 {
        host.write_el2(El2::Spsr, PSTATE_EL1);
    }
    host.write_el2(El2::Vbar, STUB);
    assert_eq!(host.read_el2(El2::Hcr) & 1 << 34, 0);
    host.write(Register::SctlrEl1.encoding(), SCTLR_EL1);
    if kernel == Kernel::V6_1 {
        host.write_el2(El2::Elr, RETURN);
    } else {
        host.write_el2(El2::Spsr, PSTATE_EL1);
    }
    host.execute(ERET)
}

/// `el2_setup` as it was before 5.12: one that takes FEAT_VHE as soon as it sees it.
fn boot_5_10(host: &mut Host) -> Answer {
    host.write_el2(El2::Sctlr, SCTLR_EL2);
    assert_eq!(field(host.read(MMFR1), 8), 0, "the kernel would go for VHE");
    host.write_el2(El2::Hcr, HCR);
    let cnthctl = host.read_el2(El2::Cnthctl);
    host.write_el2(El2::Cnthctl, cnthctl | 3);
    host.write_el2(El2::Cntvoff, 0);
    gic(host, Kernel::V5_10);
    let identity = [host.read(MIDR), host.read(MPIDR)];
    host.write_el2(El2::Vpidr, identity[0]);
    host.write_el2(El2::Vmpidr, identity[1]);
    host.write_el2(El2::Hstr, 0);
    debug(host, Kernel::V5_10);
    if field(host.read(MMFR1), 16) != 0 {
        host.write(Register::LorcEl1.encoding(), 0);
    }
    host.write_el2(El2::Vttbr, 0);
    host.write(Register::SctlrEl1.encoding(), SCTLR_EL1);
    host.write_el2(El2::Cptr, 0x33ff);
    if field(host.read(PFR0), 32) != 0 {
        host.write_el2(El2::Cptr, 0x32ff);
        host.write_el2(El2::Zcr, 0x1ff);
    }
    host.write_el2(El2::Vbar, STUB);
    host.write_el2(El2::Spsr, PSTATE_EL1);
    host.write_el2(El2::Elr, RETURN);
    host.execute(ERET)
}

/// `__init_el2_hcrx`.
fn hcrx(host: &mut Host, kernel: Kernel) {
    if field(host.read(MMFR1), 40) == 0 {
        return;
    }
    // MSCEn, TCR2En, EnFPM; GCSEn; EnALS, EnASR.
    let mut value = 1 << 11 | 1 << 14 | 1 << 23;
    if kernel == Kernel::Latest {
        if field(host.read(PFR1), 44) != 0 {
            value |= 1 << 22;
        }
        let ls64 = field(host.read(ISAR1), 60);
        value |= if ls64 >= 1 { 1 << 1 } else { 0 } | if ls64 >= 2 { 1 << 2 } else { 0 };
    }
    host.write_el2(El2::Hcrx, value);
}

/// `__init_el2_debug` and `__init_el2_brbe`.
fn debug(host: &mut Host, kernel: Kernel) {
    let dfr0 = host.read(DFR0);
    let mut mdcr = 0;
    if field(dfr0, 8) != 0 && field(dfr0, 8) != 0xf {
        mdcr = host.read(Register::PmcrEl0.encoding()) >> 11 & 0x1f;
    }
    if field(dfr0, 32) != 0 {
        if host.read(PMBIDR) >> 4 & 1 == 0 {
            host.write_el2(El2::Pmscr, 1 << 6 | 1 << 4);
        }
        mdcr |= 3 << 12;
    }
    if kernel >= Kernel::V6_1 && field(dfr0, 44) != 0 && host.read(TRBIDR) >> 4 & 1 == 0 {
        mdcr |= 3 << 24;
    }
    host.write_el2(El2::Mdcr, mdcr);
    if kernel == Kernel::Latest && field(host.read(DFR0), 52) != 0 {
        host.write_el2(El2::Brbcr, 1 << 3 | 1 << 4);
    }
}

/// `__init_el2_gicv3` and `__init_el2_gicv5`.
fn gic(host: &mut Host, kernel: Kernel) {
    if field(host.read(PFR0), 24) != 0 {
        let value = host.read_el2(El2::IccSre) | 1 | 1 << 3;
        host.write_el2(El2::IccSre, value);
        if host.read_el2(El2::IccSre) & 1 != 0 {
            host.write_el2(El2::IchHcr, 0);
        }
    }
    if kernel == Kernel::Latest && field(host.read(PFR2), 12) != 0 {
        host.write_el2(El2::IchHfgitr, 0x7ff);
        host.write_el2(El2::IchHfgrtr, 0x1f_00f7);
        host.write_el2(El2::IchHfgwtr, 0x1e_0065);
        host.write_el2(El2::IchVctlr, 1);
    }
}

/// `__init_el2_fgt` and `__init_el2_fgt2`.
fn fine_grained_traps(host: &mut Host, kernel: Kernel) {
    let brbe = kernel == Kernel::Latest && field(host.read(DFR0), 52) != 0;
    let spe = if field(host.read(DFR0), 32) >= 3 { 1 << 62 } else { 0 };
    host.write_el2(El2::Hdfgrtr, spe | if brbe { 7 << 59 } else { 0 });
    host.write_el2(El2::Hdfgwtr, spe | if brbe { 3 << 60 } else { 0 });
    let mut value = 0;
    if field(host.read(PFR1), 24) != 0 {
        value |= 1 << 54 | 1 << 55;
    }
    if kernel >= Kernel::V6_12 {
        if field(host.read(MMFR3), 8) != 0 {
            value |= 1 << 58 | 1 << 57;
        }
        if field(host.read(MMFR3), 16) != 0 {
            value |= 1 << 59;
        }
    }
    if kernel == Kernel::Latest && field(host.read(PFR1), 44) != 0 {
        value |= 1 << 52 | 1 << 53;
    }
    host.write_el2(El2::Hfgrtr, value);
    host.write_el2(El2::Hfgwtr, value);
    host.write_el2(El2::Hfgitr, if brbe { 3 << 55 } else { 0 });
    if field(host.read(PFR0), 44) != 0 {
        host.write_el2(El2::Hafgrtr, 0);
    }
    if kernel == Kernel::V6_1 || field(host.read(MMFR0), 56) < 2 {
        return;
    }
    let mut value = 0;
    if field(host.read(DFR0), 8) >= 9 {
        value |= 1 << 4 | 1 << 3 | 1 << 2;
    }
    if kernel == Kernel::Latest && field(host.read(DFR0), 32) != 0 && host.read(PMSIDR) >> 7 & 1 != 0 {
        value |= 1 << 19;
    }
    host.write_el2(El2::Hdfgrtr2, value);
    host.write_el2(El2::Hdfgwtr2, value);
    host.write_el2(El2::Hfgrtr2, 0);
    host.write_el2(El2::Hfgwtr2, 0);
    host.write_el2(El2::Hfgitr2, 0);
}

/// Hardware is as for a host that was entered at EL1, except what the kernel has written to EL1's registers.
pub fn expect_native(host: &Host, answer: Answer) {
    assert_eq!(answer.outcome, Outcome::GoNative { pc: RETURN, pstate: PSTATE_EL1 });
    assert_eq!(answer.note, None);
    assert_eq!((host.cpu.pc, host.cpu.spsr), (RETURN, PSTATE_EL1));
    assert!(!host.el2.in_window());
    assert_eq!(host.el2.vectors(), Some(STUB));
    assert_eq!(host.cpu.get(Register::SctlrEl1), SCTLR_EL1);
    features::set_up(&host.model.ids, host.model.gic, features::Units::NONE, |step| match step {
        Step::Isb | Step::Write(features::Register::SctlrEl1, _) => {}
        Step::Write(features::Register::HcrEl2, value) => {
            assert_eq!(host.cpu.hcr(), value | if host.model.hide { 1 << 18 } else { 0 });
        }
        // The kernel sets MSCEn, TCR2En and EnFPM without a look at the features; on a CPU without them they are RES0.
        Step::Write(features::Register::HcrxEl2, value) => {
            let hcrx = host.cpu.el2(features::Register::HcrxEl2).expect("it is set up");
            assert_eq!(hcrx & !(1 << 11 | 1 << 14 | 1 << 23), value & !(1 << 11 | 1 << 14 | 1 << 23));
            assert_eq!(value & !hcrx, 0);
        }
        Step::Write(register, value) => assert_eq!(host.cpu.el2(register), Some(value), "{}", register.name()),
    });
}

#[test]
fn every_kernel_reaches_el1_on_every_model() {
    for model in [Model::cortex_a57(), Model::cortex_a57_gicv2(), Model::max(), Model::armv9()] {
        for kernel in KERNELS {
            // Miri takes its time, and sees the same code for either.
            for hide in if cfg!(miri) { [true].as_slice() } else { &[true, false] } {
                let mut host = Host::new(Model { hide: *hide, ..model });
                let answer = boot(&mut host, kernel);
                expect_native(&host, answer);
            }
        }
    }
}

/// The values spelt out for two models.
#[test]
fn registers_after_the_set_up() {
    let mut host = Host::new(Model::cortex_a57());
    boot(&mut host, Kernel::V6_12);
    assert_eq!(host.cpu.hcr(), 0x8008_0003);
    assert_eq!(host.cpu.el2(features::Register::CptrEl2), Some(0x33ff));
    assert_eq!(host.cpu.el2(features::Register::MdcrEl2), Some(6));
    assert_eq!(host.cpu.el2(features::Register::CnthctlEl2), Some(3));
    assert_eq!(host.cpu.el2(features::Register::IccSreEl2), Some(0xf));
    assert_eq!(host.cpu.el2(features::Register::VpidrEl2), Some(0x411f_d070));

    let mut host = Host::new(Model { hide: true, ..Model::max() });
    boot(&mut host, Kernel::V6_12);
    assert_eq!(host.cpu.hcr() & !(1 << 18), features::hcr_el2(&host.model.ids));
    assert_eq!(host.cpu.hcr() & 0x0300_0000_0000, 0x0300_0000_0000);
    // SVE and SME stay open, although the kernel writes 0x33ff and opens them by FINALISE_EL2 only.
    assert_eq!(host.cpu.el2(features::Register::CptrEl2), Some(0x22ff));
    assert_eq!(host.cpu.el2(features::Register::ZcrEl2), Some(0x1ff));
    // FEAT_MOPS and the rest of HCRX_EL2, although 6.1 does not write it at all.
    assert_ne!(host.cpu.el2(features::Register::HcrxEl2).expect("it is there") & 1 << 11, 0);
    // What the kernel wrote is what it reads and what a later hypervisor finds.
    assert_eq!(host.el2.get(El2::Cptr), 0x33ff);
    assert_eq!(host.el2.get(El2::Hcr), HCR);
    assert_eq!(host.el2.get(El2::Vttbr), 0);
}

/// How often the set-up comes to EL2, with one DC IVAC where the kernel has one for each cache line of its page tables.
#[test]
fn traps_of_a_boot() {
    let count = |model, kernel| {
        let mut host = Host::new(model);
        boot(&mut host, kernel);
        host.traps
    };
    assert_eq!(count(Model::cortex_a57(), Kernel::V6_1), 28);
    assert_eq!(count(Model::cortex_a57(), Kernel::V6_12), 38);
    assert_eq!(count(Model::max(), Kernel::V6_1), 37);
    assert_eq!(count(Model::max(), Kernel::V6_12), 51);
}

/// Registers that the trick borrows come back, whatever the host had in them, and the kernel's stack pointers are
/// apart.
#[test]
fn borrowed_registers_come_back() {
    let model = Model::cortex_a57();
    let mut host = Host { model, cpu: Hardware::new(model), el2: super::super::VirtualEl2::new(), traps: 0 };
    for (register, value) in [
        (Register::SctlrEl1, 0x30d0_1805),
        (Register::CpacrEl1, 1 << 28),
        (Register::MdscrEl1, 1 << 15 | 1),
        (Register::SpEl0, 0xffff_8000_1234_5670),
        (Register::SpEl1, 0xffff_8000_8888_0000),
        (Register::IccPmrEl1, 0xf0),
        (Register::IccIgrpen0El1, 1),
        (Register::IccIgrpen1El1, 1),
    ] {
        host.cpu.set(register, value);
    }
    host.enter();
    assert_eq!(host.cpu.pc, ENTRY);
    for (register, value) in [
        (Register::SctlrEl1, 0x30d0_1805),
        (Register::CpacrEl1, 1 << 28),
        (Register::MdscrEl1, 1 << 15 | 1),
        (Register::SpEl0, 0xffff_8000_1234_5670),
        (Register::SpEl1, 0xffff_8000_8888_0000),
        (Register::IccPmrEl1, 0xf0),
        (Register::IccIgrpen0El1, 1),
        (Register::IccIgrpen1El1, 1),
    ] {
        assert_eq!(host.read(register.encoding()), value, "{}", register.name());
    }
    // A stack at EL2 is in SP_EL0 in hardware.
    host.cpu.set(Register::SpEl0, 0x4200_0000);
    host.write(Register::SpEl0.encoding(), 0x1111_0000);
    host.write(Register::SpEl1.encoding(), 0x2222_0000);
    host.write(Register::IccPmrEl1.encoding(), 0x80);
    host.write(Register::CpacrEl1.encoding(), 3 << 20);
    host.write(Register::MdscrEl1.encoding(), 1 << 12);
    let answer = boot(&mut host, Kernel::V6_12);
    expect_native(&host, answer);
    assert_eq!(host.cpu.get(Register::SpEl0), 0x1111_0000);
    assert_eq!(host.cpu.get(Register::SpEl1), 0x2222_0000);
    assert_eq!(host.cpu.get(Register::IccPmrEl1), 0x80);
    assert_eq!(host.cpu.get(Register::IccIgrpen0El1), 1);
    assert_eq!(host.cpu.get(Register::IccIgrpen1El1), 1);
    assert_eq!(host.cpu.get(Register::CpacrEl1), 3 << 20);
    assert_eq!(host.cpu.get(Register::MdscrEl1), 1 << 12);
    assert_eq!(SCTLR_EL1_AT_ENTRY & 1, 0);
}

/// TID3 traps as many reads as the host's detection may need, on each CPU that comes up, and no more.
#[test]
fn id_registers_trap_for_a_while_after_each_window() {
    let mut host = Host::new(Model { hide: true, ..Model::cortex_a57() });
    for _ in 0..2 {
        let answer = boot(&mut host, Kernel::V6_12);
        expect_native(&host, answer);
        assert_ne!(host.cpu.hcr() & TID3, 0);
        assert!((1..TRAPPED_READS).all(|_| !host.el2.count_id_read()));
        assert!((0..70_000).all(|_| host.el2.count_id_read()));
        host.enter();
    }
}

/// What KVM installs is told from what the kernel came with.
#[test]
fn installed_vectors_are_not_the_stubs() {
    let mut host = Host::new(Model::cortex_a57());
    assert_eq!(host.el2.installed(), None);
    boot(&mut host, Kernel::V6_12);
    let stub = host.el2.vectors().expect("the kernel has written VBAR_EL2");
    assert_eq!(host.el2.installed(), None);
    host.el2.set_vectors(0x4567_8000);
    assert_eq!(host.el2.installed(), Some(0x4567_8000));
    host.el2.set_vectors(stub);
    assert_eq!(host.el2.installed(), None);
}

/// The first table that is not the stub's is installed, the next other one is the stub again: Linux 6.1's resume from
/// hibernation, in a kernel that lies elsewhere than the one that resumes it. A kexec later installs one more.
#[test]
fn a_second_table_is_the_stub_again() {
    let mut host = Host::new(Model::cortex_a57());
    boot(&mut host, Kernel::V6_1);
    for (address, installed) in [
        (0x4567_8000, Some(0x4567_8000)),
        (0x4567_8000, Some(0x4567_8000)),
        (STUB + 0x10_0000, None),
        (STUB + 0x10_0000, None),
        (0x4777_0000, Some(0x4777_0000)),
    ] {
        host.el2.set_vectors(address);
        assert_eq!((host.el2.vectors(), host.el2.installed()), (Some(address), installed));
    }
}

/// `swsusp_arch_suspend_exit` and `hibernate_el2_vectors` of Linux before 5.16: SET_VECTORS with a table in a page of
/// its own, then an HVC with whatever is in x0, at which the table has EL2 take its vectors from x24.
#[test]
fn a_resume_before_5_16_puts_its_stub_back_itself() {
    const PAGE: u64 = 0x4ef2_b800;
    const RESUMED: u64 = STUB + 0x20_0000;
    for model in [Model::cortex_a57(), Model::cortex_a57_gicv2(), Model::max(), Model::armv9()] {
        let mut host = Host::new(model);
        boot(&mut host, Kernel::V5_10);
        let el1 = [
            (Register::SctlrEl1, 0x30d0_199d),
            (Register::CpacrEl1, 3 << 20),
            (Register::MdscrEl1, 1 << 12),
            (Register::SpEl0, 0xffff_8000_1234_5670),
            (Register::SpEl1, 0xffff_8000_8888_0000),
            (Register::TcrEl1, 0xf5_b550_3510),
        ];
        let gic = [(Register::IccPmrEl1, 0xf0), (Register::IccIgrpen1El1, 1)];
        let el1 = el1.iter().chain(gic.iter().filter(|_| model.gic == Gic::V3));
        for &(register, value) in el1.clone() {
            host.cpu.set(register, value);
        }
        let (gicc_pmr, hcr) = (host.cpu.gicc_pmr, host.cpu.hcr());
        host.el2.set_vectors(PAGE);
        // An HVC of EL1h, interrupts masked but for F, Z and C set; the address behind it.
        (host.cpu.pc, host.cpu.spsr) = (0x10dc, 0x6000_0385);
        host.cpu.x = core::array::from_fn(|number| 0xffff_0000_0000_1000 + number as u64);
        host.cpu.x[24] = RESUMED;
        let x = host.cpu.x;

        host.call(0);
        assert!(host.el2.in_window());
        assert_eq!(host.cpu.pc, PAGE + 0x400);
        assert_eq!(host.read(CURRENT_EL), 8);
        assert_eq!(host.read(Encoding::new(3, 3, 4, 2, 1)), 0x3c0, "DAIF");
        assert_eq!(host.read_el2(El2::Elr), 0x10dc);
        assert_eq!(host.read_el2(El2::Spsr), 0x6000_0385);
        assert_eq!(host.read_el2(El2::Esr), 0x5a00_0000);
        assert_eq!(host.read_el2(El2::Vbar), PAGE);
        assert_eq!(host.read_el2(El2::Hcr), HCR | 1 << 31);
        for &(register, value) in el1.clone() {
            assert_eq!(host.read(register.encoding()), value, "{}", register.name());
        }

        // Exeunt dies: EL1 goes on after the call as it was, maybe at the second try.
        let mut dies = (host.el2.clone(), host.cpu.clone());
        for _ in 0..2 {
            assert_eq!(dies.0.abandon(&mut dies.1, &host.model.settings()), Some((0x10dc, 0x6000_0385)));
            for &(register, value) in el1.clone() {
                assert_eq!(dies.1.get(register), value, "{}", register.name());
            }
            assert_eq!((dies.1.gicc_pmr, dies.1.hcr()), (gicc_pmr, hcr));
            assert_eq!((dies.0.in_window(), dies.0.vectors()), (false, None));
        }

        host.cpu.x = x;
        host.plainly(msr(El2::Vbar.encoding(), 24));
        let answer = host.execute(ERET);
        assert_eq!(answer.outcome, Outcome::GoNative { pc: 0x10dc, pstate: 0x6000_0385 });
        assert_eq!((host.cpu.pc, host.cpu.spsr, host.cpu.x), (0x10dc, 0x6000_0385, x));
        assert_eq!((host.cpu.gicc_pmr, host.cpu.hcr()), (gicc_pmr, hcr));
        for &(register, value) in el1 {
            assert_eq!(host.cpu.get(register), value, "{}", register.name());
        }
        // It is the resumed kernel's own, as if that had just booted.
        assert_eq!((host.el2.vectors(), host.el2.installed()), (Some(RESUMED), None));
    }
}

/// Vectors that only answer stay installed, from either stack pointer of EL1, and EL2's own stack is the same each
/// time.
#[test]
fn vectors_that_only_answer_stay_installed() {
    let mut host = Host::new(Model::cortex_a57());
    host.cpu.set(Register::SpEl0, 0x4200_0000);
    boot(&mut host, Kernel::V6_12);
    host.el2.set_vectors(0x4567_8000);
    host.cpu.set(Register::SpEl0, 0x1111_0000);
    for (immediate, spsr) in [(0, 0x3c5), (0x4a48, 0x3c4), (0xffff, 0x8000_0004), (1, 5)] {
        (host.cpu.pc, host.cpu.spsr) = (0xffff_8000_1000_0004, spsr);
        host.call(immediate);
        assert_eq!(host.cpu.pc, 0x4567_8400);
        assert_eq!(host.read_el2(El2::Esr), 0x5a00_0000 | u64::from(immediate));
        // SP_EL2 is selected, and what the stack was when the kernel went to EL1.
        assert_eq!(host.cpu.get(Register::SpEl0), 0x4200_0000);
        assert_eq!(host.read(Register::SpEl0.encoding()), 0x1111_0000);
        host.execute(ERET);
        assert_eq!((host.cpu.pc, host.cpu.spsr), (0xffff_8000_1000_0004, spsr));
        assert_eq!(host.cpu.get(Register::SpEl0), 0x1111_0000);
        assert_eq!(host.el2.installed(), Some(0x4567_8000));
    }
}

/// After REENTER nobody knows the kernel: its virtual EL2 is as at an entry, but for the vectors that it installs.
#[test]
fn vectors_run_after_a_way_back() {
    let mut host = Host::new(Model::max());
    boot(&mut host, Kernel::V6_12);
    let new = Host::new(Model::max());
    // What LEAVE and REENTER do to EL2's registers in hardware.
    let (el2, native) = (core::mem::take(&mut host.el2), host.cpu.hcr());
    host = Host { model: host.model, cpu: Hardware::new(host.model), el2, traps: 0 };
    host.cpu.write_el2(features::Register::HcrEl2, native);
    host.el2.come_back();
    assert_eq!((host.el2.vectors(), host.el2.installed()), (None, None));
    host.el2.set_vectors(0x4567_8000);
    (host.cpu.pc, host.cpu.spsr) = (0x4100_0004, 0x3c5);
    host.call(0);
    assert_eq!(host.cpu.pc, 0x4567_8400);
    for &register in El2::ALL {
        match register {
            El2::Vbar => assert_eq!(host.el2.get(register), 0x4567_8000),
            El2::Elr => assert_eq!(host.el2.get(register), 0x4100_0004),
            El2::Spsr => assert_eq!(host.el2.get(register), 0x3c5),
            El2::Esr => assert_eq!(host.el2.get(register), 0x5a00_0000),
            _ => assert_eq!(host.el2.get(register), new.el2.get(register), "{register:?}"),
        }
    }
    assert_eq!(host.execute(ERET).outcome, Outcome::GoNative { pc: 0x4100_0004, pstate: 0x3c5 });
}

/// A payload that a SOFT_RESTART has given EL2 to, and that brings Exeunt back, has no vectors of the last kernel's.
#[test]
fn the_next_payload_has_no_vectors() {
    let mut host = Host::new(Model::cortex_a57());
    boot(&mut host, Kernel::V6_12);
    host.el2.set_vectors(0x4567_8000);
    host.el2.forget_vectors();
    assert_eq!((host.el2.vectors(), host.el2.installed()), (None, None));
    assert_eq!(host.el2.get(El2::Vbar), 0);
    host.el2.set_vectors(0x4567_8000);
    assert_eq!(host.el2.installed(), Some(0x4567_8000));
}

/// `cpu_resume` and CPU_ON come through the same door: a second window knows nothing of the first.
#[test]
fn a_second_entry_begins_anew() {
    let mut host = Host::new(Model::max());
    boot(&mut host, Kernel::V6_12);
    host.enter();
    assert_eq!(host.el2.vectors(), None);
    assert_eq!(host.read_el2(El2::Elr), 0);
    assert_eq!(host.read(Register::SctlrEl1.encoding()), SCTLR_EL1);
    let answer = boot(&mut host, Kernel::V6_1);
    expect_native(&host, answer);
}

/// The same through EC 0x18, as a CPU with FEAT_IDST reports reads of ID registers at EL0.
#[test]
fn syndromes_do_the_same_as_words() {
    let mut host = Host::new(Model::max());
    for (register, value) in [(MIDR, 0xf_0510), (CURRENT_EL, 8)] {
        let pc = host.cpu.pc;
        let answer = host.handle(super::host::trapped(mrs(register, 7)));
        assert_eq!(answer, Answer { outcome: Outcome::Continue, note: None });
        assert_eq!((host.cpu.x[7], host.cpu.pc), (value, pc + 4));
    }
    host.cpu.x[3] = STUB + 0x7ff;
    host.handle(super::host::trapped(msr(El2::Vbar.encoding(), 3)));
    assert_eq!(host.el2.vectors(), Some(STUB));
}
