//! SOFT_RESTART, counted from the HVC to the first instruction of the next payload.
//!
//! Owns the two ends between which is counted. The payload reads the counter and then comes back to EL1 as that of the
//! conformance guest does.

use core::arch::global_asm;

use guest_abi::call;
use guest_abi::stub::SOFT_RESTART;
use guest_abi::vendor::{Policy, RESTART_CRASH, RESTART_KEXEC};

use super::{Count, Extremes, ROUNDS, among_spinning, reenter, round, way_of_all};
use crate::code::END_IMMEDIATE;
use crate::conformance::{landing, stub};
use crate::cpu::{Context, DAIF, EL1H};
use crate::smp;

/// The payload's x0, from x2 of the call.
const ARGUMENT: u64 = 0x2222;
/// CurrentEL at EL2, as virtual EL2 shows it too.
const EL2: u64 = 2 << 2;

// Counter before in x18, counter after in x17: the payload is entered with all registers as they were but x0 to x4.
global_asm!(
    ".pushsection .text.restart, \"ax\"",
    ".global guest_restart_call",
    "guest_restart_call:",
    "mrs x18, cntvct_el0",
    "hvc #0",
    "brk #{END}",
    ".global guest_restart_payload",
    "guest_restart_payload:",
    "mrs x17, cntvct_el0",
    "b guest_landing_entries",
    ".popsection",
    END = const END_IMMEDIATE,
);

unsafe extern "C" {
    static guest_restart_call: u8;
    static guest_restart_payload: u8;
}

/// Restarts CPU 0, as Linux does: interrupts masked, all in RAM of the host's. Gives the payload's x0 and CurrentEL.
fn restart() -> Count {
    landing::prepare(0);
    let mut context = Context::new((&raw const guest_restart_call).addr() as u64, EL1H | DAIF);
    let payload = (&raw const guest_restart_payload).addr() as u64;
    context.x[..5].copy_from_slice(&[SOFT_RESTART, payload, ARGUMENT, 0, 0]);
    let entries = landing::last(0).count;
    // SAFETY: the call goes to the payload, which comes back with a `brk`, or comes back to one itself.
    unsafe { context.enter() };
    let landed = landing::last(0);
    let held = context.ended_at(landing::end()) && landed.count == entries + 1;
    check!(held, "SOFT_RESTART ended at {:#x}, ESR {:#x}, x0 {:#x}", context.pc, context.esr, context.x[0]);
    Count { ticks: context.x[17].wrapping_sub(context.x[18]), x: [landed.x[0], landed.current_el] }
}

/// The same in a kexec: with SET_VECTORS before, to a table that is not the host's usual one.
fn kexec() -> Count {
    // SAFETY: Exeunt only notes them, and nothing uses them before the restart.
    let set = unsafe { call::set_vectors(stub::vectors() + 0x800) };
    check!(set.is_ok(), "SET_VECTORS: {set:?}");
    restart()
}

/// The restarts of CPU 0, [`ROUNDS`] times, the other CPUs spinning politely.
fn counted(name: &'static str, floor: u64, restart: fn(usize), mut after: impl FnMut()) {
    let mut extremes = Extremes::new(name, floor);
    for _ in 0..ROUNDS {
        let count = round(restart);
        extremes.take(count, ARGUMENT);
        check!(count.x[1] == EL2, "{name}: the payload's CurrentEL is {:#x}", count.x[1]);
        after();
    }
    extremes.print();
}

fn in_a_crash(index: usize) {
    among_spinning(index, true, restart);
}

fn in_a_kexec(index: usize) {
    among_spinning(index, true, kexec);
}

/// Sets both policies. Exeunt has to be there for that.
fn set(policy: Policy) {
    // SAFETY: the policies are this guest's to set.
    let set = unsafe { call::restart_policy(RESTART_KEXEC | RESTART_CRASH, policy) };
    check!(set.is_ok(), "RESTART_POLICY: {set:?}");
}

/// All that Exeunt answers, and the resident stub.
pub fn under_exeunt(floor: u64) {
    smp::start_all();
    set(Policy::Resident);
    // Exeunt is still there: it answers.
    counted("restart-crash-resident", floor, in_a_crash, || set(Policy::Resident));
    counted("restart-kexec-resident", floor, in_a_kexec, || set(Policy::Resident));
    set(Policy::Leave);
    // Exeunt is not: REENTER finds its table.
    counted("restart-crash-leave", floor, in_a_crash, || reenter(way_of_all()));
    counted("restart-kexec-leave", floor, in_a_kexec, || reenter(way_of_all()));
    round(in_a_crash);
    counted("stub-soft-restart", floor, in_a_crash, || {});
    reenter(way_of_all());
}

/// The stub of this guest, where there is no Exeunt.
pub fn bare(floor: u64) {
    smp::start_all();
    counted("restart-bare", floor, in_a_crash, || {});
}
