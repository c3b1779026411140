//! The drill: a Linux dies or is restarted in each way that matters, on each kind of machine, and what comes of it is
//! looked at.
//!
//! Owns the matrix and its cells. A cell is one run of `scripts/kexec` or `scripts/kdump` with their variables; its
//! directory is target/drill/NAME. A cell that fails is run again on bare QEMU: where that fails as well, the fault is
//! the baseline's, and the cell says so.

use std::fmt::{self, Display, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use runner::kdump::CRASHES;

use crate::covering::{self, Value};
use crate::{paths, process, variables};

/// Seconds for the machine of one cell, on a busy workstation.
const LIMIT: u64 = 900;
/// The time for set-up, builds and the reading of the dump beside it.
const BESIDE: Duration = Duration::from_mins(20);

const KERNELS: [&str; 4] = ["6.12", "6.12-rt", "6.12-16k", "6.1"];
const CPUS: [u32; 4] = [4, 1, 2, 8];
const GICS: [u32; 2] = [3, 2];
const MODELS: [&str; 5] = ["cortex-a57", "cortex-a72", "neoverse-n1", "neoverse-n2", "max"];
/// Entry and policy.
const WAYS: [(&str, &str); 3] = [("el2", "leave"), ("el2", "resident"), ("el1", "leave")];
/// Who does it: the first CPU, or the last.
const LAST: [bool; 2] = [false, true];
/// How it ends: by a kexec, or by a kind of crash that `scripts/kdump` knows.
const HOWS: [&str; CRASHES.len() + 1] = {
    let mut hows = ["kexec"; CRASHES.len() + 1];
    hows[0] = CRASHES[0];
    let mut index = 1;
    while index < CRASHES.len() {
        hows[index + 1] = CRASHES[index];
        index += 1;
    }
    hows
};

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
    kernel: &'static str,
    cpus: u32,
    way: (&'static str, &'static str),
    gic: u32,
    last: bool,
}

impl Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { how, model, kernel, cpus, way: (entry, policy), gic, .. } = self;
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
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Alike => "ALIKE",
            Self::Fail => "FAIL",
        })
    }
}

/// A cell's verdict, why, and how many seconds it took.
#[derive(Clone, Debug)]
pub struct Result {
    /// The verdict.
    pub verdict: Verdict,
    /// The last line of the script; of the baseline's too if that was run.
    pub why: String,
    /// Seconds.
    pub seconds: u64,
}

impl Cell {
    /// The CPU that restarts or dies.
    fn from(&self) -> u32 {
        if self.last { self.cpus - 1 } else { 0 }
    }

    /// Whether bare QEMU can do the same: it has nobody to call.
    fn has_baseline(&self) -> bool {
        !["hvc", "hvc-other", "leave"].contains(&self.how)
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        paths::target().join("drill").join(self.to_string())
    }

    fn script(&self, bare: bool) -> std::result::Result<process::Ended, process::Error> {
        let (entry, policy) = self.way;
        let mut variables = vec![
            ("ENTRY", entry.to_owned()),
            ("POLICY", policy.to_owned()),
            ("CPU", self.model.to_owned()),
            ("KERNEL", self.kernel.to_owned()),
            ("SMP", self.cpus.to_string()),
            ("GIC", self.gic.to_string()),
            ("FROM", self.from().to_string()),
            ("CRASH", self.how.to_owned()),
            // Three quarters of what is free for the kernel's own use hold a pattern, which the dump must have bit for
            // bit. More memory takes more time only.
            ("FILL", "12".to_owned()),
            ("MEM", "640M".to_owned()),
            // Eight CPUs in eight threads would wait for one another most of the time (the variable THREADS).
            ("THREADS", if self.cpus > 4 { "single" } else { "multi" }.to_owned()),
        ];
        if bare {
            variables.push(("HYPERVISOR", "none".to_owned()));
            variables.push(("EL", entry.trim_start_matches("el").to_owned()));
        }
        let directory = if bare { self.directory().join("bare") } else { self.directory() };
        run_script(if self.how == "kexec" { "kexec" } else { "kdump" }, &directory, &variables)
    }

    /// Runs it, and where it fails bare QEMU too.
    #[must_use]
    pub fn run(&self) -> Result {
        // Nothing of an earlier run may be taken for this one's.
        let _ = fs::remove_dir_all(self.directory());
        let begin = Instant::now();
        let told = told(self.script(false));
        let bare = (!matches!(told, Told::Pass(_)) && self.has_baseline()).then(|| self::told(self.script(true)));
        let (verdict, why) = judged(&told, bare.as_ref());
        Result { verdict, why, seconds: begin.elapsed().as_secs() }
    }
}

/// Runs `scripts/kexec` or `scripts/kdump` with these variables and no others; its files go to `directory`.
///
/// # Errors
/// When it cannot be started or does not end.
pub fn run_script(
    script: &str,
    directory: &Path,
    variables: &[(&str, String)],
) -> std::result::Result<process::Ended, process::Error> {
    let mut command = Command::new(paths::root().join("scripts").join(script));
    command.current_dir(paths::root());
    variables::clear(&mut command);
    command.env("OUT", directory).env("TIMEOUT", LIMIT.to_string());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    process::run(&mut command, Duration::from_secs(LIMIT) + BESIDE)
}

/// What a script told by its last line and its status.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    /// PASS, the whole line.
    Pass(String),
    /// FAIL, the whole line: a machine was run, and something was not as it should be.
    Fail(String),
    /// Neither: the script itself went wrong, and nothing is known about a machine.
    Broken(String),
}

impl Told {
    fn line(&self) -> &str {
        let (Self::Pass(line) | Self::Fail(line) | Self::Broken(line)) = self;
        line
    }
}

fn told(ended: std::result::Result<process::Ended, process::Error>) -> Told {
    match ended {
        Ok(ended) => {
            let last = ended.stdout.lines().last().unwrap_or_default();
            match ended.status {
                0 if last.starts_with("PASS: ") => Told::Pass(last.to_owned()),
                1 if last.starts_with("FAIL: ") => Told::Fail(last.to_owned()),
                status => Told::Broken(format!("status {status}: {last} {}", process::tail(&ended.stderr, 1))),
            }
        }
        Err(error) => Told::Broken(error.to_string().replace('\n', " ")),
    }
}

/// The verdict on what was told of the machine under Exeunt, and of the bare one if that was run. They fail alike only
/// if both were run to a verdict, and the first thing that was wrong is the same.
fn judged(told: &Told, bare: Option<&Told>) -> (Verdict, String) {
    let verdict = match (told, bare) {
        (Told::Pass(_), _) => Verdict::Pass,
        (Told::Fail(line), Some(Told::Fail(bare))) if reason(line) == reason(bare) => Verdict::Alike,
        _ => Verdict::Fail,
    };
    let bare = bare.map(|bare| format!("; bare QEMU: {}", bare.line())).unwrap_or_default();
    (verdict, format!("{}{bare}", told.line()))
}

/// The first reason of a line with FAIL, without the numbers in it: sizes and times differ from run to run.
fn reason(line: &str) -> String {
    let end = line.find([';', '(']).unwrap_or(line.len());
    line[..end].chars().filter(|character| !character.is_ascii_digit()).collect::<String>().trim_end().to_owned()
}

/// Values of two dimensions that do not go together.
fn avoided() -> Vec<(Value, Value)> {
    let how = |name| (HOW, HOWS.iter().position(|each| *each == name).expect("a way to end"));
    let one_cpu = (CPU, CPUS.iter().position(|&cpus| cpus == 1).expect("one CPU is among them"));
    // There must be another CPU, or one that can go off.
    let mut pairs: Vec<_> =
        ["hvc-other", "stuck", "hotplug", "hotplug-down", "leave"].map(|name| (how(name), one_cpu)).into();
    // The first CPU is not taken off, and on a machine with one CPU it is the last as well.
    pairs.extend(["hotplug", "hotplug-down"].map(|name| (how(name), (WHO, 0))));
    pairs.push((one_cpu, (WHO, 1)));
    // These cores have no 16 KiB granule.
    let pages_16k = (KERNEL, KERNELS.iter().position(|kernel| kernel.ends_with("-16k")).expect("a kernel"));
    let cannot = |model: &&str| ["cortex-a57", "cortex-a72"].contains(model);
    let cores = (0..MODELS.len()).filter(|&index| cannot(&MODELS[index]));
    pairs.extend(cores.map(|index| (pages_16k, (MODEL, index))));
    pairs
}

/// A set of cells in which each two values of different dimensions meet.
#[must_use]
pub fn matrix() -> Vec<Cell> {
    let sizes = [HOWS.len(), MODELS.len(), KERNELS.len(), CPUS.len(), WAYS.len(), GICS.len(), LAST.len()];
    let cell = |row: Vec<usize>| Cell {
        how: HOWS[row[HOW]],
        model: MODELS[row[MODEL]],
        kernel: KERNELS[row[KERNEL]],
        cpus: CPUS[row[CPU]],
        way: WAYS[row[WAY]],
        gic: GICS[row[GIC]],
        last: LAST[row[WHO]],
    };
    covering::pairs(&sizes, &avoided()).into_iter().map(cell).collect()
}

/// The cells for `make test`: a crash and a kexec, with what most people will have.
#[must_use]
pub fn quick() -> Vec<Cell> {
    let cell = |how, way, last| Cell { how, model: MODELS[0], kernel: KERNELS[0], cpus: 4, way, gic: 3, last };
    vec![cell("sysrq", WAYS[0], true), cell("null", WAYS[1], false), cell("kexec", WAYS[2], true)]
}

/// The results as a page: each cell with links to what its machine left.
#[must_use]
pub fn page(results: &[(Cell, Result)]) -> String {
    let mut rows = String::new();
    for (cell, result) in results {
        let mut links = String::new();
        for file in ["console.log", "report.txt", "dump", "bare/console.log", "bare/report.txt"] {
            if cell.directory().join(file).exists() {
                let _ = write!(links, " <a href=\"{cell}/{file}\">{file}</a>");
            }
        }
        let Result { verdict, why, seconds } = result;
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
        let cells = matrix();
        for how in HOWS {
            for model in MODELS {
                assert!(cells.iter().any(|cell| (cell.how, cell.model) == (how, model)), "{how} {model}");
            }
            for kernel in KERNELS {
                assert!(cells.iter().any(|cell| (cell.how, cell.kernel) == (how, kernel)), "{how} {kernel}");
            }
            for way in WAYS {
                assert!(cells.iter().any(|cell| (cell.how, cell.way) == (how, way)), "{how} {way:?}");
            }
        }
        for cell in cells {
            let needs_two = ["hvc-other", "stuck", "hotplug", "hotplug-down", "leave"].contains(&cell.how);
            assert!(!needs_two || cell.cpus > 1, "{cell}");
            assert!(!cell.how.starts_with("hotplug") || cell.from() > 0, "{cell}");
        }
    }

    #[test]
    fn only_two_machines_with_the_same_fault_fail_alike() {
        let pass = || Told::Pass("PASS: x".into());
        let fail = |line: &str| Told::Fail(format!("FAIL: {line}"));
        let broken = || Told::Broken("status 125: ".into());
        let verdict = |told: Told, bare: Option<Told>| judged(&told, bare.as_ref()).0;
        assert_eq!(verdict(pass(), None), Verdict::Pass);
        assert_eq!(verdict(fail("no"), None), Verdict::Fail);
        assert_eq!(verdict(fail("no"), Some(pass())), Verdict::Fail);
        assert_eq!(verdict(fail("of 12 none; b (console: c)"), Some(fail("of 13 none (console: d)"))), Verdict::Alike);
        assert_eq!(verdict(fail("no"), Some(fail("yes"))), Verdict::Fail);
        assert_eq!(verdict(broken(), Some(broken())), Verdict::Fail);
        assert_eq!(verdict(fail("no"), Some(broken())), Verdict::Fail);
        assert_eq!(verdict(broken(), Some(fail("no"))), Verdict::Fail);
    }

    #[test]
    fn names_tell_cells_apart() {
        let cells: Vec<Cell> = matrix().into_iter().chain(quick()).collect();
        let different = cells.iter().fold(Vec::new(), |mut seen: Vec<&Cell>, cell| {
            if !seen.contains(&cell) {
                seen.push(cell);
            }
            seen
        });
        let names: BTreeSet<String> = cells.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), different.len());
    }

    #[test]
    fn what_scripts_say_is_no_markup() {
        let result = Result { verdict: Verdict::Fail, why: "a < b & c".into(), seconds: 1 };
        let page = page(&[(quick().remove(0), result)]);
        assert!(page.contains("a &lt; b &amp; c") && page.contains("class=\"FAIL\""), "{page}");
    }
}
