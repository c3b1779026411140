//! What must hold for the finished image, release and debug, read from its instructions and headers.
//!
//! - Nothing in it needs more than Armv8.0 (Cortex-A53) or touches a SIMD or floating-point register: those are the
//!   host's, and Exeunt neither saves them nor turns their traps off.
//! - Frames, and chains of calls, fit on the stacks.
//! - Its segments, relocations and size are what boot/ and the linker script promise.
//!
//! Owns the budgets. `cargo test -p exeunt-tools --test image -- --nocapture` prints what is used of them.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{Built, build};
use exeunt_tools::a64::Fault;
use exeunt_tools::image::{Calls, Error, Image, Offender};
use exeunt_tools::symbolize::Symbols;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

/// Bytes in the stack of each CPU (`STACK_PAGES` in exeunt/src/memory.rs) and in the emergency stack.
const CPU_STACK: i64 = 8192;
/// Bytes in the stack that the boot CPU starts on (boot/exeunt.ld).
const BOOT_STACK: i64 = 16384;
/// The host's registers, which the vectors put on the CPU's stack before they call anything (`HostFrame`).
const HOST_FRAME: i64 = 256;

/// The most bytes of a frame on a CPU's stack, by profile.
fn frame_budget(profile: &str) -> i64 {
    match profile {
        // 480 is used, by trap::refuse; a sixteenth of the stack.
        "release" => 512,
        // 608 is used, by exits::sync: with less inlined, what is passed between functions is copied more.
        _ => 640,
    }
}

/// The most bytes of a frame of a function that runs only on the boot stack: the parsed device tree and the edits to it
/// live there. 2592 is used, by exeunt_main; a quarter of the stack.
const BOOT_FRAME_BUDGET: i64 = 4096;

/// The most bytes of the release image. A goal of the project; the debug image has to fit with its heap into 2 MiB,
/// which the linker script asserts.
const IMAGE_BUDGET: u64 = 288 << 10;

/// Where Rust begins on each stack: the root, the stack it is on, what is on that stack before.
const ROOTS: [(&str, i64, i64); 12] = [
    ("exeunt::exits::hvc", CPU_STACK, HOST_FRAME),
    ("exeunt::exits::smc", CPU_STACK, HOST_FRAME),
    ("exeunt::exits::sync", CPU_STACK, HOST_FRAME),
    ("exeunt::exits::irq", CPU_STACK, HOST_FRAME),
    ("exeunt::exits::fiq", CPU_STACK, HOST_FRAME),
    ("exeunt::exits::serror", CPU_STACK, HOST_FRAME),
    ("exeunt::leaving::come_back", CPU_STACK, HOST_FRAME),
    ("exeunt_secondary", CPU_STACK, 0),
    ("exeunt::panic::el2_exception", CPU_STACK, 0),
    ("exeunt::panic::double_fault", CPU_STACK, HOST_FRAME),
    ("exeunt_early", BOOT_STACK, 0),
    ("exeunt_main", BOOT_STACK, 0),
];

/// The roots that do not run on a CPU's stack.
const BOOT_ROOTS: [&str; 2] = ["exeunt_early", "exeunt_main"];

/// The panic handler. Every chain may end in it. A panic in a panic is not accounted for: what does not fit hits the
/// guard page, and the fault is reported from the top of the emergency stack.
const PANIC: &str = "__rustc::rust_begin_unwind";

/// Assembly that gives SP a new value: where each stack begins.
const SET_STACK: [&str; 9] = [
    "boot::entry::start",
    "boot::entry::mmu_on",
    "exeunt_el2_vector",
    "exeunt::enter::eret",
    "exeunt_reenter",
    // These three keep a register in SP_EL0 while nothing is sure to be memory.
    "exeunt_vectors",
    "exeunt_traced_vectors",
    "exeunt_lost_cpu",
    "exeunt::selftest::lose_stack",
];

/// What is entered by hardware or by assembly, or whose address is used to write to: no indirect call of Rust's ends
/// there.
const NOT_CALLED: [&str; 28] = [
    "image_header",
    "exeunt_vectors",
    "exeunt_traced_vectors",
    "exeunt_fast_call",
    "exeunt_host_vector",
    "boot::entry::secondary_entry",
    "exeunt::exits::hvc",
    "exeunt::exits::smc",
    "exeunt::exits::sync",
    "exeunt::exits::traced_sync",
    "exeunt::exits::traced_irq",
    "exeunt::exits::traced_fiq",
    "exeunt::exits::traced_serror",
    "exeunt::exits::irq",
    "exeunt::exits::fiq",
    "exeunt::exits::serror",
    "exeunt::leaving::come_back",
    "exeunt_resident_stub",
    "exeunt_open_stub",
    "exeunt_reenter",
    "exeunt_el2_vector",
    "exeunt_lost_cpu",
    "exeunt_await_report",
    "exeunt_last_words",
    "exeunt_last_byte",
    "exeunt_fix_up",
    GUARDED[0],
    "exeunt::selftest::run",
];

/// Where the guarded accesses begin and end (boot/exeunt.ld).
const GUARDED: [&str; 2] = ["__guarded_start", "__guarded_end"];

/// The handlers in the table of traps, and who calls through that table.
const TRAP_HANDLERS: &str = "hypervisor::trap::";
const TRAP_CALLERS: [&str; 2] = ["hypervisor::trap::", "exeunt::exits::"];

/// What Exeunt executes in the place of a host at virtual EL2, and only on a CPU whose ID registers say that it has it
/// (hypervisor/src/virtual_el2/): instructions that are not Armv8.0's, or that access a register of SIMD and floating
/// point, with register 0. They change nothing but what the host wants changed.
const FOR_THE_HOST: [(u32, &str); 10] = [
    (0xd5087ec0, "DC CIGDSW"),
    (0xd5087ac0, "DC CGDSW"),
    (0xd50b7ea0, "DC CIGDVAC"),
    (0xd50c8180, "TLBI ALLE1OS"),
    (0xd53b4400, "MRS FPCR"),
    (0xd53b4420, "MRS FPSR"),
    (0xd53b4440, "MRS FPMR"),
    (0xd51b4400, "MSR FPCR"),
    (0xd51b4420, "MSR FPSR"),
    (0xd51b4440, "MSR FPMR"),
];

/// Parts of the names of the functions where these may be.
const ACT_FOR_THE_HOST: [&str; 2] = ["exeunt::virtual_el2::", "exeunt::guarded::clean_line_and_tags"];

/// Indirect calls within each other. The longest such chain is a log line: the logger, `fmt::write`'s call of an
/// argument's `Display`, twice the same for what that prints, the formatter's call of `write_str`.
const NESTING: usize = 6;

/// Functions that call themselves, with how deep. A group of them goes by one in which such a call is written.
const RECURSION: [(&str, i64); 3] = [
    // Down a translation table of at most four levels.
    ("hypervisor::paging::engine::", 4),
    // /reserved-memory is put together from its properties and its child, which consist of nothing else.
    ("hypervisor::devicetree::edit::Writer::put", 2),
    // To use up the stack is its purpose, and ends at the guard page.
    ("exeunt::selftest::overflow", 1),
];

fn read(profile: &str) -> (Built, Image) {
    let built = build(profile);
    let data = fs::read(&built.elf).unwrap();
    let image = Image::new(&data).unwrap_or_else(|error| panic!("{}: {error}", built.elf.display()));
    (built, image)
}

fn root(image: &Image, name: &str) -> usize {
    image.function_named(name).unwrap_or_else(|| panic!("the image has no function {name}: name what took its place"))
}

/// Complains about all of `findings` at once.
fn none(profile: &str, what: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{profile}: {what}:\n  {}", findings.join("\n  "));
}

/// The instructions of an image that must not be there.
fn offenders(image: &Image) -> Vec<Offender> {
    let for_the_host = |offender: &Offender| {
        let function = image.functions().iter().find(|f| (f.start..f.end).contains(&offender.address));
        function.is_some_and(|function| ACT_FOR_THE_HOST.iter().any(|name| function.name().contains(name)))
            && FOR_THE_HOST.iter().any(|&(word, _)| word == offender.word & !0x1f)
    };
    image.offenders().into_iter().filter(|offender| !for_the_host(offender)).collect()
}

/// Who may be called indirectly: by anyone, and by those who call through the table of traps.
fn indirect_targets(image: &Image) -> (Vec<usize>, Vec<usize>) {
    let name = |index: &usize| image.functions()[*index].names.as_slice();
    let taken = image.address_taken();
    let called = |index: &usize| !name(index).iter().any(|name| NOT_CALLED.contains(&name.as_str()));
    let handler = |index: &usize| name(index).iter().any(|name| name.starts_with(TRAP_HANDLERS));
    let all: Vec<_> = taken.into_iter().filter(called).collect();
    (all.iter().copied().filter(|index| !handler(index)).collect(), all)
}

#[test]
fn every_instruction_is_of_armv8_0_without_simd() {
    for profile in ["release", "debug"] {
        let (_, image) = read(profile);
        // There is something to judge.
        assert!(image.instruction_count() > 5000, "{profile}: only {} instructions", image.instruction_count());
        let offenders: Vec<_> = offenders(&image)
            .iter()
            .map(|offender| {
                format!("{}: {:08x} {}", image.place(offender.address), offender.word, offender.fault.as_str())
            })
            .collect();
        none(profile, "instructions that must not be there", &offenders);
    }
}

#[test]
fn every_frame_is_within_its_budget() {
    for profile in ["release", "debug"] {
        let (_, image) = read(profile);
        let nothing = BTreeSet::new();
        let boot: Vec<_> = BOOT_ROOTS.iter().map(|name| root(&image, name)).collect();
        let cpu = ROOTS.iter().map(|&(name, ..)| root(&image, name)).filter(|index| !boot.contains(index));
        let elsewhere = image.reachable(cpu.chain(indirect_targets(&image).1), &nothing);
        let boot_only: BTreeSet<_> = image.reachable(boot, &nothing).difference(&elsewhere).copied().collect();

        let mut findings = Vec::new();
        let mut largest = [(0, ""); 2];
        for (index, (function, frame)) in image.functions().iter().zip(image.frames()).enumerate() {
            let on_boot_stack = boot_only.contains(&index);
            let budget = if on_boot_stack { BOOT_FRAME_BUDGET } else { frame_budget(profile) };
            let entry = &mut largest[usize::from(on_boot_stack)];
            *entry = (*entry).max((frame.size, function.name()));
            if frame.size > budget {
                findings.push(format!("{:#x} {}: {} bytes of {budget}", function.start, function.name(), frame.size));
            }
            if let Some(address) = frame.bottomless {
                findings.push(format!("{}: the stack grows in a loop", image.place(address)));
            }
            if !frame.unknown.is_empty() && !function.names.iter().any(|name| SET_STACK.contains(&name.as_str())) {
                let places: Vec<_> = frame.unknown.iter().map(|&address| image.place(address)).collect();
                findings.push(format!("{}: SP gets a value that cannot be followed", places.join(", ")));
            }
        }
        let [(cpu, cpu_name), (boot, boot_name)] = largest;
        println!("{profile}: the largest frame on a CPU's stack: {cpu} bytes, {cpu_name}");
        println!("{profile}: the largest frame on the boot stack: {boot} bytes, {boot_name}");
        none(profile, "frames above their budget", &findings);
    }
}

#[test]
fn the_deepest_chain_of_calls_fits_on_each_stack() {
    for profile in ["release", "debug"] {
        let (built, image) = read(profile);
        let data = fs::read(built.elf).unwrap();
        let symbols = Symbols::new(&data, &common::root().to_string_lossy()).unwrap();
        let name = |index: usize| image.functions()[index].name();
        let panic = root(&image, PANIC);
        let stop = BTreeSet::from([panic]);
        let mut findings = Vec::new();
        let mut cycles = Vec::new();
        for cycle in image.cycles(&stop) {
            // Whom the calls within the group are written in, which may have been inlined into it.
            let sites = cycle.iter().flat_map(|&index| &image.frames()[index].calls);
            let sites = sites.filter(|(_, target, _)| image.function_at(*target).is_some_and(|at| cycle.contains(&at)));
            let related: Vec<_> =
                sites.flat_map(|&(address, ..)| symbols.places(address)).map(|place| place.function).collect();
            let known = RECURSION.iter().find(|(known, _)| related.iter().any(|name| name.starts_with(known)));
            if let Some(&(_, times)) = known {
                cycles.push((cycle, times));
            } else {
                let members: Vec<_> = cycle.iter().map(|&index| name(index)).collect();
                findings.push(format!("calls itself, and nothing says how deep: {}", members.join(", ")));
            }
        }
        let (general, all) = indirect_targets(&image);
        let targets = |caller: usize| {
            let through_table = TRAP_CALLERS.iter().any(|prefix| name(caller).starts_with(prefix));
            if through_table { all.as_slice() } else { general.as_slice() }
        };
        let calls = Calls { targets: &targets, nesting: NESTING, stop: &stop, cycles: &cycles };
        let in_panic = image.deepest(panic, &calls).depth;
        println!("{profile}: {in_panic} bytes for a panic");
        for (root_name, size, before) in ROOTS {
            let chain = image.deepest(root(&image, root_name), &calls);
            let total = before + chain.depth + in_panic;
            let path: Vec<_> =
                chain.path.iter().map(|&index| format!("{} {}", image.frames()[index].size, name(index))).collect();
            println!(
                "{profile}: {root_name}: {total} of {size} bytes, {} of them without a panic",
                before + chain.depth
            );
            if total > size {
                findings.push(format!("{root_name}: {total} of {size} bytes, by way of\n    {}", path.join("\n    ")));
            }
        }
        none(profile, "chains of calls that do not fit on the stack", &findings);
    }
}

/// mrs x1, spsr_el2; mrs x11, elr_el2
const SAVES_THE_RETURN: [u32; 2] = [0xd53c_4001, 0xd53c_402b];

/// What is wrong with a guarded function that has these instructions.
fn broken_promises(words: &[u32]) -> Vec<&'static str> {
    let mut broken = Vec::new();
    // Rd or Rt. Of what has none of these, the same bits are never 18 to 30 here, but for a B, whose offset they are.
    let is_jump = |word: u32| word >> 26 == 0b000101;
    if words.iter().any(|&word| !is_jump(word) && (18..31).contains(&(word & 31))) {
        broken.push("may change x18 to x30");
    }
    // Data processing, immediate or register (C4.1), cannot fault.
    let cannot_fault = |word: &&u32| *word >> 26 & 7 == 0b100 || *word >> 25 & 7 == 0b101;
    let first = words.iter().take_while(cannot_fault).count();
    if !words[first..].starts_with(&SAVES_THE_RETURN) {
        broken.push("may fault before SPSR_EL2 and ELR_EL2 are saved");
    }
    // A conditional branch has its condition there: 1 is NE.
    let is_branch = |word: u32| word >> 24 == 0b0101_0100;
    if words.iter().skip(first + 2).any(|&word| [1, 11].contains(&(word & 31)) && !is_branch(word)) {
        broken.push("may change what it has saved");
    }
    broken
}

/// What exeunt/src/guarded.rs promises of its section, so that the fix-up can return to x30 from any instruction.
#[test]
fn guarded_accesses_keep_what_the_fix_up_needs() {
    for profile in ["release", "debug"] {
        let (_, image) = read(profile);
        let [start, end] = GUARDED.map(|name| image.functions()[root(&image, name)].start);
        let mut findings = Vec::new();
        let mut names = Vec::new();
        for (function, frame) in image.functions().iter().zip(image.frames()) {
            if !(start..end).contains(&function.start) {
                continue;
            }
            names.extend(&function.names);
            let words: Vec<_> =
                (function.start..function.end).step_by(4).filter_map(|address| image.word(address)).collect();
            let mut broken = broken_promises(&words);
            if frame.size != 0 || !frame.unknown.is_empty() || !frame.calls.is_empty() {
                broken.push("has a stack, or calls");
            }
            findings.extend(broken.iter().map(|what| format!("{} {what}", function.name())));
        }
        none(profile, "guarded accesses that break a promise", &findings);
        for name in ["exeunt::virtual_el2::read", "exeunt::virtual_el2::write", "exeunt::guarded::load32"] {
            assert!(names.iter().any(|known| *known == name), "{profile}: {name} is not guarded: {names:?}");
        }
    }
}

#[test]
fn broken_promises_of_guarded_accesses_are_seen() {
    // ldr w0, [x0]; ret
    let load = [0xb940_0000, 0xd65f_03c0];
    let [spsr, elr] = SAVES_THE_RETURN;
    assert_eq!(broken_promises(&[spsr, elr, load[0], load[1]]), [""; 0]);
    assert_eq!(broken_promises(&load), ["may fault before SPSR_EL2 and ELR_EL2 are saved"]);
    let late = broken_promises(&[load[0], spsr, elr, load[1]]);
    assert!(late.contains(&"may fault before SPSR_EL2 and ELR_EL2 are saved"), "{late:?}");
    // mov x9, x1; and mov x19, x1, which is the caller's
    assert_eq!(broken_promises(&[0xaa01_03e9, spsr, elr, load[1]]), [""; 0]);
    assert_eq!(broken_promises(&[0xaa01_03f3, spsr, elr, load[1]]), ["may change x18 to x30"]);
    // b .-8, whose offset's low bits are 30
    assert_eq!(broken_promises(&[spsr, elr, 0x17ff_fffe, load[1]]), [""; 0]);
    // ldr w1, [x0]; mrs x11, ctr_el0
    assert_eq!(broken_promises(&[spsr, elr, 0xb940_0001, load[1]]), ["may change what it has saved"]);
    assert_eq!(broken_promises(&[spsr, elr, 0xd53b_002b, load[1]]), ["may change what it has saved"]);
}

#[test]
fn no_segment_is_writable_and_executable() {
    for profile in ["release", "debug"] {
        let (_, image) = read(profile);
        let rights: Vec<_> = image.segments().iter().map(|segment| (segment.writable, segment.executable)).collect();
        // Text, read-only data, data: once each, in this order, on pages of their own.
        assert_eq!(rights, [(false, true), (false, false), (true, false)], "{profile}: {:?}", image.segments());
        for pair in image.segments().windows(2) {
            let [first, second] = pair else { unreachable!() };
            assert_eq!(second.address % 4096, 0, "{profile}: {:?}", image.segments());
            assert!(first.address + first.size <= second.address, "{profile}: {:?}", image.segments());
        }
    }
}

#[test]
fn every_relocation_is_one_that_the_entry_code_does() {
    for profile in ["release", "debug"] {
        let (_, image) = read(profile);
        assert!(image.relocated_words() > 0, "{profile}: no relocations: are they read?");
        let others: Vec<_> = image.other_relocations().iter().map(|kind| format!("type {kind}")).collect();
        none(profile, "relocations that boot/src/entry.rs does not know", &others);
    }
}

/// What exeunt/src/cpu.rs takes for granted when it makes another CPU's structure out of zeros: those that the image
/// begins with are in BSS.
#[test]
fn a_cpus_structure_begins_as_zeros() {
    for profile in ["release", "debug"] {
        let data = fs::read(build(profile).elf).unwrap();
        let file = object::File::parse(&*data).unwrap();
        for name in ["exeunt_boot_cpu", "exeunt_spare_cpu"] {
            let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name)).unwrap();
            let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
            assert_eq!(section.kind(), object::SectionKind::UninitializedData, "{profile}: {name}");
        }
    }
}

#[test]
fn the_release_image_is_small() {
    let size = fs::metadata(build("release").bin).unwrap().len();
    println!("release: {size} of {IMAGE_BUDGET} bytes");
    assert!(size <= IMAGE_BUDGET, "the release image has {size} bytes, {IMAGE_BUDGET} are its budget");
}

/// An ELF file whose bytes a test changes.
struct Damaged {
    data: Vec<u8>,
    /// Where the text is in the file, less its address.
    text: usize,
}

impl Damaged {
    fn new() -> Self {
        let data = fs::read(build("release").elf).unwrap();
        let file = object::File::parse(&*data).unwrap();
        let section = file.section_by_name(".text").unwrap();
        let text = (section.file_range().unwrap().0 - section.address()) as usize;
        Self { data, text }
    }

    fn put(&mut self, address: u64, words: &[u32]) {
        for (index, word) in words.iter().enumerate() {
            let at = self.text + address as usize + 4 * index;
            self.data[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
    }

    /// The instructions from `start` to `end`.
    fn words(&self, start: u64, end: u64) -> Vec<u32> {
        let bytes = &self.data[self.text + start as usize..self.text + end as usize];
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn image(&self) -> Image {
        Image::new(&self.data).unwrap()
    }
}

#[test]
fn el2s_mmu_goes_on_with_tcr2_and_sctlr2_at_0() {
    let file = Damaged::new();
    let image = file.image();
    for name in ["boot::entry::mmu_on", "exeunt_reenter"] {
        let function = &image.functions()[root(&image, name)];
        let words = file.words(function.start, function.end);
        let places = |wanted: u32, mask: u32| {
            let matches = move |&(_, word): &(usize, &u32)| word & mask == wanted;
            words.iter().enumerate().filter(matches).map(|(place, _)| place).collect::<Vec<_>>()
        };
        // MSR TCR2_EL2, XZR and MSR SCTLR2_EL2, XZR; MSR SCTLR_EL2, of any register, the last of which turns it on.
        let (tcr2, sctlr2) = (places(0xd51c_207f, !0), places(0xd51c_107f, !0));
        let on = *places(0xd51c_1000, !0x1f).last().unwrap();
        assert!(matches!((&tcr2[..], &sctlr2[..]), (&[tcr2], &[sctlr2]) if tcr2 < sctlr2 && sctlr2 < on), "{name}");
    }
}

#[test]
fn a_forbidden_instruction_anywhere_is_found_with_its_place() {
    let mut damaged = Damaged::new();
    let image = damaged.image();
    let function = &image.functions()[root(&image, "exeunt_main")];
    // ldr q0, [x0]; ldadd x0, x1, [x2]; pacia x0, x1
    let words = [0x3dc00000, 0xf8200041, 0xdac10020];
    damaged.put(function.start + 8, &words);
    let image = damaged.image();
    let offenders = offenders(&image);
    let found: Vec<_> = offenders.iter().map(|offender| (offender.address, offender.word, offender.fault)).collect();
    let expected: Vec<_> = (function.start + 8..)
        .step_by(4)
        .zip(words)
        .zip([Fault::Simd, Fault::Lse, Fault::NotArmv8])
        .map(|((address, word), fault)| (address, word, fault))
        .collect();
    assert_eq!(found, expected);
    assert!(image.place(offenders[0].address).ends_with("exeunt_main+0x8"), "{}", image.place(offenders[0].address));
}

#[test]
fn a_larger_frame_is_seen_in_the_function_and_in_the_chain_above_it() {
    let mut damaged = Damaged::new();
    let image = damaged.image();
    let (outer, inner) = (root(&image, "exeunt::exits::irq"), root(&image, "exeunt::exits::interrupt"));
    let stop = BTreeSet::new();
    let calls = Calls { targets: &|_| &[], nesting: 0, stop: &stop, cycles: &[] };
    let before = image.deepest(outer, &calls).depth;
    // sub sp, sp, #2, lsl #12; add sp, sp, #2, lsl #12; ret
    damaged.put(image.functions()[inner].start, &[0xd1400bff, 0x91400bff, 0xd65f03c0]);
    let image = damaged.image();
    assert!(image.frames()[inner].size >= 8192, "{}", image.frames()[inner].size);
    let chain = image.deepest(outer, &calls);
    assert!(chain.depth >= 8192 && chain.depth > before && chain.path.contains(&inner), "{chain:?}");
    // bl, to itself
    damaged.put(image.functions()[inner].start, &[0xa9be7bfd, 0x97ffffff, 0xd65f03c0]);
    let image = damaged.image();
    assert!(image.cycles(&stop).iter().any(|cycle| cycle.contains(&inner)));
}

#[test]
fn rights_and_relocations_are_read_from_the_file() {
    let mut damaged = Damaged::new();
    // ELF64: e_phoff, then p_flags 4 bytes into the first program header.
    let headers = u64::from_le_bytes(damaged.data[32..40].try_into().unwrap()) as usize;
    damaged.data[headers + 4] |= 2;
    let image = damaged.image();
    assert!(image.segments()[0].writable && image.segments()[0].executable);
    assert!(image.other_relocations().is_empty());

    // The first place that the table names: another function's address in it is one that is taken.
    let (index, table, place) = {
        let file = object::File::parse(&*damaged.data).unwrap();
        let section = file.section_by_name(".relr.dyn").unwrap();
        let address = section.data_range(section.address(), 8).unwrap().unwrap().try_into().unwrap();
        let address = u64::from_le_bytes(address);
        let holder = file.sections().find(|s| (s.address()..s.address() + s.size()).contains(&address)).unwrap();
        let place = holder.file_range().unwrap().0 + address - holder.address();
        (section.index().0, section.file_range().unwrap().0 as usize, place as usize)
    };
    let secondary = root(&image, "exeunt_secondary");
    assert!(!image.address_taken().contains(&secondary));
    damaged.data[place..place + 8].copy_from_slice(&image.functions()[secondary].start.to_le_bytes());
    assert!(damaged.image().address_taken().contains(&secondary));

    // The table made one of entries that name a type (SHT_RELA, 24 bytes each), and the first one's type
    // R_AARCH64_ABS64.
    let sections = u64::from_le_bytes(damaged.data[40..48].try_into().unwrap()) as usize;
    let header = sections + index * 64;
    damaged.data[header + 4..header + 8].copy_from_slice(&4_u32.to_le_bytes());
    damaged.data[header + 32..header + 40].copy_from_slice(&24_u64.to_le_bytes());
    damaged.data[header + 56..header + 64].copy_from_slice(&24_u64.to_le_bytes());
    damaged.data[table + 8..table + 12].copy_from_slice(&257_u32.to_le_bytes());
    assert_eq!(damaged.image().other_relocations(), [257]);
}

#[test]
fn what_cannot_be_judged_is_refused() {
    assert!(matches!(Image::new(b""), Err(Error::NotElf(_))));
    assert!(matches!(Image::new(&fs::read(build("release").bin).unwrap()), Err(Error::NotElf(_))));
    // Without mapping symbols data would pass for instructions, or instructions for data.
    let mut damaged = Damaged::new();
    let range = {
        let file = object::File::parse(&*damaged.data).unwrap();
        file.section_by_name(".strtab").unwrap().file_range().unwrap()
    };
    damaged.data[range.0 as usize..(range.0 + range.1) as usize].fill(0);
    assert_eq!(Image::new(&damaged.data).unwrap_err(), Error::Stripped);
}
