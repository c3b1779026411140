//! The guard of the crash kernel's memory: who loads, unloads and shrinks it may write there, a wild writer may not.
//!
//! `make kdump CRASH=wild` loads the crash kernel, loads it again, unloads it, gives a part of its memory back, loads
//! it into the rest, and writes over all of that. What the dump has to have it compares itself.

use std::fs;

use super::restarts::passes;
use crate::cell::{Cell, Context, Outcome};
use crate::{ensure, images, machine, parse};

/// What Exeunt says of a write with `guard=count`, and how often at most: ten times in five seconds, for two minutes.
const LET_THROUGH: &str = "it is let through";
const MOST_LINES: usize = 250;

/// Lines of Exeunt's with these words.
fn count(console: &str, words: &str) -> usize {
    console.lines().filter(|line| line.contains("[exeunt ") && line.contains(words)).count()
}

/// A wild writer, by one of the ways of the test module's. The dump is what it is without one.
fn wild(context: &Context, variables: &[(&str, &str)]) -> Outcome {
    let all = [&[("CRASH", "wild"), ("FILL", "8"), ("EXEUNT", "log=debug")], variables].concat();
    passes(context, "kdump", &all)?;
    let console = fs::read_to_string(context.directory()?.join("run/console.log"))?;
    let words = [
        "which the host keeps",
        ": open: a kernel is loaded",
        ": no more than ",
        " writes ",
        " is open: the host panics",
    ];
    let [found, opened, shrunk, wild, panics] = words.map(|words| count(&console, words));
    // High memory comes with some below 4 GiB, for devices that reach no further.
    let regions = if variables.iter().any(|(_, value)| value.ends_with(",high")) { 2 } else { 1 };
    ensure!(found == regions, "the memory was found {found} times");
    // Somebody else who executes in that page closes it too early: then there are more.
    ensure!(opened >= 3, "three loads, and it was opened {opened} times");
    let closed = count(&console, ": closed");
    ensure!(closed == opened, "opened {opened} times, closed {closed} times");
    // A line has who is the first to write to what was given back, unless the next load comes before.
    ensure!(shrunk <= 1, "a shrink, and {shrunk} lines about it");
    let gave_back = console.lines().any(|line| line.starts_with("first shrunk "));
    ensure!(gave_back, "the host has not given any of the memory back");
    ensure!(wild >= 1, "no wild write was seen");
    ensure!(panics >= 1, "the panic has not noted its time");
    Ok(())
}

/// With `guard=off` nobody looks where the memory is, and with `guard=count` what is written stands. The crash kernel
/// is lost then, as without Exeunt.
fn lost(context: &Context, option: &str, allowed: bool) -> Outcome {
    let variables = [("CRASH", "wild"), ("EXEUNT", option), ("TIMEOUT", "120"), ("KERNEL", "6.1"), ("MEM", "640M")];
    let variables = variables.map(|(name, value)| (name, value.to_owned()));
    let ended = machine::run_script("kdump", &context.directory()?.join("run"), &variables)?;
    let last = ended.stdout.lines().last().unwrap_or_default();
    ensure!(ended.status == 1 && last.starts_with("FAIL: "), "scripts/kdump returned {}: {last}", ended.status);
    let console = fs::read_to_string(context.directory()?.join("run/console.log"))?;
    ensure!(console.contains("all of the crash kernel's memory was written to"), "the writer did not get through");
    let lines = count(&console, LET_THROUGH);
    ensure!((lines > 0) == allowed, "{option}: {lines} lines about writes that were let through");
    ensure!(lines <= MOST_LINES, "{option}: {lines} lines about writes that were let through, and no limit");
    ensure!(allowed || count(&console, "guard: ") == 0, "guard=off, and there are lines of the guard's");
    Ok(())
}

/// A store to each page of the crash kernel's memory, which is all let through. What becomes of the writer then is
/// nobody's business here: the test module's next store is to a null pointer.
const WRITER: &str = r"
insmod /tests/exeunt_test.ko || exit
echo crash wild 0 1 >/proc/exeunt &
for i in $(seq 300); do dmesg | grep -q 'memory was written to' && break; sleep 0.1; done
dmesg | grep -q 'memory was written to' && echo written yes
echo pages $(($(cat /sys/kernel/kexec_crash_size) / 4096))
exeunt status | grep '^ *wild'
";

/// With `guard=count` each page that is written to is counted, and a few of them have a line.
fn counted(context: &Context) -> Outcome {
    let overlay = context.directory()?.join("overlay");
    images::module("6.12", &overlay)?;
    let machine = context.machine().with("KERNEL", "6.12").with("OVERLAY", overlay.display());
    let machine = machine.with("APPEND", "crashkernel=16M").with("EXEUNT", "guard=count").with("RUN", WRITER);
    let ran = machine.run()?.ended_with(0)?;
    ensure!(parse::value(&ran.stdout, "written") == Some("yes"), "the writer did not get through:\n{}", ran.stdout);
    let [pages, wild] = ["pages", "wild"].map(|name| parse::value(&ran.stdout, name).unwrap_or_default().trim());
    let are_all = wild.strip_prefix(pages) == Some(" to the memory of the crash kernel");
    ensure!(pages == "4096" && are_all, "{pages} pages, and wild: {wild}");
    let lines = count(&ran.console, LET_THROUGH);
    ensure!((1..=MOST_LINES).contains(&lines), "{lines} lines about writes that were let through");
    Ok(())
}

/// A LEAVE and REENTER with a crash kernel that is loaded, and one that was loaded while Exeunt was away. And what the
/// device tree says that no guard covers.
const AWAY: &str = r"
exeunt leave >/dev/null && exeunt back >/dev/null && echo back one
echo $(($(cat /sys/kernel/kexec_crash_size) - (16 << 20))) >/sys/kernel/kexec_crash_size
exeunt leave >/dev/null
echo $(($(cat /sys/kernel/kexec_crash_size) - (16 << 20))) >/sys/kernel/kexec_crash_size
exeunt back >/dev/null && echo back two
grep -i 'crash kernel' /proc/iomem
echo tree $(cat /proc/device-tree/reserved-memory/exeunt@*/exeunt,dma-not-covered | tr '\0' ' ')
";

fn away(context: &Context) -> Outcome {
    let machine = context.machine().with("KERNEL", "6.12").with("APPEND", "crashkernel=256M");
    let ran = machine.with("EXEUNT", "log=debug").with("RUN", AWAY).run()?.ended_with(0)?;
    for back in ["one", "two"] {
        let is_there = ran.stdout.lines().any(|line| line == format!("back {back}"));
        ensure!(is_there, "Exeunt did not come back: {}", ran.stdout);
    }
    let said = parse::value(&ran.stdout, "tree");
    ensure!(said == Some("exeunt black-box crash-kernel"), "the tree says of DMA {said:?}");
    ensure!(count(&ran.console, "lifted") == 0, "the guard was lifted:\n{}", ran.console);
    ensure!(count(&ran.console, "which the host keeps") == 1, "the memory was looked for again");
    Ok(())
}

/// A cell: its name, whether it is slow, and its variables.
type Wild = (&'static str, bool, &'static [(&'static str, &'static str)]);

pub(super) fn cells() -> Vec<Cell> {
    const WILD: [Wild; 8] = [
        ("6.1-el2-memset", false, &[("KERNEL", "6.1"), ("MEM", "640M")]),
        ("6.1-el1-store", true, &[("KERNEL", "6.1"), ("MEM", "640M"), ("TURNS", "1"), ("ENTRY", "el1")]),
        ("6.12-el2-resident-pair", true, &[("TURNS", "2"), ("POLICY", "resident")]),
        ("7.2-el2-atomic", true, &[("KERNEL", "testing"), ("TURNS", "3")]),
        ("7.2-el1-max-atomic", true, &[("KERNEL", "testing"), ("TURNS", "3"), ("ENTRY", "el1"), ("CPU", "max")]),
        ("6.12-16k-el2-zva", true, &[("KERNEL", "6.12-16k"), ("TURNS", "4")]),
        ("6.12-high-el2-memset", true, &[("CRASHKERNEL", "256M,high"), ("MEM", "6G")]),
        ("6.12-rt-el2-8-cpus", true, &[("KERNEL", "6.12-rt"), ("SMP", "8"), ("GIC", "2")]),
    ];
    let cell = |&(name, slow, variables): &Wild| {
        Cell::new(format!("guard/wild-{name}"), move |context| wild(context, variables)).slow(slow)
    };
    let mut cells: Vec<Cell> = WILD.iter().map(cell).collect();
    cells.push(Cell::new("guard/count", |context| lost(context, "guard=count log=debug", true)).slow(true));
    cells.push(Cell::new("guard/off", |context| lost(context, "guard=off log=debug", false)).slow(true));
    cells.push(Cell::new("guard/away", away));
    cells.push(Cell::new("guard/counted", counted));
    cells
}
