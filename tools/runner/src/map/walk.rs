//! A host's stage 2, read from its tables as a CPU would: every address, and what the tables say of it.
//!
//! Owns the layout of the descriptors (Arm ARM D8.3, stage 2, 4 KiB granule, 48-bit addresses), and is written from
//! there: it shares nothing with the code that has made the tables.

use std::collections::BTreeMap;
use std::fmt;

use guest_abi::RESERVATION;

/// log2 of the granule.
const PAGE: u32 = 12;
/// log2 of the descriptors in one table.
const STRIDE: u32 = 9;
/// Bits 47:12 of a descriptor: an address.
const ADDRESS: u64 = 0xffff_ffff_f000;

/// More tables than Exeunt's memory has room for, twice.
const MOST_TABLES: u64 = 2 * (RESERVATION >> PAGE);

/// `value<high:low>`.
const fn bits(value: u64, high: u32, low: u32) -> u64 {
    value << (63 - high) >> (63 - high) >> low
}

/// How the tables are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Size of the host's addresses in bits.
    pub bits: u32,
    /// The level of the first tables.
    pub start: u32,
    /// Where they are.
    pub root: u64,
}

impl Shape {
    /// What VTCR_EL2 and VTTBR_EL2 say.
    ///
    /// # Errors
    /// It is nothing that Exeunt sets up; in words.
    pub fn of_registers(vtcr: u64, vttbr: u64) -> Result<Self, String> {
        if vtcr == 0 && vttbr == 0 {
            return Err("VTCR_EL2 and VTTBR_EL2 are 0: there is no stage 2".to_owned());
        }
        let unusual = |what: &str| Err(format!("VTCR_EL2 is {vtcr:#x}: {what}, which is not Exeunt's doing"));
        if bits(vtcr, 15, 14) != 0 {
            return unusual("another granule than 4 KiB");
        }
        if bits(vtcr, 38, 38) == 1 || bits(vtcr, 32, 32) == 1 {
            return unusual("descriptors of another format");
        }
        let start = match bits(vtcr, 7, 6) {
            0 => 2,
            1 => 1,
            2 => 0,
            _ => 3,
        };
        let size = 64 - bits(vtcr, 5, 0) as u32;
        let below = entry_shift(start);
        // One bit at least, and four more than a table's nine by tables in a row.
        if size <= below || size > below + STRIDE + 4 {
            return unusual("a walk that cannot start where it says");
        }
        let root = bits(vttbr, 47, 1) << 1;
        if !root.is_multiple_of(8 << (size - below)) {
            return Err(format!("VTTBR_EL2 is {vttbr:#x}: the first tables are not aligned"));
        }
        Ok(Self { bits: size, start, root })
    }

    /// How many descriptors the first tables have together.
    const fn first_entries(self) -> usize {
        1 << (self.bits - entry_shift(self.start))
    }

    /// How many tables the walk begins with.
    #[must_use]
    pub const fn first_tables(self) -> usize {
        let entries = self.first_entries();
        if entries > 512 { entries / 512 } else { 1 }
    }
}

/// log2 of the bytes that a descriptor at `level` stands for.
const fn entry_shift(level: u32) -> u32 {
    PAGE + STRIDE * (3 - level)
}

/// What a block or page says of its addresses, as its descriptor has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// All but the address and the bits that tell a page from a block.
    const OF_A_LEAF: u64 = !(ADDRESS | 3);

    /// S2AP\[0\].
    #[must_use]
    pub const fn can_read(self) -> bool {
        bits(self.0, 6, 6) == 1
    }

    /// S2AP\[1\].
    #[must_use]
    pub const fn can_write(self) -> bool {
        bits(self.0, 7, 7) == 1
    }

    /// XN\[1:0\] is 0: EL1 and EL0 may execute. With FEAT_XNX one of them alone may, with other values.
    #[must_use]
    pub const fn can_execute(self) -> bool {
        bits(self.0, 54, 53) == 0
    }

    /// MemAttr, with HCR_EL2.FWB 0: what kind of memory it is.
    #[must_use]
    pub const fn memory(self) -> &'static str {
        match bits(self.0, 5, 2) {
            0b0000..=0b0011 => "Device",
            0b0101 => "Normal Non-cacheable",
            0b1010 => "Normal Write-Through",
            0b1111 => "Normal Write-Back",
            _ => "another type",
        }
    }

    /// AF: clear, the first access faults.
    #[must_use]
    pub const fn is_accessed(self) -> bool {
        bits(self.0, 10, 10) == 1
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |is: bool, letter: char| if is { letter } else { '-' };
        write!(
            f,
            "{}{}{}",
            letter(self.can_read(), 'r'),
            letter(self.can_write(), 'w'),
            letter(self.can_execute(), 'x')
        )
    }
}

/// Addresses in a row of which the tables say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first.
    pub start: u64,
    /// The one after the last.
    pub end: u64,
    /// What they say; nothing where the host has no memory.
    pub attributes: Option<Attributes>,
    /// Physical address minus IPA, wrapping: 0 where stage 2 is identity.
    pub offset: u64,
    /// Sizes of the blocks and pages that it is made of, and how many of each. Of holes: of the descriptors.
    pub blocks: BTreeMap<u64, u64>,
}

impl Piece {
    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end - self.start
    }
}

/// What gives so many descriptors from a physical address on.
type Read<'a> = &'a mut dyn FnMut(u64, usize) -> Result<Vec<u64>, String>;

/// Reads all.
///
/// # Errors
/// Those of `read`, and when there are more tables than Exeunt has memory.
pub fn walk(shape: Shape, read: Read<'_>) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut tables) = (Vec::new(), 0);
    let read = &mut |table: u64, entries: usize| {
        tables += 1;
        if tables > MOST_TABLES {
            return Err(format!("there are more than {MOST_TABLES} tables: one of them leads back to itself"));
        }
        read(table, entries)
    };
    descend(shape.root, shape.first_entries(), shape.start, 0, read, &mut pieces)?;
    Ok(pieces)
}

fn descend(
    table: u64,
    entries: usize,
    level: u32,
    first: u64,
    read: Read<'_>,
    pieces: &mut Vec<Piece>,
) -> Result<(), String> {
    let size = 1_u64 << entry_shift(level);
    for (index, descriptor) in (0_u64..).zip(read(table, entries)?) {
        let start = first + index * size;
        let is_valid = descriptor & 1 != 0;
        let has_bit_1 = descriptor & 2 != 0;
        if is_valid && has_bit_1 && level < 3 {
            descend(descriptor & ADDRESS, 1 << STRIDE, level + 1, start, read, pieces)?;
            continue;
        }
        // A block at level 0, and a page without bit 1, are reserved: they translate nothing.
        let is_leaf = is_valid && (if level == 3 { has_bit_1 } else { level > 0 });
        let output = descriptor & ADDRESS & !(size - 1);
        let found = Piece {
            start,
            end: start + size,
            attributes: is_leaf.then_some(Attributes(descriptor & Attributes::OF_A_LEAF)),
            offset: if is_leaf { output.wrapping_sub(start) } else { 0 },
            blocks: BTreeMap::from([(size, 1)]),
        };
        match pieces.last_mut() {
            Some(last) if (last.end, last.attributes, last.offset) == (start, found.attributes, found.offset) => {
                last.end = found.end;
                *last.blocks.entry(size).or_default() += 1;
            }
            _ => pieces.push(found),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hypervisor::paging::TableMemory;
    use hypervisor::paging::registers::PaRange;
    use hypervisor::paging::stage2::{Attributes as Made, Layout, Stage2};

    use super::*;

    /// Tables in a vector, from [`BASE`] on.
    struct Memory(Vec<u64>);

    const BASE: u64 = 0x4030_0000;

    impl Memory {
        fn place(table: u64, index: usize) -> usize {
            ((table - BASE) / 8) as usize + index
        }

        fn pieces(&self, stage2: &Stage2) -> Vec<Piece> {
            let shape = Shape::of_registers(stage2.vtcr_el2(), stage2.vttbr_el2()).unwrap();
            let read = &mut |table: u64, entries: usize| {
                let place = Self::place(table, 0);
                Ok(self.0[place..place + entries].to_vec())
            };
            walk(shape, read).unwrap()
        }
    }

    impl TableMemory for Memory {
        fn alloc(&mut self, pages: usize) -> Option<u64> {
            let align = pages * 512;
            let place = self.0.len().next_multiple_of(align);
            self.0.resize(place + align, 0);
            Some(BASE + 8 * place as u64)
        }

        fn read(&self, table: u64, index: usize) -> u64 {
            self.0[Self::place(table, index)]
        }

        fn write(&mut self, table: u64, index: usize, descriptor: u64) {
            self.0[Self::place(table, index)] = descriptor;
        }
    }

    fn shown(pieces: &[Piece]) -> Vec<(u64, u64, String)> {
        let what = |piece: &Piece| piece.attributes.map_or("hole".to_owned(), |attributes| attributes.to_string());
        pieces.iter().map(|piece| (piece.start, piece.end, what(piece))).collect()
    }

    /// Of every size of address that Exeunt may choose: what it makes is what is read, to the byte.
    #[test]
    fn what_exeunt_makes_is_what_is_read() {
        for size in 32..=48 {
            let mut memory = Memory(Vec::new());
            let layout = Layout::new(size, PaRange::from_id_aa64mmfr0(5)).unwrap();
            let mut stage2 = Stage2::all(&mut memory, layout, Made::ExecuteNever).unwrap();
            stage2.map(&mut memory, 0x4000_0000..0x8000_0000, Made::Executable).unwrap();
            stage2.unmap(&mut memory, 0x4020_0000..0x4040_0000).unwrap();
            stage2.unmap(&mut memory, 0x5000_3000..0x5000_4000).unwrap();
            let text = |words: &str| words.to_owned();
            assert_eq!(
                shown(&memory.pieces(&stage2)),
                [
                    (0, 0x4000_0000, text("rw-")),
                    (0x4000_0000, 0x4020_0000, text("rwx")),
                    (0x4020_0000, 0x4040_0000, text("hole")),
                    (0x4040_0000, 0x5000_3000, text("rwx")),
                    (0x5000_3000, 0x5000_4000, text("hole")),
                    (0x5000_4000, 0x8000_0000, text("rwx")),
                    (0x8000_0000, 1 << size, text("rw-")),
                ],
                "{size} bits"
            );
        }
    }

    #[test]
    fn blocks_are_counted_and_outputs_compared() {
        let mut memory = Memory(Vec::new());
        let layout = Layout::new(40, PaRange::from_id_aa64mmfr0(2)).unwrap();
        let mut stage2 = Stage2::all(&mut memory, layout, Made::ExecuteNever).unwrap();
        stage2.unmap(&mut memory, 0x4020_1000..0x4040_0000).unwrap();
        let pieces = memory.pieces(&stage2);
        assert_eq!(pieces[0].blocks, BTreeMap::from([(1 << 30, 1), (2 << 20, 1), (4096, 1)]));
        assert!(pieces.iter().all(|piece| piece.offset == 0));
        assert_eq!(pieces[1].size(), 0x1f_f000);
        // One entry now leads elsewhere.
        let root = Memory::place(stage2.vttbr_el2(), 2);
        memory.0[root] = memory.0[root] & !ADDRESS | 0x1_4000_0000;
        let pieces = memory.pieces(&stage2);
        let moved = pieces.iter().find(|piece| piece.start == 0x8000_0000).unwrap();
        assert_eq!((moved.end, moved.offset), (0xc000_0000, 0xc000_0000));
    }

    #[test]
    fn reserved_descriptors_translate_nothing() {
        // A block at level 0, and level 3 without bit 1.
        let level_0 = Shape { bits: 44, start: 0, root: 0 };
        let pieces = walk(level_0, &mut |_, entries| Ok(vec![0x7fd; entries])).unwrap();
        assert_eq!(shown(&pieces), [(0, 1 << 44, "hole".to_owned())]);
        let level_3 = Shape { bits: 20, start: 3, root: 0 };
        let pieces = walk(level_3, &mut |_, entries| Ok(vec![0x7fd; entries])).unwrap();
        assert_eq!(shown(&pieces), [(0, 1 << 20, "hole".to_owned())]);
    }

    #[test]
    fn a_table_that_leads_to_itself_ends() {
        let shape = Shape { bits: 44, start: 0, root: 0x1000 };
        let error = walk(shape, &mut |_, entries| Ok(vec![0x1003; entries])).unwrap_err();
        assert_eq!(error, "there are more than 1024 tables: one of them leads back to itself");
    }

    #[test]
    fn attributes_are_told() {
        let device = Attributes(0x0040_0000_0000_0445 & Attributes::OF_A_LEAF);
        assert_eq!((device.to_string().as_str(), device.memory()), ("r--", "Device"));
        assert!(device.is_accessed());
        let normal = Attributes(0x3fc);
        assert_eq!((normal.to_string().as_str(), normal.memory()), ("rwx", "Normal Write-Back"));
        assert!(!normal.is_accessed());
    }

    #[test]
    fn registers_that_are_not_exeunts_are_refused() {
        let wrong = |vtcr, vttbr| Shape::of_registers(vtcr, vttbr).unwrap_err();
        assert!(wrong(0, 0).contains("there is no stage 2"));
        assert!(wrong(0x8002_7558, 0x1000).contains("another granule"));
        assert!(wrong(0x1_8002_3558, 0x1000).contains("another format"));
        assert!(wrong(0x8002_3518, 0x1000).contains("cannot start"));
        assert!(wrong(0x8002_3558, 0x1000).contains("not aligned"));
        let shape = Shape::of_registers(0x8002_3558, 0x4026_e000).unwrap();
        assert_eq!((shape, shape.first_tables()), (Shape { bits: 40, start: 1, root: 0x4026_e000 }, 2));
    }
}
