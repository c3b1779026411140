//! The stub calls: how Linux talks to whatever sits at EL2 below it.
//!
//! Source: Linux `Documentation/virt/kvm/arm/hyp-abi.rst` and `arch/arm64/include/asm/virt.h`. A call is `hvc #0` with its
//! number in x0 (all 64 bits count; the immediate of the `hvc` does not). The result comes back in x0, and a call may
//! clobber x0 to x18.

/// Install a vector table: x1 is its physical address, 2 KiB aligned (Linux `HVC_SET_VECTORS`).
pub const SET_VECTORS: u64 = 0;

/// Enter x1 at EL2 with x0 to x2 taken from x2 to x4 (Linux `HVC_SOFT_RESTART`).
pub const SOFT_RESTART: u64 = 1;

/// Put the initial stub's vectors back (Linux `HVC_RESET_VECTORS`).
pub const RESET_VECTORS: u64 = 2;

/// Let EL2 finish its set-up, and go on at EL2 if the CPU has VHE (Linux 5.12 `HVC_VHE_RESTART`, since 6.0
/// `HVC_FINALISE_EL2`).
pub const FINALISE_EL2: u64 = 3;

/// Read ICH_VTR_EL2 into x1 (Linux 7.x `HVC_GET_ICH_VTR_EL2`).
pub const GET_ICH_VTR_EL2: u64 = 4;

/// The first number that no version of Linux's stub knows.
pub const STUB_CALLS_END: u64 = 5;

/// The result of a stub call that succeeded.
pub const SUCCESS: u64 = 0;

/// The result of a stub call that is unknown or refused (Linux `HVC_STUB_ERR`).
pub const STUB_ERR: u64 = 0xbadca11;
