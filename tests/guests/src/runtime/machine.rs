//! What the device tree says about the machine. Read once by the boot CPU, before any other runs.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

use fdt::Fdt;

use crate::firmware::Conduit;

/// CPUs that a guest keeps stacks for; more in the tree are left alone.
pub const MAX_CPUS: usize = 32;

/// A range of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl Range {
    /// The first address behind it.
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
    let fdt = unsafe { Fdt::from_ptr(tree as *const u8) }.expect("x0 is not the address of a device tree");
    let machine = parse(&fdt, tree);
    // SAFETY: only the boot CPU runs, and it calls this once (`start.rs`).
    unsafe { (*MACHINE.0.get()).write(machine) };
    MACHINE.1.store(true, Ordering::Release);
}

fn parse(fdt: &Fdt<'static>, tree: u64) -> Machine {
    if let Some(uart) = fdt.chosen().stdout().and_then(|node| node.reg()?.next()) {
        crate::console::use_pl011(uart.starting_address as usize);
    }
    let method = fdt.find_node("/psci").and_then(|node| node.property("method")?.as_str());
    let conduit = match method {
        Some("hvc") => Conduit::Hvc,
        Some("smc") => Conduit::Smc,
        other => panic!("/psci names the method {other:?}"),
    };
    crate::firmware::set_conduit(conduit);

    let mut mpidrs = [0; MAX_CPUS];
    let mut cpus = 0;
    for (slot, cpu) in mpidrs.iter_mut().zip(fdt.cpus()) {
        *slot = cpu.ids().first() as u64;
        cpus += 1;
    }

    let mut first = u64::MAX;
    let mut last = 0;
    for region in fdt.find_all_nodes("/memory").filter_map(fdt::node::FdtNode::reg).flatten() {
        let base = region.starting_address as u64;
        first = first.min(base);
        last = last.max(base + region.size.unwrap_or(0) as u64);
    }

    let reserved = fdt
        .find_node("/reserved-memory")
        .and_then(|node| node.children().find(|child| child.name.starts_with("exeunt")))
        .and_then(|node| node.reg()?.next())
        .map(|region| Range { base: region.starting_address as u64, size: region.size.unwrap_or(0) as u64 });

    let bootargs = fdt.find_node("/chosen").and_then(|node| node.property("bootargs")?.as_str()).unwrap_or("");

    Machine {
        tree,
        conduit,
        mpidrs,
        cpus,
        ram: Range { base: first, size: last - first },
        reserved,
        gic: gic(fdt),
        bootargs,
    }
}

fn gic(fdt: &Fdt) -> Option<Gic> {
    let node = fdt.find_compatible(&["arm,gic-v3", "arm,cortex-a15-gic"])?;
    let is_v3 = node.compatible()?.all().any(|name| name == "arm,gic-v3");
    let mut registers = node.reg()?;
    let distributor = registers.next()?.starting_address as u64;
    let second = registers.next()?.starting_address as u64;
    Some(if is_v3 {
        Gic::V3 { distributor, redistributor: second }
    } else {
        Gic::V2 { distributor, cpu_interface: second }
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
