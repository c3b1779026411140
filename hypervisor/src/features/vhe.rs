//! Whether a CPU's EL2 can be the one that Exeunt is made for: HCR_EL2.E2H 0.
//!
//! Owns the decision. With E2H 1 registers of EL2 have other layouts, those of EL1 have other names there, and with TGE
//! there is no stage 2; none of Exeunt's code is made for that.

/// What a CPU shows of HCR_EL2.E2H, after 0 was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E2hProbe {
    /// ID_AA64MMFR4_EL1.
    pub mmfr4: u64,
    /// HCR_EL2, read back.
    pub hcr_el2: u64,
    /// FAR_EL1, after [`Self::TO_FAR_EL1`] was written to it and then [`Self::TO_FAR_EL2`] to FAR_EL2.
    pub far_el1: u64,
}

impl E2hProbe {
    /// Written to FAR_EL1.
    pub const TO_FAR_EL1: u64 = 1;
    /// Written to FAR_EL2, after that.
    pub const TO_FAR_EL2: u64 = 2;

    /// Whether E2H is RES1: each of the three signs is enough, as not every CPU shows all.
    ///
    /// - ID_AA64MMFR4_EL1.E2H0 says so: it is signed, and negative without FEAT_E2H0 (Arm ARM D24.2). Such a CPU need
    ///   not read E2H as 1 before software has written 1.
    /// - HCR_EL2 reads back with E2H 1: CPUs that are older than that field.
    /// - FAR_EL1 has what was written to FAR_EL2: with E2H 1 the one name stands for the other. So it is in a virtual
    ///   EL2 whose hypervisor cannot hide the truth from HCR_EL2. Linux looks for this one too (`init_el2_hcr`).
    #[must_use]
    pub const fn is_res1(self) -> bool {
        const E2H0_SHIFT: u32 = 24;
        const E2H0_SIGN: u64 = 1 << 3;
        self.mmfr4 >> E2H0_SHIFT & E2H0_SIGN != 0
            || self.hcr_el2 & super::hcr::E2H != 0
            || self.far_el1 == Self::TO_FAR_EL2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU whose E2H can be 0.
    const NVHE: E2hProbe = E2hProbe { mmfr4: 0, hcr_el2: 1 << 31, far_el1: E2hProbe::TO_FAR_EL1 };

    #[test]
    fn a_cpu_whose_e2h_can_be_0_is_one_of_exeunts() {
        assert!(!NVHE.is_res1());
        // E2H0 0b0000, and all of its neighbours.
        assert!(!E2hProbe { mmfr4: !(0xf << 24), ..NVHE }.is_res1());
        // Bits [47:0] of another address.
        assert!(!E2hProbe { far_el1: 0, ..NVHE }.is_res1());
    }

    #[test]
    fn each_sign_of_a_cpu_with_vhe_only_is_enough() {
        // NI, 0b1111, and NI_NV1, 0b1110; what HCR_EL2 reads back may say otherwise.
        assert!(E2hProbe { mmfr4: 0xf << 24, ..NVHE }.is_res1());
        assert!(E2hProbe { mmfr4: 0xe << 24, ..NVHE }.is_res1());
        assert!(E2hProbe { hcr_el2: 1 << 31 | 1 << 34, ..NVHE }.is_res1());
        assert!(E2hProbe { far_el1: E2hProbe::TO_FAR_EL2, ..NVHE }.is_res1());
    }
}
