//! LEAVE by the doorbell, what a CPU is like then, and how it comes back.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use guest_abi::call::{self, WayBack};
use guest_abi::doorbell::{A0, DONE, GO, LEFT, MAGIC, MAILBOX, MAILBOX_BACK, Mailbox, OPEN, PRESENT, channel, seal};
use guest_abi::stub::{FINALISE_EL2, GET_ICH_VTR_EL2, RESET_VECTORS, SET_VECTORS, SOFT_RESTART, STUB_ERR};
use guest_abi::vendor::{self, Error};

use super::{load, make, region};
use crate::code::{Code, END};
use crate::conformance::stub;
use crate::cpu::{BTYPE, Context, DAIF, EL1H};
use crate::firmware::{self, AFFINITY_INFO, AFFINITY_OFF, AFFINITY_ON, PSCI_VERSION};
use crate::machine::{Gic, MAX_CPUS, machine};
use crate::random::Random;
use crate::{level, smp};

/// `hvc #0` and `smc #0`.
const HVC: u32 = 0xd400_0002;
const SMC: u32 = 0xd400_0003;
/// HCR_EL2.TSC.
const TSC: u64 = 1 << 19;
/// A number that no stub knows.
const UNKNOWN: u64 = 0x7f;

/// What happens in a round beside the usual.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    None,
    /// The last CPU sets vectors of its own when Exeunt has left.
    SetVectors,
    /// It restarts.
    SoftRestart,
    /// It comes back by REENTER.
    Reenter,
    /// It goes off, and is turned on when CPU 0 is back.
    Off,
    /// CPU 0 has installed vectors before, which EL2 would run.
    Installed,
}

const SPECIALS: [Special; 7] = [
    Special::None,
    Special::SetVectors,
    Special::SoftRestart,
    Special::Reenter,
    Special::Off,
    Special::Installed,
    Special::None,
];

static CODE: [Code<16>; MAX_CPUS] = [const { Code::new() }; MAX_CPUS];
/// The round, from 1 on.
static ROUND: AtomicUsize = AtomicUsize::new(0);
/// How many LEAVEs there were; rounds may be left out.
static LEAVES: AtomicU64 = AtomicU64::new(0);
static GONE: AtomicUsize = AtomicUsize::new(0);
/// What REENTER named.
static VECTORS: AtomicU64 = AtomicU64::new(0);
static NUMBER: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);

fn special() -> Special {
    SPECIALS[ROUND.load(Ordering::Acquire) - 1]
}

/// The CPU that does what is special.
fn special_cpu() -> usize {
    if special() == Special::Installed { 0 } else { smp::online() - 1 }
}

fn way() -> WayBack {
    WayBack { vectors: VECTORS.load(Ordering::Acquire), number: NUMBER.load(Ordering::Acquire) }
}

/// LEAVE, by a store. Gives x0 of the answer if there is one.
pub fn ask_to_leave() -> Option<u64> {
    let ticket = load(OPEN);
    let arguments = [vendor::LEAVE.into(), 0, 0, 0];
    for (index, argument) in (0..).zip(arguments) {
        super::store(channel(ticket) + A0 + 8 * index, argument);
    }
    super::store(channel(ticket) + GO, seal(ticket, arguments));
    (load(MAGIC) == PRESENT && load(channel(ticket) + DONE) == ticket).then(|| load(channel(ticket) + 0x30))
}

fn mailbox() -> u64 {
    region().base + load(MAILBOX)
}

/// What lies in the mailbox.
pub fn mail() -> Mailbox {
    let words = mailbox() as *const [u8; Mailbox::SIZE];
    // SAFETY: with Exeunt gone it is memory that anybody may read.
    Mailbox::from_bytes(&unsafe { words.read_volatile() })
}

pub fn ask_back(round: u64) {
    let place = (mailbox() + MAILBOX_BACK) as *mut u64;
    // SAFETY: with Exeunt gone it is memory that anybody may write.
    unsafe { place.write_volatile(round) };
    // SAFETY: barriers have no other effect. The stub reads with its MMU off.
    unsafe { asm!("dc cvac, {}", "dsb sy", in(reg) place, options(nostack, preserves_flags)) };
}

/// Executes one HVC or SMC with x0 and x1, and random values elsewhere, of which nothing may change but what the call
/// gives. Returns x0 and x1 after it.
fn one_call(cpu: usize, instruction: u32, x0: u64, x1: u64, random: &mut Random) -> [u64; 2] {
    let pc = CODE[cpu].write(0, &[instruction, END]);
    let mut context = Context::new(pc, EL1H | DAIF | random.below(16) << 28);
    for register in &mut context.x {
        *register = random.next();
    }
    for register in &mut context.q {
        *register = u128::from(random.next()) << 64 | u128::from(random.next());
    }
    context.sp_el0 = random.next();
    context.x[..2].copy_from_slice(&[x0, x1]);
    let before = context;
    // SAFETY: the instruction ends with a `brk`, and the call changes nothing but what it answers.
    unsafe { context.enter() };
    let what = if instruction == SMC { "SMC" } else { "HVC" };
    check!(context.ended_at(pc + 4), "CPU {cpu}: {what} {x0:#x}: ESR {:#x} at {:#x}", context.esr, context.pc);
    // What is x30 afterwards `enter` has not kept.
    let kept = context.x[2..30] == before.x[2..30] && context.q == before.q && context.sp_el0 == before.sp_el0;
    check!(kept, "CPU {cpu}: {what} {x0:#x} changes registers: {:x?}, were {:x?}", context.x, before.x);
    let (now, then) = (context.pstate & !BTYPE, before.pstate & !BTYPE);
    check!(now == then, "CPU {cpu}: {what} {x0:#x}: PSTATE {now:#x}, was {then:#x}");
    [context.x[0], context.x[1]]
}

/// The stub calls are answered as by the resident stub.
fn stub_calls(cpu: usize, random: &mut Random) {
    let mut gives = |x0: u64, x1: u64, wanted: u64| {
        let [first, second] = one_call(cpu, HVC, x0, x1, random);
        let known = first == wanted && (second == x1 || x0 == GET_ICH_VTR_EL2);
        check!(known, "CPU {cpu}: {x0:#x} with {x1:#x} gives {first:#x}, {second:#x}, and not {wanted:#x}");
    };
    gives(RESET_VECTORS, 5, 0);
    gives(FINALISE_EL2, 5, STUB_ERR);
    gives(UNKNOWN, 5, STUB_ERR);
    gives(stub::WHO, 5, STUB_ERR);
    gives(vendor::VERSION.into(), 5, STUB_ERR);
    gives(vendor::LEAVE.into(), 5, STUB_ERR);
    gives(GET_ICH_VTR_EL2, 5, if matches!(machine().gic, Some(Gic::V3 { .. })) { 0 } else { STUB_ERR });
    // Refused: misaligned, in the 2 MiB, and no RAM.
    gives(SET_VECTORS, stub::vectors() + 8, STUB_ERR);
    gives(SET_VECTORS, region().base, STUB_ERR);
    gives(SET_VECTORS, 0x0900_0000, STUB_ERR);
}

/// An SMC goes to firmware.
fn smc_works(cpu: usize, random: &mut Random) {
    let [version, _] = one_call(cpu, SMC, PSCI_VERSION, 7, random);
    check!(version >> 16 == 1, "CPU {cpu}: PSCI_VERSION {version:#x}");
    let [on, _] = one_call(cpu, SMC, AFFINITY_INFO[1], machine().mpidrs()[0], random);
    check!(on.cast_signed() == AFFINITY_ON, "CPU {cpu}: AFFINITY_INFO {on:#x}");
}

/// What the special CPU does when Exeunt has left and the mailbox wants it back. It comes back by REENTER.
fn be_special(cpu: usize, random: &mut Random) {
    match special() {
        Special::SetVectors => {
            let [set, _] = one_call(cpu, HVC, SET_VECTORS, stub::vectors(), random);
            check!(set == 0, "CPU {cpu}: SET_VECTORS {set:#x}");
        }
        Special::SoftRestart => {
            let (hcr, x0): (u64, u64);
            // SAFETY: the entry is here, and goes on at EL1 as if nothing had been.
            unsafe {
                asm!(
                    "adr x1, 2f", "hvc #0", "mov x9, #-1", "b 3f",
                    "2: mrs x9, hcr_el2", "adr x10, 3f", "msr elr_el2, x10", "mov x10, #0x3c5", "msr spsr_el2, x10",
                    "eret", "3:",
                    inout("x0") SOFT_RESTART => x0, out("x1") _, inout("x2") 77_u64 => _, inout("x3") 0_u64 => _,
                    inout("x4") 0_u64 => _, out("x9") hcr, out("x10") _, options(nostack)
                );
            }
            check!(hcr & TSC == 0 && x0 == 77, "CPU {cpu}: SOFT_RESTART: HCR_EL2 {hcr:#x}, x0 {x0:#x}");
        }
        Special::Reenter | Special::Installed => {}
        Special::Off => smp::go_off(),
        Special::None => unreachable!("nothing is special"),
    }
    if matches!(special(), Special::SetVectors | Special::Installed) {
        let [who, _] = one_call(cpu, HVC, stub::WHO, 0, random);
        check!(who == stub::OWN, "CPU {cpu}: other vectors than the host's answer: {who:#x}");
    }
    if special() != Special::Reenter {
        // Its EL2 has vectors now that know nothing of SMCs, or may have.
        smc_works(cpu, random);
        check!(load(MAGIC) == LEFT, "CPU {cpu} has come back though its vectors are its own");
    }
    // SAFETY: Exeunt has named the table, and nobody else lives at EL2.
    let back = unsafe { call::reenter(way()) };
    check!(back.is_ok(), "CPU {cpu}: REENTER: {back:?}");
}

fn round(cpu: usize) {
    let round = ROUND.load(Ordering::Acquire);
    let mut random = Random::new(SEED.load(Ordering::Relaxed) + (round * MAX_CPUS + cpu) as u64);
    let online = smp::online() as u64;
    let is_special = special() != Special::None && cpu == special_cpu();
    smp::barrier(1);
    if cpu == 0 {
        let refused = ask_to_leave();
        check!(refused.is_none(), "LEAVE by the doorbell: {refused:x?}");
        GONE.store(round, Ordering::Release);
    } else {
        while GONE.load(Ordering::Acquire) != round {
            core::hint::spin_loop();
        }
    }
    check!(load(MAGIC) == LEFT, "CPU {cpu}: MAGIC {:#x}", load(MAGIC));
    let Mailbox { round: number, back, cpus, .. } = mail();
    let leaves = LEAVES.load(Ordering::Acquire);
    let as_it_should = number == leaves && back == 0 && cpus == online;
    check!(as_it_should, "mailbox: round {number}, back {back}, {cpus} CPUs; it is {leaves} with {online}");
    let installed = is_special && special() == Special::Installed;
    if !installed {
        stub_calls(cpu, &mut random);
    }
    smc_works(cpu, &mut random);
    smp::barrier(2);
    if cpu == 0 {
        // Another round is no word.
        ask_back(leaves + 1);
    }
    smp::barrier(3);
    smc_works(cpu, &mut random);
    check!(load(MAGIC) == LEFT, "CPU {cpu} has come back for another round");
    smp::barrier(4);
    if cpu == 0 {
        ask_back(leaves);
    }
    smp::barrier(5);
    if !installed {
        stub_calls(cpu, &mut random);
    }
    if is_special {
        be_special(cpu, &mut random);
    } else {
        smc_works(cpu, &mut random);
    }
    check!(load(MAGIC) == PRESENT, "CPU {cpu} has not come back");
    // SAFETY: changes nothing.
    check!(unsafe { call::is_exeunt() }, "CPU {cpu}: Exeunt does not answer");
    smc_works(cpu, &mut random);
}

/// Runs all rounds.
pub fn run(random: &mut Random) {
    SEED.store(random.next() >> 1, Ordering::Relaxed);
    // Secondary CPUs that are entered at virtual EL2 have vectors of their own there, as under Linux.
    level::set_vectors(stub::vectors());
    let cpus = smp::start_all();
    // SAFETY: Exeunt is live.
    let way = unsafe { call::way_back() };
    check!(way.is_ok(), "REENTER: {way:?}");
    let Ok(way) = way else { return };
    VECTORS.store(way.vectors, Ordering::Release);
    NUMBER.store(way.number, Ordering::Release);
    for number in 1..=SPECIALS.len() {
        ROUND.store(number, Ordering::Release);
        match special() {
            Special::Off if cpus == 1 => continue,
            Special::Installed if level::entry_level() != 2 => continue,
            Special::Installed => {
                // SAFETY: the table works at EL2.
                let set = unsafe { call::set_vectors(stub::vectors()) };
                check!(set.is_ok(), "SET_VECTORS: {set:?}");
            }
            _ => {}
        }
        LEAVES.fetch_add(1, Ordering::AcqRel);
        GONE.store(0, Ordering::Release);
        smp::on_all(round);
        if special() == Special::Off {
            let mpidr = machine().mpidrs()[cpus - 1];
            let off = || firmware::psci(AFFINITY_INFO[1], [mpidr, 0, 0]) == AFFINITY_OFF;
            check!(smp::wait_for(off), "CPU {} is not off", cpus - 1);
            smp::start(cpus - 1);
        }
        smp::on_all(|cpu| {
            check!(load(MAGIC) == PRESENT, "CPU {cpu} is not under Exeunt");
        });
    }
    let locked = make("LOCK", [vendor::LOCK.into(), 0, 0, 0]);
    check!(locked[0] == 0, "LOCK: {locked:x?}");
    let refused = ask_to_leave();
    check!(refused == Some(Error::Locked.to_register()), "LEAVE after LOCK: {refused:x?}");
    println!("doorbell: left and came back on {cpus} CPUs");
}
