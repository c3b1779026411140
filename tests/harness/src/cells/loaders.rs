//! The pages on loaders and machines: docs/qemu.md, u-boot.md, efi.md and machines.md. A test takes a block of commands
//! out of the page and gives it to a shell as it stands, so that the page cannot show what does not work.
//!
//! A block that a test runs has a name behind its language: "```sh simplest".

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::shell;
use crate::cell::{Cell, Context, Missed, Outcome};
use crate::process::{Ended, Running};
use crate::{ensure, images, paths, qemu};

/// For each answer of a machine, on a busy workstation.
pub const PATIENCE: Duration = Duration::from_mins(3);
/// The prompt of the guest's shell.
pub const PROMPT: &str = ":~# ";
/// What a person types to have QEMU's monitor in the place of the guest's console, and back.
const CTRL_A_C: &str = "\u{1}c";

/// The block `name` of the page `page`, without its fences.
///
/// # Errors
/// When the page has no such block, or two.
pub fn block(page: &str, name: &str) -> Result<String, Missed> {
    let text = fs::read_to_string(paths::root().join("docs").join(page))?;
    let found = blocks(&text).filter(|(known, _)| *known == name).map(|(_, block)| block).collect::<Vec<_>>();
    ensure!(found.len() == 1, "docs/{page} has {} blocks with the name {name:?}", found.len());
    Ok(found.concat())
}

/// The blocks of a page that have a name.
fn blocks(page: &str) -> impl Iterator<Item = (&str, String)> {
    // Every other piece is inside of fences.
    page.split("\n```").skip(1).step_by(2).filter_map(|piece| {
        let (info, body) = piece.split_once('\n')?;
        let (_, name) = info.split_once(' ')?;
        Some((name, format!("{body}\n")))
    })
}

/// A block in a shell, with QEMU's console on its standard input and output.
pub struct Typed(Running);

impl Typed {
    /// Starts the block `name` of `page` where a person would, with each pair of `changes` made that the page names.
    ///
    /// # Errors
    /// When there is no such block, or something is not in it that is to be changed.
    pub fn start(context: &Context, page: &str, name: &str, changes: &[(&str, &str)]) -> Result<Self, Missed> {
        let mut commands = block(page, name)?;
        for (old, new) in changes {
            ensure!(commands.contains(old), "docs/{page}: the block {name:?} has no {old:?}");
            commands = commands.replace(old, new);
        }
        Self::run(context, &commands)
    }

    /// Starts `commands` with the QEMU of the tests as the one that is found.
    ///
    /// # Errors
    /// When there is none.
    pub fn run(context: &Context, commands: &str) -> Result<Self, Missed> {
        images::exeunt()?;
        let programs = programs(context)?;
        let mut shell = Command::new("timeout");
        // What is left of it does not outlive this test by much.
        shell.args(["600", "sh", "-e", "-c", commands]).current_dir(paths::root());
        let path = std::env::var_os("PATH").unwrap_or_default();
        shell.env("PATH", std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&path)))?);
        Ok(Self(Running::start(&mut shell, true)?))
    }

    /// Waits for `text`.
    ///
    /// # Errors
    /// When it does not come.
    pub fn expect(&mut self, text: &str) -> Outcome {
        Ok(self.0.expect(text, PATIENCE)?)
    }

    /// Types `text`.
    ///
    /// # Errors
    /// When nobody reads it.
    pub fn send(&mut self, text: &str) -> Outcome {
        Ok(self.0.send(text)?)
    }

    /// Types a line at the guest's prompt, and waits for the next prompt.
    ///
    /// # Errors
    /// When it does not come.
    pub fn ask(&mut self, line: &str) -> Outcome {
        self.send(&format!("{line}\n"))?;
        self.expect(PROMPT)
    }

    /// Types `poweroff` at the guest's prompt.
    ///
    /// # Errors
    /// When QEMU does not end with 0.
    pub fn power_off(mut self) -> Result<String, Missed> {
        self.send("poweroff\n")?;
        let ended = self.finish()?;
        ensure!(ended.status == 0, "QEMU returned {}: {}", ended.status, ended.stderr);
        Ok(ended.stdout)
    }

    /// Ends QEMU as a person does.
    ///
    /// # Errors
    /// When it does not end.
    pub fn quit(mut self) -> Result<String, Missed> {
        self.send("\u{1}x")?;
        Ok(self.finish()?.stdout)
    }

    /// What came of it.
    ///
    /// # Errors
    /// When it does not end.
    pub fn finish(self) -> Result<Ended, Missed> {
        let mut ended = self.0.finish(Duration::from_mins(10))?;
        ended.stdout = ended.stdout.replace('\r', "");
        Ok(ended)
    }
}

/// A directory for PATH in which `qemu-system-aarch64` is the QEMU of the tests.
///
/// # Errors
/// When it cannot be made.
pub fn programs(context: &Context) -> Result<PathBuf, Missed> {
    let usual = &qemu::usual()?.program;
    let programs = context.directory()?.join("bin");
    let name = programs.join("qemu-system-aarch64");
    if usual.components().count() > 1 && !name.exists() {
        fs::create_dir_all(&programs)?;
        symlink(paths::root().join(usual), &name)?;
    }
    Ok(programs)
}

/// Looks at a Linux whose first prompt has come: it runs at the level that it should, and complains of nothing.
fn look(typed: &mut Typed, level: &str) -> Outcome {
    // What is typed comes back as an echo: the words that are looked for are not in it.
    typed.send("dmesg | grep -o 'All CPU.s. started at EL.' | sed 's/^/saw: /'\n")?;
    typed.expect(&format!("saw: All CPU(s) started at {level}"))?;
    typed.expect(PROMPT)?;
    typed.ask(&shell::script("COMPLAINTS", 0).replace('\n', " ; ").replace("| ;", "|"))
}

/// The guest is at its prompt; what follows is the end of each of these tests.
fn ends_well(mut typed: Typed, level: &str) -> Result<String, Missed> {
    look(&mut typed, level)?;
    let said = typed.power_off()?;
    let bad: Vec<&str> = said.lines().filter(|line| line.starts_with("bad ")).collect();
    ensure!(bad.is_empty(), "the kernel complains:\n{}", bad.join("\n"));
    Ok(said)
}

/// The shortest command line; and what QEMU's monitor says about it, as the page has it.
fn shortest(context: &Context) -> Outcome {
    let mut typed = Typed::start(context, "qemu.md", "shortest", &[])?;
    typed.expect(PROMPT)?;
    typed.send(CTRL_A_C)?;
    typed.expect("(qemu)")?;
    typed.send(&block("qemu.md", "roms")?)?;
    typed.expect("name=\"dtb\"")?;
    typed.expect("(qemu)")?;
    typed.send(&format!("{CTRL_A_C}\n"))?;
    typed.expect(PROMPT)?;
    let said = ends_well(typed, "EL2")?;
    for place in [
        "addr=0000000040000000 size=0x000028 mem=ram name=\"bootloader\"",
        "addr=0000000040200000 ",
        "addr=0000000040400000 ",
        "addr=0000000048000000 ",
    ] {
        ensure!(said.contains(place), "the monitor does not have {place:?}");
    }
    ensure!(said.contains("Exeunt 0.1.0 in 0x40200000-0x403fffff"), "Exeunt is not where the page says");
    Ok(())
}

fn modules(context: &Context) -> Outcome {
    let mut typed = Typed::start(context, "qemu.md", "modules", &[])?;
    typed.expect(PROMPT)?;
    typed.send("grep -c isolcpus=1,2 /proc/cmdline | sed 's/^/found: /'\n")?;
    typed.expect("found: 1")?;
    typed.expect(PROMPT)?;
    let said = ends_well(typed, "EL1")?;
    ensure!(said.contains("DEBUG ") && said.contains("all CPUs: exits:"), "Exeunt did not get its options");
    Ok(())
}

/// Two things in the same place: the line that the page shows.
fn overlap(context: &Context) -> Outcome {
    let there = [("addr=0x40400000", "addr=0x48000000")];
    let ended = Typed::start(context, "qemu.md", "shortest", &there)?.finish()?;
    let both = format!("{}{}", ended.stdout, ended.stderr);
    let page = fs::read_to_string(paths::root().join("docs/qemu.md"))?;
    let line =
        page.lines().find(|line| line.starts_with("EXEUNT CANNOT START: ")).ok_or("the page shows no refusal")?;
    let refused = both.contains(line) || both.contains("overlap");
    ensure!(refused, "it does not say {line:?}:\n{both}");
    Ok(())
}

fn devices(context: &Context) -> Outcome {
    let commands = block("qemu.md", "drivers")? + &block("qemu.md", "devices")?;
    let mut typed = Typed::run(context, &commands)?;
    typed.expect(PROMPT)?;
    for line in block("qemu.md", "inside")?.lines() {
        typed.ask(&format!("{line} && echo $((6 * 7)) done"))?;
    }
    let said = ends_well(typed, "EL2")?;
    ensure!(said.matches("42 done").count() == 3, "a command in the guest failed");
    ensure!(said.contains("/dev/vda"), "the disk is not mounted");
    ensure!(said.contains("lease of 10.0.2.15 obtained"), "the network gives no address");
    Ok(())
}

fn tree(context: &Context) -> Outcome {
    let mut typed = Typed::start(context, "qemu.md", "tree", &[])?;
    typed.expect(PROMPT)?;
    typed.send("grep -c my,machine /proc/device-tree/compatible | sed 's/^/found: /'\n")?;
    typed.expect("found: 1")?;
    typed.expect(PROMPT)?;
    ends_well(typed, "EL2")?;
    Ok(())
}

/// The program `name` of a loader: the machine's own, or the one of another release of Debian that set-up has unpacked.
fn loader(file: &Path) -> Result<&Path, Missed> {
    ensure!(file.exists(), "{} is not there: run scripts/setup test-all", file.display());
    Ok(file)
}

/// Debian's package u-boot-qemu, as docs/u-boot.md names it.
const U_BOOT: &str = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";

/// U-Boot's prompt, from which everything is typed line by line.
fn u_boot_typed(context: &Context, program: &Path) -> Outcome {
    let disk = block("u-boot.md", "disk")?;
    let machine = block("u-boot.md", "machine")?.replace(U_BOOT, &loader(program)?.display().to_string());
    let mut typed = Typed::run(context, &(disk + &machine))?;
    typed.expect("Hit any key to stop autoboot")?;
    typed.send("\n")?;
    typed.expect("=> ")?;
    let lines = block("u-boot.md", "prompt")?;
    let (last, lines) = lines
        .lines()
        .collect::<Vec<_>>()
        .split_last()
        .map(|(last, lines)| (last.to_string(), lines.to_vec()))
        .ok_or("no lines")?;
    for line in lines {
        typed.send(&format!("{line}\n"))?;
        typed.expect("=> ")?;
    }
    typed.send(&format!("{last}\n"))?;
    typed.expect(PROMPT)?;
    let said = ends_well(typed, "EL2")?;
    ensure!(said.contains("Exeunt 0.1.0 in 0x40400000-0x405fffff"), "Exeunt is not where it was loaded");
    Ok(())
}

/// A script on the disk, which U-Boot finds without anybody.
fn u_boot_script(context: &Context, program: &Path) -> Outcome {
    let script = context.directory()?.join("boot.cmd");
    fs::write(&script, block("u-boot.md", "script")?)?;
    let disk = block("u-boot.md", "disk")?;
    let boot_scr = block("u-boot.md", "mkimage")?;
    ensure!(boot_scr.contains(" boot.cmd "), "docs/u-boot.md: mkimage reads no boot.cmd");
    let boot_scr = boot_scr.replace("boot.cmd", &script.display().to_string());
    let machine = block("u-boot.md", "machine")?.replace(U_BOOT, &loader(program)?.display().to_string());
    let mut typed = Typed::run(context, &(disk + &boot_scr + &machine))?;
    typed.expect(PROMPT)?;
    ends_well(typed, "EL2")?;
    Ok(())
}

/// The initrd as U-Boot gives it to a Linux.
fn u_boot_initrd(context: &Context) -> Outcome {
    let mut typed = Typed::run(context, &(block("u-boot.md", "disk")? + &block("u-boot.md", "machine")?))?;
    typed.expect("Hit any key to stop autoboot")?;
    typed.send("\n")?;
    typed.expect("=> ")?;
    let whole = block("u-boot.md", "prompt")?;
    let module: Vec<&str> =
        whole.lines().filter(|line| !line.contains("module@initrd") && !line.starts_with("booti")).collect();
    let last = block("u-boot.md", "initrd")?;
    for line in module {
        typed.send(&format!("{line}\n"))?;
        typed.expect("=> ")?;
    }
    typed.send(&last)?;
    typed.expect(PROMPT)?;
    ends_well(typed, "EL2")?;
    Ok(())
}

/// What firmware of EDK2's and GRUB say to an image that is no EFI program: the words of docs/efi.md.
fn efi(context: &Context, name: &str, steps: &[(&str, &str)]) -> Outcome {
    let firmware = paths::target().join("loaders/13/usr/share/qemu-efi-aarch64/QEMU_EFI.fd");
    loader(&firmware)?;
    let commands = block("efi.md", "disk")? + &block("efi.md", name)?;
    let mut typed = Typed::run(context, &commands)?;
    for (prompt, line) in steps {
        typed.expect(prompt)?;
        typed.send(line)?;
    }
    let words = block("efi.md", &format!("{name}-says"))?;
    typed.expect(words.lines().last().unwrap_or_default())?;
    let said = typed.quit()?;
    for line in words.lines() {
        ensure!(said.contains(line), "{name} does not say {line:?}");
    }
    Ok(())
}

/// Another machine than virt, by the block of docs/machines.md.
fn other_machine(context: &Context, name: &str) -> Outcome {
    let mut typed = Typed::start(context, "machines.md", name, &[])?;
    typed.expect("Exeunt 0.1.0 in 0x200000-0x3fffff: 2 CPUs")?;
    typed.expect(PROMPT)?;
    look(&mut typed, "EL2")?;
    typed.power_off()?;
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let old = || PathBuf::from(U_BOOT);
    let new = || paths::target().join("loaders/13/usr/lib/u-boot/qemu_arm64/u-boot.bin");
    let mut cells = vec![
        Cell::new("loaders/qemu-shortest", shortest),
        Cell::new("loaders/u-boot-script", move |context| u_boot_script(context, &old())),
    ];
    let slow = vec![
        Cell::new("loaders/qemu-modules", modules),
        Cell::new("loaders/qemu-overlap", overlap),
        Cell::new("loaders/qemu-devices", devices),
        Cell::new("loaders/qemu-tree", tree),
        Cell::new("loaders/machine-zcu102", |context| other_machine(context, "zcu102")),
        Cell::new("loaders/machine-versal", |context| other_machine(context, "versal")),
        Cell::new("loaders/u-boot-typed", move |context| u_boot_typed(context, &old())),
        Cell::new("loaders/u-boot-initrd", u_boot_initrd),
        Cell::new("loaders/u-boot-2025.01-typed", move |context| u_boot_typed(context, &new())),
        Cell::new("loaders/u-boot-2025.01-script", move |context| u_boot_script(context, &new())),
        Cell::new("loaders/efi-shell", |context| {
            efi(context, "shell", &[("Shell> ", "fs0:\r"), ("FS0:", "load exeunt.efi\r"), ("FS0:", "exeunt.efi\r")])
        }),
        Cell::new("loaders/efi-grub", |context| {
            let root = "search --set=root --file /exeunt.efi\r";
            let lines = [("grub> ", root), ("grub> ", "linux /exeunt.efi\r"), ("grub> ", "chainloader /exeunt.efi\r")];
            let last = ("grub> ", "xen_hypervisor /exeunt.efi\r");
            efi(context, "grub", &[&lines[..], &[last]].concat())
        }),
    ];
    cells.extend(slow.into_iter().map(|cell| cell.slow(true)));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_their_names() {
        let page = "# A\n\n```\nnone\n```\n\n```sh one\na\nb\n```\ntext\n```sh\nno name\n```\n```u-boot two\nc\n```\n";
        let all: Vec<_> = blocks(page).collect();
        assert_eq!(all, [("one", "a\nb\n".to_owned()), ("two", "c\n".to_owned())]);
    }

    #[test]
    fn every_block_with_a_name_is_there_once() {
        for page in ["qemu.md", "u-boot.md", "efi.md", "machines.md"] {
            let text = fs::read_to_string(paths::root().join("docs").join(page)).unwrap();
            for (name, _) in blocks(&text) {
                assert!(block(page, name).is_ok(), "{page}: {name}");
            }
        }
    }
}
