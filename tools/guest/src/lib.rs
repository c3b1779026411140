//! `exeunt`, the program in the guest: what it asks of Exeunt, and how it says it.
//!
//! It needs nothing but `/dev/mem` and the device tree. All that touches the machine is behind two traits,
//! [`page::Page`] for Exeunt's 2 MiB and [`host::Host`] for Linux, so that the tests try the rest on the workstation.
//!
//! | module | what it owns |
//! |---|---|
//! | [`page`] | loads and stores in Exeunt's 2 MiB, and how they fail |
//! | [`memory`] | the same in earnest: `/dev/mem`, and SIGBUS that becomes an error |
//! | [`door`] | the doorbell: is Exeunt there, and calls with retries |
//! | [`host`] | what is asked of Linux: its CPUs, the time, something that makes an SMC |
//! | [`find`] | where Exeunt is, by the device tree |
//! | [`snapshot`] | the black box as it is at a moment |
//! | [`kcore`] | the black box without Exeunt's help |
//! | [`words`] | numbers in words |
//! | [`trouble`] | what can go wrong, in sentences, and the exit statuses |
//! | [`commands`] | one module for each command |

pub mod commands;
pub mod door;
pub mod find;
pub mod host;
pub mod kcore;
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
pub mod memory;
pub mod page;
pub mod snapshot;
#[cfg(test)]
mod tests;
pub mod trouble;
pub mod words;
