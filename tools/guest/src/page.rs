//! Loads and stores in Exeunt's 2 MiB, wherever these are: in memory, or in a test.

use std::io;

/// How an access fails.
#[derive(Debug)]
pub enum Failed {
    /// A synchronous external abort: nobody answers there.
    Aborted,
    /// The place cannot be mapped.
    Unmapped(io::Error),
}

/// Exeunt's 2 MiB.
pub trait Page {
    /// Loads the doubleword at `offset`, a multiple of 8.
    ///
    /// # Errors
    /// [`Failed`], both kinds.
    fn load(&self, offset: u64) -> Result<u64, Failed>;

    /// Stores to the doubleword at `offset`, a multiple of 8.
    ///
    /// # Errors
    /// [`Failed`], both kinds.
    fn store(&self, offset: u64, value: u64) -> Result<(), Failed>;
}
