//! What a CPU says of itself: its ID registers, and the features that they tell of.
//!
//! Owns the list of registers that have to be read, with their encodings, and where in them each feature is found. The
//! values come from whoever can execute MRS. Fields and the features that they tell of: Arm ARM (DDI 0487L.a), D24.2.

use crate::inject::PstateFeatures;
use crate::syndrome::encoded_enum;

/// Calls the macro `$callback` with every ID register, as `Name, "words", op0, op1, CRn, CRm, op2;`. With it the EL2
/// binary makes its MRS instructions, and this file its enum, out of the same list.
#[macro_export]
macro_rules! id_registers {
    ($callback:ident) => {
        $callback! {
            Midr, "MIDR_EL1", 3, 0, 0, 0, 0;
            Mpidr, "MPIDR_EL1", 3, 0, 0, 0, 5;
            Pfr0, "ID_AA64PFR0_EL1", 3, 0, 0, 4, 0;
            Pfr1, "ID_AA64PFR1_EL1", 3, 0, 0, 4, 1;
            Pfr2, "ID_AA64PFR2_EL1", 3, 0, 0, 4, 2;
            Smfr0, "ID_AA64SMFR0_EL1", 3, 0, 0, 4, 5;
            Dfr0, "ID_AA64DFR0_EL1", 3, 0, 0, 5, 0;
            Dfr1, "ID_AA64DFR1_EL1", 3, 0, 0, 5, 1;
            Dfr2, "ID_AA64DFR2_EL1", 3, 0, 0, 5, 2;
            Isar1, "ID_AA64ISAR1_EL1", 3, 0, 0, 6, 1;
            Isar2, "ID_AA64ISAR2_EL1", 3, 0, 0, 6, 2;
            Mmfr0, "ID_AA64MMFR0_EL1", 3, 0, 0, 7, 0;
            Mmfr1, "ID_AA64MMFR1_EL1", 3, 0, 0, 7, 1;
            Mmfr2, "ID_AA64MMFR2_EL1", 3, 0, 0, 7, 2;
            Mmfr3, "ID_AA64MMFR3_EL1", 3, 0, 0, 7, 3;
            Mmfr4, "ID_AA64MMFR4_EL1", 3, 0, 0, 7, 4;
            Smidr, "SMIDR_EL1", 3, 1, 0, 0, 6;
            Pmcr, "PMCR_EL0", 3, 3, 9, 12, 0;
            Pmbidr, "PMBIDR_EL1", 3, 0, 9, 10, 7;
            Pmsidr, "PMSIDR_EL1", 3, 0, 9, 9, 7;
            Trbidr, "TRBIDR_EL1", 3, 0, 9, 11, 7;
            Mpamidr, "MPAMIDR_EL1", 3, 0, 10, 4, 4;
            Amcgcr, "AMCGCR_EL0", 3, 3, 13, 2, 2;
        }
    };
}

macro_rules! id_register_enum {
    ($($rows:tt)*) => {
        encoded_enum! {
            /// A register that tells what the CPU has, in the order in which they can be read: one that comes with a
            /// feature after the one that tells of it. Those of the ID space (op0 3, op1 0, CRn 0) are there on every
            /// CPU and read as zero where the architecture had not defined them yet; the others come with a feature.
            IdRegister: $($rows)*
        }
    };
}

id_registers!(id_register_enum);

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A feature that EL2 has to open for the host, or that decides which registers there are.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Feature {
            $($(#[$doc])* $name,)*
        }

        impl Feature {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

features! {
    /// EL3 is there, and with it controls that EL2 cannot see.
    El3,
    /// FEAT_SVE.
    Sve,
    /// FEAT_SME.
    Sme,
    /// FEAT_SME2: the register ZT0.
    Sme2,
    /// FEAT_SME_FA64: all of A64 in streaming mode.
    SmeFa64,
    /// SMIDR_EL1.SMPS: streaming mode priorities.
    SmePriority,
    /// Pointer authentication, by any algorithm (FEAT_PAuth).
    Pauth,
    /// FEAT_PAuth_LR.
    PauthLr,
    /// FEAT_MTE: the instructions and PSTATE.TCO.
    Mte,
    /// FEAT_MTE2: tags in memory.
    Mte2,
    /// FEAT_MOPS.
    Mops,
    /// FEAT_LS64.
    Ls64,
    /// FEAT_LS64_V.
    Ls64V,
    /// FEAT_LS64_ACCDATA.
    Ls64Accdata,
    /// FEAT_GCS.
    Gcs,
    /// FEAT_FPMR.
    Fpmr,
    /// FEAT_THE.
    The,
    /// FEAT_RAS.
    Ras,
    /// FEAT_RASv1p1.
    Rasv1p1,
    /// FEAT_RASv2.
    Rasv2,
    /// FEAT_PFAR.
    Pfar,
    /// FEAT_DoubleFault2.
    DoubleFault2,
    /// FEAT_CSV2_2 or FEAT_CSV2_1p2: SCXTNUM_ELx.
    Scxtnum,
    /// FEAT_SSBS.
    Ssbs,
    /// FEAT_NMI.
    Nmi,
    /// FEAT_PAN.
    Pan,
    /// FEAT_LOR.
    Lor,
    /// FEAT_HCX: HCRX_EL2.
    Hcx,
    /// FEAT_FGT.
    Fgt,
    /// FEAT_FGT2.
    Fgt2,
    /// FEAT_ECV_POFF: CNTPOFF_EL2.
    EcvPoff,
    /// FEAT_TCR2.
    Tcr2,
    /// FEAT_SCTLR2.
    Sctlr2,
    /// FEAT_S1PIE.
    S1pie,
    /// FEAT_S1POE.
    S1poe,
    /// FEAT_S2POE.
    S2poe,
    /// FEAT_AIE.
    Aie,
    /// FEAT_D128.
    D128,
    /// FEAT_SYSREG128.
    Sysreg128,
    /// FEAT_SRMASK.
    Srmask,
    /// FEAT_PoPS.
    Pops,
    /// FEAT_AMUv1.
    Amu,
    /// FEAT_MPAM, of any version.
    Mpam,
    /// The GIC's CPU interface in system registers, version 3 or 4.
    Gicv3,
    /// FEAT_GCIE: the CPU interface of GICv5.
    Gicv5,
    /// FEAT_PMUv3.
    Pmuv3,
    /// FEAT_PMUv3p9.
    Pmuv3p9,
    /// FEAT_PMUv3_ICNTR.
    Pmuv3Icntr,
    /// FEAT_PMUv3_SS.
    Pmuv3Ss,
    /// FEAT_MTPMU, with MDCR_EL2.MTPME.
    Mtpmu,
    /// FEAT_SEBEP.
    Sebep,
    /// FEAT_EBEP.
    Ebep,
    /// PSTATE.PM exists: FEAT_EBEP, FEAT_SPE_EXC or FEAT_TRBE_EXC.
    ProfilingMask,
    /// FEAT_SPMU.
    Spmu,
    /// FEAT_SPE.
    Spe,
    /// FEAT_SPE and its buffer is not EL3's (PMBIDR_EL1.P).
    SpeOwned,
    /// FEAT_SPEv1p2, with which PMSNEVFR_EL1 comes.
    Spev1p2,
    /// FEAT_SPE_FDS.
    SpeFds,
    /// FEAT_SPE_nVM.
    SpeNvm,
    /// FEAT_TRBE.
    Trbe,
    /// FEAT_TRBE and its buffer is not EL3's (TRBIDR_EL1.P).
    TrbeOwned,
    /// FEAT_TRBE_MPAM.
    TrbeMpam,
    /// FEAT_TRF.
    Trf,
    /// FEAT_ITE.
    Ite,
    /// FEAT_BRBE.
    Brbe,
    /// FEAT_Debugv8p9.
    Debugv8p9,
    /// FEAT_STEP2.
    Step2,
}

/// Bits in a word of [`IdRegisters::features`].
const WORD: usize = u64::BITS as usize;

/// The values of a CPU's ID registers, and the features that they tell of, each found once. Each CPU has its own: CPUs
/// of one machine may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRegisters {
    values: [u64; IdRegister::ALL.len()],
    /// A bit for each [`Feature`], by its number.
    features: [u64; Feature::ALL.len().div_ceil(WORD)],
}

impl IdRegisters {
    /// Of a CPU that was not asked yet.
    pub const UNKNOWN: Self =
        Self { values: [0; IdRegister::ALL.len()], features: [0; Feature::ALL.len().div_ceil(WORD)] };

    /// Reads them, those that come with a feature only if [`Self::can_read`] says so. The others are 0.
    pub fn read(read: impl FnMut(IdRegister) -> u64) -> Self {
        let mut ids = Self::UNKNOWN;
        ids.learn(read);
        ids
    }

    /// The same, in place.
    pub fn learn(&mut self, mut read: impl FnMut(IdRegister) -> u64) {
        *self = Self::UNKNOWN;
        for &register in IdRegister::ALL {
            if self.can_read(register) {
                self.values[register as usize] = read(register);
            }
        }
        for &feature in Feature::ALL {
            if self.find(feature) {
                self.features[feature as usize / WORD] |= 1 << (feature as usize % WORD);
            }
        }
    }

    /// Whether they were read: bit 31 of MPIDR_EL1 is set on every CPU.
    #[must_use]
    pub const fn are_known(&self) -> bool {
        self.get(IdRegister::Mpidr) != 0
    }

    /// Whether the CPU has the register and lets EL2 read it, by those that stand before it in the list.
    ///
    /// EL3 may keep a unit to itself, and a read at EL2 that it traps ends the machine without a word. So nothing is
    /// read that Linux does not read too, on its own way through EL2: SPE's buffer says whose it is (PMBIDR_EL1.P)
    /// before any other register of SPE is touched, and with an EL3 the registers of MPAM and of the activity monitors
    /// are left alone.
    #[must_use]
    pub const fn can_read(&self, register: IdRegister) -> bool {
        match register {
            IdRegister::Smidr => self.find(Feature::Sme),
            IdRegister::Pmcr => self.find(Feature::Pmuv3),
            IdRegister::Pmbidr => self.find(Feature::Spe),
            IdRegister::Pmsidr => self.find(Feature::SpeOwned),
            IdRegister::Trbidr => self.find(Feature::Trbe),
            IdRegister::Mpamidr => self.find(Feature::Mpam) && !self.find(Feature::El3),
            IdRegister::Amcgcr => self.find(Feature::Amu) && !self.find(Feature::El3),
            _ => true,
        }
    }

    /// Whether the CPU has this feature.
    #[must_use]
    pub const fn has(&self, feature: Feature) -> bool {
        self.features[feature as usize / WORD] >> (feature as usize % WORD) & 1 != 0
    }

    /// One register's value.
    #[must_use]
    pub const fn get(&self, register: IdRegister) -> u64 {
        self.values[register as usize]
    }

    /// A field of four bits.
    const fn field(&self, register: IdRegister, shift: u32) -> u64 {
        self.get(register) >> shift & 0xf
    }

    /// Whether a field of four bits has at least this value; the field is unsigned.
    const fn at_least(&self, register: IdRegister, shift: u32, value: u64) -> bool {
        self.field(register, shift) >= value
    }

    const fn bit(&self, register: IdRegister, bit: u32) -> bool {
        self.get(register) >> bit & 1 != 0
    }

    /// ID_AA64DFR0_EL1.PMUVer is at least this; 0b1111 is IMPLEMENTATION DEFINED and no PMUv3.
    const fn pmu_at_least(&self, version: u64) -> bool {
        let pmu = self.field(IdRegister::Dfr0, 8);
        pmu != 0xf && pmu >= version
    }

    /// Looks for a feature in the registers.
    const fn find(&self, feature: Feature) -> bool {
        use Feature as F;
        use IdRegister::{
            Dfr0, Dfr1, Dfr2, Isar1, Isar2, Mmfr0, Mmfr1, Mmfr3, Mmfr4, Pfr0, Pfr1, Pfr2, Pmbidr, Pmsidr, Smfr0, Smidr,
            Trbidr,
        };
        match feature {
            F::El3 => self.at_least(Pfr0, 12, 1),
            F::Gicv3 => self.at_least(Pfr0, 24, 1),
            F::Ras => self.at_least(Pfr0, 28, 1),
            F::Rasv1p1 => self.at_least(Pfr0, 28, 2) || (self.find(F::Ras) && self.at_least(Pfr1, 12, 1)),
            F::Rasv2 => self.at_least(Pfr0, 28, 3),
            F::Sve => self.at_least(Pfr0, 32, 1),
            F::Mpam => self.at_least(Pfr0, 40, 1) || self.at_least(Pfr1, 16, 1),
            F::Amu => self.at_least(Pfr0, 44, 1),
            F::Scxtnum => self.at_least(Pfr0, 56, 2) || (self.at_least(Pfr0, 56, 1) && self.at_least(Pfr1, 32, 2)),
            F::Ssbs => self.at_least(Pfr1, 4, 1),
            F::Mte => self.at_least(Pfr1, 8, 1),
            F::Mte2 => self.at_least(Pfr1, 8, 2),
            F::Sme => self.at_least(Pfr1, 24, 1),
            F::Sme2 => self.at_least(Pfr1, 24, 2),
            F::SmeFa64 => self.find(F::Sme) && self.bit(Smfr0, 63),
            F::SmePriority => self.find(F::Sme) && self.bit(Smidr, 15),
            F::Nmi => self.at_least(Pfr1, 36, 1),
            F::Gcs => self.at_least(Pfr1, 44, 1),
            F::The => self.at_least(Pfr1, 48, 1),
            F::DoubleFault2 => self.at_least(Pfr1, 56, 1),
            F::Pfar => self.at_least(Pfr1, 60, 1),
            F::Gicv5 => self.at_least(Pfr2, 12, 1),
            F::Fpmr => self.at_least(Pfr2, 32, 1),
            F::Pmuv3 => self.pmu_at_least(1),
            F::Pmuv3p9 => self.pmu_at_least(9),
            F::Pmuv3Ss => self.at_least(Dfr0, 16, 1),
            F::Sebep => self.at_least(Dfr0, 24, 1),
            F::Spe => self.at_least(Dfr0, 32, 1),
            F::SpeOwned => self.find(F::Spe) && !self.bit(Pmbidr, 4),
            F::Spev1p2 => self.at_least(Dfr0, 32, 3),
            F::SpeFds => self.find(F::Spe) && self.bit(Pmsidr, 7),
            F::Trf => self.at_least(Dfr0, 40, 1),
            F::Trbe => self.at_least(Dfr0, 44, 1),
            F::TrbeOwned => self.find(F::Trbe) && !self.bit(Trbidr, 4),
            F::TrbeMpam => self.find(F::Trbe) && self.find(F::Mpam) && self.at_least(Trbidr, 12, 1),
            F::Mtpmu => self.field(Dfr0, 48) == 1,
            F::Brbe => self.at_least(Dfr0, 52, 1),
            F::Debugv8p9 => self.at_least(Dfr0, 0, 11),
            F::Spmu => self.at_least(Dfr1, 32, 1),
            F::Pmuv3Icntr => self.at_least(Dfr1, 36, 1),
            F::Ite => self.at_least(Dfr1, 44, 1),
            F::Ebep => self.at_least(Dfr1, 48, 1),
            F::Step2 => self.at_least(Dfr2, 0, 1),
            F::SpeNvm => self.at_least(Dfr2, 20, 1),
            F::ProfilingMask => self.find(F::Ebep) || self.at_least(Dfr2, 16, 1) || self.at_least(Dfr2, 24, 1),
            F::Pauth => self.at_least(Isar1, 4, 1) || self.at_least(Isar1, 8, 1) || self.at_least(Isar2, 12, 1),
            F::PauthLr => self.at_least(Isar1, 4, 6) || self.at_least(Isar1, 8, 6) || self.at_least(Isar2, 12, 6),
            F::Ls64 => self.at_least(Isar1, 60, 1),
            F::Ls64V => self.at_least(Isar1, 60, 2),
            F::Ls64Accdata => self.at_least(Isar1, 60, 3),
            F::Mops => self.at_least(Isar2, 16, 1),
            F::Sysreg128 => self.at_least(Isar2, 32, 1),
            F::Fgt => self.at_least(Mmfr0, 56, 1),
            F::Fgt2 => self.at_least(Mmfr0, 56, 2),
            F::EcvPoff => self.at_least(Mmfr0, 60, 2),
            F::Lor => self.at_least(Mmfr1, 16, 1),
            F::Pan => self.at_least(Mmfr1, 20, 1),
            F::Hcx => self.at_least(Mmfr1, 40, 1),
            F::Tcr2 => self.at_least(Mmfr3, 0, 1),
            F::Sctlr2 => self.at_least(Mmfr3, 4, 1),
            F::S1pie => self.at_least(Mmfr3, 8, 1),
            F::S1poe => self.at_least(Mmfr3, 16, 1),
            F::S2poe => self.at_least(Mmfr3, 20, 1),
            F::Aie => self.at_least(Mmfr3, 24, 1),
            F::D128 => self.at_least(Mmfr3, 32, 1),
            F::Pops => self.at_least(Mmfr4, 0, 1),
            F::Srmask => self.at_least(Mmfr4, 44, 1),
        }
    }

    /// PMCR_EL0.N, bits \[15:11\]: how many event counters there are.
    #[must_use]
    pub const fn event_counters(&self) -> u64 {
        self.get(IdRegister::Pmcr) >> 11 & 0x1f
    }

    /// AMCGCR_EL0.CG1NC, bits \[15:8\]: how many auxiliary activity monitor counters there are.
    #[must_use]
    pub const fn auxiliary_activity_counters(&self) -> u64 {
        self.get(IdRegister::Amcgcr) >> 8 & 0xff
    }

    /// The PSTATE fields that an exception entry sets on this CPU.
    #[must_use]
    pub const fn pstate(&self) -> PstateFeatures {
        PstateFeatures {
            pan: self.has(Feature::Pan),
            ssbs: self.has(Feature::Ssbs),
            mte: self.has(Feature::Mte),
            nmi: self.has(Feature::Nmi),
            gcs: self.has(Feature::Gcs),
            profiling: self.has(Feature::ProfilingMask),
            double_fault2: self.has(Feature::DoubleFault2),
        }
    }
}
