//! As much of a GIC as it takes to have an interrupt pending: the virtual timer's at the boot CPU, which ends a WFI,
//! and one of each kind at any CPU ([`Source`]).
//!
//! No interrupt is ever taken as an exception: PSTATE.I and F stay set.

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

/// By a plain store, as Linux does it. The compiler would make stores of it that change their base register too, and
/// these have no syndrome by which a hypervisor could carry them out.
fn write(address: u64, value: u32) {
    // SAFETY: the addresses are those of the GIC's register frames in the device tree, mapped as device memory.
    unsafe {
        core::arch::asm!("str {:w}, [{}]", in(reg) value, in(reg) address, options(nostack, preserves_flags));
    }
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

/// GICD_SPENDSGIR0: SGI 0 to 3 of the CPU that reads it, by sender (IHI 0048B, 4.3.17).
const GICD_SPENDSGIR0: u64 = 0xf20;
const SGI_0: u32 = 1 << 0;

/// Lets SGI 0 reach the calling CPU, which has the number `index`. Returns false when the GIC is of no known kind.
#[must_use]
pub fn enable_sgis(index: usize) -> bool {
    match machine().gic {
        None => return false,
        Some(Gic::V2 { distributor, cpu_interface }) => {
            write(distributor + GICD_CTLR, 1);
            write(distributor + GICD_ISENABLER, SGI_0);
            write(cpu_interface + GICC_PMR, 0xf0);
            write(cpu_interface + GICC_CTLR, 1);
        }
        Some(Gic::V3 { distributor, redistributor }) => {
            let own = redistributor + index as u64 * REDISTRIBUTOR;
            write(distributor + GICD_CTLR, GICD_CTLR_V3);
            write(own + GICR_WAKER, read(own + GICR_WAKER) & !PROCESSOR_SLEEP);
            write(own + SGI_FRAME + GICR_IGROUPR0, u32::MAX);
            write(own + SGI_FRAME + GICR_ISENABLER0, SGI_0);
            write_register!("S3_0_C12_C12_5", 0b111);
            write_register!("S3_0_C4_C6_0", 0xf0);
            write_register!("S3_0_C12_C12_7", 1);
        }
    }
    true
}

/// Whether SGI 0 is pending at the calling CPU, which has the number `index`.
#[must_use]
pub fn sgi_is_pending(index: usize) -> bool {
    match machine().gic {
        None => false,
        Some(Gic::V2 { distributor, .. }) => read(distributor + GICD_SPENDSGIR0) & 0xff != 0,
        Some(Gic::V3 { redistributor, .. }) => {
            read(redistributor + index as u64 * REDISTRIBUTOR + SGI_FRAME + ISPENDR0) & SGI_0 != 0
        }
    }
}

/// How the calling CPU's private interrupts are set up, and what the GIC signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Private {
    /// GICD_IGROUPR0 or GICR_IGROUPR0.
    pub groups: u32,
    /// GICD_ISENABLER0 or GICR_ISENABLER0. A GICv2 has its SGIs enabled, whatever is written.
    pub enabled: u32,
    /// GICD_IPRIORITYR or GICR_IPRIORITYR of each PPI.
    pub priority: u8,
}

/// The priority of the first PPI.
const IPRIORITYR16: u64 = 0x410;
/// GICD_ICENABLER0 and GICR_ICENABLER0.
const ICENABLER0: u64 = 0x180;

/// Where the registers of the boot CPU's private interrupts are.
fn private_frame() -> u64 {
    match gic() {
        Gic::V2 { distributor, .. } => distributor,
        Gic::V3 { redistributor, .. } => redistributor + SGI_FRAME,
    }
}

/// Sets the private interrupts of the boot CPU up.
pub fn set_private(wanted: Private) {
    let frame = private_frame();
    write(frame + ICENABLER0, u32::MAX);
    write(frame + GICR_IGROUPR0, wanted.groups);
    write(frame + GICR_ISENABLER0, wanted.enabled);
    for word in (0..16).step_by(4) {
        write(frame + IPRIORITYR16 + word, u32::from_le_bytes([wanted.priority; 4]));
    }
}

/// All that the watchdog of Exeunt touches, as the boot CPU reads it: groups, enables and priorities of its private
/// interrupts, then GICD_CTLR's groups, whether the CPU interface lets the guest's group through, and the mask.
#[must_use]
pub fn private() -> [u32; 9] {
    let frame = private_frame();
    let [control, interface, mask] = match gic() {
        Gic::V2 { distributor, cpu_interface } => {
            [read(distributor + GICD_CTLR), read(cpu_interface + GICC_CTLR), read(cpu_interface + GICC_PMR)]
        }
        // ICC_IGRPEN1_EL1, ICC_PMR_EL1.
        Gic::V3 { distributor, .. } => [
            read(distributor + GICD_CTLR) & 3,
            read_register!("S3_0_C12_C12_7") as u32,
            read_register!("S3_0_C4_C6_0") as u32,
        ],
    };
    let priority = |word: u64| read(frame + IPRIORITYR16 + 4 * word);
    let [groups, enabled] = [read(frame + GICR_IGROUPR0), read(frame + GICR_ISENABLER0)];
    [groups, enabled, priority(0), priority(1), priority(2), priority(3), control, interface, mask]
}

/// What [`private`] is where nothing but [`enable_sgis`] and [`set_private`] has touched it.
#[must_use]
pub fn private_after(set: Private) -> [u32; 9] {
    let (sgis, control) = match gic() {
        Gic::V2 { .. } => (0xffff, 1),
        Gic::V3 { .. } => (0, GICD_CTLR_V3 & 3),
    };
    let priority = u32::from_le_bytes([set.priority; 4]);
    [set.groups, set.enabled | sgis, priority, priority, priority, priority, control, 1, 0xf0]
}

/// What is written to send SGI 0 to the calling CPU, which has the number `index`, and where: in memory, or to
/// ICC_SGI1R_EL1.
#[must_use]
pub fn sgi_to_itself(index: usize) -> (Option<u64>, u64) {
    match gic() {
        Gic::V2 { distributor, .. } => (Some(distributor + GICD_SGIR), SGIR_SELF.into()),
        Gic::V3 { .. } => {
            let mpidr = machine().mpidrs()[index];
            let [aff0, aff1, aff2, aff3] = [0, 8, 16, 32].map(|shift| mpidr >> shift & 0xff);
            (None, aff3 << 48 | (aff0 >> 4) << 44 | aff2 << 32 | aff1 << 16 | 1 << (aff0 & 0xf))
        }
    }
}

/// Sends SGI 0 to the calling CPU, which has the number `index`.
pub fn send_sgi_to_itself(index: usize) {
    if machine().gic.is_none() {
        return;
    }
    match sgi_to_itself(index) {
        (Some(register), value) => write(register, value as u32),
        (None, value) => write_register!("S3_0_C12_C11_5", value),
    }
}

/// A register of the boot CPU's private interrupts to which 0 can be written without an effect.
#[must_use]
pub fn private_register() -> u64 {
    private_frame() + ICENABLER0
}

/// Makes the virtual timer fire `ticks` from now (CNTV_TVAL_EL0, CNTV_CTL_EL0.ENABLE).
pub fn fire_in(ticks: u64) {
    write_register!("cntv_tval_el0", ticks);
    write_register!("cntv_ctl_el0", 1);
}

/// A kind of interrupt that a CPU can send itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An SGI of Group 1. With a GICv2 without security extensions there is one group, which is Group 0.
    Group1,
    /// A PPI of Group 1.
    Ppi,
    /// An SGI of Group 1 with superpriority (FEAT_GICv3_NMI).
    Group1Super,
    /// An SGI of Group 0.
    Group0,
    /// An SGI of Group 0 with superpriority.
    Group0Super,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Group1, Self::Ppi, Self::Group1Super, Self::Group0, Self::Group0Super];

    /// Its INTID.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Group1 => 1,
            Self::Group1Super => 2,
            Self::Group0 => 3,
            Self::Group0Super => 4,
            // The virtual timer's, which is off.
            Self::Ppi => 27,
        }
    }

    const fn bit(self) -> u32 {
        1 << self.number()
    }
}

/// How an interrupt comes to the CPU, as bits of ISR_EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// I: an IRQ.
    Irq = 1 << 7,
    /// F: an FIQ.
    Fiq = 1 << 6,
}

/// GICD_TYPER, and its bit NMI (IHI 0069, 12.9.38).
const GICD_TYPER: u64 = 0x004;
const TYPER_NMI: u32 = 1 << 9;
/// GICD_ISPENDR0 and GICR_ISPENDR0; GICR_ICPENDR0.
const ISPENDR0: u64 = 0x200;
const ICPENDR0: u64 = 0x280;
/// GICD_SGIR (IHI 0048B, 4.3.15), and TargetListFilter for the CPU itself.
const GICD_SGIR: u64 = 0xf00;
const SGIR_SELF: u32 = 2 << 24;
/// GICR_INMIR0 (IHI 0069, 12.11.18).
const GICR_INMIR0: u64 = 0xf80;
/// Both frames of a redistributor.
const REDISTRIBUTOR: u64 = 0x2_0000;
/// GICC_IAR and GICC_EOIR.
const GICC_IAR: u64 = 0xc;
const GICC_EOIR: u64 = 0x10;

/// All sources' bits in the registers for the first 32 interrupts.
const SOURCES: u32 = {
    let (mut bits, mut index) = (0, 0);
    while index < Source::ALL.len() {
        bits |= Source::ALL[index].bit();
        index += 1;
    }
    bits
};

fn read(address: u64) -> u32 {
    // SAFETY: as for `write`.
    unsafe { (address as *const u32).read_volatile() }
}

fn gic() -> Gic {
    machine().gic.expect("a GIC")
}

/// Whether the machine has such an interrupt.
#[must_use]
pub fn has(source: Source) -> bool {
    match (gic(), source) {
        (_, Source::Group1 | Source::Ppi) | (Gic::V3 { .. }, Source::Group0) => true,
        (Gic::V3 { distributor, .. }, _) => read(distributor + GICD_TYPER) & TYPER_NMI != 0,
        (Gic::V2 { .. }, _) => false,
    }
}

/// How it comes to the CPU, where there is one security state.
#[must_use]
pub const fn line(source: Source) -> Line {
    match source {
        Source::Group0 | Source::Group0Super => Line::Fiq,
        _ => Line::Irq,
    }
}

/// Turns the distributor on. For the boot CPU, first.
pub fn prepare() {
    match gic() {
        Gic::V2 { distributor, .. } => write(distributor + GICD_CTLR, 1),
        Gic::V3 { distributor, .. } => write(distributor + GICD_CTLR, GICD_CTLR_V3),
    }
}

/// Lets the interrupts reach this CPU, which has the number `index`.
pub fn prepare_cpu(index: usize) {
    match gic() {
        Gic::V2 { distributor, cpu_interface } => {
            write(distributor + GICD_ISENABLER, SOURCES);
            write(cpu_interface + GICC_PMR, 0xf0);
            write(cpu_interface + GICC_CTLR, 1);
        }
        Gic::V3 { redistributor, .. } => {
            let frame = redistributor + index as u64 * REDISTRIBUTOR;
            write(frame + GICR_WAKER, read(frame + GICR_WAKER) & !PROCESSOR_SLEEP);
            let sgis = frame + SGI_FRAME;
            write(sgis + GICR_IGROUPR0, !(Source::Group0.bit() | Source::Group0Super.bit()));
            if has(Source::Group1Super) {
                write(sgis + GICR_INMIR0, Source::Group1Super.bit() | Source::Group0Super.bit());
            }
            write(sgis + GICR_ISENABLER0, SOURCES);
            // ICC_SRE_EL1.SRE, ICC_PMR_EL1, ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL1.
            write_register!("S3_0_C12_C12_5", 0b111);
            write_register!("S3_0_C4_C6_0", 0xf0);
            write_register!("S3_0_C12_C12_6", 1);
            write_register!("S3_0_C12_C12_7", 1);
        }
    }
}

/// Where to write, and what, to make an interrupt pending at the CPU with the number `index`, which writes it itself.
#[must_use]
pub fn trigger(index: usize, source: Source) -> (u64, u32) {
    match gic() {
        Gic::V2 { distributor, .. } if source == Source::Ppi => (distributor + ISPENDR0, source.bit()),
        Gic::V2 { distributor, .. } => (distributor + GICD_SGIR, SGIR_SELF | source.number()),
        Gic::V3 { redistributor, .. } => {
            (redistributor + index as u64 * REDISTRIBUTOR + SGI_FRAME + ISPENDR0, source.bit())
        }
    }
}

/// The interrupts that wait to be taken by this CPU: bits of [`Line`].
#[must_use]
pub fn signalled() -> u64 {
    read_register!("isr_el1") & (Line::Irq as u64 | Line::Fiq as u64)
}

/// Takes back the interrupt with the highest priority on the line of `source` at this CPU, which has the number
/// `index`, and gives its number.
#[must_use]
pub fn take(index: usize, source: Source) -> u32 {
    match gic() {
        Gic::V2 { cpu_interface, .. } => {
            let taken = read(cpu_interface + GICC_IAR);
            write(cpu_interface + GICC_EOIR, taken);
            taken & 0x3ff
        }
        // Not acknowledged: QEMU never ends one of Group 0 that has superpriority.
        Gic::V3 { redistributor, .. } => {
            let taken = match line(source) {
                // ICC_HPPIR1_EL1, ICC_HPPIR0_EL1. With SCTLR_EL1.NMI 0 they show interrupts with superpriority, too.
                Line::Irq => read_register!("S3_0_C12_C12_2"),
                Line::Fiq => read_register!("S3_0_C12_C8_2"),
            };
            let frame = redistributor + index as u64 * REDISTRIBUTOR;
            write(frame + SGI_FRAME + ICPENDR0, source.bit());
            taken as u32
        }
    }
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
