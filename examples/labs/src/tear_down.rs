//! Lab 6: tear Exeunt down, and prove it.

use guest_abi::call;
use guests::machine::machine;
use guests::start::Start;
use guests::{check, println, smp};

/// What you write.
pub struct Yours {
    /// Has Exeunt leave all CPUs, and gives how many it has left.
    pub tear_down: fn() -> Option<u64>,
    /// Loads from an address: what was there, or ESR_EL1 of the abort.
    pub load: fn(u64) -> Result<u64, u64>,
}

/// An offset in Exeunt's memory where nothing of the host's is: neither the doorbell nor the black box.
const INSIDE: u64 = 0x10_0000;
/// ESR_EL1: a data abort at EL1, external.
const CLASS: u64 = 0x25;
const EXTERNAL: u64 = 0x10;

fn is_gone(_: usize) {
    // SAFETY: at EL1, and the call changes nothing.
    check!(!unsafe { call::is_exeunt() }, "Exeunt still answers");
}

/// Runs it.
pub fn run(_: &Start, yours: &Yours) {
    let Some(memory) = machine().reserved else { saw!("the device tree names no memory of Exeunt's") };
    let cpus = smp::start_all();
    let inside = memory.base + INSIDE;
    match (yours.load)(inside) {
        Ok(value) => saw!("your load from {inside:#x} gives {value:#x}, while Exeunt is there: it must abort"),
        Err(esr) if esr >> 26 != CLASS || esr & 0x3f != EXTERNAL => {
            saw!("your load from {inside:#x} says ESR_EL1 {esr:#x}: that is not the external abort that Exeunt makes")
        }
        Err(esr) => println!("lab: before: no load from {inside:#x}, ESR_EL1 {esr:#x}"),
    }
    want!((yours.load)(machine().tree).is_ok(), "your load does not work where there is memory: {:#x}", machine().tree);
    let left = (yours.tear_down)();
    want!(left == Some(cpus as u64), "{cpus} CPUs are on, and tear_down() gives {left:?}");
    smp::on_all(is_gone);
    let (_, failures) = guests::report::totals();
    want!(failures == 0, "on {failures} of {cpus} CPUs Exeunt still answers");
    match (yours.load)(inside) {
        Ok(value) => println!("lab: after: {inside:#x} holds {value:#x}"),
        Err(esr) => saw!("your load from {inside:#x} still aborts, ESR_EL1 {esr:#x}"),
    }
    solved!("Exeunt has left {cpus} CPUs, and its memory is memory")
}
