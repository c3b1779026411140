//! Where Exeunt's log goes: to UARTs of other kinds than that of QEMU's virt, and where there is none that can be used,
//! to memory alone, from which LOG_READ has it.

use super::bad_input::{ELSEWHERE, shimmed};
use crate::cell::{Cell, Context, Outcome};
use crate::{ensure, images};

/// Where virt has its UART, whatever the tree says.
const UART: u64 = 0x0900_0000;

/// Exeunt starts its guest without a word, and what it had to say is in the log, with `reason`.
fn silent(context: &Context, spoil: &str, reason: &str) -> Outcome {
    let machine = context.machine().guest(&images::guest("log")?, &format!("uart={UART:#x}"));
    let ran = shimmed(machine, ELSEWHERE, spoil)?.limit(120).run()?.ended_with(0)?;
    let said: Vec<&str> = ran.console.lines().filter(|line| line.starts_with("[exeunt")).collect();
    ensure!(said.is_empty(), "it says on a UART:\n{}", said.join("\n"));
    for text in ["INFO  Exeunt 0.1.0 in 0x44000000-0x441fffff", reason, "INFO  the host: kernel at "] {
        let found = ran.console.lines().any(|line| line.starts_with("log: [exeunt") && line.contains(text));
        ensure!(found, "LOG_READ has no line with {text:?}");
    }
    Ok(())
}

/// Places where no UART can be, and why. Virt has a cortex-a57: physical addresses have 44 bits.
const PLACES: [(&str, u64, &str); 11] = [
    ("ram", 0x7000_0000, "at 0x70000000, which is in RAM"),
    ("the-kernel", 0x4040_0000, "at 0x40400000, which is in RAM"),
    ("the-tree", 0x4800_0000, "at 0x48000000, which is in the device tree"),
    ("exeunt", ELSEWHERE, "at 0x44000000, which is in Exeunt's memory"),
    ("the-first-page-of-ram", 0x3fff_fff0, "at 0x3ffffff0, which is in RAM"),
    ("an-odd-place", UART + 1, "at 0x9000001, which is not a multiple of 0x4"),
    ("a-hole", 0x0b00_0000, "nothing answers at 0xb000000-0xb000fff"),
    ("two-pages", UART + 0xff0, "nothing answers at 0x9000000-0x9001fff"),
    ("a-hole-above-40-bits", 0x200_0900_0000, "nothing answers at 0x20009000000-0x20009000fff"),
    ("no-address-of-the-cpu", 1 << 44, "at 0x100000000000, which is beyond what this CPU"),
    ("the-last-page", !0xfff, "at 0xfffffffffffff000, which is beyond what this CPU"),
];

pub(super) fn cells() -> Vec<Cell> {
    let mut cells: Vec<Cell> = PLACES
        .into_iter()
        .map(|(name, address, reason)| {
            let test = move |context: &Context| silent(context, &format!("uart-at={address:#x}"), reason);
            Cell::new(format!("console/uart-in-{name}"), test)
        })
        .collect();
    for (name, spoil) in [
        ("of-an-unknown-kind", "replace=arm,pl011:arm,pl999"),
        ("that-is-not-named", "replace=stdout-path:stdout-pith"),
    ] {
        let test = move |context: &Context| silent(context, spoil, "stdout-path names no UART that is known");
        cells.push(Cell::new(format!("console/uart-{name}"), test));
    }
    cells
}
