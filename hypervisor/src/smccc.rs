//! Which call is whose: function identifiers of HVC and SMC.
//!
//! Owns the decision who answers a call: the stub ABI, the PSCI proxy, Exeunt's own calls, firmware, or nobody. It
//! answers none itself.
//!
//! Source: Arm SMC Calling Convention, DEN0028 (the layout of identifiers is in section 2.5), and for the stub calls
//! Linux `Documentation/virt/kvm/arm/hyp-abi.rst`.

/// Bit 31: a fast call; clear, a yielding call.
pub const CALL_FAST: u32 = 1 << 31;
/// Bit 30: the SMC64 or HVC64 convention; clear, SMC32 or HVC32.
pub const CALL_64: u32 = 1 << 30;
/// Bits \[29:24\]: the owning entity.
pub const OWNER_SHIFT: u32 = 24;
/// Bits \[23:17\] of a fast call: reserved, 0.
pub const RESERVED: u32 = 0x7f << 17;
/// Bit 16 of a fast call: the caller has no live SVE or SME state, which tells firmware that it need not save any
/// (SMCCC 1.3). Linux sets it in any call, PSCI included (`arch/arm64/kernel/smccc-call.S`); it is no part of the
/// function's number.
pub const SVE_HINT: u32 = 1 << 16;

/// SMCCC_ARCH_WORKAROUND_1 to 3 (DEN0028, "Arm Architecture Calls"), for CVE-2017-5715, CVE-2018-3639 and Spectre-BHB.
/// Linux calls the first and the third at each switch between programs, or at each exception from EL0, on CPUs that
/// need it.
pub const ARCH_WORKAROUND_1: u32 = 0x8000_8000;
/// See [`ARCH_WORKAROUND_1`].
pub const ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
/// See [`ARCH_WORKAROUND_1`].
pub const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;

/// The result of a call that nobody knows: -1, in all 64 bits of x0 (DEN0028, "Unknown Function Identifier"). x1 to x17
/// stay as they were.
pub const NOT_SUPPORTED: u64 = u64::MAX;

/// The owning entities that the decision tells apart (DEN0028, table "Owning Entity Numbers"). 5 are the standard
/// hypervisor services, of which Exeunt has none, 7 to 47 are reserved.
mod owner {
    pub const ARCHITECTURE: u32 = 0;
    /// CPU, then SiP, OEM and standard secure services.
    pub const CPU: u32 = 1;
    pub const STANDARD_SECURE: u32 = 4;
    /// Vendor-specific hypervisor services.
    pub const VENDOR_HYPERVISOR: u32 = 6;
    /// Trusted applications, then trusted OSes, to the last number.
    pub const TRUSTED_FIRST: u32 = 48;
}

/// PSCI's numbers among the standard secure service calls: 0 to 0x1f (DEN0028, "Reserved Standard Service calls").
const PSCI_NUMBERS: core::ops::RangeInclusive<u16> = 0x00..=0x1f;
/// SDEI's numbers there: 0x20 to 0x3f.
const SDEI_NUMBERS: core::ops::RangeInclusive<u16> = 0x20..=0x3f;

/// How the call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// HVC.
    Hvc,
    /// SMC, trapped.
    Smc,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A call of the stub ABI, HVC only: x0, all 64 bits, is its number or an unknown one.
    Stub,
    /// The PSCI proxy.
    Psci,
    /// Exeunt itself: a call of the vendor-specific hypervisor range ([`crate::own_calls`]), HVC only.
    Own,
    /// Firmware, with x0 to x17 as they are.
    Firmware,
    /// Nobody: [`NOT_SUPPORTED`].
    Unknown,
}

/// The function identifier in x0: its low word, without the hint in fast calls.
#[must_use]
pub const fn function_id(x0: u64) -> u32 {
    let id = x0 as u32;
    if id & CALL_FAST != 0 { id & !SVE_HINT } else { id }
}

/// Whether this x0 of an HVC is a call from Linux to its own KVM at EL2: `KVM_HOST_SMCCC_ID`
/// (`arch/arm64/include/asm/kvm_asm.h`, since 5.10), HVC64 fast calls of the vendor-specific hypervisor service with
/// numbers from 0 on. KVM has some forty; Exeunt's own begin at 0x4500.
#[must_use]
pub const fn is_kvm(x0: u64) -> bool {
    const FIRST: u32 = CALL_FAST | CALL_64 | owner::VENDOR_HYPERVISOR << OWNER_SHIFT;
    const BEHIND: u32 = FIRST + 0x4500;
    let id = function_id(x0);
    FIRST <= id && id < BEHIND
}

/// Decides who answers the call with this x0 and this immediate.
///
/// - HVC without bit 31 in the low word of x0 is the stub ABI's: Linux's stub compares all of x0 with its few numbers
///   and never looks at the immediate (`arch/arm64/kernel/hyp-stub.S`).
/// - SMCCC calls have the immediate 0. Others are nobody's.
/// - Yielding SMCs are a trusted OS's, whatever the owner bits say (DEN0028, table "SMC and HVC yielding calls").
/// - PSCI is the same by either conduit; so are the architecture's own calls (SMCCC_VERSION, ARCH_FEATURES and the
///   workarounds that it tells about), which only firmware can answer.
/// - All other fast calls by HVC belong to a hypervisor, and Exeunt's own have the vendor-specific range. By SMC they
///   belong to firmware, except the hypervisor owners, which firmware must not be asked, the owners that DEN0028
///   reserves, and SDEI: its handlers are entered at EL2 when there is one, so that a registration by the host would
///   make firmware run the host's handler with EL2's rights.
/// - Fast calls with reserved bits set are nobody's: firmware that ignores these bits cannot be talked into PSCI past
///   the proxy, nor can one that still knows the numbers of PSCI 0.1 (QEMU's 0x95c1ba5e to 0x95c1ba61).
#[must_use]
pub const fn classify(conduit: Conduit, x0: u64, immediate: u16) -> Call {
    let id = function_id(x0);
    let fast = id & CALL_FAST != 0;
    if matches!(conduit, Conduit::Hvc) && !fast {
        return Call::Stub;
    }
    if immediate != 0 || (fast && id & RESERVED != 0) {
        return Call::Unknown;
    }
    if !fast {
        return Call::Firmware;
    }
    let number = id as u16;
    match id >> OWNER_SHIFT & 0x3f {
        owner::STANDARD_SECURE if in_range(&PSCI_NUMBERS, number) => Call::Psci,
        owner::STANDARD_SECURE if in_range(&SDEI_NUMBERS, number) => Call::Unknown,
        owner::ARCHITECTURE => Call::Firmware,
        owner::VENDOR_HYPERVISOR if matches!(conduit, Conduit::Hvc) => Call::Own,
        owner::CPU..=owner::STANDARD_SECURE | owner::TRUSTED_FIRST.. => match conduit {
            Conduit::Hvc => Call::Unknown,
            Conduit::Smc => Call::Firmware,
        },
        _ => Call::Unknown,
    }
}

const fn in_range(range: &core::ops::RangeInclusive<u16>, number: u16) -> bool {
    *range.start() <= number && number <= *range.end()
}

#[cfg(test)]
mod tests;
