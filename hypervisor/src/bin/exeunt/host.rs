//! The host: what it is given, how each CPU enters it, and what happens when it comes to EL2.
//!
//! Owns the one [`Machine`] and each exception from below. What an exception is answered is decided in `hypervisor::trap`.

use core::sync::atomic::Ordering;

use ::smccc::psci::{PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, PSCI_SYSTEM_RESET2_32, PSCI_SYSTEM_RESET2_64};
use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTPCT_EL0, ELR_EL1, ELR_EL2, ESR_EL1, ESR_EL2, FAR_EL1, FAR_EL2, HPFAR_EL2, Readable, SCTLR_EL1,
    SCTLR_EL2, SPSR_EL1, SPSR_EL2, TCR_EL1, TTBR0_EL1, TTBR1_EL1, VBAR_EL1, Writeable,
};
use hypervisor::counters::{Counters, Exit};
use hypervisor::devicetree::Region;
use hypervisor::features::{self, Feature, Gic, Step};
use hypervisor::inject::{Entry, PstateFeatures};
use hypervisor::lifecycle::EntryLevel;
use hypervisor::paging::stage1_walk;
use hypervisor::psci::{Environment, Firmware, HostEntry, Psci};
use hypervisor::ratelimit::RateLimit;
use hypervisor::smccc;
use hypervisor::syndrome::Esr;
use hypervisor::trap::{self, Vcpu};
use log::{debug, error, info};
use spin::Once;

use crate::cpu::{self, PerCpu};
use crate::vectors::{self, HostFrame};
use crate::{firmware, memory, registers, stage2};

/// What all CPUs share while the host runs.
pub struct Machine {
    /// RAM, Exeunt's own included.
    pub memory: &'static [Region],
    /// The kind of GIC.
    pub gic: Gic,
    /// How stage 2 is turned on.
    pub stage2: stage2::Registers,
    /// The per-CPU structures, by CPU number.
    pub cpus: [Option<&'static PerCpu>; cpu::MAX_CPUS],
    /// Print the counters when the host turns the machine off.
    pub stats: bool,
}

static MACHINE: Once<Machine> = Once::new();

/// Has a static of its own, because it is large and begins as zeroes.
static PSCI: Psci = Psci::new();

static LOG_LIMIT: RateLimit = RateLimit::new();

/// The CPUs' power states.
pub fn psci() -> &'static Psci {
    &PSCI
}

/// The machine, once it is known. A CPU that is under way to the host or comes from it finds it known.
fn machine() -> &'static Machine {
    match MACHINE.get() {
        Some(machine) => machine,
        None => panic!("the host is not prepared yet"),
    }
}

/// Enters the host for the first time, on the boot CPU.
pub fn start(machine: Machine, entry: HostEntry) -> ! {
    MACHINE.call_once(|| machine);
    enter(entry)
}

/// Enters the host where PSCI was asked to, on a CPU that has just come up.
pub fn arrive() -> ! {
    let cpu = this();
    if let Some(entry) = PSCI.arrive(cpu.index()) {
        enter(entry)
    }
    error!("CPU {} came up and nobody asked for it", cpu.index());
    firmware::cpu_off()
}

/// Sets EL2's registers for the host and goes there. Every way into the host ends here.
fn enter(entry: HostEntry) -> ! {
    let cpu = this();
    cpu.life.power_up();
    let machine = machine();
    let ids = registers::identify();
    machine.stage2.write();
    if ids.has(Feature::Sme) {
        SCTLR_EL2.set(memory::SCTLR_EL2_MMU_ON | features::SCTLR_EL2_ENTP2);
    }
    features::set_up(&ids, machine.gic, |step| match step {
        // SAFETY: only registers that the CPU's ID registers show; none of them changes what Exeunt itself runs under.
        Step::Write(register, value) => unsafe { registers::write(register, value) },
        Step::Isb => barrier::isb(barrier::SY),
    });
    // SAFETY: forgets translations only. What EL1 had before this CPU's reset or under whoever ran before is stale.
    unsafe { core::arch::asm!("tlbi alle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
    assert!(cpu.life.go_live().is_ok(), "EL2 of CPU {} is set up twice", cpu.index());
    let ticks = CNTPCT_EL0.get().wrapping_sub(cpu.started.load(Ordering::Relaxed));
    debug!("enters the host at {:#x}, {ticks} ticks after its first instruction here", entry.pc);
    // SAFETY: everything above; this stack is not used again before the next exception.
    unsafe { vectors::enter(entry.pc, entry.x0, EntryLevel::of_host().spsr(), cpu.stack_top()) }
}

fn this() -> &'static PerCpu {
    match cpu::this() {
        Some(cpu) => cpu,
        None => panic!("not at EL2"),
    }
}

/// A synchronous exception from the host. `vectors` calls it and goes back to the host when it returns.
pub extern "C" fn sync(frame: &mut HostFrame) {
    let cpu = this();
    let esr = Esr::new(ESR_EL2.get());
    cpu.counters.count_class(esr.class_bits());
    trap::dispatch(&mut Trapped { frame, cpu }, machine(), esr);
}

/// An IRQ taken to EL2. HCR_EL2.IMO is 0, so that the host has its interrupts.
pub extern "C" fn irq(_: &mut HostFrame) {
    unexpected("an IRQ");
}

/// An FIQ taken to EL2; as for [`irq`].
pub extern "C" fn fiq(_: &mut HostFrame) {
    unexpected("an FIQ");
}

/// An SError taken to EL2; as for [`irq`].
pub extern "C" fn serror(_: &mut HostFrame) {
    unexpected("an SError");
}

/// Nothing that the host does brings it here: the routing is HCR_EL2's, and that is Exeunt's.
fn unexpected(what: &str) {
    this().counters.count(Exit::Interrupt);
    panic!("{what} of the host came to EL2, where HCR_EL2 routes none");
}

/// A CPU that has trapped.
struct Trapped<'a> {
    frame: &'a mut HostFrame,
    cpu: &'static PerCpu,
}

impl Vcpu for Trapped<'_> {
    fn index(&self) -> usize {
        self.cpu.index()
    }

    fn registers(&mut self) -> &mut [u64; 18] {
        let (arguments, _) = self.frame.x.split_first_chunk_mut::<18>().expect("there are 31");
        arguments
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
        // SAFETY: asked only of a CPU that has it.
        if registers::identify().has(Feature::Sctlr2) { unsafe { registers::sctlr2_el1() } } else { 0 }
    }

    fn gcscr_el1(&self) -> u64 {
        // SAFETY: asked only of a CPU that has it.
        if registers::identify().has(Feature::Gcs) { unsafe { registers::gcscr_el1() } } else { 0 }
    }

    fn set_el1_exception(&mut self, entry: &Entry) {
        ELR_EL1.set(entry.elr_el1);
        SPSR_EL1.set(entry.spsr_el1);
        ESR_EL1.set(entry.esr_el1);
        if let Some(far) = entry.far_el1 {
            FAR_EL1.set(far);
        }
    }

    fn stage1_level(&self, far: u64, ipa: u64) -> Option<i8> {
        let registers =
            stage1_walk::Registers { tcr_el1: TCR_EL1.get(), ttbr0_el1: TTBR0_EL1.get(), ttbr1_el1: TTBR1_EL1.get() };
        let big_endian = SCTLR_EL1.is_set(SCTLR_EL1::EE);
        stage1_walk::faulting_level(&registers, far, ipa, |address| {
            if !machine().is_host_ram(address) {
                return None;
            }
            // SAFETY: this CPU, and the host's RAM.
            let descriptor = unsafe { memory::read_host(self.cpu.index(), address) };
            Some(if big_endian { descriptor.swap_bytes() } else { descriptor })
        })
    }
}

impl Environment for Machine {
    fn entry_point(&self) -> u64 {
        boot::secondary_entry as *const () as u64
    }

    fn context(&self, cpu: usize) -> u64 {
        // The proxy asks for CPUs of the device tree only, and each of these has a structure.
        self.cpus.get(cpu).copied().flatten().map_or(0, PerCpu::address)
    }

    fn is_host_ram(&self, address: u64) -> bool {
        let inside = |region: &Region| region.start <= address && address < region.end;
        self.memory.iter().any(inside) && !inside(&memory::reservation())
    }
}

impl trap::Machine for Machine {
    type Firmware = Below;

    fn psci(&self) -> &Psci {
        &PSCI
    }

    fn firmware(&self) -> &Below {
        &Below
    }

    fn pstate_features(&self) -> PstateFeatures {
        registers::identify().pstate()
    }

    fn log_limit(&self) -> &RateLimit {
        &LOG_LIMIT
    }

    fn now(&self) -> u64 {
        CNTPCT_EL0.get()
    }

    fn ticks_per_second(&self) -> u64 {
        CNTFRQ_EL0.get()
    }
}

/// Firmware, with a last look at the machine before it goes off.
pub struct Below;

impl Firmware for Below {
    fn call(&self, registers: &mut [u64; 18]) {
        let function = smccc::function_id(registers[0]);
        if [PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, PSCI_SYSTEM_RESET2_32, PSCI_SYSTEM_RESET2_64].contains(&function)
            && let Some(machine) = MACHINE.get()
            && machine.stats
        {
            machine.report();
        }
        firmware::call(registers);
    }
}

impl Machine {
    /// Prints how often each CPU, and all together, came to EL2.
    fn report(&self) {
        let total = Counters::new();
        for cpu in self.cpus.iter().flatten() {
            if cpu.counters.total() > 0 {
                info!("CPU {}: {}", cpu.index(), cpu.counters);
                total.add(&cpu.counters);
            }
        }
        info!("all CPUs: {total}");
    }
}
