//! What is found in a crash kernel's memory: what was loaded there, what was left there, and what is neither.

use super::linux::{Fake, HIGH, LOW, TWO};
use crate::guard::loaded::{Error, Start, find};
use crate::restart::tests::tree;

const KERNEL: u64 = HIGH.start + 0x20_0000;
const TREE: u64 = HIGH.start + 0x380_0000;

/// A Linux whose crash kernel's memory has Images and trees at these addresses.
fn loaded(kernels: &[u64], trees: &[(u64, &[&str])]) -> Result<Start, Error> {
    let mut ram = Fake::linux(TWO);
    for kernel in kernels {
        ram.text(kernel + 56, b"ARM\x64");
    }
    for (at, chosen) in trees {
        ram.text(*at, &tree(chosen));
    }
    find([Some(HIGH), Some(LOW)], &ram)
}

const CRASHED: &[&str] = &["bootargs", "linux,elfcorehdr"];

#[test]
fn one_kernel_with_one_tree_is_the_crash_kernel() {
    let other: &[&str] = &["bootargs"];
    for trees in [&[(TREE, CRASHED)][..], &[(HIGH.start, other), (TREE, CRASHED), (LOW.start, other)]] {
        assert_eq!(loaded(&[KERNEL], trees), Ok(Start { entry: KERNEL, tree: TREE }));
    }
    // The whole memory is looked through.
    let (first, last) = (LOW.start, HIGH.end - 0x1000);
    assert_eq!(loaded(&[first], &[(last, CRASHED)]), Ok(Start { entry: first, tree: last }));
    assert_eq!(loaded(&[last], &[(first, CRASHED)]), Ok(Start { entry: last, tree: first }));
}

#[test]
fn nothing_is_taken_where_something_is_missing() {
    assert_eq!(loaded(&[], &[]), Err(Error::None));
    assert_eq!(loaded(&[KERNEL], &[]), Err(Error::None));
    assert_eq!(loaded(&[], &[(TREE, CRASHED)]), Err(Error::None));
    assert_eq!(loaded(&[KERNEL], &[(TREE, &["bootargs"])]), Err(Error::None));
    assert_eq!(loaded(&[KERNEL + 8], &[(TREE, CRASHED)]), Err(Error::None), "not at the begin of a page");
    assert_eq!(loaded(&[KERNEL], &[(HIGH.end, CRASHED)]), Err(Error::None), "outside of the memory");
    assert_eq!(find([None; 2], &Fake::linux(TWO)), Err(Error::None));
}

#[test]
fn nobody_chooses_among_several() {
    let two = [(TREE, CRASHED), (TREE + 0x8000, CRASHED)];
    assert_eq!(loaded(&[KERNEL], &two), Err(Error::Several));
    assert_eq!(loaded(&[KERNEL, LOW.start], &two[..1]), Err(Error::Several));
    // Nor is there an end of looking into what only begins like a tree.
    let mut ram = Fake::linux(TWO);
    for page in (HIGH.start..HIGH.end).step_by(0x1000) {
        ram.text(page, &[0xd0, 0x0d, 0xfe, 0xed]);
    }
    assert_eq!(find([Some(HIGH), None], &ram), Err(Error::Several));
}
