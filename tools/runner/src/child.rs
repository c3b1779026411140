//! A program that this one runs and never leaves behind.
//!
//! Owns the rule: whatever ends this program, be it a signal that cannot be caught, ends the other one too. Signals
//! that ask this program to end are passed on, and the other one gets time to end well.

use std::fmt;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};

/// The signals by which this program is asked to end.
const ASKS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// How many others run.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Whether none does: then these signals end this program as if nobody had ever listened for them.
fn idle() -> &'static AtomicBool {
    static IDLE: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    IDLE.get_or_init(|| {
        let idle = Arc::new(AtomicBool::new(true));
        for signal in ASKS {
            // Only signals of which nobody may take notice are refused.
            let _ = flag::register_conditional_default(signal, Arc::clone(&idle));
        }
        idle
    })
}

/// While it is there, a signal that asks this program to end does not end it by itself, also when no other runs.
#[derive(Debug)]
pub struct Held(());

/// For who has something to do after all others have ended, and listens for the signals by itself.
pub fn hold() -> Held {
    let idle = idle();
    RUNNING.fetch_add(1, Ordering::SeqCst);
    idle.store(false, Ordering::SeqCst);
    Held(())
}

impl Drop for Held {
    fn drop(&mut self) {
        if RUNNING.fetch_sub(1, Ordering::SeqCst) == 1 {
            idle().store(true, Ordering::SeqCst);
        }
    }
}

/// What a program gets between being asked to end and being ended.
const GRACE: Duration = Duration::from_secs(10);

/// How it came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself: the exit status, or as in a shell 128 and the number of the signal.
    Exited(i32),
    /// The time was up.
    TimedOut,
    /// It has said nothing for this long: see [`Silence`].
    Silent(Duration),
    /// This program was asked to end, by a signal of this number.
    Interrupted(i32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "ended with status {status}"),
            Self::TimedOut => f.write_str("took too long"),
            Self::Silent(most) => write!(f, "stood still: its console had nothing new for {} s", most.as_secs()),
            Self::Interrupted(SIGINT) => f.write_str("interrupted"),
            Self::Interrupted(SIGHUP) => f.write_str("the terminal is gone"),
            Self::Interrupted(_) => f.write_str("asked to end"),
        }
    }
}

enum Event {
    Ended(io::Result<ExitStatus>),
    Asked(i32),
}

/// Has what `command` starts end when the thread that starts it does.
pub fn end_with_this_thread(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe functions may be called, and prctl(2) is a system call
    // without a lock or memory of this program's.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

/// How long a program may say nothing, from some time on. Whoever listens to it says when something was heard.
#[derive(Debug)]
pub struct Silence {
    most: Duration,
    since: Mutex<Option<Instant>>,
}

impl Silence {
    /// How often somebody looks whether it counts by now.
    const LOOK: Duration = Duration::from_secs(1);

    /// It does not count yet.
    #[must_use]
    pub const fn of(most: Duration) -> Self {
        Self { most, since: Mutex::new(None) }
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It counts from now on.
    pub fn begin(&self) {
        *self.since() = Some(Instant::now());
    }

    /// Something was heard: if it counts, it begins anew.
    pub fn broken(&self) {
        if let Some(since) = &mut *self.since() {
            *since = Instant::now();
        }
    }

    /// When it will have lasted too long.
    fn end(&self) -> Option<Instant> {
        self.since().map(|since| since + self.most)
    }
}

/// A running program.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    stdout: Option<ChildStdout>,
    stdin: Option<ChildStdin>,
    events: Receiver<Event>,
    signals: Handle,
    is_over: bool,
}

impl Running {
    /// Starts `command`. The kernel tells it of the death of this *thread*: whoever starts a program waits for it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let idle = idle();
        let mut asked = Signals::new(ASKS)?;
        end_with_this_thread(command);
        let (sender, events) = mpsc::channel();
        let signals = asked.handle();
        let mut started = command.spawn()?;
        RUNNING.fetch_add(1, Ordering::SeqCst);
        idle.store(false, Ordering::SeqCst);
        let pid = Pid::from_child(&started);
        let (stdin, stdout) = (started.stdin.take(), started.stdout.take());
        let of_signals = sender.clone();
        thread::spawn(move || {
            for signal in asked.forever() {
                if of_signals.send(Event::Asked(signal)).is_err() {
                    break;
                }
            }
        });
        thread::spawn(move || {
            let _ = sender.send(Event::Ended(started.wait()));
        });
        Ok(Self { pid, stdout, stdin, events, signals, is_over: false })
    }

    /// What ends it while another thread waits for its end.
    #[must_use]
    pub const fn ender(&self) -> Ender {
        Ender(self.pid)
    }

    /// Its standard output, if it was piped and nobody has taken it.
    pub const fn stdout(&mut self) -> Option<ChildStdout> {
        self.stdout.take()
    }

    /// Its standard input, if it was piped and nobody has taken it.
    pub const fn stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// Waits for its end, `limit` at most.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn wait(self, limit: Option<Duration>) -> io::Result<End> {
        self.wait_unless_silent(limit, None)
    }

    /// The same, and not longer than its silence may last.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn wait_unless_silent(mut self, limit: Option<Duration>, silence: Option<&Silence>) -> io::Result<End> {
        let mut deadline = limit.map(|limit| Instant::now() + limit);
        let mut why = None;
        loop {
            let silence = silence.filter(|_| why.is_none());
            let look = silence.map(|silence| silence.end().unwrap_or_else(|| Instant::now() + Silence::LOOK));
            let event = match deadline.into_iter().chain(look).min() {
                Some(until) => self.events.recv_timeout(until.saturating_duration_since(Instant::now())),
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let is_past = |end: Option<Instant>| end.is_some_and(|end| Instant::now() >= end);
            match event {
                Ok(Event::Ended(status)) => {
                    self.is_over = true;
                    let status = status?;
                    let exited = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
                    return Ok(why.unwrap_or(End::Exited(exited)));
                }
                Ok(Event::Asked(signal)) => {
                    // Asked once more it ends at once.
                    let how = if why.is_none() { Signal::TERM } else { Signal::KILL };
                    why = why.or(Some(End::Interrupted(signal)));
                    let _ = kill_process(self.pid, how);
                    deadline = Some(Instant::now() + GRACE);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let silence = silence.filter(|silence| is_past(silence.end()));
                    if silence.is_none() && !is_past(deadline) {
                        continue;
                    }
                    let how = if why.is_none() { Signal::TERM } else { Signal::KILL };
                    why = why.or(Some(silence.map_or(End::TimedOut, |silence| End::Silent(silence.most))));
                    let _ = kill_process(self.pid, how);
                    deadline = Some(Instant::now() + GRACE);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("nobody waits for it")),
            }
        }
    }
}

/// Ends a program whose end somebody waits for.
#[derive(Clone, Copy, Debug)]
pub struct Ender(Pid);

impl Ender {
    /// Ends it, at once and without a word of its own. Only before its end was waited for to the last: afterwards the
    /// number may be another program's.
    pub fn end(self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

impl Drop for Running {
    /// Ends it, if nobody has waited for its end.
    fn drop(&mut self) {
        if !self.is_over {
            let _ = kill_process(self.pid, Signal::KILL);
        }
        self.signals.close();
        if RUNNING.fetch_sub(1, Ordering::SeqCst) == 1 {
            idle().store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    fn is_there(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_status_is_passed_on() {
        for (script, status) in [("exit 7", 7), ("kill -SEGV $$", 139)] {
            let end = Running::start(&mut shell(script)).unwrap().wait(Some(Duration::from_mins(1)));
            assert_eq!(end.unwrap(), End::Exited(status));
        }
    }

    #[test]
    fn one_that_takes_too_long_is_ended() {
        let running = Running::start(&mut shell("exec sleep 100")).unwrap();
        let pid = running.pid.as_raw_nonzero().get();
        assert_eq!(running.wait(Some(Duration::from_millis(50))).unwrap(), End::TimedOut);
        assert!(!is_there(pid));
    }

    #[test]
    fn one_that_stands_still_is_ended_once_that_counts() {
        let most = Duration::from_millis(50);
        let wait = |script: &str, silence: &Silence| {
            let running = Running::start(&mut shell(script)).unwrap();
            running.wait_unless_silent(Some(Duration::from_mins(1)), Some(silence)).unwrap()
        };
        let counts = Silence::of(most);
        counts.begin();
        assert_eq!(wait("exec sleep 100", &counts), End::Silent(most));
        // It does not count yet, whatever is heard.
        let is_free = Silence::of(most);
        is_free.broken();
        assert_eq!(wait("sleep 0.2; exit 3", &is_free), End::Exited(3));
        // What is heard prolongs it.
        let talks = Silence::of(Duration::from_secs(1));
        talks.begin();
        let is_over = AtomicBool::new(false);
        let end = thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    talks.broken();
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let end = wait("sleep 1.5; exit 4", &talks);
            is_over.store(true, Ordering::SeqCst);
            end
        });
        assert_eq!(end, End::Exited(4));
    }

    #[test]
    fn it_dies_with_the_thread_that_has_started_it() {
        let pid = thread::spawn(|| {
            let mut command = shell("echo; exec sleep 100");
            let mut running = Running::start(command.stdout(Stdio::piped())).unwrap();
            // It has begun, and so it has asked for the signal.
            running.stdout().unwrap().read_exact(&mut [0]).unwrap();
            running.pid.as_raw_nonzero().get()
        });
        let pid = pid.join().unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        while is_there(pid) {
            assert!(Instant::now() < deadline, "it is still there");
            thread::yield_now();
        }
    }
}
