//! Who runs the host and who is off: the state of every CPU, and the entry that a CPU in power-up is to find.
//!
//! # The state
//!
//! One atomic word for each CPU with two bits, each set and cleared by one party only:
//!
//! - `ON`, set by the CPU itself when it arrives, cleared by the CPU itself before it asks firmware for CPU_OFF. It
//!   says: this CPU runs the host or sleeps in a suspend state, both of which PSCI calls on.
//! - `CLAIMED`, set by the CPU whose CPU_ON won, cleared by that CPU if firmware refuses, else by the target when it
//!   arrives. It says: someone's CPU_ON is between its decision and the target's arrival. Whoever sets it owns `pc` and
//!   `x0`.
//!
//! | `ON` | `CLAIMED` | | CPU_ON answers |
//! |---|---|---|---|
//! | 0 | 0 | Off, or its CPU_OFF is in flight | the caller claims it and asks firmware |
//! | 0 | 1 | OnPending | ON_PENDING |
//! | 1 | 0 | On | ALREADY_ON |
//! | 1 | 1 | On; its CPU_OFF was refused while a CPU_ON was with firmware | ALREADY_ON |
//!
//! # Why every order of events is well
//!
//! *Two CPU_ON for one CPU.* Both find 00; one compare-and-exchange wins and goes to 01, the other fails, looks again
//! and finds 01 (ON_PENDING), or 10 if the target has arrived meanwhile (ALREADY_ON), or 00 if firmware refused the
//! winner, in which case it claims in turn. `pc` and `x0` are written in 01 only, by the one claimant.
//!
//! *CPU_ON, and firmware says no* (a CPU that it does not know, an internal failure). The claimant clears `CLAIMED`: 00
//! again, and firmware's answer goes to the host. The target cannot arrive, since firmware did not start it.
//!
//! *CPU_ON while the target's CPU_OFF is in flight.* The target has cleared `ON` (00) and may or may not be off yet.
//! The claimant goes to 01 and asks firmware, which alone knows. Off already: it is started, finds 01 and takes the
//! claimant's entry. Not yet: firmware says ALREADY_ON, which is what the host would hear without Exeunt, and the
//! claimant goes back to 00. In both cases the entry that the CPU finds when it arrives is that of the CPU_ON that
//! succeeded.
//!
//! *CPU_OFF that firmware refuses* (DENIED: a trusted OS lives on this CPU). The CPU sets `ON` again: 00 to 10. If a
//! CPU_ON claimed it in between, 01 becomes 11: firmware will say ALREADY_ON to that claimant, because the CPU never
//! went off, and the claimant's clearing of `CLAIMED` leads to 10. Should the CPU try CPU_OFF once more before that, 11
//! becomes 01 again, and the claimant's call ends as under "in flight". No bit is ever set from an old reading of the
//! other.
//!
//! *CPU_SUSPEND and SYSTEM_SUSPEND.* `ON` stays set, so that no CPU_ON gets through; the CPU writes its own `resume_pc`
//! and `resume_x0`, which nobody else touches (`pc` and `x0` may belong to a claimant in 11). A call that returns,
//! because the state was a standby state or an interrupt was pending, leaves everything as it was.
//!
//! *Arrival.* A CPU that comes through Exeunt's entry was started by a CPU_ON (`ON` is clear, `CLAIMED` set: CPU_ON
//! needs a clear `ON`, and only arrival sets it) or woke from a suspend (`ON` is set; one that Exeunt has left would
//! wake elsewhere). Neither: firmware started a CPU that nobody asked for, and [`super::Psci::arrive`] says so.
//!
//! *A CPU that Exeunt has left* (RESET_VECTORS, LEAVE) keeps its `ON`: it runs, as far as Exeunt knows. Should it go
//! off, and a CPU under Exeunt turn it on, the caller asks firmware first, and goes from 10 to 11 if firmware says off:
//! one caller can. It looks once more whether the CPU is still *left*, and clears `ON`: 01. Another one that heard
//! "off" as well and is late finds 11 or 01, or 10 because the target has arrived meanwhile. Since a CPU that arrives
//! is no longer *left* before it sets `ON`, the late one sees that, and takes its own bit back: ALREADY_ON.
//!
//! # Why the entry is seen
//!
//! From claimant to target: both have their MMU and caches on and are in one Inner Shareable domain. The claimant
//! writes `pc` and `x0` and then makes the firmware call, which completes all its stores (DSB, the contract of
//! [`super::Firmware`]) before firmware can start the target; so they are done before the target's first instruction.
//! The language sees the same: the call is opaque code that the relaxed stores cannot be moved past.
//!
//! From one arrival to the next claimant: arrival reads the entry and then sets `ON` (Release); CPU_OFF clears `ON`
//! (Release, by the same CPU), and the compare-and-exchange of the next claimant reads what CPU_OFF wrote (Acquire). So
//! nothing is overwritten before it was read. From a claimant that was refused to the next one: the same, by `unclaim`.
//!
//! A CPU that suspends reads its own stores when it wakes; that they reached memory is the work of firmware, which
//! cleans the caches that a power-down loses before it powers them down.

use core::sync::atomic::{AtomicU64 as ConstantU64, Ordering};

#[cfg(not(test))]
use core::sync::atomic::AtomicU64;

/// In tests every access is a step between which the explorer lets other CPUs run.
#[cfg(test)]
use super::tests::explore::AtomicU64;

/// The CPU runs the host, or will go on when it wakes.
const ON: u64 = 1 << 0;
/// A CPU_ON for this CPU is in flight.
const CLAIMED: u64 = 1 << 1;

/// What PSCI calls the state of a CPU (Arm DEN0022, 5.1.5 AFFINITY_INFO), as far as Exeunt knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PowerState {
    /// Off, or on its way there.
    Off,
    /// A CPU_ON is in flight.
    OnPending,
    /// Runs the host, or sleeps in a suspend state.
    On,
}

/// Where a CPU that arrives enters the host, and what the host finds in x0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostEntry {
    /// The PC: a physical address, the host's MMU is off.
    pub pc: u64,
    /// The context identifier that the host gave.
    pub x0: u64,
}

/// Why a CPU_ON went no further than Exeunt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// The CPU is on.
    AlreadyOn,
    /// Another CPU_ON for it is in flight.
    OnPending,
}

/// One CPU.
pub(super) struct Cpu {
    /// The affinity fields of MPIDR_EL1, as PSCI takes them. Written by [`super::Psci::init`] only.
    pub mpidr: ConstantU64,
    state: AtomicU64,
    pc: AtomicU64,
    x0: AtomicU64,
    resume_pc: AtomicU64,
    resume_x0: AtomicU64,
}

impl Cpu {
    pub const fn new() -> Self {
        Self {
            mpidr: ConstantU64::new(0),
            state: AtomicU64::new(0),
            pc: AtomicU64::new(0),
            x0: AtomicU64::new(0),
            resume_pc: AtomicU64::new(0),
            resume_x0: AtomicU64::new(0),
        }
    }

    /// The boot CPU's way to `ON`: nobody turned it on.
    pub fn boot(&self) {
        self.state.store(ON, Ordering::Release);
    }

    pub fn power_state(&self) -> PowerState {
        let state = self.state.load(Ordering::Acquire);
        match (state & ON != 0, state & CLAIMED != 0) {
            (true, _) => PowerState::On,
            (false, true) => PowerState::OnPending,
            (false, false) => PowerState::Off,
        }
    }

    pub fn is_claimed(&self) -> bool {
        self.state.load(Ordering::Acquire) & CLAIMED != 0
    }

    /// CPU_ON, before firmware is asked: one caller wins, and its entry is what the target will find.
    pub fn claim(&self, entry: HostEntry) -> Result<(), ClaimError> {
        loop {
            let state = self.state.load(Ordering::Relaxed);
            if state & ON != 0 {
                return Err(ClaimError::AlreadyOn);
            }
            if state & CLAIMED != 0 {
                return Err(ClaimError::OnPending);
            }
            if self.state.compare_exchange(0, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                break;
            }
        }
        self.pc.store(entry.pc, Ordering::Relaxed);
        self.x0.store(entry.x0, Ordering::Relaxed);
        Ok(())
    }

    /// CPU_ON for a CPU that Exeunt had left and that is off now, by firmware's word: as [`Self::claim`]. `is_left`
    /// tells whether Exeunt has still not come back to it.
    pub fn claim_left(&self, entry: HostEntry, is_left: impl Fn() -> bool) -> Result<(), ClaimError> {
        if self.state.compare_exchange(ON, ON | CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return self.claim(entry);
        }
        if !is_left() {
            self.unclaim();
            return Err(ClaimError::AlreadyOn);
        }
        self.state.fetch_and(!ON, Ordering::Release);
        self.pc.store(entry.pc, Ordering::Relaxed);
        self.x0.store(entry.x0, Ordering::Relaxed);
        Ok(())
    }

    /// CPU_ON, after firmware refused.
    pub fn unclaim(&self) {
        self.state.fetch_and(!CLAIMED, Ordering::Release);
    }

    /// CPU_OFF, before firmware is asked. By the CPU itself.
    pub fn go_off(&self) {
        self.state.fetch_and(!ON, Ordering::Release);
    }

    /// CPU_OFF, after firmware refused. By the CPU itself.
    pub fn stay_on(&self) {
        self.state.fetch_or(ON, Ordering::Release);
    }

    /// A suspend, before firmware is asked. By the CPU itself.
    pub fn suspend(&self, entry: HostEntry) {
        self.resume_pc.store(entry.pc, Ordering::Relaxed);
        self.resume_x0.store(entry.x0, Ordering::Relaxed);
    }

    /// The CPU is at Exeunt's entry with its MMU on. By the CPU itself. `None`: nobody asked for this CPU.
    /// `was_left`: Exeunt had left it, so that it did not wake from a suspend.
    pub fn arrive(&self, was_left: bool) -> Option<HostEntry> {
        let state = self.state.load(Ordering::Acquire);
        if state & ON != 0 && !was_left {
            let (pc, x0) = (self.resume_pc.load(Ordering::Relaxed), self.resume_x0.load(Ordering::Relaxed));
            return Some(HostEntry { pc, x0 });
        }
        if state & CLAIMED == 0 {
            return None;
        }
        let entry = HostEntry { pc: self.pc.load(Ordering::Relaxed), x0: self.x0.load(Ordering::Relaxed) };
        // With a claim that firmware granted, no other CPU changes the state: a store is enough.
        self.state.store(ON, Ordering::Release);
        Some(entry)
    }
}
