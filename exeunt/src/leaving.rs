//! LEAVE, how a CPU is held for it, every way on which Exeunt goes from a CPU, and the way back.
//!
//! Owns the steps of the image's side; what is decided in them is `hypervisor::leave`'s, and the last instructions are
//! [`depart`]'s.

use core::cell::Cell;
use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, ELR_EL2, HCR_EL2, Readable, Writeable};
use guest_abi::stub::STUB_ERR;
use hypervisor::blackbox::{Kind, Stop};
use hypervisor::features::{self, Gic, Units, hcr};
use hypervisor::leave::{self, Cpus, Fate, Leaver, Patience, Room, World};
use hypervisor::lifecycle::{EntryLevel, LifeCycle};
use hypervisor::own_calls;
use hypervisor::psci::{Environment, PowerState};
use hypervisor::serror;
use hypervisor::syndrome::{Esr, ExceptionClass};
use hypervisor::trap;
use hypervisor::virtual_el2::VirtualEl2;
use log::{info, warn};

use crate::cpu::PerCpu;
use crate::enter::{self, Keep};
use crate::frame::HostFrame;
use crate::machine::{LeaveTest, Machine, machine, psci};
use crate::resident::FAST;
use crate::trap::Trap;
use crate::{blackbox, depart, gic, registers, selftest};

/// How long `selftest=slow-leave` holds a LEAVE before each of its steps, in milliseconds.
const SLOW_STEP_MS: u64 = 20;

/// How often a LEAVE wakes sleeping CPUs, in milliseconds.
const WAKE_INTERVAL_MS: u64 = 1;

/// LEAVE.
#[cold]
#[inline(never)]
pub fn leave(trap: &mut Trap) {
    let (cpu, machine) = (trap.cpu, trap.machine);
    let others = All(machine);
    let room = Stage2::of(machine);
    let world = World { control: &FAST.control, cpus: &others, room: &room };
    let vectors = vectors_of(cpu);
    let mut leaver = Leaver::Begin;
    loop {
        leaver = leaver.step(cpu.index(), &cpu.life, vectors.is_some(), &world);
        match leaver {
            Leaver::Over(Ok(count)) => {
                info!("LEAVE: Exeunt leaves {} CPUs", u32::from(count));
                blackbox::event(Kind::Leave, [count.into(), 0]);
                own_calls::Answer::left(count).apply(trap.frame.arguments());
                cpu.departures.fetch_add(1, Ordering::Relaxed);
                leave_to_host(trap.frame, cpu, vectors)
            }
            Leaver::Over(Err(error)) => {
                trap::limited(machine, || warn!("LEAVE: {}", error.name()));
                blackbox::event(Kind::LeaveFailed, [error.to_register(), 0]);
                own_calls::Answer::error(error).apply(trap.frame.arguments());
                return;
            }
            Leaver::Overtaken => return wait_for_leave(trap),
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
fn hold(frame: &mut HostFrame, cpu: &'static PerCpu, machine: &'static Machine) {
    let mut patience = Patience::default();
    loop {
        match leave::held(&cpu.life, &FAST.control, !cpu.in_window()) {
            Fate::Again => {}
            Fate::Wait(seen) if patience.is_over(seen.round, CNTPCT_EL0.get(), ticks(leave::HELD_PATIENCE_MS)) => {
                if leave::give_up(&FAST.control, &Stage2::of(machine), seen) {
                    let index = cpu.index();
                    trap::limited(machine, || warn!("CPU {index}: a LEAVE does not end; its CPU is taken for dead"));
                }
            }
            Fate::Wait(_) => core::hint::spin_loop(),
            Fate::Stay => return,
            Fate::Leave => go(frame, cpu),
        }
    }
}

/// The vectors that the host has given to EL2, if it has, and if they can be. SET_VECTORS asks for that; a write to
/// VBAR_EL2 in virtual EL2 is free, as on hardware, and a table that is not in the host's RAM would answer nothing.
pub fn vectors_of(cpu: &PerCpu) -> Option<u64> {
    let vectors = cpu.with_virtual_el2(|virtual_el2| virtual_el2.vectors());
    vectors.filter(|&vectors| machine().is_host_ram(vectors))
}

pub fn begin_leave(cpu: &PerCpu) {
    assert!(cpu.life.begin_leave().is_ok(), "a host calls on a CPU that is not live");
}

/// The state of a CPU that goes, from here on.
pub fn departs(cpu: &PerCpu, to_others: bool) {
    assert!(cpu.life.leave(to_others).is_ok(), "a CPU leaves without having begun to");
    cpu.departures.fetch_add(1, Ordering::Relaxed);
}

/// Exeunt leaves this CPU, which is `Leaving`, to its host.
#[cold]
#[inline(never)]
pub fn go(frame: &HostFrame, cpu: &PerCpu) -> ! {
    let vectors = vectors_of(cpu);
    blackbox::event(Kind::Left, [vectors.unwrap_or(0), 0]);
    departs(cpu, vectors.is_some());
    leave_to_host(frame, cpu, vectors)
}

/// HCR_EL2 of a host that has EL2 to itself. An SError that it has not taken yet goes with it.
fn hcr_of_host(cpu: &PerCpu) -> u64 {
    features::hcr_el2(cpu.ids()) & !(hcr::VM | hcr::TSC | hcr::SWIO) | serror::kept(HCR_EL2.get())
}

fn leave_to_host(frame: &HostFrame, cpu: &PerCpu, vectors: Option<u64>) -> ! {
    blackbox::keep(cpu, Stop::Left);
    blackbox::crumb(cpu, b"left    ");
    blackbox::note_control(FAST.control.bits());
    open_units(cpu);
    let vectors = vectors.unwrap_or_else(boot::stub::vectors);
    // SAFETY: vectors of the host's own, aligned and in its RAM, which it has installed for an EL2 without MMU, since
    // it could not know of another; or the resident stub's.
    unsafe { depart::to_host(frame, hcr_of_host(cpu), vectors) }
}

/// Takes back the traps by which a host asks for a unit: nobody answers them when Exeunt is not here.
pub fn open_units(cpu: &PerCpu) {
    // SAFETY: the CPU has these registers, and Exeunt has set them before.
    features::unlock(cpu.ids(), Units::ALL, |register, value| unsafe { registers::write(register, value) });
}

/// REENTER, from its table: `vectors` calls it with EL2's MMU on, and goes to the host when it returns. The resident
/// stub has looked whether what it needs of this CPU's structure is whole; a host that was left may have written to the
/// rest of Exeunt's memory too.
pub extern "C" fn come_back(frame: &mut HostFrame, cpu: &'static PerCpu) {
    let machine = machine();
    let was_left = cpu.life.state().is_left();
    let known = machine.cpus.get(cpu.index()).copied().flatten();
    if known.is_none_or(|known| !core::ptr::eq(known, cpu)) {
        frame.x[0] = STUB_ERR;
        stay_outside(frame, cpu)
    }
    if let Err(error) = FAST.control.come_back(was_left) {
        own_calls::Answer::error(error).apply(frame.arguments());
        stay_outside(frame, cpu)
    }
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
    psci().come_back(cpu.index());
    cpu.returns.fetch_add(1, Ordering::Relaxed);
    own_calls::Answer::way_back(boot::stub::vectors()).apply(frame.arguments());
    blackbox::event(Kind::CameBack, [0; 2]);
    blackbox::crumb(cpu, b"host    ");
    blackbox::note_control(FAST.control.bits());
    info!("CPU {}: REENTER; under Exeunt again", cpu.index());
}

/// Goes on in the host as before REENTER.
fn stay_outside(frame: &HostFrame, cpu: &PerCpu) -> ! {
    // SAFETY: the table that the call came from serves a CPU without EL2 MMU.
    unsafe { depart::to_host(frame, hcr_of_host(cpu), boot::stub::vectors()) }
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

/// All CPUs, as a LEAVE sees them.
pub struct All(pub &'static Machine);

impl Cpus for All {
    fn count(&self) -> usize {
        psci().count()
    }

    fn life(&self, cpu: usize) -> Option<&LifeCycle> {
        self.0.cpus.get(cpu).copied().flatten().map(|cpu| &cpu.life)
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

/// Stage 2, interrupts and time, for a LEAVE.
struct Stage2 {
    machine: &'static Machine,
    /// CNTPCT_EL0 when patience ends.
    deadline: Cell<u64>,
    /// CNTPCT_EL0 when sleepers are woken, again if need be.
    next_wake: Cell<u64>,
}

impl Stage2 {
    fn of(machine: &'static Machine) -> Self {
        Self { machine, deadline: Cell::new(0), next_wake: Cell::new(0) }
    }

    fn begin_patience(&self) {
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
