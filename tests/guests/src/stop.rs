//! The stop of all CPUs in a crash: wherever the others are, they are off when the crash kernel begins, and can be
//! started with nothing pending.
//!
//! CPU 0 makes a SOFT_RESTART that is surely a crash's (x2 is what Linux up to 5.15 passes). The others spin or sleep
//! at EL1 or EL0, with everything masked, or make nothing but calls; each in all of these ways, one after the other.
//! All have SGI 0 pending, as after a stop of Linux's that they did not hear. It needs a GIC. With `lock` on its
//! command line LOCK is called first.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use guest_abi::call;
use guest_abi::stub::SOFT_RESTART;
use guest_abi::vendor::{Policy, RESTART_CRASH, VERSION};

use crate::code::END_IMMEDIATE;
use crate::conformance::landing;
use crate::cpu::{Context, DAIF, EL0T, EL1H};
use crate::firmware::{self, AFFINITY_INFO, AFFINITY_OFF, ALREADY_ON, CPU_ON};
use crate::machine::machine;
use crate::panics::{sleep, spin};
use crate::start::Start;
use crate::{gic, smp};

/// `kimage->head` of a crash kernel: IND_DONE, and nothing before it.
const IND_DONE: u64 = 1 << 2;

/// Calls with the number in x5.
#[unsafe(naked)]
#[unsafe(link_section = ".probes")]
unsafe extern "C" fn only_calls() {
    naked_asm!("1: mov x0, x5", "hvc #0", "b 1b")
}

/// The same by SMC, which Exeunt refuses.
#[unsafe(naked)]
#[unsafe(link_section = ".probes")]
unsafe extern "C" fn only_smcs() {
    naked_asm!("1: mov x0, x5", "smc #0", "b 1b")
}

#[unsafe(naked)]
#[unsafe(link_section = ".probes")]
unsafe extern "C" fn restart() {
    naked_asm!("hvc #0", "brk #{END}", END = const END_IMMEDIATE)
}

/// What a CPU does when it is stopped, at which level.
const WAYS: [(unsafe extern "C" fn(), u64); 6] =
    [(spin, EL1H), (sleep, EL1H), (spin, EL0T), (sleep, EL0T), (only_calls, EL1H), (only_smcs, EL1H)];

/// Which of [`WAYS`] is CPU 1's; those of the others follow.
static FIRST: AtomicUsize = AtomicUsize::new(0);
static READY: AtomicUsize = AtomicUsize::new(0);

fn be_ready(index: usize) {
    check!(gic::enable_sgis(index), "CPU {index}: no GIC that is known");
}

fn crash(index: usize) {
    if index != 0 {
        gic::send_sgi_to_itself(index);
        check!(smp::wait_for(|| gic::sgi_is_pending(index)), "CPU {index}: it cannot send an SGI to itself");
        let (code, level) = WAYS[(FIRST.load(Ordering::Acquire) + index) % WAYS.len()];
        let mut context = Context::new(code as *const () as u64, level | DAIF);
        context.x[5] = VERSION.into();
        READY.fetch_add(1, Ordering::AcqRel);
        // SAFETY: the instructions write nothing. They have no end, and the CPU goes off in them.
        unsafe { context.enter() };
        check!(false, "CPU {index} came back from {:#x}, ESR {:#x}", context.pc, context.esr);
        return;
    }
    let others = smp::online() - 1;
    check!(smp::wait_for(|| READY.load(Ordering::Acquire) == others), "the others are not ready");
    landing::prepare(0);
    let mut context = Context::new(restart as *const () as u64, EL1H | DAIF);
    context.x[..5].copy_from_slice(&[SOFT_RESTART, landing::entry(0), IND_DONE, 7, 8]);
    let entries = landing::last(0).count;
    // SAFETY: the call goes to the payload, which comes back with a `brk`.
    unsafe { context.enter() };
    let landed = landing::last(0);
    let came = context.ended_at(landing::end()) && landed.count == entries + 1 && landed.x[..3] == [IND_DONE, 7, 8];
    check!(came, "SOFT_RESTART ended at {:#x}, ESR {:#x}, x0 {:#x}", context.pc, context.esr, context.x[0]);
    smp::others_are_off();
    for cpu in 1..=others {
        let state = firmware::psci(AFFINITY_INFO[1], [machine().mpidrs()[cpu], 0, 0]);
        check!(state == AFFINITY_OFF, "CPU {cpu} in way {}: {state}", FIRST.load(Ordering::Acquire) + cpu);
    }
}

fn look(index: usize) {
    if index != 0 {
        check!(!gic::sgi_is_pending(index), "CPU {index}: its SGI is pending still");
        let on = firmware::psci(CPU_ON[1], [machine().mpidrs()[index], 0, 0]);
        check!(on == ALREADY_ON || on == firmware::INVALID_ADDRESS, "CPU_ON of a CPU that is on: {on}");
    }
}

/// Runs the test, on the boot CPU.
pub fn run(_: &Start) {
    let cpus = smp::start_all();
    // SAFETY: the payload of this guest works at any level, and LOCK changes nothing else.
    let stays = unsafe {
        if machine().words().any(|word| word == "lock") {
            call::lock()
        } else {
            call::restart_policy(RESTART_CRASH, Policy::Resident).map(|_| ())
        }
    };
    check!(stays.is_ok(), "to stay: {stays:?}");
    for first in 0..2 * WAYS.len() {
        FIRST.store(first, Ordering::Release);
        READY.store(0, Ordering::Release);
        smp::on_all(be_ready);
        smp::on_all(crash);
        for cpu in 1..cpus {
            smp::start(cpu);
        }
        smp::on_all(look);
    }
    // SAFETY: Exeunt is live.
    let status = unsafe { call::version() };
    check!(status.is_ok(), "Exeunt is not there any more: {status:?}");
    crate::report::finish("stop");
}
