//! What a person gives the machine beside CPUs and RAM: disks (DISK=), a network (NET=), a directory (SHARE=).
//!
//! Owns how these variables are read and checked, QEMU's arguments for them, the port that leads to the guest's ssh
//! server with the command that uses it, and the program that serves the directory. Of a disk image nothing is changed
//! here; a machine that has it writes into it.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::child::end_with_this_thread;
use crate::output::Output;
use crate::qemu::escaped;
use crate::variables::{Values, Wrong};

/// By which a guest's mount(8) finds the directory, whichever file system it comes by.
pub const TAG: &str = "share";
/// What the printed ssh command calls the machine.
pub const SSH_NAME: &str = "exeunt";

/// How a disk image is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The disk's sectors, one after the other.
    Raw,
    /// QEMU's own format.
    Qcow2,
}

impl Format {
    /// As QEMU calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// Its format. QEMU is told: what a guest writes into the first sector of a raw disk decides nothing then.
    pub format: Format,
    /// How large the disk is for the guest, in bytes.
    pub size: u64,
    /// The file that has what this one has not, as a qcow2 image names it.
    pub backing: Option<String>,
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    /// ssh by any port of this workstation that is free.
    AnyPort,
    /// ssh by this one.
    Port(u16),
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// Disks, in the order in which the guest finds them: vda, vdb and so on.
    pub disks: Vec<Disk>,
    /// What is written to them is forgotten at the end.
    pub snapshot: bool,
    /// A network.
    pub net: Option<Net>,
    /// A directory of the workstation's.
    pub share: Option<PathBuf>,
}

impl Devices {
    /// Whether there is nothing of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty() && self.net.is_none() && self.share.is_none()
    }

    /// Out of the variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(values: &Values) -> Result<Self, Wrong> {
        let mut wrong = Vec::new();
        let snapshot = values.choose("SNAPSHOT", &[("0", false), ("1", true)]).unwrap_or_else(|error| {
            wrong.push(error);
            false
        });
        let mut disks: Vec<Disk> = Vec::new();
        for path in values.get("DISK").map(paths).unwrap_or_default() {
            match Disk::open(&path, snapshot) {
                Ok(disk) if disks.iter().any(|other| is_same(&other.path, &disk.path)) => {
                    wrong.push(format!("DISK={}: it is there twice", path.display()));
                }
                Ok(disk) => disks.push(disk),
                Err(error) => wrong.push(format!("DISK={}: {error}", path.display())),
            }
        }
        if snapshot && values.get("DISK").is_none() {
            wrong.push("SNAPSHOT=1 goes with DISK=".to_owned());
        }
        let net = match values.get("NET") {
            None | Some("0") => None,
            Some(_) => values.parse("NET", Net::AnyPort, net).map_err(|error| wrong.push(error)).ok(),
        };
        let share = values.get("SHARE").map(PathBuf::from);
        if let Some(directory) = &share
            && let Err(error) = fs::read_dir(directory)
        {
            wrong.push(format!("SHARE={}: {}", directory.display(), in_words(&error)));
        }
        if wrong.is_empty() { Ok(Self { disks, snapshot, net, share }) } else { Err(Wrong(wrong)) }
    }
}

/// One file, or several, quoted as for a shell. A name with a blank in it needs no quotes if it stands alone.
fn paths(value: &str) -> Vec<PathBuf> {
    if Path::new(value).exists() {
        return vec![value.into()];
    }
    match shlex::split(value) {
        Some(words) => words.into_iter().map(PathBuf::from).collect(),
        None => vec![value.into()],
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// 1 is any port: as for every port below 1024 only root could listen there.
fn net(text: &str) -> Option<Net> {
    match text.parse().ok().filter(|&port| port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()))? {
        1 => Some(Net::AnyPort),
        port => Some(Net::Port(port)),
    }
}

/// The usual errors, as a person would say them.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or directory".to_owned(),
        io::ErrorKind::NotADirectory => "it is no directory".to_owned(),
        io::ErrorKind::PermissionDenied => "you may not read it".to_owned(),
        _ => error.to_string(),
    }
}

/// Formats that are refused by name: as raw disks they would be nonsense, and a machine would write into them.
const OTHER_FORMATS: [(&[u8], &str); 5] =
    [(b"KDMV", "vmdk"), (b"vhdxfile", "vhdx"), (b"conectix", "vpc"), (b"QED\0", "qed"), (b"COWD", "vmdk")];
/// And what is packed.
const PACKED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip")];
/// VirtualBox has its number behind a line of text.
const VDI: (usize, [u8; 4]) = (0x40, 0xbeda_107f_u32.to_le_bytes());
/// What is read of a file to know it, and the largest name of a backing file (QEMU, docs/interop/qcow2.rst).
const HEADER: usize = 104;
const LONGEST_NAME: u32 = 1023;

impl Disk {
    /// Looks at the image at `path`. With `snapshot` nothing is going to be written to it.
    ///
    /// # Errors
    /// It is none that a machine can have; in words.
    pub fn open(path: &Path, snapshot: bool) -> Result<Self, String> {
        let metadata = fs::metadata(path).map_err(|error| in_words(&error))?;
        if metadata.is_dir() {
            return Err("it is a directory; SHARE= gives a directory to the guest".to_owned());
        }
        if !metadata.is_file() {
            return Err("it is no file; a device of this workstation is left alone".to_owned());
        }
        let mut file = File::open(path).map_err(|error| in_words(&error))?;
        if !snapshot && let Err(error) = File::options().write(true).open(path) {
            return Err(format!("it cannot be written to ({error}); with SNAPSHOT=1 nothing is"));
        }
        if let Some(device) = loop_device_of(path) {
            return Err(format!("this workstation uses it as {device}"));
        }
        let mut header = Vec::new();
        (&mut file).take(HEADER as u64).read_to_end(&mut header).map_err(|error| error.to_string())?;
        let begins = |&(magic, _): &(&[u8], &str)| header.starts_with(magic);
        if let Some((_, packed)) = PACKED.iter().find(|known| begins(known)) {
            return Err(format!("it is packed with {packed}: unpack it first"));
        }
        let other = OTHER_FORMATS.iter().find(|known| begins(known)).map(|&(_, name)| name);
        let vdi = header.get(VDI.0..VDI.0 + VDI.1.len()) == Some(&VDI.1);
        if let Some(name) = other.or(vdi.then_some("vdi")) {
            return Err(format!(
                "it is a {name} image, and a raw or a qcow2 one is needed: `qemu-img convert -O qcow2` makes one of it"
            ));
        }
        let (format, size, backing) = match qcow2(&header)? {
            Some((size, name)) => (Format::Qcow2, size, name.map(|at| backing(&mut file, at)).transpose()?),
            None => (Format::Raw, metadata.len(), None),
        };
        if size == 0 {
            return Err("it is empty: `truncate -s 4G` makes a disk of 4 GiB of it".to_owned());
        }
        Ok(Self { path: path.to_owned(), format, size, backing })
    }
}

/// Where a qcow2 image has the name of its backing file.
type Name = (u64, u32);

/// The size of the disk in an image with this header, and where its backing file's name is; nothing if it is no qcow2
/// image.
fn qcow2(header: &[u8]) -> Result<Option<(u64, Option<Name>)>, String> {
    if !header.starts_with(b"QFI\xfb") {
        return Ok(None);
    }
    let number = |at: usize| header.get(at..at + 4).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap_or([0; 4])));
    let long = |at: usize| Some((u64::from(number(at)?) << 32) | u64::from(number(at + 4)?));
    let (Some(version), Some(name), Some(length), Some(size)) = (number(4), long(8), number(16), long(24)) else {
        return Err("it begins as a qcow2 image and ends within its header".to_owned());
    };
    if !(2..=3).contains(&version) {
        return Err(format!("it is a qcow image of version {version}, and 2 or 3 is needed"));
    }
    Ok(Some((size, (name != 0).then_some((name, length)))))
}

fn backing(file: &mut File, (at, length): Name) -> Result<String, String> {
    if length > LONGEST_NAME {
        return Err("the name of its backing file is too long".to_owned());
    }
    let mut name = vec![0; length as usize];
    let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut name));
    read.map_err(|_| "the name of its backing file is cut off".to_owned())?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// The loop device by which the workstation itself has the file: two who write to one disk destroy it.
fn loop_device_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        let Ok(name) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        if Path::new(name.trim_end_matches('\n')) == path {
            return Some(format!("/dev/{}", entry.file_name().display()));
        }
    }
    None
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.path.display(), self.format.name(), size_in_words(self.size))?;
        match &self.backing {
            Some(name) => write!(f, ", on top of {name}"),
            None => Ok(()),
        }
    }
}

/// In the largest unit that divides it, as people give sizes; MiB, rounded up, if none does.
fn size_in_words(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

/// What the devices need of the workstation while the machine runs.
#[derive(Debug, Default)]
pub struct Attached {
    /// The port of 127.0.0.1 behind which the guest's port 22 is.
    pub port: Option<u16>,
    /// The directory as a 9p file system, which QEMU itself serves.
    pub by_9p: bool,
    /// The directory by virtiofs, which a program of its own serves.
    pub virtiofs: Option<Virtiofs>,
}

impl Attached {
    /// Whether another program than QEMU has to see the guest's memory.
    #[must_use]
    pub fn shares_memory(&self) -> bool {
        self.virtiofs.is_some()
    }
}

/// The port that `net` asks for, if it is free.
///
/// # Errors
/// It is not; in words.
pub fn port(net: Net) -> Result<u16, String> {
    let wanted = match net {
        Net::AnyPort => 0,
        Net::Port(port) => port,
    };
    // Free again when this returns: between here and QEMU another program could take it, and QEMU would say so.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("NET={wanted}: another program has this port"),
        io::ErrorKind::PermissionDenied => format!("NET={wanted}: only root may have a port below 1024"),
        _ => format!("NET={wanted}: {error}"),
    })
}

/// QEMU's arguments. All are PCI devices: these are found in the order in which they stand here.
#[must_use]
pub fn arguments(devices: &Devices, attached: &Attached) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut add = |option: &str, value: String| words.extend([OsString::from(option), value.into()]);
    let snapshot = if devices.snapshot { ",snapshot=on" } else { "" };
    for (number, disk) in devices.disks.iter().enumerate() {
        let file = escaped(&disk.path);
        add("-drive", format!("if=none,id=disk{number},format={}{snapshot},file={file}", disk.format.name()));
        add("-device", format!("virtio-blk-pci,drive=disk{number}"));
    }
    if let Some(port) = attached.port {
        add("-netdev", format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22"));
        add("-device", "virtio-net-pci,netdev=net".to_owned());
    }
    if let Some(directory) = devices.share.as_ref().filter(|_| attached.by_9p) {
        // Whoever runs QEMU owns the files: the guest's root may be anybody's user here.
        let path = escaped(directory);
        add("-fsdev", format!("local,id=share,path={path},security_model=none,multidevs=remap"));
        add("-device", format!("virtio-9p-pci,fsdev=share,mount_tag={TAG}"));
    }
    if let Some(virtiofs) = &attached.virtiofs {
        add("-chardev", format!("socket,id=share,path={}", escaped(&virtiofs.socket)));
        add("-device", format!("vhost-user-fs-pci,chardev=share,tag={TAG}"));
    }
    words
}

/// A virtiofsd, which ends with this program, and is ended when this is dropped.
#[derive(Debug)]
pub struct Virtiofs {
    /// Where QEMU meets it.
    pub socket: PathBuf,
    child: Child,
}

/// In which virtiofsd opens its socket, on a busy workstation.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked for.
const INTERVAL: Duration = Duration::from_millis(5);

impl Virtiofs {
    /// Has `program` serve `directory`; what it says goes to `log`.
    ///
    /// # Errors
    /// It does not start; in words.
    pub fn start(program: &Path, directory: &Path, log: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("virtiofsd: {error}");
        let said = File::create(log).map_err(failed)?;
        // The name of a socket may not be long.
        let socket = std::env::temp_dir().join(format!("exeunt-share-{}", std::process::id()));
        let _ = fs::remove_file(&socket);
        let mut command = Command::new(program);
        command.arg("--socket-path").arg(&socket).arg("--shared-dir").arg(directory);
        // A namespace of its own needs rights that a person's containers and accounts may lack. The guest is theirs.
        command.args(["--sandbox", "none", "--log-level", "warn"]);
        // In a process group of its own, as QEMU is below gdb: Ctrl-C there is for gdb alone.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).process_group(0);
        end_with_this_thread(&mut command);
        let child = command.spawn().map_err(failed)?;
        let mut started = Self { socket, child };
        let deadline = Instant::now() + PATIENCE;
        while !started.socket.exists() {
            if let Ok(Some(status)) = started.child.try_wait() {
                let said = fs::read_to_string(log).unwrap_or_default();
                let last = said.lines().last().unwrap_or_default();
                return Err(format!("SHARE={}: virtiofsd does not start: {status}: {last}", directory.display()));
            }
            if Instant::now() > deadline {
                return Err(format!("virtiofsd does not open {}", started.socket.display()));
            }
            thread::sleep(INTERVAL);
        }
        Ok(started)
    }
}

impl Drop for Virtiofs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(self.socket.with_extension("pid"));
    }
}

/// How a person gets in: files of a run, so that nothing of theirs in ~/.ssh is read or changed.
#[derive(Clone, Debug)]
pub struct Ssh {
    /// A configuration for `ssh -F`, which has the port, the key and the user.
    pub config: PathBuf,
    /// The line that the guest's authorized_keys needs.
    pub public_key: String,
}

impl Ssh {
    /// Makes key and configuration in `output` for the `user` behind `port`. A key that is there already stays.
    ///
    /// # Errors
    /// In words.
    pub fn prepare(output: &Output, port: u16, user: &str) -> Result<Self, String> {
        let failed = |path: &Path, error: io::Error| format!("{} cannot be written: {error}", path.display());
        let key = output.file("ssh-key");
        let public = output.file("ssh-key.pub");
        if !key.exists() || !public.exists() {
            let _ = fs::remove_file(&key);
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-C", "exeunt", "-f"]).arg(&key).stdin(Stdio::null());
            match command.output() {
                Ok(done) if done.status.success() => {}
                Ok(done) => {
                    let said = String::from_utf8_lossy(&done.stderr).into_owned();
                    return Err(format!("ssh-keygen makes no key: {}", said.lines().last().unwrap_or_default()));
                }
                Err(error) => {
                    return Err(format!("NET= needs ssh-keygen (Debian's package openssh-client): {error}"));
                }
            }
        }
        let public_key = fs::read_to_string(&public).map_err(|error| format!("{}: {error}", public.display()))?;
        let config = output.file("ssh");
        fs::write(&config, ssh_config(&absolute(&key), port, user)).map_err(|error| failed(&config, error))?;
        Ok(Self { config, public_key })
    }

    /// The command that logs in; `config` as the person would write it.
    #[must_use]
    pub fn command(config: &str) -> String {
        let config = shlex::try_quote(config).unwrap_or_else(|_| config.into());
        format!("ssh -F {config} {SSH_NAME}")
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The guest makes a host key at each start, and a forwarded port of this workstation leads to nobody else: nothing is
/// to be compared, and nothing kept.
fn ssh_config(key: &Path, port: u16, user: &str) -> String {
    format!(
        "Host {SSH_NAME}\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n  IdentityFile \"{}\"\n  \
         IdentitiesOnly yes\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n",
        key.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variables::Target;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let place = std::env::temp_dir().join(format!("exeunt-devices-{}-{name}", std::process::id()));
            fs::create_dir_all(&place).unwrap();
            Self(place)
        }

        fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, bytes).unwrap();
            path
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn read(set: &[(&str, &str)]) -> Result<Devices, Wrong> {
        let look_up = |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        Devices::read(&Values::read(Target::Run, [], look_up)?)
    }

    fn refused(set: &[(&str, &str)]) -> String {
        read(set).unwrap_err().to_string()
    }

    fn qcow2_image(version: u32, size: u64, backing: &str) -> Vec<u8> {
        let mut image = b"QFI\xfb".to_vec();
        image.extend(version.to_be_bytes());
        image.extend(if backing.is_empty() { 0 } else { HEADER as u64 }.to_be_bytes());
        image.extend(u32::try_from(backing.len()).unwrap().to_be_bytes());
        image.extend(16_u32.to_be_bytes());
        image.extend(size.to_be_bytes());
        image.resize(HEADER, 0);
        image.extend(backing.as_bytes());
        image
    }

    fn line(devices: &Devices, attached: &Attached) -> String {
        let words = arguments(devices, attached);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_disk_is_what_its_header_says() {
        let place = Place::new("formats");
        let raw = Disk::open(&place.file("raw", &vec![0; 3 << 20]), false).unwrap();
        assert_eq!((raw.format, raw.size, raw.backing.as_deref()), (Format::Raw, 3 << 20, None));
        let plain = Disk::open(&place.file("a.img", &qcow2_image(3, 4 << 30, "")), false).unwrap();
        assert_eq!((plain.format, plain.size), (Format::Qcow2, 4 << 30));
        let on_top = Disk::open(&place.file("b", &qcow2_image(2, 1 << 30, "base.raw")), false).unwrap();
        assert_eq!(on_top.backing.as_deref(), Some("base.raw"));
        assert!(on_top.to_string().ends_with("b (qcow2, 1 GiB), on top of base.raw"), "{on_top}");
    }

    #[test]
    fn what_no_machine_can_have_is_refused_in_words() {
        let place = Place::new("refused");
        let mut vdi = vec![b'<'; 0x40];
        vdi.extend(0xbeda_107f_u32.to_le_bytes());
        for (bytes, why) in [
            (&b"KDMV and more"[..], "it is a vmdk image"),
            (&vdi, "it is a vdi image"),
            (b"\xfd7zXZ\0...", "packed with xz: unpack it first"),
            (b"", "it is empty: `truncate -s 4G`"),
            (b"QFI\xfb\0\0\0\x03", "ends within its header"),
            (&qcow2_image(1, 1 << 30, ""), "version 1, and 2 or 3 is needed"),
            (&qcow2_image(3, 1 << 30, "base")[..HEADER + 2], "backing file is cut off"),
        ] {
            let image = place.file("image", bytes);
            let error = refused(&[("DISK", image.to_str().unwrap())]);
            assert!(error.starts_with("DISK=") && error.contains(why), "{error}");
        }
        assert!(refused(&[("DISK", "/nowhere")]).contains("no such file or directory"));
        assert!(refused(&[("DISK", place.0.to_str().unwrap())]).contains("SHARE= gives a directory"));
        assert!(refused(&[("DISK", "/dev/null")]).contains("it is no file"));
        assert!(refused(&[("SHARE", "/dev/null")]).contains("it is no directory"));
        assert!(refused(&[("SHARE", "/nowhere")]).contains("no such file or directory"));
        assert_eq!(refused(&[("SNAPSHOT", "1")]), "SNAPSHOT=1 goes with DISK=");
        for value in ["yes", "70000", "-1", "+22", "1.5"] {
            assert!(refused(&[("NET", value)]).contains("it is 1, or a port"), "{value}");
        }
    }

    #[test]
    fn one_that_cannot_be_written_needs_a_snapshot() {
        // For root every file can be; one that is being executed cannot.
        let program = std::env::current_exe().unwrap();
        let program = program.to_str().unwrap();
        assert!(
            refused(&[("DISK", program)]).contains("with SNAPSHOT=1 nothing is"),
            "{}",
            refused(&[("DISK", program)])
        );
        assert!(read(&[("DISK", program), ("SNAPSHOT", "1")]).unwrap().snapshot);
    }

    #[test]
    fn several_disks_are_told_apart_from_one_with_a_blank() {
        let place = Place::new("several");
        let (one, two) = (place.file("one", &[0; 512]), place.file("a b", &[0; 512]));
        let count = |value: &str| read(&[("DISK", value)]).unwrap().disks.len();
        assert_eq!(count(two.to_str().unwrap()), 1);
        assert_eq!(count(&format!("{} '{}'", one.display(), two.display())), 2);
        let error = refused(&[("DISK", &format!("{0} {0}", one.display()))]);
        assert!(error.contains("there twice"), "{error}");
    }

    #[test]
    fn qemu_gets_what_was_asked_for_and_nothing_else() {
        assert_eq!(arguments(&Devices::default(), &Attached::default()), Vec::<OsString>::new());
        let disk = |path: &str, format| Disk { path: path.into(), format, size: 512, backing: None };
        let mut devices = Devices {
            disks: vec![disk("a,b", Format::Raw), disk("c", Format::Qcow2)],
            snapshot: false,
            net: Some(Net::AnyPort),
            share: Some("/some,where".into()),
        };
        let attached = Attached { port: Some(2222), by_9p: true, virtiofs: None };
        assert_eq!(
            line(&devices, &attached),
            "-drive if=none,id=disk0,format=raw,file=a,,b -device virtio-blk-pci,drive=disk0 \
             -drive if=none,id=disk1,format=qcow2,file=c -device virtio-blk-pci,drive=disk1 \
             -netdev user,id=net,hostfwd=tcp:127.0.0.1:2222-:22 -device virtio-net-pci,netdev=net \
             -fsdev local,id=share,path=/some,,where,security_model=none,multidevs=remap \
             -device virtio-9p-pci,fsdev=share,mount_tag=share"
        );
        devices.snapshot = true;
        assert!(line(&devices, &attached).contains("format=raw,snapshot=on,file=a,,b"));
    }

    #[test]
    fn a_port_that_is_taken_is_said() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        assert_eq!(port(Net::Port(taken)), Err(format!("NET={taken}: another program has this port")));
        drop(listener);
        assert_ne!(port(Net::AnyPort).unwrap(), 0);
        assert_eq!(read(&[("NET", "0")]).unwrap().net, None);
        assert_eq!(read(&[("NET", "2222")]).unwrap().net, Some(Net::Port(2222)));
    }

    #[test]
    fn the_ssh_command_needs_nothing_of_a_persons() {
        let config = ssh_config(Path::new("/a b/ssh-key"), 2222, "root");
        assert!(config.contains("Port 2222\n") && config.contains("IdentityFile \"/a b/ssh-key\"\n"), "{config}");
        assert!(config.contains("UserKnownHostsFile /dev/null"), "{config}");
        assert_eq!(Ssh::command("target/run/ssh"), "ssh -F target/run/ssh exeunt");
        assert_eq!(Ssh::command("a b/ssh"), "ssh -F 'a b/ssh' exeunt");
    }
}
