//! The values of the registers that control the two translation regimes of EL2, as pure functions.
//!
//! VTCR_EL2 and VTTBR_EL2 (stage 2), TCR_EL2, TTBR0_EL2 and MAIR_EL2 (EL2 stage 1, HCR_EL2.E2H = 0). Writing them is
//! the EL2 binary's. The Arm ARM's register descriptions have the layouts. Walks are cacheable (Write-Back, Read- and
//! Write-Allocate) and Inner Shareable in both regimes, so that tables need no cache maintenance once the caches are
//! on.

use super::descriptor::{MAX_OUTPUT_BITS, PAGE_SHIFT, STRIDE};

/// VTCR_EL2.T0SZ and TCR_EL2.T0SZ, bits 5:0: 64 minus the input address size in bits.
const T0SZ_SHIFT: u32 = 0;
/// VTCR_EL2.SL0, bits 7:6: initial lookup level; with the 4 KiB granule 2 minus the level.
const VTCR_SL0_SHIFT: u32 = 6;
/// IRGN0 of both registers, bits 9:8 = 0b01: walks are Inner Write-Back, Read-Allocate, Write-Allocate Cacheable.
const IRGN0_WRITE_BACK: u64 = 0b01 << 8;
/// ORGN0 of both registers, bits 11:10 = 0b01: the same for the outer cache.
const ORGN0_WRITE_BACK: u64 = 0b01 << 10;
/// SH0 of both registers, bits 13:12 = 0b11: walks are Inner Shareable.
const SH0_INNER: u64 = 0b11 << 12;
/// TG0 of both registers, bits 15:14 = 0b00: 4 KiB granule.
const TG0_4K: u64 = 0b00 << 14;
/// PS of both registers, bits 18:16: output address size, in the encoding of ID_AA64MMFR0_EL1.PARange.
const PS_SHIFT: u32 = 16;
/// VTCR_EL2 bit 31, RES1.
const VTCR_RES1: u64 = 1 << 31;
/// TCR_EL2 bits 31 and 23, RES1 while HCR_EL2.E2H is 0.
const TCR_EL2_RES1: u64 = 1 << 31 | 1 << 23;
/// VTTBR_EL2.VMID, bits 63:48, of which bits 55:48 are in use while VTCR_EL2.VS is 0.
const VTTBR_VMID_SHIFT: u32 = 48;

/// Index in MAIR_EL2 of Normal memory.
pub const MAIR_INDEX_NORMAL: u64 = 0;
/// Index in MAIR_EL2 of device memory.
pub const MAIR_INDEX_DEVICE: u64 = 1;
/// MAIR_EL2 attribute: Normal, Inner and Outer Write-Back Non-transient, Read-Allocate, Write-Allocate.
const MAIR_ATTR_NORMAL_WRITE_BACK: u64 = 0xff;
/// MAIR_EL2 attribute: Device-nGnRE.
const MAIR_ATTR_DEVICE_NGNRE: u64 = 0x04;

/// MAIR_EL2 for [`MAIR_INDEX_NORMAL`] and [`MAIR_INDEX_DEVICE`]; each attribute has 8 bits.
pub const MAIR_EL2: u64 =
    MAIR_ATTR_NORMAL_WRITE_BACK << (8 * MAIR_INDEX_NORMAL) | MAIR_ATTR_DEVICE_NGNRE << (8 * MAIR_INDEX_DEVICE);

/// A CPU's physical address range, as far as these tables can use it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PaRange {
    /// ID_AA64MMFR0_EL1.PARange, at most the encoding of 48 bits.
    encoding: u8,
}

impl PaRange {
    /// Sizes in bits by encoding, up to the 48 bits that the 4 KiB granule reaches without FEAT_LPA2.
    const BITS: [u32; 6] = [32, 36, 40, 42, 44, MAX_OUTPUT_BITS];

    /// Takes the range from ID_AA64MMFR0_EL1 (PARange, bits 3:0). A CPU with more than 48 bits counts as one with 48,
    /// and so does an encoding that is not defined yet: PARange grows with the size.
    #[must_use]
    pub const fn from_id_aa64mmfr0(id_aa64mmfr0_el1: u64) -> Self {
        let encoding = (id_aa64mmfr0_el1 & 0xf) as u8;
        let largest = (Self::BITS.len() - 1) as u8;
        Self { encoding: if encoding < largest { encoding } else { largest } }
    }

    /// The smallest size that has at least `bits` bits, if there is one.
    pub(super) const fn covering(bits: u32) -> Option<Self> {
        let mut encoding = 0;
        while encoding < Self::BITS.len() {
            if Self::BITS[encoding] >= bits {
                return Some(Self { encoding: encoding as u8 });
            }
            encoding += 1;
        }
        None
    }

    /// Size in bits, 32 to 48.
    #[must_use]
    pub const fn bits(self) -> u32 {
        Self::BITS[self.encoding as usize]
    }

    /// The address after the last one that the CPU has.
    #[must_use]
    pub const fn end(self) -> u64 {
        1 << self.bits()
    }

    /// The PS field's bits of VTCR_EL2 or TCR_EL2.
    const fn ps(self) -> u64 {
        (self.encoding as u64) << PS_SHIFT
    }
}

/// What VTCR_EL2 and TCR_EL2 have in common.
const fn common(input_bits: u32, output: PaRange) -> u64 {
    ((64 - input_bits) as u64) << T0SZ_SHIFT | IRGN0_WRITE_BACK | ORGN0_WRITE_BACK | SH0_INNER | TG0_4K | output.ps()
}

/// VTCR_EL2 for an IPA size of `ipa_bits` (at most 48), walks that begin at `start_level` (0 to 2), and outputs of at
/// most `output`'s size. Hardware updates (HA, HD) are off, VMIDs have 8 bits, and FEAT_LPA2's DS is 0.
#[must_use]
pub const fn vtcr_el2(ipa_bits: u32, start_level: u8, output: PaRange) -> u64 {
    VTCR_RES1 | common(ipa_bits, output) | ((2 - start_level) as u64) << VTCR_SL0_SHIFT
}

/// VTTBR_EL2 for the initial table(s) at `root`, with CnP = 0.
#[must_use]
pub const fn vttbr_el2(root: u64, vmid: u8) -> u64 {
    (vmid as u64) << VTTBR_VMID_SHIFT | root
}

/// TCR_EL2 for a VA size of `va_bits` (25 to 48) and outputs of at most `output`'s size. Addresses have no tags (TBI =
/// 0) and the hardware updates no flags (HA, HD = 0).
#[must_use]
pub const fn tcr_el2(va_bits: u32, output: PaRange) -> u64 {
    TCR_EL2_RES1 | common(va_bits, output)
}

/// TTBR0_EL2 for the initial table at `root`, with CnP = 0.
#[must_use]
pub const fn ttbr0_el2(root: u64) -> u64 {
    root
}

/// The level at which EL2's stage 1 walk begins for a VA size of `va_bits`: the hardware derives it from TCR_EL2.T0SZ.
pub(super) const fn stage1_start_level(va_bits: u32) -> u8 {
    3 - ((va_bits - 1 - PAGE_SHIFT) / STRIDE) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPUs by ID_AA64MMFR0_EL1.PARange: 0 has 32 bits, 2 has 40 (cortex-a53), 4 has 44 (cortex-a57), 6 has 52.
    const fn range(encoding: u64) -> PaRange {
        PaRange::from_id_aa64mmfr0(encoding)
    }

    #[test]
    fn registers_have_the_values_with_which_linux_ran() {
        assert_eq!(vtcr_el2(40, 1, range(2)), 0x8002_3558);
        assert_eq!(tcr_el2(39, range(2)), 0x8082_3519);
        assert_eq!(MAIR_EL2, 0x04ff);
    }

    #[test]
    fn sizes_move_only_their_own_fields() {
        assert_eq!(vtcr_el2(48, 0, range(5)), 0x8005_3590);
        assert_eq!(vtcr_el2(32, 1, range(0)), 0x8000_3560);
        assert_eq!(tcr_el2(48, range(5)), 0x8085_3510);
        assert_eq!(vttbr_el2(0x4008_0000, 0), 0x4008_0000);
        assert_eq!(vttbr_el2(0x4008_0000, 3), 0x0003_0000_4008_0000);
    }

    #[test]
    fn pa_range_stops_at_48_bits() {
        let bits: Vec<u32> = (0..16).map(|encoding| range(encoding).bits()).collect();
        assert_eq!(bits[..7], [32, 36, 40, 42, 44, 48, 48]);
        assert!(bits[7..].iter().all(|&bits| bits == 48));
        assert_eq!(PaRange::from_id_aa64mmfr0(0x1122_3344_5566_7782), range(2), "other fields do not matter");
    }

    #[test]
    fn covering_takes_the_smallest_size() {
        assert_eq!(PaRange::covering(32), Some(range(0)));
        assert_eq!(PaRange::covering(33), Some(range(1)));
        assert_eq!(PaRange::covering(41), Some(range(3)));
        assert_eq!(PaRange::covering(48), Some(range(5)));
        assert_eq!(PaRange::covering(49), None);
    }

    #[test]
    fn stage_1_starts_at_level_0_with_48_bits() {
        assert_eq!(stage1_start_level(48), 0);
        assert_eq!(stage1_start_level(40), 0);
        assert_eq!(stage1_start_level(39), 1);
        assert_eq!(stage1_start_level(31), 1);
        assert_eq!(stage1_start_level(30), 2);
    }
}
