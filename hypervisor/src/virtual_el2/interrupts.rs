//! What keeps interrupts from a host in virtual EL2.
//!
//! Owns what the window takes from the GIC, and the detour. A kernel at EL2 would not see an interrupt that targets
//! EL1, as all of its own do; the host in the window runs at EL0 with HCR_EL2.TGE, which routes every interrupt to real
//! EL2, and there PSTATE masks none of a lower Exception level's (Arm ARM D1.3.6, "Asynchronous exception masking"). So
//! they are held in three steps, each for what passes the one before:
//!
//! 1. *The GIC holds them.* Its priority mask is 0: ICC_PMR_EL1, or GICC_PMR of a GICv2. An interrupt with
//!    superpriority (FEAT_GICv3_NMI) passes the mask, and so both groups are off as well (ICC_IGRPEN0_EL1 and
//!    ICC_IGRPEN1_EL1). Where there is an EL3, Group 0 is left alone: it is firmware's, which may trap the register to
//!    itself, and a trap to EL3 could be the end of the machine.
//! 2. *One that comes all the same is waited for.* The GIC takes back within finite time what it had signalled before
//!    the mask was down (IHI 0048B, 3.2.2). And GICC_PMR is in memory, where the host in the window can write it: it
//!    becomes 0 again, and what the host wrote is what it gets afterwards.
//! 3. *What keeps coming is masked by PSTATE.* After [`PATIENCE`] interrupts without anything else the window takes the
//!    detour. Such interrupts are none of this GIC's that it shows: firmware's FIQs where SCR_EL3.FIQ routes them here,
//!    lines that go past the GIC, or a GIC that does not keep to its specification. An operating system at EL1 that has
//!    FIQs masked never hears of them, nor shall this one.
//!
//! # The detour
//!
//! With HCR_EL2.TGE 0 interrupts and SErrors of EL0 target EL1, and there PSTATE.A, I and F at EL0 do mask them,
//! whatever their source. So do the host's own exceptions, which are all that virtual EL2 lives on; and EL1 has nobody
//! to take them. VBAR_EL1 gets an address at which stage 2 has nothing ([`Cpu::void`]): the fetch of the vector's
//! first instruction faults, and that fault is real EL2's. The host's exception is then in ESR_EL1, FAR_EL1, ELR_EL1
//! and SPSR_EL1, as if EL2 had taken it one step late, and not one instruction has run at EL1. Stage 1 stays off
//! (SCTLR_EL1.M), stage 2 stays on.
//!
//! It has its price: five registers of EL1 serve the trick, so that the host's own values are kept here, and so is
//! PSTATE.DAIF, because the host may clear it at EL2 without being interrupted. SCTLR_EL1.UMA is 0 in the detour, so
//! that its accesses to it trap. That is why it is the last step and not the first; and no silicon has seen it.

use super::registers::{Needs, Register};
use super::{Cpu, Settings, borrow};
use crate::inject::pstate;
use crate::syndrome::{Esr, ExceptionClass};

/// How many interrupts in a row may come although nothing should, before the detour is taken. Each is a round trip to
/// EL2, and so some microseconds together.
pub const PATIENCE: u8 = 16;

/// What became of an interrupt that came to real EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The host is not in the window: HCR_EL2 routes no interrupt here.
    Outside,
    /// It is held now, or the GIC is about to take it back: the host goes on where it was.
    Again,
    /// The window has just taken the detour: the host goes on where it was, and no interrupt comes to EL2 any more.
    Detour,
}

/// VBAR_EL1 + 0x400: a synchronous exception from EL0 in AArch64 (Arm ARM, table "Vector offsets from vector table base
/// address").
const VECTOR: u64 = 0x400;

/// The registers of EL1 that an exception to EL1 uses.
const DETOUR: [Register; 5] =
    [Register::VbarEl1, Register::ElrEl1, Register::SpsrEl1, Register::EsrEl1, Register::FarEl1];

/// What the detour has taken from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Detour {
    /// The registers of [`DETOUR`], as the host wants them.
    el1: [u64; DETOUR.len()],
    /// PSTATE.DAIF, as the host has it. In hardware all four are set.
    daif: u64,
}

/// What the window has taken from the host for the sake of interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupts {
    /// The GIC holds them: what is here of its registers is the host's.
    held: bool,
    /// ICC_PMR_EL1 or GICC_PMR.
    priority_mask: u64,
    /// ICC_IGRPEN0_EL1 and ICC_IGRPEN1_EL1 of a GICv3.
    groups: [u64; 2],
    /// Interrupts that came since the host's last exception; on the detour not 0.
    came: u8,
    /// On the detour, the host's last exception came by way of EL1. (Not in [`Detour`]: there `None` would be a `bool`
    /// that is neither, and what a CPU begins with no longer all zeros, which the image need not hold.)
    by_el1: bool,
    detour: Option<Detour>,
}

/// The registers of [`Interrupts::groups`], and which CPUs have them.
const GROUPS: [(Register, Needs); 2] =
    [(Register::IccIgrpen0El1, Needs::Gicv3WithoutEl3), (Register::IccIgrpen1El1, Needs::Gicv3)];

impl Interrupts {
    /// Of a CPU that was never in virtual EL2.
    pub const NONE: Self = Self { held: false, priority_mask: 0, groups: [0; 2], came: 0, by_el1: false, detour: None };

    /// Has the GIC hold all interrupts.
    pub fn hold(cpu: &mut impl Cpu, settings: &Settings) -> Self {
        let mut interrupts = Self { held: cpu.gic_holds(), ..Self::NONE };
        if interrupts.held {
            interrupts.priority_mask = priority_mask(cpu, settings);
            set_priority_mask(cpu, settings, 0);
            for (group, (register, needs)) in interrupts.groups.iter_mut().zip(GROUPS) {
                if needs.met(settings) {
                    *group = borrow(cpu, register);
                    cpu.write(register, 0);
                }
            }
        }
        interrupts
    }

    /// Gives everything back, at the end of the window. The caller writes HCR_EL2.
    pub fn give_back(&mut self, cpu: &mut impl Cpu, settings: &Settings) {
        if let Some(detour) = self.detour.take() {
            for (register, value) in DETOUR.into_iter().zip(detour.el1) {
                cpu.write(register, value);
            }
        }
        if self.held {
            for (&group, (register, needs)) in self.groups.iter().zip(GROUPS) {
                if needs.met(settings) {
                    cpu.write(register, group);
                }
            }
            set_priority_mask(cpu, settings, self.priority_mask);
        }
    }

    /// An interrupt has come to real EL2 in the window. True if the window has to take the detour, which has begun
    /// then: the caller writes SCTLR_EL1 and HCR_EL2.
    pub fn came(&mut self, cpu: &mut impl Cpu) -> bool {
        if self.detour.is_some() {
            return false;
        }
        if self.held
            && let Some(mask) = cpu.gicc_pmr()
            && mask != 0
        {
            self.priority_mask = u64::from(mask);
            cpu.set_gicc_pmr(0);
        }
        self.came += 1;
        if self.came <= PATIENCE {
            return false;
        }
        let (pc, spsr) = (cpu.elr(), cpu.spsr());
        let el1 = DETOUR.map(|register| borrow(cpu, register));
        self.detour = Some(Detour { el1, daif: spsr & pstate::DAIF });
        let void = cpu.void();
        cpu.write(Register::VbarEl1, void);
        cpu.set_return(pc, spsr | pstate::DAIF);
        true
    }

    /// Whether the window has taken the detour.
    #[must_use]
    pub const fn on_detour(&self) -> bool {
        self.detour.is_some()
    }

    /// Whether no interrupt has come since the host's last exception, and the window has not taken the detour. The one
    /// question that each exception of the host's asks.
    #[must_use]
    pub const fn are_quiet(&self) -> bool {
        self.came == 0
    }

    /// The host's exception that has led to the one with this syndrome. On the detour, that is the one that EL1 has
    /// taken; the CPU's return becomes the host's then.
    #[cold]
    #[inline(never)]
    pub fn exception(&mut self, cpu: &mut impl Cpu, esr: Esr) -> Esr {
        if self.detour.is_none() {
            // The host goes on: what comes now is not the same interrupt for ever.
            self.came = 0;
            return esr;
        }
        self.by_el1 = esr.class() == Some(ExceptionClass::InstructionAbortLower)
            && cpu.elr() == cpu.void() + VECTOR
            && cpu.spsr() & pstate::EL_MASK != 0;
        if !self.by_el1 {
            return esr;
        }
        let (pc, spsr) = (borrow(cpu, Register::ElrEl1), borrow(cpu, Register::SpsrEl1));
        cpu.set_return(pc, spsr);
        Esr::new(borrow(cpu, Register::EsrEl1))
    }

    /// FAR of the host's exception.
    pub fn far(&self, cpu: &mut impl Cpu) -> u64 {
        if self.by_el1 { borrow(cpu, Register::FarEl1) } else { cpu.far() }
    }

    /// PSTATE with the host's DAIF, for one that hardware has.
    #[must_use]
    pub const fn as_the_host_has_it(&self, pstate: u64) -> u64 {
        match self.detour {
            Some(Detour { daif, .. }) => pstate & !pstate::DAIF | daif,
            None => pstate,
        }
    }

    /// PSTATE for hardware, for one that the host gets.
    pub const fn for_hardware(&mut self, pstate: u64) -> u64 {
        match &mut self.detour {
            Some(detour) => {
                detour.daif = pstate & pstate::DAIF;
                pstate | pstate::DAIF
            }
            None => pstate,
        }
    }

    /// Where the host's value of a register of EL1 is, if it is not in hardware.
    pub fn borrowed(&mut self, register: Register) -> Option<&mut u64> {
        if let Some(detour) = &mut self.detour
            && let Some(place) = DETOUR.iter().position(|&each| each == register)
        {
            return Some(&mut detour.el1[place]);
        }
        match register {
            Register::IccPmrEl1 if self.held => Some(&mut self.priority_mask),
            Register::IccIgrpen0El1 if self.held => Some(&mut self.groups[0]),
            Register::IccIgrpen1El1 if self.held => Some(&mut self.groups[1]),
            _ => None,
        }
    }
}

/// The mask of interrupts by priority: ICC_PMR_EL1 or GICC_PMR; 0 where it is neither.
///
/// If Secure software has claimed the lower half of the priorities, reads are of the half that is left and a write
/// cannot lower the mask below it. Then either the mask is in that half, and what was read is restored as it was, or it
/// is below and no interrupt of the host's could pass it anyhow (IHI 0048B, 3.8.6).
fn priority_mask(cpu: &mut impl Cpu, settings: &Settings) -> u64 {
    if Needs::Gicv3.met(settings) { borrow(cpu, Register::IccPmrEl1) } else { cpu.gicc_pmr().map_or(0, u64::from) }
}

fn set_priority_mask(cpu: &mut impl Cpu, settings: &Settings, value: u64) {
    if Needs::Gicv3.met(settings) {
        cpu.write(Register::IccPmrEl1, value);
    } else {
        cpu.set_gicc_pmr(value as u32);
    }
}
