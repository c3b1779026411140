//! Interrupts that arrive while a CPU is at EL2, or at the virtual EL2 that stands for it: none is taken there, and
//! none is lost.
//!
//! Each CPU makes an interrupt pending while it is at EL2 for the first time, and then goes through SOFT_RESTARTs with
//! an interrupt of each kind pending. Exeunt's option `restart=resident` is needed, so that the payloads of these are
//! entered as the guest was. An interrupt that targets EL1, as all of a kernel's do, waits while EL2 runs, whatever
//! PSTATE and the GIC's masks are.
//!
//! Options on the command line:
//! - `level=1`, `level=2`: where the guest and the payloads must be entered. Required.
//! - `bare`: there is no Exeunt, and the guest leaves a stub of its own at EL2.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::stub::SOFT_RESTART;

use crate::code::END_IMMEDIATE;
use crate::conformance::stub;
use crate::cpu::{Context, DAIF, EL1H};
use crate::gic::{self, Source};
use crate::level;
use crate::machine::{self, MAX_CPUS, machine};
use crate::registers::current_el;
use crate::smp;
use crate::start::{Start, settle};

/// CurrentEL at EL1 and EL2.
const EL1: u64 = 1 << 2;
const EL2: u64 = 2 << 2;
/// SPSR_EL2 for EL1h, everything masked.
const SPSR_EL1H: u64 = 0x3c5;
/// Rounds of two instructions that a payload spins, three times.
const SPINS: u64 = 0x4000;
/// How long a CPU stays at EL2 with its first interrupt, in microseconds.
const FIRST_STAY: u64 = 500;

/// VBAR_EL1, ELR_EL1, SPSR_EL1, ESR_EL1 and FAR_EL1 as a payload writes them: what a Linux that sets up EL1 could. An
/// exception to EL1 would change them.
const PATTERN: [u64; 5] = [0x4455_5800, 0x4466_7788, 0x6000_03c5, 0x5600_1234, 0x1122_3344_5566];

/// What a payload is to do, and what it finds.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Record {
    /// Where to write to make an interrupt pending, or 0, and what.
    trigger: [u64; 2],
    /// CurrentEL: at the entry, after the first spin, after the last.
    level: [u64; 3],
    /// DAIF: at the entry; and, at EL2, after all were cleared and all were set.
    daif: [u64; 3],
    /// The registers of [`PATTERN`], read at the level of the entry and then at EL1.
    pattern: [[u64; 5]; 2],
    /// TTBR0_EL1, TCR_EL1, MAIR_EL1, VBAR_EL1, TPIDR_EL1, CPACR_EL1: what the way back needs.
    el1: [u64; 6],
}

const BLANK: Record = Record { trigger: [0; 2], level: [0; 3], daif: [0; 3], pattern: [[0; 5]; 2], el1: [0; 6] };

struct Records(UnsafeCell<[Record; MAX_CPUS]>);

// SAFETY: each record is used by its CPU alone.
unsafe impl Sync for Records {}

static RECORDS: Records = Records(UnsafeCell::new([BLANK; MAX_CPUS]));

// The payload. x0: its record, x1: the pattern; its MMU is off.
global_asm!(
    ".pushsection .text.interrupts, \"ax\"",
    ".global guest_interrupts_call",
    "guest_interrupts_call:",
    "hvc #0",
    "brk #{END}",
    ".global guest_interrupts_payload",
    "guest_interrupts_payload:",
    "mov x10, x0",
    "mrs x11, CurrentEL",
    "str x11, [x10, #{LEVEL}]",
    "mrs x2, daif",
    "str x2, [x10, #{DAIF}]",
    "ldp x2, x3, [x1]",
    "ldp x4, x5, [x1, #16]",
    "ldr x6, [x1, #32]",
    "msr vbar_el1, x2",
    "msr elr_el1, x3",
    "msr spsr_el1, x4",
    "msr esr_el1, x5",
    "msr far_el1, x6",
    "ldp x2, x3, [x10, #{TRIGGER}]",
    "cbz x2, 1f",
    "str w3, [x2]",
    "dsb sy",
    "1: mov x2, #{SPINS}",
    "2: subs x2, x2, #1",
    "b.ne 2b",
    "mrs x2, CurrentEL",
    "str x2, [x10, #{LEVEL} + 8]",
    "cmp x11, #{EL2}",
    "b.ne 4f",
    // An interrupt of EL1's waits at EL2 with PSTATE.I and F clear, too.
    "msr daifclr, #0xf",
    "mov x2, #{SPINS}",
    "3: subs x2, x2, #1",
    "b.ne 3b",
    "mrs x2, daif",
    "str x2, [x10, #{DAIF} + 8]",
    "msr daifset, #0xf",
    "mrs x2, daif",
    "str x2, [x10, #{DAIF} + 16]",
    "4: mov x2, #{SPINS}",
    "5: subs x2, x2, #1",
    "b.ne 5b",
    "mrs x2, CurrentEL",
    "str x2, [x10, #{LEVEL} + 16]",
    "add x12, x10, #{PATTERN}",
    "adr x13, 6f",
    "b guest_interrupts_read",
    "6: cmp x11, #{EL2}",
    "b.ne 7f",
    "adr x2, 7f",
    "msr elr_el2, x2",
    "mov x2, #{SPSR}",
    "msr spsr_el2, x2",
    "eret",
    "7: add x12, x10, #{PATTERN} + 40",
    "adr x13, 8f",
    "b guest_interrupts_read",
    "8: ldp x1, x2, [x10, #{EL1}]",
    "msr ttbr0_el1, x1",
    "msr tcr_el1, x2",
    "ldp x1, x2, [x10, #{EL1} + 16]",
    "msr mair_el1, x1",
    "msr vbar_el1, x2",
    "ldp x1, x2, [x10, #{EL1} + 32]",
    "msr tpidr_el1, x1",
    "msr cpacr_el1, x2",
    "isb",
    ".global guest_interrupts_end",
    "guest_interrupts_end:",
    "brk #{END}",
    // x12: where to, x13: where next.
    "guest_interrupts_read:",
    "mrs x2, vbar_el1",
    "mrs x3, elr_el1",
    "stp x2, x3, [x12]",
    "mrs x2, spsr_el1",
    "mrs x3, esr_el1",
    "stp x2, x3, [x12, #16]",
    "mrs x2, far_el1",
    "str x2, [x12, #32]",
    "br x13",
    ".popsection",
    END = const END_IMMEDIATE,
    TRIGGER = const offset_of!(Record, trigger),
    LEVEL = const offset_of!(Record, level),
    DAIF = const offset_of!(Record, daif),
    PATTERN = const offset_of!(Record, pattern),
    EL1 = const offset_of!(Record, el1),
    SPINS = const SPINS,
    EL2 = const EL2,
    SPSR = const SPSR_EL1H,
);

unsafe extern "C" {
    static guest_interrupts_call: u8;
    static guest_interrupts_payload: u8;
    static guest_interrupts_end: u8;
}

/// The CPU that works alone, or [`ALL`].
static ONLY: AtomicU64 = AtomicU64::new(ALL);
const ALL: u64 = u64::MAX;

/// What [`at_el2`] found, for each CPU: how often it was at another level than EL2, and how often DAIF was wrong.
static STRANGE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// The first stay at EL2 of a CPU: it sets its GIC up, sends itself an interrupt, and goes on for a while.
fn at_el2(index: usize) {
    gic::prepare_cpu(index);
    let (address, value) = gic::trigger(index, Source::Group1);
    // SAFETY: the GIC's register.
    unsafe { (address as *mut u32).write_volatile(value) };
    let end = read_register!("cntvct_el0") + read_register!("cntfrq_el0") * FIRST_STAY / 1_000_000;
    let mut strange = 0;
    while read_register!("cntvct_el0") < end {
        strange += u64::from(current_el() != 2);
        // PSTATE.I and F are EL2's own business.
        // SAFETY: at EL2, where an interrupt of EL1's is not taken.
        unsafe { core::arch::asm!("msr daifclr, #3", options(nostack)) };
        strange += u64::from(read_register!("daif") & DAIF != 0xc << 6);
        // SAFETY: as above.
        unsafe { core::arch::asm!("msr daifset, #3", options(nostack)) };
        strange += u64::from(read_register!("daif") & DAIF != DAIF);
    }
    STRANGE[index].store(strange, Ordering::Relaxed);
}

/// Takes the one interrupt that must be there, `source`.
fn take(what: &str, index: usize, source: Source) {
    let lines = gic::signalled();
    let line = gic::line(source);
    check!(lines & line as u64 != 0, "CPU {index}: {what}: ISR_EL1 is {lines:#x} with {source:?} pending");
    let taken = gic::take(index, source);
    check!(taken == source.number(), "CPU {index}: {what}: interrupt {taken} instead of {}", source.number());
    let lines = gic::signalled();
    check!(lines == 0, "CPU {index}: {what}: after it was taken, ISR_EL1 is {lines:#x}");
}

/// A SOFT_RESTART with `source` pending, from its call on or from the middle of the payload.
fn restart(index: usize, expected: u64, source: Source, in_the_payload: bool) {
    let what = if in_the_payload { "in the payload" } else { "over SOFT_RESTART" };
    let trigger = gic::trigger(index, source);
    // SAFETY: the record is the calling CPU's.
    let record = unsafe { &mut (*RECORDS.0.get())[index] };
    *record = BLANK;
    record.el1 = [
        read_register!("ttbr0_el1"),
        read_register!("tcr_el1"),
        read_register!("mair_el1"),
        read_register!("vbar_el1"),
        read_register!("tpidr_el1"),
        read_register!("cpacr_el1"),
    ];
    if in_the_payload {
        record.trigger = [trigger.0, u64::from(trigger.1)];
    } else {
        // SAFETY: the GIC's register.
        unsafe { (trigger.0 as *mut u32).write_volatile(trigger.1) };
        let line = gic::line(source) as u64;
        check!(smp::wait_for(|| gic::signalled() & line != 0), "CPU {index}: {source:?} does not become pending");
    }
    let mut context = Context::new((&raw const guest_interrupts_call).addr() as u64, EL1H | DAIF);
    let payload = (&raw const guest_interrupts_payload).addr() as u64;
    let pattern = PATTERN;
    let arguments = [(&raw const *record).addr() as u64, (&raw const pattern).addr() as u64, 0];
    context.x[..5].copy_from_slice(&[SOFT_RESTART, payload, arguments[0], arguments[1], arguments[2]]);
    // SAFETY: the call goes to the payload, which comes back with a `brk`, or comes back to one itself.
    unsafe { context.enter() };
    // SAFETY: as above. Volatile: the payload has written it behind the compiler's back.
    let record = unsafe { (&raw const (*RECORDS.0.get())[index]).read_volatile() };
    let end = (&raw const guest_interrupts_end).addr() as u64;
    check!(
        context.ended_at(end),
        "CPU {index}: {what}, {source:?}: it ended at {:#x}, ESR {:#x}",
        context.pc,
        context.esr
    );
    check!(record.level == [expected; 3], "CPU {index}: {what}, {source:?}: CurrentEL {:#x?}", record.level);
    let daif = if expected == EL2 { [DAIF, 0, DAIF] } else { [DAIF, 0, 0] };
    check!(record.daif == daif, "CPU {index}: {what}, {source:?}: DAIF {:#x?}", record.daif);
    check!(record.pattern == [PATTERN; 2], "CPU {index}: {what}, {source:?}: EL1 has {:#x?}", record.pattern);
    take(what, index, source);
}

/// Looks at the first stay of this CPU at EL2.
fn check_first(index: usize) {
    let strange = STRANGE[index].load(Ordering::Relaxed);
    check!(strange == 0, "CPU {index}: its first stay at EL2 was not one, {strange} times");
    take("at EL2 for the first time", index, Source::Group1);
}

/// All restarts of a CPU, unless another one works alone.
fn work(index: usize) {
    let only = ONLY.load(Ordering::Acquire);
    if only != ALL && only != index as u64 {
        return;
    }
    let expected = if level::entry_level() == 2 { EL2 } else { EL1 };
    for source in Source::ALL {
        if gic::has(source) {
            for in_the_payload in [false, true] {
                restart(index, expected, source, in_the_payload);
            }
        }
    }
}

/// Runs the test.
///
/// # Panics
/// When an option is missing or there is no GIC.
pub fn run(start: &Start) {
    machine::read(start.tree);
    gic::prepare();
    if start.level == 2 {
        level::before_leaving_el2(at_el2);
        if machine().words().any(|word| word == "bare") {
            level::set_vectors(stub::vectors());
        }
    }
    settle();
    let expected = machine().number("level").expect("level=1 or level=2");
    check!(start.level == expected, "entered at EL{}, not at EL{expected}", start.level);
    let cpus = smp::start_all();
    if start.level == 1 {
        smp::on_all(gic::prepare_cpu);
    }
    println!("interrupts: {cpus} CPUs, entered at EL{}, {:?}", start.level, machine().gic);
    for source in Source::ALL {
        println!("interrupts: {source:?}, {:?}: {}", gic::line(source), if gic::has(source) { "yes" } else { "no" });
    }
    if start.level == 2 {
        smp::on_all(check_first);
    }
    for index in (0..cpus as u64).chain([ALL]) {
        ONLY.store(index, Ordering::Release);
        smp::on_all(work);
    }
    crate::report::finish("interrupts")
}
