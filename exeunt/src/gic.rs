//! What Exeunt does with the GIC: on a GICv2 the priority mask, by which interrupts are held while the host is in
//! virtual EL2; on either the interrupt that wakes CPUs for a LEAVE, and that a CPU which is caught after a crash drops
//! what is pending for it.
//!
//! Owns the accesses. Both frames of a GICv2 are mapped at EL2 by [`map`]; all else in them is the host's, which has
//! them in its stage 2 too. A GICv3 has its CPU interface in system registers.

use core::arch::asm;
use core::fmt;

use aarch64_cpu::asm::barrier;
use hypervisor::devicetree::Gicv2;
use hypervisor::features::{Gic, ICC_SRE_ALL, IdRegisters, Register};
use hypervisor::sgi;
use hypervisor::syndrome::Esr;

use crate::{guarded, memory, registers};

/// GICC_PMR (GIC architecture IHI 0048B, 4.4.2).
const GICC_PMR: u64 = 0x4;

/// GICD_TYPER (IHI 0048B, 4.3.2).
const GICD_TYPER: u64 = 0x4;

/// Maps the first page of the distributor and of the CPU interface of a GICv2, whose addresses have been checked.
pub fn map(frames: Gicv2) -> Result<(), memory::Error> {
    memory::map_device(frames.distributor)?;
    memory::map_device(frames.cpu_interface)
}

/// Nothing answers where the device tree has the registers of a GICv2.
#[derive(Clone, Copy, Debug)]
pub struct Silent {
    /// The register that was read.
    address: u64,
    /// The syndrome of the exception.
    esr: Esr,
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the GICv2 of the device tree does not answer at {:#x} ({})", self.address, self.esr)
    }
}

/// Reads a register of each frame.
///
/// # Safety
/// [`map`] has mapped them.
pub unsafe fn probe(frames: Gicv2) -> Result<(), Silent> {
    for address in [frames.distributor + GICD_TYPER, frames.cpu_interface + GICC_PMR] {
        // SAFETY: promised by the caller; reading has no effect.
        unsafe { guarded::read_device(address) }.map_err(|esr| Silent { address, esr })?;
    }
    // An abort that comes late has come now.
    barrier::dsb(barrier::SY);
    Ok(())
}

/// What `gic` is to this CPU. With a GICv3 the CPU interface answers in system registers from here on, if it can.
pub fn on_this_cpu(gic: Gic, ids: &IdRegisters) -> Gic {
    gic.on(ids, || {
        let sre: u64;
        // SAFETY: a GICv3 and a CPU that has the register; the CPU interface's registers are the host's.
        unsafe {
            registers::write(Register::IccSreEl2, ICC_SRE_ALL);
            asm!("isb", "mrs {}, S3_4_C12_C9_5", out(reg) sre, options(nostack, preserves_flags));
        }
        sre & 1 != 0
    })
}

/// GICD_ITARGETSR0 (IHI 0048B, 4.3.12).
const GICD_ITARGETSR: u64 = 0x800;

/// GICD_SGIR (IHI 0048B, 4.3.15).
const GICD_SGIR: u64 = 0xf00;

/// The bit of this CPU's interface of a GICv2 ([`sgi::own_interface`]).
pub fn own_interface(gic: Gicv2) -> u8 {
    // SAFETY: mapped by `map`; reading has no effect.
    let read = |index| unsafe { guarded::read_device(gic.distributor + GICD_ITARGETSR + 4 * index as u64) };
    sgi::own_interface(|index| read(index).unwrap_or(0))
}

/// Sends SGI 0 to the CPUs with these affinities, through a GICv3. It is of Group 1.
///
/// # Safety
/// The GIC's CPU interface is in system registers.
pub unsafe fn wake_by_affinity(affinities: impl Iterator<Item = u64>) {
    sgi::by_affinity(affinities, |value| {
        // SAFETY: promised by the caller; an SGI to other CPUs changes nothing at EL2.
        unsafe { asm!("msr S3_0_C12_C11_5, {}", in(reg) value, options(nostack, preserves_flags)) };
    });
    barrier::isb(barrier::SY);
}

/// Sends SGI 0 to the CPUs at these interfaces of a GICv2, each as [`own_interface`] has found it. It is of Group 0 to
/// a GIC without security extensions.
pub fn wake_by_interface(gic: Gicv2, interfaces: impl Iterator<Item = u8>) {
    if let Some(value) = sgi::by_interface(interfaces) {
        // SAFETY: mapped by `map`; an SGI to other CPUs changes nothing at EL2. Whoever is not woken is waited for in
        // vain.
        let _ = unsafe { guarded::write_device(gic.distributor + GICD_SGIR, value) };
    }
}

/// GICC_PMR of this CPU; nothing if it does not answer.
pub fn priority_mask(gic: Gicv2) -> Option<u32> {
    // SAFETY: mapped by `map`; reading has no effect.
    unsafe { guarded::read_device(gic.cpu_interface + GICC_PMR) }.ok()
}

/// Sets GICC_PMR of this CPU. The read after the write has it arrive at the GIC first; the GIC then takes back what it
/// had signalled to the CPU within finite time (IHI 0048B, 3.2.2), so that an interrupt can still be seen a little
/// later.
pub fn set_priority_mask(gic: Gicv2, value: u32) {
    // SAFETY: mapped by `map`; which interrupts reach the CPU changes nothing at EL2. If it does not answer, there is
    // nothing to be done about it.
    let _ = unsafe { guarded::write_device(gic.cpu_interface + GICC_PMR, value) };
    let _ = priority_mask(gic);
    barrier::dsb(barrier::SY);
}

/// How many interrupts [`drop_interrupts`] drops. A CPU has 16 SGIs and 16 PPIs, and of what else is pending for it one
/// at a time is taken out of the way.
const DROPPED: usize = 64;

/// Drops what the host has left pending for this CPU in a GICv3: interrupts of Group 1 that are enabled, by
/// acknowledging them. The stop that a dying Linux sends to its CPUs is such a one, and the next kernel would take it
/// for its own. Those below 32 are deactivated; others stay active, so that one whose line is still up does not come
/// again, and are for the next kernel to deactivate, as Linux does with all.
///
/// What is active already it leaves to the next kernel, too: the register for that is in the memory of a redistributor.
///
/// # Safety
/// The GIC's CPU interface is in system registers, and this CPU goes off next: the interface is not as it was.
pub unsafe fn drop_interrupts() {
    /// ICC_CTLR_EL1.EOImode: the end of an interrupt does not deactivate it.
    const EOI_MODE: u64 = 1 << 1;
    /// From here to 1023 INTIDs are none: there is no more.
    const SPECIAL: u64 = 1020;
    let control: u64;
    // SAFETY: promised by the caller. Interrupts are masked at EL2, so that none is taken by its group going on.
    unsafe { asm!("mrs {}, S3_0_C12_C12_4", out(reg) control, options(nostack, preserves_flags)) };
    // ICC_CTLR_EL1.PRIbits, minus 1: for each bit of preemption past the fifth there are more registers of active
    // priorities (IHI 0069H, ICC_AP1R<n>_EL1).
    let priority_bits = (control >> 8 & 7) + 1;
    // SAFETY: as above; the registers of active priorities are those that there are.
    unsafe {
        asm!(
            "msr S3_0_C12_C12_4, {control}", // ICC_CTLR_EL1
            "msr S3_0_C4_C6_0, {all}",       // ICC_PMR_EL1
            "msr S3_0_C12_C9_0, xzr",        // ICC_AP1R0_EL1
            "msr S3_0_C12_C12_7, {one}",     // ICC_IGRPEN1_EL1
            control = in(reg) control | EOI_MODE,
            all = in(reg) 0xff_u64,
            one = in(reg) 1_u64,
            options(nostack, preserves_flags)
        );
        if priority_bits > 5 {
            asm!("msr S3_0_C12_C9_1, xzr", options(nostack, preserves_flags));
        }
        if priority_bits > 6 {
            asm!("msr S3_0_C12_C9_2, xzr", "msr S3_0_C12_C9_3, xzr", options(nostack, preserves_flags));
        }
    }
    for _ in 0..DROPPED {
        let interrupt: u64;
        // SAFETY: as above. ICC_IAR1_EL1 acknowledges, which takes effect when it is read.
        unsafe {
            asm!("isb", "mrs {}, S3_0_C12_C12_0", "dsb sy", out(reg) interrupt, options(nostack, preserves_flags));
        }
        let number = interrupt & 0xff_ffff;
        if (SPECIAL..1024).contains(&number) {
            break;
        }
        // SAFETY: as above: ICC_EOIR1_EL1 and ICC_DIR_EL1 of what was acknowledged.
        unsafe {
            asm!("msr S3_0_C12_C12_1, {}", "isb", in(reg) interrupt, options(nostack, preserves_flags));
            if number < 32 {
                asm!("msr S3_0_C12_C11_1, {}", "isb", in(reg) interrupt, options(nostack, preserves_flags));
            }
        }
    }
}

/// The same for a GICv2, which has registers for it: this CPU's own interrupts are neither enabled nor pending nor
/// active afterwards (IHI 0048B, 4.3.6, 4.3.8, 4.3.10, 4.3.16, 4.4.11).
pub fn drop_interrupts_v2(gic: Gicv2) {
    /// GICD_ICENABLER0, GICD_ICPENDR0, GICD_ICACTIVER0, and GICD_CPENDSGIR0 to 3: those of the CPU that writes them.
    const CLEARS: [u64; 7] = [0x180, 0x280, 0x380, 0xf10, 0xf14, 0xf18, 0xf1c];
    /// GICC_APR0: the active priorities.
    const GICC_APR0: u64 = 0xd0;
    for register in CLEARS {
        // SAFETY: mapped by `map`; this CPU's interrupts change nothing at EL2. Nothing can be done if it does not
        // answer.
        let _ = unsafe { guarded::write_device(gic.distributor + register, u32::MAX) };
    }
    // SAFETY: as above.
    let _ = unsafe { guarded::write_device(gic.cpu_interface + GICC_APR0, 0) };
    barrier::dsb(barrier::SY);
}
