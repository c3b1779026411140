//! The hand-over of EL2 at the first call to vectors that the guest has installed (`entry=el2 kvm=lend`), as a KVM does
//! that does not call RESET_VECTORS first. With the word `refused` on the command line: that nothing of the kind
//! happens.
//!
//! Owns the vectors. They tell the registers of the EL2 that they run at.

use core::arch::{asm, global_asm};

use crate::firmware::PSCI_VERSION;
use crate::level;
use crate::machine::machine;
use crate::start::Start;

/// The first call of Linux to its KVM at EL2, `__kvm_hyp_init` (`arch/arm64/include/asm/kvm_asm.h`).
const KVM_INIT: u64 = 0xc600_0000;
/// The highest number below Exeunt's own in the same range, and Exeunt's first.
const LAST_OF_KVM: u64 = 0xc600_44ff;
const FIRST_OF_EXEUNT: u64 = 0xc600_4500;
/// A call of the same form to another owner.
const STANDARD_HYPERVISOR: u64 = 0xc500_0000;
const NOT_SUPPORTED: u64 = u64::MAX;

/// CurrentEL.
const EL2: u64 = 2 << 2;
/// HCR_EL2: VM, TID3, TSC, TGE, E2H.
const HCR_OF_A_HYPERVISOR: u64 = 1 << 0 | 1 << 18 | 1 << 19 | 1 << 27 | 1 << 34;
/// SCTLR_EL2: M, C, I.
const SCTLR_ON: u64 = 1 << 0 | 1 << 2 | 1 << 12;

// Synchronous exceptions from EL1 in AArch64, at 0x400; in all others the CPU stays.
global_asm!(
    ".pushsection .text.lend, \"ax\"",
    ".balign 0x800",
    ".global guest_lend_vectors",
    "guest_lend_vectors:",
    ".rept 8",
    "b .",
    ".balign 0x80",
    ".endr",
    "mrs x0, CurrentEL",
    "mrs x2, elr_el2",
    "mrs x3, hcr_el2",
    "mrs x4, sctlr_el2",
    "mrs x5, vttbr_el2",
    "mrs x6, vbar_el2",
    "eret",
    ".balign 0x80",
    ".rept 7",
    "b .",
    ".balign 0x80",
    ".endr",
    ".popsection",
);

unsafe extern "C" {
    static guest_lend_vectors: u8;
}

/// x0 to x6 after an HVC with these in x0 and x1, and the address after it.
fn hvc(number: u64, argument: u64) -> ([u64; 7], u64) {
    let mut x = [number, argument, 0, 0, 0, 0, 0];
    let behind;
    // SAFETY: a call changes x0 to x17 at most, and the vectors above fewer.
    unsafe {
        asm!(
            "adr x18, 1f", "hvc #0", "1:",
            inout("x0") x[0], inout("x1") x[1], inout("x2") x[2], inout("x3") x[3], inout("x4") x[4], inout("x5") x[5],
            inout("x6") x[6], out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _,
            out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _, out("x18") behind, options(nostack)
        );
    }
    (x, behind)
}

/// Runs the test, on the boot CPU.
pub fn run(_: &Start) {
    let refused = machine().words().any(|word| word == "refused");
    let vectors = (&raw const guest_lend_vectors) as u64;
    check!(level::entry_level() == 2, "entered at EL{}", level::entry_level());
    let unknown = |what: &str, number: u64| {
        let ([x0, x1, ..], _) = hvc(number, 0x1234);
        check!((x0, x1) == (NOT_SUPPORTED, 0x1234), "{what}: {number:#x} gives {x0:#x}, {x1:#x}");
    };
    unknown("without vectors", KVM_INIT);
    let ([x0, ..], _) = hvc(0, vectors);
    check!(x0 == 0, "SET_VECTORS gives {x0:#x}");
    unknown("with vectors", STANDARD_HYPERVISOR);
    // Whatever Exeunt answers, the vectors do not.
    let ([x0, ..], _) = hvc(FIRST_OF_EXEUNT, 0);
    check!(x0 != EL2, "a number of Exeunt's went to the vectors");
    if refused {
        unknown("refused", KVM_INIT);
        crate::report::finish("lend");
    }
    for number in [LAST_OF_KVM, KVM_INIT, STANDARD_HYPERVISOR, 0x7f] {
        let ([x0, x1, elr, hcr, sctlr, vttbr, vbar], behind) = hvc(number, 0x1234);
        check!((x0, x1) == (EL2, 0x1234), "{number:#x} gives {x0:#x}, {x1:#x}");
        check!(elr == behind, "{number:#x}: ELR_EL2 {elr:#x}, and the next instruction is at {behind:#x}");
        check!(hcr & HCR_OF_A_HYPERVISOR == 0, "HCR_EL2 {hcr:#x}");
        check!(sctlr & SCTLR_ON == 0, "SCTLR_EL2 {sctlr:#x}");
        check!(vttbr == 0, "VTTBR_EL2 {vttbr:#x}");
        check!(vbar == vectors, "VBAR_EL2 {vbar:#x}, not {vectors:#x}");
    }
    let version: u64;
    // SAFETY: a call to firmware that changes nothing but x0 to x3.
    unsafe {
        asm!("smc #0", inout("x0") PSCI_VERSION => version, out("x1") _, out("x2") _, out("x3") _, options(nostack));
    };
    check!(version >> 16 == 1, "firmware says PSCI {version:#x}");
    crate::report::finish("lend");
}
