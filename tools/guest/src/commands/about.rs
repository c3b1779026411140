//! `exeunt` alone: what is below this Linux, in a few sentences.

use guest_abi::blackbox::EXIT_NAMES;
use serde::Serialize;

use super::status::{self, State, where_it_is};
use super::{Context, Said};
use crate::host::list;
use crate::trouble::{self, Trouble};
use crate::words;

/// What `--json` gives when there is nothing to ask.
#[derive(Debug, Serialize)]
struct Gone {
    state: &'static str,
    way_back: bool,
}

/// The place among [`EXIT_NAMES`] of the exits by which a program asks.
pub(super) const DATA_ABORT: usize = 2;
const _: () = assert!(matches!(EXIT_NAMES[DATA_ABORT].as_bytes(), b"data abort"));

/// The command.
///
/// # Errors
/// As [`status::state`].
pub fn run(context: &Context<'_>) -> Result<Said, Trouble> {
    if !context.is_there() {
        let way_back = super::back::round(context.page)?.is_some();
        return Ok(Said::new(left(way_back), Gone { state: "left", way_back }).with_status(trouble::status::LEFT));
    }
    let state = status::state(context)?;
    Ok(Said::new(text(&state), state))
}

/// One line, for the greeting of the shell.
///
/// # Errors
/// As [`status::state`].
pub fn brief(context: &Context<'_>) -> Result<Said, Trouble> {
    let mut said = run(context)?;
    said.text.truncate(said.text.find('\n').map_or(said.text.len(), |end| end + 1));
    Ok(said)
}

fn left(way_back: bool) -> String {
    let back = if way_back {
        "To get it back while Linux runs: exeunt back\n"
    } else {
        "It did not leave by `exeunt leave`, and so keeps no way back open: a reset of the machine starts it again.\n"
    };
    format!("Exeunt has left: this Linux has the machine to itself, EL2 included.\n{back}")
}

fn text(state: &State) -> String {
    let cpus = match (state.left.is_empty(), state.under.len()) {
        _ if !state.beyond.is_empty() => where_it_is(state),
        (true, 1) => "on the one CPU that is on".to_owned(),
        (true, number) => format!("on all {number} CPUs that are on"),
        (false, _) => format!("on CPU {}. It has left CPU {}", list(&state.under), list(&state.left)),
    };
    let debug = if state.debug { " (a debug build)" } else { "" };
    let entry = match state.entry {
        "virtual EL2" => "It has Linux believe that it was started at EL2",
        "EL1" => "It has started Linux at EL1",
        _ => "It has started Linux",
    };
    let restart = match (state.locked, state.policy.kexec, state.policy.crash) {
        (true, ..) => "It is locked: it stays until the machine is reset.".to_owned(),
        (_, "leave", "leave") => "When Linux kexecs or crashes, it leaves.".to_owned(),
        (_, "resident", "resident") => "When Linux kexecs or crashes, it stays below what comes next.".to_owned(),
        (_, "leave", _) => "When Linux kexecs, it leaves; when Linux crashes, it stays.".to_owned(),
        _ => "When Linux kexecs, it stays; when Linux crashes, it leaves.".to_owned(),
    };
    // Each load by which a program asks is one, so that they would drown the others.
    let (asking, others): (Vec<_>, Vec<_>) =
        state.classes.iter().partition(|class| class.name == EXIT_NAMES[DATA_ABORT]);
    let asking: u64 = asking.iter().map(|class| class.count).sum();
    let mut most = others;
    most.sort_by_key(|class| std::cmp::Reverse(class.count));
    let most: Vec<String> = most.iter().take(3).map(|class| format!("{} {}", class.count, class.name)).collect();
    let most = if most.is_empty() { String::new() } else { format!(" ({})", most.join(", ")) };
    let can = if state.locked {
        "It refuses to leave while Linux runs."
    } else {
        "It can leave while Linux runs, and come back: exeunt leave, exeunt back."
    };
    let tracing = if state.tracing { "It is tracing them.\n" } else { "" };
    format!(
        "Exeunt {}{debug} is below this Linux, {cpus}.\n\
         {entry}, {} ago. {restart}\n\
         Linux came to it {} so far{most}, and {asking} times to ask as you do now.\n\
         {tracing}\
         {can} What else it can: exeunt help\n",
        state.version,
        words::span(state.seconds),
        words::count(state.exits.saturating_sub(asking), "time"),
    )
}
