//! System registers that are reached by their encoding: the ID registers that say what a CPU has, and those that are
//! set accordingly.
//!
//! Which register gets which value is decided in `hypervisor::features`; here is only the access. By encoding, because
//! an assembler knows a name only for the architecture version that it is told of. Here and in [`crate::virtual_el2`] a
//! register is a number in a list, and the instructions stand in the order of that list: a match would make a table of
//! addresses besides.

use core::arch::{asm, naked_asm};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{FAR_EL1, FAR_EL2, HCR_EL2, ID_AA64PFR0_EL1, Readable, Writeable};
use hypervisor::features::{E2hProbe, IdRegister, IdRegisters, Register};
use hypervisor::{el2_registers, id_registers, virtual_el2_id_space};

macro_rules! reader {
    ($($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {
        /// Reads an ID register.
        ///
        /// # Safety
        /// The CPU has the feature that the register comes with.
        #[unsafe(naked)]
        pub unsafe extern "C" fn read(register: IdRegister) -> u64 {
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
pub fn identify(ids: &mut IdRegisters) {
    // SAFETY: `learn` asks only for registers that the CPU has and lets EL2 have.
    ids.learn(|register| unsafe { read(register) });
}

/// Looks whether HCR_EL2.E2H can be 0, which was written to it. With the MMU off, before anything depends on FAR_EL1.
pub fn probe_e2h() -> E2hProbe {
    FAR_EL1.set(E2hProbe::TO_FAR_EL1);
    barrier::isb(barrier::SY);
    FAR_EL2.set(E2hProbe::TO_FAR_EL2);
    barrier::isb(barrier::SY);
    // SAFETY: every CPU has the registers of the ID space.
    let mmfr4 = unsafe { read(IdRegister::Mmfr4) };
    E2hProbe { mmfr4, hcr_el2: HCR_EL2.get(), far_el1: FAR_EL1.get() }
}

/// Whether there is an EL3, which can trap EL2's accesses.
pub fn has_el3() -> bool {
    // ID_AA64PFR0_EL1.EL3, bits [15:12].
    ID_AA64PFR0_EL1.get() >> 12 & 0xf != 0
}

macro_rules! id_reader {
    ($($crm:literal, $op2:literal;)*) => {
        /// Reads the register of the ID space with this place in the list.
        ///
        /// # Safety
        /// It is in the list.
        #[unsafe(naked)]
        unsafe extern "C" fn read_listed_id(index: u8) -> u64 {
            naked_asm!(
                "ubfiz x9, x0, #3, #8", // two instructions each
                "adr x10, 2f",
                "add x9, x10, x9",
                "br x9",
                "2:",
                $(concat!("mrs x0, S3_0_C0_C", $crm, "_", $op2), "ret",)*
            )
        }

        /// CRm and op2 of the registers in the list.
        const ID_SPACE: &[(u8, u8)] = &[$(($crm, $op2),)*];
    };
}

virtual_el2_id_space!(id_reader);

// The list goes through all op2 of CRm 1, then of CRm 2, and so on.
const _: () = {
    let mut index = 0;
    while index < ID_SPACE.len() {
        let (crm, op2) = ID_SPACE[index];
        assert!(index == id_index(crm, op2));
        index += 1;
    }
};

/// The place of `S3_0_C0_C<crm>_<op2>` in the list; beyond its end if it is not there.
const fn id_index(crm: u8, op2: u8) -> usize {
    (crm as usize * 8 + op2 as usize).wrapping_sub(8)
}

/// Reads `S3_0_C0_C<crm>_<op2>`, any register of the ID space: those that are not defined read as zero.
pub fn read_id(crm: u8, op2: u8) -> u64 {
    let index = id_index(crm, op2);
    if op2 < 8 && index < ID_SPACE.len() {
        // SAFETY: in the list; every encoding of the ID space can be read on every CPU (Arm ARM D24.1).
        unsafe { read_listed_id(index as u8) }
    } else {
        0
    }
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
