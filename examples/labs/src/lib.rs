//! The labs' frames: each calls what you write in `yours/`, and says whether it does what the lab asks for.
//!
//! A frame says `lab: solved` or `lab: saw` and what it saw instead, and turns the machine off; `scripts/lab` reads
//! that. Labs 2, 4 and 7 run at the real EL2 of a bare machine, where you are the hypervisor ([`mini`]). The others run
//! in the host's place under Exeunt.

#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
#[macro_use]
pub mod verdict;
#[cfg(target_os = "none")]
pub mod decode;
#[cfg(target_os = "none")]
pub mod first_call;
#[cfg(target_os = "none")]
pub mod map;
#[cfg(target_os = "none")]
pub mod mini;
#[cfg(target_os = "none")]
pub mod own_trace;
#[cfg(target_os = "none")]
pub mod rescue;
#[cfg(target_os = "none")]
pub mod second_cpu;
#[cfg(target_os = "none")]
pub mod stub;
#[cfg(target_os = "none")]
pub mod tear_down;
#[cfg(target_os = "none")]
pub mod trapped;
