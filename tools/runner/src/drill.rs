//! `make drill`: a Linux dies or is restarted in each way that matters, on each kind of machine, and what comes of it
//! is looked at.
//!
//! Owns the matrix and its cells. A cell is one run of [`Kexec`] or [`Kdump`] with their variables; its directory is
//! target/drill/NAME. A cell that fails is run again on bare QEMU: where that fails as well, the fault is the
//! baseline's, and the cell says so. A way to die of which the bare machine saves less is run there in any case, and
//! the cell says what came of both. Asked to end, the drill ends all machines, and tells what there was so far.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::child::{self, End};
use crate::covering::{self, Value};
use crate::kdump::Kdump;
use crate::kexec::Kexec;
use crate::machine;
use crate::output::{Output, PREVIOUS};
use crate::progress::Progress;
use crate::report::{self, Case, CaseEnd};
use crate::restart::{Ran, Verdict as RunsVerdict, Wanted};
use crate::run::{BY_A_SIGNAL, print, say};
use crate::settings::{Kernel, has_no_16k};
use crate::variables::{Target, Values, Wrong};
use crate::ways::{self, Bare, Others, Way};
use crate::workstation::{Places, part_of};

/// Machines at a time: one of them seldom keeps more than one CPU of this workstation busy.
const AT_A_TIME: usize = 2;
/// Seconds for the machine of one cell, on a busy workstation.
const LIMIT: u64 = 900;
/// Seconds that a cell takes, before one was seen: two processors, two cells at a time.
const USUAL: u64 = 75;
/// Megabytes that a cell leaves, if 154 of them do: a dump has 36, some have one of bare QEMU too, and some have none.
const LEAVES: u64 = 50;
/// What the cells get to end after the drill was asked to.
const GRACE: Duration = Duration::from_secs(20);

const KERNELS: [&str; 4] = ["6.12", "6.12-rt", "6.12-16k", "6.1"];
const CPUS: [u32; 4] = [4, 1, 2, 8];
const GICS: [u32; 2] = [3, 2];
const MODELS: [&str; 5] = ["cortex-a57", "cortex-a72", "neoverse-n1", "neoverse-n2", "max"];
/// Entry and policy.
const ENTRIES: [(&str, &str); 3] = [("el2", "leave"), ("el2", "resident"), ("el1", "leave")];
/// Who does it: the first CPU, or the last.
const LAST: [bool; 2] = [false, true];
/// The way to end that is none to die.
const KEXEC: &str = "kexec";

/// How a cell ends: the ways to die and a kexec, all of them or those that need no test module.
fn hows(has_module: bool) -> Vec<&'static str> {
    let mut hows: Vec<_> = ways::WAYS.iter().filter(|way| has_module || !way.has_module).map(|way| way.name).collect();
    hows.insert(1, KEXEC);
    hows
}

/// Whether a kernel can end so.
fn can_end(how: &str, kernel: &Kernel) -> bool {
    Way::of(how).is_none_or(|way| way.why_not(kernel).is_none())
}

/// Variables that are the same for all machines.
const SHARED: [&str; 5] = ["QEMU", "EXEUNT_BIN", "PROFILE", "MODULES", "TREE"];

/// Dimensions, in the order of the covering's rows.
const HOW: usize = 0;
const MODEL: usize = 1;
const KERNEL: usize = 2;
const CPU: usize = 3;
const WAY: usize = 4;
const GIC: usize = 5;
const WHO: usize = 6;

/// How a Linux ends on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    how: &'static str,
    model: &'static str,
    /// As KERNEL= takes it, and as the cell is called by.
    kernel: (String, String),
    cpus: u32,
    way: (&'static str, &'static str),
    gic: u32,
    last: bool,
    /// Whether the memory is filled with a pattern, which the dump must have: by the test module.
    is_filled: bool,
}

impl Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { how, model, kernel: (_, kernel), cpus, way: (entry, policy), gic, .. } = self;
        let policy = if *entry == "el1" { "" } else { policy };
        let dash = if policy.is_empty() { "" } else { "-" };
        write!(f, "{how}-{entry}{dash}{policy}-{kernel}-{model}-smp{cpus}-gic{gic}-cpu{}", self.from())
    }
}

/// What came of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Pass,
    /// It failed, and so did bare QEMU, for the same reason.
    Alike,
    /// It failed.
    Fail,
    /// The drill was asked to end before it had one.
    NotRun,
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Alike => "ALIKE",
            Self::Fail => "FAIL",
            Self::NotRun => "NONE",
        })
    }
}

/// A cell's verdict, why, and how many seconds it took.
#[derive(Clone, Debug)]
pub struct Result {
    /// The verdict.
    pub verdict: Verdict,
    /// The last line of the run; of the baseline's too if that was run.
    pub why: String,
    /// What the run has told before it.
    pub report: String,
    /// Seconds.
    pub seconds: u64,
}

impl Result {
    fn not_run() -> Self {
        let why = "the drill was asked to end".to_owned();
        Self { verdict: Verdict::NotRun, why, report: String::new(), seconds: 0 }
    }
}

impl Cell {
    /// The CPU that restarts or dies.
    fn from(&self) -> u32 {
        if self.last { self.cpus - 1 } else { 0 }
    }

    /// What bare QEMU has of it.
    fn bare(&self) -> Bare {
        Way::of(self.how).map_or(Bare::Same, |way| way.bare)
    }

    /// Whether bare QEMU can do the same: it has nobody to call.
    fn has_baseline(&self) -> bool {
        self.bare() != Bare::Impossible
    }

    /// Its variables. `given` are those that the drill got for all of its machines.
    fn variables(&self, given: &BTreeMap<&'static str, String>, directory: &Path, bare: bool) -> Values {
        let (entry, policy) = self.way;
        let mut variables = given.clone();
        variables.extend([
            ("OUT", directory.display().to_string()),
            ("TIMEOUT", LIMIT.to_string()),
            ("ENTRY", entry.to_owned()),
            ("POLICY", policy.to_owned()),
            ("CPU", self.model.to_owned()),
            ("KERNEL", self.kernel.0.clone()),
            ("SMP", self.cpus.to_string()),
            ("GIC", self.gic.to_string()),
            ("FROM", self.from().to_string()),
            ("CRASH", self.how.to_owned()),
            // Three quarters of what is free for the kernel's own use hold a pattern, which the dump must have bit for
            // bit. More memory takes more time only.
            ("FILL", if self.is_filled { "12" } else { "0" }.to_owned()),
            ("MEM", "640M".to_owned()),
            // Eight CPUs in eight threads would wait for one another most of the time (the variable THREADS).
            ("THREADS", if self.cpus > 4 { "single" } else { "multi" }.to_owned()),
        ]);
        if bare {
            variables.insert("HYPERVISOR", "none".to_owned());
            variables.insert("EL", entry.trim_start_matches("el").to_owned());
        }
        let target = if self.how == KEXEC { Target::Kexec } else { Target::Kdump };
        Values::read(target, [], |name| variables.get(name).cloned()).unwrap_or_default()
    }

    fn told(&self, given: &BTreeMap<&'static str, String>, directory: &Path, places: &Places, bare: bool) -> Told {
        let directory = if bare { directory.join("bare") } else { directory.to_owned() };
        let values = self.variables(given, &directory, bare);
        let quiet = Progress::quiet();
        let in_words = |wrong: Wrong| wrong.to_string();
        let came: std::result::Result<(Output, Ran, RunsVerdict), String> = if self.how == KEXEC {
            Kexec::read(&values).map_err(in_words).and_then(|kexec| kexec.run(places, &quiet))
        } else {
            Kdump::read(&values).map_err(in_words).and_then(|kdump| kdump.in_short().run(places, &quiet))
        };
        match came {
            Err(error) => Told::Broken(error.replace('\n', " ")),
            Ok((_, ran, _)) if matches!(ran.end, End::Interrupted(_)) => Told::Interrupted,
            Ok((_, ran, verdict)) => {
                let line = verdict.last_line(&places.short(&ran.log).to_string());
                if verdict.passed() { Told::Pass(line, verdict.report) } else { Told::Fail(line, verdict.report) }
            }
        }
    }

    /// Runs it with its files in `directory`, and where it fails bare QEMU too, or where that saves less.
    fn run(&self, given: &BTreeMap<&'static str, String>, directory: &Path, places: &Places) -> Result {
        let begin = Instant::now();
        let told = self.told(given, directory, places, false);
        let is_enough = match told {
            Told::Pass(..) => ![Bare::Less, Bare::Lost].contains(&self.bare()),
            Told::Interrupted => true,
            Told::Fail(..) | Told::Broken(_) => false,
        };
        let bare = (!is_enough && self.has_baseline()).then(|| self.told(given, directory, places, true));
        if [Some(&told), bare.as_ref()].contains(&Some(&Told::Interrupted)) {
            return Result::not_run();
        }
        let (verdict, why) = judged(&told, bare.as_ref(), self.bare());
        Result { verdict, why, report: told.report(), seconds: begin.elapsed().as_secs() }
    }
}

/// What a run told by its last line, and the lines before it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    /// PASS, the whole line.
    Pass(String, String),
    /// FAIL, the whole line: a machine was run, and something was not as it should be.
    Fail(String, String),
    /// Neither: something of the runner's own went wrong, and nothing is known about a machine.
    Broken(String),
    /// It was asked to end.
    Interrupted,
}

impl Told {
    fn line(&self) -> &str {
        match self {
            Self::Pass(line, _) | Self::Fail(line, _) | Self::Broken(line) => line,
            Self::Interrupted => "asked to end",
        }
    }

    fn report(&self) -> String {
        match self {
            Self::Pass(_, report) | Self::Fail(_, report) => report.clone(),
            Self::Broken(_) | Self::Interrupted => String::new(),
        }
    }
}

/// The verdict on what was told of the machine under Exeunt, and of the bare one if that was run. They fail alike only
/// if both were run to a verdict, and the first thing that was wrong is the same. Where a bare machine is known to have
/// nothing (`known`) it is no excuse.
fn judged(told: &Told, bare: Option<&Told>, known: Bare) -> (Verdict, String) {
    let is_same = |line: &str, bare: &str| known != Bare::Lost && reason(line) == reason(bare);
    let verdict = match (told, bare) {
        (Told::Pass(..), _) => Verdict::Pass,
        (Told::Fail(line, _), Some(Told::Fail(bare, _))) if is_same(line, bare) => Verdict::Alike,
        _ => Verdict::Fail,
    };
    let bare = bare.map(|bare| format!("; bare QEMU: {}", bare.line())).unwrap_or_default();
    (verdict, format!("{}{bare}", told.line()))
}

/// The first reason of a line with FAIL, without the words that have a digit: sizes, times and addresses differ from
/// run to run, and so does what a kernel puts in front of a time to make it stand in a column.
fn reason(line: &str) -> Vec<&str> {
    let end = line.find([';', '(']).unwrap_or(line.len());
    let words = line[..end].split(|letter: char| letter.is_whitespace() || ['[', ']'].contains(&letter));
    words.filter(|word| !word.is_empty() && !word.contains(|letter: char| letter.is_ascii_digit())).collect()
}

/// A kernel of the matrix.
struct Candidate {
    kernel: Kernel,
    /// As cells are called by it.
    name: String,
}

/// What the matrix is made of: the kernels, and which of the ways to end are possible.
struct Scope {
    kernels: Vec<Candidate>,
    hows: Vec<&'static str>,
    models: Vec<&'static str>,
}

impl Scope {
    fn usual() -> Self {
        Self {
            kernels: KERNELS
                .map(|name| Candidate { kernel: Kernel::Named(name.to_owned()), name: name.to_owned() })
                .into(),
            hows: hows(true),
            models: MODELS.to_vec(),
        }
    }

    /// Whether its kernels have the test module: some ways to die take it.
    fn has_module(&self) -> bool {
        self.hows.iter().any(|how| Way::of(how).is_some_and(|way| way.has_module))
    }

    /// Values of two dimensions that do not go together.
    fn avoided(&self) -> Vec<(Value, Value)> {
        let one_cpu = (CPU, CPUS.iter().position(|&cpus| cpus == 1).expect("one CPU is among them"));
        let mut pairs = Vec::new();
        for (index, way) in self.hows.iter().enumerate().filter_map(|(index, name)| Some((index, Way::of(name)?))) {
            if way.others != Others::Bystanders {
                pairs.push(((HOW, index), one_cpu));
            }
            // The first CPU is not taken off, and on a machine with one CPU it is the last as well.
            if way.is_in_hotplug() {
                pairs.push(((HOW, index), (WHO, 0)));
            }
        }
        pairs.push((one_cpu, (WHO, 1)));
        for (index, Candidate { kernel, .. }) in self.kernels.iter().enumerate() {
            let others = (0..self.hows.len()).filter(|&how| !can_end(self.hows[how], kernel));
            pairs.extend(others.map(|how| ((HOW, how), (KERNEL, index))));
            if kernel.has_16k_pages() {
                let cores = (0..self.models.len()).filter(|&model| has_no_16k(self.models[model]));
                pairs.extend(cores.map(|model| ((KERNEL, index), (MODEL, model))));
            }
        }
        pairs
    }

    fn cell(&self, how: usize, model: usize, kernel: usize) -> Cell {
        let Candidate { kernel, name } = &self.kernels[kernel];
        Cell {
            how: self.hows[how],
            model: self.models[model],
            kernel: (kernel.to_string(), name.clone()),
            cpus: CPUS[0],
            way: ENTRIES[0],
            gic: GICS[0],
            last: LAST[0],
            is_filled: self.hows[how] != KEXEC && self.has_module(),
        }
    }

    /// A set of cells in which each two values of different dimensions meet.
    fn matrix(&self) -> Vec<Cell> {
        let sizes =
            [self.hows.len(), self.models.len(), self.kernels.len(), CPUS.len(), ENTRIES.len(), GICS.len(), LAST.len()];
        let cell = |row: Vec<usize>| Cell {
            cpus: CPUS[row[CPU]],
            way: ENTRIES[row[WAY]],
            gic: GICS[row[GIC]],
            last: LAST[row[WHO]],
            ..self.cell(row[HOW], row[MODEL], row[KERNEL])
        };
        covering::pairs(&sizes, &self.avoided()).into_iter().map(cell).collect()
    }

    /// The first cells: a crash and a kexec, with what most people will have, each once.
    fn cells(&self) -> Vec<Cell> {
        let mut cells =
            if self.has_module() && !self.kernels[0].kernel.has_16k_pages() { self.quick() } else { Vec::new() };
        for cell in self.matrix() {
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
        cells
    }

    fn quick(&self) -> Vec<Cell> {
        let how = |name| self.hows.iter().position(|each| *each == name).expect("a way to end");
        let cell = |name, way, last| Cell { way, last, ..self.cell(how(name), 0, 0) };
        vec![cell("sysrq", ENTRIES[0], true), cell("null", ENTRIES[1], false), cell("kexec", ENTRIES[2], true)]
    }
}

/// The names of the cells for `make test`.
#[must_use]
pub fn quick() -> Vec<String> {
    Scope::usual().quick().iter().map(ToString::to_string).collect()
}

/// What a person wants.
#[derive(Clone, Debug)]
pub struct Drill {
    /// The variables that all machines share.
    given: BTreeMap<&'static str, String>,
    cells: Vec<Cell>,
    /// What the person should know before it begins.
    notes: Vec<String>,
    kernels: Vec<Kernel>,
    out: Option<PathBuf>,
    junit: Option<PathBuf>,
}

impl Drill {
    /// Out of the variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(values: &Values) -> std::result::Result<Self, Wrong> {
        let mut scope = Scope::usual();
        let mut notes = Vec::new();
        if let Some(value) = values.get("KERNEL") {
            // As kdump reads it: what is wrong with one machine's variables is wrong with all.
            let kernel = Kernel::parse("KERNEL", value).map_err(|error| Wrong(vec![error]))?;
            let look_up = |name: &str| values.get(name).map(str::to_owned);
            let wanted = Wanted::read(Target::Kdump, &Values::read(Target::Kdump, [], look_up)?)?;
            let mut name = value.to_owned();
            if let Kernel::File(file) = &kernel {
                name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let one = |error| Wrong(vec![error]);
                machine::open_kernel(file, "KERNEL").map_err(one)?;
                if let Err(why) = wanted.can_have_module("the other ways to end", &kernel) {
                    scope.hows = hows(false);
                    notes.push(why);
                }
            }
            if kernel.has_16k_pages() {
                scope.models.retain(|model| !has_no_16k(model));
            }
            scope.hows.retain(|how| can_end(how, &kernel));
            scope.kernels = vec![Candidate { kernel, name }];
        }
        let mut cells = scope.cells();
        let parts: Vec<&str> = values.get("DRILL").unwrap_or_default().split_whitespace().collect();
        let is_asked_for = |cell: &Cell| parts.iter().any(|part| cell.to_string().contains(part));
        cells.retain(|cell| parts.is_empty() || is_asked_for(cell));
        if cells.is_empty() {
            return Err(Wrong(vec![format!(
                "DRILL={}: no cell has that in its name; `scripts/drill --list` names all",
                parts.join(" ")
            )]));
        }
        let mut kernels = Vec::new();
        for cell in &cells {
            let kernel = Kernel::parse("KERNEL", &cell.kernel.0).map_err(|error| Wrong(vec![error]))?;
            if !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
        }
        let given = SHARED.iter().filter_map(|&name| Some((name, values.get(name)?.to_owned()))).collect();
        let [out, junit] = ["OUT", "JUNIT"].map(|name| values.get(name).map(PathBuf::from));
        Ok(Self { given, cells, notes, kernels, out, junit })
    }

    /// The names of its cells.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.cells.iter().map(ToString::to_string).collect()
    }

    fn parts(&self) -> Vec<String> {
        let mut parts: Vec<String> = ["run", "disk", "drgn"].map(str::to_owned).into();
        let needs_module =
            self.cells.iter().any(|cell| cell.is_filled || Way::of(cell.how).is_some_and(|way| way.has_module));
        for kernel in &self.kernels {
            parts.extend(part_of(kernel));
            match kernel {
                Kernel::Named(name) if needs_module => parts.push(format!("module:{name}")),
                Kernel::File(_) if needs_module => parts.push("compiler".to_owned()),
                _ => {}
            }
        }
        parts
    }

    /// Runs the cells, prints what came of each, and returns the exit status. The page grows with each cell, so that
    /// there is something to look at.
    ///
    /// # Errors
    /// Something could not be set up or written; in words.
    pub fn run(&self, places: &Places) -> std::result::Result<i32, String> {
        let (directory, _lock) = take_directory(self.out.as_deref(), places)?;
        self.notes.iter().for_each(|note| say(&format!("note: {note}")));
        let estimate = self.cells.len() as u64 * USUAL / AT_A_TIME.min(self.cells.len()) as u64;
        let new = self.cells.iter().filter(|cell| !directory.join(cell.to_string()).join(PREVIOUS).exists()).count();
        let (needed, free) = (new as u64 * LEAVES, free_in(&directory)?);
        if needed > free {
            return Err(no_room(&places.short(&directory).to_string(), new, needed, free));
        }
        let cells = counted(self.cells.len());
        say(&format!("{cells}: about {}, and {} in {}", minutes(estimate), size(needed), places.short(&directory)));
        places.set_up(&self.parts())?;
        let asked = ask_to_end()?;
        // From here on a signal is told to the cells, and does not end this program.
        let _held = child::hold();
        let index = directory.join("index.html");
        let results = self.run_cells(places, &directory, &index, &asked);
        for (cell, result) in self.cells.iter().zip(&results) {
            print(&format!("{:5} {cell:64} {:5} s  {}", result.verdict.to_string(), result.seconds, result.why));
        }
        if let Some(file) = &self.junit {
            report::write_junit(file, "drill", &self.cases(&results))?;
        }
        let count = |verdict| results.iter().filter(|result| result.verdict == verdict).count();
        let (failed, not_run) = (count(Verdict::Fail), count(Verdict::NotRun));
        let more = if not_run > 0 { format!(", {not_run} not run") } else { String::new() };
        print(&format!("{}, {failed} failed{more}; {}", counted(results.len()), places.short(&index)));
        Ok(match asked.load(Ordering::SeqCst) {
            0 => i32::from(failed > 0),
            signal => BY_A_SIGNAL + i32::try_from(signal).unwrap_or_default(),
        })
    }

    /// Runs them, and returns what came of each, in their order.
    fn run_cells(&self, places: &Places, directory: &Path, index: &Path, asked: &Arc<AtomicUsize>) -> Vec<Result> {
        let queue = Arc::new(Mutex::new(self.cells.clone().into_iter().enumerate().collect::<Vec<_>>().into_iter()));
        let (sender, receiver) = mpsc::channel();
        let all = self.cells.len();
        for _ in 0..AT_A_TIME {
            let (queue, sender, asked) = (Arc::clone(&queue), sender.clone(), Arc::clone(asked));
            let (given, directory, places) = (self.given.clone(), directory.to_owned(), places.clone());
            thread::spawn(move || {
                while asked.load(Ordering::SeqCst) == 0 {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((number, cell)) = next else { break };
                    say(&format!("[{}/{all}] {cell} ...", number + 1));
                    let result = cell.run(&given, &directory.join(cell.to_string()), &places);
                    if sender.send((number, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let begin = Instant::now();
        let mut results: Vec<Option<Result>> = vec![None; all];
        let mut deadline = None;
        loop {
            if asked.load(Ordering::SeqCst) != 0 && deadline.is_none() {
                say("asked to end: the machines are ended");
                deadline = Some(Instant::now() + GRACE);
            }
            match receiver.recv_timeout(Duration::from_millis(100)) {
                Ok((number, result)) => {
                    let done = 1 + results.iter().flatten().count();
                    let seconds = begin.elapsed().as_secs() * (all - done) as u64 / done as u64;
                    let more = if done < all { format!("; {} more", minutes(seconds)) } else { String::new() };
                    let name = &self.cells[number];
                    say(&format!("[{}/{all}] {name} {} in {} s{more}", number + 1, result.verdict, result.seconds));
                    results[number] = Some(result);
                    let so_far = self.cells.iter().zip(&results);
                    let so_far: Vec<_> = so_far.filter_map(|(cell, result)| Some((cell, result.as_ref()?))).collect();
                    if let Err(error) = fs::write(index, page(&so_far, directory)) {
                        say(&format!("{}: {error}", index.display()));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                // What a cell has started beside its machine ends by itself.
                Err(RecvTimeoutError::Timeout) if deadline.is_some_and(|deadline| Instant::now() > deadline) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        results.into_iter().map(|result| result.unwrap_or_else(Result::not_run)).collect()
    }

    /// The results for a JUnit file. What fails on bare QEMU too is nothing that this project could pass.
    fn cases(&self, results: &[Result]) -> Vec<Case> {
        let case = |(cell, result): (&Cell, &Result)| Case {
            name: cell.to_string(),
            took: Duration::from_secs(result.seconds),
            end: match result.verdict {
                Verdict::Pass => CaseEnd::Passed,
                Verdict::Alike | Verdict::NotRun => CaseEnd::Skipped(result.why.clone()),
                Verdict::Fail => CaseEnd::Failed(result.why.clone()),
            },
            output: result.report.clone(),
        };
        self.cells.iter().zip(results).map(case).collect()
    }
}

/// The drill's directory: OUT, or target/drill. Nothing of it is removed but what a cell has left in its own. Two
/// drills do not share it.
fn take_directory(
    out: Option<&Path>,
    places: &Places,
) -> std::result::Result<(PathBuf, (Option<Output>, File)), String> {
    let output = out.map(Output::take).transpose().map_err(|error| format!("OUT: {error}"))?;
    let directory = out.map_or_else(|| places.target().join("drill"), Path::to_owned);
    let lock = directory.join(".lock");
    let cannot = |error| format!("{}: {error}", lock.display());
    fs::create_dir_all(&directory).map_err(cannot)?;
    let file = File::create(&lock).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok((directory, (output, file))),
        Err(TryLockError::WouldBlock) => Err(format!("{}: another drill is using it", directory.display())),
        Err(TryLockError::Error(error)) => Err(cannot(error)),
    }
}

/// The number of the signal by which the drill is asked to end, once it is. Asked twice it ends at once.
fn ask_to_end() -> std::result::Result<Arc<AtomicUsize>, String> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::flag;

    let asked = Arc::new(AtomicUsize::new(0));
    let twice = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let number = usize::try_from(signal).unwrap_or_default();
        flag::register_conditional_shutdown(signal, BY_A_SIGNAL + signal, Arc::clone(&twice))
            .and_then(|_| flag::register(signal, Arc::clone(&twice)))
            .and_then(|_| flag::register_usize(signal, Arc::clone(&asked), number))
            .map_err(|error| format!("signals: {error}"))?;
    }
    Ok(asked)
}

fn minutes(seconds: u64) -> String {
    if seconds < 90 { format!("{seconds} s") } else { format!("{} minutes", seconds.div_ceil(60)) }
}

/// Megabytes that are free where this directory is.
fn free_in(directory: &Path) -> std::result::Result<u64, String> {
    let found = rustix::fs::statvfs(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize) / 1_000_000)
}

/// Why a drill does not begin: there, so many cells that leave something new need more megabytes than are free.
fn no_room(directory: &str, cells: usize, needed: u64, free: u64) -> String {
    format!(
        "{} {} {} in {directory}, where {} are free; OUT= names another place, and DRILL= takes fewer cells",
        counted(cells),
        if cells == 1 { "leaves" } else { "leave" },
        size(needed),
        size(free)
    )
}

/// Megabytes, in words.
fn size(megabytes: u64) -> String {
    match megabytes {
        0..1000 => format!("{megabytes} MB"),
        _ => format!("{}.{} GB", megabytes / 1000, megabytes % 1000 / 100),
    }
}

/// So many cells, in words.
fn counted(cells: usize) -> String {
    if cells == 1 { "1 cell".to_owned() } else { format!("{cells} cells") }
}

/// The results as a page: each cell with links to what its machine left.
fn page(results: &[(&Cell, &Result)], directory: &Path) -> String {
    let mut rows = String::new();
    for (cell, result) in results {
        let mut links = String::new();
        for file in ["console.log", "report.txt", "dump", "bare/console.log", "bare/report.txt"] {
            if directory.join(cell.to_string()).join(file).exists() {
                let _ = write!(links, " <a href=\"{cell}/{file}\">{file}</a>");
            }
        }
        let Result { verdict, why, seconds, .. } = result;
        let why = escaped(why);
        let _ = writeln!(rows, "<tr class=\"{verdict}\"><td>{verdict}<td>{cell}<td>{seconds} s<td>{why}<td>{links}");
    }
    format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>Exeunt: the drill</title>\n<style>\n\
         body {{ font: 14px sans-serif; margin: 2em }}\ntable {{ border-collapse: collapse }}\n\
         td {{ border: 1px solid #ccc; padding: 3px 8px; vertical-align: top }}\n\
         .PASS td:first-child {{ background: #cfc }}\n\
         .ALIKE td:first-child {{ background: #ffc }}\n.FAIL td:first-child {{ background: #fcc }}\n</style>\n\
         <h1>The drill</h1>\n<p>ALIKE: it failed, and so did bare QEMU, for the same reason.\n<table>\n{rows}</table>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_way_to_end_meets_every_model_kernel_and_entry() {
        let cells = Scope::usual().matrix();
        for how in hows(true) {
            for model in MODELS {
                assert!(cells.iter().any(|cell| (cell.how, cell.model) == (how, model)), "{how} {model}");
            }
            for kernel in KERNELS {
                let is_met = cells.iter().any(|cell| (cell.how, cell.kernel.0.as_str()) == (how, kernel));
                let is_possible = kernel != "6.12-rt" || !["hung-early", "busy-all"].contains(&how);
                assert_eq!(is_met, is_possible, "{how} {kernel}");
            }
            for way in ENTRIES {
                assert!(cells.iter().any(|cell| (cell.how, cell.way) == (how, way)), "{how} {way:?}");
            }
        }
        for cell in cells {
            let needs_two = Way::of(cell.how).is_some_and(|way| way.others != Others::Bystanders);
            assert!(!needs_two || cell.cpus > 1, "{cell}");
            assert!(!cell.how.starts_with("hotplug") || cell.from() > 0, "{cell}");
        }
    }

    #[test]
    fn only_two_machines_with_the_same_fault_fail_alike() {
        let pass = || Told::Pass("PASS: x".into(), String::new());
        let fail = |line: &str| Told::Fail(format!("FAIL: {line}"), String::new());
        let broken = || Told::Broken("status 125: ".into());
        let verdict_of = |told: Told, bare: Option<Told>, known| judged(&told, bare.as_ref(), known).0;
        let verdict = |told, bare| verdict_of(told, bare, Bare::Same);
        assert_eq!(verdict(pass(), None), Verdict::Pass);
        assert_eq!(verdict(fail("no"), None), Verdict::Fail);
        assert_eq!(verdict(fail("no"), Some(pass())), Verdict::Fail);
        assert_eq!(verdict(fail("of 12 none; b (console: c)"), Some(fail("of 13 none (console: d)"))), Verdict::Alike);
        assert_eq!(verdict(fail("no"), Some(fail("yes"))), Verdict::Fail);
        let oops =
            |time: &str, address: &str| fail(&format!("the last is \"[{time}] Oops at {address}\" (console: a)"));
        let faster = oops("    8.382549", "ffffb5a0");
        assert_eq!(verdict(oops("   10.014568", "ffff8c04"), Some(faster.clone())), Verdict::Alike);
        assert_eq!(verdict(fail("the last is \"[   10.014568] Bye!\""), Some(faster)), Verdict::Fail);
        // What Exeunt is there to save it has not saved.
        let stands = || fail("QEMU took too long");
        assert_eq!(verdict_of(stands(), Some(stands()), Bare::Less), Verdict::Alike);
        assert_eq!(verdict_of(stands(), Some(stands()), Bare::Lost), Verdict::Fail);
        assert_eq!(verdict_of(pass(), Some(stands()), Bare::Lost), Verdict::Pass);
        assert_eq!(verdict(broken(), Some(broken())), Verdict::Fail);
        assert_eq!(verdict(fail("no"), Some(broken())), Verdict::Fail);
        assert_eq!(verdict(broken(), Some(fail("no"))), Verdict::Fail);
    }

    #[test]
    fn names_tell_cells_apart() {
        let cells = Scope::usual().cells();
        let names: BTreeSet<String> = cells.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), cells.len());
        assert!(quick().iter().all(|name| names.contains(name)));
    }

    fn read(set: &[(&str, &str)]) -> std::result::Result<Drill, Wrong> {
        let look_up = |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        Drill::read(&Values::read(Target::Drill, [], look_up)?)
    }

    #[test]
    fn a_kernel_of_debians_meets_every_way_to_end_alone() {
        let drill = read(&[("KERNEL", "testing")]).unwrap();
        assert!(drill.names().iter().all(|name| name.contains("-testing-")));
        assert!(
            hows(true)
                .iter()
                .all(|how| drill.cells.iter().any(|cell| cell.how == *how && (cell.is_filled || *how == KEXEC)))
        );
        assert!(drill.names().len() < read(&[]).unwrap().names().len());
        assert!(drill.parts().contains(&"module:testing".to_owned()));
        let realtime = read(&[("KERNEL", "7.2-rt")]).unwrap();
        assert!(realtime.cells.iter().all(|cell| !["hung-early", "busy-all"].contains(&cell.how)));
        let realtime = read(&[("KERNEL", "6.1-rt")]).unwrap();
        assert!(realtime.cells.iter().any(|cell| cell.how == "hung-early"));
        let pages = read(&[("KERNEL", "7.2-16k")]).unwrap();
        assert!(pages.cells.iter().all(|cell| !cell.model.starts_with("cortex")));
    }

    #[test]
    fn a_file_without_its_build_tree_dies_in_the_ways_that_need_no_module() {
        let file = std::env::temp_dir().join(format!("exeunt-drill-{}-Image", std::process::id()));
        let mut image = vec![0; 4096];
        image[56..60].copy_from_slice(b"ARM\x64");
        fs::write(&file, image).unwrap();
        let path = file.display().to_string();
        let drill = read(&[("KERNEL", &path)]).unwrap();
        assert!(drill.cells.iter().all(|cell| Way::of(cell.how).is_none_or(|way| !way.has_module) && !cell.is_filled));
        assert!(["kexec", "sysrq", "forced"].iter().all(|how| drill.cells.iter().any(|cell| cell.how == *how)));
        assert!(drill.notes[0].contains("TREE= names"), "{:?}", drill.notes);
        assert!(!drill.parts().contains(&"compiler".to_owned()));
        let cell = &drill.cells[0];
        let values = cell.variables(&drill.given, Path::new("/out"), true);
        assert_eq!((values.get("KERNEL"), values.get("HYPERVISOR")), (Some(path.as_str()), Some("none")));
        let with_tree = read(&[("KERNEL", &path), ("TREE", "/tmp")]).unwrap();
        assert!(with_tree.cells.iter().any(|cell| cell.how == "stuck" && cell.is_filled));
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn parts_of_names_choose_cells() {
        assert_eq!(read(&[("DRILL", &quick()[0])]).unwrap().names(), quick()[..1]);
        let wrong = read(&[("DRILL", "nothing-like-it")]).unwrap_err().to_string();
        assert!(wrong.contains("no cell has that in its name"), "{wrong}");
        assert!(read(&[("KERNEL", "/nowhere")]).is_err());
    }

    #[test]
    fn a_full_disk_is_named_before_it_is_full() {
        let words = no_room("target/drill", 154, 15_400, 7_290);
        assert!(words.starts_with("154 cells leave 15.4 GB in target/drill, where 7.2 GB are free; "), "{words}");
        let words = no_room("/mnt", 1, 100, 0);
        assert!(words.starts_with("1 cell leaves 100 MB in /mnt, where 0 MB are free; "), "{words}");
        assert!(free_in(Path::new("/nowhere")).unwrap_err().contains("/nowhere: No such file"));
    }

    #[test]
    fn what_scripts_say_is_no_markup() {
        let result = Result { verdict: Verdict::Fail, why: "a < b & c".into(), report: String::new(), seconds: 1 };
        let page = page(&[(&Scope::usual().quick()[0], &result)], Path::new("/nowhere"));
        assert!(page.contains("a &lt; b &amp; c") && page.contains("class=\"FAIL\""), "{page}");
    }
}
