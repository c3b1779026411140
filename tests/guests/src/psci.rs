//! PSCI by name (DEN0022): what each call answers, that a CPU comes up as the specification and Linux's booting.rst
//! want it, and that races for the same CPU have one winner.
//!
//! Options on the command line: `rounds=N` races and off-and-on cycles; `bare` is for bare QEMU, where only the device
//! tree's conduit answers and QEMU's own firmware leaves some arguments unchecked: a check of this guest, not of
//! Exeunt.
//!
//! CPU 1 is the target of all that follows, CPU 2 the boot CPU's rival.

use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use crate::cpu;
use crate::firmware::{
    AFFINITY_INFO, AFFINITY_OFF, AFFINITY_ON, ALREADY_ON, CPU_DEFAULT_SUSPEND, CPU_FREEZE, CPU_OFF, CPU_ON,
    CPU_SUSPEND, Conduit, INVALID_ADDRESS, INVALID_PARAMETERS, MIGRATE, MIGRATE_INFO_TYPE, NOT_SUPPORTED, ON_PENDING,
    PSCI_FEATURES, PSCI_SET_SUSPEND_MODE, PSCI_VERSION, SMCCC_VERSION, SUCCESS, SYSTEM_OFF, SYSTEM_RESET,
    SYSTEM_RESET2, SYSTEM_SUSPEND, call_by, conduit, psci, psci_by,
};
use crate::gic;
use crate::level;
use crate::machine::machine;
use crate::random::Random;
use crate::smp::{self, wait_for};
use crate::start::Start;

/// Races, unless the command line says otherwise.
const RACES: u64 = 200;
/// Times that the target goes off and on again.
const CYCLES: u64 = 100;

fn is_bare() -> bool {
    machine().words().any(|word| word == "bare")
}

fn conduits() -> impl Iterator<Item = Conduit> {
    [Conduit::Smc, Conduit::Hvc].into_iter().filter(|&each| !is_bare() || each == conduit())
}

/// What a CPU found when it came up, and how it is told to go off again. Written by a CPU without MMU, stack or
/// exclusives.
#[repr(C, align(64))]
struct Arrival {
    /// Counts arrivals, so that a CPU that comes up twice is seen. Written last.
    count: AtomicU64,
    x0: AtomicU64,
    /// 1: came by [`target_entry`], 2: by [`rival_entry`].
    entry: AtomicU64,
    current_el: AtomicU64,
    daif: AtomicU64,
    spsel: AtomicU64,
    sctlr: AtomicU64,
    mpidr: AtomicU64,
    midr: AtomicU64,
    /// Set to make it call CPU_OFF; the CPU clears it.
    leave: AtomicU64,
    /// CPU_OFF by HVC instead of SMC.
    use_hvc: AtomicU64,
    /// What CPU_OFF returned, if it did, with bit 63 set.
    returned: AtomicU64,
}

static ARRIVAL: Arrival = Arrival {
    count: AtomicU64::new(0),
    x0: AtomicU64::new(0),
    entry: AtomicU64::new(0),
    current_el: AtomicU64::new(0),
    daif: AtomicU64::new(0),
    spsel: AtomicU64::new(0),
    sctlr: AtomicU64::new(0),
    mpidr: AtomicU64::new(0),
    midr: AtomicU64::new(0),
    leave: AtomicU64::new(0),
    use_hvc: AtomicU64::new(0),
    returned: AtomicU64::new(0),
};

#[unsafe(naked)]
unsafe extern "C" fn target_entry() -> ! {
    naked_asm!("mov x11, #1", "b {common}", common = sym arrive)
}

#[unsafe(naked)]
unsafe extern "C" fn rival_entry() -> ! {
    naked_asm!("mov x11, #2", "b {common}", common = sym arrive)
}

/// x9: [`ARRIVAL`], x10: scratch, x11: which entry it was, x12: the level.
#[unsafe(naked)]
unsafe extern "C" fn arrive() -> ! {
    naked_asm!(
        "adrp x9, {ARRIVAL}",
        "add x9, x9, :lo12:{ARRIVAL}",
        "str x0, [x9, #{X0}]",
        "str x11, [x9, #{ENTRY}]",
        "mrs x10, CurrentEL",
        "str x10, [x9, #{CURRENT_EL}]",
        "mov x12, x10",
        "mrs x10, daif",
        "str x10, [x9, #{DAIF}]",
        "mrs x10, SPSel",
        "str x10, [x9, #{SPSEL}]",
        "mrs x10, sctlr_el1",
        "str x10, [x9, #{SCTLR}]",
        "mrs x10, mpidr_el1",
        "str x10, [x9, #{MPIDR}]",
        "mrs x10, midr_el1",
        "str x10, [x9, #{MIDR}]",
        "cmp x12, #{EL2}",
        "b.ne 5f",
        "mov x0, xzr",
        "bl {drop_to_el1}",
        "5:",
        "ldr x10, [x9, #{COUNT}]",
        "add x10, x10, #1",
        "dmb sy",
        "str x10, [x9, #{COUNT}]",
        "1: ldr x10, [x9, #{LEAVE}]",
        "cbz x10, 1b",
        "str xzr, [x9, #{LEAVE}]",
        "dmb sy",
        "mov x0, #0x0002",
        "movk x0, #0x8400, lsl #16",
        "ldr x10, [x9, #{USE_HVC}]",
        "cbnz x10, 2f",
        "smc #0",
        "b 3f",
        "2: hvc #0",
        "3: orr x0, x0, #0x8000000000000000",
        "str x0, [x9, #{RETURNED}]",
        "4: b 4b",
        EL2 = const 2 << 2,
        drop_to_el1 = sym level::drop_to_el1,
        ARRIVAL = sym ARRIVAL,
        X0 = const offset_of!(Arrival, x0),
        ENTRY = const offset_of!(Arrival, entry),
        CURRENT_EL = const offset_of!(Arrival, current_el),
        DAIF = const offset_of!(Arrival, daif),
        SPSEL = const offset_of!(Arrival, spsel),
        SCTLR = const offset_of!(Arrival, sctlr),
        MPIDR = const offset_of!(Arrival, mpidr),
        MIDR = const offset_of!(Arrival, midr),
        COUNT = const offset_of!(Arrival, count),
        LEAVE = const offset_of!(Arrival, leave),
        USE_HVC = const offset_of!(Arrival, use_hvc),
        RETURNED = const offset_of!(Arrival, returned),
    )
}

fn target() -> u64 {
    machine().mpidrs()[1]
}

fn target_pc() -> u64 {
    target_entry as *const () as u64
}

fn affinity_info() -> i64 {
    psci(AFFINITY_INFO[1], [target(), 0, 0])
}

/// Waits for arrival number `count` and checks the state that the CPU came up in.
fn check_arrival(count: u64, entry: u64, context: u64) {
    let arrived = wait_for(|| ARRIVAL.count.load(Ordering::Acquire) >= count);
    check!(arrived, "the target did not come up");
    let seen = ARRIVAL.count.load(Ordering::Acquire);
    check!(seen == count, "the target came up {seen} times instead of {count}");
    // booting.rst, "Call the kernel image"; PSCI 6.4 "Initial Core configuration".
    let affinity = 0xff_00ff_ffff;
    for (name, seen, mask, wanted) in [
        ("x0", &ARRIVAL.x0, u64::MAX, context),
        ("entry", &ARRIVAL.entry, u64::MAX, entry),
        ("CurrentEL", &ARRIVAL.current_el, 0xc, level::entry_level() << 2),
        ("DAIF", &ARRIVAL.daif, cpu::DAIF, cpu::DAIF),
        ("SPSel", &ARRIVAL.spsel, 1, 1),
        // SCTLR_EL1.M, C, WXN, E0E, EE: MMU off, little-endian.
        ("SCTLR_EL1", &ARRIVAL.sctlr, 1 | 1 << 2 | 1 << 19 | 1 << 24 | 1 << 25, 0),
        ("MPIDR_EL1", &ARRIVAL.mpidr, affinity, target()),
        ("MIDR_EL1", &ARRIVAL.midr, u64::MAX, read_register!("midr_el1")),
    ] {
        let seen = seen.load(Ordering::Acquire);
        check!(seen & mask == wanted, "{name} of the target is {seen:#x}, expected {wanted:#x}");
    }
}

/// Tells the target to go, by `conduit`.
fn tell_to_leave(conduit: Conduit) {
    ARRIVAL.use_hvc.store(u64::from(conduit == Conduit::Hvc), Ordering::Release);
    ARRIVAL.leave.store(1, Ordering::Release);
}

fn leave(conduit: Conduit) {
    tell_to_leave(conduit);
    check!(
        wait_for(|| affinity_info() == AFFINITY_OFF),
        "the target did not go off: AFFINITY_INFO {}",
        affinity_info()
    );
    let returned = ARRIVAL.returned.load(Ordering::Acquire);
    check!(returned == 0, "CPU_OFF returned {returned:#x}");
}

fn versions_and_features() {
    let version = psci(PSCI_VERSION, [0; 3]);
    println!("psci: version {version:#x}, the device tree's conduit is {:?}", conduit());
    check!((0x1_0000..0x2_0000).contains(&version), "PSCI_VERSION {version:#x}");
    for each in conduits() {
        let by = psci_by(each, PSCI_VERSION, [0; 3]);
        check!(by == version, "PSCI_VERSION by {each:?}: {by:#x}");
        let kind = psci_by(each, MIGRATE_INFO_TYPE, [0; 3]);
        check!((0..=2).contains(&kind) || kind == NOT_SUPPORTED, "MIGRATE_INFO_TYPE by {each:?}: {kind}");
        for function in [
            PSCI_VERSION,
            CPU_SUSPEND[1],
            CPU_OFF,
            CPU_ON[1],
            AFFINITY_INFO[1],
            SYSTEM_OFF,
            SYSTEM_RESET,
            PSCI_FEATURES,
        ] {
            let answer = psci_by(each, PSCI_FEATURES, [function, 0, 0]);
            check!(answer >= 0, "PSCI_FEATURES of {function:#x} by {each:?}: {answer}");
        }
        // CPU_FREEZE takes a CPU out of the hypervisor's sight, the second is the 64-bit form of a 32-bit function, the
        // rest is unknown, of another range, or QEMU's own old numbers.
        for function in [
            CPU_FREEZE,
            0xc400_0002,
            0x8400_001f,
            0x8600_0000,
            0xc600_0000,
            0x95c1_ba5f,
            0x95c1_ba60,
            0x0000_0003,
            3 << 40,
        ] {
            if is_bare() && (function == 3 << 40 || function >> 24 == 0x95) {
                continue;
            }
            let answer = psci_by(each, PSCI_FEATURES, [function, 0, 0]);
            check!(answer == NOT_SUPPORTED, "PSCI_FEATURES of {function:#x} by {each:?}: {answer}");
        }
        let smccc = psci_by(each, PSCI_FEATURES, [SMCCC_VERSION, 0, 0]);
        check!(smccc == NOT_SUPPORTED || smccc >= 0, "PSCI_FEATURES of SMCCC_VERSION: {smccc}");
    }
}

/// What is not there says so: unknown numbers, forms that do not exist, and all that PSCI_FEATURES denies.
fn not_supported() {
    for each in conduits() {
        for function in [
            CPU_FREEZE,
            // 64-bit forms of functions that have none; two of them would end the test.
            0xc400_0000,
            0xc400_0002,
            0xc400_0008,
            0xc400_0009,
            0xc400_000a,
            0x8400_0018,
            0x8400_001d,
            0x8400_001f,
            0xc400_001f,
        ] {
            let answer = psci_by(each, function, [0; 3]);
            check!(answer == NOT_SUPPORTED, "{function:#x} by {each:?}: {answer}");
        }
        let valid = target_pc();
        for (function, arguments) in [
            (SYSTEM_SUSPEND[0], [valid, 0, 0]),
            (SYSTEM_SUSPEND[1], [valid, 0, 0]),
            (CPU_DEFAULT_SUSPEND[0], [valid, 0, 0]),
            (CPU_DEFAULT_SUSPEND[1], [valid, 0, 0]),
            (SYSTEM_RESET2[0], [0; 3]),
            (SYSTEM_RESET2[1], [0; 3]),
            (PSCI_SET_SUSPEND_MODE, [0; 3]),
            (MIGRATE[0], [0; 3]),
            (MIGRATE[1], [0; 3]),
        ] {
            let offered = psci_by(each, PSCI_FEATURES, [function, 0, 0]);
            if offered == NOT_SUPPORTED {
                let answer = psci_by(each, function, arguments);
                check!(answer == NOT_SUPPORTED, "{function:#x} by {each:?} is not in PSCI_FEATURES, answers {answer}");
            } else {
                println!("psci: {function:#x} is offered, not called here");
            }
        }
    }
}

/// CPU_ON with invalid arguments: refused, and the target is still there for who asks properly.
fn bad_arguments() {
    let own = machine().mpidrs()[0];
    for each in conduits() {
        for function in CPU_ON {
            let on = |mpidr, pc| psci_by(each, function, [mpidr, pc, 0]);
            for mpidr in [0xff, 0xff_ff00, 0x00ab_cdef, target() | 1 << 23] {
                let answer = on(mpidr, target_pc());
                check!(answer == INVALID_PARAMETERS, "CPU_ON {function:#x} of MPIDR {mpidr:#x} by {each:?}: {answer}");
            }
            let answer = on(own, target_pc());
            check!(answer == ALREADY_ON, "CPU_ON {function:#x} of itself by {each:?}: {answer}");
            if is_bare() {
                continue;
            }
            let reserved = machine().reserved.unwrap_or_default();
            for (name, pc) in [
                ("at the start of the reservation", reserved.base),
                ("in the reservation", reserved.base + reserved.size / 2),
                ("at the end of the reservation", reserved.end() - 4),
                ("after RAM", machine().ram.end()),
                ("below RAM", machine().ram.base - 4),
                ("at address 0", 0),
                ("in a device", 0x0900_0000),
                ("misaligned by 1", target_pc() + 1),
                ("misaligned by 2", target_pc() + 2),
            ] {
                let answer = on(target(), pc);
                check!(answer == INVALID_ADDRESS, "CPU_ON {function:#x} with an entry {name} by {each:?}: {answer}");
            }
        }
        if !is_bare() {
            let high = psci_by(each, CPU_ON[1], [target() | 1 << 31 | 1 << 30 | 1 << 24, target_pc(), 0]);
            check!(high == INVALID_PARAMETERS, "CPU_ON with bits that no affinity has: {high}");
        }
        let nobody = psci_by(each, AFFINITY_INFO[1], [0xff_ff00, 0, 0]);
        check!(nobody == INVALID_PARAMETERS, "AFFINITY_INFO of nobody: {nobody}");
        check!(affinity_info() == AFFINITY_OFF, "AFFINITY_INFO of the target: {}", affinity_info());
    }
    check!(ARRIVAL.count.load(Ordering::Acquire) == 0, "a refused CPU_ON started the target");
}

/// On, ALREADY_ON, off, and again; by both conduits, in both widths, with many context identifiers.
fn on_and_off(cycles: u64, random: &mut Random) {
    let mut arrivals = ARRIVAL.count.load(Ordering::Acquire);
    for cycle in 0..cycles {
        for each in conduits() {
            let wide = cycle % 2 == 1;
            let context = if wide { random.value() } else { random.value() & 0xffff_ffff };
            let function = CPU_ON[usize::from(wide)];
            let answer = psci_by(each, function, [target(), target_pc(), context]);
            if !check!(answer == SUCCESS, "CPU_ON {function:#x} by {each:?}: {answer}") {
                return;
            }
            arrivals += 1;
            check_arrival(arrivals, 1, context);
            check!(affinity_info() == AFFINITY_ON, "AFFINITY_INFO of a CPU that runs: {}", affinity_info());
            let again = psci_by(each, function, [target(), target_pc(), context]);
            check!(again == ALREADY_ON, "CPU_ON of a CPU that runs: {again}");
            leave(each);
        }
    }
}

/// CPU_ON while the target is on its way out: ALREADY_ON until it is off, then SUCCESS, and never a lost CPU.
fn on_while_it_leaves(cycles: u64, random: &mut Random) {
    let mut arrivals = ARRIVAL.count.load(Ordering::Acquire);
    let start = psci(CPU_ON[1], [target(), target_pc(), 0]);
    check!(start == SUCCESS, "CPU_ON: {start}");
    arrivals += 1;
    check_arrival(arrivals, 1, 0);
    for _ in 0..cycles {
        let context = random.next();
        tell_to_leave(conduit());
        let mut strange = SUCCESS;
        let came = wait_for(|| match psci(CPU_ON[1], [target(), target_pc(), context]) {
            SUCCESS => true,
            ALREADY_ON | ON_PENDING => false,
            other => {
                strange = other;
                true
            }
        });
        if !check!(came && strange == SUCCESS, "CPU_ON of a CPU that leaves: {strange}") {
            return;
        }
        arrivals += 1;
        check_arrival(arrivals, 1, context);
    }
    leave(conduit());
}

static ROUND: AtomicUsize = AtomicUsize::new(0);
static RACES_LEFT: AtomicU64 = AtomicU64::new(0);
static RIVAL_ANSWER: AtomicI64 = AtomicI64::new(0);
/// What [`RIVAL_ANSWER`] holds until the rival has its answer.
const NO_ANSWER: i64 = i64::MAX;

fn rival_context(round: usize) -> u64 {
    0xbbbb_0000 + round as u64
}

/// CPU 2's part: for each round that the boot CPU opens, one CPU_ON of the target.
fn rival() {
    let mut random = Random::new(2);
    for round in 1..=RACES_LEFT.load(Ordering::Acquire) as usize {
        while ROUND.load(Ordering::Acquire) < round {
            core::hint::spin_loop();
        }
        for _ in 0..random.below(64) {
            core::hint::spin_loop();
        }
        let answer = psci(CPU_ON[1], [target(), rival_entry as *const () as u64, rival_context(round)]);
        RIVAL_ANSWER.store(answer, Ordering::Release);
    }
}

/// The boot CPU's part: open a round, ask for the target as well, and see who won.
fn race(rounds: u64) {
    let mut random = Random::new(1);
    let mut arrivals = ARRIVAL.count.load(Ordering::Acquire);
    let mut won = 0;
    for round in 1..=rounds as usize {
        RIVAL_ANSWER.store(NO_ANSWER, Ordering::Release);
        ROUND.store(round, Ordering::Release);
        for _ in 0..random.below(64) {
            core::hint::spin_loop();
        }
        let context = 0xaaaa_0000 + round as u64;
        let own = psci(CPU_ON[1], [target(), target_pc(), context]);
        check!(
            wait_for(|| RIVAL_ANSWER.load(Ordering::Acquire) != NO_ANSWER),
            "round {round}: the rival has no answer"
        );
        let other = RIVAL_ANSWER.load(Ordering::Acquire);
        let one_winner =
            matches!((own, other), (SUCCESS, ALREADY_ON | ON_PENDING) | (ALREADY_ON | ON_PENDING, SUCCESS));
        if !check!(one_winner, "round {round}: CPU_ON answered {own} and {other}") {
            // Lets the rival finish.
            ROUND.store(usize::MAX, Ordering::Release);
            return;
        }
        arrivals += 1;
        if own == SUCCESS {
            won += 1;
            check_arrival(arrivals, 1, context);
        } else {
            check_arrival(arrivals, 2, rival_context(round));
        }
        leave(conduit());
    }
    println!("psci: {rounds} races, {won} won by the boot CPU");
}

fn races(index: usize) {
    let rounds = RACES_LEFT.load(Ordering::Acquire);
    if index == 0 {
        race(rounds);
    } else {
        rival();
    }
}

/// CPU_SUSPEND wakes up by an interrupt and says SUCCESS; QEMU's firmware treats every state as standby.
fn suspend() {
    if !gic::enable_virtual_timer() {
        println!("psci: no GIC that is known, CPU_SUSPEND left out");
        return;
    }
    let delay = read_register!("cntfrq_el0") / 100;
    for each in conduits() {
        for function in CPU_SUSPEND {
            for (name, state) in [("standby", 0), ("power-down", 1 << 16)] {
                gic::fire_in(delay);
                let answer = psci_by(each, function, [state, target_pc(), 0]);
                check!(answer == SUCCESS, "CPU_SUSPEND {function:#x} ({name}) by {each:?}: {answer}");
                check!(gic::fired(), "CPU_SUSPEND {function:#x} ({name}) came back before the interrupt");
                gic::stop();
            }
            if !is_bare() {
                let inside = machine().reserved.unwrap_or_default().base;
                let answer = psci_by(each, function, [1 << 16, inside, 0]);
                check!(
                    answer == INVALID_ADDRESS,
                    "CPU_SUSPEND {function:#x} with an entry in the reservation: {answer}"
                );
            }
        }
    }
}

/// The results of refused calls fill all 64 bits of x0 for a 64-bit caller.
fn width_of_errors() {
    if !is_bare() {
        for each in conduits() {
            let answer = call_by(each, CPU_ON[1], [machine().mpidrs()[0], target_pc(), 0]);
            check!(answer == ALREADY_ON.cast_unsigned(), "ALREADY_ON is {answer:#x} in x0");
        }
    }
}

/// Runs the test.
///
/// # Panics
/// When there are fewer than three CPUs.
pub fn run(start: &Start) {
    assert!(machine().mpidrs().len() >= 3, "this guest needs three CPUs");
    let rounds = machine().number("rounds");
    let mut random = Random::new(machine().number("seed").unwrap_or(1));

    // booting.rst for the boot CPU: x1 to x3 zero, MMU off, exceptions masked, EL1h.
    check!(start.reserved == [0; 3], "x1 to x3 at entry: {:x?}", start.reserved);
    check!(start.sctlr & 0b101 == 0, "SCTLR_EL1 at entry: {:#x}", start.sctlr);
    check!(start.daif == cpu::DAIF && start.spsel == 1, "DAIF {:#x}, SPSel {} at entry", start.daif, start.spsel);

    versions_and_features();
    not_supported();
    bad_arguments();
    width_of_errors();
    on_and_off(rounds.unwrap_or(CYCLES), &mut random);
    on_while_it_leaves(rounds.unwrap_or(CYCLES), &mut random);
    suspend();
    // QEMU's own firmware can answer SUCCESS to both.
    if !is_bare() {
        RACES_LEFT.store(rounds.unwrap_or(RACES), Ordering::Release);
        smp::start(2);
        smp::on_all(races);
    }
    crate::report::finish("psci");
}
