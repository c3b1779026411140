//! The bare-metal guests as raw images and the static programs of the guest's user space, built once in a run of the
//! tests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use runner::archive::Archives;

use crate::cell::Missed;
use crate::{paths, process};

/// A build, from nothing, on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_mins(15);

const GUEST_TARGET: &str = "aarch64-unknown-none-softfloat";
const USER_TARGET: &str = "aarch64-unknown-linux-musl";

fn cargo_build(package: &str, target: &str) -> Result<PathBuf, String> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(paths::root())
        .args(["build", "--release", "--package", package, "--target", target, "--target-dir"])
        .arg(paths::target())
        // The toolchain's own linker: no cross compiler is needed.
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
    let ended = process::run(&mut command, BUILD_LIMIT).map_err(|error| error.to_string())?;
    if ended.status != 0 {
        return Err(format!("{package} does not build:\n{}", process::tail(&ended.stderr, 40)));
    }
    Ok(paths::target().join(target).join("release"))
}

/// Exeunt with the places where it can be made to die.
///
/// # Errors
/// When it cannot be built.
pub fn faulty_exeunt() -> Result<PathBuf, Missed> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let image = BUILT.get_or_init(|| {
        let mut command = Command::new(paths::root().join("scripts/build"));
        let ended = process::run(command.env("PROFILE", "faults"), BUILD_LIMIT).map_err(|error| error.to_string())?;
        if ended.status != 0 {
            return Err(format!("Exeunt with faults does not build:\n{}", process::tail(&ended.stderr, 40)));
        }
        Ok(paths::target().join("exeunt-faults.bin"))
    });
    Ok(image.clone()?)
}

/// The raw image of Exeunt, for tests that load it by themselves: EXEUNT_BIN if that is set, else a release build.
///
/// # Errors
/// When it does not build.
pub fn exeunt() -> Result<PathBuf, Missed> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let image = BUILT.get_or_init(|| {
        if let Some(image) = env::var_os("EXEUNT_BIN") {
            return Ok(image.into());
        }
        let mut command = Command::new(paths::root().join("scripts/build"));
        let ended = process::run(command.env_remove("PROFILE"), BUILD_LIMIT).map_err(|error| error.to_string())?;
        if ended.status != 0 {
            return Err(format!("Exeunt does not build:\n{}", process::tail(&ended.stderr, 40)));
        }
        Ok(paths::target().join("exeunt-release.bin"))
    });
    Ok(image.clone()?)
}

/// The raw image of the guest `name`.
///
/// # Errors
/// When the guests do not build.
pub fn guest(name: &str) -> Result<PathBuf, Missed> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let built = cargo_build("exeunt-guests", GUEST_TARGET)?;
        let images = paths::target().join("tests-images");
        fs::create_dir_all(&images).map_err(|error| error.to_string())?;
        for guest in [
            "aborts",
            "broken",
            "calls",
            "conformance",
            "death",
            "doorbell",
            "encodings",
            "interrupts",
            "lend",
            "log",
            "panics",
            "psci",
            "sysregs",
            "rounds",
            "shim",
            "stop",
            "wake",
            "watchdog",
        ] {
            let elf = fs::read(built.join(guest)).map_err(|error| format!("{guest}: {error}"))?;
            let image = flatten(&elf).map_err(|error| format!("{guest}: {error}"))?;
            fs::write(images.join(format!("{guest}.bin")), image).map_err(|error| error.to_string())?;
        }
        Ok(images)
    });
    Ok(directory.as_ref().map_err(String::clone)?.join(format!("{name}.bin")))
}

/// A directory for OVERLAY= that has the programs of `tests/user` in /tests.
///
/// # Errors
/// When they do not build.
pub fn programs() -> Result<&'static Path, Missed> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let built = cargo_build("exeunt-user", USER_TARGET)?;
        let overlay = paths::target().join("tests-overlay");
        fs::create_dir_all(overlay.join("tests")).map_err(|error| error.to_string())?;
        for program in PROGRAMS.into_iter().chain(["kvm", "ticks"]) {
            let to = overlay.join("tests").join(program);
            fs::copy(built.join(program), to).map_err(|error| format!("{program}: {error}"))?;
        }
        Ok(overlay)
    });
    Ok(directory.as_deref().map_err(String::clone)?)
}

/// Puts the test module for this kernel into /tests of a directory for OVERLAY=.
///
/// # Errors
/// When it does not build.
pub fn module(kernel: &str, overlay: &Path) -> Result<(), Missed> {
    let mut command = Command::new(paths::root().join("scripts/module"));
    let ended = process::run(command.arg(kernel), BUILD_LIMIT)?;
    if ended.status != 0 {
        return Err(Missed::Failed(format!("the test module does not build:\n{}", process::tail(&ended.stderr, 40))));
    }
    fs::create_dir_all(overlay.join("tests"))?;
    fs::copy(ended.stdout.trim(), overlay.join("tests/exeunt_test.ko"))?;
    Ok(())
}

/// Writes an initrd to `to`: the project's initramfs with the content of `overlay`, as the runner composes it.
///
/// # Errors
/// When set-up has not made the initramfs.
pub fn initrd(overlay: &Path, to: &Path) -> Result<(), Missed> {
    let mut archives = Archives::new(Vec::new());
    archives.ready(&fs::read(paths::target().join("guest/initramfs.cpio"))?)?;
    archives.directory(overlay)?;
    fs::write(to, archives.finish()?)?;
    Ok(())
}

/// The programs of `tests/user` that use a feature of the CPU.
pub const PROGRAMS: [&str; 4] = ["sve", "pauth", "mte", "mops"];

/// The bytes of an ELF file from its lowest loaded address on, BSS at the end left out.
fn flatten(elf: &[u8]) -> Result<Vec<u8>, String> {
    let header = FileHeader64::<LittleEndian>::parse(elf).map_err(|error| error.to_string())?;
    let endian = header.endian().map_err(|error| error.to_string())?;
    let segments = header.program_headers(endian, elf).map_err(|error| error.to_string())?;
    let loaded = || segments.iter().filter(|each| each.p_type(endian) == PT_LOAD && each.p_filesz(endian) > 0);
    let base = loaded().map(|each| each.p_vaddr(endian)).min().ok_or("the file loads nothing")?;
    let mut image = Vec::new();
    for segment in loaded() {
        let data = segment.data(endian, elf).map_err(|()| "a segment lies outside the file")?;
        let start = usize::try_from(segment.p_vaddr(endian) - base).map_err(|error| error.to_string())?;
        if image.len() < start + data.len() {
            image.resize(start + data.len(), 0);
        }
        image[start..start + data.len()].copy_from_slice(data);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push<const N: usize>(file: &mut Vec<u8>, values: [u64; N]) {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// An ELF header and two segments: 4 bytes at 0x1000, 2 bytes at 0x1008 with 16 of BSS.
    fn elf() -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\xb7\0\x01\0\0\0".to_vec();
        push(&mut file, [0x1000, 64, 0]);
        file.extend(b"\0\0\0\0\x40\0\x38\0\x02\0\x40\0\0\0\0\0");
        for (address, offset, size, memory) in [(0x1000, 176, 4, 4), (0x1008, 180, 2, 18)] {
            file.extend(b"\x01\0\0\0\x05\0\0\0");
            push(&mut file, [offset, address, address, size, memory, 4]);
        }
        file.extend([1, 2, 3, 4, 5, 6]);
        file
    }

    #[test]
    fn segments_keep_their_distance_and_bss_is_left_out() {
        assert_eq!(flatten(&elf()).unwrap(), [1, 2, 3, 4, 0, 0, 0, 0, 5, 6]);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(flatten(b"#!/bin/sh\n").is_err());
        assert!(flatten(&elf()[..100]).is_err());
    }
}
