//! Lab 2, a solution.

use labs::decode::Access;

/// What the access was, by ESR_EL2.
pub fn decode(esr: u64) -> Access {
    // DFSC, bits [5:0]: 0b0001LL is a translation fault at level LL, 0b0011LL a permission fault.
    let status = esr & 0x3f;
    Access {
        class: (esr >> 26) as u8,
        is_write: esr >> 6 & 1 != 0,        // WnR
        bytes: 1 << (esr >> 22 & 0b11),     // SAS
        register: (esr >> 16 & 0x1f) as u8, // SRT
        is_permission_fault: status >> 2 == 0b0011,
        level: (status & 0b11) as u8,
    }
}
