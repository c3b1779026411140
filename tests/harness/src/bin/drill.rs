//! `make drill`: every way in which a Linux ends, and what became of it. A line for each cell, a table at the end, the
//! same as a page in target/drill/index.html. Ends with 1 if a cell failed that bare QEMU passes. Two cells run at a
//! time.
//!
//! Arguments: parts of names; those cells only. `--list` names all. After `--given` comes the list of the variables
//! that make was given, so that one that the drill does not take is refused. JUNIT=FILE has the results for programs.

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use harness::drill::{self, Cell, Verdict};
use harness::paths;
use runner::report::{self, Case, CaseEnd};
use runner::variables::{Target, Values};

/// Machines at a time: one of them seldom keeps more than one CPU of this machine busy.
const AT_A_TIME: usize = 2;

/// Runs the cells, and returns what came of each, in their order. The page grows with each, so that there is something
/// to look at.
fn run(cells: &[Cell], index: &Path) -> Vec<(Cell, drill::Result)> {
    let queue = Mutex::new(cells.iter().enumerate());
    let results = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, cell)) = next else { break };
            let place = format!("[{}/{}] {cell}", number + 1, cells.len());
            eprintln!("{place} ...");
            let result = cell.run();
            eprintln!("{place} {} in {} s", result.verdict, result.seconds);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((number, (cell.clone(), result)));
            results.sort_by_key(|(number, _)| *number);
            let so_far: Vec<_> = results.iter().map(|(_, result)| result.clone()).collect();
            if let Err(error) = fs::write(index, drill::page(&so_far)) {
                eprintln!("{}: {error}", index.display());
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(work);
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().map(|(_, result)| result).collect()
}

/// The results for a JUnit file. What fails on bare QEMU too is nothing that this project could pass.
fn cases(results: &[(Cell, drill::Result)]) -> Vec<Case> {
    let case = |(cell, result): &(Cell, drill::Result)| Case {
        name: cell.to_string(),
        took: Duration::from_secs(result.seconds),
        end: match result.verdict {
            Verdict::Pass => CaseEnd::Passed,
            Verdict::Alike => CaseEnd::Skipped(result.why.clone()),
            Verdict::Fail => CaseEnd::Failed(result.why.clone()),
        },
        output: String::new(),
    };
    results.iter().map(case).collect()
}

fn main() -> ExitCode {
    let mut words: Vec<String> = env::args().skip(1).collect();
    // The names of the variables that make was given.
    let given = words.iter().position(|word| word == "--given").map(|at| words.drain(at..).nth(1).unwrap_or_default());
    let given = given.unwrap_or_default();
    let (options, parts): (Vec<String>, Vec<String>) = words.into_iter().partition(|word| word.starts_with('-'));
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

    let values = match Values::read(Target::Drill, given.split_whitespace(), |name| env::var(name).ok()) {
        Ok(values) => values,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    let index = paths::target().join("drill/index.html");
    let results = run(&cells, &index);
    let failed = results.iter().filter(|(_, result)| result.verdict == Verdict::Fail).count();
    for (cell, result) in &results {
        println!("{:5} {cell:64} {:5} s  {}", result.verdict.to_string(), result.seconds, result.why);
    }
    if let Some(file) = values.get("JUNIT")
        && let Err(error) = report::write_junit(file.as_ref(), "drill", &cases(&results))
    {
        eprintln!("{error}");
        return ExitCode::from(2);
    }
    println!("{} cells, {failed} failed; {}", results.len(), index.display());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
