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
use log::warn;

use crate::guarded::{Access, guarded_asm, guarded_table};

macro_rules! reader {
    ($($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {
        /// Reads an ID register.
        ///
        /// # Safety
        /// Reading has no effect: nothing to promise.
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.guarded")]
        unsafe extern "C" fn read_one(register: IdRegister) -> Access {
            naked_asm!(guarded_table!("x0";
                $(concat!("mrs x0, S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2),)*
            ))
        }
    };
}

id_registers!(reader);

/// Reads an ID register. One that the CPU refuses, though it has shown the feature that the register comes with, reads
/// as 0. If EL3 traps it, firmware decides whether this comes back.
pub fn read(register: IdRegister) -> u64 {
    // SAFETY: see there.
    unsafe { read_one(register) }.result().unwrap_or(0)
}

macro_rules! writer {
    ($($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {
        /// Writes a register.
        ///
        /// # Safety
        /// The value is one under which Exeunt goes on running.
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.guarded")]
        unsafe extern "C" fn write_one(value: u64, register: Register) -> Access {
            naked_asm!(guarded_table!("x1";
                $(concat!("msr S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2, ", x0"),)*
            ))
        }
    };
}

el2_registers!(writer);

/// Writes a register. Nothing if the CPU refuses that, though it has shown the feature that the register comes with.
///
/// # Safety
/// The value is one under which Exeunt goes on running.
pub unsafe fn try_write(register: Register, value: u64) -> Option<()> {
    // SAFETY: promised by the caller.
    unsafe { write_one(value, register) }.done()
}

/// Writes a register. If the CPU refuses that, there is a line in the log: the register stays as firmware has left it,
/// and if the host minds, it will say so.
///
/// # Safety
/// As for [`try_write`].
pub unsafe fn write(register: Register, value: u64) {
    // SAFETY: promised by the caller.
    if unsafe { try_write(register, value) }.is_none() {
        warn!("{} cannot be written, though ID registers say that it is there", register.name());
    }
}

/// Reads what this CPU says of itself. Out of the way of those that ask again.
#[cold]
#[inline(never)]
pub fn identify(ids: &mut IdRegisters) {
    ids.learn(read);
}

/// Looks whether HCR_EL2.E2H can be 0, which was written to it. With the MMU off, before anything depends on FAR_EL1.
pub fn probe_e2h() -> E2hProbe {
    FAR_EL1.set(E2hProbe::TO_FAR_EL1);
    barrier::isb(barrier::SY);
    FAR_EL2.set(E2hProbe::TO_FAR_EL2);
    barrier::isb(barrier::SY);
    E2hProbe { mmfr4: read(IdRegister::Mmfr4), hcr_el2: HCR_EL2.get(), far_el1: FAR_EL1.get() }
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
        #[unsafe(link_section = ".text.guarded")]
        unsafe extern "C" fn read_listed_id(index: u8) -> Access {
            naked_asm!(guarded_table!("x0"; $(concat!("mrs x0, S3_0_C0_C", $crm, "_", $op2),)*))
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

/// Reads `S3_0_C0_C<crm>_<op2>`, any register of the ID space: those that are not defined read as zero, and so does one
/// that the CPU refuses nevertheless.
pub fn read_id(crm: u8, op2: u8) -> u64 {
    let index = id_index(crm, op2);
    if op2 < 8 && index < ID_SPACE.len() {
        // SAFETY: in the list; every encoding of the ID space can be read on every CPU (Arm ARM D24.1).
        unsafe { read_listed_id(index as u8) }.result().unwrap_or(0)
    } else {
        0
    }
}

macro_rules! el1_register {
    ($reader:ident, $words:literal, $name:literal) => {
        #[doc = concat!("Reads ", $words, "; 0 if the CPU refuses that.")]
        pub fn $reader() -> u64 {
            #[unsafe(naked)]
            #[unsafe(link_section = ".text.guarded")]
            unsafe extern "C" fn read() -> Access {
                naked_asm!(guarded_asm!(concat!("mrs x0, ", $name), "ret"))
            }
            // SAFETY: reading has no effect.
            unsafe { read() }.result().unwrap_or(0)
        }
    };
}

el1_register!(sctlr2_el1, "SCTLR2_EL1", "S3_0_C1_C0_3");
el1_register!(vsesr_el2, "VSESR_EL2", "S3_4_C5_C2_3");
el1_register!(gcscr_el1, "GCSCR_EL1", "S3_0_C2_C5_0");

/// Has this CPU take note of a physical SError that is pending at it and that EL2 masks (ESB), and gives what DISR_EL1
/// says of that. It is pending no longer. DISR_EL1 is then the host's again.
///
/// # Safety
/// The CPU has FEAT_RAS.
pub unsafe fn error_barrier() -> u64 {
    let disr: u64;
    // SAFETY: promised by the caller. ESB is HINT #16.
    unsafe {
        asm!(
            "dsb sy",
            "mrs {host}, S3_0_C12_C1_1",
            "msr S3_0_C12_C1_1, xzr",
            "hint #16",
            "mrs {disr}, S3_0_C12_C1_1",
            "msr S3_0_C12_C1_1, {host}",
            host = out(reg) _, disr = out(reg) disr, options(nostack, preserves_flags)
        );
    }
    disr
}
