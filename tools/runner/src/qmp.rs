//! QEMU's own monitor (QMP): from it this program learns why a machine has ended. A guest that powers off and one that
//! resets a machine that is not to be reset both leave QEMU with status 0.
//!
//! Owns the two lines of that protocol that it takes (QEMU, docs/interop/qmp-spec.rst, qapi/run-state.json).

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::{self, JoinHandle};

use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::Value;

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
}
