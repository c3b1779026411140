//! The flattened device tree: what Exeunt reads from it, and the changes that it makes before the host sees it.
//!
//! Owns: [`scan()`], one pass that checks the whole structure and fills a [`Platform`]; [`edit()`], which changes the
//! tree in place; [`chosen_has`], a question to the tree of the next kernel. Works on byte slices alone, the last on
//! words that it is given, and never touches the memory that a tree describes.
//!
//! Terms and layout are those of the Devicetree Specification v0.4, chapter 5 ("DTSpec" in comments here).
//!
//! # Which library does what
//!
//! `fdt` checks the header and walks the memory reservation block. The pass over the structure block and the edit are
//! own code, because start-up has 200,000 instructions for everything. Measured on the tree that QEMU makes for `virt`
//! with 32 CPUs and GICv3 (120 nodes, 413 properties, 12 KiB) with callgrind, x86-64, opt-level 3:
//!
//! | what | instructions |
//! |---|---|
//! | `fdt` 0.1.5: all nodes and their properties once, nothing looked at | 217,000 |
//! | `fdt` 0.1.5: find `/chosen` alone (QEMU writes it last) | 142,000 |
//! | `dtoolkit` 0.4.1: validate, then one pass over nodes and properties | 252,000 + 591,000 |
//! | `dtoolkit` 0.4.1: set one property of `/chosen`, add two, remove two nodes | 100,000 |
//! | [`scan()`] | 82,000 |
//! | [`edit()`] | 8,000 |
//!
//! On the target, counted in QEMU's trace, [`scan()`] takes 73,000 and [`edit()`] 10,000. The libraries spend it on
//! strings, byte by byte, for every property that they pass. Besides, `fdt` panics on corrupt trees, and `dtoolkit`
//! cannot add a node. In the tests both read the same trees, as independent witnesses of what the code here does.

mod edit;
mod names;
mod peek;
mod platform;
mod scan;
#[cfg(test)]
pub(crate) mod tests;
mod words;

use core::fmt;

pub use edit::{Edits, edit};
pub use peek::chosen_has;
pub use platform::{Conduit, Gic, Gicv2, List, Module, Platform, Region};
pub use scan::scan;

/// Linux requires a device tree of at most 2 MiB (Documentation/arch/arm64/booting.rst, section 2).
pub const MAX_SIZE: usize = 2 << 20;

/// Bytes that [`total_size`] needs: the header of version 17 (DTSpec 5.2).
pub const HEADER_SIZE: usize = 40;

/// What is wrong with a device tree, or with a machine that it describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// The magic number is missing: nothing at that address, or something else.
    NotATree,
    /// `totalsize` is larger than the memory at hand, or than [`MAX_SIZE`].
    TooLarge {
        /// What the header says, in bytes.
        size: usize,
    },
    /// Not at a multiple of 4.
    Misaligned,
    /// Older or newer than version 17 of the format.
    Version {
        /// The header's `version`.
        version: u32,
    },
    /// The header's offsets and sizes contradict each other.
    Header,
    /// The structure block is broken.
    Structure {
        /// Offset of the offending token, in bytes from the start of the tree.
        offset: usize,
    },
    /// A name in the structure or strings block is not ASCII or not terminated.
    Name {
        /// Offset in bytes from the start of the tree.
        offset: usize,
    },
    /// A property that Exeunt relies on has a value that makes no sense.
    Value {
        /// Name of the property.
        property: &'static str,
        /// Offset of the property's value, in bytes from the start of the tree.
        offset: usize,
    },
    /// A second one of what there must be one of.
    Duplicate {
        /// The node or property.
        what: &'static str,
    },
    /// More of something than Exeunt has room for.
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// No `/chosen` node, where the loader describes the modules.
    NoChosen,
    /// Linux would not honour the `/reserved-memory` node that is there: its cells differ from the root's.
    ReservedMemory,
    /// An address does not fit into the root's `#address-cells` or `#size-cells`.
    CellsTooSmall {
        /// The address.
        address: u64,
    },
    /// The edited tree is larger than the memory that the loader left for it.
    NoRoom {
        /// Bytes that the edited tree takes.
        needed: usize,
        /// Bytes that there are.
        available: usize,
    },
    /// The tree is not the one that was scanned.
    Changed,
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotATree => f.write_str("there is no device tree at the address in x0"),
            Self::TooLarge { size } => {
                write!(
                    f,
                    "the device tree says that it has {size} bytes, more than there are or than the 2 MiB allowed"
                )
            }
            Self::Misaligned => f.write_str("the device tree is not at an address that is a multiple of 8"),
            Self::Version { version } => {
                write!(f, "the device tree has format version {version}; 17 is the one that is known")
            }
            Self::Header => {
                f.write_str("the device tree is corrupt: offsets and sizes in its header contradict each other")
            }
            Self::Structure { offset } => {
                write!(f, "the device tree is corrupt: unexpected data at byte {offset:#x}")
            }
            Self::Name { offset } => {
                write!(f, "the device tree is corrupt: the name at byte {offset:#x} is not plain text")
            }
            Self::Value { property, offset } => {
                write!(f, "the device tree has an impossible value in '{property}' at byte {offset:#x}")
            }
            Self::Duplicate { what } => write!(f, "the device tree has more than one {what}"),
            Self::TooMany { what, limit } => {
                write!(f, "the device tree has more {what} than Exeunt has room for ({limit})")
            }
            Self::NoChosen => f.write_str("the device tree has no /chosen node"),
            Self::ReservedMemory => f.write_str(
                "the device tree's /reserved-memory has other #address-cells or #size-cells than its root: Linux would \
                 ignore it, and use Exeunt's memory",
            ),
            Self::CellsTooSmall { address } => {
                write!(f, "the device tree's root has too few #address-cells or #size-cells for address {address:#x}")
            }
            Self::NoRoom { needed, available } => {
                write!(f, "the device tree needs {needed} bytes after Exeunt's changes, and its memory has {available}")
            }
            Self::Changed => f.write_str("the device tree changed while Exeunt was working on it"),
        }
    }
}

impl core::error::Error for TreeError {}

/// Size in bytes of the tree that begins with `header`, which may be no more than its first [`HEADER_SIZE`] bytes.
///
/// # Errors
///
/// [`TreeError::NotATree`], [`TreeError::TooLarge`], and [`TreeError::Header`] for a size that is not even the
/// header's.
pub fn total_size(header: &[u8]) -> Result<usize, TreeError> {
    let word = |at| header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    if word(0) != Some(MAGIC) {
        return Err(TreeError::NotATree);
    }
    let size = word(4).ok_or(TreeError::NotATree)? as usize;
    match size {
        ..HEADER_SIZE => Err(TreeError::Header),
        HEADER_SIZE..=MAX_SIZE => Ok(size),
        _ => Err(TreeError::TooLarge { size }),
    }
}

/// Marks the start of a flattened tree (DTSpec 5.2).
const MAGIC: u32 = 0xd00d_feed;

/// The tokens of the structure block (DTSpec 5.4.1).
mod token {
    pub const BEGIN_NODE: u32 = 1;
    pub const END_NODE: u32 = 2;
    pub const PROP: u32 = 3;
    pub const NOP: u32 = 4;
    pub const END: u32 = 9;
}
