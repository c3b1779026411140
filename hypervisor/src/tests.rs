//! What the tests of several modules share.

use proptest::prelude::ProptestConfig;

/// How often a property is tried. Under Miri, which is some hundred times slower, only as often as shows that there is
/// nothing undefined. A failure is printed and not kept in a file, which Miri's isolation would forbid.
///
/// EXEUNT_CASES is for the long runs, of the properties whose names follow: `EXEUNT_CASES=10000000 cargo test --release
/// --package hypervisor any_call_is_answered random_registers` makes that many random calls.
pub fn cases(count: u32, under_miri: u32) -> ProptestConfig {
    let wanted = std::env::var("EXEUNT_CASES").ok().map(|count| count.parse().expect("EXEUNT_CASES is a number"));
    ProptestConfig {
        cases: if cfg!(miri) { under_miri } else { wanted.unwrap_or(count) },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
