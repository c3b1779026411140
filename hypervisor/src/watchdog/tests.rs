use proptest::prelude::*;

use super::*;
use crate::tests::cases;

const TIMES: Times = Times { period: 1000, soon: 300, grace: 8 };
const PERIOD: u64 = TIMES.period;

/// A tick of a CPU that hangs.
fn stuck(number: u64) -> Sample {
    let now = number * PERIOD;
    Sample {
        now,
        masked: true,
        asleep: false,
        expired: [Some(500), None],
        pending: None,
        pc: 0x1000,
        state: number,
        is_bare: false,
    }
}

/// The same of one that has no timer set, and gets an interrupt.
fn deaf(number: u64) -> Sample {
    Sample { expired: [None; 2], pending: Some(7), ..stuck(number) }
}

fn feed(samples: impl IntoIterator<Item = Sample>) -> Vec<Finding> {
    let mut watchdog = Watchdog::new();
    samples.into_iter().map(|sample| watchdog.sample(&sample, TIMES)).collect()
}

/// In which samples the two findings are.
fn found(samples: impl IntoIterator<Item = Sample>) -> [Vec<usize>; 2] {
    let found = feed(samples);
    [Finding::Panic, Finding::Lost]
        .map(|finding| (1..).zip(&found).filter(|(_, found)| **found == finding).map(|(at, _)| at).collect())
}

#[test]
fn a_cpu_that_hangs_panics_after_the_time_and_is_lost_after_the_grace() {
    assert_eq!(found((1..=20).map(stuck)), [vec![5], vec![14]]);
    // By its other timer, as a Linux without VHE has it at EL2.
    let other = |number| Sample { expired: [None, Some(500)], ..stuck(number) };
    assert_eq!(found((1..=20).map(other)), [vec![5], vec![14]]);
}

#[test]
fn an_interrupt_that_is_pending_has_to_be_for_longer() {
    assert_eq!(found((1..=30).map(deaf)), [vec![17], vec![26]]);
    let moves = |number| Sample { pc: 0x1000 + number % 2 * 124, ..deaf(number) };
    assert_eq!(found((1..=30).map(moves)), [vec![17], vec![26]]);
    // Elsewhere each time, or another one: it does something.
    let elsewhere = |number| Sample { pc: 0x1000 + number % 2 * 128, ..deaf(number) };
    let others = |number| Sample { pending: Some(number as u32 % 2), ..deaf(number) };
    assert_eq!([found((1..=300).map(elsewhere)), found((1..=300).map(others))], [const { [vec![], vec![]] }; 2]);
}

/// The same of one that has nothing to do at all, in a loop of `states`.
fn still(number: u64, states: u64) -> Sample {
    Sample { expired: [None; 2], state: 1 + number * 7 % states, pc: 0x1000 + number % 3 * 4, ..stuck(number) }
}

#[test]
fn who_stays_where_it_is_hangs_though_nothing_waits() {
    for states in 1..=4 {
        assert_eq!(found((1..=30).map(|number| still(number, states))), [vec![17], vec![26]]);
    }
    // It counts, or does more than wait: a fifth state begins anew.
    for states in [5, 6, 1000] {
        assert_eq!(found((1..=300).map(|number| still(number, states))), [const { vec![] }; 2]);
    }
    let elsewhere = |number| Sample { pc: 0x1000 + number % 2 * 128, ..still(number, 1) };
    let asleep = |number| Sample { asleep: number % 16 == 0, ..still(number, 1) };
    let unmasked = |number| Sample { masked: number % 16 != 0, ..still(number, 1) };
    for well in [elsewhere, asleep, unmasked] {
        assert_eq!(found((1..=300).map(well)), [const { vec![] }; 2]);
    }
}

#[test]
fn without_its_mmu_only_what_stands_still_hangs() {
    let bare = |number| Sample { is_bare: true, pending: Some(7), ..stuck(number) };
    assert_eq!(found((1..=300).map(bare)), [const { vec![] }; 2]);
    let still = |number| Sample { is_bare: true, ..still(number, 2) };
    assert_eq!(found((1..=30).map(still)), [vec![17], vec![26]]);
    // And what had expired by then is the last kernel's.
    let then = |number| Sample { is_bare: number < 5, expired: [Some(3 * PERIOD), None], ..stuck(number) };
    assert_eq!(found((1..=300).map(then)), [const { vec![] }; 2]);
}

#[test]
fn one_sign_of_life_is_enough() {
    let signs: [fn(&mut Sample); 6] = [
        |sample| sample.masked = false,
        |sample| sample.asleep = true,
        |sample| sample.expired = [None; 2],
        |sample| sample.expired[0] = Some(sample.now - 1),
        // The machine stood still.
        |sample| sample.now += PERIOD,
        // Not this one, but another one.
        |sample| sample.expired.swap(0, 1),
    ];
    for sign in signs {
        let samples = (1..200).map(|number| {
            let mut sample = stuck(number);
            if number % 4 == 0 {
                sign(&mut sample);
            }
            sample
        });
        assert!(feed(samples).iter().all(|&found| found == Finding::Well));
    }
}

#[test]
fn what_had_expired_before_does_not_count() {
    let mut watchdog = Watchdog::new();
    let _ = watchdog.sample(&stuck(1), TIMES);
    watchdog.begin(PERIOD);
    assert!((2..50).all(|number| watchdog.sample(&stuck(number), TIMES) == Finding::Well));
    let later = |number| Sample { expired: [Some(PERIOD + 1), None], ..stuck(number) };
    assert_eq!((50..=54).find(|&number| watchdog.sample(&later(number), TIMES) == Finding::Panic), Some(54));
}

#[test]
fn who_was_to_panic_and_takes_interrupts_again_is_not_lost() {
    let samples = (1..=40).map(|number| Sample { masked: number != 7, ..stuck(number) });
    assert_eq!(found(samples), [vec![5, 12], vec![21, 30, 39]]);
}

#[test]
fn who_cannot_panic_is_asked_again_later() {
    let mut watchdog = Watchdog::new();
    let found: Vec<_> = (1..=20)
        .filter(|&number| {
            let found = watchdog.sample(&stuck(number), TIMES);
            if found != Finding::Well {
                assert_eq!(found, Finding::Panic);
                watchdog.forget();
            }
            found != Finding::Well
        })
        .collect();
    assert_eq!(found, [5, 10, 15, 20]);
}

#[test]
fn who_asks_for_a_reset_after_a_panic_says_so_with_a_number() {
    for (arguments, asks) in [
        ("", false),
        ("quiet panic=-1", true),
        ("panic=10 root=/dev/vda", true),
        ("panic=0", false),
        ("panic=10 panic=0", false),
        ("panic=", false),
        ("oops=panic panic_on_oops=1", false),
    ] {
        assert_eq!(asks_for_reset(arguments.as_bytes()), asks, "{arguments}");
    }
}

#[test]
fn who_is_busy_is_looked_at_more_often_and_no_sample_comes_early() {
    let (mut watchdog, mut now, mut ticks) = (Watchdog::new(), 0, vec![]);
    watchdog.begin(0);
    for number in 0..8 {
        now = if number == 0 { PERIOD } else { watchdog.due(now, TIMES) };
        let sample = Sample { now, masked: number != 6, ..stuck(1) };
        let may_hang = watchdog.look(&sample);
        if watchdog.is_sample(now, TIMES) {
            let _ = watchdog.sample(&sample, TIMES);
        }
        ticks.push((now, may_hang));
    }
    let expected = [(1000, false), (1300, true), (1600, true), (1900, true), (2000, true), (2300, true), (2600, false)];
    assert_eq!(ticks[..7], expected);
    assert_eq!(ticks[7], (3000, false));
}

#[test]
fn who_panics_since_somebody_wants_it_is_lost_after_the_grace() {
    let mut watchdog = Watchdog::new();
    watchdog.panics();
    let found: Vec<_> = (1..=9).map(|number| watchdog.sample(&stuck(number), TIMES)).collect();
    assert_eq!(found.iter().position(|&found| found == Finding::Lost), Some(8));
}

#[test]
fn a_panic_gets_twenty_seconds_or_twice_the_time() {
    assert_eq!(Times::new(2, 1000), Times { period: 500, soon: 500, grace: 40 });
    assert_eq!(Times::new(10, 1000), Times { period: 2500, soon: 1000, grace: 8 });
    assert_eq!(Times::new(600, u64::MAX).grace, 8);
    assert_eq!(Times::new(0, 1000), Times { period: 0, soon: 0, grace: 80 });
}

proptest! {
    #![proptest_config(cases(2000, 16))]

    /// Whoever takes its timer's interrupt in less than the time of three ticks is never accused, whatever a sample
    /// happens to meet.
    #[test]
    fn who_takes_its_timer_is_well(
        steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0_u64..PERIOD * 3), 1..400),
    ) {
        let (mut watchdog, mut set_at) = (Watchdog::new(), 0);
        for (number, (masked, asleep, slack)) in (1..).zip(steps) {
            let now = number * PERIOD;
            // The host handles its timer at times that it chooses, but in time.
            if now - set_at > slack {
                set_at = now - 1;
            }
            let expired = [(set_at < now).then_some(set_at), None];
            let sample = Sample { now, masked, asleep, expired, pending: None, pc: 0, state: now, is_bare: false };
            prop_assert_eq!(watchdog.sample(&sample, TIMES), Finding::Well);
        }
    }

    /// From any state, a hang that lasts is found in time.
    #[test]
    fn a_hang_is_found_from_any_state(
        before in prop::collection::vec((any::<bool>(), any::<bool>(), prop::option::of(0_u64..9)), 0..50),
    ) {
        let mut watchdog = Watchdog::new();
        let count = before.len() as u64;
        for (number, (masked, asleep, expired)) in (1..).zip(before) {
            let expired = [expired, None];
            let (now, pending) = (number * PERIOD, Some(1));
            let sample = Sample { now, masked, asleep, expired, pending, pc: 0, state: number, is_bare: false };
            let _ = watchdog.sample(&sample, TIMES);
        }
        for number in 1..=6 {
            let _ = watchdog.sample(&stuck(count + number), TIMES);
        }
        prop_assert!(watchdog.panicked);
    }
}
