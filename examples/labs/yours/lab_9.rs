//! Lab 9, your part: rescue a CPU that hangs (docs/labs/lab-9.md).

/// Has the CPU with this number leave its loop.
pub fn rescue(cpu: u32) {
    // Yours: a call of Exeunt's own.
    let _ = cpu;
}

/// Whether ESR_EL1 of an SError says that Exeunt has made it.
pub fn is_exeunts(esr: u64) -> bool {
    // Yours.
    esr == 0
}
