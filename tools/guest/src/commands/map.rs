//! `exeunt map`: the host's second translation, as ranges.

use std::fmt::Write;

use guest_abi::RESERVATION;
use guest_abi::vendor::{RANGE_EXECUTE, RANGE_MAPPED, RANGE_READ, RANGE_WRITE, STAGE2_RANGE};
use serde::Serialize;

use super::{Context, Said};
use crate::door;
use crate::trouble::Trouble;
use crate::words;

/// So many ranges are asked for: each is an entry of a table at the most.
const LIMIT: usize = 1 << 16;

/// Addresses with the same rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The first address, in hexadecimal.
    pub first: String,
    /// The last address.
    pub last: String,
    /// Bytes.
    pub size: u64,
    /// What is known of it.
    pub what: &'static str,
    /// The host may read.
    pub read: bool,
    /// The host may write.
    pub write: bool,
    /// The host may execute.
    pub execute: bool,
}

/// Asks for all ranges: first address, the one past it, rights. Neighbours with the same rights are one.
///
/// # Errors
/// As the call.
pub fn ranges(context: &Context<'_>) -> Result<Vec<(u64, u64, u64)>, Trouble> {
    let mut ranges: Vec<(u64, u64, u64)> = Vec::new();
    let mut address = 0;
    for _ in 0..LIMIT {
        let asked = door::ask(context.page, "to show the map", STAGE2_RANGE, [address, 0, 0]);
        let (end, rights) = match asked {
            Ok([_, end, rights]) => (end, rights),
            // Past the last address there is nothing to tell.
            Err(Trouble::Refused(_, guest_abi::vendor::Error::InvalidParameter)) if address > 0 => return Ok(ranges),
            Err(trouble) => return Err(trouble),
        };
        if end <= address {
            // 0 is the first address past all.
            if end != 0 {
                return Err(Trouble::Nonsense("where a range ends", end));
            }
            ranges.push((address, 0, rights));
            return Ok(ranges);
        }
        match ranges.last_mut() {
            Some(last) if last.2 == rights => last.1 = end,
            _ => ranges.push((address, end, rights)),
        }
        address = end;
    }
    Err(Trouble::Nonsense("how many ranges there are", LIMIT as u64))
}

/// The command.
///
/// # Errors
/// As the call.
pub fn run(context: &Context<'_>) -> Result<Said, Trouble> {
    context.needs_exeunt()?;
    let exeunt = context.place.base..context.place.base + RESERVATION;
    let core = context.place.black_box;
    let ranges: Vec<Range> = ranges(context)?
        .into_iter()
        .map(|(first, end, rights)| Range {
            first: format!("{first:#x}"),
            last: format!("{:#x}", end.wrapping_sub(1)),
            size: end.wrapping_sub(first),
            what: match core {
                Some((start, size)) if first >= start && first < start.saturating_add(size) => "Exeunt's black box",
                _ if exeunt.contains(&first) => "Exeunt",
                _ => "",
            },
            read: rights & RANGE_MAPPED != 0 && rights & RANGE_READ != 0,
            write: rights & RANGE_MAPPED != 0 && rights & RANGE_WRITE != 0,
            execute: rights & RANGE_MAPPED != 0 && rights & RANGE_EXECUTE != 0,
        })
        .collect();
    let mut text = String::new();
    for range in &ranges {
        let right = |is, letter| if is { letter } else { '-' };
        let line = format!(
            "{:>14} - {:<14}  {:>9}  {}{}{}  {}",
            range.first,
            range.last,
            size(range.size),
            right(range.read, 'r'),
            right(range.write, 'w'),
            right(range.execute, 'x'),
            range.what
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let _ = writeln!(
        text,
        "An address of Linux's is the same address of the machine. Without r, w or x a load, a store or a fetch is\n\
         answered by Exeunt; devices are executable only after a first try ({}).",
        words::count(ranges.len() as u64, "range")
    );
    Ok(Said::new(text, serde_json::json!({ "ranges": ranges })))
}

fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = units.iter().find(|(shift, _)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift));
    fits.map_or_else(|| format!("{bytes} B"), |(shift, name)| format!("{} {name}", bytes >> shift))
}
