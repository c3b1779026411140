//! The contract between a host and EL2: call numbers, result codes, records, and the caller's side.
//!
//! Exeunt, the guests that test it and the tools that read its records all take these definitions from here. The crate
//! has no dependency and allocates nothing. It never decides anything: what a call does in which state is the
//! hypervisor's, and is written down in [`table`], from which `docs/abi.md` is rendered.
//!
//! | module | what it owns |
//! |---|---|
//! | [`stub`] | the stub calls of Linux, 0 to 4: numbers and results |
//! | [`smccc`] | the layout of the function identifiers of the Arm SMC Calling Convention |
//! | [`vendor`] | Exeunt's own calls in the vendor-specific hypervisor range: numbers, arguments, results, errors |
//! | [`record`] | the records that calls write into memory of the caller's |
//! | [`blackbox`] | what Exeunt leaves in memory for whoever reads a dump, or asks after a reset |
//! | [`doorbell`] | the page by which a program of root's reaches EL2 without a kernel module |
//! | [`table`] | all calls and records as data, for the documentation |
//! | `call` | functions that issue the calls, on AArch64 only |

#![cfg_attr(not(test), no_std)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod blackbox;
#[cfg(all(target_arch = "aarch64", any(target_os = "none", target_os = "linux")))]
pub mod call;
pub mod doorbell;
pub mod record;
pub mod smccc;
pub mod stub;
pub mod table;
pub mod vendor;

/// Bytes of Exeunt's own memory, and the alignment of its address. The device tree keeps the host from using it
/// (`/reserved-memory/exeunt@...`), its first page is the [`doorbell`], and its end is the [`blackbox`].
pub const RESERVATION: u64 = 0x20_0000;
