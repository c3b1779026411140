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
//! All of it is mapped where it is (VA = PA) but for the stacks of the CPUs, which lie in a window of virtual addresses
//! of their own so that guard pages cost no memory. Of the host's RAM one page at a time is mapped, in a window of each
//! CPU's, while a call or an instruction needs it.

use core::alloc::Layout;
use core::sync::atomic::{AtomicUsize, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, Readable};
use boot::{CpuBoot, RESERVATION, SCTLR_EL2_MMU_OFF};
use buddy_system_allocator::Heap;
use hypervisor::devicetree::Region;
use hypervisor::own_calls::{Buffer, Sink};
use hypervisor::paging::registers::{MAIR_EL2, PaRange};
use hypervisor::paging::stage1::{Attributes, IDENTITY_END, Stage1};
use hypervisor::paging::{Error, PAGE_SIZE as PAGE, TableMemory};
use spin::mutex::SpinMutex;

use crate::cpu::{self, PerCpu};
use crate::panic::cannot_start;

/// Where the CPUs' stacks are mapped: the upper half of what TTBR0_EL2 translates, far from any physical address.
const STACK_WINDOW: u64 = IDENTITY_END;

/// Pages in each CPU's stack.
const STACK_PAGES: u64 = 2;

/// Distance between two CPUs' stacks in the window: a guard page, the stack, and pages up to the next power of two.
const STACK_STRIDE: u64 = (1 + STACK_PAGES).next_power_of_two() * PAGE;

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
        let entry = core::ptr::with_exposed_provenance::<u64>(table as usize).wrapping_add(index);
        // SAFETY: `table` came from `alloc` and the engine keeps `index` inside; volatile, because hardware reads it
        // too.
        unsafe { entry.read_volatile() }
    }

    fn write(&mut self, table: u64, index: usize, descriptor: u64) {
        let entry = core::ptr::with_exposed_provenance_mut::<u64>(table as usize).wrapping_add(index);
        // SAFETY: as for `read`; only the boot CPU builds tables, before any other CPU runs.
        unsafe { entry.write_volatile(descriptor) };
    }
}

/// `size` bytes of the heap at a multiple of `align` (a power of two), or nothing when it is full. Never given back.
pub fn allocate(size: u64, align: u64) -> Option<u64> {
    let layout = Layout::from_size_align(size as usize, align as usize).ok()?;
    HEAP.lock().alloc(layout).ok().map(|block| block.expose_provenance().get() as u64)
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

/// Gives the heap its memory.
pub fn start_heap() {
    let start = address!(__heap_start) as usize;
    let end = reservation().end as usize;
    // SAFETY: the linker script leaves this range to the heap, stage 1 maps it as data, and this is called once.
    unsafe { HEAP.lock().add_to_heap(start, end) };
}

/// Changes EL2's stage 1 by mappings that were not there before, which needs no TLB maintenance: a fault is never
/// cached.
fn extend(change: impl FnOnce(&mut Stage1, &mut TablePages) -> Result<(), Error>) {
    let mut stage1 = STAGE1.lock();
    let Some(stage1) = stage1.as_mut() else { cannot_start("EL2's own stage 1 is missing") };
    if let Err(error) = change(stage1, &mut TablePages) {
        cannot_start(format_args!("EL2's own stage 1: {error}"));
    }
    barrier::dsb(barrier::ISHST);
    barrier::isb(barrier::SY);
}

/// Maps the page of device registers at `base`.
pub fn map_device(base: u64) {
    let page = base & !(PAGE - 1);
    extend(|stage1, pages| stage1.map_identity(pages, page..page + PAGE, Attributes::Device));
}

/// Makes the RAM at `region` readable, in whole pages.
pub fn map_for_reading(region: Region) {
    let pages = region.start & !(PAGE - 1)..region.end.next_multiple_of(PAGE);
    extend(|stage1, tables| stage1.map_identity(tables, pages, Attributes::Rodata));
}

/// Makes the structure of CPU `index`, which is not the boot CPU.
pub fn place_cpu(index: usize) -> &'static PerCpu {
    let Some(place) = allocate(size_of::<PerCpu>() as u64, align_of::<PerCpu>() as u64) else {
        cannot_start(format_args!("no room in Exeunt's 2 MiB for CPU {index}"))
    };
    let settings = CpuBoot { stack_top: stack_top(index), ..cpu::boot_cpu().boot_settings() };
    let place = core::ptr::with_exposed_provenance_mut::<PerCpu>(place as usize);
    // SAFETY: this memory was just given away, with that size and alignment.
    let cpu = unsafe { PerCpu::place(place, index, settings) };
    clean(Region { start: cpu.address(), end: cpu.address() + size_of::<CpuBoot>() as u64 });
    cpu
}

/// Gives CPU `index` its stack.
pub fn map_stack(index: usize) {
    let size = STACK_PAGES * PAGE;
    let Some(memory) = allocate(size, PAGE) else {
        cannot_start(format_args!("no room in Exeunt's 2 MiB for the stack of CPU {index}"))
    };
    let top = stack_top(index);
    extend(|stage1, pages| stage1.map(pages, top - size..top, memory, Attributes::Data));
}

/// Lets `use_page` work on the page of the host's RAM that `address` lies in, through the window of CPU `index` above
/// its stack: it gets the virtual address that stands for `address`. The page is mapped only meanwhile.
///
/// # Safety
/// `index` is this CPU's, and the page is RAM outside of Exeunt's 2 MiB.
unsafe fn with_host_page<T>(index: usize, address: u64, rights: Attributes, use_page: impl FnOnce(u64) -> T) -> T {
    let window = stack_top(index);
    extend(|stage1, pages| stage1.map(pages, window..window + PAGE, address & !(PAGE - 1), rights));
    let result = use_page(window + address % PAGE);
    extend(|stage1, pages| stage1.unmap(pages, window..window + PAGE));
    // SAFETY: only forgets a translation that the tables do not hold any more. For all CPUs, because the tables are
    // theirs too.
    unsafe {
        core::arch::asm!("tlbi vae2is, {}", "dsb ish", "isb", in(reg) window / PAGE, options(nostack, preserves_flags));
    }
    result
}

/// Reads the host's RAM: eight bytes at `address`, a multiple of 8.
///
/// # Safety
/// `index` is this CPU's, and the page at `address` is RAM outside of Exeunt's 2 MiB.
pub unsafe fn read_host(index: usize, address: u64) -> u64 {
    let read = |place: u64| {
        let word = core::ptr::with_exposed_provenance::<u64>(place as usize);
        // SAFETY: mapped while this runs; volatile, because the host may be changing it.
        unsafe { word.read_volatile() }
    };
    // SAFETY: promised by the caller.
    unsafe { with_host_page(index, address, Attributes::Rodata, read) }
}

/// Lets `fill` write to a piece of the host's RAM, and cleans what it has written to the point of coherency.
///
/// # Safety
/// `index` is this CPU's, and the buffer is RAM outside of Exeunt's 2 MiB. It lies within one page.
pub unsafe fn write_host(index: usize, buffer: Buffer, fill: impl FnOnce(&mut dyn Sink)) {
    // SAFETY: promised by the caller.
    unsafe {
        with_host_page(index, buffer.address, Attributes::Data, |start| {
            fill(&mut HostPage { start, size: buffer.size });
            clean(Region { start, end: start + buffer.size as u64 });
        });
    }
}

/// A piece of the host's RAM that is mapped.
struct HostPage {
    start: u64,
    size: usize,
}

impl Sink for HostPage {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        // What would lie outside is left out; the calls keep inside.
        let room = self.size.saturating_sub(offset);
        for (place, &byte) in (self.start + offset as u64..).zip(bytes.iter().take(room)) {
            // SAFETY: mapped for writing while this exists; volatile, because the host may be using it.
            unsafe { core::ptr::with_exposed_provenance_mut::<u8>(place as usize).write_volatile(byte) };
        }
    }
}

/// Cleans and invalidates the line of the data cache that `address` lies in; with `tags` its allocation tags, too.
///
/// # Safety
/// As for [`read_host`]; with `tags` the CPU has FEAT_MTE2.
pub unsafe fn clean_host_line(index: usize, address: u64, tags: bool) {
    // SAFETY: cache maintenance changes no data; the rest is promised by the caller.
    unsafe {
        with_host_page(index, address, Attributes::Rodata, |place| {
            if tags {
                // DC CIGDVAC
                core::arch::asm!("sys #3, C7, C14, #5, {}", "dsb sy", in(reg) place, options(nostack, preserves_flags));
            } else {
                core::arch::asm!("dc civac, {}", "dsb sy", in(reg) place, options(nostack, preserves_flags));
            }
        });
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
    let ctr: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    // CTR_EL0.DminLine, bits 19:16: log2 of the number of words in the smallest line.
    let line = 4_u64 << (ctr >> 16 & 0xf);
    let mut address = region.start & !(line - 1);
    while address < region.end {
        // SAFETY: cache maintenance changes no data.
        unsafe { core::arch::asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) };
        address += line;
    }
    barrier::dsb(barrier::SY);
}

/// What this CPU can address.
pub fn pa_range() -> PaRange {
    PaRange::from_id_aa64mmfr0(ID_AA64MMFR0_EL1.get())
}
