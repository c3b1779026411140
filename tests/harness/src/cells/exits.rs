//! How often the host comes to EL2: for its PSCI calls, and for nothing else, however long it runs and whatever it does.

use std::collections::BTreeMap;

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::qemu;
use crate::{ensure, parse};

/// Runs `script` and returns Exeunt's own counters at power-off.
fn exits(context: &Context, model: &str, gic: u32, script: &str) -> Result<BTreeMap<String, u64>, Missed> {
    let qemu = qemu::usual()?;
    qemu.needs(model)?;
    let machine = context.machine().with("CPU", qemu.cpu(model)).with("GIC", gic).with("EXEUNT", "stats");
    let ran = machine.with("RUN", script).run()?.ended_with(0)?;
    Ok(parse::exits(&ran.console).ok_or("Exeunt printed no counters")?)
}

/// PSCI calls that Debian makes with 4 CPUs from start to power-off, at most: VERSION, MIGRATE_INFO_TYPE, a few FEATURES, 3 CPU_ON,
/// SYSTEM_OFF.
const MOST_CALLS: u64 = 12;

const IDLE: &str = "sleep 10";

/// Ten seconds of processes, pipes, signals, files, timers and address spaces on all CPUs.
const BUSY: &str = "\
for worker in 1 2 3 4 5 6; do
    (while :; do dd if=/dev/zero bs=64k count=16 2>/dev/null | sha256sum >/tmp/sum$worker; usleep 1000; done) &
done
sleep 10";

fn steady_state(context: &Context, model: &str, gic: u32) -> Outcome {
    let boot = exits(context, model, gic, "true")?;
    ensure!(boot["smc"] > 0 && boot["smc"] <= MOST_CALLS, "{} calls from start to power-off", boot["smc"]);
    ensure!(boot.iter().all(|(name, count)| name == "smc" || *count == 0), "exits other than calls: {boot:?}");
    for (name, script) in [("idle", IDLE), ("busy", BUSY)] {
        let more = exits(context, model, gic, script)?;
        ensure!(more == boot, "ten {name} seconds cost exits: {more:?}, without them {boot:?}");
    }
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    vec![
        Cell::new("exits/cortex-a57-gic3", |context| steady_state(context, "cortex-a57", 3)),
        Cell::new("exits/max-gic3", |context| steady_state(context, "max", 3)).slow(true),
        Cell::new("exits/cortex-a72-gic2", |context| steady_state(context, "cortex-a72", 2)).slow(true),
    ]
}
