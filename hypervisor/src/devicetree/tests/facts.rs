//! What the scan finds in a tree, and what it refuses.

use super::*;
use crate::uart::{Kind, Spacing, Uart};

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
    const GICV2: Gic = Gic::V2(Gicv2 { distributor: 0x800_0000, cpu_interface: 0x801_0000 });
    let expected = [
        Expected { memory: GIB / 2, cpus: 1, gic: GICV2, its: 0, options: b"", kernel: None, ramdisk: false },
        Expected {
            memory: 4 * GIB,
            cpus: 8,
            gic: GICV2,
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
        assert_eq!(platform.console, Some(Uart::pl011(0x900_0000)), "{name}");
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
        assert!(platform.reserved.is_empty() && !platform.efi && platform.loader_initrd.is_none(), "{name}");
        assert!(platform.no_map.is_empty() && platform.claimed.is_empty(), "{name}");
        assert_eq!(platform.initrd(), ramdisk, "{name}");
        assert_eq!(total_size(&blob[..HEADER_SIZE]), Ok(blob.len()), "{name}");
    }
}

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
    assert_eq!(platform.console, Some(Uart::pl011(0x900_1000)));
    assert_eq!(platform.gic, Some(Gic::V3));
    assert_eq!(platform.options(&blob), b"log=info stats");
    let kernel = platform.kernel.unwrap();
    assert_eq!(kernel.region, Region { start: 0x8000_0000, end: 0x8000_1000 });
    assert_eq!(kernel.bootargs(&blob), Some(b"root=/dev/vda".as_slice()));
    assert_eq!(platform.ramdisk, None);
    assert_eq!(*platform.reserved, [Region { start: 0x4800_0000, end: 0x4800_1000 }]);
    assert_eq!(platform.highest, 0x9_8000_0000);
    assert_eq!(platform.loader_initrd, Some(Region { start: 1, end: 2 }));

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
fn a_gicv2_is_one_whose_registers_can_be_found() {
    let gic = |reg: &str| {
        varied("    compatible = \"arm,gic-v3\"", &format!("    compatible = \"arm,gic-400\"\n    {reg}")).gic
    };
    let found = Some(Gic::V2(Gicv2 { distributor: 0x1000, cpu_interface: 0x1_0000_2000 }));
    assert_eq!(gic("reg = <0 1000 0 1000 1 2000 0 2000>"), found);
    assert_eq!(gic("reg = <0 1000 0 1000 1 2000 0 2000 0 4000 0 2000 0 6000 0 2000>"), found);
    for short in ["reg = <0 1000 0 1000>", "reg = <0 1000 0 1000 1 2000>", "reg = <>", "interrupt-controller"] {
        assert_eq!(gic(short), None, "{short}");
    }
}

/// The names under which Linux 6.12 finds a GICv2 or GICv3 (drivers/irqchip/irq-gic.c, irq-gic-v3.c), alone, before and
/// after names that mean nothing; and some of controllers that Exeunt cannot have hold an interrupt.
#[test]
fn a_gic_is_known_by_every_name_that_linux_knows() {
    let gic = |names: &str| {
        let node = format!("    compatible = {names}\n    reg = <0 1000 0 1000 1 2000 0 2000>");
        varied("    compatible = \"arm,gic-v3\"", &node).gic
    };
    let found = Some(Gic::V2(Gicv2 { distributor: 0x1000, cpu_interface: 0x1_0000_2000 }));
    for name in [
        "arm,gic-400",
        "arm,arm11mp-gic",
        "arm,arm1176jzf-devchip-gic",
        "arm,cortex-a15-gic",
        "arm,cortex-a9-gic",
        "arm,cortex-a7-gic",
        "qcom,msm-8660-qgic",
        "qcom,msm-qgic2",
        "arm,pl390",
    ] {
        assert_eq!(gic(&format!("\"{name}\"")), found, "{name}");
        assert_eq!(gic(&format!("\"vendor,gic\", \"{name}\"")), found, "{name}");
        assert_eq!(gic(&format!("\"{name}\", \"arm,gic\"")), found, "{name}");
    }
    assert_eq!(gic("\"qcom,msm8996-gic-v3\", \"arm,gic-v3\""), Some(Gic::V3));
    for name in ["arm,gic-v5", "arm,gic-4000", "arm,gic", "apple,aic", "brcm,bcm2836-l1-intc", "qcom,msm-qgic"] {
        assert_eq!(gic(&format!("\"{name}\"")), None, "{name}");
    }
}

#[test]
fn the_console_is_what_stdout_path_names() {
    let pl011 = |base| Some(Uart::pl011(base));
    let console = |path: &str| varied("serial0:115200n8", path).console;
    assert_eq!(console("serial0"), pl011(0x900_1000));
    // Behind the second window, above 4 GiB.
    assert_eq!(console("serial01"), pl011(0x1_0000_2000));
    assert_eq!(console("serial"), None);
    assert_eq!(console("serial1"), None);
    assert_eq!(console("/soc/serial@1000:115200"), pl011(0x900_1000));
    assert_eq!(console("/soc/serial@2000"), pl011(0x1_0000_2000));
    // Without the unit address, the first one of that name.
    assert_eq!(console("/soc/serial"), pl011(0x900_1000));
    assert_eq!(console("/soc/serial@100"), None);
    assert_eq!(console("/soc/serial@10000"), None);
    assert_eq!(console("/soc"), None);
    assert_eq!(console("/soc/serial@1000/port"), None);
    assert_eq!(console("/serial@1000"), None);
    assert_eq!(console(""), None);
    assert_eq!(console("/"), None);
    assert_eq!(varied("    stdout-path = \"serial0:115200n8\"\n", "").console, None);
    assert_eq!(varied("    stdout-path", "    linux,stdout-path").console, pl011(0x900_1000));
    // A bus without `ranges` has no addresses that a CPU could use.
    assert_eq!(varied("    ranges = <0 0 9000000 10000 20000 1 0 8000>\n", "").console, None);
    assert_eq!(varied("    reg = <1000 1000>\n", "    reg = <1000 1000>\n      status = \"disabled\"\n").console, None);
    assert_eq!(varied("    reg = <1000 1000>\n", "    reg = <11000 1000>\n").console, None, "in no window");
}

/// The UART that [`SMALL`] names, with other properties than those of a PL011.
fn console_with(properties: &str) -> Option<Uart> {
    let pl011 = "      compatible = \"arm,pl011\" \"arm,primecell\"\n      reg = <1000 1000>\n";
    varied(pl011, &format!("{properties}\n      reg = <1000 1000>\n")).console
}

#[test]
fn a_console_of_any_known_kind_is_found() {
    let base = 0x900_1000;
    let uart = |kind, spacing| Uart::new(kind, base, spacing);
    let none = Spacing::DEFAULT;
    assert_eq!(console_with("compatible = \"arm,sbsa-uart\""), Some(Uart::pl011(base)));
    // The board's own name first, as trees have it.
    assert_eq!(console_with("compatible = \"x,board-uart\" \"cdns,uart-r1p12\""), uart(Kind::Cadence, none));
    assert_eq!(console_with("compatible = \"fsl,imx8mm-uart\" \"fsl,imx6q-uart\""), uart(Kind::Imx, none));
    assert_eq!(console_with("compatible = \"brcm,bcm2835-aux-uart\""), uart(Kind::Uart8250Words, none));
    assert_eq!(console_with("compatible = \"ns16550a\""), uart(Kind::Uart8250, none));
    let words = Spacing { shift: 2, width: 4, offset: 0x20 };
    let properties = "compatible = \"snps,dw-apb-uart\"\n reg-shift = <2>\n reg-io-width = <4>\n reg-offset = <20>";
    assert_eq!(console_with(properties), uart(Kind::Uart8250, words));
    // In any order.
    let properties = "reg-io-width = <4>\n reg-offset = <20>\n reg-shift = <2>\n compatible = \"snps,dw-apb-uart\"";
    assert_eq!(console_with(properties), uart(Kind::Uart8250, words));
    for odd in ["reg-io-width = <3>", "reg-io-width = <101>", "reg-shift = <2 0>", "reg-shift = <102>", "reg-shift"] {
        assert_eq!(console_with(&format!("compatible = \"snps,dw-apb-uart\"\n {odd}")), None, "{odd}");
    }
    assert_eq!(console_with("compatible = \"x,uart\""), None);
    assert_eq!(console_with("compatible = \"\""), None);
}

#[test]
fn of_many_uarts_the_one_that_is_meant_is_found() {
    let first = "    { serial@1000\n";
    for count in [1, 7] {
        let others: Vec<String> = (0..count)
            .map(|number| format!("    {{ uart@{number}\n compatible = \"ns16550\"\n reg = <{number}00 8>\n }}\n"))
            .collect();
        let console = varied(first, &format!("{}{first}", others.concat())).console;
        assert_eq!(console, Some(Uart::pl011(0x900_1000)), "{count}");
    }
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
fn an_initrd_by_linuxs_boot_protocol_is_one() {
    let initrd = |start: &str, end: &str| {
        let tree = SMALL.replace("    linux,initrd-start = <0 1>\n", start);
        platform_of(&Tree::parse(&tree.replace("    linux,initrd-end = <0 2>\n", end))).initrd()
    };
    let region = |start, end| Some(Region { start, end });
    assert_eq!(
        initrd("linux,initrd-start = <1 1000>\n", "linux,initrd-end = <1 3000>\n"),
        region(1 << 32 | 4096, 1 << 32 | 0x3000)
    );
    assert_eq!(
        initrd("linux,initrd-start = <48000000>\n", "linux,initrd-end = <48001000>\n"),
        region(0x4800_0000, 0x4800_1000)
    );
    assert_eq!(initrd("linux,initrd-start = <0 2>\n", "linux,initrd-end = <0 2>\n"), None, "empty");
    // As Linux does.
    assert_eq!(initrd("linux,initrd-start = <0 2>\n", ""), None);
    assert_eq!(initrd("", "linux,initrd-end = <0 2>\n"), None);
    assert_eq!(initrd("", ""), None);
    // A module counts for more.
    let module = "      compatible = \"multiboot,module\" \"multiboot,ramdisk\"\n      reg = <50000000 1000>\n";
    let platform = varied("      compatible = \"multiboot,module\"\n", module);
    assert_eq!(platform.initrd(), region(0x5000_0000, 0x5000_1000));
}

#[test]
fn what_is_kept_of_ram_is_known() {
    let with = |reserved: &str| {
        varied(
            "  { psci\n",
            &format!(
                "  {{ reserved-memory\n #address-cells = <2>\n #size-cells = <2>\n ranges\n{reserved} }}\n  {{ psci\n"
            ),
        )
    };
    let region = |start, size| Region::new(start, size).unwrap();
    let platform = with(
        "{ a\n reg = <0 50000000 0 1000>\n no-map\n }\n { b\n reg = <0 51000000 0 1000 8 0 0 2000>\n }\n\
         { c\n no-map\n reg = <0 52000000 0 1000 0 0 0 0>\n }\n { d\n size = <0 400000>\n no-map\n }\n\
         { e\n reg = <0 53000000 0 1000>\n status = \"disabled\"\n }\n\
         { f\n reg = <0 54000000 0>\n }\n { g\n reg = <ffffffff ffffffff 0 2>\n }\n\
         { h\n { i\n reg = <0 55000000 0 1000>\n }\n }\n",
    );
    assert_eq!(*platform.no_map, [region(0x5000_0000, 0x1000), region(0x5200_0000, 0x1000)]);
    assert_eq!(*platform.claimed, [region(0x5100_0000, 0x1000), region(0x8_0000_0000, 0x2000)]);
    // Linux takes the root's cells, which these will have when the host sees them.
    let short = "  { reserved-memory\n { a\n reg = <0 50000000 0 1000>\n }\n }\n  { psci\n";
    assert_eq!(*varied("  { psci\n", short).claimed, [region(0x5000_0000, 0x1000)]);
    // Side by side they are one, in whichever order they come.
    let three = with("{ a\n reg = <0 50002000 0 1000 0 50000000 0 1000 0 50001000 0 1000>\n no-map\n }\n");
    assert_eq!(*three.no_map, [region(0x5000_0000, 0x3000)]);
    let many = |count: usize, no_map| {
        let ranges: Vec<_> = (0..count).map(|index| format!("{index:x} 50000000 0 1000")).collect();
        let ranges = ranges.join(" ");
        let node = format!("  {{ reserved-memory\n {{ a\n reg = <{ranges}>\n {no_map}\n }}\n }}\n  {{ psci\n");
        scan(&Tree::parse(&SMALL.replace("  { psci\n", &node)).blob(0), &mut Platform::EMPTY.clone()).err()
    };
    for (limit, no_map) in [(Platform::MAX_NO_MAP, "no-map"), (Platform::MAX_CLAIMED, "")] {
        assert_eq!(many(limit, no_map), None);
        assert_eq!(many(limit + 1, no_map), Some(TreeError::TooMany { what: "ranges in /reserved-memory", limit }));
    }
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
    let shifted = Blob::from([&[0], &*good].concat().as_slice());
    assert_eq!(refused(&shifted[1..]), TreeError::Misaligned);
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
    for end in ["<0 0>", "<0 0 2>", "<>", "[0 0]"] {
        let bad = broken("    linux,initrd-end = <0 2>", &format!("    linux,initrd-end = {end}"));
        assert_eq!(value(bad), "linux,initrd-end", "{end}");
    }
    assert_eq!(
        value(broken("    linux,initrd-start = <0 1>", "    linux,initrd-start = [0 1 2]")),
        "linux,initrd-start"
    );
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
        let [open, close] =
            ["{ a\n #address-cells = <2>\n #size-cells = <2>\n ranges\n", "}\n"].map(|text| text.repeat(levels));
        varied("  { psci\n", &format!("{open}{{ device\n reg = <20 0 0 1000>\n }}\n{close}  {{ psci\n"))
    };
    for levels in [0, 1, 10, 14] {
        assert_eq!(around(levels).highest, 0x20_0000_1000, "{levels}");
    }
    for levels in [15, 16, 100] {
        let platform = around(levels);
        assert_eq!((platform.highest, platform.psci), (0x9_8000_0000, Some(Conduit::Hvc)), "{levels}");
    }
}
