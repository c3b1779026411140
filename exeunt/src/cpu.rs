//! What Exeunt keeps for each CPU, and how a CPU finds its own.
//!
//! TPIDR_EL2 holds the address of the CPU's [`PerCpu`] from its first instructions at EL2 on: a static one for the boot
//! CPU, one in the heap for each other. None is ever freed.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::registers::{CurrentEL, Readable, TPIDR_EL2};
use boot::CpuBoot;
use hypervisor::blackbox::Block;
use hypervisor::counters::{Counters, Exit};
use hypervisor::features::{IdRegisters, Units};
use hypervisor::lifecycle::{EntryLevel, LifeCycle};
use hypervisor::panic_request::Request;
use hypervisor::psci;
use hypervisor::rescue::Point;
use hypervisor::virtual_el2::VirtualEl2;
use hypervisor::watchdog::Watch;

use crate::frame::{ExceptionFrame, HostFrame};
use crate::registers;

/// The most CPUs that Exeunt has room for.
pub const MAX_CPUS: usize = psci::MAX_CPUS;

/// The descriptors of a CPU's windows, through which it looks at the host's RAM: which page which shows is `memory`'s
/// business.
pub struct Windows(AtomicU64);

impl Windows {
    /// Says where the descriptors begin. Before the CPU looks through them.
    pub fn place(&self, address: u64) {
        self.0.store(address, Ordering::Relaxed);
    }

    fn descriptor(&self, window: usize) -> *mut u64 {
        core::ptr::with_exposed_provenance_mut::<u64>(self.0.load(Ordering::Relaxed) as usize).wrapping_add(window)
    }

    /// The descriptor of a window, 0 where it shows nothing.
    pub fn shown(&self, window: usize) -> u64 {
        // SAFETY: descriptors of EL2's own tables, which only this CPU changes; `memory` has set their address before
        // the host runs.
        unsafe { self.descriptor(window).read_volatile() }
    }

    /// Writes the descriptor of a window.
    ///
    /// # Safety
    /// The windows are this CPU's, and it does what the architecture asks for between two descriptors.
    pub unsafe fn set(&self, window: usize, descriptor: u64) {
        // SAFETY: as for `shown`, and promised by the caller.
        unsafe { self.descriptor(window).write_volatile(descriptor) };
    }
}

/// Everything that belongs to one CPU. Other CPUs read its counters and write nothing.
///
/// Aligned so that no two CPUs' share a cache line, and that its size is a multiple of what [`PerCpu::place`] writes in
/// a round.
#[repr(C, align(64))]
pub struct PerCpu {
    /// What `boot` reads with the MMU off; first, because the address of this structure is what PSCI hands over.
    boot: UnsafeCell<CpuBoot>,
    /// Registers at an exception from EL2, for the panic. Written by `vectors`.
    exception: UnsafeCell<ExceptionFrame>,
    /// Where the host goes on if Exeunt dies here: pc, pstate, esr and check, then x, of [`Point`]. The check is 0
    /// while there is none. `frame` writes it at each exit and takes it back at the return.
    point: [AtomicU64; 8],
    /// VBAR_EL2 as the host has set it, 0 if it has not, as far as [`Self::with_virtual_el2`] has heard.
    host_vectors: AtomicU64,
    /// What the host has given to SET_VECTORS, plus 1, until [`Self::with_virtual_el2`] hears of it; else 0. `vectors`
    /// writes it.
    new_vectors: AtomicU64,
    /// Not 0 if EL2 would run vectors that are not the host's own stub's, or if that is not known yet. Behind
    /// `new_vectors`, for one store to both.
    has_vectors: AtomicU64,
    /// Where a host that is in virtual EL2 was entered there, in the words of `point`; the check is 0 at any other
    /// time, and while virtual EL2 answers a call of EL1's.
    begin: [AtomicU64; 8],
    /// Position in the device tree's list of CPUs.
    index: AtomicUsize,
    /// What the CPU says of itself, read once.
    ids: UnsafeCell<IdRegisters>,
    /// The units that the host has asked for ([`Units`]). Only this CPU uses it.
    opened: AtomicU8,
    /// The bit of its interface of a GICv2, 0 if that is not known.
    pub interface: AtomicU8,
    /// Address of what the black box has of this CPU, its counters among it; 0 while it has nothing.
    block: AtomicU64,
    /// Address of the ring of this CPU's trace, and how many records it has.
    ring: [AtomicU64; 2],
    /// Records that this CPU has written there.
    pub traced: AtomicU64,
    /// Whose EL2 is on this CPU.
    pub life: LifeCycle,
    /// Whether the host is to panic on it.
    pub panic_request: Request,
    /// The host's virtual EL2. Only this CPU uses it.
    virtual_el2: UnsafeCell<VirtualEl2>,
    /// The level at which the host was entered on it last (`EntryLevel`), 0 if it never was.
    pub entered: AtomicU8,
    /// The watchdog has its ticks on this CPU, from a GIC of this generation; else 0.
    pub watched: AtomicU8,
    /// CNTHP_CVAL_EL2, which `vectors` writes over at a guarded access that has failed.
    pub tick_due: AtomicU64,
    /// The watchdog's. Only this CPU uses it.
    watch: UnsafeCell<Watch>,
    /// EL2 was lent to the host's KVM.
    pub lent: AtomicBool,
    /// See [`Self::comes_up`].
    arriving: AtomicBool,
    /// Exeunt has died on it since it was set up last.
    pub died: AtomicBool,
    /// The host is in virtual EL2: as [`VirtualEl2`] has it, for other CPUs to read and for a quick look.
    in_window: AtomicBool,
    /// The instruction that virtual EL2 has read last, to execute it in the host's stead: for the record of a traced
    /// exit, which makes it 0 before. That is no instruction which is executed so.
    pub instruction: AtomicU32,
    /// How often Exeunt left it.
    pub departures: AtomicU32,
    /// How often it came back by REENTER.
    pub returns: AtomicU32,
    /// CNTPCT_EL0 at this CPU's first instruction in Exeunt, when it was started last.
    pub started: AtomicU64,
    /// Through which it looks at the host's RAM.
    pub windows: Windows,
}

// SAFETY: `boot` is written before its CPU or any other runs with it and read after; `exception`, `ids`, `watch` and
// `virtual_el2` belong to the CPU itself; the rest is atomic.
unsafe impl Sync for PerCpu {}

/// The boot CPU's structure. It exists before there is a heap.
#[unsafe(export_name = "exeunt_boot_cpu")]
static BOOT_CPU: PerCpu = PerCpu::new();

/// The structure of a CPU that breaks and has lost its own.
#[unsafe(export_name = "exeunt_spare_cpu")]
static SPARE: PerCpu = PerCpu::new();

impl PerCpu {
    /// What each begins as: zeros and nothing else. That is why the image holds none of the two above, which its tests
    /// look at, and why [`Self::place`] may take zeros for it.
    const fn new() -> Self {
        Self {
            boot: UnsafeCell::new(CpuBoot::NONE),
            exception: UnsafeCell::new(ExceptionFrame::NONE),
            point: [const { AtomicU64::new(0) }; 8],
            begin: [const { AtomicU64::new(0) }; 8],
            index: AtomicUsize::new(0),
            ids: UnsafeCell::new(IdRegisters::UNKNOWN),
            opened: AtomicU8::new(Units::NONE.to_bits()),
            interface: AtomicU8::new(0),
            block: AtomicU64::new(0),
            ring: [const { AtomicU64::new(0) }; 2],
            traced: AtomicU64::new(0),
            life: LifeCycle::new(),
            panic_request: Request::new(),
            virtual_el2: UnsafeCell::new(VirtualEl2::new()),
            entered: AtomicU8::new(0),
            watched: AtomicU8::new(0),
            tick_due: AtomicU64::new(0),
            watch: UnsafeCell::new(Watch::NOTHING),
            lent: AtomicBool::new(false),
            arriving: AtomicBool::new(false),
            died: AtomicBool::new(false),
            in_window: AtomicBool::new(false),
            instruction: AtomicU32::new(0),
            host_vectors: AtomicU64::new(0),
            new_vectors: AtomicU64::new(0),
            has_vectors: AtomicU64::new(0),
            departures: AtomicU32::new(0),
            returns: AtomicU32::new(0),
            started: AtomicU64::new(0),
            windows: Windows(AtomicU64::new(0)),
        }
    }

    /// Makes the structure of a CPU that is not running, at `place`.
    ///
    /// # Safety
    /// `place` is memory for one `PerCpu`, aligned, and used for nothing else from now on.
    pub unsafe fn place(place: *mut Self, index: usize, settings: CpuBoot) -> &'static Self {
        let settings = settings.seal(place.expose_provenance() as u64);
        // In half the instructions of a copy of `SPARE`, and without the detour over the stack that a value would take.
        // SAFETY: promised by the caller: `place` is memory for a structure, whose size is a multiple of its alignment,
        // 64. Zeros are what `new` makes. The structure is complete before a reference to it exists.
        unsafe {
            core::arch::asm!(
                "2: stp xzr, xzr, [{at}, #16]",
                "stp xzr, xzr, [{at}, #32]",
                "stp xzr, xzr, [{at}, #48]",
                "stp xzr, xzr, [{at}], #64",
                "cmp {at}, {end}",
                "b.lo 2b",
                at = inout(reg) place => _,
                end = in(reg) place.wrapping_add(1),
                options(nostack),
            );
            (*place).boot.get().write(settings);
            (*place).index.store(index, Ordering::Relaxed);
            &*place
        }
    }

    /// Address of what `boot` reads, which is that of the structure.
    pub fn address(&self) -> u64 {
        core::ptr::from_ref(self).expose_provenance() as u64
    }

    /// What this CPU turns its MMU on with.
    pub fn boot_settings(&self) -> CpuBoot {
        // SAFETY: written before any other CPU runs, never after (see `Sync`).
        unsafe { *self.boot.get() }
    }

    /// Position in the device tree's list of CPUs.
    pub fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed)
    }

    /// What this CPU says of itself. It is for itself to ask; the first time its registers are read.
    pub fn ids(&self) -> &IdRegisters {
        let ids = self.ids.get();
        // SAFETY: only its own CPU comes here, and until the registers are known it has no reference to them.
        unsafe {
            if !(*ids).are_known() {
                registers::identify(&mut *ids);
            }
            &*ids
        }
    }

    /// Whether it is the one that started Exeunt.
    pub fn is_boot(&self) -> bool {
        core::ptr::eq(self, &raw const BOOT_CPU)
    }

    /// What the black box has of this CPU.
    pub fn block(&self) -> &'static Block {
        /// Of CPUs that never run the host.
        static NOBODYS: Block = Block::new();
        let address = self.block.load(Ordering::Relaxed) as usize;
        // SAFETY: the address of a block that is never freed, or 0.
        unsafe { core::ptr::with_exposed_provenance::<Block>(address).as_ref() }.unwrap_or(&NOBODYS)
    }

    /// [`Self::block`], without the look whether there is one.
    ///
    /// # Safety
    /// The host runs on this CPU.
    #[inline]
    pub unsafe fn block_of_running_host(&self) -> &'static Block {
        // SAFETY: `set_block` comes before the host's first entry.
        unsafe { &*core::ptr::with_exposed_provenance::<Block>(self.block.load(Ordering::Relaxed) as usize) }
    }

    /// Says where that is, where the ring of the CPU's trace is, and how many records that has. Before the host runs on
    /// this CPU.
    pub fn set_block(&self, block: &'static Block, ring: u64, records: usize) {
        self.block.store(core::ptr::from_ref(block).expose_provenance() as u64, Ordering::Relaxed);
        self.ring[0].store(ring, Ordering::Relaxed);
        self.ring[1].store(records as u64, Ordering::Relaxed);
    }

    /// Address of the ring of the CPU's trace, and how many records it has; zeros before [`Self::set_block`].
    #[inline]
    pub fn ring(&self) -> (u64, usize) {
        let [start, records] = self.ring.each_ref().map(|word| word.load(Ordering::Relaxed));
        (start, records as usize)
    }

    /// The units that the host has asked for.
    pub fn opened(&self) -> Units {
        Units::from_bits(self.opened.load(Ordering::Relaxed))
    }

    /// Records which these are.
    pub fn set_opened(&self, opened: Units) {
        self.opened.store(opened.to_bits(), Ordering::Relaxed);
    }

    /// Whether the host is in virtual EL2 on this CPU.
    pub fn in_window(&self) -> bool {
        self.in_window.load(Ordering::Relaxed)
    }

    /// VBAR_EL2 as the host has set it, 0 if it has not; for other CPUs to read.
    pub fn host_vectors(&self) -> u64 {
        match self.new_vectors.load(Ordering::Relaxed) {
            0 => self.host_vectors.load(Ordering::Relaxed),
            new => new & !1,
        }
    }

    /// Whether EL2 would run vectors that the host has installed and that are not its own stub's, and virtual EL2 can:
    /// the host was entered there. For this CPU itself.
    pub fn has_vectors(&self) -> bool {
        self.entered.load(Ordering::Relaxed) != EntryLevel::El1 as u8
            && self.with_virtual_el2(|virtual_el2| virtual_el2.installed()).is_some()
    }

    /// Lets `work` use this CPU's virtual EL2.
    #[inline]
    pub fn with_virtual_el2<T>(&self, work: impl FnOnce(&mut VirtualEl2) -> T) -> T {
        /// Tells others what has become of it. On the way out, so that the result of `work` is not moved once more.
        struct Tell<'a>(&'a PerCpu);

        impl Drop for Tell<'_> {
            fn drop(&mut self) {
                // SAFETY: `work` has returned, and with it the only other reference.
                let virtual_el2 = unsafe { &*self.0.virtual_el2.get() };
                self.0.in_window.store(virtual_el2.in_window(), Ordering::Relaxed);
                self.0.host_vectors.store(virtual_el2.vectors().unwrap_or(0), Ordering::Relaxed);
                // No call comes out of the window.
                if !virtual_el2.in_window() {
                    let installed = virtual_el2.installed().map_or(0, |vectors| vectors | 1);
                    self.0.has_vectors.store(installed, Ordering::Relaxed);
                }
            }
        }

        let _tell = Tell(self);
        // SAFETY: only its own CPU comes here, which handles one exception at a time and does not come here from
        // `work`.
        let virtual_el2 = unsafe { &mut *self.virtual_el2.get() };
        let new_vectors = self.new_vectors.load(Ordering::Relaxed);
        if new_vectors != 0 {
            virtual_el2.set_vectors(new_vectors & !1);
            self.new_vectors.store(0, Ordering::Relaxed);
        }
        work(virtual_el2)
    }

    /// Lets `work` use what is kept for this CPU's ticks. (Of another CPU only while that does not run.)
    pub fn with_watch<T>(&self, work: impl FnOnce(&mut Watch) -> T) -> T {
        // SAFETY: only its own CPU comes here, which handles one exception at a time and does not come here from
        // `work`; or the boot CPU, before any other runs.
        work(unsafe { &mut *self.watch.get() })
    }

    /// The registers of the last exception that this CPU took from EL2.
    pub fn exception(&self) -> &ExceptionFrame {
        // SAFETY: only `vectors` writes it, on this CPU, and the panic that reads it does not return.
        unsafe { &*self.exception.get() }
    }

    /// What TPIDR_EL2 held, if that was no CPU's when this one took its exception.
    pub fn lost(&self) -> Option<u64> {
        let frame = self.exception();
        (frame.vector & ExceptionFrame::LOST_CPU != 0).then_some(frame.lost)
    }

    /// Whether this stands for a CPU that nobody knows.
    pub fn is_spare(&self) -> bool {
        core::ptr::eq(self, &raw const SPARE)
    }

    /// Where the host goes on if Exeunt dies on this CPU now, if that is known.
    pub fn point(&self) -> Option<Point> {
        Self::read(&self.point)
    }

    #[inline(never)]
    fn read(words: &[AtomicU64; 8]) -> Option<Point> {
        let [pc, pstate, esr, check, x @ ..] = words.each_ref().map(|word| word.load(Ordering::Relaxed));
        Point::of([pc, pstate, esr, check], x)
    }

    /// Where the host was entered at virtual EL2, if it is still there.
    pub fn begin(&self) -> Option<Point> {
        Self::read(&self.begin)
    }

    /// The host is about to begin at virtual EL2, where the point is: should Exeunt die before it has gone to EL1, it
    /// begins there again.
    #[cold]
    #[inline(never)]
    pub fn window_begins(&self) {
        Self::write(&self.begin, &self.point.each_ref().map(|word| word.load(Ordering::Relaxed)));
    }

    /// It has gone to EL1, and the point is there.
    pub fn window_ends(&self) {
        self.begin[3].store(0, Ordering::Release);
    }

    /// The CPU has come up. Where its host begins is with the PSCI proxy until there is a point.
    pub fn comes_up(&self) {
        self.lose_point();
        self.window_ends();
        self.arriving.store(true, Ordering::Release);
    }

    /// Where the host is is not known.
    pub fn lose_point(&self) {
        self.point[3].store(0, Ordering::Release);
    }

    /// Whether it has come up, and has not got as far as its point.
    pub fn is_arriving(&self) -> bool {
        self.arriving.load(Ordering::Acquire)
    }

    /// Moves that point on, on this CPU.
    pub fn set_point(&self, point: &Point) {
        let Point { pc, pstate, esr, x: [x0, x1, x2, x3] } = *point;
        Self::write(&self.point, &[pc, pstate, esr, Point::check(pc, pstate, esr), x0, x1, x2, x3]);
        self.arriving.store(false, Ordering::Release);
    }

    /// Not half of each: the check goes first and comes last.
    #[cold]
    #[inline(never)]
    fn write(places: &[AtomicU64; 8], words: &[u64; 8]) {
        places[3].store(0, Ordering::Release);
        for (index, (place, word)) in places.iter().zip(words).enumerate() {
            place.store(if index == 3 { 0 } else { *word }, Ordering::Release);
        }
        places[3].store(words[3], Ordering::Release);
    }

    /// Where the vectors put the host's registers: at the top of this CPU's stack, which is empty while the host runs.
    pub fn host_frame(&self) -> *mut HostFrame {
        let place = self.boot_settings().stack_top.wrapping_sub(size_of::<HostFrame>() as u64);
        core::ptr::with_exposed_provenance_mut(place as usize)
    }

    /// Gives the structure of a CPU that has lost its own that one's number.
    pub fn stand_for(&self, index: usize) {
        self.index.store(index, Ordering::Relaxed);
    }

    /// Counts a panic as the vectors count exceptions, and says which one it is: the next one on this CPU is one in the
    /// report of it.
    pub fn note_panic(&self) -> u64 {
        let exception = self.exception.get();
        // SAFETY: belongs to this CPU, and no reference to it is held.
        unsafe {
            (*exception).depth = (*exception).depth.saturating_add(1);
            (*exception).depth
        }
    }

    /// Exeunt begins anew on this CPU, where it may have died before.
    pub fn revive(&self) {
        // SAFETY: as above.
        unsafe { (*self.exception.get()).depth = 0 };
        self.window_ends();
        self.died.store(false, Ordering::Relaxed);
    }
}

/// Makes the boot CPU's structure one that the vectors know.
///
/// # Safety
/// Called by the boot CPU, before any other runs.
pub unsafe fn sign_boot_cpu() {
    // SAFETY: promised by the caller.
    unsafe { BOOT_CPU.boot.get().write(CpuBoot::NONE.seal(BOOT_CPU.address())) };
}

/// Sets what the boot CPU turns its MMU on with, and returns where that stands.
///
/// # Safety
/// Called by the boot CPU, before any other runs.
pub unsafe fn set_boot_settings(settings: CpuBoot) -> *const CpuBoot {
    let place = BOOT_CPU.boot.get();
    // SAFETY: promised by the caller.
    unsafe { place.write(settings.seal(BOOT_CPU.address())) };
    place
}

/// Gives the boot CPU the stack that it has while the host runs, for all that it comes to from now on.
///
/// # Safety
/// Called by the boot CPU, before any other runs; the stack is mapped.
pub unsafe fn set_boot_stack(stack_top: u64) {
    // SAFETY: promised by the caller.
    unsafe { set_boot_settings(CpuBoot { stack_top, ..BOOT_CPU.boot_settings() }) };
}

/// The boot CPU's structure.
pub fn boot_cpu() -> &'static PerCpu {
    &BOOT_CPU
}

/// This CPU's structure; nothing if Exeunt was started below EL2 and is about to say so.
pub fn this() -> Option<&'static PerCpu> {
    if CurrentEL.read(CurrentEL::EL) != 2 {
        return None;
    }
    let address = TPIDR_EL2.get() as usize;
    // SAFETY: `boot` sets TPIDR_EL2 on every way into EL2, to the address of a `PerCpu` that is never freed, and
    // nothing else writes it.
    unsafe { core::ptr::with_exposed_provenance::<PerCpu>(address).as_ref() }
}

/// This CPU's structure, where Exeunt runs at EL2.
pub fn current() -> &'static PerCpu {
    match this() {
        Some(cpu) => cpu,
        None => panic!("not at EL2"),
    }
}

/// This CPU's number; 0 before anything else is known.
pub fn index() -> usize {
    this().map_or(0, PerCpu::index)
}

/// Gives the boot CPU its number.
pub fn set_boot_index(index: usize) {
    BOOT_CPU.index.store(index, Ordering::Relaxed);
}

/// Byte offset of the exception frame in [`PerCpu`], for `vectors`.
pub const EXCEPTION: usize = core::mem::offset_of!(PerCpu, exception);

/// Byte offset of the point at which the host goes on if Exeunt dies, for `frame` and `rescue`.
pub const POINT: usize = core::mem::offset_of!(PerCpu, point);

const _: () = assert!(POINT == crate::frame::POINT && POINT + 64 <= 504);

/// Byte offset of the same words for where the host has begun at virtual EL2, for `rescue`.
pub const BEGIN: usize = core::mem::offset_of!(PerCpu, begin);

/// Byte offset of what is not 0 while the host is in virtual EL2, for `rescue`.
pub const IN_WINDOW: usize = core::mem::offset_of!(PerCpu, in_window);

/// Byte offset of when the next tick is due, for `vectors`.
pub const TICK_DUE: usize = core::mem::offset_of!(PerCpu, tick_due);

/// Byte offset of the mark of a CPU that has ticks, for `rescue`.
pub const WATCHED: usize = core::mem::offset_of!(PerCpu, watched);

/// Byte offset of the state of its life, for `rescue`.
pub const LIFE: usize = core::mem::offset_of!(PerCpu, life);

/// Byte offset of the mark of a CPU on which Exeunt has died, for `rescue`.
pub const DIED: usize = core::mem::offset_of!(PerCpu, died);

/// Byte offset of the top of the CPU's stack, for `vectors` and `rescue`.
pub const STACK_TOP: usize = core::mem::offset_of!(PerCpu, boot) + core::mem::offset_of!(CpuBoot, stack_top);

/// Byte offset of the address of the CPU's block, for `fast`.
pub const BLOCK: usize = core::mem::offset_of!(PerCpu, block);

/// Byte offset in the block of the counter of SMCs, for `fast`.
pub const SMC_COUNTER: usize = core::mem::offset_of!(Block, counters) + Counters::offset(Exit::Smc);

/// Byte offset of the word by which a structure is known to be one, for `vectors`: the complement of its address.
pub const SIGN: usize = core::mem::offset_of!(PerCpu, boot) + core::mem::offset_of!(CpuBoot, sign);

/// Byte offset in the block of the counter of HVCs, for `fast`.
pub const HVC_COUNTER: usize = core::mem::offset_of!(Block, counters) + Counters::offset(Exit::Hvc);

/// Byte offset of `new_vectors` and `has_vectors`, for `vectors`.
pub const NEW_VECTORS: usize = core::mem::offset_of!(PerCpu, new_vectors);

const _: () = assert!(core::mem::offset_of!(PerCpu, has_vectors) == NEW_VECTORS + 8);
