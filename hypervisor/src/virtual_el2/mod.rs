//! Virtual EL2: how an unmodified kernel sets up an EL2 that it does not have.
//!
//! With `entry=el2` the host's first instructions run at EL0, with HCR_EL2.TGE 1 and E2H 0: by architecture its stage 1
//! is then off, as it is for a kernel that was just entered at EL2, and stage 2 stays on. What EL0 may not do is
//! undefined or trapped there and comes to real EL2, where [`VirtualEl2::handle`] does what EL2 would have done. At its
//! exception return to EL1 the host leaves this window for good, and goes on in hardware.
//!
//! Owns the state of one CPU's virtual EL2, the decoding of instructions, the table of registers, and the exceptions
//! that virtual EL2 takes to itself. It executes no instruction on a register: [`Cpu`] does, and the EL2 binary
//! implements that.
//!
//! # What a register access does
//!
//! [`registers`] names every register with its encoding, and which CPUs have it. On others, and for all that it does
//! not name, the host gets an undefined instruction and there is a [`Note`] for the log; so it does where the CPU
//! refuses what the table says that it has. The policies:
//!
//! | registers | read | write |
//! |---|---|---|
//! | of EL2, *shadow* | what was written | kept, never reaches hardware |
//! | of EL2, *filtered* | what was written; at first what Exeunt has chosen | into hardware, with Exeunt's choice |
//! | HCR_EL2 | what was written, E2H 0 and, where EL1 has no AArch32, RW 1 | kept; FB, BSU count from the ERET on |
//! | SCTLR_EL2 | what was written, with M 0 | kept; A, SA, nAA, I, EE and the PAuth enables count at once |
//! | VBAR_EL2 | what was written, bits \[10:0\] 0 | kept: the place of the host's own vectors |
//! | ICC_SRE_EL2 | 0xf with a GICv3 that is used as one, else 0 | none |
//! | RMR_EL2, without EL3 | 1: AArch64 | none: nobody resets a CPU this way |
//! | of EL1, *borrowed* | what was written; at first what hardware had | kept, and into hardware at the ERET |
//! | all else of EL1 and EL0 | hardware | hardware |
//! | MIDR, MPIDR, and ID registers that come with a feature | the CPU's | undefined |
//! | the ID space | the CPU's, filtered by [`ids`] | undefined |
//! | CurrentEL, SPSel, DAIF, NZCV, PAN, UAO, DIT, SSBS, TCO, ALLINT, PM | virtual EL2's PSTATE | the same |
//! | \*_EL12, \*_EL02, \*_EL3; of FEAT_VHE, FEAT_NV2 and Secure EL2; the virtual GIC | undefined | undefined |
//!
//! - *Shadow*: ELR, SPSR, ESR, FAR, HPFAR, TPIDR, VTTBR, VTCR, TTBR0, TCR, MAIR, ACTLR, HACR, CNTHP_\*, ...
//! - *Filtered*: HFG\*, HDFG\*, HAFGRTR, HCRX, MDCR, CPTR, HSTR, CNTHCTL, CNTVOFF, VPIDR, VMPIDR, ZCR, SMCR, SMPRIMAP,
//!   PMSCR, BRBCR, TRFCR, MPAM2, ICH_HCR, ... Hardware gets what [`features::set_up`] chose,
//!   plus the bits that open something for the host and those that are its own business.
//! - *Borrowed*: SCTLR_EL1, CPACR_EL1, MDSCR_EL1, SP_EL0, ICC_PMR_EL1, ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL1, and on the
//!   detour of [`interrupts`] VBAR_EL1, ELR_EL1, SPSR_EL1, ESR_EL1, FAR_EL1. In the window they serve the trick itself.
//!
//! SCTLR_EL2.M reads as 0 because that is so: whoever turns the MMU of virtual EL2 on and looks, sees that it is off.
//! Linux turns it off at this point and never on; its test of SCTLR_EL2 tells it the truth. HCR_EL2.E2H is the same:
//! Linux tests it after it has written it.
//!
//! # What virtual EL2 cannot do
//!
//! - Take interrupts. Those that arrive in the window are held, by the GIC and, where that is not enough, by PSTATE
//!   ([`interrupts`]), SErrors by [`VirtualEl2::hold_serror`]. They reach EL1 after the exception return. For a kernel
//!   whose HCR_EL2 has IMO, FMO, AMO and TGE 0 that is what EL2 does: interrupts that target EL1 wait while EL2 runs. A
//!   CPU whose GIC Exeunt does not know has no virtual EL2 ([`crate::lifecycle::EntryLevel::on`]).
//! - Set breakpoints and watchpoints: their registers are not in the table.
//! - Turn on its stage 1 or FEAT_VHE, enter EL1 in AArch32, run programs at EL0 below itself, authenticate the address
//!   of ERETAA. It gets an undefined instruction, except for the first two, see above.

pub mod decode;
mod exception;
pub mod ids;
pub mod interrupts;
pub mod registers;
pub mod system;
#[cfg(test)]
mod tests;

use core::fmt;

use decode::{Field, Operation, Return};
use exception::{Cause, EL2H, EL2T, Taken, Target};
use interrupts::{Held, Interrupts};
use registers::{Access, El2, Policy, Register, Row};
use system::{Effect, Maintenance, SetWay};

use crate::features::{self, Feature, Gic, IdRegister, IdRegisters, Step, Unit, Units, hcr};
use crate::inject::{pstate, skip_instruction};
use crate::serror;
use crate::syndrome::{EC_SHIFT, Encoding, Esr, ExceptionClass, IL, ISS_CM, ISS_MASK, ISS_WNR};

/// HCR_EL2.TID3: reads of ID registers from EL1 trap.
pub const TID3: u64 = 1 << 18;

/// HCR_EL2 (Arm ARM D24.2), the fields that only matter here.
mod hcr_bits {
    /// TLB and instruction cache maintenance of EL1 is broadcast.
    pub const FB: u64 = 1 << 9;
    /// The least shareability of EL1's barriers.
    pub const BSU: u64 = 3 << 10;
    /// EL1's exceptions go to EL2; stage 1 of EL1&0 is off.
    pub const TGE: u64 = super::exception::HCR_TGE;
    /// HVC is undefined (without EL3).
    pub const HCD: u64 = 1 << 29;
}

/// SCTLR_EL1 and SCTLR_EL2 (Arm ARM D24.2).
mod sctlr {
    /// The MMU.
    pub const M: u64 = 1 << 0;
    /// Alignment checks.
    pub const A: u64 = 1 << 1;
    /// The stack pointer's alignment is checked.
    pub const SA: u64 = 1 << 3;
    /// SCTLR_EL1: ... EL0's.
    pub const SA0: u64 = 1 << 4;
    /// Unaligned accesses within 16 bytes work (FEAT_LSE2).
    pub const NAA: u64 = 1 << 6;
    /// SCTLR_EL1: EL0 may access DAIF.
    pub const UMA: u64 = 1 << 9;
    /// Instruction cache.
    pub const I: u64 = 1 << 12;
    /// SCTLR_EL1: EL0 may execute DC ZVA.
    pub const DZE: u64 = 1 << 14;
    /// SCTLR_EL1: EL0 may read CTR_EL0.
    pub const UCT: u64 = 1 << 15;
    /// SCTLR_EL1: WFE of EL0 does not trap. WFI does: with its interrupts held it might not wake.
    pub const NTWE: u64 = 1 << 18;
    /// SCTLR_EL1: EL0's data is big-endian.
    pub const E0E: u64 = 1 << 24;
    /// Data is big-endian.
    pub const EE: u64 = 1 << 25;
    /// SCTLR_EL1: EL0 may maintain caches by address.
    pub const UCI: u64 = 1 << 26;
    /// SCTLR_EL1: EL0 may use the instructions of FEAT_MOPS.
    pub const MSCEN: u64 = 1 << 33;
    /// EnIA, EnIB, EnDA, EnDB: pointer authentication; the keys are EL1's at every Exception level.
    pub const PAUTH: u64 = 1 << 31 | 1 << 30 | 1 << 27 | 1 << 13;
    /// EnIA.
    pub const EN_IA: u64 = 1 << 31;
    /// EnIB.
    pub const EN_IB: u64 = 1 << 30;
}

/// SCTLR_EL2 as virtual EL2 finds it: all off, and what is RES1 set (Linux `INIT_SCTLR_EL2_MMU_OFF`).
pub const SCTLR_EL2_AT_ENTRY: u64 = 0x30c5_0830;
/// TCR_EL2 with what is RES1.
const TCR_EL2_RES1: u64 = 1 << 31 | 1 << 23;
/// VTCR_EL2 with what is RES1.
const VTCR_EL2_RES1: u64 = 1 << 31;
/// CurrentEL: EL is bits \[3:2\].
const CURRENT_EL2: u64 = 2 << 2;
/// RMR_EL2.AA64.
const RMR_AA64: u64 = 1;
/// VBAR_EL2: bits \[10:0\] are RES0.
const VBAR_RES0: u64 = 0x7ff;
/// CPACR_EL1.FPEN, ZEN and SMEN: EL0 may use SIMD and floating point, SVE, SME.
const CPACR_FPEN: u64 = 3 << 20;
const CPACR_ZEN: u64 = 3 << 16;
const CPACR_SMEN: u64 = 3 << 24;
/// An instruction abort, translation fault.
const ABORT_OF_FETCH: u64 = (ExceptionClass::InstructionAbortLower as u64) << EC_SHIFT | IL | 0b000100;
/// A data abort of a cache maintenance instruction, translation fault.
const ABORT_OF_MAINTENANCE: u64 =
    (ExceptionClass::DataAbortLower as u64) << EC_SHIFT | IL | ISS_CM | ISS_WNR | 0b000100;

/// What all CPUs' virtual EL2 has in common, and what the CPU is.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The CPU's ID registers.
    pub ids: &'a IdRegisters,
    /// Its GIC.
    pub gic: Gic,
    /// The host finds no granule for stage 2, here and, by HCR_EL2.TID3, later.
    pub hide_stage2_granules: bool,
}

impl Settings<'_> {
    /// HCR_EL2 while the host is at EL1 or EL0 in hardware.
    #[must_use]
    pub fn native_hcr(&self) -> u64 {
        features::hcr_el2(self.ids) | if self.hide_stage2_granules { TID3 } else { 0 }
    }

    /// HCR_EL2 while the host is in virtual EL2.
    #[must_use]
    pub fn window_hcr(&self) -> u64 {
        self.native_hcr() | hcr_bits::TGE
    }
}

/// Why what the host wanted could not be done in its place at real EL2, where the access has caused an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The instruction is undefined, whatever the table believes of the CPU, or something traps it.
    Undefined,
    /// The memory is not there, or is not the host's RAM.
    NoMemory,
}

impl Refused {
    /// Tells from the syndrome of the exception at EL2.
    #[must_use]
    pub const fn of(esr: Esr) -> Self {
        match esr.class() {
            Some(ExceptionClass::DataAbortSame) => Self::NoMemory,
            _ => Self::Undefined,
        }
    }
}

/// The CPU that trapped, and what only instructions at EL2 can do.
///
/// Called for registers and instructions that [`registers`] and [`system`] say the CPU has, and for no other. ID
/// registers need not be right about that, and what EL3 traps may come back as undefined: where the answer can be
/// nothing, this is what it means, and the host gets an undefined instruction.
pub trait Cpu {
    /// x0 to x30 as the host had them.
    fn x(&self, number: u8) -> u64;
    /// Sets one of x0 to x30.
    fn set_x(&mut self, number: u8, value: u64);
    /// ELR_EL2.
    fn elr(&self) -> u64;
    /// SPSR_EL2.
    fn spsr(&self) -> u64;
    /// FAR_EL2.
    fn far(&self) -> u64;
    /// Sets ELR_EL2 and SPSR_EL2, to which the exception return goes.
    fn set_return(&mut self, elr: u64, spsr: u64);
    /// The instruction at a physical address of the host's RAM, four-byte aligned; nothing if it cannot be read there.
    fn fetch(&mut self, address: u64) -> Option<u32>;
    /// MRS.
    fn read(&mut self, register: Register) -> Option<u64>;
    /// MRS of `S3_0_C0_C<crm>_<op2>`, CRm 1 to 7.
    fn read_id(&mut self, crm: u8, op2: u8) -> u64;
    /// MSR. The exception return makes it take effect.
    fn write(&mut self, register: Register, value: u64) -> Option<()>;
    /// Whether the GIC is to hold interrupts in the window. Only tests go without, to see what becomes of those that it
    /// cannot hold.
    fn gic_holds(&self) -> bool;
    /// An address, a multiple of 2 KiB, at which stage 2 has nothing.
    fn void(&self) -> u64;
    /// GICC_PMR of a GICv2; nothing if there is none.
    fn gicc_pmr(&mut self) -> Option<u32>;
    /// Sets it. It has arrived at the GIC when this returns.
    fn set_gicc_pmr(&mut self, value: u32);
    /// The host asks for a unit that [waits](Unit::waits): opens it, if it is shut, and tells which are open.
    fn open(&mut self, unit: Unit) -> Units;
    /// The register with this number ([`registers::ENCODINGS`]) was accessed so many times.
    fn counted(&mut self, register: usize, accesses: u32);
    /// Takes back the virtual SError that is pending for the host at EL1, if one is.
    fn take_serror(&mut self) -> Option<Esr>;
    /// MSR of a register that [`features::set_up`] sets too, to a value under which Exeunt goes on running; without the
    /// bits that are [shut](features::shut).
    fn write_el2(&mut self, register: features::Register, value: u64) -> Option<()>;
    /// Cache or TLB maintenance, complete when this returns, and with it every earlier write of a register in effect
    /// (DSB, ISB).
    fn maintain(&mut self, instruction: Maintenance) -> Option<()>;
    /// Cache maintenance by set and way, with the operand of the instruction, complete (DSB) when this returns.
    fn maintain_set_way(&mut self, instruction: SetWay, operand: u64) -> Option<()>;
    /// DC CIVAC, or with `tags` DC CIGDVAC, of the line with this physical address, complete (DSB) when this returns.
    ///
    /// # Errors
    /// It is not in the host's RAM, or the access caused an exception.
    fn clean_and_invalidate(&mut self, address: u64, tags: bool) -> Result<(), Refused>;
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The host goes on in virtual EL2, at the return that was set: with the next instruction, or in a vector of its
    /// own.
    Continue,
    /// The host goes on in hardware, at the return that was set. All registers are as it wants them, HCR_EL2 included.
    GoNative {
        /// Where.
        pc: u64,
        /// With which PSTATE.
        pstate: u64,
    },
    /// An SMC with this immediate, the return set after it: the binary answers it as if it had come from EL1.
    Smc(u16),
    /// Virtual EL2 has an exception and no vectors: the host has not written VBAR_EL2. On hardware it would be lost
    /// too. The binary stops this CPU and says so.
    NoVectors {
        /// Where the host was.
        pc: u64,
        /// ESR_EL2, as virtual EL2 would have read it.
        esr: u64,
    },
}

/// Something that a person who reads the log should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A register or system instruction that virtual EL2 does not have.
    Unknown {
        /// How it is named.
        encoding: Encoding,
        /// MRS or SYSL, not MSR or SYS.
        is_read: bool,
    },
    /// An instruction that is undefined there.
    UndefinedInstruction(u32),
    /// The instruction could not be read.
    NoInstruction,
    /// An exception that virtual EL2 has caused.
    Exception(Esr),
    /// SCTLR_EL2.M was set, and stays 0.
    Stage1,
    /// HCR_EL2.E2H was set, and stays 0.
    Vhe,
    /// An exception return that virtual EL2 does not do, with this SPSR_EL2.
    UnsupportedReturn(u64),
    /// An illegal exception return, with this SPSR_EL2.
    IllegalReturn(u64),
    /// ERETAA or ERETAB with pointer authentication on.
    AuthenticatedReturn,
    /// RMR_EL2 was written.
    Reset,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNDEFINED: &str = "; it gets an undefined instruction";
        match *self {
            Self::Unknown { encoding, is_read } => {
                let verb = match (encoding.op0, is_read) {
                    (1, true) => "SYSL",
                    (1, false) => "SYS",
                    (_, true) => "a read of",
                    (_, false) => "a write to",
                };
                match registers::name(encoding) {
                    Some(name) => write!(f, "{verb} {name}, which virtual EL2 does not have{UNDEFINED}"),
                    None => write!(f, "{verb} {encoding}, which virtual EL2 does not know{UNDEFINED}"),
                }
            }
            Self::UndefinedInstruction(word) => write!(f, "instruction {word:#010x}{UNDEFINED}"),
            Self::NoInstruction => f.write_str("no instruction can be read there; it gets an external abort"),
            Self::Exception(esr) => write!(f, "{esr}; it takes the exception to itself"),
            Self::Stage1 => f.write_str("SCTLR_EL2.M is set; virtual EL2 has no stage 1, and M stays 0"),
            Self::Vhe => f.write_str("HCR_EL2.E2H is set; virtual EL2 has no FEAT_VHE, and E2H stays 0"),
            Self::UnsupportedReturn(spsr) => {
                write!(f, "exception return with SPSR_EL2 {spsr:#x}, which virtual EL2 cannot do{UNDEFINED}")
            }
            Self::IllegalReturn(spsr) => write!(f, "illegal exception return with SPSR_EL2 {spsr:#x}"),
            Self::AuthenticatedReturn => {
                write!(f, "exception return with an authenticated address, which virtual EL2 cannot do{UNDEFINED}")
            }
            Self::Reset => f.write_str("RMR_EL2 is written; nothing happens"),
        }
    }
}

/// An answer to a trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What happens next.
    pub outcome: Outcome,
    /// A line for the log.
    pub note: Option<Note>,
}

/// How one instruction ended.
enum Done {
    /// It is executed; the host goes on after it.
    Next,
    /// It is executed, and there is something to say.
    Noted(Note),
    /// It causes an exception to virtual EL2 itself.
    Take(Cause, Option<Note>),
    /// The outcome is settled, and so is the return.
    Settled(Answer),
}

/// The registers that serve the trick itself while the host is in virtual EL2, as the host wants them. Those that are
/// about interrupts are in [`Interrupts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Borrowed {
    sctlr_el1: u64,
    cpacr_el1: u64,
    mdscr_el1: u64,
    /// SP_EL0 or SP_EL2: the one that SPSel does not select. The other is in SP_EL0 in hardware.
    other_sp: u64,
}

/// The virtual EL2 of one CPU. Only that CPU uses it.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
#[allow(clippy::struct_excessive_bools, reason = "each says a thing of its own")]
pub struct VirtualEl2 {
    /// The values of [`El2`], in its order.
    values: [u64; El2::ALL.len()],
    /// What [`features::set_up`] has written to the filtered registers, or [`features::on_demand`] has for them, in the
    /// order of [`El2::filter`]; nothing for a register that neither knows on this CPU.
    chosen: [Option<u64>; registers::FILTERED],
    borrowed: Borrowed,
    interrupts: Interrupts,
    /// The host is in virtual EL2 now.
    in_window: bool,
    /// VBAR_EL2, once the host has written it or called SET_VECTORS.
    vectors: Option<u64>,
    /// The host's own stub: VBAR_EL2 as an instruction at virtual EL2 has written it, or as SET_VECTORS has put it
    /// back.
    stub: Option<u64>,
    /// [`Self::values`] and [`Self::chosen`] are those of the payload that runs here.
    is_set_up: bool,
    /// PSTATE.SP is 0. This way round, a CPU that was never in virtual EL2 is all zeroes, and takes no room in the
    /// image.
    sp_el0: bool,
    /// The note about SCTLR_EL2.M was given.
    noted_stage1: bool,
    /// The syndrome of the SErrors that arrived in the window.
    serror: Option<u64>,
    /// Reads of ID registers that HCR_EL2.TID3 has trapped since the window.
    id_reads: u16,
    /// Accesses to registers in this window, by their number, as far as nobody has been told.
    counts: [u8; registers::COUNTS],
}

impl VirtualEl2 {
    /// A CPU that was never in virtual EL2.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            values: [0; El2::ALL.len()],
            chosen: [None; registers::FILTERED],
            borrowed: Borrowed { sctlr_el1: 0, cpacr_el1: 0, mdscr_el1: 0, other_sp: 0 },
            interrupts: Interrupts::NONE,
            in_window: false,
            vectors: None,
            stub: None,
            is_set_up: false,
            sp_el0: false,
            noted_stage1: false,
            serror: None,
            id_reads: 0,
            counts: [0; registers::COUNTS],
        }
    }

    /// Counts an access to a register.
    #[inline]
    fn count(&mut self, cpu: &mut impl Cpu, number: usize) {
        let count = &mut self.counts[number % registers::COUNTS];
        *count = count.wrapping_add(1);
        if *count == 0 {
            cpu.counted(number, 1 << u8::BITS);
        }
    }

    /// Tells how often which register was accessed.
    fn tell_counts(&mut self, cpu: &mut impl Cpu) {
        for (chunk, counts) in self.counts.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // Most are none.
            if u64::from_ne_bytes(*counts) == 0 {
                continue;
            }
            for (index, count) in core::mem::take(counts).into_iter().enumerate().filter(|(_, count)| *count != 0) {
                cpu.counted(8 * chunk + index, count.into());
            }
        }
    }

    /// Whether the host is in virtual EL2, so that what it does at EL0 is EL2's.
    #[must_use]
    pub const fn in_window(&self) -> bool {
        self.in_window
    }

    /// The host's own vectors, once it has written VBAR_EL2.
    #[must_use]
    pub const fn vectors(&self) -> Option<u64> {
        self.vectors
    }

    /// Vectors that the host has installed by SET_VECTORS and that are not its own stub's.
    #[must_use]
    pub fn installed(&self) -> Option<u64> {
        self.vectors.filter(|_| self.vectors != self.stub)
    }

    /// Records vectors that the host has installed by SET_VECTORS, from EL1.
    ///
    /// The first ones replace its own stub for a while; the next ones, if they are others, are its own stub again,
    /// wherever that is now: Linux from 5.16 on gives EL2 back in this way when it resumes from hibernation, maybe to
    /// the stub of a kernel that lies elsewhere (`arch/arm64/kernel/hibernate-asm.S`).
    pub fn set_vectors(&mut self, address: u64) {
        let installed = self.installed();
        self.write_vectors(address);
        if installed.is_some() && installed != self.vectors {
            self.stub = self.vectors;
        }
    }

    /// VBAR_EL2 becomes `address`.
    const fn write_vectors(&mut self, address: u64) {
        let vectors = address & !VBAR_RES0;
        self.set(El2::Vbar, vectors);
        self.vectors = Some(vectors);
    }

    /// This CPU is under Exeunt again, and its host at EL1: whatever kernel that is, what another has set before is not
    /// its own.
    pub const fn come_back(&mut self) {
        self.in_window = false;
        self.is_set_up = false;
        self.forget_vectors();
    }

    /// Another payload has EL2 now: no vectors of the last one's are its own, should Exeunt come back under it.
    pub const fn forget_vectors(&mut self) {
        self.set(El2::Vbar, 0);
        self.vectors = None;
        self.stub = None;
    }

    /// A register as the host left it.
    #[must_use]
    pub const fn get(&self, register: El2) -> u64 {
        self.values[register as usize]
    }

    const fn set(&mut self, register: El2, value: u64) {
        self.values[register as usize] = value;
    }

    /// Counts a read of an ID register that HCR_EL2.TID3 has trapped at EL1, and says whether it was the last one that
    /// need be: then TID3 goes off on this CPU ([`ids::TRAPPED_READS`]).
    pub const fn count_id_read(&mut self) -> bool {
        self.id_reads = self.id_reads.saturating_add(1);
        self.id_reads >= ids::TRAPPED_READS
    }

    /// Begins a new virtual EL2 at `pc`, with everything masked and the MMU off, whatever was before.
    /// [`features::set_up`] is done; this changes HCR_EL2 and borrows the registers that the trick needs, whose values
    /// it takes from hardware: the CPU has just come up, or its host was at EL1. The general-purpose registers are the
    /// caller's.
    pub fn enter(&mut self, cpu: &mut impl Cpu, settings: &Settings, pc: u64) {
        // As a constant, so that it is not put together on the stack first.
        *self = const { Self::new() };
        self.set_up(settings);
        self.open(cpu, settings, 0);
        cpu.set_return(pc, pstate::DAIF | pstate::EL0T);
    }

    /// Takes the HVC of EL1 that `esr` tells of to the vectors that the host has installed by SET_VECTORS, as EL2
    /// would: they run in virtual EL2, until their exception return. `elr` and `spsr` of the CPU are what the call has
    /// left there.
    pub fn call(&mut self, cpu: &mut impl Cpu, settings: &Settings, esr: Esr) {
        if !self.is_set_up {
            self.set_up(settings);
        }
        let state = exception::State { pstate: cpu.spsr(), pc: cpu.elr(), ..self.state() };
        // It waits for EL1, and goes on waiting.
        self.serror = cpu.take_serror().map(|esr| esr.bits() & ISS_MASK);
        self.open(cpu, settings, self.borrowed.other_sp);
        let taken = exception::take_from_el1(settings.ids, &state, esr);
        self.arrive(cpu, &taken);
    }

    /// Ends a window that was opened by [`Self::call`], and whose vectors nobody can go on with: gives back what was
    /// borrowed, and tells where EL1 goes on, PC and PSTATE, if that is known. The vectors are forgotten. May be done
    /// again where it was not done to its end.
    pub fn abandon(&mut self, cpu: &mut impl Cpu, settings: &Settings) -> Option<(u64, u64)> {
        let (pc, spsr) = (self.get(El2::Elr), self.get(El2::Spsr));
        self.go_native(cpu, settings);
        self.forget_vectors();
        (spsr & pstate::MODE_MASK & !1 != EL2T).then_some((pc, spsr))
    }

    /// Gives the registers of EL2 the values that a payload finds at its entry. Those of its vectors stay.
    fn set_up(&mut self, settings: &Settings) {
        self.is_set_up = true;
        let vbar = self.get(El2::Vbar);
        self.values = const { [0; El2::ALL.len()] };
        self.chosen = const { [None; registers::FILTERED] };
        features::set_up(settings.ids, settings.gic, Units::NONE, |step| {
            if let Step::Write(written, value) = step {
                self.choose(written, value);
            }
        });
        // The host that writes one of these asks for it, and hardware gets it then.
        features::on_demand(settings.ids, |register, value| self.choose(register, value));
        self.set(El2::Vbar, vbar);
        self.set(El2::Sctlr, SCTLR_EL2_AT_ENTRY);
        self.set(El2::Hcr, hcr::RW);
        self.set(El2::Tcr, TCR_EL2_RES1);
        self.set(El2::Vtcr, VTCR_EL2_RES1);
        self.set(El2::Rmr, RMR_AA64);
    }

    /// Begins a window, with SP_EL2 selected: borrows the registers that the trick needs, whose values it takes from
    /// hardware, and changes HCR_EL2. Where the CPU goes on is the caller's.
    fn open(&mut self, cpu: &mut impl Cpu, settings: &Settings, sp_el2: u64) {
        self.in_window = true;
        self.sp_el0 = false;
        self.borrowed = Borrowed {
            sctlr_el1: borrow(cpu, Register::SctlrEl1),
            cpacr_el1: borrow(cpu, Register::CpacrEl1),
            mdscr_el1: borrow(cpu, Register::MdscrEl1),
            other_sp: borrow(cpu, Register::SpEl0),
        };
        cpu.write(Register::SctlrEl1, self.window_sctlr(settings));
        cpu.write(Register::CpacrEl1, window_cpacr(settings.ids));
        // No breakpoint, watchpoint or step of the host's EL0 may hit while something else runs there.
        cpu.write(Register::MdscrEl1, 0);
        self.interrupts = Interrupts::hold(cpu, settings);
        cpu.write(Register::SpEl0, sp_el2);
        cpu.write_el2(features::Register::HcrEl2, settings.window_hcr());
        // TGE is in no TLB (Arm ARM D24.2, HCR_EL2.TGE), but SCTLR_EL1 has bits that may be in one, and EL1 may have
        // had its MMU on.
        cpu.maintain(Maintenance::TlbiAlle1);
    }

    /// Takes what Exeunt has chosen for a register for what it holds when the host comes.
    fn choose(&mut self, chosen: features::Register, value: u64) {
        if let Some(Row::El2(register)) = registers::find(chosen.encoding()) {
            self.set(register, value);
            if let Some(slot) = register.filter() {
                self.chosen[slot] = Some(value);
            }
        }
    }

    /// The host accesses a register, and asks for its unit if there is one that waits. What was opened stays open.
    #[inline]
    fn ask(&mut self, cpu: &mut impl Cpu, settings: &Settings, register: Encoding) {
        // Without an EL3 none waits.
        if settings.ids.has(Feature::El3) {
            self.ask_for_unit(cpu, settings, register);
        }
    }

    #[inline(never)]
    fn ask_for_unit(&mut self, cpu: &mut impl Cpu, settings: &Settings, register: Encoding) {
        if let Some(unit) = Unit::of(register).filter(|unit| unit.waits(settings.ids)) {
            let opened = cpu.open(unit);
            features::unlock(settings.ids, opened, |register, value| {
                if let Some(Row::El2(register)) = registers::find(register.encoding())
                    && let Some(slot) = register.filter()
                {
                    self.chosen[slot] = Some(value);
                }
            });
        }
    }

    /// Keeps an SError that was taken to real EL2 in the window, where TGE routes it, until the host is at EL1. Several
    /// become one.
    pub const fn hold_serror(&mut self, esr: Esr) {
        let syndrome = esr.bits() & ISS_MASK;
        self.serror = Some(match self.serror {
            Some(held) => serror::merge(held, syndrome),
            None => syndrome,
        });
    }

    /// Answers an IRQ or FIQ that was taken to real EL2: in the window, where TGE routes it, it is held.
    pub fn hold_interrupt(&mut self, cpu: &mut impl Cpu, settings: &Settings) -> Held {
        if !self.in_window {
            return Held::Outside;
        }
        if !self.interrupts.came(cpu) {
            return Held::Again;
        }
        cpu.write(Register::SctlrEl1, self.window_sctlr(settings));
        cpu.write_el2(features::Register::HcrEl2, settings.native_hcr());
        // As at the window's beginning.
        cpu.maintain(Maintenance::TlbiAlle1);
        Held::Detour
    }

    /// Answers a synchronous exception from the host in virtual EL2.
    pub fn handle(&mut self, cpu: &mut impl Cpu, settings: &Settings, esr: Esr) -> Answer {
        // By number: to look for the class takes longer than to compare.
        const WFX: u8 = ExceptionClass::Wfx as u8;
        const UNKNOWN: u8 = ExceptionClass::Unknown as u8;
        const SYSTEM_REGISTER: u8 = ExceptionClass::SystemRegister as u8;
        let esr = if self.interrupts.are_quiet() { esr } else { self.interrupts.exception(cpu, esr) };
        let pc = cpu.elr();
        let done = match esr.class_bits() {
            WFX => Done::Next,
            UNKNOWN => self.execute_at(cpu, settings, pc),
            SYSTEM_REGISTER => match esr.system_access() {
                // QEMU 10.0 tells of an MSR (immediate) with op1 and op2 in each other's place.
                Some(access) if access.encoding().op0 == 0 => self.execute_at(cpu, settings, pc),
                Some(access) => self.execute(cpu, settings, decode::from_syndrome(access), Note::Exception(esr)),
                None => Done::Take(Cause::Undefined, Some(Note::Exception(esr))),
            },
            _ => Done::Take(Cause::of(esr, self.interrupts.far(cpu)), Some(Note::Exception(esr))),
        };
        match done {
            Done::Next => {
                step_over(cpu);
                Answer { outcome: Outcome::Continue, note: None }
            }
            Done::Noted(note) => {
                step_over(cpu);
                Answer { outcome: Outcome::Continue, note: Some(note) }
            }
            Done::Settled(answer) => answer,
            Done::Take(cause, note) => Answer { outcome: self.take(cpu, settings, cause, pc), note },
        }
    }

    /// Executes the instruction at `pc`, whatever its syndrome says.
    fn execute_at(&mut self, cpu: &mut impl Cpu, settings: &Settings, pc: u64) -> Done {
        match cpu.fetch(pc) {
            Some(word) => self.execute(cpu, settings, decode::decode(word), Note::UndefinedInstruction(word)),
            // The host has read what EL2 cannot: memory that is not its RAM, or that fails.
            None => Done::Take(Cause::Outside { esr: Esr::new(ABORT_OF_FETCH), far: pc }, Some(Note::NoInstruction)),
        }
    }

    /// Executes one instruction. `unknown` is what the log gets if it is none of virtual EL2's.
    fn execute(&mut self, cpu: &mut impl Cpu, settings: &Settings, operation: Operation, unknown: Note) -> Done {
        match operation {
            Operation::Read { register, rt } => match self.read(cpu, settings, register) {
                Some(value) => {
                    set_x(cpu, rt, value);
                    Done::Next
                }
                None => undefined(Note::Unknown { encoding: register, is_read: true }),
            },
            Operation::Write { register, rt } => {
                let value = x(cpu, rt);
                self.write(cpu, settings, register, value)
                    .unwrap_or_else(|| undefined(Note::Unknown { encoding: register, is_read: false }))
            }
            Operation::WriteField { field, immediate } => {
                if self.write_field(cpu, settings, field, immediate) {
                    Done::Next
                } else {
                    undefined(unknown)
                }
            }
            Operation::System { instruction, rt } => system_instruction(cpu, settings, instruction, rt),
            Operation::SystemRead { instruction, .. } => {
                undefined(Note::Unknown { encoding: instruction, is_read: true })
            }
            Operation::Return(kind) => self.exception_return(cpu, settings, kind, unknown),
            Operation::Hvc(_) if !settings.ids.has(Feature::El3) && self.get(El2::Hcr) & hcr_bits::HCD != 0 => {
                undefined(unknown)
            }
            Operation::Hvc(immediate) => {
                // An HVC is done when its exception is taken: the preferred return address is after it.
                step_over(cpu);
                let pc = cpu.elr();
                Done::Settled(Answer { outcome: self.take(cpu, settings, Cause::Hvc(immediate), pc), note: None })
            }
            Operation::Smc(immediate) => {
                step_over(cpu);
                Done::Settled(Answer { outcome: Outcome::Smc(immediate), note: None })
            }
            Operation::Other => undefined(unknown),
        }
    }

    /// PSTATE as virtual EL2 has it.
    fn pstate(&self, cpu: &impl Cpu) -> u64 {
        let pstate = self.interrupts.as_the_host_has_it(cpu.spsr());
        pstate & !pstate::MODE_MASK | if self.sp_el0 { EL2T } else { EL2H }
    }

    /// Goes on in virtual EL2 with this PC and PSTATE, M as virtual EL2 sees it.
    fn resume(&mut self, cpu: &mut impl Cpu, pc: u64, pstate: u64) {
        self.select_sp(cpu, pstate & pstate::SP != 0);
        cpu.set_return(pc, self.interrupts.for_hardware(pstate & !pstate::MODE_MASK | pstate::EL0T));
    }

    /// Writes PSTATE.SP: SP_EL0 in hardware becomes the stack pointer that it selects.
    fn select_sp(&mut self, cpu: &mut impl Cpu, sp_el2: bool) {
        if self.sp_el0 == sp_el2 {
            let selected = borrow(cpu, Register::SpEl0);
            cpu.write(Register::SpEl0, self.borrowed.other_sp);
            self.borrowed.other_sp = selected;
            self.sp_el0 = !sp_el2;
        }
    }

    /// Takes an exception to virtual EL2 itself, with this preferred return address.
    fn take(&mut self, cpu: &mut impl Cpu, settings: &Settings, cause: Cause, pc: u64) -> Outcome {
        let state = exception::State { pstate: self.pstate(cpu), pc, ..self.state() };
        let taken = exception::take(settings.ids, &state, cause);
        if self.vectors.is_none() {
            return Outcome::NoVectors { pc, esr: taken.esr };
        }
        self.arrive(cpu, &taken);
        Outcome::Continue
    }

    /// What an exception to virtual EL2 depends on, but for the PC and PSTATE that it comes from.
    const fn state(&self) -> exception::State {
        exception::State {
            pstate: 0,
            pc: 0,
            vbar: self.get(El2::Vbar),
            sctlr: self.get(El2::Sctlr),
            sctlr2: self.get(El2::Sctlr2),
            gcscr: self.get(El2::Gcscr),
        }
    }

    /// Goes on in a vector.
    fn arrive(&mut self, cpu: &mut impl Cpu, taken: &Taken) {
        self.set(El2::Esr, taken.esr);
        self.set(El2::Spsr, taken.spsr);
        self.set(El2::Elr, taken.elr);
        if let Some(far) = taken.far {
            self.set(El2::Far, far);
        }
        self.resume(cpu, taken.pc, taken.pstate);
    }

    /// ERET.
    fn exception_return(&mut self, cpu: &mut impl Cpu, settings: &Settings, kind: Return, unknown: Note) -> Done {
        let key = match kind {
            Return::Plain => 0,
            Return::KeyA => sctlr::EN_IA,
            Return::KeyB => sctlr::EN_IB,
        };
        if key != 0 && !settings.ids.has(Feature::Pauth) {
            return undefined(unknown);
        }
        // With the key off, ERETAA is ERET.
        if self.get(El2::Sctlr) & key != 0 {
            return undefined(Note::AuthenticatedReturn);
        }
        let (pc, spsr, now) = (self.get(El2::Elr), self.get(El2::Spsr), self.pstate(cpu));
        let target = exception::target(settings.ids, spsr, now, self.get(El2::Hcr), self.get(El2::Gcscr));
        let (outcome, note) = match target {
            Target::El2 { .. } => {
                self.resume(cpu, pc, spsr);
                (Outcome::Continue, None)
            }
            Target::Native => {
                self.go_native(cpu, settings);
                cpu.set_return(pc, spsr);
                (Outcome::GoNative { pc, pstate: spsr }, None)
            }
            Target::Unsupported => return undefined(Note::UnsupportedReturn(spsr)),
            Target::Illegal => {
                self.resume(cpu, pc, exception::illegal_return(settings.ids, spsr, now));
                (Outcome::Continue, Some(Note::IllegalReturn(spsr)))
            }
        };
        Done::Settled(Answer { outcome, note })
    }

    /// Gives back what was borrowed, and ends the window.
    fn go_native(&mut self, cpu: &mut impl Cpu, settings: &Settings) {
        self.select_sp(cpu, false);
        cpu.write(Register::SctlrEl1, self.borrowed.sctlr_el1);
        cpu.write(Register::CpacrEl1, self.borrowed.cpacr_el1);
        cpu.write(Register::MdscrEl1, self.borrowed.mdscr_el1);
        self.interrupts.give_back(cpu, settings);
        let mut hcr = settings.native_hcr() | self.get(El2::Hcr) & (hcr_bits::FB | hcr_bits::BSU);
        if let Some(syndrome) = self.serror.take() {
            let (with_serror, vsesr) = serror::pend(hcr, 0, syndrome);
            hcr = with_serror;
            if settings.ids.has(Feature::Ras) {
                cpu.write_el2(features::Register::VsesrEl2, vsesr);
            }
        }
        cpu.write_el2(features::Register::HcrEl2, hcr);
        // As at the window's beginning. The barriers have TGE clear before the ERET, which would be illegal otherwise.
        cpu.maintain(Maintenance::TlbiAlle1);
        self.in_window = false;
        self.tell_counts(cpu);
    }

    /// MRS. Nothing if virtual EL2 does not have the register, or cannot read it.
    fn read(&mut self, cpu: &mut impl Cpu, settings: &Settings, register: Encoding) -> Option<u64> {
        if let Some(field) = PstateRegister::of(register) {
            self.count(cpu, registers::COUNT_OTHERS);
            return field.exists(cpu, settings).then(|| field.get(self.pstate(cpu)));
        }
        if ids::is_id_space(register) {
            self.count(cpu, registers::count_of_id(register));
            let value = cpu.read_id(register.crm, register.op2);
            return Some(ids::at_virtual_el2(register, value, settings.hide_stage2_granules));
        }
        let Some(row) = registers::find(register) else {
            return identification(settings.ids, register);
        };
        match row {
            Row::El2(register) => {
                self.count(cpu, register.count());
                register.needs().met(settings).then(|| self.get(register))
            }
            Row::Hardware(register) if register.access() == Access::WriteOnly || !register.needs().met(settings) => {
                None
            }
            Row::Hardware(hardware) => {
                self.count(cpu, hardware.count());
                match hardware {
                    Register::SctlrEl1 => Some(self.borrowed.sctlr_el1),
                    Register::CpacrEl1 => Some(self.borrowed.cpacr_el1),
                    Register::MdscrEl1 => Some(self.borrowed.mdscr_el1),
                    // The selected stack pointer has no name as a register.
                    Register::SpEl0 => (!self.sp_el0).then_some(self.borrowed.other_sp),
                    Register::CcsidrEl1 => cache_size(cpu),
                    _ => {
                        self.ask(cpu, settings, register);
                        match self.interrupts.borrowed(hardware) {
                            Some(value) => Some(*value),
                            None => cpu.read(hardware),
                        }
                    }
                }
            }
            Row::Absent(_) => None,
        }
    }

    /// MSR (register). Nothing if virtual EL2 does not have the register, or cannot write it.
    fn write(&mut self, cpu: &mut impl Cpu, settings: &Settings, register: Encoding, value: u64) -> Option<Done> {
        if let Some(field) = PstateRegister::of(register) {
            return (field.is_writable() && field.exists(cpu, settings)).then(|| {
                let pstate = field.set(self.pstate(cpu), value);
                let pc = cpu.elr();
                self.resume(cpu, pc, pstate);
                Done::Next
            });
        }
        match registers::find(register)? {
            Row::El2(el2) => el2.needs().met(settings).then(|| {
                self.count(cpu, el2.count());
                if let Policy::Filtered { .. } = el2.policy() {
                    self.ask(cpu, settings, register);
                }
                self.write_el2(cpu, settings, el2, value)
            }),
            Row::Hardware(register) if register.access() == Access::ReadOnly || !register.needs().met(settings) => None,
            Row::Hardware(hardware) => {
                self.count(cpu, hardware.count());
                match hardware {
                    Register::SctlrEl1 => self.borrowed.sctlr_el1 = value,
                    Register::CpacrEl1 => self.borrowed.cpacr_el1 = value,
                    Register::MdscrEl1 => self.borrowed.mdscr_el1 = value,
                    Register::SpEl0 if self.sp_el0 => return None,
                    Register::SpEl0 => self.borrowed.other_sp = value,
                    _ => {
                        self.ask(cpu, settings, register);
                        match self.interrupts.borrowed(hardware) {
                            Some(place) => *place = value,
                            None => cpu.write(hardware, value)?,
                        }
                    }
                }
                Some(Done::Next)
            }
            Row::Absent(_) => None,
        }
    }

    fn write_el2(&mut self, cpu: &mut impl Cpu, settings: &Settings, register: El2, value: u64) -> Done {
        match (register, register.policy()) {
            (El2::Hcr, _) => {
                let ids = settings.ids;
                // ID_AA64PFR0_EL1.EL1, bits [7:4]: 2 has AArch32.
                let rw = if ids.get(IdRegister::Pfr0) >> 4 & 0xf == 2 { 0 } else { hcr::RW };
                self.set(register, value & !hcr::E2H | rw);
                if value & hcr::E2H != 0 {
                    return Done::Noted(Note::Vhe);
                }
            }
            (El2::Sctlr, _) => {
                self.set(register, value & !sctlr::M);
                cpu.write(Register::SctlrEl1, self.window_sctlr(settings));
                if value & sctlr::M != 0 && !self.noted_stage1 {
                    self.noted_stage1 = true;
                    return Done::Noted(Note::Stage1);
                }
            }
            (El2::Vbar, _) => {
                self.write_vectors(value);
                self.stub = self.vectors;
            }
            (El2::Rmr, _) => return Done::Noted(Note::Reset),
            (_, Policy::Filtered { free, open }) => {
                if let Some(target) = register.set_up()
                    && let Some(slot) = register.filter()
                    && let Some(chosen) = self.chosen[slot]
                    && cpu.write_el2(target, value & (free | open) | chosen & !free).is_none()
                {
                    return undefined(Note::Unknown { encoding: register.encoding(), is_read: false });
                }
                self.set(register, value);
            }
            (_, Policy::Shadow) => self.set(register, value),
            // ICC_SRE_EL2: nothing in it can be changed.
            (_, Policy::Special) => {}
        }
        Done::Next
    }

    /// MSR (immediate). False if the CPU does not have the field.
    fn write_field(&mut self, cpu: &mut impl Cpu, settings: &Settings, field: Field, immediate: u8) -> bool {
        let bit = u64::from(immediate & 1);
        let register = match field {
            Field::Uao => PstateRegister::Uao,
            Field::Pan => PstateRegister::Pan,
            Field::SpSel => PstateRegister::SpSel,
            Field::AllInt => PstateRegister::AllInt,
            Field::Pm => PstateRegister::Pm,
            Field::Ssbs => PstateRegister::Ssbs,
            Field::Dit => PstateRegister::Dit,
            Field::Tco => PstateRegister::Tco,
            Field::DaifSet | Field::DaifClr => PstateRegister::Daif,
        };
        if !register.exists(cpu, settings) {
            return false;
        }
        let now = self.pstate(cpu);
        let named = u64::from(immediate) << DAIF_SHIFT;
        let new = match field {
            Field::DaifSet => now | named,
            Field::DaifClr => now & !named,
            // The immediate of one bit, where MSR (register) has the field.
            _ => register.set(now, bit << register.shift()),
        };
        let pc = cpu.elr();
        self.resume(cpu, pc, new);
        true
    }

    /// SCTLR_EL1 in the window: EL0 may do all that EL2 may and that can be granted, and what the host's SCTLR_EL2 says
    /// about alignment, endianness, instruction cache and pointer authentication is in EL1's place.
    fn window_sctlr(&self, settings: &Settings) -> u64 {
        let own = self.get(El2::Sctlr);
        let mut value = features::SCTLR_EL1_AT_ENTRY
            | if self.interrupts.on_detour() { 0 } else { sctlr::UMA }
            | sctlr::DZE
            | sctlr::UCT
            | sctlr::NTWE
            | sctlr::UCI
            | own & (sctlr::A | sctlr::NAA | sctlr::I);
        if own & sctlr::SA != 0 {
            value |= sctlr::SA0;
        }
        if own & sctlr::EE != 0 {
            value |= sctlr::E0E;
        }
        if settings.ids.has(Feature::Mops) {
            value |= sctlr::MSCEN;
        }
        if settings.ids.has(Feature::Pauth) {
            value |= own & sctlr::PAUTH;
        }
        value
    }
}

impl Default for VirtualEl2 {
    fn default() -> Self {
        Self::new()
    }
}

/// CPACR_EL1 in the window: EL0 may use all units, as EL2 may.
const fn window_cpacr(ids: &IdRegisters) -> u64 {
    CPACR_FPEN | if ids.has(Feature::Sve) { CPACR_ZEN } else { 0 } | if ids.has(Feature::Sme) { CPACR_SMEN } else { 0 }
}

const fn undefined(note: Note) -> Done {
    Done::Take(Cause::Undefined, Some(note))
}

/// Reads a register that is to be borrowed. One that the CPU does not have after all cannot be written either, and
/// whatever is given back later changes nothing.
fn borrow(cpu: &mut impl Cpu, register: Register) -> u64 {
    cpu.read(register).unwrap_or(0)
}

/// Sets the return after the instruction.
fn step_over(cpu: &mut impl Cpu) {
    let (pc, spsr) = skip_instruction(cpu.elr(), cpu.spsr(), true);
    cpu.set_return(pc, spsr);
}

/// Xn or, for 31, the zero register.
fn x(cpu: &impl Cpu, number: u8) -> u64 {
    if number < 31 { cpu.x(number) } else { 0 }
}

fn set_x(cpu: &mut impl Cpu, number: u8, value: u64) {
    if number < 31 {
        cpu.set_x(number, value);
    }
}

/// MIDR_EL1, MPIDR_EL1, and the ID registers that come with a feature.
fn identification(ids: &IdRegisters, register: Encoding) -> Option<u64> {
    let id = IdRegister::ALL.iter().copied().find(|id| id.encoding() == register)?;
    ids.can_read(id).then(|| ids.get(id))
}

/// CCSIDR_EL1, if CSSELR_EL1 selects a cache that there is: otherwise the read may be undefined, as it may give an
/// UNKNOWN value. It does the latter.
fn cache_size(cpu: &mut impl Cpu) -> Option<u64> {
    let selected = cpu.read(Register::CsselrEl1)?;
    let clidr = cpu.read(Register::ClidrEl1)?;
    // CSSELR_EL1.InD, bit 0, Level, bits [3:1], TnD, bit 4; CLIDR_EL1.Ctype<n>, three bits each.
    let (instruction, level) = (selected & 1 != 0, selected >> 1 & 7);
    let kind = if level < 7 { clidr >> (3 * level) & 7 } else { 0 };
    let exists = match kind {
        1 => instruction,
        2 | 4 => !instruction,
        3 => true,
        _ => false,
    };
    if exists && selected >> 4 == 0 { cpu.read(Register::CcsidrEl1) } else { Some(0) }
}

/// SYS.
fn system_instruction(cpu: &mut impl Cpu, settings: &Settings, instruction: Encoding, rt: u8) -> Done {
    let argument = x(cpu, rt);
    // ID_AA64ISAR0_EL1.
    let isar0 = cpu.read_id(6, 0);
    let done = match system::effect(settings.ids, isar0, instruction) {
        Effect::Execute(maintenance) => cpu.maintain(maintenance).ok_or(Refused::Undefined),
        Effect::BySetWay(maintenance) => cpu.maintain_set_way(maintenance, argument).ok_or(Refused::Undefined),
        Effect::CleanAndInvalidate { tags } => cpu.clean_and_invalidate(argument, tags),
        Effect::Nothing => Ok(()),
        Effect::Undefined => Err(Refused::Undefined),
    };
    match done {
        Ok(()) => Done::Next,
        Err(Refused::Undefined) => undefined(Note::Unknown { encoding: instruction, is_read: false }),
        Err(Refused::NoMemory) => {
            let esr = Esr::new(ABORT_OF_MAINTENANCE);
            Done::Take(Cause::Outside { esr, far: argument }, Some(Note::Exception(esr)))
        }
    }
}

/// Where DAIF stands in PSTATE and in its own register.
const DAIF_SHIFT: u32 = 6;

/// The registers that are views of PSTATE (Arm ARM C5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PstateRegister {
    CurrentEl,
    SpSel,
    Daif,
    Nzcv,
    Pan,
    Uao,
    Dit,
    Ssbs,
    Tco,
    AllInt,
    Pm,
}

impl PstateRegister {
    const fn of(register: Encoding) -> Option<Self> {
        if register.op0 != 3 || register.crn != 4 {
            return None;
        }
        Some(match (register.op1, register.crm, register.op2) {
            (0, 2, 0) => Self::SpSel,
            (0, 2, 2) => Self::CurrentEl,
            (0, 2, 3) => Self::Pan,
            (0, 2, 4) => Self::Uao,
            (0, 3, 0) => Self::AllInt,
            (0, 3, 1) => Self::Pm,
            (3, 2, 0) => Self::Nzcv,
            (3, 2, 1) => Self::Daif,
            (3, 2, 5) => Self::Dit,
            (3, 2, 6) => Self::Ssbs,
            (3, 2, 7) => Self::Tco,
            _ => return None,
        })
    }

    /// Whether the CPU has it.
    fn exists(self, cpu: &mut impl Cpu, settings: &Settings) -> bool {
        let ids = settings.ids;
        match self {
            Self::CurrentEl | Self::SpSel | Self::Daif | Self::Nzcv => true,
            Self::Pan => ids.has(Feature::Pan),
            // ID_AA64MMFR2_EL1.UAO, bits [7:4].
            Self::Uao => cpu.read_id(7, 2) >> 4 & 0xf != 0,
            // ID_AA64PFR0_EL1.DIT, bits [51:48].
            Self::Dit => ids.get(IdRegister::Pfr0) >> 48 & 0xf != 0,
            // ID_AA64PFR1_EL1.SSBS, bits [7:4]: 2 has the register.
            Self::Ssbs => ids.get(IdRegister::Pfr1) >> 4 & 0xf >= 2,
            Self::Tco => ids.has(Feature::Mte),
            Self::AllInt => ids.has(Feature::Nmi),
            Self::Pm => ids.has(Feature::Ebep),
        }
    }

    const fn is_writable(self) -> bool {
        !matches!(self, Self::CurrentEl)
    }

    /// The bits in PSTATE.
    const fn mask(self) -> u64 {
        match self {
            Self::CurrentEl => 0,
            Self::SpSel => pstate::SP,
            Self::Daif => pstate::DAIF,
            Self::Nzcv => pstate::NZCV,
            Self::Pan => pstate::PAN,
            Self::Uao => pstate::UAO,
            Self::Dit => pstate::DIT,
            Self::Ssbs => pstate::SSBS,
            Self::Tco => pstate::TCO,
            Self::AllInt => pstate::ALLINT,
            Self::Pm => pstate::PM,
        }
    }

    /// Where the lowest bit stands in the register: where it stands in PSTATE.
    const fn shift(self) -> u32 {
        self.mask().trailing_zeros() & 63
    }

    const fn get(self, pstate: u64) -> u64 {
        match self {
            Self::CurrentEl => CURRENT_EL2,
            _ => pstate & self.mask(),
        }
    }

    const fn set(self, pstate: u64, value: u64) -> u64 {
        pstate & !self.mask() | value & self.mask()
    }
}
