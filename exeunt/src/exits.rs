//! What comes from the host: synchronous exceptions, interrupts and SErrors.
//!
//! Owns the handlers that the vectors name. What an exception is answered is decided in `hypervisor::trap` and
//! `hypervisor::virtual_el2`.

use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{
    CNTPCT_EL0, ELR_EL2, ESR_EL2, FAR_EL2, HCR_EL2, HPFAR_EL2, ReadWriteable, Readable, SPSR_EL2, VBAR_EL1, Writeable,
};
use guest_abi::blackbox::{IN_VIRTUAL_EL2, INJECTED, WENT_NATIVE};
use hypervisor::blackbox::trace;
use hypervisor::blackbox::{Beginning, Kind, Open};
use hypervisor::counters::{self, Counters, Exit};
use hypervisor::guard::Verdict;
use hypervisor::inject;
use hypervisor::paging::stage2::Hidden;
use hypervisor::syndrome::{Abort, EC_SHIFT, Esr, ExceptionClass, FaultKind};
use hypervisor::trap::{self, Next};
use hypervisor::virtual_el2::Outcome;
use hypervisor::virtual_el2::interrupts::Held;
use log::{LevelFilter, debug, error, trace, warn};

use crate::cpu::PerCpu;
use crate::faults::fault_point;
use crate::frame::HostFrame;
use crate::machine::{self, Machine};
use crate::resident::FAST;
use crate::trap::Trap;
use crate::{blackbox, calls, crash, doorbell, guard, leaving, memory, serror, stage2, ticks, watchdog};

/// The counters of a CPU that has come from the host.
#[inline]
fn counters_of(cpu: &PerCpu) -> &'static Counters {
    // SAFETY: the host runs on it.
    unsafe { &cpu.block_of_running_host().counters }
}

/// With `log=trace`, with which exits are traced, each but HVC and SMC has a line.
fn tell(esr: Esr) {
    #[cold]
    #[inline(never)]
    fn line(esr: Esr) {
        trace!("exit: {esr}, at {:#x}", ELR_EL2.get());
    }
    if log::max_level() == LevelFilter::Trace {
        line(esr);
    }
}

/// An HVC from AArch64. It cannot come from virtual EL2, which is at EL0, where there is none.
pub extern "C" fn hvc(frame: &mut HostFrame, cpu: &'static PerCpu) {
    counters_of(cpu).count(Exit::Hvc);
    fault_point!("hvc");
    call(frame, cpu, trap::hvc);
}

/// An SMC from AArch64; as for [`hvc`].
pub extern "C" fn smc(frame: &mut HostFrame, cpu: &'static PerCpu) {
    counters_of(cpu).count(Exit::Smc);
    fault_point!("smc");
    call(frame, cpu, trap::smc);
}

#[inline]
fn call<'a>(
    frame: &'a mut HostFrame,
    cpu: &'static PerCpu,
    answer: impl FnOnce(&mut Trap<'a>, &'static Machine, Esr) -> Next,
) {
    // SAFETY: this is its exit.
    let machine = unsafe { machine::of_running_host() };
    let esr = Esr::new(ESR_EL2.get());
    #[cfg(feature = "faults")]
    if frame.x[0] == hypervisor::faults::ARM {
        return crate::faults::call(frame.arguments());
    }
    if FAST.control.is_leaving() {
        return leaving::interrupted(frame, cpu, machine, esr);
    }
    let trap = &mut Trap { frame, cpu, machine };
    match answer(trap, machine, esr) {
        Next::Host => {}
        Next::Stub => calls::stub(trap),
        Next::Own => calls::own(trap),
        Next::Kvm => calls::kvm(trap),
    }
    fault_point!("answered");
}

/// A synchronous exception from the host, on a CPU whose exits are traced.
pub extern "C" fn traced_sync(frame: &mut HostFrame, cpu: &'static PerCpu) {
    const HVC: u64 = ExceptionClass::Hvc64 as u64;
    const SMC: u64 = ExceptionClass::Smc64 as u64;
    let esr = ESR_EL2.get();
    match esr >> EC_SHIFT {
        HVC => traced_call(frame, cpu, esr, Exit::Hvc, |frame, cpu| hvc(frame, cpu)),
        SMC => traced_call(frame, cpu, esr, Exit::Smc, |frame, cpu| smc(frame, cpu)),
        _ => traced_other(frame, cpu, Esr::new(esr)),
    }
}

#[inline]
fn traced_call(
    frame: &mut HostFrame,
    cpu: &'static PerCpu,
    esr: u64,
    class: Exit,
    handle: impl FnOnce(&mut HostFrame, &'static PerCpu),
) {
    let (time, pc, subject, cpu_number) = (CNTPCT_EL0.get(), ELR_EL2.get(), frame.x[0], cpu.index() as u16);
    let record = Beginning { time, pc, subject, esr: esr as u32, class, flags: 0, cpu: cpu_number };
    let open = blackbox::begin_trace(cpu, &record);
    fault_point!("traced-begin");
    handle(frame, cpu);
    fault_point!("traced-end");
    open.end(CNTPCT_EL0.get(), frame.x[0], 0);
}

/// What is no call.
fn traced_other(frame: &mut HostFrame, cpu: &'static PerCpu, esr: Esr) {
    let in_window = cpu.in_window();
    let record = Beginning {
        time: CNTPCT_EL0.get(),
        pc: ELR_EL2.get(),
        subject: if esr.is_abort_of_lower() { FAR_EL2.get() } else { 0 },
        esr: esr.bits() as u32,
        class: counters::kind(esr),
        flags: if in_window { IN_VIRTUAL_EL2 } else { 0 },
        cpu: cpu.index() as u16,
    };
    tell(esr);
    let open = blackbox::begin_trace(cpu, &record);
    if in_window {
        cpu.instruction.store(0, Ordering::Relaxed);
        sync(frame, cpu);
        let esr = trace::syndrome(cpu.instruction.load(Ordering::Relaxed)).unwrap_or(esr);
        open.set_esr(esr.bits() as u32);
        end_trace(open, frame, esr, if cpu.in_window() { 0 } else { WENT_NATIVE });
    } else {
        sync(frame, cpu);
        let now_at = ELR_EL2.get();
        let in_vector = now_at != record.pc && now_at.wrapping_sub(VBAR_EL1.get()) < VECTORS;
        end_trace(open, frame, esr, if in_vector { INJECTED } else { 0 });
    }
}

/// Ends the record of what is no call, by its syndrome.
#[inline]
fn end_trace(open: Open, frame: &HostFrame, esr: Esr, flags: u8) {
    let mut answer = 0;
    if let Some(access) = esr.system_access() {
        // What was written is still where it was written from.
        let value = frame.x.get(usize::from(access.register())).copied().unwrap_or(0);
        if access.is_read() {
            answer = value;
        } else {
            open.set_subject(value);
        }
    } else if esr.is_abort_of_lower() {
        answer = trap::fault_ipa(HPFAR_EL2.get());
    }
    open.end(CNTPCT_EL0.get(), answer, flags);
}

/// Bytes of a table of vectors.
const VECTORS: u64 = 0x800;

/// An IRQ, FIQ or SError of a CPU whose exits are traced.
fn traced_interrupt(frame: &mut HostFrame, cpu: &'static PerCpu, handle: impl FnOnce(&mut HostFrame, &'static PerCpu)) {
    let flags = if cpu.in_window() { IN_VIRTUAL_EL2 } else { 0 };
    let (time, pc, cpu_number) = (CNTPCT_EL0.get(), ELR_EL2.get(), cpu.index() as u16);
    let record = Beginning { time, pc, subject: 0, esr: 0, class: Exit::Interrupt, flags, cpu: cpu_number };
    let open = blackbox::begin_trace(cpu, &record);
    handle(frame, cpu);
    open.end(CNTPCT_EL0.get(), 0, 0);
}

/// As [`irq`].
pub extern "C" fn traced_irq(frame: &mut HostFrame, cpu: &'static PerCpu) {
    traced_interrupt(frame, cpu, |frame, cpu| irq(frame, cpu));
}

/// As [`fiq`].
pub extern "C" fn traced_fiq(frame: &mut HostFrame, cpu: &'static PerCpu) {
    traced_interrupt(frame, cpu, |frame, cpu| fiq(frame, cpu));
}

/// As [`serror`].
pub extern "C" fn traced_serror(frame: &mut HostFrame, cpu: &'static PerCpu) {
    traced_interrupt(frame, cpu, |frame, cpu| serror(frame, cpu));
}

/// Any other synchronous exception from the host. `vectors` calls it and goes back to the host when it returns.
pub extern "C" fn sync(frame: &mut HostFrame, cpu: &'static PerCpu) {
    // SAFETY: this is its exit.
    let machine = unsafe { machine::of_running_host() };
    let esr = Esr::new(ESR_EL2.get());
    counters_of(cpu).count_class(esr.class_bits());
    fault_point!("sync");
    // Each ends in another function's place: what most exits do not need is not saved for them.
    if FAST.control.is_leaving() {
        leaving::interrupted(frame, cpu, machine, esr);
    } else if esr.is_abort_of_lower() {
        abort(frame, cpu, machine, esr);
    } else if cpu.in_window() {
        virtual_el2(frame, cpu, machine, esr);
    } else {
        dispatch(frame, cpu, machine, esr);
    }
}

/// An abort of the host's. Nothing is left to do if it came from a LEAVE that is over, and stage 2 is back, so that the
/// host tries again; or if the doorbell has answered it. In this order: while stage 2 is away the doorbell's page is no
/// page.
#[inline(never)]
fn abort(frame: &mut HostFrame, cpu: &'static PerCpu, machine: &'static Machine, esr: Esr) {
    fault_point!("abort");
    if is_from_a_leave(machine, esr) {
        return;
    }
    let in_window = cpu.in_window();
    if !in_window && doorbell::answer(&mut Trap { frame, cpu, machine }, esr) {
        return;
    }
    if ticks::are_wanted() && store_to_gic(frame, cpu, esr) {
        return;
    }
    if guard::is_active() && guarded(frame, cpu, machine, esr) {
        return;
    }
    if in_window {
        virtual_el2(frame, cpu, machine, esr);
    } else {
        dispatch(frame, cpu, machine, esr);
    }
}

/// Carries out a store of the host's to the GIC that comes here for the sake of the watchdog.
#[cold]
#[inline(never)]
fn store_to_gic(frame: &HostFrame, cpu: &'static PerCpu, esr: Esr) -> bool {
    let Some(abort) = esr.abort().filter(|abort| {
        abort.fault().kind == FaultKind::Permission
            && abort.is_write()
            && !abort.on_stage1_walk()
            && !abort.is_cache_maintenance()
    }) else {
        return false;
    };
    let far = FAR_EL2.get();
    let address = if cpu.in_window() { Some(far) } else { stage2::host_ipa(far) };
    let (Some(address), Some(access)) = (address, abort.access()) else { return false };
    // The zero register is none of the frame's.
    let value = frame.x.get(usize::from(access.register)).copied().unwrap_or(0);
    if !ticks::store(cpu, address, access.size, value) {
        return false;
    }
    let (pc, pstate) = inject::skip_instruction(ELR_EL2.get(), SPSR_EL2.get(), esr.is_32bit_instruction());
    ELR_EL2.set(pc);
    SPSR_EL2.set(pstate);
    true
}

/// Has the guard of the crash kernel answer an abort. True: the host tries again.
#[cold]
#[inline(never)]
fn guarded(frame: &mut HostFrame, cpu: &'static PerCpu, machine: &'static Machine, esr: Esr) -> bool {
    let Some(abort) = esr.abort() else { return false };
    // What the guard knows it forgets when the crash kernel begins.
    let regions = guard::crash_regions();
    match guard::fault(cpu, &machine.ram, machine.stage2, frame.x[29], abort) {
        Verdict::Again => true,
        Verdict::CrashBegins => {
            crash::begin_at_el1(&mut Trap { frame, cpu, machine }, regions);
            ticks::begin_anew(cpu);
            true
        }
        Verdict::Others => false,
        // Whoever answers an abort that is not allowed says where the host was.
        Verdict::Wild => {
            tell_wild(frame, cpu, abort);
            false
        }
    }
}

#[cold]
#[inline(never)]
fn tell_wild(frame: &HostFrame, cpu: &PerCpu, abort: Abort) {
    let (pc, far, index) = (ELR_EL2.get(), FAR_EL2.get(), cpu.index());
    blackbox::event(Kind::Wild, [pc, far]);
    let number = blackbox::count_wild();
    let register = abort.access().map(|access| usize::from(access.register));
    guard::limited(|| match register.filter(|_| !abort.is_cache_maintenance()) {
        _ if abort.is_instruction() => warn!("guard: CPU {index} at {pc:#x} executes crash kernel memory ({number})"),
        Some(register) => {
            let value = frame.x.get(register).copied().unwrap_or_default();
            warn!("guard: CPU {index} at {pc:#x} writes {value:#x} to {far:#x}, crash kernel memory ({number})");
        }
        None => warn!("guard: CPU {index} at {pc:#x} writes to {far:#x}, crash kernel memory ({number})"),
    });
}

#[inline(never)]
fn dispatch(frame: &mut HostFrame, cpu: &'static PerCpu, machine: &'static Machine, esr: Esr) {
    fault_point!("dispatch");
    trap::dispatch(&mut Trap { frame, cpu, machine }, machine, esr);
    fault_point!("injected");
}

/// Whether this is the fault of a host whose stage 2 a LEAVE had taken away for a moment; which is over now.
fn is_from_a_leave(machine: &Machine, esr: Esr) -> bool {
    let Some(abort) = esr.abort() else { return false };
    let fault = abort.fault();
    let Some(level) = fault.level.filter(|_| fault.kind == FaultKind::Translation) else { return false };
    // HPFAR_EL2 is written for a translation fault, on a stage 1 walk too.
    match machine.stage2.hidden(level, trap::fault_ipa(HPFAR_EL2.get())) {
        Hidden::Never => false,
        Hidden::Before => true,
        // Not by a LEAVE that has begun since this CPU looked: by one whose leaver was taken for dead too early.
        Hidden::Now => {
            if !FAST.control.is_leaving() {
                machine.stage2.show();
            }
            true
        }
    }
}

/// A synchronous exception from the host in virtual EL2.
#[inline(never)]
fn virtual_el2(frame: &mut HostFrame, cpu: &'static PerCpu, machine: &'static Machine, esr: Esr) {
    fault_point!("window");
    let settings = machine.settings(cpu.ids());
    let pc = ELR_EL2.get();
    let trap = &mut Trap { frame, cpu, machine };
    let answer = cpu.with_virtual_el2(|virtual_el2| {
        let answer = virtual_el2.handle(trap, &settings, esr);
        // The instruction that ends the window is not executed again.
        if let Outcome::GoNative { pc, pstate } = answer.outcome {
            trap.goes_on_at(pc, pstate);
        }
        answer
    });
    fault_point!("window-done");
    if let Some(note) = answer.note {
        trap::limited(machine, || warn!("host in virtual EL2 at {pc:#x}: {note}"));
    }
    match answer.outcome {
        Outcome::Continue => {}
        Outcome::GoNative { pc, pstate } => {
            cpu.window_ends();
            // SAFETY: this CPU.
            unsafe { memory::hide_all(cpu) };
            blackbox::event(Kind::Native, [pc, pstate]);
            ticks::begin(cpu);
            debug!("the host goes on in hardware at {pc:#x}, PSTATE {pstate:#x}");
        }
        Outcome::Smc(immediate) => trap::smc_call(&mut Trap { frame, cpu, machine }, machine, immediate),
        Outcome::NoVectors { pc, esr } => no_vectors(pc, Esr::new(esr)),
    }
}

/// The host takes an exception in virtual EL2, to vectors of its own that are not there. Who writes a guest makes the
/// first call like this.
#[cold]
#[inline(never)]
fn no_vectors(pc: u64, esr: Esr) -> ! {
    let is_call = esr.class() == Some(ExceptionClass::Hvc64);
    let hint = if is_call { " (to call Exeunt, ERET to EL1 first)" } else { "" };
    error!("host in virtual EL2 at {pc:#x}: {esr}, and no vectors to take it to{hint}; CPU stopped");
    loop {
        aarch64_cpu::asm::wfi();
    }
}

/// An IRQ taken to EL2. HCR_EL2.IMO is 0, so that the host has its interrupts; TGE brings them here while the host is
/// in virtual EL2, where they are held.
pub extern "C" fn irq(frame: &mut HostFrame, cpu: &'static PerCpu) {
    interrupt(frame, cpu, "an IRQ");
}

/// An FIQ taken to EL2; as for [`irq`], or a tick of the watchdog's.
pub extern "C" fn fiq(frame: &mut HostFrame, cpu: &'static PerCpu) {
    if ticks::come_to(cpu) && !cpu.in_window() {
        counters_of(cpu).count(Exit::Interrupt);
        // SAFETY: this is its exit.
        let machine = unsafe { machine::of_running_host() };
        watchdog::fiq(&mut Trap { frame, cpu, machine });
    } else {
        interrupt(frame, cpu, "an FIQ");
    }
}

#[cold]
#[inline(never)]
fn interrupt(frame: &mut HostFrame, cpu: &'static PerCpu, what: &str) {
    let machine = machine::machine();
    cpu.block().counters.count(Exit::Interrupt);
    let settings = machine.settings(cpu.ids());
    let trap = &mut Trap { frame, cpu, machine };
    match cpu.with_virtual_el2(|virtual_el2| virtual_el2.hold_interrupt(trap, &settings)) {
        Held::Again => {}
        Held::Detour => {
            trap::limited(machine, || {
                warn!("CPU {}: {what} keeps coming in virtual EL2, and no mask of the GIC's holds it", cpu.index());
            });
        }
        // Nothing that the host does brings it here. It is the host's all the same, and that is worth more than a
        // word of Exeunt's last.
        Held::Outside => {
            trap::limited(machine, || {
                warn!("CPU {}: {what} came to EL2, with HCR_EL2 {:#x}", cpu.index(), HCR_EL2.get());
            });
            HCR_EL2.modify(HCR_EL2::TGE::CLEAR + HCR_EL2::IMO::CLEAR + HCR_EL2::FMO::CLEAR);
        }
    }
}

/// An SError taken to EL2. It is the host's: it came while the host was in virtual EL2, where HCR_EL2.TGE routes it
/// here, or after one that did, since AMO stays set for its sake. It is given to the host as a virtual SError as soon
/// as the host is at EL1 and does not mask it.
pub extern "C" fn serror(_: &mut HostFrame, cpu: &'static PerCpu) {
    cpu.block().counters.count(Exit::Interrupt);
    let esr = Esr::new(ESR_EL2.get());
    trap::limited(machine::machine(), || warn!("CPU {}: {esr}, which the host will take", cpu.index()));
    if cpu.in_window() {
        cpu.with_virtual_el2(|virtual_el2| virtual_el2.hold_serror(esr));
    } else {
        serror::pend(cpu, esr);
    }
}
