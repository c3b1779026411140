//! `make run`: one machine, its console, and the exit status that it leaves.
//!
//! With RUN= the guest runs that command as root and powers off. Standard output is then what the command prints and
//! nothing else, and all other lines of the console go to standard error. Without RUN= standard output is the console.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::child::{End, Running};
use crate::console::{self, Sort, Sorter};
use crate::machine::{self, Machine};
use crate::qemu::escaped;
use crate::qmp::{Monitor, Why};
use crate::settings::{Initrd, Settings};
use crate::workstation::Places;

/// Something of the runner's own has failed, as with env(1) and timeout(1).
pub const RUNNER_FAILED: i32 = 125;
/// Exeunt panicked or refused to start, or the guest ended without saying how.
pub const EXEUNT_FAILED: i32 = 126;
/// The time was up.
pub const TIME_IS_UP: i32 = 124;
/// QEMU was ended by a signal that this program got: 128 and its number, as in a shell.
pub const BY_A_SIGNAL: i32 = 128;

/// What a machine gets that no person watches, in seconds.
const USUAL_TIMEOUT: u64 = 120;
/// And one with a kernel, an initrd or a disk of a person's, of which nobody knows what it does first.
const TIMEOUT_OF_A_PERSONS: u64 = 600;

/// Says a line to the person.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "exeunt: {line}");
}

/// Prints a line of what was asked for. Whoever has closed standard output does not want it.
pub fn print(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Runs it. Returns the exit status: the guest's own, or one of those above.
#[must_use]
pub fn run(settings: &Settings, places: &Places) -> i32 {
    match prepared(settings, places) {
        Ok(status) => status,
        Err(error) => {
            say(&error);
            RUNNER_FAILED
        }
    }
}

fn prepared(settings: &Settings, places: &Places) -> Result<i32, String> {
    let stdin_is_terminal = io::stdin().is_terminal();
    let is_interactive = settings.run.is_none() && stdin_is_terminal;
    let output = machine::take_output(settings, places, "run")?;
    if settings.modules.is_some() && settings.devices.is_empty() {
        say("note: MODULES= is for DISK=, NET= and SHARE=, and there is none of them");
    }
    let mut machine = machine::prepare(settings, places, output, &bootargs(settings), &[], &mut |line| say(line))?;
    let log = machine.output.file("console.log");
    remove(&log)?;
    let is_ours = machine.is_linux && settings.initrd == Initrd::Usual;
    let limit = match (settings.timeout, is_interactive) {
        (Some(0), _) | (None, true) => None,
        (Some(seconds), _) => Some(seconds),
        (None, false) if is_ours || settings.run.is_some() => Some(USUAL_TIMEOUT),
        (None, false) => Some(TIMEOUT_OF_A_PERSONS),
    };
    machine.command.args(console(&log));
    if !settings.reboot.unwrap_or(is_interactive) {
        // A run ends with its guest: a reset would start it again.
        machine.command.arg("-no-reboot");
    }
    let monitor = Monitor::of(&mut machine.command).map_err(|error| error.to_string())?;
    say(&machine.facts);
    machine.notes.iter().for_each(|note| say(note));
    if is_interactive {
        say("leave QEMU with Ctrl-A, then x");
    } else if let (None, true, Some(seconds)) = (&settings.run, is_ours, limit) {
        say(&format!("no terminal to type at and no RUN=: the guest's shell waits for the time limit of {seconds} s"));
    }
    let Machine { command, output, .. } = &mut machine;
    let started = start(command, settings.run.is_some(), limit, monitor);
    let (end, why) = started.map_err(|error| format!("QEMU: {error}"))?;
    let place = places.short(&log);
    match end {
        End::TimedOut => {
            say(&format!("the time limit of {} s is over; the console so far: {place}", limit.unwrap_or_default()));
            return Ok(TIME_IS_UP);
        }
        End::Interrupted(signal) => {
            say(&format!("{end}; the console so far: {place}"));
            return Ok(BY_A_SIGNAL + signal);
        }
        End::Exited(0) => {}
        End::Exited(_) | End::Silent(_) => return Err(format!("QEMU {end}; console: {place}")),
    }
    // Locked until here.
    let _ = &output;
    let console = fs::read(&log).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    if let Some(words) = console::end_of_exeunt(&console) {
        say(&format!("{words}; console: {place}"));
        return Ok(EXEUNT_FAILED);
    }
    if let Some(status) = console::status(&console) {
        return Ok(status);
    }
    match why {
        Why::PoweredOff if settings.run.is_none() => return Ok(0),
        Why::Reset if settings.run.is_none() => {
            say(&format!("the guest has reset the machine, which ends it here; REBOOT=1 starts it again; {place}"));
        }
        // A person has left QEMU.
        Why::Other if is_interactive => return Ok(0),
        _ => say(&format!("the guest ended without a line `exeunt-run: exit status N`; console: {place}")),
    }
    Ok(EXEUNT_FAILED)
}

/// The host's command line, as far as it is the runner's.
fn bootargs(settings: &Settings) -> String {
    let mut words = "console=ttyAMA0 earlycon".to_owned();
    if settings.run.is_some() {
        // The command's output is what counts: of the kernel, warnings only. A panic ends the run at once.
        words.push_str(" quiet panic=-1");
    } else if io::stdin().is_terminal() && io::stderr().is_terminal() {
        // A kernel hands parameters that it does not know to its init as environment variables.
        let _ = write!(words, " TERM={}", std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned()));
        if let Ok(size) = rustix::termios::tcgetwinsize(io::stdin())
            && size.ws_row > 0
            && size.ws_col > 0
        {
            let _ = write!(words, " LINES={} COLUMNS={}", size.ws_row, size.ws_col);
        }
    }
    words
}

/// With a multiplexer Ctrl-A is QEMU's key (Ctrl-A x ends it), and Ctrl-C is the guest's.
#[must_use]
pub fn console(log: &Path) -> Vec<OsString> {
    let file = escaped(log);
    [
        "-chardev",
        &format!("stdio,id=console,mux=on,signal=off,logfile={file},logappend=off"),
        "-serial",
        "chardev:console",
        "-mon",
        "chardev=console,mode=readline",
    ]
    .map(OsString::from)
    .to_vec()
}

fn remove(file: &Path) -> Result<(), String> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", file.display())),
        _ => Ok(()),
    }
}

fn start(command: &mut Command, is_run: bool, limit: Option<u64>, monitor: Monitor) -> io::Result<(End, Why)> {
    if is_run {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
    }
    let mut running = Running::start(command)?;
    let monitor = monitor.listen();
    let sorting = running.stdout().map(|stdout| thread::spawn(move || sort(stdout)));
    let end = running.wait(limit.map(Duration::from_secs))?;
    if let Some(sorting) = sorting {
        sorting.join().map_err(|_| io::Error::other("the console was not read to its end"))??;
    }
    Ok((end, monitor.why()))
}

/// The command's lines to stdout, all others to stderr. Whoever has closed one of them does not want it.
fn sort(console: ChildStdout) -> io::Result<()> {
    let mut sorter = Sorter::default();
    let mut line = Vec::new();
    let mut console = BufReader::new(console);
    while console.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        match sorter.sort(text.trim_end_matches('\n')) {
            Sort::Command(text) => drop(writeln!(io::stdout().lock(), "{text}")),
            Sort::Other(text) => drop(writeln!(io::stderr().lock(), "{text}")),
            Sort::Frame => {}
        }
        line.clear();
    }
    Ok(())
}
