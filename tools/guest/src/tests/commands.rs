//! What each command says.

use guest_abi::doorbell::MAGIC;
use guest_abi::vendor::Policy;
use view::fixture::{self, ADDRESS, EXEUNT};

use super::fake::{Fake, count, live};
use crate::commands::log::Follower;
use crate::commands::policy::Which;
use crate::commands::{Said, about, back, crashes, exits, leave, log, map, panic, policy, status, trace};
use crate::kcore;
use crate::snapshot::Mirror;
use crate::trouble::{self, Trouble};

fn fake() -> Fake {
    Fake::new(&fixture::boot(), 2)
}

#[test]
fn alone_it_says_in_sentences_what_is_there() {
    let fake = fake();
    let said = about::run(&fake.context().unwrap()).unwrap();
    assert!(said.text.starts_with("Exeunt 0.1.0 is below this Linux, on all 2 CPUs that are on.\n"), "{}", said.text);
    assert!(said.text.contains("believe that it was started at EL2, 12 seconds ago"), "{}", said.text);
    assert_eq!((said.status, &said.json["state"]), (0, &"present".into()));
    assert_eq!(about::brief(&fake.context().unwrap()).unwrap().text.lines().count(), 1);
    assert!(said.text.lines().all(|line| line.len() <= 110), "{}", said.text);
}

#[test]
fn alone_it_says_that_exeunt_has_left_and_how_to_get_it_back() {
    let fake = fake();
    fake.leave(3);
    let said = about::run(&fake.context().unwrap()).unwrap();
    assert_eq!(said.status, trouble::status::LEFT);
    assert!(said.text.contains("exeunt back"), "{}", said.text);
    // By another way there is none.
    fake.leave(0);
    let said = about::run(&fake.context().unwrap()).unwrap();
    assert!(!said.text.contains("exeunt back") && said.text.contains("reset"), "{}", said.text);
}

#[test]
fn on_some_cpus_it_says_on_which() {
    let fake = fake();
    fake.leave(0);
    fake.under.borrow_mut().insert(1, true);
    let context = fake.context().unwrap();
    assert_eq!(fake.at.get(), 1, "it stays where Exeunt is");
    let said = about::run(&context).unwrap();
    assert!(said.text.contains("on CPU 1. It has left CPU 0."), "{}", said.text);
    let said = status::run(&context).unwrap();
    assert!(said.text.contains("on CPU 1, no longer on CPU 0"), "{}", said.text);
}

#[test]
fn status_has_a_line_for_each_cpu() {
    let fake = fake();
    let said = status::run(&fake.context().unwrap()).unwrap();
    let lines: Vec<&str> = said.text.lines().collect();
    assert!(lines[0].starts_with("exeunt    0.1.0 (ABI 1."), "{}", said.text);
    assert_eq!(lines.iter().rev().take_while(|line| !line.is_empty()).count(), 5, "{}", said.text);
    assert_eq!(said.json["each"].as_array().unwrap().len(), 4);
    assert_eq!(said.json["options"], "trace stats");
}

#[test]
fn exits_are_by_class_and_by_register() {
    let fake = fake();
    let said = exits::run(&fake.context().unwrap()).unwrap();
    let total: u64 = said.json["classes"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(said.json["total"], total);
    assert!(total > 0 && said.text.contains("HCR_EL2"), "{}", said.text);
}

#[test]
fn between_two_moments_only_what_is_new_is_said() {
    let fake = fake();
    let context = fake.context().unwrap();
    let before = exits::counts(&context).unwrap();
    count(&fake, 0, 7);
    let after = exits::counts(&context).unwrap();
    let said = exits::between(&before, &after);
    assert!(said.text.trim_end().ends_with(": 7 smc"), "{}", said.text);
    assert_eq!(said.json["total"], 7);
    assert!(exits::between(&after, &after).text.trim_end().ends_with(": nothing"));
}

#[test]
fn the_log_is_whole_lines() {
    let mut builder = fixture::boot();
    builder.log("[exeunt] one\n").log("[exeunt] \x1b[2Jtwo\n");
    let fake = Fake::new(&builder, 2);
    let said = log::run(&fake.context().unwrap()).unwrap();
    assert!(said.text.ends_with("[exeunt] one\n[exeunt] \u{fffd}[2Jtwo\n"), "{}", said.text);
    // One that is longer than the ring begins with a whole line, and tells what is lost.
    let mut builder = fixture::boot();
    for number in 0..1000 {
        builder.log(&format!("line {number}\n"));
    }
    let fake = Fake::new(&builder, 2);
    let said = log::run(&fake.context().unwrap()).unwrap();
    let lines = said.json["lines"].as_array().unwrap();
    assert!(lines.iter().all(|line| line.as_str().unwrap().starts_with("line ")), "{}", said.text);
    assert_eq!(lines.last().unwrap(), "line 999");
    assert!(said.json["lost_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn a_follower_gives_each_line_once() {
    let mut builder = fixture::boot();
    builder.log("first\n");
    let fake = Fake::new(&builder, 2);
    let source = Mirror::new(&fake).unwrap().unwrap();
    let mut follower = Follower::default();
    let lines = follower.next(&source).unwrap();
    assert_eq!(lines.last().unwrap(), "first");
    assert!(follower.next(&source).unwrap().is_empty());
    let all: Vec<String> = (0..2000).map(|number| format!("line {number}")).collect();
    let mut seen = Vec::new();
    for piece in all.chunks(100) {
        for line in piece {
            builder.log(&format!("{line}\n"));
        }
        *fake.bytes.borrow_mut() = builder.build();
        seen.extend(follower.next(&source).unwrap());
    }
    assert_eq!(seen, all);
    // More at once than the ring has: it says so, and goes on.
    for line in &all {
        builder.log(&format!("{line}\n"));
    }
    *fake.bytes.borrow_mut() = builder.build();
    let lines = follower.next(&source).unwrap();
    assert!(lines[0].contains("written over"), "{}", lines[0]);
    assert_eq!(lines.last().unwrap(), "line 1999");
}

#[test]
fn policies_are_read_and_set() {
    let fake = fake();
    let context = fake.context().unwrap();
    let said = policy::run(&context, None).unwrap();
    assert_eq!((&said.json["kexec"], &said.json["crash"]), (&"leave".into(), &"resident".into()));
    let said = policy::run(&context, Some((Which::Both, Policy::Resident))).unwrap();
    assert_eq!((&said.json["kexec"], &said.json["crash"]), (&"resident".into(), &"resident".into()));
    policy::run(&context, Some((Which::Crash, Policy::Leave))).unwrap();
    assert_eq!((fake.kexec.get(), fake.crash.get()), (1, 0));
}

#[test]
fn lock_wants_to_be_meant_and_then_leave_is_refused() {
    let fake = fake();
    let context = fake.context().unwrap();
    let trouble = policy::lock(&context, false).unwrap_err();
    assert!(trouble.to_string().contains("exeunt lock --yes") && !fake.locked.get());
    policy::lock(&context, true).unwrap();
    assert!(fake.locked.get());
    let trouble = leave::run(&context).unwrap_err();
    assert!(trouble.to_string().contains("locked"), "{trouble}");
    assert_eq!(trouble.status(), trouble::status::FAILED);
}

#[test]
fn it_leaves_and_comes_back_on_each_cpu() {
    let fake = fake();
    let said = leave::run(&fake.context().unwrap()).unwrap();
    assert!(said.text.contains("all 2 CPUs"), "{}", said.text);
    let said = back::run(&fake.context().unwrap()).unwrap();
    assert_eq!(
        (said.status, said.text.lines().next()),
        (0, Some("Exeunt is back, on CPU 0-1. Nothing has to be started again."))
    );
    assert!(fake.under.borrow().values().all(|&under| under));
    assert_eq!(fake.spilled.get(), 0);
    let said = back::run(&fake.context().unwrap()).unwrap();
    assert!(said.text.contains("there already"), "{}", said.text);
}

#[test]
fn it_promises_no_way_back_that_there_is_not() {
    let fake = fake();
    fake.round.set(0);
    let said = leave::run(&fake.context().unwrap()).unwrap();
    assert_eq!(said.json["way_back"], false);
    assert!(said.text.contains("no way back") && !said.text.contains("exeunt back"), "{}", said.text);
}

#[test]
fn exits_keep_within_the_terminal() {
    let fake = fake();
    for (columns, widest) in [(None, 100), (Some(200), 100), (Some(60), 60), (Some(40), 40), (Some(7), 40)] {
        fake.columns.set(columns);
        let said = exits::run(&fake.context().unwrap()).unwrap();
        let (_, registers) = said.text.split_once("system instructions, of these\n").unwrap();
        assert!(registers.lines().all(|line| line.len() <= widest), "{columns:?}: {registers}");
    }
}

#[test]
fn a_cpu_that_does_not_come_back_is_named() {
    for deaf in [false, true] {
        let fake = fake();
        fake.leave(9);
        let cell = if deaf { &fake.deaf } else { &fake.without_smc };
        cell.set(Some(1));
        let said = back::run(&fake.context().unwrap()).unwrap();
        assert_eq!(said.status, trouble::status::FAILED);
        assert!(said.text.contains("back on CPU 0, but not on all") && said.text.contains("CPU 1: "), "{}", said.text);
        assert_eq!(said.json["missing"][0]["cpu"], 1);
        let off_and_on = "for cpu in 1; do echo $on >/sys/devices/system/cpu/cpu$cpu/online";
        assert!(said.text.contains(off_and_on), "{}", said.text);
        assert_eq!(said.text.contains("Mount debugfs"), !deaf, "{}", said.text);
        // Once more: it is where it was.
        let said = back::run(&fake.context().unwrap()).unwrap();
        assert!(said.text.contains("on CPU 0, as before, but has not come back to CPU 1"), "{}", said.text);
        let said = leave::run(&fake.context().unwrap()).unwrap();
        assert!(said.text.contains("has left CPU 0 too, where it still was"), "{}", said.text);
    }
}

#[test]
fn after_a_kexec_there_is_no_way_back_and_it_says_so() {
    let fake = fake();
    fake.leave(0);
    let trouble = back::run(&fake.context().unwrap()).unwrap_err();
    assert!(trouble.to_string().contains("kexec"), "{trouble}");
    // Nor where the mailbox cannot be.
    for place in [3, 0x20_0000, u64::MAX, 0x40] {
        fake.leave(1);
        fake.memory.borrow_mut().insert(guest_abi::doorbell::MAILBOX, place);
        let before = fake.memory.borrow().clone();
        assert!(matches!(back::run(&fake.context().unwrap()), Err(Trouble::NoWayBack(_))), "{place:#x}");
        assert_eq!(*fake.memory.borrow(), before, "nothing is stored");
    }
}

#[test]
fn what_needs_exeunt_says_that_it_has_left() {
    let fake = fake();
    fake.leave(1);
    let context = fake.context().unwrap();
    for result in [leave::run(&context), policy::run(&context, None), map::run(&context), trace::switch(&context, true)]
    {
        let trouble = result.unwrap_err();
        assert_eq!(trouble.status(), trouble::status::LEFT, "{trouble}");
    }
    // The box is in Linux's memory, if the kernel shows it.
    let trouble = log::run(&context).unwrap_err();
    assert!(trouble.to_string().contains("/nonexistent/kcore"), "{trouble}");
}

#[test]
fn the_map_is_ranges_with_their_rights() {
    let said = map::run(&fake().context().unwrap()).unwrap();
    let ranges = said.json["ranges"].as_array().unwrap();
    assert_eq!(ranges.len(), 4, "{}", said.text);
    assert_eq!(ranges[1]["what"], "Exeunt");
    assert_eq!(ranges[1]["read"], false);
    assert_eq!(ranges[1]["last"], format!("{:#x}", ADDRESS - 1));
    assert_eq!(ranges[2]["what"], "Exeunt's black box");
    assert_eq!((&ranges[2]["read"], &ranges[2]["write"]), (&true.into(), &false.into()));
    assert_eq!(ranges[3]["first"], format!("{:#x}", EXEUNT + 0x20_0000));
}

#[test]
fn a_map_without_an_end_is_no_map() {
    let mut fake = fake();
    fake.ranges = vec![(0x1000, 1), (0x1000, 3), (0x1000, 1)];
    // Past 0x1000 the call has nothing to tell: that is the end.
    assert_eq!(map::ranges(&fake.context().unwrap()).unwrap(), [(0, 0x1000, 1)]);
    fake.ranges = (1..=70_000).map(|page| (page << 12, page & 1)).collect();
    assert!(matches!(map::ranges(&fake.context().unwrap()), Err(Trouble::Nonsense(..))));
}

fn scratch(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("exeunt-guest-{}-{name}", std::process::id()))
}

#[test]
fn a_trace_is_saved_as_the_box_is_and_never_over_a_file() {
    let builder = fixture::boot();
    let fake = Fake::new(&builder, 2);
    let context = fake.context().unwrap();
    let said = trace::switch(&context, true).unwrap();
    assert!(said.text.contains("on CPU 0-1; of each the last 128 are kept"), "{}", said.text);
    assert_eq!(fake.tracing.borrow().values().filter(|&&on| on).count(), 2);
    let path = scratch("box");
    let said = trace::save(&context, &path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), builder.build());
    // Nothing of the trace was lost to the reading, and it goes on.
    assert_eq!(fake.traced_loads.get(), 0);
    assert_eq!(fake.tracing.borrow().values().filter(|&&on| on).count(), 2);
    assert!(said.json["records"].as_u64().unwrap() > 0);
    let trouble = trace::save(&context, &path).unwrap_err();
    assert!(matches!(trouble, Trouble::Exists(_)), "{trouble}");
    std::fs::remove_file(&path).unwrap();
    // One that cannot be read leaves no file.
    fake.bytes.borrow_mut().fill(0);
    assert!(trace::save(&context, &path).is_err() && !path.exists());
    assert_eq!(fake.tracing.borrow().values().filter(|&&on| on).count(), 2);
    // What was not traced is not traced afterwards.
    *fake.bytes.borrow_mut() = builder.build();
    trace::switch(&context, false).unwrap();
    trace::save(&context, &path).unwrap();
    assert_eq!(fake.tracing.borrow().values().filter(|&&on| on).count(), 0);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn where_the_program_may_not_run_it_cannot_tell() {
    let fake = fake();
    *fake.beyond.borrow_mut() = vec![2, 3];
    let said = about::run(&fake.context().unwrap()).unwrap();
    let words = "on CPU 0-1; of CPU 2-3 this program cannot tell, as it may not run there.";
    assert!(said.text.contains(words), "{}", said.text);
    let said = back::run(&fake.context().unwrap()).unwrap();
    assert!(said.text.contains("on CPU 0-1. Of CPU 2-3 this program cannot tell"), "{}", said.text);
    fake.leave(9);
    let said = back::run(&fake.context().unwrap()).unwrap();
    assert_eq!(said.status, trouble::status::FAILED);
    assert!(said.text.contains("back on CPU 0-1, but not on all.\nCPU 2: this program may not run"), "{}", said.text);
}

#[test]
fn exeunt_may_leave_while_it_is_read_and_between_two_looks() {
    let fake = fake();
    let context = fake.context().unwrap();
    for at in 0..200 {
        fake.under.borrow_mut().values_mut().for_each(|under| *under = true);
        *fake.at_access.borrow_mut() = Some((fake.accesses.get() + at, Box::new(|fake: &Fake| fake.leave(4))));
        match status::run(&context) {
            Ok(_) => *fake.at_access.borrow_mut() = None,
            Err(trouble) => assert!(matches!(trouble, Trouble::Left), "{at}: {trouble}"),
        }
    }
    fake.leave(4);
    assert!(!context.again().unwrap().is_there());
}

#[test]
fn what_the_last_start_left_is_told() {
    let said = crashes::run(&fake().context().unwrap()).unwrap();
    assert!(said.text.starts_with("There is nothing of a start before this one"), "{}", said.text);
    let mut builder = fixture::boot();
    let dead = fixture::crash();
    builder.previous = Some(dead.core());
    let fake = Fake::new(&builder, 2);
    let said = crashes::run(&fake.context().unwrap()).unwrap();
    assert!(said.json["last"]["log"].is_string());
    assert!(said.text.contains("What happened in it:"), "{}", said.text);
}

#[test]
fn the_death_of_exeunt_itself_is_told() {
    let mut dead = fixture::boot();
    dead.death.cause = 2;
    dead.death.cpu = 3;
    dead.death.time = fixture::Builder::at(1_500_000);
    dead.death.reason[..9].copy_from_slice(b"no\x1broom..");
    dead.death.backtrace[0] = 0x1234;
    let mut builder = fixture::boot();
    builder.previous = Some(dead.core());
    let said = crashes::run(&Fake::new(&builder, 2).context().unwrap()).unwrap();
    assert!(
        said.text.contains("Exeunt died, on CPU 3 after 1.500 seconds, of a panic of Exeunt's code: no\u{fffd}room.."),
        "{}",
        said.text
    );
    assert!(said.text.contains("called from 0x1234"), "{}", said.text);
}

#[test]
fn nobody_and_strangers_get_a_sentence() {
    let fake = fake();
    fake.silent.set(true);
    let trouble = fake.context().err().unwrap();
    assert_eq!((trouble.status(), trouble.kind()), (trouble::status::CANNOT_ASK, "silent"));
    fake.silent.set(false);
    fake.leave(1);
    fake.memory.borrow_mut().insert(MAGIC, 0x1234);
    let trouble = fake.context().err().unwrap();
    assert!(matches!(trouble, Trouble::Strange(0x1234)), "{trouble}");
}

/// An ELF core file with one segment.
fn core_file(address: u64, memory: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(120, 0);
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    file[54..56].copy_from_slice(&56_u16.to_le_bytes());
    file[56..58].copy_from_slice(&1_u16.to_le_bytes());
    file[64..68].copy_from_slice(&1_u32.to_le_bytes());
    file[72..80].copy_from_slice(&120_u64.to_le_bytes());
    file[88..96].copy_from_slice(&address.to_le_bytes());
    file[96..104].copy_from_slice(&(memory.len() as u64).to_le_bytes());
    file.extend(memory);
    file
}

#[test]
fn the_box_is_found_in_the_kernels_memory_when_exeunt_has_left() {
    let builder = fixture::boot();
    let bytes = builder.build();
    let mut memory = vec![0; 0x1000];
    memory.extend(&bytes);
    let path = scratch("kcore");
    std::fs::write(&path, core_file(builder.header.start - 0x1000, &memory)).unwrap();
    let fake = Fake::new(&builder, 2);
    fake.leave(1);
    let mut context = fake.context().unwrap();
    context.kcore = path.clone();
    let said = exits::run(&context).unwrap();
    assert_eq!(said.status, trouble::status::LEFT);
    assert!(said.json["total"].as_u64().unwrap() > 0);
    std::fs::remove_file(&path).unwrap();
    // Files that are none.
    let mut many = core_file(ADDRESS, &[0; 8]);
    many[56..58].copy_from_slice(&[0xff, 0xff]);
    let mut far = core_file(ADDRESS, &[0; 8]);
    far[72..80].copy_from_slice(&(u64::MAX - 5).to_le_bytes());
    let none = [Vec::new(), b"\x7fELF".to_vec(), core_file(0, &[1, 2, 3]), vec![0xff; 4096], many, far];
    for (number, file) in none.into_iter().enumerate() {
        let error = kcore::place(&mut std::io::Cursor::new(file), ADDRESS, 8).expect_err(&number.to_string());
        let words = ["no ELF file", "no ELF file", "no memory at", "no ELF file", "headers are damaged", "no end"];
        assert!(error.to_string().contains(words[number]), "{number}: {error}");
    }
}

#[test]
fn a_box_that_leaves_the_mirror_no_room_is_read_from_the_kernels_memory() {
    // As with the option `trace`.
    let builder = fixture::Builder::new(3, 8192);
    let bytes = builder.build();
    assert!(bytes.len() > 0x10_0000 - 0x1_0000 && bytes.len() < 0x1f_0000, "{:#x}", bytes.len());
    let path = scratch("kcore-large");
    std::fs::write(&path, core_file(builder.header.start, &bytes)).unwrap();
    let fake = Fake::new(&builder, 2);
    let mut context = fake.context().unwrap();
    let trouble = status::run(&context).unwrap_err();
    assert!(matches!(trouble, Trouble::BoxHidden(_)), "{trouble}");
    context.kcore = path.clone();
    assert_eq!(status::run(&context).unwrap().status, 0);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn the_state_in_the_box_is_read_by_its_bits() {
    let fake = fake();
    {
        let mut bytes = fake.bytes.borrow_mut();
        let control = live(&bytes) + 28;
        bytes[control..control + 4].copy_from_slice(&0x0002_0005_u32.to_le_bytes());
    }
    let Said { json, text, .. } = status::run(&fake.context().unwrap()).unwrap();
    assert_eq!(
        (&json["locked"], &json["policy"]["kexec"], &json["policy"]["crash"]),
        (&true.into(), &"leave".into(), &"resident".into())
    );
    assert!(text.contains("locked    yes"), "{text}");
    // What it then refuses is not offered.
    let said = about::run(&fake.context().unwrap()).unwrap();
    assert!(said.text.contains("It is locked") && !said.text.contains("exeunt leave"), "{}", said.text);
}

#[test]
fn a_panic_is_asked_for_where_the_program_is() {
    let fake = fake();
    fake.at.set(1);
    fake.hangs.set(Some(0));
    let said = panic::run(&fake, &fake, None).unwrap();
    assert_eq!((said.status, fake.panicked.get()), (0, Some(1)));
    assert_eq!(said.text, "Linux panics.\n");
}

#[test]
fn a_cpu_that_hangs_is_named_as_linux_names_it_and_not_visited() {
    let fake = fake();
    for (linux, exeunt) in [(0, 1), (1, 0)] {
        fake.at.set(1 - exeunt);
        fake.hangs.set(Some(exeunt));
        let said = panic::run(&fake, &fake, Some(linux)).unwrap();
        assert_eq!((said.text, fake.panicked.take()), (format!("Linux panics on CPU {linux}.\n"), Some(exeunt)));
        assert_eq!(said.json["panics"], linux);
    }
    let trouble = panic::run(&fake, &fake, Some(2)).unwrap_err();
    assert_eq!((trouble.to_string(), trouble.kind()), ("this machine has no CPU 2".to_owned(), "no-cpu"));
    assert_eq!((trouble.status(), fake.panicked.get()), (trouble::status::FAILED, None));
}

#[test]
fn without_a_crash_kernel_nothing_is_forced() {
    let fake = fake();
    fake.hangs.set(Some(1));
    let trouble = panic::force(&fake, &fake).unwrap_err();
    assert!(matches!(trouble, Trouble::Refused(_, guest_abi::vendor::Error::WrongState)), "{trouble}");
    assert!(trouble.to_string().contains("to start the crash kernel"), "{trouble}");
}

#[test]
fn where_exeunt_has_left_nobody_panics() {
    let fake = fake();
    fake.under.borrow_mut().insert(0, false);
    fake.memory.borrow_mut().insert(MAGIC, guest_abi::doorbell::LEFT);
    assert!(matches!(panic::run(&fake, &fake, None), Err(Trouble::Left)));
    assert_eq!(fake.spilled.get(), 0);
    assert!(matches!(panic::force(&fake, &fake), Err(Trouble::Left)));
    // Linux's CPU 1 is Exeunt's 0, which it has left.
    fake.at.set(1);
    let trouble = panic::run(&fake, &fake, Some(1)).unwrap_err();
    assert!(matches!(trouble, Trouble::Refused(_, guest_abi::vendor::Error::WrongState)), "{trouble}");
}
