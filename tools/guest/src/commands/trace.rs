//! `exeunt trace`: exits are traced from `start` to `stop`, and `save` puts the black box into a file.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde_json::json;

use super::{Context, Said};
use crate::door;
use crate::snapshot::Wanted;
use crate::trouble::{Trouble, status};
use crate::words;

/// x0 of the call. In: w1 = 1 to trace, 0 to stop.
pub const TRACE: u32 = 0x8600_4508;

/// Starts or stops.
///
/// # Errors
/// As the call.
pub fn switch(context: &Context<'_>, on: bool) -> Result<Said, Trouble> {
    context.needs_exeunt()?;
    door::ask(context.page, "trace exits", TRACE, [on.into(), 0, 0])?;
    let text = if on {
        "Exits are traced from now on; the last ones of each CPU are kept. To have them in a file: exeunt trace save\n"
    } else {
        "Exits are no longer traced. What was traced is kept: exeunt trace save\n"
    };
    Ok(Said::new(text.to_owned(), json!({ "tracing": on })))
}

/// Saves the box.
///
/// # Errors
/// As the box, and when the file is there or cannot be written.
pub fn save(context: &Context<'_>, path: &Path) -> Result<Said, Trouble> {
    // First, so that nothing is read for nothing.
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Trouble::Exists(path.to_owned()),
        _ => Trouble::File(path.to_owned(), error),
    })?;
    let written = context.snapshot(Wanted { all: true, ..Wanted::default() }).and_then(|snapshot| {
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
