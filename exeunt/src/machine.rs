//! What all CPUs share while the host runs: the record of the machine, and firmware below it.
//!
//! Owns the one [`Machine`], written once before the host runs, and the power states of the CPUs.

use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use guest_abi::vendor::CpuState;
use hypervisor::blackbox::{Kind, Stop};
use hypervisor::counters::Counters;
use hypervisor::devicetree::Gicv2;
use hypervisor::features::{Gic, IdRegisters};
use hypervisor::lifecycle::EntryLevel;
use hypervisor::options::SelfTest;
pub use hypervisor::options::{Kvm, LeaveTest};
use hypervisor::placement::HostRam;
use hypervisor::psci::{Environment, Firmware, Psci};
use hypervisor::ratelimit::RateLimit;
use hypervisor::trap;
use hypervisor::virtual_el2::Settings;
use log::{LevelFilter, info};
use spin::Once;

use crate::cpu::{self, PerCpu};
use crate::faults::fault_point;
use crate::stage2::Stage2;
use crate::{blackbox, firmware, guard, selftest, ticks};

/// What all CPUs share while the host runs.
pub struct Machine {
    /// The host's RAM.
    pub ram: HostRam<'static>,
    /// The kind of GIC, as the boot CPU can use it.
    pub gic: Gic,
    /// Where a GICv2 has its registers, which are mapped.
    pub gicv2: Option<Gicv2>,
    /// The host's translation.
    pub stage2: Stage2,
    /// The per-CPU structures, by CPU number.
    pub cpus: [Option<&'static PerCpu>; cpu::MAX_CPUS],
    /// How the host is entered.
    pub entry: EntryLevel,
    /// What becomes of a CPU that calls LEAVE, for the tests.
    pub leave_test: LeaveTest,
    /// The fault to commit when the host turns the machine off, for the tests.
    pub last_test: Option<SelfTest>,
    /// What becomes of EL2 when the host has a KVM.
    pub kvm: Kvm,
    /// The GIC holds interrupts in virtual EL2; not so only for the tests.
    pub gic_holds: bool,
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
pub fn machine() -> &'static Machine {
    match MACHINE.get() {
        Some(machine) => machine,
        None => panic!("the host is not prepared yet"),
    }
}

/// The machine, if it is known.
pub fn known() -> Option<&'static Machine> {
    MACHINE.get()
}

/// [`machine`] on an exit from the host, without the look whether it is known.
///
/// # Safety
/// The host runs.
pub unsafe fn of_running_host() -> &'static Machine {
    // SAFETY: `set` comes before the host's first entry.
    unsafe { MACHINE.get_unchecked() }
}

/// Makes `machine` the one that [`machine`] gives.
pub fn set(machine: Machine) -> &'static Machine {
    MACHINE.call_once(|| machine)
}

impl Environment for Machine {
    fn entry_point(&self) -> u64 {
        boot::secondary_entry as *const () as u64
    }

    fn context(&self, cpu: usize) -> u64 {
        // The proxy asks for CPUs of the device tree only, and each of these has a structure.
        self.cpu(cpu).map_or(0, PerCpu::address)
    }

    fn is_host_ram(&self, address: u64) -> bool {
        self.ram.contains(address)
    }

    fn is_left(&self, cpu: usize) -> bool {
        self.cpu(cpu).is_some_and(|cpu| cpu.life.state().is_left())
    }

    fn goes_off(&self, cpu: usize) {
        fault_point!("off");
        let Some(cpu) = self.cpu(cpu) else { return };
        // One that is not fit for the host goes off without having run it.
        if cpu.entered.load(Ordering::Relaxed) != 0 {
            blackbox::keep(cpu, Stop::Off);
        }
        ticks::end(cpu, false);
        blackbox::event(Kind::CpuOff, [0; 2]);
        blackbox::crumb_as(cpu, *b"off     ", CpuState::Off);
    }

    fn stays_on(&self, cpu: usize) {
        if let Some(cpu) = self.cpu(cpu) {
            blackbox::crumb(cpu, *b"host    ");
            ticks::begin(cpu);
        }
    }

    fn suspends(&self, cpu: usize) {
        if let Some(cpu) = self.cpu(cpu) {
            ticks::end(cpu, true);
        }
        blackbox::event(Kind::Suspends, [0; 2]);
    }

    fn begins(&self, cpu: usize) {
        guard::kernel_begins(&self.ram, self.stage2);
        if ticks::are_wanted() {
            self.watch_anew(cpu);
        }
    }

    fn ends(&self, resets: bool) {
        blackbox::keep(cpu::current(), Stop::PowerOff);
        blackbox::event(if resets { Kind::Reset } else { Kind::PowerOff }, [0; 2]);
        blackbox::clean();
        if let Some(which) = self.last_test {
            selftest::run(which);
        }
        if self.stats {
            self.report();
        }
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

/// Firmware.
pub struct Below;

impl Firmware for Below {
    fn call(&self, registers: &mut [u64; 18]) {
        fault_point!("smc-before");
        firmware::call(registers);
        fault_point!("smc-after");
    }

    fn forward(&self, function: u32, registers: &[u64; 18]) -> u64 {
        firmware::forward(function, registers)
    }
}

impl Machine {
    /// The structure of CPU number `cpu`; nothing for a CPU that is off for good, or none.
    pub fn cpu(&self, cpu: usize) -> Option<&'static PerCpu> {
        self.cpus.get(cpu).copied().flatten()
    }

    /// A kernel has begun on this CPU, and what its watchdog has found was the last one's.
    #[cold]
    #[inline(never)]
    fn watch_anew(&self, cpu: usize) {
        if let Some(cpu) = self.cpu(cpu).filter(|cpu| ticks::come_to(cpu)) {
            ticks::begin_anew(cpu);
        }
    }

    /// KVM shall find that stage 2 has no granule, and leave EL2 alone. Only a host that believes in its EL2 would
    /// look.
    pub fn hides_stage2_granules(&self) -> bool {
        self.entry == EntryLevel::VirtualEl2 && self.kvm == Kvm::Hide
    }

    /// What virtual EL2 is on a CPU with these ID registers.
    pub fn settings<'a>(&self, ids: &'a IdRegisters) -> Settings<'a> {
        Settings { ids, gic: self.gic, hide_stage2_granules: self.hides_stage2_granules() }
    }

    /// Prints how often each CPU, and all together, came to EL2. `stats` asks for it, so a log that became quiet when
    /// the host started does not swallow it.
    fn report(&self) {
        log::set_max_level(log::max_level().max(LevelFilter::Info));
        let total = Counters::new();
        for cpu in self.cpus.iter().flatten() {
            if cpu.block().counters.total() > 0 {
                info!("CPU {}: {}", cpu.index(), cpu.block().counters);
                total.add(&cpu.block().counters);
            }
        }
        info!("all CPUs: {total}");
    }
}
