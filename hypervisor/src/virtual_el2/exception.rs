//! Exceptions that virtual EL2 takes to itself, and its exception returns.
//!
//! Owns both as computations on PSTATE. In hardware virtual EL2 runs at EL0: everything in PSTATE is as EL2's would be,
//! except M, which only Exeunt sees. Source: Arm ARM (DDI 0487), shared pseudocode `AArch64.TakeException`,
//! `IllegalExceptionReturn` and `SetPSTATEFromPSR`.

use crate::features::{Feature, IdRegister, IdRegisters};
use crate::inject::{self, Exception, Origin, SCTLR_SPAN, pstate};
use crate::syndrome::{EC_SHIFT, Esr, ExceptionClass, FaultKind, IL, ISS_MASK};

/// M\[4:0\] of EL2 with SP_EL0.
pub const EL2T: u64 = 0b01000;
/// M\[4:0\] of EL2 with SP_EL2.
pub const EL2H: u64 = 0b01001;
/// M\[4:0\] of AArch32's User mode.
const USER: u64 = 0b10000;
/// HCR_EL2.TGE: exceptions of EL1 go to EL2, and there is no EL1 to return to.
pub const HCR_TGE: u64 = 1 << 27;
/// GCSCR_EL2.EXLOCKEN, bit 6.
const GCSCR_EXLOCKEN: u64 = 1 << 6;

/// What virtual EL2 takes to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The instruction is undefined.
    Undefined,
    /// HVC with its immediate: EL2 may call itself.
    Hvc(u16),
    /// Stage 2 refuses the access, or Exeunt does: a synchronous external abort, as if the bus had no such address.
    Outside {
        /// ESR_EL2.
        esr: Esr,
        /// FAR_EL2.
        far: u64,
    },
    /// The exception belongs to the host, which has caused it and would have got it from the CPU.
    Own {
        /// ESR_EL2.
        esr: Esr,
        /// FAR_EL2, if the exception has written it.
        far: Option<u64>,
    },
}

impl Cause {
    /// What ESR_EL2 says of a class that is not emulated. Classes of instructions that only EL0 is kept from, or that a
    /// trap of Exeunt's stops, are undefined.
    #[must_use]
    pub fn of(esr: Esr, far: u64) -> Self {
        use ExceptionClass as Class;
        match esr.class() {
            Some(Class::InstructionAbortLower | Class::DataAbortLower) => {
                match esr.abort().map(|abort| abort.fault().kind) {
                    // What stage 2 reports. With stage 1 off, an address size fault means an address that is not there
                    // either.
                    Some(
                        FaultKind::Translation
                        | FaultKind::AccessFlag
                        | FaultKind::Permission
                        | FaultKind::AddressSize
                        | FaultKind::ExclusiveOrAtomic,
                    ) => Self::Outside { esr, far },
                    _ => Self::Own { esr, far: esr.has_far().then_some(far) },
                }
            }
            Some(
                Class::BranchTarget
                | Class::IllegalState
                | Class::Svc64
                | Class::PointerAuthFailure
                | Class::PcAlignment
                | Class::SpAlignment
                | Class::MemoryCopy
                | Class::FloatingPoint64
                | Class::GuardedControlStack
                | Class::BreakpointLower
                | Class::SoftwareStepLower
                | Class::WatchpointLower
                | Class::Brk64,
            ) => Self::Own { esr, far: esr.has_far().then_some(far) },
            _ => Self::Undefined,
        }
    }
}

/// Virtual EL2's registers that decide what an exception looks like.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// PSTATE, with M as virtual EL2 sees it.
    pub pstate: u64,
    /// The preferred return address.
    pub pc: u64,
    /// VBAR_EL2.
    pub vbar: u64,
    /// SCTLR_EL2.
    pub sctlr: u64,
    /// SCTLR2_EL2, 0 without FEAT_SCTLR2.
    pub sctlr2: u64,
    /// GCSCR_EL2, 0 without FEAT_GCS.
    pub gcscr: u64,
}

/// How virtual EL2 looks at its vector's first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2, if this exception writes it.
    pub far: Option<u64>,
    /// SPSR_EL2.
    pub spsr: u64,
    /// ELR_EL2.
    pub elr: u64,
    /// The new PC.
    pub pc: u64,
    /// The new PSTATE, with M of EL2h.
    pub pstate: u64,
}

/// Takes an exception from virtual EL2 to virtual EL2, as [`inject::take_exception`] does from EL1 to EL1: the
/// arithmetic is the same except for M, and for PSTATE.PAN, which an exception to an EL2 without FEAT_VHE leaves alone.
#[must_use]
pub fn take(ids: &IdRegisters, state: &State, cause: Cause) -> Taken {
    let origin = Origin {
        spsr: state.pstate,
        pc: state.pc,
        vbar: state.vbar,
        sctlr: state.sctlr | SCTLR_SPAN,
        sctlr2: state.sctlr2,
        gcscr: state.gcscr,
    };
    let exception = match cause {
        Cause::Undefined | Cause::Hvc(_) => Exception::Undefined,
        Cause::Outside { esr, far } | Cause::Own { esr, far: Some(far) } => match esr.abort() {
            Some(abort) => Exception::Abort { abort, far, stage1_level: None },
            None => Exception::Undefined,
        },
        Cause::Own { esr, far: None } => match esr.abort() {
            Some(abort) => Exception::Abort { abort, far: 0, stage1_level: None },
            None => Exception::Undefined,
        },
    };
    let entry = inject::take_exception(&origin, ids.pstate(), exception);
    let (esr, far) = match cause {
        Cause::Undefined | Cause::Outside { .. } => (entry.esr_el1, entry.far_el1),
        Cause::Hvc(immediate) => ((ExceptionClass::Hvc64 as u64) << EC_SHIFT | IL | u64::from(immediate), None),
        Cause::Own { esr, far } => (same_level(esr), far),
    };
    Taken {
        esr,
        far,
        spsr: entry.spsr_el1,
        elr: entry.elr_el1,
        pc: entry.pc,
        pstate: entry.pstate & !pstate::MODE_MASK | EL2H,
    }
}

/// Takes the synchronous exception of EL1 that `esr` tells of to virtual EL2. `state` has PSTATE and PC as EL1 left
/// them, M included.
#[must_use]
pub fn take_from_el1(ids: &IdRegisters, state: &State, esr: Esr) -> Taken {
    // A vector of the group for lower levels, as from EL0. SPSR_EL2 has what hardware has put there.
    let lower = State { pstate: state.pstate & !pstate::MODE_MASK | pstate::EL0T, ..*state };
    let taken = take(ids, &lower, Cause::Undefined);
    Taken { esr: esr.bits(), spsr: state.pstate, ..taken }
}

/// The syndrome of an exception that did not change the Exception level: the aborts and the debug exceptions, which
/// have two classes each, get the other one, whose number is one more.
fn same_level(esr: Esr) -> u64 {
    use ExceptionClass as Class;
    let lower = matches!(
        esr.class(),
        Some(
            Class::InstructionAbortLower
                | Class::DataAbortLower
                | Class::BreakpointLower
                | Class::SoftwareStepLower
                | Class::WatchpointLower
        )
    );
    let class = u64::from(esr.class_bits()) + u64::from(lower);
    class << EC_SHIFT | esr.bits() & (IL | ISS_MASK) | u64::from(esr.iss2()) << 32
}

/// Where an exception return of virtual EL2 goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Virtual EL2 again.
    El2 {
        /// With SP_EL2, not SP_EL0.
        sp_el2: bool,
    },
    /// EL1 or EL0, in hardware.
    Native,
    /// EL1 in AArch32, or EL0 below virtual EL2 (HCR_EL2.TGE): legal, and more than Exeunt does.
    Unsupported,
    /// Nowhere: the return is illegal.
    Illegal,
}

/// Looks at SPSR_EL2 as `IllegalExceptionReturn` does. `now` is the current PSTATE, `hcr` and `gcscr` are virtual EL2's
/// HCR_EL2 and GCSCR_EL2.
#[must_use]
pub fn target(ids: &IdRegisters, spsr: u64, now: u64, hcr: u64, gcscr: u64) -> Target {
    // ID_AA64PFR0_EL1 EL0, bits [3:0], and EL1, bits [7:4]: 2 has AArch32 too.
    let pfr0 = ids.get(IdRegister::Pfr0);
    let (el0_has_aarch32, el1_has_aarch32) = (pfr0 & 0xf == 2, pfr0 >> 4 & 0xf == 2);
    // HCR_EL2.RW is RAO/WI where EL1 has no AArch32.
    let el1_is_aarch64 = hcr & crate::features::hcr::RW != 0 || !el1_has_aarch32;
    let tge = hcr & HCR_TGE != 0;
    match spsr & pstate::MODE_MASK {
        // With EXLOCKEN, a return to the same level is legal only while ELR and SPSR are locked since the exception.
        EL2T | EL2H if ids.has(Feature::Gcs) && gcscr & GCSCR_EXLOCKEN != 0 && now & pstate::EXLOCK == 0 => {
            Target::Illegal
        }
        mode @ (EL2T | EL2H) => Target::El2 { sp_el2: mode == EL2H },
        pstate::EL1T | pstate::EL1H | pstate::EL0T if el1_is_aarch64 && !tge => Target::Native,
        pstate::EL0T if tge => Target::Unsupported,
        USER if el0_has_aarch32 && el1_is_aarch64 && !tge => Target::Native,
        USER if el0_has_aarch32 => Target::Unsupported,
        // FIQ, IRQ, Supervisor, Abort, Undefined and System are EL1's in AArch32; Monitor and Hyp are not.
        0b10001 | 0b10010 | 0b10011 | 0b10111 | 0b11011 | 0b11111 if !el1_is_aarch64 && !tge => Target::Unsupported,
        _ => Target::Illegal,
    }
}

/// PSTATE after an illegal exception return: IL is set, the Exception level and the stack pointer stay, the flags, the
/// interrupt masks and PAN come from SPSR_EL2. Fields that become UNKNOWN stay; EXLOCK becomes 1.
#[must_use]
pub const fn illegal_return(ids: &IdRegisters, spsr: u64, now: u64) -> u64 {
    let mut restored = pstate::NZCV | pstate::DAIF;
    if ids.has(Feature::Pan) {
        restored |= pstate::PAN;
    }
    if ids.has(Feature::Nmi) {
        restored |= pstate::ALLINT;
    }
    let locked = if ids.has(Feature::Gcs) { pstate::EXLOCK } else { 0 };
    // No debug exception targets an Exception level from itself here: SS becomes 0.
    now & !(restored | pstate::SS) | spsr & restored | pstate::IL | locked
}
