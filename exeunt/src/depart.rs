//! How Exeunt leaves a CPU.
//!
//! Owns the last instructions that it runs there. Before them EL2 is Exeunt's, with its MMU, its vectors and stage 2;
//! after them EL2 is the host's or the next payload's, as if Exeunt had never been there.
//!
//! The order, and why each step is safe where it stands:
//!
//! 1. VBAR_EL2 goes first. From here on an exception from EL1, which cannot come before the ERET, would be answered by
//!    whoever owns EL2 afterwards; one from EL2 itself would end in the resident stub, with a breadcrumb.
//! 2. HCR_EL2 without VM, and without TSC unless the resident stub is to get the SMCs; VTTBR_EL2 and VTCR_EL2 0. Only
//!    EL1 and EL0 are translated by these, and this CPU is at EL2. After an ISB `TLBI ALLE1` drops what they left in
//!    the TLB (VMID 0, combined entries of both stages): the host's next access is translated by its own stage 1 alone,
//!    and by identity before and after, so that even a stale entry says the same.
//! 3. The host's registers come back from the stack, all but one, since SCTLR_EL2 takes a register to write. Its value
//!    waits in TPIDR_EL2, where Exeunt's per-CPU address has no use any longer.
//! 4. SCTLR_EL2.M = C = I = 0. The text is mapped where it is, so the next instruction is the same with the MMU off.
//!    Nothing that Exeunt has in its caches is read without them afterwards: what the resident stub and the secondary
//!    entry read was cleaned when it was written.
//! 5. `TLBI ALLE2` and `IC IALLU`, since the next owner of EL2 may turn its MMU on with tables of its own.
//! 6. ERET: to EL1 where the host was, or to EL2 at the next payload (SPSR_EL2 0x3c9).

use core::arch::naked_asm;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{ELR_EL2, SPSR_EL2, Writeable};
use boot::SCTLR_EL2_MMU_OFF;

use crate::frame::{HostFrame, x2_to_x29};

/// SPSR_EL2 to go on at EL2: EL2h, DAIF masked (Linux `INIT_PSTATE_EL2`).
const SPSR_EL2H: u64 = 0x3c9;

/// Leaves to the host, which goes on at EL1 where ELR_EL2 and SPSR_EL2 say, with the registers of `frame`.
///
/// # Safety
/// `vbar` is a vector table for a CPU without EL2 MMU, `hcr` what HCR_EL2 shall be (VM and TGE clear, and TSC too
/// unless the table answers SMCs), and `frame` the host's.
pub unsafe fn to_host(frame: &HostFrame, hcr: u64, vbar: u64) -> ! {
    barrier::dsb(barrier::SY);
    // SAFETY: passed on.
    unsafe { go(frame, hcr, vbar) }
}

/// Leaves to the payload at `entry`, which starts at EL2 with the registers of `frame`.
///
/// # Safety
/// As for [`to_host`]; `entry` is the address of instructions.
pub unsafe fn to_payload(frame: &HostFrame, entry: u64, hcr: u64, vbar: u64) -> ! {
    ELR_EL2.set(entry);
    SPSR_EL2.set(SPSR_EL2H);
    barrier::dsb(barrier::SY);
    // SAFETY: passed on.
    unsafe { go(frame, hcr, vbar) }
}

/// The steps of the text above.
#[unsafe(naked)]
unsafe extern "C" fn go(frame: *const HostFrame, hcr: u64, vbar: u64) -> ! {
    naked_asm!(
        "msr vbar_el2, x2",
        "msr hcr_el2, x1",
        "isb", // no walk with VM 1 and no table
        "msr vttbr_el2, xzr",
        "msr vtcr_el2, xzr",
        "isb",
        "tlbi alle1",
        "dsb nsh",
        "mov x30, x0",
        "ldp x0, x1, [x30]",
        x2_to_x29!("ldp", "x30, #"),
        "ldr x30, [x30, #240]",
        "msr tpidr_el2, x30",
        "ldr x30, ={sctlr}",
        "msr sctlr_el2, x30",
        "isb",
        "tlbi alle2",
        "ic iallu",
        "dsb nsh",
        "isb",
        "mrs x30, tpidr_el2",
        "msr tpidr_el2, xzr",
        "eret",
        "dsb nsh",
        "isb",
        sctlr = const SCTLR_EL2_MMU_OFF,
    )
}
