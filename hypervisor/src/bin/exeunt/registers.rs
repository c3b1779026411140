//! System registers that are reached by their encoding: the ID registers that say what a CPU has, and those that are set
//! accordingly.
//!
//! Which register gets which value is decided in `hypervisor::features`; here is only the access. By encoding, because an
//! assembler knows a name only for the architecture version that it is told of.

use core::arch::asm;

use hypervisor::features::{IdRegister, IdRegisters, Register};
use hypervisor::{el2_registers, id_registers};

macro_rules! reader {
    ($($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {
        /// Reads an ID register.
        ///
        /// # Safety
        /// The CPU has the feature that the register comes with.
        unsafe fn read(register: IdRegister) -> u64 {
            let value: u64;
            match register {
                $(IdRegister::$name => {
                    // SAFETY: reads a register that exists, as the caller promises, and changes nothing.
                    unsafe {
                        asm!(
                            concat!("mrs {}, S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2),
                            out(reg) value, options(nomem, nostack, preserves_flags)
                        );
                    }
                })*
            }
            value
        }
    };
}

id_registers!(reader);

macro_rules! writer {
    ($($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {
        /// Writes a register.
        ///
        /// # Safety
        /// The CPU has the register, and the value is one under which Exeunt goes on running.
        pub unsafe fn write(register: Register, value: u64) {
            match register {
                $(Register::$name => {
                    // SAFETY: promised by the caller.
                    unsafe {
                        asm!(
                            concat!("msr S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2, ", {}"),
                            in(reg) value, options(nostack, preserves_flags)
                        );
                    }
                })*
            }
        }
    };
}

el2_registers!(writer);

/// Reads what this CPU says of itself.
pub fn identify() -> IdRegisters {
    // SAFETY: `IdRegisters::read` asks only for registers of features that it has seen.
    IdRegisters::read(|register| unsafe { read(register) })
}

macro_rules! el1_register {
    ($reader:ident, $words:literal, $name:literal) => {
        #[doc = concat!("Reads ", $words, ".")]
        ///
        /// # Safety
        /// The CPU has it.
        pub unsafe fn $reader() -> u64 {
            let value: u64;
            // SAFETY: promised by the caller.
            unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }
    };
}

el1_register!(sctlr2_el1, "SCTLR2_EL1", "S3_0_C1_C0_3");
el1_register!(gcscr_el1, "GCSCR_EL1", "S3_0_C2_C5_0");
