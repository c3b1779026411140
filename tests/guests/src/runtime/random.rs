//! Random numbers that a printed seed repeats: xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift
//! generators, scrambled").

/// A generator; not for secrets.
pub struct Random(u64);

impl Random {
    /// A generator whose sequence depends on `seed` only.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // The state must not be zero, and neighbouring seeds must not give neighbouring sequences.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub const fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// A 64-bit value of the kinds that find mistakes: small, negative, a single bit, an address, anything.
    pub const fn value(&mut self) -> u64 {
        let raw = self.next();
        match self.below(8) {
            0 => raw & 0xf,
            1 => !(raw & 0xff),
            2 => 1 << (raw & 63),
            3 => raw & 0xffff_ffff,
            4 => 0x4000_0000 + (raw & 0x3fff_ffff),
            _ => raw,
        }
    }
}
