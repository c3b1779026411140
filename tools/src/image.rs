//! What an ELF file of Exeunt holds, and the questions that its test asks: which instructions must not be there, how
//! large frames and chains of calls are, what the segments allow, which relocations are left.
//!
//! The numbers that are allowed are the test's (`tools/tests/image.rs`). Owns the reading of the ELF file; never writes
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::error;
use std::fmt::{self, Display, Formatter};

use object::elf::{PF_W, PF_X, PT_LOAD, STT_FILE, STT_SECTION};
use object::read::elf::{ElfFile64, ProgramHeader as _, SectionHeader as _, Sym as _};
use object::{LittleEndian, Object as _, ObjectSection as _};
use rustc_demangle::demangle;

use crate::a64::{self, Fault};
use crate::frames::{self, Frame};

/// Why an ELF file cannot be judged.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// It is no little-endian ELF64 file for AArch64, and why.
    NotElf(String),
    /// It has no section `.text`.
    NoText,
    /// It has no mapping symbols in the text, which tell instructions from data.
    Stripped,
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::NotElf(why) => write!(f, "not an ELF file for AArch64: {why}"),
            Self::NoText => f.write_str("the ELF file has no section .text"),
            Self::Stripped => f.write_str("the ELF file has no symbols"),
        }
    }
}

impl error::Error for Error {}

/// A function: what lies between its symbol and the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its symbols, demangled, without the hash.
    pub names: Vec<String>,
    /// Address of the first byte.
    pub start: u64,
    /// Address after the last byte.
    pub end: u64,
}

impl Function {
    /// One name, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("?", String::as_str)
    }
}

/// An instruction that must not be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offender {
    /// Its address.
    pub address: u64,
    /// The instruction.
    pub word: u32,
    /// What is wrong with it.
    pub fault: Fault,
}

/// A part of the image that is loaded with the same rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Address of the first byte.
    pub address: u64,
    /// Size in memory, in bytes.
    pub size: u64,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether it can be executed.
    pub executable: bool,
}

/// The deepest stack that a function and those that it calls take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// In bytes.
    pub depth: i64,
    /// The functions, outermost first, as indices into [`Image::functions`].
    pub path: Vec<usize>,
}

/// What [`Image::deepest`] has to be told, since instructions do not say it.
pub struct Calls<'a> {
    /// The functions that an indirect call in this function may reach.
    pub targets: &'a dyn Fn(usize) -> &'a [usize],
    /// How many indirect calls there are within each other at most.
    pub nesting: usize,
    /// Functions that are not looked into: their stack is accounted for elsewhere.
    pub stop: &'a BTreeSet<usize>,
    /// Groups of functions that call themselves and each other, and how many times at most.
    pub cycles: &'a [(BTreeSet<usize>, i64)],
}

/// An image that can be judged.
#[derive(Debug)]
pub struct Image {
    functions: Vec<Function>,
    text: u64,
    /// One for each 4 bytes of the text: an instruction, or nothing for data.
    code: Vec<Option<u32>>,
    segments: Vec<Segment>,
    /// What the words hold that the load address is added to.
    relocated: Vec<u64>,
    /// Types of the relocations that are more than that.
    other_relocations: Vec<u32>,
    frames: Vec<Frame>,
}

impl Image {
    /// Reads the ELF file's content `data`.
    ///
    /// # Errors
    /// If it is not one that this module can judge.
    pub fn new(data: &[u8]) -> Result<Self, Error> {
        let bad = |error: object::Error| Error::NotElf(error.to_string());
        let file = ElfFile64::<LittleEndian>::parse(data).map_err(bad)?;
        if file.architecture() != object::Architecture::Aarch64 {
            return Err(Error::NotElf(format!("it is for {:?}", file.architecture())));
        }
        let endian = LittleEndian;
        let section = file.section_by_name(".text").ok_or(Error::NoText)?;
        let (text, bytes) = (section.address(), section.data().map_err(bad)?);
        let end = text + bytes.len() as u64;

        let mut starts: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        let mut mapping: BTreeMap<u64, bool> = BTreeMap::new();
        let table = file.elf_symbol_table();
        for symbol in table.symbols() {
            let address = symbol.st_value(endian);
            let name = symbol.name(endian, table.strings()).map(String::from_utf8_lossy).unwrap_or_default();
            let kind = symbol.st_type();
            if kind == STT_FILE || kind == STT_SECTION || name.is_empty() || !(text..end).contains(&address) {
                continue;
            }
            // An absolute symbol is a number, no place.
            if usize::from(symbol.st_shndx(endian).0) != section.index().0 {
                continue;
            }
            // "$x" and "$d", or with a suffix "$x.1" (AAELF64, 5.5.4 "Mapping symbols").
            match name.split('.').next() {
                Some("$x") => _ = mapping.insert(address, true),
                Some("$d") => _ = mapping.insert(address, false),
                _ => starts.entry(address).or_default().push(format!("{:#}", demangle(&name))),
            }
        }
        if mapping.is_empty() || starts.is_empty() {
            return Err(Error::Stripped);
        }
        let code = bytes.chunks_exact(4).enumerate().map(|(index, word)| {
            let address = text + 4 * index as u64;
            // What comes before the first mapping symbol would be an oversight of the linker's: judge it.
            let is_code = mapping.range(..=address).next_back().is_none_or(|(_, &code)| code);
            is_code.then(|| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        });
        let code: Vec<_> = code.collect();
        starts.entry(text).or_default();
        let ends: Vec<_> = starts.keys().copied().skip(1).chain([end]).collect();
        let functions: Vec<_> =
            starts.into_iter().zip(ends).map(|((start, names), end)| Function { names, start, end }).collect();

        let segments = file.elf_program_headers().iter().filter(|header| header.p_type(endian) == PT_LOAD);
        let segments = segments
            .map(|header| Segment {
                address: header.p_vaddr(endian),
                size: header.p_memsz(endian),
                writable: header.p_flags(endian).0 & PF_W.0 != 0,
                executable: header.p_flags(endian).0 & PF_X.0 != 0,
            })
            .collect();
        let word_at = |address: u64| {
            let word = file.sections().find_map(|section| section.data_range(address, 8).ok().flatten());
            let word = word.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
            word.ok_or_else(|| Error::NotElf(format!("a relocation at {address:#x}, which is in no section")))
        };
        let (mut relocated, mut other_relocations) = (Vec::new(), Vec::new());
        for header in file.elf_section_table().iter() {
            if let Some(places) = header.relr(endian, data).map_err(bad)? {
                for place in places {
                    relocated.push(word_at(place)?);
                }
            }
            if let Some((entries, _)) = header.rela(endian, data).map_err(bad)? {
                other_relocations.extend(entries.iter().map(|entry| entry.r_type(endian, false).0));
            }
            if let Some((entries, _)) = header.rel(endian, data).map_err(bad)? {
                other_relocations.extend(entries.iter().map(|entry| entry.r_type(endian).0));
            }
        }
        let mut image = Self { functions, text, code, segments, relocated, other_relocations, frames: Vec::new() };
        // Nobody comes back until shown to.
        image.frames = vec![Frame::default(); image.functions.len()];
        loop {
            let returns = |target| image.function_at(target).is_none_or(|index| image.frames[index].returns);
            let again: Vec<_> = image
                .functions
                .iter()
                .map(|function| frames::analyze(function.start, function.end, |address| image.word(address), returns))
                .collect();
            if again == image.frames {
                break;
            }
            image.frames = again;
        }
        Ok(image)
    }

    /// The functions, by address.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// What each of [`Image::functions`] does to the stack.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// What is loaded.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Types of the relocations that are not in the table of relative ones (`.relr.dyn`), which is all that
    /// boot/src/entry.rs reads.
    #[must_use]
    pub fn other_relocations(&self) -> &[u32] {
        &self.other_relocations
    }

    /// How many words there are that the load address is added to.
    #[must_use]
    pub fn relocated_words(&self) -> usize {
        self.relocated.len()
    }

    /// How many instructions there are.
    #[must_use]
    pub fn instruction_count(&self) -> usize {
        self.code.iter().flatten().count()
    }

    /// The instructions that an Armv8.0 core without SIMD and floating point does not have.
    #[must_use]
    pub fn offenders(&self) -> Vec<Offender> {
        let places = (self.text..).step_by(4).zip(&self.code);
        places
            .filter_map(|(address, word)| {
                let word = (*word)?;
                let fault = a64::check(word).err()?;
                Some(Offender { address, word, fault })
            })
            .collect()
    }

    /// `function+offset` for an address in the text.
    #[must_use]
    pub fn place(&self, address: u64) -> String {
        self.function_at(address).map_or_else(
            || format!("{address:#x}"),
            |index| {
                let function = &self.functions[index];
                format!("{address:#x} {}+{:#x}", function.name(), address - function.start)
            },
        )
    }

    /// The function with this name, which is without its hash.
    #[must_use]
    pub fn function_named(&self, name: &str) -> Option<usize> {
        self.functions.iter().position(|function| function.names.iter().any(|other| other == name))
    }

    /// The functions whose address is in data or is computed by the code: whom an indirect call may reach.
    #[must_use]
    pub fn address_taken(&self) -> BTreeSet<usize> {
        let mut taken: BTreeSet<u64> = self.relocated.iter().copied().collect();
        // The last page that an ADRP gave to each register. Registers are seldom kept over a branch; where one is, the
        // function's address is one too many here, or is missed.
        let mut pages = [None; 32];
        for (address, word) in (self.text..).step_by(4).zip(&self.code) {
            let Some(word) = *word else { continue };
            if let Some((register, value)) = a64::page_address(word, address) {
                // ADR gives an address, ADRP a page: it becomes one by what is added, be that 0.
                if !a64::is_adrp(word) {
                    taken.insert(value);
                }
                pages[usize::from(register)] = Some(value);
            } else if let Some((_, from, offset)) = a64::add_immediate(word)
                && let Some(page) = pages[usize::from(from)]
            {
                taken.insert(page + offset);
            }
        }
        self.functions.iter().enumerate().filter(|(_, f)| taken.contains(&f.start)).map(|(index, _)| index).collect()
    }

    /// The functions that `from` can reach by direct calls, themselves included, with those in `stop` left out.
    #[must_use]
    pub fn reachable(&self, from: impl IntoIterator<Item = usize>, stop: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut work: Vec<_> = from.into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(index) = work.pop() {
            if !stop.contains(&index) && seen.insert(index) {
                work.extend(self.callees(index).map(|(callee, _)| callee));
            }
        }
        seen
    }

    /// Groups of functions that reach themselves and each other by direct calls, without passing one in `stop`.
    #[must_use]
    pub fn cycles(&self, stop: &BTreeSet<usize>) -> Vec<BTreeSet<usize>> {
        let below: Vec<_> = (0..self.functions.len())
            .map(|index| if stop.contains(&index) { BTreeSet::new() } else { self.below(index, stop) })
            .collect();
        let mut cycles = Vec::new();
        let mut done: BTreeSet<usize> = BTreeSet::new();
        for (index, reached) in below.iter().enumerate() {
            if reached.contains(&index) && !done.contains(&index) {
                let cycle: BTreeSet<_> =
                    reached.iter().copied().filter(|&other| below[other].contains(&index)).collect();
                done.extend(&cycle);
                cycles.push(cycle);
            }
        }
        cycles
    }

    /// What the function calls, and what these call; itself only if it is called again.
    fn below(&self, index: usize, stop: &BTreeSet<usize>) -> BTreeSet<usize> {
        self.reachable(self.callees(index).map(|(callee, _)| callee), stop)
    }

    /// Whom the function calls directly, and the depth at which it does.
    fn callees(&self, index: usize) -> impl Iterator<Item = (usize, i64)> {
        self.frames[index].calls.iter().filter_map(|&(_, target, depth)| Some((self.function_at(target)?, depth)))
    }

    /// The deepest chain of calls from `root`.
    ///
    /// A group of functions that call each other is followed once around; for each further time all frames of the group
    /// are added, which is more than it takes.
    #[must_use]
    pub fn deepest(&self, root: usize, calls: &Calls) -> Chain {
        self.deepest_from((root, calls.nesting), calls, &mut BTreeMap::new(), &mut Vec::new())
    }

    fn deepest_from(
        &self,
        here: (usize, usize),
        calls: &Calls,
        known: &mut BTreeMap<(usize, usize), Chain>,
        active: &mut Vec<(usize, usize)>,
    ) -> Chain {
        if let Some(chain) = known.get(&here) {
            return chain.clone();
        }
        let (function, nesting) = here;
        active.push(here);
        let frame = &self.frames[function];
        let mut best = Chain { depth: frame.size, path: Vec::new() };
        let direct = self.callees(function).map(|(callee, depth)| ((callee, nesting), depth));
        let through = frame.indirect.iter().filter(|_| nesting > 0).flat_map(|&(_, depth)| {
            (calls.targets)(function).iter().map(move |&target| ((target, nesting - 1), depth))
        });
        for (there, depth) in direct.chain(through) {
            if calls.stop.contains(&there.0) || active.contains(&there) {
                continue;
            }
            let mut chain = self.deepest_from(there, calls, known, active);
            // Where a group is entered from outside.
            if let Some((cycle, times)) = calls.cycles.iter().find(|(cycle, _)| cycle.contains(&there.0))
                && (!cycle.contains(&function) || there.1 != nesting)
            {
                chain.depth += cycle.iter().map(|&index| self.frames[index].size).sum::<i64>() * (times - 1);
            }
            if depth + chain.depth > best.depth {
                best = Chain { depth: depth + chain.depth, path: chain.path };
            }
        }
        active.pop();
        best.path.insert(0, function);
        // Within a group the answer depends on where it was entered.
        if !calls.cycles.iter().any(|(cycle, _)| cycle.contains(&function)) {
            known.insert(here, best.clone());
        }
        best
    }

    /// The function that `address` is in.
    #[must_use]
    pub fn function_at(&self, address: u64) -> Option<usize> {
        let index = self.functions.partition_point(|function| function.start <= address).checked_sub(1)?;
        (address < self.functions[index].end).then_some(index)
    }

    /// The instruction at an address of the text; nothing where there is data.
    #[must_use]
    pub fn word(&self, address: u64) -> Option<u32> {
        let offset = address.checked_sub(self.text)?;
        *self.code.get(usize::try_from(offset / 4).ok()?)?
    }
}
