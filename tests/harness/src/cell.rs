//! A cell: a name, a function, and what happens around it.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::{Completion, Failed, Trial};

use crate::machine::Machine;
use crate::paths;

/// Lines of each console that a failure shows.
const TAIL: usize = 40;

/// How a cell did not pass.
#[derive(Debug)]
pub enum Missed {
    /// Something was not as it should be.
    Failed(String),
    /// This machine cannot run it, for example because its QEMU lacks a CPU model. Said out loud, not counted as a
    /// failure.
    Skipped(String),
}

impl Missed {
    /// The same, and which of several things it was about.
    #[must_use]
    pub fn about(self, what: &str) -> Self {
        match self {
            Self::Failed(reason) => Self::Failed(format!("{what}: {reason}")),
            Self::Skipped(reason) => Self::Skipped(format!("{what}: {reason}")),
        }
    }
}

impl<E: Display> From<E> for Missed {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What a cell's function returns.
pub type Outcome = Result<(), Missed>;

/// Fails the cell with a formatted reason unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($argument:tt)+) => {
        if !$condition {
            return Err($crate::cell::Missed::Failed(format!($($argument)+)));
        }
    };
}

type Test = Box<dyn FnOnce(&Context) -> Outcome + Send>;

/// One test.
pub struct Cell {
    name: String,
    slow: bool,
    test: Test,
}

impl Cell {
    /// A test that `make test` runs.
    pub fn new(name: impl Into<String>, test: impl FnOnce(&Context) -> Outcome + Send + 'static) -> Self {
        Self { name: name.into(), slow: false, test: Box::new(test) }
    }

    /// The same test, only for `make test-all` if `slow`.
    #[must_use]
    pub fn slow(mut self, slow: bool) -> Self {
        self.slow = slow;
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether only `make test-all` runs it.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.slow
    }

    /// For libtest-mimic.
    pub(crate) fn into_trial(self) -> Trial {
        let Self { name, slow, test } = self;
        let directory = paths::of_cell(&name);
        Trial::ignorable_test(name, move || run(directory, test)).with_ignored_flag(slow)
    }
}

fn run(directory: PathBuf, test: Test) -> Result<Completion, Failed> {
    let context = Context { directory, machines: AtomicUsize::new(0) };
    // Nothing of an earlier run may be taken for this one's.
    let _ = fs::remove_dir_all(&context.directory);
    match test(&context) {
        Ok(()) => {
            let _ = fs::remove_dir_all(&context.directory);
            Ok(Completion::Completed)
        }
        Err(Missed::Skipped(reason)) => {
            let _ = fs::remove_dir_all(&context.directory);
            Ok(Completion::ignored_with(reason))
        }
        Err(Missed::Failed(reason)) => Err(Failed::from(format!("{reason}\n{}", Consoles(&context.directory)))),
    }
}

/// What a cell's function gets: the way to machines of its own.
pub struct Context {
    directory: PathBuf,
    machines: AtomicUsize,
}

impl Context {
    /// A machine, with a directory of its own below the cell's.
    #[must_use]
    pub fn machine(&self) -> Machine {
        let number = self.machines.fetch_add(1, Ordering::Relaxed) + 1;
        Machine::new(self.directory.join(format!("machine-{number}")))
    }

    /// The cell's directory, for files that a machine needs.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(&self) -> Result<&Path, Missed> {
        fs::create_dir_all(&self.directory)?;
        Ok(&self.directory)
    }
}

/// Shows the ends of all consoles below a directory.
struct Consoles<'a>(&'a Path);

impl Display for Consoles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut logs = Vec::new();
        find_logs(self.0, &mut logs);
        for log in logs {
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            writeln!(f, "--- the end of {} ---", log.display())?;
            for line in &lines[lines.len().saturating_sub(TAIL)..] {
                writeln!(f, "    {}", line.trim_end())?;
            }
        }
        Ok(())
    }
}

fn find_logs(directory: &Path, logs: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            find_logs(&path, logs);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            logs.push(path);
        }
    }
    logs.sort();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("exeunt-tests-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn a_failure_shows_the_end_of_the_console_and_keeps_it() {
        let directory = directory("failure");
        let place = directory.clone();
        let result = run(
            directory.clone(),
            Box::new(move |_| {
                fs::create_dir_all(&place)?;
                let console: Vec<String> = (0..100).map(|number| format!("line {number}\r\n")).collect();
                fs::write(place.join("console.log"), console.concat())?;
                Err(Missed::Failed("it broke".into()))
            }),
        );
        let message = result.err().unwrap().message().unwrap().to_owned();
        assert!(message.starts_with("it broke\n"), "{message}");
        assert!(message.contains("    line 99\n") && message.contains("line 60\n") && !message.contains("line 59"));
        assert!(directory.join("console.log").exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn success_and_skipping_leave_nothing_behind() {
        let directory = directory("success");
        assert!(run(directory.clone(), Box::new(|_| Ok(()))).is_ok());
        assert!(!directory.exists());
        let skipped = run(directory.clone(), Box::new(|_| Err(Missed::Skipped("no such CPU".into()))));
        assert!(matches!(skipped, Ok(Completion::Ignored { .. })));
    }
}
