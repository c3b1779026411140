//! LEAVE, how a CPU is held for it, every way on which Exeunt goes from a CPU, and the way back.
//!
//! Owns the steps of the image's side; what is decided in them is `hypervisor::leave`'s, and the last instructions are
//! [`depart`]'s.

use core::cell::Cell;
use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTP_CTL_EL0, CNTPCT_EL0, CNTV_CTL_EL0, ELR_EL2, ESR_EL2, HCR_EL2, Readable, SPSR_EL2, Writeable,
};
use guest_abi::stub::STUB_ERR;
use guest_abi::vendor::{CpuState, Error, Policy};
use hypervisor::blackbox::{Kind, Stop};
use hypervisor::features::{Gic, hcr};
use hypervisor::inject;
use hypervisor::leave::{self, AtomicCpuSet, CpuSet, Cpus, Fate, Leaver, Patience, Room, World};
use hypervisor::lifecycle::{EntryLevel, LifeCycle};
use hypervisor::own_calls;
use hypervisor::own_calls::control::Verdict;
use hypervisor::psci::{Environment, PowerState};
use hypervisor::rescue::Point;
use hypervisor::syndrome::{Esr, ExceptionClass};
use hypervisor::trap;
use hypervisor::virtual_el2::VirtualEl2;
use log::{info, warn};

use crate::cpu::PerCpu;
use crate::enter::{self, Keep};
use crate::faults::fault_point;
use crate::frame::HostFrame;
use crate::machine::{Below, LeaveTest, Machine, machine, psci};
use crate::rescue::{hcr_of_host, open_units};
use crate::resident::{self, FAST};
use crate::trap::Trap;
use crate::{blackbox, depart, firmware, gic, guard, selftest, ticks};

/// How long `selftest=slow-leave` holds a LEAVE before each of its steps, in milliseconds.
const SLOW_STEP_MS: u64 = 20;

/// How often a LEAVE wakes sleeping CPUs, in milliseconds.
const WAKE_INTERVAL_MS: u64 = 1;

/// LEAVE, by an HVC.
#[cold]
#[inline(never)]
pub fn leave(trap: &mut Trap) {
    let vectors = Vectors::of(trap.cpu, false);
    match lead(trap, vectors, Verdict::Leave) {
        Lead::Leave(count) => {
            own_calls::Answer::left(count).apply(trap.frame.arguments());
            leave_to_host(trap.frame, trap.cpu, vectors, true)
        }
        Lead::Stay(error) => own_calls::Answer::error(error).apply(trap.frame.arguments()),
        Lead::Overtaken => wait_for_leave(trap),
    }
}

/// LEAVE, by a store of the host's to the doorbell. Does not return if Exeunt leaves: the store has been executed then.
/// With an error it has not been, nor has anything else; with none, it is made again after the LEAVE of another CPU.
#[cold]
#[inline(never)]
pub fn leave_by_doorbell(trap: &mut Trap) -> Option<Error> {
    let vectors = Vectors::of(trap.cpu, true);
    match lead(trap, vectors, Verdict::LeaveOpen) {
        Lead::Leave(_) => {
            let is_32bit = Esr::new(ESR_EL2.get()).is_32bit_instruction();
            let (pc, pstate) = inject::skip_instruction(ELR_EL2.get(), SPSR_EL2.get(), is_32bit);
            ELR_EL2.set(pc);
            SPSR_EL2.set(pstate);
            leave_to_host(trap.frame, trap.cpu, vectors, true)
        }
        Lead::Stay(error) => Some(error),
        Lead::Overtaken => {
            hold(trap.frame, trap.cpu, trap.machine);
            None
        }
    }
}

/// What becomes of the CPU that calls LEAVE.
enum Lead {
    /// Exeunt leaves it, as so many.
    Leave(u16),
    /// Why Exeunt stays.
    Stay(Error),
    /// Another CPU's LEAVE came first. This one is to be held for it.
    Overtaken,
}

/// Leads a LEAVE, for a CPU that will have `vectors`.
fn lead(trap: &mut Trap, vectors: Vectors, verdict: Verdict) -> Lead {
    fault_point!("leave-begin");
    let (cpu, machine) = (trap.cpu, trap.machine);
    let others = All(machine);
    let room = Stage2::of(machine);
    let world = World { control: &FAST.control, cpus: &others, room: &room, verdict };
    let mut leaver = Leaver::Begin;
    loop {
        fault_point!("leave-step");
        leaver = leaver.step(cpu.index(), &cpu.life, vectors.are_others(), &world);
        match leaver {
            Leaver::Over(Ok(count)) => {
                let how = if verdict == Verdict::LeaveOpen { ", and keeps a way back" } else { "" };
                fault_point!("leave-over");
                let plural = if count == 1 { "" } else { "s" };
                info!("LEAVE: Exeunt leaves {count} CPU{plural}{how}");
                blackbox::event(Kind::Leave, [count.into(), 0]);
                cpu.departures.fetch_add(1, Ordering::Relaxed);
                return Lead::Leave(count);
            }
            Leaver::Over(Err(error)) => {
                trap::limited(machine, || warn!("LEAVE: {}", error.name()));
                blackbox::event(Kind::LeaveFailed, [error.to_register(), 0]);
                return Lead::Stay(error);
            }
            Leaver::Overtaken => return Lead::Overtaken,
            Leaver::Release(..) => fault_point!("leave-judged"),
            // Before the first CPU goes.
            Leaver::Judge(_, count) if verdict == Verdict::LeaveOpen => resident::begin_round(count),
            Leaver::Look { .. } => {}
            Leaver::Catch(_) if machine.leave_test == LeaveTest::Dead => selftest::die_once(),
            _ if machine.leave_test == LeaveTest::Slow => pause(SLOW_STEP_MS),
            _ => {}
        }
    }
}

/// The HVC cannot be answered while a LEAVE is under way: it is made again after it.
pub fn wait_for_leave(trap: &mut Trap) {
    rewind();
    hold(trap.frame, trap.cpu, trap.machine);
}

/// Has ELR_EL2 point at the HVC again that has brought the CPU here.
pub fn rewind() {
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
///
/// Returns if Exeunt stays; at the latest when this CPU has taken the leaver for dead.
#[cold]
#[inline(never)]
pub fn hold(frame: &mut HostFrame, cpu: &'static PerCpu, machine: &'static Machine) {
    let mut patience = Patience::default();
    loop {
        fault_point!("held");
        let keep = || {
            blackbox::keep(cpu, Stop::Caught);
            CAUGHT.insert(cpu.index());
        };
        match leave::held(&cpu.life, &FAST.control, !cpu.in_window(), keep) {
            Fate::Again => {}
            Fate::Off => go_off(cpu, machine),
            Fate::Wait(seen) if cpu.panic_request.due(seen.round) => Trap { frame, cpu, machine }.panic(seen.round),
            Fate::Wait(seen) if patience.is_over(seen.round, CNTPCT_EL0.get(), ticks(leave::HELD_PATIENCE_MS)) => {
                if leave::give_up(&FAST.control, &Stage2::of(machine), seen) {
                    let index = cpu.index();
                    trap::limited(machine, || warn!("CPU {index}: a LEAVE does not end; its CPU is taken for dead"));
                }
            }
            Fate::Wait(_) => core::hint::spin_loop(),
            Fate::Stay => return,
            Fate::Leave { open } => {
                fault_point!("held-leaves");
                go(frame, cpu, open, true)
            }
        }
    }
}

/// Those that the last stop has caught.
static CAUGHT: AtomicCpuSet = AtomicCpuSet::new();

/// Nobody was caught yet, in the stop that is about to begin.
pub fn begin_to_catch() {
    CAUGHT.clear();
}

/// Those that the last stop has caught; their registers are in the black box.
pub fn caught() -> CpuSet {
    CAUGHT.get()
}

/// Drops what a dead host has left pending for this CPU, which must not come to the next kernel; and its timers.
pub fn drop_interrupts(machine: &Machine) {
    CNTP_CTL_EL0.set(0);
    CNTV_CTL_EL0.set(0);
    match (machine.gic, machine.gicv2) {
        // SAFETY: that is what this kind of GIC means.
        (Gic::V3, _) => unsafe { gic::drop_interrupts() },
        (_, Some(frames)) => gic::drop_interrupts_v2(frames),
        _ => {}
    }
}

/// A CPU that was caught in a stop goes off.
#[cold]
#[inline(never)]
fn go_off(cpu: &PerCpu, machine: &Machine) -> ! {
    ticks::end(cpu, false);
    drop_interrupts(machine);
    blackbox::crumb_as(cpu, *b"caught  ", CpuState::Off);
    psci().turn_off(cpu.index(), &Below);
    // The leader says so. It is not the host's any longer, and EL2 is a place where it does no harm.
    loop {
        aarch64_cpu::asm::wfi();
    }
}

/// The vectors that the host has given to EL2, if it has, and if they can be. SET_VECTORS asks for that; a write to
/// VBAR_EL2 in virtual EL2 is free, as on hardware, and a table that is not in the host's RAM would answer nothing.
pub fn vectors_of(cpu: &PerCpu) -> Option<u64> {
    let vectors = cpu.with_virtual_el2(|virtual_el2| virtual_el2.vectors());
    vectors.filter(|&vectors| machine().is_host_ram(vectors))
}

/// This CPU, which the control word counts as outside now, is about to go.
pub fn begin_leave(cpu: &PerCpu) {
    assert!(cpu.life.begin_leave().is_ok(), "a host calls on a CPU that is not live");
    cpu.life.set_out();
}

/// The state of a CPU that goes, from here on.
pub fn departs(cpu: &PerCpu, to_others: bool) {
    assert!(cpu.life.leave(to_others).is_ok(), "a CPU leaves without having begun to");
    cpu.departures.fetch_add(1, Ordering::Relaxed);
}

/// Exeunt leaves this CPU, which is `Leaving`, to its host; if `open`, with a way back; if `together`, with all others.
#[cold]
#[inline(never)]
pub fn go(frame: &HostFrame, cpu: &PerCpu, open: bool, together: bool) -> ! {
    fault_point!("goes");
    let vectors = Vectors::of(cpu, open);
    blackbox::event(Kind::Left, [vectors.of_host().unwrap_or(0), 0]);
    departs(cpu, vectors.are_others());
    leave_to_host(frame, cpu, vectors, together)
}

/// Where VBAR_EL2 points on a CPU that Exeunt leaves to its host.
#[derive(Clone, Copy)]
enum Vectors {
    /// To what the host has set.
    Host(u64),
    /// To the resident stub's.
    Stub,
    /// To its second table, to which SMCs come.
    OpenStub,
}

impl Vectors {
    /// A way back (`open`) is kept where the host has none but its own stub's vectors, which the resident stub can
    /// stand for. Vectors that the host has installed beside those have to answer what they alone know.
    fn of(cpu: &PerCpu, open: bool) -> Self {
        match vectors_of(cpu) {
            _ if open && !cpu.has_vectors() => Self::OpenStub,
            Some(vectors) => Self::Host(vectors),
            None => Self::Stub,
        }
    }

    const fn of_host(self) -> Option<u64> {
        if let Self::Host(vectors) = self { Some(vectors) } else { None }
    }

    const fn are_others(self) -> bool {
        self.of_host().is_some()
    }
}

/// The host begins anew at `entry`, on this CPU.
#[inline(never)]
pub fn restart_to(trap: &mut Trap, entry: u64, arguments: [u64; 3], policy: Policy) {
    // From here on it is done, whatever becomes of Exeunt on the way.
    let [x0, x1, x2] = arguments;
    trap.cpu.set_point(&Point::payload(entry, [x0, x1, x2, trap.frame.x[3]]));
    trap.frame.x[..3].copy_from_slice(&arguments);
    trap.frame.x[4] = entry;
    fault_point!("restart-told");
    match policy {
        Policy::Resident => {
            blackbox::crumb(trap.cpu, *b"restart ");
            // With `leave` this CPU has no stage 2, and to those that still have one it goes on.
            guard::lift(trap.cpu, &trap.machine.ram, trap.machine.stage2);
            fault_point!("restart-stays");
            enter::restart(trap.frame, entry);
        }
        Policy::Leave => {
            begin_leave(trap.cpu);
            trap.cpu.with_virtual_el2(VirtualEl2::forget_vectors);
            departs(trap.cpu, true);
            blackbox::crumb(trap.cpu, *b"restart ");
            blackbox::note_control(FAST.control.bits());
            ticks::end(trap.cpu, true);
            open_units(trap.cpu);
            fault_point!("restart-leaves");
            // SAFETY: the resident stub serves a CPU without EL2 MMU, and `entry` is where the host asked for, or where
            // its crash kernel begins.
            unsafe { depart::to_payload(trap.frame, entry, hcr::RW, boot::stub::vectors()) }
        }
    }
}

fn leave_to_host(frame: &HostFrame, cpu: &PerCpu, vectors: Vectors, together: bool) -> ! {
    fault_point!("departs");
    blackbox::keep(cpu, Stop::Left);
    blackbox::crumb(cpu, *b"left    ");
    blackbox::note_control(FAST.control.bits());
    ticks::end(cpu, together);
    open_units(cpu);
    fault_point!("last-steps");
    let (vectors, traps) = match vectors {
        Vectors::Host(vectors) => (vectors, 0),
        Vectors::Stub => (boot::stub::vectors(), 0),
        Vectors::OpenStub => (boot::stub::vectors_with_way_back(), hcr::TSC),
    };
    // SAFETY: vectors of the host's own, aligned and in its RAM, which it has installed for an EL2 without MMU, since
    // it could not know of another; or the resident stub's, with the trap that they answer.
    unsafe { depart::to_host(frame, hcr_of_host(cpu) | traps, vectors) }
}

/// REENTER from its table, or an SMC for which the mailbox has asked: `vectors` calls it with EL2's MMU on, and goes to
/// the host when it returns. The resident stub has looked whether what it needs of this CPU's structure is whole; a
/// host that was left may have written to the rest of Exeunt's memory too.
pub extern "C" fn come_back(frame: &mut HostFrame, cpu: &'static PerCpu) {
    let machine = machine();
    cpu.revive();
    fault_point!("back-begin");
    // Nothing has come since. The SMC is made again, and answered under Exeunt.
    let by_smc = Esr::new(ESR_EL2.get()).class() == Some(ExceptionClass::Smc64);
    let was_left = cpu.life.state().is_left();
    let known = machine.cpu(cpu.index());
    if known.is_none_or(|known| !core::ptr::eq(known, cpu)) {
        stay_outside(frame, cpu, by_smc, STUB_ERR)
    }
    if let Err(error) = FAST.control.come_back(was_left) {
        stay_outside(frame, cpu, by_smc, error.to_register())
    }
    fault_point!("back-counted");
    // Which kernel this is nobody knows: another one may have been started while Exeunt was away.
    cpu.with_virtual_el2(VirtualEl2::come_back);
    if !was_left {
        // It was off when Exeunt went, and somebody has started it meanwhile: it was left all the same.
        cpu.departures.fetch_add(1, Ordering::Relaxed);
    }
    cpu.life.begin();
    cpu.lent.store(false, Ordering::Relaxed);
    enter::set_up(cpu, machine, Keep::Host);
    if machine.entry == EntryLevel::VirtualEl2 {
        HCR_EL2.set(machine.settings(cpu.ids()).native_hcr());
    }
    ticks::begin(cpu);
    guard::come_back(cpu, &machine.ram, machine.stage2);
    fault_point!("back-set-up");
    psci().come_back(cpu.index());
    cpu.returns.fetch_add(1, Ordering::Relaxed);
    blackbox::event(Kind::CameBack, [0; 2]);
    fault_point!("back-told");
    blackbox::crumb(cpu, *b"host    ");
    blackbox::note_control(FAST.control.bits());
    if by_smc {
        info!("CPU {}: wanted by the mailbox; under Exeunt again", cpu.index());
    } else {
        own_calls::Answer::way_back(boot::stub::vectors()).apply(frame.arguments());
        info!("CPU {}: REENTER; under Exeunt again", cpu.index());
    }
}

/// Goes on in the host as before: REENTER has been refused with `refusal`, an SMC is passed on.
fn stay_outside(frame: &mut HostFrame, cpu: &PerCpu, by_smc: bool, refusal: u64) -> ! {
    let (vectors, traps) = if by_smc {
        let (pc, pstate) = inject::skip_a64(ELR_EL2.get(), SPSR_EL2.get());
        ELR_EL2.set(pc);
        SPSR_EL2.set(pstate);
        firmware::call(frame.arguments());
        (boot::stub::vectors_with_way_back(), hcr::TSC)
    } else {
        frame.x[0] = refusal;
        (boot::stub::vectors(), 0)
    };
    // SAFETY: the table that the call came from serves a CPU without EL2 MMU.
    unsafe { depart::to_host(frame, hcr_of_host(cpu) | traps, vectors) }
}

/// So many milliseconds of the system counter.
fn ticks(milliseconds: u64) -> u64 {
    CNTFRQ_EL0.get() * milliseconds / 1000
}

/// Wakes CPUs that sleep in the host, by SGI 0. Without a GIC that is known nobody can be woken, and a LEAVE waits in
/// vain for who sleeps.
fn wake(machine: &Machine, cpus: impl Iterator<Item = usize>) {
    match (machine.gic, machine.gicv2) {
        // SAFETY: that is what this kind of GIC means.
        (Gic::V3, _) => unsafe { gic::wake_by_affinity(cpus.filter_map(|cpu| psci().affinity(cpu))) },
        (_, Some(gic)) => {
            let interface = |cpu: usize| machine.cpus[cpu].map_or(0, |cpu| cpu.interface.load(Ordering::Relaxed));
            gic::wake_by_interface(gic, cpus.map(interface));
        }
        _ => {}
    }
}

/// Waits.
fn pause(milliseconds: u64) {
    let end = CNTPCT_EL0.get() + ticks(milliseconds);
    while CNTPCT_EL0.get() < end {
        core::hint::spin_loop();
    }
}

/// All CPUs, as a LEAVE and a PANIC see them.
pub struct All(pub &'static Machine);

impl Cpus for All {
    fn count(&self) -> usize {
        psci().count()
    }

    fn life(&self, cpu: usize) -> Option<&LifeCycle> {
        self.0.cpu(cpu).map(|cpu| &cpu.life)
    }

    fn is_on(&self, cpu: usize) -> bool {
        psci().power_state(cpu) == PowerState::On
    }

    fn is_starting(&self, cpu: usize) -> bool {
        psci().is_starting(cpu)
    }

    fn forget_starts(&self) {
        psci().forget_claims();
    }

    fn has_new_starts(&self) -> bool {
        psci().has_new_claims()
    }
}

/// Stage 2, interrupts and time, for a LEAVE, a stop and a PANIC.
pub struct Stage2 {
    machine: &'static Machine,
    /// CNTPCT_EL0 when patience ends.
    deadline: Cell<u64>,
    /// CNTPCT_EL0 when sleepers are woken, again if need be.
    next_wake: Cell<u64>,
}

impl Stage2 {
    /// Of this machine; patience has not begun.
    pub fn of(machine: &'static Machine) -> Self {
        Self { machine, deadline: Cell::new(0), next_wake: Cell::new(0) }
    }

    /// Patience begins.
    pub fn begin_patience(&self) {
        self.deadline.set(CNTPCT_EL0.get() + ticks(leave::PATIENCE_MS));
    }
}

impl Room for Stage2 {
    fn hide(&self) {
        self.begin_patience();
        self.machine.stage2.hide();
    }

    fn show(&self) {
        self.machine.stage2.show();
        self.begin_patience();
    }

    fn wait(&self, awaited: &dyn Fn(usize) -> bool) -> bool {
        let now = CNTPCT_EL0.get();
        if now >= self.next_wake.get() {
            // A CPU in WFI looks for no instruction. SGI 0 is a rescheduling interrupt in Linux, harmless when nothing
            // is to be scheduled.
            wake(self.machine, (0..psci().count()).filter(|&cpu| awaited(cpu)));
            self.next_wake.set(now + ticks(WAKE_INTERVAL_MS));
        }
        core::hint::spin_loop();
        now < self.deadline.get()
    }
}
