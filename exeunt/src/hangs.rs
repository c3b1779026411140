//! PANIC: how another CPU is made to come to EL2, for its host to panic there; and CRASH_KERNEL.
//!
//! Owns the steps of the image's side; what is decided in them is `hypervisor::panic_request`'s. The target finds that
//! it is meant where it is held ([`leaving`]), and takes the exception by [`Trap::panic`].

use guest_abi::vendor::Error;
use hypervisor::own_calls::Answer;
use hypervisor::panic_request::{Asker, Request, Targets, World};
use hypervisor::trap;
use log::warn;

use crate::cpu::PerCpu;
use crate::crash::{self, Ending};
use crate::leaving::{self, All, Stage2};
use crate::resident::FAST;
use crate::trap::Trap;

/// PANIC, by an HVC.
#[cold]
#[inline(never)]
pub fn call(trap: &mut Trap, target: u16) {
    let asked = ask(trap, target);
    let answer = match asked {
        Ok(_) => Answer::done(),
        Err(error) => Answer::error(error),
    };
    answer.apply(trap.frame.arguments());
    if asked == Ok(Target::Here) {
        trap.panic_here();
    }
}

/// CRASH_KERNEL, by an HVC.
#[cold]
#[inline(never)]
pub fn crash_kernel(trap: &mut Trap) {
    match crash::start_kernel(trap) {
        Ending::Begins => {}
        Ending::Refused(error) => Answer::error(error).apply(trap.frame.arguments()),
        Ending::Overtaken => leaving::wait_for_leave(trap),
    }
}

/// Of whom a PANIC was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Of this CPU, once the call has been answered: [`Trap::panic_here`].
    Here,
    /// Of another one, which has taken it.
    Elsewhere,
}

/// Has the host panic on the CPU with this number, unless it is this one.
#[cold]
#[inline(never)]
pub fn ask(trap: &mut Trap, target: u16) -> Result<Target, Error> {
    let (cpu, machine, target) = (trap.cpu, trap.machine, usize::from(target));
    if target == cpu.index() {
        return trap.can_panic().map(|()| Target::Here);
    }
    let (cpus, room) = (All(machine), Stage2::of(machine));
    let world = World { control: &FAST.control, cpus: &cpus, room: &room };
    let mut asker = Asker::Begin;
    loop {
        asker = asker.step(target, &world);
        if let Asker::Over(end) = asker {
            if let Err(error) = end {
                trap::limited(machine, || warn!("PANIC of CPU {target}: {}", error.name()));
            }
            return end.map(|()| Target::Elsewhere);
        }
    }
}

impl Targets for All {
    fn request(&self, cpu: usize) -> Option<&Request> {
        self.0.cpu(cpu).map(|cpu| &cpu.panic_request)
    }

    fn in_window(&self, cpu: usize) -> bool {
        self.0.cpu(cpu).is_some_and(PerCpu::in_window)
    }
}
