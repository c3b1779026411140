//! The options of QEMU's virt that people use, as docs/machines.md lists them: with each of them Linux boots under
//! Exeunt, in both ways of entry, and says of itself what it says on the same machine without Exeunt.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::loaders::{block, programs};
use super::shell;
use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Entry, PATIENT};
use crate::process::{self, Ended};
use crate::qemu::Qemu;
use crate::{ensure, images, paths};

const PAGE: &str = "machines.md";
/// For each boot, on a busy workstation.
const PATIENCE: Duration = Duration::from_mins(5);
/// Rows that say this are for the QEMU of Debian testing.
const NEW: &str = "(QEMU 11)";

/// A row of one of the page's tables of options.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    options: String,
    /// The rest of the row.
    text: String,
}

impl Row {
    /// Options as a part of a cell's name.
    fn name(&self) -> String {
        let letters =
            self.options.chars().take(60).map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' });
        letters.collect::<String>().split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
    }

    /// The options for QEMU of several rows.
    fn of<'a>(rows: impl IntoIterator<Item = &'a Self>) -> String {
        rows.into_iter().map(|row| row.options.as_str()).collect::<Vec<_>>().join(" ")
    }
}

/// The rows of the table below `heading`, a line of the page: what is in backticks in their first column, and the rest.
fn rows(page: &str, heading: &str) -> Vec<Row> {
    let after = page.split_once(&format!("{heading}\n")).map_or("", |(_, after)| after);
    let table = after.lines().take_while(|line| line.starts_with('|')).skip(1);
    table
        .filter_map(|line| {
            let (options, text) = line.strip_prefix("| `")?.split_once("` |")?;
            Some(Row { options: options.to_owned(), text: text.to_owned() })
        })
        .collect()
}

/// What works, and what QEMU refuses.
fn page() -> (Vec<Row>, Vec<Row>) {
    let page = fs::read_to_string(paths::root().join("docs").join(PAGE)).unwrap_or_default();
    (rows(&page, "| options | what they are | under Exeunt |"), rows(&page, "| options | what QEMU says |"))
}

/// What the guest says of the machine: the same with and without Exeunt, each line with `see` before it.
const LOOK: &str = r"
echo level $(dmesg | grep -o 'CPU: All CPU(s) started at EL[0-9]')
see() { sed 's/^/see /'; }
echo cpus $(nproc) nodes $(ls -d /sys/devices/system/node/node* | wc -l) | see
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    echo ${cpu##*/} $(cat $cpu/topology/physical_package_id $cpu/topology/cluster_id $cpu/topology/thread_siblings_list)
done | see
for device in /sys/bus/pci/devices/*; do
    driver=$(readlink $device/driver)
    echo ${device##*/} $(cat $device/vendor $device/device) ${driver##*/}
done | see
for disk in /sys/block/nvme*n1; do [ -e $disk ] && dd if=/dev/${disk##*/} bs=1M 2>/dev/null | md5sum; done | see
echo iommu $(ls /sys/class/iommu) groups $(ls /sys/kernel/iommu_groups | wc -l) | see
cat /proc/device-tree/compatible | tr '\0' ' ' | see
COMPLAINTS
";

/// An initrd that runs [`LOOK`].
fn initrd(context: &Context) -> Result<String, Missed> {
    let directory = context.directory()?;
    let overlay = directory.join("overlay");
    fs::create_dir_all(overlay.join("exeunt"))?;
    fs::write(overlay.join("exeunt/run"), shell::script(LOOK, 0))?;
    let initrd = directory.join("initrd");
    images::initrd(&overlay, &initrd)?;
    Ok(initrd.display().to_string())
}

/// Runs the block `name` of the page with `options` added.
fn run(context: &Context, name: &str, changes: &[(&str, &str)], options: &str, new: bool) -> Result<Ended, Missed> {
    images::exeunt()?;
    let initrd = initrd(context)?;
    let mut commands = block(PAGE, name)?;
    let bootargs = format!("console=ttyAMA0 panic=-1 {PATIENT}");
    let usual = [("target/guest/initramfs.cpio", initrd.as_str()), ("console=ttyAMA0", bootargs.as_str())];
    for (old, new) in usual.iter().chain(changes) {
        ensure!(commands.contains(old), "docs/{PAGE}: the block {name:?} has no {old:?}");
        commands = commands.replace(old, new);
    }
    let disk = paths::target().join("by-hand/disk.img");
    if !disk.exists() {
        fs::create_dir_all(paths::target().join("by-hand"))?;
        fs::write(&disk, vec![0x55; 1 << 20])?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = if new {
        let program = Qemu::private("testing")?.program;
        program.parent().unwrap_or(Path::new("/")).to_owned()
    } else {
        programs(context)?
    };
    let mut shell = Command::new("timeout");
    shell.args(["300", "sh", "-c", &format!("exec {} {options}", commands.trim_end())]).current_dir(paths::root());
    shell.env("PATH", std::env::join_paths([first].into_iter().chain(std::env::split_paths(&path)))?);
    let mut ended = process::run(&mut shell, PATIENCE)?;
    ended.stdout = ended.stdout.replace('\r', "");
    let log = context.directory()?.join(format!("{name}.log"));
    fs::write(log, format!("{}{}", ended.stdout, ended.stderr))?;
    Ok(ended)
}

/// The lines of `ended` that have to be the same with and without Exeunt.
fn seen(ended: &Ended) -> Vec<&str> {
    let same = |line: &&str| line.starts_with("see ") || line.starts_with("bad ");
    // The kernel's time before what it complains of.
    ended.stdout.lines().filter(same).map(|line| line.rsplit_once("] ").map_or(line, |(_, text)| text)).collect()
}

/// The options of some rows at once, with Exeunt in these ways of entry, and without it.
fn boots(context: &Context, rows: &[Row], entries: &[Entry]) -> Outcome {
    let options = Row::of(rows);
    let new = rows.iter().any(|row| row.text.contains(NEW));
    let bare = run(context, "bare", &[], &options, new)?;
    ensure!(bare.stdout.contains("exeunt-run: exit status 0"), "without Exeunt it does not boot: {}", bare.stderr);
    for entry in entries {
        let level = format!("entry={}", entry.name());
        let ended = run(context, "base", &[("entry=el2", &level)], &options, new)?;
        let about = |what: &str| format!("{options}: {level}: {what}");
        ensure!(ended.stdout.contains("exeunt-run: exit status 0"), "{}", about("it does not come to its end"));
        let started = format!("level CPU: All CPU(s) started at {}", entry.level());
        ensure!(ended.stdout.contains(&started), "{}", about("not at its level"));
        ensure!(
            seen(&ended) == seen(&bare),
            "{}:\n{}\nand without Exeunt\n{}",
            about("the host sees"),
            seen(&ended).join("\n"),
            seen(&bare).join("\n")
        );
    }
    Ok(())
}

/// QEMU says what the page says, and does not start.
fn refused(context: &Context, row: &Row) -> Outcome {
    let ended = run(context, "base", &[], &row.options, row.text.contains(NEW))?;
    let words = row.text.split('`').nth(1).unwrap_or("nothing");
    ensure!(ended.status != 0 && ended.stderr.contains(words), "QEMU does not say {words:?}: {}", ended.stderr);
    Ok(())
}

/// Rows that go together: found by these words.
const TOGETHER: [(&str, Entry, &[&str]); 2] = [
    (
        "together-el2",
        Entry::VirtualEl2,
        &["secure=on", "mte=on", "ras=on", "acpi=off", "dtb-randomness=off", "sockets=2", "-device virtio-rng-pci"],
    ),
    (
        "together-el1",
        Entry::El1,
        &["its=off", "highmem=off", "compact-highmem=off", "iommu=smmuv3 -drive", "threads=2", "-device i6300esb"],
    ),
];

/// The first row with each of these words, in the page's order.
fn chosen(rows: &[Row], words: &[&str]) -> Vec<Row> {
    let first = |word: &&str| rows.iter().position(|row| row.options.contains(*word));
    let mut found: Vec<usize> = words.iter().filter_map(first).collect();
    found.sort_unstable();
    found.iter().map(|&place| rows[place].clone()).collect()
}

pub(super) fn cells() -> Vec<Cell> {
    let (works, refusals) = page();
    let mut cells = Vec::new();
    for (name, entry, words) in TOGETHER {
        let rows = chosen(&works, words);
        cells.push(Cell::new(format!("options/{name}"), move |context| boots(context, &rows, &[entry])));
    }
    for row in works {
        let name = format!("options/{}", row.name());
        cells.push(Cell::new(name, move |context| boots(context, &[row], &Entry::ALL)).slow(true));
    }
    for row in refusals {
        let name = format!("options/refused-{}", row.name());
        cells.push(Cell::new(name, move |context| refused(context, &row)).slow(true));
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let page = "text\n| a | b |\n|---|---|\n| `-m 1G,maxmem=4G` | memory | |\n| none | x |\n\
                    | `-cpu max` | y | z |\n\n| `c` | d |\n";
        let rows = rows(page, "| a | b |");
        let options: Vec<&str> = rows.iter().map(|row| row.options.as_str()).collect();
        assert_eq!(options, ["-m 1G,maxmem=4G", "-cpu max"]);
        assert_eq!(rows[0].name(), "m-1G-maxmem-4G");
    }

    #[test]
    fn the_page_has_its_rows_and_those_that_go_together() {
        let (works, refusals) = page();
        assert!(works.len() > 30 && refusals.len() > 1, "{} {}", works.len(), refusals.len());
        for (name, _, words) in TOGETHER {
            assert_eq!(chosen(&works, words).len(), words.len(), "{name}");
        }
    }

    #[test]
    fn the_kernels_time_is_no_difference() {
        let said = |time: &str| Ended {
            status: 0,
            stdout: format!("see cpus 2\nbad [{time}] WARNING: no\nother\n"),
            stderr: String::new(),
            took: Duration::ZERO,
        };
        assert_eq!(seen(&said("    0.1")), seen(&said("    0.2")));
        assert_eq!(seen(&said("    0.1")).len(), 2);
    }
}
