//! Some cells of the drill (`make drill`), through the same scripts as people use.

use super::restarts::passes;
use crate::cell::{Cell, Context, Outcome};
use crate::drill::{self, Verdict};
use crate::ensure;

/// A dump that its disk has no room for: the guest says so, and the machine goes off all the same.
fn small_disk(context: &Context) -> Outcome {
    let ended = drill::run_script("kdump", context.directory()?, &[("DUMP_DISK", "1M".to_owned())])?;
    let last = ended.stdout.lines().last().unwrap_or_default();
    ensure!(ended.status == 1, "scripts/kdump returned {}: {last}", ended.status);
    let told = last.contains("next: the disk is too small: it has 1048576 bytes, and the dump ");
    ensure!(last.starts_with("FAIL: ") && told, "{last}");
    Ok(())
}

/// /proc/vmcore by mmap(2), as makedumpfile has it, by read(2), and by makedumpfile without mmap(2): no hole, no fault,
/// the same.
fn every_way_to_read(context: &Context) -> Outcome {
    passes(context, "kdump", &[("READ", "1")])
}

pub(super) fn cells() -> Vec<Cell> {
    let cell = |cell: drill::Cell| {
        Cell::new(format!("drill/{cell}"), move |_| {
            let result = cell.run();
            ensure!(result.verdict == Verdict::Pass, "{} (files: {})", result.why, cell.directory().display());
            Ok(())
        })
    };
    let mut cells: Vec<Cell> = drill::quick().into_iter().map(cell).collect();
    cells.push(Cell::new("drill/disk-too-small", small_disk).slow(true));
    cells.push(Cell::new("drill/every-way-to-read", every_way_to_read).slow(true));
    cells
}
