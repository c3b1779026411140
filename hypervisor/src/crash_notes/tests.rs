//! Core headers as kexec-tools and Linux make them, and memory that is anything.

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;

const RAM: u64 = 0x4000_0000;
const REGION: Region = Region { start: RAM + 0x4000, end: RAM + 0x1_0000 };
const NOTES: u64 = RAM + 0x1000;
const NOTE_SIZE: u64 = 0x200;

/// RAM from [`RAM`] on.
struct Bytes(RefCell<Vec<u8>>);

impl Memory for Bytes {
    fn word(&self, address: u64) -> Option<u64> {
        assert!(address.is_multiple_of(8));
        let at = usize::try_from(address.checked_sub(RAM)?).ok()?;
        self.0.borrow().get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
    }

    fn put(&self, address: u64, bytes: &[u8]) -> bool {
        let at = (address - RAM) as usize;
        let mut ram = self.0.borrow_mut();
        let Some(place) = ram.get_mut(at..at + bytes.len()) else { return false };
        place.copy_from_slice(bytes);
        true
    }
}

impl Bytes {
    fn set(&self, address: u64, bytes: &[u8]) {
        assert!(self.put(address, bytes));
    }
}

/// Memory with a core header at `header`: a note of each of `cpus` CPUs, vmcoreinfo, and a range of memory.
fn memory(header: u64, cpus: u64) -> Bytes {
    let bytes = Bytes(RefCell::new(vec![0; 0x1_0000]));
    // Behind the header of a note there may be anything.
    bytes.set(NOTES + NOTE_SIZE + 20, &[0x55; 392]);
    let entries = cpus + 2;
    for (at, half) in [(16, 4_u16), (18, 183), (52, 64), (54, 56), (56, entries as u16)] {
        bytes.set(header + at, &half.to_le_bytes());
    }
    bytes.set(header, &[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    bytes.set(header + 20, &1_u32.to_le_bytes());
    bytes.set(header + 32, &64_u64.to_le_bytes());
    let entry = |number: u64, kind: u32, offset: u64, size: u64| {
        let at = header + 64 + 56 * number;
        bytes.set(at, &kind.to_le_bytes());
        for (field, value) in [(8, offset), (24, offset), (32, size), (40, size)] {
            bytes.set(at + field, &u64::to_le_bytes(value));
        }
    };
    for cpu in 0..cpus {
        entry(cpu, 4, NOTES + cpu * NOTE_SIZE, 424);
    }
    entry(cpus, 4, RAM + 0x3000, 0x1000);
    entry(cpus + 1, 1, RAM, 0x4000);
    bytes.set(RAM + 0x3000, &[11, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0]);
    bytes.set(RAM + 0x300c, b"VMCOREINFO");
    bytes
}

/// Registers that tell which they are.
struct Numbers {
    seed: u64,
    pstate: u64,
}

impl Registers for Numbers {
    fn x(&self, number: usize) -> u64 {
        assert!(number < 31);
        self.seed + number as u64
    }

    fn stack_pointers(&self) -> [u64; 2] {
        [self.seed + 100, self.seed + 101]
    }

    fn pc(&self) -> u64 {
        self.seed + 102
    }

    fn pstate(&self) -> u64 {
        self.pstate
    }
}

const fn registers(seed: u64) -> Numbers {
    Numbers { seed, pstate: pstate::EL1H }
}

#[test]
fn an_empty_note_gets_the_registers() {
    for header in [REGION.start, REGION.start + 0x5000, REGION.end - 0x1000] {
        let bytes = memory(header, 3);
        let notes = Notes::find(&bytes, REGION).expect("there is a header");
        notes.fill(1, &registers(0x1000)).expect("it is empty");
        let at = (NOTES + NOTE_SIZE - RAM) as usize;
        let ram = bytes.0.borrow().clone();
        let note = &ram[at..at + NOTE];
        assert_eq!(note[..20], *b"\x05\0\0\0\x88\x01\0\0\x01\0\0\0CORE\0\0\0\0");
        let register = |number: usize| {
            let at = 20 + 112 + 8 * number;
            u64::from_le_bytes(note[at..at + 8].try_into().expect("eight bytes"))
        };
        assert!(note[20..132].iter().chain(&note[132 + 34 * 8..]).all(|&byte| byte == 0));
        for number in 0..31 {
            assert_eq!(register(number), 0x1000 + number as u64);
        }
        assert_eq!([31, 32, 33].map(register), [0x1000 + 101, 0x1000 + 102, pstate::EL1H]);
        // Nothing else has changed.
        let before = memory(header, 3).0.into_inner();
        let written = at..at + NOTE;
        assert!((0..ram.len()).all(|index| written.contains(&index) || ram[index] == before[index]));
        // And a second time it is not empty.
        assert_eq!(notes.fill(1, &registers(0)), Err(Error::NotEmpty));
    }
}

#[test]
fn the_stack_pointer_is_the_one_in_use() {
    let of = |pstate| stack_pointer(&Numbers { pstate, seed: 0 });
    assert_eq!(of(pstate::EL1H), 101);
    assert_eq!(of(pstate::EL1H | pstate::DAIF | pstate::NZCV), 101);
    assert_eq!([of(0), of(pstate::EL1H & !pstate::SP)], [100, 100], "EL0 and EL1t");
}

#[test]
fn what_is_no_empty_note_stays_as_it_is() {
    let header = REGION.start;
    let bytes = memory(header, 2);
    let before = bytes.0.borrow().clone();
    let notes = Notes::find(&bytes, REGION).expect("there is a header");
    // vmcoreinfo, and what is behind it.
    assert_eq!(notes.fill(2, &registers(0)), Err(Error::NotEmpty));
    assert_eq!(notes.fill(3, &registers(0)), Err(Error::NoNote));
    assert_eq!(notes.fill(usize::MAX, &registers(0)), Err(Error::NoNote));
    assert_eq!(*bytes.0.borrow(), before);
    // A note outside of RAM, at its end, at an odd place, and one that is too small.
    for (note, size, error) in [
        (0x1000, 424, Error::NotInRam),
        (u64::MAX - 7, 424, Error::NotInRam),
        (RAM + 0x1_0000 - 408, 424, Error::NotInRam),
        (NOTES + 4, 424, Error::NoNote),
        (NOTES, 423, Error::NoNote),
    ] {
        bytes.set(header + 64 + 8, &note.to_le_bytes());
        bytes.set(header + 64 + 32, &u64::to_le_bytes(size));
        assert_eq!(notes.fill(0, &registers(0)), Err(error), "{note:#x}");
    }
}

#[test]
fn only_a_core_header_of_this_architecture_is_one() {
    let header = REGION.start + 0x1000;
    assert!(Notes::find(&memory(header, 4), REGION).is_some());
    // Not on a page, and not in the region.
    assert!(Notes::find(&memory(header + 8, 4), REGION).is_none());
    assert!(Notes::find(&memory(RAM + 0x2000, 4), REGION).is_none());
    for (at, value) in [(0, 0x7e), (4, 1), (5, 2), (16, 3), (18, 62), (32, 8), (33, 0xff), (54, 32), (57, 0xff)] {
        let bytes = memory(header, 4);
        bytes.set(header + at, &[value]);
        assert!(Notes::find(&bytes, REGION).is_none(), "byte {at}");
    }
    assert!(Notes::find(&memory(header, 4), Region { start: u64::MAX - 0xfff, end: u64::MAX }).is_none());
}

#[test]
fn linux_counts_from_the_cpu_that_it_has_booted_on() {
    assert_eq!([0, 1, 2, 3].map(|cpu| number_in_linux(cpu, 0)), [0, 1, 2, 3]);
    assert_eq!([0, 1, 2, 3].map(|cpu| number_in_linux(cpu, 2)), [1, 2, 0, 3]);
}

proptest! {
    #[test]
    fn whatever_is_in_memory_is_no_reason_to_panic(
        changes in prop::collection::vec((0usize..0x400, any::<u8>()), 0..40), cpu in 0usize..8
    ) {
        let header = REGION.start;
        let bytes = memory(header, 3);
        for (at, value) in changes {
            bytes.set(header + at as u64, &[value]);
        }
        if let Some(notes) = Notes::find(&bytes, REGION) {
            let _ = notes.fill(cpu, &registers(7));
        }
    }
}
