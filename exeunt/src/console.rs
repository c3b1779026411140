//! Exeunt's log: in a ring in memory, and on the UART that the device tree names as stdout.
//!
//! Owns the UART for as long as a line takes; the host drives the same UART, and neither knows of the other. Lines are
//! whole: a lock keeps them apart between CPUs, and whoever cannot have it in time does without. Like Linux's earlycon,
//! Exeunt uses the UART as firmware left it and does not set its speed. Where none is known, there is the ring.
//!
//! Nothing here waits without limit or can end a CPU: a UART that does not answer is left alone.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, ESR_EL2, FAR_EL2, HPFAR_EL2, Readable, Writeable};
use hypervisor::own_calls::log::LogRing;
use hypervisor::uart::{Port, Uart, Width};
use log::{LevelFilter, Log, Metadata, Record};
use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::faults::fault_point;
use crate::{blackbox, cpu, guarded, last_words};

/// The end of the log, for LOG_READ. It lies in the black box.
pub fn ring() -> LogRing<'static> {
    blackbox::log()
}

/// Where the log goes besides the ring.
#[derive(Clone, Copy)]
enum Door {
    /// No device tree has been read yet that could say it.
    Unasked,
    /// Nowhere.
    Closed,
    /// Here. The registers are mapped as Device memory, or the MMU is off.
    Open(Port),
}

struct Shared(UnsafeCell<Door>);

// SAFETY: only the boot CPU writes it, before any other runs.
unsafe impl Sync for Shared {}

static DOOR: Shared = Shared(UnsafeCell::new(Door::Unasked));

/// The UART has not answered: it is not asked again.
static GONE: AtomicBool = AtomicBool::new(false);

/// Held while a line is written.
static LINE: SpinMutex<Line> = SpinMutex::new(Line { bytes: [0; _], length: 0 });

/// Whether a lock may be taken: set once the MMU is on, since exclusive accesses are not promised to work on the Device
/// memory that everything is before.
static LOCKS_WORK: AtomicBool = AtomicBool::new(false);

/// How often a line asks for the lock before it goes without: the CPU that holds it may be the one that is stuck, or
/// have died with it.
const LOCK_PATIENCE: u32 = 1_000_000;

struct Logger;

static LOGGER: Logger = Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata) -> bool {
        true // `log::set_max_level` has decided.
    }

    fn log(&self, record: &Record) {
        line(format_args!("{:<5} {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

/// Opens the UART that is to be used, if there is one, and says whether the log goes to it: it does not if nothing
/// answers. Called on the boot CPU, before any other runs; the UART's registers are mapped as Device memory, or the MMU
/// is off.
pub fn set_uart(uart: Option<Uart>) -> bool {
    let port = uart.as_ref().and_then(turn_on);
    // SAFETY: nobody else runs that could read it, as the caller promises.
    unsafe { DOOR.0.get().write(port.map_or(Door::Closed, Door::Open)) };
    let last = port.map_or(last_words::Uart::NONE, |port| last_words::Uart {
        status: port.status,
        data: port.data,
        bit: port.bit.into(),
        room: port.room.into(),
        bytes: u64::from(port.width == Width::Byte),
    });
    // SAFETY: as above.
    unsafe { last_words::set_uart(last) };
    port.is_some()
}

/// Makes a UART ready to send, as far as firmware has not; nothing if it does not answer.
fn turn_on(uart: &Uart) -> Option<Port> {
    let port = uart.port();
    // SAFETY: registers of a UART that a device tree names, of which `placement` has said that nothing else is there,
    // mapped as Device memory for all of Exeunt's life, or the MMU is off. Reading them has no effect, and what is
    // written changes nothing at EL2.
    unsafe {
        match port.width {
            Width::Byte => guarded::read_device_byte(port.status).ok()?.into(),
            Width::Word => guarded::read_device(port.status).ok()?,
        };
        if let Some(switch) = uart.switch()
            && let Some(control) = switch.turn_on(guarded::read_device(switch.register).ok()?)
        {
            guarded::write_device(switch.register, control).ok()?;
        }
    }
    Some(port)
}

/// Whether no device tree could be asked for the UART.
pub fn is_unasked() -> bool {
    matches!(door(), Door::Unasked)
}

fn door() -> &'static Door {
    // SAFETY: see `Shared`.
    unsafe { &*DOOR.0.get() }
}

/// Whether locks work: the MMU is on.
pub fn locks_work() -> bool {
    LOCKS_WORK.load(Ordering::Relaxed)
}

/// Says that EL2's MMU is on.
pub fn mmu_is_on() {
    LOCKS_WORK.store(true, Ordering::Relaxed);
}

/// Starts the log.
pub fn start() {
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// More than the FIFO of any PL011 holds.
const MOST_RECEIVED: usize = 64;

/// Something had been received when a CPU looked last, and nobody had read it.
static UNREAD: AtomicBool = AtomicBool::new(false);

/// Whether somebody has sent a break to the UART, on kinds that tell of one. What lies there since a CPU looked last
/// is read, and lost to the host, which had a second for it: one that polls the UART with interrupts masked has read
/// it.
#[inline(never)]
pub fn takes_break() -> bool {
    let Door::Open(port) = door() else { return false };
    // SAFETY: as in `turn_on`, which has looked at this UART; what is received concerns nobody at EL2.
    let read = |register| unsafe { guarded::read_device(register) }.ok();
    let has_byte = || port.tells_breaks && read(port.status).is_some_and(Port::has_byte);
    let is_unread = has_byte();
    UNREAD.swap(is_unread, Ordering::Relaxed)
        && is_unread
        && (0..MOST_RECEIVED).map_while(|_| has_byte().then(|| read(port.data)).flatten()).any(Port::is_break)
}

/// Takes the lock for good, for [`crate::selftest`].
pub fn lose_lock() {
    core::mem::forget(LINE.lock());
}

/// Writes `[exeunt <seconds> cpu<index>] `.
fn prefix(out: &mut impl Write) -> fmt::Result {
    let frequency = CNTFRQ_EL0.get().max(1);
    let ticks = CNTPCT_EL0.get();
    let micros = (ticks % frequency) * 1_000_000 / frequency;
    write!(out, "[exeunt {:5}.{micros:06} cpu{}] ", ticks / frequency, cpu::index())
}

/// Writes one line, also in a panic and before the MMU is on.
pub fn line(args: fmt::Arguments) {
    let mut text = Text(lock());
    let syndrome = locks_work().then(Syndrome::read);
    let was_gone = GONE.load(Ordering::Relaxed);
    let _ = prefix(&mut text);
    fault_point!("log-line");
    let _ = writeln!(text, "{args}");
    if let Some(line) = &mut text.0 {
        line.pass_on();
    }
    if let Some(syndrome) = syndrome
        && GONE.load(Ordering::Relaxed) != was_gone
    {
        syndrome.put_back();
    }
}

/// What EL2 was entered for: an access to a UART that is answered by an exception overwrites it, and whoever writes a
/// line may not have looked yet.
struct Syndrome {
    esr: u64,
    far: u64,
    hpfar: u64,
}

impl Syndrome {
    /// At EL2.
    fn read() -> Self {
        Self { esr: ESR_EL2.get(), far: FAR_EL2.get(), hpfar: HPFAR_EL2.get() }
    }

    fn put_back(&self) {
        ESR_EL2.set(self.esr);
        FAR_EL2.set(self.far);
        // SAFETY: says nothing to the CPU; `aarch64-cpu` only reads it.
        unsafe { core::arch::asm!("msr hpfar_el2, {}", in(reg) self.hpfar, options(nomem, nostack, preserves_flags)) };
    }
}

/// The lock, if it can be had in time. Without it characters of two lines may mix, which does no more harm than that
/// the host writes to the same UART.
fn lock() -> Option<SpinMutexGuard<'static, Line>> {
    // The MMU is off, and this is the only CPU.
    if !locks_work() {
        return None;
    }
    for _ in 0..LOCK_PATIENCE {
        if let Some(line) = LINE.try_lock() {
            return Some(line);
        }
        core::hint::spin_loop();
    }
    ring().abandon_writers();
    None
}

/// What of a line is not in the ring and at the UART yet. `core::fmt` makes a line of some thirty pieces, and to pass
/// each of them on takes longer than to make it. A line that is no longer than this is in the ring, all of it, before
/// the UART gets its first byte: whoever dies while it is sent leaves it to LOG_READ.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Line {
    fn pass_on(&mut self) {
        pass_on(self.bytes.get(..self.length).unwrap_or_default());
        self.length = 0;
    }
}

/// A line on its way: by the buffer, or without the lock piece by piece.
struct Text(Option<SpinMutexGuard<'static, Line>>);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(line) = self.0.as_deref_mut() else {
            pass_on(text.as_bytes());
            return Ok(());
        };
        for &byte in text.as_bytes() {
            if line.length == line.bytes.len() {
                line.pass_on();
            }
            // There is room now.
            if let Some(place) = line.bytes.get_mut(line.length) {
                *place = byte;
                line.length += 1;
            }
        }
        Ok(())
    }
}

/// Writes to the ring and to the UART. Each time it finds them anew, so that a panic needs nothing else.
fn pass_on(text: &[u8]) {
    if locks_work() {
        ring().append(text);
        fault_point!("log-ring");
    } else {
        ring().append_alone(text);
    }
    if let Door::Open(port) = door()
        && !GONE.load(Ordering::Relaxed)
        && send(port, text).is_none()
    {
        GONE.store(true, Ordering::Relaxed);
    }
}

/// How often a byte looks for room in the FIFO: some seconds at the slowest line speeds. The host drives the same UART
/// and may have stopped it, by flow control or by turning the transmitter off; EL2 must not wait for that.
const UART_PATIENCE: u32 = 10_000_000;

/// The last byte found no room.
static STUCK: AtomicBool = AtomicBool::new(false);

/// Sends `text`, unless nothing answers.
fn send(port: &Port, text: &[u8]) -> Option<()> {
    let mut rest = text;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        put(port, &rest[..end])?;
        put(port, b"\r\n")?;
        rest = &rest[end + 1..];
    }
    put(port, rest)
}

/// Sends `text`, unless nothing answers. If there is no room in time the rest is dropped, and so is what follows until
/// there is some again; the ring has it. These are the accesses that the host can make impossible at any time, by
/// gating the UART's clock.
fn put(port: &Port, mut text: &[u8]) -> Option<()> {
    let mut patience = if STUCK.load(Ordering::Relaxed) { 0 } else { UART_PATIENCE };
    while !text.is_empty() {
        // SAFETY: as in `turn_on`, which has looked at this UART; what is sent changes nothing at EL2.
        let sent = unsafe { guarded::send(port, text) }.ok()?;
        text = text.get(sent..).unwrap_or_default();
        if sent > 0 {
            patience = UART_PATIENCE;
            STUCK.store(false, Ordering::Relaxed);
        } else if patience > 0 {
            patience -= 1;
            core::hint::spin_loop();
        } else {
            STUCK.store(true, Ordering::Relaxed);
            break;
        }
    }
    Some(())
}
