//! Device trees that QEMU does not make: by other loaders, with what other machines have, and with what none can have.
//! Each ends in a boot, or in a line that says why not.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::bad_input::{ELSEWHERE, refused, shimmed};
use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Machine, PATIENT};
use crate::{ensure, images, parse, paths};

const MIB: u64 = 1 << 20;

/// Where the machine's parts go, in 1 GiB of RAM from 0x40000000 on: the tree, the host's kernel and its initrd.
const TREE: u64 = 0x4a00_0000;
const KERNEL: u64 = 0x4c00_0000;
const INITRD: u64 = 0x5000_0000;

/// QEMU's virt with one CPU and a GICv2, as a tree's source. What stands in it can be replaced.
const VIRT: &str = r#"/dts-v1/;
/ {
    #address-cells = <2>;
    #size-cells = <2>;
    compatible = "linux,dummy-virt";
    interrupt-parent = <&gic>;
    memory@40000000 { device_type = "memory"; reg = <0x0 0x40000000 0x0 0x40000000>; };
    cpus {
        #address-cells = <1>;
        #size-cells = <0>;
        cpu@0 { device_type = "cpu"; compatible = "arm,cortex-a57"; reg = <0>; enable-method = "psci"; };
    };
    psci { compatible = "arm,psci-1.0", "arm,psci-0.2"; method = "smc"; };
    gic: intc@8000000 {
        compatible = "arm,cortex-a15-gic";
        #interrupt-cells = <3>;
        interrupt-controller;
        reg = <0x0 0x08000000 0x0 0x10000 0x0 0x08010000 0x0 0x10000>;
    };
    timer {
        compatible = "arm,armv8-timer";
        always-on;
        interrupts = <1 13 0x104 1 14 0x104 1 11 0x104 1 10 0x104>;
    };
    clock: apb-pclk { compatible = "fixed-clock"; #clock-cells = <0>; clock-frequency = <24000000>; };
    pl011@9000000 {
        compatible = "arm,pl011", "arm,primecell";
        reg = <0x0 0x09000000 0x0 0x1000>;
        interrupts = <0 1 4>;
        clocks = <&clock &clock>;
        clock-names = "uartclk", "apb_pclk";
    };
    chosen { stdout-path = "/pl011@9000000"; MODULES };
};
"#;

/// A host for such a machine.
struct Host {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    bootargs: String,
}

impl Host {
    /// The guest `calls` with a few rounds, and `arguments` beside them.
    fn guest(arguments: &str) -> Result<Self, Missed> {
        Self::other("calls", &format!("rounds=100 {arguments}"))
    }

    /// The guest `name`.
    fn other(name: &str, arguments: &str) -> Result<Self, Missed> {
        Ok(Self { kernel: images::guest(name)?, initrd: None, bootargs: arguments.into() })
    }

    /// A Linux that runs `script`.
    fn linux(context: &Context, kernel: &str, script: &str) -> Result<Self, Missed> {
        let bootargs = format!("console=ttyAMA0 quiet panic=-1 {PATIENT}");
        let initrd = Some(initrd_with(context, script)?);
        Ok(Self { kernel: paths::target().join(format!("guest/kernels/{kernel}/vmlinuz")), initrd, bootargs })
    }

    /// The modules in the tree's source.
    fn modules(&self) -> Result<String, Missed> {
        let mut text = String::new();
        let files = [("kernel", KERNEL, Some(&self.kernel)), ("ramdisk", INITRD, self.initrd.as_ref())];
        for (kind, address, file) in files {
            let Some(file) = file else { continue };
            write!(
                text,
                "module@{address:x} {{ compatible = \"multiboot,module\", \"multiboot,{kind}\"; \
                 reg = <0x0 {address:#x} 0x0 {:#x}>; bootargs = \"{}\"; }};",
                fs::metadata(file)?.len(),
                self.bootargs
            )?;
        }
        Ok(text)
    }
}

/// The initramfs with `script` for the guest to run, as scripts/run makes it for RUN=.
fn initrd_with(context: &Context, script: &str) -> Result<PathBuf, Missed> {
    let directory = context.directory()?;
    fs::create_dir_all(directory.join("run/exeunt"))?;
    fs::write(directory.join("run/exeunt/run"), format!("{script}\n"))?;
    let initrd = directory.join("initrd.cpio");
    let pack = "source scripts/lib.sh && cat target/guest/initramfs.cpio >\"$2\" && truncate -s %512 \"$2\" && \
                make_cpio \"$1\" >>\"$2\"";
    let mut command = Command::new("bash");
    command.args(["-c", pack, "pack"]).arg(directory.join("run")).arg(&initrd).current_dir(paths::root());
    ensure!(command.status()?.success(), "the initrd cannot be made");
    Ok(initrd)
}

/// The tree of `source`, flattened; dtc leaves no room in it.
fn flatten(context: &Context, source: &str) -> Result<PathBuf, Missed> {
    let blob = context.directory()?.join("tree.dtb");
    let text = context.directory()?.join("tree.dts");
    fs::write(&text, source)?;
    let mut dtc = Command::new("dtc");
    let done = dtc.args(["-q", "-I", "dts", "-O", "dtb", "-o"]).arg(&blob).arg(&text).output()?;
    ensure!(done.status.success(), "dtc: {}", String::from_utf8_lossy(&done.stderr));
    Ok(blob)
}

/// Exeunt at [`ELSEWHERE`] with the tree in the file `blob` at `address`, and `host`.
fn machine_with(context: &Context, blob: &Path, address: u64, host: &Host) -> Result<Machine, Missed> {
    let machine = context.machine().with("HYPERVISOR", "none").with("GIC", 2).with("SMP", 1);
    let mut machine = machine.guest(&images::guest("shim")?, "");
    let files = [(blob, address), (&host.kernel, KERNEL)].into_iter();
    for (file, address) in files.chain(host.initrd.as_deref().map(|initrd| (initrd, INITRD))) {
        machine = machine.with_qemu(format!("-device loader,file={},addr={address:#x},force-raw=on", file.display()));
    }
    shimmed(machine, ELSEWHERE, &format!("x0={address:#x}"))
}

/// [`VIRT`] with one piece replaced, and what the host needs.
fn source(host: &Host, from: &str, to: &str) -> Result<String, Missed> {
    ensure!(VIRT.matches(from).count() == 1, "{from:?} is not in the tree once");
    Ok(VIRT.replace(from, to).replace("MODULES", &host.modules()?))
}

/// The machine of [`source`].
fn changed(context: &Context, host: &Host, from: &str, to: &str) -> Result<Machine, Missed> {
    let blob = flatten(context, &source(host, from, to)?)?;
    machine_with(context, &blob, TREE, host)
}

/// A tree without room for Exeunt's changes: there is room after it.
fn packed(context: &Context) -> Outcome {
    let host = Host::guest("")?;
    changed(context, &host, "always-on;", "")?.run()?.ended_with(0)?;
    Ok(())
}

/// The same, and the host's kernel begins where it ends.
fn packed_before_the_kernel(context: &Context) -> Outcome {
    let host = Host::guest("")?;
    let blob = flatten(context, &source(&host, "always-on;", "")?)?;
    // A tree is at a multiple of 8: a few bytes more, at most.
    let size = fs::metadata(&blob)?.len().next_multiple_of(8);
    refused(machine_with(context, &blob, KERNEL - size, &host)?, "and its memory has")
}

/// A file that is all that there is of a tree, in RAM that is zero otherwise.
fn cut_off(context: &Context, length: usize, reason: &str) -> Outcome {
    let host = Host::guest("")?;
    let blob = flatten(context, &source(&host, "always-on;", "")?)?;
    let bytes = fs::read(&blob)?;
    fs::write(&blob, &bytes[..length])?;
    refused(machine_with(context, &blob, TREE, &host)?, reason)
}

/// The tree's size goes beyond the end of RAM, and so do its blocks.
fn beyond_the_end_of_ram(context: &Context) -> Outcome {
    let host = Host::guest("")?;
    let blob = flatten(context, &source(&host, "always-on;", "")?)?;
    let end_of_ram = 0x8000_0000;
    let blob_bytes = fs::read(&blob)?;
    fs::write(&blob, &blob_bytes[..64])?;
    refused(machine_with(context, &blob, end_of_ram - 64, &host)?, "reading the device tree at 0x8000")
}

/// Refused with this piece of the tree replaced.
fn impossible(context: &Context, from: &str, to: &str, reason: &str) -> Outcome {
    refused(changed(context, &Host::guest("")?, from, to)?, reason)
}

const RAM: &str = "reg = <0x0 0x40000000 0x0 0x40000000>;";
const GIC: &str = "reg = <0x0 0x08000000 0x0 0x10000 0x0 0x08010000 0x0 0x10000>;";

/// What the tree keeps of RAM for others, after everything else.
fn kept(node: &str) -> String {
    format!("reserved-memory {{ #address-cells = <2>; #size-cells = <2>; ranges; {node} }}; chosen {{")
}

/// Exeunt writes nothing where the host must not write either; what the loader has reserved of the host's own is the
/// host's.
fn buffers(context: &Context) -> Outcome {
    let host = Host::guest("closed=0x60000000 closed=0x61000000 open=0x62000000 open=0x63000000")?;
    let no_map = kept("a@60000000 { reg = <0x0 0x60000000 0x0 0x10000>; no-map; };");
    let source = source(&host, "chosen {", &no_map)?;
    // The last one is of the kernel, from its beginning on, and of more.
    let reserved =
        format!("/dts-v1/;\n/memreserve/ 0x61000000 0x1000;\n/memreserve/ {KERNEL:#x} {:#x};\n", 0x6200_1000 - KERNEL);
    let blob = flatten(context, &source.replace("/dts-v1/;\n", &reserved))?;
    machine_with(context, &blob, TREE, &host)?.run()?.ended_with(0)?;
    Ok(())
}

/// Who has reserved Exeunt's memory before is no reason for Linux to leave it in its memory map.
fn reserved_twice(context: &Context, kernel: &str) -> Outcome {
    let host = Host::linux(context, kernel, "cat /proc/iomem")?;
    let source = source(&host, "always-on;", "")?;
    let reserve = format!("/dts-v1/;\n/memreserve/ {ELSEWHERE:#x} {:#x};\n", 2 * MIB);
    let blob = flatten(context, &source.replace("/dts-v1/;\n", &reserve))?;
    let ran = machine_with(context, &blob, TREE, &host)?.run()?.ended_with(0)?;
    let resources = parse::resources(&ran.console);
    let exeunt = (ELSEWHERE, ELSEWHERE + 2 * MIB - 0x1_0000 - 1);
    ensure!(
        resources.iter().any(|each| each.depth == 0 && each.name == "reserved" && (each.start, each.end) == exeunt),
        "Exeunt's memory is in System RAM:\n{}",
        ran.console
    );
    Ok(())
}

/// `-kernel Exeunt -initrd FILE`: Linux's boot protocol, and no module but the kernel.
fn initrd_by_boot_protocol(context: &Context) -> Outcome {
    let initrd = initrd_with(context, "ls /exeunt")?;
    let machine = context.machine().with("INITRD", "none").with("APPEND", format!("quiet panic=-1 {PATIENT}"));
    let ran = machine.with_qemu(format!("-initrd {}", initrd.display())).run()?.ended_with(0)?;
    ran.says("exeunt-run: exit status 0")?;
    Ok(())
}

/// A second memory node whose last 2 MiB are not there: a call gets no answer in a buffer there, what the host executes
/// in virtual EL2 and at EL1 gets the aborts of a bare machine, and Exeunt goes on.
fn ram_where_nothing_answers(context: &Context) -> Outcome {
    let node = "memory@80000000 { device_type = \"memory\"; reg = <0x0 0x80000000 0x0 0x20200000>; }; cpus {";
    let run = |host: Host| {
        let machine = changed(context, &host, "cpus {", node)?.with("MEM", "1536M");
        machine.run()?.ended_with(0)?.says("checks, 0 failed")
    };
    let ran = run(Host::guest("open=0x9fffe000 closed=0xa0000000 closed=0xa01ff000")?)?;
    ran.says("a call's buffer at 0xa0000000 cannot be written: data abort from EL2: synchronous external abort")?;
    run(Host::other("encodings", "nothing=0xa0000040")?)?;
    run(Host::other("aborts", "region=0xa0000000,0x200000")?)?;
    Ok(())
}

type Test = fn(&Context) -> Outcome;

const TESTS: &[(&str, Test)] = &[
    ("packed", packed),
    ("packed-before-the-kernel", packed_before_the_kernel),
    ("header-of-0-bytes", |context| {
        let machine = shimmed(context.machine().guest(&images::guest("rounds")?, "start-only"), ELSEWHERE, "size=0")?;
        refused(machine, "the device tree is corrupt")
    }),
    ("cut-after-4-bytes", |context| cut_off(context, 4, "the device tree is corrupt")),
    ("cut-in-the-header", |context| cut_off(context, 20, "the device tree has format version 0")),
    ("beyond-the-end-of-ram", beyond_the_end_of_ram),
    ("ram-in-the-last-page-of-all", |context| {
        let last = "reg = <0x0 0x40000000 0x0 0x40000000 0xffffffff 0xfffff800 0x0 0x700>;";
        impossible(context, RAM, last, "the RAM at 0xfffffffffffff800-0xfffffffffffffeff goes beyond the 44 bits")
    }),
    ("ram-beyond-the-cpu", |context| {
        let beyond = "reg = <0x0 0x40000000 0x0 0x40000000 0x1000 0x0 0x0 0x40000000>;";
        impossible(context, RAM, beyond, "the RAM at 0x100000000000-0x10003fffffff goes beyond the 44 bits")
    }),
    ("ram-where-nothing-answers", ram_where_nothing_answers),
    ("gicv2-where-nothing-answers", |context| {
        let nowhere = "reg = <0x0 0x0b000000 0x0 0x10000 0x0 0x0b010000 0x0 0x10000>;";
        impossible(context, GIC, nowhere, "the GICv2 of the device tree does not answer at 0xb000004")
    }),
    ("gicv2-in-exeunt", |context| {
        let inside = "reg = <0x0 0x08000000 0x0 0x10000 0x0 0x44010000 0x0 0x10000>;";
        impossible(context, GIC, inside, "its CPU interface at 0x44010000, which is in Exeunt's memory")
    }),
    ("gicv2-in-ram", |context| {
        let inside = "reg = <0x0 0x70000000 0x0 0x10000 0x0 0x08010000 0x0 0x10000>;";
        impossible(context, GIC, inside, "its distributor at 0x70000000, which is in RAM")
    }),
    ("reserved-for-a-driver-too", |context| {
        let node = format!("pool@44000000 {{ reg = <0x0 {ELSEWHERE:#x} 0x0 0x200000>; }};");
        impossible(context, "chosen {", &kept(&node), "by the device tree's /reserved-memory somebody else has")
    }),
    ("no-buffer-in-what-others-have", buffers),
    ("reserved-twice-6.12", |context| reserved_twice(context, "6.12")),
    ("initrd-by-boot-protocol", initrd_by_boot_protocol),
];

pub(super) fn cells() -> Vec<Cell> {
    let mut cells: Vec<Cell> = TESTS.iter().map(|(name, test)| Cell::new(format!("trees/{name}"), *test)).collect();
    // Before Linux 6.4 the reservation block came first, and won.
    cells.push(Cell::new("trees/reserved-twice-6.1", |context| reserved_twice(context, "6.1")));
    cells
}
