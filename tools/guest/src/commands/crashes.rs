//! `exeunt crashes`: what the last start in this memory has left.

use std::fmt::Write;

use view::words::printable;
use view::{Report, report};

use super::{Context, Said};
use crate::snapshot::Wanted;
use crate::trouble::{Trouble, status};

/// So many lines of its log are shown to a person.
const LINES: usize = 10;

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
    let last = Report::of_core(&previous);
    Ok(Said::new(text(&last), serde_json::json!({ "last": last })).with_status(left))
}

fn text(last: &Report) -> String {
    let mut out = String::new();
    match &last.death {
        Some(death) => said_of(death, &mut out),
        None => {
            let _ = writeln!(out, "Exeunt itself did not die in the start before this one.");
        }
    }
    if !last.life.is_empty() {
        let _ = writeln!(out, "\nWhat happened in it:");
    }
    for life in &last.life {
        let _ = writeln!(out, "{:>12.6} s  CPU {:<3} {}", life.seconds, life.cpu, life.words);
    }
    let lines: Vec<&str> = last.log.lines().collect();
    if !lines.is_empty() {
        let _ = writeln!(out, "\nThe last lines of its log:");
    }
    for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
        let _ = writeln!(out, "  {}", printable(line));
    }
    out
}

fn said_of(death: &report::Death, out: &mut String) {
    let _ = writeln!(
        out,
        "In the start before this one Exeunt died, on CPU {} after {:.3} seconds, of {}: {}",
        death.cpu,
        death.seconds,
        death.cause,
        printable(&death.reason)
    );
    if !death.syndrome.is_empty() {
        let _ = writeln!(out, "  {}", death.syndrome);
    }
    let _ = writeln!(
        out,
        "  ESR_EL2 {}, FAR_EL2 {}; ELR_EL2 {} from the start of its image",
        death.esr, death.far, death.elr
    );
    if !death.backtrace.is_empty() {
        let calls: Vec<String> = death.backtrace.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "  called from {}; scripts/symbolize names these places", calls.join(", "));
    }
}
