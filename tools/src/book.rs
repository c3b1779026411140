//! The book: docs/ and the pages beside README.md, as mdBook wants them, and whether what it has made is whole.
//!
//! docs/ is written to be read as it is, on a forge or in an editor: links go from file to file of the project. In the
//! book there are only pages. [`source`] lays the pages out and turns what leaves them into a name; [`dead_links`] goes
//! over the finished HTML.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::rooms::files_below;

/// The pages beside README.md that are in the book, and their names there. mdBook would make README.md an index.
const PAGES: [(&str, &str); 4] = [
    ("README.md", "introduction.md"),
    ("CONTRIBUTING.md", "contributing.md"),
    ("CHANGELOG.md", "changelog.md"),
    ("SECURITY.md", "security.md"),
];

/// Where the project's file `path` is in the book, if it is a page.
fn in_book(path: &Path) -> Option<PathBuf> {
    if let Some((_, name)) = PAGES.iter().find(|(file, _)| path == Path::new(file)) {
        return Some(name.into());
    }
    let below = path.strip_prefix("docs").ok()?;
    (below.extension()? == "md").then(|| below.to_owned())
}

/// `path` without `.` and `..`; nothing if it leads out of the project.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop().then_some(())?;
            }
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

/// The way from the page `from` of the book to `to`.
fn way(from: &Path, to: &Path) -> String {
    let up = from.parent().map_or(0, |folder| folder.components().count());
    format!("{}{}", "../".repeat(up), to.display())
}

/// The file that a block of code is quoted from: what begins with `rust exeunt/src/enter.rs`.
fn quoted_from(block: &str) -> Option<&str> {
    let file = block.lines().next()?.split_whitespace().nth(1)?;
    (file.contains('/') && Path::new(file).extension().is_some()).then_some(file)
}

/// Text of the project's page `page`, with each link as the book needs it. Code is left as it is, and has the file that
/// it is quoted from above it: a browser does not show what stands behind the language.
#[must_use]
pub fn adapted(page: &Path, text: &str) -> String {
    let Some(here) = in_book(page) else { return text.to_owned() };
    let mut out = String::new();
    for (index, part) in text.split("```").enumerate() {
        if index % 2 == 1 {
            if let Some(file) = quoted_from(part) {
                let _ = write!(out, "<p class=\"file\">{file}</p>\n\n");
            }
            out.push_str("```");
            out.push_str(part);
            continue;
        }
        if index > 0 {
            out.push_str("```");
        }
        let mut rest = part;
        // `[words](target)`. Words with brackets of their own are none of this project's.
        while let Some(middle) = rest.find("](") {
            let Some(end) = rest[middle..].find(')') else { break };
            let (before, target, behind) =
                (&rest[..middle], &rest[middle + 2..middle + end], &rest[middle + end + 1..]);
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let there = page.parent().unwrap_or(Path::new("")).join(file);
            if file.is_empty() || target.contains("://") {
                out.push_str(&rest[..=middle + end]);
            } else if let Some(to) = plain(&there).as_deref().and_then(in_book) {
                let heading = if heading.is_empty() { String::new() } else { format!("#{heading}") };
                let _ = write!(out, "{before}]({}{heading})", way(&here, &to));
            } else {
                // A file of the sources: its words, and where it is if they do not say so.
                let path = plain(&there).unwrap_or(there).display().to_string();
                let (head, words) = before.rsplit_once('[').unwrap_or((before, ""));
                let name = if words.contains(&path) { String::new() } else { format!(" (`{path}`)") };
                let _ = write!(out, "{head}{words}{name}");
            }
            rest = behind;
        }
        out.push_str(rest);
    }
    out
}

/// Lays the source of the book out in `to`, from the project in `root`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn source(root: &Path, to: &Path) -> io::Result<usize> {
    let mut pages: Vec<PathBuf> = PAGES.map(|(file, _)| root.join(file)).to_vec();
    pages.retain(|page| page.exists());
    pages.extend(files_below(&root.join("docs"), &["md"])?);
    for path in &pages {
        let below = path.strip_prefix(root).unwrap_or(path);
        let Some(name) = in_book(below) else { continue };
        let file = to.join(name);
        fs::create_dir_all(file.parent().unwrap_or(to))?;
        fs::write(file, adapted(below, &fs::read_to_string(path)?))?;
    }
    Ok(pages.len())
}

/// The values of the attribute `name` in HTML.
fn attributes<'a>(html: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let begins = move |part: &&str| !part.is_empty();
    html.match_indices(name).map(move |(at, _)| &html[at + name.len()..]).filter_map(move |rest| {
        let value = rest.strip_prefix("=\"")?;
        value.split('"').next().filter(begins)
    })
}

/// What in the HTML below `book` points at a file or a heading that is not there: the page, and where to.
///
/// # Errors
/// When a page cannot be read.
pub fn dead_links(book: &Path) -> io::Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    for path in files_below(book, &["html"])? {
        pages.insert(path.clone(), fs::read_to_string(&path)?);
    }
    let headings: BTreeMap<&Path, BTreeSet<&str>> =
        pages.iter().map(|(path, html)| (path.as_path(), attributes(html, " id").collect())).collect();
    let mut dead = Vec::new();
    for (path, html) in &pages {
        // The page for what was not found has links for any place.
        if path.ends_with("404.html") || path.ends_with("toc.html") {
            continue;
        }
        for target in attributes(html, " href").chain(attributes(html, " src")) {
            let outside = ["://", "mailto:", "data:", "javascript:"].iter().any(|begin| target.contains(begin));
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let there = if file.is_empty() { path.clone() } else { path.parent().unwrap_or(book).join(file) };
            let plain = plain(there.strip_prefix(book).unwrap_or(&there)).map(|below| book.join(below));
            let found = plain.is_some_and(|there| {
                let headings = headings.get(there.as_path());
                there.exists() && (heading.is_empty() || headings.is_none_or(|all| all.contains(heading)))
            });
            if !outside && !found {
                dead.push(format!("{}: {target}", path.strip_prefix(book).unwrap_or(path).display()));
            }
        }
    }
    Ok(dead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_from_page_to_page_or_become_names() {
        let text = "[a](start.md#x) [b](../README.md) [c](https://x.y) [`src`](../boot/src/stub.rs) \
                    [the code](../boot/)\n\
                    ```\n[d](../README.md)\n``` [e](#here) `boot/src/stub.rs`";
        assert_eq!(
            adapted(Path::new("docs/code.md"), text),
            "[a](start.md#x) [b](introduction.md) [c](https://x.y) `src` (`boot/src/stub.rs`) the code (`boot`)\n\
             ```\n[d](../README.md)\n``` [e](#here) `boot/src/stub.rs`"
        );
        assert_eq!(
            adapted(Path::new("docs/learn/a.md"), "[a](../start.md) [b](b.md)"),
            "[a](../start.md) [b](../learn/b.md)"
        );
        assert_eq!(
            adapted(Path::new("README.md"), "[a](docs/learn/a.md) [b](CONTRIBUTING.md)"),
            "[a](learn/a.md) [b](contributing.md)"
        );
        assert_eq!(adapted(Path::new("docs/a.md"), "[words `a/b`](../a/b)"), "words `a/b`");
    }

    #[test]
    fn quotes_have_their_file_above_them() {
        let adapted = |text| adapted(Path::new("docs/a.md"), text);
        assert_eq!(
            adapted("a\n\n```rust boot/src/stub.rs\nx\n```\n"),
            "a\n\n<p class=\"file\">boot/src/stub.rs</p>\n\n```rust boot/src/stub.rs\nx\n```\n"
        );
        for other in ["```\na/b.rs\n```\n", "```sh disk\ntrue\n```\n", "```console run\n$ a/b.c\n```\n"] {
            assert_eq!(adapted(other), other);
        }
    }

    #[test]
    fn dead_links_are_found() {
        let book = std::env::temp_dir().join(format!("exeunt-book-{}", std::process::id()));
        fs::create_dir_all(book.join("learn")).unwrap();
        fs::write(
            book.join("a.html"),
            "<a href=\"learn/b.html#x\"> <a href=\"#y\"> <a href=\"https://c\"> <h1 id=\"z\">",
        )
        .unwrap();
        fs::write(
            book.join("learn/b.html"),
            "<h1 id=\"x\"> <a href=\"../a.html#z\"> <img src=\"gone.svg\"> <a href=\"../gone.html\">",
        )
        .unwrap();
        let dead = dead_links(&book).unwrap();
        fs::remove_dir_all(&book).unwrap();
        assert_eq!(dead, ["a.html: #y", "learn/b.html: ../gone.html", "learn/b.html: gone.svg"]);
    }
}
