//! The entry to an exception at EL1 that Exeunt causes, computed as hardware would do it.
//!
//! Owns the arithmetic: registers in, registers out. It reads and writes no register; [`crate::trap`] asks for the
//! values and the EL2 binary stores them. Source: Arm ARM (DDI 0487), shared pseudocode `AArch64.TakeException`,
//! `AArch64.Abort` and `AArch64.Undefined`; layouts of SPSR_EL1 and ESR_EL1 from the registers' own pages.

use crate::syndrome::{
    Abort, EC_SHIFT, ExceptionClass, FaultKind, IL, ISS_CM, ISS_FNV, ISS_FSC_MASK, ISS_WNR, ISS2_GCS,
};

/// PSTATE as SPSR_ELx holds it (Arm ARM, "SPSR_EL1"). Where the layouts of AArch32 and AArch64 differ, the name says
/// so.
pub mod pstate {
    /// M\[4:0\]: the mode; bit 4 set means AArch32.
    pub const MODE_MASK: u64 = 0x1f;
    /// M\[4\]: AArch32.
    pub const NRW: u64 = 1 << 4;
    /// M\[3:2\]: the Exception level, in AArch64.
    pub const EL_MASK: u64 = 3 << 2;
    /// M\[4:0\] of EL0.
    pub const EL0T: u64 = 0b00000;
    /// M\[4:0\] of EL1 with SP_EL0.
    pub const EL1T: u64 = 0b00100;
    /// M\[4:0\] of EL1 with SP_EL1.
    pub const EL1H: u64 = 0b00101;
    /// M\[0\]: SP_ELx and not SP_EL0, in AArch64.
    pub const SP: u64 = 1;
    /// AArch32: T32 instructions.
    pub const A32_T: u64 = 1 << 5;
    /// F, I, A, D: the interrupt masks and, for D, the mask of debug exceptions.
    pub const DAIF: u64 = 0xf << 6;
    /// IRQs alone.
    pub const I: u64 = 1 << 7;
    /// BTYPE\[11:10\], in AArch64 (FEAT_BTI).
    pub const BTYPE: u64 = 3 << 10;
    /// SSBS, in AArch64 (FEAT_SSBS).
    pub const SSBS: u64 = 1 << 12;
    /// ALLINT, in AArch64 (FEAT_NMI).
    pub const ALLINT: u64 = 1 << 13;
    /// IL: illegal execution state.
    pub const IL: u64 = 1 << 20;
    /// SS: software step.
    pub const SS: u64 = 1 << 21;
    /// PAN (FEAT_PAN).
    pub const PAN: u64 = 1 << 22;
    /// UAO, in AArch64 (FEAT_UAO).
    pub const UAO: u64 = 1 << 23;
    /// DIT (FEAT_DIT).
    pub const DIT: u64 = 1 << 24;
    /// TCO, in AArch64 (FEAT_MTE).
    pub const TCO: u64 = 1 << 25;
    /// N, Z, C, V: the condition flags.
    pub const NZCV: u64 = 0xf << 28;
    /// PM, in AArch64 (FEAT_EBEP, FEAT_SPE_EXC, FEAT_TRBE_EXC): masks PMU profiling exceptions.
    pub const PM: u64 = 1 << 32;
    /// PPEND, in AArch64 (FEAT_SEBEP).
    pub const PPEND: u64 = 1 << 33;
    /// EXLOCK, in AArch64 (FEAT_GCS).
    pub const EXLOCK: u64 = 1 << 34;
    /// PACM, in AArch64 (FEAT_PAuth_LR).
    pub const PACM: u64 = 1 << 35;
    /// IT\[1:0\], in AArch32.
    pub const A32_IT_LOW: u64 = 3 << 25;
    /// IT\[7:2\], in AArch32.
    pub const A32_IT_HIGH: u64 = 0x3f << 10;
}

/// SCTLR_EL1.SPAN, bit 23: clear means that an exception to EL1 sets PSTATE.PAN.
pub const SCTLR_SPAN: u64 = 1 << 23;
/// SCTLR_EL1.DSSBS, bit 44: the value of PSTATE.SSBS at an exception to EL1.
pub const SCTLR_DSSBS: u64 = 1 << 44;
/// SCTLR_EL1.SPINTMASK, bit 62: set means that an exception to EL1 leaves PSTATE.ALLINT clear.
pub const SCTLR_SPINTMASK: u64 = 1 << 62;
/// SCTLR2_EL1.EASE, bit 5: synchronous external aborts go to the SError vector (FEAT_DoubleFault2).
pub const SCTLR2_EASE: u64 = 1 << 5;
/// GCSCR_EL1.EXLOCKEN, bit 6: an exception from EL1 to EL1 sets PSTATE.EXLOCK (FEAT_GCS).
pub const GCSCR_EXLOCKEN: u64 = 1 << 6;

/// From a vector's group to its SError entry (Arm ARM, table "Vector offsets from vector table base address").
const VECTOR_SERROR: u64 = 0x180;

/// The PSTATE fields that exist on this CPU, as far as an exception entry sets them. Found by
/// [`crate::features::IdRegisters::pstate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "one per feature, each found by itself")]
pub struct PstateFeatures {
    /// FEAT_PAN: PSTATE.PAN.
    pub pan: bool,
    /// FEAT_SSBS: PSTATE.SSBS.
    pub ssbs: bool,
    /// FEAT_MTE: PSTATE.TCO.
    pub mte: bool,
    /// FEAT_NMI: PSTATE.ALLINT.
    pub nmi: bool,
    /// FEAT_GCS: PSTATE.EXLOCK.
    pub gcs: bool,
    /// FEAT_EBEP, FEAT_SPE_EXC or FEAT_TRBE_EXC: PSTATE.PM.
    pub profiling: bool,
    /// FEAT_DoubleFault2: SCTLR2_EL1.EASE.
    pub double_fault2: bool,
}

/// The host's registers that decide what an exception to EL1 looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// SPSR_EL2: the PSTATE that trapped.
    pub spsr: u64,
    /// The instruction to which the exception belongs: its preferred return address.
    pub pc: u64,
    /// VBAR_EL1.
    pub vbar: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// SCTLR2_EL1, 0 if the CPU has none (FEAT_SCTLR2).
    pub sctlr2: u64,
    /// GCSCR_EL1, 0 if the CPU has none (FEAT_GCS).
    pub gcscr: u64,
}

/// An exception that Exeunt takes to EL1 in the host's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// The instruction is undefined.
    Undefined,
    /// An access outside what the host owns.
    Abort {
        /// What ESR_EL2 said.
        abort: Abort,
        /// FAR_EL2.
        far: u64,
        /// If the fault was on an access of a stage 1 walk: at which level that access was, -1 to 3. The syndrome does
        /// not tell, its level is the one of stage 2; a walk of the host's tables does ([`crate::paging`]). `None` is
        /// taken for 3, the one level that a walk of every granule and every size has.
        stage1_level: Option<i8>,
    },
    /// An SError with this syndrome, now, whether PSTATE.A masks it or not ([`crate::panic_request`]). ELR_EL1 is the
    /// instruction that would have been next.
    SError {
        /// ESR_EL1.
        esr: u64,
    },
}

/// What the CPU looks like at the first instruction of the host's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// ELR_EL1.
    pub elr_el1: u64,
    /// SPSR_EL1.
    pub spsr_el1: u64,
    /// ESR_EL1.
    pub esr_el1: u64,
    /// FAR_EL1, if this exception writes it.
    pub far_el1: Option<u64>,
    /// The new PC, for ELR_EL2.
    pub pc: u64,
    /// The new PSTATE, for SPSR_EL2.
    pub pstate: u64,
}

/// Whether this PSTATE is EL0's, in either execution state.
#[must_use]
pub const fn is_el0(spsr: u64) -> bool {
    // With EL1 using AArch64, the only AArch32 state below EL2 is EL0's.
    spsr & pstate::NRW != 0 || spsr & pstate::EL_MASK == 0
}

/// Takes `exception` to EL1, as `AArch64.TakeException` does.
///
/// SPSR_EL1 is SPSR_EL2 bit for bit: both are copies of the same PSTATE, and FEAT_NV, which would change one, is never
/// on. PSTATE.SS was in it when the CPU trapped, so that a step of the instruction stays in order. BTYPE stays in
/// SPSR_EL1 (the Arm ARM leaves that open for these classes), it is 0 in the new PSTATE.
#[must_use]
pub const fn take_exception(origin: &Origin, features: PstateFeatures, exception: Exception) -> Entry {
    let el0 = is_el0(origin.spsr);
    let (esr_el1, far_el1, to_serror) = match exception {
        // "An exception reported using EC value 0b000000" always has IL set, however long the instruction was.
        Exception::Undefined => ((ExceptionClass::Unknown as u64) << EC_SHIFT | IL, None, false),
        Exception::Abort { abort, far, stage1_level } => {
            let to_serror = features.double_fault2 && origin.sctlr2 & SCTLR2_EASE != 0;
            (abort_syndrome(abort, el0, stage1_level), Some(far), to_serror)
        }
        // An SError leaves FAR_EL1 UNKNOWN: as it was is one of the ways.
        Exception::SError { esr } => (esr, None, true),
    };
    let group = if origin.spsr & pstate::NRW != 0 {
        0x600
    } else if el0 {
        0x400
    } else if origin.spsr & pstate::SP != 0 {
        0x200
    } else {
        0
    };
    let offset = group + if to_serror { VECTOR_SERROR } else { 0 };
    Entry {
        elr_el1: origin.pc,
        spsr_el1: origin.spsr,
        esr_el1,
        far_el1,
        // VBAR_EL1[10:0] are RES0: whatever stands there, the table is 2 KiB aligned.
        pc: (origin.vbar & !0x7ff) | offset,
        pstate: entry_pstate(origin, features, el0),
    }
}

/// The PSTATE that an exception to EL1 with AArch64 begins with.
const fn entry_pstate(origin: &Origin, features: PstateFeatures, el0: bool) -> u64 {
    // Flags and DIT live through an exception and have the same place in both layouts. IL, SS, UAO, BTYPE, PPEND and
    // PACM become 0, and with AArch32 also everything that AArch64 does not know.
    let mut new = origin.spsr & (pstate::NZCV | pstate::DIT);
    new |= pstate::DAIF | pstate::EL1H;
    if features.pan && (origin.spsr & pstate::PAN != 0 || origin.sctlr & SCTLR_SPAN == 0) {
        new |= pstate::PAN;
    }
    if features.ssbs && origin.sctlr & SCTLR_DSSBS != 0 {
        new |= pstate::SSBS;
    }
    if features.mte {
        new |= pstate::TCO;
    }
    if features.nmi && origin.sctlr & SCTLR_SPINTMASK == 0 {
        new |= pstate::ALLINT;
    }
    if features.profiling {
        new |= pstate::PM;
    }
    if features.gcs && !el0 && origin.gcscr & GCSCR_EXLOCKEN != 0 {
        new |= pstate::EXLOCK;
    }
    new
}

/// ESR_EL1 for an abort that stage 2 caused, as if the bus had answered with an external abort.
///
/// From ESR_EL2 stay CM, WnR and the GCS bit of ISS2: they describe the access. ISV and the fields that it makes valid
/// are 0, as for every external abort at EL1; S1PTW and the level of stage 2 mean nothing to EL1; EA and SET are 0 (no
/// IMPLEMENTATION DEFINED type, recoverable); FnV is 0, FAR is valid, except for a real external abort that said
/// otherwise. An exclusive or atomic access that the memory does not support keeps its own code, so that the kernel can
/// tell it from a bad address.
const fn abort_syndrome(abort: Abort, el0: bool, stage1_level: Option<i8>) -> u64 {
    let class = match (abort.is_instruction(), el0) {
        (true, true) => ExceptionClass::InstructionAbortLower,
        (true, false) => ExceptionClass::InstructionAbortSame,
        (false, true) => ExceptionClass::DataAbortLower,
        (false, false) => ExceptionClass::DataAbortSame,
    };
    let kept = if abort.is_instruction() { 0 } else { abort.bits() & (ISS_CM | ISS_WNR | ISS2_GCS) };
    let kept = kept | if abort.far_not_valid() && !abort.on_stage1_walk() { ISS_FNV } else { 0 };
    (class as u64) << EC_SHIFT | IL | kept | fault_status(abort, stage1_level)
}

const fn fault_status(abort: Abort, stage1_level: Option<i8>) -> u64 {
    if abort.on_stage1_walk() {
        // 0b010011 is level -1, 0b010100 to 0b010111 are levels 0 to 3.
        let level = match stage1_level {
            Some(level) if level >= -1 && level <= 3 => level,
            _ => 3,
        };
        return (0x14 + level as i64).cast_unsigned();
    }
    match abort.fault().kind {
        FaultKind::ExclusiveOrAtomic => abort.bits() & ISS_FSC_MASK,
        _ => 0x10,
    }
}

/// Moves a trapped instruction's PC and PSTATE past it, as if it had been executed: PC by its length, PSTATE.BTYPE and
/// SS to 0, and the IT state of AArch32 one on. Returns the new PC and PSTATE.
#[must_use]
pub const fn skip_instruction(pc: u64, spsr: u64, is_32bit: bool) -> (u64, u64) {
    let next = pc.wrapping_add(if is_32bit { 4 } else { 2 });
    // A step counts the instruction as done: the step exception is due before the next.
    let spsr = spsr & !pstate::SS;
    if spsr & pstate::NRW == 0 {
        return (next, spsr & !pstate::BTYPE);
    }
    // Arm ARM, pseudocode AArch32.ITAdvance.
    let it = (spsr & pstate::A32_IT_HIGH) >> 8 | (spsr & pstate::A32_IT_LOW) >> 25;
    let it = if it.trailing_zeros() >= 3 { 0 } else { it & 0xe0 | (it << 1) & 0x1f };
    let spsr = spsr & !(pstate::A32_IT_HIGH | pstate::A32_IT_LOW) | (it & 0xfc) << 8 | (it & 3) << 25;
    (next & 0xffff_ffff, spsr)
}

/// [`skip_instruction`] for an instruction of A64, which the caller knows it to be.
#[must_use]
#[inline]
pub const fn skip_a64(pc: u64, spsr: u64) -> (u64, u64) {
    (pc.wrapping_add(4), spsr & !(pstate::SS | pstate::BTYPE))
}

#[cfg(test)]
mod tests;
