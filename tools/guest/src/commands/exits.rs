//! `exeunt exits`: what came to EL2, by class and by register.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::slice;

use guest_abi::blackbox::EXIT_NAMES;
use serde::Serialize;
use view::register_name;
use view::report::Count;
use view::words::Clock;

use super::about::DATA_ABORT;
use super::{Context, Said};
use crate::snapshot::Wanted;
use crate::trouble::{Trouble, status};
use crate::words;

/// Lines end before this column if no terminal is narrower. None has to be narrower than the other.
const WIDE: u16 = 100;
const NARROW: u16 = 40;

/// Counters at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct Counts {
    /// Seconds since Exeunt started.
    pub seconds: f64,
    /// All exits.
    pub total: u64,
    /// By class.
    pub classes: BTreeMap<String, u64>,
    /// Accesses to system registers, by name.
    pub registers: BTreeMap<String, u64>,
    /// All exits of each CPU.
    pub cpus: Vec<u64>,
}

/// Reads them.
///
/// # Errors
/// As the black box.
pub fn counts(context: &Context<'_>) -> Result<Counts, Trouble> {
    let snapshot = context.snapshot(Wanted { registers: true, ..Wanted::default() })?;
    let view = snapshot.view()?;
    let header = view.core().header();
    let blocks = snapshot.cpus()?;
    let classes = Count::of_exits(&blocks);
    let mut registers = BTreeMap::<String, u64>::new();
    for (key, count) in view.core().registers() {
        *registers.entry(register_name(key)).or_default() += u64::from(count);
    }
    Ok(Counts {
        seconds: Clock::of(header).seconds(context.host.time()).max(0.0),
        total: Count::sum(&classes),
        classes: classes.into_iter().map(|class| (class.name, class.count)).collect(),
        registers,
        cpus: blocks.iter().map(|block| Count::sum(&Count::of_exits(slice::from_ref(block)))).collect(),
    })
}

/// The command.
///
/// # Errors
/// As [`counts`].
pub fn run(context: &Context<'_>) -> Result<Said, Trouble> {
    let counts = counts(context)?;
    let left = if context.is_there() { 0 } else { status::LEFT };
    let width = context.host.columns().unwrap_or(WIDE).clamp(NARROW, WIDE);
    Ok(Said::new(text(&counts, width.into()), counts).with_status(left))
}

fn by_count(counts: &BTreeMap<String, u64>) -> Vec<(&String, u64)> {
    let mut sorted: Vec<_> = counts.iter().map(|(name, &count)| (name, count)).collect();
    sorted.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    sorted
}

fn text(counts: &Counts, width: usize) -> String {
    let mut out = String::new();
    let _ =
        writeln!(out, "{:>10}  exits in {} since Exeunt started, of these", counts.total, words::span(counts.seconds));
    for (name, count) in by_count(&counts.classes) {
        let note =
            if name == EXIT_NAMES[DATA_ABORT] { ", nearly all of them loads by which this program asks" } else { "" };
        let _ = writeln!(out, "{count:>10}  {name}{note}");
    }
    if !counts.registers.is_empty() {
        let all = counts.registers.values().fold(0_u64, |sum, count| sum.wrapping_add(*count));
        let _ = writeln!(out, "\n{all:>10}  accesses to system registers and system instructions, of these");
        // Most registers are accessed once by each CPU, and share a line.
        for registers in by_count(&counts.registers).chunk_by(|one, other| one.1 == other.1) {
            let mut line = format!("{:>10} ", registers[0].1);
            let begin = line.len();
            for (number, (name, _)) in registers.iter().enumerate() {
                if line.len() > begin && line.len() + name.len() + 2 > width {
                    let _ = writeln!(out, "{line}");
                    line = " ".repeat(begin);
                }
                let comma = if number + 1 < registers.len() { "," } else { "" };
                let _ = write!(line, " {name}{comma}");
            }
            let _ = writeln!(out, "{line}");
        }
    }
    let _ = writeln!(out);
    for (cpu, count) in counts.cpus.iter().enumerate() {
        let _ = writeln!(out, "{count:>10}  on CPU {cpu}");
    }
    out
}

/// What has come between two moments, for each second of it.
#[must_use]
pub fn between(before: &Counts, after: &Counts) -> Said {
    let difference = |before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>| {
        let new = |(name, count): (&String, &u64)| {
            let new = count.wrapping_sub(before.get(name).copied().unwrap_or(0));
            (new > 0).then(|| (name.clone(), new))
        };
        after.iter().filter_map(new).collect::<BTreeMap<_, _>>()
    };
    let counts = Counts {
        seconds: after.seconds - before.seconds,
        total: after.total.wrapping_sub(before.total),
        classes: difference(&before.classes, &after.classes),
        registers: difference(&before.registers, &after.registers),
        cpus: after.cpus.iter().zip(&before.cpus).map(|(after, before)| after.wrapping_sub(*before)).collect(),
    };
    let mut parts: Vec<String> =
        by_count(&counts.classes).into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    if parts.is_empty() {
        parts.push("nothing".to_owned());
    }
    let registers: Vec<String> =
        by_count(&counts.registers).into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    let registers = if registers.is_empty() { String::new() } else { format!(" ({})", registers.join(", ")) };
    let text = format!("{:>8.1} s  in {:.1} s: {}{registers}\n", after.seconds, counts.seconds, parts.join(", "));
    Said::new(text, counts)
}
