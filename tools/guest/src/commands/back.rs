//! `exeunt back`: bring Exeunt back to all CPUs.
//!
//! It leaves a word in the mailbox, and has each CPU make an SMC: the resident stub, through which that goes, finds the
//! word (`guest_abi::doorbell`).

use std::fmt::Write;

use guest_abi::RESERVATION;
use guest_abi::doorbell::{MAILBOX, MAILBOX_BACK, Mailbox};
use serde::Serialize;

use super::{Context, Said};
use crate::door::{self, Presence};
use crate::host::list;
use crate::page::Page;
use crate::trouble::{Trouble, status};

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    back: Vec<u32>,
    under_before: Vec<u32>,
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct Missing {
    cpu: u32,
    why: String,
}

/// The mailbox's place, if there can be one. On a CPU that Exeunt has left.
///
/// # Errors
/// As the page.
fn place(page: &dyn Page) -> Result<Option<u64>, Trouble> {
    let offset = page.load(MAILBOX)?;
    // It is no part of the words that tell where it is.
    let can_be = offset.is_multiple_of(8) && offset > MAILBOX && offset <= RESERVATION - Mailbox::SIZE as u64;
    Ok(can_be.then_some(offset))
}

/// What the mailbox says, if Exeunt has left by a LEAVE that keeps a way back. On a CPU that Exeunt has left.
///
/// # Errors
/// As the page.
pub fn round(page: &dyn Page) -> Result<Option<Mailbox>, Trouble> {
    let Some(offset) = place(page)? else { return Ok(None) };
    let mut bytes = [0; Mailbox::SIZE];
    for (offset, word) in (offset..).step_by(8).zip(bytes.as_chunks_mut::<8>().0) {
        *word = page.load(offset)?.to_le_bytes();
    }
    let mailbox = Mailbox::from_bytes(&bytes);
    Ok((mailbox.round != 0).then_some(mailbox))
}

/// The command.
///
/// # Errors
/// [`Trouble::NoWayBack`], and as the page and as Linux.
pub fn run(context: &Context<'_>) -> Result<Said, Trouble> {
    let before = context.under.clone();
    let Some(&first) = context.left.first() else {
        let report = Report { back: Vec::new(), under_before: before, missing: Vec::new() };
        return Ok(Said::new("Exeunt is there already, on every CPU that is on.\n".to_owned(), report));
    };
    context.host.pin(first)?;
    let (Some(place), Some(mailbox)) = (place(context.page)?, round(context.page)?) else {
        return Err(Trouble::NoWayBack(
            "Exeunt did not leave by `exeunt leave`, but by a kexec, a crash or a call of a kernel module, and then it \
             keeps no way back open for a program. A reset of the machine starts it again"
                .to_owned(),
        ));
    };
    context.page.store(place + MAILBOX_BACK, mailbox.round)?;

    let online = [&context.under[..], &context.left[..]].concat();
    let mut report = Report { back: Vec::new(), under_before: before, missing: Vec::new() };
    for &cpu in &context.left {
        context.host.pin(cpu)?;
        let made = if door::presence(context.page)? == Presence::Present {
            // It has made an SMC by itself, when another CPU was turned off and on for example.
            Ok(())
        } else {
            context.host.make_smc(cpu, &online)
        };
        match (door::presence(context.page)?, made) {
            (Presence::Present, _) => report.back.push(cpu),
            (Presence::Left, Ok(())) => {
                let why = "it has made a call to firmware, which did not come to Exeunt".to_owned();
                report.missing.push(Missing { cpu, why });
            }
            (Presence::Left, Err(why)) => report.missing.push(Missing { cpu, why }),
        }
    }
    let failed = if report.missing.is_empty() { 0 } else { status::FAILED };
    Ok(Said::new(text(&report), report).with_status(failed))
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    if report.missing.is_empty() {
        let _ = writeln!(out, "Exeunt is back, on CPU {}. Nothing has to be started again.", list(&report.back));
        return out;
    }
    if report.back.is_empty() {
        let _ = writeln!(out, "Exeunt has not come back to any CPU.");
    } else {
        let _ = writeln!(out, "Exeunt is back on CPU {}, but not on all.", list(&report.back));
    }
    for Missing { cpu, why } in &report.missing {
        let _ = writeln!(out, "CPU {cpu}: {why}.");
    }
    let _ = writeln!(
        out,
        "Such a CPU comes back with its next call to firmware. To have it make one, turn it off and on:\n  \
         echo 0 >/sys/devices/system/cpu/cpuN/online; echo 1 >/sys/devices/system/cpu/cpuN/online\n\
         Or mount debugfs, if this kernel has it, and try again:\n  \
         mount -t debugfs debugfs /sys/kernel/debug; exeunt back"
    );
    out
}
