//! An Exeunt that breaks, as its host sees it: nobody is kept for good, and what cannot work is refused.
//!
//! The word on the command line says what is looked at:
//!
//! - `leaver`: CPU 1 calls LEAVE and dies at EL2 in the middle of it (Exeunt has `selftest=dead-leave`). The others are
//!   held, and released when one of them takes it for dead. Then CPU 0 restarts, as a crash does.
//! - `damage`: what Exeunt keeps for a CPU is damaged while it is away. REENTER says no, until it is mended.
//! - `counts`: what STATUS says of a CPU that goes off and comes up, by Exeunt or without, lent to KVM or not (Exeunt
//!   has `kvm=lend`).
//! - none: all CPUs run, and CPU 0 turns the machine off, at which Exeunt may break (`late`). With `twice` CPU 1 turns
//!   it off as well, a second later.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use guest_abi::call::{self, WayBack};
use guest_abi::record::{CPU_LENT_TO_KVM, StatusCpu, StatusHeader};
use guest_abi::stub::{SOFT_RESTART, STUB_ERR};
use guest_abi::vendor::{CpuState, Error, Failure};

use crate::conformance::{landing, stub};
use crate::cpu::{Context, DAIF, EL1H};
use crate::firmware::{self, AFFINITY_INFO, AFFINITY_OFF, CPU_OFF};
use crate::level;
use crate::machine::machine;
use crate::smp;
use crate::start::Start;

/// How long a CPU is held for one LEAVE, by the text of docs/leaving.md, and what a busy workstation may add, in
/// seconds.
const HELD: [u64; 2] = [5, 15];

/// CPUs that a record has room for here.
const CPUS: usize = 8;

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; 4096]>);

// SAFETY: only CPU 0 uses it.
unsafe impl Sync for Page {}

static PAGE: Page = Page(UnsafeCell::new([0; 4096]));

/// What STATUS tells, by CPU. On CPU 0.
fn status() -> [StatusCpu; CPUS] {
    let page = PAGE.0.get();
    // SAFETY: the page is this CPU's, in RAM, and has room for so many CPUs.
    let bytes = unsafe {
        let status = call::status(page as u64, 4096, 0);
        check!(status.is_ok(), "STATUS: {status:?}");
        page.read_volatile()
    };
    let part = |cpu: usize| bytes[StatusHeader::SIZE + cpu * StatusCpu::SIZE..].first_chunk();
    core::array::from_fn(|cpu| part(cpu).map_or(StatusCpu::default(), StatusCpu::from_bytes))
}

/// What CPUs count while they run, each for itself.
static COUNTS: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];

/// Whether each of the CPUs from `first` on counts.
fn count_on(first: usize) -> bool {
    let counts = || (first..smp::online()).map(|cpu| COUNTS[cpu].load(Ordering::Relaxed));
    let mut before = [0; CPUS];
    for (place, count) in before[first..].iter_mut().zip(counts()) {
        *place = count;
    }
    smp::wait_for(|| counts().zip(&before[first..]).all(|(now, before)| now > *before))
}

fn count_for_good(index: usize) -> ! {
    loop {
        COUNTS[index].fetch_add(1, Ordering::Relaxed);
    }
}

/// CPUs that run, and are about to be held.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

fn mask_everything() {
    // SAFETY: the guest has no interrupts.
    unsafe { asm!("msr daifset, #0xf", options(nomem, nostack, preserves_flags)) };
}

/// The longest time between two readings of the counter, once it is longer than a second.
fn longest_gap() -> u64 {
    let (mut last, mut longest) = (read_register!("cntvct_el0"), 0);
    smp::wait_for(|| {
        let now = read_register!("cntvct_el0");
        longest = longest.max(now - last);
        last = now;
        longest > read_register!("cntfrq_el0")
    });
    longest
}

fn with_a_dead_leaver(index: usize) {
    mask_everything();
    match index {
        0 => {}
        1 => {
            smp::wait_for(|| RUNNING.load(Ordering::Acquire) == smp::online() - 1);
            // SAFETY: nobody is left, since this CPU does not come back.
            let left = unsafe { call::leave() };
            check!(false, "the CPU that should have died is back: {left:?}");
            return;
        }
        _ => {
            RUNNING.fetch_add(1, Ordering::AcqRel);
            count_for_good(index)
        }
    }
    RUNNING.fetch_add(1, Ordering::AcqRel);
    let frequency = read_register!("cntfrq_el0");
    let gap = longest_gap();
    let held = HELD.map(|seconds| seconds * frequency);
    check!((held[0]..held[1]).contains(&gap), "held for {} ms", gap * 1000 / frequency);
    check!(count_on(2), "the other CPUs do not run on");
    let expected = [CpuState::Live, CpuState::Leaving, CpuState::Live, CpuState::Live].map(|state| state as u8);
    let states = status().map(|cpu| cpu.state);
    check!(states[..smp::online()] == expected[..smp::online()], "states {states:?}");
    // Exeunt is there as before, but cannot leave any longer, and says so in time.
    // SAFETY: it cannot, since one CPU is dead.
    let left = unsafe { call::leave() };
    check!(left == Err(Failure::Refused(Error::TimedOut)), "another LEAVE: {left:?}");
    // Not before: where this CPU goes on, another one does too, and Exeunt's line about that comes by the same UART.
    println!("broken: held for {} ms", gap * 1000 / frequency);
    restart();
    crate::report::finish("broken");
}

/// What a dying Linux does in the end: SOFT_RESTART, to its crash kernel.
fn restart() {
    landing::prepare(0);
    let mut context = Context::new((&raw const guest_broken_call).addr() as u64, EL1H | DAIF);
    context.x[..5].copy_from_slice(&[SOFT_RESTART, landing::entry(0), 1, 2, 3]);
    let entries = landing::last(0).count;
    // SAFETY: the call goes to the payload, which comes back with a `brk`, or comes back to one itself.
    unsafe { context.enter() };
    let landed = landing::last(0);
    let came = context.ended_at(landing::end()) && landed.count == entries + 1 && landed.x[..3] == [1, 2, 3];
    check!(came, "SOFT_RESTART ended at {:#x}, ESR {:#x}, x0 {:#x}", context.pc, context.esr, context.x[0]);
    check!(landed.current_el == 2 << 2, "the payload's CurrentEL is {:#x}", landed.current_el);
}

global_asm!(
    ".pushsection .text.broken, \"ax\"",
    ".global guest_broken_call",
    "guest_broken_call:",
    "hvc #0",
    "brk #{END}",
    ".popsection",
    END = const crate::code::END_IMMEDIATE,
);

unsafe extern "C" {
    static guest_broken_call: u8;
}

/// Words of what `boot` keeps for a CPU (`boot::CpuBoot`), of which the one with this number is its own address.
const WORDS: usize = 8;
const OWN_ADDRESS: usize = 5;
/// Its alignment.
const ALIGNMENT: usize = 64;

fn word(address: u64) -> *mut u64 {
    address as *mut u64
}

/// Whether it is refused to come back. A CPU that can is sent out again.
fn is_refused(way: WayBack) -> bool {
    // SAFETY: CPU 0 is outside, with the resident stub's vectors, and this is how it comes back.
    let back = unsafe { call::reenter(way) };
    if back.is_ok() {
        // SAFETY: it is this CPU's, and the guest is made for it.
        let left = unsafe { call::reset_vectors() };
        check!(left.is_ok(), "RESET_VECTORS: {left:?}");
    }
    back == Err(Failure::Absent(STUB_ERR))
}

fn damage() {
    // SAFETY: Exeunt is there, and the call changes nothing.
    let way = unsafe { call::way_back() }.expect("REENTER names a way back");
    // SAFETY: as in `is_refused`.
    let left = unsafe { call::reset_vectors() };
    check!(left.is_ok(), "RESET_VECTORS: {left:?}");
    check!(!is_refused(way), "REENTER is refused");
    // Without stage 2 Exeunt's memory is open: which of it is a CPU's?
    let own = machine().reserved.expect("Exeunt names its memory");
    // SAFETY: RAM that is mapped, whoever uses it.
    let read = |address: u64| unsafe { word(address).read_volatile() };
    let is_cpu = |at: &u64| read(at + 8 * OWN_ADDRESS as u64) == *at;
    let mut found = 0;
    for at in (own.base..own.end()).step_by(ALIGNMENT).filter(is_cpu) {
        let kept: [u64; WORDS] = core::array::from_fn(|number| read(at + 8 * number as u64));
        let mut refused = 0;
        for (number, &right) in kept.iter().enumerate() {
            let place = word(at + 8 * number as u64);
            for wrong in [0, right ^ 1 << (8 * number), u64::MAX].into_iter().filter(|&wrong| wrong != right) {
                // SAFETY: as for `read`; it is put back before anybody else comes here.
                unsafe { place.write_volatile(wrong) };
                let is_refused = is_refused(way);
                refused += usize::from(is_refused);
                // SAFETY: as above.
                unsafe { place.write_volatile(right) };
                check!(is_refused || refused == 0, "{at:#x}: word {number} {wrong:#x}, and REENTER comes back");
            }
        }
        // Another CPU's is none of this one's business.
        found += usize::from(refused > 0);
        println!("broken: {at:#x}: {refused} times refused");
    }
    check!(found == 1, "{found} structures are CPU 0's");
    check!(!is_refused(way), "REENTER is refused when all is mended");
    crate::report::finish("broken");
}

/// What STATUS has to say of CPU 1: state, flags, departures, returns.
fn expect(when: &str, expected: (CpuState, u16, u32, u32)) {
    let cpu = status()[1];
    let (state, flags, departures, returns) = expected;
    let held = (cpu.state, cpu.flags, cpu.departures, cpu.returns) == (state as u8, flags, departures, returns);
    check!(held, "CPU 1 {when}: {cpu:?}, expected {expected:?}");
}

/// CPU 0 has said or seen what CPU 1 waits for.
static SPOKEN: AtomicBool = AtomicBool::new(false);

/// Waits until CPU 1 is off.
fn wait_for_off() {
    let is_off = || firmware::psci(AFFINITY_INFO[1], [machine().mpidrs()[1], 0, 0]) == AFFINITY_OFF;
    check!(smp::wait_for(is_off), "CPU 1 does not go off");
}

/// Runs `first` on CPU 0 and `second` on CPU 1. The first does not return.
fn on_both(first: fn(usize), second: fn(usize)) -> ! {
    TASKS[0].store(first as *mut (), Ordering::Release);
    TASKS[1].store(second as *mut (), Ordering::Release);
    smp::on_all(|index| {
        let task = TASKS[index].load(Ordering::Acquire);
        // SAFETY: two functions of this type were stored there.
        let task = unsafe { core::mem::transmute::<*mut (), fn(usize)>(task) };
        task(index);
    });
    unreachable!("the first task returns");
}

static TASKS: [AtomicPtr<()>; 2] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 2];

static WAY: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn go_off(_: usize) {
    let answer = firmware::psci(CPU_OFF, [0; 3]);
    check!(false, "CPU_OFF: {answer}");
}

fn go_out() {
    // SAFETY: the guest is made for it.
    let left = unsafe { call::reset_vectors() };
    check!(left.is_ok(), "RESET_VECTORS: {left:?}");
}

fn come_back(_: usize) {
    let [vectors, number] = [0, 1].map(|index: usize| WAY[index].load(Ordering::Acquire));
    // SAFETY: the CPU is outside, in a stub.
    let back = unsafe { call::reenter(WayBack { vectors, number }) };
    check!(back.is_ok(), "REENTER: {back:?}");
}

/// CPU 1 goes off, as soon as CPU 0 has looked at it.
fn go_off_when_seen(index: usize) {
    check!(smp::wait_for(|| SPOKEN.load(Ordering::Acquire)), "CPU 0 does not look");
    go_off(index);
}

/// CPU 1 goes off under Exeunt, comes up without it, and comes back.
fn first_without(_: usize) {
    expect("at first", (CpuState::Live, 0, 0, 0));
    SPOKEN.store(true, Ordering::Release);
    wait_for_off();
    expect("off", (CpuState::Off, 0, 0, 0));
    // SAFETY: Exeunt is there, and the call changes nothing.
    let way = unsafe { call::way_back() }.expect("REENTER names a way back");
    WAY[0].store(way.vectors, Ordering::Release);
    WAY[1].store(way.number, Ordering::Release);
    go_out();
    smp::start(1);
    on_both(then_both_back, come_back)
}

fn then_both_back(index: usize) {
    come_back(index);
    check!(smp::wait_for(|| status()[1].state == CpuState::Live as u8), "CPU 1 does not come back");
    expect("back", (CpuState::Live, 0, 1, 1));
    on_both(then_lent, |index| {
        go_out();
        go_off(index);
    })
}

/// CPU 1 is lent, goes off without Exeunt, and comes up under it.
fn then_lent(_: usize) {
    wait_for_off();
    expect("lent", (CpuState::Stub, CPU_LENT_TO_KVM, 2, 1));
    smp::start(1);
    expect("up again", (CpuState::Live, 0, 2, 1));
    crate::report::finish("broken");
}

/// Runs the test.
pub fn run(_: &Start) {
    let has = |wanted| machine().words().any(|word| word == wanted);
    level::set_vectors(stub::vectors());
    smp::start_all();
    if has("leaver") {
        smp::on_all(with_a_dead_leaver);
    } else if has("damage") {
        damage();
    } else if has("counts") {
        on_both(first_without, go_off_when_seen);
    } else {
        smp::on_all(|index| {
            let twice = machine().words().any(|word| word == "twice");
            if index == 1 && twice {
                smp::wait_for(|| {
                    COUNTS[index].fetch_add(1, Ordering::Relaxed);
                    SPOKEN.load(Ordering::Acquire)
                });
                let end = read_register!("cntvct_el0") + read_register!("cntfrq_el0");
                while read_register!("cntvct_el0") < end {}
                firmware::exit(0);
            }
            if index != 0 {
                count_for_good(index);
            }
            check!(count_on(1), "the other CPUs do not run");
            SPOKEN.store(true, Ordering::Release);
            println!("broken: the host runs on {} CPUs", smp::online());
            crate::report::finish("broken");
        });
    }
}
