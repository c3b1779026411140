//! Firmware that gets things wrong: starts as the machine's kernel at EL2, spoils what Exeunt is told in x0, and jumps
//! to an Exeunt that was loaded elsewhere.
//!
//! Its options are the words of `/chosen/bootargs` up to `--`; what follows is for Exeunt.
//! - `entry=ADDRESS`: where Exeunt is. Required.
//! - `move=ADDRESS`: copy the device tree there and pass that address.
//! - `size=N`: write N into the tree's `totalsize`.
//! - `magic=N`: write N into the tree's `magic`.
//! - `spoil=OFFSET`: write ones from that offset of the tree to its end.
//! - `word=OFFSET,VALUE`: write the big-endian 32-bit VALUE at that offset of the tree.
//! - `ram=SIZE`: write SIZE as the size of RAM.
//! - `uart-at=ADDRESS`: write ADDRESS as that of the UART.
//! - `replace=OLD:NEW`: replace each occurrence of OLD in the tree by NEW, which is no longer; NULs fill the rest.
//! - `x0=VALUE`: pass this instead of the address of the tree.

use core::arch::asm;

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};

use crate::machine::{self, machine, parse_number};
use crate::registers::current_el;
use crate::start::Start;

/// Offsets in a flattened device tree (Devicetree Specification 5.2): magic, totalsize.
const MAGIC: usize = 0;
const TOTALSIZE: usize = 4;

fn put(tree: &mut [u8], offset: usize, value: u64) {
    tree[offset..offset + 4].copy_from_slice(&(value as u32).to_be_bytes());
}

fn number(text: &str) -> u64 {
    parse_number(text).unwrap_or_else(|| panic!("{text} is not a number"))
}

/// Blanks this guest's own words out of the command line, so that Exeunt sees only what is meant for it.
fn blank_own_words(tree: &mut [u8], own: &[u8]) {
    for at in 0..=tree.len() - own.len() {
        if &tree[at..at + own.len()] == own {
            tree[at..at + own.len()].fill(b' ');
        }
    }
}

/// Where in the tree the `reg` of the node at `path` is.
fn offset_of_reg(tree: u64, path: &str) -> usize {
    // SAFETY: `machine::read` found a device tree there.
    let fdt = unsafe { Fdt::from_raw(tree as *const u8) }.expect("a device tree");
    let reg = fdt.find_node(path).and_then(|node| Some(node.property("reg")?.value().as_ptr() as u64));
    (reg.expect("the node has a reg") - tree) as usize
}

/// Writes a number of two cells.
fn put_wide(tree: &mut [u8], offset: usize, value: u64) {
    put(tree, offset, value >> 32);
    put(tree, offset + 4, value);
}

fn replace(tree: &mut [u8], old: &[u8], new: &[u8]) {
    assert!(old.len() >= new.len() && !old.is_empty(), "replace= wants two texts, the second no longer than the first");
    for at in 0..=tree.len() - old.len() {
        if &tree[at..at + old.len()] == old {
            tree[at..at + old.len()].fill(0);
            tree[at..at + new.len()].copy_from_slice(new);
        }
    }
}

/// Spoils and jumps.
///
/// # Panics
/// When it is not entered at EL2, or an option makes no sense.
pub fn run(start: &Start) {
    assert!(current_el() == 2, "the shim wants to start at EL2");
    machine::read(start.tree);
    let header = start.tree as *const [u8; 8];
    // SAFETY: `machine::read` found a device tree there.
    let header = unsafe { header.read() };
    let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;

    // The size follows an address of two cells.
    let ram_size = offset_of_reg(start.tree, "/memory") + 8;
    let uart = offset_of_reg(start.tree, "/pl011");
    // The options stand in the tree that is about to be spoilt: copy them first.
    let mut text = [0; 512];
    let arguments = machine().bootargs();
    let own = arguments.find("--").map_or(arguments, |end| &arguments[..end + 2]);
    let text = &mut text[..own.len()];
    text.copy_from_slice(own.as_bytes());
    let own = core::str::from_utf8(text).expect("bootargs are text");
    println!("shim: {own}");

    // SAFETY: the tree is `size` bytes long, and from here on nothing else looks at it.
    let mut tree = unsafe { core::slice::from_raw_parts_mut(start.tree as *mut u8, size) };
    blank_own_words(tree, own.as_bytes());
    let mut entry = None;
    let mut x0 = None;
    for (name, value) in own.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
        match name {
            "entry" => entry = Some(number(value)),
            "x0" => x0 = Some(number(value)),
            "move" => {
                // SAFETY: whoever chose the address chose free memory for it.
                let copy = unsafe { core::slice::from_raw_parts_mut(number(value) as *mut u8, size) };
                copy.copy_from_slice(tree);
                tree = copy;
            }
            "size" => put(tree, TOTALSIZE, number(value)),
            "magic" => put(tree, MAGIC, number(value)),
            "spoil" => tree[number(value) as usize..].fill(0xff),
            "word" => {
                let (offset, value) = value.split_once(',').expect("word=OFFSET,VALUE");
                put(tree, number(offset) as usize, number(value));
            }
            "ram" => put_wide(tree, ram_size, number(value)),
            "uart-at" => put_wide(tree, uart, number(value)),
            "replace" => {
                let (old, new) = value.split_once(':').expect("replace=OLD:NEW");
                replace(tree, old.as_bytes(), new.as_bytes());
            }
            _ => panic!("unknown option {name}"),
        }
    }
    let entry = entry.expect("entry=ADDRESS");
    let x0 = x0.unwrap_or(tree.as_ptr() as u64);
    println!("shim: jumping to {entry:#x} with x0 = {x0:#x}");
    // SAFETY: this guest ends here; what happens next is what the test is about. The boot protocol wants x1 to x3 zero.
    unsafe {
        asm!(
            "dsb sy", "ic iallu", "dsb sy", "isb",
            "mov x1, xzr", "mov x2, xzr", "mov x3, xzr",
            "br {entry}",
            entry = in(reg) entry, in("x0") x0, options(noreturn)
        )
    }
}
