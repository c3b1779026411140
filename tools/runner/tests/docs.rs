//! docs/running.md has the table of the variables as the runner knows them.

use std::fmt::Write as _;

use runner::variables::{Target, VARIABLES};

/// The table, as it has to stand there.
fn table() -> String {
    let mut table = "| variable | what it takes | what for | where |\n|---|---|---|---|\n".to_owned();
    for variable in VARIABLES {
        let of: Vec<&str> = variable.of.iter().map(|target: &Target| target.name()).collect();
        let _ =
            writeln!(table, "| `{}=` | {} | {} | {} |", variable.name, variable.takes, variable.help, of.join(", "));
    }
    table
}

#[test]
fn the_page_has_every_variable() {
    let page = include_str!("../../../docs/running.md");
    let table = table();
    assert!(page.contains(&table), "docs/running.md needs this table:\n\n{table}");
}
