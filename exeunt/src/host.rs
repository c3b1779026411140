//! The host: what it is given, how each CPU enters it, and what happens when it comes to EL2.
//!
//! Owns the one [`Machine`] and each exception from below. What an exception is answered is decided in `hypervisor::trap`.

use core::sync::atomic::Ordering;

use ::smccc::psci::{PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, PSCI_SYSTEM_RESET2_32, PSCI_SYSTEM_RESET2_64};
use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTPCT_EL0, ELR_EL1, ELR_EL2, ESR_EL1, ESR_EL2, FAR_EL1, FAR_EL2, HCR_EL2, HPFAR_EL2, ReadWriteable,
    Readable, SCTLR_EL1, SCTLR_EL2, SPSR_EL1, SPSR_EL2, TCR_EL1, TTBR0_EL1, TTBR1_EL1, VBAR_EL1, Writeable,
};
use guest_abi::vendor::Policy;
use hypervisor::counters::{Counters, Exit};
use hypervisor::devicetree::{Gicv2, Region};
use hypervisor::features::{self, Feature, Gic, IdRegisters, Step};
use hypervisor::inject::{Entry, PstateFeatures};
use hypervisor::leave::WorldStop;
use hypervisor::lifecycle::EntryLevel;
pub use hypervisor::options::Kvm;
use hypervisor::paging::stage1_walk;
use hypervisor::psci::{Environment, Firmware, HostEntry, Psci};
use hypervisor::ratelimit::RateLimit;
use hypervisor::smccc;
use hypervisor::syndrome::{Encoding, Esr, FaultKind};
use hypervisor::trap::{self, Vcpu};
use hypervisor::virtual_el2::{self, Outcome, Settings, VirtualEl2};
use log::{LevelFilter, debug, error, info, warn};
use spin::Once;

use crate::calls::{self, Call, FAST};
use crate::cpu::{self, PerCpu};
use crate::frame::HostFrame;
use crate::vectors;
use crate::virtual_el2::Window;
use crate::{firmware, memory, registers, stage2};

/// What all CPUs share while the host runs.
pub struct Machine {
    /// RAM, Exeunt's own included.
    pub memory: &'static [Region],
    /// The kind of GIC.
    pub gic: Gic,
    /// Where a GICv2 has its registers, which are mapped.
    pub gicv2: Option<Gicv2>,
    /// How stage 2 is turned on.
    pub stage2: stage2::Registers,
    /// The per-CPU structures, by CPU number.
    pub cpus: [Option<&'static PerCpu>; cpu::MAX_CPUS],
    /// How the host is entered.
    pub entry: EntryLevel,
    /// The verdict of a LEAVE.
    pub stop: WorldStop,
    /// Take a LEAVE slowly, for the tests.
    pub slow_leave: bool,
    /// What becomes of EL2 when the host has a KVM.
    pub kvm: Kvm,
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

/// Enters the host for the first time, on the boot CPU.
pub fn start(machine: Machine, policy: Policy, entry: HostEntry) -> ! {
    let machine = MACHINE.call_once(|| machine);
    calls::prepare(machine, policy);
    enter(entry)
}

/// Enters the host where PSCI was asked to, on a CPU that has just come up.
pub fn arrive() -> ! {
    let cpu = this();
    let was_left = cpu.life.state().is_left();
    if was_left {
        FAST.control.come_up();
    }
    // Before the proxy has it on again: a CPU that is on and was left is asked for at firmware.
    cpu.life.begin();
    if let Some(entry) = PSCI.arrive(cpu.index(), was_left) {
        enter(entry)
    }
    error!("CPU {} came up and nobody asked for it", cpu.index());
    firmware::cpu_off()
}

/// Goes to the host. Every CPU that comes up ends here.
fn enter(entry: HostEntry) -> ! {
    let cpu = this();
    let machine = machine();
    let ids = registers::identify();
    set_up(cpu, machine, &ids, Keep::Nothing);
    cpu.entered.store(true, Ordering::Relaxed);
    if machine.entry == EntryLevel::VirtualEl2 {
        let settings = machine.settings(&ids);
        let mut frame = HostFrame::EMPTY;
        let window = &mut Window { frame: &mut frame, cpu, machine };
        cpu.with_virtual_el2(|virtual_el2| virtual_el2.enter(window, &settings, entry.pc));
    }
    let ticks = CNTPCT_EL0.get().wrapping_sub(cpu.started.load(Ordering::Relaxed));
    debug!("enters the host at {:#x}, {ticks} ticks after its first instruction here", entry.pc);
    // SAFETY: everything above; this stack is not used again before the next exception.
    unsafe { vectors::enter(entry.pc, entry.x0, machine.entry.spsr(), cpu.stack_top()) }
}

/// Whose registers are to be kept when EL2 is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// A payload begins.
    Nothing,
    /// The host is there already: the registers of EL1 and EL0 are its own.
    Host,
}

/// Sets EL2's registers for the host.
#[inline(never)]
pub fn set_up(cpu: &PerCpu, machine: &Machine, ids: &IdRegisters, keep: Keep) {
    machine.stage2.write();
    if ids.has(Feature::Sme) {
        SCTLR_EL2.set(memory::SCTLR_EL2_MMU_ON | features::SCTLR_EL2_ENTP2);
    }
    features::set_up(ids, machine.gic, |step| match step {
        Step::Write(register, _) if keep == Keep::Host && !register.is_el2() => {}
        // SAFETY: only registers that the CPU's ID registers show; none of them changes what Exeunt itself runs under.
        Step::Write(register, value) => unsafe { registers::write(register, value) },
        Step::Isb => barrier::isb(barrier::SY),
    });
    // SAFETY: forgets translations only. What EL1 had before this CPU's reset or under whoever ran before is stale.
    unsafe { core::arch::asm!("isb", "tlbi alle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
    assert!(cpu.life.go_live().is_ok(), "EL2 of CPU {} is set up twice", cpu.index());
}

/// Starts the next payload at `entry` under Exeunt, as if the CPU had just come up there, with the registers of `frame`.
#[cold]
#[inline(never)]
pub fn restart(frame: &mut HostFrame, entry: u64) {
    let cpu = this();
    let machine = machine();
    let ids = registers::identify();
    cpu.life.begin();
    set_up(cpu, machine, &ids, Keep::Nothing);
    // A CPU that restarts may have interrupts, which can be held in virtual EL2 only by a GIC that is known.
    let holds_interrupts = machine.gic == Gic::V3 || machine.gicv2.is_some();
    if machine.entry == EntryLevel::VirtualEl2 && holds_interrupts {
        let settings = machine.settings(&ids);
        let window = &mut Window { frame, cpu, machine };
        cpu.with_virtual_el2(|virtual_el2| virtual_el2.enter(window, &settings, entry));
    } else {
        cpu.with_virtual_el2(VirtualEl2::forget_vectors);
        ELR_EL2.set(entry);
        SPSR_EL2.set(EntryLevel::El1.spsr());
    }
}

/// This CPU's structure, where Exeunt runs at EL2.
pub fn this() -> &'static PerCpu {
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
    let machine = machine();
    if FAST.control.is_leaving() {
        calls::interrupted(frame, cpu, machine, esr);
    } else if is_from_a_leave(machine, esr) {
        // That LEAVE has failed before this CPU came here. Stage 2 is back: the host tries again.
    } else if cpu.in_window() {
        virtual_el2(frame, cpu, machine, esr);
    } else {
        trap::dispatch(&mut Trapped { frame, cpu, machine }, machine, esr);
    }
}

/// Whether this is the fault of a host whose stage 2 a LEAVE had taken away for a moment.
fn is_from_a_leave(machine: &Machine, esr: Esr) -> bool {
    let Some(abort) = esr.abort() else { return false };
    let fault = abort.fault();
    // HPFAR_EL2 is written for a translation fault, on a stage 1 walk too.
    fault.kind == FaultKind::Translation
        && fault.level.is_some_and(|level| machine.stage2.was_hidden(level, trap::fault_ipa(HPFAR_EL2.get())))
}

/// A synchronous exception from the host in virtual EL2.
fn virtual_el2(frame: &mut HostFrame, cpu: &'static PerCpu, machine: &'static Machine, esr: Esr) {
    let ids = registers::identify();
    let settings = machine.settings(&ids);
    let pc = ELR_EL2.get();
    let window = &mut Window { frame, cpu, machine };
    let answer = cpu.with_virtual_el2(|virtual_el2| virtual_el2.handle(window, &settings, esr));
    if let Some(note) = answer.note {
        trap::limited(machine, || warn!("host in virtual EL2 at {pc:#x}: {note}"));
    }
    match answer.outcome {
        Outcome::Continue => {}
        Outcome::GoNative { pc, pstate } => debug!("the host goes on in hardware at {pc:#x}, PSTATE {pstate:#x}"),
        Outcome::Smc(immediate) => trap::smc_call(&mut Trapped { frame, cpu, machine }, machine, immediate),
        Outcome::NoVectors { pc, esr } => {
            error!("host in virtual EL2 at {pc:#x}: {}, and no vectors to take it to; CPU stopped", Esr::new(esr));
            loop {
                aarch64_cpu::asm::wfi();
            }
        }
    }
}

/// An IRQ taken to EL2. HCR_EL2.IMO is 0, so that the host has its interrupts, and in virtual EL2 the GIC's priority mask holds
/// them.
pub extern "C" fn irq(frame: &mut HostFrame) {
    interrupt(frame, "an IRQ");
}

/// An FIQ taken to EL2; as for [`irq`].
pub extern "C" fn fiq(frame: &mut HostFrame) {
    interrupt(frame, "an FIQ");
}

fn interrupt(frame: &mut HostFrame, what: &str) {
    let (cpu, machine) = (this(), machine());
    let window = &mut Window { frame, cpu, machine };
    if !cpu.with_virtual_el2(|virtual_el2| virtual_el2.hold_interrupt(window)) {
        unexpected(what);
    }
    cpu.counters.count(Exit::Interrupt);
}

/// An SError taken to EL2. It is the host's: it came while the host was in virtual EL2, where HCR_EL2.TGE routes it here, or
/// after one that did, since AMO stays set for its sake. It is given to the host as a virtual SError as soon as the host is at
/// EL1.
pub extern "C" fn serror(_: &mut HostFrame) {
    let cpu = this();
    cpu.counters.count(Exit::Interrupt);
    let esr = Esr::new(ESR_EL2.get());
    if cpu.in_window() {
        cpu.with_virtual_el2(|virtual_el2| virtual_el2.hold_serror(esr));
    } else {
        assert!(HCR_EL2.is_set(HCR_EL2::AMO), "an SError of the host came to EL2, where HCR_EL2 routes none");
        HCR_EL2.modify(HCR_EL2::VSE::SET);
    }
}

/// What the host's command line gets when EL2 is lent. A CPU that is off and comes up after KVM got EL2 meets firmware alone, since
/// nobody traps the host's SMC any more. It is entered at real EL2, and where the others are there without FEAT_VHE, Linux would stop
/// at one that goes on with it.
pub const ARGUMENTS_TO_LEND: &[u8] = b"kvm-arm.mode=nvhe";

/// Nothing that the host does brings it here: the routing is HCR_EL2's, and that is Exeunt's.
fn unexpected(what: &str) {
    this().counters.count(Exit::Interrupt);
    panic!("{what} of the host came to EL2, where HCR_EL2 routes none");
}

/// A CPU that has trapped.
struct Trapped<'a> {
    frame: &'a mut HostFrame,
    cpu: &'static PerCpu,
    machine: &'static Machine,
}

impl Trapped<'_> {
    fn as_call(&mut self) -> Call<'_> {
        Call { frame: self.frame, cpu: self.cpu, machine: self.machine }
    }
}

impl Vcpu for Trapped<'_> {
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

    fn stub_call(&mut self) {
        self.as_call().stub();
    }

    fn own_call(&mut self) {
        self.as_call().own();
    }

    fn kvm_call(&mut self) -> bool {
        self.as_call().kvm()
    }

    fn read_id(&self, register: Encoding) -> Option<u64> {
        let hide = self.machine.hides_stage2_granules();
        if hide && self.cpu.with_virtual_el2(VirtualEl2::count_id_read) {
            HCR_EL2.set(HCR_EL2.get() & !virtual_el2::TID3);
        }
        (hide && virtual_el2::ids::is_id_space(register))
            .then(|| virtual_el2::ids::at_el1(register, crate::virtual_el2::read_id(register.crm, register.op2), hide))
    }

    fn stage1_level(&self, far: u64, ipa: u64) -> Option<i8> {
        let registers =
            stage1_walk::Registers { tcr_el1: TCR_EL1.get(), ttbr0_el1: TTBR0_EL1.get(), ttbr1_el1: TTBR1_EL1.get() };
        let big_endian = SCTLR_EL1.is_set(SCTLR_EL1::EE);
        stage1_walk::faulting_level(&registers, far, ipa, |address| {
            if !self.machine.is_host_ram(address) {
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

    fn is_left(&self, cpu: usize) -> bool {
        self.cpus.get(cpu).copied().flatten().is_some_and(|cpu| cpu.life.state().is_left())
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
    /// KVM shall find that stage 2 has no granule, and leave EL2 alone. Only a host that believes in its EL2 would look.
    fn hides_stage2_granules(&self) -> bool {
        self.entry == EntryLevel::VirtualEl2 && self.kvm == Kvm::Hide
    }

    /// What virtual EL2 is on a CPU with these ID registers.
    pub fn settings<'a>(&self, ids: &'a IdRegisters) -> Settings<'a> {
        Settings { ids, gic: self.gic, hide_stage2_granules: self.hides_stage2_granules() }
    }

    /// Prints how often each CPU, and all together, came to EL2. `stats` asks for it, so a log that became quiet when the host
    /// started does not swallow it.
    fn report(&self) {
        log::set_max_level(log::max_level().max(LevelFilter::Info));
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
