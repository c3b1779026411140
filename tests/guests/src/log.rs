//! Prints what LOG_READ gives, each line after `log: `: what Exeunt has to say where the tests have left it no UART.
//!
//! The guest itself prints on the UART that it finds, or on the one that `uart=ADDRESS` on its command line names.

use core::cell::UnsafeCell;

use guest_abi::call;

use crate::start::Start;

/// LOG_READ fills a part of one page.
const PAGE: usize = 4096;
/// The log keeps 8 KiB.
const PAGES: usize = 2;

#[repr(C, align(4096))]
struct Buffer(UnsafeCell<[[u8; PAGE]; PAGES]>);

// SAFETY: only the boot CPU uses it.
unsafe impl Sync for Buffer {}

static BUFFER: Buffer = Buffer(UnsafeCell::new([[0; PAGE]; PAGES]));

/// Reads and prints.
pub fn run(_: &Start) {
    let mut position = 0;
    let mut size = 0;
    for page in 0..PAGES {
        let address = BUFFER.0.get() as u64 + (page * PAGE) as u64;
        // SAFETY: the page is this CPU's.
        match unsafe { call::log_read(position, address, PAGE as u64) } {
            Ok(read) => {
                check!(read.lost == 0, "{} bytes are lost", read.lost);
                position = read.next;
                size += read.copied as usize;
            }
            Err(failure) => {
                check!(false, "LOG_READ: {failure:?}");
            }
        }
        if size < (page + 1) * PAGE {
            break;
        }
    }
    // SAFETY: Exeunt has written it, and writes no more.
    let bytes = unsafe { &(*BUFFER.0.get()).as_flattened()[..size] };
    let text = core::str::from_utf8(bytes).unwrap_or("");
    check!(!text.is_empty(), "the log is no text");
    for line in text.lines() {
        println!("log: {line}");
    }
    crate::report::finish("log");
}
