//! `exeunt leave`: Exeunt leaves all CPUs while Linux runs.

use std::time::Duration;

use guest_abi::vendor::{self, Error, Failure, LEAVE};
use serde::Serialize;

use super::{Context, Said};
use crate::door::{self, Answer};
use crate::host::list;
use crate::trouble::Trouble;
use crate::words;

/// So often it is tried while another CPU is being started or comes back, which takes some milliseconds.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
struct Report {
    state: &'static str,
    /// CPUs that it left.
    cpus: Option<u64>,
    way_back: bool,
}

/// The command.
///
/// # Errors
/// As the call.
pub fn run(context: &Context<'_>) -> Result<Said, Trouble> {
    context.needs_exeunt()?;
    for tries in 1.. {
        match door::call(context.page, [LEAVE.into(), 0, 0, 0])? {
            Answer::Gone => break,
            Answer::Registers(registers) => match vendor::results(registers) {
                // Exeunt has left other CPUs, and this one was not among them: it says so, and is still here.
                Ok(_) => return Err(Trouble::Nonsense("leave", registers[0])),
                Err(Failure::Refused(Error::Busy)) if tries < TRIES => context.host.wait(PAUSE),
                Err(failure) => return Err(door::trouble("to leave", failure)),
            },
        }
    }
    let mailbox = super::back::round(context.page)?;
    let report = Report { state: "left", cpus: mailbox.map(|mailbox| mailbox.cpus), way_back: mailbox.is_some() };
    let cpus = match report.cpus {
        None => "the machine".to_owned(),
        // It had left others before, which no LEAVE counts.
        Some(_) if !context.left.is_empty() => format!("CPU {} too, where it still was", list(&context.under)),
        Some(1) => "its one CPU".to_owned(),
        Some(cpus) => format!("all {}", words::count(cpus, "CPU")),
    };
    let back = if report.way_back { "To get Exeunt back: exeunt back\n" } else { "It keeps no way back open.\n" };
    let text = format!(
        "Exeunt has left {cpus}, and Linux goes on where it was: nothing is between it and the hardware now.\n{back}"
    );
    Ok(Said::new(text, report))
}
