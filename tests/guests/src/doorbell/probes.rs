//! Accesses of every form, to the doorbell and around it.
//!
//! Owns the list of instructions, each written at run time, and what each must come to: it is answered, or it gets a
//! synchronous external abort, and in that case has changed nothing.

use guest_abi::RESERVATION;
use guest_abi::doorbell::{BOX_SIZE, BOX_START, CHANNEL, CHANNEL_SIZE, CHANNELS, MAGIC, MIRROR, OPEN, TICKET};

use super::{load, region};
use crate::code::{Code, END};
use crate::cpu::{Context, DAIF, EC_DATA_ABORT, EL1H, ESR_IL};
use crate::machine::MAX_CPUS;
use crate::random::Random;
use crate::registers::field;

/// ESR_EL1.ISS.xFSC: synchronous external abort.
const FSC_EXTERNAL: u64 = 0x10;
/// The same of an alignment fault.
const FSC_ALIGNMENT: u64 = 0x21;

/// An instruction on the address in x9.
pub struct Probe {
    name: &'static str,
    instruction: u32,
    /// Bytes of the access.
    bytes: u64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A load of one register, x1, without more.
    Load,
    /// A store of one.
    Store,
    /// No plain access.
    Other,
    /// The same, and it must be aligned.
    Aligned,
    /// The same, for CPUs with FEAT_LSE.
    Atomic,
}

macro_rules! probes {
    ($($name:literal $instruction:literal $bytes:literal $kind:ident;)+) => {
        pub static PROBES: &[Probe] =
            &[$(Probe { name: $name, instruction: $instruction, bytes: $bytes, kind: Kind::$kind },)+];
    };
}

probes! {
    "ldr x1, [x9]" 0xf940_0121 8 Load;
    "ldr w1, [x9]" 0xb940_0121 4 Load;
    "ldrh w1, [x9]" 0x7940_0121 2 Load;
    "ldrb w1, [x9]" 0x3940_0121 1 Load;
    "ldrsw x1, [x9]" 0xb980_0121 4 Load;
    "ldrsb w1, [x9]" 0x39c0_0121 1 Load;
    "ldur x1, [x9]" 0xf840_0121 8 Load;
    "str x1, [x9]" 0xf900_0121 8 Store;
    "str w1, [x9]" 0xb900_0121 4 Store;
    "strh w1, [x9]" 0x7900_0121 2 Store;
    "strb w1, [x9]" 0x3900_0121 1 Store;
    "str xzr, [x9]" 0xf900_013f 8 Store;
    "ldar x1, [x9]" 0xc8df_fd21 8 Aligned;
    "stlr x1, [x9]" 0xc89f_fd21 8 Aligned;
    "ldr x1, [x9], #16" 0xf841_0521 8 Other;
    "str x1, [x9], #16" 0xf801_0521 8 Other;
    "ldp x1, x2, [x9]" 0xa940_0921 16 Other;
    "stp x1, x2, [x9]" 0xa900_0921 16 Other;
    "ldnp x1, x2, [x9]" 0xa840_0921 16 Other;
    "stp x1, x2, [x9], #16" 0xa881_0921 16 Other;
    "ldr q1, [x9]" 0x3dc0_0121 16 Other;
    "ldr d1, [x9]" 0xfd40_0121 8 Other;
    "str q1, [x9]" 0x3d80_0121 16 Other;
    "str d1, [x9]" 0xfd00_0121 8 Other;
    "ld1 {v1.16b}, [x9]" 0x4c40_7121 16 Other;
    "ldxr x1, [x9]" 0xc85f_7d21 8 Aligned;
    "ldaxr x1, [x9]" 0xc85f_fd21 8 Aligned;
    "ldxp x1, x2, [x9]" 0xc87f_0921 16 Aligned;
    "ldadd x1, x2, [x9]" 0xf821_0122 8 Atomic;
    "swpal w1, w2, [x9]" 0xb8e1_8122 4 Atomic;
    "casal x1, x2, [x9]" 0xc8e1_fd22 8 Atomic;
}

fn has_lse() -> bool {
    field(read_register!("id_aa64isar0_el1"), 20, 4) != 0
}

impl Probe {
    fn exists(&self) -> bool {
        self.kind != Kind::Atomic || has_lse()
    }

    /// Whether the doorbell answers it at this offset of the 2 MiB; nothing if that is left open here: it says of the
    /// acquiring and releasing forms only that a syndrome describes them, and it has nothing to say of the box itself.
    fn is_answered(&self, offset: u64, box_offset: u64) -> Option<bool> {
        let aligned = offset.is_multiple_of(self.bytes);
        let is_register = match offset {
            MAGIC..=0x60 => true,
            CHANNEL.. if offset < CHANNEL + CHANNELS * CHANNEL_SIZE => offset % CHANNEL_SIZE <= TICKET,
            _ => false,
        };
        if offset > RESERVATION || offset + self.bytes > box_offset {
            return None;
        }
        match self.kind {
            Kind::Aligned if aligned && is_register => None,
            Kind::Aligned if aligned && (MIRROR..MIRROR + (RESERVATION - box_offset)).contains(&offset) => None,
            Kind::Load if aligned && (MIRROR..MIRROR + (RESERVATION - box_offset)).contains(&offset) => Some(true),
            Kind::Load | Kind::Store => Some(aligned && self.bytes == 8 && is_register),
            _ => Some(false),
        }
    }
}

static CODE: [Code<128>; MAX_CPUS] = [const { Code::new() }; MAX_CPUS];

/// Writes every probe for the calling CPU.
pub fn prepare(cpu: usize) {
    for (index, probe) in PROBES.iter().enumerate() {
        CODE[cpu].write(2 * index, &[probe.instruction, END]);
    }
}

/// Makes one access, the one with this number, at `offset`, which may be outside of the 2 MiB by a few bytes. Returns
/// whether it was answered. Each CPU has prepared its own.
pub fn access(cpu: usize, number: usize, offset: u64, box_offset: u64, random: &mut Random) -> bool {
    let probe = &PROBES[number];
    if !probe.exists() {
        return false;
    }
    let pc = CODE[cpu].address(2 * number);
    let address = region().base.wrapping_add(offset);
    let mut context = Context::new(pc, EL1H | DAIF);
    for register in &mut context.x {
        *register = random.value();
    }
    context.x[9] = address;
    let before = context;
    // SAFETY: the instruction ends with a `brk`, and accesses Exeunt's 2 MiB, or the RAM next to it, which nobody uses.
    unsafe { context.enter() };
    let answered = context.ended_at(pc + 4);
    let (name, place) = (probe.name, format_args!("at {offset:#x} of the 2 MiB"));
    let wanted = probe.is_answered(offset, box_offset);
    check!(wanted.is_none_or(|wanted| wanted == answered), "{name} {place}: ESR {:#x}", context.esr);
    let may_change = |register: usize| register == 30 || answered && (1..=2).contains(&register) || register == 9;
    let changed = (0..31).find(|&register| !may_change(register) && context.x[register] != before.x[register]);
    check!(changed.is_none(), "{name} {place}: x{} changed", changed.unwrap_or(0));
    if !answered {
        let same = context.x[1..3] == before.x[1..3] && context.x[9] == address;
        let fsc = context.esr & 0x3f;
        let is_abort = context.class() == EC_DATA_ABORT && context.esr & ESR_IL != 0;
        check!(is_abort && (fsc == FSC_EXTERNAL || fsc == FSC_ALIGNMENT), "{name} {place}: ESR {:#x}", context.esr);
        check!(same && context.pc == pc, "{name} {place}: it was refused and had an effect");
        let far = context.far.wrapping_sub(address);
        check!(far < probe.bytes, "{name} {place}: FAR {:#x}", context.far);
    }
    answered
}

/// Every instruction at places where it is answered, just is not, and never is.
pub fn refusals(random: &mut Random) {
    prepare(0);
    let box_offset = load(BOX_START) - region().base;
    let size = load(BOX_SIZE);
    let (mut answered, mut refused) = (0, 0);
    for number in 0..PROBES.len() {
        for offset in [
            0,
            8,
            0x38,
            MAGIC,
            MAGIC + 1,
            MAGIC + 4,
            OPEN,
            OPEN + 4,
            0x68,
            0xf8,
            CHANNEL - 4,
            CHANNEL,
            CHANNEL + 0x28,
            CHANNEL + 0x58,
            CHANNEL + 0x78,
            CHANNEL + 0x780,
            CHANNEL + 0x7fc,
            CHANNEL + CHANNELS * CHANNEL_SIZE,
            0xff8,
            0xffc,
            0xfff,
            0x1000,
            0x8000,
            MIRROR - 8,
            MIRROR - 4,
            MIRROR - 1,
            MIRROR,
            MIRROR + 1,
            MIRROR + 0x1ff8,
            MIRROR + 0x1ffc,
            MIRROR + size - 8,
            MIRROR + size - 4,
            MIRROR + size - 1,
            MIRROR + size,
            0x1_0000 * 15,
            box_offset - 16,
        ] {
            if access(0, number, offset, box_offset, random) {
                answered += 1;
            } else {
                refused += 1;
            }
        }
    }
    check!(answered > 50 && refused > 500, "{answered} answered, {refused} refused");
}
