//! `make gdb` with its commands, in batch against a real QEMU: what they say of a machine of which everything is known.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Entry, Machine};
use crate::{ensure, images, paths, process};

/// What gdb says to `commands`, one after the other; then what it complains of. A command that fails is no reason to
/// stop.
fn gdb(machine: Machine, commands: &[&str]) -> Result<String, Missed> {
    let mut arguments = "-batch".to_owned();
    for command in commands {
        ensure!(!command.contains('\''), "{command}: quotes are not passed on here");
        let _ = write!(arguments, " -ex '{command}'");
    }
    // gdb ends as the last command does.
    arguments.push_str(" -ex 'echo end\\n'");
    let ran = machine.own_build().with("GDB_ARGS", arguments).make(&["gdb"])?.ended_with(0)?;
    // A mistake in a script is a sentence for a person.
    let said = format!("{}\n{}", ran.stdout, ran.stderr);
    ensure!(!said.contains("Traceback") && !said.contains("Python Exception"), "gdb's script broke:\n{said}");
    Ok(said)
}

/// All of `texts` are there, in this order, which is that of the commands.
fn in_order(said: &str, texts: &[&str]) -> Outcome {
    let mut rest = said;
    for text in texts {
        let Some(place) = rest.find(text) else {
            return Err(Missed::Failed(format!("{text:?} is missing, or not where it belongs, in:\n{said}")));
        };
        rest = &rest[place + text.len()..];
    }
    Ok(())
}

/// The words of a line, whatever is between them.
fn has_line(said: &str, words: &str) -> Outcome {
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(said.lines().any(|line| squeezed(line) == words), "no line is {words:?}:\n{said}");
    Ok(())
}

/// At the first trap of all: a host in virtual EL2 asks for CurrentEL.
fn commands(context: &Context) -> Outcome {
    let machine = context.machine().with("SMP", 2);
    let said = gdb(
        machine,
        &[
            "trapbreak undefined",
            "continue",
            "trap",
            "el2",
            "s2 0x40000000",
            "s2 0x40200000",
            "s2 0x9000000",
            "s2",
            "hostmem /g 0x40400038 1",
            "stepi",
            "info symbol $pc",
            "delete",
            "trapbreak hvc",
            "continue",
            "trap",
            "s2 $ELR_EL2",
            "hostmem /i $ELR_EL2-4 1",
            "life",
            "maintenance packet qqemu.PhyMemMode",
        ],
    )?;
    in_order(
        &said,
        &[
            "The first five things to type:",
            "trapbreak undefined: CPU 0, unknown reason",
            "at the vector: synchronous, from the host, AArch64",
            "mrs x19, currentel",
            "from EL0 (virtual EL2); masked: D, A, I, F",
            "FAR_EL2   = ",
            "not of this exception",
            "HCR_EL2 = ",
            "stage 2 translates what EL1 and EL0 access",
            "the host is in virtual EL2",
            "intermediate physical addresses (IPA) of 40 bits",
            "Exeunt's own vectors",
            "EL2's MMU is on",
            "IPA 0x40000000: IPAs of 40 bits, 4 KiB granule, from level 1 on, 2 tables in a row",
            "block of 2 MiB: physical 0x40000000, the same",
            "the host may execute",
            "ends here: invalid descriptor: translation fault, level",
            "Exeunt's own 2 MiB, which the host does not have",
            "block of 1 GiB: physical 0x9000000, the same",
            "execute-never",
            "stage 2: IPAs of 40 bits",
            // The magic of an arm64 Image, "ARMd", is at its offset 56.
            "0x40400038:  0x00000040644d5241",
            "exeunt_vectors + 1028",
            "trapbreak hvc: CPU 0, HVC #0x0",
            "hvc #0x0",
            "from EL1h",
            "x0 to x3, as they are: 0x3,",
            "the call: FINALISE_EL2",
            "by the host's stage 1",
            "the host may execute",
            "hvc\t#0x0",
            "CPU 0: live: Exeunt's vectors, stage 2 and traps are in force",
            "its host was entered at virtual EL2",
            "CPU 1: outside: EL2 is not set up",
            "black box at 0x403f0000: version ",
            "Exeunt starts",
            // gdb reads memory as before.
            "received: \"0\"",
        ],
    )?;
    for line in [
        "0x000000000000 0x00003fffffff 1 GiB rw- Normal, Write-Back 1 x 1 GiB",
        "0x000040000000 0x0000401fffff 2 MiB rwx Normal, Write-Back 1 x 2 MiB",
        "0x000040400000 0x00007fffffff 1020 MiB rwx Normal, Write-Back 510 x 2 MiB",
        "0x000080000000 0x00ffffffffff 1022 GiB rw- Normal, Write-Back 1022 x 1 GiB",
    ] {
        has_line(&said, line)?;
    }
    Ok(())
}

/// The first five things to type, as the greeting has them, do what it says.
fn first_five(context: &Context) -> Outcome {
    let said = gdb(context.machine(), &["info registers pc"])?;
    let start = said.find("The first five things to type:\n");
    let start = start.ok_or_else(|| Missed::Failed(format!("no greeting:\n{said}")))?;
    let lines = said[start..].lines().skip(1).take(5);
    let typed: Vec<&str> = lines.filter_map(|line| line.trim().split("  ").next()).collect();
    ensure!(typed.len() == 5 && typed.contains(&"continue"), "the greeting has {typed:?}");
    let said = gdb(context.machine(), &typed)?;
    in_order(&said, &["stops at undefined", "trapbreak undefined: CPU 0", "ESR_EL2   = ", "HCR_EL2 = ", "level 2"])
}

/// What a person gets wrong is answered by a sentence, and gdb's memory is what it was.
fn mistakes(context: &Context) -> Outcome {
    let said = gdb(
        context.machine(),
        &[
            "s2",
            "trap",
            "life",
            "el2 nonsense",
            "trapbreak hv",
            "trapbreak 64",
            "trapbreak",
            "linux",
            "linux /nowhere",
            "trapbreak undefined",
            "continue",
            "s2 nonsense",
            "s2 0x800000000000",
            "hostmem",
            "hostmem /z 0x40000000",
            "hostmem 0x40000000 0x10000000",
            "trap now",
            "trace 0",
            "linux README.md",
            "help s2",
            "maintenance packet qqemu.PhyMemMode",
        ],
    )?;
    for words in [
        "s2: VTCR_EL2 and VTTBR_EL2 are 0",
        "CPU 0: there was no exception to EL2 yet",
        "it does not know its CPUs yet",
        "el2: nonsense: it knows HCR_EL2",
        "trapbreak: hv: no class of exceptions is called so; perhaps hvc",
        "trapbreak: 64: ESR_EL2.EC is a number from 0 to 63",
        "trapbreak CLASS stops at exceptions",
        "linux: which file?",
        "linux: /nowhere: there is no such file",
        "s2: nonsense: it is no address: No symbol",
        "an address has 40 bits here",
        "hostmem: which address?",
        "hostmem: /z: it knows /i, /g and /s",
        "is no sensible count",
        "trap: it takes no argument",
        "trace: 0 is no sensible number",
        "linux: README.md: this is no ELF",
        "the host's stage 2, read from the tables in memory",
        "received: \"0\"",
    ] {
        ensure!(said.contains(words), "{words:?} is missing in:\n{said}");
    }
    Ok(())
}

/// A machine with a guest of the tests, entered at EL1. gdb ends it before it can say a status.
fn guest(context: &Context, name: &str, arguments: &str) -> Result<Machine, Missed> {
    let image = images::guest(name)?;
    let machine = context.machine().with("KERNEL", image.display()).with("INITRD", "none").with("APPEND", arguments);
    Ok(machine.entered(Entry::El1, ""))
}

/// A breakpoint on a class stops at no other one, and the words are right, for a guest of which it is known what it
/// does: it reaches into Exeunt's memory in every way.
fn aborts(context: &Context) -> Outcome {
    let machine = guest(context, "aborts", "")?;
    let said = gdb(
        machine,
        &[
            "trapbreak data-abort",
            "continue",
            "trap",
            "delete",
            "tbreak exeunt::exits::sync",
            "continue",
            "trap",
            "trapbreak instruction-abort",
            "continue",
            "trap",
        ],
    )?;
    in_order(
        &said,
        &[
            "trapbreak data-abort: CPU 0, data abort from EL1 or EL0: ",
            "WnR: ",
            "from EL1",
            "in Exeunt's 2 MiB",
            "x0 to x3, as they are:",
            "at EL2, in exeunt::exits::sync",
            "x0 to x3, saved:",
            "trapbreak instruction-abort: CPU 0, instruction abort from EL1 or EL0: translation fault, level",
            "in Exeunt's 2 MiB",
        ],
    )?;
    // x0 has the address, at the vector and in the handler's frame.
    let x0 = |text: &str| {
        let line = said.lines().find(|line| line.starts_with(text))?;
        line.split_once(": ")?.1.split(',').next().map(str::to_owned)
    };
    ensure!(x0("x0 to x3, as they are").is_some_and(|x0| x0.starts_with("0x40")), "x0 is no address:\n{said}");
    Ok(())
}

/// Interrupts come to EL2 in virtual EL2 only, and a host that was entered at EL1 has other traps than one at virtual
/// EL2: its first is an SMC.
fn entered_at_el1(context: &Context) -> Outcome {
    let machine = context.machine().with("SMP", 1).entered(Entry::El1, "");
    let said = gdb(machine, &["trapbreak all", "continue", "trap", "el2 HCR_EL2", "life"])?;
    in_order(
        &said,
        &[
            "trapbreak all: CPU 0, from",
            "trapped SMC #0x0",
            "smc #0x0",
            "from EL1h",
            "the call: PSCI_VERSION",
            "SMC traps",
            "its host was entered at EL1",
        ],
    )?;
    ensure!(!said.contains("in virtual EL2"), "it is in virtual EL2:\n{said}");
    Ok(())
}

/// With another machine the map is another one: RAM beyond 4 GiB, a GICv2, a CPU with more physical addresses.
fn other_maps(context: &Context) -> Outcome {
    let machine = context.machine().with("GIC", 2).with("MEM", "6G").with("CPU", "cortex-a57").entered(Entry::El1, "");
    let said = gdb(machine, &["trapbreak smc", "continue", "s2", "s2 0x1bfffffff", "s2 0x1c0000000"])?;
    for line in [
        "0x000000000000 0x00003fffffff 1 GiB rw- Normal, Write-Back 1 x 1 GiB",
        "0x000040400000 0x0001bfffffff 6140 MiB rwx Normal, Write-Back 5 x 1 GiB, 510 x 2 MiB",
        "0x0001c0000000 0x00ffffffffff 1017 GiB rw- Normal, Write-Back 1017 x 1 GiB",
    ] {
        has_line(&said, line)?;
    }
    in_order(
        &said,
        &[
            "block of 1 GiB: physical 0x1bfffffff, the same",
            "the host may execute",
            "block of 1 GiB: physical 0x1c0000000, the same",
            "execute-never",
        ],
    )
}

/// After Exeunt has left a CPU: the resident stub's vectors, no stage 2, and it is said in words.
fn left(context: &Context) -> Outcome {
    let machine = guest(context, "rounds", "reset")?.with("SMP", 1);
    // The first call after it.
    let said = gdb(
        machine,
        &["tbreak *((long)&exeunt_resident_stub+0x400)", "continue", "el2 vbar_el2", "s2", "life", "trap"],
    )?;
    in_order(
        &said,
        &[
            "the resident stub's: Exeunt has left this CPU",
            "CPU 0: stub: Exeunt has left; the resident stub answers",
            "Exeunt left it 1 times",
            "at the vector: synchronous, from the host, AArch64",
            "s2: VTCR_EL2 and VTTBR_EL2 are 0: Exeunt has not set stage 2 up on this CPU, or has left it",
        ],
    )
}

/// A box with known exits, written into memory, is told in words; and one that is damaged is no box.
fn trace(context: &Context) -> Outcome {
    let file = context.directory()?.join("box");
    let scripts = paths::root().join("tools/gdb");
    let program = format!(
        "import sys; sys.path.insert(0, {:?}); import test_words as t\n\
         raw = t.black_box(cpus=1, entries=[t.HVC, t.READ])\n\
         open({:?}, 'wb').write(raw[-0x10000:])",
        scripts.display().to_string(),
        file.display().to_string()
    );
    let mut python = Command::new("python3");
    let ended = process::run(python.args(["-B", "-c", &program]), Duration::from_mins(1))?;
    ensure!(ended.status == 0, "the box cannot be made: {}", ended.stderr);
    ensure!(fs::metadata(&file)?.len() == 0x1_0000, "the box has another size");
    let restore = format!("restore {} binary 0x403f0000", file.display());
    // At Exeunt's first instruction: nothing else is there yet.
    let said = gdb(
        context.machine(),
        &["trace", &restore, "trace", "trace 1", "life", "set *(int*)0x403f0010 = 77", "trace"],
    )?;
    in_order(
        &said,
        &[
            "HVC #0x0: FINALISE_EL2 (0x3) -> 0xbadca11",
            "mrs x5, MIDR_EL1 = 0x410fd070  [in virtual EL2]",
            "2 exits shown; 0 older ones are written over; tracing is on",
            "1 exits shown",
            "Exeunt starts [how often in this memory] = 0x1",
            // What it complains of.
            "trace: there is no black box in Exeunt's 2 MiB",
            "trace: the header of the black box at 0x403f0000 is damaged: its checksum is wrong",
        ],
    )
}

/// A code block of docs/gdb.md that is a session: what is typed, and the lines that come.
#[derive(Debug, Default, PartialEq)]
struct Session<'a> {
    typed: Vec<&'a str>,
    lines: Vec<&'a str>,
}

/// The sessions of a page: blocks that begin with "```gdb session".
fn sessions(page: &str) -> Vec<Session<'_>> {
    let blocks = page.split("```gdb session\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks
        .map(|block| {
            let mut session = Session::default();
            for line in block.lines() {
                match line.strip_prefix("(gdb) ") {
                    Some(command) => session.typed.push(command),
                    None => session.lines.push(line),
                }
            }
            session
        })
        .collect()
}

/// Text without what is another one in each build or run: addresses, and times.
fn lasting(text: &str) -> String {
    let word = |word: &str| {
        let (begin, rest) = word.split_once("0x").map_or((word, None), |(begin, rest)| (begin, Some(rest)));
        match rest {
            Some(rest) => format!("{begin}0x{}", rest.trim_start_matches(|digit: char| digit.is_ascii_hexdigit())),
            None if word.parse::<f64>().is_ok() && word.contains('.') => "0.0".to_owned(),
            None => word.to_owned(),
        }
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// The sessions of docs/gdb.md: what is typed there gives what stands there. A line `...` stands for any number of
/// lines.
fn documented(context: &Context) -> Outcome {
    let page = fs::read_to_string(paths::root().join("docs/gdb.md"))?;
    let sessions = sessions(&page);
    ensure!(!sessions.is_empty(), "docs/gdb.md shows no session");
    for session in sessions {
        let said = gdb(context.machine(), &session.typed)?;
        let mut came = said.lines().map(lasting);
        for line in session.lines.iter().filter(|line| line.trim() != "...") {
            let wanted = lasting(line);
            ensure!(came.any(|line| line == wanted), "docs/gdb.md has {line:?}, which does not come here:\n{said}");
        }
    }
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    vec![
        Cell::new("gdb/commands", commands),
        Cell::new("gdb/first-five", first_five).slow(true),
        Cell::new("gdb/mistakes", mistakes).slow(true),
        Cell::new("gdb/aborts", aborts).slow(true),
        Cell::new("gdb/entered-at-el1", entered_at_el1).slow(true),
        Cell::new("gdb/other-maps", other_maps).slow(true),
        Cell::new("gdb/left", left).slow(true),
        Cell::new("gdb/trace", trace).slow(true),
        Cell::new("gdb/documented-sessions", documented).slow(true),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_taken_apart() {
        let page = "text\n```gdb session\n(gdb) trap\nESR = 0x1\n(gdb) s2\n...\n```\nmore\n```\n(gdb) no\n```\n";
        assert_eq!(sessions(page), [Session { typed: vec!["trap", "s2"], lines: vec!["ESR = 0x1", "..."] }]);
    }

    #[test]
    fn addresses_and_times_do_not_last() {
        assert_eq!(lasting("  at  0x40201400, 1.25 ms 20"), "at 0x, 0.0 ms 20");
        assert_eq!(lasting("VTTBR_EL2 = 0x4026e000: x0"), "VTTBR_EL2 = 0x: x0");
    }
}
