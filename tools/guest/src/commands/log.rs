//! `exeunt log`: Exeunt's own log.

use std::mem::offset_of;

use guest_abi::blackbox::{LIVE, LOG, LOG_POSITION, LOG_SIZE, Live, SIZE};
use serde_json::json;
use view::words::printable;

use super::{Context, Said};
use crate::snapshot::{Source, Wanted};
use crate::trouble::{Trouble, status};

/// The command.
///
/// # Errors
/// As the black box.
pub fn run(context: &Context<'_>) -> Result<Said, Trouble> {
    let snapshot = context.snapshot(Wanted { log: true, ..Wanted::default() })?;
    let (log, lost) = snapshot.log()?;
    let lines: Vec<String> = log.lines().map(printable).collect();
    let mut text = String::new();
    if lost > 0 {
        text = format!("({lost} bytes before this were written over)\n");
    }
    for line in &lines {
        text.push_str(line);
        text.push('\n');
    }
    let left = if context.is_there() { 0 } else { status::LEFT };
    Ok(Said::new(text, json!({ "lines": lines, "lost_bytes": lost })).with_status(left))
}

/// The log from a position on; at first from the oldest byte that is kept.
#[derive(Debug, Default)]
pub struct Follower {
    position: u64,
    /// The beginning of a line whose end is not there yet.
    pending: Vec<u8>,
}

impl Follower {
    /// From the core's offset `from` on.
    fn words(source: &dyn Source, from: usize, bytes: usize) -> Result<Vec<u8>, Trouble> {
        let start = source.size() - SIZE + from;
        let mut copy = vec![0; start + bytes];
        source.load(&mut copy, start..start + bytes)?;
        Ok(copy.split_off(start))
    }

    fn end(source: &dyn Source) -> Result<u64, Trouble> {
        // Lines that are being written are not there yet.
        let bytes = Self::words(source, LIVE + offset_of!(Live, log_end), 8)?;
        Ok(u64::from_le_bytes(bytes.try_into().unwrap_or_default()) & LOG_POSITION)
    }

    /// The lines that have come since the last time.
    ///
    /// # Errors
    /// As the source.
    pub fn next(&mut self, source: &dyn Source) -> Result<Vec<String>, Trouble> {
        let end = Self::end(source)?;
        let mut lines = Vec::new();
        // An Exeunt that came back has gone on; one that was started anew begins again.
        self.position = self.position.min(end);
        let oldest = end.saturating_sub(LOG_SIZE as u64);
        if oldest > self.position {
            if self.position > 0 {
                lines.push(format!("({} bytes were written over before they could be read)", oldest - self.position));
            }
            self.position = oldest;
            self.pending.clear();
        }
        if self.position == end {
            return Ok(lines);
        }
        let (first, last) = (self.position & !7, (end + 7) & !7);
        let mut bytes = Vec::new();
        let mut at = first;
        while at < last {
            let place = (at % LOG_SIZE as u64) as usize;
            let run = (LOG_SIZE - place).min((last - at) as usize);
            bytes.extend(Self::words(source, LOG + place, run)?);
            at += run as u64;
        }
        let new = &bytes[(self.position - first) as usize..(end - first) as usize];
        self.position = end;
        for &byte in new {
            if byte == b'\n' {
                lines.push(printable(&String::from_utf8_lossy(&std::mem::take(&mut self.pending))));
            } else {
                self.pending.push(byte);
            }
        }
        Ok(lines)
    }
}
