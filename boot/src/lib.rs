//! What runs before the hypervisor and what outlives it: the Image header, the EL2 entry of the boot CPU, the entry of
//! every other CPU, and the resident stub.
//!
//! Owns the code that runs with EL2's MMU off and the record ([`CpuBoot`]) that such code reads. Never parses anything
//! and never decides anything: it makes a CPU fit to run Rust and hands it to the two functions that the hypervisor
//! defines, `exeunt_early` and `exeunt_main` on the boot CPU, `exeunt_secondary` on the others.
//!
//! All of it is position independent: the image is linked at address 0, and the first thing that the boot CPU does is
//! to find out where it really is and to relocate the few absolute addresses that data holds.

#![cfg_attr(not(test), no_std)]

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
pub const RESERVATION: u64 = guest_abi::RESERVATION;

/// SCTLR_EL2 with MMU and caches off, little-endian: the RES1 bits of Armv8.0 and nothing else (Arm ARM, SCTLR_EL2;
/// Linux `INIT_SCTLR_EL2_MMU_OFF`).
pub const SCTLR_EL2_MMU_OFF: u64 = 0x30c5_0830;

/// HCR_EL2.RW: EL1 is AArch64.
pub const HCR_EL2_RW: u64 = 1 << 31;

/// What a CPU needs to turn EL2's MMU on and to have a stack. Read with the MMU off, so whoever writes it cleans it to
/// the point of coherency; it does not change after that.
///
/// A CPU that Exeunt has left has no stage 2, and may have written to it. So whoever trusts it looks whether it is as
/// it was made ([`Self::seal`]): REENTER at all of it, the vectors of EL2 at its last word alone.
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
    /// TPIDR_EL2: where the hypervisor keeps what it knows of this CPU, which begins with this structure.
    pub tpidr_el2: u64,
    /// What the words before it add up to.
    pub sum: u64,
    /// The complement of its address.
    pub sign: u64,
}

/// How far the sum is rotated to the right before each word.
pub const SUM_ROTATION: u32 = 7;

impl CpuBoot {
    /// Nothing set yet.
    pub const NONE: Self =
        Self { ttbr0_el2: 0, tcr_el2: 0, mair_el2: 0, sctlr_el2: 0, stack_top: 0, tpidr_el2: 0, sum: 0, sign: 0 };

    /// The same for the place `address`, where it is recognised from now on, and nowhere else. Not for 0: all zeroes
    /// must not be right.
    #[must_use]
    pub const fn seal(self, address: u64) -> Self {
        let Self { ttbr0_el2, tcr_el2, mair_el2, sctlr_el2, stack_top, .. } = self;
        let words = [ttbr0_el2, tcr_el2, mair_el2, sctlr_el2, stack_top, address];
        let mut sum = address;
        let mut index = 0;
        while index < words.len() {
            sum = sum.rotate_right(SUM_ROTATION) ^ words[index];
            index += 1;
        }
        Self { tpidr_el2: address, sum, sign: !address, ..self }
    }
}

const _: () = assert!(size_of::<CpuBoot>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: u64 = 0x4022_7740;

    fn words(boot: &CpuBoot) -> [u64; 8] {
        let CpuBoot { ttbr0_el2, tcr_el2, mair_el2, sctlr_el2, stack_top, tpidr_el2, sum, sign } = *boot;
        [ttbr0_el2, tcr_el2, mair_el2, sctlr_el2, stack_top, tpidr_el2, sum, sign]
    }

    /// What REENTER looks at (`stub.rs`), where the structure is at `place`.
    fn is_whole(words: &[u64; 8], place: u64) -> bool {
        let sum = words[..6].iter().fold(place, |sum, word| sum.rotate_right(SUM_ROTATION) ^ word);
        sum == words[6] && words[7] ^ place == u64::MAX
    }

    #[test]
    fn what_is_sealed_is_whole_in_its_place_and_nowhere_else() {
        let made = CpuBoot {
            ttbr0_el2: 0x4023_0000,
            tcr_el2: 0x8080_3510,
            mair_el2: 0xff,
            sctlr_el2: 0x30cd_183d,
            stack_top: 0x8000_0000_3000,
            ..CpuBoot::NONE
        };
        let sealed = words(&made.seal(PLACE));
        assert_eq!(sealed[5], PLACE);
        assert!(is_whole(&sealed, PLACE));
        assert!(!is_whole(&sealed, PLACE + 64));
        assert!(!is_whole(&[0; 8], PLACE) && !is_whole(&[u64::MAX; 8], PLACE));
        for (index, bit) in (0..8).flat_map(|index| (0..64).map(move |bit| (index, bit))) {
            let mut damaged = sealed;
            damaged[index] ^= 1 << bit;
            assert!(!is_whole(&damaged, PLACE), "word {index}, bit {bit}");
        }
    }
}
