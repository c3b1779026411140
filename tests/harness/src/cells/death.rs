//! Exeunt dies, in each place of its code and in each way, and its host goes on: a bare-metal guest that looks, and a
//! Linux whose dump is saved all the same.

use super::restarts::passes;
use crate::cell::{Cell, Context, Outcome};
use crate::machine::{EXEUNT_FAILED, Entry};
use crate::{ensure, images, parse};

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

/// A Linux is in virtual EL2 for the first time when Exeunt dies. It begins again, at real EL2, and comes up there.
fn linux_begins_again(context: &Context, model: &str, gic: u32, place: &str) -> Outcome {
    let machine = context.machine().with("KERNEL", "6.1").with("CPU", model).with("GIC", gic).with("SMP", 4);
    let machine = machine.with("EXEUNT_BIN", images::faulty_exeunt()?.display()).with("MEM", "640M").limit(300);
    let machine = machine.with("RUN", "echo level $(dmesg | grep -o 'CPU(s) started at .*'); echo cpus $(nproc)");
    let ran =
        machine.entered(Entry::VirtualEl2, &format!("selftest=fault:{place}")).run()?.ended_with(EXEUNT_FAILED)?;
    let ran = ran.says("the host was in virtual EL2, and begins again at")?;
    let [level, cpus] = ["level", "cpus"].map(|name| parse::value(&ran.stdout, name).unwrap_or_default());
    ensure!(level == "CPU(s) started at EL2" && cpus == "4", "{cpus} CPUs, {level}:\n{}", ran.stdout);
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (model, gic, place) in [
        ("cortex-a57", 3, "window:store"),
        ("cortex-a72", 2, "window-done:lost-stack"),
        ("max", 3, "enter-last:panic"),
        ("neoverse-n2", 3, "window:overflow"),
    ] {
        let cell = move |context: &Context| linux_begins_again(context, model, gic, place);
        cells.push(Cell::new(format!("death/in-virtual-el2-{model}-gic{gic}"), cell).slow(true));
    }
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
