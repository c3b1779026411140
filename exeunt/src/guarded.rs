//! Accesses at EL2 that may fault without that being Exeunt's fault, and what becomes of such a fault.
//!
//! Some instructions are executed on the host's behalf or on the word of a device tree: a register that a table
//! believes the CPU to have, RAM that is only said to be there, the first look at a device. A synchronous exception of
//! one of these is an answer, and no bug. They are therefore all in one section, `.text.guarded`, and the vectors look
//! whether an exception from EL2 comes from there before they take it for the end ([`crate::vectors`]): then the
//! function returns to its caller with the syndrome, and nothing else has happened. In any other place, and in the
//! fix-up itself, an exception is a panic as before.
//!
//! Owns that section, and what its functions may do. They are naked, and each
//!
//! - leaves the stack, x18 to x30 and TPIDR_EL2 alone: the fix-up returns to x30;
//! - has SPSR_EL2 in x1 and ELR_EL2 in x11 before the first instruction that may fault, and keeps them there: the
//!   exception overwrites both registers, which hold what the host's own exception has left, and the fix-up puts them
//!   back (`guarded_asm!` begins so);
//! - returns an [`Access`]: x0 is the value, and x1 still SPSR_EL2, of which bit 63 is RES0. The fix-up sets it.
//!
//! ESR_EL2, FAR_EL2 and HPFAR_EL2 are not put back: whoever needs those of the host's exception reads them before.
//!
//! Only synchronous exceptions come here. An external abort that a bus reports later is an SError, which EL2 masks: see
//! `serror`. And firmware that has external aborts routed to EL3 (SCR_EL3.EA) decides there what becomes of one.

use core::arch::naked_asm;

use aarch64_cpu::registers::{CurrentEL, Readable};
use hypervisor::syndrome::Esr;
use hypervisor::uart::{Port, Width};

/// The instructions of a guarded function after those that read what x1 and x2 to x17 hold on entry, and need x1 or
/// x11: saves what the fix-up puts back, then goes on.
macro_rules! guarded_asm {
    ($($line:expr),+ $(,)?) => {
        concat!("mrs x1, spsr_el2\n", "mrs x11, elr_el2\n", $($line, "\n",)+)
    };
}

/// A function that is a table of two instructions for each of a list of things, chosen by the number in
/// `$number` (`x0` or `x1`).
macro_rules! guarded_table {
    ($number:literal; $($row:expr,)*) => {
        concat!(
            "ubfiz x9, ", $number, ", #3, #8\n", // two instructions each
            "adr x10, 2f\n",
            "add x9, x10, x9\n",
            "mrs x1, spsr_el2\n",
            "mrs x11, elr_el2\n",
            "br x9\n",
            "2:\n",
            $($row, "\nret\n",)*
        )
    };
}

/// The two functions that send: `$load` reads the status, `$store` writes a byte.
macro_rules! sending {
    ($load:literal, $store:literal) => {
        concat!(
            "mov x9, x1\n",
            "mov x10, x0\n",
            guarded_asm!(
                "1: cbz x9, 2f",
                concat!($load, " w12, [x2]"),
                "and w12, w12, w4",
                "cmp w12, w5",
                "b.ne 2f",
                "ldrb w12, [x0], #1",
                concat!($store, " w12, [x3]"),
                "sub x9, x9, #1",
                "b 1b",
                "2: sub x0, x0, x10",
                "ret",
            )
        )
    };
}

pub(crate) use {guarded_asm, guarded_table};

/// What a guarded function returns, in x0 and x1.
#[repr(C)]
#[must_use]
pub struct Access {
    /// The value, or ESR_EL2 of the exception.
    value: u64,
    /// SPSR_EL2, or all ones if there was an exception.
    state: u64,
}

impl Access {
    /// The value that was read, if any.
    ///
    /// # Errors
    /// The syndrome of the exception.
    #[inline]
    pub const fn result(self) -> Result<u64, Esr> {
        if self.is_done() { Ok(self.value) } else { Err(Esr::new(self.value)) }
    }

    /// Nothing if there was an exception.
    #[inline]
    pub const fn done(self) -> Option<()> {
        if self.is_done() { Some(()) } else { None }
    }

    #[inline]
    const fn is_done(&self) -> bool {
        self.state >> 63 == 0
    }
}

/// Defines guarded functions by their instructions.
macro_rules! guarded {
    ($($(#[$attribute:meta])* $name:ident($($parameter:ident),+) $body:expr;)+) => {$(
        $(#[$attribute])*
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.guarded")]
        pub unsafe extern "C" fn $name($($parameter: u64),+) -> Access {
            naked_asm!($body)
        }
    )+};
}

guarded! {
    /// Loads a byte.
    ///
    /// # Safety
    /// Reading there changes nothing that Exeunt relies on.
    load8(address) guarded_asm!("ldrb w0, [x0]", "ret");

    /// Loads four bytes.
    ///
    /// # Safety
    /// Reading there changes nothing that Exeunt relies on.
    load32(address) guarded_asm!("ldr w0, [x0]", "ret");

    /// Loads eight bytes.
    ///
    /// # Safety
    /// Reading there changes nothing that Exeunt relies on.
    load64(address) guarded_asm!("ldr x0, [x0]", "ret");

    /// Stores the low four bytes of `value`.
    ///
    /// # Safety
    /// Nothing that Exeunt relies on is there.
    store32(value, address) concat!("mov x9, x1\n", guarded_asm!("str w0, [x9]", "ret"));

    /// Stores the low byte of `value`.
    ///
    /// # Safety
    /// Nothing that Exeunt relies on is there.
    store8(value, address) concat!("mov x9, x1\n", guarded_asm!("strb w0, [x9]", "ret"));

    /// Copies bytes from `text` to the byte at `data`, `length` of them or as long as the byte at `status`, with all
    /// bits but `mask` cleared, is `room`. The value of the access is how many.
    ///
    /// # Safety
    /// There are so many bytes at `text`. Reading `status` changes nothing that Exeunt relies on, and nothing of that
    /// kind is at `data`.
    send8(text, length, status, data, mask, room) sending!("ldrb", "strb");

    /// [`send8`] with a word at `data` and one at `status`.
    ///
    /// # Safety
    /// As for [`send8`].
    send32(text, length, status, data, mask, room) sending!("ldr", "str");

    /// Looks for the eight bytes `word` from `start`, a multiple of 16, to below `end`, another one. The value of the
    /// access is where they are for the first time, or all ones.
    ///
    /// # Safety
    /// Reading there changes nothing that Exeunt relies on.
    find64(start, end, word) concat!(
        "mov x9, x1\n",
        guarded_asm!(
            "1: cmp x0, x9",
            "b.hs 3f",
            "ldp x10, x12, [x0], #16",
            "cmp x10, x2",
            "ccmp x12, x2, #4, ne",
            "b.ne 1b",
            "cmp x10, x2",
            "mov x12, #8",
            "csel x12, xzr, x12, eq",
            "sub x0, x0, #16",
            "add x0, x0, x12",
            "ret",
            "3: mov x0, #-1",
            "ret",
        )
    );

    /// Copies `length` bytes, one by one.
    ///
    /// # Safety
    /// Nothing that Exeunt relies on is at `to`.
    copy(to, from, length) concat!(
        "mov x9, x1\n",
        guarded_asm!(
            "cbz x2, 2f",
            "1: ldrb w10, [x9], #1",
            "strb w10, [x0], #1",
            "subs x2, x2, #1",
            "b.ne 1b",
            "2: ret",
        )
    );

    /// Cleans and invalidates the lines of the data cache from `start`, a multiple of `line`, to below `end`. Complete
    /// when this returns.
    ///
    /// # Safety
    /// None: cache maintenance changes no data.
    clean(start, end, line) concat!(
        "mov x9, x1\n",
        guarded_asm!("1: dc civac, x0", "add x0, x0, x2", "cmp x0, x9", "b.lo 1b", "dsb sy", "ret")
    );

    /// Cleans and invalidates the line of the data cache that `address` lies in. Complete when this returns.
    ///
    /// # Safety
    /// None: cache maintenance changes no data.
    clean_line(address) guarded_asm!("dc civac, x0", "dsb sy", "ret");

    /// The same for the line and its allocation tags (DC CIGDVAC).
    ///
    /// # Safety
    /// None: cache maintenance changes no data.
    clean_line_and_tags(address) guarded_asm!("sys #3, C7, C14, #5, x0", "dsb sy", "ret");
}

/// Reads as many bytes as there is room for from `address` on. Below EL2, where none of Exeunt's vectors are, an
/// exception is as fatal as ever.
///
/// # Errors
/// The syndrome of the exception: not all of it can be read.
///
/// # Safety
/// The page is mapped, or the MMU is off, and nobody else changes these bytes meanwhile.
pub unsafe fn read_bytes(address: u64, bytes: &mut [u8]) -> Result<(), Esr> {
    if is_at_el2() {
        let to = bytes.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: promised by the caller, and there is room for so many.
        unsafe { copy(to, address, bytes.len() as u64) }.result().map(|_| ())
    } else {
        for (place, byte) in (address..).zip(bytes) {
            // SAFETY: promised by the caller; volatile, because with the MMU off only single accesses are sure to work.
            *byte = unsafe { core::ptr::with_exposed_provenance::<u8>(place as usize).read_volatile() };
        }
        Ok(())
    }
}

/// Reads the device register at `address`, a multiple of 4. Also for a device that may not be there, or not answer now
/// because its clock is off: below EL2, where none of Exeunt's vectors are, that is as fatal as ever.
///
/// The console and the GIC's driver use this and [`write_device`] for each access that is the first, or that a host may
/// have made impossible since. A write to a device need not be answered before the CPU goes on, and an abort that comes
/// later is an SError, which is not seen here. So a read of the same device goes first: what answers a read takes the
/// write too.
///
/// # Errors
/// The syndrome of the exception: nothing answers there.
///
/// # Safety
/// The page is mapped as Device memory, or the MMU is off; reading changes nothing that Exeunt relies on.
pub unsafe fn read_device(address: u64) -> Result<u32, Esr> {
    if is_at_el2() {
        // SAFETY: promised by the caller; nothing is there that Rust knows.
        unsafe { load32(address) }.result().map(|value| value as u32)
    } else {
        // SAFETY: as above.
        Ok(unsafe { core::ptr::with_exposed_provenance::<u32>(address as usize).read_volatile() })
    }
}

/// Writes the device register at `address`, a multiple of 4. See [`read_device`].
///
/// # Errors
/// The syndrome of the exception, if it was synchronous.
///
/// # Safety
/// As for [`read_device`], of a write.
pub unsafe fn write_device(address: u64, value: u32) -> Result<(), Esr> {
    if is_at_el2() {
        // SAFETY: promised by the caller; nothing is there that Rust knows.
        unsafe { store32(u64::from(value), address) }.result().map(|_| ())
    } else {
        // SAFETY: as above.
        unsafe { core::ptr::with_exposed_provenance_mut::<u32>(address as usize).write_volatile(value) };
        Ok(())
    }
}

/// Reads a device register of one byte. See [`read_device`].
///
/// # Errors
/// As for [`read_device`].
///
/// # Safety
/// As for [`read_device`].
pub unsafe fn read_device_byte(address: u64) -> Result<u8, Esr> {
    if is_at_el2() {
        // SAFETY: promised by the caller; nothing is there that Rust knows.
        unsafe { load8(address) }.result().map(|value| value as u8)
    } else {
        // SAFETY: as above.
        Ok(unsafe { core::ptr::with_exposed_provenance::<u8>(address as usize).read_volatile() })
    }
}

/// Has a UART send the beginning of `text`, as much as there is room for now, and says how much. Before each byte the
/// status is read, as it should ([`read_device`]).
///
/// # Errors
/// As for [`read_device`].
///
/// # Safety
/// As for [`read_device`], for both registers of the UART.
pub unsafe fn send(port: &Port, text: &[u8]) -> Result<usize, Esr> {
    if is_at_el2() {
        let (from, length) = (text.as_ptr().expose_provenance() as u64, text.len() as u64);
        let [mask, room] = [port.bit, port.room].map(u64::from);
        // SAFETY: promised by the caller; nothing is there that Rust knows.
        let access = unsafe {
            match port.width {
                Width::Byte => send8(from, length, port.status, port.data, mask, room),
                Width::Word => send32(from, length, port.status, port.data, mask, room),
            }
        };
        return access.result().map(|sent| sent as usize);
    }
    let Some(&byte) = text.first() else { return Ok(0) };
    // SAFETY: promised by the caller.
    unsafe {
        let status = match port.width {
            Width::Byte => read_device_byte(port.status)?.into(),
            Width::Word => read_device(port.status)?,
        };
        if !port.has_room(status) {
            return Ok(0);
        }
        match port.width {
            Width::Byte => core::ptr::with_exposed_provenance_mut::<u8>(port.data as usize).write_volatile(byte),
            Width::Word => write_device(port.data, byte.into())?,
        }
    }
    Ok(1)
}

/// Whether there are vectors of Exeunt's.
fn is_at_el2() -> bool {
    CurrentEL.read(CurrentEL::EL) == 2
}
