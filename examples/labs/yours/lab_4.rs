//! Lab 4, your part: trap a register, and answer it (docs/labs/lab-4.md).

use labs::mini::Guest;

/// The bits of HCR_EL2 that make EL1's accesses to ACTLR_EL1 trap.
pub const HCR: u64 = 0;

/// Answers one of them. The register holds `labs::trapped::FIRST` at first, and then what was written last.
pub fn handle(guest: &mut Guest) {
    // Yours: which register, read or write, and where the guest goes on.
    let _ = guest;
}
