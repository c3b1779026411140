//! People's kernels: in each wrapping, with what they lack said before anything runs, and by name.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use runner::run::RUNNER_FAILED;

use super::restarts::passes;
use crate::cell::{Cell, Context, Missed, Outcome};
use crate::{ensure, machine, paths};

fn fetched(kernel: &str) -> PathBuf {
    paths::target().join("guest/kernels").join(kernel)
}

fn packed(image: &[u8]) -> Result<Vec<u8>, Missed> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(image)?;
    Ok(encoder.finish()?)
}

/// As it comes out of a build: `Image.gz`, and an EFI zboot image.
fn compressed(context: &Context) -> Outcome {
    let packed = packed(&fs::read(fetched("6.12").join("vmlinuz"))?)?;
    // Linux, drivers/firmware/efi/libstub/zboot-header.S.
    let mut zboot = b"MZ\0\0zimg".to_vec();
    zboot.extend(64_u32.to_le_bytes());
    zboot.extend(u32::try_from(packed.len())?.to_le_bytes());
    zboot.resize(24, 0);
    zboot.extend(b"gzip");
    zboot.resize(64, 0);
    zboot.extend(&packed);
    for (name, bytes) in [("Image.gz", &packed), ("vmlinuz.efi", &zboot)] {
        let kernel = context.directory()?.join(name);
        fs::write(&kernel, bytes)?;
        let machine = context.machine().with("KERNEL", kernel.display()).with("RUN", "uname -r");
        let ran = machine.run()?.ended_with(0)?;
        ensure!(ran.stdout.starts_with("6.12."), "{name}: it says {:?}", ran.stdout);
        ensure!(ran.stderr.contains("Linux 6.12."), "{name}: its version is not told: {}", ran.stderr);
    }
    Ok(())
}

/// What is no kernel for this machine, and a kernel that lacks what the target needs: nothing is started.
fn refused(context: &Context) -> Outcome {
    let directory = context.directory()?.to_owned();
    let kernel = fs::read(fetched("6.12").join("vmlinuz"))?;
    let place = |name: &str, content: &[u8]| -> Result<String, Missed> {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&directory))?;
        fs::write(&path, content)?;
        Ok(path.display().to_string())
    };
    let config = fs::read_to_string(fetched("6.12").join("config"))?;
    let without = |option: &str| config.replace(&format!("CONFIG_{option}="), &format!("# CONFIG_{option}="));
    let no_dump = place("a/boot/vmlinuz-1", &kernel)?;
    place("a/boot/config-1", without("CRASH_DUMP").as_bytes())?;
    let no_kexec = place("b/arch/arm64/boot/Image", &kernel)?;
    place("b/.config", without("KEXEC").as_bytes())?;
    let no_modules = place("c/vmlinuz", &kernel)?;
    place("c/config", config.as_bytes())?;
    for (script, variables, words) in [
        ("run", vec![("KERNEL", place("x.deb", b"!<arch>\ndebian-binary")?)], "dpkg-deb -x"),
        ("kdump", vec![("KERNEL", no_dump.clone())], "has no CONFIG_CRASH_DUMP"),
        ("kexec", vec![("KERNEL", no_kexec)], "has no CONFIG_KEXEC"),
        ("kdump", vec![("KERNEL", no_modules)], "CONFIG_VIRTIO_BLK=m"),
        ("kdump", vec![("KERNEL", no_dump.clone()), ("CRASH", "null".to_owned())], "TREE= names"),
        ("kdump", vec![("SYMBOLS", no_dump)], "no ELF"),
        ("kexec", vec![("KERNEL", directory.display().to_string())], "arch/arm64/boot/Image"),
        ("run", vec![("KERNEL", "6.12-foo".to_owned())], "the flavours cloud, arm64, rt, 16k"),
    ] {
        let ended = machine::run_script(script, &context.directory()?.join("out"), &variables)?;
        ensure!(ended.status == RUNNER_FAILED, "{script} {variables:?} returned {}", ended.status);
        ensure!(ended.stderr.contains(words), "{script} {variables:?} says {:?}, and not {words:?}", ended.stderr);
        ensure!(!ended.stderr.contains("NEXT"), "it names a variable that nobody set: {:?}", ended.stderr);
    }
    Ok(())
}

/// A tree as Debian's packages leave it: the kernel, its configuration and its modules are found from the file.
fn unpacked(directory: &Path, kernel: &str) -> Result<String, Missed> {
    let from = fetched(kernel);
    let version = fs::read_to_string(from.join("version"))?.trim().to_owned();
    let boot = directory.join("boot");
    fs::create_dir_all(&boot)?;
    fs::create_dir_all(directory.join("lib/modules"))?;
    fs::copy(from.join("vmlinuz"), boot.join(format!("vmlinuz-{version}")))?;
    fs::copy(from.join("config"), boot.join(format!("config-{version}")))?;
    let modules = fs::canonicalize(from.join("modules"))?;
    std::os::unix::fs::symlink(modules, directory.join("lib/modules").join(&version))?;
    Ok(boot.join(format!("vmlinuz-{version}")).display().to_string())
}

/// kdump of a file, whose modules nobody named.
fn kdump_of_a_file(context: &Context) -> Outcome {
    let kernel = unpacked(&context.directory()?.join("root"), "6.12")?;
    passes(context, "kdump", &[("KERNEL", &kernel)])
}

/// kexec of a file, packed.
fn kexec_of_a_file(context: &Context) -> Outcome {
    let kernel = context.directory()?.join("Image.gz");
    fs::write(&kernel, packed(&fs::read(fetched("6.12").join("vmlinuz"))?)?)?;
    passes(context, "kexec", &[("KERNEL", &kernel.display().to_string()), ("ENTRY", "el1")])
}

/// The headers that set-up has are a build tree too, as far as the test module goes: the ways to die work with a file.
fn module_for_a_file(context: &Context) -> Outcome {
    let kernel = unpacked(&context.directory()?.join("root"), "6.12")?;
    let tree = paths::target().join("guest/headers/6.12/build");
    let variables = [("KERNEL", kernel.as_str()), ("TREE", &tree.display().to_string()), ("CRASH", "null")];
    passes(context, "kdump", &variables)
}

pub(super) fn cells() -> Vec<Cell> {
    vec![
        Cell::new("kernels/compressed", compressed),
        Cell::new("kernels/refused", refused),
        Cell::new("kernels/kexec-of-a-file", kexec_of_a_file).slow(true),
        Cell::new("kernels/kdump-of-a-file", kdump_of_a_file).slow(true),
        Cell::new("kernels/module-for-a-file", module_for_a_file).slow(true),
        Cell::new("kernels/kexec-of-testing", |context| passes(context, "kexec", &[("KERNEL", "testing")])).slow(true),
    ]
}
