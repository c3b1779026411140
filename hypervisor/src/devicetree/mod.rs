//! The device tree.
