//! The host's stage 2 on the CPUs: turned on, hidden for a LEAVE, and changed while the host runs.
//!
//! Owns the registers and the TLB maintenance. What the tables say is decided in `hypervisor::placement`, and how they
//! are changed in `hypervisor::paging`.

use core::ops::Range;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{PAR_EL1, Readable, VTCR_EL2, VTTBR_EL2, Writeable};
use hypervisor::paging::registers::PaRange;
use hypervisor::paging::stage2::{self, Hidden};

use crate::memory::TablePages;

/// The host's stage 2, complete.
#[derive(Clone, Copy, Debug)]
pub struct Stage2(pub stage2::Stage2);

impl Stage2 {
    /// Has this CPU use it. Nothing translates with it before HCR_EL2.VM is set, and the TLB holds nothing of it before
    /// that either.
    pub fn install(self) {
        VTCR_EL2.set(self.0.vtcr_el2());
        VTTBR_EL2.set(self.0.vttbr_el2());
    }

    /// Whether a CPU with this range can use it.
    pub fn fits(self, pa_range: PaRange) -> bool {
        self.0.layout().fits(pa_range)
    }

    /// The size of the host's addresses in bits.
    pub fn bits(self) -> u32 {
        self.0.layout().ipa_bits()
    }

    /// The range around `ipa` in which it says the same, and what that is.
    pub fn range(self, ipa: u64) -> Option<(Range<u64>, Option<stage2::Attributes>)> {
        self.0.range(&TablePages, ipa)
    }

    /// Takes the host's memory away from every CPU that runs it: the tables end at their root, and no TLB holds
    /// anything of them when this returns. A CPU that is at EL1 or EL0 takes a stage 2 translation fault at its next
    /// fetch.
    pub fn hide(self) {
        self.0.hide(&mut TablePages);
        invalidate();
    }

    /// Whether a translation fault at this level, for this IPA, came from [`Self::hide`].
    pub fn hidden(self, level: i8, ipa: u64) -> Hidden {
        self.0.hidden(&TablePages, level, ipa)
    }

    /// Gives it back. What was not there is in no TLB.
    pub fn show(self) {
        self.0.show(&mut TablePages);
        barrier::dsb(barrier::ISH);
        barrier::isb(barrier::SY);
    }

    /// Lets the host execute at `ipa`, where it has tried to, with the block or page around it.
    pub fn allow_execution(self, ipa: u64) {
        self.0.allow_execution(&mut TablePages, ipa);
        // Also where nothing has changed: this CPU's TLB may hold what another CPU has just changed.
        invalidate();
    }
}

/// Forgets on all CPUs what their TLBs hold of the tables (Arm ARM D8.17: TLBI VMALLS12E1IS of the current VMID,
/// complete at the DSB, on all CPUs of the Inner Shareable domain).
fn invalidate() {
    // SAFETY: forgets translations only.
    unsafe {
        core::arch::asm!("dsb ishst", "tlbi vmalls12e1is", "dsb ish", "isb", options(nostack, preserves_flags));
    }
}

/// What the host's stage 1 makes of a virtual address on this CPU; nothing if it no longer translates it, or not so, by
/// another CPU's hand by now. PAR_EL1 is the host's, and is put back.
pub fn host_ipa(address: u64) -> Option<u64> {
    /// PAR_EL1.F: the translation has failed.
    const FAILED: u64 = 1;
    /// PAR_EL1.PA, bits 47:12: stage 2 has no more either.
    const PA: u64 = 0xffff_ffff_f000;
    let before = PAR_EL1.get();
    // SAFETY: translates and stores nothing.
    unsafe { core::arch::asm!("at s1e1r, {}", "isb", in(reg) address, options(nostack, preserves_flags)) };
    let found = PAR_EL1.get();
    PAR_EL1.set(before);
    (found & FAILED == 0).then_some(found & PA | address & 0xfff)
}
