//! Lab 1: from virtual EL2 to EL1, and the first call.

use guest_abi::{call, vendor};
use guests::registers::current_el;
use guests::start::Start;
use guests::{cpu, machine, println};

/// What you write.
pub struct Yours {
    /// Returns at EL1, on the stack that it was called with at EL2.
    pub go_to_el1: unsafe extern "C" fn(),
    /// Makes the call with this number, and gives x0 and x1.
    pub hypercall: fn(u32) -> [u64; 2],
}

/// Runs it.
pub fn run(start: &Start, yours: &Yours) {
    println!("lab: entered at EL{}", start.level);
    want!(start.level == 2, "the lab wants to be entered at EL2: leave EXEUNT= alone");
    // SAFETY: what it does is what the lab is about; the CPU has a stack.
    unsafe { (yours.go_to_el1)() };
    let level = current_el();
    want!(
        level == 1,
        "go_to_el1() has returned at EL{level}. An HVC there goes to this program's own EL2 vectors, which it has not. \
         ERET to EL1 first"
    );
    cpu::prepare(0).adopt();
    machine::read(start.tree);
    let [abi, version] = (yours.hypercall)(vendor::VERSION);
    // SAFETY: at EL1; the call changes nothing.
    let Ok((expected, exeunt)) = (unsafe { call::version() }) else {
        saw!("Exeunt does not answer the frame's own call")
    };
    want!(abi == u64::from(expected), "x0 after the call is {abi:#x}, and Exeunt answers {expected:#x}");
    want!(
        version == u64::from(exeunt.to_bits()),
        "x1 after the call is {version:#x}, and Exeunt's version is {:#x}",
        exeunt.to_bits()
    );
    solved!("Exeunt {}.{}.{} has answered your call", exeunt.major, exeunt.minor, exeunt.patch)
}
