//! What `make kexec`, `make kdump` and `make soak` share: two kernels, one of which starts the other.
//!
//! Owns their variables, the initrd of the next kernel, how the machine is run with its phases told, and the verdict.

use std::fmt::{Display, Write as _};
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use guest_abi::RESERVATION;

use crate::archive::Archives;
use crate::child::{End, Running, Silence};
use crate::console::{Sort, Sorter};
use crate::guest::Said;
use crate::kconfig::{self, Config, Need};
use crate::machine::{self, COMPOSED};
use crate::names::Name;
use crate::output::Output;
use crate::placement::{EXEUNT, RAM_BASE};
use crate::progress::Progress;
use crate::qemu::escaped;
use crate::qmp::{Monitor, Saving};
use crate::run::console;
use crate::settings::{Hypervisor, Kernel, Settings};
use crate::variables::{Target, Values, Wrong};
use crate::workstation::{Places, part_of};

/// The kernel's detectors measure the time of a workstation that others use as well. What really hangs meets the time
/// limit.
const PATIENT: &str = "nosoftlockup rcupdate.rcu_cpu_stall_suppress=1";
/// Seconds that a machine may run.
const LIMIT: u64 = 420;

/// A machine whose console has nothing new for this long stands still, where it is known that nothing comes after that.
/// A crash kernel says nothing while purgatory compares its digest and until its own console works: 18 s of 6.12 on a
/// workstation with nothing else to do.
const STILL: Duration = Duration::from_secs(90);

/// A person sees that nothing happens.
const BEFORE_TYPING: Duration = Duration::from_secs(5);

/// How the host is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// At virtual EL2.
    VirtualEl2,
    /// At EL1.
    El1,
}

/// What becomes of Exeunt at the restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It goes.
    Leave,
    /// It stays under the next kernel.
    Resident,
}

/// What a person wants of it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The machine.
    pub settings: Settings,
    /// How the host is entered.
    pub entry: Entry,
    /// What becomes of Exeunt.
    pub policy: Policy,
    /// The kernel that comes after.
    pub next: Kernel,
    /// The variable that has named it.
    pub next_variable: &'static str,
    /// The build tree of the host's kernel, if it is a person's and has one.
    pub tree: Option<PathBuf>,
    /// The CPU that restarts or dies, if that was asked for.
    pub from: Option<u32>,
    /// The exits are traced, and Exeunt's memory is taken out at the end: the name of the directory below target/.
    pub traced: Option<&'static str>,
    /// What somebody types at the console once the first kernel has said this line, and a while more has passed.
    pub typed: Option<(&'static str, &'static [u8])>,
    /// The word of the first kernel's command line that gives it an early console.
    pub earlycon: String,
    /// From when on a machine that says nothing is not waited for any longer.
    pub silence: SilenceFrom,
}

/// From when on a silence counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SilenceFrom {
    /// It does not: a machine gets all of its time.
    Never,
    /// From the start.
    Start,
    /// Once the first kernel has said this line.
    Line(&'static str),
}

/// The early console that the device tree names.
const EARLYCON: &str = "earlycon";

/// Where in the directory of a traced run Exeunt's 2 MiB are.
pub const MEMORY: &str = "memory";

impl Wanted {
    /// Out of the variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(target: Target, values: &Values) -> Result<Self, Wrong> {
        let mut wrong = Wrong::default();
        let mut settings = wrong.or_all(Settings::read(values), Settings::usual);
        let entry = values.choose("ENTRY", &[("el2", Entry::VirtualEl2), ("el1", Entry::El1)]);
        let entry = wrong.or(entry, Entry::VirtualEl2);
        let policy = values.choose("POLICY", &[("leave", Policy::Leave), ("resident", Policy::Resident)]);
        let policy = wrong.or(policy, Policy::Leave);
        let next = values.get("NEXT").map_or(Ok(settings.kernel.clone()), |value| Kernel::parse("NEXT", value));
        let next = wrong.or(next, settings.kernel.clone());
        let next_variable = if values.get("NEXT").is_some() { "NEXT" } else { "KERNEL" };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let from = wrong.or(values.parse("FROM", None, |text| digits(text).map(Some)), None);
        if let Some(from) = from.filter(|&from| from >= settings.smp) {
            wrong.0.push(format!("FROM={from}: there are {}", in_cpus(settings.smp)));
        }
        let tree = values.get("TREE").map(PathBuf::from);
        if let Some(tree) = tree.as_ref().filter(|tree| !tree.is_dir()) {
            wrong.0.push(format!("TREE={}: no such directory", tree.display()));
        }
        let tree = match &settings.kernel {
            Kernel::Named(name) if tree.is_some() => {
                wrong.0.push(format!("TREE= goes with a KERNEL= of your own: set-up has what {name} needs"));
                None
            }
            Kernel::Named(_) => None,
            Kernel::File(file) => tree.or_else(|| kconfig::tree_of(file)),
        };
        wrong.unless(())?;
        // With LPA2 `kexec -l` oopses in Linux 6.12, also where there is no hypervisor, but not in 7.3; and
        // makedumpfile gives up on a dump. CPU=max,lpa2=on says otherwise.
        if settings.cpu == "max" && (target == Target::Kdump || !kexecs_with_lpa2(&settings.kernel)) {
            "max,lpa2=off".clone_into(&mut settings.cpu);
        }
        settings.timeout = settings.timeout.or(Some(LIMIT));
        if settings.hypervisor == Hypervisor::Exeunt {
            let entry = if entry == Entry::El1 { "el1" } else { "el2" };
            let policy = if policy == Policy::Resident { "resident" } else { "leave" };
            settings.exeunt = format!("entry={entry} restart={policy} log=debug stats {}", settings.exeunt);
        } else {
            // The ITS does not survive a restart of a kernel that EFI did not boot; Exeunt hides it for that reason.
            settings.qemu_extra.splice(0..0, ["-machine", "its=off"].map(str::to_owned));
        }
        settings.append = format!("{PATIENT} {}", settings.append);
        Ok(Self {
            settings,
            entry,
            policy,
            next,
            next_variable,
            tree,
            from,
            traced: None,
            typed: None,
            earlycon: EARLYCON.to_owned(),
            silence: SilenceFrom::Never,
        })
    }

    /// The same with each exit traced, in a directory of this name.
    #[must_use]
    pub fn traced(mut self, directory: &'static str) -> Self {
        self.settings.exeunt = format!("{} trace", self.settings.exeunt.trim_end());
        self.traced = Some(directory);
        self
    }

    /// The same with the early console that there is.
    #[must_use]
    pub fn with_usual_earlycon(self) -> Self {
        Self { earlycon: EARLYCON.to_owned(), ..self }
    }

    /// Whether the kernels have what this run wants of them, as far as their configurations can be known.
    ///
    /// # Errors
    /// All that they lack; in words.
    pub fn check(&self, host: &[Need], next: &[Need]) -> Result<(), String> {
        let mut lacks: Vec<String> = Vec::new();
        let kernels = [("KERNEL", &self.settings.kernel, host), (self.next_variable, &self.next, next)];
        for (variable, kernel, needs) in kernels {
            let Kernel::File(file) = kernel else { continue };
            let (image, _) = machine::open_kernel(file, variable)?;
            if !crate::kernel::is_image(&image) {
                return Err(format!("{variable}={}: no arm64 Image, and what is none cannot kexec", file.display()));
            }
            let Some(config) = Config::of(file, &image) else { continue };
            let with_modules = self.settings.modules.is_some() || kconfig::modules_of(file).is_some();
            for lack in config.lacks(kconfig::TO_RUN.iter().chain(needs).copied(), with_modules) {
                let lack = format!("{variable}={}: {lack}", file.display());
                if !lacks.contains(&lack) {
                    lacks.push(lack);
                }
            }
        }
        if lacks.is_empty() { Ok(()) } else { Err(lacks.join("\nexeunt: ")) }
    }

    /// Where the modules of one of the kernels are, if that is known.
    #[must_use]
    pub fn modules_of(&self, kernel: &Kernel, places: &Places) -> Option<PathBuf> {
        match kernel {
            Kernel::Named(name) => Some(places.target().join("guest/kernels").join(name).join("modules")),
            Kernel::File(file) => self.settings.modules.clone().or_else(|| kconfig::modules_of(file)),
        }
    }

    /// What the test module is built with for a person's kernel.
    fn tree_of(&self, file: &Path) -> Option<PathBuf> {
        let is_hosts = self.settings.kernel == Kernel::File(file.to_owned());
        is_hosts.then(|| self.tree.clone()).flatten().or_else(|| kconfig::tree_of(file))
    }

    /// Whether the test module can be built for one of the kernels.
    ///
    /// # Errors
    /// Why not; `what` needs it.
    pub fn can_have_module(&self, what: &str, kernel: &Kernel) -> Result<(), String> {
        match kernel {
            Kernel::File(file) if self.tree_of(file).is_none() => Err(format!(
                "{what} with the kernel {}: this needs the test module, which is built with the kernel's build tree; \
                 TREE= names that of KERNEL=",
                file.display()
            )),
            _ => Ok(()),
        }
    }

    /// Builds the test module for one of the kernels.
    ///
    /// # Errors
    /// It does not build; in words.
    pub fn test_module(&self, places: &Places, kernel: &Kernel) -> Result<PathBuf, String> {
        self.can_have_module("the test module", kernel)?;
        let mut script = places.script("module");
        match kernel {
            Kernel::Named(name) => script.arg(name),
            Kernel::File(file) => script.arg("--tree").args(self.tree_of(file)),
        };
        answer_of(&mut script, "the test module's build").map(PathBuf::from)
    }

    /// The host's kernel as [`Self::next_image`].
    ///
    /// # Errors
    /// It cannot be read or unpacked; in words.
    pub fn host_image(&self, places: &Places, output: &Output) -> Result<PathBuf, String> {
        let (path, ..) = machine::kernel_file(&self.settings.kernel, places, output, "KERNEL", &mut |_| {})?;
        Ok(path)
    }

    /// Whether Exeunt is below the first kernel.
    #[must_use]
    pub fn with_exeunt(&self) -> bool {
        self.settings.hypervisor == Hypervisor::Exeunt
    }

    /// At which level a kernel of this run says that it was started.
    #[must_use]
    pub fn level(&self) -> &'static str {
        match (self.settings.hypervisor, self.entry) {
            (Hypervisor::NoneAtEl1, _) | (Hypervisor::Exeunt, Entry::El1) => "EL1",
            _ => "EL2",
        }
    }

    /// The next kernel's command line.
    #[must_use]
    pub fn next_command_line() -> String {
        format!("console=ttyAMA0 quiet panic=-1 {PATIENT}")
    }

    /// The next kernel's file, for kexec-tools, which take an Image.
    ///
    /// # Errors
    /// It cannot be read or unpacked; in words.
    pub fn next_image(&self, places: &Places, output: &Output) -> Result<PathBuf, String> {
        let (path, ..) = machine::kernel_file(&self.next, places, output, self.next_variable, &mut |_| {})?;
        Ok(path)
    }

    /// The parts of set-up that a run needs.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        [Some("run".to_owned()), part_of(&self.settings.kernel), part_of(&self.next)].into_iter().flatten().collect()
    }
}

/// Whether this kernel can load another one where addresses have 52 bits.
fn kexecs_with_lpa2(kernel: &Kernel) -> bool {
    const FIRST: (u32, u32) = (7, 3);
    let is_backports = || matches!(kernel, Kernel::Named(name) if Name::of(name) == Some(Name::Release("backports")));
    kernel.is_at_least(FIRST).unwrap_or_else(is_backports)
}

/// Sets up `parts`, and takes the directory of the run, empty. `host` and `next` are what the kernels have to have.
///
/// # Errors
/// In words.
pub fn begin(
    wanted: &Wanted,
    places: &Places,
    progress: &Progress,
    usual: &str,
    parts: &[String],
    (host, next): (&[Need], &[Need]),
) -> Result<Output, String> {
    wanted.check(host, next)?;
    progress.phase("setting up");
    places.set_up(parts)?;
    let output = machine::take_output(&wanted.settings, places, wanted.traced.unwrap_or(usual))?;
    if output.clear().map_err(|error| error.to_string())? {
        progress.phase(&format!("what the run before has left is kept in {}/previous", places.short(output.path())));
    }
    Ok(output)
}

/// Gives the machine a virtio disk with this content; `options` are further ones of QEMU's -drive, each with a comma
/// before it.
pub fn add_disk(settings: &mut Settings, content: &Path, options: &str) {
    let drive = format!("if=none,id=disk,format=raw{options},file={}", escaped(content));
    let disk = ["-drive", &drive, "-device", "virtio-blk-device,drive=disk"].map(str::to_owned);
    settings.qemu_extra.splice(0..0, disk);
}

/// Makes the initrd at `to`, whose init runs `script`; what is in `directory` goes into it as well.
///
/// # Errors
/// In words.
pub fn make_initrd(places: &Places, to: &Path, script: &str, directory: Option<&Path>) -> Result<(), String> {
    let write = || {
        let mut archives = Archives::new(Vec::new());
        archives.ready(&fs::read(places.initramfs())?)?;
        archives.file("exeunt/run", 0o644, script.as_bytes())?;
        if let Some(directory) = directory {
            archives.directory(directory)?;
        }
        fs::write(to, archives.finish()?)
    };
    write().map_err(|error| format!("the next kernel's initrd cannot be made: {error}"))
}

/// What came of the machine.
#[derive(Debug)]
pub struct Ran {
    /// How QEMU ended.
    pub end: End,
    /// What the guests said.
    pub said: Said,
    /// The whole console.
    pub console: String,
    /// Where that is.
    pub log: PathBuf,
    /// How long it took.
    pub took: Duration,
    /// One line on the machine.
    pub facts: String,
}

/// Runs the machine with `script` in its first kernel. `kernels` are the names by which the kernels of this run call
/// themselves. `hear` gets each line of theirs as it comes, and gives the words for what it tells, if it tells
/// something.
///
/// # Errors
/// It could not be started; in words.
pub fn run(
    wanted: &Wanted,
    places: &Places,
    output: Output,
    script: String,
    kernels: &'static [&'static str],
    progress: &Progress,
    mut hear: impl FnMut(&str) -> Option<String> + Send + 'static,
) -> Result<(Output, Ran), String> {
    let mut settings = wanted.settings.clone();
    settings.run = Some(script);
    settings.overlay = Some(output.file("overlay"));
    let bootargs = format!("console=ttyAMA0 {} quiet panic=-1", wanted.earlycon);
    let mut machine = machine::prepare(&settings, places, output, &bootargs, &[], &mut |line| progress.phase(line))?;
    let log = machine.output.file("console.log");
    machine.command.args(console(&log)).arg("-no-reboot");
    machine.command.stdin(if wanted.typed.is_some() { Stdio::piped() } else { Stdio::null() });
    machine.command.stdout(Stdio::piped());
    progress.phase("the host boots");
    let monitor = wanted.traced.map(|_| Monitor::of(&mut machine.command).map_err(|error| format!("QEMU: {error}")));
    let monitor = monitor.transpose()?;
    if monitor.is_some() {
        // It is held when the guest turns it off, until its memory was taken out.
        machine.command.arg("-no-shutdown");
    }
    let begin = Instant::now();
    let mut running = Running::start(&mut machine.command).map_err(|error| format!("QEMU: {error}"))?;
    let memory = machine.output.file(MEMORY);
    let saving = monitor.map(|monitor| monitor.save_at_the_end(RAM_BASE + EXEUNT, RESERVATION, memory));
    let stdout = running.stdout().ok_or("QEMU has no standard output")?;
    let mut keyboard = running.stdin().zip(wanted.typed);
    let guests = machine.output.file("guests.txt");
    let teller = progress.clone();
    let silence = Arc::new(Silence::of(STILL));
    let (heard, from) = (Arc::clone(&silence), wanted.silence);
    if from == SilenceFrom::Start {
        silence.begin();
    }
    let listening = thread::spawn(move || {
        listen(stdout, &guests, kernels, |line| {
            if let Some((mut to, (_, text))) = keyboard.take_if(|(_, (after, _))| line.starts_with(*after)) {
                thread::spawn(move || {
                    thread::sleep(BEFORE_TYPING);
                    // Open as long as the machine runs: its end would be one of the console's.
                    let _ = to.write_all(text).and_then(|()| to.flush());
                    thread::sleep(Duration::from_secs(LIMIT));
                });
            }
            if matches!(from, SilenceFrom::Line(words) if line.starts_with(words)) {
                heard.begin();
            }
            heard.broken();
            if let Some(words) = hear(line) {
                teller.phase(&words);
            }
        })
    });
    let limit = settings.timeout.filter(|&seconds| seconds > 0).map(Duration::from_secs);
    let end = running.wait_unless_silent(limit, Some(&silence)).map_err(|error| format!("QEMU: {error}"))?;
    if let Some(Err(error)) = saving.map(Saving::end) {
        progress.phase(&format!("QEMU did not write out Exeunt's memory: {error}"));
    }
    let said = listening.join().map_err(|_| "the console was not read to its end")?;
    let said = said.map_err(|error| format!("the console: {error}"))?;
    let console = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).replace('\r', "");
    forget(&machine.output)?;
    Ok((machine.output, Ran { end, said, console, log, took: begin.elapsed(), facts: machine.facts }))
}

/// Removes what the machine was made of: the same run makes it again, and it is most of what a run would leave.
fn forget(output: &Output) -> Result<(), String> {
    let (overlay, initrd) = (output.file("overlay"), output.file(COMPOSED));
    let cannot = |path: &Path, error| format!("{} cannot be removed: {error}", path.display());
    fs::remove_dir_all(&overlay).map_err(|error| cannot(&overlay, error))?;
    fs::remove_file(&initrd).map_err(|error| cannot(&initrd, error))
}

fn listen(console: ChildStdout, guests: &Path, kernels: &[&str], mut hear: impl FnMut(&str)) -> std::io::Result<Said> {
    let (mut sorter, mut said) = (Sorter::default(), Said::default());
    let mut file = fs::File::create(guests)?;
    let mut line = Vec::new();
    let mut console = BufReader::new(console);
    while console.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        if let Sort::Command(text) = sorter.sort(text.trim_end_matches('\n')) {
            writeln!(file, "{text}")?;
            said.take(text, kernels);
            hear(text);
        }
        line.clear();
    }
    Ok(said)
}

/// What a line `WHO WHAT VALUE` tells, by a table of its own words.
pub fn tells(table: fn(&str, &str, &str) -> Option<String>) -> impl FnMut(&str) -> Option<String> + Send + 'static {
    move |line| {
        let mut words = line.splitn(3, ' ');
        table(words.next()?, words.next()?, words.next().unwrap_or_default())
    }
}

/// A stub call in Exeunt's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StubCall {
    /// The CPU.
    pub cpu: u32,
    /// Its name in Linux.
    pub name: &'static str,
}

/// The stub calls that Exeunt saw, in order. A line of a dying kernel's may be cut off by one of Exeunt's.
#[must_use]
pub fn stub_calls(console: &str) -> Vec<StubCall> {
    let call = |line: &str| {
        let (before, after) = line[line.find("[exeunt ")?..].split_once("] DEBUG stub call 0x")?;
        let cpu = before.rsplit_once(" cpu")?.1.parse().ok()?;
        let name = match after.split(',').next()? {
            "0" => "SET_VECTORS",
            "1" => "SOFT_RESTART",
            "2" => "RESET_VECTORS",
            _ => return None,
        };
        Some(StubCall { cpu, name })
    };
    console.lines().filter_map(call).collect()
}

/// A number of CPUs.
#[must_use]
pub fn in_cpus(count: impl Display) -> String {
    let count = count.to_string();
    let are = if count == "1" { "CPU" } else { "CPUs" };
    format!("{count} {are}")
}

/// Them in words.
#[must_use]
pub fn in_words(calls: &[StubCall]) -> String {
    let words: Vec<String> = calls.iter().map(|call| format!("{} by CPU {}", call.name, call.cpu)).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// Whether Exeunt was there when the machine went off: then it prints its counters.
#[must_use]
pub fn is_there_at_the_end(console: &str) -> bool {
    console.contains("all CPUs: exits:")
}

/// A line on one of the kernels.
#[must_use]
pub fn kernel_line(said: &Said, title: &str, who: &str) -> String {
    let get = |what| match said.last(who, what) {
        "" => "?",
        value => value,
    };
    format!(
        "{title:6} Linux {}, started at {}, {}, KVM: {}; {} s after its start",
        get("release"),
        get("level"),
        in_cpus(get("cpus")),
        get("kvm"),
        get("seconds")
    )
}

/// What came of a run, for people and for programs.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What was seen, in lines.
    pub report: String,
    /// What is not as it should be.
    pub wrong: Vec<String>,
    /// Why it has passed.
    pub why: String,
}

impl Verdict {
    /// Begins with what ran: the machine, the first kernel and the next one.
    #[must_use]
    pub fn of_two_kernels(ran: &Ran) -> Self {
        let mut verdict = Self::default();
        verdict.line(&ran.facts);
        verdict.line(&kernel_line(&ran.said, "first", "first"));
        verdict.line(&kernel_line(&ran.said, "next", "next"));
        verdict
    }

    /// Adds a line to the report.
    pub fn line(&mut self, line: &str) {
        let _ = writeln!(self.report, "{line}");
    }

    /// Something is wrong unless `holds`.
    pub fn check(&mut self, holds: bool, wrong: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(wrong());
        }
    }

    /// Whether all is as it should be.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.wrong.is_empty()
    }

    /// The last line.
    #[must_use]
    pub fn last_line(&self, console: &str) -> String {
        if self.passed() {
            format!("PASS: {}", self.why)
        } else {
            format!("FAIL: {} (console: {console})", self.wrong.join("; "))
        }
    }
}

/// The last that was said, where a kernel ended without a word of its own script: its panic, if it had one, else the
/// last line of the console.
#[must_use]
pub fn last_words(console: &str) -> String {
    let panic = |line: &&str| line.contains("Kernel panic - not syncing") || line.contains("Unable to handle kernel");
    let said = |line: &&str| !line.trim().is_empty() && !line.contains("[exeunt ");
    let line = console.lines().rfind(panic).or_else(|| console.lines().rfind(said));
    match line {
        Some(line) => format!("the last that the console has of it is \"{}\"", line.trim()),
        None => "the console is empty: a kernel without CONFIG_SERIAL_AMBA_PL011_CONSOLE says nothing here".to_owned(),
    }
}

/// What ended the machine before its time, in the words of whoever failed: a guest's complaint comes before all else.
#[must_use]
pub fn what_ended(ran: &Ran) -> Option<String> {
    /// Exeunt turns the machine off after these: then QEMU ends as it should.
    const OF_EXEUNT: [&str; 2] = ["EXEUNT PANIC", "EXEUNT CANNOT START"];
    let line_with = |words: &str| ran.console.lines().find(|line| line.contains(words));
    let of_exeunt = OF_EXEUNT.into_iter().find_map(|words| {
        let line = line_with(words)?;
        Some(line[line.find(words)?..].trim().to_owned())
    });
    let complaints = ran.said.complaints();
    match (&ran.end, complaints.first()) {
        (_, Some(complaint)) => Some(complaint.clone()),
        (End::Exited(0), None) => of_exeunt,
        (end, None) => {
            let panic = || line_with("Kernel panic - not syncing").map(|line| line.trim().to_owned());
            Some(match panic().or(of_exeunt) {
                Some(words) => format!("QEMU {end}: {words}"),
                None => format!("QEMU {end}"),
            })
        }
    }
}

/// Puts a file into a directory for OVERLAY=, and makes the directories that lead there.
///
/// # Errors
/// In words.
pub fn put(from: &Path, to: &Path) -> Result<(), String> {
    let copy = || {
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::copy(from, to).map(drop)
    };
    copy().map_err(|error| format!("{} cannot be copied to {}: {error}", from.display(), to.display()))
}

/// Runs a script or cargo, and gives the last line of what it printed.
///
/// # Errors
/// It has failed, and has said why.
pub fn answer_of(command: &mut Command, what: &str) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("{what} cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("{what} has failed; what it said stands above"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stub_calls_are_found_where_a_dying_kernel_cuts_in() {
        let console = "[    3.1] Kernel pa[exeunt     3.4 cpu2] DEBUG stub call 0x1, x1 0x40\n\
                       [exeunt     3.5 cpu0] DEBUG stub call 0x0, x1 0x40\n\
                       [exeunt     3.5 cpu0] DEBUG stub call 0x3, x1 0x40\n\
                       [exeunt     3.6 cpu1] INFO  nothing\n";
        let calls = stub_calls(console);
        assert_eq!(in_words(&calls), "SOFT_RESTART by CPU 2, SET_VECTORS by CPU 0");
        assert_eq!(in_words(&[]), "none");
    }

    #[test]
    fn a_failure_is_told_in_the_words_of_whoever_failed() {
        let mut ran = Ran {
            end: End::Exited(0),
            said: Said::default(),
            console: String::new(),
            log: PathBuf::new(),
            took: Duration::ZERO,
            facts: String::new(),
        };
        assert_eq!(what_ended(&ran), None);
        ran.console = "[exeunt     0.03 cpu0] EXEUNT CANNOT START: it has no RAM\n".to_owned();
        assert_eq!(what_ended(&ran).as_deref(), Some("EXEUNT CANNOT START: it has no RAM"));
        ran.console.clear();
        ran.end = End::TimedOut;
        assert_eq!(what_ended(&ran).as_deref(), Some("QEMU took too long"));
        ran.console = "x\n[ 1.0] Kernel panic - not syncing: Attempted to kill init!\n".to_owned();
        assert_eq!(
            what_ended(&ran).as_deref(),
            Some("QEMU took too long: [ 1.0] Kernel panic - not syncing: Attempted to kill init!")
        );
        ran.said.take("first bad no memory is kept for a crash kernel", &["first"]);
        assert_eq!(what_ended(&ran).as_deref(), Some("first: no memory is kept for a crash kernel"));
    }
}
