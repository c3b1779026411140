//! Exeunt's EL2 binary: from the first Rust instruction to the host's first, on every CPU.
//!
//! Owns the order in which things happen. What a tree, an image or an option means is decided in the library; what a
//! register needs is in the modules beside this one.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod blackbox;
#[cfg(target_os = "none")]
mod calls;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod crash;
#[cfg(target_os = "none")]
mod depart;
#[cfg(target_os = "none")]
mod doorbell;
#[cfg(target_os = "none")]
mod enter;
#[cfg(target_os = "none")]
mod exits;
#[cfg(target_os = "none")]
mod fast;
#[cfg(target_os = "none")]
mod faults;
#[cfg(target_os = "none")]
mod firmware;
#[cfg(target_os = "none")]
mod frame;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod guard;
#[cfg(target_os = "none")]
mod guarded;
#[cfg(target_os = "none")]
mod hangs;
#[cfg(target_os = "none")]
mod last_words;
#[cfg(target_os = "none")]
mod leaving;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod registers;
#[cfg(target_os = "none")]
mod rescue;
#[cfg(target_os = "none")]
mod resident;
#[cfg(target_os = "none")]
mod selftest;
#[cfg(target_os = "none")]
mod serror;
#[cfg(target_os = "none")]
mod stage2;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod ticks;
#[cfg(target_os = "none")]
mod trap;
#[cfg(target_os = "none")]
mod vectors;
#[cfg(target_os = "none")]
mod virtual_el2;
#[cfg(target_os = "none")]
mod watchdog;

/// The binary is built for the workstation too, by `cargo clippy --workspace`, and has nothing to do there.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("Exeunt runs at EL2: see `make run`.");
}
