//! Boxes that were never written by EL2: a boot, a kexec and a crash, made up, for the tests of whoever reads a box.
//!
//! Owns the values. The layout is [`guest_abi::blackbox`]'s, and what a real box holds EL2's.

use guest_abi::blackbox::{
    CORE, Cause, CpuBlock, DEATH, Death, EVENTS, Event, HISTORY, Header, IN_VIRTUAL_EL2, INJECTED, Kind, LIVE, LOG,
    LOG_SIZE, Live, MAGIC, NO_RETURN, OTHERS, PREVIOUS, REGISTER_COUNTS, REGISTER_KEYS, SIZE, Stop, TraceRecord,
    VERSION, WENT_NATIVE, checksum, register_key,
};
use guest_abi::{RESERVATION, stub, vendor};
use hypervisor::syndrome::{EC_SHIFT, ExceptionClass, IL};

/// Ticks per second, QEMU's.
pub const FREQUENCY: u64 = 62_500_000;
/// The counter when the made-up Exeunt starts.
pub const STARTED: u64 = 1_000_000;
/// The address of its 2 MiB.
pub const EXEUNT: u64 = 0x4020_0000;
/// The address of its box.
pub const ADDRESS: u64 = EXEUNT + RESERVATION - SIZE as u64;

/// A box that is being made.
#[derive(Clone, Debug)]
pub struct Builder {
    /// What will be its header, but for the checksum.
    pub header: Header,
    /// What changes.
    pub live: Live,
    /// Why Exeunt has died.
    pub death: Death,
    /// The CPUs.
    pub cpus: Vec<CpuBlock>,
    /// Registers by key.
    pub registers: Vec<(u32, u32)>,
    /// The start before.
    pub previous: Option<Vec<u8>>,
    events: Vec<Event>,
    traces: Vec<Vec<TraceRecord>>,
    log: Vec<u8>,
}

impl Builder {
    /// An empty one, for so many CPUs with so many records each.
    ///
    /// # Panics
    /// They have no room in 2 MiB.
    #[must_use]
    pub fn new(cpus: u16, trace_records: u32) -> Self {
        let blocks = usize::from(cpus) * CpuBlock::SIZE;
        let traces = usize::from(cpus) * trace_records as usize * TraceRecord::SIZE;
        let before = (blocks + traces).next_multiple_of(SIZE);
        assert!(before + SIZE < RESERVATION as usize);
        let start = ADDRESS - before as u64;
        let mut options = [0; 96];
        options[..11].copy_from_slice(b"trace stats");
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            cpus,
            core_size: CORE as u32,
            address: ADDRESS,
            exeunt: EXEUNT,
            start,
            size: (before + SIZE) as u64,
            cpu_blocks: start,
            cpu_size: CpuBlock::SIZE as u32,
            trace_size: TraceRecord::SIZE as u32,
            traces: start + blocks as u64,
            trace_records,
            starts: 1,
            frequency: FREQUENCY,
            started: STARTED,
            exeunt_version: 1 << 16,
            abi_version: vendor::ABI_VERSION,
            entry_level: 2,
            options,
            ..Header::default()
        };
        let cpu = |index: u16| CpuBlock { mpidr: index.into(), ..CpuBlock::default() };
        Self {
            header,
            live: Live { tracing: 1, ..Live::default() },
            death: Death::default(),
            cpus: (0..cpus).map(cpu).collect(),
            registers: Vec::new(),
            previous: None,
            events: Vec::new(),
            traces: vec![Vec::new(); usize::from(cpus)],
            log: Vec::new(),
        }
    }

    /// Ticks at so many microseconds after the start.
    #[must_use]
    pub const fn at(micros: u64) -> u64 {
        STARTED + micros * (FREQUENCY / 100_000) / 10
    }

    /// Adds an event.
    pub fn event(&mut self, micros: u64, cpu: u16, kind: Kind, first: u64, second: u64) -> &mut Self {
        let sequence = self.events.len() as u32 + 1;
        self.events.push(Event { time: Self::at(micros), kind: kind as u16, cpu, sequence, first, second });
        self
    }

    /// Adds an exit, counts it, and sets its sequence, time and CPU.
    pub fn exit(&mut self, micros: u64, cpu: u16, record: TraceRecord) -> &mut Self {
        let trace = &mut self.traces[usize::from(cpu)];
        let sequence = trace.len() as u32 + 1;
        trace.push(TraceRecord { time: Self::at(micros), cpu, sequence, ..record });
        let block = &mut self.cpus[usize::from(cpu)];
        block.traced += 1;
        if let Some(count) = block.exits.get_mut(usize::from(record.class)) {
            *count += 1;
        }
        self
    }

    /// Adds to the log.
    pub fn log(&mut self, text: &str) -> &mut Self {
        self.log.extend(text.as_bytes());
        self
    }

    /// The bytes, from the box's start on.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.header.size as usize];
        let core = bytes.len() - SIZE;
        let put = |bytes: &mut [u8], offset: usize, from: &[u8]| {
            bytes[offset..offset + from.len()].copy_from_slice(from);
        };
        let mut header = Header { checksum: 0, ..self.header };
        header.checksum = checksum(&header.to_bytes()[..Header::SIZE - 8]);
        put(&mut bytes, core, &header.to_bytes());
        let end = self.log.len() as u64;
        let live = Live { events: self.events.len() as u64, log_end: end, log_claims: end, ..self.live };
        put(&mut bytes, core + LIVE, &live.to_bytes());
        put(&mut bytes, core + DEATH, &self.death.to_bytes());
        for (number, event) in self.events.iter().enumerate() {
            put(&mut bytes, core + HISTORY + number % EVENTS * Event::SIZE, &event.to_bytes());
        }
        for (number, (key, count)) in self.registers.iter().enumerate() {
            put(&mut bytes, core + REGISTER_KEYS + 4 * number, &key.to_le_bytes());
            put(&mut bytes, core + REGISTER_COUNTS + 4 * number, &count.to_le_bytes());
        }
        for (position, byte) in self.log.iter().enumerate() {
            bytes[core + LOG + position % LOG_SIZE] = *byte;
        }
        if let Some(previous) = &self.previous {
            put(&mut bytes, core + PREVIOUS, &previous[..CORE]);
        }
        for (cpu, block) in self.cpus.iter().enumerate() {
            put(&mut bytes, cpu * CpuBlock::SIZE, &block.to_bytes());
        }
        let traces = (header.traces - header.start) as usize;
        let records = header.trace_records as usize;
        for (cpu, trace) in self.traces.iter().enumerate() {
            for (number, record) in trace.iter().enumerate().filter(|_| records != 0) {
                let place = cpu * records + number % records;
                put(&mut bytes, traces + place * TraceRecord::SIZE, &record.to_bytes());
            }
        }
        bytes
    }

    /// The core alone, as the next start keeps it.
    #[must_use]
    pub fn core(&self) -> Vec<u8> {
        let bytes = self.build();
        bytes[bytes.len() - SIZE..][..CORE].to_vec()
    }
}

const fn esr(class: ExceptionClass, iss: u32) -> u32 {
    (class as u32) << EC_SHIFT | IL as u32 | iss
}

/// An HVC or SMC.
#[must_use]
pub fn call(class: ExceptionClass, number: u64, answer: u64) -> TraceRecord {
    TraceRecord {
        pc: 0xffff_8000_8002_1404,
        subject: number,
        answer,
        duration: 24,
        esr: esr(class, 0),
        class: u8::from(class as u8 == ExceptionClass::Hvc64 as u8),
        ..TraceRecord::default()
    }
}

/// An access to a register in virtual EL2.
#[must_use]
pub fn access(key: u32, is_read: bool, rt: u32, value: u64) -> TraceRecord {
    let [op0, op1, crn, crm, op2] = [key >> 14 & 3, key >> 11 & 7, key >> 7 & 15, key >> 3 & 15, key & 7];
    let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1 | u32::from(is_read);
    let (subject, answer) = if is_read { (0, value) } else { (value, 0) };
    let esr = esr(ExceptionClass::SystemRegister, iss);
    TraceRecord {
        pc: 0x4108_0040,
        subject,
        answer,
        duration: 60,
        esr,
        class: 5,
        flags: IN_VIRTUAL_EL2,
        ..TraceRecord::default()
    }
}

/// The first registers that a Linux touches in virtual EL2, as accesses.
fn set_up() -> Vec<TraceRecord> {
    vec![
        access(register_key(3, 0, 4, 2, 2), true, 19, 8),
        access(register_key(3, 4, 1, 0, 0), true, 0, 0x30c5_0830),
        access(register_key(3, 4, 1, 0, 0), false, 0, 0x30c5_0830),
        access(register_key(3, 4, 1, 1, 0), false, 0, 0x2_0000_0000),
        access(register_key(3, 4, 1, 1, 0), true, 1, 0x2_0000_0000),
        access(register_key(3, 4, 14, 1, 0), false, 0, 3),
        access(register_key(3, 4, 14, 0, 3), false, 31, 0),
        access(register_key(3, 0, 0, 4, 0), true, 0, 0x1100_0011_1111),
        access(register_key(3, 0, 0, 5, 0), true, 1, 0x0103_0610_5106),
        access(register_key(3, 4, 1, 1, 1), false, 3, 0xc006),
        access(register_key(3, 4, 2, 1, 0), false, 31, 0),
        access(register_key(3, 0, 0, 0, 0), true, 0, 0x411f_d070),
        access(register_key(3, 4, 0, 0, 0), false, 0, 0x411f_d070),
        access(register_key(3, 4, 1, 1, 2), false, 0, 0x33ff),
        access(register_key(3, 4, 12, 0, 0), false, 0, 0x4108_0800),
        access(register_key(1, 0, 7, 5, 0), false, 31, 0),
        access(register_key(0, 3, 4, 15, 6), false, 31, 0),
    ]
}

/// A CPU's way from the host's first instruction to EL1. Returns the microsecond at which it is there.
fn enter(builder: &mut Builder, cpu: u16, begin: u64) -> u64 {
    let mut micros = begin;
    for record in set_up() {
        builder.exit(micros, cpu, record);
        micros += 2;
    }
    let native = TraceRecord {
        pc: 0x4108_00e8,
        duration: 480,
        esr: esr(ExceptionClass::Eret, 0),
        class: 5,
        flags: IN_VIRTUAL_EL2 | WENT_NATIVE,
        ..TraceRecord::default()
    };
    builder.exit(micros, cpu, native).event(micros + 7, cpu, Kind::Native, 0x4108_00ec, 0x3c5);
    builder.cpus[usize::from(cpu)].state = 2;
    builder.cpus[usize::from(cpu)].entry_level = 2;
    micros + 8
}

/// Exeunt starts, and a Linux boots with four CPUs.
#[must_use]
pub fn boot() -> Builder {
    let mut b = Builder::new(4, 128);
    b.event(0, 0, Kind::Started, 1, 0);
    b.log(
        "[    0.000052] exeunt: at 0x40200000, 2 MiB, 4 CPUs\n[    0.000130] exeunt: host <entered> at virtual EL2\n",
    );
    b.event(140, 0, Kind::HostEntered, 0x4100_0000, 0x4800_0000);
    b.event(140, 0, Kind::Tracing, 1, 0);
    let mut now = enter(&mut b, 0, 150) + 100;
    for (number, answer) in [(0x8400_0000, 0x1_0001), (0x8400_0006, 2), (0x8000_0000, 0x1_0001), (0x8400_000a, 0)] {
        b.exit(now, 0, call(ExceptionClass::Smc64, number, answer));
        now += 20;
    }
    b.exit(now, 0, call(ExceptionClass::Hvc64, stub::FINALISE_EL2, stub::STUB_ERR));
    for cpu in 1..4 {
        now += 900;
        b.exit(now, 0, TraceRecord { duration: 900, ..call(ExceptionClass::Smc64, 0xc400_0003, 0) });
        b.event(now + 40, cpu, Kind::CpuUp, 0x4108_1000, 0);
        enter(&mut b, cpu, now + 45);
        let stub = call(ExceptionClass::Hvc64, stub::FINALISE_EL2, stub::STUB_ERR);
        b.exit(now + 120, cpu, stub);
    }
    b.exit(now + 5000, 1, call(ExceptionClass::Hvc64, vendor::VERSION.into(), u64::from(vendor::ABI_VERSION)));
    let abort = TraceRecord {
        pc: 0xffff_8000_8051_2340,
        subject: 0xffff_8000_8123_0000,
        answer: 0x4020_0000,
        duration: 700,
        esr: esr(ExceptionClass::DataAbortLower, 0x07),
        class: 2,
        flags: INJECTED,
        ..TraceRecord::default()
    };
    b.exit(now + 6000, 2, abort);
    b.registers = vec![
        (register_key(3, 4, 1, 0, 0), 8),
        (register_key(3, 4, 1, 1, 0), 8),
        (register_key(3, 0, 4, 2, 2), 4),
        (register_key(3, 0, 0, 4, 0), 4),
        (OTHERS, 36),
    ];
    b.log("[    0.012052] exeunt: CPU 3 up\n");
    for (block, crumb) in b.cpus.iter_mut().zip([b"psci\0\0\0\0", b"hvc\0\0\0\0\0", b"abort\0\0\0", b"hvc\0\0\0\0\0"]) {
        block.crumb = *crumb;
        block.crumb_time = Builder::at(12_000);
    }
    b
}

/// The same, and then a kexec, at which Exeunt leaves.
#[must_use]
pub fn kexec() -> Builder {
    let mut b = boot();
    let now = 2_000_000;
    for cpu in 1..4 {
        let at = now + u64::from(cpu) * 4000;
        let off = TraceRecord { flags: NO_RETURN, duration: 0, ..call(ExceptionClass::Smc64, 0x8400_0002, 0) };
        b.exit(at, cpu, off).event(at + 1, cpu, Kind::CpuOff, 0, 0);
        stopped(&mut b, cpu, at + 1, Stop::Off);
        b.cpus[usize::from(cpu)].state = 0;
    }
    let restart = TraceRecord { flags: NO_RETURN, duration: 0, ..call(ExceptionClass::Hvc64, stub::SOFT_RESTART, 0) };
    b.exit(now + 20_000, 0, restart).event(now + 20_001, 0, Kind::SoftRestart, 0x4600_0000, 0);
    stopped(&mut b, 0, now + 20_001, Stop::SoftRestart);
    b.cpus[0].state = 4;
    b.live.control = 4 << 16;
    b
}

/// The same as [`boot`], and then Exeunt dies of a data abort, a reset having gone before.
#[must_use]
pub fn crash() -> Builder {
    let mut b = boot();
    let mut before = boot();
    before.event(3_000_000, 0, Kind::Reset, 0, 0);
    b.previous = Some(before.core());
    b.header.starts = 2;
    let now = 4_000_000;
    b.event(now, 3, Kind::Died, Cause::Exception as u64, 0);
    let mut reason = [0; 104];
    reason[..29].copy_from_slice(b"CPU 3: EXEUNT PANIC: trap EL2");
    let mut backtrace = [0; 12];
    backtrace[..3].copy_from_slice(&[0x5678, 0x4a10, 0x1200]);
    b.death = Death {
        time: Builder::at(now),
        cause: Cause::Exception as u16,
        cpu: 3,
        esr: (ExceptionClass::DataAbortSame as u64) << EC_SHIFT | IL | 0x44,
        elr: 0x5678,
        far: 0xdead_0000,
        spsr: 0x3c9,
        sp: 0x8000_0001_ff00,
        backtrace,
        reason,
        ..Death::default()
    };
    stopped(&mut b, 3, now, Stop::Died);
    stopped(&mut b, 1, now + 700, Stop::Left);
    b
}

fn stopped(builder: &mut Builder, cpu: u16, micros: u64, why: Stop) {
    let block = &mut builder.cpus[usize::from(cpu)];
    block.stop = why as u32;
    block.stop_time = Builder::at(micros);
    block.x = core::array::from_fn(|number| 0x1000 + number as u64);
    block.pc = 0xffff_8000_8001_2345;
    block.pstate = 0x6000_03c5;
    block.esr = esr(ExceptionClass::Hvc64, 0).into();
}
