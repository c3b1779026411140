//! Machines as trees describe them, each with one thing that cannot be.

mod fuzz;

use super::*;
use crate::devicetree::scan;
use crate::devicetree::tests::text::Tree;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// ID_AA64MMFR0_EL1 of a cortex-a53: 40 bits of physical address, pages of 4 and 64 KiB.
const A53: u64 = 0x1122;

/// A machine with a kernel that can be started.
const GOOD: &str = r#"
{ /
  #address-cells = <2>
  #size-cells = <2>
  { chosen
    { kernel@40400000
      reg = <0 40400000 0 1000000>
      compatible = "multiboot,kernel" "multiboot,module"
    }
    { initrd@48400000
      reg = <0 48400000 0 100000>
      compatible = "multiboot,ramdisk" "multiboot,module"
    }
  }
  { memory@40000000
    device_type = "memory"
    reg = <0 40000000 0 40000000>
  }
  { cpus
    #address-cells = <1>
    #size-cells = <0>
    { cpu@0
      reg = <0>
    }
  }
  { psci
    compatible = "arm,psci-0.2"
    method = "smc"
  }
  { intc@8000000
    compatible = "arm,gic-400"
    reg = <0 8000000 0 1000 0 8010000 0 2000>
  }
}
"#;

const EXEUNT: Region = Region { start: GIB + 2 * MIB, end: GIB + 4 * MIB };
const TREE: Region = Region { start: GIB + 128 * MIB, end: GIB + 129 * MIB };

fn pa_range() -> PaRange {
    PaRange::from_id_aa64mmfr0(A53)
}

/// The header of an arm64 Image that takes 32 MiB.
fn image_header() -> [u8; image::HEADER_SIZE] {
    let mut header = [0; image::HEADER_SIZE];
    header[16..24].copy_from_slice(&(32 * MIB).to_le_bytes());
    header[24] = 0xa;
    header[56..60].copy_from_slice(b"ARM\x64");
    header
}

/// All that the image asks of the machine that `tree` describes, in its order.
fn start(tree: &str) -> Result<Region, Refusal> {
    let mut platform = Platform::EMPTY;
    scan(&Tree::parse(tree).blob(0), &mut platform)?;
    let map = AddressMap { exeunt: EXEUNT, tree: TREE, memory: &platform.memory, pa_range: pa_range() };
    machine(&platform, &map)?;
    let header = kernel_header(&platform, &map)?;
    assert!(header.size() == image::HEADER_SIZE as u64 && platform.kernel.unwrap().region.contains(header));
    let kernel = kernel(&platform, &map, &image_header(), A53)?;
    gicv2(platform.gic, &map)?;
    Ok(kernel)
}

/// Why [`GOOD`] cannot be started with `from` replaced by `to`.
fn refused(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from}");
    start(&GOOD.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn a_good_machine_is_started() {
    assert_eq!(start(GOOD), Ok(Region { start: GIB + 4 * MIB, end: GIB + 36 * MIB }));
}

#[test]
fn a_machine_without_firmware_or_memory_is_refused() {
    assert!(refused("\"smc\"", "\"hvc\"").contains("PSCI by hvc"));
    assert!(refused("arm,psci-0.2", "arm,psci").contains("no psci node"));
    assert_eq!(
        refused("reg = <0 40000000 0 40000000>", "reg = <0 40000000 0 3fffff>"),
        "Exeunt needs 0x40200000-0x403fffff, and by the device tree not all of that is RAM: too little memory"
    );
    let cpus: Vec<_> = (0..=MAX_CPUS).map(|cpu| format!("{{ cpu@{cpu:x}\n reg = <{cpu:x}>\n }}")).collect();
    assert_eq!(
        refused("{ cpu@0\n      reg = <0>\n    }", &cpus.join("\n")),
        "129 CPUs, and Exeunt's 2 MiB have room for 128"
    );
}

#[test]
fn ram_that_the_cpu_does_not_reach_is_refused_in_words() {
    let with = |reg: &str| format!("reg = <0 40000000 0 40000000 {reg}>");
    let refused = |reg: &str| refused("reg = <0 40000000 0 40000000>", &with(reg));
    let beyond = "goes beyond the 40 bits that an address has here";
    assert_eq!(refused("100 0 0 80000000"), format!("the RAM at 0x10000000000-0x1007fffffff {beyond}"));
    assert_eq!(refused("ff c0000000 0 80000000"), format!("the RAM at 0xffc0000000-0x1003fffffff {beyond}"));
    assert_eq!(
        refused("ffffffff fffff800 0 700"),
        format!("the RAM at 0xfffffffffffff800-0xfffffffffffffeff {beyond}"),
        "the last page of all"
    );
    assert!(start(&GOOD.replace("reg = <0 40000000 0 40000000>", &with("ff c0000000 0 40000000"))).is_ok());
}

#[test]
fn memory_that_others_have_too_is_refused_unless_both_say_the_same() {
    let reserved = |reg: &str, no_map: &str| {
        let node = format!("  {{ reserved-memory\n {{ a\n reg = <{reg}>\n {no_map}\n }}\n }}\n  {{ psci\n");
        start(&GOOD.replace("  { psci\n", &node)).map_err(|refusal| refusal.to_string())
    };
    let kept = |by: &str, range: &str| {
        let text = format!(
            "Exeunt is in 0x40200000-0x403fffff, and by the device tree's {by} somebody else has {range}: load it \
             elsewhere"
        );
        Err(text)
    };
    for (reg, range) in [
        ("0 40100000 0 100001", "0x40100000-0x40200000"),
        ("0 403fffff 0 1000", "0x403fffff-0x40400ffe"),
        ("0 40000000 0 1000000", "0x40000000-0x40ffffff"),
    ] {
        assert_eq!(reserved(reg, ""), kept("/reserved-memory", range));
        assert_eq!(reserved(reg, "no-map"), kept("/reserved-memory", range));
    }
    for reg in ["0 40200000 0 200000", "0 40280000 0 1000"] {
        assert!(reserved(reg, "").is_err(), "Linux would leave Exeunt's memory in its map");
        assert!(reserved(reg, "no-map").is_ok());
    }
    for reg in ["0 40000000 0 200000", "0 40400000 0 1000"] {
        assert!(reserved(reg, "").is_ok() && reserved(reg, "no-map").is_ok(), "beside it");
    }
    let reserve = |entry: &str| start(&format!("reserve {entry}\n{GOOD}")).map_err(|refusal| refusal.to_string());
    assert_eq!(reserve("40100000 200000"), kept("/memreserve/", "0x40100000-0x402fffff"));
    assert!(reserve("40200000 200000").is_ok(), "the edit takes it out");
    assert!(reserve("40000000 200000").is_ok());
}

#[test]
fn an_initrd_by_linuxs_boot_protocol_is_looked_at() {
    let passed = |start: &str, end: &str| {
        let tree = GOOD.replace("multiboot,ramdisk", "multiboot,xsm");
        let chosen = format!("{{ chosen\n linux,initrd-start = <{start}>\n linux,initrd-end = <{end}>\n");
        self::start(&tree.replace("{ chosen\n", &chosen)).map_err(|refusal| refusal.to_string())
    };
    assert!(passed("48400000", "48500000").is_ok());
    assert!(passed("0 48400000", "0 48500000").is_ok());
    assert!(passed("41000000", "41100000").unwrap_err().contains("the host's initrd at 0x41000000-0x410fffff overlap"));
    assert!(
        passed("40280000", "40281000").unwrap_err().contains("Exeunt at 0x40200000-0x403fffff and the host's initrd")
    );
    assert!(passed("7ffff000", "80001000").unwrap_err().contains("not all of that is RAM"));
}

#[test]
fn a_gicv2_where_none_can_be_is_refused_in_words() {
    let refused = |reg: &str| refused("reg = <0 8000000 0 1000 0 8010000 0 2000>", &format!("reg = <{reg}>"));
    let with = "the device tree has a GICv2 with its";
    assert_eq!(
        refused("0 40280000 0 1000 0 8010000 0 2000"),
        format!("{with} distributor at 0x40280000, which is in Exeunt's memory (0x40200000-0x403fffff)")
    );
    assert_eq!(
        refused("0 8000000 0 1000 0 40210000 0 2000"),
        format!("{with} CPU interface at 0x40210000, which is in Exeunt's memory (0x40200000-0x403fffff)")
    );
    assert_eq!(
        refused("0 8000000 0 1000 0 48010000 0 2000"),
        format!("{with} CPU interface at 0x48010000, which is in the device tree (0x48000000-0x480fffff)")
    );
    assert!(refused("0 8000004 0 1000 0 8010000 0 2000").ends_with("at 0x8000004, which is not a multiple of 0x1000"));
    assert!(refused("100 0 0 1000 0 8010000 0 2000").contains("beyond what this CPU"));
    // One whose registers cannot be found is none that is known.
    assert!(start(&GOOD.replace("reg = <0 8000000 0 1000 0 8010000 0 2000>", "reg = <0 8000000 0 1000>")).is_ok());
}

#[test]
fn a_kernel_is_refused_where_it_is_not_or_not_in_ram_of_its_own() {
    let at = |reg: &str| refused("reg = <0 40400000 0 1000000>", &format!("reg = <{reg}>"));
    assert!(refused("multiboot,kernel", "multiboot,xsm").starts_with("no host kernel"));
    assert!(at("0 10000000 0 1000").contains("not all of that is RAM"));
    assert!(at("0 7ffff000 0 2000").contains("not all of that is RAM"));
    assert_eq!(
        at("0 40000000 0 200001"),
        "the host's kernel at 0x40000000-0x40200000 and Exeunt at 0x40200000-0x403fffff overlap"
    );
    assert!(at("0 47fff000 0 2000").contains("and the device tree at 0x48000000-0x480fffff overlap"));
    assert!(at("0 40500000 0 1000").contains("has to be at a multiple of 2 MiB"));
    assert!(refused("reg = <0 48400000 0 100000>", "reg = <0 41400000 0 100000>").contains("overlap"));
}

#[test]
fn exeunt_is_where_it_can_be_or_says_so() {
    let at = |base, pa_range| exeunt(base, 2 * MIB, PaRange::from_id_aa64mmfr0(pa_range));
    assert_eq!(at(GIB, 2), Ok(Region { start: GIB, end: GIB + 2 * MIB }));
    assert_eq!(at((1 << 47) - 2 * MIB, 5).map(|exeunt| exeunt.end), Ok(1 << 47));
    assert_eq!(at(GIB + 1, 2).unwrap_err().to_string(), "loaded at 0x40000001, which is not a multiple of 2 MiB");
    for base in [1 << 47, !(2 * MIB - 1)] {
        assert_eq!(at(base, 5), Err(Refusal::ExeuntOutOfReach { base }));
    }
}

#[test]
fn a_tree_is_where_one_can_be() {
    let header = |address| tree_header(address, pa_range());
    assert_eq!(header(GIB), Ok(Region { start: GIB, end: GIB + 40 }));
    assert_eq!(header(0), Err(Refusal::NoTree));
    assert_eq!(header(GIB + 4), Err(Refusal::TreeMisaligned { address: GIB + 4 }));
    for address in [(1 << 40) - 32, 1 << 40, !7] {
        assert_eq!(header(address), Err(Refusal::TreeOutOfReach { address }), "{address:#x}");
    }

    let mut bytes = [0; HEADER_SIZE];
    bytes[..4].copy_from_slice(&0xd00d_feed_u32.to_be_bytes());
    let mut with_size = |address, size: u32| {
        bytes[4..8].copy_from_slice(&size.to_be_bytes());
        tree(address, &bytes, EXEUNT, pa_range())
    };
    assert_eq!(with_size(GIB, 0x1000), Ok(Region { start: GIB, end: GIB + 0x1000 }));
    for size in [0, 1, 39] {
        assert_eq!(with_size(GIB, size), Err(Refusal::Tree(TreeError::Header)), "{size}");
    }
    assert_eq!(with_size(GIB, 3 << 20), Err(Refusal::Tree(TreeError::TooLarge { size: 3 << 20 })));
    let address = (1 << 40) - 0x1000;
    assert!(with_size(address, 0x1000).is_ok());
    assert_eq!(with_size(address, 0x1001), Err(Refusal::TreeOutOfReach { address }));
    assert!(with_size(EXEUNT.start - 0x1000, 0x1000).is_ok());
    let refused = with_size(EXEUNT.start - 0x1000, 0x1001).unwrap_err().to_string();
    assert_eq!(refused, "the device tree (0x401ff000-0x40200000) lies in Exeunt's memory (0x40200000-0x403fffff)");
    assert_eq!(tree(GIB, &[0; HEADER_SIZE], EXEUNT, pa_range()), Err(Refusal::Tree(TreeError::NotATree)));
}
