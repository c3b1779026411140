//! What can go wrong, in sentences that say what to do, and the exit statuses.

use std::fmt::{self, Display};
use std::io;
use std::path::PathBuf;

use guest_abi::blackbox;
use guest_abi::vendor::Error;

use crate::page::Failed;

/// Exit statuses, as `exeunt help` and docs/seen.md have them. 2 is for a command line that is wrong.
pub mod status {
    /// Exeunt refused, or it did not work.
    pub const FAILED: u8 = 1;
    /// There is no Exeunt below this Linux.
    pub const NONE: u8 = 3;
    /// Exeunt has left.
    pub const LEFT: u8 = 4;
    /// This user, this kernel or this machine does not let anybody ask.
    pub const CANNOT_ASK: u8 = 5;
}

/// What went wrong.
#[derive(Debug)]
pub enum Trouble {
    /// The user is not root.
    NotRoot,
    /// There is no `/dev/mem`.
    NoDevMem,
    /// `/dev/mem` cannot be opened or mapped.
    Mapping(io::Error),
    /// The device tree cannot be read: the file, and why.
    Tree(PathBuf, io::Error),
    /// What the device tree says of Exeunt makes no sense.
    BadTree(String),
    /// The program is for another processor.
    NotAarch64,
    /// The device tree names no Exeunt.
    NoExeunt,
    /// Exeunt has left.
    Left,
    /// Exeunt is there by the device tree, and nothing answers at its doorbell.
    Silent,
    /// Something else than Exeunt is where it should be: what MAGIC gave.
    Strange(u64),
    /// Others were always faster.
    Crowded(u32),
    /// Exeunt refuses the command: which, and how.
    Refused(&'static str, Error),
    /// An Exeunt that does not know the call.
    TooOld(&'static str),
    /// The answer of a call makes no sense.
    Nonsense(&'static str, u64),
    /// The black box cannot be read.
    Box(blackbox::Error),
    /// The black box says of itself what cannot be.
    BoxPlace(u64, u64),
    /// Exeunt has left, and this kernel does not show the box.
    BoxHidden(String),
    /// There is no way back: why.
    NoWayBack(String),
    /// LOCK without `--yes`.
    NotConfirmed,
    /// There is no CPU with this number.
    NoCpu(u32),
    /// A file that exists is not overwritten.
    Exists(PathBuf),
    /// A file cannot be written.
    File(PathBuf, io::Error),
    /// Linux refuses something: what, and why.
    Linux(String, io::Error),
}

impl Trouble {
    /// The program's exit status.
    #[must_use]
    pub const fn status(&self) -> u8 {
        match self {
            Self::NoExeunt => status::NONE,
            Self::Left => status::LEFT,
            Self::NotRoot
            | Self::NoDevMem
            | Self::Mapping(_)
            | Self::Tree(..)
            | Self::BadTree(_)
            | Self::NotAarch64
            | Self::Silent
            | Self::Strange(_) => status::CANNOT_ASK,
            _ => status::FAILED,
        }
    }

    /// One word or two for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotRoot => "not-root",
            Self::NoDevMem => "no-dev-mem",
            Self::Mapping(_) => "mapping-refused",
            Self::Tree(..) | Self::BadTree(_) => "device-tree",
            Self::NotAarch64 => "not-aarch64",
            Self::NoExeunt => "none",
            Self::Left => "left",
            Self::Silent => "silent",
            Self::Strange(_) => "strange",
            Self::Crowded(_) => "crowded",
            Self::Refused(..) => "refused",
            Self::TooOld(_) => "too-old",
            Self::Nonsense(..) => "nonsense",
            Self::Box(_) | Self::BoxPlace(..) => "box-damaged",
            Self::BoxHidden(_) => "box-hidden",
            Self::NoWayBack(_) => "no-way-back",
            Self::NotConfirmed => "not-confirmed",
            Self::NoCpu(_) => "no-cpu",
            Self::Exists(_) => "exists",
            Self::File(..) => "file",
            Self::Linux(..) => "linux",
        }
    }
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Aborted => Self::Silent,
            Failed::Unmapped(error) => Self::Mapping(error),
        }
    }
}

impl From<blackbox::Error> for Trouble {
    fn from(error: blackbox::Error) -> Self {
        Self::Box(error)
    }
}

/// What a refusal of Exeunt's means for who has asked.
const fn refusal(error: Error) -> &'static str {
    match error {
        Error::NotSupported => "it does not know the call",
        Error::InvalidParameter => "it says that an argument is invalid",
        Error::Locked => "it is locked to this machine until the next reset, and neither leaves nor promises to",
        Error::Busy => "another CPU is being started, leaves or comes back at this moment. Try again",
        Error::WrongState => "it has left a CPU already. Bring it back first: exeunt back",
        Error::TimedOut => "a CPU did not come to EL2 in time. Nothing has changed. Try again",
    }
}

impl Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot => {
                f.write_str("only root can ask Exeunt: the way to it is /dev/mem. Become root, or call this with sudo")
            }
            Self::NoDevMem => f.write_str(
                "there is no /dev/mem, which is the way to Exeunt. This kernel is built without CONFIG_DEVMEM, or /dev \
                 is not mounted (mount -t devtmpfs devtmpfs /dev)",
            ),
            Self::Mapping(error) => write!(
                f,
                "/dev/mem does not give access to Exeunt's memory ({error}). Either you are root in a container only, \
                 or the kernel is locked down (cat /sys/kernel/security/lockdown must say [none])"
            ),
            Self::Tree(path, error) => write!(
                f,
                "the device tree cannot be read, which says where Exeunt is: {}: {error}. Is /proc mounted, and was \
                 this machine started by a device tree and not by ACPI?",
                path.display()
            ),
            Self::BadTree(what) => write!(f, "what the device tree says of Exeunt makes no sense: {what}"),
            Self::NotAarch64 => f.write_str("this program is for the Linux above Exeunt, on AArch64"),
            Self::NoExeunt => f.write_str(
                "there is no Exeunt below this Linux: the device tree has no /reserved-memory/exeunt@... `make run` \
                 starts a Linux above it",
            ),
            Self::Left => f.write_str("Exeunt has left this machine, and answers nothing. To get it back: exeunt back"),
            Self::Silent => f.write_str(
                "Exeunt is there by the device tree, but does not answer at its doorbell: it is older than this \
                 program, or it has died. The console tells which",
            ),
            Self::Strange(magic) => write!(
                f,
                "Exeunt's memory is there, but neither Exeunt nor what it leaves behind is in it (it begins with \
                 {magic:#018x}): something has written over it, or this program is older than Exeunt"
            ),
            Self::Crowded(tries) => write!(
                f,
                "other programs have used all channels of the doorbell in each of {tries} tries. Try again, or find \
                 out who calls so often"
            ),
            Self::Refused(command, error) => write!(f, "Exeunt refuses {command}: {}", refusal(*error)),
            Self::TooOld(command) => {
                write!(f, "this Exeunt does not know how {command}: it is older than this program")
            }
            Self::Nonsense(command, value) => write!(f, "Exeunt's answer to {command} makes no sense: {value:#x}"),
            Self::Box(error) => write!(
                f,
                "the black box is damaged or of another kind: {error}. What Exeunt itself says is on the console"
            ),
            Self::BoxPlace(start, size) => write!(
                f,
                "Exeunt says that its black box is at {start:#x} and has {size:#x} bytes, which cannot be: this \
                 program is older than Exeunt, or Exeunt's memory is damaged"
            ),
            Self::BoxHidden(why) => write!(
                f,
                "the black box is in memory that this kernel does not show ({why}). It is in every dump of this \
                 machine. If Exeunt has left, bring it back first: exeunt back"
            ),
            Self::NoWayBack(why) => f.write_str(why),
            Self::NotConfirmed => f.write_str(
                "nothing was done. After this call Exeunt stays until the machine is reset: it refuses to leave, also \
                 at a kexec and at a crash, and nobody can undo it. If you mean it: exeunt lock --yes",
            ),
            Self::NoCpu(cpu) => write!(f, "this machine has no CPU {cpu}"),
            Self::Exists(path) => write!(f, "{} is there already, and is not overwritten", path.display()),
            Self::File(path, error) => write!(f, "{} cannot be written: {error}", path.display()),
            Self::Linux(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Trouble {}
