//! Keeps `docs/black-box.md` the same as the contract, and the reader from believing what it finds.
//!
//! `UPDATE_DOCS=1 cargo test -p guest-abi --test blackbox` writes the page anew.

mod rendered;

use std::fmt::Write as _;

use guest_abi::blackbox::{
    BlackBox, CORE, Cause, CpuBlock, Error, Event, Header, Kind, LIVE, MAGIC, RECORDS, SIZE, Stop, TraceRecord,
    VERSION, checksum,
};

const HEAD: &str = "\
# The black box

What Exeunt writes down for later. After a crash it is in the dump, whatever tool made it. After a reset the next start
finds it. While Linux runs, `exeunt` reads it ([seen from inside](seen.md)). This page is rendered from
`guest-abi/src/blackbox.rs`, which has a reader for it in Rust.

## Where it is

The box is the last 64 KiB of Exeunt's 2 MiB. With more than 15 CPUs, and with the option `trace`, it begins a multiple
of 64 KiB earlier. The heap gets the rest, so that Exeunt never takes more than its 2 MiB.

Linux has these pages as RAM that is reserved but mapped: the node `/reserved-memory/exeunt-box@...` of the device tree
has no `no-map`. That is why they are in `/proc/vmcore`, and why makedumpfile keeps them at every level: a reserved page
is none that it leaves out. Stage 2 lets Linux read them and nothing else. A store there has no effect, as one into a
ROM; the first one has a line in the log, and all are counted. It could have been an abort. But a Linux that resumes
from hibernation puts reserved pages back too, at a moment when it has no vectors.

A tool finds the box by the address in the device tree, or by the magic at a multiple of 64 KiB. The header's checksum
says whether it is whole. `exeunt-dump` does both.

Once Exeunt has left a CPU, that CPU can write to the box as to any RAM. Exeunt reads nothing back from it that it
depends on.

## After a reset

RAM keeps what it holds when the machine is reset in place. So the first thing that Exeunt does, before it writes a
line, is to look for the box of its last start. If the header's checksum is right, the first 16 KiB are kept beside the
new ones: the reason of a death, the life cycle, the counters, the log. The log of the new start says so. Exeunt writes
the box back from the caches when the host turns the machine off or resets it, and when it dies itself.

## Layout

| offset | what |
|---|---|
| 0x0000 | Header: written once, before the host runs; with a checksum |
| 0x0100 | Live: what changes |
| 0x0200 | Death: why Exeunt itself has died, if it has |
| 0x0800 | the life cycle: a ring of 64 Events |
| 0x1000 | 256 keys of registers, 4 bytes each; the last key, all ones, is that of all others |
| 0x1400 | 256 counters of accesses to these registers, 4 bytes each |
| 0x2000 | the log: a ring of 8 KiB |
| 0x4000 | the first 16 KiB of the last start's box, if it was whole |
| 0x8000 | CpuBlocks and traces, if they have room here |

All numbers are little-endian, addresses are physical, times are those of CNTPCT_EL0. A key is the register's encoding:
op0 in bits 15:14, op1 in 13:11, CRn in 10:7, CRm in 6:3, op2 in 2:0. The last record of each ring is known by how many
were written. An Event or TraceRecord whose `sequence` is another was not written to its end. The checksum is FNV-1a
with 64 bits over the header's bytes before it, taken eight at a time as numbers.

The registers of a CPU are counted on that CPU first, and are in the box when its host goes on in hardware. All else is
there when the exit is over.
";

fn page() -> String {
    let mut page = String::from(HEAD);
    let out = &mut page;
    for (name, size, fields) in RECORDS {
        write!(out, "\n### {name}, {size} bytes\n\n| offset | bytes | field | meaning |\n|---|---|---|---|\n").unwrap();
        for field in *fields {
            // Links within the source mean nothing here.
            let meaning = field.meaning.trim().replace(['[', ']'], "");
            writeln!(out, "| {} | {} | `{}` | {meaning} |", field.offset, field.size, field.name).unwrap();
        }
    }
    out.push_str("\n## Numbers\n\n| event | what happened; in brackets, what its numbers are |\n|---|---|\n");
    for kind in Kind::ALL {
        writeln!(out, "| {} | {} |", *kind as u16, kind.words()).unwrap();
    }
    out.push_str("\n| stop | why the registers were kept |\n|---|---|\n");
    for stop in Stop::ALL {
        writeln!(out, "| {} | {} |", *stop as u16, stop.words()).unwrap();
    }
    out.push_str("\n| cause | why Exeunt died |\n|---|---|\n");
    for cause in Cause::ALL {
        writeln!(out, "| {} | {} |", *cause as u16, cause.words()).unwrap();
    }
    page
}

#[test]
fn page_is_current() {
    rendered::assert_current("docs/black-box.md", &page());
}

#[test]
fn the_page_repeats_the_right_numbers() {
    assert_eq!((SIZE, CORE, LIVE, Event::SIZE), (0x1_0000, 0x4000, 0x100, 32));
    for (offset, what) in [
        (guest_abi::blackbox::DEATH, "Death"),
        (guest_abi::blackbox::HISTORY, "the life cycle"),
        (guest_abi::blackbox::REGISTER_KEYS, "256 keys"),
        (guest_abi::blackbox::REGISTER_COUNTS, "256 counters"),
        (guest_abi::blackbox::LOG, "the log: a ring"),
        (guest_abi::blackbox::PREVIOUS, "the first 16 KiB"),
        (guest_abi::blackbox::ROOM, "CpuBlocks"),
    ] {
        assert!(HEAD.contains(&format!("| {offset:#06x} | {what}")), "{offset:#06x} {what}");
    }
}

/// A box of two CPUs with four trace records each.
fn whole() -> (Vec<u8>, u64) {
    let (exeunt, start) = (0x4020_0000_u64, 0x403f_0000_u64);
    let mut header = Header {
        magic: MAGIC,
        version: VERSION,
        cpus: 2,
        core_size: CORE as u32,
        address: start,
        exeunt,
        start,
        size: SIZE as u64,
        cpu_blocks: start + 0x8000,
        cpu_size: CpuBlock::SIZE as u32,
        trace_size: TraceRecord::SIZE as u32,
        traces: start + 0x8000 + 2 * CpuBlock::SIZE as u64,
        trace_records: 4,
        ..Header::default()
    };
    header.checksum = checksum(&header.to_bytes()[..Header::SIZE - 8]);
    let mut bytes = vec![0; SIZE];
    bytes[..Header::SIZE].copy_from_slice(&header.to_bytes());
    (bytes, start)
}

/// Signs the header of `bytes` again.
fn sign(bytes: &mut [u8]) {
    let sum = checksum(&bytes[..Header::SIZE - 8]);
    bytes[Header::SIZE - 8..Header::SIZE].copy_from_slice(&sum.to_le_bytes());
}

fn read_all(bytes: &[u8], start: u64) -> Result<usize, Error> {
    let whole = BlackBox::new(bytes, start)?;
    let core = whole.core();
    let mut found = core.events().count() + core.registers().count() + core.log().0.concat().len();
    found += usize::from(core.death().is_some()) + usize::from(whole.previous().is_some());
    for cpu in 0..=core.header().cpus.min(300) {
        found += whole.trace(cpu).count() + usize::from(whole.cpu(cpu).is_some());
    }
    Ok(found)
}

#[test]
fn what_is_no_box_is_an_error() {
    let (bytes, start) = whole();
    assert_eq!(read_all(&bytes, start), Ok(2));
    assert_eq!(BlackBox::new(&bytes[..100], start).unwrap_err(), Error::TooShort(SIZE));
    assert_eq!(BlackBox::new(&bytes, start + 4096).unwrap_err(), Error::Contradiction);
    assert_eq!(BlackBox::new(&vec![0; SIZE], start).unwrap_err(), Error::NoMagic);
    let mut damaged = bytes.clone();
    damaged[20] ^= 1;
    assert_eq!(BlackBox::new(&damaged, start).unwrap_err(), Error::Checksum);
    let mut old = bytes;
    old[8] = 0;
    sign(&mut old);
    assert_eq!(BlackBox::new(&old, start).unwrap_err(), Error::Version(0));
}

/// A small generator: the same numbers in every run (xorshift64*).
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[test]
fn whatever_is_written_into_a_box_the_reader_comes_to_an_end() {
    let (bytes, start) = whole();
    let mut state = 1;
    let rounds = if cfg!(miri) { 20 } else { 20_000 };
    let mut readable = 0;
    for _ in 0..rounds {
        let mut bytes = bytes.clone();
        for _ in 0..=random(&mut state) % 4 {
            // Mostly where numbers are that others depend on.
            let limit = if random(&mut state).is_multiple_of(4) { SIZE } else { 0x220 };
            let place = random(&mut state) as usize % (limit - 8);
            let value = match random(&mut state) % 4 {
                0 => u64::MAX >> (random(&mut state) % 64),
                1 => 1 << (random(&mut state) % 64),
                2 => start + random(&mut state) % 0x2_0000,
                _ => random(&mut state),
            };
            let size = 1 << (random(&mut state) % 4);
            bytes[place..place + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        if !random(&mut state).is_multiple_of(8) {
            sign(&mut bytes);
        }
        readable += usize::from(read_all(&bytes, start).is_ok());
    }
    assert!(readable > rounds / 8, "{readable} of {rounds} could be read");
}
