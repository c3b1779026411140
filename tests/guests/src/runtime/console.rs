//! The console: the PL011 of the device tree, written byte by byte, one line at a time whichever CPU writes it.
//!
//! Firmware has set the UART up; nothing here changes its configuration.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Where QEMU's virt has its PL011; used until the device tree has been read.
const VIRT_PL011: usize = 0x0900_0000;
/// Offset of UARTDR (PL011 TRM 3.3.1).
const UARTDR: usize = 0x00;
/// Offset of UARTFR (PL011 TRM 3.3.3).
const UARTFR: usize = 0x18;
/// UARTFR.TXFF: the transmit FIFO is full.
const TXFF: u32 = 1 << 5;

static BASE: AtomicUsize = AtomicUsize::new(VIRT_PL011);
static LOCKED: AtomicBool = AtomicBool::new(false);

/// Uses the PL011 at `base` from now on.
pub fn use_pl011(base: usize) {
    BASE.store(base, Ordering::Relaxed);
}

struct Pl011(usize);

impl Write for Pl011 {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: `self.0` is the PL011 of the machine, mapped as device memory or reached with the MMU off.
            unsafe {
                while (((self.0 + UARTFR) as *const u32).read_volatile() & TXFF) != 0 {}
                ((self.0 + UARTDR) as *mut u32).write_volatile(u32::from(byte));
            }
        }
        Ok(())
    }
}

/// Prints without a line end; [`println!`](crate::println) is the usual way here.
pub fn print(arguments: fmt::Arguments) {
    while LOCKED.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        core::hint::spin_loop();
    }
    let _ = Pl011(BASE.load(Ordering::Relaxed)).write_fmt(arguments);
    LOCKED.store(false, Ordering::Release);
}

/// Frees the console for a CPU that is about to report why everything ends: whoever held it may never come back.
pub fn seize() {
    LOCKED.store(false, Ordering::Release);
}

/// Prints a line on the console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}
