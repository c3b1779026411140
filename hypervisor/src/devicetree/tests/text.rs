//! Device trees as text, for the tests: what QEMU dumped can be read, compared and varied, and nobody needs QEMU or dtc
//! to run them.
//!
//! The format is one token of the flattened tree per line, so that the exact blob comes back: `{ name` and `}` around a
//! node, `name` or `name = value` for a property, `reserve START SIZE` for a reservation, and `strings` with the names
//! in the order of the strings block (without it: in the order of their use). A value is a row of quoted strings,
//! `<words>` or `[bytes]`.

#![cfg_attr(miri, allow(dead_code, reason = "most of the tests that use it are not for Miri"))]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::{Deref, DerefMut};

use dtoolkit::{Node as _, Property as _};

/// A flattened tree at a multiple of 8, where Linux wants it. What a `Vec` allocates may be anywhere, and under Miri it
/// is.
#[derive(Debug)]
pub struct Blob {
    bytes: Vec<u8>,
    start: usize,
}

impl From<&[u8]> for Blob {
    fn from(content: &[u8]) -> Self {
        let mut bytes = vec![0; content.len() + 7];
        let start = bytes.as_ptr().addr().wrapping_neg() % 8;
        bytes[start..][..content.len()].copy_from_slice(content);
        bytes.truncate(start + content.len());
        Self { bytes, start }
    }
}

impl Clone for Blob {
    fn clone(&self) -> Self {
        Self::from(&**self)
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl DerefMut for Blob {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

impl Blob {
    /// With another length. What is new has stale bytes in it, as memory that a loader leaves has.
    pub fn resized(&self, length: usize) -> Self {
        let mut bytes = self.to_vec();
        bytes.resize(length, 0xa5);
        Self::from(bytes.as_slice())
    }
}

/// A device tree as a data structure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub reservations: Vec<(u64, u64)>,
    pub strings: Vec<String>,
    pub root: Node,
}

/// A node of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub properties: Vec<(String, Vec<u8>)>,
    pub children: Vec<Node>,
}

impl Node {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.properties.push((name.to_owned(), value.into()));
        self
    }

    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    pub fn child_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.children.iter_mut().find(|child| child.name == name)
    }

    pub fn is_compatible(&self, with: &str) -> bool {
        self.property("compatible")
            .is_some_and(|value| value.split(|&byte| byte == 0).any(|string| string == with.as_bytes()))
    }

    pub fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_slice())
    }

    /// Calls `f` with this node and all below it.
    pub fn visit(&self, f: &mut impl FnMut(&Self)) {
        f(self);
        self.children.iter().for_each(|child| child.visit(f));
    }

    /// Calls `f` with this node and all below it.
    pub fn visit_mut(&mut self, f: &mut impl FnMut(&mut Self)) {
        f(self);
        self.children.iter_mut().for_each(|child| child.visit_mut(f));
    }

    fn print(&self, indent: usize, text: &mut String) {
        let name = if self.name.is_empty() { "/" } else { &self.name };
        writeln!(text, "{:indent$}{{ {name}", "").unwrap();
        for (name, value) in &self.properties {
            write!(text, "{:indent$}  {name}", "").unwrap();
            if !value.is_empty() {
                text.push_str(" = ");
                print_value(value, text);
            }
            text.push('\n');
        }
        self.children.iter().for_each(|child| child.print(indent + 2, text));
        writeln!(text, "{:indent$}}}", "").unwrap();
    }
}

fn print_value(value: &[u8], text: &mut String) {
    let is_text =
        |string: &[u8]| !string.is_empty() && string.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'"');
    match value.strip_suffix(&[0]) {
        Some(strings) if strings.split(|&byte| byte == 0).all(is_text) => {
            let strings =
                strings.split(|&byte| byte == 0).map(|string| format!("{:?}", str::from_utf8(string).unwrap()));
            text.push_str(&strings.collect::<Vec<_>>().join(" "));
        }
        _ if value.len().is_multiple_of(4) => {
            let words = value.chunks_exact(4).map(|word| format!("{:x}", u32::from_be_bytes(word.try_into().unwrap())));
            write!(text, "<{}>", words.collect::<Vec<_>>().join(" ")).unwrap();
        }
        _ => {
            let bytes = value.iter().map(|byte| format!("{byte:02x}"));
            write!(text, "[{}]", bytes.collect::<Vec<_>>().join(" ")).unwrap();
        }
    }
}

fn parse_value(text: &str) -> Vec<u8> {
    if let Some(words) = text.strip_prefix('<') {
        let words = words.trim_end_matches('>').split_whitespace();
        words.flat_map(|word| u32::from_str_radix(word, 16).unwrap().to_be_bytes()).collect()
    } else if let Some(bytes) = text.strip_prefix('[') {
        let bytes = bytes.trim_end_matches(']').split_whitespace();
        bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    } else {
        // Every second part lies between quotes. `{:?}` escapes nothing but a backslash in what `print_value` prints as
        // text.
        let strings = text.split('"').skip(1).step_by(2);
        strings.flat_map(|string| string.replace("\\\\", "\\").into_bytes().into_iter().chain([0])).collect()
    }
}

impl Tree {
    /// Reads the text form.
    pub fn parse(text: &str) -> Self {
        let mut tree = Self::default();
        let mut open: Vec<Node> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")) {
            if let Some(name) = line.strip_prefix("{ ") {
                open.push(Node::new(name.trim_start_matches('/')));
            } else if line == "}" {
                let node = open.pop().unwrap();
                match open.last_mut() {
                    Some(parent) => parent.children.push(node),
                    None => tree.root = node,
                }
            } else if let Some(node) = open.last_mut() {
                let (name, value) = line.split_once(" = ").unwrap_or((line, "<>"));
                node.properties.push((name.to_owned(), parse_value(value)));
            } else if let Some(names) = line.strip_prefix("strings ") {
                tree.strings = names.split_whitespace().map(str::to_owned).collect();
            } else {
                let mut numbers = line.strip_prefix("reserve ").unwrap().split_whitespace();
                let mut number = || u64::from_str_radix(numbers.next().unwrap(), 16).unwrap();
                tree.reservations.push((number(), number()));
            }
        }
        assert!(open.is_empty());
        tree
    }

    /// The text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (start, size) in &self.reservations {
            writeln!(text, "reserve {start:x} {size:x}").unwrap();
        }
        if !self.strings.is_empty() {
            writeln!(text, "strings {}", self.strings.join(" ")).unwrap();
        }
        self.root.print(0, &mut text);
        text
    }

    /// Reads a flattened tree by the dtoolkit crate, which also validates it. The order of the strings block is left
    /// out, so that two trees which say the same are equal.
    pub fn read(blob: &[u8]) -> Self {
        fn node(source: &dtoolkit::fdt::FdtNode<'_>) -> Node {
            Node {
                name: source.name().to_owned(),
                properties: source
                    .properties()
                    .map(|property| (property.name().to_owned(), property.value().to_vec()))
                    .collect(),
                children: source.children().map(|child| node(&child)).collect(),
            }
        }
        let total = u32::from_be_bytes(blob[4..8].try_into().unwrap()) as usize;
        let fdt = dtoolkit::fdt::Fdt::new(&blob[..total]).unwrap();
        let reservations = fdt.memory_reservations().map(|entry| (entry.address(), entry.size())).collect();
        Self { reservations, strings: Vec::new(), root: node(&fdt.root()) }
    }

    /// The flattened tree as libfdt lays it out, with `slack` unused bytes.
    pub fn blob(&self, slack: usize) -> Blob {
        self.blob_with_nops(slack, 0)
    }

    /// The same with up to `nops` FDT_NOP tokens before each other one.
    pub fn blob_with_nops(&self, slack: usize, nops: usize) -> Blob {
        let mut strings = Strings::default();
        for name in &self.strings {
            strings.block.extend_from_slice(name.as_bytes());
            strings.block.push(0);
        }
        let mut structure = Vec::new();
        flatten(&self.root, nops, &mut structure, &mut strings);
        structure.extend(9u32.to_be_bytes());
        let strings = strings.block;

        let reservations = 48;
        let start = reservations + 16 * (self.reservations.len() + 1);
        let used = start + structure.len() + strings.len();
        let header = [
            0xd00d_feed,
            used + slack,
            start,
            start + structure.len(),
            reservations,
            17,
            16,
            0,
            strings.len(),
            structure.len(),
        ];
        let mut blob: Vec<u8> = header.iter().flat_map(|&word| (word as u32).to_be_bytes()).collect();
        blob.resize(reservations, 0);
        for (start, size) in self.reservations.iter().chain(&[(0, 0)]) {
            blob.extend(start.to_be_bytes());
            blob.extend(size.to_be_bytes());
        }
        blob.extend(structure);
        blob.extend(strings);
        Blob::from(blob.as_slice()).resized(used + slack)
    }
}

/// Fills up the last word. QEMU's trees have stale bytes there.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0xa5);
}

/// A strings block that grows.
#[derive(Default)]
struct Strings {
    block: Vec<u8>,
    known: HashMap<String, usize>,
}

impl Strings {
    /// Where `name` is. As libfdt does: the end of another name will do.
    fn offset(&mut self, name: &str) -> usize {
        let block = &mut self.block;
        *self.known.entry(name.to_owned()).or_insert_with(|| {
            let text = [name.as_bytes(), &[0]].concat();
            block.windows(text.len()).position(|window| window == text).unwrap_or_else(|| {
                block.extend(&text);
                block.len() - text.len()
            })
        })
    }
}

fn flatten(node: &Node, nops: usize, out: &mut Vec<u8>, strings: &mut Strings) {
    let token = |out: &mut Vec<u8>, token: u32| {
        // Any number will do that is sometimes 0 and sometimes not.
        let count = out.len() / 4 % (nops + 1);
        (0..count).for_each(|_| out.extend(4u32.to_be_bytes()));
        out.extend(token.to_be_bytes());
    };
    token(out, 1);
    out.extend(node.name.as_bytes());
    out.push(0);
    pad(out);
    for (name, value) in &node.properties {
        let offset = strings.offset(name);
        token(out, 3);
        out.extend((value.len() as u32).to_be_bytes());
        out.extend((offset as u32).to_be_bytes());
        out.extend(value);
        pad(out);
    }
    node.children.iter().for_each(|child| flatten(child, nops, out, strings));
    token(out, 2);
}
