//! Lab 10, a solution.

use guest_abi::blackbox::BlackBox;
use labs::own_trace::Found;

/// ESR_EL2.EC of an HVC from AArch64.
const HVC: u32 = 0x16;

/// Looks for HVCs with this x0 among the traced exits of CPU 0. `bytes` is the black box, which is at `start`.
pub fn find(bytes: &[u8], start: u64, x0: u64) -> Option<Found> {
    let black_box = BlackBox::new(bytes, start).ok()?;
    let calls = || black_box.trace(0).filter(|record| record.esr >> 26 == HVC && record.subject == x0);
    let last = calls().last()?;
    Some(Found { count: calls().count(), pc: last.pc, answer: last.answer })
}
