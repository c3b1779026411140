//! The way from EL2, where an arm64 Image may be entered, to EL1, where the tests run: as Linux goes it, with the few
//! registers that decide something here.
//!
//! Owns what EL2 is set to on the way, and what else happens at EL2 before: [`set_vectors`] and [`before_leaving_el2`].
//! Under `entry=el2` this is virtual EL2. It works at real EL2 as well.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::paging::SCTLR_OFF;

/// HCR_EL2.RW: EL1 is AArch64.
pub const HCR_RW: u64 = 1 << 31;
/// CNTHCTL_EL2 (with E2H 0): EL1PCTEN and EL1PCEN, no traps of the physical counter and timer.
const CNTHCTL_NO_TRAPS: u64 = 0b11;
/// SPSR_EL2 for EL1h, everything masked.
pub const SPSR_EL1H: u64 = 0x3c5;

static VECTORS: AtomicU64 = AtomicU64::new(0);
static ENTRY_LEVEL: AtomicU64 = AtomicU64::new(0);
static BEFORE: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// What VBAR_EL2 becomes on CPUs that go to EL1 from now on; 0 leaves it as it is.
pub fn set_vectors(table: u64) {
    VECTORS.store(table, Ordering::Release);
}

/// The address that [`set_vectors`] was called with last.
pub fn vectors() -> u64 {
    VECTORS.load(Ordering::Acquire)
}

/// CPUs that are entered at EL2 from now on run `task` with their number before they go to EL1.
pub fn before_leaving_el2(task: fn(usize)) {
    BEFORE.store(task as *mut (), Ordering::Release);
}

/// The Exception level at which the boot CPU was entered.
pub fn entry_level() -> u64 {
    ENTRY_LEVEL.load(Ordering::Relaxed)
}

/// Keeps what [`entry_level`] tells. For the boot CPU at its start.
pub(super) fn note_entry_level(level: u64) {
    ENTRY_LEVEL.store(level, Ordering::Relaxed);
}

/// Goes to EL1 if the CPU is at EL2. For the CPU with the number `index`, once it has a stack.
pub fn go_to_el1(index: usize) {
    if crate::registers::current_el() != 2 {
        return;
    }
    let task = BEFORE.load(Ordering::Acquire);
    if !task.is_null() {
        // SAFETY: `before_leaving_el2` stored a `fn(usize)`.
        let task = unsafe { core::mem::transmute::<*mut (), fn(usize)>(task) };
        task(index);
    }
    // SAFETY: at EL2, as asked above.
    unsafe { drop_to_el1(vectors()) };
}

/// Returns at EL1h with the stack that it was called with at EL2; changes x0 and x1, and no other register of EL0 and
/// EL1 than SCTLR_EL1 and SP_EL1.
///
/// # Safety
/// At EL2 only. `vectors` is a vector table for EL2, or 0.
#[unsafe(naked)]
pub unsafe extern "C" fn drop_to_el1(vectors: u64) {
    naked_asm!(
        "cbz x0, 1f",
        "msr vbar_el2, x0",
        "1: ldr x1, ={HCR}",
        "msr hcr_el2, x1",
        "isb",
        "ldr x1, ={SCTLR}",
        "msr sctlr_el1, x1",
        "mov x1, #{CNTHCTL}",
        "msr cnthctl_el2, x1",
        "msr cntvoff_el2, xzr",
        "msr vttbr_el2, xzr",
        "msr hstr_el2, xzr",
        "mrs x1, midr_el1",
        "msr vpidr_el2, x1",
        "mrs x1, mpidr_el1",
        "msr vmpidr_el2, x1",
        "mov x1, sp",
        "msr sp_el1, x1",
        "msr elr_el2, x30",
        "mov x1, #{SPSR}",
        "msr spsr_el2, x1",
        "eret",
        ".ltorg",
        HCR = const HCR_RW,
        SCTLR = const SCTLR_OFF,
        CNTHCTL = const CNTHCTL_NO_TRAPS,
        SPSR = const SPSR_EL1H,
    )
}
