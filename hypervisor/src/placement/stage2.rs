//! The host's stage 2: identity, all of the address space but Exeunt's own memory.
//!
//! RAM can be executed. Everything else cannot, until the host does: the tree names RAM and some devices, and between
//! them lies what it does not name, bus windows and devices that are found by probing, and places where RAM is added
//! later. Nothing says beforehand which is which. docs/memory.md has the reasons.

use super::AddressMap;
use crate::devicetree::Region;
use crate::paging::stage2::{Attributes, Layout, Stage2};
use crate::paging::{Error, PAGE_SIZE, TableMemory};

/// The IPA size in bits that is there at least, if the CPU has as much: the tree need not name the place of RAM that is
/// added later. Two tables at the initial lookup level, as for QEMU's virt.
const USUAL_IPA_BITS: u32 = 40;

impl AddressMap<'_> {
    /// Builds the tables, for a machine whose RAM, devices and bus windows end at `highest`. Of Exeunt's memory the
    /// host may read `blackbox`.
    ///
    /// # Errors
    ///
    /// An [`Error`] of the tables: mostly that there is no memory left for them. RAM that the CPU does not reach is one
    /// too.
    pub fn stage2<M: TableMemory>(&self, memory: &mut M, highest: u64, blackbox: Region) -> Result<Stage2, Error> {
        let layout = Layout::new(self.ipa_bits(highest), self.pa_range)?;
        let mut stage2 = Stage2::all(memory, layout, Attributes::ExecuteNever)?;
        for ram in self.memory {
            // Only whole pages are RAM to the host as well (Linux memblock, early_init_dt_add_memory_arch).
            let Some(first) = ram.start.checked_next_multiple_of(PAGE_SIZE) else { continue };
            let last = ram.end & !(PAGE_SIZE - 1);
            if first < last {
                stage2.map(memory, first..last, Attributes::Executable)?;
            }
        }
        // All of it first, which is a block of its own: the table for the rest of it then begins empty.
        stage2.unmap(memory, self.exeunt.start..self.exeunt.end)?;
        stage2.map(memory, blackbox.start..blackbox.end, Attributes::ReadOnly)?;
        Ok(stage2)
    }

    /// The IPA size in bits: all that the machine has at an address, as far as the CPU reaches. A device beyond that is
    /// out of reach with or without stage 2.
    pub(super) fn ipa_bits(&self, highest: u64) -> u32 {
        let last = highest.max(self.exeunt.end).saturating_sub(1);
        (u64::BITS - last.leading_zeros()).max(USUAL_IPA_BITS).min(self.pa_range.bits())
    }
}
