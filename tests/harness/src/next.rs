//! The kernel that comes after a restart, as a directory for OVERLAY= of the first one.
//!
//! Owns what is in it: /next/vmlinuz and /next/initrd, whose init runs a script as the tests' first kernel does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cell::Missed;
use crate::{ensure, paths};

/// Makes the directory below `directory`, for the kernel that set-up knows as `kernel`. Of the guest's `programs`
/// ([`crate::images::programs`]) those that are named come into its initrd.
///
/// # Errors
/// When set-up has not fetched the kernel, or a file cannot be made.
pub fn kernel(directory: &Path, kernel: &str, script: &str, programs: &[PathBuf]) -> Result<PathBuf, Missed> {
    let overlay = directory.join("overlay");
    let (archived, next) = (directory.join("second"), overlay.join("next"));
    fs::create_dir_all(archived.join("exeunt"))?;
    fs::create_dir_all(archived.join("tests"))?;
    fs::create_dir_all(&next)?;
    fs::write(archived.join("exeunt/run"), script)?;
    let mut names = "exeunt\nexeunt/run\ntests\n".to_owned();
    for program in programs {
        let name = Path::new("tests").join(program.file_name().ok_or("a program has a name")?);
        fs::copy(program, archived.join(&name))?;
        names.extend([&*name.to_string_lossy(), "\n"]);
    }
    let mut cpio = Command::new("cpio");
    cpio.args(["--create", "--format=newc", "--quiet", "--owner=+0:+0"]).current_dir(&archived);
    let mut child = cpio.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().ok_or("no pipe to cpio")?, names.as_bytes())?;
    let archive = child.wait_with_output()?;
    ensure!(archive.status.success(), "cpio ended with {}", archive.status);
    let guest = paths::target().join("guest");
    let mut initrd = fs::read(guest.join("initramfs.cpio"))?;
    initrd.extend(archive.stdout);
    fs::write(next.join("initrd"), initrd)?;
    fs::copy(guest.join("kernels").join(kernel).join("vmlinuz"), next.join("vmlinuz"))?;
    Ok(overlay)
}
