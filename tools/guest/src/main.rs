//! `exeunt`: asks and steers Exeunt from the Linux above it.
//!
//! Owns the command line, what goes to which output, and how the program ends. The rest is the library's.

#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
use std::io::IsTerminal;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
use std::{path::Path, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use guest::commands::policy::Which;
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
use guest::commands::{Context, Said, about, back, crashes, exits, leave, log, map, panic, policy, status, trace};
use guest::trouble::Trouble;
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
use guest::{find, host::Linux, kcore::KCORE, memory::Memory};
use guest_abi::vendor::Policy;

/// The end of `exeunt help`.
const STATUSES: &str = "\
Exit status:
  0  done
  1  Exeunt refused, or it did not work
  2  the command line is wrong
  3  there is no Exeunt below this Linux
  4  Exeunt has left
  5  nobody can ask: not root, no /dev/mem, no device tree, no answer";

/// Asks and steers Exeunt, the hypervisor below this Linux. Without a command: says what is there.
#[derive(Debug, Parser)]
#[command(name = "exeunt", version, after_help = STATUSES, disable_help_subcommand = false)]
struct Arguments {
    /// Answer in JSON, for programs
    #[arg(long, global = true)]
    json: bool,
    /// Without a command: one line
    #[arg(long)]
    brief: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// The state of Exeunt and of each CPU
    Status {
        /// Again each second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Exeunt's own log
    Log {
        /// Wait for more, until Ctrl-C
        #[arg(short, long)]
        follow: bool,
    },
    /// How often something came from Linux to EL2: by class, by register, by CPU
    Exits {
        /// What comes in each second, until Ctrl-C. To ask takes exits, too: data aborts
        #[arg(long)]
        watch: bool,
    },
    /// Record what comes to EL2, one by one
    Trace {
        #[command(subcommand)]
        what: Trace,
    },
    /// Have Exeunt leave all CPUs while Linux runs
    Leave,
    /// Bring it back
    Back,
    /// What becomes of Exeunt at a kexec and at a crash; with two words, change it
    Policy {
        /// At which of the two
        #[arg(requires = "to")]
        at: Option<At>,
        /// What is to become of it
        to: Option<To>,
    },
    /// Keep Exeunt until the machine is reset
    Lock {
        /// Do it: nobody can undo it
        #[arg(long)]
        yes: bool,
    },
    /// Have Linux panic, and write its dump: on a CPU that hangs, too
    Panic {
        /// On which CPU, as Linux counts them; without, on the one that runs this program
        cpu: Option<u32>,
        /// Not by way of Linux's panic: Exeunt stops the other CPUs and starts the crash kernel itself, here
        #[arg(long, conflicts_with = "cpu")]
        force: bool,
    },
    /// The memory as Exeunt lets Linux have it
    Map,
    /// What Exeunt's start before this one has left in memory: whether it died, and the end of its log
    Crashes,
}

#[derive(Clone, Debug, Subcommand)]
enum Trace {
    /// Record from now on
    Start,
    /// Record no longer; what was recorded is kept
    Stop,
    /// Write the black box, with all that was recorded, to a file for exeunt-dump on the workstation
    Save {
        /// The file, which must not be there yet
        #[arg(default_value = "exeunt.box")]
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum At {
    Kexec,
    Crash,
    Both,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum To {
    /// It goes, and what comes next has EL2
    Leave,
    /// It stays below what comes next
    Resident,
}

fn main() -> ExitCode {
    // `exeunt log | head` ends quietly, as everybody's programs do.
    // SAFETY: no other thread is there, and nothing in this program relies on the signal's being ignored.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(status) => ExitCode::from(status),
        Err(trouble) => {
            if arguments.json {
                let json = serde_json::json!({ "error": { "kind": trouble.kind(), "words": trouble.to_string() } });
                let _ = writeln!(io::stdout(), "{json}");
            } else {
                // A program that is asked what is there answers on its output, also when nothing is.
                let is_answer = arguments.command.is_none() && matches!(trouble, Trouble::NoExeunt);
                let _ = if is_answer && arguments.brief {
                    writeln!(io::stdout(), "There is no Exeunt below this Linux.")
                } else if is_answer {
                    writeln!(io::stdout(), "{}", sentence(&trouble))
                } else {
                    writeln!(io::stderr(), "exeunt: {trouble}")
                };
            }
            ExitCode::from(trouble.status())
        }
    }
}

/// With a capital letter and a full stop.
fn sentence(trouble: &Trouble) -> String {
    let words = trouble.to_string();
    let mut letters = words.chars();
    let first = letters.next().map(char::to_uppercase).into_iter().flatten();
    format!("{}{}.", first.collect::<String>(), letters.as_str())
}

#[cfg(not(all(target_arch = "aarch64", target_os = "linux")))]
fn run(_arguments: &Arguments) -> Result<u8, Trouble> {
    Err(Trouble::NotAarch64)
}

#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn run(arguments: &Arguments) -> Result<u8, Trouble> {
    let place = find::find(Path::new(find::TREE))?;
    let memory = Memory::open(place.base)?;
    let linux = Linux::new()?;
    // Before any other CPU is visited: one of them may hang.
    if let Some(Command::Panic { cpu, force }) = arguments.command {
        let said = if force { panic::force(&memory, &linux)? } else { panic::run(&memory, &linux, cpu)? };
        say(&said, arguments.json)?;
        return Ok(said.status);
    }
    let context = Context::new(&memory, &linux, place, KCORE.into())?;
    let said = match &arguments.command {
        None if arguments.brief => about::brief(&context)?,
        None => about::run(&context)?,
        Some(Command::Status { watch: true }) => return watch_status(&context, arguments.json),
        Some(Command::Exits { watch: true }) => return watch_exits(&context, arguments.json),
        Some(Command::Log { follow: true }) => return follow(&context, arguments.json),
        Some(Command::Status { .. }) => status::run(&context)?,
        Some(Command::Exits { .. }) => exits::run(&context)?,
        Some(Command::Log { .. }) => log::run(&context)?,
        Some(Command::Trace { what: Trace::Start }) => trace::switch(&context, true)?,
        Some(Command::Trace { what: Trace::Stop }) => trace::switch(&context, false)?,
        Some(Command::Trace { what: Trace::Save { file } }) => trace::save(&context, file)?,
        Some(Command::Leave) => leave::run(&context)?,
        Some(Command::Back) => back::run(&context)?,
        Some(Command::Policy { at, to }) => policy::run(&context, at.zip(*to).map(|(at, to)| (at.into(), to.into())))?,
        Some(Command::Lock { yes }) => policy::lock(&context, *yes)?,
        Some(Command::Panic { cpu, .. }) => panic::run(&memory, &linux, *cpu)?,
        Some(Command::Map) => map::run(&context)?,
        Some(Command::Crashes) => crashes::run(&context)?,
    };
    say(&said, arguments.json)?;
    Ok(said.status)
}

/// Says it, in the form that was asked for.
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn say(said: &Said, json: bool) -> Result<(), Trouble> {
    if json { put(&format!("{}\n", said.json)) } else { put(&said.text) }
}

/// Writes to standard output. A full disk is an error there, too.
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn put(text: &str) -> Result<(), Trouble> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Trouble::Linux("standard output cannot be written to".to_owned(), error))
}

#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
const SECOND: Duration = Duration::from_secs(1);

/// Something that is asked again and again: not at the very moment at which Exeunt leaves.
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn ask_again<T>(context: &Context<'_>, ask: impl Fn(&Context<'_>) -> Result<T, Trouble>) -> Result<T, Trouble> {
    match ask(&context.again()?) {
        Err(Trouble::Left) => ask(&context.again()?),
        other => other,
    }
}

#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn watch_status(context: &Context<'_>, json: bool) -> Result<u8, Trouble> {
    loop {
        let said = ask_again(context, status::run)?;
        if !json && io::stdout().is_terminal() {
            // To the top left corner, and nothing of the last one below.
            put("\x1b[H\x1b[J")?;
        }
        say(&said, json)?;
        context.host.wait(SECOND);
    }
}

#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn watch_exits(context: &Context<'_>, json: bool) -> Result<u8, Trouble> {
    let mut before = exits::counts(context)?;
    loop {
        context.host.wait(SECOND);
        let after = ask_again(context, exits::counts)?;
        say(&exits::between(&before, &after), json)?;
        before = after;
    }
}

#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn follow(context: &Context<'_>, json: bool) -> Result<u8, Trouble> {
    context.needs_exeunt()?;
    let source = context.source()?;
    let mut follower = log::Follower::default();
    loop {
        if guest::door::presence(context.page)? == guest::door::Presence::Left {
            return Err(Trouble::Left);
        }
        for line in follower.next(&*source)? {
            if json {
                put(&format!("{}\n", serde_json::json!({ "line": line })))?;
            } else {
                put(&format!("{line}\n"))?;
            }
        }
        context.host.wait(SECOND / 5);
    }
}

impl From<At> for Which {
    fn from(at: At) -> Self {
        match at {
            At::Kexec => Self::Kexec,
            At::Crash => Self::Crash,
            At::Both => Self::Both,
        }
    }
}

impl From<To> for Policy {
    fn from(to: To) -> Self {
        match to {
            To::Leave => Self::Leave,
            To::Resident => Self::Resident,
        }
    }
}
