//! The set-up for the CPU models of the tests.
