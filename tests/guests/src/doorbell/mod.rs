//! The doorbell: what loads and stores in the first page of Exeunt's 2 MiB and in the mirror of the black box do, and
//! LEAVE by it.
//!
//! The words on the command line: `storm=N` makes all CPUs but the first make N accesses of every kind to random places
//! in the 2 MiB, while the first makes calls and checks every answer; `leave` leaves, looks, and comes back. Without
//! either everything that one CPU can show is shown. `seed=N` repeats a run.

pub(crate) mod leave;
mod probes;
mod storm;

use core::arch::asm;

use guest_abi::doorbell::{
    A0, BOX_SIZE, BOX_START, CHANNELS, DONE, GO, MAGIC, MIRROR, OPEN, PRESENT, R0, TICKET, VERSION, channel, seal,
};
use guest_abi::{RESERVATION, call, vendor};

use crate::code::{Code, END};
use crate::cpu::{Context, DAIF, EL1H};
use crate::machine::{Range, machine};
use crate::random::Random;
use crate::start::Start;

const NOT_SUPPORTED: u64 = u64::MAX;

/// Exeunt's 2 MiB, without the black box.
pub(crate) fn region() -> Range {
    machine().reserved.expect("no /reserved-memory/exeunt")
}

pub(crate) fn load(offset: u64) -> u64 {
    let (place, value) = (region().base + offset, &mut 0_u64);
    // SAFETY: a load of one register that changes nothing but the doorbell.
    unsafe { asm!("ldr {1}, [{0}]", in(reg) place, out(reg) *value, options(nostack)) };
    *value
}

pub(crate) fn store(offset: u64, value: u64) {
    let place = region().base + offset;
    // SAFETY: a store to a register of the doorbell.
    unsafe { asm!("str {1}, [{0}]", in(reg) place, in(reg) value, options(nostack)) };
}

/// The protocol, once. Nothing: it is to be begun again.
fn try_call(arguments: [u64; 4]) -> Option<[u64; 4]> {
    let ticket = load(OPEN);
    let channel = channel(ticket);
    for (index, argument) in (0..).zip(arguments) {
        store(channel + A0 + 8 * index, argument);
    }
    store(channel + GO, seal(ticket, arguments));
    if load(channel + DONE) != ticket {
        return None;
    }
    let results = [0, 8, 16, 24].map(|offset| load(channel + R0 + offset));
    (load(channel + DONE) == ticket).then_some(results)
}

/// A call that must succeed at once: nobody else is there.
fn make(what: &str, arguments: [u64; 4]) -> [u64; 4] {
    let results = try_call(arguments);
    check!(results.is_some(), "{what}: no answer");
    results.unwrap_or([0; 4])
}

fn hvc(arguments: [u64; 4]) -> [u64; 4] {
    let [x0, x1, x2, x3] = arguments;
    // SAFETY: the calls here change nothing.
    unsafe { call::hvc([x0, x1, x2, x3, 0]) }
}

/// What each register of the page tells.
fn registers() {
    let own = region();
    check!(load(MAGIC) == PRESENT, "MAGIC {:#x}", load(MAGIC));
    check!(load(VERSION) == vendor::ABI_VERSION.into(), "VERSION {:#x}", load(VERSION));
    let (start, size) = (load(BOX_START), load(BOX_SIZE));
    // The reservation of the tree ends where the box begins.
    let fits = start == own.end() && start + size == own.base + RESERVATION && size.is_multiple_of(0x1_0000);
    check!(fits, "box {start:#x}, {size:#x}");
    let (first, second) = (load(OPEN), load(OPEN));
    check!(first != second && channel(first) != channel(second), "tickets {first:#x}, {second:#x}");
    for ticket in [first, second] {
        check!(load(channel(ticket) + TICKET) == ticket, "TICKET of {ticket:#x}");
        check!(load(channel(ticket) + DONE) == 0, "DONE of {ticket:#x}");
        for offset in [A0, A0 + 8, A0 + 16, A0 + 24, GO] {
            check!(load(channel(ticket) + offset) == 0, "a load of what is for stores: {offset:#x}");
        }
    }
    // Stores to what is for loads change nothing.
    for offset in [MAGIC, VERSION, OPEN, BOX_START, BOX_SIZE, channel(first) + DONE, channel(first) + TICKET] {
        store(offset, 0x1234);
    }
    check!(load(MAGIC) == PRESENT && load(channel(first) + TICKET) == first, "a store had an effect");
    check!((load(BOX_START), load(BOX_SIZE)) == (start, size), "a store had an effect");
}

/// Calls by the doorbell answer as by HVC; what is none of Exeunt's own is refused.
fn calls() {
    for arguments in [
        [vendor::VERSION.into(), 0, 0, 0],
        [vendor::CALL_UID.into(), 0, 0, 0],
        [vendor::REVISION.into(), 1, 2, 3],
        [vendor::CALL_COUNT.into(), 1, 2, 3],
        [vendor::FEATURES.into(), vendor::STATUS.into(), 2, 3],
        [vendor::FEATURES.into(), 0x1234, 2, 3],
        [vendor::STATUS.into(), 0, 0, 0],
        [vendor::STATUS.into(), 0, 0, 1000],
        [vendor::RESTART_POLICY.into(), 0, 0, 0],
        [vendor::RESTART_POLICY.into(), 8, 0, 0],
        [vendor::REENTER.into(), 0, 0, 0],
        [vendor::LOG_READ.into(), u64::MAX, 0, 0],
    ] {
        let (by_doorbell, by_hvc) = (make("a call", arguments), hvc(arguments));
        check!(by_doorbell == by_hvc, "{arguments:x?}: {by_doorbell:x?} by the doorbell, {by_hvc:x?} by HVC");
    }
    // Stub calls, PSCI, the architecture's, KVM's, an unknown one of the range, and what is no number of SMCCC's.
    let others = [0, 1, 2, 3, 4, 5, 0x8400_0000, 0x8400_0008, 0x8000_0000, 0xc600_0000, 0x8600_4542, 0x1_8600_4500];
    for function in others {
        let results = make("no call of Exeunt's", [function, 1, 2, 3]);
        check!(results == [NOT_SUPPORTED, 1, 2, 3], "{function:#x} gives {results:x?}");
    }
    check!(load(MAGIC) == PRESENT, "Exeunt has gone");
}

/// Without the right seal nothing is called, nor with a ticket that has been used, or taken.
fn nothing_without_a_seal() {
    let arguments = [vendor::VERSION.into(), 0, 0, 0];
    let put = |ticket, seal| {
        for (index, argument) in (0..).zip(arguments) {
            store(channel(ticket) + A0 + 8 * index, argument);
        }
        store(channel(ticket) + GO, seal);
        load(channel(ticket) + DONE)
    };
    let ticket = load(OPEN);
    for wrong in [0, ticket, seal(ticket, [0; 4]), seal(ticket + CHANNELS, arguments)] {
        check!(put(ticket, wrong) == 0, "called with the seal {wrong:#x}");
    }
    check!(put(ticket, seal(ticket, arguments)) == ticket, "not called with the right seal");
    store(channel(ticket) + A0, vendor::CALL_UID.into());
    store(channel(ticket) + GO, seal(ticket, [vendor::CALL_UID.into(), 0, 0, 0]));
    let first = load(channel(ticket) + R0);
    check!(first == vendor::ABI_VERSION.into(), "a ticket was good for two calls: {first:#x}");
    let ticket = load(OPEN);
    for _ in 0..CHANNELS {
        let _ = load(OPEN);
    }
    check!(put(ticket, seal(ticket, arguments)) != ticket, "a channel that was taken answers its last owner");
}

/// Room for one instruction and its end, for CPU 0.
static CODE: Code<16> = Code::new();

/// `ldr xT, [xN]`, or `str`.
const fn plain(is_store: bool, register: u32, base: u32) -> u32 {
    (if is_store { 0xf900_0000 } else { 0xf940_0000 }) | base << 5 | register
}

/// Runs one instruction with random registers, of which `base` is the address; gives the registers before and after.
fn run_one(instruction: u32, base: usize, address: u64, random: &mut Random) -> (Context, Context) {
    let pc = CODE.write(0, &[instruction, END]);
    let mut context = Context::new(pc, EL1H | DAIF);
    for register in &mut context.x {
        *register = random.next();
    }
    context.x[base] = address;
    let before = context;
    // SAFETY: the instruction ends with a `brk`, and accesses the doorbell.
    unsafe { context.enter() };
    check!(context.ended_at(pc + 4), "{instruction:#x} at {address:#x}: ESR {:#x}", context.esr);
    (before, context)
}

/// A load changes the register that it names, and no other; a store takes the one that it names.
fn every_register(random: &mut Random) {
    let own = region().base;
    for register in 0..32 {
        let base = if register == 9 { 10 } else { 9 };
        let (mut before, after) = run_one(plain(false, register, base), base as usize, own + MAGIC, random);
        if let Some(place) = before.x.get_mut(register as usize) {
            *place = PRESENT;
        }
        check!(after.x == before.x, "a load into x{register}");
        check!(after.pstate == before.pstate, "PSTATE {:#x} after {:#x}", after.pstate, before.pstate);
        let ticket = load(OPEN);
        // The zero register's value is not the seal of any arguments at hand, so that it names none.
        let arguments = [if register == 31 { 0 } else { vendor::VERSION.into() }, 0, 0, 0];
        for (index, argument) in (0..).zip(arguments) {
            store(channel(ticket) + A0 + 8 * index, argument);
        }
        let pc = CODE.write(0, &[plain(true, register, base), END]);
        let mut context = Context::new(pc, EL1H | DAIF);
        context.x[base as usize] = own + channel(ticket) + GO;
        if let Some(place) = context.x.get_mut(register as usize) {
            *place = seal(ticket, arguments);
        }
        // SAFETY: as above.
        unsafe { context.enter() };
        check!(context.ended_at(pc + 4), "a store of x{register}: ESR {:#x}", context.esr);
        let wanted = if register == 31 { 0 } else { ticket };
        check!(load(channel(ticket) + DONE) == wanted, "a store of x{register}");
    }
}

/// The mirror is the black box, in all sizes, with and without sign.
fn mirror(random: &mut Random) {
    let own = region().base;
    // By offset in the box, of the header, which does not change.
    for offset in (0..0x100).step_by(8) {
        let word = load(MIRROR + load(BOX_SIZE) - 0x1_0000 + offset);
        for (size, instruction, signed_32, signed_64) in [
            (1_u32, 0x3940_0000, 0x39c0_0000, 0x3980_0000),
            (2, 0x7940_0000, 0x79c0_0000, 0x7980_0000),
            (4, 0xb940_0000, 0, 0xb980_0000),
        ] {
            for part in (0..8).step_by(size as usize) {
                let unused = 64 - 8 * size;
                let value = word >> (8 * part) << unused >> unused;
                let signed = ((value << unused).cast_signed() >> unused).cast_unsigned();
                for (instruction, wanted) in
                    [(instruction, value), (signed_32, signed & 0xffff_ffff), (signed_64, signed)]
                {
                    if instruction == 0 {
                        continue;
                    }
                    let address = own + MIRROR + load(BOX_SIZE) - 0x1_0000 + offset + part;
                    let (_, after) = run_one(instruction | 9 << 5 | 3, 9, address, random);
                    check!(
                        after.x[3] == wanted,
                        "{instruction:#x} at {address:#x}: {:#x}, not {wanted:#x}",
                        after.x[3]
                    );
                }
            }
        }
    }
}

/// Runs the test that the command line asks for.
pub fn run(_: &Start) {
    let seed = machine().number("seed").unwrap_or_else(|| read_register!("cntvct_el0"));
    println!("doorbell: region {:#x}, seed={seed}", region().base);
    let mut random = Random::new(seed);
    if let Some(accesses) = machine().number("storm") {
        storm::run(accesses, seed);
    } else if machine().words().any(|word| word == "leave") {
        leave::run(&mut random);
    } else {
        registers();
        calls();
        nothing_without_a_seal();
        every_register(&mut random);
        mirror(&mut random);
        probes::refusals(&mut random);
    }
    crate::report::finish("doorbell");
}
