//! Numbers in words: exits, registers, events, times.

use guest_abi::blackbox::{EXIT_CLASSES, EXIT_NAMES, OTHERS};

/// A class of exits.
#[must_use]
pub fn class(number: usize) -> String {
    EXIT_NAMES.get(number).map_or_else(|| format!("class {number}"), |name| (*name).to_owned())
}

/// All numbers of classes.
pub fn classes() -> impl Iterator<Item = usize> {
    0..EXIT_CLASSES
}

/// A system register or instruction by its key.
#[must_use]
pub fn register(key: u32) -> String {
    if key == OTHERS {
        return "others".to_owned();
    }
    let field = |shift: u32, bits: u32| key >> shift & ((1 << bits) - 1);
    format!("S{}_{}_C{}_C{}_{}", field(14, 2), field(11, 3), field(7, 4), field(3, 4), field(0, 3))
}

/// A level at which a host's first instruction runs.
#[must_use]
pub const fn level(number: u8) -> &'static str {
    match number {
        1 => "EL1",
        2 => "virtual EL2",
        _ => "-",
    }
}

/// A number of things: `1 CPU`, `4 CPUs`.
#[must_use]
pub fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// Ticks of the counter in seconds.
#[must_use]
pub fn seconds(ticks: u64, frequency: u64) -> f64 {
    // Of a frequency of 0 nothing can be said.
    if frequency == 0 { 0.0 } else { ticks as f64 / frequency as f64 }
}

/// A span of time as a person says it.
#[must_use]
pub fn span(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..=119 => count(whole, "second"),
        120..=7199 => count(whole / 60, "minute"),
        7200..=172_799 => count(whole / 3600, "hour"),
        _ => count(whole / 86400, "day"),
    }
}

/// Text that came from memory: what could steer a terminal is shown as `?`.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '?' } else { c }).collect()
}
