//! Lab 2: what a syndrome says.

use guests::code::Code;
use guests::println;
use guests::random::Random;

use crate::mini::{self, Guest, NO_BLOCK, NO_PAGE, NO_TABLE, READ_ONLY};

/// What an access that stage 2 has refused was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// ESR_EL2.EC.
    pub class: u8,
    /// Whether it was a store.
    pub is_write: bool,
    /// How many bytes: 1, 2, 4 or 8.
    pub bytes: u8,
    /// Which register was to be loaded or stored: 31 is xzr.
    pub register: u8,
    /// Whether the tables map the address, and do not allow the access: a permission fault. Else a translation fault.
    pub is_permission_fault: bool,
    /// The level of the walk at which it failed.
    pub level: u8,
}

/// What you write.
pub type Decode = fn(u64) -> Access;

/// LDR and STR (immediate, unsigned offset) by size: bytes, and the instruction with x1 as its base.
const SIZES: [(u8, u32); 4] = [(1, 0x39000020), (2, 0x79000020), (4, 0xb9000020), (8, 0xf9000020)];
/// Bit 22 of them: a load.
const LOAD: u32 = 1 << 22;
/// `hvc #0`.
const HVC: u32 = 0xd4000002;
const DATA_ABORT: u8 = 0x24;

static CODE: Code<2> = Code::new();

/// Runs it: 200 accesses of all kinds.
pub fn run(decode: Decode) {
    const ROUNDS: u64 = 200;
    mini::prepare(0);
    let mut random = Random::new(ROUNDS);
    for round in 0..ROUNDS {
        let (bytes, instruction) = SIZES[(random.next() % 4) as usize];
        let is_write = random.next() & 1 != 0;
        // x1 has the address.
        let register = match (random.next() % 32) as u8 {
            1 => 2,
            other => other,
        };
        let places = [(READ_ONLY, true, 3), (NO_PAGE, false, 3), (NO_BLOCK, false, 2), (NO_TABLE, false, 1)];
        let (address, is_permission_fault, level) = places[(random.next() % 4) as usize];
        // A load from the page that may be read is no fault.
        let is_write = is_write || is_permission_fault;
        let load = if is_write { 0 } else { LOAD };
        let mut guest = Guest::at(CODE.write(0, &[instruction | load | u32::from(register), HVC]));
        guest.x[1] = address;
        // SAFETY: the access faults, or does not get further than the HVC.
        unsafe { guest.enter() };
        let right = Access { class: DATA_ABORT, is_write, bytes, register, is_permission_fault, level };
        want!(guest.class() == u64::from(DATA_ABORT), "the frame's own access did not fault: ESR_EL2 {:#x}", guest.esr);
        let yours = decode(guest.esr);
        if yours != right {
            let what = if is_write { "store" } else { "load" };
            println!("lab: round {round}: a {what} of {bytes} bytes, register {register}, at {address:#x}");
            saw!("of ESR_EL2 {:#010x} you say {yours:?}", guest.esr);
        }
    }
    solved!("{ROUNDS} syndromes, all decoded")
}
