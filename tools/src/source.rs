//! Source files as the compiler takes them: without comments, and without what only tests see.
//!
//! Owns as much of Rust's lexical grammar as that needs. Lines stay where they are, so that what is found has its
//! line number, and what is counted is lines.

/// A Rust file without comments and without the items below `#[cfg(test)]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// With what is in strings and characters replaced byte by byte, so that nothing in it can be taken for code.
    pub code: String,
    /// With the strings as they are.
    pub whole: String,
    /// Modules in files of their own that only tests see, by name.
    pub test_modules: Vec<String>,
}

impl Source {
    /// Of the file's text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        const MARK: &str = "#[cfg(test)]";
        // Byte for byte alike, so that what is found in the one can be cut from both.
        let (code, whole) = (uncommented(text, false), uncommented(text, true));
        let mut source = Self { code: String::new(), whole: String::new(), test_modules: Vec::new() };
        let mut at = 0;
        while let Some(begin) = code[at..].find(MARK).map(|begin| at + begin) {
            let item = begin + MARK.len();
            let end = item + item_end(&code[item..]);
            let lines = "\n".repeat(code[begin..end].matches('\n').count());
            source.code.extend([&code[at..begin], &lines]);
            source.whole.extend([&whole[at..begin], &lines]);
            if let [.., "mod", name, ";"] = tokens(&code[item..end])[..] {
                source.test_modules.push(name.to_owned());
            }
            at = end;
        }
        source.code.push_str(&code[at..]);
        source.whole.push_str(&whole[at..]);
        source
    }
}

/// How many lines of a Rust or C file are code, and how many of them only tests see.
#[must_use]
pub fn count(text: &str) -> Count {
    let code = lines(&Source::new(text).code);
    Count { code, tests: lines(&uncommented(text, false)) - code }
}

/// How many lines of a script are neither empty nor comments.
#[must_use]
pub fn count_script(text: &str) -> Count {
    Count {
        code: text.lines().filter(|line| !matches!(line.trim().chars().next(), None | Some('#'))).count(),
        tests: 0,
    }
}

/// Lines, without comments and blanks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// What is built.
    pub code: usize,
    /// What only tests see.
    pub tests: usize,
}

/// Text without comments, and with or without what is in quotes.
fn uncommented(text: &str, strings: bool) -> String {
    let mut reader = Reader { text: text.as_bytes(), at: 0, out: Vec::with_capacity(text.len()), strings };
    reader.read();
    // All bytes of a character stay, or all become dots.
    String::from_utf8_lossy(&reader.out).into_owned()
}

/// How many lines have anything on them.
fn lines(code: &str) -> usize {
    code.lines().filter(|line| !line.trim().is_empty()).count()
}

/// The identifiers, and each other character by itself except white space: enough to follow a path.
#[must_use]
pub fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let letters = |letter: char| letter.is_alphanumeric() || letter == '_';
        let length =
            if letters(first) { rest.find(|letter| !letters(letter)).unwrap_or(rest.len()) } else { first.len_utf8() };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Where the item that `code` begins with ends: past its semicolon, or past the braces of its body.
fn item_end(code: &str) -> usize {
    // Braces of an import or of a value are not the end.
    let words = tokens(code);
    let mut words = words.iter().skip_while(|word| !ITEMS.contains(word));
    let has_body = match words.next() {
        Some(&"use" | &"static" | &"type") => false,
        Some(&"const") => words.next() == Some(&"fn"),
        _ => true,
    };
    let mut depth = 0_usize;
    for (at, letter) in code.char_indices() {
        match letter {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (letter == ';' || letter == '}' && has_body) {
            return at + 1;
        }
    }
    code.len()
}

/// Words that begin an item.
const ITEMS: [&str; 11] =
    ["use", "static", "type", "const", "fn", "mod", "struct", "enum", "impl", "trait", "macro_rules"];

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    out: Vec<u8>,
    strings: bool,
}

impl Reader<'_> {
    fn read(&mut self) {
        while let Some(&byte) = self.text.get(self.at) {
            let rest = &self.text[self.at..];
            let word_before = self.at > 0 && is_word(self.text[self.at - 1]);
            if rest.starts_with(b"//") {
                self.drop(rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()));
            } else if rest.starts_with(b"/*") {
                self.drop(comment_length(rest));
            } else if let Some(length) = raw_string_length(rest).filter(|_| !word_before) {
                self.literal(length);
            } else if byte == b'"' {
                self.literal(quoted_length(rest, b'"'));
            } else if byte == b'\'' && is_character(rest) {
                self.literal(quoted_length(rest, b'\''));
            } else {
                self.keep(1);
            }
        }
    }

    fn keep(&mut self, length: usize) {
        self.out.extend_from_slice(&self.text[self.at..self.at + length]);
        self.at += length;
    }

    fn drop(&mut self, length: usize) {
        self.out.extend(self.text[self.at..self.at + length].iter().filter(|&&byte| byte == b'\n'));
        self.at += length;
    }

    /// A quoted thing: its first and last byte stay, and so do line ends.
    fn literal(&mut self, length: usize) {
        if self.strings || length < 2 {
            self.keep(length);
            return;
        }
        self.keep(1);
        let inside = &self.text[self.at..self.at + length - 2];
        self.out.extend(inside.iter().map(|&byte| if byte.is_ascii_whitespace() { byte } else { b'.' }));
        self.at += length - 2;
        self.keep(1);
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Comments nest.
fn comment_length(text: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < text.len() {
        match &text[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// `r"..."`, `r#"..."#`, and the same of bytes and C strings.
fn raw_string_length(text: &[u8]) -> Option<usize> {
    let prefix = text.iter().take(2).position(|&byte| byte == b'r')? + 1;
    if prefix == 2 && !matches!(text[0], b'b' | b'c') {
        return None;
    }
    let hashes = text[prefix..].iter().take_while(|&&byte| byte == b'#').count();
    if text.get(prefix + hashes) != Some(&b'"') {
        return None;
    }
    let begin = prefix + hashes + 1;
    let end = [b"\"", &vec![b'#'; hashes][..]].concat();
    let length = text[begin..].windows(end.len()).position(|window| window == end);
    Some(length.map_or(text.len(), |length| begin + length + end.len()))
}

/// The length of what begins with `quote`, up to the next one that has no backslash before it.
fn quoted_length(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// Whether an apostrophe begins a character, and not a lifetime.
fn is_character(text: &[u8]) -> bool {
    match text {
        [_, b'\\', ..] => true,
        [_, first, ..] => {
            let length = match first {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            text.get(1 + length) == Some(&b'\'')
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(text: &str) -> String {
        Source::new(text).code
    }

    #[test]
    fn comments_go_and_lines_stay() {
        let text = "//! about\nfn a() {} // one\n/* two /* nested\n */ still */ let b;\n";
        assert_eq!(bare(text), "\nfn a() {} \n\n let b;\n");
    }

    #[test]
    fn what_stands_in_quotes_is_no_code() {
        let text = r##"a("// \" no", r#"crate::x " {"#, br"}", b'"', '\'', 'é', '{') /* x */ + f::<'static>("")"##;
        let expected = r#"a(".. .. ..", r.......... . ..#, b...", b'.', '..', '..', '.')  + f::<'static>("")"#;
        let source = Source::new(text);
        assert_eq!(source.code, expected);
        assert_eq!(source.whole, text.replace("/* x */", ""));
    }

    #[test]
    fn lifetimes_are_no_quotes() {
        let text = "fn f<'a>(x: &'a str) -> &'a str { x } // 'b\nconst C: char = 'c';";
        assert_eq!(bare(text), "fn f<'a>(x: &'a str) -> &'a str { x } \nconst C: char = '.';");
    }

    #[test]
    fn what_only_tests_see_goes() {
        let text = "mod a;\n#[cfg(test)]\nmod tests;\nuse b;\n#[cfg(test)]\nuse c::{d, e};\nfn f() {}\n#[cfg(test)]\n\
                    #[must_use]\npub(crate) const fn g(h: [u8; 2]) -> u8 {\n    \"}\".len()\n}\n\
                    fn i() {}\n#[cfg(test)]\nconst J: A = A { k: 1 };\nfn l() {}\n\
                    #[cfg(test)]\nmod more {\n    fn m() { {} }\n}\n\
                    #[cfg(test)]\npub(super) mod fakes;\nfn n() {}\n";
        let source = Source::new(text);
        for left in [&source.code, &source.whole] {
            assert_eq!(left.lines().count(), text.lines().count());
            let left: Vec<&str> = left.lines().filter(|line| !line.is_empty()).collect();
            assert_eq!(left, ["mod a;", "use b;", "fn f() {}", "fn i() {}", "fn l() {}", "fn n() {}"]);
        }
        assert_eq!(source.test_modules, ["tests", "fakes"]);
    }

    #[test]
    fn empty_lines_do_not_count() {
        let text = "// a\n\nfn b() {\n    // c\n    d(\"\n    e\")\n}\n#[cfg(test)]\nmod tests {\n\n    // f\n}\n";
        assert_eq!(count(text), Count { code: 4, tests: 3 });
        assert_eq!(count_script("#!/bin/sh\n\n# a\nb # c\n  # d\n  e\n"), Count { code: 2, tests: 0 });
    }

    #[test]
    fn tokens_are_words_and_signs() {
        assert_eq!(tokens(" use crate::a_1::{B};"), ["use", "crate", ":", ":", "a_1", ":", ":", "{", "B", "}", ";"]);
    }
}
