//! As much of a decoder for A64 as it takes to say of an instruction that a core with Armv8.0 and nothing else executes
//! it without its SIMD and floating-point registers, what it does to the stack pointer, and where control goes.
//!
//! The check is closed: what is not known to be in Armv8.0's base instruction set is refused, so that an extension of
//! which this file has never heard cannot pass. That is why it is not built on a disassembler, which knows all
//! extensions and would have to be asked about each by name. The encoding makes it short: bits 28:25 choose the group
//! (Arm ARM, C4.1), and in the groups with a SIMD or floating-point register, and only there, bits 27:26 are both set.
//!
//! Owns the encodings; never looks at more than one instruction. The numbers below are bit patterns of the tables in
//! C4.1.

/// Why an instruction must not be in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It uses a SIMD or floating-point register, or is one of SVE's or SME's.
    Simd,
    /// It is an atomic instruction of the Large System Extensions (Armv8.1).
    Lse,
    /// It is in no group of Armv8.0's base instruction set.
    NotArmv8,
}

impl Fault {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Simd => "uses SIMD, floating-point, SVE or SME",
            Self::Lse => "is an LSE atomic (Armv8.1)",
            Self::NotArmv8 => "is not in Armv8.0's base instruction set",
        }
    }
}

/// Register number 31 where it means the stack pointer.
pub const SP: u8 = 31;
/// The frame pointer (AAPCS64, 6.1.1).
pub const FP: u8 = 29;

/// Where control goes after an instruction. Offsets are in bytes from the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the next instruction.
    Next,
    /// To the next instruction or by this offset.
    Branch(i64),
    /// By this offset.
    Jump(i64),
    /// To where a register says.
    JumpIndirect,
    /// To a function at this offset, then to the next instruction.
    Call(i64),
    /// To the function that a register names, then to the next instruction.
    CallIndirect,
    /// To the caller.
    Return,
    /// Nowhere in this image: the instruction traps, or returns from an exception.
    Away,
}

/// What an instruction does with the stack pointer, or with a register that the stack pointer is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Nothing that matters to it.
    Other,
    /// `to = from + offset`, where at least one is SP or FP.
    Add {
        /// Destination.
        to: u8,
        /// Source.
        from: u8,
        /// In bytes.
        offset: i64,
    },
    /// `sp = from & !(align - 1)`.
    Align {
        /// Source.
        from: u8,
        /// In bytes, a power of two.
        align: i64,
    },
    /// Writes SP in another way.
    Unknown,
}

/// Bits `high` to `low` of `word`.
const fn bits(word: u32, high: u32, low: u32) -> u32 {
    word >> low & ((1 << (high - low + 1)) - 1)
}

/// Bits `high` to `low` of `word` as a signed number.
const fn signed(word: u32, high: u32, low: u32) -> i64 {
    let shift = 31 - high;
    ((word << shift).cast_signed() >> (shift + low)) as i64
}

/// Whether Armv8.0 without SIMD and floating point executes `word`.
///
/// # Errors
/// Why not.
pub fn check(word: u32) -> Result<(), Fault> {
    if bits(word, 27, 26) == 0b11 {
        // "Data Processing -- Scalar Floating-Point and Advanced SIMD", and "Loads and Stores" with V set.
        return Err(Fault::Simd);
    }
    let known = match bits(word, 28, 25) {
        // SME; "Reserved" except UDF, which is there to be undefined.
        0b0000 if word >> 31 == 1 => return Err(Fault::Simd),
        0b0000 => word >> 16 == 0,
        // SVE.
        0b0010 => return Err(Fault::Simd),
        0b1000 | 0b1001 => immediate(word),
        0b1010 | 0b1011 => return control(word),
        0b0100 | 0b1100 => return memory(word),
        0b0101 | 0b1101 => register(word),
        _ => false,
    };
    if known { Ok(()) } else { Err(Fault::NotArmv8) }
}

/// "Data Processing -- Immediate".
fn immediate(word: u32) -> bool {
    let sf = bits(word, 31, 31);
    let n = bits(word, 22, 22);
    match bits(word, 25, 23) {
        // ADR, ADRP; add and subtract.
        0b000..=0b010 => true,
        // Logical.
        0b100 => n <= sf,
        // Move wide.
        0b101 => bits(word, 30, 29) != 0b01 && (sf == 1 || bits(word, 22, 22) == 0),
        // Bitfield.
        0b110 => {
            bits(word, 30, 29) != 0b11 && n == sf && (sf == 1 || (bits(word, 21, 21) == 0 && bits(word, 15, 15) == 0))
        }
        // EXTR.
        0b111 => bits(word, 30, 29) == 0 && bits(word, 21, 21) == 0 && n == sf && (sf == 1 || bits(word, 15, 15) == 0),
        // 011: tags (MTE), minimum and maximum (CSSC).
        _ => false,
    }
}

/// "Branches, Exception Generating and System instructions".
fn control(word: u32) -> Result<(), Fault> {
    let known = match bits(word, 31, 24) {
        // B and BL; CBZ, CBNZ, TBZ and TBNZ.
        0x14..=0x17 | 0x94..=0x97 | 0x34..=0x37 | 0xb4..=0xb7 => true,
        // B.cond; bit 4 makes it BC.cond (HBC).
        0x54 => bits(word, 4, 4) == 0,
        // SVC, HVC, SMC, BRK, HLT, DCPS1 to DCPS3.
        0xd4 => bits(word, 4, 2) == 0 && matches!((bits(word, 23, 21), bits(word, 1, 0)), (0 | 5, 1..=3) | (1 | 2, 0)),
        0xd5 if bits(word, 23, 22) == 0 => return system(word),
        // BR, BLR, RET; ERET and DRPS. With bits 11:10 set they authenticate a pointer (PAuth).
        0xd6 => {
            let (operation, rn) = (bits(word, 24, 21), bits(word, 9, 5));
            bits(word, 20, 16) == 31
                && bits(word, 15, 10) == 0
                && bits(word, 4, 0) == 0
                && (operation < 3 || (matches!(operation, 4 | 5) && rn == 31))
                && bits(word, 24, 24) == 0
        }
        _ => false,
    };
    if known { Ok(()) } else { Err(Fault::NotArmv8) }
}

/// "System instructions", C4.1.66 and C5.1.2: moves to and from system registers, maintenance, barriers and hints.
///
/// Of the registers only those of SIMD and floating point are refused. Whether the others are there is what the ID
/// registers say at run time, and hypervisor/src/features/ asks them.
fn system(word: u32) -> Result<(), Fault> {
    let read = bits(word, 21, 21) == 1;
    let (op1, crn, crm, op2, rt) =
        (bits(word, 18, 16), bits(word, 15, 12), bits(word, 11, 8), bits(word, 7, 5), bits(word, 4, 0));
    let known = match (bits(word, 20, 19), crn) {
        // A hint that a core does not know is a NOP.
        (0, 2) => !read && op1 == 3 && rt == 31,
        // CLREX, DSB, DMB, ISB. 1 is DSB with nXS, 3 TCOMMIT, 7 SB.
        (0, 3) => !read && op1 == 3 && rt == 31 && matches!(op2, 2 | 4 | 5 | 6),
        // MSR (immediate) of SVCR: SMSTART and SMSTOP.
        (0, 4) if op1 == 3 && op2 == 3 => return Err(Fault::Simd),
        // MSR (immediate): SPSel, DAIFSet, DAIFClr.
        (0, 4) => !read && rt == 31 && matches!((op1, op2), (0, 5) | (3, 6 | 7)),
        (1, 7) => !read && cache_or_address(op1, crm, op2),
        (1, 8) => !read && tlb(op1, crm, op2),
        // FPCR and FPSR; SVCR.
        (3, 4) if op1 == 3 && (crm == 4 || (crm == 2 && op2 == 2)) => return Err(Fault::Simd),
        (2 | 3, _) => true,
        _ => false,
    };
    if known { Ok(()) } else { Err(Fault::NotArmv8) }
}

/// IC, DC and AT of Armv8.0 (C5.3, C5.4).
fn cache_or_address(op1: u32, crm: u32, op2: u32) -> bool {
    match op1 {
        // IC IALLUIS, IALLU; DC IVAC, ISW, CSW, CISW; AT S1E1R to S1E0W.
        0 => matches!((crm, op2), (1 | 5, 0) | (6, 1) | (6 | 10 | 14, 2) | (8, 0..=3)),
        // IC IVAU; DC ZVA, CVAC, CVAU, CIVAC.
        3 => matches!((crm, op2), (4 | 5 | 10 | 11 | 14, 1)),
        // AT S1E2R, S1E2W, S12E1R to S12E0W.
        4 => matches!((crm, op2), (8, 0 | 1 | 4..=7)),
        // AT S1E3R, S1E3W.
        6 => matches!((crm, op2), (8, 0 | 1)),
        _ => false,
    }
}

/// TLBI of Armv8.0 (C5.5): CRm 3 for the Inner Shareable domain, 7 for this core alone.
fn tlb(op1: u32, crm: u32, op2: u32) -> bool {
    match op1 {
        // VMALLE1, VAE1, ASIDE1, VAAE1, VALE1, VAALE1.
        0 => matches!((crm, op2), (3 | 7, 0..=3 | 5 | 7)),
        // IPAS2E1, IPAS2LE1; ALLE2, VAE2, ALLE1, VALE2, VMALLS12E1.
        4 => matches!((crm, op2), (0 | 4, 1 | 5) | (3 | 7, 0 | 1 | 4..=6)),
        // ALLE3, VAE3, VALE3.
        6 => matches!((crm, op2), (3 | 7, 0 | 1 | 5)),
        _ => false,
    }
}

/// "Loads and Stores" of general-purpose registers.
fn memory(word: u32) -> Result<(), Fault> {
    let size = bits(word, 31, 30);
    let opc = bits(word, 23, 22);
    // Loads and stores of one register: all sizes but a sign extension of 64 bits and one of 32 bits to 32 bits.
    let single = opc < 2 || size < 2 || (size == 2 && opc == 2);
    let prefetch = size == 3 && opc == 2;
    let known = match bits(word, 29, 24) {
        // Exclusive and ordered.
        0b001000 => match (bits(word, 23, 23), bits(word, 21, 21)) {
            (0, 0) => true,
            (0, 1) if size >= 2 => true,
            // LDAR and STLR; without bit 15 LDLAR and STLLR (LOR).
            (1, 0) => bits(word, 15, 15) == 1,
            // CAS and CASP.
            _ => return Err(Fault::Lse),
        },
        // Literal.
        0b011000 => true,
        // Pairs: not temporal, then with writeback or an offset.
        0b101000 if bits(word, 23, 23) == 0 => matches!(size, 0 | 2),
        // size 1: LDPSW; its store is STGP (MTE).
        0b101000 | 0b101001 => matches!(size, 0 | 2) || (size == 1 && bits(word, 22, 22) == 1),
        0b111001 => single || prefetch,
        0b111000 => match (bits(word, 21, 21), bits(word, 11, 10)) {
            // Unscaled, post-index, unprivileged, pre-index.
            (0, 0) => single || prefetch,
            (0, _) => single,
            // Register offset.
            (1, 2) => bits(word, 14, 14) == 1 && (single || prefetch),
            (1, 0) => return Err(Fault::Lse),
            // LDRAA and LDRAB (PAuth).
            _ => false,
        },
        _ => false,
    };
    if known { Ok(()) } else { Err(Fault::NotArmv8) }
}

/// "Data Processing -- Register".
fn register(word: u32) -> bool {
    let sf = bits(word, 31, 31);
    let shift_fits = sf == 1 || bits(word, 15, 15) == 0;
    match bits(word, 28, 24) {
        // Logical, shifted.
        0b01010 => shift_fits,
        // Add and subtract: shifted, extended.
        0b01011 if bits(word, 21, 21) == 0 => bits(word, 23, 22) != 3 && shift_fits,
        0b01011 => bits(word, 23, 22) == 0 && bits(word, 12, 10) <= 4,
        0b11010 => match bits(word, 23, 21) {
            // ADC and SBC.
            0b000 => bits(word, 15, 10) == 0,
            // CCMN and CCMP.
            0b010 => bits(word, 29, 29) == 1 && bits(word, 10, 10) == 0 && bits(word, 4, 4) == 0,
            // CSEL and its kin.
            0b100 => bits(word, 29, 29) == 0 && bits(word, 11, 11) == 0,
            0b110 if bits(word, 29, 29) == 1 => false,
            // UDIV, SDIV; shifts. 16 and up is CRC32, which is optional in Armv8.0.
            0b110 if bits(word, 30, 30) == 0 => matches!(bits(word, 15, 10), 2 | 3 | 8..=11),
            // RBIT, REV16, REV32, REV, CLZ, CLS. 6 and up is CSSC; bits 20:16 other than 0 are PAuth.
            0b110 => bits(word, 20, 16) == 0 && bits(word, 15, 10) < 6 && (sf == 1 || bits(word, 15, 10) != 3),
            _ => false,
        },
        0b11011 => {
            let subtract = bits(word, 15, 15);
            bits(word, 30, 29) == 0
                && match bits(word, 23, 21) {
                    // MADD, MSUB.
                    0 => true,
                    // SMADDL, SMSUBL, UMADDL, UMSUBL.
                    1 | 5 => sf == 1,
                    // SMULH, UMULH.
                    2 | 6 => sf == 1 && subtract == 0,
                    _ => false,
                }
        }
        _ => false,
    }
}

/// Whether `word` is a DSB or an ISB of any kind.
#[must_use]
pub fn is_barrier(word: u32) -> bool {
    word & 0xffff_f0bf == 0xd503_309f
}

/// Where control goes after `word`.
#[must_use]
pub fn flow(word: u32) -> Flow {
    match bits(word, 31, 24) {
        0x14..=0x17 => Flow::Jump(signed(word, 25, 0) * 4),
        0x94..=0x97 => Flow::Call(signed(word, 25, 0) * 4),
        0x34 | 0x35 | 0xb4 | 0xb5 | 0x54 => Flow::Branch(signed(word, 23, 5) * 4),
        0x36 | 0x37 | 0xb6 | 0xb7 => Flow::Branch(signed(word, 18, 5) * 4),
        // BRK, HLT; HVC and SMC return.
        0xd4 if matches!(bits(word, 23, 21), 1 | 2) => Flow::Away,
        0xd6 => match bits(word, 22, 21) {
            0 if bits(word, 23, 23) == 0 => Flow::JumpIndirect,
            1 if bits(word, 23, 23) == 0 => Flow::CallIndirect,
            2 if bits(word, 23, 23) == 0 => Flow::Return,
            // ERET.
            _ => Flow::Away,
        },
        0x00 => Flow::Away,
        _ => Flow::Next,
    }
}

/// What `word` does with the stack pointer.
#[must_use]
pub fn stack(word: u32) -> Stack {
    let (rd, rn) = (bits(word, 4, 0) as u8, bits(word, 9, 5) as u8);
    let sf = bits(word, 31, 31) == 1;
    let matters = |register| register == SP || register == FP;
    match bits(word, 28, 23) {
        // ADD and SUB (immediate); with flags, 31 is the zero register.
        0b100010 if bits(word, 29, 29) == 0 && (matters(rd) || matters(rn)) => {
            let offset = i64::from(bits(word, 21, 10)) << (12 * bits(word, 22, 22));
            let offset = if bits(word, 30, 30) == 1 { -offset } else { offset };
            if sf { Stack::Add { to: rd, from: rn, offset } } else { unknown(rd) }
        }
        // AND (immediate) to SP: ones from bit 63 down to log2(align), in the encoding of C3.4.2 "Logical (immediate)".
        0b100100 if bits(word, 30, 29) != 3 && rd == SP => {
            // immr and imms.
            let (n, rotation, ones) = (bits(word, 22, 22), bits(word, 21, 16), bits(word, 15, 10) + 1);
            let is_and = bits(word, 30, 29) == 0;
            if sf && is_and && n == 1 && (33..64).contains(&ones) && rotation == ones {
                Stack::Align { from: rn, align: 1 << (64 - ones) }
            } else {
                Stack::Unknown
            }
        }
        // ADD and SUB (extended register) can write SP too.
        0b010110 if bits(word, 21, 21) == 1 && bits(word, 29, 29) == 0 => unknown(rd),
        _ => writeback(word, rn),
    }
}

/// The effect of a load or store with writeback on its base register `rn`.
fn writeback(word: u32, rn: u8) -> Stack {
    let single = bits(word, 29, 27) == 0b111
        && bits(word, 25, 24) == 0
        && bits(word, 21, 21) == 0
        && matches!(bits(word, 11, 10), 0b01 | 0b11);
    let pair = bits(word, 29, 27) == 0b101 && matches!(bits(word, 25, 23), 0b001 | 0b011);
    if rn != SP || !(single || pair) {
        return Stack::Other;
    }
    let vector = bits(word, 26, 26) == 1;
    let offset = if single {
        signed(word, 20, 12)
    } else {
        // opc chooses 4 or 8 bytes, and 4, 8 or 16 for SIMD registers; LDPSW (01) is 4.
        let scale = if vector { 2 + bits(word, 31, 30) } else { 2 + bits(word, 31, 31) };
        signed(word, 21, 15) << scale
    };
    Stack::Add { to: SP, from: SP, offset }
}

fn unknown(rd: u8) -> Stack {
    if rd == SP { Stack::Unknown } else { Stack::Other }
}

/// The register and the address that an ADR or ADRP at `address` computes.
#[must_use]
pub fn page_address(word: u32, address: u64) -> Option<(u8, u64)> {
    let offset = signed(word, 23, 5) << 2 | i64::from(bits(word, 30, 29));
    let value = match word & 0x9f00_0000 {
        0x1000_0000 => address.wrapping_add_signed(offset),
        0x9000_0000 => (address & !0xfff).wrapping_add_signed(offset << 12),
        _ => return None,
    };
    Some((bits(word, 4, 0) as u8, value))
}

/// Whether a word of which [`page_address`] knows the address is an ADRP.
#[must_use]
pub const fn is_adrp(word: u32) -> bool {
    word >> 31 != 0
}

/// Destination, source and immediate of `add xD, xN, #imm`.
#[must_use]
pub fn add_immediate(word: u32) -> Option<(u8, u8, u64)> {
    (word & 0xffc0_0000 == 0x9100_0000)
        .then(|| (bits(word, 4, 0) as u8, bits(word, 9, 5) as u8, u64::from(bits(word, 21, 10))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LLVM 14 disassembles all of these like this, except `abs` and `smax`, of which it has not heard.
    const SIMD: [(u32, &str); 19] = [
        (0x1e622820, "fadd d0, d1, d2"),
        (0x9e660000, "fmov x0, d0"),
        (0x3dc00000, "ldr q0, [x0]"),
        (0x3d000020, "str b0, [x1]"),
        (0x9c000080, "ldr q0, #16"),
        (0x6dbf27e8, "stp d8, d9, [sp, #-16]!"),
        (0x3c8107e0, "str q0, [sp], #16"),
        (0x4c407800, "ld1 {v0.4s}, [x0]"),
        (0x4ea2b420, "sqdmulh v0.4s, v1.4s, v2.4s"),
        (0x4e284820, "aese v0.16b, v1.16b"),
        (0x4e040c00, "dup v0.4s, w0"),
        (0x6f00e400, "movi v0.2d, #0"),
        (0x2518e3e0, "ptrue p0.b"),
        (0x04215020, "addvl x0, x1, #1"),
        (0x04e0e3e0, "cntd x0"),
        (0xc00800ff, "zero {za}"),
        (0xd503437f, "smstart sm"),
        (0xd53b4400, "mrs x0, fpcr"),
        (0xd51b4420, "msr fpsr, x0"),
    ];

    const LSE: [(u32, &str); 7] = [
        (0xf8200041, "ldadd x0, x1, [x2]"),
        (0xf820005f, "stadd x0, [x2]"),
        (0xf8208041, "swp x0, x1, [x2]"),
        (0x38600041, "ldaddlb w0, w1, [x2]"),
        (0xc8e0fc41, "casal x0, x1, [x2]"),
        (0x08a07c41, "casb w0, w1, [x2]"),
        (0x48207c82, "casp x0, x1, x2, x3, [x4]"),
    ];

    const NEWER: [(u32, &str); 26] = [
        (0xdac10020, "pacia x0, x1"),
        (0xd65f0bff, "retaa"),
        (0xd63f081f, "blraaz x0"),
        (0xf8200420, "ldraa x0, [x1]"),
        (0xf8bfc020, "ldapr x0, [x1]"),
        (0xd9400020, "ldapur x0, [x1]"),
        (0xc89f7c20, "stllr x0, [x1]"),
        (0xc8df7c20, "ldlar x0, [x1]"),
        (0x1ac24020, "crc32b w0, w1, w2"),
        (0xba008422, "rmif x1, #1, #2"),
        (0x3a00080d, "setf8 w0"),
        (0xd500401f, "cfinv"),
        (0x19010440, "cpyfp [x0]!, [x1]!, x2!"),
        (0xd9200820, "stg x0, [x1]"),
        (0x91800400, "addg x0, x0, #0, #1"),
        (0x69000440, "stgp x0, x1, [x2]"),
        (0xdac02000, "abs x0, x0"),
        (0x91c00400, "smax x0, x0, #1"),
        (0xf83f9020, "st64b x0, [x1]"),
        (0xd50330ff, "sb"),
        (0xd503323f, "dsb with nXS"),
        (0xd5031000, "wfet x0"),
        (0xd500419f, "msr pan, #1"),
        (0xd50b7c20, "dc cvap, x0"),
        (0xd5088220, "tlbi rvae1is, x0"),
        (0x54000010, "bc.eq #0"),
    ];

    const ARMV8_0: [(u32, &str); 55] = [
        (0x14000001, "b #4"),
        (0x97ffffff, "bl #-4"),
        (0x54000040, "b.eq #8"),
        (0xb4000040, "cbz x0, #8"),
        (0x37000040, "tbnz w0, #0, #8"),
        (0xd61f0100, "br x8"),
        (0xd63f0100, "blr x8"),
        (0xd65f03c0, "ret"),
        (0xd69f03e0, "eret"),
        (0xd4000002, "hvc #0"),
        (0xd4000003, "smc #0"),
        (0xd4200020, "brk #1"),
        (0x00000000, "udf #0"),
        (0xd503201f, "nop"),
        (0xd503207f, "wfi"),
        (0xd503233f, "paciasp, a hint"),
        (0xd503245f, "bti c, a hint"),
        (0xd5033f9f, "dsb sy"),
        (0xd5033bbf, "dmb ish"),
        (0xd5033fdf, "isb"),
        (0xd5033f5f, "clrex"),
        (0xd50342df, "msr daifset, #2"),
        (0xd50041bf, "msr spsel, #1"),
        (0xd51c1140, "msr cptr_el2, x0"),
        (0xd53e1100, "mrs x0, scr_el3"),
        (0xd51c1200, "msr zcr_el2, x0, guarded at run time"),
        (0xd50b7e20, "dc civac, x0"),
        (0xd5087620, "dc ivac, x0"),
        (0xd508751f, "ic iallu"),
        (0xd50c871f, "tlbi alle2"),
        (0xd50c83df, "tlbi vmalls12e1is"),
        (0xd50c8020, "tlbi ipas2e1is, x0"),
        (0xd5087800, "at s1e1r, x0"),
        (0xc85ffc20, "ldaxr x0, [x1]"),
        (0xc802fc20, "stlxr w2, x0, [x1]"),
        (0xc87f0440, "ldxp x0, x1, [x2]"),
        (0x889ffc20, "stlr w0, [x1]"),
        (0x58000080, "ldr x0, #16"),
        (0xa9bf7bfd, "stp x29, x30, [sp, #-16]!"),
        (0x69400440, "ldpsw x0, x1, [x2]"),
        (0xf8408420, "ldr x0, [x1], #8"),
        (0xf8626820, "ldr x0, [x1, x2]"),
        (0xf9800020, "prfm pldl1keep, [x1]"),
        (0x39c00020, "ldrsb w0, [x1]"),
        (0x90000000, "adrp x0, #0"),
        (0x9240cc00, "and x0, x0, #0xfffffffffffff"),
        (0xd2800000, "mov x0, #0"),
        (0xd34cfc00, "lsr x0, x0, #12"),
        (0x93c20820, "extr x0, x1, x2, #2"),
        (0x8b020c20, "add x0, x1, x2, lsl #3"),
        (0x9a820020, "csel x0, x1, x2, eq"),
        (0xfa420020, "ccmp x1, x2, #0, eq"),
        (0x9ac20820, "udiv x0, x1, x2"),
        (0xdac01020, "clz x0, x1"),
        (0x9bc27c20, "umulh x0, x1, x2"),
    ];

    #[test]
    fn every_violation_is_found() {
        for (words, fault) in [(&SIMD[..], Fault::Simd), (&LSE, Fault::Lse), (&NEWER, Fault::NotArmv8)] {
            for (word, text) in words {
                let found = check(*word).expect_err(text);
                // One that is both: the LDAPR that shares LSE's encodings.
                assert!(found == fault || (fault == Fault::NotArmv8 && found == Fault::Lse), "{text}: {found:?}");
            }
        }
    }

    #[test]
    fn what_armv8_0_has_is_let_through() {
        for (word, text) in ARMV8_0 {
            assert_eq!(check(word), Ok(()), "{text}");
        }
    }

    #[test]
    fn control_flow() {
        assert_eq!(flow(0x17ffffff), Flow::Jump(-4));
        assert_eq!(flow(0x94000400), Flow::Call(0x1000));
        assert_eq!(flow(0x54ffffc1), Flow::Branch(-8));
        assert_eq!(flow(0x36ffffc1), Flow::Branch(-8));
        assert_eq!(flow(0xd61f0100), Flow::JumpIndirect);
        assert_eq!(flow(0xd63f0100), Flow::CallIndirect);
        assert_eq!(flow(0xd65f03c0), Flow::Return);
        assert_eq!(flow(0xd69f03e0), Flow::Away);
        assert_eq!(flow(0xd4200020), Flow::Away);
        assert_eq!(flow(0xd4000003), Flow::Next);
        assert_eq!(flow(0xd503201f), Flow::Next);
    }

    #[test]
    fn stack_pointer() {
        let add = |to, from, offset| Stack::Add { to, from, offset };
        for (word, effect, text) in [
            (0xd10403ff, add(SP, SP, -256), "sub sp, sp, #256"),
            (0x914007ff, add(SP, SP, 4096), "add sp, sp, #1, lsl #12"),
            (0x910183fd, add(FP, SP, 96), "add x29, sp, #96"),
            (0x910003bf, add(SP, FP, 0), "mov sp, x29"),
            (0x9100009f, add(SP, 4, 0), "mov sp, x4"),
            (0xa9be7bfd, add(SP, SP, -32), "stp x29, x30, [sp, #-32]!"),
            (0xa8c27bfd, add(SP, SP, 32), "ldp x29, x30, [sp], #32"),
            (0xadbf07e0, add(SP, SP, -32), "stp q0, q1, [sp, #-32]!"),
            (0xf81f0ffe, add(SP, SP, -16), "str x30, [sp, #-16]!"),
            (0xf84107fe, add(SP, SP, 16), "ldr x30, [sp], #16"),
            (0x927ae53f, Stack::Align { from: 9, align: 64 }, "and sp, x9, #-64"),
            (0x927cec1f, Stack::Align { from: 0, align: 16 }, "and sp, x0, #-16"),
            (0xcb2163ff, Stack::Unknown, "sub sp, sp, x1"),
            (0xb2400fff, Stack::Unknown, "orr sp, xzr, #15"),
            (0x110043ff, Stack::Unknown, "add wsp, wsp, #16"),
            (0xa9007bfd, Stack::Other, "stp x29, x30, [sp]"),
            (0xf9400fe0, Stack::Other, "ldr x0, [sp, #24]"),
            (0xf1000fff, Stack::Other, "cmp sp, #3"),
            (0xd65f03c0, Stack::Other, "ret"),
        ] {
            assert_eq!(stack(word), effect, "{text}");
        }
    }

    #[test]
    fn addresses() {
        // adrp x0, #+1 page; adr x1, #-4; add x0, x0, #0x128
        assert_eq!(page_address(0xb0000000, 0x1234), Some((0, 0x2000)));
        assert_eq!(page_address(0x10ffffe1, 0x1234), Some((1, 0x1230)));
        assert_eq!(page_address(0xd503201f, 0x1234), None);
        assert!(is_adrp(0xb0000000) && !is_adrp(0x10ffffe1));
        assert_eq!(add_immediate(0x9104a000), Some((0, 0, 0x128)));
        assert_eq!(add_immediate(0xd104a000), None);
    }
}
