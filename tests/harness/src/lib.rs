//! The tests that run whole machines on QEMU.
//!
//! A test here is a *cell*: a name such as `boot/6.12-cortex-a57-smp4-gic3-512M`, and a function that starts one or
//! more machines and says what it missed. `tests/machines.rs` gives all cells to libtest-mimic, so that `cargo test`
//! filters them by name. Slow ones are marked ignored and run with `--include-ignored` (`make test-all`).
//!
//! Machines are started by `scripts/run` with variables, the same door that people use; [`machine`] is that door. Each
//! cell has a directory below target/tests/ for its consoles, which stays when the cell fails.
//!
//! - [`cells`]: what is tested.
//! - [`machine`], [`process`]: starting machines, with a time limit on each; [`variables`]: what the scripts take.
//! - [`next`]: the kernel that comes after a restart.
//! - [`images`]: the bare-metal guests and the guest's programs, built when a cell first wants them.
//! - [`qemu`]: which QEMU there is and what it has.
//! - [`parse`]: numbers out of what machines print.

pub mod cell;
pub mod cells;
pub mod images;
pub mod machine;
pub mod next;
pub mod parse;
pub mod paths;
pub mod process;
pub mod qemu;
pub mod variables;

use libtest_mimic::Arguments;

/// Machines that run at the same time, at most: each has several threads of its own.
const MACHINES: usize = 2;

/// Runs the cells that the command line asks for.
#[must_use]
pub fn main() -> std::process::ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(MACHINES).min(MACHINES));
    if let Err(error) = process::end_all_when_asked() {
        eprintln!("signals: {error}");
        return std::process::ExitCode::FAILURE;
    }
    let trials = cells::all_or_sleeper().into_iter().map(cell::Cell::into_trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    process::stay_if_asked_to_end();
    conclusion.exit_code()
}
