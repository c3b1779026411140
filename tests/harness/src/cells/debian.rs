//! Debian with systemd on its own disk: what people do to such a machine, in both entry modes and beside bare QEMU.
//!
//! One machine for each, which is used as a person would by ssh, and which nothing is kept of (`runner::debian`).

use std::time::Duration;

use runner::debian::{Booted, Debian, Guest};
use runner::progress::Progress;
use runner::variables::{Target, Values};
use runner::workstation::Places;

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::ensure;
use crate::machine::PATIENT;

/// Seconds for all that is done to one machine, on a busy workstation.
const LIMIT: u64 = 3600;
/// For one step that is no boot.
const STEP: Duration = Duration::from_mins(10);

/// Who has EL2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    VirtualEl2,
    El1,
    Nobody,
}

impl Below {
    const ALL: [Self; 3] = [Self::VirtualEl2, Self::El1, Self::Nobody];

    const fn name(self) -> &'static str {
        match self {
            Self::VirtualEl2 => "el2",
            Self::El1 => "el1",
            Self::Nobody => "none",
        }
    }

    /// At which level the first kernel is started.
    const fn level(self) -> &'static str {
        match self {
            Self::El1 => "EL1",
            Self::VirtualEl2 | Self::Nobody => "EL2",
        }
    }
}

/// The machine, with these further options for Exeunt and words for the host's command line.
fn debian(context: &Context, below: Below, options: &str, cpu: &str) -> Result<Debian, Missed> {
    let out = context.directory()?.join("machine").display().to_string();
    let limit = LIMIT.to_string();
    let (hypervisor, exeunt) = match below {
        Below::VirtualEl2 => ("exeunt", format!("entry=el2 {options}")),
        Below::El1 => ("exeunt", format!("entry=el1 {options}")),
        Below::Nobody => ("none", String::new()),
    };
    let set = [
        ("OUT", out.as_str()),
        ("HYPERVISOR", hypervisor),
        ("EXEUNT", &exeunt),
        ("CPU", cpu),
        ("SMP", "2"),
        ("APPEND", PATIENT),
        ("TIMEOUT", &limit),
    ];
    let look_up = |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
    Ok(Debian::read(&Values::read(Target::Debian, [], look_up)?)?.on_trial())
}

/// Does `steps` to the machine, which then has to power off.
fn drive(debian: &Debian, steps: impl FnOnce(&Guest) -> Result<(), String> + Send) -> Outcome {
    let came = debian.drive(&Places::of_this_build(), &Progress::begin(), steps)?;
    came.result?;
    ensure!(came.end == runner::child::End::Exited(0), "QEMU {}", came.end);
    ensure!(!came.console.contains("EXEUNT PANIC"), "Exeunt panicked");
    Ok(())
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// The kernel's own word on where it was started.
fn level(guest: &Guest) -> Result<String, String> {
    guest.ask("dmesg | sed -n 's/.*CPU: All CPU(s) started at \\(EL[12]\\).*/\\1/p'")
}

fn boot_id(guest: &Guest) -> Result<String, String> {
    guest.ask("cat /proc/sys/kernel/random/boot_id")
}

/// Has the machine go, waits for the next login, and says that it was another boot.
fn restarts(guest: &Guest, how: &str, command: &str) -> Result<Booted, String> {
    let (here, before) = (guest.here(), boot_id(guest)?);
    guest.begin(command)?;
    let booted = guest.boot(here).map_err(|error| format!("{how}: {error}"))?;
    check(boot_id(guest)? != before, || format!("{how}: it is the boot from before"))?;
    eprintln!("    {how}: a login after {} s", booted.took.as_secs());
    Ok(booted)
}

/// No kernel of the machine has complained.
fn is_well(guest: &Guest, when: &str) -> Result<(), String> {
    let complaints =
        guest.ask("dmesg | grep -E 'WARNING:|BUG:|Oops|Internal error|Call trace|failed to boot CPU' || true")?;
    check(complaints.is_empty(), || format!("{when}, the kernel complains: {complaints}"))
}

/// All that a person does to a machine that stays on.
fn on(guest: &Guest, below: Below) -> Result<(), String> {
    let booted = guest.boot(0)?;
    eprintln!("    start: a login after {} s", booted.took.as_secs());
    check(level(guest)? == below.level(), || "it was started at another level".to_owned())?;

    let plugged = guest.ask(
        "for round in 1 2 3; do echo 0 >/sys/devices/system/cpu/cpu1/online; nproc; \
         echo 1 >/sys/devices/system/cpu/cpu1/online; nproc; done",
    )?;
    check(plugged.lines().collect::<String>() == "121212", || format!("CPU hotplug: {plugged:?}"))?;

    // By the machine's clock: QEMU's RTC wakes it.
    let slept = guest.ask(
        "before=$(cat /sys/power/suspend_stats/success); rtcwake -m freeze -s 5 >/dev/null 2>&1 || echo refused; \
         echo $(($(cat /sys/power/suspend_stats/success) - before))",
    )?;
    check(slept == "1", || format!("suspend: {slept:?}"))?;
    is_well(guest, "after hotplug and suspend")
}

/// Reboot, kexec, and a hibernation between.
fn restart(guest: &Guest, below: Below) -> Result<(), String> {
    guest.boot(0)?;
    restarts(guest, "reboot", "systemctl reboot")?;
    check(level(guest)? == below.level(), || "after the reboot it was started at another level".to_owned())?;
    is_well(guest, "after the reboot")?;

    hibernates(guest)?;
    is_well(guest, "after the hibernation")?;

    guest.ask("kexec -l /vmlinuz --initrd=/initrd.img --reuse-cmdline")?;
    restarts(guest, "kexec", "systemctl kexec")?;
    // Exeunt goes at the call that a kernel with EL2 makes. One at EL1 makes none: Exeunt is under the next one too.
    check(level(guest)? == below.level(), || "after the kexec it was started at another level".to_owned())?;
    is_well(guest, "after the kexec")
}

/// To the disk and back through a reset: what was in memory is there again.
fn hibernates(guest: &Guest) -> Result<(), String> {
    let before = boot_id(guest)?;
    guest.ask("echo remembered >/run/before; echo reboot >/sys/power/disk")?;
    let here = guest.here();
    guest.begin("sleep 1; echo disk >/sys/power/state; echo resumed >/dev/ttyAMA0")?;
    guest.wait(here, &["resumed"], STEP).map_err(|error| format!("hibernation: {error}"))?;
    guest.log_in()?;
    let after = guest.ask("cat /run/before /proc/sys/kernel/random/boot_id")?;
    check(after == format!("remembered\n{before}"), || format!("hibernation: {after:?} is not what was there before"))
}

/// A crash that kdump-tools save, and the boot after it, twice.
fn crash(guest: &Guest) -> Result<(), String> {
    guest.boot(0)?;
    for times in 1..=2 {
        let booted = guest.crash(&Progress::begin())?;
        eprintln!("    crash: a login {} s after the saving", booted.took.as_secs());
        let saved = guest.ask("stat -c %s /var/crash/*/dump.*")?;
        let sizes: Vec<u64> = saved.lines().filter_map(|line| line.parse().ok()).collect();
        check(sizes.len() == times && sizes.iter().all(|&size| size > 1 << 20), || format!("dumps: {saved:?}"))?;
        let panic = guest.ask("grep -h 'sysrq triggered crash' /var/crash/*/dmesg.* | wc -l")?;
        check(panic == times.to_string(), || format!("{panic} of the saved logs have the panic"))?;
        is_well(guest, "after a crash")?;
    }
    Ok(())
}

/// QEMU in the host has a guest that boots Debian's kernel by KVM, up to the disk that it does not have.
fn kvm(guest: &Guest) -> Result<(), String> {
    guest.boot(0)?;
    let said = guest.ask(
        "test -c /dev/kvm && timeout 300 qemu-system-aarch64 -accel kvm -cpu host -machine virt,gic-version=3 \
         -m 256M -nographic -nic none -no-reboot -kernel /vmlinuz \
         -append 'console=ttyAMA0 panic=-1 nosoftlockup rcupdate.rcu_cpu_stall_suppress=1' </dev/null",
    )?;
    for line in ["Booting Linux on physical CPU", "Unable to mount root fs"] {
        check(said.contains(line), || format!("the guest in it does not say {line:?}:\n{said}"))?;
    }
    is_well(guest, "with KVM")
}

/// On a CPU with 52 bits of virtual address Debian's makedumpfile gives up without the wrapper of docs/debian.md.
const WIDE: &str = "max,lpa2=off";

/// The cells.
pub fn cells() -> Vec<Cell> {
    const USUAL: &str = "cortex-a57";
    let mut cells = Vec::new();
    for below in Below::ALL {
        let name = below.name();
        cells.push(Cell::new(format!("debian/on/{name}"), move |context| {
            drive(&debian(context, below, "", USUAL)?, |guest| on(guest, below))
        }));
        cells.push(Cell::new(format!("debian/restart/{name}"), move |context| {
            drive(&debian(context, below, "", USUAL)?, |guest| restart(guest, below))
        }));
        cells.push(Cell::new(format!("debian/crash/{name}"), move |context| {
            drive(&debian(context, below, "", USUAL)?, crash)
        }));
    }
    for below in [Below::VirtualEl2, Below::Nobody] {
        cells.push(Cell::new(format!("debian/kvm/{}", below.name()), move |context| {
            drive(&debian(context, below, "kvm=lend", USUAL)?, kvm)
        }));
    }
    cells.push(Cell::new("debian/crash/wide", |context| drive(&debian(context, Below::VirtualEl2, "", WIDE)?, crash)));
    cells.into_iter().map(|cell| cell.slow(true)).collect()
}
