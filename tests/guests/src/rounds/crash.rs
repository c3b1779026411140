//! What the guard of a crash kernel costs, and what a crash does: from the SOFT_RESTART, or from the first fetch of a
//! host at EL1, to the crash kernel's first instruction; the other CPUs stopped by the host itself, or stuck.
//!
//! Owns a Linux's data as far as Exeunt looks at them: the resource that names the memory of the crash kernel, in there
//! a core header as `kexec -p` leaves it, and a crash note for each CPU. Owns the two ends between which is counted. A
//! machine of one thread is expected, which gives all CPUs short turns: the count is of what all of them execute.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use guest_abi::stub::SOFT_RESTART;

use super::{Count, Extremes, ROUNDS, reenter, way_of_all};
use crate::code::END_IMMEDIATE;
use crate::conformance::landing;
use crate::cpu::{Context, DAIF, EC_BRK, EC_DATA_ABORT, EL0T, EL1H};
use crate::firmware::{self, AFFINITY_INFO, AFFINITY_OFF, PSCI_VERSION};
use crate::machine::{MAX_CPUS, machine};
use crate::panics::spin;
use crate::smp;

/// Bytes that the host keeps for its crash kernel, at the end of RAM: as `crashkernel=256M` has it.
const SIZE: u64 = 256 << 20;
/// The core header is so far from their end: kexec-tools put it behind all else.
const HEADER_FROM_END: u64 = 64 << 10;
/// The payload's x0.
const ARGUMENT: u64 = 0x2222;

/// `mrs x17, cntvct_el0`, `br x16`: the crash kernel.
const PAYLOAD: [u32; 2] = [0xd53b_e051, 0xd61f_0200];

/// Linux's `struct resource` (include/linux/ioport.h), as far as it says which memory is meant: `start`, `end`, `name`,
/// `flags`, `desc`.
#[repr(C, align(64))]
struct Resource([AtomicU64; 5]);

/// IORESOURCE_BUSY | IORESOURCE_SYSRAM | IORESOURCE_MEM.
const FLAGS: u64 = 0x8100_0200;
/// IORES_DESC_CRASH_KERNEL.
const DESC: u64 = 1;

static NAME: [u8; 13] = *b"Crash kernel\0";
static RESOURCE: Resource = Resource([const { AtomicU64::new(0) }; 5]);

/// Bytes that a CPU has for its note: an NT_PRSTATUS, an end, and as Linux allots it.
const NOTE: usize = 512;

#[repr(C, align(64))]
struct Note([AtomicU64; NOTE / 8]);

static NOTES: [Note; MAX_CPUS] = [const { Note([const { AtomicU64::new(0) }; NOTE / 8]) }; MAX_CPUS];

// The first two count from x18 to x17. At EL1: MMU off, as a Linux has it there, and to the address in x1.
global_asm!(
    ".pushsection .text.crash, \"ax\"",
    ".global guest_crash_by_call",
    "guest_crash_by_call:",
    "mrs x18, cntvct_el0",
    "hvc #0",
    "brk #{END}",
    ".global guest_crash_by_branch",
    "guest_crash_by_branch:",
    "mrs x9, sctlr_el1",
    "bic x9, x9, #1",
    "msr sctlr_el1, x9",
    "isb",
    "mov x0, x2",
    "mrs x18, cntvct_el0",
    "br x1",
    ".global guest_crash_store",
    "guest_crash_store:",
    "str x0, [x1]",
    "brk #{END}",
    ".global guest_crash_store_byte",
    "guest_crash_store_byte:",
    "strb w0, [x1]",
    "brk #{END}",
    ".popsection",
    ".pushsection .probes, \"ax\"",
    ".global guest_crash_user",
    "guest_crash_user:",
    "brk #{END}",
    ".popsection",
    END = const END_IMMEDIATE,
);

unsafe extern "C" {
    static guest_crash_by_call: u8;
    static guest_crash_by_branch: u8;
    static guest_crash_store: u8;
    static guest_crash_store_byte: u8;
    static guest_crash_user: u8;
}

fn region() -> u64 {
    machine().ram.end() - SIZE
}

fn put(address: u64, value: u64) {
    // SAFETY: RAM that the guest keeps for its crash kernel, and uses for nothing else; or the resource. Volatile,
    // since nobody in this program reads it.
    unsafe { (address as *mut u64).write_volatile(value) };
}

/// Writes what `kexec -p` leaves in the memory: the payload, and a core header with a note for each of `cpus`.
fn load(cpus: usize) {
    let header = region() + SIZE - HEADER_FROM_END;
    put(region(), u64::from(PAYLOAD[0]) | u64::from(PAYLOAD[1]) << 32);
    // `Elf64_Ehdr`: e_ident, e_type and what follows, e_phoff, e_phentsize, e_phnum.
    put(header, u64::from_le_bytes([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]));
    put(header + 16, 4 | 183 << 16 | 1 << 32);
    put(header + 32, 64);
    put(header + 48, 56 << 48);
    put(header + 56, cpus as u64);
    for (index, note) in NOTES[..cpus].iter().enumerate() {
        // `Elf64_Phdr`: PT_NOTE, p_offset, p_filesz.
        let entry = header + 64 + 56 * index as u64;
        put(entry, 4);
        put(entry + 8, (&raw const *note).addr() as u64);
        put(entry + 32, NOTE as u64);
    }
    // SAFETY: barriers have no effect on memory. What was written may be executed from here on.
    unsafe { asm!("dsb ish", "ic iallu", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Says as a Linux does where the memory is, and gives Exeunt the occasion to look. No array of the values: a copy of
/// it on the stack, which is in the image, would be another resource.
fn reserve() {
    let resource = (&raw const RESOURCE).addr() as u64;
    put(resource, region());
    put(resource + 8, region() + SIZE - 1);
    put(resource + 16, (&raw const NAME).addr() as u64);
    put(resource + 24, FLAGS);
    put(resource + 32, DESC);
    look();
}

/// What `struct pt_regs` has, as far as Exeunt looks: what user space had when it asked for a kernel to be loaded.
#[repr(C, align(64))]
struct Frame([AtomicU64; 48]);

static FRAME: Frame = Frame([const { AtomicU64::new(0) }; 48]);

/// Runs a probe until its exception; gives the class of that, and the ticks of all.
fn run(probe: &u8, x1: u64, x29: u64, level: u64) -> (u64, u64) {
    let mut context = Context::new(core::ptr::from_ref(probe).addr() as u64, level | DAIF);
    (context.x[1], context.x[29]) = (x1, x29);
    let before = read_register!("cntvct_el0");
    // SAFETY: the probes store into the crash kernel's memory at most, which nobody uses, and end with a `brk`.
    unsafe { context.enter() };
    (context.class(), read_register!("cntvct_el0") - before)
}

/// What the guard costs: to find the memory, to refuse a store, to open the memory for a load and to close it again, to
/// open a page for a panic. All that is around the exception to EL2 is taken off.
pub fn guard() {
    // SAFETY: the probes are code of this program.
    let (store, user) = unsafe { (&guest_crash_store, &guest_crash_user) };
    let frame = (&raw const FRAME).addr() as u64;
    let (_, floor) = run(store, frame, 0, EL1H);
    let (_, user_floor) = run(user, 0, 0, EL0T);
    let before = read_register!("cntvct_el0");
    reserve();
    println!("rounds: guard-find {}", read_register!("cntvct_el0") - before);

    let at = region() + 0x1000;
    let (class, refused) = run(store, at, 0, EL1H);
    check!(class == EC_DATA_ABORT, "the crash kernel's memory is not guarded: class {class:#x}");

    // x8 and `syscallno`: kexec_load; `pc`: where user space goes on; the last frame record is 0.
    put(frame + 8 * 8, 104);
    put(frame + 256, core::ptr::from_ref(user).addr() as u64);
    put(frame + 280, 104);
    let (class, opened) = run(store, at, frame + 304, EL1H);
    check!(class == EC_BRK, "a load is refused: class {class:#x}");
    let (class, open) = run(store, at + 0x10_0000, 0, EL1H);
    check!(class == EC_BRK && open.abs_diff(floor) < 16, "the memory is not open for a load: class {class:#x}, {open}");
    put(at, u64::from_le_bytes(*b"OSRELEAS"));
    put(at + 8, u64::from_le_bytes(*b"E=bare\n\0"));
    let (class, closed) = run(user, 0, 0, EL0T);
    check!(class == EC_BRK, "user space does not go on: class {class:#x}");
    let (class, _) = run(store, at, 0, EL1H);
    check!(class == EC_DATA_ABORT, "the memory stays open after a load: class {class:#x}");

    let (class, panicked) = run(store_byte(), at + 15, 0, EL1H);
    check!(class == EC_BRK, "a panic is refused: class {class:#x}");
    let of_all = [("wild", refused, floor), ("opens", opened, floor), ("closes", closed, user_floor)];
    for (name, ticks, floor) in of_all.into_iter().chain([("panics", panicked, floor)]) {
        println!("rounds: guard-{name} {}", ticks - floor);
    }
}

fn store_byte() -> &'static u8 {
    // SAFETY: as for the others.
    unsafe { &guest_crash_store_byte }
}

fn look() {
    let _ = firmware::psci(PSCI_VERSION, [0; 3]);
}

/// A crash of CPU 0. The payload comes back to EL1.
fn crash(index: usize, by_call: bool) -> Count {
    landing::prepare(index);
    let start = if by_call { &raw const guest_crash_by_call } else { &raw const guest_crash_by_branch };
    let mut context = Context::new(start.addr() as u64, EL1H | DAIF);
    context.x[..5].copy_from_slice(&[SOFT_RESTART, region(), ARGUMENT, 0, 0]);
    context.x[16] = landing::entry(index);
    let entries = landing::last(index).count;
    // SAFETY: the crash goes to the payload, which comes back with a `brk`, or comes back to one itself.
    unsafe { context.enter() };
    let landed = landing::last(index);
    let held = context.ended_at(landing::end()) && landed.count == entries + 1;
    check!(held, "the crash ended at {:#x}, ESR {:#x}, x0 {:#x}", context.pc, context.esr, context.x[0]);
    Count { ticks: context.x[17].wrapping_sub(context.x[18]), x: [landed.x[0], 0] }
}

static STUCK: AtomicUsize = AtomicUsize::new(0);
/// Whether this host makes calls.
static CALLS: AtomicBool = AtomicBool::new(false);
static TICKS: AtomicU64 = AtomicU64::new(0);
static ANSWER: AtomicU64 = AtomicU64::new(0);

fn crash_now() {
    let count = crash(0, CALLS.load(Ordering::Acquire));
    TICKS.store(count.ticks, Ordering::Relaxed);
    ANSWER.store(count.x[0], Ordering::Relaxed);
}

fn is_off(cpu: usize) -> bool {
    firmware::psci(AFFINITY_INFO[1], [machine().mpidrs()[cpu], 0, 0]) == AFFINITY_OFF
}

/// The host has stopped the other CPUs, as a Linux does.
fn stop(index: usize) {
    if index != 0 {
        smp::go_off();
    }
}

/// The others spin at EL1 with everything masked, and CPU 0 crashes. They go off in it.
fn among_stuck(index: usize) {
    if index != 0 {
        STUCK.fetch_add(1, Ordering::AcqRel);
        let mut context = Context::new(spin as *const () as u64, EL1H | DAIF);
        // SAFETY: the instructions write nothing. They have no end, and the CPU goes off in them.
        unsafe { context.enter() };
        check!(false, "CPU {index} came back from {:#x}, ESR {:#x}", context.pc, context.esr);
        return;
    }
    let others = smp::online() - 1;
    check!(smp::wait_for(|| STUCK.load(Ordering::Acquire) == others), "the others do not spin");
    crash_now();
    smp::others_are_off();
}

/// Crashes of CPU 0 among the others.
fn counted(name: &'static str, floor: u64, stuck: bool) {
    let cpus = machine().mpidrs().len();
    let mut extremes = Extremes::new(name, floor);
    for _ in 0..ROUNDS {
        for cpu in 1..cpus {
            smp::start(cpu);
        }
        for note in &NOTES {
            note.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        if stuck {
            STUCK.store(0, Ordering::Release);
            smp::on_all(among_stuck);
        } else {
            smp::on_all(stop);
            let off = smp::wait_for(|| (1..cpus).all(is_off));
            check!(off, "the others do not go off");
            crash_now();
        }
        extremes.take(Count { ticks: TICKS.load(Ordering::Relaxed), x: [ANSWER.load(Ordering::Relaxed), 0] }, ARGUMENT);
        for (cpu, note) in NOTES[..cpus].iter().enumerate() {
            let is_filled = note.0[0].load(Ordering::Relaxed) != 0;
            check!(is_filled == (stuck && cpu != 0), "{name}: the note of CPU {cpu}: {is_filled}");
            check!(cpu == 0 || is_off(cpu), "{name}: CPU {cpu} is not off");
        }
        if CALLS.load(Ordering::Acquire) {
            reenter(way_of_all());
        } else {
            // Exeunt has let go of the memory for the crash kernel, and finds it anew.
            look();
        }
    }
    extremes.print();
}

/// Both kinds, for a host that makes calls or one that does not.
pub fn count(floor: u64, calls: bool) {
    CALLS.store(calls, Ordering::Release);
    load(machine().mpidrs().len());
    reserve();
    counted("crash-stopped", floor, false);
    counted("crash-stuck", floor, true);
}
