//! The last bytes of Exeunt's log, in a ring that any CPU may append to and read.
//!
//! Owns the ring. A byte's position is how many bytes were written before it since the start; the ring keeps the last
//! ones. Nobody waits for anybody: writers claim a range of positions with one atomic addition and fill it; readers
//! copy first and find out afterwards whether a writer was there meanwhile (a sequence lock without the waiting).
//!
//! - *claims* counts the writers that are at it, and the position after the last claim. Bytes older than that position
//!   minus the ring's size may be overwritten at any moment.
//! - *published* is a position before which everything is written. The last writer to finish moves it to the end of the
//!   claims that it saw; while writers overlap it stays where it was.
//!
//! A writer that dies in the middle (an exception at EL2) would keep the published position where it is for ever.
//! Exeunt's lines are written under a lock, so that such a writer is one that never gives the lock back: who writes
//! without the lock, having waited for it in vain, calls [`LogRing::abandon_writers`] first. If the other was only
//! slow, or sleeps so long that the ring is claimed once more meanwhile, its bytes come among those of others: wrong
//! text, nothing worse.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use guest_abi::vendor::Error;

/// *claims*: bits \[47:0\] are the position, bits \[63:48\] the number of writers.
const POSITION: u64 = (1 << 48) - 1;
const ONE_WRITER: u64 = 1 << 48;

/// Bytes that a reader copies between two looks at the claims.
const CHUNK: usize = 64;

/// Where a ring is: two words that lie beside it, where a reader of the memory finds them too
/// ([`guest_abi::blackbox::Live`]).
#[derive(Debug, Default)]
#[repr(C)]
pub struct Positions {
    claims: AtomicU64,
    published: AtomicU64,
}

impl Positions {
    /// Nothing is written yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { claims: AtomicU64::new(0), published: AtomicU64::new(0) }
    }
}

/// The ring.
#[derive(Clone, Copy, Debug)]
pub struct LogRing<'a> {
    bytes: &'a [AtomicU8],
    at: &'a Positions,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRead {
    /// Bytes copied.
    pub copied: u64,
    /// The position to go on from.
    pub next: u64,
    /// Bytes between the wanted position and the first copied one that had been overwritten.
    pub lost: u64,
}

impl<'a> LogRing<'a> {
    /// A log that keeps its last `bytes.len()` bytes, as far as it is written.
    ///
    /// # Panics
    ///
    /// The length is not a power of two (at compile time for a static).
    #[must_use]
    pub const fn new(bytes: &'a [AtomicU8], at: &'a Positions) -> Self {
        assert!(bytes.len().is_power_of_two());
        Self { bytes, at }
    }

    /// Bytes that are kept.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The position after the last byte that can be read.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.at.published.load(Ordering::Acquire) & POSITION
    }

    /// Appends; from any CPU, at any time that exclusive accesses work (EL2's MMU is on).
    pub fn append(&self, text: &[u8]) {
        let start = self.claim(text.len());
        self.fill(start, text);
        self.finish();
    }

    /// Begins to write: the position.
    fn claim(&self, length: usize) -> u64 {
        let start = self.at.claims.fetch_add(ONE_WRITER + length as u64, Ordering::AcqRel) & POSITION;
        // Who sees one of the bytes that are stored from now on also sees the claim (see `read`).
        fence(Ordering::Release);
        start
    }

    /// Has written; the last one publishes.
    pub(super) fn finish(&self) {
        let finish = |claims: u64| if claims >= ONE_WRITER { claims - ONE_WRITER } else { claims };
        // Acquire: what the others wrote who finished before is published along.
        let claims = self.at.claims.update(Ordering::AcqRel, Ordering::Acquire, finish);
        if claims < 2 * ONE_WRITER {
            self.at.published.fetch_max(claims & POSITION, Ordering::AcqRel);
        }
    }

    /// Appends with plain loads and stores: for the one CPU that there is before EL2's MMU is on, when exclusive
    /// accesses are not promised to work.
    pub fn append_alone(&self, text: &[u8]) {
        let start = self.at.claims.load(Ordering::Relaxed);
        let end = start + text.len() as u64;
        self.at.claims.store(end, Ordering::Relaxed);
        fence(Ordering::Release);
        self.fill(start & POSITION, text);
        self.at.published.store(end & POSITION, Ordering::Release);
    }

    /// Publishes what writers have begun, since none of them is waited for any longer.
    pub fn abandon_writers(&self) {
        let claims = self.at.claims.fetch_and(POSITION, Ordering::AcqRel);
        self.at.published.fetch_max(claims & POSITION, Ordering::AcqRel);
    }

    /// A writer that claims `length` bytes and is not heard of again until it calls `finish`.
    #[cfg(test)]
    pub(super) fn begin_and_die(&self, length: usize) {
        self.claim(length);
    }

    fn fill(&self, start: u64, text: &[u8]) {
        // Of a text longer than the ring only the end would be left.
        let skip = text.len().saturating_sub(self.bytes.len());
        let at = start.wrapping_add(skip as u64) as usize & (self.bytes.len() - 1);
        // To the end of the ring, and on from its beginning.
        let (before, from) = self.bytes.split_at(at);
        let text = &text[skip..];
        let (first, rest) = text.split_at(text.len().min(from.len()));
        for (slots, bytes) in [(from, first), (before, rest)] {
            for (slot, &byte) in slots.iter().zip(bytes) {
                slot.store(byte, Ordering::Relaxed);
            }
        }
    }

    fn slot(&self, position: u64) -> &AtomicU8 {
        &self.bytes[position as usize & (self.bytes.len() - 1)]
    }

    /// The first position that no writer can be overwriting.
    fn oldest(&self) -> u64 {
        (self.at.claims.load(Ordering::Relaxed) & POSITION).saturating_sub(self.size())
    }

    /// Copies at most `size` bytes from `position` on, in pieces, each with its offset from the first.
    ///
    /// # Errors
    ///
    /// `InvalidParameter`: the log has not come to `position` yet.
    pub fn read(&self, position: u64, size: usize, take: &mut dyn FnMut(usize, &[u8])) -> Result<LogRead, Error> {
        let end = self.end();
        if position > end {
            return Err(Error::InvalidParameter);
        }
        let mut start = position.max(self.oldest().min(end));
        let mut copied = 0;
        while copied < size && start + (copied as u64) < end {
            let at = start + copied as u64;
            let length = CHUNK.min(size - copied).min((end - at) as usize);
            let mut chunk = [0; CHUNK];
            for (byte, position) in chunk[..length].iter_mut().zip(at..) {
                *byte = self.slot(position).load(Ordering::Relaxed);
            }
            // If one of these bytes is from a later claim, this fence meets the writer's, and the claim is seen now.
            fence(Ordering::Acquire);
            let oldest = self.oldest();
            if at >= oldest {
                take(copied, &chunk[..length]);
                copied += length;
            } else if copied == 0 {
                start = oldest.min(end);
            } else {
                break;
            }
        }
        Ok(LogRead { copied: copied as u64, next: start + copied as u64, lost: start - position })
    }
}

impl fmt::Write for &LogRing<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.append(text.as_bytes());
        Ok(())
    }
}
