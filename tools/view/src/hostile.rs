//! Tests: boxes with a header that is whole by its checksum and says what it likes, and anything in the rest. There is
//! a refusal or an answer, and neither takes long.

use std::time::{Duration, Instant};

use guest_abi::blackbox::{BlackBox, Core, EXIT_CLASSES, Header, SIZE, TraceRecord, checksum};

use crate::fixture::{self, ADDRESS, EXEUNT};
use crate::{Report, Trace};

/// What no box may take, on a busy workstation.
const LONG: Duration = Duration::from_secs(20);

/// A pseudo-random sequence, the same at each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.0 ^ self.0 >> 29
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }

    /// A number as damage and malice have it: an edge, one that nearly fits, or any.
    fn number(&mut self) -> u64 {
        let edges = [0, 1, 2, 64, 640, 0xffff, 1 << 31, u32::MAX.into(), 1 << 63, u64::MAX, ADDRESS, EXEUNT, 0x1_0000];
        match self.below(4) {
            0 => self.next(),
            1 => edges[self.below(edges.len())].wrapping_add(self.below(3) as u64).wrapping_sub(1),
            2 => edges[self.below(edges.len())],
            _ => ADDRESS.wrapping_sub(self.below(64) as u64 * 0x1_0000),
        }
    }
}

/// Changes some fields of a header.
fn spoil(header: &mut Header, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let number = random.number();
        match random.below(16) {
            0 => header.version = number as u16,
            1 => header.cpus = number as u16,
            2 => header.core_size = number as u32,
            3 => header.address = number,
            4 => header.exeunt = number,
            5 => header.start = number,
            6 => header.size = number,
            7 => header.cpu_blocks = number,
            8 => header.cpu_size = number as u32,
            9 => header.trace_size = number as u32,
            10 => header.traces = number,
            11 => header.trace_records = number as u32,
            12 => header.frequency = number,
            13 => header.started = number,
            14 => header.starts = number as u32,
            _ => header.options[random.below(96)] = number as u8,
        }
    }
}

/// Reads a box in all ways. Returns whether it was one.
fn read(bytes: &[u8], start: u64) -> bool {
    if let Ok(core) = Core::new(&bytes[bytes.len() - SIZE..]) {
        assert!(!Report::of_core(&core).to_string().is_empty());
    }
    let Ok(found) = BlackBox::new(bytes, start) else { return false };
    let report = Report::of(&found);
    assert!(!report.to_string().is_empty() && report.short().to_string().chars().all(|c| c == '\n' || !c.is_control()));
    assert!(serde_json::to_string(&report).is_ok());
    assert!(Trace::Perfetto.make(&found).starts_with('{') && Trace::Html.make(&found).contains("</html>"));
    true
}

fn rounds(count: u64) {
    let boxes = [fixture::boot(), fixture::kexec(), fixture::crash()].map(|builder| (builder.header, builder.build()));
    let mut told = 0;
    for round in 0..count {
        let mut random = Random(round + 1);
        let (mut header, mut bytes) = boxes[random.below(boxes.len())].clone();
        spoil(&mut header, &mut random);
        let core = bytes.len() - SIZE;
        bytes[core..core + Header::SIZE].copy_from_slice(&header.to_bytes());
        for _ in 0..random.below(400) {
            let place = random.below(bytes.len() - 8);
            let number = random.number().to_le_bytes();
            if place + 8 <= core || place >= core + Header::SIZE {
                bytes[place..place + 8].copy_from_slice(&number);
            }
        }
        let end = core + Header::SIZE - 8;
        let sum = checksum(&bytes[core..end]);
        bytes[end..end + 8].copy_from_slice(&sum.to_le_bytes());
        let begin = Instant::now();
        told += u64::from(read(&bytes, header.start));
        assert!(begin.elapsed() < LONG, "round {round}");
    }
    assert!(told > count / 10 && told < count, "{told} of {count}");
}

#[test]
fn a_header_may_say_what_it_likes() {
    rounds(500);
}

#[test]
#[ignore = "takes minutes"]
fn for_longer() {
    rounds(20_000);
}

/// As many CPUs as have room, and as many records.
#[test]
fn the_largest_boxes_take_no_time() {
    for (cpus, records) in [(2900, 0), (1, 32768), (60, 512)] {
        let mut builder = fixture::Builder::new(cpus, records);
        for block in &mut builder.cpus {
            block.traced = if records == 0 { u64::MAX } else { 10 * u64::from(records) };
            block.stop = 3;
            block.exits = [u64::MAX; EXIT_CLASSES];
        }
        let mut bytes = builder.build();
        // Rings that have gone round, each record with another register.
        let traces = (builder.header.traces - builder.header.start) as usize;
        for (number, place) in (0..u32::from(cpus) * records).zip((traces..).step_by(TraceRecord::SIZE)) {
            let sequence = 9 * records + number % records + 1;
            let esr = 0x6200_0000 | number & 0x1f_ffff;
            let record =
                TraceRecord { time: ADDRESS + u64::from(number), sequence, esr, class: 4, ..TraceRecord::default() };
            bytes[place..place + TraceRecord::SIZE].copy_from_slice(&record.to_bytes());
        }
        let begin = Instant::now();
        assert!(read(&bytes, builder.header.start));
        let view = BlackBox::new(&bytes, builder.header.start).unwrap();
        assert_eq!(view.trace(0).count(), records as usize);
        assert!(begin.elapsed() < LONG, "{cpus} CPUs: {:?}", begin.elapsed());
    }
}
