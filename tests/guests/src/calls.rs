//! Random HVC and SMC calls, with random registers and immediates: whatever a guest asks, the answer is in x0,
//! everything else is as it was, and Exeunt goes on.
//!
//! Options on the command line: `rounds=N` calls on the boot CPU, then as many on all CPUs together; `seed=N` repeats a
//! run; `open=ADDRESS` and `closed=ADDRESS` say where a buffer is taken and where it is refused; `bare` is for bare
//! QEMU at EL1, where its own PSCI answers HVC and nothing answers SMC: a check of this guest, not of Exeunt.
//!
//! Calls that switch a CPU or the machine off or start a CPU are left out; `psci.rs` makes them by name. So are the
//! stub calls and Exeunt's own; `conformance` makes those.

use core::cell::UnsafeCell;

use guest_abi::call::vendor_call;
use guest_abi::record::StatusHeader;
use guest_abi::stub::{STUB_CALLS_END, STUB_ERR};
use guest_abi::vendor::{self, Error};

use crate::code::{Code, END};
use crate::cpu::{Context, DAIF, EC_UNKNOWN, EL0T, EL1H, EL1T, ESR_IL, NZCV};
use crate::firmware::{self, Conduit, PSCI_VERSION};
use crate::machine::{machine, parse_number};
use crate::paging::SCTLR_OFF;
use crate::random::Random;
use crate::smp;
use crate::start::Start;
use crate::unchanged;

/// Calls that the boot CPU makes unless the command line says otherwise.
const ROUNDS: u64 = 100_000;
/// Calls between two comparisons of the system registers.
const BLOCK: u64 = 64;
/// Call instructions that are kept ready, and calls until they are made anew.
const SLOTS: usize = 256;
const REFRESH: u64 = 4096;
/// The CPUs that this guest has code for.
const CPUS: usize = 8;

const HVC: u32 = 0xd400_0002;
const SMC: u32 = 0xd400_0003;

/// SMCCC (DEN0028, 2.5): the fields of a function identifier.
const FAST: u32 = 1 << 31;
const CALL_64: u32 = 1 << 30;
const SVE_HINT: u32 = 1 << 16;
const OWNER_ARCHITECTURE: u32 = 0;
const OWNER_STANDARD: u32 = 4;

/// PSCI 0.1 as QEMU numbers it (`include/standard-headers` of QEMU, `QEMU_PSCI_0_1_FN_BASE`): CPU_SUSPEND, CPU_OFF,
/// CPU_ON, MIGRATE. QEMU still answers them, so a hypervisor that lets them through has lost control of its CPUs.
const QEMU_PSCI_0_1: core::ops::Range<u32> = 0x95c1_ba5e..0x95c1_ba62;

/// The numbers of the PSCI calls that this test does not make: CPU_SUSPEND, CPU_OFF, CPU_ON, SYSTEM_OFF, SYSTEM_RESET,
/// CPU_FREEZE, CPU_DEFAULT_SUSPEND, SYSTEM_SUSPEND, SYSTEM_RESET2, SYSTEM_OFF2.
const PSCI_WITH_EFFECT: [u32; 10] = [0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x0c, 0x0e, 0x12, 0x15];

static CODE: [Code<{ 2 * SLOTS }>; CPUS] = [const { Code::new() }; CPUS];

/// A function identifier without the bit that only tells firmware what it need not save.
const fn function_id(x0: u64) -> u32 {
    x0 as u32 & !SVE_HINT
}

fn psci_number(x0: u64) -> Option<u32> {
    let id = function_id(x0);
    (id & !CALL_64 & !0x1f == PSCI_VERSION as u32).then_some(id & 0x1f)
}

fn is_bare() -> bool {
    machine().words().any(|word| word == "bare")
}

fn left_out(x0: u64) -> bool {
    let own = vendor::CALLS.contains(&function_id(x0));
    if !is_bare() && (x0 < STUB_CALLS_END || own) {
        return true;
    }
    is_bare() && QEMU_PSCI_0_1.contains(&(x0 as u32))
        || psci_number(x0).is_some_and(|number| PSCI_WITH_EFFECT.contains(&number))
}

/// A number to call: those that mean something, those next to them, and anything.
pub fn number(random: &mut Random) -> u64 {
    loop {
        let raw = random.next();
        let x0 = match random.below(10) {
            0 => raw & 0xf,
            1 => PSCI_VERSION | raw & 0x1f,
            2 => PSCI_VERSION | raw & (0x1f | u64::from(CALL_64 | SVE_HINT)),
            // Bits 23:17 of a fast call are reserved: with any of them set it is no PSCI call.
            3 => PSCI_VERSION | raw & 0x1f | 1 << (17 + raw % 7) | raw & u64::from(CALL_64),
            // Every owner, low function numbers, fast and yielding.
            4 => raw & 0x7f00_0007 | u64::from(FAST) << (raw & 1),
            5 => u64::from(QEMU_PSCI_0_1.start) + raw % QEMU_PSCI_0_1.len() as u64,
            // The high word is no part of a function identifier.
            6 => PSCI_VERSION | (raw & !0xffff_ffff),
            7 => raw & 0xffff_ffff,
            _ => random.value(),
        };
        if !left_out(x0) {
            return x0;
        }
    }
}

/// Whether `result` is an answer that the conventions allow.
#[must_use]
pub fn is_allowed(conduit: Conduit, immediate: u32, x0: u64, result: u64) -> bool {
    let id = x0 as u32;
    let refused = result == u64::MAX || result == 0xffff_ffff;
    if is_bare() {
        return refused || psci_number(x0).is_some();
    }
    if conduit == Conduit::Hvc && id & FAST == 0 {
        return result == STUB_ERR;
    }
    if immediate != 0 || id & FAST != 0 && id & 0x00fe_0000 != 0 {
        return refused;
    }
    match id >> 24 & 0x3f {
        // SMCCC_VERSION and what firmware tells about its workarounds: an error or a small number.
        OWNER_ARCHITECTURE => refused || (result as u32) >> 31 == 0,
        OWNER_STANDARD if psci_number(x0).is_some() => (-9..=0x1_0005).contains(&(result as i32)),
        _ => refused,
    }
}

fn refresh(random: &mut Random) {
    let code = &CODE[crate::cpu::index()];
    for slot in 0..SLOTS {
        let instruction = if is_bare() || slot % 2 == 0 { HVC } else { SMC };
        // Every other pair with the immediate that the conventions name, or nothing but refusals would be tested.
        let immediate = if slot % 4 < 2 { 0 } else { random.next() as u32 & 0xffff };
        code.write(2 * slot, &[instruction | immediate << 5, END]);
    }
}

/// One call, and all that must hold afterwards.
fn call(random: &mut Random) {
    let slot = random.below(SLOTS as u64) as usize;
    let pc = CODE[crate::cpu::index()].address(2 * slot);
    // SAFETY: the slot holds an instruction that `refresh` has written.
    let instruction = unsafe { (pc as *const u32).read_volatile() };
    let conduit = if instruction & 0x1f == HVC & 0x1f { Conduit::Hvc } else { Conduit::Smc };
    let immediate = instruction >> 5 & 0xffff;

    let mode = if random.below(4) == 0 { EL1T } else { EL1H };
    let mut context = Context::new(pc, mode | random.next() & (NZCV | DAIF));
    for register in &mut context.x {
        *register = random.value();
    }
    for register in &mut context.q {
        *register = u128::from(random.next()) << 64 | u128::from(random.next());
    }
    context.x[0] = number(random);
    context.sp_el0 = random.next();
    context.sp_el1 = random.next();
    // FPCR: rounding mode, flush to zero, default NaN; FPSR: the cumulative flags.
    context.fpcr = random.next() & 0x07c0_0000;
    context.fpsr = random.next() & 0x0800_009f;
    if random.below(8) == 0 {
        context.sctlr = SCTLR_OFF;
    }
    let before = context;
    // SAFETY: the code is one call and a `brk`; the calls that do not return are left out.
    unsafe { context.enter() };

    let what = format_args!("{conduit:?} #{immediate:#x} x0={:#x} x1={:#x}", before.x[0], before.x[1]);
    if !check!(context.ended_at(pc + 4), "{what}: ESR {:#x} ELR {:#x} FAR {:#x}", context.esr, context.pc, context.far)
    {
        return;
    }
    check!(is_allowed(conduit, immediate, before.x[0], context.x[0]), "{what}: result {:#x}", context.x[0]);
    let changed = (1..31).find(|&number| context.x[number] != before.x[number]);
    check!(changed.is_none(), "{what}: x{} changed", changed.unwrap_or(0));
    let changed = (0..32).find(|&number| context.q[number] != before.q[number]);
    check!(changed.is_none(), "{what}: q{} changed", changed.unwrap_or(0));
    for (name, after, wanted) in [
        ("PSTATE", context.pstate, before.pstate),
        ("SP_EL0", context.sp_el0, before.sp_el0),
        ("SP_EL1", context.sp_el1, before.sp_el1),
        ("SCTLR_EL1", context.sctlr, before.sctlr),
        ("FPCR", context.fpcr, before.fpcr),
        ("FPSR", context.fpsr, before.fpsr),
    ] {
        check!(after == wanted, "{what}: {name} {after:#x}, was {wanted:#x}");
    }
}

/// Exeunt writes for a caller where the caller may, and nowhere else: `open=ADDRESS` and `closed=ADDRESS`.
fn buffers() {
    for word in machine().bootargs().split_ascii_whitespace() {
        let Some((kind, address)) = word.split_once('=') else { continue };
        let address = parse_number(address).unwrap_or_default();
        let want = match kind {
            "open" => 0,
            "closed" => Error::InvalidParameter.to_register(),
            _ => continue,
        };
        for size in [StatusHeader::SIZE as u64, vendor::PAGE] {
            // SAFETY: whoever gave the address says that nothing is there which is in use.
            let x = unsafe { vendor_call(vendor::STATUS, [address, size, 0]) };
            check!(x[0] == want, "STATUS to {address:#x}, {size} bytes: {:#x}", x[0]);
            // SAFETY: as above.
            let x = unsafe { vendor_call(vendor::LOG_READ, [0, address + 8, size - 8]) };
            check!(x[0] == want, "LOG_READ to {address:#x}, {size} bytes: {:#x}", x[0]);
        }
    }
}

/// From EL0 neither instruction exists, whatever EL2 does.
fn from_el0() {
    let code = &CODE[crate::cpu::index()];
    for (name, instruction) in [("HVC", HVC), ("SMC", SMC)] {
        let pc = code.write(0, &[instruction, END]);
        let mut context = Context::new(pc, EL0T | DAIF);
        // With stage 1 off EL0 may execute anywhere.
        context.sctlr = SCTLR_OFF;
        context.x[0] = PSCI_VERSION;
        // SAFETY: an undefined instruction or, wrongly, a call without effect.
        unsafe { context.enter() };
        check!(
            context.esr == EC_UNKNOWN << 26 | ESR_IL && context.pc == pc && context.vector == 0x400,
            "{name} at EL0: ESR {:#x} ELR {:#x} vector {:#x}",
            context.esr,
            context.pc,
            context.vector
        );
    }
}

struct Plan(UnsafeCell<(u64, u64)>);

// SAFETY: written by the boot CPU before the others begin.
unsafe impl Sync for Plan {}

static PLAN: Plan = Plan(UnsafeCell::new((0, 0)));

fn storm(index: usize) {
    // SAFETY: see `Plan`.
    let (rounds, seed) = unsafe { *PLAN.0.get() };
    let mut random = Random::new(seed + index as u64);
    unchanged::scatter(&mut random);
    let mut registers = unchanged::read();
    for round in 0..rounds {
        if round % REFRESH == 0 {
            refresh(&mut random);
        }
        call(&mut random);
        if round % BLOCK == BLOCK - 1 {
            let now = unchanged::read();
            let changed = unchanged::difference(&registers, &now);
            check!(changed.is_none(), "{} changed", changed.unwrap_or(""));
            registers = now;
        }
    }
    from_el0();
}

/// Runs the test.
///
/// # Panics
/// When there are more CPUs than it has code for.
pub fn run(_: &Start) {
    let seed = machine().number("seed").unwrap_or_else(|| read_register!("cntvct_el0"));
    let rounds = machine().number("rounds").unwrap_or(ROUNDS);
    println!("calls: {rounds} rounds, seed={seed}");
    // SAFETY: only this CPU runs.
    unsafe { *PLAN.0.get() = (rounds, seed) };
    buffers();
    storm(0);
    println!("calls: CPU 0 alone: {} checks", crate::report::totals().0);
    assert!(machine().mpidrs().len() <= CPUS, "this guest has code for {CPUS} CPUs");
    let cpus = smp::start_all();
    // SAFETY: the other CPUs wait for their first task.
    unsafe { *PLAN.0.get() = (rounds / cpus as u64, seed + 100) };
    smp::on_all(storm);
    println!("calls: {cpus} CPUs at once done");
    let version = firmware::psci(PSCI_VERSION, [0; 3]);
    check!(version >= 0x1_0000, "PSCI_VERSION afterwards: {version:#x}");
    crate::report::finish("calls");
}
