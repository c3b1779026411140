//! Where things go in the RAM of QEMU's `virt`.
//!
//! Owns the arithmetic. QEMU (hw/arm/boot.c) has its own boot stub at RAM's base, the Image 2 MiB above that, and the
//! device tree, padded to 1 MiB, at half of the RAM but no higher than 128 MiB, on a boundary of 2 MiB. The host's
//! kernel and its initrd go into what is left, lowest address first.

use std::ops::Range;

use crate::kernel::Footprint;

/// RAM's base.
pub const RAM_BASE: u64 = 0x4000_0000;
/// Where QEMU puts Exeunt's Image, from RAM's base.
pub const EXEUNT: u64 = 2 * MIB;

const MIB: u64 = 1 << 20;
/// The largest page that a kernel may have: an initrd begins on one.
const LARGEST_PAGE: u64 = 64 << 10;

/// RAM, and what of it is in use, as offsets from its base.
#[derive(Debug)]
pub struct Ram {
    size: u64,
    taken: Vec<Range<u64>>,
}

impl Ram {
    /// With what QEMU puts there: an Exeunt of this size, and the tree. Nothing if that is too much for so much RAM.
    #[must_use]
    pub fn with_exeunt(size: u64, exeunt: u64) -> Option<Self> {
        let tree = (size / 2).min(128 * MIB).next_multiple_of(2 * MIB);
        let exeunt = 0..EXEUNT + exeunt;
        let tree = tree..tree + 2 * MIB;
        (tree.start >= exeunt.end && tree.end <= size).then(|| Self { size, taken: vec![exeunt, tree] })
    }

    /// With what is there when firmware starts first: the tree at RAM's base, where firmware expects it, and an Exeunt
    /// of this size.
    #[must_use]
    pub fn with_firmware(size: u64, exeunt: u64) -> Option<Self> {
        let exeunt = 0..EXEUNT + exeunt;
        (exeunt.end <= size).then(|| Self { size, taken: Vec::from([exeunt]) })
    }

    /// Takes the lowest `size` bytes that are free at a multiple of `alignment`: their offset from RAM's base.
    fn take(&mut self, size: u64, alignment: u64) -> Option<u64> {
        let mut place = 0;
        while let Some(other) = self.taken.iter().find(|other| place < other.end && other.start < place + size) {
            place = other.end.next_multiple_of(alignment);
        }
        let end = place.checked_add(size).filter(|&end| end <= self.size)?;
        self.taken.push(place..end);
        Some(place)
    }

    /// The address of a kernel: so many bytes above a multiple of 2 MiB as its header says.
    pub fn kernel(&mut self, footprint: Footprint) -> Option<u64> {
        let place = self.take(footprint.text_offset.checked_add(footprint.size)?, 2 * MIB)?;
        Some(RAM_BASE + place + footprint.text_offset)
    }

    /// The address of an initrd.
    pub fn initrd(&mut self, size: u64) -> Option<u64> {
        Some(RAM_BASE + self.take(size, LARGEST_PAGE)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXEUNT_SIZE: u64 = 189_552;

    fn footprint(size: u64) -> Footprint {
        Footprint { text_offset: 0, size }
    }

    #[test]
    fn the_usual_machine() {
        let mut ram = Ram::with_exeunt(1 << 30, EXEUNT_SIZE).unwrap();
        assert_eq!(ram.kernel(footprint(30 * MIB)), Some(0x4040_0000));
        assert_eq!(ram.initrd(5 * MIB), Some(0x4220_0000));
        // Behind the tree, since it does not fit before it.
        assert_eq!(ram.initrd(100 * MIB), Some(0x4820_0000));
        assert_eq!(ram.kernel(Footprint { text_offset: 0x8_0000, size: MIB }), Some(0x4288_0000));
    }

    #[test]
    fn nothing_lies_on_anything() {
        for size in [32 * MIB, 64 * MIB, 300 * MIB, 4 << 30] {
            let mut ram = Ram::with_exeunt(size, EXEUNT_SIZE).unwrap();
            for piece in [3 * MIB, MIB, 7 * MIB + 1, 64 << 10] {
                let _ = ram.initrd(piece);
                let _ = ram.kernel(footprint(piece));
            }
            ram.taken.sort_by_key(|range| range.start);
            assert!(ram.taken.windows(2).all(|pair| pair[0].end <= pair[1].start), "{:x?}", ram.taken);
            assert!(ram.taken.iter().all(|range| range.end <= size));
        }
    }

    #[test]
    fn too_little_is_too_little() {
        assert!(Ram::with_exeunt(4 * MIB, EXEUNT_SIZE).is_none());
        let mut ram = Ram::with_exeunt(64 * MIB, EXEUNT_SIZE).unwrap();
        assert_eq!(ram.kernel(footprint(61 * MIB)), None);
        assert_eq!(ram.kernel(Footprint { text_offset: u64::MAX, size: 2 }), None);
    }
}
