//! All orders of the steps by which CPUs leave, are made to leave, come back, go off and come up.
//!
//! Owns a model of the machine in which three CPUs may at any moment begin anything that concerns the life cycle. A
//! state of it is a value; every step builds the shared structures anew from that value, runs the real code of one
//! step, and reads them back. The search meets every state that can be reached, checks what must be true in each, and
//! that from each there is a way to a machine at rest: nobody waits for ever.
//!
//! Sequentially consistent; the orderings are argued where they stand.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};

use super::*;
use crate::own_calls::control::Restart;
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
    /// In EL2: comes with something, and has not looked whether a LEAVE is under way.
    Trapped(Call),
    /// In EL2: held, from the host or from virtual EL2.
    Held { window: bool },
    /// In EL2: RESET_VECTORS, or a SOFT_RESTART with policy `leave`, granted; about to leave.
    GoingAlone,
    /// In EL2: CPU_OFF, before firmware is asked.
    GoingOff,
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
    Lock,
    CpuOff,
    CpuOn(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Cpu {
    at: At,
    life: State,
    /// The two bits of the PSCI proxy ([`crate::psci::cpus`]).
    on: bool,
    claimed: bool,
    /// Firmware has refused its CPU_OFF during the LEAVE that is under way: it may have been looked at as off.
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Machine {
    cpus: [Cpu; CPUS],
    control: u32,
    verdict: u8,
    hidden: bool,
    /// A CPU_ON got as far as firmware since the leaver began to look.
    starts: bool,
}

impl Cpu {
    /// Held, or about to be because its own LEAVE came second.
    fn is_held(&self) -> bool {
        matches!(self.at, At::Held { window: false } | At::Leaver(Leaver::Announce | Leaver::Overtaken))
    }
}

/// The shared structures, made of a state.
struct Real {
    lives: [LifeCycle; CPUS],
    on: [bool; CPUS],
    claimed: [bool; CPUS],
    control: Control,
    stop: WorldStop,
    hidden: Cell<bool>,
    starts: Cell<bool>,
    /// Whether the leaver's patience has ended.
    patient: bool,
}

impl Cpus for Real {
    fn count(&self) -> usize {
        CPUS
    }
    fn life(&self, cpu: usize) -> State {
        self.lives[cpu].state()
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
        assert!(!self.hidden.replace(true), "one LEAVE at a time");
    }
    fn show(&self) {
        assert!(self.hidden.replace(false));
    }
    fn wait(&self) -> bool {
        self.patient
    }
}

impl Machine {
    fn real(&self, patient: bool) -> Real {
        Real {
            lives: self.cpus.map(|cpu| LifeCycle::in_state(cpu.life)),
            on: self.cpus.map(|cpu| cpu.on),
            claimed: self.cpus.map(|cpu| cpu.claimed),
            control: Control::from_word(self.control),
            stop: WorldStop(AtomicU8::new(self.verdict)),
            hidden: Cell::new(self.hidden),
            starts: Cell::new(self.starts),
            patient,
        }
    }

    /// Takes back what a step has changed. The lives of other CPUs than `this` cannot have changed.
    fn take(mut self, this: usize, real: &Real) -> Self {
        for cpu in 0..CPUS {
            let life = real.lives[cpu].state();
            assert!(cpu == this || life == self.cpus[cpu].life, "only its own CPU changes a life");
            self.cpus[cpu].life = life;
        }
        self.control = real.control.word();
        self.verdict = real.stop.0.load(Ordering::Relaxed);
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

    /// Every state that CPU `this` can bring about with one step.
    fn steps(self, this: usize) -> Vec<Self> {
        let me = self.cpus[this];
        let real = self.real(true);
        let life = &real.lives[this];
        match me.at {
            At::Off => vec![],
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
            // Without stage 2 the host does nothing but fault.
            At::Host if self.hidden => vec![self.at(this, At::Trapped(Call::Fault))],
            At::Window if self.hidden => vec![self.hold(this, true)],
            At::Host => {
                let mut calls = vec![Call::Leave, Call::ResetVectors, Call::SoftRestart, Call::Lock, Call::CpuOff];
                calls.extend((0..CPUS).filter(|&cpu| cpu != this).map(Call::CpuOn));
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
            At::Trapped(call) => {
                if real.control.is_leaving() {
                    return vec![self.hold(this, false)];
                }
                self.answer(this, call)
            }
            At::Held { window } => match held(life, &real.control, &real.stop, !window) {
                Fate::Wait => vec![],
                Fate::Stay => {
                    vec![self.take(this, &real).at(this, if window { At::Window } else { At::Host })]
                }
                Fate::Leave => {
                    assert!(!window, "virtual EL2 cannot be left");
                    vec![self.take(this, &real).gone(this)]
                }
            },
            At::GoingAlone => vec![self.gone(this)],
            At::GoingOff => {
                let mut denied = self.at(this, At::Host);
                denied.cpus[this].on = true;
                denied.cpus[this].refused = real.control.is_leaving();
                vec![self.at(this, At::Off), denied]
            }
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
            At::Leaver(Leaver::Overtaken) => vec![self.at(this, At::Held { window: false })],
            At::Leaver(leaver) => [true, false]
                .into_iter()
                .map(|patient| {
                    let real = self.real(patient);
                    let world = World { control: &real.control, stop: &real.stop, cpus: &real, room: &real };
                    let next = leaver.step(this, &real.lives[this], false, &world);
                    if let Leaver::Show(Ok(count)) = next {
                        self.all_are_held(this, count);
                    }
                    self.take(this, &real).at(this, At::Leaver(next))
                })
                .collect(),
        }
    }

    fn answer(self, this: usize, call: Call) -> Vec<Self> {
        let real = self.real(true);
        let back = self.at(this, At::Host);
        match call {
            // Stage 2 is back, and the LEAVE over.
            Call::Fault => vec![back],
            Call::Leave => vec![self.at(this, At::Leaver(Leaver::Begin))],
            Call::ResetVectors => match real.control.set_out() {
                Ok(()) => vec![self.take(this, &real).at(this, At::GoingAlone)],
                Err(_) => vec![back],
            },
            Call::SoftRestart => match real.control.restart(Restart::Crash) {
                Ok(Policy::Leave) => vec![self.take(this, &real).at(this, At::GoingAlone)],
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

    /// A CPU finds that a LEAVE is under way.
    fn hold(self, this: usize, window: bool) -> Self {
        let real = self.real(true);
        if !real.control.is_leaving() {
            // The fault came from a stage 2 that was back before the CPU looked.
            return self;
        }
        assert!(hold(&real.lives[this], &real.stop, !window), "a CPU in the host is Live");
        self.take(this, &real).at(this, At::Held { window })
    }

    fn gone(self, this: usize) -> Self {
        let mut next = self.at(this, At::Native);
        if next.cpus[this].life == State::Live {
            next.cpus[this].life = State::Leaving;
        }
        let real = next.real(true);
        assert_eq!(real.lives[this].leave(false), Ok(()));
        next.take(this, &real)
    }

    /// When a LEAVE is about to succeed nobody is left behind: what the count says, and what it is for.
    fn all_are_held(&self, leaver: usize, count: u16) {
        let held = self.cpus.iter().filter(|cpu| cpu.is_held() && !cpu.refused).count();
        let refused = self.cpus.iter().filter(|cpu| cpu.is_held() && cpu.refused).count();
        assert!((held + 1..=held + 1 + refused).contains(&usize::from(count)), "{count} of {self:?}");
        for (number, cpu) in self.cpus.iter().enumerate() {
            let elsewhere = cpu.life.is_left() || matches!(cpu.at, At::Off | At::Native | At::Returning | At::GoingOff);
            assert!(number == leaver || cpu.is_held() || elsewhere || cpu.refused, "{self:?}");
        }
    }

    fn check(&self) {
        let control = Control::from_word(self.control);
        let outside = |step| matches!(step, Leaver::Begin | Leaver::Announce | Leaver::Overtaken | Leaver::Over(_));
        let in_leave = |cpu: &Cpu| matches!(cpu.at, At::Leaver(step) if !outside(step));
        assert_eq!(control.is_leaving(), self.cpus.iter().any(in_leave), "{self:?}");
        assert!(!self.hidden || control.is_leaving());
        for cpu in &self.cpus {
            match cpu.at {
                At::Host | At::Window => assert_eq!(cpu.life, State::Live, "{self:?}"),
                // `Live`: came up natively, after it had gone off under Exeunt.
                At::Native => assert_ne!(cpu.life, State::Leaving, "{self:?}"),
                _ => {}
            }
            assert!(!(control.is_locked() && cpu.at == At::GoingAlone), "{self:?}");
        }
        // Who has left is counted, once.
        let left = self.cpus.iter().filter(|cpu| cpu.life.is_left() || cpu.at == At::GoingAlone).count();
        if !control.is_leaving() {
            assert_eq!(usize::from(control.outside()), left, "{self:?}");
        }
        if control.is_locked() {
            assert_eq!(left, 0, "{self:?}");
        }
    }

    fn is_at_rest(&self) -> bool {
        self.cpus.iter().all(|cpu| matches!(cpu.at, At::Off | At::Host | At::Window | At::Native))
    }
}

/// Explores from `start`; gives the number of states.
fn explore(start: Machine) -> usize {
    let mut numbers = HashMap::from([(start, 0)]);
    let mut machines = vec![start];
    let mut before: Vec<Vec<usize>> = vec![vec![]];
    let mut todo = VecDeque::from([0]);
    while let Some(number) = todo.pop_front() {
        let machine: Machine = machines[number];
        if let Err(panic) = std::panic::catch_unwind(|| machine.check()) {
            // The way there, from the end.
            let mut at = number;
            while at != 0 {
                eprintln!("{:?}", machines[at]);
                at = before[at][0];
            }
            std::panic::resume_unwind(panic);
        }
        for this in 0..CPUS {
            for next in machine.steps(this) {
                let target = *numbers.entry(next).or_insert_with(|| {
                    machines.push(next);
                    before.push(vec![]);
                    todo.push_back(machines.len() - 1);
                    machines.len() - 1
                });
                before[target].push(number);
            }
        }
    }
    // From every state there is a way to rest.
    let mut ends: Vec<usize> = (0..machines.len()).filter(|&number| machines[number].is_at_rest()).collect();
    let mut reached = vec![false; machines.len()];
    while let Some(number) = ends.pop() {
        if !core::mem::replace(&mut reached[number], true) {
            ends.extend(before[number].iter().filter(|&&earlier| !reached[earlier]));
        }
    }
    if let Some(stuck) = reached.iter().position(|reached| !reached) {
        panic!("no way on from {:?}", machines[stuck]);
    }
    machines.len()
}

const fn running() -> Cpu {
    Cpu { at: At::Host, life: State::Live, on: true, claimed: false, refused: false }
}

const fn off() -> Cpu {
    Cpu { at: At::Off, life: State::Outside, on: false, claimed: false, refused: false }
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of states")]
fn every_order_of_steps_of_three_cpus_is_defined() {
    for cpus in [[running(), running(), running()], [running(), running(), off()], [running(), off(), off()]] {
        let machine = Machine {
            cpus,
            control: Control::new(Policy::Leave, Policy::Leave).word(),
            verdict: 0,
            hidden: false,
            starts: false,
        };
        let states = explore(machine);
        assert!(states > 10_000, "{states}");
    }
}

#[test]
fn a_leave_alone_takes_these_steps() {
    let mut machine = Machine {
        cpus: [running(), off(), off()],
        control: Control::new(Policy::Leave, Policy::Leave).word(),
        verdict: 0,
        hidden: false,
        starts: false,
    };
    let mut seen = vec![];
    machine = machine.at(0, At::Leaver(Leaver::Begin));
    while let At::Leaver(leaver) = machine.cpus[0].at {
        seen.push(leaver);
        machine.check();
        machine = machine.steps(0)[0];
    }
    let end = Ok(1);
    assert_eq!(
        seen,
        [
            Leaver::Begin,
            Leaver::Announce,
            Leaver::Hide,
            Leaver::Catch,
            Leaver::Look { cpu: 0, held: 1 },
            Leaver::Look { cpu: 1, held: 1 },
            Leaver::Look { cpu: 2, held: 1 },
            Leaver::Look { cpu: 3, held: 1 },
            Leaver::Show(end),
            Leaver::Judge(end),
            Leaver::Release(end),
            Leaver::Clear(end),
            Leaver::Depart(end),
            Leaver::End(end),
            Leaver::Over(end)
        ]
    );
    assert_eq!((machine.cpus[0].at, machine.cpus[0].life), (At::Native, State::Stub));
}
