//! The host's own vectors for EL2, as Linux has them (`arch/arm64/kernel/hyp-stub.S`): what a host that was entered at
//! EL2 sets before it goes to EL1.
//!
//! Owns the table [`vectors`]. From EL1 it answers the stub calls as a stub of Linux 6.12 does on a CPU without VHE,
//! without a look at the arguments, and one number more, so that it cannot be taken for another stub. From EL2 itself
//! it notes what the exception said and returns.

use core::arch::{asm, global_asm, naked_asm};
use core::mem::offset_of;

use guest_abi::stub::{RESET_VECTORS, SET_VECTORS, SOFT_RESTART, STUB_ERR};

/// A number that this table alone knows.
pub const WHO: u64 = 0x6f77_6e00;
/// Its answer.
pub const OWN: u64 = 0x7475_6273;

/// What [`call`] passes and gets. TPIDR_EL2 points to it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Window {
    /// x0 to x28 before and after.
    pub x: [u64; 29],
    /// Exceptions that came to the table.
    pub taken: u64,
    /// ESR_EL2.
    pub esr: u64,
    /// ELR_EL2.
    pub elr: u64,
    /// SPSR_EL2.
    pub spsr: u64,
    /// Address after the call.
    pub behind: u64,
    /// For the vectors.
    pub scratch: u64,
}

global_asm!(
    ".pushsection .text.vectors, \"ax\"",
    ".balign 2048",
    ".global guest_el2_vectors",
    "guest_el2_vectors:",
    ".rept 4", // EL2t
    ".balign 128",
    "b .",
    ".endr",
    ".balign 128", // synchronous, EL2h
    "msr tpidr_el0, x0",
    "mrs x0, tpidr_el2",
    "str x1, [x0, #{SCRATCH}]",
    "mrs x1, esr_el2",
    "str x1, [x0, #{ESR}]",
    "mrs x1, elr_el2",
    "str x1, [x0, #{ELR}]",
    "mrs x1, spsr_el2",
    "str x1, [x0, #{SPSR}]",
    "ldr x1, [x0, #{TAKEN}]",
    "add x1, x1, #1",
    "str x1, [x0, #{TAKEN}]",
    "ldr x1, [x0, #{SCRATCH}]",
    "mrs x0, tpidr_el0",
    "eret",
    ".rept 3",
    ".balign 128",
    "b .",
    ".endr",
    ".balign 128", // synchronous, from EL1
    "cmp x0, #{SET_VECTORS}",
    "b.ne 1f",
    "msr vbar_el2, x1",
    "b 9f",
    "1: cmp x0, #{SOFT_RESTART}",
    "b.ne 2f",
    "mov x0, x2",
    "mov x2, x4",
    "mov x4, x1",
    "mov x1, x3",
    "br x4",
    "2: cmp x0, #{RESET_VECTORS}",
    "b.eq 9f",
    "b {others}",
    "9: mov x0, xzr",
    "eret",
    ".rept 7",
    ".balign 128",
    "b .",
    ".endr",
    ".popsection",
    SCRATCH = const offset_of!(Window, scratch),
    ESR = const offset_of!(Window, esr),
    ELR = const offset_of!(Window, elr),
    SPSR = const offset_of!(Window, spsr),
    TAKEN = const offset_of!(Window, taken),
    SET_VECTORS = const SET_VECTORS,
    SOFT_RESTART = const SOFT_RESTART,
    RESET_VECTORS = const RESET_VECTORS,
    others = sym others,
);

/// The numbers that the vector has no room for. Every register but x0 stays, as the callers check.
#[unsafe(naked)]
unsafe extern "C" fn others() -> ! {
    naked_asm!(
        "msr tpidr_el2, x1",
        "ldr x1, ={WHO}",
        "cmp x0, x1",
        "ldr x0, ={STUB_ERR}",
        "b.ne 1f",
        "ldr x0, ={OWN}",
        "1: mrs x1, tpidr_el2",
        "eret",
        ".ltorg",
        WHO = const WHO,
        OWN = const OWN,
        STUB_ERR = const STUB_ERR,
    )
}

unsafe extern "C" {
    static guest_el2_vectors: u8;
}

/// The address of the table, a multiple of 2 KiB.
pub fn vectors() -> u64 {
    core::ptr::addr_of!(guest_el2_vectors) as u64
}

/// Copies the table to `to`. The copy answers SET_VECTORS and RESET_VECTORS, and knows nothing else: what is outside
/// the table is at a fixed distance.
///
/// # Safety
/// `to` is a multiple of 2 KiB in RAM that nobody uses.
pub unsafe fn copy_to(to: u64) {
    const SIZE: usize = 2048;
    // SAFETY: the table has 2 KiB, and so has the RAM that the caller names. EL2 will fetch with its MMU off: the copy
    // is cleaned to the point of coherency, in steps of the smallest line (CTR_EL0), and then every instruction cache
    // is invalidated.
    unsafe {
        core::ptr::copy_nonoverlapping(vectors() as *const u8, to as *mut u8, SIZE);
        for line in (to..to + SIZE as u64).step_by(16) {
            asm!("dc cvac, {0}", in(reg) line, options(nostack, preserves_flags));
        }
        asm!("dsb sy", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags));
    }
}

/// Makes a call from EL2 to itself, with x0 to x28 as they are in `window`, and the immediate 0 or, if `other`, 0x4a48.
///
/// # Safety
/// At EL2 only, with [`vectors`] in VBAR_EL2.
#[unsafe(naked)]
pub unsafe extern "C" fn call(window: &mut Window, other: bool) {
    naked_asm!(
        "stp x29, x30, [sp, #-96]!",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "mov x29, x0",
        "mov x30, x1",
        "msr tpidr_el2, x0",
        "adr x1, 2f",
        "cbz x30, 4f",
        "adr x1, 3f",
        "4: str x1, [x29, #{BEHIND}]",
        "ldp x0, x1, [x29]",
        "ldp x2, x3, [x29, #16]",
        "ldp x4, x5, [x29, #32]",
        "ldp x6, x7, [x29, #48]",
        "ldp x8, x9, [x29, #64]",
        "ldp x10, x11, [x29, #80]",
        "ldp x12, x13, [x29, #96]",
        "ldp x14, x15, [x29, #112]",
        "ldp x16, x17, [x29, #128]",
        "ldp x18, x19, [x29, #144]",
        "ldp x20, x21, [x29, #160]",
        "ldp x22, x23, [x29, #176]",
        "ldp x24, x25, [x29, #192]",
        "ldp x26, x27, [x29, #208]",
        "ldr x28, [x29, #224]",
        "cbnz x30, 1f",
        "hvc #0",
        "2: b 5f",
        "1: hvc #0x4a48",
        "3: nop",
        "5: stp x0, x1, [x29]",
        "stp x2, x3, [x29, #16]",
        "stp x4, x5, [x29, #32]",
        "stp x6, x7, [x29, #48]",
        "stp x8, x9, [x29, #64]",
        "stp x10, x11, [x29, #80]",
        "stp x12, x13, [x29, #96]",
        "stp x14, x15, [x29, #112]",
        "stp x16, x17, [x29, #128]",
        "stp x18, x19, [x29, #144]",
        "stp x20, x21, [x29, #160]",
        "stp x22, x23, [x29, #176]",
        "stp x24, x25, [x29, #192]",
        "stp x26, x27, [x29, #208]",
        "str x28, [x29, #224]",
        "ldp x19, x20, [sp, #16]",
        "ldp x21, x22, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x25, x26, [sp, #64]",
        "ldp x27, x28, [sp, #80]",
        "ldp x29, x30, [sp], #96",
        "ret",
        BEHIND = const offset_of!(Window, behind),
    )
}
