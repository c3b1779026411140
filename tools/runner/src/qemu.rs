//! QEMU: what it has, and its command line for a machine.
//!
//! Owns the composition of that line, which is pure: what files there are and how large they are comes in.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::devices::{self, Attached};
use crate::kernel::Footprint;
use crate::placement::{EXEUNT, RAM_BASE, Ram};
use crate::settings::{Hypervisor, Settings};

const MIB: u64 = 1 << 20;

/// What a QEMU says of itself.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// Its path, or its name to be looked for.
    pub program: PathBuf,
    /// Its version, as it says it: 10.0.2.
    pub version: String,
    models: BTreeSet<String>,
}

impl Qemu {
    /// Asks `program`.
    ///
    /// # Errors
    /// It does not run, or is no QEMU; in words.
    pub fn ask(program: &Path) -> Result<Self, String> {
        let name = program.display();
        let output = |arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            let output = output.map_err(|error| format!("QEMU={name}: it does not run: {error}"))?;
            Ok::<_, String>(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let version = version(&output(&["--version"])?).ok_or_else(|| format!("QEMU={name}: it is no QEMU"))?;
        let models = models(&output(&["-machine", "virt", "-cpu", "help"])?);
        Ok(Self { program: program.to_owned(), version, models })
    }

    /// Whether it has the CPU model.
    #[must_use]
    pub fn has(&self, model: &str) -> bool {
        self.models.contains(model)
    }
}

/// From `QEMU emulator version 10.0.2 (Debian …)`.
fn version(text: &str) -> Option<String> {
    let rest = text.lines().next()?.split("version ").nth(1)?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_owned())
}

/// The first words of the lines that `-cpu help` prints.
fn models(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// A file for the machine, and how much memory it takes.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file.
    pub path: PathBuf,
    /// Its memory.
    pub footprint: Footprint,
}

/// What the machine gets.
#[derive(Debug)]
pub struct Files {
    /// Exeunt's image, if it is to be there.
    pub exeunt: Option<Loaded>,
    /// The host's kernel.
    pub kernel: Loaded,
    /// The host's initrd.
    pub initrd: Option<Loaded>,
    /// What `-bios` gets, if there is firmware.
    pub flash: Option<PathBuf>,
    /// What is behind the devices.
    pub attached: Attached,
}

/// QEMU's option syntax takes a comma for the end of the value unless it is doubled.
#[must_use]
pub fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The command line without a console, for a host with these `bootargs`.
///
/// # Errors
/// The RAM is too little; in words.
pub fn arguments(settings: &Settings, files: &Files, bootargs: &str) -> Result<Vec<OsString>, String> {
    let mut line = Line::default();
    let mib = settings.mem.1 / MIB;
    line.add("-accel", &settings.threads.map_or("tcg".to_owned(), |how| format!("tcg,thread={how}")));
    for words in [["-display", "none"], ["-nic", "none"]] {
        line.add(words[0], words[1]);
    }
    line.0.push("-nodefaults".into());
    let virtualization = if settings.hypervisor == Hypervisor::NoneAtEl1 { "off" } else { "on" };
    let secure = if settings.firmware { ",secure=on" } else { "" };
    let own_nodes = has_memory_of_nodes(&settings.qemu_extra);
    if own_nodes && files.attached.shares_memory() && !settings.qemu_extra.iter().any(|word| word.contains("share=on"))
    {
        return Err("SHARE= by virtiofs with NUMA nodes in QEMU_EXTRA: their memory needs to be shared: \
                    memory-backend-memfd,share=on"
            .to_owned());
    }
    let memory = if own_nodes { "" } else { ",memory-backend=ram" };
    line.add("-machine", &format!("virt,virtualization={virtualization},gic-version={}{memory}{secure}", settings.gic));
    line.add("-cpu", &settings.cpu);
    line.add("-smp", &settings.smp.to_string());
    line.add("-m", &format!("{mib}M"));
    if !own_nodes {
        // Pages are taken when the guest touches them: it may have more RAM than this workstation.
        let backend = if files.attached.shares_memory() { "memfd" } else { "ram" };
        let shared = if files.attached.shares_memory() { ",share=on" } else { "" };
        line.add("-object", &format!("memory-backend-{backend},id=ram,size={mib}M,reserve=off{shared}"));
    }
    // Firmware of cards, in a package that QEMU's own only recommends. Without EDK2 nothing here runs it.
    line.add("-global", "pci-device.romfile=");
    line.0.extend(devices::arguments(&settings.devices, &files.attached));
    if let Some(exeunt) = &files.exeunt {
        with_exeunt(&mut line, settings, files, exeunt, bootargs)?;
    } else {
        line.add("-kernel", &files.kernel.path.display().to_string());
        line.add("-append", bootargs);
        if let Some(initrd) = &files.initrd {
            line.add("-initrd", &initrd.path.display().to_string());
        }
    }
    line.0.extend(settings.qemu_extra.iter().map(OsString::from));
    Ok(line.0)
}

/// Whether a person's arguments say where the memory of NUMA nodes comes from. QEMU takes that for the whole RAM then,
/// and no other beside it.
fn has_memory_of_nodes(arguments: &[String]) -> bool {
    arguments.windows(2).any(|pair| {
        pair[0].trim_start_matches('-') == "numa" && pair[1].split(',').any(|part| part.starts_with("memdev="))
    })
}

fn with_exeunt(
    line: &mut Line,
    settings: &Settings,
    files: &Files,
    exeunt: &Loaded,
    bootargs: &str,
) -> Result<(), String> {
    let mem = &settings.mem.0;
    let too_little = |what: &str, size: u64| {
        format!("MEM={mem} is too little for {what} ({} MiB) beside what is there already", size.div_ceil(MIB))
    };
    let mut ram = if settings.firmware {
        Ram::with_firmware(settings.mem.1, exeunt.footprint.size)
    } else {
        Ram::with_exeunt(settings.mem.1, exeunt.footprint.size)
    }
    .ok_or_else(|| format!("MEM={mem} is too little for Exeunt and a device tree"))?;
    let kernel = files.kernel.footprint;
    let kernel_address = ram.kernel(kernel).ok_or_else(|| too_little("the kernel", kernel.size))?;
    line.add("-kernel", &exeunt.path.display().to_string());
    if let Some(flash) = &files.flash {
        line.add("-bios", &flash.display().to_string());
        // Of -kernel QEMU then keeps only the command line: the image is put into RAM here.
        let address = RAM_BASE + EXEUNT;
        line.add("-device", &format!("loader,file={},addr={address:#x},force-raw=on", escaped(&exeunt.path)));
    }
    if !settings.exeunt.is_empty() {
        line.add("-append", &settings.exeunt);
    }
    line.add(
        "-device",
        &format!(
            "guest-loader,addr={kernel_address:#x},kernel={},bootargs={}",
            escaped(&files.kernel.path),
            bootargs.replace(',', ",,")
        ),
    );
    if let Some(initrd) = &files.initrd {
        let size = initrd.footprint.size;
        let address = ram.initrd(size).ok_or_else(|| too_little("the initrd", size))?;
        line.add("-device", &format!("guest-loader,addr={address:#x},initrd={}", escaped(&initrd.path)));
    }
    Ok(())
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn add(&mut self, option: &str, value: &str) {
        self.0.extend([option.into(), value.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variables::{Target, Values};

    fn settings(set: &[(&str, &str)]) -> Settings {
        let look_up = |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        Settings::read(&Values::read(Target::Run, [], look_up).unwrap()).unwrap()
    }

    fn loaded(path: &str, size: u64) -> Loaded {
        Loaded { path: path.into(), footprint: Footprint { text_offset: 0, size } }
    }

    fn files() -> Files {
        Files {
            exeunt: Some(loaded("exeunt.bin", 190_000)),
            kernel: loaded("a,b", 30 << 20),
            initrd: Some(loaded("initrd", 5 << 20)),
            flash: None,
            attached: Attached::default(),
        }
    }

    fn line(set: &[(&str, &str)], files: &Files) -> String {
        let words = arguments(&settings(set), files, "console=ttyAMA0 isolcpus=1,2").unwrap();
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_usual_machine() {
        let line = line(&[("EXEUNT", "stats"), ("QEMU_EXTRA", "-device 'a b'")], &files());
        assert_eq!(
            line,
            "-accel tcg -display none -nic none -nodefaults \
             -machine virt,virtualization=on,gic-version=3,memory-backend=ram -cpu cortex-a57 -smp 4 -m 1024M \
             -object memory-backend-ram,id=ram,size=1024M,reserve=off -global pci-device.romfile= \
             -kernel exeunt.bin -append stats \
             -device guest-loader,addr=0x40400000,kernel=a,,b,bootargs=console=ttyAMA0 isolcpus=1,,2 \
             -device guest-loader,addr=0x42200000,initrd=initrd -device a b"
        );
    }

    #[test]
    fn nodes_bring_their_own_memory() {
        let extra = "-numa node,cpus=0,memdev=m0 -object memory-backend-ram,id=m0,size=1G";
        let with_nodes = line(&[("QEMU_EXTRA", extra)], &files());
        assert!(!with_nodes.contains("memory-backend=ram") && !with_nodes.contains("id=ram"), "{with_nodes}");
        assert!(with_nodes.ends_with(extra), "{with_nodes}");
        let without = line(&[("QEMU_EXTRA", "-numa cpu,node-id=0 -device x,memdev=y")], &files());
        assert!(without.contains("memory-backend=ram"), "{without}");
    }

    #[test]
    fn bare_qemu_takes_the_kernel_itself() {
        let files = Files { exeunt: None, ..files() };
        let line = line(&[("HYPERVISOR", "none"), ("EL", "1"), ("THREADS", "single")], &files);
        assert!(line.contains("tcg,thread=single") && line.contains("virtualization=off"), "{line}");
        assert!(line.ends_with("-kernel a,b -append console=ttyAMA0 isolcpus=1,2 -initrd initrd"), "{line}");
    }

    #[test]
    fn firmware_gets_the_image_in_ram() {
        let files = Files { flash: Some("flash.bin".into()), ..files() };
        let line = line(&[("FIRMWARE", "tf-a")], &files);
        assert!(line.contains("memory-backend=ram,secure=on"), "{line}");
        assert!(line.contains("-bios flash.bin -device loader,file=exeunt.bin,addr=0x40200000,force-raw=on"), "{line}");
    }

    #[test]
    fn too_little_ram_is_said_in_words() {
        let error = arguments(&settings(&[("MEM", "32M")]), &files(), "").unwrap_err();
        assert_eq!(error, "MEM=32M is too little for the kernel (30 MiB) beside what is there already");
    }

    #[test]
    fn versions_and_models_are_read() {
        assert_eq!(version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n"), Some("10.0.2".to_owned()));
        assert_eq!(version("command not found"), None);
        let models = models("Available CPUs:\n  a64fx\n  max                  (alias)\n");
        assert!(models.contains("max") && models.contains("a64fx"));
    }
}
