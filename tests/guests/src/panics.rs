//! PANIC: a CPU takes an SError wherever it is, with the registers of the Arm ARM, and nothing else happens to it or to
//! the others.
//!
//! CPU 0 asks. CPU 1 is meant: it spins or sleeps at EL0 or EL1, with all masks of interrupts or some. CPU 2 spins and
//! is to notice nothing; CPU 3 is off. It needs four CPUs and a GIC. With `lock` on its command line LOCK is called.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use guest_abi::call;
use guest_abi::vendor::{Error, Failure, PANIC, PANIC_HERE, PANIC_SYNDROME};

use crate::code::END_IMMEDIATE;
use crate::cpu::{Context, DAIF, EC_BRK, EL0T, EL1H, EL1T, NZCV, pstate_of_handler};
use crate::firmware::{self, AFFINITY_INFO, AFFINITY_OFF};
use crate::machine::machine;
use crate::paging::SCTLR_OFF;
use crate::start::Start;
use crate::{gic, smp};

const TARGET: usize = 1;
const BYSTANDER: usize = 2;
const OFF: usize = 3;

/// PSTATE.{A,I,F}.
const A: u64 = 1 << 8;
const I: u64 = 1 << 7;
const F: u64 = 1 << 6;

/// Loops until the word at x0 is not 0, then `brk`.
#[unsafe(naked)]
#[unsafe(link_section = ".probes")]
unsafe extern "C" fn spin_until() {
    naked_asm!("1: ldr x1, [x0]", "cbz x1, 1b", "brk #{END}", END = const END_IMMEDIATE)
}

/// Loops for ever. Both have two instructions.
#[unsafe(naked)]
#[unsafe(link_section = ".probes")]
pub(crate) unsafe extern "C" fn spin() {
    naked_asm!("1: add x1, x1, #1", "b 1b")
}

#[unsafe(naked)]
#[unsafe(link_section = ".probes")]
pub(crate) unsafe extern "C" fn sleep() {
    naked_asm!("1: wfi", "b 1b")
}

/// PANIC as x0 and x1 say, then `brk`.
#[unsafe(naked)]
#[unsafe(link_section = ".probes")]
unsafe extern "C" fn panic_by_hvc() {
    naked_asm!("hvc #0", "brk #{END}", END = const END_IMMEDIATE)
}

/// Where the target is.
struct Place {
    name: &'static str,
    code: unsafe extern "C" fn(),
    pstate: u64,
    vector: u64,
}

/// Interrupts are masked everywhere: the SGI by which a sleeper is woken would come first.
const PLACES: [Place; 8] = [
    Place { name: "EL1h", code: spin, pstate: EL1H | I | F, vector: 0x380 },
    Place { name: "EL1h, all but A masked", code: spin, pstate: EL1H | DAIF & !A | NZCV, vector: 0x380 },
    Place { name: "EL1h, all masked", code: spin, pstate: EL1H | DAIF, vector: 0x380 },
    Place { name: "EL1t, all masked", code: spin, pstate: EL1T | DAIF, vector: 0x180 },
    Place { name: "EL0", code: spin, pstate: EL0T | DAIF & !A, vector: 0x580 },
    Place { name: "EL0, all masked", code: spin, pstate: EL0T | DAIF, vector: 0x580 },
    Place { name: "asleep, A clear", code: sleep, pstate: EL1H | DAIF & !A, vector: 0x380 },
    Place { name: "asleep, all masked", code: sleep, pstate: EL1H | DAIF, vector: 0x380 },
];

/// Which of [`PLACES`] is tried.
static TRIED: AtomicU32 = AtomicU32::new(0);
static READY: AtomicBool = AtomicBool::new(false);
/// Not 0: who spins may stop.
static OVER: AtomicU64 = AtomicU64::new(0);

fn milliseconds(count: u64) {
    let end = read_register!("cntvct_el0") + read_register!("cntfrq_el0") * count / 1000;
    while read_register!("cntvct_el0") < end {
        core::hint::spin_loop();
    }
}

fn ask(cpu: u32) -> Result<(), Failure> {
    // SAFETY: the vectors of this guest tell of an SError as of anything else.
    unsafe { call::panic(cpu) }
}

fn refused(error: Error) -> Result<(), Failure> {
    Err(Failure::Refused(error))
}

/// Runs the context and looks whether it has ended in the SError.
fn expect_panic(name: &str, context: &mut Context, pcs: core::ops::RangeInclusive<u64>, vector: u64) {
    let before = *context;
    // SAFETY: the instructions write nothing, and end by the panic.
    unsafe { context.enter() };
    check!(context.esr == PANIC_SYNDROME, "{name}: ESR {:#x} at {:#x}", context.esr, context.pc);
    check!(context.vector == vector, "{name}: vector {:#x}, expected {vector:#x}", context.vector);
    check!(pcs.contains(&context.pc), "{name}: ELR {:#x}, expected {pcs:x?}", context.pc);
    check!(context.pstate == before.pstate, "{name}: SPSR {:#x}, expected {:#x}", context.pstate, before.pstate);
    let handler = pstate_of_handler(before.pstate, before.sctlr);
    check!(context.handler_pstate == handler, "{name}: PSTATE {:#x}, expected {handler:#x}", context.handler_pstate);
    check!(context.x[2..] == before.x[2..], "{name}: registers have changed");
    check!(context.sp_el0 == before.sp_el0 && context.sp_el1 == before.sp_el1, "{name}: stack pointers have changed");
}

fn be_ready(index: usize) {
    check!(gic::enable_sgis(index), "CPU {index}: no GIC that is known");
}

fn go_off(index: usize) {
    if index == OFF {
        smp::go_off();
    }
}

/// Spins until [`OVER`], and is to end by that.
fn spin_to_the_end(name: &str, sctlr: u64) {
    let mut context = Context::new(spin_until as *const () as u64, EL1H | DAIF);
    context.x[0] = OVER.as_ptr() as u64;
    context.sctlr = sctlr;
    if name == "target" {
        READY.store(true, Ordering::Release);
    }
    // SAFETY: the instructions read a word of this guest's, and end.
    unsafe { context.enter() };
    check!(context.class() == EC_BRK, "{name}: ESR {:#x} at {:#x}", context.esr, context.pc);
}

fn await_target() {
    check!(smp::wait_for(|| READY.swap(false, Ordering::AcqRel)), "the target is not ready");
    milliseconds(100);
}

/// One panic of the target.
fn one(index: usize) {
    let place = &PLACES[TRIED.load(Ordering::Acquire) as usize];
    match index {
        TARGET => {
            let code = place.code as *const () as u64;
            let mut context = Context::new(code, place.pstate);
            for (number, register) in context.x.iter_mut().enumerate() {
                *register = 0x1_0000_0001 * number as u64;
            }
            (context.sp_el0, context.sp_el1) = (0x1230, 0x4560);
            READY.store(true, Ordering::Release);
            expect_panic(place.name, &mut context, code..=code + 4, place.vector);
        }
        BYSTANDER => spin_to_the_end("the bystander", read_register!("sctlr_el1")),
        _ => {
            await_target();
            let asked = ask(TARGET as u32);
            check!(asked == Ok(()), "{}: {asked:?}", place.name);
            OVER.store(1, Ordering::Release);
        }
    }
}

/// The caller's own CPU.
fn own(index: usize) {
    for (what, cpu) in [("by 0xffffffff", PANIC_HERE), ("by its number", index as u32)] {
        for pstate in [EL1H | I | F, EL1H | DAIF, EL1T | DAIF] {
            let code = panic_by_hvc as *const () as u64;
            let mut context = Context::new(code, pstate);
            (context.x[0], context.x[1]) = (PANIC.into(), cpu.into());
            let vector = if pstate & 1 == 0 { 0x180 } else { 0x380 };
            expect_panic(what, &mut context, code + 4..=code + 4, vector);
            check!(context.x[..2] == [0, cpu.into()], "{what}: x0 {:#x}, x1 {:#x}", context.x[0], context.x[1]);
        }
    }
}

/// With its MMU off nobody is made to panic: neither the target nor who asks.
fn without_mmu(index: usize) {
    match index {
        TARGET => spin_to_the_end("target", SCTLR_OFF),
        BYSTANDER => spin_to_the_end("the bystander", read_register!("sctlr_el1")),
        _ => {
            await_target();
            let asked = ask(TARGET as u32);
            check!(asked == refused(Error::WrongState), "a CPU with its MMU off: {asked:?}");
            let mut context = Context::new(panic_by_hvc as *const () as u64, EL1H | DAIF);
            (context.x[0], context.x[1]) = (PANIC.into(), PANIC_HERE.into());
            context.sctlr = SCTLR_OFF;
            // SAFETY: the call returns, and a `brk` follows.
            unsafe { context.enter() };
            let (esr, x0) = (context.esr, context.x[0]);
            check!(context.class() == EC_BRK && x0 == Error::WrongState.to_register(), "ESR {esr:#x}, x0 {x0:#x}");
            OVER.store(1, Ordering::Release);
        }
    }
}

/// The last: Exeunt leaves the target.
fn leave_target(index: usize) {
    if index == TARGET {
        // SAFETY: this guest can live with a stub.
        let left = unsafe { call::reset_vectors() };
        check!(left.is_ok(), "RESET_VECTORS: {left:?}");
    }
}

fn run_all(task: fn(usize)) {
    OVER.store(0, Ordering::Release);
    smp::on_all(task);
}

/// Runs the test, on the boot CPU.
pub fn run(_: &Start) {
    let cpus = smp::start_all();
    check!(cpus == 4, "{cpus} CPUs");
    smp::on_all(be_ready);
    smp::on_all(go_off);
    let off = || firmware::psci(AFFINITY_INFO[1], [machine().mpidrs()[OFF], 0, 0]) == AFFINITY_OFF;
    check!(smp::wait_for(off), "CPU {OFF} is not off");

    for _ in 0..2 {
        for place in 0..PLACES.len() {
            TRIED.store(place as u32, Ordering::Release);
            run_all(one);
        }
    }
    // Once more after LOCK: that is a promise about leaving, and nobody leaves here.
    if machine().option("lock").is_some() {
        // SAFETY: LOCK changes nothing for a guest that does not want Exeunt to leave.
        let locked = unsafe { call::lock() };
        check!(locked == Ok(()), "LOCK: {locked:?}");
        run_all(one);
        smp::on_all(own);
        crate::report::finish("panics");
    }
    smp::on_all(own);
    run_all(without_mmu);
    for unknown in [4, 0xffff, 0x1_0001, u32::MAX - 1] {
        let asked = ask(unknown);
        check!(asked == refused(Error::InvalidParameter), "unknown CPU {unknown:#x}: {asked:?}");
    }
    let asked = ask(OFF as u32);
    check!(asked == refused(Error::WrongState), "a CPU that is off: {asked:?}");
    smp::on_all(leave_target);
    let asked = ask(TARGET as u32);
    check!(asked == refused(Error::WrongState), "a CPU that Exeunt has left: {asked:?}");
    crate::report::finish("panics");
}
