//! Memory out of what makedumpfile has filtered and compressed, flattened or not.
//!
//! Owns which pages such a dump says that it has: a bitmap tells, and spares a try at every address that there could
//! be. The pages themselves are drgn's to read, which knows all of their compressions; `pages.py` asks it.
//!
//! Source: makedumpfile, `diskdump_mod.h` (struct `disk_dump_header`, struct `kdump_sub_header`), and
//! `makedumpfile.h` for a flattened dump; the project's scripts/read-dump knows the same places.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use guest_abi::blackbox::SIZE;

use crate::{Memory, length_of, read_some};

const SIGNATURE: &[u8] = b"KDUMP   ";
const FLATTENED: &[u8] = b"makedumpfile\0";
const ELF: &[u8] = b"\x7fELF";
const FLATTENED_HEADER: u64 = 4096;
/// Before each piece: its offset and its size, 8 bytes each. The dump's last bytes are such a header of no piece.
const PIECE_HEADER: u64 = 16;
/// In the header: bytes of a block, which is a page; blocks of the second header; blocks of both bitmaps.
const BLOCK_SIZE: usize = 428;
const SUB_HEADER_BLOCKS: usize = 432;
const BITMAP_BLOCKS: usize = 436;
const HEADER: usize = 464;
/// A page's descriptor: its offset, 8 bytes, and its size, 4 bytes, come first.
const DESCRIPTOR: usize = 24;
/// So many are read at once.
const CHUNK: usize = 4096;
/// So many bytes of a piece.
const LARGEST_READ: usize = 1 << 20;
/// 44 bits of memory, at a bit for each page of 4 KiB: there are servers whose RAM begins at 8 TiB.
const LONGEST_BITMAP: u64 = 1 << (44 - 12 - 3);
/// A piece of a flattened dump is at least this long on average, in one that is not made to take long.
const SHORTEST_PIECE: u64 = 64;
/// drgn reads a gigabyte in seconds. Whoever has to wait longer waits for nothing.
const PATIENCE: Duration = Duration::from_mins(5);

/// What asks drgn.
const PAGES: &str = include_str!("pages.py");

/// Whether a file that begins like this is one.
#[must_use]
pub fn is_one(start: &[u8]) -> bool {
    start.starts_with(SIGNATURE) || start.starts_with(FLATTENED)
}

/// Such a file.
#[derive(Debug)]
pub struct Kdump {
    path: PathBuf,
    python: PathBuf,
    places: Vec<u64>,
    is_cut: bool,
}

/// A file as it is once it is no longer flattened.
#[derive(Debug)]
struct Rearranged {
    file: File,
    /// Bytes of the file as it lies there.
    length: u64,
    /// Of a flattened one: where each piece belongs, its length, and where it is.
    pieces: Option<Vec<(u64, u64, u64)>>,
}

/// A file that makedumpfile has flattened (`-F`): in pieces, so that it could be written without seeking.
#[derive(Debug)]
pub struct Flattened(Rearranged);

impl Flattened {
    /// Opens it. There may be more behind it: on a disk there is.
    ///
    /// # Errors
    /// It cannot be read, is none, or has no end; in words.
    pub fn open(file: File) -> Result<Self, String> {
        let whole = Rearranged::new(file)?;
        if whole.pieces.is_some() { Ok(Self(whole)) } else { Err("it is no flattened dump".to_owned()) }
    }

    fn pieces(&self) -> &[(u64, u64, u64)] {
        self.0.pieces.as_deref().unwrap_or_default()
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.pieces().last().map_or(FLATTENED_HEADER, |&(_, size, at)| at + size) + PIECE_HEADER
    }

    /// Whether what was flattened is an ELF.
    #[must_use]
    pub fn is_elf(&self) -> bool {
        self.0.read(0, ELF.len()).is_ok_and(|start| start == ELF)
    }

    /// Puts it together in an empty file: each piece where it belongs. How many bytes that are.
    ///
    /// # Errors
    /// A piece cannot be read or written; in words.
    pub fn put_together(&self, into: &File) -> Result<u64, String> {
        let mut bytes = Vec::new();
        let mut end = 0;
        for &(offset, size, at) in self.pieces() {
            end = end.max(offset.checked_add(size).ok_or("the flattened dump is damaged: a piece has no place")?);
            for done in (0..size).step_by(LARGEST_READ) {
                bytes.resize((size - done).min(LARGEST_READ as u64) as usize, 0);
                read_some(&self.0.file, at + done, &mut bytes).map_err(|error| error.to_string())?;
                into.write_all_at(&bytes, offset + done).map_err(|error| error.to_string())?;
            }
        }
        Ok(end)
    }
}

impl Rearranged {
    fn new(file: File) -> Result<Self, String> {
        let length = length_of(&file)?;
        let mut first = [0; FLATTENED.len()];
        let read = read_some(&file, 0, &mut first).map_err(|error| error.to_string())?;
        if &first[..read] != FLATTENED {
            return Ok(Self { file, length, pieces: None });
        }
        let (mut pieces, mut at) = (Vec::new(), FLATTENED_HEADER);
        loop {
            let mut header = [0; PIECE_HEADER as usize];
            if read_some(&file, at, &mut header).map_err(|error| error.to_string())? < header.len() {
                return Err("the flattened dump is cut off: its end is missing".to_owned());
            }
            let [offset, size] = [0, 8].map(|place| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&header[place..place + 8]);
                i64::from_be_bytes(bytes)
            });
            // The last one has an offset of -1.
            let (Ok(offset), Ok(size)) = (u64::try_from(offset), u64::try_from(size)) else { break };
            at += PIECE_HEADER;
            if size > length - at.min(length) {
                return Err("the flattened dump is cut off, or damaged: a piece goes past its end".to_owned());
            }
            pieces.push((offset, size, at));
            at += size;
            if pieces.len() as u64 > length / SHORTEST_PIECE + 64 {
                return Err("the flattened dump is damaged: its pieces are too small".to_owned());
            }
        }
        Ok(Self { file, length, pieces: Some(pieces) })
    }

    /// The bytes at `offset`; what is nowhere in the file is zero in one that was flattened, and an error in another.
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let cut = || "the dump is cut off: its header goes past its end".to_owned();
        let mut bytes = vec![0; length];
        let Some(pieces) = &self.pieces else {
            let read = read_some(&self.file, offset, &mut bytes).map_err(|error| error.to_string())?;
            return if read == length { Ok(bytes) } else { Err(cut()) };
        };
        let end = offset.checked_add(length as u64).ok_or_else(cut)?;
        // Some are written again later: in their order.
        for &(begin, size, at) in pieces {
            let (first, last) = (begin.max(offset), begin.saturating_add(size).min(end));
            if first < last {
                let into = &mut bytes[(first - offset) as usize..(last - offset) as usize];
                read_some(&self.file, at + (first - begin), into).map_err(|error| error.to_string())?;
            }
        }
        Ok(bytes)
    }

    /// Whether a page lies past the end of the file. drgn would take it for zeros. There are so many descriptors of
    /// pages at `table`; a flattened dump has an end of its own.
    fn is_cut(&self, table: u64, pages: u64) -> Result<bool, String> {
        if self.pieces.is_some() {
            return Ok(false);
        }
        let mut descriptors = vec![0; CHUNK * DESCRIPTOR];
        for first in (0..pages).step_by(CHUNK) {
            let wanted = ((pages - first) as usize).min(CHUNK) * DESCRIPTOR;
            let at = table + first * DESCRIPTOR as u64;
            let read = read_some(&self.file, at, &mut descriptors[..wanted]).map_err(|error| error.to_string())?;
            if read < wanted {
                return Ok(true);
            }
            for descriptor in descriptors[..wanted].as_chunks::<DESCRIPTOR>().0 {
                let number = |place: usize| {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(&descriptor[place..place + 8]);
                    u64::from_le_bytes(bytes)
                };
                let (offset, size) = (number(0), number(8) & u64::from(u32::MAX));
                if offset.saturating_add(size) > self.length {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

impl Kdump {
    /// Opens it, and finds out which pages it has.
    ///
    /// # Errors
    /// It is damaged, cut off or cannot be read; in words.
    pub fn open(path: &Path, file: File, python: &Path) -> Result<Self, String> {
        let file = Rearranged::new(file)?;
        let header = file.read(0, HEADER)?;
        if !header.starts_with(SIGNATURE) {
            return Err("a flattened file, but no dump in it".to_owned());
        }
        let number = |place: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&header[place..place + 4]);
            u64::from(u32::from_le_bytes(bytes))
        };
        let [block, sub, bitmaps] = [BLOCK_SIZE, SUB_HEADER_BLOCKS, BITMAP_BLOCKS].map(number);
        if ![0x1000, 0x4000, 0x1_0000].contains(&block) {
            return Err(format!("the dump's header is damaged: pages of {block} bytes"));
        }
        // Of two bitmaps the second has the pages that the dump has.
        let length = bitmaps * block / 2;
        if length > LONGEST_BITMAP {
            return Err(format!("the dump's header is damaged: a bitmap of {length} bytes"));
        }
        // A flattened dump has its bitmaps in full, too.
        if length > file.length {
            return Err(format!("the dump is cut off, or its header is damaged: a bitmap of {length} bytes"));
        }
        let bitmap = file.read((1 + sub) * block + length, length as usize)?;
        let pages = (SIZE as u64 / block) as usize;
        let has = |&page: &usize| bitmap[page / 8] & 1 << (page % 8) != 0;
        let places = (0..bitmap.len() * 8).step_by(pages).filter(has).map(|page| page as u64 * block);
        // Each page that is there has a descriptor. Of a bitmap that names more, the rest is damage.
        let places = places.take(file.length as usize / DESCRIPTOR).collect();
        let pages = bitmap.iter().map(|byte| u64::from(byte.count_ones())).sum();
        let is_cut = file.is_cut((1 + sub + bitmaps) * block, pages)?;
        Ok(Self { path: path.to_owned(), python: python.to_owned(), places, is_cut })
    }
}

impl Memory for Kdump {
    fn complaint(&self) -> Option<String> {
        self.is_cut.then(|| "the dump is cut off, or damaged: some of its pages lie past its end".to_owned())
    }

    fn places(&self) -> Vec<u64> {
        self.places.clone()
    }

    fn read(&self, places: &[u64], length: usize) -> Result<Vec<Option<Vec<u8>>>, String> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = Command::new(&self.python);
        command.args(["-c", PAGES]).arg(&self.path).arg(length.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let install = "scripts/setup drgn installs it";
        let mut child = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => format!("drgn reads such dumps, and there is no Python for it; {install}"),
            _ => format!("{}: {error}", self.python.display()),
        })?;
        let answer = talk(&mut child, places);
        // Whether it still runs or has ended: nothing of it stays behind.
        let _ = child.kill();
        let _ = child.wait();
        let (answer, complaint) = answer?;
        let wanted = places.len() * (length + 1);
        if answer.len() != wanted {
            let last = complaint.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
            return Err(if last.contains("No module named 'drgn'") {
                format!("drgn reads such dumps, and {} does not have it; {install}", self.python.display())
            } else if last.contains("Invalid kernel version") {
                format!(
                    "drgn's libkdumpfile reads no compressed dump of a kernel whose version has two numbers; take an \
                     ELF, as makedumpfile -E writes it: {last}"
                )
            } else if last.contains("vmcoreinfo") {
                "drgn opens no dump without the vmcoreinfo of a Linux, and QEMU writes none into this format; take \
                 QEMU's ELF: dump-guest-memory without -z"
                    .to_owned()
            } else {
                format!("drgn cannot read the dump: {last}")
            });
        }
        let one = |piece: &[u8]| (piece[0] == 1).then(|| piece[1..].to_vec());
        Ok(answer.chunks_exact(length + 1).map(one).collect())
    }
}

/// Gives it the addresses, and takes what it answers and complains of.
fn talk(child: &mut Child, places: &[u64]) -> Result<(Vec<u8>, String), String> {
    let (Some(mut input), Some(mut output), Some(mut errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err("drgn cannot be talked to".to_owned());
    };
    let mut asked = String::new();
    for place in places {
        let _ = writeln!(asked, "{place}");
    }
    // It may end before it has read everything, and answers before it has: each direction has a thread.
    thread::spawn(move || input.write_all(asked.as_bytes()));
    let complaint = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = errors.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut answer = Vec::new();
        let _ = output.read_to_end(&mut answer);
        let _ = sender.send(answer);
    });
    let Ok(answer) = receiver.recv_timeout(PATIENCE) else {
        return Err(format!("drgn has not read the dump in {} s", PATIENCE.as_secs()));
    };
    Ok((answer, complaint.join().unwrap_or_default()))
}
