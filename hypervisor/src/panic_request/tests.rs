//! All orders of the steps by which two CPUs ask for a panic on a third, while CPUs leave, go off, and die at EL2.
//!
//! Owns a model like that of `leave/tests.rs`, whose real code runs in each step. It has a few rounds and no more, so
//! that a request of an old round can be told from one of the current. Time is no part of it: patience may end at any
//! step.

use std::cell::Cell;
use std::collections::HashMap;

use guest_abi::vendor::Policy;

use super::*;
use crate::leave::{Fate, Leaver, World as LeaveWorld, held};
use crate::lifecycle::LifeCycle;
use crate::own_calls::control::{UnderWay, Verdict};

const CPUS: usize = 3;
/// Who is meant.
const TARGET: usize = 1;
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Off,
    /// In the host, under Exeunt.
    Host,
    /// The same, in virtual EL2.
    Window,
    /// In the host, without Exeunt.
    Native,
    /// In EL2: asks. Whether the target has panicked for it, and whether its round was ended by another CPU.
    Asker(Asker, bool, bool),
    Leaver(Leaver),
    /// In EL2: CPU_OFF, and no longer on.
    GoingOff,
    /// In EL2: held, from virtual EL2 or not.
    Held(bool),
    /// The same: it waits in a round that it has seen, and looks whether it is meant.
    Waiting(bool, UnderWay),
    /// The same, about to say what becomes of it.
    Meant(bool, UnderWay),
    /// The same, with its patience at an end and stage 2 given back.
    GivingUp(bool, UnderWay),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Cpu {
    at: At,
    life: State,
    held_for: Option<Round>,
    on: bool,
    /// EL1's MMU.
    mmu: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each is one fact")]
struct Machine {
    cpus: [Cpu; CPUS],
    control: u32,
    /// The target's word.
    request: u32,
    hidden: bool,
    dead: Option<usize>,
    mortal: bool,
    /// So many rounds are begun.
    rounds: u32,
    /// What is led is no LEAVE, but the stop of all CPUs at a crash.
    stops: bool,
    /// Exeunt may die on a CPU, whose host goes on without it.
    fails: bool,
}

struct Real {
    lives: [LifeCycle; CPUS],
    on: [bool; CPUS],
    windows: [bool; CPUS],
    control: Control,
    request: Request,
    hidden: Cell<bool>,
    patient: bool,
}

impl Cpus for Real {
    fn count(&self) -> usize {
        CPUS
    }
    fn life(&self, cpu: usize) -> Option<&LifeCycle> {
        self.lives.get(cpu)
    }
    fn is_on(&self, cpu: usize) -> bool {
        self.on[cpu]
    }
    fn is_starting(&self, _: usize) -> bool {
        false
    }
    fn forget_starts(&self) {}
    fn has_new_starts(&self) -> bool {
        false
    }
}

impl Targets for Real {
    fn request(&self, cpu: usize) -> Option<&Request> {
        (cpu == TARGET).then_some(&self.request)
    }
    fn in_window(&self, cpu: usize) -> bool {
        self.windows[cpu]
    }
}

impl Room for Real {
    fn hide(&self) {
        self.hidden.set(true);
    }
    fn show(&self) {
        self.hidden.set(false);
    }
    fn wait(&self, awaited: &dyn Fn(usize) -> bool) -> bool {
        for cpu in (0..CPUS).filter(|&cpu| awaited(cpu)) {
            assert!(self.on[cpu] && !self.lives[cpu].state().is_left(), "CPU {cpu} is sent an SGI");
        }
        self.patient
    }
}

impl Machine {
    fn real(&self, patient: bool) -> Real {
        Real {
            lives: self.cpus.map(|cpu| cpu.held_for.map_or(LifeCycle::in_state(cpu.life), LifeCycle::held_in)),
            on: self.cpus.map(|cpu| cpu.on),
            windows: self.cpus.map(|cpu| {
                matches!(
                    cpu.at,
                    At::Window | At::Held(true) | At::Waiting(true, _) | At::Meant(true, _) | At::GivingUp(true, _)
                )
            }),
            control: Control::from_word(self.control),
            request: Request::of_bits(self.request),
            hidden: Cell::new(self.hidden),
            patient,
        }
    }

    fn take(mut self, real: &Real) -> Self {
        for (cpu, life) in self.cpus.iter_mut().zip(&real.lives) {
            (cpu.life, cpu.held_for) = (life.state(), life.held_for());
        }
        (self.control, self.request, self.hidden) = (real.control.word(), real.request.bits(), real.hidden.get());
        self
    }

    fn at(mut self, cpu: usize, at: At) -> Self {
        self.cpus[cpu].at = at;
        self
    }

    fn next(self, this: usize) -> Vec<Self> {
        if self.dead == Some(this) {
            return vec![];
        }
        let mut next = self.steps(this);
        let at_el2 = !matches!(self.cpus[this].at, At::Off | At::Host | At::Window | At::Native);
        if self.mortal && self.dead.is_none() && at_el2 {
            next.push(Self { dead: Some(this), ..self });
        }
        if self.fails && at_el2 && self.cpus[this].at != At::GoingOff {
            next.push(self.fail(this));
        }
        next
    }

    /// Exeunt dies on a CPU, and tells the others (`exeunt/src/rescue.rs`).
    fn fail(self, this: usize) -> Self {
        let real = self.real(true);
        let before = real.lives[this].die(false);
        if before.is_new {
            real.control.die();
        }
        let mut next = self;
        if let Some(seen) = real.control.under_way()
            && before.may_lead
        {
            real.show();
            if real.control.give_up(seen) {
                next = next.tell(seen.round, |_, deposed| *deposed = true);
            }
        }
        next.take(&real).at(this, At::Native)
    }

    /// A CPU that comes to EL2, for something that it is answered unless it is held.
    fn come(self, this: usize, window: bool, answered: Self) -> Self {
        if self.real(true).control.is_leaving() { self.at(this, At::Held(window)) } else { answered }
    }

    fn steps(self, this: usize) -> Vec<Self> {
        let me = self.cpus[this];
        let real = self.real(true);
        match me.at {
            At::Off | At::Native => vec![],
            At::Host | At::Window if self.hidden => {
                let mut shown = self;
                shown.hidden = false;
                vec![self.come(this, me.at == At::Window, shown)]
            }
            At::Window | At::Asker(Asker::Over(_), ..) => vec![self.at(this, At::Host)],
            At::Host => {
                let mut next = vec![];
                if real.control.round().number() < self.rounds {
                    if this != TARGET {
                        next.push(self.come(this, false, self.at(this, At::Asker(Asker::Begin, false, false))));
                    }
                    next.push(self.come(this, false, self.at(this, At::Leaver(Leaver::Begin))));
                }
                let mut off = self.at(this, At::GoingOff);
                off.cpus[this].on = false;
                next.push(self.come(this, false, off));
                next
            }
            At::GoingOff => vec![self.at(this, At::Off)],
            At::Held(window) => match held(&real.lives[this], &real.control, !window, || ()) {
                Fate::Again => vec![self.take(&real)],
                Fate::Wait(seen) => vec![self.take(&real).at(this, At::Waiting(window, seen))],
                Fate::Stay => vec![self.take(&real).at(this, if window { At::Window } else { At::Host })],
                Fate::Off => {
                    let mut off = self.take(&real).at(this, At::Off);
                    off.cpus[this].on = false;
                    vec![off]
                }
                Fate::Leave { .. } => {
                    assert!(!window);
                    assert_eq!(real.lives[this].leave(false), Ok(()));
                    vec![self.take(&real).at(this, At::Native)]
                }
            },
            At::Waiting(window, seen) => {
                let meant = this == TARGET && real.request.due(seen.round);
                let waits = self.at(this, if meant { At::Meant(window, seen) } else { At::Held(window) });
                real.show();
                vec![waits, self.take(&real).at(this, At::GivingUp(window, seen))]
            }
            At::Meant(window, seen) => {
                let can = can_take(window, u64::from(me.mmu));
                let mut next = self;
                if real.request.settle(seen.round, can) && can.is_ok() {
                    next = next.tell(seen.round, |panicked, _| *panicked = true);
                }
                vec![next.take(&real).at(this, At::Held(window))]
            }
            At::GivingUp(window, seen) => {
                let mut next = self;
                if real.control.give_up(seen) {
                    next = next.tell(seen.round, |_, deposed| *deposed = true);
                }
                vec![next.take(&real).at(this, At::Held(window))]
            }
            At::Asker(asker, panicked, deposed) => [true, false]
                .into_iter()
                .map(|patient| {
                    let real = self.real(patient);
                    let world = World { control: &real.control, cpus: &real, room: &real };
                    let next = asker.step(TARGET, &world);
                    match next {
                        Asker::Over(Ok(())) => assert!(panicked, "{self:?}"),
                        // One that was taken for dead may not have heard of it.
                        Asker::Over(Err(error)) => {
                            assert!(!panicked || (deposed && error == Error::TimedOut), "{self:?}");
                        }
                        _ => {}
                    }
                    self.take(&real).at(this, At::Asker(next, panicked, deposed))
                })
                .collect(),
            At::Leaver(Leaver::Over(end)) => {
                vec![self.at(this, if end.is_ok() && !self.stops { At::Native } else { At::Host })]
            }
            At::Leaver(Leaver::Overtaken) => vec![self.at(this, At::Held(false))],
            At::Leaver(leaver) => [true, false]
                .into_iter()
                .map(|patient| {
                    let real = self.real(patient);
                    let verdict = if self.stops { Verdict::Off } else { Verdict::Leave };
                    let world = LeaveWorld { control: &real.control, cpus: &real, room: &real, verdict };
                    let next = leaver.step(this, &real.lives[this], false, &world);
                    self.take(&real).at(this, At::Leaver(next))
                })
                .collect(),
        }
    }

    /// Notes something with the asker of this round, if it lives: whether its target has panicked, whether it is taken
    /// for dead.
    fn tell(mut self, round: Round, note: impl Fn(&mut bool, &mut bool)) -> Self {
        use Asker::{Ask, End, Hide, Look, Show, Withdraw};
        for cpu in &mut self.cpus {
            if let At::Asker(asker, panicked, deposed) = &mut cpu.at
                && let Ask(of) | Hide(of) | Look(of) | Show(of, _) | End(of, _) | Withdraw(of, _) = asker
                && *of == round
            {
                note(panicked, deposed);
            }
        }
        self
    }

    fn is_at_rest(&self) -> bool {
        let living = || self.cpus.iter().enumerate().filter(|&(number, _)| self.dead != Some(number));
        let runs = living().any(|(_, cpu)| matches!(cpu.at, At::Host | At::Window));
        let kept = self.hidden || Control::from_word(self.control).is_leaving();
        living().all(|(_, cpu)| matches!(cpu.at, At::Off | At::Host | At::Window | At::Native)) && !(kept && runs)
    }
}

/// Explores from `start`; gives all states that are met.
fn explore(start: Machine) -> Vec<Machine> {
    let (mut numbers, mut machines, mut sources) = (HashMap::from([(start, 0)]), vec![start], vec![vec![]]);
    let mut number = 0;
    while let Some(&machine) = machines.get(number) {
        for next in (0..CPUS).flat_map(|this| machine.next(this)) {
            let target = *numbers.entry(next).or_insert_with(|| {
                machines.push(next);
                sources.push(vec![]);
                machines.len() - 1
            });
            sources[target].push(number);
        }
        number += 1;
    }
    // From every state there is a way to rest.
    let mut ends: Vec<usize> = (0..machines.len()).filter(|&number| machines[number].is_at_rest()).collect();
    let mut reached = vec![false; machines.len()];
    while let Some(number) = ends.pop() {
        if !core::mem::replace(&mut reached[number], true) {
            ends.extend(sources[number].iter().filter(|&&source| !reached[source]));
        }
    }
    let stuck = reached.iter().position(|reached| !reached);
    assert!(stuck.is_none(), "no way on from {:?}", stuck.map(|number| machines[number]));
    machines
}

const RUNNING: Cpu = Cpu { at: At::Host, life: State::Live, held_for: None, on: true, mmu: true };

fn machine(target: Cpu, mortal: bool, rounds: u32) -> Machine {
    let control = Control::new(Policy::Leave, Policy::Leave).word();
    Machine {
        cpus: [RUNNING, target, RUNNING],
        control,
        request: NONE,
        hidden: false,
        dead: None,
        mortal,
        rounds,
        stops: false,
        fails: false,
    }
}

/// How requests end in these states.
fn ends(machines: &[Machine]) -> Vec<End> {
    let mut ends = vec![];
    for at in machines.iter().flat_map(|machine| machine.cpus).map(|cpu| cpu.at) {
        if let At::Asker(Asker::Over(end), ..) = at
            && !ends.contains(&end)
        {
            ends.push(end);
        }
    }
    ends
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of states")]
fn every_answer_is_true_in_every_order_of_steps() {
    let states = explore(machine(RUNNING, false, 2));
    let ends = ends(&states);
    for end in [Ok(()), Err(Error::Busy), Err(Error::WrongState), Err(Error::TimedOut)] {
        assert!(ends.contains(&end), "{end:?} is never answered: {ends:?}");
    }
    assert!(states.len() > 10_000, "{}", states.len());
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of states")]
fn whoever_dies_at_el2_keeps_nobody_waiting() {
    assert!(explore(machine(RUNNING, true, 2)).len() > 10_000);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of states")]
fn wherever_exeunt_dies_a_panic_keeps_nobody_waiting() {
    for stops in [false, true] {
        assert!(explore(Machine { stops, fails: true, ..machine(RUNNING, false, 2) }).len() > 10_000);
    }
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of states")]
fn a_stop_at_a_crash_and_a_panic_leave_each_other_whole() {
    for mortal in [false, true] {
        let start = Machine { stops: true, ..machine(RUNNING, mortal, 2) };
        assert!(explore(start).len() > 10_000);
    }
}

#[test]
#[cfg_attr(miri, ignore = "tens of thousands of states")]
fn a_host_without_vectors_is_left_alone() {
    for target in [
        Cpu { mmu: false, ..RUNNING },
        Cpu { at: At::Off, on: false, ..RUNNING },
        Cpu { at: At::Off, on: false, life: State::Outside, ..RUNNING },
        Cpu { at: At::Native, life: State::Stub, ..RUNNING },
        Cpu { at: At::Native, life: State::Gone, ..RUNNING },
    ] {
        let ends = ends(&explore(machine(target, false, 1)));
        assert!(!ends.contains(&Ok(())) && ends.contains(&Err(Error::WrongState)), "{target:?}: {ends:?}");
    }
    // It leaves virtual EL2 at some time, and is refused before.
    let ends = ends(&explore(machine(Cpu { at: At::Window, ..RUNNING }, false, 1)));
    assert!(ends.contains(&Ok(())) && ends.contains(&Err(Error::WrongState)), "{ends:?}");
}

#[test]
fn a_panic_alone_takes_these_steps() {
    let start = machine(RUNNING, false, 1);
    let (mut machine, mut seen) = (start.at(0, At::Asker(Asker::Begin, false, false)), vec![]);
    while let At::Asker(asker, ..) = machine.cpus[0].at {
        seen.push(asker);
        machine = machine.steps(0)[0];
        if asker == Asker::Look(Round::new(0)) {
            // While it waits, the target comes.
            machine = machine.steps(TARGET)[0];
        }
    }
    let round = Round::new(0);
    seen.dedup();
    assert_eq!(
        seen,
        [
            Asker::Begin,
            Asker::Announce,
            Asker::Ask(round),
            Asker::Hide(round),
            Asker::Look(round),
            Asker::Show(round, Ok(())),
            Asker::End(round, Ok(())),
            Asker::Over(Ok(()))
        ]
    );
}

#[test]
fn a_request_is_for_its_round_alone_and_settled_once() {
    let request = Request::new();
    let control = Control::new(Policy::Leave, Policy::Leave);
    let begin = || control.begin_hold().expect("nothing is under way");
    let end = |round| assert!(control.end_leave(round, false));
    let round = begin();
    assert!(!request.due(round) && !request.settle(round, Ok(())) && !request.withdraw(round));
    assert!(request.ask(round, &control));
    assert!(request.due(round) && !request.due(round.next()) && !request.settle(round.next(), Ok(())));
    assert_eq!(request.answer(round), None);
    assert!(request.settle(round, Err(Error::WrongState)) && !request.settle(round, Ok(())));
    assert_eq!(request.answer(round), Some(Err(Error::WrongState)));
    end(round);
    let (first, round) = (round, begin());
    assert!(request.ask(round, &control) && !request.ask(first, &control));
    assert!(request.withdraw(round) && !request.settle(round, Ok(())));
    end(round);
    let round = begin();
    assert!(request.ask(round, &control));
    assert!(request.settle(round, Ok(())) && !request.withdraw(round) && !request.due(round));
    assert_eq!(request.answer(round), Some(Ok(())));
    end(round);
    assert!(!request.ask(round, &control), "it is over");
}

#[test]
fn a_host_can_take_it_where_it_has_vectors() {
    for (in_window, sctlr, can) in [(false, 1, true), (false, !0, true), (false, !1, false), (true, 1, false)] {
        assert_eq!(can_take(in_window, sctlr).is_ok(), can, "{in_window} {sctlr:#x}");
    }
}
