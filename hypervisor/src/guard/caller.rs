//! Whether the kernel loads a crash kernel on behalf of who has called it.
//!
//! A Linux on arm64 has a frame record (AAPCS64: the caller's x29, then x30) for each function, and one more at the end
//! of the kernel's stack, of two zeros, in the `struct pt_regs` in which it has saved what user space had
//! (arch/arm64/kernel/entry.S). The system call's number is in there. Where the record is in it depends on the kernel;
//! `user_pt_regs` (arch/arm64/include/uapi/asm/ptrace.h) and the words after it stand where they stood in 5.10:
//!
//! | offset | field |
//! |---|---|
//! | 0 | x0 to x30 |
//! | 256 | `pc` |
//! | 264 | `pstate` |
//! | 272 | `orig_x0`: x0 as the system call came with it |
//! | 280 | `syscallno` |
//! | 304 | `stackframe`, 5.10 to 6.12 |
//! | 296 | the same since 6.13 |

/// `stackframe`'s offset in `struct pt_regs`: 5.10 to 6.12, since 6.13, and with the two words that a patch for POE_EL1
/// puts before it.
const RECORDS: [u64; 3] = [304, 296, 312];

/// Where the other fields are.
mod field {
    pub const X7: u64 = 7 * 8;
    pub const X8: u64 = 8 * 8;
    pub const PC: u64 = 256;
    pub const PSTATE: u64 = 264;
    pub const ORIG_X0: u64 = 272;
    pub const SYSCALL: u64 = 280;
}

/// PSTATE.nRW: AArch32.
const NRW: u64 = 1 << 4;
/// M\[3:0\] of EL0, in either execution state.
const EL_MASK: u64 = 0xf;

/// `kexec_load` (include/uapi/asm-generic/unistd.h), whose first argument is the entry.
const LOAD: u32 = 104;
/// `kexec_file_load`, which is given files.
const FILE_LOAD: u32 = 294;
/// `kexec_load` of AArch32 (arch/arm64/tools/syscall_32.tbl).
const LOAD_32: u32 = 347;

/// The largest kernel stack: 64 KiB, with pages of that size.
const STACK: u64 = 64 << 10;

/// So many functions call each other at most.
const RECORDS_AT_MOST: usize = 64;

/// A system call that loads a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Where user space goes on when it returns.
    pub returns_to: u64,
    /// The physical address at which the kernel that is loaded begins, or what runs before it, if the call says so.
    pub entry: Option<u64>,
}

/// The system call that loads a kernel, if it is one by which the kernel with this x29 has been called. `word` reads
/// eight bytes at a virtual address, a multiple of 8.
#[must_use]
pub fn loads(x29: u64, word: impl Fn(u64) -> Option<u64>) -> Option<Load> {
    let record = last_record(x29, &word)?;
    RECORDS.into_iter().find_map(|offset| load(record.checked_sub(offset)?, &word))
}

/// The last frame record of a stack.
fn last_record(x29: u64, word: &impl Fn(u64) -> Option<u64>) -> Option<u64> {
    let mut at = x29;
    for _ in 0..RECORDS_AT_MOST {
        if !at.is_multiple_of(8) {
            return None;
        }
        let (next, link) = (word(at)?, word(at.checked_add(8)?)?);
        if next == 0 && link == 0 {
            return Some(at);
        }
        // Stacks grow down. Another one comes after that of an interrupt, in which nobody loads anything.
        if next <= at || next - x29 >= STACK {
            return None;
        }
        at = next;
    }
    None
}

/// The system call, by what is saved at `registers`, if user space has called for a kernel to be loaded. x8, or x7 of
/// AArch32, still has the number that it came with.
fn load(registers: u64, word: &impl Fn(u64) -> Option<u64>) -> Option<Load> {
    let read = |offset: u64| word(registers.checked_add(offset)?);
    let (pstate, call) = (read(field::PSTATE)?, read(field::SYSCALL)? as u32);
    if pstate & EL_MASK != 0 {
        return None;
    }
    let (is_load, number) = if pstate & NRW == 0 {
        ([LOAD, FILE_LOAD].contains(&call), read(field::X8)?)
    } else {
        (call == LOAD_32, read(field::X7)?)
    };
    (is_load && number == u64::from(call)).then_some(())?;
    let entry = if call == FILE_LOAD { None } else { read(field::ORIG_X0) };
    Some(Load { returns_to: read(field::PC)?, entry })
}
