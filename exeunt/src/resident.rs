//! What assembly answers from: who may make Exeunt leave, the host's RAM, the CPUs, and the mailbox of those that were
//! left by the doorbell.
//!
//! Owns these four. The vectors read the first, the resident stub and the table of REENTER read all of them with the
//! MMU off, so that each is cleaned to the point of coherency when it is written.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use boot::stub::{CpuList, HostRam, MAX_CPUS, MAX_RANGES};
use guest_abi::vendor::{Policy, RESTART_CRASH, RESTART_KEXEC};
use hypervisor::devicetree::{Platform, Region};
use hypervisor::features::Gic;
use hypervisor::lifecycle::EntryLevel;
use hypervisor::own_calls::control::Control;
use hypervisor::psci;
use log::LevelFilter;

use crate::machine::Machine;
use crate::memory;

/// What `vectors` looks at before it answers a call by itself: one doubleword, control in its low half.
#[repr(C, align(8))]
pub struct Fast {
    /// Who may leave.
    pub control: Control,
    /// [`FAST_CALLS`] and the others.
    pub flags: AtomicU32,
}

/// Who may make Exeunt leave, and what `vectors` may answer.
#[unsafe(export_name = "exeunt_fast")]
pub static FAST: Fast = Fast { control: Control::new(Policy::Leave, Policy::Leave), flags: AtomicU32::new(0) };

/// [`Fast::flags`]: calls may be answered in `vectors`. Not while each gets a line in the log.
pub const FAST_CALLS: u32 = 1 << 0;
/// The CPU interface of the GIC is in system registers: ICH_VTR_EL2 is there.
pub const FAST_ICH_VTR: u32 = 1 << boot::stub::HAS_ICH_VTR;
/// The host was entered at virtual EL2: it has vectors to set.
pub const FAST_VECTORS: u32 = 1 << 2;

/// Prepares what `vectors` looks at. Before the host runs on any CPU.
pub fn prepare_calls(machine: &Machine, policy: Policy) {
    // Cannot fail: nothing is locked yet.
    let _ = FAST.control.set_policies(RESTART_KEXEC | RESTART_CRASH, policy);
    let flag = |set, bit| if set { bit } else { 0 };
    let flags = flag(log::max_level() < LevelFilter::Debug, FAST_CALLS)
        | flag(machine.gic == Gic::V3, FAST_ICH_VTR)
        | flag(machine.entry == EntryLevel::VirtualEl2, FAST_VECTORS);
    FAST.flags.store(flags, Ordering::Release);
    // The resident stub reads the flags with the MMU off.
    let start = core::ptr::from_ref(&FAST).addr() as u64;
    memory::clean(Region { start, end: start + size_of::<Fast>() as u64 });
}

/// [`boot::stub::Mailbox`], which a program of the host's writes to when Exeunt has left: round, back, CPUs, and 0. It
/// shares its cache lines with nothing, and of what the caches hold only whole words count that Exeunt has written.
#[repr(C, align(256))]
struct Mailbox([AtomicU64; 32]);

const _: () = assert!(size_of::<boot::stub::Mailbox>() == 32);

#[unsafe(export_name = "exeunt_mailbox")]
static MAILBOX: Mailbox = Mailbox([const { AtomicU64::new(0) }; 32]);

/// The number of the last LEAVE by the doorbell. Not in the mailbox, to which the host may write.
static ROUND: AtomicU64 = AtomicU64::new(0);

/// Begins a round: from now on no CPU comes back that was left in an earlier one. The mailbox is about to be open to
/// the host, since Exeunt leaves `cpus` CPUs, each of which may come back in this round.
pub fn begin_round(cpus: u16) {
    let round = ROUND.fetch_add(1, Ordering::AcqRel) + 1;
    let start = core::ptr::from_ref(&MAILBOX).addr() as u64;
    let end = start + size_of::<boot::stub::Mailbox>() as u64;
    // A line that was read into the cache is not to be written over what the host has stored there since.
    memory::clean(Region { start, end });
    for (place, value) in MAILBOX.0.iter().zip([round, 0, cpus.into(), 0]) {
        place.store(value, Ordering::Release);
    }
    memory::clean(Region { start, end });
}

/// The host's RAM, for the resident stub.
#[unsafe(export_name = "exeunt_host_ram")]
static HOST_RAM: Shared<HostRam> = Shared(UnsafeCell::new(HostRam([[0; 2]; MAX_RANGES + 1])));

/// The CPUs, for the table of REENTER.
#[unsafe(export_name = "exeunt_cpu_list")]
static CPU_LIST: Shared<CpuList> = Shared(UnsafeCell::new(CpuList([[0; 2]; MAX_CPUS + 1])));

// Exeunt's 2 MiB cut one range of RAM in two, at most; and these two are the same.
const _: () = assert!(MAX_RANGES > Platform::MAX_MEMORY && MAX_CPUS == psci::MAX_CPUS);

/// What [`prepare`] writes once.
#[repr(transparent)]
struct Shared<T>(UnsafeCell<T>);

// SAFETY: written once, by the boot CPU, before any other CPU runs and before any CPU can come to the resident stub.
unsafe impl<T> Sync for Shared<T> {}

/// Tells the resident stub which RAM is the host's, and the table of REENTER which CPUs there are: affinity and
/// structure of each.
///
/// # Safety
/// Called once, by the boot CPU, before any other runs.
pub unsafe fn prepare(memory: &[Region], cpus: impl Iterator<Item = [u64; 2]>) {
    // SAFETY: promised by the caller.
    let list = unsafe { &mut (*CPU_LIST.0.get()).0 };
    let mut known = 0;
    for (place, cpu) in list[..MAX_CPUS].iter_mut().zip(cpus) {
        *place = cpu;
        known += 1;
    }
    list[known] = [u64::MAX, 0];
    let start = CPU_LIST.0.get().addr() as u64;
    memory::clean(Region { start, end: start + (known as u64 + 1) * 16 });
    let own = memory::reservation();
    // The larger part first: the search ends sooner.
    let parts = memory.iter().flat_map(|ram| {
        if ram.contains(own) { [[own.end, ram.end], [ram.start, own.start]] } else { [[ram.start, ram.end], [0, 0]] }
    });
    // SAFETY: promised by the caller.
    let ranges = unsafe { &mut (*HOST_RAM.0.get()).0 };
    for (place, part) in ranges[..MAX_RANGES].iter_mut().zip(parts.filter(|[start, end]| start < end)) {
        *place = part;
    }
    let start = HOST_RAM.0.get().addr() as u64;
    memory::clean(Region { start, end: start + size_of::<HostRam>() as u64 });
}
