//! Who answers which call.

use proptest::prelude::*;

use super::*;
use crate::tests::cases;
use Conduit::{Hvc, Smc};

#[test]
fn a_number_below_the_smccc_range_is_the_stubs_whatever_the_immediate() {
    for x0 in [0, 1, 2, 3, 4, 5, 0xbad_ca11, 0x7fff_ffff, 1 << 32, 1 << 32 | 2, !(1 << 31)] {
        for immediate in [0, 1, 0xea1, u16::MAX] {
            assert_eq!(classify(Hvc, x0, immediate), Call::Stub, "{x0:#x}");
        }
    }
}

#[test]
fn psci_is_the_proxys_by_either_conduit() {
    for number in 0..0x20 {
        for base in [0x8400_0000_u64, 0xc400_0000, 0x8401_0000, 0xc401_0000, 0x1234_5678_8400_0000] {
            assert_eq!(classify(Hvc, base | number, 0), Call::Psci);
            assert_eq!(classify(Smc, base | number, 0), Call::Psci);
        }
    }
}

#[test]
fn smccc_itself_is_firmwares_by_either_conduit() {
    // SMCCC_VERSION, ARCH_FEATURES, SOC_ID, WORKAROUND_3, _2, _1.
    for id in [0x8000_0000_u64, 0x8000_0001, 0x8000_0002, 0xc000_0002, 0x8000_3fff, 0x8000_7fff, 0x8000_8000] {
        assert_eq!(classify(Hvc, id, 0), Call::Firmware);
        assert_eq!(classify(Smc, id, 0), Call::Firmware);
    }
}

#[test]
fn a_hypervisors_numbers_do_not_reach_firmware() {
    for id in [0x8600_0000_u64, 0x8600_ff01, 0xc600_0000, 0x8500_0000, 0xc500_0020] {
        assert_eq!(classify(Smc, id, 0), Call::Unknown, "{id:#x}");
    }
    // The vendor-specific ones are Exeunt's by HVC, known or not: KVM's calls to its own EL2 are in the same range.
    for id in [0x8600_0000_u64, 0x8600_ff01, 0x8601_ff01, 0xc600_0000, 0x8600_4500] {
        assert_eq!(classify(Hvc, id, 0), Call::Own, "{id:#x}");
        assert_eq!(classify(Hvc, id, 1), Call::Unknown, "{id:#x}");
        assert_eq!(classify(Hvc, id | 1 << 17, 0), Call::Unknown, "{id:#x}");
    }
    // The standard ones are not.
    for id in [0x8500_0000_u64, 0xc500_0020] {
        assert_eq!(classify(Hvc, id, 0), Call::Unknown, "{id:#x}");
    }
}

#[test]
fn other_smcs_are_firmwares_and_other_hvcs_nobodys() {
    // SiP, OEM, TRNG, FF-A, trusted applications and trusted OS, fast and yielding.
    let ids =
        [0x8200_0000_u64, 0xc200_ff00, 0x8300_0000, 0x8400_0050, 0x8400_0060, 0xb000_0000, 0xb200_0001, 0xbf00_ff01];
    for id in ids {
        assert_eq!(classify(Smc, id, 0), Call::Firmware, "{id:#x}");
        assert_eq!(classify(Hvc, id, 0), Call::Unknown, "{id:#x}");
    }
    for yielding in [0x3200_0000, 0x0200_0000, 0x0600_0000, 0x7fff_ffff, 0] {
        assert_eq!(classify(Smc, yielding, 0), Call::Firmware);
    }
}

#[test]
fn reserved_owners_and_the_numbers_of_psci_0_1_stay_here() {
    for owner in 7..48 {
        assert_eq!(classify(Smc, 1 << 31 | owner << 24, 0), Call::Unknown);
    }
    for id in 0x95c1_ba5e..=0x95c1_ba61 {
        assert_eq!(classify(Smc, id, 0), Call::Unknown);
        assert_eq!(classify(Hvc, id, 0), Call::Unknown);
    }
}

#[test]
fn sdei_would_run_the_hosts_handlers_at_el2() {
    for number in 0x20..0x40 {
        assert_eq!(classify(Smc, 0xc400_0000 | number, 0), Call::Unknown);
        assert_eq!(classify(Hvc, 0x8400_0000 | number, 0), Call::Unknown);
    }
}

/// The rows of docs/abi.md, against who answers.
fn agrees(x0: u64) {
    use guest_abi::table::Other;
    let call = classify(Hvc, x0, 0);
    let agrees = match Other::of(x0) {
        None => matches!(call, Call::Stub | Call::Own) && !is_kvm(x0),
        Some(Other::Stub) => call == Call::Stub,
        Some(Other::Kvm) => call == Call::Own && is_kvm(x0),
        Some(Other::Psci) => call == Call::Psci,
        Some(Other::Architecture) => call == Call::Firmware,
        Some(Other::Fast) => matches!(call, Call::Unknown | Call::Own) && !is_kvm(x0),
    };
    assert!(agrees, "{x0:#x}: {:?} in the table, {call:?} here", Other::of(x0));
}

#[test]
fn the_table_of_numbers_says_who_answers() {
    for bound in guest_abi::table::bounds() {
        for x0 in [0, 1 << 16, 1 << 32, 1 << 63].map(|bits| u64::from(bound) ^ bits) {
            agrees(x0);
        }
    }
    for call in guest_abi::table::CALLS {
        agrees(call.number);
    }
}

proptest! {
    #![proptest_config(cases(4000, 16))]

    #[test]
    fn the_table_of_numbers_says_who_answers_any(x0: u64, mask in 0_usize..3) {
        agrees([x0, x0 | 1 << 31, x0 & !(0xff << 16) | 1 << 31][mask]);
    }

    #[test]
    fn only_the_stub_and_immediate_0_are_answered(smc: bool, x0: u64, immediate in 1_u16..) {
        let conduit = if smc { Smc } else { Hvc };
        let expected = if !smc && x0 & 1 << 31 == 0 { Call::Stub } else { Call::Unknown };
        prop_assert_eq!(classify(conduit, x0, immediate), expected);
    }

    /// Firmware that ignores the reserved bits, as older ones do, cannot see a PSCI number that the proxy has not seen.
    #[test]
    fn nothing_that_could_be_taken_for_psci_passes_by_the_proxy(smc: bool, x0: u64, number in 0_u64..0x20) {
        let conduit = if smc { Smc } else { Hvc };
        let x0 = x0 & !(0x3f << 24 | 0xffff | 1 << 31) | 1 << 31 | 4 << 24 | number;
        let who = classify(conduit, x0, 0);
        let expected = if x0 & 0x7f << 17 == 0 { Call::Psci } else { Call::Unknown };
        prop_assert_eq!(who, expected);
    }

    #[test]
    fn the_high_word_of_an_smc_does_not_count(low: u32, high: u32) {
        let x0 = u64::from(low);
        prop_assert_eq!(classify(Smc, x0, 0), classify(Smc, x0 | u64::from(high) << 32, 0));
    }
}

#[test]
fn kvms_calls_are_told_from_all_others() {
    for id in [0xc600_0000, 0xc600_0001, 0xc600_0027, 0xc600_44ff, 0xc601_0000, 0xffff_ffff_c600_0000] {
        assert!(is_kvm(id), "{id:#x}");
        assert_eq!(classify(Hvc, id, 0), Call::Own, "{id:#x}");
    }
    for id in
        [0, 4, 0x8600_0000, 0xc600_4500, 0xc600_ff01, 0x8600_ff01, 0xc500_0000, 0xc700_0000, 0xc602_0000, 0x4600_0000]
    {
        assert!(!is_kvm(id), "{id:#x}");
    }
}

/// The image answers these before they are classified, by an SMC of its own.
#[test]
fn the_workarounds_are_firmwares_by_smc() {
    for id in [ARCH_WORKAROUND_1, ARCH_WORKAROUND_2, ARCH_WORKAROUND_3] {
        for x0 in [id, id | SVE_HINT] {
            assert_eq!(classify(Smc, x0.into(), 0), Call::Firmware, "{x0:#x}");
            assert_eq!(classify(Smc, x0.into(), 1), Call::Unknown, "{x0:#x}");
        }
    }
}
