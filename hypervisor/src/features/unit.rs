//! Units that firmware may keep to itself, and that stay shut until a host asks for them.
//!
//! Owns which register belongs to which of these units, what shuts one, and what EL2 writes to open it.
//!
//! Debian's 6.1 and 6.12 touch none of these at EL2. Firmware that has never heard of one lets its registers trap to
//! EL3 (MPAM3_EL3.TRAPLOWER, which resets to 1; MDCR_EL3.SBRBE, SCR_EL3.GCSEn and SCTLR2En, which are 0 unless somebody
//! sets them) and boots these kernels all the same. Later kernels write them on their way through EL2, and where
//! firmware does not let them, they die there.
//!
//! So with an EL3, nothing of a unit is touched before the host has asked: by an access to one of its registers, at
//! EL1, where it traps to EL2, or in virtual EL2. HCRX_EL2, HFGxTR_EL2, HFGITR_EL2 and HDFGxTR_EL2 trap all but MPAM's.
//! Those the bits of MPAM2_EL2 do, as firmware left them; where these do not trap, the host has EL1's registers of
//! MPAM, and EL2's are what a kernel finds that writes none.

use super::{BRBCR_RECORD, Bits, Feature, IdRegisters, MPAMIDR_HAS_HCR, Register, bits, mpam2_el2, table};
use crate::syndrome::Encoding;

/// One of these units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Unit {
    /// Branch records (FEAT_BRBE).
    Brbe,
    /// Guarded control stacks (FEAT_GCS).
    Gcs,
    /// Memory partitioning and monitoring (FEAT_MPAM).
    Mpam,
    /// SCTLR2_EL1 (FEAT_SCTLR2).
    Sctlr2,
}

impl Unit {
    /// Every one of them.
    pub const ALL: &[Self] = &[Self::Brbe, Self::Gcs, Self::Mpam, Self::Sctlr2];

    /// The unit that a register or system instruction belongs to: those of EL1 and EL0, and those of EL2 that Exeunt
    /// would write for the host.
    #[must_use]
    pub const fn of(access: Encoding) -> Option<Self> {
        match access {
            // BRBINF<n>_EL1, BRBSRC<n>_EL1, BRBTGT<n>_EL1; BRBCR_EL1, BRBFCR_EL1, BRBTS_EL1, the injection registers
            // and BRBIDR0_EL1; BRBCR_EL2; BRB IALL and BRB INJ.
            Encoding { op0: 2, op1: 1, crn: 8 | 9, .. }
            | Encoding { op0: 2, op1: 4, crn: 9, crm: 0, op2: 0 }
            | Encoding { op0: 1, op1: 1, crn: 7, crm: 2, op2: 4 | 5 } => Some(Self::Brbe),
            // GCSCR_EL1, GCSPR_EL1, GCSCRE0_EL1; GCSPR_EL0.
            Encoding { op0: 3, op1: 0, crn: 2, crm: 5, op2: 0..=2 }
            | Encoding { op0: 3, op1: 3, crn: 2, crm: 5, op2: 1 } => Some(Self::Gcs),
            // MPAMIDR_EL1 and MPAMBWIDR_EL1; MPAM1_EL1, MPAM0_EL1, MPAMSM_EL1 and their like for bandwidth; MPAM2_EL2.
            Encoding { op0: 3, op1: 0, crn: 10, crm: 4, op2: 4 | 5 }
            | Encoding { op0: 3, op1: 0, crn: 10, crm: 5, .. }
            | Encoding { op0: 3, op1: 4, crn: 10, crm: 5, op2: 0 } => Some(Self::Mpam),
            Encoding { op0: 3, op1: 0, crn: 1, crm: 0, op2: 3 } => Some(Self::Sctlr2),
            _ => None,
        }
    }

    /// The unit's name, for the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brbe => "branch records (BRBE)",
            Self::Gcs => "guarded control stacks (GCS)",
            Self::Mpam => "memory partitioning (MPAM)",
            Self::Sctlr2 => "SCTLR2_EL1",
        }
    }

    const fn feature(self) -> Feature {
        match self {
            Self::Brbe => Feature::Brbe,
            Self::Gcs => Feature::Gcs,
            Self::Mpam => Feature::Mpam,
            Self::Sctlr2 => Feature::Sctlr2,
        }
    }

    /// Whether the host can use it on this CPU as it is, so that EL1's registers of it can be looked at.
    #[must_use]
    pub const fn is_open(self, ids: &IdRegisters, opened: Units) -> bool {
        ids.has(self.feature()) && (!self.waits(ids) || opened.contains(self))
    }

    /// Whether this CPU has the unit, and it stays shut until a host asks for it.
    #[must_use]
    pub const fn waits(self, ids: &IdRegisters) -> bool {
        ids.has(self.feature()) && ids.has(Feature::El3)
    }
}

/// The units that a host has asked for on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units(u8);

impl Units {
    /// None.
    pub const NONE: Self = Self(0);
    /// All.
    pub const ALL: Self = Self(u8::MAX);

    /// Out of [`Self::to_bits`].
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// As a number, to be kept.
    #[must_use]
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// Whether this one is among them.
    #[must_use]
    pub const fn contains(self, unit: Unit) -> bool {
        self.0 >> unit as u8 & 1 != 0
    }

    /// These and one more.
    #[must_use]
    pub const fn with(self, unit: Unit) -> Self {
        Self(self.0 | 1 << unit as u8)
    }
}

/// The registers of EL2 that shut a unit: those whose whole value is a table's.
const TRAPS: &[Register] = &[
    Register::HcrxEl2,
    Register::HfgrtrEl2,
    Register::HfgwtrEl2,
    Register::HfgitrEl2,
    Register::HdfgrtrEl2,
    Register::HdfgwtrEl2,
];

/// The bits of a register that are 0 because a unit waits that the host has not asked for.
#[must_use]
#[inline]
pub fn shut(ids: &IdRegisters, opened: Units, register: Register) -> u64 {
    // Without EL3 nothing waits.
    if ids.has(Feature::El3) { shut_below_el3(ids, opened, register) } else { 0 }
}

#[inline(never)]
fn shut_below_el3(ids: &IdRegisters, opened: Units, register: Register) -> u64 {
    let of = |rows: Bits, feature| rows.iter().filter(move |row| row.1 == feature).fold(0, |all, row| all | row.0);
    Unit::ALL
        .iter()
        .filter(|unit| unit.waits(ids) && !opened.contains(**unit))
        .fold(0, |all, unit| all | of(table(register), unit.feature()))
}

/// Opens a unit that [waits](Unit::waits), for a host that has asked for it. `opened` has this one already. `mpamidr`
/// reads MPAMIDR_EL1; what `write` was told before has been written by then.
pub fn open(
    ids: &IdRegisters,
    unit: Unit,
    opened: Units,
    mpamidr: impl FnOnce() -> u64,
    mut write: impl FnMut(Register, u64),
) {
    // Behind a pointer: there are many writes.
    let write: &mut dyn FnMut(Register, u64) = &mut write;
    match unit {
        Unit::Brbe => write(Register::BrbcrEl2, BRBCR_RECORD),
        // The order is Linux's: what comes second is asked only of firmware that has opened the first.
        Unit::Mpam => {
            write(Register::Mpam2El2, mpam2_el2(ids));
            if mpamidr() >> MPAMIDR_HAS_HCR & 1 != 0 {
                write(Register::MpamhcrEl2, 0);
            }
        }
        // GCSCR_EL2, GCSCR_EL1, GCSCRE0_EL1 and SCTLR2_EL1 are what firmware has made them (booting).
        Unit::Gcs | Unit::Sctlr2 => {}
    }
    unlock_each(ids, opened, write);
}

/// Writes the registers that shut units, as they are when the host has asked for `opened`. With [`Units::ALL`] nothing
/// is shut: Exeunt leaves the CPU, and what answers traps there afterwards knows nothing of these.
pub fn unlock(ids: &IdRegisters, opened: Units, mut write: impl FnMut(Register, u64)) {
    unlock_each(ids, opened, &mut write);
}

#[inline(never)]
fn unlock_each(ids: &IdRegisters, opened: Units, write: &mut dyn FnMut(Register, u64)) {
    if !Unit::ALL.iter().any(|unit| unit.waits(ids)) {
        return;
    }
    for &register in TRAPS {
        let there = ids.has(if register == Register::HcrxEl2 { Feature::Hcx } else { Feature::Fgt });
        if there {
            write(register, bits(ids, table(register)) & !shut(ids, opened, register));
        }
    }
}

/// What the units' registers of EL2 get when a host writes them in virtual EL2, as far as they are not its own
/// business.
pub fn on_demand(ids: &IdRegisters, mut chosen: impl FnMut(Register, u64)) {
    if Unit::Brbe.waits(ids) {
        chosen(Register::BrbcrEl2, BRBCR_RECORD);
    }
    if Unit::Mpam.waits(ids) {
        chosen(Register::Mpam2El2, mpam2_el2(ids));
    }
}
