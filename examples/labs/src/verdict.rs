//! How a lab ends.

use core::fmt;

use guests::{firmware, println};

/// The lab is solved.
pub fn solved(what: fmt::Arguments) -> ! {
    println!("lab: solved: {what}");
    firmware::exit(0)
}

/// It is not; what was seen instead.
pub fn saw(what: fmt::Arguments) -> ! {
    println!("lab: saw: {what}");
    firmware::exit(1)
}

/// Ends the lab: solved.
#[macro_export]
macro_rules! solved {
    ($($argument:tt)*) => { $crate::verdict::solved(format_args!($($argument)*)) };
}

/// Ends the lab: what was seen instead.
#[macro_export]
macro_rules! saw {
    ($($argument:tt)*) => { $crate::verdict::saw(format_args!($($argument)*)) };
}

/// Ends the lab with what was seen, unless the condition holds.
#[macro_export]
macro_rules! want {
    ($held:expr, $($argument:tt)*) => { if !$held { $crate::saw!($($argument)*) } };
}
