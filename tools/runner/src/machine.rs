//! A machine as it is going to run: its files are there, its initrd is composed, its command line is known.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archive::Archives;
use crate::devices::{self, Attached, Ssh, Virtiofs};
use crate::kconfig::{self, Config};
use crate::kernel::{self, Footprint};
use crate::modules::Modules;
use crate::names;
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
    /// What a person has to know of its devices: a line each.
    pub notes: Vec<String>,
    /// The host is a kernel that set-up fetches: what it does when it has nothing to run is known.
    pub is_linux: bool,
    /// The port of this workstation behind which the guest's ssh server is.
    pub port: Option<u16>,
    /// Runs as long as the machine does.
    _virtiofs: Option<Virtiofs>,
}

/// What the guest runs instead of giving a shell: the file in which its init looks for it.
const RUN: &str = "exeunt/run";

/// What the guest gets for its devices, for its init: the variables of scripts/guest/devices.
const DEVICES: &str = "exeunt/devices";
/// The devices' modules.
const DISK_MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];
const NET_MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];
const P9_MODULES: [&str; 3] = ["virtio_pci", "9pnet_virtio", "9p"];
const VIRTIOFS_MODULES: [&str; 2] = ["virtio_pci", "virtiofs"];
/// With a disk: what may be on it. They are loaded when something of theirs is mounted, and none of them has to be
/// there.
const FILE_SYSTEMS: [&str; 12] = [
    "ext4",
    "crc32c_generic",
    "crc32c_cryptoapi",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_utf8",
    "xfs",
    "btrfs",
    "isofs",
    "squashfs",
];

/// Those that mount(8) tries when nobody has named one. A kernel lists only what is loaded already.
const MOUNTED: &str = "ext4\nvfat\nxfs\nbtrfs\niso9660\nsquashfs\n";

/// The file in a run's directory that has the initrd, where one is composed.
pub const COMPOSED: &str = "initrd.cpio";

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
    if settings.devices.net.is_some() && settings.initrd == Initrd::Usual {
        wanted.push("net".to_owned());
    }
    places.set_up(&wanted)?;
    let modules = modules_of(settings, places)?;
    let mut ways = settings.devices.share.is_some().then(|| Ways::of(settings, places, modules.as_ref()));
    if let Some(ways) = ways.as_mut().filter(|ways| ways.virtiofs) {
        // A kernel decides this, which only now is there.
        match places.set_up(&["share".to_owned()]) {
            Err(_) if ways.by_9p => {
                say("without virtiofsd the directory is there by 9p only");
                ways.virtiofs = false;
            }
            done => done?,
        }
    }

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
    let attached = attach(settings, places, &output, ways)?;
    let (ssh, mut notes) = tell(settings, places, &output, &attached)?;
    let extra = (settings.initrd == Initrd::Usual && !settings.devices.is_empty())
        .then(|| of_devices(settings, places, &output, &attached, modules.as_ref(), ssh.as_ref(), &mut notes))
        .transpose()?;
    let files = Files {
        exeunt: with_exeunt.then(|| loaded(exeunt, ram)).transpose()?,
        kernel: loaded(kernel, ram)?,
        initrd: compose_initrd(settings, places, &output, extra.as_deref())?
            .map(|path| loaded(path, ram))
            .transpose()?,
        flash: settings.firmware.then(|| places.target().join("firmware/flash.bin")),
        attached,
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
    let Attached { port, virtiofs, .. } = files.attached;
    Ok(Machine { output, command, facts, notes, is_linux, port, _virtiofs: virtiofs })
}

/// The modules of the host's kernel: those that set-up has fetched with it, or a person's.
fn modules_of(settings: &Settings, places: &Places) -> Result<Option<Modules>, String> {
    if settings.devices.is_empty() {
        return Ok(None);
    }
    match (&settings.modules, &settings.kernel) {
        (Some(directory), _) => Modules::open(directory).map(Some).map_err(|error| format!("MODULES={error}")),
        (None, Kernel::Named(name)) => Modules::open(&places.kernel(name).with_file_name("modules")).map(Some),
        (None, Kernel::File(file)) => kconfig::modules_of(file).map(|directory| Modules::open(&directory)).transpose(),
    }
}

/// By which ways the kernel can have a directory of the workstation's. Of a kernel that nobody knows: by any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ways {
    by_9p: bool,
    virtiofs: bool,
}

impl Ways {
    /// 9p where the kernel has it: QEMU serves it, and nothing else is needed.
    const fn choose(has_9p: bool, has_virtiofs: bool) -> Self {
        match (has_9p, has_virtiofs) {
            (true, _) => Self { by_9p: true, virtiofs: false },
            (false, true) => Self { by_9p: false, virtiofs: true },
            (false, false) => Self { by_9p: true, virtiofs: true },
        }
    }

    fn of(settings: &Settings, places: &Places, modules: Option<&Modules>) -> Self {
        let config = match &settings.kernel {
            Kernel::Named(name) => fs::read_to_string(places.kernel(name).with_file_name("config")).unwrap_or_default(),
            Kernel::File(_) => String::new(),
        };
        let is_set = |name: &str| {
            let mut lines = config.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            lines.next().is_some_and(|value| value == "y" || value == "m")
        };
        let has = |module: &str| modules.is_some_and(|modules| modules.has(module));
        Self::choose(
            (is_set("CONFIG_NET_9P_VIRTIO") && is_set("CONFIG_9P_FS")) || (has("9pnet_virtio") && has("9p")),
            is_set("CONFIG_VIRTIO_FS") || has("virtiofs"),
        )
    }
}

/// What the devices need of the workstation.
fn attach(settings: &Settings, places: &Places, output: &Output, ways: Option<Ways>) -> Result<Attached, String> {
    let port = settings.devices.net.map(devices::port).transpose()?;
    let mut attached = Attached { port, ..Attached::default() };
    if let (Some(ways), Some(directory)) = (ways, &settings.devices.share) {
        attached.by_9p = ways.by_9p;
        if ways.virtiofs {
            let log = output.file("virtiofsd.log");
            attached.virtiofs = Some(Virtiofs::start(&places.virtiofsd(), directory, &log)?);
        }
    }
    Ok(attached)
}

/// The way in by ssh, and a line for each device.
fn tell(
    settings: &Settings,
    places: &Places,
    output: &Output,
    attached: &Attached,
) -> Result<(Option<Ssh>, Vec<String>), String> {
    let (devices, is_ours) = (&settings.devices, settings.initrd == Initrd::Usual);
    let mut notes = Vec::new();
    for (disk, letter) in devices.disks.iter().zip('a'..='z') {
        let what = if devices.snapshot { "what the guest writes is forgotten" } else { "the guest writes into it" };
        notes.push(format!("/dev/vd{letter}: {disk}; {what}"));
    }
    let ssh = match attached.port {
        Some(port) if is_ours => {
            let ssh = Ssh::prepare(output, port, "root")?;
            let command = Ssh::command(&places.short(&ssh.config).to_string());
            notes.push(format!("when it is up: {command} (port {port} of 127.0.0.1)"));
            Some(ssh)
        }
        Some(port) => {
            notes.push(format!("when its ssh server is up: ssh -p {port} USER@127.0.0.1"));
            None
        }
        None => None,
    };
    if let Some(directory) = &devices.share {
        let directory = directory.display();
        let by_9p = attached.by_9p.then(|| format!("mount -t 9p -o trans=virtio {} /mnt", devices::TAG));
        let virtiofs = attached.virtiofs.as_ref().map(|_| format!("mount -t virtiofs {} /mnt", devices::TAG));
        let ways = [by_9p, virtiofs].into_iter().flatten().collect::<Vec<_>>().join(", or ");
        notes.push(if is_ours {
            format!("/mnt/share: {directory}; the guest writes into it")
        } else {
            format!("{directory} is there as {}: {ways}", devices::TAG)
        });
    }
    Ok((ssh, notes))
}

/// What the project's own initramfs gets for the devices: a directory with its content.
fn of_devices(
    settings: &Settings,
    places: &Places,
    output: &Output,
    attached: &Attached,
    modules: Option<&Modules>,
    ssh: Option<&Ssh>,
    notes: &mut Vec<String>,
) -> Result<PathBuf, String> {
    let root = output.file("devices");
    let failed = |error: io::Error| cannot_write(&root, &error);
    if root.exists() {
        fs::remove_dir_all(&root).map_err(failed)?;
    }
    fs::create_dir_all(root.join("exeunt")).map_err(failed)?;
    let devices = &settings.devices;
    let mut names: Vec<&str> = Vec::new();
    if !devices.disks.is_empty() {
        names.extend(DISK_MODULES);
    }
    if attached.port.is_some() {
        names.extend(NET_MODULES);
    }
    if attached.by_9p {
        names.extend(P9_MODULES);
    }
    if attached.virtiofs.is_some() {
        names.extend(VIRTIOFS_MODULES);
    }
    let mut loaded = String::new();
    if let Some(modules) = modules {
        let all: Vec<&str> = names.iter().copied().chain(file_systems(settings)).collect();
        let taken = modules.put(&all, &root)?;
        let is_device = |name: &&String| names.contains(&name.as_str());
        loaded = taken.loadable.iter().filter(is_device).cloned().collect::<Vec<_>>().join(" ");
        let missing: Vec<String> = taken.missing.iter().filter(is_device).cloned().collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            notes.push(format!("note: of the modules for these devices the kernel has no {missing}"));
        }
    }
    if !devices.disks.is_empty() {
        let etc = root.join("etc");
        fs::create_dir_all(&etc).and_then(|()| fs::write(etc.join("filesystems"), MOUNTED)).map_err(failed)?;
    }
    let share = match (attached.by_9p, attached.virtiofs.is_some()) {
        (true, true) => "9p virtiofs",
        (true, false) => "9p",
        (false, true) => "virtiofs",
        (false, false) => "",
    };
    let lines: Vec<String> = devices.disks.iter().map(ToString::to_string).collect();
    let command = ssh.map(|ssh| Ssh::command(&places.short(&ssh.config).to_string()));
    let directory = devices.share.as_ref().map(|share| share.display().to_string());
    let variables = [
        ("modules", loaded.as_str()),
        ("disks", &lines.join("\n")),
        ("forgets", if devices.snapshot { "1" } else { "" }),
        ("net", if attached.port.is_some() { "1" } else { "" }),
        ("ssh", command.as_deref().unwrap_or_default()),
        ("share", share),
        ("share_of", directory.as_deref().unwrap_or_default()),
    ];
    fs::write(root.join(DEVICES), crate::guest::assignments(&variables)).map_err(failed)?;
    if let Some(ssh) = ssh {
        let place = root.join("root/.ssh");
        let write = || {
            fs::create_dir_all(&place)?;
            fs::write(place.join("authorized_keys"), &ssh.public_key)?;
            // The server insists on that nobody else may write there.
            for (path, mode) in [("root", 0o755), ("root/.ssh", 0o700), ("root/.ssh/authorized_keys", 0o600)] {
                fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode))?;
            }
            Ok(())
        };
        write().map_err(failed)?;
    }
    Ok(root)
}

fn file_systems(settings: &Settings) -> impl Iterator<Item = &'static str> {
    FILE_SYSTEMS.into_iter().filter(|_| !settings.devices.disks.is_empty())
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
            let version = places.kernel_version(name).unwrap_or_else(|| name.clone());
            let days = places.kernel_age(name).map_or(0, |age| age.as_secs() / (24 * 60 * 60));
            if names::moves_on(name) && days > 0 {
                say(&format!(
                    "note: {name} is {version} here, fetched {days} days ago; `scripts/setup newest:{name}` looks for \
                     a newer one"
                ));
            }
            Ok((places.kernel(name), format!("Linux {version}"), true))
        }
        Kernel::File(path) => {
            let (image, is_unpacked) = open_kernel(path, variable)?;
            let what = path.display();
            let version = kernel::version(&image);
            if !kernel::is_image(&image) {
                say(&format!("note: {what} is no arm64 Image; the machine is given it as it is"));
            } else if let (Some(config), true) = (Config::of(path, &image), version.is_some()) {
                config.lacks(kconfig::TO_RUN, false).iter().for_each(|lack| say(&format!("note: {what}: {lack}")));
            }
            let version = version.map(|version| format!("Linux {version} ")).unwrap_or_default();
            if !is_unpacked {
                return Ok((path.clone(), format!("{version}({what})"), false));
            }
            let unpacked = output.file(&format!("{variable}-Image"));
            fs::write(&unpacked, image).map_err(|error| cannot_write(&unpacked, &error))?;
            Ok((unpacked, format!("{version}({what}, unpacked)"), false))
        }
    }
}

/// The kernel in a person's file, unpacked if need be, and whether that was needed. `variable` has named it.
///
/// # Errors
/// It cannot be read or unpacked, or is no kernel; in words.
pub fn open_kernel(path: &Path, variable: &str) -> Result<(Vec<u8>, bool), String> {
    let file = fs::read(path).map_err(|error| cannot_read(path, &error))?;
    match kernel::open(&file).map_err(|error| format!("{variable}={}: {error}", path.display()))? {
        kernel::Kernel::AsItIs => Ok((file, false)),
        kernel::Kernel::Unpacked(image) => Ok((image, true)),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be written: {error}", path.display())
}

/// The initrd: the project's or a person's, and behind it what the devices need (the directory `devices`), OVERLAY= and
/// RUN=, as archives of their own.
fn compose_initrd(
    settings: &Settings,
    places: &Places,
    output: &Output,
    devices: Option<&Path>,
) -> Result<Option<PathBuf>, String> {
    let base = match &settings.initrd {
        Initrd::Without => return Ok(None),
        Initrd::Usual => places.initramfs(),
        Initrd::File(path) => path.clone(),
    };
    if settings.overlay.is_none() && settings.run.is_none() && devices.is_none() {
        return Ok(Some(base));
    }
    let composed = output.file(COMPOSED);
    let write = || {
        let mut archives = Archives::new(BufWriter::new(File::create(&composed)?));
        archives.ready(&fs::read(&base)?)?;
        if let Some(devices) = devices {
            if settings.devices.net.is_some() {
                archives.ready(&fs::read(places.target().join("guest/net.cpio"))?)?;
            }
            archives.directory(devices)?;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_comes_by_9p_where_the_kernel_has_it() {
        let ways = |by_9p, virtiofs| Ways { by_9p, virtiofs };
        assert_eq!(Ways::choose(true, true), ways(true, false));
        assert_eq!(Ways::choose(false, true), ways(false, true));
        // Nobody knows: whichever the guest can mount.
        assert_eq!(Ways::choose(false, false), ways(true, true));
    }
}
