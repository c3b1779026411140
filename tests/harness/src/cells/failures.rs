//! Exeunt breaks: what EL2's stage 1 forbids ends in a report that says what and where, the machine goes off, and
//! whoever ran it learns of it by the status. Nothing ends without a line, and nobody is kept for good.

use crate::cell::{Cell, Context, Outcome};
use crate::machine::{EXEUNT_FAILED, Entry};
use crate::{ensure, images, paths, process};
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
    let mut symbolize = Command::new(paths::root().join("scripts/symbolize"));
    symbolize.arg("--elf").arg(paths::exeunt_elf(profile)).arg(&ran.log);
    let decoded = process::run(&mut symbolize, Duration::from_mins(10))?;
    ensure!(decoded.status == 0, "scripts/symbolize returned {}:\n{}", decoded.status, decoded.stderr);
    for words in ["selftest", fault.called_by] {
        ensure!(decoded.stdout.contains(words), "the decoded backtrace has no {words:?}:\n{}", decoded.stdout);
    }
    Ok(())
}

/// A value of `selftest=` that is committed while the host runs on other CPUs, and what the lines must say, in this
/// order.
type Late = (&'static str, &'static [&'static str]);

const LATE: [Late; 9] = [
    ("panic", &["EXEUNT PANIC: asked for by the option selftest", "the machine goes off"]),
    ("stack-overflow", &["EXEUNT PANIC: data abort", "translation fault", "the machine goes off"]),
    // The host's kernel begins there, and Exeunt had its first page mapped at start.
    ("read-host", &["EXEUNT PANIC: data abort", "translation fault", "FAR", "the machine goes off"]),
    ("lost-stack", &["EXEUNT PANIC: data abort", "SP  0x0000000000000000", "the machine goes off"]),
    ("lost-cpu", &["EXEUNT PANIC: TPIDR_EL2 was 0x", "data abort", "CPU 0 ", "the machine goes off"]),
    ("dead-lock", &["the log goes on without its lock", "EXEUNT PANIC: asked for by", "the machine goes off"]),
    ("double-fault", &["EXEUNT PANIC: data abort", "EXEUNT PANIC: an exception during a panic: ESR 0x9600004f ELR "]),
    (
        "triple-fault",
        &[
            "EXEUNT PANIC: data abort",
            "EXEUNT PANIC: an exception where none can be handled: ESR 000000009600004f ELR ",
        ],
    ),
    ("run-data", &["EXEUNT PANIC: instruction abort", "the machine goes off"]),
];

/// How long a machine may take that only has to say that it breaks, in seconds.
const SOON: u64 = 90;

fn late(context: &Context, (name, says): Late, entry: Entry) -> Outcome {
    let machine = context.machine().guest(&images::guest("broken")?, "").with("SMP", 4).limit(SOON);
    let ran = machine.entered(entry, &format!("selftest={name} late fail=halt")).run()?.ended_with(EXEUNT_FAILED)?;
    let mut rest = ran.console.as_str();
    for words in [&["broken: the host runs on 4 CPUs"], says].concat() {
        let Some(at) = rest.find(words) else { return Err(format!("the console has no {words:?} then").into()) };
        rest = &rest[at + words.len()..];
    }
    Ok(())
}

/// A CPU breaks while another one stops in its report.
fn dead_report(context: &Context) -> Outcome {
    let machine = context.machine().guest(&images::guest("broken")?, "twice").with("SMP", 4).limit(SOON);
    let ran = machine.with("EXEUNT", "selftest=dead-report late fail=halt").run()?.ended_with(EXEUNT_FAILED)?;
    ran.says("EXEUNT PANIC: data abort")?
        .says("EXEUNT PANIC: the report of another CPU does not end; here ESR 0000")?;
    Ok(())
}

/// A CPU that dies in the middle of a LEAVE does not keep the others: the guest looks.
fn dead_leaver(context: &Context, entry: Entry, gic: u32) -> Outcome {
    let machine = context.machine().guest(&images::guest("broken")?, "leaver").with("SMP", 4).with("GIC", gic);
    let ran = machine.limit(SOON).entered(entry, "selftest=dead-leave").run()?.ended_with(0)?;
    let ran = ran.says("checks, 0 failed")?;
    let lines = ran.console.lines().filter(|line| line.contains("a LEAVE does not end")).count();
    ensure!(lines == 1, "{lines} lines say that a CPU is taken for dead");
    Ok(())
}

/// What Exeunt keeps for a CPU is damaged while it is away: the guest looks.
fn damage(context: &Context, entry: Entry) -> Outcome {
    let machine = context.machine().guest(&images::guest("broken")?, "damage").with("SMP", 2).limit(SOON);
    machine.entered(entry, "").run()?.ended_with(0)?.says("checks, 0 failed")?;
    Ok(())
}

/// What STATUS counts of a CPU that goes off and comes up in every way: the guest looks.
fn counts(context: &Context, entry: Entry) -> Outcome {
    let machine = context.machine().guest(&images::guest("broken")?, "counts").with("SMP", 2).limit(SOON);
    machine.entered(entry, "kvm=lend").run()?.ended_with(0)?.says("checks, 0 failed")?;
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
    // It takes a quarter of a minute of waiting.
    cells.push(Cell::new("failures/late-dead-report", dead_report).slow(true));
    for entry in Entry::ALL {
        let quick = entry == Entry::VirtualEl2;
        for each in LATE {
            let name = format!("failures/late-{}-{}", each.0, entry.name());
            cells.push(Cell::new(name, move |context| late(context, each, entry)).slow(!quick));
        }
        let name = format!("failures/dead-leaver-{}", entry.name());
        let gic = if quick { 3 } else { 2 };
        cells.push(Cell::new(name, move |context| dead_leaver(context, entry, gic)).slow(!quick));
        let name = format!("failures/counts-{}", entry.name());
        cells.push(Cell::new(name, move |context| counts(context, entry)).slow(!quick));
        let name = format!("failures/damaged-cpu-{}", entry.name());
        cells.push(Cell::new(name, move |context| damage(context, entry)).slow(!quick));
    }
    cells
}
