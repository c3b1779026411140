//! CPUs go off and come on again while others work.

use super::shell;
use crate::cell::{Cell, Context, Outcome};
use crate::machine::{Entry, PATIENT};
use crate::{ensure, parse};

/// Rounds for each CPU.
const ROUNDS: u32 = 20;

/// Takes every CPU off and puts it back, CPU 0 too if the kernel lets it, with a busy process for each CPU that would
/// notice if its data changed; says how often it did, and what failed.
const SCRIPT: &str = r"
WORKERS
done=0 failed=0
for round in $(seq ROUNDS); do
    for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
        [ -w $cpu/online ] || continue
        for state in 0 1; do
            if echo $state >$cpu/online && [ $(cat $cpu/online) = $state ]; then
                done=$((done + 1))
            else
                failed=$((failed + 1))
                echo failed-at round $round, $cpu, $state
            fi
        done
    done
done
echo switchable $(ls -d /sys/devices/system/cpu/cpu[0-9]*/online | wc -l)
echo done $done
echo failed $failed
echo online $(cat /sys/devices/system/cpu/online)
WORKED
COMPLAINTS
";

fn hotplug(context: &Context, kernel: &str, cpus: u32, gic: u32, entry: Entry) -> Outcome {
    let script = shell::script(SCRIPT, ROUNDS);
    let machine =
        context.machine().with("KERNEL", kernel).with("SMP", cpus).with("GIC", gic).limit(900).with("APPEND", PATIENT);
    let ran = machine.entered(entry, "stats").with("RUN", script).run()?.ended_with(0)?;
    let said = |name| parse::value(&ran.stdout, name).ok_or_else(|| format!("the guest did not say {name:?}"));
    let number = |name| said(name)?.parse::<u32>().map_err(|error| format!("{name}: {error}"));
    ensure!(number("failed")? == 0, "{} switches failed", number("failed")?);
    let switchable = number("switchable")?;
    ensure!(switchable >= cpus - 1, "the kernel lets only {switchable} of {cpus} CPUs go off");
    let wanted = switchable * ROUNDS * 2;
    ensure!(number("done")? == wanted, "{} switches, not {wanted}", number("done")?);
    ensure!(said("online")? == format!("0-{}", cpus - 1), "online at the end: {}", said("online")?);
    ensure!(number("worked")? > 0 && number("wrong")? == 0, "{} of {} sums are wrong", said("wrong")?, said("worked")?);
    let bad: Vec<&str> = ran.stdout.lines().filter_map(|line| line.strip_prefix("bad ")).collect();
    ensure!(bad.is_empty(), "the kernel complains:\n{}", bad.join("\n"));

    // Each cycle needs CPU_OFF and CPU_ON at least; nothing but calls comes to EL2, and what a host in virtual EL2 does
    // there.
    let exits = parse::exits(&ran.console).ok_or("Exeunt printed no counters")?;
    ensure!(exits["smc"] >= u64::from(wanted), "{} calls for {wanted} switches", exits["smc"]);
    let expected: &[&str] = match entry {
        Entry::El1 => &["smc"],
        Entry::VirtualEl2 => &["smc", "hvc", "system register", "undefined"],
    };
    ensure!(exits.iter().all(|(name, count)| expected.contains(&&name[..]) || *count == 0), "other exits: {exits:?}");
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (kernel, cpus, gic, entry) in [
        ("6.12", 4, 3, Entry::El1),
        ("6.12", 4, 3, Entry::VirtualEl2),
        ("6.1", 4, 2, Entry::El1),
        ("6.1", 4, 2, Entry::VirtualEl2),
        ("6.12", 8, 3, Entry::El1),
        ("6.12", 8, 3, Entry::VirtualEl2),
    ] {
        let name = format!("hotplug/{kernel}-smp{cpus}-gic{gic}-{}", entry.name());
        let quick = (kernel, cpus, entry) == ("6.12", 4, Entry::El1);
        cells.push(Cell::new(name, move |context| hotplug(context, kernel, cpus, gic, entry)).slow(!quick));
    }
    cells
}
