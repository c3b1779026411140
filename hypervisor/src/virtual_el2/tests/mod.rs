//! Virtual EL2 as the host sees it, and what it does to hardware.
//!
//! `host` has a CPU that is not there and remembers what was done to it, and a host that runs on it instruction by
//! instruction.

mod decode;
mod exceptions;
mod host;
mod interrupts;
mod linux;
mod properties;
mod table;
