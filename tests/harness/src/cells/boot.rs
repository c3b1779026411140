//! Debian boots: every kernel, number of CPUs, GIC, CPU model, size of RAM and way of entry, to init and off again.

use std::fs;

use runner::covering;

use crate::cell::{Cell, Context, Outcome};
use crate::machine::{Entry, Machine, PATIENT, Ran};
use crate::qemu::{self, Qemu};
use crate::{ensure, parse, paths};

const KERNELS: [&str; 2] = ["6.12", "6.1"];
const CPUS: [u32; 4] = [4, 1, 2, 8];
const GICS: [u32; 2] = [3, 2];
const MODELS: [&str; 8] =
    ["cortex-a57", "cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1", "neoverse-v1", "neoverse-n2", "max"];
const SIZES: [&str; 3] = ["512M", "4G", "64G"];

/// Exeunt's reservation on QEMU's virt: 2 MiB, from 2 MiB above the base of RAM.
const RESERVED: (u64, u64) = (0x4020_0000, 0x403e_ffff);

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Boot {
    kernel: &'static str,
    model: &'static str,
    cpus: u32,
    gic: u32,
    size: &'static str,
    entry: Entry,
}

impl Boot {
    const fn of(row: &[usize]) -> Self {
        Self {
            model: MODELS[row[0]],
            cpus: CPUS[row[1]],
            size: SIZES[row[2]],
            kernel: KERNELS[row[3]],
            gic: GICS[row[4]],
            entry: Entry::ALL[row[5]],
        }
    }

    fn name(self) -> String {
        let Self { kernel, model, cpus, gic, size, entry } = self;
        format!("boot/{kernel}-{model}-smp{cpus}-gic{gic}-{size}-{}", entry.name())
    }

    fn prepare(self, machine: Machine, qemu: &Qemu) -> Machine {
        // On two processors, CPUs that run at once and wait for one another take minutes for the boot of the largest of
        // these machines, also without a hypervisor. `hotplug/` has 8 of them at once.
        let in_turn = self.cpus > 4 || (self.cpus, self.size) == (4, "64G");
        machine
            .with("THREADS", if in_turn { "single" } else { "multi" })
            .with("KERNEL", self.kernel)
            .with("CPU", qemu.cpu(self.model))
            .with("SMP", self.cpus)
            .with("GIC", self.gic)
            .with("MEM", self.size)
            .with("APPEND", PATIENT)
            .entered(self.entry, "")
    }
}

/// The part of the product for `make test`: every pair of CPUs, RAM, kernel, GIC and way of entry, with each CPU model
/// in turn.
fn quick() -> Vec<Boot> {
    let rows = covering::pairs(&[CPUS.len(), SIZES.len(), KERNELS.len(), GICS.len(), Entry::ALL.len()], &[]);
    let row = |(index, row): (usize, &Vec<usize>)| Boot::of(&[&[index % MODELS.len()], &row[..]].concat());
    rows.iter().enumerate().map(row).collect()
}

/// The whole product.
fn product() -> Vec<Boot> {
    let mut rows = vec![vec![]];
    for size in [MODELS.len(), CPUS.len(), SIZES.len(), KERNELS.len(), GICS.len(), Entry::ALL.len()] {
        rows = rows
            .iter()
            .flat_map(|row: &Vec<usize>| (0..size).map(move |value| [&row[..], &[value]].concat()))
            .collect();
    }
    rows.iter().map(|row| Boot::of(row)).collect()
}

/// What the guest says about itself; `bad` lines are the kernel's complaints.
const LOOK: &str = "\
echo cpus $(nproc)
echo release $(uname -r)
echo memory $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)
echo level $(dmesg | grep -o 'CPU: All CPU(s) started at EL[0-9]')
dmesg | grep -E 'WARNING:|BUG:|Oops|Internal error|Call trace|detected stall|soft lockup|Unhandled|SError' |
    sed 's/^/bad /'
cat /proc/iomem";

/// Checks what [`LOOK`] printed.
fn check(ran: &Ran, kernel: &str, cpus: u32, size: &str, entry: Entry) -> Outcome {
    let said = |name| parse::value(&ran.stdout, name).ok_or_else(|| format!("the guest did not say {name:?}"));
    ensure!(said("cpus")? == cpus.to_string(), "nproc says {}, not {cpus}", said("cpus")?);
    let release = said("release")?;
    ensure!(release.starts_with(&format!("{kernel}.")), "uname -r says {release}, not {kernel}");
    ensure!(said("level")?.ends_with(entry.level()), "the kernel says {:?}", said("level")?);
    let bad: Vec<&str> = ran.stdout.lines().filter_map(|line| line.strip_prefix("bad ")).collect();
    ensure!(bad.is_empty(), "the kernel complains:\n{}", bad.join("\n"));

    let kib: u64 = said("memory")?.parse()?;
    let whole = parse::size(size).ok_or("no size")? >> 10;
    // The kernel keeps its own image, its page structures (1.6 %) and a reserve of its own.
    ensure!(kib > whole * 85 / 100, "MemTotal is {kib} KiB of {whole}");

    let resources = parse::resources(&ran.stdout);
    let top = |name: &'static str| resources.iter().filter(move |each| each.depth == 0 && each.name == name);
    ensure!(
        top("reserved").any(|each| (each.start, each.end) == RESERVED),
        "/proc/iomem does not have Exeunt's memory as reserved"
    );
    ensure!(
        top("System RAM").all(|each| each.end < RESERVED.0 || each.start > RESERVED.1) && top("System RAM").count() > 0,
        "/proc/iomem has Exeunt's memory among System RAM"
    );
    Ok(())
}

fn boot(context: &Context, boot: Boot, qemu: &Qemu) -> Outcome {
    qemu.needs(boot.model)?;
    let ran = boot.prepare(context.machine(), qemu).with("RUN", LOOK).run()?.ended_with(0)?;
    check(&ran, boot.kernel, boot.cpus, boot.size, boot.entry)
}

/// A kernel that only `make test-all` fetches.
fn other_kernel(context: &Context, kernel: &'static str, entry: Entry) -> Outcome {
    // The usual CPU has no pages of 16 KiB.
    let model = if kernel.ends_with("-16k") { "neoverse-n1" } else { "cortex-a57" };
    let machine = context.machine().with("KERNEL", kernel).with("CPU", model).entered(entry, "");
    let ran = machine.with("RUN", LOOK).run()?.ended_with(0)?;
    let Some((version, flavour)) = kernel.split_once('-') else {
        // What it is called changes with Debian's archive.
        let fetched = fs::read_to_string(paths::target().join("guest/kernels").join(kernel).join("version"))?;
        let version = fetched.split('.').take(2).collect::<Vec<_>>().join(".");
        return check(&ran, &version, 4, "1G", entry);
    };
    // 6.12.117+deb13-rt-arm64, 6.12.117+deb13-arm64-16k
    check(&ran, version, 4, "1G", entry)?;
    let release = parse::value(&ran.stdout, "release").unwrap_or_default();
    ensure!(release.contains(flavour), "uname -r says {release}, not -{flavour}");
    Ok(())
}

/// The debug build boots as well.
fn debug_build(context: &Context, entry: Entry) -> Outcome {
    let machine = context.machine().own_build().with("PROFILE", "debug").entered(entry, "");
    let ran = machine.with("RUN", LOOK).run()?.ended_with(0)?;
    check(&ran, "6.12", 4, "1G", entry)
}

/// As many CPUs as a test machine bears.
fn many_cpus(context: &Context, entry: Entry) -> Outcome {
    let ran = context
        .machine()
        .with("SMP", 64)
        .with("THREADS", "single")
        .with("MEM", "4G")
        .with("APPEND", PATIENT)
        .limit(900)
        .entered(entry, "")
        .with("RUN", LOOK)
        .run()?
        .ended_with(0)?;
    check(&ran, "6.12", 64, "4G", entry)
}

/// The host can use what it was given, not only count it.
fn all_of_ram(context: &Context, entry: Entry) -> Outcome {
    // A file system in RAM that takes most of it.
    let fill = "mount -t tmpfs -o size=90% none /mnt && dd if=/dev/urandom of=/tmp/seed bs=1M count=1 2>/dev/null && \
                for i in $(seq 340); do cat /tmp/seed; done >/mnt/fill && \
                cmp -n 1000000 /tmp/seed /mnt/fill && wc -c </mnt/fill";
    let ran = context.machine().entered(entry, "").with("MEM", "512M").with("RUN", fill).run()?.ended_with(0)?;
    ensure!(ran.stdout.trim() == (340u64 << 20).to_string(), "the guest wrote {:?} bytes", ran.stdout.trim());
    Ok(())
}

/// A program in the host that maps Exeunt's memory gets SIGBUS, and nothing else happens.
fn stray_program(context: &Context, entry: Entry) -> Outcome {
    let script = "devmem 0x40200000; echo read $?; devmem 0x403ef000 32 1; echo write $?; \
                  devmem 0x40400000 >/dev/null; echo alive $(nproc)";
    let ran = context.machine().entered(entry, "").with("RUN", script).run()?.ended_with(0)?;
    // 128 and SIGBUS.
    for (name, wanted) in [("read", "135"), ("write", "135"), ("alive", "4")] {
        let seen = parse::value(&ran.stdout, name).unwrap_or("nothing");
        ensure!(seen == wanted, "{name}: {seen}, not {wanted}");
    }
    ensure!(ran.line_with("it gets an external abort").is_some(), "Exeunt did not say anything");
    Ok(())
}

/// A machine with an EL3, on a CPU with as many features as QEMU has: there is a line before the first register that it
/// could keep from EL2.
fn with_el3(context: &Context, entry: Entry) -> Outcome {
    let machine = context.machine().entered(entry, "").with("CPU", qemu::usual()?.cpu("max")).with("SMP", 2);
    let ran = machine.with_qemu("-machine secure=on").with("RUN", LOOK).run()?.ended_with(0)?;
    check(&ran, "6.12", 2, "1G", entry)?;
    ensure!(ran.line_with("EL3 is there").is_some(), "Exeunt did not say that there is an EL3");
    Ok(())
}

/// Debian 12's and Debian 13's own QEMU, whatever this machine has.
fn other_qemu(context: &Context, version: &'static str, model: &'static str, entry: Entry) -> Outcome {
    let qemu = Qemu::private(version)?;
    let row = Boot { kernel: "6.12", model, cpus: 4, gic: 3, size: "4G", entry };
    let machine = row.prepare(context.machine(), &qemu).with("QEMU", qemu.program.display());
    let ran = machine.with("RUN", LOOK).run()?.ended_with(0)?;
    check(&ran, row.kernel, row.cpus, row.size, entry)
}

/// A test that is made once for each way of entry.
type Test = fn(&Context, Entry) -> Outcome;

pub(super) fn cells() -> Vec<Cell> {
    let quick = quick();
    let cell = |row: Boot| {
        Cell::new(row.name(), move |context| boot(context, row, qemu::usual()?)).slow(!quick.contains(&row))
    };
    let mut cells: Vec<Cell> = product().into_iter().map(cell).collect();
    // Whether it is slow at EL1, and at virtual EL2.
    let others: [(&str, Test, [bool; 2]); 5] = [
        ("boot/6.12-debug-build", debug_build, [true, false]),
        ("boot/6.12-all-of-ram", all_of_ram, [false, true]),
        ("boot/6.12-stray-program", stray_program, [true, false]),
        ("boot/6.12-smp64", many_cpus, [true, true]),
        ("boot/6.12-el3", with_el3, [true, false]),
    ];
    for (name, test, slow) in others {
        for (entry, slow) in Entry::ALL.into_iter().zip(slow) {
            cells.push(Cell::new(format!("{name}-{}", entry.name()), move |context| test(context, entry)).slow(slow));
        }
    }
    for entry in Entry::ALL {
        let level = entry.name();
        for kernel in ["6.12-rt", "6.12-16k", "backports", "5.10"] {
            let name = format!("boot/{kernel}-{level}");
            cells.push(Cell::new(name, move |context| other_kernel(context, kernel, entry)).slow(true));
        }
        for version in ["7.2", "10.0", "testing"] {
            for model in ["cortex-a57", "max"] {
                let name = format!("boot/qemu-{version}-{model}-{level}");
                cells.push(Cell::new(name, move |context| other_qemu(context, version, model, entry)).slow(true));
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Missed;

    #[test]
    fn the_quick_part_has_every_value_and_is_small() {
        let quick = quick();
        assert!(MODELS.iter().all(|model| quick.iter().any(|boot| boot.model == *model)));
        for size in SIZES {
            assert!(GICS.iter().all(|gic| quick.iter().any(|boot| boot.size == size && boot.gic == *gic)));
        }
        for cpus in CPUS {
            assert!(KERNELS.iter().all(|kernel| quick.iter().any(|boot| boot.cpus == cpus && boot.kernel == *kernel)));
        }
        for entry in Entry::ALL {
            assert!(
                KERNELS.iter().all(|kernel| quick.iter().any(|boot| boot.entry == entry && boot.kernel == *kernel))
            );
            assert!(GICS.iter().all(|gic| quick.iter().any(|boot| boot.entry == entry && boot.gic == *gic)));
        }
        assert!(quick.len() <= 14, "{}", quick.len());
    }

    #[test]
    fn the_product_is_whole_and_holds_the_quick_part() {
        let product = product();
        assert_eq!(product.len(), 768);
        assert!(quick().iter().all(|boot| product.contains(boot)));
    }

    fn ran(stdout: &str) -> Ran {
        let stdout = stdout.to_owned();
        Ran {
            status: 0,
            stdout,
            stderr: String::new(),
            console: String::new(),
            log: std::path::PathBuf::new(),
            took: std::time::Duration::ZERO,
        }
    }

    const GOOD: &str = "\
cpus 4
release 6.12.117+deb13-cloud-arm64
memory 994860
level CPU: All CPU(s) started at EL1
40000000-401fffff : System RAM
40200000-403effff : reserved
403f0000-7fffffff : System RAM
  40400000-41c9ffff : Kernel code
";

    #[test]
    fn what_a_guest_says_is_checked() {
        assert!(check(&ran(GOOD), "6.12", 4, "1G", Entry::El1).is_ok());
        for (from, to) in [
            ("cpus 4", "cpus 3"),
            ("release 6.12.", "release 6.1."),
            ("EL1", "EL2"),
            ("memory 994860", "memory 494860"),
            ("40200000-403effff : reserved", "  40200000-403effff : reserved"),
            ("40000000-401fffff : System RAM", "40000000-402fffff : System RAM"),
            ("cpus 4", "cpus 4\nbad [ 0.1] WARNING: CPU: 0 PID: 1 at kernel/x.c:1"),
        ] {
            assert!(
                matches!(check(&ran(&GOOD.replace(from, to)), "6.12", 4, "1G", Entry::El1), Err(Missed::Failed(_))),
                "{to}"
            );
        }
    }
}
