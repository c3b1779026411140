//! A machine: variables for `scripts/run`, and what came of running it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use runner::console;

use crate::cell::Missed;
use crate::process::{self, Ended, Running};
use crate::{ensure, paths, variables};

/// Seconds that a machine may run. A boot takes a few; the rest is for slow and busy workstations.
const LIMIT: u64 = 420;

/// For the host's command line: its detectors measure wall-clock time, which on a busy machine says nothing about the
/// guest. What really hangs meets the time limit.
pub const PATIENT: &str = "nosoftlockup rcupdate.rcu_cpu_stall_suppress=1";
/// Time for what scripts/run does before it starts QEMU: set-up and builds, which may wait for those of another cell.
const BEFORE: Duration = Duration::from_mins(15);

/// Exit status of scripts/run when Exeunt panicked or refused to start.
pub const EXEUNT_FAILED: i32 = 126;

/// How the host is entered: Exeunt's option `entry=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// At EL1.
    El1,
    /// At virtual EL2.
    VirtualEl2,
}

impl Entry {
    /// Both.
    pub const ALL: [Self; 2] = [Self::El1, Self::VirtualEl2];

    /// The option's value, and what cells are called by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::El1 => "el1",
            Self::VirtualEl2 => "el2",
        }
    }

    /// The level as a kernel names it.
    #[must_use]
    pub const fn level(self) -> &'static str {
        match self {
            Self::El1 => "EL1",
            Self::VirtualEl2 => "EL2",
        }
    }
}

/// A machine to run.
pub struct Machine {
    variables: BTreeMap<&'static str, String>,
    directory: PathBuf,
    limit: u64,
    /// The host is a program of the tests', which says its exit status before it powers off.
    says_its_status: bool,
}

impl Machine {
    /// The machine that scripts/run starts without any variable, its console in `directory`.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { variables: BTreeMap::new(), directory, limit: LIMIT, says_its_status: false }
    }

    /// Sets a variable of the runner.
    #[must_use]
    pub fn with(mut self, variable: &'static str, value: impl Display) -> Self {
        debug_assert!(variables::all().any(|known| known == variable), "{variable}");
        self.variables.insert(variable, value.to_string());
        self
    }

    /// How the host is entered, with further options for Exeunt.
    #[must_use]
    pub fn entered(self, entry: Entry, options: &str) -> Self {
        self.with("EXEUNT", format!("entry={} {options}", entry.name()))
    }

    /// Adds arguments for QEMU.
    #[must_use]
    pub fn with_qemu(mut self, arguments: impl Display) -> Self {
        let extra = self.variables.entry("QEMU_EXTRA").or_default();
        extra.push(' ');
        extra.push_str(&arguments.to_string());
        self
    }

    /// A bare-metal guest as the host, with its command line.
    #[must_use]
    pub fn guest(mut self, image: &Path, arguments: &str) -> Self {
        self.says_its_status = true;
        self.with("KERNEL", image.display()).with("INITRD", "none").with("APPEND", arguments)
    }

    /// Exeunt as it is built from the sources, also when EXEUNT_BIN names a ready image: for tests that look at
    /// symbols.
    #[must_use]
    pub fn own_build(self) -> Self {
        self.with("EXEUNT_BIN", "")
    }

    /// Another limit, in seconds.
    #[must_use]
    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = seconds;
        self
    }

    /// A command in the environment of this machine.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        variables::clear(&mut command);
        command.current_dir(paths::root()).env("TIMEOUT", self.limit.to_string()).env("OUT", &self.directory);
        command.envs(&self.variables);
        command
    }

    /// Runs it by scripts/run.
    ///
    /// # Errors
    /// When that cannot be started or does not end.
    pub fn run(self) -> Result<Ran, Missed> {
        let command = self.command(&paths::root().join("scripts/run"));
        self.run_command(command)
    }

    /// Runs it by `make` with `arguments`; make passes the variables on from the environment.
    ///
    /// # Errors
    /// When that cannot be started or does not end.
    pub fn make(self, arguments: &[&str]) -> Result<Ran, Missed> {
        let mut command = self.command(Path::new("make"));
        command.args(arguments);
        self.run_command(command)
    }

    /// Runs a line of the documentation by the shell, with this machine's variables in the environment.
    ///
    /// # Errors
    /// When that cannot be started or does not end.
    pub fn shell(self, line: &str) -> Result<Ran, Missed> {
        let mut command = self.command(Path::new("sh"));
        command.args(["-c", line]);
        self.run_command(command)
    }

    /// Starts a script, and returns while it runs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self, script: &str) -> Result<Running, Missed> {
        Ok(Running::start(&mut self.command(&paths::root().join(script)), false)?)
    }

    fn run_command(self, mut command: Command) -> Result<Ran, Missed> {
        let ended = process::run(&mut command, Duration::from_secs(self.limit) + BEFORE)?;
        let log = self.directory.join("console.log");
        let console = fs::read(&log).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        // Of a person's kernel nothing is asked but that it powers off; one of the tests' programs says a status too.
        let is_silent = ended.status == 0 && self.says_its_status && console::status(&console).is_none();
        Ok(Ran {
            log,
            status: if is_silent { EXEUNT_FAILED } else { ended.status },
            stdout: ended.stdout.replace('\r', ""),
            stderr: ended.stderr.replace('\r', ""),
            console,
            took: ended.took,
        })
    }

    /// Starts `line`, scripts/run or what calls it, on a pseudo-terminal, as for a person, and returns the conversation
    /// with it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn on_a_terminal(self, line: &str) -> Result<Running, Missed> {
        let mut command = self.command(Path::new("script"));
        command.args(["--quiet", "--return", "--command", line, "/dev/null"]);
        Ok(Running::start(&mut command, true)?)
    }
}

/// Seconds for the machine of a script that restarts it, on a busy workstation.
const RESTART_LIMIT: u64 = 900;

/// Runs a script such as `kexec` with these variables and no others; its files go to `directory`.
///
/// # Errors
/// When it cannot be started or does not end.
pub fn run_script(script: &str, directory: &Path, variables: &[(&str, String)]) -> Result<Ended, process::Error> {
    let mut command = Command::new(paths::root().join("scripts").join(script));
    command.current_dir(paths::root());
    variables::clear(&mut command);
    command.env("OUT", directory).env("TIMEOUT", RESTART_LIMIT.to_string());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    process::run(&mut command, Duration::from_secs(RESTART_LIMIT) + BEFORE)
}

/// What came of a machine.
#[derive(Debug)]
pub struct Ran {
    /// The exit status of scripts/run.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// The whole console.
    pub console: String,
    /// Where it is.
    pub log: PathBuf,
    /// How long it took, from the start of the script.
    pub took: Duration,
}

impl Ran {
    /// The same, if the status is `status`.
    ///
    /// # Errors
    /// When it is another one.
    pub fn ended_with(self, status: i32) -> Result<Self, Missed> {
        let why = process::tail(&self.stderr, 12);
        ensure!(self.status == status, "scripts/run returned {} and not {status}; it said:\n{why}", self.status);
        Ok(self)
    }

    /// The same, if `text` is on the console.
    ///
    /// # Errors
    /// When it is not.
    pub fn says(self, text: &str) -> Result<Self, Missed> {
        ensure!(self.console.contains(text), "the console has no {text:?}");
        Ok(self)
    }

    /// The first line of the console with `text`.
    #[must_use]
    pub fn line_with(&self, text: &str) -> Option<&str> {
        self.console.lines().find(|line| line.contains(text))
    }
}
