//! The guard of the host's crash kernel: where its memory is.
//!
//! Owns what is known of that memory. How a Linux's data say where it is, is in `hypervisor::guard::linux`.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTPCT_EL0, Readable, VBAR_EL1};
use hypervisor::devicetree::Region;
use hypervisor::guard::linux::{CrashKernel, Kernel};
use hypervisor::guard::{self, Ram};
use hypervisor::placement::HostRam;
use log::{debug, info};
use spin::mutex::SpinMutex;

use crate::cpu::{self, PerCpu};
use crate::{memory, stage2};

/// A kernel that begins is looked at. The first one is not if its command line has no `crashkernel=`; what those after
/// it are started with nobody has told Exeunt.
static LOOKS: AtomicBool = AtomicBool::new(false);

/// The regions of the crash kernel's memory, packed, for whoever must not wait.
static REGIONS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// What was found.
static FOUND: SpinMutex<Option<CrashKernel>> = SpinMutex::new(None);

/// The host's RAM, as this CPU reads it.
struct HostMemory<'a> {
    cpu: &'static PerCpu,
    ram: &'a HostRam<'static>,
}

impl Ram for HostMemory<'_> {
    fn word(&self, address: u64) -> Option<u64> {
        if !address.is_multiple_of(8) || !self.ram.is_open(address) {
            return None;
        }
        // SAFETY: this CPU, and the host's RAM.
        unsafe { memory::read_host(self.cpu, address) }.ok()
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

/// Says whether the first kernel asks for memory for a crash kernel. Before the host runs.
pub fn set_up(first_asks: bool) {
    LOOKS.store(first_asks, Ordering::Relaxed);
}

/// A kernel begins on this CPU. It has the memory for its crash kernel already, if it is a Linux.
#[cold]
#[inline(never)]
pub fn kernel_begins(ram: &HostRam<'static>) {
    let looks = LOOKS.swap(true, Ordering::Relaxed);
    let started = CNTPCT_EL0.get();
    let found = if looks { look(cpu::current(), ram) } else { None };
    let (crash_kernel, regions) = found.unzip();
    let regions = regions.unwrap_or_default();
    *FOUND.lock() = crash_kernel;
    for (place, region) in REGIONS.iter().zip(regions) {
        place.store(guard::pack(region), Ordering::Release);
    }
    let ticks = CNTPCT_EL0.get().wrapping_sub(started);
    for region in regions.iter().flatten() {
        info!("the host keeps {region} for a crash kernel (found in {ticks} ticks)");
    }
    if looks && regions == [None; 2] {
        debug!("the host keeps no memory for a crash kernel (looked for it for {ticks} ticks)");
    }
}

/// Where the kernel that runs on this CPU has its crash kernel. VBAR_EL1 is an address in its text.
fn look(cpu: &'static PerCpu, ram: &HostRam<'static>) -> Option<(CrashKernel, [Option<Region>; 2])> {
    let vectors = VBAR_EL1.get();
    let address = stage2::host_ipa(vectors)?;
    let memory = HostMemory { cpu, ram };
    let found = Kernel::around(address, vectors, &memory)?.crash_kernel(&memory)?;
    let regions = found.regions(&memory)?;
    Some((found, regions))
}

/// The memory that the host keeps for its crash kernel, as far as is known: at most two regions, the second below 4 GiB
/// for devices that reach no further.
pub fn crash_regions() -> [Option<Region>; 2] {
    REGIONS.each_ref().map(|region| guard::unpack(region.load(Ordering::Acquire)))
}

/// Whether there is crash kernel at `entry`, or what runs before it.
pub fn is_crash_kernel(entry: u64) -> bool {
    crash_regions().iter().flatten().any(|region| region.has(entry))
}
