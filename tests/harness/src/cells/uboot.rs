//! U-Boot starts Exeunt with `booti`, at another address than QEMU's -kernel does, from a device tree that it writes
//! the modules into itself, as one would on a board.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cell::{Cell, Context, Outcome};
use crate::process::Running;
use crate::{ensure, images, paths, qemu};

/// Debian's package u-boot-qemu.
const U_BOOT: &str = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";

/// Where QEMU's loader puts things; U-Boot keeps to the top of RAM. A copy of the tree goes to [`TREE`].
const EXEUNT: u64 = 0x5000_0000;
const KERNEL: u64 = 0x5200_0000;
const TREE: u64 = 0x4a00_0000;

/// U-Boot waits for a key before it starts on its own.
const PATIENCE: Duration = Duration::from_mins(2);

fn boots_a_guest(context: &Context) -> Outcome {
    ensure!(Path::new(U_BOOT).exists(), "{U_BOOT} is not there: run scripts/setup test");
    let kernel = images::guest("psci")?;
    let exeunt = images::exeunt()?;
    let log = context.directory()?.join("console.log");
    let load = |file: &Path, address: u64| format!("loader,file={},addr={address:#x},force-raw=on", file.display());
    let mut command = Command::new("timeout");
    command
        .arg("300")
        .arg(&qemu::usual()?.program)
        .args(["-machine", "virt,virtualization=on,gic-version=3", "-cpu", "cortex-a57", "-smp", "4", "-m", "1G"])
        .args(["-nodefaults", "-nic", "none", "-display", "none", "-no-reboot", "-bios", U_BOOT])
        .args(["-device", &load(&exeunt, EXEUNT), "-device", &load(&kernel, KERNEL)])
        .args([
            "-chardev",
            &format!("stdio,id=console,signal=off,logfile={}", log.display()),
            "-serial",
            "chardev:console",
        ])
        .current_dir(paths::root());
    let mut u_boot = Running::start(&mut command, true)?;
    u_boot.expect("Hit any key to stop autoboot", PATIENCE)?;
    u_boot.send("\n")?;
    u_boot.expect("=> ", PATIENCE)?;
    let size = std::fs::metadata(&kernel)?.len();
    let module = format!("/chosen/module@{KERNEL:x}");
    for line in [
        // QEMU's tree is where U-Boot was given it; it is copied, and made larger.
        format!("fdt addr ${{fdtcontroladdr}} && fdt move ${{fdtcontroladdr}} {TREE:#x} 0x100000"),
        "fdt set /chosen \\#address-cells <2> && fdt set /chosen \\#size-cells <2>".to_owned(),
        format!("fdt mknode /chosen module@{KERNEL:x}"),
        format!("fdt set {module} compatible multiboot,module multiboot,kernel"),
        format!("fdt set {module} reg <0 {KERNEL:#x} 0 {size:#x}>"),
        format!("fdt set {module} bootargs \"rounds=20\""),
        // booti passes U-Boot's bootargs on as those of what it starts.
        "setenv bootargs log=info".to_owned(),
    ] {
        u_boot.send(&format!("{line} && echo done-it\n"))?;
        // Once in the echo of what was typed, once as its result.
        u_boot.expect("done-it", PATIENCE)?;
        u_boot.expect("done-it", PATIENCE)?;
        u_boot.expect("=> ", PATIENCE)?;
    }
    u_boot.send(&format!("booti {EXEUNT:#x} - {TREE:#x}\n"))?;
    u_boot.expect("exeunt-run: exit status ", PATIENCE)?;
    let ended = u_boot.finish(PATIENCE + PATIENCE)?;
    ensure!(ended.stdout.contains("exeunt-run: exit status 0"), "the guest failed");
    ensure!(ended.stdout.contains(&format!("Exeunt 0.1.0 in {EXEUNT:#x}-")), "Exeunt is not where it was loaded");
    ensure!(ended.status == 0, "QEMU returned {}", ended.status);
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    vec![Cell::new("uboot/booti-boots-a-guest", boots_a_guest)]
}
