//! The device tree, and Linux's lists.

use std::fs;
use std::path::{Path, PathBuf};

use crate::find::{Place, find};
use crate::host::{list, numbers};
use crate::trouble::{Trouble, status};

/// A directory that goes with the test.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, nodes: &[(&str, &[u8])]) -> Self {
        let path = std::env::temp_dir().join(format!("exeunt-guest-{}-{name}", std::process::id()));
        let tree = Self(path);
        for (node, reg) in nodes {
            let node = tree.0.join(node);
            fs::create_dir_all(&node).unwrap();
            fs::write(node.join("reg"), reg).unwrap();
        }
        tree
    }

    fn find(&self) -> Result<Place, Trouble> {
        find(&self.0)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn reg(address: u64, size: u64) -> Vec<u8> {
    [address.to_be_bytes(), size.to_be_bytes()].concat()
}

#[test]
fn the_tree_names_exeunt_and_its_box() {
    let own = reg(0x4020_0000, 0x1e_0000);
    let black_box = reg(0x403e_0000, 0x2_0000);
    let nodes: [(&str, &[u8]); 3] = [
        ("reserved-memory/exeunt@40200000", &own),
        ("reserved-memory/exeunt-box@403f0000", &black_box),
        ("reserved-memory/other@1000", &[]),
    ];
    let place = Tree::new("both", &nodes).find().unwrap();
    assert_eq!(place.base, 0x4020_0000);
    assert_eq!((place.core, place.black_box), (Some(0x403f_0000), Some((0x403e_0000, 0x2_0000))));
}

#[test]
fn cells_of_32_bits_are_read_as_well() {
    let bytes = [0x40, 0x20, 0, 0, 0, 0x20, 0, 0];
    let tree = Tree::new("narrow", &[("reserved-memory/exeunt@40200000", &bytes)]);
    for name in ["#address-cells", "#size-cells"] {
        fs::write(tree.0.join("reserved-memory").join(name), [0, 0, 0, 1]).unwrap();
    }
    assert_eq!(tree.find().unwrap(), Place { base: 0x4020_0000, core: None, black_box: None });
}

#[test]
fn without_the_node_there_is_none() {
    let none = [Tree::new("nothing", &[("other", &[])]), Tree::new("another", &[("reserved-memory/x@0", &[])])];
    for tree in none {
        let trouble = tree.find().unwrap_err();
        assert_eq!(trouble.status(), status::NONE, "{trouble}");
    }
}

#[test]
fn what_cannot_be_is_said() {
    for (name, bytes) in [
        ("short", vec![1, 2, 3]),
        ("empty", vec![]),
        ("odd", reg(0x4020_1000, 1)),
        ("last", reg(0_u64.wrapping_sub(1 << 21), 1)),
    ] {
        let trouble = Tree::new(name, &[("reserved-memory/exeunt@40200000", &bytes)]).find().unwrap_err();
        assert!(matches!(trouble, Trouble::BadTree(_)), "{name}: {trouble}");
    }
    let trouble = find(Path::new("/nonexistent")).unwrap_err();
    assert!(trouble.to_string().contains("ACPI"), "{trouble}");
    assert_eq!(trouble.status(), status::CANNOT_ASK);
}

#[test]
fn lists_of_cpus_are_read_and_written() {
    assert_eq!(numbers("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
    assert_eq!(numbers("5"), Some(vec![5]));
    assert_eq!(numbers("\n"), Some(vec![]));
    assert_eq!((numbers("a"), numbers("0-99999999"), numbers("1-")), (None, None, None));
    assert_eq!(list(&[0, 1, 2, 3, 8, 10, 11]), "0-3, 8, 10-11");
    assert_eq!((list(&[]).as_str(), list(&[7]).as_str()), ("", "7"));
}
