//! The host's stage 2: identity, everything but Exeunt's own 2 MiB.
//!
//! RAM is Normal memory as the host's stage 1 says; everything else that the machine can have at an address is Device
//! memory that cannot be executed, also where the device tree names nothing: that is where devices are found by
//! probing, and bus windows lie.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{VTCR_EL2, VTTBR_EL2, Writeable};
use hypervisor::devicetree::Platform;
use hypervisor::paging::stage2::{Attributes, Layout, Stage2};
use hypervisor::paging::{Error, PAGE_SIZE};

use crate::memory::{self, TablePages};

/// The smallest IPA size worth having, in bits: what 32-bit devices can name.
const MIN_IPA_BITS: u32 = 32;

/// What the registers hold that turn this stage 2 on.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// VTCR_EL2.
    pub vtcr: u64,
    /// VTTBR_EL2.
    pub vttbr: u64,
    /// IPA size in bits.
    pub ipa_bits: u32,
    /// The tables at the initial lookup level.
    root: Root,
}

/// The tables at the initial lookup level, as entries in a row.
#[derive(Clone, Copy, Debug)]
struct Root {
    address: u64,
    entries: usize,
    /// Its initial lookup level.
    level: u8,
}

/// Bit 0 of a descriptor: valid (Arm ARM D8.3.1). Whatever the others are, a walk ends at a descriptor without it.
const VALID: u64 = 1;

impl Root {
    /// Whether the entry that translates `ipa` is there.
    fn is_valid(self, ipa: u64) -> bool {
        // 4 KiB tables: 9 bits for each level, 12 for the page.
        let index = ipa >> (12 + 9 * (3 - self.level));
        let entry = core::ptr::with_exposed_provenance::<u64>(self.address as usize).wrapping_add(index as usize);
        // SAFETY: an entry of Exeunt's own table; volatile, because the leaver of a LEAVE may be changing it.
        index < self.entries as u64 && unsafe { entry.read_volatile() } & VALID != 0
    }

    /// Sets or clears the valid bit in every entry that has anything. Single stores, so that a walk sees the old or the
    /// new.
    fn set_valid(self, valid: bool) {
        for index in 0..self.entries {
            let entry = core::ptr::with_exposed_provenance_mut::<u64>(self.address as usize).wrapping_add(index);
            // SAFETY: Exeunt's own table, complete and mapped; only the leaver of the one LEAVE that can be under way
            // changes it, and walkers read it; volatile for their sake.
            unsafe {
                let descriptor = entry.read_volatile();
                if descriptor != 0 {
                    entry.write_volatile(if valid { descriptor | VALID } else { descriptor & !VALID });
                }
            }
        }
    }
}

impl Registers {
    /// Writes them on this CPU. Nothing translates with them before HCR_EL2.VM is set, and the TLB holds nothing of
    /// theirs before that either.
    pub fn write(self) {
        VTCR_EL2.set(self.vtcr);
        VTTBR_EL2.set(self.vttbr);
    }

    /// Takes the host's memory away from every CPU that runs it: the tables end at their root, and no TLB holds
    /// anything of them when this returns (Arm ARM D8.17: TLBI VMALLS12E1IS of the current VMID, complete at the DSB,
    /// on all CPUs of the Inner Shareable domain). A CPU that is at EL1 or EL0 takes a stage 2 translation fault at its
    /// next fetch.
    pub fn hide(self) {
        self.root.set_valid(false);
        // SAFETY: forgets translations only.
        unsafe {
            core::arch::asm!("dsb ishst", "tlbi vmalls12e1is", "dsb ish", "isb", options(nostack, preserves_flags));
        }
    }

    /// Whether a translation fault at this level, for this IPA, can only have come from a moment at which
    /// [`Self::hide`] was in force: what the root lacked then, it has now.
    pub fn was_hidden(self, level: i8, ipa: u64) -> bool {
        i16::from(level) == i16::from(self.root.level) && self.root.is_valid(ipa)
    }

    /// Gives it back. What was not there is in no TLB.
    pub fn show(self) {
        self.root.set_valid(true);
        barrier::dsb(barrier::ISH);
        barrier::isb(barrier::SY);
    }
}

/// Builds the tables.
pub fn build(platform: &Platform) -> Result<Registers, Error> {
    let highest = platform.highest.max(memory::reservation().end);
    let needed = (u64::BITS - (highest - 1).leading_zeros()).max(MIN_IPA_BITS);
    // A device beyond what the CPU can address is out of reach with or without stage 2.
    let ipa_bits = needed.min(memory::pa_range().bits());
    let layout = Layout::new(ipa_bits, memory::pa_range())?;
    let pages = &mut TablePages;
    let mut stage2 = Stage2::new(pages, layout)?;
    let end = 1 << ipa_bits;
    stage2.map(pages, 0..end, Attributes::DEVICE)?;
    for ram in platform.memory.iter() {
        // Only whole pages are RAM to the host as well (Linux memblock, early_init_dt_add_memory_arch).
        let first = ram.start.next_multiple_of(PAGE_SIZE);
        let last = (ram.end & !(PAGE_SIZE - 1)).min(end);
        if first < last {
            stage2.map(pages, first..last, Attributes::NORMAL)?;
        }
    }
    let own = memory::reservation();
    stage2.unmap(pages, own.start..own.end)?;
    let vttbr = stage2.vttbr_el2();
    // VMID 0 and CnP 0: VTTBR_EL2 is the address.
    let root = Root {
        address: vttbr,
        entries: stage2.layout().root_pages() * (PAGE_SIZE as usize / size_of::<u64>()),
        level: stage2.layout().start_level(),
    };
    Ok(Registers { vtcr: stage2.vtcr_el2(), vttbr, ipa_bits, root })
}
