//! Stage 2: the host's intermediate physical addresses (IPA), mapped one to one onto physical addresses.
//!
//! Owns which IPA sizes are possible, how the initial lookup level is chosen, and the attributes of stage-2 blocks and
//! pages (Arm ARM D8, "Translation table descriptor formats", stage 2). Knows nothing of what lies where: the caller
//! says what is RAM, what is a device and what is a hole.
//!
//! The attributes count as written here only while HCR_EL2.FWB is 0 (FEAT_S2FWB gives MemAttr another meaning) and
//! VTCR_EL2 is the one of the [`Layout`].

use core::ops::Range;

use super::descriptor::entry_shift;
use super::engine::{Tables, root_pages};
use super::registers::{PaRange, vtcr_el2, vttbr_el2};
use super::{Error, Mapping, TableMemory};

/// Smallest IPA size that is offered, in bits: the smallest physical address range of any CPU.
pub const MIN_IPA_BITS: u32 = 32;

/// Largest IPA size of the 4 KiB granule without FEAT_LPA2, in bits.
pub const MAX_IPA_BITS: u32 = 48;

/// The largest IPA size for which the walk can begin at level 1: 16 concatenated tables of 512 GiB each.
const MAX_LEVEL_1_BITS: u32 = entry_shift(0) + 4;

/// MemAttr, bits 5:2 = 0b1111: Normal, Outer and Inner Write-Back Cacheable. Leaves stage 1's choice as it is.
const MEMATTR_NORMAL_WRITE_BACK: u64 = 0xf << 2;
/// MemAttr, bits 5:2 = 0b0001: Device-nGnRE. Stage 1 may still choose Device-nGnRnE.
const MEMATTR_DEVICE_NGNRE: u64 = 0x1 << 2;
/// MemAttr, bits 5:2.
const MEMATTR: u64 = 0xf << 2;
/// S2AP, bit 6: reads are permitted.
const S2AP_READ: u64 = 1 << 6;
/// S2AP, bit 7: writes are permitted.
const S2AP_WRITE: u64 = 1 << 7;
/// SH, bits 9:8 = 0b11: Inner Shareable. Device memory is Outer Shareable whatever it says.
const SH_INNER: u64 = 0b11 << 8;
/// AF, bit 10: accessed. Clear, the first access would fault.
const AF: u64 = 1 << 10;
/// XN, bit 54: execute-never at EL1 and EL0. Bit 53 is zero, so that FEAT_XNX does not change the meaning.
const XN: u64 = 1 << 54;

/// The two memory types.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Memory {
    Normal,
    Device,
}

/// What kind of memory an IPA is, and what the host may do with it.
///
/// There are two to begin with, [`Attributes::NORMAL`] and [`Attributes::DEVICE`]; from them permissions can only be
/// taken away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attributes {
    memory: Memory,
    read: bool,
    write: bool,
    execute: bool,
}

impl Attributes {
    /// RAM: Normal Write-Back, Inner Shareable; read, write, execute.
    pub const NORMAL: Self = Self { memory: Memory::Normal, read: true, write: true, execute: true };

    /// Everything that is not RAM: Device-nGnRE; read and write, never execute.
    pub const DEVICE: Self = Self { memory: Memory::Device, read: true, write: true, execute: false };

    /// The same without permission to write.
    #[must_use]
    pub const fn read_only(self) -> Self {
        Self { write: false, ..self }
    }

    /// The same without permission to execute.
    #[must_use]
    pub const fn execute_never(self) -> Self {
        Self { execute: false, ..self }
    }

    /// The same without permission to read or to execute; writes stay as they are.
    #[must_use]
    pub const fn unreadable(self) -> Self {
        Self { read: false, execute: false, ..self }
    }

    /// Whether this is device memory.
    #[must_use]
    pub const fn is_device(self) -> bool {
        matches!(self.memory, Memory::Device)
    }

    /// Whether the host may read.
    #[must_use]
    pub const fn is_readable(self) -> bool {
        self.read
    }

    /// Whether the host may write.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.write
    }

    /// Whether the host may execute.
    #[must_use]
    pub const fn is_executable(self) -> bool {
        self.execute
    }

    const fn encode(self) -> u64 {
        let memory = match self.memory {
            Memory::Normal => MEMATTR_NORMAL_WRITE_BACK | SH_INNER,
            Memory::Device => MEMATTR_DEVICE_NGNRE,
        };
        let read = if self.read { S2AP_READ } else { 0 };
        let write = if self.write { S2AP_WRITE } else { 0 };
        let execute = if self.execute { 0 } else { XN };
        AF | memory | read | write | execute
    }

    const fn decode(descriptor: u64) -> Self {
        Self {
            memory: if descriptor & MEMATTR == MEMATTR_DEVICE_NGNRE { Memory::Device } else { Memory::Normal },
            read: descriptor & S2AP_READ != 0,
            write: descriptor & S2AP_WRITE != 0,
            execute: descriptor & XN == 0,
        }
    }
}

/// The shape of a stage 2 that a CPU can walk: IPA size and initial lookup level.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layout {
    ipa_bits: u32,
    /// The smallest output size that covers the IPA size: stage 2 is identity, and so nothing larger is needed.
    output: PaRange,
}

impl Layout {
    /// The shape for `ipa_bits` on a CPU with `pa_range`; with CPUs of several kinds, the smallest of their ranges.
    ///
    /// # Errors
    /// [`Error::IpaSize`] if `ipa_bits` is below [`MIN_IPA_BITS`], above [`MAX_IPA_BITS`] or above `pa_range`, to which
    /// the architecture limits it (VTCR_EL2.T0SZ; pseudocode AArch64.S2MinTxSZ).
    pub const fn new(ipa_bits: u32, pa_range: PaRange) -> Result<Self, Error> {
        if ipa_bits < MIN_IPA_BITS || ipa_bits > pa_range.bits() {
            return Err(Error::IpaSize { bits: ipa_bits });
        }
        match PaRange::covering(ipa_bits) {
            Some(output) => Ok(Self { ipa_bits, output }),
            None => Err(Error::IpaSize { bits: ipa_bits }),
        }
    }

    /// IPA size in bits.
    #[must_use]
    pub const fn ipa_bits(self) -> u32 {
        self.ipa_bits
    }

    /// The initial lookup level: 1 up to 43 bits, with up to 16 concatenated tables, and 0 above.
    ///
    /// Level 0 is invalid on CPUs with less than 44 bits of physical address (VTCR_EL2.SL0; pseudocode
    /// AArch64.S2InvalidSL), and every CPU that can have an IPA size of 44 bits has them. Level 1 saves a memory access
    /// in each walk.
    #[must_use]
    pub const fn start_level(self) -> u8 {
        if self.ipa_bits <= MAX_LEVEL_1_BITS { 1 } else { 0 }
    }

    /// Number of contiguous 4 KiB tables at the initial lookup level, 1 to 16. They are aligned to their total size.
    #[must_use]
    pub const fn root_pages(self) -> usize {
        root_pages(self.start_level(), self.ipa_bits)
    }

    /// VTCR_EL2.
    #[must_use]
    pub const fn vtcr_el2(self) -> u64 {
        vtcr_el2(self.ipa_bits, self.start_level(), self.output)
    }
}

/// An identity stage 2. Everything is unmapped to begin with.
///
/// Each call takes the memory that the tables live in; what `map` and `unmap` guarantee, and what a caller owes while
/// CPUs walk the tables, is in the text of the module above.
#[derive(Debug)]
pub struct Stage2 {
    tables: Tables,
    layout: Layout,
}

impl Stage2 {
    /// Makes an empty stage 2.
    ///
    /// # Errors
    /// [`Error::OutOfTables`] or [`Error::TableAddress`] if the memory has no place for the initial tables.
    pub fn new<M: TableMemory>(memory: &mut M, layout: Layout) -> Result<Self, Error> {
        let tables = Tables::new(memory, layout.start_level(), layout.ipa_bits, layout.output.bits())?;
        Ok(Self { tables, layout })
    }

    /// Maps `range` onto itself with `attributes`, whatever was there before.
    ///
    /// # Errors
    /// Each [`Error`] but `IpaSize` and `OutputSize`; nothing has changed then.
    pub fn map<M: TableMemory>(
        &mut self,
        memory: &mut M,
        range: Range<u64>,
        attributes: Attributes,
    ) -> Result<(), Error> {
        let start = range.start;
        self.tables.map(memory, range, start, attributes.encode())
    }

    /// Makes `range` a hole, whatever was there before.
    ///
    /// # Errors
    /// As for [`Stage2::map`]: a block that is only partly in `range` needs a table.
    pub fn unmap<M: TableMemory>(&mut self, memory: &mut M, range: Range<u64>) -> Result<(), Error> {
        self.tables.unmap(memory, range)
    }

    /// Looks `ipa` up as a table walk would.
    #[must_use]
    pub fn query<M: TableMemory>(&self, memory: &M, ipa: u64) -> Option<Mapping<Attributes>> {
        let (level, output, attributes) = self.tables.query(memory, ipa)?;
        Some(Mapping { output, level, attributes: Attributes::decode(attributes) })
    }

    /// The shape.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// VTCR_EL2.
    #[must_use]
    pub fn vtcr_el2(&self) -> u64 {
        self.layout.vtcr_el2()
    }

    /// VTTBR_EL2, VMID 0: there is one guest.
    #[must_use]
    pub fn vttbr_el2(&self) -> u64 {
        vttbr_el2(self.tables.root(), 0)
    }
}
