//! What cannot be started is refused: a line with the reason, the machine off by itself, and a status that says so.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{EXEUNT_FAILED, Machine};
use crate::{ensure, images};

/// Where the tests that need Exeunt elsewhere put it.
pub(super) const ELSEWHERE: u64 = 0x4400_0000;
/// Where the host's kernel usually is: after Exeunt.
const KERNEL: u64 = 0x4040_0000;
/// Where QEMU puts the device tree with 256 MiB of RAM or more.
const TREE: u64 = 0x4800_0000;

const MIB: u64 = 1 << 20;

/// Exeunt must refuse to start on `machine`, with `reason` in the line that says why.
pub(super) fn refused(machine: Machine, reason: &str) -> Outcome {
    let ran = machine.limit(120).run()?.ended_with(EXEUNT_FAILED)?;
    let lines: Vec<&str> = ran.console.lines().filter(|line| line.contains("EXEUNT")).collect();
    ensure!(lines.len() == 1 && lines[0].contains("EXEUNT CANNOT START: "), "it says:\n{}", lines.join("\n"));
    ensure!(lines[0].contains(reason), "the reason is not {reason:?}: {}", lines[0]);
    Ok(())
}

/// Exeunt with its own options, and nothing for it to start but what `loaders` add.
fn alone(context: &Context, options: &str, loaders: &str) -> Result<Machine, Missed> {
    let machine = context.machine().with("HYPERVISOR", "none").guest(&images::exeunt()?, "");
    Ok(machine.with_qemu(format!("-append '{options}' {loaders}")))
}

/// A guest-loader for a kernel at `address`.
fn loader(address: u64, kernel: &Path) -> String {
    format!("-device guest-loader,addr={address:#x},kernel={},bootargs=x", kernel.display())
}

/// Exeunt is loaded at `address` and started there by `shim` with its `arguments`; it would otherwise start a guest.
fn shim(context: &Context, address: u64, arguments: &str) -> Result<Machine, Missed> {
    shimmed(context.machine().guest(&images::guest("rounds")?, "start-only"), address, arguments)
}

pub(super) fn shimmed(machine: Machine, address: u64, arguments: &str) -> Result<Machine, Missed> {
    with_shim(machine, address, arguments, "")
}

/// Exeunt is loaded at `address` and started there by `shim` with its `arguments`; `options` are Exeunt's.
pub(super) fn with_shim(machine: Machine, address: u64, arguments: &str, options: &str) -> Result<Machine, Missed> {
    Ok(machine.with_qemu(format!(
        "-kernel {} -append 'entry={address:#x} {arguments} -- {options}' \
         -device loader,file={},addr={address:#x},force-raw=on",
        images::guest("shim")?.display(),
        images::exeunt()?.display(),
    )))
}

/// An arm64 Image's header (booting.rst, "Call the kernel image") and as many bytes as `file_size` says.
struct Image {
    file_size: usize,
    footprint: u64,
    flags: u64,
    magic: [u8; 4],
}

impl Default for Image {
    fn default() -> Self {
        // Little-endian, 4 KiB pages, anywhere.
        Self { file_size: 4096, footprint: MIB, flags: 0xa, magic: *b"ARM\x64" }
    }
}

impl Image {
    fn write(&self, context: &Context) -> Result<PathBuf, Missed> {
        let mut bytes = vec![0; 64];
        bytes[16..24].copy_from_slice(&self.footprint.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.flags.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.magic);
        bytes.resize(self.file_size, 0);
        file(context, "Image", &bytes)
    }
}

fn file(context: &Context, name: &str, bytes: &[u8]) -> Result<PathBuf, Missed> {
    let path = context.directory()?.join(name);
    fs::write(&path, bytes)?;
    Ok(path)
}

/// A kernel with this header at the usual place.
fn kernel(context: &Context, image: &Image, reason: &str) -> Outcome {
    kernel_at(context, KERNEL, image, reason)
}

fn kernel_at(context: &Context, address: u64, image: &Image, reason: &str) -> Outcome {
    let image = image.write(context)?;
    refused(alone(context, "log=info", &loader(address, &image))?, reason)
}

fn options(context: &Context, options: &str, reason: &str) -> Outcome {
    let machine = context.machine().guest(&images::guest("rounds")?, "start-only");
    refused(machine.with("EXEUNT", options), reason)
}

/// The kernel's memory reaches from below Exeunt into it.
fn kernel_over_exeunt(context: &Context) -> Outcome {
    let image = Image { footprint: 4 * MIB, ..Image::default() }.write(context)?;
    let machine = context.machine().with("HYPERVISOR", "none").guest(&images::guest("shim")?, "");
    let machine = machine.with_qemu(loader(ELSEWHERE - 2 * MIB, &image));
    refused(shimmed(machine, ELSEWHERE, "")?, "and Exeunt at 0x44000000-0x441fffff overlap")
}

fn kernel_over_initrd(context: &Context) -> Outcome {
    let image = Image { footprint: 8 * MIB, ..Image::default() }.write(context)?;
    let initrd = file(context, "initrd", &[1; 4096])?;
    let loaders = format!(
        "{} -device guest-loader,addr={:#x},initrd={}",
        loader(KERNEL, &image),
        KERNEL + 4 * MIB,
        initrd.display()
    );
    refused(alone(context, "log=info", &loaders)?, "and the host's initrd at 0x40800000-0x40800fff overlap")
}

/// More CPUs than Exeunt's memory is for, and more than its list of what a tree has.
fn too_many_cpus(context: &Context) -> Outcome {
    let guest = images::guest("rounds")?;
    for (cpus, why) in [
        (129, "129 CPUs, and Exeunt's 2 MiB have room for 128"),
        (512, "the device tree has more CPUs than Exeunt has room for (256)"),
    ] {
        let machine = context.machine().guest(&guest, "start-only").with("SMP", cpus).with("MEM", "4G");
        refused(machine.limit(600), why)?;
    }
    Ok(())
}

type Test = fn(&Context) -> Outcome;

const TESTS: &[(&str, Test)] = &[
    ("started-at-el1", |context| {
        let machine = context.machine().guest(&images::guest("rounds")?, "start-only");
        refused(machine.with_qemu("-machine virtualization=off"), "started at EL1")
    }),
    ("no-kernel", |context| refused(alone(context, "log=info", "")?, "no host kernel")),
    ("no-kernel-but-an-initrd", |context| {
        let initrd = file(context, "initrd", &[1; 4096])?;
        let loader = format!("-device guest-loader,addr={KERNEL:#x},initrd={}", initrd.display());
        refused(alone(context, "log=info", &loader)?, "no host kernel")
    }),
    ("wrong-magic", |context| {
        kernel(context, &Image { magic: *b"LEG\0", ..Image::default() }, "is not an arm64 Image")
    }),
    ("compressed-kernel", |context| {
        let image = file(context, "Image.gz", &[[0x1f, 0x8b, 8, 0].as_slice(), &[7; 4096]].concat())?;
        refused(alone(context, "log=info", &loader(KERNEL, &image))?, "compressed")
    }),
    ("kernel-too-short", |context| {
        kernel(
            context,
            &Image { file_size: 60, ..Image::default() },
            "has 60 bytes, and an arm64 Image begins with a header of 64",
        )
    }),
    ("big-endian-kernel", |context| kernel(context, &Image { flags: 0xb, ..Image::default() }, "big-endian")),
    ("pages-that-the-cpu-has-not", |context| {
        // 16 KiB, on a cortex-a57.
        kernel(
            context,
            &Image { flags: 0xc, ..Image::default() },
            "has pages of 16 KiB, and this CPU has none of that size",
        )
    }),
    ("kernel-over-exeunt", kernel_over_exeunt),
    ("kernel-over-initrd", kernel_over_initrd),
    ("kernel-over-tree", |context| {
        let image = Image { footprint: TREE - KERNEL + 1, ..Image::default() };
        kernel(context, &image, "and the device tree at 0x48000000")
    }),
    ("kernel-over-the-end-of-ram", |context| {
        // RAM is 1 GiB from 0x40000000 on.
        let image = Image { footprint: 4 * MIB, ..Image::default() };
        kernel_at(context, 0x8000_0000 - 2 * MIB, &image, "not all of that is RAM")
    }),
    ("misaligned-kernel", |context| {
        kernel_at(context, KERNEL + MIB, &Image::default(), "has to be at a multiple of 2 MiB")
    }),
    ("kernel-outside-ram", |context| kernel_at(context, 0x20_0000_0000, &Image::default(), "not all of that is RAM")),
    ("unknown-option", |context| options(context, "log=info bogus", "unknown option 'bogus'; known are: log=error|")),
    ("unknown-value", |context| options(context, "log=loud", "option 'log' has no value 'loud'")),
    ("missing-value", |context| options(context, "log", "option 'log' needs a value")),
    ("unwanted-value", |context| options(context, "stats=1", "option 'stats' takes no value")),
    ("no-tree", |context| refused(shim(context, ELSEWHERE, "x0=0")?, "no device tree")),
    ("no-tree-at-the-address", |context| {
        refused(shim(context, ELSEWHERE, "x0=0x4a000000")?, "there is no device tree at the address in x0")
    }),
    ("tree-outside-ram", |context| {
        refused(shim(context, ELSEWHERE, "x0=0x2000000000")?, "reading the device tree at 0x20000000")
    }),
    ("misaligned-tree", |context| {
        refused(shim(context, ELSEWHERE, "move=0x4a000004")?, "0x4a000004, is not a multiple of 8")
    }),
    ("tree-in-exeunt", |context| refused(shim(context, ELSEWHERE, "move=0x44100000")?, "lies in Exeunt's memory")),
    ("tree-with-a-wrong-magic", |context| {
        refused(shim(context, ELSEWHERE, "magic=0xedfe0dd0")?, "there is no device tree at the address in x0")
    }),
    ("tree-with-a-huge-size", |context| {
        refused(shim(context, ELSEWHERE, "size=0x7fffffff")?, "the device tree says that it has 2147483647 bytes")
    }),
    ("tree-cut-off", |context| refused(shim(context, ELSEWHERE, "size=0x400")?, "the device tree is corrupt")),
    ("tree-spoilt", |context| refused(shim(context, ELSEWHERE, "spoil=0x800")?, "the device tree is corrupt")),
    ("tree-of-another-version", |context| {
        // version and last_comp_version (Devicetree Specification 5.2).
        refused(shim(context, ELSEWHERE, "word=20,99 word=24,99")?, "the device tree has format version 99")
    }),
    ("no-psci", |context| refused(shim(context, ELSEWHERE, "replace=psci:xsci")?, "PSCI")),
    ("psci-by-hvc", |context| refused(shim(context, ELSEWHERE, "replace=smc:hvc")?, "hvc")),
    ("too-little-ram", |context| {
        refused(shim(context, ELSEWHERE, "ram=0x4000000")?, "not all of that is RAM: too little memory")
    }),
    ("misaligned-exeunt", |context| {
        refused(shim(context, ELSEWHERE + 0x1000, "")?, "loaded at 0x44001000, which is not a multiple of 2 MiB")
    }),
];

pub(super) fn cells() -> Vec<Cell> {
    let mut cells: Vec<Cell> = TESTS.iter().map(|(name, test)| Cell::new(format!("bad-input/{name}"), *test)).collect();
    cells.push(Cell::new("bad-input/too-many-cpus", too_many_cpus).slow(true));
    cells
}
