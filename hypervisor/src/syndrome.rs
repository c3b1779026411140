//! What a syndrome register says, as types and in words.
//!
//! Owns the layout of ESR_EL2: exception classes, the syndromes of aborts, calls and trapped register accesses, and the
//! names of the fault status codes; and how an instruction names a register ([`Encoding`]), with the enums that are
//! made of such names. It decides nothing and changes nothing; logs, panics and [`crate::trap`] read it.
//!
//! Source for every number here: Arm ARM (DDI 0487L.a), D24.2, "ESR_EL2, Exception Syndrome Register (EL2)".

use core::fmt;

/// ESR_ELx.EC, bits \[31:26\]: the exception class.
pub const EC_SHIFT: u32 = 26;
/// ESR_ELx.IL, bit \[25\]: set if the instruction that trapped is 32 bits long, and for classes where its length is not
/// known.
pub const IL: u64 = 1 << 25;
/// ESR_ELx.ISS, bits \[24:0\]: what the class makes of it.
pub const ISS_MASK: u64 = (1 << 25) - 1;
/// How many exception classes the six bits of ESR_ELx.EC can name.
pub const CLASSES: usize = 64;

macro_rules! exception_classes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $words:literal;)*) => {
        /// ESR_ELx.EC: every class that the architecture defines for AArch64 state (Arm ARM D24.2, table "EC
        /// encoding").
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum ExceptionClass {
            $($(#[$doc])* $name = $value,)*
        }

        impl ExceptionClass {
            /// Every class, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The class with this number, if the architecture defines one. Bits above the six of ESR_ELx.EC make it
            /// unknown.
            #[must_use]
            pub const fn from_bits(bits: u8) -> Option<Self> {
                match bits {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The class in the words of the Arm ARM, shortened.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)*
                }
            }
        }
    };
}

exception_classes! {
    /// Nothing that has a class of its own: an undefined instruction, most often.
    Unknown = 0x00, "unknown reason";
    /// WFI, WFE, WFIT or WFET (HCR_EL2.TWI, TWE).
    Wfx = 0x01, "trapped WFI or WFE";
    /// MCR or MRC to coprocessor 15, from AArch32.
    Cp15Register = 0x03, "trapped AArch32 MCR or MRC, coprocessor 15";
    /// MCRR or MRRC to coprocessor 15, from AArch32.
    Cp15Double = 0x04, "trapped AArch32 MCRR or MRRC, coprocessor 15";
    /// MCR or MRC to coprocessor 14, from AArch32.
    Cp14Register = 0x05, "trapped AArch32 MCR or MRC, coprocessor 14";
    /// LDC or STC to coprocessor 14, from AArch32.
    Cp14Memory = 0x06, "trapped AArch32 LDC or STC";
    /// SVE, Advanced SIMD or floating point (CPTR_EL2.TFP).
    SimdFp = 0x07, "trapped SIMD or floating-point access";
    /// VMRS of an identification register, from AArch32 (HCR_EL2.TID0, TID3).
    VmrsId = 0x08, "trapped AArch32 VMRS";
    /// A pointer authentication instruction (HCR_EL2.API).
    PointerAuth = 0x09, "trapped pointer authentication instruction";
    /// Any other trapped instruction: ST64BV, LD64B and their like (HCRX_EL2.EnALS, EnASR).
    Other = 0x0a, "trapped instruction without a class of its own";
    /// MRRC to coprocessor 14, from AArch32.
    Cp14Double = 0x0c, "trapped AArch32 MRRC, coprocessor 14";
    /// Branch Target exception (FEAT_BTI).
    BranchTarget = 0x0d, "branch target";
    /// PSTATE.IL was set.
    IllegalState = 0x0e, "illegal execution state";
    /// SVC from AArch32.
    Svc32 = 0x11, "AArch32 SVC";
    /// HVC from AArch32.
    Hvc32 = 0x12, "AArch32 HVC";
    /// SMC from AArch32 (HCR_EL2.TSC).
    Smc32 = 0x13, "trapped AArch32 SMC";
    /// MSRR, MRRS or a 128-bit system instruction (FEAT_SYSREG128).
    SystemRegister128 = 0x14, "trapped MSRR or MRRS";
    /// SVC from AArch64.
    Svc64 = 0x15, "SVC";
    /// HVC from AArch64.
    Hvc64 = 0x16, "HVC";
    /// SMC from AArch64 (HCR_EL2.TSC).
    Smc64 = 0x17, "trapped SMC";
    /// MSR, MRS or a system instruction from AArch64.
    SystemRegister = 0x18, "trapped MSR, MRS or system instruction";
    /// SVE (CPTR_EL2.TZ, ZEN).
    Sve = 0x19, "trapped SVE access";
    /// ERET, ERETAA or ERETAB (HCR_EL2.NV, HFGITR_EL2.ERET).
    Eret = 0x1a, "trapped ERET";
    /// TSTART (FEAT_TME).
    Tstart = 0x1b, "trapped TSTART";
    /// A pointer authentication that failed (FEAT_FPAC).
    PointerAuthFailure = 0x1c, "pointer authentication failure";
    /// SME (CPTR_EL2.TSM, SMEN), or an instruction that the streaming mode forbids.
    Sme = 0x1d, "trapped SME access";
    /// Granule Protection Check fault, taken to EL3 only (FEAT_RME).
    GranuleProtection = 0x1e, "granule protection check fault";
    /// IMPLEMENTATION DEFINED, taken to EL3 only.
    ImplementationDefined = 0x1f, "implementation defined exception to EL3";
    /// Instruction abort from a lower Exception level.
    InstructionAbortLower = 0x20, "instruction abort";
    /// Instruction abort without a change of Exception level.
    InstructionAbortSame = 0x21, "instruction abort";
    /// The PC was misaligned.
    PcAlignment = 0x22, "PC alignment fault";
    /// Data abort from a lower Exception level.
    DataAbortLower = 0x24, "data abort";
    /// Data abort without a change of Exception level.
    DataAbortSame = 0x25, "data abort";
    /// SP was misaligned.
    SpAlignment = 0x26, "SP alignment fault";
    /// Memory Copy and Memory Set exception (FEAT_MOPS).
    MemoryCopy = 0x27, "memory copy or memory set";
    /// Floating-point exception from AArch32.
    FloatingPoint32 = 0x28, "AArch32 floating-point exception";
    /// Floating-point exception from AArch64.
    FloatingPoint64 = 0x2c, "floating-point exception";
    /// Guarded Control Stack exception (FEAT_GCS).
    GuardedControlStack = 0x2d, "guarded control stack";
    /// SError interrupt.
    SError = 0x2f, "SError";
    /// Breakpoint from a lower Exception level.
    BreakpointLower = 0x30, "breakpoint";
    /// Breakpoint without a change of Exception level.
    BreakpointSame = 0x31, "breakpoint";
    /// Software step from a lower Exception level.
    SoftwareStepLower = 0x32, "software step";
    /// Software step without a change of Exception level.
    SoftwareStepSame = 0x33, "software step";
    /// Watchpoint from a lower Exception level.
    WatchpointLower = 0x34, "watchpoint";
    /// Watchpoint without a change of Exception level.
    WatchpointSame = 0x35, "watchpoint";
    /// BKPT from AArch32.
    Bkpt32 = 0x38, "AArch32 BKPT";
    /// Vector Catch from AArch32.
    VectorCatch32 = 0x3a, "AArch32 vector catch";
    /// BRK from AArch64.
    Brk64 = 0x3c, "BRK";
    /// PMU Profiling exception (FEAT_SEBEP).
    Profiling = 0x3d, "PMU profiling";
}

/// A value of ESR_EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Esr(u64);

impl Esr {
    /// Takes the register's value.
    #[must_use]
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// The register's value.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// ESR_EL2.EC as a number from 0 to 63.
    #[must_use]
    pub const fn class_bits(self) -> u8 {
        (self.0 >> EC_SHIFT) as u8 & 0x3f
    }

    /// The exception class, if the architecture defines one with this number.
    #[must_use]
    pub const fn class(self) -> Option<ExceptionClass> {
        ExceptionClass::from_bits(self.class_bits())
    }

    /// ESR_EL2.IL: the instruction is 32 bits long, or the class does not know its length.
    #[must_use]
    pub const fn is_32bit_instruction(self) -> bool {
        self.0 & IL != 0
    }

    /// ESR_EL2.ISS.
    #[must_use]
    pub const fn iss(self) -> u32 {
        (self.0 & ISS_MASK) as u32
    }

    /// ESR_EL2.ISS2, bits \[55:32\].
    #[must_use]
    pub const fn iss2(self) -> u32 {
        (self.0 >> 32) as u32 & 0xff_ffff
    }

    /// The immediate of an SVC, HVC or SMC, ISS bits \[15:0\]. For an AArch32 SMC the architecture reports none.
    #[must_use]
    pub const fn immediate(self) -> u16 {
        self.0 as u16
    }

    /// Whether it is an instruction or a data abort from a lower Exception level.
    #[must_use]
    #[inline]
    pub const fn is_abort_of_lower(self) -> bool {
        const INSTRUCTION: u8 = ExceptionClass::InstructionAbortLower as u8;
        const DATA: u8 = ExceptionClass::DataAbortLower as u8;
        matches!(self.class_bits(), INSTRUCTION | DATA)
    }

    /// The abort, if the class is one of the four abort classes.
    #[must_use]
    pub const fn abort(self) -> Option<Abort> {
        match self.class() {
            Some(ExceptionClass::InstructionAbortLower | ExceptionClass::InstructionAbortSame) => {
                Some(Abort { esr: self.0, instruction: true })
            }
            Some(ExceptionClass::DataAbortLower | ExceptionClass::DataAbortSame) => {
                Some(Abort { esr: self.0, instruction: false })
            }
            _ => None,
        }
    }

    /// The access, if the class is [`ExceptionClass::SystemRegister`].
    #[must_use]
    pub const fn system_access(self) -> Option<SystemAccess> {
        if self.class_bits() == ExceptionClass::SystemRegister as u8 { Some(SystemAccess(self.iss())) } else { None }
    }

    /// Whether FAR_EL2 was written by this exception: the aborts (unless FnV says no), PC alignment and watchpoints.
    #[must_use]
    pub const fn has_far(self) -> bool {
        match self.class() {
            Some(ExceptionClass::PcAlignment | ExceptionClass::WatchpointLower | ExceptionClass::WatchpointSame) => {
                true
            }
            _ => match self.abort() {
                Some(abort) => !abort.far_not_valid(),
                None => false,
            },
        }
    }

    /// The same with the fault address, for a line that a person reads.
    #[must_use]
    pub const fn with_far(self, far: u64) -> Report {
        Report { esr: self, far }
    }
}

/// ISS.ISV, bit \[24\] of a data abort: bits \[23:14\] describe the access.
pub const ISS_ISV: u64 = 1 << 24;
/// ISS.VNCR, bit \[13\] of a data abort: the access was one that FEAT_NV2 made out of a register access.
pub const ISS_VNCR: u64 = 1 << 13;
/// ISS.LST or SET, bits \[12:11\] of a data abort: of a translation fault, an instruction of FEAT_LS64; of an external
/// abort, the state of the PE.
pub const ISS_LST: u64 = 3 << 11;
/// ISS.FnV, bit \[10\] of an abort: FAR_ELx holds nothing, valid for synchronous external aborts that are not on a
/// walk.
pub const ISS_FNV: u64 = 1 << 10;
/// ISS.EA, bit \[9\] of an abort: IMPLEMENTATION DEFINED type of an external abort.
pub const ISS_EA: u64 = 1 << 9;
/// ISS.CM, bit \[8\] of a data abort: cache maintenance or address translation instruction.
pub const ISS_CM: u64 = 1 << 8;
/// ISS.S1PTW, bit \[7\] of an abort: a stage 2 fault on an access of a stage 1 walk.
pub const ISS_S1PTW: u64 = 1 << 7;
/// ISS.WnR, bit \[6\] of a data abort: a write.
pub const ISS_WNR: u64 = 1 << 6;
/// ISS.DFSC or IFSC, bits \[5:0\] of an abort: the fault status code.
pub const ISS_FSC_MASK: u64 = 0x3f;
/// ISS2.GCS, bit \[8\] of ISS2 (bit 40 of the register): the access was to a Guarded Control Stack.
pub const ISS2_GCS: u64 = 1 << 40;

/// The syndrome of an instruction or data abort (Arm ARM D24.2, "ISS encoding for an exception from an Instruction
/// Abort", "... from a Data Abort").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    esr: u64,
    instruction: bool,
}

impl Abort {
    const fn has(self, bit: u64) -> bool {
        self.esr & bit != 0
    }

    /// The whole register.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.esr
    }

    /// An instruction fetch, not a data access.
    #[must_use]
    pub const fn is_instruction(self) -> bool {
        self.instruction
    }

    /// ISS.WnR: a write. Instruction aborts and read accesses say no; cache maintenance says yes.
    #[must_use]
    pub const fn is_write(self) -> bool {
        !self.instruction && self.has(ISS_WNR)
    }

    /// ISS.CM: a cache maintenance or address translation instruction.
    #[must_use]
    pub const fn is_cache_maintenance(self) -> bool {
        !self.instruction && self.has(ISS_CM)
    }

    /// ISS.S1PTW: the stage 2 fault happened on an access of a stage 1 walk.
    #[must_use]
    pub const fn on_stage1_walk(self) -> bool {
        self.has(ISS_S1PTW)
    }

    /// ISS.FnV, which counts for a synchronous external abort that is not on a walk only: FAR_EL2 was not written.
    #[must_use]
    pub const fn far_not_valid(self) -> bool {
        matches!(self.fault().kind, FaultKind::External) && self.has(ISS_FNV)
    }

    /// The fault status code, looked up.
    #[must_use]
    pub const fn fault(self) -> Fault {
        FAULTS[(self.esr & ISS_FSC_MASK) as usize]
    }

    /// The fault status code as a number from 0 to 63.
    #[must_use]
    pub const fn fault_status(self) -> u8 {
        (self.esr & ISS_FSC_MASK) as u8
    }

    /// The access as far as the syndrome describes it (ISS.ISV).
    #[must_use]
    pub const fn access(self) -> Option<Access> {
        if self.instruction || !self.has(ISS_ISV) {
            return None;
        }
        Some(Access {
            size: 1 << ((self.esr >> 22) & 3),
            sign_extend: self.has(1 << 21),
            register: (self.esr >> 16) as u8 & 0x1f,
            register_is_64bit: self.has(1 << 15),
        })
    }
}

/// A load or store of one register, described by ISS bits \[23:14\] of a data abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// ISS.SAS: bytes, 1, 2, 4 or 8.
    pub size: u8,
    /// ISS.SSE: a load that sign-extends.
    pub sign_extend: bool,
    /// ISS.SRT: Xn or Wn, 31 is the zero register.
    pub register: u8,
    /// ISS.SF: Xn, not Wn.
    pub register_is_64bit: bool,
}

/// What kind of fault a fault status code names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The address does not fit the configured sizes.
    AddressSize,
    /// No valid descriptor.
    Translation,
    /// The access flag is clear.
    AccessFlag,
    /// The permissions refuse the access.
    Permission,
    /// Synchronous external abort on the access itself.
    External,
    /// Synchronous external abort on an access of a walk.
    ExternalOnWalk,
    /// Synchronous parity or ECC error on the access itself.
    Parity,
    /// Synchronous parity or ECC error on an access of a walk.
    ParityOnWalk,
    /// Tag Check Fault (FEAT_MTE2).
    TagCheck,
    /// Alignment fault.
    Alignment,
    /// Granule Protection Fault (FEAT_RME).
    GranuleProtection,
    /// Granule Protection Fault on an access of a walk (FEAT_RME).
    GranuleProtectionOnWalk,
    /// TLB conflict abort.
    TlbConflict,
    /// Hardware update of a descriptor that the memory does not support (FEAT_HAFDBS).
    AtomicHardwareUpdate,
    /// IMPLEMENTATION DEFINED: lockdown.
    Lockdown,
    /// IMPLEMENTATION DEFINED: an exclusive or atomic access that the memory does not support.
    ExclusiveOrAtomic,
    /// A code that the architecture reserves.
    Reserved,
}

impl FaultKind {
    /// The kind in the words of the Arm ARM.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::AddressSize => "address size fault",
            Self::Translation => "translation fault",
            Self::AccessFlag => "access flag fault",
            Self::Permission => "permission fault",
            Self::External => "synchronous external abort",
            Self::ExternalOnWalk => "synchronous external abort on a walk",
            Self::Parity => "synchronous parity or ECC error",
            Self::ParityOnWalk => "synchronous parity or ECC error on a walk",
            Self::TagCheck => "tag check fault",
            Self::Alignment => "alignment fault",
            Self::GranuleProtection => "granule protection fault",
            Self::GranuleProtectionOnWalk => "granule protection fault on a walk",
            Self::TlbConflict => "TLB conflict abort",
            Self::AtomicHardwareUpdate => "unsupported atomic hardware update",
            Self::Lockdown => "lockdown fault",
            Self::ExclusiveOrAtomic => "unsupported exclusive or atomic access",
            Self::Reserved => "reserved fault status code",
        }
    }
}

/// A fault status code, looked up: the kind, and the level of the lookup where the code has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// At which level of the walk, -2 to 3.
    pub level: Option<i8>,
}

/// DFSC and IFSC by number (Arm ARM D24.2, table "DFSC encoding"; instruction aborts use a subset). The negative levels
/// are those of FEAT_LPA2 (-1) and FEAT_D128 (-2), and are not in order.
static FAULTS: [Fault; 64] = fault_table();

const fn fault_table() -> [Fault; 64] {
    const fn four(table: &mut [Fault; 64], first: usize, kind: FaultKind) {
        let mut level = 0;
        while level < 4 {
            table[first + level] = Fault { kind, level: Some(level as i8) };
            level += 1;
        }
    }
    let mut table = [Fault { kind: FaultKind::Reserved, level: None }; 64];
    four(&mut table, 0x00, FaultKind::AddressSize);
    four(&mut table, 0x04, FaultKind::Translation);
    four(&mut table, 0x08, FaultKind::AccessFlag);
    four(&mut table, 0x0c, FaultKind::Permission);
    table[0x10] = Fault { kind: FaultKind::External, level: None };
    table[0x11] = Fault { kind: FaultKind::TagCheck, level: None };
    table[0x12] = Fault { kind: FaultKind::ExternalOnWalk, level: Some(-2) };
    table[0x13] = Fault { kind: FaultKind::ExternalOnWalk, level: Some(-1) };
    four(&mut table, 0x14, FaultKind::ExternalOnWalk);
    table[0x18] = Fault { kind: FaultKind::Parity, level: None };
    table[0x1b] = Fault { kind: FaultKind::ParityOnWalk, level: Some(-1) };
    four(&mut table, 0x1c, FaultKind::ParityOnWalk);
    table[0x21] = Fault { kind: FaultKind::Alignment, level: None };
    table[0x22] = Fault { kind: FaultKind::GranuleProtectionOnWalk, level: Some(-2) };
    table[0x23] = Fault { kind: FaultKind::GranuleProtectionOnWalk, level: Some(-1) };
    four(&mut table, 0x24, FaultKind::GranuleProtectionOnWalk);
    table[0x28] = Fault { kind: FaultKind::GranuleProtection, level: None };
    table[0x29] = Fault { kind: FaultKind::AddressSize, level: Some(-1) };
    table[0x2a] = Fault { kind: FaultKind::Translation, level: Some(-2) };
    table[0x2b] = Fault { kind: FaultKind::Translation, level: Some(-1) };
    table[0x2c] = Fault { kind: FaultKind::AddressSize, level: Some(-2) };
    table[0x30] = Fault { kind: FaultKind::TlbConflict, level: None };
    table[0x31] = Fault { kind: FaultKind::AtomicHardwareUpdate, level: None };
    table[0x34] = Fault { kind: FaultKind::Lockdown, level: None };
    table[0x35] = Fault { kind: FaultKind::ExclusiveOrAtomic, level: None };
    table
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.words())?;
        self.level.map_or(Ok(()), |level| write!(f, ", level {}", i32::from(level)))
    }
}

/// The syndrome of a trapped MSR, MRS or system instruction (Arm ARM D24.2, "ISS encoding for an exception from MSR,
/// MRS, or System instruction execution in AArch64 state").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemAccess(u32);

impl SystemAccess {
    /// The encoding of the register or instruction.
    #[must_use]
    pub const fn encoding(self) -> Encoding {
        Encoding {
            op0: (self.0 >> 20) as u8 & 3,
            op1: (self.0 >> 14) as u8 & 7,
            crn: (self.0 >> 10) as u8 & 15,
            crm: (self.0 >> 1) as u8 & 15,
            op2: (self.0 >> 17) as u8 & 7,
        }
    }

    /// ISS.Rt: the general-purpose register, 31 is the zero register.
    #[must_use]
    pub const fn register(self) -> u8 {
        (self.0 >> 5) as u8 & 31
    }

    /// ISS.Direction: a read (MRS).
    #[must_use]
    pub const fn is_read(self) -> bool {
        self.0 & 1 != 0
    }
}

/// How an instruction names a system register: `S<op0>_<op1>_C<CRn>_C<CRm>_<op2>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Encoding {
    /// op0, 0 to 3; 2 and 3 are registers.
    pub op0: u8,
    /// op1, 0 to 7; 4 are the registers of EL2.
    pub op1: u8,
    /// CRn, 0 to 15.
    pub crn: u8,
    /// CRm, 0 to 15.
    pub crm: u8,
    /// op2, 0 to 7.
    pub op2: u8,
}

impl Encoding {
    /// The encoding in the order in which the Arm ARM prints it.
    #[must_use]
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self { op0, op1, crn, crm, op2 }
    }
}

/// An enum of registers or instructions with an encoding, out of rows `Name, "words", op0, op1, CRn, CRm, op2;`.
macro_rules! encoded_enum {
    (
        $(#[$doc:meta])* $type:ident:
        $($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $type {
            $(#[doc = $words] $name,)*
        }

        impl $type {
            /// Every one of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// How MRS, MSR or SYS names it.
            #[must_use]
            pub const fn encoding(self) -> $crate::syndrome::Encoding {
                match self {
                    $(Self::$name => $crate::syndrome::Encoding::new($op0, $op1, $crn, $crm, $op2),)*
                }
            }

            /// Its name in the Arm ARM.
            #[must_use]
            pub fn name(self) -> &'static str {
                $crate::syndrome::word(concat!($($words, " ",)*), self as usize)
            }
        }
    };
}

pub(crate) use encoded_enum;

/// One of many names in one string, which takes a tenth of the room that a table of strings does.
pub(crate) fn word(names: &'static str, number: usize) -> &'static str {
    names.split_ascii_whitespace().nth(number).unwrap_or_default()
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As one type of number: each more takes a formatter of its own.
        let [op0, op1, crn, crm, op2] = [self.op0, self.op1, self.crn, self.crm, self.op2].map(u32::from);
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

impl fmt::Display for Esr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ExceptionClass as Class;
        let Some(class) = self.class() else {
            return write!(f, "undefined exception class {:#04x}, ISS {:#x}", u32::from(self.class_bits()), self.iss());
        };
        f.write_str(class.words())?;
        match class {
            Class::InstructionAbortLower
            | Class::DataAbortLower
            | Class::BreakpointLower
            | Class::SoftwareStepLower
            | Class::WatchpointLower => f.write_str(" from EL1 or EL0")?,
            Class::InstructionAbortSame
            | Class::DataAbortSame
            | Class::BreakpointSame
            | Class::SoftwareStepSame
            | Class::WatchpointSame => f.write_str(" from EL2")?,
            Class::Svc32 | Class::Svc64 | Class::Hvc32 | Class::Hvc64 | Class::Smc64 | Class::Brk64 => {
                write!(f, " #{:#x}", u32::from(self.immediate()))?;
            }
            Class::Unknown | Class::BranchTarget | Class::IllegalState | Class::PcAlignment | Class::SpAlignment => {}
            _ if self.system_access().is_none() => write!(f, ", ISS {:#x}", self.iss())?,
            _ => {}
        }
        if let Some(abort) = self.abort() {
            write!(f, ": {}", abort.fault())?;
            if abort.on_stage1_walk() {
                f.write_str(", on a stage 1 walk")?;
            }
            if !abort.is_instruction() {
                f.write_str(match (abort.is_cache_maintenance(), abort.is_write()) {
                    (true, _) => ", cache maintenance",
                    (false, true) => ", write",
                    (false, false) => ", read",
                })?;
            }
        }
        if let Some(access) = self.system_access() {
            let (verb, register) = (if access.is_read() { "read" } else { "write" }, u32::from(access.register()));
            write!(f, ": {verb} of {}, x{register}", access.encoding())?;
        }
        Ok(())
    }
}

/// A syndrome and the fault address that came with it. The address is printed only where the class has written one.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    esr: Esr,
    far: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.esr)?;
        if self.esr.has_far() {
            write!(f, ", FAR {:#x}", self.far)?;
        } else if self.esr.abort().is_some() {
            f.write_str(", FAR not valid")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
