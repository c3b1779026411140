//! A LEAVE wakes the CPUs that sleep, and no others: one that is off has no interrupt pending that nobody has sent to
//! it.
//!
//! CPU 0 calls LEAVE while CPUs 1 and 3 are asleep in WFI and CPU 2 is off. It needs four CPUs and a GIC.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use guest_abi::call::{self, WayBack};

use crate::firmware::{AFFINITY_INFO, AFFINITY_OFF};
use crate::machine::machine;
use crate::start::Start;
use crate::{firmware, gic, smp};

/// The CPU that is off.
const OFF: usize = 2;
/// How many are asleep.
const SLEEPERS: usize = 2;

static ASLEEP: AtomicUsize = AtomicUsize::new(0);
static OVER: AtomicBool = AtomicBool::new(false);
/// What REENTER named.
static VECTORS: AtomicU64 = AtomicU64::new(0);
static NUMBER: AtomicU64 = AtomicU64::new(0);
/// Bit n: CPU n has SGI 0 pending, by its own word.
static PENDING: AtomicUsize = AtomicUsize::new(0);

fn milliseconds(count: u64) {
    let end = read_register!("cntvct_el0") + read_register!("cntfrq_el0") * count / 1000;
    while read_register!("cntvct_el0") < end {
        core::hint::spin_loop();
    }
}

fn be_ready(index: usize) {
    check!(gic::enable_sgis(index), "CPU {index}: no GIC that is known");
}

fn go_off(index: usize) {
    if index == OFF {
        smp::go_off();
    }
}

fn sleep_or_leave(index: usize) {
    if index != 0 {
        ASLEEP.fetch_add(1, Ordering::AcqRel);
        while !OVER.load(Ordering::Acquire) {
            // SAFETY: an SGI that is pending ends it, though it is masked.
            unsafe { asm!("wfi", options(nostack, preserves_flags)) };
        }
        return;
    }
    check!(smp::wait_for(|| ASLEEP.load(Ordering::Acquire) == SLEEPERS), "the others do not sleep");
    milliseconds(20);
    // SAFETY: all CPUs of this guest can live in a stub.
    let left = unsafe { call::leave() };
    OVER.store(true, Ordering::Release);
    check!(left == Ok(1 + SLEEPERS as u64), "LEAVE: {left:?}");
}

fn come_back(index: usize) {
    let way = WayBack { vectors: VECTORS.load(Ordering::Acquire), number: NUMBER.load(Ordering::Acquire) };
    // SAFETY: Exeunt has named the table, and this CPU is in the stub.
    let back = unsafe { call::reenter(way) };
    check!(back.is_ok(), "CPU {index}: REENTER: {back:?}");
}

fn look(index: usize) {
    if gic::sgi_is_pending(index) {
        PENDING.fetch_or(1 << index, Ordering::AcqRel);
    }
}

/// Runs the test, on the boot CPU.
pub fn run(_: &Start) {
    let cpus = smp::start_all();
    check!(cpus == 2 + SLEEPERS, "{cpus} CPUs");
    smp::on_all(be_ready);
    // SAFETY: Exeunt is live.
    let way = unsafe { call::way_back() };
    check!(way.is_ok(), "REENTER: {way:?}");
    if let Ok(way) = way {
        VECTORS.store(way.vectors, Ordering::Release);
        NUMBER.store(way.number, Ordering::Release);
    }

    smp::on_all(go_off);
    let off = || firmware::psci(AFFINITY_INFO[1], [machine().mpidrs()[OFF], 0, 0]) == AFFINITY_OFF;
    check!(smp::wait_for(off), "CPU {OFF} is not off");
    smp::on_all(sleep_or_leave);
    smp::on_all(come_back);
    smp::start(OFF);
    smp::on_all(look);
    let pending = PENDING.load(Ordering::Acquire);
    check!(pending & 1 << OFF == 0, "CPU {OFF}, which was off, was sent an SGI");
    check!(pending & 1 == 0, "CPU 0 has sent an SGI to itself");
    check!(pending == 0b1010, "the CPUs with an SGI pending: {pending:#b}");
    crate::report::finish("wake");
}
