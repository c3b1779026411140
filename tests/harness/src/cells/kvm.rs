//! KVM in the host, to which EL2 is lent (`entry=el2 kvm=lend`): a real guest runs on every CPU, also on one that was
//! off.

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Entry, Machine, PATIENT};
use crate::{ensure, images, parse, qemu};

/// Boots, and some fifteen seconds for the guest on each CPU.
const LIMIT: u64 = 420;

/// For the machine that does not end: enough for its boot.
const STUCK: u64 = 60;

/// Exit status of scripts/run when its time is over.
const TIME_IS_OVER: i32 = 124;

const RUN_ALL: &str = "\
mount -t debugfs none /sys/kernel/debug
echo level $(dmesg | grep -o 'CPU: All CPU(s) started at EL[0-9]')
echo mode $(dmesg | grep -oE 'H(YP|yp)( nVHE)? mode initialized')
for cpu in $(seq 0 $(($(nproc) - 1))); do /tests/kvm $cpu; echo status-$cpu $?; done
";

const REPLUG: &str = "\
for round in 1 2 3; do
    echo 0 >/sys/devices/system/cpu/cpu1/online; echo 1 >/sys/devices/system/cpu/cpu1/online
done
echo replugged
/tests/kvm 1; echo status-again $?
";

const COMPLAINTS: &str = "\
dmesg | grep -E 'WARNING:|BUG:|Oops|Internal error|Call trace' | sed 's/^/bad /'
echo taint $(cat /proc/sys/kernel/tainted)
";

fn machine(context: &Context, model: &str, kernel: &str) -> Result<Machine, Missed> {
    let qemu = qemu::usual()?;
    qemu.needs(model)?;
    let machine = context.machine().with("CPU", qemu.cpu(model)).with("KERNEL", kernel);
    Ok(machine.with("OVERLAY", images::programs()?.display()).limit(LIMIT))
}

/// KVM initialises and its guests compute what they should. The log says on which CPUs EL2 was given up.
fn lend(context: &Context, model: &str, kernel: &str, cpus: usize, replug: bool) -> Outcome {
    let script = format!("{RUN_ALL}{}{COMPLAINTS}", if replug { REPLUG } else { "" });
    let machine = machine(context, model, kernel)?.with("SMP", cpus);
    let machine = machine.with("EXEUNT", "entry=el2 kvm=lend log=info").with("APPEND", PATIENT).with("RUN", script);
    let ran = machine.run()?.ended_with(0)?;
    let said = |name: &str| parse::value(&ran.stdout, name).ok_or_else(|| format!("the guest did not say {name:?}"));
    ensure!(said("level")?.ends_with("EL2"), "the kernel says {:?}", said("level")?);
    ensure!(!said("mode")?.is_empty(), "KVM did not initialise:\n{}", ran.stdout);
    for cpu in 0..cpus {
        ensure!(said(&format!("status-{cpu}"))? == "0", "CPU {cpu}:\n{}", ran.stdout);
        let lent = format!("CPU {cpu}: the host has EL2 now");
        ensure!(ran.console.contains(&lent), "the console has no {lent:?}");
    }
    ensure!(!replug || said("status-again")? == "0", "CPU 1, off and on again:\n{}", ran.stdout);
    ensure!(!ran.stdout.contains("\nbad "), "the kernel complains:\n{}", ran.stdout);
    ensure!(said("taint")? == "0", "the kernel is tainted: {}", said("taint")?);
    Ok(())
}

/// On a CPU with Spectre v3a Linux itself cannot run a guest on a CPU that was off: EL2 ends in vectors that are not
/// there. If this fails, Linux can do it now, and `lend` should show it on this model too.
fn stuck_without_exeunt(context: &Context, model: &str) -> Outcome {
    let machine = machine(context, model, "6.12")?.with("HYPERVISOR", "none").with("SMP", 2).with("APPEND", PATIENT);
    let script = format!("mount -t debugfs none /sys/kernel/debug\n/tests/kvm 1; echo status-1 $?\n{REPLUG}");
    let ran = machine.with("RUN", script).limit(STUCK).run()?;
    ensure!(parse::value(&ran.stdout, "status-1") == Some("0"), "CPU 1, never off:\n{}", ran.stdout);
    ensure!(ran.stdout.lines().any(|line| line == "replugged"), "CPU 1 did not come back:\n{}", ran.stdout);
    let again = parse::value(&ran.stdout, "status-again");
    ensure!(ran.status == TIME_IS_OVER && again.is_none(), "it did not get stuck: {} {again:?}", ran.status);
    Ok(())
}

/// A host that installs vectors and calls them, without RESET_VECTORS before: the guest `lend` has checked everything
/// itself.
fn first_call(context: &Context, model: &str, options: &str, arguments: &str) -> Outcome {
    let qemu = qemu::usual()?;
    qemu.needs(model)?;
    let machine = context.machine().guest(&images::guest("lend")?, arguments).with("CPU", qemu.cpu(model));
    machine.entered(Entry::VirtualEl2, options).run()?.ended_with(0)?.says("checks, 0 failed")?;
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (name, model, options, arguments) in [
        ("kvm/first-call-max", "max", "kvm=lend", "lent"),
        ("kvm/first-call-cortex-a57", "cortex-a57", "kvm=lend", "lent"),
        ("kvm/first-call-refused", "cortex-a57", "", "refused"),
    ] {
        cells.push(Cell::new(name, move |context| first_call(context, model, options, arguments)));
    }
    for (model, kernel, cpus, replug, quick) in [
        ("max", "6.12", 2, true, true),
        ("max", "6.1", 4, true, false),
        ("cortex-a57", "6.12", 4, false, false),
        ("cortex-a53", "6.12", 2, true, false),
    ] {
        let name = format!("kvm/lend-{kernel}-{model}-{cpus}cpu");
        cells.push(Cell::new(name, move |context| lend(context, model, kernel, cpus, replug)).slow(!quick));
    }
    cells.push(
        Cell::new("kvm/stuck-on-a-cpu-that-was-off-6.12-cortex-a57-bare", |context| {
            stuck_without_exeunt(context, "cortex-a57")
        })
        .slow(true),
    );
    cells
}
