//! Exeunt dies, in each place of its code and in each way, and its host goes on: a bare-metal guest that looks, and a
//! Linux whose dump is saved all the same.

use super::restarts::passes;
use crate::cell::{Cell, Context, Outcome};
use crate::machine::{EXEUNT_FAILED, Entry};
use crate::{ensure, images};

/// Places in which the guest has Exeunt die at least, so that a list that became short is noticed.
const PLACES: usize = 60;

/// The guest has Exeunt die, and checks everything itself. Whoever ran the machine learns that Exeunt has failed.
fn guest(context: &Context, model: &str, gic: u32, entry: Entry, words: &str) -> Outcome {
    let machine = context.machine().guest(&images::guest("death")?, words).with("SMP", 4).with("CPU", model);
    let machine = machine.with("EXEUNT_BIN", images::faulty_exeunt()?.display()).with("GIC", gic).limit(900);
    let ran = machine.entered(entry, "log=debug").run()?.ended_with(EXEUNT_FAILED)?.says("checks, 0 failed")?;
    let deaths = ran.console.lines().filter(|line| line.starts_with("death: ") && line.contains(':')).count();
    ensure!(deaths > PLACES, "Exeunt died only {deaths} times");
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (crash, kernel, policy, gic, from, entry) in [
        ("killed", "6.1", "leave", "3", "0", Entry::VirtualEl2),
        ("killed", "6.12", "resident", "2", "3", Entry::VirtualEl2),
        ("killed", "6.1", "leave", "3", "0", Entry::El1),
        ("killed-before", "6.1", "leave", "2", "0", Entry::VirtualEl2),
        ("killed-before", "6.12", "resident", "3", "3", Entry::VirtualEl2),
        ("killed-before", "6.1", "leave", "3", "0", Entry::El1),
    ] {
        let variables = [
            ("CRASH", crash),
            ("KERNEL", kernel),
            ("POLICY", policy),
            ("GIC", gic),
            ("FROM", from),
            ("ENTRY", entry.name()),
        ];
        let cell = move |context: &Context| passes(context, "kdump", &variables);
        cells.push(Cell::new(format!("death/{crash}-{kernel}-{}-{policy}-gic{gic}", entry.name()), cell).slow(true));
    }
    for (model, gic) in [("cortex-a57", 3), ("max", 3), ("cortex-a72", 2)] {
        for entry in Entry::ALL {
            let quick = (model == "max") == (entry == Entry::VirtualEl2) && gic == 3;
            let once = move |context: &Context| guest(context, model, gic, entry, "");
            cells.push(Cell::new(format!("death/each-place-{model}-gic{gic}-{}", entry.name()), once).slow(!quick));
            let all = move |context: &Context| guest(context, model, gic, entry, "kinds");
            cells.push(Cell::new(format!("death/each-kind-{model}-gic{gic}-{}", entry.name()), all).slow(true));
        }
    }
    cells
}
