//! SErrors that come to EL2 and are the host's: how several become one, and how one waits for the host.
//!
//! Owns the arithmetic on HCR_EL2, VSESR_EL2 and DISR_EL1. An SError waits as a virtual one (HCR_EL2.VSE), which the
//! host takes as soon as it is at EL1 and does not mask it. That needs HCR_EL2.AMO, with which the host's next physical
//! SErrors come to EL2 too, and are added to it.
//!
//! Source: Arm ARM (DDI 0487L.a), D24.2, HCR_EL2, ESR_EL1 and DISR_EL1, and the order of error states from its part on
//! RAS.

use crate::syndrome::{EC_SHIFT, Esr, ExceptionClass, IL, ISS_MASK};

/// HCR_EL2.AMO: physical SErrors go to EL2, and VSE has effect.
pub const AMO: u64 = 1 << 5;
/// HCR_EL2.VSE: a virtual SError is pending. Hardware clears it when the host takes it.
pub const VSE: u64 = 1 << 8;

/// ESR_ELx.ISS of an SError: IDS, the rest is IMPLEMENTATION DEFINED.
const IDS: u64 = 1 << 24;
/// AET, bits \[12:10\].
const AET_SHIFT: u32 = 10;
/// DFSC, bits \[5:0\], and its value where AET says something.
const DFSC: u64 = 0x3f;
const DFSC_SERROR: u64 = 0b01_0001;
/// EA, bit \[9\].
const EA: u64 = 1 << 9;
/// DISR_EL1.A: an SError was deferred.
const DISR_A: u64 = 1 << 31;

/// How bad the state of the CPU is, as far as the syndrome tells; what it does not tell is the worst.
const fn severity(syndrome: u64) -> u8 {
    if syndrome & IDS != 0 || syndrome & DFSC != DFSC_SERROR {
        return 5;
    }
    match syndrome >> AET_SHIFT & 7 {
        // Corrected; restartable (UEO); recoverable (UER); unrecoverable (UEU).
        0b110 => 0,
        0b010 => 1,
        0b011 => 2,
        0b001 => 3,
        // Uncontainable (UC), and what is reserved.
        _ => 4,
    }
}

/// The syndrome of one SError that stands for two: "the overall PE error state is reported" (ESR_EL1, AET), which is
/// the worse of both.
#[must_use]
pub const fn merge(one: u64, other: u64) -> u64 {
    (if severity(other) > severity(one) { other } else { one }) & ISS_MASK
}

/// HCR_EL2 and VSESR_EL2 with one more SError, with this syndrome, for the host at EL1.
#[must_use]
pub const fn pend(hcr: u64, vsesr: u64, syndrome: u64) -> (u64, u64) {
    let all = if hcr & VSE != 0 { merge(vsesr, syndrome) } else { syndrome & ISS_MASK };
    (hcr | AMO | VSE, all)
}

/// What has to stay of HCR_EL2 when Exeunt leaves the CPU to its host: an SError that the host has not taken yet. AMO
/// stays with it, and whoever owns EL2 then gets the host's next ones.
#[must_use]
pub const fn kept(hcr: u64) -> u64 {
    if hcr & VSE != 0 { VSE | AMO } else { 0 }
}

/// The SError that an ESB has deferred, by DISR_EL1.
#[must_use]
pub const fn deferred(disr: u64) -> Option<Esr> {
    if disr & DISR_A == 0 {
        return None;
    }
    let syndrome = if disr & IDS != 0 { disr & ISS_MASK } else { disr & (7 << AET_SHIFT | EA | DFSC) };
    Some(Esr::new((ExceptionClass::SError as u64) << EC_SHIFT | IL | syndrome))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn aet(state: u64) -> u64 {
        state << AET_SHIFT | DFSC_SERROR
    }

    const UC: u64 = aet(0b000);
    const UEU: u64 = aet(0b001);
    const UEO: u64 = aet(0b010);
    const UER: u64 = aet(0b011);
    const CE: u64 = aet(0b110);
    const IMPLEMENTATION_DEFINED: u64 = IDS | 0x1234;
    const UNCATEGORIZED: u64 = 0;

    #[test]
    fn the_worse_of_two_errors_stands_for_both() {
        let order = [CE, UEO, UER, UEU, UC];
        for (index, &one) in order.iter().enumerate() {
            for &other in &order[index..] {
                assert_eq!((merge(one, other), merge(other, one)), (other, other));
            }
            // Nobody knows how bad these are.
            for unknown in [IMPLEMENTATION_DEFINED, UNCATEGORIZED] {
                assert_eq!((merge(one, unknown), merge(unknown, one)), (unknown, unknown));
            }
        }
        // Reserved states are taken for the worst of those that are known.
        assert_eq!(merge(UEU, aet(0b111)), aet(0b111));
        assert_eq!(merge(aet(0b100), CE), aet(0b100));
        // Nothing but the syndrome: EC, IL and ISS2 of ESR_EL2 are not VSESR_EL2's.
        assert_eq!(merge(0xbe00_0000 | CE, 0xff << 32 | 0xbe00_0000 | UC), UC);
    }

    #[test]
    fn a_second_serror_is_added_to_one_that_is_pending_and_replaces_one_that_was_taken() {
        let hcr = 1 << 31 | 1;
        let (first, vsesr) = pend(hcr, UC, CE);
        assert_eq!((first, vsesr), (hcr | AMO | VSE, CE), "what VSESR_EL2 held before was of no SError");
        let (second, vsesr) = pend(first, vsesr, UER);
        assert_eq!((second, vsesr), (first, UER));
        assert_eq!(pend(second, vsesr, CE), (second, UER), "the first is not forgotten");
        // The host has taken it: hardware has cleared VSE.
        let taken = second & !VSE;
        assert_eq!(pend(taken, vsesr, CE), (second, CE));
    }

    #[test]
    fn what_the_host_has_not_taken_stays_when_exeunt_leaves() {
        assert_eq!(kept(1 << 31), 0);
        assert_eq!(kept(1 << 31 | AMO), 0, "it has taken it");
        assert_eq!(kept(1 << 31 | AMO | VSE), AMO | VSE);
    }

    #[test]
    fn a_deferred_serror_has_the_syndrome_of_one_that_is_taken() {
        assert_eq!(deferred(0), None);
        assert_eq!(deferred(UC | IDS), None, "without A it is an old one, or none");
        let syndrome = |disr| deferred(disr).map(|esr| (esr.class(), esr.bits() & ISS_MASK));
        assert_eq!(syndrome(DISR_A | UEU | EA), Some((Some(ExceptionClass::SError), UEU | EA)));
        assert_eq!(syndrome(DISR_A | IDS | 0xab_cdef), Some((Some(ExceptionClass::SError), IDS | 0xab_cdef)));
        // RES0 bits of DISR_EL1 are none of the syndrome's.
        assert_eq!(syndrome(!IDS), Some((Some(ExceptionClass::SError), 7 << AET_SHIFT | EA | DFSC)));
    }
}
