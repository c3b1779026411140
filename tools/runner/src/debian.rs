//! `make debian`: a Debian with systemd, kdump-tools and ssh on a disk of its own, booted under Exeunt.
//!
//! scripts/debian-disk makes `target/debian/base.img`. Owns the person's own copy of that, `disk.img`, with the swap
//! beside it: both are made when they are not there, and never touched again but by the machine. The kernel and the
//! initrd are those of the disk, read out of it at each start.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, IsTerminal, PipeWriter, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::blackbox;
use crate::child::{End, Running, end_with_this_thread};
use crate::console;
use crate::machine::{self, Machine};
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::qemu::escaped;
use crate::run::{BY_A_SIGNAL, EXEUNT_FAILED, RUNNER_FAILED, TIME_IS_UP, console as console_of_qemu, print, say};
use crate::settings::{Hypervisor, Initrd, Kernel, Settings};
use crate::variables::{Values, Wrong};
use crate::workstation::Places;

/// Seconds that a machine may run which no person watches.
const USUAL_TIMEOUT: u64 = 1800;
/// What a boot to the login may take on a busy workstation.
const BOOT: Duration = Duration::from_mins(10);
/// And the way down.
const DOWN: Duration = Duration::from_mins(4);
/// Between two tries to log in.
const AGAIN: Duration = Duration::from_secs(1);
/// The end of what a getty prints.
const LOGIN: &str = "debian login: ";
/// How ssh says that there was no connection, or is none any more.
const NO_CONNECTION: i32 = 255;
/// Where kdump-tools save.
const CRASHES: &str = "/var/crash";

/// What a person wants.
#[derive(Clone, Debug)]
pub struct Debian {
    settings: Settings,
    run: Option<String>,
    crash: bool,
    /// Nothing that the machine writes is kept, and the person's own disk is not touched.
    is_trial: bool,
}

impl Debian {
    /// Out of the variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(values: &Values) -> Result<Self, Wrong> {
        let values = values.clone().or("MEM", "2G");
        let mut settings = Settings::read(&values)?;
        let run = settings.run.take();
        let crash = match values.get("CRASH") {
            None => false,
            Some("sysrq") if run.is_none() => true,
            Some("sysrq") => return Err(Wrong(vec!["CRASH=sysrq leaves nothing to do for RUN=".to_owned()])),
            Some(other) => return Err(Wrong(vec![format!("CRASH={other}: a Debian dies by sysrq")])),
        };
        if settings.hypervisor != Hypervisor::Exeunt {
            // The ITS does not survive a kexec of a kernel that EFI did not boot; Exeunt hides it for that reason.
            settings.qemu_extra.splice(0..0, ["-machine", "its=off"].map(str::to_owned));
        }
        Ok(Self { settings, run, crash, is_trial: false })
    }

    /// The same on a disk as it was made, of which nothing is kept.
    #[must_use]
    pub const fn on_trial(mut self) -> Self {
        self.is_trial = true;
        self
    }

    /// Does it. Returns the exit status.
    #[must_use]
    pub fn run(&self, places: &Places) -> i32 {
        let came = match &self.run {
            Some(command) => self.run_command(places, command),
            None if self.crash => self.run_crash(places),
            None => self.run_terminal(places),
        };
        came.unwrap_or_else(|error| {
            say(&error);
            RUNNER_FAILED
        })
    }

    /// A login on the terminal.
    fn run_terminal(&self, places: &Places) -> Result<i32, String> {
        let mut prepared = self.prepare(places, &mut |line| say(line))?;
        let log = prepared.machine.output.file("console.log");
        prepared.machine.command.args(console_of_qemu(&log));
        say(&prepared.machine.facts);
        say(&format!("by ssh, once it is up: {}", prepared.access.line(places)));
        say("on the console: root, without a password; `poweroff` ends it, and Ctrl-A, then x, ends QEMU at once");
        let limit = match (self.settings.timeout, io::stdin().is_terminal()) {
            (Some(0), _) | (None, true) => None,
            (Some(seconds), _) => Some(seconds),
            (None, false) => Some(USUAL_TIMEOUT),
        };
        let running = Running::start(&mut prepared.machine.command).map_err(|error| format!("QEMU: {error}"))?;
        let end = running.wait(limit.map(Duration::from_secs)).map_err(|error| format!("QEMU: {error}"))?;
        let console = fs::read(&log).unwrap_or_default();
        Ok(status_of(end, &String::from_utf8_lossy(&console), &places.short(&log).to_string()).unwrap_or(0))
    }

    /// A command by ssh, and off.
    fn run_command(&self, places: &Places, command: &str) -> Result<i32, String> {
        let progress = Progress::begin();
        let came = self.drive(places, &progress, |guest| {
            let booted = guest.boot(0)?;
            // From here on the terminal is the command's.
            progress.end();
            say(&format!("booted in {} s; running the command", booted.took.as_secs()));
            guest.pass_on(command)
        })?;
        let log = places.short(&came.log).to_string();
        if let Some(status) = status_of(came.end, &came.console, &log) {
            return Ok(status);
        }
        match came.result {
            Ok(status) => Ok(status),
            Err(error) => {
                say(&format!("{error}; console: {log}"));
                Ok(EXEUNT_FAILED)
            }
        }
    }

    /// A crash, the dump that Debian saves of it, the login after that, and the dump opened.
    fn run_crash(&self, places: &Places) -> Result<i32, String> {
        let progress = Progress::begin();
        let came = self.drive(places, &progress, |guest| {
            guest.boot(0)?;
            guest.crash(&progress)
        })?;
        progress.end();
        let log = places.short(&came.log).to_string();
        if let Some(status) = status_of(came.end, &came.console, &log) {
            return Ok(status);
        }
        if let Err(error) = came.result {
            say(&format!("{error}; console: {log}"));
            return Ok(EXEUNT_FAILED);
        }
        // The directory is free for whoever opens the dump.
        drop(came);
        fetch_and_open(places)
    }

    /// Starts the machine, and has `steps` use it; then it is powered off.
    ///
    /// # Errors
    /// It could not be started; in words.
    pub fn drive<T: Send>(
        &self,
        places: &Places,
        progress: &Progress,
        steps: impl FnOnce(&Guest) -> Result<T, String> + Send,
    ) -> Result<Came<T>, String> {
        let mut prepared = self.prepare(places, &mut |line| progress.phase(line))?;
        let log = prepared.machine.output.file("console.log");
        progress.phase("booting");
        let (keys, keyboard) = io::pipe().map_err(|error| format!("a pipe: {error}"))?;
        let command = &mut prepared.machine.command;
        command.args(console_of_qemu(&log)).stdin(keys).stdout(Stdio::piped());
        let mut running = Running::start(command).map_err(|error| format!("QEMU: {error}"))?;
        // The command has its own copy of QEMU's end of the pipe.
        command.stdin(Stdio::null());
        let stdout = running.stdout().ok_or("QEMU has no standard output")?;
        let console = Console::default();
        let guest =
            Guest { access: prepared.access, console: &console, keyboard: Mutex::new(keyboard), begin: Instant::now() };
        let limit = self.settings.timeout.unwrap_or(USUAL_TIMEOUT);
        let limit = (limit > 0).then(|| Duration::from_secs(limit));
        let (end, result) = thread::scope(|scope| {
            scope.spawn(|| console.listen(stdout));
            let stepping = scope.spawn(|| {
                let result = steps(&guest);
                guest.off();
                result
            });
            let end = running.wait(limit);
            (end, stepping.join())
        });
        let end = end.map_err(|error| format!("QEMU: {error}"))?;
        let result = result.map_err(|_| "the steps have panicked")?;
        Ok(Came { end, result, console: console.text(0), log, _output: prepared.machine.output })
    }

    /// Sets up, makes the disk if there is none, and composes the machine.
    fn prepare(&self, places: &Places, tell: &mut dyn FnMut(&str)) -> Result<Prepared, String> {
        let mut parts = vec!["debian".to_owned()];
        if self.settings.hypervisor == Hypervisor::Exeunt {
            parts.push("build".to_owned());
        }
        places.set_up(&parts)?;
        let home = Home::of(places);
        let output = match &self.settings.out {
            Some(path) => Output::take(path),
            None if self.is_trial => Output::take_one_of(&home.0.join("trial"), tell),
            None => Output::take(&home.run()),
        };
        let output = output.map_err(|error| match error {
            output::Error::InUse(path) => format!(
                "this Debian is running already; `ssh -F {} debian` logs in",
                places.short(&path.join("ssh_config"))
            ),
            error => error.to_string(),
        })?;
        let (disk, swap) = if self.is_trial {
            let swap = output.file("swap.img");
            make_swap(&swap, self.settings.mem.1)?;
            (home.base(), swap)
        } else {
            home.make_disk(tell)?;
            let swap = home.0.join("swap.img");
            if !swap.exists() {
                make_swap(&swap, self.settings.mem.1)?;
            }
            (home.disk(), swap)
        };
        let mut settings = self.settings.clone();
        let image = Image(&disk);
        for (link, name) in [("/vmlinuz", "vmlinuz"), ("/initrd.img", "initrd")] {
            image.take(link, &output.file(name))?;
        }
        settings.kernel = Kernel::File(output.file("vmlinuz"));
        settings.initrd = Initrd::File(output.file("initrd"));
        let access = Access::new(&home, &output)?;
        let snapshot = if self.is_trial { ",snapshot=on" } else { "" };
        let devices = [
            format!("if=none,id=disk,format=raw,discard=unmap{snapshot},file={}", escaped(&disk)),
            format!("if=none,id=swap,format=raw,discard=unmap,file={}", escaped(&swap)),
            format!("user,id=net,hostfwd=tcp:127.0.0.1:{}-:22", access.port),
        ];
        let [disk, swap, net] = &devices;
        let words = [
            "-drive",
            disk,
            "-device",
            "virtio-blk-pci,drive=disk",
            "-drive",
            swap,
            "-device",
            "virtio-blk-pci,drive=swap",
            "-netdev",
            net,
            // Set-up installs QEMU without the package that has the ROM, which nobody boots from here.
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
            "-device",
            "virtio-rng-pci",
        ];
        settings.qemu_extra.splice(0..0, words.map(str::to_owned));
        let bootargs = "root=LABEL=debian ro console=ttyAMA0 crashkernel=256M resume=LABEL=swap";
        let machine = machine::prepare(&settings, places, output, bootargs, &[], tell)?;
        Ok(Prepared { machine, access })
    }
}

/// How a machine ended that did not end by itself, and that Exeunt ended; else nothing.
fn status_of(end: End, console: &str, log: &str) -> Option<i32> {
    let (words, status) = match end {
        End::TimedOut => ("the time limit is over".to_owned(), TIME_IS_UP),
        End::Interrupted(signal) => (end.to_string(), BY_A_SIGNAL + signal),
        End::Exited(0) => (console::end_of_exeunt(console)?.to_owned(), EXEUNT_FAILED),
        End::Exited(_) | End::Silent(_) => (format!("QEMU {end}"), RUNNER_FAILED),
    };
    say(&format!("{words}; console: {log}"));
    Some(status)
}

struct Prepared {
    machine: Machine,
    access: Access,
}

/// What came of a machine that was driven.
#[derive(Debug)]
pub struct Came<T> {
    /// How QEMU ended.
    pub end: End,
    /// What the steps gave.
    pub result: Result<T, String>,
    /// The whole console.
    pub console: String,
    /// Where that is.
    pub log: PathBuf,
    _output: Output,
}

/// target/debian.
struct Home(PathBuf);

impl Home {
    fn of(places: &Places) -> Self {
        Self(places.target().join("debian"))
    }

    fn base(&self) -> PathBuf {
        self.0.join("base.img")
    }

    fn disk(&self) -> PathBuf {
        self.0.join("disk.img")
    }

    fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The person's own copy, if there is none.
    fn make_disk(&self, tell: &mut dyn FnMut(&str)) -> Result<(), String> {
        let disk = self.disk();
        if disk.exists() {
            return Ok(());
        }
        tell("making your own disk, target/debian/disk.img; to have a new one another time, remove it");
        // In one step, so that half a copy is never taken for the whole.
        let new = self.0.join("disk.img.new");
        let mut copy = Command::new("cp");
        copy.args(["--sparse=always", "--reflink=auto", "--"]).arg(self.base()).arg(&new);
        succeed(&mut copy, "the copy of base.img")?;
        fs::rename(&new, &disk).map_err(|error| format!("{}: {error}", disk.display()))
    }
}

/// Room for all of the memory: a hibernated Linux is there.
fn make_swap(file: &Path, bytes: u64) -> Result<(), String> {
    let made = File::create(file).and_then(|file| file.set_len(bytes));
    made.map_err(|error| format!("{}: {error}", file.display()))?;
    let mut mkswap = of_the_system("mkswap");
    mkswap.args(["--label", "swap"]).arg(file);
    succeed(&mut mkswap, "mkswap")
}

/// A program that is root's, and so not on everybody's PATH.
fn of_the_system(name: &str) -> Command {
    let mut command = Command::new("env");
    let path = std::env::var("PATH").unwrap_or_default();
    command.arg(format!("PATH={path}:/usr/sbin:/sbin")).arg(name);
    command
}

/// Runs a program that says nothing when it succeeds.
fn succeed(command: &mut Command, what: &str) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{what}: {}", errors.lines().last().unwrap_or("it has failed")))
}

/// A file system on the workstation, which debugfs reads as it lies there: nothing is mounted, and nothing needs root.
struct Image<'a>(&'a Path);

impl Image<'_> {
    fn ask(&self, request: &str) -> Result<String, String> {
        // -c: read-only, and without the maps of what is in use.
        let output = of_the_system("debugfs").args(["-c", "-R", request]).arg(self.0).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("debugfs: {error}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Copies the file that `path` is, or links to, to `to`.
    fn take(&self, path: &str, to: &Path) -> Result<(), String> {
        let stat = self.ask(&format!("stat {path}"))?;
        let path =
            link_of(&stat).map_or_else(|| path.to_owned(), |linked| format!("/{}", linked.trim_start_matches('/')));
        self.ask(&format!("dump {path} \"{}\"", to.display()))?;
        let bytes = fs::metadata(to).map_or(0, |file| file.len());
        if bytes == 0 { Err(format!("{} has no {path}", self.0.display())) } else { Ok(()) }
    }

    /// What is in the directory `path`: names and sizes.
    fn list(&self, path: &str) -> Result<Vec<(String, u64)>, String> {
        Ok(entries_of(&self.ask(&format!("ls -p {path}"))?))
    }
}

/// Where a link leads, of what debugfs says in `stat`.
fn link_of(stat: &str) -> Option<&str> {
    stat.split_once("link dest: \"")?.1.split('"').next()
}

/// Of `ls -p`: /INODE/MODE/UID/GID/NAME/SIZE/.
fn entries_of(list: &str) -> Vec<(String, u64)> {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split('/').collect();
        let name = words.get(5).filter(|name| !name.is_empty() && !name.starts_with('.'))?;
        Some(((*name).to_owned(), words.get(6).and_then(|size| size.parse().ok()).unwrap_or(0)))
    };
    list.lines().filter_map(entry).collect()
}

/// The way in.
#[derive(Debug)]
struct Access {
    port: u16,
    /// For `ssh -F`, with a host `debian`.
    config: PathBuf,
}

impl Access {
    fn new(home: &Home, output: &Output) -> Result<Self, String> {
        // Free until QEMU takes it, unless somebody is very quick: then QEMU says so.
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        let port = port.map_err(|error| format!("no port for ssh: {error}"))?.port();
        let config = output.file("ssh_config");
        let text = format!(
            "Host debian\n    HostName 127.0.0.1\n    Port {port}\n    User root\n    IdentityFile \"{}\"\n    \
             IdentitiesOnly yes\n    BatchMode yes\n    StrictHostKeyChecking no\n    \
             UserKnownHostsFile /dev/null\n    LogLevel ERROR\n    ConnectTimeout 30\n    \
             ServerAliveInterval 15\n    ServerAliveCountMax 8\n",
            home.0.join("key").display()
        );
        fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        Ok(Self { port, config })
    }

    /// As a person types it.
    fn line(&self, places: &Places) -> String {
        format!("ssh -F {} debian (port {})", places.short(&self.config), self.port)
    }

    fn ssh(&self, command: &str) -> Command {
        ssh(&self.config, command)
    }
}

fn ssh(config: &Path, command: &str) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args([OsStr::new("-F"), config.as_os_str(), OsStr::new("debian"), OsStr::new(command)]);
    ssh.stdin(Stdio::null());
    end_with_this_thread(&mut ssh);
    ssh
}

/// What a machine has said so far.
#[derive(Debug, Default)]
struct Console {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    text: Vec<u8>,
    is_over: bool,
}

impl Console {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, mut from: ChildStdout) {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            self.lock().text.extend_from_slice(&buffer[..length]);
            self.more.notify_all();
        }
        self.lock().is_over = true;
        self.more.notify_all();
    }

    fn text(&self, from: usize) -> String {
        String::from_utf8_lossy(&self.lock().text[from..]).replace('\r', "")
    }

    /// Waits until one of `words` is said behind `from`. Which, and where it ends.
    fn wait(&self, from: usize, words: &[&str], limit: Duration) -> Result<(usize, usize), String> {
        let deadline = Instant::now() + limit;
        let mut said = self.lock();
        loop {
            let text = &said.text[from.min(said.text.len())..];
            let found = |(number, word): (usize, &&str)| {
                let at = text.windows(word.len()).position(|window| window == word.as_bytes())?;
                Some((at, number, word.len()))
            };
            if let Some((at, number, length)) = words.iter().enumerate().filter_map(found).min() {
                return Ok((number, from + at + length));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if said.is_over || left.is_zero() {
                let why = if said.is_over { "the machine ended" } else { "the time was up" };
                return Err(format!("{why} before it said {:?}", words.join("\" or \"")));
            }
            said = self.more.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A Debian that runs, for whoever drives it.
#[derive(Debug)]
pub struct Guest<'a> {
    access: Access,
    console: &'a Console,
    keyboard: Mutex<PipeWriter>,
    begin: Instant,
}

/// A boot that came to a login.
#[derive(Clone, Copy, Debug)]
pub struct Booted {
    /// From the start of the machine, or of waiting for the boot.
    pub took: Duration,
    /// Where the console was then.
    pub at: usize,
}

impl Guest<'_> {
    /// How much the console has said: what comes next is behind it.
    #[must_use]
    pub fn here(&self) -> usize {
        self.console.lock().text.len()
    }

    /// What it has said since.
    #[must_use]
    pub fn said(&self, from: usize) -> String {
        self.console.text(from)
    }

    /// Waits until the console says one of `words` behind `from`: which.
    ///
    /// # Errors
    /// It did not, in words.
    pub fn wait(&self, from: usize, words: &[&str], limit: Duration) -> Result<(usize, usize), String> {
        self.console.wait(from, words, limit)
    }

    /// Waits for a login on the console behind `from`, and then for one by ssh.
    ///
    /// # Errors
    /// The machine panicked, ended or took too long; in words.
    pub fn boot(&self, from: usize) -> Result<Booted, String> {
        let begin = if from == 0 { self.begin } else { Instant::now() };
        let ends = [LOGIN, "EXEUNT PANIC", "EXEUNT CANNOT START"];
        let (which, at) = self.wait(from, &ends, BOOT)?;
        if which != 0 {
            return Err(ends[which].to_owned());
        }
        let took = begin.elapsed();
        self.log_in()?;
        Ok(Booted { took, at })
    }

    /// Waits until ssh gets in.
    ///
    /// # Errors
    /// It does not; in words.
    pub fn log_in(&self) -> Result<(), String> {
        let deadline = Instant::now() + BOOT;
        loop {
            match self.ask("true") {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                // Nothing tells when sshd is there; the wait is for a console that ends meanwhile.
                Err(_) => {
                    let said = self.console.lock();
                    if said.is_over {
                        return Err("the machine ended before ssh got in".to_owned());
                    }
                    drop(self.console.more.wait_timeout(said, AGAIN));
                }
            }
        }
    }

    /// What a command says, if it succeeds.
    ///
    /// # Errors
    /// Its status, and the last that it said.
    pub fn ask(&self, command: &str) -> Result<String, String> {
        let output = self.access.ssh(command).output().map_err(|error| format!("ssh: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if output.status.success() {
            return Ok(said);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("`{command}` failed ({}): {}{}", output.status, said, errors.trim_end()))
    }

    /// Begins what ends the connection: a reboot or a crash.
    ///
    /// # Errors
    /// ssh does not start.
    pub fn begin(&self, command: &str) -> Result<(), String> {
        // In a process of its own, so that ssh comes back before the machine is gone.
        let command = format!("systemd-run --quiet --collect sh -c '{}'", command.replace('\'', r"'\''"));
        self.ask(&command).map(drop)
    }

    /// Waits until kdump-tools are ready, has the kernel die, and waits for the login of the boot after that.
    ///
    /// # Errors
    /// One of it did not come; in words.
    pub fn crash(&self, progress: &Progress) -> Result<Booted, String> {
        progress.phase("waiting for kdump-tools, which load the crash kernel");
        self.ask(
            "for second in $(seq 240); do kdump-config status | grep -q 'ready to kdump' && exit; sleep 1; done; \
             kdump-config status; exit 1",
        )?;
        let here = self.here();
        progress.phase("the host dies");
        self.begin("sleep 1; echo c >/proc/sysrq-trigger")?;
        let mut at = here;
        for (words, phase) in [
            ("Starting crashdump kernel", "the crash kernel starts"),
            ("running makedumpfile", "makedumpfile saves the dump"),
            ("Booting Linux", "saved; the machine boots again"),
        ] {
            (_, at) = self.wait(at, &[words], BOOT)?;
            progress.phase(phase);
            if words.starts_with("Starting") {
                // The crash kernel's own first line.
                (_, at) = self.wait(at, &["Booting Linux"], BOOT)?;
            }
        }
        self.boot(at)
    }

    /// Runs a command whose output is the person's, and gives its status.
    fn pass_on(&self, command: &str) -> Result<i32, String> {
        let status = self.access.ssh(command).status().map_err(|error| format!("ssh: {error}"))?;
        match status.code() {
            Some(NO_CONNECTION) => {
                Err("the command returned 255, or the connection was lost: the machine went down".to_owned())
            }
            Some(status) => Ok(status),
            None => Err(format!("ssh: {status}")),
        }
    }

    /// Types on the console.
    fn type_in(&self, keys: &str) {
        let mut keyboard = self.keyboard.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = keyboard.write_all(keys.as_bytes());
    }

    /// Powers the machine off; if it does not go, QEMU ends.
    fn off(&self) {
        let is_over = || self.console.lock().is_over;
        if !is_over() {
            let asked = self.begin("systemctl poweroff");
            let deadline = Instant::now() + if asked.is_ok() { DOWN } else { Duration::ZERO };
            let mut said = self.console.lock();
            while !said.is_over && Instant::now() < deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                said = self.console.more.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        if !is_over() {
            // QEMU's own key: a host that answers nobody is not asked any longer.
            self.type_in("\x01x");
        }
    }
}

/// `make debian-dump`: the newest dump of the disk, brought here and opened. Returns the exit status.
#[must_use]
pub fn open_dump(places: &Places) -> i32 {
    fetch_and_open(places).unwrap_or_else(|error| {
        say(&error);
        RUNNER_FAILED
    })
}

fn fetch_and_open(places: &Places) -> Result<i32, String> {
    let home = Home::of(places);
    let disk = home.disk();
    if !disk.exists() {
        return Err("there is no disk yet: `make debian` makes it".to_owned());
    }
    places.set_up(&["debian".to_owned(), "drgn".to_owned()])?;
    let to = Output::take(&home.0.join("dump")).map_err(|error| error.to_string())?;
    let begin = Instant::now();
    let name = match Output::take(&home.run()) {
        // Held until it was read: nobody starts a machine on it meanwhile.
        Ok(_held) => from_disk(&Image(&disk), &to)?,
        Err(output::Error::InUse(path)) => by_ssh(&path.join("ssh_config"), &to)?,
        Err(error) => return Err(error.to_string()),
    };
    let (dump, dmesg) = (to.file("dump"), to.file("dmesg.txt"));
    let bytes = fs::metadata(&dump).map_or(0, |file| file.len());
    say(&format!("{CRASHES}/{name}, {bytes} bytes, is now {} ({} s)", places.short(&dump), begin.elapsed().as_secs()));
    let mut reader = Command::new(places.target().join("drgn/bin/python"));
    reader.arg(places.root.join("scripts/read-dump")).arg(&dump).arg(&dmesg);
    let output = reader.stdin(Stdio::null()).output().map_err(|error| format!("drgn: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("drgn: {}", errors.lines().last().unwrap_or("it says nothing")));
    }
    print(String::from_utf8_lossy(&output.stdout).trim_end());
    match blackbox::read(&dump, places, false) {
        Ok((_, words)) => print(&format!("\n{}", words.trim_end())),
        // A Debian that was booted without Exeunt has none.
        Err(error) => say(&error),
    }
    say(&blackbox::hint(&dump, places));
    say(&format!("drgn itself: target/drgn/bin/drgn -c {} (-s VMLINUX, for types)", places.short(&dump)));
    Ok(0)
}

/// What kdump-tools have saved last, in the order of their names, which are times.
fn newest(directories: impl IntoIterator<Item = String>) -> Option<String> {
    let is_time = |name: &String| name.len() >= 12 && name.bytes().all(|byte| byte.is_ascii_digit());
    directories.into_iter().filter(is_time).max()
}

const NO_DUMP: &str = "no crash has been saved: /var/crash of the disk has none (`echo c >/proc/sysrq-trigger` in \
                       it makes one)";

fn whole(name: &str, bytes: u64) -> Result<(), String> {
    if bytes > 0 {
        return Ok(());
    }
    Err(format!("{CRASHES}/{name} is empty: docs/debian.md says why makedumpfile gives up, and what helps"))
}

fn from_disk(image: &Image, to: &Output) -> Result<String, String> {
    let times = image.list(CRASHES)?;
    let time = newest(times.into_iter().map(|(name, _)| name)).ok_or(NO_DUMP)?;
    let directory = format!("{CRASHES}/{time}");
    let files = image.list(&directory)?;
    let dump = files.iter().find(|(name, _)| name.starts_with("dump."));
    let (dump, bytes) = dump.ok_or_else(|| format!("{directory} has no dump: it was not saved to its end"))?;
    let name = format!("{time}/{dump}");
    whole(&name, *bytes)?;
    image.take(&format!("{directory}/{dump}"), &to.file("dump"))?;
    image.take(&format!("{directory}/dmesg.{time}"), &to.file("dmesg.txt"))?;
    Ok(name)
}

fn by_ssh(config: &Path, to: &Output) -> Result<String, String> {
    let ask = |command: &str, stdout: Stdio| {
        let output = ssh(config, command).stdout(stdout).output().map_err(|error| format!("ssh: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("the machine that runs does not answer: {}", String::from_utf8_lossy(&output.stderr).trim_end()))
    };
    let times = ask(&format!("ls {CRASHES}"), Stdio::piped())?;
    let time = newest(times.lines().map(str::to_owned)).ok_or(NO_DUMP)?;
    let directory = format!("{CRASHES}/{time}");
    let name = format!("{time}/dump.{time}");
    for (file, here) in [("dump", "dump"), ("dmesg", "dmesg.txt")] {
        let here = to.file(here);
        let file_here = File::create(&here).map_err(|error| format!("{}: {error}", here.display()))?;
        ask(&format!("cat {directory}/{file}.{time}"), file_here.into())?;
    }
    whole(&name, fs::metadata(to.file("dump")).map_or(0, |file| file.len()))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debugfs_is_understood() {
        let stat = "Inode: 12   Type: symlink\nFast link dest: \"boot/vmlinuz-6.12\"\n";
        assert_eq!(link_of(stat), Some("boot/vmlinuz-6.12"));
        assert_eq!(link_of("Inode: 12   Type: regular\n"), None);
        let list =
            "/2/040755/0/0/.//\n/2/040755/0/0/..//\n/31/040755/0/0/202611292345//\n/33/100600/0/0/dump.1/42/\n\n";
        assert_eq!(entries_of(list), [("202611292345".to_owned(), 0), ("dump.1".to_owned(), 42)]);
    }

    #[test]
    fn the_newest_crash_is_the_one_that_is_opened() {
        let names = ["202611292345", "kexec_cmd", "202611300001", "202511300001"].map(str::to_owned);
        assert_eq!(newest(names).as_deref(), Some("202611300001"));
        assert_eq!(newest(["kexec_cmd".to_owned()]), None);
        assert!(whole("x", 0).is_err() && whole("x", 1).is_ok());
    }

    #[test]
    fn the_console_is_waited_for() {
        let console = Console::default();
        console.lock().text.extend_from_slice(b"one login: two login: ");
        assert_eq!(console.wait(0, &["login: ", "one"], Duration::ZERO), Ok((1, 3)));
        assert_eq!(console.wait(11, &["login: "], Duration::ZERO), Ok((0, 22)));
        let error = console.wait(22, &["login: ", "panic"], Duration::ZERO).unwrap_err();
        assert!(error.starts_with("the time was up before it said"), "{error}");
        console.lock().is_over = true;
        assert!(console.wait(22, &["x"], BOOT).unwrap_err().starts_with("the machine ended"));
    }
}
