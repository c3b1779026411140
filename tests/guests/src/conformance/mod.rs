//! Every call of docs/abi.md in every state: what it answers, and that nothing else changes.
//!
//! The states come one after the other, on every CPU: virtual EL2 before the exception return, `Live`, the resident
//! stub or the host's own vectors after Exeunt has left. In each of them each CPU makes every call alone, and then all
//! CPUs at once, with the MMU on and off, with and without DAIF, from EL1t and EL1h, with wild stack pointers. One line
//! for each case, and a table of all calls.
//!
//! Options on the command line:
//! - `vectors`: at virtual EL2 the host sets vectors of its own, as Linux does.
//! - `way=reset`, `way=restart`: how Exeunt is made to leave; without, it stays.
//! - `restart=resident`: Exeunt's option of that name says so.
//! - `cycle`: every way out of Exeunt and back, and LOCK, by Exeunt's own calls. `way=` and `restart=` mean nothing
//!   then.
//! - `slow-leave`: Exeunt has the option `selftest=slow-leave`, so that calls can be made while a LEAVE is under way.
//! - `walk=N`: N random calls, while all CPUs leave and come back (`walk.rs`). `vectors`, `way=` and the rest mean
//!   nothing then.
//! - `bare`: there is no Exeunt, and EL2 is real. The section of a stub alone ([`bare`]), for the host's own table.
//! - `quick`: alone, each CPU makes the calls under a quarter of the conditions, another on each.

pub mod bare;
mod case;
mod cycle;
pub(crate) mod landing;
mod lists;
mod resume;
pub(crate) mod stub;
mod tally;
mod walk;

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use guest_abi::stub::{FINALISE_EL2, RESET_VECTORS, SET_VECTORS, SOFT_RESTART};
use guest_abi::vendor::{self, Policy};

use self::case::{Case, End, OWN_ENTRY, VARIATIONS, Want};
use self::landing::CPUS;
use self::lists::Setting;
use self::tally::{Call, State};
use crate::cpu;
use crate::level;
use crate::machine::{self, machine};
use crate::random::Random;
use crate::smp;
use crate::start::{Start, settle};
use crate::unchanged;

/// No CPU in particular.
const ALL: usize = usize::MAX;

/// What the CPUs are to do.
struct Plan {
    /// The CPU that works while the others wait, or [`ALL`].
    only: AtomicUsize,
    state: AtomicU32,
    /// Which conditions: all of them, or the one.
    first: AtomicU32,
    last: AtomicU32,
}

static PLAN: Plan = Plan {
    only: AtomicUsize::new(ALL),
    state: AtomicU32::new(0),
    first: AtomicU32::new(0),
    last: AtomicU32::new(VARIATIONS),
};

fn work(index: usize) {
    let only = PLAN.only.load(Ordering::Acquire);
    if only != ALL && only != index {
        return;
    }
    let state = State::ALL[PLAN.state.load(Ordering::Relaxed) as usize];
    let mut random = Random::new(read_register!("cntvct_el0") ^ index as u64);
    unchanged::scatter(&mut random);
    let conditions = PLAN.first.load(Ordering::Relaxed)..PLAN.last.load(Ordering::Relaxed);
    for conditions in conditions {
        let mut number = 0;
        while let Some(case) = tally::case(number) {
            let outcome = case::perform(&case, index, conditions, &mut random);
            tally::note(state, number, index, conditions, &outcome);
            number += 1;
        }
    }
}

/// Has the list worked on by one CPU or all, under the conditions from `first` up to `last`.
fn on(only: usize, state: State, first: u32, last: u32) {
    PLAN.only.store(only, Ordering::Release);
    PLAN.state.store(state as u32, Ordering::Release);
    PLAN.first.store(first, Ordering::Release);
    PLAN.last.store(last, Ordering::Release);
    smp::on_all(work);
}

fn is_quick() -> bool {
    machine().words().any(|word| word == "quick")
}

/// Works on the list on each CPU alone and on all at once, and prints it.
fn everywhere(state: State) {
    for index in 0..smp::online() {
        if is_quick() {
            let first = index as u32 * (VARIATIONS / 4) % VARIATIONS;
            on(index, state, first, first + VARIATIONS / 4);
        } else {
            on(index, state, 0, VARIATIONS);
        }
    }
    on(ALL, state, 0, VARIATIONS);
    tally::print(state);
}

/// One case that changes the state: once on each CPU alone if `in_turn`, else on all at once.
fn change(state: State, case: Case, in_turn: bool) {
    tally::clear();
    tally::add(case);
    if in_turn {
        for index in 0..smp::online() {
            // Each CPU under conditions of its own.
            let conditions = (5 * index as u32 + 2) % VARIATIONS;
            on(index, state, conditions, conditions + 1);
        }
    } else {
        on(ALL, state, 6, 7);
    }
    tally::print(state);
}

fn stub_call(call: Call, what: &'static str, number: u64, x1: u64) -> Case {
    let want = [Want::Is(0), Want::Same, Want::Same, Want::Same];
    Case { call, what, immediate: 0, x: [number, x1, 2, 3, 4], want, end: End::Returns }
}

fn restart(what: &'static str, end: End) -> Case {
    restart_with(what, 0x2222, end)
}

fn restart_with(what: &'static str, x2: u64, end: End) -> Case {
    Case {
        call: Call::SoftRestart,
        what,
        immediate: 0,
        x: [SOFT_RESTART, OWN_ENTRY, x2, 0x3333, 0x4444],
        want: [Want::Is(x2), Want::Is(0x3333), Want::Is(0x4444), Want::Same],
        end,
    }
}

/// What each CPU finds in virtual EL2, written there and checked at EL1.
struct Windows(UnsafeCell<[[stub::Window; WINDOW_CALLS.len()]; CPUS]>);

// SAFETY: each CPU writes its own, and the boot CPU reads them when all have.
unsafe impl Sync for Windows {}

static WINDOWS: Windows = Windows(UnsafeCell::new(
    [[stub::Window { x: [0; 29], taken: 0, esr: 0, elr: 0, spsr: 0, behind: 0, scratch: 0 }; WINDOW_CALLS.len()]; CPUS],
));

/// Calls from virtual EL2 to itself: the row, x0, and whether the immediate is another than 0.
const WINDOW_CALLS: [(Call, u64, bool); 14] = [
    (Call::SetVectors, SET_VECTORS, false),
    (Call::SoftRestart, SOFT_RESTART, false),
    (Call::ResetVectors, RESET_VECTORS, false),
    (Call::FinaliseEl2, FINALISE_EL2, false),
    (Call::GetIchVtr, guest_abi::stub::GET_ICH_VTR_EL2, false),
    (Call::Version, vendor::VERSION as u64, false),
    (Call::Uid, vendor::CALL_UID as u64, false),
    (Call::Status, vendor::STATUS as u64, false),
    (Call::Leave, vendor::LEAVE as u64, false),
    (Call::Lock, vendor::LOCK as u64, false),
    (Call::Reenter, vendor::REENTER as u64, false),
    (Call::Psci, crate::firmware::PSCI_VERSION, false),
    (Call::OtherNumber, 0x7f, false),
    (Call::OtherImmediate, 0, true),
];

/// x0 to x28 of such a call.
fn window_register(call: usize, number: usize) -> u64 {
    0x1234_0000 + 0x100 * call as u64 + number as u64
}

/// At virtual EL2: an HVC is an exception from EL2 to itself, whatever its number.
fn at_virtual_el2(index: usize) {
    write_register!("vbar_el2", stub::vectors());
    // SAFETY: see `Windows`.
    let windows = unsafe { &mut (*WINDOWS.0.get())[index] };
    for (call, (window, (_, x0, other))) in windows.iter_mut().zip(WINDOW_CALLS).enumerate() {
        window.x = core::array::from_fn(|number| window_register(call, number));
        window.x[0] = x0;
        // SAFETY: at EL2, and the vectors are these.
        unsafe { stub::call(window, other) };
    }
}

/// SPSR_EL2 of an exception from EL2h with everything masked, except the flags.
const SPSR_EL2H: u64 = 0x3c9;
/// ESR_EL2 of an HVC: EC and IL.
const ESR_HVC: u64 = 0x16 << 26 | 1 << 25;

fn check_windows() {
    for index in 0..smp::online() {
        // SAFETY: see `Windows`; volatile because the vectors write it, too.
        let windows = unsafe { (&raw const (*WINDOWS.0.get())[index]).read_volatile() };
        for (number, (window, (call, x0, other))) in windows.iter().zip(WINDOW_CALLS).enumerate() {
            let mut x = core::array::from_fn(|register| window_register(number, register));
            x[0] = x0;
            let esr = ESR_HVC | if other { 0x4a48 } else { 0 };
            let held = window.taken == 1
                && window.esr == esr
                && window.elr == window.behind
                && window.spsr & !cpu::NZCV == SPSR_EL2H
                && window.x == x;
            let what = format_args!(
                "x0={x0:#x} on CPU {index} -> the host's own vectors, {} times, ESR {:#x} ELR {:#x} SPSR {:#x}",
                window.taken, window.esr, window.elr, window.spsr
            );
            tally::single(State::VirtualEl2, call, held, what);
        }
    }
}

/// Runs the test.
///
/// # Panics
/// When there are more CPUs than it has code for.
pub fn run(start: &Start) {
    machine::read(start.tree);
    let has = |word: &str| machine().words().any(|each| each == word);
    if has("bare") {
        level::set_vectors(stub::vectors());
        settle();
        println!("conformance: {} CPUs of a bare machine", smp::start_all());
        bare::section(stub::vectors());
        crate::report::finish("conformance");
    }
    let sets_vectors = start.level == 2 && has("vectors");
    if sets_vectors {
        level::set_vectors(stub::vectors());
        // Only with vectors can a call be made there: without, the exception would have nowhere to go.
        level::before_leaving_el2(at_virtual_el2);
    }
    settle();
    assert!(machine().mpidrs().len() <= CPUS, "this guest has code for {CPUS} CPUs");
    let cpus = smp::start_all();
    println!("conformance: {cpus} CPUs, entered at EL{}, {:?}", start.level, machine().bootargs());
    if sets_vectors {
        check_windows();
    }

    if let Some(calls) = machine().number("walk") {
        walk::run(calls);
        crate::report::finish("conformance");
    }
    if has("cycle") {
        cycle::run(cycle::host(sets_vectors));
        finish();
    }
    let live = if start.level == 2 { State::LiveEl2 } else { State::LiveEl1 };
    let resident = machine().option("restart") == Some("resident");
    let policy = if resident { Policy::Resident } else { Policy::Leave };
    let under_exeunt = if start.level == 2 { End::VirtualEl2 } else { End::El1 };
    let setting = Setting {
        state: live,
        policies: [policy; 2],
        restart: resident.then_some(under_exeunt),
        // What is set here is what Exeunt leaves behind.
        set_vectors: sets_vectors || start.level == 1,
        own: stub::vectors(),
    };
    setting.fill();
    everywhere(live);

    match machine().option("way") {
        Some("reset") => change(live, stub_call(Call::ResetVectors, "out of Exeunt", RESET_VECTORS, 1), true),
        Some("restart") => change(live, restart("out of Exeunt", End::El2), true),
        _ => finish(),
    }
    // A SOFT_RESTART gives the payload an EL2 without vectors of the last host's, and Linux's own are gone with it.
    let own = sets_vectors && machine().option("way") == Some("reset");
    let outside = |state| Setting { state, restart: Some(End::El2), set_vectors: state == State::Gone, ..setting };
    if own {
        outside(State::Gone).fill();
        everywhere(State::Gone);
        finish();
    }
    outside(State::Stub).fill();
    everywhere(State::Stub);
    let resident = landing::last(0).el2[11];
    check!(
        machine().reserved.is_some_and(|own| own.contains(resident)),
        "the resident stub is at {resident:#x}, not in Exeunt's memory"
    );
    // The larger part of RAM is above Exeunt, and the resident stub looks there first. The first 2 KiB had QEMU's boot
    // code.
    let below = machine().ram.base;
    // SAFETY: QEMU has RAM at a multiple of 1 GiB, and the guest uses nothing below its image.
    unsafe { stub::copy_to(below) };
    change(State::Stub, stub_call(Call::SetVectors, "to a table below Exeunt", SET_VECTORS, below), true);
    change(State::Gone, stub_call(Call::SetVectors, "from there to the resident stub", SET_VECTORS, resident), false);
    // To vectors of the host's own, and back.
    change(State::Stub, stub_call(Call::SetVectors, "to the host's own table", SET_VECTORS, stub::vectors()), true);
    outside(State::Gone).fill();
    everywhere(State::Gone);
    change(State::Gone, stub_call(Call::SetVectors, "to the resident stub", SET_VECTORS, resident), false);
    outside(State::Stub).fill();
    on(ALL, State::Stub, 0, VARIATIONS);
    tally::print(State::Stub);
    finish()
}

fn finish() -> ! {
    tally::print_table();
    crate::report::finish("conformance")
}
