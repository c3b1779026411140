//! System registers that are reached by their encoding: the ID registers that say what a CPU has, and those that are set
//! accordingly.
//!
//! Which register gets which value is decided in `hypervisor::features`; here is only the access. By encoding, because an
//! assembler knows a name only for the architecture version that it is told of. Here and in [`crate::virtual_el2`] a register is a number in a
//! list, and the instructions stand in the order of that list: a match would make a table of addresses besides.

use core::arch::{asm, naked_asm};

use hypervisor::features::{IdRegister, IdRegisters, Register};
use hypervisor::{el2_registers, id_registers};

macro_rules! reader {
    ($($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {
        /// Reads an ID register.
        ///
        /// # Safety
        /// The CPU has the feature that the register comes with.
        #[unsafe(naked)]
        unsafe extern "C" fn read(register: IdRegister) -> u64 {
            naked_asm!(
                "ubfiz x9, x0, #3, #8", // two instructions each
                "adr x10, 2f",
                "add x9, x10, x9",
                "br x9",
                "2:",
                $(concat!("mrs x0, S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2), "ret",)*
            )
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
        #[unsafe(naked)]
        pub unsafe extern "C" fn write(register: Register, value: u64) {
            naked_asm!(
                "ubfiz x9, x0, #3, #8", // two instructions each
                "adr x10, 2f",
                "add x9, x10, x9",
                "br x9",
                "2:",
                $(concat!("msr S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2, ", x1"), "ret",)*
            )
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
