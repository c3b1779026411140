//! Everything that a black box says, as data for programs and as a text for people.
//!
//! Owns the names of the fields in JSON, which programs rely on: they are only ever added to. Addresses and registers
//! are strings in hexadecimal, since not every reader of JSON has integers of 64 bits; times are seconds since Exeunt's
//! first instruction.

use std::cmp::Reverse;
use std::fmt::{self, Display, Formatter};
use std::slice;

use guest_abi::blackbox::{
    BlackBox, Cause, Control, Core, CpuBlock, Death as DeathRecord, EXIT_CLASSES, IN_VIRTUAL_EL2, INJECTED, NO_RETURN,
    Stop as Why, TraceRecord, WENT_NATIVE, text,
};
use guest_abi::vendor::Version;
use hypervisor::syndrome::Esr;
use serde::{Deserialize, Serialize};

use crate::words::{
    Clock, class_name, event_words, exit_kind, exit_label, exit_words, length, level_of, printable, register_name,
    state_name,
};

/// A number that is written in hexadecimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex(pub u64);

impl Display for Hex {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.map(Self).ok_or_else(|| serde::de::Error::custom(format!("{text}: no number in hexadecimal")))
    }
}

/// All that a box says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What Exeunt was, and where.
    pub exeunt: Exeunt,
    /// Whether it has died, and of what.
    pub death: Option<Death>,
    /// The CPUs that have stopped, in the order in which they did.
    pub stops: Vec<Stop>,
    /// Every CPU. Of a last start nothing is kept of them.
    pub cpus: Vec<Cpu>,
    /// Exits by class, of all CPUs.
    pub classes: Vec<Count>,
    /// Accesses by register and system instruction, those that occurred most often first.
    pub registers: Vec<Count>,
    /// The life cycle, the oldest first.
    pub life: Vec<Life>,
    /// Events before these, that are lost.
    pub life_lost: u64,
    /// Exeunt's log.
    pub log: String,
    /// Bytes of the log before this, that are lost.
    pub log_lost: u64,
    /// The last start in this memory.
    pub previous: Option<Box<Self>>,
}

/// What Exeunt was, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a field in JSON with a name that says it")]
pub struct Exeunt {
    /// Its version.
    pub version: String,
    /// The version of its calls.
    pub abi: String,
    /// A debug build.
    pub debug: bool,
    /// Its options.
    pub options: String,
    /// The version of the box's layout.
    pub layout: u16,
    /// The box's address.
    pub address: Hex,
    /// The address of Exeunt's 2 MiB.
    pub memory: Hex,
    /// How often it has started in this memory.
    pub starts: u32,
    /// Ticks per second of the counter.
    pub frequency: u64,
    /// The counter at its first instruction.
    pub started: Hex,
    /// CPUs of the machine.
    pub cpus: u16,
    /// Exception level at which the host was entered: 1, or 2 for virtual EL2.
    pub entry_level: u8,
    /// Exits are traced.
    pub tracing: bool,
    /// LOCK was called.
    pub locked: bool,
    /// It stays at a kexec.
    pub stays_at_kexec: bool,
    /// It stays after a crash.
    pub stays_after_crash: bool,
    /// A LEAVE is under way.
    pub leaving: bool,
    /// CPUs that it is not on.
    pub cpus_outside: u16,
    /// Stores of the host's into the box.
    pub ignored_stores: u64,
    /// Wild accesses of the host's to the memory of its crash kernel. Versions before it have not written it.
    #[serde(default)]
    pub wild_accesses: u64,
}

/// Why Exeunt itself has died.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Death {
    /// When.
    pub seconds: f64,
    /// On which CPU.
    pub cpu: u16,
    /// Of what.
    pub cause: String,
    /// The reason, in its own words.
    pub reason: String,
    /// What ESR_EL2 says; nothing for a panic.
    pub syndrome: String,
    /// ESR_EL2.
    pub esr: Hex,
    /// ELR_EL2, from the start of the image on.
    pub elr: Hex,
    /// FAR_EL2.
    pub far: Hex,
    /// SPSR_EL2.
    pub spsr: Hex,
    /// SP_EL2.
    pub sp: Hex,
    /// Return addresses, from the start of the image on.
    pub backtrace: Vec<Hex>,
}

/// A CPU that has stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// When.
    pub seconds: f64,
    /// Its number.
    pub cpu: u16,
    /// Why.
    pub why: String,
    /// Where the host was.
    pub pc: Hex,
    /// At which level.
    pub level: String,
    /// What ESR_EL2 says.
    pub syndrome: String,
    /// All registers that were kept, by name.
    pub registers: Vec<Register>,
}

/// A register of a CPU that has stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// Its name.
    pub name: String,
    /// What was in it.
    pub value: Hex,
}

/// One CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its number.
    pub cpu: u16,
    /// Its affinity.
    pub mpidr: Hex,
    /// What its EL2 is.
    pub state: String,
    /// Exception level at which the host was entered on it: 0 none yet.
    pub entry_level: u8,
    /// What Exeunt does or has last done on it.
    pub crumb: String,
    /// When.
    pub crumb_seconds: f64,
    /// Exits by class.
    pub classes: Vec<Count>,
    /// How often Exeunt left it.
    pub departures: u32,
    /// How often it came back.
    pub returns: u32,
    /// Exits that were traced.
    pub traced: u64,
    /// How many of them are lost.
    pub lost: u64,
    /// The others, the oldest first.
    pub exits: Vec<Exit>,
}

/// How often something was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// What.
    pub name: String,
    /// How often.
    pub count: u64,
}

impl Count {
    /// Exits by class, of these CPUs together: the classes that there were, in the order of their numbers.
    #[must_use]
    pub fn of_exits(cpus: &[CpuBlock]) -> Vec<Self> {
        let all = (0..EXIT_CLASSES).map(|class| Self {
            name: class_name(class as u8),
            count: cpus.iter().fold(0, |sum, cpu| sum.saturating_add(cpu.exits[class])),
        });
        all.filter(|class| class.count != 0).collect()
    }

    /// All of them together.
    #[must_use]
    pub fn sum(counts: &[Self]) -> u64 {
        counts.iter().fold(0, |sum, one| sum.saturating_add(one.count))
    }
}

/// Something in Exeunt's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// When.
    pub seconds: f64,
    /// On which CPU.
    pub cpu: u16,
    /// The number of its kind.
    pub kind: u16,
    /// What.
    pub words: String,
}

/// One exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a field in JSON with a name that says it")]
pub struct Exit {
    /// When.
    pub seconds: f64,
    /// How long it took, in seconds.
    pub took: f64,
    /// Its class.
    pub class: String,
    /// What it is about, coarsely.
    pub kind: String,
    /// A few words for it.
    pub label: String,
    /// What it was, and how it was answered.
    pub words: String,
    /// Where the host was.
    pub pc: Hex,
    /// ESR_EL2.
    pub esr: Hex,
    /// What it was about.
    pub subject: Hex,
    /// How it was answered.
    pub answer: Hex,
    /// The host was in virtual EL2.
    pub in_virtual_el2: bool,
    /// The host went on at EL1, in hardware.
    pub went_native: bool,
    /// It did not come back.
    pub no_return: bool,
    /// The host got an exception for it.
    pub injected: bool,
}

/// How many exits of each CPU the text shows.
pub const LAST_EXITS: usize = 8;

/// How many registers.
const REGISTERS_SHOWN: usize = 16;

impl Exit {
    /// Out of a record.
    #[must_use]
    pub fn of(record: &TraceRecord, clock: &Clock) -> Self {
        Self {
            seconds: clock.seconds(record.time),
            took: clock.length(record.duration.into()),
            class: class_name(record.class),
            kind: exit_kind(record).words().to_owned(),
            label: exit_label(record),
            words: exit_words(record),
            pc: Hex(record.pc),
            esr: Hex(record.esr.into()),
            subject: Hex(record.subject),
            answer: Hex(record.answer),
            in_virtual_el2: record.flags & IN_VIRTUAL_EL2 != 0,
            went_native: record.flags & WENT_NATIVE != 0,
            no_return: record.flags & NO_RETURN != 0,
            injected: record.flags & INJECTED != 0,
        }
    }
}

impl Report {
    /// Of a whole box.
    #[must_use]
    pub fn of(of: &BlackBox<'_>) -> Self {
        let mut report = Self::of_core(of.core());
        let clock = Clock::of(of.core().header());
        let blocks: Vec<CpuBlock> = (0..of.core().header().cpus).filter_map(|cpu| of.cpu(cpu)).collect();
        for (cpu, block) in (0..).zip(&blocks) {
            report.stops.extend(stop(cpu, block, &clock));
            report.cpus.push(cpu_of(cpu, block, of.trace(cpu), &clock));
        }
        report.stops.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
        report.classes = Count::of_exits(&blocks);
        report.classes.sort_by_key(|class| Reverse(class.count));
        report.previous = of.previous().map(|core| Box::new(Self::of_core(&core)));
        report
    }

    /// Of a core alone, which has nothing of the CPUs: that of a last start.
    #[must_use]
    pub fn of_core(core: &Core<'_>) -> Self {
        let (header, live) = (core.header(), core.live());
        let control = Control::of(&live);
        let clock = Clock::of(header);
        let version = Version::from_bits(header.exeunt_version);
        let mut registers: Vec<Count> =
            core.registers().map(|(key, count)| Count { name: register_name(key), count: count.into() }).collect();
        registers.sort_by_key(|register| Reverse(register.count));
        let events: Vec<Life> = core
            .events()
            .map(|event| Life {
                seconds: clock.seconds(event.time),
                cpu: event.cpu,
                kind: event.kind,
                words: event_words(&event),
            })
            .collect();
        let ([first, second], log_lost) = core.log();
        Self {
            exeunt: Exeunt {
                version: format!("{}.{}.{}", version.major, version.minor, version.patch),
                abi: format!("{}.{}", header.abi_version >> 16, header.abi_version & 0xffff),
                debug: header.debug != 0,
                options: text(&header.options).trim_end().to_owned(),
                layout: header.version,
                address: Hex(header.address),
                memory: Hex(header.exeunt),
                starts: header.starts,
                frequency: header.frequency,
                started: Hex(header.started),
                cpus: header.cpus,
                entry_level: header.entry_level,
                tracing: live.tracing != 0,
                locked: control.locked,
                stays_at_kexec: control.kexec_resident,
                stays_after_crash: control.crash_resident,
                leaving: control.leaving,
                cpus_outside: control.outside,
                ignored_stores: live.ignored_stores,
                wild_accesses: live.wild_accesses,
            },
            death: core.death().map(|death| death_of(&death, &clock)),
            stops: Vec::new(),
            cpus: Vec::new(),
            classes: Vec::new(),
            registers,
            life_lost: live.events.saturating_sub(events.len() as u64),
            life: events,
            log: String::from_utf8_lossy(&[first, second].concat()).into_owned(),
            log_lost,
            previous: None,
        }
    }

    /// For people: with as many of each CPU's last exits as `exits`.
    #[must_use]
    pub const fn text(&self, exits: usize) -> Text<'_> {
        Text { report: self, exits, short: false }
    }

    /// For people, in some ten lines: what has died, how the CPUs stopped, the end of the life cycle.
    #[must_use]
    pub const fn short(&self) -> Text<'_> {
        Text { report: self, exits: 0, short: true }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.text(LAST_EXITS).fmt(f)
    }
}

fn death_of(death: &DeathRecord, clock: &Clock) -> Death {
    let cause = Cause::of(death.cause);
    let exception = matches!(cause, Some(Cause::Exception | Cause::Double));
    Death {
        seconds: clock.seconds(death.time),
        cpu: death.cpu,
        cause: cause.map_or_else(|| format!("cause {}", death.cause), |cause| cause.words().to_owned()),
        reason: text(&death.reason).to_owned(),
        syndrome: if exception { Esr::new(death.esr).with_far(death.far).to_string() } else { String::new() },
        esr: Hex(death.esr),
        elr: Hex(death.elr),
        far: Hex(death.far),
        spsr: Hex(death.spsr),
        sp: Hex(death.sp),
        backtrace: death.backtrace.iter().take_while(|&&address| address != 0).map(|&address| Hex(address)).collect(),
    }
}

fn stop(cpu: u16, block: &CpuBlock, clock: &Clock) -> Option<Stop> {
    if block.stop == Why::None as u32 {
        return None;
    }
    let why = u16::try_from(block.stop).ok().and_then(Why::of);
    let mut registers: Vec<Register> = (0..).zip(block.x).map(|(n, x)| register(&format!("x{n}"), x)).collect();
    registers.extend(
        [
            ("PC", block.pc),
            ("PSTATE", block.pstate),
            ("ESR_EL2", block.esr),
            ("FAR_EL2", block.far),
            ("HPFAR_EL2", block.hpfar),
            ("SP_EL0", block.sp_el0),
            ("SP_EL1", block.sp_el1),
            ("SCTLR_EL1", block.sctlr_el1),
            ("TTBR0_EL1", block.ttbr0_el1),
            ("TTBR1_EL1", block.ttbr1_el1),
            ("TCR_EL1", block.tcr_el1),
            ("MAIR_EL1", block.mair_el1),
            ("VBAR_EL1", block.vbar_el1),
            ("ELR_EL1", block.elr_el1),
            ("SPSR_EL1", block.spsr_el1),
            ("ESR_EL1", block.esr_el1),
            ("FAR_EL1", block.far_el1),
            ("CONTEXTIDR_EL1", block.contextidr_el1),
            ("TPIDR_EL1", block.tpidr_el1),
            ("TPIDR_EL0", block.tpidr_el0),
        ]
        .map(|(name, value)| register(name, value)),
    );
    Some(Stop {
        seconds: clock.seconds(block.stop_time),
        cpu,
        why: why.map_or_else(|| format!("reason {}", block.stop), |why| why.words().to_owned()),
        pc: Hex(block.pc),
        level: level_of(block.pstate).to_owned(),
        syndrome: Esr::new(block.esr).with_far(block.far).to_string(),
        registers,
    })
}

fn register(name: &str, value: u64) -> Register {
    Register { name: name.to_owned(), value: Hex(value) }
}

fn cpu_of(cpu: u16, block: &CpuBlock, trace: impl Iterator<Item = TraceRecord>, clock: &Clock) -> Cpu {
    let exits: Vec<Exit> = trace.map(|record| Exit::of(&record, clock)).collect();
    Cpu {
        cpu,
        mpidr: Hex(block.mpidr),
        state: state_name(block.state),
        entry_level: block.entry_level,
        crumb: text(&block.crumb).trim_end().to_owned(),
        crumb_seconds: clock.seconds(block.crumb_time),
        classes: Count::of_exits(slice::from_ref(block)),
        departures: block.departures,
        returns: block.returns,
        traced: block.traced,
        lost: block.traced.saturating_sub(exits.len() as u64),
        exits,
    }
}

/// A report as a text for people.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    report: &'a Report,
    exits: usize,
    short: bool,
}

/// A time, as Linux's log has it.
fn at(seconds: f64) -> String {
    format!("[{seconds:>12.6}]")
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.title(f)?;
        self.deaths(f)?;
        if self.short {
            return self.end_of_life(f);
        }
        self.last_exits(f)?;
        self.life(f)?;
        self.counters(f)?;
        self.log(f)?;
        if let Some(previous) = &self.report.previous {
            writeln!(f, "\nThe start before this one, in the same memory:\n")?;
            previous.text(self.exits).fmt(f)?;
        }
        Ok(())
    }
}

impl Text<'_> {
    fn title(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Exeunt { version, abi, debug, options, address, starts, cpus, entry_level, .. } = &self.report.exeunt;
        let build = if *debug { ", a debug build" } else { "" };
        write!(f, "Black box at {address}: Exeunt {version}{build}, ABI {abi}, {cpus} CPU")?;
        f.write_str(if *cpus == 1 { "" } else { "s" })?;
        f.write_str(if *entry_level == 2 { ", host entered at virtual EL2" } else { ", host entered at EL1" })?;
        if *starts > 1 {
            write!(f, ", start {starts} in this memory")?;
        }
        if !options.is_empty() {
            write!(f, ", options \"{}\"", printable(options))?;
        }
        writeln!(f)
    }

    /// What has died, and how the CPUs stopped.
    fn deaths(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.report.death {
            None => writeln!(f, "Exeunt itself has not died.")?,
            Some(death) => {
                writeln!(f, "{} EXEUNT DIED on CPU {}: {}", at(death.seconds), death.cpu, death.cause)?;
                for line in [&death.reason, &death.syndrome].into_iter().filter(|line| !line.is_empty()) {
                    writeln!(f, "    {}", printable(line))?;
                }
                writeln!(f, "    at image+{}, SP {}, SPSR {}", death.elr, death.sp, death.spsr)?;
                if !death.backtrace.is_empty() {
                    let trace: Vec<String> = death.backtrace.iter().map(|hex| format!("image+{hex}")).collect();
                    writeln!(f, "    called from {}", trace.join(", "))?;
                }
            }
        }
        if self.report.cpus.is_empty() {
            return Ok(());
        }
        if self.report.stops.is_empty() {
            return writeln!(f, "No CPU has stopped under Exeunt.");
        }
        writeln!(f, "In this order CPUs stopped:")?;
        for Stop { seconds, cpu, why, pc, level, .. } in &self.report.stops {
            writeln!(f, "{} CPU {cpu}: {why}; the host was at {pc}, {level}", at(*seconds))?;
        }
        Ok(())
    }

    fn end_of_life(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let life = &self.report.life;
        writeln!(f, "The end of its life cycle:")?;
        for event in &life[life.len().saturating_sub(4)..] {
            writeln!(f, "{} CPU {}: {}", at(event.seconds), event.cpu, event.words)?;
        }
        Ok(())
    }

    fn last_exits(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for cpu in &self.report.cpus {
            let Cpu { cpu: number, mpidr, state, crumb, crumb_seconds, .. } = cpu;
            let exits = Count::sum(&cpu.classes);
            write!(f, "\nCPU {number} (affinity {mpidr}): {state}, {exits} exits")?;
            if !crumb.is_empty() {
                write!(f, ", last at work on \"{}\" {}", printable(crumb), at(*crumb_seconds))?;
            }
            writeln!(f)?;
            let shown = &cpu.exits[cpu.exits.len().saturating_sub(self.exits)..];
            if cpu.traced == 0 {
                continue;
            }
            let kept = cpu.exits.len();
            writeln!(f, "its last {} of {kept} traced exits; {} older ones are lost", shown.len(), cpu.lost)?;
            for exit in shown {
                let Exit { seconds, took, words, pc, .. } = exit;
                writeln!(f, "{} {words}; at {pc}, {}", at(*seconds), length(*took))?;
            }
        }
        if !self.report.cpus.is_empty() && self.report.cpus.iter().all(|cpu| cpu.traced == 0) {
            writeln!(f, "\nNo exits were traced. Exeunt's option `trace` has it do so from the start.")?;
        }
        Ok(())
    }

    fn life(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nLife cycle{}:", lost(self.report.life_lost, "earlier events"))?;
        for event in &self.report.life {
            writeln!(f, "{} CPU {}: {}", at(event.seconds), event.cpu, event.words)?;
        }
        let Exeunt { locked, stays_at_kexec, stays_after_crash, leaving, cpus_outside, .. } = &self.report.exeunt;
        let Exeunt { ignored_stores, wild_accesses, .. } = &self.report.exeunt;
        let does = |stays: bool| if stays { "stays" } else { "leaves" };
        match (does(*stays_at_kexec), does(*stays_after_crash)) {
            (kexec, crash) if kexec == crash => write!(f, "Exeunt {kexec} at a kexec and after a crash")?,
            (kexec, crash) => write!(f, "Exeunt {kexec} at a kexec and {crash} after a crash")?,
        }
        f.write_str(if *locked { "; it is locked" } else { "" })?;
        f.write_str(if *leaving { "; a LEAVE is under way" } else { "" })?;
        if *cpus_outside != 0 {
            write!(f, "; it is not on {cpus_outside} CPU{}", if *cpus_outside == 1 { "" } else { "s" })?;
        }
        if *ignored_stores != 0 {
            write!(f, "; {ignored_stores} stores of the host's into the box had no effect")?;
        }
        if *wild_accesses != 0 {
            write!(f, "; {wild_accesses} wild accesses of the host's to its crash kernel's memory")?;
        }
        writeln!(f, ".")
    }

    fn counters(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let line = |f: &mut Formatter<'_>, title: &str, counts: &[Count]| {
            if counts.is_empty() {
                return Ok(());
            }
            let words: Vec<String> = counts.iter().map(|count| format!("{} {}", count.name, count.count)).collect();
            writeln!(f, "{title}: {}", words.join(", "))
        };
        writeln!(f)?;
        line(f, "Exits by class", &self.report.classes)?;
        let registers = &self.report.registers;
        line(f, "Accesses by register", &registers[..registers.len().min(REGISTERS_SHOWN)])?;
        if registers.len() > REGISTERS_SHOWN {
            writeln!(f, "    and {} registers more", registers.len() - REGISTERS_SHOWN)?;
        }
        Ok(())
    }

    fn log(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nExeunt's log{}:", lost(self.report.log_lost, "earlier bytes"))?;
        for line in self.report.log.lines() {
            writeln!(f, "    {}", printable(line))?;
        }
        Ok(())
    }
}

fn lost(count: u64, what: &str) -> String {
    if count == 0 { String::new() } else { format!(" ({count} {what} are lost)") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Builder};

    fn report(builder: &Builder) -> Report {
        let bytes = builder.build();
        Report::of(&BlackBox::new(&bytes, builder.header.start).expect("the fixture is a box"))
    }

    #[test]
    fn a_crash_says_what_died_and_in_which_order_cpus_stopped() {
        let report = report(&fixture::crash());
        let text = report.to_string();
        let (major, minor) = (guest_abi::vendor::ABI_MAJOR, guest_abi::vendor::ABI_MINOR);
        let begin = format!("Exeunt 0.1.0, ABI {major}.{minor}, 4 CPUs, host entered at virtual EL2");
        for line in [
            begin.as_str(),
            "Black box at 0x403f0000: Exeunt",
            "EXEUNT DIED on CPU 3: an exception at EL2",
            "data abort from EL2: translation fault, level 0, write, FAR 0xdead0000",
            "at image+0x5678",
            "called from image+0x5678, image+0x4a10, image+0x1200",
            "CPU 3 (affinity 0x3): live, 19 exits, last at work on \"hvc\"",
            "HVC FINALISE_EL2 (stub call): STUB_ERR",
            "the host resets the machine",
            "SCTLR_EL2 8",
            "all others 36",
            "host <entered> at virtual EL2",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        let order: Vec<(u16, &str)> = report.stops.iter().map(|stop| (stop.cpu, stop.why.as_str())).collect();
        assert_eq!(order, [(3, "Exeunt died on it"), (1, "Exeunt left it")]);
        assert!(report.previous.is_some_and(|previous| previous.cpus.is_empty() && previous.exeunt.starts == 1));
    }

    #[test]
    fn the_short_form_is_short() {
        let text = report(&fixture::crash()).short().to_string();
        assert!(text.lines().count() < 15, "{text}");
        assert!(text.contains("EXEUNT DIED") && text.contains("Exeunt dies: an exception at EL2"));
    }

    #[test]
    fn what_programs_read_is_what_people_read() {
        let report = report(&fixture::kexec());
        let json = serde_json::to_string(&report).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["exeunt"]["address"], "0x403f0000");
        assert_eq!(value["stops"][3]["why"], "it called SOFT_RESTART");
        assert_eq!(value["stops"][3]["registers"][31]["name"], "PC");
        assert_eq!(value["cpus"][1]["exits"][0]["label"], "read CurrentEL");
        assert_eq!(value["cpus"][1]["exits"][0]["in_virtual_el2"], true);
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn what_is_lost_is_counted() {
        let mut builder = Builder::new(1, 16);
        for micros in 0..40 {
            builder.exit(micros, 0, fixture::access(0xc082, true, 0, micros));
        }
        for micros in 0..100 {
            builder.event(micros, 0, guest_abi::blackbox::Kind::CpuOff, 0, 0);
        }
        builder.log(&"0123456789abcde\n".repeat(1000));
        let report = report(&builder);
        assert_eq!((report.cpus[0].traced, report.cpus[0].lost, report.cpus[0].exits.len()), (40, 24, 16));
        assert_eq!((report.life_lost, report.life.len()), (36, 64));
        assert_eq!((report.log_lost, report.log.len()), (16000 - 8192, 8192));
        let text = report.to_string();
        assert!(text.contains("its last 8 of 16 traced exits; 24 older ones are lost"), "{text}");
        assert!(text.contains("Life cycle (36 earlier events are lost)"));
        assert!(text.contains("Exeunt's log (7808 earlier bytes are lost)"));
    }

    #[test]
    fn nothing_in_a_box_acts_on_a_terminal() {
        let mut builder = fixture::crash();
        builder.log("\x1b[2J\x07gone\n");
        builder.header.options[..4].copy_from_slice(b"\x1b[2J");
        builder.death.reason[..4].copy_from_slice(b"\x1b[2J");
        builder.cpus[0].crumb = *b"\x1b[2J\0\0\0\0";
        let text = report(&builder).to_string();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }

    #[test]
    fn a_damaged_box_is_refused_or_told() {
        // The header is whole by its checksum; all else may be anything.
        let builder = fixture::crash();
        let whole = builder.build();
        let header = whole.len() - guest_abi::blackbox::SIZE;
        let mut state = 1_u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as usize % below
        };
        let mut told = 0;
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..next(2000) {
                let place = next(bytes.len());
                if place < header || place >= header + 256 || next(50) == 0 {
                    bytes[place] = next(256) as u8;
                }
            }
            if let Ok(found) = BlackBox::new(&bytes, builder.header.start) {
                told += 1;
                let report = Report::of(&found);
                assert!(!report.to_string().is_empty() && serde_json::to_string(&report).is_ok());
            }
        }
        assert!(told > 100, "{told}");
    }
}
