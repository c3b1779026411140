//! What a trace record says of an instruction that virtual EL2 executes.
//!
//! It comes as an undefined instruction, whose syndrome says nothing. The record gets the syndrome that the same one
//! would have at EL1, so that a reader needs to know one form only.

use crate::syndrome::{EC_SHIFT, Esr, ExceptionClass, IL};

/// The syndrome of `word` at EL1; nothing for an instruction that is none of those that virtual EL2 executes.
#[must_use]
pub const fn syndrome(word: u32) -> Option<Esr> {
    const fn esr(class: ExceptionClass, iss: u32) -> Esr {
        Esr::new((class as u64) << EC_SHIFT | IL | iss as u64)
    }
    // C4.1, "System instructions with register argument", "System register move", "Exception generation".
    if word >> 22 == 0b11_0101_0100 && word >> 19 & 3 != 0 {
        let is_read = word >> 21 & 1;
        let [op0, op1, crn] = [word >> 19 & 3, word >> 16 & 7, word >> 12 & 15];
        let [crm, op2, rt] = [word >> 8 & 15, word >> 5 & 7, word & 31];
        let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1 | is_read;
        return Some(esr(ExceptionClass::SystemRegister, iss));
    }
    let class = match word & 0xffe0_001f {
        0xd400_0002 => ExceptionClass::Hvc64,
        0xd400_0003 => ExceptionClass::Smc64,
        _ if word & 0xffff_f3ff == 0xd69f_03e0 || word == 0xd69f_03e0 => ExceptionClass::Eret,
        _ => return None,
    };
    let iss = if matches!(class, ExceptionClass::Eret) { 0 } else { word >> 5 & 0xffff };
    Some(esr(class, iss))
}
