//! The set-up for the CPU models of the tests, with ID values that a program at EL2 read from QEMU 10.0.2, and for CPUs
//! that have more than any model.

use proptest::prelude::*;

use super::IdRegister as Id;
use super::Register as R;
use super::*;
use crate::tests::cases;

type Values = &'static [(Id, u64)];

const CORTEX_A53: Values = &[
    (Id::Midr, 0x410fd034),
    (Id::Mpidr, 0x80000000),
    (Id::Pfr0, 0x1000222),
    (Id::Dfr0, 0x10305106),
    (Id::Mmfr0, 0x1122),
    (Id::Pmcr, 0x41033000),
];

const CORTEX_A57: Values = &[
    (Id::Midr, 0x411fd070),
    (Id::Mpidr, 0x80000000),
    (Id::Pfr0, 0x1000222),
    (Id::Dfr0, 0x10305106),
    (Id::Mmfr0, 0x1124),
    (Id::Pmcr, 0x41013000),
];

/// The same on a machine with a GICv2.
const CORTEX_A57_GICV2: Values = &[
    (Id::Midr, 0x411fd070),
    (Id::Mpidr, 0x80000000),
    (Id::Pfr0, 0x222),
    (Id::Dfr0, 0x10305106),
    (Id::Mmfr0, 0x1124),
    (Id::Pmcr, 0x41013000),
];

const CORTEX_A72: Values = &[
    (Id::Midr, 0x410fd083),
    (Id::Mpidr, 0x80000000),
    (Id::Pfr0, 0x1000222),
    (Id::Dfr0, 0x10305106),
    (Id::Mmfr0, 0x1124),
    (Id::Pmcr, 0x41023000),
];

const CORTEX_A76: Values = &[
    (Id::Midr, 0x414fd0b1),
    (Id::Mpidr, 0x80000000),
    (Id::Pfr0, 0x1100000011110112),
    (Id::Pfr1, 0x10),
    (Id::Dfr0, 0x10305408),
    (Id::Isar1, 0x100001),
    (Id::Mmfr0, 0x101122),
    (Id::Mmfr1, 0x10212122),
    (Id::Mmfr2, 0x1011),
    (Id::Pmcr, 0x410b3000),
];

const NEOVERSE_N1: Values = &[
    (Id::Midr, 0x414fd0c1),
    (Id::Mpidr, 0x80000000),
    (Id::Pfr0, 0x1100000011110112),
    (Id::Pfr1, 0x20),
    (Id::Dfr0, 0x10305408),
    (Id::Isar1, 0x100001),
    (Id::Mmfr0, 0x101125),
    (Id::Mmfr1, 0x10212122),
    (Id::Mmfr2, 0x1011),
    (Id::Pmcr, 0x410c3000),
];

const NEOVERSE_V1: Values = &[
    (Id::Midr, 0x411fd402),
    (Id::Mpidr, 0x80000000),
    (Id::Pfr0, 0x1101000121110112),
    (Id::Pfr1, 0x20),
    (Id::Dfr0, 0xf010305509),
    (Id::Isar1, 0x11100010211302),
    (Id::Mmfr0, 0x101125),
    (Id::Mmfr1, 0x10212122),
    (Id::Mmfr2, 0x220011102101011),
    (Id::Pmcr, 0x41213000),
];

const NEOVERSE_N2: Values = &[
    (Id::Midr, 0x410fd493),
    (Id::Mpidr, 0x80000000),
    (Id::Pfr0, 0x1201001121110112),
    (Id::Pfr1, 0x121),
    (Id::Dfr0, 0xf010305609),
    (Id::Isar1, 0x11111110211502),
    (Id::Mmfr0, 0x22200101125),
    (Id::Mmfr1, 0x10212122),
    (Id::Mmfr2, 0x1221011112101011),
    (Id::Pmcr, 0x3000),
];

/// `-cpu max` on a machine with `mte=on`.
const MAX: Values = &[
    (Id::Midr, 0xf0510),
    (Id::Mpidr, 0x80000000),
    (Id::Pfr0, 0x1301001121110222),
    (Id::Pfr1, 0x1001000321),
    (Id::Smfr0, 0x80f100fd00000000),
    (Id::Dfr0, 0x100000001030560a),
    (Id::Isar1, 0x111211110211502),
    (Id::Isar2, 0x110012),
    (Id::Mmfr0, 0x2100032310201126),
    (Id::Mmfr1, 0x110112010312122),
    (Id::Mmfr2, 0x1221011112011011),
    (Id::Mmfr3, 0x1000000000000000),
    (Id::Pmcr, 0x41013000),
];

/// A CPU with every feature that this module knows, except EL3.
const EVERYTHING: Values = &[
    (Id::Midr, 1),
    (Id::Mpidr, 2),
    (Id::Pfr0, 0x0300_1101_3100_0011),
    (Id::Pfr1, 0x1101_1012_0200_2321 | 1 << 44),
    (Id::Pfr2, 0x1_0000_1000),
    (Id::Smfr0, 1 << 63),
    (Id::Dfr0, 0x0011_1006_0101_090b | 1 << 40 | 1 << 44 | 1 << 48),
    (Id::Dfr1, 0x0001_1011_0000_0000 | 1 << 44),
    (Id::Dfr2, 0x0111_0001),
    (Id::Isar1, 0x3000_0000_0000_0600),
    (Id::Isar2, 0x1_0001_0000),
    (Id::Mmfr0, 0x2200_0000_0000_0000),
    (Id::Mmfr1, 0x0000_0100_0031_0000),
    (Id::Mmfr3, 0x0000_0001_0111_0111),
    (Id::Mmfr4, 0x0000_1000_0000_0001),
    (Id::Smidr, 1 << 15),
    (Id::Pmcr, 31 << 11),
    (Id::Pmsidr, 1 << 7),
    (Id::Pmbidr, 0),
    (Id::Trbidr, 1 << 12),
    (Id::Mpamidr, 1 << 17),
    (Id::Amcgcr, 3 << 8),
];

fn ids(values: &[(Id, u64)]) -> IdRegisters {
    IdRegisters::read(|register| values.iter().find(|&&(id, _)| id == register).map_or(0, |&(_, value)| value))
}

fn steps(ids: &IdRegisters, gic: Gic) -> Vec<Step> {
    let mut steps = Vec::new();
    set_up(ids, gic, Units::NONE, |step| steps.push(step));
    steps
}

fn writes(ids: &IdRegisters, gic: Gic) -> Vec<(R, u64)> {
    steps(ids, gic)
        .into_iter()
        .filter_map(|step| if let Step::Write(r, v) = step { Some((r, v)) } else { None })
        .collect()
}

/// What is written to one register, if it is.
fn written(ids: &IdRegisters, register: R) -> Option<u64> {
    writes(ids, Gic::V3).into_iter().find(|&(r, _)| r == register).map(|(_, value)| value)
}

#[test]
fn an_armv8_0_cpu_gets_the_base_registers_in_a_safe_order() {
    use Step::{Isb, Write};
    assert_eq!(
        steps(&ids(CORTEX_A57), Gic::V3),
        [
            Write(R::CptrEl2, 0x33ff),
            Isb,
            Write(R::IccSreEl2, 0xf),
            Isb,
            Write(R::IchHcrEl2, 0),
            Write(R::MdcrEl2, 6),
            Write(R::HstrEl2, 0),
            Write(R::VpidrEl2, 0x411fd070),
            Write(R::VmpidrEl2, 0x80000000),
            Write(R::CnthctlEl2, 3),
            Write(R::CntvoffEl2, 0),
            Write(R::CnthpCtlEl2, 0),
            Write(R::SctlrEl1, 0x30d00800),
            Write(R::HcrEl2, 0x80080003),
        ]
    );
    // Other ARMv8.0 CPUs get the same, with their own identity.
    for other in [CORTEX_A53, CORTEX_A72] {
        let registers = |values| writes(&ids(values), Gic::V3).into_iter().map(|(r, _)| r).collect::<Vec<_>>();
        assert_eq!(registers(other), registers(CORTEX_A57));
        assert_eq!(written(&ids(other), R::VpidrEl2), Some(ids(other).get(Id::Midr)));
    }
}

#[test]
fn a_gicv2_machine_leaves_the_system_register_interface_alone() {
    for (values, gic) in [(CORTEX_A57_GICV2, Gic::V2), (CORTEX_A57, Gic::V2), (CORTEX_A57_GICV2, Gic::V3)] {
        assert!(!writes(&ids(values), gic).iter().any(|&(r, _)| matches!(r, R::IccSreEl2 | R::IchHcrEl2)));
    }
}

#[test]
fn max_gets_what_a_prototype_ran_linux_with() {
    let ids = ids(MAX);
    let expect = |register, value| assert_eq!(written(&ids, register), Some(value), "{}", register.name());
    // With SWIO and FIEN over the prototype's value; QEMU keeps FIEN at 0.
    expect(R::HcrEl2, 0x0120_0300_8008_0001 | hcr::SWIO | hcr::FIEN);
    expect(R::HcrxEl2, 1 << 11);
    expect(R::CptrEl2, 0x22ff);
    expect(R::ZcrEl2, 0x1ff);
    expect(R::SmcrEl2, 1 << 31 | 0x1ff);
    expect(R::MdcrEl2, 6);
    expect(R::CnthctlEl2, 3);
    // Of the bits of negative polarity SME's exist: nTPIDR2_EL0 and nSMPRI_EL1.
    expect(R::HfgrtrEl2, 3 << 54);
    expect(R::HfgwtrEl2, 3 << 54);
    expect(R::HfgitrEl2, 0);
    expect(R::HdfgrtrEl2, 0);
    expect(R::HdfgwtrEl2, 0);
    expect(R::VsesrEl2, 0);
    expect(R::LorcEl1, 0);
    for absent in [R::Hfgrtr2El2, R::HafgrtrEl2, R::SmprimapEl2, R::Tcr2El1, R::PmscrEl2, R::Mpam2El2, R::GcscrEl2] {
        assert_eq!(written(&ids, absent), None, "{}", absent.name());
    }
    let pstate = ids.pstate();
    assert!(pstate.pan && pstate.ssbs && pstate.mte && pstate.nmi && !pstate.gcs && !pstate.double_fault2);
}

#[test]
fn the_models_in_between_get_what_they_have() {
    for (values, hcr) in [
        (CORTEX_A76, 0x8008_0003),
        (NEOVERSE_N1, 0x8008_0003),
        (NEOVERSE_V1, hcr::API | hcr::APK | hcr::FIEN | 0x8008_0003),
        (NEOVERSE_N2, hcr::API | hcr::APK | hcr::FIEN | hcr::ENSCXT | 0x8008_0003),
    ] {
        let ids = ids(values);
        assert_eq!(hcr_el2(&ids), hcr, "{:#x}", ids.get(Id::Midr));
        assert_eq!(written(&ids, R::VsesrEl2), Some(0));
        assert_eq!(written(&ids, R::LorcEl1), Some(0));
        assert_eq!(written(&ids, R::HcrxEl2), None);
        assert_eq!(written(&ids, R::ZcrEl2).is_some(), ids.has(Feature::Sve));
        assert_eq!(written(&ids, R::CptrEl2), Some(if ids.has(Feature::Sve) { 0x32ff } else { 0x33ff }));
    }
}

#[test]
fn a_cpu_with_everything_gets_every_bit() {
    let ids = ids(EVERYTHING);
    let expect = |register, value: u64| {
        let got = written(&ids, register);
        assert_eq!(got, Some(value), "{}: {:#x} is not {value:#x}", register.name(), got.unwrap_or(0));
    };
    expect(R::HcrEl2, 0x0120_8300_8008_0003);
    expect(R::HcrxEl2, 0x05e3_c807);
    expect(R::CptrEl2, 0x22ff);
    expect(R::SmcrEl2, 0xc000_01ff);
    expect(R::SmprimapEl2, 0);
    expect(R::SmpriEl1, 0);
    // EnSTEPOP, EBWE, PMEE 1, PMSSE 1, MTPME, E2TB, EnSPM, E2PB, HPMN.
    expect(R::MdcrEl2, 1 << 50 | 1 << 43 | 1 << 40 | 1 << 30 | 1 << 28 | 3 << 24 | 1 << 15 | 3 << 12 | 31);
    expect(R::HfgrtrEl2, 0xfff4 << 48);
    expect(R::HfgwtrEl2, 0xfff4 << 48);
    expect(R::HfgitrEl2, 0x1f << 55);
    expect(R::HdfgrtrEl2, 0xf << 59);
    expect(R::HdfgwtrEl2, 7 << 60);
    expect(R::HafgrtrEl2, 0);
    expect(R::Hfgrtr2El2, 0x7fff);
    expect(R::Hfgwtr2El2, 0x7ffd);
    expect(R::Hfgitr2El2, 2);
    expect(R::Hdfgrtr2El2, 0x1df_ffff);
    expect(R::Hdfgwtr2El2, 0x1f9_ffbf);
    expect(R::PmscrEl2, 0x50);
    expect(R::BrbcrEl2, 0x18);
    expect(R::Mpam2El2, 1 << 50);
    expect(R::MpamhcrEl2, 0);
    for zero in [R::GcscrEl2, R::GcscrEl1, R::Gcscre0El1, R::Tcr2El1, R::Sctlr2El1, R::TrfcrEl2, R::CntpoffEl2] {
        expect(zero, 0);
    }
    expect(R::Amcntenset0El0, 0xf);
    expect(R::Amcntenset1El0, 7);
    expect(R::IchHfgrtrEl2, 0x1f_00ff);
    expect(R::IchHfgwtrEl2, 0x1e_0065);
    expect(R::IchHfgitrEl2, 0x7ff);
    expect(R::IchVctlrEl2, 1);
    assert_eq!(writes(&ids, Gic::V3).len(), R::ALL.len(), "no register of the list is left out");
}

/// [`EVERYTHING`] with other values of a few registers.
fn everything_but(changes: &[(Id, u64)]) -> Vec<(Id, u64)> {
    let other = |id| changes.iter().find(|row| row.0 == id).copied();
    EVERYTHING.iter().map(|&(id, value)| other(id).unwrap_or((id, value))).collect()
}

/// ID_AA64PFR0_EL1 of [`EVERYTHING`], with EL3.
const PFR0_EL3: u64 = 0x0300_1101_3100_1011;

/// Firmware below a CPU with every feature, which lets EL2 have what Debian's 6.1 and 6.12 need of it to boot, and ends
/// the machine at any other access that an EL3 can trap.
struct Strict {
    /// SPE's buffer is EL3's (MDCR_EL3.NSPB), and PMBIDR_EL1.P says so.
    keeps_spe: bool,
}

impl Strict {
    /// No control of EL3's is over these.
    const FREE: &[&str] = &[
        "MIDR_EL1",
        "MPIDR_EL1",
        "SMIDR_EL1",
        "PMBIDR_EL1",
        "TRBIDR_EL1",
        "HCR_EL2",
        "HSTR_EL2",
        "VSESR_EL2",
        "ICH_VCTLR_EL2",
        "CNTVOFF_EL2",
        "CNTHCTL_EL2",
        "CNTHP_CTL_EL2",
        "VPIDR_EL2",
        "VMPIDR_EL2",
        "SCTLR_EL1",
    ];
    /// Over these there is one, and both kernels, or 6.12 on a CPU that 6.1 does not know, depend on it. Seen as MSR
    /// and MRS in their images. Those of GICv5 are later kernels' and no kernel's that runs on a GICv5 without.
    const ASKED: &[&str] = &[
        "PMCR_EL0",
        "MDCR_EL2",
        "CPTR_EL2",
        "ICC_SRE_EL2",
        "ICH_HCR_EL2",
        "ZCR_EL2",
        "SMCR_EL2",
        "SMPRIMAP_EL2",
        "SMPRI_EL1",
        "LORC_EL1",
        "TCR2_EL1",
        "HCRX_EL2",
        "HFGRTR_EL2",
        "HFGWTR_EL2",
        "HFGITR_EL2",
        "HDFGRTR_EL2",
        "HDFGWTR_EL2",
        "HAFGRTR_EL2",
        "HFGRTR2_EL2",
        "HFGWTR2_EL2",
        "HFGITR2_EL2",
        "HDFGRTR2_EL2",
        "HDFGWTR2_EL2",
        "ICH_HFGRTR_EL2",
        "ICH_HFGWTR_EL2",
        "ICH_HFGITR_EL2",
    ];

    fn access(&self, name: &str) {
        let spe = ["PMSIDR_EL1", "PMSCR_EL2"].contains(&name) && !self.keeps_spe;
        let fine = spe || name.starts_with("ID_") || Self::FREE.contains(&name) || Self::ASKED.contains(&name);
        assert!(fine, "{name} traps to EL3, and the machine ends");
    }

    fn ids(&self) -> IdRegisters {
        let pmbidr = if self.keeps_spe { 1 << 4 } else { 0 };
        let values = everything_but(&[(Id::Pfr0, PFR0_EL3), (Id::Pmbidr, pmbidr)]);
        IdRegisters::read(|register| {
            self.access(register.name());
            values.iter().find(|&&(id, _)| id == register).map_or(0, |&(_, value)| value)
        })
    }
}

#[test]
fn no_more_is_asked_of_firmware_than_debians_kernels_ask() {
    for keeps_spe in [false, true] {
        let firmware = Strict { keeps_spe };
        let ids = firmware.ids();
        let written = writes(&ids, Gic::V3);
        for (register, _) in &written {
            firmware.access(register.name());
        }
        assert_eq!(written.iter().any(|&(register, _)| register == R::PmscrEl2), !keeps_spe);
        assert_eq!(ids.get(Id::Pmsidr), if keeps_spe { 0 } else { 1 << 7 });
        unlock(&ids, Units::ALL, |register, _| firmware.access(register.name()));
    }
}

#[test]
fn spe_is_asked_whose_its_buffer_is_before_anything_else() {
    let mut order = vec![];
    let _ = IdRegisters::read(|register| {
        order.push(register);
        EVERYTHING.iter().find(|&&(id, _)| id == register).map_or(0, |&(_, value)| value)
    });
    let place = |register| order.iter().position(|&other| other == register).unwrap();
    assert!(place(Id::Pmbidr) < place(Id::Pmsidr));
}

#[test]
fn what_el3_may_keep_is_not_touched_where_there_is_an_el3() {
    let ids = ids(&everything_but(&[(Id::Pfr0, PFR0_EL3)]));
    let kept = [
        R::Sctlr2El1,
        R::TrfcrEl2,
        R::CntpoffEl2,
        R::Amcntenset0El0,
        R::Amcntenset1El0,
        R::GcscrEl2,
        R::GcscrEl1,
        R::Gcscre0El1,
        R::BrbcrEl2,
        R::Mpam2El2,
        R::MpamhcrEl2,
    ];
    let named: Vec<_> = writes(&ids, Gic::V3).into_iter().map(|(r, _)| r).collect();
    assert!(kept.iter().all(|register| !named.contains(register)));
    assert_eq!(named.len(), R::ALL.len() - kept.len());
}

#[test]
fn a_unit_that_waits_is_shut_until_the_host_asks_and_open_as_without_el3_afterwards() {
    let (eager, waiting) = (ids(EVERYTHING), ids(&everything_but(&[(Id::Pfr0, PFR0_EL3)])));
    for &unit in Unit::ALL {
        assert!(!unit.waits(&eager) && unit.is_open(&eager, Units::NONE));
        assert!(unit.waits(&waiting) && !unit.is_open(&waiting, Units::NONE) && unit.is_open(&waiting, Units::ALL));
        assert!(!unit.is_open(&ids(CORTEX_A57), Units::ALL), "there is no such unit");
    }
    let mut state: std::collections::BTreeMap<_, _> =
        writes(&waiting, Gic::V3).into_iter().map(|(register, value)| (register.name(), value)).collect();
    // What would let one pass is clear: GCSEn, SCTLR2En; nGCS_EL1, nGCS_EL0; nGCSEPP, nGCSSTR_EL1, nGCSPUSHM_EL1,
    // nBRBIALL, nBRBINJ; nBRBDATA, nBRBCTL, nBRBIDR.
    let bars = [
        (R::HcrxEl2, 1 << 22 | 1 << 15),
        (R::HfgrtrEl2, 3 << 52),
        (R::HfgwtrEl2, 3 << 52),
        (R::HfgitrEl2, 0x1f << 55),
        (R::HdfgrtrEl2, 7 << 59),
        (R::HdfgwtrEl2, 3 << 60),
    ];
    for (register, bits) in bars {
        assert_eq!(state[register.name()] & bits, 0, "{}", register.name());
        assert_eq!(state[register.name()] | bits, written(&eager, register).unwrap(), "{}", register.name());
        assert_eq!(shut(&waiting, Units::NONE, register), bits);
        assert_eq!((shut(&waiting, Units::ALL, register), shut(&eager, Units::NONE, register)), (0, 0));
    }
    let (mut opened, mut first) = (Units::NONE, vec![]);
    for &unit in Unit::ALL {
        opened = opened.with(unit);
        let mut order = vec![];
        open(
            &waiting,
            unit,
            opened,
            || 1 << 17,
            |register, value| {
                order.push(register);
                state.insert(register.name(), value);
            },
        );
        first.push(order[0]);
    }
    assert_eq!(first, [R::BrbcrEl2, R::HcrxEl2, R::Mpam2El2, R::HcrxEl2], "what may trap to EL3 comes first");
    let same = bars.into_iter().map(|(register, _)| register).chain([R::BrbcrEl2, R::Mpam2El2, R::MpamhcrEl2]);
    for register in same {
        assert_eq!(state.get(register.name()).copied(), written(&eager, register), "{}", register.name());
    }
    let mut order = vec![];
    open(&waiting, Unit::Mpam, Units::ALL, || 0, |register, _| order.push(register));
    assert!(!order.contains(&R::MpamhcrEl2), "without MPAMIDR_EL1.HAS_HCR there is none");
    unlock(&eager, Units::ALL, |register, _| panic!("{} is open", register.name()));
}

#[test]
fn an_access_belongs_to_the_unit_that_its_register_is_of() {
    use crate::syndrome::Encoding;
    let of = |op0, op1, crn, crm, op2| Unit::of(Encoding::new(op0, op1, crn, crm, op2));
    // BRBINF3_EL1, BRBSRC31_EL1, BRBCR_EL1, BRBFCR_EL1, BRBIDR0_EL1, BRBTGTINJ_EL1; BRB IALL and INJ.
    for (crn, crm, op2) in [(8, 3, 0), (8, 15, 5), (9, 0, 0), (9, 0, 1), (9, 2, 0), (9, 1, 2)] {
        assert_eq!(of(2, 1, crn, crm, op2), Some(Unit::Brbe));
    }
    assert_eq!((of(1, 1, 7, 2, 4), of(1, 1, 7, 2, 5)), (Some(Unit::Brbe), Some(Unit::Brbe)));
    // MPAMIDR_EL1, MPAM1_EL1, MPAM0_EL1, MPAMSM_EL1.
    for (crm, op2) in [(4, 4), (5, 0), (5, 1), (5, 3)] {
        assert_eq!(of(3, 0, 10, crm, op2), Some(Unit::Mpam));
    }
    // GCSCR_EL1, GCSCRE0_EL1, GCSPR_EL0; SCTLR2_EL1.
    for (op1, op2) in [(0, 0), (0, 2), (3, 1)] {
        assert_eq!(of(3, op1, 2, 5, op2), Some(Unit::Gcs));
    }
    assert_eq!(of(3, 0, 1, 0, 3), Some(Unit::Sctlr2));
    // What Exeunt writes for the host in virtual EL2, and what it does not.
    assert_eq!((of(2, 4, 9, 0, 0), of(3, 4, 10, 5, 0)), (Some(Unit::Brbe), Some(Unit::Mpam)));
    assert_eq!((of(3, 4, 2, 5, 0), of(3, 4, 1, 0, 3)), (None, None));
    // LORC_EL1, LORID_EL1, MPAMHCR_EL2, PMSCR_EL1, MDSCR_EL1, DC CVAC, CFP RCTX.
    for other in [(3, 0, 10, 4, 3), (3, 0, 10, 4, 7), (3, 4, 10, 4, 0), (3, 0, 9, 9, 0), (2, 0, 0, 2, 2)] {
        assert_eq!(of(other.0, other.1, other.2, other.3, other.4), None);
    }
    assert_eq!((of(1, 3, 7, 10, 1), of(1, 3, 7, 3, 4)), (None, None));
}

#[test]
fn a_buffer_of_el3s_is_left_to_it() {
    let e2tb = 3 << 24;
    let of = |values: &[(Id, u64)]| ids(&everything_but(values));
    assert_eq!(written(&of(&[(Id::Pmbidr, 1 << 4)]), R::PmscrEl2), None);
    assert_eq!(written(&of(&[]), R::MdcrEl2).unwrap() & e2tb, e2tb);
    assert_eq!(written(&of(&[(Id::Trbidr, 1 << 12 | 1 << 4)]), R::MdcrEl2).unwrap() & e2tb, 0);
}

#[test]
fn features_with_two_ways_to_be_there_are_found_by_either() {
    let has = |feature, register, value| IdRegisters::read(|r| if r == register { value } else { 0 }).has(feature);
    for (register, shift) in [(Id::Isar1, 4), (Id::Isar1, 8), (Id::Isar2, 12)] {
        assert!(has(Feature::Pauth, register, 1 << shift) && !has(Feature::PauthLr, register, 5 << shift));
        assert!(has(Feature::PauthLr, register, 6 << shift));
    }
    assert!(has(Feature::Mpam, Id::Pfr0, 1 << 40) && has(Feature::Mpam, Id::Pfr1, 1 << 16));
    assert!(has(Feature::Scxtnum, Id::Pfr0, 2 << 56) && !has(Feature::Scxtnum, Id::Pfr0, 1 << 56));
    assert!(!has(Feature::Scxtnum, Id::Pfr1, 2 << 32), "CSV2_frac counts with CSV2 1 only");
    assert!(!has(Feature::Rasv1p1, Id::Pfr1, 1 << 12), "RAS_frac counts with RAS only");
    assert!(has(Feature::Pmuv3, Id::Dfr0, 1 << 8) && !has(Feature::Pmuv3, Id::Dfr0, 0xf << 8));
    assert!(has(Feature::Pmuv3p9, Id::Dfr0, 9 << 8) && !has(Feature::Pmuv3p9, Id::Dfr0, 0xf << 8));
    assert!(has(Feature::Mtpmu, Id::Dfr0, 1 << 48) && !has(Feature::Mtpmu, Id::Dfr0, 0xf << 48));
}

#[test]
fn names_and_encodings_agree() {
    let all = R::ALL.iter().map(|r| (r.name(), r.encoding())).chain(Id::ALL.iter().map(|r| (r.name(), r.encoding())));
    let mut seen = std::collections::BTreeSet::new();
    for (name, encoding) in all {
        assert!(seen.insert(encoding), "{name} has the encoding of another register: {encoding}");
        let level = if name.ends_with("_EL2") {
            4
        } else if name.ends_with("_EL0") {
            3
        } else {
            // SMIDR_EL1 is one of the registers that describe the caches and vector units: op1 is 1.
            u8::from(name == "SMIDR_EL1")
        };
        assert_eq!(encoding.op1, level, "{name}");
        assert_eq!(encoding.op0, if name == "BRBCR_EL2" { 2 } else { 3 }, "{name}");
    }
    assert_eq!(R::HcrEl2.encoding().to_string(), "S3_4_C1_C1_0");
    assert_eq!(Id::Mmfr4.encoding().to_string(), "S3_0_C0_C7_4");
}

#[test]
fn a_register_is_read_only_if_what_was_read_before_says_that_it_is_there() {
    let mut order = Vec::new();
    let none = IdRegisters::read(|register| {
        order.push(register);
        0
    });
    let come_with_a_feature = [Id::Smidr, Id::Pmcr, Id::Pmbidr, Id::Pmsidr, Id::Trbidr, Id::Mpamidr, Id::Amcgcr];
    let always: Vec<_> = Id::ALL.iter().copied().filter(|register| !come_with_a_feature.contains(register)).collect();
    assert_eq!(order, always);
    assert_eq!(none, IdRegisters::read(|_| 0));
    let mut count = 0;
    let _ = IdRegisters::read(|register| {
        count += 1;
        EVERYTHING.iter().find(|&&(id, _)| id == register).map_or(0, |&(_, value)| value)
    });
    assert_eq!(count, Id::ALL.len());
}

proptest! {
    #![proptest_config(cases(3000, 16))]

    /// Whatever a CPU says of itself: each register once, in an order in which no write traps to EL2 itself, no trap of
    /// positive polarity, and the bits that a host needs to live at all.
    #[test]
    fn any_cpu_is_set_up_safely(values in prop::collection::vec(any::<u64>(), Id::ALL.len()), v3: bool) {
        let ids = IdRegisters::read(|register| values[register as usize]);
        let gic = if v3 { Gic::V3 } else { Gic::V2 };
        let steps = steps(&ids, gic);
        let position = |register| steps.iter().position(|step| matches!(step, Step::Write(r, _) if *r == register));
        let isb_between = |a: Option<usize>, b: Option<usize>| match (a, b) {
            (Some(a), Some(b)) => a < b && steps[a..b].contains(&Step::Isb),
            (_, b) => b.is_none(),
        };
        for &register in R::ALL {
            let count = steps.iter().filter(|step| matches!(step, Step::Write(r, _) if *r == register)).count();
            prop_assert!(count <= 1, "{}", register.name());
        }
        prop_assert!(isb_between(position(R::CptrEl2), position(R::ZcrEl2)));
        prop_assert!(isb_between(position(R::CptrEl2), position(R::SmcrEl2)));
        prop_assert!(isb_between(position(R::IccSreEl2), position(R::IchHcrEl2)));
        prop_assert_eq!(position(R::HcrEl2), Some(steps.len() - 1));

        let negative = |register| match register {
            R::HfgrtrEl2 | R::HfgwtrEl2 => 0xfff4 << 48,
            R::HfgitrEl2 => 0x1f << 55,
            R::HdfgrtrEl2 => 0xf << 59,
            R::HdfgwtrEl2 => 7 << 60,
            R::Hfgrtr2El2 | R::Hfgwtr2El2 => 0x7fff,
            R::Hfgitr2El2 => 2,
            R::Hdfgrtr2El2 | R::Hdfgwtr2El2 => 0x1ff_ffff,
            _ => u64::MAX,
        };
        for step in &steps {
            if let Step::Write(register, value) = *step {
                prop_assert_eq!(value & !negative(register), 0, "{}: {:#x}", register.name(), value);
            }
        }
        let hcr = hcr_el2(&ids);
        let must = hcr::VM | hcr::RW | hcr::TSC;
        // TGE, IMO, FMO, AMO, TVM, TWI, TWE, TID0 to TID3, NV: never.
        let never = 1 << 27 | 7 << 3 | 1 << 26 | 3 << 13 | 0xf << 15 | 1 << 42;
        prop_assert_eq!(hcr & (must | never), must);
    }
}
