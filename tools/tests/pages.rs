//! What the pages and comments point at is there: links of Markdown with their headings, and paths in backticks. Code
//! in a page is the project's, every page is in the book, and its sentences are short.

#[allow(dead_code, reason = "nothing here looks at a build")]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::root;
use exeunt_tools::prose::{AVERAGE, LONGEST, Sentences, words};
use exeunt_tools::quotes::quotes;
use exeunt_tools::rooms::files_below;

/// Where paths in backticks begin.
const FOLDERS: [&str; 9] =
    ["boot", "docs", "examples", "exeunt", "guest-abi", "hypervisor", "scripts", "tests", "tools"];
/// The pages beside README.md.
const PAGES: [&str; 4] = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"];

/// The files of the project with one of these endings.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = PAGES.map(|name| root().join(name)).to_vec();
    files.retain(|_| endings.contains(&"md"));
    for folder in FOLDERS {
        files.extend(files_below(&root().join(folder), endings).expect("the project's files can be listed"));
    }
    files
}

/// Text in prose: without code blocks.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// The targets of links, `[words](target)`.
fn links(page: &str) -> impl Iterator<Item = &str> {
    page.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// A heading as links name it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|&letter| letter.is_alphanumeric() || letter == '-' || letter == '_').collect()
}

/// The anchors of a page's headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let page = prose(page);
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

/// The paths that `text` has in backticks: they begin with a folder of the project, and look like a file or a folder.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).filter(|word| {
        let Some((folder, rest)) = word.split_once('/') else { return false };
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
        let is_file = Path::new(rest).extension().is_some_and(|ending| ending.len() <= 4 && ending != "sh");
        let is_path = rest.is_empty() || rest.ends_with('/') || is_file || folder == "scripts";
        FOLDERS.contains(&folder) && rest.chars().all(plain) && is_path && !rest.ends_with('.')
    })
}

/// What of `page`'s links leads nowhere.
fn broken(page: &Path, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let text = prose(text);
    for link in links(&text).filter(|link| !link.contains("://")) {
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() { page.to_owned() } else { page.parent().unwrap_or(Path::new("")).join(file) };
        let there = target.exists()
            && (heading.is_empty() || fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(heading)));
        if !there {
            broken.push(link.to_owned());
        }
    }
    broken
}

#[test]
fn links_lead_somewhere() {
    let mut found = Vec::new();
    for page in files(&["md"]) {
        let text = fs::read_to_string(&page).expect("a page can be read");
        found.extend(broken(&page, &text).into_iter().map(|link| format!("{}: {link}", page.display())));
    }
    assert!(found.is_empty(), "links that lead nowhere:\n{}", found.join("\n"));
}

#[test]
fn paths_in_backticks_exist() {
    let (mut count, mut found) = (0, Vec::new());
    for file in files(&["md", "rs", "c", "h", "ld", "sh", ""]) {
        let text = fs::read_to_string(&file).expect("a file of the project can be read");
        for path in paths(&text) {
            count += 1;
            // From the project's folder, or from that of the crate that the file belongs to.
            if !file.ancestors().any(|folder| folder.starts_with(root()) && folder.join(path).exists()) {
                found.push(format!("{}: {path}", file.display()));
            }
        }
    }
    assert!(count > 50, "only {count} paths are found");
    assert!(found.is_empty(), "paths that are not there:\n{}", found.join("\n"));
}

#[test]
fn what_leads_nowhere_is_found() {
    let page = root().join("docs/code.md");
    let text = "# A page\n\n[a](start.md) [b](../README.md#using-it) [c](https://x.y) [d](#the-tower) [e](gone.md)\n\
                [f](start.md#gone)\n```\n[g](gone.md)\n```\n[h](#gone)";
    assert_eq!(broken(&page, text), ["gone.md", "start.md#gone", "#gone"]);
    let text = "`hypervisor/src/trap.rs` `boot/6.12-cortex-a57` `scripts/run` `kexec/x.rs` `docs/` `tests/gone.rs.`";
    assert_eq!(paths(text).collect::<Vec<_>>(), ["hypervisor/src/trap.rs", "scripts/run", "docs/"]);
    assert_eq!(anchor("Why `/reserved-memory` with `no-map`"), "why-reserved-memory-with-no-map");
}

#[test]
fn code_in_a_page_is_the_projects() {
    let (mut count, mut found) = (0, Vec::new());
    for page in files(&["md"]) {
        let text = fs::read_to_string(&page).expect("a page can be read");
        for quote in quotes(&text) {
            count += 1;
            assert!(quote.lines.len() <= 24, "{}: a piece of {} is too long to be read", page.display(), quote.file);
            found.extend(quote.fault(root()).map(|fault| format!("{}: {fault}", page.display())));
        }
    }
    assert!(count >= 10, "only {count} pieces of code are found");
    assert!(found.is_empty(), "code that is not the project's:\n{}", found.join("\n"));
}

#[test]
fn every_page_is_in_the_book() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).expect("the book has a summary");
    let listed: Vec<PathBuf> = links(&summary).map(|link| root().join("docs").join(link)).collect();
    let missing: Vec<String> = files(&["md"])
        .iter()
        .filter(|page| {
            !page.ends_with("SUMMARY.md") && (page.starts_with(root().join("docs")) || page.parent() == Some(root()))
        })
        .filter(|page| !listed.iter().any(|each| each.canonicalize().is_ok_and(|each| each == **page)))
        .map(|page| page.display().to_string())
        .collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md leaves these out: {}", missing.join(" "));
}

#[test]
fn sentences_are_short() {
    let mut pages = files_below(&root().join("docs"), &["md"]).expect("the pages can be listed");
    pages.extend(PAGES.map(|name| root().join(name)));
    assert!(pages.len() >= 30, "there are only {} pages", pages.len());
    let mut found = Vec::new();
    for page in pages {
        let sentences = Sentences::of(&fs::read_to_string(&page).expect("a page can be read"));
        let name = page.strip_prefix(root()).unwrap_or(&page).display();
        if sentences.tenths() > AVERAGE * 10 {
            found.push(format!("{name}: {} words a sentence", sentences.tenths() / 10));
        }
        found.extend(sentences.longer_than(LONGEST).map(|each| format!("{name}: {} words: {each}", words(each))));
    }
    assert!(found.is_empty(), "sentences that are too long:\n{}", found.join("\n"));
}
