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
    #[serde(skip)]
    remedy: Remedy,
}

/// What brings such a CPU back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// Off, and on by a CPU that is under Exeunt.
    Restart,
    /// Any call to firmware.
    Call,
    /// This command, without what holds it.
    Allowance,
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
        if !context.beyond.is_empty() {
            let text = format!(
                "Exeunt is there already, on CPU {}. Of CPU {} this program cannot tell, as it may not run there.\n",
                list(&before),
                list(&context.beyond)
            );
            let report = Report { back: Vec::new(), under_before: before, missing: Vec::new() };
            return Ok(Said::new(text, report));
        }
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
                let why = "its call to firmware did not come to Exeunt. It was turned on while Exeunt was away, or a \
                           kernel module has taken its EL2";
                report.missing.push(Missing { cpu, why: why.to_owned(), remedy: Remedy::Restart });
            }
            (Presence::Left, Err(why)) => report.missing.push(Missing { cpu, why, remedy: Remedy::Call }),
        }
    }
    for &cpu in &context.beyond {
        let why = "this program may not run there, because of a cpuset of its container, service or session".to_owned();
        report.missing.push(Missing { cpu, why, remedy: Remedy::Allowance });
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
    let missing: Vec<u32> = report.missing.iter().map(|missing| missing.cpu).collect();
    let _ = match (report.back.as_slice(), report.under_before.as_slice()) {
        ([], []) => writeln!(out, "Exeunt has not come back to any CPU."),
        ([], before) => {
            writeln!(
                out,
                "Exeunt is on CPU {}, as before, but has not come back to CPU {}.",
                list(before),
                list(&missing)
            )
        }
        (back, _) => writeln!(out, "Exeunt is back on CPU {}, but not on all.", list(back)),
    };
    for Missing { cpu, why, .. } in &report.missing {
        let _ = writeln!(out, "CPU {cpu}: {why}.");
    }
    let of = |remedy| -> Vec<u32> {
        report.missing.iter().filter(|missing| missing.remedy == remedy).map(|missing| missing.cpu).collect()
    };
    let restart = of(Remedy::Restart);
    if !restart.is_empty() {
        let _ =
            writeln!(out, "Turn {} off and on, and Exeunt is there:\n  {}", words_for(&restart), off_and_on(&restart));
    }
    let call = of(Remedy::Call);
    if !call.is_empty() {
        let _ = writeln!(
            out,
            "{} back with the next call to firmware. Mount debugfs, if this kernel has it, and try again:\n  \
             mount -t debugfs debugfs /sys/kernel/debug; exeunt back\n\
             Or turn {} off and on:\n  {}",
            if call.len() == 1 { "That CPU comes" } else { "Those CPUs come" },
            words_for(&call),
            off_and_on(&call)
        );
    }
    if !of(Remedy::Allowance).is_empty() {
        let _ = writeln!(out, "Call `exeunt back` where all CPUs may be used.");
    }
    out
}

const fn words_for(cpus: &[u32]) -> &'static str {
    if cpus.len() == 1 { "it" } else { "them" }
}

/// The command that turns these CPUs off, all of them before the first one on: a CPU comes up under Exeunt if that is
/// on the one which turns it on.
fn off_and_on(cpus: &[u32]) -> String {
    let numbers = cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    format!("for on in 0 1; do for cpu in {numbers}; do echo $on >/sys/devices/system/cpu/cpu$cpu/online; done; done")
}
