//! cpio archives, of which an initrd is made.
//!
//! A kernel unpacks archives that follow each other in one initrd, later files over earlier ones (Linux,
//! init/initramfs.c). That is how files get in beside the project's initramfs, whichever it is. The same content gives
//! the same bytes: names are sorted, the owner is root, inode and device numbers count from 0.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// An archive begins at a multiple of 4, and zeros before it are skipped; a block as cpio's is one, too.
const BLOCK: usize = 512;

/// Writes an initrd, archive after archive.
#[derive(Debug)]
pub struct Archives<W> {
    to: W,
    written: u64,
    inode: u32,
}

impl<W: Write> Archives<W> {
    /// Nothing so far.
    pub const fn new(to: W) -> Self {
        Self { to, written: 0, inode: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, to: usize) -> io::Result<()> {
        let missing = self.written.next_multiple_of(to as u64) - self.written;
        self.write(&vec![0; missing as usize])
    }

    /// A ready archive.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn ready(&mut self, archive: &[u8]) -> io::Result<()> {
        self.pad(BLOCK)?;
        self.write(archive)
    }

    /// An archive of what is in `directory`.
    ///
    /// # Errors
    /// It cannot be read, or the archive not be written.
    pub fn directory(&mut self, directory: &Path) -> io::Result<()> {
        self.pad(BLOCK)?;
        self.inode = 0;
        self.below(directory, &mut Vec::new())?;
        self.end()
    }

    /// An archive of one file with the directories that lead to it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.pad(BLOCK)?;
        self.inode = 0;
        for (at, _) in path.match_indices('/') {
            self.entry(&path.as_bytes()[..at], 0o040_755, 0, &[])?;
        }
        self.entry(path.as_bytes(), 0o100_000 | mode, 0, content)?;
        self.end()
    }

    /// All is written.
    ///
    /// # Errors
    /// The end cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.pad(BLOCK)?;
        Ok(self.to)
    }

    fn below(&mut self, directory: &Path, prefix: &mut Vec<u8>) -> io::Result<()> {
        let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let metadata = entry.metadata()?;
            let length = prefix.len();
            if length > 0 {
                prefix.push(b'/');
            }
            prefix.extend(entry.file_name().as_bytes());
            let mode = metadata.permissions().mode();
            let time = u32::try_from(metadata.mtime()).unwrap_or(0);
            if metadata.is_dir() {
                self.entry(prefix, mode, time, &[])?;
                self.below(&entry.path(), prefix)?;
            } else if metadata.is_symlink() {
                self.entry(prefix, mode, time, fs::read_link(entry.path())?.as_os_str().as_bytes())?;
            } else {
                self.entry(prefix, mode, time, &fs::read(entry.path())?)?;
            }
            prefix.truncate(length);
        }
        Ok(())
    }

    /// One entry.
    fn entry(&mut self, name: &[u8], mode: u32, time: u32, content: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, "a file in an initrd has less than 4 GiB");
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let no_name = |_| io::Error::new(io::ErrorKind::InvalidFilename, "a name in an initrd is UTF-8");
        let name = std::str::from_utf8(name).map_err(no_name)?;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let entry = cpio::NewcBuilder::new(name).ino(self.inode).mode(mode).nlink(links).mtime(time);
        self.inode += 1;
        let mut writer = entry.write(Vec::new(), size);
        writer.write_all(content)?;
        let bytes = writer.finish()?;
        self.write(&bytes)
    }

    fn end(&mut self) -> io::Result<()> {
        let trailer = cpio::newc::trailer(Vec::new())?;
        self.write(&trailer)?;
        self.pad(BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            let start = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len());
            bytes = &bytes[start..];
            if bytes.is_empty() {
                return found;
            }
            let mut reader = cpio::NewcReader::new(bytes).unwrap();
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = Vec::new();
            io::copy(&mut reader, &mut content).unwrap();
            bytes = reader.finish().unwrap();
            if name != "TRAILER!!!" {
                found.push((name, mode, content));
            }
        }
    }

    #[test]
    fn archives_follow_each_other_where_a_kernel_looks() {
        let mut archives = Archives::new(Vec::new());
        archives.file("exeunt/run", 0o644, b"true\n").unwrap();
        let first = archives.to.clone();
        assert_eq!(first.len() % BLOCK, 0);
        archives.ready(&first).unwrap();
        let names = names(&archives.to);
        let once = [("exeunt".to_owned(), 0o040_755, vec![]), ("exeunt/run".to_owned(), 0o100_644, b"true\n".to_vec())];
        assert_eq!(names, [once.clone(), once].concat());
    }

    #[test]
    fn a_directory_gives_the_same_bytes_each_time() {
        let place = std::env::temp_dir().join(format!("exeunt-archive-{}", std::process::id()));
        fs::create_dir_all(place.join("b/c")).unwrap();
        fs::write(place.join("b/c/file"), [7; 1000]).unwrap();
        fs::write(place.join("a"), "").unwrap();
        std::os::unix::fs::symlink("a", place.join("link")).unwrap();
        let archive = || {
            let mut archives = Archives::new(Vec::new());
            archives.directory(&place).unwrap();
            archives.to
        };
        let bytes = archive();
        assert_eq!(bytes, archive());
        let found = names(&bytes);
        let order: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(order, ["a", "b", "b/c", "b/c/file", "link"]);
        assert_eq!((found[3].2.len(), found[4].2.as_slice()), (1000, b"a".as_slice()));
        fs::remove_dir_all(&place).unwrap();
    }
}
