//! The figures of `make bench`: that all of them can be had, and that each keeps its goal.
//!
//! They are counts of instructions and exits, so that one run tells. Owns no goal; those are the program's.

use std::process::Command;
use std::time::Duration;

use crate::cell::{Cell, Context, Outcome};
use crate::{ensure, paths, process, variables};

/// The last heading. What stands above it has come.
const LAST: &str = "A kexec of Debian 6.12, 1 CPU: virtual ns";

/// A release build of the harness, and some sixty machines.
const LIMIT: Duration = Duration::from_mins(45);

fn every_goal_is_kept(_: &Context) -> Outcome {
    let mut command = Command::new("make");
    variables::clear(&mut command);
    command.arg("bench").current_dir(paths::root());
    let ended = process::run(&mut command, LIMIT)?;
    ensure!(ended.status == 0, "make bench returned {}: {}{}", ended.status, ended.stdout, ended.stderr);
    ensure!(ended.stdout.contains(LAST), "it did not come to its end: {}", ended.stdout);
    let over: Vec<&str> = ended.stdout.lines().filter(|line| line.contains("  over ")).collect();
    ensure!(over.is_empty(), "over the goal: {over:?}");
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    vec![Cell::new("bench/goals", every_goal_is_kept).slow(true)]
}
