//! Lab 9: rescue a CPU that hangs with everything masked.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use guests::smp::{self, wait_for};
use guests::start::Start;
use guests::{println, read_register, write_register};

/// What you write.
pub struct Yours {
    /// Has the CPU with this number leave its loop.
    pub rescue: fn(cpu: u32),
    /// Whether ESR_EL1, as the rescued CPU has found it at its SError vector, says that Exeunt has brought it there.
    pub is_exeunts: fn(esr: u64) -> bool,
}

static STUCK: AtomicU64 = AtomicU64::new(0);
static RESCUED: AtomicU64 = AtomicU64::new(0);
static FROM: AtomicU64 = AtomicU64::new(0);

/// An SError's syndrome that is hardware's: uncategorised.
const OF_HARDWARE: u64 = 0xbe00_0000;

global_asm!(
    ".pushsection .text.rescue, \"ax\"",
    ".balign 2048",
    ".global lab_rescue_vectors",
    "lab_rescue_vectors:",
    ".rept 16",
    ".balign 128",
    "b {rescued}",
    ".endr",
    ".popsection",
    rescued = sym rescued,
);

unsafe extern "C" {
    static lab_rescue_vectors: u8;
}

extern "C" fn rescued() -> ! {
    FROM.store(read_register!("elr_el1"), Ordering::Relaxed);
    RESCUED.store(read_register!("esr_el1"), Ordering::Release);
    loop {
        core::hint::spin_loop();
    }
}

fn hang(index: usize) {
    if index != 1 {
        return;
    }
    write_register!("vbar_el1", &raw const lab_rescue_vectors as u64);
    STUCK.store(1, Ordering::Release);
    // SAFETY: it never ends, which is the point.
    unsafe { asm!("msr daifset, #0xf", "1: b 1b", options(nomem, nostack)) };
}

/// Runs it.
pub fn run(_: &Start, yours: &Yours) {
    let cpus = smp::start_all();
    want!(cpus == 2, "the lab wants two CPUs: leave SMP= alone");
    smp::on_others(hang);
    want!(wait_for(|| STUCK.load(Ordering::Acquire) == 1), "CPU 1 does not hang");
    println!("lab: CPU 1 spins with D, A, I and F masked");
    (yours.rescue)(1);
    let came = wait_for(|| RESCUED.load(Ordering::Acquire) != 0);
    want!(came, "CPU 1 still spins, 20 seconds after rescue() has returned");
    let (esr, from) = (RESCUED.load(Ordering::Acquire), FROM.load(Ordering::Relaxed));
    println!("lab: CPU 1 was at {from:#x}; ESR_EL1 is {esr:#x}");
    want!((yours.is_exeunts)(esr), "is_exeunts() says no to {esr:#x}, which is Exeunt's");
    want!(!(yours.is_exeunts)(OF_HARDWARE), "is_exeunts() says yes to {OF_HARDWARE:#x}, which is hardware's");
    solved!("CPU 1 is out of its loop, and knows who has brought it there")
}
