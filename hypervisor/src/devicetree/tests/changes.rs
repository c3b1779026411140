//! What the edit does, compared with the same changes to a data structure.

use super::*;
use crate::tests::cases;

/// The same changes on the data structure, written without a look at how [`edit()`] does them.
fn expected(tree: &Tree, exeunt: Region, hide_its: bool, arguments: &'static [u8]) -> Tree {
    let mut tree = tree.clone();
    tree.strings.clear();
    let number = |value: Option<&[u8]>| value.unwrap().iter().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
    let [address_cells, size_cells] =
        ["#address-cells", "#size-cells"].map(|name| number(tree.root.property(name)) as usize);

    if hide_its {
        let is_its = |node: &Node| node.is_compatible("arm,gic-v3-its");
        let mut phandles = Vec::new();
        tree.root.visit(&mut |node| {
            if is_its(node) {
                phandles.extend(node.property("phandle").map(<[u8]>::to_vec));
            }
        });
        let refers = |value: &[u8], first: usize, step: usize| {
            value.chunks(4).skip(first).step_by(step).any(|cell| phandles.iter().any(|phandle| phandle == cell))
        };
        tree.root.visit_mut(&mut |node| {
            node.children.retain(|child| !is_its(child));
            node.properties.retain(|(name, value)| match name.as_str() {
                "msi-map" => !refers(value, 1, 4),
                "msi-parent" => !refers(value, 0, 2),
                _ => true,
            });
        });
    }

    let chosen = tree.root.child_mut("chosen").unwrap();
    let chosen_cells =
        ["#address-cells", "#size-cells"].map(|name| chosen.property(name).map(|value| number(Some(value)) as usize));
    let mut take = |kind: &str| {
        let is_module = |node: &Node| node.is_compatible("multiboot,module") && node.is_compatible(kind);
        let index = chosen.children.iter().position(is_module)?;
        Some(chosen.children.remove(index))
    };
    let (kernel, ramdisk) = (take("multiboot,kernel"), take("multiboot,ramdisk"));
    let passed =
        ["linux,initrd-start", "linux,initrd-end"].map(|name| chosen.property(name).map(|end| number(Some(end))));
    chosen
        .properties
        .retain(|(name, _)| !matches!(name.as_str(), "bootargs" | "linux,initrd-start" | "linux,initrd-end"));
    let mut added = arguments.to_vec();
    match kernel.as_ref().and_then(|kernel| kernel.property("bootargs")) {
        Some(bootargs) => {
            while !added.is_empty() && (added.len() == arguments.len() || !added.len().is_multiple_of(4)) {
                added.push(b' ');
            }
            chosen.properties.push(("bootargs".to_owned(), [&added, bootargs].concat()));
        }
        None if added.is_empty() => {}
        None => {
            added.resize((added.len() + 4) / 4 * 4, 0);
            chosen.properties.push(("bootargs".to_owned(), added));
        }
    }
    let initrd = match (ramdisk, passed) {
        (Some(ramdisk), _) => {
            let (start, size) = ramdisk.property("reg").unwrap().split_at(4 * chosen_cells[0].unwrap_or(address_cells));
            Some((number(Some(start)), number(Some(start)) + number(Some(size))))
        }
        (None, [Some(start), Some(end)]) if start < end => Some((start, end)),
        _ => None,
    };
    if let Some((start, end)) = initrd {
        chosen.properties.push(("linux,initrd-start".to_owned(), start.to_be_bytes().to_vec()));
        chosen.properties.push(("linux,initrd-end".to_owned(), end.to_be_bytes().to_vec()));
    }
    tree.reservations.retain(|&(start, size)| start < exeunt.start || start + size > exeunt.end);

    if tree.root.child("reserved-memory").is_none() {
        let behind = tree.root.children.iter().position(|node| node.name == "chosen").unwrap() + 1;
        tree.root.children.insert(behind, Node::new("reserved-memory"));
    }
    let reserved = tree.root.child_mut("reserved-memory").unwrap();
    for (name, value) in [
        ("#address-cells", cells(&[address_cells as u32])),
        ("#size-cells", cells(&[size_cells as u32])),
        ("ranges", Vec::new()),
    ] {
        if reserved.property(name).is_none() {
            reserved.properties.push((name.to_owned(), value));
        }
    }
    let mut reg = exeunt.start.to_be_bytes()[8 - 4 * address_cells..].to_vec();
    reg.extend(&(black_box(exeunt).start - exeunt.start).to_be_bytes()[8 - 4 * size_cells..]);
    let node = Node::new(&format!("exeunt@{:x}", exeunt.start)).with("reg", reg).with("no-map", []);
    let node = node.with("exeunt,dma-not-covered", *b"exeunt\0black-box\0crash-kernel\0");
    reserved.children.push(node);
    let mut reg = black_box(exeunt).start.to_be_bytes()[8 - 4 * address_cells..].to_vec();
    reg.extend(&black_box(exeunt).size().to_be_bytes()[8 - 4 * size_cells..]);
    let node = Node::new(&format!("exeunt-box@{:x}", black_box(exeunt).start)).with("reg", reg);
    reserved.children.push(node.with("compatible", *b"exeunt,black-box\0"));
    tree
}

/// Edits `blob` and checks that the result is what it should be, for the eyes of other libraries.
fn check_edit(blob: &Blob, hide_its: bool) -> Blob {
    check_edit_of(blob, hide_its, b"", false)
}

/// The same for a tree that may have FDT_NOPs already.
fn check_edit_of(blob: &Blob, hide_its: bool, arguments: &'static [u8], has_nops: bool) -> Blob {
    let before = Tree::read(blob);
    let platform = scanned(blob);
    let mut edited = blob.clone();
    let edits = Edits { hide_its, arguments, ..Edits::new(&platform, EXEUNT, black_box(EXEUNT)) };
    let used = edit(&mut edited, &platform, &edits).unwrap();
    assert_eq!(total_size(&edited), total_size(blob));
    let untouched = used.max(platform.layout.used as usize);
    assert!(edited[untouched..] == blob[untouched..]);
    let after = Tree::read(&edited);
    let expected = expected(&before, EXEUNT, hide_its, arguments);
    assert!(after == expected, "{}\nbut should be\n{}", after.text(), expected.text());

    // The fdt crate stops at some FDT_NOPs, and the edit moves them. Where there was none, there is none for it now.
    let seen_by_fdt = |blob: &[u8]| {
        let mut names = Vec::new();
        Tree::read(blob).root.visit(&mut |node| names.push(node.name.clone()));
        fdt::Fdt::new(blob).unwrap().all_nodes().map(|node| node.name.trim_start_matches('/')).eq(names)
    };
    assert!(has_nops || seen_by_fdt(&edited) || !seen_by_fdt(blob));

    let again = scanned(&edited);
    assert_eq!(*again.memory, *platform.memory);
    assert_eq!(*again.cpus, *platform.cpus);
    let mut reserved = platform.reserved.to_vec();
    reserved.retain(|region| !EXEUNT.contains(*region));
    assert_eq!(*again.reserved, *reserved);
    assert_eq!((again.console, again.psci, again.gic), (platform.console, platform.psci, platform.gic));
    assert_eq!((again.kernel, again.ramdisk), (None, None));
    assert_eq!(again.loader_initrd, platform.initrd());
    let bootargs = platform.kernel.and_then(|kernel| kernel.bootargs(blob)).unwrap_or_default();
    let said = again.options(&edited).strip_prefix(arguments).unwrap();
    assert!(arguments.is_empty() || said.is_empty() || said[0] == b' ');
    // Spaces stand between the two; a command line that nothing was put before is as it was, its own spaces included.
    let own = |words: &[u8]| if arguments.is_empty() { words.len() } else { words.trim_ascii_start().len() };
    assert_eq!(said[said.len() - own(said)..], bootargs[bootargs.len() - own(bootargs)..]);
    assert!(!hide_its || again.layout.its.is_empty());
    edited
}

#[test]
fn edits_of_qemus_trees_change_what_they_should_and_nothing_else() {
    for (_, text, _) in QEMU_TREES {
        let tree = Tree::parse(text);
        for hide_its in [true, false] {
            check_edit(&tree.blob(1 << 12), hide_its);
        }
    }
}

#[test]
fn the_host_of_make_run_sees_this() {
    let blob = qemu("virt-gicv3-4cpu").blob(0x1000);
    let edited = Tree::read(&check_edit(&blob, true));
    let shown = |name: &str| Tree { root: edited.root.child(name).unwrap().clone(), ..Tree::default() }.text();
    assert_eq!(
        shown("chosen"),
        r#"{ chosen
  stdout-path = "/pl011@9000000"
  bootargs = "console=ttyAMA0"
  linux,initrd-start = <0 48400000>
  linux,initrd-end = <0 48412345>
}
"#
    );
    assert_eq!(
        shown("reserved-memory"),
        r#"{ reserved-memory
  #address-cells = <2>
  #size-cells = <2>
  ranges
  { exeunt@40200000
    reg = <0 40200000 0 1f0000>
    no-map
    exeunt,dma-not-covered = "exeunt" "black-box" "crash-kernel"
  }
  { exeunt-box@403f0000
    reg = <0 403f0000 0 10000>
    compatible = "exeunt,black-box"
  }
}
"#
    );
    assert!(!edited.text().contains("its@") && !edited.text().contains("msi-map"));
    // Slack is left as it is: Linux keeps all of the total size reserved, as without Exeunt.
    assert_eq!(total_size(&check_edit(&blob, true)), total_size(&blob));
}

#[test]
fn arguments_stand_in_front_of_the_hosts_own() {
    let tree = qemu("virt-gicv3-4cpu");
    let edited = |tree: &Tree| {
        let edited = check_edit_of(&tree.blob(0x1000), true, b"kvm-arm.mode=nvhe", false);
        scanned(&edited).options(&edited).to_vec()
    };
    assert_eq!(edited(&tree), b"kvm-arm.mode=nvhe   console=ttyAMA0");
    let mut without = tree.clone();
    let chosen = without.root.child_mut("chosen").unwrap();
    for child in &mut chosen.children {
        child.properties.retain(|(name, _)| name != "bootargs");
    }
    assert_eq!(edited(&without), b"kvm-arm.mode=nvhe");
}

#[test]
fn a_tree_that_is_already_partly_right_is_completed() {
    let tree = Tree::parse(SMALL);
    check_edit(&tree.blob(4096), true);
    for (node, behind) in [("memory@40000000", "cpus"), ("aliases", "chosen")] {
        let mut tree = tree.clone();
        let reserved = Node::new("reserved-memory").with("#size-cells", cells(&[2]));
        let mut reserved = reserved.with("#address-cells", cells(&[2])).with("ranges", []);
        reserved.children.push(Node::new("ramoops@50000000").with("reg", cells(&[0, 0x5000_0000, 0, 0x1000])));
        let at = tree.root.children.iter().position(|node| node.name == behind).unwrap();
        assert_eq!(tree.root.children[at - 1].name, node);
        tree.root.children.insert(at, reserved);
        check_edit(&tree.blob(4096), true);
        // Linux ignores one without `ranges`, so it gets them.
        tree.root.child_mut("reserved-memory").unwrap().properties.truncate(1);
        check_edit(&tree.blob(4096), true);
        tree.root.child_mut("reserved-memory").unwrap().properties[0].1 = cells(&[1]);
        let blob = tree.blob(4096);
        let platform = scanned(&blob);
        let mut edited = blob.clone();
        let error = edit(&mut edited, &platform, &Edits::new(&platform, EXEUNT, black_box(EXEUNT))).unwrap_err();
        assert!(error.to_string().contains("/reserved-memory"), "{error}");
        assert_eq!(edited, blob);
    }
}

#[test]
fn without_room_the_tree_stays_as_it_is() {
    for (name, text, _) in QEMU_TREES {
        let tree = Tree::parse(text);
        let blob = tree.blob(0);
        let platform = scanned(&blob);
        let edits = Edits::new(&platform, EXEUNT, black_box(EXEUNT));
        // With every byte more, from none at all.
        let mut sizes = blob.len()..;
        let needed = loop {
            let mut buffer = blob.resized(sizes.next().unwrap());
            let before = buffer.clone();
            match edit(&mut buffer, &platform, &edits) {
                Ok(used) => {
                    assert!(Tree::read(&buffer) == expected(&tree, EXEUNT, true, b""), "{name}");
                    break used;
                }
                Err(TreeError::NoRoom { needed, available }) => {
                    assert!(needed > available && available == buffer.len() && buffer == before, "{name}");
                }
                Err(error) => panic!("{name}: {error}"),
            }
        };
        // The first size that would do did.
        assert!(needed == sizes.start - 1 || needed <= blob.len(), "{name}");
    }
}

#[test]
fn addresses_that_the_root_cannot_say_are_refused() {
    let tree = Tree::parse(
        "{ /\n #address-cells = <1>\n #size-cells = <1>\n { chosen\n }\n\
         { memory@0\n device_type = \"memory\"\n reg = <0 f0000000>\n }\n }",
    );
    let blob = tree.blob(1000);
    let platform = scanned(&blob);
    let edits = |start| {
        let exeunt = Region::new(start, 2 << 20).unwrap();
        Edits::new(&platform, exeunt, black_box(exeunt))
    };
    assert!(edit(&mut blob.clone(), &platform, &edits(0x8000_0000)).is_ok());
    let error = edit(&mut blob.clone(), &platform, &edits(0x1_0000_0000)).unwrap_err();
    assert_eq!(error, TreeError::CellsTooSmall { address: 0x1_0000_0000 });
}

#[test]
fn a_tree_that_was_not_scanned_is_not_edited() {
    let blob = Tree::parse(SMALL).blob(4096);
    let platform = scanned(&blob);
    let other = qemu("virt-gicv3-4cpu").blob(4096);
    let empty = &Platform::EMPTY;
    for (mut buffer, platform) in [(other, &platform), (blob, empty), (Blob::from([0; 100].as_slice()), empty)] {
        let before = buffer.clone();
        assert!(edit(&mut buffer, platform, &Edits::new(platform, EXEUNT, black_box(EXEUNT))).is_err());
        assert_eq!(buffer, before);
    }
    let mut no_chosen = Tree::parse(SMALL);
    no_chosen.root.children.retain(|node| node.name != "chosen");
    let mut blob = no_chosen.blob(4096);
    let platform = scanned(&blob);
    assert_eq!(edit(&mut blob, &platform, &Edits::new(&platform, EXEUNT, black_box(EXEUNT))), Err(TreeError::NoChosen));
}

// ---- Trees that nobody thought of ----

/// Any node that means nothing to Exeunt, with others in it.
fn some_node(name: &'static str) -> impl Strategy<Value = Node> {
    let property = ("[a-z][a-z,-]{0,12}x", proptest::collection::vec(any::<u8>(), 0..20));
    let leaf =
        proptest::collection::vec(property, 0..4).prop_map(move |properties| Node { properties, ..Node::new(name) });
    leaf.prop_recursive(3, 8, 3, |inner| {
        (inner.clone(), proptest::collection::vec(inner, 0..3)).prop_map(|(node, mut children)| {
            for (index, child) in children.iter_mut().enumerate() {
                child.name = format!("child@{index}");
            }
            Node { children, ..node }
        })
    })
}

/// A node with its properties in any order.
fn shuffled(node: Node) -> impl Strategy<Value = Node> {
    let Node { name, properties, children } = node;
    Just(properties).prop_shuffle().prop_map(move |properties| Node {
        name: name.clone(),
        properties,
        children: children.clone(),
    })
}

fn module(kind: &'static str, bootargs: Option<String>, start: u32) -> Node {
    let reg = cells(&[start, 0x1000]);
    let node = Node::new(&format!("module@{start:x}")).with("reg", reg);
    let node = node.with("compatible", format!("multiboot,module\0multiboot,{kind}\0"));
    match bootargs {
        Some(bootargs) => node.with("bootargs", format!("{bootargs}\0")),
        None => node,
    }
}

/// `/chosen` with or without each of the things that go, and with others that stay.
fn chosen() -> impl Strategy<Value = Node> {
    let properties = (proptest::option::of("[ -~]{0,30}"), any::<[bool; 4]>(), some_node("extra"));
    let node = properties.prop_flat_map(|(options, initrd, extra)| {
        let mut node = Node::new("chosen").with("#address-cells", cells(&[1])).with("#size-cells", cells(&[1]));
        if let Some(options) = options {
            node = node.with("bootargs", format!("{options}\0"));
        }
        let [start, end, short, empty] = initrd;
        for (name, present, number) in [("linux,initrd-start", start, 2), ("linux,initrd-end", end, 3)] {
            let number = if empty { 2 } else { number };
            if present {
                node = node.with(name, if short { cells(&[number]) } else { cells(&[1, number]) });
            }
        }
        node.properties.extend(extra.properties);
        shuffled(node)
    });
    let kernel = proptest::option::of("[ -~]{0,300}")
        .prop_flat_map(|bootargs| shuffled(module("kernel", bootargs, 0x4040_0000)));
    let ramdisk = shuffled(module("ramdisk", None, 0x4840_0000));
    let others = proptest::collection::vec(some_node("other"), 0..3);
    let places = any::<[prop::sample::Index; 2]>();
    (node, proptest::option::of(kernel), proptest::option::of(ramdisk), others, places).prop_map(
        |(mut node, kernel, ramdisk, others, places)| {
            let others = others.into_iter().enumerate();
            node.children = others.map(|(index, other)| Node { name: format!("other{index}"), ..other }).collect();
            for (module, place) in [kernel, ramdisk].into_iter().zip(places) {
                if let Some(module) = module {
                    let at = place.index(node.children.len() + 1);
                    node.children.insert(at, module);
                }
            }
            node
        },
    )
}

/// The GIC with one or two ITS nodes among other children, and devices that use them or something else.
fn gic() -> impl Strategy<Value = Vec<Node>> {
    let its = |name: &str, phandle: u32| {
        Node::new(name)
            .with("compatible", "arm,gic-v3-its\0")
            .with("phandle", cells(&[phandle]))
            .with("reg", cells(&[1, 2]))
    };
    let user = prop_oneof![
        proptest::collection::vec(1u32..5, 1..3).prop_map(|targets| {
            let map = targets.iter().flat_map(|&target| [0, target, 0, 0x10000]).collect::<Vec<_>>();
            Node::new("user").with("msi-map", cells(&map))
        }),
        (1u32..5).prop_map(|target| Node::new("user").with("msi-parent", cells(&[target, 7]))),
    ];
    let gic = (some_node("gic"), proptest::bool::ANY, proptest::bool::ANY).prop_map(move |(mut gic, first, last)| {
        if first {
            gic.children.insert(0, its("its@1", 1));
        }
        if last {
            gic.children.push(its("its@2", 2));
        }
        gic
    });
    (gic, proptest::collection::vec(user, 0..4)).prop_map(|(gic, users)| {
        let users = users.into_iter().enumerate().map(|(index, user)| Node { name: format!("user@{index}"), ..user });
        [gic].into_iter().chain(users).collect()
    })
}

/// A `/reserved-memory` with or without the properties that it should have.
fn reserved_memory(root: [u32; 2]) -> impl Strategy<Value = Node> {
    (any::<[bool; 3]>(), proptest::option::of(some_node("region"))).prop_map(move |(present, child)| {
        let properties =
            [("#address-cells", cells(&root[..1])), ("#size-cells", cells(&root[1..])), ("ranges", Vec::new())];
        let present = properties.into_iter().zip(present).filter(|(_, present)| *present);
        let properties = present.map(|((name, value), _)| (name.to_owned(), value)).collect();
        Node { properties, children: child.into_iter().collect(), ..Node::new("reserved-memory") }
    })
}

/// An entry of the memory reservation block, some of them in Exeunt's memory or across its edges.
fn reservation() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        (1u64.., any::<u32>()).prop_map(|(start, size)| (start >> 1, u64::from(size))),
        (EXEUNT.start - 2..EXEUNT.end + 2, 1u64..EXEUNT.size() + 4),
        Just((EXEUNT.start, EXEUNT.size())),
    ]
}

/// A tree with all that the edit knows, in any order, and much that it does not.
fn any_tree() -> impl Strategy<Value = Tree> {
    let parts = (
        [1u32..3, 1u32..3],
        chosen(),
        gic(),
        proptest::option::of(Just(())),
        proptest::collection::vec(some_node("device"), 0..4),
        proptest::collection::vec(reservation(), 0..4),
    );
    parts
        .prop_flat_map(|(root_cells, chosen, gic, reserved, devices, reservations)| {
            let reserved = match reserved {
                Some(()) => reserved_memory(root_cells).prop_map(Some).boxed(),
                None => Just(None).boxed(),
            };
            (Just((root_cells, chosen, gic, devices, reservations)), reserved)
        })
        .prop_flat_map(|((root_cells, chosen, gic, devices, reservations), reserved)| {
            let devices =
                devices.into_iter().enumerate().map(|(index, node)| Node { name: format!("device@{index}"), ..node });
            let children = [chosen].into_iter().chain(reserved).chain(gic).chain(devices).collect::<Vec<_>>();
            (Just((root_cells, reservations)), Just(children).prop_shuffle())
        })
        .prop_map(|((root_cells, reservations), children)| Tree {
            reservations: reservations.into_iter().filter(|&reservation| reservation != (0, 0)).collect(),
            strings: Vec::new(),
            root: Node {
                children,
                ..Node::new("")
                    .with("#address-cells", cells(&root_cells[..1]))
                    .with("#size-cells", cells(&root_cells[1..]))
            },
        })
}

proptest! {
    #![proptest_config(cases(2000, 4))]

    /// On any tree the edit does what the same changes to the data structure do, whatever stands where, whether there
    /// is room to spare or none.
    #[test]
    fn edits_do_what_they_should(
        tree in any_tree(),
        nops in 0usize..3,
        hide_its: bool,
        arguments in proptest::sample::select(vec![b"".as_slice(), b"x", b"abc", b"kvm-arm.mode=nvhe"]),
    ) {
        let blob = tree.blob_with_nops(0, nops);
        let more = blob.len() + 1024;
        let mut roomy = blob.resized(more);
        roomy[4..8].copy_from_slice(&(more as u32).to_be_bytes());
        let edited = check_edit_of(&roomy, hide_its, arguments, nops > 0);
        prop_assert_eq!(total_size(&edited), Ok(roomy.len()));

        let platform = scanned(&blob);
        let edits = Edits { hide_its, arguments, ..Edits::new(&platform, EXEUNT, black_box(EXEUNT)) };
        let mut tight = blob.clone();
        match edit(&mut tight, &platform, &edits) {
            Ok(used) => {
                prop_assert!(used <= blob.len());
                prop_assert!(Tree::read(&tight) == Tree::read(&edited));
            }
            Err(TreeError::NoRoom { needed, available }) => {
                prop_assert_eq!(available, blob.len());
                prop_assert!(tight == blob);
                tight = tight.resized(needed);
                prop_assert_eq!(edit(&mut tight, &platform, &edits), Ok(needed));
                prop_assert!(Tree::read(&tight) == Tree::read(&edited));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
