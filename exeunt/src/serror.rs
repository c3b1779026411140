//! SErrors at EL2: those that wait for the host, and those that Exeunt has caused itself.
//!
//! Owns HCR_EL2.VSE and VSESR_EL2 while the host is at EL1. How several SErrors become one is decided in
//! `hypervisor::serror`. Physical SErrors are masked at EL2; whoever caused one, it is the host that takes it after the
//! exception return. With FEAT_RAS an ESB tells of one that is pending, and so [`watch`] can say whose it is.

use aarch64_cpu::registers::{HCR_EL2, Readable, Writeable};
use hypervisor::features::{Feature, Register};
use hypervisor::serror;
use hypervisor::syndrome::{EC_SHIFT, Esr, ExceptionClass, ISS_MASK};
use log::error;

use crate::cpu::PerCpu;
use crate::registers;

/// Has an SError wait for the host, which is at EL1 on this CPU.
pub fn pend(cpu: &PerCpu, esr: Esr) {
    let ras = cpu.ids().has(Feature::Ras);
    let vsesr = if ras { registers::vsesr_el2() } else { 0 };
    let (hcr, vsesr) = serror::pend(HCR_EL2.get(), vsesr, esr.bits() & ISS_MASK);
    if ras {
        // SAFETY: the register comes with FEAT_RAS; it says what the host will read.
        unsafe { registers::write(Register::VsesrEl2, vsesr) };
    }
    HCR_EL2.set(hcr);
}

/// Takes back the SError that waits for the host, if there is one.
pub fn take(cpu: &PerCpu) -> Option<Esr> {
    let hcr = HCR_EL2.get();
    if serror::kept(hcr) == 0 {
        return None;
    }
    HCR_EL2.set(hcr & !serror::VSE);
    let syndrome = if cpu.ids().has(Feature::Ras) { registers::vsesr_el2() } else { 0 };
    Some(Esr::new((ExceptionClass::SError as u64) << EC_SHIFT | syndrome))
}

/// Accesses memory or a device of the host's, which is at EL1. An SError that comes of it is not the host's: it is an
/// error of the access, on CPUs that can tell.
pub fn watch(cpu: &PerCpu, access: impl FnOnce() -> Result<(), Esr>) -> Result<(), Esr> {
    if !cpu.ids().has(Feature::Ras) {
        return access();
    }
    // SAFETY: the CPU has FEAT_RAS.
    let deferred = || serror::deferred(unsafe { registers::error_barrier() });
    // What is pending already the host has brought along.
    if let Some(esr) = deferred() {
        pend(cpu, esr);
    }
    let result = access();
    match deferred() {
        Some(esr) => {
            error!("CPU {}: {esr}, caused by Exeunt's own access to the host's memory", cpu.index());
            Err(esr)
        }
        None => result,
    }
}
