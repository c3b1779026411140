//! The calls that need nothing of the machine, answered in a few instructions, before anything is saved.
//!
//! Owns the assembly twin of what the library decides: unknown stub calls, SET_VECTORS, FINALISE_EL2, GET_ICH_VTR_EL2
//! and VERSION. Saving and restoring the host's registers for Rust takes more than the forty instructions that such a
//! call may cost. What each answers, and when, is `hypervisor::stub`'s and `hypervisor::own_calls`'s; the conformance
//! tests compare the two ways. Not with `log=debug`, where each call gets its line, nor during a LEAVE: the vector sees
//! to that. Nor is a call answered here while the host has vectors on this CPU that would have to answer it.
//!
//! | register | holds, where the vector for an HVC comes here |
//! |---|---|
//! | x0, x1 | the host's: the number, and the first argument |
//! | x2 | ESR_EL2; the host's is below the stack pointer, where it stays, since the code at EL2 takes no interrupt |
//! | x3 | `exeunt_fast`: control and flags ([`crate::resident::Fast`]); the host's is beside x2 |

use core::arch::global_asm;

use guest_abi::{stub, vendor};
use hypervisor::inject::pstate;
use hypervisor::own_calls::{EXEUNT_VERSION, control};
use hypervisor::smccc;

use crate::frame::HostFrame;
use crate::{cpu, exits, resident};

// What a call leaves when it has to be answered by Rust after all: the number in x0.
const _: () = assert!(stub::SUCCESS == stub::SET_VECTORS);

global_asm!(
    // Counts a call that is answered, and goes back. x3: `PerCpu`.
    ".macro FAST_RETURN",
    "ldr x3, [x3, #{block}]",
    "ldr x2, [x3, #{hvc_counter}]",
    "add x2, x2, #1",
    "str x2, [x3, #{hvc_counter}]",
    "ldp x2, x3, [sp, #-16]",
    "eret",
    "dsb nsh",
    "isb",
    ".endm",
    ".pushsection .text.beside_tables, \"ax\"",
    ".global exeunt_fast_call",
    "exeunt_fast_call:",
    "tbnz w0, #31, .Lfast_smccc",
    "cmp x0, #{get_ich_vtr}",
    "b.hi .Lfast_unknown",
    "b.eq .Lfast_ich_vtr",
    "cbz x0, .Lfast_set_vectors",
    "cmp x0, #{finalise}",
    "b.eq .Lfast_refused",
    "b exeunt_slow_hvc",
    ".Lfast_smccc:",
    "tst w2, #0xffff", // the immediate
    "b.ne exeunt_slow_hvc",
    "mov w3, #{version} & 0xffff",
    "movk w3, #{version} >> 16, lsl #16",
    "cmp x0, x3", // with a high word it may be for the host's vectors
    "b.ne exeunt_slow_hvc",
    "mrs x3, tpidr_el2",
    "mov w0, #{abi_version} & 0xffff",
    "movk w0, #{abi_version} >> 16, lsl #16",
    "mov w1, #{exeunt_version} & 0xffff",
    "movk w1, #{exeunt_version} >> 16, lsl #16",
    "FAST_RETURN",
    ".Lfast_ich_vtr:",
    "tbz x3, #{fast_ich_vtr}, .Lfast_refused",
    "mrs x3, tpidr_el2",
    "mov x0, #{success}",
    "mrs x1, S3_4_C12_C11_1", // ICH_VTR_EL2
    "FAST_RETURN",
    // It is recorded until somebody asks; the one before must have been heard of.
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
    "ldr x2, [x3, #{new_vectors}]",
    "mov x0, #{success}", // SET_VECTORS has the same number
    "cbnz x2, exeunt_slow_hvc",
    "orr x2, x1, #1",
    "stp x2, x2, [x3, #{new_vectors}]",
    "FAST_RETURN",
    // No number of a stub's. If the host has vectors that EL2 would run, they answer.
    ".Lfast_unknown:",
    "mrs x3, tpidr_el2",
    "ldr x2, [x3, #{has_vectors}]",
    "cbnz x2, exeunt_slow_hvc",
    "mov w0, #{stub_err} & 0xffff",
    "movk w0, #{stub_err} >> 16, lsl #16",
    "FAST_RETURN",
    ".Lfast_refused:",
    "mrs x3, tpidr_el2",
    "mov w0, #{stub_err} & 0xffff",
    "movk w0, #{stub_err} >> 16, lsl #16",
    "FAST_RETURN",
    // Any other HVC.
    ".global exeunt_slow_hvc",
    "exeunt_slow_hvc:",
    "ldp x2, x3, [sp, #-16]",
    "sub sp, sp, #{frame_size}",
    "stp x0, x1, [sp]",
    "mrs x0, esr_el2",
    "adr x1, {hvc}",
    "b exeunt_host_vector",
    // An SMC. In: x2 = ESR_EL2, x3 is free; the host's are below the stack.
    ".global exeunt_fast_smc",
    "exeunt_fast_smc:",
    "tst w2, #0xffff", // the immediate
    "b.ne .Lslow_smc",
    "adrp x3, exeunt_fast",
    "ldr x3, [x3, :lo12:exeunt_fast]",
    "tbnz x3, #{leaving}, .Lslow_smc",
    // The numbers without bit 31 and the hint. A comparison takes 12 bits of 24: one more than 0x7fff and 0x3fff does.
    "and w3, w0, #~{hint}",
    "eor w3, w3, #{fast}",
    "cmp w3, #{workaround_1}",
    "add w3, w3, #1",
    "b.eq 2f",
    "cmp w3, #({workaround_2} + 1)",
    "b.eq 2f",
    "cmp w3, #({workaround_3} + 1)",
    "b.ne .Lslow_smc",
    // Past the SMC, as if it had been executed (`hypervisor::inject::skip_a64`).
    "2: mrs x2, elr_el2",
    "mrs x3, spsr_el2",
    "add x2, x2, #4",
    "and x3, x3, #~{ss}",
    "and x3, x3, #~{btype}",
    "msr elr_el2, x2",
    "msr spsr_el2, x3",
    "mrs x3, tpidr_el2",
    "ldr x3, [x3, #{block}]",
    "ldr x2, [x3, #{smc_counter}]",
    "add x2, x2, #1",
    "str x2, [x3, #{smc_counter}]",
    "ldp x2, x3, [sp, #-16]",
    "smc #0",
    "eret",
    "dsb nsh",
    "isb",
    ".Lslow_smc:",
    "ldp x2, x3, [sp, #-16]",
    "sub sp, sp, #{frame_size}",
    "stp x0, x1, [sp]",
    "mrs x0, esr_el2",
    "adr x1, {smc}",
    "b exeunt_host_vector",
    ".popsection",
    smc = sym exits::smc,
    leaving = const control::LEAVING_BIT,
    fast = const smccc::CALL_FAST,
    hint = const smccc::SVE_HINT,
    workaround_1 = const smccc::ARCH_WORKAROUND_1 & !smccc::CALL_FAST,
    workaround_2 = const smccc::ARCH_WORKAROUND_2 & !smccc::CALL_FAST,
    workaround_3 = const smccc::ARCH_WORKAROUND_3 & !smccc::CALL_FAST,
    ss = const pstate::SS,
    btype = const pstate::BTYPE,
    block = const cpu::BLOCK,
    smc_counter = const cpu::SMC_COUNTER,
    frame_size = const size_of::<HostFrame>(),
    hvc = sym exits::hvc,
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
    new_vectors = const cpu::NEW_VECTORS,
    has_vectors = const cpu::NEW_VECTORS + 8,
);
