//! The scan and the edit on the trees of real machines, on variations of them, and on broken ones.
//!
//! The witness of what a blob says is the dtoolkit crate ([`Tree::read`]); the `fdt` crate is a second one.

#![cfg_attr(miri, allow(dead_code, unused_imports, reason = "what the modules that Miri leaves out would use"))]

// Miri would take hours for the witnesses and for trees as text. What the code under test does, it sees in `damage`.
#[cfg(not(miri))]
mod changes;
mod damage;
#[cfg(not(miri))]
mod facts;
pub(crate) mod text;

use proptest::prelude::*;

use self::text::{Blob, Node, Tree};
use super::*;

/// The trees that QEMU 7.2 and 10.0 make, by the name of the file in `testdata/`, and the command lines behind them.
pub(crate) const QEMU_TREES: [(&str, &str, &str); 6] = [
    (
        "virt-gicv2-1cpu",
        include_str!("../../../testdata/virt-gicv2-1cpu.tree"),
        "-M virt,virtualization=on,gic-version=2 -m 512M",
    ),
    (
        "virt-gicv2-8cpu",
        include_str!("../../../testdata/virt-gicv2-8cpu.tree"),
        "-M virt,virtualization=on,gic-version=2 -smp 8 -m 4G -append stats \
         -device guest-loader,addr=0x40400000,kernel=module",
    ),
    (
        "virt-gicv3-4cpu",
        include_str!("../../../testdata/virt-gicv3-4cpu.tree"),
        "-M virt,virtualization=on,gic-version=3 -smp 4 -m 1G -append log=info \
         -device guest-loader,addr=0x40400000,kernel=module,bootargs=console=ttyAMA0 \
         -device guest-loader,addr=0x48400000,initrd=module",
    ),
    (
        "virt-gicv3-2cpu-no-its",
        include_str!("../../../testdata/virt-gicv3-2cpu-no-its.tree"),
        "-M virt,virtualization=on,gic-version=3,its=off -smp 2 -m 1G \
         -device guest-loader,addr=0x40400000,kernel=module,bootargs=quiet",
    ),
    (
        "virt-gicv3-64cpu-64g",
        include_str!("../../../testdata/virt-gicv3-64cpu-64g.tree"),
        "-M virt,virtualization=on,gic-version=3,memory-backend=m0 -smp 64 \
         -object memory-backend-ram,id=m0,size=64G,reserve=off -m 64G \
         -device guest-loader,addr=0x40400000,kernel=module,bootargs=console=ttyAMA0 \
         -device guest-loader,addr=0x48400000,initrd=module",
    ),
    (
        "virt-gicv3-2cpu-numa-secure",
        include_str!("../../../testdata/virt-gicv3-2cpu-numa-secure.tree"),
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

/// The end of Exeunt's memory that the host may read.
fn black_box(exeunt: Region) -> Region {
    Region { start: exeunt.start.max(exeunt.end.saturating_sub(0x1_0000)), end: exeunt.end }
}

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

/// A small machine with everything that one needs.
pub(crate) const SMALL: &str = r#"
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
    msi-parent = <5 0>
    { serial@1000
      compatible = "arm,pl011" "arm,primecell"
      reg = <1000 1000>
    }
    { serial@2000
      compatible = "arm,pl011" "arm,primecell"
      reg = <22000 1000>
    }
  }
  { intc@8000000
    #address-cells = <2>
    #size-cells = <2>
    ranges
    compatible = "arm,gic-v3"
    { its@8080000
      compatible = "arm,gic-v3-its"
      phandle = <5>
    }
  }
}
"#;

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
