//! Images that are made up: a header, a name, resources among other data.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::devicetree::Region;
use crate::guard::Ram;
use crate::guard::linux::{CrashKernel, Kernel};
use crate::tests::cases;

pub const BASE: u64 = 0x4020_0000;
const SIZE: u64 = 0x3f_0000;
pub const OFFSET: u64 = 0xffff_a000_0000_0000;
pub const TEXT: u64 = BASE + 0x21_0800;
const NAME: u64 = BASE + 0x31_2345;
const FLAGS: u64 = 0x8100_0200;

const MEMORY: Region = Region { start: 0x4000_0000, end: 0x6000_0000 };
pub const HIGH: Region = Region { start: 0x5000_0000, end: 0x5400_0000 };
pub const LOW: Region = Region { start: 0x4800_0000, end: 0x4880_0000 };

/// RAM by its words; the rest is zero.
pub struct Fake {
    pub words: BTreeMap<u64, u64>,
    memory: Region,
    /// What cannot be read.
    dead: Option<Region>,
}

impl Ram for Fake {
    fn word(&self, address: u64) -> Option<u64> {
        assert!(address.is_multiple_of(8));
        let readable = self.memory.has(address) && !self.dead.is_some_and(|dead| dead.has(address));
        readable.then(|| self.words.get(&address).copied().unwrap_or_default())
    }

    fn position(&self, start: u64, word: u64) -> Option<u64> {
        assert!(start.is_multiple_of(16));
        self.word(start)?;
        let end = (start | 0xfff) + 1;
        self.words.range(start..end).find(|&(_, &there)| there == word).map(|(&at, _)| at)
    }

    fn has(&self, region: Region) -> bool {
        self.memory.contains(region)
    }
}

impl Fake {
    pub fn text(&mut self, at: u64, text: &[u8]) {
        for (at, &byte) in (at..).zip(text) {
            let word = self.words.entry(at & !7).or_default();
            *word &= !(0xff << (8 * (at & 7)));
            *word |= u64::from(byte) << (8 * (at & 7));
        }
    }

    pub fn resource(&mut self, at: u64, region: Option<Region>) {
        let (start, end) = region.map_or((0, 0), |region| (region.start, region.end - 1));
        for (index, value) in [start, end, NAME.wrapping_add(OFFSET), FLAGS, 1, 0x1234].into_iter().enumerate() {
            self.words.insert(at + 8 * index as u64, value);
        }
    }

    pub fn linux(at: [u64; 2]) -> Self {
        let mut ram = Self { words: BTreeMap::new(), memory: MEMORY, dead: None };
        ram.words.insert(BASE + 16, SIZE);
        ram.text(BASE + 56, b"ARM\x64");
        ram.text(NAME, b"Crash kernel\0");
        ram.resource(at[0], Some(HIGH));
        ram.resource(at[1], Some(LOW));
        ram
    }

    fn kernel(&self) -> Option<Kernel> {
        Kernel::around(TEXT, TEXT.wrapping_add(OFFSET), self)
    }

    fn look(&self) -> Option<CrashKernel> {
        self.kernel()?.crash_kernel(self)
    }

    fn regions(&self) -> Option<[Option<Region>; 2]> {
        self.look()?.regions(self)
    }
}

pub const TWO: [u64; 2] = [BASE + 0x38_0908, BASE + 0x38_0948];

#[test]
fn the_image_is_found_from_an_address_in_its_text() {
    let ram = Fake::linux(TWO);
    let kernel = ram.kernel().unwrap();
    assert_eq!(kernel, Kernel { image: Region { start: BASE, end: BASE + SIZE }, offset: OFFSET });
    assert_eq!(Kernel::around(BASE - 8, 0, &ram), None, "before the image");
    assert_eq!(Kernel::around(BASE + SIZE, 0, &ram), None, "after it");
    assert_eq!(Kernel::around(0x9000_0000, 0, &ram), None, "outside of RAM");
    assert!(Kernel::around(u64::MAX, u64::MAX, &ram).is_none());
}

#[test]
fn a_size_that_cannot_be_is_no_image() {
    for size in [0, 0x1000, MEMORY.size(), 1 << 40, u64::MAX] {
        let mut ram = Fake::linux(TWO);
        ram.words.insert(BASE + 16, size);
        assert_eq!(ram.kernel(), None, "{size:#x}");
    }
}

#[test]
fn both_resources_are_found_wherever_they_are() {
    let end = BASE + SIZE;
    for at in [TWO, [TWO[1], TWO[0]], [BASE + 0x38_0fe8, BASE + 0x38_1028], [end - 0x40, end - 0x80]] {
        let ram = Fake::linux(at);
        let found = ram.regions().unwrap();
        assert!(found == [Some(HIGH), Some(LOW)] || found == [Some(LOW), Some(HIGH)], "{at:x?}: {found:?}");
        let mut resources = ram.look().unwrap().resources();
        resources.sort_unstable();
        let mut expected = at;
        expected.sort_unstable();
        assert_eq!(resources, expected);
    }
}

#[test]
fn one_alone_will_do_and_none_is_none() {
    let mut ram = Fake::linux(TWO);
    ram.words.remove(&(TWO[1] + 24));
    assert_eq!(ram.regions(), Some([Some(HIGH), None]));
    ram.words.remove(&(TWO[0] + 24));
    assert_eq!(ram.look(), None);
}

#[test]
fn memory_that_was_not_reserved_is_no_region() {
    let mut ram = Fake::linux(TWO);
    ram.resource(TWO[0], None);
    ram.resource(TWO[1], None);
    assert_eq!(ram.regions(), Some([None, None]));
}

#[test]
fn it_is_read_again_after_a_shrink() {
    let mut ram = Fake::linux(TWO);
    let found = ram.look().unwrap();
    let smaller = Region { end: HIGH.end - 0x100_0000, ..HIGH };
    ram.resource(TWO[0], Some(smaller));
    let regions = found.regions(&ram).unwrap();
    assert!(regions.contains(&Some(smaller)) && regions.contains(&Some(LOW)));
    // To nothing: Linux has `end = start - 1` then.
    ram.words.insert(TWO[0] + 8, HIGH.start - 1);
    assert!(found.regions(&ram).unwrap().contains(&None));
    // Another kernel is there.
    ram.words.insert(TWO[0] + 24, 0);
    assert_eq!(found.regions(&ram), None);
}

#[test]
fn each_field_has_to_be_right() {
    let wrong = [
        (0, HIGH.start + 8),
        (0, MEMORY.start - 0x1000),
        (0, BASE),
        (0, HIGH.end + 0x1000),
        (8, HIGH.end),
        (8, MEMORY.end + 0xfff),
        (8, u64::MAX),
        (16, NAME),
        (16, NAME.wrapping_add(OFFSET) + 1),
        (16, BASE.wrapping_add(OFFSET) - 1),
        (16, (BASE + SIZE - 12).wrapping_add(OFFSET)),
        (16, u64::MAX),
        (24, FLAGS | 0x100),
        (32, 0),
        (32, 2),
    ];
    for (field, value) in wrong {
        let mut ram = Fake::linux(TWO);
        ram.words.remove(&(TWO[1] + 24));
        assert!(ram.look().is_some());
        ram.words.insert(TWO[0] + field, value);
        assert_eq!(ram.look(), None, "{field}: {value:#x}");
    }
}

#[test]
fn flags_that_are_something_else_do_not_matter() {
    let mut ram = Fake::linux(TWO);
    for at in [BASE + SIZE - 8, BASE + 0x3e_fff8, BASE + 0x38_0000, TWO[0] - 8, TWO[1] + 48] {
        ram.words.insert(at, FLAGS);
    }
    assert!(ram.regions().is_some_and(|regions| regions.iter().all(Option::is_some)));
}

#[test]
fn more_than_two_are_none() {
    let mut ram = Fake::linux(TWO);
    ram.resource(TWO[0] - 0x100, Some(HIGH));
    assert_eq!(ram.look(), None);
}

#[test]
fn memory_that_does_not_answer_is_passed_over() {
    let mut ram = Fake::linux(TWO);
    ram.dead = Some(Region { start: BASE + SIZE - 0x3000, end: BASE + SIZE - 0x2000 });
    assert!(ram.look().is_some());
    ram.dead = Some(Region { start: TWO[0] & !0xfff, end: (TWO[0] | 0xfff) + 1 });
    assert_eq!(ram.look(), None);
    ram.dead = Some(Region { start: BASE, end: BASE + 0x1000 });
    assert_eq!(ram.kernel(), None);
}

proptest! {
    #![proptest_config(cases(512, 4))]

    #[test]
    fn any_memory_ends_the_search(
        words in prop::collection::btree_map(0..SIZE / 8, prop_oneof![Just(FLAGS), Just(1), any::<u64>()], 0..200),
        size: u64, address: u64, virtual_address: u64,
    ) {
        let mut ram = Fake::linux(TWO);
        ram.words.extend(words.iter().map(|(index, &word)| (BASE + index * 8, word)));
        ram.words.insert(BASE + 16, size % (2 * SIZE));
        ram.text(BASE + 56, b"ARM\x64");
        for address in [address, BASE + address % SIZE] {
            let found = Kernel::around(address, virtual_address, &ram).and_then(|kernel| kernel.crash_kernel(&ram));
            for region in found.and_then(|found| found.regions(&ram)).into_iter().flatten().flatten() {
                prop_assert!(MEMORY.contains(region) && region.start < region.end);
            }
        }
    }

    #[test]
    fn a_real_one_among_anything_is_found_with_its_regions(
        at in 0x32_0000..(SIZE - 0x4100) / 8 * 8, gap in 8_u64..0x800, start in 0_u64..0x4000, pages in 1_u64..0x1000,
        words in prop::collection::btree_map(0x31_3000 / 8..SIZE / 8, any::<u64>(), 0..200),
    ) {
        let at = [BASE + at / 8 * 8, BASE + at / 8 * 8 + gap * 8];
        let mut ram = Fake::linux(TWO);
        for resource in TWO {
            ram.words.remove(&(resource + 24));
        }
        ram.words.extend(words.iter().map(|(index, &word)| (BASE + index * 8, word)));
        let region = Region { start: 0x5000_0000 + start * 0x1000, end: 0x5000_0000 + (start + pages) * 0x1000 };
        ram.resource(at[0], Some(region));
        ram.resource(at[1], None);
        let regions = ram.regions().unwrap();
        prop_assert!(regions.contains(&Some(region)) && regions.contains(&None));
    }
}
