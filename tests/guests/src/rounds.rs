//! Counts instructions for `make bench`: from reset to the guest's first instructions, and for round trips to EL2.
//!
//! Counts, because the machine is expected to run with `-icount shift=0,sleep=off` and a generic timer of 1 GHz: then each
//! instruction takes one tick of the counter. It says which frequency it found, and the bench refuses any other. Each line is
//! `rounds: NAME NUMBER`.

use core::arch::asm;

use crate::firmware::{AFFINITY_INFO, PSCI_FEATURES, PSCI_VERSION, SMCCC_VERSION};
use crate::machine::machine;
use crate::start::Start;

/// Times that each call is measured; the smallest and the largest count are printed if they differ.
const SAMPLES: usize = 16;

/// Instructions between two readings of the counter, of which `$call` is one and the second reading another.
macro_rules! ticks {
    ($call:literal, $x0:expr, $x1:expr) => {{
        let (before, after): (u64, u64);
        // SAFETY: an SMCCC call keeps x18 to x30 and the stack; everything that it may change is declared.
        unsafe {
            asm!(
                "mrs x18, cntvct_el0",
                $call,
                "mrs x17, cntvct_el0",
                inout("x0") $x0 => _, inout("x1") $x1 => _, inout("x2") 0u64 => _, inout("x3") 0u64 => _, out("x4") _, out("x5") _,
                out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _,
                out("x14") _, out("x15") _, out("x16") _, out("x17") after, out("x18") before, options(nostack)
            );
        }
        after - before
    }};
}

fn report(name: &str, floor: u64, mut measure: impl FnMut() -> u64) {
    // Once unmeasured: the first call may do what later ones need not.
    measure();
    let (mut least, mut most) = (u64::MAX, 0);
    for _ in 0..SAMPLES {
        let count = measure() - floor;
        least = least.min(count);
        most = most.max(count);
    }
    println!("rounds: {name} {least}");
    if most != least {
        println!("rounds: {name}-most {most}");
    }
}

/// Runs the measurements.
pub fn run(start: &Start) {
    println!("rounds: frequency {}", read_register!("cntfrq_el0"));
    println!("rounds: start {}", start.counter);
    println!("rounds: reserved-bytes {}", machine().reserved.map_or(0, |range| range.size));
    // Two readings with nothing between are one instruction apart: the second reading.
    let floor = (0..SAMPLES).map(|_| ticks!("", 0u64, 0u64)).min().unwrap_or(0);
    println!("rounds: floor {floor}");
    if machine().words().any(|word| word == "start-only") {
        check!(true, "started");
        crate::report::finish("rounds");
    }
    // A number that no stub knows (Linux `HVC_STUB_HCALL_NR` is 5 at most).
    report("hvc-unknown-stub", floor, || ticks!("hvc #0", 0x7fu64, 0u64));
    report("hvc-unknown-smccc", floor, || ticks!("hvc #0", 0x8600_ff42u64, 0u64));
    report("hvc-psci-version", floor, || ticks!("hvc #0", PSCI_VERSION, 0u64));
    report("smc-psci-version", floor, || ticks!("smc #0", PSCI_VERSION, 0u64));
    report("smc-psci-features", floor, || ticks!("smc #0", PSCI_FEATURES, SMCCC_VERSION));
    report("smc-affinity-info", floor, || ticks!("smc #0", AFFINITY_INFO[1], machine().mpidrs()[0]));
    report("smc-unknown", floor, || ticks!("smc #0", 0x8600_ff42u64, 0u64));
    check!(true, "measured");
    crate::report::finish("rounds");
}
