//! Damaged and truncated files: an answer, or an error in words; never a crash, and never long.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{RAM, Random, damage, directory, elf, flattened, kdump, memory};
use dump::kdump::Kdump;
use dump::{Memory, Options, find, python};
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

/// A header with such numbers of blocks in its bitmaps, in a file that is as long as that, and a byte in the second.
fn with_bitmaps(file: &Path, length: u64, byte: (u64, u8)) {
    const BLOCK: u64 = 4096;
    let mut header = kdump(&[], |_| true)[..2 * BLOCK as usize].to_vec();
    header[436..440].copy_from_slice(&((2 * length / BLOCK) as u32).to_le_bytes());
    let file = File::create(file).unwrap();
    file.set_len((2 * BLOCK + 2 * length).min(1 << 30)).unwrap();
    file.write_all_at(&header, 0).unwrap();
    file.write_all_at(&[byte.1], 2 * BLOCK + length + byte.0).unwrap();
}

#[test]
fn of_a_machine_with_its_ram_far_up() {
    let file = directory("damage-far").join("dump");
    // A page at 4 TiB.
    with_bitmaps(&file, 256 << 20, ((4_u64 << 40) / 4096 / 8, 1));
    let nobody = Path::new("/nowhere/python");
    let open = || Kdump::open(&file, File::open(&file).unwrap(), nobody);
    assert_eq!(open().unwrap().places(), [4 << 40]);
    with_bitmaps(&file, 1 << 30, (0, 1));
    assert!(open().unwrap_err().contains("a bitmap of 1073741824 bytes"));
    // No file is so short and has so many pages.
    with_bitmaps(&file, 256 << 20, (0, 1));
    File::options().write(true).open(&file).unwrap().set_len(100 << 20).unwrap();
    assert!(open().unwrap_err().contains("cut off"));
    // It is mostly holes, but not to each program that copies a tree.
    fs::remove_file(&file).unwrap();
}

#[test]
fn of_a_bitmap_that_names_every_page() {
    let directory = directory("damage-ones");
    let file = directory.join("dump");
    let mut whole = kdump(&memory(&crash()), |_| true);
    let bitmap = 8192 + (whole.len() - 8192).min(1 << 16);
    whole[8192..bitmap].fill(0xff);
    whole[436..440].copy_from_slice(&16_u32.to_le_bytes());
    whole.truncate(bitmap);
    fs::write(&file, &whole).unwrap();
    let opened = Kdump::open(&file, File::open(&file).unwrap(), Path::new("/nowhere/python")).unwrap();
    assert_eq!(opened.places().len(), whole.len() / 24);
    assert!(opened.complaint().is_some_and(|words| words.contains("past its end")));
}

/// More segments than a program header has room to count (PN_XNUM), each with a place of its own.
#[test]
fn of_an_elf_with_many_segments() {
    const SEGMENTS: u32 = 400_000;
    let mut whole = elf(&[(RAM, &[])]);
    let program = whole[64..64 + 56].to_vec();
    whole.truncate(64);
    for number in 0..u64::from(SEGMENTS) {
        let mut program = program.clone();
        program[8..16].copy_from_slice(&number.to_le_bytes());
        program[24..32].copy_from_slice(&(RAM + (number << 16)).to_le_bytes());
        program[32..40].copy_from_slice(&8_u64.to_le_bytes());
        whole.extend(program);
    }
    let sections = whole.len() as u64;
    let mut section = [0; 64];
    section[44..48].copy_from_slice(&SEGMENTS.to_le_bytes());
    whole.extend(section);
    whole[40..48].copy_from_slice(&sections.to_le_bytes());
    for (place, value) in [(56, 0xffff_u16), (58, 64), (60, 1)] {
        whole[place..place + 2].copy_from_slice(&value.to_le_bytes());
    }
    let file = directory("damage-segments").join("dump");
    fs::write(&file, &whole).unwrap();
    let begin = Instant::now();
    let error = find(&file, &Options::default()).unwrap_err();
    assert!(error.contains("none of 400000 places has one"), "{error}");
    assert!(begin.elapsed() < LONG, "{} s", begin.elapsed().as_secs());
}

// The same for longer, and with drgn.

#[test]
#[ignore = "takes minutes"]
fn of_an_elf_for_longer() {
    let whole = elf(&[(EXEUNT, &small())]);
    survive("damage-elf-long", &whole, 64 + 56, 30_000, &python());
}

#[test]
#[ignore = "takes minutes"]
fn of_a_box_for_longer() {
    let whole = crash().build();
    survive("damage-box-long", &whole, whole.len(), 30_000, &python());
}

#[test]
#[ignore = "takes minutes"]
fn of_what_makedumpfile_writes_for_longer() {
    let whole = kdump(&memory(&crash()), |address| (EXEUNT..EXEUNT + (2 << 20)).contains(&address));
    survive("damage-kdump-long", &whole, whole.len(), 300, &python());
    survive("damage-flattened-long", &flattened(&whole), whole.len(), 300, &python());
}
