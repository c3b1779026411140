//! RAM that the device tree does not name: a virtio-mem device gives it while the host runs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::shell::script;
use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Entry, PATIENT};
use crate::{ensure, parse, paths};

const KERNEL: &str = "6.12";

/// Adds RAM, for nothing but what programs own, so that their pages come from there first. Then runs a program. Says in
/// which page frame its first instruction is.
const HOT_ADD: &str = "\
total() { awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo; }
before=$(total)
echo online_movable >/sys/devices/system/memory/auto_online_blocks
insmod /virtio_mem.ko
for i in $(seq 300); do [ $(total) -ge $((before + 240)) ] && break; sleep 0.1; done
first=$((0x$(awk -F'[- ]+' '/virtio_mem/ { print $2; exit }' /proc/iomem)))
mount -t tmpfs none /mnt
cp /bin/busybox /mnt/busybox
/mnt/busybox sleep 2 & program=$!
frame=0
for i in $(seq 100); do
    text=$(awk -F'[- ]' '/r-xp.*mnt.busybox/ { print $1 }' /proc/$program/maps)
    [ \"$text\" ] && frame=$((0x$(dd if=/proc/$program/pagemap bs=8 skip=$((0x$text / 4096)) count=1 2>/dev/null |
        od -A n -t x8 | cut -c 4-) * 4096))
    [ $frame != 0 ] && break
    sleep 0.1
done
wait $program
echo status $?
echo program $frame
echo first $first
COMPLAINTS";

/// A directory for OVERLAY= with the module that the device needs.
fn overlay(context: &Context) -> Result<PathBuf, Missed> {
    let packed = format!("guest/kernels/{KERNEL}/modules/kernel/drivers/virtio/virtio_mem.ko.xz");
    let unpacked = Command::new("xz").args(["-d", "-c"]).arg(paths::target().join(packed)).output()?;
    ensure!(unpacked.status.success(), "xz: {}", String::from_utf8_lossy(&unpacked.stderr));
    let overlay = context.directory()?.join("overlay");
    fs::create_dir_all(&overlay)?;
    fs::write(overlay.join("virtio_mem.ko"), unpacked.stdout)?;
    Ok(overlay)
}

fn hot_added(context: &Context, entry: Entry) -> Outcome {
    let machine = context.machine().with("KERNEL", KERNEL).with("MEM", "384M").with("SMP", 2);
    let machine = machine.with_qemu(
        "-m 384M,maxmem=4G -object memory-backend-ram,id=more,size=256M,reserve=off \
         -device virtio-mem-pci,memdev=more,requested-size=256M",
    );
    let machine = machine.with("OVERLAY", overlay(context)?.display()).with("APPEND", PATIENT).entered(entry, "stats");
    let ran = machine.with("RUN", script(HOT_ADD, 1)).run()?.ended_with(0)?;
    let bad: Vec<&str> = ran.stdout.lines().filter_map(|line| line.strip_prefix("bad ")).collect();
    ensure!(bad.is_empty(), "the kernel complains:\n{}", bad.join("\n"));
    let said = |name| parse::value(&ran.stdout, name).ok_or_else(|| format!("the guest did not say {name:?}"));
    ensure!(said("status")? == "0", "the program ended with {}", said("status")?);
    let (program, first): (u64, u64) = (said("program")?.parse()?, said("first")?.parse()?);
    let new = first..first + (256 << 20);
    ensure!(new.contains(&program), "it ran at {program:#x}, and what is new is at {first:#x}");
    // On each of two CPUs at most: the block in which all of it is has become executable.
    let fetches = parse::exits(&ran.console).ok_or("Exeunt printed no counters")?["instruction abort"];
    ensure!((1..=2).contains(&fetches), "{fetches} instruction aborts");
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let cell = |entry: Entry| {
        Cell::new(format!("memory/hot-added-{}", entry.name()), move |context| hot_added(context, entry))
    };
    Entry::ALL.map(cell).into()
}
