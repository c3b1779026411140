//! The guest's stage 1: everything mapped to itself for EL1, and two aliases of one gibibyte.
//!
//! 4 KiB granule, 39-bit addresses in the TTBR0 half, so that a level-1 table is the root (Arm ARM D8.2). TTBR1 is off;
//! tests that want their own tables use that half. The pages of `.probes` are read-only for EL0 and EL1, because a page
//! that EL0 may write is never executable at EL1.

use core::arch::asm;
use core::cell::UnsafeCell;

use crate::registers::field;

/// Virtual address of an alias of the chosen gibibyte that EL0 and EL1 may read and write, and EL0 execute.
pub const ALIAS_EL0: u64 = 384 << 30;
/// Virtual address of an alias of the chosen gibibyte for EL1 only, executable there.
pub const ALIAS_EL1: u64 = 385 << 30;

/// SCTLR_EL1 with everything off: the RES1 bits of an Armv8.0 CPU and SPAN.
pub const SCTLR_OFF: u64 = 0x30d0_0800;
/// SCTLR_EL1.M, C and I: stage 1 and caches on.
pub const SCTLR_MCI: u64 = 1 << 0 | 1 << 2 | 1 << 12;

/// TCR_EL1.T0SZ for 39-bit addresses, walks write-back and inner shareable.
const TCR_TTBR0: u64 = 0x19 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12;
/// TCR_EL1.EPD1: no walks by TTBR1.
pub const TCR_EPD1: u64 = 1 << 23;
/// MAIR_EL1: attribute 0 Device-nGnRnE, attribute 1 Normal write-back.
const MAIR: u64 = 0xff00;

/// A table descriptor, or a page at level 3.
pub const TABLE: u64 = 0b11;
const BLOCK: u64 = 0b01;
const ACCESSED: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const NORMAL: u64 = 1 << 2;
const AP_EL0: u64 = 1 << 6;
const AP_READ_ONLY: u64 = 1 << 7;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;

const DEVICE_BLOCK: u64 = BLOCK | ACCESSED | PXN | UXN;
const EL1_MEMORY: u64 = ACCESSED | INNER_SHAREABLE | NORMAL | UXN;
const EL0_MEMORY: u64 = ACCESSED | INNER_SHAREABLE | NORMAL | AP_EL0 | PXN;
const PROBES: u64 = ACCESSED | INNER_SHAREABLE | NORMAL | AP_EL0 | AP_READ_ONLY;

const GIB: u64 = 1 << 30;
const BLOCK_2M: u64 = 1 << 21;
const PAGE: u64 = 1 << 12;

/// The gibibytes from 0 that are mapped to themselves; QEMU's virt has devices in the first and RAM from the second on.
const IDENTITY_GIB: u64 = 16;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: written by the boot CPU in `build` and `alias`, before other CPUs use what changes.
unsafe impl Sync for Table {}

impl Table {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }

    fn address(&self) -> u64 {
        self.0.get() as u64
    }

    fn set(&self, index: u64, descriptor: u64) {
        // SAFETY: `index` is below 512 in all uses, and no other CPU writes tables.
        unsafe { (self.0.get().cast::<u64>()).add(index as usize).write_volatile(descriptor) };
    }
}

static ROOT: Table = Table::new();
static IMAGE_GIB: Table = Table::new();
static IMAGE_BLOCK: Table = Table::new();

unsafe extern "C" {
    static __probes_start: u8;
    static __probes_end: u8;
}

/// Builds the tables. Called once, with the MMU off.
///
/// # Panics
/// When the image lies where one level-3 table does not cover its `.probes`.
pub fn build() {
    for gib in 0..IDENTITY_GIB {
        let descriptor = if gib == 0 { DEVICE_BLOCK } else { BLOCK | EL1_MEMORY };
        ROOT.set(gib, (gib * GIB) | descriptor);
    }

    let probes = core::ptr::addr_of!(__probes_start) as u64..core::ptr::addr_of!(__probes_end) as u64;
    let gib = probes.start & !(GIB - 1);
    let block = probes.start & !(BLOCK_2M - 1);
    assert!(probes.end <= block + BLOCK_2M && gib / GIB < IDENTITY_GIB, "image at {:#x}", crate::start::image_base());
    for index in 0..512 {
        IMAGE_GIB.set(index, (gib + index * BLOCK_2M) | BLOCK | EL1_MEMORY);
        let page = block + index * PAGE;
        IMAGE_BLOCK.set(index, page | TABLE | if probes.contains(&page) { PROBES } else { EL1_MEMORY });
    }
    IMAGE_GIB.set(field(block, 21, 9), IMAGE_BLOCK.address() | TABLE);
    ROOT.set(gib / GIB, IMAGE_GIB.address() | TABLE);
}

/// Makes [`ALIAS_EL0`] and [`ALIAS_EL1`] show the gibibyte that `address` lies in.
pub fn alias(address: u64) {
    let gib = address & !(GIB - 1);
    ROOT.set(ALIAS_EL0 / GIB, gib | BLOCK | EL0_MEMORY);
    ROOT.set(ALIAS_EL1 / GIB, gib | BLOCK | EL1_MEMORY);
    flush();
}

/// `address` as seen through the alias at `alias`.
#[must_use]
pub const fn through(alias: u64, address: u64) -> u64 {
    alias | address & (GIB - 1)
}

/// TCR_EL1 for the identity map, TTBR1 off.
#[must_use]
pub fn tcr() -> u64 {
    // ID_AA64MMFR0_EL1.PARange uses the encoding of TCR_EL1.IPS; 6 (52 bits) would need larger tables.
    let ips = field(read_register!("id_aa64mmfr0_el1"), 0, 4).min(5);
    TCR_TTBR0 | TCR_EPD1 | ips << 32
}

/// Turns stage 1 on for this CPU.
pub fn enable() {
    write_register!("mair_el1", MAIR);
    write_register!("tcr_el1", tcr());
    write_register!("ttbr0_el1", ROOT.address());
    flush();
    write_register!("sctlr_el1", SCTLR_OFF | SCTLR_MCI);
}

/// Forgets all stage-1 translations of all CPUs, after the tables have changed.
pub fn flush() {
    // SAFETY: an invalidation only makes the CPUs walk the tables again.
    unsafe { asm!("dsb ish", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
}
