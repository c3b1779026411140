//! Exeunt's own calls: fast calls of the SMC Calling Convention in the vendor-specific hypervisor range.
//!
//! Owns their numbers, arguments, results and errors. A call is `hvc #0` with the function identifier in w0. Results
//! come in x0 to x3. A register that a call does not name as a result stays as it was; after an error all except x0 do.
//! Unlike stub calls, most of them concern the whole machine.
//!
//! Identifiers with [`CALL_64`](crate::smccc::CALL_64) take and give 64-bit values: those that pass an address or a
//! position. The others use the low words only. Each call has one identifier; the other convention's is unknown.
//!
//! Exeunt's functions are numbered from 0x4500 ("E" in the high byte), because KVM's calls from the host to EL2 are in
//! the same range from 0 on (0xc6000000 is its first: Linux `arch/arm64/include/asm/kvm_asm.h`), and a host may issue
//! those while Exeunt is there.
//!
//! Whether Exeunt is there: [`CALL_UID`] gives [`UID`]. All calls work in `Live`, at whichever level the host was
//! entered. In `Stub`, and after Exeunt has left, whoever has EL2 answers: a stub with [`STUB_ERR`], another hypervisor
//! usually with -1.
//!
//! Source of the rules for identifiers, the three queries and -1: Arm DEN0028 (SMCCC). All else is Exeunt's own.

use crate::smccc::{QUERY_CALL_COUNT, QUERY_CALL_UID, QUERY_REVISION, hypervisor_call_32, hypervisor_call_64};
use crate::stub::STUB_ERR;

/// How many calls the range has, without the three queries. In: nothing. Out: w0. Clobbers and errors:
/// none.
pub const CALL_COUNT: u32 = hypervisor_call_32(QUERY_CALL_COUNT);

/// Who answers the range. In: nothing. Out: w0 to w3 = [`UID`]'s bytes, in their order, 4 to a register, the first in
/// the low-order byte. Clobbers and errors: none.
pub const CALL_UID: u32 = hypervisor_call_32(QUERY_CALL_UID);

/// Revision of the contract. In: nothing. Out: w0 = [`ABI_MAJOR`], w1 = [`ABI_MINOR`]. Clobbers and errors: none.
pub const REVISION: u32 = hypervisor_call_32(QUERY_REVISION);

/// Versions. In: nothing. Out: w0 = the contract's, [`ABI_MAJOR`] in bits \[30:16\] and [`ABI_MINOR`] in bits \[15:0\],
/// the format of SMCCC_VERSION; w1 = Exeunt's own, see [`Version`]. Clobbers and errors: none.
pub const VERSION: u32 = hypervisor_call_32(0x4500);

/// What is known of a call. In: w1 = a function identifier of this range. Out: w0 = 0, w1 = the call's flags (0 if
/// nothing is said of them). Errors: [`Error::NotSupported`]: unknown identifier.
pub const FEATURES: u32 = hypervisor_call_32(0x4501);

/// State of the machine, in registers and, if the caller wants it, per CPU in a record.
///
/// - In: x1 = address of a buffer, 8-byte aligned; x2 = its size in bytes, or 0 for none; x3 = number of the first CPU
///   to describe. The buffer is RAM of the host's and lies within one page of 4 KiB ([`PAGE`]).
/// - Out: x0 = 0; x1 = size of the record with all CPUs; x2 = [`Summary`]; x3 = CPUs that were described. The buffer
///   holds a [`StatusHeader`](crate::record::StatusHeader) and as many [`StatusCpu`](crate::record::StatusCpu) as have
///   room.
/// - Errors: [`Error::InvalidParameter`]: a buffer that is misaligned, smaller than the header, across a page boundary
///   or not the host's RAM; an unknown first CPU. Nothing is written then.
/// - FEATURES' flags: the version of the record, [`crate::record::STATUS_VERSION`].
pub const STATUS: u32 = hypervisor_call_64(0x4502);

/// Read and set what becomes of Exeunt at a soft restart, for a kexec and for a crash apart.
///
/// - In: w1 = which ([`RESTART_KEXEC`] | [`RESTART_CRASH`]) to set, 0 to read only; w2 = the [`Policy`], ignored if
///   w1 is 0.
/// - Out: w0 = 0, w1 = policy for kexec, w2 = policy for a crash, both as they are now.
/// - Errors: [`Error::InvalidParameter`]: other bits in w1, other values in w2. [`Error::Locked`]: to `Leave` after
///   LOCK. The policies stay as they were then.
/// - FEATURES' flags: bit n is set if the policy with the number n can be had.
pub const RESTART_POLICY: u32 = hypervisor_call_32(0x4503);

/// Exeunt leaves, on all CPUs that it is on. Who calls is one of them; the others are caught wherever they are, and all
/// go on where they were.
///
/// - In: nothing. Out: w0 = 0, w1 = how many CPUs Exeunt left with this call.
/// - Errors, after each of which every CPU is as before: [`Error::Locked`]; [`Error::Busy`]: another CPU is leaving,
///   coming back or being started, or its host is still in virtual EL2; [`Error::TimedOut`]: a CPU did not come to EL2
///   in time.
pub const LEAVE: u32 = hypervisor_call_32(0x4504);

/// From now on, until the machine is reset, nobody can make Exeunt leave: RESET_VECTORS, LEAVE and a policy `Leave` are
/// refused, a soft restart is `Resident`, and EL2 is not lent to KVM. A second call changes nothing.
///
/// - In: nothing. Out: w0 = 0.
/// - Errors: [`Error::Busy`]: a LEAVE is under way. [`Error::WrongState`]: Exeunt has left a CPU already, and can
///   promise nothing for it.
pub const LOCK: u32 = hypervisor_call_32(0x4505);

/// The way back for a CPU that Exeunt has left.
///
/// - In: nothing. Out: x0 = 0, x1 = physical address of a vector table, x2 = the number to call there.
/// - `Live`: gives these and changes nothing. After Exeunt has left a CPU: SET_VECTORS to x1, then HVC with x2 in x0;
///   the CPU is `Live` then, and the call has given the same results. The table is the resident stub's: until the
///   second call it answers as that does, and a CPU that is there anyway needs the second call only.
/// - Errors: at the table, [`Error::Busy`]: a LEAVE is under way; [`STUB_ERR`]: what Exeunt keeps for this CPU is
///   damaged, or it keeps nothing. The CPU stays outside. Elsewhere after Exeunt has left: [`STUB_ERR`].
pub const REENTER: u32 = hypervisor_call_64(0x4506);

/// Copy from Exeunt's log.
///
/// - In: x1 = position: how many bytes of the log, counted from its start, come before the first wanted; x2 = address
///   of a buffer; x3 = its size in bytes, 0 for no buffer. The buffer is RAM of the host's and lies within one
///   page of 4 KiB.
/// - Out: x0 = 0, x1 = bytes copied, x2 = the position to go on from, x3 = bytes from the wanted position onwards that
///   were overwritten and are lost. With a size of 0, x2 = x1 + lost.
/// - Errors: [`Error::InvalidParameter`]: a position past the log's end; a buffer that crosses a page boundary or is
///   not the host's RAM. Nothing is written then.
pub const LOG_READ: u32 = hypervisor_call_64(0x4507);

/// Have the exits of this CPU traced into the black box ([`crate::blackbox`]), or no longer.
///
/// - In: w1 = [`TRACE_QUERY`], [`TRACE_START`] or [`TRACE_STOP`].
/// - Out: w0 = 0; w1 = 1 if the exits of this CPU are traced now, else 0; w2 = how many records are kept of each CPU.
/// - Of the other CPUs those follow that come up from now on. Who wants all to, makes the call on each.
/// - Errors: [`Error::InvalidParameter`]: another value in w1.
pub const TRACE: u32 = hypervisor_call_32(0x4508);

/// [`TRACE`]'s w1: change nothing.
pub const TRACE_QUERY: u32 = 0;
/// [`TRACE`]'s w1: from now on.
pub const TRACE_START: u32 = 1;
/// [`TRACE`]'s w1: no longer.
pub const TRACE_STOP: u32 = 2;

/// What stage 2 says about an address of the host's, and how far around it the same.
///
/// - In: x1 = the address, an intermediate physical one, which is the same as the physical one.
/// - Out: x0 = 0; x1 = first address of the range around it in which stage 2 says the same; x2 = its end; x3 = what the
///   host may do there: [`RANGE_MAPPED`], [`RANGE_READ`], [`RANGE_WRITE`], [`RANGE_EXECUTE`], or 0 in a hole.
/// - A whole map is made of calls from 0 on, each with the last one's x2.
/// - Errors: [`Error::InvalidParameter`]: past the last address that stage 2 translates.
pub const STAGE2_RANGE: u32 = hypervisor_call_64(0x4509);

/// [`STAGE2_RANGE`]'s x3: it is mapped.
pub const RANGE_MAPPED: u64 = 1 << 0;
/// [`STAGE2_RANGE`]'s x3: the host may read.
pub const RANGE_READ: u64 = 1 << 1;
/// [`STAGE2_RANGE`]'s x3: the host may write.
pub const RANGE_WRITE: u64 = 1 << 2;
/// [`STAGE2_RANGE`]'s x3: the host may execute, without having tried before.
pub const RANGE_EXECUTE: u64 = 1 << 3;

/// Has the host panic on a CPU, wherever that is: it takes an SError, as if it were not masked.
///
/// - In: w1 = number of the CPU, as STATUS counts them, or [`PANIC_HERE`].
/// - Out: w0 = 0. The CPU goes on at VBAR_EL1 plus the offset of the SError vector for where it was, with everything
///   masked; ESR_EL1 is [`PANIC_SYNDROME`], ELR_EL1 and SPSR_EL1 say where it was. The caller itself takes it after the
///   call.
/// - PSTATE.A does not hold it up. Without FEAT_DoubleFault2 and SCTLR2_EL1.NMEA no SError of the hardware's comes
///   where PSTATE.A is set: a host that is in the middle of an exception's entry or exit loses ELR_EL1 and SPSR_EL1.
/// - Errors: [`Error::InvalidParameter`]: an unknown CPU. [`Error::WrongState`]: it is off, or Exeunt has left it, or
///   its host is in virtual EL2 or has its MMU off, as on the way into a kernel and out of one, where nobody knows
///   whether it has vectors. [`Error::Busy`]: it is being started, or a LEAVE or another PANIC is under way.
///   [`Error::TimedOut`]: it did not come to EL2 in time.
pub const PANIC: u32 = hypervisor_call_32(0x450a);

/// [`PANIC`]'s w1: the calling CPU.
pub const PANIC_HERE: u32 = u32::MAX;

/// ESR_EL1 of a CPU on which the host is to panic: an SError (EC 0x2f) with an IMPLEMENTATION DEFINED syndrome (IDS),
/// the letters "EXN". Linux takes it for fatal in every kernel, and prints it as the code.
pub const PANIC_SYNDROME: u64 = 0x2f << 26 | 1 << 25 | 1 << 24 | 0x45_584e;

/// Starts the crash kernel that the host has loaded, on the calling CPU, and not by way of the host's own panic: all
/// other CPUs are stopped and go off, all crash notes that are empty are filled, the caller's too, and the crash kernel
/// begins as after a SOFT_RESTART to it, at the level at which the host was entered.
///
/// - In: nothing. Out: nothing; the call does not return.
/// - Errors: [`Error::WrongState`]: no crash kernel is known.
/// - [`RESTART_CRASH`]'s policy says what becomes of Exeunt; LOCK keeps it there, and it stays below a host that was
///   entered at EL1.
pub const CRASH_KERNEL: u32 = hypervisor_call_32(0x450b);

/// Every call of the range except the three queries.
pub const CALLS: [u32; 12] = [
    VERSION,
    FEATURES,
    STATUS,
    RESTART_POLICY,
    LEAVE,
    LOCK,
    REENTER,
    LOG_READ,
    TRACE,
    STAGE2_RANGE,
    PANIC,
    CRASH_KERNEL,
];

/// Exeunt's UUID, 861773e1-f7a0-47c5-a77d-fdfabab25ffe, by bytes. Made for this purpose, at random.
pub const UID: [u8; 16] =
    [0x86, 0x17, 0x73, 0xe1, 0xf7, 0xa0, 0x47, 0xc5, 0xa7, 0x7d, 0xfd, 0xfa, 0xba, 0xb2, 0x5f, 0xfe];

/// [`UID`] as w0 to w3 have it.
pub const UID_REGISTERS: [u32; 4] = {
    let mut words = [0; 4];
    let mut index = 0;
    while index < 4 {
        words[index] = u32::from_le_bytes([UID[4 * index], UID[4 * index + 1], UID[4 * index + 2], UID[4 * index + 3]]);
        index += 1;
    }
    words
};

// The first word must not look like an error (DEN0028, "Call UID Query").
const _: () = assert!(UID_REGISTERS[0] != u32::MAX && UID_REGISTERS[0] as u64 != STUB_ERR);

/// Changes when a caller of the contract could misunderstand the new one.
pub const ABI_MAJOR: u16 = 1;
/// Changes when something is added.
pub const ABI_MINOR: u16 = 3;

const _: () = assert!(ABI_MAJOR < 1 << 15);

/// w0 of VERSION.
pub const ABI_VERSION: u32 = (ABI_MAJOR as u32) << 16 | ABI_MINOR as u32;

/// A buffer must not cross a multiple of this many bytes, whatever the pages of the host.
pub const PAGE: u64 = 4096;

/// Alignment of STATUS's buffer.
pub const STATUS_ALIGNMENT: u64 = 8;

/// [`RESTART_POLICY`], w1: the policy for a kexec.
pub const RESTART_KEXEC: u32 = 1 << 0;
/// [`RESTART_POLICY`], w1: the policy for a crash.
pub const RESTART_CRASH: u32 = 1 << 1;

/// Exeunt's own version, w1 of [`VERSION`]: major in bits \[31:24\], minor in \[23:16\], patch in \[15:0\].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
    /// Patch.
    pub patch: u16,
}

impl Version {
    /// As in the register.
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        (self.major as u32) << 24 | (self.minor as u32) << 16 | self.patch as u32
    }

    /// From the register.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self { major: (bits >> 24) as u8, minor: (bits >> 16) as u8, patch: bits as u16 }
    }
}

/// What becomes of Exeunt at a soft restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Policy {
    /// Exeunt goes from the calling CPU, and the next payload has EL2.
    #[default]
    Leave = 0,
    /// Exeunt stays under the next payload.
    Resident = 1,
}

impl Policy {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Leave, Self::Resident];

    /// From a register.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            0 => Some(Self::Leave),
            1 => Some(Self::Resident),
            _ => None,
        }
    }

    /// As in the options and the documentation.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Resident => "resident",
        }
    }
}

/// What a CPU's EL2 is, as STATUS tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CpuState {
    /// Off, or never started.
    Off = 0,
    /// The resident stub's vectors and nothing else.
    Stub = 1,
    /// Exeunt's.
    Live = 2,
    /// Exeunt is on its way out.
    Leaving = 3,
    /// Exeunt has left, and EL2 has vectors that are not its own.
    Gone = 4,
}

impl CpuState {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Off, Self::Stub, Self::Live, Self::Leaving, Self::Gone];

    /// From a record or a register.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if (bits as usize) < Self::ALL.len() { Some(Self::ALL[bits as usize]) } else { None }
    }

    /// As in the documentation.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Stub => "stub",
            Self::Live => "live",
            Self::Leaving => "leaving",
            Self::Gone => "gone",
        }
    }
}

/// x2 of STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary(pub u64);

impl Summary {
    /// Bits \[7:0\]: [`CpuState`] of the calling CPU.
    pub const STATE_SHIFT: u32 = 0;
    /// Bits \[15:8\]: the Exception level at which the host was entered, 1, or 2 for virtual EL2.
    pub const ENTRY_LEVEL_SHIFT: u32 = 8;
    /// Bit 16: [`LOCK`] was called.
    pub const LOCKED: u64 = 1 << 16;
    /// Bit 17: [`Policy`] for a kexec.
    pub const KEXEC_POLICY_SHIFT: u32 = 17;
    /// Bit 18: [`Policy`] for a crash.
    pub const CRASH_POLICY_SHIFT: u32 = 18;
    /// Bit 19: the host's KVM gets EL2 if it wants it (`kvm=lend`).
    pub const KVM_LEND: u64 = 1 << 19;
    /// Bits \[47:32\]: CPUs of the machine.
    pub const CPUS_SHIFT: u32 = 32;
    /// Bits \[63:48\]: CPUs that are `Live`.
    pub const LIVE_SHIFT: u32 = 48;

    /// State of the calling CPU.
    #[must_use]
    pub const fn state(self) -> Option<CpuState> {
        CpuState::from_bits((self.0 >> Self::STATE_SHIFT) as u8)
    }

    /// The Exception level at which the host was entered.
    #[must_use]
    pub const fn entry_level(self) -> u8 {
        (self.0 >> Self::ENTRY_LEVEL_SHIFT) as u8
    }

    /// LOCK was called.
    #[must_use]
    pub const fn is_locked(self) -> bool {
        self.0 & Self::LOCKED != 0
    }

    /// The policy for a kexec.
    #[must_use]
    pub const fn kexec_policy(self) -> Policy {
        if self.0 >> Self::KEXEC_POLICY_SHIFT & 1 == 0 { Policy::Leave } else { Policy::Resident }
    }

    /// The policy for a crash.
    #[must_use]
    pub const fn crash_policy(self) -> Policy {
        if self.0 >> Self::CRASH_POLICY_SHIFT & 1 == 0 { Policy::Leave } else { Policy::Resident }
    }

    /// CPUs of the machine.
    #[must_use]
    pub const fn cpus(self) -> u16 {
        (self.0 >> Self::CPUS_SHIFT) as u16
    }

    /// CPUs that are `Live`.
    #[must_use]
    pub const fn live_cpus(self) -> u16 {
        (self.0 >> Self::LIVE_SHIFT) as u16
    }
}

/// Why a call of Exeunt's failed. Negative in x0 (in w0 for the 32-bit convention; Exeunt sign-extends it in both).
///
/// The first two have SMCCC's numbers (DEN0028, "Return codes"; Linux `include/linux/arm-smccc.h`), the others are
/// Exeunt's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Error {
    /// Nobody knows this function identifier.
    NotSupported = -1,
    /// An argument is invalid; nothing has changed.
    InvalidParameter = -3,
    /// LOCK forbids it; nothing has changed.
    Locked = -4,
    /// Another CPU does something that excludes this; nothing has changed. Try again later.
    Busy = -5,
    /// Not possible in the state of this CPU or of the machine; nothing has changed.
    WrongState = -6,
    /// A CPU did not come to EL2 in time; nothing has changed.
    TimedOut = -7,
}

impl Error {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::NotSupported, Self::InvalidParameter, Self::Locked, Self::Busy, Self::WrongState, Self::TimedOut];

    /// As x0 has it.
    #[must_use]
    pub const fn to_register(self) -> u64 {
        (self as i32 as i64).cast_unsigned()
    }

    /// From the low word of x0.
    #[must_use]
    pub const fn from_register(x0: u64) -> Option<Self> {
        match (x0 as u32).cast_signed() {
            -1 => Some(Self::NotSupported),
            -3 => Some(Self::InvalidParameter),
            -4 => Some(Self::Locked),
            -5 => Some(Self::Busy),
            -6 => Some(Self::WrongState),
            -7 => Some(Self::TimedOut),
            _ => None,
        }
    }

    /// The name in the documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotSupported => "NOT_SUPPORTED",
            Self::InvalidParameter => "INVALID_PARAMETER",
            Self::Locked => "LOCKED",
            Self::Busy => "BUSY",
            Self::WrongState => "WRONG_STATE",
            Self::TimedOut => "TIMED_OUT",
        }
    }
}

/// Why a call gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Exeunt, or another hypervisor that keeps to the SMC Calling Convention, refused.
    Refused(Error),
    /// Whoever answered does not know the call: x0 of the answer. [`STUB_ERR`] comes from a stub: Exeunt is not there,
    /// or not on this CPU.
    Absent(u64),
}

/// Reads x0 to x3 of an answer whose x0 is a result code: x1 to x3 of a success.
///
/// # Errors
///
/// x0 is not 0.
pub const fn results(registers: [u64; 4]) -> Result<[u64; 3], Failure> {
    let [code, x1, x2, x3] = registers;
    if code as u32 == 0 { Ok([x1, x2, x3]) } else { Err(failure(code)) }
}

/// What x0 of an answer says if it is not a success.
#[must_use]
pub const fn failure(x0: u64) -> Failure {
    match Error::from_register(x0) {
        Some(error) => Failure::Refused(error),
        None => Failure::Absent(x0),
    }
}

/// Whether an answer to [`CALL_UID`] is Exeunt's.
#[must_use]
pub const fn is_exeunt(registers: [u64; 4]) -> bool {
    let mut index = 0;
    while index < 4 {
        if registers[index] as u32 != UID_REGISTERS[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_the_vendor_specific_hypervisor_range() {
        assert_eq!((CALL_COUNT, CALL_UID, REVISION), (0x8600_ff00, 0x8600_ff01, 0x8600_ff03));
        for id in CALLS {
            assert_eq!(id & !(1 << 30) & 0xffff_ff00, 0x8600_4500, "{id:#x}");
        }
    }

    #[test]
    fn an_answer_is_a_result_an_error_or_a_strangers() {
        assert_eq!(results([0, 1, 2, 3]), Ok([1, 2, 3]));
        for error in Error::ALL {
            assert_eq!(results([error.to_register(), 1, 2, 3]), Err(Failure::Refused(error)));
            // A caller of the 32-bit convention may have the low word only.
            assert_eq!(results([error.to_register() & 0xffff_ffff, 1, 2, 3]), Err(Failure::Refused(error)));
        }
        assert_eq!(results([STUB_ERR, 1, 2, 3]), Err(Failure::Absent(STUB_ERR)));
        assert_eq!(results([0x7fff_ffff, 1, 2, 3]), Err(Failure::Absent(0x7fff_ffff)));
    }

    #[test]
    fn only_all_four_registers_are_exeunt() {
        let own = UID_REGISTERS.map(u64::from);
        assert!(is_exeunt(own));
        for index in 0..4 {
            let mut other = own;
            other[index] ^= 1 << (8 * index);
            assert!(!is_exeunt(other));
        }
        assert!(!is_exeunt([STUB_ERR, 0, 0, 0]) && !is_exeunt([u64::MAX; 4]));
    }

    #[test]
    fn values_with_a_layout_survive_it() {
        for bits in [0, 1, 0x0102_0304, u32::MAX] {
            assert_eq!(Version::from_bits(bits).to_bits(), bits);
        }
        for state in CpuState::ALL {
            assert_eq!(CpuState::from_bits(state as u8), Some(state));
        }
        assert_eq!(CpuState::from_bits(5), None);
        for policy in Policy::ALL {
            assert_eq!(Policy::from_bits(policy as u32), Some(policy));
        }
        assert_eq!(Policy::from_bits(2), None);
        let summary = Summary(0x0003_0004_000d_0102);
        assert_eq!((summary.state(), summary.entry_level()), (Some(CpuState::Live), 1));
        assert_eq!(
            (summary.is_locked(), summary.kexec_policy(), summary.crash_policy()),
            (true, Policy::Leave, Policy::Resident)
        );
        assert_eq!((summary.cpus(), summary.live_cpus()), (4, 3));
    }
}
