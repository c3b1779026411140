//! The registers that are set before the host is entered, and how MSR names them.
//!
//! Owns names and encodings. Which value goes where is decided in the parent module.

use crate::syndrome::encoded_enum;

/// Calls the macro `$callback` with every register, as `Name, "words", op0, op1, CRn, CRm, op2;`. With it the EL2
/// binary makes its MSR instructions, and this file its enum, out of the same list. Encodings: Arm ARM (DDI 0487),
/// D24.2.
#[macro_export]
macro_rules! el2_registers {
    ($callback:ident) => {
        $callback! {
            HcrEl2, "HCR_EL2", 3, 4, 1, 1, 0;
            MdcrEl2, "MDCR_EL2", 3, 4, 1, 1, 1;
            CptrEl2, "CPTR_EL2", 3, 4, 1, 1, 2;
            HstrEl2, "HSTR_EL2", 3, 4, 1, 1, 3;
            HfgrtrEl2, "HFGRTR_EL2", 3, 4, 1, 1, 4;
            HfgwtrEl2, "HFGWTR_EL2", 3, 4, 1, 1, 5;
            HfgitrEl2, "HFGITR_EL2", 3, 4, 1, 1, 6;
            ZcrEl2, "ZCR_EL2", 3, 4, 1, 2, 0;
            TrfcrEl2, "TRFCR_EL2", 3, 4, 1, 2, 1;
            HcrxEl2, "HCRX_EL2", 3, 4, 1, 2, 2;
            SmprimapEl2, "SMPRIMAP_EL2", 3, 4, 1, 2, 5;
            SmcrEl2, "SMCR_EL2", 3, 4, 1, 2, 6;
            GcscrEl2, "GCSCR_EL2", 3, 4, 2, 5, 0;
            Hdfgrtr2El2, "HDFGRTR2_EL2", 3, 4, 3, 1, 0;
            Hdfgwtr2El2, "HDFGWTR2_EL2", 3, 4, 3, 1, 1;
            Hfgrtr2El2, "HFGRTR2_EL2", 3, 4, 3, 1, 2;
            Hfgwtr2El2, "HFGWTR2_EL2", 3, 4, 3, 1, 3;
            HdfgrtrEl2, "HDFGRTR_EL2", 3, 4, 3, 1, 4;
            HdfgwtrEl2, "HDFGWTR_EL2", 3, 4, 3, 1, 5;
            HafgrtrEl2, "HAFGRTR_EL2", 3, 4, 3, 1, 6;
            Hfgitr2El2, "HFGITR2_EL2", 3, 4, 3, 1, 7;
            VsesrEl2, "VSESR_EL2", 3, 4, 5, 2, 3;
            PmscrEl2, "PMSCR_EL2", 3, 4, 9, 9, 0;
            BrbcrEl2, "BRBCR_EL2", 2, 4, 9, 0, 0;
            MpamhcrEl2, "MPAMHCR_EL2", 3, 4, 10, 4, 0;
            Mpam2El2, "MPAM2_EL2", 3, 4, 10, 5, 0;
            IchHfgrtrEl2, "ICH_HFGRTR_EL2", 3, 4, 12, 9, 4;
            IccSreEl2, "ICC_SRE_EL2", 3, 4, 12, 9, 5;
            IchHfgwtrEl2, "ICH_HFGWTR_EL2", 3, 4, 12, 9, 6;
            IchHfgitrEl2, "ICH_HFGITR_EL2", 3, 4, 12, 9, 7;
            IchHcrEl2, "ICH_HCR_EL2", 3, 4, 12, 11, 0;
            IchVctlrEl2, "ICH_VCTLR_EL2", 3, 4, 12, 11, 4;
            CntvoffEl2, "CNTVOFF_EL2", 3, 4, 14, 0, 3;
            CntpoffEl2, "CNTPOFF_EL2", 3, 4, 14, 0, 6;
            CnthctlEl2, "CNTHCTL_EL2", 3, 4, 14, 1, 0;
            CnthpCtlEl2, "CNTHP_CTL_EL2", 3, 4, 14, 2, 1;
            VpidrEl2, "VPIDR_EL2", 3, 4, 0, 0, 0;
            VmpidrEl2, "VMPIDR_EL2", 3, 4, 0, 0, 5;
            Amcntenset0El0, "AMCNTENSET0_EL0", 3, 3, 13, 2, 5;
            Amcntenset1El0, "AMCNTENSET1_EL0", 3, 3, 13, 3, 1;
            LorcEl1, "LORC_EL1", 3, 0, 10, 4, 3;
            GcscrEl1, "GCSCR_EL1", 3, 0, 2, 5, 0;
            Gcscre0El1, "GCSCRE0_EL1", 3, 0, 2, 5, 2;
            SmpriEl1, "SMPRI_EL1", 3, 0, 1, 2, 4;
            Tcr2El1, "TCR2_EL1", 3, 0, 2, 0, 3;
            Sctlr2El1, "SCTLR2_EL1", 3, 0, 1, 0, 3;
            SctlrEl1, "SCTLR_EL1", 3, 0, 1, 0, 0;
        }
    };
}

macro_rules! register_enum {
    ($($rows:tt)*) => {
        encoded_enum! {
            /// A register that is set before the host is entered.
            Register: $($rows)*
        }
    };
}

el2_registers!(register_enum);

impl Register {
    /// Whether it is one of EL2's. The others are EL1's and EL0's.
    #[must_use]
    pub const fn is_el2(self) -> bool {
        self.encoding().op1 == 4
    }
}
