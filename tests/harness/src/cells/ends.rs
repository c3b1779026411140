//! Whoever is asked to end takes everything along: the runner, the drill, and these tests themselves.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use runner::output::Output;

use super::drill::validate;
use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::Machine;
use crate::process::Running;
use crate::{ensure, paths, variables};

/// What a machine needs to be there, set-up and builds included.
const PATIENCE: Duration = Duration::from_mins(10);
/// What all that was started has to be gone in.
const SOON: Duration = Duration::from_mins(1);
/// Has the tests run one cell only, a machine that has nothing to do, with its files in this directory.
const SLEEPER: &str = "EXEUNT_TESTS_SLEEPER";

/// Machines that have `directory` on their command line.
pub(super) fn processes_of(directory: &str) -> Result<Vec<String>, Missed> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("qemu-system") && line.contains(directory) {
            found.push(line);
        }
    }
    Ok(found)
}

/// Waits until `is_so`.
fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> Result<bool, Missed>) -> Outcome {
    let deadline = Instant::now() + limit;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "it takes too long until {what}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Sends SIGTERM to `running` once a machine of its own is there, whose files are in `directory` or below it; then no
/// machine and no lock is left. Returns its status and what it has said.
fn asked_to_end(running: Running, directory: &Path, locked: &Path) -> Result<(i32, String), Missed> {
    let name = directory.display().to_string();
    until("there is a machine", PATIENCE, || Ok(!processes_of(&name)?.is_empty()))?;
    running.signal("TERM")?;
    let ended = running.finish(PATIENCE)?;
    until("the machine is gone", SOON, || Ok(processes_of(&name)?.is_empty()))?;
    let output = Output::take(locked);
    ensure!(output.is_ok(), "{} is still locked", locked.display());
    Ok((ended.status, ended.stderr + &ended.stdout))
}

/// A kexec in the middle of its first boot.
fn kexec(context: &Context) -> Outcome {
    let directory = context.directory()?.join("kexec");
    let running = context.machine().with("OUT", directory.display()).start("scripts/kexec")?;
    let (status, said) = asked_to_end(running, &directory, &directory)?;
    ensure!(status == 143 && said.contains("asked to end; the console so far"), "it returned {status}: {said}");
    ensure!(!said.contains("FAIL"), "it takes that for a failure: {said}");
    Ok(())
}

/// The drill: what there was so far is in its page and in a JUnit file that says of the rest that it was not run.
fn drill(context: &Context) -> Outcome {
    let directory = context.directory()?.join("drill");
    let junit = context.directory()?.join("junit.xml");
    let names = runner::drill::quick().join(" ");
    let machine = context.machine().with("OUT", directory.display()).with("JUNIT", junit.display());
    let running = machine.with("DRILL", &names).start("scripts/drill")?;
    let (status, said) = asked_to_end(running, &directory, &directory)?;
    ensure!(status == 143 && said.contains("3 cells, 0 failed, 3 not run"), "it returned {status}: {said}");
    validate(&junit)?;
    let text = fs::read_to_string(&junit)?;
    ensure!(text.matches("<skipped message=\"the drill was asked to end\"").count() == 3, "{text}");
    Ok(())
}

/// The cell that the other tests run.
pub(super) fn sleeper() -> Option<Cell> {
    let directory = std::env::var_os(SLEEPER)?;
    Some(Cell::new("sleeper", move |_| {
        let directory = Path::new(&directory);
        Machine::new(directory.join("machine")).with("RUN", "sleep 1000").run()?.ended_with(0).map(drop)
    }))
}

/// These tests, in the middle of a cell: asked to end, and ended by a signal that nobody can answer.
fn tests(context: &Context) -> Outcome {
    for (signal, status) in [("TERM", 143), ("KILL", 137)] {
        let directory = context.directory()?.join(signal);
        let mut command = Command::new(std::env::current_exe()?);
        variables::clear(&mut command);
        command.current_dir(paths::root()).env(SLEEPER, &directory);
        let running = Running::start(&mut command, false)?;
        let name = directory.display().to_string();
        until("there is a machine", PATIENCE, || Ok(!processes_of(&name)?.is_empty()))?;
        running.signal(signal)?;
        let ended = running.finish(PATIENCE)?;
        ensure!(ended.status == status, "SIG{signal}: it returned {}: {}", ended.status, ended.stderr);
        until("the machine is gone", SOON, || Ok(processes_of(&name)?.is_empty()))?;
        // Whoever has inherited the lock ends a moment after the machine.
        let machine = directory.join("machine");
        until("its directory is no longer locked", SOON, || Ok(Output::take(&machine).is_ok()))?;
    }
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    vec![Cell::new("ends/kexec", kexec), Cell::new("ends/drill", drill), Cell::new("ends/tests", tests)]
}
