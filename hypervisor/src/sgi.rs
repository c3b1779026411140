//! Which register values send SGI 0 to which CPUs.
//!
//! Owns the encodings. A GICv3 is told affinities; a GICv2 the numbers of its own CPU interfaces, which only the CPU at
//! such an interface can find out.

/// ICC_SGI1R_EL1 (GIC architecture IHI 0069H, 12.2.20), its target list: one bit for each Aff0 in the range of 16 that
/// the field RS names.
const TARGETS: u64 = 0xffff;

/// GICD_SGIR.CPUTargetList, with TargetListFilter 0 (IHI 0048B, 4.3.15): one bit for each CPU interface.
const TARGET_LIST_SHIFT: u32 = 16;
/// GICD_SGIR.TargetListFilter 1: all CPUs but this one.
const ALL_OTHERS: u32 = 1 << 24;

/// How many registers GICD_ITARGETSR0 to 7 there are for the interrupts that each CPU has of its own (IHI 0048B,
/// 4.3.12).
pub const BANKED_TARGETS: usize = 8;

/// ICC_SGI1R_EL1 for the CPU with these affinity fields of MPIDR_EL1. IRM and INTID are 0.
const fn sgi1r(affinity: u64) -> u64 {
    let (aff3, aff2) = (affinity >> 32 & 0xff, affinity >> 16 & 0xff);
    let (aff1, aff0) = (affinity >> 8 & 0xff, affinity & 0xff);
    aff3 << 48 | (aff0 >> 4) << 44 | aff2 << 32 | aff1 << 16 | 1 << (aff0 & 0xf)
}

/// GICv3: calls `send` with what ICC_SGI1R_EL1 has to be written for the CPUs with these affinities. Neighbours that
/// differ in Aff0 alone share a write.
pub fn by_affinity(affinities: impl Iterator<Item = u64>, mut send: impl FnMut(u64)) {
    let mut pending: Option<u64> = None;
    for value in affinities.map(sgi1r) {
        pending = match pending {
            Some(others) if others & !TARGETS == value & !TARGETS => Some(others | value),
            Some(others) => {
                send(others);
                Some(value)
            }
            None => Some(value),
        };
    }
    if let Some(last) = pending {
        send(last);
    }
}

/// GICv2: what GICD_SGIR has to be written for CPUs at these interfaces, each given as [`own_interface`] has found it.
/// Nothing if there are none. If a CPU's is not known all others get it.
pub fn by_interface(interfaces: impl Iterator<Item = u8>) -> Option<u32> {
    let mut targets = None;
    for bit in interfaces {
        if bit == 0 {
            return Some(ALL_OTHERS);
        }
        targets = Some(targets.unwrap_or(0) | u32::from(bit) << TARGET_LIST_SHIFT);
    }
    targets
}

/// GICv2: the bit of this CPU's own interface. The interrupts that each CPU has of its own are targeted at it alone,
/// and GICD_ITARGETSR0 to 7 say so of those that there are; `read` reads one. 0 on a GIC for one CPU, where they are 0.
pub fn own_interface(read: impl FnMut(usize) -> u32) -> u8 {
    (0..BANKED_TARGETS)
        .map(read)
        .find(|&targets| targets != 0)
        .map_or(0, |targets| targets.to_le_bytes().into_iter().fold(0, |all, byte| all | byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(affinities: &[u64]) -> Vec<u64> {
        let mut values = vec![];
        by_affinity(affinities.iter().copied(), |value| values.push(value));
        values
    }

    #[test]
    fn a_gicv3_is_told_each_cpu_by_its_affinity_and_no_other() {
        assert_eq!(sent(&[]), [0; 0]);
        assert_eq!(sent(&[0]), [1]);
        assert_eq!(sent(&[1, 3, 15]), [1 << 1 | 1 << 3 | 1 << 15], "one write for a cluster");
        // Aff0 16 and more are in another range (RS).
        assert_eq!(sent(&[15, 16, 31, 255]), [1 << 15, 1 << 44 | 1 << 0 | 1 << 15, 15 << 44 | 1 << 15]);
        // Aff3.Aff2.Aff1.Aff0.
        assert_eq!(sent(&[0x12_0034_5600]), [0x12 << 48 | 0x34 << 32 | 0x56 << 16 | 1]);
        assert_eq!(sent(&[0x100, 0x101, 0x200, 0x1_0000]), [1 << 16 | 3, 2 << 16 | 1, 1 << 32 | 1]);
        // U, MT and RES1 of MPIDR_EL1 are no affinity.
        assert_eq!(sent(&[0xc100_0002]), [1 << 2]);
        // Never all but this one (IRM), nor another interrupt than 0.
        assert_eq!(sent(&[0xff_00ff_ffff])[0] & (1 << 40 | 0xf << 24), 0);
    }

    #[test]
    fn a_gicv2_is_told_its_interfaces() {
        let of = |interfaces: &[u8]| by_interface(interfaces.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[1 << 3]), Some(8 << 16));
        assert_eq!(of(&[1 << 0, 1 << 2, 1 << 7]), Some(0x85 << 16));
        for unknown in [&[0][..], &[1, 0], &[0, 1], &[2, 0, 4]] {
            assert_eq!(of(unknown), Some(1 << 24), "{unknown:?}");
        }
    }

    #[test]
    fn a_cpu_finds_its_interface_in_what_is_targeted_at_it() {
        assert_eq!(own_interface(|_| 0x0404_0404), 4);
        // Not all of the banked interrupts are there: no SGI here, and the first of four PPIs is missing.
        assert_eq!(own_interface(|index| if index == 6 { 0x0202_0200 } else { 0 }), 2);
        assert_eq!(own_interface(|_| 0), 0, "a GIC for one CPU");
        let mut asked = 0;
        own_interface(|_| {
            asked += 1;
            0
        });
        assert_eq!(asked, BANKED_TARGETS);
    }
}
