//! The stub calls, as Exeunt answers them while it is live.
//!
//! Owns the answer by number and entry level (the table in `docs/abi.md`), and the arguments' validation. It changes
//! nothing: what an answer asks for is done by the caller, in the EL2 binary.
//!
//! The rule behind every case: a host that was entered at virtual EL2 gets exactly what EL2 would have given it: its
//! own stub's answer (`arch/arm64/kernel/hyp-stub.S`), or that of the vectors which it has installed instead. Where
//! Exeunt cannot or must not do that, HVC_STUB_ERR with no register changed but x0. Linux goes on from there: both of
//! its SOFT_RESTART callers fall through to a plain branch at EL1 (`cpu-reset.S`, `relocate_kernel.S`).

use guest_abi::stub;

use crate::lifecycle::EntryLevel;

/// Alignment of a vector table (Arm ARM D24.2, VBAR_EL2: bits 10:0 are RES0).
const VECTORS_ALIGNMENT: u64 = 0x800;

/// Alignment of an A64 instruction.
const INSTRUCTION_ALIGNMENT: u64 = 4;

/// What is known where the call is answered.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Whether the host has installed vectors by SET_VECTORS that are not its own stub's, so that EL2 would run them.
    pub has_vectors: &'a dyn Fn() -> bool,
    /// How the host was entered.
    pub entry: EntryLevel,
    /// Whether an address is RAM of the host's.
    pub is_host_ram: &'a dyn Fn(u64) -> bool,
    /// The CPU interface of the GIC is in system registers: ICH_VTR_EL2 is there.
    pub has_gic_registers: bool,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// x0, and nothing else.
    Return(u64),
    /// Record x1 as the host's VBAR_EL2; x0 = 0.
    SetVectors(u64),
    /// Enter `entry` with x0 to x2 = `arguments`, x3 as it is and x4 = `entry` (as the stub leaves it).
    SoftRestart {
        /// Where.
        entry: u64,
        /// x0 to x2 of the next payload.
        arguments: [u64; 3],
    },
    /// Leave EL2 on this CPU; x0 = 0.
    ResetVectors,
    /// x0 = HVC_STUB_ERR, so that the host stays at EL1; SVE and SME are open already.
    Finalise,
    /// x0 = 0, x1 = ICH_VTR_EL2.
    IchVtr,
    /// Whatever the vectors answer that the host has installed: they run in virtual EL2.
    Vectors,
}

/// Answers the stub call whose registers are `x` (x0 the number).
#[must_use]
pub fn answer(x: &[u64; 18], context: &Context) -> Answer {
    const REFUSED: Answer = Answer::Return(stub::STUB_ERR);
    let [number, address, ..] = *x;
    // A host that was entered at EL1 owns no EL2 to give vectors to, and Linux never asks there. What needs no EL2 of
    // its own is answered all the same.
    let owns_el2 = context.entry == EntryLevel::VirtualEl2;
    let usable = |alignment| address.is_multiple_of(alignment) && (context.is_host_ram)(address);
    match number {
        stub::SET_VECTORS if owns_el2 && usable(VECTORS_ALIGNMENT) => Answer::SetVectors(address),
        stub::SOFT_RESTART if usable(INSTRUCTION_ALIGNMENT) => {
            Answer::SoftRestart { entry: address, arguments: [x[2], x[3], x[4]] }
        }
        stub::RESET_VECTORS => Answer::ResetVectors,
        stub::FINALISE_EL2 if owns_el2 => Answer::Finalise,
        stub::GET_ICH_VTR_EL2 if context.has_gic_registers => Answer::IchVtr,
        // Exeunt stands in for a stub, and Linux's refuses what it does not know. Other vectors are installed to be
        // run: what they make of a call nobody else can tell.
        stub::STUB_CALLS_END.. if owns_el2 && (context.has_vectors)() => Answer::Vectors,
        _ => REFUSED,
    }
}

#[cfg(test)]
mod tests {
    use guest_abi::stub::{
        FINALISE_EL2, GET_ICH_VTR_EL2, RESET_VECTORS, SET_VECTORS, SOFT_RESTART, STUB_CALLS_END, STUB_ERR,
    };
    use proptest::prelude::*;

    use super::*;

    fn ask(entry: EntryLevel, has_gic_registers: bool, number: u64, x1: u64) -> Answer {
        ask_with(entry, has_gic_registers, false, number, x1)
    }

    fn ask_with(entry: EntryLevel, has_gic_registers: bool, has_vectors: bool, number: u64, x1: u64) -> Answer {
        let mut x = core::array::from_fn(|n| 0x1000 + n as u64);
        (x[0], x[1]) = (number, x1);
        let ram = 0x4000_0000..0x8000_0000;
        let own = 0x4020_0000..0x4040_0000;
        let is_host_ram = |address| ram.contains(&address) && !own.contains(&address);
        let has_vectors = || has_vectors;
        answer(&x, &Context { entry, has_vectors: &has_vectors, is_host_ram: &is_host_ram, has_gic_registers })
    }

    const BOTH: [EntryLevel; 2] = [EntryLevel::El1, EntryLevel::VirtualEl2];
    const REFUSED: Answer = Answer::Return(STUB_ERR);

    #[test]
    fn set_vectors_is_for_a_host_that_owns_el2() {
        assert_eq!(ask(EntryLevel::VirtualEl2, true, SET_VECTORS, 0x4100_0800), Answer::SetVectors(0x4100_0800));
        assert_eq!(ask(EntryLevel::El1, true, SET_VECTORS, 0x4100_0800), REFUSED);
        for bad in [0x4100_0400, 0x4100_0001, 0, 0x0900_0000, 0x4020_0000, 0x403f_f800, 0x8000_0000, !0x7ff] {
            assert_eq!(ask(EntryLevel::VirtualEl2, true, SET_VECTORS, bad), REFUSED, "{bad:#x}");
        }
    }

    #[test]
    fn soft_restart_goes_to_instructions_in_the_hosts_ram_only() {
        for entry in BOTH {
            let restart = Answer::SoftRestart { entry: 0x4100_0004, arguments: [0x1002, 0x1003, 0x1004] };
            assert_eq!(ask(entry, true, SOFT_RESTART, 0x4100_0004), restart);
            for bad in [0x4100_0002, 0x4100_0001, 0, 0x0900_0000, 0x4020_0000, 0x403f_fffc, 0x8000_0000, !3] {
                assert_eq!(ask(entry, true, SOFT_RESTART, bad), REFUSED, "{bad:#x}");
            }
        }
    }

    #[test]
    fn the_other_numbers() {
        for entry in BOTH {
            assert_eq!(ask(entry, true, RESET_VECTORS, 7), Answer::ResetVectors);
            assert_eq!(ask(entry, true, GET_ICH_VTR_EL2, 7), Answer::IchVtr);
            assert_eq!(ask(entry, false, GET_ICH_VTR_EL2, 7), REFUSED);
        }
        assert_eq!(ask(EntryLevel::VirtualEl2, true, FINALISE_EL2, 7), Answer::Finalise);
        assert_eq!(ask(EntryLevel::El1, true, FINALISE_EL2, 7), REFUSED);
    }

    proptest! {
        #[test]
        fn any_other_number_is_refused(number in STUB_CALLS_END.., x1: u64, at_el1: bool) {
            let entry = BOTH[usize::from(!at_el1)];
            prop_assert_eq!(ask(entry, true, number, x1), REFUSED);
        }

        #[test]
        fn installed_vectors_answer_what_no_stub_knows(number: u64, x1: u64, has_gic_registers: bool) {
            let entry = EntryLevel::VirtualEl2;
            let answer = ask_with(entry, has_gic_registers, true, number, x1);
            if number < STUB_CALLS_END {
                prop_assert_eq!(answer, ask(entry, has_gic_registers, number, x1));
            } else {
                prop_assert_eq!(answer, Answer::Vectors);
            }
            // A host that was entered at EL1 has none.
            prop_assert_eq!(
                ask_with(EntryLevel::El1, has_gic_registers, true, number, x1),
                ask(EntryLevel::El1, has_gic_registers, number, x1)
            );
        }
    }

    /// The small numbers are rare among random ones.
    #[test]
    fn installed_vectors_change_nothing_for_the_calls_of_a_stub() {
        for number in 0..STUB_CALLS_END {
            for x1 in [0, 7, 0x4100_0000, 0x4100_0800] {
                let entry = EntryLevel::VirtualEl2;
                assert_eq!(ask_with(entry, true, true, number, x1), ask(entry, true, number, x1));
            }
        }
    }
}
