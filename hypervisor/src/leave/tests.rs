//! All orders of the steps by which CPUs leave, are made to leave, come back, go off, come up, and die at EL2.
//!
//! Owns a model of the machine in which three CPUs may at any moment begin anything that concerns the life cycle. A
//! state of it is a value; every step builds the shared structures anew from that value, runs the real code of one
//! step, and reads them back. The search meets every state that can be reached, checks what must be true in each, and
//! that from each there is a way to a machine at rest: nobody waits for ever. Time is no part of it: patience may end
//! at any step, so that a leaver that is taken for dead may as well be slow.
//!
//! Sequentially consistent; the orderings are argued where they stand.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::*;
use crate::restart::Restart;
use guest_abi::vendor::Policy;

const CPUS: usize = 3;

/// Where a CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Without power.
    Off,
    /// Started by firmware at Exeunt's entry.
    Arriving,
    /// In the host, under Exeunt, at EL1.
    Host,
    /// In the host, under Exeunt, in virtual EL2.
    Window,
    /// In the host, and Exeunt is not there: left, or come up without it.
    Native,
    /// In EL2: the leaver.
    Leaver(Leaver),
    /// In EL2: the leader of a stop.
    Stopper(Leaver),
    /// In EL2: comes with something, and has not looked whether a LEAVE is under way.
    Trapped(Call),
    /// In EL2: held, from the host or from virtual EL2.
    Held { window: bool },
    /// The same, with its patience at an end and stage 2 given back.
    GivingUp { window: bool, seen: UnderWay },
    /// In EL2: RESET_VECTORS, or a SOFT_RESTART with policy `leave`, or the verdict of a LEAVE, granted; about to
    /// leave.
    Going,
    /// In EL2: CPU_OFF, before firmware is asked.
    GoingOff,
    /// In EL2: the same for a CPU that a stop has caught.
    Caught,
    /// In EL2 for good: firmware did not turn it off.
    Parked,
    /// In EL2: CPU_ON of this CPU, granted by the proxy; about to ask firmware.
    Starting(usize),
    /// In EL2 from the REENTER table.
    Returning,
}

/// What the host comes to EL2 for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    /// The fault on a stage 2 that is gone.
    Fault,
    Leave,
    ResetVectors,
    SoftRestart,
    /// A SOFT_RESTART that stops all others first.
    Crash,
    Lock,
    CpuOff,
    CpuOn(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each is one fact")]
struct Cpu {
    at: At,
    life: State,
    /// The LEAVE that it is held for.
    held_for: Option<Round>,
    /// It is on its way, and counted.
    out: bool,
    /// The two bits of the PSCI proxy ([`crate::psci::cpus`]).
    on: bool,
    claimed: bool,
    /// It may not be in the count of the LEAVE that is under way, or the other way round: firmware has refused its
    /// CPU_OFF meanwhile, and it may have been looked at as off. Or Exeunt has died on it, and it may have been held
    /// before.
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each is one fact")]
struct Machine {
    cpus: [Cpu; CPUS],
    /// With round 0: the rounds of all else are relative to it.
    control: u32,
    hidden: bool,
    /// A CPU_ON got as far as firmware since the leaver began to look.
    starts: bool,
    /// The CPU that has died: it takes no further step.
    dead: Option<usize>,
    /// Whether a CPU may die. The host makes the calls then that concern leaving, and no others.
    mortal: bool,
    /// Whether the host may crash.
    stops: bool,
    /// Whether Exeunt may die on a CPU, so that its host goes on without it.
    fails: bool,
}

impl Cpu {
    fn life(&self) -> LifeCycle {
        let life = self.held_for.map_or(LifeCycle::in_state(self.life), LifeCycle::held_in);
        if self.out {
            life.set_out();
        }
        life
    }

    /// Held for the LEAVE that is under way.
    fn is_held(&self) -> bool {
        matches!(self.at, At::Held { .. } | At::GivingUp { .. }) && self.held_for == Some(Round::new(0))
    }
}

/// The round of a LEAVE that is over. Which it was makes no difference.
const OVER: Round = Round::new(Round::COUNT - 1);

/// A round, when the one that counts is `current`.
fn relative(round: Round, current: Round) -> Round {
    if round == current { Round::new(0) } else { OVER }
}

impl At {
    /// The same with other rounds.
    fn map(self, change: impl Fn(Round) -> Round) -> Self {
        use Leaver::{Catch, End, Hide, Judge, Look, Release, Show};
        let changed = |leaver| match leaver {
            Hide(round) => Hide(change(round)),
            Catch(round) => Catch(change(round)),
            Look { round, cpu, held } => Look { round: change(round), cpu, held },
            Show(round, end) => Show(change(round), end),
            Judge(round, held) => Judge(change(round), held),
            Release(round, held) => Release(change(round), held),
            End(round, end) => End(change(round), end),
            other => other,
        };
        match self {
            Self::GivingUp { window, seen } => {
                Self::GivingUp { window, seen: UnderWay { round: change(seen.round), ..seen } }
            }
            Self::Leaver(leaver) => Self::Leaver(changed(leaver)),
            Self::Stopper(leaver) => Self::Stopper(changed(leaver)),
            other => other,
        }
    }

    /// The round that it leads, if it does.
    fn leads(self) -> Option<Round> {
        use Leaver::{Catch, End, Hide, Judge, Look, Release, Show};
        let (Self::Leaver(leaver) | Self::Stopper(leaver)) = self else { return None };
        match leaver {
            Hide(round)
            | Catch(round)
            | Look { round, .. }
            | Show(round, _)
            | Judge(round, _)
            | Release(round, _)
            | End(round, _) => Some(round),
            _ => None,
        }
    }

    fn is_in_el2(self) -> bool {
        !matches!(self, Self::Off | Self::Host | Self::Window | Self::Native | Self::Parked)
    }

    /// Has to do with a LEAVE, or with leaving.
    fn concerns_leaving(self) -> bool {
        let held = matches!(self, Self::Held { .. } | Self::GivingUp { .. } | Self::Caught);
        held || matches!(self, Self::Leaver(_) | Self::Stopper(_) | Self::Going)
    }
}

/// The shared structures, made of a state.
struct Real {
    lives: [LifeCycle; CPUS],
    on: [bool; CPUS],
    claimed: [bool; CPUS],
    control: Control,
    hidden: Cell<bool>,
    starts: Cell<bool>,
    /// Whether the leaver's patience has not ended.
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
    fn is_starting(&self, cpu: usize) -> bool {
        self.claimed[cpu]
    }
    fn forget_starts(&self) {
        self.starts.set(false);
    }
    fn has_new_starts(&self) -> bool {
        self.starts.get()
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
            // Nobody is woken who is off, left, or not there yet.
            let left = self.lives[cpu].state().is_left();
            assert!(self.on[cpu] && !self.claimed[cpu] && !left, "CPU {cpu}");
        }
        self.patient
    }
}

impl Machine {
    fn real(&self, patient: bool) -> Real {
        Real {
            lives: self.cpus.map(|cpu| cpu.life()),
            on: self.cpus.map(|cpu| cpu.on),
            claimed: self.cpus.map(|cpu| cpu.claimed),
            control: Control::from_word(self.control),
            hidden: Cell::new(self.hidden),
            starts: Cell::new(self.starts),
            patient,
        }
    }

    /// Takes back what a step has changed. The lives of other CPUs than `this` cannot have changed.
    fn take(mut self, this: usize, real: &Real) -> Self {
        for (number, (cpu, life)) in self.cpus.iter_mut().zip(&real.lives).enumerate() {
            let now = (life.state(), life.held_for(), life.is_out());
            assert!(number == this || now == (cpu.life, cpu.held_for, cpu.out), "only its own CPU changes a life");
            (cpu.life, cpu.held_for, cpu.out) = now;
        }
        self.control = real.control.word();
        self.hidden = real.hidden.get();
        self.starts = real.starts.get();
        if !real.control.is_leaving() {
            for cpu in &mut self.cpus {
                cpu.refused = false;
            }
        }
        self
    }

    fn at(mut self, cpu: usize, at: At) -> Self {
        self.cpus[cpu].at = at;
        self
    }

    /// The same machine with the current round 0.
    fn renumbered(mut self) -> Self {
        let control = Control::from_word(self.control);
        let current = control.round();
        for cpu in &mut self.cpus {
            cpu.held_for = cpu.held_for.map(|round| relative(round, current));
            cpu.at = cpu.at.map(|round| relative(round, current));
        }
        self.control = control.with_round(Round::new(0));
        self
    }

    /// Every state that CPU `this` can bring about with one step, or by dying.
    fn next(self, this: usize) -> Vec<Self> {
        if self.dead == Some(this) {
            return vec![];
        }
        let mut next = self.steps(this);
        if self.mortal && self.dead.is_none() && self.cpus[this].at.concerns_leaving() {
            next.push(Self { dead: Some(this), ..self });
        }
        if self.fails && self.cpus[this].at.is_in_el2() && self.cpus[this].at != At::Arriving {
            next.push(self.fail(this));
        }
        next.into_iter().map(Self::renumbered).collect()
    }

    /// Exeunt dies on a CPU, and tells the others (`exeunt/src/rescue.rs`).
    fn fail(self, this: usize) -> Self {
        let real = self.real(true);
        let before = real.lives[this].die(false);
        assert!(!before.was_left || matches!(self.cpus[this].at, At::Returning | At::Leaver(Leaver::Over(Ok(_)))));
        if before.is_new {
            real.control.die();
        }
        if let Some(seen) = real.control.under_way()
            && before.may_lead
        {
            real.show();
            let _ = real.control.give_up(seen);
        }
        let mut next = self.take(this, &real);
        // What it had asked firmware for is asked again, or is withdrawn by the proxy's `dies`.
        match self.cpus[this].at {
            At::Starting(target) => next.cpus[target].claimed = false,
            At::GoingOff | At::Caught => return next.at(this, At::Off),
            _ => {}
        }
        next.cpus[this].refused = real.control.is_leaving();
        next.at(this, At::Native)
    }

    /// Every state that CPU `this` can bring about with one step.
    fn steps(self, this: usize) -> Vec<Self> {
        let me = self.cpus[this];
        let real = self.real(true);
        let life = &real.lives[this];
        match me.at {
            At::Off | At::Parked => vec![],
            At::Arriving => {
                if life.state().is_left() {
                    real.control.come_up();
                }
                life.begin();
                let mut next = self.take(this, &real);
                (next.cpus[this].on, next.cpus[this].claimed) = (true, false);
                let real = next.real(true);
                assert_eq!(real.lives[this].go_live(), Ok(()));
                let next = next.take(this, &real);
                vec![next.at(this, At::Host), next.at(this, At::Window)]
            }
            At::Host | At::Window | At::Native => self.host_steps(this),
            At::Trapped(call) => {
                if real.control.is_leaving() {
                    return vec![self.at(this, At::Held { window: false })];
                }
                self.answer(this, call)
            }
            At::Held { window } => match held(life, &real.control, !window, || self.keeps(this)) {
                Fate::Again => vec![self.take(this, &real)],
                Fate::Off => {
                    assert_eq!(real.control.under_way().map(|it| it.verdict), Some(Verdict::Off));
                    let mut next = self.take(this, &real).at(this, At::Caught);
                    next.cpus[this].on = false;
                    vec![next]
                }
                Fate::Wait(seen) => {
                    real.show();
                    vec![self.take(this, &real).at(this, At::GivingUp { window, seen })]
                }
                Fate::Stay => {
                    vec![self.take(this, &real).at(this, if window { At::Window } else { At::Host })]
                }
                Fate::Leave { open } => {
                    assert_eq!(real.control.under_way().map(|it| it.verdict == Verdict::LeaveOpen), Some(open));
                    assert!(!window, "virtual EL2 cannot be left");
                    vec![self.take(this, &real).at(this, At::Going)]
                }
            },
            At::GivingUp { window, seen } => {
                let verdict = real.control.under_way().map(|under_way| under_way.verdict);
                let ended = real.control.give_up(seen);
                // A verdict that was given is followed by whoever can.
                assert!(!(ended && verdict.is_some_and(Verdict::leaves)) || window, "{self:?}");
                assert!(!(ended && verdict == Some(Verdict::Off)), "{self:?}");
                vec![self.take(this, &real).at(this, At::Held { window })]
            }
            At::Going => vec![self.gone(this)],
            At::GoingOff => {
                let mut denied = self.at(this, At::Host);
                denied.cpus[this].on = true;
                denied.cpus[this].refused = real.control.is_leaving();
                vec![self.at(this, At::Off), denied]
            }
            At::Caught => vec![self.at(this, At::Off), self.at(this, At::Parked)],
            At::Starting(target) => {
                let mut next = self.at(this, At::Host);
                if self.cpus[target].at == At::Off {
                    next.cpus[target].at = At::Arriving;
                } else {
                    // Firmware: ALREADY_ON. The claim goes; what the target has said of itself stands.
                    next.cpus[target].claimed = false;
                }
                vec![next]
            }
            At::Returning => {
                if let Err(error) = real.control.come_back(me.life.is_left()) {
                    assert_eq!(error, Error::Busy);
                    return vec![self.at(this, At::Native)];
                }
                life.begin();
                assert_eq!(life.go_live(), Ok(()));
                let mut next = self.take(this, &real).at(this, At::Host);
                next.cpus[this].on = true;
                vec![next]
            }
            At::Leaver(Leaver::Over(end)) => match end {
                Ok(_) => vec![self.at(this, At::Native)],
                Err(_) => vec![self.at(this, At::Host)],
            },
            // One of them always wants the registers only. The others do their SOFT_RESTART, whatever has come of it.
            At::Stopper(Leaver::Over(_)) if this == 0 => vec![self.at(this, At::Host)],
            At::Stopper(Leaver::Over(_)) => vec![self.at(this, At::Trapped(Call::SoftRestart))],
            At::Leaver(Leaver::Overtaken) | At::Stopper(Leaver::Overtaken) => {
                vec![self.at(this, At::Held { window: false })]
            }
            At::Leaver(leaver) => self.lead(this, leaver, if this == 0 { Verdict::LeaveOpen } else { Verdict::Leave }),
            At::Stopper(leaver) => self.lead(this, leaver, if this == 0 { Verdict::Stop } else { Verdict::Off }),
        }
    }

    /// A step of the leader. One CPU always calls LEAVE by the doorbell.
    fn lead(self, this: usize, leaver: Leaver, verdict: Verdict) -> Vec<Self> {
        let step = |patient| {
            let real = self.real(patient);
            let world = World { control: &real.control, cpus: &real, room: &real, verdict };
            let next = leaver.step(this, &real.lives[this], false, &world);
            match (leaver, next) {
                (Leaver::Judge(..), Leaver::Release(_, count)) if !verdict.stops() => self.all_are_held(this, count),
                // Once there is a verdict it is for whom it may concern.
                (Leaver::Look { round, .. }, Leaver::Show(_, Ok(count)))
                    if patient && real.control.is_under_way(round) =>
                {
                    self.all_are_held(this, count);
                }
                // By then each has followed it.
                (Leaver::Release(round, _), Leaver::End(..)) if patient && real.control.is_under_way(round) => {
                    assert!(!self.cpus.iter().any(Cpu::is_held), "{self:?}");
                }
                _ => {}
            }
            self.take(this, &real).at(this, if verdict.stops() { At::Stopper(next) } else { At::Leaver(next) })
        };
        vec![step(true), step(false)]
    }

    /// A CPU's registers are kept: in a stop, by itself, while nobody takes it for one that is held.
    fn keeps(&self, this: usize) {
        let control = Control::from_word(self.control);
        assert!(control.under_way().is_some_and(|it| it.verdict.stops()), "{self:?}");
        assert!(!self.cpus[this].is_held(), "{self:?}");
    }

    /// The same for a CPU that runs the host.
    fn host_steps(self, this: usize) -> Vec<Self> {
        match self.cpus[this].at {
            // Without stage 2 the host does nothing but fault.
            At::Host if self.hidden => vec![self.at(this, At::Trapped(Call::Fault))],
            At::Window if self.hidden => vec![self.fault(this, true)],
            At::Host => {
                let others = (0..CPUS).filter(|&cpu| cpu != this).map(Call::CpuOn);
                let mut calls = vec![];
                if !self.stops || this == 1 {
                    calls.push(Call::Leave);
                }
                match (self.stops, self.mortal) {
                    (false, false) => {
                        calls.extend([Call::SoftRestart, Call::ResetVectors, Call::Lock, Call::CpuOff]);
                        calls.extend(others);
                    }
                    (false, true) => calls.push(Call::SoftRestart),
                    // Fewer of the others, so that there are not too many states.
                    (true, false) => {
                        calls.extend([Call::Crash, Call::CpuOff]);
                        calls.extend(others.filter(|_| this == 0));
                    }
                    (true, true) => calls.push(Call::Crash),
                }
                calls.into_iter().map(|call| self.at(this, At::Trapped(call))).collect()
            }
            At::Window => vec![self.at(this, At::Host)],
            At::Native => {
                let mut next = vec![self.at(this, At::Returning), self.at(this, At::Off)];
                // CPU_ON goes to firmware, and the target comes up without Exeunt.
                next.extend(
                    (0..CPUS)
                        .filter(|&cpu| self.cpus[cpu].at == At::Off && !self.cpus[cpu].claimed)
                        .map(|cpu| self.at(cpu, At::Native)),
                );
                next
            }
            _ => vec![],
        }
    }

    fn answer(self, this: usize, call: Call) -> Vec<Self> {
        let real = self.real(true);
        let back = self.at(this, At::Host);
        match call {
            Call::Fault => vec![self.fault(this, false)],
            Call::Leave => vec![self.at(this, At::Leaver(Leaver::Begin))],
            Call::Crash => vec![self.at(this, At::Stopper(Leaver::Begin))],
            Call::ResetVectors => match real.control.set_out() {
                Ok(()) => vec![self.begin_to_go(this, &real)],
                Err(_) => vec![back],
            },
            Call::SoftRestart => match real.control.restart(Restart::Crash) {
                Ok(Policy::Leave) => vec![self.begin_to_go(this, &real)],
                Ok(Policy::Resident) | Err(_) => vec![back],
            },
            Call::Lock => {
                let _ = real.control.lock();
                vec![back.take(this, &real)]
            }
            Call::CpuOff => {
                let mut next = self.at(this, At::GoingOff);
                next.cpus[this].on = false;
                vec![next]
            }
            Call::CpuOn(target) => {
                let cpu = self.cpus[target];
                // Of a CPU that was left firmware says whether it is off.
                let went_off = cpu.life.is_left() && cpu.at == At::Off;
                if cpu.claimed || (cpu.on && !went_off) {
                    return vec![back];
                }
                let mut next = self.at(this, At::Starting(target));
                (next.cpus[target].on, next.cpus[target].claimed) = (false, true);
                next.starts = true;
                vec![next]
            }
        }
    }

    /// A fault on a stage 2 that was away, of a host in virtual EL2 or not.
    fn fault(self, this: usize, window: bool) -> Self {
        let real = self.real(true);
        if real.control.is_leaving() {
            return self.at(this, At::Held { window });
        }
        // The LEAVE is over. If stage 2 is not back, its leaver was taken for dead before it took it away.
        real.show();
        self.take(this, &real).at(this, if window { At::Window } else { At::Host })
    }

    fn begin_to_go(self, this: usize, real: &Real) -> Self {
        assert_eq!(real.lives[this].begin_leave(), Ok(()));
        real.lives[this].set_out();
        self.take(this, real).at(this, At::Going)
    }

    fn gone(self, this: usize) -> Self {
        let next = self.at(this, At::Native);
        let real = next.real(true);
        assert_eq!(real.lives[this].leave(false), Ok(()));
        next.take(this, &real)
    }

    /// When a LEAVE is about to succeed nobody is left behind: what the count says, and what it is for.
    fn all_are_held(&self, leaver: usize, count: u16) {
        let held = self.cpus.iter().filter(|cpu| cpu.is_held() && !cpu.refused).count();
        let refused = self.cpus.iter().filter(|cpu| cpu.refused).count();
        assert!((held + 1..=held + 1 + refused).contains(&usize::from(count)), "{count} of {self:?}");
        for (number, cpu) in self.cpus.iter().enumerate() {
            let gone = matches!(cpu.at, At::Off | At::GoingOff | At::Caught | At::Parked);
            let elsewhere = cpu.life.is_left() || gone || matches!(cpu.at, At::Native | At::Returning);
            assert!(number == leaver || cpu.is_held() || elsewhere || cpu.refused, "{self:?}");
        }
    }

    fn check(&self) {
        let control = Control::from_word(self.control);
        let leaders = self.cpus.iter().filter(|cpu| cpu.at.leads() == Some(Round::new(0))).count();
        assert_eq!(usize::from(control.is_leaving()), leaders, "{self:?}");
        for cpu in self.living() {
            match cpu.at {
                At::Host | At::Window => assert_eq!(cpu.life, State::Live, "{self:?}"),
                // `Live`: came up natively, after it had gone off under Exeunt.
                At::Native => assert_ne!(cpu.life, State::Leaving, "{self:?}"),
                _ => {}
            }
        }
        for cpu in &self.cpus {
            assert!(!(control.is_locked() && cpu.at == At::Going), "{self:?}");
        }
        // Who has left is counted, once.
        let is_outside = |cpu: &&Cpu| cpu.life.is_left() || matches!(cpu.at, At::Going | At::Leaver(Leaver::Depart(_)));
        for cpu in &self.cpus {
            assert_eq!(cpu.out, matches!(cpu.at, At::Going | At::Leaver(Leaver::Depart(_))), "{self:?}");
        }
        let outside = self.cpus.iter().filter(is_outside).count();
        assert_eq!(usize::from(control.outside()), outside, "{self:?}");
        if control.is_locked() {
            assert_eq!(outside, 0, "{self:?}");
        }
    }

    /// Nobody waits, and the host can run wherever it is under Exeunt.
    fn is_at_rest(&self) -> bool {
        let runs = |cpu: &Cpu| matches!(cpu.at, At::Host | At::Window);
        let kept = self.hidden || Control::from_word(self.control).is_leaving();
        self.living().all(|cpu| !cpu.at.is_in_el2()) && !(kept && self.living().any(runs))
    }

    fn living(&self) -> impl Iterator<Item = &Cpu> {
        self.cpus.iter().enumerate().filter(|&(number, _)| self.dead != Some(number)).map(|(_, cpu)| cpu)
    }
}

/// A quick hash: the states are many, and nobody chooses them to be slow.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_usize(value.cast_unsigned());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Explores from `start`; gives the number of states.
fn explore(start: Machine) -> usize {
    let mut numbers = HashMap::with_hasher(BuildHasherDefault::<Quick>::default());
    numbers.insert(start, 0);
    let mut machines = vec![start];
    // From where each was reached first, and all steps, from and to.
    let mut before = vec![0];
    let mut steps = vec![];
    let mut number = 0;
    while let Some(&machine) = machines.get(number) {
        if let Err(panic) = std::panic::catch_unwind(|| machine.check()) {
            print_way(&machines, &before, number);
            std::panic::resume_unwind(panic);
        }
        for next in (0..CPUS).flat_map(|this| machine.next(this)) {
            let target = *numbers.entry(next).or_insert_with(|| {
                machines.push(next);
                before.push(number);
                machines.len() - 1
            });
            steps.push((target as u32, number as u32));
        }
        number += 1;
    }
    drop(numbers);
    // From every state there is a way to rest.
    steps.sort_unstable();
    let mut ends: Vec<usize> = (0..machines.len()).filter(|&number| machines[number].is_at_rest()).collect();
    let mut reached = vec![false; machines.len()];
    while let Some(number) = ends.pop() {
        if !core::mem::replace(&mut reached[number], true) {
            let first = steps.partition_point(|&(target, _)| (target as usize) < number);
            let sources = steps[first..].iter().take_while(|&&(target, _)| target as usize == number);
            ends.extend(sources.map(|&(_, source)| source as usize).filter(|&source| !reached[source]));
        }
    }
    if let Some(stuck) = reached.iter().position(|reached| !reached) {
        print_way(&machines, &before, stuck);
        panic!("no way on from {:?}", machines[stuck]);
    }
    machines.len()
}

/// Prints how a state was reached, from the end.
fn print_way(machines: &[Machine], before: &[usize], mut number: usize) {
    while number != 0 {
        eprintln!("{:?}", machines[number]);
        number = before[number];
    }
}

const OFF: Cpu =
    Cpu { at: At::Off, life: State::Outside, held_for: None, out: false, on: false, claimed: false, refused: false };

const RUNNING: Cpu = Cpu { at: At::Host, life: State::Live, on: true, ..OFF };

fn machine(cpus: [Cpu; CPUS], mortal: bool) -> Machine {
    let control = Control::new(Policy::Leave, Policy::Leave).word();
    Machine { cpus, control, hidden: false, starts: false, dead: None, mortal, stops: false, fails: false }
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of states")]
fn every_order_of_steps_of_three_cpus_is_defined() {
    for cpus in [[RUNNING; CPUS], [RUNNING, RUNNING, OFF], [RUNNING, OFF, OFF]] {
        let states = explore(machine(cpus, false));
        assert!(states > 10_000, "{states}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of states")]
fn whoever_dies_at_el2_keeps_nobody_waiting() {
    let states = explore(machine([RUNNING; CPUS], true));
    assert!(states > 10_000, "{states}");
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of states")]
fn every_order_of_steps_with_stops_is_defined() {
    let states = explore(Machine { stops: true, ..machine([RUNNING, RUNNING, OFF], false) });
    assert!(states > 10_000, "{states}");
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of states")]
fn whoever_dies_in_a_stop_keeps_nobody_waiting() {
    let states = explore(Machine { stops: true, ..machine([RUNNING; CPUS], true) });
    assert!(states > 10_000, "{states}");
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of states")]
fn wherever_exeunt_dies_nobody_waits_and_who_is_outside_is_counted() {
    for stops in [false, true] {
        let states = explore(Machine { stops, fails: true, ..machine([RUNNING, RUNNING, OFF], true) });
        assert!(states > 10_000, "{states}");
    }
}

#[test]
fn a_leave_alone_takes_these_steps() {
    let mut machine = machine([RUNNING, OFF, OFF], false);
    let mut seen = vec![];
    machine = machine.at(0, At::Leaver(Leaver::Begin));
    while let At::Leaver(leaver) = machine.cpus[0].at {
        seen.push(leaver);
        machine.check();
        machine = machine.steps(0)[0];
    }
    let round = Round::new(0);
    assert_eq!(
        seen,
        [
            Leaver::Begin,
            Leaver::Announce,
            Leaver::Hide(round),
            Leaver::Catch(round),
            Leaver::Look { round, cpu: 0, held: 1 },
            Leaver::Look { round, cpu: 1, held: 1 },
            Leaver::Look { round, cpu: 2, held: 1 },
            Leaver::Look { round, cpu: 3, held: 1 },
            Leaver::Show(round, Ok(1)),
            Leaver::Judge(round, 1),
            Leaver::Release(round, 1),
            Leaver::End(round, Ok(1)),
            Leaver::Depart(1),
            Leaver::Over(Ok(1))
        ]
    );
    assert_eq!((machine.cpus[0].at, machine.cpus[0].life), (At::Native, State::Stub));
}
