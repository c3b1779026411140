//! What a CPU says when nothing else works, and the end of it.
//!
//! The third exception of a CPU, and one that comes before the second could be counted, have nothing that they could
//! trust: neither a stack nor any memory but this text, and for the UART one record that says by itself whether it is
//! whole. So this is assembly without a stack, and each of its waits has a limit. An exception in it turns the machine
//! off at once. If it looks as if there were a host that could panic, it does, and the machine goes on
//! (`rescue.rs`). The log's ring is left alone: whoever could read it goes off with the machine.
//!
//! Owns that code, the record, and the word that says who reports. It is ground: it imports nothing of the image.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// A UART, for who can read a register and compare.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Uart {
    /// Physical address of the register that says whether there is room.
    pub status: u64,
    /// Physical address of the register that takes a byte; 0 if there is no UART.
    pub data: u64,
    /// The bit of status that says it.
    pub bit: u64,
    /// What it is when there is room: `bit` or 0.
    pub room: u64,
    /// Whether registers are read and written as bytes, and not as words: 1 or 0.
    pub bytes: u64,
}

impl Uart {
    /// There is none.
    pub const NONE: Self = Self { status: 0, data: 0, bit: 0, room: 0, bytes: 0 };
}

/// The record: all zeroes are none.
#[repr(C)]
struct Record {
    uart: Uart,
    /// What the words before it come to by exclusive or.
    sum: u64,
}

struct Shared(UnsafeCell<Record>);

// SAFETY: the boot CPU writes it, before any other runs.
unsafe impl Sync for Shared {}

static RECORD: Shared =
    Shared(UnsafeCell::new(Record { uart: Uart { status: 0, data: 0, bit: 0, room: 0, bytes: 0 }, sum: 0 }));

/// Says where the last words go.
///
/// # Safety
/// Called by the boot CPU, before any other runs; it is a UART, mapped as Device memory or with the MMU off.
pub unsafe fn set_uart(uart: Uart) {
    let sum = uart.status ^ uart.data ^ uart.bit ^ uart.room ^ uart.bytes;
    // SAFETY: promised by the caller.
    unsafe { RECORD.0.get().write(Record { uart, sum }) };
}

/// 0 while no CPU reports that Exeunt has died on it, else the address of the structure of the one that does: it has
/// the emergency stack and the console.
pub static REPORTER: AtomicU64 = AtomicU64::new(0);

/// The next CPU that dies has them, if this one, with its structure at `address`, had.
pub fn give_up_report(address: u64) {
    let _ = REPORTER.compare_exchange(address, 0, Ordering::AcqRel, Ordering::Relaxed);
}

/// TPIDR_EL2 of a CPU that says its last words: "exdies" and two bytes of 0, for a debugger to read. That of the
/// resident stub is `boot::stub::BREADCRUMB`.
const BREADCRUMB: u64 = u64::from_be_bytes(*b"exdies\0\0");

/// How often a byte looks for room before it is lost, and all that follow.
const PATIENCE: u64 = 10_000_000;

/// How long a CPU waits for another one's report to end, in seconds: some kilobytes at the slowest line speeds.
const REPORT_PATIENCE: u64 = 15;

/// PSCI SYSTEM_OFF (DEN0022, 5.1.9).
const SYSTEM_OFF: u32 = 0x8400_0008;

/// The option `fail=`, by its number (`hypervisor::rescue::Fail`). Before it is known the machine goes off: 0.
#[unsafe(export_name = "exeunt_fail")]
pub static FAIL: AtomicU8 = AtomicU8::new(0);

unsafe extern "C" {
    /// Waits for another CPU, which reports a panic, to turn the machine off, and does so itself if that takes too
    /// long.
    safe fn exeunt_await_report() -> !;
}

/// Another CPU has the console and is about to turn the machine off. It may break on the way.
pub fn await_report() -> ! {
    exeunt_await_report()
}

global_asm!(
    ".pushsection .text.beside_tables, \"ax\"",
    ".global exeunt_await_report",
    "exeunt_await_report:",
    "mov x19, xzr",
    "mrs x0, cntfrq_el0",
    "orr x0, x0, #0x100000", // firmware need not have said it
    "mov x1, #{report_patience}",
    "mul x0, x0, x1",
    "mrs x1, cntpct_el0",
    "add x0, x0, x1",
    "1: yield",
    "mrs x1, cntpct_el0",
    "cmp x1, x0",
    "b.lo 1b",
    "adr x6, 8f",
    "b 2f",
    // An exception has led here, and all of its registers but EL2's own may be overwritten. In: x19 = what has a host
    // panic, for which it needs no stack.
    ".global exeunt_last_words",
    "exeunt_last_words:",
    "adr x6, 7f",
    // From another one of these: they do not work.
    "2: mrs x0, tpidr_el2",
    "ldr x1, ={breadcrumb}",
    "cmp x0, x1",
    "b.eq 12f",
    "msr tpidr_el2, x1",
    "msr spsel, #0", // so that it does not go the long way to come here
    "isb",
    "mrs x11, esr_el2",
    "mrs x12, elr_el2",
    "mrs x13, far_el2",
    // Can a host panic? It is not in virtual EL2, and has an MMU and vectors.
    "adrp x10, exeunt_fail",
    "ldrb w10, [x10, :lo12:exeunt_fail]",
    "cbz w10, 11f",
    "mrs x10, hcr_el2",
    "tbnz x10, #{tge}, 11f",
    "mrs x10, sctlr_el1",
    "tbz x10, #0, 11f",
    "mrs x10, vbar_el1",
    "cbz x10, 11f",
    "cbz x19, 6f",
    "adr x6, 10f",
    "b 6f",
    "11: mov x19, xzr",
    "6: adrp x10, {record}",
    "add x10, x10, :lo12:{record}",
    "ldp x1, x2, [x10]",
    "ldp x3, x4, [x10, #{bit}]",
    "ldp x5, x14, [x10, #{bytes}]",
    "cbz x2, 9f",
    "eor x15, x1, x2",
    "eor x15, x15, x3",
    "eor x15, x15, x4",
    "eor x15, x15, x5",
    "cmp x15, x14",
    "b.ne 9f",
    "ldr x16, ={patience}",
    // The text, in which `#` stands for the next of the three registers.
    "3: ldrb w7, [x6], #1",
    "cbz w7, 9f",
    "cmp w7, #'#'",
    "b.eq 4f",
    "bl exeunt_last_byte",
    "b 3b",
    "4: mov x8, x11",
    "mov x11, x12",
    "mov x12, x13",
    "mov x9, #60",
    "5: lsr x7, x8, x9",
    "and x7, x7, #15",
    "cmp x7, #10",
    "add x14, x7, #'0'",
    "add x15, x7, #('a' - 10)",
    "csel x7, x14, x15, lo",
    "bl exeunt_last_byte",
    "subs x9, x9, #4",
    "b.pl 5b",
    "b 3b",
    "9: cbz x19, 12f",
    "br x19",
    "12: ldr w0, ={system_off}",
    "smc #0",
    // Firmware cannot.
    "1: wfi",
    "b 1b",
    "7: .ascii \"\\r\\nEXEUNT PANIC: an exception where none can be handled: \"",
    ".asciz \"ESR # ELR # FAR #; the machine goes off now\\r\\n\"",
    "8: .ascii \"\\r\\nEXEUNT PANIC: the report of another CPU does not end; here \"",
    ".asciz \"ESR # ELR # FAR #; the machine goes off now\\r\\n\"",
    "10: .ascii \"\\r\\nEXEUNT PANIC: an exception where none can be handled: \"",
    ".asciz \"ESR # ELR # FAR #; the host gets an SError, to panic\\r\\n\"",
    ".balign 4",
    ".ltorg",
    // Sends the byte in w7. Changes x17, and x16 when patience ends.
    "exeunt_last_byte:",
    "cbnz x5, 1f",
    "ldr w17, [x1]",
    "b 2f",
    "1: ldrb w17, [x1]",
    "2: and w17, w17, w3",
    "cmp w17, w4",
    "b.eq 6f",
    "cbz x16, 4f",
    "sub x16, x16, #1",
    "b exeunt_last_byte",
    "4: ret",
    "6: cbnz x5, 1f",
    "str w7, [x2]",
    "ret",
    "1: strb w7, [x2]",
    "ret",
    ".popsection",
    record = sym RECORD,
    bit = const offset_of!(Record, uart) + offset_of!(Uart, bit),
    bytes = const offset_of!(Record, uart) + offset_of!(Uart, bytes),
    breadcrumb = const BREADCRUMB,
    patience = const PATIENCE,
    report_patience = const REPORT_PATIENCE,
    system_off = const SYSTEM_OFF,
    tge = const 27, // HCR_EL2.TGE
);

const _: () = assert!(offset_of!(Record, uart) == 0 && offset_of!(Uart, data) == 8 && offset_of!(Uart, bit) == 16);
const _: () = assert!(offset_of!(Uart, bytes) == 32 && offset_of!(Record, sum) == 40);
