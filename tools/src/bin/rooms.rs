//! Command line of [`exeunt_tools::rooms`]: the tower of the image as docs/code.md draws it and what each room in it
//! needs, circles and arrows upward if there are any, and lines of code by part.
//!
//! Returns 0 if all is in order, 1 if not (it says what), 2 if something cannot be read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use exeunt_tools::rooms::{Rooms, Tower, files_below, is_test};
use exeunt_tools::source::{Count, count, count_script};

/// The parts, each with the endings of its files; scripts have none.
const PARTS: [(&str, &[&str]); 10] = [
    ("boot", &["rs"]),
    ("guest-abi", &["rs"]),
    ("hypervisor", &["rs"]),
    ("exeunt", &["rs"]),
    ("tests/guests", &["rs"]),
    ("tests/harness", &["rs"]),
    ("tests/user", &["rs"]),
    ("tests/module", &["c", "h"]),
    ("tools", &["rs"]),
    ("scripts", &["", "sh"]),
];

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    match show(root) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("rooms: {why}");
            ExitCode::from(2)
        }
    }
}

/// Prints everything; whether all is in order.
fn show(root: &Path) -> Result<bool, String> {
    let page = root.join("docs/code.md");
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let rooms = |path: &str| Rooms::read(&root.join(path)).map_err(|error| format!("{path}: {error}"));
    let tower = Tower::drawn(&read(&page)?).ok_or("docs/code.md draws no tower")?;
    let image = rooms("exeunt/src")?;

    println!("the image, from the top, and what each room needs:");
    for (floor, rooms) in tower.floors() {
        for (index, room) in rooms.iter().enumerate() {
            println!("  {:<9} {:<12} {}", if index == 0 { floor } else { "" }, room, image.needs(room));
        }
    }
    let breaches: Vec<String> = image.against(&tower).iter().map(ToString::to_string).collect();
    let mut fine = say("against the order", &breaches);
    for (name, rooms) in [("exeunt", image), ("hypervisor", rooms("hypervisor/src")?), ("boot", rooms("boot/src")?)] {
        let circles: Vec<String> = rooms.circles().iter().map(ToString::to_string).collect();
        fine &= say(&format!("circles in {name}"), &circles);
    }

    println!("lines without comments and blanks:  code   tests");
    for (part, endings) in PARTS {
        let Count { code, tests } =
            count_part(&root.join(part), endings).map_err(|error| format!("{part}: {error}"))?;
        println!("  {part:<33} {code:>5} {tests:>7}");
    }
    Ok(fine)
}

/// A line that says that there is nothing, or what there is.
fn say(what: &str, found: &[String]) -> bool {
    println!("{what}: {}", if found.is_empty() { "none".to_owned() } else { found.join("; ") });
    found.is_empty()
}

fn count_part(directory: &Path, endings: &[&str]) -> io::Result<Count> {
    let mut sum = Count::default();
    for path in files_below(directory, endings)? {
        let text = fs::read_to_string(&path)?;
        let here = if endings.contains(&"sh") { count_script(&text) } else { count(&text) };
        if is_test(&below(&path, directory)) {
            sum.tests += here.code + here.tests;
        } else {
            sum.code += here.code;
            sum.tests += here.tests;
        }
    }
    Ok(sum)
}

fn below(path: &Path, directory: &Path) -> PathBuf {
    path.strip_prefix(directory).unwrap_or(path).to_owned()
}
