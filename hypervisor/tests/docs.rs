//! Keeps `docs/options.md` the same as the table that the parser works with.
//!
//! `UPDATE_DOCS=1 cargo test -p hypervisor --test docs` writes the file anew.

#[path = "../../guest-abi/tests/rendered/mod.rs"]
mod rendered;

use std::fmt::Write as _;

use hypervisor::options::OPTIONS;

const HEAD: &str = "\
# Exeunt's own options

They ride on Exeunt's own command line, `/chosen/bootargs` of the device tree that the loader gives (QEMU: `-append`;
`make run EXEUNT='...'`), separated by spaces. The host's command line is that of its module, and Exeunt does not look
at it. An unknown option or value is an error: the machine goes off with a list of those that are known.

| option | what it does |
|---|---|
";

fn page() -> String {
    let mut page = String::from(HEAD);
    for option in OPTIONS {
        if option.values.is_empty() {
            writeln!(page, "| `{}` | {} |", option.name, option.help).expect("a string has room");
        }
        for (index, value) in option.values.iter().enumerate() {
            let help =
                if index == 0 { format!("{}: {}", option.help, value.help) } else { format!("... {}", value.help) };
            writeln!(page, "| `{}={}` | {help} |", option.name, value.name).expect("a string has room");
        }
    }
    page
}

#[test]
fn options_page_is_current() {
    rendered::assert_current("docs/options.md", &page());
}
