//! `make bench`: what Exeunt costs, in instructions and bytes, beside its goals and its peers.
//!
//! QEMU runs with `-icount shift=0,sleep=off` and a generic timer of 1 GHz: one instruction is one tick, and every
//! figure repeats to the digit. The guest `rounds` reads the counter (`tests/guests/src/rounds.rs`).
//!
//! `make bench BENCH='start calls'` measures these groups alone (`GROUPS`).
//!
//! The peers' figures were measured once, by the same method, with QEMU 10.0.2, cortex-a57 and GICv3; they are
//! constants here.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use harness::cell::Missed;
use harness::machine::{Entry, Machine, PATIENT};
use harness::{images, next, parse, paths, process};
use runner::restart::in_cpus;

/// One instruction is one tick of the counter.
const FREQUENCY: u64 = 1_000_000_000;

/// Goals: instructions from Exeunt's first to the host's first, with one CPU and for each further one.
const START_GOAL: u64 = 124_000;
const START_GOAL_PER_CPU: u64 = 2_000;
/// Goal: bytes of the image.
const IMAGE_GOAL: u64 = 288 * 1024;
/// Goal: bytes of RAM that the host does not have.
const RAM_GOAL: u64 = 2 << 20;
/// Goals: instructions of a round trip, for a stub call to the resident stub and to Exeunt, and for VERSION.
const RESIDENT_GOAL: u64 = 13;
const STUB_GOAL: u64 = 40;
const VERSION_GOAL: u64 = 40;
/// Goals: instructions of a round trip, for calls that need nothing of the machine, for those that look at it, and for
/// a PSCI call that goes through the proxy.
const QUERY_GOAL: u64 = 135;
const LOOK_GOAL: u64 = 300;
const PROXY_GOAL: u64 = 200;
/// Goals: instructions of an access to a register in virtual EL2, and of all that Linux 6.12 does there.
const DOORBELL_LOAD_GOAL: u64 = 325;
const DOORBELL_STORE_GOAL: u64 = 345;
const DOORBELL_CALL_GOAL: u64 = 500;
/// The resident stub's second table, which looks whether it is an SMC.
const OPEN_STUB_GOAL: u64 = 20;
const OPEN_SMC_GOAL: u64 = 30;
const TRACE_GOAL: u64 = 60;
const TRACE_OTHER_GOAL: u64 = 130;
const ACCESS_GOAL: u64 = 480;
const VIRTUAL_EL2_GOAL: u64 = 170_000;

/// Goals: instructions to find the memory of a crash kernel in an image of 3 MiB, and of another exit of the guard's.
const FIND_GOAL: u64 = 2_000_000;
const GUARD_GOAL: u64 = 20_000;
/// Goals: exits that the guard may add to a load of a crash kernel, one when it opens and one when it closes, and to a
/// panic.
const LOAD_EXITS_GOAL: u64 = 2;
const PANIC_EXITS_GOAL: u64 = 1;
/// Goals: instructions from a crash to the crash kernel, with all other CPUs stopped; and, of all CPUs together, for
/// each CPU if all others are stuck.
const STOPPED_GOAL: u64 = 5_000;
const STUCK_GOAL_PER_CPU: u64 = 120_000;

/// Goals: instructions of a tick of the watchdog's, of one that meets interrupts masked, and of its other exits; and
/// ticks of two CPUs in two seconds, with `watchdog=2`.
const TICK_GOAL: u64 = 500;
const MASKED_TICK_GOAL: u64 = 1_200;
const WATCHED_EXIT_GOAL: u64 = 450;
const TICKS_GOAL: u64 = 10;

const RAM_SIZES: [&str; 2] = ["1G", "64G"];
const CPU_COUNTS: [u32; 3] = [1, 8, 32];
const LEAVING_CPUS: [u32; 3] = [1, 4, 16];
const CRASHING_CPUS: [u32; 4] = [1, 4, 16, 64];
/// What the guest is told to measure calls while a crash kernel is guarded.
const GUARDED_CALLS: &str = "calls guarded crashkernel=256M";
/// What the guest is told to measure a crash. The other word is a Linux's, and says that it keeps memory for one.
const CRASH: &str = "crash crashkernel=256M";

/// A timer of the virtual clock that expires every microsecond. One thread of QEMU's runs all CPUs in turns, and a turn
/// ends no later than at the next timer: about 1000 instructions, which the CPUs share. Without it a CPU that waits for
/// another has turns of up to 2^31 instructions.
const SHORT_TURNS: &str = "-netdev hubport,id=turns,hubid=0 -object filter-buffer,id=timer,netdev=turns,interval=1";

type Numbers = BTreeMap<String, u64>;

/// How the guest `rounds` is entered.
#[derive(Clone, Copy, PartialEq)]
enum Under {
    /// By Exeunt.
    Exeunt(Entry),
    /// By Exeunt, with all exits traced.
    Traced(Entry),
    /// By QEMU, at this level.
    Nothing(u32),
}

/// Runs the guest `rounds` and returns its figures.
fn measure(memory: &str, cpus: u32, under: Under, arguments: &str) -> Result<Numbers, Missed> {
    let name = match under {
        Under::Exeunt(entry) => format!("exeunt-{}", entry.name()),
        Under::Traced(entry) => format!("traced-{}", entry.name()),
        Under::Nothing(level) => format!("bare-el{level}"),
    };
    let directory: PathBuf = paths::of_cell("bench").join(format!("{memory}-{cpus}-{name}-{arguments}"));
    let machine = Machine::new(directory)
        .guest(&images::guest("rounds")?, arguments)
        .with("CPU", format!("cortex-a57,cntfrq={FREQUENCY}"))
        .with("MEM", memory)
        .with("SMP", cpus)
        .with_qemu("-icount shift=0,sleep=off");
    let machine = match under {
        Under::Exeunt(entry) => machine.entered(entry, ""),
        Under::Traced(entry) => machine.entered(entry, "trace"),
        Under::Nothing(level) => machine.with("HYPERVISOR", "none").with("EL", level),
    };
    let in_turns = ["leave", CRASH].contains(&arguments);
    let machine = if in_turns { machine.with_qemu(SHORT_TURNS) } else { machine };
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
    // As text: `format_args!` does not pad.
    let name = name.to_string();
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
            // What QEMU's boot stub and the guest itself execute before the guest reads the counter is the same in
            // both.
            let bare = number(&measure(memory, cpus, Under::Nothing(1), "start-only")?, "start")?;
            let start = number(&measure(memory, cpus, Under::Exeunt(Entry::El1), "start-only")?, "start")? - bare;
            let peers = if (cpus, memory) == (1, "1G") {
                "(2 CPUs, 1 GiB) Xen 4.20 1,092,000,000; RITM 1,550,000, debug 24,200,000"
            } else {
                ""
            };
            let goal = START_GOAL + u64::from(cpus - 1) * START_GOAL_PER_CPU;
            row(format_args!("  {}, {memory:>3}", column(cpus)), start, Some(goal), peers);
            by_cpus.entry(cpus).or_insert_with(Vec::new).push(start);
        }
    }
    if let (Some(one), Some(many)) = (by_cpus.get(&1), by_cpus.get(&32)) {
        row("  each further CPU", (many[0] - one[0]).div_ceil(31), Some(START_GOAL_PER_CPU), "");
    }
    for (cpus, starts) in by_cpus {
        let [less, more] = starts[..] else { continue };
        row(
            format_args!("  {}, difference (goal: the same, to 1 %)", column(cpus)),
            more.abs_diff(less),
            Some(less / 100),
            "",
        );
    }
    Ok(())
}

/// The figure and, where it is not the same each time, the largest one.
fn row_of(numbers: &Numbers, name: &str, measured: &str, goal: Option<u64>, beside: &str) -> Result<(), Missed> {
    let most = numbers.get(&format!("{measured}-most"));
    let up_to = most.map_or(String::new(), |&most| format!("(up to {}) ", grouped(most)));
    row(format_args!("  {name}"), number(numbers, measured)?, goal, &format!("{up_to}{beside}"));
    Ok(())
}

fn stub_calls(numbers: &Numbers) -> Result<(), Missed> {
    const IN_RAM: &str = "looks whether the table lies in the host's RAM, which the contract demands";
    heading("Stub calls in `Stub`: instructions, HVC and ERET included");
    for (name, measured, beside) in [
        ("SET_VECTORS", "stub-set-vectors", format!("Linux's stub 8; this one {IN_RAM}")),
        ("RESET_VECTORS", "stub-reset-vectors", "Linux's stub 12".into()),
        ("FINALISE_EL2", "stub-finalise", String::new()),
        ("GET_ICH_VTR_EL2", "stub-ich-vtr", "looks whether the GIC has the register".into()),
        ("unknown", "stub-unknown", "Linux's stub 13; this one looks whether it is REENTER".into()),
    ] {
        row_of(numbers, name, measured, Some(RESIDENT_GOAL), &beside)?;
    }
    heading("Stub calls in `Live`, entry=el2: instructions");
    for (name, measured, beside) in [
        ("SET_VECTORS", "live-set-vectors", IN_RAM),
        ("FINALISE_EL2", "live-finalise", ""),
        ("GET_ICH_VTR_EL2", "live-ich-vtr", ""),
        ("unknown", "live-unknown", ""),
    ] {
        row_of(numbers, name, measured, Some(STUB_GOAL), beside)?;
    }
    Ok(())
}

fn round_trips(numbers: &Numbers) -> Result<(), Missed> {
    heading("Other round trips from EL1: instructions");
    for (name, measured, goal, peers) in [
        ("VERSION (hvc)", "version", Some(VERSION_GOAL), "Xen 425 (XENVER_version)"),
        ("CALL_UID (hvc)", "call-uid", Some(QUERY_GOAL), ""),
        ("FEATURES (hvc)", "features", Some(LOOK_GOAL), ""),
        ("STATUS without a buffer (hvc)", "status", Some(LOOK_GOAL), ""),
        ("RESTART_POLICY, read (hvc)", "restart-policy", Some(LOOK_GOAL), ""),
        ("unknown call of Exeunt's range (hvc)", "hvc-unknown-own", Some(QUERY_GOAL), "RITM 138, debug 922"),
        ("unknown SMCCC call (hvc)", "hvc-unknown-smccc", Some(QUERY_GOAL), "RITM 138, debug 922"),
        ("unknown SMCCC call (smc)", "smc-unknown", Some(QUERY_GOAL), ""),
        (
            "SMCCC_ARCH_WORKAROUND_1 (smc)",
            "smc-workaround-1",
            Some(STUB_GOAL),
            "at each switch of programs on some CPUs",
        ),
        ("PSCI_VERSION (hvc)", "hvc-psci-version", Some(PROXY_GOAL), "Xen 464; RITM 336, debug 2,785"),
        ("PSCI_VERSION (smc)", "smc-psci-version", Some(PROXY_GOAL), ""),
        ("PSCI_FEATURES (smc)", "smc-psci-features", Some(PROXY_GOAL), ""),
        ("AFFINITY_INFO (smc)", "smc-affinity-info", Some(PROXY_GOAL), ""),
        ("SMCCC_VERSION (smc)", "smc-smccc-version", Some(PROXY_GOAL), "Xen 448"),
    ] {
        row_of(numbers, name, measured, goal, peers)?;
    }
    println!("  The floor, `hvc; eret`, is 2.");
    Ok(())
}

fn doorbell(numbers: &Numbers) -> Result<(), Missed> {
    heading("The doorbell: instructions of one access");
    for (name, measured, goal, beside) in [
        ("a load of a register", "doorbell-load", DOORBELL_LOAD_GOAL, ""),
        ("a load of the black box's mirror", "doorbell-mirror", DOORBELL_LOAD_GOAL, ""),
        ("a store of an argument", "doorbell-store", DOORBELL_STORE_GOAL, ""),
        ("the store that makes a call (VERSION)", "doorbell-call", DOORBELL_CALL_GOAL, "12 accesses make a whole call"),
        ("an unknown stub call after a LEAVE by it", "open-unknown", OPEN_STUB_GOAL, ""),
        ("RESET_VECTORS after a LEAVE by it", "open-reset-vectors", OPEN_STUB_GOAL, ""),
        ("PSCI_VERSION (smc) after a LEAVE by it", "open-psci-version", OPEN_SMC_GOAL, "passed on to firmware"),
    ] {
        row_of(numbers, name, measured, Some(goal), beside)?;
    }
    row_of(numbers, "an SMC by which a CPU comes back", "mailbox", None, "")
}

/// What a trace costs. The calls that are answered at once without one are not here: they are not, with one.
fn traced(plain: &Numbers) -> Result<(), Missed> {
    let traced = measure("1G", 1, Under::Traced(Entry::VirtualEl2), "calls")?;
    heading("Exits that are traced: instructions more");
    for (name, measured, goal) in [
        ("CALL_UID (hvc)", "call-uid", TRACE_GOAL),
        ("unknown SMCCC call (hvc)", "hvc-unknown-smccc", TRACE_GOAL),
        ("unknown SMCCC call (smc)", "smc-unknown", TRACE_GOAL),
        ("PSCI_VERSION (smc)", "smc-psci-version", TRACE_GOAL),
        ("a load of the doorbell", "doorbell-load", TRACE_OTHER_GOAL),
        ("a write to a register of EL2, in virtual EL2", "el2-write", TRACE_OTHER_GOAL),
        ("a read of a register of EL2, in virtual EL2", "el2-read", TRACE_OTHER_GOAL),
    ] {
        let [plain, traced] = [number(plain, measured)?, number(&traced, measured)?];
        row(format_args!("  {name}"), traced.saturating_sub(plain), Some(goal), &format!("{plain} without"));
    }
    Ok(())
}

/// The number as it stands in a column of several.
fn column(cpus: u32) -> String {
    format!("{:>7}", in_cpus(cpus))
}

fn leaving(alone: &Numbers) -> Result<(), Missed> {
    const ENTRY: Under = Under::Exeunt(Entry::VirtualEl2);
    heading("Leaving and coming back, entry=el2: instructions");
    for cpus in LEAVING_CPUS {
        let name = format!("RESET_VECTORS, {}, the others spin", column(cpus));
        row_of(&measure("1G", cpus, ENTRY, "reset")?, &name, "reset-vectors", None, "")?;
    }
    for cpus in LEAVING_CPUS {
        let name = format!("LEAVE, {}, the others spin: the sum of all CPUs", column(cpus));
        row_of(&measure("1G", cpus, ENTRY, "leave")?, &name, "leave", None, "")?;
    }
    row_of(alone, "REENTER, at its table", "reenter", None, "")?;
    println!("  LEAVE: what all CPUs execute until the caller goes on, in turns of at most 1,000 instructions.");
    Ok(())
}

/// What SOFT_RESTART costs more under Exeunt than with the plain stub: the guest's own on bare QEMU, which does what
/// Linux's does.
fn restarts() -> Result<(), Missed> {
    const RESIDENT_STUB: &str = "stub-soft-restart";
    let bare = number(&measure("1G", 1, Under::Nothing(2), "restart-bare")?, "restart-bare")?;
    heading("SOFT_RESTART, HVC to the payload's first, entry=el2: instructions");
    row("  a plain stub at EL2, bare QEMU: all of it", bare, None, "");
    for cpus in LEAVING_CPUS {
        let numbers = measure("1G", cpus, Under::Exeunt(Entry::VirtualEl2), "restart")?;
        for policy in ["leave", "resident"] {
            for why in ["crash", "kexec"] {
                let measured = format!("restart-{why}-{policy}");
                let most = numbers.get(&format!("{measured}-most"));
                let up_to = most.map_or(String::new(), |&most| format!("(up to {})", grouped(most - bare)));
                let added = number(&numbers, &measured)? - bare;
                row(format_args!("  {why}, policy {policy}, {}: Exeunt adds", column(cpus)), added, None, &up_to);
            }
        }
        if cpus == 1 {
            row_of(
                &numbers,
                "the resident stub, where Exeunt has left: all of it",
                RESIDENT_STUB,
                Some(RESIDENT_GOAL),
                "",
            )?;
        }
    }
    Ok(())
}

/// What a crash costs until the crash kernel begins, all other CPUs being stopped by the host or stuck.
fn crashes() -> Result<(), Missed> {
    heading("A crash, to the crash kernel's first instruction: instructions");
    for (entry, from) in [(Entry::VirtualEl2, "the SOFT_RESTART"), (Entry::El1, "the first fetch")] {
        for cpus in CRASHING_CPUS {
            let numbers = measure("1G", cpus, Under::Exeunt(entry), CRASH)?;
            if cpus == 1 {
                let name = format!("from {from}, {}", column(cpus));
                row_of(&numbers, &name, "crash-stopped", Some(STOPPED_GOAL), "")?;
                continue;
            }
            let name = format!("from {from}, {}, the others stopped by the host", column(cpus));
            row_of(&numbers, &name, "crash-stopped", Some(STOPPED_GOAL), "")?;
            let name = format!("from {from}, {}, the others stuck: of all CPUs", column(cpus));
            let stuck = number(&numbers, "crash-stuck")?;
            let goal = STUCK_GOAL_PER_CPU * u64::from(cpus);
            let each = format!("{} for each", grouped(stuck / u64::from(cpus)));
            row_of(&numbers, &name, "crash-stuck", Some(goal), &each)?;
        }
    }
    Ok(())
}

/// The counters of a Debian boot.
fn exits(cpus: u32, entry: Entry) -> Result<Numbers, Missed> {
    let directory = paths::of_cell("bench").join(format!("debian-{cpus}-{}", entry.name()));
    let machine = Machine::new(directory).with("SMP", cpus).entered(entry, "stats");
    let ran = machine.with("RUN", "true").run()?.ended_with(0)?;
    Ok(parse::exits(&ran.console).ok_or("Exeunt printed no counters")?)
}

fn boots() -> Result<(), Missed> {
    for cpus in [1, 2] {
        let (plain, el2) = (exits(cpus, Entry::El1)?, exits(cpus, Entry::VirtualEl2)?);
        heading(&format!("Debian 6.12, {}, from start to power-off: exits to EL2", in_cpus(cpus)));
        let peers = if cpus == 2 { "no hypervisor 8 calls; Xen 5,160; RITM 8" } else { "" };
        row("  entry=el1, PSCI calls", plain.get("smc").copied().unwrap_or(0), None, peers);
        let others = plain.iter().filter(|(name, _)| *name != "smc").map(|(_, count)| count).sum();
        row("  entry=el1, all others", others, Some(0), "");
        for (name, count) in el2.iter().filter(|(_, count)| **count > 0) {
            row(format_args!("  entry=el2, {name}"), *count, None, "");
        }
        row("  entry=el2 adds", el2.values().sum::<u64>().abs_diff(plain.values().sum()), None, "");
    }
    Ok(())
}

/// Seconds for two boots and what is between them, on a busy workstation.
const KEXEC_LIMIT: u64 = 900;
/// What the next kernel's command line is in a measured kexec. No address is random.
const NEXT_LINE: &str = "console=ttyAMA0 quiet panic=-1 nokaslr";
/// For both kernels of a measured kexec: KVM would initialise on bare QEMU, and give up under Exeunt.
const WITHOUT_KVM: &str = "kvm-arm.mode=none";
/// A machine without time of day and random numbers of this one's: all that is left is what the guest does.
const ALIKE: &str = "-icount shift=0,sleep=off -machine dtb-randomness=off -rtc base=2026-01-01,clock=vm";

/// A machine that kexecs Debian. `before` runs in the first kernel, `after` in the next one; both get `line`.
fn kexec(name: &str, line: &str, before: &str, after: &str) -> Result<Machine, Missed> {
    let load = format!("kexec -l /next/vmlinuz --initrd=/next/initrd --command-line='{NEXT_LINE} {line}'");
    let script =
        format!("echo first $(/tests/ticks)\n{load} || exit\n{before}\necho left $(/tests/ticks)\nkexec -e\nfalse");
    two_kernels(&format!("kexec-{name}"), line, &script, after)
}

/// A machine that runs `script` in Debian, which has a next kernel at hand, and `after` in that. The first one gets
/// `line`.
fn two_kernels(name: &str, line: &str, script: &str, after: &str) -> Result<Machine, Missed> {
    let directory = paths::of_cell("bench").join(name);
    let ticks = images::programs()?.join("tests/ticks");
    let overlay = next::kernel(&directory, "6.12", after, std::slice::from_ref(&ticks))?;
    std::fs::create_dir_all(overlay.join("tests"))?;
    std::fs::copy(ticks, overlay.join("tests/ticks"))?;
    images::module("6.12", &overlay)?;
    // Beside the overlay: a run takes a directory for itself.
    Ok(Machine::new(directory.join("run"))
        .with("OVERLAY", overlay.display())
        .with("APPEND", line)
        .with("RUN", script)
        .limit(KEXEC_LIMIT))
}

/// Exits to EL2 by class, from the start of the first kernel to the end of the next one, as far as Exeunt is there.
fn kexec_exits(entry: Entry, policy: &str) -> Result<Numbers, Missed> {
    // Linux switches the other CPUs off in a kexec. Done before, all but two stub calls have been made when STATUS is
    // asked.
    const ASK: &str = "\
for cpu in 1 2 3; do echo 0 >/sys/devices/system/cpu/cpu$cpu/online; done
insmod /tests/exeunt_test.ko
exec 3<>/proc/exeunt; echo status >&3; cat <&3; exec 3>&-";
    let leaves = entry == Entry::VirtualEl2 && policy == "leave";
    let before = if leaves { ASK } else { "" };
    let machine = kexec(&format!("exits-{}-{policy}", entry.name()), PATIENT, before, "echo next")?;
    let ran = machine.entered(entry, &format!("restart={policy} stats log=debug")).run()?.ended_with(0)?;
    match (leaves, parse::exits(&ran.console)) {
        (false, exits) => return Ok(exits.ok_or("Exeunt printed no counters")?),
        (true, Some(_)) => return Err("Exeunt was to leave, and is still there at power-off".into()),
        (true, None) => {}
    }
    let mut exits = parse::status_exits(&ran.stdout);
    if exits.is_empty() {
        return Err(format!("STATUS told no counters:\n{}", ran.stdout).into());
    }
    // STATUS itself was an HVC, and the last two came after it; the log has the host's own.
    let stub_calls = ran.console.lines().filter(|line| line.contains("] DEBUG stub call ")).count();
    exits.insert("hvc".to_owned(), stub_calls as u64);
    Ok(exits)
}

/// Ticks at the first kernel's init, at `kexec -e`, and at the next kernel's init.
fn kexec_ticks(name: &str, on: impl FnOnce(Machine) -> Machine) -> Result<[u64; 3], Missed> {
    let machine = kexec(&format!("ticks-{name}"), WITHOUT_KVM, "", "echo next $(/tests/ticks)")?;
    let machine = on(machine.with("SMP", 1).with("CPU", format!("cortex-a57,cntfrq={FREQUENCY}")).with_qemu(ALIKE));
    let ran = machine.run()?.ended_with(0)?;
    let mut ticks = [0; 3];
    for (tick, name) in ticks.iter_mut().zip(["first", "left", "next"]) {
        let value = parse::value(&ran.stdout, name).and_then(|value| value.parse().ok());
        *tick = value.ok_or_else(|| format!("a kernel did not say {name:?}:\n{}", ran.stdout))?;
    }
    Ok(ticks)
}

/// Exits over a whole kexec, and how long it takes beside bare QEMU.
fn kexecs() -> Result<(), Missed> {
    heading("A kexec of Debian 6.12, 4 CPUs, from start to power-off: exits");
    for (entry, policy) in [(Entry::VirtualEl2, "leave"), (Entry::VirtualEl2, "resident"), (Entry::El1, "resident")] {
        let exits = kexec_exits(entry, policy)?;
        let of_each: Vec<String> =
            exits.iter().filter(|(_, count)| **count > 0).map(|(name, count)| format!("{name} {count}")).collect();
        let policy = if entry == Entry::El1 { String::new() } else { format!(", policy {policy}") };
        row(format_args!("  entry={}{policy}", entry.name()), exits.values().sum(), None, &of_each.join(", "));
    }
    println!("  With the policy leave SOFT_RESTART is the last: then Exeunt is gone.");

    heading("A kexec of Debian 6.12, 1 CPU: virtual ns, 1 per instruction, and waits");
    for (level, ways) in [
        (2, &[("entry=el2 restart=leave", "el2, leave"), ("entry=el2 restart=resident", "el2, resident")][..]),
        (1, &[("entry=el1", "el1")]),
    ] {
        let bare =
            |machine: Machine| machine.with("HYPERVISOR", "none").with("EL", level).with_qemu("-machine its=off");
        let bare = kexec_ticks(&format!("bare-el{level}"), bare)?;
        for (options, way) in ways {
            let under = kexec_ticks(&way.replace(", ", "-"), |machine| machine.with("EXEUNT", options))?;
            for (span, from, to) in [
                ("start to the first init", None, 0),
                ("kexec -e to the next init", Some(1), 2),
                ("all of it", None, 2),
            ] {
                let length = |ticks: [u64; 3]| ticks[to] - from.map_or(0, |from: usize| ticks[from]);
                row(format_args!("  entry={way}: {span}"), length(under), None, &beside(length(under), length(bare)));
            }
        }
    }
    Ok(())
}

/// What a guard of the crash kernel costs.
struct Guarded {
    /// Exits of a load, and of the ten seconds after it.
    exits: [u64; 2],
    /// Exits of a panic and all that the crash kernel does, up to its end.
    last: u64,
}

/// A Debian that loads a crash kernel, waits ten seconds, and dies.
fn guarded(option: &str) -> Result<Guarded, Missed> {
    const SCRIPT: &str = "\
insmod /tests/exeunt_test.ko
ask() { exec 3<>/proc/exeunt; echo status >&3; cat <&3; exec 3>&-; echo asked; }
ask; ask
kexec -p /next/vmlinuz --initrd=/next/initrd --command-line='LINE'
ask; sleep 10; ask
echo c >/proc/sysrq-trigger";
    let line = format!("{WITHOUT_KVM} nokaslr crashkernel=256M");
    let script = SCRIPT.replace("LINE", &format!("{NEXT_LINE} {WITHOUT_KVM}"));
    let machine = two_kernels(&format!("guard-{option}"), &line, &script, "echo next")?;
    let machine = machine
        .with("SMP", 1)
        .with("CPU", format!("cortex-a57,cntfrq={FREQUENCY}"))
        .with_qemu(ALIKE)
        .entered(Entry::VirtualEl2, &format!("restart=resident stats guard={option}"));
    let ran = machine.run()?.ended_with(0)?;
    let said = &ran.stdout;
    let asked: Vec<u64> = said.split("asked").map(|status| parse::status_exits(status).values().sum()).collect();
    let all = parse::exits(&ran.console).map(|exits| exits.values().sum::<u64>());
    let (&[before, again, loaded, waited, _], Some(all)) = (asked.as_slice(), all) else {
        return Err(format!("it did not say all:\n{said}").into());
    };
    // What it is to ask is in all of them.
    let asking = again - before;
    Ok(Guarded { exits: [loaded - again - asking, waited - loaded - asking], last: all - waited })
}

/// The guard of the crash kernel: a whole life of a Debian with it and without.
fn guards(alone: &Numbers) -> Result<(), Missed> {
    let [off, on] = [guarded("off")?, guarded("on")?];
    heading("The guard of a crash kernel, Debian 6.12, 1 CPU, entry=el2: exits");
    for (name, [off, on], more) in [
        ("a load by kexec -p", [off.exits[0], on.exits[0]], LOAD_EXITS_GOAL),
        ("ten seconds with a crash kernel that is loaded", [off.exits[1], on.exits[1]], 0),
        ("a panic, and all of the crash kernel", [off.last, on.last], PANIC_EXITS_GOAL),
    ] {
        row(format_args!("  {name}"), on, Some(off + more), &format!("guard=off {}", grouped(off)));
    }
    heading("The guard of a crash kernel: instructions of an exit");
    let guarded = measure("1G", 1, Under::Exeunt(Entry::VirtualEl2), GUARDED_CALLS)?;
    for (name, measured, goal) in [
        ("to find the memory, in an image of 3 MiB", "guard-find", FIND_GOAL),
        ("a load opens it", "guard-opens", GUARD_GOAL),
        ("user space goes on: it is closed", "guard-closes", GUARD_GOAL),
        ("a panic opens a page", "guard-panics", GUARD_GOAL),
        ("a wild write, with its line in the log", "guard-wild", GUARD_GOAL),
    ] {
        row_of(&guarded, name, measured, Some(goal), "")?;
    }
    // Those that come back look whether the memory is still the same.
    let changed = |name: &str| alone.get(name).zip(guarded.get(name)).filter(|(plain, guarded)| plain != guarded);
    for (name, measured) in [("REENTER, with it", "reenter"), ("a mailbox, with it", "mailbox")] {
        row_of(&guarded, name, measured, None, &format!("without {}", grouped(number(alone, measured)?)))?;
    }
    let otherwise: Vec<String> = alone
        .keys()
        .filter(|name| !["start", "reenter", "mailbox"].iter().any(|other| name.starts_with(other)))
        .filter_map(|name| changed(name).map(|(plain, guarded)| format!("{name} {plain} {guarded}")))
        .collect();
    row("  other calls and accesses that cost something else with it", otherwise.len() as u64, Some(0), "");
    for line in otherwise {
        println!("    {line}");
    }
    Ok(())
}

/// The guest `rounds` under a watchdog, or without one.
fn measure_watched(gic: u32, options: &str) -> Result<Numbers, Missed> {
    let directory = paths::of_cell("bench").join(format!("watched-gic{gic}-{options}"));
    let machine = Machine::new(directory)
        .guest(&images::guest("rounds")?, "watched")
        .with("CPU", format!("cortex-a57,cntfrq={FREQUENCY}"))
        .with("GIC", gic)
        .with_qemu("-icount shift=0,sleep=off")
        .entered(Entry::El1, options);
    Ok(parse::rounds(&machine.limit(KEXEC_LIMIT).run()?.ended_with(0)?.console))
}

/// Exits by class in two seconds of a Debian whose two CPUs are busy with each other.
fn busy(gic: u32, options: &str) -> Result<Numbers, Missed> {
    const SCRIPT: &str = "\
insmod /tests/exeunt_test.ko
ask() { exec 3<>/proc/exeunt; echo status >&3; cat <&3; exec 3>&-; echo asked; }
ask; ask
taskset 1 dd if=/dev/zero bs=64k 2>/tmp/said | timeout 2 taskset 2 dd of=/dev/null bs=64k 2>/tmp/said
ask";
    let name = format!("busy-gic{gic}-{}", options.replace('=', ""));
    let machine = two_kernels(&name, WITHOUT_KVM, SCRIPT, "true")?;
    let machine = machine
        .with("SMP", 2)
        .with("GIC", gic)
        .with("CPU", format!("cortex-a57,cntfrq={FREQUENCY}"))
        .with_qemu(ALIKE)
        .entered(Entry::VirtualEl2, &format!("stats {options}"));
    let ran = machine.run()?.ended_with(0)?;
    let asked: Vec<Numbers> = ran.stdout.split("asked").map(parse::status_exits).collect();
    let [before, again, after, ..] = asked.as_slice() else {
        return Err(format!("it did not say all:\n{}", ran.stdout).into());
    };
    let since = |from: &Numbers, to: &Numbers, name: &str| {
        to.get(name).copied().unwrap_or(0) - from.get(name).copied().unwrap_or(0)
    };
    // What it is to ask is in both.
    Ok(after
        .keys()
        .map(|name| (name.clone(), since(again, after, name).saturating_sub(since(before, again, name))))
        .collect())
}

/// The watchdog: its exits in a busy Linux, with it and without, and what each costs.
fn watchdog() -> Result<(), Missed> {
    heading("The watchdog: instructions of an exit");
    for gic in [3, 2] {
        let [off, on] = [measure_watched(gic, "watchdog=off")?, measure_watched(gic, "watchdog=2")?];
        for (name, measured, goal) in [
            ("a tick", "tick", TICK_GOAL),
            ("a tick, interrupts masked", "tick-masked", MASKED_TICK_GOAL),
            ("an interrupt to a CPU", "sgi", WATCHED_EXIT_GOAL),
            ("the end of an interrupt by ICC_DIR_EL1", "deactivate", WATCHED_EXIT_GOAL),
            ("a store to a register of private interrupts", "private", WATCHED_EXIT_GOAL),
        ] {
            // Of a GICv2 it is a store.
            if (gic, measured) == (2, "deactivate") {
                continue;
            }
            let beside = format!("watchdog=off {}", number(&off, measured)?);
            row_of(&on, &format!("GICv{gic}: {name}"), measured, Some(goal), &beside)?;
        }
    }
    heading("The watchdog, Debian 6.12, 2 CPUs, two busy seconds, entry=el2: exits");
    for gic in [3, 2] {
        let [off, on] = [busy(gic, "watchdog=off")?, busy(gic, "watchdog=2")?];
        row(format_args!("  GICv{gic}, watchdog=off"), off.values().sum(), Some(0), "");
        let of_each: Vec<String> =
            on.iter().filter(|(_, count)| **count > 0).map(|(name, count)| format!("{name} {count}")).collect();
        let ticks = on.get("interrupt").copied().unwrap_or(0);
        row(format_args!("  GICv{gic}, watchdog=2: ticks"), ticks, Some(TICKS_GOAL), "");
        row(format_args!("  GICv{gic}, watchdog=2: all"), on.values().sum(), None, &of_each.join(", "));
    }
    Ok(())
}

/// What it is without Exeunt, and how much more or less it is with it.
fn beside(under: u64, bare: u64) -> String {
    let sign = if under < bare { '-' } else { '+' };
    format!("bare QEMU {}, so {sign}{}", grouped(bare), grouped(under.abs_diff(bare)))
}

/// What virtual EL2 costs, by a guest that does at EL2 what Linux does there.
fn virtual_el2(numbers: &Numbers) -> Result<(), Missed> {
    let bare = measure("1G", 1, Under::Nothing(2), "start-only")?;
    heading("Virtual EL2, 1 CPU: instructions");
    for (name, measured) in [
        ("a write to a register of EL2", "el2-write"),
        ("a read of a register of EL2", "el2-read"),
        ("a read of an ID register", "el2-id-read"),
        ("DC IVAC", "el2-dc-ivac"),
    ] {
        row_of(numbers, name, measured, Some(ACCESS_GOAL), "")?;
    }
    let native = number(&bare, "el2-start")?;
    let start = number(numbers, "el2-start")?;
    row(
        "  what Linux 6.12 does there, all together: added",
        start - native,
        Some(VIRTUAL_EL2_GOAL),
        &format!("without Exeunt {}", grouped(native)),
    );
    println!(
        "  The last is of a guest that makes Linux's accesses, 385 of them DC IVAC, without the code between them."
    );
    Ok(())
}

/// What is measured, by the names that the program takes.
const GROUPS: [&str; 12] = [
    "start",
    "calls",
    "traced",
    "leaving",
    "restart",
    "crash",
    "guard",
    "watchdog",
    "virtual-el2",
    "sizes",
    "boots",
    "kexec",
];

fn run(groups: &[String]) -> Result<(), Missed> {
    if let Some(unknown) = groups.iter().find(|group| !GROUPS.contains(&group.as_str())) {
        return Err(format!("there is no group {unknown:?}; they are: {}", GROUPS.join(" ")).into());
    }
    let asked = |group: &str| groups.is_empty() || groups.iter().any(|asked| asked == group);
    let image = std::fs::metadata(images::exeunt()?)?.len();
    println!(
        "Exeunt on QEMU's virt, cortex-a57, GICv3, release build; one run is all: the figures repeat to the digit."
    );
    if asked("start") {
        starts()?;
    }
    if ["calls", "traced", "leaving", "guard", "virtual-el2", "sizes"].into_iter().any(asked) {
        let numbers = measure("1G", 1, Under::Exeunt(Entry::VirtualEl2), "calls")?;
        if asked("calls") {
            stub_calls(&numbers)?;
            round_trips(&numbers)?;
            doorbell(&numbers)?;
        }
        if asked("traced") {
            traced(&numbers)?;
        }
        if asked("leaving") {
            leaving(&numbers)?;
        }
        if asked("guard") {
            guards(&numbers)?;
        }
        if asked("virtual-el2") {
            virtual_el2(&numbers)?;
        }
        if asked("sizes") {
            sizes(image, &numbers)?;
        }
    }
    if asked("restart") {
        restarts()?;
    }
    if asked("crash") {
        crashes()?;
    }
    if asked("watchdog") {
        watchdog()?;
    }
    if asked("boots") {
        boots()?;
    }
    if asked("kexec") {
        kexecs()?;
    }
    Ok(())
}

fn sizes(image: u64, numbers: &Numbers) -> Result<(), Missed> {
    heading("Sizes: bytes");
    row("  image", image, Some(IMAGE_GOAL), "Xen 1,015,816; RITM 131,104, debug 434,208");
    row(
        "  RAM taken from the host",
        number(numbers, "reserved-bytes")?,
        Some(RAM_GOAL),
        "Xen 17.7 MiB of 1 GiB, 67.7 MiB of 4 GiB; RITM 4 MiB",
    );
    Ok(())
}

fn main() -> ExitCode {
    let groups: Vec<String> = std::env::args().skip(1).collect();
    let result = process::end_all_when_asked().map_err(Missed::from).and_then(|()| run(&groups));
    process::stay_if_asked_to_end();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Missed::Failed(reason) | Missed::Skipped(reason)) => {
            eprintln!("bench: {reason}");
            ExitCode::FAILURE
        }
    }
}
