//! What the Makefile's targets call: `runner TARGET`. Everything else comes by variables (`runner::variables`).
//!
//! The exit statuses, which a person sees who calls scripts/run and its like; make ends with 2 whatever they are:
//!
//! | status | `run`, `debian` | the others |
//! |---|---|---|
//! | 0 | the guest's command was right, the shell was left, or without RUN= the guest has powered off | PASS |
//! | 1 | the guest's command returned that | FAIL |
//! | 124 | the time was up | |
//! | 125 | a variable is wrong, or something cannot be built or started | the same |
//! | 126 | Exeunt panicked or refused to start, the guest has reset the machine, or with RUN= gave no status | |
//! | 128 + n | signal n has ended the guest's command, or the run | the run |
//! | all others | the guest's command returned that | |

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use runner::child::End;
use runner::debian::{self, Debian};
use runner::drill::Drill;
use runner::gdb;
use runner::hibernate::Hibernate;
use runner::kdump::Kdump;
use runner::kexec::Kexec;
use runner::map;
use runner::output::Output;
use runner::progress::Progress;
use runner::report::{self, Case, CaseEnd};
use runner::restart::{Ran, Verdict};
use runner::run::{self, BY_A_SIGNAL, RUNNER_FAILED, print, say};
use runner::settings::{Profile, Settings};
use runner::soak::Soak;
use runner::symbols::Symbols;
use runner::trace::Trace;
use runner::variables::{Target, Values, Wrong};
use runner::workstation::Places;

/// Runs Exeunt on QEMU. `make` calls it; `make help` has the targets and their variables.
#[derive(Parser)]
struct Arguments {
    /// The names of the variables that make was given: each has to be one that the target takes.
    #[arg(long, global = true, value_delimiter = ' ', default_value = "")]
    given: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Subcommand)]
enum Command {
    /// Boots the host: a shell on this terminal, or a command that it runs.
    Run,
    /// Boots the host and has it kexec the next kernel; says what became of EL2.
    Kexec,
    /// Boots the host, lets it die, gets the dump out and opens it.
    Kdump,
    /// Boots the host with its exits traced, perhaps has it kexec or die, and leaves the trace.
    Trace,
    /// The machine of `run`, stopped, and gdb on it.
    Gdb,
    /// Boots the host, stops it, and draws its stage 2 out of the tables in memory.
    Map,
    /// Has the host hibernate, resume on another machine, and die there.
    Hibernate,
    /// Kexecs again and again, and compares the last boots with the first.
    Soak,
    /// Has a Linux end in every way on many machines, and says what became of each.
    Drill {
        /// Prints the names of the cells, and runs none.
        #[arg(long)]
        list: bool,
    },
    /// Boots a Debian with systemd from a disk: a login on this terminal, or a command that it runs.
    Debian,
    /// Opens the newest dump that kdump-tools have saved on that disk.
    DebianDump,
}

impl Command {
    const fn target(self) -> Target {
        match self {
            Self::Run => Target::Run,
            Self::Kexec => Target::Kexec,
            Self::Kdump => Target::Kdump,
            Self::Trace => Target::Trace,
            Self::Gdb => Target::Gdb,
            Self::Map => Target::Map,
            Self::Hibernate => Target::Hibernate,
            Self::Soak => Target::Soak,
            Self::Drill { .. } => Target::Drill,
            Self::Debian => Target::Debian,
            Self::DebianDump => Target::DebianDump,
        }
    }
}

/// Prints what came of a run, and writes it to the files that were asked for. Returns the exit status.
fn tell(places: &Places, target: Target, values: &Values, came: Result<(Output, Ran, Verdict), String>) -> i32 {
    let (_output, ran, verdict) = match came {
        Ok(came) => came,
        Err(error) => {
            say(&error);
            return RUNNER_FAILED;
        }
    };
    if let End::Interrupted(signal) = ran.end {
        say(&format!("{}; the console so far: {}", ran.end, places.short(&ran.log)));
        return BY_A_SIGNAL + signal;
    }
    if let Err(error) = write_results(target, values, &ran, &verdict) {
        say(&error);
        return RUNNER_FAILED;
    }
    print(verdict.report.trim_end());
    print(&verdict.last_line(&places.short(&ran.log).to_string()));
    i32::from(!verdict.passed())
}

fn write_results(target: Target, values: &Values, ran: &Ran, verdict: &Verdict) -> Result<(), String> {
    if let Some(file) = values.get("JSON") {
        report::Result::new(target.name(), ran, verdict).write_json(file.as_ref())?;
    }
    if let Some(file) = values.get("JUNIT") {
        let end = if verdict.passed() { CaseEnd::Passed } else { CaseEnd::Failed(verdict.wrong.join("; ")) };
        let case = Case { name: target.name().to_owned(), took: ran.took, end, output: verdict.report.clone() };
        report::write_junit(file.as_ref(), target.name(), &[case])?;
    }
    Ok(())
}

fn run(arguments: &Arguments) -> Result<i32, Wrong> {
    let given = arguments.given.iter().map(String::as_str).filter(|name| !name.is_empty());
    let target = arguments.command.target();
    let values = Values::read(target, given, |name| std::env::var(name).ok())?;
    let places = Places::of_this_build();
    Ok(match arguments.command {
        Command::Drill { list: true } => {
            Drill::read(&values)?.names().iter().for_each(|name| print(name));
            0
        }
        Command::Drill { list: false } => Drill::read(&values)?.run(&places).unwrap_or_else(|error| {
            say(&error);
            RUNNER_FAILED
        }),
        Command::Run => run::run(&Settings::read(&values)?, &places),
        Command::Kexec => tell(&places, target, &values, Kexec::read(&values)?.run(&places, &Progress::begin())),
        Command::Debian => Debian::read(&values)?.run(&places),
        Command::DebianDump => debian::open_dump(&places),
        Command::Gdb => {
            let gdb_args = values.parse("GDB_ARGS", Vec::new(), shlex::split);
            let gdb_args = gdb_args.map_err(|error| Wrong(vec![error]))?;
            // Whoever steps through Exeunt wants its functions and variables to be there.
            let settings = Settings::read(&values.clone().or("PROFILE", Profile::Debug.name()))?;
            let symbols = Symbols::read(&values, &settings.kernel).map_err(|error| Wrong(vec![error]))?;
            gdb::run(&settings, symbols.as_ref(), &gdb_args, &places)
        }
        Command::Map => map::run(&Settings::read(&values)?, &places),
        Command::Hibernate => {
            tell(&places, target, &values, Hibernate::read(&values)?.run(&places, &Progress::begin()))
        }
        Command::Trace => tell(&places, target, &values, Trace::read(&values)?.run(&places, &Progress::begin())),
        Command::Soak => tell(&places, target, &values, Soak::read(&values)?.run(&places, &Progress::begin())),
        Command::Kdump => tell(&places, target, &values, Kdump::read(&values)?.run(&places, &Progress::begin())),
    })
}

fn main() -> ExitCode {
    let status = run(&Arguments::parse()).unwrap_or_else(|wrong| {
        wrong.0.iter().for_each(|line| say(line));
        RUNNER_FAILED
    });
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}
