//! One CPU of a guest: its area, its exception vectors, and running a few instructions in a state of choice.
//!
//! [`Context::enter`] is an ordinary call: it loads every register from the context, drops to the address and PSTATE
//! given with an ERET, and returns when an exception comes back to EL1. The context then holds the registers as they
//! were at the exception and what the exception said. The vectors use no stack, so that a context may have any stack
//! pointer, and TPIDRRO_EL0 as their one scratch register.

use core::arch::{global_asm, naked_asm};
use core::cell::UnsafeCell;
use core::mem::offset_of;

use crate::machine::MAX_CPUS;
use crate::registers::field;

/// PSTATE.M for EL0t (SPSR_EL1.M, Arm ARM C5.2.18).
pub const EL0T: u64 = 0b0000;
/// PSTATE.M for EL1t.
pub const EL1T: u64 = 0b0100;
/// PSTATE.M for EL1h.
pub const EL1H: u64 = 0b0101;
/// PSTATE.{D,A,I,F} all set.
pub const DAIF: u64 = 0b1111 << 6;
/// PSTATE.BTYPE: which kind of branch came last (FEAT_BTI).
pub const BTYPE: u64 = 0b11 << 10;
/// PSTATE.SSBS.
pub const SSBS: u64 = 1 << 12;
/// PSTATE.ALLINT.
pub const ALLINT: u64 = 1 << 13;
/// PSTATE.PAN.
pub const PAN: u64 = 1 << 22;
/// PSTATE.UAO.
pub const UAO: u64 = 1 << 23;
/// PSTATE.DIT.
pub const DIT: u64 = 1 << 24;
/// PSTATE.TCO.
pub const TCO: u64 = 1 << 25;
/// PSTATE.{N,Z,C,V}.
pub const NZCV: u64 = 0b1111 << 28;

/// SCTLR_EL1.SPAN: PAN stays as it is on an exception to EL1.
pub const SCTLR_SPAN: u64 = 1 << 23;
/// SCTLR_EL1.DSSBS: what PSTATE.SSBS becomes on an exception to EL1.
pub const SCTLR_DSSBS: u64 = 1 << 44;
/// SCTLR_EL1.SPINTMASK: PSTATE.ALLINT stays clear on an exception to EL1.
pub const SCTLR_SPINTMASK: u64 = 1 << 62;

/// ESR_ELx.EC for an unknown reason (an undefined instruction).
pub const EC_UNKNOWN: u64 = 0x00;
/// ESR_ELx.EC for an instruction abort from a lower exception level.
pub const EC_INSTRUCTION_ABORT_LOWER: u64 = 0x20;
/// ESR_ELx.EC for an instruction abort from the same exception level.
pub const EC_INSTRUCTION_ABORT: u64 = 0x21;
/// ESR_ELx.EC for a data abort from a lower exception level.
pub const EC_DATA_ABORT_LOWER: u64 = 0x24;
/// ESR_ELx.EC for a data abort from the same exception level.
pub const EC_DATA_ABORT: u64 = 0x25;
/// ESR_ELx.EC for BRK in AArch64.
pub const EC_BRK: u64 = 0x3c;
/// ESR_ELx.IL: a 32-bit instruction.
pub const ESR_IL: u64 = 1 << 25;

/// The fields of PSTATE that only some CPUs have, in the order of the bits of [`Cpu::fields`].
const OPTIONAL_FIELDS: [u64; 6] = [PAN, UAO, SSBS, DIT, TCO, ALLINT];

/// Registers before and after [`Context::enter`].
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// X0 to X30.
    pub x: [u64; 31],
    /// Where to start; afterwards ELR_EL1.
    pub pc: u64,
    /// With what PSTATE to start; afterwards SPSR_EL1.
    pub pstate: u64,
    /// SP_EL0.
    pub sp_el0: u64,
    /// SP_EL1.
    pub sp_el1: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// FPCR.
    pub fpcr: u64,
    /// FPSR.
    pub fpsr: u64,
    /// ESR_EL1 of the exception.
    pub esr: u64,
    /// FAR_EL1 of the exception.
    pub far: u64,
    /// Offset of the vector that the exception came to.
    pub vector: u64,
    /// PSTATE as the vector found it, laid out as in an SPSR.
    pub handler_pstate: u64,
    /// Q0 to Q31.
    pub q: [u128; 32],
}

impl Context {
    const ZERO: Self = Self {
        x: [0; 31],
        pc: 0,
        pstate: 0,
        sp_el0: 0,
        sp_el1: 0,
        sctlr: 0,
        fpcr: 0,
        fpsr: 0,
        esr: 0,
        far: 0,
        vector: 0,
        handler_pstate: 0,
        q: [0; 32],
    };

    /// All registers zero, the current SCTLR_EL1.
    #[must_use]
    pub fn new(pc: u64, pstate: u64) -> Self {
        Self { pc, pstate, sctlr: read_register!("sctlr_el1"), ..Self::ZERO }
    }

    /// Runs this context until the next exception to EL1.
    ///
    /// # Safety
    /// The instructions at `pc` end with an exception, and what they do to memory must be what the caller means to
    /// happen. The memory under the vectors, under this context and under the CPU's area must be mapped to itself with
    /// the context's SCTLR.
    pub unsafe fn enter(&mut self) {
        // SAFETY: the caller vouches for the instructions; everything else is restored from the stack on the way back.
        unsafe { enter(self) }
    }

    /// ESR_EL1.EC.
    #[must_use]
    pub const fn class(&self) -> u64 {
        field(self.esr, 26, 6)
    }

    /// Whether the sequence came to the `brk` at `address` that ends it.
    #[must_use]
    pub const fn ended_at(&self, address: u64) -> bool {
        self.esr == EC_BRK << 26 | ESR_IL | crate::code::END_IMMEDIATE && self.pc == address
    }
}

/// What one CPU owns; TPIDR_EL1 points to it.
#[repr(C, align(64))]
pub struct Cpu {
    /// The context that runs, or that an unexpected exception is recorded in.
    context: UnsafeCell<*mut Context>,
    /// The stack pointer to return to from [`Context::enter`]; 0 outside it.
    host_sp: UnsafeCell<u64>,
    /// SCTLR_EL1 to return to.
    host_sctlr: UnsafeCell<u64>,
    /// Which of [`OPTIONAL_FIELDS`] the CPU has.
    fields: UnsafeCell<u64>,
    stack_top: UnsafeCell<u64>,
    emergency_top: UnsafeCell<u64>,
    /// Its place in the device tree's /cpus.
    index: UnsafeCell<usize>,
    spare: UnsafeCell<Context>,
}

/// Bytes of a CPU's stack. Those of all fit into 2 MiB together with the shim, behind which Exeunt has its kernel.
pub(super) const STACK: usize = 24 * 1024;
/// Bytes of the stack that an unexpected exception is reported on.
const EMERGENCY: usize = 4 * 1024;

/// All stacks; the boot CPU starts on the first.
#[repr(C, align(16))]
pub(super) struct Stacks(UnsafeCell<[[u8; STACK + EMERGENCY]; MAX_CPUS]>);

/// All CPUs of a guest.
#[repr(C)]
pub struct Cpus([Cpu; MAX_CPUS]);

// SAFETY: each area is prepared before its CPU starts and used by that CPU alone afterwards.
unsafe impl Sync for Cpus {}
// SAFETY: each stack is used by its CPU alone.
unsafe impl Sync for Stacks {}

static CPUS: Cpus = Cpus(
    [const {
        Cpu {
            context: UnsafeCell::new(core::ptr::null_mut()),
            host_sp: UnsafeCell::new(0),
            host_sctlr: UnsafeCell::new(0),
            fields: UnsafeCell::new(0),
            stack_top: UnsafeCell::new(0),
            emergency_top: UnsafeCell::new(0),
            index: UnsafeCell::new(0),
            spare: UnsafeCell::new(Context::ZERO),
        }
    }; MAX_CPUS],
);
pub(super) static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK + EMERGENCY]; MAX_CPUS]));

/// Offset of `stack_top` for the secondary entry.
pub(super) const STACK_TOP: usize = offset_of!(Cpu, stack_top);

/// Prepares the area of the CPU with the number `index` and returns it.
///
/// # Panics
/// When there is no such area.
pub fn prepare(index: usize) -> &'static Cpu {
    let cpu = &CPUS.0[index];
    let stack = STACKS.0.get() as u64 + (index * (STACK + EMERGENCY)) as u64;
    // SAFETY: the CPU that will use the area has not started yet, or is this one (`Cpus`).
    unsafe {
        *cpu.context.get() = cpu.spare.get();
        *cpu.host_sp.get() = 0;
        *cpu.stack_top.get() = stack + STACK as u64;
        *cpu.emergency_top.get() = stack + (STACK + EMERGENCY) as u64;
        *cpu.index.get() = index;
    }
    cpu
}

impl Cpu {
    /// Its place in the device tree's /cpus.
    #[must_use]
    pub fn index(&self) -> usize {
        // SAFETY: written by `prepare` only, before the CPU started.
        unsafe { *self.index.get() }
    }

    /// Makes this area that of the CPU that calls: vectors, floating point at EL0 and EL1.
    pub fn adopt(&self) {
        let mut fields = 0;
        for (bit, present) in optional_fields().into_iter().enumerate() {
            fields |= u64::from(present) << bit;
        }
        // SAFETY: the area belongs to the calling CPU from here on (`Cpus`).
        unsafe { *self.fields.get() = fields };
        write_register!("tpidr_el1", core::ptr::from_ref(self) as u64);
        write_register!("vbar_el1", core::ptr::addr_of!(guest_vectors) as u64);
        // CPACR_EL1.FPEN: no traps of floating point.
        write_register!("cpacr_el1", 0b11 << 20);
    }
}

/// The number of the calling CPU.
#[must_use]
pub fn index() -> usize {
    let area = read_register!("tpidr_el1") as *const Cpu;
    // SAFETY: TPIDR_EL1 was set by `adopt` and is never changed by a test.
    unsafe { (*area).index() }
}

fn optional_fields() -> [bool; OPTIONAL_FIELDS.len()] {
    let pfr0 = read_register!("id_aa64pfr0_el1");
    let pfr1 = read_register!("id_aa64pfr1_el1");
    let mmfr1 = read_register!("id_aa64mmfr1_el1");
    let mmfr2 = read_register!("id_aa64mmfr2_el1");
    [
        field(mmfr1, 20, 4) != 0,
        field(mmfr2, 4, 4) != 0,
        // 1 means that only the field exists, 2 that MRS and MSR reach it.
        field(pfr1, 4, 4) >= 2,
        field(pfr0, 48, 4) != 0,
        // 1 (instructions at EL0 only) leaves TCO without a use: QEMU keeps it zero then.
        field(pfr1, 8, 4) >= 2,
        field(pfr1, 36, 4) != 0,
    ]
}

/// The optional fields of PSTATE that this CPU has, as a mask.
#[must_use]
pub fn optional_pstate() -> u64 {
    optional_fields().into_iter().zip(OPTIONAL_FIELDS).filter(|(present, _)| *present).map(|(_, mask)| mask).sum()
}

/// PSTATE in the handler of an exception that came to EL1 while `pstate` and `sctlr` were in force (Arm ARM,
/// AArch64.TakeException()).
#[must_use]
pub fn pstate_of_handler(pstate: u64, sctlr: u64) -> u64 {
    let optional = optional_pstate();
    let mut new = pstate & (NZCV | DIT & optional) | DAIF | EL1H;
    new |= if sctlr & SCTLR_SPAN == 0 { PAN } else { pstate & PAN } & optional;
    if sctlr & SCTLR_DSSBS != 0 {
        new |= SSBS & optional;
    }
    if sctlr & SCTLR_SPINTMASK == 0 {
        new |= ALLINT & optional;
    }
    new | TCO & optional
}

unsafe extern "C" {
    static guest_vectors: u8;
}

/// Loads or stores pairs of registers, `$kind` x or q, at `$base` plus each pair's offset.
macro_rules! pairs {
    ($operation:literal, $kind:literal, $base:literal: $($first:literal $second:literal $offset:literal),* $(,)?) => {
        concat!($($operation, " ", $kind, $first, ", ", $kind, $second, ", [", $base, " + ", $offset, "]\n",)*)
    };
}

/// Loads or stores Q0 to Q31 of the context at x0.
macro_rules! simd_registers {
    ($operation:literal) => {
        concat!(
            ".arch_extension fp\n",
            pairs!($operation, "q", "x0, #{Q}":
                0 1 0, 2 3 32, 4 5 64, 6 7 96, 8 9 128, 10 11 160, 12 13 192, 14 15 224,
                16 17 256, 18 19 288, 20 21 320, 22 23 352, 24 25 384, 26 27 416, 28 29 448, 30 31 480)
        )
    };
}

/// Loads or stores x2 to x29 of the context at x0.
macro_rules! x2_to_x29 {
    ($operation:literal) => {
        pairs!($operation, "x", "x0, #0":
            2 3 16, 4 5 32, 6 7 48, 8 9 64, 10 11 80, 12 13 96, 14 15 112,
            16 17 128, 18 19 144, 20 21 160, 22 23 176, 24 25 192, 26 27 208, 28 29 224)
    };
}

/// Loads or stores x19 to x28 above the frame record that the stack begins with.
macro_rules! x19_to_x28 {
    ($operation:literal) => {
        pairs!($operation, "x", "sp, #0": 19 20 16, 21 22 32, 23 24 48, 25 26 64, 27 28 80)
    };
}

/// x0: the context. Saves what the procedure call standard wants kept on the stack, and the stack pointer in the area;
/// `guest_exception` comes back from here to the caller.
#[unsafe(naked)]
unsafe extern "C" fn enter(context: *mut Context) {
    naked_asm!(
        "stp x29, x30, [sp, #-96]!",
        x19_to_x28!("stp"),
        "mrs x1, tpidr_el1",
        "mov x2, sp",
        "mrs x3, sctlr_el1",
        "str x0, [x1, #{CONTEXT}]",
        "str x2, [x1, #{HOST_SP}]",
        "str x3, [x1, #{HOST_SCTLR}]",
        simd_registers!("ldp"),
        "ldp x1, x2, [x0, #{FPCR}]",
        "msr fpcr, x1",
        "msr fpsr, x2",
        "ldp x1, x2, [x0, #{PC}]",
        "msr elr_el1, x1",
        "msr spsr_el1, x2",
        "ldp x1, x2, [x0, #{SP_EL0}]",
        "msr sp_el0, x1",
        "mov sp, x2",
        "ldr x1, [x0, #{SCTLR}]",
        "msr sctlr_el1, x1",
        "isb",
        x2_to_x29!("ldp"),
        "ldr x30, [x0, #240]",
        "ldp x0, x1, [x0]",
        "eret",
        CONTEXT = const offset_of!(Cpu, context),
        HOST_SP = const offset_of!(Cpu, host_sp),
        HOST_SCTLR = const offset_of!(Cpu, host_sctlr),
        FPCR = const offset_of!(Context, fpcr),
        PC = const offset_of!(Context, pc),
        SP_EL0 = const offset_of!(Context, sp_el0),
        SCTLR = const offset_of!(Context, sctlr),
        Q = const offset_of!(Context, q),
    )
}

// The 16 vectors. x0 goes to TPIDRRO_EL0 for the moment, x1 says which vector it was.
global_asm!(
    ".pushsection .text.vectors, \"ax\"",
    ".balign 2048",
    ".global guest_vectors",
    "guest_vectors:",
    ".set guest_vector, 0",
    ".rept 16",
    ".balign 128",
    "msr tpidrro_el0, x0",
    "mrs x0, tpidr_el1",
    "ldr x0, [x0, #{CONTEXT}]",
    "str x1, [x0, #8]",
    "mov x1, #guest_vector",
    "b {exception}",
    ".set guest_vector, guest_vector + 128",
    ".endr",
    ".popsection",
    CONTEXT = const offset_of!(Cpu, context),
    exception = sym exception,
);

/// x0: the context, x1: the vector's offset; the interrupted x0 is in TPIDRRO_EL0 and x1 in the context. PSTATE is read
/// before any instruction that could change its flags.
#[unsafe(naked)]
#[allow(clippy::too_many_lines, reason = "31 registers are what they are")]
unsafe extern "C" fn exception() {
    naked_asm!(
        "str x1, [x0, #{VECTOR}]",
        x2_to_x29!("stp"),
        "str x30, [x0, #240]",
        "mrs x1, tpidrro_el0",
        "str x1, [x0]",
        "mrs x2, nzcv",
        "mrs x1, daif",
        "orr x2, x2, x1",
        "mrs x1, CurrentEL",
        "orr x2, x2, x1",
        "mrs x1, SPSel",
        "orr x2, x2, x1",
        "mrs x3, tpidr_el1",
        "ldr x4, [x3, #{FIELDS}]",
        // PSTATE.PAN
        "tbz x4, #0, 2f",
        "mrs x1, S3_0_C4_C2_3",
        "orr x2, x2, x1",
        "msr S3_0_C4_C2_3, xzr",
        "2:",
        // PSTATE.UAO
        "tbz x4, #1, 2f",
        "mrs x1, S3_0_C4_C2_4",
        "orr x2, x2, x1",
        "2:",
        // PSTATE.SSBS
        "tbz x4, #2, 2f",
        "mrs x1, S3_3_C4_C2_6",
        "orr x2, x2, x1",
        "2:",
        // PSTATE.DIT
        "tbz x4, #3, 2f",
        "mrs x1, S3_3_C4_C2_5",
        "orr x2, x2, x1",
        "2:",
        // PSTATE.TCO
        "tbz x4, #4, 2f",
        "mrs x1, S3_3_C4_C2_7",
        "orr x2, x2, x1",
        "2:",
        // PSTATE.ALLINT
        "tbz x4, #5, 2f",
        "mrs x1, S3_0_C4_C3_0",
        "orr x2, x2, x1",
        "2:",
        "str x2, [x0, #{HANDLER_PSTATE}]",
        "mrs x1, elr_el1",
        "mrs x2, spsr_el1",
        "stp x1, x2, [x0, #{PC}]",
        "mrs x1, sp_el0",
        "mov x2, sp",
        "stp x1, x2, [x0, #{SP_EL0}]",
        "mrs x1, sctlr_el1",
        "str x1, [x0, #{SCTLR}]",
        "mrs x1, fpcr",
        "mrs x2, fpsr",
        "stp x1, x2, [x0, #{FPCR}]",
        "mrs x1, esr_el1",
        "mrs x2, far_el1",
        "stp x1, x2, [x0, #{ESR}]",
        simd_registers!("stp"),
        "ldr x1, [x3, #{HOST_SP}]",
        "cbz x1, 3f",
        "str xzr, [x3, #{HOST_SP}]",
        "ldr x2, [x3, #{HOST_SCTLR}]",
        "msr sctlr_el1, x2",
        "isb",
        "mov sp, x1",
        x19_to_x28!("ldp"),
        "ldp x29, x30, [sp], #96",
        "ret",
        "3:",
        "ldr x1, [x3, #{EMERGENCY_TOP}]",
        "mov sp, x1",
        "mov x29, xzr",
        "b {unexpected}",
        VECTOR = const offset_of!(Context, vector),
        FIELDS = const offset_of!(Cpu, fields),
        HANDLER_PSTATE = const offset_of!(Context, handler_pstate),
        ESR = const offset_of!(Context, esr),
        EMERGENCY_TOP = const offset_of!(Cpu, emergency_top),
        unexpected = sym unexpected,
        HOST_SP = const offset_of!(Cpu, host_sp),
        HOST_SCTLR = const offset_of!(Cpu, host_sctlr),
        FPCR = const offset_of!(Context, fpcr),
        PC = const offset_of!(Context, pc),
        SP_EL0 = const offset_of!(Context, sp_el0),
        SCTLR = const offset_of!(Context, sctlr),
        Q = const offset_of!(Context, q),
    )
}

/// The exit status of a guest that took an exception outside [`Context::enter`].
const UNEXPECTED_EXCEPTION: u32 = 70;

extern "C" fn unexpected(context: &Context) -> ! {
    crate::console::seize();
    println!(
        "FAIL: unexpected exception on CPU {}: vector {:#x} ESR {:#x} ELR {:#x} FAR {:#x} SPSR {:#x}, image at {:#x}",
        index(),
        context.vector,
        context.esr,
        context.pc,
        context.far,
        context.pstate,
        crate::start::image_base(),
    );
    for (number, value) in context.x.iter().enumerate() {
        println!("  x{number} = {value:#x}");
    }
    crate::firmware::exit(UNEXPECTED_EXCEPTION)
}
