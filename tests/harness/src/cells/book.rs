//! The book: what its pages show comes when it is typed, its labs fail before their solutions and not after, and it can
//! be built; so can a release. What else people type stands in `people`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cell::{Cell, Context, Missed, Outcome};
use crate::{ensure, parse, paths};

/// What scripts/lab returns for a lab that is not solved.
const NOT_SOLVED: i32 = 1;

/// Labs, each with a word of what the starting point is told.
const LABS: [(u32, &str); 11] = [
    (1, "ERET to EL1 first"),
    (2, "you say Access"),
    (3, "you draw Range"),
    (4, "no access has come to EL2"),
    (5, "turn_on() gives -1"),
    (6, "it must abort"),
    (7, "x0 = 0x7 is no call"),
    (8, "class ="),
    (9, "CPU 1 still spins"),
    (10, "you have found None"),
    (11, "the kernel lives on"),
];

/// Pages with sessions, from docs/.
const SESSIONS: [&str; 10] = [
    "labs/start",
    "learn/calls",
    "learn/exceptions",
    "learn/interrupts",
    "learn/leaving",
    "learn/levels",
    "learn/safety-nets",
    "learn/translation",
    "learn/virtual-el2",
    "learn/why-leave",
];

/// The pages of docs/ and those beside README.md.
///
/// # Errors
/// When they cannot be listed.
pub fn pages() -> Result<Vec<PathBuf>, Missed> {
    let mut pages = vec![paths::root().join("README.md")];
    let mut folders = vec![paths::root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    Ok(pages)
}

/// Units of time.
const UNITS: [&str; 5] = ["ns", "us", "ms", "seconds", "minutes"];

/// A line as it can be compared with that of another run: without the numbers, but for those that belong to a word.
fn without_numbers(line: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for letter in line.trim().replace("µs", "us").chars().chain([' ']) {
        if letter.is_ascii_alphanumeric() {
            word.push(letter);
            continue;
        }
        let is_number = word.starts_with(|first: char| first.is_ascii_digit());
        let is_cpu =
            word.strip_prefix("cpu").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()));
        out.push_str(match (is_number, is_cpu) {
            (true, _) => "#",
            (_, true) => "cpu#",
            // On a slow workstation it is another one.
            _ if UNITS.contains(&&*word) => "time",
            _ => &word,
        });
        word.clear();
        if !(letter == ' ' && out.ends_with(' ')) {
            out.push(letter);
        }
    }
    // A column is as wide as its numbers.
    out.trim().replace("[ #", "[#")
}

/// The line of `session` that `output` does not have after those before it.
pub(super) fn missing<'a>(session: &[&'a str], output: &str) -> Option<&'a str> {
    let mut said = output.lines().map(without_numbers);
    session.iter().copied().filter(|line| !matches!(line.trim(), "" | "...")).find(|line| {
        let line = without_numbers(line);
        !said.any(|other| other == line)
    })
}

/// Types the sessions of a page, and compares what comes.
fn session(context: &Context, page: &str) -> Outcome {
    let directory = context.directory()?.display().to_string();
    let text = fs::read_to_string(paths::root().join("docs").join(page).with_extension("md"))?;
    let sessions = parse::sessions(&text);
    ensure!(!sessions.is_empty(), "the page shows no session");
    for (command, lines) in sessions {
        eprintln!("{command}");
        let command = command.replace("target/trace/", &format!("{directory}/"));
        let ran = context.machine().own_build().with("OUT", &directory).shell(&command)?;
        let output = format!("{}\n{}", ran.stdout, ran.stderr);
        if let Some(line) = missing(&lines, &output) {
            return Err(Missed::Failed(format!("`{command}` does not say {line:?}, but:\n{output}")));
        }
    }
    Ok(())
}

/// A lab as it is handed out, and its solution.
fn lab(context: &Context, number: u32, told: &str) -> Outcome {
    let directory = context.directory()?.display().to_string();
    let run = |what: &str| context.machine().with("OUT", &directory).shell(&format!("scripts/lab {number} {what}"));
    if is_touched(number)? {
        eprintln!("lab {number} is being worked at: its starting point is not what was handed out");
    } else {
        let ran = run("")?;
        ensure!(ran.status == NOT_SOLVED, "the starting point ends with {}: {}{}", ran.status, ran.stdout, ran.stderr);
        ensure!(ran.stdout.contains("lab: not yet: ") && ran.stdout.contains(told), "it says {:?}", ran.stdout);
    }
    let ran = run("solution")?.ended_with(0)?;
    ensure!(ran.stdout.contains("lab: solved: "), "it says {:?}", ran.stdout);
    Ok(())
}

/// Whether somebody has written in the file of a lab: it says nothing of what is his any more.
fn is_touched(number: u32) -> Result<bool, Missed> {
    let (ending, untouched) = match number {
        8 => ("txt", "class =\n"),
        11 => ("c", "not yet"),
        _ => ("rs", "ours"),
    };
    let text = fs::read_to_string(paths::root().join(format!("examples/labs/yours/lab_{number}.{ending}")))?;
    Ok(!text.contains(untouched))
}

/// `make docs`, and a page that it leaves.
fn docs(context: &Context) -> Outcome {
    let ran = context.machine().make(&["docs"])?.ended_with(0)?;
    ensure!(ran.stderr.contains("no link that leads nowhere"), "it says {:?}", ran.stderr);
    let page = paths::target().join("book/html/learn/levels.html");
    ensure!(Path::new(&page).exists(), "there is no {}", page.display());
    Ok(())
}

/// `make dist`: the archive is whole.
fn dist(context: &Context) -> Outcome {
    let ran = context.machine().make(&["dist"])?.ended_with(0)?;
    let archive =
        ran.stderr.split_whitespace().find(|word| word.ends_with(".tar.xz:")).map(|word| word.trim_end_matches(':'));
    let Some(archive) = archive else { return Err(Missed::Failed(format!("it names no archive: {:?}", ran.stderr))) };
    let directory = context.directory()?.display().to_string();
    let unpack =
        format!("tar -xf {archive} -C {directory} && cd {directory}/exeunt-* && sha256sum --quiet -c SHA256SUMS");
    context.machine().shell(&unpack)?.ended_with(0)?;
    let sums = fs::read_to_string(paths::root().join(archive).with_extension("xz.sha256"))?;
    ensure!(sums.contains(".tar.xz"), "the archive's own sum is missing: {sums:?}");
    Ok(())
}

/// The same sources in another directory give the same image, to the byte.
fn same_image(context: &Context) -> Outcome {
    let directory = context.directory()?.join("elsewhere").display().to_string();
    let copy =
        format!("mkdir -p {directory} && tar --exclude=./target --exclude=./.git -cf - . | tar -xf - -C {directory}");
    context.machine().shell(&copy)?.ended_with(0)?;
    context.machine().shell(&format!("{directory}/scripts/build"))?.ended_with(0)?;
    context.machine().shell("scripts/build")?.ended_with(0)?;
    let image = |target: &Path| fs::read(target.join("exeunt-release.bin"));
    let (here, elsewhere) = (image(&paths::target())?, image(&Path::new(&directory).join("target"))?);
    ensure!(here == elsewhere, "the images differ: {} and {} bytes", here.len(), elsewhere.len());
    fs::remove_dir_all(&directory)?;
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    let labs = LABS.map(|(number, told)| {
        Cell::new(format!("book/lab-{number}"), move |context| lab(context, number, told)).slow(true)
    });
    let sessions =
        SESSIONS.map(|page| Cell::new(format!("book/{page}"), move |context| session(context, page)).slow(true));
    let made = [
        Cell::new("book/make-docs", docs).slow(true),
        Cell::new("book/make-dist", dist).slow(true),
        Cell::new("book/same-image-elsewhere", same_image).slow(true),
    ];
    labs.into_iter().chain(sessions).chain(made).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_count_but_for_those_of_words() {
        assert_eq!(
            without_numbers("[exeunt     0.1202 cpu0] DEBUG at 0x41ca04b0, EL2  x0, 17 seconds"),
            "[exeunt #.# cpu#] DEBUG at #, EL2 x0, # time"
        );
        assert_eq!(without_numbers("[    6.11] it, 9.5 µs"), without_numbers("[  116.11] it, 10.1 ms"));
        assert_ne!(without_numbers("started at EL1"), without_numbers("started at EL2"));
    }

    #[test]
    fn a_line_that_does_not_come_is_named() {
        let output = "one 1\ntwo\nthree 3\n";
        assert_eq!(missing(&["one 2", "...", "three 4"], output), None);
        assert_eq!(missing(&["three 3", "one 1"], output), Some("one 1"));
        assert_eq!(missing(&["four"], output), Some("four"));
    }

    #[test]
    fn every_page_with_a_session_has_a_cell() {
        let with_sessions: Vec<String> = pages()
            .unwrap()
            .iter()
            .filter(|page| !parse::sessions(&fs::read_to_string(page).unwrap()).is_empty())
            .map(|page| page.with_extension("").strip_prefix(paths::root().join("docs")).unwrap().display().to_string())
            .collect();
        assert_eq!(with_sessions, SESSIONS);
    }
}
