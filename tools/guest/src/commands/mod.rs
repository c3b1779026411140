//! The commands: one module each, and what they share.
//!
//! A command returns what it has to say in both forms, for a person and for a program.

use std::path::PathBuf;

use serde_json::Value;

use crate::door::{self, Presence};
use crate::find::Place;
use crate::host::Host;
use crate::kcore::Kernel;
use crate::page::Page;
use crate::snapshot::{Mirror, Snapshot, Source, Wanted};
use crate::trouble::Trouble;

pub mod about;
pub mod back;
pub mod crashes;
pub mod exits;
pub mod leave;
pub mod log;
pub mod map;
pub mod panic;
pub mod policy;
pub mod status;
pub mod trace;

/// What a command has to say.
#[derive(Debug)]
pub struct Said {
    /// For a person: whole lines.
    pub text: String,
    /// For a program.
    pub json: Value,
    /// Exit status.
    pub status: u8,
}

impl Said {
    /// Something that went as it should.
    #[must_use]
    pub fn new(text: String, json: impl serde::Serialize) -> Self {
        // No type here has a map with keys that are no strings, which is all that can fail.
        Self { text, json: serde_json::to_value(json).unwrap_or_default(), status: 0 }
    }

    /// With another exit status.
    #[must_use]
    pub const fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }
}

/// Where somebody who asks stands.
pub struct Context<'a> {
    /// Exeunt's 2 MiB.
    pub page: &'a dyn Page,
    /// Linux.
    pub host: &'a dyn Host,
    /// What the device tree says.
    pub place: Place,
    /// `/proc/kcore`.
    pub kcore: PathBuf,
    /// The CPUs that are on and under Exeunt.
    pub under: Vec<u32>,
    /// The CPUs that are on and that Exeunt has left.
    pub left: Vec<u32>,
    /// The CPUs that are on and on which this program may not run, so that it cannot tell of them.
    pub beyond: Vec<u32>,
}

impl<'a> Context<'a> {
    /// Asks on each CPU, and stays on one that is under Exeunt, if there is one: on another one a store would go to
    /// memory.
    ///
    /// # Errors
    /// As [`door::presence`].
    pub fn new(page: &'a dyn Page, host: &'a dyn Host, place: Place, kcore: PathBuf) -> Result<Self, Trouble> {
        let (mut under, mut left) = (Vec::new(), Vec::new());
        for cpu in host.cpus()? {
            host.pin(cpu)?;
            match door::presence(page)? {
                Presence::Present => under.push(cpu),
                Presence::Left => left.push(cpu),
            }
        }
        if let Some(&cpu) = under.first() {
            host.pin(cpu)?;
        }
        Ok(Self { page, host, place, kcore, under, left, beyond: host.beyond()? })
    }

    /// The same, some time later: Exeunt may have left meanwhile, or come back.
    ///
    /// # Errors
    /// As [`Context::new`].
    pub fn again(&self) -> Result<Self, Trouble> {
        Self::new(self.page, self.host, self.place, self.kcore.clone())
    }

    /// Whether Exeunt is on any CPU.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        !self.under.is_empty()
    }

    /// Refuses to go on without Exeunt.
    ///
    /// # Errors
    /// [`Trouble::Left`].
    pub const fn needs_exeunt(&self) -> Result<(), Trouble> {
        if self.is_there() { Ok(()) } else { Err(Trouble::Left) }
    }

    /// The way to the black box: the mirror if there is one, else Linux's memory.
    ///
    /// # Errors
    /// As both.
    pub fn source(&self) -> Result<Box<dyn Source + 'a>, Trouble> {
        if self.is_there()
            && let Some(mirror) = Mirror::new(self.page)?
        {
            return Ok(Box::new(mirror));
        }
        Ok(Box::new(Kernel::new(&self.place, &self.kcore)?))
    }

    /// The black box.
    ///
    /// # Errors
    /// As its source, and when it is damaged.
    pub fn snapshot(&self, wanted: Wanted) -> Result<Snapshot, Trouble> {
        let snapshot = self.source().and_then(|source| Snapshot::take(&*source, wanted));
        // If Exeunt has left while this was read, then it was not the mirror any more, and may be anything.
        if self.is_there() && door::presence(self.page)? == Presence::Left {
            return Err(Trouble::Left);
        }
        snapshot
    }
}
