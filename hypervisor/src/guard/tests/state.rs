//! The guard, step by step, over a made-up machine; and any steps at all, which must keep what it promises.

use proptest::prelude::*;

use super::linux::{BASE, Fake, HIGH, LOW, OFFSET, TEXT, TWO};
use crate::devicetree::Region;
use crate::guard::linux::Kernel;
use crate::guard::{Caller, Fault, Guard, Note, Ram, Verdict, Wild, World};
use crate::paging::Error;
use crate::paging::stage2::Attributes;
use crate::tests::cases;

const PAGE: u64 = 0x1000;
const TABLES: u64 = 0x4123_4000;
/// Where user space goes on.
const USER: u64 = 0x4700_1ee8;

/// A machine with a Linux: what stage 2 says is a list of regions, of which the last one counts.
struct Machine {
    ram: Fake,
    changes: Vec<(Region, Attributes)>,
    caller: Caller,
    /// So many changes are possible.
    tables: usize,
}

impl Ram for Machine {
    fn word(&self, address: u64) -> Option<u64> {
        self.ram.word(address)
    }
    fn position(&self, start: u64, word: u64) -> Option<u64> {
        self.ram.position(start, word)
    }
    fn has(&self, region: Region) -> bool {
        self.ram.has(region)
    }
}

impl World for Machine {
    fn set(&mut self, region: Region, attributes: Attributes) -> Result<(), Error> {
        assert!(region.start.is_multiple_of(PAGE) && region.end.is_multiple_of(PAGE) && region.start < region.end);
        if attributes != Attributes::Executable {
            self.tables = self.tables.checked_sub(1).ok_or(Error::OutOfTables)?;
        }
        self.changes.push((region, attributes));
        Ok(())
    }

    /// Blocks of 2 MiB, as far as they say the same.
    fn leaf(&self, address: u64) -> Option<(Region, Attributes)> {
        let block = Region { start: address & !0x1f_ffff, end: (address | 0x1f_ffff) + 1 };
        let whole = (block.start..block.end).step_by(PAGE as usize).all(|page| self.says(page) == self.says(address));
        let page = Region { start: address & !0xfff, end: (address | 0xfff) + 1 };
        Some((if whole { block } else { page }, self.says(address)))
    }

    fn caller(&self) -> Caller {
        self.caller
    }
}

impl Machine {
    fn new() -> Self {
        Self { ram: Fake::linux(TWO), changes: Vec::new(), caller: Caller::Other, tables: usize::MAX }
    }

    fn says(&self, address: u64) -> Attributes {
        let decides = self.changes.iter().rev().find(|(region, _)| region.has(address));
        decides.map_or(Attributes::Executable, |&(_, attributes)| attributes)
    }

    fn all(&self, region: Region) -> Option<Attributes> {
        let first = self.says(region.start);
        (region.start..region.end).step_by(PAGE as usize).all(|page| self.says(page) == first).then_some(first)
    }

    fn begin(&mut self) -> Guard {
        let mut guard = Guard::new();
        let kernel = Kernel::around(TEXT, TEXT.wrapping_add(OFFSET), &self.ram).unwrap();
        let crash_kernel = kernel.crash_kernel(&self.ram).unwrap();
        guard.begin(crash_kernel, TABLES | 0x00ab_0000_0000_0001, self).unwrap();
        guard
    }

    fn is_closed(&self) -> bool {
        [HIGH, LOW].iter().all(|&region| self.all(region) == Some(Attributes::ReadOnly))
    }

    fn is_lifted(&self) -> bool {
        [HIGH, LOW].iter().all(|&region| self.all(region) == Some(Attributes::Executable))
    }
}

/// Who loads what begins at [`ENTRY`].
const LOADS: Caller = Caller::Loads { returns_to: Some(USER), entry: Some(ENTRY) };
const ENTRY: u64 = HIGH.start + 0x1000;

fn write(address: u64) -> Fault {
    Fault { cpu: 1, address, fetches: false, el0: false, native: true, stage1: true, ttbr1: TABLES | 1 << 48 }
}

fn fetch(address: u64) -> Fault {
    Fault { fetches: true, ..write(address) }
}

#[test]
fn a_load_opens_all_of_it_until_user_space_goes_on() {
    let mut machine = Machine::new();
    let mut guard = machine.begin();
    assert!(machine.is_closed());
    for _ in 0..2 {
        machine.caller = LOADS;
        assert_eq!(guard.fault(&write(HIGH.start + 0x5000), &mut machine), (Verdict::Again, Some(Note::Opened)));
        for region in [HIGH, LOW] {
            assert_eq!(machine.all(region), Some(Attributes::ExecuteNever));
        }
        assert_eq!(machine.says(USER), Attributes::ExecuteNever);
        assert_eq!(machine.says(USER + PAGE), Attributes::Executable);
        // Another CPU has faulted at the same moment.
        assert_eq!(guard.fault(&write(LOW.start), &mut machine), (Verdict::Again, None));
        machine.caller = Caller::Other;
        let back = Fault { el0: true, ttbr1: 0x4999_9000, ..fetch(USER & !0xfff) };
        assert_eq!(guard.fault(&back, &mut machine), (Verdict::Again, Some(Note::Closed)));
        assert!(machine.is_closed());
        assert_eq!(machine.says(USER), Attributes::Executable);
        assert_eq!(guard.fault(&back, &mut machine), (Verdict::Again, None));
    }
}

#[test]
fn where_a_loaded_kernel_begins_is_known_until_something_may_have_changed_it() {
    let mut machine = Machine::new();
    let mut guard = machine.begin();
    assert_eq!(guard.entry(), None);
    let load = |guard: &mut Guard, machine: &mut Machine, entry| {
        machine.caller = Caller::Loads { returns_to: Some(USER), entry };
        let _ = guard.fault(&write(HIGH.start), machine);
        machine.caller = Caller::Other;
        let _ = guard.fault(&Fault { el0: true, ..fetch(USER) }, machine);
    };
    for entry in [HIGH.start, LOW.start + 0x1004] {
        load(&mut guard, &mut machine, Some(entry));
        assert_eq!(guard.entry(), Some(entry));
        // A wild write says nothing of it.
        let _ = guard.fault(&write(HIGH.start), &mut machine);
        assert_eq!(guard.entry(), Some(entry));
    }
    // Not in the memory, no instruction's address, not said.
    for entry in [Some(HIGH.end), Some(0), Some(LOW.start + 2), None] {
        load(&mut guard, &mut machine, entry);
        assert_eq!(guard.entry(), None, "{entry:x?}");
    }
    load(&mut guard, &mut machine, Some(ENTRY));
    assert!(guard.come_back(TABLES, &mut machine));
    assert_eq!(guard.entry(), None);
    load(&mut guard, &mut machine, Some(ENTRY));
    machine.ram.resource(TWO[0], Some(Region { end: HIGH.end - PAGE, ..HIGH }));
    let _ = guard.fault(&write(HIGH.end - PAGE), &mut machine);
    assert_eq!(guard.entry(), None);
    load(&mut guard, &mut machine, Some(ENTRY));
    guard.lift(&mut machine);
    assert_eq!(guard.entry(), None);
}

#[test]
fn without_a_page_to_wait_at_one_block_is_open_at_a_time() {
    let mut machine = Machine::new();
    let mut guard = machine.begin();
    // Not known, in no RAM, in the memory itself.
    for returns_to in [None, Some(0x9000_0000), Some(HIGH.start + 0x1000)] {
        machine.caller = Caller::Loads { returns_to, entry: None };
        for block in [HIGH.start, HIGH.start + 0x20_0000, LOW.start] {
            let opened = Note::OpenedBlock(Region { start: block, end: block + 0x20_0000 });
            assert_eq!(guard.fault(&write(block + 0x1234), &mut machine), (Verdict::Again, Some(opened)));
            let open = [HIGH, LOW].iter().flat_map(|region| (region.start..region.end).step_by(PAGE as usize));
            assert_eq!(open.filter(|&page| machine.says(page) != Attributes::ReadOnly).count(), 512);
        }
    }
}

#[test]
fn a_panic_notes_its_time_behind_the_vmcoreinfo_and_has_a_few_pages_more() {
    let mut machine = Machine::new();
    let page = HIGH.start + 0x6000;
    machine.ram.text(page, b"OSRELEASE=6.1.0\nPAGESIZE=4096\n");
    let end = page + 30;
    let mut guard = machine.begin();
    for wild in [page, page + 8, end - 1, end + 1, end + 2, page + 16] {
        assert_eq!(guard.fault(&write(wild), &mut machine), (Verdict::Wild, None), "{wild:#x}");
    }
    let region = Region { start: page, end: page + PAGE };
    assert_eq!(guard.fault(&write(end), &mut machine), (Verdict::Again, Some(Note::Panics(region))));
    assert_eq!(machine.says(page), Attributes::ExecuteNever);
    // Other CPUs still do wild things.
    assert_eq!(guard.fault(&Fault { cpu: 2, ..write(HIGH.start) }, &mut machine), (Verdict::Wild, None));
    for number in 0..16 {
        let (verdict, note) = guard.fault(&write(HIGH.start + 0x10_0000 + number * PAGE), &mut machine);
        assert!(verdict == Verdict::Again && matches!(note, Some(Note::Panics(_))), "{number}");
    }
    assert_eq!(guard.fault(&write(HIGH.start), &mut machine), (Verdict::Wild, None), "and no more");
    // A load begins anew.
    machine.caller = LOADS;
    guard.fault(&write(HIGH.start), &mut machine);
    guard.fault(&fetch(USER), &mut machine);
    assert!(machine.is_closed());
    machine.caller = Caller::Other;
    assert_eq!(guard.fault(&write(HIGH.start), &mut machine), (Verdict::Wild, None));
}

#[test]
fn a_vmcoreinfo_may_be_longer_than_a_page() {
    let mut machine = Machine::new();
    machine.ram.text(HIGH.start, b"OSRELEASE=6.12");
    machine.ram.text(HIGH.start + 0x1fff, b"\n");
    let mut guard = machine.begin();
    assert_eq!(guard.fault(&write(HIGH.start + 0x2000), &mut machine).0, Verdict::Again);
    let mut machine = Machine::new();
    machine.ram.text(HIGH.start, b"OSRELEASE=6.12");
    machine.ram.text(HIGH.start + 0xffff, b"\n");
    let mut guard = machine.begin();
    assert_eq!(guard.fault(&write(HIGH.start + 0x1_0000), &mut machine).0, Verdict::Wild, "no page is as large");
}

#[test]
fn a_wild_write_is_refused_or_let_through() {
    let mut machine = Machine::new();
    let mut guard = machine.begin();
    let user = Fault { el0: true, ttbr1: 0x4999_9000, ..write(LOW.start) };
    for fault in [write(HIGH.start), write(LOW.end - 1), fetch(HIGH.start), user] {
        assert_eq!(guard.fault(&fault, &mut machine), (Verdict::Wild, None));
    }
    assert!(machine.is_closed());
    guard.set_wild(Wild::Allow);
    let page = Region { start: HIGH.start, end: HIGH.start + PAGE };
    assert_eq!(guard.fault(&write(HIGH.start + 5), &mut machine), (Verdict::Again, Some(Note::Allowed(page))));
    assert_eq!(machine.says(HIGH.start), Attributes::ExecuteNever);
    assert_eq!(machine.says(HIGH.start + PAGE), Attributes::ReadOnly);
    assert_eq!(guard.fault(&fetch(HIGH.start), &mut machine), (Verdict::Wild, None), "no write");
}

#[test]
fn another_kernel_lifts_it_and_a_crash_kernel_that_begins_is_told() {
    let lifted = |note| Some(Note::Lifted(note));
    for (fault, verdict, note) in [
        (Fault { stage1: false, ..fetch(HIGH.start) }, Verdict::CrashBegins, "the crash kernel begins"),
        (Fault { stage1: false, ..write(HIGH.start) }, Verdict::Again, "another kernel runs"),
        (Fault { native: false, stage1: false, ..fetch(HIGH.start) }, Verdict::Again, "another kernel runs"),
        (Fault { ttbr1: TABLES + PAGE, ..write(LOW.start) }, Verdict::Again, "another kernel runs"),
        (Fault { ttbr1: TABLES + PAGE, ..fetch(LOW.start) }, Verdict::Again, "another kernel runs"),
    ] {
        let mut machine = Machine::new();
        let mut guard = machine.begin();
        assert_eq!(guard.fault(&fault, &mut machine), (verdict, lifted(note)));
        assert!(machine.is_lifted() && guard.regions() == [None; 2]);
        assert_eq!(guard.fault(&fault, &mut machine), (Verdict::Again, None));
    }
}

#[test]
fn it_ends_when_the_kernel_is_gone() {
    let mut machine = Machine::new();
    let mut guard = machine.begin();
    machine.ram.words.remove(&(TWO[0] + 24));
    let (verdict, note) = guard.fault(&write(HIGH.start), &mut machine);
    assert_eq!((verdict, note), (Verdict::Again, Some(Note::Lifted("the kernel that had it is gone"))));
    assert!(machine.is_lifted());
}

#[test]
fn memory_that_was_given_back_is_let_go() {
    let mut machine = Machine::new();
    let mut guard = machine.begin();
    let less = Region { end: HIGH.end - 0x100_0000, ..HIGH };
    machine.ram.resource(TWO[0], Some(less));
    assert_eq!(guard.fault(&write(HIGH.start), &mut machine), (Verdict::Wild, None), "what is kept is kept");
    assert_eq!(guard.fault(&write(less.end), &mut machine), (Verdict::Again, None));
    assert_eq!(machine.all(less), Some(Attributes::ReadOnly));
    assert_eq!(machine.all(Region { start: less.end, ..HIGH }), Some(Attributes::Executable));
    machine.ram.words.insert(TWO[1] + 8, LOW.start - 1);
    let (verdict, note) = guard.fault(&write(LOW.start), &mut machine);
    assert_eq!((verdict, note), (Verdict::Again, Some(Note::Shrunk(Region { end: LOW.start, ..LOW }))));
    assert_eq!(machine.all(LOW), Some(Attributes::Executable));
    assert!(guard.regions().contains(&Some(less)) && guard.regions().contains(&None));
    // It never grows.
    machine.ram.resource(TWO[0], Some(HIGH));
    assert_eq!(guard.fault(&write(HIGH.start), &mut machine).0, Verdict::Again);
    assert!(machine.is_lifted());
}

#[test]
fn after_a_leave_it_is_the_same_or_nothing() {
    let mut machine = Machine::new();
    let mut guard = machine.begin();
    machine.caller = LOADS;
    guard.fault(&write(HIGH.start), &mut machine);
    assert!(guard.come_back(TABLES, &mut machine), "in the middle of a load");
    assert!(machine.is_closed() && machine.says(USER) == Attributes::Executable);
    assert!(!guard.come_back(TABLES + PAGE, &mut machine));
    assert!(machine.is_lifted());
    assert!(!guard.come_back(TABLES, &mut machine), "there is none");
    let mut guard = machine.begin();
    machine.ram.words.insert((BASE + 0x31_2345) & !7, 0);
    assert!(!guard.come_back(TABLES, &mut machine), "another kernel is there");
    assert!(machine.is_lifted());
}

#[test]
fn without_tables_there_is_no_guard() {
    for tables in 0..6 {
        let mut machine = Machine::new();
        let mut guard = Guard::new();
        machine.tables = tables;
        let kernel = Kernel::around(TEXT, TEXT.wrapping_add(OFFSET), &machine.ram).unwrap();
        let crash_kernel = kernel.crash_kernel(&machine.ram).unwrap();
        if guard.begin(crash_kernel, TABLES, &mut machine).is_err() {
            assert!(tables < 2 && machine.is_lifted() && guard.regions() == [None; 2]);
            continue;
        }
        machine.caller = LOADS;
        let (verdict, _) = guard.fault(&write(HIGH.start), &mut machine);
        assert_eq!(verdict, Verdict::Again);
        assert_ne!(machine.says(HIGH.start), Attributes::ReadOnly, "the host goes on");
        assert!(machine.says(USER) == Attributes::Executable || tables >= 5);
    }
}

proptest! {
    #![proptest_config(cases(256, 4))]

    /// Whatever the host does: who is told to try again can go on, who is not has found the memory closed, and outside
    /// of the memory and of one page of user space's nothing is ever different.
    #[test]
    fn who_tries_again_goes_on(
        steps in prop::collection::vec((0..8_u8, 0..6_u8, any::<u64>(), any::<bool>(), 0..40_u8), 1..30), wild: bool,
    ) {
        let mut machine = Machine::new();
        machine.ram.text(HIGH.start + 0x6000, b"OSRELEASE=6\n");
        let mut guard = machine.begin();
        guard.set_wild(if wild { Wild::Allow } else { Wild::Refuse });
        for (place, caller, random, fetches, odd) in steps {
            let address = match place {
                0 => LOW.start + random % LOW.size(),
                1 => HIGH.start + 0x600c,
                2 => USER,
                3 => 0x4700_0000 + random % 0x40_0000,
                _ => HIGH.start + random % 0x80_0000,
            };
            machine.caller = match caller {
                0 => LOADS,
                1 => Caller::Loads { returns_to: None, entry: Some(random) },
                2 => Caller::Loads { returns_to: Some(random), entry: None },
                _ => Caller::Other,
            };
            let mut fault = Fault { fetches, cpu: u16::from(caller), ..write(address) };
            match odd {
                0 => fault.stage1 = false,
                1 => fault.native = false,
                2 => fault.ttbr1 = random,
                3 => fault.el0 = true,
                4 => machine.ram.resource(TWO[0], Some(Region { end: HIGH.end - random % 64 * PAGE, ..HIGH })),
                5 => machine.tables = random as usize % 4,
                6 => machine.tables = usize::MAX,
                7 => { guard.come_back(TABLES, &mut machine); }
                8 => {
                    machine.tables = usize::MAX;
                    guard.lift(&mut machine);
                    guard = machine.begin();
                }
                _ => {}
            }
            let before = machine.says(address);
            let (verdict, _) = guard.fault(&fault, &mut machine);
            let after = machine.says(address);
            let goes_on = after == Attributes::Executable || after == Attributes::ExecuteNever && !fault.fetches;
            match verdict {
                Verdict::Again | Verdict::CrashBegins => prop_assert!(goes_on, "{fault:x?}"),
                Verdict::Wild => {
                    prop_assert!(after == before && after != Attributes::Executable);
                    prop_assert!(guard.regions().iter().flatten().any(|region| region.has(address)));
                }
                Verdict::Others => prop_assert!(!guard.regions().iter().flatten().any(|region| region.has(address))),
            }
            let elsewhere = [HIGH.start - 1, HIGH.end, LOW.start - 1, LOW.end, USER + PAGE, USER - PAGE, BASE];
            for address in elsewhere {
                prop_assert_eq!(machine.says(address), Attributes::Executable);
            }
        }
        guard.lift(&mut machine);
        prop_assert!(machine.is_lifted() && machine.says(USER) == Attributes::Executable);
    }
}
