//! QEMU's own monitor (QMP): from it this program learns why a machine has ended, and gets memory of one that has. A
//! guest that powers off and one that resets a machine that is not to be reset both leave QEMU with status 0.
//!
//! Owns the few lines of that protocol that it takes (QEMU, docs/interop/qmp-spec.rst, qapi/run-state.json,
//! qapi/machine.json).

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::{Value, json};

/// Why a machine has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The guest has powered it off.
    PoweredOff,
    /// The guest has reset it, and a reset ends it.
    Reset,
    /// Not by the guest.
    Other,
}

/// A monitor that QEMU has not been started with yet.
#[derive(Debug)]
pub struct Monitor {
    ours: UnixStream,
    theirs: UnixStream,
}

/// One that somebody listens to.
#[derive(Debug)]
pub struct Listening(JoinHandle<Why>);

impl Monitor {
    /// Gives the QEMU of `command` a monitor.
    ///
    /// # Errors
    /// There are no sockets.
    pub fn of(command: &mut Command) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        // QEMU inherits it. This program starts nothing else before it.
        fcntl_setfd(&theirs, FdFlags::empty())?;
        command.args(["-chardev", &format!("socket,id=qmp,fd={}", theirs.as_raw_fd())]);
        command.args(["-mon", "chardev=qmp,mode=control"]);
        Ok(Self { ours, theirs })
    }

    /// QEMU was started: listens until it is gone.
    #[must_use]
    pub fn listen(self) -> Listening {
        // QEMU has its own; with this one open the end would never be seen.
        drop(self.theirs);
        Listening(thread::spawn(move || hear(self.ours).unwrap_or(Why::Other)))
    }

    /// QEMU was started, with `-no-shutdown`: once the guest turns the machine off, or resets it, so much memory from
    /// this address on goes to `file`, and QEMU ends.
    #[must_use]
    pub fn save_at_the_end(self, address: u64, size: u64, file: PathBuf) -> Saving {
        drop(self.theirs);
        Saving(thread::spawn(move || save(self.ours, address, size, &file)))
    }
}

/// Memory that is going to be written out.
#[derive(Debug)]
pub struct Saving(JoinHandle<io::Result<()>>);

impl Saving {
    /// QEMU has ended: was it written?
    ///
    /// # Errors
    /// It was not, or not to its end. A machine that had to be ended does not come to it.
    pub fn end(self) -> io::Result<()> {
        self.0.join().unwrap_or_else(|_| Err(io::Error::other("nobody has asked for it")))
    }
}

impl Listening {
    /// QEMU has ended: why?
    #[must_use]
    pub fn why(self) -> Why {
        self.0.join().unwrap_or(Why::Other)
    }
}

fn hear(monitor: UnixStream) -> io::Result<Why> {
    let mut to = monitor.try_clone()?;
    let mut why = Why::Other;
    for line in BufReader::new(monitor).lines() {
        // A QEMU that is killed leaves half a line, or resets the connection.
        let Ok(line) = line else { break };
        let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
        if said.get("QMP").is_some() {
            // Until it hears this it says nothing of what happens.
            to.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        }
        if said["event"] == "SHUTDOWN" {
            why = match said["data"]["reason"].as_str() {
                Some("guest-shutdown") => Why::PoweredOff,
                Some("guest-reset") => Why::Reset,
                _ => Why::Other,
            };
        }
    }
    Ok(why)
}

fn save(monitor: UnixStream, address: u64, size: u64, file: &Path) -> io::Result<()> {
    let mut to = monitor.try_clone()?;
    let mut tell = |what: Value| to.write_all((what.to_string() + "\n").as_bytes());
    let mut saved = Err(io::Error::other("the machine did not go off by itself"));
    for line in BufReader::new(monitor).lines() {
        let Ok(line) = line else { break };
        let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
        if said.get("QMP").is_some() {
            tell(json!({"execute": "qmp_capabilities"}))?;
        }
        // Who has asked QEMU to end wants no more of it: it ends by itself.
        if said["event"] == "SHUTDOWN" && said["data"]["guest"] == true {
            let arguments = json!({"val": address, "size": size, "filename": file});
            tell(json!({"execute": "pmemsave", "id": "memory", "arguments": arguments}))?;
        }
        if said["id"] == "memory" {
            saved = match said["error"]["desc"].as_str() {
                None => Ok(()),
                Some(error) => Err(io::Error::other(error)),
            };
            tell(json!({"execute": "quit"}))?;
        }
    }
    saved
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// What comes of a monitor that says `events` once it was asked to.
    fn heard(events: &str) -> Why {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let listening = Listening(thread::spawn(move || hear(ours).unwrap()));
        theirs.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n").unwrap();
        let mut asked = [0; 10];
        theirs.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"{\"execute\"");
        theirs.write_all(events.as_bytes()).unwrap();
        drop(theirs);
        listening.why()
    }

    #[test]
    fn a_power_off_is_told_from_a_reset() {
        let shutdown = |reason: &str| {
            let event = format!(r#"{{"event": "SHUTDOWN", "data": {{"guest": true, "reason": "{reason}"}}}}"#);
            format!("{{\"return\": {{}}}}\r\n{event}\r\n")
        };
        assert_eq!(heard(&shutdown("guest-shutdown")), Why::PoweredOff);
        assert_eq!(heard(&shutdown("guest-reset")), Why::Reset);
        assert_eq!(heard(&shutdown("host-signal")), Why::Other);
        assert_eq!(heard("{\"event\": \"RESET\"}\r\n{\"eve"), Why::Other);
    }

    #[test]
    fn memory_is_asked_for_once_the_guest_has_turned_the_machine_off() {
        for (answer, is_saved) in [(r#""return": {}"#, true), (r#""error": {"desc": "no room"}"#, false)] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let saving = Saving(thread::spawn(move || save(ours, 0x4020_0000, 0x20_0000, Path::new("/x/memory"))));
            let mut to = theirs.try_clone().unwrap();
            let mut asked = BufReader::new(theirs).lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()));
            let mut asked = || asked.next().unwrap().unwrap();
            to.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            assert_eq!(asked()["execute"], "qmp_capabilities");
            to.write_all(b"{\"return\": {}}\r\n{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true}}\r\n").unwrap();
            let save = asked();
            assert_eq!((&save["execute"], &save["arguments"]["val"]), (&json!("pmemsave"), &json!(0x4020_0000)));
            assert_eq!(save["arguments"]["filename"], "/x/memory");
            to.write_all(format!("{{\"id\": \"memory\", {answer}}}\r\n").as_bytes()).unwrap();
            assert_eq!(asked()["execute"], "quit");
            to.shutdown(std::net::Shutdown::Both).unwrap();
            assert_eq!(saving.end().is_ok(), is_saved);
        }
    }
}
