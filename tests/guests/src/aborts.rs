//! Whatever a guest does to memory that stage 2 does not give it must end in the abort that hardware gives where there
//! is no memory at all: a synchronous external abort with the ELR, FAR, ESR and PSTATE of the Arm ARM.
//!
//! Options on the command line: `region=BASE,SIZE` tests that range instead of Exeunt's reservation. On bare QEMU, with
//! a hole of the memory map as the region, this is how the expectations themselves are checked against a CPU that no
//! hypervisor stands behind. `seed=N` repeats a run.

use core::arch::naked_asm;
use core::cell::UnsafeCell;

use guest_abi::doorbell::MIRROR;

use crate::code::END_IMMEDIATE;
use crate::cpu::{
    ALLINT, BTYPE, Context, DAIF, DIT, EC_BRK, EC_DATA_ABORT, EC_DATA_ABORT_LOWER, EC_INSTRUCTION_ABORT,
    EC_INSTRUCTION_ABORT_LOWER, EL0T, EL1H, EL1T, ESR_IL, NZCV, SCTLR_DSSBS, SCTLR_SPAN, SCTLR_SPINTMASK, SSBS,
    optional_pstate, pstate_of_handler,
};
use crate::firmware::{self, Conduit};
use crate::machine::{MAX_CPUS, Range, machine, parse_number};
use crate::paging::{self, ALIAS_EL0, ALIAS_EL1, SCTLR_MCI, SCTLR_OFF, TABLE};
use crate::random::Random;
use crate::registers::field;
use crate::smp;
use crate::start::Start;

/// ESR_EL1.ISS.xFSC: synchronous external abort, not on a translation table walk.
const FSC_EXTERNAL: u64 = 0x10;
/// ESR_EL1.ISS.xFSC: synchronous external abort on a translation table walk, level 0; the level is added.
const FSC_EXTERNAL_WALK: u64 = 0x14;
/// ESR_EL1.ISS.WnR of a data abort.
const WNR: u64 = 1 << 6;
/// ESR_EL1.ISS.CM of a data abort.
const CM: u64 = 1 << 8;
/// SCTLR_EL1.{UCI, UCT, DZE}: EL0 may use cache maintenance and DC ZVA.
const SCTLR_EL0_CACHES: u64 = 1 << 26 | 1 << 15 | 1 << 14;

/// Of the mirror, as much as is left alone. The black box has so much unless exits are traced from the start.
const MIRROR_MOST: u64 = 0x1_0000;

/// The CPUs that this guest has tables for.
const CPUS: usize = 8;

/// What a probe needs of the CPU or of the access.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An access of any alignment.
    Plain,
    /// An access that must be aligned to its size.
    Aligned,
    /// Like `Aligned`, not for device memory (stage 1 off).
    NormalOnly,
    /// Like `Aligned`, needs FEAT_LSE; which of its two accesses faults first is not told by the architecture.
    Atomic,
    /// The address is in the stack pointer, which must be 16-byte aligned.
    Stack,
    /// A branch: the target must be 4-byte aligned.
    Branch,
}

/// One instruction that touches the address in x0, followed by a `brk` that nothing should ever reach.
struct Probe {
    name: &'static str,
    code: unsafe extern "C" fn(),
    /// Bytes accessed, at most.
    bytes: u64,
    write: bool,
    kind: Kind,
}

macro_rules! probes {
    ($($id:ident $kind:ident $bytes:literal $write:literal $text:literal;)+) => {
        $(
            #[unsafe(naked)]
            #[unsafe(link_section = ".probes")]
            unsafe extern "C" fn $id() {
                naked_asm!(
                    ".arch_extension fp", ".arch_extension simd", ".arch_extension lse",
                    $text,
                    "brk #{END}",
                    END = const END_IMMEDIATE,
                )
            }
        )+
        static PROBES: &[Probe] =
            &[$(Probe { name: $text, code: $id, bytes: $bytes, write: $write, kind: Kind::$kind },)+];
    };
}

probes! {
    load_x Plain 8 false "ldr x1, [x0]";
    load_w Plain 4 false "ldr w1, [x0]";
    load_half Plain 2 false "ldrsh x1, [x0]";
    load_byte Plain 1 false "ldrb w1, [x0]";
    load_post Plain 8 false "ldr x1, [x0], #16";
    load_pre Plain 8 false "ldr x1, [x0, #0]!";
    load_unscaled Plain 8 false "ldur x1, [x0]";
    load_pair Plain 16 false "ldp x1, x2, [x0]";
    load_pair_post Plain 16 false "ldp x1, x2, [x0], #16";
    load_pair_non_temporal Plain 16 false "ldnp x1, x2, [x0]";
    load_q Plain 16 false "ldr q1, [x0]";
    load_d Plain 8 false "ldr d1, [x0]";
    load_pair_q Plain 32 false "ldp q1, q2, [x0]";
    load_multiple Plain 16 false "ld1 {{v1.16b}}, [x0]";
    load_lane Plain 4 false "ld1 {{v1.s}}[2], [x0]";
    load_exclusive Aligned 8 false "ldxr x1, [x0]";
    load_exclusive_byte Aligned 1 false "ldxrb w1, [x0]";
    load_exclusive_pair Aligned 16 false "ldxp x1, x2, [x0]";
    load_acquire Aligned 8 false "ldar x1, [x0]";
    load_acquire_exclusive Aligned 8 false "ldaxr x1, [x0]";
    store_x Plain 8 true "str x1, [x0]";
    store_w Plain 4 true "str w1, [x0]";
    store_half Plain 2 true "strh w1, [x0]";
    store_byte Plain 1 true "strb w1, [x0]";
    store_zero Plain 8 true "str xzr, [x0]";
    store_post Plain 8 true "str x1, [x0], #16";
    store_pair Plain 16 true "stp x1, x2, [x0]";
    store_pair_pre Plain 16 true "stp x1, x2, [x0, #0]!";
    store_pair_non_temporal Plain 16 true "stnp x1, x2, [x0]";
    store_q Plain 16 true "str q1, [x0]";
    store_pair_q Plain 32 true "stp q1, q2, [x0]";
    store_multiple Plain 16 true "st1 {{v1.16b}}, [x0]";
    store_release Aligned 8 true "stlr x1, [x0]";
    zero_block NormalOnly 64 true "dc zva, x0";
    atomic_add Atomic 8 true "ldadd x1, x2, [x0]";
    atomic_swap Atomic 4 true "swpal w1, w2, [x0]";
    atomic_compare Atomic 8 true "casal x1, x2, [x0]";
    load_stack Stack 8 false "ldr x1, [sp]";
    store_stack Stack 16 true "stp x1, x2, [sp], #16";
    branch Branch 4 false "br x0";
    branch_link Branch 4 false "blr x0";
    branch_return Branch 4 false "ret x0";
}

/// The exception level and stage 1 that a probe runs with.
#[derive(Clone, Copy)]
struct Mode {
    name: &'static str,
    /// PSTATE.M.
    level: u64,
    /// SCTLR_EL1.M.
    stage1: bool,
    /// Where the region is seen: 0 or one of the aliases.
    view: u64,
}

impl Mode {
    const fn address(&self, physical: u64) -> u64 {
        if self.view == 0 { physical } else { paging::through(self.view, physical) }
    }

    /// The vector that a synchronous exception comes to (Arm ARM D1.3.1).
    const fn vector(&self) -> u64 {
        match self.level {
            EL0T => 0x400,
            EL1T => 0x000,
            _ => 0x200,
        }
    }

    /// ESR_EL1 without the ISS.
    const fn syndrome(&self, branch: bool) -> u64 {
        let class = match (self.level, branch) {
            (EL0T, true) => EC_INSTRUCTION_ABORT_LOWER,
            (EL0T, false) => EC_DATA_ABORT_LOWER,
            (_, true) => EC_INSTRUCTION_ABORT,
            (_, false) => EC_DATA_ABORT,
        };
        class << 26 | ESR_IL
    }
}

const MODES: [Mode; 7] = [
    Mode { name: "EL1h", level: EL1H, stage1: true, view: 0 },
    Mode { name: "EL1h by an alias", level: EL1H, stage1: true, view: ALIAS_EL1 },
    Mode { name: "EL1t", level: EL1T, stage1: true, view: ALIAS_EL1 },
    Mode { name: "EL0", level: EL0T, stage1: true, view: ALIAS_EL0 },
    Mode { name: "EL1h, MMU off", level: EL1H, stage1: false, view: 0 },
    Mode { name: "EL1t, MMU off", level: EL1T, stage1: false, view: 0 },
    Mode { name: "EL0, MMU off", level: EL0T, stage1: false, view: 0 },
];

/// A context in `mode` with random registers and PSTATE.
fn context(mode: Mode, pc: u64, random: &mut Random) -> Context {
    let optional = optional_pstate();
    let pstate = mode.level | random.next() & (NZCV | DAIF | optional);
    let mut context = Context::new(pc, pstate);
    for register in &mut context.x {
        *register = random.next();
    }
    let mut changeable = SCTLR_SPAN;
    if optional & SSBS != 0 {
        changeable |= SCTLR_DSSBS;
    }
    if optional & ALLINT != 0 {
        changeable |= SCTLR_SPINTMASK;
    }
    context.sctlr = (SCTLR_OFF & !changeable) | random.next() & changeable | SCTLR_EL0_CACHES;
    if mode.stage1 {
        context.sctlr |= SCTLR_MCI;
    }
    context.sp_el0 = random.next() & !0xf;
    context.sp_el1 = random.next() & !0xf;
    context
}

/// What must be true of an exception.
struct Expected<'a> {
    what: &'a str,
    mode: Mode,
    elr: u64,
    /// FAR_EL1; an access across the edge may name either its own address or the first one that faults.
    far: [u64; 2],
    esr: u64,
    /// Bits of ESR_EL1 that the architecture leaves open here.
    open: u64,
}

/// Enters `context` and compares the exception that comes back, and the registers, with what is expected.
fn expect(context: &mut Context, expected: &Expected) {
    let before = *context;
    // SAFETY: a probe's instructions end at the fault or at the `brk` after it; when they do not fault they write to
    // the region or to its neighbours, which no one else uses.
    unsafe { context.enter() };
    let Expected { what, mode, elr, far, esr, open } = *expected;
    let cpu = crate::cpu::index();
    let place = format_args!("CPU {cpu} {} {what}", mode.name);
    if context.class() == EC_BRK {
        check!(false, "{place}: no exception at all (x0 {:#x})", before.x[0]);
        return;
    }
    // QEMU's own exceptions clear the flags and DIT, where the architecture keeps them.
    let open_pstate = if machine().option("region").is_some() { NZCV | DIT } else { 0 };
    let handler = pstate_of_handler(before.pstate, before.sctlr);
    let all = [
        ("vector", context.vector, mode.vector()),
        ("ESR", context.esr & !open, esr),
        ("ELR", context.pc, elr),
        ("FAR", context.far, if context.far == far[1] { far[1] } else { far[0] }),
        ("SPSR", context.pstate & !BTYPE, before.pstate),
        ("PSTATE in the handler", context.handler_pstate & !open_pstate, handler & !open_pstate),
        ("SCTLR", context.sctlr, before.sctlr),
        ("SP_EL0", context.sp_el0, before.sp_el0),
        ("SP_EL1", context.sp_el1, before.sp_el1),
    ];
    for (name, seen, wanted) in all {
        check!(seen == wanted, "{place}: {name} {seen:#x}, expected {wanted:#x} (x0 {:#x})", before.x[0]);
    }
    let changed = context.x.iter().zip(&before.x).position(|(now, then)| now != then);
    check!(changed.is_none() || changed == Some(30), "{place}: x{} changed", changed.unwrap_or(0));
}

fn probe(probe: &Probe, mode: Mode, physical: u64, first_outside_edge: Option<u64>, random: &mut Random) {
    let code = probe.code as *const () as u64;
    let address = mode.address(physical);
    let mut context = context(mode, code, random);
    context.x[0] = address;
    if probe.kind == Kind::Stack {
        *(if mode.level == EL1H { &mut context.sp_el1 } else { &mut context.sp_el0 }) = address;
    }
    let branch = probe.kind == Kind::Branch;
    let write = if probe.write { WNR } else { 0 };
    expect(
        &mut context,
        &Expected {
            what: probe.name,
            mode,
            elr: if branch { address } else { code },
            far: [address, first_outside_edge.map_or(address, |edge| mode.address(edge))],
            esr: mode.syndrome(branch) | FSC_EXTERNAL | if probe.kind == Kind::Atomic { 0 } else { write },
            open: if probe.kind == Kind::Atomic { WNR } else { 0 },
        },
    );
}

fn has_lse() -> bool {
    field(read_register!("id_aa64isar0_el1"), 20, 4) != 0
}

/// A multiple of `align` in the region, and where nothing answers: of Exeunt's memory not the doorbell, whose own test
/// is [`crate::doorbell`], nor the mirror of the black box.
fn somewhere(region: Range, align: u64, random: &mut Random) -> u64 {
    let is_exeunt = machine().option("region").is_none();
    loop {
        let address = region.base + random.below(region.size) / align * align;
        let offset = address - region.base;
        let is_answered = offset < 0x1000 || offset >= MIRROR && offset - MIRROR < MIRROR_MOST;
        if !is_exeunt || !is_answered {
            return address;
        }
    }
}

/// Every instruction, in every mode, at the first and the last place of the region, somewhere between, and across its
/// edges.
fn accesses(region: Range, random: &mut Random) {
    for mode in MODES {
        for each in PROBES {
            if each.kind == Kind::Atomic && !has_lse() || each.kind == Kind::NormalOnly && !mode.stage1 {
                continue;
            }
            let align = each.bytes.max(if each.kind == Kind::Stack { 16 } else { 1 });
            let middle = somewhere(region, align, random);
            for physical in [region.base, region.end() - align, middle] {
                probe(each, mode, physical, None, random);
            }
            if each.kind == Kind::Plain && mode.stage1 && each.bytes > 1 {
                let before = region.base - each.bytes / 2;
                if machine().ram.contains(before) {
                    probe(each, mode, before, Some(region.base), random);
                }
                probe(each, mode, region.end() - each.bytes / 2, None, random);
                probe(each, mode, middle.min(region.end() - 64) | 1, None, random);
            }
        }
    }
}

/// `nop`, written into the last word before the region when no CPU stores there any longer.
const NOP: u32 = 0xd503_201f;

/// Execution that runs into the region from the word before it.
fn falls_into(region: Range, mode: Mode, random: &mut Random) {
    let mut context = context(mode, mode.address(region.base - 4), random);
    let target = mode.address(region.base);
    expect(
        &mut context,
        &Expected {
            what: "falling in from the word before",
            mode,
            elr: target,
            far: [target; 2],
            esr: mode.syndrome(true) | FSC_EXTERNAL,
            open: 0,
        },
    );
}

/// A translation granule of TTBR1.
struct Granule {
    name: &'static str,
    /// TCR_EL1.TG1.
    tg1: u64,
    /// log2 of the page size.
    shift: u32,
    /// TCR_EL1.T1SZ and the level that a walk begins at with it.
    sizes: &'static [(u64, u32)],
}

const GRANULES: [Granule; 3] = [
    Granule { name: "4 KiB", tg1: 0b10, shift: 12, sizes: &[(16, 0), (25, 1), (34, 2)] },
    Granule { name: "16 KiB", tg1: 0b01, shift: 14, sizes: &[(16, 0), (17, 1), (28, 2)] },
    Granule { name: "64 KiB", tg1: 0b11, shift: 16, sizes: &[(16, 1), (22, 2), (35, 3)] },
];

/// Which of [`GRANULES`] the CPU has (ID_AA64MMFR0_EL1.TGran4, TGran16, TGran64).
fn has_granule(granule: &Granule) -> bool {
    let mmfr0 = read_register!("id_aa64mmfr0_el1");
    match granule.shift {
        12 => field(mmfr0, 28, 4) != 0xf,
        14 => field(mmfr0, 20, 4) != 0,
        _ => field(mmfr0, 24, 4) != 0xf,
    }
}

#[repr(C, align(65536))]
struct WalkTables(UnsafeCell<[[u64; 8192]; 3]>);

// SAFETY: each CPU uses the tables at its own index only.
unsafe impl Sync for WalkTables {}

static WALK_TABLES: [WalkTables; CPUS] = [const { WalkTables(UnsafeCell::new([[0; 8192]; 3])) }; CPUS];

/// Sets up TTBR1 for a walk of `address` that finds its table of level `fault` at `target`.
fn build_walk(granule: &Granule, t1sz: u64, start: u32, fault: u32, address: u64, target: u64) {
    let bits = granule.shift - 3;
    let tables = WALK_TABLES[crate::cpu::index()].0.get() as u64;
    let mut root = target;
    // From the last table of our own back to the first.
    for level in (start..fault).rev() {
        let table = tables + u64::from(level - start) * 0x1_0000;
        let shift = granule.shift + bits * (3 - level);
        let width = if level == start { 64 - t1sz as u32 - shift } else { bits };
        let index = field(address, shift, width);
        // SAFETY: the tables at this CPU's index are its own, and an index has at most 13 bits.
        unsafe { ((table + 8 * index) as *mut u64).write_volatile(root | TABLE) };
        root = table;
    }
    // IRGN1, ORGN1: write-back; SH1: inner shareable.
    let half = t1sz << 16 | 0b01 << 24 | 0b01 << 26 | 0b11 << 28 | granule.tg1 << 30;
    write_register!("ttbr1_el1", root);
    write_register!("tcr_el1", (paging::tcr() & !(paging::TCR_EPD1 | 0b11 << 30)) | half);
    // Tables of other CPUs are their own, but TLB entries may be shared between the CPUs of a core: this CPU's are
    // enough.
    paging::flush();
}

#[unsafe(naked)]
#[unsafe(link_section = ".probes")]
unsafe extern "C" fn address_translation() {
    naked_asm!("at s1e1r, x0", "brk #{END}", END = const END_IMMEDIATE)
}

/// Walks of every level and granule whose table lies in the region, for loads, stores, branches and AT.
fn walks(region: Range, random: &mut Random) {
    let by_name = |name: &str| PROBES.iter().find(|probe| probe.name == name);
    let accesses =
        ["ldr x1, [x0]", "stp x1, x2, [x0]", "br x0"].map(|name| by_name(name).expect("a probe of that name"));
    for granule in GRANULES.iter().filter(|granule| has_granule(granule)) {
        for &(t1sz, start) in granule.sizes {
            for fault in start..4 {
                let page = 1 << granule.shift;
                let target = somewhere(region, page, random);
                let address = u64::MAX << (64 - t1sz) | random.next() & (u64::MAX >> t1sz) & !0x3f;
                build_walk(granule, t1sz, start, fault, address, target);
                let fsc = FSC_EXTERNAL_WALK + u64::from(fault);
                for mode in [MODES[0], MODES[2], MODES[3]] {
                    for each in accesses {
                        walk(each, mode, address, fsc, random);
                    }
                }
                let code = address_translation as *const () as u64;
                let mut context = context(MODES[0], code, random);
                context.x[0] = address;
                let failures = crate::report::totals().1;
                expect(
                    &mut context,
                    &Expected {
                        what: "at s1e1r",
                        mode: MODES[0],
                        elr: code,
                        far: [address; 2],
                        esr: MODES[0].syndrome(false) | CM | WNR | fsc,
                        open: 0,
                    },
                );
                if crate::report::totals().1 != failures {
                    println!(
                        "  (walk with {} pages, T1SZ {t1sz}, table of level {fault} at {target:#x})",
                        granule.name
                    );
                }
            }
        }
    }
    write_register!("tcr_el1", paging::tcr());
    paging::flush();
}

fn walk(probe: &Probe, mode: Mode, address: u64, fsc: u64, random: &mut Random) {
    let code = probe.code as *const () as u64;
    let branch = probe.kind == Kind::Branch;
    let mut context = context(mode, code, random);
    context.x[0] = address;
    expect(
        &mut context,
        &Expected {
            what: probe.name,
            mode,
            elr: if branch { address } else { code },
            far: [address; 2],
            esr: mode.syndrome(branch) | fsc | if probe.write { WNR } else { 0 },
            open: 0,
        },
    );
}

/// What lies next to the region belongs to the guest.
fn neighbours(region: Range) {
    for address in [region.base - 8, region.end()] {
        if !machine().ram.contains(address) {
            continue;
        }
        for (name, code) in [("load", load_x as *const () as u64), ("store", store_x as *const () as u64)] {
            if name == "store" && address == region.end() && machine().option("region").is_none() {
                // The black box, which can be read.
                continue;
            }
            let mut context = Context::new(code, EL1H | DAIF);
            context.x[0] = address;
            // The store writes back what the load found, or zero to memory that is nobody's.
            // SAFETY: the instruction ends with a `brk`; the memory next to the region holds nothing that is in use:
            // QEMU's boot code has run, and after the region the host's image begins with a header that has been read.
            unsafe { context.enter() };
            check!(context.ended_at(code + 4), "{name} next to the region, at {address:#x}: ESR {:#x}", context.esr);
        }
    }
}

struct Plan(UnsafeCell<(Range, u64)>);

// SAFETY: written by the boot CPU before the others begin.
unsafe impl Sync for Plan {}

static PLAN: Plan = Plan(UnsafeCell::new((Range { base: 0, size: 0 }, 0)));

fn everything(index: usize) {
    // SAFETY: see `Plan`.
    let (region, seed) = unsafe { *PLAN.0.get() };
    let mut random = Random::new(seed + index as u64);
    accesses(region, &mut random);
    walks(region, &mut random);
}

fn falls(index: usize) {
    // SAFETY: see `Plan`.
    let (region, seed) = unsafe { *PLAN.0.get() };
    let mut random = Random::new(seed + index as u64);
    for mode in MODES {
        falls_into(region, mode, &mut random);
    }
}

fn alive() {
    if machine().option("region").is_some() {
        return;
    }
    for conduit in [Conduit::Smc, Conduit::Hvc] {
        let version = firmware::psci_by(conduit, firmware::PSCI_VERSION, [0; 3]);
        check!(version >= 0x1_0000, "PSCI_VERSION by {conduit:?} afterwards: {version:#x}");
    }
}

/// Runs the test: first on the boot CPU alone, then on all CPUs at once.
///
/// # Panics
/// When there is no region to test.
pub fn run(_: &Start) {
    let region = match machine().option("region").and_then(|text| text.split_once(',')) {
        Some((base, size)) => Range {
            base: parse_number(base).expect("region=BASE,SIZE"),
            size: parse_number(size).expect("region=BASE,SIZE"),
        },
        None => machine().reserved.expect("no /reserved-memory/exeunt and no region="),
    };
    let seed = machine().number("seed").unwrap_or_else(|| read_register!("cntvct_el0"));
    println!("aborts: region {:#x}..{:#x}, seed={seed}", region.base, region.end());
    // SAFETY: only this CPU runs.
    unsafe { *PLAN.0.get() = (region, seed) };
    paging::alias(region.base);
    neighbours(region);
    everything(0);
    let (checks, failures) = crate::report::totals();
    println!("aborts: CPU 0 alone: {checks} checks, {failures} failed");
    assert!(machine().mpidrs().len() <= CPUS.min(MAX_CPUS), "this guest has tables for {CPUS} CPUs");
    let cpus = smp::start_all();
    smp::on_all(everything);
    if machine().ram.contains(region.base - 4) {
        // SAFETY: the word before the region is RAM of the guest that nothing uses (see `neighbours`).
        unsafe { ((region.base - 4) as *mut u32).write_volatile(NOP) };
        smp::on_all(falls);
    }
    smp::on_all(|_| alive());
    println!("aborts: {cpus} CPUs at once done");
    crate::report::finish("aborts");
}
