//! What the host does that reaches EL2, and what it gets for it.
//!
//! Owns the table of handlers by exception class. A handler answers *handled*, *unhandled* or *forbidden*; whatever is
//! not handled becomes an exception at EL1 and a line in the log, never a panic. Registers come and go through
//! [`Vcpu`], all else through [`Machine`].
//!
//! | class | answer |
//! |---|---|
//! | WFI, WFE | skipped: a CPU may always return from either at once |
//! | HVC | the stub ABI, Exeunt's own calls, the PSCI proxy, firmware or NOT_SUPPORTED ([`crate::smccc`]) |
//! | SMC | the same except the stub ABI and Exeunt's own calls; the PC is moved past it, since a trap leaves it there |
//! | data and instruction aborts | *forbidden*: a synchronous external abort at EL1 |
//! | an instruction outside of RAM | may be executed from then on ([`crate::placement`]) |
//! | a store into the black box | passed over |
//! | system registers | an ID register read (HCR_EL2.TID3): its value, as the host is to see it |
//! | | those of a unit that waits for the host to ask ([`crate::features::Unit`]): opened, and tried again |
//! | | those of the GIC's that trap with the watchdog on ([`crate::watchdog`]): carried out |
//! | | else *unhandled* |
//! | all others | *unhandled*: the instruction is undefined at EL1 |
//!
//! The others are instructions that a trap control of EL2 stops and nobody emulates (other system registers, SVE, SME,
//! pointer authentication, ...), where an undefined instruction is what a CPU without the feature gives; the same
//! instructions from AArch32 at EL0; and classes that cannot come from a lower Exception level with HCR_EL2 as
//! [`crate::features`] sets it (AArch32 HVC and SMC: RW is set; BRK, SVC, breakpoints, alignment faults: TGE and
//! MDCR_EL2.TDE are clear).

use log::warn;

use crate::inject::{self, Entry, Exception, Origin, PstateFeatures};
use crate::psci::{Environment, Firmware, Psci};
use crate::ratelimit::RateLimit;
use crate::smccc::{self, Call, Conduit};
use crate::syndrome::{CLASSES, Encoding, Esr, ExceptionClass, FaultKind, SystemAccess};

/// Log lines about the host's mistakes: at most this many ...
pub const LOG_BURST: u16 = 10;
/// ... in this many seconds, the figures that Linux's `printk_ratelimit` has.
pub const LOG_INTERVAL_SECONDS: u64 = 5;

/// The CPU as it was when the host trapped, and how to change what the host returns to.
pub trait Vcpu {
    /// The CPU's number in [`Psci`].
    fn index(&self) -> usize;
    /// The host's x0 to x17.
    fn registers(&mut self) -> &mut [u64; 18];
    /// Sets one of the host's x0 to x30; 31 is the zero register.
    fn set_register(&mut self, number: u8, value: u64);
    /// ELR_EL2.
    fn elr(&self) -> u64;
    /// Sets ELR_EL2 and SPSR_EL2, to which the exception return goes.
    fn set_return(&mut self, elr: u64, spsr: u64);
    /// SPSR_EL2.
    fn spsr(&self) -> u64;
    /// FAR_EL2.
    fn far(&self) -> u64;
    /// HPFAR_EL2.
    fn hpfar(&self) -> u64;
    /// VBAR_EL1.
    fn vbar_el1(&self) -> u64;
    /// SCTLR_EL1.
    fn sctlr_el1(&self) -> u64;
    /// SCTLR2_EL1, 0 on a CPU without it.
    fn sctlr2_el1(&self) -> u64;
    /// GCSCR_EL1, 0 on a CPU without it.
    fn gcscr_el1(&self) -> u64;
    /// The PSTATE fields that the CPU has.
    fn pstate_features(&self) -> PstateFeatures;
    /// Sets ELR_EL1, SPSR_EL1, ESR_EL1 and, if there is one, FAR_EL1.
    fn set_el1_exception(&mut self, entry: &Entry);
    /// The host at EL1 has trapped with an access to this. If it asks for a unit that is shut
    /// ([`crate::features::Unit`]): opens it, and it is worth to try again. False for all else.
    fn ask(&mut self, access: Encoding) -> bool;
    /// Carries out an access of the host's at EL1, if it is one to a register of the GIC's that traps for the sake of
    /// the watchdog. False for all else.
    fn interrupt_controller(&mut self, _access: SystemAccess) -> bool {
        false
    }
    /// The ID register that HCR_EL2.TID3 has trapped, as the host is to read it; nothing if it is none.
    fn read_id(&self, register: Encoding) -> Option<u64>;
    /// Lets the host execute at FAR_EL2, where stage 2 does not let it yet, or finds that it need not any more. False:
    /// it never may.
    fn allow_execution(&mut self) -> bool;
    /// The host at EL1 or EL0 may read at FAR_EL2, and has tried to write: passes over its store, if it is nothing but
    /// that ([`crate::blackbox::store`]). True: it is to go on.
    fn pass_over_store(&mut self, esr: Esr) -> bool;
    /// Whether the host has installed vectors that EL2 would run, and that virtual EL2 can ([`crate::stub`]).
    fn has_vectors(&self) -> bool;
    /// At which level the host's stage 1 walk for `far` reads its descriptor at `ipa`, if a walk finds that out. Asked
    /// for faults on such a walk only. `ipa` is known to the 4 KiB page.
    fn stage1_level(&self, far: u64, ipa: u64) -> Option<i8>;
}

/// What all CPUs share.
pub trait Machine: Environment {
    /// The way to firmware.
    type Firmware: Firmware;

    /// The PSCI proxy.
    fn psci(&self) -> &Psci;
    /// Firmware.
    fn firmware(&self) -> &Self::Firmware;
    /// The limit for log lines about the host's mistakes.
    fn log_limit(&self) -> &RateLimit;
    /// CNTPCT_EL0.
    fn now(&self) -> u64;
    /// CNTFRQ_EL0.
    fn ticks_per_second(&self) -> u64;
}

/// What is left to be done for a trap, by whoever owns EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Nothing: the host goes on.
    Host,
    /// The stub call in x0 to x4 ([`crate::stub`]).
    Stub,
    /// The call of Exeunt's own in x0 to x3 ([`crate::own_calls`]).
    Own,
    /// A call of the host's to its own KVM at EL2, which is not there. Unless EL2 is lent to it, x0 is
    /// [`smccc::NOT_SUPPORTED`].
    Kvm,
}

/// A handler's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The host goes on.
    Handled,
    /// Nobody emulates this: undefined instruction.
    Unhandled,
    /// The host may not do this: synchronous external abort.
    Forbidden,
}

type Handler<V, M> = fn(&mut V, &M, Esr) -> Outcome;

/// The handlers by exception class. Calls have functions of their own.
struct Table<V, M>(core::marker::PhantomData<(V, M)>);

impl<V: Vcpu, M: Machine> Table<V, M> {
    const ROWS: [Handler<V, M>; CLASSES] = {
        let mut rows: [Handler<V, M>; CLASSES] = [unhandled; CLASSES];
        rows[ExceptionClass::Wfx as usize] = wfx;
        rows[ExceptionClass::SystemRegister as usize] = system_register;
        rows[ExceptionClass::InstructionAbortLower as usize] = instruction_abort;
        rows[ExceptionClass::DataAbortLower as usize] = data_abort;
        rows
    };
}

/// Answers an HVC from AArch64, and says what is left to do. It leaves ELR_EL2 behind the instruction, where the host
/// goes on; a PSCI call that turns the CPU off does not return.
#[inline]
pub fn hvc<V: Vcpu, M: Machine>(cpu: &mut V, machine: &M, esr: Esr) -> Next {
    call(cpu, machine, Conduit::Hvc, esr.immediate())
}

/// Answers an SMC from AArch64; as for [`hvc`]. One that HCR_EL2.TSC traps leaves ELR_EL2 at it. It is moved on first:
/// a call that wakes up elsewhere never comes back here, one that does comes back to the next instruction.
#[inline]
pub fn smc<V: Vcpu, M: Machine>(cpu: &mut V, machine: &M, esr: Esr) -> Next {
    let (elr, spsr) = inject::skip_a64(cpu.elr(), cpu.spsr());
    cpu.set_return(elr, spsr);
    call(cpu, machine, Conduit::Smc, esr.immediate())
}

/// Answers any other synchronous exception from EL1 or EL0. Afterwards the host goes on at ELR_EL2.
pub fn dispatch<V: Vcpu, M: Machine>(cpu: &mut V, machine: &M, esr: Esr) {
    let row = Table::<V, M>::ROWS[usize::from(esr.class_bits()) % CLASSES];
    let outcome = row(cpu, machine, esr);
    if outcome != Outcome::Handled {
        refuse(cpu, machine, esr, outcome);
    }
}

/// Takes the exception to EL1 and says so. Out of the way of the calls that are answered.
#[cold]
#[inline(never)]
fn refuse<V: Vcpu, M: Machine>(cpu: &mut V, machine: &M, esr: Esr, outcome: Outcome) {
    let (far, ipa) = (cpu.far(), fault_ipa(cpu.hpfar()));
    let exception = match (outcome, esr.abort()) {
        (Outcome::Forbidden, Some(abort)) => {
            let stage1_level = if abort.on_stage1_walk() { cpu.stage1_level(far, ipa) } else { None };
            Exception::Abort { abort, far, stage1_level }
        }
        _ => Exception::Undefined,
    };
    report(cpu, machine, esr, exception);
    inject(cpu, exception);
}

/// Takes the exception to EL1: the host goes on at its vector.
pub fn inject<V: Vcpu>(cpu: &mut V, exception: Exception) {
    let origin = Origin {
        spsr: cpu.spsr(),
        pc: cpu.elr(),
        vbar: cpu.vbar_el1(),
        sctlr: cpu.sctlr_el1(),
        sctlr2: cpu.sctlr2_el1(),
        gcscr: cpu.gcscr_el1(),
    };
    let entry = inject::take_exception(&origin, cpu.pstate_features(), exception);
    cpu.set_el1_exception(&entry);
    cpu.set_return(entry.pc, entry.pstate);
}

/// Says something about the host's mistakes, if enough time has passed.
pub fn limited<M: Machine>(machine: &M, say: impl FnOnce()) {
    limited_by(machine.log_limit(), machine.now(), machine.ticks_per_second(), "lines about the host's faults", say);
}

/// The same with a limit of its own, for what others must not be lost beside, or must not be lost beside others: `what`
/// are the lines that may be left out. `now` is CNTPCT_EL0, `ticks_per_second` CNTFRQ_EL0.
pub fn limited_by(limit: &RateLimit, now: u64, ticks_per_second: u64, what: &str, say: impl FnOnce()) {
    let interval = ticks_per_second.saturating_mul(LOG_INTERVAL_SECONDS);
    let Some(suppressed) = limit.allow(now, interval, LOG_BURST) else {
        return;
    };
    if suppressed > 0 {
        warn!("{suppressed} {what} left out");
    }
    say();
}

fn report<V: Vcpu, M: Machine>(cpu: &V, machine: &M, esr: Esr, exception: Exception) {
    limited(machine, || describe(cpu, esr, exception));
}

fn describe<V: Vcpu>(cpu: &V, esr: Esr, exception: Exception) {
    let (pc, what) = (cpu.elr(), esr.with_far(cpu.far()));
    match exception {
        Exception::Undefined => warn!("host at {pc:#x}: {what}; it gets an undefined instruction"),
        Exception::SError { .. } => warn!("host at {pc:#x}: {what}; it gets an SError"),
        Exception::Abort { abort, .. } if has_ipa(abort) => {
            let ipa = fault_ipa(cpu.hpfar());
            warn!("host at {pc:#x}: {what}, IPA page {ipa:#x}; it gets an external abort");
        }
        Exception::Abort { .. } => warn!("host at {pc:#x}: {what}; it gets an external abort"),
    }
}

/// HPFAR_EL2.FIPA, bits \[47:4\], holds bits \[55:12\] of the faulting IPA (Arm ARM D24.2, HPFAR_EL2).
#[must_use]
pub const fn fault_ipa(hpfar: u64) -> u64 {
    (hpfar & 0xffff_ffff_fff0) << 8
}

/// Whether HPFAR_EL2 was written: translation, access flag and address size faults, and any fault on a stage 1 walk.
/// For a permission fault on the access itself the architecture does not promise it.
const fn has_ipa(abort: crate::syndrome::Abort) -> bool {
    abort.on_stage1_walk()
        || matches!(abort.fault().kind, FaultKind::Translation | FaultKind::AccessFlag | FaultKind::AddressSize)
}

fn unhandled<V, M>(_cpu: &mut V, _machine: &M, _esr: Esr) -> Outcome {
    Outcome::Unhandled
}

/// Of what the host has, only what is outside of RAM cannot be executed; see [`crate::placement`]. It is to try again.
fn instruction_abort<V: Vcpu, M>(cpu: &mut V, _machine: &M, esr: Esr) -> Outcome {
    match esr.abort() {
        Some(abort) if abort.fault().kind == FaultKind::Permission && !abort.on_stage1_walk() => {
            if cpu.allow_execution() { Outcome::Handled } else { Outcome::Forbidden }
        }
        _ => Outcome::Forbidden,
    }
}

/// Stage 2 refuses an access where it lets the host do anything only to stores into the black box.
fn data_abort<V: Vcpu, M>(cpu: &mut V, _machine: &M, esr: Esr) -> Outcome {
    match esr.abort() {
        Some(abort)
            if abort.fault().kind == FaultKind::Permission
                && !abort.on_stage1_walk()
                && abort.is_write()
                && cpu.pass_over_store(esr) =>
        {
            Outcome::Handled
        }
        _ => Outcome::Forbidden,
    }
}

fn wfx<V: Vcpu, M>(cpu: &mut V, _machine: &M, esr: Esr) -> Outcome {
    skip(cpu, esr);
    Outcome::Handled
}

/// Has the host go on after the instruction.
fn skip<V: Vcpu>(cpu: &mut V, esr: Esr) {
    let (elr, spsr) = inject::skip_instruction(cpu.elr(), cpu.spsr(), esr.is_32bit_instruction());
    cpu.set_return(elr, spsr);
}

/// ID registers trap (TID3) while Exeunt hides something in one, and those of a unit that stays shut until the host
/// asks for it; anything else is a trap that nobody asked for.
fn system_register<V: Vcpu, M>(cpu: &mut V, _machine: &M, esr: Esr) -> Outcome {
    let Some(access) = esr.system_access() else { return Outcome::Unhandled };
    match cpu.read_id(access.encoding()) {
        Some(value) if access.is_read() && !inject::is_el0(cpu.spsr()) => {
            cpu.set_register(access.register(), value);
            skip(cpu, esr);
            Outcome::Handled
        }
        _ if cpu.ask(access.encoding()) => Outcome::Handled,
        // With the watchdog on, each interrupt that a CPU sends or ends may come here.
        _ if !inject::is_el0(cpu.spsr()) && cpu.interrupt_controller(access) => {
            skip(cpu, esr);
            Outcome::Handled
        }
        _ => Outcome::Unhandled,
    }
}

/// Answers an SMC whose PC has been moved past it already. Nothing is left to do: only HVCs ask whoever owns EL2.
pub fn smc_call<V: Vcpu, M: Machine>(cpu: &mut V, machine: &M, immediate: u16) {
    let _ = call(cpu, machine, Conduit::Smc, immediate);
}

#[inline]
fn call<V: Vcpu, M: Machine>(cpu: &mut V, machine: &M, conduit: Conduit, immediate: u16) -> Next {
    let index = cpu.index();
    // With a high word it may be a function identifier all the same, or no number at all: what Linux 5.10 has in x0
    // when it calls the vectors of its resume from hibernation is an address (`hibernate-asm.S`).
    if conduit == Conduit::Hvc && cpu.registers()[0] >> 32 != 0 && cpu.has_vectors() {
        return Next::Stub;
    }
    let registers = cpu.registers();
    match smccc::classify(conduit, registers[0], immediate) {
        Call::Stub => return Next::Stub,
        // Exeunt's own by the 32-bit convention are none of KVM's.
        Call::Own if registers[0] & u64::from(smccc::CALL_64) != 0 && smccc::is_kvm(registers[0]) => return Next::Kvm,
        Call::Own => return Next::Own,
        Call::Psci => machine.psci().call(index, registers, machine, machine.firmware()),
        Call::Firmware => machine.firmware().call(registers),
        Call::Unknown => registers[0] = smccc::NOT_SUPPORTED,
    }
    Next::Host
}

#[cfg(test)]
mod tests;
