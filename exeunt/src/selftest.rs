//! Deliberate faults at EL2, so that tests (and the curious) see that the protection holds and what a panic says.
//!
//! Chosen by the option `selftest=`; each ends in a panic, and one that does not is reported as a failure of the
//! protection.

use core::arch::asm;
use core::hint::black_box;

use hypervisor::options::SelfTest;

use crate::memory;

/// Commits the fault that `which` names.
pub fn run(which: SelfTest) -> ! {
    log::info!("selftest {which:?}");
    match which {
        SelfTest::WriteText => store_to(run as fn(SelfTest) -> ! as usize),
        SelfTest::WriteRodata => store_to(CONSTANT.as_ptr().addr()),
        SelfTest::RunData => {
            let data = [0xd65f_03c0_u32; 4]; // ret
            let address = black_box(&data).as_ptr();
            // SAFETY: none is needed if stage 1 does what it should: the stack is never executable. If it does not, the
            // instruction is a return.
            unsafe { asm!("blr {}", in(reg) address, out("x30") _) };
        }
        SelfTest::StackOverflow => {
            let _ = black_box(overflow(0));
        }
        SelfTest::Panic => panic!("asked for by the option selftest"),
    }
    panic!("selftest {which:?}: no fault was taken; protection at EL2 does not work");
}

/// Something in read-only data.
static CONSTANT: [u64; 2] = [1, 2];

fn store_to(address: usize) {
    // SAFETY: none is needed if stage 1 does what it should: text and read-only data cannot be written. If it does not,
    // the word is put back as it was.
    unsafe {
        asm!("ldr {word:w}, [{address}]", "str {word:w}, [{address}]", address = in(reg) address, word = out(reg) _);
    }
}

/// Uses a little stack, and calls itself until there is none.
#[expect(unconditional_recursion, reason = "that is the point")]
fn overflow(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    overflow(depth + 1) + frame[(depth % 16) as usize] + memory::image_base()
}
