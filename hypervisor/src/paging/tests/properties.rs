//! Random sequences of changes, compared with the model by the independent walker.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::config;
use super::memory::{Event, Memory};
use super::model::{
    Bench, FirstStage, GIB, KIB, MIB, STAGE_1_ATTRIBUTES, STAGE_2_ATTRIBUTES, SecondStage, Step, Subject, TIB,
};
use super::walker::{S1, S2};
use crate::paging::live::Live;
use crate::paging::{Error, TableMemory};

/// Sizes in bits by ID_AA64MMFR0_EL1.PARange.
const CPU_BITS: [u32; 8] = [32, 36, 40, 42, 44, 48, 52, 56];

/// Longest ranges that are tried where input and output have the same offset in a block of each size. All of a 48-bit
/// space, or gigabytes in small pages, would take too long and say nothing new.
const LONGEST: [(u64, u64); 3] = if cfg!(miri) {
    [(GIB, 70 * GIB), (2 * MIB, 96 * MIB), (4 * KIB, 256 * KIB)]
} else {
    [(GIB, TIB + 3 * GIB), (2 * MIB, 3 * GIB), (4 * KIB, 5 * MIB)]
};

/// PARange and an IPA size that it allows.
fn cpu() -> impl Strategy<Value = (u64, u32)> {
    (0..CPU_BITS.len()).prop_flat_map(|parange| (Just(parange as u64), 32..=CPU_BITS[parange].min(48)))
}

/// Under Miri, fewer steps.
fn few(steps: usize) -> usize {
    if cfg!(miri) { steps.min(3) } else { steps }
}

/// A distance made of pieces of all block sizes, most often of few.
fn distance() -> impl Strategy<Value = u64> {
    let some = |most: u64| prop_oneof![3 => Just(0), 2 => 1..=3_u64, 1 => 0..=most];
    let most = if cfg!(miri) { 50 } else { 600 };
    (some(1), some(most), some(most), some(most))
        .prop_map(|(huge, giant, large, small)| huge * 512 * GIB + giant % 70 * GIB + large * 2 * MIB + small * 4 * KIB)
}

/// A range in an address space of `bits` bits. Ranges lie around few places, so that they overlap.
fn range(bits: u32) -> impl Strategy<Value = Range<u64>> {
    let end = 1_u64 << bits;
    let (_, longest) = LONGEST[0];
    let place = prop_oneof![1 => Just(0), 2 => Just(GIB), 1 => Just(end / 2), 1 => Just(end)];
    (place, distance(), distance(), any::<(bool, bool)>()).prop_map(
        move |(place, a, b, (up_a, up_b)): (u64, u64, u64, (bool, bool))| {
            let point = |up: bool, by: u64| if up { (place + by).min(end) } else { place.saturating_sub(by) };
            let (a, b) = (point(up_a, a), point(up_b, b));
            let (start, last) = (a.min(b), a.max(b));
            if place == end { last.saturating_sub(longest).max(start)..last } else { start..last.min(start + longest) }
        },
    )
}

fn stage2_step(bits: u32) -> impl Strategy<Value = Step<S2>> {
    // Mostly RAM, so that neighbours are often alike.
    let [(_, ram), (_, other), (_, read_only)] = STAGE_2_ATTRIBUTES;
    let to = prop_oneof![3 => Just(Some(ram)), 2 => Just(Some(other)), 2 => Just(Some(read_only)), 2 => Just(None)];
    (range(bits), to).prop_map(|(range, to)| Step { to: to.map(|to| (range.start, to)), range })
}

fn stage2_case(steps: usize) -> impl Strategy<Value = ((u64, u32), Vec<Step<S2>>)> {
    cpu().prop_flat_map(move |cpu| (Just(cpu), vec(stage2_step(cpu.1), 1..=few(steps))))
}

/// PARange, and steps for EL2's stage 1: output addresses equal to, or elsewhere than, the virtual ones.
fn stage1_case(steps: usize) -> impl Strategy<Value = (u64, Vec<Step<S1>>)> {
    (2..CPU_BITS.len()).prop_flat_map(move |parange| {
        let pa_end = 1_u64 << CPU_BITS[parange].min(48);
        let pa = prop_oneof![
            2 => Just(None),
            2 => range(CPU_BITS[parange].min(48)).prop_map(|range| Some(range.start)),
            1 => (0..3_u64).prop_map(|giant| Some(giant * GIB)),
            1 => Just(Some(u64::MAX)),
        ];
        let to = prop_oneof![5 => (0..STAGE_1_ATTRIBUTES.len()).prop_map(Some), 2 => Just(None)];
        let step = (range(48), pa, to).prop_map(move |(mut range, pa, to)| {
            let mut start = 0;
            for (alignment, longest) in LONGEST {
                let length = (range.end - range.start).min(longest).min(pa_end);
                range.end = range.start + length;
                start = pa.unwrap_or(range.start).min(pa_end - length);
                if start.abs_diff(range.start) % alignment == 0 {
                    break;
                }
            }
            Step { range, to: to.map(|index| (start, STAGE_1_ATTRIBUTES[index].1)) }
        });
        (Just(parange as u64), vec(step, 1..=few(steps)))
    })
}

fn stage2_bench((parange, ipa_bits): (u64, u32)) -> Bench<SecondStage> {
    Bench::new(Memory::new(), |memory| SecondStage::new(memory, ipa_bits, parange))
}

fn stage1_bench(parange: u64) -> Bench<FirstStage> {
    Bench::new(Memory::new(), |memory| FirstStage::new(memory, parange))
}

/// Makes all changes and compares after each.
fn follows_the_model<S: Subject>(mut bench: Bench<S>, steps: Vec<Step<S::P>>) {
    for step in steps {
        bench.apply(step).unwrap();
        bench.check_probes();
    }
    assert_eq!(bench.reachable().len(), bench.memory.used(), "a table was lost");
}

/// Makes all changes and compares the whole address space at the end; then repeats the last change, which must need
/// nothing; then unmaps everything, which must give all tables back.
fn sweeps_clean<S: Subject>(mut bench: Bench<S>, steps: &[Step<S::P>]) {
    for step in steps {
        bench.apply(step.clone()).unwrap();
    }
    bench.sweep();

    let tables = bench.memory.clone();
    bench.memory.events = Some(Vec::new());
    bench.apply(steps.last().unwrap().clone()).unwrap();
    for event in bench.memory.events.take().unwrap() {
        let Event::Write { table, index, descriptor } = event else { panic!("{event:?} for what was there already") };
        assert_eq!(tables.read(table, index), descriptor);
    }

    let bits = bench.subject.bits();
    bench.apply(Step { range: 0..1 << bits, to: None }).unwrap();
    assert_eq!(bench.memory.used(), bench.subject.root().1);
    bench.check_probes();
}

/// Makes all changes with ever so few tables left: each either happens or leaves everything as it was.
fn survives_shortage<S: Subject>(mut bench: Bench<S>, steps: Vec<(Step<S::P>, usize)>) {
    for (step, spare) in steps {
        let before = bench.memory.clone();
        let reachable = bench.reachable();
        bench.memory.limit = bench.memory.used() + spare;
        match bench.apply(step) {
            Ok(()) => (),
            Err(Error::OutOfTables) => {
                assert_eq!(bench.memory.used(), before.used(), "a table was lost");
                assert_eq!(bench.reachable(), reachable);
                for address in reachable.into_iter().flat_map(|table| (table..table + 4096).step_by(8)) {
                    assert_eq!(bench.memory.load(address), before.load(address), "descriptor at {address:#x}");
                }
            }
            Err(error) => panic!("{error}"),
        }
        bench.check_probes();
    }
}

/// Makes changes and looks at every single write: what a walk finds in between is what was there before or what is
/// there after, and the promises of the module's text hold.
fn changes_atomically<S: Subject>(mut bench: Bench<S>, steps: Vec<Step<S::P>>) {
    for step in steps {
        let before = bench.memory.clone();
        let old_model = bench.model.clone();
        let linked: BTreeSet<u64> = bench.reachable().into_iter().collect();
        bench.memory.events = Some(Vec::new());
        bench.apply(step).unwrap();
        let events = bench.memory.events.take().unwrap();

        let probes: Vec<u64> = bench.model.probes().into_iter().step_by(5).collect();
        let after = std::mem::replace(&mut bench.memory, before);
        let (root, root_pages, _) = bench.subject.root();
        let mut written = BTreeSet::new();
        let mut freed = false;
        let mut previous = None;
        for event in events {
            match event {
                Event::Alloc { table } => {
                    assert!(!freed, "a table was taken after one was freed");
                    assert_eq!(bench.memory.alloc(1), Some(table));
                }
                Event::Free { table } => {
                    freed = true;
                    bench.memory.free(table);
                }
                Event::Fence => bench.memory.fence(),
                Event::Invalidate => panic!("nobody has asked for that"),
                Event::Write { table, index, descriptor } => {
                    let old = bench.memory.read(table, index);
                    bench.memory.write(table, index, descriptor);
                    let is_root = (root..root + root_pages as u64 * 4096).contains(&table);
                    let is_linked = is_root || linked.contains(&table);
                    if is_linked {
                        assert!(written.insert((table, index)), "a linked descriptor was written twice");
                        assert!(
                            !links_a_table(descriptor) || previous == Some(Event::Fence),
                            "no fence before a table was linked"
                        );
                    } else {
                        assert_eq!(old % 2, 0, "a new table's valid descriptor was overwritten");
                    }
                    if is_linked && old != descriptor {
                        for &probe in &probes {
                            let found = bench.subject.walk(&bench.memory, probe).ok().map(|f| (f.pa, f.permissions));
                            let allowed = [old_model.expect(probe), bench.model.expect(probe)];
                            assert!(allowed.contains(&found), "{probe:#x} is {found:x?} in between, not {allowed:x?}");
                        }
                    }
                }
            }
            previous = Some(event);
        }
        bench.memory = after;
    }
}

/// Makes changes while other CPUs walk, and looks at every single write: a walk finds what was there before, what is
/// there after, or a translation fault; no valid descriptor becomes another one but for its permissions; and a table is
/// free only when all TLBs have forgotten what led to it.
fn changes_live(mut bench: Bench<SecondStage>, steps: Vec<Step<S2>>) {
    for step in steps {
        let before = bench.memory.clone();
        let old_model = bench.model.clone();
        bench.memory.events = Some(Vec::new());
        let shared = RefCell::new(std::mem::replace(&mut bench.memory, Memory::new()));
        let invalidate = || shared.borrow_mut().record(Event::Invalidate);
        let live = &mut Live::new(&shared, invalidate);
        match step.to {
            Some((_, permissions)) => {
                let (attributes, _) = STAGE_2_ATTRIBUTES.into_iter().find(|(_, found)| *found == permissions).unwrap();
                bench.subject.tables.map(live, step.range.clone(), attributes).unwrap();
            }
            None => bench.subject.tables.unmap(live, step.range.clone()).unwrap(),
        }
        bench.model.add(step);
        let mut after = shared.into_inner();
        let events = after.events.take().unwrap();
        bench.memory = before;
        let probes: Vec<u64> = bench.model.probes().into_iter().step_by(5).collect();
        let mut linked: BTreeSet<u64> = bench.reachable().into_iter().collect();
        let mut forgotten = true;
        for event in events {
            match event {
                Event::Alloc { table } => assert_eq!(bench.memory.alloc(1), Some(table)),
                Event::Free { table } => {
                    assert!(forgotten, "a table is free that a walk may still read");
                    bench.memory.free(table);
                }
                Event::Fence => {}
                Event::Invalidate => forgotten = true,
                Event::Write { table, index, descriptor } => {
                    let old = bench.memory.read(table, index);
                    bench.memory.write(table, index, descriptor);
                    if linked.contains(&table) || linked.contains(&(table + index as u64 / 512 * 4096)) {
                        let differs = (old ^ descriptor) & !(0b11 << 6 | 0b11 << 53) != 0;
                        assert!(
                            old % 2 == 0 || descriptor % 2 == 0 || !differs,
                            "{old:#x} became {descriptor:#x} at once"
                        );
                        assert!(forgotten || descriptor % 2 == 0, "no break before the make");
                        forgotten &= old % 2 == 0 || !differs;
                        for &probe in &probes {
                            let found = bench.subject.walk(&bench.memory, probe).ok().map(|f| (f.pa, f.permissions));
                            let allowed = [None, old_model.expect(probe), bench.model.expect(probe)];
                            assert!(allowed.contains(&found), "{probe:#x} is {found:x?} in between, not {allowed:x?}");
                        }
                        linked = bench.reachable().into_iter().collect();
                    }
                }
            }
        }
        bench.memory = after;
        bench.check_probes();
        assert_eq!(bench.reachable().len(), bench.memory.used(), "a table was lost");
    }
}

/// Whether a descriptor points to a table: pages have AF (bit 10), tables nothing there.
fn links_a_table(descriptor: u64) -> bool {
    descriptor % 4 == 3 && descriptor >> 10 & 1 == 0
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn stage_2_translates_as_the_model_says((cpu, steps) in stage2_case(6)) {
        follows_the_model(stage2_bench(cpu), steps);
    }

    #[test]
    fn stage_1_translates_as_the_model_says((parange, steps) in stage1_case(6)) {
        follows_the_model(stage1_bench(parange), steps);
    }

    #[test]
    fn stage_2_without_tables_left_stays_as_it_was(
        (cpu, steps) in stage2_case(6), spare in vec(0..6_usize, 6),
    ) {
        survives_shortage(stage2_bench(cpu), steps.into_iter().zip(spare).collect());
    }

    #[test]
    fn stage_1_without_tables_left_stays_as_it_was(
        (parange, steps) in stage1_case(6), spare in vec(0..6_usize, 6),
    ) {
        survives_shortage(stage1_bench(parange), steps.into_iter().zip(spare).collect());
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn stage_2_is_right_everywhere_and_gives_all_tables_back((cpu, steps) in stage2_case(8)) {
        sweeps_clean(stage2_bench(cpu), &steps);
    }

    #[test]
    fn stage_1_is_right_everywhere_and_gives_all_tables_back((parange, steps) in stage1_case(5)) {
        sweeps_clean(stage1_bench(parange), &steps);
    }

    #[test]
    fn stage_2_never_shows_anything_in_between((cpu, steps) in stage2_case(4)) {
        changes_atomically(stage2_bench(cpu), steps);
    }

    #[test]
    fn stage_2_breaks_before_it_makes((cpu, steps) in stage2_case(4)) {
        changes_live(stage2_bench(cpu), steps);
    }

    #[test]
    fn stage_1_never_shows_anything_in_between((parange, steps) in stage1_case(3)) {
        changes_atomically(stage1_bench(parange), steps);
    }
}
