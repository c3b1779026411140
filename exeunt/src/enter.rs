//! The ways into the host: its first entry on each CPU, the next payload's, and what EL2's registers hold then.
//!
//! Owns the set-up of EL2 for the host. What the host's exits do is [`crate::exits`]'s.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use ::smccc::psci::PSCI_CPU_OFF;
use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTPCT_EL0, ELR_EL2, Readable, SCTLR_EL2, SPSR_EL2, Writeable};
use guest_abi::vendor::Policy;
use hypervisor::blackbox::Kind;
use hypervisor::features::{self, Feature, Gic, Step, Units};
use hypervisor::lifecycle::EntryLevel;
use hypervisor::psci::HostEntry;
use hypervisor::rescue::Point;
use hypervisor::trap;
use hypervisor::virtual_el2::VirtualEl2;
use log::{debug, error, warn};

use crate::cpu::{self, PerCpu};
use crate::faults::fault_point;
use crate::frame::HostFrame;
use crate::machine::{self, Machine, machine, psci};
use crate::resident::{self, FAST};
use crate::trap::Trap;
use crate::{blackbox, firmware, gic, memory, registers, ticks};

/// The CPU on which the host has begun.
static BOOTED_ON: AtomicUsize = AtomicUsize::new(0);

/// The number of the CPU on which the host has begun, as far as Exeunt has seen it begin.
pub fn booted_on() -> usize {
    BOOTED_ON.load(Ordering::Relaxed)
}

/// Enters the host for the first time, on the boot CPU.
pub fn start(machine: Machine, policy: Policy, entry: HostEntry) -> ! {
    let machine = machine::set(machine);
    BOOTED_ON.store(cpu::index(), Ordering::Relaxed);
    resident::prepare_calls(machine, policy);
    blackbox::note_control(FAST.control.bits());
    enter(entry)
}

/// Enters the host where PSCI was asked to, on a CPU that has just come up.
pub fn arrive() -> ! {
    let cpu = cpu::current();
    cpu.revive();
    fault_point!("arrive");
    // If EL2 was lent to a KVM, that was in another life.
    cpu.lent.store(false, Ordering::Relaxed);
    let was_left = cpu.life.state().is_left();
    if was_left {
        FAST.control.come_up();
        blackbox::note_control(FAST.control.bits());
    }
    // Before the proxy has it on again: a CPU that is on and was left is asked for at firmware.
    cpu.life.begin();
    match psci().arrive(cpu.index(), was_left) {
        Some(_) if !machine().stage2.fits(memory::pa_range()) => {
            let (has, needs) = (memory::pa_range().bits(), machine().stage2.bits());
            trap::limited(machine(), || {
                let index = cpu.index();
                error!("CPU {index} has {has} bits of address, and the host's memory {needs}: it goes off again");
            });
            // As if its host had called it: the proxy knows then that it is off.
            let mut call = [0; 18];
            call[0] = u64::from(PSCI_CPU_OFF);
            psci().call(cpu.index(), &mut call, machine(), &machine::Below);
        }
        Some(entry) => enter(entry),
        None => error!("CPU {} came up and nobody asked for it", cpu.index()),
    }
    firmware::cpu_off()
}

/// Goes to the host. Every CPU that comes up ends here.
fn enter(entry: HostEntry) -> ! {
    let cpu = cpu::current();
    let machine = machine();
    let x = [entry.x0, 0, 0, 0];
    cpu.set_point(&Point::payload(entry.pc, x));
    fault_point!("arrived");
    let gic = set_up(cpu, machine, Keep::Nothing);
    fault_point!("enter-set-up");
    let level = level(cpu, machine, gic);
    if level == EntryLevel::El1 {
        cpu.set_point(&Point { pc: entry.pc, pstate: level.spsr(), esr: 0, x });
        ticks::begin(cpu);
    }
    if level == EntryLevel::VirtualEl2 {
        let settings = machine.settings(cpu.ids());
        let mut frame = HostFrame::EMPTY;
        let trap = &mut Trap { frame: &mut frame, cpu, machine };
        cpu.window_begins();
        cpu.with_virtual_el2(|virtual_el2| virtual_el2.enter(trap, &settings, entry.pc));
    }
    fault_point!("enter-level");
    blackbox::event(if cpu.is_boot() { Kind::HostEntered } else { Kind::CpuUp }, [entry.pc, entry.x0]);
    blackbox::crumb(cpu, *b"host    ");
    let ticks = CNTPCT_EL0.get().wrapping_sub(cpu.started.load(Ordering::Relaxed));
    debug!("enters the host at {:#x}, {ticks} ticks after its first instruction here", entry.pc);
    fault_point!("enter-last");
    // SAFETY: everything above; this stack is not used again before the next exception.
    unsafe { eret(entry.pc, entry.x0, level.spsr(), memory::stack_top(cpu.index())) }
}

/// At which level the host is entered on this CPU, to which the GIC is `gic`.
fn level(cpu: &PerCpu, machine: &Machine, gic: Gic) -> EntryLevel {
    let level = machine.entry.on(machine.gic, gic).unwrap_or_else(|reason| {
        trap::limited(machine, || {
            warn!("CPU {}: {reason}; the host is entered at EL1 there", cpu.index());
        });
        EntryLevel::El1
    });
    cpu.entered.store(level as u8, Ordering::Relaxed);
    level
}

/// Whose registers are to be kept when EL2 is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// A payload begins.
    Nothing,
    /// The host is there already: the registers of EL1 and EL0 are its own.
    Host,
}

/// Sets EL2's registers for the host. Returns what the GIC is to this CPU.
#[inline(never)]
pub fn set_up(cpu: &PerCpu, machine: &Machine, keep: Keep) -> Gic {
    machine.stage2.install();
    let ids = cpu.ids();
    if ids.has(Feature::Sme) {
        SCTLR_EL2.set(memory::SCTLR_EL2_MMU_ON | features::SCTLR_EL2_ENTP2);
    }
    let opened = match keep {
        Keep::Nothing => {
            cpu.set_opened(Units::NONE);
            Units::NONE
        }
        // What it uses it goes on using, whether it has asked Exeunt for it or was alone with EL2 then.
        Keep::Host => Units::ALL,
    };
    let gic = gic::on_this_cpu(machine.gic, ids);
    features::set_up(ids, gic, opened, |step| match step {
        Step::Write(register, _) if keep == Keep::Host && !register.is_el2() => {}
        // SAFETY: only registers that the CPU's ID registers show; none of them changes what Exeunt itself runs under.
        Step::Write(register, value) => unsafe { registers::write(register, value) },
        Step::Isb => barrier::isb(barrier::SY),
    });
    // SAFETY: forgets translations only. What EL1 had before this CPU's reset or under whoever ran before is stale.
    unsafe { core::arch::asm!("isb", "tlbi alle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
    if let Some(frames) = machine.gicv2 {
        cpu.interface.store(gic::own_interface(frames), Ordering::Relaxed);
    }
    blackbox::follow_tracing();
    assert!(cpu.life.go_live().is_ok(), "EL2 of CPU {} is set up twice", cpu.index());
    gic
}

/// Starts the next payload at `entry` under Exeunt, as if the CPU had just come up there, with the registers of
/// `frame`.
#[cold]
#[inline(never)]
pub fn restart(frame: &mut HostFrame, entry: u64) {
    let cpu = cpu::current();
    let machine = machine();
    BOOTED_ON.store(cpu.index(), Ordering::Relaxed);
    ticks::begin_anew(cpu);
    ticks::end(cpu, true);
    cpu.life.begin();
    let gic = set_up(cpu, machine, Keep::Nothing);
    fault_point!("restart-set-up");
    if level(cpu, machine, gic) == EntryLevel::VirtualEl2 {
        let settings = machine.settings(cpu.ids());
        let trap = &mut Trap { frame, cpu, machine };
        cpu.window_begins();
        cpu.with_virtual_el2(|virtual_el2| virtual_el2.enter(trap, &settings, entry));
        fault_point!("restart-window");
    } else {
        cpu.with_virtual_el2(VirtualEl2::forget_vectors);
        ELR_EL2.set(entry);
        SPSR_EL2.set(EntryLevel::El1.spsr());
        ticks::begin(cpu);
    }
}

/// Enters the host at `pc` with `x0`, `spsr` as its PSTATE and every other general-purpose register 0, and leaves this
/// CPU's stack empty for the next exception.
///
/// # Safety
/// Every register of EL2 is as the host needs it; nothing on the current stack is needed again; `stack_top` is the top
/// of this CPU's own stack.
#[unsafe(naked)]
unsafe extern "C" fn eret(pc: u64, x0: u64, spsr: u64, stack_top: u64) -> ! {
    naked_asm!(
        "mrs x4, tpidr_el2",
        "str xzr, [x4, #{point} + 24]", // the host is where the return goes
        "msr elr_el2, x0",
        "msr spsr_el2, x2",
        "mov sp, x3",
        "mov x0, x1",
        "mov x1, xzr",
        "mov x2, xzr",
        "mov x3, xzr",
        "mov x4, xzr",
        "mov x5, xzr",
        "mov x6, xzr",
        "mov x7, xzr",
        "mov x8, xzr",
        "mov x9, xzr",
        "mov x10, xzr",
        "mov x11, xzr",
        "mov x12, xzr",
        "mov x13, xzr",
        "mov x14, xzr",
        "mov x15, xzr",
        "mov x16, xzr",
        "mov x17, xzr",
        "mov x18, xzr",
        "mov x19, xzr",
        "mov x20, xzr",
        "mov x21, xzr",
        "mov x22, xzr",
        "mov x23, xzr",
        "mov x24, xzr",
        "mov x25, xzr",
        "mov x26, xzr",
        "mov x27, xzr",
        "mov x28, xzr",
        "mov x29, xzr",
        "mov x30, xzr",
        "eret",
        "dsb nsh",
        "isb",
        point = const cpu::POINT,
    )
}
