//! The resident stub: EL2's vectors on a CPU before Exeunt is live and after it has left.
//!
//! It answers the stub calls as Linux's own `hyp-stub.S` does, and lives in Exeunt's reserved 2 MiB, which no kernel uses. It
//! runs with EL2's MMU off, has no stack and writes no memory, so that nothing that the host or the next kernel does can break
//! it. Position independent; it changes no register but x0 to x4, of which a call that returns keeps x2 to x4.
//!
//! Linux's stub hangs in a tight loop on every exception that is no synchronous one from EL1. Here the CPU leaves a
//! breadcrumb in TPIDR_EL2 ([`BREADCRUMB`] plus the vector's offset) that a debugger or another CPU's dump can read, and sleeps.

use core::arch::global_asm;

use guest_abi::stub;

/// TPIDR_EL2 of a CPU that stopped in the resident stub: this, plus the offset of the vector in bits 10:0.
pub const BREADCRUMB: u64 = u64::from_be_bytes(*b"exstub\0\0");

/// ID_AA64PFR0_EL1.GIC, bits 27:24: the CPU interface is in system registers.
const PFR0_GIC_SHIFT: u32 = 24;

global_asm!(
    ".macro STUB_STOP offset",
    ".balign 0x80",
    "ldr x0, ={breadcrumb} + \\offset",
    "msr tpidr_el2, x0",
    "1: wfi",
    "b 1b",
    ".endm",
    ".pushsection .text.stub, \"ax\"",
    ".balign 0x800",
    ".global exeunt_resident_stub",
    "exeunt_resident_stub:",
    "STUB_STOP 0x000", // EL2t
    "STUB_STOP 0x080",
    "STUB_STOP 0x100",
    "STUB_STOP 0x180",
    "STUB_STOP 0x200", // EL2h: a payload that was restarted here and faults
    "STUB_STOP 0x280",
    "STUB_STOP 0x300",
    "STUB_STOP 0x380",
    ".balign 0x80", // a synchronous exception from EL1 or EL0, AArch64
    "b exeunt_stub_call",
    "STUB_STOP 0x480",
    "STUB_STOP 0x500",
    "STUB_STOP 0x580",
    "STUB_STOP 0x600", // AArch32
    "STUB_STOP 0x680",
    "STUB_STOP 0x700",
    "STUB_STOP 0x780",
    ".balign 0x80",
    // In: x0 = number, x1 to x4 = arguments. With stage 2 and all traps off nothing but an HVC comes here, as in Linux's stub.
    "exeunt_stub_call:",
    "cmp x0, #{soft_restart}",
    "b.eq 2f",
    "b.hi 1f",
    // SET_VECTORS: x1 must be a multiple of 2 KiB. The registers of the exception are not needed before the ERET, so FAR_EL2
    // can hold x2 meanwhile.
    "tst x1, #0x7ff",
    "b.ne 8f",
    "msr far_el2, x2",
    "msr tpidr_el2, x3",
    "adrp x2, exeunt_host_ram",
    "add x2, x2, :lo12:exeunt_host_ram",
    // Is it in RAM that is the host's? The list ends with an empty range.
    "3: ldp x0, x3, [x2], #16",
    "cbz x3, 4f",
    "cmp x1, x0",
    "b.lo 3b",
    "cmp x1, x3",
    "b.hs 3b",
    "mrs x2, far_el2",
    "mrs x3, tpidr_el2",
    "msr vbar_el2, x1",
    "mov x0, #{success}",
    "eret",
    "4: mrs x2, far_el2",
    "mrs x3, tpidr_el2",
    "b 8f",
    "1: cmp x0, #{reset_vectors}",
    "b.eq 7f",
    "cmp x0, #{get_ich_vtr}",
    "b.ne 8f",
    "mrs x0, id_aa64pfr0_el1",
    "tst x0, #(0xf << {gic_shift})",
    "b.eq 8f",
    "mrs x1, S3_4_C12_C11_1", // ICH_VTR_EL2
    "7: mov x0, #{success}",
    "eret",
    "8: ldr x0, ={stub_err}",
    "eret",
    // SOFT_RESTART: at EL2h, everything masked by the exception that brought us here, MMU off.
    "2: mov x0, x2",
    "mov x2, x4",
    "mov x4, x1",
    "mov x1, x3",
    "br x4",
    ".ltorg",
    ".popsection",
    breadcrumb = const BREADCRUMB,
    soft_restart = const stub::SOFT_RESTART,
    reset_vectors = const stub::RESET_VECTORS,
    get_ich_vtr = const stub::GET_ICH_VTR_EL2,
    success = const stub::SUCCESS,
    stub_err = const stub::STUB_ERR,
    gic_shift = const PFR0_GIC_SHIFT,
);

/// Ranges of RAM that [`HostRam`] has room for.
pub const MAX_RANGES: usize = 34;

/// The host's RAM as the resident stub knows it: first address and end of each range; an end of 0 behind the last. The
/// hypervisor defines it as the symbol `exeunt_host_ram`, fills it in before any CPU can come to the stub, and cleans it to the
/// point of coherency, because the stub reads it with the MMU off.
#[repr(C, align(64))]
pub struct HostRam(pub [[u64; 2]; MAX_RANGES + 1]);

unsafe extern "C" {
    static exeunt_resident_stub: u8;
}

/// Address of the resident stub's vector table, a multiple of 2 KiB.
#[must_use]
pub fn vectors() -> u64 {
    (&raw const exeunt_resident_stub).addr() as u64
}
