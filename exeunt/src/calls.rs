//! The calls that concern Exeunt itself: the stub calls, Exeunt's own, and KVM's.
//!
//! Owns what is done for each. What a call is answered is decided in `hypervisor::stub` and `hypervisor::own_calls`;
//! how Exeunt leaves for one is [`leaving`]'s.

use core::ops::Range;
use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, ELR_EL2, ESR_EL2, ICH_VTR_EL2, Readable};
use guest_abi::record::{CPU_DIED, CPU_IN_VIRTUAL_EL2, CPU_LENT_TO_KVM, CPU_WATCHED, StatusCpu};
use guest_abi::stub::{STUB_ERR, SUCCESS};
use guest_abi::vendor::{CpuState, Error, Policy};
use hypervisor::blackbox::{Kind, Stop};
use hypervisor::features::Gic;
use hypervisor::leave::Cpus;
use hypervisor::lifecycle::{EntryLevel, LifeCycle, State};
use hypervisor::own_calls::control::Control;
use hypervisor::own_calls::log::LogRing;
use hypervisor::own_calls::status::{self, Machine as Facts};
use hypervisor::own_calls::{self, Buffer, Outcome, Services, Sink};
use hypervisor::paging::stage2::Attributes;
use hypervisor::psci::Environment;
use hypervisor::restart::{self, Restart, Restarts};
use hypervisor::smccc;
use hypervisor::stub::{self, Answer};
use hypervisor::syndrome::Esr;
use hypervisor::trap;
use log::{debug, info, warn};

use crate::cpu::PerCpu;
use crate::faults::fault_point;
use crate::leaving::All;
use crate::machine::{Below, Kvm, Machine, psci};
use crate::resident::FAST;
use crate::trap::Trap;
use crate::{blackbox, console, crash, guard, hangs, leaving, memory, ticks};

/// Answers the stub call in x0 to x4.
#[inline(never)]
pub fn stub(trap: &mut Trap) {
    let (cpu, machine) = (trap.cpu, trap.machine);
    let context = stub::Context {
        has_vectors: &|| cpu.has_vectors(),
        entry: machine.entry,
        is_host_ram: &|address| machine.is_host_ram(address),
        has_gic_registers: machine.gic == Gic::V3,
    };
    fault_point!("stub-call");
    let answer = stub::answer(trap.frame.arguments(), &context);
    debug!("stub call {:#x}, x1 {:#x}", trap.frame.x[0], trap.frame.x[1]);
    fault_point!("stub-answer");
    match answer {
        Answer::Return(value) => trap.frame.x[0] = value,
        Answer::SetVectors(address) => {
            cpu.with_virtual_el2(|virtual_el2| virtual_el2.set_vectors(address));
            trap.frame.x[0] = SUCCESS;
        }
        // SVE and SME are open already: `features` opens them for every host.
        Answer::Finalise => trap.frame.x[0] = STUB_ERR,
        Answer::IchVtr => {
            trap.frame.x[0] = SUCCESS;
            trap.frame.x[1] = ICH_VTR_EL2.get();
        }
        Answer::ResetVectors => reset_vectors(trap),
        Answer::SoftRestart { entry, arguments } => soft_restart(trap, entry, arguments),
        Answer::Vectors => run_vectors(trap),
    }
}

/// Has the vectors that the host has installed answer its call, in virtual EL2.
#[cold]
#[inline(never)]
fn run_vectors(trap: &mut Trap) {
    ticks::end(trap.cpu, false);
    let (cpu, settings, esr) = (trap.cpu, trap.machine.settings(trap.cpu.ids()), Esr::new(ESR_EL2.get()));
    cpu.with_virtual_el2(|virtual_el2| virtual_el2.call(trap, &settings, esr));
    debug!("the host's vectors answer, at {:#x}", ELR_EL2.get());
}

#[cold]
#[inline(never)]
fn reset_vectors(trap: &mut Trap) {
    fault_point!("reset-begin");
    match FAST.control.set_out() {
        Ok(()) => {
            leaving::begin_leave(trap.cpu);
            trap.frame.x[0] = SUCCESS;
            let vectors = leaving::vectors_of(trap.cpu).unwrap_or_else(boot::stub::vectors);
            info!("CPU {}: the host has EL2 now, with its vectors at {vectors:#x}", trap.cpu.index());
            trap.cpu.lent.store(trap.machine.kvm == Kvm::Lend, Ordering::Relaxed);
            blackbox::event(Kind::ResetVectors, [vectors, 0]);
            fault_point!("reset-out");
            leaving::go(trap.frame, trap.cpu, false, false)
        }
        Err(Error::Busy) => leaving::wait_for_leave(trap),
        Err(_) => trap.frame.x[0] = STUB_ERR,
    }
}

#[cold]
#[inline(never)]
fn soft_restart(trap: &mut Trap, entry: u64, arguments: [u64; 3]) {
    fault_point!("restart-begin");
    let restart = why_restart(trap, entry, arguments[0]);
    if restart.has_crashed() && crash::begin(trap, guard::crash_regions()).is_none() {
        return leaving::wait_for_leave(trap);
    }
    match FAST.control.restart(restart.why) {
        Ok(policy) => {
            fault_point!("restart-decided");
            let why = restart.why;
            info!("CPU {}: SOFT_RESTART to {entry:#x} ({why:?}, {})", trap.cpu.index(), policy.words());
            blackbox::keep(trap.cpu, Stop::SoftRestart);
            let flags = u64::from(why == Restart::Crash) | u64::from(policy == Policy::Resident) << 1;
            blackbox::event(Kind::SoftRestart, [entry, flags]);
            leaving::restart_to(trap, entry, arguments, policy);
        }
        // Only a LEAVE stands in the way. The call is made again after it.
        Err(_) => leaving::wait_for_leave(trap),
    }
}

/// Whether a SOFT_RESTART to `entry` with this x2 is a kexec or a crash.
fn why_restart(trap: &Trap, entry: u64, x2: u64) -> Restarts {
    let (cpu, machine) = (trap.cpu, trap.machine);
    let word = |address| {
        // SAFETY: this CPU, and the host's RAM.
        machine.is_host_ram(address).then(|| unsafe { memory::fetch(cpu, address) })?.ok()
    };
    let has_vectors = cpu.with_virtual_el2(|virtual_el2| virtual_el2.installed()).is_some();
    let why =
        Restart::of(&restart::Signs { in_crash_kernel: guard::is_crash_kernel(entry), x2, has_vectors, word: &word });
    // SAFETY: this CPU.
    unsafe { memory::hide_all(cpu) };
    why
}

/// Answers the call of Exeunt's own in x0 to x3.
#[inline]
pub fn own(trap: &mut Trap) {
    let own = Own { cpu: trap.cpu, machine: trap.machine };
    fault_point!("own-call");
    let outcome = own_calls::call(trap.frame.arguments(), &own);
    fault_point!("own-answer");
    match outcome {
        Outcome::Done => {}
        Outcome::Leave => leaving::leave(trap),
        Outcome::Panic(target) => hangs::call(trap, target),
        Outcome::CrashKernel => hangs::crash_kernel(trap),
    }
}

/// Answers a call of Exeunt's own that did not come by HVC: x0 to x17 are in `registers`.
#[allow(clippy::inline_always, reason = "its frame would be one more on the deepest chain of calls")]
#[inline(always)]
pub fn own_elsewhere(cpu: &'static PerCpu, machine: &'static Machine, registers: &mut [u64; 18]) -> Outcome {
    own_calls::call(registers, &Own { cpu, machine })
}

/// The host has called its KVM at EL2. Does not return if EL2 is lent to it: the vectors that the host has installed
/// answer the call, which is executed again. Linux gives EL2 to KVM by RESET_VECTORS, at which Exeunt leaves too, so
/// that KVM's calls do not come here; this is for a host that installs its vectors without.
#[cold]
#[inline(never)]
pub fn kvm(trap: &mut Trap) {
    let (cpu, machine) = (trap.cpu, trap.machine);
    let vectors = cpu.with_virtual_el2(|virtual_el2| virtual_el2.installed());
    if let Some(vectors) = vectors.filter(|_| machine.kvm == Kvm::Lend) {
        match FAST.control.set_out() {
            Ok(()) => {
                leaving::begin_leave(cpu);
                info!("CPU {}: the host's KVM has EL2 now, with its vectors at {vectors:#x}", cpu.index());
                blackbox::event(Kind::LentToKvm, [vectors, 0]);
                cpu.lent.store(true, Ordering::Relaxed);
                leaving::rewind();
                leaving::go(trap.frame, cpu, false, false)
            }
            Err(Error::Busy) => return leaving::wait_for_leave(trap),
            Err(_) => {}
        }
    }
    trap.frame.x[0] = smccc::NOT_SUPPORTED;
}

/// The machine, for Exeunt's own calls.
struct Own {
    cpu: &'static PerCpu,
    machine: &'static Machine,
}

impl Own {
    fn cpu(&self, cpu: u16) -> Option<&'static PerCpu> {
        self.machine.cpu(usize::from(cpu))
    }
}

impl Facts for Own {
    fn cpus(&self) -> u16 {
        psci().count() as u16
    }

    fn this_cpu(&self) -> u16 {
        self.cpu.index() as u16
    }

    fn state(&self, cpu: u16) -> CpuState {
        let (all, cpu) = (All(self.machine), usize::from(cpu));
        match all.life(cpu).map_or(State::Outside, LifeCycle::state) {
            State::Stub => CpuState::Stub,
            State::Gone => CpuState::Gone,
            State::Live if all.is_on(cpu) => CpuState::Live,
            State::Leaving => CpuState::Leaving,
            State::Live | State::Outside => CpuState::Off,
        }
    }

    fn describe(&self, number: u16) -> StatusCpu {
        fault_point!("status");
        let mut record = StatusCpu {
            mpidr: psci().affinity(usize::from(number)).unwrap_or_default(),
            state: self.state(number) as u8,
            ..StatusCpu::default()
        };
        let Some(cpu) = self.cpu(number) else { return record };
        let flag = |set: bool, bit| if set { bit } else { 0 };
        record.entry_level = cpu.entered.load(Ordering::Relaxed);
        record.flags = flag(cpu.lent.load(Ordering::Relaxed), CPU_LENT_TO_KVM)
            | flag(cpu.in_window(), CPU_IN_VIRTUAL_EL2)
            | flag(cpu.died.load(Ordering::Relaxed), CPU_DIED)
            | flag(ticks::come_to(cpu), CPU_WATCHED);
        record.exits = status::exits(&cpu.block().counters);
        record.host_vectors = cpu.host_vectors();
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

    fn log(&self) -> LogRing<'_> {
        console::ring()
    }

    fn is_host_ram(&self, address: u64) -> bool {
        self.machine.ram.is_open(address)
    }

    fn with_buffer(&self, buffer: Buffer, fill: impl FnOnce(&mut dyn Sink)) -> Result<(), Esr> {
        // SAFETY: this CPU, and the host's RAM, within one page: `Buffer` is made by who has asked `is_host_ram`.
        let written = unsafe { memory::write_host(self.cpu, buffer, fill) };
        if let Err(esr) = written {
            trap::limited(self.machine, || warn!("a call's buffer at {:#x} cannot be written: {esr}", buffer.address));
        }
        written
    }

    fn stage2_range(&self, address: u64) -> Option<(Range<u64>, Option<Attributes>)> {
        self.machine.stage2.range(address)
    }

    fn trace(&self, change: Option<bool>) -> (bool, u32) {
        if let Some(tracing) = change {
            blackbox::set_tracing(tracing);
        }
        blackbox::tracing()
    }

    fn changed(&self) {
        let [kexec, crash] = FAST.control.policies();
        let kind = if FAST.control.is_locked() { Kind::Locked } else { Kind::Policy };
        blackbox::event(kind, [kexec as u64, crash as u64]);
        blackbox::note_control(FAST.control.bits());
    }

    fn way_back(&self) -> u64 {
        boot::stub::vectors()
    }

    fn has_strangers(&self) -> bool {
        psci().has_strangers(&Below)
    }
}
