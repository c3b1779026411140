//! Tests of what is written, by reading it with the contract's reader.

use std::boxed::Box;
use std::vec::Vec;

use guest_abi::blackbox::{BlackBox, Core, EVENTS, INJECTED, LOG_SIZE, text};

use super::trace::syndrome;
use super::*;
use crate::devicetree::Region;
use crate::syndrome::Esr;

const EXEUNT: Region = Region { start: 0x4020_0000, end: 0x4040_0000 };
const ADDRESS: u64 = EXEUNT.end - SIZE as u64;

fn facts(place: Place) -> Facts<'static> {
    Facts {
        exeunt: EXEUNT.start,
        place,
        cpus: 4,
        starts: 1,
        frequency: 62_500_000,
        started: 77,
        versions: [0x1_0001, 0x100],
        entry_level: 2,
        debug: false,
        options: b"log=debug stats",
    }
}

fn bytes(memory: &Memory) -> Vec<u8> {
    let words = core::ptr::from_ref(memory).cast::<AtomicU64>();
    // SAFETY: as in `Memory::core`; no other thread has this memory.
    (0..SIZE / 8).flat_map(|index| unsafe { &*words.add(index) }.load(Ordering::Relaxed).to_le_bytes()).collect()
}

fn memory() -> Box<Memory> {
    // By way of the heap alone: the stack of a test need not have 64 KiB to spare.
    let layout = std::alloc::Layout::new::<Memory>();
    // SAFETY: not of size zero; all zeros are `Memory::new`.
    unsafe { Box::from_raw(std::alloc::alloc_zeroed(layout).cast()) }
}

#[test]
fn what_is_written_can_be_read() {
    let memory = memory();
    assert_eq!(memory.begin(ADDRESS), 0);
    memory.publish(ADDRESS, &facts(Place::new(EXEUNT, EXEUNT.start + 0x8_0000, 4, false).unwrap()));
    memory.event(5, 3, Kind::CpuUp, [0x4100_0000, 0]);
    memory.count_ignored_store();
    assert_eq!((memory.count_wild(), memory.count_wild()), (1, 2));
    memory.set_control(0x1_0002);
    memory.set_tracing(true);
    memory.name_registers(&keys(&[Encoding::new(3, 4, 1, 1, 0), Encoding::new(3, 4, 12, 0, 0)]));
    memory.count_register(1, 7);
    memory.count_register(999, 2);
    let bytes = bytes(&memory);
    let whole = BlackBox::new(&bytes, ADDRESS).unwrap();
    let core = whole.core();
    let header = core.header();
    assert_eq!((header.cpus, header.starts, header.started, header.size), (4, 1, 77, SIZE as u64));
    assert_eq!(text(&header.options), "log=debug stats");
    assert_eq!(header.trace_records, 128);
    let live = core.live();
    assert_eq!((live.tracing, live.control, live.ignored_stores, live.wild_accesses), (1, 0x1_0002, 1, 2));
    let events: Vec<_> = core.events().collect();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].time, events[0].cpu, events[0].kind), (5, 3, Kind::CpuUp as u16));
    let registers: Vec<_> = core.registers().collect();
    assert_eq!(registers, [(register_key(3, 4, 12, 0, 0), 7), (OTHERS, 2)]);
    assert!(core.death().is_none() && whole.previous().is_none());
}

#[test]
fn the_last_start_is_kept_and_its_life_is_told() {
    let memory = memory();
    memory.begin(ADDRESS);
    memory.publish(ADDRESS, &facts(Place::new(EXEUNT, EXEUNT.start, 4, false).unwrap()));
    for number in 0..EVENTS as u64 + 3 {
        memory.event(number, 0, Kind::CpuOff, [number, 0]);
    }
    memory.die(7, 3, Cause::Panic, [1, 2, 3, 4, 5], &cut(format_args!("why {}", 42)));
    memory.die(8, 2, Cause::Exception, [0; 5], &cut(format_args!("and another")));
    memory.add_to_backtrace(0, 0x1234);
    memory.add_to_backtrace(12, 0x5678);
    memory.die_again();
    assert_eq!(memory.begin(ADDRESS), 1);
    memory.publish(ADDRESS, &Facts { starts: 2, ..facts(Place::new(EXEUNT, EXEUNT.start, 4, false).unwrap()) });
    let bytes = bytes(&memory);
    let whole = BlackBox::new(&bytes, ADDRESS).unwrap();
    assert_eq!((whole.core().header().starts, whole.core().events().count()), (2, 0));
    assert!(whole.core().death().is_none());
    let last = whole.previous().unwrap();
    let death = last.death().unwrap();
    assert_eq!((death.cause, text(&death.reason)), (Cause::Double as u16, "why 42"));
    assert_eq!((death.time, death.cpu, death.sp), (7, 3, 5));
    assert_eq!((death.esr, death.elr, death.far, death.spsr), (1, 2, 3, 4));
    assert_eq!((death.backtrace[0], death.backtrace[1]), (0x1234, 0));
    let numbers: Vec<_> = last.events().map(|event| event.first).collect();
    assert_eq!(numbers, (3..EVENTS as u64 + 3).collect::<Vec<_>>());
}

#[test]
fn what_is_no_box_of_this_place_is_not_kept() {
    let memory = memory();
    let place = Place::new(EXEUNT, EXEUNT.start, 4, false).unwrap();
    memory.publish(ADDRESS, &facts(place));
    assert_eq!(memory.begin(ADDRESS - SIZE as u64), 0, "a copy of another place's");
    memory.publish(ADDRESS, &facts(place));
    memory.header[9].fetch_xor(1, Ordering::Relaxed);
    assert_eq!(memory.begin(ADDRESS), 0, "damaged");
    assert_eq!(memory.begin(ADDRESS), 0, "empty");
    assert!(Core::new(&bytes(&memory)[PREVIOUS..]).is_err());
}

#[test]
fn the_log_is_in_the_box() {
    let memory: &'static Memory = Box::leak(memory());
    memory.begin(ADDRESS);
    let log = memory.log();
    log.append_alone(b"early ");
    for _ in 0..LOG_SIZE / 8 {
        log.append(b"8 bytes.");
    }
    log.append(b"last");
    memory.publish(ADDRESS, &facts(Place::new(EXEUNT, EXEUNT.start, 4, false).unwrap()));
    let bytes = bytes(memory);
    let core = Core::new(&bytes).unwrap();
    let ([first, second], lost) = core.log();
    let all = [first, second].concat();
    assert_eq!((all.len(), lost), (LOG_SIZE, 10));
    assert!(all.starts_with(b"tes.8 bytes.") && all.ends_with(b"8 bytes.last"));
    // SAFETY: leaked above, and nothing refers to it any longer.
    drop(unsafe { Box::from_raw(core::ptr::from_ref(memory).cast_mut()) });
}

#[test]
fn places_fit_whatever_the_machine() {
    for cpus in [0, 1, 2, 4, 8, 12, 15, 16, 17, 31, 51, 52, 64, 127, 128] {
        for free in [
            0,
            EXEUNT.start,
            EXEUNT.start + 0x7_1000,
            EXEUNT.end - 0x4_0000,
            EXEUNT.end - 0x3_0000,
            ADDRESS,
            u64::MAX / 2,
        ] {
            for traced in [false, true] {
                let what = (cpus, free, traced);
                let Some(place) = Place::new(EXEUNT, free, cpus, traced) else {
                    assert!(cpus > 51 && free > EXEUNT.end - 0x3_0000, "{what:?}");
                    continue;
                };
                let what = (what, place);
                assert!(place.start.is_multiple_of(SIZE as u64) && place.region().end == EXEUNT.end, "{what:?}");
                assert!(place.start == ADDRESS || place.start >= free, "{what:?}");
                assert!(place.start >= EXEUNT.start && place.cpu_blocks.is_multiple_of(64), "{what:?}");
                assert_eq!(place.traces, place.cpu_blocks + (cpus * CpuBlock::SIZE) as u64, "{what:?}");
                let first = if place.start == ADDRESS { ADDRESS + ROOM as u64 } else { place.start };
                assert_eq!(place.cpu_blocks, first, "{what:?}");
                let mirror_end = EXEUNT.start + guest_abi::doorbell::MIRROR + place.size;
                assert!(mirror_end <= place.start, "{what:?}: its mirror ends at {mirror_end:#x}");
                let end = place.traces + cpus as u64 * u64::from(place.trace_records) * TraceRecord::SIZE as u64;
                assert!(end <= if place.start == ADDRESS { EXEUNT.end } else { ADDRESS }, "{what:?}");
                assert!(cpus > 15 && free > EXEUNT.end - 0x4_0000 || place.trace_records >= 16, "{what:?}");
            }
        }
    }
}

#[test]
fn a_trace_keeps_a_boot() {
    let place = Place::new(EXEUNT, EXEUNT.start + 0x10_0000, 4, true).unwrap();
    assert!(place.trace_records >= 4096, "{place:?}");
    assert_eq!(Place::new(EXEUNT, EXEUNT.start + 0x10_0000, 4, false).map(|place| place.size), Some(SIZE as u64));
}

#[test]
fn a_ring_keeps_the_last_records() {
    let (block, written) = (Block::new(), AtomicU64::new(0));
    let ring: Vec<Slot> = (0..4).map(|_| Slot::default()).collect();
    let trace = Trace { block: &block, written: &written, ring: &ring };
    let at = |time| Beginning { time, pc: 7, subject: 8, esr: 0x5a00_0000, class: Exit::Hvc, flags: 1, cpu: 3 };
    for time in 0..6 {
        let open = trace.begin(&at(time));
        if time != 4 {
            open.end(time + 9, time + 100, INJECTED);
        }
    }
    // What the host does to the number in the box is of no interest.
    assert_eq!(block.traced.swap(99, Ordering::Relaxed), 6);
    let read = |slot: &Slot| {
        // SAFETY: 48 bytes without padding, which nobody writes meanwhile.
        TraceRecord::from_bytes(&unsafe { core::ptr::from_ref(slot).cast::<[u8; TraceRecord::SIZE]>().read() })
    };
    let records: Vec<_> = ring.iter().map(read).collect();
    let brief = |record: &TraceRecord| (record.time, record.sequence, record.answer, record.duration, record.flags);
    assert_eq!(
        records.iter().map(brief).collect::<Vec<_>>(),
        [(4, 5, 0, 0, 1 | NO_RETURN), (5, 6, 105, 9, 1 | INJECTED), (2, 3, 102, 9, 9), (3, 4, 103, 9, 9)]
    );
    let TraceRecord { pc, subject, esr, class, cpu, .. } = records[1];
    assert_eq!((pc, subject, esr, class, cpu), (7, 8, 0x5a00_0000, Exit::Hvc as u8, 3));
    trace.begin(&at(6)).end(u64::MAX, 0, 0);
    assert_eq!(brief(&read(&ring[2])), (6, 7, 0, u32::MAX, 1));
    // Without a ring they are counted.
    let none = Trace { ring: &[], ..trace };
    none.begin(&at(7)).end(8, 0, 0);
    assert_eq!(block.traced.load(Ordering::Relaxed), 8);
}

#[test]
fn instructions_of_virtual_el2_have_the_syndrome_of_el1() {
    // msr hcr_el2, x7; mrs x19, currentel; dc ivac, x3; eret; hvc #1; smc #0; nop.
    let access = syndrome(0xd51c_1107).unwrap().system_access().unwrap();
    assert_eq!((access.encoding(), access.register()), (Encoding::new(3, 4, 1, 1, 0), 7));
    assert!(!access.is_read());
    let access = syndrome(0xd538_4253).unwrap().system_access().unwrap();
    assert_eq!((access.encoding(), access.register(), access.is_read()), (Encoding::new(3, 0, 4, 2, 2), 19, true));
    let access = syndrome(0xd508_7623).unwrap().system_access().unwrap();
    assert_eq!(access.encoding(), Encoding::new(1, 0, 7, 6, 1));
    let class = |word| syndrome(word).and_then(Esr::class);
    assert_eq!(class(0xd69f_03e0), Some(crate::syndrome::ExceptionClass::Eret));
    assert_eq!(class(0xd400_0022), Some(crate::syndrome::ExceptionClass::Hvc64));
    assert_eq!(syndrome(0xd400_0022).unwrap().immediate(), 1);
    assert_eq!(class(0xd400_0003), Some(crate::syndrome::ExceptionClass::Smc64));
    assert_eq!(class(0xd503_201f), None);
}
