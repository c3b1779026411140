//! System instructions: what virtual EL2 does for DC, IC, TLBI and AT.
//!
//! Owns the mapping of the instruction that the host wanted to the one that Exeunt executes for it at real EL2. The
//! rule: never less than the host asked for, and never anything that could lose data of Exeunt's. Whatever is not named
//! is undefined.
//!
//! | the host's instruction | what happens |
//! |---|---|
//! | DC CVAC, CVAU, CVAP, CVADP, CIVAC, ZVA, their tag variants, IC IVAU | native (SCTLR_EL1 UCI, DZE), or undefined |
//! | DC IVAC | DC CIVAC, with tags (IGVAC, IGDVAC) DC CIGDVAC: what another owner wrote to the line must not be lost |
//! | DC ISW, CISW; DC CSW | DC CISW; DC CSW; with tags (..GSW, ..GDSW) the variant for data and tags |
//! | IC IALLU, IALLUIS | the same |
//! | TLBI of the EL1&0 regime or of stage 2, any | TLBI ALLE1 of the same shareability: all there is |
//! | TLBI of the EL2 regime | nothing: virtual EL2 has no stage 1 |
//! | AT | undefined: nobody needs a translation where there is none |
//! | BRB, CFP, DVP, CPP, COSP, TRCIT, ... | undefined |
//!
//! Source: Arm ARM (DDI 0487), C5.3 to C5.5, and D8.17 for what each TLBI covers.

use crate::features::{Feature, IdRegister, IdRegisters};
use crate::syndrome::{Encoding, encoded_enum};

/// Calls the macro `$callback` with every instruction that Exeunt executes for virtual EL2 and that names a set and way
/// of a cache in its register, as `Name, "words", op0, op1, CRn, CRm, op2;`.
#[macro_export]
macro_rules! virtual_el2_set_way {
    ($callback:ident) => {
        $callback! {
            DcCisw, "DC CISW", 1, 0, 7, 14, 2;
            DcCsw, "DC CSW", 1, 0, 7, 10, 2;
            DcCigdsw, "DC CIGDSW", 1, 0, 7, 14, 6;
            DcCgdsw, "DC CGDSW", 1, 0, 7, 10, 6;
        }
    };
}

/// The same for instructions without an operand: their register is the zero register, and must be.
#[macro_export]
macro_rules! virtual_el2_maintenance {
    ($callback:ident) => {
        $callback! {
            IcIallu, "IC IALLU", 1, 0, 7, 5, 0;
            IcIalluis, "IC IALLUIS", 1, 0, 7, 1, 0;
            TlbiAlle1, "TLBI ALLE1", 1, 4, 8, 7, 4;
            TlbiAlle1is, "TLBI ALLE1IS", 1, 4, 8, 3, 4;
            TlbiAlle1os, "TLBI ALLE1OS", 1, 4, 8, 1, 4;
        }
    };
}

macro_rules! set_way_enum {
    ($($rows:tt)*) => {
        encoded_enum! {
            /// Maintenance of a cache by set and way, which the register names.
            SetWay: $($rows)*
        }
    };
}

macro_rules! maintenance_enum {
    ($($rows:tt)*) => {
        encoded_enum! {
            /// Maintenance of all that there is, without an operand.
            Maintenance: $($rows)*
        }
    };
}

virtual_el2_set_way!(set_way_enum);
virtual_el2_maintenance!(maintenance_enum);

/// What to do for a system instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Execute this.
    Execute(Maintenance),
    /// Execute this, with the host's register as it is.
    BySetWay(SetWay),
    /// Clean and invalidate the data cache line of the address in the host's register: DC CIVAC or, with tags, DC
    /// CIGDVAC.
    CleanAndInvalidate {
        /// The allocation tags too.
        tags: bool,
    },
    /// Nothing.
    Nothing,
    /// The instruction is undefined.
    Undefined,
}

/// Which PEs a TLBI reaches.
#[derive(Clone, Copy)]
enum Domain {
    Local,
    Inner,
    Outer,
}

/// Decides what to do for SYS with this encoding.
#[must_use]
pub fn effect(ids: &IdRegisters, isar0: u64, instruction: Encoding) -> Effect {
    let tags = || ids.has(Feature::Mte2);
    match (instruction.op1, instruction.crn, instruction.crm, instruction.op2) {
        (0, 7, 1, 0) => Effect::Execute(Maintenance::IcIalluis),
        (0, 7, 5, 0) => Effect::Execute(Maintenance::IcIallu),
        (0, 7, 6, 1) => Effect::CleanAndInvalidate { tags: false },
        (0, 7, 6, 3 | 5) if tags() => Effect::CleanAndInvalidate { tags: true },
        (0, 7, 6 | 14, 2) => Effect::BySetWay(SetWay::DcCisw),
        (0, 7, 6 | 14, 4 | 6) if tags() => Effect::BySetWay(SetWay::DcCigdsw),
        (0, 7, 10, 2) => Effect::BySetWay(SetWay::DcCsw),
        (0, 7, 10, 4 | 6) if tags() => Effect::BySetWay(SetWay::DcCgdsw),
        (_, 8, ..) => invalidate_tlb(isar0, instruction),
        // FEAT_XS: the nXS variants need not wait for accesses that have the XS attribute. Waiting for all is more.
        (_, 9, ..) if ids.get(IdRegister::Isar1) >> ISAR1_XS & 0xf != 0 => invalidate_tlb(isar0, instruction),
        _ => Effect::Undefined,
    }
}

/// ID_AA64ISAR1_EL1.XS, bits \[59:56\].
const ISAR1_XS: u32 = 56;
/// ID_AA64ISAR0_EL1.TLB, bits \[59:56\]: 1 has the outer shareable TLBI (FEAT_TLBIOS), 2 has those by range too
/// (FEAT_TLBIRANGE).
const ISAR0_TLB: u32 = 56;

/// TLBI (Arm ARM C5.5). op1 0 names EL1's own, op1 4 those of EL2; CRm says how far, and in groups of its own by range.
#[allow(clippy::match_same_arms, reason = "one arm for each group of instructions, as the Arm ARM lists them")]
fn invalidate_tlb(isar0: u64, instruction: Encoding) -> Effect {
    use Domain::{Inner, Local, Outer};
    let tlb = isar0 >> ISAR0_TLB & 0xf;
    let (domain, by_range, el2) = match (instruction.op1, instruction.crm, instruction.op2) {
        // VMALLE1, VAE1, ASIDE1, VAAE1, VALE1, VAALE1.
        (0, 1, 0..=3 | 5 | 7) => (Outer, false, false),
        (0, 3, 0..=3 | 5 | 7) => (Inner, false, false),
        (0, 7, 0..=3 | 5 | 7) => (Local, false, false),
        // RVAE1, RVAAE1, RVALE1, RVAALE1.
        (0, 5, 1 | 3 | 5 | 7) => (Outer, true, false),
        (0, 2, 1 | 3 | 5 | 7) => (Inner, true, false),
        (0, 6, 1 | 3 | 5 | 7) => (Local, true, false),
        // IPAS2E1, IPAS2LE1, RIPAS2E1, RIPAS2LE1.
        (4, 0, 1 | 5) => (Inner, false, false),
        (4, 0, 2 | 6) => (Inner, true, false),
        (4, 4, 0 | 4) => (Outer, false, false),
        (4, 4, 1 | 5) => (Local, false, false),
        (4, 4, 2 | 6) => (Local, true, false),
        (4, 4, 3 | 7) => (Outer, true, false),
        // ALLE1, VMALLS12E1.
        (4, 1, 4 | 6) => (Outer, false, false),
        (4, 3, 4 | 6) => (Inner, false, false),
        (4, 7, 4 | 6) => (Local, false, false),
        // ALLE2, VAE2, VALE2.
        (4, 1, 0 | 1 | 5) => (Outer, false, true),
        (4, 3, 0 | 1 | 5) => (Inner, false, true),
        (4, 7, 0 | 1 | 5) => (Local, false, true),
        // RVAE2, RVALE2.
        (4, 5, 1 | 5) => (Outer, true, true),
        (4, 2, 1 | 5) => (Inner, true, true),
        (4, 6, 1 | 5) => (Local, true, true),
        _ => return Effect::Undefined,
    };
    let needed = match (domain, by_range) {
        (_, true) => 2,
        (Outer, false) => 1,
        _ => 0,
    };
    if tlb < needed {
        return Effect::Undefined;
    }
    match (el2, domain) {
        (true, _) => Effect::Nothing,
        (false, Local) => Effect::Execute(Maintenance::TlbiAlle1),
        (false, Inner) => Effect::Execute(Maintenance::TlbiAlle1is),
        (false, Outer) => Effect::Execute(Maintenance::TlbiAlle1os),
    }
}
