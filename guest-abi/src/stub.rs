//! The stub calls: how Linux talks to whatever sits at EL2 below it.
//!
//! Owns their numbers and results. A call is `hvc #0` with its number in x0; all 64 bits of x0 count, and the immediate
//! of the `hvc` does not. It acts on the calling CPU only. The result comes back in x0. By the contract a call may
//! change x0 to x18; Linux's own stub changes x0 only, and Exeunt only what each call says here.
//!
//! Sources: Linux `Documentation/virt/kvm/arm/hyp-abi.rst` (the contract), `arch/arm64/include/asm/virt.h` (the
//! numbers), and `arch/arm64/kernel/hyp-stub.S` (what the stub does). The answers in each state are in `docs/abi.md`.

/// Install a vector table (Linux `HVC_SET_VECTORS`, since the ABI exists).
///
/// - In: x1 = its physical address, 2 KiB aligned, in the host's RAM; after Exeunt has left, also the one that
///   [`REENTER`](crate::vendor::REENTER) names.
/// - Out: x0 = [`SUCCESS`] or [`STUB_ERR`]. Nothing else changes.
/// - `Stub`: VBAR_EL2 = x1. `Live` with the host at virtual EL2: recorded as the host's VBAR_EL2. `Live` with the host
///   at EL1: refused, as `hyp-abi.rst` says of everything but the initial stubs. `Leaving`: as `Stub`.
/// - Errors: misaligned, or not in the host's RAM: [`STUB_ERR`], nothing changed. Linux's own stub checks neither.
pub const SET_VECTORS: u64 = 0;

/// Enter the next payload at EL2 (Linux `HVC_SOFT_RESTART`, since the ABI exists).
///
/// - In: x1 = entry, physical, 4-byte aligned, in the host's RAM; x2, x3, x4 = its x0, x1, x2.
/// - Out: does not return. The payload finds x0 to x2, x3 as the caller had it, x4 = the entry, D, A, I and F masked,
///   EL2's MMU off.
/// - `Stub`, `Leaving`: at real EL2. `Live`: by policy ([`crate::vendor::RESTART_POLICY`]), at real EL2 without Exeunt
///   or under it.
/// - Errors, in `Live`: an invalid entry: [`STUB_ERR`], nothing else changed. A stub enters whatever it is told to. A
///   caller must be prepared for the error: Linux's own then branch to the entry at EL1, and need x1 to x4 for it
///   (`arch/arm64/kernel/cpu-reset.S`, `relocate_kernel.S`).
pub const SOFT_RESTART: u64 = 1;

/// Put the initial stub's vectors back (Linux `HVC_RESET_VECTORS`, since the ABI exists).
///
/// - In: nothing. Out: x0 = [`SUCCESS`]. Nothing else changes.
/// - `Stub`, `Leaving`: nothing to do. `Live`: Exeunt leaves on this CPU; VBAR_EL2 is the host's own vectors if it
///   installed any, else the resident stub.
/// - Errors: [`STUB_ERR`] once Exeunt is locked ([`crate::vendor::LOCK`]).
pub const RESET_VECTORS: u64 = 2;

/// Let EL2 finish its set-up, and go on at EL2 if the CPU has VHE (Linux `HVC_VHE_RESTART` after 5.10,
/// `HVC_FINALISE_EL2` in 6.1).
///
/// - In: nothing. Out: x0 = [`STUB_ERR`]: the host stays at EL1, and Linux goes on there.
/// - From Exeunt always [`STUB_ERR`]: SVE and SME are open already.
/// - Linux's stub may change x0 to x2 here.
pub const FINALISE_EL2: u64 = 3;

/// Read ICH_VTR_EL2 (Linux `HVC_GET_ICH_VTR_EL2`, in 7.2; unknown to 6.12).
///
/// - In: nothing. Out: x0 = [`SUCCESS`], x1 = ICH_VTR_EL2. The caller takes only [`STUB_ERR`] as "absent"
///   (`cpufeature.c`).
/// - Works in all states.
/// - Errors: [`STUB_ERR`], x1 unchanged, where the GIC's CPU interface is not in system registers.
pub const GET_ICH_VTR_EL2: u64 = 4;

/// The first number that no version of Linux's stub knows (7.2's `HVC_STUB_HCALL_NR`).
pub const STUB_CALLS_END: u64 = 5;

/// The result of a stub call that succeeded.
pub const SUCCESS: u64 = 0;

/// The result of a stub call that is unknown or refused (Linux `HVC_STUB_ERR`).
///
/// It is also what a caller of Exeunt's own calls gets where Exeunt is not: Linux's stub answers every number that it
/// does not know with it, function identifiers of the SMC Calling Convention included.
pub const STUB_ERR: u64 = 0xbadca11;

/// Alignment of a vector table (Arm ARM D24.2, VBAR_EL2: bits \[10:0\] are RES0).
pub const VECTORS_ALIGNMENT: u64 = 0x800;
