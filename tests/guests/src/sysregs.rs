//! System registers and instructions as EL1 and EL0 see them: what the ID registers promise must be there, and what
//! belongs to EL2 must not.
//!
//! Three parts. By name: for every feature that an ID register shows, its registers and instructions work. EL2's
//! registers: each one undefined, with the right ELR. And, with the option `sweep` on the command line, every encoding
//! there is, read and written back: the list goes to the console, where the test harness compares it with the list of a
//! bare machine.

use core::fmt;

use crate::code::{Code, END};
use crate::cpu::{Context, DAIF, EC_UNKNOWN, EL0T, EL1H, ESR_IL};
use crate::machine::machine;
use crate::paging::SCTLR_OFF;
use crate::registers::field;
use crate::start::Start;

/// An encoding of MRS, MSR or SYS: op0, op1, CRn, CRm, op2 (Arm ARM C5.1.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Encoding(u32);

impl Encoding {
    /// The one with this op0 and these fourteen bits from op1 to op2.
    #[must_use]
    pub const fn of(op0: u32, rest: u32) -> Self {
        Self(op0 << 14 | rest)
    }

    /// op0.
    #[must_use]
    pub const fn op0(self) -> u32 {
        self.0 >> 14
    }

    /// op1.
    #[must_use]
    pub const fn op1(self) -> u32 {
        self.0 >> 11 & 7
    }

    /// CRn.
    #[must_use]
    pub const fn crn(self) -> u32 {
        self.0 >> 7 & 15
    }

    /// CRm.
    #[must_use]
    pub const fn crm(self) -> u32 {
        self.0 >> 3 & 15
    }

    /// The one with these parts.
    #[must_use]
    pub const fn new(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Self {
        Self(op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)
    }

    /// `mrs x0, …`, which for op0 = 1 is `sysl x0, …`.
    #[must_use]
    pub const fn read(self) -> u32 {
        0xd520_0000 | self.0 << 5
    }

    /// `msr …, x0`, which for op0 = 1 is `sys …, x0`.
    #[must_use]
    pub const fn write(self) -> u32 {
        0xd500_0000 | self.0 << 5
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let part = |shift, width| field(u64::from(self.0), shift, width);
        write!(f, "S{}_{}_C{}_C{}_{}", part(14, 2), part(11, 3), part(7, 4), part(3, 4), part(0, 3))
    }
}

/// Fields of ID registers, as (CRm, op2, shift): all of them have op0 3, op1 0, CRn 0.
#[derive(Clone, Copy)]
struct Feature {
    name: &'static str,
    crm: u32,
    op2: u32,
    shift: u32,
    /// The field is at least this, and not 0xf, which some fields have for "not implemented".
    least: u64,
}

const fn feature(name: &'static str, crm: u32, op2: u32, shift: u32, least: u64) -> Feature {
    Feature { name, crm, op2, shift, least }
}

const PAUTH: Feature = feature("FEAT_PAuth", 6, 1, 4, 1);
const PAUTH_QARMA3: Feature = feature("FEAT_PACQARMA3", 6, 2, 12, 1);
const PAUTH_IMPDEF: Feature = feature("FEAT_PACIMP", 6, 1, 8, 1);
const RAS: Feature = feature("FEAT_RAS", 4, 0, 28, 1);
const SVE: Feature = feature("FEAT_SVE", 4, 0, 32, 1);
const AMU: Feature = feature("FEAT_AMU", 4, 0, 44, 1);
const AMU_1_1: Feature = feature("FEAT_AMUv1p1", 4, 0, 44, 2);
const MPAM: Feature = feature("FEAT_MPAM", 4, 0, 40, 1);
const DIT: Feature = feature("FEAT_DIT", 4, 0, 48, 1);
const CSV2_2: Feature = feature("FEAT_CSV2_2", 4, 0, 56, 2);
const GIC: Feature = feature("GIC system registers", 4, 0, 24, 1);
const SSBS: Feature = feature("FEAT_SSBS2", 4, 1, 4, 2);
const MTE2: Feature = feature("FEAT_MTE2", 4, 1, 8, 2);
const SME: Feature = feature("FEAT_SME", 4, 1, 24, 1);
const SME2: Feature = feature("FEAT_SME2", 4, 1, 24, 2);
const NMI: Feature = feature("FEAT_NMI", 4, 1, 36, 1);
const GCS: Feature = feature("FEAT_GCS", 4, 1, 44, 1);
const THE: Feature = feature("FEAT_THE", 4, 1, 48, 1);
const FPMR: Feature = feature("FEAT_FPMR", 4, 2, 32, 1);
const PMU: Feature = feature("FEAT_PMUv3", 5, 0, 8, 1);
const PMU_1: Feature = feature("FEAT_PMUv3p4", 5, 0, 8, 5);
const TRACE: Feature = feature("FEAT_TRF", 5, 0, 40, 1);
const SPE: Feature = feature("FEAT_SPE", 5, 0, 32, 1);
const TRBE: Feature = feature("FEAT_TRBE", 5, 0, 44, 1);
const BRBE: Feature = feature("FEAT_BRBE", 5, 0, 52, 1);
const DOUBLE_LOCK: Feature = feature("debug", 5, 0, 0, 6);
const RNG: Feature = feature("FEAT_RNG", 6, 0, 60, 1);
const SPECRES: Feature = feature("FEAT_SPECRES", 6, 1, 40, 1);
const LS64_ACCDATA: Feature = feature("FEAT_LS64_ACCDATA", 6, 1, 60, 3);
const DPB: Feature = feature("FEAT_DPB", 6, 1, 0, 1);
const DPB2: Feature = feature("FEAT_DPB2", 6, 1, 0, 2);
const TLBIOS: Feature = feature("FEAT_TLBIOS", 6, 0, 56, 1);
const TLBIRANGE: Feature = feature("FEAT_TLBIRANGE", 6, 0, 56, 2);
const MOPS: Feature = feature("FEAT_MOPS", 6, 2, 16, 1);
const WFXT: Feature = feature("FEAT_WFxT", 6, 2, 0, 2);
const PAN: Feature = feature("FEAT_PAN", 7, 1, 20, 1);
const PAN2: Feature = feature("FEAT_PAN2", 7, 1, 20, 2);
const LOR: Feature = feature("FEAT_LOR", 7, 1, 16, 1);
const UAO: Feature = feature("FEAT_UAO", 7, 2, 4, 1);
const ECV: Feature = feature("FEAT_ECV", 7, 0, 60, 1);
const TCRX: Feature = feature("FEAT_TCR2", 7, 3, 0, 1);
const SCTLRX: Feature = feature("FEAT_SCTLR2", 7, 3, 4, 1);
const S1PIE: Feature = feature("FEAT_S1PIE", 7, 3, 8, 1);
const S1POE: Feature = feature("FEAT_S1POE", 7, 3, 16, 1);
const AIE: Feature = feature("FEAT_AIE", 7, 3, 24, 1);

impl Feature {
    fn value(self) -> u64 {
        let id = Encoding::new(3, 0, 0, self.crm, self.op2);
        let result = attempt(&[id.read()], 0, Level::El1);
        if result.ended { field(result.x0, self.shift, 4) } else { 0 }
    }

    fn is_there(self) -> bool {
        let value = self.value();
        value >= self.least && value != 0xf
    }
}

/// Register, op0, op1, CRn, CRm, op2, and whether writing back what was read is allowed.
type Named = (&'static str, Encoding, bool);

const fn rw(name: &'static str, op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Named {
    (name, Encoding::new(op0, op1, crn, crm, op2), true)
}

const fn ro(name: &'static str, op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Named {
    (name, Encoding::new(op0, op1, crn, crm, op2), false)
}

/// What each feature brings. Only what EL1 may reach with nothing but EL2's traps in the way.
static REGISTERS: &[(Feature, &[Named])] = &[
    (PAUTH, PAUTH_KEYS),
    (PAUTH_IMPDEF, PAUTH_KEYS),
    (PAUTH_QARMA3, PAUTH_KEYS),
    (RAS, &[ro("ERRIDR_EL1", 3, 0, 5, 3, 0), rw("DISR_EL1", 3, 0, 12, 1, 1)]),
    (SVE, &[rw("ZCR_EL1", 3, 0, 1, 2, 0)]),
    (
        AMU,
        &[
            rw("AMCR_EL0", 3, 3, 13, 2, 0),
            ro("AMCFGR_EL0", 3, 3, 13, 2, 1),
            ro("AMCGCR_EL0", 3, 3, 13, 2, 2),
            rw("AMUSERENR_EL0", 3, 3, 13, 2, 3),
            ro("AMCNTENSET0_EL0", 3, 3, 13, 2, 5),
            ro("AMEVCNTR00_EL0", 3, 3, 13, 4, 0),
            ro("AMEVTYPER00_EL0", 3, 3, 13, 6, 0),
        ],
    ),
    (AMU_1_1, &[ro("AMCG1IDR_EL0", 3, 3, 13, 2, 6)]),
    (MPAM, &[ro("MPAMIDR_EL1", 3, 0, 10, 4, 4), rw("MPAM0_EL1", 3, 0, 10, 5, 1), rw("MPAM1_EL1", 3, 0, 10, 5, 0)]),
    (DIT, &[rw("DIT", 3, 3, 4, 2, 5)]),
    (CSV2_2, &[rw("SCXTNUM_EL0", 3, 3, 13, 0, 7), rw("SCXTNUM_EL1", 3, 0, 13, 0, 7)]),
    (
        GIC,
        &[
            rw("ICC_SRE_EL1", 3, 0, 12, 12, 5),
            rw("ICC_PMR_EL1", 3, 0, 4, 6, 0),
            rw("ICC_CTLR_EL1", 3, 0, 12, 12, 4),
            rw("ICC_IGRPEN1_EL1", 3, 0, 12, 12, 7),
            rw("ICC_BPR1_EL1", 3, 0, 12, 12, 3),
            ro("ICC_HPPIR1_EL1", 3, 0, 12, 12, 2),
            ro("ICC_RPR_EL1", 3, 0, 12, 11, 3),
            rw("ICC_AP1R0_EL1", 3, 0, 12, 9, 0),
        ],
    ),
    (SSBS, &[rw("SSBS", 3, 3, 4, 2, 6)]),
    (
        MTE2,
        &[
            rw("RGSR_EL1", 3, 0, 1, 0, 5),
            rw("GCR_EL1", 3, 0, 1, 0, 6),
            rw("TFSR_EL1", 3, 0, 5, 6, 0),
            rw("TFSRE0_EL1", 3, 0, 5, 6, 1),
            ro("GMID_EL1", 3, 1, 0, 0, 4),
            rw("TCO", 3, 3, 4, 2, 7),
        ],
    ),
    (
        SME,
        &[
            rw("SMCR_EL1", 3, 0, 1, 2, 6),
            rw("SMPRI_EL1", 3, 0, 1, 2, 4),
            rw("TPIDR2_EL0", 3, 3, 13, 0, 5),
            rw("SVCR", 3, 3, 4, 2, 2),
            ro("SMIDR_EL1", 3, 1, 0, 0, 6),
        ],
    ),
    (NMI, &[rw("ALLINT", 3, 0, 4, 3, 0)]),
    (
        GCS,
        &[
            rw("GCSCR_EL1", 3, 0, 2, 5, 0),
            rw("GCSPR_EL1", 3, 0, 2, 5, 1),
            rw("GCSCRE0_EL1", 3, 0, 2, 5, 2),
            rw("GCSPR_EL0", 3, 3, 2, 5, 1),
        ],
    ),
    (THE, &[rw("RCWMASK_EL1", 3, 0, 13, 0, 6), rw("RCWSMASK_EL1", 3, 0, 13, 0, 3)]),
    (FPMR, &[rw("FPMR", 3, 3, 4, 4, 2)]),
    (
        PMU,
        &[
            rw("PMCR_EL0", 3, 3, 9, 12, 0),
            rw("PMCNTENSET_EL0", 3, 3, 9, 12, 1),
            rw("PMCNTENCLR_EL0", 3, 3, 9, 12, 2),
            rw("PMOVSCLR_EL0", 3, 3, 9, 12, 3),
            rw("PMSELR_EL0", 3, 3, 9, 12, 5),
            ro("PMCEID0_EL0", 3, 3, 9, 12, 6),
            ro("PMCEID1_EL0", 3, 3, 9, 12, 7),
            rw("PMCCNTR_EL0", 3, 3, 9, 13, 0),
            rw("PMUSERENR_EL0", 3, 3, 9, 14, 0),
            rw("PMINTENSET_EL1", 3, 0, 9, 14, 1),
            rw("PMINTENCLR_EL1", 3, 0, 9, 14, 2),
            rw("PMCCFILTR_EL0", 3, 3, 14, 15, 7),
        ],
    ),
    (PMU_1, &[ro("PMMIR_EL1", 3, 0, 9, 14, 6)]),
    (TRACE, &[rw("TRFCR_EL1", 3, 0, 1, 2, 1)]),
    (
        SPE,
        &[
            rw("PMSCR_EL1", 3, 0, 9, 9, 0),
            ro("PMSIDR_EL1", 3, 0, 9, 9, 7),
            rw("PMBLIMITR_EL1", 3, 0, 9, 10, 0),
            rw("PMBPTR_EL1", 3, 0, 9, 10, 1),
            rw("PMBSR_EL1", 3, 0, 9, 10, 3),
        ],
    ),
    (
        TRBE,
        &[
            rw("TRBLIMITR_EL1", 3, 0, 9, 11, 0),
            rw("TRBPTR_EL1", 3, 0, 9, 11, 1),
            rw("TRBSR_EL1", 3, 0, 9, 11, 3),
            ro("TRBIDR_EL1", 3, 0, 9, 11, 7),
        ],
    ),
    (BRBE, &[rw("BRBCR_EL1", 2, 1, 9, 0, 0), rw("BRBFCR_EL1", 2, 1, 9, 0, 1), ro("BRBIDR0_EL1", 2, 1, 9, 2, 0)]),
    (
        DOUBLE_LOCK,
        &[
            rw("MDSCR_EL1", 2, 0, 0, 2, 2),
            rw("DBGBVR0_EL1", 2, 0, 0, 0, 4),
            rw("DBGBCR0_EL1", 2, 0, 0, 0, 5),
            rw("DBGWVR0_EL1", 2, 0, 0, 0, 6),
            rw("DBGWCR0_EL1", 2, 0, 0, 0, 7),
            ro("OSLSR_EL1", 2, 0, 1, 1, 4),
            rw("OSDLR_EL1", 2, 0, 1, 3, 4),
            rw("MDCCINT_EL1", 2, 0, 0, 2, 0),
            ro("MDCCSR_EL0", 2, 3, 0, 1, 0),
            ro("MDRAR_EL1", 2, 0, 1, 0, 0),
        ],
    ),
    (RNG, &[ro("RNDR", 3, 3, 2, 4, 0), ro("RNDRRS", 3, 3, 2, 4, 1)]),
    (LS64_ACCDATA, &[rw("ACCDATA_EL1", 3, 0, 13, 0, 5)]),
    (PAN, &[rw("PAN", 3, 0, 4, 2, 3)]),
    (
        LOR,
        &[
            rw("LORSA_EL1", 3, 0, 10, 4, 0),
            rw("LOREA_EL1", 3, 0, 10, 4, 1),
            rw("LORN_EL1", 3, 0, 10, 4, 2),
            rw("LORC_EL1", 3, 0, 10, 4, 3),
            ro("LORID_EL1", 3, 0, 10, 4, 7),
        ],
    ),
    (UAO, &[rw("UAO", 3, 0, 4, 2, 4)]),
    (ECV, &[ro("CNTPCTSS_EL0", 3, 3, 14, 0, 5), ro("CNTVCTSS_EL0", 3, 3, 14, 0, 6)]),
    (TCRX, &[rw("TCR2_EL1", 3, 0, 2, 0, 3)]),
    (SCTLRX, &[rw("SCTLR2_EL1", 3, 0, 1, 0, 3)]),
    (S1PIE, &[rw("PIR_EL1", 3, 0, 10, 2, 3), rw("PIRE0_EL1", 3, 0, 10, 2, 2)]),
    (S1POE, &[rw("POR_EL1", 3, 0, 10, 2, 4), rw("POR_EL0", 3, 3, 10, 2, 4)]),
    (AIE, &[rw("MAIR2_EL1", 3, 0, 10, 2, 1), rw("AMAIR2_EL1", 3, 0, 10, 3, 1)]),
];

const PAUTH_KEYS: &[Named] = &[
    rw("APIAKeyLo_EL1", 3, 0, 2, 1, 0),
    rw("APIAKeyHi_EL1", 3, 0, 2, 1, 1),
    rw("APIBKeyLo_EL1", 3, 0, 2, 1, 2),
    rw("APIBKeyHi_EL1", 3, 0, 2, 1, 3),
    rw("APDAKeyLo_EL1", 3, 0, 2, 2, 0),
    rw("APDAKeyHi_EL1", 3, 0, 2, 2, 1),
    rw("APDBKeyLo_EL1", 3, 0, 2, 2, 2),
    rw("APDBKeyHi_EL1", 3, 0, 2, 2, 3),
];

/// Instructions of each feature, x0 an address of a free page that `enter` can do without.
static INSTRUCTIONS: &[(Feature, &str, &[u32])] = &[
    // pacia x1, x2; autia x1, x2
    (PAUTH, "pacia, autia", &[0xdac1_0041, 0xdac1_1041]),
    (PAUTH_IMPDEF, "pacia, autia", &[0xdac1_0041, 0xdac1_1041]),
    (PAUTH_QARMA3, "pacia, autia", &[0xdac1_0041, 0xdac1_1041]),
    // pacga x1, x2, x3
    (PAUTH, "pacga", &[0x9ac3_3041]),
    // rdvl x1, #1; ptrue p0.b; rdffr p1.b
    (SVE, "rdvl, ptrue, rdffr", &[0x04bf_5021, 0x2518_e3e0, 0x2519_f001]),
    // rdsvl x1, #1; smstart; zero {za}; smstop
    (SME, "rdsvl, smstart, zero, smstop", &[0x04bf_5821, 0xd503_477f, 0xc008_00ff, 0xd503_467f]),
    // smstart za; zero {zt0}; smstop za
    (SME2, "zero {zt0}", &[0xd503_457f, 0xc048_0001, 0xd503_447f]),
    // irg x1, x0; stg x0, [x0]; ldg x2, [x0]
    (MTE2, "irg, stg, ldg", &[0x9adf_1001, 0xd920_0800, 0xd960_0002]),
    // mov x1, x0; mov x2, #0; setp [x1]!, x2!, x3; setm; sete
    (MOPS, "setp, setm, sete", &[0xaa00_03e1, 0xd280_0002, 0x19c3_0441, 0x19c3_4441, 0x19c3_8441]),
    // wfet xzr; wfit xzr: the deadline is over
    (WFXT, "wfet, wfit", &[0xd503_101f, 0xd503_103f]),
    // cfp rctx, xzr; dvp rctx, xzr; cpp rctx, xzr
    (SPECRES, "cfp, dvp, cpp", &[0xd50b_739f, 0xd50b_73bf, 0xd50b_73ff]),
    // dc cvap, x0
    (DPB, "dc cvap", &[0xd50b_7c20]),
    // dc cvadp, x0
    (DPB2, "dc cvadp", &[0xd50b_7d20]),
    // tlbi vmalle1os
    (TLBIOS, "tlbi vmalle1os", &[0xd508_811f]),
    // tlbi rvae1, xzr; tlbi rvae1is, xzr
    (TLBIRANGE, "tlbi rvae1, rvae1is", &[0xd508_863f, 0xd508_823f]),
    // at s1e1rp, x0; at s1e1wp, x0
    (PAN2, "at s1e1rp, s1e1wp", &[0xd508_7900, 0xd508_7920]),
];

/// CPACR_EL1.{ZEN, FPEN, SMEN} and E0POE: SVE, SIMD, SME and POR_EL0 for EL0 and EL1.
const CPACR_ALL: u64 = 0b11 << 16 | 0b11 << 20 | 0b11 << 24 | 1 << 29;

/// SCTLR_EL1.{EnTP2, MSCEn, UCI, nTWE, nTWI, UCT, DZE, EnRCTX}: EL0 may use all of it.
const SCTLR_OPEN: u64 = 1 << 60 | 1 << 33 | 1 << 26 | 1 << 18 | 1 << 16 | 1 << 15 | 1 << 14 | 1 << 10;

/// Encodings tried at once; each takes the instruction and a `brk`.
const BATCH: usize = 1024;

static CODE: Code<{ 2 * BATCH }> = Code::new();
static PAGE: Code<4096> = Code::new();

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    El1,
    El0,
}

struct Attempt {
    /// The instructions were executed.
    ended: bool,
    x0: u64,
    context: Context,
}

/// Runs the instructions with `x0` in x0.
fn attempt(instructions: &[u32], x0: u64, level: Level) -> Attempt {
    let pc = CODE.write(0, instructions);
    CODE.write(instructions.len(), &[END]);
    enter(pc, instructions.len(), x0, level)
}

fn enter(pc: u64, length: usize, x0: u64, level: Level) -> Attempt {
    let mut context = Context::new(pc, DAIF | if level == Level::El1 { EL1H } else { EL0T });
    if level == Level::El0 {
        // With stage 1 off EL0 may execute anywhere.
        context.sctlr = SCTLR_OFF | SCTLR_OPEN;
    }
    context.x[0] = x0;
    // SAFETY: the instructions read system registers, write back what was read, or work on `PAGE`; then comes a `brk`.
    unsafe { context.enter() };
    Attempt { ended: context.ended_at(pc + 4 * length as u64), x0: context.x[0], context }
}

fn named_features() {
    for &(feature, registers) in REGISTERS {
        if !feature.is_there() {
            continue;
        }
        println!("sysregs: {} ({})", feature.name, feature.value());
        for &(name, encoding, writable) in registers {
            let read = attempt(&[encoding.read()], 0, Level::El1);
            check!(read.ended, "{}: reading {name} ({encoding}): ESR {:#x}", feature.name, read.context.esr);
            if read.ended && writable {
                let write = attempt(&[encoding.write()], read.x0, Level::El1);
                check!(write.ended, "{}: writing {name} ({encoding}): ESR {:#x}", feature.name, write.context.esr);
            }
        }
    }
    for &(feature, name, instructions) in INSTRUCTIONS {
        if feature.is_there() {
            for (level, at) in [(Level::El1, "EL1"), (Level::El0, "EL0")] {
                // AT and TLBI are not for EL0.
                let system = instructions[0] & 0xffff_0000 == 0xd508_0000;
                if level == Level::El1 || !system {
                    let result = attempt(instructions, PAGE.address(0), level);
                    let (esr, elr) = (result.context.esr, result.context.pc);
                    check!(result.ended, "{}: {name} at {at}: ESR {esr:#x} ELR {elr:#x}", feature.name);
                }
            }
        }
    }
}

/// Vector lengths that EL1 can choose, as an oracle to compare with.
fn vector_lengths() {
    if SVE.is_there() {
        // msr zcr_el1, x0; isb; rdvl x0, #1
        let length = attempt(&[Encoding::new(3, 0, 1, 2, 0).write(), 0xd503_3fdf, 0x04bf_5020], 0xf, Level::El1);
        println!("sysregs: SVE vectors have {} bytes", length.x0);
    }
    if SME.is_there() {
        // msr smcr_el1, x0; isb; rdsvl x0, #1; SMCR_EL1.FA64 and EZT0 as well
        let smcr = Encoding::new(3, 0, 1, 2, 6);
        let length = attempt(&[smcr.write(), 0xd503_3fdf, 0x04bf_5820], 0xf | 1 << 31 | 1 << 30, Level::El1);
        println!(
            "sysregs: SME vectors have {} bytes, SMCR_EL1 {:#x}",
            length.x0,
            attempt(&[smcr.read()], 0, Level::El1).x0
        );
    }
}

/// Registers that belong to EL2 or EL3: reading and writing is an undefined instruction at EL1.
fn of_higher_levels() {
    let mut tried = 0;
    for op1 in [4, 5, 6, 7] {
        for rest in 0..1 << 11 {
            let encoding = Encoding(3 << 14 | op1 << 11 | rest);
            for instruction in [encoding.read(), encoding.write()] {
                // Op1 = 7 is EL1's in a secure world only; op1 = 5 are aliases for a VHE host at EL2.
                let result = attempt(&[instruction], u64::MAX, Level::El1);
                let Context { esr, pc, vector, pstate, .. } = result.context;
                tried += 1;
                check!(
                    esr == EC_UNKNOWN << 26 | ESR_IL
                        && pc == CODE.address(0)
                        && vector == 0x200
                        && pstate == EL1H | DAIF,
                    "{encoding} at EL1: ESR {esr:#x} ELR {pc:#x} (of {:#x}) vector {vector:#x} SPSR {pstate:#x}",
                    CODE.address(0)
                );
            }
        }
    }
    println!("sysregs: {tried} accesses to registers of EL2 and EL3");
}

/// Encodings whose values change by themselves or by being read.
fn is_volatile(encoding: Encoding) -> bool {
    let op0 = encoding.0 >> 14;
    let crn = encoding.0 >> 7 & 0xf;
    // ID registers are all that is compared by value.
    op0 != 3 || crn != 0 || encoding.0 >> 11 & 7 != 0
}

/// Every encoding with this op0, batch by batch: which can be read, and which of those written.
fn sweep(op0: u32, level: Level, name: &str) {
    let mut readable = 0;
    for first in (0..1u32 << 14).step_by(BATCH) {
        for offset in 0..BATCH as u32 {
            let encoding = Encoding(op0 << 14 | (first + offset));
            CODE.write(2 * offset as usize, &[encoding.read(), END]);
        }
        let mut values = [None; BATCH];
        for (offset, value) in values.iter_mut().enumerate() {
            // Above EL1: `of_higher_levels` covers these.
            if (first + offset as u32) >> 11 & 7 < 4 {
                let result = enter(CODE.address(2 * offset), 1, 0, level);
                *value = result.ended.then_some(result.x0);
            }
        }
        for (offset, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let encoding = Encoding(op0 << 14 | (first + offset as u32));
            let written = attempt(&[encoding.write()], *value, level).ended;
            let access = if written { "rw" } else { "r" };
            readable += 1;
            if is_volatile(encoding) {
                println!("sweep: {name} {encoding} {access}");
            } else {
                println!("sweep: {name} {encoding} {access} {value:#x}");
            }
        }
    }
    println!("sysregs: {readable} readable encodings with op0 {op0} at {name}");
}

/// Every SYS instruction: cache and TLB maintenance, address translation, prediction restriction.
fn sweep_instructions(level: Level, name: &str) {
    for number in 0..1u32 << 14 {
        // Above EL1 as before.
        if number >> 11 & 7 >= 4 {
            continue;
        }
        let encoding = Encoding(1 << 14 | number);
        if attempt(&[encoding.write()], PAGE.address(0), level).ended {
            println!("sweep: {name} {encoding} x");
        }
    }
}

/// Runs the test.
pub fn run(_: &Start) {
    write_register!("cpacr_el1", CPACR_ALL);
    // CNTKCTL_EL1 and PMUSERENR_EL0: counters, timers and the PMU for EL0.
    write_register!("cntkctl_el1", 0x303);
    named_features();
    vector_lengths();
    of_higher_levels();
    if machine().words().any(|word| word == "sweep") {
        sweep(3, Level::El1, "EL1");
        sweep(2, Level::El1, "EL1");
        sweep(3, Level::El0, "EL0");
        sweep_instructions(Level::El1, "EL1");
        sweep_instructions(Level::El0, "EL0");
    }
    crate::report::finish("sysregs");
}
