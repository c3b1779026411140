//! The black box as it is at a moment.
//!
//! Owns the reading through the mirror. Each doubleword is an exit to EL2, so only what is wanted is read: the rest of
//! the copy is zeros, which a reader of the box takes for nothing.

use std::mem::offset_of;
use std::ops::Range;

use guest_abi::RESERVATION;
use guest_abi::blackbox::{
    BlackBox, CORE, CpuBlock, DEATH, Death, Header, LIVE, LOG, LOG_POSITION, LOG_SIZE, PREVIOUS, REGISTER_COUNTS,
    REGISTER_KEYS, REGISTERS, SIZE,
};
use guest_abi::doorbell::{BOX_SIZE, BOX_START, MIRROR};

use crate::page::Page;
use crate::trouble::Trouble;

/// What of the box is wanted beside the state of the machine and of its CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a part with a name")]
pub struct Wanted {
    /// The counters of the registers.
    pub registers: bool,
    /// The log.
    pub log: bool,
    /// What the last start has left.
    pub previous: bool,
    /// Everything, the traces too.
    pub all: bool,
}

/// So much of a CPU's block is read: all that comes before the registers of its last stop.
const CPU_COUNTERS: usize = offset_of!(CpuBlock, stop_time);

/// A copy.
#[derive(Debug)]
pub struct Snapshot {
    bytes: Vec<u8>,
    start: u64,
    /// Where the log's end was when all had been read: what was written over meanwhile is wrong.
    log_end_after: u64,
}

/// Where the bytes of the box come from.
pub trait Source {
    /// Bytes of the box.
    fn size(&self) -> usize;

    /// Address of its first byte.
    fn start(&self) -> u64;

    /// Reads of the box what is in `range`, whole doublewords, to the same place in `bytes`.
    ///
    /// # Errors
    /// In words.
    fn load(&self, bytes: &mut [u8], range: Range<usize>) -> Result<(), Trouble>;
}

/// The mirror in Exeunt's 2 MiB.
pub struct Mirror<'a> {
    page: &'a dyn Page,
    size: usize,
    start: u64,
}

impl<'a> Mirror<'a> {
    /// The one that the doorbell tells of. Nothing if the box is so large that the mirror reaches into it: the host has
    /// memory there.
    ///
    /// # Errors
    /// As the page, and when what it tells cannot be.
    pub fn new(page: &'a dyn Page) -> Result<Option<Self>, Trouble> {
        let (size, start) = (page.load(BOX_SIZE)?, page.load(BOX_START)?);
        let unit = SIZE as u64;
        if size == 0 || size > RESERVATION - MIRROR || !size.is_multiple_of(unit) || !start.is_multiple_of(unit) {
            return Err(Trouble::BoxPlace(start, size));
        }
        Ok((MIRROR + size <= RESERVATION - size).then_some(Self { page, size: size as usize, start }))
    }
}

impl Source for Mirror<'_> {
    fn size(&self) -> usize {
        self.size
    }

    fn start(&self) -> u64 {
        self.start
    }

    fn load(&self, bytes: &mut [u8], range: Range<usize>) -> Result<(), Trouble> {
        for offset in range.step_by(8) {
            let Some(place) = bytes.get_mut(offset..offset + 8) else { break };
            place.copy_from_slice(&self.page.load(MIRROR + offset as u64)?.to_le_bytes());
        }
        Ok(())
    }
}

impl Snapshot {
    /// Reads it.
    ///
    /// # Errors
    /// As the source, and when the box is damaged.
    pub fn take(source: &dyn Source, wanted: Wanted) -> Result<Self, Trouble> {
        let (size, start) = (source.size(), source.start());
        let mut bytes = vec![0; size];
        let core = size - SIZE;
        if wanted.all {
            source.load(&mut bytes, 0..size)?;
        } else {
            source.load(&mut bytes, core..core + DEATH + Death::SIZE)?;
            let header = Header::read(&bytes[core..])?;
            if wanted.registers {
                source.load(&mut bytes, core + REGISTER_KEYS..core + REGISTER_COUNTS + 4 * REGISTERS)?;
            }
            if wanted.log {
                source.load(&mut bytes, core + LOG..core + LOG + LOG_SIZE)?;
            }
            if wanted.previous {
                source.load(&mut bytes, core + PREVIOUS..core + PREVIOUS + CORE)?;
            }
            // The header says that they lie inside; `start` has not been compared yet.
            let blocks = header.cpu_blocks.wrapping_sub(start) as usize;
            for cpu in 0..usize::from(header.cpus) {
                let block = blocks.saturating_add(cpu * header.cpu_size as usize) & !7;
                source.load(&mut bytes, block..block.saturating_add(CPU_COUNTERS))?;
            }
        }
        let mut after = bytes.clone();
        source.load(&mut after, core + LIVE..core + LIVE + 8)?;
        let live = core + LIVE;
        let log_end_after = u64::from_le_bytes(after[live..live + 8].try_into().unwrap_or_default());
        Self::of(bytes, start, log_end_after & LOG_POSITION)
    }

    /// Of bytes that are there already.
    ///
    /// # Errors
    /// When the box is damaged.
    pub fn of(bytes: Vec<u8>, start: u64, log_end_after: u64) -> Result<Self, Trouble> {
        BlackBox::new(&bytes, start)?;
        Ok(Self { bytes, start, log_end_after })
    }

    /// The reader of it.
    ///
    /// # Errors
    /// None: [`Snapshot::of`] has looked.
    pub fn view(&self) -> Result<BlackBox<'_>, Trouble> {
        Ok(BlackBox::new(&self.bytes, self.start)?)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The log, and how many bytes before it are lost.
    ///
    /// # Errors
    /// As [`Snapshot::view`].
    pub fn log(&self) -> Result<(String, u64), Trouble> {
        let view = self.view()?;
        let (pieces, lost) = view.core().log();
        let text = pieces.concat();
        let oldest = self.log_end_after.saturating_sub(LOG_SIZE as u64);
        let overwritten = oldest.saturating_sub(lost).min(text.len() as u64);
        let (text, lost) = (&text[overwritten as usize..], lost + overwritten);
        // The first line is whole only if nothing before it is lost.
        let whole = match text.iter().position(|&byte| byte == b'\n') {
            Some(end) if lost > 0 => &text[end + 1..],
            _ => text,
        };
        let lost = lost + (text.len() - whole.len()) as u64;
        Ok((String::from_utf8_lossy(whole).replace('\0', ""), lost))
    }

    /// All CPUs.
    ///
    /// # Errors
    /// As [`Snapshot::view`].
    pub fn cpus(&self) -> Result<Vec<CpuBlock>, Trouble> {
        let view = self.view()?;
        Ok((0..view.core().header().cpus).filter_map(|cpu| view.cpu(cpu)).collect())
    }
}
