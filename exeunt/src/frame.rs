//! What the vectors store when EL2 is entered: the registers of the host, and those of a fault in Exeunt itself.
//!
//! Owns the two layouts, which assembly depends on, and the way of the host's registers to their frame and back. It is
//! ground: it imports nothing of the image.

use core::arch::global_asm;
use core::mem::offset_of;

/// Stores or loads x2 to x17 of a frame, in pairs: `$instruction` is `stp` or `ldp`, `$x0` how an address
/// within the frame begins: "sp, #".
macro_rules! x2_to_x17 {
    ($instruction:literal, $x0:literal) => {
        $crate::frame::in_pairs!($instruction, $x0:
            2 3 16, 4 5 32, 6 7 48, 8 9 64, 10 11 80, 12 13 96, 14 15 112, 16 17 128)
    };
}

/// The same for x2 to x29.
macro_rules! x2_to_x29 {
    ($instruction:literal, $x0:literal) => {
        $crate::frame::in_pairs!($instruction, $x0:
            2 3 16, 4 5 32, 6 7 48, 8 9 64, 10 11 80, 12 13 96, 14 15 112, 16 17 128,
            18 19 144, 20 21 160, 22 23 176, 24 25 192, 26 27 208, 28 29 224)
    };
}

/// Two registers and the offset of the first, any number of times.
macro_rules! in_pairs {
    ($instruction:literal, $x0:literal: $($first:literal $second:literal $offset:literal),*) => {
        concat!($($instruction, " x", $first, ", x", $second, ", [", $x0, $offset, "]\n"),*)
    };
}

pub(crate) use {in_pairs, x2_to_x17, x2_to_x29};

/// The host's general-purpose registers while EL2 runs. Its PC and PSTATE are in ELR_EL2 and SPSR_EL2.
#[repr(C)]
pub struct HostFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Keeps the stack 16-byte aligned.
    _padding: u64,
}

impl HostFrame {
    /// All zero.
    pub const EMPTY: Self = Self { x: [0; 31], _padding: 0 };

    /// x0 to x17, which calls use.
    pub fn arguments(&mut self) -> &mut [u64; 18] {
        let (arguments, _) = self.x.split_first_chunk_mut::<18>().expect("there are 31");
        arguments
    }
}

const _: () = assert!(size_of::<HostFrame>() == 256);

/// Registers at an exception that was taken from EL2 to EL2.
#[derive(Debug)]
#[repr(C)]
pub struct ExceptionFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// SP_EL2 or SP_EL0, whichever was selected.
    pub sp: u64,
    /// ELR_EL2: where.
    pub elr: u64,
    /// SPSR_EL2: in which state.
    pub spsr: u64,
    /// ESR_EL2: why.
    pub esr: u64,
    /// FAR_EL2: at what address.
    pub far: u64,
    /// Index of the vector, 0 to 15 (Arm ARM, D1.4.1.5, offset / 0x80).
    pub vector: u64,
    /// How many exceptions this CPU has taken from EL2: the handler of the first may fault itself. Those that a guarded
    /// access has taken do not count.
    pub depth: u64,
    /// x1 and x2, until it is known whether the exception is that of a guarded access. All else here stays as it was at
    /// one: the report of a panic reads it while it uses the UART.
    spare: [u64; 2],
    /// What TPIDR_EL2 held when it was no CPU's ([`Self::LOST_CPU`]).
    pub lost: u64,
}

impl ExceptionFrame {
    /// No exception yet.
    pub const NONE: Self =
        Self { x: [0; 31], sp: 0, elr: 0, spsr: 0, esr: 0, far: 0, vector: 0, depth: 0, spare: [0; 2], lost: 0 };

    /// In [`Self::vector`]: TPIDR_EL2 was no CPU's.
    pub const LOST_CPU: u64 = 16;

    /// Byte offset of [`Self::lost`].
    pub const LOST: usize = offset_of!(Self, lost);

    /// Byte offset of x1 and x2 while an exception is looked at.
    pub const SPARE: usize = offset_of!(Self, spare);
}

// The vectors store in pairs.
const _: () = {
    assert!(offset_of!(ExceptionFrame, sp) == 248);
    assert!(offset_of!(ExceptionFrame, spsr) == offset_of!(ExceptionFrame, elr) + 8);
    assert!(offset_of!(ExceptionFrame, far) == offset_of!(ExceptionFrame, esr) + 8);
    assert!(offset_of!(ExceptionFrame, depth) == offset_of!(ExceptionFrame, vector) + 8);
};

global_asm!(
    // The rest of the way from a vector to a handler, and all of the way back. In: x0 and x1 of the host are in its
    // frame, at SP; x0 = ESR_EL2, or 0 for an interrupt; x1 = the handler, which gets the frame and this CPU's record.
    // What an answer or an exception at EL2 overwrites is in the point, which is one as soon as its check is written,
    // and none from the moment on that the answer is whole.
    ".pushsection .text.beside_tables, \"ax\"",
    ".global exeunt_host_vector",
    "exeunt_host_vector:",
    x2_to_x29!("stp", "sp, #"),
    "str x30, [sp, #240]",
    "mov x6, x1",
    "ldp x4, x5, [sp]",
    "mrs x1, tpidr_el2",
    "stp x4, x5, [x1, #{point} + 32]",
    "stp x2, x3, [x1, #{point} + 48]",
    "mrs x2, elr_el2",
    "mrs x3, spsr_el2",
    "stp x2, x3, [x1, #{point}]",
    "eon x2, x2, x3",
    "eor x2, x2, x0",
    "stp x0, x2, [x1, #{point} + 16]",
    "mov x0, sp",
    "mov x29, xzr", // a backtrace ends here
    "blr x6",
    "mrs x0, tpidr_el2",
    "str xzr, [x0, #{point} + 24]",
    x2_to_x29!("ldp", "sp, #"),
    "ldr x30, [sp, #240]",
    "ldp x0, x1, [sp], #{frame_size}",
    "eret",
    "dsb nsh", // nothing is speculated past the eret (as Linux does after its own)
    "isb",
    ".popsection",
    frame_size = const size_of::<HostFrame>(),
    point = const POINT,
);

/// Byte offset of the point in a CPU's record, which is `cpu`'s: behind the exception, which begins after what `boot`
/// reads.
pub const POINT: usize = 64 + size_of::<ExceptionFrame>();
