//! The host's stage 2 on the CPUs: turned on, hidden for a LEAVE, and changed while the host runs.
//!
//! Owns the registers and the TLB maintenance. What the tables say is decided in `hypervisor::placement`, and how they
//! are changed in `hypervisor::paging`.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{PAR_EL1, Readable, VTCR_EL2, VTTBR_EL2, Writeable};
use hypervisor::paging::live::Live;
use hypervisor::paging::registers::PaRange;
use hypervisor::paging::stage2::{self, Attributes, Hidden};
use hypervisor::paging::{Error, TableMemory};
use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::faults::fault_point;
use crate::memory::{self, TablePages};

/// The host's stage 2, complete.
#[derive(Clone, Copy, Debug)]
pub struct Stage2(pub stage2::Stage2);

/// Who changes the tables other than in single stores has this.
static CHANGES: SpinMutex<()> = SpinMutex::new(());

/// The tables end at their root: nobody else looks into them then.
static HIDDEN: AtomicBool = AtomicBool::new(false);

/// How often a CPU looks whether another has done with the tables. What that does takes a hundredth of this; after it,
/// the other one is taken for dead.
const PATIENCE: u32 = 1 << 24;

/// Does what changes the tables, while nobody else does, and while they are not hidden. Nothing if they are, or if the
/// CPU that changes them does not end: whoever asks tries again.
pub fn changing<T>(change: impl FnOnce() -> T) -> Option<T> {
    let _lock = lock()?;
    (!HIDDEN.load(Ordering::Acquire)).then(change)
}

/// Not once for each change.
#[inline(never)]
fn lock() -> Option<SpinMutexGuard<'static, ()>> {
    (0..PATIENCE).find_map(|_| {
        core::hint::spin_loop();
        CHANGES.try_lock()
    })
}

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
    pub fn range(self, ipa: u64) -> Option<(Range<u64>, Option<Attributes>)> {
        self.0.range(&TablePages, ipa)
    }

    /// Takes the host's memory away from every CPU that runs it: the tables end at their root, and no TLB holds
    /// anything of them when this returns. A CPU that is at EL1 or EL0 takes a stage 2 translation fault at its next
    /// fetch.
    pub fn hide(self) {
        // Without the lock, if its owner has died.
        let lock = lock();
        HIDDEN.store(true, Ordering::Release);
        self.0.hide(&mut TablePages);
        fault_point!("stage2-hide");
        drop(lock);
        invalidate();
    }

    /// Whether a translation fault at this level, for this IPA, came from [`Self::hide`].
    pub fn hidden(self, level: i8, ipa: u64) -> Hidden {
        self.0.hidden(&TablePages, level, ipa)
    }

    /// Gives it back. What was not there is in no TLB.
    pub fn show(self) {
        self.0.show(&mut TablePages);
        fault_point!("stage2-show");
        barrier::dsb(barrier::ISH);
        barrier::isb(barrier::SY);
        HIDDEN.store(false, Ordering::Release);
    }

    /// Lets the host execute at `ipa`, where it has tried to, with the block or page around it.
    pub fn allow_execution(self, ipa: u64) {
        self.0.allow_execution(&mut TablePages, ipa);
        // Also where nothing has changed: this CPU's TLB may hold what another CPU has just changed.
        invalidate();
    }

    /// The block or page that translates `ipa`, and what it says.
    pub fn leaf(self, ipa: u64) -> Option<(Range<u64>, Attributes)> {
        self.0.leaf(&TablePages, ipa)
    }

    /// Has the host's `range` of RAM say this, while its CPUs run. Only in [`changing`].
    pub fn set(self, range: Range<u64>, attributes: Attributes) -> Result<(), Error> {
        let mut tables = self.0;
        let result = tables.map(&mut Live::new(LivePages, invalidate), range, attributes);
        invalidate();
        result
    }
}

/// [`TablePages`] that come back: the heap gives them away again.
struct LivePages;

impl TableMemory for LivePages {
    fn alloc(&mut self, pages: usize) -> Option<u64> {
        TablePages.alloc(pages)
    }

    fn free(&mut self, table: u64) {
        // SAFETY: `Live` frees what was taken here, and what no walk and no TLB knows of any more.
        unsafe { memory::free_table(table) };
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        TablePages.read(table, index)
    }

    fn write(&mut self, table: u64, index: usize, descriptor: u64) {
        TablePages.write(table, index, descriptor);
    }

    fn replace(&mut self, table: u64, index: usize, old: u64, new: u64) -> bool {
        TablePages.replace(table, index, old, new)
    }

    fn fence(&mut self) {
        barrier::dsb(barrier::ISHST);
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
    // SAFETY: translates and stores nothing.
    translate(address, || unsafe {
        core::arch::asm!("at s1e1r, {}", "isb", in(reg) address, options(nostack, preserves_flags));
    })
}

/// The same for an address of user space's, as that sees it.
pub fn user_ipa(address: u64) -> Option<u64> {
    // SAFETY: translates and stores nothing.
    translate(address, || unsafe {
        core::arch::asm!("at s1e0r, {}", "isb", in(reg) address, options(nostack, preserves_flags));
    })
}

#[inline]
fn translate(address: u64, ask: impl FnOnce()) -> Option<u64> {
    /// PAR_EL1.F: the translation has failed.
    const FAILED: u64 = 1;
    /// PAR_EL1.PA, bits 47:12: stage 2 has no more either.
    const PA: u64 = 0xffff_ffff_f000;
    let before = PAR_EL1.get();
    ask();
    let found = PAR_EL1.get();
    PAR_EL1.set(before);
    (found & FAILED == 0).then_some(found & PA | address & 0xfff)
}
