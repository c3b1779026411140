//! The proxy against models of firmware: in every order of steps, with any registers, and call by call.

pub mod explore;

use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use self::explore::{ALREADY_ON, Action, DENIED, INTERNAL_FAILURE, Machine, ON_PENDING, Seen, explore};
use super::*;
use crate::tests::cases;

use Action::{DeniedOff, FailedOn, LightSuspend, Off, On, Suspend};

const ON: bool = true;
const OFF: bool = false;

const SUCCESS: u64 = 0;
const NOT_SUPPORTED: u64 = 1_u64.wrapping_neg();
const INVALID_PARAMETERS: u64 = 2_u64.wrapping_neg();
const INVALID_ADDRESS: u64 = 9_u64.wrapping_neg();

// Every order of steps.

/// So that a search that has become empty is noticed. The exact counts change with the number of steps in the code.
fn assert_seen(seen: Seen, at_least: usize) {
    assert!(seen.worlds >= at_least && seen.ends > 0, "only {seen:?}");
}

#[test]
fn one_cpu_turns_on_another() {
    // Five steps of the one, five of the other, and no order but this.
    assert_eq!(explore(&[&[On(1)], &[]], &[ON, OFF]), Seen { worlds: 11, ends: 1 });
}

#[test]
#[cfg_attr(miri, ignore = "each world takes Miri a fraction of a second")]
fn two_cpus_turn_on_the_same_third_and_one_wins() {
    assert_seen(explore(&[&[On(2)], &[On(2)], &[]], &[ON, ON, OFF]), 100);
}

#[test]
#[cfg_attr(miri, ignore = "each world takes Miri a fraction of a second")]
fn a_third_that_turns_itself_off_can_be_turned_on_again_at_any_moment() {
    assert_seen(explore(&[&[On(2), On(2)], &[On(2)], &[Off]], &[ON, ON, OFF]), 1000);
}

#[test]
#[cfg_attr(miri, ignore = "each world takes Miri a fraction of a second")]
fn cpu_on_meets_the_cpu_off_of_its_target() {
    assert_seen(explore(&[&[On(1), On(1)], &[Off, Off]], &[ON, ON]), 100);
}

#[test]
#[cfg_attr(miri, ignore = "each world takes Miri a fraction of a second")]
fn cpu_on_meets_a_cpu_off_that_firmware_denies() {
    assert_seen(explore(&[&[On(1), On(1)], &[DeniedOff, Off]], &[ON, ON]), 300);
    assert_seen(explore(&[&[On(1)], &[DeniedOff, DeniedOff, Suspend]], &[ON, ON]), 100);
}

#[test]
#[cfg_attr(miri, ignore = "each world takes Miri a fraction of a second")]
fn two_cpus_turn_on_a_third_that_goes_off_with_and_without_success() {
    assert_seen(explore(&[&[On(2), On(2)], &[On(2)], &[DeniedOff, Off]], &[ON, ON, ON]), 10_000);
}

#[test]
#[cfg_attr(miri, ignore = "each world takes Miri a fraction of a second")]
fn a_suspended_cpu_is_on_and_wakes_at_its_own_entry() {
    assert_seen(explore(&[&[On(1)], &[Suspend, LightSuspend, Off]], &[ON, ON]), 40);
    assert_seen(explore(&[&[On(1)], &[DeniedOff, Suspend]], &[ON, ON]), 40);
}

#[test]
#[cfg_attr(miri, ignore = "each world takes Miri a fraction of a second")]
fn a_claim_that_firmware_refuses_leaves_the_cpu_to_the_next() {
    assert_seen(explore(&[&[FailedOn(2), On(2)], &[On(2)], &[]], &[ON, ON, OFF]), 100);
    assert_seen(explore(&[&[FailedOn(1)], &[Off]], &[ON, ON]), 10);
}

#[test]
#[cfg_attr(miri, ignore = "each world takes Miri a fraction of a second")]
fn cpus_turn_each_other_on_in_a_ring() {
    assert_seen(explore(&[&[On(1), Off], &[On(2), Off], &[On(0), Off]], &[ON, OFF, OFF]), 200);
}

/// Real threads over the same code, for Miri's weak memory: the entry that a started CPU finds is the claimant's,
/// although nothing but the model's SMC orders the two.
#[test]
fn an_entry_crosses_from_thread_to_thread() {
    use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

    /// Starts CPU 2 once. Release and Acquire stand for the DSB before the SMC and for the power-up after it.
    struct Firmware2<'a>(&'a AtomicU64);

    impl Firmware for Firmware2<'_> {
        fn call(&self, registers: &mut [u64; 18]) {
            registers[0] = if self.0.compare_exchange(0, 1, Release, Relaxed).is_ok() { SUCCESS } else { ALREADY_ON };
        }
    }

    for round in 0..if cfg!(miri) { 20 } else { 200 } {
        let psci = ready(3);
        let power = AtomicU64::new(0);
        let turn_on = |caller: usize| {
            let pc = 0x4000_0000 + 0x1000 * caller as u64;
            let mut registers = request(&[0xc400_0003, 2, pc, round * 10 + caller as u64]);
            psci.call(caller, &mut registers, &Machine, &Firmware2(&power));
            registers[0]
        };
        let (a, b, arrived) = std::thread::scope(|scope| {
            let a = scope.spawn(|| turn_on(0));
            let b = scope.spawn(|| turn_on(1));
            let target = scope.spawn(|| {
                while power.load(Acquire) == 0 {
                    std::thread::yield_now();
                }
                psci.arrive(2, false)
            });
            (a.join().unwrap(), b.join().unwrap(), target.join().unwrap())
        });
        let (winner, loser) = if a == SUCCESS { (0, b) } else { (1, a) };
        assert!(loser == ON_PENDING || loser == ALREADY_ON, "{a:#x} {b:#x}");
        let pc = 0x4000_0000 + 0x1000 * winner;
        assert_eq!(arrived, Some(HostEntry { pc, x0: round * 10 + winner }));
    }
}

// Call by call.

/// Remembers what it was asked, answers one value, and changes every other register that it may.
struct Recorder {
    calls: RefCell<Vec<[u64; 18]>>,
    answer: Cell<u64>,
}

impl Recorder {
    fn answering(answer: u64) -> Self {
        Self { calls: RefCell::default(), answer: Cell::new(answer) }
    }

    /// The one call that was made.
    fn only(&self) -> [u64; 18] {
        let calls = self.calls.borrow();
        assert_eq!(calls.len(), 1, "{calls:x?}");
        calls[0]
    }

    fn was_silent(&self) -> bool {
        self.calls.borrow().is_empty()
    }
}

impl Firmware for Recorder {
    fn call(&self, registers: &mut [u64; 18]) {
        self.calls.borrow_mut().push(*registers);
        *registers = [0x6666; 18];
        registers[0] = self.answer.get();
    }
}

/// A machine of which Exeunt has left CPU 1.
struct WithoutCpu1;

impl Environment for WithoutCpu1 {
    fn entry_point(&self) -> u64 {
        Machine.entry_point()
    }

    fn context(&self, cpu: usize) -> u64 {
        Machine.context(cpu)
    }

    fn is_host_ram(&self, address: u64) -> bool {
        Machine.is_host_ram(address)
    }

    fn is_left(&self, cpu: usize) -> bool {
        cpu == 1
    }
}

/// Firmware that knows whether CPU 1 is off, and starts it.
struct Knows {
    affinity_info: u64,
    calls: RefCell<Vec<u64>>,
}

impl Knows {
    fn answering(affinity_info: u64) -> Self {
        Self { affinity_info, calls: RefCell::default() }
    }
}

impl Firmware for Knows {
    fn call(&self, registers: &mut [u64; 18]) {
        self.calls.borrow_mut().push(registers[0]);
        assert_eq!(registers[1], 1);
        registers[0] = if registers[0] == AFFINITY_INFO { self.affinity_info } else { SUCCESS };
    }
}

const AFFINITY_INFO: u64 = 0xc400_0004;

#[test]
fn of_a_cpu_that_was_left_firmware_says_whether_it_can_be_turned_on() {
    const CPU_ON: u64 = 0xc400_0003;
    for (affinity_info, answer, calls) in [
        (1, SUCCESS, vec![AFFINITY_INFO, CPU_ON]),
        (0, ALREADY_ON, vec![AFFINITY_INFO]),
        (2, ALREADY_ON, vec![AFFINITY_INFO]),
    ] {
        let psci = ready(2);
        psci.come_back(1);
        let firmware = Knows::answering(affinity_info);
        let mut registers = request(&[CPU_ON, 1, 0x4020_0000, 7]);
        psci.forget_claims();
        psci.call(0, &mut registers, &WithoutCpu1, &firmware);
        assert_eq!((registers[0], firmware.calls.into_inner()), (answer, calls));
        assert_eq!(psci.is_starting(1), answer == SUCCESS);
        assert_eq!(psci.has_new_claims(), answer == SUCCESS);
        if answer == SUCCESS {
            assert_eq!(psci.power_state(1), PowerState::OnPending);
            assert_eq!(psci.arrive(1, true), Some(HostEntry { pc: 0x4020_0000, x0: 7 }));
        }
        assert_eq!(psci.power_state(1), PowerState::On);
    }
}

#[test]
fn a_late_caller_does_not_take_a_cpu_that_has_come_up_meanwhile() {
    let psci = ready(2);
    psci.come_back(1);
    let entry = HostEntry { pc: 0x4020_0000, x0: 7 };
    assert_eq!(psci.cpus[1].claim_left(entry, || false), Err(ClaimError::AlreadyOn));
    assert_eq!((psci.power_state(1), psci.is_starting(1)), (PowerState::On, false));
    // Nor does it give back the bit of one that goes off while the late caller looks.
    let goes_off = || {
        psci.cpus[1].go_off();
        false
    };
    assert_eq!(psci.cpus[1].claim_left(entry, goes_off), Err(ClaimError::AlreadyOn));
    assert_eq!((psci.power_state(1), psci.is_starting(1)), (PowerState::Off, false));
}

#[test]
fn a_stranger_is_on_for_firmware_and_off_for_the_proxy() {
    let psci = ready(2);
    for (affinity_info, strangers) in [(1, false), (0, true), (2, true)] {
        assert_eq!(psci.has_strangers(&Knows::answering(affinity_info)), strangers);
    }
    // INVALID_PARAMETERS, NOT_PRESENT and DISABLED: the tree lists a CPU that firmware has not. NOT_SUPPORTED, DENIED
    // and INTERNAL_FAILURE say nothing about the CPU.
    for (error, strangers) in [(-2, false), (-7, false), (-8, false), (-1, true), (-3, true), (-6, true)] {
        let error = i64::from(error).cast_unsigned();
        assert_eq!(psci.has_strangers(&Knows::answering(error)), strangers, "{error:#x}");
        // As a 32-bit number, too.
        assert_eq!(psci.has_strangers(&Knows::answering(error & 0xffff_ffff)), strangers, "{error:#x}");
    }
    psci.come_back(1);
    assert!(!psci.has_strangers(&Knows::answering(0)), "it is on for both");
}

/// CPUs 0 to `count` with affinities 0, 1, ...; CPU 0 is the boot CPU.
fn ready(count: u64) -> Box<Psci> {
    let psci: Box<Psci> = Box::default();
    let affinities: Vec<u64> = (0..count).collect();
    psci.init(&affinities, 0x8000_0000, &Recorder::answering(NOT_SUPPORTED)).unwrap();
    psci
}

/// x0 to x17 of a call: the given ones, and in the others something to recognise.
fn request(first: &[u64]) -> [u64; 18] {
    let mut registers = core::array::from_fn(|n| 0xaaaa_0000_0000 + n as u64);
    registers[..first.len()].copy_from_slice(first);
    registers
}

/// Makes a call as CPU 0, checks that only x0 changed, and returns it.
fn call(psci: &Psci, first: &[u64], firmware: &impl Firmware) -> u64 {
    let before = request(first);
    let mut registers = before;
    psci.call(0, &mut registers, &Machine, firmware);
    assert_eq!(registers[1..], before[1..], "x1 to x17 are the host's");
    registers[0]
}

#[test]
fn calls_without_an_entry_reach_firmware_as_they_are() {
    let psci = ready(2);
    let forwarded = [
        0x8400_0000,
        0x8400_0004,
        0xc400_0004,
        0x8400_0005,
        0xc400_0005,
        0x8400_0006,
        0x8400_0007,
        0xc400_0007,
        0x8400_0008,
        0x8400_0009,
        0x8400_000d,
        0xc400_000d,
        0x8400_000f,
        0x8400_0010,
        0xc400_0010,
        0x8400_0011,
        0xc400_0011,
        0x8400_0012,
        0xc400_0012,
        0x8400_0013,
        0x8400_0014,
        0xc400_0014,
        0x8400_0015,
        0xc400_0015,
    ];
    for function in forwarded {
        let firmware = Recorder::answering(0x1_0001);
        assert_eq!(call(&psci, &[function], &firmware), 0x1_0001);
        assert_eq!(firmware.only(), request(&[function]));
    }
}

#[test]
fn the_sve_hint_and_the_high_word_do_not_hide_a_call() {
    let psci = ready(2);
    let firmware = Recorder::answering(0x1_0001);
    assert_eq!(call(&psci, &[0xffff_ffff_8401_0000], &firmware), 0x1_0001);
    assert_eq!(firmware.only()[0], 0x8400_0000);
}

#[test]
fn cpu_freeze_and_unknown_numbers_are_not_supported() {
    let psci = ready(2);
    for base in [0x8400_0000_u64, 0xc400_0000] {
        for number in 0..0x20 {
            let known = FunctionId::try_from((base + number) as u32).is_ok();
            if !known || number == 0xb {
                let firmware = Recorder::answering(SUCCESS);
                assert_eq!(call(&psci, &[base + number], &firmware), NOT_SUPPORTED, "{number:#x}");
                assert!(firmware.was_silent());
            }
        }
    }
}

#[test]
fn features_names_what_is_proxied_and_nothing_else() {
    let psci = ready(2);
    for base in [0x8400_0000_u64, 0xc400_0000] {
        for number in 0..0x40 {
            let asked = base + number;
            // What the proxy does with the call itself decides whether it may be named.
            let refused = {
                let firmware = Recorder::answering(SUCCESS);
                call(&psci, &[asked, 0x8400_0000, u64::MAX], &firmware) == NOT_SUPPORTED
            };
            let firmware = Recorder::answering(SUCCESS);
            let answer = call(&psci, &[0x8400_000a, asked], &firmware);
            if refused {
                assert_eq!((answer, firmware.was_silent()), (NOT_SUPPORTED, true), "{asked:#x}");
            } else {
                assert_eq!((answer, firmware.only()[1]), (SUCCESS, asked), "{asked:#x}");
            }
        }
    }
    let firmware = Recorder::answering(SUCCESS);
    assert_eq!(call(&psci, &[0x8400_000a, 0x8000_0000], &firmware), SUCCESS, "SMCCC_VERSION");
    // Only the low word is the question.
    assert_eq!(call(&psci, &[0x8400_000a, 0x1234_5678_8400_000b], &firmware), NOT_SUPPORTED);
}

#[test]
fn cpu_on_starts_the_target_in_exeunt() {
    for (function, high) in [(0xc400_0003, 0x12_0000_0000), (0x8400_0003, 0)] {
        let psci = ready(3);
        let firmware = Recorder::answering(SUCCESS);
        let arguments = [function, 1, 0x4020_0000 + high, 0xbeef + high];
        assert_eq!(call(&psci, &arguments, &firmware), SUCCESS);
        // Whichever was called: the 64-bit function, because Exeunt may be above 4 GiB.
        let sent = firmware.only();
        assert_eq!(sent[..4], [0xc400_0003, 1, Machine.entry_point(), Machine.context(1)]);
        assert_eq!(sent[4..], [0; 14], "nothing of the host's for a call that takes three arguments");
        assert_eq!(psci.power_state(1), PowerState::OnPending);

        // Pending, then on: the answers come from the proxy, and the first entry stands.
        let firmware = Recorder::answering(SUCCESS);
        assert_eq!(call(&psci, &[function, 1, 0x5555_0000, 5], &firmware), ON_PENDING);
        assert_eq!(psci.arrive(1, false), Some(HostEntry { pc: 0x4020_0000 + high, x0: 0xbeef + high }));
        assert_eq!(psci.power_state(1), PowerState::On);
        assert_eq!(call(&psci, &[function, 1, 0x5555_0000, 5], &firmware), ALREADY_ON);
        assert_eq!(call(&psci, &[function, 0, 0x5555_0000, 5], &firmware), ALREADY_ON, "the caller itself");
        assert!(firmware.was_silent());
        assert_eq!(psci.power_state(2), PowerState::Off);
    }
}

#[test]
fn a_32_bit_cpu_on_takes_low_words() {
    let psci = ready(3);
    let firmware = Recorder::answering(SUCCESS);
    let junk = 0x7777_7777_0000_0000;
    assert_eq!(call(&psci, &[0x8400_0003, junk | 1, junk | 0x4020_0000, junk | 3], &firmware), SUCCESS);
    assert_eq!(psci.arrive(1, false), Some(HostEntry { pc: 0x4020_0000, x0: 3 }));
    // The 64-bit one takes all of them.
    assert_eq!(call(&psci, &[0xc400_0003, junk | 1, 0x4020_0000, 3], &firmware), INVALID_PARAMETERS);
}

#[test]
fn cpu_on_refuses_what_cannot_be() {
    let psci = ready(2);
    let firmware = Recorder::answering(SUCCESS);
    for target in [2, 0x100, 0x8000_0001, 0x1_0000_0001, u64::MAX] {
        assert_eq!(call(&psci, &[0xc400_0003, target, 0x4020_0000, 0], &firmware), INVALID_PARAMETERS, "{target:#x}");
    }
    for entry in [0, 0x1000, 0x1f_fffc, 0x4020_0001, 0x4020_0002] {
        assert_eq!(call(&psci, &[0xc400_0003, 1, entry, 0], &firmware), INVALID_ADDRESS, "{entry:#x}");
    }
    assert!(firmware.was_silent());
    assert_eq!(psci.power_state(1), PowerState::Off);
}

#[test]
fn what_firmware_refuses_is_undone_and_told() {
    let psci = ready(2);
    let firmware = Recorder::answering(INTERNAL_FAILURE);
    assert_eq!(call(&psci, &[0xc400_0003, 1, 0x4020_0000, 0], &firmware), INTERNAL_FAILURE);
    assert_eq!(psci.power_state(1), PowerState::Off);
    // Firmware that answers with 32 bits.
    let firmware = Recorder::answering(INTERNAL_FAILURE & 0xffff_ffff);
    assert_eq!(call(&psci, &[0xc400_0003, 1, 0x4020_0000, 0], &firmware), INTERNAL_FAILURE & 0xffff_ffff);
    assert_eq!(psci.power_state(1), PowerState::Off);
    assert_eq!(psci.arrive(1, false), None, "nobody asked for it");

    let firmware = Recorder::answering(DENIED);
    assert_eq!(call(&psci, &[0x8400_0002], &firmware), DENIED);
    assert_eq!(psci.power_state(0), PowerState::On);
}

/// Firmware that does not turn a CPU off, and looks what the proxy says of it meanwhile.
struct Looks<'a>(&'a Psci, Recorder);

impl Firmware for Looks<'_> {
    fn call(&self, registers: &mut [u64; 18]) {
        assert_eq!([0, 1].map(|cpu| self.0.power_state(cpu)), [PowerState::Off, PowerState::On]);
        self.1.call(registers);
    }
}

#[test]
fn cpu_off_is_known_before_firmware_is_asked_and_undone_if_that_returns() {
    let psci = ready(2);
    psci.come_back(1);
    // Whatever it returns with, the CPU has not gone off.
    for answer in [DENIED, DENIED & 0xffff_ffff, SUCCESS, NOT_SUPPORTED] {
        let firmware = Looks(&psci, Recorder::answering(answer));
        assert_eq!(call(&psci, &[0xffff_ffff_8401_0002], &firmware), answer);
        assert_eq!(firmware.1.only(), request(&[0x8400_0002]), "the rest is what the host has given");
        assert_eq!([0, 1].map(|cpu| psci.power_state(cpu)), [PowerState::On; 2]);
        assert!(!psci.has_new_claims());
    }
    // It has no 64-bit number.
    let firmware = Recorder::answering(SUCCESS);
    assert_eq!(call(&psci, &[0xc400_0002], &firmware), NOT_SUPPORTED);
    assert!(firmware.was_silent());
}

#[test]
fn suspend_wakes_in_exeunt_and_goes_on_in_the_host() {
    let psci = ready(2);
    let entry = Some(HostEntry { pc: 0x4020_0000, x0: 7 });
    let substitute = [Machine.entry_point(), Machine.context(0)];

    let firmware = Recorder::answering(SUCCESS);
    assert_eq!(call(&psci, &[0xc400_0001, 0x1_0001, 0x4020_0000, 7], &firmware), SUCCESS);
    assert_eq!(firmware.only()[..2], [0xc400_0001, 0x1_0001]);
    assert_eq!(firmware.only()[2..4], substitute);
    assert_eq!(psci.arrive(0, false), entry);
    // Any number of times, each with its own entry; the 32-bit functions too.
    for (function, number) in [(0x8400_000e, 0xe), (0xc400_000e, 0xe), (0x8400_000c, 0xc), (0xc400_000c, 0xc)] {
        let firmware = Recorder::answering(DENIED);
        assert_eq!(call(&psci, &[function, 0x4030_0000, number], &firmware), DENIED);
        assert_eq!(firmware.only()[0], 0xc400_0000 + number);
        assert_eq!(firmware.only()[1..3], substitute);
        assert_eq!(psci.arrive(0, false), Some(HostEntry { pc: 0x4030_0000, x0: number }));
        assert_eq!(psci.power_state(0), PowerState::On);

        let firmware = Recorder::answering(SUCCESS);
        assert_eq!(call(&psci, &[function, 0x1000, number], &firmware), INVALID_ADDRESS);
        assert!(firmware.was_silent());
    }
}

/// StateType is bit 16 in the original format, bit 30 in the extended one; PSCI_FEATURES of CPU_SUSPEND tells which.
#[test]
fn standby_needs_no_entry_in_either_format() {
    let cases = [(NOT_SUPPORTED, 16, 30), (0, 16, 30), (1, 16, 30), (2, 30, 16), (3, 30, 16)];
    for (features, powerdown, other) in cases {
        let psci: Box<Psci> = Box::default();
        let firmware = Recorder::answering(features);
        psci.init(&[0], 0, &firmware).unwrap();
        assert_eq!(firmware.only()[..2], [0x8400_000a, 0xc400_0001]);

        let firmware = Recorder::answering(SUCCESS);
        assert_eq!(call(&psci, &[0xc400_0001, 1 << powerdown, 0, 0], &firmware), INVALID_ADDRESS);
        assert!(firmware.was_silent());
        assert_eq!(call(&psci, &[0xc400_0001, 1 << other, 0, 0], &firmware), SUCCESS);
        assert_eq!(firmware.only()[2], Machine.entry_point(), "even standby never names the host's entry to firmware");
    }
}

#[test]
fn cpus_are_found_by_all_their_affinity_fields() {
    let psci: Box<Psci> = Box::default();
    let firmware = Recorder::answering(NOT_SUPPORTED);
    // Aff0 alone would find the first of these for all.
    let affinities = [0x0, 0x100, 0x1_0000, 0x1_0000_0000, 0xff_00ff_ffff];
    // MPIDR_EL1 has RES1 bit 31, and U (30) and MT (24) say other things.
    assert_eq!(psci.init(&affinities, 0xc100_0100, &firmware), Ok(1));
    for (number, &affinity) in affinities.iter().enumerate() {
        assert_eq!(psci.find(affinity), Some(number));
        assert_eq!(psci.affinity(number), Some(affinity));
        assert_eq!(psci.power_state(number), if number == 1 { PowerState::On } else { PowerState::Off });
    }
    assert_eq!(psci.count(), 5);
    assert_eq!((psci.find(1), psci.find(0x8000_0000), psci.affinity(5)), (None, None, None));
    assert_eq!((psci.power_state(5), psci.power_state(MAX_CPUS)), (PowerState::Off, PowerState::Off));
    assert_eq!((psci.arrive(5, false), psci.arrive(MAX_CPUS, false)), (None, None));
}

#[test]
fn a_full_table_works_and_a_fuller_one_is_refused() {
    let affinities: Vec<u64> = (0..=MAX_CPUS as u64).map(|n| (n & 0xf) | (n >> 4) << 8).collect();
    let firmware = Recorder::answering(NOT_SUPPORTED);
    let psci: Box<Psci> = Box::default();
    assert_eq!(
        psci.init(&affinities[..MAX_CPUS], 0x80_0000_0000 | affinities[MAX_CPUS - 1], &firmware),
        Err(InitError::NoBootCpu)
    );
    let psci: Box<Psci> = Box::default();
    assert_eq!(psci.init(&affinities[..MAX_CPUS], affinities[MAX_CPUS - 1], &firmware), Ok(MAX_CPUS - 1));
    assert_eq!(psci.find(affinities[100]), Some(100));
    assert_eq!(psci.init(&affinities, 0, &firmware), Err(InitError::TooMany));
}

#[test]
fn a_list_that_cannot_be_is_refused_in_words() {
    let refused = |affinities: &[u64], boot| {
        let psci: Box<Psci> = Box::default();
        psci.init(affinities, boot, &Recorder::answering(NOT_SUPPORTED)).unwrap_err().to_string()
    };
    assert_eq!(refused(&[0, 1, 0], 0), "two CPU nodes have reg 0x0");
    assert_eq!(refused(&[3, 0x100, 1, 1], 3), "two CPU nodes have reg 0x1");
    assert_eq!(refused(&[5, 5], 5), "two CPU nodes have reg 0x5");
    assert_eq!(refused(&[0x8000_0000], 0), "a CPU node's reg 0x80000000 is not an MPIDR affinity");
    assert_eq!(refused(&[], 0), "no CPU node for the boot CPU");
    assert_eq!(refused(&[1; MAX_CPUS + 1], 1), "more than 128 CPUs");
}

// Any registers.

/// x0 values around everything that means something. (`prop_oneof!` would say this too, and take Miri a second for
/// each.)
fn any_function() -> impl Strategy<Value = u64> {
    (0_u8..9, any::<u64>()).prop_map(|(kind, random)| {
        let number = random & 0x3f | (random & 1 << 6) << 24 | 0x8400_0000;
        match kind {
            0 => random,
            1 | 2 => number | random & 0xffff_ffff_0001_0000,
            _ => number,
        }
    })
}

/// Arguments around everything that means something.
fn any_argument() -> impl Strategy<Value = u64> {
    (0_u8..7, any::<u64>()).prop_map(|(kind, random)| match kind {
        0 => random & 7,
        1 => 1 << (random & 63),
        2 => 0x4020_0000,
        3 => 0x8000_0000,
        4 => 0x8400_0000 | random & 0x1f,
        5 => 0xc400_0000 | random & 0x1f,
        _ => random,
    })
}

proptest! {
    #![proptest_config(cases(2000, 8))]

    /// Whatever the host says and whatever firmware answers: no panic, only x0 changes, firmware never hears an entry
    /// that is not Exeunt's, and numbers that nobody knows are NOT_SUPPORTED.
    #[test]
    fn any_call_gets_an_answer(
        calls in prop::collection::vec(
            (0_usize..4, any_function(), prop::array::uniform4(any_argument()), any_argument()),
            1..24,
        ),
    ) {
        let psci = ready(3);
        for (cpu, x0, arguments, answer) in calls {
            let firmware = Recorder::answering(answer);
            let mut registers = request(&[x0, arguments[0], arguments[1], arguments[2], arguments[3]]);
            let before = registers;
            psci.call(cpu, &mut registers, &Machine, &firmware);
            prop_assert_eq!(&registers[1..], &before[1..]);

            let id = crate::smccc::function_id(x0);
            let known = FunctionId::try_from(id);
            if known.is_err() || known == Ok(FunctionId::CpuFreeze) {
                prop_assert_eq!(registers[0], NOT_SUPPORTED);
                prop_assert!(firmware.was_silent());
            }
            for sent in firmware.calls.borrow().iter() {
                let entry_at = match sent[0] & 0x1f {
                    1 | 3 => 2,
                    0xc | 0xe => 1,
                    _ => continue,
                };
                prop_assert_eq!(sent[entry_at], Machine.entry_point());
                prop_assert_eq!(sent[0] & 0xffff_ffff, 0xc400_0000 | sent[0] & 0x1f, "the 64-bit function");
            }
            // Whatever it was, a CPU may show up at any time.
            let _ = psci.arrive(cpu, false);
        }
    }

    /// The codes as the crate knows them: decoding any number agrees with the table of the proxy.
    #[test]
    fn any_number_is_either_known_or_not_supported(id in any::<u32>()) {
        let psci = ready(1);
        let firmware = Recorder::answering(SUCCESS);
        let answer = call(&psci, &[u64::from(id)], &firmware);
        if FunctionId::try_from(crate::smccc::function_id(id.into())).is_err() {
            prop_assert_eq!(answer, NOT_SUPPORTED);
        }
    }
}

/// Firmware under which a CPU dies in CPU_ON, before or after the call got there.
struct Deadly {
    affinity_info: u64,
}

impl Firmware for Deadly {
    fn call(&self, registers: &mut [u64; 18]) {
        assert_ne!(registers[0], u64::from(u32::from(FunctionId::CpuOn64)), "the CPU is dead");
        registers[0] = self.affinity_info;
    }
}

#[test]
fn a_cpu_that_dies_in_cpu_on_takes_its_claim_along_unless_firmware_has_it() {
    // AFFINITY_INFO: on, off, on its way.
    for (affinity_info, stays) in [(0, true), (1, false), (2, true)] {
        let psci = ready(4);
        // As `cpu_on` does, up to firmware.
        psci.cpus[2].claim(HostEntry { pc: 0x4000_0000, x0: 5 }).unwrap();
        psci.note_claim(1, 2 + 1);
        psci.dies(3, &Deadly { affinity_info }, || false);
        assert!(psci.is_starting(2), "that of another");
        let mut waits = 3;
        psci.dies(1, &Deadly { affinity_info }, || {
            waits -= 1;
            waits > 0
        });
        assert_eq!((psci.is_starting(2), waits), (stays, 0));
        psci.dies(1, &Deadly { affinity_info: 1 }, || false);
        assert_eq!(psci.is_starting(2), stays, "it is looked at once");
    }
    // Its target arrives while it is waited for.
    let psci = ready(4);
    psci.cpus[2].claim(HostEntry { pc: 0x4000_0000, x0: 5 }).unwrap();
    psci.note_claim(1, 2 + 1);
    psci.dies(1, &Deadly { affinity_info: 1 }, || psci.arrive(2, false).is_some());
    assert_eq!(psci.power_state(2), PowerState::On);
}
