//! Whatever the host does, nothing panics, and hardware gets nothing that it must not get: the fake CPU refuses it.

use proptest::prelude::*;

use super::super::interrupts::Held;
use super::super::registers::{El2, Register};
use super::super::{Outcome, VirtualEl2};
use super::host::{ENTRY, ERET, Hardware, Host, Model, UNDEFINED, msr, msr_immediate, trapped};
use crate::features::{Gic, IdRegister, IdRegisters};
use crate::inject::pstate;
use crate::syndrome::Esr;

/// ID registers without meaning.
fn models() -> impl Strategy<Value = Model> {
    let values = prop::collection::vec(any::<u64>(), IdRegister::ALL.len());
    (values, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(values, v3, hide, holds)| {
        let ids = IdRegisters::read(|register| values[register as usize]);
        Model { ids, gic: if v3 { Gic::V3 } else { Gic::V2 }, hide, holds }
    })
}

/// The most steps of a sequence. Miri takes a second for each.
const STEPS: usize = if cfg!(miri) { 4 } else { 60 };

/// What a host may do in one step.
#[derive(Clone, Debug)]
enum Act {
    Word(u32),
    Syndrome(u32),
    Exception(u64),
    WriteEl2(El2, u64),
    WriteEl1(Register, u64),
    Return {
        pc: u64,
        spsr: u64,
    },
    SError(u64),
    /// So many interrupts in a row.
    Interrupts(u8),
    Enter,
    Call(u64),
}

fn values() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        Just(0),
        Just(!0),
        (0_u32..64).prop_map(|bit| 1 << bit),
        (0_u32..64).prop_map(|bit| !(1 << bit))
    ]
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => any::<u32>().prop_map(Act::Word),
        6 => (0xd500_0000..0xd540_0000_u32).prop_map(Act::Word),
        // The encodings of EL2: op0 2 or 3, op1 4.
        6 => (any::<bool>(), any::<bool>(), 0..1_u32 << 16).prop_map(|(read, op0_is_3, rest)| {
            Act::Word(0xd514_0000 | u32::from(read) << 21 | u32::from(op0_is_3) << 19 | rest)
        }),
        4 => (0xd508_0000..0xd540_0000_u32).prop_map(|word| Act::Syndrome(word | 1 << 19)),
        2 => any::<u64>().prop_map(Act::Exception),
        8 => (0..El2::ALL.len(), values()).prop_map(|(index, value)| Act::WriteEl2(El2::ALL[index], value)),
        4 => (0..Register::ALL.len(), values()).prop_map(|(index, value)| Act::WriteEl1(Register::ALL[index], value)),
        1 => (0_u8..8, 0_u8..8, 0_u8..16).prop_map(|(op1, op2, value)| Act::Word(msr_immediate(op1, op2, value))),
        2 => (any::<u64>(), values(), 0_u64..32)
            .prop_map(|(pc, spsr, mode)| Act::Return { pc, spsr: spsr & !0x1f | mode }),
        1 => any::<u64>().prop_map(Act::SError),
        1 => (0_u8..40).prop_map(Act::Interrupts),
        1 => Just(Act::Enter),
        2 => any::<u64>().prop_map(Act::Call),
    ]
}

/// Does it, unless the host is gone to EL1: then it enters again, or calls vectors that it has installed.
fn act(host: &mut Host, act: &Act) {
    if let Act::Call(vectors) = act {
        if !host.el2.in_window() {
            host.el2.set_vectors(*vectors);
            host.call(*vectors as u16);
        }
        return;
    }
    if !host.el2.in_window() {
        host.enter();
    }
    if matches!(act, Act::Return { .. }) {
        // There is an instruction here, wherever the last one has led.
        host.cpu.pc = ENTRY;
    }
    let answer = match *act {
        Act::Word(word) => host.execute(word),
        Act::Syndrome(word) => host.handle(trapped(word)),
        Act::Exception(esr) => {
            host.cpu.instruction = esr as u32;
            host.handle(Esr::new(esr))
        }
        Act::WriteEl2(register, value) => {
            host.cpu.x[0] = value;
            host.execute(msr(register.encoding(), 0))
        }
        Act::WriteEl1(register, value) => {
            host.cpu.x[0] = value;
            host.execute(msr(register.encoding(), 0))
        }
        Act::Return { pc, spsr } => {
            host.write_el2(El2::Elr, pc);
            host.write_el2(El2::Spsr, spsr);
            host.execute(ERET)
        }
        Act::SError(esr) => {
            host.el2.hold_serror(Esr::new(esr));
            return;
        }
        Act::Interrupts(count) => {
            for _ in 0..count {
                assert_ne!(host.interrupt(), Held::Outside);
            }
            return;
        }
        Act::Enter => {
            host.enter();
            return;
        }
        Act::Call(_) => return,
    };
    if let Outcome::GoNative { pc, pstate } = answer.outcome {
        assert_eq!((host.cpu.pc, host.cpu.spsr), (pc, pstate));
        let mode = pstate & pstate::MODE_MASK;
        assert!([pstate::EL0T, pstate::EL1T, pstate::EL1H, 0b10000].contains(&mode), "{pstate:#x}");
    }
    if let Some(note) = answer.note {
        assert!(!note.to_string().is_empty());
    }
}

proptest! {
    #[test]
    fn no_sequence_harms_hardware(
        model in models(),
        x in prop::array::uniform2(values()),
        acts in prop::collection::vec(acts(), 1..=STEPS),
    ) {
        let mut host = Host::new(model);
        for step in &acts {
            host.cpu.x = std::array::from_fn(|number| x[number % 2]);
            act(&mut host, step);
        }
    }

    /// On real models, where most instructions do something.
    #[test]
    fn no_sequence_harms_real_hardware(
        which in 0_usize..6,
        x in prop::array::uniform2(values()),
        acts in prop::collection::vec(acts(), 1..=STEPS),
    ) {
        let model = [
            Model::cortex_a57,
            Model::cortex_a57_gicv2,
            Model::max,
            Model::armv9,
            Model::everything,
            Model::nothing,
        ][which]();
        let mut host = Host::new(model);
        for step in &acts {
            host.cpu.x = std::array::from_fn(|number| x[number % 2]);
            act(&mut host, step);
        }
    }

    /// Whatever happened in between, going native gives back what the host had, and each window leaves HCR_EL2 as it
    /// found it.
    #[test]
    fn a_round_trip_changes_nothing(
        model in models(),
        values in prop::array::uniform9(any::<u64>()),
        acts in prop::collection::vec(acts(), 0..=STEPS),
    ) {
        // Acts that leave the borrowed registers and HCR_EL2 alone.
        let untouched = |act: &Act| match act {
            Act::Exception(esr) => ![0, 0x18].contains(&Esr::new(*esr).class_bits()),
            Act::WriteEl2(register, _) => *register != El2::Hcr,
            Act::Return { .. } | Act::Interrupts(_) => true,
            _ => false,
        };
        let mut cpu = Hardware::new(model);
        let borrowed = [
            Register::SctlrEl1,
            Register::CpacrEl1,
            Register::MdscrEl1,
            Register::SpEl0,
            Register::VbarEl1,
            Register::ElrEl1,
            Register::SpsrEl1,
            Register::EsrEl1,
            Register::FarEl1,
        ];
        for (register, value) in borrowed.into_iter().zip(values) {
            cpu.set(register, value);
        }
        let hcr = model.settings().native_hcr();
        let mut host = Host { model, cpu, el2: VirtualEl2::new(), traps: 0 };
        host.enter();
        host.el2.set_vectors(0x4100_0000);
        for step in acts.iter().filter(|act| untouched(act)) {
            act(&mut host, step);
        }
        act(&mut host, &Act::Return { pc: 0x4200_0000, spsr: 0x3c5 });
        prop_assert!(!host.el2.in_window());
        for (register, value) in borrowed.into_iter().zip(values) {
            prop_assert_eq!(host.cpu.get(register), value);
        }
        prop_assert_eq!(host.cpu.hcr(), hcr);
    }

    /// An undefined instruction is one whatever the PSTATE: the vector is right, and ERET goes back.
    #[test]
    fn exceptions_and_returns_match(pstate in any::<u64>(), pc in 0_u64..1 << 39, vectors in 0_u64..1 << 39) {
        let mut host = Host::new(Model::cortex_a57());
        host.el2.set_vectors(vectors);
        let pstate = pstate & (pstate::NZCV | pstate::DAIF | pstate::SP);
        act(&mut host, &Act::Word(msr_immediate(0, 5, (pstate & 1) as u8)));
        host.cpu.spsr = pstate & !pstate::SP;
        host.cpu.pc = pc & !3;
        let sp = host.cpu.get(Register::SpEl0);
        host.cpu.instruction = 0;
        prop_assert_eq!(host.handle(UNDEFINED).outcome, Outcome::Continue);
        let group = if pstate & 1 == 0 { 0 } else { 0x200 };
        prop_assert_eq!(host.cpu.pc, (vectors & !0x7ff) + group);
        prop_assert_eq!(host.execute(ERET).outcome, Outcome::Continue);
        prop_assert_eq!((host.cpu.pc, host.cpu.spsr), (pc & !3, pstate & !pstate::SP));
        prop_assert_eq!(host.cpu.get(Register::SpEl0), sp);
    }
}
