//! Running a program with a time limit, whatever it and its children do.
//!
//! Owns the rule that nothing outlives the tests: each program has a process group of its own, which is ended with the
//! [`Running`], and when the tests are asked to end. The kernel ends what was started when they are killed.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal, test_kill_process_group,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// How often a program that is being waited for is looked at.
const INTERVAL: Duration = Duration::from_millis(20);
/// What the groups get between being asked to end and being ended.
const GRACE: Duration = Duration::from_secs(15);

/// The groups that there are; none any more once the tests are asked to end.
#[derive(Default)]
struct Groups {
    running: Vec<Pid>,
    is_over: bool,
}

static GROUPS: Mutex<Groups> = Mutex::new(Groups { running: Vec::new(), is_over: false });

fn groups() -> MutexGuard<'static, Groups> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on a signal that asks this program to end, or the death of whoever has started it, ends all groups first.
/// cargo passes no signal on to the tests that it runs.
///
/// # Errors
/// The kernel does not take it.
pub fn end_all_when_asked() -> io::Result<()> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let mut asked = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if let Some(signal) = asked.forever().next() {
            end_all();
            let _ = emulate_default_handler(signal);
        }
    });
    if getppid() != parent {
        signal_hook::low_level::raise(SIGTERM)?;
    }
    Ok(())
}

/// Does not return once the tests are asked to end: whoever ends the groups ends this program, by the same signal.
pub fn stay_if_asked_to_end() {
    while groups().is_over {
        thread::park();
    }
}

/// Ends all groups, and lets no other begin.
fn end_all() {
    let running = {
        let mut groups = groups();
        groups.is_over = true;
        groups.running.clone()
    };
    let send = |signal| {
        for &group in &running {
            let _ = kill_process_group(group, signal);
        }
    };
    send(Signal::TERM);
    let deadline = Instant::now() + GRACE;
    while running.iter().any(|&group| test_kill_process_group(group).is_ok()) && Instant::now() < deadline {
        thread::sleep(INTERVAL);
    }
    send(Signal::KILL);
}

/// What a program did.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; 128 and the number of the signal, as in a shell, when a signal ended it.
    pub status: i32,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

/// Why there is no [`Ended`].
#[derive(Debug)]
pub enum Error {
    /// It could not be started, or not be waited for.
    Io(String, io::Error),
    /// It took longer than the limit, and was ended.
    TooLong(String, Duration, String),
    /// What was waited for never came.
    Missing(String, String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(program, error) => write!(f, "{program}: {error}"),
            Self::TooLong(program, limit, output) => {
                write!(f, "{program} took longer than {} s; its output ends with:\n{output}", limit.as_secs())
            }
            Self::Missing(what, output) => write!(f, "waited in vain for {what:?}; the output ends with:\n{output}"),
        }
    }
}

fn name_of(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The last lines of `text`.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn shell_status(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Reads all of `stream` in a thread of its own and passes it on in pieces.
fn reader(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A program that runs in a process group of its own, which is ended as a whole.
pub struct Running {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    output: Vec<u8>,
    errors: Vec<u8>,
    /// How much of `output` earlier calls of [`Running::expect`] have passed.
    passed: usize,
    started: Instant,
}

impl Running {
    /// Starts `command`; with `talk` its standard input is kept open for [`Running::send`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, talk: bool) -> Result<Self, Error> {
        let name = name_of(command);
        command
            .stdin(if talk { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        ask_to_end_with_this_thread(command);
        let mut child = {
            let mut groups = groups();
            if groups.is_over {
                return Err(Error::Io(name, io::Error::other("the tests are asked to end")));
            }
            let child = command.spawn().map_err(|error| Error::Io(name.clone(), error))?;
            groups.running.push(Pid::from_child(&child));
            child
        };
        let missing = || Error::Io(name.clone(), io::Error::other("no pipe"));
        let stdout = reader(child.stdout.take().ok_or_else(missing)?);
        let stderr = reader(child.stderr.take().ok_or_else(missing)?);
        Ok(Self {
            name,
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr,
            output: Vec::new(),
            errors: Vec::new(),
            passed: 0,
            started: Instant::now(),
        })
    }

    /// Writes `text` to its standard input.
    ///
    /// # Errors
    /// When it does not read any longer.
    pub fn send(&mut self, text: &str) -> Result<(), Error> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .map_err(|error| Error::Io(self.name.clone(), error))
    }

    /// Waits until `text` comes on its standard output, after what earlier calls have waited for.
    ///
    /// # Errors
    /// When it does not come within `limit`.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = find(&self.output[self.passed..], text.as_bytes()) {
                self.passed += at + text.len();
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(piece) => self.output.extend(piece),
                Err(_) => return Err(Error::Missing(text.to_owned(), self.end_of_output())),
            }
        }
    }

    /// Sends it a signal, by its name: the program that was started, and not what that has started.
    ///
    /// # Errors
    /// When it is not there.
    pub fn signal(&self, name: &str) -> Result<(), Error> {
        let failed = |error| Error::Io(self.name.clone(), error);
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().map_err(failed)?;
        if status.success() { Ok(()) } else { Err(failed(io::Error::other("it is not there"))) }
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When that takes longer than `limit`, counted from its start.
    pub fn finish(mut self, limit: Duration) -> Result<Ended, Error> {
        drop(self.stdin.take());
        loop {
            self.collect();
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    // The pipes close when the last process of the group ends.
                    self.output.extend(self.stdout.iter().flatten());
                    self.errors.extend(self.stderr.iter().flatten());
                    return Ok(Ended {
                        status: shell_status(status),
                        stdout: String::from_utf8_lossy(&self.output).into_owned(),
                        stderr: String::from_utf8_lossy(&self.errors).into_owned(),
                        took: self.started.elapsed(),
                    });
                }
                Ok(None) if self.started.elapsed() > limit => {
                    return Err(Error::TooLong(self.name.clone(), limit, self.end_of_output()));
                }
                Ok(None) => thread::sleep(INTERVAL),
                Err(error) => return Err(Error::Io(self.name.clone(), error)),
            }
        }
    }

    fn collect(&mut self) {
        self.output.extend(self.stdout.try_iter().flatten());
        self.errors.extend(self.stderr.try_iter().flatten());
    }

    fn end_of_output(&mut self) -> String {
        self.collect();
        let output = String::from_utf8_lossy(&self.output).into_owned();
        let errors = String::from_utf8_lossy(&self.errors).into_owned();
        format!("{}\n{}", tail(&output, 20), tail(&errors, 20))
    }
}

impl Drop for Running {
    /// Ends the whole group, if it still runs.
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.child.wait();
        }
        groups().running.retain(|other| *other != group);
    }
}

/// Has the kernel ask what `command` starts to end when the thread that starts it is gone: a killed program says
/// nothing to anybody. The runner ends its machine then.
fn ask_to_end_with_this_thread(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe functions may be called, and prctl(2) is a system call
    // without a lock or memory of this program's.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Runs `command` to its end.
///
/// # Errors
/// When it cannot be started or takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<Ended, Error> {
    Running::start(command, false)?.finish(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_passed_on() {
        let ended = run(&mut shell("echo out; echo err >&2; exit 7"), LONG).unwrap();
        assert_eq!((ended.status, &*ended.stdout, &*ended.stderr), (7, "out\n", "err\n"));
        assert_eq!(run(&mut shell("kill -9 $$"), LONG).unwrap().status, 137);
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended_with_its_children() {
        let started = Instant::now();
        let error = run(&mut shell("echo started; sleep 1000 & sleep 1000"), Duration::from_millis(300)).unwrap_err();
        assert!(matches!(&error, Error::TooLong(_, _, output) if output.contains("started")), "{error}");
        assert!(started.elapsed() < LONG);
    }

    #[test]
    fn a_conversation_waits_for_each_answer() {
        let mut running =
            Running::start(&mut shell("echo ready; read a; echo got $a; read b; echo got $b"), true).unwrap();
        running.expect("ready", LONG).unwrap();
        running.send("one\n").unwrap();
        running.expect("got one", LONG).unwrap();
        running.send("two\n").unwrap();
        running.expect("got", LONG).unwrap();
        let ended = running.finish(LONG).unwrap();
        assert_eq!(ended.stdout, "ready\ngot one\ngot two\n");
    }

    #[test]
    fn what_never_comes_is_an_error() {
        let mut running = Running::start(&mut shell("echo something; sleep 1000"), true).unwrap();
        running.expect("something", LONG).unwrap();
        // What has been waited for once does not count again.
        let error = running.expect("something", Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, Error::Missing(..)));
    }

    #[test]
    fn a_missing_program_is_an_error() {
        assert!(matches!(run(&mut Command::new("/nonexistent/program"), LONG), Err(Error::Io(..))));
    }
}
