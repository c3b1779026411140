//! What the tests of several modules share.

use proptest::prelude::ProptestConfig;

/// How often a property is tried. Under Miri, which is some hundred times slower, only as often as shows that there is
/// nothing undefined. A failure is printed and not kept in a file, which Miri's isolation would forbid.
pub fn cases(count: u32, under_miri: u32) -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { under_miri } else { count },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
