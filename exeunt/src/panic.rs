//! When Exeunt itself fails: what it says, and that the machine goes off instead of hanging.
//!
//! Owns the panic handler and the handlers for exceptions taken from EL2. A report has the reason in words, the
//! registers where there are any, and a backtrace by frame pointers as addresses in the ELF file, which
//! `scripts/symbolize` turns into functions and lines. Nothing here allocates, waits for a lock or trusts the rest of
//! Exeunt.

use core::fmt::{self, Display};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{CurrentEL, MPIDR_EL1, Readable};
use hypervisor::blackbox::{Cause, Kind};
use hypervisor::devicetree::Region;
use hypervisor::paging::PAGE_SIZE;
use hypervisor::psci::MPIDR_AFFINITY;
use hypervisor::syndrome::Esr;
use hypervisor::uart::Uart;

use crate::cpu::{self, PerCpu};
use crate::frame::ExceptionFrame;
use crate::machine::psci;
use crate::{blackbox, console, firmware, last_words, memory, selftest};

/// 0 while no CPU panics, else the `PerCpu` of the one that does: it has the emergency stack and the console.
pub static PANIC_OWNER: AtomicU64 = AtomicU64::new(0);

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
    let me = cpu.address();
    let claim = if console::locks_work() {
        PANIC_OWNER.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire)
    } else {
        Ok(0)
    };
    match claim {
        Ok(_) => {}
        Err(owner) if owner == me => nested("another panic"),
        Err(_) => last_words::await_report(),
    }
    cpu.note_panic();
    let frame_pointer: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) frame_pointer, options(nomem, nostack, preserves_flags)) };
    match info.location() {
        Some(place) => headline(Cause::Panic, None, format_args!("{} ({place})", info.message())),
        None => headline(Cause::Panic, None, format_args!("{}", info.message())),
    }
    backtrace(None, frame_pointer);
    finish();
}

/// The first exception that this CPU took from EL2. `vectors` has saved the registers and this is the emergency stack.
pub extern "C" fn el2_exception(cpu: &PerCpu) -> ! {
    let frame = cpu.exception();
    let syndrome = Esr::new(frame.esr).with_far(frame.far);
    let kind = KINDS[(frame.vector % 4) as usize];
    let cause = Cause::Exception;
    if let Some(lost) = cpu.lost() {
        cpu.stand_for(psci().find(MPIDR_EL1.get() & MPIDR_AFFINITY).unwrap_or(0));
        headline(cause, Some(frame), format_args!("TPIDR_EL2 was {lost:#x}, which is no CPU's; {syndrome}"));
    } else if frame.vector.is_multiple_of(4) {
        headline(cause, Some(frame), format_args!("{syndrome}"));
    } else {
        headline(cause, Some(frame), format_args!("{kind} from EL2"));
    }
    registers(frame);
    selftest::in_a_report();
    backtrace(Some(frame.elr), frame.x[29]);
    finish();
}

/// The second exception on this CPU: it happened in the report of the first.
pub extern "C" fn double_fault(cpu: &PerCpu) -> ! {
    let frame = cpu.exception();
    selftest::in_a_report();
    blackbox::die_again();
    find_console();
    console::line(format_args!(
        "EXEUNT PANIC: an exception during a panic: ESR {:#x} ELR {:#x} FAR {:#x}",
        frame.esr,
        relative(frame.elr),
        frame.far
    ));
    firmware::power_off();
}

/// A panic in the report of a panic.
fn nested(what: &str) -> ! {
    blackbox::die_again();
    console::line(format_args!("EXEUNT PANIC: {what} during a panic"));
    firmware::power_off();
}

/// Says why, and writes it down before, since the console may be what does not work.
fn headline(cause: Cause, frame: Option<&ExceptionFrame>, reason: fmt::Arguments) {
    blackbox::die(cause, frame, reason);
    if console::locks_work() {
        blackbox::event(Kind::Died, [cause as u64, 0]);
    }
    find_console();
    console::line(format_args!("EXEUNT PANIC: {reason}"));
    console::line(format_args!(
        "  CPU {} (MPIDR {:#x}), image at {:#x}, CurrentEL {}",
        cpu::index(),
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

fn finish() -> ! {
    console::line(format_args!("  the machine goes off now"));
    blackbox::clean();
    firmware::power_off();
}
