//! The table engine: changes a range of a translation table tree, and looks an address up in it.
//!
//! Owns the shape of the tree (which table at which level, when to split, when to free). Knows nothing of what
//! attributes mean, and asks the `TableMemory` for every access. The order of writes that it keeps is promised in the
//! module above.
//!
//! Everything is generic over the memory and recurses at most once per level. The loops over whole entries
//! (`overwrite`, `fill`) are the ones that count at start-up: a 40-bit stage 2 has 1024 level-1 entries.

use core::ops::Range;

use super::descriptor::{
    ADDRESS, ENTRIES, FIRST_BLOCK_LEVEL, LAST_LEVEL, PAGE_SHIFT, TABLE_OR_PAGE, VALID, entry_shift, entry_size,
    is_table, leaf, table, table_bit,
};
use super::{Error, PAGE_SIZE, TableMemory};

/// A tree of tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables {
    /// Physical address of the table (or the concatenated tables) of the initial lookup level.
    root: u64,
    /// The initial lookup level.
    start_level: u8,
    /// Input address size in bits.
    input_bits: u32,
    /// Output address size in bits.
    output_bits: u32,
}

/// One table in the tree.
#[derive(Clone, Copy)]
struct Table {
    /// Physical address.
    address: u64,
    /// Level of its descriptors.
    level: u8,
    /// The input address that its first descriptor stands for.
    base: u64,
}

impl Table {
    /// Index of the descriptor for `input`, which lies within the table. The root may have more than 512.
    #[inline]
    fn index(&self, input: u64) -> usize {
        ((input - self.base) >> entry_shift(self.level)) as usize
    }

    /// The table that `descriptor`, found in this one for `input`, points to.
    #[inline]
    fn child(&self, descriptor: u64, input: u64) -> Self {
        Self { address: descriptor & ADDRESS, level: self.level + 1, base: entry_base(self.level, input) }
    }
}

/// The first input address of the entry at `level` that `input` belongs to.
fn entry_base(level: u8, input: u64) -> u64 {
    input & !(entry_size(level) - 1)
}

/// What is to become of a range of input addresses. `first` and `last` (inclusive) are page-aligned at their outer
/// edges.
struct Change {
    /// First input address.
    first: u64,
    /// Last input address, inclusive.
    last: u64,
    /// `None` to unmap.
    target: Option<Target>,
    /// The lowest-numbered level at which an entry that lies wholly in the range can be written as one descriptor.
    top_level: u8,
}

/// What a range is mapped to.
#[derive(Clone, Copy)]
struct Target {
    /// Output address minus input address, modulo 2^64.
    offset: u64,
    /// Attributes of the descriptors, bits 1:0 clear.
    attributes: u64,
}

/// A part of a range as one table sees it.
enum Piece {
    /// `count` entries from that of `input` on, each wholly in the range and each to be one descriptor.
    Whole { input: u64, count: usize },
    /// Part of one entry, or all of an entry that cannot be one descriptor.
    Part { first: u64, last: u64 },
}

impl Change {
    fn unmap(range: &Range<u64>) -> Self {
        Self { first: range.start, last: range.end - 1, target: None, top_level: 0 }
    }

    fn map(range: &Range<u64>, output: u64, attributes: u64) -> Self {
        let offset = output.wrapping_sub(range.start);
        // A block needs the same alignment of input and output.
        let mut top_level = FIRST_BLOCK_LEVEL;
        while top_level < LAST_LEVEL && offset & (entry_size(top_level) - 1) != 0 {
            top_level += 1;
        }
        Self { first: range.start, last: range.end - 1, target: Some(Target { offset, attributes }), top_level }
    }

    /// The descriptor that stands for the whole entry of `input` after the change, and what to add for the next entry.
    ///
    /// Where the change could not be made with one descriptor of this level, it is one that no table holds.
    #[inline]
    fn descriptor(&self, level: u8, input: u64) -> (u64, u64) {
        match self.target {
            Some(target) => (leaf(level, input.wrapping_add(target.offset), target.attributes), entry_size(level)),
            None => (0, 0),
        }
    }

    /// Whether `old`, which is not a table, already says for the entry of `input` what the change wants for a part of
    /// it.
    fn is_done(&self, level: u8, input: u64, old: u64) -> bool {
        self.descriptor(level, entry_base(level, input)).0 == old
    }

    /// Divides `first..=last`, which lies within one table at `level`, into pieces.
    fn pieces(&self, level: u8, first: u64, last: u64) -> impl Iterator<Item = Piece> + use<> {
        let as_one = level >= self.top_level;
        let inside = entry_size(level) - 1;
        let mut at = first;
        core::iter::from_fn(move || {
            if at > last {
                return None;
            }
            let entry_last = at | inside;
            if as_one && at & inside == 0 && entry_last <= last {
                let count = (last - at + 1) >> entry_shift(level);
                let input = at;
                at += count << entry_shift(level);
                Some(Piece::Whole { input, count: count as usize })
            } else {
                let piece = Piece::Part { first: at, last: entry_last.min(last) };
                // Input addresses end at 2^48: there is always a next one.
                at = entry_last + 1;
                Some(piece)
            }
        })
    }

    /// Number of tables that a new table at `level` for `first..=last` needs, itself included.
    fn new_tables(&self, level: u8, first: u64, last: u64) -> usize {
        let below = self.pieces(level, first, last).map(|piece| match piece {
            Piece::Whole { .. } => 0,
            Piece::Part { first, last } => self.new_tables(level + 1, first, last),
        });
        1 + below.sum::<usize>()
    }
}

/// Tables taken from the memory and not yet used, chained through their first descriptor.
struct Spares {
    head: u64,
    count: usize,
}

impl Spares {
    /// Takes `count` tables, or none at all.
    fn reserve<M: TableMemory>(memory: &mut M, count: usize, output_bits: u32) -> Result<Self, Error> {
        let mut spares = Self { head: 0, count: 0 };
        while spares.count < count {
            match alloc_checked(memory, 1, output_bits) {
                Ok(table) => {
                    memory.write(table, 0, spares.head);
                    spares.head = table;
                    spares.count += 1;
                }
                Err(error) => {
                    while spares.count > 0 {
                        let table = spares.take(memory);
                        memory.free(table);
                    }
                    return Err(error);
                }
            }
        }
        Ok(spares)
    }

    /// One of the tables, zeroed. Taking more than were reserved is a bug, and the subtraction panics.
    fn take<M: TableMemory>(&mut self, memory: &mut M) -> u64 {
        self.count -= 1;
        let table = self.head;
        self.head = memory.read(table, 0);
        memory.write(table, 0, 0);
        table
    }
}

/// Allocates, and refuses an address that cannot stand in a descriptor or a base register.
fn alloc_checked<M: TableMemory>(memory: &mut M, pages: usize, output_bits: u32) -> Result<u64, Error> {
    let address = memory.alloc(pages).ok_or(Error::OutOfTables)?;
    let size = (pages as u64) << PAGE_SHIFT;
    if address & (size - 1) != 0 || address >= 1 << output_bits {
        return Err(Error::TableAddress { address });
    }
    Ok(address)
}

/// How many descriptors the loops over whole entries handle at a time, which spares them most of their branches.
const GROUP: usize = 8;

/// Writes descriptors of a table that is not linked yet.
#[inline]
fn fill<M: TableMemory>(memory: &mut M, table: u64, indices: Range<usize>, (first, step): (u64, u64)) {
    let mut descriptor = first;
    let mut index = indices.start;
    while indices.end.saturating_sub(index) >= GROUP {
        descriptor = write_group(memory, table, index, descriptor, step);
        index = index.wrapping_add(GROUP);
    }
    while index < indices.end {
        memory.write(table, index, descriptor);
        descriptor = descriptor.wrapping_add(step);
        index = index.wrapping_add(1);
    }
}

/// Writes [`GROUP`] descriptors and returns the one that comes next.
#[inline]
fn write_group<M: TableMemory>(memory: &mut M, table: u64, index: usize, first: u64, step: u64) -> u64 {
    let mut descriptor = first;
    let mut write = |place: usize| {
        memory.write(table, index.wrapping_add(place), descriptor);
        descriptor = descriptor.wrapping_add(step);
    };
    // One by one: a compiler that is asked for small code leaves a loop a loop.
    write(0);
    write(1);
    write(2);
    write(3);
    write(4);
    write(5);
    write(6);
    write(7);
    descriptor
}

/// All bits that are set in any of [`GROUP`] descriptors.
#[inline]
fn read_group<M: TableMemory>(memory: &M, table: u64, index: usize) -> u64 {
    let read = |place: usize| memory.read(table, index.wrapping_add(place));
    read(0) | read(1) | read(2) | read(3) | read(4) | read(5) | read(6) | read(7)
}

impl Tables {
    /// Takes the root: one table, or up to 16 concatenated ones, of `start_level` for `input_bits`.
    pub(super) fn new<M: TableMemory>(
        memory: &mut M,
        start_level: u8,
        input_bits: u32,
        output_bits: u32,
    ) -> Result<Self, Error> {
        let root = alloc_checked(memory, root_pages(start_level, input_bits), output_bits)?;
        Ok(Self { root, start_level, input_bits, output_bits })
    }

    pub(super) fn root(&self) -> u64 {
        self.root
    }

    /// Maps `range` to the equally long range at `output`. `attributes` are those of a block or page, bits 1:0 clear.
    pub(super) fn map<M: TableMemory>(
        &mut self,
        memory: &mut M,
        range: Range<u64>,
        output: u64,
        attributes: u64,
    ) -> Result<(), Error> {
        let length = self.check(&range)?;
        check_aligned(output)?;
        if output.checked_add(length).is_none_or(|end| end > 1 << self.output_bits) {
            return Err(Error::OutputSize { start: output });
        }
        if length == 0 { Ok(()) } else { self.apply(memory, &Change::map(&range, output, attributes)) }
    }

    /// Maps all input addresses to themselves, where nothing is mapped yet and the root is not linked to anything.
    pub(super) fn map_all<M: TableMemory>(&mut self, memory: &mut M, attributes: u64) -> Result<(), Error> {
        if self.start_level < FIRST_BLOCK_LEVEL {
            return self.map(memory, 0..1 << self.input_bits, 0, attributes);
        }
        if self.input_bits > self.output_bits {
            return Err(Error::OutputSize { start: 0 });
        }
        let blocks = 1 << self.input_bits.saturating_sub(entry_shift(self.start_level));
        fill(
            memory,
            self.root,
            0..blocks,
            Change::map(&(0..1 << self.input_bits), 0, attributes).descriptor(self.start_level, 0),
        );
        Ok(())
    }

    /// Makes `range` invalid.
    pub(super) fn unmap<M: TableMemory>(&mut self, memory: &mut M, range: Range<u64>) -> Result<(), Error> {
        let length = self.check(&range)?;
        if length == 0 { Ok(()) } else { self.apply(memory, &Change::unmap(&range)) }
    }

    /// The level, output address and attributes (bits 1:0 cleared) for `input`, if it is mapped.
    pub(super) fn query<M: TableMemory>(&self, memory: &M, input: u64) -> Option<(u8, u64, u64)> {
        let (table, index) = self.leaf(memory, input)?;
        let descriptor = memory.read(table.address, index);
        let inside = entry_size(table.level) - 1;
        let output = (descriptor & ADDRESS) | (input & inside);
        Some((table.level, output, descriptor & !(ADDRESS | TABLE_OR_PAGE | VALID)))
    }

    /// The input addresses of the descriptor that decides about `input`, and its attributes (bits 1:0 cleared) if it
    /// maps anything. A root without its valid bits ([`Self::set_root_valid`]) is looked at as if it had them.
    pub(super) fn decided<M: TableMemory>(&self, memory: &M, input: u64) -> (Range<u64>, Option<u64>) {
        let mut table = self.root_table();
        let mut hidden = VALID;
        loop {
            let descriptor = match memory.read(table.address, table.index(input)) {
                0 => 0,
                descriptor => descriptor | hidden,
            };
            let start = entry_base(table.level, input);
            let range = start..start + entry_size(table.level);
            if descriptor & VALID == 0 {
                return (range, None);
            }
            if !is_table(table.level, descriptor) {
                return (range, Some(descriptor & !(ADDRESS | TABLE_OR_PAGE | VALID)));
            }
            table = table.child(descriptor, input);
            hidden = 0;
        }
    }

    /// Clears `bits` in the block or page descriptor for `input`, and says whether that changed it. False as well if
    /// there is none, or if somebody else changes it at the same time.
    pub(super) fn clear_in_leaf<M: TableMemory>(&self, memory: &mut M, input: u64, bits: u64) -> bool {
        let Some((table, index)) = self.leaf(memory, input) else { return false };
        let old = memory.read(table.address, index);
        // Looked at again: it may have gone since.
        old & VALID != 0 && old & bits != 0 && memory.replace(table.address, index, old, old & !bits)
    }

    /// Where the block or page descriptor for `input` is, if it is mapped.
    fn leaf<M: TableMemory>(&self, memory: &M, input: u64) -> Option<(Table, usize)> {
        if input >= 1 << self.input_bits {
            return None;
        }
        let mut table = self.root_table();
        loop {
            let index = table.index(input);
            let descriptor = memory.read(table.address, index);
            if descriptor & VALID == 0 {
                return None;
            }
            if !is_table(table.level, descriptor) {
                return Some((table, index));
            }
            table = table.child(descriptor, input);
        }
    }

    /// Sets or clears the valid bit of every descriptor in the root that has anything. Single stores: a walk sees the
    /// old one or the new one.
    pub(super) fn set_root_valid<M: TableMemory>(&self, memory: &mut M, valid: bool) {
        for index in 0..root_pages(self.start_level, self.input_bits) * ENTRIES {
            let old = memory.read(self.root, index);
            if old != 0 {
                memory.write(self.root, index, if valid { old | VALID } else { old & !VALID });
            }
        }
    }

    /// Where the descriptor of the page at `input` stands, table and index, if there is a table for it.
    pub(super) fn page_slot<M: TableMemory>(&self, memory: &M, input: u64) -> Option<(u64, usize)> {
        if input >= 1 << self.input_bits {
            return None;
        }
        let mut table = self.root_table();
        while table.level < LAST_LEVEL {
            let descriptor = memory.read(table.address, table.index(input));
            if !is_table(table.level, descriptor) {
                return None;
            }
            table = table.child(descriptor, input);
        }
        Some((table.address, table.index(input)))
    }

    /// Whether the root's descriptor for `input` is valid; nothing if there is none.
    pub(super) fn root_entry<M: TableMemory>(&self, memory: &M, input: u64) -> Option<bool> {
        let root = self.root_table();
        let descriptor = if input < 1 << self.input_bits { memory.read(root.address, root.index(input)) } else { 0 };
        (descriptor != 0).then_some(descriptor & VALID != 0)
    }

    fn root_table(&self) -> Table {
        Table { address: self.root, level: self.start_level, base: 0 }
    }

    /// The lowest table that is there and that holds all of the change, with what is around it. Most changes at start
    /// are a page or two, and go down here once instead of twice.
    fn lowest_around<M: TableMemory>(&self, memory: &M, change: &Change) -> Table {
        let mut table = self.root_table();
        loop {
            let inside = entry_size(table.level) - 1;
            let whole = change.first & inside == 0 && change.last & inside == inside;
            if whole || (change.first ^ change.last) & !inside != 0 {
                return table;
            }
            let descriptor = memory.read(table.address, table.index(change.first));
            if !is_table(table.level, descriptor) {
                return table;
            }
            table = table.child(descriptor, change.first);
        }
    }

    /// Checks a range of input addresses and returns its length.
    #[inline]
    fn check(&self, range: &Range<u64>) -> Result<u64, Error> {
        check_aligned(range.start)?;
        check_aligned(range.end)?;
        let length = range.end.checked_sub(range.start).ok_or(Error::Inverted)?;
        if range.end > 1 << self.input_bits {
            return Err(Error::InputSize { end: range.end });
        }
        Ok(length)
    }

    #[inline]
    fn apply<M: TableMemory>(&mut self, memory: &mut M, change: &Change) -> Result<(), Error> {
        let table = self.lowest_around(memory, change);
        let missing = missing_tables(memory, table, change, change.first, change.last);
        let mut spares = Spares::reserve(memory, missing, self.output_bits)?;
        update(memory, &mut spares, table, change, change.first, change.last);
        debug_assert_eq!(spares.count, 0, "tables were counted wrongly");
        Ok(())
    }
}

/// Number of 4 KiB tables that make up the initial lookup level.
pub(super) const fn root_pages(start_level: u8, input_bits: u32) -> usize {
    let one_table = entry_shift(start_level) + super::descriptor::STRIDE;
    1 << input_bits.saturating_sub(one_table)
}

fn check_aligned(address: u64) -> Result<(), Error> {
    if address.is_multiple_of(PAGE_SIZE) { Ok(()) } else { Err(Error::Misaligned { address }) }
}

/// Number of tables that `update` will take with the same arguments.
fn missing_tables<M: TableMemory>(memory: &M, table: Table, change: &Change, first: u64, last: u64) -> usize {
    let pieces = change.pieces(table.level, first, last).map(|piece| match piece {
        Piece::Whole { .. } => 0,
        Piece::Part { first, last } => {
            let old = memory.read(table.address, table.index(first));
            if is_table(table.level, old) {
                missing_tables(memory, table.child(old, first), change, first, last)
            } else if change.is_done(table.level, first, old) {
                0
            } else {
                change.new_tables(table.level + 1, first, last)
            }
        }
    });
    pieces.sum()
}

/// Makes the change for `first..=last` in a table that is linked.
fn update<M: TableMemory>(memory: &mut M, spares: &mut Spares, table: Table, change: &Change, first: u64, last: u64) {
    for piece in change.pieces(table.level, first, last) {
        match piece {
            Piece::Whole { input, count } => {
                let from = table.index(input);
                let descriptors = change.descriptor(table.level, input);
                overwrite(memory, table, from..from + count, descriptors);
            }
            Piece::Part { first, last } => {
                let index = table.index(first);
                let old = memory.read(table.address, index);
                if is_table(table.level, old) {
                    update(memory, spares, table.child(old, first), change, first, last);
                } else if !change.is_done(table.level, first, old) {
                    let new = build(memory, spares, table.level + 1, old, change, first, last);
                    memory.fence();
                    memory.write(table.address, index, self::table(new));
                }
            }
        }
    }
}

/// Overwrites descriptors of a linked table, and frees the tables that hung below them.
#[inline]
fn overwrite<M: TableMemory>(memory: &mut M, table: Table, indices: Range<usize>, (first, step): (u64, u64)) {
    let table_bit = table_bit(table.level);
    let mut descriptor = first;
    let mut index = indices.start;
    while index < indices.end {
        if indices.end.wrapping_sub(index) >= GROUP && read_group(memory, table.address, index) & table_bit == 0 {
            descriptor = write_group(memory, table.address, index, descriptor, step);
            index = index.wrapping_add(GROUP);
        } else {
            let old = memory.read(table.address, index);
            memory.write(table.address, index, descriptor);
            if old & table_bit != 0 {
                free_tree(memory, table.level + 1, old & ADDRESS);
            }
            descriptor = descriptor.wrapping_add(step);
            index = index.wrapping_add(1);
        }
    }
}

/// Makes a new table at `level` for the entry that `first..=last` is a part of: what `old`, the entry's block or
/// invalid descriptor at the level above, says, with the change made. Returns its address; the caller links it.
fn build<M: TableMemory>(
    memory: &mut M,
    spares: &mut Spares,
    level: u8,
    old: u64,
    change: &Change,
    first: u64,
    last: u64,
) -> u64 {
    let new = Table { address: spares.take(memory), level, base: entry_base(level - 1, first) };
    let inherited = split(level, old);
    if inherited.0 != 0 {
        fill(memory, new.address, 0..new.index(first), inherited);
    }
    for piece in change.pieces(level, first, last) {
        match piece {
            Piece::Whole { input, count } => {
                let from = new.index(input);
                fill(memory, new.address, from..from + count, change.descriptor(level, input));
            }
            Piece::Part { first, last } => {
                let index = new.index(first);
                let old = nth(inherited, index);
                let below = build(memory, spares, level + 1, old, change, first, last);
                memory.write(new.address, index, table(below));
            }
        }
    }
    if inherited.0 != 0 {
        let rest = new.index(last) + 1;
        fill(memory, new.address, rest..ENTRIES, (nth(inherited, rest), inherited.1));
    }
    new.address
}

/// The descriptors at `level` that together say what `old`, a block or invalid descriptor at the level above, says: the
/// first one, and what to add for each next one.
fn split(level: u8, old: u64) -> (u64, u64) {
    if old & VALID == 0 { (0, 0) } else { (leaf(level, old & ADDRESS, old & !ADDRESS), entry_size(level)) }
}

fn nth((first, step): (u64, u64), index: usize) -> u64 {
    first.wrapping_add(step * index as u64)
}

/// Gives back a table at `level` that has been unlinked, and all tables below it.
#[cold]
fn free_tree<M: TableMemory>(memory: &mut M, level: u8, address: u64) {
    if level < LAST_LEVEL {
        for index in 0..ENTRIES {
            let descriptor = memory.read(address, index);
            if is_table(level, descriptor) {
                free_tree(memory, level + 1, descriptor & ADDRESS);
            }
        }
    }
    memory.free(address);
}
