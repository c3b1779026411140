//! Lab 7, a solution.

use core::arch::global_asm;

use guest_abi::stub::{RESET_VECTORS, SET_VECTORS, SOFT_RESTART, STUB_ERR, SUCCESS};

global_asm!(
    ".pushsection .text.yours, \"ax\"",
    ".balign 2048",
    ".global your_vectors",
    "your_vectors:",
    ".rept 8", // from EL2 itself
    ".balign 128",
    "b .",
    ".endr",
    ".balign 128", // from EL1, synchronous
    "cmp x0, #{SET_VECTORS}",
    "b.ne 1f",
    "msr vbar_el2, x1",
    "mov x0, #{SUCCESS}",
    "eret",
    "1: cmp x0, #{SOFT_RESTART}",
    "b.ne 2f",
    "mov x0, x2",
    "mov x2, x4",
    "mov x4, x1", // before x1 is overwritten
    "mov x1, x3",
    "br x4", // at EL2 still
    "2: cmp x0, #{RESET_VECTORS}",
    "b.ne 3f",
    "mov x0, #{SUCCESS}", // they are the stub's already
    "eret",
    "3: ldr x0, ={STUB_ERR}",
    "eret",
    ".ltorg",
    ".rept 7", // from EL1, all else; from AArch32
    ".balign 128",
    "b .",
    ".endr",
    ".popsection",
    SET_VECTORS = const SET_VECTORS,
    SOFT_RESTART = const SOFT_RESTART,
    RESET_VECTORS = const RESET_VECTORS,
    SUCCESS = const SUCCESS,
    STUB_ERR = const STUB_ERR,
);

unsafe extern "C" {
    static your_vectors: u8;
}

/// The address of the table.
pub fn vectors() -> u64 {
    &raw const your_vectors as u64
}
