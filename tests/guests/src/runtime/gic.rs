//! As much of a GIC as it takes to have the virtual timer's interrupt pending at the boot CPU, which ends a WFI.
//!
//! The interrupt is never taken: PSTATE.I stays set.

use crate::machine::{Gic, machine};

/// The virtual timer's PPI (INTID 27) in the first word of the enable and group registers.
const VIRTUAL_TIMER: u32 = 1 << 27;

/// GICD_CTLR, the same offset in both versions (IHI 0048B, 4.3.1; IHI 0069, 12.9.4).
const GICD_CTLR: u64 = 0x000;
/// GICD_ISENABLER0.
const GICD_ISENABLER: u64 = 0x100;
/// GICC_CTLR and GICC_PMR (IHI 0048B, 4.4).
const GICC_CTLR: u64 = 0x0;
const GICC_PMR: u64 = 0x4;
/// GICR_WAKER (IHI 0069, 12.11.42) and its ProcessorSleep bit.
const GICR_WAKER: u64 = 0x14;
const PROCESSOR_SLEEP: u32 = 1 << 1;
/// The SGI frame follows the first 64 KiB of a redistributor.
const SGI_FRAME: u64 = 0x1_0000;
/// GICR_IGROUPR0 and GICR_ISENABLER0 in the SGI frame.
const GICR_IGROUPR0: u64 = 0x80;
const GICR_ISENABLER0: u64 = 0x100;
/// GICD_CTLR with one security state: ARE, EnableGrp1, EnableGrp0.
const GICD_CTLR_V3: u32 = 1 << 4 | 1 << 1 | 1 << 0;

fn write(address: u64, value: u32) {
    // SAFETY: the addresses are those of the GIC's register frames in the device tree, mapped as device memory.
    unsafe { (address as *mut u32).write_volatile(value) };
}

/// Lets the virtual timer's interrupt reach the boot CPU. Returns false when the GIC is of no known kind.
#[must_use]
pub fn enable_virtual_timer() -> bool {
    match machine().gic {
        None => return false,
        Some(Gic::V2 { distributor, cpu_interface }) => {
            write(distributor + GICD_CTLR, 1);
            write(distributor + GICD_ISENABLER, VIRTUAL_TIMER);
            write(cpu_interface + GICC_PMR, 0xf0);
            write(cpu_interface + GICC_CTLR, 1);
        }
        Some(Gic::V3 { distributor, redistributor }) => {
            write(distributor + GICD_CTLR, GICD_CTLR_V3);
            // SAFETY: as in `write`.
            let waker = unsafe { ((redistributor + GICR_WAKER) as *const u32).read_volatile() };
            write(redistributor + GICR_WAKER, waker & !PROCESSOR_SLEEP);
            write(redistributor + SGI_FRAME + GICR_IGROUPR0, u32::MAX);
            write(redistributor + SGI_FRAME + GICR_ISENABLER0, VIRTUAL_TIMER);
            // ICC_SRE_EL1.SRE, ICC_PMR_EL1, ICC_IGRPEN1_EL1: the names are not known to every assembler target.
            write_register!("S3_0_C12_C12_5", 0b111);
            write_register!("S3_0_C4_C6_0", 0xf0);
            write_register!("S3_0_C12_C12_7", 1);
        }
    }
    true
}

/// Makes the virtual timer fire `ticks` from now (CNTV_TVAL_EL0, CNTV_CTL_EL0.ENABLE).
pub fn fire_in(ticks: u64) {
    write_register!("cntv_tval_el0", ticks);
    write_register!("cntv_ctl_el0", 1);
}

/// Whether the timer's condition is met (CNTV_CTL_EL0.ISTATUS).
#[must_use]
pub fn fired() -> bool {
    read_register!("cntv_ctl_el0") & (1 << 2) != 0
}

/// Stops the timer.
pub fn stop() {
    write_register!("cntv_ctl_el0", 0);
}
