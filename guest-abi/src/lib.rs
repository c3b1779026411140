//! The contract between a host and EL2: call numbers, result codes, and nothing else.
//!
//! Exeunt, the guests that test it and the tools that read its records all take these definitions from here. The crate has
//! no dependency and allocates nothing. It never decides anything: what a call does in which state is the hypervisor's.

#![no_std]

pub mod stub;
