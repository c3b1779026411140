//! Function identifiers of the Arm SMC Calling Convention, as far as Exeunt's own calls need them.
//!
//! Owns the layout of an identifier. Source: Arm DEN0028, section 2.5; Linux `include/linux/arm-smccc.h` has the same
//! fields.

/// Bit 31: a fast call.
pub const FAST: u32 = 1 << 31;
/// Bit 30: the 64-bit convention, arguments and results in X registers; clear, the 32-bit one.
pub const CALL_64: u32 = 1 << 30;
/// Bits \[29:24\]: the owning entity.
pub const OWNER_SHIFT: u32 = 24;
/// Bit 16: the caller has no live SVE or SME state (SMCCC 1.3). No part of the function's number.
pub const SVE_HINT: u32 = 1 << 16;
/// The owner of the vendor-specific hypervisor range (Linux `ARM_SMCCC_OWNER_VENDOR_HYP`).
pub const OWNER_VENDOR_HYPERVISOR: u32 = 6;

/// Function number of the standard query for the number of calls (Linux `ARM_SMCCC_FUNC_QUERY_CALL_UID` is the next
/// one).
pub const QUERY_CALL_COUNT: u16 = 0xff00;
/// Function number of the standard query for the UID.
pub const QUERY_CALL_UID: u16 = 0xff01;
/// Function number of the standard query for the revision.
pub const QUERY_REVISION: u16 = 0xff03;

/// A fast call of the 32-bit convention in the vendor-specific hypervisor range.
#[must_use]
pub const fn hypervisor_call_32(function: u16) -> u32 {
    FAST | OWNER_VENDOR_HYPERVISOR << OWNER_SHIFT | function as u32
}

/// A fast call of the 64-bit convention in the vendor-specific hypervisor range.
#[must_use]
pub const fn hypervisor_call_64(function: u16) -> u32 {
    hypervisor_call_32(function) | CALL_64
}
