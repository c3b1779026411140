//! The caller's side on AArch64: functions that issue the calls.
//!
//! Owns the `hvc` instruction and what it may change. Every function here tells the compiler that the call changes x0
//! to x18 and memory: that is the stub ABI's contract (Linux `Documentation/virt/kvm/arm/hyp-abi.rst`), and a call of
//! Exeunt's own falls under it too, once Exeunt has left. x19 to x30, SP and the SIMD registers stay; the
//! exception return restores the condition flags. The `hvc` uses no stack.
//!
//! # Safety of all of these
//!
//! The CPU is at EL1, and EL2 exists and has vectors that answer. Without EL2 the instruction is undefined; so it is at
//! EL0. What else a call needs is said at the call.

use core::arch::asm;

use crate::stub;
use crate::vendor::{self, Failure, Policy, Summary, Version};

/// Issues `hvc #0` with x0 to x4 and gives x0 to x3 back.
///
/// # Safety
///
/// See [the module](self). The call does what its number says: it may write memory that the arguments name, replace
/// EL2's vectors or never return.
#[inline]
#[must_use]
pub unsafe fn hvc(registers: [u64; 5]) -> [u64; 4] {
    let [mut x0, mut x1, mut x2, mut x3, x4] = registers;
    // SAFETY: the caller vouches for the call; every register that it may change is named, and memory counts as
    // changed.
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") x0,
            inout("x1") x1,
            inout("x2") x2,
            inout("x3") x3,
            inout("x4") x4 => _,
            lateout("x5") _,
            lateout("x6") _,
            lateout("x7") _,
            lateout("x8") _,
            lateout("x9") _,
            lateout("x10") _,
            lateout("x11") _,
            lateout("x12") _,
            lateout("x13") _,
            lateout("x14") _,
            lateout("x15") _,
            lateout("x16") _,
            lateout("x17") _,
            lateout("x18") _,
            options(nostack, preserves_flags),
        );
    }
    [x0, x1, x2, x3]
}

/// A stub call was refused: x0 of the answer, [`stub::STUB_ERR`] as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub u64);

fn stub_result(registers: [u64; 4]) -> Result<u64, Refused> {
    if registers[0] == stub::SUCCESS { Ok(registers[1]) } else { Err(Refused(registers[0])) }
}

/// [`stub::SET_VECTORS`].
///
/// # Errors
///
/// Refused; the vectors are as before.
///
/// # Safety
///
/// See [the module](self). `table` is the physical address of a vector table that works at EL2 with the MMU off.
pub unsafe fn set_vectors(table: u64) -> Result<(), Refused> {
    // SAFETY: the caller vouches for the table.
    stub_result(unsafe { hvc([stub::SET_VECTORS, table, 0, 0, 0]) }).map(|_| ())
}

/// [`stub::SOFT_RESTART`]: enters `entry`, a physical address, at EL2 with x0 to x2 = `arguments`. Returns only when
/// refused.
///
/// # Safety
///
/// See [the module](self). The code at `entry` takes the CPU over.
#[must_use]
pub unsafe fn soft_restart(entry: u64, arguments: [u64; 3]) -> Refused {
    let [x2, x3, x4] = arguments;
    // SAFETY: the caller vouches for the entry.
    Refused(unsafe { hvc([stub::SOFT_RESTART, entry, x2, x3, x4]) }[0])
}

/// [`stub::RESET_VECTORS`].
///
/// # Errors
///
/// Refused: a hypervisor without this call, or Exeunt is locked.
///
/// # Safety
///
/// See [the module](self). Whatever was at EL2 on this CPU is gone from it afterwards.
pub unsafe fn reset_vectors() -> Result<(), Refused> {
    // SAFETY: the caller accepts that EL2 changes hands.
    stub_result(unsafe { hvc([stub::RESET_VECTORS, 0, 0, 0, 0]) }).map(|_| ())
}

/// [`stub::FINALISE_EL2`]. A refusal is what a caller that stays at EL1 gets.
///
/// # Errors
///
/// Refused: the CPU stays at EL1.
///
/// # Safety
///
/// See [the module](self). Under Linux's own stub, on a CPU with VHE, the caller goes on at EL2.
pub unsafe fn finalise_el2() -> Result<(), Refused> {
    // SAFETY: the caller accepts a change of the Exception level.
    stub_result(unsafe { hvc([stub::FINALISE_EL2, 0, 0, 0, 0]) }).map(|_| ())
}

/// [`stub::GET_ICH_VTR_EL2`]: the register's value.
///
/// # Errors
///
/// Refused: there is none, or who answers does not know the call.
///
/// # Safety
///
/// See [the module](self).
pub unsafe fn get_ich_vtr_el2() -> Result<u64, Refused> {
    // SAFETY: the call only reads.
    stub_result(unsafe { hvc([stub::GET_ICH_VTR_EL2, 0, 0, 0, 0]) })
}

/// Issues a call of Exeunt's range with x1 to x3 and gives x0 to x3 back.
///
/// # Safety
///
/// As [`hvc`].
#[inline]
#[must_use]
pub unsafe fn vendor_call(id: u32, arguments: [u64; 3]) -> [u64; 4] {
    let [x1, x2, x3] = arguments;
    // SAFETY: the caller vouches for the call.
    unsafe { hvc([u64::from(id), x1, x2, x3, 0]) }
}

/// Whether Exeunt answers on this CPU ([`vendor::CALL_UID`]).
///
/// # Safety
///
/// See [the module](self).
#[must_use]
pub unsafe fn is_exeunt() -> bool {
    // SAFETY: the call changes nothing.
    vendor::is_exeunt(unsafe { vendor_call(vendor::CALL_UID, [0; 3]) })
}

/// [`vendor::VERSION`]: the contract's version, and Exeunt's own.
///
/// # Errors
///
/// Exeunt is not there.
///
/// # Safety
///
/// See [the module](self).
pub unsafe fn version() -> Result<(u32, Version), Failure> {
    // SAFETY: the call changes nothing.
    let x = unsafe { vendor_call(vendor::VERSION, [0; 3]) };
    match x[0] as u32 {
        version if version >> 31 == 0 && x[0] != stub::STUB_ERR => Ok((version, Version::from_bits(x[1] as u32))),
        _ => Err(vendor::failure(x[0])),
    }
}

/// [`vendor::FEATURES`]: the flags of a call.
///
/// # Errors
///
/// Unknown, or Exeunt is not there.
///
/// # Safety
///
/// See [the module](self).
pub unsafe fn features(id: u32) -> Result<u32, Failure> {
    // SAFETY: the call changes nothing.
    vendor::results(unsafe { vendor_call(vendor::FEATURES, [u64::from(id), 0, 0]) }).map(|[flags, ..]| flags as u32)
}

/// [`vendor::STATUS`] without a record: the summary.
///
/// # Errors
///
/// Exeunt is not there.
///
/// # Safety
///
/// See [the module](self).
pub unsafe fn summary() -> Result<Summary, Failure> {
    // SAFETY: without a buffer the call writes nothing.
    vendor::results(unsafe { vendor_call(vendor::STATUS, [0; 3]) }).map(|[_, summary, _]| Summary(summary))
}

/// What [`vendor::STATUS`] gives in addition to the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Bytes that the record has with all CPUs.
    pub record_size: u64,
    /// The summary.
    pub summary: Summary,
    /// CPUs that were described.
    pub described: u64,
}

/// [`vendor::STATUS`] into the `size` bytes at the physical address `buffer`: a
/// [`StatusHeader`](crate::record::StatusHeader) and [`StatusCpu`](crate::record::StatusCpu)s from CPU `first` on.
///
/// # Errors
///
/// Invalid buffer, unknown CPU, or Exeunt is not there.
///
/// # Safety
///
/// See [the module](self). The buffer is the caller's to be written to.
pub unsafe fn status(buffer: u64, size: u64, first: u64) -> Result<Status, Failure> {
    // SAFETY: the caller gives the buffer away for the call.
    let [record_size, summary, described] =
        vendor::results(unsafe { vendor_call(vendor::STATUS, [buffer, size, first]) })?;
    Ok(Status { record_size, summary: Summary(summary), described })
}

/// [`vendor::RESTART_POLICY`]: sets the policies that `which` names (0: none) and gives both, for kexec and for a
/// crash.
///
/// # Errors
///
/// Refused, or Exeunt is not there.
///
/// # Safety
///
/// See [the module](self).
pub unsafe fn restart_policy(which: u32, policy: Policy) -> Result<[u64; 2], Failure> {
    let arguments = [u64::from(which), u64::from(policy as u32), 0];
    // SAFETY: the call changes nothing but the policy.
    vendor::results(unsafe { vendor_call(vendor::RESTART_POLICY, arguments) }).map(|[kexec, crash, _]| [kexec, crash])
}

/// [`vendor::LEAVE`]: how many CPUs Exeunt left.
///
/// # Errors
///
/// Refused, or Exeunt is not there.
///
/// # Safety
///
/// See [the module](self). Afterwards nothing stands between the caller's kernel and the machine's memory.
pub unsafe fn leave() -> Result<u64, Failure> {
    // SAFETY: the caller accepts that EL2 changes hands.
    vendor::results(unsafe { vendor_call(vendor::LEAVE, [0; 3]) }).map(|[cpus, ..]| cpus)
}

/// [`vendor::LOCK`].
///
/// # Errors
///
/// Refused, or Exeunt is not there.
///
/// # Safety
///
/// See [the module](self).
pub unsafe fn lock() -> Result<(), Failure> {
    // SAFETY: the call takes rights away and does nothing else.
    vendor::results(unsafe { vendor_call(vendor::LOCK, [0; 3]) }).map(|_| ())
}

/// The way back that [`vendor::REENTER`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayBack {
    /// Physical address for SET_VECTORS.
    pub vectors: u64,
    /// The number to call then.
    pub number: u64,
}

/// [`vendor::REENTER`], while Exeunt is live.
///
/// # Errors
///
/// Exeunt is not there.
///
/// # Safety
///
/// See [the module](self).
pub unsafe fn way_back() -> Result<WayBack, Failure> {
    // SAFETY: while Exeunt is live the call changes nothing; at its table it brings it back, which is what the table is
    // for.
    let x = unsafe { vendor_call(vendor::REENTER, [0; 3]) };
    vendor::results(x).map(|[vectors, number, _]| WayBack { vectors, number })
}

/// Brings Exeunt back on a CPU that it has left.
///
/// # Errors
///
/// SET_VECTORS or the call at the table was refused.
///
/// # Safety
///
/// See [the module](self). `way` came from [`way_back`] since the machine's last reset, and its memory was left alone.
/// The CPU is in a stub: nobody else lives at its EL2.
pub unsafe fn reenter(way: WayBack) -> Result<(), Failure> {
    // SAFETY: the table is the one that Exeunt named.
    unsafe { set_vectors(way.vectors) }.map_err(|Refused(code)| Failure::Absent(code))?;
    // SAFETY: the number is the one that Exeunt named for this table.
    vendor::results(unsafe { hvc([way.number, 0, 0, 0, 0]) }).map(|_| ())
}

/// What [`vendor::LOG_READ`] gives in addition to the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRead {
    /// Bytes copied.
    pub copied: u64,
    /// The position to go on from.
    pub next: u64,
    /// Bytes that had been overwritten.
    pub lost: u64,
}

/// [`vendor::LOG_READ`] from `position` into the `size` bytes at the physical address `buffer`.
///
/// # Errors
///
/// Invalid buffer or position, or Exeunt is not there.
///
/// # Safety
///
/// See [the module](self). The buffer is the caller's to be written to.
pub unsafe fn log_read(position: u64, buffer: u64, size: u64) -> Result<LogRead, Failure> {
    // SAFETY: the caller gives the buffer away for the call.
    let x = unsafe { vendor_call(vendor::LOG_READ, [position, buffer, size]) };
    vendor::results(x).map(|[copied, next, lost]| LogRead { copied, next, lost })
}

/// What [`vendor::TRACE`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Whether the exits of the calling CPU are traced now.
    pub is_traced: bool,
    /// How many records are kept of each CPU.
    pub records: u64,
}

/// [`vendor::TRACE`] with `change`: [`vendor::TRACE_QUERY`], [`vendor::TRACE_START`] or [`vendor::TRACE_STOP`].
///
/// # Errors
///
/// Another `change`, or Exeunt is not there.
///
/// # Safety
///
/// See [the module](self).
pub unsafe fn trace(change: u32) -> Result<Trace, Failure> {
    // SAFETY: whether exits are traced has no effect on the host.
    let x = unsafe { vendor_call(vendor::TRACE, [change.into(), 0, 0]) };
    vendor::results(x).map(|[traced, records, _]| Trace { is_traced: traced != 0, records })
}

/// What [`vendor::STAGE2_RANGE`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2Range {
    /// First address.
    pub start: u64,
    /// The first address after it.
    pub end: u64,
    /// [`vendor::RANGE_MAPPED`] and the others.
    pub rights: u64,
}

/// [`vendor::STAGE2_RANGE`] around `address`.
///
/// # Errors
///
/// Past the last address, or Exeunt is not there.
///
/// # Safety
///
/// See [the module](self).
pub unsafe fn stage2_range(address: u64) -> Result<Stage2Range, Failure> {
    // SAFETY: the call changes nothing.
    let x = unsafe { vendor_call(vendor::STAGE2_RANGE, [address, 0, 0]) };
    vendor::results(x).map(|[start, end, rights]| Stage2Range { start, end, rights })
}

/// [`vendor::PANIC`] on the CPU with this number, or on the caller's ([`vendor::PANIC_HERE`]).
///
/// # Errors
///
/// See the call.
///
/// # Safety
///
/// See [the module](self). The host's SError vector gets that CPU, wherever that is, and may not give it back.
pub unsafe fn panic(cpu: u32) -> Result<(), Failure> {
    // SAFETY: the caller vouches for the host's vectors.
    let x = unsafe { vendor_call(vendor::PANIC, [cpu.into(), 0, 0]) };
    vendor::results(x).map(|_| ())
}

/// [`vendor::CRASH_KERNEL`]. Comes back with an error only.
///
/// # Safety
///
/// See [the module](self). The host ends here, on all CPUs.
#[must_use]
pub unsafe fn crash_kernel() -> Failure {
    // SAFETY: the caller vouches that the host may end.
    let x = unsafe { vendor_call(vendor::CRASH_KERNEL, [0; 3]) };
    match vendor::results(x) {
        Err(failure) => failure,
        // Nobody who knows the call answers so.
        Ok(_) => Failure::Absent(0),
    }
}
