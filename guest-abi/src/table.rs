//! The contract as data: every call with what it answers in each state, the codes, the records, and what a caller must
//! expect.
//!
//! Owns the wording. `docs/abi.md` is rendered from it (`tests/docs.rs`), and nothing at EL2 uses it. What stands in
//! `CALLS` is what Exeunt's tests check on a machine; whoever changes an answer changes it here, too.

use crate::record::{Field, StatusCpu, StatusHeader};
use crate::vendor::Error;
use crate::{smccc, stub, vendor};

/// What a CPU's EL2 is when the call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The resident stub's vectors.
    Stub,
    /// Exeunt's, the host having been entered at EL1.
    LiveEl1,
    /// Exeunt's, the host having been entered at virtual EL2, and being at EL1 now.
    LiveEl2,
    /// Exeunt's on its way out or in.
    Leaving,
    /// Somebody else's.
    Gone,
}

impl State {
    /// All, in the order of [`CallDoc::answers`].
    pub const ALL: [Self; 5] = [Self::Stub, Self::LiveEl1, Self::LiveEl2, Self::Leaving, Self::Gone];

    /// Its name in the tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stub => "Stub",
            Self::LiveEl1 => "Live, host at EL1",
            Self::LiveEl2 => "Live, host at virtual EL2",
            Self::Leaving => "Leaving",
            Self::Gone => "Gone",
        }
    }

    /// What it is.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Stub => {
                "VBAR_EL2 is the resident stub's, in Exeunt's memory; no stage 2, no EL2 MMU, no stack. A CPU that \
                 Exeunt has left is in this state if its host has installed no vectors of its own"
            }
            Self::LiveEl1 => {
                "Exeunt's vectors, stage 2 and traps are in force. The host's first instruction ran at EL1 \
                 (`entry=el1`)"
            }
            Self::LiveEl2 => {
                "the same, but the host's first instruction ran at virtual EL2 (`entry=el2`). The host is at EL1 now; \
                 while it was still in virtual EL2, an HVC went to the vectors that it had set itself"
            }
            Self::Leaving => {
                "between two of the others, in either direction. The host runs no instruction on this CPU meanwhile. \
                 If it did, it would find vectors that answer as in `Stub`"
            }
            Self::Gone => {
                "Exeunt has left, and VBAR_EL2 is that of the host's own stub, its KVM or the next payload, which \
                 answers. The table says what Linux's stub does"
            }
        }
    }
}

/// Where a call comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Linux's stub ABI.
    Stub,
    /// The queries that every range of the SMC Calling Convention has.
    Query,
    /// Exeunt's own.
    Exeunt,
}

/// A call.
#[derive(Clone, Copy, Debug)]
pub struct CallDoc {
    /// x0.
    pub number: u64,
    /// Its name: Linux's without `HVC_`, or Exeunt's.
    pub name: &'static str,
    /// Whose it is.
    pub family: Family,
    /// Who knows it.
    pub known_to: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Registers in, besides x0: name and meaning.
    pub inputs: &'static [(&'static str, &'static str)],
    /// Registers out of a success: name and meaning.
    pub outputs: &'static [(&'static str, &'static str)],
    /// Registers that change though they are no result.
    pub clobbers: &'static str,
    /// What it answers, by [`State::ALL`].
    pub answers: [&'static str; 5],
    /// Failures: the code, and when.
    pub errors: &'static [(&'static str, &'static str)],
    /// Where the rule comes from.
    pub source: &'static str,
}

const NONE: &[(&str, &str)] = &[];
const NO_CLOBBERS: &str = "none";
const STUB_ABI: &str = "Linux 5.4, 5.10, 6.1, 6.12, 7.2";
const HYP_ABI: &str = "Linux `hyp-abi.rst`, `hyp-stub.S`; in `Live`: Exeunt's";
const ABI_1_0: &str = "Exeunt, ABI 1.0";
const ABI_1_1: &str = "Exeunt, ABI 1.1";
const ABI_1_2: &str = "Exeunt, ABI 1.2";
const ABI_1_3: &str = "Exeunt, ABI 1.3";
const SMCCC: &str = "DEN0028 (SMCCC), \"General service queries\"";
const EXEUNT: &str = "Exeunt's own";
const STUB_ERR: &str = "STUB_ERR";
const INVALID: &str = Error::InvalidParameter.name();
/// What the device tree calls RAM need not be any.
const NO_MEMORY: &str = "no memory answers at the buffer. Some of it may be written";
const LOCKED: &str = Error::Locked.name();
const BUSY: &str = Error::Busy.name();

/// The answers of a call that Exeunt alone knows.
const LIVE_ONLY: [&str; 5] = [STUB_ERR, "works", "works", STUB_ERR, STUB_ERR];

/// Every call.
pub const CALLS: &[CallDoc] = &[
    CallDoc {
        number: stub::SET_VECTORS,
        name: "SET_VECTORS",
        family: Family::Stub,
        known_to: STUB_ABI,
        purpose: "install a vector table at EL2",
        inputs: &[(
            "x1",
            "physical address of the table, 2 KiB aligned, in the host's RAM; after Exeunt has left, also the one \
             that REENTER names",
        )],
        outputs: &[("x0", "0")],
        clobbers: NO_CLOBBERS,
        answers: [
            "VBAR_EL2 = x1; 0",
            STUB_ERR,
            "x1 is recorded as the host's VBAR_EL2, for when Exeunt leaves; 0",
            "as in `Stub`",
            "VBAR_EL2 = x1, unchecked; 0",
        ],
        errors: &[(
            STUB_ERR,
            "x1 misaligned or not in the host's RAM; the host was entered at EL1. Nothing has changed",
        )],
        source: "Linux `hyp-abi.rst` (only the initial stubs have it), `hyp-stub.S`; the checks: Exeunt's",
    },
    CallDoc {
        number: stub::SOFT_RESTART,
        name: "SOFT_RESTART",
        family: Family::Stub,
        known_to: STUB_ABI,
        purpose: "enter the next payload at EL2",
        inputs: &[
            ("x1", "its entry: physical address, 4-byte aligned, in the host's RAM"),
            ("x2", "its x0"),
            ("x3", "its x1"),
            ("x4", "its x2"),
        ],
        outputs: &[
            ("x0, x1, x2", "x2, x3, x4 of the call"),
            ("x3", "as it was"),
            ("x4", "the entry"),
            ("PSTATE", "EL2h (virtual EL2 or EL1 under `resident`), D, A, I and F masked; MMU off"),
        ],
        clobbers: NO_CLOBBERS,
        answers: [
            "enters x1 at EL2, unchecked",
            "policy `leave`: Exeunt goes from this CPU, and x1 is entered at EL2. Policy `resident`: x1 is entered at \
             EL1 under Exeunt",
            "policy `leave`: Exeunt goes from this CPU, and x1 is entered at EL2. Policy `resident`: x1 is entered at \
             virtual EL2",
            "as in `Stub`",
            "enters x1 at EL2, unchecked",
        ],
        errors: &[(
            STUB_ERR,
            "`Live`: x1 misaligned or not in the host's RAM. Only x0 has changed, and the call returns",
        )],
        source: HYP_ABI,
    },
    CallDoc {
        number: stub::RESET_VECTORS,
        name: "RESET_VECTORS",
        family: Family::Stub,
        known_to: STUB_ABI,
        purpose: "give EL2 back to the initial stub",
        inputs: NONE,
        outputs: &[("x0", "0")],
        clobbers: NO_CLOBBERS,
        answers: [
            "0",
            "Exeunt leaves this CPU: stage 2, EL2's MMU and traps off, VBAR_EL2 the resident stub's; 0",
            "Exeunt leaves this CPU: stage 2, EL2's MMU and traps off, VBAR_EL2 the host's if it has set any, else the \
             resident stub's; 0",
            "0",
            "0",
        ],
        errors: &[(STUB_ERR, "after LOCK. Exeunt stays")],
        source: HYP_ABI,
    },
    CallDoc {
        number: stub::FINALISE_EL2,
        name: "FINALISE_EL2",
        family: Family::Stub,
        known_to: "Linux 6.1, 6.12, 7.2; between 5.10 and 6.1 as VHE_RESTART",
        purpose: "finish EL2's set-up, and go on at EL2 if the CPU has VHE",
        inputs: NONE,
        outputs: &[("x0", "STUB_ERR: the host stays at EL1, and goes on")],
        clobbers: NO_CLOBBERS,
        answers: [
            STUB_ERR,
            STUB_ERR,
            "STUB_ERR: SVE and SME are open already",
            STUB_ERR,
            "Linux's stub: to EL2 with VHE, else STUB_ERR; may change x0 to x2",
        ],
        errors: &[(STUB_ERR, "always")],
        source: "Linux `hyp-stub.S`, `el2_setup.h`",
    },
    CallDoc {
        number: stub::GET_ICH_VTR_EL2,
        name: "GET_ICH_VTR_EL2",
        family: Family::Stub,
        known_to: "Linux 7.2; not 6.12",
        purpose: "read ICH_VTR_EL2",
        inputs: NONE,
        outputs: &[("x0", "0"), ("x1", "ICH_VTR_EL2")],
        clobbers: NO_CLOBBERS,
        answers: [
            "the register",
            "the register",
            "the register",
            "the register",
            "the register from 7.2's stub; STUB_ERR from older ones",
        ],
        errors: &[(STUB_ERR, "the GIC's CPU interface is not in system registers; x1 is as it was")],
        source: "Linux 7.2 `hyp-stub.S`, `cpufeature.c`",
    },
    CallDoc {
        number: vendor::CALL_COUNT as u64,
        name: "CALL_COUNT",
        family: Family::Query,
        known_to: ABI_1_0,
        purpose: "how many calls the range has, without the three queries",
        inputs: NONE,
        outputs: &[("w0", "12")],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: NONE,
        source: SMCCC,
    },
    CallDoc {
        number: vendor::CALL_UID as u64,
        name: "CALL_UID",
        family: Family::Query,
        known_to: ABI_1_0,
        purpose: "who answers the range",
        inputs: NONE,
        outputs: &[(
            "w0, w1, w2, w3",
            "0xe1731786, 0xc547a0f7, 0xfafd7da7, 0xfe5fb2ba: UUID 861773e1-f7a0-47c5-a77d-fdfabab25ffe",
        )],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: NONE,
        source: SMCCC,
    },
    CallDoc {
        number: vendor::REVISION as u64,
        name: "REVISION",
        family: Family::Query,
        known_to: ABI_1_0,
        purpose: "revision of the range's calls",
        inputs: NONE,
        outputs: &[("w0", "major, 1"), ("w1", "minor, 3")],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: NONE,
        source: SMCCC,
    },
    CallDoc {
        number: vendor::VERSION as u64,
        name: "VERSION",
        family: Family::Exeunt,
        known_to: ABI_1_0,
        purpose: "version of this contract and of Exeunt",
        inputs: NONE,
        outputs: &[
            ("w0", "the contract's: major in bits 30:16, minor in bits 15:0"),
            ("w1", "Exeunt's: major in bits 31:24, minor in bits 23:16, patch in bits 15:0"),
        ],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: NONE,
        source: EXEUNT,
    },
    CallDoc {
        number: vendor::FEATURES as u64,
        name: "FEATURES",
        family: Family::Exeunt,
        known_to: ABI_1_0,
        purpose: "whether a call of this range is known, and its flags",
        inputs: &[("w1", "the call's identifier")],
        outputs: &[
            ("w0", "0"),
            (
                "w1",
                "flags: for STATUS the version of its record, for RESTART_POLICY bit n for each policy with the number \
                 n, otherwise 0",
            ),
        ],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: &[(Error::NotSupported.name(), "unknown identifier")],
        source: EXEUNT,
    },
    CallDoc {
        number: vendor::STATUS as u64,
        name: "STATUS",
        family: Family::Exeunt,
        known_to: ABI_1_0,
        purpose: "state of the machine, and of each CPU",
        inputs: &[
            ("x1", "address of a buffer: 8-byte aligned, in the host's RAM"),
            ("x2", "its size, 0 for no buffer; the buffer lies within one page of 4 KiB"),
            ("x3", "number of the first CPU to describe"),
        ],
        outputs: &[
            ("x0", "0"),
            ("x1", "size of the record with all CPUs"),
            ("x2", "the summary (below)"),
            ("x3", "CPUs that were described"),
        ],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: &[
            (INVALID, "invalid buffer, or one too small for the header; unknown CPU. Nothing is written"),
            (INVALID, NO_MEMORY),
        ],
        source: EXEUNT,
    },
    CallDoc {
        number: vendor::RESTART_POLICY as u64,
        name: "RESTART_POLICY",
        family: Family::Exeunt,
        known_to: ABI_1_0,
        purpose: "read and set what SOFT_RESTART does to Exeunt",
        inputs: &[
            ("w1", "which to set: bit 0 for a kexec, bit 1 for a crash; 0 to read only"),
            ("w2", "0 `leave`, 1 `resident`; ignored if w1 is 0"),
        ],
        outputs: &[("w0", "0"), ("w1", "policy for a kexec"), ("w2", "policy for a crash")],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: &[
            (INVALID, "other bits in w1, another number in w2. Nothing has changed"),
            (LOCKED, "`leave` after LOCK"),
        ],
        source: EXEUNT,
    },
    CallDoc {
        number: vendor::LEAVE as u64,
        name: "LEAVE",
        family: Family::Exeunt,
        known_to: ABI_1_0,
        purpose: "Exeunt leaves all CPUs that it is on; each goes on where it was",
        inputs: NONE,
        outputs: &[("w0", "0"), ("w1", "CPUs that it left")],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: &[
            (LOCKED, "after LOCK"),
            (BUSY, "another CPU is leaving, coming back or being started, or its host is still in virtual EL2"),
            (
                Error::TimedOut.name(),
                "a CPU did not come to EL2 in time. After this and the other errors each CPU is as before",
            ),
        ],
        source: EXEUNT,
    },
    CallDoc {
        number: vendor::LOCK as u64,
        name: "LOCK",
        family: Family::Exeunt,
        known_to: ABI_1_0,
        purpose: "keep Exeunt until the machine is reset: RESET_VECTORS and LEAVE are refused, a soft restart is \
                  `resident`, and EL2 is not lent to KVM",
        inputs: NONE,
        outputs: &[("w0", "0, also if it was locked before")],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: &[
            (BUSY, "a LEAVE is under way"),
            (Error::WrongState.name(), "Exeunt has left a CPU, and can promise nothing for it"),
        ],
        source: EXEUNT,
    },
    CallDoc {
        number: vendor::REENTER as u64,
        name: "REENTER",
        family: Family::Exeunt,
        known_to: ABI_1_0,
        purpose: "bring Exeunt back on a CPU that it has left",
        inputs: NONE,
        outputs: &[
            ("x0", "0"),
            ("x1", "physical address of a vector table for SET_VECTORS"),
            ("x2", "the number to call there"),
        ],
        clobbers: NO_CLOBBERS,
        answers: [
            "the CPU is `Live`; 0. STUB_ERR on a CPU that the device tree does not name, and where what Exeunt keeps \
             for the CPU is damaged",
            "works, and changes nothing",
            "works, and changes nothing",
            STUB_ERR,
            STUB_ERR,
        ],
        errors: &[(BUSY, "at the table: a LEAVE is under way; the CPU stays outside")],
        source: EXEUNT,
    },
    CallDoc {
        number: vendor::LOG_READ as u64,
        name: "LOG_READ",
        family: Family::Exeunt,
        known_to: ABI_1_0,
        purpose: "copy from Exeunt's log",
        inputs: &[
            ("x1", "position of the first byte wanted, counted from the log's start"),
            ("x2", "address of a buffer in the host's RAM"),
            ("x3", "its size, 0 for no buffer; the buffer lies within one page of 4 KiB"),
        ],
        outputs: &[
            ("x0", "0"),
            ("x1", "bytes copied"),
            ("x2", "position to go on from"),
            ("x3", "bytes from the wanted position onwards that were overwritten and are lost"),
        ],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: &[(INVALID, "position past the log's end; invalid buffer. Nothing is written"), (INVALID, NO_MEMORY)],
        source: EXEUNT,
    },
    CallDoc {
        number: vendor::TRACE as u64,
        name: "TRACE",
        family: Family::Exeunt,
        known_to: ABI_1_1,
        purpose: "trace the exits of this CPU into the black box, and those of CPUs that come up from now on",
        inputs: &[("w1", "0 to change nothing, 1 to start, 2 to stop")],
        outputs: &[
            ("w0", "0"),
            ("w1", "1 if the exits of this CPU are traced now, else 0"),
            ("w2", "how many records are kept of each CPU"),
        ],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: &[(INVALID, "another value in w1")],
        source: EXEUNT,
    },
    CallDoc {
        number: vendor::STAGE2_RANGE as u64,
        name: "STAGE2_RANGE",
        family: Family::Exeunt,
        known_to: ABI_1_1,
        purpose: "what stage 2 says about an address",
        inputs: &[("x1", "the address")],
        outputs: &[
            ("x0", "0"),
            ("x1", "first address of the range around it in which stage 2 says the same"),
            ("x2", "the end of that range"),
            ("x3", "bit 0: mapped; bits 1 to 3: the host may read, write, execute"),
        ],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: &[(INVALID, "past the last address that stage 2 translates")],
        source: EXEUNT,
    },
    CallDoc {
        number: vendor::PANIC as u64,
        name: "PANIC",
        family: Family::Exeunt,
        known_to: ABI_1_2,
        purpose: "have the host panic on a CPU: it takes an SError there, masked or not",
        inputs: &[("w1", "number of the CPU, as STATUS counts them, or 0xffffffff for the caller's")],
        outputs: &[(
            "w0",
            "0. That CPU goes on at the host's SError vector, with 0xbf45584e in ESR_EL1; the caller's after the call",
        )],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: &[
            (INVALID, "an unknown CPU"),
            (
                Error::WrongState.name(),
                "the CPU is off, or Exeunt has left it, or its host is in virtual EL2 or has its MMU off",
            ),
            (BUSY, "the CPU is being started, or a LEAVE or another PANIC is under way"),
            (Error::TimedOut.name(), "the CPU did not come to EL2 in time"),
        ],
        source: EXEUNT,
    },
    CallDoc {
        number: vendor::CRASH_KERNEL as u64,
        name: "CRASH_KERNEL",
        family: Family::Exeunt,
        known_to: ABI_1_3,
        purpose: "start the crash kernel that the host has loaded, without the host's own panic",
        inputs: NONE,
        outputs: &[("PC", "the crash kernel's entry, as after a SOFT_RESTART to it. The call does not return")],
        clobbers: NO_CLOBBERS,
        answers: LIVE_ONLY,
        errors: &[(Error::WrongState.name(), "no crash kernel is known")],
        source: EXEUNT,
    },
];

/// A kind of number that is none of [`CALLS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// The stub ABI's, all 64 bits of x0, and unknown to every stub.
    Stub,
    /// From Linux to its own KVM at EL2 (`arch/arm64/include/asm/kvm_asm.h`).
    Kvm,
    /// PSCI's.
    Psci,
    /// The architecture's.
    Architecture,
    /// All other fast calls.
    Fast,
}

/// A row of numbers that are none of [`CALLS`].
#[derive(Clone, Copy, Debug)]
pub struct OtherDoc {
    /// Which.
    pub kind: Other,
    /// The same in words.
    pub what: &'static str,
    /// First and last of each range: of the low word of x0 without the hint about SVE. A number in several rows is the
    /// first one's.
    pub numbers: &'static [(u32, u32)],
    /// The answer by [`State::ALL`].
    pub answers: [&'static str; 5],
}

const NOT_SUPPORTED: &str = Error::NotSupported.name();

/// What other values of x0 get.
pub const OTHERS: &[OtherDoc] = &[
    OtherDoc {
        kind: Other::Stub,
        what: "any other with bit 31 clear",
        numbers: &[(0, smccc::FAST - 1)],
        answers: [
            STUB_ERR,
            STUB_ERR,
            "STUB_ERR; while vectors are installed by SET_VECTORS that are not the host's own stub's: whatever they \
             answer, in virtual EL2",
            STUB_ERR,
            STUB_ERR,
        ],
    },
    OtherDoc {
        kind: Other::Kvm,
        what: "Linux's calls to its own KVM, 0xc6000000 to 0xc60044ff",
        numbers: &[(0xc600_0000, 0xc600_44ff)],
        answers: [
            STUB_ERR,
            NOT_SUPPORTED,
            "NOT_SUPPORTED; with `kvm=lend`, while such vectors are installed: EL2 goes to them, and they answer",
            STUB_ERR,
            STUB_ERR,
        ],
    },
    OtherDoc {
        kind: Other::Psci,
        what: "PSCI, 0x84000000 to 0x8400001f and 0xc4000000 to 0xc400001f",
        numbers: &[(0x8400_0000, 0x8400_001f), (0xc400_0000, 0xc400_001f)],
        answers: [STUB_ERR, "PSCI", "PSCI", STUB_ERR, STUB_ERR],
    },
    OtherDoc {
        kind: Other::Architecture,
        what: "the architecture's calls (SMCCC_VERSION and others), 0x80000000 to 0x8000ffff and 0xc0000000 to \
               0xc000ffff",
        numbers: &[(0x8000_0000, 0x8000_ffff), (0xc000_0000, 0xc000_ffff)],
        answers: [STUB_ERR, "firmware's answer", "firmware's answer", STUB_ERR, STUB_ERR],
    },
    OtherDoc {
        kind: Other::Fast,
        what: "any other fast call: bit 31 set",
        numbers: &[(smccc::FAST, u32::MAX)],
        answers: [STUB_ERR, NOT_SUPPORTED, NOT_SUPPORTED, STUB_ERR, STUB_ERR],
    },
];

impl Other {
    /// The row of [`OTHERS`] that x0 belongs to; nothing for those of [`CALLS`].
    #[must_use]
    pub fn of(x0: u64) -> Option<Self> {
        let low = x0 as u32;
        let id = if low & smccc::FAST == 0 { low } else { low & !smccc::SVE_HINT };
        let number = if low & smccc::FAST == 0 { x0 } else { id.into() };
        if CALLS.iter().any(|call| call.number == number) {
            return None;
        }
        OTHERS.iter().find(|row| row.contains(id)).map(|row| row.kind)
    }
}

impl OtherDoc {
    fn contains(&self, id: u32) -> bool {
        self.numbers.iter().any(|&(first, last)| first <= id && id <= last)
    }
}

/// The numbers at the bounds of all ranges of [`OTHERS`], inside and outside, for a walk through the table. Some of
/// them are in [`CALLS`]; [`Other::of`] tells each one's row.
pub fn bounds() -> impl Iterator<Item = u32> {
    let ranges = OTHERS.iter().flat_map(|row| row.numbers);
    ranges.flat_map(|&(first, last)| [first.wrapping_sub(1), first, last, last.wrapping_add(1)])
}

/// A result code: what is in x0, its name, and what it says.
pub const CODES: &[(u64, &str, &str)] = &[
    (stub::SUCCESS, "SUCCESS", "done"),
    (
        stub::STUB_ERR,
        STUB_ERR,
        "a stub's refusal: unknown number, or invalid argument. From Exeunt for stub calls only",
    ),
    (Error::NotSupported.to_register(), Error::NotSupported.name(), "unknown function identifier (SMCCC)"),
    (Error::InvalidParameter.to_register(), Error::InvalidParameter.name(), "invalid argument (SMCCC)"),
    (Error::Locked.to_register(), Error::Locked.name(), "LOCK forbids it"),
    (Error::Busy.to_register(), Error::Busy.name(), "another CPU does something that excludes this; try again later"),
    (
        Error::WrongState.to_register(),
        Error::WrongState.name(),
        "not possible in the state of the CPU or of the machine",
    ),
    (Error::TimedOut.to_register(), Error::TimedOut.name(), "a CPU did not come to EL2 in time"),
];

/// A number that has a name: its value or bits, and what it says.
pub type Named = (&'static str, &'static str);

/// The summary, x2 of STATUS.
pub const SUMMARY: &[Named] = &[
    ("7:0", "what the calling CPU's EL2 is (the numbers are below)"),
    ("15:8", "the Exception level at which the host was entered: 1, or 2 for virtual EL2"),
    ("16", "LOCK was called"),
    ("17", "policy for a kexec: 0 `leave`, 1 `resident`"),
    ("18", "policy for a crash"),
    ("19", "`kvm=lend`: the host's KVM may have EL2"),
    ("47:32", "CPUs of the machine"),
    ("63:48", "CPUs that are `Live`"),
];

/// A record that a call writes.
#[derive(Clone, Copy, Debug)]
pub struct RecordDoc {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub place: &'static str,
    /// Bytes.
    pub size: usize,
    /// Its fields.
    pub fields: &'static [Field],
}

/// Every record.
pub const RECORDS: &[RecordDoc] = &[
    RecordDoc {
        name: "StatusHeader",
        place: "at the start of STATUS's buffer",
        size: StatusHeader::SIZE,
        fields: StatusHeader::FIELDS,
    },
    RecordDoc {
        name: "StatusCpu",
        place: "after the header, as many as its `described` says",
        size: StatusCpu::SIZE,
        fields: StatusCpu::FIELDS,
    },
];

/// What a caller must be prepared for, and what to do about it.
pub const CAUTIONS: &[Named] = &[
    (
        "SOFT_RESTART returns",
        "It was refused, and x1 to x4 are as they were. Branch to the entry at EL1, as Linux does: `cpu-reset.S` and \
         `relocate_kernel.S` have such a branch after the HVC",
    ),
    (
        "Exeunt's own call answers STUB_ERR",
        "A stub is there, and Exeunt is not, or not on this CPU. As a version or a UID this value means nothing: \
         compare all four registers of CALL_UID before anything else",
    ),
    (
        "There is no EL2",
        "HVC is undefined. Before the first call, find out from the boot mode or the device tree whether there is one",
    ),
    (
        "x0 to x18 may change",
        "`hyp-abi.rst` allows it for stub calls, and whoever answers after Exeunt may make use of that. Exeunt itself \
         changes only what the tables say",
    ),
    (
        "A call acts on the calling CPU",
        "All stub calls do, and so does REENTER at its table. Mask interrupts or pin the caller between two calls \
         that belong together. LEAVE, LOCK and RESTART_POLICY act on the whole machine",
    ),
    (
        "kexec or crash?",
        "The stub ABI does not say. Exeunt goes by x2, which in Linux up to 5.15 is the list of pages to copy, and \
         from 5.16 on may be the next kernel's device tree, where `linux,elfcorehdr` is for crash kernels; where x2 \
         says nothing, a host that has called SET_VECTORS on this CPU kexecs, and any other has crashed \
         ([kexec.md](kexec.md))",
    ),
    (
        "A second SET_VECTORS",
        "The first one installs vectors beside the host's own stub, the next one with another address puts its own \
         stub back, wherever it is: so Linux resumes from hibernation. Before 5.16 it makes a call instead that its \
         temporary vectors answer by a write to VBAR_EL2, and that has the same effect",
    ),
    (
        "The immediate of the HVC",
        "Ignored for numbers with bit 31 clear, as in Linux's stub. With bit 31 set it must be 0, else \
         NOT_SUPPORTED",
    ),
    (
        "High word of x0",
        "A stub call's number is all of x0. A function identifier is the low word, in which bit 16 is ignored: it is \
         SMCCC's hint about SVE. While vectors are installed that are not the host's own stub's, an x0 with a high \
         word is theirs, whatever its low word",
    ),
    (
        "Buffers",
        "Exeunt writes through Normal Write-Back memory and cleans what it wrote to the point of coherency. A caller \
         with its MMU and caches on needs nothing more; one with its MMU off must have no dirty line there",
    ),
    (
        "SMC",
        "Exeunt's own calls are for HVC. By SMC their numbers are NOT_SUPPORTED in `Live`; elsewhere firmware \
         answers",
    ),
    ("EL0", "HVC is undefined there, whatever the number"),
];

const _: () = {
    let mut index = 0;
    while index < CALLS.len() {
        let number = CALLS[index].number;
        // A stub call can never be mistaken for one of Exeunt's.
        assert!(matches!(CALLS[index].family, Family::Stub) == (number & smccc::FAST as u64 == 0));
        assert!(index == 0 || CALLS[index - 1].number != number);
        index += 1;
    }
};
