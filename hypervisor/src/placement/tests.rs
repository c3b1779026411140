//! Addresses as trees have them, and as no tree should.

use proptest::prelude::*;

use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// ID_AA64MMFR0_EL1.PARange of a cortex-a53, a cortex-a57 and QEMU's max: 40, 44 and 52 bits, of which 48 count.
const PA_RANGES: [u64; 3] = [2, 4, 6];

const MEMORY: [Region; 2] = [Region { start: GIB, end: 2 * GIB }, Region { start: 1 << 36, end: (1 << 36) + GIB }];

/// QEMU's virt with a second bank of RAM.
fn map(pa_range: u64) -> AddressMap<'static> {
    AddressMap {
        exeunt: Region { start: GIB + 2 * MIB, end: GIB + 4 * MIB },
        tree: Region { start: 3 * GIB, end: 3 * GIB + 0x1234 },
        memory: &MEMORY,
        pa_range: PaRange::from_id_aa64mmfr0(pa_range),
    }
}

#[test]
fn a_device_gets_the_pages_that_its_registers_lie_in() {
    let map = map(2);
    let pages = |base, size, alignment| map.device(base, size, alignment).map(|pages| (pages.start, pages.end));
    assert_eq!(pages(0x0900_0000, 4 * KIB, 4), Ok((0x0900_0000, 0x0900_1000)));
    assert_eq!(pages(0x0900_0ff8, 0x48, 4), Ok((0x0900_0000, 0x0900_2000)), "across the end of a page");
    assert_eq!(pages(0, 4 * KIB, 4096), Ok((0, 4096)));
    assert_eq!(pages(GIB - 4 * KIB, 4 * KIB, 4096), Ok((GIB - 4096, GIB)), "up to RAM");
    assert_eq!(pages(2 * GIB, 4 * KIB, 4096), Ok((2 * GIB, 2 * GIB + 4096)), "after RAM");
    assert_eq!(pages((1 << 40) - 4 * KIB, 4 * KIB, 4096), Ok(((1 << 40) - 4096, 1 << 40)), "up to the end");
}

#[test]
fn a_device_where_none_can_be_is_refused_in_words() {
    let refused = |base, alignment| map(2).device(base, 4 * KIB, alignment).unwrap_err().to_string();
    assert_eq!(refused(0x0900_0002, 4), "at 0x9000002, which is not a multiple of 0x4");
    assert_eq!(refused(0x0801_0100, 4096), "at 0x8010100, which is not a multiple of 0x1000");
    assert_eq!(refused(GIB + 2 * MIB, 4), "at 0x40200000, which is in Exeunt's memory (0x40200000-0x403fffff)");
    assert_eq!(refused(GIB + 4 * MIB - 4, 4), "at 0x403ffffc, which is in Exeunt's memory (0x40200000-0x403fffff)");
    assert_eq!(refused(GIB, 4), "at 0x40000000, which is in RAM (0x40000000-0x7fffffff)");
    assert_eq!(refused(GIB - 4, 4), "at 0x3ffffffc, which is in RAM (0x40000000-0x7fffffff)", "its second page");
    assert_eq!(refused(1 << 36, 4), "at 0x1000000000, which is in RAM (0x1000000000-0x103fffffff)");
    assert_eq!(refused(3 * GIB + 0x1ff0, 4), "at 0xc0001ff0, which is in the device tree (0xc0000000-0xc0001233)");
    let too_far = "which is beyond what this CPU or EL2's stage 1 reaches";
    assert_eq!(refused(1 << 40, 4), format!("at 0x10000000000, {too_far}"));
    assert_eq!(refused((1 << 40) - 4, 4), format!("at 0xfffffffffc, {too_far}"), "its second page");
    assert_eq!(refused(!0xfff, 4), format!("at 0xfffffffffffff000, {too_far}"));
    assert_eq!(refused(!0x3, 4), format!("at 0xfffffffffffffffc, {too_far}"));
    // Where EL2 has its stacks.
    assert!(map(6).device(IDENTITY_END - 4096, 4 * KIB, 4096).is_ok());
    assert_eq!(map(6).device(IDENTITY_END, 4 * KIB, 4096), Err(DeviceError::OutOfReach { base: IDENTITY_END }));
}

proptest! {
    /// Whatever the tree says: what passes can be mapped, and nothing that is in use lies in it.
    #[test]
    fn what_passes_can_be_mapped(
        pa_range in prop::sample::select(&PA_RANGES),
        near in prop::sample::select(
            &[0, GIB, GIB + 2 * MIB, GIB + 4 * MIB, 2 * GIB, 3 * GIB, 1 << 36, 1 << 40, 1 << 47, 1 << 48, 0][..],
        ),
        offset in -0x3000_i64..0x3000,
        size in prop_oneof![0_u64..0x4000, Just(u64::MAX), any::<u64>()],
        alignment in prop::sample::select(&[1_u64, 4, 4096][..]),
    ) {
        let map = map(pa_range);
        let base = near.wrapping_add_signed(offset);
        if let Ok(pages) = map.device(base, size, alignment) {
            prop_assert!(pages.start.is_multiple_of(4096) && pages.end.is_multiple_of(4096));
            prop_assert!(pages.start <= base && base + size <= pages.end && base.is_multiple_of(alignment));
            prop_assert!(pages.end <= 1 << map.pa_range.bits() && pages.end <= IDENTITY_END);
            for other in MEMORY.iter().chain([&map.exeunt, &map.tree]) {
                prop_assert!(!pages.overlaps(*other));
            }
        }
    }
}
