//! A few pages that the guest writes instructions into and then runs.

use core::arch::asm;
use core::cell::UnsafeCell;

/// `brk #0x5a5`: how a written sequence ends; the exception brings [`crate::cpu::Context::enter`] back.
pub const END: u32 = 0xd420_0000 | (END_IMMEDIATE as u32) << 5;
/// The immediate of [`END`].
pub const END_IMMEDIATE: u64 = 0x5a5;

/// Room for `N` instructions.
#[repr(C, align(4096))]
pub struct Code<const N: usize>(UnsafeCell<[u32; N]>);

// SAFETY: a `Code` is written by one CPU while no other uses it; each user says how it keeps to that.
unsafe impl<const N: usize> Sync for Code<N> {}

impl<const N: usize> Default for Code<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Code<N> {
    /// Empty.
    #[must_use]
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; N]))
    }

    /// Writes `instructions` at index `at` and makes them visible to this CPU's instruction fetches. Returns their
    /// address.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn write(&self, at: usize, instructions: &[u32]) -> u64 {
        assert!(at + instructions.len() <= N);
        let first = self.address(at);
        for (index, &instruction) in instructions.iter().enumerate() {
            let slot = first as usize + 4 * index;
            // SAFETY: the bounds are checked above; no other CPU uses this code meanwhile. The maintenance sequence is
            // that of the Arm ARM, B2.4.4, "Synchronization and coherency issues between data and instruction
            // accesses".
            unsafe {
                (slot as *mut u32).write_volatile(instruction);
                asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", in(reg) slot, options(nostack, preserves_flags));
            }
        }
        // SAFETY: barriers have no other effect.
        unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
        first
    }

    /// The address of the instruction at index `at`.
    #[must_use]
    pub fn address(&self, at: usize) -> u64 {
        self.0.get() as u64 + 4 * at as u64
    }
}
