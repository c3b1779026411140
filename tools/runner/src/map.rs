//! `make map`: boots the machine of `make run`, stops it, and draws the host's stage 2 out of the tables in its memory.
//!
//! What it shows is what the CPUs walk, not what Exeunt believes. The registers and the memory come from QEMU's gdbstub
//! (`map/stub.rs`), what is where comes from QEMU's own device tree.

mod page;
mod stub;
mod tree;
mod walk;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use guest_abi::RESERVATION;
use guest_abi::blackbox::{self, Header};

use self::page::Map;
use self::stub::Stub;
use self::tree::Place;
use self::walk::Shape;
use crate::child::{End, Running};
use crate::console;
use crate::machine::{self, take_output};
use crate::placement::{EXEUNT, RAM_BASE};
use crate::run::{self, RUNNER_FAILED, print, say};
use crate::settings::{Hypervisor, Initrd, Settings};
use crate::workstation::Places;

/// What the guest prints when it is up, and when it has run what a person wants it to.
const READY: &str = "exeunt-map: the guest is up";
/// A guest of a person's is up when it has said something, and then nothing for so long.
const QUIET: Duration = Duration::from_secs(5);
/// Seconds that a guest gets to be up.
const USUAL_TIMEOUT: u64 = 120;
/// How often it is looked whether it is.
const INTERVAL: Duration = Duration::from_millis(50);

/// Draws it. Returns the exit status.
#[must_use]
pub fn run(settings: &Settings, places: &Places) -> i32 {
    match draw(settings, places) {
        Ok((text, page)) => {
            print(text.trim_end());
            print(&format!("\nas a page for a browser: {page}"));
            0
        }
        Err(error) => {
            say(&error);
            RUNNER_FAILED
        }
    }
}

fn draw(settings: &Settings, places: &Places) -> Result<(String, String), String> {
    if settings.hypervisor != Hypervisor::Exeunt {
        return Err("HYPERVISOR=none has no stage 2 that could be drawn".to_owned());
    }
    let output = take_output(settings, places, "map")?;
    let mut settings = settings.clone();
    let says_so = settings.initrd == Initrd::Usual;
    if says_so {
        let first = settings.run.take().map(|run| format!("{run}\n")).unwrap_or_default();
        settings.run = Some(format!("{first}echo '{READY}'; while :; do sleep 1000; done"));
    } else if settings.run.is_some() {
        return Err("RUN= needs the project's own initramfs".to_owned());
    }
    let bootargs = "console=ttyAMA0 earlycon quiet panic=-1";
    let mut machine = machine::prepare(&settings, places, output, bootargs, &[], &mut |line| say(line))?;
    let tree = machine.output.file("machine.dtb");
    let places_of = tree::places(&device_tree(&machine.command, &tree)?)?;

    let log = machine.output.file("console.log");
    // The name of a socket may not be long.
    let socket = Socket(std::env::temp_dir().join(format!("exeunt-map-{}", std::process::id())));
    machine.command.args(run::console(&log)).arg("-no-reboot").arg("-gdb");
    machine.command.arg(format!("unix:{},server=on,wait=off", socket.0.display()));
    machine.command.stdin(Stdio::null()).stdout(Stdio::piped());
    say(&machine.facts);
    machine.notes.iter().for_each(|note| say(note));
    say("waiting until the guest is up");
    let mut running = Running::start(&mut machine.command).map_err(|error| format!("QEMU: {error}"))?;
    let heard = Heard::listen(running.stdout().ok_or("QEMU has no console")?);
    // A signal that asks this program to end comes to the thread that waits for QEMU: it ends QEMU, and so the console.
    let limit = Duration::from_secs(settings.timeout.filter(|&limit| limit > 0).unwrap_or(USUAL_TIMEOUT));
    let place = places.short(&log).to_string();
    let ender = running.ender();
    let waiting = thread::spawn(move || running.wait(None));
    let drawn = heard.wait_until_up(says_so, limit, &place).and_then(|()| {
        say("reading the tables");
        read(&socket.0, &machine.facts, places_of)
    });
    // It has done its part, if it is still there.
    if !waiting.is_finished() {
        ender.end();
    }
    if let Ok(Ok(end @ End::Interrupted(_))) = waiting.join() {
        return Err(format!("{end}; the console so far: {place}"));
    }
    let map = drawn?;
    let (text, page) = (map.text(), machine.output.file("map.html"));
    write(&machine.output.file("map.txt"), &text)?;
    write(&page, &map.page())?;
    Ok((text, places.short(&page).to_string()))
}

/// A socket that is removed when it is no longer needed.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The device tree that QEMU makes for this machine: it writes it and ends.
fn device_tree(command: &Command, to: &Path) -> Result<Vec<u8>, String> {
    let mut dump = Command::new(command.get_program());
    dump.args(command.get_args()).args(["-machine", &format!("dumpdtb={}", crate::qemu::escaped(to))]);
    dump.stdin(Stdio::null());
    let output = dump.output().map_err(|error| format!("QEMU: {error}"))?;
    fs::read(to).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("QEMU does not say its device tree: {}", said.lines().last().unwrap_or("no reason given"))
    })
}

/// What came of the console so far.
#[derive(Debug)]
struct Console {
    text: Vec<u8>,
    last: Instant,
    is_over: bool,
}

/// Somebody reads it.
struct Heard(Arc<Mutex<Console>>);

impl Heard {
    fn listen(mut from: ChildStdout) -> Self {
        let console = Arc::new(Mutex::new(Console { text: Vec::new(), last: Instant::now(), is_over: false }));
        let shared = Arc::clone(&console);
        thread::spawn(move || {
            let mut part = [0; 4096];
            loop {
                let read = match from.read(&mut part) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read.unwrap_or(0),
                };
                let mut console = shared.lock().unwrap_or_else(PoisonError::into_inner);
                console.text.extend(&part[..read]);
                console.last = Instant::now();
                if read == 0 {
                    console.is_over = true;
                    return;
                }
            }
        });
        Self(console)
    }

    /// Waits for the guest: for what it says if it `says_so`, else for silence.
    fn wait_until_up(&self, says_so: bool, limit: Duration, log: &str) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        loop {
            {
                let console = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let text = String::from_utf8_lossy(&console.text);
                if let Some(words) = console::end_of_exeunt(&text) {
                    return Err(format!("{words}; console: {log}"));
                }
                if console.is_over {
                    return Err(format!("the machine has ended before the guest was up; console: {log}"));
                }
                let is_up = if says_so {
                    text.contains(READY)
                } else {
                    !text.trim().is_empty() && console.last.elapsed() > QUIET
                };
                if is_up {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                return Err(format!("the guest is not up after {} s; console: {log}", limit.as_secs()));
            }
            thread::sleep(INTERVAL);
        }
    }
}

/// Stops the machine and reads the tables of the first CPU that has any.
fn read(socket: &Path, facts: &str, places: Vec<Place>) -> Result<Map, String> {
    let mut stub = Stub::connect(socket)?;
    let mut registers = None;
    for (number, cpu) in stub.cpus()?.iter().enumerate() {
        stub.select(cpu)?;
        let found = (stub.register("VTCR_EL2")?, stub.register("VTTBR_EL2")?);
        if found != (0, 0) {
            registers = Some((number, found));
            break;
        }
    }
    let Some((cpu, registers)) = registers else {
        return Err("no CPU has a stage 2: Exeunt has left them".to_owned());
    };
    let shape = Shape::of_registers(registers.0, registers.1)?;
    stub.read_physical()?;
    let exeunt = RAM_BASE + EXEUNT;
    let black_box = black_box(&mut stub, exeunt)?;
    let pieces = walk::walk(shape, &mut |table, entries| {
        let bytes = stub.memory(table, 8 * entries)?;
        Ok(bytes.chunks_exact(8).map(stub::number_of).collect())
    })?;
    let exeunt = (exeunt, exeunt + RESERVATION);
    Ok(Map { machine: facts.to_owned(), cpu, registers, shape, pieces, places, exeunt, black_box })
}

/// The first byte that belongs to the black box in the 2 MiB at `exeunt`.
fn black_box<S: Read + Write>(stub: &mut Stub<S>, exeunt: u64) -> Result<Option<u64>, String> {
    let place = exeunt + RESERVATION - blackbox::SIZE as u64;
    let header = Header::read(&stub.memory(place, Header::SIZE)?);
    Ok(header.ok().map(|header| header.start).filter(|start| (exeunt..=place).contains(start)))
}
