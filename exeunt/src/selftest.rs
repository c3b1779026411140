//! Deliberate faults at EL2, so that tests (and the curious) see that the protection holds and what a panic says.
//!
//! Chosen by the option `selftest=`; each ends in a panic, and one that does not is reported as a failure of the
//! protection. With `late` they are committed when the host turns the machine off: while it runs on the other CPUs.

use core::arch::{asm, naked_asm};
use core::hint::black_box;

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use hypervisor::options::SelfTest;

use crate::{console, memory};

/// How many reports of an exception are still to take one themselves.
static FAULTS_IN_REPORTS: AtomicU8 = AtomicU8::new(0);

/// Reports do not end.
static REPORTS_STOP: AtomicBool = AtomicBool::new(false);

/// Takes an exception, or stops, if the report of another one shall. Every such report asks.
pub fn in_a_report() {
    while REPORTS_STOP.load(Ordering::Relaxed) {
        aarch64_cpu::asm::wfi();
    }
    if FAULTS_IN_REPORTS.load(Ordering::Relaxed) > 0 {
        FAULTS_IN_REPORTS.fetch_sub(1, Ordering::Relaxed);
        store_to(CONSTANT.as_ptr().addr());
    }
}

/// Stops the first CPU that comes here, as one that breaks without a word.
pub fn die_once() {
    static DEAD: AtomicBool = AtomicBool::new(false);
    if !DEAD.swap(true, Ordering::Relaxed) {
        loop {
            aarch64_cpu::asm::wfi();
        }
    }
}

/// Commits the fault that `which` names.
#[cold]
#[inline(never)]
pub fn run(which: SelfTest) -> ! {
    log::info!("selftest {which:?}");
    match which {
        SelfTest::WriteText => store_to(run as fn(SelfTest) -> ! as usize),
        SelfTest::WriteRodata => store_to(CONSTANT.as_ptr().addr()),
        SelfTest::RunData => {
            let data = [0xd65f_03c0_u32; 4]; // ret
            let address = black_box(&data).as_ptr();
            // SAFETY: none is needed if stage 1 does what it should: the stack is never executable. If it does not, the
            // instruction is a return.
            unsafe { asm!("blr {}", in(reg) address, out("x30") _) };
        }
        SelfTest::ReadHost => {
            // Where a loader that puts the two side by side has the host's kernel.
            let address = memory::reservation().end;
            // SAFETY: none is needed if stage 1 does what it should. If it does not, nothing is changed.
            unsafe { asm!("ldr {:w}, [{}]", out(reg) _, in(reg) address, options(readonly)) };
        }
        SelfTest::StackOverflow => {
            let _ = black_box(overflow(0));
        }
        SelfTest::LostStack => lose_stack(),
        SelfTest::LostCpu => {
            // Aligned like a CPU's, and can be read.
            let lost = memory::image_base();
            // SAFETY: the next store is an exception, after which nothing here is used again.
            unsafe { asm!("msr tpidr_el2, {}", in(reg) lost) };
            store_to(CONSTANT.as_ptr().addr());
        }
        SelfTest::DeadLock => {
            console::lose_lock();
            log::warn!("selftest: the log goes on without its lock");
            panic!("asked for by the option selftest, without the log's lock");
        }
        SelfTest::DoubleFault | SelfTest::TripleFault => {
            FAULTS_IN_REPORTS.store(if which == SelfTest::DoubleFault { 1 } else { 2 }, Ordering::Relaxed);
            store_to(CONSTANT.as_ptr().addr());
        }
        SelfTest::DeadReport => {
            REPORTS_STOP.store(true, Ordering::Relaxed);
            store_to(CONSTANT.as_ptr().addr());
        }
        SelfTest::Panic => panic!("asked for by the option selftest"),
    }
    panic!("selftest {which:?}: no fault was taken; protection at EL2 does not work");
}

/// Uses a stack that is not there.
#[unsafe(naked)]
extern "C" fn lose_stack() {
    naked_asm!("mov x0, #0", "mov sp, x0", "str x0, [sp]", "ret")
}

/// Something in read-only data.
static CONSTANT: [u64; 2] = [1, 2];

fn store_to(address: usize) {
    // SAFETY: none is needed if stage 1 does what it should: text and read-only data cannot be written. If it does not,
    // the word is put back as it was.
    unsafe {
        asm!("ldr {word:w}, [{address}]", "str {word:w}, [{address}]", address = in(reg) address, word = out(reg) _);
    }
}

/// Uses a little stack, and calls itself until there is none.
#[expect(unconditional_recursion, reason = "that is the point")]
fn overflow(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    overflow(depth + 1) + frame[(depth % 16) as usize] + memory::image_base()
}
