//! Finds Exeunt's black box in a dump of a machine's memory.
//!
//! Takes what people have of a dead machine: an ELF (/proc/vmcore copied, or QEMU's `dump-guest-memory`), what
//! makedumpfile has compressed, memory as it is (QEMU's `pmemsave`), or a box alone (`exeunt trace save` in the guest).
//! Owns the search. A dump may be cut off or damaged, and is believed in nothing: what is wrong with it is said in
//! words, and neither time nor memory grows with numbers in it.
//!
//! | module | what it owns |
//! |---|---|
//! | [`elf`] | memory out of an ELF |
//! | [`kdump`] | memory out of what makedumpfile has compressed, which drgn reads |
//! | [`raw`] | memory out of a file that is nothing else |

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use guest_abi::blackbox::{BlackBox, Header, MAGIC, SIZE};

pub mod elf;
pub mod kdump;
pub mod raw;

/// What a person knows about the dump.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the box is. Without, it is looked for.
    pub address: Option<u64>,
    /// Of memory as it is: the address of its first byte. Without, a box in it says that.
    pub base: Option<u64>,
    /// A Python that has drgn.
    pub python: PathBuf,
}

/// A box that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its bytes, from [`Header::start`] on.
    pub bytes: Vec<u8>,
    /// The address of the first of them.
    pub start: u64,
    /// What has to be said about it: others that were found, what of it is missing.
    pub notes: Vec<String>,
}

impl Found {
    /// To be read.
    ///
    /// # Panics
    /// Never: it was read when it was found.
    #[must_use]
    pub fn black_box(&self) -> BlackBox<'_> {
        BlackBox::new(&self.bytes, self.start).expect("it was read before")
    }
}

/// Physical memory, as far as a dump has it.
pub trait Memory {
    /// Every multiple of 64 KiB at which there may be something, ascending.
    fn places(&self) -> Vec<u64>;

    /// The first `length` bytes at each of `places`; nothing where the dump does not have them all.
    ///
    /// # Errors
    /// The dump cannot be read; in words.
    fn read(&self, places: &[u64], length: usize) -> Result<Vec<Option<Vec<u8>>>, String>;

    /// What is wrong with the dump, if it can be read all the same.
    fn complaint(&self) -> Option<String> {
        None
    }
}

/// A box is read in pieces of this size: the smallest page of a dump.
const PIECE: usize = 4096;

/// Finds the box in a dump.
///
/// # Errors
/// There is none, or the dump cannot be read; in words.
pub fn find(file: &Path, options: &Options) -> Result<Found, String> {
    let shown = file.display();
    let opened = File::open(file).map_err(|error| format!("{shown}: {error}"))?;
    let is_directory = opened.metadata().is_ok_and(|metadata| metadata.is_dir());
    if is_directory {
        return Err(format!("{shown}: it is a directory"));
    }
    if (&opened).seek(SeekFrom::Start(0)).is_err() {
        return Err(format!(
            "{shown}: it can only be read from its start to its end, as a pipe; put it into a file first"
        ));
    }
    let mut first = [0; 16];
    let length = read_some(&opened, 0, &mut first).map_err(|error| format!("{shown}: {error}"))?;
    let found = match &first[..length] {
        [] => Err("it is empty".to_owned()),
        [0x7f, b'E', b'L', b'F', ..] => elf::Elf::open(opened).and_then(|memory| search(&memory, options.address)),
        start if kdump::is_one(start) => {
            kdump::Kdump::open(file, opened, &options.python).and_then(|memory| search(&memory, options.address))
        }
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0xfd, b'7', b'z', ..] => {
            Err("it is compressed as a whole; unpack it first".to_owned())
        }
        _ => raw::Raw::open(opened, options.base).and_then(|memory| search(&memory, options.address)),
    };
    found.map_err(|error| format!("{shown}: {error}"))
}

/// How many bytes it has. A block device, onto which some have their dumps written, has a size only in this way.
fn length_of(mut file: &File) -> Result<u64, String> {
    file.seek(SeekFrom::End(0)).map_err(|error| error.to_string())
}

/// Reads as much as there is at `offset`, up to the end of `buffer`.
fn read_some(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    use std::os::unix::fs::FileExt;

    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset.saturating_add(read as u64)) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// What may be a box: where it is, and its header or what is wrong with that.
type Candidate = (u64, Result<Header, String>);

/// Finds the box in memory.
///
/// # Errors
/// There is none, or the memory cannot be read; in words.
pub fn search(memory: &dyn Memory, address: Option<u64>) -> Result<Found, String> {
    if let Some(address) = address {
        let Some((_, header)) = candidates(memory, &[address])?.0.pop() else {
            return Err(format!("there is no black box at {address:#x}: the magic is missing, or the dump lacks it"));
        };
        let header = header.map_err(|error| format!("at {address:#x}: {error}"))?;
        return take(memory, address, &header);
    }
    let places = memory.places();
    let (candidates, unreadable) = candidates(memory, &places)?;
    let (mut own, mut notes) = (Vec::new(), Vec::from_iter(memory.complaint()));
    if unreadable != 0 {
        notes.push(format!("{unreadable} of {} places cannot be read: the dump is cut off or damaged", places.len()));
    }
    for (place, header) in candidates {
        match header {
            Ok(header) if header.address == place => own.push((place, header)),
            Ok(header) => notes.push(format!(
                "at {place:#x} there is a copy of the box that belongs to {:#x}; --address={place:#x} reads it",
                header.address
            )),
            Err(error) => notes.push(format!("at {place:#x}: {error}")),
        }
    }
    // Several Exeunts, one after the other in different places: the last one has started last.
    own.sort_by_key(|(_, header)| header.started);
    let Some((place, header)) = own.pop() else {
        let what = format!("there is no black box in it: none of {} places has one", places.len());
        notes.insert(0, what);
        return Err(notes.join("; "));
    };
    notes.extend(own.iter().map(|(place, _)| {
        format!("there is a box of an earlier start at {place:#x} too; --address={place:#x} reads it")
    }));
    let mut found = take(memory, place, &header)?;
    notes.append(&mut found.notes);
    Ok(Found { notes, ..found })
}

/// Those of the places that begin with the magic, and how many of the places cannot be read.
fn candidates(memory: &dyn Memory, places: &[u64]) -> Result<(Vec<Candidate>, usize), String> {
    let begins = |bytes: &Option<Vec<u8>>| bytes.as_ref().is_some_and(|bytes| *bytes == MAGIC.to_le_bytes());
    let first = memory.read(places, size_of_val(&MAGIC))?;
    let marked: Vec<u64> =
        places.iter().zip(&first).filter(|(_, bytes)| begins(bytes)).map(|(&place, _)| place).collect();
    let headers = memory.read(&marked, Header::SIZE)?;
    let read = |bytes: Option<Vec<u8>>| Header::read(&bytes.unwrap_or_default()).map_err(|error| error.to_string());
    let unreadable = first.iter().filter(|bytes| bytes.is_none()).count();
    Ok((marked.iter().copied().zip(headers.into_iter().map(read)).collect(), unreadable))
}

/// Reads the box with this header, whose core is at `place`.
fn take(memory: &dyn Memory, place: u64, header: &Header) -> Result<Found, String> {
    // The header has been found consistent: the size is at most 2 MiB, and the core lies inside.
    let before = header.address - header.start;
    let begin =
        place.checked_sub(before).ok_or_else(|| format!("at {place:#x}: a box cannot begin before address 0"))?;
    begin.checked_add(header.size).ok_or_else(|| format!("at {place:#x}: a box cannot end past the last address"))?;
    let pieces: Vec<u64> = (0..header.size).step_by(PIECE).map(|offset| begin + offset).collect();
    let mut bytes = Vec::with_capacity(header.size as usize);
    let mut missing = 0;
    for piece in memory.read(&pieces, PIECE)? {
        missing += usize::from(piece.is_none());
        bytes.extend(piece.unwrap_or_else(|| vec![0; PIECE]));
    }
    bytes.truncate(header.size as usize);
    if let Err(error) = BlackBox::new(&bytes, header.start) {
        return Err(format!("the box at {place:#x} is not whole in this dump: {error}"));
    }
    let mut notes = Vec::new();
    if missing != 0 {
        let kib = missing * PIECE / 1024;
        let of = if before == 0 { "the box" } else { "the box and its traces" };
        notes.push(format!("{kib} KiB of {of} are not in this dump, and count as zeros"));
    }
    Ok(Found { bytes, start: header.start, notes })
}

/// A Python that has drgn: `EXEUNT_PYTHON`, else the project's own, which `scripts/setup drgn` makes, else the
/// machine's.
#[must_use]
pub fn python() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/drgn/bin/python");
    match std::env::var_os("EXEUNT_PYTHON") {
        Some(given) => given.into(),
        None if own.exists() => own,
        None => "python3".into(),
    }
}

const _: () = assert!(SIZE.is_multiple_of(PIECE));
