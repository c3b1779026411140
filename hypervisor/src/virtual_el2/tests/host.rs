//! A CPU without hardware, and a host on it.
//!
//! The CPU refuses every access that would be a mistake at real EL2: a register that it does not have, a direction in
//! which a register does not go, a value for a register of EL2 that would take something from the host or show it
//! something of Exeunt's. What may be written is said here once more, independently of the masks in the table.

use super::super::decode::{Operation, decode};
use super::super::interrupts::Held;
use super::super::registers::{Access, El2, Needs, Register};
use super::super::system::{Maintenance, SetWay};
use super::super::{Answer, Cpu, Outcome, Refused, Settings, VirtualEl2};
use crate::features::{self, Feature, Gic, IdRegister as Id, IdRegisters, Step, Unit, Units};
use crate::inject::pstate;
use crate::syndrome::{EC_SHIFT, Encoding, Esr, ExceptionClass, IL};

/// A CPU model and what it is to be.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub ids: IdRegisters,
    pub gic: Gic,
    pub hide: bool,
    /// The GIC holds interrupts in the window.
    pub holds: bool,
}

impl Model {
    pub fn new(values: &[(Id, u64)], gic: Gic) -> Self {
        let find = |register| values.iter().find(|(named, _)| *named == register).map_or(0, |&(_, value)| value);
        Self { ids: IdRegisters::read(find), gic, hide: false, holds: true }
    }

    /// Values that a program at EL2 read from QEMU 10.0.2, `-cpu cortex-a57`.
    pub fn cortex_a57() -> Self {
        Self::new(
            &[
                (Id::Midr, 0x411f_d070),
                (Id::Mpidr, 0x8000_0000),
                (Id::Pfr0, 0x0100_0222),
                (Id::Dfr0, 0x1030_5106),
                (Id::Mmfr0, 0x1124),
                (Id::Pmcr, 0x4101_3000),
            ],
            Gic::V3,
        )
    }

    /// The same with `gic-version=2`.
    pub fn cortex_a57_gicv2() -> Self {
        Self::new(
            &[
                (Id::Midr, 0x411f_d070),
                (Id::Mpidr, 0x8000_0000),
                (Id::Pfr0, 0x222),
                (Id::Dfr0, 0x1030_5106),
                (Id::Mmfr0, 0x1124),
                (Id::Pmcr, 0x4101_3000),
            ],
            Gic::V2,
        )
    }

    /// `-cpu max` with `mte=on`.
    pub fn max() -> Self {
        Self::new(
            &[
                (Id::Midr, 0xf_0510),
                (Id::Mpidr, 0x8000_0000),
                (Id::Pfr0, 0x1301_0011_2111_0222),
                (Id::Pfr1, 0x10_0100_0321),
                (Id::Smfr0, 0x80f1_00fd_0000_0000),
                (Id::Dfr0, 0x1000_0000_1030_560a),
                (Id::Isar1, 0x0111_2111_1021_1502),
                (Id::Isar2, 0x11_0012),
                (Id::Mmfr0, 0x2100_0323_1020_1126),
                (Id::Mmfr1, 0x0110_1120_1031_2122),
                (Id::Mmfr2, 0x1221_0111_1201_1011),
                (Id::Mmfr3, 0x1000_0000_0000_0000),
                (Id::Pmcr, 0x4101_3000),
            ],
            Gic::V3,
        )
    }

    /// A CPU with SPE, TRBE, BRBE, AMU, FGT2, GCS, MPAM, and the PMU of Armv9.4, without EL3. No model of QEMU has
    /// these.
    pub fn armv9() -> Self {
        Self::new(
            &[
                (Id::Midr, 0x410f_d850),
                (Id::Mpidr, 0x8000_0100),
                (Id::Pfr0, 0x1201_1111_2111_0111),
                (Id::Pfr1, 0x1000_0200_0321),
                (Id::Dfr0, 0x0010_1101_0305_090b),
                (Id::Isar1, 0x1011_1111_0211_0502),
                (Id::Isar2, 0x1_0000),
                (Id::Mmfr0, 0x2200_0222_0010_1125),
                (Id::Mmfr1, 0x0000_0120_1031_2122),
                (Id::Mmfr2, 0x1221_0111_0201_1011),
                (Id::Mmfr3, 0x0001_0111),
                (Id::Pmcr, 0x3000),
                (Id::Pmsidr, 1 << 7),
                (Id::Mpamidr, 1 << 17),
            ],
            Gic::V3,
        )
    }

    /// Everything that this program knows, AArch32 included, except EL3.
    pub fn everything() -> Self {
        Self::new(
            &[
                (Id::Midr, 1),
                (Id::Mpidr, 2),
                (Id::Pfr0, 0x0301_1101_3100_0022),
                (Id::Pfr1, 0x1101_1012_0200_2321 | 1 << 44),
                (Id::Pfr2, 0x1_0000_1000),
                (Id::Smfr0, 1 << 63),
                (Id::Dfr0, 0x0011_1006_0101_090b | 1 << 40 | 1 << 44 | 1 << 48),
                (Id::Dfr1, 0x0001_1011_0000_0000 | 1 << 44),
                (Id::Dfr2, 0x0111_0001),
                (Id::Isar1, 0x3100_0000_0000_0600),
                (Id::Isar2, 0x1_0001_0000),
                (Id::Mmfr0, 0x2200_0000_0000_0000),
                (Id::Mmfr1, 0x0000_0100_0031_0000),
                (Id::Mmfr2, 0x10),
                (Id::Mmfr3, 0x0000_0001_0111_1111),
                (Id::Mmfr4, 0x0000_1000_0000_0001),
                (Id::Smidr, 1 << 15),
                (Id::Pmcr, 31 << 11),
                (Id::Pmsidr, 1 << 7),
                (Id::Pmbidr, 0),
                (Id::Trbidr, 1 << 12),
                (Id::Mpamidr, 1 << 17),
                (Id::Amcgcr, 3 << 8),
            ],
            Gic::V3,
        )
    }

    /// An Armv8.0 without anything: AArch64 only, no GIC in system registers, no PMU.
    pub fn nothing() -> Self {
        Self::new(&[(Id::Midr, 3), (Id::Mpidr, 4), (Id::Pfr0, 0x1111)], Gic::V2)
    }

    pub fn settings(&self) -> Settings<'_> {
        Settings { ids: &self.ids, gic: self.gic, hide_stage2_granules: self.hide }
    }
}

/// Where stage 2 has nothing.
pub const VOID: u64 = 0x40_0020_0000;

/// The end of the host's RAM; instructions and cache lines are below.
pub const RAM_END: u64 = 1 << 40;

/// The bits of a register of EL2 that the host may set although Exeunt has not, by the names that the Arm ARM gives
/// them.
const MAY_OPEN: &[(features::Register, u64)] = {
    use features::Register as R;
    &[
        (R::MdcrEl2, 1 << 15 | 1 << 28 | 1 << 43 | 1 << 50), // EnSPM, MTPME, EBWE, EnSTEPOP
        (R::HfgrtrEl2, 0xfffc_0000_0000_0000),               // nAMAIR2_EL1 to nACCDATA_EL1
        (R::HfgwtrEl2, 0xfffc_0000_0000_0000),
        (R::HfgitrEl2, 0x0f80_0000_0000_0000),  // nGCSEPP to nBRBINJ
        (R::HdfgrtrEl2, 0x7800_0000_0000_0000), // nPMSNEVFR_EL1 to nBRBIDR
        (R::HdfgwtrEl2, 0x7000_0000_0000_0000), // nPMSNEVFR_EL1 to nBRBCTL
        (R::Hfgrtr2El2, 0x7fff),
        (R::Hfgwtr2El2, 0x7fff),
        (R::Hfgitr2El2, 0x2), // nDCCIVAPS
        (R::Hdfgrtr2El2, 0x1ff_ffff),
        (R::Hdfgwtr2El2, 0x1ff_ffff),
        // EnAS0, EnALS, EnASR, SMPME, MSCEn, TCR2En, SCTLR2En, PTTWI, D128En, EnIDCP128, GCSEn, EnFPM, PACMEn, SRMASKEn
        (
            R::HcrxEl2,
            1 << 0
                | 1 << 1
                | 1 << 2
                | 1 << 5
                | 1 << 11
                | 1 << 14
                | 1 << 15
                | 1 << 16
                | 1 << 17
                | 1 << 21
                | 1 << 22
                | 1 << 23
                | 1 << 24
                | 1 << 26,
        ),
        (R::SmcrEl2, 1 << 31 | 1 << 30), // FA64, EZT0
        (R::Mpam2El2, 1 << 50),          // EnMPAMSM
        (R::IchHfgrtrEl2, !0),
        (R::IchHfgwtrEl2, !0),
        (R::IchHfgitrEl2, !0),
    ]
};

/// The bits of a register of EL2 that are as the host likes.
const MAY_CHOOSE: &[(features::Register, u64)] = {
    use features::Register as R;
    &[
        (R::VpidrEl2, !0),
        (R::VmpidrEl2, !0),
        (R::CntvoffEl2, !0),
        (R::CntpoffEl2, !0),
        (R::SmprimapEl2, !0),
        (R::ZcrEl2, 0x1ff),
        (R::SmcrEl2, 0x1ff),
        (R::CnthctlEl2, 1 << 2 | 1 << 3 | 0xf0 | 1 << 17), // EVNTEN, EVNTDIR, EVNTI, EVNTIS
        (R::TrfcrEl2, 0x60),                               // TS
        (R::PmscrEl2, 0xf8),                               // PCT, TS, PA, CX
        (R::BrbcrEl2, 0x78),                               // TS, MPRED, CC
    ]
};

fn mask(table: &[(features::Register, u64)], register: features::Register) -> u64 {
    table.iter().find(|(named, _)| *named == register).map_or(0, |&(_, mask)| mask)
}

/// The CPU.
#[derive(Clone, Debug)]
pub struct Hardware {
    model: Model,
    pub x: [u64; 31],
    pub pc: u64,
    pub spsr: u64,
    pub far: u64,
    /// What stands at every address of RAM.
    pub instruction: u32,
    registers: [u64; Register::ALL.len()],
    el2: [Option<u64>; features::Register::ALL.len()],
    /// What [`features::set_up`] wrote, and what there is for a host that asks.
    chosen: [Option<u64>; features::Register::ALL.len()],
    /// GICC_PMR, with a GICv2.
    pub gicc_pmr: Option<u32>,
    pub maintained: Vec<Maintenance>,
    pub maintained_sets: Vec<(SetWay, u64)>,
    pub cleaned: Vec<(u64, bool)>,
    /// How often a register of EL2 was written.
    pub el2_writes: usize,
    /// Accesses to registers, by their number, as far as the host has told of them.
    pub counted: std::collections::BTreeMap<usize, u32>,
    /// The units that the host has asked for.
    pub opened: Units,
    /// Other values of the ID space, by CRm and op2, than the model has.
    pub id_space: Vec<((u8, u8), u64)>,
    /// Nothing that the table says it has is there: every access is undefined at EL2.
    pub refuses: bool,
}

impl Hardware {
    pub fn new(model: Model) -> Self {
        let mut hardware = Self {
            model,
            x: [0; 31],
            pc: 0,
            spsr: 0,
            far: 0,
            instruction: 0,
            registers: [0; Register::ALL.len()],
            el2: [None; features::Register::ALL.len()],
            chosen: [None; features::Register::ALL.len()],
            gicc_pmr: (model.gic == Gic::V2).then_some(0xf0),
            maintained: Vec::new(),
            maintained_sets: Vec::new(),
            cleaned: Vec::new(),
            el2_writes: 0,
            counted: std::collections::BTreeMap::new(),
            opened: Units::NONE,
            id_space: Vec::new(),
            refuses: false,
        };
        features::set_up(&model.ids, model.gic, Units::NONE, |step| match step {
            Step::Write(features::Register::SctlrEl1, value) => hardware.set(Register::SctlrEl1, value),
            Step::Write(register, value) => hardware.el2[register as usize] = Some(value),
            Step::Isb => {}
        });
        hardware.chosen = hardware.el2;
        features::on_demand(&model.ids, |register, value| hardware.chosen[register as usize] = Some(value));
        hardware
    }

    pub fn get(&self, register: Register) -> u64 {
        self.registers[register as usize]
    }

    pub fn set(&mut self, register: Register, value: u64) {
        self.registers[register as usize] = value;
    }

    pub fn el2(&self, register: features::Register) -> Option<u64> {
        self.el2[register as usize]
    }

    pub fn chosen(&self, register: features::Register) -> Option<u64> {
        self.chosen[register as usize]
    }

    pub fn hcr(&self) -> u64 {
        self.el2(features::Register::HcrEl2).expect("it is set up")
    }

    /// An exception of EL0 to EL1, whose vector stage 2 does not let anybody fetch. Gives ESR_EL2.
    fn take_to_el1(&mut self, esr: Esr) -> Esr {
        use ExceptionClass::{DataAbortLower, InstructionAbortLower};
        // Stage 2's own faults go to EL2 at once.
        if let Some(InstructionAbortLower | DataAbortLower) = esr.class() {
            return esr;
        }
        for (register, value) in [
            (Register::EsrEl1, esr.bits()),
            (Register::FarEl1, self.far),
            (Register::ElrEl1, self.pc),
            (Register::SpsrEl1, self.spsr),
        ] {
            self.set(register, value);
        }
        self.pc = self.get(Register::VbarEl1) + 0x400;
        self.spsr = pstate::DAIF | pstate::EL1H;
        self.far = self.pc;
        // A translation fault at level 2.
        Esr::new((InstructionAbortLower as u64) << EC_SHIFT | IL | 0b00_0110)
    }

    fn check(&self, register: Register) {
        assert!(register.needs().met(&self.model.settings()), "{} is not there", register.name());
    }

    /// Fails if a write could harm Exeunt, or bring the host to EL2 where it does not belong.
    fn check_el2(&self, register: features::Register, value: u64) {
        use features::Register as R;
        let settings = self.model.settings();
        match register {
            R::HcrEl2 if value & 1 << 27 != 0 => assert_eq!(value, settings.window_hcr()),
            // FB, BSU, and AMO with VSE.
            R::HcrEl2 => {
                assert_eq!(value & !(1 << 9 | 3 << 10 | 1 << 5 | 1 << 8), settings.native_hcr());
                assert_eq!(value & 1 << 5 != 0, value & 1 << 8 != 0, "AMO and VSE are for each other");
            }
            R::VsesrEl2 => assert_eq!(value & !0x1ff_ffff, 0),
            _ => {
                let chosen = self.chosen(register).unwrap_or_else(|| panic!("{} is not EL2's", register.name()));
                let (open, choose) = (mask(MAY_OPEN, register), mask(MAY_CHOOSE, register));
                assert_eq!((value ^ chosen) & !(open | choose), 0, "{} {value:#x}", register.name());
                assert_eq!(chosen & !value & !choose, 0, "{} {value:#x} closes something", register.name());
            }
        }
    }
}

impl Cpu for Hardware {
    fn x(&self, number: u8) -> u64 {
        self.x[usize::from(number)]
    }

    fn set_x(&mut self, number: u8, value: u64) {
        self.x[usize::from(number)] = value;
    }

    fn elr(&self) -> u64 {
        self.pc
    }

    fn spsr(&self) -> u64 {
        self.spsr
    }

    fn far(&self) -> u64 {
        self.far
    }

    fn set_return(&mut self, elr: u64, spsr: u64) {
        (self.pc, self.spsr) = (elr, spsr);
    }

    fn fetch(&mut self, address: u64) -> Option<u32> {
        (address < RAM_END).then_some(self.instruction)
    }

    fn read(&mut self, register: Register) -> Option<u64> {
        self.check(register);
        assert_ne!(register.access(), Access::WriteOnly, "{}", register.name());
        (!self.refuses).then(|| self.get(register))
    }

    fn read_id(&mut self, crm: u8, op2: u8) -> u64 {
        assert!((1..=7).contains(&crm) && op2 < 8);
        if let Some(&(_, value)) = self.id_space.iter().find(|(place, _)| *place == (crm, op2)) {
            return value;
        }
        let encoding = Encoding::new(3, 0, 0, crm, op2);
        Id::ALL.iter().find(|id| id.encoding() == encoding).map_or(0, |&id| self.model.ids.get(id))
    }

    fn write(&mut self, register: Register, value: u64) -> Option<()> {
        self.check(register);
        assert_ne!(register.access(), Access::ReadOnly, "{}", register.name());
        (!self.refuses).then(|| self.set(register, value))
    }

    fn gic_holds(&self) -> bool {
        self.model.holds
    }

    fn void(&self) -> u64 {
        VOID
    }

    fn gicc_pmr(&mut self) -> Option<u32> {
        self.gicc_pmr
    }

    fn set_gicc_pmr(&mut self, value: u32) {
        self.gicc_pmr = self.gicc_pmr.map(|_| value);
    }

    fn counted(&mut self, register: usize, accesses: u32) {
        *self.counted.entry(register).or_default() += accesses;
    }
    fn take_serror(&mut self) -> Option<Esr> {
        let hcr = self.hcr();
        self.el2[features::Register::HcrEl2 as usize] = Some(hcr & !(1 << 8));
        let vsesr = self.el2(features::Register::VsesrEl2).unwrap_or(0);
        (hcr & 1 << 8 != 0).then(|| Esr::new(0xbe00_0000 | vsesr))
    }

    fn open(&mut self, unit: Unit) -> Units {
        assert!(unit.waits(&self.model.ids), "{unit:?} is open");
        if !self.opened.contains(unit) {
            self.opened = self.opened.with(unit);
            let (ids, opened) = (self.model.ids, self.opened);
            features::open(
                &ids,
                unit,
                opened,
                || 1 << 17,
                |register, value| {
                    self.el2[register as usize] = Some(value);
                    self.chosen[register as usize] = Some(value);
                },
            );
        }
        self.opened
    }

    fn write_el2(&mut self, register: features::Register, value: u64) -> Option<()> {
        let value = value & !features::shut(&self.model.ids, self.opened, register);
        self.check_el2(register, value);
        if self.refuses {
            return None;
        }
        self.el2[register as usize] = Some(value);
        self.el2_writes += 1;
        Some(())
    }

    fn maintain(&mut self, instruction: Maintenance) -> Option<()> {
        if instruction == Maintenance::TlbiAlle1os {
            assert_ne!(self.read_id(6, 0) >> 56 & 0xf, 0);
        }
        (!self.refuses).then(|| self.maintained.push(instruction))
    }

    fn maintain_set_way(&mut self, instruction: SetWay, operand: u64) -> Option<()> {
        if matches!(instruction, SetWay::DcCigdsw | SetWay::DcCgdsw) {
            assert!(self.model.ids.has(Feature::Mte2));
        }
        (!self.refuses).then(|| self.maintained_sets.push((instruction, operand)))
    }

    fn clean_and_invalidate(&mut self, address: u64, tags: bool) -> Result<(), Refused> {
        assert!(!tags || self.model.ids.has(Feature::Mte2));
        if self.refuses {
            return Err(Refused::Undefined);
        }
        self.cleaned.push((address, tags));
        if address < RAM_END { Ok(()) } else { Err(Refused::NoMemory) }
    }
}

/// The word of MRS.
pub fn mrs(register: Encoding, rt: u8) -> u32 {
    0xd520_0000 | operands(register, rt)
}

/// The word of MSR (register).
pub fn msr(register: Encoding, rt: u8) -> u32 {
    0xd500_0000 | operands(register, rt)
}

/// The word of MSR (immediate).
pub fn msr_immediate(op1: u8, op2: u8, immediate: u8) -> u32 {
    0xd500_0000 | operands(Encoding::new(0, op1, 4, immediate, op2), 31)
}

/// The word of SYS.
pub fn sys(op1: u8, crn: u8, crm: u8, op2: u8, rt: u8) -> u32 {
    0xd500_0000 | operands(Encoding::new(1, op1, crn, crm, op2), rt)
}

fn operands(encoding: Encoding, rt: u8) -> u32 {
    u32::from(encoding.op0) << 19
        | u32::from(encoding.op1) << 16
        | u32::from(encoding.crn) << 12
        | u32::from(encoding.crm) << 8
        | u32::from(encoding.op2) << 5
        | u32::from(rt)
}

pub const ERET: u32 = 0xd69f_03e0;

/// ESR_EL2 of an instruction that is undefined at EL0.
pub const UNDEFINED: Esr = Esr::new(IL);

/// ESR_EL2 of a trapped MRS, MSR or SYS: the same instruction as a syndrome.
pub fn trapped(word: u32) -> Esr {
    let (encoding, rt, is_read) = match decode(word) {
        Operation::Read { register, rt } => (register, rt, true),
        Operation::Write { register, rt } => (register, rt, false),
        Operation::System { instruction, rt } => (instruction, rt, false),
        Operation::SystemRead { instruction, rt } => (instruction, rt, true),
        other => panic!("{other:?} has no syndrome"),
    };
    Esr::new(
        0x18 << EC_SHIFT
            | IL
            | u64::from(encoding.op0) << 20
            | u64::from(encoding.op2) << 17
            | u64::from(encoding.op1) << 14
            | u64::from(encoding.crn) << 10
            | u64::from(rt) << 5
            | u64::from(encoding.crm) << 1
            | u64::from(is_read),
    )
}

/// A host in virtual EL2.
#[derive(Debug)]
pub struct Host {
    pub model: Model,
    pub cpu: Hardware,
    pub el2: VirtualEl2,
    /// How often it has come to real EL2.
    pub traps: usize,
}

/// Where the host is entered.
pub const ENTRY: u64 = 0x4040_0000;

impl Host {
    pub fn new(model: Model) -> Self {
        let mut host = Self { model, cpu: Hardware::new(model), el2: VirtualEl2::new(), traps: 0 };
        host.enter();
        host
    }

    /// Enters virtual EL2 on hardware as it is, all units shut that wait, as after [`features::set_up`].
    pub fn enter(&mut self) {
        self.cpu.opened = Units::NONE;
        features::unlock(&self.model.ids, Units::NONE, |register, value| {
            self.cpu.el2[register as usize] = Some(value);
            self.cpu.chosen[register as usize] = Some(value);
        });
        self.el2.enter(&mut self.cpu, &self.model.settings(), ENTRY);
        self.check();
    }

    /// Makes a call from EL1 to the vectors that it has installed: HVC with this immediate, ELR_EL2 and SPSR_EL2 as
    /// they are.
    pub fn call(&mut self, immediate: u16) {
        let esr = Esr::new(0x16 << EC_SHIFT | IL | u64::from(immediate));
        self.el2.call(&mut self.cpu, &self.model.settings(), esr);
        self.check();
    }

    /// Executes an instruction that is undefined at EL0.
    pub fn execute(&mut self, word: u32) -> Answer {
        self.cpu.instruction = word;
        self.handle(UNDEFINED)
    }

    pub fn handle(&mut self, mut esr: Esr) -> Answer {
        self.traps += 1;
        if self.cpu.hcr() & 1 << 27 == 0 {
            esr = self.cpu.take_to_el1(esr);
        }
        let answer = self.el2.handle(&mut self.cpu, &self.model.settings(), esr);
        self.check();
        answer
    }

    /// An interrupt comes to EL2. On the detour none can.
    pub fn interrupt(&mut self) -> Held {
        if self.el2.in_window() && self.cpu.hcr() & 1 << 27 == 0 {
            return Held::Detour;
        }
        let held = self.el2.hold_interrupt(&mut self.cpu, &self.model.settings());
        self.check();
        held
    }

    /// Executes an instruction and expects nothing special of it.
    pub fn plainly(&mut self, word: u32) {
        let next = self.cpu.pc + 4;
        let answer = self.execute(word);
        assert_eq!(answer, Answer { outcome: Outcome::Continue, note: None }, "{word:#010x}");
        assert_eq!(self.cpu.pc, next, "{word:#010x}");
    }

    /// MRS x1.
    pub fn read(&mut self, register: Encoding) -> u64 {
        self.plainly(mrs(register, 1));
        self.cpu.x[1]
    }

    /// MSR from x0, which holds `value`.
    pub fn write(&mut self, register: Encoding, value: u64) {
        self.cpu.x[0] = value;
        self.plainly(msr(register, 0));
    }

    pub fn write_el2(&mut self, register: El2, value: u64) {
        self.write(register.encoding(), value);
    }

    pub fn read_el2(&mut self, register: El2) -> u64 {
        self.read(register.encoding())
    }

    /// Expects the instruction to be undefined: an exception to virtual EL2, or the CPU lost without vectors.
    pub fn expect_undefined(&mut self, word: u32) {
        let pc = self.cpu.pc;
        let answer = self.execute(word);
        match answer.outcome {
            Outcome::NoVectors { pc: lost, esr } => assert_eq!((lost, esr), (pc, IL)),
            Outcome::Continue => {
                assert_eq!((self.el2.get(El2::Elr), self.el2.get(El2::Esr)), (pc, IL), "{word:#010x}");
            }
            other => panic!("{word:#010x}: {other:?}"),
        }
        assert!(answer.note.is_some(), "{word:#010x}: the log should say so");
        self.cpu.pc = pc;
    }

    /// What is true of hardware whatever the host has done.
    fn check(&self) {
        let settings = self.model.settings();
        if !self.el2.in_window() {
            assert_eq!(self.cpu.hcr() & 1 << 27, 0);
            return;
        }
        let on_detour = self.cpu.hcr() & 1 << 27 == 0;
        if on_detour {
            // Nothing of the host's runs at EL1, and no interrupt of any kind is taken.
            assert_eq!(self.cpu.hcr(), settings.native_hcr());
            assert_eq!(self.cpu.get(Register::VbarEl1), VOID);
            assert_eq!(self.cpu.spsr & pstate::DAIF, pstate::DAIF);
        } else {
            assert_eq!(self.cpu.hcr(), settings.window_hcr());
        }
        // The host is at EL0 in AArch64, and may execute there what the trick does not emulate.
        assert_eq!(self.cpu.spsr & pstate::MODE_MASK, pstate::EL0T);
        let sctlr = self.cpu.get(Register::SctlrEl1);
        // M off; UMA, DZE, UCT, nTWE, UCI on, nTWI off. On the detour DAIF is Exeunt's, and UMA off.
        let expected = if on_detour { 0x0404_c000 } else { 0x0404_c200 };
        assert_eq!(sctlr & (1 | 1 << 9 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 18 | 1 << 26), expected, "{sctlr:#x}");
        assert_eq!(self.cpu.get(Register::CpacrEl1) >> 20 & 3, 3);
        assert_eq!(self.cpu.get(Register::MdscrEl1), 0);
        if !self.model.holds {
            return;
        }
        if Needs::Gicv3.met(&settings) {
            assert_eq!(self.cpu.get(Register::IccPmrEl1), 0);
            assert_eq!(self.cpu.get(Register::IccIgrpen1El1), 0);
            assert!(settings.ids.has(Feature::El3) || self.cpu.get(Register::IccIgrpen0El1) == 0);
        } else {
            assert_eq!(self.cpu.gicc_pmr.unwrap_or(0), 0);
        }
    }
}
