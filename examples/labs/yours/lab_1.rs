//! Lab 1, your part: go to EL1, and make a call (docs/labs/lab-1.md).

use core::arch::{asm, naked_asm};

/// Returns at EL1, on the stack that it was called with at EL2.
///
/// # Safety
/// At EL2 only.
#[unsafe(naked)]
pub unsafe extern "C" fn go_to_el1() {
    naked_asm!(
        // Yours: HCR_EL2, SCTLR_EL1, SP_EL1, ELR_EL2, SPSR_EL2, and then the one instruction that goes down.
        "ret",
    )
}

/// Makes the call with this number, and gives x0 and x1.
pub fn hypercall(number: u32) -> [u64; 2] {
    let mut x0 = u64::from(number);
    let mut x1 = 0;
    // SAFETY: the instruction has no effect but what is named.
    unsafe {
        asm!(
            "nop", // yours: the instruction that calls EL2
            inout("x0") x0, inout("x1") x1, options(nostack)
        );
    }
    [x0, x1]
}
