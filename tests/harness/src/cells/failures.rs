//! Exeunt breaks: what EL2's stage 1 forbids ends in a report that says what and where, the machine goes off, and
//! whoever ran it learns of it by the status.

use crate::cell::{Cell, Context, Outcome};
use crate::machine::EXEUNT_FAILED;
use crate::{ensure, paths, process};
use std::process::Command;
use std::time::Duration;

/// A value of the option `selftest=`, what the report must say, and a function that the backtrace must name besides. Of
/// a stack that has overflowed the backtrace is too long to be shown to its end.
struct Fault {
    name: &'static str,
    says: &'static [&'static str],
    called_by: &'static str,
}

const MAIN: &str = "exeunt_main";

const FAULTS: [Fault; 5] = [
    Fault { name: "write-text", says: &["data abort", "permission fault", "write"], called_by: MAIN },
    Fault { name: "write-rodata", says: &["data abort", "permission fault", "write"], called_by: MAIN },
    Fault { name: "run-data", says: &["instruction abort", "permission fault"], called_by: MAIN },
    Fault { name: "stack-overflow", says: &["data abort", "translation fault"], called_by: "selftest::overflow" },
    Fault { name: "panic", says: &["selftest"], called_by: MAIN },
];

fn fault(context: &Context, fault: &Fault, profile: &str) -> Outcome {
    let machine =
        context.machine().own_build().with("PROFILE", profile).with("EXEUNT", format!("selftest={}", fault.name));
    let ran = machine.with("RUN", "echo the host runs").run()?.ended_with(EXEUNT_FAILED)?;
    let line = ran.line_with("EXEUNT PANIC").ok_or("there is no line with EXEUNT PANIC")?;
    for words in fault.says {
        ensure!(line.contains(words), "the panic does not say {words:?}: {line}");
    }
    ensure!(!ran.console.contains("the host runs"), "the host was started");
    ensure!(!ran.console.contains("during a panic"), "the report itself failed");

    // The backtrace, decoded, comes to where the fault was made.
    let console = context.directory()?.join("console.log");
    let mut symbolize = Command::new(paths::root().join("scripts/symbolize"));
    symbolize.arg("--elf").arg(paths::exeunt_elf(profile)).arg(console);
    let decoded = process::run(&mut symbolize, Duration::from_mins(10))?;
    ensure!(decoded.status == 0, "scripts/symbolize returned {}:\n{}", decoded.status, decoded.stderr);
    for words in ["selftest", fault.called_by] {
        ensure!(decoded.stdout.contains(words), "the decoded backtrace has no {words:?}:\n{}", decoded.stdout);
    }
    Ok(())
}

/// `make run` fails when Exeunt does, and shows why.
fn make_fails(context: &Context) -> Outcome {
    let machine = context.machine().with("EXEUNT", "selftest=panic").with("RUN", "true");
    let ran = machine.make(&["run"])?;
    // make's own status for a recipe that failed.
    let ran = ran.ended_with(2)?;
    ensure!(ran.stderr.contains("EXEUNT PANIC"), "make run does not show the panic:\n{}", ran.stderr);
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = vec![Cell::new("failures/make-run-returns-non-zero", make_fails)];
    for profile in ["release", "debug"] {
        for each in FAULTS {
            let name = format!("failures/{}-{profile}", each.name);
            cells.push(Cell::new(name, move |context| fault(context, &each, profile)));
        }
    }
    cells
}
