//! Exeunt's logic: everything that is not an access to a system register.
//!
//! The EL2 image (the package `exeunt`) feeds this library with register values and memory, and does what it answers.
//! It never executes a system-register instruction and allocates nothing, so that the workstation can test
//! and Miri can check all of it.

#![cfg_attr(not(test), no_std)]

pub mod blackbox;
pub mod counters;
pub mod crash_notes;
pub mod devicetree;
pub mod doorbell;
pub mod faults;
pub mod features;
pub mod guard;
pub mod image;
pub mod inject;
pub mod leave;
pub mod lifecycle;
pub mod options;
pub mod own_calls;
pub mod paging;
pub mod panic_request;
pub mod placement;
pub mod psci;
pub mod ratelimit;
pub mod rescue;
pub mod restart;
pub mod serror;
pub mod sgi;
pub mod smccc;
pub mod start;
pub mod stub;
pub mod syndrome;
#[cfg(test)]
mod tests;
pub mod trap;
pub mod uart;
pub mod virtual_el2;
pub mod watchdog;
