//! What came of a lab: from the console of its run to a sentence.
//!
//! The frames of the labs (`examples/labs`) say `lab: solved` or `lab: saw`. Where neither stands the run has ended in
//! another way, and what the console says last is looked at.

use std::fmt;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Solved, and what the frame says about it.
    Solved(String),
    /// Not yet: what was seen instead.
    NotYet(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Solved(what) => write!(f, "solved: {what}"),
            Self::NotYet(what) => write!(f, "not yet: {what}"),
        }
    }
}

/// What follows `mark` in the last line that has it.
fn after<'a>(console: &'a str, mark: &str) -> Option<&'a str> {
    console.lines().rev().find_map(|line| Some(line.split_once(mark)?.1.trim()))
}

/// Judges a run by its console.
#[must_use]
pub fn judge(console: &str) -> Verdict {
    // A program can print what it likes; the frame prints once, and ends the machine with the status that goes with it.
    let ended_well = console.lines().any(|line| line.trim() == "exeunt-run: exit status 0");
    if let Some(what) = after(console, "lab: saw: ") {
        return Verdict::NotYet(what.to_owned());
    }
    if let (Some(what), true) = (after(console, "lab: solved: "), ended_well) {
        return Verdict::Solved(what.to_owned());
    }
    for (mark, means) in [
        ("and no vectors to take it to", "an exception in virtual EL2, for which your program has no vectors"),
        ("EXEUNT CANNOT START: ", "Exeunt did not start"),
        ("FAIL: ", "your program took an exception that nobody expected, or panicked"),
        ("EXEUNT PANIC: ", "Exeunt died, which is a fault of Exeunt's: please report it"),
    ] {
        let lines: Vec<&str> = console.lines().map(str::trim).collect();
        if let Some(index) = lines.iter().rposition(|line| line.contains(mark)) {
            // A panic says in the first line where it was, and why in the second.
            let more = lines.get(index + 1).filter(|_| lines[index].contains("FAIL: panicked at "));
            let why = more.map_or(String::new(), |why| format!(" {why}"));
            return Verdict::NotYet(format!("{means}: {}{why}", lines[index]));
        }
    }
    let last = console.lines().rev().map(str::trim).find(|line| !line.is_empty());
    Verdict::NotYet(match last {
        Some(line) => format!("the machine did not come to an end; its last line is: {line}"),
        None => "the machine has printed nothing".to_owned(),
    })
}

/// The answers of the eighth lab: lines `NAME = VALUE`, without those that begin with `#`.
fn answer<'a>(answers: &'a str, name: &str) -> &'a str {
    let lines = answers.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == name)
        .map_or("", |(_, value)| value.trim())
}

/// Judges the answers of the eighth lab against a run in which Exeunt was broken, and its report with names.
#[must_use]
pub fn judge_answers(answers: &str, console: &str, symbolized: &str) -> Verdict {
    let Some(panic) = after(console, "EXEUNT PANIC: ") else {
        return Verdict::NotYet("Exeunt has not died in that run".to_owned());
    };
    let register = |name: &str| {
        let rest = console.lines().find_map(|line| line.split_once(&format!("{name} 0x")))?.1;
        u64::from_str_radix(rest.split_whitespace().next()?, 16).ok()
    };
    let Some(esr) = register("ESR") else { return Verdict::NotYet("the report has no ESR".to_owned()) };
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let wrong = |name: &str, why: &str| Verdict::NotYet(format!("{name} = {}: {why}", answer(answers, name)));
    if number(answer(answers, "class")) != Some(esr >> 26) {
        return wrong("class", "ESR_EL2.EC of the report is something else");
    }
    // Instruction aborts have classes of their own; of a data abort bit 6 says which way it went.
    let access = match (esr >> 26, esr >> 6 & 1) {
        (0x20 | 0x21, _) => "fetch",
        (_, 1) => "store",
        _ => "load",
    };
    if answer(answers, "access") != access {
        return wrong("access", "the class and bit 6 of ESR_EL2 say otherwise");
    }
    // DFSC, bits 5 to 0: 0b0001LL is a translation fault, 0b0011LL a permission fault, LL the level.
    let fault = match esr >> 2 & 0xf {
        0b0001 => "translation",
        0b0011 => "permission",
        _ => "other",
    };
    if answer(answers, "fault") != fault {
        return wrong("fault", "bits 5 to 2 of ESR_EL2 say otherwise: translation or permission");
    }
    if number(answer(answers, "level")) != Some(esr & 0b11) {
        return wrong("level", "bits 1 and 0 of ESR_EL2 are something else");
    }
    // #0 of the backtrace is the instruction that faulted, with the functions that it is inlined into.
    let first = symbolized.split_once("#0").map_or("", |(_, rest)| rest.split("#1").next().unwrap_or_default());
    let function = answer(answers, "function");
    if function.is_empty() || !first.contains(function) {
        return wrong("function", "scripts/symbolize names another one at #0");
    }
    let went_on = console.contains("the host goes on at ");
    if (answer(answers, "host") == "went on") != went_on || answer(answers, "host").is_empty() {
        return wrong("host", "the last line of the report says what became of the host: went on, or did not");
    }
    Verdict::Solved(format!("you can read how Exeunt died: {panic}"))
}

/// What the kernel says of the ways to die that `make drill` has, and which they are.
const KNOWN: [(&str, &str); 6] = [
    ("NULL pointer dereference", "null, and many others of the drill's"),
    ("kernel BUG at", "bug"),
    ("kernel stack overflow", "overflow"),
    ("sysrq triggered crash", "sysrq"),
    ("SError Interrupt", "panic, lockup"),
    ("synchronous external abort", "wild"),
];

/// How a line of Linux's begins that says why it dies.
const CAUSES: [&str; 3] = ["Unable to handle kernel ", "Internal error: ", "Kernel panic - not syncing: "];

/// The function that called `panic()` on the CPU that died, by the backtraces in the report: empty if it has no name.
fn who_panicked(report: &str) -> Option<&str> {
    let mut frames = report.lines().skip_while(|line| !(line.starts_with('#') && line.contains("  panic+")));
    let caller = frames.nth(1)?.strip_prefix('#')?.split_once(' ')?.1.trim();
    Some(if caller.starts_with("0x") { "" } else { caller })
}

/// Judges the death of a kernel: `report` is what `make kdump` said, `dmesg` the log of the kernel in the dump.
#[must_use]
pub fn judge_death(report: &str, dmesg: &str) -> Verdict {
    if report.contains(": it survived") {
        return Verdict::NotYet("your function has returned, and the kernel lives on".to_owned());
    }
    let last = report.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it has said nothing");
    let Some(passed) = last.strip_prefix("PASS: ") else { return Verdict::NotYet(last.to_owned()) };
    let cause = dmesg.lines().find_map(|line| CAUSES.iter().find_map(|cause| Some(&line[line.find(cause)?..])));
    let Some(cause) = cause else { return Verdict::NotYet("the kernel's log does not say why it died".to_owned()) };
    let is_known = |words: &str| dmesg.lines().any(|line| line.contains(words));
    if let Some((words, kinds)) = KNOWN.iter().find(|(words, _)| is_known(words)) {
        return Verdict::NotYet(format!("the drill has that: its log says \"{words}\", as with CRASH= {kinds}"));
    }
    if who_panicked(report) == Some("") {
        return Verdict::NotYet(
            "you call panic() yourself, as `sysrq` does: have Linux or the CPU find the mistake".to_owned(),
        );
    }
    Verdict::Solved(format!("it died of \"{}\"; {}", cause.trim(), passed.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_what_came_of_it() {
        let solved = "lab: x\r\nlab: solved: CPU 0x1 is up\r\nexeunt-run: exit status 0\r\n";
        assert_eq!(judge(solved), Verdict::Solved("CPU 0x1 is up".to_owned()));
        let saw = "lab: saw: turn_on() gives -1\nexeunt-run: exit status 1\n";
        assert_eq!(judge(saw), Verdict::NotYet("turn_on() gives -1".to_owned()));
    }

    #[test]
    fn a_program_cannot_say_so_itself() {
        let printed = "lab: solved: said I\nlab: saw: a wrong answer\nexeunt-run: exit status 1\n";
        assert_eq!(judge(printed), Verdict::NotYet("a wrong answer".to_owned()));
        assert!(matches!(judge("lab: solved: said I\n"), Verdict::NotYet(_)));
    }

    #[test]
    fn what_else_can_happen_is_said() {
        let said = |console| judge(console).to_string();
        let vectors =
            "[exeunt 0.1 cpu0] ERROR host in virtual EL2 at 0x1: HVC, and no vectors to take it to; CPU stopped\n";
        assert!(said(vectors).starts_with("not yet: an exception in virtual EL2"), "{}", said(vectors));
        assert!(said("FAIL: unexpected exception on CPU 0\n").contains("unexpected exception on CPU 0"));
        let panic = "FAIL: panicked at yours/lab_4.rs:17:9:\r\nindex out of bounds\r\nexeunt-run: exit status 101\r\n";
        assert!(said(panic).ends_with("lab_4.rs:17:9: index out of bounds"), "{}", said(panic));
        assert!(said("hello\n\n").ends_with("its last line is: hello"));
        assert!(said("").ends_with("printed nothing"));
    }

    const REPORT: &str = "\
[exeunt 1.0 cpu0] EXEUNT PANIC: data abort from EL2: permission fault, level 3, write, FAR 0x4021f8cc
[exeunt 1.0 cpu0]   ELR 0x000000004021f990 SPSR 0x600003c9 ESR 0x9600004f FAR 0x000000004021f8cc
[exeunt 1.0 cpu0]   the host goes on at 0xffffcbb20f227cdc, without Exeunt on this CPU\n";
    const NAMES: &str =
        "#0  0x0001f990  exeunt::selftest::write_text at exeunt/src/selftest.rs:40\n#1  0x1  exeunt::calls\n";
    const RIGHT: &str =
        "# yours\nclass = 0x25\naccess = store\nfault = permission\nlevel = 3\nfunction = write_text\nhost = went on\n";

    #[test]
    fn answers_are_compared_with_the_report() {
        assert!(matches!(judge_answers(RIGHT, REPORT, NAMES), Verdict::Solved(_)));
        for (right, wrong) in [
            ("0x25", "0x24"),
            ("store", "load"),
            ("permission", "translation"),
            ("level = 3", "level = 2"),
            ("write_text", "calls"),
            ("went on", ""),
        ] {
            let verdict = judge_answers(&RIGHT.replace(right, wrong), REPORT, NAMES);
            assert!(matches!(verdict, Verdict::NotYet(_)), "{wrong}: {verdict}");
        }
        assert!(matches!(judge_answers(RIGHT, "no panic", NAMES), Verdict::NotYet(_)));
        assert!(matches!(judge_answers("", REPORT, NAMES), Verdict::NotYet(_)));
    }

    const DUMPED: &str = "\
CPU 0, pc 0xffffbc301d5b806c, pstate 0xc5
#0  __crash_kexec+0x164/0x180
#1  vpanic+0x12c/0x338
#2  panic+0x68/0x68
#3  die+0x2c0/0x2c8
PASS: Exeunt left at SOFT_RESTART, the dump has the panic and the backtraces of 4 CPUs (target/lab-11/report.txt)\n";
    const LOG: &str = "\
[   16.1] exeunt_test: crash yours on CPU 0
[   16.2] Internal error: Oops - Undefined instruction: 0000000002000000 [#1] SMP
[   16.3] Kernel panic - not syncing: Oops - Undefined instruction: Fatal exception\n";

    #[test]
    fn a_death_is_new_or_the_drills() {
        let said = |report: &str, dmesg: &str| judge_death(report, dmesg).to_string();
        let solved = said(DUMPED, LOG);
        assert!(solved.starts_with("solved: it died of \"Internal error: Oops - Undefined instruction"), "{solved}");
        let lives = "FAIL: first: it survived (console: target/lab-11/console.log)\n";
        assert!(said(lives, "").ends_with("the kernel lives on"));
        assert_eq!(said("FAIL: there is no dump (report)\n", ""), "not yet: FAIL: there is no dump (report)");
        let null = "[ 1.0] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000\n";
        assert!(said(DUMPED, null).contains("the drill has that"));
        assert!(said(DUMPED, "").ends_with("does not say why it died"));
        // In a module, which has no names.
        let by_hand = DUMPED.replace("#3  die+0x2c0/0x2c8", "#3  0xffffbc301d5b806c");
        assert!(said(&by_hand, "[ 1.0] Kernel panic - not syncing: mine\n").contains("you call panic() yourself"));
        assert!(said(DUMPED, "[ 1.0] Kernel panic - not syncing: stack-protector\n").starts_with("solved"));
    }
}
