use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest_abi::doorbell::{CHANNELS, LEFT, MAILBOX, channel};
use guest_abi::vendor;
use proptest::prelude::*;

use super::*;
use crate::syndrome::{EC_SHIFT, ExceptionClass, IL, ISS_CM, ISS_ISV, ISS_S1PTW, ISS_VNCR, ISS_WNR};

const FACTS: Facts = Facts { box_start: 0x4020_0000 + 0x1f_0000, box_size: 0x1_0000 };

fn load(doorbell: &Doorbell, offset: u64) -> u64 {
    doorbell.load(offset, FACTS).expect("there is a register")
}

fn store(doorbell: &Doorbell, offset: u64, value: u64) -> Option<Ring> {
    doorbell.store(offset, value).expect("there is a register")
}

fn put_arguments(doorbell: &Doorbell, ticket: u64, arguments: [u64; 4]) {
    for (index, argument) in (0..).zip(arguments) {
        assert_eq!(store(doorbell, channel(ticket) + A0 + 8 * index, argument), None);
    }
}

/// What the calls of these tests answer.
fn answer(arguments: [u64; 4]) -> [u64; 4] {
    [seal(1, arguments), arguments[0].wrapping_mul(3), arguments[1] ^ arguments[2], !arguments[3]]
}

/// A store as the image handles it.
fn store_and_call(doorbell: &Doorbell, offset: u64, value: u64) {
    if let Ok(Some(ring)) = doorbell.store(offset, value) {
        doorbell.answer(ring.ticket(), answer(ring.arguments));
    }
}

/// The protocol, once, with what `between` does before each of its steps. Nothing: it is to be begun again.
fn try_call(doorbell: &Doorbell, arguments: [u64; 4], mut between: impl FnMut()) -> Option<[u64; 4]> {
    let ticket = load(doorbell, OPEN);
    let channel = channel(ticket);
    for (index, argument) in (0..).zip(arguments) {
        between();
        store_and_call(doorbell, channel + A0 + 8 * index, argument);
    }
    between();
    store_and_call(doorbell, channel + GO, seal(ticket, arguments));
    between();
    if load(doorbell, channel + DONE) != ticket {
        return None;
    }
    let results = [0, 1, 2, 3].map(|index| {
        between();
        load(doorbell, channel + R0 + 8 * index)
    });
    between();
    (load(doorbell, channel + DONE) == ticket).then_some(results)
}

#[test]
fn the_registers_tell_of_exeunt_and_the_box() {
    let doorbell = Doorbell::new();
    assert_eq!(load(&doorbell, MAGIC), PRESENT);
    assert_eq!(load(&doorbell, VERSION), ABI_VERSION.into());
    assert_eq!(load(&doorbell, BOX_START), FACTS.box_start);
    assert_eq!(load(&doorbell, BOX_SIZE), FACTS.box_size);
    // What is in memory when Exeunt has left is at the same places and says something else.
    const { assert!(LEFT != PRESENT && MAILBOX == VERSION) };
}

#[test]
fn a_call_is_made_and_answered() {
    let doorbell = Doorbell::new();
    let arguments = [vendor::STATUS.into(), 0, 0, 7];
    let ticket = load(&doorbell, OPEN);
    let place = channel(ticket);
    assert_eq!(load(&doorbell, place + TICKET), ticket);
    put_arguments(&doorbell, ticket, arguments);
    let ring = store(&doorbell, place + GO, seal(ticket, arguments)).expect("the seal is right");
    assert_eq!(ring.arguments, arguments);
    assert_eq!(load(&doorbell, place + DONE), 0, "it is under way");
    doorbell.answer(ring.ticket(), [1, 2, 3, 4]);
    assert_eq!(load(&doorbell, place + DONE), ticket);
    assert_eq!([0, 8, 16, 24].map(|offset| load(&doorbell, place + R0 + offset)), [1, 2, 3, 4]);
    // A ticket is good for one call.
    assert_eq!(store(&doorbell, place + GO, seal(ticket, arguments)), None);
    assert_eq!(load(&doorbell, place + DONE), ticket);
}

#[test]
fn nothing_is_called_that_the_owner_has_not_sealed() {
    let doorbell = Doorbell::new();
    let arguments = [vendor::LEAVE.into(), 1, 2, 3];
    // No channel is open: not with ticket 0 either.
    for index in 0..CHANNELS {
        put_arguments(&doorbell, index, arguments);
        assert_eq!(store(&doorbell, channel(index) + GO, seal(index, arguments)), None);
        assert_eq!(store(&doorbell, channel(index) + GO, seal(0, arguments)), None);
        assert_eq!(load(&doorbell, channel(index) + DONE), 0);
    }
    let ticket = load(&doorbell, OPEN);
    let go = channel(ticket) + GO;
    for wrong in [0, ticket, seal(ticket + 1, arguments), seal(ticket, [0; 4]), seal(ticket, arguments) ^ 1] {
        put_arguments(&doorbell, ticket, arguments);
        assert_eq!(store(&doorbell, go, wrong), None);
    }
    // Somebody stores to another's channel.
    for index in 0..4 {
        put_arguments(&doorbell, ticket, arguments);
        store_and_call(&doorbell, channel(ticket) + A0 + 8 * index, 99);
        assert_eq!(store(&doorbell, go, seal(ticket, arguments)), None);
    }
    put_arguments(&doorbell, ticket, arguments);
    assert!(store(&doorbell, go, seal(ticket, arguments)).is_some());
}

#[test]
fn the_channel_that_was_opened_first_is_taken() {
    let doorbell = Doorbell::new();
    let tickets: Vec<_> = (0..CHANNELS).map(|_| load(&doorbell, OPEN)).collect();
    for (index, &ticket) in tickets.iter().enumerate() {
        assert_eq!(load(&doorbell, channel(ticket) + TICKET), ticket);
        assert!(tickets[..index].iter().all(|&other| channel(other) != channel(ticket)));
    }
    let arguments = [1, 2, 3, 4];
    let first = tickets[0];
    put_arguments(&doorbell, first, arguments);
    let ring = store(&doorbell, channel(first) + GO, seal(first, arguments)).expect("it is open");
    let next = load(&doorbell, OPEN);
    assert_eq!(channel(next), channel(first));
    assert_eq!(load(&doorbell, channel(first) + TICKET), next);
    // Its call ends, and nobody takes the answer for the other's.
    doorbell.answer(ring.ticket(), [5, 6, 7, 8]);
    assert_eq!(load(&doorbell, channel(first) + DONE), 0);
    assert_eq!([0, 8, 16, 24].map(|offset| load(&doorbell, channel(first) + R0 + offset)), [0; 4]);
    put_arguments(&doorbell, next, arguments);
    assert_eq!(store(&doorbell, channel(first) + GO, seal(first, arguments)), None);
    assert!(store(&doorbell, channel(next) + GO, seal(next, arguments)).is_some());
}

#[test]
fn a_call_that_is_taken_back_can_be_made_again() {
    let doorbell = Doorbell::new();
    let ticket = load(&doorbell, OPEN);
    let arguments = [1, 2, 3, 4];
    put_arguments(&doorbell, ticket, arguments);
    for _ in 0..3 {
        let ring = store(&doorbell, channel(ticket) + GO, seal(ticket, arguments)).expect("it is open");
        doorbell.take_back(ring.ticket());
        assert_eq!(load(&doorbell, channel(ticket) + DONE), 0);
    }
    let ring = store(&doorbell, channel(ticket) + GO, seal(ticket, arguments)).expect("it is open");
    doorbell.answer(ring.ticket(), [0; 4]);
    doorbell.take_back(ring.ticket());
    assert_eq!(load(&doorbell, channel(ticket) + DONE), ticket);
}

#[test]
fn a_cpu_that_dies_while_it_answers_takes_one_channel_with_it() {
    let doorbell = Doorbell::new();
    let ticket = load(&doorbell, OPEN);
    let dead = (ticket % CHANNELS) as usize;
    doorbell.channels[dead].state.store(State::new(ticket, Phase::Answering).0, Ordering::Relaxed);
    let served = (0..4 * CHANNELS).filter_map(|index| try_call(&doorbell, [index; 4], || ())).count();
    assert_eq!(served, 4 * (CHANNELS as usize - 1));
}

#[test]
fn only_registers_answer() {
    let doorbell = Doorbell::new();
    let is_register = |offset: u64| match offset {
        MAGIC | VERSION | OPEN | BOX_SIZE | BOX_START => true,
        CHANNEL.. if offset < CHANNEL + CHANNELS * CHANNEL_SIZE => (offset - CHANNEL) % CHANNEL_SIZE <= TICKET,
        _ => false,
    };
    for offset in (0..PAGE).step_by(8) {
        assert_eq!(doorbell.load(offset, FACTS).is_some(), is_register(offset), "{offset:#x}");
        assert_eq!(doorbell.store(offset, 5).is_ok(), is_register(offset), "{offset:#x}");
    }
    for offset in [1, MAGIC + 4, CHANNEL + 1, CHANNEL + GO + 4, PAGE, u64::MAX] {
        assert_eq!(doorbell.load(offset, FACTS), None);
        assert_eq!(doorbell.store(offset, 5), Err(NoRegister));
    }
}

#[test]
fn a_store_to_what_is_for_loads_changes_nothing() {
    let doorbell = Doorbell::new();
    let results = try_call(&doorbell, [1, 2, 3, 4], || ()).expect("nobody else is there");
    let ticket = CHANNELS;
    for register in [DONE, TICKET, R0, R0 + 8, R0 + 16, R0 + 24] {
        assert_eq!(store(&doorbell, channel(ticket) + register, 77), None);
    }
    assert_eq!(load(&doorbell, channel(ticket) + TICKET), ticket);
    assert_eq!(load(&doorbell, channel(ticket) + DONE), ticket);
    assert_eq!([0, 8, 16, 24].map(|offset| load(&doorbell, channel(ticket) + R0 + offset)), results);
}

#[test]
fn only_calls_of_exeunts_own_are_allowed() {
    let allowed = |function: u64| Ring { ticket: Ticket(16), arguments: [function, 0, 0, 0] }.is_allowed();
    for call in vendor::CALLS {
        assert!(allowed(call.into()), "{call:#x}");
    }
    assert!(allowed(vendor::CALL_UID.into()));
    // Stub calls, PSCI, the architecture's, KVM's, and what is no number of SMCCC's.
    for other in [0, 1, 2, 3, 4, 0x8400_0008, 0xc400_0003, 0x8000_0000, 0xc600_0000, 0xc600_44ff, 0x1_c600_4504] {
        assert!(!allowed(other), "{other:#x}");
    }
}

/// A syndrome of a load of `size` bytes into x`register`, by a translation fault at level 3.
fn syndrome(size: u64, register: u64) -> u64 {
    let size = u64::from(size.trailing_zeros());
    (ExceptionClass::DataAbortLower as u64) << EC_SHIFT | IL | ISS_ISV | size << 22 | register << 16 | 1 << 15 | 7
}

const EL0: u64 = 0;

#[test]
fn plain_accesses_are_answered_and_others_not() {
    let of = |bits: u64, offset: u64| access(Esr::new(bits), offset, FACTS.box_size, EL0, 0);
    let found = of(syndrome(8, 3), MAGIC).expect("a load of a register");
    assert_eq!((found.target, found.is_store, found.register, found.size), (Target::Registers(MAGIC), false, 3, 8));
    let found = of(syndrome(8, 31) | ISS_WNR, CHANNEL).expect("a store");
    assert_eq!((found.target, found.is_store, found.register), (Target::Registers(CHANNEL), true, 31));
    for size in [1, 2, 4, 8] {
        assert_eq!(of(syndrome(size, 0), MIRROR + size).map(|it| it.target), Some(Target::Mirror(size)));
        let last = MIRROR + FACTS.box_size - size;
        assert_eq!(of(syndrome(size, 0), last).map(|it| it.target), Some(Target::Mirror(last - MIRROR)));
        assert_eq!(of(syndrome(size, 0), MIRROR + FACTS.box_size), None);
        assert_eq!(of(syndrome(size, 0) | ISS_WNR, MIRROR), None);
        assert_eq!(of(syndrome(size, 0), PAGE), None);
        if size > 1 {
            assert_eq!(of(syndrome(size, 0), MIRROR + 1), None);
            assert_eq!(of(syndrome(size, 0), MAGIC + size / 2), None);
        }
        if size < 8 {
            assert_eq!(of(syndrome(size, 0), MAGIC), None);
        }
    }
    let load = syndrome(8, 3);
    for other in [
        load & !ISS_ISV,
        load | ISS_S1PTW,
        load | ISS_CM,
        load | ISS_VNCR,
        load | 1 << 11,
        load | 1 << 32,
        load | 1 << 40,
        load & !0x3f | 0x0f, // a permission fault
        load & !0x3f | 0x35, // no exclusive access there
        load ^ (0x24 ^ 0x20) << EC_SHIFT,
    ] {
        assert_eq!(of(other, MAGIC), None, "{other:#x}");
    }
}

#[test]
fn bytes_are_in_the_hosts_order() {
    const EE: u64 = 1 << 25;
    const E0E: u64 = 1 << 24;
    let of = |spsr, sctlr| access(Esr::new(syndrome(4, 0)), MIRROR, 0x1_0000, spsr, sctlr).expect("a load");
    let big = |spsr, sctlr| of(spsr, sctlr).loaded(0x0102_0304) == 0x0403_0201;
    assert!(!big(EL0, 0) && !big(pstate::EL1H, 0) && !big(pstate::NRW, EE | E0E));
    assert!(big(EL0, E0E) && !big(EL0, EE));
    assert!(big(pstate::EL1H, EE) && !big(pstate::EL1H, E0E));
    assert!(big(pstate::NRW | 1 << 9, 0));
}

proptest! {
    /// A load gives what a load instruction makes of these bytes of memory.
    #[test]
    fn a_load_is_what_the_instruction_would_make_of_it(
        bytes in any::<[u8; 8]>(), log_size in 0_u32..4, [sign, wide, big] in any::<[bool; 3]>()
    ) {
        let size = 1_usize << log_size;
        let wide = wide || size == 8; // no W register has so many
        let bits = syndrome(size as u64, 0) & !(1 << 15) | u64::from(sign) << 21 | u64::from(wide) << 15;
        let access = access(Esr::new(bits), MIRROR, 0x1_0000, EL0, u64::from(big) << 24).expect("a load");
        let mut wanted = bytes[..size].to_vec();
        if !big {
            wanted.reverse();
        }
        let fill = if sign && wanted[0] & 0x80 != 0 { u64::MAX } else { 0 };
        let wanted = wanted.iter().fold(fill, |value, &byte| value << 8 | u64::from(byte));
        let wanted = if wide { wanted } else { wanted & 0xffff_ffff };
        prop_assert_eq!(access.loaded(u64::from_le_bytes(bytes)), wanted);
        // And a store puts there what a load takes.
        let mask = u64::MAX >> (64 - 8 * size);
        prop_assert_eq!(access.stored(wanted), u64::from_le_bytes(bytes) & mask);
    }
}

/// Numbers without a pattern, the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// One access of a program that keeps to nothing, most often near what others use. `opened` is its last ticket.
fn stray_access(doorbell: &Doorbell, random: &mut Random, opened: &mut u64) {
    let offset = match random.next() % 8 {
        0 => OPEN,
        1 => (random.next() % PAGE) & !7,
        _ => (CHANNEL + random.next() % (CHANNELS * CHANNEL_SIZE)) & !7,
    };
    match random.next() % 8 {
        0..4 => {
            let loaded = doorbell.load(offset, FACTS);
            *opened = loaded.filter(|_| offset == OPEN).unwrap_or(*opened);
        }
        // A call with what happens to be there, if the channel is still its own.
        4 => {
            let channel = &doorbell.channels[(*opened % CHANNELS) as usize];
            let arguments = channel.arguments.each_ref().map(|argument| argument.load(Ordering::Relaxed));
            store_and_call(doorbell, guest_abi::doorbell::channel(*opened) + GO, seal(*opened, arguments));
        }
        _ => store_and_call(doorbell, offset, random.next()),
    }
}

#[test]
fn whoever_keeps_to_the_protocol_never_takes_a_wrong_answer() {
    let wanted = if cfg!(miri) { 20 } else { 50_000 };
    let doorbell = Doorbell::new();
    let (over, begun_again) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (doorbell, over) = (&doorbell, &over);
            scope.spawn(move || {
                let (mut random, mut opened) = (Random(seed), 0);
                while !over.load(Ordering::Relaxed) {
                    stray_access(doorbell, &mut random, &mut opened);
                }
            });
        }
        let callers: Vec<_> = (2..4)
            .map(|seed| {
                let (doorbell, begun_again) = (&doorbell, &begun_again);
                scope.spawn(move || {
                    let (mut random, mut strays, mut opened) = (Random(seed), Random(!seed), 0);
                    // The other threads may not run while this one does, so that this one disturbs itself as well.
                    let mut between = || {
                        if strays.next().is_multiple_of(4) {
                            stray_access(doorbell, &mut strays, &mut opened);
                        }
                    };
                    for _ in 0..wanted {
                        let arguments = [0; 4].map(|_| random.next());
                        let results = loop {
                            if let Some(results) = try_call(doorbell, arguments, &mut between) {
                                break results;
                            }
                            begun_again.fetch_add(1, Ordering::Relaxed);
                            std::thread::yield_now();
                        };
                        assert_eq!(results, answer(arguments));
                    }
                })
            })
            .collect();
        let ended: Vec<_> = callers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    // A storm that nobody notices shows nothing. (Miri's is a short one.)
    assert!(cfg!(miri) || begun_again.load(Ordering::Relaxed) > 0);
}
