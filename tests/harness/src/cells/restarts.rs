//! Restarts beside the drill's: kexec after kexec in one machine, the way back from a crash kernel, and a kexec that
//! meets a refusal, a lock or a LEAVE. All through the same scripts as people use, which have compared everything
//! themselves.

use runner::machine::COMPOSED;

use crate::cell::{Cell, Context, Outcome};
use crate::{ensure, machine};

/// Runs a script with these variables, and has its last line say PASS. Of what the machine was made of nothing is left.
pub(super) fn passes(context: &Context, script: &str, variables: &[(&str, &str)]) -> Outcome {
    let variables: Vec<_> = variables.iter().map(|&(name, value)| (name, value.to_owned())).collect();
    let directory = context.directory()?.join("run");
    let ended = machine::run_script(script, &directory, &variables)?;
    let last = ended.stdout.lines().last().unwrap_or_default();
    ensure!(ended.status == 0 && last.starts_with("PASS: "), "scripts/{script} returned {}: {last}", ended.status);
    ensure!(directory.join("console.log").exists(), "no console is left");
    for made in ["overlay", COMPOSED] {
        ensure!(!directory.join(made).exists(), "{made} is left");
    }
    Ok(())
}

/// A cell: its name, whether it is slow, the script, and its variables.
type Run = (&'static str, bool, &'static str, &'static [(&'static str, &'static str)]);

const RUNS: [Run; 18] = [
    ("soak/5-kexecs-el2-gic3", false, "soak", &[("ROUNDS", "5")]),
    ("soak/21-kexecs-el2-gic2", true, "soak", &[("ROUNDS", "21"), ("GIC", "2")]),
    ("soak/21-kexecs-el1-gic3", true, "soak", &[("ROUNDS", "21"), ("ENTRY", "el1")]),
    ("back/el2-resident", true, "kdump", &[("BACK", "1"), ("POLICY", "resident")]),
    ("back/el2-resident-cpu3", true, "kdump", &[("BACK", "1"), ("POLICY", "resident"), ("FROM", "3")]),
    ("back/el2-leave", true, "kdump", &[("BACK", "1")]),
    ("back/el1", true, "kdump", &[("BACK", "1"), ("ENTRY", "el1")]),
    ("kexec/backports-el2", true, "kexec", &[("KERNEL", "backports")]),
    ("kexec/backports-el1", true, "kexec", &[("KERNEL", "backports"), ("ENTRY", "el1")]),
    // With LPA2, with which 6.12 cannot kexec.
    ("kexec/backports-max-el2", true, "kexec", &[("KERNEL", "backports"), ("CPU", "max"), ("POLICY", "resident")]),
    ("hibernation/5.10-el2", true, "hibernate", &[("KERNEL", "5.10")]),
    ("hibernation/5.10-el1", true, "hibernate", &[("KERNEL", "5.10"), ("ENTRY", "el1")]),
    ("hibernation/6.1-el2", true, "hibernate", &[("KERNEL", "6.1"), ("POLICY", "resident")]),
    ("kexec/refused-el2", false, "kexec", &[("CALL", "refused"), ("POLICY", "resident")]),
    ("kexec/refused-el1", true, "kexec", &[("CALL", "refused"), ("ENTRY", "el1")]),
    ("kexec/locked-el2", true, "kexec", &[("CALL", "lock")]),
    ("kexec/during-a-leave", false, "kexec", &[("CALL", "leave")]),
    ("kexec/during-a-leave-resident", true, "kexec", &[("CALL", "leave"), ("POLICY", "resident"), ("FROM", "3")]),
];

pub(super) fn cells() -> Vec<Cell> {
    let cell = |(name, slow, script, variables): Run| {
        Cell::new(name, move |context| passes(context, script, variables)).slow(slow)
    };
    RUNS.into_iter().map(cell).collect()
}
