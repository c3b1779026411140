//! Bare-metal guests that look at Exeunt from EL1, and the runtime that they share.
//!
//! The runtime brings a CPU from an arm64 Image's entry to Rust: relocation, stacks, a console, a stage 1 that maps
//! memory to itself, secondary CPUs, and [`cpu::Context::enter`], which runs a few instructions in any state and
//! reports how they ended. The tests themselves are [`aborts`], [`broken`], [`calls`], [`conformance`], [`death`],
//! [`doorbell`], [`encodings`], [`interrupts`], [`lend`], [`log`], [`panics`], [`psci`], [`stop`], [`sysregs`],
//! [`rounds`], [`wake`], [`watchdog`] and [`shim`]; each binary runs one. Nothing here is linked into Exeunt, and
//! nothing here knows how Exeunt works inside: expectations come from the Arm ARM, from the SMC Calling Convention
//! (DEN0028) and from PSCI (DEN0022).
//!
//! A guest runs on one kind of machine only, QEMU's virt under TCG. Cache maintenance around switching the MMU off is
//! left out for that reason: TCG has no caches.

#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime {
    #[macro_use]
    pub mod registers;
    #[macro_use]
    pub mod console;
    #[macro_use]
    pub mod report;
    pub mod code;
    pub mod cpu;
    pub mod firmware;
    pub mod gic;
    pub mod level;
    pub mod machine;
    pub mod paging;
    pub mod random;
    pub mod smp;
    pub mod start;
    pub mod unchanged;
}

#[cfg(target_os = "none")]
pub use runtime::*;

#[cfg(target_os = "none")]
pub mod aborts;
#[cfg(target_os = "none")]
pub mod broken;
#[cfg(target_os = "none")]
pub mod calls;
#[cfg(target_os = "none")]
pub mod conformance;
#[cfg(target_os = "none")]
pub mod death;
#[cfg(target_os = "none")]
pub mod doorbell;
#[cfg(target_os = "none")]
pub mod encodings;
#[cfg(target_os = "none")]
pub mod interrupts;
#[cfg(target_os = "none")]
pub mod lend;
#[cfg(target_os = "none")]
pub mod log;
#[cfg(target_os = "none")]
pub mod panics;
#[cfg(target_os = "none")]
pub mod psci;
#[cfg(target_os = "none")]
pub mod rounds;
#[cfg(target_os = "none")]
pub mod shim;
#[cfg(target_os = "none")]
pub mod stop;
#[cfg(target_os = "none")]
pub mod sysregs;
#[cfg(target_os = "none")]
pub mod wake;
#[cfg(target_os = "none")]
pub mod watchdog;

/// Makes the binary that runs `$module::run`; on the workstation, where it cannot run, an empty program.
#[macro_export]
macro_rules! guest {
    ($module:ident) => {
        $crate::entry!($crate::$module::run);
    };
    ($module:ident, stays_at_el2) => {
        $crate::entry!($crate::$module::run, stays_at_el2);
    };
}

/// Makes the binary that runs the function `$run`, which takes a [`start::Start`]: at EL1, where the runtime has gone;
/// or with `stays_at_el2` where it was entered. On the workstation, where it cannot run, an empty program.
#[macro_export]
macro_rules! entry {
    ($run:path) => {
        $crate::entry!($run, false);
    };
    ($run:path, stays_at_el2) => {
        $crate::entry!($run, true);
    };
    ($run:path, $stays_at_el2:literal) => {
        #[cfg(target_os = "none")]
        #[unsafe(no_mangle)]
        static GUEST_STAYS_AT_EL2: bool = $stays_at_el2;

        #[cfg(target_os = "none")]
        #[unsafe(no_mangle)]
        extern "Rust" fn guest_main(start: &$crate::start::Start) {
            $run(start);
        }

        #[cfg(not(target_os = "none"))]
        fn main() {}
    };
}
