//! `make trace`: the trace of a boot, in each of its forms, and its page in a browser.
//!
//! Owns what a page has to have drawn. The screenshots stay in target/screenshots, for people to look at.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::machine::run_script;
use crate::process;
use crate::{ensure, paths};

/// For a browser on a busy workstation. A page takes a second.
const PATIENCE: Duration = Duration::from_mins(3);

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
        for (name, size) in [("desktop", "1280,900"), ("phone", "390,844")] {
            let picture = pictures.join(format!("trace-{what}-{name}.png"));
            let document = look(&run.join("trace.html"), &directory.join("profile"), size, &picture)?;
            let about = |missed: Missed| missed.about(&format!("{what} on a {name}"));
            drawn(&document, what).map_err(about)?;
            ensure!(fs::metadata(&picture)?.len() > 20_000, "{} is hardly a picture", picture.display());
        }
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
