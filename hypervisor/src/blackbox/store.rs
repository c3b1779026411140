//! Stores of the host's into the black box: which of them have no effect, as one into a ROM has none.
//!
//! Who writes there by mistake gets an external abort as everywhere in Exeunt's memory, where the host could learn
//! something from it. But one who writes there has no choice: a Linux that resumes from hibernation puts every page
//! back that its image has, reserved ones too, and with no vectors of its own to take an abort to. So a store that is
//! nothing but a store is passed over. One with a result, an exclusive or an atomic, cannot be.

/// What of a store has to be done although its memory does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Nothing.
    Plain,
    /// The base register moves on by as many bytes.
    Moves {
        /// Its number; 31 is the stack pointer.
        base: u8,
        /// By how many bytes.
        by: i16,
    },
}

/// Whether the A64 instruction `word` is a store that can be passed over (Arm ARM C4.1, "Loads and Stores").
#[must_use]
pub const fn of(word: u32) -> Option<Store> {
    let base = (word >> 5 & 31) as u8;
    // DC ZVA.
    if word & 0xffff_ffe0 == 0xd50b_7420 {
        return Some(Store::Plain);
    }
    // Bit 27 and not 25 of each class of loads and stores; bit 26 says SIMD.
    let is_simd = word >> 26 & 1 != 0;
    match word >> 27 & 7 {
        // A pair: opc, no load; indexing by bits 24:23.
        0b101 if word >> 25 & 1 == 0 && word >> 22 & 1 == 0 => {
            let scale = match (word >> 30, is_simd) {
                (0, false) => 2,
                (2, false) => 3,
                (opc @ 0..3, true) => 2 + opc,
                // Tags with it (STGP), or none.
                _ => return None,
            };
            let by = ((word << 10).cast_signed() >> 25) << scale;
            match word >> 23 & 3 {
                1 | 3 => Some(Store::Moves { base, by: by as i16 }),
                _ => Some(Store::Plain),
            }
        }
        // One register. opc 0 is a store; with SIMD opc 2 of size 0 is one of 128 bits.
        0b111 if word >> 25 & 1 == 0 => {
            let opc = word >> 22 & 3;
            if opc != 0 && !(is_simd && opc == 2 && word >> 30 == 0) {
                return None;
            }
            if word >> 24 & 1 != 0 {
                return Some(Store::Plain);
            }
            let by = ((word << 11).cast_signed() >> 23) as i16;
            match (word >> 21 & 1, word >> 10 & 3) {
                (0, 0 | 2) | (1, 2) => Some(Store::Plain),
                (0, _) => Some(Store::Moves { base, by }),
                // Atomics.
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nothing_but_a_store_is_passed_over() {
        for (word, what) in [
            (0xf900_0020_u32, "str x0, [x1]"),
            (0x3900_0020, "strb w0, [x1]"),
            (0xf820_6822, "str x2, [x1, x0]"),
            (0xf800_8020, "stur x0, [x1, #8]"),
            (0xa900_0440, "stp x0, x1, [x2]"),
            (0xa801_0440, "stnp x0, x1, [x2, #16]"),
            (0x2900_0440, "stp w0, w1, [x2]"),
            (0xad00_0440, "stp q0, q1, [x2]"),
            (0x3d80_0020, "str q0, [x1]"),
            (0xd50b_7420, "dc zva, x0"),
        ] {
            assert_eq!(of(word), Some(Store::Plain), "{what}");
        }
        for (word, base, by, what) in [
            (0xf800_8c20_u32, 1, 8, "str x0, [x1, #8]!"),
            (0xf81f_8420, 1, -8, "str x0, [x1], #-8"),
            (0xa9bf_07e0, 31, -16, "stp x0, x1, [sp, #-16]!"),
            (0xa881_0440, 2, 16, "stp x0, x1, [x2], #16"),
            (0xac81_0440, 2, 32, "stp q0, q1, [x2], #32"),
            (0x3c81_0420, 1, 16, "str q0, [x1], #16"),
        ] {
            assert_eq!(of(word), Some(Store::Moves { base, by }), "{what}");
        }
    }

    #[test]
    fn what_gives_something_back_is_not() {
        for (word, what) in [
            (0xf940_0020_u32, "ldr x0, [x1]"),
            (0xa940_0440, "ldp x0, x1, [x2]"),
            (0xc800_7c41, "stxr w0, x1, [x2]"),
            (0xf820_0022, "ldadd x0, x2, [x1]"),
            (0xf820_8022, "swp x0, x2, [x1]"),
            (0xc8a0_7c22, "cas x0, x2, [x1]"),
            (0x6900_0440, "stgp x0, x1, [x2]"),
            (0x3dc0_0020, "ldr q0, [x1]"),
            (0xf980_0020, "prfm"),
            (0xd503_201f, "nop"),
        ] {
            assert_eq!(of(word), None, "{what}");
        }
    }
}
