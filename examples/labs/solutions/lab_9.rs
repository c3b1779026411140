//! Lab 9, a solution.

use guest_abi::call;

/// Has the CPU with this number leave its loop.
pub fn rescue(cpu: u32) {
    // SAFETY: at EL1; that CPU has vectors for an SError. If it is refused the frame sees it.
    let _ = unsafe { call::panic(cpu) };
}

/// Whether ESR_EL1 of an SError says that Exeunt has made it: "EXN" in the low three bytes (docs/hangs.md).
pub fn is_exeunts(esr: u64) -> bool {
    esr & 0xff_ffff == 0x45_584e
}
