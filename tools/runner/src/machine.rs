//! A machine as it is going to run: its files are there, its initrd is composed, its command line is known.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archive::Archives;
use crate::kernel::{self, Footprint};
use crate::output::Output;
use crate::qemu::{self, Files, Loaded, Qemu};
use crate::run::say;
use crate::settings::{Hypervisor, Initrd, Kernel, Settings};
use crate::workstation::{Places, part_of};

/// A machine that can be started.
#[derive(Debug)]
pub struct Machine {
    /// The directory that it has to itself.
    pub output: Output,
    /// QEMU's command line, but for the console.
    pub command: Command,
    /// One line on what runs.
    pub facts: String,
    /// The host is a kernel that set-up fetches: what it does when it has nothing to run is known.
    pub is_linux: bool,
}

/// What the guest runs instead of giving a shell: the file in which its init looks for it.
const RUN: &str = "exeunt/run";

/// Takes the directory of a run: OUT, or below target/ the first of `usual`, `usual`-2 and so on that is free.
///
/// # Errors
/// In words.
pub fn take_output(settings: &Settings, places: &Places, usual: &str) -> Result<Output, String> {
    match &settings.out {
        Some(path) => Output::take(path).map_err(|error| format!("OUT={}: {error}", path.display())),
        None => {
            Output::take_one_of(&places.target().join(usual), &mut |line| say(line)).map_err(|error| error.to_string())
        }
    }
}

/// Makes it: sets up, builds, composes. `bootargs` are for the host beside APPEND. `parts` are of set-up, beyond those
/// that the machine needs.
///
/// # Errors
/// In words. Whatever of it a script has failed in, the script has said.
pub fn prepare(
    settings: &Settings,
    places: &Places,
    output: Output,
    bootargs: &str,
    parts: &[&str],
    say: &mut dyn FnMut(&str),
) -> Result<Machine, String> {
    let with_exeunt = settings.hypervisor == Hypervisor::Exeunt;
    let builds = with_exeunt && settings.exeunt_bin.is_none();
    let mut wanted: Vec<String> = ["qemu"].into_iter().chain(parts.iter().copied()).map(str::to_owned).collect();
    if builds {
        wanted.push("build".to_owned());
    }
    wanted.extend(part_of(&settings.kernel));
    if settings.initrd == Initrd::Usual {
        wanted.push("initramfs".to_owned());
    }
    if settings.firmware {
        wanted.push("firmware".to_owned());
    }
    places.set_up(&wanted)?;

    let qemu = Qemu::ask(&settings.qemu)?;
    if !qemu.has(settings.cpu_model()) {
        return Err(format!(
            "CPU={}: this QEMU ({}) does not have it; `{} -cpu help` lists what it has",
            settings.cpu_model(),
            qemu.version,
            qemu.program.display()
        ));
    }
    if builds {
        say("building Exeunt");
        places.build(settings.profile)?;
    }
    let ram = settings.mem.1;
    let exeunt = settings.exeunt_bin.clone().unwrap_or_else(|| places.exeunt(settings.profile));
    let (kernel, what, is_linux) = kernel_file(&settings.kernel, places, &output, "KERNEL", say)?;
    let files = Files {
        exeunt: with_exeunt.then(|| loaded(exeunt, ram)).transpose()?,
        kernel: loaded(kernel, ram)?,
        initrd: compose_initrd(settings, places, &output)?.map(|path| loaded(path, ram)).transpose()?,
        flash: settings.firmware.then(|| places.target().join("firmware/flash.bin")),
    };
    let bootargs = format!("{bootargs} {}", settings.append);
    let mut command = Command::new(&qemu.program);
    command.args(qemu::arguments(settings, &files, bootargs.trim())?);
    let below = match (&files.exeunt, settings.hypervisor) {
        (Some(exeunt), _) => {
            let firmware = if settings.firmware { " on TF-A" } else { "" };
            let bytes = fs::metadata(&exeunt.path).map_or(0, |file| file.len());
            format!("under Exeunt ({bytes} bytes, {}){firmware}", settings.profile.name())
        }
        (None, Hypervisor::NoneAtEl1) => "without a hypervisor, entered at EL1".to_owned(),
        (None, _) => "without a hypervisor, entered at EL2".to_owned(),
    };
    let facts = format!(
        "{what} {below}; {} x {}, {} RAM, GICv{}, QEMU {}",
        settings.smp, settings.cpu, settings.mem.0, settings.gic, qemu.version
    );
    Ok(Machine { output, command, facts, is_linux })
}

fn loaded(path: PathBuf, ram: u64) -> Result<Loaded, String> {
    let footprint = Footprint::of_file(&path, ram).map_err(|error| cannot_read(&path, &error))?;
    Ok(Loaded { path, footprint })
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be read: {error}", path.display())
}

/// The kernel as the machine gets it, unpacked if need be; what it is called; whether it is one of set-up's.
///
/// `variable` has named it.
///
/// # Errors
/// It cannot be read or unpacked; in words.
pub fn kernel_file(
    kernel: &Kernel,
    places: &Places,
    output: &Output,
    variable: &str,
    say: &mut dyn FnMut(&str),
) -> Result<(PathBuf, String, bool), String> {
    match kernel {
        Kernel::Named(name) => {
            let version = places.kernel_version(name).unwrap_or_else(|| (*name).to_owned());
            Ok((places.kernel(name), format!("Linux {version}"), true))
        }
        Kernel::File(path) => {
            let file = fs::read(path).map_err(|error| cannot_read(path, &error))?;
            let what = path.display().to_string();
            match kernel::open(&file).map_err(|error| format!("{variable}={what}: {error}"))? {
                kernel::Kernel::AsItIs => {
                    if !kernel::is_image(&file) {
                        say(&format!("note: {what} is no arm64 Image; the machine is given it as it is"));
                    }
                    Ok((path.clone(), what, false))
                }
                kernel::Kernel::Unpacked(image) => {
                    let unpacked = output.file(&format!("{variable}-Image"));
                    fs::write(&unpacked, image).map_err(|error| cannot_write(&unpacked, &error))?;
                    Ok((unpacked, format!("{what}, unpacked,"), false))
                }
            }
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be written: {error}", path.display())
}

/// The initrd: the project's or a person's, and behind it OVERLAY= and RUN= as archives of their own.
fn compose_initrd(settings: &Settings, places: &Places, output: &Output) -> Result<Option<PathBuf>, String> {
    let base = match &settings.initrd {
        Initrd::Without => return Ok(None),
        Initrd::Usual => places.initramfs(),
        Initrd::File(path) => path.clone(),
    };
    if settings.overlay.is_none() && settings.run.is_none() {
        return Ok(Some(base));
    }
    let composed = output.file("initrd.cpio");
    let write = || {
        let mut archives = Archives::new(BufWriter::new(File::create(&composed)?));
        archives.ready(&fs::read(&base)?)?;
        if let Some(overlay) = &settings.overlay {
            archives.directory(overlay)?;
        }
        if let Some(run) = &settings.run {
            archives.file(RUN, 0o644, format!("{run}\n").as_bytes())?;
        }
        archives.finish()?.flush()
    };
    write().map_err(|error| format!("the initrd cannot be made: {error}"))?;
    Ok(Some(composed))
}
