//! Follows the *host's* EL1&0 stage-1 tables, to find at which level a walk of them faulted in stage 2.
//!
//! When stage 2 refuses the read (or the update) of a stage-1 descriptor, ESR_EL2 says so (S1PTW = 1) and HPFAR_EL2
//! says which page, but the level in ESR_EL2 is that of the stage-2 walk. The abort that the host is given, a
//! synchronous external abort on a translation table walk, names the level of its own walk: this room finds it. Pure:
//! registers come in as numbers, and memory through a closure. It changes nothing, and trusts nothing that it reads.
//!
//! Arm ARM D8, "Translation process" and "Translation table descriptor formats", and the register TCR_EL1; VMSAv8-64:
//! 4, 16 and 64 KiB granules, FEAT_TTST, FEAT_LVA, FEAT_LPA and FEAT_LPA2. FEAT_D128, which needs TCR2_EL1, is not
//! followed.

/// log2 of the granularity of HPFAR_EL2.FIPA.
const HPFAR_PAGE_SHIFT: u32 = 12;

/// The last level of lookup.
const LAST_LEVEL: i8 = 3;

/// VA bit that chooses between TTBR0_EL1 and TTBR1_EL1.
const VA_SELECT_BIT: u32 = 55;

/// TCR_EL1.IPS, bits 34:32.
const TCR_IPS_SHIFT: u32 = 32;
/// TCR_EL1.IPS for 52 bits of output address.
const IPS_52_BITS: u64 = 0b110;
/// TCR_EL1.DS, bit 59: FEAT_LPA2's 52-bit format of the 4 and 16 KiB granules.
const TCR_DS: u64 = 1 << 59;

/// Descriptor bits 1:0: valid, and a table at levels above the last.
const TABLE: u64 = 0b11;

/// The registers that control the host's walk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Registers {
    /// TCR_EL1.
    pub tcr_el1: u64,
    /// TTBR0_EL1.
    pub ttbr0_el1: u64,
    /// TTBR1_EL1.
    pub ttbr1_el1: u64,
}

/// A translation granule.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Granule {
    K4,
    K16,
    K64,
}

impl Granule {
    /// From TCR_EL1.TG0.
    fn from_tg0(tg0: u64) -> Option<Self> {
        match tg0 & 0b11 {
            0b00 => Some(Self::K4),
            0b01 => Some(Self::K64),
            0b10 => Some(Self::K16),
            _ => None,
        }
    }

    /// From TCR_EL1.TG1, whose encoding differs.
    fn from_tg1(tg1: u64) -> Option<Self> {
        match tg1 & 0b11 {
            0b01 => Some(Self::K16),
            0b10 => Some(Self::K4),
            0b11 => Some(Self::K64),
            _ => None,
        }
    }

    /// log2 of the granule's size in bytes.
    const fn bits(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }
}

/// One half of the address space as TCR_EL1 describes it.
struct Half {
    granule: Granule,
    /// Input address size in bits.
    ia_size: u32,
    /// Where bits 51:48 of addresses come from.
    format: Format,
    ttbr: u64,
}

/// Where TTBR and table descriptors have bits 51:48 of an address.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Format {
    /// Nowhere: 48-bit addresses.
    Bits48,
    /// FEAT_LPA, 64 KiB granule: TTBR bits 5:2, descriptor bits 15:12.
    Lpa,
    /// FEAT_LPA2, 4 and 16 KiB granules: TTBR bits 5:2, descriptor bits 9:8 (51:50) and 49:48.
    Lpa2,
}

/// Bits `high..=low` of `value`, in place.
const fn in_place(value: u64, high: u32, low: u32) -> u64 {
    value & (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// Bits `high..=low` of `value`, moved down to bit 0.
const fn field(value: u64, high: u32, low: u32) -> u64 {
    in_place(value, high, low) >> low
}

impl Half {
    /// Selects the half that `va` belongs to; `None` if the hardware makes no walk for it.
    fn select(registers: &Registers, va: u64) -> Option<Self> {
        let tcr = registers.tcr_el1;
        let upper = field(va, VA_SELECT_BIT, VA_SELECT_BIT) == 1;
        // T0SZ, EPD0, TG0 in bits 15:0, T1SZ, EPD1, TG1 at the same places in bits 31:16.
        let (half, ttbr) = if upper { (tcr >> 16, registers.ttbr1_el1) } else { (tcr, registers.ttbr0_el1) };
        let walk_disabled = field(half, 7, 7) == 1;
        if walk_disabled {
            return None;
        }
        let tg = field(half, 15, 14);
        let granule = if upper { Granule::from_tg1(tg) } else { Granule::from_tg0(tg) }?;
        let ds = tcr & TCR_DS != 0;
        let format = match granule {
            Granule::K64 if field(tcr, TCR_IPS_SHIFT + 2, TCR_IPS_SHIFT) >= IPS_52_BITS => Format::Lpa,
            Granule::K4 | Granule::K16 if ds => Format::Lpa2,
            _ => Format::Bits48,
        };
        // Beyond these limits the hardware may fault without a walk, or take the limit; there was a walk. 64 KiB pages
        // have FEAT_LVA's limit, which no kernel uses on a CPU without it. The upper limits are FEAT_TTST's.
        let smallest = if granule == Granule::K64 || format == Format::Lpa2 { 12 } else { 16 };
        let largest = if granule == Granule::K64 { 47 } else { 48 };
        let ia_size = 64 - (field(half, 5, 0) as u32).clamp(smallest, largest);
        // Bits 63:56 are not looked at: with TBI they are a tag, and FAR_EL2 may not hold them faithfully (FEAT_MTE).
        let above = field(va, VA_SELECT_BIT, ia_size);
        let canonical = if upper { field(u64::MAX, VA_SELECT_BIT, ia_size) } else { 0 };
        (above == canonical).then_some(Self { granule, ia_size, format, ttbr })
    }

    /// log2 of the bytes that one descriptor at `level` stands for.
    fn entry_shift(&self, level: i8) -> u32 {
        let stride = self.granule.bits() - 3;
        self.granule.bits() + stride * u32::from((LAST_LEVEL - level).unsigned_abs())
    }

    /// The initial level of lookup, -1 to 3.
    fn start_level(&self) -> i8 {
        let stride = self.granule.bits() - 3;
        LAST_LEVEL - ((self.ia_size - 1 - self.granule.bits()) / stride) as i8
    }

    /// Address of the initial table. It is aligned to its size, and with 52-bit addresses at least to 64 bytes.
    fn base(&self) -> u64 {
        let size_bits = self.ia_size - self.entry_shift(self.start_level()) + 3;
        match self.format {
            Format::Bits48 => in_place(self.ttbr, 47, size_bits),
            Format::Lpa | Format::Lpa2 => field(self.ttbr, 5, 2) << 48 | in_place(self.ttbr, 47, size_bits.max(6)),
        }
    }

    /// Address of the table that a table descriptor points to.
    fn next_table(&self, descriptor: u64) -> u64 {
        let low = self.granule.bits();
        match self.format {
            Format::Bits48 => in_place(descriptor, 47, low),
            Format::Lpa => field(descriptor, 15, 12) << 48 | in_place(descriptor, 47, low),
            Format::Lpa2 => field(descriptor, 9, 8) << 50 | in_place(descriptor, 49, low),
        }
    }
}

/// The level (-1 to 3) of the descriptor that a walk for `va` reads in the page at `page`.
///
/// - `va`: FAR_EL2. Bits 63:56 are ignored.
/// - `page`: the IPA that HPFAR_EL2.FIPA stands for; bits 11:0 are ignored.
/// - `read`: the descriptor at an IPA, as the host's walk would see it (so in the byte order of SCTLR_EL1.EE), or
///   `None` where it cannot be read. It is asked for 8-byte-aligned addresses only, at most four times, and never in
///   the page at `page`.
///
/// `None` if no descriptor on the way lies in that page: the tables have been changed since, or the registers are not
/// those of the walk. Of several levels whose descriptors share the page the walk has met the first one first.
pub fn faulting_level(
    registers: &Registers,
    va: u64,
    page: u64,
    mut read: impl FnMut(u64) -> Option<u64>,
) -> Option<i8> {
    let half = Half::select(registers, va)?;
    let input = in_place(va, half.ia_size - 1, 0);
    let mut level = half.start_level();
    let mut table = half.base();
    // Input bits above the entry's own have been used up by the levels before.
    let mut index_top = half.ia_size - 1;
    loop {
        let shift = half.entry_shift(level);
        let address = table + field(input, index_top, shift) * 8;
        if address >> HPFAR_PAGE_SHIFT == page >> HPFAR_PAGE_SHIFT {
            return Some(level);
        }
        if level == LAST_LEVEL {
            return None;
        }
        let descriptor = read(address)?;
        if descriptor & TABLE != TABLE {
            return None;
        }
        table = half.next_table(descriptor);
        index_top = shift - 1;
        level += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::tests::thinned;
    use super::*;

    /// One host configuration: granule, VA size, and which of LPA and LPA2 is on.
    #[derive(Clone, Copy, Debug)]
    struct Host {
        page_bits: u32,
        va_bits: u32,
        lpa: bool,
        lpa2: bool,
        /// The initial level of lookup, from the tables of the Arm ARM.
        first_level: i8,
    }

    const fn host(page_bits: u32, va_bits: u32, first_level: i8) -> Host {
        Host { page_bits, va_bits, lpa: false, lpa2: false, first_level }
    }

    /// The configurations that Linux has (arch/arm64/Kconfig), the corners, and one of FEAT_TTST for each granule.
    const HOSTS: [Host; 21] = [
        host(12, 48, 0),
        host(12, 40, 0),
        host(12, 39, 1),
        host(12, 31, 1),
        host(12, 30, 2),
        host(12, 21, 3),
        host(14, 48, 0),
        host(14, 47, 1),
        host(14, 36, 2),
        host(14, 25, 3),
        host(16, 48, 1),
        host(16, 42, 2),
        host(16, 29, 3),
        Host { lpa: true, ..host(16, 52, 1) },
        Host { lpa: true, ..host(16, 43, 1) },
        Host { lpa: true, ..host(16, 42, 2) },
        Host { lpa2: true, ..host(12, 52, -1) },
        Host { lpa2: true, ..host(12, 49, -1) },
        Host { lpa2: true, ..host(12, 48, 0) },
        Host { lpa2: true, ..host(14, 52, 0) },
        Host { lpa2: true, ..host(14, 47, 1) },
    ];

    impl Host {
        /// Number of levels of lookup.
        fn levels(self) -> u32 {
            u32::from(self.first_level.abs_diff(4))
        }

        /// TCR_EL1 with this configuration in one half and nothing useful in the other.
        fn tcr(self, upper: bool) -> u64 {
            let tsz = u64::from(64 - self.va_bits);
            let tg = match (upper, self.page_bits) {
                (false, 12) => 0,
                (false, 16) | (true, 14) => 1,
                (_, 12 | 14) => 2,
                _ => 3,
            };
            let half = tsz | tg << 14;
            let other_off = if upper { 1 << 7 } else { 1 << 23 };
            let ips = if self.lpa || self.lpa2 { 6 } else { 5 };
            let ds = if self.lpa2 { 1 << 59 } else { 0 };
            (if upper { half << 16 } else { half }) | other_off | ips << 32 | ds
        }

        /// log2 of what table number `step` of a walk is aligned to: a page, but the first one to its size only, at
        /// least to 64 bytes with 52-bit addresses.
        fn table_alignment(self, step: usize) -> u32 {
            let first_size = self.va_bits + 3 - (self.page_bits - 3) * (self.levels() - 1) - self.page_bits;
            match step {
                0 if self.lpa || self.lpa2 => first_size.max(6),
                0 => first_size,
                _ => self.page_bits,
            }
        }

        /// An address that table number `step` of a walk can have.
        fn table_address(self, step: usize, random: u64) -> u64 {
            let top = if self.lpa || self.lpa2 { 52 } else { 48 };
            (random % (1 << top)) & (u64::MAX << self.table_alignment(step))
        }

        /// TTBRn_EL1 with an ASID, and ones in the bits that do not count (CnP, RES0).
        fn ttbr(self, table: u64, asid: u64) -> u64 {
            let ignored = (1 << self.table_alignment(0)) - 1;
            if self.lpa || self.lpa2 {
                let above_48 = (table >> 48) << 2;
                (table % (1 << 48)) | above_48 | (ignored & !0b11_1100) | asid << 48
            } else {
                table | ignored | asid << 48
            }
        }

        fn table_descriptor(self, table: u64) -> u64 {
            let rest = 0x8000_0000_0000_0003; // NSTable, to have something in the ignored bits
            if self.lpa {
                (table % (1 << 48)) | ((table >> 48) << 12) | rest
            } else if self.lpa2 {
                (table % (1 << 50)) | ((table >> 50) << 8) | rest
            } else {
                table | rest
            }
        }

        /// The descriptors that a walk for `va` reads, with the given tables: level, address, and what is there.
        fn walk(self, va: u64, tables: &[u64]) -> Vec<(i8, u64, u64)> {
            let bits_per_level = self.page_bits - 3;
            let levels = self.levels() as usize;
            (0..levels)
                .map(|step| {
                    let below = self.page_bits + bits_per_level * (levels - 1 - step) as u32;
                    let index_bits = if step == 0 { self.va_bits - below } else { bits_per_level };
                    let index = va >> below & ((1 << index_bits) - 1);
                    let descriptor = if step + 1 == levels { 0 } else { self.table_descriptor(tables[step + 1]) };
                    (self.first_level + step as i8, tables[step] + 8 * index, descriptor)
                })
                .collect()
        }
    }

    /// A walk with all its descriptors, ready to be asked about.
    struct Scene {
        registers: Registers,
        va: u64,
        walk: Vec<(i8, u64, u64)>,
    }

    impl Scene {
        fn new(host: Host, upper: bool, va: u64, tables: &[u64]) -> Self {
            let low = va % (1 << host.va_bits);
            let tag = va >> 56 << 56;
            let above = (u64::MAX >> 8) & !((1 << host.va_bits) - 1);
            let va = tag | low | if upper { above } else { 0 };
            let mut tables: Vec<u64> =
                tables.iter().enumerate().map(|(i, &random)| host.table_address(i, random)).collect();
            tables.truncate(host.levels() as usize);
            let ttbr = host.ttbr(tables[0], 0x1234);
            let registers = Registers {
                tcr_el1: host.tcr(upper),
                ttbr0_el1: if upper { 0xdead_0000 } else { ttbr },
                ttbr1_el1: if upper { ttbr } else { 0xdead_0000 },
            };
            Self { registers, va, walk: host.walk(low, &tables) }
        }

        fn ask(&self, page: u64) -> Option<i8> {
            let memory: BTreeMap<u64, u64> = self.walk.iter().map(|&(_, address, value)| (address, value)).collect();
            faulting_level(&self.registers, self.va, page, |address| {
                assert_ne!(address >> 12, page >> 12, "read in the faulting page");
                memory.get(&address).copied()
            })
        }
    }

    const TABLES: [u64; 5] = [
        0x000a_1234_5671_0000,
        0x0003_4001_0002_0000,
        0x000f_fff0_0003_0000,
        0x0005_0000_4004_0000,
        0x0000_7777_0005_0000,
    ];

    #[test]
    fn every_level_of_every_configuration_is_found() {
        for host in thinned(HOSTS, 4) {
            for upper in [false, true] {
                let scene = Scene::new(host, upper, 0x00de_adbe_efca_f123, &TABLES);
                let levels: Vec<i8> = scene.walk.iter().map(|&(level, ..)| level).collect();
                assert_eq!(levels, (host.first_level..=3).collect::<Vec<_>>());
                for &(level, address, _) in &scene.walk {
                    assert_eq!(scene.ask(address), Some(level), "{host:?}, upper {upper}");
                    assert_eq!(scene.ask(address & !0xfff), Some(level), "HPFAR_EL2 has no offset");
                }
                assert_eq!(scene.ask(0x9999_9000), None, "a page that the walk does not touch");
            }
        }
    }

    #[test]
    fn a_half_whose_walks_are_disabled_has_no_level() {
        let mut scene = Scene::new(host(12, 48, 0), true, 0x1000, &TABLES);
        let (_, first, _) = scene.walk[0];
        assert_eq!(scene.ask(first), Some(0));
        scene.registers.tcr_el1 |= 1 << 23;
        assert_eq!(scene.ask(first), None);
    }

    #[test]
    fn an_address_outside_of_the_half_has_no_level() {
        let mut scene = Scene::new(host(12, 39, 1), false, 0x1000, &TABLES);
        let (_, first, _) = scene.walk[0];
        scene.va |= 1 << 39;
        assert_eq!(scene.ask(first), None);
        scene.va ^= 1 << 39 | 0xab << 56;
        assert_eq!(scene.ask(first), Some(1), "a tag does not matter");
    }

    #[test]
    fn a_walk_that_ends_early_has_no_level_below() {
        for kind in [0b00, 0b01, 0b10] {
            let mut scene = Scene::new(host(12, 48, 0), false, 0x1234_5678_9000, &TABLES);
            let (_, third, _) = scene.walk[2];
            scene.walk[1].2 = (scene.walk[1].2 / 4 * 4) | kind;
            assert_eq!(scene.ask(third), None, "invalid or block descriptor at level 1");
        }
    }

    #[test]
    fn memory_that_cannot_be_read_ends_the_search() {
        let mut scene = Scene::new(host(16, 48, 1), true, 0x1234_5678_9000, &TABLES);
        let (_, second, _) = scene.walk[1];
        scene.walk.remove(0);
        assert_eq!(scene.ask(second), None);
    }

    #[test]
    fn reserved_granules_and_sizes_do_not_break_it() {
        let registers = Registers { tcr_el1: 0b11 << 14, ttbr0_el1: 0x4000_0000, ttbr1_el1: 0 };
        assert_eq!(faulting_level(&registers, 0, 0x4000_0000, |_| None), None, "TG0 = 0b11 is reserved");
        // T0SZ 0 is taken as 16, 63 as 48.
        let registers = Registers { tcr_el1: 0, ..registers };
        assert_eq!(faulting_level(&registers, 0, 0x4000_0000, |_| None), Some(0));
        let registers = Registers { tcr_el1: 63, ..registers };
        assert_eq!(faulting_level(&registers, 0, 0x4000_0000, |_| None), Some(3));
    }

    #[test]
    fn a_table_that_points_to_itself_gives_its_first_level() {
        let table = 0x4123_4000;
        let registers = Registers { tcr_el1: 16, ttbr0_el1: table, ttbr1_el1: 0 };
        assert_eq!(faulting_level(&registers, 0, table, |_| Some(table | 3)), Some(0));
        assert_eq!(faulting_level(&registers, 0, 0x5000_0000, |_| Some(table | 3)), None, "and ends");
    }

    proptest! {
        #![proptest_config(super::super::tests::config(256))]

        #[test]
        fn random_walks_give_the_level_of_the_first_descriptor_in_the_page(
            which in 0..HOSTS.len(), upper: bool, va: u64, tables: [u64; 5], target in 0..5usize,
        ) {
            let scene = Scene::new(HOSTS[which], upper, va, &tables);
            let (_, address, _) = scene.walk[target % scene.walk.len()];
            let first = scene.walk.iter().find(|(_, other, _)| other >> 12 == address >> 12).map(|&(level, ..)| level);
            prop_assert_eq!(scene.ask(address), first);
        }

        #[test]
        fn nothing_that_a_host_can_set_up_breaks_it(
            tcr_el1: u64, ttbr0_el1: u64, ttbr1_el1: u64, va: u64, page: u64, content: [u64; 4],
        ) {
            let registers = Registers { tcr_el1, ttbr0_el1, ttbr1_el1 };
            let mut left = content.into_iter();
            let level = faulting_level(&registers, va, page, |address| {
                assert!(address % 8 == 0 && address < 1 << 52);
                Some(left.next().expect("more than four reads") | 3)
            });
            prop_assert!(level.is_none_or(|level| (-1..=3).contains(&level)));
        }
    }
}
