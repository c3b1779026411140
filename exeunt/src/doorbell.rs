//! The doorbell: loads and stores of the host's in Exeunt's own 2 MiB that are answered and not refused.
//!
//! Owns what is done for each. Which accesses these are, and what the registers hold, is decided in
//! `hypervisor::doorbell`; the calls are [`calls`]'s, and LEAVE is [`leaving`]'s.

use aarch64_cpu::registers::{ELR_EL2, FAR_EL2, HPFAR_EL2, Readable, SCTLR_EL1, SPSR_EL2};
use guest_abi::vendor::{Error, PAGE};
use hypervisor::doorbell::{self, Access, Doorbell, Facts, Ring, Target, Ticket};
use hypervisor::inject;
use hypervisor::own_calls::Outcome;
use hypervisor::syndrome::Esr;
use hypervisor::trap::{self, Vcpu};

use crate::crash::{self, Ending};
use crate::faults::fault_point;
use crate::trap::Trap;
use crate::{blackbox, calls, hangs, leaving, memory};

static DOORBELL: Doorbell = Doorbell::new();

/// The black box, as the registers tell of it and the mirror shows it.
fn facts() -> Facts {
    let region = blackbox::region();
    Facts { box_start: region.start, box_size: region.size() }
}

/// Answers a data abort of the host's at EL1 or EL0, if it is an access to the doorbell that can be answered. False: it
/// is to be refused.
#[inline]
pub fn answer(trap: &mut Trap, esr: Esr) -> bool {
    match answer_here(trap, esr) {
        Answered::Not => false,
        Answered::Done => true,
        // From here, since it is the deepest call.
        Answered::StartsCrashKernel(ticket) => {
            start_crash_kernel(trap, ticket, esr);
            true
        }
    }
}

/// What became of an access.
enum Answered {
    /// It is to be refused.
    Not,
    /// All of it.
    Done,
    /// It is a call that has still to be made.
    StartsCrashKernel(Ticket),
}

/// The same, but for what needs most of the stack. Out of the way of all other exits.
#[cold]
#[inline(never)]
fn answer_here(trap: &mut Trap, esr: Esr) -> Answered {
    // Valid for a translation fault, and for no other one the access is answered.
    let address = trap::fault_ipa(HPFAR_EL2.get()) | FAR_EL2.get() & (PAGE - 1);
    let own = memory::reservation();
    if address < own.start || address >= own.end {
        return Answered::Not;
    }
    let (facts, offset) = (facts(), address - own.start);
    match doorbell::access(esr, offset, facts.box_size, SPSR_EL2.get(), SCTLR_EL1.get()) {
        Some(access) => answer_access(trap, esr, access, facts),
        None => Answered::Not,
    }
}

fn answer_access(trap: &mut Trap, esr: Esr, access: Access, facts: Facts) -> Answered {
    let register = usize::from(access.register);
    match access.target {
        Target::Mirror(offset) => {
            fault_point!("doorbell-load");
            let start = facts.box_start + (offset & !7);
            let place = core::ptr::with_exposed_provenance::<u64>(start as usize);
            // SAFETY: in the box, aligned; memory of Exeunt's that its CPUs write while it is read.
            let word = unsafe { place.read_volatile() };
            trap.set_register(access.register, access.loaded(word >> (8 * (offset & 7))));
        }
        Target::Registers(offset) if access.is_store => {
            fault_point!("doorbell-store");
            // The zero register is none of the frame's.
            let value = access.stored(trap.frame.x.get(register).copied().unwrap_or(0));
            match DOORBELL.store(offset, value) {
                Ok(Some(ring)) => return call(trap, ring, esr),
                Ok(None) => {}
                Err(doorbell::NoRegister) => return Answered::Not,
            }
        }
        Target::Registers(offset) => match DOORBELL.load(offset, facts) {
            Some(value) => trap.set_register(access.register, access.loaded(value)),
            None => return Answered::Not,
        },
    }
    skip(trap, esr);
    Answered::Done
}

/// Has the host go on after the access.
fn skip(trap: &mut Trap, esr: Esr) {
    let (pc, pstate) = inject::skip_instruction(ELR_EL2.get(), SPSR_EL2.get(), esr.is_32bit_instruction());
    trap.set_return(pc, pstate);
}

/// Makes the call that a store has asked for, and has the host go on after it; on the store, if the call could not be
/// made yet.
fn call(trap: &mut Trap, ring: Ring, esr: Esr) -> Answered {
    fault_point!("doorbell-call");
    let mut registers = [0; 18];
    registers[..4].copy_from_slice(&ring.arguments);
    let outcome = if ring.is_allowed() {
        calls::own_elsewhere(trap.cpu, trap.machine, &mut registers)
    } else {
        registers[0] = Error::NotSupported.to_register();
        Outcome::Done
    };
    let mut panics = false;
    match outcome {
        Outcome::Done => {}
        Outcome::Leave => {
            let Some(error) = leaving::leave_by_doorbell(trap) else {
                DOORBELL.take_back(ring.ticket());
                return Answered::Done;
            };
            registers[0] = error.to_register();
        }
        Outcome::Panic(target) => {
            let asked = hangs::ask(trap, target);
            registers[0] = asked.map_or_else(Error::to_register, |_| 0);
            panics = asked == Ok(hangs::Target::Here);
        }
        Outcome::CrashKernel => return Answered::StartsCrashKernel(ring.ticket()),
    }
    DOORBELL.answer(ring.ticket(), [registers[0], registers[1], registers[2], registers[3]]);
    skip(trap, esr);
    if panics {
        trap.panic_here();
    }
    Answered::Done
}

/// Makes the call that starts the crash kernel.
#[inline(never)]
fn start_crash_kernel(trap: &mut Trap, ticket: Ticket, esr: Esr) {
    match crash::start_kernel(trap) {
        Ending::Refused(error) => {
            DOORBELL.answer(ticket, [error.to_register(), 0, 0, 0]);
            skip(trap, esr);
        }
        Ending::Begins => {}
        Ending::Overtaken => {
            leaving::hold(trap.frame, trap.cpu, trap.machine);
            DOORBELL.take_back(ticket);
        }
    }
}
