//! Tests of the vendor calls: the contract's examples, random registers, and the two shared structures against models.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use guest_abi::blackbox::{self, Live};
use guest_abi::record::{EXIT_NAMES, StatusCpu, StatusHeader};
use guest_abi::vendor::{CpuState, Failure, Summary, is_exeunt, results};
use proptest::prelude::*;

use super::control::{UnderWay, Verdict};
use super::*;
use crate::counters::{Counters, Exit};
use crate::lifecycle::{EntryLevel, Round};
use crate::paging::stage2::Attributes;
use crate::restart::Restart;
use crate::tests::cases;

const RAM: Range<u64> = 0x4000_0000..0x8000_0000;
const OWN: Range<u64> = 0x4020_0000..0x4040_0000;
const WAY_BACK: u64 = 0x4020_1800;
const CPUS: u16 = 40;

/// A machine with 40 CPUs, of which every third is live, and a page for each buffer that is written.
struct Fake<'a> {
    control: Control,
    log: LogRing<'a>,
    written: RefCell<Vec<(Buffer, Vec<u8>)>>,
    strangers: Cell<bool>,
    /// The memory of no buffer answers.
    silent: Cell<bool>,
    traced: Cell<bool>,
    /// How often policies or lock have changed.
    changes: Cell<u32>,
}

impl<'a> Fake<'a> {
    fn new(bytes: &'a [AtomicU8]) -> Self {
        Self {
            control: Control::new(Policy::Leave, Policy::Leave),
            log: LogRing::new(bytes, Box::leak(Box::default())),
            written: RefCell::default(),
            strangers: Cell::default(),
            silent: Cell::default(),
            traced: Cell::default(),
            changes: Cell::default(),
        }
    }

    fn call(&self, registers: [u64; 4]) -> [u64; 4] {
        let mut x = core::array::from_fn(|n| 0xdead_0000_0000 + n as u64);
        x[..4].copy_from_slice(&registers);
        let before = x;
        let _ = call(&mut x, self);
        assert_eq!(x[4..], before[4..]);
        x[..4].try_into().expect("four")
    }

    fn ask(&self, id: u32, arguments: [u64; 3]) -> Result<[u64; 3], Failure> {
        results(self.call([u64::from(id), arguments[0], arguments[1], arguments[2]]))
    }
}

impl Machine for Fake<'_> {
    fn cpus(&self) -> u16 {
        CPUS
    }

    fn this_cpu(&self) -> u16 {
        3
    }

    fn state(&self, cpu: u16) -> CpuState {
        if cpu.is_multiple_of(3) { CpuState::Live } else { CpuState::Off }
    }

    fn describe(&self, cpu: u16) -> StatusCpu {
        StatusCpu { mpidr: u64::from(cpu) << 8, state: self.state(cpu) as u8, ..StatusCpu::default() }
    }

    fn entry_level(&self) -> EntryLevel {
        EntryLevel::El1
    }

    fn lends_to_kvm(&self) -> bool {
        true
    }

    fn time(&self) -> u64 {
        77
    }

    fn frequency(&self) -> u64 {
        62_500_000
    }
}

struct Page<'a>(&'a mut Vec<u8>);

impl Sink for Page<'_> {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl Services for Fake<'_> {
    fn control(&self) -> &Control {
        &self.control
    }

    fn log(&self) -> LogRing<'_> {
        self.log
    }

    fn stage2_range(&self, address: u64) -> Option<(Range<u64>, Option<Attributes>)> {
        let ends = [0, 0x4000_0000, 0x4020_0000, 0x4021_0000, 1 << 40];
        let rights = [Some(Attributes::ExecuteNever), Some(Attributes::Executable), None, Some(Attributes::ReadOnly)];
        let place = ends.iter().position(|&end| address < end)?;
        Some((ends[place - 1]..ends[place], rights[place - 1]))
    }

    fn changed(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    fn trace(&self, change: Option<bool>) -> (bool, u32) {
        if let Some(traced) = change {
            self.traced.set(traced);
        }
        (self.traced.get(), 128)
    }

    fn is_host_ram(&self, address: u64) -> bool {
        RAM.contains(&address) && !OWN.contains(&address)
    }

    fn with_buffer(&self, buffer: Buffer, fill: impl FnOnce(&mut dyn Sink)) -> Result<(), Esr> {
        let mut bytes = vec![0xee; buffer.size];
        fill(&mut Page(&mut bytes));
        if self.silent.get() {
            // A data abort, same level, external.
            return Err(Esr::new(0x9600_0010));
        }
        self.written.borrow_mut().push((buffer, bytes));
        Ok(())
    }

    fn way_back(&self) -> u64 {
        WAY_BACK
    }

    fn has_strangers(&self) -> bool {
        self.strangers.get()
    }
}

fn bytes<const N: usize>() -> [AtomicU8; N] {
    [const { AtomicU8::new(0) }; N]
}

const INVALID: Result<[u64; 3], Failure> = Err(Failure::Refused(Error::InvalidParameter));

#[test]
fn queries_and_versions() {
    let ring = bytes::<16>();
    let fake = Fake::new(&ring);
    assert!(is_exeunt(fake.call([u64::from(vendor::CALL_UID), 1, 2, 3])));
    assert_eq!(fake.call([u64::from(vendor::REVISION), 1, 2, 3]), [1, 3, 2, 3]);
    assert_eq!(fake.call([u64::from(vendor::CALL_COUNT), 1, 2, 3]), [12, 1, 2, 3]);
    let [version, own, x2, x3] = fake.call([u64::from(vendor::VERSION), 1, 2, 3]);
    assert_eq!((version, x2, x3), (0x1_0003, 2, 3));
    assert_eq!(Version::from_bits(own as u32), EXEUNT_VERSION);
}

#[test]
fn the_sve_hint_is_no_part_of_the_number() {
    let ring = bytes::<16>();
    let fake = Fake::new(&ring);
    assert_eq!(fake.call([u64::from(vendor::VERSION) | 1 << 16, 0, 0, 0])[0], 0x1_0003);
}

#[test]
fn features_know_every_call_and_no_other() {
    let ring = bytes::<16>();
    let fake = Fake::new(&ring);
    let queries = [vendor::CALL_UID, vendor::REVISION, vendor::CALL_COUNT];
    for id in vendor::CALLS.iter().chain(&queries) {
        let flags = match *id {
            vendor::STATUS => 1,
            vendor::RESTART_POLICY => 3,
            _ => 0,
        };
        assert_eq!(fake.call([u64::from(vendor::FEATURES), u64::from(*id), 8, 9]), [0, flags, 8, 9], "{id:#x}");
        // Only the low word counts.
        assert!(fake.ask(vendor::FEATURES, [u64::from(*id) | 7 << 32, 0, 0]).is_ok());
        // The other convention's identifier is unknown.
        let other = u64::from(id ^ guest_abi::smccc::CALL_64);
        assert_eq!(fake.call([u64::from(vendor::FEATURES), other, 8, 9]), [u64::MAX, other, 8, 9]);
        assert_eq!(fake.call([other, 1, 2, 3]), [u64::MAX, 1, 2, 3]);
    }
}

#[test]
fn status_in_registers() {
    let ring = bytes::<16>();
    let fake = Fake::new(&ring);
    let [size, summary, described] =
        fake.ask(vendor::STATUS, [1, 0, 1000]).expect("no buffer, no argument to get wrong");
    assert_eq!((size, described), (64 + 40 * 128, 0));
    let summary = Summary(summary);
    assert_eq!(summary.state(), Some(CpuState::Live));
    assert_eq!((summary.entry_level(), summary.cpus(), summary.live_cpus()), (1, 40, 14));
    assert_eq!((summary.is_locked(), summary.0 & Summary::KVM_LEND), (false, Summary::KVM_LEND));
    assert_eq!((summary.kexec_policy(), summary.crash_policy()), (Policy::Leave, Policy::Leave));
    assert!(fake.control.set_policies(RESTART_CRASH, Policy::Resident).is_ok());
    let [_, crash, _] = fake.ask(vendor::STATUS, [0; 3]).expect("as before");
    assert_eq!(Summary(crash).crash_policy(), Policy::Resident);
    assert_eq!(Summary(crash).kexec_policy(), Policy::Leave);
    assert!(fake.control.lock().is_ok());
    let [_, locked, _] = fake.ask(vendor::STATUS, [0; 3]).expect("as before");
    assert!(Summary(locked).is_locked() && Summary(locked).kexec_policy() == Policy::Resident);
}

#[test]
fn status_page_by_page() {
    let ring = bytes::<16>();
    let fake = Fake::new(&ring);
    fake.log.append(b"12345678901234567890");
    let mut seen = Vec::new();
    while seen.len() < usize::from(CPUS) {
        let [_, summary, described] =
            fake.ask(vendor::STATUS, [0x4100_1000, 4096, seen.len() as u64]).expect("a page of RAM");
        let (buffer, page) = fake.written.borrow_mut().pop().expect("written");
        assert_eq!(buffer, Buffer { address: 0x4100_1000, size: 4096 });
        let header = StatusHeader::from_bytes(page[..64].try_into().expect("64"));
        assert_eq!(&page[..4], b"EXST");
        assert_eq!((header.version, header.header_size, header.cpu_size), (1, 64, 128));
        assert_eq!((usize::from(header.first_cpu), u64::from(header.described)), (seen.len(), described));
        assert_eq!((header.summary, header.cpus, header.record_size), (summary, CPUS, 64 + 40 * 128));
        assert_eq!((header.time, header.frequency, header.log_end, header.log_size), (77, 62_500_000, 20, 16));
        for cpu in page[64..].chunks_exact(128).take(usize::from(header.described)) {
            seen.push(StatusCpu::from_bytes(cpu.try_into().expect("128")));
        }
    }
    let expected: Vec<_> = (0..CPUS).map(|cpu| fake.describe(cpu)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn status_refuses_what_is_no_buffer() {
    let ring = bytes::<16>();
    let fake = Fake::new(&ring);
    let bad = [
        [0x4100_0004, 64, 0],           // misaligned
        [0x4100_0000, 63, 0],           // no room for the header
        [0x4100_0fc8, 64, 0],           // across a page boundary
        [0x4100_0000, 4097, 0],         // larger than a page
        [0x4100_0000, u64::MAX, 0],     // overflows
        [0x4020_0000, 64, 0],           // Exeunt's
        [0x0900_0000, 64, 0],           // MMIO
        [0x8000_0000, 64, 0],           // past RAM
        [0xffff_ffff_ffff_f000, 64, 0], // past everything
        [0, 64, 0],
        [0x4100_0000, 64, 40], // no such CPU
        [0x4100_0000, 64, 1 << 16],
    ];
    for arguments in bad {
        assert_eq!(fake.ask(vendor::STATUS, arguments), INVALID, "{arguments:x?}");
    }
    assert!(fake.written.borrow().is_empty());
    assert!(fake.ask(vendor::STATUS, [0x7fff_ffc0, 64, 0]).is_ok(), "the last bytes of RAM");
}

/// What the device tree calls RAM need not answer: the call fails, whatever is written by then.
#[test]
fn a_buffer_that_does_not_answer_is_invalid() {
    let ring = bytes::<16>();
    let fake = Fake::new(&ring);
    fake.log.append(b"0123456789");
    for silent in [true, false] {
        fake.silent.set(silent);
        assert_eq!(fake.ask(vendor::STATUS, [RAM.start, 0x1000, 0]) == INVALID, silent);
        assert_eq!(fake.ask(vendor::LOG_READ, [0, RAM.start, 16]) == INVALID, silent);
        // Without a buffer nobody writes.
        assert!(fake.ask(vendor::STATUS, [0, 0, 0]).is_ok());
        assert_eq!(fake.ask(vendor::LOG_READ, [0, 0, 0]), Ok([0, 0, 0]));
        assert_eq!(fake.written.borrow().len(), if silent { 0 } else { 2 });
    }
}

#[test]
fn restart_policies_are_set_apart_and_together() {
    let ring = bytes::<16>();
    let fake = Fake::new(&ring);
    let ask = |which, policy| fake.ask(vendor::RESTART_POLICY, [which, policy, 9]);
    assert_eq!(ask(0, 5), Ok([0, 0, 9]));
    assert_eq!(ask(1, 1), Ok([1, 0, 9]));
    assert_eq!(ask(2, 1), Ok([1, 1, 9]));
    assert_eq!(ask(3, 0), Ok([0, 0, 9]));
    for (which, policy) in [(4, 0), (0xffff_ffff, 1), (1, 2), (3, 0xffff_ffff)] {
        assert_eq!(ask(which, policy), INVALID);
    }
    assert_eq!(ask(0, 0), Ok([0, 0, 9]));
    fake.strangers.set(true);
    assert_eq!(fake.ask(vendor::LOCK, [0; 3]), Err(Failure::Refused(Error::WrongState)));
    assert!(!fake.control.is_locked());
    fake.strangers.set(false);
    assert_eq!(fake.ask(vendor::LOCK, [0; 3]), Ok([0; 3]));
    assert_eq!(ask(0, 0), Ok([1, 1, 9]));
    assert_eq!(ask(1, 0), Err(Failure::Refused(Error::Locked)));
    assert_eq!(ask(3, 1), Ok([1, 1, 9]));
}

#[test]
fn reenter_names_the_way_back() {
    let ring = bytes::<16>();
    let fake = Fake::new(&ring);
    assert_eq!(fake.ask(vendor::REENTER, [1, 2, 3]), Ok([WAY_BACK, u64::from(vendor::REENTER), 3]));
}

#[test]
fn leave_is_left_to_the_caller() {
    let ring = bytes::<16>();
    let fake = Fake::new(&ring);
    let mut x = [0; 18];
    x[0] = u64::from(vendor::LEAVE);
    let before = x;
    assert_eq!(call(&mut x, &fake), Outcome::Leave);
    assert_eq!(x, before);
    Answer::left(4).apply(&mut x);
    assert_eq!(x[..3], [0, 4, 0]);
    Answer::error(Error::TimedOut).apply(&mut x);
    assert_eq!(x[..2], [u64::MAX - 6, 4]);
}

#[test]
fn counters_stand_in_the_record_in_the_order_of_the_contract() {
    for (&exit, name) in Exit::ALL.iter().zip(EXIT_NAMES) {
        assert_eq!(exit.words(), name);
        let counters = Counters::new();
        counters.count(exit);
        assert_eq!(status::exits(&counters)[exit as usize], 1);
        assert_eq!(status::exits(&counters).iter().sum::<u64>(), 1);
    }
}

proptest! {
    #![proptest_config(cases(2000, 16))]

    #[test]
    fn random_registers_get_an_answer_and_nothing_but_results_changes(
        mut x: [u64; 18],
        known in prop::option::weighted(0.8, 0usize..11),
        small in prop::option::of((0u64..8, 0u64..8, 0u64..5000)),
        locked: bool,
    ) {
        let ring = bytes::<64>();
        let fake = Fake::new(&ring);
        fake.log.append(b"some text");
        if locked {
            fake.control.lock().expect("nobody is outside");
        }
        let ids = [vendor::CALL_UID, vendor::CALL_COUNT, vendor::REVISION];
        if let Some(known) = known {
            x[0] = u64::from(*vendor::CALLS.iter().chain(&ids).nth(known).expect("eleven"));
        }
        if let Some((x1, x2, x3)) = small {
            x[1..4].copy_from_slice(&[x1, x2, x3]);
        }
        let before = x;
        if call(&mut x, &fake) == Outcome::Done {
            let code = x[0] as u32;
            prop_assert_eq!(&x[4..], &before[4..]);
            if known.is_none() {
                prop_assert_eq!(x[0], u64::MAX);
            }
            if Error::from_register(x[0]).is_some() && known != Some(8) {
                prop_assert_eq!(x[0], i64::from(code.cast_signed()).cast_unsigned());
                prop_assert_eq!(&x[1..], &before[1..]);
                prop_assert!(fake.written.borrow().is_empty());
            }
        } else {
            prop_assert_eq!(x, before);
            prop_assert!([vendor::LEAVE, vendor::PANIC, vendor::CRASH_KERNEL].contains(&(x[0] as u32 & !(1 << 16))));
        }
        for (buffer, _) in fake.written.borrow().iter() {
            prop_assert!(fake.is_host_ram(buffer.address));
            prop_assert!(fake.is_host_ram(buffer.address + buffer.size as u64 - 1));
            prop_assert_eq!(buffer.address / 4096, (buffer.address + buffer.size as u64 - 1) / 4096);
        }
    }

    #[test]
    fn a_lock_and_a_departure_exclude_each_other(steps in prop::collection::vec(0u8..13, 1..40)) {
        let control = Control::new(Policy::Leave, Policy::Resident);
        let (mut locked, mut leaving, mut outside) = (false, false, 0u16);
        let (mut round, mut objected, mut stop) = (Round::new(0), false, false);
        for step in steps {
            match step {
                0 => {
                    let expected = match (locked, leaving, outside) {
                        (true, ..) => Ok(()),
                        (_, true, _) => Err(Error::Busy),
                        (_, _, 0) => Ok(()),
                        _ => Err(Error::WrongState),
                    };
                    prop_assert_eq!(control.lock(), expected);
                    locked |= expected.is_ok();
                }
                1 => {
                    let expected = match (locked, leaving) {
                        (true, _) => Err(Error::Locked),
                        (_, true) => Err(Error::Busy),
                        _ => Ok(()),
                    };
                    prop_assert_eq!(control.set_out(), expected);
                    outside += u16::from(expected.is_ok());
                }
                2 | 3 => {
                    let why = if step == 2 { Restart::Kexec } else { Restart::Crash };
                    let expected = match (leaving, locked || step == 3) {
                        (true, _) => Err(Error::Busy),
                        (_, true) => Ok(Policy::Resident),
                        _ => Ok(Policy::Leave),
                    };
                    prop_assert_eq!(control.restart(why), expected);
                    outside += u16::from(expected == Ok(Policy::Leave));
                }
                4 => {
                    prop_assert_eq!(control.come_back(true), if leaving { Err(Error::Busy) } else { Ok(()) });
                    outside -= u16::from(!leaving && outside > 0);
                    // A CPU that was started without Exeunt's knowledge is not one of those outside.
                    prop_assert_eq!(control.come_back(false), if leaving { Err(Error::Busy) } else { Ok(()) });
                }
                5 => {
                    let expected = match (locked, leaving) {
                        (true, _) => Err(Error::Locked),
                        (_, true) => Err(Error::Busy),
                        _ => Ok(round),
                    };
                    prop_assert_eq!(control.begin_leave(), expected);
                    leaving |= expected.is_ok();
                }
                12 => {
                    let expected = if leaving { Err(Error::Busy) } else { Ok(round) };
                    prop_assert_eq!(control.begin_stop(), expected);
                    stop |= expected.is_ok();
                    leaving = true;
                }
                6 if stop => {
                    // It has one end, and nobody is outside after it.
                    for verdict in [Verdict::Leave, Verdict::LeaveOpen] {
                        prop_assert_eq!(control.judge(round, verdict), Err(Error::Busy));
                    }
                    prop_assert_eq!(control.judge(round, Verdict::Off), Ok(()));
                    prop_assert_eq!(control.judge(round, Verdict::Off), Err(Error::Busy));
                    prop_assert_eq!(control.under_way(), Some(UnderWay { round, verdict: Verdict::Off }));
                    prop_assert!(control.end_leave(round, false));
                    (leaving, stop, round) = (false, false, round.next());
                }
                6 if leaving => {
                    prop_assert_eq!(control.judge(round, Verdict::Off), Err(Error::Busy));
                    let expected = if objected { Err(Error::Busy) } else { Ok(()) };
                    // Either way to leave, as it comes.
                    let verdict = if outside % 2 == 0 { Verdict::Leave } else { Verdict::LeaveOpen };
                    let other = if outside % 2 == 0 { Verdict::LeaveOpen } else { Verdict::Leave };
                    prop_assert_eq!(control.judge(round, verdict), expected);
                    prop_assert_eq!(control.go_along(UnderWay { round, verdict: other }), false);
                    prop_assert_eq!(control.go_along(UnderWay { round, verdict }), expected.is_ok());
                    outside += u16::from(expected.is_ok());
                    prop_assert_eq!(control.outside(), outside);
                    prop_assert!(control.end_leave(round, expected.is_ok()));
                    outside += u16::from(expected.is_ok());
                    (leaving, round, objected) = (false, round.next(), false);
                }
                10 if leaving => {
                    control.object(round);
                    objected = !stop;
                }
                11 if leaving => {
                    // Another CPU ends it, if it is as that one has seen it.
                    let seen = control.under_way().expect("one is under way");
                    let (waits, decided) = ([Verdict::None, Verdict::Objection], [Verdict::Leave, Verdict::LeaveOpen]);
                    for verdict in [Verdict::Off].into_iter().chain(decided).chain(waits).chain([Verdict::Stop]) {
                        let as_it_is = verdict == seen.verdict;
                        prop_assert_eq!(control.give_up(UnderWay { verdict, ..seen }), as_it_is && leaving);
                        leaving &= !as_it_is;
                    }
                    (round, objected, stop) = (round.next(), false, false);
                }
                9 => {
                    control.come_up();
                    outside = outside.saturating_sub(1);
                }
                7 if leaving => {
                    prop_assert!(control.end_leave(round, false));
                    (leaving, round, objected, stop) = (false, round.next(), false, false);
                }
                _ => {
                    let expected = if locked { Err(Error::Locked) } else { Ok([Policy::Leave, Policy::Resident]) };
                    prop_assert_eq!(control.set_policies(RESTART_KEXEC, Policy::Leave), expected);
                }
            }
            prop_assert_eq!(control.is_locked(), locked);
            prop_assert_eq!(control.is_leaving(), leaving);
            prop_assert_eq!(control.outside(), outside);
            let verdict = match (stop, objected) {
                (true, _) => Verdict::Stop,
                (_, true) => Verdict::Objection,
                _ => Verdict::None,
            };
            prop_assert_eq!(control.under_way(), leaving.then_some(UnderWay { round, verdict }));
            // Who means a LEAVE that is over, or comes, changes nothing.
            let word = control.word();
            for other in [Round::new(round.number().wrapping_sub(1)), round.next()] {
                control.object(other);
                prop_assert_eq!(control.judge(other, Verdict::Leave), Err(Error::TimedOut));
                let decided = UnderWay { round: other, verdict: Verdict::Leave };
                prop_assert!(!control.go_along(decided) && !control.end_leave(other, true));
                let seen = UnderWay { round: other, verdict };
                prop_assert!(!control.give_up(seen) && !control.is_under_way(other));
            }
            prop_assert_eq!(control.word(), word);
            prop_assert!(!(locked && (leaving && !stop || outside > 0)));
        }
    }

    #[test]
    fn the_log_gives_back_what_was_appended_or_says_what_is_lost(
        texts in prop::collection::vec((0usize..200, any::<bool>()), 0..12),
        position in 0u64..1500,
        size in 0usize..1500,
    ) {
        let ring = bytes::<128>();
        let positions = log::Positions::new();
    let log = LogRing::new(&ring, &positions);
        let mut all = Vec::new();
        for (length, alone) in texts {
            // Bytes that say where they are: 251 is prime, so that no multiple of it is the ring's size.
            let text: Vec<u8> = (all.len()..all.len() + length).map(|position| (position % 251) as u8).collect();
            if alone { log.append_alone(&text) } else { log.append(&text) }
            all.extend_from_slice(&text);
        }
        prop_assert_eq!(log.end(), all.len() as u64);
        let mut got = Vec::new();
        let read = log.read(position, size, &mut |offset, bytes| {
            assert_eq!(offset, got.len());
            got.extend_from_slice(bytes);
        });
        if position > all.len() as u64 {
            prop_assert_eq!(read, Err(Error::InvalidParameter));
            return Ok(());
        }
        let read = read.expect("the log has come to the position");
        let start = position.max(all.len().saturating_sub(128) as u64);
        prop_assert_eq!(read.lost, start - position);
        prop_assert_eq!(read.copied, (size as u64).min(all.len() as u64 - start));
        prop_assert_eq!(read.next, start + read.copied);
        prop_assert_eq!(&got, &all[start as usize..read.next as usize]);
    }
}

#[test]
fn who_reads_the_black_box_finds_the_control_words_bits() {
    let bits = |control: &Control| {
        let read = blackbox::Control::of(&Live { control: control.bits(), ..Live::default() });
        (read.locked, read.kexec_resident, read.crash_resident, read.leaving, read.outside)
    };
    assert_eq!(bits(&Control::new(Policy::Resident, Policy::Leave)), (false, true, false, false, 0));
    let control = Control::new(Policy::Leave, Policy::Resident);
    assert_eq!((control.set_out(), control.set_out()), (Ok(()), Ok(())));
    assert_eq!(bits(&control), (false, false, true, false, 2));
    assert!(control.begin_leave().is_ok());
    assert_eq!(bits(&control), (false, false, true, true, 2));
    let control = Control::new(Policy::Leave, Policy::Leave);
    assert_eq!(control.lock(), Ok(()));
    assert_eq!(bits(&control), (true, true, true, false, 0));
}

#[test]
fn only_what_changes_policies_or_lock_is_told() {
    let bytes = bytes::<256>();
    let fake = Fake::new(&bytes);
    let policy = |which, policy| fake.ask(vendor::RESTART_POLICY, [which, policy, 0]).is_ok();
    let lock = || fake.ask(vendor::LOCK, [0; 3]).is_ok();
    let told = || fake.changes.replace(0);
    assert!(policy(0, 0) && policy(3, 0) && !policy(3, 7));
    assert_eq!(told(), 0);
    assert!(policy(2, 1) && policy(2, 1) && policy(1, 0));
    assert_eq!(told(), 1);
    fake.strangers.set(true);
    assert!(!lock());
    assert_eq!(told(), 0);
    fake.strangers.set(false);
    assert!(lock() && lock() && !policy(2, 0));
    assert_eq!(told(), 1);
}

#[test]
fn trace_starts_and_stops_what_it_tells() {
    let ring = bytes::<64>();
    let fake = Fake::new(&ring);
    for (w1, traced) in [(0, 0), (1, 1), (0, 1), (1 << 32, 1), (2, 0), (0, 0)] {
        assert_eq!(fake.ask(vendor::TRACE, [w1, 0, 0]).map(|x| [x[0], x[1]]), Ok([traced, 128]), "{w1:#x}");
    }
    assert_eq!(fake.ask(vendor::TRACE, [3, 0, 0]), INVALID);
}

#[test]
fn panic_names_a_cpu_that_there_is() {
    let ring = bytes::<64>();
    let fake = Fake::new(&ring);
    let cpus = u64::from(fake.cpus());
    let panic = |w1: u64| {
        let mut x = [0; 18];
        (x[0], x[1]) = (vendor::PANIC.into(), w1);
        (call(&mut x, &fake), x[0])
    };
    let panics = |cpu| (Outcome::Panic(cpu), u64::from(vendor::PANIC));
    for cpu in 0..cpus {
        assert_eq!(panic(cpu), panics(cpu as u16));
    }
    assert_eq!(panic(1 << 32 | 1), panics(1), "the low word counts");
    assert_eq!(panic(vendor::PANIC_HERE.into()), panics(fake.this_cpu()));
    for unknown in [cpus, 0xffff, 0x1_0000, 0x1_0001, 0xffff_fffe] {
        assert_eq!(panic(unknown), (Outcome::Done, Error::InvalidParameter.to_register()), "{unknown:#x}");
    }
}

#[test]
fn a_hold_excludes_what_a_leave_does() {
    for locked in [false, true] {
        let control = Control::new(Policy::Leave, Policy::Leave);
        if locked {
            assert_eq!(control.lock(), Ok(()));
        }
        let round = control.begin_hold().expect("nothing is under way");
        assert!(control.is_leaving() && control.is_locked() == locked);
        let begun = if locked { Error::Locked } else { Error::Busy };
        assert_eq!(control.begin_leave(), Err(begun));
        assert_eq!(control.begin_hold(), Err(Error::Busy));
        assert_eq!(control.begin_stop(), Err(Error::Busy));
        assert_eq!(control.set_out(), Err(begun));
        assert_eq!(control.come_back(true), Err(Error::Busy));
        assert_eq!(control.restart(Restart::Crash), Err(Error::Busy));
        assert_eq!(control.lock(), if locked { Ok(()) } else { Err(Error::Busy) });
        assert!(control.end_leave(round, false) && !control.is_leaving());
        assert_eq!((control.outside(), control.is_locked()), (0, locked));
    }
}

#[test]
fn a_map_is_made_of_ranges() {
    let ring = bytes::<64>();
    let fake = Fake::new(&ring);
    let (mut address, mut rights) = (0, Vec::new());
    while let Ok([start, end, what]) = fake.ask(vendor::STAGE2_RANGE, [address, 5, 6]) {
        assert!(start == address && end > start);
        (address, ()) = (end, rights.push(what));
    }
    assert_eq!(rights, [0b0111, 0b1111, 0, 0b0011]);
    assert_eq!(fake.ask(vendor::STAGE2_RANGE, [1 << 40, 5, 6]), INVALID);
    assert_eq!(fake.ask(vendor::STAGE2_RANGE, [u64::MAX, 5, 6]), INVALID);
}

#[test]
fn log_read_refuses_what_is_no_position_or_no_buffer() {
    let ring = bytes::<64>();
    let fake = Fake::new(&ring);
    fake.log.append(b"0123456789");
    assert_eq!(fake.ask(vendor::LOG_READ, [11, 0x4100_0000, 64]), INVALID);
    assert_eq!(fake.ask(vendor::LOG_READ, [u64::MAX, 0, 0]), INVALID);
    assert_eq!(fake.ask(vendor::LOG_READ, [0, 0x4100_0fff, 2]), INVALID);
    assert_eq!(fake.ask(vendor::LOG_READ, [0, 0x4020_0000, 2]), INVALID);
    assert!(fake.written.borrow().is_empty());
    assert_eq!(fake.ask(vendor::LOG_READ, [4, 0x4100_0fff, 1]), Ok([1, 5, 0]));
    assert_eq!(fake.written.borrow()[0].1, b"4");
    assert_eq!(fake.ask(vendor::LOG_READ, [10, 0x4100_0000, 64]), Ok([0, 10, 0]));
    assert_eq!(fake.ask(vendor::LOG_READ, [3, 1, 0]), Ok([0, 3, 0]));
    fake.log.append(&[b'.'; 64]);
    assert_eq!(fake.ask(vendor::LOG_READ, [3, 1, 0]), Ok([0, 10, 7]));
}

#[test]
fn a_dead_writer_holds_nobody_up_for_ever() {
    use std::fmt::Write as _;
    let ring = bytes::<64>();
    let positions = log::Positions::new();
    let log = LogRing::new(&ring, &positions);
    (&log).write_str("before ").expect("a ring has room");
    log.begin_and_die(5);
    log.append(b"after");
    assert_eq!(log.end(), 7, "an unfinished text is not shown");
    log.abandon_writers();
    assert_eq!(log.end(), 17);
    log.append(b"!");
    assert_eq!(log.end(), 18);
}

#[test]
fn a_writer_that_was_given_up_too_early_does_no_harm() {
    let ring = bytes::<64>();
    let positions = log::Positions::new();
    let log = LogRing::new(&ring, &positions);
    log.begin_and_die(5);
    log.abandon_writers();
    log.finish(); // it was alive after all
    log.append(b"text");
    assert_eq!(log.end(), 9);
}

/// Writers append numbered lines of their own and readers follow: every line that is seen is whole, and each writer's
/// come in order. No writer sleeps for so long that the others fill the ring meanwhile, which the ring does not promise
/// to bear and the scheduler of a workstation can do: they wait for each other before they are a ring ahead.
#[test]
fn readers_see_whole_lines_while_writers_append() {
    const WRITERS: usize = 3;
    const SIZE: usize = 1024;
    let lines = if cfg!(miri) { 20 } else { 20_000 };
    let ring = bytes::<SIZE>();
    let positions = log::Positions::new();
    let log = LogRing::new(&ring, &positions);
    let begun = AtomicU64::new(0);
    // Whoever has seen that there is room may have seen it at the same time as all others.
    let has_room = || {
        let end = log.end();
        begun.load(Ordering::Relaxed) - end <= (SIZE - WRITERS * LINE) as u64
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (log, begun, has_room) = (&log, &begun, &has_room);
            scope.spawn(move || {
                for line in 0..lines {
                    while !has_room() {
                        std::thread::yield_now();
                    }
                    begun.fetch_add(LINE as u64, Ordering::Relaxed);
                    log.append(format!("{writer}:{line:08}:{:08}\n", line ^ 0x55).as_bytes());
                }
            });
        }
        scope.spawn(|| {
            let total = (WRITERS * lines * LINE) as u64;
            let (mut position, mut lost, mut next) = (0, 0, [0usize; WRITERS]);
            while position < total {
                let mut text = Vec::new();
                let read =
                    log.read(position, 4 * LINE, &mut |_, bytes| text.extend_from_slice(bytes)).expect("past the end");
                lost += read.lost;
                // All lines have the same length, so that a line's begin is known whatever is lost.
                let skip = (LINE - (read.next - read.copied) as usize % LINE) % LINE;
                for line in text.get(skip..).unwrap_or_default().chunks_exact(LINE) {
                    let line = std::str::from_utf8(line).expect("ASCII").trim_end();
                    let [writer, number, check] = [0, 1, 2].map(|n| line.split(':').nth(n).expect("three fields"));
                    let (writer, number): (usize, usize) =
                        (writer.parse().expect("a digit"), number.parse().expect("digits"));
                    assert_eq!(check.parse::<usize>().expect("digits"), number ^ 0x55, "torn: {line}");
                    assert!(number >= next[writer], "{line} after {}", next[writer]);
                    next[writer] = number + 1;
                }
                // Go back to the begin of a line that was cut.
                position = (read.next - (read.next % LINE as u64)).max(position + u64::from(read.next > position));
                if read.copied == 0 {
                    std::thread::yield_now();
                }
            }
            assert!(lost < total);
        });
    });
    assert_eq!(log.end(), (WRITERS * lines * LINE) as u64);
}

const LINE: usize = 2 + 8 + 1 + 8 + 1;
