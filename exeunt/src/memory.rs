//! Exeunt's own memory: its 2 MiB, the heap in it, and EL2's stage 1.
//!
//! | part | rights at EL2 |
//! |---|---|
//! | text | read, execute |
//! | read-only data | read |
//! | data, BSS, heap | read, write |
//! | stacks | read, write; a page that is not mapped below (and above) each |
//! | device tree | read, write, while Exeunt starts |
//! | first page of the host's kernel | read, while Exeunt starts |
//! | UART, first pages of a GICv2's frames | Device, read, write |
//!
//! All of it is mapped where it is (VA = PA) except the stacks of the CPUs, which lie in a window of virtual addresses
//! of their own so that guard pages cost no memory. Of the host's RAM each CPU has one page mapped while a call needs
//! it, and two while the host is in virtual EL2: that of the instruction, and that of a cache line. Above each stack
//! there are two windows for them, whose descriptors their CPU writes by itself, without a lock.

use core::alloc::Layout;
use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, Readable};
use boot::{CpuBoot, RESERVATION, SCTLR_EL2_MMU_OFF};
use buddy_system_allocator::Heap;
use hypervisor::devicetree::Region;
use hypervisor::own_calls::{Buffer, Sink};
use hypervisor::paging::registers::{MAIR_EL2, PaRange};
use hypervisor::paging::stage1::{self, Attributes, IDENTITY_END, Stage1};
use hypervisor::paging::{self, PAGE_SIZE as PAGE, TableMemory};
use hypervisor::placement::HostRam;
use hypervisor::syndrome::Esr;
use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::cpu::{self, PerCpu};
use crate::faults::fault_point;
use crate::{guarded, serror};

/// Where the CPUs' stacks are mapped: the upper half of what TTBR0_EL2 translates, far from any physical address.
const STACK_WINDOW: u64 = IDENTITY_END;

/// Pages in each CPU's stack.
const STACK_PAGES: u64 = 2;

/// Pages above each stack that show the host's RAM (`Use`).
const WINDOWS: u64 = 2;

/// Distance between two CPUs' stacks: a guard page, the stack, the windows, and pages up to the next power of two.
const STACK_STRIDE: u64 = (1 + STACK_PAGES + WINDOWS).next_power_of_two() * PAGE;

/// SCTLR_EL2 while Exeunt runs: MMU (M), caches (C, I), stack alignment check (SA), and nothing writable is executable
/// (WXN), whatever the tables say.
pub const SCTLR_EL2_MMU_ON: u64 = SCTLR_EL2_MMU_OFF | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;

/// Tables for what has to be mapped before the MMU goes on: one of each level for Exeunt, and for the device
/// tree at worst two of each level below the root.
const EARLY_TABLES: usize = 10;

#[repr(C, align(4096))]
struct Tables([[u64; 512]; EARLY_TABLES]);

static EARLY: EarlyTables = EarlyTables(core::cell::UnsafeCell::new(Tables([[0; 512]; EARLY_TABLES])));

struct EarlyTables(core::cell::UnsafeCell<Tables>);

// SAFETY: the boot CPU hands each table out once, before any other CPU runs; from then on it is reached by its address
// only.
unsafe impl Sync for EarlyTables {}

/// How many of the early tables are in use. Never changed by a read-modify-write: the MMU is off at first, and
/// exclusive accesses are not promised to work on the Device memory that everything is then.
static EARLY_USED: AtomicUsize = AtomicUsize::new(0);

/// What lies between the end of the image and the end of the reservation.
static HEAP: SpinMutex<Heap<22>> = SpinMutex::new(Heap::new());

/// EL2's stage 1.
static STAGE1: SpinMutex<Option<Stage1>> = SpinMutex::new(None);

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __boot_guard: u8;
    static __boot_stack_top: u8;
    static __emergency_guard: u8;
    static __emergency_stack_top: u8;
    static __heap_start: u8;
}

/// The address of a symbol of the linker script.
macro_rules! address {
    ($symbol:ident) => {
        (&raw const $symbol).addr() as u64
    };
}

/// Where the image is.
pub fn image_base() -> u64 {
    address!(__image_start)
}

/// Exeunt's 2 MiB.
pub fn reservation() -> Region {
    Region { start: image_base(), end: image_base() + RESERVATION }
}

/// Whether a frame record at `address` lies on a stack that is mapped.
pub fn is_stack(address: u64) -> bool {
    let record = 16;
    let inside = |low: u64, high: u64| address >= low && address <= high - record;
    if address >= STACK_WINDOW {
        let offset = (address - STACK_WINDOW) % STACK_STRIDE;
        return offset >= PAGE && offset + record <= PAGE * (1 + STACK_PAGES);
    }
    inside(address!(__boot_guard) + PAGE, address!(__boot_stack_top))
        || inside(address!(__emergency_guard) + PAGE, address!(__emergency_stack_top))
}

/// Memory for translation tables: the early ones, then pages of the heap.
pub struct TablePages;

impl TableMemory for TablePages {
    fn alloc(&mut self, pages: usize) -> Option<u64> {
        let used = EARLY_USED.load(Ordering::Relaxed);
        if pages == 1 && used < EARLY_TABLES {
            EARLY_USED.store(used + 1, Ordering::Relaxed);
            // In BSS, and therefore zero.
            return Some(EARLY.0.get().addr() as u64 + used as u64 * PAGE);
        }
        let address = allocate(pages as u64 * PAGE, pages as u64 * PAGE)?;
        let table = core::ptr::with_exposed_provenance_mut::<u64>(address as usize);
        // SAFETY: the allocator has just given these bytes away, aligned to their size.
        unsafe { table.write_bytes(0, pages * 512) };
        Some(address)
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        descriptor_at(table, index).load(Ordering::Relaxed)
    }

    fn write(&mut self, table: u64, index: usize, descriptor: u64) {
        descriptor_at(table, index).store(descriptor, Ordering::Relaxed);
    }

    fn replace(&mut self, table: u64, index: usize, old: u64, new: u64) -> bool {
        fault_point!("stage2-edit");
        descriptor_at(table, index).compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Descriptor `index` of the table at `table`, which the paging engine has from [`TablePages`]. CPUs and their table
/// walkers read it while others change it.
fn descriptor_at(table: u64, index: usize) -> &'static AtomicU64 {
    let entry = core::ptr::with_exposed_provenance_mut::<u64>(table as usize).wrapping_add(index);
    // SAFETY: `table` came from `alloc` and is never given to anybody else, and the engine keeps `index` inside. Who
    // else writes there (`Windows`) does so in single accesses, too.
    unsafe { AtomicU64::from_ptr(entry) }
}

/// `size` bytes of the heap at a multiple of `align` (a power of two), or nothing when it is full. Only tables are
/// given back.
pub fn allocate(size: u64, align: u64) -> Option<u64> {
    let layout = Layout::from_size_align(size as usize, align as usize).ok()?;
    heap()?.alloc(layout).ok().map(|block| block.expose_provenance().get() as u64)
}

/// The heap, unless a CPU has it that does not give it back: Exeunt may have died there.
fn heap() -> Option<SpinMutexGuard<'static, Heap<22>>> {
    /// Far more looks than any use of the heap takes.
    const PATIENCE: u32 = 1 << 20;
    (0..PATIENCE).find_map(|_| {
        core::hint::spin_loop();
        HEAP.try_lock()
    })
}

/// Gives a table of [`TablePages`] back to the heap. The few that the image itself has stay what they are.
///
/// # Safety
/// One page that [`TablePages`] has given away, and nobody reads or writes it any more.
pub unsafe fn free_table(table: u64) {
    if table < address!(__heap_start) {
        return;
    }
    let place = core::ptr::with_exposed_provenance_mut::<u8>(table as usize);
    let layout = Layout::from_size_align(PAGE as usize, PAGE as usize);
    if let (Some(place), Ok(layout)) = (core::ptr::NonNull::new(place), layout)
        && let Some(mut heap) = heap()
    {
        // SAFETY: promised by the caller; the heap has given it away with this layout.
        unsafe { heap.dealloc(place, layout) };
    }
}

/// Builds EL2's stage 1 as far as it is needed to turn the MMU on, and says what to turn it on with. Runs with the MMU
/// off.
pub fn map_early(tree: Region) -> Result<CpuBoot, Error> {
    let mut pages = TablePages;
    let mut stage1 = Stage1::new(&mut pages, pa_range())?;
    for (start, end, attributes) in [
        (image_base(), address!(__text_end), Attributes::Text),
        (address!(__text_end), address!(__rodata_end), Attributes::Rodata),
        (address!(__data_start), address!(__boot_guard), Attributes::Data),
        (address!(__boot_guard) + PAGE, address!(__emergency_guard), Attributes::Data),
        (address!(__emergency_guard) + PAGE, reservation().end, Attributes::Data),
        (tree.start & !(PAGE - 1), tree.end.next_multiple_of(PAGE), Attributes::Data),
    ] {
        stage1.map_identity(&mut pages, start..end, attributes)?;
    }
    let settings = CpuBoot {
        ttbr0_el2: stage1.ttbr0_el2(),
        tcr_el2: stage1.tcr_el2(),
        mair_el2: MAIR_EL2,
        sctlr_el2: SCTLR_EL2_MMU_ON,
        stack_top: address!(__boot_stack_top),
        ..CpuBoot::NONE
    };
    // SAFETY: no other CPU runs, and this one holds no reference to the content. The lock itself cannot be used before
    // the MMU is on.
    unsafe { STAGE1.as_mut_ptr().write(Some(stage1)) };
    Ok(settings)
}

/// Of the heap what there is until the size of the black box is known.
fn first_heap() -> Region {
    let start = address!(__heap_start);
    Region { start, end: start + FIRST_HEAP }
}

/// Bytes of it: 16 pages, for the tables of stage 1 that the device tree, the UART and the host's kernel take past the
/// early ones. They are there wherever the black box begins: the image ends in the first half of the 2 MiB (the linker
/// script asserts it), and [`box_may_begin`] keeps more.
const FIRST_HEAP: u64 = 16 * PAGE;

/// Gives the heap its first memory.
pub fn start_heap() {
    let Region { start, end } = first_heap();
    // SAFETY: the linker script leaves this range to the heap, stage 1 maps it as data, and this is called once.
    unsafe { HEAP.lock().add_to_heap(start as usize, end as usize) };
}

/// From where on the black box may take memory on a machine with so many CPUs, which get the heap before that.
pub fn box_may_begin(cpus: usize) -> u64 {
    // The tables of both stages, for a machine with banks of RAM and devices anywhere.
    const TABLES: u64 = 32 * PAGE;
    let each = STACK_PAGES * PAGE + CPUS_CHUNK / (CPUS_CHUNK / size_of::<PerCpu>() as u64);
    first_heap().start + TABLES + cpus as u64 * each
}

/// Gives the heap the rest, up to the black box, which begins at `end`.
pub fn grow_heap(end: u64) {
    let start = first_heap().end;
    if start < end {
        // SAFETY: as for `start_heap`; the linker script has the box after it.
        unsafe { HEAP.lock().add_to_heap(start as usize, end as usize) };
    }
}

/// Why Exeunt's memory cannot be what it has to be.
#[derive(Clone, Copy, Debug)]
pub enum Error {
    /// EL2's stage 1 cannot be changed so.
    Stage1(paging::Error),
    /// The 2 MiB are full.
    NoRoom {
        /// What there is no room for.
        what: &'static str,
        /// The CPU that it is for.
        cpu: usize,
    },
}

impl From<paging::Error> for Error {
    fn from(error: paging::Error) -> Self {
        Self::Stage1(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage1(error) => write!(f, "EL2's own stage 1: {error}"),
            Self::NoRoom { what, cpu } => write!(f, "no room in Exeunt's 2 MiB for {what} of CPU {cpu}"),
        }
    }
}

/// Changes EL2's stage 1. Mappings that were not there before need no TLB maintenance: a fault is never cached. Only
/// the boot CPU does this, before any other runs.
fn change<T>(how: impl FnOnce(&mut Stage1, &mut TablePages) -> Result<T, paging::Error>) -> Result<T, Error> {
    let mut stage1 = STAGE1.lock();
    // It is there since before the MMU was on.
    let stage1 = stage1.as_mut().ok_or(paging::Error::OutOfTables)?;
    let result = how(stage1, &mut TablePages)?;
    barrier::dsb(barrier::ISHST);
    barrier::isb(barrier::SY);
    Ok(result)
}

/// Maps the device registers at `pages`, which lie apart from everything else that is mapped, and says whether it
/// could. For the log's sake: it neither waits nor gives up.
pub fn try_map_device(pages: Region) -> bool {
    let Some(mut stage1) = STAGE1.try_lock() else { return false };
    let Some(stage1) = stage1.as_mut() else { return false };
    let mapped = stage1.map_identity(&mut TablePages, pages.start..pages.end, Attributes::Device).is_ok();
    barrier::dsb(barrier::ISHST);
    barrier::isb(barrier::SY);
    mapped
}

/// Maps the page of device registers at `base`.
pub fn map_device(base: u64) -> Result<(), Error> {
    let page = base & !(PAGE - 1);
    change(|stage1, pages| stage1.map_identity(pages, page..page + PAGE, Attributes::Device))
}

/// Makes the RAM at `region` readable, in whole pages.
pub fn map_for_reading(region: Region) -> Result<(), Error> {
    let pages = region.start & !(PAGE - 1)..region.end.next_multiple_of(PAGE);
    change(|stage1, tables| stage1.map_identity(tables, pages, Attributes::Rodata))
}

/// Maps what `tree`, of which `mapped` is mapped already, has beyond that.
pub fn map_tree_further(mapped: Region, tree: Region) -> Result<(), Error> {
    let pages = mapped.end.next_multiple_of(PAGE)..tree.end.next_multiple_of(PAGE);
    change(|stage1, tables| stage1.map_identity(tables, pages, Attributes::Data))
}

/// Takes away what the start had mapped of the host's RAM: the pages of `regions`.
///
/// # Safety
/// Nothing uses them again through these addresses, and no other CPU runs.
pub unsafe fn give_back(regions: [Region; 2]) -> Result<(), Error> {
    for region in regions {
        let pages = region.start & !(PAGE - 1)..region.end.next_multiple_of(PAGE);
        change(|stage1, tables| stage1.unmap(tables, pages))?;
    }
    // SAFETY: only forgets translations. For this CPU alone: those that come up later forget all before their MMU is
    // on.
    unsafe { core::arch::asm!("tlbi alle2", "dsb nsh", "isb", options(nostack, preserves_flags)) };
    Ok(())
}

/// CPUs' structures are cut from pieces of this size: the heap has powers of two only, and one such structure is a
/// little more than one.
const CPUS_CHUNK: u64 = 4 * PAGE;

/// Memory for the structure of one CPU. Only the boot CPU comes here.
fn allocate_cpu() -> Option<u64> {
    /// What is left of the last piece.
    static LEFT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    let size = size_of::<PerCpu>() as u64;
    let [mut start, mut end] = LEFT.each_ref().map(|word| word.load(Ordering::Relaxed));
    if end - start < size {
        start = allocate(CPUS_CHUNK, PAGE)?;
        end = start + CPUS_CHUNK;
    }
    LEFT[0].store(start + size, Ordering::Relaxed);
    LEFT[1].store(end, Ordering::Relaxed);
    Some(start)
}

/// Makes the structure of CPU `index`, which is not the boot CPU.
pub fn place_cpu(index: usize) -> Result<&'static PerCpu, Error> {
    let place = allocate_cpu().ok_or(Error::NoRoom { what: "the structure", cpu: index })?;
    let settings = CpuBoot { stack_top: stack_top(index), ..cpu::boot_cpu().boot_settings() };
    let place = core::ptr::with_exposed_provenance_mut::<PerCpu>(place as usize);
    // SAFETY: this memory was just given away, with that size and alignment.
    let cpu = unsafe { PerCpu::place(place, index, settings) };
    clean(Region { start: cpu.address(), end: cpu.address() + size_of::<CpuBoot>() as u64 });
    Ok(cpu)
}

/// The structure of the boot CPU, which is CPU `index` and has a stack like the others' from now on, whenever it comes
/// up or back.
pub fn place_boot_cpu(index: usize) -> &'static PerCpu {
    // SAFETY: no other CPU runs, and `map_stack` has mapped it.
    unsafe { cpu::set_boot_stack(stack_top(index)) };
    let cpu = cpu::boot_cpu();
    clean(Region { start: cpu.address(), end: cpu.address() + size_of::<CpuBoot>() as u64 });
    cpu
}

/// Gives CPU `index` its stack, and the window above it.
pub fn map_stack(index: usize) -> Result<(), Error> {
    let size = STACK_PAGES * PAGE;
    let memory = allocate(size, PAGE).ok_or(Error::NoRoom { what: "the stack", cpu: index })?;
    let top = stack_top(index);
    change(|stage1, pages| stage1.map(pages, top - size..top, memory, Attributes::Data))?;
    Ok(())
}

/// Where the table of the windows that were opened last is.
static WINDOW_TABLE: AtomicU64 = AtomicU64::new(0);

/// Gives `cpu` its windows, which stand above the stack that [`map_stack`] has given it. For one CPU after the other,
/// in the order of their numbers: the first in a table finds it for all that are in it.
pub fn open_windows(cpu: &PerCpu) -> Result<(), Error> {
    let first = window(cpu.index(), Use::Code);
    if (cpu.index() as u64).is_multiple_of(TABLE_SPAN / STACK_STRIDE) {
        // The stack has brought the table that they share with it.
        let (table, _) = change(|stage1, pages| stage1.page_slot(pages, first).ok_or(paging::Error::OutOfTables))?;
        WINDOW_TABLE.store(table, Ordering::Relaxed);
    }
    let offset = first % TABLE_SPAN / PAGE * size_of::<u64>() as u64;
    cpu.windows.place(WINDOW_TABLE.load(Ordering::Relaxed) + offset);
    Ok(())
}

/// What a table of pages translates.
const TABLE_SPAN: u64 = 512 * PAGE;

// A table has a whole number of strides, so that the descriptors of a CPU's windows stand beside each other.
const _: () = assert!(TABLE_SPAN.is_multiple_of(STACK_STRIDE) && STACK_WINDOW.is_multiple_of(TABLE_SPAN));

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The page of the instruction that the host executes in virtual EL2. It stays mapped, since the next one is mostly
    /// beside it.
    Code = 0,
    /// All else.
    Data = 1,
}

/// Where window `window` of CPU `index` is: after its stack.
fn window(index: usize, window: Use) -> u64 {
    stack_top(index) + window as u64 * PAGE
}

/// Has the window of `cpu` show the page of the host's RAM that `address` lies in, and returns the virtual address that
/// stands for `address`. Takes no lock and no memory.
///
/// # Safety
/// `cpu` is this CPU, no pointer into the window is in use, and the page is RAM outside of Exeunt's 2 MiB.
unsafe fn show(cpu: &PerCpu, which: Use, address: u64, rights: Attributes) -> u64 {
    let place = window(cpu.index(), which);
    let descriptor = stage1::page(address, rights);
    let shown = cpu.windows.shown(which as usize);
    if shown != descriptor {
        if shown != 0 {
            // SAFETY: promised by the caller.
            unsafe { hide(cpu, which) };
        }
        // SAFETY: this CPU's descriptor of a page that is not mapped; the page is promised by the caller.
        unsafe { cpu.windows.set(which as usize, descriptor) };
        barrier::dsb(barrier::ISHST);
        barrier::isb(barrier::SY);
    }
    place + address % PAGE
}

/// Empties the window of `cpu`, if it shows anything.
///
/// # Safety
/// `cpu` is this CPU, and no pointer into the window is in use.
unsafe fn hide(cpu: &PerCpu, which: Use) {
    if cpu.windows.shown(which as usize) == 0 {
        return;
    }
    // SAFETY: this CPU's descriptor, and promised by the caller.
    unsafe { cpu.windows.set(which as usize, 0) };
    let page = window(cpu.index(), which) / PAGE;
    // SAFETY: only forgets a translation that the tables no longer hold. For all CPUs, because the tables are theirs
    // too.
    unsafe {
        core::arch::asm!(
            "dsb ishst", "tlbi vae2is, {}", "dsb ish", "isb", in(reg) page, options(nostack, preserves_flags)
        );
    }
}

/// Empties all windows of `cpu`: the host has left virtual EL2.
///
/// # Safety
/// `cpu` is this CPU.
pub unsafe fn hide_all(cpu: &PerCpu) {
    // SAFETY: this CPU, and nothing here keeps a pointer into a window beyond a call.
    unsafe {
        hide(cpu, Use::Code);
        hide(cpu, Use::Data);
    }
}

/// Lets `use_page` work on the page of the host's RAM that `address` lies in: it gets the virtual address that stands
/// for `address`. The page is mapped only meanwhile.
///
/// # Safety
/// `cpu` is this CPU, and the page is RAM outside of Exeunt's 2 MiB.
unsafe fn with_host_page<T>(cpu: &PerCpu, address: u64, rights: Attributes, use_page: impl FnOnce(u64) -> T) -> T {
    // SAFETY: promised by the caller; `use_page` keeps no pointer.
    unsafe {
        let page = show(cpu, Use::Data, address, rights);
        fault_point!("host-page");
        let result = use_page(page);
        hide(cpu, Use::Data);
        result
    }
}

// The device tree, or a host that has lost a page to a memory error, need not be right about what is RAM. So all
// accesses to the host's are guarded, and what does not answer is an error of its kind.

/// Reads an instruction of the host's at `address`, a multiple of 4, if the window of `cpu`, which is this CPU, shows
/// it; nothing if it does not, or if the read has caused an exception.
pub fn fetch_shown(cpu: &PerCpu, address: u64) -> Option<u32> {
    if cpu.windows.shown(Use::Code as usize) != stage1::page(address, Attributes::Rodata) {
        return None;
    }
    let place = window(cpu.index(), Use::Code) + address % PAGE;
    // SAFETY: the window shows it, so it has been found to be RAM of the host's.
    unsafe { guarded::load32(place) }.result().ok().map(|word| word as u32)
}

/// Reads an instruction of the host's at `address`, a multiple of 4.
///
/// # Errors
/// The syndrome of the exception that the read has caused.
///
/// # Safety
/// `cpu` is this CPU, and the page at `address` is outside of Exeunt's 2 MiB, and RAM as far as is known.
pub unsafe fn fetch(cpu: &PerCpu, address: u64) -> Result<u32, Esr> {
    // SAFETY: promised by the caller, and nothing keeps a pointer into this window.
    unsafe {
        let place = show(cpu, Use::Code, address, Attributes::Rodata);
        guarded::load32(place).result().map(|word| word as u32)
    }
}

/// Reads the host's RAM: eight bytes at `address`, a multiple of 8.
///
/// # Errors
/// As for [`fetch`].
///
/// # Safety
/// As for [`fetch`].
pub unsafe fn read_host(cpu: &PerCpu, address: u64) -> Result<u64, Esr> {
    // SAFETY: mapped while this runs.
    let read = |place| unsafe { guarded::load64(place) }.result();
    // SAFETY: promised by the caller.
    unsafe { with_host_page(cpu, address, Attributes::Rodata, read) }
}

/// Looks for eight bytes of the host's RAM that are `word`, from `start`, a multiple of 16, to the end of its page.
/// Returns the address of the first.
///
/// # Errors
/// As for [`fetch`].
///
/// # Safety
/// As for [`fetch`].
#[cold]
#[inline(never)]
pub unsafe fn find_in_host(cpu: &PerCpu, start: u64, word: u64) -> Result<Option<u64>, Esr> {
    let find = |place: u64| {
        let end = (place & !(PAGE - 1)) + PAGE;
        // SAFETY: mapped while this runs.
        let found = unsafe { guarded::find64(place, end, word) }.result()?;
        Ok(found.checked_sub(place).filter(|&offset| offset < PAGE).map(|offset| start + offset))
    };
    // SAFETY: promised by the caller.
    unsafe { with_host_page(cpu, start, Attributes::Rodata, find) }
}

/// The eight bytes at `address`, a multiple of 8, on this CPU; nothing where `ram` is not the host's, or where nothing
/// answers.
pub fn host_word(cpu: &'static PerCpu, ram: &HostRam<'static>, address: u64) -> Option<u64> {
    if !address.is_multiple_of(8) || !ram.is_open(address) {
        return None;
    }
    // SAFETY: this CPU, and the host's RAM.
    unsafe { read_host(cpu, address) }.ok()
}

/// Lets `fill` write to a piece of the host's RAM, and cleans what it has written to the point of coherency.
///
/// # Errors
/// The syndrome of the first exception that this has caused. Some of it may be written.
///
/// # Safety
/// As for [`fetch`], of the page that `buffer` lies in.
pub unsafe fn write_host(cpu: &PerCpu, buffer: Buffer, fill: impl FnOnce(&mut dyn Sink)) -> Result<(), Esr> {
    // SAFETY: promised by the caller.
    let write = || unsafe {
        with_host_page(cpu, buffer.address, Attributes::Data, |start| {
            // A write that finds nothing may end in an SError, later; a read cannot.
            guarded::load8(start).result()?;
            let mut page = HostPage { start, size: buffer.size, written: Ok(()) };
            fill(&mut page);
            page.written?;
            let line = cache_line();
            guarded::clean(start & !(line - 1), start + buffer.size as u64, line).result().map(|_| ())
        })
    };
    serror::watch(cpu, write)
}

/// A piece of the host's RAM that is mapped.
struct HostPage {
    start: u64,
    size: usize,
    /// What became of the writes so far. After an exception nothing more is written.
    written: Result<(), Esr>,
}

impl Sink for HostPage {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        // What would lie outside is left out; the calls keep inside.
        let room = self.size.saturating_sub(offset);
        let bytes = &bytes[..bytes.len().min(room)];
        if self.written.is_ok() {
            let from = bytes.as_ptr().expose_provenance() as u64;
            // SAFETY: mapped for writing while this exists, and memory of the host's, which Rust knows nothing of.
            let copied = unsafe { guarded::copy(self.start + offset as u64, from, bytes.len() as u64) };
            self.written = copied.result().map(|_| ());
        }
    }
}

/// Cleans and invalidates the line of the data cache that `address` lies in; with `tags` its allocation tags, too.
/// Complete when this returns. Leaves the page mapped until [`hide_all`]: the next line is mostly in it.
///
/// # Errors
/// As for [`fetch`], and if the CPU does not have the instruction.
///
/// # Safety
/// As for [`fetch`].
pub unsafe fn clean_host_line(cpu: &PerCpu, address: u64, tags: bool) -> Result<(), Esr> {
    // SAFETY: cache maintenance changes no data; the rest is promised by the caller.
    unsafe {
        let place = show(cpu, Use::Data, address, Attributes::Rodata);
        let cleaned = if tags { guarded::clean_line_and_tags(place) } else { guarded::clean_line(place) };
        cleaned.result().map(|_| ())
    }
}

/// Where the stack of CPU `index` begins: the address above its highest byte.
pub fn stack_top(index: usize) -> u64 {
    STACK_WINDOW + index as u64 * STACK_STRIDE + (1 + STACK_PAGES) * PAGE
}

/// The bytes of `region`.
///
/// # Safety
/// All of it is RAM that EL2 may read (mapped, or the MMU is off), and nobody writes to it while the slice is in use.
pub unsafe fn bytes(region: Region) -> &'static [u8] {
    let start = core::ptr::with_exposed_provenance::<u8>(region.start as usize);
    // SAFETY: promised by the caller.
    unsafe { core::slice::from_raw_parts(start, region.size() as usize) }
}

/// The bytes of `region`, to be changed.
///
/// # Safety
/// All of it is RAM that EL2 may write, and nobody else uses it while the slice is in use.
pub unsafe fn bytes_mut(region: Region) -> &'static mut [u8] {
    let start = core::ptr::with_exposed_provenance_mut::<u8>(region.start as usize);
    // SAFETY: promised by the caller.
    unsafe { core::slice::from_raw_parts_mut(start, region.size() as usize) }
}

/// Cleans and invalidates `region` to the point of coherency: what was written through the caches is there for somebody
/// who reads without them, and no stale line stays.
pub fn clean(region: Region) {
    let line = cache_line();
    let mut address = region.start & !(line - 1);
    while address < region.end {
        // SAFETY: cache maintenance changes no data.
        unsafe { core::arch::asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) };
        address += line;
    }
    barrier::dsb(barrier::SY);
}

/// Bytes in the smallest line of the data caches.
fn cache_line() -> u64 {
    let ctr: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    // CTR_EL0.DminLine, bits 19:16: log2 of the number of words.
    4 << (ctr >> 16 & 0xf)
}

/// What this CPU can address.
pub fn pa_range() -> PaRange {
    PaRange::from_id_aa64mmfr0(ID_AA64MMFR0_EL1.get())
}
