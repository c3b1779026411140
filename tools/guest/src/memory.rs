//! Exeunt's 2 MiB in earnest: mapped through `/dev/mem`, and an access that is aborted is an error, no SIGBUS.
//!
//! Owns the mappings and the handler of SIGBUS. Pieces of 64 KiB are mapped when they are first used: the black box may
//! lie in the same 2 MiB, is RAM to Linux, and starts at such a piece. Each is whole pages, of whichever of the three
//! sizes.
//!
//! An access is one LDR or STR of a general-purpose register, without writeback, at a place of its own. So its syndrome
//! is valid, and the handler knows it by its address.

use std::arch::global_asm;
use std::cell::RefCell;
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;

use guest_abi::RESERVATION;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::page::{Failed, Page};
use crate::trouble::Trouble;

/// The device.
pub const DEVICE: &str = "/dev/mem";
/// What is mapped at once: the largest page, and what the black box is aligned to.
const PIECE: u64 = 0x1_0000;

// x0: address, x1 for a store: value. Answer in x0, and in x1 whether the access was aborted. The handler has an
// aborted one go on at `exeunt_guest_aborted`.
global_asm!(
    ".pushsection .text.exeunt_guest_access, \"ax\"",
    ".balign 4",
    ".globl exeunt_guest_load, exeunt_guest_store, exeunt_guest_aborted",
    "exeunt_guest_load:",
    "    ldr x0, [x0]",
    "    mov x1, #0",
    "    ret",
    "exeunt_guest_store:",
    "    str x1, [x0]",
    "    mov x1, #0",
    "    ret",
    "exeunt_guest_aborted:",
    "    mov x1, #1",
    "    ret",
    ".popsection",
);

#[repr(C)]
struct Accessed {
    value: u64,
    aborted: u64,
}

unsafe extern "C" {
    fn exeunt_guest_load(address: *const u64) -> Accessed;
    fn exeunt_guest_store(address: *mut u64, value: u64) -> Accessed;
    fn exeunt_guest_aborted() -> Accessed;
}

/// Goes on behind an access that was aborted. Any other SIGBUS ends the program, as it would without a handler.
extern "C" fn on_bus_error(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel hands the handler the context of the thread that it has interrupted, and nobody else has it.
    let machine = unsafe { &mut (*context).uc_mcontext };
    let accesses = [exeunt_guest_load as *const () as u64, exeunt_guest_store as *const () as u64];
    if accesses.contains(&machine.pc) {
        machine.pc = exeunt_guest_aborted as *const () as u64;
    } else {
        // SAFETY: the instruction is executed again after this, and ends the program by the signal's own action.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
}

fn handle_bus_errors() -> io::Result<()> {
    // SAFETY: all zeros are a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler does nothing but look at numbers, change the context that it is given, and call signal(2).
    let done = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Exeunt's 2 MiB.
#[derive(Debug)]
pub struct Memory {
    device: File,
    base: u64,
    pieces: RefCell<Vec<Piece>>,
}

#[derive(Debug)]
struct Piece {
    offset: u64,
    start: *mut c_void,
}

impl Memory {
    /// That at the address `base`.
    ///
    /// # Errors
    /// [`Trouble::NotRoot`], [`Trouble::NoDevMem`], and others in words.
    pub fn open(base: u64) -> Result<Self, Trouble> {
        // With O_SYNC Linux maps even its own RAM uncached; what is no RAM to it is Device memory in any case.
        let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_SYNC).open(DEVICE);
        let device = device.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied if !rustix::process::geteuid().is_root() => Trouble::NotRoot,
            io::ErrorKind::NotFound => Trouble::NoDevMem,
            _ => Trouble::Mapping(error),
        })?;
        handle_bus_errors().map_err(|error| Trouble::Linux("a handler for SIGBUS cannot be set".to_owned(), error))?;
        Ok(Self { device, base, pieces: RefCell::new(Vec::new()) })
    }

    fn address(&self, offset: u64) -> Result<*mut u64, Failed> {
        if !offset.is_multiple_of(8) || offset >= RESERVATION {
            return Err(Failed::Unmapped(io::ErrorKind::InvalidInput.into()));
        }
        let piece = offset - offset % PIECE;
        let mut pieces = self.pieces.borrow_mut();
        let known = pieces.iter().find(|known| known.offset == piece).map(|known| known.start);
        let start = if let Some(start) = known {
            start
        } else {
            let rights = ProtFlags::READ | ProtFlags::WRITE;
            let place = self.base + piece;
            // SAFETY: the kernel chooses a place where nothing is. What is mapped there is no memory of this program's,
            // and is accessed by the two functions above only.
            let start = unsafe { mmap(ptr::null_mut(), PIECE as usize, rights, MapFlags::SHARED, &self.device, place) };
            let start = start.map_err(|error| Failed::Unmapped(error.into()))?;
            pieces.push(Piece { offset: piece, start });
            start
        };
        Ok(start.cast::<u64>().wrapping_byte_add((offset % PIECE) as usize))
    }
}

impl Page for Memory {
    fn load(&self, offset: u64) -> Result<u64, Failed> {
        let address = self.address(offset)?;
        // SAFETY: it is mapped and aligned, and the handler of SIGBUS is set.
        let accessed = unsafe { exeunt_guest_load(address) };
        if accessed.aborted == 0 { Ok(accessed.value) } else { Err(Failed::Aborted) }
    }

    fn store(&self, offset: u64, value: u64) -> Result<(), Failed> {
        let address = self.address(offset)?;
        // SAFETY: as for a load. What a store there does, the doorbell's contract says.
        let accessed = unsafe { exeunt_guest_store(address, value) };
        if accessed.aborted == 0 { Ok(()) } else { Err(Failed::Aborted) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for piece in self.pieces.get_mut() {
            // SAFETY: it was mapped so, and no reference to it is left.
            let _ = unsafe { munmap(piece.start, PIECE as usize) };
        }
    }
}
