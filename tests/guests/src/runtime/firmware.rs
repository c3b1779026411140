//! Calls to whatever answers SMC and HVC, the PSCI function numbers (DEN0022), and how a guest ends.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// The instruction that makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// `smc #0`.
    Smc,
    /// `hvc #0`.
    Hvc,
}

/// PSCI_VERSION.
pub const PSCI_VERSION: u64 = 0x8400_0000;
/// CPU_SUSPEND, 32-bit and 64-bit.
pub const CPU_SUSPEND: [u64; 2] = [0x8400_0001, 0xc400_0001];
/// CPU_OFF.
pub const CPU_OFF: u64 = 0x8400_0002;
/// CPU_ON, 32-bit and 64-bit.
pub const CPU_ON: [u64; 2] = [0x8400_0003, 0xc400_0003];
/// AFFINITY_INFO, 32-bit and 64-bit.
pub const AFFINITY_INFO: [u64; 2] = [0x8400_0004, 0xc400_0004];
/// MIGRATE, 32-bit and 64-bit.
pub const MIGRATE: [u64; 2] = [0x8400_0005, 0xc400_0005];
/// MIGRATE_INFO_TYPE.
pub const MIGRATE_INFO_TYPE: u64 = 0x8400_0006;
/// SYSTEM_OFF.
pub const SYSTEM_OFF: u64 = 0x8400_0008;
/// SYSTEM_RESET.
pub const SYSTEM_RESET: u64 = 0x8400_0009;
/// PSCI_FEATURES.
pub const PSCI_FEATURES: u64 = 0x8400_000a;
/// CPU_FREEZE.
pub const CPU_FREEZE: u64 = 0x8400_000b;
/// CPU_DEFAULT_SUSPEND, 32-bit and 64-bit.
pub const CPU_DEFAULT_SUSPEND: [u64; 2] = [0x8400_000c, 0xc400_000c];
/// SYSTEM_SUSPEND, 32-bit and 64-bit.
pub const SYSTEM_SUSPEND: [u64; 2] = [0x8400_000e, 0xc400_000e];
/// PSCI_SET_SUSPEND_MODE.
pub const PSCI_SET_SUSPEND_MODE: u64 = 0x8400_000f;
/// SYSTEM_RESET2, 32-bit and 64-bit.
pub const SYSTEM_RESET2: [u64; 2] = [0x8400_0012, 0xc400_0012];
/// SMCCC_VERSION.
pub const SMCCC_VERSION: u64 = 0x8000_0000;

/// SUCCESS.
pub const SUCCESS: i64 = 0;
/// NOT_SUPPORTED.
pub const NOT_SUPPORTED: i64 = -1;
/// INVALID_PARAMETERS.
pub const INVALID_PARAMETERS: i64 = -2;
/// ALREADY_ON.
pub const ALREADY_ON: i64 = -4;
/// ON_PENDING.
pub const ON_PENDING: i64 = -5;
/// INVALID_ADDRESS.
pub const INVALID_ADDRESS: i64 = -9;

/// AFFINITY_INFO: the CPU is on.
pub const AFFINITY_ON: i64 = 0;
/// AFFINITY_INFO: the CPU is off.
pub const AFFINITY_OFF: i64 = 1;

static USE_HVC: AtomicBool = AtomicBool::new(false);

/// Says which conduit the device tree's /psci node names.
pub fn set_conduit(conduit: Conduit) {
    USE_HVC.store(conduit == Conduit::Hvc, Ordering::Relaxed);
}

/// The conduit of the device tree's /psci node.
pub fn conduit() -> Conduit {
    if USE_HVC.load(Ordering::Relaxed) { Conduit::Hvc } else { Conduit::Smc }
}

/// Makes an SMCCC call with up to three arguments and returns x0.
#[must_use]
pub fn call_by(conduit: Conduit, function: u64, arguments: [u64; 3]) -> u64 {
    let result: u64;
    macro_rules! call {
        ($instruction:literal) => {
            asm!(
                $instruction,
                inout("x0") function => result, inout("x1") arguments[0] => _, inout("x2") arguments[1] => _,
                inout("x3") arguments[2] => _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _,
                out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
                out("x16") _, out("x17") _, options(nostack)
            )
        };
    }
    // SAFETY: an SMCCC call keeps x18 to x30 and the stack; everything that it may change is declared. Calls that do
    // not return or that start CPUs are made by callers who know.
    unsafe {
        match conduit {
            Conduit::Smc => call!("smc #0"),
            Conduit::Hvc => call!("hvc #0"),
        }
    }
    result
}

/// A PSCI call by the conduit of the device tree; PSCI's results are signed 32-bit numbers.
#[must_use]
pub fn psci(function: u64, arguments: [u64; 3]) -> i64 {
    psci_by(conduit(), function, arguments)
}

/// A PSCI call by the conduit given.
#[must_use]
pub fn psci_by(conduit: Conduit, function: u64, arguments: [u64; 3]) -> i64 {
    i64::from(call_by(conduit, function, arguments) as i32)
}

/// Says how the run ended, in the words that `scripts/run` looks for, and switches the machine off.
pub fn exit(status: u32) -> ! {
    println!("exeunt-run: exit status {status}");
    let _ = psci(SYSTEM_OFF, [0; 3]);
    loop {
        core::hint::spin_loop();
    }
}
