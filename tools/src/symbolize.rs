//! A panic's report with functions and source lines instead of bare addresses.
//!
//! Reads the report as `exeunt/src/panic.rs` prints it, from a console that the host may have written to as
//! well, and an ELF file with DWARF. Owns the knowledge of that format; never touches a machine or an image.

use std::borrow::Cow;
use std::error;
use std::fmt::{self, Display, Formatter, Write as _};

use addr2line::gimli::{self, EndianSlice, RunTimeEndian};
use guest_abi::RESERVATION;
use object::{Architecture, Object, ObjectSection, ObjectSymbol, SymbolKind};
use rustc_demangle::demangle;

/// What begins each line of Exeunt's, wherever on the console's line it is.
const PREFIX: &str = "[exeunt ";
/// The line that begins a report, or says that there was a further fault in one.
const HEADLINE: &str = "EXEUNT PANIC";
/// The line that ends a report.
const LAST_LINE: &str = "the machine goes off now";
/// What stands before the address that Exeunt runs at.
const IMAGE_AT: &str = "image at ";
/// Bytes of an A64 instruction.
const INSTRUCTION: u64 = 4;

/// Why there is nothing to show.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// The text holds no report.
    NoPanic,
    /// The file is no ELF file that can be read, and why.
    NotElf(String),
    /// The ELF file is for another processor.
    NotAarch64,
    /// The ELF file has no line table.
    NoDebugInfo,
    /// The ELF file's DWARF cannot be read, and why.
    BadDebugInfo(String),
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::NoPanic => write!(f, "there is no line with `{HEADLINE}` in this text: nothing to decode"),
            Self::NotElf(why) => write!(f, "not an ELF file: {why}"),
            Self::NotAarch64 => f.write_str("the ELF file is not for AArch64"),
            Self::NoDebugInfo => f.write_str(
                "the ELF file has no debug information (name the ELF below target/, not the .bin, and not stripped)",
            ),
            Self::BadDebugInfo(why) => write!(f, "the ELF file's debug information cannot be read: {why}"),
        }
    }
}

impl error::Error for Error {}

/// One place in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The function, demangled.
    pub function: String,
    /// `file:line`, if the debug information knows it.
    pub line: Option<String>,
    /// Whether the function was inlined into the next place of the list.
    pub inlined: bool,
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(&self.function)?;
        if let Some(line) = &self.line {
            write!(f, " at {line}")?;
        }
        if self.inlined { f.write_str(" (inlined)") } else { Ok(()) }
    }
}

/// An ELF file's functions and lines.
pub struct Symbols<'data> {
    dwarf: addr2line::Context<EndianSlice<'data, RunTimeEndian>>,
    /// Start, end (0 if the symbol has no size) and name of each function, sorted by start.
    functions: Vec<(u64, u64, &'data str)>,
    text: Vec<(u64, &'data [u8])>,
    /// Source files below it are shown relative to it.
    root: String,
}

impl<'data> Symbols<'data> {
    /// Reads the ELF file's content `data`. Source files below the directory `root` are shown without it.
    ///
    /// # Errors
    /// All but [`Error::NoPanic`].
    pub fn new(data: &'data [u8], root: &str) -> Result<Self, Error> {
        let file = object::File::parse(data).map_err(|error| Error::NotElf(error.to_string()))?;
        if file.architecture() != Architecture::Aarch64 {
            return Err(Error::NotAarch64);
        }
        if file.section_by_name(".debug_line").is_none() || file.section_by_name(".debug_info").is_none() {
            return Err(Error::NoDebugInfo);
        }
        let bad = |error: gimli::Error| Error::BadDebugInfo(error.to_string());
        let endian = if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let dwarf = gimli::Dwarf::load(|id| {
            let content = file.section_by_name(id.name()).and_then(|section| section.data().ok());
            Ok(EndianSlice::new(content.unwrap_or_default(), endian))
        })
        .and_then(addr2line::Context::from_dwarf)
        .map_err(bad)?;
        let mut functions: Vec<_> = file
            .symbols()
            .filter(|symbol| matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label))
            .filter_map(|symbol| Some((symbol.address(), symbol.address() + symbol.size(), symbol.name().ok()?)))
            // "$x" and "$d" say where code and data begin (AAELF64, 5.5.4 "Mapping symbols").
            .filter(|(_, _, name)| !name.is_empty() && !name.starts_with('$'))
            .collect();
        functions.sort_unstable();
        let text = file
            .sections()
            .filter(|section| section.kind() == object::SectionKind::Text)
            .filter_map(|section| Some((section.address(), section.data().ok()?)))
            .collect();
        let root = format!("{}/", root.trim_end_matches('/'));
        Ok(Self { dwarf, functions, text, root })
    }

    /// The places that the instruction at `address` (as the ELF file has it) stands for, innermost first; nothing if it
    /// is not in the text.
    #[must_use]
    pub fn places(&self, address: u64) -> Vec<Place> {
        if self.instruction(address).is_none() {
            return Vec::new();
        }
        let mut places = Vec::new();
        if let Ok(mut frames) = self.dwarf.find_frames(address).skip_all_loads() {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.and_then(|function| function.raw_name().ok().map(Cow::into_owned));
                let Some(name) = name.or_else(|| self.symbol(address)) else { continue };
                let line = frame.location.and_then(|location| {
                    let file = shorten(location.file?, &self.root);
                    Some(location.line.map_or(file.to_owned(), |line| format!("{file}:{line}")))
                });
                places.push(Place { function: format!("{:#}", demangle(&name)), line, inlined: true });
            }
        }
        // Assembly has lines at best.
        if places.is_empty() {
            let function = self.symbol(address).map_or("?".to_owned(), |name| format!("{:#}", demangle(&name)));
            places.push(Place { function, line: None, inlined: true });
        }
        if let Some(outermost) = places.last_mut() {
            outermost.inlined = false;
        }
        places
    }

    /// Whether the instruction at `address` is a call. Where it is not, a backtrace is from another build.
    #[must_use]
    pub fn is_call(&self, address: u64) -> bool {
        self.instruction(address).is_some_and(|word| {
            let bl = word >> 26 == 0b100101;
            let blr = word & 0xffff_fc1f == 0xd63f_0000;
            bl || blr
        })
    }

    fn symbol(&self, address: u64) -> Option<String> {
        let next = self.functions.partition_point(|&(start, _, _)| start <= address);
        let &(start, end, name) = self.functions[..next].last()?;
        // A symbol of assembly has no size.
        (start == end || address < end).then(|| name.to_owned())
    }

    fn instruction(&self, address: u64) -> Option<u32> {
        self.text.iter().find_map(|&(start, bytes)| {
            let offset = usize::try_from(address.checked_sub(start)?).ok()?;
            let word = bytes.get(offset..offset.checked_add(4)?)?;
            Some(u32::from_le_bytes(word.try_into().ok()?))
        })
    }
}

/// The name of a source file without what is the same for all of its kind: the directory `root` of the project, the
/// standard library's place in the machine that built it, and cargo's of downloaded packages.
fn shorten<'a>(file: &'a str, root: &str) -> &'a str {
    let below = |parent: &str, levels: usize| {
        let (_, rest) = file.split_once(parent)?;
        rest.splitn(levels + 1, '/').nth(levels)
    };
    file.strip_prefix(root)
        .or_else(|| below("/rustc/", 1))
        .or_else(|| below("/lib/rustlib/src/rust/", 0))
        .or_else(|| below("/registry/src/", 1))
        .unwrap_or(file)
}

/// What [`decode`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The report, with the places.
    pub text: String,
    /// Addresses that do not fit to the ELF file: not in its text, or in a backtrace and no call.
    pub misfits: Vec<u64>,
}

/// The panic reports in `console`, with what each address means below it.
///
/// # Errors
/// [`Error::NoPanic`].
pub fn decode(console: &str, symbols: &Symbols) -> Result<Decoded, Error> {
    let mut text = String::new();
    let mut misfits = Vec::new();
    let mut inside = false;
    let mut found = false;
    let mut base = None;
    // The instruction that an exception was taken at is seldom a call.
    let mut elr = None;
    for line in console.lines() {
        let Some(line) = line.find(PREFIX).map(|at| line[at..].trim_end()) else { continue };
        if line.contains(HEADLINE) {
            if found && !inside {
                text.push('\n');
            }
            found = true;
            inside = true;
        }
        if !inside {
            continue;
        }
        text.push_str(line);
        text.push('\n');
        if let Some(address) = number_after(line, IMAGE_AT) {
            base = Some(address);
            elr = None;
        }
        let mut show = |label: &str, address: u64, must_call: bool, may_be_data: bool| {
            let places = symbols.places(address);
            if (places.is_empty() && !may_be_data) || (must_call && !symbols.is_call(address)) {
                misfits.push(address);
            }
            if places.is_empty() {
                let _ = writeln!(text, "          {label}{address:#x} is not in the ELF file's text");
            }
            for place in places {
                let _ = writeln!(text, "          {label}{place}");
            }
        };
        if let Some(address) = frame(line) {
            let is_elr = elr == Some(address);
            show("", address, !is_elr, is_elr);
        } else {
            if let Some(address) = number_after(line, "ELR ").and_then(|address| relative(address, base)) {
                elr = Some(address);
                // Where Exeunt branched into its own data, that is where the exception was taken.
                show("ELR ", address, false, true);
            }
            // The link register holds where a call returns to; what it says of a function that has called none since is
            // right, of any other it is stale.
            if let Some(address) = number_after(line, "LR ")
                .filter(|_| line.contains(" SP "))
                .and_then(|address| relative(address, base))
                .and_then(|address| address.checked_sub(INSTRUCTION))
            {
                show("LR, called from ", address, false, false);
            }
        }
        if line.ends_with(LAST_LINE) {
            inside = false;
            base = None;
        }
    }
    if found { Ok(Decoded { text, misfits }) } else { Err(Error::NoPanic) }
}

/// The address in a line of the backtrace: `#<number> 0x<address>` after the prefix.
fn frame(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("] ")?;
    let mut words = rest.trim_start().strip_prefix('#')?.split_whitespace();
    words.next()?.parse::<u32>().ok()?;
    let address = hexadecimal(words.next()?)?;
    words.next().is_none().then_some(address)
}

/// The number after the first `label` that begins a word in `line`.
fn number_after(line: &str, label: &str) -> Option<u64> {
    let at = line.match_indices(label).map(|(at, _)| at).find(|&at| line[..at].ends_with([' ', ',']))?;
    hexadecimal(line[at + label.len()..].split([' ', ',']).next()?)
}

fn hexadecimal(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

/// An address of a register as the ELF file has it, if it is one of Exeunt's. The line about a fault during a panic
/// gives it like this already, and `base` lies above all of these.
fn relative(address: u64, base: Option<u64>) -> Option<u64> {
    let offset = base.and_then(|base| address.checked_sub(base)).unwrap_or(address);
    (offset < RESERVATION).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_backtrace_are_told_from_others() {
        assert_eq!(frame("[exeunt     0.063604 cpu0]     #0  0x000094f8"), Some(0x94f8));
        assert_eq!(frame("[exeunt     0.063604 cpu12]     #31 0x00001354"), Some(0x1354));
        for other in [
            "[exeunt     0.063604 cpu0]     #0",
            "[exeunt     0.063604 cpu0]     #x 0x1",
            "[exeunt     0.063604 cpu0]     #1 94f8",
            "[exeunt     0.063604 cpu0]     #1 0x1 and more",
            "[exeunt     0.063604 cpu0]   x0  0000000000000000",
            "#0 0x000094f8",
            "",
        ] {
            assert_eq!(frame(other), None, "{other}");
        }
    }

    #[test]
    fn numbers_are_found_by_their_label() {
        let registers = "[exeunt     0.1 cpu0]   ELR 0x0000000040207438 SPSR 0x800003c9 ESR 0x9600004f FAR 0x0";
        assert_eq!(number_after(registers, "ELR "), Some(0x4020_7438));
        let stack = "[exeunt     0.1 cpu0]   SP  0x00000000402355c0 LR 0x00000000402073f4";
        assert_eq!(number_after(stack, "LR "), Some(0x4020_73f4));
        // "LR " is also the end of "ELR ".
        assert_eq!(number_after(registers, "LR "), None);
        let place = "[exeunt     0.1 cpu0]   CPU 0 (MPIDR 0x80000000), image at 0x40200000, CurrentEL 2";
        assert_eq!(number_after(place, IMAGE_AT), Some(0x4020_0000));
    }

    #[test]
    fn names_of_files_are_shortened() {
        for (long, short) in [
            ("/home/me/exeunt/boot/src/entry.rs", "boot/src/entry.rs"),
            ("/rustc/59807616e1fa/library/core/src/panicking.rs", "library/core/src/panicking.rs"),
            ("/home/me/.rustup/t/lib/rustlib/src/rust/library/core/src/x.rs", "library/core/src/x.rs"),
            ("/home/me/.cargo/registry/src/index-1949cf8c6b5b557f/log-0.4.35/src/lib.rs", "log-0.4.35/src/lib.rs"),
            ("/elsewhere/a.rs", "/elsewhere/a.rs"),
            ("/rustc/", "/rustc/"),
        ] {
            assert_eq!(shorten(long, "/home/me/exeunt/"), short);
        }
    }

    #[test]
    fn only_addresses_of_exeunt_become_relative() {
        assert_eq!(relative(0x4020_1000, Some(0x4020_0000)), Some(0x1000));
        assert_eq!(relative(0x1000, Some(0x4020_0000)), Some(0x1000));
        assert_eq!(relative(0x4040_0000, Some(0x4020_0000)), None);
        assert_eq!(relative(u64::MAX, Some(0x4020_0000)), None);
        assert_eq!(relative(0x4020_1000, None), None);
    }

    #[test]
    fn what_is_no_elf_file_with_debug_information_is_refused() {
        assert!(matches!(Symbols::new(b"", "/"), Err(Error::NotElf(_))));
        assert!(matches!(Symbols::new(b"\x7fELF but not much of one", "/"), Err(Error::NotElf(_))));
    }
}
