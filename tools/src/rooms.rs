//! Which file of a crate needs which other: circles among them, and arrows that go up in the tower of docs/code.md.
//!
//! Owns the reading of paths (`crate::`, `super::`) and of symbols (`exeunt_*`, which assembly and the linker resolve),
//! and the rules. A *room* is a file or folder right below `src/`; what belongs to it, folder and tests, is one room.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::source::{self, Source};

/// The rooms of a crate, and what each of them needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rooms(BTreeMap<String, BTreeSet<String>>);

impl Rooms {
    /// Of files that are given with their paths below `src/`. Files that only tests see may be among them.
    #[must_use]
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a Path, &'a str)>) -> Self {
        let files: Vec<File> = files.into_iter().filter_map(|(path, text)| File::new(path, text)).collect();
        let names: BTreeSet<&String> = files.iter().map(|file| &file.room).collect();
        let mut defined = BTreeMap::new();
        for file in &files {
            defined.extend(file.defines.iter().map(|symbol| (symbol, &file.room)));
        }
        let mut rooms = Self::default();
        for file in &files {
            let paths = file.paths.iter().filter(|name| names.contains(name));
            let symbols = file.symbols.iter().filter_map(|symbol| defined.get(symbol).copied());
            let needs = paths.chain(symbols).filter(|&name| *name != file.room).cloned();
            rooms.0.entry(file.room.clone()).or_default().extend(needs);
        }
        rooms
    }

    /// Of the crate whose sources are in `directory`.
    ///
    /// # Errors
    /// What reading the files runs into.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let mut texts = Vec::new();
        for path in files_below(directory, &["rs"])? {
            texts.push((path.strip_prefix(directory).unwrap_or(&path).to_owned(), fs::read_to_string(&path)?));
        }
        Ok(Self::new(texts.iter().map(|(path, text)| (path.as_path(), text.as_str()))))
    }

    /// Each room with what it needs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        self.0.iter().map(|(room, needs)| (room.as_str(), needs.iter().map(String::as_str)))
    }

    /// Each room with what it needs, as it is printed.
    #[must_use]
    pub fn needs(&self, room: &str) -> String {
        self.0.get(room).map(|needs| needs.iter().map(String::as_str).collect::<Vec<_>>().join(" ")).unwrap_or_default()
    }

    /// Circles: for every room that can be reached from itself a shortest way, each way once.
    #[must_use]
    pub fn circles(&self) -> Vec<Circle> {
        let mut found: Vec<Circle> = Vec::new();
        for room in self.0.keys() {
            let Some(way) = self.way_back(room) else { continue };
            let members: BTreeSet<&String> = way.iter().collect();
            if !found.iter().any(|circle| circle.0.iter().collect::<BTreeSet<_>>() == members) {
                found.push(Circle(way));
            }
        }
        found
    }

    /// The shortest way from `room` to itself, which begins and does not end with it.
    fn way_back(&self, room: &String) -> Option<Vec<String>> {
        let mut from: BTreeMap<&String, &String> = BTreeMap::new();
        let mut open = VecDeque::from([room]);
        while let Some(here) = open.pop_front() {
            for next in &self.0[here] {
                if next == room {
                    let mut way = vec![here.clone()];
                    let mut at = here;
                    while at != room {
                        at = from[at];
                        way.push(at.clone());
                    }
                    way.reverse();
                    return Some(way);
                }
                if self.0.contains_key(next) && !from.contains_key(next) {
                    from.insert(next, here);
                    open.push_back(next);
                }
            }
        }
        None
    }

    /// What breaks the order of `tower`: arrows to a higher floor, rooms without a floor, and floors' rooms that are
    /// not there.
    #[must_use]
    pub fn against(&self, tower: &Tower) -> Vec<Breach> {
        let mut breaches = Vec::new();
        for (room, needs) in &self.0 {
            let Some(floor) = tower.floor(room) else {
                breaches.push(Breach::Homeless(room.clone()));
                continue;
            };
            for needed in needs {
                if tower.floor(needed).is_some_and(|above| above < floor) {
                    breaches.push(Breach::Upward { from: room.clone(), to: needed.clone() });
                }
            }
        }
        let missing = tower.rooms().filter(|room| !self.0.contains_key(*room));
        breaches.extend(missing.map(|room| Breach::Missing(room.to_owned())));
        breaches
    }
}

/// Rooms that need each other: each the next one, the last the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circle(pub Vec<String>);

impl Display for Circle {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        for room in &self.0 {
            write!(f, "{room} -> ")?;
        }
        f.write_str(self.0.first().map_or("", String::as_str))
    }
}

/// What the tower does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A room needs one that is higher.
    Upward {
        /// The lower one, which needs the other.
        from: String,
        /// The higher one.
        to: String,
    },
    /// The tower has no place for a room.
    Homeless(String),
    /// The tower has a place for a room that is not there.
    Missing(String),
}

impl Display for Breach {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::Upward { from, to } => write!(f, "{from} needs {to}, which is above it"),
            Self::Homeless(room) => write!(f, "{room} has no place in the tower"),
            Self::Missing(room) => write!(f, "the tower has {room}, and the image has not"),
        }
    }
}

/// The order of rooms: floors from the top down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tower(Vec<(String, Vec<String>)>);

impl Tower {
    /// Reads it from the page that draws it: the code block below the heading "The tower". A line that begins with a
    /// word begins a floor of that name; each `NAME.rs` before two blanks or the line's end is a room on it.
    #[must_use]
    pub fn drawn(page: &str) -> Option<Self> {
        let (_, below) = page.split_once("# The tower\n")?;
        let block = below.split("```").nth(1)?;
        let mut floors: Vec<(String, Vec<String>)> = Vec::new();
        for line in block.lines().filter(|line| !line.trim().is_empty()) {
            let mut cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
            if !line.starts_with(' ') {
                floors.push((cells.next()?.to_owned(), Vec::new()));
            }
            let rooms = cells.filter_map(|cell| cell.strip_suffix(".rs")).map(str::to_owned);
            floors.last_mut()?.1.extend(rooms);
        }
        (!floors.is_empty()).then_some(Self(floors))
    }

    /// The floors from the top down, each with its rooms.
    pub fn floors(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, rooms)| (name.as_str(), rooms.as_slice()))
    }

    fn rooms(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|(_, rooms)| rooms).map(String::as_str)
    }

    /// 0 is the top.
    fn floor(&self, room: &str) -> Option<usize> {
        self.0.iter().position(|(_, rooms)| rooms.iter().any(|other| other == room))
    }
}

/// What one file says.
struct File {
    room: String,
    /// First names of paths that begin at the crate's root.
    paths: BTreeSet<String>,
    /// Symbols that it defines, and that it names.
    defines: BTreeSet<String>,
    symbols: BTreeSet<String>,
}

impl File {
    /// `None` for the crate's root and for what only tests see.
    fn new(path: &Path, text: &str) -> Option<Self> {
        let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
        let [first, ..] = parts[..] else { return None };
        let room = first.strip_suffix(".rs").unwrap_or(first);
        if matches!(first, "main.rs" | "lib.rs" | "bin") || is_test(path) {
            return None;
        }
        let source = Source::new(text);
        let whole = source::tokens(&source.whole);
        let mut defines = BTreeSet::new();
        for (index, word) in whole.iter().enumerate().filter(|(_, word)| word.starts_with("exeunt_")) {
            let before = |word: &str, within: usize| whole[index.saturating_sub(within)..index].contains(&word);
            // `fn NAME`, `export_name = "NAME"`, and in assembly `.global NAME`.
            if before("fn", 1) || before("export_name", 3) || before("global", 1) {
                defines.insert((*word).to_owned());
            }
        }
        let symbols = whole.iter().filter(|word| word.starts_with("exeunt_")).map(|&word| word.to_owned()).collect();
        let top = parts.len() == 1;
        Some(Self { room: room.to_owned(), paths: paths(&source::tokens(&source.code), top), defines, symbols })
    }
}

/// Whether a file is the tests' alone, by the names that such files have here.
#[must_use]
pub fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// The first name after each `crate::` and each `crate::{`; at the top, `super::` is the same.
fn paths(tokens: &[&str], top: bool) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, word) in tokens.iter().enumerate() {
        if *word != "crate" && !(top && *word == "super") {
            continue;
        }
        match tokens[index + 1..] {
            [":", ":", "{", ref group @ ..] => {
                let mut depth = 1;
                let mut first = true;
                for &token in group {
                    match token {
                        "{" => depth += 1,
                        "}" => depth -= 1,
                        "," if depth == 1 => first = true,
                        name if first && depth == 1 => {
                            names.insert(name.to_owned());
                            first = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            [":", ":", name, ..] => {
                names.insert(name.to_owned());
            }
            _ => {}
        }
    }
    names
}

/// The files below `directory` whose names end in one of `endings` (empty: those without a dot), sorted.
///
/// # Errors
/// What reading the directories runs into.
pub fn files_below(directory: &Path, endings: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if path.is_dir() {
                open.push(path);
            } else if endings.contains(&ending) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(files: &[(&str, &str)]) -> Rooms {
        Rooms::new(files.iter().map(|&(path, text)| (Path::new(path), text)))
    }

    fn words(lines: &[impl ToString]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    /// An image like Exeunt's, in small.
    const IMAGE: [(&str, &str); 7] = [
        ("main.rs", "mod start;\nmod vectors;\nuse crate::start::nothing;"),
        ("vectors.rs", "use crate::frame::Frame;\nuse crate::{\n    calls::{self, Call},\n    panic,\n};"),
        ("start.rs", "fn f() { crate::memory::map(super::panic::refuse); }"),
        ("calls.rs", "//! For [`crate::vectors`].\nuse super::memory;\nconst A: &str = \"use crate::start;\";"),
        ("panic.rs", "use crate::frame;"),
        ("memory.rs", "macro_rules! m { () => { $crate::frame::f() } }\n#[cfg(test)]\nmod tests { use crate::start; }"),
        ("frame.rs", "use crate::nothing_here;"),
    ];
    const PAGE: &str = "# The tower\n\nFrom the top.\n\n```\n\
                        doors     vectors.rs  what frame.rs holds   start.rs  all\n\
                        services  calls.rs    calls\n          panic.rs    the end\n\
                        ground    memory.rs\n          frame.rs\n\
                        ```\n\n```\nattic  other.rs\n```\n";

    #[test]
    fn needs_are_the_paths_of_code() {
        let rooms = rooms(&IMAGE);
        assert_eq!(rooms.needs("vectors"), "calls frame panic");
        assert_eq!(rooms.needs("start"), "memory panic");
        assert_eq!(rooms.needs("calls"), "memory");
        assert_eq!(rooms.needs("memory"), "frame");
        assert_eq!(rooms.needs("frame"), "");
        assert!(rooms.iter().all(|(room, _)| room != "main"));
    }

    #[test]
    fn a_folder_is_one_room() {
        let rooms = rooms(&[
            ("a/mod.rs", "mod b;\nuse super::super::d;"),
            ("a/b.rs", "use super::d;\nuse crate::c;"),
            ("a/tests/mod.rs", "use crate::d;"),
            ("c.rs", "use crate::a::b;"),
            ("c/tests.rs", "use crate::d;"),
            ("d.rs", ""),
        ]);
        assert_eq!((rooms.needs("a"), rooms.needs("c"), rooms.needs("d")), ("c".into(), "a".into(), String::new()));
        assert_eq!(words(&rooms.circles()), ["a -> c -> a"]);
    }

    #[test]
    fn symbols_count_like_paths() {
        let rooms = rooms(&[
            ("a.rs", "naked_asm!(\"b exeunt_c\", \".global exeunt_a\", \"exeunt_a:\");"),
            ("b.rs", "#[unsafe(export_name = \"exeunt_b\")]\nstatic B: u8 = 0; asm!(\"adr x0, exeunt_a\");"),
            ("c.rs", "extern \"C\" fn exeunt_c() { asm!(\"adr x0, exeunt_b; b exeunt_elsewhere\"); }"),
        ]);
        assert_eq!((rooms.needs("a"), rooms.needs("b"), rooms.needs("c")), ("c".into(), "a".into(), "b".into()));
    }

    #[test]
    fn a_tower_in_order_has_neither_circle_nor_breach() {
        let tower = Tower::drawn(PAGE).unwrap();
        let floors: Vec<_> = tower.floors().map(|(name, rooms)| format!("{name}: {}", rooms.join(" "))).collect();
        assert_eq!(floors, ["doors: vectors start", "services: calls panic", "ground: memory frame"]);
        assert!(rooms(&IMAGE).circles().is_empty());
        assert_eq!(rooms(&IMAGE).against(&tower), []);
        assert_eq!(Tower::drawn("# The tower\n\nnone"), None);
    }

    #[test]
    fn a_planted_circle_is_found() {
        let mut image = IMAGE;
        image[6].1 = "use crate::panic;";
        assert_eq!(words(&rooms(&image).circles()), ["frame -> panic -> frame"]);
        // A longer one, besides.
        image[5].1 = "use crate::start;";
        assert_eq!(words(&rooms(&image).circles()), ["frame -> panic -> frame", "memory -> start -> memory"]);
        image[2].1 = "use crate::calls;";
        assert_eq!(words(&rooms(&image).circles()), ["calls -> memory -> start -> calls", "frame -> panic -> frame"]);
    }

    #[test]
    fn a_planted_arrow_upward_is_found() {
        let mut image = IMAGE;
        image[5].1 = "use crate::panic;";
        let rooms = rooms(&image);
        assert!(rooms.circles().is_empty());
        assert_eq!(words(&rooms.against(&Tower::drawn(PAGE).unwrap())), ["memory needs panic, which is above it"]);
    }

    #[test]
    fn every_room_has_its_place_and_every_place_its_room() {
        let tower = Tower::drawn(&PAGE.replace("memory.rs", "gone.rs")).unwrap();
        let breaches = words(&rooms(&IMAGE).against(&tower));
        assert_eq!(breaches, ["memory has no place in the tower", "the tower has gone, and the image has not"]);
    }
}
