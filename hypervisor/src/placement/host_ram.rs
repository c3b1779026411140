//! Which addresses are the host's RAM: to go to, and for Exeunt to read and write on its behalf.
//!
//! Two questions, with two answers. Where the host wants to go on at EL2 or EL1 is its own affair: all RAM that is not
//! Exeunt's will do, also what the tree keeps for somebody, since that somebody may be another hypervisor of the
//! host's. Exeunt itself keeps off what the host must not map either: an access there may be one that nothing answers,
//! or that firmware takes for an attack.

use crate::devicetree::{Platform, Region};
use crate::paging::PAGE_SIZE;

/// The host's RAM.
#[derive(Clone, Copy, Debug)]
pub struct HostRam<'a> {
    memory: &'a [Region],
    no_map: &'a [Region],
    reserved: &'a [Region],
    exeunt: Region,
    loaded: [Region; 3],
    /// Somebody else has something, which most machines do without.
    has_others: bool,
}

impl<'a> HostRam<'a> {
    /// The RAM of this machine without Exeunt's memory. `loaded` is what the loader has put there for the host: kernel,
    /// initial RAM disk and tree. Loaders reserve these by `/memreserve/`, and the host uses them as any other RAM.
    #[must_use]
    pub fn new(platform: &'a Platform, exeunt: Region, loaded: [Region; 3]) -> Self {
        let Platform { memory, no_map, reserved, .. } = platform;
        let has_others = !no_map.is_empty() || !reserved.is_empty();
        Self { memory, no_map, reserved, exeunt, loaded, has_others }
    }

    /// Whether the byte at `address` is RAM that is not Exeunt's.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        self.memory.iter().any(|ram| ram.has(address)) && !self.exeunt.has(address)
    }

    /// Whether Exeunt may read and write the page with the byte at `address` because the host asks for it: all of it
    /// RAM, and nothing in it that the tree has as `no-map`, or that its reservation block keeps for others than the
    /// host.
    #[must_use]
    #[inline]
    pub fn is_open(&self, address: u64) -> bool {
        let start = address & !(PAGE_SIZE - 1);
        let page = Region { start, end: start.saturating_add(PAGE_SIZE) };
        self.memory.iter().any(|ram| ram.contains(page))
            && !self.exeunt.overlaps(page)
            && !(self.has_others && self.is_anothers(page))
    }

    /// Whether all of `region` is RAM of the host's, and nothing of it is kept for others. It may lie in several banks
    /// that the tree names one after the other.
    #[must_use]
    pub fn has(&self, region: Region) -> bool {
        let mut at = region.start;
        while at < region.end {
            // Ends: a bank that has an address ends after it.
            let Some(bank) = self.memory.iter().find(|bank| bank.has(at)) else { return false };
            at = bank.end;
        }
        !(self.exeunt.overlaps(region) || self.has_others && self.is_anothers(region))
    }

    #[cold]
    #[inline(never)]
    fn is_anothers(&self, page: Region) -> bool {
        let is_loaded = |region: &Region| self.loaded.iter().any(|loaded| loaded.overlaps(*region));
        self.no_map.iter().any(|region| region.overlaps(page))
            || self.reserved.iter().any(|region| region.overlaps(page) && !is_loaded(region))
    }
}
