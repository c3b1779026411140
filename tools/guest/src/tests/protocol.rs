//! The calls: what others do at the same time.

use guest_abi::vendor::{LEAVE, Policy, RESTART_POLICY};
use view::fixture;

use super::fake::{Fake, PLACE};
use crate::commands::policy::Which;
use crate::commands::{leave, policy};
use crate::door::{self, Answer};
use crate::trouble::Trouble;

fn fake() -> Fake {
    Fake::new(&fixture::boot(), 4)
}

#[test]
fn a_call_is_answered() {
    let fake = fake();
    let answer = door::call(&fake, [RESTART_POLICY.into(), 3, 1, 9]).unwrap();
    assert_eq!(answer, Answer::Registers([0, 1, 1, 9]));
    assert_eq!((fake.kexec.get(), fake.crash.get()), (1, 1));
}

#[test]
fn a_call_survives_another_program_at_each_of_its_accesses() {
    // Those of the call alone.
    let accesses = {
        let fake = fake();
        door::call(&fake, [RESTART_POLICY.into(), 0, 0, 0]).unwrap();
        fake.accesses.get()
    };
    assert_eq!(accesses, 14);
    for at in 0..accesses {
        let fake = fake();
        // The other one takes all channels, this one's among them, and calls with other arguments.
        let act = |fake: &Fake| {
            for _ in 0..16 {
                fake.call_as_another([RESTART_POLICY.into(), 2, 0, 4]);
            }
        };
        *fake.at_access.borrow_mut() = Some((at, Box::new(act)));
        let answer = door::call(&fake, [RESTART_POLICY.into(), 1, 1, 3]).unwrap();
        // Whether the other's call comes before or after this one, its answer is never taken for this one's.
        assert!(matches!(answer, Answer::Registers([0, 1, _, 3])), "access {at}: {answer:?}");
        assert_eq!(fake.kexec.get(), 1, "access {at}");
    }
}

#[test]
fn a_program_that_is_never_let_gives_up_and_says_why() {
    let fake = fake();
    fake.disturbs.set(16);
    let trouble = door::call(&fake, [RESTART_POLICY.into(), 1, 1, 0]).unwrap_err();
    assert!(matches!(trouble, Trouble::Crowded(_)), "{trouble}");
    assert!(trouble.to_string().contains("other programs"));
    assert_eq!(fake.kexec.get(), 0, "nothing was called with a seal that is another's");
}

#[test]
fn fewer_than_all_channels_taken_do_no_harm() {
    let fake = fake();
    fake.disturbs.set(1);
    door::call(&fake, [RESTART_POLICY.into(), 1, 1, 0]).unwrap();
    assert_eq!(fake.kexec.get(), 1);
}

#[test]
fn a_call_after_exeunt_has_left_stores_nothing() {
    let fake = fake();
    let context = fake.context().unwrap();
    fake.leave(0);
    let trouble = policy::run(&context, Some((Which::Both, Policy::Resident))).unwrap_err();
    assert!(matches!(trouble, Trouble::Left), "{trouble}");
    assert_eq!(fake.spilled.get(), 0);
}

#[test]
fn exeunt_may_leave_at_any_access_of_a_call() {
    for at in 0..14 {
        let fake = fake();
        // Memory of zeros: ticket 0, and an answer to it.
        fake.zeros.set(true);
        *fake.at_access.borrow_mut() = Some((at, Box::new(|fake: &Fake| fake.leave(5))));
        match door::call(&fake, [RESTART_POLICY.into(), 0, 0, 0]) {
            Err(Trouble::Left) => {}
            other => panic!("access {at}: {other:?}"),
        }
        // What goes to memory by then lies in the page that is the doorbell's.
        assert!(fake.memory.borrow().keys().all(|&offset| offset < 0x900 || (PLACE..PLACE + 32).contains(&offset)));
    }
}

#[test]
fn leave_waits_while_a_cpu_is_being_started() {
    let fake = fake();
    fake.busy.set(3);
    let said = leave::run(&fake.context().unwrap()).unwrap();
    assert!(said.text.contains("all 4 CPUs"), "{}", said.text);
    assert_eq!(fake.waits.get(), 3);
    // For ever it does not.
    let fake = self::fake();
    fake.busy.set(1000);
    let trouble = leave::run(&fake.context().unwrap()).unwrap_err();
    assert!(trouble.to_string().contains("another CPU"), "{trouble}");
    assert!(fake.is_under());
}

#[test]
fn two_leaves_at_once_are_one() {
    for at in 0..20 {
        let fake = fake();
        let context = fake.context().unwrap();
        let begin = fake.accesses.get();
        *fake.at_access.borrow_mut() =
            Some((begin + at, Box::new(|fake: &Fake| fake.call_as_another([LEAVE.into(), 0, 0, 0]))));
        match leave::run(&context) {
            Ok(said) => assert_eq!(said.json["way_back"], true, "access {at}"),
            Err(trouble) => assert!(matches!(trouble, Trouble::Left), "access {at}: {trouble}"),
        }
        assert!(!fake.is_under());
    }
}
