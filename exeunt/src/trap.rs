//! One exit: the host's registers, the CPU that it ran on, and the machine.
//!
//! Owns the accesses that `hypervisor::trap` asks for.

use aarch64_cpu::registers::{
    ELR_EL1, ELR_EL2, ESR_EL1, FAR_EL1, FAR_EL2, HCR_EL2, HPFAR_EL2, Readable, SCTLR_EL1, SP_EL0, SP_EL1, SPSR_EL1,
    SPSR_EL2, TCR_EL1, TTBR0_EL1, TTBR1_EL1, VBAR_EL1, Writeable,
};
use guest_abi::vendor::{Error, PANIC_SYNDROME};
use hypervisor::blackbox::Kind;
use hypervisor::blackbox::store::{self, Store};
use hypervisor::features::{self, IdRegister, Unit, Units};
use hypervisor::inject::{self, Entry, Exception, PstateFeatures, pstate};
use hypervisor::lifecycle::Round;
use hypervisor::paging::stage1_walk;
use hypervisor::panic_request;
use hypervisor::ratelimit::RateLimit;
use hypervisor::rescue::Point;
use hypervisor::syndrome::{Abort, Encoding, Esr, SystemAccess};
use hypervisor::trap::{self, Machine as _, Vcpu};
use hypervisor::virtual_el2::{self, VirtualEl2};
use log::{debug, info, warn};

use crate::cpu::PerCpu;
use crate::faults::fault_point;
use crate::frame::HostFrame;
use crate::machine::Machine;
use crate::{blackbox, guard, memory, registers, stage2, ticks};

/// A CPU that has trapped.
pub struct Trap<'a> {
    /// The host's registers.
    pub frame: &'a mut HostFrame,
    /// The CPU.
    pub cpu: &'static PerCpu,
    /// The machine.
    pub machine: &'static Machine,
}

impl Trap<'_> {
    fn is_open(&self, unit: Unit) -> bool {
        unit.is_open(self.cpu.ids(), self.cpu.opened())
    }

    /// The instruction that has trapped, of a host at EL1 or EL0 in AArch64.
    fn instruction(&self) -> Option<u32> {
        if SPSR_EL2.get() & pstate::NRW != 0 {
            return None;
        }
        let address = stage2::host_ipa(ELR_EL2.get())?;
        if !self.machine.ram.is_open(address) {
            return None;
        }
        // SAFETY: this CPU, and the host's RAM.
        let word = unsafe { memory::fetch(self.cpu, address) };
        // SAFETY: this CPU.
        unsafe { memory::hide_all(self.cpu) };
        word.ok()
    }

    /// Opens a unit that waits, if that was not done yet, and tells which are open.
    pub fn open(&self, unit: Unit) -> Units {
        let opened = self.cpu.opened();
        if opened.contains(unit) {
            return opened;
        }
        let (ids, opened) = (self.cpu.ids(), opened.with(unit));
        self.cpu.set_opened(opened);
        // Before the first register that may be EL3's: it could be the last line.
        info!("CPU {}: the host asks for {}", self.cpu.index(), unit.name());
        // SAFETY: the CPU has the unit, and firmware lets the host have it, or the machine ends as it would without
        // Exeunt; none of these registers changes what Exeunt itself runs under.
        let write = |register, value| unsafe { registers::write(register, value) };
        features::open(ids, unit, opened, || registers::read(IdRegister::Mpamidr), write);
        opened
    }
}

impl Trap<'_> {
    /// Should Exeunt die on this CPU now, the host goes on here, with the registers that it has.
    #[cold]
    #[inline(never)]
    pub fn goes_on_at(&self, pc: u64, pstate: u64) {
        let [x0, x1, x2, x3, ..] = self.frame.x;
        self.cpu.set_point(&Point { pc, pstate, esr: 0, x: [x0, x1, x2, x3] });
    }

    /// This CPU, which is held in `round`, is the target of a PANIC: its host takes the SError, or cannot.
    #[cold]
    #[inline(never)]
    pub fn panic(&mut self, round: Round) {
        let can = self.can_panic();
        if self.cpu.panic_request.settle(round, can) && can.is_ok() {
            self.panic_here();
        }
    }

    /// Whether the host can panic on this CPU.
    pub fn can_panic(&self) -> Result<(), Error> {
        panic_request::can_take(self.cpu.in_window(), SCTLR_EL1.get())
    }

    /// Has the host, which can, take the SError of a PANIC on this CPU.
    #[cold]
    #[inline(never)]
    pub fn panic_here(&mut self) {
        /// Of its own: the line says why the host panics, whatever else the host has done before.
        static LIMIT: RateLimit = RateLimit::new();
        let (pc, pstate) = (ELR_EL2.get(), SPSR_EL2.get());
        blackbox::event(Kind::Panic, [pc, pstate]);
        blackbox::crumb(self.cpu, *b"panicked");
        trap::limited_by(&LIMIT, self.machine.now(), self.machine.ticks_per_second(), "lines about a PANIC", || {
            warn!("CPU {}: PANIC; the host was at {pc:#x}, PSTATE {pstate:#x}", self.cpu.index());
        });
        trap::inject(self, Exception::SError { esr: PANIC_SYNDROME });
    }
}

/// Moves the host's stack pointer: that which PSTATE.SP selects.
fn move_stack_pointer(by: i16) {
    let by = i64::from(by);
    if SPSR_EL2.get() & (pstate::SP | pstate::EL_MASK) == pstate::EL1H {
        SP_EL1.set(SP_EL1.get().wrapping_add_signed(by));
    } else {
        SP_EL0.set(SP_EL0.get().wrapping_add_signed(by));
    }
}

impl Vcpu for Trap<'_> {
    fn index(&self) -> usize {
        self.cpu.index()
    }

    fn registers(&mut self) -> &mut [u64; 18] {
        self.frame.arguments()
    }

    fn set_register(&mut self, number: u8, value: u64) {
        if let Some(register) = self.frame.x.get_mut(usize::from(number)) {
            *register = value;
        }
    }

    fn elr(&self) -> u64 {
        ELR_EL2.get()
    }

    fn set_return(&mut self, elr: u64, spsr: u64) {
        ELR_EL2.set(elr);
        SPSR_EL2.set(spsr);
    }

    fn spsr(&self) -> u64 {
        SPSR_EL2.get()
    }

    fn far(&self) -> u64 {
        FAR_EL2.get()
    }

    fn hpfar(&self) -> u64 {
        HPFAR_EL2.get()
    }

    fn vbar_el1(&self) -> u64 {
        VBAR_EL1.get()
    }

    fn sctlr_el1(&self) -> u64 {
        SCTLR_EL1.get()
    }

    fn sctlr2_el1(&self) -> u64 {
        // The host has used it if anybody could mind.
        if self.is_open(Unit::Sctlr2) { registers::sctlr2_el1() } else { 0 }
    }

    fn gcscr_el1(&self) -> u64 {
        if self.is_open(Unit::Gcs) { registers::gcscr_el1() } else { 0 }
    }

    fn pstate_features(&self) -> PstateFeatures {
        self.cpu.ids().pstate()
    }

    fn set_el1_exception(&mut self, entry: &Entry) {
        ELR_EL1.set(entry.elr_el1);
        SPSR_EL1.set(entry.spsr_el1);
        ESR_EL1.set(entry.esr_el1);
        if let Some(far) = entry.far_el1 {
            FAR_EL1.set(far);
        }
    }

    fn ask(&mut self, access: Encoding) -> bool {
        let shut = |unit: &Unit| unit.waits(self.cpu.ids()) && !self.cpu.opened().contains(*unit);
        let Some(unit) = Unit::of(access).filter(shut) else { return false };
        self.open(unit);
        true
    }

    #[cold]
    fn interrupt_controller(&mut self, access: SystemAccess) -> bool {
        let register = usize::from(access.register());
        let store = (!access.is_read()).then(|| self.frame.x.get(register).copied().unwrap_or(0));
        let Some(value) = ticks::access(self.cpu, access.encoding(), store) else { return false };
        if access.is_read() {
            self.set_register(access.register(), value);
        }
        true
    }

    fn read_id(&self, register: Encoding) -> Option<u64> {
        let hide = self.machine.hides_stage2_granules();
        if hide && self.cpu.with_virtual_el2(VirtualEl2::count_id_read) {
            HCR_EL2.set(HCR_EL2.get() & !virtual_el2::TID3);
        }
        (hide && virtual_el2::ids::is_id_space(register)).then(|| {
            blackbox::count_register(virtual_el2::registers::count_of_id(register), 1);
            virtual_el2::ids::at_el1(register, registers::read_id(register.crm, register.op2), hide)
        })
    }

    fn allow_execution(&mut self) -> bool {
        let Some(ipa) = stage2::host_ipa(FAR_EL2.get()) else { return true };
        if blackbox::region().has(ipa) || guard::is_crash_kernel(ipa) {
            return false;
        }
        self.machine.stage2.allow_execution(ipa);
        fault_point!("execution");
        debug!("host at {:#x}: executes at {ipa:#x}, outside of RAM", ELR_EL2.get());
        true
    }

    #[cold]
    fn pass_over_store(&mut self, esr: Esr) -> bool {
        // The memory of a fault of permissions is not promised to be in HPFAR_EL2.
        let is_in_box = stage2::host_ipa(FAR_EL2.get()).is_some_and(|ipa| blackbox::region().has(ipa));
        if !is_in_box {
            return false;
        }
        let store = match esr.abort().and_then(Abort::access) {
            Some(_) => Some(Store::Plain),
            None => self.instruction().and_then(store::of),
        };
        match store {
            None => return false,
            Some(Store::Plain) => {}
            Some(Store::Moves { base: 31, by }) => move_stack_pointer(by),
            Some(Store::Moves { base, by }) => {
                let register = &mut self.frame.x[usize::from(base)];
                *register = register.wrapping_add_signed(by.into());
            }
        }
        let (pc, far) = (ELR_EL2.get(), FAR_EL2.get());
        if blackbox::count_ignored_store() == 0 {
            warn!("host at {pc:#x}: writes into the black box, at {far:#x}; its stores there have no effect");
        }
        let (pc, pstate) = inject::skip_instruction(pc, SPSR_EL2.get(), esr.is_32bit_instruction());
        self.set_return(pc, pstate);
        true
    }

    fn has_vectors(&self) -> bool {
        self.cpu.has_vectors()
    }

    fn stage1_level(&self, far: u64, ipa: u64) -> Option<i8> {
        let registers =
            stage1_walk::Registers { tcr_el1: TCR_EL1.get(), ttbr0_el1: TTBR0_EL1.get(), ttbr1_el1: TTBR1_EL1.get() };
        let big_endian = SCTLR_EL1.is_set(SCTLR_EL1::EE);
        stage1_walk::faulting_level(&registers, far, ipa, |address| {
            if !self.machine.ram.is_open(address) {
                return None;
            }
            // SAFETY: this CPU, and the host's RAM.
            let descriptor = unsafe { memory::read_host(self.cpu, address) }.ok()?;
            Some(if big_endian { descriptor.swap_bytes() } else { descriptor })
        })
    }
}
