//! How large the box is, and where the CPUs' parts are in it.
//!
//! The core has room for the blocks and short traces of a few CPUs. For more, and for a trace that keeps a whole boot,
//! the box begins a multiple of 64 KiB earlier, and what it takes there the heap does not get.

use guest_abi::blackbox::{CpuBlock, ROOM, SIZE, TraceRecord};
use guest_abi::doorbell::MIRROR;

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
    /// The place of the box of a machine with `cpus` CPUs, at the end of `exeunt`, of which the box may have what
    /// begins at `free`. With `traced` it takes as much of that as its traces can use. Nothing if there is no room for
    /// the CPUs' blocks.
    #[must_use]
    pub fn new(exeunt: Region, free: u64, cpus: usize, traced: bool) -> Option<Self> {
        let (step, cpus) = (SIZE as u64, cpus as u64);
        let core = exeunt.end - step;
        // Its mirror in the doorbell's pages ends before it begins.
        let mirrored = (exeunt.size() - MIRROR) / 2 / step * step - step;
        let more = core.saturating_sub(free.max(exeunt.start).next_multiple_of(step)).min(mirrored);
        let wanted = |records| cpus * (CpuBlock::SIZE as u64 + records * TraceRecord::SIZE as u64);
        let inside = step - ROOM as u64;
        let (blocks, size) = if !traced && wanted(FEWEST_RECORDS) <= inside {
            (core + ROOM as u64, inside)
        } else {
            let size = wanted(if traced { MOST_RECORDS } else { FEWEST_RECORDS }).next_multiple_of(step).min(more);
            // Without room for more, what there is in the core.
            if size < inside { (core + ROOM as u64, inside) } else { (core - size, size) }
        };
        let records = size.checked_sub(wanted(0))? / TraceRecord::SIZE as u64 / cpus.max(1);
        let trace_records = match records.min(MOST_RECORDS).checked_ilog2() {
            Some(bits) => 1 << bits,
            None => 0,
        };
        let start = blocks.min(core);
        let size = exeunt.end - start;
        Some(Self { start, size, cpu_blocks: blocks, traces: blocks + cpus * CpuBlock::SIZE as u64, trace_records })
    }

    /// All of it.
    #[must_use]
    pub const fn region(&self) -> Region {
        Region { start: self.start, end: self.start + self.size }
    }
}
