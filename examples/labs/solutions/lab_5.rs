//! Lab 5, a solution.

use core::arch::naked_asm;

use guests::firmware::{self, CPU_ON};
use guests::level::{HCR_RW, SPSR_EL1H};
use guests::paging::SCTLR_OFF;
use labs::second_cpu::arrived;

/// Turns on the CPU with this affinity, so that it comes to `arrived` at EL1, with this stack pointer.
pub fn turn_on(affinity: u64, stack: u64) -> i64 {
    firmware::psci(CPU_ON[1], [affinity, first_instructions as *const () as u64, stack])
}

/// The new CPU begins here, at virtual EL2, MMU off, x0 = the stack pointer. ERET takes it to EL1.
#[unsafe(naked)]
unsafe extern "C" fn first_instructions() -> ! {
    naked_asm!(
        "ldr x1, ={HCR}",
        "msr hcr_el2, x1",
        "ldr x1, ={SCTLR}",
        "msr sctlr_el1, x1",
        "msr sp_el1, x0",
        "adrp x1, {arrived}",
        "add x1, x1, :lo12:{arrived}",
        "msr elr_el2, x1",
        "mov x1, #{SPSR}",
        "msr spsr_el2, x1",
        "isb",
        "eret",
        ".ltorg",
        HCR = const HCR_RW,
        SCTLR = const SCTLR_OFF,
        SPSR = const SPSR_EL1H,
        arrived = sym arrived,
    )
}
