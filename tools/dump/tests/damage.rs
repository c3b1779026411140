//! Damaged and truncated files: an answer, or an error in words; never a crash, and never long.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{RAM, Random, damage, directory, elf, flattened, kdump, memory};
use dump::{Options, find, python};
use view::fixture::{ADDRESS, EXEUNT, crash};
use view::{Report, Trace};

/// What no file of these may take.
const LONG: Duration = Duration::from_secs(20);

/// Looks for a box in `rounds` damaged copies. Returns in how many there still was one.
fn survive(name: &str, whole: &[u8], header: usize, rounds: u64, python: &Path) -> u64 {
    let file = directory(name).join("dump");
    let options = Options { python: python.to_owned(), ..Options::default() };
    let mut found = 0;
    for round in 0..rounds {
        let mut bytes = whole.to_owned();
        damage(&mut bytes, &mut Random(round + 1), header);
        fs::write(&file, &bytes).unwrap();
        let begin = Instant::now();
        match find(&file, &options) {
            Ok(of) => {
                found += 1;
                let of = of.black_box();
                let report = Report::of(&of);
                assert!(!report.to_string().is_empty() && !Trace::Perfetto.make(&of).is_empty());
                assert!(!Trace::Html.make(&of).is_empty());
            }
            Err(error) => assert!(error.len() > 20 && error.len() < 20_000, "round {round}: {error}"),
        }
        assert!(begin.elapsed() < LONG, "round {round} took {} s", begin.elapsed().as_secs());
    }
    found
}

/// Exeunt's 2 MiB and a bit, so that a round is quick.
fn small() -> Vec<u8> {
    let bytes = memory(&crash());
    let own = (EXEUNT - RAM) as usize;
    bytes[own..own + (2 << 20) + 4096].to_vec()
}

#[test]
fn of_an_elf() {
    let bytes = small();
    let split = (ADDRESS - EXEUNT) as usize;
    let whole = elf(&[(EXEUNT, &bytes[..split]), (ADDRESS, &bytes[split..])]);
    let found = survive("damage-elf", &whole, 64 + 2 * 56, 1500, &python());
    assert!((100..1400).contains(&found), "{found}");
}

#[test]
fn of_a_box() {
    let whole = crash().build();
    // The header of its core, and all before it.
    let found = survive("damage-box", &whole, whole.len(), 1500, &python());
    assert!((100..1400).contains(&found), "{found}");
}

/// The part of the format that is read here. drgn is not asked: there is no such Python.
#[test]
fn of_what_makedumpfile_writes() {
    let whole = kdump(&memory(&crash()), |address| (EXEUNT..EXEUNT + (1 << 16)).contains(&address));
    let nobody = Path::new("/nowhere/python");
    assert_eq!(survive("damage-kdump", &whole, 8192, 500, nobody), 0);
    assert_eq!(survive("damage-flattened", &flattened(&whole), 4096 + 16, 500, nobody), 0);
}

/// The same for longer, and with drgn.
#[test]
#[ignore = "takes ten minutes"]
fn for_longer() {
    let whole = elf(&[(EXEUNT, &small())]);
    survive("damage-elf-long", &whole, 64 + 56, 30_000, &python());
    let whole = crash().build();
    survive("damage-box-long", &whole, whole.len(), 30_000, &python());
    let whole = kdump(&memory(&crash()), |address| (EXEUNT..EXEUNT + (2 << 20)).contains(&address));
    survive("damage-kdump-long", &whole, whole.len(), 300, &python());
    survive("damage-flattened-long", &flattened(&whole), whole.len(), 300, &python());
}
