//! What the device tree says about the machine. Read once by the boot CPU, before any other runs.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

use crate::firmware::Conduit;
use crate::registers::field;

/// CPUs that a guest keeps stacks for; more in the tree are left alone.
pub const MAX_CPUS: usize = 64;

/// A range of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl Range {
    /// The first address after it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.base + self.size
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        address >= self.base && address - self.base < self.size
    }
}

/// The interrupt controller.
#[derive(Clone, Copy, Debug)]
pub enum Gic {
    /// GICv2: distributor and CPU interface.
    V2 {
        /// GICD_*.
        distributor: u64,
        /// GICC_*.
        cpu_interface: u64,
    },
    /// GICv3: distributor and the first redistributor frame.
    V3 {
        /// GICD_*.
        distributor: u64,
        /// GICR_*.
        redistributor: u64,
    },
}

/// The machine.
pub struct Machine {
    /// Physical address of the device tree.
    pub tree: u64,
    /// The conduit of the /psci node.
    pub conduit: Conduit,
    /// `reg` of each /cpus node in the order of the tree.
    mpidrs: [u64; MAX_CPUS],
    cpus: usize,
    /// All of RAM between the first and the last address that the /memory nodes name.
    pub ram: Range,
    /// The memory that the guest must not reach: /reserved-memory/exeunt@….
    pub reserved: Option<Range>,
    /// The interrupt controller, if it is one that is known.
    pub gic: Option<Gic>,
    bootargs: &'static str,
}

struct Once(UnsafeCell<MaybeUninit<Machine>>, AtomicBool);

// SAFETY: written once by the boot CPU before it starts any other, only read afterwards.
unsafe impl Sync for Once {}

static MACHINE: Once = Once(UnsafeCell::new(MaybeUninit::uninit()), AtomicBool::new(false));

/// The machine, as read by [`read`].
///
/// # Panics
/// When the device tree has not been read yet.
pub fn machine() -> &'static Machine {
    assert!(MACHINE.1.load(Ordering::Acquire), "the device tree has not been read");
    // SAFETY: the flag says that `read` has written it, and nothing writes it again.
    unsafe { (*MACHINE.0.get()).assume_init_ref() }
}

/// Reads the device tree at `tree`.
///
/// # Panics
/// When it is no device tree or lacks what every guest needs.
pub fn read(tree: u64) {
    // SAFETY: the boot protocol says that x0 is the address of a device tree; nothing else uses that memory.
    let fdt = unsafe { Fdt::from_raw(tree as *const u8) }.expect("x0 is not the address of a device tree");
    let machine = parse(fdt, tree);
    // SAFETY: only the boot CPU runs, and it calls this once (`start.rs`).
    unsafe { (*MACHINE.0.get()).write(machine) };
    MACHINE.1.store(true, Ordering::Release);
}

/// The first range of a node's `reg`, the size 0 where it has none.
fn ranges(node: FdtNode<'static>) -> impl Iterator<Item = Range> {
    node.reg()
        .ok()
        .flatten()
        .into_iter()
        .flatten()
        .map(|reg| Range { base: reg.address().unwrap_or(0), size: reg.size().unwrap_or(0) })
}

fn text(node: FdtNode<'static>, property: &str) -> Option<&'static str> {
    node.property(property)?.value_as().ok()
}

fn parse(fdt: Fdt<'static>, tree: u64) -> Machine {
    let chosen = fdt.find_node("/chosen");
    let stdout = chosen.and_then(|node| text(node, "stdout-path")).and_then(|path| path.split(':').next());
    let bootargs = chosen.and_then(|node| text(node, "bootargs")).unwrap_or("");
    // A test that spoils what the tree says of the UART says where it really is.
    let given = bootargs.split_ascii_whitespace().find_map(|word| parse_number(word.strip_prefix("uart=")?));
    let uart = stdout.and_then(|path| fdt.find_node(path)).and_then(|node| ranges(node).next()).map(|uart| uart.base);
    if let Some(uart) = given.or(uart) {
        crate::console::use_pl011(uart as usize);
    }
    let conduit = match fdt.find_node("/psci").and_then(|node| text(node, "method")) {
        Some("hvc") => Conduit::Hvc,
        Some("smc") => Conduit::Smc,
        other => panic!("/psci names the method {other:?}"),
    };
    crate::firmware::set_conduit(conduit);

    let mut mpidrs = [0; MAX_CPUS];
    let mut cpus = 0;
    let nodes = fdt.find_node("/cpus").into_iter().flat_map(|node| node.children());
    for (slot, cpu) in mpidrs.iter_mut().zip(nodes.filter(|node| node.name().starts_with("cpu@"))) {
        *slot = ranges(cpu).next().map_or(0, |reg| reg.base);
        cpus += 1;
    }

    let mut first = u64::MAX;
    let mut last = 0;
    for range in fdt.root().children().filter(|node| node.name_without_address() == "memory").flat_map(ranges) {
        first = first.min(range.base);
        last = last.max(range.end());
    }

    let reserved = fdt
        .find_node("/reserved-memory")
        .and_then(|node| node.children().find(|child| child.name_without_address() == "exeunt"))
        .and_then(|node| ranges(node).next());

    let ram = Range { base: first, size: last - first };
    Machine { tree, conduit, mpidrs, cpus, ram, reserved, gic: gic(fdt), bootargs }
}

fn gic(fdt: Fdt<'static>) -> Option<Gic> {
    let controller =
        |name| fdt.root().children().find(|node| node.compatible().is_some_and(|mut all| all.any(|each| each == name)));
    if let Some(node) = controller("arm,gic-v3") {
        let mut frames = ranges(node);
        return Some(Gic::V3 { distributor: frames.next()?.base, redistributor: frames.next()?.base });
    }
    if let Some(node) = controller("arm,cortex-a15-gic") {
        let mut frames = ranges(node);
        return Some(Gic::V2 { distributor: frames.next()?.base, cpu_interface: frames.next()?.base });
    }
    // A test has given it another name. QEMU's node for it is `intc`, and a CPU says whether it has a GICv3
    // (ID_AA64PFR0_EL1.GIC).
    let mut frames = ranges(fdt.root().children().find(|node| node.name_without_address() == "intc")?);
    let (distributor, other) = (frames.next()?.base, frames.next()?.base);
    Some(if field(read_register!("id_aa64pfr0_el1"), 24, 4) == 0 {
        Gic::V2 { distributor, cpu_interface: other }
    } else {
        Gic::V3 { distributor, redistributor: other }
    })
}

impl Machine {
    /// `reg` of each /cpus node: the affinity fields of its MPIDR_EL1.
    #[must_use]
    pub fn mpidrs(&self) -> &[u64] {
        &self.mpidrs[..self.cpus]
    }

    /// The command line.
    #[must_use]
    pub fn bootargs(&self) -> &'static str {
        self.bootargs
    }

    /// The words of the command line.
    pub fn words(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.bootargs.split_ascii_whitespace()
    }

    /// The value of the option `name=value` on the command line.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&'static str> {
        self.words().filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The value of the option `name=number`, decimal or `0x…`.
    ///
    /// # Panics
    /// When the option is there and its value is no number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.option(name).map(|text| parse_number(text).unwrap_or_else(|| panic!("{name}={text} is not a number")))
    }
}

/// A number, decimal or `0x…`.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
