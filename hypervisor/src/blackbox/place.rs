//! How large the box is, and where the CPUs' parts are in it.
//!
//! The core has room for the blocks and short traces of a few CPUs. For more, and for a trace that keeps a whole boot,
//! the box begins a multiple of 64 KiB earlier, and what it takes there the heap does not get.

use guest_abi::blackbox::{CpuBlock, ROOM, SIZE, TraceRecord};

use crate::devicetree::Region;

/// Where the parts of a box are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first byte.
    pub start: u64,
    /// Bytes, to the end of Exeunt's 2 MiB.
    pub size: u64,
    /// The CPUs' blocks.
    pub cpu_blocks: u64,
    /// The CPUs' traces.
    pub traces: u64,
    /// Records in each CPU's trace: a power of two.
    pub trace_records: u32,
}

/// Records that each CPU gets at least.
const FEWEST_RECORDS: u64 = 16;

/// Records that make the box grow no further.
const MOST_RECORDS: u64 = 16384;

impl Place {
    /// The place of the box of a machine with `cpus` CPUs, at the end of `exeunt`, of which the box may have what begins
    /// at `free`. With `traced` it takes as much of that as its traces can use.
    #[must_use]
    pub fn new(exeunt: Region, free: u64, cpus: usize, traced: bool) -> Self {
        let step = SIZE as u64;
        let cpus = (cpus as u64).max(1);
        let core = exeunt.end - step;
        let most = core.saturating_sub(free.next_multiple_of(step)).min(exeunt.end - exeunt.start - step) / step * step;
        let records = |room: u64| (room / cpus).saturating_sub(CpuBlock::SIZE as u64) / TraceRecord::SIZE as u64;
        let inside = records(step - ROOM as u64);
        let (start, room_at, records) = if !traced && inside >= FEWEST_RECORDS {
            (core, core + ROOM as u64, inside)
        } else {
            let wanted = if traced { MOST_RECORDS } else { FEWEST_RECORDS };
            let wanted = cpus * (CpuBlock::SIZE as u64 + wanted * TraceRecord::SIZE as u64);
            let more = wanted.next_multiple_of(step).min(most);
            // Without room for more, as much as there is in the core.
            if more < step - ROOM as u64 {
                (core, core + ROOM as u64, inside)
            } else {
                (core - more, core - more, records(more))
            }
        };
        let trace_records = match records.min(MOST_RECORDS).checked_ilog2() {
            Some(bits) => 1 << bits,
            None => 0,
        };
        let traces = room_at + cpus * CpuBlock::SIZE as u64;
        Self { start, size: exeunt.end - start, cpu_blocks: room_at, traces, trace_records }
    }

    /// All of it.
    #[must_use]
    pub const fn region(&self) -> Region {
        Region { start: self.start, end: self.start + self.size }
    }
}
