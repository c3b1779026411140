//! What a tick of the watchdog's finds, and what becomes of a CPU that hangs: its host panics on it.
//!
//! Owns the sample. What it says is decided in `hypervisor::watchdog`; the ticks are [`ticks`]'s, and the panic is
//! [`Trap::panic_here`]'s.

use aarch64_cpu::registers::{
    CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, ELR_EL2, Readable, SPSR_EL2,
};
use hypervisor::blackbox::Kind;
use hypervisor::inject::pstate;
use hypervisor::watchdog::{Finding, Sample};
use log::warn;

use crate::crash::{self, Ending};
use crate::ticks::{self, Came};
use crate::trap::Trap;
use crate::{blackbox, leaving, memory, stage2};

/// An FIQ has come from the host, on a CPU that has ticks.
#[cold]
#[inline(never)]
pub fn fiq(trap: &mut Trap) {
    let cpu = trap.cpu;
    match ticks::came(cpu) {
        Came::Tick => {}
        Came::Nothing => return,
        Came::Other(number) => {
            // It is the host's, as it would be without ticks.
            ticks::end(cpu, false);
            warn!("CPU {}: interrupt {number} is an FIQ of the host's: no watchdog there", cpu.index());
            return;
        }
    }
    match ticks::sample(cpu, &sample(trap)) {
        Finding::Well => {}
        Finding::Panic => hangs(trap),
        Finding::Lost => lost(trap),
    }
}

/// What a tick finds of this CPU.
fn sample(trap: &Trap) -> Sample {
    let (now, pc) = (CNTPCT_EL0.get(), ELR_EL2.get());
    let masked = SPSR_EL2.get() & (pstate::I | pstate::ALLINT) != 0;
    let mut sample = Sample { now, masked, asleep: false, expired: [None; 2], pending: None, pc };
    // Nobody asks for more of one that takes interrupts.
    if masked {
        /// ENABLE, not IMASK, ISTATUS (Arm ARM, CNTV_CTL_EL0).
        const EXPIRED: u64 = 0b101;
        let virtual_timer = (CNTV_CTL_EL0.get() & 0b111 == EXPIRED).then(|| CNTV_CVAL_EL0.get());
        let physical_timer = (CNTP_CTL_EL0.get() & 0b111 == EXPIRED).then(|| CNTP_CVAL_EL0.get());
        sample.expired = [virtual_timer, physical_timer];
        sample.pending = ticks::pending();
        sample.asleep = [pc & !7, (pc & !7).wrapping_sub(8)].into_iter().any(|pair| has_wfi(trap, pair));
    }
    sample
}

/// Whether there is a WFI of the host's among the two instructions at `address`.
#[inline(never)]
fn has_wfi(trap: &Trap, address: u64) -> bool {
    const WFI: u32 = 0xd503_207f;
    /// WFIT, with its register 0.
    const WFIT: u32 = 0xd503_1020;
    let word = stage2::host_ipa(address).and_then(|ipa| memory::host_word(trap.cpu, &trap.machine.ram, ipa));
    word.is_some_and(|word| {
        [word as u32, (word >> 32) as u32].into_iter().any(|code| code == WFI || code & !0x1f == WFIT)
    })
}

/// This CPU hangs: its host panics, if it can and nobody else does already.
#[cold]
fn hangs(trap: &mut Trap) {
    let (cpu, now, pc) = (trap.cpu, CNTPCT_EL0.get(), ELR_EL2.get());
    // Without its MMU it is on its way up or down, and what its timers say is the last kernel's.
    if trap.can_panic().is_err() {
        return ticks::begin_again(cpu);
    }
    if !ticks::is_first_to_panic(now) {
        return ticks::forget(cpu);
    }
    blackbox::event(Kind::Hang, [pc, ticks::seconds().into()]);
    tell(trap, "with interrupts masked");
    trap.panic_here();
}

#[inline(never)]
fn tell(trap: &Trap, how: &str) {
    warn!("CPU {}: hangs, {how}, for {} s", trap.cpu.index(), ticks::seconds());
}

/// This CPU was to panic, and hangs still: the host does not get to its crash kernel by itself.
#[cold]
#[inline(never)]
fn lost(trap: &mut Trap) {
    tell(trap, "though the host was to panic");
    if let Ending::Overtaken = crash::start_kernel(trap) {
        leaving::hold(trap.frame, trap.cpu, trap.machine);
    }
}
