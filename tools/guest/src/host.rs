//! What is asked of Linux: its CPUs, the time, and something that makes an SMC.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{CpuSet, UnshareFlags, sched_getaffinity, sched_getcpu, sched_setaffinity, unshare_unsafe};

use crate::trouble::Trouble;

/// The Linux that this program runs in.
pub trait Host {
    /// The CPUs that are on, and on which this program may run.
    ///
    /// # Errors
    /// In words.
    fn cpus(&self) -> Result<Vec<u32>, Trouble>;

    /// The CPUs that are on, and on which this program may not run.
    ///
    /// # Errors
    /// In words.
    fn beyond(&self) -> Result<Vec<u32>, Trouble>;

    /// Goes to this CPU and stays there.
    ///
    /// # Errors
    /// In words.
    fn pin(&self, cpu: u32) -> Result<(), Trouble>;

    /// Stays on the CPU on which this program is.
    ///
    /// # Errors
    /// In words.
    fn stay(&self) -> Result<(), Trouble>;

    /// The affinity of the CPU with this number, as in MPIDR_EL1; nothing if there is no such CPU.
    fn mpidr(&self, cpu: u32) -> Option<u64>;

    /// Has the CPU on which this program is make an SMC. `cpu` is that one, and `others` are all that are on.
    ///
    /// # Errors
    /// Why nothing could be done, as the part of a sentence.
    fn make_smc(&self, cpu: u32, others: &[u32]) -> Result<(), String>;

    /// The counter of the machine's time, as in the black box; 0 where it cannot be read.
    fn time(&self) -> u64;

    /// Columns of the terminal that shows what this program says; nothing if it is none, or does not know.
    fn columns(&self) -> Option<u16>;

    /// Waits.
    fn wait(&self, time: Duration);
}

/// The numbers in a list as Linux writes it, such as `0-3,8`.
#[must_use]
pub fn numbers(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        if last > 0xffff {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Numbers as Linux writes them, for a person.
#[must_use]
pub fn list(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if number == *last + 1 => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let one = |&(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Linux itself.
#[derive(Debug)]
pub struct Linux {
    /// Where this program may run.
    allowed: CpuSet,
}

/// Where Linux tells of its CPUs, and turns them off and on.
const CPUS: &str = "/sys/devices/system/cpu";
const DEBUGFS: &str = "/sys/kernel/debug";
/// A read makes calls of PSCI's (Linux `drivers/firmware/psci/psci.c`, since 6.1).
const PSCI: &str = "/sys/kernel/debug/psci";

impl Linux {
    /// The one in which this program runs.
    ///
    /// # Errors
    /// When it does not say on which CPUs.
    pub fn new() -> Result<Self, Trouble> {
        // `taskset 1 exeunt` is about all CPUs, too. What a control group does not let it have, Linux leaves out.
        let mut all = CpuSet::new();
        (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
        let _ = sched_setaffinity(None, &all);
        let allowed = sched_getaffinity(None).map_err(|error| {
            Trouble::Linux("Linux does not say which CPUs this program may use".into(), error.into())
        })?;
        Ok(Self { allowed })
    }

    /// The CPUs that are on.
    fn online() -> Result<Vec<u32>, Trouble> {
        let path = format!("{CPUS}/online");
        let text = fs::read_to_string(&path).map_err(|error| {
            Trouble::Linux(format!("{path} cannot be read, which names the CPUs. Is /sys mounted?"), error)
        })?;
        numbers(&text).ok_or_else(|| {
            Trouble::Linux(format!("{path} has no list of CPUs: {text:?}"), io::ErrorKind::InvalidData.into())
        })
    }

    fn may_run_on(&self, cpu: u32) -> bool {
        (cpu as usize) < CpuSet::MAX_CPU && self.allowed.is_set(cpu as usize)
    }

    /// Mounts debugfs for this process alone, if nobody has mounted it.
    fn see_psci() -> Result<(), String> {
        if fs::metadata(PSCI).is_ok() {
            return Ok(());
        }
        let failed = |what: &str, error: rustix::io::Errno| format!("{what}: {error}");
        // SAFETY: the process has one thread, and no file descriptor is touched.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(|error| failed("no mounts of its own", error))?;
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
            .map_err(|error| failed("no private mounts", error))?;
        mount(c"debugfs", DEBUGFS, c"debugfs", MountFlags::empty(), None)
            .map_err(|error| failed("debugfs cannot be mounted", error))?;
        fs::metadata(PSCI).map(drop).map_err(|_| "this kernel has no psci file in debugfs".to_owned())
    }

    /// Turns another CPU off and on again: the CPU that asks for it makes the calls.
    fn restart_another(cpu: u32, others: &[u32]) -> Result<(), String> {
        let can = |other: &&u32| **other != cpu && fs::metadata(format!("{CPUS}/cpu{other}/online")).is_ok();
        let other = others.iter().rev().find(can).ok_or("no other CPU can be turned off and on")?;
        let path = format!("{CPUS}/cpu{other}/online");
        let write = |value: &str| fs::write(&path, value).map_err(|error| format!("{path} (writing {value}): {error}"));
        write("0")?;
        write("1")
    }
}

impl Host for Linux {
    fn cpus(&self) -> Result<Vec<u32>, Trouble> {
        Ok(Self::online()?.into_iter().filter(|&cpu| self.may_run_on(cpu)).collect())
    }

    fn beyond(&self) -> Result<Vec<u32>, Trouble> {
        Ok(Self::online()?.into_iter().filter(|&cpu| !self.may_run_on(cpu)).collect())
    }

    fn pin(&self, cpu: u32) -> Result<(), Trouble> {
        let mut set = CpuSet::new();
        set.set(cpu as usize);
        sched_setaffinity(None, &set)
            .map_err(|error| Trouble::Linux(format!("this program cannot go to CPU {cpu}"), error.into()))
    }

    fn stay(&self) -> Result<(), Trouble> {
        // Between the two it can be sent to another CPU, and back: then it comes to rest on this one.
        self.pin(u32::try_from(sched_getcpu()).unwrap_or(0))
    }

    fn mpidr(&self, cpu: u32) -> Option<u64> {
        let reg = fs::read(format!("{CPUS}/cpu{cpu}/of_node/reg")).ok()?;
        // One or two cells, big-endian.
        (matches!(reg.len(), 4 | 8)).then(|| reg.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn make_smc(&self, cpu: u32, others: &[u32]) -> Result<(), String> {
        let psci = Self::see_psci().and_then(|()| fs::read(PSCI).map_err(|error| format!("{PSCI}: {error}")));
        let Err(no_psci) = psci else { return Ok(()) };
        Self::restart_another(cpu, others).map_err(|no_restart| format!("{no_psci}; {no_restart}"))
    }

    fn time(&self) -> u64 {
        #[cfg(target_arch = "aarch64")]
        {
            let time: u64;
            // SAFETY: reads a counter that Linux opens to programs; under Exeunt it has no offset to the physical one.
            unsafe { std::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) time, options(nomem, nostack)) };
            time
        }
        #[cfg(not(target_arch = "aarch64"))]
        0
    }

    fn columns(&self) -> Option<u16> {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        Some(size.ws_col).filter(|&columns| columns > 0)
    }

    fn wait(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
