//! Whose EL2 is, on each CPU, and at which level the host is entered.
//!
//! Owns these two decisions and the state that they rest on, so that there is one place for each. It touches no register.
//!
//! What exists now: a CPU's EL2 is `Live` from the moment it is set up for the host, until power-down takes it away. The
//! host is entered at EL1, so the stub calls, which need a host that was entered at EL2, are all refused.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::inject::pstate;

/// What a CPU's EL2 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not set up: the CPU was never started, or it is between power-up and the host's entry. A CPU that is off stays in the
    /// state in which it went ([`crate::psci`] knows that it is off) and is here again when it arrives.
    Outside = 0,
    /// Exeunt's: its vectors, its translation and the traps for the host are in place.
    Live = 1,
}

/// A transition that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongState(pub State);

/// The life cycle of EL2 on one CPU. Only that CPU changes it; others may read it.
#[derive(Debug)]
pub struct LifeCycle(AtomicU8);

impl LifeCycle {
    /// A CPU that was never started.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU8::new(State::Outside as u8))
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        if self.0.load(Ordering::Acquire) == State::Live as u8 { State::Live } else { State::Outside }
    }

    /// The CPU came up: whatever EL2 was before, its registers are those of a reset or of firmware.
    pub fn power_up(&self) {
        self.0.store(State::Outside as u8, Ordering::Release);
    }

    /// EL2 is set up and the host may be entered: `Outside` to `Live`. Release: who reads `Live` sees what was set up.
    ///
    /// # Errors
    ///
    /// It was `Live` already; nothing has changed.
    pub fn go_live(&self) -> Result<(), WrongState> {
        self.0
            .compare_exchange(State::Outside as u8, State::Live as u8, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(|_| WrongState(State::Live))
    }
}

impl Default for LifeCycle {
    fn default() -> Self {
        Self::new()
    }
}

/// The Exception level at which the host's first instruction runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryLevel {
    /// EL1: as under any type-1 hypervisor.
    #[default]
    El1 = 1,
    /// Virtual EL2: the host believes that EL2 is its own ([`crate::vel2`]).
    VirtualEl2 = 2,
}

impl core::fmt::Display for EntryLevel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::El1 => "EL1",
            Self::VirtualEl2 => "virtual EL2",
        })
    }
}

impl EntryLevel {
    /// SPSR_EL2 for the ERET to the host's entry: SP_ELx, D, A, I and F masked (booting.rst, "CPU mode"). Virtual EL2 runs at
    /// EL0.
    #[must_use]
    pub const fn spsr(self) -> u64 {
        match self {
            Self::El1 => pstate::DAIF | pstate::EL1H,
            Self::VirtualEl2 => pstate::DAIF,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_goes_live_once_for_each_power_up() {
        let life = LifeCycle::new();
        assert_eq!(life.state(), State::Outside);
        assert_eq!(life.go_live(), Ok(()));
        assert_eq!((life.state(), life.go_live()), (State::Live, Err(WrongState(State::Live))));
        life.power_up();
        assert_eq!(life.state(), State::Outside);
        assert_eq!(life.go_live(), Ok(()));
    }

    #[test]
    fn the_host_is_entered_with_everything_masked() {
        assert_eq!(EntryLevel::El1.spsr(), 0x3c5);
        assert_eq!(EntryLevel::VirtualEl2.spsr(), 0x3c0);
    }
}
