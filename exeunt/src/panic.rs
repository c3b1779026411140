//! When Exeunt itself fails: what it says. What becomes of the host then is [`crate::rescue`]'s.
//!
//! Owns the panic handler and the handlers for exceptions taken from EL2. A report has the reason in words, the
//! registers where there are any, and a backtrace by frame pointers as addresses in the ELF file, which
//! `scripts/symbolize` turns into functions and lines. Nothing here allocates, waits for a lock or trusts the rest of
//! Exeunt: each exception or panic of a CPU ends in a shorter report than the one before, and after the third there is
//! none (`vectors` counts).

use core::fmt::{self, Display};
use core::panic::PanicInfo;
use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{CurrentEL, MPIDR_EL1, Readable};
use hypervisor::blackbox::Cause;
use hypervisor::devicetree::Region;
use hypervisor::paging::PAGE_SIZE;
use hypervisor::psci::MPIDR_AFFINITY;
use hypervisor::syndrome::Esr;
use hypervisor::uart::Uart;

use crate::cpu::{self, PerCpu};
use crate::faults::fault_point;
use crate::frame::ExceptionFrame;
use crate::last_words::REPORTER;
use crate::machine::psci;
use crate::{blackbox, console, firmware, last_words, memory, rescue, selftest};

/// The most frames of a backtrace.
const MAX_FRAMES: usize = 32;

/// Names of the four kinds of exception, in the order of the vectors.
const KINDS: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "SError"];

/// Where QEMU's `virt` machine has its UART. Written to only when there is no device tree that could be asked, because
/// the alternative is to stop without a word; the host never runs after that.
const FALLBACK_UART: Uart = Uart::pl011(0x0900_0000);

/// Says why the host cannot be started and turns the machine off.
#[inline]
pub fn cannot_start(reason: impl Display) -> ! {
    refuse(&reason)
}

#[cold]
#[inline(never)]
fn refuse(reason: &dyn Display) -> ! {
    find_console();
    console::line(format_args!("EXEUNT CANNOT START: {reason}"));
    firmware::power_off();
}

/// Sees to it that what is said from here on can be read, if no device tree could be asked where.
fn find_console() {
    if !console::is_unasked() {
        return;
    }
    let registers = FALLBACK_UART.registers();
    let pages = Region { start: registers.start, end: registers.end }.in_pages(PAGE_SIZE);
    let pages = pages.filter(|pages| !pages.overlaps(memory::reservation()));
    let mapped = pages.filter(|&pages| !console::locks_work() || memory::try_map_device(pages));
    console::set_uart(mapped.map(|_| FALLBACK_UART));
}

#[panic_handler]
fn rust_panic(info: &PanicInfo) -> ! {
    let Some(cpu) = cpu::this() else {
        // Not at EL2, where there are no vectors of ours and no other CPU.
        find_console();
        console::line(format_args!("EXEUNT PANIC: {}", info.message()));
        firmware::power_off();
    };
    let claim = if console::locks_work() {
        REPORTER.compare_exchange(0, cpu.address(), Ordering::AcqRel, Ordering::Acquire)
    } else {
        Ok(0)
    };
    match (cpu.note_panic(), claim) {
        (3.., _) => rescue::last_try(cpu),
        (2, _) => again(cpu, format_args!("another panic during a panic")),
        (_, Err(owner)) if owner != cpu.address() => beside(cpu, format_args!("{}", info.message())),
        _ => {}
    }
    let frame_pointer: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) frame_pointer, options(nomem, nostack, preserves_flags)) };
    match info.location() {
        Some(place) => headline(cpu, Cause::Panic, None, format_args!("{} ({place})", info.message())),
        None => headline(cpu, Cause::Panic, None, format_args!("{}", info.message())),
    }
    backtrace(None, frame_pointer);
    finish(cpu)
}

/// The first exception that this CPU took from EL2. `vectors` has saved the registers and this is the emergency stack.
pub extern "C" fn el2_exception(cpu: &PerCpu) -> ! {
    let frame = cpu.exception();
    let syndrome = Esr::new(frame.esr).with_far(frame.far);
    let kind = KINDS[(frame.vector % 4) as usize];
    let cause = Cause::Exception;
    if cpu.is_spare() {
        cpu.stand_for(psci().find(MPIDR_EL1.get() & MPIDR_AFFINITY).unwrap_or(0));
    }
    if let Some(lost) = cpu.lost() {
        headline(cpu, cause, Some(frame), format_args!("TPIDR_EL2 was {lost:#x}, which is no CPU's; {syndrome}"));
    } else if frame.vector.is_multiple_of(4) {
        headline(cpu, cause, Some(frame), format_args!("{syndrome}"));
    } else {
        headline(cpu, cause, Some(frame), format_args!("{kind} from EL2"));
    }
    fault_point!("report-registers");
    registers(frame);
    selftest::in_a_report();
    fault_point!("report-backtrace");
    backtrace(Some(frame.elr), frame.x[29]);
    finish(cpu)
}

/// The first exception that this CPU took from EL2, while another CPU reports its own.
pub extern "C" fn el2_exception_beside(cpu: &PerCpu) -> ! {
    let frame = cpu.exception();
    let [esr, elr, far] = [frame.esr, relative(frame.elr), frame.far];
    beside(cpu, format_args!("an exception: ESR {esr:#x} ELR {elr:#x} FAR {far:#x}"))
}

/// The second exception on this CPU: it happened in the report of the first.
pub extern "C" fn double_fault(cpu: &PerCpu) -> ! {
    let frame = cpu.exception();
    selftest::in_a_report();
    find_console();
    let [esr, elr, far] = [frame.esr, relative(frame.elr), frame.far];
    again(cpu, format_args!("an exception during a panic: ESR {esr:#x} ELR {elr:#x} FAR {far:#x}"))
}

/// Something has failed in a report.
#[cold]
#[inline(never)]
fn again(cpu: &PerCpu, what: fmt::Arguments) -> ! {
    fault_point!("report-again");
    rescue::tell(cpu);
    blackbox::die_again();
    console::line(format_args!("EXEUNT PANIC: {what}"));
    rescue::abandon_call(cpu);
    finish_shortly(cpu)
}

/// Another CPU has the console.
#[cold]
#[inline(never)]
fn beside(cpu: &PerCpu, what: fmt::Arguments) -> ! {
    if !rescue::is_wanted() {
        last_words::await_report()
    }
    rescue::tell(cpu);
    rescue::note(Cause::Exception as u64);
    console::line(format_args!("EXEUNT PANIC: CPU {} as well: {what}", cpu.index()));
    rescue::abandon_call(cpu);
    finish_shortly(cpu)
}

/// Says why, and writes it down before, since the console may be what does not work.
fn headline(cpu: &PerCpu, cause: Cause, frame: Option<&ExceptionFrame>, reason: fmt::Arguments) {
    rescue::tell(cpu);
    fault_point!("report-begin");
    blackbox::die(cause, frame, reason);
    if console::locks_work() {
        rescue::note(cause as u64);
    }
    find_console();
    console::line(format_args!("EXEUNT PANIC: {reason}"));
    console::line(format_args!(
        "  CPU {} (MPIDR {:#x}), image at {:#x}, CurrentEL {}",
        cpu.index(),
        MPIDR_EL1.get(),
        memory::image_base(),
        CurrentEL.read(CurrentEL::EL)
    ));
}

fn registers(frame: &ExceptionFrame) {
    console::line(format_args!(
        "  ELR {:#018x} SPSR {:#x} ESR {:#x} FAR {:#018x}",
        frame.elr, frame.spsr, frame.esr, frame.far
    ));
    console::line(format_args!("  SP  {:#018x} LR {:#018x}", frame.sp, frame.x[30]));
    for (row, values) in frame.x[..28].chunks_exact(4).enumerate() {
        let [a, b, c, d] = values else { continue };
        let first = row * 4;
        console::line(format_args!("  x{first:<2} {a:016x} {b:016x} {c:016x} {d:016x}"));
    }
    console::line(format_args!("  x28 {:016x} {:016x}", frame.x[28], frame.x[29]));
}

/// Prints the return addresses that the chain of frame records holds (AAPCS64, 6.4.6), as far as it stays on Exeunt's
/// stacks and goes up.
fn backtrace(pc: Option<u64>, mut frame_pointer: u64) {
    console::line(format_args!("  backtrace, decode with scripts/symbolize:"));
    let mut number = 0;
    let mut show = |address: u64| {
        blackbox::add_to_backtrace(number, relative(address));
        console::line(format_args!("    #{number:<2} {:#010x}", relative(address)));
        number += 1;
    };
    if let Some(pc) = pc {
        show(pc);
    }
    for _ in 0..MAX_FRAMES {
        if !frame_pointer.is_multiple_of(16) || !memory::is_stack(frame_pointer) {
            return;
        }
        let record = core::ptr::with_exposed_provenance::<[u64; 2]>(frame_pointer as usize);
        // SAFETY: aligned, and within memory that is mapped as one of Exeunt's stacks.
        let [next, return_address] = unsafe { record.read() };
        if return_address == 0 {
            return;
        }
        // The instruction before the return address is the call.
        show(return_address.wrapping_sub(4));
        if next <= frame_pointer {
            return;
        }
        frame_pointer = next;
    }
}

/// An address as the ELF file has it.
fn relative(address: u64) -> u64 {
    address.wrapping_sub(memory::image_base())
}

fn finish(cpu: &PerCpu) -> ! {
    rescue::abandon_call(cpu);
    let rescue = rescue::plan(cpu);
    console::line(format_args!("  {rescue}"));
    rescue.go(cpu)
}

/// The same, when there was a shorter report or none.
fn finish_shortly(cpu: &PerCpu) -> ! {
    let rescue = rescue::plan(cpu);
    console::line(format_args!("  CPU {}: {rescue}", cpu.index()));
    rescue.go(cpu)
}
