//! The registers of a GICv2 that Exeunt touches: the priority mask, by which interrupts are held while the host is in virtual EL2.
//!
//! Owns the accesses. Both frames are mapped at EL2 by [`map`]; all else in them is the host's, which has them in its stage 2 too.
//! A GICv3 has its CPU interface in system registers, and needs nothing of this.

use aarch64_cpu::asm::barrier;
use hypervisor::devicetree::{self, Gicv2};

use crate::memory;

/// GICC_PMR (GIC architecture IHI 0048B, 4.4.2).
const GICC_PMR: u64 = 0x4;

/// Maps the first page of the distributor and of the CPU interface, if there is a GICv2, and says where they are.
pub fn map(gic: Option<devicetree::Gic>) -> Option<Gicv2> {
    let Some(devicetree::Gic::V2(frames)) = gic else { return None };
    memory::map_device(frames.distributor);
    memory::map_device(frames.cpu_interface);
    Some(frames)
}

fn register(base: u64, offset: u64) -> *mut u32 {
    core::ptr::with_exposed_provenance_mut((base + offset) as usize)
}

/// GICC_PMR of this CPU.
pub fn priority_mask(gic: Gicv2) -> u32 {
    // SAFETY: mapped by `map`, without which nobody has a `Gicv2`; reading has no effect.
    unsafe { register(gic.cpu_interface, GICC_PMR).read_volatile() }
}

/// Sets GICC_PMR of this CPU. The read behind the write has it arrive at the GIC first; the GIC then takes back what it had
/// signalled to the CPU within finite time (IHI 0048B, 3.2.2), so that an interrupt can still be seen a little later.
pub fn set_priority_mask(gic: Gicv2, value: u32) {
    // SAFETY: as for `priority_mask`; which interrupts reach the CPU changes nothing at EL2.
    unsafe { register(gic.cpu_interface, GICC_PMR).write_volatile(value) };
    let _ = priority_mask(gic);
    barrier::dsb(barrier::SY);
}
