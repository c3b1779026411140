//! What a guest found: failures are printed and counted, and decide the exit status.
//!
//! Owns the text of the first failures too, which is printed once more at the end: the end of a console is what a
//! report of many runs shows.

use core::fmt::{self, Write};
use core::str;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Mutex;

/// After so many failures of one run the rest is only counted.
const PRINTED_FAILURES: usize = 40;

/// The first failures, a line each.
static FIRST: Mutex<Lines> = Mutex::new(Lines { bytes: [0; 1024], length: 0 });

/// Whole lines, as many as there is room for.
struct Lines {
    bytes: [u8; 1024],
    length: usize,
}

impl Lines {
    fn add(&mut self, text: fmt::Arguments) {
        let before = self.length;
        if writeln!(self, "FAIL: {text}").is_err() {
            self.length = before;
        }
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..self.length + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

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
        if let Some(mut first) = FIRST.try_lock() {
            first.add(text);
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
    for line in FIRST.try_lock().iter().flat_map(|first| first.text().lines()) {
        println!("{line}");
    }
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
