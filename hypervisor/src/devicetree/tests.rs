//! The scan and the edit on the trees of real machines, on variations of them, and on broken ones.
//!
//! The witness of what a blob says is the dtoolkit crate ([`Tree::read`]); the `fdt` crate is a second one.

use proptest::prelude::*;

use super::text::{Node, Tree};
use super::*;

/// The trees that QEMU 7.2 makes, by the name of the file in `testdata/`, and the command lines behind them.
const QEMU_TREES: [(&str, &str, &str); 6] = [
    (
        "virt-gicv2-1cpu",
        include_str!("../../testdata/virt-gicv2-1cpu.tree"),
        "-M virt,virtualization=on,gic-version=2 -m 512M",
    ),
    (
        "virt-gicv2-8cpu",
        include_str!("../../testdata/virt-gicv2-8cpu.tree"),
        "-M virt,virtualization=on,gic-version=2 -smp 8 -m 4G -append stats \
         -device guest-loader,addr=0x40400000,kernel=module",
    ),
    (
        "virt-gicv3-4cpu",
        include_str!("../../testdata/virt-gicv3-4cpu.tree"),
        "-M virt,virtualization=on,gic-version=3 -smp 4 -m 1G -append log=info \
         -device guest-loader,addr=0x40400000,kernel=module,bootargs=console=ttyAMA0 \
         -device guest-loader,addr=0x48400000,initrd=module",
    ),
    (
        "virt-gicv3-2cpu-no-its",
        include_str!("../../testdata/virt-gicv3-2cpu-no-its.tree"),
        "-M virt,virtualization=on,gic-version=3,its=off -smp 2 -m 1G \
         -device guest-loader,addr=0x40400000,kernel=module,bootargs=quiet",
    ),
    (
        "virt-gicv3-64cpu-64g",
        include_str!("../../testdata/virt-gicv3-64cpu-64g.tree"),
        "-M virt,virtualization=on,gic-version=3,memory-backend=m0 -smp 64 \
         -object memory-backend-ram,id=m0,size=64G,reserve=off -m 64G \
         -device guest-loader,addr=0x40400000,kernel=module,bootargs=console=ttyAMA0 \
         -device guest-loader,addr=0x48400000,initrd=module",
    ),
    (
        "virt-gicv3-2cpu-numa-secure",
        include_str!("../../testdata/virt-gicv3-2cpu-numa-secure.tree"),
        "-M virt,virtualization=on,secure=on,gic-version=3 -smp 2 -m 2G \
         -object memory-backend-ram,id=m0,size=1G -object memory-backend-ram,id=m1,size=1G \
         -numa node,memdev=m0,cpus=0 -numa node,memdev=m1,cpus=1 \
         -device guest-loader,addr=0x40400000,kernel=module,bootargs=console=ttyAMA0",
    ),
];

/// The tree in `testdata/` of this name.
fn qemu(name: &str) -> Tree {
    Tree::parse(QEMU_TREES.iter().find(|(other, ..)| *other == name).unwrap().1)
}

/// Where QEMU's `-kernel` puts Exeunt.
const EXEUNT: Region = Region { start: 0x4020_0000, end: 0x4040_0000 };

fn scanned(blob: &[u8]) -> Platform {
    let mut platform = Platform::EMPTY;
    scan(blob, &mut platform).unwrap();
    platform
}

fn refused(blob: &[u8]) -> TreeError {
    scan(blob, &mut Platform::EMPTY.clone()).unwrap_err()
}

fn platform_of(tree: &Tree) -> Platform {
    scanned(&tree.blob(0))
}

/// A value of one or more cells.
fn cells(cells: &[u32]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}

// ---- What the scan finds ----

#[test]
fn scan_finds_what_qemu_describes() {
    const GIB: u64 = 1 << 30;
    /// A command line, or that there is none.
    type Bootargs = Option<&'static [u8]>;
    struct Expected {
        memory: u64,
        cpus: usize,
        gic: Gic,
        its: usize,
        options: &'static [u8],
        kernel: Option<Bootargs>,
        ramdisk: bool,
    }
    let expected = [
        Expected { memory: GIB / 2, cpus: 1, gic: Gic::V2, its: 0, options: b"", kernel: None, ramdisk: false },
        Expected {
            memory: 4 * GIB,
            cpus: 8,
            gic: Gic::V2,
            its: 0,
            options: b"stats",
            kernel: Some(None),
            ramdisk: false,
        },
        Expected {
            memory: GIB,
            cpus: 4,
            gic: Gic::V3,
            its: 1,
            options: b"log=info",
            kernel: Some(Some(b"console=ttyAMA0")),
            ramdisk: true,
        },
        Expected {
            memory: GIB,
            cpus: 2,
            gic: Gic::V3,
            its: 0,
            options: b"",
            kernel: Some(Some(b"quiet")),
            ramdisk: false,
        },
        Expected {
            memory: 64 * GIB,
            cpus: 64,
            gic: Gic::V3,
            its: 1,
            options: b"",
            kernel: Some(Some(b"console=ttyAMA0")),
            ramdisk: true,
        },
        Expected {
            memory: 2 * GIB,
            cpus: 2,
            gic: Gic::V3,
            its: 1,
            options: b"",
            kernel: Some(Some(b"console=ttyAMA0")),
            ramdisk: false,
        },
    ];
    for ((name, text, _), expected) in QEMU_TREES.iter().zip(expected) {
        let blob = Tree::parse(text).blob(1000);
        let platform = scanned(&blob);
        assert_eq!(*platform.memory, [Region::new(GIB, expected.memory).unwrap()], "{name}");
        assert_eq!(platform.memory_size(), expected.memory);
        // GICv3 groups CPUs by 16, GICv2 by 8 (QEMU's virt_cpu_mp_affinity).
        let cluster = if expected.gic == Gic::V3 { 16 } else { 8 };
        let affinities = (0..expected.cpus as u64).map(|cpu| ((cpu / cluster) << 8) | (cpu % cluster));
        assert!(platform.cpus.iter().copied().eq(affinities), "{name}: {:x?}", platform.cpus);
        assert_eq!(platform.psci, Some(Conduit::Smc), "{name}");
        assert!(!platform.cpu_without_psci, "{name}");
        assert_eq!(platform.console, Some(0x900_0000), "{name}");
        assert_eq!(platform.gic, Some(expected.gic), "{name}");
        assert_eq!(platform.layout.its.len(), expected.its, "{name}");
        assert_eq!(platform.options(&blob), expected.options, "{name}");
        assert_eq!(
            platform.kernel.map(|kernel| kernel.region),
            expected.kernel.map(|_| Region::new(0x4040_0000, 0x12345).unwrap())
        );
        assert_eq!(platform.kernel.map(|kernel| kernel.bootargs(&blob)), expected.kernel, "{name}");
        let ramdisk = expected.ramdisk.then_some(Region::new(0x4840_0000, 0x12345).unwrap());
        assert_eq!(platform.ramdisk.map(|ramdisk| ramdisk.region), ramdisk, "{name}");
        // The 64-bit PCIe window: 512 GiB at 512 GiB.
        assert_eq!(platform.highest, 1 << 40, "{name}");
        assert!(platform.reserved.is_empty() && !platform.efi && !platform.loader_initrd, "{name}");
        assert_eq!(machine(&blob), Some("linux,dummy-virt"), "{name}");
        assert_eq!(total_size(&blob[..HEADER_SIZE]), Ok(blob.len()), "{name}");
    }
}

/// A small machine with everything that one needs.
const SMALL: &str = r#"
reserve 48000000 1000
{ /
  #address-cells = <2>
  #size-cells = <2>
  compatible = "example,board" "example,soc"
  { aliases
    serial0 = "/soc/serial@1000"
    serial01 = "/soc/serial@2000"
  }
  { chosen
    bootargs = "log=info stats"
    stdout-path = "serial0:115200n8"
    linux,initrd-start = <0 1>
    linux,initrd-end = <0 2>
    #address-cells = <1>
    #size-cells = <1>
    { other
      compatible = "multiboot,module"
    }
    { kernel@80000000
      reg = <80000000 1000>
      bootargs = "root=/dev/vda"
      compatible = "multiboot,kernel" "multiboot,module"
    }
  }
  { memory@80000000
    device_type = "memory"
    reg = <0 80000000 0 40000000 8 80000000 1 0 0 c0000000 0 40000000>
  }
  { memory@40000000
    device_type = "memory"
    reg = <0 40000000 0 10000000>
  }
  { cpus
    #address-cells = <2>
    #size-cells = <0>
    { cpu@100000000
      reg = <1 0>
      enable-method = "psci"
    }
    { cpu@0
      device_type = "cpu"
      reg = <0 0>
      status = "disabled"
    }
    { cpu@1
      device_type = "cpu"
      reg = <0 1>
      status = "fail"
    }
    { l2-cache
    }
  }
  { psci
    compatible = "arm,psci-0.2"
    method = "hvc"
  }
  { soc
    #address-cells = <1>
    #size-cells = <1>
    ranges = <0 0 9000000 10000 20000 1 0 8000>
    { serial@1000
      compatible = "arm,pl011" "arm,primecell"
      reg = <1000 1000>
    }
    { serial@2000
      compatible = "arm,pl011" "arm,primecell"
      reg = <22000 1000>
    }
  }
}
"#;

#[test]
fn scan_understands_trees_that_are_not_like_qemus() {
    let tree = Tree::parse(SMALL);
    let blob = tree.blob(0);
    let platform = scanned(&blob);
    let memory = [(0x4000_0000, 0x5000_0000), (0x8000_0000, 0x1_0000_0000), (0x8_8000_0000, 0x9_8000_0000)];
    assert_eq!(*platform.memory, memory.map(|(start, end)| Region { start, end }));
    // The CPU that is "disabled" waits to be turned on, the one that is "fail" is broken.
    assert_eq!(*platform.cpus, [1 << 32, 0]);
    assert!(!platform.cpu_without_psci);
    assert_eq!(platform.psci, Some(Conduit::Hvc));
    assert_eq!(platform.console, Some(0x900_1000));
    assert_eq!(platform.gic, None);
    assert_eq!(platform.options(&blob), b"log=info stats");
    let kernel = platform.kernel.unwrap();
    assert_eq!(kernel.region, Region { start: 0x8000_0000, end: 0x8000_1000 });
    assert_eq!(kernel.bootargs(&blob), Some(b"root=/dev/vda".as_slice()));
    assert_eq!(platform.ramdisk, None);
    assert_eq!(*platform.reserved, [Region { start: 0x4800_0000, end: 0x4800_1000 }]);
    assert_eq!(platform.highest, 0x9_8000_0000);
    assert!(platform.loader_initrd);
    assert_eq!(machine(&blob), Some("example,board"));

    // A scan forgets what an earlier one found.
    let mut again = scanned(&qemu("virt-gicv3-64cpu-64g").blob(0));
    scan(&blob, &mut again).unwrap();
    assert_eq!(format!("{again:?}"), format!("{platform:?}"));
}

/// What [`SMALL`] says with one thing changed.
fn varied(from: &str, to: &str) -> Platform {
    assert_eq!(SMALL.matches(from).count(), 1, "{from}");
    platform_of(&Tree::parse(&SMALL.replace(from, to)))
}

/// What is wrong with [`SMALL`] with one thing changed.
fn broken(from: &str, to: &str) -> String {
    assert_eq!(SMALL.matches(from).count(), 1, "{from}");
    refused(&Tree::parse(&SMALL.replace(from, to)).blob(0)).to_string()
}

#[test]
fn the_console_is_what_stdout_path_names() {
    let console = |path: &str| varied("serial0:115200n8", path).console;
    assert_eq!(console("serial0"), Some(0x900_1000));
    // Behind the second window, above 4 GiB.
    assert_eq!(console("serial01"), Some(0x1_0000_2000));
    assert_eq!(console("serial"), None);
    assert_eq!(console("serial1"), None);
    assert_eq!(console("/soc/serial@1000:115200"), Some(0x900_1000));
    assert_eq!(console("/soc/serial@2000"), Some(0x1_0000_2000));
    // Without the unit address, the first one of that name.
    assert_eq!(console("/soc/serial"), Some(0x900_1000));
    assert_eq!(console("/soc/serial@100"), None);
    assert_eq!(console("/soc/serial@10000"), None);
    assert_eq!(console("/soc"), None);
    assert_eq!(console("/soc/serial@1000/port"), None);
    assert_eq!(console("/serial@1000"), None);
    assert_eq!(console(""), None);
    assert_eq!(console("/"), None);
    assert_eq!(varied("    stdout-path = \"serial0:115200n8\"\n", "").console, None);
    assert_eq!(varied("    stdout-path", "    linux,stdout-path").console, Some(0x900_1000));
    // A bus without `ranges` has no addresses that a CPU could use.
    assert_eq!(varied("    ranges = <0 0 9000000 10000 20000 1 0 8000>\n", "").console, None);
    assert_eq!(varied("    reg = <1000 1000>\n", "    reg = <1000 1000>\n      status = \"disabled\"\n").console, None);
    assert_eq!(varied("    reg = <1000 1000>\n", "    reg = <11000 1000>\n").console, None, "in no window");
}

#[test]
fn firmware_is_what_the_psci_node_says() {
    assert_eq!(varied("\"hvc\"", "\"smc\"").psci, Some(Conduit::Smc));
    assert_eq!(varied("\"hvc\"", "\"spin\"").psci, None);
    assert_eq!(varied("arm,psci-0.2", "arm,psci").psci, None, "PSCI 0.1 has other function numbers on each machine");
    assert_eq!(varied("arm,psci-0.2", "arm,psci-1.0").psci, Some(Conduit::Hvc));
    assert!(varied("enable-method = \"psci\"", "enable-method = \"spin-table\"").cpu_without_psci);
}

#[test]
fn the_highest_address_counts_devices_and_windows() {
    let with = |node: &str| varied("  { psci\n", &format!("{node}\n  {{ psci\n")).highest;
    assert_eq!(with("{ device\n reg = <10 0 0 1000>\n }"), 0x10_0000_1000);
    assert_eq!(with("{ device\n reg = <0 0 0 1000 11 0 0 1000>\n }"), 0x11_0000_1000);
    let bus = "#address-cells = <2>\n #size-cells = <1>";
    let device = "{ device\n reg = <20 0 1000>\n }";
    assert_eq!(with(&format!("{{ bus\n {bus}\n ranges\n {device}\n }}")), 0x20_0000_1000, "same addresses");
    assert_eq!(with(&format!("{{ bus\n {bus}\n {device}\n }}")), 0x9_8000_0000, "no addresses at all");
    assert_eq!(
        with(&format!("{{ bus\n {bus}\n ranges = <20 0 0 0 1000>\n {device}\n }}")),
        0x9_8000_0000,
        "translated"
    );
    assert_eq!(with("{ device\n reg = <ffffffff fffff000 0 1000>\n }"), 0x9_8000_0000, "nonsense is left out");
}

#[test]
fn modules_are_judged_by_all_their_properties() {
    let kernel = |from: &str, to: &str| varied(from, to).kernel.map(|kernel| kernel.region.start);
    assert_eq!(kernel("\"multiboot,kernel\" \"multiboot,module\"", "\"multiboot,kernel\""), None);
    assert_eq!(kernel("\"multiboot,kernel\" \"multiboot,module\"", "\"multiboot,module\""), None);
    let chosen = "    #address-cells = <1>\n    #size-cells = <1>\n    { other";
    let two = "    #address-cells = <2>\n    #size-cells = <2>\n    { other";
    let wide = SMALL.replace(chosen, two).replace("reg = <80000000 1000>", "reg = <1 80000000 0 1000>");
    assert_eq!(platform_of(&Tree::parse(&wide)).kernel.unwrap().region.start, 0x1_8000_0000);
    // QEMU's guest-loader leaves the cells to be guessed.
    let none = wide.replace(two, "    { other");
    assert_eq!(platform_of(&Tree::parse(&none)).kernel.unwrap().region.start, 0x1_8000_0000);
}

#[test]
fn efi_is_noticed() {
    assert!(varied("    linux,initrd-end = <0 2>", "    linux,uefi-system-table = <0 1>").efi);
    assert!(!varied("    linux,initrd-end = <0 2>", "    linux,initrd-end = <0 3>").efi);
}

#[test]
fn room_for_many_cpus_and_no_more() {
    let mut tree = Tree::parse(SMALL);
    let cpus = tree.root.child_mut("cpus").unwrap();
    cpus.children.clear();
    for cpu in 0..Platform::MAX_CPUS as u32 {
        let node = Node::new(&format!("cpu@{cpu:x}")).with("reg", cells(&[0, cpu]));
        // From the last to the first.
        cpus.children.insert(0, node);
    }
    let platform = platform_of(&tree);
    assert!(platform.cpus.iter().copied().eq((0..Platform::MAX_CPUS as u64).rev()));
    tree.root.child_mut("cpus").unwrap().children.push(Node::new("cpu@1000").with("reg", cells(&[0, 0x1000])));
    let error = refused(&tree.blob(0));
    assert_eq!(error.to_string(), "the device tree has more CPUs than Exeunt has room for (256)");
    let cpus = tree.root.child_mut("cpus").unwrap();
    cpus.children.truncate(1);
    cpus.children.push(Node::new("cpu@ff").with("reg", cells(&[0, 0xff])));
    assert_eq!(refused(&tree.blob(0)).to_string(), "the device tree has more than one CPU with the same reg");
}

#[test]
fn ranges_of_ram_that_touch_are_one() {
    let mut tree = Tree::parse(SMALL);
    tree.root.children.retain(|node| !node.name.starts_with("memory"));
    // 40 ranges, of which each is filled in from both sides, so that at no time there are more than 32.
    let reg = (0..40u32).flat_map(|i| [0, (i * 7 % 40) << 20, 0, 1 << 20]).collect::<Vec<_>>();
    tree.root.children.push(Node::new("memory@0").with("device_type", "memory\0").with("reg", cells(&reg)));
    assert_eq!(*platform_of(&tree).memory, [Region { start: 0, end: 40 << 20 }]);
    let reg = (0..33u32).flat_map(|i| [0, i << 24, 0, 1 << 20]).collect::<Vec<_>>();
    tree.root.children.last_mut().unwrap().properties[1].1 = cells(&reg);
    assert_eq!(
        refused(&tree.blob(0)).to_string(),
        "the device tree has more ranges of RAM than Exeunt has room for (32)"
    );
}

// ---- What the scan refuses ----

#[test]
fn broken_trees_are_refused_in_words() {
    let good = Tree::parse(SMALL).blob(64);
    let changed = |at: usize, value: u32| {
        let mut blob = good.clone();
        blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
        refused(&blob).to_string()
    };
    let word = |at: usize| u32::from_be_bytes(good[at..at + 4].try_into().unwrap());
    assert_eq!(refused(&[]), TreeError::NotATree);
    assert_eq!(refused(&good[..39]), TreeError::TooLarge { size: good.len() });
    assert_eq!(refused(&[0; 4096]), TreeError::NotATree);
    assert_eq!(refused(&good[..good.len() - 1]), TreeError::TooLarge { size: good.len() });
    assert!(changed(4, 3 << 20).contains("3145728 bytes"));
    assert!(changed(4, 48).contains("header"));
    let contradiction = TreeError::Header.to_string();
    assert_eq!(changed(8, word(8) + 1), contradiction, "misaligned structure");
    assert_eq!(changed(8, word(4)), contradiction, "structure outside");
    assert_eq!(changed(36, u32::MAX - 3), contradiction, "structure too long");
    assert_eq!(changed(12, word(8)), contradiction, "strings over structure");
    assert_eq!(changed(32, word(4)), contradiction, "strings too long");
    assert_eq!(changed(16, 41), contradiction, "misaligned reservations");
    assert_eq!(changed(16, 8), contradiction, "reservations over header");
    assert_eq!(changed(16, word(4)), contradiction, "reservations outside");
    assert_eq!(changed(16, word(8)), contradiction, "reservations without end");
    assert_eq!(changed(20, 16), "the device tree has format version 16; 17 is the one that is known");
    assert!(changed(24, 18).contains("version"));
    let start = word(8) as usize;
    let corrupt = |at: usize| format!("the device tree is corrupt: unexpected data at byte {at:#x}");
    assert_eq!(changed(start, 2), corrupt(start), "no root");
    assert_eq!(changed(start, 9), corrupt(start), "nothing at all");
    assert_eq!(changed(start + 8, 7), corrupt(start + 8), "unknown token");
    assert_eq!(changed(start + 12, 0x7fff_ffff), corrupt(start + 8), "value too long");
    assert_eq!(changed(start + 12, u32::MAX), corrupt(start + 8), "value too long");
    assert_eq!(changed(start + 16, word(32)), corrupt(start + 8), "name outside of the strings");
    assert_eq!(changed(36, word(36) - 4), corrupt(word(12) as usize - 4), "no end");
    let name = start + 4 + 4 + 4 * 4 * 2 + 3 * 4 + 28 + 4;
    assert_eq!(&good[name..name + 7], b"aliases");
    assert_eq!(
        changed(name, 0x8041_4141),
        format!("the device tree is corrupt: the name at byte {name:#x} is not plain text")
    );
    assert!(changed(word(12) as usize, 0xff41_4141).contains("not plain text"));
    let last = (word(12) + word(32)) as usize - 4;
    assert!(changed(last, 0x4141_4141).contains("not plain text"));
}

#[test]
fn impossible_values_are_refused_in_words() {
    let value = |error: String| error.split('\'').nth(1).unwrap().to_owned();
    assert_eq!(
        value(broken("  #address-cells = <2>\n  #size-cells = <2>\n  comp", "  #size-cells = <2>\n  comp")),
        "/#address-cells"
    );
    assert_eq!(
        value(broken(
            "  #address-cells = <2>\n  #size-cells = <2>\n  comp",
            "  #address-cells = <2>\n  #size-cells = <3>\n  comp"
        )),
        "/#size-cells"
    );
    assert_eq!(value(broken("    #size-cells = <0>", "    #size-cells = <ffffffff>")), "#size-cells");
    assert_eq!(value(broken("    #size-cells = <0>", "    #size-cells = [0 0]")), "#size-cells");
    assert_eq!(value(broken("reg = <0 40000000 0 10000000>", "reg = <0 40000000 0>")), "memory reg");
    assert_eq!(value(broken("reg = <0 40000000 0 10000000>", "reg = <ffffffff 40000000 ffffffff 0>")), "memory reg");
    assert_eq!(value(broken("reg = <1 0>", "reg = <0>")), "cpu reg");
    assert_eq!(value(broken("reg = <1 0>", "reg = <0 80000002>")), "cpu reg");
    assert_eq!(value(broken("reg = <1 0>\n", "")), "cpu reg");
    assert_eq!(value(broken("reg = <80000000 1000>", "reg = <80000000>")), "module reg");
    assert_eq!(value(broken("reg = <80000000 1000>", "reg = <80000000 0>")), "module reg");
    assert_eq!(value(broken("reg = <80000000 1000>\n", "")), "module reg");
    assert_eq!(value(broken("reserve 48000000 1000", "reserve ffffffffffffffff 1000")), "memory reservation");
    assert_eq!(broken("  { psci\n", "  { chosen\n }\n  { psci\n"), "the device tree has more than one /chosen");
    assert_eq!(
        broken(
            "      compatible = \"multiboot,module\"\n",
            "      compatible = \"multiboot,module\" \"multiboot,kernel\"\n      reg = <0 1>\n"
        ),
        "the device tree has more than one multiboot,kernel module"
    );
    assert_eq!(
        broken("      bootargs = \"root=/dev/vda\"\n", "      bootargs = \"a\"\n      bootargs = \"b\"\n"),
        "the device tree has more than one 'bootargs' in one node"
    );
}

#[test]
fn deep_trees_are_read_but_not_to_the_ground() {
    let around = |levels: usize| {
        let [open, close] = ["{ a\n ranges\n", "}\n"].map(|text| text.repeat(levels));
        let device = "{ device\n reg = <20 0 0 1000>\n compatible = \"arm,gic-v3\"\n }\n";
        let cells = "#address-cells = <2>\n #size-cells = <2>\n ranges\n";
        let open = open.replace("ranges\n", cells);
        varied("  { psci\n", &format!("{open}{device}{close}  {{ psci\n"))
    };
    for levels in [0, 1, 10, 14] {
        let platform = around(levels);
        assert_eq!((platform.highest, platform.gic), (0x20_0000_1000, Some(Gic::V3)), "{levels}");
    }
    for levels in [15, 16, 100] {
        let platform = around(levels);
        assert_eq!((platform.highest, platform.gic), (0x9_8000_0000, None), "{levels}");
        assert_eq!(platform.psci, Some(Conduit::Hvc), "{levels}");
    }
}

// ---- What the edit does ----

/// The same changes on the data structure, written without a look at how [`edit`] does them.
fn expected(tree: &Tree, exeunt: Region, hide_its: bool) -> Tree {
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
    chosen
        .properties
        .retain(|(name, _)| !matches!(name.as_str(), "bootargs" | "linux,initrd-start" | "linux,initrd-end"));
    if let Some(bootargs) = kernel.as_ref().and_then(|kernel| kernel.property("bootargs")) {
        chosen.properties.push(("bootargs".to_owned(), bootargs.to_vec()));
    }
    if let Some(ramdisk) = ramdisk {
        let (start, size) = ramdisk.property("reg").unwrap().split_at(4 * chosen_cells[0].unwrap_or(address_cells));
        let (start, size) = (number(Some(start)), number(Some(size)));
        chosen.properties.push(("linux,initrd-start".to_owned(), start.to_be_bytes().to_vec()));
        chosen.properties.push(("linux,initrd-end".to_owned(), (start + size).to_be_bytes().to_vec()));
    }

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
    reg.extend(&exeunt.size().to_be_bytes()[8 - 4 * size_cells..]);
    let node = Node::new(&format!("exeunt@{:x}", exeunt.start)).with("reg", reg).with("no-map", []);
    reserved.children.push(node);
    tree
}

/// Edits `blob` and checks that the result is what it should be, for the eyes of other libraries.
fn check_edit(blob: &[u8], hide_its: bool) -> Vec<u8> {
    let before = Tree::read(blob);
    let platform = scanned(blob);
    let mut edited = blob.to_vec();
    let used = edit(&mut edited, &platform, &Edits { hide_its, ..Edits::new(&platform, EXEUNT) }).unwrap();
    assert_eq!(total_size(&edited), total_size(blob));
    let untouched = used.max(platform.layout.used as usize);
    assert!(edited[untouched..] == blob[untouched..]);
    let after = Tree::read(&edited);
    let expected = expected(&before, EXEUNT, hide_its);
    assert!(after == expected, "{}\nbut should be\n{}", after.text(), expected.text());

    // The fdt crate stops at some FDT_NOPs. Where there was none, there is none for it now.
    let seen_by_fdt = |blob: &[u8]| {
        let mut names = Vec::new();
        Tree::read(blob).root.visit(&mut |node| names.push(node.name.clone()));
        fdt::Fdt::new(blob).unwrap().all_nodes().map(|node| node.name.trim_start_matches('/')).eq(names)
    };
    assert!(seen_by_fdt(&edited) || !seen_by_fdt(blob));

    let again = scanned(&edited);
    assert_eq!(*again.memory, *platform.memory);
    assert_eq!(*again.cpus, *platform.cpus);
    assert_eq!(*again.reserved, *platform.reserved);
    assert_eq!((again.console, again.psci, again.gic), (platform.console, platform.psci, platform.gic));
    assert_eq!((again.kernel, again.ramdisk), (None, None));
    assert_eq!(again.loader_initrd, platform.ramdisk.is_some());
    let bootargs = platform.kernel.and_then(|kernel| kernel.bootargs(blob)).unwrap_or_default();
    assert_eq!(again.options(&edited), bootargs);
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
        r"{ reserved-memory
  #address-cells = <2>
  #size-cells = <2>
  ranges
  { exeunt@40200000
    reg = <0 40200000 0 200000>
    no-map
  }
}
"
    );
    assert!(!edited.text().contains("its@") && !edited.text().contains("msi-map"));
    // Slack is left as it is: Linux keeps all of the total size reserved, as without Exeunt.
    assert_eq!(total_size(&check_edit(&blob, true)), total_size(&blob));
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
        let error = edit(&mut edited, &platform, &Edits::new(&platform, EXEUNT)).unwrap_err();
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
        let edits = Edits::new(&platform, EXEUNT);
        // With every byte more, from none at all.
        let mut sizes = blob.len()..;
        let needed = loop {
            let mut buffer = blob.clone();
            buffer.resize(sizes.next().unwrap(), 0);
            let before = buffer.clone();
            match edit(&mut buffer, &platform, &edits) {
                Ok(used) => {
                    assert!(Tree::read(&buffer) == expected(&tree, EXEUNT, true), "{name}");
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
        "{ /\n #address-cells = <1>\n #size-cells = <1>\n { chosen\n }\n { memory@0\n device_type = \"memory\"\n reg = <0 f0000000>\n }\n }",
    );
    let blob = tree.blob(1000);
    let platform = scanned(&blob);
    let edits = |start| Edits::new(&platform, Region::new(start, 2 << 20).unwrap());
    assert!(edit(&mut blob.clone(), &platform, &edits(0x8000_0000)).is_ok());
    let error = edit(&mut blob.clone(), &platform, &edits(0x1_0000_0000)).unwrap_err();
    assert_eq!(error, TreeError::CellsTooSmall { address: 0x1_0000_0000 });
}

#[test]
fn a_tree_that_was_not_scanned_is_not_edited() {
    let blob = Tree::parse(SMALL).blob(4096);
    let platform = scanned(&blob);
    let other = qemu("virt-gicv3-4cpu").blob(4096);
    for (mut buffer, platform) in [(other, platform), (blob, Platform::EMPTY), (vec![0; 100], Platform::EMPTY)] {
        let before = buffer.clone();
        assert!(edit(&mut buffer, &platform, &Edits::new(&platform, EXEUNT)).is_err());
        assert_eq!(buffer, before);
    }
    let mut no_chosen = Tree::parse(SMALL);
    no_chosen.root.children.retain(|node| node.name != "chosen");
    let mut blob = no_chosen.blob(4096);
    let platform = scanned(&blob);
    assert_eq!(edit(&mut blob, &platform, &Edits::new(&platform, EXEUNT)), Err(TreeError::NoChosen));
}

// ---- Trees that nobody thought of ----

/// Fewer cases under Miri, which is some hundred times slower.
fn cases(count: u32) -> ProptestConfig {
    let cases = if cfg!(miri) { count.div_ceil(200) } else { count };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

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
    let properties = (proptest::option::of("[ -~]{0,30}"), any::<[bool; 2]>(), some_node("extra"));
    let node = properties.prop_flat_map(|(options, initrd, extra)| {
        let mut node = Node::new("chosen").with("#address-cells", cells(&[1])).with("#size-cells", cells(&[1]));
        if let Some(options) = options {
            node = node.with("bootargs", format!("{options}\0"));
        }
        for (name, present) in ["linux,initrd-start", "linux,initrd-end"].into_iter().zip(initrd) {
            if present {
                node = node.with(name, cells(&[1, 2]));
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

/// A tree with all that the edit knows, in any order, and much that it does not.
fn any_tree() -> impl Strategy<Value = Tree> {
    let parts = (
        [1u32..3, 1u32..3],
        chosen(),
        gic(),
        proptest::option::of(Just(())),
        proptest::collection::vec(some_node("device"), 0..4),
        proptest::collection::vec((1u64.., any::<u32>()), 0..3),
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
            reservations: reservations
                .into_iter()
                .map(|(start, size)| (start >> 1, u64::from(size)))
                .filter(|&r| r != (0, 0))
                .collect(),
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
    #![proptest_config(cases(2000))]

    /// On any tree the edit does what the same changes to the data structure do, whatever stands where, whether there is room to
    /// spare or none.
    #[test]
    fn edits_do_what_they_should(tree in any_tree(), nops in 0usize..3, hide_its: bool) {
        let blob = tree.blob_with_nops(0, nops);
        let mut roomy = blob.clone();
        let more = roomy.len() as u32 + 1024;
        roomy.resize(more as usize, 0xa5);
        roomy[4..8].copy_from_slice(&more.to_be_bytes());
        let edited = check_edit(&roomy, hide_its);
        prop_assert_eq!(total_size(&edited), Ok(roomy.len()));

        let platform = scanned(&blob);
        let edits = Edits { hide_its, ..Edits::new(&platform, EXEUNT) };
        let mut tight = blob.clone();
        match edit(&mut tight, &platform, &edits) {
            Ok(used) => {
                prop_assert!(used <= blob.len());
                prop_assert!(Tree::read(&tight) == Tree::read(&edited));
            }
            Err(TreeError::NoRoom { needed, available }) => {
                prop_assert_eq!(available, blob.len());
                prop_assert!(tight == blob);
                tight.resize(needed, 0);
                prop_assert_eq!(edit(&mut tight, &platform, &edits), Ok(needed));
                prop_assert!(Tree::read(&tight) == Tree::read(&edited));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}

/// A change to a blob.
#[derive(Clone, Debug)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Word(prop::sample::Index, u32),
    Copy(prop::sample::Index, prop::sample::Index, usize),
    Header(usize, u32),
    Truncate(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let word = prop_oneof![
        Just(0u32),
        1u32..10,
        any::<u32>(),
        Just(u32::MAX),
        Just(u32::MAX - 3),
        Just(0x7fff_ffff),
        0u32..0x4000,
    ];
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 1u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        4 => (any::<prop::sample::Index>(), word.clone()).prop_map(|(at, value)| Damage::Word(at, value)),
        2 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1usize..40).prop_map(|(from, to, words)| Damage::Copy(from, to, words)),
        1 => (1usize..10, word).prop_map(|(field, value)| Damage::Header(field, value)),
        1 => any::<prop::sample::Index>().prop_map(Damage::Truncate),
    ]
}

fn apply(damage: &[Damage], blob: &mut Vec<u8>) {
    for damage in damage {
        if blob.len() < HEADER_SIZE + 4 {
            return;
        }
        // Mostly behind the header, which would otherwise be all that ever matters.
        let words = (blob.len() - HEADER_SIZE) / 4;
        match damage {
            Damage::Flip(at, bits) => *at.get_mut(&mut blob[HEADER_SIZE..]) ^= bits,
            Damage::Word(at, value) => {
                let at = HEADER_SIZE + 4 * at.index(words);
                blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
            }
            Damage::Copy(from, to, length) => {
                let (from, to) = (HEADER_SIZE + 4 * from.index(words), HEADER_SIZE + 4 * to.index(words));
                let length = (4 * length).min(blob.len() - from.max(to));
                blob.copy_within(from..from + length, to);
            }
            Damage::Header(field, value) => blob[4 * field..4 * field + 4].copy_from_slice(&value.to_be_bytes()),
            Damage::Truncate(at) => {
                let length = at.index(blob.len());
                blob.truncate(length);
            }
        }
    }
}

/// Whatever `blob` is: it is either refused, or understood as something sane that can be edited and understood again.
fn survives(blob: &[u8], exeunt: Region) {
    let mut platform = Platform::EMPTY;
    if scan(blob, &mut platform).is_err() {
        assert!(platform.memory.is_empty() && platform.cpus.is_empty() && platform.kernel.is_none());
        return;
    }
    assert!(platform.memory.iter().all(|region| region.start < region.end && region.end <= platform.highest));
    assert!(platform.memory.windows(2).all(|pair| pair[0].end < pair[1].start));
    let mut cpus = platform.cpus.to_vec();
    cpus.sort_unstable();
    assert!(cpus.windows(2).all(|pair| pair[0] != pair[1]));
    let _ = (platform.options(blob), platform.kernel.map(|kernel| kernel.bootargs(blob)), machine(blob));

    let mut edited = blob.to_vec();
    match edit(&mut edited, &platform, &Edits::new(&platform, exeunt)) {
        Ok(size) => {
            assert!(size <= edited.len());
            let again = scanned(&edited);
            assert_eq!(*again.memory, *platform.memory);
            assert_eq!(*again.cpus, *platform.cpus);
            assert_eq!((again.kernel, again.ramdisk), (None, None));
        }
        Err(_) => assert!(edited == blob),
    }
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn damaged_trees_do_no_harm(
        which in 0..QEMU_TREES.len() + 1,
        damage in proptest::collection::vec(damage(), 1..6),
        slack in 0usize..400,
        start: u64,
    ) {
        let text = QEMU_TREES.get(which).map_or(SMALL, |tree| tree.1);
        let mut blob = Tree::parse(text).blob(slack);
        apply(&damage, &mut blob);
        survives(&blob, Region::new(start >> 1, 2 << 20).unwrap());
    }

    #[test]
    fn damage_between_scan_and_edit_does_no_harm(damage in proptest::collection::vec(damage(), 1..6), slack in 0usize..400) {
        let mut blob = Tree::parse(SMALL).blob(slack);
        let platform = scanned(&blob);
        apply(&damage, &mut blob);
        let _ = edit(&mut blob, &platform, &Edits::new(&platform, EXEUNT));
    }

    #[test]
    fn noise_does_no_harm(mut blob in proptest::collection::vec(any::<u8>(), 0..400), header: bool) {
        if header && blob.len() > 200 {
            let length = blob.len() as u32;
            let words = [0xd00d_feed, length, 64, length - 20, 48, 17, 16, 0, 20, length / 4 * 4 - 84];
            for (field, word) in words.iter().enumerate() {
                blob[4 * field..4 * field + 4].copy_from_slice(&word.to_be_bytes());
            }
            blob[48..64].fill(0);
            *blob.last_mut().unwrap() = 0;
        }
        survives(&blob, EXEUNT);
    }
}

// ---- The trees themselves ----

/// Asks QEMU for the trees again: `cargo test -p hypervisor -- --ignored regenerate`.
#[test]
#[ignore = "needs qemu-system-aarch64, and writes to testdata/"]
fn regenerate_trees() {
    let folder = std::env::temp_dir().join(format!("exeunt-trees-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("module"), vec![0; 0x12345]).unwrap();
    for (name, _, with) in QEMU_TREES {
        let options = with.replacen("-M virt,", "-M virt,dtb-randomness=off,dumpdtb=dump,", 1);
        let status = std::process::Command::new("qemu-system-aarch64")
            .current_dir(&folder)
            .args(["-cpu", "cortex-a57", "-nographic", "-nic", "none", "-kernel", "module"])
            .args(options.split_whitespace())
            .status()
            .unwrap();
        assert!(status.success(), "{name}");
        let blob = std::fs::read(folder.join("dump")).unwrap();
        let word = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
        let strings = &blob[word(12)..][..word(32)];
        let names = str::from_utf8(strings).unwrap().trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        let tree = Tree { strings: names, ..Tree::read(&blob) };
        let text = format!("// qemu-system-aarch64 -cpu cortex-a57 {with}\n{}", tree.text());
        let again = Tree::parse(&text).blob(0);
        assert!(Tree::read(&again).root == tree.root && again[8..40] == blob[8..40], "{name}: not the same tree");
        std::fs::write(format!("{}/testdata/{name}.tree", env!("CARGO_MANIFEST_DIR")), text).unwrap();
    }
    std::fs::remove_dir_all(folder).unwrap();
}
