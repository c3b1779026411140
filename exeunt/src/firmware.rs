//! Calls from EL2 to the firmware below it.
//!
//! Owns nothing but the way: `smc #0`, or `hvc #0` in the one case where Exeunt was started at EL1 and has to turn the
//! machine off through whatever sits at EL2.

use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CurrentEL, Readable};
use hypervisor::devicetree::Conduit;
use smccc::{Hvc, Smc, psci};

/// Whether firmware is called by `hvc`: the device tree said so.
static BY_HVC: AtomicBool = AtomicBool::new(false);

/// Takes the conduit that the device tree names. At EL2 it can only be `smc`, and then this changes nothing.
pub fn set_conduit(conduit: Option<Conduit>) {
    BY_HVC.store(conduit == Some(Conduit::Hvc), Ordering::Relaxed);
}

/// Makes the call in x0 to x17 and leaves there what comes back. All earlier stores of this CPU are complete before: a
/// CPU that the call starts reads them.
pub fn call(registers: &mut [u64; 18]) {
    let [function, arguments @ ..] = *registers;
    barrier::dsb(barrier::SY);
    *registers = smccc::smc64(function as u32, arguments);
}

/// Turns the machine off. Firmware that cannot is met by a CPU that sleeps for good.
pub fn power_off() -> ! {
    // The result does not matter: there is nothing else that could be done.
    let _ = if CurrentEL.read(CurrentEL::EL) != 2 && BY_HVC.load(Ordering::Relaxed) {
        psci::system_off::<Hvc>()
    } else {
        psci::system_off::<Smc>()
    };
    sleep()
}

/// Turns this CPU off.
pub fn cpu_off() -> ! {
    // If firmware refuses, the CPU sleeps as well as it can.
    let _ = psci::cpu_off::<Smc>();
    sleep()
}

fn sleep() -> ! {
    loop {
        aarch64_cpu::asm::wfi();
    }
}
