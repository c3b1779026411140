//! The black box: what Exeunt writes down for whoever reads a dump, looks from inside, or starts after a reset.
//!
//! Owns the last 64 KiB of the 2 MiB, and what else the box takes before them. What is written, and how, is
//! `hypervisor::blackbox`'s; here is who reads the registers and where the memory is. None of it waits for anybody, so
//! that it can be called on every path, also on that of a panic. The host may have changed all of it while Exeunt was
//! away: nothing is read back that anything here depends on.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTPCT_EL0, CONTEXTIDR_EL1, ELR_EL1, ELR_EL2, ESR_EL1, ESR_EL2, FAR_EL1, FAR_EL2, HPFAR_EL2, MAIR_EL1,
    Readable, SCTLR_EL1, SP_EL0, SP_EL1, SPSR_EL1, SPSR_EL2, TCR_EL1, TPIDR_EL0, TPIDR_EL1, TTBR0_EL1, TTBR1_EL1,
    VBAR_EL1, VBAR_EL2, Writeable,
};
use guest_abi::blackbox::{CORE, PREVIOUS, REGISTERS, SIZE};
use guest_abi::vendor::{ABI_VERSION, CpuState};
use hypervisor::blackbox::{Beginning, Block, Cause, Facts, KEPT, Kind, Memory, Open, Place, Slot, Stop, Trace, cut};
use hypervisor::devicetree::Region;
use hypervisor::lifecycle::{EntryLevel, State};
use hypervisor::own_calls::EXEUNT_VERSION;
use hypervisor::own_calls::log::LogRing;
use hypervisor::virtual_el2::registers;
use spin::Once;

use crate::cpu::{self, PerCpu};
use crate::faults::fault_point;
use crate::frame::ExceptionFrame;
use crate::memory;

/// The core, at the end of the 2 MiB. No section of the image has it, and nobody clears it: a reset leaves what was
/// there.
fn core() -> &'static Memory {
    let place = core::ptr::with_exposed_provenance::<Memory>(address() as usize);
    // SAFETY: the linker script and `memory` leave it to this file, it is a multiple of its size, and EL2's stage 1
    // maps it as data for all of Exeunt's life, or the MMU is off. Atomics may hold whatever is there.
    unsafe { &*place }
}

/// Where the core is.
fn address() -> u64 {
    memory::reservation().end - SIZE as u64
}

/// How often the one before had started; 0 if there was none.
static LAST_STARTS: AtomicU32 = AtomicU32::new(0);

/// Where everything is, once the machine is known.
static PLACE: Once<Place> = Once::new();

/// The log in the box.
pub fn log() -> LogRing<'static> {
    core().log()
}

/// The keys of the registers that are counted.
static KEYS: [u32; REGISTERS] = hypervisor::blackbox::keys(&registers::ENCODINGS);

/// Begins a box in this memory. Before the first line of the log, on the boot CPU, before any other runs; with the MMU
/// off.
///
/// What a start before this one has left in the caches is written back before it is read. What is written here goes
/// past the caches: they have no line of it, neither before nor after, when the MMU goes on ([`settle`]).
pub fn begin() {
    forget_lines();
    if core().may_hold_a_box() {
        memory::clean(Region { start: address(), end: address() + CORE as u64 });
    }
    LAST_STARTS.store(core().begin(address()), Ordering::Relaxed);
}

/// Drops what the caches may have read meanwhile of what [`begin`] has written. Before the MMU goes on.
pub fn settle() {
    forget_lines();
    if last_starts().is_some() {
        memory::clean(Region { start: address(), end: address() + (PREVIOUS + CORE) as u64 });
    }
}

fn forget_lines() {
    for (offset, size) in Memory::BEGUN {
        memory::clean(Region { start: address() + offset as u64, end: address() + (offset + size) as u64 });
    }
}

/// Decides where everything is, and returns where the box begins, and the heap ends; nothing if there is no room.
pub fn place(cpus: usize, traced: bool) -> Option<u64> {
    let place = Place::new(memory::reservation(), memory::box_may_begin(cpus), cpus, traced)?;
    Some(PLACE.call_once(|| place).start)
}

/// All of the box; only the core before its place is known.
pub fn region() -> Region {
    let core = Region { start: address(), end: memory::reservation().end };
    PLACE.get().map_or(core, Place::region)
}

/// The block of a CPU with this affinity; the rest of it begins as zeros. Called once for each, when the place is
/// known.
#[cold]
#[inline(never)]
pub fn make_block(cpu: &PerCpu, mpidr: u64) {
    let Some(place) = PLACE.get() else { return };
    let (index, records) = (cpu.index(), place.trace_records as usize);
    let block = core::ptr::with_exposed_provenance_mut::<Block>(place.cpu_blocks as usize).wrapping_add(index);
    // SAFETY: `Place` has this room for the CPU within the box, which nobody else uses, aligned to 64 bytes. Zeros are
    // what a block begins as.
    let block = unsafe {
        block.write_bytes(0, 1);
        &*block
    };
    block.set_mpidr(mpidr);
    cpu.set_block(block, place.traces + (index * records * size_of::<Slot>()) as u64, records);
}

/// Writes the header: what the tools look for. When all CPUs have their blocks.
#[cold]
#[inline(never)]
pub fn publish(cpus: usize, entry: EntryLevel, options: &[u8]) {
    let Some(&place) = PLACE.get() else { return };
    core().name_registers(&KEYS);
    let starts = LAST_STARTS.load(Ordering::Relaxed);
    core().publish(
        address(),
        &Facts {
            exeunt: memory::image_base(),
            place,
            cpus: cpus as u16,
            starts: starts.saturating_add(1),
            frequency: CNTFRQ_EL0.get(),
            started: cpu::boot_cpu().started.load(Ordering::Relaxed),
            versions: [ABI_VERSION, EXEUNT_VERSION.to_bits()],
            entry_level: entry as u8,
            debug: cfg!(debug_assertions),
            options,
        },
    );
    event(Kind::Started, [u64::from(starts) + 1, 0]);
    if starts > 0 {
        event(Kind::FoundBox, [starts.into(), 0]);
    }
}

/// How often the start before this one had started in this memory, if its box was whole.
pub fn last_starts() -> Option<u32> {
    Some(LAST_STARTS.load(Ordering::Relaxed)).filter(|&starts| starts > 0)
}

/// Adds to the history, on this CPU.
#[cold]
#[inline(never)]
pub fn event(kind: Kind, values: [u64; 2]) {
    fault_point!("event");
    core().event(CNTPCT_EL0.get(), cpu::index() as u16, kind, values);
}

/// Notes what may make Exeunt leave: the control word.
#[cold]
#[inline(never)]
pub fn note_control(control: u32) {
    core().set_control(control);
}

/// Notes what Exeunt does on this CPU, in at most eight characters, and what its EL2 is.
pub fn crumb(cpu: &PerCpu, crumb: [u8; 8]) {
    let state = match cpu.life.state() {
        State::Outside => CpuState::Off,
        State::Stub => CpuState::Stub,
        State::Live => CpuState::Live,
        State::Leaving => CpuState::Leaving,
        State::Gone => CpuState::Gone,
    };
    crumb_as(cpu, crumb, state);
}

/// The same for a CPU whose EL2 is as good as in this state.
#[cold]
#[inline(never)]
pub fn crumb_as(cpu: &PerCpu, crumb: [u8; 8], state: CpuState) {
    let block = cpu.block();
    block.leave_crumb(CNTPCT_EL0.get(), crumb);
    let [departures, returns] = [&cpu.departures, &cpu.returns].map(|count| count.load(Ordering::Relaxed));
    block.set_state(state as u8, cpu.entered.load(Ordering::Relaxed), departures, returns);
}

/// Counts accesses to the register with this number.
pub fn count_register(number: usize, accesses: u32) {
    core().count_register(number, accesses);
}

/// Counts a store of the host's into the box.
pub fn count_ignored_store() -> u64 {
    core().count_ignored_store()
}

/// Counts a wild access of the host's, and says how many there are with this one.
#[cold]
#[inline(never)]
pub fn count_wild() -> u64 {
    core().count_wild()
}

/// Keeps the host's registers on this CPU, which handles an exit of its host's, because of `stop`.
#[cold]
#[inline(never)]
pub fn keep(cpu: &PerCpu, stop: Stop) {
    // SAFETY: this CPU's stack, which is mapped, and where its vectors store this at every exit. Plain numbers, of
    // which any value will do.
    let frame = unsafe { &*cpu.host_frame() };
    let exit = [ELR_EL2.get(), SPSR_EL2.get(), ESR_EL2.get(), FAR_EL2.get(), HPFAR_EL2.get()];
    keep_all(cpu, stop, &frame.x, exit);
}

/// The same for a CPU on which another exception has come since: PC, PSTATE and syndrome of its host are in `place`,
/// and its addresses are lost.
#[cold]
#[inline(never)]
pub fn keep_at(cpu: &PerCpu, stop: Stop, x: &[u64; 31], place: [u64; 3]) {
    let [pc, pstate, esr] = place;
    keep_all(cpu, stop, x, [pc, pstate, esr, 0, 0]);
}

fn keep_all(cpu: &PerCpu, stop: Stop, x: &[u64; 31], exit: [u64; 5]) {
    let mut registers = [0; KEPT];
    registers[..31].copy_from_slice(x);
    registers[31..36].copy_from_slice(&exit);
    registers[36..].copy_from_slice(&[
        SP_EL0.get(),
        SP_EL1.get(),
        SCTLR_EL1.get(),
        TTBR0_EL1.get(),
        TTBR1_EL1.get(),
        TCR_EL1.get(),
        MAIR_EL1.get(),
        VBAR_EL1.get(),
        ELR_EL1.get(),
        SPSR_EL1.get(),
        ESR_EL1.get(),
        FAR_EL1.get(),
        CONTEXTIDR_EL1.get(),
        TPIDR_EL1.get(),
        TPIDR_EL0.get(),
    ]);
    cpu.block().keep(CNTPCT_EL0.get(), stop, &registers);
}

/// Writes down why Exeunt dies, the first time.
#[cold]
#[inline(never)]
pub fn die(cause: Cause, frame: Option<&ExceptionFrame>, reason: fmt::Arguments) {
    let base = memory::image_base();
    let registers = frame.map_or([0; 5], |at| [at.esr, at.elr.wrapping_sub(base), at.far, at.spsr, at.sp]);
    core().die(CNTPCT_EL0.get(), cpu::index() as u16, cause, registers, &cut(reason));
    clean();
}

/// Writes down that there was an exception in the report of another.
#[cold]
#[inline(never)]
pub fn die_again() {
    core().die_again();
    clean();
}

/// Adds a return address, from the start of the image on, to what [`die`] has written.
#[cold]
#[inline(never)]
pub fn add_to_backtrace(number: usize, address: u64) {
    core().add_to_backtrace(number, address);
}

/// Writes the core back to memory: the machine may go off or be reset next, and its caches with it.
#[cold]
#[inline(never)]
pub fn clean() {
    memory::clean(Region { start: address(), end: address() + SIZE as u64 });
}

/// Begins the record of an exit on this CPU.
#[inline]
pub fn begin_trace(cpu: &'static PerCpu, record: &Beginning) -> Open<'static> {
    let (start, records) = cpu.ring();
    let start = core::ptr::with_exposed_provenance::<Slot>(start as usize);
    // SAFETY: what `make_block` has said of this CPU, which it has done before the host's first entry, and only exits
    // of the host's are traced. Atomics may hold whatever is there.
    let ring = unsafe { core::slice::from_raw_parts(start, records) };
    // SAFETY: this is an exit of the host's, so the host runs on this CPU.
    let block = unsafe { cpu.block_of_running_host() };
    Trace { block, written: &cpu.traced, ring }.begin(record)
}

/// CPUs that come up are traced.
static TRACING: AtomicBool = AtomicBool::new(false);

/// Addresses of the tables of vectors: without a trace, and with one.
static TABLES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Says which these are. Before the host runs.
pub fn set_tables(tables: [u64; 2]) {
    for (place, table) in TABLES.iter().zip(tables) {
        place.store(table, Ordering::Relaxed);
    }
}

/// Has the exits of this CPU traced, or no longer, and those of each that comes up from now on. That is another table
/// of vectors: whoever is not traced does not ask.
#[cold]
#[inline(never)]
pub fn set_tracing(tracing: bool) {
    TRACING.store(tracing, Ordering::Relaxed);
    core().set_tracing(tracing);
    event(Kind::Tracing, [tracing.into(), 0]);
    // What this CPU was asked for, whatever another one has been asked for meanwhile.
    use_table(tracing);
}

/// Has the exits of this CPU traced if those of CPUs that come up are.
pub fn follow_tracing() {
    use_table(TRACING.load(Ordering::Relaxed));
}

fn use_table(tracing: bool) {
    VBAR_EL2.set(TABLES[usize::from(tracing)].load(Ordering::Relaxed));
    barrier::isb(barrier::SY);
}

/// Whether the exits of this CPU are traced, and how many records are kept of each CPU.
pub fn tracing() -> (bool, u32) {
    let traced = VBAR_EL2.get() == TABLES[1].load(Ordering::Relaxed);
    (traced, PLACE.get().map_or(0, |place| place.trace_records))
}
