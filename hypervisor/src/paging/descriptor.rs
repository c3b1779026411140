//! The shape of descriptors and levels that stage 1 and stage 2 have in common: VMSAv8-64, 4 KiB granule, 48-bit
//! addresses.
//!
//! Arm ARM D8, "Translation table descriptor formats". Owns no state. Attributes of blocks and pages are in `stage1`
//! and `stage2`; FEAT_LPA2 and FEAT_D128 formats are not used.

/// log2 of the granule.
pub(super) const PAGE_SHIFT: u32 = 12;

/// log2 of the number of descriptors in one 4 KiB table.
pub(super) const STRIDE: u32 = 9;

/// Number of descriptors in one 4 KiB table.
pub(super) const ENTRIES: usize = 1 << STRIDE;

/// The level of page descriptors.
pub(super) const LAST_LEVEL: u8 = 3;

/// The first level whose descriptors may be blocks (1 GiB); level 0 has tables only, without FEAT_LPA2.
pub(super) const FIRST_BLOCK_LEVEL: u8 = 1;

/// Largest output address size of these formats, in bits.
pub(super) const MAX_OUTPUT_BITS: u32 = 48;

/// Bit 0: the descriptor is valid.
pub(super) const VALID: u64 = 1 << 0;

/// Bit 1: with [`VALID`], a table at levels 0 to 2 and a page at level 3; clear, a block.
pub(super) const TABLE_OR_PAGE: u64 = 1 << 1;

/// Bits 47:12: next-level table address, or output address (whose bits below the block's size are zero).
pub(super) const ADDRESS: u64 = ((1 << MAX_OUTPUT_BITS) - 1) & !((1 << PAGE_SHIFT) - 1);

/// log2 of the bytes that one descriptor at `level` stands for.
pub(super) const fn entry_shift(level: u8) -> u32 {
    PAGE_SHIFT + STRIDE * (LAST_LEVEL - level) as u32
}

/// Bytes that one descriptor at `level` stands for: 512 GiB, 1 GiB, 2 MiB, 4 KiB.
pub(super) const fn entry_size(level: u8) -> u64 {
    1 << entry_shift(level)
}

/// The bit that says "table" in a descriptor at `level`, or zero at the last level, which has none.
///
/// Only for descriptors written here: a walker of foreign tables has to look at [`VALID`] as well.
pub(super) const fn table_bit(level: u8) -> u64 {
    if level < LAST_LEVEL { TABLE_OR_PAGE } else { 0 }
}

/// Whether a descriptor at `level` points to a table of the next level.
pub(super) const fn is_table(level: u8, descriptor: u64) -> bool {
    descriptor & table_bit(level) != 0
}

/// The descriptor that links the next-level table at `address`.
///
/// Stage 1's hierarchical attributes (bits 63:59) stay zero, which restricts nothing; in stage 2 they are RES0.
pub(super) const fn table(address: u64) -> u64 {
    address | TABLE_OR_PAGE | VALID
}

/// The block or page descriptor at `level` with the given output address and attributes (which hold neither of bits
/// 1:0).
pub(super) const fn leaf(level: u8, output: u64, attributes: u64) -> u64 {
    let kind = if level == LAST_LEVEL { TABLE_OR_PAGE | VALID } else { VALID };
    output | attributes | kind
}
