//! The table, over a fake CPU and a fake machine.

use std::cell::{Cell, RefCell};

use proptest::prelude::*;

use super::*;
use crate::features::Unit;
use crate::inject::pstate;
use crate::psci::PowerState;
use crate::tests::cases;

/// A CPU that has everything in fields.
struct FakeCpu {
    registers: [u64; 18],
    elr: u64,
    spsr: u64,
    far: u64,
    hpfar: u64,
    el1: Option<Entry>,
    walks: Cell<u32>,
    allowed: u32,
    asked: Vec<Encoding>,
    next: Next,
    has_vectors: bool,
}

impl FakeCpu {
    fn new(x0: u64) -> Self {
        let mut registers = core::array::from_fn(|n| 0x1000 + n as u64);
        registers[0] = x0;
        Self {
            registers,
            elr: 0x4020_0000,
            spsr: 5,
            far: 0x4000_0123,
            hpfar: 0x40_0000,
            el1: None,
            walks: Cell::new(0),
            allowed: 0,
            asked: vec![],
            next: Next::Host,
            has_vectors: false,
        }
    }
}

impl Vcpu for FakeCpu {
    fn index(&self) -> usize {
        0
    }
    fn registers(&mut self) -> &mut [u64; 18] {
        &mut self.registers
    }
    fn elr(&self) -> u64 {
        self.elr
    }
    fn set_return(&mut self, elr: u64, spsr: u64) {
        (self.elr, self.spsr) = (elr, spsr);
    }
    fn spsr(&self) -> u64 {
        self.spsr
    }
    fn far(&self) -> u64 {
        self.far
    }
    fn hpfar(&self) -> u64 {
        self.hpfar
    }
    fn vbar_el1(&self) -> u64 {
        0xffff_8000_0000_0800
    }
    fn sctlr_el1(&self) -> u64 {
        inject::SCTLR_SPAN
    }
    fn sctlr2_el1(&self) -> u64 {
        0
    }
    fn gcscr_el1(&self) -> u64 {
        0
    }
    fn pstate_features(&self) -> PstateFeatures {
        PstateFeatures::default()
    }
    fn ask(&mut self, access: Encoding) -> bool {
        self.asked.push(access);
        Unit::of(access).is_some() && self.asked.len() == 1
    }
    fn set_el1_exception(&mut self, entry: &Entry) {
        assert_eq!(self.el1.replace(*entry), None, "one exception for one trap");
    }
    fn set_register(&mut self, number: u8, value: u64) {
        if let Some(register) = self.registers.get_mut(usize::from(number)) {
            *register = value;
        }
    }
    fn read_id(&self, register: Encoding) -> Option<u64> {
        (register == Encoding::new(3, 0, 0, 7, 0)).then_some(0x1122)
    }
    fn allow_execution(&mut self) -> bool {
        self.allowed += 1;
        self.far != NEVER
    }
    fn pass_over_store(&mut self, _: Esr) -> bool {
        self.far == NEVER
    }
    fn has_vectors(&self) -> bool {
        self.has_vectors
    }
    fn stage1_level(&self, far: u64, ipa: u64) -> Option<i8> {
        assert_eq!((far, ipa), (self.far, 0x4000_0000));
        self.walks.set(self.walks.get() + 1);
        Some(2)
    }
}

/// Firmware that says what it was asked and gives every register a new value.
#[derive(Default)]
struct FakeFirmware(RefCell<Vec<[u64; 18]>>);

impl Firmware for FakeFirmware {
    fn call(&self, registers: &mut [u64; 18]) {
        self.0.borrow_mut().push(*registers);
        *registers = core::array::from_fn(|n| 0x7000 + n as u64);
    }
}

struct FakeMachine {
    psci: Box<Psci>,
    firmware: FakeFirmware,
    limit: RateLimit,
}

impl FakeMachine {
    fn new() -> Self {
        let machine = Self { psci: Box::default(), firmware: FakeFirmware::default(), limit: RateLimit::new() };
        machine.psci.init(&[0, 1], 0, &machine.firmware).unwrap();
        machine.firmware.0.borrow_mut().clear();
        machine
    }
}

impl Environment for FakeMachine {
    fn entry_point(&self) -> u64 {
        0x4000_0000
    }
    fn context(&self, cpu: usize) -> u64 {
        cpu as u64
    }
    fn is_host_ram(&self, _address: u64) -> bool {
        true
    }

    fn is_left(&self, _cpu: usize) -> bool {
        false
    }
}

impl Machine for FakeMachine {
    type Firmware = FakeFirmware;
    fn psci(&self) -> &Psci {
        &self.psci
    }
    fn firmware(&self) -> &FakeFirmware {
        &self.firmware
    }
    fn log_limit(&self) -> &RateLimit {
        &self.limit
    }
    fn now(&self) -> u64 {
        0
    }
    fn ticks_per_second(&self) -> u64 {
        62_500_000
    }
}

const HVC: u64 = 0x16 << 26 | 1 << 25;
const SMC: u64 = 0x17 << 26 | 1 << 25;

/// What the vectors and the image do with a synchronous exception.
fn answer(cpu: &mut FakeCpu, machine: &FakeMachine, esr: Esr) -> Next {
    match esr.class() {
        Some(ExceptionClass::Hvc64) => hvc(cpu, machine, esr),
        Some(ExceptionClass::Smc64) => smc(cpu, machine, esr),
        _ => {
            dispatch(cpu, machine, esr);
            Next::Host
        }
    }
}

/// Lets a CPU trap and shows what became of it.
fn trap(x0: u64, esr: u64) -> (FakeCpu, FakeMachine) {
    let (mut cpu, machine) = (FakeCpu::new(x0), FakeMachine::new());
    cpu.next = answer(&mut cpu, &machine, Esr::new(esr));
    (cpu, machine)
}

#[test]
fn an_hvc_is_behind_the_host_and_an_smc_is_moved_there() {
    let (cpu, _) = trap(0x8500_0000, HVC);
    assert_eq!((cpu.registers[0], cpu.elr, cpu.spsr), (smccc::NOT_SUPPORTED, 0x4020_0000, 5));
    let (cpu, _) = trap(0x8600_0000, HVC);
    assert_eq!((cpu.registers[0], cpu.elr, cpu.spsr, cpu.next), (0x8600_0000, 0x4020_0000, 5, Next::Own));
    let (cpu, _) = trap(0x8600_0000, SMC);
    assert_eq!((cpu.registers[0], cpu.elr, cpu.spsr), (smccc::NOT_SUPPORTED, 0x4020_0004, 5));
    assert_eq!(cpu.registers[1..], FakeCpu::new(0).registers[1..]);
}

#[test]
fn a_call_to_kvm_is_one_by_hvc() {
    for (x0, esr, next) in [
        (0xc600_0000, HVC, Next::Kvm),
        (0xc600_44ff, HVC, Next::Kvm),
        (0xc600_4500, HVC, Next::Own),
        (0xc600_0000, HVC | 1, Next::Host),
        (0xc600_0000, SMC, Next::Host),
        (0xc500_0000, HVC, Next::Host),
    ] {
        let (cpu, _) = trap(x0, esr);
        let x0_after = if next == Next::Host { smccc::NOT_SUPPORTED } else { x0 };
        assert_eq!((cpu.next, cpu.registers[0]), (next, x0_after), "{x0:#x}");
    }
}

#[test]
fn numbers_below_the_smccc_range_are_stub_calls_of_hvc_whatever_the_immediate() {
    for number in [0, 1, 2, 3, 4, 5, 0x1234, 0x7fff_ffff, 1 << 40] {
        let (cpu, machine) = trap(number, HVC | 0xea1);
        assert_eq!((cpu.next, cpu.registers), (Next::Stub, FakeCpu::new(number).registers));
        assert!(cpu.el1.is_none() && machine.firmware.0.borrow().is_empty());
    }
}

/// While it has vectors installed, an address in x0 is theirs, whatever its low word looks like.
#[test]
fn an_address_is_for_the_hosts_vectors() {
    for (low, without) in [
        (0x0012_3000, Next::Stub),
        (0x8000_0000, Next::Host),
        (0x8123_4000, Next::Host),
        (0x8400_0000, Next::Host),
        (0x8600_4500, Next::Own),
        (0xc600_0000, Next::Kvm),
    ] {
        for (high, has_vectors, next) in
            [(0, true, without), (0xffff_0000 << 32, false, without), (0xffff_0000 << 32, true, Next::Stub)]
        {
            let (mut cpu, machine) = (FakeCpu::new(high | low), FakeMachine::new());
            cpu.has_vectors = has_vectors;
            assert_eq!(hvc(&mut cpu, &machine, Esr::new(HVC)), next, "{low:#x}");
            // By SMC there is nobody at EL2.
            assert_eq!(smc(&mut cpu, &machine, Esr::new(SMC)), Next::Host, "{low:#x}");
        }
    }
}

/// ESR_EL2 of a trapped MRS (bit 0 set) or MSR of S3_0_C0_C7_`op2` with x3 (Arm ARM D24.2, ISS encoding of EC 0x18).
const fn access(read: bool, op2: u64) -> u64 {
    0x18 << 26 | 1 << 25 | 3 << 20 | op2 << 17 | 3 << 5 | 7 << 1 | read as u64
}

#[test]
fn a_hidden_id_register_is_read_as_exeunt_says() {
    let (cpu, _) = trap(0, access(true, 0));
    assert_eq!((cpu.registers[3], cpu.elr), (0x1122, 0x4020_0004));
    assert!(cpu.el1.is_none());
}

#[test]
fn a_trapped_register_that_is_not_hidden_is_undefined() {
    for esr in [access(true, 1), access(false, 0)] {
        let (cpu, _) = trap(0, esr);
        assert_eq!(cpu.registers, FakeCpu::new(0).registers);
        assert_eq!(cpu.el1.map(|entry| entry.esr_el1 >> 26), Some(0));
    }
}

#[test]
fn a_register_of_a_unit_that_was_shut_is_accessed_again_and_no_other_is() {
    let syndrome = |encoding: Encoding| {
        Esr::new(
            0x18 << 26
                | 1 << 25
                | u64::from(encoding.op0) << 20
                | u64::from(encoding.op2) << 17
                | u64::from(encoding.op1) << 14
                | u64::from(encoding.crn) << 10
                | u64::from(encoding.crm) << 1,
        )
    };
    let mpam1 = Encoding::new(3, 0, 10, 5, 0);
    let (mut cpu, machine) = (FakeCpu::new(0), FakeMachine::new());
    assert_eq!(answer(&mut cpu, &machine, syndrome(mpam1)), Next::Host);
    assert_eq!((cpu.elr, cpu.el1, &cpu.asked[..]), (FakeCpu::new(0).elr, None, &[mpam1][..]), "the host tries again");
    // It traps although it is open, and nobody knows why.
    assert_eq!(answer(&mut cpu, &machine, syndrome(mpam1)), Next::Host);
    assert_eq!(cpu.el1.map(|entry| entry.esr_el1 >> 26), Some(0));
    let actlr = Encoding::new(3, 0, 1, 0, 1);
    let mut cpu = FakeCpu::new(0);
    assert_eq!(answer(&mut cpu, &machine, syndrome(actlr)), Next::Host);
    assert!(cpu.el1.is_some());
}

#[test]
fn firmwares_calls_go_there_and_come_back_with_all_registers() {
    let (cpu, machine) = trap(0x8200_0001, SMC);
    assert_eq!(*machine.firmware.0.borrow(), [FakeCpu::new(0x8200_0001).registers]);
    assert_eq!(cpu.registers, core::array::from_fn(|n| 0x7000 + n as u64));
    assert_eq!(cpu.elr, 0x4020_0004);
    let (_, machine) = trap(0x8200_0001, SMC | 1);
    assert!(machine.firmware.0.borrow().is_empty(), "not with an immediate");
}

#[test]
fn psci_goes_through_the_proxy_by_either_conduit() {
    for conduit in [HVC, SMC] {
        let (mut cpu, machine) = (FakeCpu::new(0xc400_0003), FakeMachine::new());
        (cpu.registers[1], cpu.registers[2], cpu.registers[3]) = (1, 0x4020_0000, 9);
        let _ = answer(&mut cpu, &machine, Esr::new(conduit));
        assert_eq!(machine.firmware.0.borrow()[0][..4], [0xc400_0003, 1, 0x4000_0000, 1]);
        assert_eq!(cpu.registers[..5], [0x7000, 1, 0x4020_0000, 9, 0x1004]);
        // The fake's answer is an error, so that the claim is undone.
        assert_eq!(machine.psci.power_state(1), PowerState::Off);
    }
}

#[test]
fn a_stray_access_ends_in_an_external_abort_at_its_own_instruction() {
    let (cpu, _) = trap(0, 0x9200_0047);
    let entry = cpu.el1.unwrap();
    assert_eq!((entry.elr_el1, entry.far_el1), (0x4020_0000, Some(0x4000_0123)));
    assert_eq!((entry.esr_el1, entry.spsr_el1), (0x9600_0050, 5));
    assert_eq!((cpu.elr, cpu.spsr), (0xffff_8000_0000_0a00, 0x3c5));
    assert_eq!(cpu.walks.get(), 0, "no walk where the fault was not on one");
    assert_eq!(cpu.registers, FakeCpu::new(0).registers);
}

#[test]
fn a_fault_on_a_stage_1_walk_asks_for_its_level() {
    let (cpu, _) = trap(0, 0x8200_0087);
    assert_eq!(cpu.walks.get(), 1);
    assert_eq!(cpu.el1.unwrap().esr_el1, 0x8600_0016);
}

/// Where the host may never execute.
const NEVER: u64 = 0x403f_0040;

#[test]
fn an_instruction_where_none_may_be_is_an_abort() {
    let mut cpu = FakeCpu { far: NEVER, ..FakeCpu::new(0) };
    let _ = answer(&mut cpu, &FakeMachine::new(), Esr::new(0x8200_000f));
    assert_eq!(cpu.allowed, 1);
    assert!(cpu.el1.is_some(), "an external abort");
}

#[test]
fn a_store_into_the_black_box_is_passed_over_and_nothing_else_is() {
    let aborts = |far, esr| {
        let mut cpu = FakeCpu { far, ..FakeCpu::new(0) };
        let _ = answer(&mut cpu, &FakeMachine::new(), Esr::new(esr));
        cpu.el1.is_some()
    };
    // A write that stage 2 refuses; the same elsewhere, as a read, on a stage 1 walk, and where nothing is mapped.
    assert!(!aborts(NEVER, 0x9200_004f));
    for (far, esr) in
        [(0, 0x9200_004f), (NEVER, 0x9200_000f), (NEVER, 0x9200_00cf), (NEVER, 0x9200_0047), (NEVER, 0x8200_008f)]
    {
        assert!(aborts(far, esr), "{far:#x} {esr:#x}");
    }
}

#[test]
fn an_instruction_outside_of_ram_is_let_pass() {
    // Permission fault of a fetch, level 1 and 2.
    for esr in [0x8200_000d, 0x8200_000e] {
        let (cpu, _) = trap(0, esr);
        assert_eq!((cpu.allowed, cpu.el1, cpu.elr, cpu.spsr), (1, None, 0x4020_0000, 5), "it tries again");
    }
    // Where there is nothing, on a stage 1 walk, or of data: no reason to let it pass.
    for esr in [0x8200_0006, 0x8200_008e, 0x9200_000e] {
        let (cpu, _) = trap(0, esr);
        assert_eq!(cpu.allowed, 0);
        assert!(cpu.el1.is_some(), "{esr:#x}");
    }
}

#[test]
fn wfi_is_skipped() {
    let (cpu, _) = trap(0, 0x0600_0000);
    assert_eq!((cpu.elr, cpu.el1), (0x4020_0004, None));
    let mut cpu = FakeCpu::new(0);
    cpu.spsr = 0x30;
    let _ = answer(&mut cpu, &FakeMachine::new(), Esr::new(0x0400_0000));
    assert_eq!((cpu.elr, cpu.el1), (0x4020_0002, None), "T32, 16 bits");
}

#[test]
fn every_other_class_is_an_undefined_instruction() {
    for class in 0..64_u64 {
        if [0x01, 0x16, 0x17, 0x20, 0x24].contains(&class) {
            continue;
        }
        for spsr in [0, 4, 5, 0x10] {
            let mut cpu = FakeCpu::new(0);
            cpu.spsr = spsr;
            let _ = answer(&mut cpu, &FakeMachine::new(), Esr::new(class << 26 | IL_BIT));
            let entry = cpu.el1.unwrap();
            assert_eq!((entry.esr_el1, entry.far_el1, entry.elr_el1), (0x0200_0000, None, 0x4020_0000), "{class:#x}");
            assert_eq!(cpu.spsr & pstate::MODE_MASK, pstate::EL1H);
        }
    }
}

const IL_BIT: u64 = 1 << 25;

/// The log as the tests of this file see it, one thread for each test.
struct Lines;

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
    }
    fn flush(&self) {}
}

#[test]
fn the_log_says_what_happened_and_does_not_flood() {
    // Another test may have been first: then there is nothing to see here.
    if log::set_logger(&Lines).is_err() {
        return;
    }
    log::set_max_level(log::LevelFilter::Warn);
    let machine = FakeMachine::new();
    for esr in [0x9200_0047_u64, 0x9200_000f, 0x6632_0461, 0x6232_0461] {
        let _ = answer(&mut FakeCpu::new(0), &machine, Esr::new(esr));
    }
    let lines = LINES.take();
    assert_eq!(
        lines,
        [
            "host at 0x40200000: data abort from EL1 or EL0: translation fault, level 3, write, FAR 0x40000123, \
             IPA page 0x40000000; it gets an external abort",
            "host at 0x40200000: data abort from EL1 or EL0: permission fault, level 3, read, FAR 0x40000123; \
             it gets an external abort",
            "host at 0x40200000: trapped SVE access, ISS 0x320461; it gets an undefined instruction",
            "host at 0x40200000: trapped MSR, MRS or system instruction: read of S3_0_C1_C0_1, x3; \
             it gets an undefined instruction",
        ]
    );
    for _ in 0..100 {
        let _ = answer(&mut FakeCpu::new(0), &machine, Esr::new(0x9200_0047));
        let _ = answer(&mut FakeCpu::new(0x8600_0000), &machine, Esr::new(HVC));
    }
    assert_eq!(LINES.take().len(), usize::from(LOG_BURST) - 4, "calls are not worth a line");
}

proptest! {
    #![proptest_config(cases(4000, 16))]

    /// Whatever traps, from whatever state: no panic, and either the host goes on with an answer or it is at its vector
    /// with its registers as they were.
    #[test]
    fn any_trap_is_answered(
        esr: u64,
        registers in prop::array::uniform18(any::<u64>()),
        elr: u64,
        spsr: u64,
        far: u64,
    ) {
        let machine = FakeMachine::new();
        let mut cpu = FakeCpu { registers, elr, spsr, far, ..FakeCpu::new(0) };
        let walk = Esr::new(esr).abort().is_some_and(crate::syndrome::Abort::on_stage1_walk);
        let _ = answer(&mut cpu, &machine, Esr::new(esr));
        match cpu.el1 {
            Some(entry) => {
                prop_assert_eq!((entry.elr_el1, entry.spsr_el1), (elr, spsr));
                prop_assert_eq!(cpu.registers, registers);
                prop_assert_eq!(cpu.elr & !0x7ff, 0xffff_8000_0000_0800);
                prop_assert_eq!(cpu.walks.get() == 1, walk && entry.far_el1.is_some());
            }
            // A fetch outside of RAM is made again.
            None if cpu.allowed == 1 => {
                prop_assert_eq!(Esr::new(esr).class_bits(), 0x20);
                prop_assert_eq!((cpu.elr, cpu.spsr, cpu.registers), (elr, spsr, registers));
            }
            // An access to a unit that was shut is made again.
            None if cpu.asked.first().is_some_and(|&access| Unit::of(access).is_some()) => {
                prop_assert_eq!(Esr::new(esr).class_bits(), 0x18);
                prop_assert_eq!((cpu.elr, cpu.spsr, cpu.registers), (elr, spsr, registers));
            }
            None => prop_assert!([0x01, 0x16, 0x17].contains(&Esr::new(esr).class_bits())),
        }
    }

    /// The random calls of a bare-metal guest, here first.
    #[test]
    fn any_call_is_answered(smc: bool, x0: u64, mask in 0_u32..4, immediate: u16) {
        // Most random numbers would be a stub's: let more of them be fast calls of known owners.
        let x0 = [x0, x0 | 1 << 31, x0 & !(0xff << 16) | 1 << 31, x0 & !0x3bff_ffe0 | 0x8400_0000][mask as usize];
        let immediate = if immediate & 1 == 0 { 0 } else { immediate };
        let (cpu, machine) = trap(x0, if smc { SMC } else { HVC } | u64::from(immediate));
        prop_assert!(cpu.el1.is_none());
        prop_assert_eq!(cpu.elr, if smc { 0x4020_0004 } else { 0x4020_0000 });
        if machine.firmware.0.borrow().is_empty() {
            // Somebody else's call, as it was made, or one of PSCI's errors.
            let answer = cpu.registers[0];
            match cpu.next {
                Next::Host => prop_assert!(answer.wrapping_neg() <= 9, "{answer:#x}"),
                Next::Stub | Next::Own | Next::Kvm => prop_assert_eq!((answer, smc), (x0, false)),
            }
            prop_assert_eq!(&cpu.registers[1..], &FakeCpu::new(0).registers[1..]);
        }
    }
}
