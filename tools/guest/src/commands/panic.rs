//! `exeunt panic`: Linux panics on a CPU, wherever that is; or with `--force` its crash kernel begins without that.
//!
//! Visits no other CPU: a program that is to go to one that hangs never comes back. So it does not use what
//! [`Context`](super::Context) finds out of all of them.

use guest_abi::vendor::{CRASH_KERNEL, PANIC, PANIC_HERE};
use serde_json::json;

use super::Said;
use crate::door::{self, Presence};
use crate::host::Host;
use crate::page::Page;
use crate::snapshot::{Mirror, Snapshot, Wanted};
use crate::trouble::Trouble;

/// The command: on Linux's CPU with this number, or on the one on which this program is.
///
/// # Errors
/// As the call; [`Trouble::NoCpu`]. [`Trouble::Left`] if Exeunt has left the CPU on which this program is.
pub fn run(page: &dyn Page, host: &dyn Host, cpu: Option<u32>) -> Result<Said, Trouble> {
    host.stay()?;
    if door::presence(page)? == Presence::Left {
        return Err(Trouble::Left);
    }
    let target = match cpu {
        None => PANIC_HERE,
        Some(cpu) => number(page, host, cpu)?,
    };
    door::ask(page, "to have Linux panic", PANIC, [target.into(), 0, 0])?;
    // Linux is about to die, and this may be seen or not.
    let text = match cpu {
        None => "Linux panics.\n".to_owned(),
        Some(cpu) => format!("Linux panics on CPU {cpu}.\n"),
    };
    Ok(Said::new(text, json!({ "panics": cpu })))
}

/// The command with `--force`: the crash kernel, on the CPU on which this program is. Comes back with an error only.
///
/// # Errors
/// As the call. [`Trouble::Left`] if Exeunt has left this CPU.
pub fn force(page: &dyn Page, host: &dyn Host) -> Result<Said, Trouble> {
    host.stay()?;
    if door::presence(page)? == Presence::Left {
        return Err(Trouble::Left);
    }
    door::ask(page, "to start the crash kernel", CRASH_KERNEL, [0; 3])?;
    Err(Trouble::Nonsense("to start the crash kernel", 0))
}

/// Exeunt's number of Linux's CPU. Linux counts from the CPU that it was started on, Exeunt as the device tree does.
fn number(page: &dyn Page, host: &dyn Host, cpu: u32) -> Result<u32, Trouble> {
    let Some(mpidr) = host.mpidr(cpu) else { return Err(Trouble::NoCpu(cpu)) };
    let Some(mirror) = Mirror::new(page)? else { return Err(Trouble::TooOld("to name a CPU")) };
    let snapshot = Snapshot::take(&mirror, Wanted::default())?;
    let place = snapshot.cpus()?.iter().position(|block| block.mpidr == mpidr);
    place.and_then(|place| u32::try_from(place).ok()).ok_or(Trouble::NoCpu(cpu))
}
