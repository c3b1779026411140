//! Lab 5, your part: bring up a second CPU (docs/labs/lab-5.md).

use guests::firmware::NOT_SUPPORTED;

/// Turns on the CPU with this affinity, so that it comes to `labs::second_cpu::arrived` at EL1, with this stack
/// pointer. Gives what PSCI says.
pub fn turn_on(affinity: u64, stack: u64) -> i64 {
    // Yours: a PSCI call, and the first instructions of the new CPU.
    let _ = (affinity, stack);
    NOT_SUPPORTED
}
