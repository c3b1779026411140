//! The black box on a machine: that it survives a reset, what the next start finds in it, and that it is in the dump of
//! every kernel.
//!
//! What a dump's box has to say `make kdump` knows, and compares itself: so do all cells that make one. Owns those of
//! the kernels that have no other.

use std::process::Command;
use std::time::Duration;

use view::Report;

use super::restarts::passes;
use crate::cell::{Cell, Context, Outcome};
use crate::machine::Entry;
use crate::{ensure, paths, process};

/// The first start resets the machine, the second says what the first has left.
const RESET_ONCE: &str = "exeunt crashes >/tmp/left || exit; cat /tmp/left; \
                          if grep -q '^There is nothing' /tmp/left; then reboot -f; sleep 100; fi";

/// A reset in place leaves the box of the start before it.
fn after_a_reset(context: &Context, entry: Entry) -> Outcome {
    let machine = context.machine().entered(entry, "").with("REBOOT", 1).with("RUN", RESET_ONCE);
    let ran = machine.run()?.ended_with(0)?;
    ran.line_with("the last start in this memory (number 1) has left its black box").ok_or("no line at the start")?;
    for line in [
        "Exeunt itself did not die in the start before this one.",
        "Exeunt starts, for the first time in this memory",
        "the host is entered at 0x40400000",
        "CPU 3   a CPU comes up under Exeunt",
        "CPU 0   the host resets the machine",
        "INFO  Exeunt ",
    ] {
        ensure!(ran.stdout.contains(line), "the second start has no {line:?}: {}", ran.stdout);
    }
    Ok(())
}

/// A dump by makedumpfile of a kernel that died, in both entry modes and with both policies. Linux 5.10 does not say
/// where its kallsyms are; 6.12-16k has other pages.
const KERNELS: [&str; 6] = ["5.10", "6.1", "6.12-rt", "6.12-16k", "backports", "testing"];
/// At EL1 the policy has nothing to decide: Exeunt stays.
const WAYS: [(&str, &str); 3] = [("el1", "leave"), ("el2", "leave"), ("el2", "resident")];

/// Has a kernel die, and looks at what `exeunt-dump` tells programs of the dump. `make kdump` has compared the box with
/// what it knows of the run.
fn dumped(context: &Context, kernel: &str, entry: &str, policy: &str) -> Outcome {
    passes(context, "kdump", &[("KERNEL", kernel), ("ENTRY", entry), ("POLICY", policy)])?;
    let mut command = Command::new(paths::root().join("scripts/exeunt-dump"));
    command.arg("--json").arg(context.directory()?.join("run/dump"));
    let ended = process::run(&mut command, Duration::from_mins(10))?;
    ensure!(ended.status == 0, "scripts/exeunt-dump returned {}: {}", ended.status, ended.stderr);
    let report: Report = serde_json::from_str(&ended.stdout)?;
    let options = format!("entry={entry} restart={policy} log=debug stats");
    ensure!(report.exeunt.options == options, "the options were {:?}", report.exeunt.options);
    ensure!(report.log_lost == 0 && report.log.contains("] INFO  the host: kernel at 0x"), "its log: {}", report.log);
    let stops: Vec<_> = report.stops.iter().map(|stop| (stop.cpu, stop.why.as_str())).collect();
    let off = stops.iter().filter(|(cpu, why)| (1..4).contains(cpu) && *why == "it went off by CPU_OFF").count();
    let restarts = stops.get(3) == Some(&(0, "it called SOFT_RESTART"));
    ensure!(off == 3 && restarts == (entry == "el2"), "the CPUs stopped like this: {stops:?}");
    let exeunt = if policy == "resident" { "stays" } else { "leaves" };
    let words = format!(", after a crash; Exeunt {exeunt}");
    let told = report.life.iter().any(|event| event.cpu == 0 && event.words.ends_with(&words));
    ensure!(told == (entry == "el2"), "its life has been {:?}", report.life);
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells: Vec<Cell> = [(Entry::VirtualEl2, false), (Entry::El1, true)]
        .into_iter()
        .map(|(entry, slow)| {
            Cell::new(format!("black-box/after-a-reset-{}", entry.name()), move |context| after_a_reset(context, entry))
                .slow(slow)
        })
        .collect();
    let ways = KERNELS.into_iter().flat_map(|kernel| WAYS.map(|way| (kernel, way)));
    for (kernel, (entry, policy)) in ways.chain([("6.12", ("el1", "resident"))]) {
        let name = format!("black-box/dump-{kernel}-{entry}-{policy}");
        cells.push(Cell::new(name, move |context| dumped(context, kernel, entry, policy)).slow(true));
    }
    cells
}
