//! The black box: what Exeunt keeps in memory for whoever reads a dump, looks from inside, or starts after a reset.
//!
//! Owns its layout, and a reader of it that believes nothing that it finds. The box lies in the last 64 KiB of Exeunt's
//! 2 MiB; with many CPUs or long traces more of these 2 MiB go before it. The host has those pages as RAM that is
//! reserved but mapped, so that they are in `/proc/vmcore` and in every dump. Stage 2 lets it read them only.
//!
//! A box is found by the address in the device tree (`/reserved-memory/exeunt-box@...`), or by looking for [`MAGIC`] at
//! each multiple of 64 KiB of memory. All numbers are little-endian. Addresses are physical.
//!
//! | offset | what |
//! |---|---|
//! | 0x0000 | [`Header`]: written once, before the host runs; with a checksum |
//! | 0x0100 | [`Live`]: what changes |
//! | 0x0200 | [`Death`]: why Exeunt itself has died, if it has |
//! | 0x0800 | [`Event`]s: the life cycle, a ring of [`EVENTS`] |
//! | 0x1000 | registers: [`REGISTERS`] keys ([`register_key`]), then as many counters, 4 bytes each |
//! | 0x2000 | the log, a ring of [`LOG_SIZE`] bytes |
//! | 0x4000 | the same, all of it, of the last start in this memory, if its checksum was right; else zeros |
//! | 0x8000 | [`CpuBlock`]s and rings of [`TraceRecord`]s, if they have room here |
//!
//! In a ring the record or byte with the number n is in place n modulo the ring's length; how many were written since
//! the start is told beside it.

use crate::record::{Field, Plain, record};

/// [`Header::magic`]: "EXEUNTBB" in memory.
pub const MAGIC: u64 = u64::from_le_bytes(*b"EXEUNTBB");

/// [`Header::version`]. A reader that knows version n reads any later one too: fields are only ever added, in what is
/// reserved now.
pub const VERSION: u16 = 1;

/// The box is so large, and lies at a multiple of this.
pub const SIZE: usize = 0x1_0000;

/// Offset of [`Live`].
pub const LIVE: usize = 0x100;
/// Offset of [`Death`].
pub const DEATH: usize = 0x200;
/// Offset of the first [`Event`].
pub const HISTORY: usize = 0x800;
/// How many [`Event`]s are kept.
pub const EVENTS: usize = 64;
/// Offset of the registers' keys; their counters follow.
pub const REGISTER_KEYS: usize = 0x1000;
/// Offset of the registers' counters.
pub const REGISTER_COUNTS: usize = REGISTER_KEYS + 4 * REGISTERS;
/// How many registers have a counter of their own. The last one counts all others, and has the key [`OTHERS`].
pub const REGISTERS: usize = 256;
/// The key of all registers that have none.
pub const OTHERS: u32 = u32::MAX;
/// Offset of the log.
pub const LOG: usize = 0x2000;
/// Bytes of the log that are kept.
pub const LOG_SIZE: usize = 0x2000;
/// Bytes up to the end of the log: what is kept of a last start.
pub const CORE: usize = 0x4000;
/// Offset of what is kept of the last start in this memory.
pub const PREVIOUS: usize = CORE;
/// Offset of the room for the CPUs' blocks and traces.
pub const ROOM: usize = PREVIOUS + CORE;

const _: () = assert!(LOG + LOG_SIZE == CORE && HISTORY + EVENTS * Event::SIZE == REGISTER_KEYS);
const _: () = assert!(REGISTER_COUNTS + 4 * REGISTERS <= LOG && DEATH + Death::SIZE <= HISTORY);

/// In [`Live::log_claims`]: the position. Above are the number of lines that are being written.
pub const LOG_POSITION: u64 = (1 << 48) - 1;

/// The classes of exits, by the number in [`TraceRecord::class`] and in [`CpuBlock::exits`]. They are those of STATUS.
pub use crate::record::{EXIT_CLASSES, EXIT_NAMES};

record! {
    /// What stands for good, before the host runs.
    Header: 256 bytes;
    /// "EXEUNTBB"
    magic: u64,
    /// version of the layout, 1
    version: u16,
    /// CPUs of the machine
    cpus: u16,
    /// bytes of the box that are kept over a reset
    core_size: u32,
    /// address of this box, a multiple of 64 KiB
    address: u64,
    /// address of Exeunt's 2 MiB
    exeunt: u64,
    /// address of the first byte that belongs to the box: the same, or a multiple of 64 KiB before it
    start: u64,
    /// bytes from there to the end of the 2 MiB
    size: u64,
    /// address of the CPUs' blocks, one after the other in the order of the device tree
    cpu_blocks: u64,
    /// bytes of one CPU's block
    cpu_size: u32,
    /// bytes of a trace record
    trace_size: u32,
    /// address of the CPUs' traces, one after the other
    traces: u64,
    /// records in each CPU's trace, a power of two
    trace_records: u32,
    /// how often Exeunt has started in this memory without losing it, 1 for the first time
    starts: u32,
    /// CNTFRQ_EL0: ticks per second of every time in the box
    frequency: u64,
    /// CNTPCT_EL0 at Exeunt's first instruction
    started: u64,
    /// Exeunt's own version, as the call VERSION tells it
    exeunt_version: u32,
    /// version of the ABI, as the call VERSION tells it
    abi_version: u32,
    /// Exception level at which the host's first instruction runs: 1, or 2 for virtual EL2
    entry_level: u8,
    /// 1 if a debug build
    debug: u8,
    /// 0
    reserved: [u8; 6],
    /// Exeunt's options, as far as they have room; the rest is zeros
    options: [u8; 96],
    /// 0
    spare: [u64; 5],
    /// [`checksum`] of the bytes before it
    checksum: u64,
}

record! {
    /// What changes while Exeunt runs.
    Live: 256 bytes;
    /// position after the log's last byte that is begun, and in bits 63:48 how many lines are being written
    log_claims: u64,
    /// position after the log's last byte that is there
    log_end: u64,
    /// events that were written
    events: u64,
    /// 1 while exits are traced
    tracing: u32,
    /// what may make Exeunt leave: bit 0 locked, bit 1 resident over a kexec, bit 2 over a crash, bit 3 a LEAVE is
    /// under way; bits 31:16 CPUs outside
    control: u32,
    /// stores of the host's into the box that had no effect
    ignored_stores: u64,
    /// wild accesses of the host's to the memory of its crash kernel
    wild_accesses: u64,
    /// 0
    reserved: [u64; 26],
}

/// What [`Live::control`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a bit with a name")]
pub struct Control {
    /// LOCK was called.
    pub locked: bool,
    /// Exeunt stays at a kexec.
    pub kexec_resident: bool,
    /// Exeunt stays after a crash.
    pub crash_resident: bool,
    /// A LEAVE is under way.
    pub leaving: bool,
    /// So many CPUs are outside.
    pub outside: u16,
}

impl Control {
    /// Out of the box.
    #[must_use]
    pub const fn of(live: &Live) -> Self {
        Self {
            locked: live.control & 1 != 0,
            kexec_resident: live.control >> 1 & 1 != 0,
            crash_resident: live.control >> 2 & 1 != 0,
            leaving: live.control >> 3 & 1 != 0,
            outside: (live.control >> 16) as u16,
        }
    }
}

record! {
    /// Why Exeunt itself has died: the first exception or panic. A second one in the report of it changes the cause
    /// only.
    Death: 256 bytes;
    /// CNTPCT_EL0
    time: u64,
    /// one of [`Cause`]; 0 while it lives
    cause: u16,
    /// number of the CPU
    cpu: u16,
    /// 0
    reserved: u32,
    /// ESR_EL2
    esr: u64,
    /// ELR_EL2, from the start of the image on
    elr: u64,
    /// FAR_EL2
    far: u64,
    /// SPSR_EL2
    spsr: u64,
    /// SP_EL2
    sp: u64,
    /// return addresses, from the start of the image on; 0 after the last
    backtrace: [u64; 12],
    /// the reason in words, as far as it has room; the rest is zeros
    reason: [u8; 104],
}

record! {
    /// Something in Exeunt's life.
    Event: 32 bytes;
    /// CNTPCT_EL0
    time: u64,
    /// one of [`Kind`]
    kind: u16,
    /// number of the CPU
    cpu: u16,
    /// the lower half of the event's number plus 1: a place with another one was not written to its end
    sequence: u32,
    /// by the kind
    first: u64,
    /// by the kind
    second: u64,
}

record! {
    /// One CPU.
    CpuBlock: 640 bytes;
    /// affinity, as in MPIDR_EL1 and in the device tree
    mpidr: u64,
    /// as the record of STATUS has it: 0 off, 1 stub, 2 live, 3 leaving, 4 gone; as of the last time that it changed
    state: u8,
    /// Exception level at which the host's first instruction ran on it: 0 none yet, 1, or 2 for virtual EL2
    entry_level: u8,
    /// bit 3: the watchdog watches it (as in the record of STATUS); the others are 0
    flags: u16,
    /// one of [`Stop`]: why the registers below were kept
    stop: u32,
    /// what Exeunt does or has last done on this CPU, in at most eight characters; the rest is zeros
    crumb: [u8; 8],
    /// CNTPCT_EL0 of that
    crumb_time: u64,
    /// exits to EL2 by class ([`EXIT_NAMES`])
    exits: [u64; EXIT_CLASSES],
    /// trace records that were written; the ring has the last ones
    traced: u64,
    /// how often Exeunt left this CPU
    departures: u32,
    /// how often it came back
    returns: u32,
    /// CNTPCT_EL0 when the registers below were kept
    stop_time: u64,
    /// the host's x0 to x30
    x: [u64; 31],
    /// where the host was: ELR_EL2
    pc: u64,
    /// PSTATE: SPSR_EL2
    pstate: u64,
    /// ESR_EL2
    esr: u64,
    /// FAR_EL2
    far: u64,
    /// HPFAR_EL2
    hpfar: u64,
    /// SP_EL0
    sp_el0: u64,
    /// SP_EL1
    sp_el1: u64,
    /// SCTLR_EL1
    sctlr_el1: u64,
    /// TTBR0_EL1
    ttbr0_el1: u64,
    /// TTBR1_EL1
    ttbr1_el1: u64,
    /// TCR_EL1
    tcr_el1: u64,
    /// MAIR_EL1
    mair_el1: u64,
    /// VBAR_EL1
    vbar_el1: u64,
    /// ELR_EL1
    elr_el1: u64,
    /// SPSR_EL1
    spsr_el1: u64,
    /// ESR_EL1
    esr_el1: u64,
    /// FAR_EL1
    far_el1: u64,
    /// CONTEXTIDR_EL1
    contextidr_el1: u64,
    /// TPIDR_EL1
    tpidr_el1: u64,
    /// TPIDR_EL0
    tpidr_el0: u64,
    /// 0
    reserved: [u64; 10],
}

record! {
    /// One exit.
    TraceRecord: 48 bytes;
    /// CNTPCT_EL0 when Rust had it
    time: u64,
    /// ELR_EL2
    pc: u64,
    /// what it was about: of a call x0, of an access to a register the value written or 0, of an abort FAR_EL2
    subject: u64,
    /// how it was answered: of a call x0 afterwards, of a register read the value, of an abort the IPA; else 0
    answer: u64,
    /// ticks until the answer was there
    duration: u32,
    /// the lower half of the record's number plus 1: a place with another one was not written to its end
    sequence: u32,
    /// bits 31:0 of ESR_EL2; of an instruction that virtual EL2 has executed, which comes as an undefined one, what a
    /// trap of it would say: class 0x18 of a register or system instruction, 0x1a of ERET, 0x16 of HVC, 0x17 of SMC
    esr: u32,
    /// number of the class ([`EXIT_NAMES`])
    class: u8,
    /// [`IN_VIRTUAL_EL2`] and the others
    flags: u8,
    /// number of the CPU
    cpu: u16,
}

/// [`TraceRecord::flags`]: the host was in virtual EL2.
pub const IN_VIRTUAL_EL2: u8 = 1 << 0;
/// [`TraceRecord::flags`]: the host went on in hardware, at EL1, after this one.
pub const WENT_NATIVE: u8 = 1 << 1;
/// [`TraceRecord::flags`]: it did not come back from this one by the usual way: Exeunt left, or the CPU went off.
pub const NO_RETURN: u8 = 1 << 2;
/// [`TraceRecord::flags`]: the host got an exception for it.
pub const INJECTED: u8 = 1 << 3;

macro_rules! kinds {
    ($(#[doc = $doc:literal])* $type:ident: $($name:ident = $value:literal, $words:literal;)*) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum $type {
            $(#[doc = concat!("`", $words, "`")] $name = $value,)*
        }

        impl $type {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The one with this number.
            #[must_use]
            pub const fn of(number: u16) -> Option<Self> {
                match number {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// In words.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)*
                }
            }
        }
    };
}

kinds! {
    /// What [`Event::kind`] says. In brackets: what its two numbers are, if anything.
    Kind:
    Started = 1, "Exeunt starts [how often in this memory]";
    HostEntered = 2, "the host is entered [where, its x0]";
    CpuUp = 3, "a CPU comes up under Exeunt [where the host begins]";
    Native = 4, "the host leaves virtual EL2 [where it goes on, PSTATE]";
    CpuOff = 5, "a CPU goes off";
    Suspends = 6, "the host suspends the machine";
    SoftRestart = 7, "SOFT_RESTART [entry, 1 for a crash and 0 for a kexec, plus 2 if Exeunt stays]";
    ResetVectors = 8, "RESET_VECTORS: Exeunt leaves a CPU [vectors]";
    Leave = 9, "LEAVE: Exeunt has left all CPUs [how many]";
    LeaveFailed = 10, "LEAVE failed [error, as in x0]";
    CameBack = 11, "Exeunt has come back to a CPU";
    Locked = 12, "LOCK";
    Policy = 13, "RESTART_POLICY [for a kexec, for a crash]";
    LentToKvm = 14, "EL2 is lent to the host's KVM [vectors]";
    PowerOff = 15, "the host turns the machine off";
    Reset = 16, "the host resets the machine";
    Died = 17, "Exeunt dies [cause]";
    FoundBox = 18, "the black box of the last start is kept [its starts]";
    Tracing = 19, "exits are traced, or no longer [1 or 0]";
    Left = 20, "Exeunt has left a CPU along with others [vectors]";
    Stopped = 21, "the host has crashed, and all other CPUs are stopped [how many were caught, how many never came]";
    Panic = 22, "the host is to panic on a CPU [where it was, PSTATE]";
    CrashKernel = 23, "Exeunt starts the crash kernel itself [its entry, where the host was]";
    Hang = 26, "a CPU hangs [where, the seconds of the watchdog, or 0 after a break on the console]";
    GivenUp = 27, "the host hangs, and Exeunt gives it up [where it was, 1 if the machine is reset]";
    Wild = 30, "the host accesses the memory of its crash kernel [PC, address]";
}

kinds! {
    /// What [`CpuBlock::stop`] says.
    Stop:
    None = 0, "it was not stopped";
    SoftRestart = 1, "it called SOFT_RESTART";
    Off = 2, "it went off by CPU_OFF";
    Left = 3, "Exeunt left it";
    Died = 4, "Exeunt died on it";
    PowerOff = 5, "it turned the machine off, or reset it";
    Caught = 6, "it was caught while it ran";
    Crashed = 7, "it began to execute the crash kernel, at EL1";
    Forced = 8, "Exeunt started the crash kernel on it, instead of its host";
    GivenUp = 9, "it hung, and Exeunt gave its host up";
}

kinds! {
    /// What [`Death::cause`] says.
    Cause:
    None = 0, "Exeunt lives";
    Exception = 1, "an exception at EL2";
    Panic = 2, "a panic of Exeunt's code";
    Double = 3, "an exception while another one was reported";
}

/// The key of a system register or instruction, from its encoding.
#[must_use]
pub const fn register_key(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> u32 {
    (op0 as u32) << 14 | (op1 as u32) << 11 | (crn as u32) << 7 | (crm as u32) << 3 | op2 as u32
}

/// FNV-1a, 64 bits, of bytes taken eight at a time as little-endian numbers: [`Header::checksum`] over what stands
/// before it.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325;
    for word in bytes.as_chunks::<8>().0 {
        sum = (sum ^ u64::from_le_bytes(*word)).wrapping_mul(0x100_0000_01b3);
    }
    sum
}

/// Why bytes are no box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It does not begin with [`MAGIC`].
    NoMagic,
    /// The header's checksum is another one: it was written over, or not to its end.
    Checksum,
    /// The layout is of another kind, with this version.
    Version(u16),
    /// It is cut off: so many bytes are wanted.
    TooShort(usize),
    /// The header contradicts itself.
    Contradiction,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoMagic => f.write_str("no black box: the magic is missing"),
            Self::Checksum => f.write_str("the black box's header is damaged: its checksum is wrong"),
            Self::Version(version) => write!(f, "the black box has version {version}, and this reader knows {VERSION}"),
            Self::TooShort(wanted) => write!(f, "the black box is cut off: {wanted} bytes are wanted"),
            Self::Contradiction => f.write_str("the black box's header contradicts itself"),
        }
    }
}

impl core::error::Error for Error {}

/// The core of a box, or of the one before it: everything but the CPUs.
#[derive(Clone, Copy, Debug)]
pub struct Core<'a> {
    bytes: &'a [u8],
    header: Header,
}

impl Header {
    /// The header at the start of `bytes`, if it is one and whole.
    ///
    /// # Errors
    /// [`Error`], every kind.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let Some(bytes) = bytes.first_chunk::<{ Self::SIZE }>() else { return Err(Error::TooShort(Self::SIZE)) };
        let header = Self::from_bytes(bytes);
        if header.magic != MAGIC {
            return Err(Error::NoMagic);
        }
        if header.checksum != checksum(&bytes[..Self::SIZE - 8]) {
            return Err(Error::Checksum);
        }
        if header.version < VERSION {
            return Err(Error::Version(header.version));
        }
        let end = header.start.checked_add(header.size).ok_or(Error::Contradiction)?;
        let inside = |address: u64, size: u64| {
            address >= header.start && address.checked_add(size).is_some_and(|last| last <= end)
        };
        let cpus = u64::from(header.cpus);
        let fits = header.core_size as usize >= CORE
            && header.size <= crate::RESERVATION
            && inside(header.address, SIZE as u64)
            && header.cpu_size as usize >= CpuBlock::SIZE
            && header.trace_size as usize >= TraceRecord::SIZE
            && (header.trace_records == 0 || header.trace_records.is_power_of_two())
            && inside(header.cpu_blocks, cpus.saturating_mul(header.cpu_size.into()))
            && inside(
                header.traces,
                cpus.saturating_mul(header.trace_size.into()).saturating_mul(header.trace_records.into()),
            );
        if fits { Ok(header) } else { Err(Error::Contradiction) }
    }
}

impl<'a> Core<'a> {
    /// The core at the start of `bytes`.
    ///
    /// # Errors
    /// [`Error`], every kind.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let header = Header::read(bytes)?;
        let bytes = bytes.get(..CORE).ok_or(Error::TooShort(CORE))?;
        Ok(Self { bytes, header })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// What changes.
    #[must_use]
    pub fn live(&self) -> Live {
        Live::from_bytes(at(self.bytes, LIVE))
    }

    /// Why Exeunt died, if it did.
    #[must_use]
    pub fn death(&self) -> Option<Death> {
        let death = Death::from_bytes(at(self.bytes, DEATH));
        (death.cause != 0).then_some(death)
    }

    /// The events that are kept, the oldest first; one that was not written to its end is left out.
    pub fn events(&self) -> impl Iterator<Item = Event> + 'a {
        let (bytes, count) = (self.bytes, self.live().events);
        (count.saturating_sub(EVENTS as u64)..count).filter_map(move |number| {
            let place = HISTORY + (number % EVENTS as u64) as usize * Event::SIZE;
            let event = Event::from_bytes(at(bytes, place));
            (event.sequence == (number as u32).wrapping_add(1)).then_some(event)
        })
    }

    /// Keys and counters of the registers that have counted anything.
    pub fn registers(&self) -> impl Iterator<Item = (u32, u32)> + 'a {
        let bytes = self.bytes;
        let number = move |start: usize, index: usize| u32::from_le_bytes(*at(bytes, start + 4 * index));
        (0..REGISTERS)
            .map(move |index| (number(REGISTER_KEYS, index), number(REGISTER_COUNTS, index)))
            .filter(|&(_, count)| count != 0)
    }

    /// The log that is kept, in the two pieces in which the ring has it, and how many bytes were written before.
    #[must_use]
    pub fn log(&self) -> ([&'a [u8]; 2], u64) {
        let ring = &self.bytes[LOG..LOG + LOG_SIZE];
        let live = self.live();
        // Of a line that was being written the beginning is there.
        let end = live.log_end.max(live.log_claims & LOG_POSITION) & LOG_POSITION;
        let start = end.saturating_sub(LOG_SIZE as u64);
        let split = (end % LOG_SIZE as u64) as usize;
        if end <= LOG_SIZE as u64 {
            ([&ring[..end as usize], &[]], 0)
        } else {
            ([&ring[split..], &ring[..split]], start)
        }
    }
}

/// The bytes at `offset`, which the caller knows to be inside.
fn at<const N: usize>(bytes: &[u8], offset: usize) -> &[u8; N] {
    match bytes.get(offset..).and_then(|rest| rest.first_chunk()) {
        Some(chunk) => chunk,
        None => &[0; N],
    }
}

/// A whole box: all bytes from [`Header::start`] on to the end of Exeunt's 2 MiB.
#[derive(Clone, Copy, Debug)]
pub struct BlackBox<'a> {
    bytes: &'a [u8],
    core: Core<'a>,
}

impl<'a> BlackBox<'a> {
    /// The box whose bytes, from [`Header::start`] on, are these. `start` is the address of the first.
    ///
    /// # Errors
    /// [`Error`], every kind.
    pub fn new(bytes: &'a [u8], start: u64) -> Result<Self, Error> {
        let core = bytes.len().checked_sub(SIZE).ok_or(Error::TooShort(SIZE))?;
        let core = Core::new(&bytes[core..])?;
        let header = core.header();
        if header.start != start {
            return Err(Error::Contradiction);
        }
        if bytes.len() as u64 != header.size {
            return Err(Error::TooShort(header.size as usize));
        }
        Ok(Self { bytes, core })
    }

    /// The core.
    #[must_use]
    pub const fn core(&self) -> &Core<'a> {
        &self.core
    }

    /// What is kept of the last start in this memory.
    #[must_use]
    pub fn previous(&self) -> Option<Core<'a>> {
        let place = self.bytes.len() - SIZE + PREVIOUS;
        Core::new(&self.bytes[place..place + CORE]).ok()
    }

    fn place(&self, address: u64, index: u64, size: u32) -> usize {
        (address - self.core.header.start + index * u64::from(size)) as usize
    }

    /// A CPU's block; nothing past the last CPU.
    #[must_use]
    pub fn cpu(&self, cpu: u16) -> Option<CpuBlock> {
        let header = self.core.header();
        (cpu < header.cpus)
            .then(|| CpuBlock::from_bytes(at(self.bytes, self.place(header.cpu_blocks, cpu.into(), header.cpu_size))))
    }

    /// A CPU's trace, the oldest record first; one that was not written to its end is left out. How many were lost is
    /// [`CpuBlock::traced`] minus how many this gives.
    pub fn trace(&self, cpu: u16) -> impl Iterator<Item = TraceRecord> + 'a {
        let header = *self.core.header();
        let written = self.cpu(cpu).map_or(0, |block| block.traced);
        let records = u64::from(header.trace_records);
        let this = *self;
        (written.saturating_sub(records)..written).filter_map(move |number| {
            let index = u64::from(cpu) * records + number % records.max(1);
            let record = TraceRecord::from_bytes(at(this.bytes, this.place(header.traces, index, header.trace_size)));
            (record.sequence == (number as u32).wrapping_add(1)).then_some(record)
        })
    }
}

/// Text that fills a field as far as it goes, without the zeros after it; what is no UTF-8 ends it.
#[must_use]
pub fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    match core::str::from_utf8(&bytes[..end]) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// Every record of the box with its place, for the documentation.
pub const RECORDS: &[(&str, usize, &[Field])] = &[
    ("Header", Header::SIZE, Header::FIELDS),
    ("Live", Live::SIZE, Live::FIELDS),
    ("Death", Death::SIZE, Death::FIELDS),
    ("Event", Event::SIZE, Event::FIELDS),
    ("CpuBlock", CpuBlock::SIZE, CpuBlock::FIELDS),
    ("TraceRecord", TraceRecord::SIZE, TraceRecord::FIELDS),
];
