//! Lab 7, your part: be the stub (docs/labs/lab-7.md).

use core::arch::global_asm;

global_asm!(
    ".pushsection .text.yours, \"ax\"",
    ".balign 2048",
    ".global your_vectors",
    "your_vectors:",
    ".rept 8", // from EL2 itself
    ".balign 128",
    "b .",
    ".endr",
    ".balign 128", // from EL1, synchronous: yours
    "eret",
    ".rept 7", // from EL1, all else; from AArch32
    ".balign 128",
    "b .",
    ".endr",
    ".popsection",
);

unsafe extern "C" {
    static your_vectors: u8;
}

/// The address of the table.
pub fn vectors() -> u64 {
    &raw const your_vectors as u64
}
