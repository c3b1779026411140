//! The arm64 Image header, which makes Exeunt loadable by everything that loads Linux: QEMU's `-kernel` and U-Boot's
//! `booti`.
//!
//! The layout is that of Linux `Documentation/arch/arm64/booting.rst`, section 4. The linker script puts it first.
//!
//! What follows it, up to the end of the doorbell's last channel, is memory that nobody at EL2 reads: a program that
//! used the doorbell finds it there when Exeunt has left ([`guest_abi::doorbell`]), and may be in the middle of a call.

use core::arch::naked_asm;

use guest_abi::doorbell::{CHANNEL, CHANNEL_SIZE, CHANNELS, LEFT, MAGIC, MAILBOX, OPEN};

use crate::{RESERVATION, entry};

/// Flags of the header: little-endian (bit 0 clear), 4 KiB pages (bits 2:1 = 1), anywhere in RAM at a 2 MiB boundary
/// (bit 3).
const FLAGS: u64 = (1 << 1) | (1 << 3);

/// Ends after the doorbell's registers.
const END: u64 = CHANNEL + CHANNELS * CHANNEL_SIZE;

const _: () = assert!(MAGIC == 64 && MAILBOX == MAGIC + 8 && OPEN == MAILBOX + 8);

/// The 64 bytes of the header; executing them branches to the entry. Then what the doorbell's page has in memory. The
/// ticket there is none that a load of DONE can give, since that gives 0.
///
/// `image_size` is the whole reservation: QEMU puts an initrd of its own right after it.
///
/// # Safety
/// Not to be called: it is what a loader jumps to.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".head.text")]
unsafe extern "C" fn image_header() -> ! {
    naked_asm!(
        "b {start}",            // code0
        "nop",                  // code1
        ".quad 0",              // text_offset
        ".quad {image_size}",   // image_size
        ".quad {flags}",        // flags
        ".quad 0, 0, 0",        // res2 to res4
        ".ascii \"ARM\\x64\"",  // magic
        ".long 0",              // res5: no PE header
        ".quad {left}",
        ".quad exeunt_mailbox - . + {mailbox}", // from the image's start
        ".quad -1",             // OPEN
        ".space {end} - {open} - 8",
        start = sym entry::start,
        image_size = const RESERVATION,
        flags = const FLAGS,
        left = const LEFT,
        mailbox = const MAILBOX,
        open = const OPEN,
        end = const END,
    )
}
