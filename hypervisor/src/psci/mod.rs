//! The PSCI proxy: the host's power calls, on their way to firmware.
//!
//! Owns which call goes to firmware in which form, and (in [`cpus`]) which CPU is on. Every call that names a place
//! where a CPU shall come up is changed so that it comes up in Exeunt, which then enters the host there. It executes no
//! SMC itself: firmware is a trait, behind which the EL2 binary has the instruction and tests have a model.
//!
//! Source: Arm Power State Coordination Interface, DEN0022 (the sections are those of 1.3, issue F.b).
//!
//! | call | since | what happens |
//! |---|---|---|
//! | PSCI_VERSION | 0.2, mandatory | forwarded |
//! | CPU_SUSPEND | 0.2, mandatory | entry substituted |
//! | CPU_OFF | 0.2, mandatory | recorded and forwarded |
//! | CPU_ON | 0.2, mandatory | recorded, entry substituted; ALREADY_ON, ON_PENDING: Exeunt's, unless it left the CPU |
//! | AFFINITY_INFO | 0.2, mandatory | forwarded: firmware alone knows when a CPU is really off |
//! | MIGRATE, MIGRATE_INFO_TYPE, MIGRATE_INFO_UP_CPU | 0.2, optional | forwarded |
//! | SYSTEM_OFF, SYSTEM_RESET | 0.2, mandatory | forwarded |
//! | PSCI_FEATURES | 1.0, mandatory | forwarded for the calls of this table and SMCCC_VERSION |
//! | CPU_FREEZE | 1.0, optional | NOT_SUPPORTED: it ends in a CPU_ON whose target was never seen to go off |
//! | CPU_DEFAULT_SUSPEND | 1.0, optional | entry substituted |
//! | NODE_HW_STATE | 1.0, optional | forwarded |
//! | SYSTEM_SUSPEND | 1.0, optional | entry substituted |
//! | PSCI_SET_SUSPEND_MODE | 1.0, optional | forwarded |
//! | PSCI_STAT_RESIDENCY, PSCI_STAT_COUNT | 1.0, optional | forwarded |
//! | SYSTEM_RESET2, MEM_PROTECT, MEM_PROTECT_CHECK_RANGE | 1.1, optional | forwarded |
//! | SYSTEM_OFF2 | 1.3, optional | forwarded |
//! | any other number from 0 to 0x1f | | NOT_SUPPORTED |
//!
//! Registers: the answer is in x0, and x1 to x17 keep what the host had in them. Firmware may preserve or change x1 to
//! x3, it would give back Exeunt's addresses in substituted calls; and firmware older than SMCCC 1.1 may change x4 to
//! x17 as well.

pub mod cpus;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use arm_psci::{ErrorCode, FunctionId, Mpidr, PsciFeature};

pub use cpus::{ClaimError, HostEntry, PowerState};

/// The most CPUs that there is room for: each takes 8 KiB of stack out of Exeunt's 2 MiB.
pub const MAX_CPUS: usize = 128;

/// MPIDR_EL1.Aff3 to Aff0: all that PSCI takes of it (DEN0022, 5.1.4 CPU_ON, `target_cpu`).
pub const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;

/// AFFINITY_INFO's answer for a CPU that is off (DEN0022, 5.1.5).
const AFFINITY_OFF: u32 = 1;

/// The way down to firmware.
pub trait Firmware {
    /// Makes the SMC with x0 to x17 from `registers` and leaves in it what came back.
    ///
    /// All earlier stores of this CPU are complete before the SMC (DSB): a CPU that the call starts reads them. A call
    /// that turns this CPU off does not return.
    fn call(&self, registers: &mut [u64; 18]);

    /// The same with x0 = `function` and x1 to x17 from `registers`, for a caller that wants x0 alone.
    fn forward(&self, function: u32, registers: &[u64; 18]) -> u64 {
        let mut call = *registers;
        call[0] = function.into();
        self.call(&mut call);
        call[0]
    }
}

/// What the proxy has to know about the machine.
pub trait Environment {
    /// The physical address at which firmware shall start a CPU at EL2, MMU off.
    fn entry_point(&self) -> u64;

    /// What CPU number `cpu` shall find in x0 there.
    fn context(&self, cpu: usize) -> u64;

    /// Whether the host may run at this physical address: RAM that is the host's.
    fn is_host_ram(&self, address: u64) -> bool;

    /// Whether Exeunt has left CPU number `cpu`: what it does there, CPU_OFF included, goes to firmware directly.
    fn is_left(&self, cpu: usize) -> bool;

    /// The host is about to turn the machine off, or to reset it.
    fn ends(&self, _resets: bool) {}

    /// The host is about to turn this CPU off.
    fn goes_off(&self, _cpu: usize) {}

    /// Firmware has not turned it off, or has not suspended the machine.
    fn stays_on(&self, _cpu: usize) {}

    /// The host is about to suspend the machine, on this CPU.
    fn suspends(&self, _cpu: usize) {}

    /// A kernel begins, on this CPU: it asks which version of PSCI there is, as each does before it uses any.
    fn begins(&self, _cpu: usize) {}
}

/// Why the list of CPUs in the device tree cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitError {
    /// More CPUs than [`MAX_CPUS`].
    TooMany,
    /// Bits that no affinity field has.
    NotAnAffinity(u64),
    /// The same affinity twice.
    Twice(u64),
    /// The CPU that runs now is not in the list.
    NoBootCpu,
}

impl core::fmt::Display for InitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooMany => write!(f, "more than {MAX_CPUS} CPUs"),
            Self::NotAnAffinity(reg) => write!(f, "a CPU node's reg {reg:#x} is not an MPIDR affinity"),
            Self::Twice(reg) => write!(f, "two CPU nodes have reg {reg:#x}"),
            Self::NoBootCpu => f.write_str("no CPU node for the boot CPU"),
        }
    }
}

/// What the proxy does with a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proxy {
    Forward,
    Version,
    End,
    CpuOn,
    CpuOff,
    CpuSuspend,
    CpuDefaultSuspend,
    SystemSuspend,
    Features,
    Refuse,
}

/// The table at the top of this file, in code.
const fn proxy(function: FunctionId) -> Proxy {
    use FunctionId as F;
    match function {
        F::PsciVersion => Proxy::Version,
        F::AffinityInfo32
        | F::AffinityInfo64
        | F::Migrate32
        | F::Migrate64
        | F::MigrateInfoType
        | F::MigrateInfoUpCpu32
        | F::MigrateInfoUpCpu64
        | F::MemProtect
        | F::MemProtectCheckRange32
        | F::MemProtectCheckRange64
        | F::NodeHwState32
        | F::NodeHwState64
        | F::PsciSetSuspendMode
        | F::PsciStatResidency32
        | F::PsciStatResidency64
        | F::PsciStatCount32
        | F::PsciStatCount64 => Proxy::Forward,
        F::SystemOff | F::SystemOff232 | F::SystemOff264 | F::SystemReset | F::SystemReset232 | F::SystemReset264 => {
            Proxy::End
        }
        F::CpuOn32 | F::CpuOn64 => Proxy::CpuOn,
        F::CpuOff => Proxy::CpuOff,
        F::CpuSuspend32 | F::CpuSuspend64 => Proxy::CpuSuspend,
        F::CpuDefaultSuspend32 | F::CpuDefaultSuspend64 => Proxy::CpuDefaultSuspend,
        F::SystemSuspend32 | F::SystemSuspend64 => Proxy::SystemSuspend,
        F::PsciFeatures => Proxy::Features,
        F::CpuFreeze => Proxy::Refuse,
    }
}

/// An answer: a value of firmware's, or an error of Exeunt's own.
type Answer = Result<u64, ErrorCode>;

/// All CPUs, and the way their power calls go.
pub struct Psci {
    cpus: [cpus::Cpu; MAX_CPUS],
    count: AtomicUsize,
    /// Firmware takes `power_state` in the extended StateID format (DEN0022, CPU_SUSPEND), where StateType is bit 30
    /// and not 16.
    extended_state: AtomicBool,
    /// A CPU was claimed since somebody last looked.
    claims: AtomicBool,
    /// Which CPU each has claimed and not heard of yet, plus 1; else 0.
    claimed: [AtomicU8; MAX_CPUS],
}

impl Psci {
    /// No CPU yet. For a `static`.
    #[must_use]
    #[allow(clippy::large_stack_arrays, reason = "evaluated at compile time; a stack never sees it")]
    pub const fn new() -> Self {
        Self {
            cpus: [const { cpus::Cpu::new() }; MAX_CPUS],
            count: AtomicUsize::new(0),
            extended_state: AtomicBool::new(false),
            claims: AtomicBool::new(false),
            claimed: [const { AtomicU8::new(0) }; MAX_CPUS],
        }
    }

    /// Takes the CPUs that the device tree lists (`reg` of each node, in its order, which makes the CPU numbers), asks
    /// firmware for the format of `power_state`, and marks the boot CPU as on. Returns the boot CPU's number.
    ///
    /// `boot_mpidr` is MPIDR_EL1 of the boot CPU; its bits outside the affinity fields do not count. Once, before any
    /// other CPU runs.
    ///
    /// # Errors
    ///
    /// [`InitError`] says what is wrong with the list; nothing must be called afterwards.
    pub fn init(&self, affinities: &[u64], boot_mpidr: u64, firmware: &impl Firmware) -> Result<usize, InitError> {
        if affinities.len() > MAX_CPUS {
            return Err(InitError::TooMany);
        }
        let mut highest = None;
        for (number, &affinity) in affinities.iter().enumerate() {
            if affinity & !MPIDR_AFFINITY != 0 {
                return Err(InitError::NotAnAffinity(affinity));
            }
            // Trees list their CPUs in rising order, so that this takes no time that grows with the square of their
            // number.
            let rises = highest.is_none_or(|highest| affinity > highest);
            if !rises && affinities[..number].contains(&affinity) {
                return Err(InitError::Twice(affinity));
            }
            highest = highest.max(Some(affinity));
            self.cpus[number].mpidr.store(affinity, Ordering::Relaxed);
        }
        // Release: whoever reads the count has the list.
        self.count.store(affinities.len(), Ordering::Release);
        let boot = self.find(boot_mpidr & MPIDR_AFFINITY).ok_or(InitError::NoBootCpu)?;
        self.cpus[boot].boot();

        let features = ask(firmware, FunctionId::PsciFeatures.into(), u32::from(FunctionId::CpuSuspend64).into());
        // Bit 1 of the answer (DEN0022, 5.1.15); firmware before 1.0 says NOT_SUPPORTED and has the old format.
        self.extended_state.store(!is_error(features) && features & 2 != 0, Ordering::Relaxed);
        Ok(boot)
    }

    /// How many CPUs there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The number of the CPU with these affinity fields, which must be all that is set.
    #[must_use]
    pub fn find(&self, affinity: u64) -> Option<usize> {
        self.cpus[..self.count()].iter().position(|cpu| cpu.mpidr.load(Ordering::Relaxed) == affinity)
    }

    /// The affinity fields of CPU number `cpu`.
    #[must_use]
    pub fn affinity(&self, cpu: usize) -> Option<u64> {
        self.cpus[..self.count()].get(cpu).map(|cpu| cpu.mpidr.load(Ordering::Relaxed))
    }

    /// The state of CPU number `cpu`; `Off` for an unknown number.
    #[must_use]
    pub fn power_state(&self, cpu: usize) -> PowerState {
        self.cpus.get(cpu).map_or(PowerState::Off, cpus::Cpu::power_state)
    }

    /// CPU number `cpu`, which calls this itself, has come up at [`Environment::entry_point`] and has its MMU on.
    /// Returns where the host goes on. `was_left`: Exeunt had left it, so that a suspend of its own would not have
    /// ended here. `None`: nobody asked for this CPU, it has no business in the host.
    #[must_use]
    pub fn arrive(&self, cpu: usize, was_left: bool) -> Option<HostEntry> {
        self.cpus.get(cpu)?.arrive(was_left)
    }

    /// Begins to look for CPU_ON calls that get as far as firmware.
    pub fn forget_claims(&self) {
        self.claims.store(false, Ordering::Release);
    }

    /// Whether there was one since.
    #[must_use]
    pub fn has_new_claims(&self) -> bool {
        self.claims.load(Ordering::Acquire)
    }

    /// Whether a CPU may be on, by firmware's word, of which the proxy has only heard that it is off: somebody has
    /// started it without Exeunt. So it seems of a CPU_OFF that is in flight, too. A CPU that firmware cannot start is
    /// none: trees list some that are not there.
    pub fn has_strangers(&self, firmware: &impl Firmware) -> bool {
        let mut cpus = self.cpus[..self.count()].iter();
        cpus.any(|cpu| cpu.power_state() == PowerState::Off && !cannot_run(firmware, cpu.mpidr.load(Ordering::Relaxed)))
    }

    /// Whether a CPU_ON for CPU number `cpu` is in flight.
    #[must_use]
    pub fn is_starting(&self, cpu: usize) -> bool {
        self.cpus.get(cpu).is_some_and(cpus::Cpu::is_claimed)
    }

    /// Turns CPU number `cpu` off, which calls this itself, and not because its host has asked for it. Returns if
    /// firmware refuses; to a host it is off all the same, and it must not go back to one.
    pub fn turn_off(&self, cpu: usize, firmware: &impl Firmware) {
        if let Some(this) = self.cpus.get(cpu) {
            this.go_off();
        }
        firmware.forward(FunctionId::CpuOff.into(), &[0; 18]);
    }

    /// Whether CPU number `cpu` is off, by firmware's word: its last instruction has been executed.
    pub fn is_off(&self, cpu: usize, firmware: &impl Firmware) -> bool {
        self.affinity(cpu).is_none_or(|affinity| is_off(firmware, affinity))
    }

    /// CPU number `cpu`, which calls this itself, is under Exeunt again after it was left.
    pub fn come_back(&self, cpu: usize) {
        if let Some(cpu) = self.cpus.get(cpu) {
            cpu.boot();
        }
    }

    /// Answers one call in the PSCI range that CPU number `cpu` made, by HVC or SMC, with x0 to x17 in `registers`. Of
    /// these only x0 changes. Does not return if firmware does not.
    ///
    /// The function identifier is the low word of x0 without the SMCCC hint bit ([`crate::smccc`]).
    #[inline(never)]
    pub fn call(&self, cpu: usize, registers: &mut [u64; 18], env: &impl Environment, firmware: &impl Firmware) {
        let function = FunctionId::try_from(crate::smccc::function_id(registers[0]));
        let answer = match function {
            Ok(function) => self.answer(function, cpu, registers, env, firmware),
            Err(_) => Err(ErrorCode::NotSupported),
        };
        // DEN0022, 5.2.2: errors are 32-bit signed, sign-extended to 64 bits by `ErrorCode`.
        registers[0] = answer.unwrap_or_else(u64::from);
    }

    fn answer(
        &self,
        function: FunctionId,
        cpu: usize,
        registers: &[u64; 18],
        env: &impl Environment,
        firmware: &impl Firmware,
    ) -> Answer {
        // A 32-bit function takes the low words only (SMCCC, "register use in AArch64 for SMC32").
        let is_64bit = u32::from(function) & crate::smccc::CALL_64 != 0;
        let argument = |n: usize| if is_64bit { registers[n] } else { registers[n] & 0xffff_ffff };
        let entry_at = |n: usize| HostEntry { pc: argument(n), x0: argument(n + 1) };
        // Wherever Exeunt's entry is substituted, firmware gets the 64-bit function: the entry may be above 4 GiB.
        match proxy(function) {
            Proxy::Forward => Ok(firmware.forward(function.into(), registers)),
            Proxy::Version => {
                env.begins(cpu);
                Ok(firmware.forward(function.into(), registers))
            }
            Proxy::End => {
                env.ends(function != FunctionId::SystemOff);
                Ok(firmware.forward(function.into(), registers))
            }
            Proxy::Features => match PsciFeature::try_from(registers[1] as u32) {
                Ok(PsciFeature::PsciFunction(asked)) if proxy(asked) == Proxy::Refuse => Err(ErrorCode::NotSupported),
                Ok(_) => Ok(firmware.forward(function.into(), registers)),
                Err(_) => Err(ErrorCode::NotSupported),
            },
            Proxy::CpuOn => self.cpu_on(cpu, argument(1), entry_at(2), env, firmware),
            Proxy::CpuOff => {
                env.goes_off(cpu);
                let refusal = self.cpu_off(cpu, registers, firmware);
                env.stays_on(cpu);
                refusal
            }
            Proxy::CpuSuspend => {
                let power_state = registers[1] as u32;
                let entry = entry_at(2);
                if self.is_powerdown(power_state) {
                    check(entry, env)?;
                }
                self.suspend(FunctionId::CpuSuspend64, Some(power_state), cpu, entry, env, firmware)
            }
            Proxy::CpuDefaultSuspend => {
                let entry = entry_at(1);
                check(entry, env)?;
                self.suspend(FunctionId::CpuDefaultSuspend64, None, cpu, entry, env, firmware)
            }
            Proxy::SystemSuspend => {
                let entry = entry_at(1);
                check(entry, env)?;
                env.suspends(cpu);
                let refusal = self.suspend(FunctionId::SystemSuspend64, None, cpu, entry, env, firmware);
                env.stays_on(cpu);
                refusal
            }
            Proxy::Refuse => Err(ErrorCode::NotSupported),
        }
    }

    #[inline(never)]
    fn cpu_off(&self, cpu: usize, registers: &[u64; 18], firmware: &impl Firmware) -> Answer {
        let this = self.cpus.get(cpu).ok_or(ErrorCode::InternalFailure)?;
        this.go_off();
        let result = firmware.forward(FunctionId::CpuOff.into(), registers);
        this.stay_on();
        Ok(result)
    }

    #[inline(never)]
    fn cpu_on(
        &self,
        cpu: usize,
        target: u64,
        entry: HostEntry,
        env: &impl Environment,
        firmware: &impl Firmware,
    ) -> Answer {
        // The type checks that no bit outside the affinity fields is set. A 32-bit caller has cleared what it cannot
        // name.
        let target = Mpidr::try_from(target).map_err(ErrorCode::from)?;
        let affinity = u64::from(target);
        let number = self.find(affinity).ok_or(ErrorCode::InvalidParameters)?;
        check(entry, env)?;
        let slot = &self.cpus[number];
        let claimed = if env.is_left(number) && slot.power_state() == PowerState::On {
            // It was on when Exeunt left it. Firmware knows what became of it; if it is off, only a CPU_ON can change
            // that.
            if is_off(firmware, affinity) {
                slot.claim_left(entry, || env.is_left(number))
            } else {
                Err(ClaimError::AlreadyOn)
            }
        } else {
            slot.claim(entry)
        };
        claimed.map_err(|error| match error {
            ClaimError::AlreadyOn => ErrorCode::AlreadyOn,
            ClaimError::OnPending => ErrorCode::OnPending,
        })?;
        self.claims.store(true, Ordering::Release);
        self.note_claim(cpu, number + 1);
        let mut call = [0; 18];
        call[0] = u32::from(FunctionId::CpuOn64).into();
        call[1] = affinity;
        call[2] = env.entry_point();
        call[3] = env.context(number);
        firmware.call(&mut call);
        // From success on the slot is the target's: it may have arrived, gone off and been claimed anew before this
        // line.
        if call[0] as u32 != 0 {
            slot.unclaim();
        }
        self.note_claim(cpu, 0);
        Ok(call[0])
    }

    fn note_claim(&self, cpu: usize, claimed: usize) {
        // No more than 128.
        if let Some(place) = self.claimed.get(cpu) {
            place.store(claimed as u8, Ordering::Release);
        }
    }

    /// Exeunt has died on CPU number `cpu`. Takes back its CPU_ON if firmware has not got it: another one could never
    /// be made. If firmware has, its target arrives and ends the claim itself. Whether it has nobody knows who does not
    /// wait for that a little: `wait` says for how long. (QEMU's says for a while after a CPU_ON that the target is
    /// off.)
    pub fn dies(&self, cpu: usize, firmware: &impl Firmware, mut wait: impl FnMut() -> bool) {
        let claimed = self.claimed.get(cpu).map_or(0, |place| place.swap(0, Ordering::AcqRel));
        let Some(target) = usize::from(claimed).checked_sub(1).and_then(|number| self.cpus.get(number)) else { return };
        while target.is_claimed() && wait() {}
        if target.is_claimed() && is_off(firmware, target.mpidr.load(Ordering::Relaxed)) {
            target.unclaim();
        }
    }

    /// The entry is substituted for standby states too, although they ignore it: then no state that firmware takes for
    /// a power-down one, whatever its number says, wakes up anywhere but in Exeunt.
    #[inline(never)]
    fn suspend(
        &self,
        function: FunctionId,
        power_state: Option<u32>,
        cpu: usize,
        entry: HostEntry,
        env: &impl Environment,
        firmware: &impl Firmware,
    ) -> Answer {
        self.cpus.get(cpu).ok_or(ErrorCode::InternalFailure)?.suspend(entry);
        let mut call = [0; 18];
        call[0] = u32::from(function).into();
        let rest = match power_state {
            Some(power_state) => {
                call[1] = power_state.into();
                2
            }
            None => 1,
        };
        call[rest] = env.entry_point();
        call[rest + 1] = env.context(cpu);
        firmware.call(&mut call);
        Ok(call[0])
    }

    /// StateType of `power_state` (DEN0022, CPU_SUSPEND): bit 16 in the original format, bit 30 in the extended one.
    fn is_powerdown(&self, power_state: u32) -> bool {
        let bit = if self.extended_state.load(Ordering::Relaxed) { 30 } else { 16 };
        power_state & (1 << bit) != 0
    }
}

impl Default for Psci {
    fn default() -> Self {
        Self::new()
    }
}

/// DEN0022, 5.1.4: INVALID_ADDRESS for an invalid entry. The host has no memory elsewhere, and an AArch64
/// instruction is 4-byte aligned.
fn check(entry: HostEntry, env: &impl Environment) -> Result<(), ErrorCode> {
    if entry.pc.is_multiple_of(4) && env.is_host_ram(entry.pc) { Ok(()) } else { Err(ErrorCode::InvalidAddress) }
}

/// Whether a CPU is off, by firmware's word.
fn is_off(firmware: &impl Firmware, affinity: u64) -> bool {
    ask(firmware, FunctionId::AffinityInfo64.into(), affinity) as u32 == AFFINITY_OFF
}

/// Whether a CPU cannot be running, by firmware's word: it is off, or firmware has no such CPU to start. That is what
/// AFFINITY_INFO means by INVALID_PARAMETERS for an affinity that is one, NOT_PRESENT and DISABLED.
fn cannot_run(firmware: &impl Firmware, affinity: u64) -> bool {
    const NO_SUCH_CPU: [ErrorCode; 3] = [ErrorCode::InvalidParameters, ErrorCode::NotPresent, ErrorCode::Disabled];
    let answer = ask(firmware, FunctionId::AffinityInfo64.into(), affinity) as u32;
    answer == AFFINITY_OFF || NO_SUCH_CPU.into_iter().any(|error| answer == u64::from(error) as u32)
}

fn ask(firmware: &impl Firmware, function: u32, argument: u64) -> u64 {
    let mut call = [0; 18];
    call[0] = function.into();
    call[1] = argument;
    firmware.call(&mut call);
    call[0]
}

/// DEN0022, 5.2.2: errors are negative 32-bit numbers, whatever a 32-bit function left in the high word.
const fn is_error(x0: u64) -> bool {
    x0 & 1 << 31 != 0
}
