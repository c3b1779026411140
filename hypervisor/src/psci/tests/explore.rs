//! An explorer of interleavings: runs the proxy's own code on a few CPUs, one atomic access at a time, in every order.
//!
//! Owns the model of the machine: memory behind the proxy's atomics, firmware that turns CPUs on and off, and what is
//! true about each CPU and each call at any moment. Its scenarios and what must hold are beside it.
//!
//! # How
//!
//! A CPU is an ordinary function that makes PSCI calls. Every access to [`AtomicU64`] and every firmware call in it is
//! a step. To let a CPU do its next step, the explorer runs the function from its beginning, gives each step that the
//! CPU had done already the result from its log, does one step for real, and stops the function by unwinding at the
//! step after. So the state of a CPU is its log, the whole world is a value that can be cloned, compared and kept in a
//! set, and a search over worlds meets every order of steps without running any order twice.
//!
//! The model is sequentially consistent. That the orderings in the code suffice on a weaker machine is argued where
//! they stand; a test with real threads lets Miri look at that.

use core::sync::atomic::Ordering;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::super::{Environment, Firmware, HostEntry, PowerState, Psci};

/// An atomic word, each access to which is a step while a world is explored.
#[derive(Debug, Default)]
pub struct AtomicU64(core::sync::atomic::AtomicU64);

impl AtomicU64 {
    pub const fn new(value: u64) -> Self {
        Self(core::sync::atomic::AtomicU64::new(value))
    }

    /// Reads and perhaps writes the model's memory: `update` gives the new value. Returns the old one.
    fn access(&self, update: impl FnOnce(u64) -> u64) -> Option<u64> {
        let address = core::ptr::from_ref(self).addr();
        step(|world, _| {
            let cell = world.memory.entry(address).or_insert_with(|| self.0.load(Ordering::Relaxed));
            let old = *cell;
            *cell = update(old);
            Some(old)
        })
    }

    pub fn load(&self, order: Ordering) -> u64 {
        self.access(|old| old).unwrap_or_else(|| self.0.load(order))
    }

    pub fn store(&self, value: u64, order: Ordering) {
        if self.access(|_| value).is_none() {
            self.0.store(value, order);
        }
    }

    pub fn fetch_or(&self, mask: u64, order: Ordering) -> u64 {
        self.access(|old| old | mask).unwrap_or_else(|| self.0.fetch_or(mask, order))
    }

    pub fn fetch_and(&self, mask: u64, order: Ordering) -> u64 {
        self.access(|old| old & mask).unwrap_or_else(|| self.0.fetch_and(mask, order))
    }

    pub fn compare_exchange(&self, current: u64, new: u64, ok: Ordering, failed: Ordering) -> Result<u64, u64> {
        match self.access(|old| if old == current { new } else { old }) {
            Some(old) if old == current => Ok(old),
            Some(old) => Err(old),
            None => self.0.compare_exchange(current, new, ok, failed),
        }
    }
}

/// What a CPU of a scenario does, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// CPU_ON of this CPU. The entry is made of the caller and the number of the action, so that no two are the same.
    On(usize),
    /// CPU_ON, and firmware answers INTERNAL_FAILURE if it is asked.
    FailedOn(usize),
    /// CPU_OFF.
    Off,
    /// CPU_OFF, and firmware answers DENIED.
    DeniedOff,
    /// CPU_SUSPEND to a power-down state from which the CPU wakes at once, at its entry.
    Suspend,
    /// CPU_SUSPEND from which it returns, because an interrupt was pending.
    LightSuspend,
}

/// What firmware knows of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Power {
    Off,
    /// Started, for the host entry of the CPU_ON that started it.
    On {
        entry: Option<(u64, u64)>,
    },
}

/// A CPU_ON between its first and its last step, and what was true in the meantime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "observations, each made by itself")]
struct InFlight {
    target: usize,
    entry: (u64, u64),
    /// Firmware had the target on at some moment.
    seen_powered: bool,
    /// Firmware had it off at some moment, or the target was in a CPU_OFF.
    seen_not_surely_on: bool,
    /// Another CPU_ON for the target was in flight, or it was on its way to the host, or in a CPU_OFF.
    seen_contended: bool,
    /// As before, at a moment when the target was not running the host for sure.
    seen_pending: bool,
    /// Firmware is to fail.
    fails: bool,
    /// Firmware granted this very call.
    granted: bool,
}

/// A CPU, as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Cpu {
    /// Results of the steps done so far.
    log: Vec<u64>,
    /// Remarks made so far; they are made once, however often the function is run again.
    remarks: usize,
    power: Power,
    /// In the host: it has arrived since it was started.
    arrived: bool,
    /// In a CPU_OFF call.
    leaving: bool,
    call: Option<InFlight>,
    finished: bool,
}

/// The machine at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    memory: BTreeMap<usize, u64>,
    cpus: Vec<Cpu>,
}

/// The run of one CPU up to its next step.
struct Run {
    world: World,
    cpu: usize,
    /// Steps replayed or done in this run.
    position: usize,
    remarks: usize,
    /// The one real step was done.
    stepped: bool,
}

/// Unwinds a CPU's function.
enum Stop {
    /// Its next step belongs to another run.
    Paused,
    /// Firmware took its power.
    PoweredOff,
}

thread_local! {
    static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
}

/// One step of the CPU that runs: from its log, or for real. `None` outside of an exploration. `act` answers `None` if
/// the CPU cannot do it now.
fn step(act: impl FnOnce(&mut World, usize) -> Option<u64>) -> Option<u64> {
    let result = RUN.with_borrow_mut(|run| {
        let run = run.as_mut()?;
        let cpu = run.cpu;
        if let Some(&result) = run.world.cpus[cpu].log.get(run.position) {
            run.position += 1;
            return Some(Ok(result));
        }
        if run.stepped {
            return Some(Err(Stop::Paused));
        }
        let Some(result) = act(&mut run.world, cpu) else { return Some(Err(Stop::Paused)) };
        run.world.cpus[cpu].log.push(result);
        run.position += 1;
        run.stepped = true;
        run.world.observe();
        Some(Ok(result))
    })?;
    match result {
        Ok(result) => Some(result),
        Err(stop) => resume_unwind(Box::new(stop)),
    }
}

/// Notes something about the CPU that runs, at the moment of its last step.
fn remark(note: impl FnOnce(&mut World, usize)) {
    RUN.with_borrow_mut(|run| {
        let run = run.as_mut().expect("remarks are made in an exploration");
        run.remarks += 1;
        if run.remarks > run.world.cpus[run.cpu].remarks {
            run.world.cpus[run.cpu].remarks = run.remarks;
            note(&mut run.world, run.cpu);
            run.world.observe();
        }
    });
}

impl World {
    /// Brings the notes of all calls in flight up to date.
    fn observe(&mut self) {
        for caller in 0..self.cpus.len() {
            let Some(mut call) = self.cpus[caller].call else { continue };
            let others =
                |cpu: usize| cpu != caller && self.cpus[cpu].call.is_some_and(|other| other.target == call.target);
            let target = &self.cpus[call.target];
            let powered = target.power != Power::Off;
            let surely_on = powered && target.arrived && !target.leaving;
            let contended = (0..self.cpus.len()).any(others) || (powered && !target.arrived) || target.leaving;
            call.seen_powered |= powered;
            call.seen_not_surely_on |= !surely_on;
            call.seen_contended |= contended;
            call.seen_pending |= contended && !surely_on;
            self.cpus[caller].call = Some(call);
        }
    }
}

/// Firmware: the only judge of who is on.
pub struct Model;

const CPU_SUSPEND: u64 = 0xc400_0001;
const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const SUCCESS: u64 = 0;
pub const DENIED: u64 = 3_u64.wrapping_neg();
pub const ALREADY_ON: u64 = 4_u64.wrapping_neg();
pub const ON_PENDING: u64 = 5_u64.wrapping_neg();
pub const INTERNAL_FAILURE: u64 = 6_u64.wrapping_neg();
/// In a log: the call did not return.
const NEVER: u64 = 0x1234_5678;

/// The host's `power_state` values, which mean something to the model only.
const STATE_WAKES: u64 = 1 << 16 | 1;
const STATE_RETURNS: u64 = 1 << 16 | 2;
/// x4 of a CPU_OFF that the model denies; a register that PSCI does not look at.
const DENY: u64 = 77;

impl Firmware for Model {
    fn call(&self, registers: &mut [u64; 18]) {
        let arguments = *registers;
        let result = step(|world, caller| {
            Some(match arguments[0] {
                CPU_ON => {
                    assert_eq!(arguments[2], Machine.entry_point(), "every CPU starts in Exeunt");
                    let target = arguments[1] as usize;
                    assert_eq!(arguments[3], Machine.context(target));
                    let call = world.cpus[caller].call.as_mut().expect("CPU_ON is in flight");
                    let entry = call.entry;
                    if call.fails {
                        return Some(INTERNAL_FAILURE);
                    }
                    match world.cpus[target].power {
                        Power::Off => {
                            world.cpus[caller].call.as_mut().unwrap().granted = true;
                            world.cpus[target].power = Power::On { entry: Some(entry) };
                            world.cpus[target].arrived = false;
                            SUCCESS
                        }
                        Power::On { .. } if world.cpus[target].arrived => ALREADY_ON,
                        // Firmware's own view of a CPU that it has started ends with its first instruction.
                        Power::On { .. } => ON_PENDING,
                    }
                }
                CPU_OFF if arguments[4] == DENY => DENIED,
                CPU_OFF => {
                    world.cpus[caller].power = Power::Off;
                    world.cpus[caller].arrived = false;
                    world.cpus[caller].leaving = false;
                    NEVER
                }
                CPU_SUSPEND if arguments[1] == STATE_RETURNS => SUCCESS,
                CPU_SUSPEND => {
                    assert_eq!(arguments[2], Machine.entry_point(), "every CPU wakes in Exeunt");
                    assert_eq!(arguments[3], Machine.context(caller));
                    NEVER
                }
                other => panic!("{other:#x} is no call of these scenarios"),
            })
        });
        match result.expect("the model works in an exploration") {
            NEVER => resume_unwind(Box::new(Stop::PoweredOff)),
            result => registers[0] = result,
        }
    }
}

/// A machine whose RAM is everything above 2 MiB.
pub struct Machine;

impl Environment for Machine {
    fn entry_point(&self) -> u64 {
        0x1000
    }

    fn context(&self, cpu: usize) -> u64 {
        0x1_0000 + 0x100 * cpu as u64
    }

    fn is_host_ram(&self, address: u64) -> bool {
        address >= 0x20_0000
    }

    fn is_left(&self, _cpu: usize) -> bool {
        false
    }
}

/// The entry that an action gives, no two the same.
fn entry_of(cpu: usize, action: usize) -> (u64, u64) {
    let number = (cpu * 16 + action) as u64;
    (0x4000_0000 + number * 0x1000, 0xc0de_0000 + number)
}

/// Waits until firmware starts this CPU, arrives, and checks that it is to run what the successful CPU_ON wanted.
fn come_up(psci: &Psci, cpu: usize) {
    step(|world, cpu| match world.cpus[cpu].power {
        Power::Off => None,
        Power::On { .. } => Some(0),
    });
    let HostEntry { pc, x0 } = psci.arrive(cpu, false).expect("a CPU that was turned on has an entry");
    remark(|world, cpu| {
        let Power::On { entry } = world.cpus[cpu].power else { panic!("it runs, so it is on") };
        assert_eq!(entry, Some((pc, x0)), "CPU {cpu} got an entry that is not its own");
        world.cpus[cpu].arrived = true;
    });
}

fn act(psci: &Psci, cpu: usize, number: usize, action: Action) {
    let (pc, x0) = entry_of(cpu, number);
    let mut registers = [0; 18];
    match action {
        Action::On(target) | Action::FailedOn(target) => {
            registers[..4].copy_from_slice(&[CPU_ON, target as u64, pc, x0]);
            remark(|world, cpu| {
                world.cpus[cpu].call = Some(InFlight {
                    target,
                    entry: (pc, x0),
                    seen_powered: false,
                    seen_not_surely_on: false,
                    seen_contended: false,
                    seen_pending: false,
                    fails: matches!(action, Action::FailedOn(_)),
                    granted: false,
                });
            });
            psci.call(cpu, &mut registers, &Machine, &Model);
            remark(|world, cpu| {
                let call = world.cpus[cpu].call.take().expect("it was in flight");
                check_answer(&call, registers[0]);
            });
        }
        Action::Off | Action::DeniedOff => {
            registers[0] = CPU_OFF;
            registers[4] = if action == Action::DeniedOff { DENY } else { 0 };
            remark(|world, cpu| world.cpus[cpu].leaving = true);
            psci.call(cpu, &mut registers, &Machine, &Model);
            remark(|world, cpu| world.cpus[cpu].leaving = false);
            assert_eq!(registers[0], DENIED);
        }
        Action::Suspend | Action::LightSuspend => {
            let state = if action == Action::Suspend { STATE_WAKES } else { STATE_RETURNS };
            registers[..4].copy_from_slice(&[CPU_SUSPEND, state, pc, x0]);
            psci.call(cpu, &mut registers, &Machine, &Model);
            assert_eq!((action, registers[0]), (Action::LightSuspend, SUCCESS));
        }
    }
}

/// What a CPU_ON may answer, given what was true while it was in flight.
fn check_answer(call: &InFlight, answer: u64) {
    match answer {
        SUCCESS => assert!(call.granted, "success without firmware's: {call:?}"),
        ALREADY_ON => assert!(call.seen_powered, "ALREADY_ON for a CPU that was never on: {call:?}"),
        ON_PENDING => assert!(call.seen_pending, "ON_PENDING and nothing was: {call:?}"),
        INTERNAL_FAILURE => assert!(call.fails),
        other => panic!("{other:#x} is no answer to these calls"),
    }
    assert!(answer == SUCCESS || !call.granted, "firmware started the CPU, the caller heard {answer:#x}");
    if !call.seen_powered && !call.seen_contended {
        let expected = if call.fails { INTERNAL_FAILURE } else { SUCCESS };
        assert_eq!(answer, expected, "the CPU was off and nobody else wanted it: {call:?}");
    }
    if !call.seen_not_surely_on {
        assert_eq!(answer, ALREADY_ON, "the CPU ran the host all the time: {call:?}");
    }
}

/// What CPU number `cpu` does: `script`, with arrivals wherever it comes up.
fn run_cpu(psci: &Psci, cpu: usize, script: &[Action], starts_on: bool) -> Result<(), Stop> {
    if !starts_on {
        caught(|| come_up(psci, cpu))?;
    }
    for (number, &action) in script.iter().enumerate() {
        match caught(|| act(psci, cpu, number, action)) {
            Ok(()) => {}
            Err(Stop::PoweredOff) if action == Action::Suspend => caught(|| {
                let (pc, x0) = entry_of(cpu, number);
                assert_eq!(psci.arrive(cpu, false), Some(HostEntry { pc, x0 }), "woke up somewhere else");
            })?,
            Err(Stop::PoweredOff) => caught(|| come_up(psci, cpu))?,
            Err(paused) => return Err(paused),
        }
    }
    Ok(())
}

/// Catches a [`Stop`] and nothing else.
fn caught(f: impl FnOnce()) -> Result<(), Stop> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| match payload.downcast::<Stop>() {
        Ok(stop) => *stop,
        Err(failure) => resume_unwind(failure),
    })
}

/// How much was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Different states of the machine.
    pub worlds: usize,
    /// Those in which nothing more happens.
    pub ends: usize,
}

/// Runs the scripts, one for each CPU, in every order of steps. CPUs of which `on` says so run the host at the start.
/// Each end is checked against what firmware says, and every moment on the way by the checks above.
pub fn explore(scripts: &[&[Action]], on: &[bool]) -> Seen {
    let psci: Box<Psci> = Box::default();
    for (cpu, &on) in on.iter().enumerate() {
        psci.cpus[cpu].mpidr.store(cpu as u64, Ordering::Relaxed);
        if on {
            psci.cpus[cpu].boot();
        }
    }
    psci.count.store(scripts.len(), Ordering::Relaxed);

    let cpu = |&on: &bool| Cpu {
        log: Vec::new(),
        remarks: 0,
        power: if on { Power::On { entry: None } } else { Power::Off },
        arrived: on,
        leaving: false,
        call: None,
        finished: false,
    };
    let start = World { memory: BTreeMap::new(), cpus: on.iter().map(cpu).collect() };
    let mut seen = HashSet::from([start.clone()]);
    let mut open = vec![start];
    let mut ends = 0;
    while let Some(world) = open.pop() {
        let mut moved = false;
        for cpu in 0..scripts.len() {
            if world.cpus[cpu].finished {
                continue;
            }
            let run = Run { world: world.clone(), cpu, position: 0, remarks: 0, stepped: false };
            RUN.set(Some(run));
            let result = run_cpu(&psci, cpu, scripts[cpu], on[cpu]);
            let mut run = RUN.take().expect("it was set above");
            run.world.cpus[cpu].finished = result.is_ok();
            if run.stepped || run.world.cpus[cpu].finished {
                moved = true;
                if seen.insert(run.world.clone()) {
                    open.push(run.world);
                }
            }
        }
        if !moved {
            ends += 1;
            check_end(&psci, &world);
        }
    }
    Seen { worlds: seen.len(), ends }
}

/// Nothing moves any longer: what the proxy thinks of each CPU is what firmware knows.
fn check_end(psci: &Psci, world: &World) {
    for number in 0..world.cpus.len() {
        // Read through the model's memory: a run with nothing to replay and one step.
        let mut probe = world.clone();
        probe.cpus[number].log.clear();
        RUN.set(Some(Run { world: probe, cpu: number, position: 0, remarks: 0, stepped: false }));
        let state = psci.power_state(number);
        RUN.set(None);
        let expected = match world.cpus[number].power {
            Power::Off => PowerState::Off,
            Power::On { .. } => PowerState::On,
        };
        assert_eq!(state, expected, "CPU {number} at the end of {world:#?}");
        assert!(world.cpus[number].call.is_none(), "a call that never ended");
    }
}
