//! One record in words.
//!
//! Owns the wording of an exit, of an event and of a time. It looks names up where EL2 has them: what a syndrome says
//! in [`hypervisor::syndrome`], registers in `system_registers`, calls in [`crate::calls`].

use std::fmt::Write as _;

use guest_abi::blackbox::{
    Cause, EXIT_NAMES, Event, Header, IN_VIRTUAL_EL2, INJECTED, Kind, NO_RETURN, TraceRecord, WENT_NATIVE,
};
use guest_abi::vendor::{CpuState, Error, Policy};
use hypervisor::smccc::Conduit;
use hypervisor::syndrome::{Esr, ExceptionClass};
use hypervisor::virtual_el2::decode::{self, Operation, Return};

use crate::calls::{self, Owner};
use crate::system_registers;

/// Turns counter values into seconds since Exeunt's first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    started: u64,
    frequency: u64,
}

#[allow(clippy::cast_precision_loss, reason = "53 bits of seconds are nanoseconds for a hundred days")]
impl Clock {
    /// Of a box with this header.
    #[must_use]
    pub const fn of(header: &Header) -> Self {
        Self { started: header.started, frequency: header.frequency }
    }

    /// Seconds since the start; negative before it. All are 0 if the box does not say how fast the counter is.
    #[must_use]
    pub fn seconds(&self, time: u64) -> f64 {
        let ticks = i128::from(time) - i128::from(self.started);
        self.scale(ticks as f64)
    }

    /// Seconds that so many ticks take.
    #[must_use]
    pub fn length(&self, ticks: u64) -> f64 {
        self.scale(ticks as f64)
    }

    fn scale(&self, ticks: f64) -> f64 {
        if self.frequency == 0 { 0.0 } else { ticks / self.frequency as f64 }
    }
}

/// Text out of a box, for a terminal: what has died may have left anything there, and control characters would act.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A length of time for people, with a unit that fits.
#[must_use]
pub fn length(seconds: f64) -> String {
    match seconds.abs() {
        0.0 => "0".to_owned(),
        s if s < 1e-6 => format!("{:.0} ns", seconds * 1e9),
        s if s < 1e-3 => format!("{:.1} µs", seconds * 1e6),
        s if s < 1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.3} s"),
    }
}

/// The name of a class of exits, by its number.
#[must_use]
pub fn class_name(class: u8) -> String {
    EXIT_NAMES.get(usize::from(class)).map_or_else(|| format!("class {class}"), |&name| name.to_owned())
}

/// The name of a register or system instruction, by its key in the box ([`guest_abi::blackbox::register_key`]).
#[must_use]
pub fn register_name(key: u32) -> String {
    system_registers::name_of_key(key)
}

/// What a CPU's EL2 is, by its number in the box.
#[must_use]
pub fn state_name(state: u8) -> String {
    CpuState::from_bits(state).map_or_else(|| format!("state {state}"), |state| state.words().to_owned())
}

/// What an exit is about: the coarse kind, by which a picture colours it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// A stub call of Linux's.
    Stub,
    /// A call of Exeunt's own.
    Own,
    /// A PSCI call.
    Psci,
    /// Another call.
    Call,
    /// An access to a register, or a system instruction.
    Register,
    /// An exception return out of virtual EL2.
    Return,
    /// A data or instruction abort.
    Abort,
    /// An interrupt or SError.
    Interrupt,
    /// All else.
    Other,
}

impl ExitKind {
    /// All, in their order.
    pub const ALL: [Self; 9] = [
        Self::Stub,
        Self::Own,
        Self::Psci,
        Self::Call,
        Self::Register,
        Self::Return,
        Self::Abort,
        Self::Interrupt,
        Self::Other,
    ];

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Stub => "stub call",
            Self::Own => "call of Exeunt's",
            Self::Psci => "PSCI call",
            Self::Call => "other call",
            Self::Register => "register",
            Self::Return => "exception return",
            Self::Abort => "abort",
            Self::Interrupt => "interrupt",
            Self::Other => "other",
        }
    }
}

/// A record, taken apart.
enum What {
    Call { conduit: Conduit, owner: Owner },
    Operation(Operation),
    Abort,
    Interrupt,
    Other,
}

/// The numbers of two classes.
const UNDEFINED: u8 = 5;
const INTERRUPT: u8 = 7;

const _: () = assert!(matches!(EXIT_NAMES[INTERRUPT as usize].as_bytes(), b"interrupt"));
const _: () = assert!(matches!(EXIT_NAMES[UNDEFINED as usize].as_bytes(), b"undefined"));

fn what(record: &TraceRecord) -> What {
    let esr = Esr::new(record.esr.into());
    if record.class == INTERRUPT {
        return What::Interrupt;
    }
    let call = |conduit| What::Call { conduit, owner: calls::owner(conduit, record.subject, esr.immediate()) };
    match esr.class() {
        Some(ExceptionClass::Hvc64) => call(Conduit::Hvc),
        Some(ExceptionClass::Smc64) => call(Conduit::Smc),
        Some(ExceptionClass::Eret) => What::Operation(Operation::Return(match esr.iss() & 3 {
            2 => Return::KeyA,
            3 => Return::KeyB,
            _ => Return::Plain,
        })),
        Some(
            ExceptionClass::DataAbortLower
            | ExceptionClass::DataAbortSame
            | ExceptionClass::InstructionAbortLower
            | ExceptionClass::InstructionAbortSame,
        ) => What::Abort,
        _ => match esr.system_access().map(decode::from_syndrome) {
            Some(operation) => What::Operation(operation),
            None => What::Other,
        },
    }
}

/// What an exit is about.
#[must_use]
pub fn exit_kind(record: &TraceRecord) -> ExitKind {
    match what(record) {
        What::Call { owner: Owner::Stub, .. } => ExitKind::Stub,
        What::Call { owner: Owner::Own, .. } => ExitKind::Own,
        What::Call { owner: Owner::Psci, .. } => ExitKind::Psci,
        What::Call { .. } => ExitKind::Call,
        What::Operation(Operation::Return(_)) => ExitKind::Return,
        What::Operation(_) => ExitKind::Register,
        What::Abort => ExitKind::Abort,
        What::Interrupt => ExitKind::Interrupt,
        What::Other => ExitKind::Other,
    }
}

/// A few words for an exit, for its place in a time line: `CPU_ON`, `read MIDR_EL1`, `data abort`.
#[must_use]
pub fn exit_label(record: &TraceRecord) -> String {
    let esr = Esr::new(record.esr.into());
    match what(record) {
        What::Call { owner, .. } => calls::name(owner, record.subject),
        What::Operation(operation) => operation_label(operation),
        What::Interrupt if esr.class() == Some(ExceptionClass::SError) => "SError".to_owned(),
        What::Interrupt => "interrupt".to_owned(),
        What::Other if esr.class() == Some(ExceptionClass::Wfx) => "WFI or WFE".to_owned(),
        What::Abort | What::Other => class_name(record.class),
    }
}

fn operation_label(operation: Operation) -> String {
    match operation {
        Operation::Read { register, .. } => format!("read {}", system_registers::name(register)),
        Operation::Write { register, .. } => format!("write {}", system_registers::name(register)),
        Operation::WriteField { field, .. } => format!("write {}", system_registers::field(field)),
        Operation::System { instruction, .. } | Operation::SystemRead { instruction, .. } => {
            system_registers::name(instruction)
        }
        Operation::Return(of) => of_return(of).to_owned(),
        Operation::Hvc(immediate) => format!("HVC #{immediate:#x}"),
        Operation::Smc(immediate) => format!("SMC #{immediate:#x}"),
        Operation::Other => "undefined".to_owned(),
    }
}

const fn of_return(of: Return) -> &'static str {
    match of {
        Return::Plain => "ERET",
        Return::KeyA => "ERETAA",
        Return::KeyB => "ERETAB",
    }
}

/// An exit in words: what it was, how it was answered, and what came of it. PC, time and length are the caller's.
#[must_use]
pub fn exit_words(record: &TraceRecord) -> String {
    let esr = Esr::new(record.esr.into());
    let returns = record.flags & NO_RETURN == 0;
    let injected = record.flags & INJECTED != 0;
    let (subject, answer) = (record.subject, record.answer);
    let mut words = match what(record) {
        What::Call { conduit, owner } => {
            let mut words = match conduit {
                Conduit::Hvc => "HVC ".to_owned(),
                Conduit::Smc => "SMC ".to_owned(),
            };
            let _ = write!(words, "{} ({})", calls::name(owner, subject), owner.words());
            if esr.immediate() != 0 {
                let _ = write!(words, ", immediate {:#x}", esr.immediate());
            }
            if returns && !injected {
                let _ = write!(words, ": {}", calls::answer(owner, subject, answer));
            }
            words
        }
        What::Operation(operation) => {
            let mut words = operation_label(operation);
            let _ = match operation {
                Operation::Read { rt, .. } | Operation::SystemRead { rt, .. } if !injected => {
                    write!(words, ": {answer:#x} to {}", general(rt))
                }
                Operation::Write { rt, .. } => write!(words, ": {subject:#x} from {}", general(rt)),
                Operation::WriteField { immediate, .. } => write!(words, ": {immediate:#x}"),
                // The zero register stands for no operand.
                Operation::System { rt, .. } if rt != 31 => write!(words, ": {subject:#x} from {}", general(rt)),
                _ => Ok(()),
            };
            words
        }
        What::Abort => {
            let mut words = esr.with_far(subject).to_string();
            if answer != 0 {
                let _ = write!(words, ", IPA {answer:#x}");
            }
            words
        }
        What::Interrupt if esr.class() == Some(ExceptionClass::SError) => esr.to_string(),
        What::Interrupt => "interrupt: IRQ or FIQ".to_owned(),
        What::Other if record.class == UNDEFINED => "an undefined instruction".to_owned(),
        What::Other => esr.to_string(),
    };
    if record.flags & IN_VIRTUAL_EL2 != 0 {
        words.push_str("; in virtual EL2");
    }
    if injected {
        words.push_str("; the host gets an exception");
    }
    if record.flags & WENT_NATIVE != 0 {
        words.push_str("; the host goes on at EL1");
    }
    if !returns {
        words.push_str("; does not return");
    }
    words
}

/// X0 to X30, and the zero register.
fn general(number: u8) -> String {
    if number == 31 { "xzr".to_owned() } else { format!("x{number}") }
}

/// PSTATE as an Exception level, with the stack pointer that it uses.
#[must_use]
pub fn level_of(pstate: u64) -> &'static str {
    // SPSR_EL2.M[4:0]: M[4] is AArch32 (Arm ARM C5.2.19).
    match pstate & 0x1f {
        0 => "EL0",
        4 => "EL1t",
        5 => "EL1h",
        8 => "EL2t",
        9 => "EL2h",
        0x10..=0x1f => "AArch32",
        _ => "no Exception level",
    }
}

fn policy(bits: u64) -> &'static str {
    u32::try_from(bits).ok().and_then(Policy::from_bits).map_or("an unknown policy", Policy::words)
}

/// An event in words, with its numbers. Time and CPU are the caller's.
#[must_use]
pub fn event_words(event: &Event) -> String {
    let Event { first, second, kind, .. } = *event;
    let Some(kind) = Kind::of(kind) else { return format!("event {kind} [{first:#x}, {second:#x}]") };
    match kind {
        Kind::Started => format!("Exeunt starts, for the {} time in this memory", ordinal(first)),
        Kind::HostEntered => format!("the host is entered at {first:#x}, x0 {second:#x}"),
        Kind::CpuUp => format!("a CPU comes up under Exeunt; the host begins at {first:#x}"),
        Kind::Native => {
            format!("the host leaves virtual EL2; it goes on at {first:#x}, {}, PSTATE {second:#x}", level_of(second))
        }
        Kind::SoftRestart => format!(
            "SOFT_RESTART to {first:#x}, {}; Exeunt {}",
            if second & 1 == 0 { "for a kexec" } else { "after a crash" },
            if second & 2 == 0 { "leaves" } else { "stays" },
        ),
        Kind::ResetVectors => format!("RESET_VECTORS: Exeunt leaves a CPU; its vectors are at {first:#x}"),
        Kind::Leave => format!("LEAVE: Exeunt has left all CPUs, {first}"),
        Kind::LeaveFailed => {
            let error = Error::from_register(first).map_or_else(|| format!("{first:#x}"), |e| e.name().to_owned());
            format!("LEAVE failed: {error}")
        }
        Kind::Policy => {
            format!("RESTART_POLICY: {} for a kexec, {} for a crash", policy(first), policy(second))
        }
        Kind::LentToKvm => format!("EL2 is lent to the host's KVM; its vectors are at {first:#x}"),
        Kind::Died => {
            let cause = u16::try_from(first).ok().and_then(Cause::of);
            format!("Exeunt dies: {}", cause.map_or_else(|| format!("cause {first}"), |c| c.words().to_owned()))
        }
        Kind::FoundBox => format!("the black box of the last start is kept; that was the {}", ordinal(first)),
        Kind::Tracing if first == 0 => "exits are no longer traced".to_owned(),
        Kind::Tracing => "exits are traced from here on".to_owned(),
        Kind::Panic => {
            format!("the host is to panic here; it was at {first:#x}, {}, PSTATE {second:#x}", level_of(second))
        }
        Kind::CrashKernel => {
            format!("Exeunt starts the crash kernel itself, at {first:#x}; the host was at {second:#x}")
        }
        Kind::Hang if second == 0 => format!("a break on the console, while this CPU is at {first:#x}, masked"),
        Kind::Hang => format!("this CPU hangs at {first:#x}, with interrupts masked for {second} s"),
        Kind::GivenUp => {
            let end = if second == 0 { "stands still" } else { "is reset" };
            format!("Exeunt gives the host up, which was at {first:#x}; the machine {end}")
        }
        Kind::Left => format!("Exeunt has left this CPU along with others; its vectors are at {first:#x}"),
        Kind::Wild => format!("at {first:#x} the host accesses its crash kernel's memory, at {second:#x}"),
        Kind::Stopped => {
            let missing = if second == 0 { String::new() } else { format!(", and {second} never came") };
            format!("the host has crashed, and all other CPUs are stopped: {first} caught and switched off{missing}")
        }
        _ => kind.words().to_owned(),
    }
}

/// "first", "second", "third", then with the number.
fn ordinal(number: u64) -> String {
    match (number, number % 10, number % 100) {
        (1, ..) => "first".to_owned(),
        (2, ..) => "second".to_owned(),
        (3, ..) => "third".to_owned(),
        (_, 1, ten) if ten != 11 => format!("{number}st"),
        (_, 2, ten) if ten != 12 => format!("{number}nd"),
        (_, 3, ten) if ten != 13 => format!("{number}rd"),
        _ => format!("{number}th"),
    }
}

#[cfg(test)]
mod tests {
    use guest_abi::blackbox::register_key;
    use guest_abi::stub;

    use super::*;
    use crate::fixture::{access, call};

    #[test]
    fn an_exit_says_what_it_was_and_how_it_was_answered() {
        let hvc = |number, answer| call(ExceptionClass::Hvc64, number, answer);
        let restart = TraceRecord { flags: NO_RETURN, ..hvc(stub::SOFT_RESTART, 0) };
        assert_eq!(exit_words(&restart), "HVC SOFT_RESTART (stub call); does not return");
        assert_eq!((exit_label(&restart).as_str(), exit_kind(&restart)), ("SOFT_RESTART", ExitKind::Stub));
        assert_eq!(exit_words(&hvc(0, stub::STUB_ERR)), "HVC SET_VECTORS (stub call): STUB_ERR");
        let on = call(ExceptionClass::Smc64, 0xc400_0003, 0);
        assert_eq!(exit_words(&on), "SMC CPU_ON (PSCI): SUCCESS");
        assert_eq!(exit_kind(&on), ExitKind::Psci);

        let hcr = register_key(3, 4, 1, 1, 0);
        assert_eq!(exit_words(&access(hcr, true, 2, 0x88)), "read HCR_EL2: 0x88 to x2; in virtual EL2");
        assert_eq!(exit_words(&access(hcr, false, 31, 0)), "write HCR_EL2: 0x0 from xzr; in virtual EL2");
        let undefined = TraceRecord { flags: INJECTED, ..access(hcr, true, 2, 0) };
        assert_eq!(exit_words(&undefined), "read HCR_EL2; the host gets an exception");
        assert_eq!(
            exit_words(&access(register_key(0, 3, 4, 15, 6), false, 31, 0)),
            "write DAIFSet: 0xf; in virtual EL2"
        );
        assert_eq!(
            exit_words(&access(register_key(1, 0, 7, 14, 2), false, 4, 0x20)),
            "DC CISW: 0x20 from x4; in virtual EL2"
        );
        assert_eq!(exit_words(&access(register_key(1, 4, 8, 7, 4), false, 31, 0)), "TLBI ALLE1; in virtual EL2");
        let eret = TraceRecord { esr: 0x6a00_0000, class: 5, flags: 3, ..TraceRecord::default() };
        assert_eq!(exit_words(&eret), "ERET; in virtual EL2; the host goes on at EL1");
        assert_eq!(exit_kind(&eret), ExitKind::Return);

        let abort = TraceRecord {
            esr: 0x9200_0047,
            class: 2,
            subject: 0xffff_0000,
            answer: 0x4020_0000,
            flags: INJECTED,
            ..TraceRecord::default()
        };
        assert_eq!(
            exit_words(&abort),
            "data abort from EL1 or EL0: translation fault, level 3, write, FAR 0xffff0000, IPA 0x40200000; \
             the host gets an exception"
        );
        assert_eq!(exit_label(&abort), "data abort");
        // Of an IRQ the syndrome is an earlier exception's.
        let irq = TraceRecord { esr: 0x5a00_0000, class: 7, ..TraceRecord::default() };
        assert_eq!((exit_words(&irq).as_str(), exit_label(&irq).as_str()), ("interrupt: IRQ or FIQ", "interrupt"));
        let undefined = TraceRecord { esr: 0x0200_0000, class: 5, ..TraceRecord::default() };
        assert_eq!(exit_words(&undefined), "an undefined instruction");
    }

    #[test]
    fn any_record_has_words() {
        // A record of a dead machine may hold anything.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..100_000 {
            let mut bytes = [0; TraceRecord::SIZE];
            for word in bytes.as_chunks_mut::<8>().0 {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                *word = (state ^ state >> 29).to_le_bytes();
            }
            let record = TraceRecord::from_bytes(&bytes);
            assert!(!exit_words(&record).is_empty() && !exit_label(&record).is_empty());
            let event = Event::from_bytes(&core::array::from_fn(|index| bytes[index]));
            assert!(!event_words(&event).is_empty());
        }
    }

    #[test]
    fn every_event_has_words_without_brackets() {
        for &kind in Kind::ALL {
            for (first, second) in [(0, 0), (1, 3), (u64::MAX, u64::MAX)] {
                let words = event_words(&Event { kind: kind as u16, first, second, ..Event::default() });
                assert!(!words.contains('['), "{words}");
            }
        }
        let event =
            |kind: Kind, first, second| event_words(&Event { kind: kind as u16, first, second, ..Event::default() });
        assert_eq!(event(Kind::Started, 22, 0), "Exeunt starts, for the 22nd time in this memory");
        assert_eq!(
            event(Kind::Native, 0x4108_0000, 0x3c5),
            "the host leaves virtual EL2; it goes on at 0x41080000, EL1h, PSTATE 0x3c5"
        );
        assert_eq!(event(Kind::SoftRestart, 0x4000, 3), "SOFT_RESTART to 0x4000, after a crash; Exeunt stays");
        let wild = "at 0xffff800008001234 the host accesses its crash kernel's memory, at 0xffff00002ac00000";
        assert_eq!(event(Kind::Wild, 0xffff_8000_0800_1234, 0xffff_0000_2ac0_0000), wild);
        let stopped = "the host has crashed, and all other CPUs are stopped: 3 caught and switched off";
        assert_eq!(event(Kind::Stopped, 3, 0), stopped);
        assert_eq!(event(Kind::Stopped, 3, 1), format!("{stopped}, and 1 never came"));
        assert_eq!(event(Kind::LeaveFailed, Error::Busy.to_register(), 0), "LEAVE failed: BUSY");
        assert_eq!(event(Kind::Policy, 0, 1), "RESTART_POLICY: leave for a kexec, resident for a crash");
        assert_eq!(event_words(&Event { kind: 999, ..Event::default() }), "event 999 [0x0, 0x0]");
    }

    #[test]
    fn times_are_seconds_since_the_start() {
        let clock = Clock { started: 1000, frequency: 62_500_000 };
        assert!((clock.seconds(62_501_000) - 1.0).abs() < 1e-12);
        assert!((clock.seconds(0) + 16e-6).abs() < 1e-12, "a time before the start is negative");
        assert!((Clock { started: 0, frequency: 0 }).seconds(5).abs() < 1e-12);
        assert_eq!([0.0, 16e-9, 1.5e-6, 2.5e-3, 3.0].map(length), ["0", "16 ns", "1.5 µs", "2.5 ms", "3.000 s"]);
    }
}
