//! Lab 4: a register that is yours.

use guests::code::Code;

use crate::mini::{self, Guest};

/// What the register holds at first.
pub const FIRST: u64 = 0x5eed;

/// What you write.
pub struct Yours {
    /// The bits of HCR_EL2 that make EL1's accesses to ACTLR_EL1 trap.
    pub hcr: u64,
    /// Answers one of them.
    pub handle: fn(&mut Guest),
}

/// `hvc #0`, and its class.
const HVC: u32 = 0xd4000002;
const CLASS_HVC: u64 = 0x16;

/// `mrs xN, actlr_el1`.
const fn read(register: u32) -> u32 {
    0xd5381020 | register
}

/// `msr actlr_el1, xN`.
const fn write(register: u32) -> u32 {
    0xd5181020 | register
}

static CODE: Code<8> = Code::new();

/// Runs it.
pub fn run(yours: &Yours) {
    mini::prepare(yours.hcr);
    let begin = CODE.write(0, &[read(3), read(30), read(31), write(5), read(17), write(31), read(9), HVC]);
    let mut guest = Guest::at(begin);
    guest.x[5] = 0x1234_5678_9abc_def0;
    let mut traps = 0;
    loop {
        // SAFETY: a few instructions without effect on memory.
        unsafe { guest.enter() };
        if guest.class() == CLASS_HVC {
            break;
        }
        let at = guest.elr.wrapping_sub(begin) / 4;
        traps += 1;
        want!(traps <= 7, "the guest traps again and again at instruction {at}: does ELR_EL2 move on?");
        (yours.handle)(&mut guest);
    }
    want!(traps > 0, "no access has come to EL2: which bit of HCR_EL2 traps ACTLR_EL1?");
    want!(traps == 7, "{traps} of the 7 accesses have come to EL2: was one skipped?");
    let x = &guest.x;
    want!(x[3] == FIRST, "the first read, into x3, gave {:#x}, and not {FIRST:#x}", x[3]);
    want!(x[30] == FIRST, "the read into x30 gave {:#x}", x[30]);
    want!(x[17] == x[5], "after a write of {:#x} the read into x17 gave {:#x}", x[5], x[17]);
    want!(x[9] == 0, "after a write of xzr the read into x9 gave {:#x}: register 31 is xzr here", x[9]);
    want!(x[0] == 0 && x[1] == 0, "x0 and x1 are {:#x} and {:#x}, and nobody has asked for that", x[0], x[1]);
    solved!("EL1 has a register that the CPU does not have: 7 accesses, all answered")
}
