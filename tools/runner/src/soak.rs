//! `make soak`: kexecs again and again in one QEMU, two kernels in turn, with Exeunt under them, and compares the last
//! boots with the first: the memory that the kernel sees, the exits to EL2 that a boot costs, Exeunt's own memory.
//!
//! Exeunt stays at every kexec but the last, before which the host asks RESTART_POLICY for `leave`. One that leaves is
//! gone for good, so that a `leave` in the middle would have the rest of the run on the bare machine. The policy for a
//! crash changes with every boot, and no kexec may follow it. Entered at EL1 the kernels make no call, and Exeunt stays
//! to the end.
//!
//! With `HOURS=` each kernel works hard before its kexec, so long in all by its own clock. All CPUs are busy, go off
//! and come back, a crash kernel is loaded again and again, Exeunt leaves and comes back. QEMU counts instructions,
//! each of which takes [`load_icount`] of virtual time, and skips what nobody works in. Then nothing may raise an
//! alarm: a warning of Exeunt's is a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_abi::RESERVATION;
use object::{Object, ObjectSymbol};

use crate::guest::Script;
use crate::kconfig;
use crate::modules;
use crate::output::Output;
use crate::placement::{EXEUNT, RAM_BASE};
use crate::progress::Progress;
use crate::restart::{
    Entry, Ran, Verdict, Wanted, add_disk, begin, is_there_at_the_end, make_initrd, put, run, stub_calls, what_ended,
};
use crate::run::print;
use crate::variables::{Target, Values, Wrong};
use crate::workstation::Places;

const PAGE: usize = 4096;

/// 64 ns for an instruction: slow enough for hours to pass, and fast enough for a Linux with four CPUs. One with two
/// bears 128 ns.
const fn load_icount(cpus: u32) -> [&'static str; 2] {
    ["-icount", if cpus > 2 { "shift=6,sleep=off" } else { "shift=7,sleep=off" }]
}

/// What the kernels that work hard are told besides.
const LOAD_LINE: &str = "crashkernel=128M";

/// What a person wants.
#[derive(Clone, Debug)]
pub struct Soak {
    wanted: Wanted,
    rounds: u32,
    /// Seconds that each kernel works hard.
    load: u64,
}

impl Soak {
    /// Out of the variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(values: &Values) -> Result<Self, Wrong> {
        let memory = if values.get("HOURS").is_some() { "1G" } else { "512M" };
        let values = values.clone().or("NEXT", "6.1").or("MEM", memory).or("POLICY", "resident");
        let mut wanted = Wanted::read(Target::Soak, &values)?;
        let mut wrong = Vec::new();
        let read_rounds = |text: &str| text.parse().ok().filter(|rounds| (1..100_000).contains(rounds));
        let read_hours = |text: &str| text.parse().ok().filter(|hours: &f64| *hours > 0.0 && *hours < 1000.0);
        let hours = values.parse("HOURS", 0.0, read_hours).unwrap_or_else(|error| {
            wrong.push(error);
            0.0
        });
        let rounds = values.parse("ROUNDS", if hours > 0.0 { 4 } else { 100 }, read_rounds).unwrap_or_else(|error| {
            wrong.push(error);
            1
        });
        if values.get("POLICY") != Some("resident") {
            wrong.push(
                "POLICY=leave: an Exeunt that has left cannot be watched; `make kexec` has that policy".to_owned(),
            );
        }
        if wanted.with_exeunt() {
            let both = [&wanted.settings.kernel, &wanted.next];
            wrong.extend(both.iter().filter_map(|kernel| wanted.can_have_module("a soak", kernel).err()));
        }
        if hours > 0.0 && !wanted.with_exeunt() {
            wrong.push("HOURS=: on bare QEMU there is nothing to raise an alarm".to_owned());
        }
        // Positive, and less than a thousand hours.
        let seconds = Duration::from_secs_f64(hours * 3600.0).as_secs();
        if values.get("TIMEOUT").is_none() {
            wanted.settings.timeout = Some(300 + 60 * u64::from(rounds) + 2 * seconds);
        }
        if seconds > 0 {
            wanted.settings.append = format!("{LOAD_LINE} {}", wanted.settings.append);
            wanted.settings.qemu_extra.splice(0..0, load_icount(wanted.settings.smp).map(str::to_owned));
        }
        let mut soak = Self { wanted, rounds, load: 0 };
        if seconds > 0 {
            // The last boot kexecs nothing, and does not work either.
            soak.load = seconds.div_ceil(soak.rounds.into());
        }
        if wrong.is_empty() { Ok(soak) } else { Err(Wrong(wrong)) }
    }

    /// What the next kernel is told.
    fn next_command_line(&self) -> String {
        let line = Wanted::next_command_line();
        if self.load > 0 { format!("{line} {LOAD_LINE}") } else { line }
    }

    /// The first boot without Exeunt. Entered at virtual EL2 the last kernel has EL2 itself.
    fn with_exeunt(&self) -> u32 {
        match (self.wanted.with_exeunt(), self.wanted.entry) {
            (false, _) => 0,
            (true, Entry::VirtualEl2) => self.rounds,
            (true, Entry::El1) => self.rounds + 1,
        }
    }

    /// Does it. The directory is kept until the verdict was read.
    ///
    /// # Errors
    /// Something could not be built or started; in words.
    pub fn run(&self, places: &Places, progress: &Progress) -> Result<(Output, Ran, Verdict), String> {
        let mut wanted = self.wanted.clone();
        let mut parts = wanted.parts();
        parts.push("disk".to_owned());
        let output = begin(&wanted, places, progress, "soak", &parts, (&kconfig::TO_SOAK, &kconfig::TO_SOAK))?;

        // /soak/0 has the modules of KERNEL, /soak/1 those of NEXT.
        progress.phase("making the disk");
        let overlay = output.file("overlay");
        let kernels = [&wanted.settings.kernel, &wanted.next];
        for (number, kernel) in kernels.into_iter().enumerate() {
            let to = overlay.join("soak").join(number.to_string());
            if let Some(from) = wanted.modules_of(kernel, places) {
                modules::take(&modules::DISK, &from, &to)?;
            }
            if wanted.with_exeunt() {
                put(&wanted.test_module(places, kernel)?, &to.join("exeunt_test.ko"))?;
            }
        }
        let images = [wanted.host_image(places, &output)?, wanted.next_image(places, &output)?];
        let [rounds, with_exeunt] = [self.rounds, self.with_exeunt()].map(|number| number.to_string());
        let load = self.load.to_string();
        let script = Script::Soak.with(&[
            ("rounds", &rounds),
            ("with_exeunt", &with_exeunt),
            ("modules", &modules::DISK.join(" ")),
            ("next_command_line", &self.next_command_line()),
            ("load", &load),
        ]);
        // The initrd of every boot but the first is a file on the disk, beside both kernels.
        let disk = output.file("disk.tar");
        let initrd = output.file("initrd");
        make_initrd(places, &initrd, &script, Some(&overlay))?;
        let pack = || {
            let mut archive = tar::Builder::new(File::create(&disk)?);
            // A build leaves Images with holes, and busybox's tar knows none.
            archive.sparse(false);
            for (number, image) in images.iter().enumerate() {
                archive.append_path_with_name(image, format!("{number}/vmlinuz"))?;
            }
            archive.append_path_with_name(&initrd, "initrd")?;
            archive.into_inner()?.flush()
        };
        pack().map_err(|error| format!("{}: {error}", disk.display()))?;
        add_disk(&mut wanted.settings, &disk, ",readonly=on");
        // QEMU writes Exeunt's memory into a file when its monitor is told to. The name of a socket may not be long.
        let socket = std::env::temp_dir().join(format!("exeunt-soak-{}", std::process::id()));
        let memory = ["memory-first", "memory-last"].map(|name| output.file(name));
        if wanted.with_exeunt() {
            let watch = format!("socket,id=watch,path={},server=on,wait=off", socket.display());
            let watch = ["-chardev", &watch, "-mon", "chardev=watch,mode=readline"].map(str::to_owned);
            wanted.settings.qemu_extra.splice(0..0, watch);
        }

        let hear = self.watch(wanted.with_exeunt().then_some(socket.clone()), memory);
        let (output, ran) = run(&wanted, places, output, script, &["boot"], progress, hear)?;
        progress.end();
        let _ = fs::remove_file(&socket);
        for used in [disk, initrd] {
            fs::remove_file(&used).map_err(|error| format!("{}: {error}", used.display()))?;
        }
        let verdict = self.judge(&ran, &output, places);
        Ok((output, ran, verdict))
    }

    /// Tells of each boot, as they come. At the first boot by kexec and the last under Exeunt, QEMU is told to write
    /// Exeunt's memory.
    fn watch(
        &self,
        monitor: Option<PathBuf>,
        memory: [PathBuf; 2],
    ) -> impl FnMut(&str) -> Option<String> + Send + 'static {
        let rounds = self.rounds;
        move |line| {
            if let Some(load) = Load::read(line.strip_prefix("boot ")?) {
                print(line);
                return Some(format!("boot {}: {} s of hard work are over", load.number, load.seconds));
            }
            let boot = Boot::read(line.strip_prefix("boot ")?)?;
            let number = boot.number;
            print(line);
            if let Some(monitor) = &monitor {
                let file = match number {
                    1 => Some(&memory[0]),
                    _ if number + 1 == rounds => Some(&memory[1]),
                    _ => None,
                };
                if let Some(file) = file
                    && let Err(error) = save_memory(monitor, file)
                {
                    return Some(format!("QEMU's monitor: {error}"));
                }
            }
            Some(format!("boot {number} of {rounds}: Linux {} is up", boot.release))
        }
    }

    fn judge(&self, ran: &Ran, output: &Output, places: &Places) -> Verdict {
        let (wanted, rounds) = (&self.wanted, self.rounds);
        let mut verdict = Verdict::default();
        verdict.line(&ran.facts);
        let guests = fs::read_to_string(output.file("guests.txt")).unwrap_or_default();
        let boots: Vec<Boot> = guests.lines().filter_map(|line| Boot::read(line.strip_prefix("boot ")?)).collect();
        let expected = Expected {
            rounds,
            level: wanted.level(),
            cpus: wanted.settings.smp,
            with_exeunt: self.with_exeunt(),
            exits_are_alike: self.load == 0,
        };
        let comparison = compare(&boots, expected);
        comparison.lines.iter().for_each(|line| verdict.line(line));
        let calls = stub_calls(&ran.console);
        let stays = is_there_at_the_end(&ran.console);
        if wanted.with_exeunt() {
            let mut count: BTreeMap<&str, u32> = BTreeMap::new();
            for call in &calls {
                *count.entry(call.name).or_default() += 1;
            }
            let words: Vec<String> = count.iter().map(|(name, times)| format!("{times} {name}")).collect();
            let words = if words.is_empty() { "none".to_owned() } else { words.join(", ") };
            let exeunt = if stays { "stays" } else { "gone" };
            verdict.line(&format!("stub calls that Exeunt saw: {words}; Exeunt at the end: {exeunt}"));
        }
        if self.load > 0 {
            self.judge_load(&guests, &ran.console, &mut verdict);
        }
        let mut compared = "";
        if wanted.with_exeunt() && rounds > 2 {
            if wanted.settings.exeunt_bin.is_some() {
                verdict.line("Exeunt's memory is not compared: EXEUNT_BIN= has no symbols");
            } else {
                match self.compare_memory(output, places) {
                    Ok(line) => verdict.line(&line),
                    Err(wrong) => verdict.wrong.push(wrong),
                }
                compared = ", Exeunt's memory";
            }
        }
        verdict.line(&format!("{} s in all", ran.took.as_secs()));
        if let Some(why) = what_ended(ran) {
            verdict.wrong.push(why);
        }
        verdict.wrong.extend(comparison.wrong.into_iter().take(5));
        if let Some(complaint) = guests.lines().find(|line| line.starts_with("boot ") && line.contains(" bad ")) {
            verdict.wrong.push(format!("a kernel complains: {complaint}"));
        }
        if !wanted.with_exeunt() {
            verdict.why = format!("{rounds} kexecs on bare QEMU; what a boot sees is at the end as at the start");
            return verdict;
        }
        let restarts = calls.iter().filter(|call| call.name == "SOFT_RESTART").count();
        let under = if wanted.entry == Entry::VirtualEl2 {
            verdict.check(restarts == rounds as usize, || format!("Exeunt saw {restarts} calls of SOFT_RESTART"));
            verdict.check(!stays, || "Exeunt is still there".to_owned());
            let last = format!("boot {rounds} kvm ");
            let kvm = guests.lines().filter_map(|line| line.strip_prefix(&last)).next_back().unwrap_or("nothing");
            let works = kvm.trim_end().ends_with("mode initialized successfully");
            verdict.check(works, || format!("KVM says at the end: {kvm}"));
            "all but the last, at which it left"
        } else {
            verdict.check(restarts == 0, || "a kernel that was entered at EL1 called SOFT_RESTART".to_owned());
            verdict.check(stays, || "Exeunt is gone".to_owned());
            "all of them"
        };
        verdict.why = format!(
            "{rounds} kexecs, Exeunt under {under}; at the end as at the start: what a boot sees, \
             what it costs{compared}"
        );
        verdict
    }

    /// That there was as much work as was wanted, and no alarm.
    fn judge_load(&self, guests: &str, console: &str, verdict: &mut Verdict) {
        let loads: Vec<Load> = guests.lines().filter_map(|line| Load::read(line.strip_prefix("boot ")?)).collect();
        let [turns, seconds] =
            [|load: &Load| load.turns, |load: &Load| load.seconds].map(|of| loads.iter().map(of).sum::<u64>());
        verdict.line(&format!(
            "hard work: {}.{:02} h by the guests' clock, in {turns} turns: a load of a crash kernel, each CPU off and \
             on, a LEAVE and REENTER",
            seconds / 3600,
            seconds % 3600 / 36
        ));
        let wanted = self.load * u64::from(self.rounds);
        verdict.check(seconds >= wanted && turns > 0, || format!("{seconds} s of hard work instead of {wanted}"));
        let warnings: Vec<&str> = alarms(console).collect();
        verdict.line(&format!("Exeunt's warnings: {}", warnings.len()));
        verdict.check(warnings.is_empty(), || format!("a false alarm: {}", warnings[0]));
    }

    /// Its text and constants, what its allocator says, and how many pages of its heap are not zero.
    fn compare_memory(&self, output: &Output, places: &Places) -> Result<String, String> {
        let profile = self.wanted.settings.profile.name();
        let elf = places.target().join("aarch64-unknown-none-softfloat").join(profile).join("exeunt");
        let elf = fs::read(&elf).map_err(|error| format!("{}: {error}", elf.display()))?;
        let layout = Layout::read(&elf).ok_or("Exeunt's ELF file does not say where its heap is")?;
        let read = |name| fs::read(output.file(name)).ok().filter(|bytes| bytes.len() as u64 == RESERVATION);
        let (Some(first), Some(last)) = (read("memory-first"), read("memory-last")) else {
            return Err("there is no copy of Exeunt's memory".to_owned());
        };
        layout.compare(&first, &last)
    }
}

/// Has QEMU write Exeunt's memory.
fn save_memory(monitor: &Path, file: &Path) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(monitor)?;
    let address = RAM_BASE + EXEUNT;
    writeln!(stream, "pmemsave {address:#x} {RESERVATION:#x} \"{}\"", file.display())?;
    // The prompt before it and after it: it is done.
    let mut said = Vec::new();
    let mut buffer = [0; 512];
    while said.windows(6).filter(|window| window == b"(qemu)").count() < 2 {
        match stream.read(&mut buffer)? {
            0 => break,
            length => said.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(())
}

/// Where in Exeunt's memory things are; the image is linked at 0.
#[derive(Debug)]
struct Layout {
    constants: usize,
    heap: usize,
    /// The end of the heap.
    end: usize,
    allocator: std::ops::Range<usize>,
}

impl Layout {
    fn read(elf: &[u8]) -> Option<Self> {
        let elf = object::File::parse(elf).ok()?;
        let symbol = |wanted: &dyn Fn(&str) -> bool| {
            elf.symbols().find(|symbol| symbol.name().is_ok_and(wanted)).map(|symbol| (symbol.address(), symbol.size()))
        };
        let (allocator, size) = symbol(&|name| name.contains("exeunt6memory4HEAP"))?;
        let (constants, _) = symbol(&|name| name == "__rodata_end")?;
        let (heap, _) = symbol(&|name| name == "__heap_start")?;
        let allocator = usize::try_from(allocator).ok()?..usize::try_from(allocator + size).ok()?;
        // The black box at the end, of 64 KiB with so few CPUs and no trace, is written all the time.
        let end = RESERVATION as usize - guest_abi::blackbox::SIZE;
        Some(Self { constants: usize::try_from(constants).ok()?, heap: usize::try_from(heap).ok()?, end, allocator })
    }

    fn compare(&self, first: &[u8], last: &[u8]) -> Result<String, String> {
        let same = |range: std::ops::Range<usize>| first.get(range.clone()) == last.get(range);
        if !same(0..self.constants) {
            return Err("Exeunt's text or constants have changed".to_owned());
        }
        if !same(self.allocator.clone()) {
            return Err("Exeunt's heap has changed".to_owned());
        }
        let used = |memory: &[u8]| {
            let heap = memory.get(self.heap..self.end).unwrap_or_default();
            heap.iter()
                .enumerate()
                .filter(|(_, byte)| **byte != 0)
                .map(|(at, _)| at / PAGE)
                .collect::<BTreeSet<_>>()
                .len()
        };
        let (before, after) = (used(first), used(last));
        if before == after {
            Ok(format!(
                "Exeunt's memory: {before} pages of its heap in use at first, {after} at last; \
                 allocator, text and constants compared"
            ))
        } else {
            Err(format!("{before} pages of Exeunt's heap were in use at first, {after} at last"))
        }
    }
}

/// What Exeunt warns of: a wild write, a CPU that hangs, and whatever else. Here each is a false alarm.
fn alarms(console: &str) -> impl Iterator<Item = &str> {
    let is_alarm = |line: &&str| {
        line.starts_with("[exeunt ") && (line.contains("] WARN ") || line.contains("] ERROR "))
            || line.contains("EXEUNT PANIC")
    };
    console.lines().filter(is_alarm)
}

/// What a kernel has done before its kexec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    /// Of the boot.
    number: u32,
    turns: u64,
    /// By its own clock.
    seconds: u64,
}

impl Load {
    /// From what a guest printed after `boot `.
    fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [number, "load", turns, seconds] = words[..] else { return None };
        Some(Self { number: number.parse().ok()?, turns: turns.parse().ok()?, seconds: seconds.parse().ok()? })
    }
}

/// A boot, in the words of its kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// From 0.
    pub number: u32,
    /// The kernel's release.
    pub release: String,
    /// At which level it was started.
    pub level: String,
    /// CPUs.
    pub cpus: String,
    /// MemTotal in kB.
    pub total: String,
    /// Digest of the map of RAM.
    pub ram: String,
    /// Digest of all of /proc/iomem.
    pub iomem: String,
    /// Bytes of its device tree.
    pub tree: String,
    /// CPUs under Exeunt.
    pub live: String,
    /// Exits so far, by class; none where Exeunt is not.
    pub exits: Option<[u64; CLASSES.len()]>,
}

/// The classes of exits, in the order of STATUS.
pub const CLASSES: [&str; 8] =
    ["smc", "hvc", "data abort", "instruction abort", "system register", "undefined", "other", "interrupt"];

/// The kernel asks firmware whether a CPU is off until it is, and reads ID registers when it pleases: there, and where
/// interrupts are held, the cheapest boots of the first and the last half may differ by a quarter, or by eight.
/// Everything else is the same to the digit.
const VARIES: [&str; 3] = ["smc", "system register", "interrupt"];

impl Boot {
    /// From what a guest printed after `boot `.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [number, release, level, cpus, total, ram, iomem, tree, under, exits, _uptime] = words[..] else {
            return None;
        };
        let counters: Option<Vec<u64>> = exits.split(',').map(|number| number.parse().ok()).collect();
        Some(Self {
            number: number.parse().ok()?,
            release: release.to_owned(),
            level: level.to_owned(),
            cpus: cpus.to_owned(),
            total: total.to_owned(),
            ram: ram.to_owned(),
            iomem: iomem.to_owned(),
            tree: tree.to_owned(),
            live: under.to_owned(),
            exits: counters.and_then(|counters| counters.try_into().ok()),
        })
    }
}

/// What all boots have in common, and what they have not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// A line on each kernel.
    pub lines: Vec<String>,
    /// What is not as it should be.
    pub wrong: Vec<String>,
}

/// What a soak was to be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Kexecs.
    pub rounds: u32,
    /// At which level each kernel is to be started.
    pub level: &'a str,
    /// CPUs.
    pub cpus: u32,
    /// The first boot without Exeunt.
    pub with_exeunt: u32,
    /// The boots of a kernel have as many exits.
    pub exits_are_alike: bool,
}

/// Compares the boots of each of the two kernels.
#[must_use]
pub fn compare(boots: &[Boot], expected: Expected) -> Comparison {
    let Expected { rounds, level, cpus, with_exeunt, exits_are_alike } = expected;
    let mut comparison = Comparison::default();
    let mut wrong = |text: String| comparison.wrong.push(text);
    let mut seen: BTreeMap<(u32, &str), &str> = BTreeMap::new();
    let mut before = [0; CLASSES.len()];
    let mut spent: [Vec<[u64; CLASSES.len()]>; 2] = [Vec::new(), Vec::new()];
    let mut next = 0;
    for boot in boots {
        if boot.number != next {
            wrong(format!("boot {next} is missing"));
            next = boot.number;
        }
        next += 1;
        let (number, kind) = (boot.number, boot.number % 2);
        if boot.level != level {
            wrong(format!("boot {number} started at {}", boot.level));
        }
        if boot.cpus != cpus.to_string() {
            wrong(format!("boot {number} has {} CPUs", boot.cpus));
        }
        // The first has an initrd and a device tree elsewhere than those by kexec.
        let later =
            [("MemTotal", &boot.total), ("/proc/iomem", &boot.iomem), ("the size of the device tree", &boot.tree)];
        let all = [("the map of RAM", &boot.ram)].into_iter().chain(later.into_iter().filter(|_| number > 0));
        for (what, value) in all {
            let first = seen.entry((kind, what)).or_insert(value);
            if *first != value {
                wrong(format!("boot {number}, Linux {}: {what} is {value} and was {first}", boot.release));
            }
        }
        if number >= with_exeunt {
            continue;
        }
        if boot.live != cpus.to_string() {
            wrong(format!("boot {number}: Exeunt is live on {} CPUs", boot.live));
        }
        let Some(exits) = boot.exits else {
            wrong(format!("boot {number}: Exeunt does not tell its exits"));
            continue;
        };
        // A boot's exits are what Exeunt has counted since the boot before was at the same place.
        if number > 0 {
            let mut of_boot = exits;
            of_boot.iter_mut().zip(before).for_each(|(now, then)| *now = now.saturating_sub(then));
            spent[kind as usize].push(of_boot);
        }
        before = exits;
    }
    if next != rounds + 1 {
        wrong(format!("boot {next} did not come up"));
    }
    for (kind, spent) in (0..2).zip(&spent) {
        let of_kind: Vec<&Boot> = boots.iter().filter(|boot| boot.number % 2 == kind).collect();
        let Some(first) = of_kind.first() else { continue };
        let total = seen.get(&(kind, "MemTotal")).unwrap_or(&"?");
        let mut line = format!("Linux {}: {} boots, MemTotal {total} kB", first.release, of_kind.len());
        let half = spent.len() / 2;
        if half > 0 && exits_are_alike {
            let _ = write!(line, "; exits a boot, the cheapest of the first and of the last {half}:");
            let mut differing = String::new();
            for (class, name) in CLASSES.into_iter().enumerate() {
                let cheapest =
                    |boots: &[[u64; CLASSES.len()]]| boots.iter().map(|boot| boot[class]).min().unwrap_or_default();
                let (first, last) = (cheapest(&spent[..half]), cheapest(&spent[spent.len() - half..]));
                if first > 0 || last > 0 {
                    let _ = write!(line, "{} {name} {first} and {last}", if line.ends_with(':') { "" } else { "," });
                }
                let room = if VARIES.contains(&name) { (first / 4).max(8) } else { 0 };
                if first.abs_diff(last) > room {
                    let _ = write!(differing, " {name} {first} and {last}");
                }
            }
            if !differing.is_empty() {
                comparison
                    .wrong
                    .push(format!("exits a boot of Linux {} at first and at last:{differing}", of_kind[0].release));
            }
        }
        comparison.lines.push(line);
    }
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected<'static> =
        Expected { rounds: 6, level: "EL2", cpus: 4, with_exeunt: 6, exits_are_alike: true };

    /// Seven boots, of which each costs ten exits by SMC and two others.
    fn boots() -> Vec<Boot> {
        (0..7)
            .map(|number: u32| {
                let release = if number.is_multiple_of(2) { "6.12" } else { "6.1" };
                let tree = if number == 0 { 9000 } else { 9500 };
                let exits = if number < 6 {
                    format!("{},0,0,0,{},0,{},0", 10 * (number + 1), 300 * (number + 1), 2 * (number + 1))
                } else {
                    "-".to_owned()
                };
                let under = if number < 6 { "4" } else { "-" };
                let iomem = if number == 0 { "first" } else { release };
                let line = format!("{number} {release} EL2 4 1000 ram {iomem} {tree} {under} {exits} 3.5");
                Boot::read(&line).unwrap()
            })
            .collect()
    }

    #[test]
    fn a_good_soak_has_nothing_wrong() {
        let comparison = compare(&boots(), EXPECTED);
        assert_eq!(comparison.wrong, [""; 0]);
        assert_eq!(
            comparison.lines,
            [
                "Linux 6.12: 4 boots, MemTotal 1000 kB; exits a boot, the cheapest of the first and of the last 1: \
                 smc 10 and 10, system register 300 and 300, other 2 and 2",
                "Linux 6.1: 3 boots, MemTotal 1000 kB; exits a boot, the cheapest of the first and of the last 1: \
                 smc 10 and 10, system register 300 and 300, other 2 and 2"
            ]
        );
    }

    #[test]
    fn each_difference_is_found() {
        type Spoil = fn(&mut Vec<Boot>);
        let cases: [(Spoil, &str); 8] = [
            (|boots| drop(boots.remove(3)), "boot 3 is missing"),
            (|boots| boots.truncate(5), "boot 5 did not come up"),
            (|boots| boots[4].total = "996".to_owned(), "boot 4, Linux 6.12: MemTotal is 996 and was 1000"),
            (|boots| boots[6].ram = "less".to_owned(), "boot 6, Linux 6.12: the map of RAM is less and was ram"),
            (|boots| boots[2].cpus = "3".to_owned(), "boot 2 has 3 CPUs"),
            (|boots| boots[5].level = "EL1".to_owned(), "boot 5 started at EL1"),
            (|boots| boots[1].live = "3".to_owned(), "boot 1: Exeunt is live on 3 CPUs"),
            (
                |boots| boots[5].exits.as_mut().unwrap()[6] += 1,
                "exits a boot of Linux 6.1 at first and at last: other 2 and 3",
            ),
        ];
        for (spoil, wrong) in cases {
            let mut boots = boots();
            spoil(&mut boots);
            let comparison = compare(&boots, EXPECTED);
            assert!(comparison.wrong.iter().any(|line| line == wrong), "{wrong}: {:?}", comparison.wrong);
        }
        // Eight more of what varies are no difference, nine are.
        for (more, is_wrong) in [(8, false), (9, true)] {
            let mut boots = boots();
            boots[5].exits.as_mut().unwrap()[0] += more;
            assert_eq!(!compare(&boots, EXPECTED).wrong.is_empty(), is_wrong);
        }
    }

    #[test]
    fn alarms_are_exeunts_warnings_alone() {
        let console = "[exeunt     1.000000 cpu0] INFO  guard: x\r\n[exeunt 2.0 cpu1] WARN  guard: a wild write\n\
                       [    3.0] a kernel's ] WARN  \nEXEUNT PANIC: x\n[exeunt 4.0 cpu1] ERROR y\n";
        let alarms: Vec<&str> = alarms(console).collect();
        assert_eq!(
            alarms,
            ["[exeunt 2.0 cpu1] WARN  guard: a wild write", "EXEUNT PANIC: x", "[exeunt 4.0 cpu1] ERROR y"]
        );
        assert_eq!(Load::read("3 load 12 900"), Some(Load { number: 3, turns: 12, seconds: 900 }));
        assert_eq!(Load::read("3 load 12"), None);
        // Of boots that have worked hard nobody asks how many exits they had.
        let mut boots = boots();
        boots[5].exits.as_mut().unwrap()[6] += 1000;
        assert_eq!(compare(&boots, Expected { exits_are_alike: false, ..EXPECTED }).wrong, [""; 0]);
    }

    #[test]
    fn memory_that_has_changed_is_found() {
        let layout = Layout { constants: PAGE, heap: 3 * PAGE, end: 8 * PAGE, allocator: 2 * PAGE..2 * PAGE + 8 };
        let mut first = vec![0; 9 * PAGE];
        first[4 * PAGE] = 1;
        let compared = |at: usize| {
            let mut last = first.clone();
            last[at] = 2;
            layout.compare(&first, &last)
        };
        assert!(compared(4 * PAGE + 9).unwrap().contains("1 pages of its heap in use at first, 1 at last"));
        assert!(compared(PAGE + 9).is_ok(), "data may change");
        assert!(compared(8 * PAGE).is_ok(), "so may the black box");
        assert_eq!(compared(9).unwrap_err(), "Exeunt's text or constants have changed");
        assert_eq!(compared(2 * PAGE + 7).unwrap_err(), "Exeunt's heap has changed");
        assert_eq!(compared(7 * PAGE).unwrap_err(), "1 pages of Exeunt's heap were in use at first, 2 at last");
    }

    #[test]
    fn other_lines_are_no_boots() {
        for line in ["3 bad WARNING: x", "3 kvm [1]: giving up", "x 6.12 EL2 4 1 r i 9 4 - 3.5", ""] {
            assert_eq!(Boot::read(line), None, "{line}");
        }
    }
}
