//! `make gdb`: the machine of `make run`, stopped before its first instruction, and gdb on it. Exeunt's symbols are
//! loaded where QEMU loads the image, and the machine has run up to Exeunt's entry when gdb's prompt appears.
//!
//! The guest's console is in console.log, and on a pseudo-terminal for who wants to type there.

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
use crate::workstation::Places;

/// In which QEMU opens its socket, on a busy workstation.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked for.
const INTERVAL: Duration = Duration::from_millis(20);

/// Runs it, with further arguments for gdb. Returns the exit status.
#[must_use]
pub fn run(settings: &Settings, gdb_args: &[String], places: &Places) -> i32 {
    match debug(settings, gdb_args, places) {
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

fn debug(settings: &Settings, gdb_args: &[String], places: &Places) -> Result<i32, String> {
    let output = take_output(settings, places, "run")?;
    let bootargs = "console=ttyAMA0 earlycon";
    let mut machine = machine::prepare(settings, places, output, bootargs, &["gdb"], &mut |line| say(line))?;
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
    if settings.hypervisor == Hypervisor::Exeunt {
        // The ELF is linked at 0 and runs anywhere.
        let address = RAM_BASE + EXEUNT;
        if settings.exeunt_bin.is_some() {
            say("no symbols: EXEUNT_BIN is an image without them");
        } else {
            let profile = settings.profile.name();
            let elf = places.target().join("aarch64-unknown-none-softfloat").join(profile).join("exeunt");
            commands.push(format!("add-symbol-file {} -o {address:#x}", elf.display()));
        }
        commands.extend([target, format!("tbreak *{address:#x}"), "continue".to_owned()]);
    } else {
        commands.push(target);
    }
    for command in &commands {
        gdb.args(["-ex", command]);
    }
    let status = gdb.args(gdb_args).status().map_err(|error| format!("gdb-multiarch: {error}"))?;
    drop(qemu);
    let _ = std::fs::remove_file(&socket);
    Ok(status.code().unwrap_or(RUNNER_FAILED))
}
