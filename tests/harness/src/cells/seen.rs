//! `exeunt`, the program in the guest: the session that README shows, and what people meet who cannot ask.

use std::fs;
use std::time::Duration;

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::{Entry, Machine};
use crate::{ensure, parse, paths};

/// The time in which a prompt must come, set-up and builds included.
const PATIENCE: Duration = Duration::from_mins(10);

/// Runs each command, with a line before it and its status after it.
const ASK: &str = "ask() { echo \"ask: $*\"; \"$@\" 2>&1; echo \"status: $?\"; }\n";

/// Exit statuses of the program (`tools/guest/src/trouble.rs`).
const FAILED: &str = "1";
const NONE: &str = "3";
const LEFT: &str = "4";
const CANNOT_ASK: &str = "5";

/// What the commands of a script with [`ASK`] have said: command, output, status.
struct Said<'a>(Vec<(&'a str, &'a str, &'a str)>);

impl<'a> Said<'a> {
    fn of(stdout: &'a str) -> Self {
        let said = stdout.split("ask: ").skip(1).filter_map(|part| {
            let (command, rest) = part.split_once('\n')?;
            let (output, status) = rest.rsplit_once("status: ")?;
            Some((command, output, status.lines().next().unwrap_or_default()))
        });
        Self(said.collect())
    }

    /// The command with this number was `command`, ended with `status` and said all of `words`.
    fn expect(&self, number: usize, command: &str, status: &str, words: &[&str]) -> Outcome {
        let Some(&(asked, output, ended)) = self.0.get(number) else {
            return Err(Missed::Failed(format!("`{command}` was not run: {:?}", self.0)));
        };
        ensure!(asked == command, "command {number} was `{asked}`, not `{command}`");
        ensure!(ended == status, "`{command}` ended with {ended}: {output}");
        for word in words {
            ensure!(output.contains(word), "`{command}` says nothing of {word:?}: {output}");
        }
        Ok(())
    }
}

/// README's first session, as it stands there: what is typed, and what is answered, but for the numbers. A line `...`
/// stands for any.
fn session_of_the_readme() -> Result<Vec<(String, Vec<String>)>, Missed> {
    let readme = fs::read_to_string(paths::root().join("README.md"))?;
    let block = readme.split("```").find_map(|block| block.strip_prefix("console first-session\n"));
    let block = block.ok_or_else(|| Missed::Failed("README.md shows no first session".to_owned()))?;
    let mut session: Vec<(String, Vec<String>)> = Vec::new();
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("root@host:~# ") {
            session.push((command.to_owned(), Vec::new()));
        } else if let Some((_, answer)) = session.last_mut().filter(|_| !matches!(line.trim(), "" | "...")) {
            answer.push(line.to_owned());
        }
    }
    ensure!(session.len() >= 5, "README's first session has {} commands", session.len());
    Ok(session)
}

fn first_session(context: &Context, entry: Entry) -> Outcome {
    let mut session = context.machine().entered(entry, "").on_a_terminal("scripts/run")?;
    session.expect("is below this Linux", PATIENCE)?;
    session.expect("~# ", PATIENCE)?;
    for (command, answer) in session_of_the_readme()? {
        session.send(&format!("{command}\n"))?;
        // The terminal's echo.
        session.expect(&command, PATIENCE)?;
        if command == "poweroff" {
            break;
        }
        for line in &answer {
            // How Linux was entered is this cell's; the rest stands as it is, but for the numbers.
            let line = match entry {
                Entry::VirtualEl2 => line.clone(),
                Entry::El1 => {
                    line.replace("It has Linux believe that it was started at EL2", "It has started Linux at EL1")
                }
            };
            // What Linux came for is another thing at each level.
            let line = line.split_once(" (").map_or(line.as_str(), |(begin, _)| begin);
            // On a slow workstation they are minutes.
            let line = line.replace("seconds", "0");
            for part in line.split(|letter: char| letter.is_ascii_digit()).filter(|part| part.trim().len() > 1) {
                session.expect(part.trim(), PATIENCE).map_err(|error| Missed::from(error).about(&command))?;
            }
        }
        session.expect("~# ", PATIENCE)?;
    }
    let ended = session.finish(PATIENCE)?;
    ensure!(ended.status == 0, "scripts/run returned {}", ended.status);
    Ok(())
}

/// Every command on one kernel, and what it changes.
fn commands(machine: Machine, entry: Entry) -> Outcome {
    let asked = [
        "exeunt",
        "exeunt status",
        "exeunt log",
        "exeunt exits",
        "exeunt map",
        "exeunt crashes",
        "exeunt policy kexec resident",
        "exeunt lock",
        "exeunt trace start",
        "exeunt trace stop",
        "exeunt trace save",
        "exeunt trace save",
        "exeunt leave",
        "exeunt",
        "exeunt policy",
        "exeunt log",
        "exeunt back",
        "exeunt",
        "exeunt status",
        "exeunt policy",
        "exeunt --json exits",
        "exeunt lock --yes",
        "exeunt leave",
    ];
    let script = ASK.to_owned() + &asked.map(|command| format!("ask {command}\n")).concat();
    let ran = machine.entered(entry, "").with("SMP", 4).with("RUN", script).run()?.ended_with(0)?;
    let said = Said::of(&ran.stdout);
    let began = match entry {
        Entry::El1 => "started Linux at EL1",
        Entry::VirtualEl2 => "believe that it was started at EL2",
    };
    let answers: [(&str, &[&str]); 23] = [
        ("0", &["is below this Linux, on all 4 CPUs", began, "When Linux kexecs or crashes, it leaves"]),
        ("0", &["on every CPU that is on", "   3  live"]),
        ("0", &["INFO  Exeunt 0.1.0 in 0x40200000-0x403fffff"]),
        ("0", &["smc", "on CPU 3"]),
        ("0", &["0x40200000", "---  Exeunt\n", "r--  Exeunt's black box\n"]),
        ("0", &["nothing of a start before this one"]),
        ("0", &["kexec  resident", "crash  leave"]),
        (FAILED, &["nothing was done", "exeunt lock --yes"]),
        ("0", &["traced from now on"]),
        ("0", &["no longer traced"]),
        ("0", &["exeunt.box: "]),
        (FAILED, &["exeunt.box is there already"]),
        ("0", &["has left all 4 CPUs", "exeunt back"]),
        (LEFT, &["Exeunt has left", "exeunt back"]),
        (LEFT, &["exeunt back"]),
        (LEFT, &["INFO  Exeunt 0.1.0 in 0x40200000-0x403fffff"]),
        ("0", &["is back, on CPU 0-3"]),
        ("0", &["is below this Linux, on all 4 CPUs"]),
        ("0", &["on every CPU that is on", "   3  live     virtual EL2"]),
        ("0", &["kexec  resident", "crash  leave"]),
        ("0", &["{\"classes\":{", "\"registers\":{"]),
        ("0", &["is locked"]),
        (FAILED, &["refuses to leave", "locked"]),
    ];
    for (number, (command, (status, words))) in asked.into_iter().zip(answers).enumerate() {
        // At EL1 the table of CPUs says so.
        let words: Vec<String> = words
            .iter()
            .map(|words| if entry == Entry::El1 { words.replace("virtual EL2", "EL1") } else { (*words).to_owned() })
            .collect();
        said.expect(number, command, status, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    ensure!(!ran.console.contains("Unable to handle") && !ran.console.contains("Call trace"), "the kernel complains");
    Ok(())
}

/// Who cannot ask gets a sentence, and what to do.
fn cannot_ask(context: &Context) -> Outcome {
    let script = format!(
        "{ASK}
echo nobody:x:65534:65534::/tmp:/bin/sh >>/etc/passwd
ask su nobody -c exeunt
ask su nobody -c 'exeunt leave --json'
mv /dev/mem /dev/elsewhere
ask exeunt
mv /dev/elsewhere /dev/mem
umount /proc
ask exeunt status
mount -t proc proc /proc
ask exeunt log --sideways
ask sh -c 'exeunt log >/dev/full'
ask sh -c 'exeunt exits | head -n 1'
ask taskset 1 exeunt
mount -t securityfs none /sys/kernel/security
echo integrity >/sys/kernel/security/lockdown
ask exeunt"
    );
    let ran = context.machine().with("SMP", 4).with("RUN", script).run()?.ended_with(0)?;
    let said = Said::of(&ran.stdout);
    said.expect(0, "su nobody -c exeunt", CANNOT_ASK, &["only root can ask Exeunt", "sudo"])?;
    said.expect(1, "su nobody -c exeunt leave --json", CANNOT_ASK, &["{\"error\":{\"kind\":\"not-root\""])?;
    said.expect(2, "exeunt", CANNOT_ASK, &["there is no /dev/mem", "CONFIG_DEVMEM"])?;
    said.expect(3, "exeunt status", CANNOT_ASK, &["device tree cannot be read", "/proc"])?;
    said.expect(4, "exeunt log --sideways", "2", &["--sideways"])?;
    said.expect(5, "sh -c exeunt log >/dev/full", FAILED, &["standard output cannot be written to", "No space left"])?;
    said.expect(6, "sh -c exeunt exits | head -n 1", "0", &["exits in"])?;
    ensure!(!ran.stdout.contains("panicked"), "{}", ran.stdout);
    said.expect(7, "taskset 1 exeunt", "0", &["on all 4 CPUs that are on"])?;
    said.expect(8, "exeunt", CANNOT_ASK, &["locked down", "/sys/kernel/security/lockdown"])?;
    Ok(())
}

/// Without Exeunt it says so.
fn without_exeunt(context: &Context) -> Outcome {
    let script = format!("{ASK}ask exeunt\nask exeunt leave\nask exeunt --json");
    let ran = context.machine().with("HYPERVISOR", "none").with("RUN", script).run()?.ended_with(0)?;
    let said = Said::of(&ran.stdout);
    said.expect(0, "exeunt", NONE, &["There is no Exeunt below this Linux"])?;
    said.expect(1, "exeunt leave", NONE, &["exeunt: there is no Exeunt below this Linux"])?;
    said.expect(2, "exeunt --json", NONE, &["\"kind\":\"none\""])?;
    Ok(())
}

/// Two programs change different things at once, and see their own. A third is killed at any moment, again and again.
const AT_ONCE: &str = r#"
wrong() { echo "$*" >>/tmp/wrong; }
victims() {
    while [ ! -e /tmp/over ]; do
        exeunt status >/dev/null 2>&1 &
        usleep $((RANDOM % 30000))
        kill -9 $! 2>/dev/null && echo >>/tmp/killed
        wait $! 2>/dev/null
    done
}
changes() {
    for round in $(seq ROUNDS); do
        for policy in resident leave; do
            said=$(exeunt policy $1 $policy 2>&1) || wrong $1 $policy: $said
            case $said in *"$1  $policy:"*) ;; *) wrong $1 $policy gave $said ;; esac
        done
    done
}
victims & victims=$!
changes kexec & first=$!
changes crash & second=$!
wait $first
wait $second
touch /tmp/over
wait $victims
echo wrong $(cat /tmp/wrong 2>/dev/null | wc -l)
head -n 5 /tmp/wrong 2>/dev/null
echo killed $(cat /tmp/killed 2>/dev/null | wc -l)
exeunt status | grep live
"#;

fn at_once(context: &Context, rounds: u32) -> Outcome {
    let script = AT_ONCE.replace("ROUNDS", &rounds.to_string());
    let ran = context.machine().with("RUN", script).run()?.ended_with(0)?;
    ensure!(parse::value(&ran.stdout, "wrong") == Some("0"), "{}", ran.stdout);
    let killed = parse::value(&ran.stdout, "killed").and_then(|killed| killed.parse().ok()).unwrap_or(0);
    ensure!(killed > rounds / 2, "only {killed} programs were killed");
    ensure!(ran.stdout.matches("live").count() == 4, "{}", ran.stdout);
    Ok(())
}

/// Exeunt leaves and comes back again and again, while others ask, and CPUs go off and on.
const TO_AND_FRO: &str = r#"
wrong() { echo "$*" >>/tmp/wrong; }
asks() {
    while [ ! -e /tmp/over ]; do
        for command in status exits log policy; do
            said=$(exeunt $command 2>&1)
            case $? in 0 | 1 | 4) ;; *) wrong $command: $? $said ;; esac
        done
    done
}
asks & asks=$!
for round in $(seq ROUNDS); do
    said=$(exeunt leave 2>&1) || wrong leave: $said
    if [ $((round % 3)) = 0 ]; then
        for state in 0 1; do echo $state >/sys/devices/system/cpu/cpu$((round % 2 + 1))/online; done
    fi
    if ! said=$(exeunt back 2>&1); then
        # The CPU that was turned on meanwhile has to be turned off and on once more, as the program says.
        [ $((round % 3)) = 0 ] || wrong back: $said
        eval "$(echo "$said" | grep '^  for on in')"
    fi
    said=$(exeunt 2>&1) || wrong $said
    case $said in *"on all 4 CPUs"*) ;; *) wrong round $round: $said ;; esac
done
touch /tmp/over
wait $asks
echo wrong $(cat /tmp/wrong 2>/dev/null | wc -l)
head -n 5 /tmp/wrong 2>/dev/null
dmesg | grep -E 'WARNING:|BUG:|Oops|Call trace|detected stall' | sed 's/^/bad /'
exeunt status
"#;

fn to_and_fro(context: &Context, entry: Entry, rounds: u32) -> Outcome {
    let script = TO_AND_FRO.replace("ROUNDS", &rounds.to_string());
    let ran = context.machine().entered(entry, "").with("RUN", script).run()?.ended_with(0)?;
    ensure!(parse::value(&ran.stdout, "wrong") == Some("0"), "{}", ran.stdout);
    ensure!(!ran.stdout.contains("\nbad "), "{}", ran.stdout);
    Ok(())
}

/// CPUs go off and come while Exeunt is there and while it is away, a program is held on one CPU, and others watch.
const CPUS_COME_AND_GO: &str = r#"
cpu() { echo $2 >/sys/devices/system/cpu/cpu$1/online; }
ask taskset 1 exeunt
ask taskset 2 exeunt leave
ask taskset 2 exeunt back
cpu 2 0
ask exeunt
ask exeunt leave
ask exeunt back
cpu 2 1
ask exeunt
cpu 3 0
ask exeunt leave
cpu 3 1
ask exeunt back
ask exeunt back
eval "$(exeunt back | grep '^  for on in')"
ask exeunt
ask exeunt trace start
mount -t debugfs debugfs /sys/kernel/debug
cat /sys/kernel/debug/psci >/dev/null
ask exeunt trace save
ask exeunt trace stop
exeunt status --watch >/tmp/status & status=$!
exeunt exits --watch >/tmp/exits & exits=$!
until grep -q 'on every CPU' /tmp/status && grep -q 'data abort' /tmp/exits; do usleep 100000; done
ask exeunt leave
until grep -q 'has left' /tmp/status && grep -q ': nothing' /tmp/exits; do usleep 100000; done
ask exeunt back
sed -n '$=' /tmp/status >/tmp/before
until tail -n +$(cat /tmp/before) /tmp/status | grep -q 'on every CPU'; do usleep 100000; done
kill $status $exits
wait
ask exeunt
"#;

fn cpus_come_and_go(context: &Context, entry: Entry) -> Outcome {
    let script = ASK.to_owned() + CPUS_COME_AND_GO;
    let ran = context.machine().entered(entry, "").with("SMP", 4).with("RUN", script).run()?.ended_with(0)?;
    let said = Said::of(&ran.stdout);
    let answers: [(&str, &str, &[&str]); 17] = [
        ("taskset 1 exeunt", "0", &["on all 4 CPUs that are on"]),
        ("taskset 2 exeunt leave", "0", &["has left all 4 CPUs"]),
        ("taskset 2 exeunt back", "0", &["is back, on CPU 0-3."]),
        ("exeunt", "0", &["on all 3 CPUs that are on"]),
        ("exeunt leave", "0", &["has left all 3 CPUs"]),
        ("exeunt back", "0", &["is back, on CPU 0-1, 3."]),
        ("exeunt", "0", &["on all 4 CPUs that are on"]),
        ("exeunt leave", "0", &["has left all 3 CPUs"]),
        (
            "exeunt back",
            FAILED,
            &["back on CPU 0-2, but not on all", "CPU 3: ", "while Exeunt was away", "Turn it off"],
        ),
        ("exeunt back", FAILED, &["on CPU 0-2, as before, but has not come back to CPU 3."]),
        ("exeunt", "0", &["on all 4 CPUs that are on"]),
        ("exeunt trace start", "0", &["on CPU 0-3"]),
        ("exeunt trace save", "0", &["(0 older ones were written over)"]),
        ("exeunt trace stop", "0", &["no longer traced"]),
        ("exeunt leave", "0", &["has left all 4 CPUs"]),
        ("exeunt back", "0", &["is back, on CPU 0-3."]),
        ("exeunt", "0", &["on all 4 CPUs that are on"]),
    ];
    for (number, (command, status, words)) in answers.into_iter().enumerate() {
        said.expect(number, command, status, words)?;
    }
    ensure!(!ran.console.contains("Unable to handle") && !ran.console.contains("Call trace"), "the kernel complains");
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = vec![
        Cell::new("seen/cannot-ask", cannot_ask),
        Cell::new("seen/without-exeunt", without_exeunt),
        Cell::new("seen/two-at-once", |context| at_once(context, 20)),
        Cell::new("seen/many-at-once", |context| at_once(context, 300)).slow(true),
    ];
    for entry in Entry::ALL {
        let level = entry.name();
        let session = move |context: &Context| first_session(context, entry);
        cells.push(Cell::new(format!("seen/first-session-{level}"), session));
        let come_and_go = move |context: &Context| cpus_come_and_go(context, entry);
        let quick = entry == Entry::VirtualEl2;
        cells.push(Cell::new(format!("seen/cpus-come-and-go-{level}"), come_and_go).slow(!quick));
        let to_and_fro = move |context: &Context| to_and_fro(context, entry, 30);
        cells.push(Cell::new(format!("seen/to-and-fro-{level}"), to_and_fro).slow(true));
        for (kernel, cpu) in [
            ("6.12", "cortex-a57"),
            ("6.1", "cortex-a57"),
            ("testing", "cortex-a57"),
            ("5.10", "cortex-a57"),
            ("6.12-16k", "neoverse-n1"),
        ] {
            let test =
                move |context: &Context| commands(context.machine().with("KERNEL", kernel).with("CPU", cpu), entry);
            let quick = (kernel, entry) == ("6.12", Entry::VirtualEl2);
            cells.push(Cell::new(format!("seen/commands-{kernel}-{level}"), test).slow(!quick));
        }
    }
    cells
}
