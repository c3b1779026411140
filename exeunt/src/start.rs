//! The start of Exeunt and of each CPU under it.
//!
//! `exeunt_early` runs with the MMU off and does no more than is needed to turn it on. `exeunt_main` goes on from there
//! on the boot CPU: what the machine is, what it shall do, where the host is, and into it. `exeunt_secondary` brings
//! every other CPU, and each CPU that wakes from a power-down state, to where PSCI was asked to start it.

use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, MPIDR_EL1, Readable};
use boot::CpuBoot;
use hypervisor::devicetree::{self, Edits, Platform, Region, TreeError};
use hypervisor::features::Gic;
use hypervisor::guard::asks_for_crash_kernel;
use hypervisor::lifecycle::EntryLevel;
use hypervisor::options::{GicTaken, Kvm, Options};
use hypervisor::placement::{AddressMap, DeviceError, HostRam};
use hypervisor::psci::HostEntry;
use hypervisor::start::{self, Refusal};
use hypervisor::uart::Uart;
use hypervisor::watchdog::gic::{Refusal as NoWatchdog, asks_for_pseudo_nmi};
use log::{LevelFilter, debug, info, warn};
use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::cpu::{self, MAX_CPUS, PerCpu};
use crate::machine::{self, Machine};
use crate::memory::TablePages;
use crate::panic::cannot_start;
use crate::stage2::Stage2;
use crate::{
    blackbox, console, crash, enter, firmware, gic, guard, guarded, memory, registers, rescue, resident, selftest,
    ticks, vectors,
};

/// What the host's command line gets when EL2 is lent. A CPU that is off and comes up after KVM got EL2 meets firmware
/// alone, since nobody traps the host's SMC any longer. It is entered at real EL2, and where the others are there
/// without FEAT_VHE, Linux would stop at one that goes on with it.
pub const ARGUMENTS_TO_LEND: &[u8] = b"kvm-arm.mode=nvhe";

/// The machine. It is large, begins as zeroes, and is needed for as long as the host runs.
static PLATFORM: SpinMutex<Platform> = SpinMutex::new(Platform::UNREAD);

/// Turns what the loader gave into tables for the MMU. Called by `boot` with the MMU off and returns what the boot CPU
/// turns it on with. Whatever is wrong ends here, with the reason on the console.
///
/// `tree` is x0 as the loader left it, `current_el` the register's value.
#[unsafe(no_mangle)]
extern "C" fn exeunt_early(tree: u64, base: u64, current_el: u64) -> *const CpuBoot {
    blackbox::begin();
    // SAFETY: this is the boot CPU, before any other runs.
    unsafe { cpu::sign_boot_cpu() };
    let el = current_el >> 2;
    if el != 2 {
        ask_tree_for_console(tree);
        cannot_start(format_args!(
            "started at EL{el}, but a hypervisor must be started at EL2 (QEMU: -M virt,virtualization=on)"
        ));
    }
    if registers::probe_e2h().is_res1() {
        ask_tree_for_console(tree);
        cannot_start("this CPU has EL2 only with VHE (HCR_EL2.E2H is RES1), and Exeunt needs E2H to be 0");
    }
    if let Err(refusal) = start::exeunt(base, boot::RESERVATION, memory::pa_range()) {
        ask_tree_for_console(tree);
        cannot_start(refusal);
    }
    let tree = find_tree(tree);
    // Its header says how long it is, and not whether that much is there.
    read_of_tree(tree.end - 1, &mut [0]);
    blackbox::settle();
    match memory::map_early(tree) {
        // SAFETY: this is the boot CPU, before any other runs, once.
        Ok(settings) => unsafe { cpu::set_boot_settings(settings) },
        Err(error) => cannot_start(format_args!("EL2's own stage 1: {error}")),
    }
}

/// Where the device tree at `address` lies, by what its header says. Called with the MMU off, when any address can be
/// read.
fn find_tree(address: u64) -> Region {
    let place = start::tree_header(address, memory::pa_range()).unwrap_or_else(|error| cannot_start(error));
    let mut header = [0; devicetree::HEADER_SIZE];
    read_of_tree(place.start, &mut header);
    start::tree(address, &header, memory::reservation(), memory::pa_range()).unwrap_or_else(|error| cannot_start(error))
}

/// Reads what should be the device tree's, at an address that nobody vouches for.
fn read_of_tree(address: u64, bytes: &mut [u8]) {
    // SAFETY: with the MMU off any address can be read, and with it on the tree's can; what answers is looked at as if
    // anybody had written it.
    if let Err(esr) = unsafe { guarded::read_bytes(address, bytes) } {
        cannot_start(format_args!(
            "reading the device tree at {address:#x} fails ({esr}): x0 must hold the address of a device tree in RAM"
        ));
    }
}

/// Finds the UART before giving up with the MMU off, so that the reason goes where somebody reads it.
fn ask_tree_for_console(address: u64) {
    if address == 0 || !address.is_multiple_of(8) {
        return;
    }
    let mut header = [0; devicetree::HEADER_SIZE];
    // SAFETY: as in `find_tree`; below EL2 there are no vectors of ours, and an address that is no RAM ends the CPU
    // here.
    if unsafe { guarded::read_bytes(address, &mut header) }.is_err() {
        return;
    }
    let Ok(size) = devicetree::total_size(&header) else { return };
    let Some(region) = Region::new(address, size as u64) else { return };
    // SAFETY: the header says that a tree of this size is here, and nothing else uses it.
    let tree = unsafe { memory::bytes(region) };
    // SAFETY: nothing else runs, and whoever comes here does not come to `exeunt_main`.
    let platform = unsafe { &mut *PLATFORM.as_mut_ptr() };
    if devicetree::scan(tree, platform).is_ok() {
        // With the MMU off a UART is reached wherever it is.
        console::set_uart(platform.console.filter(|uart| find_uart(uart, &address_map(platform, region)).is_ok()));
        firmware::set_conduit(platform.psci);
    }
}

/// Everything between the MMU and the host's first instruction, on the boot CPU.
///
/// `tree` is the device tree's address, `started` CNTPCT_EL0 at Exeunt's first instruction.
#[unsafe(no_mangle)]
extern "C" fn exeunt_main(tree: u64, started: u64) -> ! {
    cpu::boot_cpu().started.store(started, Ordering::Relaxed);
    console::mmu_is_on();
    memory::start_heap();
    blackbox::set_tables(vectors::tables());
    let region = find_tree(tree);
    // SAFETY: `exeunt_early` has found the tree to be this large and mapped it; it is Exeunt's until the host runs.
    let tree = unsafe { memory::bytes_mut(region) };
    let platform = SpinMutexGuard::leak(PLATFORM.lock());
    devicetree::scan(tree, platform).unwrap_or_else(|error| cannot_start(error));
    let platform = &*platform;
    let map = &address_map(platform, region);
    start_console(platform, map);
    let options = Options::parse(platform.options(tree)).unwrap_or_else(|error| cannot_start(error));
    log::set_max_level(options.log.unwrap_or(LevelFilter::Info));
    info!(
        "Exeunt {} in {}: {} CPU{}, {} MiB of RAM",
        env!("CARGO_PKG_VERSION"),
        memory::reservation(),
        platform.cpus.len(),
        if platform.cpus.len() == 1 { "" } else { "s" },
        platform.memory_size() >> 20
    );
    start::machine(platform, map).unwrap_or_else(|error| cannot_start(error));
    if platform.cpu_without_psci {
        warn!("a CPU has an enable-method other than psci; if the host starts it, it will not be under Exeunt");
    }
    if let Some(which) = options.selftest
        && !options.late
    {
        // On a stack like those that Exeunt works on later, with a guard page below.
        selftest::run(which);
    }
    let (kernel, kernel_header) = find_kernel(platform, map).unwrap_or_else(|error| cannot_start(error));
    let machine = prepare(platform, map, kernel, &options);
    let arguments = platform.kernel.and_then(|kernel| kernel.bootargs(tree)).unwrap_or_default();
    guard::set_up(options.guard, asks_for_crash_kernel(arguments));
    if let Some(seconds) = options.watchdog {
        crash::set_up(arguments);
        watch(seconds, (platform, tree), &machine, map, asks_for_pseudo_nmi(arguments));
    }
    blackbox::publish(platform.cpus.len(), machine.entry, platform.options(tree));
    if let Some(starts) = blackbox::last_starts() {
        info!(
            "the last start in this memory (number {starts}) has left its black box, which is kept beside this one's"
        );
    }
    let lends = machine.entry == EntryLevel::VirtualEl2 && options.kvm == Kvm::Lend;
    let arguments: &[u8] = if lends { ARGUMENTS_TO_LEND } else { b"" };
    let edits = Edits { arguments, ..Edits::new(platform, memory::reservation(), blackbox::region()) };
    let mut mapped = region;
    let used = match devicetree::edit(tree, platform, &edits) {
        Err(TreeError::NoRoom { needed, .. }) => {
            mapped = grow_tree(platform, map, kernel, needed);
            // SAFETY: as above, and nobody has what is after it; the other reference is not used again.
            let tree = unsafe { memory::bytes_mut(mapped) };
            devicetree::edit(tree, platform, &edits)
        }
        done => done,
    };
    let used = used.unwrap_or_else(|error| cannot_start(error));
    // The host reads the tree with its MMU off at first.
    memory::clean(Region { start: region.start, end: region.start + used as u64 });
    // SAFETY: the tree and the kernel are the host's from now on, and `tree` is not used again.
    unsafe { memory::give_back([mapped, kernel_header]) }.unwrap_or_else(|error| cannot_start(error));
    let hides = machine.entry == EntryLevel::VirtualEl2 && options.kvm == Kvm::Hide;
    // Linux says with the urgency of an error that its KVM gives up: it shall not be taken for one.
    let kvm = if hides { "; its KVM finds no stage 2 and gives up (kvm=hide)" } else { "" };
    info!("the host: kernel at {kernel}, device tree at {:#x}; enters it at {}{kvm}", region.start, machine.entry);
    if registers::has_el3() {
        info!("EL3 is there; if this line is the last, it keeps registers of EL2 to itself that Linux needs too");
    }
    // A line for each exit comes from the same handlers.
    if options.trace || log::max_level() == LevelFilter::Trace {
        blackbox::set_tracing(true);
    }
    if options.log.is_none() {
        // The console is the host's now. Warnings stay: they are about its mistakes, and limited in their rate.
        log::set_max_level(LevelFilter::Warn);
    }
    rescue::set_fail(options.fail);
    if let Some(fault) = options.fault {
        #[cfg(feature = "faults")]
        match hypervisor::faults::Fault::parse(fault.bytes()) {
            Some(fault) => crate::faults::arm_any(fault),
            None => cannot_start("selftest=fault: names a place or a kind that there is not"),
        }
        #[cfg(not(feature = "faults"))]
        cannot_start(format_args!("selftest=fault: with {} bytes, and a build without faults", fault.bytes().len()));
    }
    enter::start(machine, options.restart, HostEntry { pc: kernel.start, x0: region.start })
}

/// Where every other CPU, and each that wakes from a power-down state, comes to Rust, with its MMU on.
///
/// `started` is CNTPCT_EL0 at its first instruction.
#[unsafe(no_mangle)]
extern "C" fn exeunt_secondary(started: u64) -> ! {
    if let Some(cpu) = cpu::this() {
        cpu.comes_up();
        cpu.started.store(started, Ordering::Relaxed);
    }
    enter::arrive()
}

/// What is where, by the tree at `tree` from which `platform` was read.
fn address_map(platform: &Platform, tree: Region) -> AddressMap<'_> {
    AddressMap { exeunt: memory::reservation(), tree, memory: &platform.memory, pa_range: memory::pa_range() }
}

/// The pages in which a UART of the tree's has its registers, if it can be there.
fn find_uart(uart: &Uart, map: &AddressMap) -> Result<Region, DeviceError> {
    let registers = uart.registers();
    map.device(registers.start, registers.end - registers.start, uart.alignment())
}

/// Starts the log, on the UART that the tree names if there can be one and it answers.
fn start_console(platform: &Platform, map: &AddressMap) {
    let pages = platform.console.map(|uart| find_uart(&uart, map));
    let mapped = matches!(pages, Some(Ok(pages)) if memory::try_map_device(pages));
    let is_open = console::set_uart(platform.console.filter(|_| mapped));
    console::start();
    match pages {
        None => warn!("stdout-path names no UART that is known: {RING_ONLY}"),
        Some(Err(error)) => warn!("stdout-path names a UART whose registers cannot be {error}: {RING_ONLY}"),
        Some(Ok(pages)) if !is_open => warn!("nothing answers at {pages}, where stdout-path has a UART: {RING_ONLY}"),
        Some(Ok(_)) => {}
    }
}

/// What becomes of the log without a UART.
const RING_ONLY: &str = "the log is kept for LOG_READ alone";

/// Finds the host's kernel and makes sure that it can be started. Returns the memory that it takes, and what of it is
/// mapped.
fn find_kernel(platform: &Platform, map: &AddressMap) -> Result<(Region, Region), Refusal> {
    let header = start::kernel_header(platform, map)?;
    memory::map_for_reading(header).unwrap_or_else(|error| cannot_start(error));
    // SAFETY: just mapped, in RAM, and nothing runs that could change it.
    let kernel = start::kernel(platform, map, unsafe { memory::bytes(header) }, ID_AA64MMFR0_EL1.get())?;
    Ok((kernel, header))
}

/// The tree with as much memory after it as is `needed` and there is, mapped. A loader that packs its tree leaves no
/// room in it.
#[cold]
fn grow_tree(platform: &Platform, map: &AddressMap, kernel: Region, needed: usize) -> Region {
    let room = map.room_for_tree(platform, kernel);
    let tree = Region { end: room.end.min(map.tree.start + needed as u64), ..room };
    memory::map_tree_further(map.tree, tree).unwrap_or_else(|error| cannot_start(error));
    tree
}

/// What the device tree's GIC is to the boot CPU, and at which level the host is entered then.
fn gic_and_level(options: &Options, tree: Option<devicetree::Gic>) -> (Gic, EntryLevel) {
    let tree = Gic::from(tree);
    let here = gic::on_this_cpu(tree, cpu::boot_cpu().ids());
    let level = options.entry.on(tree, here).unwrap_or_else(|reason| {
        warn!("{reason}: the host is entered at EL1");
        EntryLevel::El1
    });
    (here, level)
}

/// Sees to it that CPUs are watched, if they can be.
#[cold]
#[inline(never)]
fn watch(seconds: u16, tree: (&Platform, &[u8]), machine: &Machine, map: &AddressMap, by_priority: bool) {
    let psci = machine::psci();
    let number = |affinity| (0..psci.count()).find(|&cpu| psci.affinity(cpu) == Some(affinity));
    let gic = (machine.gic, machine.gicv2);
    let prepared = match gic {
        (Gic::V3, _) if by_priority => Err(NoWatchdog::PSEUDO_NMI),
        _ => ticks::prepare(seconds, tree, gic, map, machine.stage2, &machine.cpus, number),
    };
    match prepared {
        Ok(()) => info!("watchdog: the host panics on a CPU that hangs for {} s", u32::from(seconds)),
        Err(refusal) => warn!("no watchdog: {}", refusal.words()),
    }
}

/// Makes what CPU `index` needs.
fn place_cpu(index: usize, is_boot: bool) -> Result<&'static PerCpu, memory::Error> {
    memory::map_stack(index)?;
    let cpu = if is_boot { memory::place_boot_cpu(index) } else { memory::place_cpu(index)? };
    blackbox::make_block(cpu, machine::psci().affinity(index).unwrap_or_default());
    memory::open_windows(cpu)?;
    Ok(cpu)
}

/// Makes what all CPUs need before the host may run on any.
fn prepare(platform: &'static Platform, map: &AddressMap, kernel: Region, options: &Options) -> Machine {
    let psci = machine::psci();
    let boot = psci
        .init(&platform.cpus, MPIDR_EL1.get(), &machine::Below)
        .unwrap_or_else(|error| cannot_start(format_args!("the device tree's CPUs: {error}")));
    cpu::set_boot_index(boot);
    let heap_end = blackbox::place(psci.count(), options.trace)
        .unwrap_or_else(|| cannot_start("no room in Exeunt's 2 MiB for the black box"));
    memory::grow_heap(heap_end);
    let mut cpus = [None; MAX_CPUS];
    for (index, slot) in cpus.iter_mut().enumerate().take(psci.count()) {
        *slot = Some(place_cpu(index, index == boot).unwrap_or_else(|error| cannot_start(error)));
    }
    // SAFETY: no other CPU runs, and this is called once.
    unsafe {
        resident::prepare(
            &platform.memory,
            cpus.iter().flatten().map(|cpu| [psci.affinity(cpu.index()).unwrap_or_default(), cpu.address()]),
        );
    };
    let stage2 = map
        .stage2(&mut TablePages, platform.highest, blackbox::region())
        .unwrap_or_else(|error| cannot_start(format_args!("the host's stage 2: {error}")));
    debug!(
        "stage 2: IPA size {} bits, VTCR_EL2 {:#x}, VTTBR_EL2 {:#x}",
        stage2.layout().ipa_bits(),
        stage2.vtcr_el2(),
        stage2.vttbr_el2()
    );
    let tree_gic = platform.gic.filter(|_| options.gic != GicTaken::Unknown);
    let gicv2 = start::gicv2(tree_gic, map).unwrap_or_else(|error| cannot_start(error));
    if let Some(frames) = gicv2 {
        gic::map(frames).unwrap_or_else(|error| cannot_start(error));
        // SAFETY: just mapped.
        unsafe { gic::probe(frames) }.unwrap_or_else(|error| cannot_start(error));
    }
    let (gic, entry) = gic_and_level(options, tree_gic);
    Machine {
        ram: HostRam::new(platform, map.exeunt, [kernel, map.tree, platform.initrd().unwrap_or_default()]),
        gic,
        gicv2,
        stage2: Stage2(stage2),
        cpus,
        entry,
        leave_test: options.leave,
        last_test: options.selftest.filter(|_| options.late),
        kvm: options.kvm,
        gic_holds: options.gic != GicTaken::HoldsNothing,
        stats: options.stats,
    }
}
