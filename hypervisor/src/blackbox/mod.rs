//! The black box: what Exeunt writes into the memory that a dump, a program in the host and the next start read.
//!
//! Owns how that memory is written, and where the parts are that depend on the machine. What its bytes mean is the
//! contract's ([`guest_abi::blackbox`]). Whoever writes here trusts nothing that it reads back: once Exeunt has left,
//! the host can change all of it, and what was wrong then is wrong text and nothing worse.
//!
//! | file | what it owns |
//! |---|---|
//! | `place.rs` | how large the box is, and where the CPUs' parts are in it |
//! | `store.rs` | which stores of the host's into it have no effect |
//! | `trace.rs` | what a trace record says of an exit |

mod place;
pub mod store;
#[cfg(test)]
mod tests;
pub mod trace;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use guest_abi::blackbox::{
    CORE, CpuBlock, DEATH, Death, EVENTS, Event, HISTORY, Header, LIVE, LOG, LOG_SIZE, Live, MAGIC, NO_RETURN, OTHERS,
    PREVIOUS, REGISTER_COUNTS, REGISTER_KEYS, REGISTERS, ROOM, SIZE, TraceRecord, VERSION, checksum, register_key,
};
pub use guest_abi::blackbox::{Cause, Kind, Stop};
use guest_abi::record::CPU_WATCHED;
pub use place::Place;

use crate::counters::{Counters, Exit};
use crate::own_calls::log::{LogRing, Positions};
use crate::syndrome::Encoding;

/// Bytes of [`Death::reason`].
pub const REASON: usize = Death::SIZE - core::mem::offset_of!(Death, reason);

/// The last 64 KiB of Exeunt's 2 MiB.
#[derive(Debug)]
#[repr(C, align(0x1_0000))]
pub struct Memory {
    header: [AtomicU64; Header::SIZE / 8],
    positions: Positions,
    events: AtomicU64,
    tracing: AtomicU32,
    control: AtomicU32,
    ignored_stores: AtomicU64,
    wild_accesses: AtomicU64,
    live: [AtomicU64; Live::SIZE / 8 - 6],
    death: [AtomicU64; Death::SIZE / 8],
    between: [AtomicU64; (HISTORY - DEATH - Death::SIZE) / 8],
    history: [[AtomicU64; Event::SIZE / 8]; EVENTS],
    keys: [AtomicU32; REGISTERS],
    counts: [AtomicU32; REGISTERS],
    unused: [AtomicU64; (LOG - REGISTER_COUNTS) / 8 - REGISTERS / 2],
    log: [AtomicU8; LOG_SIZE],
    previous: [AtomicU64; CORE / 8],
    room: [AtomicU64; (SIZE - ROOM) / 8],
}

const _: () = {
    assert!(size_of::<Memory>() == SIZE);
    assert!(core::mem::offset_of!(Memory, positions) == LIVE);
    assert!(core::mem::offset_of!(Memory, events) == LIVE + core::mem::offset_of!(Live, events));
    assert!(core::mem::offset_of!(Memory, tracing) == LIVE + core::mem::offset_of!(Live, tracing));
    assert!(core::mem::offset_of!(Memory, control) == LIVE + core::mem::offset_of!(Live, control));
    assert!(core::mem::offset_of!(Memory, ignored_stores) == LIVE + core::mem::offset_of!(Live, ignored_stores));
    assert!(core::mem::offset_of!(Memory, wild_accesses) == LIVE + core::mem::offset_of!(Live, wild_accesses));
    assert!(core::mem::offset_of!(Memory, death) == DEATH);
    assert!(core::mem::offset_of!(Memory, history) == HISTORY);
    assert!(core::mem::offset_of!(Memory, keys) == REGISTER_KEYS);
    assert!(core::mem::offset_of!(Memory, counts) == REGISTER_COUNTS);
    assert!(core::mem::offset_of!(Memory, log) == LOG);
    assert!(core::mem::offset_of!(Memory, previous) == PREVIOUS);
    assert!(core::mem::offset_of!(Memory, room) == ROOM);
};

/// What [`Header`] does not know by itself.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Address of Exeunt's 2 MiB.
    pub exeunt: u64,
    /// Where everything is.
    pub place: Place,
    /// CPUs of the machine.
    pub cpus: u16,
    /// How often Exeunt has started in this memory.
    pub starts: u32,
    /// CNTFRQ_EL0.
    pub frequency: u64,
    /// CNTPCT_EL0 at Exeunt's first instruction.
    pub started: u64,
    /// As the call VERSION has them.
    pub versions: [u32; 2],
    /// Where the host's first instruction runs.
    pub entry_level: u8,
    /// A debug build.
    pub debug: bool,
    /// Exeunt's options.
    pub options: &'a [u8],
}

impl Memory {
    /// The log in it.
    #[must_use]
    pub const fn log(&'static self) -> LogRing<'static> {
        LogRing::new(&self.log, &self.positions)
    }

    /// Begins a new box at `address`, which is this memory's. Keeps the core of the one that is there, if it is whole,
    /// and says how often Exeunt had started then; 0 if nothing is kept.
    ///
    /// Only loads and stores, each aligned: the MMU may be off. Nobody else uses the memory yet.
    pub fn begin(&self, address: u64) -> u32 {
        let starts = self.last_starts(address);
        if starts == 0 {
            self.previous[0].store(0, Ordering::Relaxed);
        } else {
            // The log takes half of it, and is copied by words too.
            for (place, word) in self.previous.iter().zip(self.core()) {
                place.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        // What has no number that says whether it is valid. Of the history that is how many were written, of the log
        // where it ends.
        let start = core::ptr::from_ref(self).cast_mut();
        // SAFETY: parts of this structure, which consists of atomics, for which zeros are numbers as any; nobody else
        // uses it yet. As one operation, which writes more at a time than a loop over them.
        unsafe {
            start.cast::<u8>().write_bytes(0, DEATH + Death::SIZE);
            (&raw mut (*start).counts).write_bytes(0, 1);
        }
        starts
    }

    /// The parts that [`Self::begin`] writes if it keeps nothing, as offsets and bytes.
    pub const BEGUN: [(usize, usize); 3] =
        [(0, DEATH + Death::SIZE), (REGISTER_COUNTS, 4 * REGISTERS), (PREVIOUS, size_of::<u64>())];

    /// Whether there may be a box of a last start, whose core [`Self::begin`] would read.
    pub fn may_hold_a_box(&self) -> bool {
        self.header[0].load(Ordering::Relaxed) == MAGIC
    }

    /// The words of the core, in their order.
    fn core(&self) -> impl Iterator<Item = &AtomicU64> {
        let start = core::ptr::from_ref(self).cast::<AtomicU64>();
        // SAFETY: the core is the beginning of this structure, which has no padding, is aligned, and consists of
        // atomics: shared references may read and write all of it. Words of bytes and half words are accessed so by one
        // CPU alone, before any other has this memory.
        (0..CORE / 8).map(move |index| unsafe { &*start.add(index) })
    }

    /// [`Header::starts`] of the box that is there, if its header is whole and says that it lies here.
    fn last_starts(&self, address: u64) -> u32 {
        if self.header[0].load(Ordering::Relaxed) != MAGIC {
            return 0;
        }
        let mut bytes = [0; Header::SIZE];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.header) {
            *bytes = word.load(Ordering::Relaxed).to_le_bytes();
        }
        match Header::read(&bytes) {
            Ok(header) if header.address == address => header.starts.max(1),
            _ => 0,
        }
    }

    /// Writes the header: from now on this is a box. After everything that it tells of is there.
    pub fn publish(&self, address: u64, facts: &Facts) {
        let place = facts.place;
        let mut header = Header {
            magic: MAGIC,
            version: VERSION,
            cpus: facts.cpus,
            core_size: CORE as u32,
            address,
            exeunt: facts.exeunt,
            start: place.start,
            size: place.size,
            cpu_blocks: place.cpu_blocks,
            cpu_size: CpuBlock::SIZE as u32,
            trace_size: TraceRecord::SIZE as u32,
            traces: place.traces,
            trace_records: place.trace_records,
            starts: facts.starts,
            frequency: facts.frequency,
            started: facts.started,
            exeunt_version: facts.versions[1],
            abi_version: facts.versions[0],
            entry_level: facts.entry_level,
            debug: facts.debug.into(),
            ..Header::default()
        };
        let length = facts.options.len().min(header.options.len());
        header.options[..length].copy_from_slice(&facts.options[..length]);
        header.checksum = checksum(&header.to_bytes()[..Header::SIZE - 8]);
        // The magic last: what has it, is whole.
        for (word, bytes) in self.header.iter().zip(header.to_bytes().as_chunks::<8>().0).rev() {
            word.store(u64::from_le_bytes(*bytes), Ordering::Release);
        }
    }

    /// Adds an event to the history; from any CPU, once exclusive accesses work.
    pub fn event(&self, time: u64, cpu: u16, kind: Kind, values: [u64; 2]) {
        let number = self.events.fetch_add(1, Ordering::Relaxed);
        let place = &self.history[number as usize % EVENTS];
        // Nobody takes what is there for this event, nor for the one before, until it is complete.
        place[1].store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        place[0].store(time, Ordering::Relaxed);
        place[2].store(values[0], Ordering::Relaxed);
        place[3].store(values[1], Ordering::Relaxed);
        let sequence = u64::from((number as u32).wrapping_add(1));
        place[1].store(sequence << 32 | u64::from(cpu) << 16 | kind as u64, Ordering::Release);
    }

    /// Says which registers are counted.
    pub fn name_registers(&self, keys: &[u32; REGISTERS]) {
        for (place, key) in self.keys.iter().zip(keys) {
            place.store(*key, Ordering::Relaxed);
        }
    }

    /// Counts accesses to the register with this number; to one without, if it is not one of theirs.
    pub fn count_register(&self, number: usize, accesses: u32) {
        self.counts[number.min(REGISTERS - 1)].fetch_add(accesses, Ordering::Relaxed);
    }

    /// Counts a store of the host's into the box that had no effect, and says how many there were before.
    pub fn count_ignored_store(&self) -> u64 {
        self.ignored_stores.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a wild access of the host's, and says how many there are with this one.
    pub fn count_wild(&self) -> u64 {
        self.wild_accesses.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Notes whether exits are traced.
    pub fn set_tracing(&self, tracing: bool) {
        self.tracing.store(tracing.into(), Ordering::Relaxed);
    }

    /// Notes the control word.
    pub fn set_control(&self, control: u32) {
        self.control.store(control, Ordering::Relaxed);
    }

    /// Why Exeunt dies on CPU number `cpu`, if nothing has been written about that yet. Loads and stores only: whatever
    /// has broken, this should work.
    ///
    /// `registers` are [`Death::esr`] and those after it.
    pub fn die(&self, time: u64, cpu: u16, cause: Cause, registers: [u64; 5], reason: &[u8; REASON]) {
        const FIRST: usize = core::mem::offset_of!(Death, esr) / 8;
        let [when, why, ..] = &self.death;
        if why.load(Ordering::Relaxed) & 0xffff != 0 {
            return;
        }
        when.store(time, Ordering::Relaxed);
        why.store(u64::from(cpu) << 16 | cause as u64, Ordering::Relaxed);
        for (place, value) in self.death[FIRST..].iter().zip(registers) {
            place.store(value, Ordering::Relaxed);
        }
        let (text, words) = (&self.death[core::mem::offset_of!(Death, reason) / 8..], reason.as_chunks::<8>().0);
        for (place, bytes) in text.iter().zip(words) {
            place.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
    }

    /// Another exception has come in the report of the first.
    pub fn die_again(&self) {
        let [_, cause, ..] = &self.death;
        cause.store(cause.load(Ordering::Relaxed) & !0xffff | Cause::Double as u64, Ordering::Relaxed);
    }

    /// Adds a return address to the backtrace of the death.
    pub fn add_to_backtrace(&self, number: usize, address: u64) {
        let first = core::mem::offset_of!(Death, backtrace) / 8;
        if let Some(place) = self.death.get(first..first + 12).and_then(|places| places.get(number)) {
            place.store(address, Ordering::Relaxed);
        }
    }
}

/// The keys of registers, each in the place of its number; without a number are all others.
#[must_use]
pub const fn keys<const N: usize>(registers: &[Encoding; N]) -> [u32; REGISTERS] {
    let mut keys = [OTHERS; REGISTERS];
    let mut index = 0;
    while index < N {
        let Encoding { op0, op1, crn, crm, op2 } = registers[index];
        keys[index] = register_key(op0, op1, crn, crm, op2);
        index += 1;
    }
    keys
}

/// Text cut to what a record has room for.
#[must_use]
pub fn cut<const N: usize>(text: fmt::Arguments) -> [u8; N] {
    struct Room<'a>(&'a mut [u8]);

    impl Write for Room<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let length = text.len().min(self.0.len());
            let (now, later) = core::mem::take(&mut self.0).split_at_mut(length);
            now.copy_from_slice(&text.as_bytes()[..length]);
            self.0 = later;
            Ok(())
        }
    }

    let mut bytes = [0; N];
    // Never an error: what has no room is left out.
    let _ = Room(&mut bytes).write_fmt(text);
    bytes
}

/// One CPU's block, as its CPU writes it.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Block {
    mpidr: AtomicU64,
    /// State, entry level and [`Stop`].
    state: AtomicU64,
    crumb: AtomicU64,
    crumb_time: AtomicU64,
    /// The CPU's exits.
    pub counters: Counters,
    more_counters: [AtomicU64; 4],
    traced: AtomicU64,
    /// Departures and returns.
    ways: AtomicU64,
    stop_time: AtomicU64,
    kept: [AtomicU64; KEPT],
    reserved: [AtomicU64; 10],
}

/// How many registers are kept of a CPU that stops: x0 to x30, and those after them in [`CpuBlock`].
pub const KEPT: usize = (CpuBlock::SIZE - core::mem::offset_of!(CpuBlock, x)) / 8 - 10;

const _: () = {
    assert!(size_of::<Block>() == CpuBlock::SIZE);
    assert!(core::mem::offset_of!(Block, counters) == core::mem::offset_of!(CpuBlock, exits));
    assert!(core::mem::offset_of!(Block, traced) == core::mem::offset_of!(CpuBlock, traced));
    assert!(core::mem::offset_of!(Block, kept) == core::mem::offset_of!(CpuBlock, x));
};

impl Block {
    /// Of no CPU.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            mpidr: AtomicU64::new(0),
            state: AtomicU64::new(0),
            crumb: AtomicU64::new(0),
            crumb_time: AtomicU64::new(0),
            counters: Counters::new(),
            more_counters: [const { AtomicU64::new(0) }; _],
            traced: AtomicU64::new(0),
            ways: AtomicU64::new(0),
            stop_time: AtomicU64::new(0),
            kept: [const { AtomicU64::new(0) }; _],
            reserved: [const { AtomicU64::new(0) }; _],
        }
    }

    /// Says which CPU it is.
    pub fn set_mpidr(&self, mpidr: u64) {
        self.mpidr.store(mpidr, Ordering::Relaxed);
    }

    /// Notes what Exeunt does on this CPU, in at most eight characters.
    pub fn leave_crumb(&self, time: u64, crumb: [u8; 8]) {
        self.crumb.store(u64::from_le_bytes(crumb), Ordering::Relaxed);
        self.crumb_time.store(time, Ordering::Relaxed);
    }

    /// Notes what the CPU's EL2 is, at which level its host began, and how often Exeunt has left it and come back.
    pub fn set_state(&self, state: u8, entry_level: u8, departures: u32, returns: u32) {
        let others = self.state.load(Ordering::Relaxed) & !0xffff;
        self.state.store(others | u64::from(entry_level) << 8 | u64::from(state), Ordering::Relaxed);
        self.ways.store(u64::from(returns) << 32 | u64::from(departures), Ordering::Relaxed);
    }

    /// Notes whether the watchdog watches the CPU.
    pub fn set_watched(&self, is_watched: bool) {
        const WATCHED: u64 = (CPU_WATCHED as u64) << 16;
        let others = self.state.load(Ordering::Relaxed) & !WATCHED;
        self.state.store(others | if is_watched { WATCHED } else { 0 }, Ordering::Relaxed);
    }

    /// Keeps the registers of a CPU that stops.
    pub fn keep(&self, time: u64, stop: Stop, registers: &[u64; KEPT]) {
        for (place, &value) in self.kept.iter().zip(registers) {
            place.store(value, Ordering::Relaxed);
        }
        self.stop_time.store(time, Ordering::Relaxed);
        let state = self.state.load(Ordering::Relaxed) & 0xffff_ffff;
        self.state.store((stop as u64) << 32 | state, Ordering::Release);
    }

    /// What [`Self::keep`] has kept last of register number `register`, as far as it was seen.
    #[must_use]
    pub fn kept(&self, register: usize) -> u64 {
        self.kept.get(register).map_or(0, |value| value.load(Ordering::Relaxed))
    }
}

impl Default for Block {
    fn default() -> Self {
        Self::new()
    }
}

/// A trace record in memory.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Slot {
    time: AtomicU64,
    pc: AtomicU64,
    subject: AtomicU64,
    answer: AtomicU64,
    /// Duration, and the sequence in the high half: whole in one store.
    order: AtomicU64,
    esr: AtomicU32,
    class: AtomicU8,
    flags: AtomicU8,
    cpu: AtomicU16,
}

const _: () = {
    assert!(size_of::<Slot>() == TraceRecord::SIZE);
    assert!(core::mem::offset_of!(Slot, order) == core::mem::offset_of!(TraceRecord, duration));
    assert!(core::mem::offset_of!(Slot, esr) == core::mem::offset_of!(TraceRecord, esr));
    assert!(core::mem::offset_of!(Slot, flags) == core::mem::offset_of!(TraceRecord, flags));
    assert!(core::mem::offset_of!(Slot, cpu) == core::mem::offset_of!(TraceRecord, cpu));
};

/// One CPU's trace. Only this CPU writes it.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// Its block, which tells how many records were written.
    pub block: &'a Block,
    /// How many records were written, where the host cannot reach it.
    pub written: &'a AtomicU64,
    /// The ring.
    pub ring: &'a [Slot],
}

/// What of a record is known at its beginning.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    /// CNTPCT_EL0.
    pub time: u64,
    /// ELR_EL2.
    pub pc: u64,
    /// [`TraceRecord::subject`].
    pub subject: u64,
    /// [`TraceRecord::esr`].
    pub esr: u32,
    /// [`TraceRecord::class`].
    pub class: Exit,
    /// [`TraceRecord::flags`], and [`NO_RETURN`] until it is answered.
    pub flags: u8,
    /// [`TraceRecord::cpu`].
    pub cpu: u16,
}

/// A record that is written and not answered yet.
#[derive(Clone, Copy, Debug)]
pub struct Open<'a> {
    slot: Option<&'a Slot>,
    sequence: u64,
    time: u64,
    flags: u8,
}

impl<'a> Trace<'a> {
    /// Adds a record, whose answer is not known yet.
    #[must_use]
    #[inline]
    pub fn begin(&self, record: &Beginning) -> Open<'a> {
        let number = self.written.load(Ordering::Relaxed);
        let written = number.wrapping_add(1);
        let sequence = written << 32;
        let slot = self.ring.get(number as usize & self.ring.len().wrapping_sub(1));
        if let Some(slot) = slot {
            // The record that was there is none from now on.
            slot.order.store(0, Ordering::Relaxed);
            fence(Ordering::Release);
            slot.time.store(record.time, Ordering::Relaxed);
            slot.pc.store(record.pc, Ordering::Relaxed);
            slot.subject.store(record.subject, Ordering::Relaxed);
            slot.answer.store(0, Ordering::Relaxed);
            slot.esr.store(record.esr, Ordering::Relaxed);
            slot.class.store(record.class as u8, Ordering::Relaxed);
            slot.flags.store(record.flags | NO_RETURN, Ordering::Relaxed);
            slot.cpu.store(record.cpu, Ordering::Relaxed);
            slot.order.store(sequence, Ordering::Release);
        }
        self.written.store(written, Ordering::Relaxed);
        self.block.traced.store(written, Ordering::Release);
        Open { slot, sequence, time: record.time, flags: record.flags }
    }
}

impl Open<'_> {
    /// The exit was another one than its syndrome has told.
    #[inline]
    pub fn set_esr(&self, esr: u32) {
        if let Some(slot) = self.slot {
            slot.esr.store(esr, Ordering::Relaxed);
        }
    }

    /// What it was about is known now.
    #[inline]
    pub fn set_subject(&self, value: u64) {
        if let Some(slot) = self.slot {
            slot.subject.store(value, Ordering::Relaxed);
        }
    }

    /// The exit is answered, at the time `now`, and these flags have come to it.
    #[inline]
    pub fn end(self, now: u64, answer: u64, flags: u8) {
        if let Some(slot) = self.slot {
            let duration = now.wrapping_sub(self.time).min(u32::MAX.into());
            slot.answer.store(answer, Ordering::Relaxed);
            slot.flags.store(self.flags | flags, Ordering::Relaxed);
            slot.order.store(self.sequence | duration, Ordering::Release);
        }
    }
}
