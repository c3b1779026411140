//! Exeunt's log, on the PL011 that the device tree names as stdout.
//!
//! Owns the UART for as long as a line takes; the host drives the same UART, and neither knows of the other. Lines are
//! whole: a lock keeps them apart between CPUs, and a panic does without it. Like Linux's earlycon, Exeunt uses the
//! UART as firmware left it and does not set its speed.

use core::fmt::{self, Write};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use hypervisor::own_calls::log::LogRing;
use log::{LevelFilter, Log, Metadata, Record};
use spin::mutex::SpinMutex;

use crate::{cpu, last_words};

/// Where QEMU's `virt` machine has its UART. Written to only when there is no usable device tree to ask, because the
/// alternative is to stop without a word.
pub const FALLBACK_UART: u64 = 0x0900_0000;

/// Bytes of the log that are kept for LOG_READ.
const RING_SIZE: usize = 8192;

static RING_BYTES: [AtomicU8; RING_SIZE] = [const { AtomicU8::new(0) }; RING_SIZE];

static RING: LogRing = LogRing::new(&RING_BYTES);

/// The end of the log, for LOG_READ.
pub fn ring() -> &'static LogRing<'static> {
    &RING
}

/// Physical address of the UART, 0 before it is known.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Held while a line is written.
static LINE: SpinMutex<()> = SpinMutex::new(());

/// Whether a lock may be taken: set once the MMU is on, since exclusive accesses are not promised to work on the Device
/// memory that everything is before.
static LOCKS_WORK: AtomicBool = AtomicBool::new(false);

/// How often a panic asks for the lock before it writes without it: the CPU that holds it may be the one that is stuck.
const PANIC_PATIENCE: u32 = 1_000_000;

struct Logger;

static LOGGER: Logger = Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata) -> bool {
        true // `log::set_max_level` has decided.
    }

    fn log(&self, record: &Record) {
        let _line = LINE.lock();
        let mut console = Console;
        let _ = prefix(&mut console);
        let _ = writeln!(console, "{:<5} {}", record.level(), record.args());
    }

    fn flush(&self) {}
}

/// Names the UART for [`emergency_line`]: `base` is mapped as Device memory, or the MMU is off.
pub fn set_uart(base: u64) {
    BASE.store(base, Ordering::Release);
    // UARTFR.TXFF (PL011 TRM, DDI 0183, 3.3.3)
    let uart = last_words::Uart { status: base + 0x18, data: base, bit: 1 << 5, room: 0, bytes: 0 };
    // SAFETY: promised by the caller.
    unsafe { last_words::set_uart(uart) };
}

/// Whether locks work: the MMU is on.
pub fn locks_work() -> bool {
    LOCKS_WORK.load(Ordering::Relaxed)
}

/// Starts the log on the UART at `base`, which EL2's stage 1 maps as Device memory.
pub fn init(base: u64) {
    set_uart(base);
    LOCKS_WORK.store(true, Ordering::Relaxed);
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Points the console at [`FALLBACK_UART`] if no UART is known.
pub fn fall_back() {
    if BASE.load(Ordering::Acquire) == 0 {
        set_uart(FALLBACK_UART);
    }
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

/// Writes one line without the lock's protection if it cannot be had: for a panic and for refusing to start. It never
/// blocks, and works with the MMU off if the lock is free.
pub fn emergency_line(args: fmt::Arguments) {
    let mut patience = if locks_work() { PANIC_PATIENCE } else { 0 };
    let line = loop {
        if patience == 0 {
            break None;
        }
        if let Some(line) = LINE.try_lock() {
            break Some(line);
        }
        patience -= 1;
    };
    if line.is_none() && locks_work() {
        RING.abandon_writers();
    }
    let mut console = Console;
    let _ = prefix(&mut console);
    let _ = writeln!(console, "{args}");
}

/// The UART as a place to write to; each use finds it anew, so that a panic needs nothing but the address.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if locks_work() {
            RING.append(text.as_bytes());
        } else {
            RING.append_alone(text.as_bytes());
        }
        let base = BASE.load(Ordering::Acquire) as usize;
        let Some(registers) = NonNull::new(core::ptr::with_exposed_provenance_mut::<PL011Registers>(base)) else {
            return Err(fmt::Error);
        };
        // SAFETY: BASE is the PL011 that the device tree names, mapped as Device memory for all of Exeunt's life, and
        // within Exeunt the line lock makes this the only pointer to it (a panic that goes without it interleaves
        // characters and does no more harm than the host's own driver does).
        let mut uart = Uart::new(unsafe { UniqueMmioPointer::new(registers) });
        for byte in text.bytes() {
            if byte == b'\n' {
                put(&mut uart, b'\r');
            }
            put(&mut uart, byte);
        }
        Ok(())
    }
}

/// How often a byte looks for room in the FIFO: some seconds at the slowest line speeds. The host drives the same UART
/// and may have stopped it, by flow control or by turning the transmitter off; EL2 must not wait for that.
const UART_PATIENCE: u32 = 10_000_000;

/// The last byte found no room.
static STUCK: AtomicBool = AtomicBool::new(false);

/// Waits for room in the FIFO and writes one byte. Without room in time it is dropped, and so are those that follow
/// until there is some again; the ring has them.
fn put(uart: &mut Uart, byte: u8) {
    let mut patience = if STUCK.load(Ordering::Relaxed) { 0 } else { UART_PATIENCE };
    while uart.is_tx_fifo_full() {
        if patience == 0 {
            STUCK.store(true, Ordering::Relaxed);
            return;
        }
        patience -= 1;
        core::hint::spin_loop();
    }
    STUCK.store(false, Ordering::Relaxed);
    uart.write_word(byte);
}
