//! How often the host comes to EL2: for its PSCI calls and, while it starts at virtual EL2, for what it does there; for
//! nothing else, however long it runs and whatever it does.

use std::collections::BTreeMap;

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::Entry;
use crate::qemu;
use crate::{ensure, parse};

/// Runs `script` and returns Exeunt's own counters at power-off.
fn exits(
    context: &Context,
    model: &str,
    gic: u32,
    entry: Entry,
    script: &str,
) -> Result<BTreeMap<String, u64>, Missed> {
    let qemu = qemu::usual()?;
    qemu.needs(model)?;
    let machine = context.machine().with("CPU", qemu.cpu(model)).with("GIC", gic).entered(entry, "stats");
    let ran = machine.with("RUN", script).run()?.ended_with(0)?;
    Ok(parse::exits(&ran.console).ok_or("Exeunt printed no counters")?)
}

/// PSCI calls that Debian makes with 4 CPUs from start to power-off, at most: VERSION, MIGRATE_INFO_TYPE, a few
/// FEATURES, 3 CPU_ON, SYSTEM_OFF.
const MOST_CALLS: u64 = 12;

const IDLE: &str = "sleep 10";

/// Ten seconds of processes, pipes, signals, files, timers and address spaces on all CPUs.
const BUSY: &str = "\
for worker in 1 2 3 4 5 6; do
    (while :; do dd if=/dev/zero bs=64k count=16 2>/dev/null | sha256sum >/tmp/sum$worker; usleep 1000; done) &
done
sleep 10";

fn steady_state(context: &Context, model: &str, gic: u32, entry: Entry) -> Outcome {
    let boot = exits(context, model, gic, entry, "true")?;
    ensure!(boot["smc"] > 0 && boot["smc"] <= MOST_CALLS, "{} calls from start to power-off", boot["smc"]);
    let expected: &[&str] = match entry {
        Entry::El1 => &["smc"],
        Entry::VirtualEl2 => &["smc", "hvc", "system register", "undefined"],
    };
    ensure!(boot.iter().all(|(name, count)| expected.contains(&&name[..]) || *count == 0), "other exits: {boot:?}");
    // FINALISE_EL2, once on each of 4 CPUs.
    ensure!(boot["hvc"] == if entry == Entry::El1 { 0 } else { 4 }, "{} stub calls", boot["hvc"]);
    for (name, script) in [("idle", IDLE), ("busy", BUSY)] {
        let more = exits(context, model, gic, entry, script)?;
        ensure!(more == boot, "ten {name} seconds cost exits: {more:?}, without them {boot:?}");
    }
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (model, gic) in [("cortex-a57", 3), ("max", 3), ("cortex-a72", 2)] {
        for entry in Entry::ALL {
            let name = format!("exits/{model}-gic{gic}-{}", entry.name());
            let quick = (model, entry) == ("cortex-a57", Entry::VirtualEl2);
            cells.push(Cell::new(name, move |context| steady_state(context, model, gic, entry)).slow(!quick));
        }
    }
    cells
}
