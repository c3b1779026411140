//! The resident stub: EL2's vectors on a CPU that Exeunt has left and whose host or next payload has set none.
//!
//! It answers the stub calls as Linux's own `hyp-stub.S` does, and lives in Exeunt's reserved 2 MiB, which no kernel
//! uses. It runs with EL2's MMU off, has no stack and writes no memory, so that nothing that the host or the next
//! kernel does can break it. It knows REENTER besides, by which a CPU comes back to Exeunt. Position independent; of
//! the host's registers it changes x0 to x4 only, of which a call that returns keeps x2 to x4; FAR_EL2, TPIDR_EL2 and
//! SP_EL2 are its scratch.
//!
//! There is a second table for a CPU that Exeunt has left by the doorbell. HCR_EL2.TSC is set there, so that it gets
//! the host's SMCs too, and passes them on. If the [`Mailbox`](guest_abi::doorbell::Mailbox) asks for it the CPU comes
//! back instead, as by REENTER, and the SMC is executed again under Exeunt. A host that sets vectors or restarts has
//! TSC cleared before: what comes then knows of no SMCs. All else is as in the first table. Its own scratch is
//! CNTHP_CVAL_EL2, since EL2's physical timer is off.
//!
//! Linux's stub hangs in a tight loop on every exception that is no synchronous one from EL1. Here the CPU leaves a
//! breadcrumb in TPIDR_EL2 ([`BREADCRUMB`] plus the vector's offset) that a debugger or another CPU's dump can read,
//! and sleeps.

use core::arch::global_asm;
use core::mem::offset_of;

use guest_abi::{stub, vendor};

use crate::entry::{first_registers, no_extensions};
use crate::{CpuBoot, HCR_EL2_RW, RESERVATION, SCTLR_EL2_MMU_OFF, SUM_ROTATION};

/// TPIDR_EL2 of a CPU that stopped in the resident stub: this, plus the offset of the vector in bits 10:0.
pub const BREADCRUMB: u64 = u64::from_be_bytes(*b"exstub\0\0");

/// Bit 16 of a fast call: the caller has no live SVE state (SMCCC 1.3). No part of the number.
const SVE_HINT: u32 = 1 << 16;

/// HCR_EL2.TSC: SMCs of EL1 come to EL2.
const HCR_EL2_TSC: u64 = 1 << 19;

/// ESR_EL2.EC of an SMC from AArch64 that HCR_EL2.TSC has trapped.
const SMC64: u64 = 0x17;

/// PSTATE.SS and PSTATE.BTYPE in SPSR_EL2, which an instruction that was executed leaves 0.
const SPSR_SS: u64 = 1 << 21;
const SPSR_BTYPE: u64 = 3 << 10;

/// The bit in the second word of the symbol `exeunt_fast`, which the hypervisor defines and cleans, that says whether
/// the CPU interface of the GIC is in system registers: ICH_VTR_EL2 is there. ID_AA64PFR0_EL1.GIC does not say whether
/// they are in use.
pub const HAS_ICH_VTR: u32 = 1;

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
    // A synchronous exception from EL1 or EL0, AArch64. In: x0 = number, x1 to x4 = arguments. With stage 2 and all
    // traps off nothing but an HVC comes here, as in Linux's stub. SET_VECTORS comes first, as it has the most to do:
    // x1 must be a multiple of 2 KiB, in RAM that is the host's, most of which is the first range of the list.
    ".balign 0x80",
    "cbnz x0, exeunt_stub_call",
    "tst x1, #0x7ff",
    "b.ne exeunt_stub_refused",
    "ldr x0, exeunt_host_ram",
    "cmp x1, x0",
    "ldr x0, exeunt_host_ram + 8",
    "ccmp x1, x0, #{carry}, hs", // below the start, or not below the end: carry
    "b.hs exeunt_stub_search",
    "msr vbar_el2, x1",
    "mov x0, #{success}",
    "eret",
    ".ltorg", // the words that the vectors load have to be in the table, too: here, and in the last one
    "STUB_STOP 0x480",
    "STUB_STOP 0x500",
    "STUB_STOP 0x580",
    "STUB_STOP 0x600", // AArch32
    "STUB_STOP 0x680",
    "STUB_STOP 0x700",
    "STUB_STOP 0x780",
    ".ltorg",
    // The table with the way back.
    ".balign 0x800",
    ".global exeunt_open_stub",
    "exeunt_open_stub:",
    "STUB_STOP 0x000",
    "STUB_STOP 0x080",
    "STUB_STOP 0x100",
    "STUB_STOP 0x180",
    "STUB_STOP 0x200",
    "STUB_STOP 0x280",
    "STUB_STOP 0x300",
    "STUB_STOP 0x380",
    ".balign 0x80",
    "msr far_el2, x1",
    "mrs x1, esr_el2",
    "lsr x1, x1, #{ec}",
    "cmp x1, #{smc64}",
    "b.eq .Lexeunt_stub_smc",
    "mrs x1, far_el2",
    "cmp x0, #{soft_restart}",
    "b.hi exeunt_stub_call",
    "b.lo exeunt_open_set_vectors",
    "mrs x0, hcr_el2",
    "and x0, x0, #~{tsc}",
    "msr hcr_el2, x0",
    "b exeunt_stub_restart",
    ".ltorg",
    "STUB_STOP 0x480",
    "STUB_STOP 0x500",
    "STUB_STOP 0x580",
    "STUB_STOP 0x600",
    "STUB_STOP 0x680",
    "STUB_STOP 0x700",
    "STUB_STOP 0x780",
    ".ltorg",
    ".popsection",
    ".pushsection .text.beside_tables, \"ax\"",
    // In: x0 = number, and not SET_VECTORS.
    "exeunt_stub_call:",
    "cmp x0, #{reset_vectors}",
    "b.eq 7f",
    "b.hi 1f",
    // SOFT_RESTART: at EL2h, everything masked by the exception that brought us here, MMU off.
    "exeunt_stub_restart:",
    "mov x0, x2",
    "mov x2, x4",
    "mov x4, x1",
    "mov x1, x3",
    "br x4",
    // SET_VECTORS, outside the first range. The registers of the exception are not needed before the ERET, so FAR_EL2
    // can hold x2 meanwhile.
    "exeunt_stub_search:",
    "msr far_el2, x2",
    "msr tpidr_el2, x3",
    "adrp x2, exeunt_host_ram",
    "add x2, x2, :lo12:exeunt_host_ram",
    "b 3f",
    // SET_VECTORS from the second table: all ranges.
    "exeunt_open_set_vectors:",
    "tst x1, #0x7ff",
    "b.ne exeunt_stub_refused",
    "msr far_el2, x2",
    "msr tpidr_el2, x3",
    "adrp x2, exeunt_host_ram",
    "add x2, x2, :lo12:exeunt_host_ram",
    "sub x2, x2, #16",
    // Is it in the next one? The list ends with an empty range.
    "3: ldp x0, x3, [x2, #16]!",
    "cbz x3, 4f",
    "cmp x1, x0",
    "b.lo 3b",
    "cmp x1, x3",
    "b.hs 3b",
    "2: mrs x2, far_el2",
    "mrs x3, tpidr_el2",
    "mrs x0, hcr_el2",
    "and x0, x0, #~{tsc}",
    "msr hcr_el2, x0",
    "msr vbar_el2, x1",
    "mov x0, #{success}",
    "eret",
    // Or is it this table, where REENTER is? A CPU with other vectors may take these again.
    "4: adrp x2, exeunt_resident_stub",
    "add x2, x2, :lo12:exeunt_resident_stub",
    "cmp x1, x2",
    "b.eq 2b",
    "mrs x2, far_el2",
    "mrs x3, tpidr_el2",
    "b exeunt_stub_refused",
    "1: cmp x0, #{get_ich_vtr}",
    "b.ne 9f",
    "adrp x0, exeunt_fast",
    "ldr w0, [x0, #:lo12:exeunt_fast + 4]",
    "tbz w0, #{has_ich_vtr}, exeunt_stub_refused",
    "mrs x1, S3_4_C12_C11_1", // ICH_VTR_EL2
    "7: mov x0, #{success}",
    "eret",
    "exeunt_stub_refused:",
    "ldr x0, ={stub_err}",
    "eret",
    // FINALISE_EL2, or no stub call. REENTER, with or without the hint? x1 to x30 are the host's.
    "9: tbz w0, #31, exeunt_stub_refused",
    "msr far_el2, x1",
    "mov w1, #{reenter} & 0xffff",
    "movk w1, #{reenter} >> 16, lsl #16",
    "cmp w0, w1",
    "b.eq exeunt_reenter",
    "orr w1, w1, #{sve_hint}",
    "cmp w0, w1",
    "b.eq exeunt_reenter",
    "mrs x1, far_el2",
    "b exeunt_stub_refused",
    // REENTER: x1 is in FAR_EL2. Which CPU is this? Its TPIDR_EL2 may have been in other hands; its MPIDR has not.
    // EL2's MMU goes on with the three registers x0 to x2 alone, all others are the host's; x2 waits in SP_EL2, which
    // has no use before that. TPIDR_EL2 is the address of the CPU's `CpuBoot`. Nothing has protected these 2 MiB from a
    // host that was left: the search ends with the list, and what it finds is looked at first. What is not as it was
    // made is refused.
    "exeunt_reenter:",
    "mov sp, x2",
    "mrs x0, mpidr_el1",
    "bfi x0, xzr, #24, #8",
    "ubfx x0, x0, #0, #40", // Aff3, Aff2, Aff1, Aff0
    "adrp x1, exeunt_cpu_list",
    "add x1, x1, :lo12:exeunt_cpu_list",
    "5: ldr x2, [x1], #16",
    "cmn x2, #1",
    "b.eq 6f",
    "cmp x2, x0",
    "b.eq 8f",
    "adrp x2, exeunt_cpu_list + {list_size}",
    "add x2, x2, :lo12:exeunt_cpu_list + {list_size}",
    "cmp x1, x2",
    "b.lo 5b",
    "b 6f",
    // In these 2 MiB, aligned, and with the right sum?
    "8: ldur x0, [x1, #-8]",
    "tst x0, #({boot_size} - 1)",
    "b.ne 6f",
    "adrp x1, __image_start",
    "sub x1, x0, x1",
    "lsr x1, x1, #{reservation}",
    "cbnz x1, 6f",
    "mov x1, x0",
    ".irp offset, 0, 8, 16, 24, 32, 40",
    "ldr x2, [x0, #\\offset]",
    "eor x1, x2, x1, ror #{rotation}",
    ".endr",
    "ldr x2, [x0, #{sum}]",
    "cmp x1, x2",
    "b.ne 6f",
    "ldr x2, [x0, #{sign}]",
    "eor x2, x2, x0",
    "cmn x2, #1",
    "b.ne 6f",
    first_registers!(),
    "msr tpidr_el2, x0",
    "isb",
    "ldp x1, x2, [x0, #{ttbr0}]",
    "msr ttbr0_el2, x1",
    "msr tcr_el2, x2",
    "ldp x1, x2, [x0, #{mair}]",
    "msr mair_el2, x1",
    no_extensions!("x1"),
    "tlbi alle2",
    "ic iallu",
    "dsb nsh",
    "isb",
    "msr sctlr_el2, x2",
    "isb",
    "ldr x1, [x0, #{stack}]",
    "mov x2, sp",
    "mov sp, x1",
    "b exeunt_come_back",
    // A CPU that the device tree does not name was never Exeunt's; one whose structure is damaged is no longer. An SMC
    // is passed on then.
    "6: mrs x0, esr_el2",
    "lsr x0, x0, #{ec}",
    "cmp x0, #{smc64}",
    "b.eq 12f",
    "mrs x1, far_el2",
    "mov x2, sp",
    "ldr x0, ={stub_err}",
    "eret",
    // An SMC. x1 is in FAR_EL2, where REENTER has it; x0 goes to CNTHP_CVAL_EL2, where `exeunt_come_back` looks for it,
    // and x2 to SP_EL2. Does the mailbox want this CPU back?
    ".Lexeunt_stub_smc:",
    "msr cnthp_cval_el2, x0",
    "mov sp, x2",
    "adrp x2, exeunt_mailbox",
    "add x2, x2, :lo12:exeunt_mailbox",
    "ldp x0, x1, [x2]", // round and back
    "mov x2, sp",
    "cbz x0, 12f",
    "cmp x0, x1",
    "b.eq exeunt_reenter",
    // No. Past it, as if it had been executed (`hypervisor::inject::skip_a64`). It may never return, or elsewhere.
    "12: mrs x0, elr_el2",
    "mrs x1, spsr_el2",
    "mov x2, sp",
    "add x0, x0, #4",
    "and x1, x1, #~{ss}",
    "and x1, x1, #~{btype}",
    "msr elr_el2, x0",
    "msr spsr_el2, x1",
    "mrs x0, cnthp_cval_el2",
    "mrs x1, far_el2",
    "smc #0",
    "eret",
    ".popsection",
    breadcrumb = const BREADCRUMB,
    soft_restart = const stub::SOFT_RESTART,
    reset_vectors = const stub::RESET_VECTORS,
    ec = const 26,
    smc64 = const SMC64,
    tsc = const HCR_EL2_TSC,
    ss = const SPSR_SS,
    btype = const SPSR_BTYPE,
    get_ich_vtr = const stub::GET_ICH_VTR_EL2,
    success = const stub::SUCCESS,
    carry = const 0b0010, // of N, Z, C, V
    stub_err = const stub::STUB_ERR,
    has_ich_vtr = const HAS_ICH_VTR,
    reenter = const vendor::REENTER,
    sve_hint = const SVE_HINT,
    hcr = const HCR_EL2_RW,
    sctlr = const SCTLR_EL2_MMU_OFF,
    ttbr0 = const offset_of!(CpuBoot, ttbr0_el2),
    mair = const offset_of!(CpuBoot, mair_el2),
    stack = const offset_of!(CpuBoot, stack_top),
    sum = const offset_of!(CpuBoot, sum),
    sign = const offset_of!(CpuBoot, sign),
    boot_size = const size_of::<CpuBoot>(),
    list_size = const size_of::<CpuList>(),
    reservation = const RESERVATION.trailing_zeros(),
    rotation = const SUM_ROTATION,
);

const _: () = assert!(offset_of!(CpuBoot, sum) == 48 && RESERVATION.is_power_of_two());

/// Ranges of RAM that [`HostRam`] has room for.
pub const MAX_RANGES: usize = 34;

/// The host's RAM as the resident stub knows it: first address and end of each range; an end of 0 after the last. The
/// hypervisor defines it as the symbol `exeunt_host_ram`, fills it in before any CPU can come to the stub, and cleans
/// it to the point of coherency, because the stub reads it with the MMU off.
#[repr(C, align(64))]
pub struct HostRam(pub [[u64; 2]; MAX_RANGES + 1]);

/// Most CPUs that [`CpuList`] has room for.
pub const MAX_CPUS: usize = 128;

/// The CPUs as REENTER knows them: affinity fields of MPIDR_EL1, and the address of the CPU's [`CpuBoot`]; an affinity
/// of all ones after the last. The hypervisor defines it as the symbol `exeunt_cpu_list`, under the same conditions as
/// [`HostRam`].
#[repr(C, align(64))]
pub struct CpuList(pub [[u64; 2]; MAX_CPUS + 1]);

unsafe extern "C" {
    static exeunt_resident_stub: u8;
    static exeunt_open_stub: u8;
}

/// Address of the resident stub's vector table, a multiple of 2 KiB.
#[must_use]
pub fn vectors() -> u64 {
    (&raw const exeunt_resident_stub).addr() as u64
}

/// Address of its second table, for a CPU with HCR_EL2.TSC set.
#[must_use]
pub fn vectors_with_way_back() -> u64 {
    (&raw const exeunt_open_stub).addr() as u64
}

/// The mailbox: the hypervisor defines it as the symbol `exeunt_mailbox`, aligned to 16 bytes at least, and cleans it
/// to the point of coherency, under the same conditions as [`HostRam`].
pub type Mailbox = guest_abi::doorbell::Mailbox;

// The stub loads both with one instruction.
const _: () = assert!(guest_abi::doorbell::MAILBOX_BACK == 8);
