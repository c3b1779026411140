//! A stage 2 that is hidden and shown again as a whole, and made executable in places, by CPUs that do not wait for
//! each other.

use std::cell::{Cell, RefCell, RefMut};

use super::memory::Memory;
use super::model::{Bench, GIB, KIB, MIB, STAGE_2_ATTRIBUTES, SecondStage, Step, Subject};
use super::walker::{Fault, S2};
use crate::paging::TableMemory;
use crate::paging::stage2::{Attributes, Hidden};

/// QEMU's virt with 512 MiB of RAM: blocks at the root, which is at level 1 or at level 0, and at level 2.
fn virt(ipa_bits: u32) -> Bench<SecondStage> {
    let mut bench = Bench::new(Memory::new(), |memory| SecondStage::new(memory, ipa_bits, 6));
    let [(_, ram), (_, other), _] = STAGE_2_ATTRIBUTES;
    // Not all of 48 bits: 262,144 blocks say no more than these.
    let end = 1 << ipa_bits.min(41);
    bench.apply(Step { range: 0..end, to: Some((0, other)) }).unwrap();
    bench.apply(Step { range: GIB..GIB + 512 * MIB, to: Some((GIB, ram)) }).unwrap();
    bench.apply(Step { range: GIB + 2 * MIB..GIB + 4 * MIB, to: None }).unwrap();
    bench
}

/// An address in each kind of entry that is there: RAM in a block of level 2, what is not RAM beside it and at level 1.
const MAPPED: [u64; 4] = [0, GIB, GIB + 600 * MIB + 4 * KIB, 300 * GIB];

/// Exeunt's 2 MiB.
const HOLE: u64 = GIB + 2 * MIB + 4 * KIB;

/// Whether a walk for `ipa` ends at the root, with a translation fault of its level. The walker would have invalid
/// descriptors be zero; hardware ignores what else they hold, and it is what comes back.
fn ends_at_the_root(bench: &Bench<SecondStage>, memory: &Memory, ipa: u64) -> bool {
    let (.., root) = bench.subject.root();
    match bench.subject.walk(memory, ipa) {
        Err(Fault::Translation(level)) => level == root,
        Err(Fault::Malformed { level, descriptor, .. }) => level == root && descriptor % 2 == 0,
        _ => false,
    }
}

#[test]
fn what_is_hidden_ends_at_the_root_and_comes_back_as_it_was() {
    for (ipa_bits, root_level) in [(32, 1), (40, 1), (44, 0), (48, 0)] {
        let mut bench = virt(ipa_bits);
        let stage2 = bench.subject.tables;
        let before = bench.memory.clone();
        for round in 0..2 {
            stage2.hide(&mut bench.memory);
            for ipa in MAPPED.into_iter().chain([HOLE]).filter(|&ipa| ipa < 1 << ipa_bits) {
                assert!(ends_at_the_root(&bench, &bench.memory, ipa), "round {round}, {ipa:#x}");
                assert_eq!(stage2.query(&bench.memory, ipa), None);
                assert_eq!(stage2.hidden(&bench.memory, root_level as i8, ipa), Hidden::Now);
                assert!(!stage2.allow_execution(&mut bench.memory, ipa));
            }
            stage2.show(&mut bench.memory);
            bench.check_probes();
        }
        for table in bench.reachable() {
            for address in (table..table + 4096).step_by(8) {
                assert_eq!(bench.memory.load(address), before.load(address), "{address:#x}");
            }
        }
    }
}

#[test]
fn a_fault_is_a_leaves_only_at_the_level_of_the_root_and_where_there_is_memory() {
    for (ipa_bits, root_level) in [(40, 1_i8), (48, 0)] {
        let bench = virt(ipa_bits);
        let hidden = |level, ipa| bench.subject.tables.hidden(&bench.memory, level, ipa);
        for ipa in MAPPED {
            assert_eq!(hidden(root_level, ipa), Hidden::Before);
            for level in (-1..=3).filter(|&level| level != root_level) {
                assert_eq!(hidden(level, ipa), Hidden::Never, "level {level}");
            }
        }
        // The hole is a hole further down; beyond the IPA size the level is that of the root, too.
        assert_eq!(hidden(2, HOLE), Hidden::Never);
        for ipa in [1 << ipa_bits, (1 << ipa_bits) + GIB, 1 << 48, u64::MAX] {
            assert_eq!(hidden(root_level, ipa), Hidden::Never, "{ipa:#x}");
        }
    }
    let bench = virt(48);
    assert_eq!(bench.subject.tables.hidden(&bench.memory, 0, 1 << 47), Hidden::Never, "nothing is mapped there");
}

#[test]
fn execution_is_allowed_in_the_block_that_translates_the_address_and_nowhere_else() {
    let mut bench = virt(40);
    let stage2 = bench.subject.tables;
    for ipa in [GIB, HOLE, 1 << 40, u64::MAX] {
        assert!(!stage2.allow_execution(&mut bench.memory, ipa), "{ipa:#x} is RAM, or nothing");
    }
    bench.check_probes();
    let [(_, ram), ..] = STAGE_2_ATTRIBUTES;
    for (ipa, block) in [
        (GIB + 600 * MIB + 4 * KIB, GIB + 600 * MIB..GIB + 602 * MIB),
        (300 * GIB + 7, 300 * GIB..301 * GIB),
        (0, 0..GIB),
    ] {
        let used = bench.memory.used();
        assert!(stage2.allow_execution(&mut bench.memory, ipa));
        assert!(!stage2.allow_execution(&mut bench.memory, ipa), "nothing is left to do");
        assert_eq!(bench.memory.used(), used);
        bench.model.add(Step { to: Some((block.start, ram)), range: block });
        for ipa in bench.model.probes() {
            let found = bench.subject.walk(&bench.memory, ipa).ok().map(|found| (found.pa, found.permissions));
            assert_eq!(found, bench.model.expect(ipa), "{ipa:#x}");
        }
    }
}

/// Memory in which another CPU does something between two accesses of this one.
struct Shared<'a> {
    memory: RefCell<Memory>,
    /// Accesses until then.
    left: Cell<usize>,
    other: &'a dyn Fn(&mut Memory),
}

impl Shared<'_> {
    fn memory(&self) -> RefMut<'_, Memory> {
        let left = self.left.get();
        self.left.set(left.wrapping_sub(1));
        let mut memory = self.memory.borrow_mut();
        if left == 0 {
            (self.other)(&mut memory);
        }
        memory
    }
}

impl TableMemory for Shared<'_> {
    fn alloc(&mut self, _: usize) -> Option<u64> {
        panic!("nothing here needs a table");
    }
    fn read(&self, table: u64, index: usize) -> u64 {
        self.memory().read(table, index)
    }
    fn write(&mut self, table: u64, index: usize, descriptor: u64) {
        self.memory().write(table, index, descriptor);
    }
    fn replace(&mut self, table: u64, index: usize, old: u64, new: u64) -> bool {
        self.memory().replace(table, index, old, new)
    }
}

/// Has one CPU do `this` and another `other`, between each two accesses of `this` once, and gives what comes of it to
/// `check`.
fn interleave(
    bench: &Bench<SecondStage>,
    this: impl Fn(&mut Shared),
    other: impl Fn(&mut Memory),
    mut check: impl FnMut(Memory),
) {
    for accesses in 0.. {
        let mut shared =
            Shared { memory: RefCell::new(bench.memory.clone()), left: Cell::new(accesses), other: &other };
        this(&mut shared);
        let is_over = shared.left.get() < usize::MAX / 2;
        if is_over {
            assert!(accesses > 1, "it never came to that");
            return;
        }
        check(shared.memory.into_inner());
    }
}

/// Whether the tables say of every probe what the model says, except that execution may be allowed already.
fn same_but_for_execution(bench: &Bench<SecondStage>, memory: &Memory) {
    for ipa in bench.model.probes() {
        let found = bench.subject.walk(memory, ipa).ok().map(|found| (found.pa, found.permissions));
        let expected = bench.model.expect(ipa);
        let allowed = expected.map(|(pa, permissions)| (pa, S2 { execute: true, ..permissions }));
        assert!(found == expected || found == allowed, "{ipa:#x}: {found:x?}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "five hundred rounds over a table")]
fn nothing_that_hides_or_shows_meets_what_allows_execution() {
    let bench = virt(32);
    let stage2 = bench.subject.tables;
    let is_hidden = |memory: &Memory| [0, GIB, 3 * GIB].iter().all(|&ipa| ends_at_the_root(&bench, memory, ipa));
    for ipa in [0, 3 * GIB, GIB + 600 * MIB] {
        let allow = |memory: &mut Memory| {
            stage2.allow_execution(memory, ipa);
        };
        interleave(
            &bench,
            |memory| stage2.hide(memory),
            allow,
            |mut memory| {
                assert!(is_hidden(&memory), "{ipa:#x}");
                stage2.show(&mut memory);
                same_but_for_execution(&bench, &memory);
            },
        );
        let mut hidden = virt(32);
        stage2.hide(&mut hidden.memory);
        interleave(&hidden, |memory| stage2.show(memory), allow, |memory| same_but_for_execution(&bench, &memory));
        // The other way round: what allows execution finds the root hidden, or hidden and shown, between two accesses.
        let allow = |memory: &mut Shared| {
            stage2.allow_execution(memory, ipa);
        };
        interleave(
            &bench,
            allow,
            |memory| stage2.hide(memory),
            |mut memory| {
                assert!(is_hidden(&memory), "{ipa:#x}");
                stage2.show(&mut memory);
                same_but_for_execution(&bench, &memory);
            },
        );
    }
}

#[test]
fn a_range_is_all_that_says_the_same_hidden_or_not() {
    for ipa_bits in [32, 36, 40] {
        let mut bench = virt(ipa_bits);
        let stage2 = bench.subject.tables;
        let end = 1 << ipa_bits;
        let (ram, other) = (Some(Attributes::Executable), Some(Attributes::ExecuteNever));
        let wanted = [
            (0..GIB, other),
            (GIB..GIB + 2 * MIB, ram),
            (GIB + 2 * MIB..GIB + 4 * MIB, None),
            (GIB + 4 * MIB..GIB + 512 * MIB, ram),
            (GIB + 512 * MIB..end, other),
        ];
        for hidden in [false, true] {
            if hidden {
                stage2.hide(&mut bench.memory);
            }
            for (range, attributes) in &wanted {
                for ipa in [range.start, range.start + 4 * KIB + 8, range.end - 1] {
                    assert_eq!(stage2.range(&bench.memory, ipa), Some((range.clone(), *attributes)), "{ipa:#x}");
                }
            }
            assert_eq!(stage2.range(&bench.memory, end), None);
        }
    }
}
