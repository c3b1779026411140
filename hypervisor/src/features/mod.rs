//! What EL2 has to be set to, so that a host at EL1 has everything that the CPU shows it.
//!
//! Owns the decision which register gets which value, from the CPU's ID registers; it reads and writes none. The rule:
//! a feature that the host sees in its ID registers works at EL1 and EL0 as if EL2 were not there. What EL2 keeps for
//! itself is stage 2 translation and the trap of SMC; what virtual EL2 adds (TGE, TID3) is [`crate::virtual_el2`]'s.
//!
//! Sources: "booting" is Linux `Documentation/arch/arm64/booting.rst`, "Linux" what its
//! `arch/arm64/include/asm/el2_setup.h` writes before it drops to EL1 (6.12, and 7.2 for features that 6.12 does not
//! know). Bits are the Arm ARM's (DDI 0487L.a, D24.2).
//!
//! | feature | register and bits | why |
//! |---|---|---|
//! | every CPU | HCR_EL2 VM, RW, TSC, SWIO | stage 2, AArch64, PSCI; the host's DC ISW must not drop Exeunt's lines |
//! | | CNTHCTL_EL2 EL1PCTEN, EL1PCEN; CNTVOFF_EL2 0 | booting, Linux: the physical counter and timer too |
//! | | CNTHP_CTL_EL2 0 | EL2's own timer, which firmware may have used |
//! | | HSTR_EL2 0, VPIDR_EL2, VMPIDR_EL2 | Linux: no CP15 traps, the host reads the CPU's own identity |
//! | | CPTR_EL2 TFP, TTA, TCPAC, TAM 0 | booting, Linux: floating point, trace, CPACR_EL1, activity monitors |
//! | | MDCR_EL2 HPMN = PMCR_EL0.N, all traps 0 | Linux: all event counters are the host's |
//! | | SCTLR_EL1 | booting: MMU and caches off, little-endian, the fields that are RES1 without their feature set |
//! | SVE | CPTR_EL2 TZ 0, ISB, ZCR_EL2 LEN all ones | booting, Linux: any vector length; with TZ set ZCR_EL2 traps |
//! | SME | CPTR_EL2 TSM 0, ISB, SMCR_EL2 LEN all ones | booting, Linux |
//! | | SCTLR_EL2 EnTP2, HFGxTR_EL2 nTPIDR2_EL0, nSMPRI_EL1 | booting ([`SCTLR_EL2_ENTP2`]: the caller has SCTLR_EL2) |
//! | SME, FA64, SME2 | SMCR_EL2 FA64, EZT0 | booting |
//! | SME priorities | SMPRIMAP_EL2 0, SMPRI_EL1 0 | Linux: defined, not what the reset left |
//! | PAuth | HCR_EL2 APK, API | booting: keys and instructions trap otherwise |
//! | MTE2 | HCR_EL2 ATA | booting: tags and GCR_EL1 trap otherwise |
//! | RASv1p1 | HCR_EL2 FIEN | fault injection registers (ERXPFGx_EL1) trap otherwise |
//! | RAS | VSESR_EL2 0 | the syndrome of a virtual SError, until there is one |
//! | CSV2_2, CSV2_1p2 | HCR_EL2 EnSCXT | SCXTNUM_EL1 and _EL0 trap otherwise |
//! | HCX | HCRX_EL2, all of the below | the register's reset leaves the features off |
//! | MOPS | HCRX_EL2 MSCEn; MCE2 stays 0 | booting. MCE2 is for hypervisors that move a guest between CPUs |
//! | TCR2 | HCRX_EL2 TCR2En, TCR2_EL1 0 | booting |
//! | SCTLR2 | HCRX_EL2 SCTLR2En (+), SCTLR2_EL1 0 (*) | traps otherwise |
//! | FPMR, LS64, LS64_V | HCRX_EL2 EnFPM, EnALS, EnASR | booting |
//! | LS64_ACCDATA | HCRX_EL2 EnAS0, HFGxTR_EL2 nACCDATA_EL1 | traps otherwise |
//! | D128, SYSREG128 | HCRX_EL2 D128En, EnIDCP128 | 128-bit registers trap otherwise |
//! | THE | HCRX_EL2 PTTWI, HFGxTR_EL2 nRCWMASK_EL1, HFGxTR2_EL2 nRCWSMASK_EL1 | traps, or no effect otherwise |
//! | PAuth_LR, SRMASK | HCRX_EL2 PACMEn, SRMASKEn | the host's own controls have no effect, or trap |
//! | GCS | HCRX_EL2 GCSEn, HFGxTR_EL2 nGCS_*, HFGITR_EL2 nGCS* (+) | booting |
//! | | GCSCR_EL2, GCSCR_EL1, GCSCRE0_EL1 0 (*) | booting |
//! | S1PIE | HFGxTR_EL2 nPIR* | booting |
//! | S1POE, S2POE, AIE | HFGxTR_EL2 nPOR*, nS2POR_EL1, nMAIR2_EL1, nAMAIR2_EL1 | the registers trap otherwise |
//! | FGT | HFGxTR_EL2, HFGITR_EL2, HDFGxTR_EL2: positive bits 0, *n* bits of what is there 1 | booting, Linux |
//! | FGT2 | HFGxTR2_EL2, HFGITR2_EL2, HDFGxTR2_EL2, in the same way | booting, Linux |
//! | AMU | HAFGRTR_EL2 0 (with FGT); AMCNTENSETx_EL0 all counters (*) | booting |
//! | SPE | MDCR_EL2 E2PB 0b11; PMSCR_EL2 PCT, PA unless PMBIDR_EL1.P | Linux: EL1's buffer, with physical addresses |
//! | TRBE | MDCR_EL2 E2TB 0b11 unless TRBIDR_EL1.P | Linux: the trace buffer is EL1's |
//! | TRF | TRFCR_EL2 0 (*) | no trace of EL2, timestamps as TRFCR_EL1 says |
//! | BRBE | BRBCR_EL2 CC, MPRED; HDFGxTR_EL2 nBRB*, HFGITR_EL2 nBRB* (+) | booting |
//! | PMU, its later parts | MDCR_EL2 MTPME, EnSPM, PMEE, PMSSE; HDFGxTR2_EL2 nPM*, nSPM* | PMUv3p9: booting; or traps |
//! | Debugv8p9, STEP2 | MDCR_EL2 EBWE, EnSTEPOP; HDFGxTR2_EL2 nMDSELR_EL1, nMDSTEPOP_EL1 | trap otherwise |
//! | LOR | LORC_EL1 0 | Linux: no limited ordering region |
//! | MPAM | MPAM2_EL2 EnMPAMSM, all else 0; MPAMHCR_EL2 0 if MPAMIDR_EL1 has it (+) | Linux: default partition |
//! | ECV | CNTHCTL_EL2 ECV 0; CNTPOFF_EL2 0 (*) | the physical counter without an offset |
//! | GICv3 CPU interface | ICC_SRE_EL2 Enable, DIB, DFB, SRE; ISB; ICH_HCR_EL2 0 | booting, Linux; the last needs SRE |
//! | GICv5 CPU interface | ICH_HFGRTR_EL2, ICH_HFGWTR_EL2, ICH_HFGITR_EL2, ICH_VCTLR_EL2 En | booting, Linux |
//!
//! With an EL3, firmware decides whether EL2 may touch a register of many of these at all, and a trap to EL3 this early
//! ends the machine without a word. Exeunt is to run on what the kernels that it boots run on, so it asks of firmware
//! no more than they do, and in their order ([`IdRegisters::can_read`]). Debian's 6.1 and 6.12 are what counts: of what
//! this table has they write, with an EL3, neither (*) nor (+).
//!
//! (*) Written only where there is no EL3: booting asks of firmware that it has initialised what it opens, and what it
//! keeps from EL2 it keeps from the host.
//!
//! (+) Where there is an EL3, written when a host asks for the unit ([`Unit`]), as later kernels than these do. No
//! silicon has seen this.
//!
//! What EL2 itself runs under is the caller's and `boot`'s, which makes TCR2_EL2 and SCTLR2_EL2 0 before the MMU goes
//! on.
//!
//! FEAT_TME, which the architecture has withdrawn, stays closed.

mod id;
mod register;
#[cfg(test)]
mod tests;
mod unit;
mod vhe;

pub use id::{Feature, IdRegister, IdRegisters};
pub use register::Register;
pub use unit::{Unit, Units, on_demand, open, shut, unlock};
pub use vhe::E2hProbe;

use crate::devicetree;

/// HCR_EL2 (Arm ARM D24.2).
pub mod hcr {
    /// Stage 2 translation.
    pub const VM: u64 = 1 << 0;
    /// DC ISW from EL1 cleans as well as invalidates.
    pub const SWIO: u64 = 1 << 1;
    /// SMC from EL1 traps.
    pub const TSC: u64 = 1 << 19;
    /// EL1 uses AArch64.
    pub const RW: u64 = 1 << 31;
    /// FEAT_VHE's layout of EL2. It is 0 wherever Exeunt runs.
    pub const E2H: u64 = 1 << 34;
    /// Pointer authentication keys do not trap.
    pub const APK: u64 = 1 << 40;
    /// Pointer authentication instructions do not trap.
    pub const API: u64 = 1 << 41;
    /// Fault injection registers of RAS do not trap.
    pub const FIEN: u64 = 1 << 47;
    /// SCXTNUM_EL1 and SCXTNUM_EL0 do not trap.
    pub const ENSCXT: u64 = 1 << 53;
    /// EL1 and EL0 may access allocation tags.
    pub const ATA: u64 = 1 << 56;
}

/// HCRX_EL2 (Arm ARM D24.2).
mod hcrx {
    pub const ENAS0: u64 = 1 << 0;
    pub const ENALS: u64 = 1 << 1;
    pub const ENASR: u64 = 1 << 2;
    pub const MSCEN: u64 = 1 << 11;
    pub const TCR2EN: u64 = 1 << 14;
    pub const SCTLR2EN: u64 = 1 << 15;
    pub const PTTWI: u64 = 1 << 16;
    pub const D128EN: u64 = 1 << 17;
    pub const ENIDCP128: u64 = 1 << 21;
    pub const GCSEN: u64 = 1 << 22;
    pub const ENFPM: u64 = 1 << 23;
    pub const PACMEN: u64 = 1 << 24;
    pub const SRMASKEN: u64 = 1 << 26;
}

/// CPTR_EL2 with HCR_EL2.E2H 0 (Arm ARM D24.2).
mod cptr {
    /// The bits that are RES1, with TZ and TSM, which are RES1 without their feature (Linux `CPTR_NVHE_EL2_RES1`).
    pub const RES1: u64 = 0x33ff;
    /// SVE traps.
    pub const TZ: u64 = 1 << 8;
    /// SME traps.
    pub const TSM: u64 = 1 << 12;
}

/// MDCR_EL2 (Arm ARM D24.2).
mod mdcr {
    /// The SPE buffer uses EL1's translation, and EL1 has the registers.
    pub const E2PB_EL1: u64 = 3 << 12;
    /// System PMU registers do not trap.
    pub const ENSPM: u64 = 1 << 15;
    /// The trace buffer uses EL1's translation, and EL1 has the registers.
    pub const E2TB_EL1: u64 = 3 << 24;
    /// Counting of multi-threaded events is not cut off here.
    pub const MTPME: u64 = 1 << 28;
    /// PMSSE 0b01: PMU snapshots are as PMECR_EL1.SSE says.
    pub const PMSSE_EL1: u64 = 1 << 30;
    /// PMEE 0b01: PMU exceptions are as PMECR_EL1.PMEE says.
    pub const PMEE_EL1: u64 = 1 << 40;
    /// Breakpoint and watchpoint banks are as MDSCR_EL1.EMBWE says.
    pub const EBWE: u64 = 1 << 43;
    /// MDSTEPOP_EL1 has effect.
    pub const ENSTEPOP: u64 = 1 << 50;
}

/// SCTLR_EL2.EnTP2 (Arm ARM D24.2): TPIDR2_EL0 does not trap. To be set with [`Feature::Sme`] (booting); the rest of
/// SCTLR_EL2 is the caller's, who runs under it.
pub const SCTLR_EL2_ENTP2: u64 = 1 << 60;

/// SCTLR_EL1 as the host finds it: bits 29 LSMAOE, 28 nTLSMD, 23 SPAN, 22 EIS, 20 TSCXT, 11 EOS, each of which is RES1
/// without its feature; all else 0, MMU and caches off (Linux `INIT_SCTLR_EL1_MMU_OFF`, with SPAN).
pub const SCTLR_EL1_AT_ENTRY: u64 = 0x30d0_0800;

/// CNTHCTL_EL2.EL1PCTEN and EL1PCEN: the physical counter and timer do not trap.
const CNTHCTL_EL1_TIMERS: u64 = 3;
/// ZCR_EL2.LEN and SMCR_EL2.LEN with the bits above that are kept for longer vectors: the longest that the CPU has.
const VECTOR_LENGTH_MAX: u64 = 0x1ff;
/// SMCR_EL2.EZT0.
const SMCR_EZT0: u64 = 1 << 30;
/// SMCR_EL2.FA64.
const SMCR_FA64: u64 = 1 << 31;
/// ICC_SRE_EL2 Enable, DIB, DFB and SRE (GIC architecture specification, IHI 0069).
pub const ICC_SRE_ALL: u64 = 0xf;
/// PMSCR_EL2.PCT = physical, PMSCR_EL2.PA.
const PMSCR_PHYSICAL: u64 = 1 << 6 | 1 << 4;
/// BRBCR_EL2.CC and MPRED.
const BRBCR_RECORD: u64 = 1 << 3 | 1 << 4;
/// MPAM2_EL2.EnMPAMSM: MPAMSM_EL1 does not trap.
const MPAM2_ENMPAMSM: u64 = 1 << 50;
/// MPAMIDR_EL1.HAS_HCR, bit 17: MPAMHCR_EL2 is there.
const MPAMIDR_HAS_HCR: u32 = 17;
/// AMCNTENSET0_EL0: the four counters that every AMU has.
const AMU_ARCHITECTED: u64 = 0xf;
/// ICH_VCTLR_EL2.En, as Linux sets it.
const ICH_VCTLR_EN: u64 = 1;
/// ICH_HFGRTR_EL2: every read that it can trap passes (booting); bit 3 is RES1.
const ICH_HFGRTR_PASS: u64 = 0x1f_00ff;
/// ICH_HFGWTR_EL2: every write that it can trap passes (booting).
const ICH_HFGWTR_PASS: u64 = 0x1e_0065;
/// ICH_HFGITR_EL2: every instruction that it can trap passes (booting).
const ICH_HFGITR_PASS: u64 = 0x7ff;

/// Bits of one register that go with a feature.
type Bits = &'static [(u64, Feature)];

const HCR: Bits = &[
    (hcr::APK | hcr::API, Feature::Pauth),
    (hcr::FIEN, Feature::Rasv1p1),
    (hcr::ENSCXT, Feature::Scxtnum),
    (hcr::ATA, Feature::Mte2),
];

const HCRX: Bits = &[
    (hcrx::ENALS, Feature::Ls64),
    (hcrx::ENASR, Feature::Ls64V),
    (hcrx::ENAS0, Feature::Ls64Accdata),
    (hcrx::MSCEN, Feature::Mops),
    (hcrx::TCR2EN, Feature::Tcr2),
    (hcrx::SCTLR2EN, Feature::Sctlr2),
    (hcrx::PTTWI, Feature::The),
    (hcrx::D128EN, Feature::D128),
    (hcrx::ENIDCP128, Feature::Sysreg128),
    (hcrx::GCSEN, Feature::Gcs),
    (hcrx::ENFPM, Feature::Fpmr),
    (hcrx::PACMEN, Feature::PauthLr),
    (hcrx::SRMASKEN, Feature::Srmask),
];

const MDCR: Bits = &[
    (mdcr::E2PB_EL1, Feature::Spe),
    (mdcr::E2TB_EL1, Feature::TrbeOwned),
    (mdcr::MTPME, Feature::Mtpmu),
    (mdcr::ENSPM, Feature::Spmu),
    (mdcr::PMSSE_EL1, Feature::Pmuv3Ss),
    (mdcr::PMEE_EL1, Feature::Ebep),
    (mdcr::EBWE, Feature::Debugv8p9),
    (mdcr::ENSTEPOP, Feature::Step2),
];

/// HFGRTR_EL2 and HFGWTR_EL2: their *n* bits are the same.
const HFGXTR: Bits = &[
    (1 << 63 | 1 << 62, Feature::Aie),   // nAMAIR2_EL1, nMAIR2_EL1
    (1 << 61, Feature::S2poe),           // nS2POR_EL1
    (1 << 60 | 1 << 59, Feature::S1poe), // nPOR_EL1, nPOR_EL0
    (1 << 58 | 1 << 57, Feature::S1pie), // nPIR_EL1, nPIRE0_EL1
    (1 << 56, Feature::The),             // nRCWMASK_EL1
    (1 << 55 | 1 << 54, Feature::Sme),   // nTPIDR2_EL0, nSMPRI_EL1
    (1 << 53 | 1 << 52, Feature::Gcs),   // nGCS_EL1, nGCS_EL0
    (1 << 50, Feature::Ls64Accdata),     // nACCDATA_EL1
];

const HFGITR: Bits = &[
    (1 << 59 | 1 << 58 | 1 << 57, Feature::Gcs), // nGCSEPP, nGCSSTR_EL1, nGCSPUSHM_EL1
    (1 << 56 | 1 << 55, Feature::Brbe),          // nBRBIALL, nBRBINJ
];

const HDFGRTR: Bits = &[
    (1 << 62, Feature::Spev1p2),                  // nPMSNEVFR_EL1
    (1 << 61 | 1 << 60 | 1 << 59, Feature::Brbe), // nBRBDATA, nBRBCTL, nBRBIDR
];

const HDFGWTR: Bits = &[
    (1 << 62, Feature::Spev1p2),        // nPMSNEVFR_EL1
    (1 << 61 | 1 << 60, Feature::Brbe), // nBRBDATA, nBRBCTL
];

const HFGRTR2: Bits = &[
    (0x7ff8, Feature::Srmask), // nACTLRALIAS_EL1 (14) to nCPACRMASK_EL1 (3)
    (1 << 2, Feature::The),    // nRCWSMASK_EL1
    (1 << 1, Feature::Rasv2),  // nERXGSR_EL1
    (1 << 0, Feature::Pfar),   // nPFAR_EL1
];

const HFGWTR2: Bits = &[
    (0x7ff8, Feature::Srmask), // nACTLRALIAS_EL1 (14) to nCPACRMASK_EL1 (3)
    (1 << 2, Feature::The),    // nRCWSMASK_EL1
    (1 << 0, Feature::Pfar),   // nPFAR_EL1
];

const HFGITR2: Bits = &[(1 << 1, Feature::Pops)]; // nDCCIVAPS

/// What HDFGRTR2_EL2 and HDFGWTR2_EL2 have in common.
const HDFGXTR2: Bits = &[
    (1 << 24, Feature::SpeNvm),             // nPMBMAR_EL1
    (1 << 23, Feature::Step2),              // nMDSTEPOP_EL1
    (1 << 22, Feature::TrbeMpam),           // nTRBMPAM_EL1
    (1 << 20, Feature::Ite),                // nTRCITECR_EL1
    (1 << 19, Feature::SpeFds),             // nPMSDSFR_EL1
    (0x1ff00, Feature::Spmu),               // nSPMSCR_EL1 (16) to nSPMEVCNTRn_EL0 (8)
    (1 << 7, Feature::Pmuv3Ss),             // nPMSSCR_EL1
    (1 << 5, Feature::Debugv8p9),           // nMDSELR_EL1
    (1 << 4, Feature::Pmuv3p9),             // nPMUACR_EL1
    (1 << 3 | 1 << 2, Feature::Pmuv3p9),    // nPMICFILTR_EL0, nPMICNTR_EL0: booting names them with PMUv3p9 ...
    (1 << 3 | 1 << 2, Feature::Pmuv3Icntr), // ... and they exist with PMUv3_ICNTR
    (1 << 1, Feature::Sebep),               // nPMIAR_EL1
    (1 << 0, Feature::Ebep),                // nPMECR_EL1, with either of two features
    (1 << 0, Feature::Pmuv3Ss),
];

/// HDFGRTR2_EL2 only: registers that cannot be written.
const HDFGRTR2: Bits = &[
    (1 << 18 | 1 << 17, Feature::Spmu), // nSPMDEVAFF_EL1, nSPMID
    (1 << 6, Feature::Pmuv3Ss),         // nPMSSDATA
];

/// HDFGWTR2_EL2 only: a register that cannot be read.
const HDFGWTR2: Bits = &[(1 << 21, Feature::Pmuv3p9)]; // nPMZR_EL0

fn bits(ids: &IdRegisters, table: Bits) -> u64 {
    table.iter().filter(|&&(_, feature)| ids.has(feature)).fold(0, |value, &(mask, _)| value | mask)
}

/// The bits of a register whose value is nothing but bits that go with features; of others none.
const fn table(register: Register) -> Bits {
    match register {
        Register::HcrxEl2 => HCRX,
        Register::HfgrtrEl2 | Register::HfgwtrEl2 => HFGXTR,
        Register::HfgitrEl2 => HFGITR,
        Register::HdfgrtrEl2 => HDFGRTR,
        Register::HdfgwtrEl2 => HDFGWTR,
        Register::Hfgrtr2El2 => HFGRTR2,
        Register::Hfgwtr2El2 => HFGWTR2,
        Register::Hfgitr2El2 => HFGITR2,
        _ => &[],
    }
}

/// HCR_EL2 while the host runs.
#[must_use]
pub fn hcr_el2(ids: &IdRegisters) -> u64 {
    hcr::VM | hcr::RW | hcr::TSC | hcr::SWIO | bits(ids, HCR)
}

/// What the CPU's GIC is, as the device tree says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv2, or a later one in its compatibility mode: the CPU interface is in memory, and ICC_SRE_EL2 is left alone,
    /// which firmware keeps at 0 for this mode (booting).
    V2,
    /// GICv3 or later: the CPU interface is in system registers.
    V3,
    /// One that Exeunt does not know, or that this CPU cannot use in the way that the device tree says. It is left
    /// alone.
    Other,
}

impl Gic {
    /// What it is to a CPU. A CPU without the interface in system registers cannot use a GICv3 (the field GIC of
    /// ID_AA64PFR0_EL1), and neither can one on which firmware keeps ICC_SRE_EL2.SRE at 0. `sre` sets ICC_SRE_EL2 to
    /// [`ICC_SRE_ALL`] and says whether SRE is 1 then, as Linux does before it touches any other register of the
    /// interface (`__init_el2_gicv3`).
    #[must_use]
    pub fn on(self, ids: &IdRegisters, sre: impl FnOnce() -> bool) -> Self {
        match self {
            Self::V3 if !ids.has(Feature::Gicv3) || !sre() => Self::Other,
            _ => self,
        }
    }
}

impl From<Option<devicetree::Gic>> for Gic {
    fn from(gic: Option<devicetree::Gic>) -> Self {
        match gic {
            Some(devicetree::Gic::V3) => Self::V3,
            Some(devicetree::Gic::V2(_)) => Self::V2,
            None => Self::Other,
        }
    }
}

/// One step of the set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// MSR.
    Write(Register, u64),
    /// ISB: what was written has effect for what follows.
    Isb,
}

/// Tells, step by step, what this CPU has to write before it enters the host at EL1; `step` does it. Every CPU, each
/// time that it comes up: with its own ID registers, and with VTTBR_EL2 and VTCR_EL2 set, because HCR_EL2, the last of
/// EL2's own, turns stage 2 on. The exception return into the host makes the last steps take effect.
///
/// A register is named only if the CPU has it and lets EL2 have it. `opened` are the units that the host has asked for
/// already: [`Units::NONE`] for one that begins.
pub fn set_up(ids: &IdRegisters, gic: Gic, opened: Units, mut step: impl FnMut(Step)) {
    // Behind a pointer, or else each of the many steps would become a copy of what the caller does with it.
    steps(ids, gic, opened, &mut step);
}

fn steps(ids: &IdRegisters, gic: Gic, opened: Units, step: &mut dyn FnMut(Step)) {
    use Register as R;
    let has = |feature| ids.has(feature);
    let mut write = |register, value| step(Step::Write(register, value));

    // The traps on the coprocessor-like units first: with them, writes below would trap to EL2 itself.
    write(R::CptrEl2, cptr_el2(ids));
    step(Step::Isb);
    let mut write = |register, value| step(Step::Write(register, value));
    if has(Feature::Sve) {
        write(R::ZcrEl2, VECTOR_LENGTH_MAX);
    }
    if has(Feature::Sme) {
        write(R::SmcrEl2, smcr_el2(ids));
    }
    if has(Feature::SmePriority) {
        write(R::SmprimapEl2, 0);
        write(R::SmpriEl1, 0);
    }
    if gic == Gic::V3 && has(Feature::Gicv3) {
        write(R::IccSreEl2, ICC_SRE_ALL);
        step(Step::Isb);
        step(Step::Write(R::IchHcrEl2, 0));
    }
    let mut write = |register, value| step(Step::Write(register, value));
    if has(Feature::Gicv5) {
        write(R::IchHfgitrEl2, ICH_HFGITR_PASS);
        write(R::IchHfgrtrEl2, ICH_HFGRTR_PASS);
        write(R::IchHfgwtrEl2, ICH_HFGWTR_PASS);
        write(R::IchVctlrEl2, ICH_VCTLR_EN);
    }
    set_up_traps(ids, opened, &mut write);
    set_up_units(ids, &mut write);

    write(R::SctlrEl1, SCTLR_EL1_AT_ENTRY);
    write(R::HcrEl2, hcr_el2(ids));
}

/// The controls that decide what traps.
fn set_up_traps(ids: &IdRegisters, opened: Units, write: &mut dyn FnMut(Register, u64)) {
    use Register as R;
    let of_table = |register| bits(ids, table(register)) & !shut(ids, opened, register);
    if ids.has(Feature::Hcx) {
        write(R::HcrxEl2, of_table(R::HcrxEl2));
    }
    write(R::MdcrEl2, ids.event_counters() | bits(ids, MDCR));
    write(R::HstrEl2, 0);
    write(R::VpidrEl2, ids.get(IdRegister::Midr));
    write(R::VmpidrEl2, ids.get(IdRegister::Mpidr));
    write(R::CnthctlEl2, CNTHCTL_EL1_TIMERS);
    if ids.has(Feature::Fgt) {
        for register in [R::HfgrtrEl2, R::HfgwtrEl2, R::HfgitrEl2, R::HdfgrtrEl2, R::HdfgwtrEl2] {
            write(register, of_table(register));
        }
        if ids.has(Feature::Amu) {
            write(R::HafgrtrEl2, 0);
        }
    }
    if ids.has(Feature::Fgt2) {
        for register in [R::Hfgrtr2El2, R::Hfgwtr2El2, R::Hfgitr2El2] {
            write(register, of_table(register));
        }
        write(R::Hdfgrtr2El2, bits(ids, HDFGXTR2) | bits(ids, HDFGRTR2));
        write(R::Hdfgwtr2El2, bits(ids, HDFGXTR2) | bits(ids, HDFGWTR2));
    }
}

/// Timers, profiling and the rest: values that must not be what a reset or firmware left.
fn set_up_units(ids: &IdRegisters, write: &mut dyn FnMut(Register, u64)) {
    use Register as R;
    write(R::CntvoffEl2, 0);
    write(R::CnthpCtlEl2, 0);
    if ids.has(Feature::Ras) {
        write(R::VsesrEl2, 0);
    }
    if ids.has(Feature::SpeOwned) {
        write(R::PmscrEl2, PMSCR_PHYSICAL);
    }
    if ids.has(Feature::Brbe) && !Unit::Brbe.waits(ids) {
        write(R::BrbcrEl2, BRBCR_RECORD);
    }
    if ids.has(Feature::Lor) {
        write(R::LorcEl1, 0);
    }
    if ids.has(Feature::Mpam) && !Unit::Mpam.waits(ids) {
        write(R::Mpam2El2, mpam2_el2(ids));
        if ids.get(IdRegister::Mpamidr) >> MPAMIDR_HAS_HCR & 1 != 0 {
            write(R::MpamhcrEl2, 0);
        }
    }
    if ids.has(Feature::Tcr2) {
        write(R::Tcr2El1, 0);
    }
    if ids.has(Feature::El3) {
        return;
    }
    // Registers for which EL3 has a control of its own, see the end of the table above.
    if ids.has(Feature::Gcs) {
        write(R::GcscrEl2, 0);
        write(R::GcscrEl1, 0);
        write(R::Gcscre0El1, 0);
    }
    if ids.has(Feature::Sctlr2) {
        write(R::Sctlr2El1, 0);
    }
    if ids.has(Feature::Trf) {
        write(R::TrfcrEl2, 0);
    }
    if ids.has(Feature::EcvPoff) {
        write(R::CntpoffEl2, 0);
    }
    if ids.has(Feature::Amu) {
        write(R::Amcntenset0El0, AMU_ARCHITECTED);
        let auxiliary = ids.auxiliary_activity_counters();
        if auxiliary > 0 {
            write(R::Amcntenset1El0, (1 << auxiliary.min(16)) - 1);
        }
    }
}

fn cptr_el2(ids: &IdRegisters) -> u64 {
    let (sve, sme) = (ids.has(Feature::Sve), ids.has(Feature::Sme));
    cptr::RES1 & !(if sve { cptr::TZ } else { 0 }) & !(if sme { cptr::TSM } else { 0 })
}

fn smcr_el2(ids: &IdRegisters) -> u64 {
    VECTOR_LENGTH_MAX
        | if ids.has(Feature::SmeFa64) { SMCR_FA64 } else { 0 }
        | if ids.has(Feature::Sme2) { SMCR_EZT0 } else { 0 }
}

fn mpam2_el2(ids: &IdRegisters) -> u64 {
    if ids.has(Feature::Sme) { MPAM2_ENMPAMSM } else { 0 }
}
