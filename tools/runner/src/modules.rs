//! Modules that a kernel needs for a machine's devices, as far as they are not built into it.
//!
//! Owns the way into a directory lib/modules/VERSION. What a module needs stands in the module itself: a package has no
//! modules.dep, which depmod(8) writes when it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

/// For a virtio disk, in the order in which they are loaded.
pub const DISK: [&str; 4] = ["virtio_ring", "virtio", "virtio_mmio", "virtio_blk"];

/// Copies those of `names` that are somewhere below `from` into `to`, unpacked. How many there were.
///
/// # Errors
/// One cannot be read or unpacked; in words.
pub fn take(names: &[&str], from: &Path, to: &Path) -> Result<usize, String> {
    let mut found = Vec::new();
    find(from, &mut |file| found.push(file.to_owned())).map_err(|error| format!("{}: {error}", from.display()))?;
    fs::create_dir_all(to).map_err(|error| format!("{}: {error}", to.display()))?;
    let mut taken = 0;
    for name in names {
        let of_path = |path: &PathBuf| module_of(path).filter(|(other, _)| other == name).map(|(_, packed)| packed);
        let Some((path, packed)) = found.iter().find_map(|path| Some((path, of_path(path)?))) else { continue };
        let unpacked = unpack(path, packed).map_err(|error| format!("{}: {error}", path.display()))?;
        let to = to.join(format!("{name}.ko"));
        fs::write(&to, unpacked).map_err(|error| format!("{}: {error}", to.display()))?;
        taken += 1;
    }
    Ok(taken)
}

/// A kernel's modules.
#[derive(Debug)]
pub struct Modules {
    directory: PathBuf,
    files: BTreeMap<String, (PathBuf, Packing)>,
    built_in: BTreeSet<String>,
}

/// What was taken of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The kernel that they are for, as uname(1) says it.
    pub release: String,
    /// Those of the asked for that are there as modules.
    pub loadable: Vec<String>,
    /// Those that are neither modules nor built in.
    pub missing: Vec<String>,
}

impl Modules {
    /// Looks through `directory`, a lib/modules/VERSION.
    ///
    /// # Errors
    /// It cannot be read, or there is nothing in it; in words.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let mut files = BTreeMap::new();
        find(directory, &mut |file| {
            if let Some((name, packing)) = module_of(file) {
                files.insert(name, (file.to_owned(), packing));
            }
        })
        .map_err(|error| format!("{}: {error}", directory.display()))?;
        let list = fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
        let built_in: BTreeSet<String> = list.lines().filter_map(|line| Some(module_of(Path::new(line))?.0)).collect();
        if files.is_empty() && built_in.is_empty() {
            return Err(format!("{} has no modules in it: it is a kernel's lib/modules/VERSION", directory.display()));
        }
        Ok(Self { directory: directory.to_owned(), files, built_in })
    }

    /// Whether the kernel has it, built in or as a module.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.built_in.contains(name) || self.files.contains_key(name)
    }

    /// Puts `names` and what they need, unpacked, where modprobe(8) finds them in a root file system at `root`.
    ///
    /// # Errors
    /// One cannot be read or unpacked; in words.
    pub fn put(&self, names: &[&str], root: &Path) -> Result<Taken, String> {
        let mut taken = Taken::default();
        for &name in names {
            if self.files.contains_key(name) {
                taken.loadable.push(name.to_owned());
            } else if !self.built_in.contains(name) {
                taken.missing.push(name.to_owned());
            }
        }
        let mut wanted = taken.loadable.clone();
        let mut found: BTreeMap<String, (Vec<u8>, Information)> = BTreeMap::new();
        while let Some(name) = wanted.pop() {
            let Some((path, packing)) = self.files.get(&name).filter(|_| !found.contains_key(&name)) else { continue };
            let said = |error| format!("{}: {error}", path.display());
            let bytes = unpack(path, *packing).map_err(said)?;
            let information = Information::of(&bytes).map_err(said)?;
            wanted.extend(information.needs.iter().cloned());
            found.insert(name, (bytes, information));
        }
        let Some((_, information)) = found.values().next() else { return Ok(taken) };
        taken.release.clone_from(&information.release);
        if taken.release.is_empty() || taken.release.contains('/') {
            return Err(format!("{}: its modules do not say which kernel they are for", self.directory.display()));
        }
        let to = root.join("lib/modules").join(&taken.release);
        let write = || {
            fs::create_dir_all(&to)?;
            let (mut needs, mut aliases) = (String::new(), String::new());
            for (name, (bytes, information)) in &found {
                fs::write(to.join(format!("{name}.ko")), bytes)?;
                let _ = write!(needs, "{name}.ko:");
                for other in all_needs(name, &found) {
                    let _ = write!(needs, " {other}.ko");
                }
                needs.push('\n');
                for alias in &information.aliases {
                    let _ = writeln!(aliases, "alias {alias} {name}");
                }
            }
            fs::write(to.join("modules.dep"), needs)?;
            fs::write(to.join("modules.alias"), aliases)
        };
        write().map_err(|error: io::Error| format!("{}: {error}", to.display()))?;
        Ok(taken)
    }
}

/// All that `name` needs, the nearest first, as modules.dep has it. One that is not found is built in.
fn all_needs(name: &str, found: &BTreeMap<String, (Vec<u8>, Information)>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut open = vec![name.to_owned()];
    while let Some(next) = open.pop() {
        let Some((_, information)) = found.get(&next) else { continue };
        for need in information.needs.iter().filter(|need| found.contains_key(*need)) {
            // Loaded from the last to the first: what two of them need goes to the end.
            all.retain(|other| other != need);
            all.push(need.clone());
            open.push(need.clone());
        }
    }
    all
}

/// What a module says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Information {
    release: String,
    needs: Vec<String>,
    aliases: Vec<String>,
}

impl Information {
    /// From its section .modinfo (Linux, include/linux/moduleparam.h, scripts/mod/modpost.c): texts, each with a zero
    /// at its end.
    fn of(module: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(module).map_err(|error| format!("it is no module: {error}"))?;
        let section = file.section_by_name(".modinfo").ok_or("it is no module: it has no .modinfo")?;
        let text = section.data().map_err(|error| error.to_string())?;
        Ok(Self::parse(&String::from_utf8_lossy(text)))
    }

    fn parse(text: &str) -> Self {
        let mut information = Self::default();
        for (name, value) in text.split('\0').filter_map(|line| line.split_once('=')) {
            match name {
                "vermagic" => value.split(' ').next().unwrap_or_default().clone_into(&mut information.release),
                "depends" => {
                    let names = value.split(',').filter(|name| !name.is_empty());
                    information.needs.extend(names.map(|name| name.replace('-', "_")));
                }
                "alias" => information.aliases.push(value.to_owned()),
                _ => {}
            }
        }
        information
    }
}

/// The name of the module in a file of this name, and how it is packed.
fn module_of(path: &Path) -> Option<(String, Packing)> {
    let (name, ending) = path.file_name()?.to_str()?.split_once(".ko")?;
    let packing = match ending {
        "" => Packing::Plain,
        ".gz" => Packing::Gzip,
        ".xz" => Packing::Xz,
        ".zst" => Packing::Zstd,
        _ => return None,
    };
    Some((name.replace('-', "_"), packing))
}

/// Calls `each` with every file below `directory`.
fn find(directory: &Path, each: &mut impl FnMut(&Path)) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), each)?;
        } else {
            each(&entry.path());
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Xz,
    Zstd,
}

fn unpack(path: &Path, packing: Packing) -> Result<Vec<u8>, String> {
    let file = fs::read(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let read = match packing {
        Packing::Plain => return Ok(file),
        Packing::Gzip => flate2::read::GzDecoder::new(&file[..]).read_to_end(&mut bytes),
        Packing::Xz => lzma_rust2::XzReader::new(&file[..], true).read_to_end(&mut bytes),
        Packing::Zstd => ruzstd::decoding::StreamingDecoder::new(&file[..])
            .map_err(|error| error.to_string())?
            .read_to_end(&mut bytes),
    };
    read.map(|_| bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_modules_file_is_known_by_its_name() {
        for (file, found) in [
            ("virtio_blk.ko", Some(("virtio_blk", Packing::Plain))),
            // In some packages a file has `-` where the module's name has `_`.
            ("a/virtio-blk.ko.xz", Some(("virtio_blk", Packing::Xz))),
            ("virtio_blk.ko.zst", Some(("virtio_blk", Packing::Zstd))),
            ("virtio_blk.ko.gz", Some(("virtio_blk", Packing::Gzip))),
            ("virtio_blk_extra.ko", Some(("virtio_blk_extra", Packing::Plain))),
            ("virtio_blk.ko.sig", None),
            ("modules.builtin", None),
        ] {
            let found = found.map(|(name, packing)| (name.to_owned(), packing));
            assert_eq!(module_of(Path::new(file)), found, "{file}");
        }
    }

    #[test]
    fn a_module_says_what_it_needs() {
        let text = "alias=fs-ext4\0\0depends=jbd2,crc16,net-failover\0vermagic=6.12.1-a SMP mod_unload aarch64\0x\0";
        let information = Information::parse(text);
        assert_eq!(information.release, "6.12.1-a");
        assert_eq!(information.needs, ["jbd2", "crc16", "net_failover"]);
        assert_eq!(information.aliases, ["fs-ext4"]);
    }

    #[test]
    fn needs_come_in_the_order_in_which_modprobe_reads_them() {
        let module = |needs: &[&str]| {
            let needs = needs.iter().map(|need| (*need).to_owned()).collect();
            (Vec::new(), Information { needs, ..Information::default() })
        };
        let found = BTreeMap::from([
            ("top".to_owned(), module(&["base", "middle", "built_in"])),
            ("middle".to_owned(), module(&["base"])),
            ("base".to_owned(), module(&[])),
        ]);
        assert_eq!(all_needs("top", &found), ["middle", "base"]);
        assert_eq!(all_needs("base", &found), Vec::<String>::new());
    }

    #[test]
    fn what_is_built_in_is_not_missing() {
        let place = std::env::temp_dir().join(format!("exeunt-built-in-{}", std::process::id()));
        fs::create_dir_all(place.join("kernel")).unwrap();
        assert!(Modules::open(&place).unwrap_err().contains("has no modules in it"));
        fs::write(place.join("modules.builtin"), "kernel/drivers/virtio/virtio_pci.ko\n").unwrap();
        fs::write(place.join("kernel/virtio_net.ko"), "no module").unwrap();
        let modules = Modules::open(&place).unwrap();
        let taken = modules.put(&["virtio_pci", "virtio_blk"], &place.join("root")).unwrap();
        assert_eq!((taken.missing, taken.loadable), (vec!["virtio_blk".to_owned()], vec![]));
        assert!(modules.has("virtio_net") && modules.has("virtio_pci") && !modules.has("virtio_blk"));
        let error = modules.put(&["virtio_net"], &place.join("root")).unwrap_err();
        assert!(error.contains("virtio_net.ko: it is no module"), "{error}");
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn what_is_there_is_taken_and_nothing_else() {
        let place = std::env::temp_dir().join(format!("exeunt-modules-{}", std::process::id()));
        let from = place.join("from/kernel/drivers");
        fs::create_dir_all(&from).unwrap();
        fs::write(from.join("virtio.ko"), "plain").unwrap();
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
        xz.write_all(b"packed").unwrap();
        fs::write(from.join("virtio_blk.ko.xz"), xz.finish().unwrap()).unwrap();
        let to = place.join("to");
        assert_eq!(take(&DISK, &place.join("from"), &to), Ok(2));
        assert_eq!(fs::read(to.join("virtio.ko")).unwrap(), b"plain");
        assert_eq!(fs::read(to.join("virtio_blk.ko")).unwrap(), b"packed");
        assert!(take(&DISK, &place.join("nowhere"), &to).unwrap_err().contains("nowhere"));
        fs::remove_dir_all(&place).unwrap();
    }
}
