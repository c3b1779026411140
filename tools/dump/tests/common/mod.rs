#![allow(dead_code, reason = "not each test uses all of it")]
//! Dumps that nobody has made: the boxes of exeunt-view's fixture, in each format in which a dump comes.

use std::fs;
use std::path::{Path, PathBuf};

use dump::{Found, Options, find};
use view::fixture::{Builder, EXEUNT};

/// Where the RAM of the made-up machine begins. It has 8 MiB.
pub const RAM: u64 = 0x4000_0000;
/// Its size.
pub const RAM_SIZE: usize = 8 << 20;

/// A directory of a test's own, without what an earlier run has left.
pub fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("the test's directory");
    path
}

/// The machine's memory with a box in it, and bytes of which no page is like another elsewhere.
pub fn memory(builder: &Builder) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..RAM_SIZE).map(|place| (place >> 12) as u8 ^ place as u8).collect();
    put(&mut bytes, builder.header.start, &builder.build());
    bytes
}

/// Puts bytes to an address.
pub fn put(memory: &mut [u8], address: u64, bytes: &[u8]) {
    let offset = (address - RAM) as usize;
    memory[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// An ELF core with these segments: address and bytes.
pub fn elf(segments: &[(u64, &[u8])]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |bytes: &mut Vec<u8>, value: u16| bytes.extend(value.to_le_bytes());
    let word = |bytes: &mut Vec<u8>, value: u32| bytes.extend(value.to_le_bytes());
    let long = |bytes: &mut Vec<u8>, value: u64| bytes.extend(value.to_le_bytes());
    half(&mut bytes, 4);
    half(&mut bytes, 183);
    word(&mut bytes, 1);
    long(&mut bytes, 0);
    long(&mut bytes, 64);
    long(&mut bytes, 0);
    word(&mut bytes, 0);
    for value in [64, 56, segments.len() as u16, 0, 0, 0] {
        half(&mut bytes, value);
    }
    let mut offset = (64 + 56 * segments.len()).next_multiple_of(4096) as u64;
    for (address, content) in segments {
        word(&mut bytes, 1);
        word(&mut bytes, 7);
        for value in [offset, 0, *address, content.len() as u64, content.len() as u64, 0] {
            long(&mut bytes, value);
        }
        offset += content.len() as u64;
    }
    bytes.resize((64 + 56 * segments.len()).next_multiple_of(4096), 0);
    for (_, content) in segments {
        bytes.extend(*content);
    }
    bytes
}

/// What makedumpfile writes for pages of 4 KiB.
pub fn kdump(memory: &[u8], keep: impl Fn(u64) -> bool) -> Vec<u8> {
    kdump_of::<4096>(memory, keep)
}

/// What makedumpfile writes for pages of this size, uncompressed: the memory from [`RAM`] on, without the pages that
/// `keep` does not want (by their address). The format is that of makedumpfile's `diskdump_mod.h`.
pub fn kdump_of<const PAGE: usize>(memory: &[u8], keep: impl Fn(u64) -> bool) -> Vec<u8> {
    let frames = (RAM as usize + memory.len()) / PAGE;
    let bitmap_blocks = frames.div_ceil(8).div_ceil(PAGE);
    let mut header = vec![0; PAGE];
    header[..8].copy_from_slice(b"KDUMP   ");
    header[8..12].copy_from_slice(&6_u32.to_le_bytes());
    // utsname: sysname, nodename, release, version, machine, of 65 bytes each.
    for (number, text) in ["Linux", "exeunt", "6.12.0", "#1 SMP", "aarch64", "(none)"].iter().enumerate() {
        header[12 + 65 * number..][..text.len()].copy_from_slice(text.as_bytes());
    }
    for (place, value) in [(428, PAGE), (432, 1), (436, 2 * bitmap_blocks), (440, frames), (460, 1)] {
        header[place..place + 4].copy_from_slice(&(value as u32).to_le_bytes());
    }
    let mut sub = vec![0; PAGE];
    // Without these drgn takes a dump for none of a Linux.
    let information = format!(
        "OSRELEASE=6.12.0\nPAGESIZE={PAGE}\nSYMBOL(init_uts_ns)=ffff800081000000\n\
         SYMBOL(swapper_pg_dir)=ffff800081001000\nSYMBOL(_stext)=ffff800080010000\n\
         OFFSET(uts_namespace.name)=0\nKERNELOFFSET=0\nNUMBER(VA_BITS)=48\n\
         NUMBER(TCR_EL1_T1SZ)=0x10\nNUMBER(kimage_voffset)=0xffff800040000000\n\
         NUMBER(PHYS_OFFSET)=0x40000000\n"
    );
    // As an ELF note: sizes of name and contents, a type, both padded to four bytes.
    let mut note = Vec::new();
    for number in [11, information.len() as u32, 0] {
        note.extend(number.to_le_bytes());
    }
    note.extend(b"VMCOREINFO\0\0");
    note.extend(information.as_bytes());
    sub[1024..1024 + note.len()].copy_from_slice(&note);
    let (at, size) = (PAGE as u64 + 1024, note.len() as u64);
    let inside = at + size - information.len() as u64;
    for (place, value) in [(32, inside), (40, information.len() as u64), (48, at), (56, size)] {
        sub[place..place + 8].copy_from_slice(&value.to_le_bytes());
    }
    sub[96..104].copy_from_slice(&(frames as u64).to_le_bytes());
    let (mut there, mut dumped) = (vec![0_u8; bitmap_blocks * PAGE], vec![0_u8; bitmap_blocks * PAGE]);
    let mut pages = Vec::new();
    for (number, page) in memory.chunks(PAGE).enumerate() {
        let frame = RAM as usize / PAGE + number;
        there[frame / 8] |= 1 << (frame % 8);
        if keep((frame * PAGE) as u64) {
            dumped[frame / 8] |= 1 << (frame % 8);
            pages.push(page);
        }
    }
    let mut bytes = [header, sub, there, dumped].concat();
    let data = bytes.len() + 24 * pages.len();
    for number in 0..pages.len() {
        bytes.extend(((data + number * PAGE) as u64).to_le_bytes());
        bytes.extend((PAGE as u32).to_le_bytes());
        bytes.extend([0; 12]);
    }
    for page in pages {
        bytes.extend(page);
    }
    bytes
}

/// The same, flattened: in pieces, out of order.
pub fn flattened(dump: &[u8]) -> Vec<u8> {
    const PIECE: usize = 100_000;
    let mut bytes = b"makedumpfile\0\0\0\0".to_vec();
    bytes.extend(1_u64.to_be_bytes());
    bytes.extend(1_u64.to_be_bytes());
    bytes.resize(4096, 0);
    let count = dump.len().div_ceil(PIECE);
    for number in (1..count).chain([0]) {
        let piece = &dump[number * PIECE..dump.len().min((number + 1) * PIECE)];
        bytes.extend(((number * PIECE) as u64).to_be_bytes());
        bytes.extend((piece.len() as u64).to_be_bytes());
        bytes.extend(piece);
    }
    bytes.extend((-1_i64).to_be_bytes());
    bytes.extend((-1_i64).to_be_bytes());
    bytes
}

/// Writes a file and looks for a box in it.
pub fn look(file: &Path, bytes: &[u8], options: &Options) -> Result<Found, String> {
    fs::write(file, bytes).expect("a file below target/");
    find(file, options)
}

/// A pseudo-random sequence, the same at each run.
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((self.0 >> 33) as usize) % end.max(1)
    }
}

/// Damages a file as disks, programs and people do: bytes, numbers, lengths.
pub fn damage(bytes: &mut Vec<u8>, random: &mut Random, header: usize) {
    for _ in 0..=random.below(6) {
        // What decides is in the first bytes.
        let end = if random.below(4) == 0 { bytes.len() } else { header.min(bytes.len()) };
        let place = random.below(end);
        match random.below(6) {
            0 => bytes.truncate(random.below(bytes.len() + 1)),
            1 => {
                let cut = random.below(bytes.len() - place.min(bytes.len()) + 1).min(4096);
                bytes.drain(place..place + cut);
            }
            2 | 3 => {
                let value: u64 = [0, 1, u64::MAX, u64::MAX - 4095, 1 << 63, EXEUNT, 1 << 40][random.below(7)];
                for (to, from) in bytes.iter_mut().skip(place / 8 * 8).zip(value.to_le_bytes()) {
                    *to = from;
                }
            }
            4 => {
                for byte in bytes.iter_mut().skip(place).take(16) {
                    *byte = random.below(256) as u8;
                }
            }
            _ => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
        if bytes.is_empty() {
            return;
        }
    }
}
