//! Tests of the translation tables as a whole: the builder against an independent software walker.
//!
//! `walker` knows the architecture and nothing of the builder, `memory` is the fake
//! [`TableMemory`](super::TableMemory), `model` says what a sequence of changes ought to mean, `examples` has tests
//! that read as sentences, and `properties` the random ones.

mod examples;
pub(crate) mod memory;
mod model;
mod properties;
mod root;
mod walker;

use proptest::test_runner::Config;

/// All of the cases, or under Miri one of `one_of`.
pub(super) fn thinned<I: IntoIterator>(cases: I, one_of: usize) -> impl Iterator<Item = I::Item> {
    cases.into_iter().step_by(if cfg!(miri) { one_of } else { 1 })
}

/// Settings for a property test with `cases` cases; Miri, some thousand times slower, gets a few.
pub(super) fn config(cases: u32) -> Config {
    let cases = if cfg!(miri) { 2 } else { cases };
    // A failing case is printed in full; files with seeds would need the file system, which Miri isolates.
    Config { cases, failure_persistence: None, ..Config::default() }
}
