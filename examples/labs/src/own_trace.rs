//! Lab 10: find your own calls in the black box.

use core::arch::naked_asm;

use guest_abi::RESERVATION;
use guest_abi::blackbox::{Header, SIZE};
use guests::machine::machine;
use guests::random::Random;
use guests::start::Start;
use guests::{println, read_register};

/// What the box says of the calls with a certain x0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// How many there were.
    pub count: usize,
    /// ELR_EL2 of the last one.
    pub pc: u64,
    /// What x0 was after it.
    pub answer: u64,
}

/// What you write.
pub struct Yours {
    /// Looks for HVCs with this x0 among the traced exits of CPU 0. `bytes` is the black box, which is at `start`.
    pub find: fn(bytes: &[u8], start: u64, x0: u64) -> Option<Found>,
}

/// Calls with the number in x0.
#[unsafe(naked)]
unsafe extern "C" fn call(x0: u64) -> u64 {
    naked_asm!("hvc #0", "ret")
}

/// Runs it.
pub fn run(_: &Start, yours: &Yours) {
    const MARKED: u64 = 0x1ab0_1ab0;
    const OTHER: u64 = 0x1ab0_1ab1;
    let Some(memory) = machine().reserved else { saw!("the device tree names no memory of Exeunt's") };
    let end = memory.base + RESERVATION;
    // Its core is at the very end, and says where the box begins: earlier, while exits are traced.
    // SAFETY: the host may read it.
    let core = unsafe { core::slice::from_raw_parts((end - SIZE as u64) as *const u8, SIZE) };
    let start = match Header::read(core) {
        Ok(header) => header.start,
        Err(why) => saw!("there is no black box at the end of Exeunt's memory: {why}"),
    };
    println!("lab: the black box is at {start:#x}, {} KiB", (end - start) >> 10);
    let mut random = Random::new(read_register!("cntvct_el0"));
    let count = 3 + (random.next() % 10) as usize;
    let mut answer = 0;
    for _ in 0..count {
        for _ in 0..random.next() % 4 {
            // SAFETY: no call has this number: it changes x0.
            unsafe { call(OTHER) };
        }
        // SAFETY: the same.
        answer = unsafe { call(MARKED) };
    }
    // SAFETY: the box may be read, and Exeunt writes to it only when this CPU is at EL2.
    let bytes = unsafe { core::slice::from_raw_parts(start as *const u8, (end - start) as usize) };
    let right = Found { count, pc: call as *const () as u64 + 4, answer };
    let yours = (yours.find)(bytes, start, MARKED);
    want!(yours == Some(right), "there were {count} calls with x0 = {MARKED:#x}, and you have found {yours:x?}");
    solved!("{count} calls found, the last at {:#x}, answered by {answer:#x}", right.pc)
}
