//! The bare-metal guests: under Exeunt, and on bare QEMU where that shows that their expectations are right.

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Entry, Machine};
use crate::qemu::{self, Qemu};
use crate::{ensure, images, parse};

/// A machine for the guest `name` on `model`, with memory tagging where the CPU has it.
fn machine(context: &Context, qemu: &Qemu, name: &str, model: &str, arguments: &str) -> Result<Machine, Missed> {
    qemu.needs(model)?;
    let machine = context.machine().guest(&images::guest(name)?, arguments).with("CPU", qemu.cpu(model));
    Ok(if model == "max" { machine.with_qemu("-machine mte=on") } else { machine })
}

fn bare(machine: Machine) -> Machine {
    machine.with("HYPERVISOR", "none").with("EL", 1)
}

/// Runs the guest under Exeunt; it has checked everything itself.
fn guest(context: &Context, name: &str, model: &str, gic: u32, profile: &str, entry: Entry) -> Outcome {
    let machine = machine(context, qemu::usual()?, name, model, "")?.entered(entry, "");
    let machine = if profile == "debug" { machine.own_build() } else { machine };
    machine.with("GIC", gic).with("PROFILE", profile).run()?.ended_with(0)?.says("checks, 0 failed")?;
    Ok(())
}

/// Nothing that can be encoded as a system instruction does more in virtual EL2 than it should. The guest has checked
/// that, and that it could do so to the end is half of it.
fn encodings(context: &Context, model: &str, gic: u32, profile: &str, arguments: &str) -> Outcome {
    let machine = machine(context, qemu::usual()?, "encodings", model, arguments)?.with("SMP", 1).with("GIC", gic);
    let machine = machine.entered(Entry::VirtualEl2, "").with("PROFILE", profile);
    let machine = if profile == "debug" { machine.own_build() } else { machine };
    machine.run()?.ended_with(0)?.says("checks, 0 failed")?;
    Ok(())
}

/// RAM, and a range after it that neither has memory nor devices and does not begin at a multiple of 1 GiB.
const RAM_WITH_A_HOLE: (&str, &str) = ("1536M", "region=0xa0000000,0x200000");

/// The doorbell, alone, in a storm, or for a LEAVE.
fn doorbell(context: &Context, model: &str, gic: u32, cpus: u32, entry: Entry, arguments: &str) -> Outcome {
    let machine = machine(context, qemu::usual()?, "doorbell", model, arguments)?.entered(entry, "");
    let machine = machine.with("GIC", gic).with("SMP", cpus).with("TIMEOUT", 600);
    machine.run()?.ended_with(0)?.says("checks, 0 failed")?;
    Ok(())
}

/// The stop of all CPUs in a crash, wherever they are.
fn stop(
    context: &Context,
    (model, gic, cpus, profile): (&str, u32, u32, &str),
    entry: Entry,
    arguments: &str,
) -> Outcome {
    let machine = machine(context, qemu::usual()?, "stop", model, arguments)?.entered(entry, "");
    let machine = if profile == "debug" { machine.own_build() } else { machine };
    let ran = machine.with("GIC", gic).with("SMP", cpus).with("PROFILE", profile).run()?.ended_with(0)?;
    ran.says("checks, 0 failed")?.says("caught and switched off")?;
    Ok(())
}

/// PANIC, of CPUs wherever they are.
fn panics(context: &Context, model: &str, gic: u32, entry: Entry, arguments: &str) -> Outcome {
    let machine = machine(context, qemu::usual()?, "panics", model, arguments)?.entered(entry, "");
    machine.with("GIC", gic).with("SMP", 4).run()?.ended_with(0)?.says("checks, 0 failed")?;
    Ok(())
}

/// The watchdog, by a guest that hangs and one that does not.
fn watchdog(context: &Context, model: &str, gic: u32, entry: Entry) -> Outcome {
    let machine = machine(context, qemu::usual()?, "watchdog", model, "")?.entered(entry, "watchdog=2");
    machine.with("GIC", gic).with("SMP", 1).run()?.ended_with(0)?.says("checks, 0 failed")?;
    Ok(())
}

/// The expectations of `aborts` hold for QEMU's CPU itself, with a hole instead of Exeunt's memory.
fn aborts_on_bare_qemu(context: &Context, model: &str) -> Outcome {
    let (size, region) = RAM_WITH_A_HOLE;
    let machine = bare(machine(context, qemu::usual()?, "aborts", model, region)?).with("MEM", size);
    machine.run()?.ended_with(0)?.says("checks, 0 failed")?;
    Ok(())
}

/// Under Exeunt, what is not there answers as without it.
fn hole(context: &Context, model: &str, entry: Entry) -> Outcome {
    let (size, region) = RAM_WITH_A_HOLE;
    let machine = machine(context, qemu::usual()?, "aborts", model, region)?.with("MEM", size).entered(entry, "");
    machine.run()?.ended_with(0)?.says("checks, 0 failed")?;
    Ok(())
}

/// The aborts come without a flood of lines, and the suppressed ones are not lost without a word.
fn aborts_are_rate_limited(context: &Context) -> Outcome {
    let ran = machine(context, qemu::usual()?, "aborts", "cortex-a57", "")?.run()?.ended_with(0)?;
    let lines = ran.console.lines().filter(|line| line.contains("it gets an external abort")).count();
    let seconds = ran.took.as_secs() as usize + 1;
    // Ten lines in five seconds.
    ensure!(lines >= 1 && lines <= 10 * (seconds / 5 + 2), "{lines} lines in {seconds} s");
    Ok(())
}

/// With another Exeunt underneath, or none, the same registers and instructions are there.
fn same_registers(context: &Context, model: &str, gic: u32, entry: Entry) -> Outcome {
    let qemu = qemu::usual()?;
    let start = || Ok::<_, Missed>(machine(context, qemu, "sysregs", model, "sweep")?.with("SMP", 1).with("GIC", gic));
    let without = parse::sweep(&bare(start()?).run()?.ended_with(0)?.console);
    let with = parse::sweep(&start()?.entered(entry, "").run()?.ended_with(0)?.console);
    ensure!(without.len() > 200 && with.len() > 200, "{} and {} registers", without.len(), with.len());
    let names = without.keys().chain(with.keys());
    let mut differences: Vec<String> = names
        .filter(|name| without.get(*name) != with.get(*name) && !may_differ(name))
        .filter(|name| {
            let both = without.get(*name).zip(with.get(*name));
            entry == Entry::El1 || !both.is_some_and(|(one, other)| only_granules_differ(name, one, other))
        })
        // Neoverse cores: with EL2, writes of IMPLEMENTATION DEFINED registers need ACTLR_EL2, which QEMU keeps at
        // zero.
        .filter(|name| !(name.starts_with("EL1 S3_0_C15_") && with.get(*name).is_some_and(|access| access == "r")))
        .map(|name| format!("{name}: bare {:?}, under Exeunt {:?}", without.get(name), with.get(name)))
        .collect();
    differences.sort();
    differences.dedup();
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// ID_AA64MMFR0_EL1.TGran16_2, TGran64_2 and TGran4_2, from which KVM in a host at virtual EL2 shall see that it has no
/// stage 2.
const STAGE2_GRANULES: u64 = 0xfff << 32;

/// Whether the encoding is ID_AA64MMFR0_EL1, and its two values, as the guest prints them, differ in
/// [`STAGE2_GRANULES`] only.
fn only_granules_differ(encoding: &str, one: &str, other: &str) -> bool {
    let value = |text: &str| u64::from_str_radix(text.strip_prefix("r 0x")?, 16).ok();
    let both = value(one).zip(value(other));
    encoding == "EL1 S3_0_C0_C7_0" && both.is_some_and(|(one, other)| (one ^ other) & !STAGE2_GRANULES == 0)
}

/// What a CPU with EL2 shows otherwise at EL1, and why.
fn may_differ(encoding: &str) -> bool {
    [
        // ID_PFR1_EL1.Virtualization and ID_AA64PFR0_EL1.EL2 say that there is an EL2.
        "EL1 S3_0_C0_C1_1",
        "EL1 S3_0_C0_C4_0",
        // RVBAR_EL1 and RMR_EL1 exist at the highest level only.
        "EL1 S3_0_C12_C0_1",
        "EL1 S3_0_C12_C0_2",
        // CNTFRQ_EL0 can be written at the highest level only.
        "EL1 S3_3_C14_C0_0",
    ]
    .contains(&encoding)
}

/// Exeunt works at other addresses than the one where QEMU's -kernel puts it: `shim` is loaded there and jumps to it.
fn elsewhere(context: &Context, address: u64) -> Outcome {
    let exeunt = images::exeunt()?;
    let shim = images::guest("shim")?;
    let machine = context.machine().guest(&images::guest("aborts")?, "").with_qemu(format!(
        "-kernel {} -append 'entry={address:#x} -- log=info' -device loader,file={},addr={address:#x},force-raw=on",
        shim.display(),
        exeunt.display(),
    ));
    let ran = machine.run()?.ended_with(0)?.says("checks, 0 failed")?;
    ran.says(&format!("aborts: region {address:#x}..{:#x}", address + 0x1f_0000))?;
    Ok(())
}

/// Those in which one CPU does something with the others, wherever they are.
fn of_all_cpus() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (machine, arguments, quickly) in [
        (("cortex-a57", 2, 4, "release"), "", Some(Entry::VirtualEl2)),
        (("max", 3, 8, "release"), "", Some(Entry::El1)),
        (("cortex-a57", 3, 2, "release"), "", None),
        (("cortex-a72", 3, 4, "release"), "lock", Some(Entry::VirtualEl2)),
        (("neoverse-n2", 3, 16, "release"), "", None),
        (("cortex-a72", 2, 8, "release"), "", None),
        (("max", 3, 4, "debug"), "", None),
    ] {
        for entry in Entry::ALL {
            let (model, gic, cpus, profile) = machine;
            let lock = if arguments.is_empty() { "" } else { "-locked" };
            let debug = if profile == "debug" { "-debug-build" } else { "" };
            let name = format!("guests/stop{lock}{debug}-{model}-gic{gic}-{cpus}-cpus-{}", entry.name());
            let cell = move |context: &Context| stop(context, machine, entry, arguments);
            cells.push(Cell::new(name, cell).slow(quickly != Some(entry)));
        }
    }
    for (model, gic, arguments, quickly) in [
        ("cortex-a57", 2, "", Some(Entry::El1)),
        ("max", 3, "", Some(Entry::VirtualEl2)),
        ("cortex-a72", 3, "", None),
        ("neoverse-n2", 3, "lock", None),
        ("cortex-a57", 3, "lock", Some(Entry::VirtualEl2)),
    ] {
        for entry in Entry::ALL {
            let what = if arguments.is_empty() { "panics" } else { "panics-locked" };
            let cell = move |context: &Context| panics(context, model, gic, entry, arguments);
            let name = format!("guests/{what}-{model}-gic{gic}-{}", entry.name());
            cells.push(Cell::new(name, cell).slow(quickly != Some(entry)));
        }
    }
    for (model, gic, quickly) in [("cortex-a57", 3, Some(Entry::VirtualEl2)), ("cortex-a72", 2, None), ("max", 3, None)]
    {
        for entry in Entry::ALL {
            let cell = move |context: &Context| watchdog(context, model, gic, entry);
            let name = format!("guests/watchdog-{model}-gic{gic}-{}", entry.name());
            cells.push(Cell::new(name, cell).slow(quickly != Some(entry)));
        }
    }
    cells
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for name in ["aborts", "calls", "psci", "sysregs"] {
        for (model, gic) in [("cortex-a57", 3), ("max", 3), ("cortex-a72", 2), ("neoverse-n2", 3), ("neoverse-v1", 3)] {
            for entry in Entry::ALL {
                let quick = match entry {
                    Entry::El1 => (model, gic) == ("cortex-a57", 3),
                    Entry::VirtualEl2 => (model, gic) == ("max", 3) || name == "psci" && gic == 2,
                };
                let cell = Cell::new(format!("guests/{name}-{model}-gic{gic}-{}", entry.name()), move |context| {
                    guest(context, name, model, gic, "release", entry)
                });
                cells.push(cell.slow(!quick));
            }
        }
        for entry in Entry::ALL {
            let debug = move |context: &Context| guest(context, name, "max", 3, "debug", entry);
            let quick = (name, entry) == ("aborts", Entry::VirtualEl2);
            cells.push(Cell::new(format!("guests/{name}-debug-build-{}", entry.name()), debug).slow(!quick));
        }
    }
    for gic in [2, 3] {
        for entry in Entry::ALL {
            let wake = move |context: &Context| guest(context, "wake", "cortex-a57", gic, "release", entry);
            let quick = (gic == 2) == (entry == Entry::El1);
            cells.push(Cell::new(format!("guests/wake-gic{gic}-{}", entry.name()), wake).slow(!quick));
        }
    }
    cells.extend(of_all_cpus());
    for (model, gic) in [("cortex-a57", 3), ("max", 3), ("cortex-a72", 2)] {
        for entry in Entry::ALL {
            let quick = (model == "max") == (entry == Entry::VirtualEl2);
            for (what, arguments, cpus, quick) in [
                ("alone", "", 1, quick && gic == 3),
                ("leave", "leave", 4, quick),
                ("leave-one-cpu", "leave", 1, false),
                ("storm", "storm=3000", 5, quick && model == "cortex-a57"),
                ("long-storm", "storm=250000", 5, false),
            ] {
                let name = format!("guests/doorbell-{what}-{model}-gic{gic}-{}", entry.name());
                let cell = move |context: &Context| doorbell(context, model, gic, cpus, entry, arguments);
                cells.push(Cell::new(name, cell).slow(!quick));
            }
        }
    }
    for (model, entry) in [("cortex-a57", Entry::El1), ("max", Entry::VirtualEl2)] {
        cells
            .push(Cell::new(format!("guests/aborts-bare-{model}"), move |context| aborts_on_bare_qemu(context, model)));
        let name = format!("guests/hole-{model}-{}", entry.name());
        cells.push(Cell::new(name, move |context| hole(context, model, entry)));
    }
    cells.push(Cell::new("guests/aborts-are-rate-limited", aborts_are_rate_limited));
    for (model, gic, quickly) in [
        ("cortex-a57", 3, Some(Entry::El1)),
        ("max", 3, Some(Entry::VirtualEl2)),
        ("max", 2, Some(Entry::El1)),
        ("cortex-a53", 2, None),
        ("cortex-a76", 3, None),
        ("neoverse-v1", 3, Some(Entry::VirtualEl2)),
        ("neoverse-n2", 3, None),
    ] {
        for entry in Entry::ALL {
            let name = format!("guests/same-registers-{model}-gic{gic}-{}", entry.name());
            let cell = Cell::new(name, move |context| same_registers(context, model, gic, entry));
            cells.push(cell.slow(quickly != Some(entry)));
        }
    }
    for (model, gic, profile, quick) in [
        ("cortex-a57", 2, "release", true),
        ("max", 3, "release", true),
        ("cortex-a53", 3, "release", false),
        ("cortex-a57", 2, "release", false),
        ("cortex-a72", 3, "release", false),
        ("neoverse-n2", 3, "release", false),
        ("neoverse-v1", 3, "release", false),
        ("max", 3, "release", false),
        ("max", 3, "debug", false),
    ] {
        let (what, arguments) = if quick { ("encodings-quickly", "quick") } else { ("encodings", "") };
        let cell = Cell::new(format!("guests/{what}-{model}-gic{gic}-{profile}"), move |context| {
            encodings(context, model, gic, profile, arguments)
        });
        cells.push(cell.slow(!quick));
    }
    for address in [0x4400_0000, 0x5fe0_0000] {
        cells.push(Cell::new(format!("guests/exeunt-at-{address:#x}"), move |context| elsewhere(context, address)));
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_granules_of_stage_2_may_be_hidden() {
        let mmfr0 = "EL1 S3_0_C0_C7_0";
        assert!(only_granules_differ(mmfr0, "r 0x2100032310201126", "r 0x2100011110201126"));
        assert!(!only_granules_differ(mmfr0, "r 0x2100032310201126", "r 0x2100011110201125"));
        assert!(!only_granules_differ(mmfr0, "r 0x2100032310201126", "rw 0x2100011110201126"));
        assert!(!only_granules_differ("EL1 S3_0_C0_C7_1", "r 0x2100032310201126", "r 0x2100011110201126"));
    }
}
