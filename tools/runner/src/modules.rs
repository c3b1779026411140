//! Modules that a kernel needs for a machine's devices, as far as they are not built into it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

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
        let Some((path, packed)) = found.iter().find_map(|path| Some((path, packing(path, name)?))) else { continue };
        let unpacked = unpack(path, packed).map_err(|error| format!("{}: {error}", path.display()))?;
        let to = to.join(format!("{name}.ko"));
        fs::write(&to, unpacked).map_err(|error| format!("{}: {error}", to.display()))?;
        taken += 1;
    }
    Ok(taken)
}

/// Calls `each` with every file below `directory`.
fn find(directory: &Path, each: &mut impl FnMut(&Path)) -> std::io::Result<()> {
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

/// How the module `name` is packed in the file `path`, if it is there.
fn packing(path: &Path, name: &str) -> Option<Packing> {
    let file = path.file_name()?.to_str()?;
    // Some file systems of some packages have `-` where the module's name has `_`.
    let rest = file.replace('-', "_");
    match rest.strip_prefix(name)? {
        ".ko" => Some(Packing::Plain),
        ".ko.gz" => Some(Packing::Gzip),
        ".ko.xz" => Some(Packing::Xz),
        ".ko.zst" => Some(Packing::Zstd),
        _ => None,
    }
}

fn unpack(path: &PathBuf, packing: Packing) -> Result<Vec<u8>, String> {
    let file = fs::read(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let read = match packing {
        Packing::Plain => return Ok(file),
        Packing::Gzip => flate2::read::GzDecoder::new(&file[..]).read_to_end(&mut bytes),
        Packing::Xz => {
            let mut file = &file[..];
            return lzma_rs::xz_decompress(&mut file, &mut bytes).map(|()| bytes).map_err(|error| error.to_string());
        }
        Packing::Zstd => ruzstd::decoding::StreamingDecoder::new(&file[..])
            .map_err(|error| error.to_string())?
            .read_to_end(&mut bytes),
    };
    read.map(|_| bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_file_is_known_by_its_name() {
        for (file, packing) in [
            ("virtio_blk.ko", Some(Packing::Plain)),
            ("virtio-blk.ko.xz", Some(Packing::Xz)),
            ("virtio_blk.ko.zst", Some(Packing::Zstd)),
            ("virtio_blk.ko.gz", Some(Packing::Gzip)),
            ("virtio_blk_extra.ko", None),
            ("virtio.ko", None),
            ("virtio_blk.ko.sig", None),
        ] {
            assert_eq!(super::packing(Path::new(file), "virtio_blk"), packing, "{file}");
        }
    }

    #[test]
    fn what_is_there_is_taken_and_nothing_else() {
        let place = std::env::temp_dir().join(format!("exeunt-modules-{}", std::process::id()));
        let from = place.join("from/kernel/drivers");
        fs::create_dir_all(&from).unwrap();
        fs::write(from.join("virtio.ko"), "plain").unwrap();
        let mut xz = Vec::new();
        lzma_rs::xz_compress(&mut &b"packed"[..], &mut xz).unwrap();
        fs::write(from.join("virtio_blk.ko.xz"), xz).unwrap();
        let to = place.join("to");
        assert_eq!(take(&DISK, &place.join("from"), &to), Ok(2));
        assert_eq!(fs::read(to.join("virtio.ko")).unwrap(), b"plain");
        assert_eq!(fs::read(to.join("virtio_blk.ko")).unwrap(), b"packed");
        assert!(take(&DISK, &place.join("nowhere"), &to).unwrap_err().contains("nowhere"));
        fs::remove_dir_all(&place).unwrap();
    }
}
