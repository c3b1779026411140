//! Stage 1 of EL2: what Exeunt itself may do where. 48-bit virtual addresses, TTBR0_EL2, HCR_EL2.E2H = 0.
//!
//! Owns the attributes of stage-1 blocks and pages (Arm ARM D8, "Translation table descriptor formats", stage 1). Which
//! of Exeunt's sections lies where is the EL2 binary's business. Memory that is not mapped faults: holes serve as guard
//! pages.

use core::ops::Range;

use super::descriptor::{ADDRESS, LAST_LEVEL, leaf};
use super::engine::Tables;
use super::registers::{MAIR_INDEX_DEVICE, MAIR_INDEX_NORMAL, PaRange, stage1_start_level, tcr_el2, ttbr0_el2};
use super::{Error, Mapping, TableMemory};

/// VA size in bits.
pub const VA_BITS: u32 = 48;

/// Below this address everything can be mapped where it is (VA = PA). The half above is for what has addresses of its
/// own: the CPUs' stacks, and the windows through which Exeunt looks at the host's RAM.
pub const IDENTITY_END: u64 = 1 << (VA_BITS - 1);

/// AttrIndx, bits 4:2: index into MAIR_EL2.
const ATTR_INDEX_SHIFT: u32 = 2;
/// AP\[1\], bit 6: RES1 in a regime that has one exception level only.
const AP1_RES1: u64 = 1 << 6;
/// AP\[2\], bit 7: read-only.
const AP2_READ_ONLY: u64 = 1 << 7;
/// SH, bits 9:8 = 0b11: Inner Shareable. Device memory is Outer Shareable whatever it says.
const SH_INNER: u64 = 0b11 << 8;
/// AF, bit 10: accessed. Clear, the first access would fault.
const AF: u64 = 1 << 10;
/// XN, bit 54: execute-never.
const XN: u64 = 1 << 54;

const NORMAL: u64 = AF | AP1_RES1 | SH_INNER | MAIR_INDEX_NORMAL << ATTR_INDEX_SHIFT;
const DEVICE: u64 = AF | AP1_RES1 | MAIR_INDEX_DEVICE << ATTR_INDEX_SHIFT;

/// What Exeunt may do with a page of its own. Nothing can be both writable and executable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attributes {
    /// Instructions: Normal memory, read-only, executable.
    Text,
    /// Constants: Normal memory, read-only, execute-never.
    Rodata,
    /// Everything that changes: Normal memory, read and write, execute-never.
    Data,
    /// Device registers: Device-nGnRE, read and write, execute-never.
    Device,
}

impl Attributes {
    const fn encode(self) -> u64 {
        match self {
            Self::Text => NORMAL | AP2_READ_ONLY,
            Self::Rodata => NORMAL | AP2_READ_ONLY | XN,
            Self::Data => NORMAL | XN,
            Self::Device => DEVICE | XN,
        }
    }

    /// Only for descriptors that `encode` made.
    const fn decode(descriptor: u64) -> Self {
        if descriptor & XN == 0 {
            Self::Text
        } else if descriptor & AP2_READ_ONLY != 0 {
            Self::Rodata
        } else if descriptor & SH_INNER != 0 {
            Self::Data
        } else {
            Self::Device
        }
    }
}

/// The descriptor of a page with the output address of the page that `pa` lies in, for [`Stage1::page_slot`].
#[must_use]
pub const fn page(pa: u64, attributes: Attributes) -> u64 {
    leaf(LAST_LEVEL, pa & ADDRESS, attributes.encode())
}

/// EL2's stage 1. Everything is unmapped to begin with.
///
/// Each call takes the memory that the tables live in; what `map` and `unmap` guarantee, and what a caller owes while
/// CPUs walk the tables, is in the text of the module above.
#[derive(Debug)]
pub struct Stage1 {
    tables: Tables,
    output: PaRange,
}

impl Stage1 {
    /// Makes an empty stage 1 for a CPU with `pa_range`; with CPUs of several kinds, the smallest of their ranges.
    ///
    /// # Errors
    /// [`Error::OutOfTables`] or [`Error::TableAddress`] if the memory has no place for the initial table.
    pub fn new<M: TableMemory>(memory: &mut M, pa_range: PaRange) -> Result<Self, Error> {
        let tables = Tables::new(memory, stage1_start_level(VA_BITS), VA_BITS, pa_range.bits())?;
        Ok(Self { tables, output: pa_range })
    }

    /// Maps the virtual addresses `va` to the equally many physical addresses from `pa` on, whatever was there before.
    /// Blocks are only possible where both have the same alignment.
    ///
    /// # Errors
    /// Each [`Error`] but `IpaSize`; nothing has changed then.
    pub fn map<M: TableMemory>(
        &mut self,
        memory: &mut M,
        va: Range<u64>,
        pa: u64,
        attributes: Attributes,
    ) -> Result<(), Error> {
        self.tables.map(memory, va, pa, attributes.encode())
    }

    /// [`Stage1::map`] with the same virtual and physical addresses.
    ///
    /// # Errors
    /// As for [`Stage1::map`].
    pub fn map_identity<M: TableMemory>(
        &mut self,
        memory: &mut M,
        range: Range<u64>,
        attributes: Attributes,
    ) -> Result<(), Error> {
        let start = range.start;
        self.map(memory, range, start, attributes)
    }

    /// Makes `va` a hole, whatever was there before.
    ///
    /// # Errors
    /// As for [`Stage1::map`]: a block that is only partly in `va` needs a table.
    pub fn unmap<M: TableMemory>(&mut self, memory: &mut M, va: Range<u64>) -> Result<(), Error> {
        self.tables.unmap(memory, va)
    }

    /// Looks `va` up as a table walk would.
    #[must_use]
    pub fn query<M: TableMemory>(&self, memory: &M, va: u64) -> Option<Mapping<Attributes>> {
        let (level, output, attributes) = self.tables.query(memory, va)?;
        Some(Mapping { output, level, attributes: Attributes::decode(attributes) })
    }

    /// Where the descriptor of the page at `va` stands, table and index, if there is a table of pages for it. Who owns
    /// that page alone may change it between 0 and [`page`], without the [`Stage1`].
    #[must_use]
    pub fn page_slot<M: TableMemory>(&self, memory: &M, va: u64) -> Option<(u64, usize)> {
        self.tables.page_slot(memory, va)
    }

    /// TCR_EL2.
    #[must_use]
    pub fn tcr_el2(&self) -> u64 {
        tcr_el2(VA_BITS, self.output)
    }

    /// TTBR0_EL2.
    #[must_use]
    pub fn ttbr0_el2(&self) -> u64 {
        ttbr0_el2(self.tables.root())
    }
}
