//! `make kdump`: boots the host, loads a crash kernel, lets the host die, gets the dump out and opens it.
//!
//! The crash kernel has makedumpfile filter /proc/vmcore onto a virtio disk, compressed or as an ELF; drgn opens it on
//! the workstation (scripts/read-dump), and exeunt-dump reads the black box in it. The ways to die stand in
//! [`crate::ways`].

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use dump::kdump::Flattened;
use guest_abi::vendor::PANIC_SYNDROME;

use crate::blackbox::{self, Death};
use crate::guest::Script;
use crate::hung;
use crate::kconfig::{self, Need};
use crate::modules;
use crate::output::Output;
use crate::placement::RAM_BASE;
use crate::progress::Progress;
use crate::restart::{
    Entry, Policy, Ran, SilenceFrom, Verdict, Wanted, add_disk, begin, in_cpus, in_words, is_there_at_the_end,
    kernel_line, last_words, make_initrd, put, run, stub_calls, tells, what_ended,
};
use crate::settings::{Hypervisor, Profile};
use crate::symbols::Symbols;
use crate::variables::{Target, Values, Wrong, size};
use crate::ways::{Asked, Bare, End, On, Others, WAYS, Way};
use crate::workstation::Places;

/// Two kernels and two initrds have to fit where the way back is loaded too.
const RESERVED: [&str; 2] = ["256M", "384M"];

/// The host's last word.
const DIES: &str = "first dies now";
/// What it says so when nobody compares the crash kernel with its digest.
const UNCHECKED: &str = "now, unchecked";

/// What a person wants.
#[derive(Clone, Debug)]
pub struct Kdump {
    wanted: Wanted,
    way: &'static Way,
    turns: u32,
    fill: u32,
    level: u32,
    read: bool,
    back: bool,
    /// What was asked for; the crash kernel knows what drgn reads.
    format: &'static str,
    /// For kexec, when it loads the crash kernel.
    no_checks: &'static str,
    reserved: String,
    disk: u64,
    symbols: Option<Symbols>,
    /// Of what the black box says only the most important is wanted.
    is_short: bool,
}

impl Kdump {
    /// Out of the variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(values: &Values) -> Result<Self, Wrong> {
        let mut wanted = Wanted::read(Target::Kdump, values)?;
        let mut wrong = Wrong::default();
        let value = values.get("CRASH").unwrap_or(WAYS[0].name);
        let way = Way::of(value).ok_or_else(|| {
            let names: Vec<&str> = WAYS.iter().map(|way| way.name).collect();
            format!("CRASH={value}: it is one of {} (docs/running.md says what each does)", names.join(", "))
        });
        let way = wrong.or(way, &WAYS[0]);
        let up_to = |most: u32| move |text: &str| text.parse().ok().filter(|&number: &u32| number <= most);
        let flag = [("0", false), ("1", true)];
        let fill = wrong.or(values.parse("FILL", 0, up_to(15)), 0);
        let level = wrong.or(values.parse("LEVEL", 31, up_to(31)), 31);
        let turns = wrong.or(values.parse("TURNS", 0, up_to(u32::MAX)), 0);
        let read = wrong.or(values.choose("READ", &flag), false);
        let back = wrong.or(values.choose("BACK", &flag), false);
        let format = wrong.or(values.choose("FORMAT", &[("", ""), ("kdump", "kdump"), ("elf", "elf")]), "");
        let no_checks = wrong.or(values.choose("CHECKS", &[("1", ""), ("0", "--no-checks")]), "");
        let disk = wrong.or(values.parse("DUMP_DISK", wanted.settings.mem.1, size), wanted.settings.mem.1);
        let usual = RESERVED[usize::from(back)].to_owned();
        let reserved = wrong.or(values.parse("CRASHKERNEL", usual.clone(), crash_kernel), usual);
        let symbols = wrong.or(Symbols::read(values, &wanted.settings.kernel), None);
        let name = way.name;
        if way.asked == Asked::Exeunt && !wanted.with_exeunt() {
            wrong.0.push(format!("CRASH={name}: there is nobody to ask (HYPERVISOR=none)"));
        }
        if way.end == End::WithoutExeunt {
            if !wanted.with_exeunt() {
                wrong.0.push(format!("CRASH={name}: there is nobody who could die before the host (HYPERVISOR=none)"));
            }
            let place = match (name, wanted.entry) {
                ("killed", Entry::VirtualEl2) => "restart-begin",
                ("killed", Entry::El1) => "off",
                _ => "doorbell-load",
            };
            wanted.settings.exeunt = format!("{} selftest=fault:{place}:store", wanted.settings.exeunt.trim_end());
            wanted.settings.profile = Profile::Faults;
        }
        if let Some(watchdog) = way.watchdog.filter(|_| !wanted.settings.exeunt.contains("watchdog=")) {
            wanted.settings.exeunt = format!("{} {watchdog}", wanted.settings.exeunt.trim_end());
        }
        wanted.typed = way.typed.map(|(typed, _)| (DIES, typed));
        if way.bare == Bare::Lost && !wanted.with_exeunt() {
            wanted.silence = if way.end == End::GivenUp { SilenceFrom::Start } else { SilenceFrom::Line(DIES) };
        }
        if way.is_in_hotplug() {
            let last = wanted.settings.smp - 1;
            if *wanted.from.get_or_insert(last) == 0 && last != 0 {
                wrong.0.push(format!("CRASH={name}: the first CPU is not taken off (FROM=)"));
            }
        }
        if let Some(why) = way.why_not(&wanted.settings.kernel) {
            wrong.0.push(format!("CRASH={name}: this kernel has CONFIG_PREEMPT_RT and does not die so: {why}"));
        }
        if way.others == Others::Needed && wanted.settings.smp < 2 {
            wrong.0.push(format!("CRASH={name}: it takes two CPUs (SMP=)"));
        }
        if way.has_module || fill != 0 {
            let what = if way.has_module { format!("CRASH={name}") } else { format!("FILL={fill}") };
            wrong.0.extend(wanted.can_have_module(&what, &wanted.settings.kernel).err());
        }
        wrong.unless(Self {
            wanted,
            way,
            turns,
            fill,
            level,
            read,
            back,
            format,
            no_checks,
            reserved,
            disk,
            symbols,
            is_short: false,
        })
    }

    /// The same, with few words on the black box.
    #[must_use]
    pub fn in_short(self) -> Self {
        Self { is_short: true, ..self }
    }

    /// The same, traced.
    #[must_use]
    pub fn traced(self, directory: &'static str) -> Self {
        Self { wanted: self.wanted.traced(directory), is_short: true, ..self }
    }

    /// Whether the host needs the test module.
    fn has_module(&self) -> bool {
        self.way.has_module || self.fill != 0
    }

    /// What the host's kernel has to have.
    fn host_needs(&self) -> Vec<Need> {
        let mut needs = [kconfig::TO_KEXEC, kconfig::TO_DIE].concat();
        if self.way.asked == Asked::Host {
            needs.push(kconfig::SYSRQ);
            needs.extend(self.way.typed.map(|_| kconfig::SYSRQ_SERIAL));
        }
        if self.has_module() {
            needs.push(kconfig::MODULES);
        }
        needs
    }

    fn parts(&self) -> Vec<String> {
        let mut parts = self.wanted.parts();
        parts.extend(["drgn", "disk"].map(str::to_owned));
        parts.extend(self.symbols.as_ref().and_then(Symbols::part));
        parts
    }

    /// Does it. The directory is kept until the verdict was read.
    ///
    /// # Errors
    /// Something could not be built or started; in words.
    pub fn run(&self, places: &Places, progress: &Progress) -> Result<(Output, Ran, Verdict), String> {
        if self.way.end == End::GivenUp {
            return hung::hang(&self.wanted, self.is_short, places, progress);
        }
        let mut wanted = self.wanted.clone();
        let output = begin(&wanted, places, progress, "kdump", &self.parts(), (&self.host_needs(), &kconfig::TO_DUMP))?;

        progress.phase("making the crash kernel's initrd");
        let overlay = output.file("overlay");
        let crash = output.file("crash");
        fs::create_dir_all(overlay.join("next")).map_err(|error| error.to_string())?;
        fs::create_dir_all(&crash).map_err(|error| error.to_string())?;
        // Without, they are built in, or the guest says that there is no disk.
        if let Some(from) = wanted.modules_of(&wanted.next, places) {
            modules::take(&modules::DISK, &from, &crash.join("modules"))?;
        }
        if self.back {
            // All but the host's device tree, which the host adds itself: the crash kernel's own says that there is no
            // memory beside the reserved, and kexec-tools would hand that on.
            put(&wanted.host_image(places, &output)?, &crash.join("back/vmlinuz"))?;
            make_initrd(places, &crash.join("back/initrd"), &Script::KdumpBack.with(&[]), None)?;
        }
        let next_command_line = Wanted::next_command_line();
        let numbers = [self.level, u32::from(self.read), u32::from(self.back)].map(|number| number.to_string());
        let script = Script::KdumpCrash.with(&[
            ("modules", &modules::DISK.join(" ")),
            ("level", &numbers[0]),
            ("read", &numbers[1]),
            ("back", &numbers[2]),
            ("reserved", &self.reserved),
            ("format", self.format),
            ("next_command_line", &next_command_line),
        ]);
        make_initrd(places, &overlay.join("next/initrd"), &script, Some(&crash))?;
        put(&wanted.next_image(places, &output)?, &overlay.join("next/vmlinuz"))?;
        if self.has_module() {
            progress.phase("building the test module");
            put(&wanted.test_module(places, &wanted.settings.kernel)?, &overlay.join("tests/exeunt_test.ko"))?;
        }
        // A file with holes: it takes what is written.
        let dump = output.file("dump");
        File::create(&dump).and_then(|file| file.set_len(self.disk)).map_err(|error| error.to_string())?;
        add_disk(&mut wanted.settings, &dump, "");
        // A kernel without CONFIG_PROC_SYSCTL goes on after an oops, whatever is written to /proc/sys.
        wanted.settings.append = format!("crashkernel={} oops=panic {}", self.reserved, wanted.settings.append);

        let numbers = [wanted.from.unwrap_or(0), self.turns, self.fill, u32::from(wanted.with_exeunt())]
            .map(|number| number.to_string());
        let script = Script::KdumpFirst.with(&[
            ("crash", self.way.name),
            ("from", &numbers[0]),
            ("turns", &numbers[1]),
            ("fill", &numbers[2]),
            ("with_exeunt", &numbers[3]),
            ("back", if self.back { "1" } else { "0" }),
            ("no_checks", self.no_checks),
            ("next_command_line", &next_command_line),
        ]);
        let kernels = &["first", "next", "back"];
        let (output, ran) = run(&wanted, places, output, script, kernels, progress, tells(phase))?;
        fs::remove_dir_all(&crash).map_err(|error| format!("{}: {error}", crash.display()))?;
        let verdict = self.judge(&ran, &output, places, progress);
        progress.end();
        Ok((output, ran, verdict))
    }

    /// The part that drgn does: what it says of the dump.
    fn open_dump(&self, ran: &Ran, output: &Output, places: &Places) -> Result<String, String> {
        let dmesg = output.file("dmesg.txt");
        let lines = ran.said.all("next", "dmesg").join("\n") + "\n";
        fs::write(&dmesg, lines).map_err(|error| format!("{}: {error}", dmesg.display()))?;
        let mut command = Command::new(places.target().join("drgn/bin/python"));
        command.arg(places.root.join("scripts/read-dump")).arg(output.file("dump")).arg(dmesg);
        if let Some(symbols) = &self.symbols {
            command.arg("--symbols").arg(symbols.file(places));
        }
        for note in ran.said.all("first", "note") {
            if let Some((cpu, address)) = note.split_once(' ') {
                command.args(["--note", cpu, &format!("0x{address}")]);
            }
        }
        if self.fill != 0 {
            let (base, bytes) = (RAM_BASE.to_string(), self.wanted.settings.mem.1.to_string());
            command.args(["--filled", &base, &bytes]);
        }
        let done = command.output().map_err(|error| format!("drgn: {error}"))?;
        let errors = String::from_utf8_lossy(&done.stderr);
        let _ = fs::write(output.file("drgn.log"), errors.as_bytes());
        if done.status.success() {
            Ok(String::from_utf8_lossy(&done.stdout).into_owned())
        } else {
            Err(errors.lines().last().unwrap_or("it says nothing").to_owned())
        }
    }

    /// What the run shows.
    fn judge(&self, ran: &Ran, output: &Output, places: &Places, progress: &Progress) -> Verdict {
        let (wanted, said) = (&self.wanted, &ran.said);
        let mut verdict = Verdict::default();
        verdict.line(&ran.facts);
        verdict.line(&kernel_line(said, "host", "first"));
        verdict.line(&kernel_line(said, "crash", "next"));
        if self.back {
            verdict.line(&format!("{}; RAM {}", kernel_line(said, "back", "back"), said.last("back", "ram")));
        }
        let calls = stub_calls(&ran.console);
        let stays = is_there_at_the_end(&ran.console);
        let exeunt = if stays { "stays" } else { "gone" };
        if wanted.with_exeunt() {
            verdict.line(&format!("stub calls that Exeunt saw: {}; Exeunt at the end: {exeunt}", in_words(&calls)));
        }
        let died = !said.all("first", "dies").is_empty();
        let dumped = (said.last("next", "dumped") == "yes").then(|| take(&output.file("dump")));
        let from = wanted.from.unwrap_or(0);
        let how = if died { format!("died by: {} on CPU {from}", self.way.name) } else { "it did not die".to_owned() };
        let bytes = match &dumped {
            None => "none".to_owned(),
            Some(Ok(dumped)) => format!("{} bytes{}", dumped.bytes, if dumped.is_elf { ", an ELF" } else { "" }),
            Some(Err(_)) => "broken".to_owned(),
        };
        let vmcore = said.last("next", "vmcore");
        verdict.line(&format!("{how}; /proc/vmcore: {vmcore} bytes; dump: {bytes}; {} s in all", ran.took.as_secs()));
        for note in said.all("next", "note") {
            verdict.line(&format!("note: {note}"));
        }
        for complaint in said.complaints() {
            verdict.line(&format!("complaint: {complaint}"));
        }
        // A panic of Exeunt's is what was asked for then, and no end of the machine.
        let is_killed = self.way.end == End::WithoutExeunt;
        if let Some(why) = what_ended(ran).filter(|why| !(is_killed && why.starts_with("EXEUNT PANIC"))) {
            verdict.wrong.push(why);
        }
        let is_silent = |who| said.last(who, "release").is_empty() && verdict.passed();
        if is_silent("first") {
            verdict.wrong.push(format!("the host did not come up: {}", last_words(&ran.console)));
        } else if died && is_silent("next") {
            let console = after_death(&ran.console);
            verdict.wrong.push(format!("the crash kernel did not come up: {}", last_words(console)));
        }
        if dumped.is_none() {
            // An empty file says that there is none, and one of zeros does not.
            let _ = File::create(output.file("dump"));
        }
        let mut report = String::new();
        if let Some(Err(error)) = &dumped {
            verdict.wrong.push(format!("makedumpfile takes the dump for written, and it is not whole: {error}"));
        } else if dumped.is_some() {
            progress.phase("drgn reads the dump");
            match self.open_dump(ran, output, places) {
                Ok(text) => report = text,
                Err(error) => verdict.wrong.push(format!("the dump cannot be read: {error}")),
            }
        } else if verdict.passed() {
            verdict.wrong.push("there is no dump".to_owned());
        }
        verdict.line(&report);
        if matches!(dumped, Some(Ok(_))) && wanted.with_exeunt() {
            progress.phase("exeunt-dump reads the black box in it");
            match blackbox::read(&output.file("dump"), places, self.is_short) {
                Ok((report, words)) => {
                    verdict.line(&words);
                    verdict
                        .wrong
                        .extend(self.death(&ran.console).map(|death| death.compare(&report)).unwrap_or_default());
                }
                Err(error) => verdict.wrong.push(format!("the black box cannot be read: {error}")),
            }
        }
        if let Some((_, words)) = self.way.typed
            && verdict.passed()
        {
            verdict.check(ran.console.contains(words), || format!("it died of something else: nobody says '{words}'"));
        }
        if verdict.passed() {
            self.judge_dump(ran, &dumped.and_then(Result::ok).unwrap_or_default(), &report, &mut verdict);
            self.judge_exeunt(ran, stays, &mut verdict);
            if self.way.end == End::Told {
                self.judge_panic(ran, &mut verdict);
            }
            if self.back {
                self.judge_back(ran, &mut verdict);
            }
            let (traces, have_names) = (traces(&report), have_names(&report));
            let _ = fs::write(output.file("report.txt"), &verdict.report);
            let vmlinux = self.symbols.as_ref().map(|symbols| symbols.file(places));
            let vmlinux = vmlinux.map_or_else(|| "VMLINUX".to_owned(), |vmlinux| places.short(&vmlinux).to_string());
            let dump = output.file("dump");
            verdict
                .line(&format!("to look for yourself: target/drgn/bin/drgn -c {} -s {vmlinux}", places.short(&dump)));
            if wanted.with_exeunt() {
                verdict.line(&blackbox::hint(&dump, places));
            }
            let names = if have_names { "" } else { " without names" };
            let panic = if self.way.end == End::Forced { "" } else { "the panic and " };
            let _ = write!(verdict.why, "the dump has {panic}the backtraces of {}{names}", in_cpus(traces));
        }
        verdict
    }

    /// How many CPUs spin with everything masked, so that they do not hear the host's own stop.
    fn stuck(&self) -> u32 {
        self.way.stuck_of(self.wanted.settings.smp)
    }

    /// The CPU on which the host panics: of several that hang, the one that Exeunt has found first.
    fn dies_on(&self, console: &str) -> u32 {
        let found = console
            .lines()
            .find_map(|line| line.split_once("WARN  CPU ")?.1.split_once(": PANIC; the host was")?.0.parse().ok());
        match self.way.on {
            On::Found => found.unwrap_or(0),
            On::First => 0,
            On::From => self.wanted.from.unwrap_or(0),
        }
    }

    /// What the black box has to say of this run. Where a LEAVE is under way nobody knows which CPUs Exeunt is on.
    fn death(&self, console: &str) -> Option<Death> {
        let wanted = &self.wanted;
        (!self.way.is("leave")).then(|| Death {
            entry: wanted.entry,
            policy: wanted.policy,
            from: self.dies_on(console),
            cpus: wanted.settings.smp,
            stuck: self.stuck(),
            others_go_off: self.way.others_go_off,
            forced: self.way.end == End::Forced,
            killed: self.way.end == End::WithoutExeunt,
            ram: RAM_BASE..RAM_BASE + wanted.settings.mem.1,
        })
    }

    fn judge_dump(&self, ran: &Ran, dumped: &Dumped, report: &str, verdict: &mut Verdict) {
        let said = &ran.said;
        let in_dump = |name: &str| {
            let mut lines = report.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            lines.next().unwrap_or_default().to_owned()
        };
        let release = in_dump("release");
        verdict.check(release == said.last("first", "release"), || format!("the dump is of Linux {release}"));
        let is_forced = self.way.end == End::Forced;
        verdict.check(is_forced == (in_dump("panic") == "none"), || {
            format!("the dump has {} panic message", if is_forced { "a" } else { "no" })
        });
        if self.fill != 0 {
            let filled = said.last("first", "filled").strip_prefix("ok pages ").unwrap_or_default();
            let pattern = in_dump("pattern");
            let is_whole = filled != "0" && !filled.is_empty() && pattern == format!("{filled} whole pages, 0 broken");
            verdict.check(is_whole, || format!("of {filled} pages with a pattern the dump has {pattern}"));
        }
        if self.read {
            let [read, vmcore, unmapped] = ["read", "vmcore", "unmapped"].map(|what| said.last("next", what));
            verdict.check(read == vmcore, || format!("read(2) gave {read} bytes of /proc/vmcore"));
            let blocks = dumped.written.next_multiple_of(512).to_string();
            verdict.check(unmapped == blocks, || format!("without mmap(2) the dump has {unmapped} bytes"));
        }
        // The registers of one that answers nobody are in the notes if Exeunt has caught it, and only then can the next
        // kernel start it.
        let lost = if self.wanted.with_exeunt() { 0 } else { self.stuck() };
        let answered = self.wanted.settings.smp - lost;
        let traces = traces(report);
        verdict.check(traces == answered, || format!("the dump has the backtraces of {}", in_cpus(traces)));
        if self.stuck() != 0 {
            let started = said.last("next", "started");
            verdict.check(started == answered.to_string(), || format!("the crash kernel has {}", in_cpus(started)));
        }
    }

    /// Whether the host has panicked of what Exeunt gave it, and where.
    fn judge_panic(&self, ran: &Ran, verdict: &mut Verdict) {
        let code = format!("{PANIC_SYNDROME:x}");
        let lines = ran.said.all("next", "dmesg");
        let has = |words: &str| lines.iter().any(|line| line.contains(words));
        verdict.check(has(&code), || format!("the host did not panic at an SError with the code {code}"));
        if self.way.has_module {
            verdict.check(has("pc : spin_masked+"), || "it does not say that it spun".to_owned());
        }
    }

    fn judge_exeunt(&self, ran: &Ran, stays: bool, verdict: &mut Verdict) {
        let wanted = &self.wanted;
        let started = ran.said.last("next", "level");
        verdict.check(started == wanted.level(), || format!("the crash kernel started at {started}"));
        if !wanted.with_exeunt() {
            "bare QEMU, ".clone_into(&mut verdict.why);
            return;
        }
        if self.way.end == End::WithoutExeunt {
            let died = ran.console.lines().filter(|line| line.contains("EXEUNT PANIC")).count();
            verdict.check(died == 1, || format!("Exeunt has died {died} times"));
            "Exeunt died, ".clone_into(&mut verdict.why);
            return;
        }
        match (wanted.entry, wanted.policy) {
            // It may have come first or last.
            _ if self.way.is("leave") => {
                let exeunt = if stays { "stays" } else { "gone" };
                verdict.why = format!("a LEAVE was under way, and at the end Exeunt {exeunt}, ");
                return;
            }
            (Entry::VirtualEl2, Policy::Leave) => {
                verdict.check(!stays, || "Exeunt is still there".to_owned());
                "Exeunt left at SOFT_RESTART, ".clone_into(&mut verdict.why);
            }
            _ => {
                verdict.check(stays, || "Exeunt is gone".to_owned());
                "Exeunt stays under the crash kernel, ".clone_into(&mut verdict.why);
            }
        }
        if self.way.end == End::Forced {
            let line = "Exeunt starts the crash kernel itself";
            verdict.check(ran.console.contains(line), || "it is another that started the crash kernel".to_owned());
            "Exeunt has started the crash kernel, ".clone_into(&mut verdict.why);
            return;
        }
        if wanted.entry == Entry::VirtualEl2 {
            let calls = stub_calls(&ran.console);
            let restarts: Vec<u32> =
                calls.iter().filter(|call| call.name == "SOFT_RESTART").map(|call| call.cpu).collect();
            let from = self.dies_on(&ran.console);
            // On the way back the crash kernel calls too.
            let is_right = restarts.first() == Some(&from) && (self.back || restarts.len() == 1);
            verdict.check(is_right, || format!("SOFT_RESTART came from {restarts:?}"));
        }
    }

    fn judge_back(&self, ran: &Ran, verdict: &mut Verdict) {
        let (wanted, said) = (&self.wanted, &ran.said);
        let (level, cpus) = (said.last("back", "level"), said.last("back", "cpus"));
        let came = !said.last("back", "release").is_empty();
        verdict.check(came, || "the crash kernel did not find the way back".to_owned());
        verdict.check(level == wanted.level(), || format!("the host's second kernel started at {level}"));
        verdict.check(cpus == wanted.settings.smp.to_string(), || {
            format!("the host's second kernel has {}", in_cpus(cpus))
        });
        for what in ["release", "kvm", "ram", "reserved"] {
            let (before, after) = (said.last("first", what), said.last("back", what));
            let leaves = wanted.settings.hypervisor == Hypervisor::Exeunt
                && (wanted.entry, wanted.policy) == (Entry::VirtualEl2, Policy::Leave);
            // After a leave KVM has EL2, which it had not before. A person's kernel may have no KVM.
            let is_right = if what == "kvm" && leaves && !before.is_empty() {
                after.ends_with("mode initialized successfully")
            } else {
                before == after
            };
            verdict.check(is_right, || format!("the host's {what} was '{before}' and is '{after}'"));
        }
        let _ = write!(
            verdict.why,
            "the crash kernel has brought the host back with {} and all of its RAM, ",
            in_cpus(wanted.settings.smp)
        );
    }
}

/// What the console has from the host's last word on: all of it is the crash kernel's, or nobody's.
fn after_death(console: &str) -> &str {
    const LAST: [&str; 2] = ["Bye!", "Starting crashdump kernel"];
    let end = LAST.iter().filter_map(|words| Some(console.rfind(words)? + words.len())).max();
    &console[end.unwrap_or(0)..]
}

/// A size as the kernel takes it for crashkernel=, with M where there is no unit: 256M, or all that the kernel's own
/// documentation has, such as 1G,high.
fn crash_kernel(text: &str) -> Option<String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b",@-:".contains(&byte);
    (!text.is_empty() && text.bytes().all(known) && text.as_bytes()[0].is_ascii_digit())
        .then(|| if plain { format!("{text}M") } else { text.to_owned() })
}

/// Whether drgn could find the names of functions.
fn have_names(report: &str) -> bool {
    !report.lines().any(|line| line.starts_with("names: none"))
}

/// CPUs with a backtrace that has a function's name in it. A module's function has none without symbols. Where there
/// are no names at all, a backtrace is one that goes beyond the place where the CPU was. One that was in a program has
/// no backtrace of the kernel's, and counts.
fn traces(report: &str) -> u32 {
    let have_names = have_names(report);
    let (mut found, mut is_open) = (0, false);
    for line in report.lines() {
        if line.starts_with("CPU ") && line.contains(", ") {
            let in_program = pstate(line).is_some_and(|pstate| pstate.trailing_zeros() >= 4);
            found += u32::from(in_program);
            is_open = !in_program;
        } else if is_open
            && let Some(rest) = line.strip_prefix('#')
            && let Some((number, name)) = rest.split_once(' ')
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && (if have_names {
                name.trim_start().starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_')
            } else {
                number == "1"
            })
        {
            found += 1;
            is_open = false;
        }
    }
    found
}

/// PSTATE of a line that begins a CPU's backtrace.
fn pstate(line: &str) -> Option<u64> {
    u64::from_str_radix(line.split_once(", pstate 0x")?.1.trim(), 16).ok()
}

/// A dump, as it is now.
#[derive(Debug, Default)]
struct Dumped {
    /// So many bytes makedumpfile wrote onto the disk.
    written: u64,
    /// So many has the file.
    bytes: u64,
    is_elf: bool,
}

/// Makes a file of the disk onto which the crash kernel has written a flattened dump: cuts it behind that, and puts an
/// ELF together, of which a debugger takes no other. Or says why there is no whole dump.
fn take(disk: &Path) -> Result<Dumped, String> {
    let words = |error: std::io::Error| error.to_string();
    let file = File::options().read(true).write(true).open(disk).map_err(words)?;
    let flattened = Flattened::open(file.try_clone().map_err(words)?)?;
    let written = flattened.end();
    file.set_len(written).map_err(words)?;
    if !flattened.is_elf() {
        return Ok(Dumped { written, bytes: written, is_elf: false });
    }
    let whole = disk.with_extension("whole");
    let bytes = flattened.put_together(&File::create(&whole).map_err(words)?)?;
    fs::rename(&whole, disk).map_err(words)?;
    Ok(Dumped { written, bytes, is_elf: true })
}

/// The words for what a guest has told.
fn phase(who: &str, what: &str, value: &str) -> Option<String> {
    match (who, what) {
        ("first", "release") => Some(format!("Linux {value} is up")),
        ("first", "loaded") => Some("the crash kernel is loaded".to_owned()),
        ("first", "dies") if value == UNCHECKED => Some("the host dies".to_owned()),
        ("first", "dies") => Some("the host dies; purgatory looks whether the crash kernel is whole".to_owned()),
        ("next", "release") => Some(format!("the crash kernel is up: Linux {value}")),
        ("next", "dumping") => Some("makedumpfile writes the dump".to_owned()),
        ("next", "progress") if !value.is_empty() => Some(format!("makedumpfile writes the dump: {value} %")),
        ("next", "dumped") => Some("the dump is written".to_owned()),
        ("back", "release") => Some(format!("the host's kernel is back: Linux {value}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backtraces_with_a_name_are_counted() {
        let report = "CPU 0, pc 0x1, pstate 0x2\n#0  crash_setup_regs (x.c:1)\n#1  0xffff\n\n\
                      CPU 1, pc 0x1, pstate 0x2\n#0  0xffff\n#1  cpu_do_idle\n\nCPU 2, pc 0x0\n#0  0xffff800\n\n\
                      CPU 3, pc 0x29f3dc, pstate 0x60000000\n#0  0x29f3dc\n";
        assert_eq!(traces(report), 3, "and one in a program");
        assert!(have_names(report));
    }

    #[test]
    fn without_names_backtraces_with_a_caller_are_counted() {
        let report = "names: none: there is no kallsyms\nCPU 0, pc 0x1\n#0  0xffff\n#1  0xffff\n#2  0xffff\n\n\
                      CPU 1, pc 0x1\n#0  0xffff\n\nCPU 2, pc 0x0\n#0  0xffff\n#1  0xffff\n";
        assert_eq!((traces(report), have_names(report)), (2, false));
    }

    fn read(set: &[(&str, &str)]) -> Result<Kdump, Wrong> {
        let look_up = |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        Kdump::read(&Values::read(Target::Kdump, [], look_up)?)
    }

    #[test]
    fn a_way_to_die_that_is_none_is_refused_with_the_list() {
        let wrong = read(&[("CRASH", "nul"), ("FILL", "16"), ("SYMBOLS", "/nowhere")]).unwrap_err().to_string();
        assert!(wrong.contains("CRASH=nul: it is one of sysrq, null, irq"), "{wrong}");
        assert!(
            wrong.contains("FILL=16: it is") && wrong.contains("SYMBOLS=/nowhere: it is 1, or a vmlinux"),
            "{wrong}"
        );
    }

    #[test]
    fn purgatory_compares_the_digest_unless_it_is_told_not_to() {
        let no_checks = |set| read(set).unwrap().no_checks;
        assert_eq!(
            [no_checks(&[]), no_checks(&[("CHECKS", "1")]), no_checks(&[("CHECKS", "0")])],
            ["", "", "--no-checks"]
        );
        assert!(read(&[("CHECKS", "no")]).is_err());
    }

    #[test]
    fn who_needs_another_cpu_says_so() {
        for way in &WAYS {
            let alone = read(&[("CRASH", way.name), ("SMP", "1")]).err().map(|wrong| wrong.to_string());
            let expected = format!("CRASH={}: it takes two CPUs (SMP=)", way.name);
            assert_eq!(alone, (way.others == Others::Needed).then_some(expected), "{}", way.name);
        }
    }

    #[test]
    fn what_dies_by_the_magic_key_has_to_have_it() {
        let needs = |crash| read(&[("CRASH", crash)]).unwrap().host_needs();
        let has_it = |crash| needs(crash).contains(&kconfig::SYSRQ);
        assert!(["sysrq", "killed", "killed-before", "busy-all"].into_iter().all(has_it));
        assert!(!["null", "lockup-break", "forced"].into_iter().any(has_it));
        assert!(needs("busy-all").contains(&kconfig::SYSRQ_SERIAL) && !needs("sysrq").contains(&kconfig::SYSRQ_SERIAL));
    }

    #[test]
    fn a_bare_machine_of_which_nothing_comes_is_not_waited_for() {
        let silence = |crash, hypervisor| read(&[("CRASH", crash), ("HYPERVISOR", hypervisor)]).unwrap().wanted.silence;
        assert_eq!(silence("lockup", "none"), SilenceFrom::Line(DIES));
        assert_eq!(silence("hung-early", "none"), SilenceFrom::Start);
        for (crash, hypervisor) in
            [("lockup", "exeunt"), ("hung-early", "exeunt"), ("sysrq", "none"), ("stuck", "none")]
        {
            assert_eq!(silence(crash, hypervisor), SilenceFrom::Never, "{crash} {hypervisor}");
        }
    }

    #[test]
    fn a_realtime_kernel_is_not_waited_for_where_it_does_not_die() {
        for way in &WAYS {
            let of = |kernel| read(&[("CRASH", way.name), ("KERNEL", kernel)]).err().map(|wrong| wrong.to_string());
            let wrong = of("6.12-rt");
            assert_eq!(wrong.is_some(), ["hung-early", "busy-all"].contains(&way.name), "{}: {wrong:?}", way.name);
            assert_eq!(of("6.1-rt").is_some(), way.name == "busy-all", "{}", way.name);
        }
        let wrong = read(&[("CRASH", "busy-all"), ("KERNEL", "7.2-rt")]).unwrap_err().to_string();
        assert!(wrong.contains("CONFIG_PREEMPT_RT and does not die so: it takes what is typed in a thread"), "{wrong}");
    }

    #[test]
    fn the_first_cpu_is_not_taken_off() {
        let from = |set| read(set).unwrap().wanted.from;
        assert_eq!(from(&[("CRASH", "hotplug"), ("SMP", "8")]), Some(7));
        assert_eq!(from(&[("CRASH", "hotplug-down"), ("FROM", "2")]), Some(2));
        let wrong = read(&[("CRASH", "hotplug"), ("FROM", "0")]).unwrap_err().to_string();
        assert_eq!(wrong, "CRASH=hotplug: the first CPU is not taken off (FROM=)");
        assert_eq!(from(&[("CRASH", "null")]), None);
    }

    #[test]
    fn the_crash_kernels_memory_is_in_mib_without_a_unit() {
        let reserved = |set| read(set).unwrap().reserved;
        assert_eq!(reserved(&[]), "256M");
        assert_eq!(reserved(&[("BACK", "1")]), "384M");
        assert_eq!(reserved(&[("CRASHKERNEL", "300")]), "300M");
        assert_eq!(reserved(&[("CRASHKERNEL", "256M,high")]), "256M,high");
        assert!(read(&[("CRASHKERNEL", "lots of it")]).is_err());
    }
}
