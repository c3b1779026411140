//! Numbers in words, beside those that `exeunt-view` has.

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

/// A span of time as a person says it.
#[must_use]
pub fn span(seconds: f64) -> String {
    #[allow(clippy::cast_sign_loss, reason = "a time before the start is none")]
    let whole = seconds as u64;
    match whole {
        0..=119 => count(whole, "second"),
        120..=7199 => count(whole / 60, "minute"),
        7200..=172_799 => count(whole / 3600, "hour"),
        _ => count(whole / 86400, "day"),
    }
}
