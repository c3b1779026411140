//! The host in virtual EL2: the registers and the memory that `hypervisor::virtual_el2` asks for.
//!
//! Owns the accesses, all of which are guarded; what an instruction does is decided in the library. Used on the way
//! into the host and for every exception until the host has gone to EL1.

use core::arch::naked_asm;
use core::sync::atomic::Ordering;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{ELR_EL2, FAR_EL2, Readable, SPSR_EL2, Writeable};
use hypervisor::features::{self, Unit, Units};
use hypervisor::syndrome::Esr;
use hypervisor::virtual_el2::Refused;
use hypervisor::virtual_el2::registers::Register;
use hypervisor::virtual_el2::system::{Maintenance, SetWay};
use hypervisor::{virtual_el2, virtual_el2_maintenance, virtual_el2_registers, virtual_el2_set_way};

use crate::guarded::{Access, guarded_table};
use crate::trap::Trap;
use crate::{blackbox, gic, memory, registers, serror};

macro_rules! accessors {
    ($($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal,
        $access:expr, $needs:expr;)*) => {
        /// Reads a register.
        ///
        /// # Safety
        /// It is one of EL1's and EL0's, or reading has no effect.
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.guarded")]
        unsafe extern "C" fn read(register: Register) -> Access {
            naked_asm!(guarded_table!("x0";
                $(concat!("mrs x0, S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2),)*
            ))
        }

        /// Writes a register.
        ///
        /// # Safety
        /// It is one of EL1's and EL0's, which nothing at EL2 depends on.
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.guarded")]
        unsafe extern "C" fn write(value: u64, register: Register) -> Access {
            naked_asm!(guarded_table!("x1";
                $(concat!("msr S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2, ", x0"),)*
            ))
        }
    };
}

virtual_el2_registers!(accessors);

macro_rules! maintainer {
    ($($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {
        /// Executes maintenance of all there is. It is not complete when this returns.
        ///
        /// # Safety
        /// The TLB and the instruction cache are filled again from what memory holds: nothing to promise.
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.guarded")]
        unsafe extern "C" fn maintain(instruction: Maintenance) -> Access {
            naked_asm!(guarded_table!("x0"; $(concat!("sys #", $op1, ", C", $crn, ", C", $crm, ", #", $op2),)*))
        }
    };
}

virtual_el2_maintenance!(maintainer);

macro_rules! set_way_maintainer {
    ($($name:ident, $words:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {
        /// Executes cache maintenance by set and way. It is not complete when this returns.
        ///
        /// # Safety
        /// Each of these cleans, so that no data is lost: nothing to promise.
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.guarded")]
        unsafe extern "C" fn maintain_set_way(operand: u64, instruction: SetWay) -> Access {
            naked_asm!(guarded_table!("x1";
                $(concat!("sys #", $op1, ", C", $crn, ", C", $crm, ", #", $op2, ", x0"),)*
            ))
        }
    };
}

virtual_el2_set_way!(set_way_maintainer);

impl virtual_el2::Cpu for Trap<'_> {
    fn x(&self, number: u8) -> u64 {
        self.frame.x[usize::from(number)]
    }

    fn set_x(&mut self, number: u8, value: u64) {
        self.frame.x[usize::from(number)] = value;
    }

    fn elr(&self) -> u64 {
        ELR_EL2.get()
    }

    fn spsr(&self) -> u64 {
        SPSR_EL2.get()
    }

    fn far(&self) -> u64 {
        FAR_EL2.get()
    }

    fn set_return(&mut self, elr: u64, spsr: u64) {
        ELR_EL2.set(elr);
        SPSR_EL2.set(spsr);
    }

    fn fetch(&mut self, address: u64) -> Option<u32> {
        // Mostly it is in the page that the last one was in.
        let word = match memory::fetch_shown(self.cpu, address) {
            Some(word) => word,
            None if !self.machine.ram.is_open(address) => return None,
            // SAFETY: this CPU, and the host's RAM.
            None => unsafe { memory::fetch(self.cpu, address) }.ok()?,
        };
        self.cpu.instruction.store(word, Ordering::Relaxed);
        Some(word)
    }

    fn read(&mut self, register: Register) -> Option<u64> {
        // SAFETY: all that are in the table can be read so.
        unsafe { read(register) }.result().ok()
    }

    fn read_id(&mut self, crm: u8, op2: u8) -> u64 {
        registers::read_id(crm, op2)
    }

    fn write(&mut self, register: Register, value: u64) -> Option<()> {
        // SAFETY: as for `read`.
        unsafe { write(value, register) }.done()
    }

    fn gic_holds(&self) -> bool {
        self.machine.gic_holds
    }

    fn void(&self) -> u64 {
        // Exeunt's own text.
        memory::reservation().start
    }

    fn gicc_pmr(&mut self) -> Option<u32> {
        self.machine.gicv2.and_then(gic::priority_mask)
    }

    fn set_gicc_pmr(&mut self, value: u32) {
        if let Some(gic) = self.machine.gicv2 {
            gic::set_priority_mask(gic, value);
        }
    }

    fn counted(&mut self, register: usize, accesses: u32) {
        blackbox::count_register(register, accesses);
    }

    fn take_serror(&mut self) -> Option<Esr> {
        serror::take(self.cpu)
    }

    fn open(&mut self, unit: Unit) -> Units {
        Self::open(self, unit)
    }

    fn write_el2(&mut self, register: features::Register, value: u64) -> Option<()> {
        let value = value & !features::shut(self.cpu.ids(), self.cpu.opened(), register);
        // SAFETY: the library keeps to values that leave Exeunt what it runs under.
        unsafe { registers::try_write(register, value) }
    }

    fn maintain(&mut self, instruction: Maintenance) -> Option<()> {
        // SAFETY: see there.
        let done = unsafe { maintain(instruction) }.done();
        barrier::dsb(barrier::SY);
        barrier::isb(barrier::SY);
        done
    }

    fn maintain_set_way(&mut self, instruction: SetWay, operand: u64) -> Option<()> {
        // SAFETY: see there.
        let done = unsafe { maintain_set_way(operand, instruction) }.done();
        barrier::dsb(barrier::SY);
        done
    }

    fn clean_and_invalidate(&mut self, address: u64, tags: bool) -> Result<(), Refused> {
        if !self.machine.ram.is_open(address) {
            return Err(Refused::NoMemory);
        }
        // SAFETY: this CPU, and the host's RAM.
        unsafe { memory::clean_host_line(self.cpu, address, tags) }.map_err(Refused::of)
    }
}
