//! Lab 7: be the stub.

use core::arch::{asm, global_asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::stub::{RESET_VECTORS, SET_VECTORS, SOFT_RESTART, STUB_ERR, SUCCESS};
use guests::conformance::bare;
use guests::registers::current_el;
use guests::start::{Start, settle};
use guests::{level, machine, println, read_register, smp};

/// What you write.
pub struct Yours {
    /// The address of your vector table.
    pub vectors: fn() -> u64,
}

/// A bit of x0 that no call has, and that a comparison of 32 bits does not see.
const HIGH: u64 = 1 << 32;

/// What the vectors of `lab_other_vectors` answer to anything.
const OTHER: u64 = 0x07e2;

global_asm!(
    ".pushsection .text.other, \"ax\"",
    ".balign 2048",
    ".global lab_other_vectors",
    "lab_other_vectors:",
    ".rept 8",
    ".balign 128",
    "b .",
    ".endr",
    ".balign 128",
    // A 2 puts back the vectors in x1: the frame's way out of here.
    "cmp x0, #2",
    "b.ne 1f",
    "msr vbar_el2, x1",
    "isb",
    "1: mov x0, #{OTHER}",
    "eret",
    ".rept 7",
    ".balign 128",
    "b .",
    ".endr",
    ".popsection",
    OTHER = const OTHER,
);

unsafe extern "C" {
    static lab_other_vectors: u8;
}

/// `hvc #0` with x0 and x1; gives x0. Of the registers that a stub leaves alone two are looked at.
fn call(x0: u64, x1: u64) -> u64 {
    let result: u64;
    let broken: u64;
    // SAFETY: the stub answers. All that it could change is named.
    unsafe {
        asm!(
            "mov x9, x1",
            "add x18, x1, #1",
            "mov x20, x9",
            "mov x21, x18",
            "hvc #0",
            "cmp x9, x20",
            "cset {broken}, ne",
            "cmp x18, x21",
            "cinc {broken}, {broken}, ne",
            broken = out(reg) broken,
            inout("x0") x0 => result, inout("x1") x1 => _, out("x2") _, out("x3") _, out("x4") _, out("x5") _,
            out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _,
            out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _, out("x18") _, out("x20") _,
            out("x21") _, options(nostack)
        );
    }
    want!(broken == 0, "a call with x0 = {x0:#x} has changed registers that are the caller's");
    result
}

static ARRIVED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static BACK: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

extern "C" fn note(x0: u64, x1: u64, x2: u64) {
    for (slot, value) in ARRIVED.iter().zip([x0, x1, x2, current_el()]) {
        slot.store(value, Ordering::Relaxed);
    }
}

/// The next payload: notes how it was entered, and goes back to EL1 where the frame waits.
#[unsafe(naked)]
unsafe extern "C" fn payload() -> ! {
    naked_asm!(
        "adrp x9, {BACK}",
        "add x9, x9, :lo12:{BACK}",
        "ldp x10, x11, [x9]",
        "mov sp, x10",
        "sub sp, sp, #256",
        "stp x10, x11, [sp]",
        "bl {note}",
        "ldp x10, x11, [sp]",
        // Entered at EL1, by an ERET: what stands below is undefined there.
        "mrs x12, CurrentEL",
        "cmp x12, #{EL2}",
        "b.eq 1f",
        "mov sp, x10",
        "br x11",
        "1:",
        "msr elr_el2, x11",
        "mov x12, #{SPSR}",
        "msr spsr_el2, x12",
        "msr sp_el1, x10",
        "eret",
        BACK = sym BACK,
        note = sym note,
        SPSR = const level::SPSR_EL1H,
        EL2 = const 2 << 2,
    )
}

/// Calls SOFT_RESTART to [`payload`], and returns when that has come back; x0 if it never went.
#[unsafe(naked)]
unsafe extern "C" fn restart(number: u64, entry: u64) -> u64 {
    naked_asm!(
        "stp x29, x30, [sp, #-96]!",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "adrp x9, {BACK}",
        "add x9, x9, :lo12:{BACK}",
        "mov x10, sp",
        "adr x11, 1f",
        "stp x10, x11, [x9]",
        "mov x2, #0x22",
        "mov x3, #0x33",
        "mov x4, #0x44",
        "hvc #0",
        "b 2f",
        "1: mov x0, xzr",
        "2: ldp x19, x20, [sp, #16]",
        "ldp x21, x22, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x25, x26, [sp, #64]",
        "ldp x27, x28, [sp, #80]",
        "ldp x29, x30, [sp], #96",
        "ret",
        BACK = sym BACK,
    )
}

/// Runs it.
pub fn run(start: &Start, yours: &Yours) {
    want!(start.level == 2, "the lab wants a bare machine, entered at EL2");
    let vectors = (yours.vectors)();
    want!(
        vectors.is_multiple_of(2048) && vectors != 0,
        "your table is at {vectors:#x}: VBAR_EL2 takes multiples of 2 KiB"
    );
    machine::read(start.tree);
    level::set_vectors(vectors);
    settle();
    println!("lab: at EL{}, your vectors at {vectors:#x} are EL2's", read_register!("CurrentEL") >> 2);

    // An x1 that does no harm if it becomes VBAR_EL2 by mistake.
    for unknown in [7, 0x1234, u64::MAX, 0x8400_0000, HIGH | SET_VECTORS, HIGH | RESET_VECTORS] {
        let result = call(unknown, vectors);
        want!(result == STUB_ERR, "x0 = {unknown:#x} is no call: the answer is {STUB_ERR:#x}, and yours {result:#x}");
    }
    let result = call(RESET_VECTORS, 0);
    want!(result == SUCCESS, "RESET_VECTORS gives 0, and yours {result:#x}");

    let other = &raw const lab_other_vectors as u64;
    let result = call(SET_VECTORS, other);
    want!(result == SUCCESS, "SET_VECTORS gives 0, and yours {result:#x}");
    let result = call(SET_VECTORS, vectors);
    want!(result == OTHER, "after SET_VECTORS another table is to answer, with {OTHER:#x}; the answer is {result:#x}");
    let result = call(2, vectors);
    want!(result == OTHER, "the other table gives {result:#x}");
    let result = call(7, 0);
    want!(result == STUB_ERR, "with your vectors back, an unknown call gives {result:#x}");

    let arrived = || ARRIVED.each_ref().map(|slot| slot.load(Ordering::Relaxed));
    let number = HIGH | SOFT_RESTART;
    // SAFETY: the payload comes back.
    let result = unsafe { restart(number, payload as *const () as u64) };
    let [.., at] = arrived();
    want!(at == 0, "x0 = {number:#x} is no call, and yours has gone to x1: all 64 bits of x0 count");
    want!(result == STUB_ERR, "x0 = {number:#x} is no call: the answer is {STUB_ERR:#x}, and yours {result:#x}");
    // SAFETY: the payload comes back.
    let result = unsafe { restart(SOFT_RESTART, payload as *const () as u64) };
    let [x0, x1, x2, at] = arrived();
    want!(at != 0, "SOFT_RESTART is to enter x1; it has come back with x0 = {result:#x}");
    want!(at == 2, "SOFT_RESTART has entered the payload at EL{at}");
    want!(
        [x0, x1, x2] == [0x22, 0x33, 0x44],
        "the payload's x0 to x2 are {x0:#x}, {x1:#x}, {x2:#x}, and not what x2 to x4 were"
    );
    println!("lab: the calls work, one by one; now the conformance guest makes all of them, in every state of a CPU");

    let cpus = smp::start_all();
    let (checks, failed) = bare::section(vectors);
    want!(failed == 0, "the conformance guest finds {failed} of {checks} checks wrong: the lines with WRONG above");
    solved!("your table passes the conformance guest's section of a stub: {checks} checks on {cpus} CPUs")
}
