//! Stage 2: the host's intermediate physical addresses (IPA), mapped one to one onto physical addresses.
//!
//! Owns which IPA sizes are possible, how the initial lookup level is chosen, the attributes of stage-2 blocks and
//! pages (Arm ARM D8, "Translation table descriptor formats", stage 2), and the root: a LEAVE hides all that hangs
//! below it, and shows it again. Knows nothing of what lies where: the caller says what is RAM and what is a hole.
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

/// MemAttr, bits 5:2 = 0b1111: Normal, Outer and Inner Write-Back Cacheable. Leaves stage 1's choice as it is, whatever
/// that is: of the two stages' types the stricter counts, and none is less strict.
const MEMATTR_NORMAL_WRITE_BACK: u64 = 0xf << 2;
/// S2AP, bits 7:6 = 0b11: reads and writes are permitted.
const S2AP_READ_WRITE: u64 = 0b11 << 6;
/// S2AP = 0b01: reads alone are.
const S2AP_READ_ONLY: u64 = 0b01 << 6;
/// SH, bits 9:8 = 0b11: Inner Shareable. What stage 1 makes Device or Normal Non-cacheable is Outer Shareable whatever
/// it says.
const SH_INNER: u64 = 0b11 << 8;
/// AF, bit 10: accessed. Clear, the first access would fault.
const AF: u64 = 1 << 10;
/// XN, bit 54: execute-never at EL1 and EL0. Bit 53 is zero, so that FEAT_XNX does not change the meaning.
const XN: u64 = 1 << 54;

/// What stage 2 has all blocks and pages say, besides S2AP and XN.
const ALL: u64 = AF | SH_INNER | MEMATTR_NORMAL_WRITE_BACK;

/// What the host may do at an IPA. It may always read, and its stage 1 decides what type of memory it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attributes {
    /// Write and execute, too.
    Executable,
    /// Write, and not execute until [`Stage2::allow_execution`]: no CPU fetches instructions from there by speculation.
    ExecuteNever,
    /// Nothing else, ever.
    ReadOnly,
}

impl Attributes {
    const fn encode(self) -> u64 {
        match self {
            Self::Executable => ALL | S2AP_READ_WRITE,
            Self::ExecuteNever => ALL | S2AP_READ_WRITE | XN,
            Self::ReadOnly => ALL | S2AP_READ_ONLY | XN,
        }
    }

    /// Only for descriptors that `encode` made.
    const fn decode(descriptor: u64) -> Self {
        match (descriptor & S2AP_READ_WRITE, descriptor & XN) {
            (S2AP_READ_ONLY, _) => Self::ReadOnly,
            (_, 0) => Self::Executable,
            _ => Self::ExecuteNever,
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

    /// Whether a CPU with this range can walk it, which another CPU was asked about at [`Layout::new`].
    #[must_use]
    pub const fn fits(self, pa_range: PaRange) -> bool {
        self.ipa_bits <= pa_range.bits()
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
/// CPUs walk the tables, is in the text of the module above. The other calls change single descriptors of tables that
/// are complete, by one store each, and need no lock. One CPU at a time hides and shows, unless another has taken it
/// for dead; what then is left hidden by both at once is shown by whoever faults there ([`Hidden::Now`]). Any may allow
/// execution meanwhile. What is allowed in the moment in which the root is hidden can be lost; the host's next fetch
/// asks again.
#[derive(Clone, Copy, Debug)]
pub struct Stage2 {
    tables: Tables,
    layout: Layout,
}

/// What a translation fault has to do with [`Stage2::hide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// Nothing: there is no memory.
    Never,
    /// It came from a moment at which that was in force. What the root lacked then, it has now.
    Before,
    /// It still is.
    Now,
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

    /// Makes one that maps all there is with `attributes`.
    ///
    /// # Errors
    /// As for [`Stage2::new`]; an initial lookup level of 0 needs more tables.
    pub fn all<M: TableMemory>(memory: &mut M, layout: Layout, attributes: Attributes) -> Result<Self, Error> {
        let mut stage2 = Self::new(memory, layout)?;
        stage2.tables.map_all(memory, attributes.encode())?;
        Ok(stage2)
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

    /// The block or page that translates `ipa`, also while it is hidden, and what it says; nothing past the last
    /// address that it translates, and in a hole.
    #[must_use]
    pub fn leaf<M: TableMemory>(&self, memory: &M, ipa: u64) -> Option<(Range<u64>, Attributes)> {
        if ipa >> self.layout.ipa_bits() != 0 {
            return None;
        }
        let (range, attributes) = self.tables.decided(memory, ipa);
        Some((range, Attributes::decode(attributes?)))
    }

    /// The range around `ipa` in which it says the same, also while it is hidden, and what that is; nothing past the
    /// last address that it translates.
    #[must_use]
    pub fn range<M: TableMemory>(&self, memory: &M, ipa: u64) -> Option<(Range<u64>, Option<Attributes>)> {
        let end = 1 << self.layout.ipa_bits();
        if ipa >= end {
            return None;
        }
        let decided = |ipa| {
            let (range, attributes) = self.tables.decided(memory, ipa);
            (range, attributes.map(Attributes::decode))
        };
        let (mut range, attributes) = decided(ipa);
        while range.end < end {
            match decided(range.end) {
                (next, same) if same == attributes => range.end = next.end,
                _ => break,
            }
        }
        while range.start > 0 {
            match decided(range.start - 1) {
                (before, same) if same == attributes => range.start = before.start,
                _ => break,
            }
        }
        Some((range, attributes))
    }

    /// Takes the valid bit from every entry of the root that has anything, so that all walks end there. The caller
    /// invalidates the TLB.
    pub fn hide<M: TableMemory>(&self, memory: &mut M) {
        self.tables.set_root_valid(memory, false);
    }

    /// Gives it back. What was not there is in no TLB.
    pub fn show<M: TableMemory>(&self, memory: &mut M) {
        self.tables.set_root_valid(memory, true);
    }

    /// Whether a translation fault at `level` for `ipa` came from [`Stage2::hide`].
    #[must_use]
    pub fn hidden<M: TableMemory>(&self, memory: &M, level: i8, ipa: u64) -> Hidden {
        let at_root = i16::from(level) == i16::from(self.layout.start_level());
        match self.tables.root_entry(memory, ipa).filter(|_| at_root) {
            None => Hidden::Never,
            Some(true) => Hidden::Before,
            Some(false) => Hidden::Now,
        }
    }

    /// Lets the host execute at `ipa`, and in all of the block or page that translates it. Says whether anything
    /// changed; then the caller invalidates the TLB. Nothing does where the host has no memory, or has none at the
    /// moment. Not to be asked for what is [`Attributes::ReadOnly`].
    pub fn allow_execution<M: TableMemory>(&self, memory: &mut M, ipa: u64) -> bool {
        self.tables.clear_in_leaf(memory, ipa, XN)
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
