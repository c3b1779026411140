//! Whether this machine and its host can be started, from what the tree and the loader say of them.
//!
//! Owns the questions and the words of a refusal, in the order in which the image's `start.rs` asks: where the tree is,
//! what the machine has, where the kernel and all else lies. At which level the host is entered is
//! [`crate::lifecycle`]'s. Each answer is made of numbers alone, so that whoever writes a tree, and whatever it says,
//! gets a line and no panic. The image reads the memory and refuses.

#[cfg(test)]
mod tests;

use core::fmt;

use crate::devicetree::{self, Conduit, Gic, Gicv2, HEADER_SIZE, Platform, Region, TreeError};
use crate::image::{self, Image, ImageError};
use crate::paging::PAGE_SIZE;
use crate::paging::registers::PaRange;
use crate::placement::{self, AddressMap, DeviceError};
use crate::psci::MAX_CPUS;

/// Why the host cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Exeunt is not at a multiple of its size.
    ExeuntMisaligned {
        /// Where it is.
        base: u64,
    },
    /// Exeunt is where EL2 has other uses for the virtual addresses.
    ExeuntOutOfReach {
        /// Where it is.
        base: u64,
    },
    /// x0 was 0.
    NoTree,
    /// The tree is not at a multiple of 8.
    TreeMisaligned {
        /// What x0 was.
        address: u64,
    },
    /// No RAM can be where the tree should be.
    TreeOutOfReach {
        /// What x0 was.
        address: u64,
    },
    /// The tree is in Exeunt's memory.
    TreeInExeunt {
        /// The tree.
        tree: Region,
        /// Exeunt's memory.
        exeunt: Region,
    },
    /// What is wrong with the tree.
    Tree(TreeError),
    /// No PSCI that is known.
    NoPsci,
    /// PSCI calls would go to whoever is at EL2.
    PsciByHvc,
    /// The 2 MiB are not RAM, or not all.
    ExeuntNotRam {
        /// The 2 MiB.
        exeunt: Region,
    },
    /// The tree keeps RAM that Exeunt is in for somebody.
    Kept {
        /// How.
        by: &'static str,
        /// What.
        region: Region,
        /// The 2 MiB.
        exeunt: Region,
    },
    /// RAM that the CPU, or Exeunt's tables, cannot address.
    RamOutOfReach {
        /// The RAM.
        ram: Region,
        /// How many bits an address has.
        bits: u32,
    },
    /// More CPUs than there is room for.
    TooManyCpus {
        /// How many.
        count: usize,
    },
    /// A device that Exeunt needs cannot be where the tree says.
    Device {
        /// Which of its registers.
        what: &'static str,
        /// Why not.
        error: DeviceError,
    },
    /// No module is a kernel.
    NoKernel,
    /// The kernel's file is not all in RAM.
    KernelNotRam {
        /// The file.
        file: Region,
    },
    /// The kernel's file is in something else.
    KernelOverlaps {
        /// The file.
        file: Region,
        /// What.
        what: &'static str,
        /// Where that is.
        region: Region,
    },
    /// What is wrong with the kernel or its place.
    Image(ImageError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ExeuntMisaligned { base } => write!(f, "loaded at {base:#x}, which is not a multiple of 2 MiB"),
            Self::ExeuntOutOfReach { base } => {
                write!(f, "loaded at {base:#x}, which is beyond what EL2 can map where it is")
            }
            Self::NoTree => f.write_str("no device tree: x0 is 0 at the entry, and must hold the address of one"),
            Self::TreeMisaligned { address } => {
                write!(f, "the device tree's address in x0, {address:#x}, is not a multiple of 8")
            }
            Self::TreeOutOfReach { address } => {
                write!(f, "the device tree's address in x0, {address:#x}, is beyond what this CPU or EL2 reaches")
            }
            Self::TreeInExeunt { tree, exeunt } => {
                write!(f, "the device tree ({tree}) lies in Exeunt's memory ({exeunt})")
            }
            Self::Tree(error) => error.fmt(f),
            Self::NoPsci => {
                f.write_str("the device tree has no psci node: without PSCI 0.2 or later no CPU could be started")
            }
            Self::PsciByHvc => f.write_str(
                "the device tree has PSCI by hvc, which at EL2 is nobody's: Exeunt needs firmware that answers smc",
            ),
            Self::ExeuntNotRam { exeunt } => {
                write!(f, "Exeunt needs {exeunt}, and by the device tree not all of that is RAM: too little memory")
            }
            Self::Kept { by, region, exeunt } => write!(
                f,
                "Exeunt is in {exeunt}, and by the device tree's {by} somebody else has {region}: load it elsewhere"
            ),
            Self::RamOutOfReach { ram, bits } => {
                write!(f, "the RAM at {ram} goes beyond the {bits} bits that an address has here")
            }
            Self::TooManyCpus { count } => write!(f, "{count} CPUs, and Exeunt's 2 MiB have room for {MAX_CPUS}"),
            Self::Device { what, error } => write!(f, "the device tree has {what} {error}"),
            Self::NoKernel => f.write_str(
                "no host kernel: the device tree's /chosen has no module that is compatible with \
                 \"multiboot,kernel\" (QEMU: -device guest-loader,addr=...,kernel=...)",
            ),
            Self::KernelNotRam { file } => {
                write!(f, "the host's kernel should be at {file}, and not all of that is RAM: too little memory")
            }
            Self::KernelOverlaps { file, what, region } => {
                write!(f, "the host's kernel at {file} and {what} at {region} overlap")
            }
            Self::Image(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Refusal {}

impl From<TreeError> for Refusal {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

impl From<ImageError> for Refusal {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

/// Which memory is Exeunt's, of `size` bytes (a power of two), if it runs at `base` on a CPU with `pa_range`.
///
/// # Errors
///
/// Where it cannot run.
pub fn exeunt(base: u64, size: u64, pa_range: PaRange) -> Result<Region, Refusal> {
    if !base.is_multiple_of(size) {
        return Err(Refusal::ExeuntMisaligned { base });
    }
    let exeunt = Region::new(base, size).filter(|&exeunt| placement::reaches(pa_range, exeunt));
    exeunt.ok_or(Refusal::ExeuntOutOfReach { base })
}

/// Where the header of the tree at `address` is, on a CPU with `pa_range`.
///
/// # Errors
///
/// Where no tree can be.
pub fn tree_header(address: u64, pa_range: PaRange) -> Result<Region, Refusal> {
    if address == 0 {
        return Err(Refusal::NoTree);
    }
    if !address.is_multiple_of(8) {
        return Err(Refusal::TreeMisaligned { address });
    }
    tree_of_size(address, HEADER_SIZE, pa_range)
}

/// Where the tree with the `header` at `address` is.
///
/// # Errors
///
/// If it is none, if no RAM can be where it should be, or if it is in Exeunt's memory.
pub fn tree(address: u64, header: &[u8; HEADER_SIZE], exeunt: Region, pa_range: PaRange) -> Result<Region, Refusal> {
    let tree = tree_of_size(address, devicetree::total_size(header)?, pa_range)?;
    if tree.overlaps(exeunt) { Err(Refusal::TreeInExeunt { tree, exeunt }) } else { Ok(tree) }
}

fn tree_of_size(address: u64, size: usize, pa_range: PaRange) -> Result<Region, Refusal> {
    let tree = Region::new(address, size as u64).filter(|&tree| placement::reaches(pa_range, tree));
    tree.ok_or(Refusal::TreeOutOfReach { address })
}

/// Whether the machine has what Exeunt and its host need.
///
/// # Errors
///
/// What it lacks.
pub fn machine(platform: &Platform, map: &AddressMap) -> Result<(), Refusal> {
    match platform.psci {
        Some(Conduit::Smc) => {}
        Some(Conduit::Hvc) => return Err(Refusal::PsciByHvc),
        None => return Err(Refusal::NoPsci),
    }
    let exeunt = map.exeunt;
    if !map.memory.iter().any(|ram| ram.contains(exeunt)) {
        return Err(Refusal::ExeuntNotRam { exeunt });
    }
    // In Exeunt's own memory `no-map` says what Exeunt says, and an entry of the reservation block is taken out.
    for (by, regions, may_be_inside) in [
        ("/reserved-memory", &*platform.no_map, true),
        ("/reserved-memory", &*platform.claimed, false),
        ("/memreserve/", &*platform.reserved, true),
    ] {
        let is_harmless = |region: &Region| may_be_inside && exeunt.contains(*region);
        let taken = regions.iter().find(|region| region.overlaps(exeunt) && !is_harmless(region));
        if let Some(&region) = taken {
            return Err(Refusal::Kept { by, region, exeunt });
        }
    }
    // In ascending order: the last one goes furthest.
    if let Some(&ram) = map.memory.last().filter(|ram| ram.end > map.pa_range.end()) {
        return Err(Refusal::RamOutOfReach { ram, bits: map.pa_range.bits() });
    }
    let count = platform.cpus.len();
    if count > MAX_CPUS { Err(Refusal::TooManyCpus { count }) } else { Ok(()) }
}

/// Where the registers of a GICv2 are that Exeunt uses: the first page of the distributor's and of the CPU interface's.
/// Nothing if there is none.
///
/// # Errors
///
/// If they cannot be there.
pub fn gicv2(gic: Option<Gic>, map: &AddressMap) -> Result<Option<Gicv2>, Refusal> {
    let Some(Gic::V2(frames)) = gic else { return Ok(None) };
    for (what, base) in
        [("a GICv2 with its distributor", frames.distributor), ("a GICv2 with its CPU interface", frames.cpu_interface)]
    {
        map.device(base, PAGE_SIZE, PAGE_SIZE).map_err(|error| Refusal::Device { what, error })?;
    }
    Ok(Some(frames))
}

/// Where the header of the host's kernel is: all of it that there is, in RAM, and apart from what Exeunt uses.
///
/// # Errors
///
/// If there is no kernel, or not in such a place.
pub fn kernel_header(platform: &Platform, map: &AddressMap) -> Result<Region, Refusal> {
    let file = platform.kernel.ok_or(Refusal::NoKernel)?.region;
    if !map.memory.iter().any(|ram| ram.contains(file)) || !map.reaches(file) {
        return Err(Refusal::KernelNotRam { file });
    }
    // The page with its header is about to be mapped read-only, and the tree's pages are mapped to be written.
    for (what, region) in [("Exeunt", map.exeunt), ("the device tree", map.tree)] {
        if file.overlaps(region) {
            return Err(Refusal::KernelOverlaps { file, what, region });
        }
    }
    Ok(Region { start: file.start, end: file.start + file.size().min(image::HEADER_SIZE as u64) })
}

/// Whether the host's kernel, whose header is `header`, can be started where it is, on a CPU with this
/// ID_AA64MMFR0_EL1. Returns the memory that it takes.
///
/// # Errors
///
/// If it cannot.
pub fn kernel(platform: &Platform, map: &AddressMap, header: &[u8], id_aa64mmfr0_el1: u64) -> Result<Region, Refusal> {
    let file = platform.kernel.ok_or(Refusal::NoKernel)?.region;
    let image = Image::parse(header, file.size())?;
    image.check_cpu(id_aa64mmfr0_el1)?;
    let surroundings =
        image::Surroundings { exeunt: map.exeunt, initrd: platform.initrd(), tree: map.tree, memory: map.memory };
    Ok(image.check_placement(file.start, &surroundings)?)
}
