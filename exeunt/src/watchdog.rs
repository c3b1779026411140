//! What a tick of the watchdog's finds, and what becomes of a CPU that hangs: its host panics on it.
//!
//! Owns the sample. What it says is decided in `hypervisor::watchdog`; the ticks are [`ticks`]'s, the panic is
//! [`Trap::panic_here`]'s, and what there is for a host that does not get to its end by that is [`crash`]'s.

use aarch64_cpu::registers::{
    CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, ELR_EL2, Readable, SCTLR_EL1, SPSR_EL2,
};
use hypervisor::blackbox::Kind;
use hypervisor::inject::pstate;
use hypervisor::watchdog::{Finding, Sample};
use log::warn;

use crate::crash::{self, Ending};
use crate::ticks::{self, Came};
use crate::trap::Trap;
use crate::{blackbox, console, leaving, memory, stage2};

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
            hypervisor::trap::limited(trap.machine, || {
                warn!("CPU {}: interrupt {number} is an FIQ of the host's: no watchdog there", cpu.index());
            });
            return;
        }
    }
    match ticks::take(cpu, &sample(trap)) {
        (Finding::Well, false) => {}
        (Finding::Well, true) => may_hang(trap),
        (Finding::Panic, _) => hangs(trap),
        (Finding::Lost, _) => lost(trap, "though the host was to panic"),
    }
}

/// What a tick finds of this CPU.
fn sample(trap: &Trap) -> Sample {
    let (now, pc) = (CNTPCT_EL0.get(), ELR_EL2.get());
    let masked = SPSR_EL2.get() & (pstate::I | pstate::ALLINT) != 0;
    let is_bare = SCTLR_EL1.get() & 1 == 0; // SCTLR_EL1.M
    let mut sample = Sample { now, masked, asleep: false, expired: [None; 2], pending: None, pc, state: 0, is_bare };
    // Nobody asks for more of one that takes interrupts.
    if masked {
        /// ENABLE, not IMASK, ISTATUS (Arm ARM, CNTV_CTL_EL0).
        const EXPIRED: u64 = 0b101;
        let virtual_timer = (CNTV_CTL_EL0.get() & 0b111 == EXPIRED).then(|| CNTV_CVAL_EL0.get());
        let physical_timer = (CNTP_CTL_EL0.get() & 0b111 == EXPIRED).then(|| CNTP_CVAL_EL0.get());
        sample.expired = [virtual_timer, physical_timer];
        sample.pending = ticks::pending();
        sample.asleep = [pc & !7, (pc & !7).wrapping_sub(8)].into_iter().any(|pair| has_wait(trap, pair, is_bare));
        for &x in &trap.frame.x {
            // An odd factor, with bits of all kinds (2 to the 64 by the golden ratio).
            sample.state = (sample.state.rotate_left(5) ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
    sample
}

/// Whether there is a WFI of the host's among the two instructions at `address`, or as well a WFE.
#[inline(never)]
fn has_wait(trap: &Trap, address: u64, or_wfe: bool) -> bool {
    const WFI: u32 = 0xd503_207f;
    /// WFIT, with its register 0.
    const WFIT: u32 = 0xd503_1020;
    /// What makes them a WFE and a WFET.
    const EVENT: u32 = 1 << 5;
    let waits = |code: u32| code == WFI || code & !0x1f == WFIT;
    let word = stage2::host_ipa(address).and_then(|ipa| memory::host_word(trap.cpu, &trap.machine.ram, ipa));
    word.is_some_and(|word| {
        [word as u32, (word >> 32) as u32].into_iter().any(|code| waits(code) || or_wfe && waits(code ^ EVENT))
    })
}

/// This CPU may hang, and if somebody has sent a break to the console, which nobody has read, it does.
#[cold]
#[inline(never)]
fn may_hang(trap: &mut Trap) {
    if trap.can_panic().is_ok() && console::takes_break() && ticks::is_first_to_panic(CNTPCT_EL0.get()) {
        blackbox::event(Kind::Hang, [ELR_EL2.get(), 0]);
        warn!("CPU {}: a break on the console, and interrupts are masked", trap.cpu.index());
        ticks::panics(trap.cpu);
        trap.panic_here();
    }
}

/// This CPU hangs: its host panics, if it can and nobody else does already.
#[cold]
fn hangs(trap: &mut Trap) {
    let (cpu, now, pc) = (trap.cpu, CNTPCT_EL0.get(), ELR_EL2.get());
    let can_panic = trap.can_panic().is_ok();
    if can_panic && !ticks::is_first_to_panic(now) {
        return ticks::forget(cpu);
    }
    blackbox::event(Kind::Hang, [pc, ticks::seconds().into()]);
    if !can_panic {
        return lost(trap, "with its MMU off");
    }
    tell(trap, "with interrupts masked");
    trap.panic_here();
}

/// Where it is in memory is the same however the host has mixed its addresses.
#[inline(never)]
fn tell(trap: &Trap, how: &str) {
    let (cpu, seconds) = (trap.cpu.index(), ticks::seconds());
    let place = stage2::host_ipa(ELR_EL2.get()).unwrap_or_default();
    warn!("CPU {cpu}: hangs, {how}, for {seconds} s or more; physical address of its PC {place:#x}");
}

/// This CPU hangs still, or cannot panic: the host does not get to its crash kernel by itself.
#[cold]
#[inline(never)]
fn lost(trap: &mut Trap, how: &str) {
    tell(trap, how);
    let has_ended = match crash::start_kernel(trap) {
        Ending::Begins => Some(()),
        Ending::Refused(_) => crash::give_up(trap),
        Ending::Overtaken => None,
    };
    if has_ended.is_none() {
        leaving::hold(trap.frame, trap.cpu, trap.machine);
    }
}
