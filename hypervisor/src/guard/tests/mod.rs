//! The guard against made-up Linuxes.

mod caller;
mod linux;
mod loaded;
mod state;

use proptest::prelude::*;

use super::{asks_for_crash_kernel, pack, unpack};
use crate::devicetree::Region;
use crate::tests::cases;

#[test]
fn a_command_line_asks_for_a_crash_kernel_by_a_word_of_its_own() {
    for asks in ["crashkernel=256M", "quiet crashkernel=1G-:256M,high x", "\tcrashkernel=", "a  crashkernel=1M@2M"] {
        assert!(asks_for_crash_kernel(asks.as_bytes()), "{asks}");
    }
    for does_not in ["", "crashkernel", "nocrashkernel=256M", "root=crashkernel=1", "quiet"] {
        assert!(!asks_for_crash_kernel(does_not.as_bytes()), "{does_not}");
    }
}

#[test]
fn what_does_not_fit_in_a_word_is_none() {
    assert_eq!(unpack(pack(None)), None);
    for (start, end) in [(0, 1 << 40), (1 << 48, (1 << 48) + 0x1000), (0x1000, 0x1000), (0x2000, 0x1000), (8, 16)] {
        assert_eq!(unpack(pack(Some(Region { start, end }))), None, "{start:#x}-{end:#x}");
    }
}

proptest! {
    #![proptest_config(cases(256, 8))]

    #[test]
    fn a_region_goes_through_a_word(first in 0..1_u64 << 36, pages in 1..1_u64 << 28) {
        let region = Region { start: first << 12, end: (first + pages) << 12 };
        prop_assert_eq!(unpack(pack(Some(region))), Some(region));
    }
}
