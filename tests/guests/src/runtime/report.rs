//! What a guest found: failures are printed and counted, and decide the exit status.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

/// After so many failures of one run the rest is only counted.
const PRINTED_FAILURES: usize = 40;

static CHECKS: AtomicUsize = AtomicUsize::new(0);
static FAILURES: AtomicUsize = AtomicUsize::new(0);

/// Counts one check, and prints `text` if it failed. Returns whether it held.
pub fn check(held: bool, text: fmt::Arguments) -> bool {
    CHECKS.fetch_add(1, Ordering::Relaxed);
    if !held {
        let before = FAILURES.fetch_add(1, Ordering::Relaxed);
        if before < PRINTED_FAILURES {
            println!("FAIL: {text}");
        }
    }
    held
}

/// How many checks have been made, and how many of them failed.
pub fn totals() -> (usize, usize) {
    (CHECKS.load(Ordering::Relaxed), FAILURES.load(Ordering::Relaxed))
}

/// Prints the totals and ends the guest: status 0 if every check held and there was at least one.
pub fn finish(name: &str) -> ! {
    let (checks, failures) = totals();
    println!("{name}: {checks} checks, {failures} failed");
    crate::firmware::exit(u32::from(failures != 0 || checks == 0))
}

/// Checks a condition; the remaining arguments say what was expected and what was seen.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($argument:tt)+) => {
        $crate::report::check($condition, format_args!($($argument)+))
    };
}
