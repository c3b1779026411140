//! A box is found in each format, and what is wrong with a file is said.

mod common;

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{RAM, RAM_SIZE, directory, elf, flattened, kdump, kdump_of, look, memory, put};
use dump::kdump::Flattened;
use dump::{Found, Options, find, python};
use guest_abi::blackbox::SIZE;
use view::Report;
use view::fixture::{ADDRESS, Builder, EXEUNT, boot, crash, kexec};

fn is_whole(found: &Found, builder: &Builder) {
    assert_eq!(found.start, builder.header.start);
    assert!(found.bytes == builder.build(), "other bytes");
    assert_eq!(Report::of(&found.black_box()).exeunt.cpus, 4);
}

fn wrong(found: Result<Found, String>, words: &str) {
    let error = found.expect_err(words);
    assert!(error.contains(words), "{error}\nand not {words}");
}

fn options() -> Options {
    Options { python: python(), ..Options::default() }
}

#[test]
fn in_an_elf() {
    let directory = directory("find-elf");
    let builder = crash();
    let bytes = memory(&builder);
    // As one piece, and as the host's RAM with Exeunt's memory as a segment of its own.
    let split = (ADDRESS - RAM) as usize;
    for (name, segments) in [
        ("one", vec![(RAM, &bytes[..])]),
        ("three", vec![(RAM, &bytes[..split]), (ADDRESS, &bytes[split..split + SIZE])]),
        ("odd", vec![(RAM, &bytes[..split + 5000]), (ADDRESS + 5000, &bytes[split + 5000..])]),
        (
            "overlapping",
            vec![(ADDRESS - 4096, &bytes[split - 4096..]), (RAM, &bytes[..split + 5000]), (RAM, &bytes[..9])],
        ),
    ] {
        let found = look(&directory.join(name), &elf(&segments), &options()).expect(name);
        is_whole(&found, &builder);
        assert!(found.notes.is_empty(), "{:?}", found.notes);
    }
}

#[test]
fn in_memory_as_it_is_and_alone() {
    let directory = directory("find-raw");
    let builder = kexec();
    let bytes = memory(&builder);
    is_whole(&look(&directory.join("all"), &bytes, &options()).unwrap(), &builder);
    let own = (EXEUNT - RAM) as usize;
    is_whole(&look(&directory.join("own"), &bytes[own..own + (2 << 20)], &options()).unwrap(), &builder);
    is_whole(&look(&directory.join("box"), &builder.build(), &options()).unwrap(), &builder);
    let based = Options { base: Some(RAM), ..options() };
    is_whole(&look(&directory.join("based"), &bytes, &based).unwrap(), &builder);
    let elsewhere = Options { base: Some(RAM + (1 << 30)), ..options() };
    wrong(look(&directory.join("based"), &bytes, &elsewhere), "a copy of the box that belongs to 0x403f0000");
}

#[test]
fn in_what_makedumpfile_writes() {
    if !has_drgn() {
        return;
    }
    let directory = directory("find-kdump");
    let builder = crash();
    let dump = kdump(&memory(&builder), |_| true);
    is_whole(&look(&directory.join("dump"), &dump, &options()).unwrap(), &builder);
    is_whole(&look(&directory.join("flattened"), &flattened(&dump), &options()).unwrap(), &builder);
    let at = Options { address: Some(ADDRESS), ..options() };
    is_whole(&look(&directory.join("dump"), &dump, &at).unwrap(), &builder);

    // Linux may have larger pages, of which one is a whole box.
    let larger = [kdump_of::<0x4000>(&memory(&builder), |_| true), kdump_of::<0x1_0000>(&memory(&builder), |_| true)];
    for dump in larger {
        is_whole(&look(&directory.join("larger"), &dump, &options()).unwrap(), &builder);
        is_whole(&look(&directory.join("larger"), &flattened(&dump), &options()).unwrap(), &builder);
    }

    // Without the CPUs' part, as a filter that knows nothing of it may leave it out.
    let filtered = kdump(&memory(&builder), |address| !(builder.header.start..ADDRESS).contains(&address));
    let found = look(&directory.join("filtered"), &filtered, &options()).unwrap();
    assert_eq!(found.notes, ["64 KiB of the box and its traces are not in this dump, and count as zeros"]);
    let report = Report::of(&found.black_box());
    assert!(report.death.is_some() && report.cpus[0].exits.is_empty());

    let without = kdump(&memory(&builder), |address| !(EXEUNT..EXEUNT + (2 << 20)).contains(&address));
    wrong(look(&directory.join("without"), &without, &options()), "there is no black box in it");
    // As QEMU writes it: without notes.
    let mut bare = dump.clone();
    bare[4096 + 32..4096 + 64].fill(0);
    wrong(look(&directory.join("bare"), &bare, &options()), "dump-guest-memory without -z");
    wrong(look(&directory.join("cut"), &dump[..6000], &options()), "the dump is cut off");
    wrong(
        look(&directory.join("pages"), &dump[..dump.len() / 4], &options()),
        "the dump is cut off, or damaged: some of its pages lie past its end",
    );
    wrong(look(&directory.join("flat-cut"), &flattened(&dump)[..50_000], &options()), "the flattened dump is cut off");
}

/// On a disk a flattened dump has whatever was there behind it.
#[test]
fn where_a_flattened_dump_ends() {
    let directory = directory("find-end");
    let end_of = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, bytes).unwrap();
        Flattened::open(File::open(path).unwrap()).map(|flattened| flattened.end())
    };
    let dump = kdump(&memory(&crash()), |_| true);
    let whole = flattened(&dump);
    let length = whole.len() as u64;
    assert_eq!(end_of("whole", &whole), Ok(length));
    assert_eq!(end_of("disk", &[whole.clone(), vec![0xa5; 100_000]].concat()), Ok(length));
    // Of what an interrupted run has written the rest of the disk is no end.
    for cut in [whole.len() - 16, whole.len() - 5000] {
        let mut disk = whole[..cut].to_vec();
        assert!(end_of("cut", &disk).unwrap_err().contains("is cut off"));
        disk.resize(whole.len() * 2, 0);
        assert!(end_of("zeros", &disk).is_err());
    }
    assert_eq!(end_of("no-dump", &dump), Err("it is no flattened dump".to_owned()));
}

#[test]
fn a_flattened_elf_is_put_together() {
    let directory = directory("find-together");
    let builder = crash();
    let memory = memory(&builder);
    let elf = elf(&[(RAM, &memory)]);
    let [path, whole] = ["flattened", "whole"].map(|name| directory.join(name));
    // And the disk that it was written onto.
    fs::write(&path, [flattened(&elf), vec![0; 70_000]].concat()).unwrap();
    let file = Flattened::open(File::open(&path).unwrap()).unwrap();
    assert!(file.is_elf());
    assert_eq!(file.put_together(&File::create(&whole).unwrap()), Ok(elf.len() as u64));
    assert!(fs::read(&whole).unwrap() == elf, "another file");
    is_whole(&find(&whole, &options()).unwrap(), &builder);
    fs::write(&path, flattened(&kdump(&memory, |_| true))).unwrap();
    assert!(!Flattened::open(File::open(&path).unwrap()).unwrap().is_elf());
}

/// Says so where it is missing: `make test` has it installed.
fn has_drgn() -> bool {
    let mut command = Command::new(python());
    let there = command.args(["-c", "import drgn"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !there {
        eprintln!("without drgn (scripts/setup drgn) this is not tested");
    }
    there
}

#[test]
fn a_missing_drgn_is_said() {
    let directory = directory("find-no-drgn");
    let dump = kdump(&memory(&boot()), |_| true);
    let none = Options { python: "/nowhere/python".into(), ..Options::default() };
    wrong(look(&directory.join("dump"), &dump, &none), "there is no Python for it; scripts/setup drgn installs it");
    let without = directory.join("python");
    fs::write(&without, "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'drgn'\" >&2\nexit 1\n").unwrap();
    let mut mode = fs::metadata(&without).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    fs::set_permissions(&without, mode).unwrap();
    let none = Options { python: without, ..Options::default() };
    wrong(look(&directory.join("dump"), &dump, &none), "does not have it; scripts/setup drgn installs it");
}

#[test]
fn the_box_that_lies_where_it_says_is_taken() {
    let directory = directory("find-several");
    let builder = boot();
    let mut bytes = memory(&builder);
    // A copy that a page cache has kept, and one that was written over.
    put(&mut bytes, RAM + 0x1_0000, &builder.build()[SIZE..]);
    put(&mut bytes, RAM + 0x3_0000, &builder.build()[SIZE..][..100]);
    let found = look(&directory.join("copies"), &elf(&[(RAM, &bytes)]), &options()).unwrap();
    is_whole(&found, &builder);
    assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
    assert!(found.notes[0].contains("at 0x40010000 there is a copy of the box that belongs to 0x403f0000"));
    assert!(found.notes[1].contains("at 0x40030000: the black box's header is damaged"));

    // An Exeunt that has started later in another place.
    let mut later = boot();
    let move_by = 0x20_0000;
    later.header.started += 1_000_000;
    for address in [&mut later.header.address, &mut later.header.start, &mut later.header.exeunt] {
        *address += move_by;
    }
    later.header.cpu_blocks += move_by;
    later.header.traces += move_by;
    put(&mut bytes, later.header.start, &later.build());
    let found = look(&directory.join("later"), &elf(&[(RAM, &bytes)]), &options()).unwrap();
    is_whole(&found, &later);
    assert!(found.notes.iter().any(|note| note.contains("an earlier start at 0x403f0000")), "{:?}", found.notes);
    let at = Options { address: Some(ADDRESS), ..options() };
    is_whole(&look(&directory.join("later"), &elf(&[(RAM, &bytes)]), &at).unwrap(), &builder);
}

#[test]
fn what_is_no_dump_is_said() {
    let directory = directory("find-nothing");
    let file = directory.join("file");
    let none = options();
    wrong(look(&file, b"", &none), "it is empty");
    wrong(look(&file, b"hello", &none), "no dump that is known here");
    wrong(look(&file, &vec![0; 300_000], &none), "it has no black box");
    wrong(look(&file, b"\x1f\x8b\x08\0aaaaaaaaaaaaaaaa", &none), "it is compressed as a whole");
    wrong(look(&file, b"\x7fELF", &none), "no ELF of a 64-bit machine, or cut off");
    let mut other = elf(&[(RAM, &[1; 4096])]);
    other[18] = 62;
    wrong(look(&file, &other, &none), "it is not AArch64");
    other[16] = 2;
    wrong(look(&file, &other, &none), "it is no core");
    wrong(look(&file, &elf(&[(RAM, &vec![0; RAM_SIZE])]), &none), "there is no black box in it: none of 128 places");
    wrong(find(&directory, &none), "it is a directory");
    wrong(find(Path::new("/nowhere/dump"), &none), "/nowhere/dump: No such file");
    let at = Options { address: Some(RAM), ..options() };
    wrong(look(&file, &elf(&[(RAM, &memory(&boot()))]), &at), "there is no black box at 0x40000000");
    // The box's header says that there is more past the core than there are addresses.
    let mut more = boot();
    more.header.size += 0x1_0000;
    let last = 0_u64.wrapping_sub(0x1_0000);
    let at = Options { address: Some(last), ..options() };
    wrong(look(&file, &elf(&[(last, &more.build()[more.build().len() - SIZE..])]), &at), "past the last address");
    wrong(look(&file, &boot().build()[..SIZE + 300], &none), "is not whole in this dump");
}

fn exeunt_dump(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_exeunt-dump")).args(arguments).output().expect("the program runs")
}

#[test]
fn the_program_prints_and_writes_what_it_is_asked_for() {
    let directory = directory("find-program");
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let dump = path("vmcore");
    fs::write(&dump, elf(&[(RAM, &memory(&crash()))])).unwrap();

    let done = exeunt_dump(&[&dump]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success() && text.contains("EXEUNT DIED on CPU 3"), "{text}");
    assert!(text.contains("its last 8 of 26 traced exits"));
    let few = String::from_utf8(exeunt_dump(&[&dump, "--exits", "2"]).stdout).unwrap();
    assert!(few.contains("its last 2 of 26 traced exits"));
    let short = String::from_utf8(exeunt_dump(&[&dump, "--short"]).stdout).unwrap();
    assert!(short.lines().count() < 15 && short.contains("EXEUNT DIED"));

    let (perfetto, html, alone) = (path("trace.json"), path("trace.html"), path("exeunt.box"));
    let all = [&dump, "--json", "--trace", "perfetto", &perfetto, "--trace", "html", &html, "--box", &alone];
    let done = exeunt_dump(&all);
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(json["death"]["cpu"], 3);
    let trace: serde_json::Value = serde_json::from_slice(&fs::read(&perfetto).unwrap()).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().len() > 80);
    assert!(fs::read_to_string(&html).unwrap().starts_with("<!DOCTYPE html>"));
    assert!(fs::read(&alone).unwrap() == crash().build());
    assert_eq!(exeunt_dump(&[&alone]).stdout, text.as_bytes());

    assert_eq!(json["notes"].as_array().map(Vec::len), Some(0));

    // What is there is kept.
    let again = exeunt_dump(&all);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("it is there already; --force writes over it"));
    assert!(exeunt_dump(&[&all[..], &["--force"]].concat()).status.success());

    // The dump itself is kept in any case, by whatever name.
    let link = path("link");
    std::os::unix::fs::symlink(&dump, &link).unwrap();
    for other in [&dump, &link] {
        let wrong = exeunt_dump(&[&dump, "--box", other, "--force"]);
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("it is the dump itself"));
    }
    assert!(fs::read(&dump).unwrap() == elf(&[(RAM, &memory(&crash()))]));

    let wrong = exeunt_dump(&[&dump, "--trace", "pdf", &html]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--trace pdf: the format is perfetto or html"));
    assert_eq!(exeunt_dump(&[&dump, "--address", "here"]).status.code(), Some(2));
    assert_eq!(exeunt_dump(&["/nowhere"]).status.code(), Some(1));
}

/// A pipe that nobody reads.
fn nobody() -> io::PipeWriter {
    io::pipe().expect("a pipe").1
}

#[test]
fn nobody_has_to_read_to_the_end() {
    let directory = directory("find-closed");
    let dump = directory.join("vmcore");
    // Something stands on stderr, too.
    let mut bytes = memory(&crash());
    put(&mut bytes, RAM + 0x1_0000, &memory(&crash())[(ADDRESS - RAM) as usize..][..SIZE]);
    fs::write(&dump, elf(&[(RAM, &bytes)])).unwrap();
    let program = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_exeunt-dump"));
        command.arg(&dump);
        command
    };
    let done = program().stdout(nobody()).output().unwrap();
    assert_eq!(done.status.code(), Some(0));
    let note = String::from_utf8(done.stderr).unwrap();
    assert!(note.contains("there is a copy of the box") && note.lines().count() == 1, "{note}");
    let done = program().stderr(nobody()).output().unwrap();
    assert_eq!((done.status.code(), done.stdout.is_empty()), (Some(0), false));
    let json = program().arg("--json").stderr(nobody()).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["notes"][0].as_str().unwrap().contains("there is a copy of the box"));
    let done = Command::new(env!("CARGO_BIN_EXE_exeunt-dump")).arg("/nowhere").stderr(nobody()).status().unwrap();
    assert_eq!(done.code(), Some(1));
}

#[test]
fn a_pipe_is_no_dump() {
    let (reader, _writer) = io::pipe().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_exeunt-dump"));
    let done = command.arg("/dev/stdin").stdin(reader).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("/dev/stdin: it can only be read from its start to its end"), "{said}");
}
