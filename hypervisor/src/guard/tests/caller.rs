//! Kernel stacks that are made up, in the forms of each kernel.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::guard::caller::{Load, loads};
use crate::tests::cases;

const TOP: u64 = 0xffff_8000_1234_4000;
const PC: u64 = 0xffff_b70d_bee8;
/// The first argument of the system call.
const ENTRY: u64 = 0x7e12_3000;

/// Words by their addresses.
type Stack = BTreeMap<u64, u64>;

/// A stack on which `depth` functions have called each other, in a system call with this number: the words, and x29.
fn stack(record: u64, depth: u64, call: u32, pstate: u64) -> (Stack, u64) {
    let registers = TOP - 0x150;
    let mut words = Stack::new();
    words.insert(registers + if pstate & 0x10 == 0 { 64 } else { 56 }, call.into());
    words.insert(registers + 256, PC);
    words.insert(registers + 264, pstate);
    words.insert(registers + 272, ENTRY);
    words.insert(registers + 280, u64::from(call) | 0x1234_5678 << 32);
    words.insert(registers + record, 0);
    words.insert(registers + record + 8, 0);
    words.insert(registers + record + 16, 1);
    let mut at = registers + record;
    for function in 0..depth {
        let next = at;
        at = (at.min(registers) - 0x30 - function % 3 * 0x20) & !15;
        words.insert(at, next);
        words.insert(at + 8, 0xffff_c289_65d7_2978 + function);
    }
    (words, at)
}

fn ask((words, x29): &(Stack, u64)) -> Option<Load> {
    loads(*x29, |address| {
        assert!(address.is_multiple_of(8));
        words.get(&address).copied()
    })
}

#[test]
fn each_load_is_found_on_each_kernels_stack() {
    for record in [304, 296, 312] {
        for (call, pstate) in [(104, 0x8000_0000), (294, 0), (347, 0x6000_0010)] {
            for depth in [0, 1, 8, 60] {
                let load = Load { returns_to: PC, entry: (call != 294).then_some(ENTRY) };
                assert_eq!(ask(&stack(record, depth, call, pstate)), Some(load), "{record}, {call}, {depth} deep");
            }
        }
    }
}

#[test]
fn other_calls_and_other_levels_load_nothing() {
    for (call, pstate) in [
        (64, 0),
        (142, 0),
        (347, 0),
        (104, 0x10),
        (294, 0x10),
        (u32::MAX, 0),
        (104, 0x5),
        (104, 0x4),
        (104, 0x9),
        (347, 0x13),
    ] {
        assert_eq!(ask(&stack(304, 5, call, pstate)), None, "{call}, PSTATE {pstate:#x}");
    }
}

#[test]
fn a_number_that_user_space_did_not_ask_for_counts_for_nothing() {
    let mut stack = stack(304, 5, 104, 0);
    stack.0.insert(TOP - 0x150 + 64, 105);
    assert_eq!(ask(&stack), None);
}

#[test]
fn what_is_no_stack_ends() {
    let (words, x29) = stack(304, 8, 104, 0);
    for start in [0, 8, x29 + 4, x29 - 16, TOP, u64::MAX, u64::MAX - 7] {
        assert_eq!(ask(&(words.clone(), start)), None, "{start:#x}");
    }
    // To itself, downwards, to another stack, and without an end.
    for next in [x29, x29 - 64, x29 + (64 << 10), 0x1000] {
        let mut words = words.clone();
        words.insert(x29, next);
        assert_eq!(ask(&(words, x29)), None, "{next:#x}");
    }
    let reads = Cell::new(0);
    let endless = |address| {
        reads.set(reads.get() + 1);
        Some(address + 16)
    };
    assert_eq!(loads(x29, endless), None);
    assert!(reads.get() <= 128);
    // The stack of a kernel thread ends without a call.
    let (mut words, x29) = stack(304, 8, 104, 0);
    words.retain(|address, _| !(TOP - 0x150..TOP - 0x150 + 304).contains(address));
    assert_eq!(ask(&(words, x29)), None);
}

proptest! {
    #![proptest_config(cases(256, 4))]

    #[test]
    fn anything_ends_without_a_panic(x29: u64, words: Vec<u64>, near in 0_u64..64) {
        let words = if words.is_empty() { vec![0] } else { words };
        for start in [x29, x29 & !7, u64::MAX - near * 8] {
            let reads = Cell::new(0);
            let word = |address: u64| {
                reads.set(reads.get() + 1);
                let word = words[(address / 8) as usize % words.len()];
                Some(match word % 4 { 0 => 0, 1 => address.wrapping_add(word >> 50 & !7), _ => word })
            };
            let _ = loads(start, word);
            prop_assert!(reads.get() <= 2 * 64 + 3 * 4);
        }
    }
}
