//! `make drill`: every way in which a Linux ends, and what became of it. A line for each cell, a table at the end, the same as a page
//! in target/drill/index.html. Ends with 1 if a cell failed that bare QEMU passes.
//!
//! Arguments: parts of names; those cells only. `--list` names all.

use std::env;
use std::fs;
use std::process::ExitCode;

use harness::drill::{self, Verdict};
use harness::paths;

fn main() -> ExitCode {
    let (options, parts): (Vec<String>, Vec<String>) = env::args().skip(1).partition(|word| word.starts_with('-'));
    let mut cells = drill::quick();
    for cell in drill::matrix() {
        if !cells.contains(&cell) {
            cells.push(cell);
        }
    }
    cells.retain(|cell| parts.is_empty() || parts.iter().any(|part| cell.to_string().contains(part.as_str())));
    if cells.is_empty() || options.iter().any(|option| option != "--list") {
        eprintln!("usage: drill [--list] [PART-OF-A-NAME...]; there is no such cell or option");
        return ExitCode::from(2);
    }
    if !options.is_empty() {
        for cell in cells {
            println!("{cell}");
        }
        return ExitCode::SUCCESS;
    }

    let index = paths::target().join("drill/index.html");
    let count = cells.len();
    let mut results = Vec::new();
    for (number, cell) in cells.into_iter().enumerate() {
        eprintln!("[{}/{count}] {cell} ...", number + 1);
        let result = cell.run();
        eprintln!("[{}/{count}] {cell} {} in {} s", number + 1, result.verdict, result.seconds);
        results.push((cell, result));
        // After each cell, so that there is something to look at.
        if let Err(error) = fs::write(&index, drill::page(&results)) {
            eprintln!("{}: {error}", index.display());
        }
    }
    let failed = results.iter().filter(|(_, result)| result.verdict == Verdict::Fail).count();
    for (cell, result) in &results {
        println!("{:5} {cell:64} {:5} s  {}", result.verdict.to_string(), result.seconds, result.why);
    }
    println!("{} cells, {failed} failed; {}", results.len(), index.display());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
