//! `make map`: what it reads out of the tables, beside what is known of the machine from elsewhere.

use std::fs;

use runner::run::RUNNER_FAILED;

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Entry, Machine, Ran};
use crate::{ensure, images, paths};

/// RAM's base, and Exeunt's 2 MiB, on QEMU's `virt`.
const RAM: u64 = 0x4000_0000;
const EXEUNT: u64 = 0x4020_0000;
const BOX: u64 = 0x403f_0000;
const AFTER: u64 = 0x4040_0000;

/// A line of the map: first and last address, and the rest with single blanks.
#[derive(Debug, PartialEq)]
struct Line {
    start: u64,
    end: u64,
    words: String,
}

/// The lines of the map that are not those of devices in it, which are indented.
fn lines(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let mut address = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let (start, end) = (address()?, address()? + 1);
        Some(Line { start, end, words: words.collect::<Vec<_>>().join(" ") })
    };
    text.lines().filter(|line| line.starts_with("0x")).filter_map(line).collect()
}

fn map(machine: Machine) -> Result<Ran, Missed> {
    machine.own_build().make(&["map"])?.ended_with(0)
}

/// The whole map of a machine with so many GiB, and so many bits of addresses: nothing is missing and nothing more.
fn is(ran: &Ran, gib: u64, bits: u32) -> Outcome {
    let lines = lines(&ran.stdout);
    let (ram_end, end) = (RAM + (gib << 30), 1_u64 << bits);
    let expected = [
        (0, RAM, "1 GiB read, write devices (1 x 1 GiB)".to_owned()),
        (RAM, EXEUNT, "2 MiB read, write, execute RAM (1 x 2 MiB)".to_owned()),
        (EXEUNT, BOX, "1984 KiB nothing Exeunt (496 x 4 KiB)".to_owned()),
        (BOX, AFTER, "64 KiB read Exeunt's black box (16 x 4 KiB)".to_owned()),
    ];
    for (line, (start, end, words)) in lines.iter().zip(&expected) {
        let as_expected = (line.start, line.end, &line.words) == (*start, *end, words);
        ensure!(as_expected, "{line:?} is not {words:?} from {start:#x} to {end:#x}:\n{}", ran.stdout);
    }
    let [ram, rest] = &lines[expected.len().min(lines.len())..] else {
        return Err(Missed::Failed(format!("the map has {} lines:\n{}", lines.len(), ran.stdout)));
    };
    ensure!((ram.start, ram.end) == (AFTER, ram_end), "RAM is {ram:?}:\n{}", ran.stdout);
    ensure!(ram.words.contains("read, write, execute RAM (") && ram.words.contains("510 x 2 MiB"), "{ram:?}");
    ensure!((rest.start, rest.end) == (ram_end, end), "the rest is {rest:?}:\n{}", ran.stdout);
    ensure!(rest.words.contains(" read, write devices ("), "the rest is {rest:?}");
    let sums =
        format!("RAM: {gib} GiB by the device tree, of which the host has {} MiB; every address is", (gib << 10) - 2);
    ensure!(ran.stdout.contains(&sums), "{sums:?} is missing in:\n{}", ran.stdout);
    Ok(())
}

/// The tables agree with what is known of the machine, and with what the Linux in it calls RAM. The page is there.
fn agrees(context: &Context, entry: Entry, gic: u32, gib: u64) -> Outcome {
    let machine = context.machine().with("MEM", format!("{gib}G")).with("GIC", gic).entered(entry, "");
    let ran = map(machine.with("RUN", "cat /proc/iomem"))?;
    is(&ran, gib, 40)?;
    let device = if gic == 2 { "v2m@8020000" } else { "its@8080000" };
    for device in [device, "pl011@9000000", "of them in a row", "pcie@10000000: memory, 32 bits"] {
        ensure!(ran.stdout.contains(device), "{device} is missing in:\n{}", ran.stdout);
    }
    let lines = lines(&ran.stdout);
    let mut found = 0;
    for line in ran.console.lines().filter(|line| line.ends_with(" : System RAM") && !line.starts_with(' ')) {
        let parts = line.split(" : ").next().and_then(|range| range.split_once('-'));
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let Some((Some(start), Some(last))) = parts.map(|(start, last)| (number(start), number(last))) else {
            continue;
        };
        found += 1;
        let mapped = |address| {
            let line = lines.iter().find(|line| line.start <= address && address < line.end);
            line.is_some_and(|line| line.words.contains("execute RAM") || line.start == BOX)
        };
        ensure!(mapped(start) && mapped(last), "Linux has RAM at {line}, and the map has none:\n{}", ran.stdout);
    }
    ensure!(found > 0, "Linux says nothing of its RAM");
    let page = fs::read_to_string(ran.log.with_file_name("map.html"))?;
    ensure!(page.contains("Exeunt's black box") && page.ends_with("</html>\n"), "the page is not whole");
    let text = fs::read_to_string(ran.log.with_file_name("map.txt"))?;
    ensure!(ran.stdout.starts_with(text.trim_end()), "map.txt is another map");
    Ok(())
}

/// The map that docs/memory.md shows is the one that comes.
fn documented(context: &Context) -> Outcome {
    let page = fs::read_to_string(paths::root().join("docs/memory.md"))?;
    let shown = page.split("```map\n").nth(1).and_then(|rest| rest.split("```").next());
    let shown = shown.ok_or_else(|| Missed::Failed("docs/memory.md shows no map".to_owned()))?;
    let ran = map(context.machine())?;
    for line in shown.lines() {
        ensure!(ran.stdout.lines().any(|other| other == line), "no line is {line:?}:\n{}", ran.stdout);
    }
    Ok(())
}

/// A machine whose guest powers off before anybody can look has no map, and the console is named.
fn machine_that_ends(context: &Context) -> Outcome {
    let guest = images::guest("rounds")?;
    let machine = context.machine().with("KERNEL", guest.display()).with("INITRD", "none").with("APPEND", "start-only");
    let ran = machine.own_build().shell("scripts/map")?.ended_with(RUNNER_FAILED)?;
    let words = "the machine has ended before the guest was up; console: ";
    ensure!(ran.stderr.contains(words), "it says {}", ran.stderr);
    Ok(())
}

/// What has no map says so.
fn nothing_to_draw(context: &Context) -> Outcome {
    let ran = context.machine().with("HYPERVISOR", "none").shell("scripts/map")?.ended_with(RUNNER_FAILED)?;
    ensure!(ran.stderr.contains("HYPERVISOR=none has no stage 2"), "it says {}", ran.stderr);
    let machine = context.machine().with("EXEUNT", "nonsense");
    let ran = machine.own_build().shell("scripts/map")?.ended_with(RUNNER_FAILED)?;
    ensure!(ran.stderr.contains("console: "), "it says {}", ran.stderr);
    ensure!(ran.stdout.is_empty(), "a map of nothing:\n{}", ran.stdout);
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for entry in Entry::ALL {
        for (gic, gib) in [(3, 1), (2, 6)] {
            let name = format!("map/{}-gicv{gic}-{gib}g", entry.name());
            let quick = (entry, gic) == (Entry::VirtualEl2, 3);
            cells.push(Cell::new(name, move |context| agrees(context, entry, gic, gib)).slow(!quick));
        }
    }
    cells.push(Cell::new("map/machine-that-ends", machine_that_ends).slow(true));
    cells.push(Cell::new("map/documented", documented).slow(true));
    cells.push(Cell::new("map/nothing-to-draw", nothing_to_draw).slow(true));
    cells
}
