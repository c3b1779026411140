//! How often each CPU came to EL2, and why.
//!
//! Owns the numbers and how they are printed. A CPU counts its own exits only; anyone may read them at any time.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::syndrome::{CLASSES, Esr, ExceptionClass};

macro_rules! exits {
    ($($(#[$doc:meta])* $name:ident, $words:literal;)*) => {
        /// What an exit is counted as. The 64 exception classes are too many for a line; these are the ones that tell
        /// something.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Exit {
            $($(#[$doc])* $name,)*
        }

        impl Exit {
            /// Every kind, in the order in which they are printed.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in the summary line.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)*
                }
            }
        }
    };
}

exits! {
    /// SMC, trapped by HCR_EL2.TSC.
    Smc, "smc";
    /// HVC.
    Hvc, "hvc";
    /// Data abort from EL1 or EL0.
    DataAbort, "data abort";
    /// Instruction abort from EL1 or EL0.
    InstructionAbort, "instruction abort";
    /// MSR, MRS or system instruction.
    SystemRegister, "system register";
    /// An instruction that is undefined: of a host in virtual EL2, its access to a register of EL2.
    Undefined, "undefined";
    /// Any other synchronous exception.
    OtherSync, "other";
    /// IRQ, FIQ or SError.
    Interrupt, "interrupt";
}

/// Kinds by exception class.
static KINDS: [Exit; CLASSES] = {
    let mut kinds = [Exit::OtherSync; CLASSES];
    kinds[ExceptionClass::Smc64 as usize] = Exit::Smc;
    kinds[ExceptionClass::Smc32 as usize] = Exit::Smc;
    kinds[ExceptionClass::Hvc64 as usize] = Exit::Hvc;
    kinds[ExceptionClass::Hvc32 as usize] = Exit::Hvc;
    kinds[ExceptionClass::DataAbortLower as usize] = Exit::DataAbort;
    kinds[ExceptionClass::InstructionAbortLower as usize] = Exit::InstructionAbort;
    kinds[ExceptionClass::SystemRegister as usize] = Exit::SystemRegister;
    kinds[ExceptionClass::SystemRegister128 as usize] = Exit::SystemRegister;
    kinds[ExceptionClass::Unknown as usize] = Exit::Undefined;
    kinds[ExceptionClass::SError as usize] = Exit::Interrupt;
    kinds
};

/// What a synchronous exception is counted as.
#[must_use]
pub fn kind(esr: Esr) -> Exit {
    KINDS[usize::from(esr.class_bits()) % CLASSES]
}

/// The exits of one CPU: 64 bytes, one line of the usual cache.
#[derive(Debug)]
pub struct Counters {
    exits: [AtomicU64; Exit::ALL.len()],
}

const _: () = assert!(size_of::<Counters>() == 64);

impl Counters {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self { exits: [const { AtomicU64::new(0) }; Exit::ALL.len()] }
    }

    /// Counts one exit. Only the CPU that these counters belong to may call it: a load and a store, no
    /// read-modify-write, so that another writer's count would be lost. Readers see old or new, never a torn number.
    pub fn count(&self, exit: Exit) {
        let counter = &self.exits[exit as usize];
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Where the counter of a kind lies in this structure, for code that counts without calling.
    #[must_use]
    pub const fn offset(exit: Exit) -> usize {
        core::mem::offset_of!(Self, exits) + exit as usize * size_of::<AtomicU64>()
    }

    /// Counts one synchronous exception by its class, ESR_EL2.EC.
    pub fn count_class(&self, class_bits: u8) {
        self.count(KINDS[usize::from(class_bits) % CLASSES]);
    }

    /// Adds what `other` has counted: for a sum over CPUs, in counters that belong to none.
    pub fn add(&self, other: &Self) {
        for &exit in Exit::ALL {
            let sum = self.get(exit).wrapping_add(other.get(exit));
            self.exits[exit as usize].store(sum, Ordering::Relaxed);
        }
    }

    /// How many exits of this kind there were.
    #[must_use]
    pub fn get(&self, exit: Exit) -> u64 {
        self.exits[exit as usize].load(Ordering::Relaxed)
    }

    /// How many exits there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        Exit::ALL.iter().fold(0, |sum, &exit| sum.wrapping_add(self.get(exit)))
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("exits:")?;
        for (i, &exit) in Exit::ALL.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma} {} {}", exit.words(), self.get(exit))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_counted_by_what_they_were() {
        let counters = Counters::new();
        for _ in 0..9 {
            counters.count_class(ExceptionClass::Smc64 as u8);
        }
        counters.count_class(ExceptionClass::DataAbortLower as u8);
        counters.count_class(ExceptionClass::InstructionAbortLower as u8);
        counters.count_class(ExceptionClass::InstructionAbortLower as u8);
        counters.count_class(ExceptionClass::Unknown as u8);
        counters.count_class(ExceptionClass::Wfx as u8);
        counters.count_class(ExceptionClass::Sve as u8);
        counters.count_class(0x3f);
        counters.count_class(0xff);
        counters.count(Exit::Interrupt);
        assert_eq!(
            counters.to_string(),
            "exits: smc 9, hvc 0, data abort 1, instruction abort 2, system register 0, undefined 1, other 4, \
             interrupt 1"
        );
        assert_eq!((counters.get(Exit::Smc), counters.total()), (9, 18));
    }

    #[test]
    fn every_class_has_a_kind() {
        let counters = Counters::default();
        for class in 0..=u8::MAX {
            counters.count_class(class);
        }
        assert_eq!(counters.total(), 256);
    }

    #[test]
    fn a_full_counter_begins_again() {
        let counters = Counters::new();
        counters.exits[Exit::Undefined as usize].store(u64::MAX, Ordering::Relaxed);
        counters.count(Exit::Undefined);
        assert_eq!(counters.get(Exit::Undefined), 0);
    }
}
