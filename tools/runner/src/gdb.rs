//! `make gdb`: the machine of `make run`, stopped before its first instruction, and gdb on it. Exeunt's symbols are
//! loaded where QEMU loads the image, and so are the commands of tools/gdb/exeunt.py. The machine has run up to
//! Exeunt's entry when gdb's prompt appears, and what to type first is said.
//!
//! The guest's console is in console.log, and on a pseudo-terminal for who wants to type there.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::child::end_with_this_thread;
use crate::machine::{self, take_output};
use crate::placement::{EXEUNT, RAM_BASE};
use crate::qemu::escaped;
use crate::run::{RUNNER_FAILED, say};
use crate::settings::{Hypervisor, Settings};
use crate::symbols::Symbols;
use crate::workstation::Places;

/// In which QEMU opens its socket, on a busy workstation.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked for.
const INTERVAL: Duration = Duration::from_millis(20);

/// Runs it, with further arguments for gdb, and with the symbols of the host's kernel if somebody wants them. Returns
/// the exit status.
#[must_use]
pub fn run(settings: &Settings, symbols: Option<&Symbols>, gdb_args: &[String], places: &Places) -> i32 {
    match debug(settings, symbols, gdb_args, places) {
        Ok(status) => status,
        Err(error) => {
            say(&error);
            RUNNER_FAILED
        }
    }
}

/// A QEMU that ends with this program, and is ended when this is dropped.
struct Machine(Child);

impl Machine {
    fn start(command: &mut Command) -> io::Result<Self> {
        // In a process group of its own, so that Ctrl-C reaches gdb only.
        command.process_group(0);
        end_with_this_thread(command);
        command.spawn().map(Self)
    }

    /// Waits until `socket` is there.
    fn is_ready(&mut self, socket: &Path) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() {
            if let Ok(Some(status)) = self.0.try_wait() {
                return Err(format!("QEMU does not start: {status}; what it said stands above"));
            }
            if Instant::now() > deadline {
                return Err(format!("QEMU does not open {}", socket.display()));
            }
            thread::sleep(INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A path as gdb's commands take it.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

/// Where the host's kernel is in memory, by QEMU's command line.
fn kernel_address(command: &Command) -> Option<String> {
    let arguments: Vec<_> = command.get_args().filter_map(OsStr::to_str).collect();
    arguments.iter().find_map(|argument| {
        let (address, rest) = argument.strip_prefix("guest-loader,addr=")?.split_once(',')?;
        rest.starts_with("kernel=").then(|| address.to_owned())
    })
}

fn debug(settings: &Settings, symbols: Option<&Symbols>, gdb_args: &[String], places: &Places) -> Result<i32, String> {
    let output = take_output(settings, places, "run")?;
    let bootargs = "console=ttyAMA0 earlycon";
    let part = symbols.and_then(Symbols::part);
    let parts: Vec<&str> = ["gdb"].into_iter().chain(part.as_deref()).collect();
    let mut machine = machine::prepare(settings, places, output, bootargs, &parts, &mut |line| say(line))?;
    let log = machine.output.file("console.log");
    // The name of a socket may not be long.
    let socket = std::env::temp_dir().join(format!("exeunt-gdb-{}", std::process::id()));
    let file = escaped(&log);
    machine.command.args(["-chardev", &format!("pty,id=console,logfile={file},logappend=off")]);
    machine.command.args(["-serial", "chardev:console", "-S", "-gdb"]);
    machine.command.arg(format!("unix:{},server=on,wait=off", socket.display()));
    // QEMU says the pseudo-terminal's name there.
    machine.command.stdin(Stdio::null()).stdout(Stdio::from(io::stderr()));
    say(&machine.facts);
    machine.notes.iter().for_each(|note| say(note));
    let mut qemu = Machine::start(&mut machine.command).map_err(|error| format!("QEMU: {error}"))?;
    qemu.is_ready(&socket)?;
    say(&format!("the guest's console: {}", places.short(&log)));

    let mut gdb = Command::new("gdb-multiarch");
    gdb.args(["-quiet", "-nx"]);
    let mut commands =
        vec!["set pagination off".to_owned(), "set confirm off".to_owned(), "set architecture aarch64".to_owned()];
    let target = format!("target remote {}", socket.display());
    let script = format!("source {}", places.root.join("tools/gdb/exeunt.py").display());
    if let Some(vmlinux) = symbols.map(|symbols| symbols.file(places)) {
        commands.push(format!("set $exeunt_vmlinux = {}", quoted(&vmlinux)));
    }
    commands.extend(kernel_address(&machine.command).map(|address| format!("set $exeunt_kernel = {address}")));
    if settings.hypervisor == Hypervisor::Exeunt {
        // The ELF is linked at 0 and runs anywhere.
        let address = RAM_BASE + EXEUNT;
        if settings.exeunt_bin.is_some() {
            say("no symbols: EXEUNT_BIN is an image without them");
        } else {
            let profile = settings.profile.name();
            let elf = places.target().join("aarch64-unknown-none-softfloat").join(profile).join("exeunt");
            commands.push(format!("add-symbol-file {} -o {address:#x}", quoted(&elf)));
        }
        commands.push(format!("set $exeunt_base = {address:#x}"));
        commands.extend([target, script, format!("tbreak *{address:#x}"), "continue".to_owned()]);
    } else {
        commands.extend([target, script]);
    }
    commands.push("exeunt".to_owned());
    for command in &commands {
        gdb.args(["-ex", command]);
    }
    let status = gdb.args(gdb_args).status().map_err(|error| format!("gdb-multiarch: {error}"))?;
    drop(qemu);
    let _ = std::fs::remove_file(&socket);
    Ok(status.code().unwrap_or(RUNNER_FAILED))
}
