//! `make trace`: the trace of a boot, in each of its forms, and its page in a browser.
//!
//! Owns what a page has to have drawn. The screenshots stay in target/screenshots, for people to look at.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use view::Report;
use view::report::Count;

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::run_script;
use crate::process;
use crate::{ensure, paths};

/// For a browser on a busy workstation. A page takes a second.
const PATIENCE: Duration = Duration::from_mins(3);

/// The file for Perfetto has microseconds as decimal fractions.
const ROUNDED: Duration = Duration::from_nanos(10);

/// What a boot does that no trace of it can lack.
const IN_A_BOOT: [&str; 7] = [
    "read CurrentEL",
    "write HCR_EL2",
    "ERET; in virtual EL2; the host goes on at EL1",
    "SMC PSCI_VERSION (PSCI): 1.",
    "SMC CPU_ON (PSCI): SUCCESS",
    "HVC FINALISE_EL2 (stub call): STUB_ERR",
    "SMC SYSTEM_OFF (PSCI)",
];

fn trace(directory: &Path, variables: &[(&str, &str)]) -> Result<(), Missed> {
    let variables: Vec<(&str, String)> = variables.iter().map(|&(name, value)| (name, value.to_owned())).collect();
    let ended = run_script("trace", directory, &variables)?;
    ensure!(ended.status == 0, "scripts/trace returned {}: {}{}", ended.status, ended.stdout, ended.stderr);
    ensure!(ended.stdout.contains("\nPASS: "), "it says {:?}", ended.stdout);
    Ok(())
}

/// What `exeunt-dump` says of the box.
fn says(file: &Path, option: &str) -> Result<String, Missed> {
    let mut command = Command::new(paths::root().join("scripts/exeunt-dump"));
    let ended = process::run(command.arg(file).args(option.split_ascii_whitespace()), Duration::from_mins(10))?;
    ensure!(ended.status == 0, "scripts/exeunt-dump returned {}: {}", ended.status, ended.stderr);
    Ok(ended.stdout)
}

/// The box and its forms agree with each other: every exit that was counted was traced, and is in the file for
/// Perfetto; the row of each CPU goes from the start to the end of the run without a gap.
fn agrees(directory: &Path) -> Result<Report, Missed> {
    let json = says(&directory.join("exeunt.box"), "--json")?;
    let report: Report = serde_json::from_str(&json).map_err(|error| format!("--json: {error}"))?;
    let perfetto = fs::read_to_string(directory.join("trace.json"))?;
    let perfetto: Value = serde_json::from_str(&perfetto).map_err(|error| format!("trace.json: {error}"))?;
    consistent(&report, &perfetto)?;
    Ok(report)
}

fn consistent(report: &Report, perfetto: &Value) -> Outcome {
    let events = perfetto["traceEvents"].as_array().map(Vec::as_slice).unwrap_or_default();
    // By track, each in the order of time: begin and end.
    let mut tracks: BTreeMap<u64, Vec<(Duration, Duration)>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let time = |name| Duration::try_from_secs_f64(event[name].as_f64()? / 1e6).ok();
        let (Some(track), Some(begin), Some(length)) = (event["tid"].as_u64(), time("ts"), time("dur")) else {
            return Err(Missed::Failed(format!("no slice: {event}")));
        };
        tracks.entry(track).or_default().push((begin, begin + length));
    }
    let end = tracks.values().flatten().map(|slice| slice.1).max().unwrap_or_default();
    ensure!(end > Duration::from_secs(1), "the run has taken {end:?}");
    for cpu in &report.cpus {
        let number = cpu.cpu;
        let counted: u64 = cpu.classes.iter().map(|class| class.count).sum();
        ensure!(counted == cpu.traced, "CPU {number}: {counted} exits counted, {} traced", cpu.traced);
        let kept = cpu.exits.len() as u64;
        ensure!(kept + cpu.lost == cpu.traced, "CPU {number}: {kept} and {} lost of {}", cpu.lost, cpu.traced);
        let [host, exits] = [1, 2].map(|track| tracks.get(&(u64::from(number) * 2 + track)));
        let Some((host, exits)) = host.zip(exits) else {
            return Err(Missed::Failed(format!("trace.json has no CPU {number}")));
        };
        ensure!(exits.len() as u64 == kept, "CPU {number}: trace.json has {} of {kept} exits", exits.len());
        for slices in [host, exits] {
            let crossing = slices.windows(2).find(|pair| pair[1].0 + ROUNDED < pair[0].1);
            ensure!(crossing.is_none(), "CPU {number}: slices cross: {crossing:?}");
        }
        // What the row leaves out is time in which the CPU is off: here that is before it starts, and at the end.
        let gap = host.windows(2).find(|pair| pair[1].0 > pair[0].1 + ROUNDED);
        ensure!(gap.is_none(), "CPU {number} is nowhere between {gap:?}");
        ensure!(number != 0 || host[0].0.is_zero(), "CPU 0 begins at {:?}", host[0].0);
        let ends = host[host.len() - 1].1;
        let goes_off =
            report.life.iter().rfind(|life| life.cpu == number).is_some_and(|life| life.words.contains("off"));
        ensure!(
            end <= ends + ROUNDED || goes_off,
            "CPU {number} is on at the last, and its row ends at {ends:?} of {end:?}"
        );
        let outside = exits.iter().find(|exit| exit.0 + ROUNDED < host[0].0 || ends + ROUNDED < exit.1);
        ensure!(outside.is_none(), "CPU {number} has an exit while it is off: {outside:?}");
    }
    let sum = |classes: &[Count]| classes.iter().map(|class| class.count).sum::<u64>();
    let by_cpu: u64 = report.cpus.iter().map(|cpu| sum(&cpu.classes)).sum();
    ensure!(sum(&report.classes) == by_cpu, "{:?} are not {by_cpu} exits", report.classes);
    Ok(())
}

/// Every exit of a boot is in the trace, from the first instruction to the power-off, and none is lost.
fn boot(context: &Context) -> Outcome {
    let directory = context.directory()?.join("boot");
    trace(&directory, &[("RUN", "nproc")])?;
    let text = says(&directory.join("exeunt.box"), "--exits 100000")?;
    for words in IN_A_BOOT {
        ensure!(text.contains(words), "the trace has no {words:?}:\n{}", process::tail(&text, 60));
    }
    ensure!(text.contains("0 older ones are lost"), "some are lost");
    ensure!(text.contains("the host turns the machine off"), "the life cycle does not end");
    agrees(&directory)?;
    let perfetto = fs::read_to_string(directory.join("trace.json"))?;
    for words in ["\"traceEvents\":[", "CPU 3: EL2", "\"name\":\"CPU_ON\"", "\"name\":\"virtual EL2\""] {
        ensure!(perfetto.contains(words), "trace.json has no {words}");
    }
    let left: Vec<String> = fs::read_dir(&directory)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name == "memory" || name == "overlay")
        .collect();
    ensure!(left.is_empty(), "it has left {left:?}");
    Ok(())
}

/// Looks at a page: the document as the browser has it at the end. A picture of it goes to `picture`.
fn look(page: &Path, profile: &Path, size: &str, picture: &Path) -> Result<String, Missed> {
    let browser = |how: String| {
        let mut command = Command::new("chromium");
        // As root, and in a container, there is no sandbox to be had; the page is our own.
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
        ]);
        command.args(["--virtual-time-budget=5000", &format!("--window-size={size}"), &how]);
        command.arg(format!("--user-data-dir={}", profile.display())).arg(format!("file://{}", page.display()));
        let ended = process::run(&mut command, PATIENCE)?;
        ensure!(ended.status == 0, "chromium {how} returned {}: {}", ended.status, process::tail(&ended.stderr, 5));
        Ok::<_, Missed>(ended.stdout)
    };
    browser(format!("--screenshot={}", picture.display()))?;
    browser("--dump-dom".to_owned())
}

/// The number in an attribute `data-NAME`.
fn number(document: &str, name: &str) -> Option<u32> {
    let (_, rest) = document.split_once(&format!("data-{name}=\""))?;
    rest.split('"').next()?.parse().ok()
}

/// A browser draws the page without an error, on a desktop and on a phone.
fn browser(context: &Context) -> Outcome {
    if process::run(Command::new("chromium").arg("--version"), PATIENCE).is_err() {
        return Err(Missed::Skipped("there is no chromium; scripts/setup browser installs it".to_owned()));
    }
    let pictures = paths::target().join("screenshots");
    fs::create_dir_all(&pictures)?;
    let directory = context.directory()?.to_owned();
    for what in ["boot", "kexec", "crash"] {
        let run = directory.join(what);
        trace(&run, &[("WHAT", what)])?;
        let report = agrees(&run)?;
        for (name, size) in [("desktop", "1280,900"), ("phone", "390,844")] {
            let picture = pictures.join(format!("trace-{what}-{name}.png"));
            let document = look(&run.join("trace.html"), &directory.join("profile"), size, &picture)?;
            let about = |missed: Missed| missed.about(&format!("{what} on a {name}"));
            drawn(&document, what).map_err(about)?;
            whole(&document, &report).map_err(about)?;
            ensure!(fs::metadata(&picture)?.len() > 20_000, "{} is hardly a picture", picture.display());
        }
    }
    Ok(())
}

/// Whether the page's text and table have the numbers of the box.
fn whole(document: &str, report: &Report) -> Outcome {
    let kept: usize = report.cpus.iter().map(|cpu| cpu.exits.len()).sum();
    let lost: u64 = report.cpus.iter().map(|cpu| cpu.lost).sum();
    let words = match lost {
        0 => format!("All {kept} exits since tracing began are here; none is lost."),
        lost => format!("{kept} exits are here; {lost} older ones are lost"),
    };
    ensure!(document.contains(&words), "it does not say {words:?}");
    for class in &report.classes {
        let row = format!("<td class=\"\">{}</td><td class=\"n\">{}</td>", class.name, class.count);
        ensure!(document.contains(&row), "the table of classes has no row {row:?}");
    }
    Ok(())
}

/// Whether the page has drawn what it has to.
fn drawn(document: &str, what: &str) -> Outcome {
    ensure!(!document.contains("data-error="), "a script has failed");
    ensure!(document.contains("data-ready=\"1\""), "the script has not come to its end");
    let [spans, slices, stubs] = ["spans", "slices", "stubs"].map(|name| number(document, name).unwrap_or_default());
    // Four CPUs, each off, in virtual EL2 and at EL1; each with its set-up of EL2, and a stub call.
    ensure!(spans >= 12 && slices >= 200 && stubs >= 4, "{spans} spans, {slices} slices, {stubs} stub calls");
    let rows = document.matches("<tr").count();
    ensure!(rows > 120, "the tables have {rows} rows");
    for words in ["<td class=\"\">system register</td>", "<td class=\"\">HCR_EL2</td>", "the host leaves virtual EL2"] {
        ensure!(document.contains(words), "there is no {words:?}");
    }
    if what != "boot" {
        ensure!(document.contains("SOFT_RESTART to 0x"), "there is no SOFT_RESTART");
    }
    Ok(())
}

/// The cells.
pub fn cells() -> Vec<Cell> {
    vec![Cell::new("trace/boot", boot), Cell::new("trace/browser", browser).slow(true)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_has_drawn_nothing_is_found() {
        let row = "<tr><td class=\"\">system register</td><td class=\"\">HCR_EL2</td></tr>the host leaves virtual EL2";
        let page = |error: &str, slices: u32| {
            format!(
                "<body data-ready=\"1\"{error}><canvas data-spans=\"12\" data-slices=\"{slices}\" data-stubs=\"4\">{}",
                row.repeat(121)
            )
        };
        assert!(drawn(&page("", 200), "boot").is_ok());
        assert!(drawn(&page("", 20), "boot").is_err());
        assert!(drawn(&page(" data-error=\"x is undefined\"", 200), "boot").is_err());
        assert!(drawn(&page("", 200), "kexec").is_err());
        assert!(drawn("<body>", "boot").is_err());
    }
}
