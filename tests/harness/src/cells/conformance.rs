//! The ABI of EL2, call by call and state by state: the guest `conformance`, which has checked everything itself and
//! prints what.

use crate::cell::{Cell, Context, Outcome};
use crate::machine::Entry;
use crate::{ensure, images, qemu};

/// A way through the states: Exeunt's options, the guest's, and the states that it must have been in, as the table
/// names them.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    entry: Entry,
    exeunt: &'static str,
    guest: &'static str,
    states: &'static [&'static str],
}

/// Every way out and back, with a LEAVE slow enough to be looked at.
const SLOWLY: &str = "selftest=slow-leave";

const WAYS: [Way; 10] = [
    Way {
        name: "el1-cycle",
        entry: Entry::El1,
        exeunt: SLOWLY,
        guest: "cycle slow-leave",
        states: &["live-el1", "stub", "table", "leaving", "locked"],
    },
    Way {
        name: "el2-cycle",
        entry: Entry::VirtualEl2,
        exeunt: SLOWLY,
        guest: "cycle slow-leave",
        states: &["live-el2", "stub", "table", "leaving", "locked"],
    },
    Way {
        name: "el2-vectors-cycle",
        entry: Entry::VirtualEl2,
        exeunt: SLOWLY,
        guest: "vectors cycle slow-leave",
        states: &["virtual-el2", "live-el2", "gone", "table", "leaving", "locked"],
    },
    Way { name: "el1-reset", entry: Entry::El1, exeunt: "", guest: "way=reset", states: &["live-el1", "stub", "gone"] },
    Way {
        name: "el1-restart",
        entry: Entry::El1,
        exeunt: "",
        guest: "way=restart",
        states: &["live-el1", "stub", "gone"],
    },
    Way {
        name: "el1-resident",
        entry: Entry::El1,
        exeunt: "restart=resident",
        guest: "restart=resident",
        states: &["live-el1"],
    },
    Way {
        name: "el2-reset",
        entry: Entry::VirtualEl2,
        exeunt: "",
        guest: "way=reset",
        states: &["live-el2", "stub", "gone"],
    },
    Way {
        name: "el2-vectors-reset",
        entry: Entry::VirtualEl2,
        exeunt: "",
        guest: "vectors way=reset",
        states: &["virtual-el2", "live-el2", "gone"],
    },
    Way {
        name: "el2-restart",
        entry: Entry::VirtualEl2,
        exeunt: "",
        guest: "vectors way=restart",
        states: &["virtual-el2", "live-el2", "stub", "gone"],
    },
    Way {
        name: "el2-resident",
        entry: Entry::VirtualEl2,
        exeunt: "restart=resident",
        guest: "vectors restart=resident",
        states: &["virtual-el2", "live-el2"],
    },
];

fn conformance(context: &Context, way: Way, model: &str, gic: u32, cpus: u32, quick: bool) -> Outcome {
    let qemu = qemu::usual()?;
    qemu.needs(model)?;
    let arguments = format!("{}{}", way.guest, if quick { " quick" } else { "" });
    let machine = context.machine().guest(&images::guest("conformance")?, &arguments);
    let machine =
        machine.with("CPU", qemu.cpu(model)).with("GIC", gic).with("SMP", cpus).entered(way.entry, way.exeunt);
    let ran = machine.run()?.ended_with(0)?.says("checks, 0 failed")?;
    // The table's columns, and that something was called in each state that this way leads to.
    let table: Vec<Vec<&str>> = ran
        .console
        .lines()
        .skip_while(|line| !(line.starts_with("conformance: ") && line.contains(" live-el1 ")))
        .map(|line| line.split_whitespace().skip(1).collect())
        .collect();
    let (head, rows) = table.split_first().ok_or("there is no table")?;
    for state in way.states {
        let column = head.iter().position(|name| name == state).ok_or_else(|| format!("no column {state}"))?;
        // A row's name may have several words, so columns count from the end.
        let from_end = head.len() - column;
        let count = |row: &Vec<&str>| row.iter().rev().nth(from_end - 1).and_then(|text| text.parse::<u32>().ok());
        let called = rows.iter().filter_map(count).filter(|&count| count > 0).count();
        ensure!(called >= 8, "{called} kinds of calls in the state {state}");
    }
    ensure!(!ran.console.contains("WRONG"), "the guest says WRONG");
    Ok(())
}

/// Random calls on all CPUs, while each leaves and comes back: Exeunt and each stub are asked, and nothing is worth a
/// warning.
fn walk(context: &Context, entry: Entry, model: &str, gic: u32, calls: u64) -> Outcome {
    let machine = context.machine().guest(&images::guest("conformance")?, &format!("walk={calls}"));
    let machine =
        machine.with("CPU", model).with("GIC", gic).with("SMP", 4).entered(entry, "").limit(60 + calls / 2000);
    let ran = machine.run()?.ended_with(0)?.says("checks, 0 failed")?;
    let line = ran.console.lines().rfind(|line| line.starts_with("walk: ")).unwrap_or_default();
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(numbers.len() == 6 && numbers.iter().all(|&number| number > 0), "{line}");
    // But for what the guest is refused on purpose.
    let expected = [
        "cannot be started: no crash kernel is loaded",
        "WARN  LEAVE: LOCKED",
        "lines about the host's faults left out",
    ];
    let is_warning = |line: &&str| line.contains(" WARN ") && !expected.iter().any(|words| line.contains(words));
    ensure!(ran.console.lines().find(is_warning).is_none(), "{:?}", ran.console.lines().find(is_warning));
    Ok(())
}

/// The section of a stub on a bare machine, where the guest's own table is at EL2. A lab of the book has others there.
fn bare(context: &Context) -> Outcome {
    let machine = context.machine().guest(&images::guest("conformance")?, "bare quick");
    let ran = machine.with("HYPERVISOR", "none").with("EL", 2).with("SMP", 4).run()?.ended_with(0)?;
    ran.says("checks, 0 failed")?.says("back, all at once -> 0x0: ok, 4 times")?;
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = vec![Cell::new("conformance/bare-stub", bare)];
    for (model, gic) in [("cortex-a57", 3), ("max", 3), ("cortex-a72", 2)] {
        for entry in Entry::ALL {
            let quick = (model == "max") == (entry == Entry::El1) && gic == 3;
            let length = if quick { 50_000 } else { 1_000_000 };
            let name = format!("conformance/walk-{}-{model}-gic{gic}", entry.name());
            cells.push(Cell::new(name, move |context| walk(context, entry, model, gic, length)).slow(!quick));
        }
    }
    for way in WAYS {
        for (model, gic) in [("cortex-a57", 3), ("max", 3), ("cortex-a72", 2), ("neoverse-n2", 3), ("max", 2)] {
            let name = format!("conformance/{}-{model}-gic{gic}", way.name);
            let quick = match way.name {
                "el2-cycle" => (model, gic) == ("cortex-a72", 2),
                "el2-vectors-cycle" => (model, gic) == ("max", 3),
                // The last two: vectors that are installed under the resident stub, and `restart=` as an option.
                "el1-cycle" | "el2-reset" | "el2-resident" => (model, gic) == ("cortex-a57", 3),
                _ => false,
            };
            let cell = Cell::new(name, move |context| conformance(context, way, model, gic, 4, quick));
            cells.push(cell.slow(!quick));
        }
        // The least number in which there are others.
        if way.guest.contains("cycle") {
            let name = format!("conformance/{}-2-cpus", way.name);
            cells.push(Cell::new(name, move |context| conformance(context, way, "cortex-a57", 3, 2, true)).slow(true));
        }
    }
    cells
}
