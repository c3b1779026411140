//! A translation table walker in software, written from the Arm ARM and sharing nothing with the code that builds
//! tables.
//!
//! Follows the translation process of chapter D8 in the order of its pseudocode (AArch64.S2Walk, AArch64.S1Walk):
//! registers, their consistency, the initial level, then one descriptor after the other. It is stricter than hardware:
//! where the architecture says RES0, "must be" or UNPREDICTABLE, it answers [`Fault::Malformed`], and a register that
//! it cannot follow is [`Fault::Register`]. 4 KiB granule, VMSAv8-64 without FEAT_LPA2, FEAT_TTST and FEAT_HAFDBS,
//! Non-secure state.

/// Why an address has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Translation fault at a level.
    Translation(u32),
    /// Address size fault at a level.
    AddressSize(u32),
    /// Access flag fault at a level.
    AccessFlag(u32),
    /// A descriptor that no builder should write.
    Malformed { level: u32, descriptor: u64, why: &'static str },
    /// A register value that software must not write, or that this walker does not know.
    Register(&'static str),
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found<P> {
    pub pa: u64,
    pub level: u32,
    pub permissions: P,
}

/// Type of memory after the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    NormalWriteBackInnerShareable,
    DeviceNgnre,
}

/// Result of stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct S2 {
    pub kind: Kind,
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

/// Result of EL2's stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct S1 {
    pub kind: Kind,
    pub write: bool,
    pub execute: bool,
}

/// `value<hi:lo>`.
fn bits(value: u64, hi: u32, lo: u32) -> u64 {
    value << (63 - hi) >> (63 - hi) >> lo
}

/// "PARange" and "PS" encodings.
fn size_of_encoding(encoding: u64) -> Option<u32> {
    match encoding {
        0b0000 => Some(32),
        0b0001 => Some(36),
        0b0010 => Some(40),
        0b0011 => Some(42),
        0b0100 => Some(44),
        0b0101 => Some(48),
        0b0110 => Some(52),
        0b0111 => Some(56),
        _ => None,
    }
}

/// What both walks need to know.
struct Params {
    ia_size: u32,
    oa_size: u32,
    start_level: u32,
    base: u64,
    stage2: bool,
}

/// Checks that all bits of a register outside of the given fields are zero.
fn only(value: u64, fields: &[(u32, u32)]) -> bool {
    let mut rest = value;
    for &(hi, lo) in fields {
        for bit in lo..=hi {
            rest &= !(1 << bit);
        }
    }
    rest == 0
}

/// The base address of the initial table(s), which hold `entries` descriptors.
fn base_address(ttbr: u64, entries: u64, oa_size: u32) -> Result<u64, Fault> {
    let base = bits(ttbr, 47, 1) << 1;
    let size = (entries * 8).max(64);
    if !base.is_multiple_of(size) {
        return Err(Fault::Register("base address not aligned to the size of the initial tables"));
    }
    if oa_size < 48 && base >> oa_size != 0 {
        return Err(Fault::AddressSize(0));
    }
    Ok(base)
}

/// Stage 2 for a guest's `ipa`, on a CPU whose ID_AA64MMFR0_EL1.PARange is `parange`.
pub(crate) fn stage2(
    vtcr: u64,
    vttbr: u64,
    parange: u64,
    ipa: u64,
    read: impl Fn(u64) -> u64,
) -> Result<Found<S2>, Fault> {
    let params = stage2_params(vtcr, vttbr, parange)?;
    let (pa, level, descriptor) = walk(&params, ipa, read)?;
    let bad = |why| Fault::Malformed { level, descriptor, why };
    let kind = match (bits(descriptor, 5, 2), bits(descriptor, 9, 8)) {
        (0b1111, 0b11) => Kind::NormalWriteBackInnerShareable,
        (0b0001, 0b00 | 0b10 | 0b11) => Kind::DeviceNgnre,
        _ => return Err(bad("memory attributes")),
    };
    let xn = match bits(descriptor, 54, 53) {
        0b00 => false,
        0b10 => true,
        _ => return Err(bad("XN values that need FEAT_XNX")),
    };
    let permissions = S2 { kind, read: bits(descriptor, 6, 6) == 1, write: bits(descriptor, 7, 7) == 1, execute: !xn };
    Ok(Found { pa, level, permissions })
}

fn stage2_params(vtcr: u64, vttbr: u64, parange: u64) -> Result<Params, Fault> {
    // T0SZ, SL0, IRGN0, ORGN0, SH0, TG0, PS and the RES1 bit; VS, HA, HD, HWU, NSW, NSA, DS, SL2 and all above are to
    // be zero.
    if !only(vtcr, &[(5, 0), (7, 6), (9, 8), (11, 10), (13, 12), (15, 14), (18, 16), (31, 31)]) {
        return Err(Fault::Register("VTCR_EL2 has other fields than expected"));
    }
    if bits(vtcr, 31, 31) != 1 {
        return Err(Fault::Register("VTCR_EL2 bit 31 is RES1"));
    }
    if bits(vtcr, 15, 14) != 0b00 {
        return Err(Fault::Register("granule"));
    }
    if (bits(vtcr, 9, 8), bits(vtcr, 11, 10), bits(vtcr, 13, 12)) != (1, 1, 3) {
        return Err(Fault::Register("walks are not Write-Back cacheable and Inner Shareable"));
    }
    let pa_max = size_of_encoding(parange).ok_or(Fault::Register("PARange"))?;
    // AArch64.S2TTWParams, EffectivePS: a PS above PARange counts as PARange; without DS the 4 KiB granule stops at 48
    // bits.
    let ps = size_of_encoding(bits(vtcr, 18, 16)).ok_or(Fault::Register("PS"))?;
    if ps > pa_max {
        return Err(Fault::Register("PS above PARange"));
    }
    let oa_size = ps.min(pa_max).min(48);
    // AArch64.S2MinTxSZ, AArch64.MaxTxSZ.
    let txsz = bits(vtcr, 5, 0) as u32;
    if txsz < 64 - pa_max.min(48) || txsz > 39 {
        return Err(Fault::Register("T0SZ out of range"));
    }
    let ia_size = 64 - txsz;
    // AArch64.S2StartLevel and AArch64.S2InvalidSL.
    let start_level = match bits(vtcr, 7, 6) {
        0b00 => 2,
        0b01 => 1,
        0b10 if pa_max >= 44 => 0,
        0b10 => return Err(Fault::Register("level 0 needs a PA size of 44 bits")),
        _ => return Err(Fault::Register("SL0 = 0b11 needs FEAT_TTST")),
    };
    // AArch64.S2InconsistentSL: the initial level must resolve 1 bit at least, and a table's 9 bits and 4 more by
    // concatenation at most.
    let resolved_below = 12 + 9 * (3 - start_level);
    if ia_size < resolved_below + 1 || ia_size > resolved_below + 9 + 4 {
        return Err(Fault::Register("SL0 and T0SZ do not go together"));
    }
    if bits(vttbr, 63, 48) != 0 || bits(vttbr, 0, 0) != 0 {
        return Err(Fault::Register("VTTBR_EL2: VMID and CnP are expected to be 0"));
    }
    let base = base_address(vttbr, 1 << (ia_size - resolved_below), oa_size)?;
    Ok(Params { ia_size, oa_size, start_level, base, stage2: true })
}

/// Stage 1 of EL2 (E2H = 0) for `va`.
pub(crate) fn stage1_el2(
    tcr: u64,
    ttbr0: u64,
    mair: u64,
    parange: u64,
    va: u64,
    read: impl Fn(u64) -> u64,
) -> Result<Found<S1>, Fault> {
    // T0SZ, IRGN0, ORGN0, SH0, TG0, PS and the two RES1 bits; TBI, HA, HD, HPD, HWU, TBID, TCMA, DS are to be zero.
    if !only(tcr, &[(5, 0), (9, 8), (11, 10), (13, 12), (15, 14), (18, 16), (23, 23), (31, 31)]) {
        return Err(Fault::Register("TCR_EL2 has other fields than expected"));
    }
    if (bits(tcr, 23, 23), bits(tcr, 31, 31)) != (1, 1) {
        return Err(Fault::Register("TCR_EL2 bits 23 and 31 are RES1"));
    }
    if bits(tcr, 15, 14) != 0b00 {
        return Err(Fault::Register("granule"));
    }
    if (bits(tcr, 9, 8), bits(tcr, 11, 10), bits(tcr, 13, 12)) != (1, 1, 3) {
        return Err(Fault::Register("walks are not Write-Back cacheable and Inner Shareable"));
    }
    let pa_max = size_of_encoding(parange).ok_or(Fault::Register("PARange"))?;
    let ps = size_of_encoding(bits(tcr, 18, 16)).ok_or(Fault::Register("PS"))?;
    if ps > pa_max {
        return Err(Fault::Register("PS above PARange"));
    }
    let oa_size = ps.min(48);
    let txsz = bits(tcr, 5, 0) as u32;
    if !(16..=39).contains(&txsz) {
        return Err(Fault::Register("T0SZ out of range"));
    }
    let ia_size = 64 - txsz;
    // AArch64.S1StartLevel.
    let start_level = 3 - (ia_size - 1 - 12) / 9;
    if bits(ttbr0, 63, 48) != 0 || bits(ttbr0, 0, 0) != 0 {
        return Err(Fault::Register("TTBR0_EL2: ASID and CnP are expected to be 0"));
    }
    let entries = 1 << (ia_size - 12 - 9 * (3 - start_level));
    let base = base_address(ttbr0, entries, oa_size)?;
    let params = Params { ia_size, oa_size, start_level, base, stage2: false };

    let (pa, level, descriptor) = walk(&params, va, read)?;
    let bad = |why| Fault::Malformed { level, descriptor, why };
    let index = bits(descriptor, 4, 2) as u32;
    let kind = match (bits(mair, 8 * index + 7, 8 * index), bits(descriptor, 9, 8)) {
        (0xff, 0b11) => Kind::NormalWriteBackInnerShareable,
        (0x04, 0b00 | 0b10 | 0b11) => Kind::DeviceNgnre,
        _ => return Err(bad("memory attributes")),
    };
    if bits(descriptor, 5, 5) != 0 {
        return Err(bad("NS has no meaning in Non-secure state"));
    }
    if bits(descriptor, 6, 6) != 1 {
        return Err(bad("AP[1] is RES1 with one exception level"));
    }
    if bits(descriptor, 11, 11) != 0 {
        return Err(bad("nG is RES0 with one exception level"));
    }
    if bits(descriptor, 53, 53) != 0 {
        return Err(bad("PXN is RES0 with one exception level"));
    }
    let permissions = S1 { kind, write: bits(descriptor, 7, 7) == 0, execute: bits(descriptor, 54, 54) == 0 };
    Ok(Found { pa, level, permissions })
}

/// The walk itself: output address, level and the block or page descriptor.
fn walk(params: &Params, input: u64, read: impl Fn(u64) -> u64) -> Result<(u64, u32, u64), Fault> {
    let &Params { ia_size, oa_size, start_level, base, stage2 } = params;
    if bits(input, 63, ia_size) != 0 {
        return Err(Fault::Translation(0));
    }
    let mut table = base;
    for level in start_level..=3 {
        let lsb = 12 + 9 * (3 - level);
        let msb = if level == start_level { ia_size - 1 } else { lsb + 8 };
        let descriptor = read(table + 8 * bits(input, msb, lsb));
        let bad = |why| Err(Fault::Malformed { level, descriptor, why });
        let low_output = match (bits(descriptor, 1, 0), level) {
            (0b00, _) if descriptor == 0 => return Err(Fault::Translation(level)),
            (0b00, _) => return bad("an invalid descriptor that is not zero"),
            (0b10, _) => return bad("invalid with bit 1 set"),
            (0b01, 3) => return bad("reserved at level 3"),
            (0b01, 0) => return bad("block at level 0"),
            (0b01, 1) => 30,
            (0b01, 2) => 21,
            (_, 3) => 12,
            _ => {
                // Table. Hierarchical attributes: RES0 in stage 2; in stage 1 this walker wants none.
                if bits(descriptor, 63, 59) != 0 {
                    return bad("attributes in a table descriptor");
                }
                if bits(descriptor, 58, 48) != 0 || bits(descriptor, 11, 2) != 0 {
                    return bad("RES0 or ignored bits in a table descriptor");
                }
                table = bits(descriptor, 47, 12) << 12;
                if oa_size < 48 && table >> oa_size != 0 {
                    return Err(Fault::AddressSize(level));
                }
                continue;
            }
        };
        // Block or page.
        if low_output > 12 && bits(descriptor, low_output - 1, 12) != 0 {
            return bad("output address not aligned to the block (or nT set)");
        }
        if bits(descriptor, 52, 48) != 0 {
            return bad("RES0, GP, DBM or Contiguous bits in a block or page descriptor");
        }
        if bits(descriptor, 63, 55) != 0 {
            return bad("RES0, PBHA or software bits in a block or page descriptor");
        }
        if stage2 && bits(descriptor, 11, 11) != 0 {
            return bad("FnXS in stage 2");
        }
        let output = bits(descriptor, 47, low_output) << low_output;
        if oa_size < 48 && output >> oa_size != 0 {
            return Err(Fault::AddressSize(level));
        }
        if bits(descriptor, 10, 10) == 0 {
            return Err(Fault::AccessFlag(level));
        }
        return Ok((output | bits(input, low_output - 1, 0), level, descriptor));
    }
    unreachable!("a level 3 descriptor is a page or invalid")
}

mod tests {
    //! The walker itself: right descriptors, and that each wrong one is seen.

    use std::collections::BTreeMap;

    use super::*;

    const VTCR_40: u64 = 0x8002_3558;
    const TCR_48: u64 = 0x8082_3510;
    const BASE: u64 = 0x4000_0000;
    const LEVEL_2: u64 = 0x5000_0000;
    const LEVEL_3: u64 = 0x6000_0000;

    /// Walks IPA 0x8060_3456, whose descriptors are number 2, 3 and 3, through the given ones.
    fn s2(descriptors: [u64; 3]) -> Result<Found<S2>, Fault> {
        let memory: BTreeMap<u64, u64> = [BASE + 16, LEVEL_2 + 24, LEVEL_3 + 24].into_iter().zip(descriptors).collect();
        stage2(VTCR_40, BASE, 2, 0x8060_3456, |address| memory[&address])
    }

    fn malformed(descriptors: [u64; 3]) -> bool {
        matches!(s2(descriptors), Err(Fault::Malformed { .. }))
    }

    #[test]
    fn blocks_and_pages_translate() {
        let ram = S2 { kind: Kind::NormalWriteBackInnerShareable, read: true, write: true, execute: true };
        let device = S2 { kind: Kind::DeviceNgnre, read: true, write: true, execute: false };
        let giant = s2([0x40_4000_07fd, 0, 0]).unwrap();
        assert_eq!(giant, Found { pa: 0x40_4060_3456, level: 1, permissions: ram });
        let large = s2([LEVEL_2 | 3, 0x0040_0000_4020_04c5, 0]).unwrap();
        assert_eq!(large, Found { pa: 0x4020_3456, level: 2, permissions: device });
        let read_only = S2 { write: false, ..ram };
        let page = s2([LEVEL_2 | 3, LEVEL_3 | 3, 0x4020_177f]).unwrap();
        assert_eq!(page, Found { pa: 0x4020_1456, level: 3, permissions: read_only });
    }

    #[test]
    fn invalid_descriptors_fault_at_their_level() {
        assert_eq!(s2([0, 0, 0]), Err(Fault::Translation(1)));
        assert_eq!(s2([LEVEL_2 | 3, 0, 0]), Err(Fault::Translation(2)));
        assert_eq!(s2([LEVEL_2 | 3, LEVEL_3 | 3, 0]), Err(Fault::Translation(3)));
        assert_eq!(s2([0x40_4000_03fd, 0, 0]), Err(Fault::AccessFlag(1)));
        assert_eq!(s2([0x100_4000_07fd, 0, 0]), Err(Fault::AddressSize(1)), "beyond PS");
        assert_eq!(s2([0x100_4000_0003, 0, 0]), Err(Fault::AddressSize(1)), "a table beyond PS");
    }

    #[test]
    fn malformed_descriptors_are_refused() {
        assert!(malformed([LEVEL_2 | 3, LEVEL_3 | 3, 0x4020_177d]), "block at level 3");
        assert!(malformed([0x4000_07fe, 0, 0]), "invalid with bit 1");
        assert!(malformed([0x4000_07fc, 0, 0]), "rubbish in an invalid descriptor");
        assert!(malformed([0x4020_07fd, 0, 0]), "1 GiB block at 2 MiB");
        assert!(malformed([0x4000_17fd, 0, 0]), "1 GiB block at 4 KiB");
        assert!(malformed([LEVEL_2 | 3, 0x4000_17fd, 0]), "2 MiB block at 4 KiB");
        assert!(malformed([0x4000_0ffd, 0, 0]), "FnXS");
        assert!(malformed([0x4000_07ed, 0, 0]), "memory attributes");
        assert!(malformed([0x4000_04fd, 0, 0]), "not shareable");
        for bit in [48, 49, 50, 51, 52, 53, 55, 58, 59, 62, 63] {
            assert!(malformed([0x4000_07fd | 1 << bit, 0, 0]), "block with bit {bit}");
            let page = 0x4020_17ff | 1 << bit;
            assert!(malformed([LEVEL_2 | 3, LEVEL_3 | 3, page]), "page with bit {bit}");
        }
        for bit in (2..12).chain(48..64) {
            assert!(malformed([LEVEL_2 | 3 | 1 << bit, 0, 0]), "table with bit {bit}");
        }
    }

    #[test]
    fn a_block_at_level_0_is_refused() {
        let vtcr_44 = 0x8004_3594;
        let block = stage2(vtcr_44, BASE, 4, 0, |_| 0x7fd);
        assert!(matches!(block, Err(Fault::Malformed { level: 0, why: "block at level 0", .. })), "{block:?}");
    }

    #[test]
    fn inconsistent_registers_are_refused() {
        let register = |vtcr, vttbr, parange| match stage2(vtcr, vttbr, parange, 0, |_| 0) {
            Err(Fault::Register(why)) => why,
            other => panic!("{vtcr:#x}: {other:?}"),
        };
        register(VTCR_40 & !(1 << 31), BASE, 2);
        register(VTCR_40 | 1 << 32, BASE, 2);
        register(VTCR_40 | 1 << 14, BASE, 2);
        register(VTCR_40, BASE + 0x1000, 2); // two concatenated tables need 8 KiB
        register(VTCR_40, BASE, 1); // 36-bit CPU
        register(VTCR_40 - 8, BASE, 2); // 48-bit IPA on a 40-bit CPU
        register(VTCR_40 ^ 0xc0, BASE, 2); // level 0 on a 40-bit CPU
        register(VTCR_40 & !0xc0, BASE, 2); // level 2 would need 2^10 tables
        register(0x8005_3550, BASE, 5); // 48 bits from level 1 would need 32 tables
        register(VTCR_40, BASE | 1, 2);
        assert_eq!(stage2(0x8002_3558, 1 << 40, 2, 0, |_| 0), Err(Fault::AddressSize(0)));
        assert_eq!(stage2(0x8002_3558, BASE, 2, 1 << 40, |_| 0), Err(Fault::Translation(0)));
    }

    #[test]
    fn stage_1_checks_its_own_attributes() {
        let s1 = |descriptor| {
            let memory: BTreeMap<u64, u64> = [(BASE, LEVEL_2 | 3), (LEVEL_2, descriptor)].into_iter().collect();
            stage1_el2(TCR_48, BASE, 0x04ff, 2, 0x1234, |address| memory[&address])
        };
        let text = S1 { kind: Kind::NormalWriteBackInnerShareable, write: false, execute: true };
        assert_eq!(s1(0x4000_07c1), Ok(Found { pa: 0x4000_1234, level: 1, permissions: text }));
        let device = S1 { kind: Kind::DeviceNgnre, write: true, execute: false };
        assert_eq!(s1(0x0040_0000_4000_0445), Ok(Found { pa: 0x4000_1234, level: 1, permissions: device }));
        for bit in [5, 6, 11, 53] {
            assert!(matches!(s1(0x4000_07c1 ^ 1 << bit), Err(Fault::Malformed { .. })), "bit {bit}");
        }
        assert!(matches!(s1(0x4000_07c9), Err(Fault::Malformed { .. })), "MAIR index 2 is 0");
        assert!(matches!(stage1_el2(0x8002_3510, BASE, 0x04ff, 2, 0, |_| 0), Err(Fault::Register(_))), "RES1");
    }
}
