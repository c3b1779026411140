//! What an instruction is, as far as virtual EL2 has to know: the system instructions of A64, and the calls.
//!
//! Owns the layout of these instruction words. It knows which bits name what and not what they do; anything that is no
//! instruction of EL2's own comes out as [`Operation::Other`].
//!
//! Source: Arm ARM (DDI 0487), C4.1.66 "Branches, Exception Generating and System instructions", and for words that the
//! syndrome tells instead of memory D24.2 "ISS encoding for an exception from MSR, MRS, or System instruction execution
//! in AArch64 state".

use crate::syndrome::{Encoding, SystemAccess};

/// Which exception return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// ERET.
    Plain,
    /// ERETAA: ELR is authenticated with key A.
    KeyA,
    /// ERETAB: ELR is authenticated with key B.
    KeyB,
}

/// The PSTATE field of an MSR (immediate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// UAO.
    Uao,
    /// PAN.
    Pan,
    /// SPSel.
    SpSel,
    /// ALLINT.
    AllInt,
    /// PM.
    Pm,
    /// SSBS.
    Ssbs,
    /// DIT.
    Dit,
    /// TCO.
    Tco,
    /// D, A, I and F: set those that the immediate names.
    DaifSet,
    /// D, A, I and F: clear those that the immediate names.
    DaifClr,
}

/// An instruction that virtual EL2 may have to execute in the CPU's stead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// MRS.
    Read {
        /// The register.
        register: Encoding,
        /// Xt, 31 is the zero register.
        rt: u8,
    },
    /// MSR (register).
    Write {
        /// The register.
        register: Encoding,
        /// Xt, 31 is the zero register.
        rt: u8,
    },
    /// MSR (immediate).
    WriteField {
        /// What is written.
        field: Field,
        /// The four bits of CRm; fields of one bit have theirs in bit 0.
        immediate: u8,
    },
    /// SYS: cache and TLB maintenance, address translation and their like.
    System {
        /// The instruction; op0 is 1.
        instruction: Encoding,
        /// Xt, 31 is the zero register.
        rt: u8,
    },
    /// SYSL: the same with a result.
    SystemRead {
        /// The instruction; op0 is 1.
        instruction: Encoding,
        /// Xt, 31 is the zero register.
        rt: u8,
    },
    /// ERET and its kin.
    Return(Return),
    /// HVC with its immediate.
    Hvc(u16),
    /// SMC with its immediate.
    Smc(u16),
    /// None of these.
    Other,
}

/// op0 of SYS and SYSL.
const SYSTEM_INSTRUCTION: u8 = 1;

/// Decodes an instruction word. A64 instructions are little-endian whatever the data is.
#[must_use]
pub const fn decode(word: u32) -> Operation {
    if word & 0xffc0_0000 == 0xd500_0000 {
        // Nearly all that comes here. Bit 21 is L (a read), op0 to Rt follow.
        let encoding = Encoding::new(
            (word >> 19) as u8 & 3,
            (word >> 16) as u8 & 7,
            (word >> 12) as u8 & 15,
            (word >> 8) as u8 & 15,
            (word >> 5) as u8 & 7,
        );
        return access(encoding, word as u8 & 31, word & 1 << 21 != 0);
    }
    match word {
        0xd69f_03e0 => return Operation::Return(Return::Plain),
        0xd69f_0bff => return Operation::Return(Return::KeyA),
        0xd69f_0fff => return Operation::Return(Return::KeyB),
        _ => {}
    }
    // Exception generation: opc is 0b000 for all three calls, LL tells them apart.
    let immediate = (word >> 5) as u16;
    match word & 0xffe0_001f {
        0xd400_0002 => Operation::Hvc(immediate),
        0xd400_0003 => Operation::Smc(immediate),
        _ => Operation::Other,
    }
}

/// Takes the operation from the syndrome of a trapped system instruction, which names everything that the word does.
#[must_use]
pub const fn from_syndrome(trapped: SystemAccess) -> Operation {
    access(trapped.encoding(), trapped.register(), trapped.is_read())
}

#[inline]
const fn access(encoding: Encoding, rt: u8, is_read: bool) -> Operation {
    match (encoding.op0, is_read) {
        (0, false) => immediate_write(encoding, rt),
        (0, true) => Operation::Other,
        (SYSTEM_INSTRUCTION, false) => Operation::System { instruction: encoding, rt },
        (SYSTEM_INSTRUCTION, true) => Operation::SystemRead { instruction: encoding, rt },
        (_, false) => Operation::Write { register: encoding, rt },
        (_, true) => Operation::Read { register: encoding, rt },
    }
}

/// MSR (immediate): CRn is 4, Rt all ones, op1 and op2 name the field and CRm is the value. Everything else with op0 0
/// is a hint or a barrier, or changes flags only, and never comes to EL2.
#[inline(never)]
const fn immediate_write(encoding: Encoding, rt: u8) -> Operation {
    if encoding.crn != 4 || rt != 31 {
        return Operation::Other;
    }
    let field = match (encoding.op1, encoding.op2, encoding.crm) {
        (0, 3, _) => Field::Uao,
        (0, 4, _) => Field::Pan,
        (0, 5, _) => Field::SpSel,
        // Two fields share these numbers; CRm[3:1] tells which.
        (1, 0, 0 | 1) => Field::AllInt,
        (1, 0, 2 | 3) => Field::Pm,
        (3, 1, _) => Field::Ssbs,
        (3, 2, _) => Field::Dit,
        (3, 4, _) => Field::Tco,
        (3, 6, _) => Field::DaifSet,
        (3, 7, _) => Field::DaifClr,
        _ => return Operation::Other,
    };
    Operation::WriteField { field, immediate: encoding.crm }
}
