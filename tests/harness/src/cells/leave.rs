//! Exeunt leaves all CPUs and comes back, again and again, under a host that is busy and notices when its work is
//! wrong.

use std::fs;

use super::shell;
use crate::cell::{Cell, Context, Outcome};
use crate::machine::{Machine, PATIENT};
use crate::{ensure, images, parse, qemu};

/// CPUs of each machine here.
const CPUS: u32 = 4;
/// Taint of the test module's own: out of tree, and not signed (Linux `Documentation/admin-guide/tainted-kernels.rst`).
const MODULE_TAINT: &str = "12288";

/// ROUNDS times LEAVE and REENTER. Meanwhile a process for each CPU sums up files, and the module's threads compute in
/// the kernel. A CPU goes off and comes on again in each round: while Exeunt is there, and, with LEFT set, in every
/// other round while it is not.
const SCRIPT: &str = r#"
insmod /tests/exeunt_test.ko || exit
ask() { exec 3<>/proc/exeunt; echo "$*" >&3; answer=; read -r answer <&3; exec 3>&-; }
show() { exec 3<>/proc/exeunt; echo "$*" >&3; cat <&3; exec 3>&-; }
wrong() { failed=$((failed + 1)); [ $failed -gt 20 ] || echo failed-at round $round: "$*"; }
plug() {
    for state in 0 1; do
        echo $state >/sys/devices/system/cpu/cpu$1/online || wrong cpu $1 online $state
    done
}
WORKERS
ask work start
failed=0 done=0 plugged=0
for round in $(seq ROUNDS); do
    ask leave
    [ "$answer" = "ok left $(nproc)" ] || wrong leave: $answer
    [ $round != 1 ] || show call all 0x86004500 | sed -n 's/^cpu/left cpu/p'
    if [ -n "LEFT" ] && [ $((round % 2)) = 0 ]; then plug $((round / 2 % 3 + 1)); plugged=$((plugged + 1)); fi
    ask reenter
    [ "${answer% 0x0 0x0 0x0 0x0}" = ok ] || wrong reenter: $answer
    [ $round != ROUNDS ] || show call all 0x86004500 | sed -n 's/^cpu/back cpu/p'
    if [ -z "LEFT" ] || [ $((round % 2)) = 1 ]; then plug $((round % 3 + 1)); plugged=$((plugged + 1)); fi
    done=$((done + 1))
done
ask work stop
echo kernel $answer
echo done $done
echo failed $failed
echo plugged $plugged
WORKED
echo cpus $(nproc)
echo taint $(cat /proc/sys/kernel/tainted)
show status | sed 's/^/status /'
COMPLAINTS
"#;

/// LEAVE and REENTER while CPUs go off and come on all the time, and while another process does the same: whoever comes
/// second is told BUSY, or finds nothing left to do, and no CPU is lost.
const RACE: &str = r#"
insmod /tests/exeunt_test.ko || exit
ask() { exec 3<>/proc/exeunt; echo "$*" >&3; answer=; read -r answer <&3; exec 3>&-; }
wrong() { echo "$*" >>/tmp/failed; }
busy=0xfffffffffffffffb
leaver() {
    left=0
    for round in $(seq ROUNDS); do
        ask leave
        case $answer in
        'ok left 0' | "error $busy" | 'error 0xbadca11') ;;
        'ok left '*) left=$((left + 1)) ;;
        *) wrong leave: $answer ;;
        esac
        ask reenter
        case ${answer#* } in
        *[!0x\ ]*) [ -z "$(echo ${answer#* } | sed "s/$busy//g; s/0x0//g; s/ //g")" ] || wrong reenter: $answer ;;
        esac
    done
    echo left $left >>/tmp/leavers
}
ask work start
leaver & first=$!
leaver & second=$!
plugged=0
while kill -0 $first 2>/dev/null || kill -0 $second 2>/dev/null; do
    for cpu in 1 2 3; do
        for state in 0 1; do
            echo $state >/sys/devices/system/cpu/cpu$cpu/online || wrong cpu $cpu online $state
        done
        plugged=$((plugged + 1))
    done
done
ask reenter
echo last $answer
ask work stop
echo kernel $answer
echo left $(awk '{ sum += $2 } END { print sum }' /tmp/leavers)
echo leavers $(wc -l </tmp/leavers)
echo plugged $plugged
echo failed $(cat /tmp/failed 2>/dev/null | wc -l) $(head -n1 /tmp/failed 2>/dev/null)
echo cpus $(nproc)
echo taint $(cat /proc/sys/kernel/tainted)
ask status
echo status $answer
COMPLAINTS
"#;

pub(super) fn race(context: &Context, machine: Machine, rounds: u32, entry: &str) -> Outcome {
    let overlay = context.directory()?.join("overlay");
    images::module("6.12", &overlay)?;
    let machine = machine.with("SMP", CPUS).with("APPEND", PATIENT);
    let machine = machine.with("EXEUNT", format!("entry={entry} stats")).with("OVERLAY", overlay.display());
    let machine = machine.with("RUN", shell::script(RACE, rounds)).limit(300 + u64::from(rounds) * 4);
    let ran = machine.run()?.ended_with(0)?;
    let said = |name| parse::value(&ran.stdout, name).ok_or_else(|| format!("the guest did not say {name:?}"));
    let number = |name| said(name)?.parse::<u32>().map_err(|error| format!("{name}: {error}"));
    ensure!(said("failed")? == "0", "steps failed: {}", said("failed")?);
    ensure!(said("last")? == "ok 0x0 0x0 0x0 0x0", "at the end: {}", said("last")?);
    ensure!(
        said("leavers")? == "2" && number("left")? > 0 && number("plugged")? > 0,
        "nothing happened:\n{}",
        ran.stdout
    );
    ensure!(said("kernel")?.ends_with(" wrong 0"), "work in the kernel: {}", said("kernel")?);
    ensure!(number("cpus")? == CPUS && said("status")?.contains(" cpus 4 live 4 "), "at the end: {}", said("status")?);
    ensure!(said("taint")? == MODULE_TAINT, "taint {}", said("taint")?);
    let bad: Vec<&str> = ran.stdout.lines().filter_map(|line| line.strip_prefix("bad ")).collect();
    ensure!(bad.is_empty(), "the kernel complains:\n{}", bad.join("\n"));
    Ok(())
}

pub(super) fn rounds(context: &Context, machine: Machine, rounds: u32, entry: &str, model: &str) -> Outcome {
    let qemu = qemu::usual()?;
    qemu.needs(model)?;
    let overlay = context.directory()?.join("overlay");
    images::module("6.12", &overlay)?;
    // A CPU with VHE that the firmware starts while Exeunt is away goes on at EL2, where the others do not.
    let left = if model == "cortex-a57" { "yes" } else { "" };
    let script = shell::script(SCRIPT, rounds).replace("LEFT", left);
    let machine = machine.with("SMP", CPUS).with("CPU", qemu.cpu(model));
    let machine = machine.with("EXEUNT", format!("entry={entry} stats")).with("APPEND", PATIENT);
    let machine = machine.with("OVERLAY", overlay.display()).with("RUN", script);
    let ran = machine.limit(300 + u64::from(rounds) * 4).run()?.ended_with(0)?;

    let said = |name| parse::value(&ran.stdout, name).ok_or_else(|| format!("the guest did not say {name:?}"));
    let number = |name| said(name)?.parse::<u32>().map_err(|error| format!("{name}: {error}"));
    ensure!(number("failed")? == 0, "{} steps failed; the first: {}", number("failed")?, said("failed-at")?);
    ensure!((number("done")?, number("plugged")?) == (rounds, rounds), "only {} rounds", number("done")?);
    ensure!(number("worked")? > 0 && number("wrong")? == 0, "{} of {} sums are wrong", said("wrong")?, said("worked")?);
    let kernel = said("kernel")?;
    ensure!(kernel.starts_with("ok rounds ") && !kernel.contains(" rounds 0 "), "no work in the kernel: {kernel}");
    ensure!(kernel.ends_with(" wrong 0"), "work in the kernel: {kernel}");
    ensure!(number("cpus")? == CPUS, "the kernel has {} CPUs at the end", number("cpus")?);
    ensure!(said("taint")? == MODULE_TAINT, "taint {}", said("taint")?);
    let bad: Vec<&str> = ran.stdout.lines().filter_map(|line| line.strip_prefix("bad ")).collect();
    ensure!(bad.is_empty(), "the kernel complains:\n{}", bad.join("\n"));

    // Away a stub answers VERSION, back Exeunt does.
    let lines = |start| ran.stdout.lines().filter(move |line| line.starts_with(start));
    let versions = [lines("left cpu").count(), lines("back cpu").count()];
    ensure!(versions == [CPUS as usize; 2], "VERSION was answered on {versions:?} CPUs");
    ensure!(lines("left cpu").all(|line| line.contains(" 0xbadca11 ")), "who answers after LEAVE: {:?}", said("left"));
    ensure!(lines("back cpu").all(|line| line.contains(" 0x10000 ")), "who answers after REENTER: {:?}", said("back"));
    for line in lines("status cpu") {
        let counted = format!("departures {rounds} returns {rounds} ");
        ensure!(line.contains(" state 2 ") && line.contains(&counted), "a CPU at the end: {line}");
    }
    ensure!(lines("status cpu").count() == CPUS as usize, "STATUS says: {:?}", said("status"));
    Ok(())
}

/// A device tree without the room at its end, of which QEMU makes a MiB each time (devicetree specification, 5.2).
fn packed(tree: &[u8]) -> Option<Vec<u8>> {
    let field = |offset: usize| Some(u32::from_be_bytes(*tree.get(offset..)?.first_chunk()?) as usize);
    let (strings, structure) = (field(12)? + field(32)?, field(8)? + field(36)?);
    let mut packed = tree.get(..strings.max(structure))?.to_vec();
    let size = u32::try_from(packed.len()).ok()?;
    packed.get_mut(4..8)?.copy_from_slice(&size.to_be_bytes());
    Some(packed)
}

/// LOCK on a machine whose tree lists a CPU that firmware does not know: nobody can be there, and the promise holds for
/// all that are.
fn lock_without_a_cpu(context: &Context) -> Outcome {
    let overlay = context.directory()?.join("overlay");
    images::module("6.12", &overlay)?;
    let tree = context.directory()?.join("three.dtb");
    let machine = |cpus: u32| {
        let script = "insmod /tests/exeunt_test.ko; exec 3<>/proc/exeunt; \
                      echo lock >&3; echo lock $(cat <&3); echo cpus $(nproc)";
        context.machine().with("SMP", cpus).with("OVERLAY", overlay.display()).with("RUN", script)
    };
    // QEMU writes the tree of a machine with three CPUs, and ends.
    machine(3).with_qemu(format!("-machine dumpdtb={}", tree.display())).run()?;
    fs::write(&tree, packed(&fs::read(&tree)?).ok_or("QEMU wrote no device tree")?)?;
    let ran = machine(2).with_qemu(format!("-dtb {}", tree.display())).run()?.ended_with(0)?;
    ensure!(ran.line_with("3 CPUs").is_some(), "Exeunt did not find three CPUs in the tree");
    ensure!(parse::value(&ran.stdout, "cpus") == Some("2"), "Linux does not have two CPUs:\n{}", ran.stdout);
    ensure!(parse::value(&ran.stdout, "lock") == Some("ok"), "LOCK: {:?}", parse::value(&ran.stdout, "lock"));
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = vec![Cell::new("leave/lock-without-a-cpu", lock_without_a_cpu)];
    for (count, entry, model, gic) in [
        (50, "el2", "cortex-a57", 3),
        (50, "el1", "cortex-a57", 2),
        (100, "el2", "cortex-a57", 2),
        (100, "el1", "cortex-a57", 3),
        (100, "el2", "max", 3),
        (1000, "el2", "cortex-a57", 3),
        (1000, "el1", "max", 2),
    ] {
        let name = format!("leave/{count}-rounds-{entry}-{model}-gic{gic}");
        let quick = (count, entry) == (50, "el2");
        let test = move |context: &Context| rounds(context, context.machine().with("GIC", gic), count, entry, model);
        cells.push(Cell::new(name, test).slow(!quick));
    }
    for (count, entry, gic) in [(50, "el2", 3), (500, "el2", 2), (500, "el1", 3)] {
        let name = format!("leave/race-{count}-rounds-{entry}-gic{gic}");
        let test = move |context: &Context| race(context, context.machine().with("GIC", gic), count, entry);
        cells.push(Cell::new(name, test).slow(count > 50));
    }
    cells
}
