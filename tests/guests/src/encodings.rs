//! Every encoding of MRS, MSR (register), SYS and SYSL, executed in virtual EL2: whatever it is, it is executed, or it
//! is an exception of the guest's own. Never is it one of Exeunt's, which executes most of them in its place.
//!
//! Each is read, and written with two values: all ones, and 0 or, for what takes an address, that of a page. What was
//! readable is put back after it was written. An exception has to be an undefined instruction, or for what takes an
//! address an abort, with the right ELR_EL2 and SPSR_EL2, and everything but x0 as it was. Which of the two it is may
//! depend on the CPU, except for what [`answer`] names. At the end the guest goes on to EL1, where it must find what it
//! has left.
//!
//! Options on the command line: `quick` leaves out what has op1 1, 2, 5, 6 or 7, except with CRn 0. `nothing=ADDRESS`
//! is another test: what virtual EL2 does in RAM that the device tree has and the machine has not.

use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;

use crate::code::Code;
use crate::cpu::{EC_DATA_ABORT, EC_INSTRUCTION_ABORT, EC_UNKNOWN, ESR_IL};
use crate::machine::{self, machine};
use crate::registers::field;
use crate::start::{Start, settle};
use crate::sysregs::Encoding;

/// Encodings that are written into memory at once; each takes the instruction and a `ret`.
const BATCH: u32 = 1024;

/// `ret`.
const RET: u32 = 0xd65f_03c0;

/// PSTATE.M of EL2h, and D, A, I and F.
const EL2H_MASKED: u64 = 0x3c9;
/// The fields of SPSR_EL2 that are looked at.
const MODE_AND_MASKS: u64 = 0x3df;

/// The vector of a synchronous exception from EL2h.
const EL2H_SYNCHRONOUS: u64 = 0x200;

/// xFSC of a synchronous external abort, not on a translation table walk.
const FSC_EXTERNAL: u64 = 0x10;

/// op0 of SYS and SYSL. Which of them take an address is not looked up: all may abort.
const OP0_SYSTEM: u32 = 1;

/// The fewest that can be read and written on any CPU. An Armv8.0 of QEMU has more of each.
const FEWEST: usize = 100;

static CODE: Code<{ 2 * BATCH as usize }> = Code::new();
static PAGE: Code<1024> = Code::new();

/// What became of an instruction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    /// x0 afterwards.
    x0: u64,
    /// Offset of the vector that an exception came to; [`EXECUTED`] if there was none.
    vector: u64,
    /// ESR_EL2, ELR_EL2, SPSR_EL2 and FAR_EL2 in the vector.
    esr: u64,
    elr: u64,
    spsr: u64,
    far: u64,
    /// x1 to x18, which nothing has changed, as one sum.
    sum: u64,
}

/// [`Outcome::vector`] without an exception.
const EXECUTED: u64 = 1;

/// x1 to x18 during the instruction are these numbers, times this.
const FILL: u64 = 0x0101_0101_0101_0101;

/// The sum of x1 to x18: 1 + 2 + ... + 18 is 171.
const SUM: u64 = FILL.wrapping_mul(171);

// The vectors of EL2: what has happened goes to x21 to x25, and on to x28. They use neither stack nor memory.
global_asm!(
    ".macro ENCODINGS_VECTOR offset",
    ".balign 0x80",
    "mov x21, #\\offset",
    "mrs x22, esr_el2",
    "mrs x23, elr_el2",
    "mrs x24, spsr_el2",
    "mrs x25, far_el2",
    "br x28",
    ".endm",
    ".pushsection .text.encodings, \"ax\"",
    ".balign 0x800",
    ".global encodings_vectors",
    "encodings_vectors:",
    "ENCODINGS_VECTOR 0x000",
    "ENCODINGS_VECTOR 0x080",
    "ENCODINGS_VECTOR 0x100",
    "ENCODINGS_VECTOR 0x180",
    "ENCODINGS_VECTOR 0x200",
    "ENCODINGS_VECTOR 0x280",
    "ENCODINGS_VECTOR 0x300",
    "ENCODINGS_VECTOR 0x380",
    "ENCODINGS_VECTOR 0x400",
    "ENCODINGS_VECTOR 0x480",
    "ENCODINGS_VECTOR 0x500",
    "ENCODINGS_VECTOR 0x580",
    "ENCODINGS_VECTOR 0x600",
    "ENCODINGS_VECTOR 0x680",
    "ENCODINGS_VECTOR 0x700",
    "ENCODINGS_VECTOR 0x780",
    ".popsection",
);

unsafe extern "C" {
    static encodings_vectors: u8;
}

/// Calls the instruction at `code`, and the `ret` behind it, with `x0` in x0. With `restore` SPSel, DAIF, HCR_EL2,
/// SCTLR_EL2 and VBAR_EL2 are put back before memory is used: any of them would take the guest away.
///
/// # Safety
/// At EL2, with the MMU off. Nothing else that the instruction changes may matter to the guest.
#[unsafe(naked)]
unsafe extern "C" fn execute(x0: u64, code: u64, outcome: &mut Outcome, restore: u64) {
    naked_asm!(
        "stp x29, x30, [sp, #-96]!",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "mov x19, sp",
        "mov x20, x2",
        "mov x21, #{EXECUTED}",
        "mov x26, x1",
        "adr x28, 3f",
        // Only where it is needed, for each is a trap. x29 says whether.
        "mov x29, x3",
        "cbz x29, 1f",
        "mrs x27, hcr_el2",
        "mrs x22, sctlr_el2",
        "1:",
        "ldr x1, ={FILL}",
        "lsl x2, x1, #1",
        "add x3, x2, x1",
        "lsl x4, x1, #2",
        "add x5, x4, x1",
        "add x6, x4, x2",
        "add x7, x4, x3",
        "lsl x8, x1, #3",
        "add x9, x8, x1",
        "add x10, x8, x2",
        "add x11, x8, x3",
        "add x12, x8, x4",
        "add x13, x8, x5",
        "add x14, x8, x6",
        "add x15, x8, x7",
        "lsl x16, x1, #4",
        "add x17, x16, x1",
        "add x18, x16, x2",
        "blr x26",
        "cbz x29, 3f",
        "msr spsel, #1",
        "msr daifset, #0xf",
        "msr sctlr_el2, x22",
        "msr hcr_el2, x27",
        "adrp x30, encodings_vectors",
        "add x30, x30, :lo12:encodings_vectors",
        "msr vbar_el2, x30",
        "isb",
        "3:",
        "mov sp, x19",
        "stp x0, x21, [x20, #{X0}]",
        "stp x22, x23, [x20, #{ESR}]",
        "stp x24, x25, [x20, #{SPSR}]",
        "add x0, x1, x2",
        "add x0, x0, x3",
        "add x0, x0, x4",
        "add x0, x0, x5",
        "add x0, x0, x6",
        "add x0, x0, x7",
        "add x0, x0, x8",
        "add x0, x0, x9",
        "add x0, x0, x10",
        "add x0, x0, x11",
        "add x0, x0, x12",
        "add x0, x0, x13",
        "add x0, x0, x14",
        "add x0, x0, x15",
        "add x0, x0, x16",
        "add x0, x0, x17",
        "add x0, x0, x18",
        "str x0, [x20, #{SUM}]",
        "ldp x19, x20, [sp, #16]",
        "ldp x21, x22, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x25, x26, [sp, #64]",
        "ldp x27, x28, [sp, #80]",
        "ldp x29, x30, [sp], #96",
        "ret",
        ".ltorg",
        EXECUTED = const EXECUTED,
        FILL = const FILL,
        X0 = const offset_of!(Outcome, x0),
        ESR = const offset_of!(Outcome, esr),
        SPSR = const offset_of!(Outcome, spsr),
        SUM = const offset_of!(Outcome, sum),
    )
}

/// What an access must come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Executed,
    Undefined,
    /// Whether it is there, the CPU decides.
    Either,
}

/// What the Arm ARM says of this access at EL2 with HCR_EL2.E2H 0, for any CPU without an EL3 of the host's, and what
/// Exeunt's virtual EL2 promises (`docs/virtual-el2.md`). `x0` is what is written.
fn answer(encoding: Encoding, writes: bool, x0: u64) -> Answer {
    if let Some(&(.., ways)) = ON_EVERY_CPU.iter().find(|(_, each, _)| *each == encoding) {
        let is_there = match ways {
            Ways::Both => true,
            Ways::Read => !writes,
            Ways::Address if writes && x0 == u64::MAX => return Answer::Either,
            Ways::Write | Ways::Address => writes,
        };
        return if is_there { Answer::Executed } else { Answer::Undefined };
    }
    let (op1, crn, crm) = (encoding.op1(), encoding.crn(), encoding.crm());
    match (encoding.op0(), op1, crn) {
        // SYSL is for IMPLEMENTATION DEFINED instructions, and for some of GCS.
        (OP0_SYSTEM, 3, 7) if crm == 7 => Answer::Either,
        (OP0_SYSTEM, _, 11 | 15) => Answer::Either,
        (OP0_SYSTEM, ..) if !writes => Answer::Undefined,
        (OP0_SYSTEM, ..) => Answer::Either,
        // The ID registers: also what is not yet one reads, as 0.
        (3, 0, 0) if (1..8).contains(&crm) && !writes => Answer::Executed,
        (3, 0 | 1 | 3, 0) if writes => Answer::Undefined,
        // Aliases of EL1's registers for a host with FEAT_VHE; those of EL3; Secure EL1's timers. And debug registers
        // have op1 0, 1, 3 or 4.
        (3, 5..8, _) | (2, 2 | 5..8, _) => Answer::Undefined,
        _ => Answer::Either,
    }
}

/// How an encoding can be used.
#[derive(Clone, Copy)]
enum Ways {
    Both,
    Read,
    Write,
    /// Written, with an address; what becomes of one where nothing is does not matter here.
    Address,
}

/// What an Armv8.0 with EL2 and without EL3 has, and so everybody. Breakpoints and watchpoints are not here: virtual
/// EL2 has none.
static ON_EVERY_CPU: &[(&str, Encoding, Ways)] = &[
    ("MDSCR_EL1", Encoding::new(2, 0, 0, 2, 2), Ways::Both),
    ("OSLAR_EL1", Encoding::new(2, 0, 1, 0, 4), Ways::Write),
    ("OSLSR_EL1", Encoding::new(2, 0, 1, 1, 4), Ways::Read),
    ("MIDR_EL1", Encoding::new(3, 0, 0, 0, 0), Ways::Read),
    ("MPIDR_EL1", Encoding::new(3, 0, 0, 0, 5), Ways::Read),
    ("REVIDR_EL1", Encoding::new(3, 0, 0, 0, 6), Ways::Read),
    ("SCTLR_EL1", Encoding::new(3, 0, 1, 0, 0), Ways::Both),
    ("ACTLR_EL1", Encoding::new(3, 0, 1, 0, 1), Ways::Both),
    ("CPACR_EL1", Encoding::new(3, 0, 1, 0, 2), Ways::Both),
    ("TTBR0_EL1", Encoding::new(3, 0, 2, 0, 0), Ways::Both),
    ("TTBR1_EL1", Encoding::new(3, 0, 2, 0, 1), Ways::Both),
    ("TCR_EL1", Encoding::new(3, 0, 2, 0, 2), Ways::Both),
    ("SPSR_EL1", Encoding::new(3, 0, 4, 0, 0), Ways::Both),
    ("ELR_EL1", Encoding::new(3, 0, 4, 0, 1), Ways::Both),
    ("SP_EL0", Encoding::new(3, 0, 4, 1, 0), Ways::Both),
    ("SPSel", Encoding::new(3, 0, 4, 2, 0), Ways::Both),
    ("CurrentEL", Encoding::new(3, 0, 4, 2, 2), Ways::Read),
    ("AFSR0_EL1", Encoding::new(3, 0, 5, 1, 0), Ways::Both),
    ("AFSR1_EL1", Encoding::new(3, 0, 5, 1, 1), Ways::Both),
    ("ESR_EL1", Encoding::new(3, 0, 5, 2, 0), Ways::Both),
    ("FAR_EL1", Encoding::new(3, 0, 6, 0, 0), Ways::Both),
    ("PAR_EL1", Encoding::new(3, 0, 7, 4, 0), Ways::Both),
    ("MAIR_EL1", Encoding::new(3, 0, 10, 2, 0), Ways::Both),
    ("AMAIR_EL1", Encoding::new(3, 0, 10, 3, 0), Ways::Both),
    ("VBAR_EL1", Encoding::new(3, 0, 12, 0, 0), Ways::Both),
    ("ISR_EL1", Encoding::new(3, 0, 12, 1, 0), Ways::Read),
    ("CONTEXTIDR_EL1", Encoding::new(3, 0, 13, 0, 1), Ways::Both),
    ("TPIDR_EL1", Encoding::new(3, 0, 13, 0, 4), Ways::Both),
    ("CNTKCTL_EL1", Encoding::new(3, 0, 14, 1, 0), Ways::Both),
    ("CCSIDR_EL1", Encoding::new(3, 1, 0, 0, 0), Ways::Read),
    ("CLIDR_EL1", Encoding::new(3, 1, 0, 0, 1), Ways::Read),
    ("AIDR_EL1", Encoding::new(3, 1, 0, 0, 7), Ways::Read),
    ("CSSELR_EL1", Encoding::new(3, 2, 0, 0, 0), Ways::Both),
    ("CTR_EL0", Encoding::new(3, 3, 0, 0, 1), Ways::Read),
    ("DCZID_EL0", Encoding::new(3, 3, 0, 0, 7), Ways::Read),
    ("NZCV", Encoding::new(3, 3, 4, 2, 0), Ways::Both),
    ("DAIF", Encoding::new(3, 3, 4, 2, 1), Ways::Both),
    ("FPCR", Encoding::new(3, 3, 4, 4, 0), Ways::Both),
    ("FPSR", Encoding::new(3, 3, 4, 4, 1), Ways::Both),
    ("TPIDR_EL0", Encoding::new(3, 3, 13, 0, 2), Ways::Both),
    ("TPIDRRO_EL0", Encoding::new(3, 3, 13, 0, 3), Ways::Both),
    ("CNTPCT_EL0", Encoding::new(3, 3, 14, 0, 1), Ways::Read),
    ("CNTVCT_EL0", Encoding::new(3, 3, 14, 0, 2), Ways::Read),
    ("CNTP_TVAL_EL0", Encoding::new(3, 3, 14, 2, 0), Ways::Both),
    ("CNTP_CTL_EL0", Encoding::new(3, 3, 14, 2, 1), Ways::Both),
    ("CNTP_CVAL_EL0", Encoding::new(3, 3, 14, 2, 2), Ways::Both),
    ("CNTV_TVAL_EL0", Encoding::new(3, 3, 14, 3, 0), Ways::Both),
    ("CNTV_CTL_EL0", Encoding::new(3, 3, 14, 3, 1), Ways::Both),
    ("CNTV_CVAL_EL0", Encoding::new(3, 3, 14, 3, 2), Ways::Both),
    ("VPIDR_EL2", Encoding::new(3, 4, 0, 0, 0), Ways::Both),
    ("VMPIDR_EL2", Encoding::new(3, 4, 0, 0, 5), Ways::Both),
    ("SCTLR_EL2", Encoding::new(3, 4, 1, 0, 0), Ways::Both),
    ("ACTLR_EL2", Encoding::new(3, 4, 1, 0, 1), Ways::Both),
    ("HCR_EL2", Encoding::new(3, 4, 1, 1, 0), Ways::Both),
    ("MDCR_EL2", Encoding::new(3, 4, 1, 1, 1), Ways::Both),
    ("CPTR_EL2", Encoding::new(3, 4, 1, 1, 2), Ways::Both),
    ("HSTR_EL2", Encoding::new(3, 4, 1, 1, 3), Ways::Both),
    ("HACR_EL2", Encoding::new(3, 4, 1, 1, 7), Ways::Both),
    ("TTBR0_EL2", Encoding::new(3, 4, 2, 0, 0), Ways::Both),
    ("TCR_EL2", Encoding::new(3, 4, 2, 0, 2), Ways::Both),
    ("VTTBR_EL2", Encoding::new(3, 4, 2, 1, 0), Ways::Both),
    ("VTCR_EL2", Encoding::new(3, 4, 2, 1, 2), Ways::Both),
    ("SPSR_EL2", Encoding::new(3, 4, 4, 0, 0), Ways::Both),
    ("ELR_EL2", Encoding::new(3, 4, 4, 0, 1), Ways::Both),
    ("SP_EL1", Encoding::new(3, 4, 4, 1, 0), Ways::Both),
    ("AFSR0_EL2", Encoding::new(3, 4, 5, 1, 0), Ways::Both),
    ("AFSR1_EL2", Encoding::new(3, 4, 5, 1, 1), Ways::Both),
    ("ESR_EL2", Encoding::new(3, 4, 5, 2, 0), Ways::Both),
    ("FAR_EL2", Encoding::new(3, 4, 6, 0, 0), Ways::Both),
    ("HPFAR_EL2", Encoding::new(3, 4, 6, 0, 4), Ways::Both),
    ("MAIR_EL2", Encoding::new(3, 4, 10, 2, 0), Ways::Both),
    ("AMAIR_EL2", Encoding::new(3, 4, 10, 3, 0), Ways::Both),
    ("VBAR_EL2", Encoding::new(3, 4, 12, 0, 0), Ways::Both),
    ("TPIDR_EL2", Encoding::new(3, 4, 13, 0, 2), Ways::Both),
    ("CNTVOFF_EL2", Encoding::new(3, 4, 14, 0, 3), Ways::Both),
    ("CNTHCTL_EL2", Encoding::new(3, 4, 14, 1, 0), Ways::Both),
    ("CNTHP_TVAL_EL2", Encoding::new(3, 4, 14, 2, 0), Ways::Both),
    ("CNTHP_CTL_EL2", Encoding::new(3, 4, 14, 2, 1), Ways::Both),
    ("CNTHP_CVAL_EL2", Encoding::new(3, 4, 14, 2, 2), Ways::Both),
    ("IC IALLUIS", Encoding::new(1, 0, 7, 1, 0), Ways::Write),
    ("IC IALLU", Encoding::new(1, 0, 7, 5, 0), Ways::Write),
    ("DC IVAC", Encoding::new(1, 0, 7, 6, 1), Ways::Address),
    ("DC ISW", Encoding::new(1, 0, 7, 6, 2), Ways::Write),
    ("DC CSW", Encoding::new(1, 0, 7, 10, 2), Ways::Write),
    ("DC CISW", Encoding::new(1, 0, 7, 14, 2), Ways::Write),
    ("DC ZVA", Encoding::new(1, 3, 7, 4, 1), Ways::Address),
    ("IC IVAU", Encoding::new(1, 3, 7, 5, 1), Ways::Address),
    ("DC CVAC", Encoding::new(1, 3, 7, 10, 1), Ways::Address),
    ("DC CVAU", Encoding::new(1, 3, 7, 11, 1), Ways::Address),
    ("DC CIVAC", Encoding::new(1, 3, 7, 14, 1), Ways::Address),
    ("TLBI VMALLE1IS", Encoding::new(1, 0, 8, 3, 0), Ways::Write),
    ("TLBI VMALLE1", Encoding::new(1, 0, 8, 7, 0), Ways::Write),
    ("TLBI ALLE2IS", Encoding::new(1, 4, 8, 3, 0), Ways::Write),
    ("TLBI ALLE1IS", Encoding::new(1, 4, 8, 3, 4), Ways::Write),
    ("TLBI VMALLS12E1IS", Encoding::new(1, 4, 8, 3, 6), Ways::Write),
    ("TLBI ALLE2", Encoding::new(1, 4, 8, 7, 0), Ways::Write),
    ("TLBI ALLE1", Encoding::new(1, 4, 8, 7, 4), Ways::Write),
    ("TLBI VMALLS12E1", Encoding::new(1, 4, 8, 7, 6), Ways::Write),
];

/// Executes what stands at `code`, and checks what every instruction must keep to.
fn attempt(what: &str, encoding: Encoding, x0: u64, code: u64, writes: bool) -> Outcome {
    let mut outcome = Outcome::default();
    // SAFETY: at EL2, and the caller puts back what the encoding has changed.
    unsafe { execute(x0, code, &mut outcome, u64::from(writes)) };
    let Outcome { vector, esr, elr, spsr, far, sum, .. } = outcome;
    let is_kept = sum == SUM && (outcome.x0 == x0 || vector == EXECUTED);
    check!(is_kept, "{what} {encoding}: x0 {:#x} (was {x0:#x}), x1 to x18 add up to {sum:#x}", outcome.x0);
    let is_undefined = vector == EL2H_SYNCHRONOUS && esr == EC_UNKNOWN << 26 | ESR_IL;
    // At the address, or in its cache line, which has 2 KiB at most.
    let is_abort = encoding.op0() == OP0_SYSTEM && field(esr, 26, 6) == EC_DATA_ABORT && far ^ x0 < 2048;
    check!(
        vector == EXECUTED
            || vector == EL2H_SYNCHRONOUS
                && elr == code
                && spsr & MODE_AND_MASKS == EL2H_MASKED
                && (is_undefined || is_abort),
        "{what} {encoding} with {x0:#x}: vector {vector:#x} ESR {esr:#x} ELR {elr:#x} (of {code:#x}) SPSR {spsr:#x} \
         FAR {far:#x}"
    );
    match answer(encoding, writes, x0) {
        Answer::Executed => {
            let name = ON_EVERY_CPU.iter().find(|(_, each, _)| *each == encoding).map_or("", |(name, ..)| name);
            check!(vector == EXECUTED, "{what} {encoding} {name} with {x0:#x} is not executed: ESR {esr:#x}")
        }
        Answer::Undefined => check!(is_undefined, "{what} {encoding} with {x0:#x} is not undefined"),
        Answer::Either => true,
    };
    outcome
}

/// How often an instruction was executed, and how often it was an exception.
#[derive(Clone, Copy, Default)]
struct Tally {
    executed: usize,
    refused: usize,
}

impl Tally {
    fn count(&mut self, outcome: &Outcome) -> bool {
        let executed = outcome.vector == EXECUTED;
        *(if executed { &mut self.executed } else { &mut self.refused }) += 1;
        executed
    }
}

/// Whether a quick run leaves it out.
fn is_left_out(encoding: Encoding) -> bool {
    !matches!(encoding.op1(), 0 | 3 | 4) && encoding.crn() != 0
}

/// Every encoding with this op0.
fn sweep(op0: u32, quick: bool) -> [Tally; 2] {
    let mut reads = Tally::default();
    let mut writes = Tally::default();
    let values = [u64::MAX, if op0 == OP0_SYSTEM { PAGE.address(0) } else { 0 }];
    for first in (0..1 << 14).step_by(BATCH as usize) {
        let batch = (0..BATCH).map(|offset| Encoding::of(op0, first + offset));
        let batch = || batch.clone().enumerate().filter(|(_, encoding)| !(quick && is_left_out(*encoding)));
        let mut before = [None; BATCH as usize];
        for (place, encoding) in batch() {
            CODE.write(2 * place, &[encoding.read(), RET]);
        }
        for (place, encoding) in batch() {
            let outcome = attempt("read", encoding, 0x5a5a, CODE.address(2 * place), false);
            before[place] = reads.count(&outcome).then_some(outcome.x0);
        }
        for (place, encoding) in batch() {
            CODE.write(2 * place, &[encoding.write(), RET]);
        }
        for (place, encoding) in batch() {
            let write = |value| attempt("write", encoding, value, CODE.address(2 * place), true);
            for value in values {
                writes.count(&write(value));
            }
            if let Some(value) = before[place] {
                write(value);
            }
        }
    }
    println!(
        "encodings: op0 {op0}: {} reads executed, {} refused; {} writes executed, {} refused",
        reads.executed, reads.refused, writes.executed, writes.refused
    );
    [reads, writes]
}

/// A fetch, a load, a store and cache maintenance where nothing answers. DC IVAC Exeunt executes in the guest's place.
fn nothing(address: u64) {
    let mut fetch = Outcome::default();
    // SAFETY: at EL2; nothing is executed there.
    unsafe { execute(0, address, &mut fetch, 0) };
    let Outcome { vector, esr, elr, far, .. } = fetch;
    check!(
        vector == EL2H_SYNCHRONOUS && is_external(esr, EC_INSTRUCTION_ABORT) && elr == address && far == address,
        "fetch at {address:#x}: vector {vector:#x} ESR {esr:#x} ELR {elr:#x} FAR {far:#x}"
    );
    for (name, instruction, aborts) in [
        ("ldr", 0xf940_0001, true),
        ("str", 0xf900_0000, true),
        ("dc ivac", 0xd508_7620, false),
        ("dc civac", 0xd50b_7e20, false),
    ] {
        let code = CODE.write(0, &[instruction, RET]);
        let mut outcome = Outcome::default();
        // SAFETY: at EL2; nothing is changed there.
        unsafe { execute(address, code, &mut outcome, 0) };
        let Outcome { vector, esr, elr, far, sum, .. } = outcome;
        // Whether maintenance of a line that no cache has goes as far as the bus is the CPU's business.
        check!(
            vector == EXECUTED && !aborts
                || vector == EL2H_SYNCHRONOUS && is_external(esr, EC_DATA_ABORT) && elr == code && far == address,
            "{name} at {address:#x}: vector {vector:#x} ESR {esr:#x} ELR {elr:#x} (of {code:#x}) FAR {far:#x}"
        );
        check!(sum == SUM, "{name} at {address:#x}: x1 to x18 add up to {sum:#x}");
    }
}

/// Whether ESR_EL2 tells of an abort of this class, from outside of the CPU and not from a translation table walk.
fn is_external(esr: u64, class: u64) -> bool {
    field(esr, 26, 6) == class && field(esr, 0, 6) == FSC_EXTERNAL
}

/// Runs the test.
pub fn run(start: &Start) {
    machine::read(start.tree);
    check!(start.level == 2, "entered at EL{}", start.level);
    if start.level == 2 {
        write_register!("vbar_el2", (&raw const encodings_vectors).addr() as u64);
        if let Some(address) = machine().number("nothing") {
            nothing(address);
            settle();
            crate::report::finish("encodings")
        }
        let quick = machine().words().any(|word| word == "quick");
        for op0 in [2, 3, OP0_SYSTEM] {
            let [reads, writes] = sweep(op0, quick);
            let enough = op0 != 3 || reads.executed >= FEWEST && writes.executed >= FEWEST;
            check!(enough, "{} reads and {} writes were executed", reads.executed, writes.executed);
        }
    }
    settle();
    crate::report::finish("encodings")
}
