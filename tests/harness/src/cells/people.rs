//! The doors that people use: `make run` with a command, an interactive shell, `make gdb`, `make build`, and the lines
//! that the documentation shows.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use runner::run::RUNNER_FAILED;

use super::ends::processes_of;
use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::Machine;
use crate::{ensure, parse, paths};

/// The time in which a prompt must come, set-up and builds included.
const PATIENCE: Duration = Duration::from_mins(10);

/// The command's output is all that comes to stdout, and its status is what scripts/run returns.
fn status_and_output(context: &Context) -> Outcome {
    let ran = context.machine().with("RUN", "echo one; echo 'two  $HOME' >&2; echo \"it's $HOME\"; exit 42").run()?;
    let ran = ran.ended_with(42)?;
    ensure!(ran.stdout == "one\ntwo  $HOME\nit's /root\n", "stdout is {:?}", ran.stdout);
    Ok(())
}

/// A command that a signal ends.
fn status_of_a_signal(context: &Context) -> Outcome {
    context.machine().with("RUN", "sh -c 'kill -SEGV $$'").run()?.ended_with(139)?;
    Ok(())
}

/// `make run RUN=...` passes the command on unharmed and fails when it fails.
fn make_run(context: &Context) -> Outcome {
    let ran = context.machine().with("RUN", "echo $((6 * 7)) '$HOME'; exit 3").make(&["run"])?.ended_with(2)?;
    ensure!(ran.stdout.contains("42 $HOME\n"), "stdout is {:?}", ran.stdout);
    let ran = context.machine().make(&["run", "RUN=test $(nproc) = 2", "SMP=2"])?;
    ran.ended_with(0)?;
    Ok(())
}

/// A guest that hangs is ended by the time limit, and scripts/run says so.
fn time_limit(context: &Context) -> Outcome {
    let ran = context.machine().with("RUN", "echo before; sleep 1000").limit(25).run()?.ended_with(124)?;
    ensure!(ran.stderr.contains("time limit"), "scripts/run says {:?}", ran.stderr);
    Ok(())
}

/// A kernel that panics ends the machine, with a status that says that something was wrong.
fn kernel_panic(context: &Context) -> Outcome {
    let ran = context.machine().with("RUN", "echo c >/proc/sysrq-trigger; sleep 100").run()?.ended_with(126)?;
    ensure!(ran.console.contains("Kernel panic"), "the kernel did not panic");
    Ok(())
}

/// A person's session: a greeting, a prompt, a command, and the end by `poweroff`.
fn shell(context: &Context) -> Outcome {
    let mut session = context.machine().with("SMP", 2).on_a_terminal("scripts/run")?;
    session.expect("leave QEMU with", PATIENCE)?;
    session.expect("This is Linux", PATIENCE)?;
    session.expect("~# ", PATIENCE)?;
    session.send("echo answer: $((6 * 7)) $(nproc)\n")?;
    session.expect("answer: 42 2", PATIENCE)?;
    session.expect("~# ", PATIENCE)?;
    session.send("poweroff\n")?;
    let ended = session.finish(PATIENCE)?;
    ensure!(ended.status == 0, "scripts/run returned {}", ended.status);
    Ok(())
}

/// Ctrl-A x leaves QEMU, as scripts/run says.
fn leaving(context: &Context) -> Outcome {
    let mut session = context.machine().on_a_terminal("scripts/run")?;
    session.expect("~# ", PATIENCE)?;
    session.send("\u{1}x")?;
    session.expect("QEMU: Terminated", Duration::from_mins(1))?;
    session.finish(PATIENCE)?;
    Ok(())
}

/// A misspelt variable is refused with the name that was meant, and one of another target with whose it is.
fn misspelt(context: &Context) -> Outcome {
    for (argument, words) in [
        ("SPM=2", "SPM: there is no such variable; perhaps SMP"),
        ("CRASH=null", "CRASH: `make run` does not take it, but kdump"),
    ] {
        let ran = context.machine().make(&["run", "RUN=true", argument])?.ended_with(MAKE_FAILED)?;
        ensure!(ran.stderr.contains(words), "it says {:?}", ran.stderr);
        ensure!(ran.console.is_empty(), "a machine was started");
    }
    Ok(())
}

/// A directory with a person's files in it is left alone, by all that would clear one.
fn a_persons_directory(context: &Context) -> Outcome {
    let directory = context.directory()?.join("thesis");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("chapter-1"), "words")?;
    for script in ["run", "kexec", "kdump", "soak"] {
        let machine = context.machine().with("OUT", directory.display());
        let ran = machine.shell(&format!("scripts/{script}"))?.ended_with(RUNNER_FAILED)?;
        ensure!(ran.stderr.contains("has files in it that no run has made"), "{script} says {:?}", ran.stderr);
        let left: Vec<_> = fs::read_dir(&directory)?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(left == ["chapter-1"], "{script} has left {left:?}");
    }
    Ok(())
}

/// Whatever ends scripts/run takes QEMU along: a signal that it can answer, and one that it cannot.
fn ended_by_a_signal(context: &Context) -> Outcome {
    for (signal, status) in [("TERM", 143), ("KILL", 137)] {
        let directory = context.directory()?.join(signal).display().to_string();
        let machine = context.machine().with("OUT", &directory).with("RUN", "echo it is up; sleep 1000").limit(0);
        let mut running = machine.start("scripts/run")?;
        running.expect("it is up", PATIENCE)?;
        ensure!(processes_of(&directory)?.len() == 1, "there is no QEMU");
        running.signal(signal)?;
        let ended = running.finish(PATIENCE)?;
        ensure!(ended.status == status, "SIG{signal}: it returned {}: {}", ended.status, ended.stderr);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !processes_of(&directory)?.is_empty() {
            ensure!(Instant::now() < deadline, "QEMU has outlived SIG{signal}");
            thread::yield_now();
        }
        // The directory is free for the next one.
        context.machine().with("OUT", &directory).with("RUN", "true").run()?.ended_with(0)?;
    }
    Ok(())
}

/// `make gdb` stops at Exeunt's first instruction with the symbols where they belong, and can stop at a function.
fn gdb(context: &Context) -> Outcome {
    let arguments = "-batch -ex 'info registers pc' -ex 'info symbol $pc' -ex 'tbreak exeunt_main' -ex continue -ex bt";
    let ran = context.machine().own_build().with("GDB_ARGS", arguments).make(&["gdb"])?.ended_with(0)?;
    ensure!(ran.stdout.contains("0x40200000"), "gdb did not stop at Exeunt's entry:\n{}", ran.stdout);
    ensure!(ran.stdout.contains("image_header in section .text"), "the symbols are elsewhere:\n{}", ran.stdout);
    // What the compiler has inlined there comes before it.
    ensure!(ran.stdout.contains("exeunt::start::exeunt_main (tree="), "gdb did not stop in it:\n{}", ran.stdout);
    Ok(())
}

/// `make build` leaves the image where it says, and says its size.
fn build(context: &Context) -> Outcome {
    let ran = context.machine().make(&["build"])?.ended_with(0)?;
    let image = paths::target().join("exeunt-release.bin");
    let size = fs::metadata(&image)?.len();
    ensure!(
        ran.stdout.contains(&format!("target/exeunt-release.bin: {size} bytes")),
        "make build says {:?}",
        ran.stdout
    );
    Ok(())
}

/// What make returns when a recipe failed.
const MAKE_FAILED: i32 = 2;
/// How commands of the documentation begin that are not run as they stand, and who does what they say.
const ELSEWHERE: [(&str, &str); 6] = [
    // It needs its disk, which takes twenty minutes.
    ("make debian", "debian/"),
    // Kernels that somebody has built.
    ("make kexec KERNEL=../linux", "kernels/kexec-of-a-file"),
    ("make kdump KERNEL=../linux", "kernels/kdump-of-a-file"),
    // The QEMU of another Debian, which `scripts/setup test-all` fetches.
    ("make run QEMU=target/", "boot/"),
    // A prompt, with a file that stands for somebody's own; `make kdump` and the line before it do the same.
    ("target/drgn/bin/drgn -c target/kdump/dump -s VMLINUX", "people/make-kdump"),
    ("make test", "cargo test"),
];

/// The lines of README.md and docs/ that are commands, each once, without their comments.
fn documented() -> Result<Vec<String>, Missed> {
    let mut lines: Vec<String> = Vec::new();
    for file in super::book::pages()? {
        for line in parse::commands(&fs::read_to_string(file)?) {
            let is_elsewhere = ELSEWHERE.iter().any(|(begin, _)| line.starts_with(begin));
            if !is_elsewhere && !lines.iter().any(|other| other == line) {
                lines.push(line.to_owned());
            }
        }
    }
    Ok(lines)
}

/// Targets of make that leave files which another line names: `target/NAME/`.
const LEAVES: [&str; 4] = ["kdump", "kexec", "trace", "lab-8"];

/// Where a line's run goes in the place of `target/NAME`.
fn place_of(line: &str) -> &str {
    let target = line.split_whitespace().nth(1).filter(|_| line.starts_with("make "));
    target.filter(|target| LEAVES.contains(target)).unwrap_or("run")
}

/// A session that is left at once.
fn at_the_prompt(machine: Machine, line: &str) -> Outcome {
    let mut session = machine.on_a_terminal(line)?;
    session.expect("~# ", PATIENCE)?;
    session.send("poweroff\n")?;
    let ended = session.finish(PATIENCE)?;
    ensure!(ended.status == 0, "it returned {}", ended.status);
    Ok(())
}

/// Each command that the documentation shows, as it stands there; only the directory of the console is this cell's.
fn documented_commands(context: &Context) -> Outcome {
    let directory = context.directory()?.display().to_string();
    let lines = documented()?;
    ensure!(lines.iter().any(|line| line == "make run"), "the documentation's commands are not found: {lines:?}");
    for line in lines {
        eprintln!("{line}");
        // A line may read what one before it has left.
        let machine = context.machine().own_build().with("OUT", format!("{directory}/{}", place_of(&line)));
        let outcome = if line.starts_with("make run") && !line.contains("RUN=") {
            at_the_prompt(machine, &line)
        } else {
            // Each selftest breaks Exeunt, but for the one that has it not know the interrupt controller.
            let breaks = line.contains("selftest=") && !line.contains("unknown-gic");
            // And the labs are not solved.
            let expected = if breaks || line.starts_with("make lab-") { MAKE_FAILED } else { 0 };
            let typed = LEAVES.iter().chain(&["run"]).fold(line.clone(), |line, name| {
                line.replace(&format!("target/{name}/"), &format!("{directory}/{name}/"))
            });
            machine.shell(&typed)?.ended_with(expected).map(drop)
        };
        outcome.map_err(|missed| missed.about(&line))?;
    }
    Ok(())
}

/// `make kexec` without a variable: its last line says PASS and why.
fn make_kexec(context: &Context) -> Outcome {
    let ran = context.machine().own_build().make(&["kexec"])?.ended_with(0)?;
    let last = ran.stdout.lines().last().unwrap_or_default();
    ensure!(last.starts_with("PASS: Exeunt left at SOFT_RESTART"), "the last line is {last:?}");
    Ok(())
}

/// `make kdump`, and README's report of it.
fn first_dump(context: &Context) -> Outcome {
    let directory = context.directory()?.join("kdump");
    let ran = context.machine().own_build().with("OUT", directory.display()).make(&["kdump"])?.ended_with(0)?;
    let readme = fs::read_to_string(paths::root().join("README.md"))?;
    let block = readme.split("```").find_map(|block| block.strip_prefix("text first-dump\n"));
    let block: Vec<&str> = block.ok_or("README.md has no first dump")?.lines().collect();
    let short = directory.strip_prefix(paths::root()).unwrap_or(&directory).display().to_string();
    let output = ran.stdout.replace(&short, "target/kdump");
    if let Some(line) = super::book::missing(&block, &output) {
        return Err(Missed::Failed(format!("it does not say {line:?}, but:\n{output}")));
    }
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    vec![
        Cell::new("people/run-status-and-output", status_and_output),
        Cell::new("people/run-status-of-a-signal", status_of_a_signal),
        Cell::new("people/make-run", make_run),
        Cell::new("people/time-limit", time_limit),
        Cell::new("people/kernel-panic", kernel_panic),
        Cell::new("people/shell", shell),
        Cell::new("people/leaving-qemu", leaving),
        Cell::new("people/misspelt-variable", misspelt),
        Cell::new("people/directory-of-a-person", a_persons_directory),
        Cell::new("people/ended-by-a-signal", ended_by_a_signal),
        Cell::new("people/make-gdb", gdb),
        Cell::new("people/make-build", build),
        Cell::new("people/documented-commands", documented_commands).slow(true),
        Cell::new("people/make-kexec", make_kexec).slow(true),
        Cell::new("people/make-kdump", first_dump).slow(true),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What pages show: lines, and what stands in the running text.
    fn shown() -> Vec<String> {
        let text: String =
            super::super::book::pages().unwrap().iter().map(|page| fs::read_to_string(page).unwrap()).collect();
        let lines = parse::commands(&text).map(str::to_owned);
        let inline =
            text.lines().filter(|line| !line.starts_with("```")).flat_map(|line| line.split('`').skip(1).step_by(2));
        lines.chain(inline.map(str::to_owned)).collect()
    }

    #[test]
    fn what_is_not_run_as_it_stands_is_run_elsewhere() {
        let cells = super::super::all();
        let lines = shown();
        for (begin, place) in ELSEWHERE {
            assert!(lines.iter().any(|line| line.starts_with(begin)), "no page has `{begin}`");
            let is_there = place == "cargo test" || cells.iter().any(|cell| cell.name().starts_with(place));
            assert!(is_there, "`{begin}`: there is no cell {place}");
        }
    }

    #[test]
    fn every_target_that_a_page_names_is_there() {
        let makefile = fs::read_to_string(paths::root().join("Makefile")).unwrap();
        let line = |name: &str| makefile.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let targets: Vec<String> = line("TARGETS := ").split(' ').map(str::to_owned).collect();
        let labs = line("LABS := $(addprefix lab-,").trim_end_matches(')').split(' ').map(|lab| format!("lab-{lab}"));
        let targets: Vec<String> = targets.into_iter().chain(labs).collect();
        let commands: Vec<String> = shown().into_iter().filter(|line| line.starts_with("make ")).collect();
        assert!(commands.len() > 50, "the commands are not found: {commands:?}");
        for command in commands {
            for word in command.split_whitespace().skip(1).take_while(|word| !word.contains(['=', '\''])) {
                assert!(
                    targets.iter().any(|target| target == word) || word == "lab-N",
                    "`{command}`: no target {word}"
                );
            }
        }
    }
}
