//! What a black box says: in words, as data, as a trace that Perfetto opens, and as a page for a browser.
//!
//! Takes a box that somebody else has found and read ([`guest_abi::blackbox`]). It does no I/O, so that the program in
//! the guest and the one on the workstation say the same. A box may come from a machine that has died: nothing in it is
//! believed, and no number in it makes this code panic or take long.
//!
//! | module | what it owns |
//! |---|---|
//! | [`words`] | one record in words: an exit, an event, a register's name |
//! | [`calls`] | the names of calls and of their answers |
//! | [`report`] | everything that a box says, for people and for programs |

pub mod calls;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
pub mod report;
mod system_registers;
pub mod words;

pub use report::Report;
pub use words::{Clock, event_words, exit_label, exit_words, register_name};
