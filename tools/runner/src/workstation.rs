//! Where things are on this workstation, and the scripts that put them there.
//!
//! Owns the calls of scripts/setup and scripts/build, which stay in bash because they must work before cargo does.

use std::env;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::settings::{Kernel, Profile};

/// The project's directories.
#[derive(Clone, Debug)]
pub struct Places {
    /// The clone.
    pub root: PathBuf,
}

impl Places {
    /// Of the sources that this program was built from.
    #[must_use]
    pub fn of_this_build() -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { root: package.ancestors().nth(2).unwrap_or(package).to_owned() }
    }

    /// All that is made.
    #[must_use]
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// A kernel that set-up fetches.
    #[must_use]
    pub fn kernel(&self, name: &str) -> PathBuf {
        self.target().join("guest/kernels").join(name).join("vmlinuz")
    }

    /// Which version that is.
    #[must_use]
    pub fn kernel_version(&self, name: &str) -> Option<String> {
        let file = self.target().join("guest/kernels").join(name).join("version");
        Some(std::fs::read_to_string(file).ok()?.trim().to_owned())
    }

    /// How long ago it was fetched.
    #[must_use]
    pub fn kernel_age(&self, name: &str) -> Option<std::time::Duration> {
        let file = self.target().join("guest/kernels").join(name).join("version");
        std::fs::metadata(file).ok()?.modified().ok()?.elapsed().ok()
    }

    /// The project's initramfs.
    #[must_use]
    pub fn initramfs(&self) -> PathBuf {
        self.target().join("guest/initramfs.cpio")
    }

    /// The program that serves a directory by virtiofs: the one that the workstation has, or set-up's.
    #[must_use]
    pub fn virtiofsd(&self) -> PathBuf {
        let debians = PathBuf::from("/usr/libexec/virtiofsd");
        if debians.exists() { debians } else { self.target().join("virtiofsd/virtiofsd") }
    }

    /// Exeunt's image.
    #[must_use]
    pub fn exeunt(&self, profile: Profile) -> PathBuf {
        self.target().join(format!("exeunt-{}.bin", profile.name()))
    }

    /// A path as a person in the clone would write it.
    #[must_use]
    pub fn short<'a>(&self, path: &'a Path) -> impl Display + use<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }

    /// A script of the project's. What it says is for the person: stdout belongs to the guest.
    #[must_use]
    pub fn script(&self, name: &str) -> Command {
        let mut command = Command::new(self.root.join("scripts").join(name));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Has set-up bring what `parts` are.
    ///
    /// # Errors
    /// It has failed, and has said why.
    pub fn set_up(&self, parts: &[String]) -> Result<(), String> {
        run(self.script("setup").args(parts), "set-up")
    }

    /// Builds Exeunt.
    ///
    /// # Errors
    /// It does not build; cargo has said why.
    pub fn build(&self, profile: Profile) -> Result<(), String> {
        run(self.script("build").env("QUIET", "1").env("PROFILE", profile.name()), "the build of Exeunt")
    }
}

fn run(command: &mut Command, what: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(format!("{what} has failed; what it said stands above")),
        Err(error) => Err(format!("{what} cannot be started: {error}")),
    }
}

/// The part of set-up that brings a kernel, if it is one of its own.
#[must_use]
pub fn part_of(kernel: &Kernel) -> Option<String> {
    match kernel {
        Kernel::Named(name) => Some(format!("kernel:{name}")),
        Kernel::File(_) => None,
    }
}
