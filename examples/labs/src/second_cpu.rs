//! Lab 5: a second CPU.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use guests::firmware::SUCCESS;
use guests::machine::machine;
use guests::registers::current_el;
use guests::smp::wait_for;
use guests::start::Start;
use guests::{println, read_register};

/// What you write.
pub struct Yours {
    /// Turns on the CPU with this affinity, so that it begins in `entry` with this stack pointer; gives what PSCI says.
    pub turn_on: fn(affinity: u64, stack: u64) -> i64,
}

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; 16384]>);

// SAFETY: the second CPU's alone.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; 16384]));
static AFFINITY: AtomicU64 = AtomicU64::new(u64::MAX);
static LEVEL: AtomicU64 = AtomicU64::new(0);

/// Where the second CPU is to come: at EL1, with its stack. It stays here.
pub extern "C" fn arrived() -> ! {
    LEVEL.store(current_el(), Ordering::Relaxed);
    AFFINITY.store(read_register!("mpidr_el1") & 0xff_00ff_ffff, Ordering::Release);
    loop {
        core::hint::spin_loop();
    }
}

/// Runs it.
pub fn run(_: &Start, yours: &Yours) {
    let Some(&affinity) = machine().mpidrs().get(1) else { saw!("a machine with one CPU: leave SMP= alone") };
    let stack = STACK.0.get() as u64 + size_of::<Stack>() as u64;
    println!("lab: CPU 0 turns on the CPU with the affinity {affinity:#x}");
    let result = (yours.turn_on)(affinity, stack);
    want!(result == SUCCESS, "turn_on() gives {result}, and CPU_ON gives 0 when the CPU comes up");
    let came = wait_for(|| AFFINITY.load(Ordering::Acquire) != u64::MAX);
    want!(came, "the CPU is on, and has not come to arrived() in 20 seconds: is it at EL1, with a stack?");
    let (who, level) = (AFFINITY.load(Ordering::Acquire), LEVEL.load(Ordering::Relaxed));
    want!(who == affinity, "the CPU with the affinity {who:#x} has arrived");
    want!(
        level == 1,
        "it has arrived at EL{level}: under Exeunt a CPU begins where the first one began, at virtual EL2"
    );
    let again = (yours.turn_on)(affinity, stack);
    want!(again == -4, "turned on once more, the CPU is to be ALREADY_ON, -4; turn_on() gives {again}");
    solved!("CPU {affinity:#x} is up, at EL1")
}
