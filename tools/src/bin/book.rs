//! Command line of [`exeunt_tools::book`] and [`exeunt_tools::prose`], for `scripts/book` and for people.
//!
//!     book source DIRECTORY   lays the source of the book out there
//!     book links DIRECTORY    says which links of the finished book lead nowhere
//!     book words [PAGE...]    sentences and words of pages, by default of all
//!
//! Returns 0 if all is in order, 1 if a link leads nowhere, 2 if something cannot be read or written.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use exeunt_tools::book;
use exeunt_tools::prose::{LONGEST, Sentences, words};
use exeunt_tools::rooms::files_below;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("book: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[&str]) -> Result<bool, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let told = |error: std::io::Error| error.to_string();
    match arguments {
        ["source", to] => {
            let pages = book::source(root, Path::new(to)).map_err(told)?;
            println!("{pages} pages");
            Ok(true)
        }
        ["links", directory] => {
            let dead = book::dead_links(Path::new(directory)).map_err(told)?;
            for link in &dead {
                println!("leads nowhere: {link}");
            }
            Ok(dead.is_empty())
        }
        ["words", pages @ ..] => {
            let mut pages: Vec<PathBuf> = pages.iter().map(PathBuf::from).collect();
            if pages.is_empty() {
                pages = files_below(&root.join("docs"), &["md"]).map_err(told)?;
                pages.push(root.join("README.md"));
            }
            count(root, &pages)
        }
        _ => Err("usage: book source DIRECTORY | links DIRECTORY | words [PAGE...]".to_owned()),
    }
}

/// A table of the pages.
fn count(root: &Path, pages: &[PathBuf]) -> Result<bool, String> {
    println!("sentences  words each  longest  over {LONGEST}  page");
    let (mut sentences, mut sum, mut longest, mut over) = (0, 0, 0, 0);
    for page in pages {
        let text = fs::read_to_string(page).map_err(|error| format!("{}: {error}", page.display()))?;
        let of = Sentences::of(&text);
        let name = page.strip_prefix(root).unwrap_or(page).display();
        let most = words(of.longest());
        let long = of.longer_than(LONGEST).count();
        println!("{:9}  {:8}.{}  {most:7}  {long:7}  {name}", of.count(), of.tenths() / 10, of.tenths() % 10);
        (sentences, sum, longest, over) = (sentences + of.count(), sum + of.words(), longest.max(most), over + long);
    }
    let tenths = (sum * 10).checked_div(sentences).unwrap_or(0);
    println!("{sentences:9}  {:8}.{}  {longest:7}  {over:7}  all", tenths / 10, tenths % 10);
    Ok(true)
}
