//! `exeunt trace`: exits are traced from `start` to `stop`, and `save` puts the black box into a file.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use guest_abi::vendor::{TRACE, TRACE_QUERY, TRACE_START, TRACE_STOP};
use serde_json::json;

use super::{Context, Said};
use crate::door;
use crate::host::list;
use crate::snapshot::Wanted;
use crate::trouble::{Trouble, status};
use crate::words;

/// Starts or stops.
///
/// # Errors
/// As the call.
pub fn switch(context: &Context<'_>, on: bool) -> Result<Said, Trouble> {
    context.needs_exeunt()?;
    let what = if on { TRACE_START } else { TRACE_STOP };
    let mut kept = u64::MAX;
    // The call is about the CPU that makes it; those that come up later follow one of the others.
    for &cpu in &context.under {
        context.host.pin(cpu)?;
        let [_, records, _] = door::ask(context.page, "to trace exits", TRACE, [what.into(), 0, 0])?;
        kept = kept.min(records);
    }
    let cpus = list(&context.under);
    let text = match (on, kept) {
        (true, 0) => {
            "Exits are to be traced, but the black box has no room for them with so many CPUs. Start Exeunt with its \
             option `trace`, and it makes more.\n"
                .to_owned()
        }
        (true, _) => format!(
            "Exits are traced from now on, on CPU {cpus}; of each the last {kept} are kept. To have them in a file: \
             exeunt trace save\n"
        ),
        (false, _) => "Exits are no longer traced. What was traced is kept: exeunt trace save\n".to_owned(),
    };
    let failed = if on && kept == 0 { status::FAILED } else { 0 };
    Ok(Said::new(text, json!({ "tracing": on, "cpus": context.under, "kept": kept })).with_status(failed))
}

/// Has the exits of these CPUs traced, or no longer, and gives those on which that was otherwise.
fn change(context: &Context<'_>, cpus: &[u32], on: bool) -> Result<Vec<u32>, Trouble> {
    let mut changed = Vec::new();
    for &cpu in cpus {
        context.host.pin(cpu)?;
        let ask = |what: u32| door::ask(context.page, "to trace exits", TRACE, [what.into(), 0, 0]);
        if (ask(TRACE_QUERY)?[0] != 0) != on {
            ask(if on { TRACE_START } else { TRACE_STOP })?;
            changed.push(cpu);
        }
    }
    Ok(changed)
}

/// Saves the box. What is read of it by the doorbell is an exit for each doubleword, and these would take the places of
/// what is to be saved: meanwhile no exit is traced.
///
/// # Errors
/// As the box, and when the file is there or cannot be written.
pub fn save(context: &Context<'_>, path: &Path) -> Result<Said, Trouble> {
    // First, so that nothing is read for nothing.
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Trouble::Exists(path.to_owned()),
        _ => Trouble::File(path.to_owned(), error),
    })?;
    let saved = change(context, &context.under, false).and_then(|paused| {
        let snapshot = context.snapshot(Wanted { all: true, ..Wanted::default() });
        // If Exeunt has left meanwhile, nothing is traced any more.
        if let Err(trouble) = change(context, &paused, true)
            && !matches!(trouble, Trouble::Left)
        {
            return Err(trouble);
        }
        snapshot
    });
    let written = saved.and_then(|snapshot| {
        file.write_all(snapshot.bytes()).map_err(|error| Trouble::File(path.to_owned(), error))?;
        Ok(snapshot)
    });
    let snapshot = written.inspect_err(|_| {
        // Half a box is of no use; the file is this program's own.
        let _ = std::fs::remove_file(path);
    })?;
    let view = snapshot.view()?;
    let cpus = view.core().header().cpus;
    let (mut records, mut written) = (0_u64, 0_u64);
    for cpu in 0..cpus {
        records += view.trace(cpu).count() as u64;
        written = written.wrapping_add(view.cpu(cpu).map_or(0, |block| block.traced));
    }
    let lost = written.saturating_sub(records);
    let bytes = snapshot.bytes().len();
    let path = path.display().to_string();
    let text = format!(
        "{path}: {bytes} bytes, with {} ({lost} older ones were written over).\n\
         On the workstation: exeunt-dump {path}\n",
        words::count(records, "traced exit")
    );
    let left = if context.is_there() { 0 } else { status::LEFT };
    Ok(Said::new(text, json!({ "file": path, "bytes": bytes, "records": records, "lost": lost })).with_status(left))
}
