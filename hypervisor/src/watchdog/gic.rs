//! How the interrupt of EL2's own timer stands beside those of the host.
//!
//! It is of Group 0, and all others are of Group 1: then it comes as an FIQ, which HCR_EL2.FMO routes to EL2, whatever
//! PSTATE masks. It has the highest priority, so that it comes in the middle of another interrupt too.
//!
//! A host believes that all of the GIC is its own: Linux takes the enable and the priority of each private interrupt
//! away when a CPU comes up. So its stores to the registers of private interrupts come to EL2, which carries them out
//! with this one's bits left alone, and remembers what the host wanted ([`Host`]). It reads the registers as they are.
//!
//! On a GICv2 it knows of one group alone besides, and of the registers that turn both on: [`distributor_control`],
//! [`interface_control`].
//!
//! A host that has not come to its interrupts has turned on nothing, and is to be watched all the same: [`turned_on`],
//! [`PRIORITIES`]. What is of Group 1, and so the host's, stays off until it turns it on.
//!
//! Owns which interrupt it is, what a store becomes, and which redistributor is whose.

use crate::devicetree::{Platform, Region};

/// Why there is no watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(&'static str);

impl Refusal {
    /// The interrupt controller is unknown.
    pub const NO_GIC: Self = Self("the interrupt controller is not known");
    /// The device tree has no such interrupt of the timer's.
    pub const NO_INTERRUPT: Self = Self("the device tree has no private interrupt of EL2's physical timer");
    /// A GIC with two security states.
    pub const SECURE: Self = Self("the GIC has two security states, and Group 0 is firmware's");
    /// An EL3.
    pub const EL3: Self = Self("there is an EL3, to which Group 0 may go");
    /// The host masks interrupts by their priority.
    pub const PSEUDO_NMI: Self = Self("the host is to mask interrupts by priority (irqchip.gicv3_pseudo_nmi)");
    /// The registers cannot be used.
    pub const REGISTERS: Self = Self("not all registers of the GIC are where the device tree has them");
    /// The GIC does not take it.
    pub const NOT_TAKEN: Self = Self("the GIC does not make its interrupt one of Group 0");

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        self.0
    }
}

/// Whether this command line has Linux mask interrupts by their priority: each time it does so would be an exit.
#[must_use]
pub fn asks_for_pseudo_nmi(arguments: &[u8]) -> bool {
    arguments
        .split(u8::is_ascii_whitespace)
        .filter_map(|word| word.strip_prefix(b"irqchip.gicv3_pseudo_nmi="))
        .next_back()
        .is_some_and(|value| matches!(value, [b'1' | b'y' | b'Y' | b't' | b'T', ..] | [b'o', b'n', ..]))
}

/// The INTID of EL2's physical timer: the fourth of the interrupts of the architecture's timer, and a PPI (Linux's
/// bindings `arm,arch_timer.yaml` and `arm,gic-v3.yaml`).
#[must_use]
pub fn timer_interrupt(platform: &Platform, tree: &[u8]) -> Option<u8> {
    let interrupts = platform.timer_property(tree, b"interrupts")?;
    // Four of them or five, of three cells each or four.
    let at = match interrupts.len() {
        48 | 60 => 3 * 12,
        64 | 80 => 3 * 16,
        _ => return None,
    };
    // PPI n, which is 16 + n.
    match interrupts[at..] {
        [0, 0, 0, 1, 0, 0, 0, number @ 0..16, ..] => Some(16 + number),
        _ => None,
    }
}

/// RD_base and SGI_base, 64 KiB each, and two more with VLPIs (IHI 0069H, 12.10).
const FRAME: u64 = 0x1_0000;

/// GICR_TYPER, and its bits Last and VLPIS (IHI 0069H, 12.11.35).
const GICR_TYPER: u64 = 0x8;
const LAST: u32 = 1 << 4;
const VLPIS: u32 = 1 << 1;

/// A way through the redistributors of a region.
#[derive(Clone, Copy, Debug)]
pub struct Redistributors {
    next: u64,
    end: u64,
}

impl Redistributors {
    /// Of this region.
    #[must_use]
    pub const fn of(region: Region) -> Self {
        Self { next: region.start, end: region.end }
    }

    /// Where the next one has GICR_TYPER, of two words, if there is one.
    #[must_use]
    pub const fn next(&self) -> Option<u64> {
        if self.end.saturating_sub(self.next) >= 2 * FRAME { Some(self.next | GICR_TYPER) } else { None }
    }

    /// What that says: the affinity of its CPU, as in MPIDR_EL1, and the address of its SGI frame. The way goes on to
    /// the one after it.
    pub const fn found(&mut self, [low, high]: [u32; 2]) -> (u64, u64) {
        let (affinity, frame) = ((high as u64 >> 24) << 32 | high as u64 & 0xff_ffff, self.next | FRAME);
        let size = if low & VLPIS == 0 { 2 * FRAME } else { 4 * FRAME };
        self.next = if low & LAST == 0 { self.next.saturating_add(size) } else { u64::MAX };
        (affinity, frame)
    }
}

/// What the host has set for this interrupt and, on a GICv2, for the group of all private ones: it gets that back.
/// Zeros are what a structure of a CPU begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// GICD_IGROUPR0 or GICR_IGROUPR0.
    pub groups: u32,
    /// It is enabled.
    pub enabled: bool,
    /// Its priority.
    pub priority: u8,
}

/// The registers of private interrupts, at the same offsets in a GICv2's distributor and in the SGI frame of a GICv3
/// (IHI 0048B, 4.3; IHI 0069H, 12.11).
pub const IGROUPR: u64 = 0x80;
/// Sets enables.
pub const ISENABLER: u64 = 0x100;
/// Clears enables.
pub const ICENABLER: u64 = 0x180;
/// Clears active states.
pub const ICACTIVER: u64 = 0x380;
/// Priorities, a byte each.
pub const IPRIORITYR: u64 = 0x400;
/// Kinds of trigger, two bits each, of the private interrupts but SGIs.
const ICFGR1: u64 = 0xc04;

impl Default for Host {
    fn default() -> Self {
        Self::NOTHING
    }
}

impl Host {
    /// Nothing yet.
    pub const NOTHING: Self = Self { groups: 0, enabled: false, priority: 0 };

    /// What a store of the host's becomes, of one byte or four at `offset`. Each bit of the interrupt `intid` becomes
    /// 0: Group 0, the highest priority, level-sensitive, and elsewhere no change.
    #[must_use]
    pub fn store(&mut self, intid: u8, offset: u64, size: u8, value: u64) -> u64 {
        let bit = 1_u64 << (intid % 32);
        let first_of_four = IPRIORITYR | u64::from(intid & !3);
        let shift = if size == 4 { u32::from(intid % 4) * 8 } else { 0 };
        let mask = match offset {
            IGROUPR => {
                self.groups = value as u32;
                bit
            }
            ISENABLER => {
                self.enabled |= value & bit != 0;
                bit
            }
            ICENABLER => {
                self.enabled &= value & bit == 0;
                bit
            }
            // What sets and clears pending and active states, and superpriorities (GICv3).
            0x200 | 0x280 | 0x300 | ICACTIVER | 0xf80 => bit,
            ICFGR1 => 0b11 << (u32::from(intid % 16) * 2),
            _ if offset == if size == 4 { first_of_four } else { IPRIORITYR | u64::from(intid) } => {
                self.priority = (value >> shift) as u8;
                0xff << shift
            }
            _ => 0,
        };
        value & !mask
    }
}

/// GICD_CTLR of a GICv2 for what the host writes there: who turns on the one group that it knows turns on the one that
/// has its interrupts. Group 0 is always on: a host that hangs early has turned on nothing.
#[must_use]
pub const fn distributor_control(host: u32) -> u32 {
    host & !0b10 | (host & 1) << 1 | 1
}

/// GICC_CTLR of a GICv2, beside EnableGrp0: EnableGrp1, AckCtl, by which GICC_IAR tells of both groups, and FIQEn, by
/// which Group 0 comes as FIQ (IHI 0048B, 4.4.1).
pub const INTERFACE: u32 = 0b1110;

/// GICC_CTLR.FIQEn.
pub const FIQ_ENABLE: u32 = 1 << 3;

/// GICC_CTLR for what the host writes there. Group 0 is always on, as at the distributor.
#[must_use]
pub const fn interface_control(host: u32) -> u32 {
    let all = if host & 1 == 0 { FIQ_ENABLE } else { INTERFACE };
    host & !INTERFACE | all | 1
}

/// GICD_CTLR of a GICv3 with one security state: ARE, EnableGrp1 and EnableGrp0 (IHI 0069H, 12.9.4).
const ARE: u32 = 1 << 4;
const GROUPS: u32 = 0b11;

/// GICD_CTLR of a GICv3 that nobody has turned on yet, with Group 0 on and nothing else. Nothing: it is as its host
/// wants it.
#[must_use]
pub const fn turned_on(control: u32) -> Option<[u32; 2]> {
    // Affinity routing changes while all is off.
    if control & GROUPS == 0 { Some([control | ARE, control | ARE | 1]) } else { None }
}

/// The mask of priorities that lets all pass but the lowest, for a host that has not set it yet. After a reset it is 0,
/// which lets nothing pass, not even Group 0.
pub const PRIORITIES: u32 = 0xff;

/// GICD_SGIR for what the host writes there: an SGI of Group 1 (NSATT), which is the group of all of its own.
#[must_use]
pub const fn sgi(host: u32) -> u32 {
    host | 1 << 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EL2's physical timer on most machines.
    const TIMER: u8 = 26;
    const BIT: u64 = 1 << TIMER;

    #[test]
    fn a_store_leaves_the_timers_bits_alone_and_all_others_as_they_are() {
        for register in [IGROUPR, ISENABLER, ICENABLER, 0x200, 0x280, 0x300, ICACTIVER, 0xf80] {
            let mut host = Host::NOTHING;
            assert_eq!(host.store(TIMER, register, 4, 0xffff_ffff), 0xffff_ffff & !BIT, "{register:#x}");
            for other in [register + 4, register - 4] {
                assert_eq!(host.store(TIMER, other, 4, 0xffff_ffff), 0xffff_ffff, "{other:#x}");
            }
        }
        let mut host = Host::NOTHING;
        assert_eq!(host.store(TIMER, IPRIORITYR + 24, 4, 0xa0a0_a0a0), 0xa000_a0a0);
        assert_eq!(host.store(TIMER, IPRIORITYR + 26, 1, 0xc0), 0);
        assert_eq!(host.store(TIMER, IPRIORITYR + 27, 1, 0xc0), 0xc0);
        assert_eq!(host.store(TIMER, IPRIORITYR + 24, 1, 0xc0), 0xc0);
        assert_eq!(host.priority, 0xc0);
        assert_eq!(host.store(TIMER, ICFGR1, 4, 0xaaaa_aaaa), 0xaa8a_aaaa);
        assert_eq!(host.store(TIMER, ICFGR1 - 4, 4, 0xaaaa_aaaa), 0xaaaa_aaaa);
    }

    #[test]
    fn what_the_host_wants_is_remembered() {
        let mut host = Host::NOTHING;
        let _ = host.store(TIMER, IGROUPR, 4, 0xffff_ffff);
        let _ = host.store(TIMER, ISENABLER, 4, BIT);
        let _ = host.store(TIMER, IPRIORITYR + 24, 4, 0x11a0_3344);
        assert_eq!(host, Host { groups: u32::MAX, enabled: true, priority: 0xa0 });
        // Others are none of it, and clearing nothing changes nothing.
        let _ = host.store(TIMER, ICENABLER, 4, !BIT);
        let _ = host.store(TIMER, ISENABLER, 4, 0);
        assert!(host.enabled);
        let _ = host.store(TIMER, ICENABLER, 4, BIT);
        assert!(!host.enabled);
    }

    #[test]
    fn the_host_turns_its_group_on_and_off() {
        assert_eq!([0, 1, 3, 2].map(distributor_control), [1, 3, 3, 1]);
        // With Linux's EOImode, with the bypass disabled, and when it turns off what it has read.
        let host = [0, 1, 0x201, 0x1e1, 0x1e0, 0x20e];
        assert_eq!(host.map(interface_control), [9, 0xf, 0x20f, 0x1ef, 0x1e9, 0x209]);
        assert_eq!(sgi(0x0002_0003), 0x0002_8003);
    }

    #[test]
    fn a_gicv3_that_is_off_has_group_0_turned_on() {
        assert_eq!(turned_on(1 << 6), Some([0x50, 0x51]));
        assert_eq!([0x51, 0x52, 0x53].map(turned_on), [None; 3]);
    }

    #[test]
    fn pseudo_nmi_is_asked_for_in_linuxs_words() {
        for (arguments, asks) in [
            ("", false),
            ("quiet irqchip.gicv3_pseudo_nmi=1 root=/dev/vda", true),
            ("irqchip.gicv3_pseudo_nmi=Y", true),
            ("irqchip.gicv3_pseudo_nmi=on", true),
            ("irqchip.gicv3_pseudo_nmi=off", false),
            ("irqchip.gicv3_pseudo_nmi=0", false),
            ("irqchip.gicv3_pseudo_nmi=1 irqchip.gicv3_pseudo_nmi=0", false),
            ("xirqchip.gicv3_pseudo_nmi=1", false),
        ] {
            assert_eq!(asks_for_pseudo_nmi(arguments.as_bytes()), asks, "{arguments}");
        }
    }

    #[test]
    fn redistributors_are_found_by_their_affinity() {
        // Two, the second with VLPIs, and a third that is the last; or the region ends before that one.
        let types = [(0x10_0008, [0, 1]), (0x12_0008, [VLPIS, 0x0100_0203]), (0x16_0008, [LAST, 0x00ff_0000])];
        let expected = [(1, 0x11_0000), (1 << 32 | 0x0203, 0x13_0000), (0xff_0000, 0x17_0000)];
        for (end, count) in [(0x1a_0000, 3), (0x17_ffff, 2), (0x10_0000, 0), (0, 0)] {
            let mut way = Redistributors::of(Region { start: 0x10_0000, end });
            for (&(at, words), found) in types.iter().zip(expected).take(count) {
                assert_eq!(way.next(), Some(at));
                assert_eq!(way.found(words), found);
            }
            assert_eq!(way.next(), None);
        }
        let mut top = Redistributors::of(Region { start: u64::MAX << 18, end: u64::MAX });
        let _ = top.found([VLPIS, 0]);
        assert_eq!(top.next(), None);
    }
}
