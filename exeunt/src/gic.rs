//! What Exeunt does with the GIC: on a GICv2 the priority mask, by which interrupts are held while the host is in
//! virtual EL2, and on either the interrupt that wakes CPUs for a LEAVE.
//!
//! Owns the accesses. Both frames of a GICv2 are mapped at EL2 by [`map`]; all else in them is the host's, which has
//! them in its stage 2 too. A GICv3 has its CPU interface in system registers.

use core::arch::asm;

use aarch64_cpu::asm::barrier;
use hypervisor::devicetree::Gicv2;
use hypervisor::features::Gic;

use crate::memory;

/// GICC_PMR (GIC architecture IHI 0048B, 4.4.2).
const GICC_PMR: u64 = 0x4;

/// GICD_TYPER (IHI 0048B, 4.3.2).
const GICD_TYPER: u64 = 0x4;

/// Maps the first page of the distributor and of the CPU interface of a GICv2, whose addresses have been checked.
pub fn map(frames: Gicv2) -> Result<(), memory::Error> {
    memory::map_device(frames.distributor)?;
    memory::map_device(frames.cpu_interface)
}

/// Reads a register of each frame: where nothing answers, that is an exception at EL2, here and not later.
///
/// # Safety
/// [`map`] has mapped them, and an exception ends in a refusal.
pub unsafe fn probe(frames: Gicv2) {
    // SAFETY: promised by the caller; reading has no effect.
    unsafe {
        register(frames.distributor, GICD_TYPER).read_volatile();
        register(frames.cpu_interface, GICC_PMR).read_volatile();
    }
    // An abort that comes late has come now.
    barrier::dsb(barrier::SY);
}

fn register(base: u64, offset: u64) -> *mut u32 {
    core::ptr::with_exposed_provenance_mut((base + offset) as usize)
}

/// GICD_SGIR (IHI 0048B, 4.3.15).
const GICD_SGIR: u64 = 0xf00;

/// GICD_SGIR.TargetListFilter 1: all CPUs but this one. The interrupt is SGI 0, of Group 0 to a GIC without security
/// extensions.
const ALL_OTHERS: u32 = 1 << 24;

/// ICC_SGI1R_EL1.IRM: all CPUs but this one (IHI 0069H, 12.2.20). The interrupt is SGI 0, of Group 1.
const SGI1R_ALL_OTHERS: u64 = 1 << 40;

/// Sends SGI 0 to all other CPUs.
pub fn wake_others(gic: Gic, gicv2: Option<Gicv2>) {
    match (gic, gicv2) {
        // SAFETY: the CPU interface is in system registers; an SGI changes nothing at EL2.
        (Gic::V3, _) => unsafe {
            asm!("msr S3_0_C12_C11_5, {}", "isb", in(reg) SGI1R_ALL_OTHERS, options(nostack, preserves_flags));
        },
        (_, Some(gic)) => {
            // SAFETY: mapped by `map`.
            unsafe { register(gic.distributor, GICD_SGIR).write_volatile(ALL_OTHERS) };
        }
        // No GIC that is known: nobody can be woken, and a LEAVE waits in vain for who sleeps.
        _ => {}
    }
}

/// GICC_PMR of this CPU.
pub fn priority_mask(gic: Gicv2) -> u32 {
    // SAFETY: mapped by `map`, without which nobody has a `Gicv2`; reading has no effect.
    unsafe { register(gic.cpu_interface, GICC_PMR).read_volatile() }
}

/// Sets GICC_PMR of this CPU. The read after the write has it arrive at the GIC first; the GIC then takes back what it
/// had signalled to the CPU within finite time (IHI 0048B, 3.2.2), so that an interrupt can still be seen a little
/// later.
pub fn set_priority_mask(gic: Gicv2, value: u32) {
    // SAFETY: as for `priority_mask`; which interrupts reach the CPU changes nothing at EL2.
    unsafe { register(gic.cpu_interface, GICC_PMR).write_volatile(value) };
    let _ = priority_mask(gic);
    barrier::dsb(barrier::SY);
}
