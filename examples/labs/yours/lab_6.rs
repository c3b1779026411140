//! Lab 6, your part: tear Exeunt down, and prove it (docs/labs/lab-6.md).

/// Has Exeunt leave all CPUs, and gives how many it has left.
pub fn tear_down() -> Option<u64> {
    // Yours: a call of Exeunt's own.
    None
}

/// Loads from an address: what was there, or ESR_EL1 of the abort.
pub fn load(address: u64) -> Result<u64, u64> {
    // Yours: a load that may abort. `guests::cpu::Context` runs instructions and tells how they ended.
    if address == 0 { Err(0) } else { Ok(0) }
}
