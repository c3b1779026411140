//! A hypervisor of a hundred lines: it runs a few instructions at EL1, and is called when they come to EL2.
//!
//! For labs on a bare machine, entered at EL2. [`Guest::enter`] is an ordinary call: it goes to EL1 by ERET, and
//! returns when an exception has come to EL2. EL2's own MMU stays off. Stage 2 maps RAM and devices to themselves, and
//! has a few addresses where it does not:
//!
//! | address | what stage 2 says |
//! |---|---|
//! | [`READ_ONLY`] | a page that may be read |
//! | [`NO_PAGE`] | nothing, at level 3 |
//! | [`NO_BLOCK`] | nothing, at level 2 |
//! | [`NO_TABLE`] | nothing, at level 1 |

use core::arch::{global_asm, naked_asm};
use core::cell::UnsafeCell;
use core::mem::offset_of;

use guests::level::HCR_RW;
use guests::paging::SCTLR_OFF;
use guests::write_register;

/// A page that stage 2 lets EL1 read, and not write.
pub const READ_ONLY: u64 = 0x8000_0000;
/// An address that stage 2 has an invalid descriptor for at level 3.
pub const NO_PAGE: u64 = 0x8000_1000;
/// The same at level 2.
pub const NO_BLOCK: u64 = 0x8020_0000;
/// The same at level 1.
pub const NO_TABLE: u64 = 0xc000_0000;

/// HCR_EL2.VM: stage 2 is on.
const HCR_VM: u64 = 1 << 0;
/// VTCR_EL2: 39 bits of IPA, from level 1 on, pages of 4 KiB, 40 bits of PA; walks write-back and inner shareable.
const VTCR: u64 = 1 << 31 | 2 << 16 | 0b11 << 12 | 0b01 << 10 | 0b01 << 8 | 1 << 6 | 0x19;
/// A block or page of normal memory, accessed, inner shareable, that may be read; bit 7 lets it be written.
const READ: u64 = 1 << 10 | 0b11 << 8 | 0b01 << 6 | 0xf << 2;
const WRITE: u64 = 0b10 << 6;
const BLOCK: u64 = 0b01;
const TABLE: u64 = 0b11;

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u64; 512]>);

// SAFETY: one CPU runs these labs.
unsafe impl Sync for Page {}

impl Page {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }

    fn address(&self) -> u64 {
        self.0.get() as u64
    }

    fn set(&self, index: usize, descriptor: u64) {
        // SAFETY: one CPU, and nobody holds a reference.
        unsafe { (*self.0.get())[index] = descriptor };
    }
}

static ROOT: Page = Page::new();
static GIB_2: Page = Page::new();
static BLOCK_0: Page = Page::new();
static MEMORY: Page = Page::new();

/// What runs at EL1: its registers when it came to EL2, and those that it goes on with.
#[repr(C)]
#[derive(Debug)]
pub struct Guest {
    /// x0 to x30.
    pub x: [u64; 31],
    sp: u64,
    /// ELR_EL2: where it came from, and where it goes on.
    pub elr: u64,
    /// SPSR_EL2.
    pub spsr: u64,
    /// ESR_EL2: why it came.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
}

impl Guest {
    /// One that begins at `pc`, at EL1 with everything masked, all registers 0.
    #[must_use]
    pub const fn at(pc: u64) -> Self {
        Self { x: [0; 31], sp: 0, elr: pc, spsr: guests::level::SPSR_EL1H, esr: 0, far: 0 }
    }

    /// ESR_EL2.EC.
    #[must_use]
    pub const fn class(&self) -> u64 {
        self.esr >> 26
    }

    /// Runs it until it comes to EL2.
    ///
    /// # Safety
    /// What it executes does what the caller means; [`prepare`] has been called.
    pub unsafe fn enter(&mut self) {
        // SAFETY: the caller vouches.
        unsafe { enter(self) }
    }
}

/// Sets EL2 up: vectors, stage 2, and `hcr` in HCR_EL2 besides what is needed.
pub fn prepare(hcr: u64) {
    const GIB: u64 = 1 << 30;
    ROOT.set(0, BLOCK | READ | WRITE);
    ROOT.set(1, GIB | BLOCK | READ | WRITE);
    ROOT.set(2, GIB_2.address() | TABLE);
    GIB_2.set(0, BLOCK_0.address() | TABLE);
    BLOCK_0.set(0, MEMORY.address() | TABLE | READ);
    write_register!("vbar_el2", &raw const mini_vectors as u64);
    write_register!("vtcr_el2", VTCR);
    write_register!("vttbr_el2", ROOT.address());
    write_register!("sctlr_el1", SCTLR_OFF);
    write_register!("hcr_el2", HCR_RW | HCR_VM | hcr);
    // SAFETY: forgets translations that nobody uses yet.
    unsafe { core::arch::asm!("dsb ish", "tlbi alle1", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

unsafe extern "C" {
    static mini_vectors: u8;
}

/// Loads or stores pairs of registers at `$base`.
macro_rules! pairs {
    ($operation:literal, $base:literal: $($first:literal $second:literal $offset:literal),*) => {
        concat!($($operation, " x", $first, ", x", $second, ", [", $base, ", #", $offset, "]\n",)*)
    };
}
macro_rules! x2_to_x29 {
    ($operation:literal) => {
        pairs!($operation, "x0": 2 3 16, 4 5 32, 6 7 48, 8 9 64, 10 11 80, 12 13 96, 14 15 112,
            16 17 128, 18 19 144, 20 21 160, 22 23 176, 24 25 192, 26 27 208, 28 29 224)
    };
}
macro_rules! x19_to_x28 {
    ($operation:literal) => {
        pairs!($operation, "sp": 19 20 16, 21 22 32, 23 24 48, 25 26 64, 27 28 80)
    };
}

#[unsafe(naked)]
unsafe extern "C" fn enter(guest: *mut Guest) {
    naked_asm!(
        "stp x29, x30, [sp, #-96]!",
        x19_to_x28!("stp"),
        "msr tpidr_el2, x0",
        "ldp x1, x2, [x0, #{ELR}]",
        "msr elr_el2, x1",
        "msr spsr_el2, x2",
        x2_to_x29!("ldp"),
        "ldr x30, [x0, #240]",
        "ldp x0, x1, [x0]",
        "eret",
        ELR = const offset_of!(Guest, elr),
    )
}

global_asm!(
    ".pushsection .text.mini, \"ax\"",
    ".balign 2048",
    ".global mini_vectors",
    "mini_vectors:",
    ".rept 8", // from EL2 itself
    ".balign 128",
    "b {mistake}",
    ".endr",
    ".balign 128", // from EL1, synchronous
    "stp x0, x1, [sp, #-16]!",
    "mrs x0, tpidr_el2",
    x2_to_x29!("stp"),
    "str x30, [x0, #240]",
    "ldp x1, x2, [sp], #16",
    "stp x1, x2, [x0]",
    "b 1f",
    ".rept 7",
    ".balign 128",
    "b {mistake}",
    ".endr",
    "1: mrs x1, elr_el2",
    "mrs x2, spsr_el2",
    "stp x1, x2, [x0, #{ELR}]",
    "mrs x1, esr_el2",
    "mrs x2, far_el2",
    "stp x1, x2, [x0, #{ESR}]",
    x19_to_x28!("ldp"),
    "ldp x29, x30, [sp], #96",
    "ret",
    ".popsection",
    mistake = sym mistake,
    ELR = const offset_of!(Guest, elr),
    ESR = const offset_of!(Guest, esr),
);

extern "C" fn mistake() -> ! {
    let (esr, elr, far) =
        (guests::read_register!("esr_el2"), guests::read_register!("elr_el2"), guests::read_register!("far_el2"));
    guests::console::seize();
    saw!("an exception at EL2 itself: ESR_EL2 {esr:#x}, ELR_EL2 {elr:#x}, FAR_EL2 {far:#x}")
}
