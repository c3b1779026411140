//! Tables that CPUs walk while they change: break-before-make, from within a change.
//!
//! Owns the order of three stores around one descriptor, and nothing else. Arm ARM D8, "Using break-before-make when
//! updating translation table entries": a valid descriptor that becomes another valid one, of another size, type of
//! memory or output address, has to be invalid in between, for as long as it takes all TLBs to forget it. Other
//! permissions alone need no break: the TLB is told after the change.

use super::TableMemory;
use super::descriptor::VALID;

/// [`TableMemory`] for tables that other CPUs walk. They may see a translation fault where a descriptor is about to
/// change, and have to try again: who handles that fault waits until the change is over.
#[derive(Debug)]
pub struct Live<M, F> {
    memory: M,
    /// Completes the stores so far for all walks, and has all TLBs forget what they hold of the tables; complete when
    /// it returns.
    invalidate: F,
}

impl<M: TableMemory, F: FnMut()> Live<M, F> {
    /// Tables in `memory`.
    pub fn new(memory: M, invalidate: F) -> Self {
        Self { memory, invalidate }
    }
}

/// Bits that may change in a valid descriptor without a break: the permissions of a block or page of stage 2, S2AP
/// (7:6) and XN (54:53).
const PERMISSIONS: u64 = 0b11 << 6 | 0b11 << 53;

/// Whether a descriptor that is `old` must not become `new` at once. Also if it becomes invalid: what hung below it may
/// be given away after that.
#[must_use]
const fn needs_break(old: u64, new: u64) -> bool {
    old & VALID != 0 && (old ^ new) & !PERMISSIONS != 0
}

impl<M: TableMemory, F: FnMut()> TableMemory for Live<M, F> {
    fn alloc(&mut self, pages: usize) -> Option<u64> {
        self.memory.alloc(pages)
    }

    /// What unlinked the table has been a break, so that no TLB and no walk knows of it any more.
    fn free(&mut self, table: u64) {
        self.memory.free(table);
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        self.memory.read(table, index)
    }

    fn write(&mut self, table: u64, index: usize, descriptor: u64) {
        if needs_break(self.memory.read(table, index), descriptor) {
            self.memory.write(table, index, 0);
            (self.invalidate)();
        }
        self.memory.write(table, index, descriptor);
    }

    fn replace(&mut self, table: u64, index: usize, old: u64, new: u64) -> bool {
        self.memory.replace(table, index, old, new)
    }

    fn fence(&mut self) {
        self.memory.fence();
    }
}
