//! The names of the calls that come to EL2 by HVC and SMC, and of what they are answered.
//!
//! Owns the names of PSCI's functions and of a few others of the firmware's. Those of the stub calls and of Exeunt's
//! own are in [`guest_abi::table`]. Who answers which is [`hypervisor::smccc`]'s decision.
//!
//! Sources: Arm DEN0022 (PSCI), DEN0028 (SMCCC), DEN0098 (TRNG).

use guest_abi::stub::STUB_ERR;
use guest_abi::table::CALLS;
use guest_abi::vendor::{self, Error};
use hypervisor::smccc::{self, Call, Conduit};

/// PSCI's functions, by the low five bits of their number.
const PSCI: [&str; 0x16] = [
    "PSCI_VERSION",
    "CPU_SUSPEND",
    "CPU_OFF",
    "CPU_ON",
    "AFFINITY_INFO",
    "MIGRATE",
    "MIGRATE_INFO_TYPE",
    "MIGRATE_INFO_UP_CPU",
    "SYSTEM_OFF",
    "SYSTEM_RESET",
    "PSCI_FEATURES",
    "CPU_FREEZE",
    "CPU_DEFAULT_SUSPEND",
    "NODE_HW_STATE",
    "SYSTEM_SUSPEND",
    "PSCI_SET_SUSPEND_MODE",
    "PSCI_STAT_RESIDENCY",
    "PSCI_STAT_COUNT",
    "SYSTEM_RESET2",
    "MEM_PROTECT",
    "MEM_PROTECT_CHECK_RANGE",
    "SYSTEM_OFF2",
];

/// Calls of the firmware's that a Linux makes.
const FIRMWARE: [(u32, &str); 10] = [
    (0x8000_0000, "SMCCC_VERSION"),
    (0x8000_0001, "SMCCC_ARCH_FEATURES"),
    (0x8000_0002, "SMCCC_ARCH_SOC_ID"),
    (smccc::ARCH_WORKAROUND_1, "SMCCC_ARCH_WORKAROUND_1"),
    (smccc::ARCH_WORKAROUND_2, "SMCCC_ARCH_WORKAROUND_2"),
    (smccc::ARCH_WORKAROUND_3, "SMCCC_ARCH_WORKAROUND_3"),
    (0x8400_0050, "TRNG_VERSION"),
    (0x8400_0051, "TRNG_FEATURES"),
    (0x8400_0052, "TRNG_GET_UUID"),
    (0x8400_0053, "TRNG_RND"),
];

/// Whose a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Linux's stub ABI.
    Stub,
    /// Exeunt's.
    Own,
    /// The host's KVM's.
    Kvm,
    /// PSCI's, by the proxy.
    Psci,
    /// The firmware's.
    Firmware,
    /// Nobody's.
    Nobody,
}

impl Owner {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Stub => "stub call",
            Self::Own => "call of Exeunt's",
            Self::Kvm => "call of KVM's",
            Self::Psci => "PSCI",
            Self::Firmware => "firmware",
            Self::Nobody => "nobody's call",
        }
    }
}

/// Whose call this is, by its x0 and immediate.
#[must_use]
pub fn owner(conduit: Conduit, x0: u64, immediate: u16) -> Owner {
    match smccc::classify(conduit, x0, immediate) {
        Call::Stub => Owner::Stub,
        Call::Own if x0 & u64::from(smccc::CALL_64) != 0 && smccc::is_kvm(x0) => Owner::Kvm,
        Call::Own => Owner::Own,
        Call::Psci => Owner::Psci,
        Call::Firmware => Owner::Firmware,
        Call::Unknown => Owner::Nobody,
    }
}

/// Its name: that of the specification, or its number.
#[must_use]
pub fn name(owner: Owner, x0: u64) -> String {
    let id = smccc::function_id(x0);
    let known = match owner {
        Owner::Stub => CALLS.iter().find(|call| call.number == x0).map(|call| call.name),
        Owner::Own => CALLS.iter().find(|call| call.number == u64::from(id)).map(|call| call.name),
        Owner::Psci => PSCI.get(usize::from(id as u16)).copied(),
        Owner::Firmware => FIRMWARE.iter().find(|&&(number, _)| number == id & !smccc::CALL_64).map(|&(_, name)| name),
        Owner::Kvm | Owner::Nobody => None,
    };
    known.map_or_else(|| format!("{x0:#x}"), str::to_owned)
}

/// What x0 of the answer says.
#[must_use]
pub fn answer(owner: Owner, x0: u64, answer: u64) -> String {
    let id = smccc::function_id(x0);
    let value = || format!("{answer:#x}");
    match owner {
        Owner::Stub if answer == STUB_ERR => "STUB_ERR".to_owned(),
        Owner::Own if [vendor::VERSION, vendor::REVISION, vendor::CALL_UID, vendor::CALL_COUNT].contains(&id) => {
            value()
        }
        Owner::Own | Owner::Nobody => {
            Error::from_register(answer).map_or_else(|| plain(answer), |error| error.name().to_owned())
        }
        Owner::Psci => psci_answer(id as u16, answer),
        Owner::Firmware if answer as u32 == u32::MAX => Error::NotSupported.name().to_owned(),
        Owner::Stub | Owner::Kvm | Owner::Firmware => plain(answer),
    }
}

fn plain(answer: u64) -> String {
    if answer < 10 { answer.to_string() } else { format!("{answer:#x}") }
}

/// DEN0022, 5.2.2 "Return error codes", and what some functions give instead of them.
fn psci_answer(function: u16, answer: u64) -> String {
    let word = match (answer as u32).cast_signed() {
        -1 => "NOT_SUPPORTED",
        -2 => "INVALID_PARAMETERS",
        -3 => "DENIED",
        -4 => "ALREADY_ON",
        -5 => "ON_PENDING",
        -6 => "INTERNAL_FAILURE",
        -7 => "NOT_PRESENT",
        -8 => "DISABLED",
        -9 => "INVALID_ADDRESS",
        _ => "",
    };
    match (PSCI.get(usize::from(function)).copied().unwrap_or_default(), answer as u32) {
        _ if !word.is_empty() => word.to_owned(),
        ("PSCI_VERSION", version) => format!("{}.{}", version >> 16, version & 0xffff),
        ("AFFINITY_INFO", 0) => "on".to_owned(),
        ("AFFINITY_INFO", 1) => "off".to_owned(),
        ("AFFINITY_INFO", 2) => "on, pending".to_owned(),
        ("PSCI_FEATURES" | "MIGRATE_INFO_TYPE" | "PSCI_STAT_RESIDENCY" | "PSCI_STAT_COUNT", _) => plain(answer),
        (_, 0) => "SUCCESS".to_owned(),
        _ => plain(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(conduit: Conduit, x0: u64, given: u64) -> String {
        let owner = owner(conduit, x0, 0);
        format!("{}: {} {}", owner.words(), name(owner, x0), answer(owner, x0, given))
    }

    #[test]
    fn calls_have_the_names_of_their_specifications() {
        assert_eq!(told(Conduit::Hvc, 1, STUB_ERR), "stub call: SOFT_RESTART STUB_ERR");
        assert_eq!(told(Conduit::Hvc, 0x77, STUB_ERR), "stub call: 0x77 STUB_ERR");
        assert_eq!(told(Conduit::Smc, 0xc400_0003, 0), "PSCI: CPU_ON SUCCESS");
        assert_eq!(told(Conduit::Smc, 0xc401_0003, (-4i64).cast_unsigned()), "PSCI: CPU_ON ALREADY_ON");
        assert_eq!(told(Conduit::Hvc, 0x8400_0000, 0x1_0001), "PSCI: PSCI_VERSION 1.1");
        assert_eq!(told(Conduit::Smc, 0xc400_0004, 1), "PSCI: AFFINITY_INFO off");
        assert_eq!(told(Conduit::Smc, 0x8400_001f, u64::MAX), "PSCI: 0x8400001f NOT_SUPPORTED");
        assert_eq!(told(Conduit::Smc, 0x8000_0000, 0x1_0002), "firmware: SMCCC_VERSION 0x10002");
        assert_eq!(told(Conduit::Smc, 0xc400_0053, 0), "firmware: TRNG_RND 0");
        let leave = u64::from(vendor::LEAVE);
        assert_eq!(told(Conduit::Hvc, leave, Error::Busy.to_register()), "call of Exeunt's: LEAVE BUSY");
        assert_eq!(told(Conduit::Hvc, leave, 0), "call of Exeunt's: LEAVE 0");
        assert_eq!(told(Conduit::Hvc, 0xc600_0001, u64::MAX), "call of KVM's: 0xc6000001 0xffffffffffffffff");
        assert_eq!(told(Conduit::Smc, leave, u64::MAX), "nobody's call: 0x86004504 NOT_SUPPORTED");
    }

    #[test]
    fn every_call_of_the_contract_has_its_name() {
        for call in CALLS {
            let owner = owner(Conduit::Hvc, call.number, 0);
            assert_eq!(name(owner, call.number), call.name);
        }
    }

    #[test]
    fn the_names_of_psci_are_where_its_crate_has_them() {
        // The function identifiers are those that the proxy decodes (`arm_psci::FunctionId`).
        assert_eq!((PSCI[0x08], PSCI[0x09], PSCI[0x0e]), ("SYSTEM_OFF", "SYSTEM_RESET", "SYSTEM_SUSPEND"));
        assert_eq!((PSCI[0x12], PSCI[0x13], PSCI[0x15]), ("SYSTEM_RESET2", "MEM_PROTECT", "SYSTEM_OFF2"));
    }
}
