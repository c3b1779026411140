//! The crash notes of CPUs that a dying Linux could not ask: they get the registers that Exeunt has kept.
//!
//! A Linux that loads a crash kernel puts an ELF header of type ET_CORE into that kernel's memory. Its PT_NOTE entries
//! say where each CPU has its *crash note*, in the order of the CPUs' numbers, and last where vmcoreinfo is
//! (kexec-tools `kexec/crashdump-elf.c`; Linux `prepare_elf64_headers`). A CPU that is asked to stop writes its
//! registers into its note, as an NT_PRSTATUS; /proc/vmcore shows the notes to whatever makes the dump. The note of a
//! CPU that did not hear is empty, and tools show nothing of it.
//!
//! Owns what an empty note is given. All that it reads is the host's and may be anything: nothing is written but into a
//! note that is empty, in the host's RAM. It touches no register; memory comes through [`Memory`].

use crate::devicetree::Region;
use crate::inject::pstate;
use crate::paging::PAGE_SIZE;

/// The host's RAM.
pub trait Memory {
    /// The eight bytes at `address`, a multiple of 8; nothing where Exeunt keeps off, or where nothing answers.
    fn word(&self, address: u64) -> Option<u64>;

    /// Puts bytes at `address`. False if they cannot all be there; some may be.
    fn put(&self, address: u64, bytes: &[u8]) -> bool;
}

/// A CPU's registers.
pub trait Registers {
    /// x0 to x30.
    fn x(&self, number: usize) -> u64;
    /// SP_EL0 and SP_EL1.
    fn stack_pointers(&self) -> [u64; 2];
    /// ELR_EL2: where the CPU was.
    fn pc(&self) -> u64;
    /// SPSR_EL2.
    fn pstate(&self) -> u64;
}

/// The stack pointer that was in use.
fn stack_pointer(registers: &impl Registers) -> u64 {
    let is_el1h = registers.pstate() & (pstate::EL_MASK | pstate::SP) == pstate::EL1H;
    registers.stack_pointers()[usize::from(is_el1h)]
}

/// Bytes of an ELF header (ELF-64 Object File Format, `Elf64_Ehdr`).
const HEADER: u64 = 64;
/// Bytes of an entry of its program header table (`Elf64_Phdr`).
const ENTRY: u64 = 56;
/// More entries than any machine has CPUs and ranges of memory.
const MAX_ENTRIES: u64 = 4096;
/// `p_type` of a note.
const PT_NOTE: u64 = 4;

/// `e_ident`, the first eight bytes: the magic, ELFCLASS64, ELFDATA2LSB, EV_CURRENT, and the ABI, which is 0.
const IDENT: u64 = u64::from_le_bytes([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
/// `e_type`, `e_machine` and `e_version`: ET_CORE, EM_AARCH64, EV_CURRENT.
const KIND: u64 = 4 | 183 << 16 | 1 << 32;

/// Bytes of an NT_PRSTATUS of this architecture (Linux `struct elf_prstatus`), the place of its general-purpose
/// registers, and how many of them there are: x0 to x30, SP, PC, PSTATE.
const PRSTATUS: usize = 392;
const PR_REG: usize = 112;
const REGISTERS: usize = 34;
/// What stands before it: `n_namesz`, `n_descsz`, `n_type` and the name, "CORE" with its zero, on a multiple of 4.
const NOTE_HEADER: usize = 20;
const NOTE: usize = NOTE_HEADER + PRSTATUS;
/// And after it: an empty note, the last.
const WITH_END: u64 = NOTE as u64 + 12;
/// NT_PRSTATUS.
const NT_PRSTATUS: u32 = 1;

/// Why a note was not filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no note of this CPU.
    NoNote,
    /// It is not empty.
    NotEmpty,
    /// It is not in the host's RAM.
    NotInRam,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoNote => "it has none",
            Self::NotEmpty => "it is written already",
            Self::NotInRam => "it is not in RAM",
        })
    }
}

/// The crash notes of a host.
#[derive(Clone, Copy, Debug)]
pub struct Notes<'a, M> {
    memory: &'a M,
    /// Where the table of program headers is, and how many entries it has.
    table: u64,
    entries: u64,
}

impl<'a, M: Memory> Notes<'a, M> {
    /// Those that the core header in the crash kernel's memory names, which is on some page there. The last one is
    /// taken: kexec-tools put it behind all else.
    pub fn find(memory: &'a M, region: Region) -> Option<Self> {
        let pages = region.size() / PAGE_SIZE;
        (0..pages).rev().find_map(|page| Self::at(memory, region.start.checked_add(page * PAGE_SIZE)?, region))
    }

    /// Those that the header at `header` names, if it is one.
    fn at(memory: &'a M, header: u64, region: Region) -> Option<Self> {
        let word = |offset| memory.word(header.checked_add(offset)?);
        if word(0)? != IDENT || word(16)? != KIND {
            return None;
        }
        // `e_phoff`; and `e_phentsize` and `e_phnum`, of the four halfwords at 52 and 56.
        let offset = word(32)?;
        let (entry_size, entries) = (word(48)? >> 48, word(56)? & 0xffff);
        let table = header.checked_add(offset).filter(|table| table.is_multiple_of(8))?;
        let end = table.checked_add(entries * ENTRY)?;
        let fits = offset >= HEADER && entry_size == ENTRY && entries <= MAX_ENTRIES && end <= region.end;
        fits.then_some(Self { memory, table, entries })
    }

    /// Where the note of the CPU with the number `cpu` is, by Linux's counting, and how large it may be.
    fn note(&self, cpu: usize) -> Option<(u64, u64)> {
        let entry = |number: u64| self.table + number * ENTRY;
        let is_note = |&number: &u64| self.memory.word(entry(number)).is_some_and(|word| word & 0xffff_ffff == PT_NOTE);
        // `p_offset` says where it is now, and `p_filesz` how large it is.
        let of = |number| Some((self.memory.word(entry(number) + 8)?, self.memory.word(entry(number) + 32)?));
        of((0..self.entries).filter(is_note).nth(cpu)?)
    }

    /// Gives an empty note the registers of its CPU, which has the number `cpu` by Linux's counting.
    ///
    /// # Errors
    /// Why not.
    pub fn fill(&self, cpu: usize, registers: &impl Registers) -> Result<(), Error> {
        let (note, size) = self.note(cpu).ok_or(Error::NoNote)?;
        // The note of a CPU has room for nothing else. That of vmcoreinfo, which is the last, is never empty.
        if size < WITH_END || !note.is_multiple_of(8) {
            return Err(Error::NoNote);
        }
        let word = |offset: u64| note.checked_add(offset).and_then(|at| self.memory.word(at)).ok_or(Error::NotInRam);
        if word(0)? != 0 || word(8)? & 0xffff_ffff != 0 {
            return Err(Error::NotEmpty);
        }
        // The last byte, before the first is written.
        word((WITH_END - 1) & !7)?;
        // Piece by piece, since a stack at EL2 is small. It is a note when its header is there.
        let put = |offset: usize, bytes: &[u8]| self.memory.put(note + offset as u64, bytes);
        let is_written = put(12, b"CORE\0\0\0\0")
            && (NOTE_HEADER..NOTE).step_by(4).all(|offset| put(offset, &[0; 4]))
            && (0..REGISTERS).all(|number| {
                let value = match number {
                    31 => stack_pointer(registers),
                    32 => registers.pc(),
                    33 => registers.pstate(),
                    _ => registers.x(number),
                };
                put(NOTE_HEADER + PR_REG + 8 * number, &value.to_le_bytes())
            })
            && (0..3).rev().all(|index| put(4 * index, &[5, PRSTATUS as u32, NT_PRSTATUS][index].to_le_bytes()));
        if is_written { Ok(()) } else { Err(Error::NotInRam) }
    }
}

const _: () = assert!(PR_REG + 8 * REGISTERS + 8 == PRSTATUS, "pr_fpvalid is all that comes after the registers");

/// The number by which Linux knows a CPU: the one that it has booted on is 0, and the others follow in the order of the
/// device tree, in which Exeunt counts them all.
#[must_use]
pub const fn number_in_linux(cpu: usize, booted_on: usize) -> usize {
    if cpu == booted_on {
        0
    } else if cpu < booted_on {
        cpu + 1
    } else {
        cpu
    }
}

#[cfg(test)]
mod tests;
