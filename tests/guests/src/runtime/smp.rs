//! Several CPUs: starting them by PSCI, and running the same function on all of them at once.

use core::arch::asm;
use core::mem::transmute;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::cpu;
use crate::firmware::{self, CPU_OFF, CPU_ON};
use crate::machine::machine;
use crate::start::secondary_entry;

/// How long a CPU may take to come up, in seconds of the generic timer.
const PATIENCE: u64 = 20;

static ONLINE: AtomicUsize = AtomicUsize::new(1);
static GENERATION: AtomicUsize = AtomicUsize::new(0);
static TASK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static DONE: AtomicUsize = AtomicUsize::new(0);
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// How many CPUs take part.
pub fn online() -> usize {
    ONLINE.load(Ordering::Acquire)
}

/// Waits until `condition` holds; false when it did not within [`PATIENCE`] seconds.
pub fn wait_for(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = read_register!("cntvct_el0") + PATIENCE * read_register!("cntfrq_el0");
    while !condition() {
        if read_register!("cntvct_el0") > deadline {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Turns on every CPU of the device tree and returns how many there are.
///
/// # Panics
/// When one does not come up.
#[allow(clippy::must_use_candidate, reason = "the CPUs are what it is called for")]
pub fn start_all() -> usize {
    for index in 1..machine().mpidrs().len() {
        start(index);
    }
    online()
}

/// Turns on the CPU with the number `index`.
///
/// # Panics
/// When it does not come up.
pub fn start(index: usize) {
    let mpidr = machine().mpidrs()[index];
    let before = online();
    let area = core::ptr::from_ref(cpu::prepare(index)) as u64;
    let result = firmware::psci(CPU_ON[1], [mpidr, secondary_entry as *const () as u64, area]);
    assert!(result == firmware::SUCCESS, "CPU_ON of {mpidr:#x}: {result}");
    assert!(wait_for(|| online() == before + 1), "CPU {index} ({mpidr:#x}) did not come up");
}

/// What a secondary CPU does all its life: wait for a task, run it.
pub(super) fn work(index: usize) -> ! {
    let mut seen = GENERATION.load(Ordering::Acquire);
    ONLINE.fetch_add(1, Ordering::AcqRel);
    loop {
        while GENERATION.load(Ordering::Acquire) == seen {
            // SAFETY: waiting for an event has no effect on memory; the boot CPU sends one with each task.
            unsafe { asm!("wfe", options(nostack, preserves_flags)) };
        }
        seen += 1;
        let task = TASK.load(Ordering::Acquire);
        // SAFETY: `on_all` stored a `fn(usize)` there before it raised the generation.
        let task = unsafe { transmute::<*mut (), fn(usize)>(task) };
        task(index);
        DONE.fetch_add(1, Ordering::AcqRel);
    }
}

/// Ends the part of the calling CPU, from a task: it goes off, and is one that [`start`] can turn on again.
///
/// # Panics
/// When firmware refuses.
pub fn go_off() -> ! {
    ONLINE.fetch_sub(1, Ordering::AcqRel);
    let result = firmware::psci(CPU_OFF, [0; 3]);
    panic!("CPU_OFF: {result}");
}

/// The calling CPU is about to go off in another way than by [`go_off`].
pub fn count_out() {
    ONLINE.fetch_sub(1, Ordering::AcqRel);
}

/// Has CPUs that have come up since run the task that the others are in the middle of.
pub fn join() {
    GENERATION.fetch_add(1, Ordering::AcqRel);
    // SAFETY: an event wakes the CPUs that wait in `work`.
    unsafe { asm!("dsb ish", "sev", options(nostack, preserves_flags)) };
}

/// All others have gone off, in a task that they have not ended, and can be turned on again by [`start`].
pub fn others_are_off() {
    ONLINE.store(1, Ordering::Release);
}

/// Runs `task` with the number of the CPU on all CPUs at once and returns when all have finished.
pub fn on_all(task: fn(usize)) {
    DONE.store(0, Ordering::Release);
    ARRIVED.store(0, Ordering::Release);
    TASK.store(task as *mut (), Ordering::Release);
    GENERATION.fetch_add(1, Ordering::AcqRel);
    // SAFETY: an event wakes the CPUs that wait in `work`.
    unsafe { asm!("dsb ish", "sev", options(nostack, preserves_flags)) };
    task(0);
    while DONE.load(Ordering::Acquire) != online() - 1 {
        core::hint::spin_loop();
    }
}

/// Has all other CPUs run `task`, and returns at once: for a task that does not end on one of them. Nothing else can be
/// run on it afterwards.
pub fn on_others(task: fn(usize)) {
    TASK.store(task as *mut (), Ordering::Release);
    join();
}

/// Waits until all CPUs have come here `round` times (counting from 1 within one [`on_all`]).
pub fn barrier(round: usize) {
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    while ARRIVED.load(Ordering::Acquire) < round * online() {
        core::hint::spin_loop();
    }
}
