//! Where a SOFT_RESTART goes: a payload that keeps what it was entered with, and comes back to the test at EL1.
//!
//! Owns one entry and one record per CPU. The payload needs neither stack nor memory of the CPU's own but its record,
//! so that it works at EL1, at virtual and at real EL2, with the MMU off or on. It changes no register of EL2 except
//! ELR and SPSR, which the way to EL1 takes.

use core::arch::{global_asm, naked_asm};
use core::cell::UnsafeCell;
use core::mem::offset_of;

use crate::code::END_IMMEDIATE;
use crate::machine::{Gic, machine};

/// The CPUs that have an entry.
pub const CPUS: usize = 8;
/// SPSR_EL2 for EL1h, everything masked.
const SPSR_EL1H: u64 = 0x3c5;
/// Bytes of an entry.
const ENTRY: usize = 32;

/// The registers of EL2 that [`Landing::el2`] has, and, from [`GIC_REGISTERS`] on, those that only a GICv3 brings.
pub const NAMES: [&str; 16] = [
    "SCTLR_EL2",
    "HCR_EL2",
    "CPTR_EL2",
    "MDCR_EL2",
    "CNTHCTL_EL2",
    "CNTVOFF_EL2",
    "VTTBR_EL2",
    "VTCR_EL2",
    "HSTR_EL2",
    "VPIDR_EL2",
    "VMPIDR_EL2",
    "VBAR_EL2",
    "CNTHP_CTL_EL2",
    "ICC_SRE_EL2",
    "ICH_HCR_EL2",
    "ICH_VTR_EL2",
];
/// The first of [`NAMES`] that belongs to a GICv3.
pub const GIC_REGISTERS: usize = 13;

/// What a payload was entered with, and what it needs to come back.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Landing {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Times that a payload was entered here.
    pub count: u64,
    /// CurrentEL.
    pub current_el: u64,
    /// DAIF.
    pub daif: u64,
    /// SPSel.
    pub spsel: u64,
    /// SCTLR_EL1.
    pub sctlr_el1: u64,
    /// EL2's registers, if it was entered there.
    pub el2: [u64; NAMES.len()],
    /// Whether there are those of a GICv3.
    has_gic: u64,
    /// TTBR0_EL1, TCR_EL1, MAIR_EL1, VBAR_EL1, TPIDR_EL1, CPACR_EL1: what the way back needs.
    el1: [u64; 6],
}

#[repr(C)]
struct Landings(UnsafeCell<[Landing; CPUS]>);

// SAFETY: each record is used by its CPU alone.
unsafe impl Sync for Landings {}

static LANDINGS: Landings = Landings(UnsafeCell::new(
    [Landing {
        x: [0; 31],
        count: 0,
        current_el: 0,
        daif: 0,
        spsel: 0,
        sctlr_el1: 0,
        el2: [0; NAMES.len()],
        has_gic: 0,
        el1: [0; 6],
    }; CPUS],
));

global_asm!(
    ".pushsection .text.landing, \"ax\"",
    ".balign 64",
    ".global guest_landing_entries",
    "guest_landing_entries:",
    ".set guest_landing, 0",
    ".rept {CPUS}",
    ".balign {ENTRY}",
    "msr tpidr_el0, x10",
    "adrp x10, {LANDINGS}",
    "add x10, x10, :lo12:{LANDINGS}",
    "add x10, x10, #guest_landing",
    "b {land}",
    ".set guest_landing, guest_landing + {SIZE}",
    ".endr",
    ".popsection",
    CPUS = const CPUS,
    ENTRY = const ENTRY,
    SIZE = const size_of::<Landing>(),
    LANDINGS = sym LANDINGS,
    land = sym land,
);

// The last entry's offset is an immediate of ADD.
const _: () = assert!(size_of::<Landing>() * (CPUS - 1) < 4096 && size_of::<Landing>().is_multiple_of(64));

/// x10: the record; x10 as it was is in TPIDR_EL0.
#[unsafe(naked)]
#[allow(clippy::too_many_lines, reason = "so many registers there are")]
unsafe extern "C" fn land() -> ! {
    naked_asm!(
        "stp x0, x1, [x10]",
        "stp x2, x3, [x10, #16]",
        "stp x4, x5, [x10, #32]",
        "stp x6, x7, [x10, #48]",
        "stp x8, x9, [x10, #64]",
        "str x11, [x10, #88]",
        "stp x12, x13, [x10, #96]",
        "stp x14, x15, [x10, #112]",
        "stp x16, x17, [x10, #128]",
        "stp x18, x19, [x10, #144]",
        "stp x20, x21, [x10, #160]",
        "stp x22, x23, [x10, #176]",
        "stp x24, x25, [x10, #192]",
        "stp x26, x27, [x10, #208]",
        "stp x28, x29, [x10, #224]",
        "str x30, [x10, #240]",
        "mrs x1, tpidr_el0",
        "str x1, [x10, #80]",
        "ldr x1, [x10, #{COUNT}]",
        "add x1, x1, #1",
        "str x1, [x10, #{COUNT}]",
        "mrs x1, daif",
        "str x1, [x10, #{DAIF}]",
        "mrs x1, SPSel",
        "str x1, [x10, #{SPSEL}]",
        "mrs x1, sctlr_el1",
        "str x1, [x10, #{SCTLR_EL1}]",
        "mrs x1, CurrentEL",
        "str x1, [x10, #{CURRENT_EL}]",
        "cmp x1, #{EL2}",
        "b.ne 2f",
        "add x2, x10, #{EL2_REGISTERS}",
        "mrs x1, sctlr_el2",
        "str x1, [x2], #8",
        "mrs x1, hcr_el2",
        "str x1, [x2], #8",
        "mrs x1, cptr_el2",
        "str x1, [x2], #8",
        "mrs x1, mdcr_el2",
        "str x1, [x2], #8",
        "mrs x1, cnthctl_el2",
        "str x1, [x2], #8",
        "mrs x1, cntvoff_el2",
        "str x1, [x2], #8",
        "mrs x1, vttbr_el2",
        "str x1, [x2], #8",
        "mrs x1, vtcr_el2",
        "str x1, [x2], #8",
        "mrs x1, hstr_el2",
        "str x1, [x2], #8",
        "mrs x1, vpidr_el2",
        "str x1, [x2], #8",
        "mrs x1, vmpidr_el2",
        "str x1, [x2], #8",
        "mrs x1, vbar_el2",
        "str x1, [x2], #8",
        "mrs x1, cnthp_ctl_el2",
        "str x1, [x2], #8",
        "ldr x1, [x10, #{HAS_GIC}]",
        "cbz x1, 1f",
        "mrs x1, S3_4_C12_C9_5", // ICC_SRE_EL2
        "str x1, [x2], #8",
        "mrs x1, S3_4_C12_C11_0", // ICH_HCR_EL2
        "str x1, [x2], #8",
        "mrs x1, S3_4_C12_C11_1", // ICH_VTR_EL2
        "str x1, [x2], #8",
        "1: adr x1, 2f",
        "msr elr_el2, x1",
        "mov x1, #{SPSR}",
        "msr spsr_el2, x1",
        "eret",
        "2: ldp x1, x2, [x10, #{EL1_REGISTERS}]",
        "msr ttbr0_el1, x1",
        "msr tcr_el1, x2",
        "ldp x1, x2, [x10, #{EL1_REGISTERS} + 16]",
        "msr mair_el1, x1",
        "msr vbar_el1, x2",
        "ldp x1, x2, [x10, #{EL1_REGISTERS} + 32]",
        "msr tpidr_el1, x1",
        "msr cpacr_el1, x2",
        "isb",
        "ldp x1, x2, [x10, #8]",
        "mrs x10, tpidr_el0",
        ".global guest_landing_end",
        "guest_landing_end:",
        "brk #{END}",
        EL2 = const 2 << 2,
        END = const END_IMMEDIATE,
        SPSR = const SPSR_EL1H,
        COUNT = const offset_of!(Landing, count),
        DAIF = const offset_of!(Landing, daif),
        SPSEL = const offset_of!(Landing, spsel),
        SCTLR_EL1 = const offset_of!(Landing, sctlr_el1),
        CURRENT_EL = const offset_of!(Landing, current_el),
        EL2_REGISTERS = const offset_of!(Landing, el2),
        HAS_GIC = const offset_of!(Landing, has_gic),
        EL1_REGISTERS = const offset_of!(Landing, el1),
    )
}

unsafe extern "C" {
    static guest_landing_entries: u8;
    static guest_landing_end: u8;
}

/// The entry of the CPU with the number `index`.
pub fn entry(index: usize) -> u64 {
    core::ptr::addr_of!(guest_landing_entries) as u64 + (index * ENTRY) as u64
}

/// The address at which a payload ends.
pub fn end() -> u64 {
    core::ptr::addr_of!(guest_landing_end) as u64
}

/// Gets the calling CPU's record ready. The record counts on; everything else is as the next payload finds it.
pub fn prepare(index: usize) {
    let has_gic = u64::from(matches!(machine().gic, Some(Gic::V3 { .. })));
    let el1 = [
        read_register!("ttbr0_el1"),
        read_register!("tcr_el1"),
        read_register!("mair_el1"),
        read_register!("vbar_el1"),
        read_register!("tpidr_el1"),
        read_register!("cpacr_el1"),
    ];
    // SAFETY: the record is the calling CPU's.
    let landing = unsafe { &mut (*LANDINGS.0.get())[index] };
    landing.has_gic = has_gic;
    landing.el1 = el1;
}

/// What the last payload on the calling CPU was entered with.
pub fn last(index: usize) -> Landing {
    // SAFETY: the record is the calling CPU's. Volatile: the payload has written it behind the compiler's back.
    unsafe { (&raw const (*LANDINGS.0.get())[index]).read_volatile() }
}
