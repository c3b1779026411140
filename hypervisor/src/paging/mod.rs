//! Translation tables: Exeunt's own (EL2 stage 1) and the host's (stage 2), 4 KiB granule, 48-bit output addresses.
//!
//! One engine (`engine`) builds both; `stage2` and `stage1` add what their descriptors and registers look like,
//! `registers` the values of VTCR_EL2, VTTBR_EL2, TCR_EL2, TTBR0_EL2 and MAIR_EL2. `stage1_walk` reads tables of the
//! *host*. This room owns the contents of the tables that it took from a [`TableMemory`] and nothing else: it never
//! touches a system register, never issues a barrier or a TLB invalidation, and never chooses where tables lie.
//!
//! # What one change does, and in which order
//!
//! `map` and `unmap` replace whatever was there before in exactly their range, with the largest blocks that fit into
//! it. A block that is only partly concerned is split, unless it says already what was asked for. Each call:
//!
//! 1. checks its arguments;
//! 2. counts the tables that it will need and takes all of them from the [`TableMemory`];
//! 3. fills each new table completely, then calls [`TableMemory::fence`], then links it with one write;
//! 4. writes every other descriptor that changes once, and gives a table back with [`TableMemory::free`] only after the
//!    write that unlinked it.
//!
//! An error can only come out of the first two steps. **After an error nothing reachable from the root has been
//! written**, and what had been taken in step 2 has been given back. While a call runs, each input address translates
//! either as before the call or as after it, never to anything else.
//!
//! # What a caller on live tables owes
//!
//! Tables are live while a CPU may walk them, or hold TLB entries made from them. Before that (start-up) nothing is
//! owed but a DSB and an ISB between the last change and the write that turns translation on. On live tables (Arm ARM
//! D8, "TLB maintenance", for the sequences and for what needs break-before-make):
//!
//! - *One writer*: calls on the same tables are serialised by a lock.
//! - *Invalid to valid* needs no invalidation, since a translation fault is never cached: a DSB ISHST after the call,
//!   and an ISB on a CPU that is to use it.
//! - *Valid to invalid*, and *other permissions at the same size and output address*: after the call DSB ISHST, then
//!   the TLBI for the range (stage 2: IPAS2E1IS followed by DSB ISH and VMALLE1IS, for entries that combine both
//!   stages, or VMALLS12E1IS for everything; stage 1: VAE2IS), DSB ISH, ISB. A page handed to `free` must not be used
//!   again before that.
//! - *Another block size, memory type or output address* needs break-before-make. A block is split when a change
//!   concerns a part of it only; pages collapse into a block when one change covers all of it, even if they say the
//!   same already. This cannot be done from outside of a call. Either no CPU walks the tables during the call (for
//!   stage 2, the others are held at EL2, where it does not apply, and the invalidation comes before they go on), or
//!   [`TableMemory::write`] does it ([`live`]): where the old descriptor is valid and differs from the new one, write
//!   zero, DSB, TLBI, DSB, and then the new one. Other CPUs may see a translation fault in between and have to retry.
//!   Writes into tables that are not linked yet never find a valid descriptor, so that this test is enough. Neither way
//!   is open for what the running CPU itself stands on in stage 1 (its text, its stack, the tables): such a change is
//!   not to be made.

mod descriptor;
mod engine;
pub mod live;
pub mod registers;
pub mod stage1;
pub mod stage1_walk;
pub mod stage2;
#[cfg(test)]
pub(crate) mod tests;

use core::fmt;

/// Size of a page and of a table in bytes: the 4 KiB granule.
pub const PAGE_SIZE: u64 = 1 << descriptor::PAGE_SHIFT;

/// Where tables live: physical memory, as 8-byte descriptors of little-endian tables (SCTLR_EL2.EE = 0).
///
/// The EL2 binary implements it over memory that it reaches at VA = PA, tests over a vector. The same object (or one
/// over the same memory) must be given to every call on the same tables.
pub trait TableMemory {
    /// Gives away `pages` (a power of two, at most 16) contiguous 4 KiB pages, zeroed and aligned to their total size;
    /// `None` if there are none left. Returns the physical address.
    fn alloc(&mut self, pages: usize) -> Option<u64>;

    /// Takes back one page that `alloc(1)` gave away: no table points to it any longer.
    ///
    /// The page holds old descriptors; TLBs and walks in progress on other CPUs may still use them until the caller has
    /// invalidated (see the module's text). No `alloc` follows a `free` within one call of `map` or `unmap`. The
    /// default forgets the page, which is right for memory that is only ever handed out.
    fn free(&mut self, table: u64) {
        let _ = table;
    }

    /// Reads descriptor `index` of the table at `table`; `index` is below 512 times the number of pages that were
    /// allocated together.
    fn read(&self, table: u64, index: usize) -> u64;

    /// Writes descriptor `index` of the table at `table`, as one 64-bit access. The value may be the one that is there
    /// already.
    fn write(&mut self, table: u64, index: usize, descriptor: u64);

    /// Writes descriptor `index` of the table at `table` if it is `old`, in one step that nothing else comes between,
    /// and says whether it was. The default is right as long as nobody else writes to the tables.
    fn replace(&mut self, table: u64, index: usize, old: u64, new: u64) -> bool {
        let is_old = self.read(table, index) == old;
        if is_old {
            self.write(table, index, new);
        }
        is_old
    }

    /// Orders all writes so far before all later ones for table walks: a DSB ISHST on live tables. Called once before
    /// each write that links a new table. The default does nothing, which is right as long as no CPU walks the tables.
    fn fence(&mut self) {}
}

/// Why tables could not be made or changed. Nothing reachable was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Error {
    /// An IPA size below 32 or above 48 bits, or above the CPU's physical address range.
    IpaSize {
        /// The size that was asked for, in bits.
        bits: u32,
    },
    /// A start, an end or an output address that is no multiple of 4 KiB.
    Misaligned {
        /// The address.
        address: u64,
    },
    /// A range whose end is below its start.
    Inverted,
    /// A range that does not end within the input address size (the IPA or VA size).
    InputSize {
        /// The end of the range, exclusive.
        end: u64,
    },
    /// An output range that does not end within the CPU's physical address range.
    OutputSize {
        /// The first output address.
        start: u64,
    },
    /// The [`TableMemory`] has no table left.
    OutOfTables,
    /// The [`TableMemory`] gave a table that is misaligned or beyond the output address size of these tables.
    TableAddress {
        /// The address that it gave.
        address: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IpaSize { bits } => write!(f, "an IPA size of {bits} bits is not possible on this CPU"),
            Self::Misaligned { address } => write!(f, "address {address:#x} is not a multiple of 4 KiB"),
            Self::Inverted => f.write_str("range ends below its start"),
            Self::InputSize { end } => write!(f, "range ends at {end:#x}, beyond the input address size"),
            Self::OutputSize { start } => {
                write!(f, "output range from {start:#x} on leaves the physical address range")
            }
            Self::OutOfTables => f.write_str("no memory left for translation tables"),
            Self::TableAddress { address } => write!(f, "memory at {address:#x} cannot hold a translation table"),
        }
    }
}

impl core::error::Error for Error {}

/// What an input address translates to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mapping<A> {
    /// The output address of exactly the address that was asked for, offset within the block included.
    pub output: u64,
    /// Level of the block or page descriptor: 1 (1 GiB), 2 (2 MiB) or 3 (4 KiB).
    pub level: u8,
    /// The block's or page's attributes.
    pub attributes: A,
}

impl<A> Mapping<A> {
    /// Size of the block or page in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        descriptor::entry_size(self.level)
    }
}
