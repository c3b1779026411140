//! Programs for the guest's user space, one per CPU feature: each uses the feature from EL0 as ordinary software would,
//! says what it did, and ends with 0, with 1 when something was wrong, or with [`SKIPPED`] when the CPU, the kernel or
//! the machine does not offer the feature. Linked statically, so that an initramfs needs nothing else.
//!
//! They know nothing of Exeunt: a feature that a hypervisor left closed shows as SIGILL, wrong data, or a wrong signal.

/// Exit status when the feature is not there: a caller that demands it can tell this from a failure.
pub const SKIPPED: i32 = 77;

/// Bits of AT_HWCAP and AT_HWCAP2 (Linux `arch/arm64/include/uapi/asm/hwcap.h`).
pub mod hwcap {
    /// AT_HWCAP: pointer authentication of addresses.
    pub const PACA: u64 = 1 << 30;
    /// AT_HWCAP: pointer authentication of data, PACGA.
    pub const PACG: u64 = 1 << 31;
    /// AT_HWCAP: SVE.
    pub const SVE: u64 = 1 << 22;
    /// AT_HWCAP2: memory tagging.
    pub const MTE: u64 = 1 << 18;
    /// AT_HWCAP2: memory copy and memory set instructions.
    pub const MOPS: u64 = 1 << 43;
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::process::{Command, exit};

    /// Whether the kernel offers `bit` of AT_HWCAP.
    #[must_use]
    pub fn has(bit: u64) -> bool {
        // SAFETY: reads the process's auxiliary vector.
        unsafe { libc::getauxval(libc::AT_HWCAP) & bit != 0 }
    }

    /// Whether the kernel offers `bit` of AT_HWCAP2.
    #[must_use]
    pub fn has2(bit: u64) -> bool {
        // SAFETY: reads the process's auxiliary vector.
        unsafe { libc::getauxval(libc::AT_HWCAP2) & bit != 0 }
    }

    /// Ends the program because the feature is not there.
    pub fn skip(why: &str) -> ! {
        println!("skipped: {why}");
        exit(crate::SKIPPED)
    }

    /// Ends the program because something is wrong.
    pub fn fail(why: &str) -> ! {
        println!("FAIL: {why}");
        exit(1)
    }

    /// Runs this program again with `argument` and returns the signal that ended it, or its exit status.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run_again(argument: &str) -> Ending {
        use std::os::unix::process::ExitStatusExt;
        let program = std::env::current_exe().expect("/proc is mounted");
        let status = Command::new(program).arg(argument).status().expect("this program can be started again");
        match (status.signal(), status.code()) {
            (Some(signal), _) => Ending::Signal(signal),
            (None, code) => Ending::Status(code.unwrap_or(-1)),
        }
    }

    /// How a process ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Ending {
        /// By a signal.
        Signal(i32),
        /// By itself.
        Status(i32),
    }
}

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;

/// Defines `main`: `run` of the program's AArch64 part, or a word that this is no AArch64.
#[macro_export]
macro_rules! program {
    ($run:path) => {
        #[cfg(target_arch = "aarch64")]
        fn main() {
            $run();
        }

        #[cfg(not(target_arch = "aarch64"))]
        fn main() {
            println!("this program is for AArch64");
            std::process::exit($crate::SKIPPED);
        }
    };
}
