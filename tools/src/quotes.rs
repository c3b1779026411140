//! Pieces of the project's files in the book: that they are still what stands there.
//!
//! A page is to be read as it is, so a piece of code stands in it as text. A block whose first line names a file, as
//! in "```rust exeunt/src/enter.rs", must be a piece of that file: the same lines in the same order, the indentation
//! that all of them share left out. A line `...` stands for lines that are left out.

use std::fs;
use std::path::Path;

/// A piece of a file in a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Quote<'a> {
    /// The file, from the project's directory.
    pub file: &'a str,
    /// The lines.
    pub lines: Vec<&'a str>,
}

/// The quotes of a page.
#[must_use]
pub fn quotes(page: &str) -> Vec<Quote<'_>> {
    let mut quotes = Vec::new();
    for block in page.split("```").skip(1).step_by(2) {
        let Some((first, code)) = block.split_once('\n') else { continue };
        let Some(file) = first.split_whitespace().nth(1).filter(|word| word.contains('/')) else { continue };
        quotes.push(Quote { file, lines: code.lines().collect() });
    }
    quotes
}

impl Quote<'_> {
    /// The first line that is not in the file after the ones before it; nothing if all are.
    #[must_use]
    pub fn missing(&self, text: &str) -> Option<&str> {
        let lines: Vec<&str> = text.lines().collect();
        let mut from = 0;
        for piece in self.lines.split(|line| line.trim() == "...").filter(|piece| !piece.is_empty()) {
            let Some(at) = (from..lines.len()).find(|&at| is_at(piece, &lines[at..])) else {
                let is_there = |line: &&&str| lines.iter().any(|each| each.trim() == line.trim());
                return piece.iter().find(|line| !is_there(line)).or(piece.first()).copied();
            };
            from = at + piece.len();
        }
        None
    }

    /// Why it is no piece of the file below `root`.
    #[must_use]
    pub fn fault(&self, root: &Path) -> Option<String> {
        match fs::read_to_string(root.join(self.file)) {
            Err(error) => Some(format!("{}: {error}", self.file)),
            Ok(text) => self.missing(&text).map(|line| format!("{} has no such piece: {line}", self.file)),
        }
    }
}

/// Whether `lines` begin with `piece`, with any one indentation before all of it.
fn is_at(piece: &[&str], lines: &[&str]) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let first = (piece.iter().zip(lines)).find(|(piece, _)| !piece.trim().is_empty());
    let Some(more) = first.and_then(|(piece, line)| indent(line).checked_sub(indent(piece))) else { return false };
    let indent = " ".repeat(more);
    lines.len() >= piece.len()
        && piece.iter().zip(lines).all(|(piece, line)| match piece.trim_end() {
            "" => line.trim().is_empty(),
            piece => line.trim_end().strip_prefix(indent.as_str()) == Some(piece),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_a_piece_of_its_file() {
        let page = "text\n```rust a/b.rs\nfn b() {\n    c();\n}\n...\nlast\n```\n\
                    ```\nnone/here\n```\n```rust\nno\n```\n```sh disk\nno\n```\n";
        let quotes = quotes(page);
        assert_eq!(quotes.len(), 1);
        let quote = &quotes[0];
        assert_eq!(quote.file, "a/b.rs");
        assert_eq!(quote.missing("mod a {\n    fn b() {\n        c();\n    }\n    between\n\n    last\n}\n"), None);
        assert_eq!(quote.missing("fn b() {\n    d();\n}\nlast\n"), Some("    c();"));
        // The lines are there, in another order.
        assert_eq!(quote.missing("last\nfn b() {\n    c();\n}\n"), Some("last"));
        // Not the same indentation for all of them.
        assert_eq!(quote.missing("  fn b() {\n    c();\n  }\nlast\n"), Some("fn b() {"));
    }
}
