//! Command line of [`exeunt_tools::lab`], for `scripts/lab`: what came of a lab.
//!
//!     lab judge CONSOLE
//!     lab answers ANSWERS CONSOLE NAMES
//!     lab death REPORT DMESG
//!
//! Prints a line; returns 0 if the lab is solved, 1 if it is not, 2 if something cannot be read.

use std::env;
use std::fs;
use std::process::ExitCode;

use exeunt_tools::lab::{self, Verdict};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let read = |path: &str| {
        let bytes = fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let verdict = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["judge", console] => read(console).map(|console| lab::judge(&console)),
        ["answers", answers, console, names] => read(answers)
            .and_then(|answers| Ok((answers, read(console)?, read(names)?)))
            .map(|(answers, console, names)| lab::judge_answers(&answers, &console, &names)),
        // Without a dump there is no second file.
        ["death", report, dmesg] => {
            read(report).map(|report| lab::judge_death(&report, &read(dmesg).unwrap_or_default()))
        }
        _ => Err("usage: lab judge CONSOLE | answers ANSWERS CONSOLE NAMES | death REPORT DMESG".to_owned()),
    };
    match verdict {
        Ok(verdict) => {
            println!("lab: {verdict}");
            if matches!(verdict, Verdict::Solved(_)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("lab: {why}");
            ExitCode::from(2)
        }
    }
}
