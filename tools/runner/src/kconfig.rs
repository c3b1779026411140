//! What a person's kernel was built with, and what lies around its file: its configuration, its modules.
//!
//! Owns what the targets need of a kernel. A kernel says it itself where it has CONFIG_IKCONFIG; otherwise the
//! configuration is looked for where builds and distributions leave it. Where there is none nothing is refused: the
//! guest says what it lacks.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::kernel;

/// Around the compressed configuration in an Image (Linux, kernel/configs.c).
const EMBEDDED: [&[u8]; 2] = [b"IKCFG_ST", b"IKCFG_ED"];
/// A kernel in its build tree.
const IN_TREE: &str = "arch/arm64/boot";

/// A kernel's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    options: BTreeMap<String, String>,
    /// Where it is from, in words.
    pub source: String,
}

/// Something that a target cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The option, without CONFIG_.
    pub option: &'static str,
    /// Whether a module will do, if it is there.
    pub or_module: bool,
    /// What for: the end of a sentence.
    pub what_for: &'static str,
}

const fn need(option: &'static str, what_for: &'static str) -> Need {
    Need { option, or_module: false, what_for }
}

/// To run at all on this machine with an initrd.
pub const TO_RUN: [Need; 7] = [
    need("SERIAL_AMBA_PL011_CONSOLE", "to say anything on this machine's serial port, a PL011"),
    need("BLK_DEV_INITRD", "to have an initrd"),
    need("BINFMT_ELF", "to run programs"),
    need("BINFMT_SCRIPT", "to run the init of the project's initrd, which is a script"),
    need("DEVTMPFS", "for the project's initrd, which has no devices of its own"),
    need("PROC_FS", "for the project's initrd, which reads /proc"),
    need("SYSFS", "for the project's initrd, which reads /sys"),
];
/// To start another kernel.
pub const TO_KEXEC: [Need; 1] = [need("KEXEC", "for kexec_load(2), by which kexec-tools load a kernel")];
/// To die into a crash kernel.
pub const TO_DIE: [Need; 1] = [need("CRASH_DUMP", "to keep memory for a crash kernel")];
/// To hibernate to the virtio disk, and to resume and die afterwards.
pub const TO_HIBERNATE: [Need; 6] =
    [need("HIBERNATION", "to hibernate"), TO_KEXEC[0], TO_DIE[0], SYSRQ, TO_DUMP[2], TO_DUMP[3]];
/// To start one another from a virtio disk, under the eyes of the test module.
pub const TO_SOAK: [Need; 4] = [TO_KEXEC[0], MODULES, TO_DUMP[2], TO_DUMP[3]];
/// To be the crash kernel.
pub const TO_DUMP: [Need; 4] = [
    need("CRASH_DUMP", "to be a crash kernel"),
    need("PROC_VMCORE", "to read the memory of the kernel that died, /proc/vmcore"),
    Need { option: "VIRTIO_MMIO", or_module: true, what_for: "for the virtio disk that takes the dump" },
    Need { option: "VIRTIO_BLK", or_module: true, what_for: "for the virtio disk that takes the dump" },
];
/// To die by the magic key.
pub const SYSRQ: Need = need("MAGIC_SYSRQ", "to die by the magic key");
/// And to take it from the console.
pub const SYSRQ_SERIAL: Need = need("MAGIC_SYSRQ_SERIAL", "to take the magic key from the console");
/// To take the test module.
pub const MODULES: Need = need("MODULES", "to take the test module");

impl Config {
    /// Of the kernel `image` that was in `file`, if it can be known.
    #[must_use]
    pub fn of(file: &Path, image: &[u8]) -> Option<Self> {
        Self::embedded(image).or_else(|| Self::beside(file))
    }

    fn parse(text: &str, source: String) -> Self {
        let option = |line: &str| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        Self { options: text.lines().filter_map(option).collect(), source }
    }

    fn embedded(image: &[u8]) -> Option<Self> {
        let begin = kernel::find(image, EMBEDDED[0])? + EMBEDDED[0].len();
        let size = kernel::find(&image[begin..], EMBEDDED[1])?;
        let mut text = String::new();
        flate2::read::GzDecoder::new(&image[begin..begin + size]).read_to_string(&mut text).ok()?;
        Some(Self::parse(&text, "its own configuration (CONFIG_IKCONFIG)".to_owned()))
    }

    fn beside(file: &Path) -> Option<Self> {
        let directory = directory_of(file)?;
        let mut places = Vec::new();
        if let Some(tree) = tree_of(file) {
            places.push(tree.join(".config"));
        }
        if let Some(version) = version_in_name(file) {
            places.push(directory.join(format!("config-{version}")));
        } else {
            places.extend(["config", ".config"].map(|name| directory.join(name)));
        }
        let (place, text) =
            places.into_iter().find_map(|place| Some((place.clone(), fs::read_to_string(place).ok()?)))?;
        Some(Self::parse(&text, format!("its configuration ({})", place.display())))
    }

    /// What of `needs` it lacks, in words. `with_modules` says whether modules are at hand.
    #[must_use]
    pub fn lacks(&self, needs: impl IntoIterator<Item = Need>, with_modules: bool) -> Vec<String> {
        let lacks = |Need { option, or_module, what_for }: Need| {
            let source = &self.source;
            match self.options.get(option).map(String::as_str) {
                Some("y") => None,
                Some("m") if or_module && with_modules => None,
                Some("m") if or_module => Some(format!(
                    "{source} has CONFIG_{option}=m, which is needed {what_for}; MODULES= names the directory of its \
                     modules"
                )),
                Some("m") => Some(format!("{source} has CONFIG_{option}=m, which has to be built in {what_for}")),
                _ => Some(format!("{source} has no CONFIG_{option}, which is needed {what_for}")),
            }
        };
        needs.into_iter().filter_map(lacks).collect()
    }
}

/// The directory that has the file, which may be a link to one elsewhere.
fn directory_of(file: &Path) -> Option<PathBuf> {
    Some(fs::canonicalize(file).ok()?.parent()?.to_owned())
}

/// The build tree that has the file as its Image.
#[must_use]
pub fn tree_of(file: &Path) -> Option<PathBuf> {
    let directory = directory_of(file)?;
    directory.ends_with(IN_TREE).then(|| directory.ancestors().nth(3).map(Path::to_owned)).flatten()
}

/// VERSION of a file vmlinuz-VERSION or Image-VERSION.
fn version_in_name(file: &Path) -> Option<String> {
    let path = fs::canonicalize(file).ok()?;
    let name = path.file_name()?.to_str()?;
    let version = ["vmlinuz-", "Image-", "vmlinux-"].iter().find_map(|before| name.strip_prefix(before))?;
    Some(version.to_owned())
}

/// Where the modules of the kernel in `file` are, if they are where builds and packages leave them.
#[must_use]
pub fn modules_of(file: &Path) -> Option<PathBuf> {
    let directory = directory_of(file)?;
    if let Some(tree) = tree_of(file) {
        return tree.join("modules.order").exists().then_some(tree);
    }
    if let Some(version) = version_in_name(file) {
        let root = directory.parent()?;
        return ["lib/modules", "usr/lib/modules"]
            .iter()
            .map(|place| root.join(place).join(&version))
            .find(|place| place.is_dir());
    }
    directory.join("kernel").is_dir().then_some(directory)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn place(name: &str) -> PathBuf {
        let place = std::env::temp_dir().join(format!("exeunt-kconfig-{}-{name}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        fs::canonicalize(place).unwrap()
    }

    #[test]
    fn a_kernel_says_what_it_was_built_with() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"# comment\nCONFIG_KEXEC=y\n# CONFIG_CRASH_DUMP is not set\n").unwrap();
        let image = [b"code", EMBEDDED[0], &encoder.finish().unwrap(), EMBEDDED[1]].concat();
        let config = Config::of(Path::new("/nowhere"), &image).unwrap();
        assert!(config.lacks(TO_KEXEC, false).is_empty());
        assert_eq!(
            config.lacks(TO_DIE, false),
            ["its own configuration (CONFIG_IKCONFIG) has no CONFIG_CRASH_DUMP, which is needed to keep memory for a \
              crash kernel"]
        );
        assert_eq!(Config::of(Path::new("/nowhere"), b"IKCFG_ST"), None);
    }

    #[test]
    fn modules_will_do_where_they_are() {
        let config = Config::parse("CONFIG_VIRTIO_BLK=m\nCONFIG_KEXEC=m\n", "it".to_owned());
        assert!(config.lacks([TO_DUMP[3]], true).is_empty());
        assert!(config.lacks([TO_DUMP[3]], false)[0].contains("CONFIG_VIRTIO_BLK=m, which is needed for the virtio"));
        assert!(config.lacks(TO_KEXEC, true)[0].contains("has to be built in"));
    }

    #[test]
    fn what_lies_around_a_kernel_is_found() {
        let root = place("around");
        let make = |path: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "CONFIG_KEXEC=y\n").unwrap();
            path
        };
        // A build tree.
        let image = make("tree/arch/arm64/boot/Image");
        let config = make("tree/.config");
        assert_eq!(modules_of(&image), None, "no module was built");
        make("tree/modules.order");
        assert_eq!(modules_of(&image), Some(root.join("tree")));
        assert!(Config::of(&image, b"").unwrap().source.contains(&config.display().to_string()));
        // Debian up to 6.x, and a link to it.
        let image = make("debian/boot/vmlinuz-6.12-x");
        let config = make("debian/boot/config-6.12-x");
        make("debian/usr/lib/modules/6.12-x/modules.dep");
        assert_eq!(modules_of(&image), Some(root.join("debian/usr/lib/modules/6.12-x")));
        let link = root.join("mine");
        std::os::unix::fs::symlink(&image, &link).unwrap();
        assert!(Config::of(&link, b"").unwrap().source.contains(&config.display().to_string()));
        // Debian from 7.0 on, Fedora.
        let image = make("fedora/lib/modules/7.2/vmlinuz");
        make("fedora/lib/modules/7.2/config");
        assert_eq!(modules_of(&image), None);
        make("fedora/lib/modules/7.2/kernel/x.ko");
        assert_eq!(modules_of(&image), Some(root.join("fedora/lib/modules/7.2")));
        assert!(Config::of(&image, b"").is_some());
        // Nothing.
        let image = make("alone/Image");
        assert_eq!((modules_of(&image), Config::of(&image, b"")), (None, None));
        fs::remove_dir_all(root).unwrap();
    }
}
