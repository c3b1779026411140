//! `exeunt-dump`: says what Exeunt's black box in a dump holds.
//!
//! Exit statuses: 0, it was found; 1, there is none, or something could not be read or written; 2, wrong arguments.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use dump::{Options, find, python};
use serde::Serialize;
use view::Report;
use view::report::LAST_EXITS;

/// The end of the help.
const MORE: &str = "\
A dump that makedumpfile has compressed is read by drgn; `scripts/setup drgn` installs it.

Exit status:
  0  the box was found, and all was written
  1  there is none, or something could not be read or written
  2  the command line is wrong";

/// Says what Exeunt's black box in a dump of a machine's memory holds: what died, in which order the CPUs stopped, the
/// last exits to EL2, Exeunt's log and life cycle.
///
/// DUMP is an ELF (/proc/vmcore, `makedumpfile -E`, QEMU's `dump-guest-memory`), what makedumpfile has compressed, a
/// file with memory as it is (QEMU's `pmemsave`), or a box alone (`exeunt trace save` in the guest).
#[derive(Parser)]
#[command(name = "exeunt-dump", version, after_help = MORE)]
struct Arguments {
    /// The dump.
    dump: PathBuf,
    /// Reads the box at this address, and looks for no other: /reserved-memory/exeunt-box@ADDRESS in the device tree.
    #[arg(long, value_parser = address)]
    address: Option<u64>,
    /// For a file with memory as it is: the address of its first byte. Without, the box in the file tells it.
    #[arg(long, value_parser = address)]
    base: Option<u64>,
    /// Prints all as JSON; what the dump lacks is in its field `notes` too.
    #[arg(long)]
    json: bool,
    /// Prints some ten lines only: what died, and how it ended.
    #[arg(long, conflicts_with = "json")]
    short: bool,
    /// How many of each CPU's last exits are printed.
    #[arg(long, default_value_t = LAST_EXITS)]
    exits: usize,
    /// Writes the trace: `perfetto` for ui.perfetto.dev, or `html`, a page of its own. May be given twice.
    #[arg(long, num_args = 2, value_names = ["FORMAT", "FILE"])]
    trace: Vec<String>,
    /// Writes the box alone.
    #[arg(long = "box", value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Writes over files that are there.
    #[arg(long)]
    force: bool,
}

/// An address, in hexadecimal with 0x or in decimal.
fn address(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "it is a number, such as 0x403f0000".to_owned())
}

/// What programs read.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// What has to be said about the dump: other boxes in it, what is missing.
    notes: &'a [String],
}

/// Says it to the person, if somebody still reads.
fn complain(words: &str) {
    let _ = writeln!(io::stderr(), "exeunt-dump: {words}");
}

/// Whether two names are of one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    place(one).is_some_and(|one| place(other) == Some(one))
}

fn write(arguments: &Arguments, file: &Path, bytes: &[u8]) -> Result<(), String> {
    let force = arguments.force;
    if force && is_same(file, &arguments.dump) {
        return Err(format!("{}: it is the dump itself, which is not written over", file.display()));
    }
    let mut how = OpenOptions::new();
    how.write(true).truncate(force).create(force).create_new(!force);
    let written = how.open(file).and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => format!("{}: it is there already; --force writes over it", file.display()),
        _ => format!("{}: {error}", file.display()),
    })
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let options = Options { address: arguments.address, base: arguments.base, python: python() };
    let mut traces = Vec::new();
    for pair in arguments.trace.chunks_exact(2) {
        let format =
            view::Trace::of(&pair[0]).ok_or_else(|| format!("--trace {}: the format is perfetto or html", pair[0]))?;
        traces.push((format, Path::new(&pair[1])));
    }
    let found = find(&arguments.dump, &options)?;
    for note in &found.notes {
        complain(note);
    }
    let found_box = found.black_box();
    let report = Report::of(&found_box);
    if let Some(file) = &arguments.raw {
        write(arguments, file, &found.bytes)?;
    }
    for (format, file) in traces {
        write(arguments, file, format.make(&found_box).as_bytes())?;
    }
    let text = if arguments.json {
        let answer = Answer { report: &report, notes: &found.notes };
        serde_json::to_string_pretty(&answer).map_err(|error| error.to_string())? + "\n"
    } else if arguments.short {
        report.short().to_string()
    } else {
        report.text(arguments.exits).to_string()
    };
    // Whoever reads it may have seen enough: `exeunt-dump DUMP | head`.
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}
