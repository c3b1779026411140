//! EL2's exception vectors: the table, and what it saves.
//!
//! Calls that need nothing of the machine go to [`crate::fast`]. Any other exception from the host is saved as a
//! [`HostFrame`], ends in [`crate::exits`] and returns to the host. An exception from EL2 itself is the answer to a
//! guarded access, and returns to whoever made that ([`crate::guarded`]); every other one is a fault in Exeunt and ends
//! in [`crate::panic`]. What looks which it is trusts neither the stack (which may be the reason) nor any register.

use core::arch::global_asm;
use core::mem::offset_of;

use hypervisor::own_calls::control;
use hypervisor::syndrome::ExceptionClass;

use crate::cpu::EXCEPTION;
use crate::frame::{ExceptionFrame, HostFrame, x2_to_x29};
use crate::{cpu, exits, last_words, leaving, panic, resident};

/// Byte offset of field `$field` of the exception frame within `PerCpu`.
macro_rules! exception {
    ($field:ident) => {
        EXCEPTION + offset_of!(ExceptionFrame, $field)
    };
}

/// In a build with faults a CPU that has lost TPIDR_EL2 is slow, so that a test sees two at a time; and it says if
/// another one came meanwhile. It may change x2 to x5 and the flags.
#[cfg(feature = "faults")]
macro_rules! linger {
    () => {
        concat!(
            "mrs x2, mpidr_el1\n",
            "adrp x3, exeunt_lost_last\n",
            "add x3, x3, :lo12:exeunt_lost_last\n",
            "str x2, [x3]\n",
            "mov x4, #0x100000\n",
            "1: subs x4, x4, #1\n",
            "b.ne 1b\n",
            "ldr x5, [x3]\n",
            "cmp x5, x2\n",
            "b.eq 1f\n",
            "str x2, [x3, #8]\n",
            "1:\n",
        )
    };
}

#[cfg(not(feature = "faults"))]
macro_rules! linger {
    () => {
        ""
    };
}

global_asm!(
    // An exception from EL2, and what it may trust. Its stack may be the reason, and Exeunt always uses SP_EL2: so
    // SP_EL0 is selected, and from here on an exception would come by another vector, to say no more than its last
    // words. CNTHP_CVAL_EL2 is the one place to put a register before there is any memory to put it: EL2's physical
    // timer is off, or it is the watchdog's, which gets its time back. TPIDR_EL2 is the other one, once it is in x0: it
    // is used when it is the address of a CPU's structure, in these 2 MiB, aligned, and signed; else the spare one is.
    ".macro EL2_VECTOR index",
    ".balign 0x80",
    "msr spsel, #0",
    "msr cnthp_cval_el2, x0",
    "mrs x0, tpidr_el2",
    "msr tpidr_el2, x1",
    "adrp x1, __image_start",
    "sub x1, x0, x1",
    "lsr x1, x1, #{reservation}",
    "cbnz x1, 1f",
    "and x1, x0, #({alignment} - 1)",
    "cbnz x1, 1f",
    "ldr x1, [x0, #{sign}]",
    "eor x1, x1, x0",
    "cmn x1, #1",
    "b.ne 1f",
    "mrs x1, tpidr_el2",
    "msr tpidr_el2, x0",
    "stp x1, x2, [x0, #{spare}]",
    "mov x1, #\\index",
    "b exeunt_el2_vector",
    "1: adrp x1, exeunt_spare_cpu",
    "add x1, x1, :lo12:exeunt_spare_cpu",
    "str x0, [x1, #{lost}]",
    "mov x0, #\\index",
    "b exeunt_lost_cpu",
    ".endm",
    ".macro LAST_VECTOR",
    ".balign 0x80",
    "adr x19, exeunt_panic_host",
    "b exeunt_last_words",
    ".endm",
    // An exception from the host: save x0 to x30 as a `HostFrame` on this CPU's stack, which is empty while the host
    // runs. An interrupt leaves ESR_EL2 alone, which tells of an earlier exception then.
    ".macro HOST_VECTOR handler",
    ".balign 0x80",
    "sub sp, sp, #{frame_size}",
    "stp x0, x1, [sp]",
    "mrs x0, esr_el2",
    "adr x1, \\handler",
    "b exeunt_host_vector",
    ".endm",
    ".macro HOST_INTERRUPT handler",
    ".balign 0x80",
    "sub sp, sp, #{frame_size}",
    "stp x0, x1, [sp]",
    "mov x0, xzr",
    "adr x1, \\handler",
    "b exeunt_host_vector",
    ".endm",
    ".pushsection .text.vectors, \"ax\"",
    ".balign 0x800",
    ".global exeunt_vectors",
    "exeunt_vectors:",
    "LAST_VECTOR", // EL2t
    "LAST_VECTOR",
    "LAST_VECTOR",
    "LAST_VECTOR",
    "EL2_VECTOR 4", // EL2h
    "EL2_VECTOR 5",
    "EL2_VECTOR 6",
    "EL2_VECTOR 7",
    // From AArch64, synchronous. Calls may be answered at once, with x2 and x3 below the stack.
    ".balign 0x80",
    "stp x2, x3, [sp, #-16]",
    "mrs x2, esr_el2",
    "lsr x3, x2, #26",
    "cmp x3, #{hvc64}",
    "b.ne .Lslow_sync",
    "adrp x3, exeunt_fast",
    "ldr x3, [x3, :lo12:exeunt_fast]",
    "tbnz x3, #{leaving}, exeunt_slow_hvc",
    "tbz x3, #{fast_calls}, exeunt_slow_hvc",
    "b exeunt_fast_call",
    ".Lslow_sync:",
    "cmp x3, #{smc64}",
    "b.eq exeunt_fast_smc",
    "ldp x2, x3, [sp, #-16]",
    "sub sp, sp, #{frame_size}",
    "stp x0, x1, [sp]",
    "mrs x0, esr_el2",
    "adr x1, exeunt_host_sync",
    "b exeunt_host_vector",
    "HOST_INTERRUPT exeunt_host_irq",
    "HOST_INTERRUPT exeunt_host_fiq",
    "HOST_VECTOR exeunt_host_serror",
    "HOST_VECTOR exeunt_host_sync", // from AArch32, which can only be the host's EL0
    "HOST_INTERRUPT exeunt_host_irq",
    "HOST_INTERRUPT exeunt_host_fiq",
    "HOST_VECTOR exeunt_host_serror",
    // The same for a CPU whose exits are traced: it has no calls that are answered at once, and its handlers write a
    // record around what the others do.
    ".balign 0x800",
    ".global exeunt_traced_vectors",
    "exeunt_traced_vectors:",
    "LAST_VECTOR", // EL2t
    "LAST_VECTOR",
    "LAST_VECTOR",
    "LAST_VECTOR",
    "EL2_VECTOR 4", // EL2h
    "EL2_VECTOR 5",
    "EL2_VECTOR 6",
    "EL2_VECTOR 7",
    "HOST_VECTOR exeunt_traced_sync", // from AArch64
    "HOST_INTERRUPT exeunt_traced_irq",
    "HOST_INTERRUPT exeunt_traced_fiq",
    "HOST_VECTOR exeunt_traced_serror",
    "HOST_VECTOR exeunt_traced_sync", // from AArch32
    "HOST_INTERRUPT exeunt_traced_irq",
    "HOST_INTERRUPT exeunt_traced_fiq",
    "HOST_VECTOR exeunt_traced_serror",
    ".popsection",
    ".pushsection .text.beside_tables, \"ax\"",
    // From the table of REENTER, with this CPU's empty stack and EL2's MMU just on: x1 of the host is in FAR_EL2
    // (`boot::stub`). After an SMC its x0 is in CNTHP_CVAL_EL2; after REENTER it is an answer's, which is STUB_ERR for
    // as long as Exeunt is not back. Should it die on the way, the SMC is executed again, and REENTER is not.
    ".global exeunt_come_back",
    "exeunt_come_back:",
    "sub sp, sp, #{frame_size}",
    "mrs x0, esr_el2",
    "lsr x1, x0, #26",
    "cmp x1, #{smc64}",
    "mrs x0, cnthp_cval_el2",
    "b.eq 1f",
    "ldr x0, ={stub_err}",
    "1: mrs x1, far_el2",
    "stp x0, x1, [sp]",
    "mov x0, xzr",
    "adr x1, exeunt_host_come_back",
    "b exeunt_host_vector",
    "exeunt_el2_vector:",
    // A synchronous exception with SP_EL2, in a guarded access? (`guarded`)
    "cmp x1, #4",
    "b.ne 6f",
    "mrs x2, elr_el2",
    "adr x0, __guarded_start",
    "cmp x2, x0",
    "b.lo 6f",
    "adr x0, __guarded_end - 4", // the last instruction
    "cmp x2, x0",
    "b.ls exeunt_fix_up",
    "6: mrs x0, tpidr_el2",
    "ldr x2, [x0, #{spare} + 8]",
    ".Lsave_all:",
    x2_to_x29!("stp", "x0, #{x} + "),
    "mrs x2, cnthp_cval_el2",
    "ldr x3, [x0, #{spare}]",
    "stp x2, x3, [x0, #{x}]",
    "mrs x2, elr_el2",
    "mrs x3, spsr_el2",
    "stp x2, x3, [x0, #{elr}]",
    "mrs x2, esr_el2",
    "mrs x3, far_el2",
    "stp x2, x3, [x0, #{esr}]",
    "ldr x3, [x0, #{depth}]",
    "add x3, x3, #1",
    "stp x1, x3, [x0, #{vector}]",
    // It is counted: another one may come the same way.
    "msr spsel, #1",
    "mov x2, sp",
    "stp x30, x2, [x0, #{x} + 240]",
    // What of it can be told and done in Rust is: for the first on the emergency stack, so that the backtrace is whole.
    // After two that failed there is a way without a stack.
    "cmp x3, #2",
    "b.hi exeunt_rescue",
    "ldr x4, [x0, #{stack_top}]",
    "cbz x4, 4f", // a CPU that nobody knows, or none has its stack yet
    "sub x4, x4, #{frame_size}",
    "b 3f",
    "4: adrp x4, __emergency_stack_top",
    // With the MMU off there is no other CPU, and exclusive accesses need not work.
    "3: mrs x5, sctlr_el2",
    "tbz x5, #0, 5f",
    "adrp x7, {owner}",
    "add x7, x7, :lo12:{owner}",
    "1: ldaxr x5, [x7]",
    "cbnz x5, 7f",
    "stlxr w6, x0, [x7]",
    "cbnz w6, 1b",
    "5: adrp x4, __emergency_stack_top",
    "b 2f",
    // Somebody has it: this CPU, whose second exception this is (or its first after a panic), and the other stack may
    // be the reason. Or another one, beside whose report this CPU says a line and goes by itself. If the machine goes
    // off anyway, it does after the report.
    "7: cmp x5, x0",
    "b.eq 2f",
    "mov x1, #1",
    "adrp x5, exeunt_fail",
    "ldrb w5, [x5, :lo12:exeunt_fail]",
    "cbz w5, exeunt_await_report",
    "mov sp, x4",
    "cmp x3, #2",
    "b.eq {double}",
    "b {beside}",
    "2: mov sp, x4",
    "cmp x3, #2",
    "b.eq {double}",
    "b {exception}",
    // This CPU's TPIDR_EL2 is none of its own. x1 = the spare structure, which has what was there; x0 = the number of
    // the vector; TPIDR_EL2 has x1. The list of CPUs tells by MPIDR_EL1 which it should be. Two CPUs at a time mix what
    // they keep here, x2 to x5 and what was in TPIDR_EL2: that is wrong in a report then, and no decision goes by it.
    "exeunt_lost_cpu:",
    "stp x2, x3, [x1, #{x} + 16]",
    "stp x4, x5, [x1, #{x} + 32]",
    linger!(),
    "mrs x2, mpidr_el1",
    "bfi x2, xzr, #24, #8",
    "ubfx x2, x2, #0, #40",
    "adrp x3, exeunt_cpu_list",
    "add x3, x3, :lo12:exeunt_cpu_list",
    "1: ldp x4, x5, [x3], #16",
    "cmn x4, #1",
    "b.eq 2f",
    "cmp x4, x2",
    "b.eq 3f",
    "adrp x4, exeunt_cpu_list + {list_size}",
    "add x4, x4, :lo12:exeunt_cpu_list + {list_size}",
    "cmp x3, x4",
    "b.lo 1b",
    "b 2f",
    "3: cbz x5, 2f",
    "ldr x4, [x5, #{sign}]",
    "eor x4, x4, x5",
    "cmn x4, #1",
    "b.eq 4f",
    "2: mov x5, x1",
    "4: mrs x4, tpidr_el2",
    "str x4, [x5, #{spare}]",
    "ldr x4, [x1, #{lost}]",
    "str x4, [x5, #{lost}]",
    "msr tpidr_el2, x5",
    "ldp x2, x3, [x1, #{x} + 16]",
    "ldp x4, x5, [x1, #{x} + 32]",
    "orr x1, x0, #{lost_cpu}",
    "mrs x0, tpidr_el2",
    "b .Lsave_all",
    // The access returns to its caller with the syndrome. It is a function without a stack, and PSTATE is what it was:
    // EL2h, everything masked. What the exception has written over is in x11 and in x1 of the frame.
    "exeunt_fix_up:",
    "msr spsel, #1",
    "mrs x0, tpidr_el2",
    "ldr x1, [x0, #{tick_due}]",
    "msr cnthp_cval_el2, x1",
    "ldr x1, [x0, #{spare}]",
    "msr elr_el2, x11",
    "msr spsr_el2, x1",
    "mrs x0, esr_el2",
    "mov x1, #-1",
    "ret",
    ".popsection",
    frame_size = const size_of::<HostFrame>(),
    x = const exception!(x),
    elr = const exception!(elr),
    esr = const exception!(esr),
    vector = const exception!(vector),
    depth = const exception!(depth),
    spare = const EXCEPTION + ExceptionFrame::SPARE,
    owner = sym last_words::REPORTER,
    exception = sym panic::el2_exception,
    beside = sym panic::el2_exception_beside,
    double = sym panic::double_fault,
    stack_top = const cpu::STACK_TOP,
    stub_err = const guest_abi::stub::STUB_ERR,
    list_size = const size_of::<boot::stub::CpuList>(),
    lost_cpu = const ExceptionFrame::LOST_CPU,
    sign = const cpu::SIGN,
    tick_due = const cpu::TICK_DUE,
    alignment = const align_of::<cpu::PerCpu>(),
    reservation = const boot::RESERVATION.trailing_zeros(),
    lost = const EXCEPTION + ExceptionFrame::LOST,
    hvc64 = const ExceptionClass::Hvc64 as u64,
    smc64 = const ExceptionClass::Smc64 as u64,
    leaving = const control::LEAVING_BIT,
    fast_calls = const 32 + resident::FAST_CALLS.trailing_zeros(),
);

/// Addresses of the two tables: without a trace, and with one.
pub fn tables() -> [u64; 2] {
    unsafe extern "C" {
        static exeunt_vectors: u8;
        static exeunt_traced_vectors: u8;
    }
    [(&raw const exeunt_vectors).addr() as u64, (&raw const exeunt_traced_vectors).addr() as u64]
}

// The offsets of a load or store pair reach 504 bytes.
const _: () = assert!(EXCEPTION + ExceptionFrame::SPARE <= 504);

// The handlers that the table names; `sym` operands do not reach into an assembler macro's arguments.
global_asm!(
    ".global exeunt_host_sync, exeunt_host_irq, exeunt_host_fiq, exeunt_host_serror",
    ".global exeunt_host_come_back",
    ".global exeunt_traced_sync, exeunt_traced_irq, exeunt_traced_fiq, exeunt_traced_serror",
    ".set exeunt_traced_sync, {traced_sync}",
    ".set exeunt_traced_irq, {traced_irq}",
    ".set exeunt_traced_fiq, {traced_fiq}",
    ".set exeunt_traced_serror, {traced_serror}",
    ".set exeunt_host_sync, {sync}",
    ".set exeunt_host_irq, {irq}",
    ".set exeunt_host_fiq, {fiq}",
    ".set exeunt_host_serror, {serror}",
    ".set exeunt_host_come_back, {come_back}",
    sync = sym exits::sync,
    irq = sym exits::irq,
    fiq = sym exits::fiq,
    serror = sym exits::serror,
    come_back = sym leaving::come_back,
    traced_sync = sym exits::traced_sync,
    traced_irq = sym exits::traced_irq,
    traced_fiq = sym exits::traced_fiq,
    traced_serror = sym exits::traced_serror,
);
