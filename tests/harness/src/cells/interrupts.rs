//! Interrupts that are pending while the host is in virtual EL2: held by the GIC, or by the detour where that does not
//! hold them; and no virtual EL2 where the GIC is not known.

use super::bad_input::with_shim;
use super::virtual_el2::restart_with;
use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Machine, PATIENT};
use crate::{ensure, images, parse, qemu};

/// For Exeunt, where the shim starts it: behind what scripts/run loads.
const ELSEWHERE: u64 = 0x5fe0_0000;
/// In the line that says why the host is not at virtual EL2.
const UNKNOWN: &str = "WARN  the device tree names no interrupt controller that Exeunt knows";
/// In the line of a CPU that has taken the detour.
const DETOUR: &str = "keeps coming in virtual EL2, and no mask of the GIC's holds it";

/// Two CPUs of a model with the guest.
fn machine(context: &Context, model: &str, gic: u32, arguments: &str) -> Result<Machine, Missed> {
    let qemu = qemu::usual()?;
    qemu.needs(model)?;
    let machine = context.machine().guest(&images::guest("interrupts")?, arguments).with("CPU", qemu.cpu(model));
    Ok(machine.with("GIC", gic).with("SMP", 2))
}

/// The guest sees nothing of its interrupts before it is at EL1, neither under Exeunt nor on bare QEMU.
fn at_el2(context: &Context, model: &str, gic: u32, options: Option<&str>) -> Outcome {
    let arguments = if options.is_some() { "level=2" } else { "level=2 bare" };
    let machine = machine(context, model, gic, arguments)?;
    let machine = match options {
        Some(options) => machine.with("EXEUNT", format!("entry=el2 restart=resident {options}")),
        None => machine.with("HYPERVISOR", "none").with("EL", 2),
    };
    let ran = machine.run()?.ended_with(0)?.says("checks, 0 failed")?;
    let detours = options.is_some_and(|options| options.contains("gic-holds-nothing"));
    ensure!(ran.console.contains(DETOUR) == detours, "detours were to be taken: {detours}");
    Ok(())
}

/// A GIC with a name that Exeunt does not know: the guest is at EL1, and so are its payloads.
fn unknown(context: &Context, gic: u32, replace: &str) -> Outcome {
    let machine = machine(context, "cortex-a57", gic, "level=1")?;
    let machine = with_shim(machine, ELSEWHERE, &format!("replace={replace}"), "entry=el2 restart=resident")?;
    machine.run()?.ended_with(0)?.says("checks, 0 failed")?.says(UNKNOWN)?;
    Ok(())
}

/// What Linux says about where it was started and who its interrupts come from.
const FACTS: &str = "\
echo level $(dmesg | grep -o 'CPU: All CPU(s) started at EL[0-9]')
echo timer $(awk '/arch_timer/ { print $2 + $3 }' /proc/interrupts)
echo bad $(dmesg | grep -c -E 'WARNING:|BUG:|Oops|Internal error|Call trace|inconsistent')
";

/// Linux on a GICv2 with another of the names that Linux knows: at virtual EL2, since Exeunt knows it as well, and at
/// EL1 with a warning when Exeunt forgets it.
fn linux(context: &Context, forgets: bool) -> Outcome {
    let machine = context.machine().with("GIC", 2).with("SMP", 2).with("APPEND", PATIENT).with("RUN", FACTS);
    let options = if forgets { "entry=el2 restart=resident selftest=unknown-gic" } else { "entry=el2" };
    let machine = with_shim(machine, ELSEWHERE, "replace=arm,cortex-a15-gic:qcom,msm-qgic2", options)?;
    let ran = machine.run()?.ended_with(0)?;
    let said = |name| parse::value(&ran.stdout, name).ok_or_else(|| format!("the guest did not say {name:?}"));
    let level = if forgets { "EL1" } else { "EL2" };
    ensure!(said("level")?.ends_with(level), "the kernel says {:?}", said("level")?);
    ensure!(said("timer")?.parse::<u32>().is_ok_and(|count| count > 0), "timer interrupts: {}", said("timer")?);
    ensure!(said("bad")? == "0", "the kernel complains {} times", said("bad")?);
    ensure!(ran.console.contains(UNKNOWN) == forgets, "Exeunt does not know the GIC: {}", !forgets);
    Ok(())
}

/// A kexec whose next kernel starts with an interrupt pending that no GIC holds: the old kernel's timer has not
/// stopped. After a crash there is none, because Linux masks them all before.
fn detour(context: &Context, model: &str, gic: u32) -> Outcome {
    let console = restart_with(context, model, gic, "resident", false, "selftest=gic-holds-nothing")?;
    ensure!(console.contains(DETOUR), "no interrupt came in virtual EL2");
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (model, gic, quick) in
        [("max", 3, true), ("cortex-a57", 2, true), ("cortex-a57", 3, false), ("neoverse-n2", 3, false)]
    {
        let ways = [("bare", None), ("el2", Some("")), ("detour", Some("selftest=gic-holds-nothing"))];
        for (way, options) in ways {
            let cell = Cell::new(format!("interrupts/{way}-{model}-gic{gic}"), move |context| {
                at_el2(context, model, gic, options)
            });
            cells.push(cell.slow(!quick || way == "bare" && gic == 2));
        }
    }
    for (gic, replace) in [(2, "arm,cortex-a15-gic:brcm,no-gic"), (3, "arm,gic-v3:brcm,no-g")] {
        let cell = Cell::new(format!("interrupts/unknown-gic{gic}"), move |context| unknown(context, gic, replace));
        cells.push(cell);
    }
    cells.push(Cell::new("interrupts/linux-forgotten-gic", |context| linux(context, true)));
    cells.push(Cell::new("interrupts/linux-other-gic", |context| linux(context, false)).slow(true));
    for (model, gic) in [("cortex-a57", 3), ("cortex-a57", 2), ("neoverse-n2", 3)] {
        let name = format!("interrupts/detour-kexec-{model}-gic{gic}");
        cells.push(Cell::new(name, move |context| detour(context, model, gic)).slow(true));
    }
    cells
}
