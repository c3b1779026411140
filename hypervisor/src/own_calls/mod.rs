//! The server's side of Exeunt's own calls, as far as it needs no register.
//!
//! Owns the way from x0 to x17 of a call to its answer: which call it is, whether its arguments can be, what the
//! registers hold afterwards. The contract is [`guest_abi::vendor`]'s. What a call needs of the machine comes through
//! [`Services`]; leaving is done by whoever called [`call`], because nothing can be done after it.
//!
//! | file | what it owns |
//! |---|---|
//! | `control.rs` | restart policies, the lock, the departures that they allow, in one word: each excludes the others |
//! | `log.rs` | the ring that keeps the log's last bytes |
//! | `status.rs` | the record and the summary of STATUS |
//!
//! Calls that need nothing of the machine are answered before it is looked at.

pub mod control;
pub mod log;
pub mod status;
#[cfg(test)]
mod tests;

use core::ops::Range;

use guest_abi::record::{STATUS_VERSION, StatusHeader};
use guest_abi::vendor::{
    self, ABI_MAJOR, ABI_MINOR, ABI_VERSION, Error, PAGE, Policy, RANGE_EXECUTE, RANGE_MAPPED, RANGE_READ, RANGE_WRITE,
    RESTART_CRASH, RESTART_KEXEC, STATUS_ALIGNMENT, UID_REGISTERS, Version,
};

use crate::paging::stage2::Attributes;
use crate::smccc;
use crate::syndrome::Esr;
use control::Control;
use log::LogRing;
use status::Machine;

/// Exeunt's own version, as VERSION tells it: that of this package.
pub const EXEUNT_VERSION: Version = Version {
    major: number(env!("CARGO_PKG_VERSION_MAJOR")) as u8,
    minor: number(env!("CARGO_PKG_VERSION_MINOR")) as u8,
    patch: number(env!("CARGO_PKG_VERSION_PATCH")),
};

/// A decimal number, at compile time.
const fn number(text: &str) -> u16 {
    let bytes = text.as_bytes();
    let mut value = 0;
    let mut index = 0;
    while index < bytes.len() {
        value = value * 10 + (bytes[index] - b'0') as u16;
        index += 1;
    }
    value
}

/// What the calls need of the machine.
pub trait Services: Machine {
    /// Policies and lock.
    fn control(&self) -> &Control;
    /// The log.
    fn log(&self) -> LogRing<'_>;
    /// Whether the byte at this address is RAM that the host may write to.
    fn is_host_ram(&self, address: u64) -> bool;
    /// Makes the host's memory writable for the time that `fill` runs. Afterwards what was written is clean to the
    /// point of coherency, so that a caller with its MMU off reads it, too.
    ///
    /// # Errors
    /// The syndrome of the exception that a write has caused: what should be RAM does not answer. Some of it may be
    /// written.
    fn with_buffer(&self, buffer: Buffer, fill: impl FnOnce(&mut dyn Sink)) -> Result<(), Esr>;
    /// Physical address of the vector table by which a CPU comes back.
    fn way_back(&self) -> u64;
    /// Has the exits of this CPU traced, or no longer, if that is to change. Whether they are then, and how many
    /// records are kept of each CPU.
    fn trace(&self, change: Option<bool>) -> (bool, u32);
    /// The range around an address in which stage 2 says the same, and what that is; nothing past its last address.
    fn stage2_range(&self, address: u64) -> Option<(Range<u64>, Option<Attributes>)>;
    /// Policies or lock have changed.
    fn changed(&self) {}
    /// Whether a CPU is on, by firmware's word, of which Exeunt has only heard that it is off: a CPU outside has
    /// started it.
    fn has_strangers(&self) -> bool;
}

/// Memory of the host's, for writing only. The host may change it at the same time.
pub trait Sink {
    /// Stores `bytes` from this offset in the buffer on, all of it inside.
    fn put(&mut self, offset: usize, bytes: &[u8]);
}

/// A piece of the host's RAM that lies within one page of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Physical address.
    pub address: u64,
    /// Bytes, 1 to 4096.
    pub size: usize,
}

impl Buffer {
    /// Takes a caller's buffer: `None` if its size is 0.
    ///
    /// # Errors
    ///
    /// Misaligned, across a page boundary, or not the host's RAM.
    fn accept(
        address: u64,
        size: u64,
        alignment: u64,
        is_host_ram: impl Fn(u64) -> bool,
    ) -> Result<Option<Self>, Error> {
        if size == 0 {
            return Ok(None);
        }
        // Within a page nothing can overflow, and first and last byte being RAM makes RAM of all: stage 2 has no
        // smaller pages.
        let fits = size <= PAGE && address % PAGE <= PAGE - size;
        if fits && address.is_multiple_of(alignment) && is_host_ram(address) && is_host_ram(address + (size - 1)) {
            Ok(Some(Self { address, size: size as usize }))
        } else {
            Err(Error::InvalidParameter)
        }
    }
}

/// What x0 to x3 hold after a call. Registers after the last result stay as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    registers: [u64; 4],
    results: u8,
}

impl Answer {
    const fn one(x0: u64) -> Self {
        Self { registers: [x0, 0, 0, 0], results: 1 }
    }

    const fn two(x0: u64, x1: u64) -> Self {
        Self { registers: [x0, x1, 0, 0], results: 2 }
    }

    const fn three(x0: u64, x1: u64, x2: u64) -> Self {
        Self { registers: [x0, x1, x2, 0], results: 3 }
    }

    const fn four(registers: [u64; 4]) -> Self {
        Self { registers, results: 4 }
    }

    /// The call failed.
    #[must_use]
    pub const fn error(error: Error) -> Self {
        Self::one(error.to_register())
    }

    /// The call succeeded, and has no result.
    #[must_use]
    pub const fn done() -> Self {
        Self::one(0)
    }

    /// LEAVE succeeded, on this many CPUs.
    #[must_use]
    pub const fn left(cpus: u16) -> Self {
        Self::two(0, cpus as u64)
    }

    /// REENTER succeeded; the same whether the CPU was away or not.
    #[must_use]
    pub const fn way_back(vectors: u64) -> Self {
        Self::three(0, vectors, vendor::REENTER as u64)
    }

    /// Puts the answer into the caller's registers.
    #[inline]
    pub fn apply(&self, x: &mut [u64; 18]) {
        for (x, value) in x.iter_mut().zip(self.registers).take(usize::from(self.results)) {
            *x = value;
        }
    }
}

impl From<Result<Self, Error>> for Answer {
    fn from(result: Result<Self, Error>) -> Self {
        result.unwrap_or_else(Self::error)
    }
}

/// What a call asks for, its arguments accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing of the machine: this is the answer.
    Answered(Answer),
    /// STATUS.
    Status {
        /// Where the record goes, if one is wanted.
        buffer: Option<Buffer>,
        /// The first CPU to describe.
        first: u64,
    },
    /// RESTART_POLICY.
    RestartPolicy {
        /// [`RESTART_KEXEC`] and [`RESTART_CRASH`] to set.
        which: u32,
        /// To what. Of no interest if none is set.
        policy: Policy,
    },
    /// LEAVE.
    Leave,
    /// PANIC.
    Panic,
    /// CRASH_KERNEL.
    CrashKernel,
    /// LOCK.
    Lock,
    /// REENTER.
    Reenter,
    /// TRACE: start or stop, if anything.
    Trace(Option<bool>),
    /// STAGE2_RANGE around this address.
    Stage2Range(u64),
    /// LOG_READ.
    LogRead {
        /// From where.
        position: u64,
        /// Where to, if anywhere.
        buffer: Option<Buffer>,
    },
}

/// What is to be done when [`call`] comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Nothing: the answer is in the registers.
    Done,
    /// Leave the machine, beginning with [`Control::begin_leave`], then [`Answer::left`] or [`Answer::error`].
    Leave,
    /// Have the host panic on this CPU ([`crate::panic_request`]), then [`Answer::done`] or [`Answer::error`].
    Panic(u16),
    /// Start the host's crash kernel, or [`Answer::error`].
    CrashKernel,
}

/// Answers the call whose x0 to x17 are `x`: an HVC with a fast function identifier of the vendor-specific hypervisor
/// range and the immediate 0.
#[allow(clippy::inline_always, reason = "twelve instructions of each call, where it is not")]
#[inline(always)]
pub fn call<S: Services>(x: &mut [u64; 18], services: &S) -> Outcome {
    let id = smccc::function_id(x[0]);
    // In two steps, so that an unknown call is known for one soon. The queries' numbers end the range.
    let answer = if id & 0xff00 == vendor::CALL_UID & 0xff00 {
        match id {
            vendor::CALL_UID => UID,
            vendor::REVISION => REVISION,
            vendor::CALL_COUNT => CALL_COUNT,
            _ => NOT_SUPPORTED,
        }
    } else {
        match id {
            vendor::VERSION => VERSION,
            vendor::FEATURES => match features(x[1] as u32) {
                Ok(flags) => Answer::two(0, u64::from(flags)),
                Err(error) => Answer::error(error),
            },
            vendor::LEAVE => return Outcome::Leave,
            vendor::PANIC => return panic(x, services),
            vendor::CRASH_KERNEL => return Outcome::CrashKernel,
            vendor::STATUS
            | vendor::RESTART_POLICY
            | vendor::LOCK
            | vendor::REENTER
            | vendor::LOG_READ
            | vendor::TRACE
            | vendor::STAGE2_RANGE => {
                with_services(x, services);
                return Outcome::Done;
            }
            _ => NOT_SUPPORTED,
        }
    };
    answer.apply(x);
    Outcome::Done
}

/// PANIC: who is meant. Out of the way of those that are made more often.
#[cold]
#[inline(never)]
fn panic<S: Services>(x: &mut [u64; 18], services: &S) -> Outcome {
    let (target, cpus) = (x[1] as u32, services.cpus());
    if target == vendor::PANIC_HERE {
        Outcome::Panic(services.this_cpu())
    } else if target < u32::from(cpus) {
        Outcome::Panic(target as u16)
    } else {
        Answer::error(Error::InvalidParameter).apply(x);
        Outcome::Done
    }
}

/// A call that needs the machine. Out of the way of those that need nothing.
#[inline(never)]
fn with_services<S: Services>(x: &mut [u64; 18], services: &S) {
    let request = decode(x, |address| services.is_host_ram(address));
    serve(request, services).apply(x);
}

/// Reads the call from x0 to x3. Nothing has changed whatever it is.
#[must_use]
#[inline]
pub fn decode(x: &[u64; 18], is_host_ram: impl Fn(u64) -> bool) -> Request {
    let (w1, w2) = (x[1] as u32, x[2] as u32);
    let request = match smccc::function_id(x[0]) {
        vendor::VERSION => Ok(Request::Answered(VERSION)),
        vendor::CALL_UID => Ok(Request::Answered(UID)),
        vendor::REVISION => Ok(Request::Answered(REVISION)),
        vendor::CALL_COUNT => Ok(Request::Answered(CALL_COUNT)),
        vendor::FEATURES => features(w1).map(|flags| Request::Answered(Answer::two(0, u64::from(flags)))),
        vendor::STATUS => status_request(x, is_host_ram),
        vendor::RESTART_POLICY => policy_request(w1, w2),
        vendor::LEAVE => Ok(Request::Leave),
        vendor::PANIC => Ok(Request::Panic),
        vendor::CRASH_KERNEL => Ok(Request::CrashKernel),
        vendor::LOCK => Ok(Request::Lock),
        vendor::REENTER => Ok(Request::Reenter),
        vendor::LOG_READ => {
            Buffer::accept(x[2], x[3], 1, is_host_ram).map(|buffer| Request::LogRead { position: x[1], buffer })
        }
        vendor::TRACE => match w1 {
            vendor::TRACE_QUERY => Ok(Request::Trace(None)),
            vendor::TRACE_START => Ok(Request::Trace(Some(true))),
            vendor::TRACE_STOP => Ok(Request::Trace(Some(false))),
            _ => Err(Error::InvalidParameter),
        },
        vendor::STAGE2_RANGE => Ok(Request::Stage2Range(x[1])),
        _ => Err(Error::NotSupported),
    };
    request.unwrap_or_else(|error| Request::Answered(Answer::error(error)))
}

const VERSION: Answer = Answer::two(ABI_VERSION as u64, EXEUNT_VERSION.to_bits() as u64);
const NOT_SUPPORTED: Answer = Answer::error(Error::NotSupported);
const REVISION: Answer = Answer::two(ABI_MAJOR as u64, ABI_MINOR as u64);
const CALL_COUNT: Answer = Answer::one(vendor::CALLS.len() as u64);
const UID: Answer =
    Answer::four([UID_REGISTERS[0] as u64, UID_REGISTERS[1] as u64, UID_REGISTERS[2] as u64, UID_REGISTERS[3] as u64]);

/// FEATURES' flags of a call.
fn features(id: u32) -> Result<u32, Error> {
    match id {
        vendor::STATUS => Ok(u32::from(STATUS_VERSION)),
        vendor::RESTART_POLICY => Ok(1 << Policy::Leave as u32 | 1 << Policy::Resident as u32),
        vendor::CALL_UID | vendor::REVISION | vendor::CALL_COUNT => Ok(0),
        _ if vendor::CALLS.contains(&id) => Ok(0),
        _ => Err(Error::NotSupported),
    }
}

fn status_request(x: &[u64; 18], is_host_ram: impl Fn(u64) -> bool) -> Result<Request, Error> {
    let buffer = Buffer::accept(x[1], x[2], STATUS_ALIGNMENT, is_host_ram)?;
    if buffer.is_some_and(|buffer| buffer.size < StatusHeader::SIZE) {
        return Err(Error::InvalidParameter);
    }
    Ok(Request::Status { buffer, first: x[3] })
}

fn policy_request(which: u32, policy: u32) -> Result<Request, Error> {
    let policy = match (which, Policy::from_bits(policy)) {
        (0, _) => Policy::Leave,
        (_, Some(policy)) if which & !(RESTART_KEXEC | RESTART_CRASH) == 0 => policy,
        _ => return Err(Error::InvalidParameter),
    };
    Ok(Request::RestartPolicy { which, policy })
}

/// x3 of STAGE2_RANGE.
const fn rights(attributes: Option<Attributes>) -> u64 {
    match attributes {
        None => 0,
        Some(Attributes::ReadOnly) => RANGE_MAPPED | RANGE_READ,
        Some(Attributes::ExecuteNever) => RANGE_MAPPED | RANGE_READ | RANGE_WRITE,
        Some(Attributes::Executable) => RANGE_MAPPED | RANGE_READ | RANGE_WRITE | RANGE_EXECUTE,
    }
}

/// Makes a change, and tells of it if it is one: the history has no room for what was asked only.
#[inline(never)]
fn telling<S: Services, T>(services: &S, change: impl FnOnce(&Control) -> T) -> T {
    let control = services.control();
    let settings = || (control.policies(), control.is_locked());
    let before = settings();
    let result = change(control);
    if settings() != before {
        services.changed();
    }
    result
}

/// Answers what needs the machine but leaves it as it is.
fn serve<S: Services>(request: Request, services: &S) -> Answer {
    match request {
        Request::Answered(answer) => answer,
        Request::Status { buffer, first } => status::answer(services, buffer, first).into(),
        Request::RestartPolicy { which, policy } => {
            let policies = telling(services, |control| control.set_policies(which, policy));
            policies.map(|[kexec, crash]| Answer::three(0, kexec as u64, crash as u64)).into()
        }
        Request::Lock if services.has_strangers() => Answer::error(Error::WrongState),
        Request::Lock => telling(services, Control::lock).map(|()| Answer::one(0)).into(),
        Request::Reenter => Answer::way_back(services.way_back()),
        Request::Trace(change) => {
            let (traced, records) = services.trace(change);
            Answer::three(0, traced.into(), records.into())
        }
        Request::Stage2Range(address) => match services.stage2_range(address) {
            Some((range, attributes)) => Answer::four([0, range.start, range.end, rights(attributes)]),
            None => Answer::error(Error::InvalidParameter),
        },
        Request::LogRead { position, buffer } => log_read(services, position, buffer).into(),
        // `call` has taken these; there is no answer that would be true here.
        Request::Leave | Request::Panic | Request::CrashKernel => Answer::error(Error::NotSupported),
    }
}

fn log_read<S: Services>(services: &S, position: u64, buffer: Option<Buffer>) -> Result<Answer, Error> {
    let log = services.log();
    // The end only grows: what is refused here is refused before the buffer is touched, what passes is not refused
    // below.
    let mut read = log.read(position, 0, &mut |_, _| ())?;
    if let Some(buffer) = buffer {
        let written = services.with_buffer(buffer, |sink| {
            if let Ok(copied) = log.read(position, buffer.size, &mut |offset, bytes| sink.put(offset, bytes)) {
                read = copied;
            }
        });
        written.map_err(|_| Error::InvalidParameter)?;
    }
    Ok(Answer::four([0, read.copied, read.next, read.lost]))
}
