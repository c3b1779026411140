//! The table: which register can be reached from virtual EL2, and what becomes of a read or a write.
//!
//! Owns names, encodings, and one policy per register. What the policies mean is said in the module above; here is
//! which register has which, and on which CPUs there is such a register at all. A register that a CPU does not have is
//! undefined to the host, and never touched: with EL3 the access might end there. Where the table is wrong about a
//! CPU, as it is about DBGPRCR_EL1 and DBGAUTHSTATUS_EL1 on QEMU's, the access is undefined at EL2, and so it is to the
//! host.
//!
//! Sources: encodings and fields from the Arm ARM (DDI 0487), D24.2, and for the GIC from its architecture
//! specifications (IHI 0069, AES0070).

use Needs::{Always, Field, Gicv3, Gicv3WithoutEl3, Has, HasBoth, HasWithoutEl3, WithoutEl3};
use Policy::{Filtered, Shadow, Special};

use super::Settings;
use crate::features::{self, Feature as F, Gic, IdRegister};
use crate::syndrome::{Encoding, encoded_enum, word};

/// What a write to a register of EL2 does. A read gives what was written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The value is kept, and hardware never sees it.
    Shadow,
    /// The value is kept, and hardware gets what Exeunt has chosen ([`features::set_up`]), except for the bits in the
    /// masks. A register that Exeunt does not set on this CPU is only kept.
    Filtered {
        /// Bits that are the host's business alone: they are as it writes them.
        free: u64,
        /// Bits that stop a trap when they are set: the host may set them, and what Exeunt has set stays.
        open: u64,
    },
    /// The value is kept, and the write has a meaning that code knows and not this table (SCTLR_EL2, HCR_EL2, VBAR_EL2,
    /// ICC_SRE_EL2, RMR_EL2).
    Special,
}

/// In which direction a register can be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// MRS and MSR.
    ReadWrite,
    /// MRS; MSR is undefined.
    ReadOnly,
    /// MSR; MRS is undefined.
    WriteOnly,
}

/// Which CPUs have a register, and let EL2 have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// All.
    Always,
    /// Those with the feature.
    Has(F),
    /// Those with both features.
    HasBoth(F, F),
    /// Those with the feature and without EL3, which could trap the access, and of which neither booting.rst nor Linux
    /// asks that it does not.
    HasWithoutEl3(F),
    /// Those without EL3: EL2 is the highest level.
    WithoutEl3,
    /// Those where this field of an ID register, given by its lowest bit, is at least this.
    Field(IdRegister, u32, u64),
    /// Those whose GIC CPU interface is used through system registers (ICC_SRE_EL2.SRE).
    Gicv3,
    /// Those of them without EL3, for registers of Group 0, which is EL3's where there is one.
    Gicv3WithoutEl3,
}

impl Needs {
    /// Whether this CPU is one of those.
    #[must_use]
    pub fn met(self, settings: &Settings) -> bool {
        let ids = settings.ids;
        let gicv3 = || settings.gic == Gic::V3 && ids.has(F::Gicv3);
        match self {
            Always => true,
            Has(feature) => ids.has(feature),
            HasBoth(one, other) => ids.has(one) && ids.has(other),
            HasWithoutEl3(feature) => ids.has(feature) && !ids.has(F::El3),
            WithoutEl3 => !ids.has(F::El3),
            Field(register, shift, value) => (ids.get(register) >> shift & 0xf) >= value,
            Gicv3 => gicv3(),
            Gicv3WithoutEl3 => gicv3() && !ids.has(F::El3),
        }
    }
}

/// The `n` bits of HFGRTR_EL2 and HFGWTR_EL2, nAMAIR2_EL1 (63) to nACCDATA_EL1 (50): set means no trap.
const HFGXTR_N: u64 = 0x3fff << 50;
/// The `n` bits of HFGITR_EL2, nGCSEPP (59) to nBRBINJ (55).
const HFGITR_N: u64 = 0x1f << 55;
/// The `n` bits of HDFGRTR_EL2, nPMSNEVFR_EL1 (62) to nBRBIDR (59).
const HDFGRTR_N: u64 = 0xf << 59;
/// The `n` bits of HDFGWTR_EL2, nPMSNEVFR_EL1 (62), nBRBDATA (61) and nBRBCTL (60).
const HDFGWTR_N: u64 = 0x7 << 60;
/// HFGRTR2_EL2 and HFGWTR2_EL2 have nothing but `n` bits, nPFAR_EL1 (0) to nACTLRALIAS_EL1 (14).
const HFGXTR2_N: u64 = 0x7fff;
/// HFGITR2_EL2.nDCCIVAPS; its neighbour TSBCSYNC is a trap.
const HFGITR2_N: u64 = 1 << 1;
/// HDFGRTR2_EL2 and HDFGWTR2_EL2 have nothing but `n` bits, nPMECR_EL1 (0) to nPMBMAR_EL1 (24).
const HDFGXTR2_N: u64 = 0x1ff_ffff;
/// HCRX_EL2: the bits that let EL1 have something: EnAS0, EnALS, EnASR, SMPME, MSCEn, TCR2En, SCTLR2En, PTTWI, D128En,
/// EnIDCP128, GCSEn, EnFPM, PACMEn, SRMASKEn.
const HCRX_ENABLES: u64 = 0x5e3_c827;
/// MDCR_EL2 EnSPM (15), MTPME (28), EBWE (43), EnSTEPOP (50): the bits that let EL1 have something.
const MDCR_ENABLES: u64 = 1 << 15 | 1 << 28 | 1 << 43 | 1 << 50;
/// CNTHCTL_EL2 EVNTEN, EVNTDIR, EVNTI and EVNTIS: the event stream, which wakes WFE and does nothing else.
const CNTHCTL_EVENTS: u64 = 1 << 17 | 0xf << 4 | 1 << 3 | 1 << 2;
/// ZCR_EL2.LEN and SMCR_EL2.LEN, with the bits that are kept for longer vectors.
const LEN: u64 = 0x1ff;
/// SMCR_EL2.EZT0 and FA64.
const SMCR_ENABLES: u64 = 1 << 30 | 1 << 31;
/// TRFCR_EL2.TS: timestamps.
const TRFCR_TS: u64 = 3 << 5;
/// PMSCR_EL2 CX, PA, TS and PCT: what a sample of EL1 or EL0 may contain. E2SPE and E0HSPE would take samples of
/// Exeunt.
const PMSCR_CONTENTS: u64 = 1 << 3 | 1 << 4 | 1 << 5 | 3 << 6;
/// BRBCR_EL2 CC, MPRED and TS: what a record of EL1 or EL0 may contain. E2BRE and E0HBRE would record Exeunt.
const BRBCR_CONTENTS: u64 = 1 << 3 | 1 << 4 | 3 << 5;
/// MPAM2_EL2.EnMPAMSM.
const MPAM2_ENMPAMSM: u64 = 1 << 50;

/// Calls the macro `$callback` with the registers of EL2 whose value is kept: `Name, "words", op0, op1, CRn, CRm, op2,
/// policy, needs;`.
macro_rules! el2_rows {
    ($callback:ident) => {
        $callback! {
            // Identity as EL1 reads it.
            Vpidr, "VPIDR_EL2", 3, 4, 0, 0, 0, Filtered { free: !0, open: 0 }, Always;
            Vmpidr, "VMPIDR_EL2", 3, 4, 0, 0, 5, Filtered { free: !0, open: 0 }, Always;
            // Control of EL2 itself and of what EL1 may do.
            Sctlr, "SCTLR_EL2", 3, 4, 1, 0, 0, Special, Always;
            Actlr, "ACTLR_EL2", 3, 4, 1, 0, 1, Shadow, Always;
            Sctlr2, "SCTLR2_EL2", 3, 4, 1, 0, 3, Shadow, Has(F::Sctlr2);
            Hcr, "HCR_EL2", 3, 4, 1, 1, 0, Special, Always;
            Mdcr, "MDCR_EL2", 3, 4, 1, 1, 1, Filtered { free: 0, open: MDCR_ENABLES }, Always;
            Cptr, "CPTR_EL2", 3, 4, 1, 1, 2, Filtered { free: 0, open: 0 }, Always;
            Hstr, "HSTR_EL2", 3, 4, 1, 1, 3, Filtered { free: 0, open: 0 }, Always;
            Hfgrtr, "HFGRTR_EL2", 3, 4, 1, 1, 4, Filtered { free: 0, open: HFGXTR_N }, Has(F::Fgt);
            Hfgwtr, "HFGWTR_EL2", 3, 4, 1, 1, 5, Filtered { free: 0, open: HFGXTR_N }, Has(F::Fgt);
            Hfgitr, "HFGITR_EL2", 3, 4, 1, 1, 6, Filtered { free: 0, open: HFGITR_N }, Has(F::Fgt);
            Hacr, "HACR_EL2", 3, 4, 1, 1, 7, Shadow, Always;
            Zcr, "ZCR_EL2", 3, 4, 1, 2, 0, Filtered { free: LEN, open: 0 }, Has(F::Sve);
            Trfcr, "TRFCR_EL2", 3, 4, 1, 2, 1, Filtered { free: TRFCR_TS, open: 0 }, Has(F::Trf);
            Hcrx, "HCRX_EL2", 3, 4, 1, 2, 2, Filtered { free: 0, open: HCRX_ENABLES }, Has(F::Hcx);
            Trcitecr, "TRCITECR_EL2", 3, 4, 1, 2, 3, Shadow, Has(F::Ite);
            Smprimap, "SMPRIMAP_EL2", 3, 4, 1, 2, 5, Filtered { free: !0, open: 0 }, Has(F::SmePriority);
            Smcr, "SMCR_EL2", 3, 4, 1, 2, 6, Filtered { free: LEN, open: SMCR_ENABLES }, Has(F::Sme);
            Hdfgrtr2, "HDFGRTR2_EL2", 3, 4, 3, 1, 0, Filtered { free: 0, open: HDFGXTR2_N }, Has(F::Fgt2);
            Hdfgwtr2, "HDFGWTR2_EL2", 3, 4, 3, 1, 1, Filtered { free: 0, open: HDFGXTR2_N }, Has(F::Fgt2);
            Hfgrtr2, "HFGRTR2_EL2", 3, 4, 3, 1, 2, Filtered { free: 0, open: HFGXTR2_N }, Has(F::Fgt2);
            Hfgwtr2, "HFGWTR2_EL2", 3, 4, 3, 1, 3, Filtered { free: 0, open: HFGXTR2_N }, Has(F::Fgt2);
            Hdfgrtr, "HDFGRTR_EL2", 3, 4, 3, 1, 4, Filtered { free: 0, open: HDFGRTR_N }, Has(F::Fgt);
            Hdfgwtr, "HDFGWTR_EL2", 3, 4, 3, 1, 5, Filtered { free: 0, open: HDFGWTR_N }, Has(F::Fgt);
            Hafgrtr, "HAFGRTR_EL2", 3, 4, 3, 1, 6, Filtered { free: 0, open: 0 }, HasBoth(F::Fgt, F::Amu);
            Hfgitr2, "HFGITR2_EL2", 3, 4, 3, 1, 7, Filtered { free: 0, open: HFGITR2_N }, Has(F::Fgt2);
            // Translation. Virtual EL2 has no stage 1, and stage 2 is Exeunt's.
            Ttbr0, "TTBR0_EL2", 3, 4, 2, 0, 0, Shadow, Always;
            Tcr, "TCR_EL2", 3, 4, 2, 0, 2, Shadow, Always;
            Tcr2, "TCR2_EL2", 3, 4, 2, 0, 3, Shadow, Has(F::Tcr2);
            Vttbr, "VTTBR_EL2", 3, 4, 2, 1, 0, Shadow, Always;
            Vtcr, "VTCR_EL2", 3, 4, 2, 1, 2, Shadow, Always;
            Mair2, "MAIR2_EL2", 3, 4, 10, 1, 1, Shadow, Has(F::Aie);
            Mair, "MAIR_EL2", 3, 4, 10, 2, 0, Shadow, Always;
            Pire0, "PIRE0_EL2", 3, 4, 10, 2, 2, Shadow, Has(F::S1pie);
            Pir, "PIR_EL2", 3, 4, 10, 2, 3, Shadow, Has(F::S1pie);
            Por, "POR_EL2", 3, 4, 10, 2, 4, Shadow, Has(F::S1poe);
            S2pir, "S2PIR_EL2", 3, 4, 10, 2, 5, Shadow, Field(IdRegister::Mmfr3, 12, 1);
            Amair, "AMAIR_EL2", 3, 4, 10, 3, 0, Shadow, Always;
            Amair2, "AMAIR2_EL2", 3, 4, 10, 3, 1, Shadow, Has(F::Aie);
            Gcscr, "GCSCR_EL2", 3, 4, 2, 5, 0, Shadow, Has(F::Gcs);
            Gcspr, "GCSPR_EL2", 3, 4, 2, 5, 1, Shadow, Has(F::Gcs);
            // Exceptions.
            Spsr, "SPSR_EL2", 3, 4, 4, 0, 0, Shadow, Always;
            Elr, "ELR_EL2", 3, 4, 4, 0, 1, Shadow, Always;
            Afsr0, "AFSR0_EL2", 3, 4, 5, 1, 0, Shadow, Always;
            Afsr1, "AFSR1_EL2", 3, 4, 5, 1, 1, Shadow, Always;
            Esr, "ESR_EL2", 3, 4, 5, 2, 0, Shadow, Always;
            Vsesr, "VSESR_EL2", 3, 4, 5, 2, 3, Shadow, Has(F::Ras);
            Tfsr, "TFSR_EL2", 3, 4, 5, 6, 0, Shadow, Has(F::Mte2);
            Far, "FAR_EL2", 3, 4, 6, 0, 0, Shadow, Always;
            Hpfar, "HPFAR_EL2", 3, 4, 6, 0, 4, Shadow, Always;
            Pfar, "PFAR_EL2", 3, 4, 6, 0, 5, Shadow, Has(F::Pfar);
            Vbar, "VBAR_EL2", 3, 4, 12, 0, 0, Special, Always;
            Rmr, "RMR_EL2", 3, 4, 12, 0, 2, Special, WithoutEl3;
            Vdisr, "VDISR_EL2", 3, 4, 12, 1, 1, Shadow, Has(F::Ras);
            Tpidr, "TPIDR_EL2", 3, 4, 13, 0, 2, Shadow, Always;
            Scxtnum, "SCXTNUM_EL2", 3, 4, 13, 0, 7, Shadow, Has(F::Scxtnum);
            // AArch32's registers, which EL2 keeps for an EL1 in AArch32. Exeunt's host has none.
            Dacr32, "DACR32_EL2", 3, 4, 3, 0, 0, Shadow, Field(IdRegister::Pfr0, 4, 2);
            SpsrIrq, "SPSR_irq", 3, 4, 4, 3, 0, Shadow, Always;
            SpsrAbt, "SPSR_abt", 3, 4, 4, 3, 1, Shadow, Always;
            SpsrUnd, "SPSR_und", 3, 4, 4, 3, 2, Shadow, Always;
            SpsrFiq, "SPSR_fiq", 3, 4, 4, 3, 3, Shadow, Always;
            Ifsr32, "IFSR32_EL2", 3, 4, 5, 0, 1, Shadow, Field(IdRegister::Pfr0, 4, 2);
            Fpexc32, "FPEXC32_EL2", 3, 4, 5, 3, 0, Shadow, Field(IdRegister::Pfr0, 4, 2);
            Dbgvcr32, "DBGVCR32_EL2", 2, 4, 0, 7, 0, Shadow, Field(IdRegister::Pfr0, 4, 2);
            // Profiling, tracing, partitioning.
            Pmscr, "PMSCR_EL2", 3, 4, 9, 9, 0, Filtered { free: PMSCR_CONTENTS, open: 0 }, Has(F::SpeOwned);
            Brbcr, "BRBCR_EL2", 2, 4, 9, 0, 0, Filtered { free: BRBCR_CONTENTS, open: 0 }, Has(F::Brbe);
            Spmaccessr, "SPMACCESSR_EL2", 2, 4, 9, 13, 3, Shadow, Has(F::Spmu);
            Mpamhcr, "MPAMHCR_EL2", 3, 4, 10, 4, 0, Filtered { free: 0, open: 0 }, Has(F::Mpam);
            Mpam2, "MPAM2_EL2", 3, 4, 10, 5, 0, Filtered { free: 0, open: MPAM2_ENMPAMSM }, Has(F::Mpam);
            // GIC. The virtual CPU interface stays off: it is KVM's, and KVM gets a whole EL2 or none.
            IccSre, "ICC_SRE_EL2", 3, 4, 12, 9, 5, Special, Has(F::Gicv3);
            IchHcr, "ICH_HCR_EL2", 3, 4, 12, 11, 0, Filtered { free: 0, open: 0 }, Gicv3;
            IchVmcr, "ICH_VMCR_EL2", 3, 4, 12, 11, 7, Shadow, Gicv3;
            IchHfgrtr, "ICH_HFGRTR_EL2", 3, 4, 12, 9, 4, Filtered { free: 0, open: !0 }, Has(F::Gicv5);
            IchHfgwtr, "ICH_HFGWTR_EL2", 3, 4, 12, 9, 6, Filtered { free: 0, open: !0 }, Has(F::Gicv5);
            IchHfgitr, "ICH_HFGITR_EL2", 3, 4, 12, 9, 7, Filtered { free: 0, open: !0 }, Has(F::Gicv5);
            IchVctlr, "ICH_VCTLR_EL2", 3, 4, 12, 11, 4, Filtered { free: 0, open: 0 }, Has(F::Gicv5);
            // Timers. EL2's own never fires: no interrupt is taken to virtual EL2.
            Cntvoff, "CNTVOFF_EL2", 3, 4, 14, 0, 3, Filtered { free: !0, open: 0 }, Always;
            Cntpoff, "CNTPOFF_EL2", 3, 4, 14, 0, 6, Filtered { free: !0, open: 0 }, Has(F::EcvPoff);
            Cnthctl, "CNTHCTL_EL2", 3, 4, 14, 1, 0, Filtered { free: CNTHCTL_EVENTS, open: 0 }, Always;
            CnthpTval, "CNTHP_TVAL_EL2", 3, 4, 14, 2, 0, Shadow, Always;
            CnthpCtl, "CNTHP_CTL_EL2", 3, 4, 14, 2, 1, Shadow, Always;
            CnthpCval, "CNTHP_CVAL_EL2", 3, 4, 14, 2, 2, Shadow, Always;
        }
    };
}

macro_rules! el2_enum {
    ($($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal,
        $policy:expr, $needs:expr;)*) => {
        encoded_enum! {
            /// A register of EL2 whose value is kept for the host.
            El2: $($name, $words, $op0, $op1, $crn, $crm, $op2;)*
        }

        impl El2 {
            /// What a write does.
            #[must_use]
            pub const fn policy(self) -> Policy {
                match self {
                    $(Self::$name => $policy,)*
                }
            }

            /// Which CPUs have it.
            #[must_use]
            pub const fn needs(self) -> Needs {
                match self {
                    $(Self::$name => $needs,)*
                }
            }
        }
    };
}

el2_rows!(el2_enum);

impl El2 {
    /// The same register among those that Exeunt sets itself.
    #[must_use]
    pub const fn set_up(self) -> Option<features::Register> {
        SET_UP[self as usize]
    }

    /// Its place among the filtered registers.
    #[must_use]
    pub const fn filter(self) -> Option<usize> {
        let slot = FILTERS.1[self as usize];
        if slot == NO_FILTER { None } else { Some(slot as usize) }
    }
}

/// [`El2::set_up`], looked up when the program is compiled.
static SET_UP: [Option<features::Register>; El2::ALL.len()] = {
    let mut table = [None; El2::ALL.len()];
    let mut index = 0;
    while index < El2::ALL.len() {
        let mut other = 0;
        while other < features::Register::ALL.len() {
            if key(features::Register::ALL[other].encoding()) == key(El2::ALL[index].encoding()) {
                table[index] = Some(features::Register::ALL[other]);
            }
            other += 1;
        }
        index += 1;
    }
    table
};

/// In [`FILTERS`]: the register is not filtered.
const NO_FILTER: u8 = u8::MAX;
/// How many registers are filtered, and the place of each among them.
static FILTERS: (usize, [u8; El2::ALL.len()]) = filters();
/// How many registers are filtered.
pub const FILTERED: usize = filters().0;

const fn filters() -> (usize, [u8; El2::ALL.len()]) {
    let mut slots = [NO_FILTER; El2::ALL.len()];
    let (mut index, mut count) = (0, 0);
    while index < El2::ALL.len() {
        if let Filtered { .. } = El2::ALL[index].policy() {
            slots[index] = count as u8;
            count += 1;
        }
        index += 1;
    }
    (count, slots)
}

/// Calls the macro `$callback` with every register that virtual EL2 reads or writes in hardware, as `Name, "words",
/// op0, op1, CRn, CRm, op2, access, needs;`. With it the EL2 binary makes its MRS and MSR instructions, and the library
/// its enum, out of the same list. They are registers of EL1 and EL0, which the host has to itself as soon as it is
/// there, and a few of EL2 that only tell something. A macro that does not know the last two fields' types need not
/// look at them.
#[macro_export]
macro_rules! virtual_el2_registers {
    ($callback:ident) => {
        $callback! {
            // In use by the trick itself while the host is in virtual EL2: the host's values are kept, see `Borrowed`.
            SctlrEl1, "SCTLR_EL1", 3, 0, 1, 0, 0, ReadWrite, Always;
            CpacrEl1, "CPACR_EL1", 3, 0, 1, 0, 2, ReadWrite, Always;
            MdscrEl1, "MDSCR_EL1", 2, 0, 0, 2, 2, ReadWrite, Always;
            SpEl0, "SP_EL0", 3, 0, 4, 1, 0, ReadWrite, Always;
            IccPmrEl1, "ICC_PMR_EL1", 3, 0, 4, 6, 0, ReadWrite, Gicv3;
            IccIgrpen0El1, "ICC_IGRPEN0_EL1", 3, 0, 12, 12, 6, ReadWrite, Gicv3WithoutEl3;
            IccIgrpen1El1, "ICC_IGRPEN1_EL1", 3, 0, 12, 12, 7, ReadWrite, Gicv3;
            // What the CPU is.
            RevidrEl1, "REVIDR_EL1", 3, 0, 0, 0, 6, ReadOnly, Always;
            CcsidrEl1, "CCSIDR_EL1", 3, 1, 0, 0, 0, ReadOnly, Always;
            ClidrEl1, "CLIDR_EL1", 3, 1, 0, 0, 1, ReadOnly, Always;
            GmidEl1, "GMID_EL1", 3, 1, 0, 0, 4, ReadOnly, Has(F::Mte2);
            AidrEl1, "AIDR_EL1", 3, 1, 0, 0, 7, ReadOnly, Always;
            CsselrEl1, "CSSELR_EL1", 3, 2, 0, 0, 0, ReadWrite, Always;
            CtrEl0, "CTR_EL0", 3, 3, 0, 0, 1, ReadOnly, Always;
            DczidEl0, "DCZID_EL0", 3, 3, 0, 0, 7, ReadOnly, Always;
            RvbarEl2, "RVBAR_EL2", 3, 4, 12, 0, 1, ReadOnly, WithoutEl3;
            IchVtrEl2, "ICH_VTR_EL2", 3, 4, 12, 11, 1, ReadOnly, Gicv3;
            // Control and translation of EL1.
            ActlrEl1, "ACTLR_EL1", 3, 0, 1, 0, 1, ReadWrite, Always;
            Sctlr2El1, "SCTLR2_EL1", 3, 0, 1, 0, 3, ReadWrite, HasWithoutEl3(F::Sctlr2);
            ZcrEl1, "ZCR_EL1", 3, 0, 1, 2, 0, ReadWrite, Has(F::Sve);
            TrfcrEl1, "TRFCR_EL1", 3, 0, 1, 2, 1, ReadWrite, HasWithoutEl3(F::Trf);
            SmpriEl1, "SMPRI_EL1", 3, 0, 1, 2, 4, ReadWrite, Has(F::SmePriority);
            SmcrEl1, "SMCR_EL1", 3, 0, 1, 2, 6, ReadWrite, Has(F::Sme);
            Ttbr0El1, "TTBR0_EL1", 3, 0, 2, 0, 0, ReadWrite, Always;
            Ttbr1El1, "TTBR1_EL1", 3, 0, 2, 0, 1, ReadWrite, Always;
            TcrEl1, "TCR_EL1", 3, 0, 2, 0, 2, ReadWrite, Always;
            Tcr2El1, "TCR2_EL1", 3, 0, 2, 0, 3, ReadWrite, Has(F::Tcr2);
            GcscrEl1, "GCSCR_EL1", 3, 0, 2, 5, 0, ReadWrite, Has(F::Gcs);
            GcsprEl1, "GCSPR_EL1", 3, 0, 2, 5, 1, ReadWrite, Has(F::Gcs);
            Gcscre0El1, "GCSCRE0_EL1", 3, 0, 2, 5, 2, ReadWrite, Has(F::Gcs);
            Mair2El1, "MAIR2_EL1", 3, 0, 10, 2, 1, ReadWrite, HasWithoutEl3(F::Aie);
            MairEl1, "MAIR_EL1", 3, 0, 10, 2, 0, ReadWrite, Always;
            Pire0El1, "PIRE0_EL1", 3, 0, 10, 2, 2, ReadWrite, Has(F::S1pie);
            PirEl1, "PIR_EL1", 3, 0, 10, 2, 3, ReadWrite, Has(F::S1pie);
            PorEl1, "POR_EL1", 3, 0, 10, 2, 4, ReadWrite, Has(F::S1poe);
            AmairEl1, "AMAIR_EL1", 3, 0, 10, 3, 0, ReadWrite, Always;
            Amair2El1, "AMAIR2_EL1", 3, 0, 10, 3, 1, ReadWrite, HasWithoutEl3(F::Aie);
            LorsaEl1, "LORSA_EL1", 3, 0, 10, 4, 0, ReadWrite, Has(F::Lor);
            LoreaEl1, "LOREA_EL1", 3, 0, 10, 4, 1, ReadWrite, Has(F::Lor);
            LornEl1, "LORN_EL1", 3, 0, 10, 4, 2, ReadWrite, Has(F::Lor);
            LorcEl1, "LORC_EL1", 3, 0, 10, 4, 3, ReadWrite, Has(F::Lor);
            LoridEl1, "LORID_EL1", 3, 0, 10, 4, 7, ReadOnly, Has(F::Lor);
            MpamidrEl1, "MPAMIDR_EL1", 3, 0, 10, 4, 4, ReadOnly, Has(F::Mpam);
            Mpam1El1, "MPAM1_EL1", 3, 0, 10, 5, 0, ReadWrite, Has(F::Mpam);
            Mpam0El1, "MPAM0_EL1", 3, 0, 10, 5, 1, ReadWrite, Has(F::Mpam);
            ContextidrEl1, "CONTEXTIDR_EL1", 3, 0, 13, 0, 1, ReadWrite, Always;
            // Exceptions to EL1.
            SpEl1, "SP_EL1", 3, 4, 4, 1, 0, ReadWrite, Always;
            SpsrEl1, "SPSR_EL1", 3, 0, 4, 0, 0, ReadWrite, Always;
            ElrEl1, "ELR_EL1", 3, 0, 4, 0, 1, ReadWrite, Always;
            Afsr0El1, "AFSR0_EL1", 3, 0, 5, 1, 0, ReadWrite, Always;
            Afsr1El1, "AFSR1_EL1", 3, 0, 5, 1, 1, ReadWrite, Always;
            EsrEl1, "ESR_EL1", 3, 0, 5, 2, 0, ReadWrite, Always;
            TfsrEl1, "TFSR_EL1", 3, 0, 5, 6, 0, ReadWrite, Has(F::Mte2);
            Tfsre0El1, "TFSRE0_EL1", 3, 0, 5, 6, 1, ReadWrite, Has(F::Mte2);
            FarEl1, "FAR_EL1", 3, 0, 6, 0, 0, ReadWrite, Always;
            ParEl1, "PAR_EL1", 3, 0, 7, 4, 0, ReadWrite, Always;
            VbarEl1, "VBAR_EL1", 3, 0, 12, 0, 0, ReadWrite, Always;
            IsrEl1, "ISR_EL1", 3, 0, 12, 1, 0, ReadOnly, Always;
            DisrEl1, "DISR_EL1", 3, 0, 12, 1, 1, ReadWrite, Has(F::Ras);
            // Software's own, and keys.
            TpidrEl1, "TPIDR_EL1", 3, 0, 13, 0, 4, ReadWrite, Always;
            TpidrEl0, "TPIDR_EL0", 3, 3, 13, 0, 2, ReadWrite, Always;
            TpidrroEl0, "TPIDRRO_EL0", 3, 3, 13, 0, 3, ReadWrite, Always;
            Tpidr2El0, "TPIDR2_EL0", 3, 3, 13, 0, 5, ReadWrite, Has(F::Sme);
            ScxtnumEl1, "SCXTNUM_EL1", 3, 0, 13, 0, 7, ReadWrite, HasWithoutEl3(F::Scxtnum);
            ScxtnumEl0, "SCXTNUM_EL0", 3, 3, 13, 0, 7, ReadWrite, HasWithoutEl3(F::Scxtnum);
            ApiaKeyLoEl1, "APIAKeyLo_EL1", 3, 0, 2, 1, 0, ReadWrite, Has(F::Pauth);
            ApiaKeyHiEl1, "APIAKeyHi_EL1", 3, 0, 2, 1, 1, ReadWrite, Has(F::Pauth);
            ApibKeyLoEl1, "APIBKeyLo_EL1", 3, 0, 2, 1, 2, ReadWrite, Has(F::Pauth);
            ApibKeyHiEl1, "APIBKeyHi_EL1", 3, 0, 2, 1, 3, ReadWrite, Has(F::Pauth);
            ApdaKeyLoEl1, "APDAKeyLo_EL1", 3, 0, 2, 2, 0, ReadWrite, Has(F::Pauth);
            ApdaKeyHiEl1, "APDAKeyHi_EL1", 3, 0, 2, 2, 1, ReadWrite, Has(F::Pauth);
            ApdbKeyLoEl1, "APDBKeyLo_EL1", 3, 0, 2, 2, 2, ReadWrite, Has(F::Pauth);
            ApdbKeyHiEl1, "APDBKeyHi_EL1", 3, 0, 2, 2, 3, ReadWrite, Has(F::Pauth);
            ApgaKeyLoEl1, "APGAKeyLo_EL1", 3, 0, 2, 3, 0, ReadWrite, Has(F::Pauth);
            ApgaKeyHiEl1, "APGAKeyHi_EL1", 3, 0, 2, 3, 1, ReadWrite, Has(F::Pauth);
            RgsrEl1, "RGSR_EL1", 3, 0, 1, 0, 5, ReadWrite, Has(F::Mte2);
            GcrEl1, "GCR_EL1", 3, 0, 1, 0, 6, ReadWrite, Has(F::Mte2);
            FpcrEl0, "FPCR", 3, 3, 4, 4, 0, ReadWrite, Always;
            FpsrEl0, "FPSR", 3, 3, 4, 4, 1, ReadWrite, Always;
            FpmrEl0, "FPMR", 3, 3, 4, 4, 2, ReadWrite, Has(F::Fpmr);
            PorEl0, "POR_EL0", 3, 3, 10, 2, 4, ReadWrite, Has(F::S1poe);
            // Performance counters.
            PmcrEl0, "PMCR_EL0", 3, 3, 9, 12, 0, ReadWrite, Has(F::Pmuv3);
            PmcntensetEl0, "PMCNTENSET_EL0", 3, 3, 9, 12, 1, ReadWrite, Has(F::Pmuv3);
            PmcntenclrEl0, "PMCNTENCLR_EL0", 3, 3, 9, 12, 2, ReadWrite, Has(F::Pmuv3);
            PmovsclrEl0, "PMOVSCLR_EL0", 3, 3, 9, 12, 3, ReadWrite, Has(F::Pmuv3);
            PmselrEl0, "PMSELR_EL0", 3, 3, 9, 12, 5, ReadWrite, Has(F::Pmuv3);
            Pmceid0El0, "PMCEID0_EL0", 3, 3, 9, 12, 6, ReadOnly, Has(F::Pmuv3);
            Pmceid1El0, "PMCEID1_EL0", 3, 3, 9, 12, 7, ReadOnly, Has(F::Pmuv3);
            PmccntrEl0, "PMCCNTR_EL0", 3, 3, 9, 13, 0, ReadWrite, Has(F::Pmuv3);
            PmccfiltrEl0, "PMCCFILTR_EL0", 3, 3, 14, 15, 7, ReadWrite, Has(F::Pmuv3);
            PmuserenrEl0, "PMUSERENR_EL0", 3, 3, 9, 14, 0, ReadWrite, Has(F::Pmuv3);
            PmintensetEl1, "PMINTENSET_EL1", 3, 0, 9, 14, 1, ReadWrite, Has(F::Pmuv3);
            PmintenclrEl1, "PMINTENCLR_EL1", 3, 0, 9, 14, 2, ReadWrite, Has(F::Pmuv3);
            PmovssetEl0, "PMOVSSET_EL0", 3, 3, 9, 14, 3, ReadWrite, Has(F::Pmuv3);
            BrbcrEl1, "BRBCR_EL1", 2, 1, 9, 0, 0, ReadWrite, Has(F::Brbe);
            // The GIC's CPU interface, Group 1. With EL3 the registers of Group 0 may be its own, and of these nothing
            // but ICC_IGRPEN0_EL1 matters here.
            IccBpr1El1, "ICC_BPR1_EL1", 3, 0, 12, 12, 3, ReadWrite, Gicv3;
            IccCtlrEl1, "ICC_CTLR_EL1", 3, 0, 12, 12, 4, ReadWrite, Gicv3;
            IccSreEl1, "ICC_SRE_EL1", 3, 0, 12, 12, 5, ReadWrite, Gicv3;
            // Timers.
            CntkctlEl1, "CNTKCTL_EL1", 3, 0, 14, 1, 0, ReadWrite, Always;
            CntfrqEl0, "CNTFRQ_EL0", 3, 3, 14, 0, 0, ReadOnly, Always;
            CntpctEl0, "CNTPCT_EL0", 3, 3, 14, 0, 1, ReadOnly, Always;
            CntvctEl0, "CNTVCT_EL0", 3, 3, 14, 0, 2, ReadOnly, Always;
            CntpctssEl0, "CNTPCTSS_EL0", 3, 3, 14, 0, 5, ReadOnly, Field(IdRegister::Mmfr0, 60, 1);
            CntvctssEl0, "CNTVCTSS_EL0", 3, 3, 14, 0, 6, ReadOnly, Field(IdRegister::Mmfr0, 60, 1);
            CntpTvalEl0, "CNTP_TVAL_EL0", 3, 3, 14, 2, 0, ReadWrite, Always;
            CntpCtlEl0, "CNTP_CTL_EL0", 3, 3, 14, 2, 1, ReadWrite, Always;
            CntpCvalEl0, "CNTP_CVAL_EL0", 3, 3, 14, 2, 2, ReadWrite, Always;
            CntvTvalEl0, "CNTV_TVAL_EL0", 3, 3, 14, 3, 0, ReadWrite, Always;
            CntvCtlEl0, "CNTV_CTL_EL0", 3, 3, 14, 3, 1, ReadWrite, Always;
            CntvCvalEl0, "CNTV_CVAL_EL0", 3, 3, 14, 3, 2, ReadWrite, Always;
            // Debug.
            MdrarEl1, "MDRAR_EL1", 2, 0, 1, 0, 0, ReadOnly, Always;
            OslarEl1, "OSLAR_EL1", 2, 0, 1, 0, 4, WriteOnly, Always;
            OslsrEl1, "OSLSR_EL1", 2, 0, 1, 1, 4, ReadOnly, Always;
            OsdlrEl1, "OSDLR_EL1", 2, 0, 1, 3, 4, ReadWrite, Always;
            DbgprcrEl1, "DBGPRCR_EL1", 2, 0, 1, 4, 4, ReadWrite, Always;
            DbgauthstatusEl1, "DBGAUTHSTATUS_EL1", 2, 0, 7, 14, 6, ReadOnly, Always;
        }
    };
}

macro_rules! hardware_enum {
    ($($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal,
        $access:expr, $needs:expr;)*) => {
        encoded_enum! {
            /// A register that virtual EL2 reads or writes in hardware.
            Register: $($name, $words, $op0, $op1, $crn, $crm, $op2;)*
        }

        impl Register {
            /// In which direction it can be accessed.
            #[must_use]
            pub const fn access(self) -> Access {
                use Access::{ReadOnly, ReadWrite, WriteOnly};
                match self {
                    $(Self::$name => $access,)*
                }
            }

            /// Which CPUs have it.
            #[must_use]
            pub const fn needs(self) -> Needs {
                match self {
                    $(Self::$name => $needs,)*
                }
            }
        }
    };
}

virtual_el2_registers!(hardware_enum);

/// Calls the macro `$callback` with the ID space, op0 3, op1 0, CRn 0, CRm 1 to 7, as `CRm, op2;`. All of it can be
/// read on every CPU; what the architecture has not defined yet reads as zero (Arm ARM D24.1, "Reserved encodings in
/// the ID register space").
#[macro_export]
macro_rules! virtual_el2_id_space {
    ($callback:ident) => {
        $callback! {
            1, 0; 1, 1; 1, 2; 1, 3; 1, 4; 1, 5; 1, 6; 1, 7;
            2, 0; 2, 1; 2, 2; 2, 3; 2, 4; 2, 5; 2, 6; 2, 7;
            3, 0; 3, 1; 3, 2; 3, 3; 3, 4; 3, 5; 3, 6; 3, 7;
            4, 0; 4, 1; 4, 2; 4, 3; 4, 4; 4, 5; 4, 6; 4, 7;
            5, 0; 5, 1; 5, 2; 5, 3; 5, 4; 5, 5; 5, 6; 5, 7;
            6, 0; 6, 1; 6, 2; 6, 3; 6, 4; 6, 5; 6, 6; 6, 7;
            7, 0; 7, 1; 7, 2; 7, 3; 7, 4; 7, 5; 7, 6; 7, 7;
        }
    };
}

/// Defines `ABSENT`, registers that are known and that virtual EL2 does not have, and their names for the log. The
/// reason is for the reader.
macro_rules! absent {
    ($(($words:literal, $encoding:expr),)*) => {
        const ABSENT: &[Encoding] = &[$($encoding,)*];

        const ABSENT_NAMES: &str = concat!($($words, " ",)*);
    };
}

absent! {
    // FEAT_VHE is hidden from virtual EL2, since E2H cannot be set there.
    ("TTBR1_EL2", Encoding::new(3, 4, 2, 0, 1)),
    ("CONTEXTIDR_EL2", Encoding::new(3, 4, 13, 0, 1)),
    ("CNTHV_TVAL_EL2", Encoding::new(3, 4, 14, 3, 0)),
    ("CNTHV_CTL_EL2", Encoding::new(3, 4, 14, 3, 1)),
    ("CNTHV_CVAL_EL2", Encoding::new(3, 4, 14, 3, 2)),
    // FEAT_NV2 is hidden: there is no second level of guests.
    ("VNCR_EL2", Encoding::new(3, 4, 2, 2, 0)),
    // FEAT_SEL2: Secure state only.
    ("SDER32_EL2", Encoding::new(3, 4, 1, 3, 1)),
    ("VSTTBR_EL2", Encoding::new(3, 4, 2, 6, 0)),
    ("VSTCR_EL2", Encoding::new(3, 4, 2, 6, 2)),
    ("CNTHVS_TVAL_EL2", Encoding::new(3, 4, 14, 4, 0)),
    ("CNTHVS_CTL_EL2", Encoding::new(3, 4, 14, 4, 1)),
    ("CNTHVS_CVAL_EL2", Encoding::new(3, 4, 14, 4, 2)),
    ("CNTHPS_TVAL_EL2", Encoding::new(3, 4, 14, 5, 0)),
    ("CNTHPS_CTL_EL2", Encoding::new(3, 4, 14, 5, 1)),
    ("CNTHPS_CVAL_EL2", Encoding::new(3, 4, 14, 5, 2)),
    // What stage 2 does for hypervisors that have guests: FEAT_HDBSS, FEAT_HACDBS, and FEAT_MEC of the Realm world.
    ("HDBSSBR_EL2", Encoding::new(3, 4, 2, 3, 2)),
    ("HDBSSPROD_EL2", Encoding::new(3, 4, 2, 3, 3)),
    ("HACDBSBR_EL2", Encoding::new(3, 4, 2, 3, 4)),
    ("HACDBSCONS_EL2", Encoding::new(3, 4, 2, 3, 5)),
    ("MECID_P0_EL2", Encoding::new(3, 4, 10, 8, 0)),
    ("MECID_A0_EL2", Encoding::new(3, 4, 10, 8, 1)),
    ("MECID_P1_EL2", Encoding::new(3, 4, 10, 8, 2)),
    ("MECID_A1_EL2", Encoding::new(3, 4, 10, 8, 3)),
    ("MECIDR_EL2", Encoding::new(3, 4, 10, 8, 7)),
    ("VMECID_P_EL2", Encoding::new(3, 4, 10, 9, 0)),
    ("VMECID_A_EL2", Encoding::new(3, 4, 10, 9, 1)),
    // MPAM for guests.
    ("MPAMVPMV_EL2", Encoding::new(3, 4, 10, 4, 1)),
    ("MPAMVPM0_EL2", Encoding::new(3, 4, 10, 6, 0)),
    ("MPAMVPM1_EL2", Encoding::new(3, 4, 10, 6, 1)),
    ("MPAMVPM2_EL2", Encoding::new(3, 4, 10, 6, 2)),
    ("MPAMVPM3_EL2", Encoding::new(3, 4, 10, 6, 3)),
    ("MPAMVPM4_EL2", Encoding::new(3, 4, 10, 6, 4)),
    ("MPAMVPM5_EL2", Encoding::new(3, 4, 10, 6, 5)),
    ("MPAMVPM6_EL2", Encoding::new(3, 4, 10, 6, 6)),
    ("MPAMVPM7_EL2", Encoding::new(3, 4, 10, 6, 7)),
    // The virtual CPU interface's state, which is KVM's.
    ("ICH_AP0R0_EL2", Encoding::new(3, 4, 12, 8, 0)),
    ("ICH_AP0R1_EL2", Encoding::new(3, 4, 12, 8, 1)),
    ("ICH_AP0R2_EL2", Encoding::new(3, 4, 12, 8, 2)),
    ("ICH_AP0R3_EL2", Encoding::new(3, 4, 12, 8, 3)),
    ("ICH_AP1R0_EL2", Encoding::new(3, 4, 12, 9, 0)),
    ("ICH_AP1R1_EL2", Encoding::new(3, 4, 12, 9, 1)),
    ("ICH_AP1R2_EL2", Encoding::new(3, 4, 12, 9, 2)),
    ("ICH_AP1R3_EL2", Encoding::new(3, 4, 12, 9, 3)),
    ("ICH_MISR_EL2", Encoding::new(3, 4, 12, 11, 2)),
    ("ICH_EISR_EL2", Encoding::new(3, 4, 12, 11, 3)),
    ("ICH_ELRSR_EL2", Encoding::new(3, 4, 12, 11, 5)),
    ("ICH_LR0_EL2", Encoding::new(3, 4, 12, 12, 0)),
    ("ICH_LR1_EL2", Encoding::new(3, 4, 12, 12, 1)),
    ("ICH_LR2_EL2", Encoding::new(3, 4, 12, 12, 2)),
    ("ICH_LR3_EL2", Encoding::new(3, 4, 12, 12, 3)),
    ("ICH_LR4_EL2", Encoding::new(3, 4, 12, 12, 4)),
    ("ICH_LR5_EL2", Encoding::new(3, 4, 12, 12, 5)),
    ("ICH_LR6_EL2", Encoding::new(3, 4, 12, 12, 6)),
    ("ICH_LR7_EL2", Encoding::new(3, 4, 12, 12, 7)),
    ("ICH_LR8_EL2", Encoding::new(3, 4, 12, 13, 0)),
    ("ICH_LR9_EL2", Encoding::new(3, 4, 12, 13, 1)),
    ("ICH_LR10_EL2", Encoding::new(3, 4, 12, 13, 2)),
    ("ICH_LR11_EL2", Encoding::new(3, 4, 12, 13, 3)),
    ("ICH_LR12_EL2", Encoding::new(3, 4, 12, 13, 4)),
    ("ICH_LR13_EL2", Encoding::new(3, 4, 12, 13, 5)),
    ("ICH_LR14_EL2", Encoding::new(3, 4, 12, 13, 6)),
    ("ICH_LR15_EL2", Encoding::new(3, 4, 12, 13, 7)),
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// A register of EL2 whose value is kept.
    El2(El2),
    /// A register of EL1 or EL0, or one that only tells something.
    Hardware(Register),
    /// A register that virtual EL2 does not have, by its index in the list of names.
    Absent(u8),
}

const ROWS: usize = El2::ALL.len() + Register::ALL.len() + ABSENT.len();

/// All rows in the order of [`key`].
static TABLE: [(u16, Row); ROWS] = sorted(rows());

/// op0 to op2 as one number, in the order in which an instruction word has them.
const fn key(encoding: Encoding) -> u16 {
    (encoding.op0 as u16 & 3) << 14
        | (encoding.op1 as u16 & 7) << 11
        | (encoding.crn as u16 & 15) << 7
        | (encoding.crm as u16 & 15) << 3
        | encoding.op2 as u16 & 7
}

const fn rows() -> [(u16, Row); ROWS] {
    let mut table = [(0, Row::Absent(0)); ROWS];
    let mut filled = 0;
    let mut index = 0;
    while index < El2::ALL.len() {
        table[filled] = (key(El2::ALL[index].encoding()), Row::El2(El2::ALL[index]));
        filled += 1;
        index += 1;
    }
    index = 0;
    while index < Register::ALL.len() {
        table[filled] = (key(Register::ALL[index].encoding()), Row::Hardware(Register::ALL[index]));
        filled += 1;
        index += 1;
    }
    index = 0;
    while index < ABSENT.len() {
        table[filled] = (key(ABSENT[index]), Row::Absent(index as u8));
        filled += 1;
        index += 1;
    }
    table
}

/// Sorts by insertion, when the program is compiled, and fails to compile if a register is there twice.
const fn sorted(mut table: [(u16, Row); ROWS]) -> [(u16, Row); ROWS] {
    let mut end = 1;
    while end < ROWS {
        let mut place = end;
        while place > 0 && table[place - 1].0 >= table[place].0 {
            assert!(table[place - 1].0 != table[place].0, "a register has two rows");
            let row = table[place];
            table[place] = table[place - 1];
            table[place - 1] = row;
            place -= 1;
        }
        end += 1;
    }
    table
}

/// Places for the rows of [`TABLE`], at [`home`] of their key or behind it, as the row's number and one; 0 is an empty
/// place. Each access in virtual EL2 looks here: a search through the sorted rows took four times as long.
static PLACES: [u16; PLACE_COUNT] = {
    let mut places = [0; PLACE_COUNT];
    let mut row = 0;
    while row < ROWS {
        let mut place = home(TABLE[row].0);
        while places[place] != 0 {
            place = (place + 1) % PLACE_COUNT;
        }
        row += 1;
        places[place] = row as u16;
    }
    places
};

/// A power of two, and twice the rows: a search for a key that is not there ends soon.
const PLACE_COUNT: usize = (2 * ROWS).next_power_of_two();

/// The high bits of the product with a large odd number, in which all bits of the key have their part.
const fn home(key: u16) -> usize {
    ((key as u32).wrapping_mul(0x9e37_79b1) >> (u32::BITS - PLACE_COUNT.trailing_zeros())) as usize
}

/// The row of a register, if the table has one.
#[must_use]
pub fn find(register: Encoding) -> Option<Row> {
    let key = key(register);
    let mut place = home(key);
    loop {
        let row = usize::from(*PLACES.get(place)?).checked_sub(1)?;
        let &(found, row) = TABLE.get(row)?;
        if found == key {
            return Some(row);
        }
        place = (place + 1) % PLACE_COUNT;
    }
}

/// Numbers for counting accesses: of every register of EL2 whose value is kept, of each in hardware, of the ID space.
const COUNT_HARDWARE: usize = El2::ALL.len();
const COUNT_IDS: usize = COUNT_HARDWARE + Register::ALL.len();

/// The number of all other registers and instructions.
pub const COUNT_OTHERS: usize = COUNT_IDS + 7 * 8;

/// How many numbers there are.
pub const COUNTS: usize = 256;

const _: () = assert!(COUNT_OTHERS < COUNTS);

impl El2 {
    /// Its number for counting.
    #[must_use]
    #[inline]
    pub const fn count(self) -> usize {
        self as usize
    }
}

impl Register {
    /// Its number for counting.
    #[must_use]
    #[inline]
    pub const fn count(self) -> usize {
        COUNT_HARDWARE + self as usize
    }
}

/// The number of a register of the ID space ([`super::ids::is_id_space`]).
#[must_use]
#[inline]
pub const fn count_of_id(register: Encoding) -> usize {
    COUNT_IDS - 8 + register.crm as usize * 8 + register.op2 as usize
}

/// Every register that is counted by itself, each in the place of its number.
pub const ENCODINGS: [Encoding; COUNT_OTHERS] = {
    let mut all = [Encoding::new(0, 0, 0, 0, 0); COUNT_OTHERS];
    let mut number = 0;
    while number < COUNT_OTHERS {
        all[number] = if number < COUNT_HARDWARE {
            El2::ALL[number].encoding()
        } else if number < COUNT_IDS {
            Register::ALL[number - COUNT_HARDWARE].encoding()
        } else {
            let id = (number - COUNT_IDS) as u8;
            Encoding::new(3, 0, 0, 1 + id / 8, id % 8)
        };
        number += 1;
    }
    all
};

/// The name of a register, if the table knows one.
#[must_use]
pub fn name(register: Encoding) -> Option<&'static str> {
    match find(register)? {
        Row::El2(register) => Some(register.name()),
        Row::Hardware(register) => Some(register.name()),
        Row::Absent(index) => Some(word(ABSENT_NAMES, usize::from(index))),
    }
}
