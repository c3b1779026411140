//! What is being done, and for how long: a line that moves on a terminal, and plain lines elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::run::say;

/// How often the clock of a terminal's line moves.
const TICK: Duration = Duration::from_millis(200);

/// Tells a person what is being done.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    begin: Instant,
    is_quiet: bool,
}

impl Progress {
    /// Begins.
    #[must_use]
    pub fn begin() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("exeunt: [{elapsed_precise}] {spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, begin: Instant::now(), is_quiet: false }
    }

    /// Says nothing: somebody else tells how far all is.
    #[must_use]
    pub fn quiet() -> Self {
        Self { bar: None, begin: Instant::now(), is_quiet: true }
    }

    /// The next phase has begun.
    pub fn phase(&self, words: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(words.to_owned()),
            None if self.is_quiet => {}
            None => say(&format!("[{:3} s] {words}", self.begin.elapsed().as_secs())),
        }
    }

    /// All is done: the line goes.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
