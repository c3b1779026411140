//! Machines that are not QEMU's virt: their UARTs are of other kinds, RAM begins elsewhere, and QEMU makes no tree for
//! them. What Exeunt says there can be read, and Linux boots on the one that has all it needs.
//!
//! The trees are in tests/boards, with no more in them than is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::shell;
use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::Entry;
use crate::process::{self, Ended, Running};
use crate::{ensure, images, parse, paths, qemu};

/// For all that comes out of a machine that refuses, on a busy workstation.
const PATIENCE: Duration = Duration::from_mins(1);

/// The tree of tests/boards for `board` as a blob, with `more` at its end and each pair of `changes` made.
fn tree(context: &Context, board: &str, changes: &[(&str, &str)], more: &str) -> Result<PathBuf, Missed> {
    let mut text = fs::read_to_string(paths::root().join("tests/boards").join(format!("{board}.dts")))?;
    for (old, new) in changes {
        ensure!(text.contains(old), "tests/boards/{board}.dts has no {old:?}");
        text = text.replace(old, new);
    }
    let [source, blob] = ["tree.dts", "tree.dtb"].map(|name| context.directory().map(|directory| directory.join(name)));
    let (source, blob) = (source?, blob?);
    fs::write(&source, text + more)?;
    let mut dtc = Command::new("dtc");
    // Exeunt's changes need room in the tree.
    dtc.args(["-q", "-I", "dts", "-O", "dtb", "-S", "65536", "-o"]).args([&blob, &source]);
    let ended = process::run(&mut dtc, PATIENCE)?;
    ensure!(ended.status == 0, "dtc says:\n{}", ended.stderr);
    Ok(blob)
}

/// QEMU's `machine`, with Exeunt loaded as a kernel. Skips the cell if this QEMU has no such machine.
fn board(machine: &str, exeunt: &Path, tree: &Path) -> Result<Command, Missed> {
    let qemu = qemu::usual()?;
    let name = machine.split(',').next().unwrap_or(machine);
    let help = process::run(Command::new(&qemu.program).args(["-machine", "help"]), PATIENCE)?;
    let known = help.stdout.lines().any(|line| line.split_whitespace().next() == Some(name));
    let (major, minor) = qemu.version;
    if !known {
        return Err(Missed::Skipped(format!("QEMU {major}.{minor} has no machine {name}")));
    }
    // Whatever ends this test ends the machine.
    let mut command = Command::new("timeout");
    command.arg("300").arg(&qemu.program).args([
        "-machine",
        machine,
        "-display",
        "none",
        "-nodefaults",
        "-nic",
        "none",
    ]);
    // Some of them have sound, which QEMU asks for since it can do without.
    if qemu.version >= (8, 2) {
        command.args(["-audio", "none"]);
    }
    command.args(["-no-reboot", "-kernel"]).arg(exeunt).arg("-dtb").arg(tree);
    Ok(command)
}

/// Exeunt refuses to start in a way that is to be read on the board's serial port number `port`. Where there is no
/// firmware, the machine stays on.
fn refused(context: &Context, machine: &str, port: usize, exeunt: &Path, reason: &str) -> Outcome {
    let name = machine.split(',').next().unwrap_or(machine);
    let tree = tree(context, name.trim_start_matches("xlnx-"), &[], "")?;
    let mut command = board(machine, exeunt, &tree)?;
    command.args(["-m", "1G"]);
    for _ in 0..port {
        command.args(["-serial", "null"]);
    }
    command.args(["-serial", "stdio"]);
    let mut machine = Running::start(&mut command, false)?;
    machine.expect("EXEUNT CANNOT START: ", PATIENCE)?;
    machine.expect(reason, PATIENCE)?;
    Ok(())
}

/// A copy of Exeunt that a loader puts 512 KiB above the base of RAM, as the Raspberry Pi's firmware does with the file
/// kernel8.img: text_offset in the Image's header says so.
fn at_512_kib(context: &Context) -> Result<PathBuf, Missed> {
    let mut image = fs::read(images::exeunt()?)?;
    image[8..16].copy_from_slice(&0x8_0000_u64.to_le_bytes());
    let path = context.directory()?.join("kernel8.img");
    fs::write(&path, image)?;
    Ok(path)
}

const ADDRESS_OF_KERNEL: u64 = 0x40_0000;
/// So that [`SPAN`] lies over [`VIRTS_UART`], which is looked at.
const ADDRESS_OF_INITRD: u64 = 0x860_0000;
/// Where virt has its UART, and a ZCU102 has RAM.
const VIRTS_UART: u64 = 0x900_0000;
/// Bytes of the file in the initrd of which none may change, and their value. Who takes them for a PL011's registers
/// sees one that is ready to send.
const SPAN: usize = 8 << 20;
const SPAN_BYTE: u8 = 0x55;

/// What the guest says. An answer of the test module's begins with `ok`.
const LOOK: &str = r"
insmod /tests/exeunt_test.ko || exit
echo cpus $(nproc)
echo level $(dmesg | grep -o 'CPU: All CPU(s) started at EL[0-9]')
echo size $(wc -c </tests/span)
echo changed $(tr -d '\125' </tests/span | wc -c)
exec 3<>/proc/exeunt; echo log >&3; sed 's/^/log: /' <&3; exec 3>&-
COMPLAINTS
";

/// Boots Linux on a ZCU102, with an initrd whose [`SPAN`] lies over the place of virt's UART. `changes` are made to the
/// tree, and `console` is the host's.
fn zcu102(context: &Context, changes: &[(&str, &str)], console: &str) -> Result<Ended, Missed> {
    let directory = context.directory()?.to_owned();
    let overlay = directory.join("overlay");
    images::module("6.12", &overlay)?;
    fs::write(overlay.join("tests/span"), vec![SPAN_BYTE; SPAN])?;
    fs::create_dir_all(overlay.join("exeunt"))?;
    fs::write(overlay.join("exeunt/run"), shell::script(LOOK, 0))?;
    let initrd = directory.join("initrd");
    images::initrd(&overlay, &initrd)?;
    let bytes = fs::read(&initrd)?;
    let span = bytes.windows(64).position(|window| *window == [SPAN_BYTE; 64]).ok_or("the initrd has no span")? as u64;
    let over = ADDRESS_OF_INITRD + span..ADDRESS_OF_INITRD + span + SPAN as u64;
    ensure!(over.contains(&VIRTS_UART), "the file is at {over:#x?}");

    let kernel = paths::target().join("guest/kernels/6.12/vmlinuz");
    let modules = format!(
        r#"
/ {{
	chosen {{
		#address-cells = <2>;
		#size-cells = <2>;
		bootargs = "log=info";

		module@{ADDRESS_OF_KERNEL:x} {{
			compatible = "multiboot,module", "multiboot,kernel";
			reg = <0x0 {ADDRESS_OF_KERNEL:#x} 0x0 {:#x}>;
			bootargs = "console={console} quiet panic=-1";
		}};

		module@{ADDRESS_OF_INITRD:x} {{
			compatible = "multiboot,module", "multiboot,ramdisk";
			reg = <0x0 {ADDRESS_OF_INITRD:#x} 0x0 {:#x}>;
		}};
	}};
}};
"#,
        fs::metadata(&kernel)?.len(),
        bytes.len()
    );
    let tree = tree(context, "zcu102", changes, &modules)?;
    let mut command = board("xlnx-zcu102,virtualization=on", &images::exeunt()?, &tree)?;
    command.args(["-smp", "2", "-m", "1G"]);
    for (file, address) in [(&kernel, ADDRESS_OF_KERNEL), (&initrd, ADDRESS_OF_INITRD)] {
        command.args(["-device", &format!("loader,file={},addr={address:#x},force-raw=on", file.display())]);
    }
    // Both ports end in the same place.
    let log = directory.join("console.log");
    command.args(["-chardev", &format!("stdio,id=console,signal=off,mux=on,logfile={}", log.display())]);
    command.args(["-serial", "chardev:console", "-serial", "chardev:console"]);
    let mut ended = process::run(&mut command, Duration::from_mins(5))?;
    ended.stdout = ended.stdout.replace('\r', "");
    ensure!(ended.stdout.contains("exeunt-run: exit status 0"), "the guest did not come to its end");
    Ok(ended)
}

/// What has to hold whatever the UART is.
fn check(ended: &Ended) -> Outcome {
    let said = |name| parse::value(&ended.stdout, name).unwrap_or("nothing");
    let level = format!("CPU: All CPU(s) started at {}", Entry::VirtualEl2.level());
    for (name, wanted) in [("cpus", "2"), ("level", &level), ("size", &SPAN.to_string()), ("changed", "0")] {
        ensure!(said(name) == wanted, "{name} is {:?} and not {wanted:?}", said(name));
    }
    let bad: Vec<&str> = ended.stdout.lines().filter_map(|line| line.strip_prefix("bad ")).collect();
    ensure!(bad.is_empty(), "the kernel complains:\n{}", bad.join("\n"));
    for text in ["INFO  Exeunt 0.1.0 in 0x200000-0x3fffff: 2 CPUs", "INFO  the host: kernel at 0x400000-"] {
        let found = ended.stdout.lines().any(|line| line.starts_with("log: [exeunt") && line.contains(text));
        ensure!(found, "LOG_READ has no line with {text:?}");
    }
    Ok(())
}

/// Lines of Exeunt's on a UART, and not out of LOG_READ.
fn on_a_uart(ended: &Ended) -> Vec<&str> {
    ended.stdout.lines().filter(|line| line.starts_with("[exeunt")).collect()
}

/// The Cadence UART is Exeunt's console and Linux's.
fn zcu102_boots_linux(context: &Context) -> Outcome {
    let ended = zcu102(context, &[], "ttyPS0")?;
    check(&ended)?;
    for text in ["INFO  Exeunt 0.1.0 in 0x200000-0x3fffff: 2 CPUs", "INFO  the host: kernel at 0x400000-"] {
        ensure!(on_a_uart(&ended).iter().any(|line| line.contains(text)), "the UART has no line with {text:?}");
    }
    Ok(())
}

/// The UART that stdout-path names is of no kind that anybody knows. Linux has the other one.
fn zcu102_with_an_unknown_uart(context: &Context) -> Outcome {
    let kinds = r#"compatible = "xlnx,zynqmp-uart", "cdns,uart-r1p12";
			reg = <0x0 0xff000000 "#;
    let other = r#"compatible = "exeunt,unknown-uart";
			reg = <0x0 0xff000000 "#;
    let ended = zcu102(context, &[(kinds, other)], "ttyPS1")?;
    check(&ended)?;
    let why = "WARN  stdout-path names no UART that is known: the log is kept for LOG_READ alone";
    ensure!(ended.stdout.lines().any(|line| line.starts_with("log: ") && line.ends_with(why)), "the log says not why");
    let said = on_a_uart(&ended);
    ensure!(said.is_empty(), "it says on a UART:\n{}", said.join("\n"));
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    vec![
        Cell::new("boards/zcu102-boots-linux", zcu102_boots_linux),
        Cell::new("boards/zcu102-with-an-unknown-uart", zcu102_with_an_unknown_uart),
        Cell::new("boards/zcu102-started-at-el1", |context| {
            refused(context, "xlnx-zcu102", 0, &images::exeunt()?, "started at EL1")
        }),
        Cell::new("boards/imx8mp-evk-without-a-kernel", |context| {
            refused(context, "imx8mp-evk", 1, &images::exeunt()?, "no host kernel")
        }),
        Cell::new("boards/raspi3b-without-psci", |context| {
            refused(context, "raspi3b", 1, &images::exeunt()?, "the device tree has no psci node")
        }),
        Cell::new("boards/raspi3b-at-512-kib", |context| {
            refused(context, "raspi3b", 1, &at_512_kib(context)?, "loaded at 0x80000, which is not a multiple of 2 MiB")
        }),
    ]
}
