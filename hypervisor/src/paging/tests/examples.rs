//! Tests of the translation tables that read as sentences: real memory maps, corners and errors.

use super::memory::Memory;
use super::model::{Bench, FirstStage, GIB, KIB, MIB, STAGE_1_ATTRIBUTES, SecondStage, Step, Subject, TIB};
use super::thinned;
use super::walker::{self, Kind, S2};
use crate::paging::registers::PaRange;
use crate::paging::stage1::Stage1;
use crate::paging::stage2::{Attributes, Layout, Stage2};
use crate::paging::{Error, Mapping, TableMemory, stage1};

const RAM: S2 = S2 { kind: Kind::NormalWriteBackInnerShareable, read: true, write: true, execute: true };
const OTHER: S2 = S2 { execute: false, ..RAM };

/// ID_AA64MMFR0_EL1.PARange of a cortex-a53: 40 bits.
const A53: u64 = 2;
/// ID_AA64MMFR0_EL1.PARange of a cortex-a57: 44 bits.
const A57: u64 = 4;
/// ID_AA64MMFR0_EL1.PARange of QEMU's max: 52 bits.
const MAX: u64 = 6;

fn layout(ipa_bits: u32, parange: u64) -> Layout {
    Layout::new(ipa_bits, PaRange::from_id_aa64mmfr0(parange)).unwrap()
}

fn second_stage(ipa_bits: u32, parange: u64) -> Bench<SecondStage> {
    Bench::new(Memory::new(), |memory| SecondStage::new(memory, ipa_bits, parange))
}

fn first_stage() -> Bench<FirstStage> {
    Bench::new(Memory::new(), |memory| FirstStage::new(memory, A57))
}

fn map(start: u64, end: u64, to: S2) -> Step<S2> {
    Step { range: start..end, to: Some((start, to)) }
}

fn unmap<P>(start: u64, end: u64) -> Step<P> {
    Step { range: start..end, to: None }
}

/// The host's view of QEMU's virt machine: only RAM executable, Exeunt's 2 MiB a hole.
fn virt(bench: &mut Bench<SecondStage>, ram: u64) {
    bench.apply(map(0, 1 << bench.subject.bits(), OTHER)).unwrap();
    bench.apply(map(GIB, GIB + ram, RAM)).unwrap();
    bench.apply(unmap(GIB + 2 * MIB, GIB + 4 * MIB)).unwrap();
}

#[test]
fn qemu_virt_with_64_gib_takes_three_tables() {
    let mut bench = second_stage(40, A57);
    virt(&mut bench, 64 * GIB);
    assert_eq!(bench.subject.tables.vtcr_el2(), 0x8002_3558);
    assert_eq!(bench.memory.used(), 3, "two concatenated level-1 tables, one level-2 table");
    bench.sweep();
    assert_eq!(bench.check(64 * GIB), 1, "RAM in 1 GiB blocks");
    assert_eq!(bench.check(GIB), 2);
    assert_eq!(bench.check(512 * GIB), 1, "the high PCIe window");
}

#[test]
fn a_machine_with_one_tebibyte_of_ram_is_mapped() {
    for (ipa_bits, parange, tables) in thinned([(41, A57, 5), (44, A57, 5), (48, MAX, 5)], 2) {
        let mut bench = second_stage(ipa_bits, parange);
        bench.apply(map(GIB, GIB + TIB, RAM)).unwrap();
        bench.apply(unmap(GIB + 2 * MIB, GIB + 4 * MIB)).unwrap();
        // Level 1: four concatenated tables. Level 0: the initial one and three below.
        assert_eq!(bench.memory.used(), tables, "IPA size {ipa_bits}");
        bench.sweep();
        assert_eq!(bench.check(TIB), 1);
    }
}

#[test]
fn small_ram_shares_a_level_2_table_with_devices() {
    let mut bench = second_stage(32, 0);
    virt(&mut bench, 512 * MIB);
    assert_eq!(bench.memory.used(), 2);
    bench.sweep();
}

#[test]
fn a_layout_fits_the_cpus_that_it_could_have_been_made_for() {
    for parange in 0..=7 {
        for ipa_bits in 32..=48 {
            let made_on = |parange| Layout::new(ipa_bits, PaRange::from_id_aa64mmfr0(parange));
            let layout = made_on(MAX).unwrap();
            assert_eq!(
                layout.fits(PaRange::from_id_aa64mmfr0(parange)),
                made_on(parange).is_ok(),
                "{ipa_bits} {parange}"
            );
        }
    }
    // A cortex-a53 beside a cortex-a57.
    assert!(!layout(44, A57).fits(PaRange::from_id_aa64mmfr0(A53)));
    assert!(layout(40, A57).fits(PaRange::from_id_aa64mmfr0(A53)));
}

#[test]
fn every_ipa_size_has_a_layout_where_the_cpu_allows_it() {
    for parange in 0..=7_u64 {
        let cpu_bits = [32, 36, 40, 42, 44, 48, 52, 56][parange as usize];
        for ipa_bits in 0..=64 {
            let layout = Layout::new(ipa_bits, PaRange::from_id_aa64mmfr0(parange));
            if !(32..=48).contains(&ipa_bits) || ipa_bits > cpu_bits {
                assert_eq!(layout, Err(Error::IpaSize { bits: ipa_bits }));
                continue;
            }
            let layout = layout.unwrap();
            assert_eq!(layout.ipa_bits(), ipa_bits);
            let (level, pages) = match ipa_bits {
                32..=39 => (1, 1),
                40 => (1, 2),
                41 => (1, 4),
                42 => (1, 8),
                43 => (1, 16),
                _ => (0, 1),
            };
            assert_eq!((layout.start_level(), layout.root_pages()), (level, pages), "IPA size {ipa_bits}");
            let empty = walker::stage2(layout.vtcr_el2(), 0x4001_0000, parange, (1 << ipa_bits) - 1, |_| 0);
            assert_eq!(empty, Err(walker::Fault::Translation(level.into())), "VTCR_EL2 is one that the CPU takes");
        }
    }
}

#[test]
fn the_last_page_of_every_ipa_size_can_be_mapped() {
    for ipa_bits in thinned(32..=48, 8) {
        let mut bench = second_stage(ipa_bits, MAX);
        let end = 1 << ipa_bits;
        bench.apply(map(end - 4 * KIB, end, RAM)).unwrap();
        bench.check_probes();
        bench.apply(unmap(end - GIB, end)).unwrap();
        bench.check_probes();
        bench.apply(map(end - 2 * MIB, end, OTHER)).unwrap();
        bench.check_probes();
    }
}

#[test]
fn a_whole_address_space_can_be_mapped_and_unmapped() {
    for ipa_bits in thinned([32, 39, 40, 43], 4) {
        let mut bench = second_stage(ipa_bits, MAX);
        bench.apply(map(0, 1 << ipa_bits, RAM)).unwrap();
        assert_eq!(bench.memory.used(), bench.subject.root().1, "blocks need no tables");
        bench.check_probes();
        bench.apply(unmap(0, 1 << ipa_bits)).unwrap();
        bench.check_probes();
    }
}

#[test]
fn a_stage_2_that_maps_everything_is_the_same_by_either_way() {
    for ipa_bits in thinned([32, 36, 39, 40, 41, 43, 44], 6) {
        let layout = layout(ipa_bits, MAX);
        let mut memory = Memory::new();
        let all = Stage2::all(&mut memory, layout, Attributes::ExecuteNever).unwrap();
        let mut other = Memory::new();
        let mut mapped = Stage2::new(&mut other, layout).unwrap();
        mapped.map(&mut other, 0..1 << ipa_bits, Attributes::ExecuteNever).unwrap();
        assert_eq!((memory.used(), all.vttbr_el2()), (other.used(), mapped.vttbr_el2()));
        let root = all.vttbr_el2();
        let tables = memory.used() as u64 * 4096;
        for address in (root..root + tables).step_by(8) {
            assert_eq!(memory.load(address), other.load(address), "{ipa_bits} bits, {address:#x}");
        }
    }
    let mut full = Memory::new();
    full.limit = 1;
    assert_eq!(Stage2::all(&mut full, layout(40, A57), Attributes::Executable).err(), Some(Error::OutOfTables));
    assert_eq!(Stage2::all(&mut full, layout(44, A57), Attributes::Executable).err(), Some(Error::OutOfTables));
}

#[test]
#[cfg_attr(miri, ignore = "writes 262144 descriptors")]
fn forty_eight_bits_of_ram_are_mapped_in_level_1_blocks() {
    let mut bench = second_stage(48, MAX);
    bench.apply(map(0, 1 << 48, RAM)).unwrap();
    assert_eq!(bench.memory.used(), 513);
    bench.check_probes();
    bench.apply(unmap(0, 1 << 48)).unwrap();
    assert_eq!(bench.memory.used(), 1);
}

#[test]
fn mapping_a_split_block_again_as_a_whole_frees_the_tables() {
    let mut bench = second_stage(40, A53);
    bench.apply(map(0, 4 * GIB, RAM)).unwrap();
    bench.apply(map(GIB + 12 * KIB, GIB + 16 * KIB, OTHER)).unwrap();
    assert_eq!(bench.memory.used(), 4);
    bench.sweep();
    bench.apply(map(0, 4 * GIB, RAM)).unwrap();
    assert_eq!(bench.memory.used(), 2);
    assert_eq!(bench.check(GIB + 12 * KIB), 1);
}

#[test]
fn nothing_is_split_for_what_is_there_already() {
    let mut bench = second_stage(40, A53);
    bench.apply(unmap(GIB + 4 * KIB, 2 * GIB - 4 * KIB)).unwrap();
    bench.apply(map(0, 4 * GIB, RAM)).unwrap();
    bench.apply(map(GIB + 12 * KIB, 3 * GIB + 8 * KIB, RAM)).unwrap();
    assert_eq!(bench.memory.used(), 2);
    bench.sweep();
    bench.apply(map(GIB + 12 * KIB, GIB + 16 * KIB, OTHER)).unwrap();
    assert_eq!(bench.memory.used(), 4, "other permissions are not the same");
}

#[test]
fn nothing_of_exeunts_is_both_writable_and_executable() {
    for (attributes, permissions) in STAGE_1_ATTRIBUTES {
        assert!(!(permissions.write && permissions.execute), "{attributes:?} is writable and executable");
    }
}

#[test]
fn exeunt_maps_its_own_sections() {
    let mut bench = first_stage();
    let base = GIB + 2 * MIB;
    let sections = [(0, 0x10), (0x10, 0x18), (0x18, 0x40)];
    for ((first, last), (_, permissions)) in sections.into_iter().zip(STAGE_1_ATTRIBUTES) {
        let range = base + first * 4 * KIB..base + last * 4 * KIB;
        bench.apply(Step { to: Some((range.start, permissions)), range }).unwrap();
    }
    let (_, device) = STAGE_1_ATTRIBUTES[3];
    bench.apply(Step { range: 0x900_0000..0x900_1000, to: Some((0x900_0000, device)) }).unwrap();
    bench.apply(unmap(base + 0x20 * 4 * KIB, base + 0x21 * 4 * KIB)).unwrap();
    bench.sweep();
    assert_eq!(bench.memory.used(), 6, "levels 0 and 1, and levels 2 and 3 twice");
}

#[test]
fn a_virtual_address_may_differ_from_the_physical_one() {
    let mut bench = first_stage();
    let (_, data) = STAGE_1_ATTRIBUTES[2];
    let mut level_of = |va: u64, pa: u64, size: u64| {
        bench.apply(Step { range: va..va + size, to: Some((pa, data)) }).unwrap();
        bench.check_probes();
        bench.check(va)
    };
    assert_eq!(level_of(8 * GIB, 3 * GIB, 2 * GIB), 1);
    assert_eq!(level_of(16 * GIB, 3 * GIB + 2 * MIB, GIB), 2);
    assert_eq!(level_of(32 * GIB, 3 * GIB + 4 * KIB, 4 * MIB), 3);
    assert_eq!(level_of(0, (1 << 44) - GIB, GIB), 1, "up to the top of physical memory");
    assert_eq!(level_of((1 << 48) - 4 * KIB, 0, 4 * KIB), 3, "from the top of virtual memory");
}

#[test]
fn bad_arguments_are_refused_and_change_nothing() {
    let mut memory = Memory::new();
    let mut stage2 = Stage2::new(&mut memory, layout(40, A57)).unwrap();
    let attempts = [
        (0x1001, 0x3000, Error::Misaligned { address: 0x1001 }),
        (0x1000, 0x2800, Error::Misaligned { address: 0x2800 }),
        (0x2000, 0x1000, Error::Inverted),
        (!0xfff, 0, Error::Inverted),
        (0, (1 << 40) + 0x1000, Error::InputSize { end: (1 << 40) + 0x1000 }),
        (1 << 40, (1 << 40) + 0x1000, Error::InputSize { end: (1 << 40) + 0x1000 }),
        (0x1000, !0xfff, Error::InputSize { end: !0xfff }),
    ];
    for (start, end, error) in attempts {
        assert_eq!(stage2.map(&mut memory, start..end, Attributes::Executable), Err(error), "{start:#x}..{end:#x}");
        assert_eq!(stage2.unmap(&mut memory, start..end), Err(error), "{start:#x}..{end:#x}");
    }
    let mut stage1 = Stage1::new(&mut memory, PaRange::from_id_aa64mmfr0(A53)).unwrap();
    let pages = [
        (0x800, Error::Misaligned { address: 0x800 }),
        ((1 << 40) - 0x1000, Error::OutputSize { start: (1 << 40) - 0x1000 }),
        (1 << 40, Error::OutputSize { start: 1 << 40 }),
        (!0xfff, Error::OutputSize { start: !0xfff }),
    ];
    for (pa, error) in pages {
        assert_eq!(stage1.map(&mut memory, 0..0x2000, pa, stage1::Attributes::Data), Err(error), "{pa:#x}");
    }
    assert_eq!(memory.used(), 3, "the initial tables only");
}

#[test]
fn an_empty_range_is_no_error_and_no_change() {
    let mut bench = second_stage(40, A57);
    bench.apply(map(GIB, 2 * GIB, RAM)).unwrap();
    for at in [0, GIB, GIB + 4 * KIB, 1 << 40] {
        bench.apply(map(at, at, OTHER)).unwrap();
        bench.apply(unmap(at, at)).unwrap();
    }
    assert_eq!(bench.memory.used(), 2);
    bench.sweep();
}

#[test]
fn a_lookup_outside_of_the_address_space_finds_nothing() {
    let mut memory = Memory::new();
    let mut stage2 = Stage2::new(&mut memory, layout(36, A53)).unwrap();
    stage2.map(&mut memory, 0..1 << 36, Attributes::Executable).unwrap();
    let last = Mapping { output: (1 << 36) - 1, level: 1, attributes: Attributes::Executable };
    assert_eq!(stage2.query(&memory, (1 << 36) - 1), Some(last));
    assert_eq!(last.size(), GIB);
    for ipa in [1 << 36, 1 << 40, 1 << 48, u64::MAX] {
        assert_eq!(stage2.query(&memory, ipa), None, "{ipa:#x}");
    }
}

#[test]
fn memory_that_cannot_hold_tables_is_refused() {
    /// Gives out one address, whatever is asked for.
    struct Liar(u64);
    impl TableMemory for Liar {
        fn alloc(&mut self, _: usize) -> Option<u64> {
            Some(self.0)
        }
        fn read(&self, _: u64, _: usize) -> u64 {
            0
        }
        fn write(&mut self, table: u64, _: usize, _: u64) {
            panic!("written at {table:#x}");
        }
    }
    for address in [0x4000_0800, 0x4000_1000, 1 << 40, !0xffff] {
        let result = Stage2::new(&mut Liar(address), layout(40, A57)).map(|_| ());
        assert_eq!(result, Err(Error::TableAddress { address }), "two tables at {address:#x}");
    }
    assert!(Stage2::new(&mut Liar(0x4000_2000), layout(40, A57)).is_ok());
    let mut stage2 = Stage2::new(&mut Memory::new(), layout(40, A57)).unwrap();
    let error = stage2.map(&mut Liar(1 << 47), 0..0x1000, Attributes::Executable);
    assert_eq!(error, Err(Error::TableAddress { address: 1 << 47 }));
}

#[test]
fn a_change_without_tables_left_changes_nothing() {
    let mut bench = second_stage(40, A57);
    bench.apply(map(0, 4 * GIB, RAM)).unwrap();
    // Needs two tables at each end.
    let cut = unmap(GIB + 4 * KIB, 3 * GIB + 4 * KIB);
    for limit in 2..6 {
        bench.memory.limit = limit;
        assert_eq!(bench.apply(cut.clone()), Err(Error::OutOfTables));
        assert_eq!(bench.memory.used(), 2, "all tables came back");
        bench.sweep();
    }
    bench.memory.limit = 6;
    assert_eq!(bench.apply(cut), Ok(()));
    bench.sweep();
    assert!(Stage2::new(&mut bench.memory, layout(40, A57)).is_err());
}

#[test]
fn errors_say_what_is_wrong() {
    let lines: Vec<String> = [
        Error::IpaSize { bits: 44 },
        Error::Misaligned { address: 0x800 },
        Error::Inverted,
        Error::InputSize { end: 1 << 41 },
        Error::OutputSize { start: 1 << 40 },
        Error::OutOfTables,
        Error::TableAddress { address: 0x4000_0800 },
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    assert!(lines[0].contains("44 bits") && lines[3].contains("0x20000000000"), "{lines:?}");
    assert!(lines.iter().all(|line| !line.is_empty() && !line.ends_with('.')), "{lines:?}");
}

#[test]
fn a_page_can_be_changed_by_its_descriptor_alone() {
    let mut memory = Memory::new();
    let mut tables = Stage1::new(&mut memory, PaRange::from_id_aa64mmfr0(A57)).unwrap();
    let window = (1 << 47) + 3 * 4 * KIB;
    assert_eq!(tables.page_slot(&memory, window), None, "no table for it yet");
    tables.map(&mut memory, window - 4 * KIB..window, GIB, stage1::Attributes::Data).unwrap();
    let (table, index) = tables.page_slot(&memory, window).expect("its neighbour has brought the table");
    assert_eq!(tables.query(&memory, window), None);
    for (attributes, _) in STAGE_1_ATTRIBUTES {
        memory.write(table, index, stage1::page(5 * GIB + 0x123, attributes));
        let found = Mapping { output: 5 * GIB + 0xabc, level: 3, attributes };
        assert_eq!(tables.query(&memory, window + 0xabc), Some(found));
    }
    memory.write(table, index, 0);
    assert_eq!(tables.query(&memory, window), None);
    assert_eq!(tables.page_slot(&memory, 1 << 48), None, "beyond the addresses that there are");
}
