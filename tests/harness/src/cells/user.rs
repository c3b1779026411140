//! CPU features that need EL2's consent, used by programs in the host's user space.

use crate::cell::{Cell, Context, Outcome};
use crate::machine::Entry;
use crate::qemu::{self, Qemu};
use crate::{ensure, images, parse};

/// Exit status of a program that found its feature missing (`tests/user`).
const SKIPPED: &str = "77";

/// Runs all programs on `-cpu max`. None may skip, but MOPS where QEMU or the kernel has none.
fn features(context: &Context, kernel: &str, entry: Entry, qemu: &Qemu) -> Outcome {
    let script: String = images::PROGRAMS.map(|name| format!("/tests/{name}; echo status-{name} $?\n")).concat();
    let machine = context.machine().with("KERNEL", kernel).with("CPU", qemu.cpu("max")).with_qemu("-machine mte=on");
    let machine = machine.with("QEMU", qemu.program.display()).with("OVERLAY", images::programs()?.display());
    let ran = machine.entered(entry, "").with("RUN", script).limit(600).run()?.ended_with(0)?;
    for name in images::PROGRAMS {
        let status = parse::value(&ran.stdout, &format!("status-{name}")).unwrap_or("none");
        // FEAT_MOPS: QEMU since 8.2, Linux since 6.5.
        if name == "mops" && (qemu.version < (8, 2) || kernel == "6.1") {
            ensure!(status == SKIPPED, "{name} ended with {status}, and there is no MOPS here");
            continue;
        }
        ensure!(status == "0", "{name} ended with {status}:\n{}", ran.stdout);
    }
    Ok(())
}

/// Where the CPU has none of it, the programs say so: a pass above means that a feature was there.
fn missing(context: &Context) -> Outcome {
    let script: String = images::PROGRAMS.map(|name| format!("/tests/{name}; echo status-{name} $?\n")).concat();
    let machine = context.machine().with("OVERLAY", images::programs()?.display());
    let ran = machine.with("RUN", script).run()?.ended_with(0)?;
    for name in images::PROGRAMS {
        let status = parse::value(&ran.stdout, &format!("status-{name}")).unwrap_or("none");
        ensure!(status == SKIPPED, "{name} ended with {status} on a cortex-a57");
    }
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = vec![Cell::new("user/6.12-cortex-a57", missing)];
    for entry in Entry::ALL {
        let level = entry.name();
        for kernel in ["6.12", "6.1"] {
            let quick = (kernel, entry) == ("6.12", Entry::VirtualEl2);
            let test = move |context: &Context| features(context, kernel, entry, qemu::usual()?);
            cells.push(Cell::new(format!("user/{kernel}-max-{level}"), test).slow(!quick));
        }
        for version in ["7.2", "10.0"] {
            let test = move |context: &Context| features(context, "6.12", entry, &Qemu::private(version)?);
            cells.push(Cell::new(format!("user/6.12-max-qemu-{version}-{level}"), test).slow(true));
        }
    }
    cells
}
