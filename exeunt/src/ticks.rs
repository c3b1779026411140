//! The watchdog's ticks: a timer of EL2's own on each CPU, whose interrupt comes here whatever the host masks.
//!
//! Owns CNTHP, HCR_EL2.FMO, ICH_HCR_EL2.TC, and the interrupt of that timer in the GIC: how it is put beside those of
//! the host, and how all is given back. What a store of the host's to the GIC becomes is decided in
//! `hypervisor::watchdog::gic`; what a tick finds is [`crate::watchdog`]'s. Without the option nothing here is ever
//! done.
//!
//! A CPU has ticks while the host runs on it at EL1 or EL0: not in virtual EL2, where the GIC holds everything, and not
//! when Exeunt has left it.
//!
//! With HCR_EL2.FMO a GICv3 gives the host at EL1 a virtual Group 0, and virtual registers for what both groups share.
//! Those trap (ICH_HCR_EL2.TC), and EL2 carries them out, whose own accesses are physical. So does ICC_SGI1R_EL1.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, HCR_EL2, ReadWriteable, Readable};
use hypervisor::devicetree::{Gicv2, Platform};
use hypervisor::features::Gic;
use hypervisor::paging::PAGE_SIZE;
use hypervisor::paging::stage2::Attributes;
use hypervisor::placement::AddressMap;
use hypervisor::ratelimit::RateLimit;
use hypervisor::syndrome::Encoding;
use hypervisor::trap;
use hypervisor::watchdog::gic::{
    self, FIQ_ENABLE, ICACTIVER, ICENABLER, IGROUPR, INTERFACE, IPRIORITYR, ISENABLER, PRIORITIES, Redistributors,
    Refusal,
};
use hypervisor::watchdog::{Finding, Sample, Times, Watch};
use log::warn;

use crate::cpu::PerCpu;
use crate::stage2::{self, Stage2};
use crate::{guarded, memory, registers};

/// The generation of the GIC, once a watchdog is wanted and possible; else 0.
static KIND: AtomicU8 = AtomicU8::new(0);

const V2: u8 = 2;
const V3: u8 = 3;

/// The first pages of a GICv2's distributor and CPU interface; the ends of what a GICv3's redistributors have, and its
/// distributor.
static FRAMES: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// The interrupt's INTID.
static INTID: AtomicU8 = AtomicU8::new(0);

/// How many seconds a hang may last, and what that is in ticks of the counter and of the timer.
static SECONDS: AtomicU32 = AtomicU32::new(0);
static PERIOD: AtomicU64 = AtomicU64::new(0);
static SOON: AtomicU64 = AtomicU64::new(0);
static GRACE: AtomicU16 = AtomicU16::new(0);

/// How many CPUs have ticks: a GICv2 has its shared interrupts in Group 1 while there are any.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// CNTPCT_EL0 when the host was to panic last, on any CPU.
static PANICKED: AtomicU64 = AtomicU64::new(0);

/// GICD_CTLR of a GICv2 and, from the second on, GICD_IGROUPR1 to 31, as the host has them.
static SHARED: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];

/// GICD_CTLR, at both; GICD_CTLR.DS of a GICv3 (IHI 0069H, 12.9.4); GICD_TYPER.SecurityExtn of a GICv2.
const GICD_CTLR: u64 = 0;
const DS: u32 = 1 << 6;
/// GICD_CTLR.RWP; GICR_WAKER of a GICv3, ProcessorSleep and ChildrenAsleep (IHI 0069H, 12.11.42).
const RWP: u32 = 1 << 31;
const GICR_WAKER: u64 = 0x14;
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;
const GICD_TYPER: u64 = 4;
const SECURITY: u32 = 1 << 10;
/// GICD_SGIR of a GICv2.
const GICD_SGIR: u64 = 0xf00;
/// GICC_CTLR, PMR, IAR, EOIR, HPPIR, APR0 and NSAPR0, of which there are four each (IHI 0048B, 4.4).
const GICC_CTLR: u64 = 0;
const GICC_PMR: u64 = 4;
const GICC_IAR: u64 = 0xc;
const GICC_EOIR: u64 = 0x10;
const GICC_HPPIR: u64 = 0x18;
const GICC_APR: u64 = 0xd0;
const GICC_NSAPR: u64 = 0xe0;
/// ICH_HCR_EL2.TC: accesses of EL1's to what both groups share trap.
const TC: u64 = 1 << 10;
/// ICC_CTLR_EL1.EOImode: the end of an interrupt does not deactivate it.
const EOI_MODE: u64 = 1 << 1;
/// From here to 1023 INTIDs are none.
const SPECIAL: u32 = 1020;

macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: a register of the GIC's CPU interface or of EL2's timer, which nothing at EL2 depends on.
        unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags)) };
        value
    }};
}

macro_rules! write {
    ($name:literal, $value:expr) => {
        // SAFETY: as for `read`.
        unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) $value, options(nostack, preserves_flags)) }
    };
}

/// A register of the GIC's memory, in the page at `frame`; 0 where it does not answer.
#[inline(never)]
fn get(frame: u64, offset: u64) -> u32 {
    // SAFETY: mapped by `prepare`; none of those that are read here changes by it.
    unsafe { guarded::load32(frame | offset) }.result().unwrap_or(0) as u32
}

#[inline(never)]
fn put(frame: u64, offset: u64, value: u32) {
    // SAFETY: mapped by `prepare`; nothing at EL2 depends on it, and if it does not answer, nothing can be done.
    let _ = unsafe { guarded::store32(value.into(), frame | offset) };
}

fn put_byte(frame: u64, offset: u64, value: u8) {
    // SAFETY: as for `put`.
    let _ = unsafe { guarded::store8(value.into(), frame | offset) };
}

fn kind() -> u8 {
    KIND.load(Ordering::Relaxed)
}

fn frame(index: usize) -> u64 {
    FRAMES[index].load(Ordering::Relaxed)
}

fn intid() -> u8 {
    INTID.load(Ordering::Relaxed)
}

fn times() -> Times {
    let [period, soon] = [&PERIOD, &SOON].map(|time| time.load(Ordering::Relaxed));
    Times { period, soon, grace: GRACE.load(Ordering::Relaxed) }
}

/// Learns from the tree what the watchdog needs, and makes the host's stores to the GIC come here. Before the host
/// runs.
/// `number` gives the CPU with an affinity.
pub fn prepare(
    seconds: u16,
    (platform, tree): (&Platform, &[u8]),
    gic: (Gic, Option<Gicv2>),
    map: &AddressMap,
    stage2: Stage2,
    cpus: &[Option<&'static PerCpu>],
    number: impl Fn(u64) -> Option<usize>,
) -> Result<(), Refusal> {
    let (kind, frames) = match gic {
        (Gic::V3, _) => (V3, find_v3(platform, map, cpus, number)?),
        (_, Some(gic)) => (V2, [gic.distributor, gic.cpu_interface, 0]),
        _ => return Err(Refusal::NO_GIC),
    };
    if kind == V2 && get(frames[0], GICD_TYPER) & SECURITY != 0 {
        return Err(Refusal::SECURE);
    }
    if registers::has_el3() {
        return Err(Refusal::EL3);
    }
    let intid = gic::timer_interrupt(platform, tree).ok_or(Refusal::NO_INTERRUPT)?;
    // From the first page on the host's stores come here.
    KIND.store(kind, Ordering::Relaxed);
    for index in 0..cpus.len().max(2) {
        let page = match (kind, cpus.get(index)) {
            (V2, _) => frames[..2].get(index).copied(),
            (_, Some(Some(cpu))) => Some(cpu.with_watch(|watch| watch.frame)),
            _ => None,
        };
        let Some(page) = page else { continue };
        let set = || stage2.set(page..page.saturating_add(PAGE_SIZE), Attributes::ReadOnly);
        if !matches!(stage2::changing(set), Some(Ok(()))) {
            return Err(Refusal::REGISTERS);
        }
    }
    let Times { period, soon, grace } = Times::new(seconds, CNTFRQ_EL0.get());
    for (place, frame) in FRAMES.iter().zip(frames) {
        place.store(frame, Ordering::Relaxed);
    }
    INTID.store(intid, Ordering::Relaxed);
    PERIOD.store(period, Ordering::Relaxed);
    SOON.store(soon, Ordering::Relaxed);
    GRACE.store(grace, Ordering::Relaxed);
    SECONDS.store(seconds.into(), Ordering::Relaxed);
    Ok(())
}

/// Maps the page of a register of the GIC's, and reads it.
#[inline(never)]
fn look(map: &AddressMap, address: u64) -> Option<u32> {
    map.device(address & !(PAGE_SIZE - 1), PAGE_SIZE, PAGE_SIZE).ok()?;
    memory::map_device(address).ok()?;
    // SAFETY: just mapped; reading these registers has no effect.
    unsafe { guarded::load32(address) }.result().ok().map(|value| value as u32)
}

/// Finds whose the redistributors of a GICv3 are. Gives the ends of what they have.
#[inline(never)]
fn find_v3(
    platform: &Platform,
    map: &AddressMap,
    cpus: &[Option<&'static PerCpu>],
    number: impl Fn(u64) -> Option<usize>,
) -> Result<[u64; 3], Refusal> {
    let [distributor, regions @ ..] = &*platform.gic_registers else { return Err(Refusal::REGISTERS) };
    if look(map, distributor.start | GICD_CTLR).ok_or(Refusal::REGISTERS)? & DS == 0 {
        return Err(Refusal::SECURE);
    }
    let mut ends = [u64::MAX, 0, distributor.start];
    let is_without = |cpu: &&PerCpu| cpu.with_watch(|watch| watch.frame) == 0;
    // What comes after those of the redistributors is not asked for.
    for &region in regions {
        let mut way = Redistributors::of(region);
        while let Some(place) = way.next()
            && let (Some(low), Some(high)) = (look(map, place), look(map, place | 4))
        {
            let (affinity, frame) = way.found([low, high]);
            // Whether there is something at the frame is known when it is read.
            if let Some(cpu) = number(affinity).and_then(|cpu| *cpus.get(cpu)?)
                && look(map, frame).is_some()
            {
                ends = [ends[0].min(frame), ends[1].max(frame), ends[2]];
                cpu.with_watch(|watch| watch.frame = frame);
            }
        }
        if !cpus.iter().flatten().any(is_without) {
            return Ok(ends);
        }
    }
    Err(Refusal::REGISTERS)
}

/// Whether the host's accesses to the GIC may come here.
#[inline]
pub fn are_wanted() -> bool {
    kind() != 0
}

/// How many seconds a hang may last.
pub fn seconds() -> u32 {
    SECONDS.load(Ordering::Relaxed)
}

/// This CPU has ticks.
#[inline]
pub fn come_to(cpu: &PerCpu) -> bool {
    cpu.watched.load(Ordering::Relaxed) != 0
}

/// Begins them on this CPU, whose host goes on at EL1 or EL0 next. Once more on one that has lost its power is no
/// mistake.
#[inline]
pub fn begin(cpu: &PerCpu) {
    if seconds() != 0 && !cpu.in_window() {
        begin_now(cpu);
    }
}

#[cold]
#[inline(never)]
fn begin_now(cpu: &PerCpu) {
    static LIMIT: RateLimit = RateLimit::new();
    let is_new = !come_to(cpu);
    let is_first = is_new && COUNT.fetch_add(1, Ordering::AcqRel) == 0;
    cpu.watched.store(kind(), Ordering::Relaxed);
    cpu.block().set_watched(true);
    begin_again(cpu);
    let done = cpu.with_watch(|watch| match kind() {
        V2 => begin_v2(watch, is_new, is_first),
        _ => begin_v3(watch, is_new),
    });
    if !done {
        end(cpu, false);
        trap::limited_by(&LIMIT, CNTPCT_EL0.get(), CNTFRQ_EL0.get(), "lines about CPUs without a watchdog", || {
            warn!("CPU {}: no watchdog: {}", cpu.index(), Refusal::NOT_TAKEN.words());
        });
        return;
    }
    HCR_EL2.modify(HCR_EL2::FMO::SET);
    due_next(cpu, CNTPCT_EL0.get().wrapping_add(times().period));
    write!("cnthp_ctl_el2", 1_u64);
    barrier::isb(barrier::SY);
}

/// The next tick is due then.
fn due_next(cpu: &PerCpu, due: u64) {
    cpu.tick_due.store(due, Ordering::Relaxed);
    write!("cnthp_cval_el2", due);
    barrier::isb(barrier::SY);
}

/// Where the registers of this CPU's private interrupts are.
fn private(watch: &Watch) -> u64 {
    if kind() == V2 { frame(0) } else { watch.frame }
}

/// Remembers how the host has the interrupt.
fn remember(watch: &mut Watch) {
    let frame = private(watch);
    watch.host.groups = get(frame, IGROUPR);
    watch.host.enabled = get(frame, ISENABLER) >> intid() & 1 != 0;
    let priority = get(frame, IPRIORITYR | u64::from(intid() & !3));
    watch.host.priority = priority.to_le_bytes()[usize::from(intid() % 4)];
}

/// Sets the interrupt up among the private ones, whose groups become `groups`. Whether the GIC has taken it.
#[inline(never)]
fn set(frame: u64, groups: u32, priority: u8, is_enabled: bool) -> bool {
    let bit = 1 << intid();
    put(frame, ICENABLER, bit);
    put(frame, IGROUPR, groups);
    put_byte(frame, IPRIORITYR | u64::from(intid()), priority);
    put(frame, ICACTIVER, bit);
    if is_enabled {
        put(frame, ISENABLER, bit);
    }
    barrier::dsb(barrier::SY);
    get(frame, IGROUPR) == groups && (get(frame, ISENABLER) & bit != 0) == is_enabled
}

/// Moves the active priorities of a GICv2 to the other group, as the interrupts that have them move.
#[inline(never)]
fn move_priorities(from: u64, to: u64) {
    let interface = frame(1);
    // How many there are the compiler is not to know: it would write this down for each.
    for register in (0..core::hint::black_box(16)).step_by(4) {
        let active = get(interface, from | register);
        put(interface, to | register, get(interface, to | register) | active);
        put(interface, from | register, 0);
    }
}

/// The register of a GICv2's CPUs whose value [`SHARED`] has there.
const fn shared(index: usize) -> u64 {
    if index == 0 { GICD_CTLR } else { IGROUPR | (4 * index as u64) }
}

fn begin_v2(watch: &mut Watch, is_new: bool, is_first: bool) -> bool {
    let [distributor, interface] = [frame(0), frame(1)];
    if is_first {
        for (index, place) in SHARED.iter().enumerate() {
            let host = get(distributor, shared(index));
            place.store(host, Ordering::Relaxed);
            put(distributor, shared(index), if index == 0 { gic::distributor_control(host) } else { u32::MAX });
        }
    }
    if is_new {
        remember(watch);
        let is = get(interface, GICC_CTLR);
        if !watch.stays_open || is != watch.interface | INTERFACE & !FIQ_ENABLE {
            watch.interface = is;
        }
        move_priorities(GICC_APR, GICC_NSAPR);
        if get(interface, GICC_PMR) == 0 {
            put(interface, GICC_PMR, PRIORITIES);
        }
    }
    let done = set(distributor, !(1 << intid()), 0, true);
    put(interface, GICC_CTLR, gic::interface_control(watch.interface));
    done
}

/// `together`: no CPU has ticks any longer, or none that counts.
fn end_v2(watch: &mut Watch, together: bool) {
    let [distributor, interface] = [frame(0), frame(1)];
    set(distributor, watch.host.groups, watch.host.priority, watch.host.enabled);
    move_priorities(GICC_NSAPR, GICC_APR);
    watch.stays_open = !together && watch.interface & 1 != 0;
    let open = if watch.stays_open { INTERFACE & !FIQ_ENABLE } else { 0 };
    put(interface, GICC_CTLR, watch.interface | open);
    if together {
        for (index, place) in SHARED.iter().enumerate() {
            put(distributor, shared(index), place.load(Ordering::Relaxed));
        }
    }
    barrier::dsb(barrier::SY);
}

fn begin_v3(watch: &mut Watch, is_new: bool) -> bool {
    if is_new {
        remember(watch);
        watch.interface = read!("S3_0_C12_C12_6") as u32; // ICC_IGRPEN0_EL1
        turn_on_v3(watch);
    }
    let done = set(watch.frame, get(watch.frame, IGROUPR) & !(1 << intid()), 0, true);
    write!("S3_0_C12_C12_6", 1_u64);
    write!("S3_4_C12_C11_0", TC); // ICH_HCR_EL2; what it traps is carried out
    done
}

/// What a host does to a GICv3 before it has interrupts, as far as it has not: for the ticks before that.
fn turn_on_v3(watch: &Watch) {
    let (distributor, redistributor) = (frame(2), watch.frame - 0x1_0000);
    for control in gic::turned_on(get(distributor, GICD_CTLR)).into_iter().flatten() {
        put(distributor, GICD_CTLR, control);
        await_clear(distributor, GICD_CTLR, RWP);
    }
    let waker = get(redistributor, GICR_WAKER);
    if waker & PROCESSOR_SLEEP != 0 {
        put(redistributor, GICR_WAKER, waker & !PROCESSOR_SLEEP);
        await_clear(redistributor, GICR_WAKER, CHILDREN_ASLEEP);
    }
    if read!("S3_0_C4_C6_0") == 0 {
        write!("S3_0_C4_C6_0", u64::from(PRIORITIES)); // ICC_PMR_EL1
    }
}

/// Waits until a register has taken what was written. One that never says so does not get its ticks.
fn await_clear(frame: u64, offset: u64, bits: u32) {
    for _ in 0..1_000_000 {
        if get(frame, offset) & bits == 0 {
            break;
        }
    }
}

fn end_v3(watch: &Watch) {
    let bit = 1 << intid();
    let groups = get(watch.frame, IGROUPR) & !bit | watch.host.groups & bit;
    set(watch.frame, groups, watch.host.priority, watch.host.enabled);
    write!("S3_0_C12_C12_6", u64::from(watch.interface));
    write!("S3_4_C12_C11_0", 0_u64); // ICH_HCR_EL2
}

/// Ends them on this CPU: the timer is off, and the GIC is as the host has set it. `together` if Exeunt leaves all
/// CPUs, none of which runs its host meanwhile.
#[inline]
pub fn end(cpu: &PerCpu, together: bool) {
    if come_to(cpu) {
        end_now(cpu, together);
    }
}

#[cold]
#[inline(never)]
fn end_now(cpu: &PerCpu, together: bool) {
    write!("cnthp_ctl_el2", 0_u64);
    HCR_EL2.modify(HCR_EL2::FMO::CLEAR);
    barrier::isb(barrier::SY);
    cpu.watched.store(0, Ordering::Relaxed);
    cpu.block().set_watched(false);
    let is_last = COUNT.fetch_sub(1, Ordering::AcqRel) == 1;
    cpu.with_watch(|watch| match kind() {
        V2 => end_v2(watch, together || is_last),
        _ => end_v3(watch),
    });
}

/// Another kernel has begun on this CPU: what was found of the one before does not count.
pub fn begin_anew(cpu: &PerCpu) {
    PANICKED.store(0, Ordering::Relaxed);
    begin_again(cpu);
}

/// What was found on this CPU does not count, and what waits there is nobody's task.
pub fn begin_again(cpu: &PerCpu) {
    cpu.with_watch(|watch| watch.watchdog.begin(CNTPCT_EL0.get()));
}

/// What an FIQ was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// A tick; the next one is due.
    Tick,
    /// It is there no longer.
    Nothing,
    /// Another interrupt of Group 0.
    Other(u32),
}

/// Looks what an FIQ is that has come to this CPU, and ends it if it is a tick.
#[inline(never)]
pub fn came(cpu: &PerCpu) -> Came {
    let [distributor, interface] = [frame(0), frame(1)];
    let is_v2 = kind() == V2;
    // ICC_HPPIR0_EL1
    let pending = if is_v2 { get(interface, GICC_HPPIR) & 0x3ff } else { read!("S3_0_C12_C8_2") as u32 };
    if pending != intid().into() {
        return if (SPECIAL..1024).contains(&pending) { Came::Nothing } else { Came::Other(pending) };
    }
    // ICC_IAR0_EL1
    let taken = if is_v2 { get(interface, GICC_IAR) } else { read!("S3_0_C12_C8_0") as u32 };
    // Its line goes down before its end.
    due_next(cpu, CNTPCT_EL0.get().wrapping_add(times().period));
    if is_v2 {
        put(interface, GICC_EOIR, taken);
        // The host may have EOIs that deactivate nothing.
        put(distributor, ICACTIVER, 1 << intid());
    } else {
        write!("S3_0_C12_C8_1", u64::from(taken)); // ICC_EOIR0_EL1
        if read!("S3_0_C12_C12_4") & EOI_MODE != 0 {
            barrier::isb(barrier::SY);
            write!("S3_0_C12_C11_1", u64::from(taken)); // ICC_DIR_EL1
        }
    }
    barrier::dsb(barrier::SY);
    Came::Tick
}

/// The interrupt of the host's with the highest priority that is pending at this CPU.
pub fn pending() -> Option<u32> {
    // ICC_HPPIR1_EL1
    let pending = if kind() == V2 { get(frame(1), GICC_HPPIR) & 0x3ff } else { read!("S3_0_C12_C12_2") as u32 };
    (!(SPECIAL..1024).contains(&pending)).then_some(pending)
}

/// Gives the watchdog of this CPU what a tick has found. What that says, if it is a sample, and whether the CPU may be
/// hung.
#[inline(never)]
pub fn take(cpu: &PerCpu, sample: &Sample) -> (Finding, bool) {
    let times = times();
    let (finding, may_hang, due) = cpu.with_watch(|Watch { watchdog, .. }| {
        let may_hang = watchdog.look(sample);
        let is_sample = watchdog.is_sample(sample.now, times);
        let finding = if is_sample { watchdog.sample(sample, times) } else { Finding::Well };
        (finding, may_hang, watchdog.due(sample.now, times))
    });
    due_next(cpu, due);
    (finding, may_hang)
}

/// The host is to panic on this CPU, since somebody wants it to.
pub fn panics(cpu: &PerCpu) {
    cpu.with_watch(|watch| watch.watchdog.panics());
}

/// Whether the host may panic on this CPU: two that do so at the same time would be in each other's way.
pub fn is_first_to_panic(now: u64) -> bool {
    let (last, Times { period, grace, .. }) = (PANICKED.load(Ordering::Relaxed), times());
    let is_over = last == 0 || now.wrapping_sub(last) > period.saturating_mul(grace.into());
    is_over && PANICKED.compare_exchange(last, now | 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// All that was counted on this CPU is forgotten.
pub fn forget(cpu: &PerCpu) {
    cpu.with_watch(|watch| watch.watchdog.forget());
}

/// Carries out a store of the host's on this CPU, of `size` bytes to `address`, if it is one to a register of the
/// GIC's.
#[inline(never)]
pub fn store(cpu: &PerCpu, address: u64, size: u8, value: u64) -> bool {
    let (page, offset) = (address & !(PAGE_SIZE - 1), address & (PAGE_SIZE - 1));
    if !matches!(size, 1 | 4) || !address.is_multiple_of(size.into()) {
        return false;
    }
    let is_on = come_to(cpu);
    let value = cpu.with_watch(|watch| match kind() {
        V2 if page == frame(0) => store_v2(cpu, watch, offset, size, value),
        V2 if page == frame(1) => match offset {
            GICC_CTLR if is_on => {
                watch.interface = value as u32;
                Some(gic::interface_control(value as u32).into())
            }
            // Those of the group that the host knows.
            GICC_APR..GICC_NSAPR if is_on => {
                put(page, offset ^ GICC_APR ^ GICC_NSAPR, value as u32);
                Some(0)
            }
            GICC_NSAPR..0xf0 if is_on => None,
            _ => Some(value),
        },
        V3 if is_on && page == watch.frame => Some(watch.host.store(intid(), offset, size, value)),
        // Of another CPU, whose interrupt is nobody else's to change.
        V3 if page >= frame(0) && page <= frame(1) => Some(gic::Host::default().store(intid(), offset, size, value)),
        _ => Some(u64::MAX),
    });
    match value {
        Some(u64::MAX) => return false,
        Some(value) if size == 4 => put(page, offset, value as u32),
        Some(value) => put_byte(page, offset, value as u8),
        None => {}
    }
    true
}

/// What a store to the distributor of a GICv2 becomes; nothing if it is only remembered.
fn store_v2(cpu: &PerCpu, watch: &mut Watch, offset: u64, size: u8, value: u64) -> Option<u64> {
    let (is_on, any_is_on) = (come_to(cpu), COUNT.load(Ordering::Relaxed) != 0);
    Some(match offset {
        GICD_CTLR if any_is_on => {
            SHARED[0].store(value as u32, Ordering::Relaxed);
            gic::distributor_control(value as u32).into()
        }
        0x84..0x100 if any_is_on => {
            SHARED[(offset - IGROUPR) as usize / 4].store(value as u32, Ordering::Relaxed);
            return None;
        }
        GICD_SGIR if any_is_on => {
            // A host that has acknowledged a tick before it came here has to end it, or it would be the last.
            if is_on && CNTPCT_EL0.get() > cpu.tick_due.load(Ordering::Relaxed).saturating_add(times().period) {
                put(frame(0), ICACTIVER, 1 << intid());
            }
            gic::sgi(value as u32).into()
        }
        _ if is_on => {
            let value = watch.host.store(intid(), offset, size, value);
            if offset == IGROUPR { u64::from(!(1_u32 << intid())) } else { value }
        }
        _ => value,
    })
}

/// Carries out an access of the host's at EL1 to a register of a GICv3 that traps: a store of this value, or a load.
/// What was loaded, or 0; nothing for all else.
pub fn access(cpu: &PerCpu, register: Encoding, store: Option<u64>) -> Option<u64> {
    let Encoding { op0: 3, op1: 0, crn, crm, op2 } = register else { return None };
    if cpu.watched.load(Ordering::Relaxed) != V3 {
        return None;
    }
    match (crn, crm, op2, store) {
        (12, 11, 1, Some(value)) => write!("S3_0_C12_C11_1", value), // ICC_DIR_EL1
        (12, 11, 5, Some(value)) => write!("S3_0_C12_C11_5", value), // ICC_SGI1R_EL1
        (12, 11, 6, Some(value)) => write!("S3_0_C12_C11_6", value), // ICC_ASGI1R_EL1
        (12, 11, 7, Some(value)) => write!("S3_0_C12_C11_7", value), // ICC_SGI0R_EL1
        (4, 6, 0, Some(value)) => write!("S3_0_C4_C6_0", value),     // ICC_PMR_EL1
        (4, 6, 0, None) => return Some(read!("S3_0_C4_C6_0")),
        (12, 12, 4, Some(value)) => write!("S3_0_C12_C12_4", value), // ICC_CTLR_EL1
        (12, 12, 4, None) => return Some(read!("S3_0_C12_C12_4")),
        (12, 11, 3, None) => return Some(read!("S3_0_C12_C11_3")), // ICC_RPR_EL1
        _ => return None,
    }
    Some(0)
}
