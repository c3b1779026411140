//! A Linux that Exeunt has made to panic, by `exeunt panic`: on the CPU that asks, and on one that hangs; one whose
//! crash kernel Exeunt has started in its place; one that nobody asks, where the watchdog finds who hangs; and one that
//! somebody asks from outside.
//!
//! What the dump then has `make kdump` compares. PANIC itself is the guest `panics`' (`guests/panics-...`).

use super::restarts::passes;
use crate::cell::Cell;

/// The one that is not slow: there is no dump to write.
const QUICK: (&str, &str, &str) = ("6.1", "hung-early", "el1");

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
                    ("EXEUNT", if crash == "hung-early" { "watchdog=2" } else { "" }),
                ],
            )
        });
        cells.push(cell.slow((kernel, crash, entry) != QUICK));
    }
    cells
}
