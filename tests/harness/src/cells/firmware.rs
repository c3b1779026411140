//! Real firmware below Exeunt: Arm's Trusted Firmware at EL3 (`FIRMWARE=tf-a`), where QEMU by itself answers PSCI
//! without any code. Its BL2 hands over a device tree without room at its end, CPUs come and go through its BL31, and
//! SMCs reach a dispatcher that knows the architecture's workarounds.
//!
//! Its tree has no idle states, and of this version no CPU wakes from one that powers it down (`qemu_pm.c`): CPUs idle
//! with WFI here, as everywhere on QEMU.

use std::time::Duration;

use super::leave;
use super::restarts::passes;
use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Entry, Machine, PATIENT};
use crate::{ensure, parse, qemu};

/// The time in which a prompt must come, set-up and builds included.
const PATIENCE: Duration = Duration::from_mins(10);

fn machine(context: &Context) -> Machine {
    context.machine().with("FIRMWARE", "tf-a")
}

/// One that runs `script`.
fn runs(context: &Context, model: &str, entry: Entry, script: &str) -> Result<Machine, Missed> {
    let qemu = qemu::usual()?;
    qemu.needs(model)?;
    let machine = machine(context).with("CPU", qemu.cpu(model)).with("APPEND", PATIENT);
    Ok(machine.entered(entry, "stats").with("RUN", script))
}

const LOOK: &str = "\
echo level $(dmesg | grep -o 'CPU: All CPU(s) started at EL[0-9]')
echo smccc $(dmesg | sed -n 's/.*psci: SMC Calling Convention //p')
for round in 1 2 3; do
    for cpu in 1 2 3; do echo 0 >/sys/devices/system/cpu/cpu$cpu/online || echo bad CPU $cpu stays on; done
    echo alone $(nproc)
    for cpu in 1 2 3; do echo 1 >/sys/devices/system/cpu/cpu$cpu/online || echo bad CPU $cpu stays off; done
done
echo cpus $(nproc)
dmesg | grep -E 'WARNING:|BUG:|Oops|Internal error|Call trace|failed to boot' | sed 's/^/bad /'";

/// The host comes up, takes its CPUs off and on again, and turns the machine off, each through firmware.
fn boot(context: &Context, model: &str, entry: Entry) -> Outcome {
    let ran = runs(context, model, entry, LOOK)?.run()?.ended_with(0)?;
    let said = |name| parse::value(&ran.stdout, name).ok_or_else(|| format!("the guest did not say {name:?}"));
    ensure!(ran.line_with("BL31: v").is_some(), "the firmware did not say that it is there");
    ensure!(ran.line_with("EL3 is there").is_some(), "Exeunt did not say that there is an EL3");
    ensure!(said("level")?.ends_with(entry.level()), "the kernel says {:?}", said("level")?);
    // QEMU's own PSCI has no SMCCC_VERSION, which Linux then takes for 1.0.
    ensure!(!["", "v1.0"].contains(&said("smccc")?), "SMCCC {}", said("smccc")?);
    let alone = ran.stdout.lines().filter(|line| *line == "alone 1").count();
    ensure!(alone == 3 && said("cpus")? == "4", "CPUs did not go off or come on:\n{}", ran.stdout);
    ensure!(ran.stdout.lines().all(|line| !line.starts_with("bad ")), "a complaint:\n{}", ran.stdout);
    ensure!(ran.line_with("all CPUs: exits:").is_some(), "Exeunt was not there at the end");
    Ok(())
}

/// Processes that [`FORK`] makes, each with an address space of its own.
const FORKS: u64 = 300;
const FORK: &str = "made=0; while [ $made -lt 300 ]; do /bin/busybox true; made=$((made + 1)); done";

/// A kernel on a CPU with the flaw calls SMCCC_ARCH_WORKAROUND_1 when it changes between address spaces: twice or so
/// for a process, which Exeunt counts and passes on; and nothing else leaves to EL2. One without the flaw calls
/// nothing.
fn workaround_calls(context: &Context, model: &str, entry: Entry, flawed: bool) -> Outcome {
    let exits = |script| -> Result<_, Missed> {
        let ran = runs(context, model, entry, script)?.run()?.ended_with(0)?;
        Ok(parse::exits(&ran.console).ok_or("Exeunt printed no counters")?)
    };
    let (mut few, mut many) = (exits("true")?, exits(FORK)?);
    let [before, after] = [&mut few, &mut many].map(|counters| counters.remove("smc").unwrap_or_default());
    ensure!(few == many, "other exits than SMCs: {many:?}, without the processes {few:?}");
    let calls = after.saturating_sub(before);
    eprintln!("{model}, {}: {FORKS} processes made {calls} calls ({after}, and {before} without them)", entry.name());
    // Without the flaw the same but for what the kernel asks once in a while: whether a CPU is off already.
    let expected = if flawed { FORKS..=4 * FORKS } else { 0..=FORKS / 10 };
    ensure!(expected.contains(&calls), "{FORKS} processes made {calls} calls: {after}, and {before} without them");
    Ok(())
}

/// Firmware resets the machine, starts from flash once more, and the host comes up as the first time.
fn reset(context: &Context) -> Outcome {
    let directory = context.directory()?.display();
    let mut session = machine(context).with("OUT", directory).on_a_terminal("scripts/run")?;
    session.expect("~# ", PATIENCE)?;
    session.send("reboot -f\n")?;
    for said in ["QEMU System Reset", "BL31: v", "EL3 is there", "~# "] {
        session.expect(said, PATIENCE)?;
    }
    session.send("echo answer: $((6 * 7)) $(nproc)\n")?;
    session.expect("answer: 42 4", PATIENCE)?;
    session.expect("~# ", PATIENCE)?;
    session.send("poweroff\n")?;
    let ended = session.finish(PATIENCE)?;
    ensure!(ended.status == 0, "scripts/run returned {}", ended.status);
    Ok(())
}

/// A cell: its name, the script, and its variables.
type Restart = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// By the scripts that people use.
const RESTARTS: [Restart; 4] = [
    ("firmware/kexec-el2-leave", "kexec", &[]),
    ("firmware/kexec-el2-resident", "kexec", &[("POLICY", "resident"), ("FROM", "3")]),
    ("firmware/kexec-el1", "kexec", &[("ENTRY", "el1")]),
    ("firmware/5-kexecs", "soak", &[("ROUNDS", "5")]),
];

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = vec![Cell::new("firmware/reset", reset)];
    for (model, entry) in [
        ("cortex-a57", Entry::VirtualEl2),
        ("cortex-a57", Entry::El1),
        ("cortex-a72", Entry::VirtualEl2),
        ("max", Entry::VirtualEl2),
    ] {
        let name = format!("firmware/boot-{model}-{}", entry.name());
        cells.push(Cell::new(name, move |context| boot(context, model, entry)));
    }
    for (model, entry, flawed) in [
        ("cortex-a57", Entry::VirtualEl2, true),
        ("cortex-a57", Entry::El1, true),
        ("neoverse-n2", Entry::VirtualEl2, false),
    ] {
        let name = format!("firmware/workaround-calls-{model}-{}", entry.name());
        cells.push(Cell::new(name, move |context| workaround_calls(context, model, entry, flawed)));
    }
    for (name, script, variables) in RESTARTS {
        let variables = [&[("FIRMWARE", "tf-a")], variables].concat();
        cells.push(Cell::new(name, move |context| passes(context, script, &variables)));
    }
    // What races with what is to be seen in threads.
    let threads = |context: &Context| machine(context).with("THREADS", "multi");
    for entry in Entry::ALL.map(Entry::name) {
        let rounds = move |context: &Context| leave::rounds(context, threads(context), 50, entry, "cortex-a57");
        cells.push(Cell::new(format!("firmware/leave-50-rounds-{entry}"), rounds));
    }
    let race = move |context: &Context| leave::race(context, threads(context), 50, "el2");
    cells.push(Cell::new("firmware/leave-race-50-rounds-el2", race));
    cells.into_iter().map(|cell| cell.slow(true)).collect()
}
