//! `symbolize` on the finished image: a report made of addresses that are known to be in certain functions, and what a
//! person may do wrong.

mod common;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::build;
use exeunt_tools::symbolize::Symbols;
use object::{Object as _, ObjectSymbol as _};

/// Where Exeunt says that it runs.
const BASE: u64 = 0x4020_0000;

/// The first call in the function that the linker calls `name`.
fn call_in(elf: &[u8], symbols: &Symbols, name: &str) -> u64 {
    let file = object::File::parse(elf).unwrap();
    let function = file.symbols().find(|symbol| symbol.name() == Ok(name) && symbol.size() != 0).expect(name);
    (function.address()..function.address() + function.size())
        .step_by(4)
        .find(|&address| symbols.is_call(address))
        .expect("a function that calls something")
}

fn symbolize(elf: &Path, console: &str) -> Output {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_symbolize"))
        .arg("--elf")
        .arg(elf)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without having read anything.
    let _ = tool.stdin.take().unwrap().write_all(console.as_bytes());
    tool.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_exceptions_report_gets_functions_and_lines() {
    for profile in ["release", "debug"] {
        let elf = build(profile).elf;
        let data = fs::read(&elf).unwrap();
        let symbols = Symbols::new(&data, &common::root().to_string_lossy()).unwrap();
        let inner = call_in(&data, &symbols, "exeunt_main");
        let outer = call_in(&data, &symbols, "exeunt_early");
        let console = format!(
            "[    0.000000] a line of the host's\r\n\
             half a line of the ho[exeunt     0.1 cpu0] EXEUNT PANIC: data abort from EL2\r\n\
             [exeunt     0.1 cpu0]   CPU 0 (MPIDR 0x80000000), image at {BASE:#x}, CurrentEL 2\r\n\
             [exeunt     0.1 cpu0]   ELR {:#018x} SPSR 0x800003c9 ESR 0x9600004f FAR 0x0000000040207338\r\n\
             [exeunt     0.1 cpu0]   SP  0x00000000402355c0 LR {:#018x}\r\n\
             [exeunt     0.1 cpu0]   backtrace, decode with scripts/symbolize:\r\n\
             [exeunt     0.1 cpu0]     #0  {inner:#010x}\r\n\
             another line of the host's\r\n\
             [exeunt     0.1 cpu0]     #1  {outer:#010x}\r\n\
             [exeunt     0.1 cpu0]   the machine goes off now\r\n\
             [exeunt     0.1 cpu0]     #2  {inner:#010x}\r\n",
            BASE + inner,
            BASE + outer + 4,
        );
        let output = symbolize(&elf, &console);
        let shown = text(&output.stdout);
        assert!(output.status.success(), "{profile}: {}\n{shown}", text(&output.stderr));
        assert!(!shown.contains("host's") && !shown.contains("#2"), "{profile}: more than the report:\n{shown}");
        let (registers, backtrace) = shown.split_once("backtrace").unwrap();
        for part in [registers, backtrace] {
            assert!(part.contains("exeunt_main at exeunt/src/"), "{profile}:\n{shown}");
            assert!(part.contains("exeunt_early at exeunt/src/"), "{profile}:\n{shown}");
        }
        assert!(registers.contains("ELR ") && registers.contains("LR, called from "), "{profile}:\n{shown}");
    }
}

#[test]
fn a_branch_into_data_is_no_sign_of_another_build() {
    let elf = build("release").elf;
    let data = fs::read(&elf).unwrap();
    let symbols = Symbols::new(&data, &common::root().to_string_lossy()).unwrap();
    let call = call_in(&data, &symbols, "exeunt_main");
    // Behind the text, in the 2 MiB.
    let stack = 0x1f_0000;
    let console = format!(
        "[exeunt     0.1 cpu0] EXEUNT PANIC: instruction abort from EL2\n\
         [exeunt     0.1 cpu0]   CPU 0 (MPIDR 0x80000000), image at {BASE:#x}, CurrentEL 2\n\
         [exeunt     0.1 cpu0]   ELR {:#018x} SPSR 0x800003c9 ESR 0x8600000f FAR {:#018x}\n\
         [exeunt     0.1 cpu0]   backtrace, decode with scripts/symbolize:\n\
         [exeunt     0.1 cpu0]     #0  {stack:#010x}\n\
         [exeunt     0.1 cpu0]     #1  {call:#010x}\n",
        BASE + stack,
        BASE + stack,
    );
    let output = symbolize(&elf, &console);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}\n{shown}", text(&output.stderr));
    assert!(shown.contains("exeunt_main at ") && shown.contains("is not in the ELF file's text"), "{shown}");
}

#[test]
fn inlined_functions_are_shown_within_their_callers() {
    let data = fs::read(build("release").elf).unwrap();
    let symbols = Symbols::new(&data, &common::root().to_string_lossy()).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let main = file.symbols().find(|symbol| symbol.name() == Ok("exeunt_main") && symbol.size() != 0).unwrap();
    let deepest = (main.address()..main.address() + main.size())
        .step_by(4)
        .map(|address| symbols.places(address))
        .max_by_key(Vec::len)
        .unwrap();
    assert!(deepest.len() > 1, "link-time optimization inlines nothing into exeunt_main");
    let (outermost, inlined) = deepest.split_last().unwrap();
    assert!(!outermost.inlined && outermost.function.ends_with("exeunt_main"), "{deepest:?}");
    assert!(inlined.iter().all(|place| place.inlined), "{deepest:?}");
}

#[test]
fn an_elf_file_of_another_build_is_noticed() {
    let elf = build("release").elf;
    // The magic word of the Image header is neither a call nor anything else that runs.
    let console = "[exeunt     0.1 cpu0] EXEUNT PANIC: x\n[exeunt     0.1 cpu0]     #0  0x00000038\n";
    let output = symbolize(&elf, console);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("0x38"), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("EXEUNT PANIC"), "{}", text(&output.stdout));
}

#[test]
fn what_cannot_be_shown_is_said() {
    let built = build("release");
    let panic = "[exeunt     0.1 cpu0] EXEUNT PANIC: x\n";
    let missing = built.elf.with_file_name("no-such-file");
    // An ELF file without DWARF: this one, its debug sections renamed.
    let mut stripped = fs::read(&built.elf).unwrap();
    let name = b".debug_";
    for at in 0..stripped.len() - name.len() {
        if &stripped[at..at + name.len()] == name {
            stripped[at + 1] = b'x';
        }
    }
    let without = Path::new(env!("CARGO_TARGET_TMPDIR")).join("exeunt-without-debug-information");
    fs::write(&without, stripped).unwrap();
    for (elf, console, reason) in [
        (built.elf.as_path(), "a console without a panic\n", "no line with `EXEUNT PANIC`"),
        (&missing, panic, "cannot read the ELF file"),
        (&built.bin, panic, "not an ELF file"),
        (Path::new(env!("CARGO_BIN_EXE_symbolize")), panic, "not for AArch64"),
        (&without, panic, "no debug information"),
    ] {
        let output = symbolize(elf, console);
        let complaint = text(&output.stderr);
        if cfg!(target_arch = "aarch64") && reason == "not for AArch64" {
            continue;
        }
        assert_eq!(output.status.code(), Some(2), "{reason}: {complaint}");
        assert!(complaint.contains(reason), "{reason}: {complaint}");
        assert!(output.stdout.is_empty(), "{reason}");
    }
}
