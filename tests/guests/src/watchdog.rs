//! The watchdog: who hangs gets an SError, who does not gets none; and when Exeunt has left, the GIC is as the guest
//! has set it.
//!
//! It is run with `watchdog=2`, on one CPU, and needs a GIC. The interrupt of the virtual timer is not enabled at the
//! GIC, so that the timer can have expired for long and the guest does not notice: that is what a CPU looks like that
//! does not take its interrupts.

use core::arch::naked_asm;

use guest_abi::call::{self, WayBack};
use guest_abi::vendor::PANIC_SYNDROME;

use crate::code::END_IMMEDIATE;
use crate::cpu::{Context, DAIF, EC_BRK, EL1H};
use crate::gic::{self, Private};
use crate::panics::spin;
use crate::smp;
use crate::start::Start;

/// PSTATE.I.
const I: u64 = 1 << 7;

/// `watchdog=`, in seconds.
const SECONDS: u64 = 2;
/// A hang is found in the time, and a quarter of it more, after it began. Nothing is found in this.
const LONGER: u64 = 2 * SECONDS;

/// Loops until CNTVCT_EL0 has come to x0, then `brk`.
#[unsafe(naked)]
#[unsafe(link_section = ".probes")]
unsafe extern "C" fn spin_until() {
    naked_asm!("1: mrs x1, cntvct_el0", "cmp x1, x0", "b.lo 1b", "brk #{END}", END = const END_IMMEDIATE)
}

/// The same, asleep whenever nothing comes.
#[unsafe(naked)]
#[unsafe(link_section = ".probes")]
unsafe extern "C" fn sleep_until() {
    naked_asm!("1: wfi", "mrs x1, cntvct_el0", "cmp x1, x0", "b.lo 1b", "brk #{END}", END = const END_IMMEDIATE)
}

/// The same, with the timer set anew each time.
#[unsafe(naked)]
#[unsafe(link_section = ".probes")]
unsafe extern "C" fn work_until() {
    naked_asm!(
        "1: mrs x1, cntvct_el0",
        "msr cntv_cval_el0, x1",
        "cmp x1, x0",
        "b.lo 1b",
        "brk #{END}",
        END = const END_IMMEDIATE
    )
}

fn now() -> u64 {
    read_register!("cntvct_el0")
}

fn second() -> u64 {
    read_register!("cntfrq_el0")
}

/// Hangs, and is to get an SError for it.
fn hang(what: &str, pstate: u64) {
    let code = spin as *const () as u64;
    let mut context = Context::new(code, pstate);
    gic::fire_in(0);
    let began = now();
    // SAFETY: the instructions write nothing, and end by the SError.
    unsafe { context.enter() };
    let took = now() - began;
    gic::stop();
    let (esr, pc) = (context.esr, context.pc);
    check!(esr == PANIC_SYNDROME && context.vector == 0x380, "{what}: ESR {esr:#x}, vector {:#x}", context.vector);
    check!((code..=code + 4).contains(&pc), "{what}: ELR {pc:#x}");
    // Four samples lie within the time; the first may be taken at once.
    check!(took >= SECONDS * second() * 3 / 4, "{what}: after {took} ticks of {} in a second", second());
}

/// Does something for long that is no hang.
fn be_well(what: &str, code: unsafe extern "C" fn(), pstate: u64, timer: bool) {
    let mut context = Context::new(code as *const () as u64, pstate);
    if timer {
        gic::fire_in(0);
    }
    context.x[0] = now() + LONGER * second();
    // SAFETY: the instructions write no memory, and end by the `brk`.
    unsafe { context.enter() };
    gic::stop();
    check!(context.class() == EC_BRK, "{what}: ESR {:#x} at {:#x}", context.esr, context.pc);
}

/// Runs the test, on the boot CPU.
pub fn run(_: &Start) {
    let cpus = smp::start_all();
    check!(cpus == 1, "{cpus} CPUs");
    check!(gic::enable_sgis(0), "no GIC that is known");
    // As nobody else would have it.
    let set = Private { groups: 0xf5ff_00ff, enabled: 0x0000_0001, priority: 0xb0 };
    gic::set_private(set);
    // SAFETY: Exeunt is live.
    let way = unsafe { call::way_back() };
    check!(way.is_ok(), "REENTER: {way:?}");
    let Ok(way) = way else { crate::report::finish("watchdog") };

    hang("with all masked", EL1H | DAIF);
    be_well("without a timer", spin_until, EL1H | DAIF, false);
    be_well("with interrupts enabled", spin_until, EL1H | DAIF & !I, true);
    be_well("asleep", sleep_until, EL1H | DAIF, true);
    be_well("with its timer set anew", work_until, EL1H | DAIF, true);

    // SAFETY: this guest can live in a stub.
    let left = unsafe { call::leave() };
    check!(left == Ok(1), "LEAVE: {left:?}");
    let (expected, is) = (gic::private_after(set), gic::private());
    check!(is == expected, "the GIC after LEAVE: {is:x?}, and not {expected:x?}");
    be_well("without Exeunt", spin_until, EL1H | DAIF, true);

    let way = WayBack { vectors: way.vectors, number: way.number };
    // SAFETY: Exeunt has named the table, and this CPU is in the stub.
    let back = unsafe { call::reenter(way) };
    check!(back.is_ok(), "REENTER: {back:?}");
    hang("under Exeunt again", EL1H | DAIF & !(1 << 6));
    crate::report::finish("watchdog");
}
