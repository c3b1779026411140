//! docs/running.md has the tables of the variables and of the ways to die as the runner knows them.

use std::fmt::Write as _;

use runner::variables::{Target, VARIABLES};
use runner::ways::{Bare, NotRealtime, WAYS};

/// The table of the variables, as it has to stand there.
fn variables() -> String {
    let mut table = "| variable | what it takes | what for | where |\n|---|---|---|---|\n".to_owned();
    for variable in VARIABLES {
        let of: Vec<&str> = variable.of.iter().map(|target: &Target| target.name()).collect();
        let _ =
            writeln!(table, "| `{}=` | {} | {} | {} |", variable.name, variable.takes, variable.help, of.join(", "));
    }
    table
}

/// That of the ways to die.
fn ways() -> String {
    let mut table = "| `CRASH=` | how the host dies | the bare machine's dump |\n|---|---|---|\n".to_owned();
    for way in &WAYS {
        let bare = match way.bare {
            Bare::Same => "the same",
            Bare::Less => "lacks CPUs",
            Bare::Lost => "none",
            Bare::Impossible => "does not apply",
        };
        let not = way.not_realtime.as_ref().map_or(String::new(), |NotRealtime { from: (first, second), why }| {
            let from = if *first == 0 { String::new() } else { format!(" from {first}.{second} on") };
            format!(". Not with `CONFIG_PREEMPT_RT`{from}: {why}")
        });
        let _ = writeln!(table, "| `{}` | {}{not} | {bare} |", way.name, way.what);
    }
    table
}

#[test]
fn the_page_has_every_variable() {
    let page = include_str!("../../../docs/running.md");
    for table in [variables(), ways()] {
        assert!(page.contains(&table), "docs/running.md needs this table:\n\n{table}");
    }
}
