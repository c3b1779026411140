//! A Linux that Exeunt has made to panic, by `exeunt panic`: on the CPU that asks, and on one that hangs; one whose
//! crash kernel Exeunt has started in its place; and one that nobody asks, where the watchdog finds who hangs.
//!
//! What the dump then has `make kdump` compares. PANIC itself is the guest `panics`' (`guests/panics-...`).

use super::restarts::passes;
use crate::cell::Cell;

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = vec![];
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
    ] {
        let name = format!("hangs/{crash}-{kernel}-{entry}-{policy}-gic{gic}");
        let cell = Cell::new(name, move |context| {
            passes(
                context,
                "kdump",
                &[
                    ("KERNEL", kernel),
                    ("CRASH", crash),
                    ("FROM", from),
                    ("ENTRY", entry),
                    ("POLICY", policy),
                    ("GIC", gic),
                    ("MEM", "640M"),
                ],
            )
        });
        cells.push(cell.slow(true));
    }
    cells
}
