//! Exeunt's black box in what a run has left: found, and said in words.
//!
//! The search is exeunt-dump's, the words are exeunt-view's. Owns how both are asked here.

use std::path::Path;

use dump::{Found, Options};
use view::Report;

use crate::workstation::Places;

/// How many of each CPU's last exits are shown after a run.
const EXITS: usize = 4;

/// Finds the box in a dump.
///
/// # Errors
/// There is none; in words.
pub fn find(dump: &Path, places: &Places) -> Result<Found, String> {
    dump::find(dump, &Options { python: places.target().join("drgn/bin/python"), ..Options::default() })
}

/// What the box of a dump says: all, or in some ten lines.
///
/// # Errors
/// There is none; in words.
pub fn words(dump: &Path, places: &Places, short: bool) -> Result<String, String> {
    let found = find(dump, places)?;
    let report = Report::of(&found.black_box());
    let mut words: String = found.notes.iter().map(|note| note.clone() + "\n").collect();
    words += &if short { report.short().to_string() } else { report.text(EXITS).to_string() };
    Ok(words)
}

/// How to see all of it.
#[must_use]
pub fn hint(dump: &Path, places: &Places) -> String {
    format!("the black box: scripts/exeunt-dump {}", places.short(dump))
}
