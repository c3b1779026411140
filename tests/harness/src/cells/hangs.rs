//! A Linux that Exeunt has made to panic, by `exeunt panic`: on the CPU that asks, and on one that hangs; one whose
//! crash kernel Exeunt has started in its place; one that nobody asks, where the watchdog finds who hangs; and one that
//! somebody asks from outside.
//!
//! What the dump then has `make kdump` compares. PANIC itself is the guest `panics`' (`guests/panics-...`).

use std::fs;

use super::restarts::passes;
use crate::cell::{Cell, Context, Outcome};
use crate::ensure;
use crate::machine::Entry;

/// The one that is not slow: there is no dump to write.
const QUICK: (&str, &str, &str) = ("6.1", "hung-early", "el1");

/// Without it a busy workstation lets ticks come late, after which the watchdog begins anew.
const IN_VIRTUAL_TIME: &str = "-icount shift=5,sleep=off";

/// The statuses of a run that ends by a reset, and at its time limit (docs/running.md).
const RESET: i32 = 126;
const TIME_IS_UP: i32 = 124;

/// A host that spins from its first instruction on, with its MMU off, cannot panic: Exeunt gives it up, and the machine
/// is reset if its command line has `panic=`, or stands still.
fn with_mmu_off(context: &Context, gic: u32, is_reset: bool) -> Outcome {
    // An Image (Linux, Documentation/arch/arm64/booting.rst) whose first word is a branch to itself.
    let mut image = vec![0_u8; 0x1_0000];
    for (at, bytes) in [(0, &0x1400_0000_u32.to_le_bytes()[..]), (16, &0x1_0000_u64.to_le_bytes()), (56, b"ARM\x64")] {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    image[24] = 0b1010; // little-endian, pages of 4 KiB, anywhere in RAM
    let file = context.directory()?.join("spins");
    fs::write(&file, image)?;
    let machine = context.machine().with("KERNEL", file.display()).with("INITRD", "none").with("SMP", 2);
    let machine =
        machine.with_qemu(IN_VIRTUAL_TIME).with("GIC", gic).with("APPEND", if is_reset { "panic=1" } else { "quiet" });
    let ran = machine.entered(Entry::El1, "watchdog=2").limit(if is_reset { 120 } else { 45 }).run()?;
    let (status, end) = if is_reset { (RESET, "is reset, as panic= says") } else { (TIME_IS_UP, "stands still") };
    ensure!(ran.status == status, "the machine ended with {}", ran.status);
    let ran = ran.says("CPU 0: hangs, with its MMU off")?.says(end)?;
    ensure!(ran.console.matches("gives the host up").count() == 1, "the host is given up more than once");
    Ok(())
}

/// A kexec at EL1 on a slow machine: the next kernel has its interrupts masked for longer than the watchdog's time,
/// and the last one has left a timer that expires meanwhile. No purgatory comes in between, whose sums would take long
/// enough, with the MMU off, for a tick to see it.
fn slow_kexec(context: &Context, gic: &'static str) -> Outcome {
    let slowly = ("QEMU_EXTRA", "-icount shift=7,sleep=off");
    let machine = [("ROUNDS", "1"), ("ENTRY", "el1"), ("GIC", gic), ("SMP", "2"), ("EXEUNT", "watchdog=4"), slowly];
    passes(context, "soak", &machine)
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = vec![];
    for gic in ["2", "3"] {
        let name = format!("hangs/none-in-a-slow-kexec-gic{gic}");
        cells.push(Cell::new(name, move |context| slow_kexec(context, gic)).slow(gic == "3"));
    }
    for (gic, is_reset) in [(3, true), (2, true), (3, false), (2, false)] {
        let name = format!("hangs/mmu-off-{}-gic{gic}", if is_reset { "reset" } else { "still" });
        let cell = Cell::new(name, move |context| with_mmu_off(context, gic, is_reset));
        cells.push(cell.slow((gic, is_reset) != (3, true)));
    }
    for (kernel, crash, from, entry, policy, gic) in [
        ("6.1", "panic-stuck", "1", "el2", "leave", "3"),
        ("6.12", "panic-stuck", "0", "el1", "leave", "2"),
        ("5.10", "panic-stuck", "1", "el2", "resident", "3"),
        ("testing", "panic", "0", "el1", "leave", "3"),
        ("6.1", "panic", "3", "el2", "leave", "2"),
        ("6.1", "forced-deaf", "0", "el2", "leave", "3"),
        ("6.12", "forced-deaf", "1", "el1", "leave", "2"),
        ("testing", "forced-deaf", "3", "el2", "resident", "2"),
        ("5.10", "forced", "2", "el2", "leave", "2"),
        ("6.1", "lockup", "1", "el2", "leave", "3"),
        ("6.1", "lockup", "0", "el1", "leave", "2"),
        ("testing", "lockup", "2", "el1", "leave", "3"),
        ("testing", "lockup", "1", "el2", "resident", "2"),
        ("6.1", "lockup-all", "1", "el2", "leave", "3"),
        ("testing", "lockup-all", "0", "el1", "leave", "2"),
        ("6.1", "lockup-deaf", "1", "el2", "leave", "3"),
        ("6.1", "lockup-deaf", "0", "el1", "leave", "2"),
        ("testing", "lockup-deaf", "2", "el2", "resident", "2"),
        ("testing", "lockup-deaf", "3", "el1", "leave", "3"),
        ("6.1", "lockup-break", "0", "el1", "leave", "2"),
        ("testing", "lockup-break", "1", "el2", "leave", "3"),
        ("6.1", "busy-all", "0", "el2", "leave", "3"),
        ("testing", "busy-all", "1", "el1", "leave", "2"),
        ("6.1", "hung-early", "0", "el1", "leave", "3"),
        ("6.1", "hung-early", "0", "el2", "leave", "2"),
        ("testing", "hung-early", "0", "el2", "resident", "3"),
        ("6.12", "hung-early", "0", "el1", "leave", "2"),
    ] {
        let name = format!("hangs/{crash}-{kernel}-{entry}-{policy}-gic{gic}");
        let cell = Cell::new(name, move |context| {
            let mut variables = vec![
                ("KERNEL", kernel),
                ("CRASH", crash),
                ("FROM", from),
                ("ENTRY", entry),
                ("POLICY", policy),
                ("GIC", gic),
                ("MEM", "640M"),
            ];
            if crash == "hung-early" {
                variables.extend([("EXEUNT", "watchdog=2"), ("QEMU_EXTRA", IN_VIRTUAL_TIME)]);
            }
            passes(context, "kdump", &variables)
        });
        cells.push(cell.slow((kernel, crash, entry) != QUICK));
    }
    cells
}
