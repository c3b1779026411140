//! System registers of EL1 and EL0 that a call must leave alone.

use crate::random::Random;

/// How many there are.
pub const COUNT: usize = 27;

/// A system register that a call must leave alone.
struct Register {
    name: &'static str,
    read: fn() -> u64,
}

macro_rules! registers {
    ($($name:literal),+ $(,)?) => { [$(Register { name: $name, read: || read_register!($name) }),+] };
}

static REGISTERS: [Register; COUNT] = registers![
    "sctlr_el1",
    "actlr_el1",
    "cpacr_el1",
    "ttbr0_el1",
    "ttbr1_el1",
    "tcr_el1",
    "mair_el1",
    "amair_el1",
    "afsr0_el1",
    "afsr1_el1",
    "vbar_el1",
    "contextidr_el1",
    "tpidr_el0",
    "tpidr_el1",
    "par_el1",
    "csselr_el1",
    "cntkctl_el1",
    "cntv_cval_el0",
    "cntv_ctl_el0",
    "cntp_cval_el0",
    "cntp_ctl_el0",
    "mdscr_el1",
    "pmuserenr_el0",
    "pmcr_el0",
    "mpidr_el1",
    "midr_el1",
    "id_aa64pfr0_el1",
];

/// Gives those registers that nothing here depends on values that a mistake would change.
pub fn scatter(random: &mut Random) {
    write_register!("contextidr_el1", random.next() & 0xffff_ffff);
    write_register!("tpidr_el0", random.next());
    write_register!("cntv_cval_el0", random.next());
    write_register!("cntp_cval_el0", random.next());
    // PAR_EL1 after a walk of an address that is mapped.
    // SAFETY: an address translation has no effect but PAR_EL1.
    unsafe { core::arch::asm!("at s1e1r, {}", "isb", in(reg) &raw const REGISTERS, options(nostack)) };
}

/// Their values.
#[must_use]
pub fn read() -> [u64; COUNT] {
    core::array::from_fn(|index| (REGISTERS[index].read)())
}

/// The name of the first that is not the same in both.
#[must_use]
pub fn difference(before: &[u64; COUNT], after: &[u64; COUNT]) -> Option<&'static str> {
    (0..COUNT).find(|&number| before[number] != after[number]).map(|number| REGISTERS[number].name)
}
