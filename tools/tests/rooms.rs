//! The sources as they stand: the image's files keep to the order of the tower in docs/code.md, nothing needs itself in
//! a circle, and test code has a name that says so. `tools/src/rooms.rs` has its own tests with planted faults.

#[allow(dead_code, reason = "nothing here looks at a build")]
mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::root;
use exeunt_tools::rooms::{Rooms, Tower, files_below, is_test};
use exeunt_tools::source::Source;

fn rooms(crate_: &str) -> Rooms {
    Rooms::read(&root().join(crate_).join("src")).expect("the sources can be read")
}

/// Fails with all of `found`, one a line.
fn none<T: ToString>(what: &str, found: &[T]) {
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{what}:\n{}", lines.join("\n"));
}

#[test]
fn the_image_keeps_to_the_order_of_its_tower() {
    let page = fs::read_to_string(root().join("docs/code.md")).expect("docs/code.md is there");
    let tower = Tower::drawn(&page).expect("docs/code.md draws the tower");
    assert!(tower.floors().count() > 3);
    none("against the tower in docs/code.md", &rooms("exeunt").against(&tower));
}

#[test]
fn nothing_needs_itself_in_a_circle() {
    for crate_ in ["boot", "guest-abi", "hypervisor", "exeunt"] {
        let rooms = rooms(crate_);
        assert!(rooms.iter().count() > 3, "{crate_} has hardly any files");
        none(&format!("circles in {crate_}"), &rooms.circles());
    }
}

/// Files below `tests/` or called `tests.rs` are the tests' alone, and all others are built. That is what a reader goes
/// by, and the counting of lines.
#[test]
fn test_code_is_called_so() {
    for crate_ in ["boot", "guest-abi", "hypervisor", "exeunt", "tools"] {
        let sources = root().join(crate_).join("src");
        let mut wrong = Vec::new();
        for path in files_below(&sources, &["rs"]).expect("the sources can be read") {
            let below: PathBuf = path.strip_prefix(&sources).unwrap_or(&path).to_owned();
            let text = fs::read_to_string(&path).expect("a source file can be read");
            if is_test(Path::new(&below)) {
                continue;
            }
            let others = Source::new(&text).test_modules.into_iter().filter(|name| name != "tests");
            wrong.extend(others.map(|name| format!("{}: mod {name}", path.display())));
        }
        none("test code under an ordinary name", &wrong);
    }
}
