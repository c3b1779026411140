//! Counts instructions for `make bench`: from reset to the guest's first instructions, for round trips to EL2, for the
//! start in virtual EL2, and for the ways out of Exeunt and back.
//!
//! Counts, because the machine is expected to run with `-icount shift=0,sleep=off` and a generic timer of 1 GHz: then
//! each instruction takes one tick of the counter. It says which frequency it found, and the bench refuses any other.
//! Each line is `rounds: NAME NUMBER`.
//!
//! The word on the command line says what is measured: `start-only`; `calls`, on one CPU; `reset`, `leave`, `restart`
//! and `crash`, among all CPUs; `restart-bare`, where there is no Exeunt; `watched`, what the watchdog's exits cost.
//! With `guarded` before it, Exeunt guards memory for a crash kernel meanwhile. Entered at EL2 or virtual EL2, the
//! guest also measures what it costs to go to EL1 from there.

mod crash;
mod restart;

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use guest_abi::call::{self, WayBack};
use guest_abi::doorbell::{A0, DONE, GO, MAGIC, MIRROR, OPEN, PRESENT, channel, seal};
use guest_abi::stub::{FINALISE_EL2, GET_ICH_VTR_EL2, RESET_VECTORS, SET_VECTORS, STUB_ERR, SUCCESS as STUB_SUCCESS};
use guest_abi::vendor;

use crate::conformance::stub;
use crate::firmware::{AFFINITY_INFO, PSCI_FEATURES, PSCI_VERSION, SMCCC_VERSION};
use crate::machine::{self, machine};
use crate::start::{self, Start};
use crate::{doorbell, gic, level, smp};

/// Times that each call is measured; the smallest and the largest count are printed if they differ.
const SAMPLES: usize = 16;
/// Times that CPUs go out among others.
const ROUNDS: usize = 4;

/// SMCCC_ARCH_WORKAROUND_1.
const ARCH_WORKAROUND_1: u64 = 0x8000_8000;
/// A number that no stub knows (Linux `HVC_STUB_HCALL_NR` is 5 at most).
const UNKNOWN_STUB: u64 = 0x7f;
/// A number of the vendor-specific hypervisor range that nobody has.
const UNKNOWN_OWN: u64 = 0x8600_ff42;
/// A call of the standard hypervisor services, which Exeunt has none of.
const UNKNOWN_SMCCC: u64 = 0x8500_0042;
const NOT_SUPPORTED: u64 = u64::MAX;

/// Instructions between two readings of the counter, of which `$call` is one and the second reading another; and x0 and
/// x1 after it.
macro_rules! ticks {
    ($call:literal, $x0:expr, $x1:expr) => {{
        let (before, after): (u64, u64);
        let (mut x0, mut x1): (u64, u64) = ($x0, $x1);
        // SAFETY: an SMCCC call keeps x18 to x30 and the stack, and so do the stub calls of Exeunt; everything that
        // they may change is declared. What the calls do to EL2 is what is measured.
        unsafe {
            asm!(
                "mrs x18, cntvct_el0",
                $call,
                "mrs x17, cntvct_el0",
                inout("x0") x0, inout("x1") x1, inout("x2") 0u64 => _, inout("x3") 0u64 => _, out("x4") _, out("x5") _,
                out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _,
                out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") after, out("x18") before,
                options(nostack)
            );
        }
        Count { ticks: after - before, x: [x0, x1] }
    }};
}

/// What [`ticks`] gives.
#[derive(Clone, Copy)]
struct Count {
    ticks: u64,
    x: [u64; 2],
}

/// The least and the most of several counts.
struct Extremes {
    name: &'static str,
    floor: u64,
    least: u64,
    most: u64,
}

impl Extremes {
    const fn new(name: &'static str, floor: u64) -> Self {
        Self { name, floor, least: u64::MAX, most: 0 }
    }

    /// Takes a count of a call that must have answered `x0`.
    fn take(&mut self, count: Count, x0: u64) {
        check!(count.x[0] == x0, "{}: x0 is {:#x}, expected {x0:#x}", self.name, count.x[0]);
        self.least = self.least.min(count.ticks - self.floor);
        self.most = self.most.max(count.ticks - self.floor);
    }

    fn print(&self) {
        println!("rounds: {} {}", self.name, self.least);
        if self.most != self.least {
            println!("rounds: {}-most {}", self.name, self.most);
        }
    }
}

/// Measures a call that answers `x0`.
fn report_answer(name: &'static str, floor: u64, x0: u64, mut measure: impl FnMut() -> Count) {
    // Once unmeasured: the first call may do what later ones need not.
    measure();
    let mut extremes = Extremes::new(name, floor);
    for _ in 0..SAMPLES {
        extremes.take(measure(), x0);
    }
    extremes.print();
}

/// Measures a call whatever it answers.
fn report(name: &'static str, floor: u64, mut measure: impl FnMut() -> Count) {
    let x0 = measure().x[0];
    report_answer(name, floor, x0, measure);
}

/// A number as a 64-bit argument.
const fn wide(number: u32) -> u64 {
    number as u64
}

/// Bytes that Linux 6.12 invalidates in the caches before it has its own page tables: 24 KiB of them, and the boot
/// arguments.
const INVALIDATED: usize = 385 * 64;

#[repr(C, align(64))]
struct Lines([u8; INVALIDATED]);

static LINES: Lines = Lines([0; INVALIDATED]);

/// What was measured at EL2.
struct Window {
    floor: u64,
    /// One write and one read of a register of EL2, one read of an ID register, one `dc ivac`.
    single: [Count; 4],
    /// All of [`init_el2`].
    whole: u64,
}

/// Measures what a host does at EL2, and goes to EL1 as Linux does.
fn in_virtual_el2(vectors: u64) -> Window {
    let floor = ticks!("", 0, 0).ticks;
    let lines = (&raw const LINES).addr() as u64;
    // Exeunt maps the page of these instructions when the first of them traps.
    let _ = ticks!("mrs x0, sctlr_el2", 0, 0);
    let single = [
        ticks!("msr hstr_el2, xzr", 0, 0),
        ticks!("mrs x0, sctlr_el2", 0, 0),
        ticks!("mrs x0, id_aa64mmfr1_el1", 0, 0),
        ticks!("dc ivac, x0", lines, 0),
    ];
    // SAFETY: at EL2, as the caller has asked; nothing has changed the lines.
    let whole = unsafe { init_el2(lines, lines + INVALIDATED as u64, vectors) };
    Window { floor, single, whole }
}

/// What Linux 6.12 does at EL2 before it goes to EL1, on a CPU of Armv8.0 with a GICv3: the accesses of `head.S` and
/// `el2_setup.h` that virtual EL2 answers, in their order, without the branches between them. VBAR_EL2 becomes
/// `vectors`; with 0 this guest goes out of Exeunt to the resident stub. Returns ticks from the first to EL1.
///
/// # Safety
/// At EL2 only. Nothing in the caches for addresses from `from` to `to` is needed; `vectors` is a vector table for EL2,
/// or 0.
#[unsafe(naked)]
unsafe extern "C" fn init_el2(from: u64, to: u64, vectors: u64) -> u64 {
    naked_asm!(
        "mov x4, x2",
        "mov x2, sp",
        "msr sp_el1, x2",
        "mrs x18, cntvct_el0",
        "mrs x2, CurrentEL",
        "mrs x2, sctlr_el2",
        "1: dc ivac, x0",
        "add x0, x0, #64",
        "cmp x0, x1",
        "b.lo 1b",
        "dsb sy",
        "mrs x2, CurrentEL",
        "msr elr_el2, x30",
        "ldr x2, ={HCR}",
        "msr hcr_el2, x2",
        "isb",
        "mrs x2, S3_0_C0_C7_4", // ID_AA64MMFR4_EL1
        "ldr x2, ={SCTLR}",
        "msr sctlr_el1, x2",
        "mrs x2, id_aa64mmfr1_el1", // HCRX_EL2
        "mov x2, #3",
        "msr cnthctl_el2, x2",
        "msr cntvoff_el2, xzr",
        "mrs x2, id_aa64dfr0_el1",
        "mrs x2, pmcr_el0",
        "ubfx x2, x2, #11, #5",
        "msr mdcr_el2, x2",
        "mrs x2, id_aa64mmfr1_el1", // LORC_EL1
        "msr vttbr_el2, xzr",
        "mrs x2, id_aa64pfr0_el1",
        "mrs x2, S3_4_C12_C9_5", // ICC_SRE_EL2
        "mov x3, #9",
        "orr x2, x2, x3",
        "msr S3_4_C12_C9_5, x2",
        "isb",
        "mrs x2, S3_4_C12_C9_5",
        "msr S3_4_C12_C11_0, xzr", // ICH_HCR_EL2
        "msr hstr_el2, xzr",
        "mrs x2, midr_el1",
        "mrs x3, mpidr_el1",
        "msr vpidr_el2, x2",
        "msr vmpidr_el2, x3",
        "mov x2, #0x33ff",
        "msr cptr_el2, x2",
        "mrs x2, id_aa64pfr0_el1",
        "mrs x2, id_aa64pfr1_el1",
        "mrs x2, id_aa64mmfr0_el1", // fine-grained traps
        "msr vbar_el2, x4",
        "mrs x2, id_aa64pfr0_el1",
        "mrs x2, id_aa64mmfr1_el1",
        "ldr x2, ={SPSR}",
        "msr spsr_el2, x2",
        "adr x2, 2f",
        "msr elr_el2, x2",
        "eret",
        "2: mrs x17, cntvct_el0",
        "sub x0, x17, x18",
        "ret",
        ".ltorg",
        HCR = const level::HCR_RW,
        SCTLR = const crate::paging::SCTLR_OFF,
        SPSR = const level::SPSR_EL1H,
    )
}

impl Window {
    fn print(&self) {
        for (name, count) in ["write", "read", "id-read", "dc-ivac"].into_iter().zip(self.single) {
            println!("rounds: el2-{name} {}", count.ticks - self.floor);
        }
        println!("rounds: el2-start {}", self.whole - self.floor);
    }
}

/// The way back, as Exeunt names it.
fn way_back() -> WayBack {
    // SAFETY: while Exeunt is live the call changes nothing.
    unsafe { call::way_back() }.expect("REENTER names a way back")
}

/// Calls to Exeunt on this CPU, and to the resident stub; ends `Live`.
fn calls(floor: u64) {
    let has_vectors = level::entry_level() == 2;
    let way = way_back();
    report_answer("live-unknown", floor, STUB_ERR, || ticks!("hvc #0", UNKNOWN_STUB, 0));
    report_answer("live-finalise", floor, STUB_ERR, || ticks!("hvc #0", FINALISE_EL2, 0));
    report_answer("live-ich-vtr", floor, STUB_SUCCESS, || ticks!("hvc #0", GET_ICH_VTR_EL2, 0));
    report_answer("hvc-unknown-smccc", floor, NOT_SUPPORTED, || ticks!("hvc #0", UNKNOWN_SMCCC, 0));
    report_answer("version", floor, wide(vendor::ABI_VERSION), || ticks!("hvc #0", wide(vendor::VERSION), 0));
    report("call-uid", floor, || ticks!("hvc #0", wide(vendor::CALL_UID), 0));
    report_answer("hvc-unknown-own", floor, NOT_SUPPORTED, || ticks!("hvc #0", UNKNOWN_OWN, 0));
    report_answer("features", floor, 0, || ticks!("hvc #0", wide(vendor::FEATURES), wide(vendor::STATUS)));
    report_answer("status", floor, 0, || ticks!("hvc #0", wide(vendor::STATUS), 0));
    report_answer("restart-policy", floor, 0, || ticks!("hvc #0", wide(vendor::RESTART_POLICY), 0));
    report("hvc-psci-version", floor, || ticks!("hvc #0", PSCI_VERSION, 0));
    report("smc-psci-version", floor, || ticks!("smc #0", PSCI_VERSION, 0));
    report("smc-psci-features", floor, || ticks!("smc #0", PSCI_FEATURES, SMCCC_VERSION));
    report("smc-affinity-info", floor, || ticks!("smc #0", AFFINITY_INFO[1], machine().mpidrs()[0]));
    report("smc-workaround-1", floor, || ticks!("smc #0", ARCH_WORKAROUND_1, 0));
    report("smc-smccc-version", floor, || ticks!("smc #0", SMCCC_VERSION, 0));
    report("smc-unknown", floor, || ticks!("smc #0", UNKNOWN_SMCCC, 0));

    let mut out = Extremes::new("reset-vectors", floor);
    let mut back = Extremes::new("reenter", floor);
    let mut set = Extremes::new("stub-set-vectors", floor);
    for _ in 0..SAMPLES {
        out.take(ticks!("hvc #0", RESET_VECTORS, 0), STUB_SUCCESS);
        set.take(ticks!("hvc #0", SET_VECTORS, stub::vectors()), STUB_SUCCESS);
        // From the guest's own table to the resident stub's, which is the way back.
        let again = ticks!("hvc #0", SET_VECTORS, way.vectors);
        check!(again.x[0] == STUB_SUCCESS, "SET_VECTORS to {:#x}: {:#x}", way.vectors, again.x[0]);
        back.take(ticks!("hvc #0", way.number, 0), 0);
    }
    out.print();
    back.print();
    set.print();
    // SAFETY: it is measured here, and the CPU comes back below.
    let left = unsafe { call::reset_vectors() };
    check!(left.is_ok(), "RESET_VECTORS: {left:?}");
    report_answer("stub-unknown", floor, STUB_ERR, || ticks!("hvc #0", UNKNOWN_STUB, 0));
    report_answer("stub-finalise", floor, STUB_ERR, || ticks!("hvc #0", FINALISE_EL2, 0));
    report_answer("stub-ich-vtr", floor, STUB_SUCCESS, || ticks!("hvc #0", GET_ICH_VTR_EL2, 0));
    report_answer("stub-reset-vectors", floor, STUB_SUCCESS, || ticks!("hvc #0", RESET_VECTORS, 0));
    reenter(way);
    by_doorbell(floor);
    // The last: from here on Exeunt would leave to the guest's table.
    if has_vectors {
        report_answer("live-set-vectors", floor, STUB_SUCCESS, || ticks!("hvc #0", SET_VECTORS, stub::vectors()));
    }
}

/// Accesses to the doorbell, a call by it, and what a CPU costs that was left by it.
fn by_doorbell(floor: u64) {
    let base = doorbell::region().base;
    let ticket = doorbell::load(OPEN);
    let argument = base + channel(ticket) + A0 + 8;
    report_answer("doorbell-load", floor, PRESENT, || ticks!("ldr x0, [x0]", base + MAGIC, 0));
    report_answer("doorbell-store", floor, argument, || ticks!("str x1, [x0]", argument, 5));
    report_answer("doorbell-mirror", floor, 0, || Count { x: [0; 2], ..ticks!("ldr x0, [x0]", base + MIRROR, 0) });
    let mut made = Extremes::new("doorbell-call", floor);
    for _ in 0..SAMPLES {
        let ticket = doorbell::load(OPEN);
        let go = base + channel(ticket) + GO;
        let arguments = [wide(vendor::VERSION), 0, 0, 0];
        for (index, argument) in (0..).zip(arguments) {
            doorbell::store(channel(ticket) + A0 + 8 * index, argument);
        }
        made.take(ticks!("str x1, [x0]", go, seal(ticket, arguments)), go);
        check!(doorbell::load(channel(ticket) + DONE) == ticket, "the call was not made");
    }
    made.print();
    let refused = doorbell::leave::ask_to_leave();
    check!(refused.is_none(), "LEAVE by the doorbell: {refused:x?}");
    report_answer("open-unknown", floor, STUB_ERR, || ticks!("hvc #0", UNKNOWN_STUB, 0));
    report_answer("open-reset-vectors", floor, STUB_SUCCESS, || ticks!("hvc #0", RESET_VECTORS, 0));
    report("open-psci-version", floor, || ticks!("smc #0", PSCI_VERSION, 0));
    doorbell::leave::ask_back(doorbell::leave::mail().round);
    let mut back = Extremes::new("mailbox", floor);
    let count = ticks!("smc #0", PSCI_VERSION, 0);
    back.take(count, count.x[0]);
    back.print();
    check!(doorbell::load(MAGIC) == PRESENT, "the CPU has not come back");
}

fn reenter(way: WayBack) {
    // SAFETY: Exeunt has named the way, and the CPU is in the resident stub.
    let back = unsafe { call::reenter(way) };
    check!(back.is_ok(), "REENTER: {back:?}");
}

/// Ticks of CPU 0's call, its x0 and x1.
static MEASURED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
/// CPUs that spin.
static SPINNING: AtomicUsize = AtomicUsize::new(0);
/// Ends the spinning.
static RELEASE: AtomicU64 = AtomicU64::new(0);

/// Lets another CPU have its turn, where one thread of QEMU's runs all.
fn give_way() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Makes the call on CPU 0 while the others spin.
fn among_spinning(index: usize, polite: bool, call: fn() -> Count) {
    if index != 0 {
        SPINNING.fetch_add(1, Ordering::AcqRel);
        while RELEASE.load(Ordering::Acquire) == 0 {
            if polite {
                give_way();
            }
        }
        return;
    }
    while SPINNING.load(Ordering::Acquire) < smp::online() - 1 {
        give_way();
    }
    let count = call();
    for (place, value) in MEASURED.iter().zip([count.ticks, count.x[0], count.x[1]]) {
        place.store(value, Ordering::Relaxed);
    }
    RELEASE.store(1, Ordering::Release);
}

fn round(task: fn(usize)) -> Count {
    SPINNING.store(0, Ordering::Release);
    RELEASE.store(0, Ordering::Release);
    smp::on_all(task);
    let [ticks, x0, x1] = [0, 1, 2].map(|index: usize| MEASURED[index].load(Ordering::Relaxed));
    Count { ticks, x: [x0, x1] }
}

/// RESET_VECTORS by one CPU, whose turn lasts for the whole call: the count is of its instructions alone.
fn reset(floor: u64) {
    smp::start_all();
    let mut extremes = Extremes::new("reset-vectors", floor);
    for _ in 0..ROUNDS {
        let count = round(|index| among_spinning(index, true, || ticks!("hvc #0", RESET_VECTORS, 0)));
        extremes.take(count, STUB_SUCCESS);
        reenter(way_of_all());
    }
    extremes.print();
}

/// LEAVE by one CPU, the others spinning at EL1. The machine is expected to give the CPUs short turns; the count is of
/// what all of them have executed until the caller goes on.
fn leave(floor: u64) {
    let cpus = smp::start_all() as u64;
    let mut extremes = Extremes::new("leave", floor);
    for _ in 0..ROUNDS {
        let count = round(|index| among_spinning(index, false, || ticks!("hvc #0", wide(vendor::LEAVE), 0)));
        extremes.take(count, 0);
        check!(count.x[1] == cpus, "LEAVE left {} of {cpus} CPUs", count.x[1]);
        smp::on_all(|_| reenter(way_of_all()));
    }
    extremes.print();
}

/// The way back for a CPU that was left: the same for all, so it can be kept.
static WAY: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn way_of_all() -> WayBack {
    let [vectors, number] = [0, 1].map(|index: usize| WAY[index].load(Ordering::Relaxed));
    WayBack { vectors, number }
}

/// Turns of a loop that last longer than a quarter of `watchdog=2`.
const LONGER_THAN_A_TICK: u64 = 600_000_000;

/// Instructions that another than this loop executes, at most at a time: a tick.
fn tick(name: &'static str) {
    let begin = read_register!("cntvct_el0");
    let (mut before, mut least, mut most) = (begin, u64::MAX, 0);
    while before - begin < LONGER_THAN_A_TICK {
        let now = read_register!("cntvct_el0");
        (least, most) = (least.min(now - before), most.max(now - before));
        before = now;
    }
    println!("rounds: {name} {}", most - least);
}

/// What comes to EL2 where there is a watchdog.
fn watched(floor: u64) {
    check!(gic::enable_sgis(0), "no GIC that is known");
    tick("tick-masked");
    // SAFETY: no interrupt of this guest's is pending.
    unsafe { asm!("msr daifclr, #2", options(nostack)) };
    tick("tick");
    // SAFETY: as it was.
    unsafe { asm!("msr daifset, #2", options(nostack)) };
    let (register, value) = gic::sgi_to_itself(0);
    let own = gic::private_register();
    report_answer("private", floor, own, || ticks!("str w1, [x0]", own, 0));
    if let Some(register) = register {
        report_answer("sgi", floor, register, || ticks!("str w1, [x0]", register, value));
    } else {
        report_answer("sgi", floor, value, || ticks!("msr S3_0_C12_C11_5, x0", value, 0));
        report_answer("deactivate", floor, 0, || ticks!("msr S3_0_C12_C11_1, x0", 0, 0));
    }
}

/// Runs the measurements.
pub fn run(start: &Start) {
    if start.level == 2 {
        machine::read(start.tree);
    }
    let word = |wanted| machine().words().any(|word| word == wanted);
    let restarts = word("restart") || word("restart-bare") || word("crash");
    let window = (start.level == 2).then(|| in_virtual_el2(if restarts { stub::vectors() } else { 0 }));
    if window.is_some() {
        start::settle();
    }
    println!("rounds: frequency {}", read_register!("cntfrq_el0"));
    println!("rounds: start {}", start.counter);
    println!("rounds: reserved-bytes {}", machine().reserved.map_or(0, |range| range.size));
    // Two readings with nothing between are one instruction apart: the second reading.
    let floor = (0..SAMPLES).map(|_| ticks!("", 0, 0).ticks).min().unwrap_or(0);
    println!("rounds: floor {floor}");
    if let Some(window) = window {
        window.print();
    }
    if word("guarded") {
        crash::guard();
    }
    if word("calls") {
        calls(floor);
    }
    if word("reset") || word("leave") || word("restart") || word("crash") && start.level == 2 {
        let way = way_back();
        WAY[0].store(way.vectors, Ordering::Relaxed);
        WAY[1].store(way.number, Ordering::Relaxed);
    }
    if word("reset") {
        reset(floor);
    }
    if word("leave") {
        leave(floor);
    }
    if word("restart") {
        restart::under_exeunt(floor);
    }
    if word("restart-bare") {
        restart::bare(floor);
    }
    if word("crash") {
        crash::count(floor, start.level == 2);
    }
    if word("watched") {
        watched(floor);
    }
    check!(true, "measured");
    crate::report::finish("rounds");
}
