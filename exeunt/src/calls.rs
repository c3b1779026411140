//! The calls that concern Exeunt itself: the stub calls, Exeunt's own, and what follows from them for this CPU and for all.
//!
//! Owns every way on which Exeunt goes from a CPU or comes back to it. What a call is answered is decided in `hypervisor::stub`,
//! `hypervisor::own_calls` and `hypervisor::leave`; the last instructions are [`depart`]'s.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, ELR_EL2, HCR_EL2, ICH_VTR_EL2, Readable, Writeable};
use guest_abi::record::{CPU_IN_VIRTUAL_EL2, CPU_LENT_TO_KVM, StatusCpu};
use guest_abi::stub::{STUB_ERR, SUCCESS};
use guest_abi::vendor::{CpuState, Error, Policy, RESTART_CRASH, RESTART_KEXEC};
use hypervisor::devicetree::Region;
use hypervisor::features::{self, Gic, hcr};
use hypervisor::leave::{self, Cpus, Fate, Leaver, Room, World};
use hypervisor::lifecycle::{EntryLevel, State};
use hypervisor::own_calls::control::{Control, Restart};
use hypervisor::own_calls::log::LogRing;
use hypervisor::own_calls::status::{self, Machine as Facts};
use hypervisor::own_calls::{self, Buffer, Outcome, Services, Sink};
use hypervisor::psci::{Environment, PowerState};
use hypervisor::stub::{self, Answer};
use hypervisor::syndrome::{Esr, ExceptionClass};
use hypervisor::trap;
use hypervisor::virtual_el2::VirtualEl2;
use log::{LevelFilter, debug, info, warn};

use crate::cpu::PerCpu;
use crate::frame::HostFrame;
use crate::host::{self, Keep, Kvm, Machine};
use crate::{console, depart, gic, memory, registers};

/// What `vectors` looks at before it answers a call by itself: one doubleword, control in its low half.
#[repr(C, align(8))]
pub struct Fast {
    /// Who may leave.
    pub control: Control,
    /// [`FAST_CALLS`] and the others.
    pub flags: AtomicU32,
}

/// Who may make Exeunt leave, and what `vectors` may answer.
#[unsafe(export_name = "exeunt_fast")]
pub static FAST: Fast = Fast { control: Control::new(Policy::Leave, Policy::Leave), flags: AtomicU32::new(0) };

/// [`Fast::flags`]: calls may be answered in `vectors`. Not while each gets a line in the log.
pub const FAST_CALLS: u32 = 1 << 0;
/// The CPU interface of the GIC is in system registers: ICH_VTR_EL2 is there.
pub const FAST_ICH_VTR: u32 = 1 << boot::stub::HAS_ICH_VTR;
/// The host was entered at virtual EL2: it has vectors to set.
pub const FAST_VECTORS: u32 = 1 << 2;

/// Prepares what `vectors` looks at. Before the host runs on any CPU.
pub fn prepare(machine: &Machine, policy: Policy) {
    // Cannot fail: nothing is locked yet.
    let _ = FAST.control.set_policies(RESTART_KEXEC | RESTART_CRASH, policy);
    let flag = |set, bit| if set { bit } else { 0 };
    let flags = flag(log::max_level() < LevelFilter::Debug, FAST_CALLS)
        | flag(machine.gic == Gic::V3, FAST_ICH_VTR)
        | flag(machine.entry == EntryLevel::VirtualEl2, FAST_VECTORS);
    FAST.flags.store(flags, Ordering::Release);
    // The resident stub reads the flags with the MMU off.
    let start = core::ptr::from_ref(&FAST).addr() as u64;
    memory::clean(Region { start, end: start + size_of::<Fast>() as u64 });
}

/// How long `selftest=slow-leave` holds a LEAVE before each of its steps, in milliseconds.
const SLOW_STEP_MS: u64 = 20;

/// How often a LEAVE wakes sleeping CPUs, in microseconds.
const WAKE_INTERVAL_US: u64 = 1000;

/// A call that has come to EL2.
pub struct Call<'a> {
    /// The caller's registers.
    pub frame: &'a mut HostFrame,
    /// The caller.
    pub cpu: &'static PerCpu,
    /// The machine.
    pub machine: &'static Machine,
}

impl Call<'_> {
    fn arguments(&mut self) -> &mut [u64; 18] {
        self.frame.arguments()
    }

    /// Answers the stub call in x0 to x4.
    #[inline(never)]
    pub fn stub(&mut self) {
        let (cpu, machine) = (self.cpu, self.machine);
        let context = stub::Context {
            entry: machine.entry,
            is_host_ram: &|address| machine.is_host_ram(address),
            has_gic_registers: machine.gic == Gic::V3,
        };
        let answer = stub::answer(self.arguments(), &context);
        debug!("stub call {:#x}, x1 {:#x}", self.frame.x[0], self.frame.x[1]);
        match answer {
            Answer::Return(value) => self.frame.x[0] = value,
            Answer::SetVectors(address) => {
                cpu.with_virtual_el2(|virtual_el2| virtual_el2.set_vectors(address));
                self.frame.x[0] = SUCCESS;
            }
            // SVE and SME are open already: `features` opens them for every host.
            Answer::Finalise => self.frame.x[0] = STUB_ERR,
            Answer::IchVtr => {
                self.frame.x[0] = SUCCESS;
                self.frame.x[1] = ICH_VTR_EL2.get();
            }
            Answer::ResetVectors => self.reset_vectors(),
            Answer::SoftRestart { entry, arguments } => self.soft_restart(entry, arguments),
        }
    }

    #[cold]
    #[inline(never)]
    fn reset_vectors(&mut self) {
        match FAST.control.set_out() {
            Ok(()) => {
                self.frame.x[0] = SUCCESS;
                let vectors = vectors_of(self.cpu).unwrap_or_else(boot::stub::vectors);
                info!("CPU {}: the host has EL2 now, with its vectors at {vectors:#x}", self.cpu.index());
                self.cpu.lent.store(self.machine.kvm == Kvm::Lend, Ordering::Relaxed);
                begin_leave(self.cpu);
                go(self.frame, self.cpu)
            }
            Err(Error::Busy) => self.wait_for_leave(),
            Err(_) => self.frame.x[0] = STUB_ERR,
        }
    }

    #[cold]
    #[inline(never)]
    fn soft_restart(&mut self, entry: u64, arguments: [u64; 3]) {
        let installed = self.cpu.with_virtual_el2(|virtual_el2| virtual_el2.installed());
        let why = Restart::of(installed.is_some());
        match FAST.control.restart(why) {
            Ok(policy) => {
                info!("CPU {}: SOFT_RESTART to {entry:#x} ({why:?}, {})", self.cpu.index(), policy.words());
                self.frame.x[..3].copy_from_slice(&arguments);
                self.frame.x[4] = entry;
                match policy {
                    Policy::Resident => host::restart(self.frame, entry),
                    Policy::Leave => {
                        begin_leave(self.cpu);
                        self.cpu.with_virtual_el2(VirtualEl2::forget_vectors);
                        departs(self.cpu, true);
                        // SAFETY: the resident stub serves a CPU without EL2 MMU, and `entry` is where the host asked for.
                        unsafe { depart::to_payload(self.frame, entry, hcr::RW, boot::stub::vectors()) }
                    }
                }
            }
            // Only a LEAVE stands in the way. The call is made again after it.
            Err(_) => self.wait_for_leave(),
        }
    }

    /// Answers the call of Exeunt's own in x0 to x3.
    #[inline(never)]
    pub fn own(&mut self) {
        let own = Own { cpu: self.cpu, machine: self.machine };
        match own_calls::call(self.arguments(), &own) {
            Outcome::Done => {}
            Outcome::Leave => self.leave(),
        }
    }

    /// The host's KVM has called its EL2. Does not return if EL2 is lent to it: the vectors that the host has installed answer the
    /// call, which is executed again. Linux gives EL2 to KVM by RESET_VECTORS, at which Exeunt leaves too, so that KVM's calls do not
    /// come here; this is for a host that installs its vectors without.
    ///
    /// True: it is to be made again, because a LEAVE was under way.
    #[inline(never)]
    pub fn kvm(&mut self) -> bool {
        let (cpu, machine) = (self.cpu, self.machine);
        let Some(vectors) = cpu.with_virtual_el2(|virtual_el2| virtual_el2.installed()) else { return false };
        if machine.kvm != Kvm::Lend {
            return false;
        }
        match FAST.control.set_out() {
            Ok(()) => {
                info!("CPU {}: the host's KVM has EL2 now, with its vectors at {vectors:#x}", cpu.index());
                cpu.lent.store(true, Ordering::Relaxed);
                rewind();
                begin_leave(cpu);
                go(self.frame, cpu)
            }
            Err(Error::Busy) => {
                self.wait_for_leave();
                true
            }
            Err(_) => false,
        }
    }

    /// LEAVE.
    #[cold]
    #[inline(never)]
    fn leave(&mut self) {
        let (cpu, machine) = (self.cpu, self.machine);
        let others = All(machine);
        let room = Stage2 { machine, deadline: Cell::new(0), next_wake: Cell::new(0) };
        let world = World { control: &FAST.control, stop: &machine.stop, cpus: &others, room: &room };
        let vectors = vectors_of(cpu);
        let mut leaver = Leaver::Begin;
        loop {
            leaver = leaver.step(cpu.index(), &cpu.life, vectors.is_some(), &world);
            match leaver {
                Leaver::Over(Ok(count)) => {
                    info!("LEAVE: Exeunt leaves {} CPUs", u32::from(count));
                    own_calls::Answer::left(count).apply(self.arguments());
                    cpu.departures.fetch_add(1, Ordering::Relaxed);
                    leave_to_host(self.frame, vectors)
                }
                Leaver::Over(Err(error)) => {
                    trap::limited(machine, || warn!("LEAVE: {}", error.name()));
                    own_calls::Answer::error(error).apply(self.arguments());
                    return;
                }
                Leaver::Overtaken => {
                    rewind();
                    return wait_for_verdict(self.frame, cpu, machine);
                }
                Leaver::Look { .. } => {}
                _ if machine.slow_leave => pause(SLOW_STEP_MS),
                _ => {}
            }
        }
    }

    /// The HVC cannot be answered while a LEAVE is under way: it is made again after it.
    fn wait_for_leave(&mut self) {
        rewind();
        hold(self.frame, self.cpu, self.machine);
    }
}

/// Has ELR_EL2 point at the HVC again that has brought the CPU here.
fn rewind() {
    ELR_EL2.set(ELR_EL2.get().wrapping_sub(4));
}

/// This CPU has come to EL2 while a LEAVE is under way: whatever it has come for, it will come again.
pub fn interrupted(frame: &mut HostFrame, cpu: &'static PerCpu, machine: &'static Machine, esr: Esr) {
    if esr.class() == Some(ExceptionClass::Hvc64) {
        rewind();
    }
    hold(frame, cpu, machine);
}

/// Holds this CPU, whose ELR_EL2 is where the host will go on.
#[cold]
#[inline(never)]
fn hold(frame: &mut HostFrame, cpu: &'static PerCpu, machine: &'static Machine) {
    assert!(
        leave::hold(&cpu.life, &machine.stop, !cpu.in_window()),
        "CPU {} comes from the host and is not live",
        cpu.index()
    );
    wait_for_verdict(frame, cpu, machine);
}

/// Returns if Exeunt stays.
fn wait_for_verdict(frame: &mut HostFrame, cpu: &'static PerCpu, machine: &'static Machine) {
    loop {
        match leave::held(&cpu.life, &FAST.control, &machine.stop, !cpu.in_window()) {
            Fate::Wait => core::hint::spin_loop(),
            Fate::Stay => return,
            Fate::Leave => go(frame, cpu),
        }
    }
}

/// The vectors that the host has given to EL2, if it has, and if they can be. SET_VECTORS asks for that; a write to VBAR_EL2 in virtual
/// EL2 is free, as on hardware, and a table that is not in the host's RAM would answer nothing.
fn vectors_of(cpu: &PerCpu) -> Option<u64> {
    let vectors = cpu.with_virtual_el2(|virtual_el2| virtual_el2.vectors());
    vectors.filter(|&vectors| host::machine().is_host_ram(vectors))
}

fn begin_leave(cpu: &PerCpu) {
    assert!(cpu.life.begin_leave().is_ok(), "a host calls on a CPU that is not live");
}

/// The state of a CPU that goes, from here on.
fn departs(cpu: &PerCpu, to_others: bool) {
    assert!(cpu.life.leave(to_others).is_ok(), "a CPU leaves without having begun to");
    cpu.departures.fetch_add(1, Ordering::Relaxed);
}

/// Exeunt leaves this CPU, which is `Leaving`, to its host.
#[cold]
#[inline(never)]
fn go(frame: &HostFrame, cpu: &PerCpu) -> ! {
    let vectors = vectors_of(cpu);
    departs(cpu, vectors.is_some());
    leave_to_host(frame, vectors)
}

/// HCR_EL2 of a host that has EL2 to itself.
fn hcr_of_host() -> u64 {
    features::hcr_el2(&registers::identify()) & !(hcr::VM | hcr::TSC | hcr::SWIO)
}

fn leave_to_host(frame: &HostFrame, vectors: Option<u64>) -> ! {
    let vectors = vectors.unwrap_or_else(boot::stub::vectors);
    // SAFETY: vectors of the host's own, aligned and in its RAM, which it has installed for an EL2 without MMU, since it could not know
    // of another; or the resident stub's.
    unsafe { depart::to_host(frame, hcr_of_host(), vectors) }
}

/// REENTER, from its table: `vectors` calls it with EL2's MMU on, and goes to the host when it returns.
pub extern "C" fn come_back(frame: &mut HostFrame) {
    let (cpu, machine) = (host::this(), host::machine());
    if let Err(error) = FAST.control.come_back(cpu.life.state().is_left()) {
        own_calls::Answer::error(error).apply(frame.arguments());
        // SAFETY: the table that the call came from serves a CPU without EL2 MMU.
        unsafe { depart::to_host(frame, hcr_of_host(), boot::stub::vectors()) }
    }
    // Which kernel this is nobody knows: another one may have been started while Exeunt was away.
    cpu.with_virtual_el2(VirtualEl2::come_back);
    cpu.life.begin();
    cpu.lent.store(false, Ordering::Relaxed);
    let ids = registers::identify();
    host::set_up(cpu, machine, &ids, Keep::Host);
    if machine.entry == EntryLevel::VirtualEl2 {
        HCR_EL2.set(machine.settings(&ids).native_hcr());
    }
    host::psci().come_back(cpu.index());
    cpu.returns.fetch_add(1, Ordering::Relaxed);
    own_calls::Answer::way_back(boot::stub::vectors()).apply(frame.arguments());
    info!("CPU {}: REENTER; under Exeunt again", cpu.index());
}

/// Waits.
fn pause(milliseconds: u64) {
    let end = CNTPCT_EL0.get() + CNTFRQ_EL0.get() * milliseconds / 1000;
    while CNTPCT_EL0.get() < end {
        core::hint::spin_loop();
    }
}

/// All CPUs, as a LEAVE sees them.
struct All(&'static Machine);

impl Cpus for All {
    fn count(&self) -> usize {
        host::psci().count()
    }

    fn life(&self, cpu: usize) -> State {
        self.0.cpus.get(cpu).copied().flatten().map_or(State::Outside, |cpu| cpu.life.state())
    }

    fn is_on(&self, cpu: usize) -> bool {
        host::psci().power_state(cpu) == PowerState::On
    }

    fn is_starting(&self, cpu: usize) -> bool {
        host::psci().is_starting(cpu)
    }

    fn forget_starts(&self) {
        host::psci().forget_claims();
    }

    fn has_new_starts(&self) -> bool {
        host::psci().has_new_claims()
    }
}

/// Stage 2, interrupts and time, for a LEAVE.
struct Stage2 {
    machine: &'static Machine,
    /// CNTPCT_EL0 when patience ends.
    deadline: Cell<u64>,
    /// CNTPCT_EL0 when sleepers are woken, again if need be.
    next_wake: Cell<u64>,
}

impl Room for Stage2 {
    fn hide(&self) {
        self.deadline.set(CNTPCT_EL0.get() + CNTFRQ_EL0.get() * leave::PATIENCE_MS / 1000);
        self.machine.stage2.hide();
    }

    fn show(&self) {
        self.machine.stage2.show();
    }

    fn wait(&self) -> bool {
        let now = CNTPCT_EL0.get();
        if now >= self.next_wake.get() {
            // A CPU in WFI looks for no instruction. SGI 0 is a rescheduling interrupt in Linux, harmless when nothing is to be
            // scheduled.
            gic::wake_others(self.machine.gic, self.machine.gicv2);
            self.next_wake.set(now + CNTFRQ_EL0.get() * WAKE_INTERVAL_US / 1_000_000);
        }
        core::hint::spin_loop();
        now < self.deadline.get()
    }
}

/// The machine, for Exeunt's own calls.
struct Own {
    cpu: &'static PerCpu,
    machine: &'static Machine,
}

impl Own {
    fn cpu(&self, cpu: u16) -> Option<&'static PerCpu> {
        self.machine.cpus.get(usize::from(cpu)).copied().flatten()
    }
}

impl Facts for Own {
    fn cpus(&self) -> u16 {
        host::psci().count() as u16
    }

    fn this_cpu(&self) -> u16 {
        self.cpu.index() as u16
    }

    fn state(&self, cpu: u16) -> CpuState {
        let (all, cpu) = (All(self.machine), usize::from(cpu));
        match all.life(cpu) {
            State::Stub => CpuState::Stub,
            State::Gone => CpuState::Gone,
            State::Live if all.is_on(cpu) => CpuState::Live,
            State::Leaving => CpuState::Leaving,
            State::Live | State::Outside => CpuState::Off,
        }
    }

    fn describe(&self, number: u16) -> StatusCpu {
        let mut record = StatusCpu {
            mpidr: host::psci().affinity(usize::from(number)).unwrap_or_default(),
            state: self.state(number) as u8,
            ..StatusCpu::default()
        };
        let Some(cpu) = self.cpu(number) else { return record };
        let entered = cpu.entered.load(Ordering::Relaxed);
        let flag = |set: bool, bit| if set { bit } else { 0 };
        record.entry_level = if entered { self.machine.entry as u8 } else { 0 };
        record.flags =
            flag(cpu.lent.load(Ordering::Relaxed), CPU_LENT_TO_KVM) | flag(cpu.in_window(), CPU_IN_VIRTUAL_EL2);
        record.exits = status::exits(&cpu.counters);
        record.host_vectors = cpu.host_vectors.load(Ordering::Relaxed);
        record.departures = cpu.departures.load(Ordering::Relaxed);
        record.returns = cpu.returns.load(Ordering::Relaxed);
        record
    }

    fn entry_level(&self) -> EntryLevel {
        self.machine.entry
    }

    fn lends_to_kvm(&self) -> bool {
        self.machine.kvm == Kvm::Lend && !FAST.control.is_locked()
    }

    fn time(&self) -> u64 {
        CNTPCT_EL0.get()
    }

    fn frequency(&self) -> u64 {
        CNTFRQ_EL0.get()
    }
}

impl Services for Own {
    fn control(&self) -> &Control {
        &FAST.control
    }

    fn log(&self) -> &LogRing<'_> {
        console::ring()
    }

    fn is_host_ram(&self, address: u64) -> bool {
        self.machine.is_host_ram(address)
    }

    fn with_buffer(&self, buffer: Buffer, fill: impl FnOnce(&mut dyn Sink)) {
        // SAFETY: this CPU, and the host's RAM, within one page: `Buffer` is made by who has asked `is_host_ram`.
        unsafe { memory::write_host(self.cpu.index(), buffer, fill) };
    }

    fn way_back(&self) -> u64 {
        boot::stub::vectors()
    }

    fn has_strangers(&self) -> bool {
        host::psci().has_strangers(&host::Below)
    }
}
