//! What a trace record says of an exit, and how much of it can be known before it is answered.
//!
//! An access to a register from virtual EL2 comes as an undefined instruction, whose syndrome says nothing. The record
//! gets the syndrome that the same access would have at EL1, so that a reader needs to know one form only.

use crate::syndrome::{EC_SHIFT, ExceptionClass, IL};

/// What an instruction of the host's in virtual EL2 is, by its syndrome at EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// ESR_EL2, bits 31:0.
    pub esr: u32,
    /// The general-purpose register that it reads or writes, if any.
    pub rt: Option<u8>,
    /// It writes that register.
    pub is_read: bool,
}

/// Finds out what `word` is; nothing for an instruction that is none of those that virtual EL2 executes.
#[must_use]
pub const fn instruction(word: u32) -> Option<Instruction> {
    const fn esr(class: ExceptionClass, iss: u32) -> u32 {
        (class as u32) << EC_SHIFT | IL as u32 | iss
    }
    // C4.1, "System instructions with register argument", "System register move", "Exception generation".
    if word >> 22 == 0b11_0101_0100 && word >> 19 & 3 != 0 {
        let is_read = word >> 21 & 1 != 0;
        let [op0, op1, crn] = [word >> 19 & 3, word >> 16 & 7, word >> 12 & 15];
        let [crm, op2, rt] = [word >> 8 & 15, word >> 5 & 7, word & 31];
        let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1 | is_read as u32;
        return Some(Instruction { esr: esr(ExceptionClass::SystemRegister, iss), rt: Some(rt as u8), is_read });
    }
    let class = match word & 0xffe0_001f {
        0xd400_0002 => ExceptionClass::Hvc64,
        0xd400_0003 => ExceptionClass::Smc64,
        _ if word & 0xffff_f3ff == 0xd69f_03e0 || word == 0xd69f_03e0 => ExceptionClass::Eret,
        _ => return None,
    };
    let iss = if matches!(class, ExceptionClass::Eret) { 0 } else { word >> 5 & 0xffff };
    Some(Instruction { esr: esr(class, iss), rt: None, is_read: false })
}
