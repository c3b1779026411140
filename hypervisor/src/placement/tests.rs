//! Addresses as trees have them, and as no tree should.

use proptest::prelude::*;

use super::*;
use crate::devicetree::scan;
use crate::devicetree::tests::text::Tree;
use crate::paging::Error;
use crate::paging::stage2::{Attributes, Stage2};
use crate::paging::tests::memory::Memory;

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

/// The end of Exeunt's memory that the host may read.
fn black_box(map: &AddressMap) -> Region {
    Region { start: map.exeunt.end - 64 * KIB, ..map.exeunt }
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

// ---- The host's stage 2 ----

/// What a CPU finds in the tables that were built of `map`.
struct Built {
    memory: Memory,
    stage2: Stage2,
}

impl Built {
    fn of(map: &AddressMap, highest: u64) -> Result<Self, Error> {
        let mut memory = Memory::new();
        let stage2 = map.stage2(&mut memory, highest, black_box(map))?;
        Ok(Self { memory, stage2 })
    }

    /// Where an address leads, and whether it can be executed.
    fn query(&self, ipa: u64) -> Option<(u64, bool)> {
        let found = self.stage2.query(&self.memory, ipa)?;
        Some((found.output, found.attributes == Attributes::Executable))
    }
}

#[test]
fn stage_2_is_identity_and_only_ram_is_executable_to_begin_with() {
    let memory = [Region { start: GIB + 0x800, end: 2 * GIB - 0x800 }, MEMORY[1]];
    let map = AddressMap { memory: &memory, ..map(2) };
    let built = Built::of(&map, 1 << 40).unwrap();
    for (ipa, executable) in [
        (0, false),
        (GIB + 0x7ff, false),
        (GIB + 0x1000, true),
        (GIB + 2 * MIB - 1, true),
        (GIB + 4 * MIB, true),
        (2 * GIB - 0x1001, true),
        (2 * GIB - 0x1000, false),
        (2 * GIB, false),
        (1 << 36, true),
        ((1 << 36) + GIB, false),
        ((1 << 40) - 1, false),
    ] {
        assert_eq!(built.query(ipa), Some((ipa, executable)), "{ipa:#x}");
    }
    let blackbox = black_box(&map);
    for hole in [map.exeunt.start, blackbox.start - 1, 1 << 40] {
        assert_eq!(built.query(hole), None, "{hole:#x}");
    }
    for page in [blackbox.start, blackbox.end - 1] {
        let found = built.stage2.query(&built.memory, page).unwrap();
        assert_eq!((found.output, found.level, found.attributes), (page, 3, Attributes::ReadOnly), "{page:#x}");
    }
    let parts = "two at the root, one for the GiB, two for its first and last 2 MiB, one for Exeunt's";
    assert_eq!(built.memory.used(), 6, "{parts}");
}

#[test]
fn what_is_added_later_has_a_place_where_the_cpu_has_one() {
    for (pa_range, highest, bits) in [
        (2, 0, 40),
        (2, 1 << 36, 40),
        (2, (1 << 40) + 1, 40),
        (4, 1 << 40, 40),
        (4, (1 << 40) + 1, 41),
        (4, u64::MAX, 44),
        (6, u64::MAX, 48),
        (1, 0, 36),
        (0, 0, 32),
    ] {
        let memory = [MEMORY[0]];
        let map = AddressMap { memory: &memory, ..map(pa_range) };
        assert_eq!(map.ipa_bits(highest), bits, "{pa_range} {highest:#x}");
        if bits <= 41 {
            let built = Built::of(&map, highest).unwrap();
            assert_eq!(built.stage2.layout().ipa_bits(), bits);
            let last = (1 << bits) - 1;
            assert_eq!(built.query(last), Some((last, false)));
        }
    }
}

#[test]
fn ram_out_of_reach_is_an_error_and_ram_in_the_last_page_of_all_no_panic() {
    let beyond = [MEMORY[0], Region { start: 1 << 40, end: (1 << 40) + GIB }];
    let map = AddressMap { memory: &beyond, ..map(2) };
    assert!(Built::of(&map, (1 << 40) + GIB).is_err());
    let last = [MEMORY[0], Region { start: !0x7ff, end: !0xff }];
    let built = Built::of(&AddressMap { memory: &last, ..map }, !0xff).unwrap();
    assert_eq!(built.query(GIB), Some((GIB, true)), "there is no whole page, and nothing to map");
}

// ---- The host's RAM ----

#[test]
fn the_host_goes_where_it_likes_and_exeunt_keeps_off_what_others_have() {
    let mut platform = Platform::EMPTY;
    scan(&Tree::parse(KEPT).blob(0), &mut platform).unwrap();
    let loaded = [(GIB + 64 * MIB, MIB), (GIB + 80 * MIB, MIB), (GIB + 90 * MIB, MIB)];
    let loaded = loaded.map(|(start, size)| Region { start, end: start + size });
    let ram = HostRam::new(&platform, map(2).exeunt, loaded);
    let both = |address| (ram.contains(address), ram.is_open(address));
    for open in [GIB, GIB + 2 * MIB - 1, GIB + 4 * MIB, GIB + 16 * MIB - 1, GIB + 17 * MIB, 2 * GIB - 1] {
        assert_eq!(both(open), (true, true), "{open:#x}");
    }
    for outside in [0, GIB - 1, GIB + 2 * MIB, GIB + 4 * MIB - 1, 2 * GIB, u64::MAX] {
        assert_eq!(both(outside), (false, false), "{outside:#x}");
    }
    for kept in [GIB + 16 * MIB, GIB + 17 * MIB - 1, GIB + 32 * MIB, GIB + 33 * MIB - 1] {
        assert_eq!(both(kept), (true, false), "{kept:#x}");
    }
    // Whole pages: RAM that ends in one, and something of others' in one.
    let part = [Region { start: GIB, end: GIB + 0x1800 }];
    let little = [Region { start: GIB + 0x800, end: GIB + 0x801 }];
    let open = |memory: &[Region], no_map: &[Region], address| {
        let mut platform = Platform::EMPTY;
        let all =
            memory.iter().all(|&ram| platform.memory.push(ram)) && no_map.iter().all(|&it| platform.no_map.push(it));
        all && HostRam::new(&platform, map(2).exeunt, loaded).is_open(address)
    };
    assert!(open(&part, &[], GIB) && open(&part, &[], GIB + 0xfff) && !open(&part, &[], GIB + 0x1000));
    assert!(
        !open(&MEMORY, &little, GIB) && !open(&MEMORY, &little, GIB + 0xfff) && open(&MEMORY, &little, GIB + 0x1000)
    );
    // What is kept for drivers of the host's, and what the loader keeps of what it has loaded for the host.
    for open in [GIB + 48 * MIB, GIB + 64 * MIB, GIB + 80 * MIB, GIB + 82 * MIB - 1] {
        assert_eq!(both(open), (true, true), "{open:#x}");
    }
}

/// 1 GiB of RAM in which others have something: `no-map` at 16 MiB, by the reservation block at 32 MiB, for a driver of
/// the host's at 48 MiB, and what the loader has loaded at 64 and 80 MiB.
const KEPT: &str = r#"
reserve 42000000 100000
reserve 44000000 100000
reserve 45000000 200000
{ /
  #address-cells = <2>
  #size-cells = <2>
  { memory@40000000
    device_type = "memory"
    reg = <0 40000000 0 40000000>
  }
  { reserved-memory
    #address-cells = <2>
    #size-cells = <2>
    ranges
    { a@41000000
      reg = <0 41000000 0 100000>
      no-map
    }
    { b@43000000
      reg = <0 43000000 0 100000>
    }
  }
  { chosen
    linux,initrd-start = <46000000>
    linux,initrd-end = <46100000>
  }
}
"#;

// ---- Room for the tree ----

#[test]
fn a_tree_may_grow_up_to_what_is_next() {
    let mut platform = Platform::EMPTY;
    scan(&Tree::parse(KEPT).blob(0), &mut platform).unwrap();
    let kernel = Region { start: GIB + 100 * MIB, end: GIB + 132 * MIB };
    let room = |start: u64, size: u64| {
        let tree = Region { start, end: start + size };
        let map = AddressMap { tree, memory: &platform.memory, ..map(2) };
        let room = map.room_for_tree(&platform, kernel);
        assert_eq!(room.start, tree.start);
        room.end - tree.start
    };
    let next_to = |other: u64| room(other - 0x1800, 0x1234);
    assert_eq!(room(GIB + 8 * MIB, 0x1234), 2 * MIB, "as much as Linux takes");
    assert_eq!(next_to(GIB + 2 * MIB), 0x1800, "Exeunt");
    assert_eq!(next_to(kernel.start), 0x1800, "the kernel");
    assert_eq!(next_to(GIB + 96 * MIB), 0x1800, "the initrd");
    assert_eq!(next_to(GIB + 16 * MIB), 0x1800, "no-map");
    assert_eq!(next_to(GIB + 32 * MIB), 0x1800, "/memreserve/");
    assert_eq!(next_to(GIB + 48 * MIB), 0x1800, "/reserved-memory");
    assert_eq!(next_to(2 * GIB), 0x1800, "the end of RAM");
    // In a reservation of its own, up to whose end nothing else is anyway.
    assert_eq!(room(GIB + 64 * MIB, 0x1234), 2 * MIB);
    // Something that begins in the tree, and a tree in no RAM.
    assert_eq!(room(GIB + 32 * MIB - 0x800, 0x1000), 0x1000);
    assert_eq!(room(3 * GIB, 0x1234), 0x1234);
}
