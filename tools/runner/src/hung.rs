//! A host that hangs before its console works: nobody learns of it, unless Exeunt's watchdog looks.
//!
//! A Linux hangs there that is told of an early console which never takes a character: `earlycon=pl011` at a word of
//! RAM that says that the FIFO is full. (One with PREEMPT_RT prints from a thread, see [`crate::ways`].) That is in the
//! middle of its first functions, with everything masked, and before there is a timer, a GIC or memory for a crash
//! kernel. So there is no dump. What Exeunt has left is a line on its console, which says where the host was, and the
//! black box. Owns this way to hang, and what is to be left.

use std::fs;

use dump::Options;
use guest_abi::blackbox::Stop;
use view::Report;

use crate::guest::Script;
use crate::output::Output;
use crate::placement::{EXEUNT, RAM_BASE};
use crate::progress::Progress;
use crate::restart::{MEMORY, Ran, Verdict, Wanted, begin, last_words, run, what_ended};
use crate::settings::Hypervisor;
use crate::workstation::Places;

/// The PL011 that there is not: the last page of the RAM. UARTFR is 0x18 bytes into it, and its bit 5 is TXFF.
const BELOW_END: u64 = 0x1000;
const UARTFR: u64 = 0x18;
const FULL: u32 = 1 << 5;
/// The function that waits for room in the FIFO, and what else Linux may have put into it.
const SPINS_IN: &str = "pl011";
/// The box, alone.
const ALONE: &str = "exeunt.box";
/// In the line by which Exeunt says where a CPU hangs.
const PHYSICAL: &str = "physical address of its PC 0x";
/// In the line by which it says where the host's kernel is.
const KERNEL: &str = "the host: kernel at 0x";
/// How many of each CPU's last exits are shown.
const EXITS: usize = 4;

/// Does it.
///
/// # Errors
/// Something could not be built or started; in words.
pub fn hang(
    wanted: &Wanted,
    is_short: bool,
    places: &Places,
    progress: &Progress,
) -> Result<(Output, Ran, Verdict), String> {
    let mut wanted = wanted.clone();
    let uart = RAM_BASE + wanted.settings.mem.1 - BELOW_END;
    wanted.earlycon = format!("earlycon=pl011,{uart:#x}");
    let word = format!("loader,addr={:#x},data={FULL:#x},data-len=4", uart + UARTFR);
    wanted.settings.qemu_extra.extend(["-device".to_owned(), word]);
    if wanted.with_exeunt() {
        wanted.traced = Some("kdump");
    }
    let output = begin(&wanted, places, progress, "kdump", &wanted.parts(), (&[], &[]))?;
    fs::create_dir_all(output.file("overlay")).map_err(|error| error.to_string())?;
    let script = "echo first bad it did not hang; false\n".to_owned();
    let (output, ran) = run(&wanted, places, output, script, &["first"], progress, |_| None)?;
    let mut verdict = Verdict::default();
    verdict.line(&ran.facts);
    if let Some(why) = what_ended(&ran) {
        verdict.wrong.push(why);
    }
    if wanted.with_exeunt() {
        let lines = ran.console.lines().filter(|line| line.contains("[exeunt "));
        lines.for_each(|line| verdict.line(line));
        if let Err(why) = judge(&wanted, is_short, &ran, &output, places, progress, &mut verdict) {
            verdict.wrong.push(why);
        }
    } else {
        // It stood still until nobody waited any longer.
        verdict.wrong.push(last_words(&ran.console));
    }
    progress.end();
    Ok((output, ran, verdict))
}

/// What Exeunt has left of it.
fn judge(
    wanted: &Wanted,
    is_short: bool,
    ran: &Ran,
    output: &Output,
    places: &Places,
    progress: &Progress,
    verdict: &mut Verdict,
) -> Result<(), String> {
    let hex_after = |words: &str| {
        let (_, rest) = ran.console.split_once(words)?;
        let digits = rest.split(|digit: char| !digit.is_ascii_hexdigit()).next()?;
        u64::from_str_radix(digits, 16).ok()
    };
    for words in ["CPU 0: hangs, with interrupts masked", "CPU 0: hangs, though the host was to panic"] {
        verdict.check(ran.console.contains(words), || format!("Exeunt does not say \"{words}\""));
    }
    let place = hex_after(PHYSICAL).ok_or("Exeunt does not say where it hung")?;
    let kernel = hex_after(KERNEL).ok_or("Exeunt does not say where the kernel is")?;

    let options = Options { base: Some(RAM_BASE + EXEUNT), ..Options::default() };
    let found = dump::find(&output.file(MEMORY), &options)?;
    let alone = output.file(ALONE);
    fs::write(&alone, &found.bytes).map_err(|error| format!("{}: {error}", alone.display()))?;
    let report = Report::of(&found.black_box());
    verdict.line(&if is_short { report.short().to_string() } else { report.text(EXITS).to_string() });
    let offset_in_page = |address: u64| address % 0x1000;
    let stop = report.stops.iter().find(|stop| stop.why == Stop::GivenUp.words());
    let stop = stop.ok_or("the black box does not say that the host was given up")?;
    // Its kernel may be anywhere in virtual memory; the offset in a page is the same.
    let is_there =
        stop.cpu == 0 && offset_in_page(stop.pc.0).abs_diff(offset_in_page(place)) < 128 && stop.pc.0 >> 48 == 0xffff;
    verdict.check(is_there, || format!("the black box: CPU {} was at {:#x}", stop.cpu, stop.pc.0));
    verdict.check(report.death.is_none(), || "the black box: Exeunt itself has died".to_owned());

    let offset = place.wrapping_sub(kernel);
    progress.phase("the same kernel says what is there");
    let name = name_of(wanted, offset, output, places, progress)?;
    verdict.line(&format!("the host hung at {offset:#x} of its Image: {name}"));
    verdict.line(&format!("the black box: scripts/exeunt-dump {}", places.short(&alone)));
    verdict.check(name.contains(SPINS_IN), || format!("it hung in {name}"));
    verdict.why = format!("there is no dump; the log and the black box say that the host hung in {name}");
    Ok(())
}

/// What is at this offset of the host's Image: asked of the same kernel, which comes up where nobody lets it hang.
fn name_of(
    wanted: &Wanted,
    offset: u64,
    output: &Output,
    places: &Places,
    progress: &Progress,
) -> Result<String, String> {
    let mut settings = wanted.settings.clone();
    settings.hypervisor = Hypervisor::NoneAtEl1;
    let wanted = Wanted { settings, traced: None, ..wanted.clone() }.with_usual_earlycon();
    let output = Output::take(&output.file("names")).map_err(|error| error.to_string())?;
    fs::create_dir_all(output.file("overlay")).map_err(|error| error.to_string())?;
    let script = Script::HungWhere.with(&[("offset", &offset.to_string())]);
    let (_, ran) = run(&wanted, places, output, script, &["first"], progress, |_| None)?;
    match ran.said.last("first", "place") {
        "" => Err(what_ended(&ran).unwrap_or_else(|| last_words(&ran.console))),
        name => Ok(name.to_owned()),
    }
}
