//! Calls from EL2 to the firmware below it.
//!
//! Owns nothing but the way: `smc #0`, or `hvc #0` in the one case where Exeunt was started at EL1 and has to turn the
//! machine off through whatever sits at EL2.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{CurrentEL, Readable};
use hypervisor::devicetree::Conduit;
use smccc::{Hvc, Smc, psci};

use crate::frame::x2_to_x17;

/// Whether firmware is called by `hvc`: the device tree said so.
static BY_HVC: AtomicBool = AtomicBool::new(false);

/// Takes the conduit that the device tree names. At EL2 it can only be `smc`, and then this changes nothing.
pub fn set_conduit(conduit: Option<Conduit>) {
    BY_HVC.store(conduit == Some(Conduit::Hvc), Ordering::Relaxed);
}

/// Makes the call in x0 to x17 and leaves there what comes back. All earlier stores of this CPU are complete before: a
/// CPU that the call starts reads them.
pub fn call(registers: &mut [u64; 18]) {
    // SAFETY: eighteen registers, to be read and written.
    unsafe { smc_with_all(registers) };
}

/// The same with x0 = `function` and x1 to x17 from `registers`. Returns x0.
pub fn forward(function: u32, registers: &[u64; 18]) -> u64 {
    // SAFETY: eighteen registers, to be read.
    unsafe { smc_for_x0(function.into(), registers) }
}

// Not the crate `smccc`, whose functions take and give the registers as arrays: copies of them were a third of a call.
// Firmware preserves x18 to x30 and SP (DEN0028, "Register use in AArch64 SMC and HVC calls"), which covers all that a
// caller of these functions relies on.

/// # Safety
/// `registers` holds x0 to x17 and can be written.
#[unsafe(naked)]
unsafe extern "C" fn smc_with_all(registers: *mut [u64; 18]) {
    naked_asm!(
        "stp x19, x30, [sp, #-16]!",
        "mov x19, x0",
        x2_to_x17!("ldp", "x19, #"),
        "ldp x0, x1, [x19]",
        "dsb sy",
        "smc #0",
        "stp x0, x1, [x19]",
        x2_to_x17!("stp", "x19, #"),
        "ldp x19, x30, [sp], #16",
        "ret",
    )
}

/// # Safety
/// `registers` holds x0, which is not looked at, to x17.
#[unsafe(naked)]
unsafe extern "C" fn smc_for_x0(function: u64, registers: *const [u64; 18]) -> u64 {
    naked_asm!(x2_to_x17!("ldp", "x1, #"), "ldr x1, [x1, #8]", "dsb sy", "smc #0", "ret")
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
