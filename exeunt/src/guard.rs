//! The guard of the host's crash kernel, with stage 2.
//!
//! Owns the one [`Guard`], and what is known of the memory for whoever must not wait. What becomes of a fault, and how
//! a Linux's data say where the memory is, is decided in `hypervisor::guard`.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTPCT_EL0, ELR_EL2, FAR_EL2, HPFAR_EL2, Readable, SCTLR_EL1, SPSR_EL2, TTBR1_EL1, VBAR_EL1,
};
use hypervisor::blackbox::Kind;
use hypervisor::devicetree::Region;
use hypervisor::guard::linux::{CrashKernel, Kernel};
use hypervisor::guard::loaded::{self, Start};
use hypervisor::guard::{self, Caller, Fault, Guard, Note, Ram, Verdict, Wild, World};
use hypervisor::inject;
use hypervisor::options;
use hypervisor::paging::Error;
use hypervisor::paging::stage2::Attributes;
use hypervisor::placement::HostRam;
use hypervisor::ratelimit::RateLimit;
use hypervisor::syndrome::{Abort, FaultKind};
use hypervisor::trap;
use log::{debug, info, warn};
use spin::mutex::SpinMutex;

use crate::cpu::{self, PerCpu};
use crate::stage2::{self, Stage2};
use crate::{blackbox, memory};

/// A kernel that begins is looked at. The first one is not if its command line has no `crashkernel=`; what those after
/// it are started with nobody has told Exeunt.
static LOOKS: AtomicBool = AtomicBool::new(false);

/// `guard=off`.
static IS_OFF: AtomicBool = AtomicBool::new(false);

/// Something was guarded and is not any more, and no kernel has begun since.
static LOOKS_AGAIN: AtomicBool = AtomicBool::new(false);

/// CNTPCT_EL0 from which on a kernel that asks for PSCI's version can be another one than that which was looked at.
static NEXT_LOOK: AtomicU64 = AtomicU64::new(0);

/// No kernel begins so soon after another one has: a tenth of a second. A host that asks all the time has the search,
/// of some hundred thousand instructions, once in that.
const LOOKS_PER_SECOND: u64 = 10;

/// It has guarded something, now or before.
static IS_ACTIVE: AtomicBool = AtomicBool::new(false);

/// The regions of the crash kernel's memory, packed, for whoever must not wait.
static REGIONS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Where the crash kernel that was loaded last begins; 0 if that is not known.
static ENTRY: AtomicU64 = AtomicU64::new(0);

/// Locked in [`stage2::changing`] only, so that nobody waits for it.
static GUARD: SpinMutex<Guard> = SpinMutex::new(Guard::new());

/// The host's RAM and translation, as this CPU sees them.
struct Host<'a> {
    cpu: &'static PerCpu,
    ram: &'a HostRam<'static>,
    stage2: Stage2,
    /// The host's x29.
    frame: u64,
}

impl Ram for Host<'_> {
    fn word(&self, address: u64) -> Option<u64> {
        memory::host_word(self.cpu, self.ram, address)
    }

    fn position(&self, start: u64, word: u64) -> Option<u64> {
        if !start.is_multiple_of(16) || !self.ram.is_open(start) {
            return None;
        }
        // SAFETY: this CPU, and the host's RAM.
        unsafe { memory::find_in_host(self.cpu, start, word) }.ok()?
    }

    fn has(&self, region: Region) -> bool {
        self.ram.has(region)
    }
}

impl World for Host<'_> {
    fn set(&mut self, region: Region, attributes: Attributes) -> Result<(), Error> {
        self.stage2.set(region.start..region.end, attributes)
    }

    fn leaf(&self, address: u64) -> Option<(Region, Attributes)> {
        let (range, attributes) = self.stage2.leaf(address)?;
        Some((Region { start: range.start, end: range.end }, attributes))
    }

    fn caller(&self) -> Caller {
        let word = |address| self.word(stage2::host_ipa(address)?);
        match guard::caller::loads(self.frame, word) {
            Some(load) => Caller::Loads { returns_to: stage2::user_ipa(load.returns_to), entry: load.entry },
            None => Caller::Other,
        }
    }
}

/// Says what the guard is to do, and whether the first kernel asks for memory for a crash kernel. Before the host runs.
pub fn set_up(option: options::Guard, first_asks: bool) {
    LOOKS.store(first_asks, Ordering::Relaxed);
    IS_OFF.store(option == options::Guard::Off, Ordering::Relaxed);
    if option == options::Guard::Count {
        GUARD.lock().set_wild(Wild::Allow);
    }
}

/// Whether there is anything to ask it at a fault.
pub fn is_active() -> bool {
    IS_ACTIVE.load(Ordering::Relaxed)
}

/// Does something with the guard, and tells everybody what it guards afterwards. Nothing while the tables are hidden.
fn with_guard<T>(change: impl FnOnce(&mut Guard) -> T) -> Option<T> {
    stage2::changing(|| {
        // Whoever else has it died with it, and nobody comes here any more: that CPU has the tables' lock too.
        let mut guard = GUARD.try_lock()?;
        let guarded = guard.regions() != [None; 2];
        let result = change(&mut guard);
        if guarded && guard.regions() == [None; 2] {
            LOOKS_AGAIN.store(true, Ordering::Relaxed);
        }
        for (place, region) in REGIONS.iter().zip(guard.regions()) {
            place.store(guard::pack(region), Ordering::Release);
        }
        ENTRY.store(guard.entry().unwrap_or(0), Ordering::Release);
        Some(result)
    })
    .flatten()
}

/// A kernel begins on this CPU, or asks once more: a Linux with debugfs does when `/sys/kernel/debug/psci` is read. It
/// has the memory for its crash kernel already, if it is a Linux.
#[cold]
#[inline(never)]
pub fn kernel_begins(ram: &HostRam<'static>, stage2: Stage2) {
    let looks = !IS_OFF.load(Ordering::Relaxed) && LOOKS.swap(true, Ordering::Relaxed);
    if looks && (LOOKS_AGAIN.load(Ordering::Relaxed) || CNTPCT_EL0.get() >= NEXT_LOOK.load(Ordering::Relaxed)) {
        keep_or_look(&mut Host { cpu: cpu::current(), ram, stage2, frame: 0 });
    }
}

/// Keeps what is guarded if the kernel that runs is the one that has it, and looks where it has that otherwise.
fn keep_or_look(host: &mut Host) {
    let ttbr1 = TTBR1_EL1.get();
    let guards = crash_regions() != [None; 2];
    if !guards || with_guard(|guard| guard.come_back(ttbr1, host)) == Some(false) {
        look_and_guard(host);
    }
    NEXT_LOOK.store(CNTPCT_EL0.get() + CNTFRQ_EL0.get() / LOOKS_PER_SECOND, Ordering::Relaxed);
}

/// Looks where the kernel that runs has its crash kernel, and guards that.
#[cold]
#[inline(never)]
fn look_and_guard(host: &mut Host) {
    let started = CNTPCT_EL0.get();
    let found = look(host);
    let ticks = CNTPCT_EL0.get().wrapping_sub(started);
    let ttbr1 = TTBR1_EL1.get();
    let result = with_guard(|guard| {
        let Some(kernel) = found else {
            guard.lift(host);
            return Ok(());
        };
        IS_ACTIVE.store(true, Ordering::Relaxed);
        guard.begin(kernel, ttbr1, host)
    });
    LOOKS_AGAIN.store(result.is_none(), Ordering::Relaxed);
    if let Some(Err(error)) = result {
        limited(|| warn!("guard: {error}: the memory of the host's crash kernel is not guarded"));
    }
    let regions = crash_regions();
    for region in regions.iter().flatten() {
        limited(|| info!("guard: {region}, which the host keeps for a crash kernel (found in {ticks} ticks)"));
    }
    if regions == [None; 2] {
        debug!("guard: the host keeps no memory for a crash kernel ({ticks} ticks)");
    }
}

/// Where the kernel that runs on this CPU has its crash kernel. VBAR_EL1 is an address in its text.
#[inline(never)]
fn look(host: &Host) -> Option<CrashKernel> {
    let vectors = VBAR_EL1.get();
    Kernel::around(stage2::host_ipa(vectors)?, vectors, host)?.crash_kernel(host)
}

/// This CPU is under Exeunt again, with its registers of EL1 as they were: what is guarded has to be so still.
///
/// Not if the guard was lifted and no kernel has begun since. That is one that has come back from a disk, and it does
/// not have its copy of the vmcoreinfo any more, by which its panic would be known from a wild write.
#[cold]
#[inline(never)]
pub fn come_back(cpu: &'static PerCpu, ram: &HostRam<'static>, stage2: Stage2) {
    if IS_OFF.load(Ordering::Relaxed) || !is_active() || LOOKS_AGAIN.load(Ordering::Relaxed) {
        return;
    }
    keep_or_look(&mut Host { cpu, ram, stage2, frame: 0 });
}

/// Nothing is guarded any more: another kernel begins.
#[cold]
#[inline(never)]
pub fn lift(cpu: &'static PerCpu, ram: &HostRam<'static>, stage2: Stage2) {
    if is_active() {
        with_guard(|guard| guard.lift(&mut Host { cpu, ram, stage2, frame: 0 }));
    }
}

/// Decides what becomes of an abort of the host's that nobody else has answered; `frame` is its x29.
#[cold]
#[inline(never)]
pub fn fault(cpu: &'static PerCpu, ram: &HostRam<'static>, stage2: Stage2, frame: u64, abort: Abort) -> Verdict {
    let far = FAR_EL2.get();
    let host = &mut Host { cpu, ram, stage2, frame };
    let walks = abort.on_stage1_walk();
    match abort.fault().kind {
        // Of a descriptor that was about to change when the host came by: it has changed when the lock is there.
        FaultKind::Translation => {
            let ipa = trap::fault_ipa(HPFAR_EL2.get());
            let is_there = stage2::changing(|| stage2.leaf(ipa).is_some());
            return if is_there == Some(false) { Verdict::Others } else { Verdict::Again };
        }
        FaultKind::Permission if walks || abort.is_instruction() || abort.is_write() => {}
        _ => return Verdict::Others,
    }
    let address = if walks {
        Some(trap::fault_ipa(HPFAR_EL2.get()))
    } else if cpu.in_window() {
        Some(far)
    } else {
        stage2::host_ipa(far).or_else(|| stage2::user_ipa(far))
    };
    // Stage 1 has changed, or a walk of it has met a descriptor that is about to change.
    let Some(address) = address else { return Verdict::Again };
    let fault = Fault {
        cpu: cpu.index() as u16,
        address,
        fetches: abort.is_instruction() && !walks,
        el0: inject::is_el0(SPSR_EL2.get()) && !cpu.in_window(),
        native: !cpu.in_window(),
        stage1: SCTLR_EL1.is_set(SCTLR_EL1::M),
        ttbr1: TTBR1_EL1.get(),
    };
    let Some((verdict, note)) = with_guard(|guard| guard.fault(&fault, host)) else { return Verdict::Again };
    if let Some(note) = note {
        tell(cpu, note);
    }
    verdict
}

#[cold]
#[inline(never)]
fn tell(cpu: &PerCpu, note: Note) {
    let (index, pc) = (cpu.index(), ELR_EL2.get());
    match note {
        // With an event as with a line: one for each page would push out all others.
        Note::Allowed(_) => {
            let (far, number) = (FAR_EL2.get(), blackbox::count_wild());
            limited(|| {
                blackbox::event(Kind::Wild, [pc, far]);
                warn!("guard: CPU {index} at {pc:#x} writes to {far:#x}, crash kernel memory ({number}): {note}");
            });
        }
        Note::NoTables(_) => limited(|| warn!("guard: CPU {index} at {pc:#x}: {note}")),
        note if note.is_usual() => debug!("guard: CPU {index} at {pc:#x}: {note}"),
        _ => limited(|| info!("guard: CPU {index} at {pc:#x}: {note}")),
    }
}

/// Says something that a host can have said as often as it likes. Its other faults shall not be a reason that nothing
/// is said of this.
pub fn limited(say: impl FnOnce()) {
    static LIMIT: RateLimit = RateLimit::new();
    trap::limited_by(&LIMIT, CNTPCT_EL0.get(), CNTFRQ_EL0.get(), "lines of the guard's", say);
}

/// The memory that the host keeps for its crash kernel, as far as is known: at most two regions, of which one is below
/// 4 GiB for devices that reach no further. None once the crash kernel runs.
pub fn crash_regions() -> [Option<Region>; 2] {
    REGIONS.each_ref().map(|region| guard::unpack(region.load(Ordering::Acquire)))
}

/// How the crash kernel that is loaded is entered.
///
/// # Errors
/// Nobody knows.
#[cold]
#[inline(never)]
pub fn loaded(cpu: &'static PerCpu, ram: &HostRam<'static>, stage2: Stage2) -> Result<Start, loaded::Error> {
    match ENTRY.load(Ordering::Acquire) {
        0 => loaded::find(crash_regions(), &Host { cpu, ram, stage2, frame: 0 }),
        entry => Ok(Start { entry, tree: 0 }),
    }
}

/// Whether there is crash kernel at `entry`, or what runs before it.
pub fn is_crash_kernel(entry: u64) -> bool {
    crash_regions().iter().flatten().any(|region| region.has(entry))
}
