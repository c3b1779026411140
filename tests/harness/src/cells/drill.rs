//! Some cells of the drill (`make drill`), through the same scripts as people use.

use crate::cell::Cell;
use crate::drill::{self, Verdict};
use crate::ensure;

pub(super) fn cells() -> Vec<Cell> {
    let cell = |cell: drill::Cell| {
        Cell::new(format!("drill/{cell}"), move |_| {
            let result = cell.run();
            ensure!(result.verdict == Verdict::Pass, "{} (files: {})", result.why, cell.directory().display());
            Ok(())
        })
    };
    drill::quick().into_iter().map(cell).collect()
}
