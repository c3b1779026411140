//! The host at virtual EL2 (`entry=el2`): it believes that it owns EL2, and kexec and crash recovery
//! issue the stub calls by themselves.

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Machine, PATIENT};
use crate::{ensure, next, parse, qemu};

/// Kernels that are started by kexec or after a crash have the copy loop and the second boot to do, too.
const LIMIT: u64 = 420;

/// What the reads of ID registers may cost on each CPU that is entered: those that are trapped at most
/// (`virtual_el2::ids::TRAPPED_READS`), and some of those in the window.
const ID_READS: u64 = 512 + 88;

/// What the second kernel runs. `records` is how much of /proc/vmcore could be read, in MiB, and what was in the way.
const SECOND: &str = "\
echo second $(uname -r)
echo level $(dmesg | grep -o 'CPU: All CPU(s) started at EL[0-9]')
echo cpus $(nproc)
echo kvm $(dmesg | grep -c -E 'mode initialized successfully')
echo refused $(dmesg | grep -c 'not supported at Stage-2, giving up')
[ -e /proc/vmcore ] && echo records $(dd if=/proc/vmcore of=/dev/null bs=1M 2>&1 | grep 'records in')
dmesg | grep -E 'WARNING:|BUG:|Oops|Internal error|Call trace' | sed 's/^/bad /'
true
";

fn machine(context: &Context, model: &str, gic: u32, options: &str) -> Result<Machine, Missed> {
    let qemu = qemu::usual()?;
    qemu.needs(model)?;
    let machine = context.machine().with("CPU", qemu.cpu(model)).with("GIC", gic);
    Ok(machine.with("EXEUNT", format!("entry=el2 stats {options}")).limit(LIMIT))
}

/// What a kernel finds out about the CPUs, and what it complains about. Times and addresses differ from boot to boot.
const FACTS: &str = "\
dmesg | sed -n 's/.*CPU features: detected: /feature /p' | sort
grep -E '^(Features|CPU)' /proc/cpuinfo | sed 's/^/cpuinfo /'
dmesg | grep -E 'WARNING:|BUG:|Oops|Internal error|Call trace|detected stall|Unhandled|SError' | sed 's/^.*] /bad /'
echo taint $(cat /proc/sys/kernel/tainted)
";

/// 20 rounds, in each of which one of the CPUs but the first goes off and comes back. `hotplug/` does it with all of
/// them, under load.
const HOTPLUG: &str = "\
others=$(($(nproc) - 1))
[ $others = 0 ] || for round in $(seq 20); do
    cpu=/sys/devices/system/cpu/cpu$((round % others + 1))
    echo 0 >$cpu/online && echo 1 >$cpu/online || echo bad round $round
done
echo online $(nproc)
echo level $(dmesg | grep -o 'CPU: All CPU(s) started at EL[0-9]')
echo refused $(dmesg | grep -c 'not supported at Stage-2, giving up')
";

/// Differences in the lines of [`FACTS`] that are as they should be, by their beginning: what KVM could do with stage 2
/// is not there for a host that finds no page size for it.
const ACCEPTED: &[&str] = &["feature 52-bit Virtual Addressing for KVM (LPA2)"];

/// The lines of [`FACTS`] that count.
fn facts(stdout: &str) -> Vec<&str> {
    let counts = |line: &&str| ["feature ", "cpuinfo ", "bad ", "taint "].iter().any(|start| line.starts_with(start));
    stdout.lines().filter(counts).filter(|line| !ACCEPTED.iter().any(|start| line.starts_with(start))).collect()
}

/// The kernel says that all CPUs started at EL2, KVM gives up with its own words, and CPUs go off and come back. What
/// it finds out about the CPUs is what it finds without a hypervisor, with EL2 but without FEAT_VHE; so is what it
/// complains about.
fn boot(context: &Context, model: &str, gic: u32, kernel: &str, cpus: usize) -> Outcome {
    let under = machine(context, model, gic, "")?.with("KERNEL", kernel).with("SMP", cpus).with("APPEND", PATIENT);
    let ran = under.with("RUN", format!("{HOTPLUG}{FACTS}")).run()?.ended_with(0)?;
    let said = |name| parse::value(&ran.stdout, name).ok_or_else(|| format!("the guest did not say {name:?}"));
    ensure!(said("online")? == cpus.to_string(), "{} CPUs are online at the end", said("online")?);
    ensure!(said("level")?.ends_with("EL2"), "the kernel says {:?}", said("level")?);
    ensure!(said("refused")? == "1", "KVM did not give up");

    let bare = context.machine().with("HYPERVISOR", "none").with("EL", 2).with("KERNEL", kernel).with("SMP", cpus);
    let bare = bare.with("CPU", qemu::usual()?.cpu(model)).with("GIC", gic);
    let bare = bare.with("APPEND", format!("{PATIENT} kvm-arm.mode=nvhe")).with("RUN", FACTS).run()?.ended_with(0)?;
    let (facts, expected) = (facts(&ran.stdout), facts(&bare.stdout));
    for kind in ["feature", "cpuinfo Features", "taint"] {
        ensure!(expected.iter().any(|line| line.starts_with(kind)), "bare QEMU shows no {kind:?}:\n{}", bare.stdout);
    }
    let only = |these: &[&str], others: &[&str]| -> Vec<String> {
        these.iter().filter(|line| !others.contains(line)).map(ToString::to_string).collect()
    };
    let (more, less) = (only(&facts, &expected), only(&expected, &facts));
    ensure!(more.is_empty() && less.is_empty(), "only under Exeunt: {more:#?}\nonly without: {less:#?}");
    ensure!(facts.len() == expected.len(), "lines that are there more than once:\n{facts:#?}\n{expected:#?}");
    Ok(())
}

/// `kexec -e`, or a crash with a crash kernel loaded, ends in the next kernel, at EL2.
fn restart(context: &Context, model: &str, gic: u32, policy: &str, crash: bool) -> Outcome {
    restart_with(context, model, gic, policy, crash, "").map(|_| ())
}

/// The same with further options of Exeunt's. Gives the console.
pub(super) fn restart_with(
    context: &Context,
    model: &str,
    gic: u32,
    policy: &str,
    crash: bool,
    options: &str,
) -> Result<String, Missed> {
    let overlay = next::kernel(context.directory()?, "6.12", SECOND, &[])?;
    let line = "console=ttyAMA0 quiet panic=-1";
    let script = if crash {
        format!(
            "kexec -p /next/vmlinuz --initrd=/next/initrd --command-line='{line} maxcpus=1 reset_devices' && \
             echo c >/proc/sysrq-trigger; false"
        )
    } else {
        format!("kexec -l /next/vmlinuz --initrd=/next/initrd --command-line='{line}' && kexec -e; false")
    };
    let machine = machine(context, model, gic, &format!("restart={policy} log=debug {options}"))?;
    let machine = machine.with("OVERLAY", overlay.display()).with("RUN", script);
    let machine = if crash { machine.with("APPEND", "crashkernel=256M") } else { machine };
    let ran = machine.run()?.ended_with(0)?;
    let said = |name| parse::value(&ran.stdout, name).ok_or_else(|| format!("the next kernel did not say {name:?}"));
    ensure!(ran.console.contains("stub call 0x1,"), "nobody called SOFT_RESTART");
    ensure!(said("level")?.ends_with("EL2"), "the next kernel says {:?}", said("level")?);
    ensure!(said("cpus")? == if crash { "1" } else { "4" }, "the next kernel has {} CPUs", said("cpus")?);
    // Where Exeunt has left, EL2 is the next kernel's, and so KVM works there; else it gives up as it did before.
    let leave = policy == "leave";
    let kvm = (said("kvm")? == "1", said("refused")? == "1");
    ensure!(kvm == (leave, !leave), "KVM initialised and gave up: {kvm:?}");
    if !leave {
        // Exeunt sees both kernels. Reads of ID registers trap for a while on each CPU, and no more however many there
        // are: a crash kernel on a CPU without FEAT_RNG makes 48,000 before it has all features.
        let entered = if crash { 5 } else { 8 };
        let trapped = parse::exits(&ran.console).and_then(|exits| exits.get("system register").copied());
        let trapped = trapped.ok_or("the console has no counters")?;
        ensure!(trapped <= entered * ID_READS, "{trapped} system registers trapped, on {entered} CPUs entered");
    }
    ensure!(!crash || said("records")?.starts_with("79"), "of /proc/vmcore could be read: {}", said("records")?);
    ensure!(!ran.stdout.contains("\nbad "), "the next kernel complains:\n{}", ran.stdout);
    Ok(ran.console)
}

/// The boots for `make test`: both kernels, one CPU and four, both GICs, FEAT_VHE or none.
const QUICK: [(&str, &str, usize, u32); 3] =
    [("cortex-a57", "6.12", 4, 3), ("max", "6.1", 1, 2), ("neoverse-n2", "6.12", 1, 3)];

/// Every kernel, number of CPUs and GIC.
fn product() -> impl Iterator<Item = (&'static str, usize, u32)> {
    let both = |kernel| [(kernel, 1, 2), (kernel, 1, 3), (kernel, 4, 2), (kernel, 4, 3)];
    ["6.12", "6.1"].into_iter().flat_map(both)
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for model in ["cortex-a57", "cortex-a72", "neoverse-n1", "neoverse-n2", "max"] {
        for (kernel, cpus, gic) in product() {
            let quick = QUICK.contains(&(model, kernel, cpus, gic));
            let name = format!("virtual-el2/boot-{kernel}-{model}-smp{cpus}-gic{gic}");
            cells.push(Cell::new(name, move |context| boot(context, model, gic, kernel, cpus)).slow(!quick));
        }
    }
    for (model, gic, policy, crash, quick) in [
        ("cortex-a57", 3, "leave", false, true),
        ("cortex-a57", 3, "resident", false, true),
        ("cortex-a57", 2, "resident", false, false),
        ("neoverse-n2", 3, "leave", false, false),
        ("neoverse-n2", 3, "resident", false, false),
        ("cortex-a57", 3, "leave", true, true),
        ("cortex-a57", 3, "resident", true, false),
        ("cortex-a72", 2, "resident", true, false),
    ] {
        let what = if crash { "crash" } else { "kexec" };
        let name = format!("virtual-el2/{what}-{policy}-{model}-gic{gic}");
        cells.push(Cell::new(name, move |context| restart(context, model, gic, policy, crash)).slow(!quick));
    }
    cells
}
