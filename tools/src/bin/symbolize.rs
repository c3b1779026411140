//! Command line of [`exeunt_tools::symbolize`]: console text in, the panic's report with functions and lines out.
//!
//! Returns 0 if every address fits to the ELF file, 1 if some do not (it says so), 2 if there is nothing to show.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use exeunt_tools::symbolize::{Symbols, decode};

const USAGE: &str = "\
Usage: symbolize [--elf FILE] [CONSOLE]
Shows the panics in Exeunt's console text (the file CONSOLE, else standard input) with functions and source lines.
  --elf FILE   the ELF file that ran; without it the release build,
               target/aarch64-unknown-none-softfloat/release/exeunt";

/// Below the directory of the workspace: what `scripts/build` leaves.
const DEFAULT_ELF: &str = "target/aarch64-unknown-none-softfloat/release/exeunt";
const DEBUG_ELF: &str = "target/aarch64-unknown-none-softfloat/debug/exeunt";

struct Arguments {
    elf: PathBuf,
    console: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(message) => {
            eprintln!("symbolize: {message}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let Some(arguments) = parse(env::args_os().skip(1), root)? else {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    };
    let elf = arguments.elf.display();
    let data = fs::read(&arguments.elf).map_err(|error| {
        format!("cannot read the ELF file {elf}: {error} (scripts/build makes it; --elf names another)")
    })?;
    let symbols = Symbols::new(&data, &root.to_string_lossy()).map_err(|error| format!("{elf}: {error}"))?;
    // A console holds whatever bytes the guest sent.
    let console = if let Some(path) = &arguments.console {
        fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?
    } else {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map_err(|error| format!("cannot read standard input: {error}"))?;
        bytes
    };
    let decoded = decode(&String::from_utf8_lossy(&console), &symbols).map_err(|error| error.to_string())?;
    io::stdout()
        .write_all(decoded.text.as_bytes())
        .map_err(|error| format!("cannot write to standard output: {error}"))?;
    if decoded.misfits.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let misfits: Vec<_> = decoded.misfits.iter().map(|address| format!("{address:#x}")).collect();
    eprintln!(
        "symbolize: {elf} is not the file that ran, as there is no code or no call at {}.\n\
         symbolize: Name the right one with --elf (for PROFILE=debug: {DEBUG_ELF}).",
        misfits.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

/// What the command line asks for; nothing if it asks for help.
fn parse(words: impl Iterator<Item = OsString>, root: &Path) -> Result<Option<Arguments>, String> {
    let mut elf = None;
    let mut console = None;
    let mut words = words;
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-h" | "--help") => return Ok(None),
            Some("--elf") => elf = Some(words.next().ok_or("--elf needs a file")?.into()),
            Some(option) if option.starts_with('-') && option.len() > 1 => {
                return Err(format!("there is no option {option}\n{USAGE}"));
            }
            _ if console.is_some() => return Err(format!("one console at a time\n{USAGE}")),
            _ => console = Some(word),
        }
    }
    let console = console.filter(|name| name != "-").map(PathBuf::from);
    Ok(Some(Arguments { elf: elf.unwrap_or_else(|| root.join(DEFAULT_ELF)), console }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Option<Arguments>, String> {
        parse(words.iter().map(OsString::from), Path::new("/root"))
    }

    #[test]
    fn arguments() {
        let arguments = parsed(&[]).unwrap().unwrap();
        assert_eq!((arguments.elf, arguments.console), (Path::new("/root").join(DEFAULT_ELF), None));
        let arguments = parsed(&["log", "--elf", "some"]).unwrap().unwrap();
        assert_eq!((arguments.elf, arguments.console), ("some".into(), Some("log".into())));
        assert!(parsed(&["-"]).unwrap().unwrap().console.is_none());
        assert!(parsed(&["--help"]).unwrap().is_none());
        for wrong in [&["--elf"][..], &["--unknown"], &["one", "two"]] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
