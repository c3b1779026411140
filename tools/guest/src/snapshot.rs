//! The black box as it is at a moment.
//!
//! Owns the reading through the mirror. Each doubleword is an exit to EL2, so only what is wanted is read: the rest of
//! the copy is zeros, which a reader of the box takes for nothing.

use std::ops::Range;

use guest_abi::blackbox::{BlackBox, CORE, CpuBlock, Header, LIVE, LOG, LOG_POSITION, LOG_SIZE, Live, PREVIOUS, SIZE};
use guest_abi::doorbell::{BOX_SIZE, BOX_START, MIRROR};

use crate::page::Page;
use crate::trouble::Trouble;

/// What of the box is wanted beside the state of the machine and of its CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The log.
    pub log: bool,
    /// What the last start has left.
    pub previous: bool,
    /// Everything, the traces too.
    pub all: bool,
}

/// A copy.
#[derive(Debug)]
pub struct Snapshot {
    bytes: Vec<u8>,
    start: u64,
    /// Where the log's end was when all had been read: what was written over meanwhile is wrong.
    log_end_after: u64,
}

/// Between the doorbell's first page and the end of Exeunt's memory, the mirror and the box itself have to have room.
const LARGEST: u64 = (1 << 21) - MIRROR;

/// Size and address of the box, as the doorbell tells them.
///
/// # Errors
/// When that cannot be.
pub fn place(page: &dyn Page) -> Result<(usize, u64), Trouble> {
    let (size, start) = (page.load(BOX_SIZE)?, page.load(BOX_START)?);
    let unit = SIZE as u64;
    if size == 0 || size > LARGEST || !size.is_multiple_of(unit) || !start.is_multiple_of(unit) {
        return Err(Trouble::BoxPlace(start, size));
    }
    Ok((size as usize, start))
}

/// Loads of the box what is in `range`, whole doublewords.
///
/// # Errors
/// As the page.
pub fn load(page: &dyn Page, bytes: &mut [u8], range: Range<usize>) -> Result<(), Trouble> {
    for offset in range.step_by(8) {
        let Some(place) = bytes.get_mut(offset..offset + 8) else { break };
        place.copy_from_slice(&page.load(MIRROR + offset as u64)?.to_le_bytes());
    }
    Ok(())
}

impl Snapshot {
    /// Reads it through the mirror.
    ///
    /// # Errors
    /// As the page, and when the box is damaged.
    pub fn take(page: &dyn Page, wanted: Wanted) -> Result<Self, Trouble> {
        let (size, start) = place(page)?;
        let mut bytes = vec![0; size];
        let core = size - SIZE;
        if wanted.all {
            load(page, &mut bytes, 0..size)?;
        } else {
            load(page, &mut bytes, core..core + LOG)?;
            let header = Header::read(&bytes[core..])?;
            if wanted.log {
                load(page, &mut bytes, core + LOG..core + LOG + LOG_SIZE)?;
            }
            if wanted.previous {
                load(page, &mut bytes, core + PREVIOUS..core + PREVIOUS + CORE)?;
            }
            // The header says that they lie inside; `start` has not been compared yet.
            let blocks = header.cpu_blocks.wrapping_sub(start) as usize & !7;
            let end = blocks.saturating_add(usize::from(header.cpus) * header.cpu_size as usize);
            load(page, &mut bytes, blocks..end.min(size))?;
        }
        let claims = core + LIVE;
        let mut after = vec![0; size.min(claims + 8)];
        load(page, &mut after, claims..claims + 8)?;
        let log_end_after = u64::from_le_bytes(after[claims..claims + 8].try_into().unwrap_or_default());
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

/// What is in [`Live::control`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a bit with a name")]
pub struct Control {
    /// LOCK was called.
    pub locked: bool,
    /// Exeunt stays at a kexec.
    pub kexec_resident: bool,
    /// Exeunt stays at a crash.
    pub crash_resident: bool,
    /// A LEAVE is under way.
    pub leaving: bool,
    /// So many CPUs are outside.
    pub outside: u16,
}

impl Control {
    /// From the box.
    #[must_use]
    pub const fn of(live: &Live) -> Self {
        Self {
            locked: live.control & 1 != 0,
            kexec_resident: live.control >> 1 & 1 != 0,
            crash_resident: live.control >> 2 & 1 != 0,
            leaving: live.control >> 3 & 1 != 0,
            outside: (live.control >> 16) as u16,
        }
    }
}
