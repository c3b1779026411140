//! One call with its arguments and what must come of it, made under every condition that a host may be in.
//!
//! Owns how a case is performed and what is checked besides its results: everything that docs/abi.md says stays as it
//! was.

use core::cell::UnsafeCell;
use core::fmt;

use super::landing::{self, CPUS, GIC_REGISTERS, Landing, NAMES};
use super::tally::Call;
use crate::code::{Code, END};
use crate::cpu::{Context, DAIF, EL1H, EL1T, NZCV};
use crate::machine::machine;
use crate::paging::SCTLR_OFF;
use crate::random::Random;
use crate::registers::field;
use crate::unchanged;

/// An argument with these high bits is the address of a page of the calling CPU's own, plus the low 16 bits.
pub const OWN_PAGE: u64 = 0xb0ff_e400 << 32;
/// An argument that becomes the calling CPU's entry for a SOFT_RESTART.
pub const OWN_ENTRY: u64 = 0xe4e4_e400 << 32;

/// What must be in a register afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// What was in it.
    Same,
    /// This.
    Is(u64),
    /// Something that the contract leaves open.
    Any,
}

/// Where the call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Behind the call.
    Returns,
    /// At the entry, at real EL2.
    El2,
    /// At the entry, at virtual EL2.
    VirtualEl2,
    /// At the entry, at EL1.
    El1,
}

/// A call.
#[derive(Clone, Copy)]
pub struct Case {
    /// The row of the table that it counts for.
    pub call: Call,
    /// Its arguments in words. Neighbours with the same words are one line.
    pub what: &'static str,
    /// The immediate of the HVC.
    pub immediate: u16,
    /// x0 to x4; x5 to x30 are random.
    pub x: [u64; 5],
    /// x0 to x3 afterwards; all else is as before.
    pub want: [Want; 4],
    /// Where it ends.
    pub end: End,
}

/// The conditions, as bits of a number below [`VARIATIONS`].
pub const VARIATIONS: u32 = 16;
const MMU_OFF: u32 = 1 << 0;
const MASKED: u32 = 1 << 1;
const EL1_WITH_SP_EL0: u32 = 1 << 2;
/// ELR_EL1, SPSR_EL1, ESR_EL1 and FAR_EL1 are read right after the call, which takes x19 to x22.
const LOOK: u32 = 1 << 3;

/// What a case gave.
pub struct Outcome {
    /// x0 to x3.
    pub x: [u64; 4],
    /// What is wrong with it.
    pub problem: Option<Problem>,
}

/// What can be wrong.
#[derive(Clone, Copy)]
pub enum Problem {
    /// An exception, or another way than expected.
    Elsewhere {
        pc: u64,
        esr: u64,
        far: u64,
    },
    /// A register of this name has not the value that it should.
    Register {
        name: &'static str,
        number: usize,
        seen: u64,
        wanted: u64,
    },
    Simd {
        number: usize,
    },
    /// The payload was entered so often.
    Entries(u64),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Self::Elsewhere { pc, esr, far } => write!(f, "ended at {pc:#x}, ESR {esr:#x} FAR {far:#x}"),
            Self::Register { name: "x", number, seen, wanted } => {
                write!(f, "x{number} {seen:#x}, expected {wanted:#x}")
            }
            Self::Register { name, seen, wanted, .. } => write!(f, "{name} {seen:#x}, expected {wanted:#x}"),
            Self::Simd { number } => write!(f, "q{number} changed"),
            Self::Entries(count) => write!(f, "the payload was entered {count} times"),
        }
    }
}

/// The conditions in words.
pub struct Conditions(pub u32);

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let word = |bit, set, clear| if self.0 & bit != 0 { set } else { clear };
        write!(
            f,
            "MMU {}, DAIF {}, EL1{}",
            word(MMU_OFF, "off", "on"),
            word(MASKED, "masked", "clear"),
            word(EL1_WITH_SP_EL0, "t", "h")
        )
    }
}

/// Room for the instructions of each CPU.
static CODE: [Code<32>; CPUS] = [const { Code::new() }; CPUS];
/// Where in it what stands.
const PLAIN: usize = 0;
const LOOKING: usize = 8;
const SPINNING: usize = 16;

#[repr(C, align(4096))]
struct Pages(UnsafeCell<[[u8; 2 * 4096]; CPUS]>);

// SAFETY: each CPU uses its own pages.
unsafe impl Sync for Pages {}

static PAGES: Pages = Pages(UnsafeCell::new([[0; 2 * 4096]; CPUS]));

/// The address of the page that [`OWN_PAGE`] means on the CPU with the number `index`; another of its own follows.
pub fn own_page(index: usize) -> u64 {
    PAGES.0.get() as u64 + (index * 2 * 4096) as u64
}

/// The value that an argument becomes on the CPU with the number `index`.
pub fn resolve(value: u64, index: usize) -> u64 {
    match value & !0xffff {
        OWN_PAGE => own_page(index) + (value & 0xffff),
        OWN_ENTRY => landing::entry(index) + (value & 0xffff),
        _ => value,
    }
}

const fn hvc(immediate: u16) -> u32 {
    0xd400_0002 | (immediate as u32) << 5
}

/// `mrs x19, elr_el1; mrs x20, spsr_el1; mrs x21, esr_el1; mrs x22, far_el1`
const READ_EXCEPTION: [u32; 4] = [0xd538_4033, 0xd538_4014, 0xd538_5215, 0xd538_6016];

/// Writes the call's instructions unless they stand there, and returns where the call is and where it ends.
fn write_code(index: usize, immediate: u16, look: bool) -> (u64, u64) {
    let code = &CODE[index];
    let at = if look { LOOKING } else { PLAIN };
    // SAFETY: the code is the calling CPU's.
    if unsafe { (code.address(at) as *const u32).read_volatile() } != hvc(immediate) {
        code.write(PLAIN, &[hvc(immediate), END]);
        let [elr, spsr, esr, far] = READ_EXCEPTION;
        code.write(LOOKING, &[hvc(immediate), elr, spsr, esr, far, END]);
    }
    let length = if look { 5 } else { 1 };
    (code.address(at), code.address(at + length))
}

fn wild_pointer(random: &mut Random) -> u64 {
    match random.below(5) {
        0 => 0,
        1 => u64::MAX,
        2 => machine().reserved.unwrap_or_default().base + 8,
        3 => random.next() | 1,
        _ => random.next(),
    }
}

/// A context of random registers under these conditions.
fn context(pc: u64, conditions: u32, random: &mut Random) -> Context {
    let mut pstate = random.next() & NZCV;
    pstate |= if conditions & EL1_WITH_SP_EL0 != 0 { EL1T } else { EL1H };
    pstate |= if conditions & MASKED != 0 { DAIF } else { 0 };
    let mut context = Context::new(pc, pstate);
    if conditions & MMU_OFF != 0 {
        context.sctlr = SCTLR_OFF;
    }
    for register in &mut context.x {
        *register = random.value();
    }
    for register in &mut context.q {
        *register = u128::from(random.next()) << 64 | u128::from(random.next());
    }
    context.sp_el0 = wild_pointer(random);
    context.sp_el1 = wild_pointer(random);
    // FPCR: rounding mode, flush to zero, default NaN; FPSR: the cumulative flags.
    context.fpcr = random.next() & 0x07c0_0000;
    context.fpsr = random.next() & 0x0800_009f;
    context
}

/// Makes the call on the CPU with the number `index`, which is the calling one, under these conditions.
pub fn perform(case: &Case, index: usize, conditions: u32, random: &mut Random) -> Outcome {
    let lands = case.end != End::Returns;
    let look = conditions & LOOK != 0 && !lands;
    let (pc, mut end) = write_code(index, case.immediate, look);
    if lands {
        landing::prepare(index);
        end = landing::end();
    }
    let mut context = context(pc, conditions, random);
    for (register, value) in context.x.iter_mut().zip(case.x) {
        *register = resolve(value, index);
    }
    let (esr, far) = (random.next() & 0xffff_ffff, random.next());
    write_register!("esr_el1", esr);
    write_register!("far_el1", far);

    let entries = landing::last(index).count;
    let (before, registers) = (context, unchanged::read());
    // SAFETY: the code is one call and a `brk`, or the call goes to a payload that ends with one.
    unsafe { context.enter() };
    let seen = unchanged::read();

    let x = [context.x[0], context.x[1], context.x[2], context.x[3]];
    if !context.ended_at(end) {
        let problem = Some(Problem::Elsewhere { pc: context.pc, esr: context.esr, far: context.far });
        return Outcome { x, problem };
    }
    let mut wanted = before;
    if look {
        // What the call may not change, and `enter` has set.
        for (register, value) in wanted.x[19..23].iter_mut().zip([pc, before.pstate, esr, far]) {
            *register = value;
        }
    }
    let problem = values(case, &wanted, &context);
    // A payload finds other stack pointers, and has used TPIDR_EL0.
    let problem = problem.or_else(|| match case.end {
        End::Returns => state(&wanted, &context).or_else(|| difference(&registers, &seen)),
        end => entered(end, &landing::last(index), entries + 1),
    });
    Outcome { x, problem }
}

/// `ldr x1, [x0]; cbz x1, .-4`
const SPIN: [u32; 2] = [0xf940_0001, 0xb4ff_ffe1];

/// Spins under these conditions until the word at `flag` is not zero, and looks whether a register but x1 has changed.
pub fn spin(index: usize, conditions: u32, flag: u64, random: &mut Random) -> Outcome {
    let [load, branch] = SPIN;
    let pc = CODE[index].write(SPINNING, &[load, branch, END]);
    let mut context = context(pc, conditions, random);
    context.x[0] = flag;
    let (before, registers) = (context, unchanged::read());
    // SAFETY: two instructions that read the flag, and a `brk`.
    unsafe { context.enter() };
    let seen = unchanged::read();
    let x = [context.x[0], context.x[1], context.x[2], context.x[3]];
    let problem = if context.ended_at(pc + 8) {
        (2..31)
            .find_map(|number| register("x", number, context.x[number], before.x[number]))
            .or_else(|| simd(&before, &context))
            .or_else(|| state(&before, &context))
            .or_else(|| difference(&registers, &seen))
    } else {
        Some(Problem::Elsewhere { pc: context.pc, esr: context.esr, far: context.far })
    };
    Outcome { x, problem }
}

fn register(name: &'static str, number: usize, seen: u64, wanted: u64) -> Option<Problem> {
    (seen != wanted).then_some(Problem::Register { name, number, seen, wanted })
}

/// General-purpose and SIMD registers.
fn values(case: &Case, before: &Context, after: &Context) -> Option<Problem> {
    let named = case.want.iter().enumerate().find_map(|(number, want)| match *want {
        Want::Any => None,
        Want::Same => register("x", number, after.x[number], before.x[number]),
        Want::Is(value) => register("x", number, after.x[number], value),
    });
    // SOFT_RESTART leaves the entry in x4.
    let fourth = if case.end == End::Returns { before.x[4] } else { before.x[1] };
    named
        .or_else(|| register("x", 4, after.x[4], fourth))
        .or_else(|| (5..31).find_map(|number| register("x", number, after.x[number], before.x[number])))
        .or_else(|| simd(before, after))
}

fn simd(before: &Context, after: &Context) -> Option<Problem> {
    (0..32)
        .find(|&number| after.q[number] != before.q[number])
        .map(|number| Problem::Simd { number })
        .or_else(|| register("FPCR", 0, after.fpcr, before.fpcr))
        .or_else(|| register("FPSR", 0, after.fpsr, before.fpsr))
}

/// PSTATE, stack pointers and SCTLR_EL1 of a call that returns.
fn state(before: &Context, after: &Context) -> Option<Problem> {
    register("PSTATE", 0, after.pstate, before.pstate)
        .or_else(|| register("SP_EL0", 0, after.sp_el0, before.sp_el0))
        .or_else(|| register("SP_EL1", 0, after.sp_el1, before.sp_el1))
        .or_else(|| register("SCTLR_EL1", 0, after.sctlr, before.sctlr))
}

fn difference(before: &[u64; unchanged::COUNT], after: &[u64; unchanged::COUNT]) -> Option<Problem> {
    let name = unchanged::difference(before, after)?;
    Some(Problem::Register { name, number: 0, seen: 0, wanted: 0 })
}

/// How the payload was entered: what booting.rst wants of a CPU at this level, and of the registers of EL2.
fn entered(end: End, landing: &Landing, entries: u64) -> Option<Problem> {
    if landing.count != entries {
        return Some(Problem::Entries(landing.count.wrapping_sub(entries - 1)));
    }
    let level = if end == End::El1 { 1 } else { 2 };
    register("CurrentEL", 0, landing.current_el, level << 2)
        .or_else(|| register("DAIF", 0, landing.daif, DAIF))
        .or_else(|| register("SPSel", 0, landing.spsel, 1))
        .or_else(|| match end {
            End::El2 | End::VirtualEl2 => el2(landing, end),
            // M, C, WXN, E0E and EE: MMU off, little-endian.
            _ => register("SCTLR_EL1", 0, landing.sctlr_el1 & SCTLR_BAD, 0),
        })
}

/// SCTLR_ELx.M, C, WXN, E0E and EE.
const SCTLR_BAD: u64 = 1 | 1 << 2 | 1 << 19 | 1 << 24 | 1 << 25;

/// Masks of registers of EL2 that must have the value after them (Arm ARM D24.2; booting.rst: no trap or translation
/// of EL2's may be left over, and the counters agree).
const EL2_WANTED: [(usize, u64, u64); 13] = [
    (0, SCTLR_BAD, 0),
    // HCR_EL2: RW, and nothing that translates, routes or traps: bits 35 to 0 but SWIO, and NV, NV1, NV2.
    (1, 0xf_ffff_ffff & !(1 << 1) | 0b1011 << 42, 1 << 31),
    // CPTR_EL2.TCPAC, TTA, TFP.
    (2, 1 << 31 | 1 << 20 | 1 << 10, 0),
    // MDCR_EL2.TDRA, TDOSA, TDA, TDE, TPM, TPMCR.
    (3, 1 << 11 | 1 << 10 | 1 << 9 | 1 << 8 | 1 << 6 | 1 << 5, 0),
    // CNTHCTL_EL2.EL1PCTEN and EL1PCEN.
    (4, 0b11, 0b11),
    (5, u64::MAX, 0),
    (6, u64::MAX, 0),
    (8, u64::MAX, 0),
    // VBAR_EL2 is aligned.
    (11, 0x7ff, 0),
    // CNTHP_CTL_EL2.ENABLE.
    (12, 1, 0),
    // ICC_SRE_EL2.SRE and Enable.
    (13, 0b1001, 0b1001),
    (14, u64::MAX, 0),
    // VTCR_EL2: nothing but RES1.
    (7, !(1 << 31), 0),
];

fn el2(landing: &Landing, end: End) -> Option<Problem> {
    let gic = matches!(machine().gic, Some(crate::machine::Gic::V3 { .. }));
    let wanted = EL2_WANTED.iter().filter(|(number, ..)| gic || *number < GIC_REGISTERS);
    let fixed = wanted.clone().find_map(|&(number, mask, value)| {
        let seen = landing.el2[number];
        (seen & mask != value).then_some(Problem::Register { name: NAMES[number], number, seen, wanted: value })
    });
    let own = |number: usize, value: u64| register(NAMES[number], number, landing.el2[number], value);
    let identity = || own(9, read_register!("midr_el1")).or_else(|| own(10, read_register!("mpidr_el1")));
    // At real EL2 the resident stub is what is there, or what the host has set.
    let vectors = || match end {
        End::El2 => {
            (landing.el2[11] == 0).then_some(Problem::Register { name: "VBAR_EL2", number: 0, seen: 0, wanted: 1 })
        }
        _ => None,
    };
    // MDCR_EL2.HPMN: the host has all event counters (PMCR_EL0.N).
    let counters = || {
        let has_pmu = !matches!(field(read_register!("id_aa64dfr0_el1"), 8, 4), 0 | 0xf);
        let (seen, wanted) = (field(landing.el2[3], 0, 5), field(if has_pmu { pmcr() } else { 0 }, 11, 5));
        (has_pmu && seen != wanted).then_some(Problem::Register { name: "MDCR_EL2.HPMN", number: 0, seen, wanted })
    };
    fixed.or_else(identity).or_else(vectors).or_else(counters)
}

fn pmcr() -> u64 {
    read_register!("pmcr_el0")
}
