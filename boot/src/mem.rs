//! `memset` and `memcpy`, which the compiler calls wherever much is set to zero or copied: tables, the CPUs' records.
//!
//! That of Rust's `compiler_builtins` writes eight bytes at a time, three instructions for each; with 32 CPUs that was
//! a tenth of all instructions of the start. Written in assembly because a compiler makes a call of `memset` out of a
//! loop that is one.

use core::arch::naked_asm;

/// C's `memset`: sets `size` bytes from `place` on to the low byte of `value`, and returns `place`. With the MMU off
/// all memory is Device memory, where every access has to be aligned.
///
/// | register | holds |
/// |---|---|
/// | x0 | `place` |
/// | x1 | the byte, eight times |
/// | x2 | how many bytes are left, less what the loop at hand writes at once |
/// | x3 | where the next one goes |
///
/// # Safety
/// All of these bytes can be written and are nobody else's.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(place: *mut u8, value: i32, size: usize) -> *mut u8 {
    naked_asm!(
        "mov x3, x0",
        "and x1, x1, #0xff",
        "orr x1, x1, x1, lsl #8",
        "orr x1, x1, x1, lsl #16",
        "orr x1, x1, x1, lsl #32",
        // Up to a multiple of 8.
        "2: tst x3, #7",
        "b.eq 3f",
        "cbz x2, 9f",
        "strb w1, [x3], #1",
        "sub x2, x2, #1",
        "b 2b",
        "3: subs x2, x2, #128",
        "b.lo 5f",
        "4: stp x1, x1, [x3]",
        "stp x1, x1, [x3, #16]",
        "stp x1, x1, [x3, #32]",
        "stp x1, x1, [x3, #48]",
        "stp x1, x1, [x3, #64]",
        "stp x1, x1, [x3, #80]",
        "stp x1, x1, [x3, #96]",
        "stp x1, x1, [x3, #112]",
        "add x3, x3, #128",
        "subs x2, x2, #128",
        "b.hs 4b",
        "5: adds x2, x2, #(128 - 8)",
        "b.mi 7f",
        "6: str x1, [x3], #8",
        "subs x2, x2, #8",
        "b.hs 6b",
        "7: adds x2, x2, #8",
        "b.eq 9f",
        "8: strb w1, [x3], #1",
        "subs x2, x2, #1",
        "b.ne 8b",
        "9: ret",
    )
}

/// C's `memcpy`: copies `size` bytes from `from` to `place`, which do not overlap, and returns `place`. As for
/// [`memset`]: that of `compiler_builtins` takes four instructions for eight bytes, and a CPU's record has two
/// thousand.
///
/// | register | holds |
/// |---|---|
/// | x0 | `place` |
/// | x1 | where the next byte comes from |
/// | x2 | how many bytes are left, less what the loop at hand copies at once |
/// | x3 | where the next one goes |
/// | x4 to x11 | bytes on their way |
///
/// # Safety
/// All of these bytes can be read or written, and are nobody else's.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(place: *mut u8, from: *const u8, size: usize) -> *mut u8 {
    naked_asm!(
        "mov x3, x0",
        // Words only where both are aligned to them: all memory may be Device memory.
        "orr x4, x0, x1",
        "tst x4, #7",
        "b.ne 7f",
        "subs x2, x2, #64",
        "b.lo 5f",
        "4: ldp x4, x5, [x1]",
        "ldp x6, x7, [x1, #16]",
        "ldp x8, x9, [x1, #32]",
        "ldp x10, x11, [x1, #48]",
        "stp x4, x5, [x3]",
        "stp x6, x7, [x3, #16]",
        "stp x8, x9, [x3, #32]",
        "stp x10, x11, [x3, #48]",
        "add x1, x1, #64",
        "add x3, x3, #64",
        "subs x2, x2, #64",
        "b.hs 4b",
        "5: adds x2, x2, #(64 - 8)",
        "b.mi 6f",
        "3: ldr x4, [x1], #8",
        "str x4, [x3], #8",
        "subs x2, x2, #8",
        "b.hs 3b",
        "6: add x2, x2, #8",
        "7: cbz x2, 9f",
        "8: ldrb w4, [x1], #1",
        "strb w4, [x3], #1",
        "subs x2, x2, #1",
        "b.ne 8b",
        "9: ret",
    )
}
