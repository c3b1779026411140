//! Trees, images and places that nobody would write, through everything that the start does with them: the checks, the
//! scan, the options, stage 2, the room for the tree and its edit. Nothing may panic, overflow included, and what is
//! accepted must be right.
//!
//! The cases are numbered, and a number says all of a case: each run tries the same ones. `cargo test` tries a few
//! thousand. For more, or for one again, as often as one likes:
//!
//! ```text
//! EXEUNT_FUZZ=10000000 cargo test --release -p hypervisor fuzz
//! EXEUNT_FUZZ=4711,1 cargo test -p hypervisor fuzz
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::devicetree::tests::text::Blob;
use crate::devicetree::tests::{QEMU_TREES, SMALL};
use crate::devicetree::{Edits, MAX_SIZE, edit};
use crate::options::Options;
use crate::paging::stage2::Attributes;
use crate::paging::tests::memory::Memory;
use crate::placement::HostRam;
use crate::tests::cases;

/// Tables that stage 2 may take: what there is in 2 MiB, and not so many that 48 bits of address take all day.
const TABLES: usize = 40;

/// Numbers that follow from one seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// An address or size at which something begins or ends, or a little beside it.
    fn edge(&mut self) -> u64 {
        let edge = match self.below(4) {
            0 => self.one_of(&[0, EXEUNT.start, EXEUNT.end, TREE.start, TREE.end, GIB, 2 * GIB, GIB + 4 * MIB]),
            1 => 1 << self.below(64),
            2 => u64::MAX << self.below(64),
            _ => self.next() >> self.below(64),
        };
        let near = [0, 0, 0, 1, u64::MAX, 4, 8, 0x7ff, 0x800, 0x1000, 0x1000_u64.wrapping_neg(), 2 * MIB];
        edge.wrapping_add(self.one_of(&near))
    }
}

/// A tree to begin with, and where the values of its properties are.
struct Base {
    blob: Blob,
    values: Vec<(usize, usize)>,
}

impl Base {
    fn new(text: &str) -> Self {
        let blob = Tree::parse(text).blob(0);
        let word = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
        let (mut at, end) = (word(8), word(8) + word(36));
        let mut values = Vec::new();
        while at < end {
            at += match word(at) {
                1 => 4 + (blob[at + 4..].iter().position(|&byte| byte == 0).unwrap() + 1).next_multiple_of(4),
                3 => {
                    values.push((at + 12, word(at + 4)));
                    12 + word(at + 4).next_multiple_of(4)
                }
                _ => 4,
            };
        }
        Self { blob, values }
    }
}

/// RAM in the last page of the address space, which once overflowed, and a bus with windows.
fn bases() -> Vec<Base> {
    let last_page =
        GOOD.replace("reg = <0 40000000 0 40000000>", "reg = <0 40000000 0 40000000 ffffffff fffff800 0 700>");
    let kept = GOOD.replace(
        "  { psci\n",
        "  { reserved-memory\n ranges\n { a\n reg = <0 50000000 0 1000>\n no-map\n }\n\
         { b\n reg = <0 51000000 0 1000>\n }\n \
         }\n { soc\n #address-cells = <1>\n #size-cells = <1>\n ranges = <0 0 9000000 10000 20000 1 0 8000>\n\
         { serial@1000\n compatible = \"arm,pl011\"\n reg = <1000 1000>\n }\n }\n  { psci\n",
    );
    let kept = kept.replace(
        "{ chosen\n",
        "{ chosen\n bootargs = \"log=debug stats restart=resident\"\n linux,initrd-start = <0 48600000>\n \
         linux,initrd-end = <0 48700000>\n stdout-path = \"/soc/serial@1000:115200\"\n",
    );
    let kept = format!("reserve 42000000 1000\nreserve 40200000 200000\n{kept}");
    let own = [GOOD, &last_page, &kept, SMALL];
    own.into_iter().chain(QEMU_TREES.iter().map(|(_, text, _)| *text)).map(Base::new).collect()
}

/// Changes something in the tree.
fn damage(random: &mut Random, base: &Base, blob: &mut Blob) {
    if blob.len() < base.blob.len() {
        return; // cut off already
    }
    let put = |blob: &mut Blob, at: usize, bytes: &[u8]| blob[at..at + bytes.len()].copy_from_slice(bytes);
    let word = 4 * random.below(blob.len() / 4);
    match random.below(16) {
        // A cell or two of a property's value, which leaves the tree well formed.
        0..=9 => {
            let (value, length) = random.one_of(&base.values);
            if length < 4 {
                return;
            }
            let cell = value + 4 * random.below(length / 4);
            let edge = random.edge().to_be_bytes();
            let wide = random.below(3) > 0 && cell + 8 <= value + length;
            put(blob, cell, if wide { &edge } else { &edge[4..] });
        }
        10 => put(blob, word, &(random.edge() as u32).to_be_bytes()),
        11 => blob[word] ^= 1 << random.below(8),
        12 => {
            let from = 4 * random.below(blob.len() / 4);
            let length = (4 * random.below(40)).min(blob.len() - from.max(word));
            blob.copy_within(from..from + length, word);
        }
        13 => put(blob, 4 * random.below(10), &(random.edge() as u32).to_be_bytes()),
        14 => {
            // One value becomes another of the same length.
            let (from, length) = random.one_of(&base.values);
            let same: Vec<_> = base.values.iter().filter(|(_, other)| *other == length).collect();
            let &(to, _) = same[random.below(same.len())];
            blob.copy_within(from..from + length, to);
        }
        _ => {
            let length = random.below(blob.len());
            *blob = blob.resized(length);
        }
    }
}

/// The start, as the image goes through it, and what must be true of what it accepts. An error is as good as a start.
fn start_everything(random: &mut Random, base: &Base) -> Result<(), Refusal> {
    let pa_range = PaRange::from_id_aa64mmfr0(random.next() & 7);
    let place = |random: &mut Random, usual: u64| if random.below(8) == 0 { random.edge() } else { usual };
    let exeunt = exeunt(place(random, EXEUNT.start), EXEUNT.size(), pa_range)?;
    assert_eq!((exeunt.size(), exeunt.start % EXEUNT.size()), (EXEUNT.size(), 0));

    let mut blob = base.blob.resized(base.blob.len() + random.one_of(&[0, 0, 100, 4096]));
    for _ in 0..random.below(5) {
        damage(random, base, &mut blob);
    }
    let address = place(random, TREE.start);
    tree_header(address, pa_range)?;
    // Memory does not end where the tree does.
    let header = core::array::from_fn(|at| blob.get(at).copied().unwrap_or(0));
    let tree = tree(address, &header, exeunt, pa_range)?;
    assert!(!tree.overlaps(exeunt) && tree.in_pages(PAGE_SIZE).is_some());
    blob = blob.resized(tree.size() as usize);
    let mut platform = Platform::EMPTY;
    scan(&blob, &mut platform)?;
    let _ = Options::parse(platform.options(&blob)).map_err(|error| error.to_string());
    assert!(platform.memory_size() > 0 || platform.memory.is_empty());

    let map = AddressMap { exeunt, tree, memory: &platform.memory, pa_range };
    if let Some(console) = platform.console
        && let registers = console.registers()
        && let Ok(pages) = map.device(registers.start, registers.end - registers.start, console.alignment())
    {
        assert!(map.reaches(pages) && !pages.overlaps(exeunt) && !pages.overlaps(tree));
    }
    machine(&platform, &map)?;
    let place = kernel_header(&platform, &map)?;
    assert!(place.in_pages(PAGE_SIZE).is_some_and(|pages| map.reaches(pages)));
    let mut header = image_header();
    for _ in 0..random.below(3) {
        let at = 8 * random.below(header.len() / 8);
        header[at..at + 8].copy_from_slice(&random.edge().to_le_bytes());
    }
    header[56..60].copy_from_slice(b"ARM\x64");
    let kernel = kernel(&platform, &map, &header[..place.size() as usize], random.one_of(&[A53, random.0]))?;
    let frames = gicv2(platform.gic, &map)?;

    for (what, region) in
        [("Exeunt", exeunt), ("the tree", tree)].into_iter().chain(platform.initrd().map(|it| ("it", it)))
    {
        assert!(!kernel.overlaps(region), "the kernel is in {what}");
    }
    assert!(platform.memory.iter().any(|ram| ram.contains(kernel)));
    check_stage_2(random, &platform, &map, kernel, frames);
    check_edit(&platform, &map, kernel, &blob);
    Ok(())
}

/// The end of Exeunt's memory that the host may read.
fn black_box(map: &AddressMap) -> Region {
    Region { start: map.exeunt.end - 0x1_0000, ..map.exeunt }
}

/// Builds stage 2, and looks at it where it matters.
fn check_stage_2(random: &mut Random, platform: &Platform, map: &AddressMap, kernel: Region, frames: Option<Gicv2>) {
    let mut memory = Memory::new();
    memory.limit = TABLES;
    let Ok(stage2) = map.stage2(&mut memory, platform.highest, black_box(map)) else { return };
    let query = |ipa| {
        let found = stage2.query(&memory, ipa)?;
        assert_eq!(found.output, ipa, "identity");
        Some(found.attributes)
    };
    for ipa in [kernel.start.next_multiple_of(PAGE_SIZE), (kernel.end - 1) & !(PAGE_SIZE - 1)] {
        // The kernel's last page may be one that is not all RAM.
        let page = Region { start: ipa, end: ipa.saturating_add(PAGE_SIZE) };
        if map.memory.iter().any(|ram| ram.contains(page)) {
            assert_eq!(query(ipa), Some(Attributes::Executable), "{ipa:#x} in {kernel}");
        }
    }
    for ipa in [map.exeunt.start, black_box(map).start - 1] {
        assert_eq!(query(ipa), None);
    }
    for ipa in [black_box(map).start, map.exeunt.end - 1] {
        assert_eq!(query(ipa), Some(Attributes::ReadOnly));
    }
    if let Some(frames) = frames {
        assert_eq!(query(frames.distributor), Some(Attributes::ExecuteNever));
    }
    let ram = HostRam::new(platform, map.exeunt, [kernel, map.tree, platform.initrd().unwrap_or_default()]);
    assert!(ram.contains(kernel.start));
    for _ in 0..4 {
        let address = random.edge();
        assert!(!ram.is_open(address) || ram.contains(address));
        assert!(!ram.contains(address) || !map.exeunt.has(address));
    }
}

/// Edits the tree in as much room as it has, and reads the result.
fn check_edit(platform: &Platform, map: &AddressMap, kernel: Region, blob: &Blob) {
    let room = map.room_for_tree(platform, kernel);
    assert!(room.start == map.tree.start && room.end >= map.tree.end);
    assert!(room == map.tree || room.size() <= MAX_SIZE as u64 && map.reaches(room));
    for other in [map.exeunt, kernel].into_iter().chain(platform.initrd()) {
        assert!(!room.overlaps(other), "the tree would grow into {other}");
    }
    let mut edited = blob.resized(blob.len() + 400.min((room.size() - map.tree.size()) as usize));
    let edits = Edits { arguments: b"kvm-arm.mode=nvhe", ..Edits::new(platform, map.exeunt, black_box(map)) };
    let Ok(used) = edit(&mut edited, platform, &edits) else { return };
    assert!(used <= edited.len());
    let mut again = Platform::EMPTY;
    scan(&edited, &mut again).unwrap();
    assert_eq!(*again.memory, *platform.memory);
    assert_eq!(*again.cpus, *platform.cpus);
    assert_eq!((again.initrd(), again.kernel), (platform.initrd(), None));
    let kept = Region { end: black_box(map).start, ..map.exeunt };
    assert!(again.no_map.iter().any(|region| region.contains(kept)));
}

/// The first case, and how many there are.
fn which_cases() -> (u64, u64) {
    let few = u64::from(cases(3000, 3).cases);
    let Ok(wanted) = std::env::var("EXEUNT_FUZZ") else { return (0, few) };
    let number = |text: &str| text.trim().parse().expect("EXEUNT_FUZZ=COUNT or EXEUNT_FUZZ=FIRST,COUNT");
    match wanted.split_once(',') {
        Some((first, count)) => (number(first), number(count)),
        None => (0, number(&wanted)),
    }
}

#[test]
fn fuzz() {
    let bases = bases();
    let (first, count) = which_cases();
    let mut started = 0;
    for case in first..first + count {
        let base = &bases[(case % bases.len() as u64) as usize];
        let done = catch_unwind(AssertUnwindSafe(|| start_everything(&mut Random(case), base)));
        match done.unwrap_or_else(|_| panic!("case {case} fails: EXEUNT_FUZZ={case},1 repeats it")) {
            Ok(()) => started += 1,
            // It can be read, whatever it is.
            Err(refusal) => assert!(!refusal.to_string().is_empty()),
        }
    }
    // A tenth at least comes through, or the damage is so coarse that nothing behind the scan is seen.
    assert!(count < 1000 || started > count / 10, "{started} of {count}");
}
