//! What a machine has where, by its device tree.
//!
//! Owns the rules by which a tree says addresses (Devicetree Specification v0.4, 2.3): cells, and `ranges` of buses.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// Addresses that belong to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first.
    pub start: u64,
    /// The one after the last.
    pub end: u64,
    /// What has them, as the tree names it.
    pub name: String,
    /// Whether that is RAM.
    pub is_ram: bool,
}

/// Places in the order of their addresses.
///
/// # Errors
/// It is no device tree.
pub fn places(tree: &[u8]) -> Result<Vec<Place>, String> {
    let tree = Fdt::new(tree).map_err(|error| format!("the device tree: {error}"))?;
    let mut places = Vec::new();
    below(tree.root(), &Bus::root(), &mut places);
    places.sort_by_key(|place| (place.start, place.end));
    Ok(places)
}

/// How a node's children say addresses.
struct Bus {
    address_cells: usize,
    size_cells: usize,
    /// First address of the children's, first of the parent's, and size; nothing if they are the same.
    ranges: Option<Vec<(u64, u64, u64)>>,
}

impl Bus {
    const fn root() -> Self {
        Self { address_cells: 2, size_cells: 2, ranges: None }
    }

    /// The address as the CPU has it.
    fn translate(&self, address: u64) -> Option<u64> {
        let Some(ranges) = &self.ranges else { return Some(address) };
        let range = ranges.iter().find(|&&(child, _, size)| address >= child && address - child < size)?;
        range.1.checked_add(address - range.0)
    }
}

fn property(node: FdtNode<'_>, name: &str) -> Option<Vec<u8>> {
    node.properties().find(|property| property.name() == name).map(|property| property.value().to_vec())
}

/// Cells as a number, of which the lower 64 bits count.
fn number(cells: &[u8]) -> u64 {
    cells.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn cells(node: FdtNode<'_>, name: &str, usual: usize) -> usize {
    property(node, name).map_or(usual, |value| number(&value) as usize).min(4)
}

fn below(node: FdtNode<'_>, bus: &Bus, places: &mut Vec<Place>) {
    let address_cells = cells(node, "#address-cells", bus.address_cells);
    let size_cells = cells(node, "#size-cells", bus.size_cells);
    for child in node.children() {
        let entry = 4 * (address_cells + size_cells);
        let is_ram = property(child, "device_type").is_some_and(|kind| kind == b"memory\0");
        let reg = property(child, "reg").unwrap_or_default();
        // The children of /cpus, and of buses that are no memory, have numbers and no addresses.
        if size_cells > 0 && entry > 0 {
            for part in reg.chunks_exact(entry) {
                let (address, size) = part.split_at(4 * address_cells);
                let (Some(start), size) = (bus.translate(number(address)), number(size)) else { continue };
                let name = if is_ram { "RAM".to_owned() } else { child.name().to_owned() };
                add(places, start, size, name, is_ram);
            }
        }
        let Some(ranges) = property(child, "ranges") else { continue };
        if property(child, "device_type").is_some_and(|kind| kind == b"pci\0") {
            windows(child, &ranges, address_cells, places);
        } else {
            let inner = Bus {
                address_cells: cells(child, "#address-cells", 2),
                size_cells: cells(child, "#size-cells", 1),
                ranges: translations(child, &ranges, address_cells),
            };
            below(child, &inner, places);
        }
    }
}

fn add(places: &mut Vec<Place>, start: u64, size: u64, name: String, is_ram: bool) {
    if size > 0 {
        places.push(Place { start, end: start.saturating_add(size), name, is_ram });
    }
}

/// An empty list says that all addresses are the same.
fn translations(node: FdtNode<'_>, ranges: &[u8], parent_cells: usize) -> Option<Vec<(u64, u64, u64)>> {
    let (child, size) = (4 * cells(node, "#address-cells", 2), 4 * cells(node, "#size-cells", 1));
    let parent = 4 * parent_cells;
    let entry = child + parent + size;
    if ranges.is_empty() || entry == 0 {
        return None;
    }
    let split =
        |part: &[u8]| (number(&part[..child]), number(&part[child..child + parent]), number(&part[child + parent..]));
    Some(ranges.chunks_exact(entry).map(split).collect())
}

/// The windows of a PCI host bridge: three cells, of which the first says what for (IEEE 1275, PCI Bus Binding,
/// 2.2.1.1).
fn windows(node: FdtNode<'_>, ranges: &[u8], parent_cells: usize, places: &mut Vec<Place>) {
    let (parent, size) = (4 * parent_cells, 4 * cells(node, "#size-cells", 2));
    for part in ranges.chunks_exact((12 + parent + size).max(1)) {
        let kind = match part[0] & 3 {
            1 => "I/O ports",
            2 => "memory, 32 bits",
            3 => "memory, 64 bits",
            _ => continue,
        };
        let (start, size) = (number(&part[12..12 + parent]), number(&part[12 + parent..]));
        add(places, start, size, format!("{}: {kind}", node.name()), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree out of tokens: node names, properties with their bytes, and `None` for a node's end.
    fn tree(items: &[(&str, Option<Vec<u8>>)]) -> Vec<u8> {
        let (mut structure, mut strings) = (Vec::new(), Vec::new());
        let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(4), 0);
        let word = |bytes: &mut Vec<u8>, word: usize| bytes.extend((word as u32).to_be_bytes());
        for (name, value) in items {
            match (*name, value) {
                ("}", _) => word(&mut structure, 2),
                (name, Some(value)) => {
                    word(&mut structure, 3);
                    word(&mut structure, value.len());
                    word(&mut structure, strings.len());
                    strings.extend(name.bytes().chain([0]));
                    structure.extend(value);
                    pad(&mut structure);
                }
                (name, None) => {
                    word(&mut structure, 1);
                    structure.extend(name.bytes().chain([0]));
                    pad(&mut structure);
                }
            }
        }
        word(&mut structure, 9);
        let mut tree = Vec::new();
        let total = 56 + structure.len() + strings.len();
        for field in
            [0xd00d_feed, total, 56, 56 + structure.len(), 40, 17, 16, 0, strings.len(), structure.len(), 0, 0, 0, 0]
        {
            word(&mut tree, field);
        }
        tree.extend(structure);
        tree.extend(strings);
        tree
    }

    #[expect(clippy::unnecessary_wraps, reason = "as the trees it makes have them")]
    fn cells(words: &[u32]) -> Option<Vec<u8>> {
        Some(words.iter().flat_map(|word| word.to_be_bytes()).collect())
    }

    #[expect(clippy::unnecessary_wraps, reason = "as the trees it makes have them")]
    fn text(words: &str) -> Option<Vec<u8>> {
        Some(words.bytes().chain([0]).collect())
    }

    #[test]
    fn places_of_a_machine() {
        let tree = tree(&[
            ("", None),
            ("#address-cells", cells(&[2])),
            ("#size-cells", cells(&[2])),
            ("memory@40000000", None),
            ("device_type", text("memory")),
            ("reg", cells(&[0, 0x4000_0000, 1, 0])),
            ("}", None),
            ("cpus", None),
            ("#address-cells", cells(&[1])),
            ("#size-cells", cells(&[0])),
            ("cpu@0", None),
            ("reg", cells(&[0])),
            ("}", None),
            ("}", None),
            ("bus@c000000", None),
            ("#address-cells", cells(&[1])),
            ("#size-cells", cells(&[1])),
            ("ranges", cells(&[0, 0, 0x0c00_0000, 0x0200_0000])),
            ("device@1000", None),
            ("reg", cells(&[0x1000, 0x200])),
            ("}", None),
            ("outside@9000000", None),
            ("reg", cells(&[0x0900_0000, 0x200])),
            ("}", None),
            ("}", None),
            ("pcie@10000000", None),
            ("device_type", text("pci")),
            ("#address-cells", cells(&[3])),
            ("#size-cells", cells(&[2])),
            ("reg", cells(&[0x40, 0x1000_0000, 0, 0x1000_0000])),
            (
                "ranges",
                cells(&[
                    0x0300_0000,
                    0x80,
                    0,
                    0x80,
                    0,
                    0x80,
                    0,
                    0x0200_0000,
                    0,
                    0x1000_0000,
                    0,
                    0x1000_0000,
                    0,
                    0x2eff_0000,
                ]),
            ),
            ("}", None),
            ("uart@9000000", None),
            ("reg", cells(&[0, 0x0900_0000, 0, 0x1000])),
            ("}", None),
            ("}", None),
        ]);
        let found = places(&tree).unwrap();
        let shown: Vec<_> = found.iter().map(|place| (place.start, place.end, place.name.as_str())).collect();
        assert_eq!(
            shown,
            [
                (0x0900_0000, 0x0900_1000, "uart@9000000"),
                (0x0c00_1000, 0x0c00_1200, "device@1000"),
                (0x1000_0000, 0x3eff_0000, "pcie@10000000: memory, 32 bits"),
                (0x4000_0000, 0x1_4000_0000, "RAM"),
                (0x40_1000_0000, 0x40_2000_0000, "pcie@10000000"),
                (0x80_0000_0000, 0x100_0000_0000, "pcie@10000000: memory, 64 bits"),
            ]
        );
        assert_eq!(found.iter().filter(|place| place.is_ram).count(), 1);
    }

    #[test]
    fn what_is_no_tree_is_said() {
        assert!(places(&[0; 64]).unwrap_err().starts_with("the device tree: "));
        assert!(places(&[]).is_err());
    }
}
