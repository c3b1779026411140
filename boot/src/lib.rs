//! What runs before the hypervisor and what outlives it: the Image header, the EL2 entry of the boot CPU, the entry of
//! every other CPU, and the resident stub.
//!
//! Owns the code that runs with EL2's MMU off and the record ([`CpuBoot`]) that such code reads. Never parses anything
//! and never decides anything: it makes a CPU fit to run Rust and hands it to the two functions that the hypervisor
//! defines, `exeunt_early` and `exeunt_main` on the boot CPU, `exeunt_secondary` on the others.
//!
//! All of it is position independent: the image is linked at address 0, and the first thing that the boot CPU does is
//! to find out where it really is and to relocate the few absolute addresses that data holds.

#![no_std]

#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod header;
#[cfg(target_os = "none")]
mod mem;
#[cfg(target_os = "none")]
pub mod stub;

#[cfg(target_os = "none")]
pub use entry::secondary_entry;

/// Size of Exeunt's reservation in bytes, and the alignment of its base: one level-2 block of a 4 KiB granule. The
/// Image header promises it to the loader as `image_size`, the linker script ends there, and stage 2 hides exactly this
/// much.
pub const RESERVATION: u64 = 0x20_0000;

/// SCTLR_EL2 with MMU and caches off, little-endian: the RES1 bits of Armv8.0 and nothing else (Arm ARM, SCTLR_EL2;
/// Linux `INIT_SCTLR_EL2_MMU_OFF`).
pub const SCTLR_EL2_MMU_OFF: u64 = 0x30c5_0830;

/// HCR_EL2.RW: EL1 is AArch64.
pub const HCR_EL2_RW: u64 = 1 << 31;

/// What a CPU needs to turn EL2's MMU on and to have a stack. Read with the MMU off, so whoever writes it cleans it to
/// the point of coherency; it does not change after that.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct CpuBoot {
    /// TTBR0_EL2: the physical address of the root table of EL2's stage 1.
    pub ttbr0_el2: u64,
    /// TCR_EL2.
    pub tcr_el2: u64,
    /// MAIR_EL2.
    pub mair_el2: u64,
    /// SCTLR_EL2 with the MMU on.
    pub sctlr_el2: u64,
    /// The initial stack pointer, 16-byte aligned, valid once the MMU is on.
    pub stack_top: u64,
    /// TPIDR_EL2: where the hypervisor keeps what it knows of this CPU.
    pub tpidr_el2: u64,
}

impl CpuBoot {
    /// Nothing set yet.
    pub const NONE: Self = Self { ttbr0_el2: 0, tcr_el2: 0, mair_el2: 0, sctlr_el2: 0, stack_top: 0, tpidr_el2: 0 };
}

const _: () = assert!(size_of::<CpuBoot>() == 64);
