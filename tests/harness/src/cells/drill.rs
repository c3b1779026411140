//! Some cells of the drill (`make drill`), and what it leaves for programs, through the same scripts as people use.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use runner::drill;
use runner::report::{Case, CaseEnd, write_junit};

use super::restarts::passes;
use crate::cell::{Cell, Context, Missed, Outcome};
use crate::{ensure, machine, paths, process};

/// One cell of the drill by itself, with a JUnit file.
fn one(context: &Context, name: &str) -> Outcome {
    let directory = context.directory()?.join("drill");
    let junit = context.directory()?.join("junit.xml");
    let variables = [("DRILL", name.to_owned()), ("JUNIT", junit.display().to_string())];
    let ended = machine::run_script("drill", &directory, &variables)?;
    let line = ended.stdout.lines().next().unwrap_or_default();
    ensure!(ended.status == 0 && line.starts_with("PASS "), "scripts/drill returned {}: {line}", ended.status);
    ensure!(ended.stderr.contains("1 cell: about "), "it does not say how long it takes: {}", ended.stderr);
    validate(&junit)?;
    let text = fs::read_to_string(&junit)?;
    ensure!(text.contains(&format!("name=\"{name}\"")), "{text}");
    Ok(())
}

/// Has a validator compare a JUnit file with tests/harness/junit.xsd.
pub(super) fn validate(file: &Path) -> Outcome {
    let mut command = Command::new("xmllint");
    command.args(["--noout", "--nonet", "--schema"]).arg(paths::root().join("tests/harness/junit.xsd")).arg(file);
    let ended = process::run(&mut command, Duration::from_mins(1))
        .map_err(|error| Missed::Failed(format!("{error} (`scripts/setup test` brings xmllint)")))?;
    ensure!(ended.status == 0, "{} is no JUnit file: {}", file.display(), ended.stderr);
    Ok(())
}

/// Whatever a machine has said, what is written for programs is what their validators accept; and they do not accept
/// everything.
fn junit(context: &Context) -> Outcome {
    let file = context.directory()?.join("junit.xml");
    let case = |name: &str, end, output: &str| Case {
        name: name.to_owned(),
        took: Duration::from_millis(1500),
        end,
        output: output.to_owned(),
    };
    let hostile = "\u{1b}[1mred\u{0}\u{7}\u{b}\r\n]]> <&> \u{fffe}\u{ffff}\u{85}\u{2028} \u{1f980} -- \"'";
    let cases = [
        case("good", CaseEnd::Passed, ""),
        case("drill/sysrq-el2-<6.12>&\"'-\u{1b}\u{0}", CaseEnd::Failed(hostile.to_owned()), hostile),
        case("alike", CaseEnd::Skipped(hostile.to_owned()), &hostile.repeat(1000)),
        case("", CaseEnd::Failed(String::new()), "\n"),
    ];
    write_junit(&file, "a <suite> & \u{1b}", &cases)?;
    validate(&file)?;
    write_junit(&file, "empty", &[])?;
    validate(&file)?;
    write_junit(&file, "one", &cases[..1])?;
    let text = fs::read_to_string(&file)?;
    for (right, wrong) in [("tests=\"1\"", "tests=\"one\""), ("<testcase ", "<test "), ("name=\"good\"", "")] {
        ensure!(text.contains(right), "there is no {right} in {text}");
        fs::write(&file, text.replace(right, wrong))?;
        ensure!(validate(&file).is_err(), "the validator takes {wrong:?} for {right:?}");
    }
    Ok(())
}

/// A dump that its disk has no room for: the guest says so, and the machine goes off all the same.
fn small_disk(context: &Context) -> Outcome {
    let ended = machine::run_script("kdump", context.directory()?, &[("DUMP_DISK", "1M".to_owned())])?;
    let last = ended.stdout.lines().last().unwrap_or_default();
    ensure!(ended.status == 1, "scripts/kdump returned {}: {last}", ended.status);
    let told = last.contains("next: the disk is too small: it has 1048576 bytes, and the dump ");
    ensure!(last.starts_with("FAIL: ") && told, "{last}");
    Ok(())
}

/// Too little memory for the crash kernel: the cause is said, and neither that something died nor what Exeunt counted.
fn small_crash_kernel(context: &Context) -> Outcome {
    let ended = machine::run_script("kdump", context.directory()?, &[("CRASHKERNEL", "16".to_owned())])?;
    let last = ended.stdout.lines().last().unwrap_or_default();
    ensure!(ended.status == 1, "scripts/kdump returned {}: {last}", ended.status);
    let told = last.starts_with("FAIL: first: 16 MiB are kept for the crash kernel, and its files alone take ");
    ensure!(told && ended.stdout.contains("it did not die"), "{last}");
    Ok(())
}

/// /proc/vmcore by mmap(2), as makedumpfile has it, by read(2), and by makedumpfile without mmap(2): no hole, no fault,
/// the same.
fn every_way_to_read(context: &Context) -> Outcome {
    passes(context, "kdump", &[("READ", "1")])
}

/// A dump that gdb takes, too: makedumpfile's ELF. The crash kernel is loaded without its digest, and the host says so.
fn elf(context: &Context) -> Outcome {
    passes(context, "kdump", &[("FORMAT", "elf"), ("CHECKS", "0"), ("MEM", "640M")])?;
    let console = fs::read_to_string(context.directory()?.join("run/console.log"))?;
    ensure!(console.contains("first dies now, unchecked"), "the digest was not left out");
    let dump = context.directory()?.join("run/dump");
    let mut start = [0; 18];
    File::open(&dump)?.read_exact(&mut start)?;
    // e_type ET_CORE.
    ensure!(start.starts_with(b"\x7fELF\x02\x01") && start[16..] == [4, 0], "{} is no core", dump.display());
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let cell = |name: String| Cell::new(format!("drill/{name}"), move |context| one(context, &name));
    let mut cells: Vec<Cell> = drill::quick().into_iter().map(cell).collect();
    cells.push(Cell::new("drill/junit", junit));
    cells.push(Cell::new("drill/crash-kernel-too-large", small_crash_kernel));
    cells.push(Cell::new("drill/elf", elf));
    cells.push(Cell::new("drill/disk-too-small", small_disk).slow(true));
    cells.push(Cell::new("drill/every-way-to-read", every_way_to_read).slow(true));
    cells
}
