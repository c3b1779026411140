//! `make bench`: what Exeunt costs, in instructions and bytes, beside its goals and its peers.
//!
//! QEMU runs with `-icount shift=0,sleep=off` and a generic timer of 1 GHz: one instruction is one tick, and every figure repeats
//! to the digit. The guest `rounds` reads the counter (`tests/guests/src/rounds.rs`).
//!
//! The peers' figures were measured once, by the same method, with QEMU 10.0.2, cortex-a57 and GICv3; they are constants here.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use harness::cell::Missed;
use harness::machine::Machine;
use harness::{images, parse, paths};

/// One instruction is one tick of the counter.
const FREQUENCY: u64 = 1_000_000_000;

/// Goal: instructions from Exeunt's first to the host's first.
const START_GOAL: u64 = 200_000;
/// Goal: bytes of the image.
const IMAGE_GOAL: u64 = 128 * 1024;
/// Goal: bytes of RAM that the host does not have.
const RAM_GOAL: u64 = 2 << 20;
/// Goals: instructions of a round trip, for a stub call and for a call of a hypervisor's own.
const STUB_GOAL: u64 = 40;
const VENDOR_GOAL: u64 = 60;

const RAM_SIZES: [&str; 2] = ["1G", "64G"];
const CPU_COUNTS: [u32; 3] = [1, 8, 32];

type Numbers = BTreeMap<String, u64>;

/// Runs the guest `rounds` and returns its figures.
fn measure(memory: &str, cpus: u32, exeunt: bool, arguments: &str) -> Result<Numbers, Missed> {
    let directory: PathBuf = paths::of_cell("bench").join(format!("{memory}-{cpus}-{exeunt}"));
    let machine = Machine::new(directory)
        .guest(&images::guest("rounds")?, arguments)
        .with("CPU", format!("cortex-a57,cntfrq={FREQUENCY}"))
        .with("MEM", memory)
        .with("SMP", cpus)
        .with_qemu("-icount shift=0,sleep=off");
    let machine = if exeunt { machine } else { machine.with("HYPERVISOR", "none").with("EL", 1) };
    let numbers = parse::rounds(&machine.run()?.ended_with(0)?.console);
    if numbers.get("frequency") == Some(&FREQUENCY) {
        Ok(numbers)
    } else {
        Err(format!("the counter does not run at {FREQUENCY} Hz: {numbers:?}").into())
    }
}

fn number(numbers: &Numbers, name: &str) -> Result<u64, Missed> {
    numbers.get(name).copied().ok_or_else(|| format!("the guest did not measure {name}").into())
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn verdict(value: u64, goal: u64) -> &'static str {
    if value <= goal { "PASS" } else { "over" }
}

/// Columns for what is measured.
const WIDTH: usize = 64;

fn row(name: impl Display, value: u64, goal: Option<u64>, peers: &str) {
    let (goal, verdict) = goal.map_or((String::new(), ""), |goal| (grouped(goal), verdict(value, goal)));
    println!("{name:<WIDTH$} {:>10} {goal:>10}  {verdict:<5} {peers}", grouped(value));
}

fn heading(text: &str) {
    println!("\n{text:<WIDTH$} {:>10} {:>10}  {:<5} peers", "Exeunt", "goal", "");
}

fn starts() -> Result<(), Missed> {
    heading("Start: instructions to the host's first");
    let mut by_cpus = BTreeMap::new();
    for cpus in CPU_COUNTS {
        for memory in RAM_SIZES {
            // What QEMU's boot stub and the guest itself execute before the guest reads the counter is the same in both.
            let bare = number(&measure(memory, cpus, false, "start-only")?, "start")?;
            let start = number(&measure(memory, cpus, true, "start-only")?, "start")? - bare;
            let peers = if (cpus, memory) == (1, "1G") {
                "(2 CPUs, 1 GiB) Xen 4.20 1,092,000,000; RITM 1,550,000, debug 24,200,000"
            } else {
                ""
            };
            row(format_args!("  {cpus:2} CPUs, {memory:>3}"), start, Some(START_GOAL), peers);
            by_cpus.entry(cpus).or_insert_with(Vec::new).push(start);
        }
    }
    for (cpus, starts) in by_cpus {
        let [less, more] = starts[..] else { continue };
        row(
            format_args!("  {cpus:2} CPUs, difference (goal: the same, to 1 %)"),
            more.abs_diff(less),
            Some(less / 100),
            "",
        );
    }
    Ok(())
}

fn round_trips() -> Result<Numbers, Missed> {
    let numbers = measure("1G", 1, true, "")?;
    heading("Round trips from EL1: instructions, HVC or SMC and ERET included");
    for (name, measured, goal, peers) in [
        ("unknown stub call (hvc)", "hvc-unknown-stub", Some(STUB_GOAL), "Linux's stub 13"),
        (
            "unknown SMCCC call (hvc)",
            "hvc-unknown-smccc",
            Some(VENDOR_GOAL),
            "Xen 425 (XENVER_version); RITM 138, debug 922",
        ),
        ("PSCI_VERSION (hvc)", "hvc-psci-version", None, "Xen 464; RITM 336, debug 2,785"),
        ("PSCI_VERSION (smc)", "smc-psci-version", None, ""),
        ("PSCI_FEATURES (smc)", "smc-psci-features", None, ""),
        ("AFFINITY_INFO (smc)", "smc-affinity-info", None, ""),
        ("unknown SMCCC call (smc)", "smc-unknown", None, ""),
    ] {
        row(format_args!("  {name}"), number(&numbers, measured)?, goal, peers);
    }
    println!(
        "  The floor, `hvc; eret`, is 2. The goals of the first two are those of the stub ABI and of Exeunt's own calls."
    );
    Ok(numbers)
}

/// The counters of a Debian boot, for the table of exits.
fn exits() -> Result<(), Missed> {
    let machine = Machine::new(paths::of_cell("bench").join("debian")).with("SMP", 2).with("EXEUNT", "entry=el1 stats");
    let ran = machine.with("RUN", "true").run()?.ended_with(0)?;
    let exits = parse::exits(&ran.console).ok_or("Exeunt printed no counters")?;
    heading("Debian 6.12, 2 CPUs, from start to power-off: exits to EL2");
    row("  PSCI calls", exits.get("smc").copied().unwrap_or(0), None, "no hypervisor 8 calls; Xen 5,160; RITM 8");
    row("  all others", exits.iter().filter(|(name, _)| *name != "smc").map(|(_, count)| count).sum(), Some(0), "");
    Ok(())
}

fn run() -> Result<(), Missed> {
    let image = std::fs::metadata(images::exeunt()?)?.len();
    println!(
        "Exeunt on QEMU's virt, cortex-a57, GICv3, release build; one run is all: the figures repeat to the digit."
    );
    starts()?;
    let numbers = round_trips()?;
    heading("Sizes: bytes");
    row("  image", image, Some(IMAGE_GOAL), "Xen 1,015,816; RITM 131,104, debug 434,208");
    row(
        "  RAM taken from the host",
        number(&numbers, "reserved-bytes")?,
        Some(RAM_GOAL),
        "Xen 17.7 MiB of 1 GiB, 67.7 MiB of 4 GiB; RITM 4 MiB",
    );
    exits()
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Missed::Failed(reason) | Missed::Skipped(reason)) => {
            eprintln!("bench: {reason}");
            ExitCode::FAILURE
        }
    }
}
