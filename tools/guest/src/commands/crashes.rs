//! `exeunt crashes`: what the last start in this memory has left, if it ended without a word.

use std::fmt::Write;

use guest_abi::blackbox::{self, Cause, Core, Event, Kind};
use serde::Serialize;

use super::{Context, Said};
use crate::snapshot::Wanted;
use crate::trouble::{Trouble, status};
use crate::words;

/// So many lines of its log are shown to a person.
const LINES: usize = 10;

#[derive(Debug, Serialize)]
struct Last {
    /// Which start in this memory it was.
    start: u32,
    died: Option<Death>,
    /// Seconds from its start to its last event.
    seconds: f64,
    events: Vec<Happened>,
    log: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Death {
    cause: String,
    reason: String,
    cpu: u16,
    seconds: f64,
    esr: String,
    elr: String,
    far: String,
    backtrace: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Happened {
    seconds: f64,
    cpu: u16,
    what: String,
    first: String,
    second: String,
}

/// The command.
///
/// # Errors
/// As the black box.
pub fn run(context: &Context<'_>) -> Result<Said, Trouble> {
    let snapshot = context.snapshot(Wanted { previous: true, ..Wanted::default() })?;
    let view = snapshot.view()?;
    let left = if context.is_there() { 0 } else { status::LEFT };
    let Some(previous) = view.previous() else {
        let text = "There is nothing of a start before this one: it was the first in this memory, or the memory has \
                    lost what was in it.\n";
        let none = serde_json::json!({ "last": null });
        return Ok(Said::new(text.to_owned(), none).with_status(left));
    };
    let last = last(&previous);
    Ok(Said::new(text(&last), serde_json::json!({ "last": last })).with_status(left))
}

fn last(core: &Core<'_>) -> Last {
    let header = core.header();
    let since = |time: u64| words::seconds(time.saturating_sub(header.started), header.frequency);
    let hex = |number: u64| format!("{number:#x}");
    let died = core.death().map(|death| Death {
        cause: Cause::of(death.cause).map_or_else(|| format!("cause {}", death.cause), |cause| cause.words().to_owned()),
        reason: words::printable(blackbox::text(&death.reason)),
        cpu: death.cpu,
        seconds: since(death.time),
        esr: hex(death.esr),
        elr: hex(death.elr),
        far: hex(death.far),
        backtrace: death.backtrace.iter().take_while(|&&address| address != 0).map(|&address| hex(address)).collect(),
    });
    let events: Vec<Happened> = core
        .events()
        .map(|event| Happened {
            seconds: since(event.time),
            cpu: event.cpu,
            what: what(&event),
            first: hex(event.first),
            second: hex(event.second),
        })
        .collect();
    let (pieces, _) = core.log();
    let log = words::printable(&String::from_utf8_lossy(&pieces.concat()).replace('\0', ""));
    let seconds = events.iter().map(|event| event.seconds).fold(0.0, f64::max);
    Last { start: header.starts, died, seconds, events, log: log.lines().map(str::to_owned).collect() }
}

/// An event in words, without the part that says what its numbers are.
fn what(event: &Event) -> String {
    let words = Kind::of(event.kind).map_or_else(|| format!("event {}", event.kind), |kind| kind.words().to_owned());
    words.split_once(" [").map_or(words.clone(), |(words, _)| words.to_owned())
}

fn text(last: &Last) -> String {
    let mut out = String::new();
    let _ = match &last.died {
        Some(death) => writeln!(
            out,
            "The start before this one ended after {:.1} seconds: Exeunt died on CPU {}, of {}.\n  {}\n  ESR {}, at {} \
             in its image, address {}",
            death.seconds, death.cpu, death.cause, death.reason, death.esr, death.elr, death.far
        ),
        None => writeln!(
            out,
            "The start before this one ended without a fault of Exeunt's, {:.1} seconds after it began or later.",
            last.seconds
        ),
    };
    if !last.events.is_empty() {
        let _ = writeln!(out, "\nWhat happened in it:");
    }
    for event in &last.events {
        let _ = writeln!(out, "{:>10.3} s  CPU {:<3} {}", event.seconds, event.cpu, event.what);
    }
    if !last.log.is_empty() {
        let _ = writeln!(out, "\nThe last lines of its log:");
    }
    for line in last.log.iter().skip(last.log.len().saturating_sub(LINES)) {
        let _ = writeln!(out, "  {line}");
    }
    out
}
