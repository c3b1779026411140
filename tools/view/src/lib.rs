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
//! | [`timeline`] | what each CPU did when |
//! | [`perfetto`], [`page`] | a trace in two formats |

pub mod calls;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
#[cfg(test)]
mod hostile;
pub mod page;
pub mod perfetto;
pub mod report;
mod system_registers;
pub mod timeline;
pub mod words;

use guest_abi::blackbox::BlackBox;
pub use report::Report;
pub use words::{Clock, event_words, exit_label, exit_words, register_name};

/// In which format a trace is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// For ui.perfetto.dev.
    Perfetto,
    /// A page for a browser.
    Html,
}

impl Trace {
    /// By its name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "perfetto" => Some(Self::Perfetto),
            "html" => Some(Self::Html),
            _ => None,
        }
    }

    /// The trace of a box, as the contents of a file.
    #[must_use]
    pub fn make(self, of: &BlackBox<'_>) -> String {
        match self {
            Self::Perfetto => perfetto::trace(of),
            Self::Html => page::page(of),
        }
    }
}
