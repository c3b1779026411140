//! The next kernel after `restart=leave`, beside one that was started by kexec on bare QEMU at EL2: it cannot tell the
//! difference, but by the 2 MiB.
//!
//! Owns the lists of what may differ, each entry with its reason.

use std::collections::{BTreeMap, BTreeSet};

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Machine, PATIENT};
use crate::parse::Resource;
use crate::{ensure, images, next, parse, qemu};

/// Two boots, a copy between them, and two guests of KVM, on a busy workstation.
const LIMIT: u64 = 900;

const CPUS: u32 = 4;

/// Where kexec-tools puts the next kernel. Nothing of the first one is there, which lies elsewhere on each of the two
/// machines.
const NEXT_AT: &str = "0x50000000";

/// For both next kernels. Addresses that are random would differ from boot to boot.
const COMMAND_LINE: &str = "console=ttyAMA0 quiet panic=-1 nokaslr";

/// What the next kernel tells of itself and its machine, in sections; then a guest of KVM on its first and its last
/// CPU.
const TELL: &str = "\
echo '=== dmesg'; dmesg
echo '=== iomem'; cat /proc/iomem
echo '=== cpuinfo'; cat /proc/cpuinfo
echo '=== vulnerabilities'; grep . /sys/devices/system/cpu/vulnerabilities/*
echo '=== tree'; cd /proc/device-tree; md5sum $(find . -type f); cd /
echo '=== kvm'
mount -t debugfs none /sys/kernel/debug
for cpu in 0 $(($(nproc) - 1)); do /tests/kvm $cpu; echo status-$cpu $?; done
echo '=== end'
";

/// Lines of the kernel's log that tell how long something took, or the time of day: only their beginnings count.
const TIMES: [&str; 5] = [
    "node 0 deferred pages initialised in ",
    "audit: type=2000 audit(",
    "rtc-pl031 9010000.pl031: setting system clock to ",
    "raid6: ",
    "random: crng init done",
];

/// Lines that a busy machine makes Linux print, on either side.
const BUSY: [&str; 2] = ["hrtimer: interrupt took ", "clocksource: timekeeping watchdog"];

/// A line of the log that may be there on one side only: so many at most under Exeunt, so many without, how it begins,
/// and why.
type Difference = (usize, usize, &'static str, &'static str);

const DMESG: [Difference; 6] = [
    (1, 0, "OF: reserved mem: 0x0000000040200000..0x00000000403effff (1984 KiB) nomap", "the 2 MiB, in every tree"),
    (1, 0, "OF: reserved mem: 0x00000000403f0000..0x00000000403fffff (64 KiB) map", "the black box at their end"),
    (0, 1, "OF: reserved mem: Reserved memory: No reserved-memory node in the DT", "because there is one"),
    (3, 1, "  node   0: [mem 0x0000000040", "RAM below the 2 MiB, they themselves, RAM above them; all of RAM"),
    (
        1,
        1,
        "NODE_DATA(0) allocated [mem ",
        "below page tables, fewer as the 2 MiB are not mapped, and the tree with their node",
    ),
    (1, 1, "Memory: ", "`sums` looks at them"),
];

/// The 2 MiB, in a machine of the size that the cells have.
const OWN: [u64; 2] = [0x4020_0000, 0x403f_ffff];

/// Their end, the black box, which Linux has as RAM that is reserved.
const BOX: [u64; 2] = [0x403f_0000, OWN[1]];

/// Bytes by which the memory that Linux takes for itself at the top of RAM may begin lower or higher: it needs no page
/// tables for the 2 MiB, its copy of the tree has their node, and what comes below is rounded to pages.
const SLACK: u64 = 16 << 10;

/// Properties of the tree that may differ.
const TREE: [(&str, &str); 5] = [
    ("./reserved-memory/", "the 2 MiB"),
    ("./chosen/kaslr-seed", "random"),
    ("./chosen/rng-seed", "random"),
    ("./gpio-keys/poweroff/gpios", "QEMU counts phandles, and it had an ITS that Exeunt hid"),
    ("./pl061@9030000/phandle", "the same"),
];

/// What the next kernel said on one machine, by section.
struct Told(BTreeMap<String, Vec<String>>);

impl Told {
    fn new(stdout: &str) -> Self {
        let mut sections = BTreeMap::new();
        let mut section = String::new();
        for line in stdout.lines() {
            if let Some(name) = line.strip_prefix("=== ") {
                name.clone_into(&mut section);
            }
            sections.entry(section.clone()).or_insert_with(Vec::new).push(line.to_owned());
        }
        Self(sections)
    }

    /// The lines of a section that was told to its end.
    fn section(&self, name: &str) -> Result<&[String], Missed> {
        ensure!(self.0.contains_key("end"), "the next kernel did not come to its end");
        let lines = self.0.get(name).map_or(&[][..], |lines| &lines[1..]);
        ensure!(!lines.is_empty(), "the next kernel told no {name}");
        Ok(lines)
    }

    /// The kernel's log without the time stamps.
    fn dmesg(&self) -> Result<Vec<&str>, Missed> {
        let text = |line: &'_ str| line.split_once("] ").map_or(0, |(stamp, _)| stamp.len() + 2);
        let lines = self.section("dmesg")?.iter().map(|line| &line[text(line)..]);
        let lines = lines.filter(|line| !BUSY.iter().any(|start| line.starts_with(start)));
        Ok(lines.map(|line| TIMES.into_iter().find(|start| line.starts_with(start)).unwrap_or(line)).collect())
    }
}

/// Runs the first kernel, and the next one.
fn run(context: &Context, machine: Machine, model: &str, kernel: &str) -> Result<Told, Missed> {
    let programs = [images::programs()?.join("tests/kvm")];
    let overlay = next::kernel(context.directory()?, kernel, TELL, &programs)?;
    let script = format!(
        "kexec -l /next/vmlinuz --mem-min={NEXT_AT} --initrd=/next/initrd --command-line='{COMMAND_LINE} {PATIENT}' && \
         kexec -e; false"
    );
    // With LPA2 Linux 6.12 oopses at `kexec -l`, on the bare machine too.
    let cpu = format!("{}{}", qemu::usual()?.cpu(model), if model == "max" { ",lpa2=off" } else { "" });
    let machine = machine.with("CPU", cpu).with("KERNEL", kernel).with("SMP", CPUS);
    let machine = machine.with("OVERLAY", overlay.display()).with("APPEND", PATIENT).with("RUN", script);
    let ran = machine.limit(LIMIT).run()?.ended_with(0)?;
    Ok(Told::new(&ran.stdout))
}

/// Lines of `these` that `others` does not have as often.
fn only<'a>(these: &[&'a str], others: &[&str]) -> Vec<&'a str> {
    let mut left = BTreeMap::new();
    for line in others {
        *left.entry(*line).or_insert(0) += 1;
    }
    let more = these.iter().filter(|line| {
        let count = left.entry(**line).or_insert(0);
        *count -= 1;
        *count < 0
    });
    more.copied().collect()
}

/// Nothing but what is listed is only here or only there.
fn compare_dmesg(under: &[&str], bare: &[&str]) -> Outcome {
    let (mut more, mut less) = (only(under, bare), only(bare, under));
    for (at_most, at_most_bare, beginning, why) in DMESG {
        for (lines, limit) in [(&mut more, at_most), (&mut less, at_most_bare)] {
            let before = lines.len();
            lines.retain(|line| !line.starts_with(beginning));
            let seen = before - lines.len();
            ensure!(seen <= limit, "{seen} lines {beginning:?} differ, and not {limit}: {why}");
        }
    }
    ensure!(more.is_empty() && less.is_empty(), "the log, only after Exeunt: {more:#?}\nonly without it: {less:#?}");
    Ok(())
}

/// KiB of RAM that are the next kernel's own or nobody's, from `Memory: 914572K/1048576K available (..., 64548K
/// reserved, ...)`.
fn reserved(dmesg: &[&str]) -> Option<u64> {
    let line = dmesg.iter().find(|line| line.starts_with("Memory: "))?;
    line.split([',', '(']).find_map(|part| part.trim().strip_suffix("K reserved")?.parse().ok())
}

/// The next kernel has 2 MiB less.
fn sums(under: &[&str], bare: &[&str]) -> Outcome {
    let (here, there) = (reserved(under), reserved(bare));
    let (own, slack) = ((OWN[1] - OWN[0] + 1) >> 10, SLACK >> 10);
    let held = here.zip(there).is_some_and(|(here, there)| here.wrapping_sub(there).abs_diff(own) <= slack);
    ensure!(held, "reserved are {here:?} KiB, and {there:?} KiB on bare QEMU");
    Ok(())
}

/// /proc/iomem, split into what Linux has reserved for itself within RAM, adjacent ranges joined, and everything else.
fn resources(told: &Told) -> Result<(Vec<[u64; 2]>, Vec<Resource>), Missed> {
    let all = parse::resources(&told.section("iomem")?.join("\n"));
    let (inside, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|each| each.depth > 0 && each.name == "reserved");
    let mut ranges: Vec<[u64; 2]> = Vec::new();
    for Resource { start, end, .. } in inside {
        match ranges.last_mut() {
            Some(last) if last[1] + 1 == start => last[1] = end,
            _ => ranges.push([start, end]),
        }
    }
    Ok((ranges, others))
}

/// Fills the hole that the 2 MiB are.
fn without_own(mut resources: Vec<Resource>) -> Result<Vec<Resource>, Missed> {
    let (start, end) = (OWN[0], BOX[0] - 1);
    let own = Resource { start, end, depth: 0, name: "reserved".into() };
    let at = resources.iter().position(|each| *each == own).ok_or("the next kernel's iomem has no 2 MiB")?;
    let behind = resources.iter().skip(at).position(|each| each.depth == 0 && each.start == end + 1);
    let behind = at + behind.ok_or("there is no RAM behind the 2 MiB")?;
    let end = resources.remove(behind).end;
    resources.remove(at);
    let before = resources[..at].iter_mut().rev().find(|each| each.depth == 0 && each.end + 1 == start);
    before.ok_or("there is no RAM before the 2 MiB")?.end = end;
    Ok(resources)
}

fn compare_iomem(under: &Told, bare: &Told) -> Outcome {
    let ((mut inside, others), (bare_inside, bare_others)) = (resources(under)?, resources(bare)?);
    let before = inside.len();
    inside.retain(|range| *range != BOX);
    ensure!(inside.len() + 1 == before, "the next kernel's iomem has no black box among what is reserved in RAM");
    let others = without_own(others)?;
    ensure!(others == bare_others, "/proc/iomem: {others:#x?}\nwithout Exeunt: {bare_others:#x?}");
    let near = |here: &[u64; 2], there: &[u64; 2]| here.iter().zip(there).all(|(a, b)| a.abs_diff(*b) <= SLACK);
    let held = inside.len() == bare_inside.len() && inside.iter().zip(&bare_inside).all(|(a, b)| near(a, b));
    ensure!(held, "reserved in RAM: {inside:#x?}\nwithout Exeunt: {bare_inside:#x?}");
    Ok(())
}

/// The files of the tree with what is in them, except those that may differ.
fn tree(told: &Told) -> Result<BTreeSet<&str>, Missed> {
    let differs = |line: &str| {
        let path = line.split_whitespace().nth(1).unwrap_or_default();
        TREE.iter().any(|(start, _)| path.starts_with(start))
    };
    Ok(told.section("tree")?.iter().map(String::as_str).filter(|line| !differs(line)).collect())
}

fn compare_tree(under: &Told, bare: &Told) -> Outcome {
    let (here, there) = (tree(under)?, tree(bare)?);
    let (more, less): (Vec<_>, Vec<_>) = (here.difference(&there).collect(), there.difference(&here).collect());
    ensure!(more.is_empty() && less.is_empty(), "the tree, only after Exeunt: {more:#?}\nonly without it: {less:#?}");
    Ok(())
}

/// A guest of KVM ran on the next kernel's first and last CPU.
fn guests_ran(told: &Told) -> Outcome {
    let said = told.section("kvm")?;
    for cpu in [0, CPUS - 1] {
        ensure!(said.contains(&format!("status-{cpu} 0")), "a KVM guest on CPU {cpu}: {said:#?}");
    }
    Ok(())
}

fn compare(under: &Told, bare: &Told) -> Outcome {
    let (dmesg, bare_dmesg) = (under.dmesg()?, bare.dmesg()?);
    ensure!(bare_dmesg.contains(&"CPU: All CPU(s) started at EL2"), "bare QEMU's next kernel is not at EL2");
    compare_dmesg(&dmesg, &bare_dmesg)?;
    sums(&dmesg, &bare_dmesg)?;
    compare_iomem(under, bare)?;
    compare_tree(under, bare)?;
    for section in ["cpuinfo", "vulnerabilities"] {
        let (here, there) = (under.section(section)?, bare.section(section)?);
        ensure!(here == there, "{section}: {here:#?}\nwithout Exeunt: {there:#?}");
    }
    guests_ran(bare)?;
    guests_ran(under)
}

/// The pair.
fn same(context: &Context, model: &str, kernel: &str) -> Outcome {
    qemu::usual()?.needs(model)?;
    let machine = context.machine().with("EXEUNT", "entry=el2 restart=leave");
    let under = run(context, machine, model, kernel)?;
    // The ITS does not survive a kexec of a kernel that EFI did not boot; Exeunt hides it for that reason.
    let machine = context.machine().with("HYPERVISOR", "none").with("EL", 2).with_qemu("-machine its=off");
    let bare = run(context, machine, model, kernel)?;
    compare(&under, &bare)
}

pub(super) fn cells() -> Vec<Cell> {
    [
        ("cortex-a57", "6.12", false),
        ("neoverse-n2", "6.12", true),
        ("max", "6.12", true),
        ("cortex-a57", "6.1", true),
        ("max", "6.1", true),
    ]
    .map(|(model, kernel, slow)| {
        Cell::new(format!("after-kexec/{kernel}-{model}"), move |context| same(context, model, kernel)).slow(slow)
    })
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(iomem: &str) -> Told {
        Told::new(&format!("=== iomem\n{iomem}=== end\n"))
    }

    const BARE: &str = "\
09000000-09000fff : pl011@9000000
40000000-7fffffff : System RAM
  50000000-5189ffff : Kernel code
  7fc59000-7fc5bfff : reserved
  7fc5c000-7fffffff : reserved
";
    const UNDER: &str = "\
09000000-09000fff : pl011@9000000
40000000-401fffff : System RAM
40200000-403effff : reserved
403f0000-7fffffff : System RAM
  403f0000-403fffff : reserved
  50000000-5189ffff : Kernel code
  7fc5a000-7fffffff : reserved
";

    #[test]
    fn iomem_is_the_same_but_for_the_two_mebibytes() {
        assert!(compare_iomem(&told(UNDER), &told(BARE)).is_ok());
        assert!(compare_iomem(&told(BARE), &told(BARE)).is_err(), "they must be there");
        for (from, to) in [
            ("7fffffff : System RAM", "7fdfffff : System RAM"),
            ("5189ffff : Kernel code", "518affff : Kernel code"),
            ("7fc5a000-7fff", "7fb5a000-7fff"),
            ("09000000-09000fff : pl011@9000000\n", ""),
        ] {
            assert!(compare_iomem(&told(&UNDER.replace(from, to)), &told(BARE)).is_err(), "{from}");
        }
    }

    #[test]
    fn the_black_box_is_among_what_is_reserved_in_ram() {
        let without = UNDER.replace("  403f0000-403fffff : reserved\n", "");
        assert!(without != UNDER && compare_iomem(&told(&without), &told(BARE)).is_err());
    }

    #[test]
    fn a_line_of_the_log_that_is_not_listed_counts() {
        let bare = ["same", "  node   0: [mem 0x0000000040000000-0x000000007fffffff]"];
        let under = [
            "same",
            "  node   0: [mem 0x0000000040000000-0x00000000401fffff]",
            "  node   0: [mem 0x0000000040400000-0x000000007fffffff]",
        ];
        assert!(compare_dmesg(&under, &bare).is_ok());
        assert!(compare_dmesg(&[&under[..], &["same"]].concat(), &bare).is_err(), "once more than there");
        assert!(compare_dmesg(&under[1..], &bare).is_err(), "missing");
        assert!(compare_dmesg(&under, &[&bare[..], &bare[1..]].concat()).is_err(), "more than may be");
    }

    #[test]
    fn times_of_the_log_do_not_count() {
        let log = "=== dmesg\n[    0.1] audit: type=2000 audit(0.8:1): state\n\
                   [    0.2] hrtimer: interrupt took 3 ns\n=== end\n";
        assert_eq!(Told::new(log).dmesg().unwrap(), ["audit: type=2000 audit("]);
    }

    #[test]
    fn reserved_memory_is_read() {
        let line = "Memory: 914572K/1048576K available (14272K kernel code, 64548K reserved, 65536K cma-reserved)";
        assert_eq!(reserved(&["other", line]), Some(64548));
        assert!(sums(&[line], &[&line.replace("64548", "62500")]).is_ok() && sums(&[line], &[line]).is_err());
    }
}
