//! Lab 2, your part: decode a syndrome (docs/labs/lab-2.md).

use labs::decode::Access;

/// What the access was, by ESR_EL2.
pub fn decode(esr: u64) -> Access {
    Access {
        class: (esr >> 26) as u8,
        // Yours: ISS bits of a data abort (Arm ARM D24.2, ESR_EL2).
        is_write: false,
        bytes: 1,
        register: 0,
        is_permission_fault: false,
        level: 0,
    }
}
