//! EL2's exception vectors: the table, and what it saves.
//!
//! The calls that need nothing of the machine are answered here, in a few instructions, before anything is saved:
//! unknown stub calls, SET_VECTORS, FINALISE_EL2, GET_ICH_VTR_EL2 and VERSION; not with `log=debug`, where each gets
//! its line, nor during a LEAVE. The code at EL2 takes no interrupt, so that what lies below the stack pointer stays.
//! Any other exception from the host ends in [`crate::exits`] and returns to it. An exception from EL2 itself is a
//! fault in Exeunt and ends in [`crate::panic`]; it trusts neither the stack (which may be the reason) nor any
//! register.

use core::arch::global_asm;
use core::mem::offset_of;

use guest_abi::{stub, vendor};
use hypervisor::own_calls::{EXEUNT_VERSION, control};
use hypervisor::syndrome::ExceptionClass;

use crate::cpu::EXCEPTION;
use crate::frame::{ExceptionFrame, HostFrame, x2_to_x29};
use crate::{cpu, exits, leaving, panic, resident};

/// Byte offset of field `$field` of the exception frame within `PerCpu`.
macro_rules! exception {
    ($field:ident) => {
        EXCEPTION + offset_of!(ExceptionFrame, $field)
    };
}

global_asm!(
    // An exception from EL2. CNTHP_CVAL_EL2 is the one place to put a register before there is any memory to put it:
    // EL2's physical timer is off for all of Exeunt's life.
    ".macro EL2_VECTOR index",
    ".balign 0x80",
    "msr cnthp_cval_el2, x0",
    "mrs x0, tpidr_el2",
    "str x1, [x0, #{x} + 8]",
    "mov x1, #\\index",
    "b exeunt_el2_vector",
    ".endm",
    // An exception from the host: save x0 to x30 as a `HostFrame` on this CPU's stack, which is empty while the host
    // runs.
    ".macro HOST_VECTOR handler",
    ".balign 0x80",
    "sub sp, sp, #{frame_size}",
    "stp x0, x1, [sp]",
    "adr x1, \\handler",
    "b exeunt_host_vector",
    ".endm",
    ".pushsection .text.vectors, \"ax\"",
    ".balign 0x800",
    ".global exeunt_vectors",
    "exeunt_vectors:",
    "EL2_VECTOR 0", // EL2t: Exeunt always uses SP_EL2
    "EL2_VECTOR 1",
    "EL2_VECTOR 2",
    "EL2_VECTOR 3",
    "EL2_VECTOR 4", // EL2h
    "EL2_VECTOR 5",
    "EL2_VECTOR 6",
    "EL2_VECTOR 7",
    // From AArch64, synchronous. Calls that need nothing of the machine are answered at once, with x2 and x3 below the
    // stack.
    ".balign 0x80",
    "stp x2, x3, [sp, #-16]",
    "mrs x2, esr_el2",
    "lsr x3, x2, #26",
    "cmp x3, #{hvc64}",
    "b.ne .Lslow_sync",
    "adrp x3, exeunt_fast",
    "ldr x3, [x3, :lo12:exeunt_fast]",
    "tbnz x3, #{leaving}, .Lslow_sync",
    "tbz x3, #{fast_calls}, .Lslow_sync",
    "b exeunt_fast_call",
    ".Lslow_sync:",
    "ldp x2, x3, [sp, #-16]",
    "sub sp, sp, #{frame_size}",
    "stp x0, x1, [sp]",
    "adr x1, exeunt_host_sync",
    "b exeunt_host_vector",
    "HOST_VECTOR exeunt_host_irq",
    "HOST_VECTOR exeunt_host_fiq",
    "HOST_VECTOR exeunt_host_serror",
    "HOST_VECTOR exeunt_host_sync", // from AArch32, which can only be the host's EL0
    "HOST_VECTOR exeunt_host_irq",
    "HOST_VECTOR exeunt_host_fiq",
    "HOST_VECTOR exeunt_host_serror",
    ".popsection",
    ".pushsection .text.beside_tables, \"ax\"",
    // The rest of the calls that are answered at once. In: x2 = ESR_EL2, x3 = control and flags (`resident::Fast`).
    // What each answers, and when, is `hypervisor::stub`'s and `hypervisor::own_calls`'s; the conformance tests compare
    // the two ways.
    "exeunt_fast_call:",
    "tbnz w0, #31, .Lfast_smccc",
    "cmp x0, #{get_ich_vtr}",
    "b.hi .Lfast_refused",
    "b.eq .Lfast_ich_vtr",
    "cmp x0, #{finalise}",
    "b.eq .Lfast_refused",
    "cbz x0, .Lfast_set_vectors",
    ".Lslow_call:",
    "ldp x2, x3, [sp, #-16]",
    "sub sp, sp, #{frame_size}",
    "stp x0, x1, [sp]",
    "adr x1, exeunt_host_sync",
    "b exeunt_host_vector",
    ".Lfast_smccc:",
    "tst w2, #0xffff", // the immediate
    "b.ne .Lslow_call",
    "mov w3, #{version} & 0xffff",
    "movk w3, #{version} >> 16, lsl #16",
    "cmp w0, w3",
    "b.ne .Lslow_call",
    "mov w0, #{abi_version} & 0xffff",
    "movk w0, #{abi_version} >> 16, lsl #16",
    "mov w1, #{exeunt_version} & 0xffff",
    "movk w1, #{exeunt_version} >> 16, lsl #16",
    "b .Lfast_done",
    ".Lfast_ich_vtr:",
    "tbz x3, #{fast_ich_vtr}, .Lfast_refused",
    "mov x0, #{success}",
    "mrs x1, S3_4_C12_C11_1", // ICH_VTR_EL2
    ".Lfast_done:",
    "mrs x3, tpidr_el2",
    "ldr x2, [x3, #{hvc_counter}]",
    "add x2, x2, #1",
    "str x2, [x3, #{hvc_counter}]",
    "ldp x2, x3, [sp, #-16]",
    "eret",
    "dsb nsh",
    "isb",
    ".Lfast_set_vectors:",
    "tbz x3, #{fast_vectors}, .Lfast_refused",
    "tst x1, #0x7ff",
    "b.ne .Lfast_refused",
    "adrp x2, exeunt_host_ram",
    "add x2, x2, :lo12:exeunt_host_ram",
    "1: ldp x0, x3, [x2], #16",
    "cbz x3, .Lfast_refused",
    "cmp x1, x0",
    "b.lo 1b",
    "cmp x1, x3",
    "b.hs 1b",
    "mrs x3, tpidr_el2",
    "stp x1, x1, [x3, #{host_vectors}]",
    "mov x0, #{success}",
    "b .Lfast_done",
    ".Lfast_refused:",
    "mov w0, #{stub_err} & 0xffff",
    "movk w0, #{stub_err} >> 16, lsl #16",
    "b .Lfast_done",
    // From the table of REENTER, with this CPU's empty stack and EL2's MMU just on: x1 of the host is in FAR_EL2
    // (`boot::stub`), its x0 is an answer's.
    ".global exeunt_come_back",
    "exeunt_come_back:",
    "sub sp, sp, #{frame_size}",
    "mrs x1, far_el2",
    "stp x0, x1, [sp]",
    "adr x1, exeunt_host_come_back",
    "b exeunt_host_vector",
    "exeunt_host_vector:",
    x2_to_x29!("stp", "sp, #0"),
    "str x30, [sp, #240]",
    "mov x0, sp",
    "mov x29, xzr", // a backtrace ends here
    "blr x1",
    x2_to_x29!("ldp", "sp, #0"),
    "ldr x30, [sp, #240]",
    "ldp x0, x1, [sp], #{frame_size}",
    "eret",
    "dsb nsh", // nothing is speculated past the eret (as Linux does after its own)
    "isb",
    "exeunt_el2_vector:",
    x2_to_x29!("stp", "x0, #{x}"),
    "mrs x2, cnthp_cval_el2",
    "str x2, [x0, #{x}]",
    "mov x2, sp",
    "stp x30, x2, [x0, #{x} + 240]",
    "mrs x2, elr_el2",
    "mrs x3, spsr_el2",
    "stp x2, x3, [x0, #{elr}]",
    "mrs x2, esr_el2",
    "mrs x3, far_el2",
    "stp x2, x3, [x0, #{esr}]",
    "ldr x3, [x0, #{depth}]",
    "add x3, x3, #1",
    "stp x1, x3, [x0, #{vector}]",
    "cmp x3, #2",
    "b.eq 2f",
    "b.hi 3f",
    // The first: claim the emergency stack. Another CPU that has it reports its own panic and turns the machine off.
    // With the MMU off there is no other CPU, and exclusive accesses need not work.
    "mrs x5, sctlr_el2",
    "tbz x5, #0, 5f",
    "adrp x4, {owner}",
    "add x4, x4, :lo12:{owner}",
    "1: ldaxr x5, [x4]",
    "cbnz x5, 4f",
    "stlxr w6, x0, [x4]",
    "cbnz w6, 1b",
    "5: adrp x4, __emergency_stack_top",
    "mov sp, x4",
    "b {exception}",
    // The second, in the report of the first (or after a Rust panic that this CPU reports): say that much.
    "2: adrp x4, __emergency_stack_top",
    "mov sp, x4",
    "b {double}",
    // The third: nothing works but, perhaps, firmware.
    "3: ldr w0, ={system_off}",
    "smc #0",
    "4: wfe",
    "b 4b",
    ".popsection",
    frame_size = const size_of::<HostFrame>(),
    x = const exception!(x),
    elr = const exception!(elr),
    esr = const exception!(esr),
    vector = const exception!(vector),
    depth = const exception!(depth),
    owner = sym panic::PANIC_OWNER,
    exception = sym panic::el2_exception,
    double = sym panic::double_fault,
    system_off = const 0x8400_0008_u32,
    hvc64 = const ExceptionClass::Hvc64 as u64,
    leaving = const control::LEAVING_BIT,
    fast_calls = const 32 + resident::FAST_CALLS.trailing_zeros(),
    fast_ich_vtr = const 32 + resident::FAST_ICH_VTR.trailing_zeros(),
    fast_vectors = const 32 + resident::FAST_VECTORS.trailing_zeros(),
    get_ich_vtr = const stub::GET_ICH_VTR_EL2,
    finalise = const stub::FINALISE_EL2,
    success = const stub::SUCCESS,
    stub_err = const stub::STUB_ERR,
    version = const vendor::VERSION,
    abi_version = const vendor::ABI_VERSION,
    exeunt_version = const EXEUNT_VERSION.to_bits(),
    hvc_counter = const cpu::HVC_COUNTER,
    host_vectors = const cpu::HOST_VECTORS,
);

// The offsets of a load or store pair reach 504 bytes.
const _: () = assert!(exception!(depth) <= 504);

// The handlers that the table names; `sym` operands do not reach into an assembler macro's arguments.
global_asm!(
    ".global exeunt_host_sync, exeunt_host_irq, exeunt_host_fiq, exeunt_host_serror, exeunt_host_come_back",
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
);
