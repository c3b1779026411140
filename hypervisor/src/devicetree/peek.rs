//! One question to a device tree that lies in somebody else's memory and may be anything: has `/chosen` this property?
//!
//! Owns the walk, word by word through a function that reads one, within the tree's own size and for a bounded number
//! of steps. Nothing is copied, and whatever the memory holds, or turns into meanwhile, the walk ends.

use super::MAX_SIZE;

/// The header's words that matter (DTSpec 5.2), by their place.
const MAGIC: u32 = 0;
const TOTALSIZE: u32 = 1;
const OFF_DT_STRUCT: u32 = 2;
const OFF_DT_STRINGS: u32 = 3;

/// Value of [`MAGIC`].
const MAGIC_VALUE: u32 = 0xd00d_feed;

/// Tokens of the structure block (DTSpec 5.4.1).
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;

/// The most tokens that are looked at: a tree of 2 MiB has fewer.
const MOST: usize = MAX_SIZE / 4;

/// Whether the tree has the node `/chosen` with a property of this name. `word` gives the word at an offset from the
/// tree's begin, a multiple of 4, as the CPU reads it in little-endian. Nothing if it is no tree.
pub fn chosen_has(name: &str, word: &dyn Fn(u32) -> Option<u32>) -> Option<bool> {
    let header = |place: u32| Some(word(4 * place)?.swap_bytes());
    if header(MAGIC)? != MAGIC_VALUE {
        return None;
    }
    let size = header(TOTALSIZE)?;
    if size as usize > MAX_SIZE {
        return None;
    }
    let (mut at, strings) = (header(OFF_DT_STRUCT)?, header(OFF_DT_STRINGS)?);
    let tree = Tree { size, strings, word };
    let mut depth = 0_u32;
    let mut in_chosen = false;
    for _ in 0..MOST {
        let token = tree.word(at)?;
        at = at.checked_add(4)?;
        match token {
            BEGIN_NODE => {
                depth = depth.checked_add(1)?;
                in_chosen = depth == 2 && tree.is_name(at, "chosen");
                at = tree.behind_name(at)?;
            }
            // The root's end is the tree's.
            END_NODE if depth <= 1 || in_chosen && depth == 2 => return Some(false),
            END_NODE => depth -= 1,
            PROP => {
                let (length, string) = (tree.word(at)?, tree.word(at.checked_add(4)?)?);
                if in_chosen && depth == 2 && tree.is_name(tree.strings.checked_add(string)?, name) {
                    return Some(true);
                }
                at = at.checked_add(8)?.checked_add(length)?.checked_next_multiple_of(4)?;
            }
            NOP => {}
            _ => return None,
        }
    }
    None
}

struct Tree<'a> {
    size: u32,
    strings: u32,
    word: &'a dyn Fn(u32) -> Option<u32>,
}

impl Tree<'_> {
    /// The big-endian word at a multiple of 4, inside the tree.
    fn word(&self, at: u32) -> Option<u32> {
        let inside = at.is_multiple_of(4) && at.checked_add(4)? <= self.size;
        if inside { Some((self.word)(at)?.swap_bytes()) } else { None }
    }

    fn byte(&self, at: u32) -> Option<u8> {
        Some((self.word(at & !3)? >> (24 - 8 * (at & 3))) as u8)
    }

    /// Whether these bytes and a 0 stand there.
    fn is_name(&self, at: u32, name: &str) -> bool {
        let mut bytes = name.bytes().chain([0]).zip(at..);
        bytes.all(|(wanted, at)| self.byte(at) == Some(wanted))
    }

    /// The first multiple of 4 behind the name that stands there.
    fn behind_name(&self, at: u32) -> Option<u32> {
        let mut words = (at..).step_by(4);
        let last = words.find(|&at| self.word(at).is_none_or(|word| word.to_be_bytes().contains(&0)))?;
        self.word(last)?;
        last.checked_add(4)
    }
}
