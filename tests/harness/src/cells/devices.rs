//! What a person gives a machine beside CPUs and RAM (DISK=, NET=, SHARE=, QEMU_EXTRA=), and how a machine of theirs
//! ends.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use runner::archive::Archives;
use runner::run::RUNNER_FAILED;

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{EXEUNT_FAILED, Entry, Machine};
use crate::process;
use crate::{ensure, paths};

/// The time in which a line must come, set-up and builds included.
const PATIENCE: Duration = Duration::from_mins(10);
/// And for what the guest does at once.
const SHORT: Duration = Duration::from_mins(3);

const MIB: u64 = 1 << 20;

/// A file of zeros, with a few words at its begin.
fn disk(context: &Context, name: &str, size: u64, words: &str) -> Result<PathBuf, Missed> {
    let path = context.directory()?.join(name);
    let mut file = File::create(&path)?;
    file.write_all(words.as_bytes())?;
    file.set_len(size)?;
    Ok(path)
}

/// What the first bytes of a file are.
fn first(path: &Path, count: usize) -> Result<String, Missed> {
    let mut bytes = vec![0; count];
    File::open(path)?.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A program of the workstation's with the run's ssh configuration, which must succeed: what it prints.
fn by_ssh(program: &str, config: &Path, arguments: &[&str]) -> Result<String, Missed> {
    let mut command = Command::new(program);
    command.arg("-F").arg(config).args(["-o", "BatchMode=yes"]).args(arguments);
    let ended = process::run(&mut command, SHORT)?;
    ensure!(ended.status == 0, "{program} {arguments:?} returned {}: {}", ended.status, ended.stderr);
    Ok(ended.stdout)
}

/// The guest waits until the workstation has done its part.
const WAITS: &str = "dmesg | grep 'CPUs started at' | sed 's/^/entered /'
echo from the guest | dd of=/dev/vda conv=sync bs=512 2>/dev/null
dd if=/dev/vdb bs=17 count=1 2>/dev/null
echo
mkdir /disk
mke2fs /dev/vdb >/dev/null && mount /dev/vdb /disk && sed -n 's|.* /disk \\([^ ]*\\) .*|mounted \\1|p' /proc/mounts
umount /disk
echo $(cat /mnt/share/words) and back >/mnt/share/answer
sync
echo ready
until [ -e /mnt/share/done ]; do sleep 0.1; done
cat /tmp/by-sftp /tmp/by-ssh";

/// A disk of each format, the network with the ssh server, and the directory: each is used from both sides.
fn all_three(context: &Context, prepare: impl FnOnce(Machine) -> Result<Machine, Missed>) -> Outcome {
    let raw = disk(context, "raw.img", MIB, "")?;
    // QEMU is told that it is raw, whatever the guest writes there.
    let other = disk(context, "a, b.img", MIB, "seventeen letters")?;
    let share = context.directory()?.join("a share");
    fs::create_dir_all(&share)?;
    fs::write(share.join("words"), "there")?;
    let out = context.directory()?.join("out");
    let machine = context.machine().with("OUT", out.display()).with("NET", 1).with("SHARE", share.display());
    let machine = machine.with("DISK", format!("{} '{}'", raw.display(), other.display())).with("RUN", WAITS);
    let mut running = prepare(machine)?.start("scripts/run")?;
    running.expect("seventeen letters", PATIENCE)?;
    running.expect("mounted ext", SHORT)?;
    running.expect("ready", SHORT)?;
    ensure!(fs::read_to_string(share.join("answer"))? == "there and back\n", "the directory is another one");
    ensure!(first(&raw, 14)? == "from the guest", "the disk has nothing of the guest's: {:?}", first(&raw, 14)?);

    // Whoever takes a disk that a machine has is refused, before a guest could see it.
    let second = context.machine().with("DISK", raw.display()).with("RUN", "true").run()?.ended_with(RUNNER_FAILED)?;
    ensure!(second.stderr.contains("Is another process using the image"), "it says {:?}", second.stderr);

    let config = out.join("ssh");
    let said = by_ssh("ssh", &config, &["exeunt", "echo by ssh >/tmp/by-ssh; id -un; cat"])?;
    ensure!(said == "root\n", "ssh says {said:?}");
    let copied = context.directory()?.join("file");
    fs::write(&copied, "by sftp\n")?;
    by_ssh("scp", &config, &["-q", &copied.display().to_string(), "exeunt:/tmp/by-sftp"])?;
    fs::write(share.join("done"), "")?;
    let ended = running.finish(PATIENCE)?;
    ensure!(ended.status == 0, "it returned {}: {}", ended.status, ended.stderr);
    ensure!(ended.stdout.contains("by sftp\nby ssh\n"), "it says {:?}", ended.stdout);
    ensure!(!ended.stderr.contains("exeunt: NET="), "it complains: {}", ended.stderr);
    Ok(())
}

/// The kernel by its name and entered so, or as a person would have it: a file, and a directory of modules.
fn on_kernel(context: &Context, kernel: &'static str, entry: Entry) -> Outcome {
    // Not every CPU has pages of 16 KiB.
    let model = if kernel.ends_with("-16k") { "neoverse-n1" } else { "cortex-a57" };
    all_three(context, |machine| Ok(machine.with("KERNEL", kernel).with("CPU", model).entered(entry, "")))
}

fn of_a_persons_kernel(context: &Context) -> Outcome {
    let kernels = paths::target().join("guest/kernels/6.1");
    let kernel = context.directory()?.join("Image");
    fs::copy(kernels.join("vmlinuz"), &kernel)?;
    all_three(context, |machine| {
        Ok(machine.with("KERNEL", kernel.display()).with("MODULES", kernels.join("modules").display()))
    })
}

/// With SNAPSHOT=1 the image stays as it is.
fn snapshot(context: &Context) -> Outcome {
    let image = disk(context, "image", MIB, "as it was")?;
    let machine = context.machine().with("DISK", image.display()).with("SNAPSHOT", 1);
    let script = "echo changed >/dev/vda; sync; echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=7 count=1";
    let ran = machine.with("RUN", script).run()?.ended_with(0)?;
    ensure!(ran.stdout.starts_with("changed"), "the guest reads {:?}", ran.stdout);
    ensure!(first(&image, 9)? == "as it was", "the image has changed");
    Ok(())
}

/// Without the modules for them a machine says what it lacks, and goes on.
fn missing_modules(context: &Context) -> Outcome {
    let kernel = context.directory()?.join("Image");
    fs::copy(paths::target().join("guest/kernels/6.1/vmlinuz"), &kernel)?;
    let image = disk(context, "image", MIB, "")?;
    let machine = context.machine().with("KERNEL", kernel.display()).with("NET", 1).with("DISK", image.display());
    let ran = machine.with("RUN", "echo went on").run()?.ended_with(0)?;
    ensure!(ran.stdout == "went on\n", "it says {:?}", ran.stdout);
    for words in ["exeunt: DISK=: this kernel finds no disk", "exeunt: NET=: this kernel finds no network"] {
        ensure!(ran.stderr.contains(words), "it says {:?}", ran.stderr);
    }
    Ok(())
}

/// The greeting names what there is, and a reboot brings the machine back, by way of Exeunt.
fn reboot_on_a_terminal(context: &Context) -> Outcome {
    let image = disk(context, "image", 4 * MIB, "")?;
    let log = context.directory()?.join("out/console.log");
    let machine = context.machine().with("OUT", log.with_file_name("").display()).with("NET", 1);
    let mut session = machine.with("DISK", image.display()).on_a_terminal("scripts/run")?;
    session.expect("when it is up: ssh -F ", PATIENCE)?;
    for ends in ["reboot\n", "poweroff\n"] {
        session.expect("This is Linux", PATIENCE)?;
        session.expect("image (raw, 4 MiB); what you write stays", SHORT)?;
        session.expect("from the workstation: ssh -F ", SHORT)?;
        session.expect("~# ", SHORT)?;
        session.send(ends)?;
    }
    let ended = session.finish(PATIENCE)?;
    ensure!(ended.status == 0, "scripts/run returned {}", ended.status);
    let starts = fs::read_to_string(&log)?.matches("Exeunt 0.1.0 in").count();
    ensure!(starts == 2, "Exeunt has started {starts} times");
    Ok(())
}

/// A person's system: a kernel that nobody knows, and an initrd of its own with this for its first process. It keeps
/// what it has to remember on a disk whose driver Debian's kernels have built in.
fn system(context: &Context, script: &str) -> Result<Machine, Missed> {
    let directory = context.directory()?;
    let (kernel, initrd) = (directory.join("Image"), directory.join("initrd"));
    fs::copy(paths::target().join("guest/kernels/6.12/vmlinuz"), &kernel)?;
    let mut archives = Archives::new(Vec::new());
    archives.ready(&fs::read(paths::target().join("guest/initramfs.cpio"))?)?;
    let mount = "/bin/busybox mkdir -p /dev; /bin/busybox mount -t devtmpfs dev /dev";
    archives.file("init", 0o755, format!("#!/bin/busybox sh\n{mount}\n{script}\n").as_bytes())?;
    fs::write(&initrd, archives.finish()?)?;
    fs::set_permissions(&initrd, fs::Permissions::from_mode(0o444))?;
    let memory = disk(context, "memory", MIB, "")?;
    let machine = context.machine().with("KERNEL", kernel.display()).with("INITRD", initrd.display());
    let drive = format!("-drive if=none,id=memory,format=raw,file={}", memory.display());
    Ok(machine.with_qemu(format!("{drive} -device nvme,drive=memory,serial=1")))
}

/// Resets the machine when it starts for the first time, and powers it off when it does for the second.
const TWICE: &str = "[ \"$(busybox dd if=/dev/nvme0n1 bs=6 count=1)\" = second ] && exec busybox poweroff -f
echo second >/dev/nvme0n1
sync
exec busybox reboot -f";

/// One that powers off was right, without a terminal and without a line of the runner's.
fn powers_off(context: &Context) -> Outcome {
    let ran = system(context, "exec busybox poweroff -f")?.run()?.ended_with(0)?;
    ensure!(ran.console.contains("reboot: Power down"), "it has not powered off");
    Ok(())
}

/// One that resets the machine ends it where nobody watches, and that is no success. With REBOOT=1 it goes on.
fn resets(context: &Context) -> Outcome {
    let ran = system(context, TWICE)?.run()?.ended_with(EXEUNT_FAILED)?;
    ensure!(ran.stderr.contains("REBOOT=1 starts it again"), "it says {:?}", ran.stderr);
    let ran = system(context, TWICE)?.with("REBOOT", 1).run()?.ended_with(0)?;
    let starts = ran.console.matches("Exeunt 0.1.0 in").count();
    ensure!(starts == 2, "Exeunt has started {starts} times");
    Ok(())
}

/// Devices and nodes that people add by themselves.
fn extra_devices(context: &Context) -> Outcome {
    let image = disk(context, "image", MIB, "")?;
    let machine = context.machine().with("SMP", 2).with_qemu(
        "-smp 2,sockets=2 -nic user -device virtio-net-pci -device virtio-gpu-pci -device virtio-scsi-pci \
         -device qemu-xhci -device usb-kbd -device e1000e",
    );
    let machine = machine.with_qemu(format!(
        "-drive if=none,id=x,format=raw,file={} -device nvme,drive=x,serial=1 -numa node,cpus=0,memdev=m0 \
         -numa node,cpus=1,memdev=m1 -object memory-backend-ram,id=m0,size=512M \
         -object memory-backend-ram,id=m1,size=512M",
        image.display()
    ));
    let script = "ls -d /sys/devices/system/node/node[0-9] | wc -l; ls /sys/bus/pci/devices | wc -l; ls /dev/nvme0n1";
    let ran = machine.with("RUN", script).run()?.ended_with(0)?;
    // The host bridge, three network cards, and the other five.
    ensure!(ran.stdout == "2\n8\n/dev/nvme0n1\n", "the guest has {:?}", ran.stdout);
    Ok(())
}

/// What is wrong with a variable is said before a machine is started.
fn refused(context: &Context) -> Outcome {
    let image = disk(context, "image", 0, "")?;
    for (variable, value, words) in [
        ("DISK", "/nowhere".to_owned(), "DISK=/nowhere: there is no such file"),
        ("DISK", "/".to_owned(), "SHARE= gives a directory to the guest"),
        ("DISK", image.display().to_string(), "it is empty"),
        ("SHARE", image.display().to_string(), "it is no directory"),
        ("NET", "on".to_owned(), "NET=on: it is 1, or a port of this workstation"),
    ] {
        let ran = context.machine().with(variable, value).with("RUN", "true").run()?.ended_with(RUNNER_FAILED)?;
        ensure!(ran.stderr.contains(words), "it says {:?}", ran.stderr);
        ensure!(ran.console.is_empty(), "a machine was started");
    }
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = vec![
        Cell::new("devices/disk-net-share", |context| all_three(context, Ok)),
        Cell::new("devices/snapshot", snapshot),
        Cell::new("devices/missing-modules", missing_modules),
        Cell::new("devices/reboot-on-a-terminal", reboot_on_a_terminal),
        Cell::new("devices/system-powers-off", powers_off),
        Cell::new("devices/system-resets", resets),
        Cell::new("devices/qemu-extra", extra_devices),
        Cell::new("devices/refused", refused),
        Cell::new("devices/persons-kernel", of_a_persons_kernel).slow(true),
    ];
    for kernel in ["6.1", "6.12-16k", "backports"] {
        for entry in Entry::ALL {
            let name = format!("devices/disk-net-share-{kernel}-{}", entry.name());
            cells.push(Cell::new(name, move |context| on_kernel(context, kernel, entry)).slow(true));
        }
    }
    cells.push(Cell::new("devices/disk-net-share-el1", |context| on_kernel(context, "6.12", Entry::El1)).slow(true));
    cells.push(
        Cell::new("devices/disk-net-share-gicv2", |context| {
            all_three(context, |machine| Ok(machine.with("GIC", 2).with("CPU", "cortex-a53")))
        })
        .slow(true),
    );
    cells
}
