//! The guard: the memory of the host's crash kernel, and who may write there.
//!
//! From when a Linux has reserved it, its host may read that memory only, and not execute it. `linux` finds the memory
//! in the kernel's own data, `caller` whether the kernel is loading, and [`Guard`] decides what becomes of a fault.
//!
//! | the fault | what becomes of it |
//! |---|---|
//! | stage 2 allows it by now | tried again |
//! | at EL1, stage 1 is off or has other tables than the kernel's; virtual EL2 | another kernel: the guard is lifted |
//! | the same, an instruction, with stage 1 off | the crash kernel begins, of a host at EL1: lifted |
//! | the kernel is no longer where it was | lifted |
//! | no longer in the memory that the kernel keeps | it has given it back: the guard lets it go |
//! | a write in a system call that loads a kernel | all of the memory is open until that returns |
//! | a write behind the end of a vmcoreinfo | a panic notes its time there: the page is open |
//! | another one on the same CPU after that | Linux before 5.12 copies code there when it panics: the page is open |
//! | all else | a wild write |
//!
//! That a system call returns shows in user space's next instruction: its page is made execute-never meanwhile.
//! Somebody else who executes in that page closes the memory too early, which costs two more faults and no more.
//!
//! Owns no memory and no register: what it reads comes through [`Ram`], and may be anything, since the host writes it.
//! Nothing here panics, and every search ends. DMA is not covered.

pub mod caller;
pub mod linux;
pub mod loaded;
#[cfg(test)]
mod tests;

use core::fmt;

use crate::devicetree::Region;
use crate::paging::stage2::Attributes;
use crate::paging::{Error, PAGE_SIZE};
use linux::CrashKernel;

/// The host's RAM, to read.
pub trait Ram {
    /// The eight bytes at `address`, a multiple of 8; nothing where Exeunt keeps off, or where nothing answers.
    fn word(&self, address: u64) -> Option<u64>;

    /// Where `word` is for the first time in the rest of the 4 KiB page that begins at `start`, a multiple of 16.
    fn position(&self, start: u64, word: u64) -> Option<u64>;

    /// Whether all of `region` is RAM that is the host's alone.
    fn has(&self, region: Region) -> bool;
}

/// The host's memory, its translation, and what its stage 1 says at the moment of the fault.
pub trait World: Ram {
    /// Has stage 2 say this of a region of RAM.
    ///
    /// # Errors
    /// There is no memory for tables. Nothing has changed then.
    fn set(&mut self, region: Region, attributes: Attributes) -> Result<(), Error>;

    /// The block or page of stage 2 that translates `address`, and what it says.
    fn leaf(&self, address: u64) -> Option<(Region, Attributes)>;

    /// Whether the kernel has been called to load another one.
    fn caller(&self) -> Caller;
}

/// Who has called the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody who loads another kernel.
    Loads {
        /// Where user space goes on, as stage 1 has it, if that is known.
        returns_to: Option<u64>,
        /// Where that kernel begins, or what runs before it, if it is known.
        entry: Option<u64>,
    },
    /// Somebody else, or nobody.
    Other,
}

/// What the guard does about wild writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Wild {
    /// The host gets an abort.
    #[default]
    Refuse,
    /// The page is opened.
    Allow,
}

/// A fault of the host's that stage 2 has caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a question of its own about the host")]
pub struct Fault {
    /// The CPU.
    pub cpu: u16,
    /// The address, as stage 1 has it.
    pub address: u64,
    /// An instruction, and not a write.
    pub fetches: bool,
    /// The host is at EL0.
    pub el0: bool,
    /// The host is at EL1 or EL0, not in virtual EL2.
    pub native: bool,
    /// Its stage 1 is on.
    pub stage1: bool,
    /// TTBR1_EL1.
    pub ttbr1: u64,
}

/// What becomes of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The host tries again.
    Again,
    /// The same, and it is the first instruction of the crash kernel, or of what runs before it.
    CrashBegins,
    /// It has nothing to do with the guard.
    Others,
    /// It is a wild access, and not allowed.
    Wild,
}

/// What the guard has done, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// All of the memory is open.
    Opened,
    /// It is so until something else closes it, since nobody can be found who returns from the system call.
    OpenedBlock(Region),
    /// It is closed again.
    Closed,
    /// The host keeps no more than this of a region.
    Shrunk(Region),
    /// The host panics, and writes that down.
    Panics(Region),
    /// A page is open, to which a wild write went.
    Allowed(Region),
    /// The guard is no more, and why.
    Lifted(&'static str),
    /// There are no tables left.
    NoTables(Error),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened => f.write_str("open: a kernel is loaded"),
            Self::OpenedBlock(region) => write!(f, "{region} is open: a kernel is loaded"),
            Self::Closed => f.write_str("closed"),
            Self::Shrunk(region) => write!(f, "no more than {region} is kept"),
            Self::Panics(region) => write!(f, "{region} is open: the host panics"),
            Self::Allowed(region) => write!(f, "it is let through, and {region} is open"),
            Self::Lifted(why) => write!(f, "lifted: {why}"),
            Self::NoTables(error) => write!(f, "lifted: {error}"),
        }
    }
}

impl Note {
    /// Whether it is worth to be known.
    #[must_use]
    pub const fn is_usual(self) -> bool {
        matches!(self, Self::Opened | Self::OpenedBlock(_) | Self::Closed | Self::Shrunk(_) | Self::Panics(_))
    }
}

/// A page at which user space's return is waited for, and the block that it was a part of.
#[derive(Clone, Copy, Debug)]
struct Watch {
    page: Region,
    block: Region,
}

/// So many pages are open at most to a CPU that panics.
const PANIC_PAGES: u8 = 16;

/// The state of the guard.
#[derive(Debug)]
pub struct Guard {
    kernel: Option<CrashKernel>,
    /// What TTBR1_EL1 has of the kernel's tables.
    tables: u64,
    /// What it guards.
    regions: [Option<Region>; 2],
    watch: Option<Watch>,
    /// Where the kernel begins that was loaded last, or what runs before it, if the load said so.
    entry: Option<u64>,
    /// The CPU that panics.
    panics: Option<u16>,
    /// What is left to that of the pages.
    pages: u8,
    wild: Wild,
}

impl Guard {
    /// It guards nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            kernel: None,
            tables: 0,
            regions: [None; 2],
            watch: None,
            entry: None,
            panics: None,
            pages: 0,
            wild: Wild::Refuse,
        }
    }

    /// What becomes of a wild write.
    pub fn set_wild(&mut self, wild: Wild) {
        self.wild = wild;
    }

    /// What it guards.
    #[must_use]
    pub const fn regions(&self) -> [Option<Region>; 2] {
        self.regions
    }

    /// The entry of the crash kernel that was loaded last, in the memory that is guarded, if the load was seen and said
    /// so. That it was unloaded since nobody tells: it is there all the same.
    #[must_use]
    pub fn entry(&self) -> Option<u64> {
        self.entry.filter(|&entry| entry.is_multiple_of(4) && self.guards(entry))
    }

    /// Guards the memory of `kernel`, whose tables are at `ttbr1`. Whatever it has guarded before it no longer does.
    ///
    /// # Errors
    /// There is no memory for tables. It guards nothing then.
    pub fn begin(&mut self, kernel: CrashKernel, ttbr1: u64, world: &mut impl World) -> Result<(), Error> {
        self.lift(world);
        self.kernel = Some(kernel);
        self.tables = ttbr1 & TABLES;
        self.regions = kernel.regions(world).unwrap_or_default();
        let result = self.close(world);
        if result.is_err() {
            self.lift(world);
        }
        result
    }

    /// Guards nothing any more.
    pub fn lift(&mut self, world: &mut impl World) {
        self.end_watch(world);
        for region in self.regions.iter().flatten() {
            // One block or page takes no tables, and all that is cut is cut already.
            let _ = world.set(*region, Attributes::Executable);
        }
        *self = Self { wild: self.wild, ..Self::new() };
    }

    /// The host has been without Exeunt. True: its kernel is the one that is known, and its memory is guarded as
    /// before. False: it may be another one; nothing is guarded.
    pub fn come_back(&mut self, ttbr1: u64, world: &mut impl World) -> bool {
        let same = self.tables == ttbr1 & TABLES && self.follow(world).is_ok() && self.close(world).is_ok();
        // It may have loaded another one.
        self.entry = None;
        if !same {
            self.lift(world);
        }
        same
    }

    /// Decides what becomes of a fault.
    pub fn fault(&mut self, fault: &Fault, world: &mut impl World) -> (Verdict, Option<Note>) {
        let leaf = world.leaf(fault.address);
        if self.watch.is_some_and(|watch| fault.fetches && watch.page.has(fault.address)) {
            return match self.close(world) {
                Ok(()) => (Verdict::Again, Some(Note::Closed)),
                Err(error) => self.give_up(Note::NoTables(error), world),
            };
        }
        match leaf {
            Some((_, Attributes::Executable)) => return (Verdict::Again, None),
            Some((_, Attributes::ExecuteNever)) if !fault.fetches => return (Verdict::Again, None),
            _ => {}
        }
        if !self.guards(fault.address) {
            return (Verdict::Others, None);
        }
        // User space may have other tables for the kernel's half, and where another kernel runs that has come first.
        if !fault.el0 && (!fault.native || !fault.stage1 || fault.ttbr1 & TABLES != self.tables) {
            let begins = fault.native && !fault.stage1 && fault.fetches;
            self.lift(world);
            return if begins {
                (Verdict::CrashBegins, Some(Note::Lifted("the crash kernel begins")))
            } else {
                (Verdict::Again, Some(Note::Lifted("another kernel runs")))
            };
        }
        match self.follow(world) {
            Err(()) => return self.give_up(Note::Lifted("the kernel that had it is gone"), world),
            Ok(Some(region)) if !self.guards(fault.address) => return (Verdict::Again, Some(Note::Shrunk(region))),
            Ok(_) => {}
        }
        if fault.fetches {
            return (Verdict::Wild, None);
        }
        let caller = if fault.el0 { Caller::Other } else { world.caller() };
        let opened = if let Caller::Loads { returns_to, entry } = caller {
            self.entry = entry;
            self.open(fault.address, returns_to, world)
        } else if ends_vmcoreinfo(fault.address, world) {
            (self.panics, self.pages) = (Some(fault.cpu), PANIC_PAGES);
            open_page(fault.address, world).map(Note::Panics)
        } else if self.panics == Some(fault.cpu) && self.pages > 0 {
            self.pages -= 1;
            open_page(fault.address, world).map(Note::Panics)
        } else if self.wild == Wild::Refuse {
            return (Verdict::Wild, None);
        } else {
            open_page(fault.address, world).map(Note::Allowed)
        };
        match opened {
            Ok(note) => (Verdict::Again, Some(note)),
            Err(error) => self.give_up(Note::NoTables(error), world),
        }
    }

    fn guards(&self, address: u64) -> bool {
        self.regions.iter().flatten().any(|region| region.has(address))
    }

    fn give_up(&mut self, note: Note, world: &mut impl World) -> (Verdict, Option<Note>) {
        self.lift(world);
        (Verdict::Again, Some(note))
    }

    /// Lets go what the kernel does not keep any more, and tells what is left of the region that it was.
    fn follow(&mut self, world: &mut impl World) -> Result<Option<Region>, ()> {
        let now = self.kernel.ok_or(())?.regions(world).ok_or(())?;
        let mut changed = None;
        for (was, now) in self.regions.iter_mut().zip(now) {
            let Some(old) = *was else {
                // A kernel reserves memory for this when it begins, and never later.
                if now.is_some() {
                    return Err(());
                }
                continue;
            };
            let new = now.unwrap_or(Region { end: old.start, ..old });
            if new.start != old.start || new.end > old.end {
                return Err(());
            }
            if new.end < old.end {
                world.set(Region { start: new.end, ..old }, Attributes::Executable).map_err(|_| ())?;
                *was = now;
                // While a kernel is loaded nothing is given back.
                self.entry = None;
                changed = Some(new);
            }
        }
        Ok(changed)
    }

    fn close(&mut self, world: &mut impl World) -> Result<(), Error> {
        self.end_watch(world);
        for region in self.regions.iter().flatten() {
            world.set(*region, Attributes::ReadOnly)?;
        }
        self.panics = None;
        Ok(())
    }

    fn open(&mut self, address: u64, returns_to: Option<u64>, world: &mut impl World) -> Result<Note, Error> {
        let watch = returns_to.and_then(|address| self.watch_page(address, world));
        let Some(watch) = watch else {
            // The next block has to ask again, and then user space's page may be known.
            self.close(world)?;
            let Some((block, _)) = world.leaf(address) else { return Ok(Note::Closed) };
            world.set(block, Attributes::ExecuteNever)?;
            return Ok(Note::OpenedBlock(block));
        };
        self.watch = Some(watch);
        for region in self.regions.iter().flatten() {
            world.set(*region, Attributes::ExecuteNever)?;
        }
        Ok(Note::Opened)
    }

    /// Makes the page at `address` execute-never, and whoever executes there is noticed.
    fn watch_page(&mut self, address: u64, world: &mut impl World) -> Option<Watch> {
        self.end_watch(world);
        let page = page(address);
        let (block, attributes) = world.leaf(address)?;
        let is_ram = attributes == Attributes::Executable && world.has(page);
        if !is_ram || self.guards(address) || self.regions.iter().flatten().any(|region| region.overlaps(block)) {
            return None;
        }
        world.set(page, Attributes::ExecuteNever).ok()?;
        Some(Watch { page, block })
    }

    fn end_watch(&mut self, world: &mut impl World) {
        if let Some(watch) = self.watch.take() {
            // One block, and no tables.
            let _ = world.set(watch.block, Attributes::Executable);
        }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self::new()
    }
}

/// TTBR1_EL1.BADDR, without the ASID, CnP, and what addresses of 52 bits have in the low bits.
const TABLES: u64 = 0xffff_ffff_f000;

/// The 4 KiB page with `address`.
fn page(address: u64) -> Region {
    let start = address & !(PAGE_SIZE - 1);
    Region { start, end: start.saturating_add(PAGE_SIZE) }
}

fn open_page(address: u64, world: &mut impl World) -> Result<Region, Error> {
    let page = page(address);
    world.set(page, Attributes::ExecuteNever)?;
    Ok(page)
}

/// What a vmcoreinfo begins with (kernel/vmcore_info.c, before 6.9 kernel/crash_core.c).
const VMCOREINFO: [u64; 2] = [u64::from_le_bytes(*b"OSRELEAS"), u64::from_le_bytes(*b"E=\0\0\0\0\0\0")];

/// The largest page of a kernel, all of which a vmcoreinfo may have.
const LARGEST_PAGE: u64 = 64 << 10;

/// Whether `address` is the one behind the last line of a vmcoreinfo, where a panic adds the time.
fn ends_vmcoreinfo(address: u64, ram: &impl Ram) -> bool {
    let byte = |at: u64| ram.word(at & !7).map(|word| word.to_le_bytes()[(at & 7) as usize]);
    if byte(address) != Some(0) || address == 0 || byte(address - 1) != Some(b'\n') {
        return false;
    }
    let begins = |start: u64| {
        ram.word(start) == Some(VMCOREINFO[0])
            && ram.word(start + 8).is_some_and(|word| word as u16 == VMCOREINFO[1] as u16)
    };
    let first = address & !(PAGE_SIZE - 1);
    (0..LARGEST_PAGE / PAGE_SIZE).map_while(|pages| first.checked_sub(pages * PAGE_SIZE)).any(begins)
}

/// Whether a kernel's command line asks for memory for a crash kernel.
#[must_use]
pub fn asks_for_crash_kernel(arguments: &[u8]) -> bool {
    arguments.split(u8::is_ascii_whitespace).any(|word| word.starts_with(b"crashkernel="))
}

/// A region in one word, so that one store changes it and one load has all of it: the number of its first page above
/// that of its pages. 0 stands for none.
#[must_use]
pub fn pack(region: Option<Region>) -> u64 {
    let Some(region) = region else { return 0 };
    let (first, pages) = (region.start / PAGE_SIZE, region.size() / PAGE_SIZE);
    if first >> FIRST_BITS == 0 && pages >> PAGES_BITS == 0 { first << PAGES_BITS | pages } else { 0 }
}

/// What [`pack`] has packed.
#[must_use]
pub fn unpack(word: u64) -> Option<Region> {
    let (first, pages) = (word >> PAGES_BITS, word % (1 << PAGES_BITS));
    let start = first * PAGE_SIZE;
    (pages != 0).then_some(Region { start, end: start + pages * PAGE_SIZE })
}

/// Pages of addresses of 48 bits.
const FIRST_BITS: u32 = 36;
/// Pages of a region below 1 TiB.
const PAGES_BITS: u32 = u64::BITS - FIRST_BITS;
