//! What Exeunt does for a host that has crashed, before its crash kernel runs: all other CPUs are stopped and switched
//! off, and the crash notes of those that did not hear the host's own stop are filled.
//!
//! Owns this order. How CPUs are stopped is decided in `hypervisor::leave`, what is in a note in
//! `hypervisor::crash_notes`; a CPU that is caught does its part in [`crate::leaving`].

use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{ELR_EL2, Readable};
use guest_abi::blackbox::CpuBlock;
use guest_abi::vendor::{Error, Policy};
use hypervisor::blackbox::{Block, Kind, Stop};
use hypervisor::crash_notes::{self, Memory, Notes, Registers};
use hypervisor::devicetree::Region;
use hypervisor::guard::loaded::Start;
use hypervisor::leave::{self, CpuSet, Cpus, Leaver, Room, World};
use hypervisor::lifecycle::EntryLevel;
use hypervisor::own_calls::Buffer;
use hypervisor::own_calls::control::Verdict;
use hypervisor::paging::PAGE_SIZE;
use hypervisor::placement::HostRam;
use hypervisor::restart::Restart;
use hypervisor::{trap, watchdog};
use log::{info, warn};

use crate::cpu::PerCpu;
use crate::leaving::{self, All, Stage2};
use crate::machine::{Below, psci};
use crate::resident::FAST;
use crate::trap::Trap;
use crate::{blackbox, enter, firmware, guard, memory, ticks};

/// The host has crashed: no other CPU runs in it any longer when this returns, as far as Exeunt can reach it, and the
/// dump will say where those were that the host itself did not reach. Takes at most three times
/// [`leave::PATIENCE_MS`]; a host that has stopped its CPUs itself, as a Linux does, waits for nothing.
///
/// `regions` is the crash kernel's memory, as far as it is known. Nothing: another CPU's stop or LEAVE came first. This
/// one is to be held for it, and to come again.
#[cold]
#[inline(never)]
pub fn begin(trap: &Trap, regions: [Option<Region>; 2]) -> Option<()> {
    let caught = stop_others(trap)?;
    if !caught.is_empty() {
        fill_notes(trap, regions, caught);
    }
    Some(())
}

/// The same for a host that was entered at EL1, which calls nobody: it is about to execute the first instruction of its
/// crash kernel, and will when this returns.
#[cold]
#[inline(never)]
pub fn begin_at_el1(trap: &mut Trap, regions: [Option<Region>; 2]) {
    while begin(trap, regions).is_none() {
        leaving::hold(trap.frame, trap.cpu, trap.machine);
    }
    blackbox::keep(trap.cpu, Stop::Crashed);
}

/// What becomes of a host that is to end without its own panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its crash kernel begins when this exit is over: the registers are that one's.
    Begins,
    /// It goes on, and why.
    Refused(Error),
    /// Another CPU's stop or LEAVE came first. This one is to be held for it, and to come again.
    Overtaken,
}

/// Starts the crash kernel in the host's place, on this CPU: what the host's own panic would have come to, had it been
/// able to. Its policy for a crash says whether Exeunt stays; below a host at EL1 it does.
#[cold]
#[inline(never)]
pub fn start_kernel(trap: &mut Trap) -> Ending {
    // It forgets them when another kernel begins.
    let regions = guard::crash_regions();
    match stop_host(trap) {
        Err(ending) => ending,
        Ok((start, policy, stopped)) => {
            fill_notes(trap, regions, stopped);
            ticks::end(trap.cpu, true);
            leaving::drop_interrupts(trap.machine);
            trap.frame.x[3] = 0;
            leaving::restart_to(trap, start.entry, [start.tree, 0, 0], policy);
            Ending::Begins
        }
    }
}

/// The host's command line has the machine reset after a panic.
static RESETS: AtomicBool = AtomicBool::new(false);

/// Learns that from the host's command line. Before it runs.
pub fn set_up(arguments: &[u8]) {
    RESETS.store(watchdog::asks_for_reset(arguments), Ordering::Relaxed);
}

/// The end of a host that hangs, cannot panic, and has no crash kernel that could be started: all CPUs are stopped, and
/// what is known of them is in the black box. Then the machine is reset, or stands still, as it would after a panic of
/// the host's. This CPU goes on where it was: a debugger may look. Nothing: as for [`begin`].
#[cold]
#[inline(never)]
pub fn give_up(trap: &Trap) -> Option<()> {
    stop_others(trap)?;
    let resets = RESETS.load(Ordering::Relaxed);
    let end = if resets { "the machine is reset, as panic= says" } else { "the machine stands still without a panic=" };
    blackbox::keep(trap.cpu, Stop::GivenUp);
    blackbox::event(Kind::GivenUp, [ELR_EL2.get(), resets.into()]);
    warn!("CPU {}: Exeunt gives the host up; the registers of its CPUs are in the black box; {end}", trap.cpu.index());
    ticks::end(trap.cpu, true);
    blackbox::clean();
    if resets {
        firmware::forward(::smccc::psci::PSCI_SYSTEM_RESET, &[0; 18]);
    }
    Some(())
}

/// Stops the host, if its crash kernel can be started: how that is, what becomes of Exeunt, and whose registers are in
/// the black box.
#[inline(never)]
fn stop_host(trap: &Trap) -> Result<(Start, Policy, CpuSet), Ending> {
    let (this, machine) = (trap.cpu.index(), trap.machine);
    let start = guard::loaded(trap.cpu, &machine.ram, machine.stage2).map_err(|error| {
        trap::limited(machine, || warn!("CPU {this}: the crash kernel cannot be started: {error}"));
        Ending::Refused(Error::WrongState)
    })?;
    let mut stopped = stop_others(trap).ok_or(Ending::Overtaken)?;
    let policy = match machine.entry {
        // As after its own crash, of which Exeunt sees no more than the first fetch.
        EntryLevel::El1 => Policy::Resident,
        EntryLevel::VirtualEl2 => FAST.control.restart(Restart::Crash).map_err(|_| Ending::Overtaken)?,
    };
    let (pc, words) = (ELR_EL2.get(), policy.words());
    warn!(
        "CPU {this}: Exeunt starts the crash kernel itself, at {:#x} ({words}); the host was at {pc:#x}",
        start.entry
    );
    blackbox::keep(trap.cpu, Stop::Forced);
    blackbox::event(Kind::CrashKernel, [start.entry, pc]);
    stopped.insert(this);
    Ok((start, policy, stopped))
}

/// Stops the CPUs that run under Exeunt, wherever they are, and has them go off. Gives those that were caught.
#[inline(never)]
fn stop_others(trap: &Trap) -> Option<CpuSet> {
    let (this, machine) = (trap.cpu.index(), trap.machine);
    let all = All(machine);
    let runs = |&cpu: &usize| {
        let is_left = all.life(cpu).is_none_or(|life| life.state().is_left());
        cpu != this && (all.is_starting(cpu) || all.is_on(cpu) && !is_left)
    };
    let running: CpuSet = (0..all.count()).filter(runs).collect();
    if running.is_empty() {
        return Some(running);
    }
    let verb = if running.count() == 1 { "runs" } else { "run" };
    warn!("CPU {this}: the host has crashed while {running} still {verb}");
    leaving::begin_to_catch();
    let room = Stage2::of(machine);
    let world = World { control: &FAST.control, cpus: &all, room: &room, verdict: Verdict::Off };
    let mut leaver = Leaver::Begin;
    // With an error it ends when a CPU that was held has taken this one for dead, after more than its patience.
    while !matches!(leaver, Leaver::Over(_)) {
        leaver = leaver.step(this, &trap.cpu.life, false, &world);
        if leaver == Leaver::Overtaken {
            return None;
        }
    }
    // Off is who has executed its last instruction: the next kernel's CPU_ON finds it so.
    room.begin_patience();
    while running.iter().any(|cpu| !psci().is_off(cpu, &Below)) && room.wait(&|_| false) {}
    let caught = leaving::caught();
    let (mut missing, mut stubborn) = (CpuSet::default(), CpuSet::default());
    for cpu in running.iter().filter(|&cpu| !psci().is_off(cpu, &Below)) {
        (if caught.has(cpu) { &mut stubborn } else { &mut missing }).insert(cpu);
    }
    if !caught.is_empty() {
        warn!("CPU {this}: {caught} caught and switched off; the registers are in the black box");
    }
    if !stubborn.is_empty() {
        warn!("CPU {this}: firmware has not switched off {stubborn}, caught in EL2; the next kernel cannot start it");
    }
    if !missing.is_empty() {
        let patience = leave::PATIENCE_MS;
        warn!("CPU {this}: {missing} did not come within {patience} ms, and may still run");
    }
    blackbox::event(Kind::Stopped, [caught.count().into(), missing.count().into()]);
    Some(caught)
}

/// Fills the crash notes of these CPUs, if the host's core header is found.
#[inline(never)]
fn fill_notes(trap: &Trap, regions: [Option<Region>; 2], caught: CpuSet) {
    let this = trap.cpu.index();
    let memory = HostMemory { cpu: trap.cpu, ram: &trap.machine.ram };
    let Some(notes) = regions.into_iter().flatten().find_map(|region| Notes::find(&memory, region)) else {
        info!("CPU {this}: no core header is found in the crash kernel's memory, so no crash note is completed");
        return;
    };
    let mut filled = CpuSet::default();
    for cpu in caught.iter() {
        let Some(kept) = trap.machine.cpu(cpu).map(|cpu| Kept(cpu.block())) else { continue };
        let number = crash_notes::number_in_linux(cpu, enter::booted_on());
        match notes.fill(number, &kept) {
            Ok(()) => filled.insert(cpu),
            Err(error) => info!("CPU {this}: the crash note of CPU {cpu} stays as it is: {error}"),
        }
    }
    if !filled.is_empty() {
        info!("CPU {this}: the crash notes of {filled} completed: the dump shows where they were");
    }
}

/// What the black box has kept of a CPU.
struct Kept(&'static Block);

/// The place of a field of the black box among what is kept.
macro_rules! place {
    ($field:ident) => {
        (core::mem::offset_of!(CpuBlock, $field) - core::mem::offset_of!(CpuBlock, x)) / 8
    };
}

impl Registers for Kept {
    fn x(&self, number: usize) -> u64 {
        self.0.kept(number)
    }

    fn stack_pointers(&self) -> [u64; 2] {
        [self.0.kept(place!(sp_el0)), self.0.kept(place!(sp_el1))]
    }

    fn pc(&self) -> u64 {
        self.0.kept(place!(pc))
    }

    fn pstate(&self) -> u64 {
        self.0.kept(place!(pstate))
    }
}

/// The host's RAM, as this CPU reaches it.
struct HostMemory<'a> {
    cpu: &'static PerCpu,
    ram: &'a HostRam<'static>,
}

impl Memory for HostMemory<'_> {
    fn word(&self, address: u64) -> Option<u64> {
        memory::host_word(self.cpu, self.ram, address)
    }

    fn put(&self, address: u64, bytes: &[u8]) -> bool {
        let mut address = address;
        let mut rest = bytes;
        while !rest.is_empty() {
            let in_page = (PAGE_SIZE - address % PAGE_SIZE) as usize;
            let (now, later) = rest.split_at(rest.len().min(in_page));
            let buffer = Buffer { address, size: now.len() };
            // SAFETY: this CPU, and the host's RAM, within one page.
            let written = self
                .ram
                .is_open(address)
                .then(|| unsafe { memory::write_host(self.cpu, buffer, |sink| sink.put(0, now)) });
            if !matches!(written, Some(Ok(()))) {
                return false;
            }
            (address, rest) = (address + now.len() as u64, later);
        }
        true
    }
}
