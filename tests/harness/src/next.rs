//! The kernel that comes after a restart, as a directory for OVERLAY= of the first one.
//!
//! Owns what is in it: /next/vmlinuz and /next/initrd, whose init runs a script as the tests' first kernel does.

use std::fs;
use std::path::{Path, PathBuf};

use runner::archive::Archives;

use crate::cell::Missed;
use crate::paths;

/// Makes the directory below `directory`, for the kernel that set-up knows as `kernel`. Of the guest's `programs`
/// ([`crate::images::programs`]) those that are named come into its initrd.
///
/// # Errors
/// When set-up has not fetched the kernel, or a file cannot be made.
pub fn kernel(directory: &Path, kernel: &str, script: &str, programs: &[PathBuf]) -> Result<PathBuf, Missed> {
    let overlay = directory.join("overlay");
    let next = overlay.join("next");
    fs::create_dir_all(&next)?;
    let guest = paths::target().join("guest");
    let mut archives = Archives::new(Vec::new());
    archives.ready(&fs::read(guest.join("initramfs.cpio"))?)?;
    archives.file("exeunt/run", 0o644, script.as_bytes())?;
    for program in programs {
        let name = program.file_name().and_then(|name| name.to_str()).ok_or("a program has a name")?;
        archives.file(&format!("tests/{name}"), 0o755, &fs::read(program)?)?;
    }
    fs::write(next.join("initrd"), archives.finish()?)?;
    fs::copy(guest.join("kernels").join(kernel).join("vmlinuz"), next.join("vmlinuz"))?;
    Ok(overlay)
}
