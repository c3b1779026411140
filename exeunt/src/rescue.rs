//! What is done with a CPU on which Exeunt has died: its host goes on there without it, or panics.
//!
//! Owns the two ways. What is to be done is decided in `hypervisor::rescue`; what is said about it is
//! [`crate::panic`]'s.
//!
//! # Why this works after anything may have broken
//!
//! 1. *Where the host is.* The vectors have written it to this CPU's structure at the exit (`frame`): PC, PSTATE, the
//!    syndrome, x0 to x3, and a check word that is 0 when no exit is under way. x4 to x30 are in the host's frame at
//!    the top of this CPU's stack. Both places are known by the structure alone, so a stack pointer that is lost, or a
//!    stack that has overflowed, away from its top, takes neither along. The structure is found by TPIDR_EL2 if that is
//!    a signed structure's address, else by MPIDR_EL1 in the list that REENTER uses (`vectors`).
//! 2. *The registers of EL1 and EL0* are in hardware. Exeunt changes none of them on an exit, except those that an
//!    exception of the host's own is made of, which would have changed them as well.
//! 3. *The first two tries* are in Rust, one on the emergency stack and one on this CPU's, below the frame. They take
//!    no lock: the log's is given up when it cannot be had in time, and the words that other CPUs read are single
//!    stores. Each step of them is one that may fail: an exception or a panic counts one more, and the next one begins
//!    with less.
//! 4. *The third try* is `exeunt_rescue`: no stack, no store but to this CPU's own structure and frame, and the word
//!    that says who reports. It needs TPIDR_EL2, the point, the frame, and the text and tables that it is fetched with.
//! 5. *The last one*, after an exception in that, or in what comes before an exception can be counted, is
//!    `exeunt_panic_host`, behind the last words ([`crate::last_words`]). It reads no memory but its text, and has the
//!    host take an SError, whatever its registers are: a Linux that panics needs none. It turns the machine off if EL1
//!    has no MMU or no vectors, or is in virtual EL2, or if there is another exception.
//! 6. *The last instructions* are those of [`crate::depart`] in another order. VBAR_EL2 goes last, since until then an
//!    exception would be answered by Exeunt: all that is loaded from memory comes before, and after it there are only
//!    instructions that cannot fault and the fetch of them.
//! 7. *Caches.* Nothing is read with the MMU off that was not cleaned when it was written, at start: the resident
//!    stub's text, the host's RAM, the flags. What Exeunt has dirty in the caches stays coherent for CPUs that still
//!    use it.
//!
//! A host in virtual EL2 has registers that only Exeunt knows, and among them is ELR_EL2, which an ERET of Exeunt's to
//! EL2 would need for itself. So it begins again where it was entered there (`PerCpu::begin`): with the registers that
//! it was entered with, at real EL2. A kernel does nothing before its exception return to EL1 that it could not do
//! twice: it has no more than its own image, and writes what it will read. Where virtual EL2 answers a call of EL1's in
//! the host's own vectors instead, EL1 goes on after the call (`abandon_call`).
//!
//! What cannot be saved: a CPU whose translation tables or text at EL2 are broken so that it cannot fetch its vectors
//! (it loops there, and no other CPU hears of it); the state of a CPU that breaks between the exception and the point,
//! some twenty instructions, where ELR_EL2 is in no other place.

use core::arch::{global_asm, naked_asm};
use core::fmt;
use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTPCT_EL0, ELR_EL1, ELR_EL2, ESR_EL1, HCR_EL2, Readable, SCTLR_EL1, SP_EL0, SPSR_EL1, SPSR_EL2,
    VBAR_EL1, Writeable,
};
use boot::SCTLR_EL2_MMU_OFF;
use guest_abi::stub::{SOFT_RESTART, STUB_ERR};
use hypervisor::blackbox::{Kind, Stop};
use hypervisor::features::{self, Units, hcr};
use hypervisor::inject::{self, Exception, Origin, pstate};
use hypervisor::lifecycle::State;
use hypervisor::psci::Environment as _;
use hypervisor::rescue::{self, AT_EL2, Doing, El1, Fail, Plan, Point, SERROR};
use hypervisor::serror;
use hypervisor::syndrome::ExceptionClass;

use crate::cpu::{self, PerCpu};
use crate::faults::fault_point;
use crate::frame::{HostFrame, x2_to_x29};
use crate::machine::{self, Below, psci};
use crate::resident::FAST;
use crate::trap::Trap;
use crate::{blackbox, firmware, last_words, registers, ticks};

const _: () = assert!(Fail::Halt as u8 == 0, "what the last words begin with");

/// Takes the option. When the host can be entered.
pub fn set_fail(fail: Fail) {
    last_words::FAIL.store(fail as u8, Ordering::Relaxed);
}

/// How long a CPU waits for one that it may have turned on before it died, in milliseconds.
const CLAIM_PATIENCE_MS: u64 = 100;

fn fail() -> Fail {
    Fail::of(last_words::FAIL.load(Ordering::Relaxed))
}

/// Whether anything is to be saved at all.
pub fn is_wanted() -> bool {
    fail() != Fail::Halt
}

/// What Exeunt was doing on this CPU.
fn doing(cpu: &PerCpu) -> Doing {
    if cpu.is_spare() {
        return Doing::Starting;
    }
    match (cpu.begin(), cpu.point()) {
        (Some(begin), _) => Doing::Window(begin),
        (None, Some(point)) => Doing::Exit(point),
        (None, None) if cpu.entered.load(Ordering::Relaxed) == 0 => Doing::Starting,
        (None, None) => Doing::Unknown,
    }
}

/// What a CPU that dies tells all others, before anything else: they shall not wait for it. Once.
#[cold]
#[inline(never)]
pub fn tell(cpu: &PerCpu) {
    if !is_wanted() || cpu.died.load(Ordering::Relaxed) {
        return;
    }
    fault_point!("rescue-tell");
    let was_left = cpu.life.state().is_left();
    if cpu.is_arriving()
        && let Some(entry) = psci().arrive(cpu.index(), was_left)
    {
        cpu.set_point(&Point::payload(entry.pc, [entry.x0, 0, 0, 0]));
    }
    let before = cpu.life.die(vectors_of(cpu).is_some());
    if before.is_new {
        FAST.control.die();
    }
    if !before.was_left {
        cpu.departures.fetch_add(1, Ordering::Relaxed);
    }
    // Whoever dies in this does it again, to here, and what is done twice changes nothing.
    cpu.died.store(true, Ordering::Relaxed);
    // One that leads a LEAVE ends it, as a CPU that is held would when its patience is over.
    if let Some(seen) = FAST.control.under_way()
        && before.may_lead
        && let Some(machine) = machine::known()
    {
        machine.stage2.show();
        let _ = FAST.control.give_up(seen);
    }
    let end = CNTPCT_EL0.get() + CNTFRQ_EL0.get() / 1000 * CLAIM_PATIENCE_MS;
    psci().dies(cpu.index(), &Below, || CNTPCT_EL0.get() < end);
}

/// A host whose own vectors are answering a call in virtual EL2 goes on at EL1 where they would have returned to, with
/// STUB_ERR in x0: nobody but Exeunt can go on with what they were doing. They are not its vectors any longer, since
/// they are mostly such as serve a moment; the resident stub answers from here on. Before [`plan`], and not in it,
/// since the stack is short.
#[cold]
#[inline(never)]
pub fn abandon_call(cpu: &PerCpu) {
    if answers_call(cpu)
        && let Some(machine) = machine::known()
        && let Some(cpu) = machine.cpu(cpu.index())
    {
        // SAFETY: this CPU's stack, whose top is kept for this.
        let trap = &mut Trap { frame: unsafe { &mut *cpu.host_frame() }, cpu, machine };
        let settings = machine.settings(cpu.ids());
        let goes_on = cpu.with_virtual_el2(|virtual_el2| virtual_el2.abandon(trap, &settings));
        trap.frame.x[0] = STUB_ERR;
        match goes_on {
            Some((pc, pstate)) => trap.goes_on_at(pc, pstate),
            None => cpu.lose_point(),
        }
    }
}

/// Whether the host's own vectors are answering a call in virtual EL2.
fn answers_call(cpu: &PerCpu) -> bool {
    cpu.in_window() && cpu.begin().is_none()
}

/// The vectors that the host has given to EL2, if it has, and if they can be.
fn vectors_of(cpu: &PerCpu) -> Option<u64> {
    let vectors = cpu.host_vectors();
    let machine = machine::known()?;
    (vectors != 0 && !answers_call(cpu) && machine.is_host_ram(vectors)).then_some(vectors)
}

/// What is about to be done with this CPU.
pub struct Rescue {
    doing: Doing,
    plan: Plan,
}

/// Decides what that is.
#[cold]
#[inline(never)]
pub fn plan(cpu: &PerCpu) -> Rescue {
    let doing = doing(cpu);
    fault_point!("rescue-plan");
    let el1 = El1 { vbar: VBAR_EL1.get(), sctlr: SCTLR_EL1.get(), sp_el0: SP_EL0.get() };
    Rescue { doing, plan: rescue::plan(fail(), doing, &el1) }
}

impl fmt::Display for Rescue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.plan {
            Plan::Leave { pc, .. } => write!(f, "the host goes on at {pc:#x}, without Exeunt on this CPU"),
            Plan::Payload { pc } => {
                let again = if matches!(self.doing, Doing::Window(_)) {
                    "was in virtual EL2, and begins again"
                } else {
                    "begins"
                };
                write!(f, "the host {again} at {pc:#x}, at EL2, without Exeunt on this CPU")
            }
            Plan::Panic { pc, known: true, .. } => write!(f, "the host gets an SError at {pc:#x}, to panic"),
            Plan::Panic { known: false, .. } => f.write_str("where the host was is lost; it gets an SError, to panic"),
            Plan::Halt(rescue::Why::Asked | rescue::Why::NoHost) => f.write_str("the machine goes off now"),
            Plan::Halt(why) => write!(f, "{}: the machine goes off now", why.words()),
        }
    }
}

impl Rescue {
    /// Does it.
    pub fn go(&self, cpu: &PerCpu) -> ! {
        let Rescue { doing, plan } = self;
        fault_point!("rescue-go");
        blackbox::crumb(cpu, *b"died    ");
        blackbox::note_control(FAST.control.bits());
        let frame = cpu.host_frame();
        let (hcr, vbar) = match *plan {
            Plan::Halt(_) => {
                blackbox::clean();
                firmware::power_off();
            }
            Plan::Payload { .. } => (hcr::RW, boot::stub::vectors()),
            Plan::Leave { .. } | Plan::Panic { .. } => {
                open_units(cpu);
                (hcr_of_host(cpu), vectors_of(cpu).unwrap_or_else(boot::stub::vectors))
            }
        };
        // SAFETY: this CPU's stack, whose top is kept for this, above what any of its stack pointers is set to here.
        let frame = unsafe { &mut *frame };
        match doing {
            Doing::Exit(point) | Doing::Window(point) => frame.x[..4].copy_from_slice(&point.x),
            // What they are is in the exception's registers, as far as anywhere.
            Doing::Unknown => frame.x = cpu.exception().x,
            Doing::Starting => {}
        }
        keep(cpu, frame, doing);
        fault_point!("rescue-kept");
        blackbox::clean();
        ticks::end(cpu, false);
        let (pc, pstate) = match *plan {
            Plan::Leave { pc, pstate } => (pc, pstate),
            Plan::Panic { pc, pstate, .. } => serror_to_host(cpu, pc, pstate),
            Plan::Payload { pc } => (pc, AT_EL2),
            Plan::Halt(_) => firmware::power_off(),
        };
        fault_point!("rescue-last");
        last_words::give_up_report(cpu.address());
        ELR_EL2.set(pc);
        SPSR_EL2.set(pstate);
        // SAFETY: the frame is the host's. The vectors are the resident stub's, or the host's own, aligned and in its
        // RAM, which it has installed for an EL2 without MMU.
        unsafe { depart(frame, hcr, vbar) }
    }
}

/// Writes down where the host was.
fn keep(cpu: &PerCpu, frame: &HostFrame, doing: &Doing) {
    let place = match doing {
        Doing::Exit(point) => [point.pc, point.pstate, point.esr],
        // Not where it begins again.
        Doing::Window(_) => cpu.point().map_or([0; 3], |point| [point.pc, point.pstate, point.esr]),
        Doing::Unknown | Doing::Starting => [0; 3],
    };
    blackbox::keep_at(cpu, Stop::Died, &frame.x, place);
}

/// Has the host, which is at `pc`, take an SError. Returns where it goes on, and in which state.
fn serror_to_host(cpu: &PerCpu, pc: u64, pstate: u64) -> (u64, u64) {
    let origin = Origin { spsr: pstate, pc, vbar: VBAR_EL1.get(), sctlr: SCTLR_EL1.get(), sctlr2: 0, gcscr: 0 };
    let entry = inject::take_exception(&origin, cpu.ids().pstate(), Exception::SError { esr: SERROR });
    ELR_EL1.set(entry.elr_el1);
    SPSR_EL1.set(entry.spsr_el1);
    ESR_EL1.set(entry.esr_el1);
    (entry.pc, entry.pstate)
}

/// HCR_EL2 of a host that has EL2 to itself. An SError that it has not taken yet goes with it.
pub fn hcr_of_host(cpu: &PerCpu) -> u64 {
    features::hcr_el2(cpu.ids()) & !(hcr::VM | hcr::TSC | hcr::SWIO) | serror::kept(HCR_EL2.get())
}

/// Takes back the traps by which a host asks for a unit: nobody answers them when Exeunt is not here.
pub fn open_units(cpu: &PerCpu) {
    // SAFETY: the CPU has these registers, and Exeunt has set them before.
    features::unlock(cpu.ids(), Units::ALL, |register, value| unsafe { registers::write(register, value) });
}

/// Exeunt's history: it has died here.
pub fn note(cause: u64) {
    blackbox::event(Kind::Died, [cause, 0]);
}

/// The last try, on this CPU.
pub fn last_try(cpu: &PerCpu) -> ! {
    unsafe extern "C" {
        fn exeunt_rescue(cpu: u64) -> !;
    }
    // SAFETY: this is its structure.
    unsafe { exeunt_rescue(cpu.address()) }
}

/// Bits of HCR_EL2 that stay when Exeunt goes: those that open something for the host, and an SError that waits for it.
const HCR_KEPT: u64 = hcr::RW | hcr::APK | hcr::API | hcr::FIEN | hcr::ENSCXT | hcr::ATA | serror::VSE | serror::AMO;

global_asm!(
    // In: x0 = this CPU's structure, whose sign has been looked at; everything else may be overwritten. From here on an
    // exception ends in the last words, and those in `exeunt_panic_host`.
    ".pushsection .text.beside_tables, \"ax\"",
    ".global exeunt_rescue",
    "exeunt_rescue:",
    "msr spsel, #0",
    "adr x19, exeunt_panic_host",
    "adrp x1, exeunt_fail",
    "ldrb w10, [x1, :lo12:exeunt_fail]",
    "cbz w10, exeunt_last_words",
    "mov w7, #{stub_state}",
    "str w7, [x0, #{life}]",
    "mov w7, #1",
    "strb w7, [x0, #{died}]", // for STATUS: whoever was to tell the others may have broken before
    "adrp x7, {owner}",
    "add x7, x7, :lo12:{owner}",
    "ldr x8, [x7]",
    "cmp x8, x0",
    "b.ne 1f",
    "str xzr, [x7]",
    // Where the host is, or where it has begun, if it is in virtual EL2.
    "1: add x9, x0, #{point}",
    "add x7, x0, #{begin}",
    "ldr x8, [x7, #24]",
    "cmp x8, #0",
    "csel x9, x7, x9, ne",
    "ldp x2, x3, [x9], #32",
    "ldp x4, x5, [x9, #-16]",
    "eon x6, x2, x3",
    "eor x6, x6, x4",
    "cmp x6, x5",
    "b.ne exeunt_last_words",
    "mov x7, #{at_el2}",
    "cmp x3, x7",
    "b.eq 7f",
    "ldrb w7, [x0, #{in_window}]",
    "cbnz w7, exeunt_last_words",
    "bl exeunt_hcr_of_host",
    "strb wzr, [x0, #{watched}]",
    "ldp x6, x7, [x9]",
    "lsr x5, x4, #26",
    "cmp x5, #{hvc64}",
    "b.ne 2f",
    "sub x2, x2, #4", // again
    "cmp x6, #{soft_restart}",
    "b.eq 3f",
    "2: cmp w10, #{fail_panic}",
    "b.ne 3f",
    "mrs x5, sctlr_el1",
    "tbz x5, #0, 3f",
    "mrs x5, vbar_el1",
    "cbz x5, 3f",
    "bl exeunt_serror_to_host",
    "3: ldp x4, x5, [x9, #16]",
    "ldr x9, [x0, #{stack_top}]",
    "sub x9, x9, #{frame_size}",
    "stp x6, x7, [x9]",
    "stp x4, x5, [x9, #16]",
    "b 4f",
    // A payload has x0 to x3, and no stack is needed for the rest.
    "7: bl exeunt_hcr_of_host",
    "mov x1, #{rw}",
    "4: mov x0, x9",
    "5: msr elr_el2, x2",
    "msr spsr_el2, x3",
    "adrp x2, exeunt_resident_stub",
    "add x2, x2, :lo12:exeunt_resident_stub",
    "b {depart}",
    // Out: x1 = HCR_EL2 of a host that has EL2 to itself. Without an SError that waits none is routed here.
    "exeunt_hcr_of_host:",
    "mrs x1, hcr_el2",
    "tbz x1, #3, 6f", // FMO: the watchdog's ticks
    "mrs x7, id_aa64pfr0_el1",
    "ubfx x7, x7, #24, #4", // GIC: a GICv3's system registers
    "cbz x7, 6f",
    "msr S3_4_C12_C11_0, xzr", // ICH_HCR_EL2: nobody carries out what it traps
    "6: ldr x7, ={kept}",
    "and x1, x1, x7",
    "bic x7, x1, #{amo}",
    "tst x1, #{vse}",
    "csel x1, x7, x1, eq",
    "ret",
    // The host, which is at x2 with PSTATE x3, takes an SError. Out: x2, x3 = where it goes on.
    "exeunt_serror_to_host:",
    "msr elr_el1, x2",
    "msr spsr_el1, x3",
    "ldr x4, ={serror}",
    "msr esr_el1, x4",
    "mrs x2, vbar_el1",
    "mov x4, #0x580", // EL0
    "tbz x3, #4, 8f",
    "mov x4, #0x780", // in AArch32
    "8: tbz x3, #2, 9f",
    "mov x4, #0x180", // EL1t
    "tbz x3, #0, 9f",
    "mov x4, #0x380", // EL1h
    "9: add x2, x2, x4",
    "mov x3, #{at_el1}",
    "ret",
    // The last words are said, and there may be a host with vectors. Where it is is not known, and its registers are
    // lost: what it gets instead is this text.
    ".global exeunt_panic_host",
    "exeunt_panic_host:",
    "bl exeunt_hcr_of_host",
    "mrs x2, vbar_el1",
    "mov x3, #{at_el1}",
    "mov x4, sp", // SP_EL0, as `El1::pstate` looks at it
    "tbnz x4, #55, 1f",
    "mov x3, #{at_el0}",
    "1: bl exeunt_serror_to_host",
    "adr x0, exeunt_rescue",
    "b 5b",
    ".ltorg",
    ".popsection",
    point = const cpu::POINT,
    begin = const cpu::BEGIN,
    in_window = const cpu::IN_WINDOW,
    watched = const cpu::WATCHED,
    life = const cpu::LIFE,
    died = const cpu::DIED,
    stack_top = const cpu::STACK_TOP,
    frame_size = const size_of::<HostFrame>(),
    at_el2 = const AT_EL2,
    at_el1 = const pstate::DAIF | pstate::EL1H,
    at_el0 = const pstate::DAIF | pstate::EL0T,
    rw = const hcr::RW,
    kept = const HCR_KEPT,
    amo = const serror::AMO,
    vse = const serror::VSE,
    serror = const SERROR,
    fail_panic = const Fail::Panic as u8,
    soft_restart = const SOFT_RESTART,
    hvc64 = const ExceptionClass::Hvc64 as u64,
    stub_state = const State::Stub as u32,
    owner = sym last_words::REPORTER,
    depart = sym depart,
);

/// Goes to ELR_EL2 and SPSR_EL2, with the registers of `frame`. See point 6 above: FAR_EL2 and TPIDR_EL2 keep what has
/// no register any longer.
///
/// # Safety
/// `vbar` is a vector table for a CPU without EL2 MMU, `hcr` what HCR_EL2 shall be, and `frame` the host's.
#[unsafe(naked)]
unsafe extern "C" fn depart(frame: *const HostFrame, hcr: u64, vbar: u64) -> ! {
    naked_asm!(
        "dsb sy",
        "msr cnthp_ctl_el2, xzr",
        "msr hcr_el2, x1",
        "isb", // no walk with VM 1 and no table
        "msr vttbr_el2, xzr",
        "msr vtcr_el2, xzr",
        "isb",
        "tlbi alle1",
        "dsb nsh",
        "msr far_el2, x2",
        "mov x30, x0",
        "ldp x0, x1, [x30]",
        x2_to_x29!("ldp", "x30, #"),
        "ldr x30, [x30, #240]",
        "msr tpidr_el2, x30",
        // Nothing of memory from here on but these instructions.
        "mov x30, #{sctlr_low}",
        "movk x30, #{sctlr_high}, lsl #16",
        "msr sctlr_el2, x30",
        "isb",
        "mrs x30, far_el2",
        "msr vbar_el2, x30",
        "tlbi alle2",
        "ic iallu",
        "dsb nsh",
        "isb",
        "mrs x30, tpidr_el2",
        "msr tpidr_el2, xzr",
        "eret",
        "dsb nsh",
        "isb",
        sctlr_low = const SCTLR_EL2_MMU_OFF & 0xffff,
        sctlr_high = const SCTLR_EL2_MMU_OFF >> 16,
    )
}
