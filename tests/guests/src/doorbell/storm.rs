//! Accesses of every kind to random places, from all CPUs but the first, while that one makes calls.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use guest_abi::RESERVATION;
use guest_abi::doorbell::{BOX_START, CHANNEL, CHANNEL_SIZE, CHANNELS, MIRROR, OPEN, PRESENT};
use guest_abi::vendor;

use super::probes::{self, PROBES};
use super::{load, region, try_call};
use crate::random::Random;
use crate::smp;

/// Accesses that each CPU makes, and the seed.
static ACCESSES: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);
/// CPUs that are at it.
static BUSY: AtomicUsize = AtomicUsize::new(0);
static ANSWERED: AtomicU64 = AtomicU64::new(0);

/// A call whose answer is known, of many.
fn known(random: &mut Random) -> ([u64; 4], [u64; 4]) {
    let [a, b, c] = [random.next(), random.next(), random.next()];
    let unsupported = u64::MAX;
    match random.below(5) {
        0 => {
            let [_, x1, ..] = super::hvc([vendor::VERSION.into(), 0, 0, 0]);
            ([vendor::VERSION.into(), a, b, c], [vendor::ABI_VERSION.into(), x1, b, c])
        }
        1 => ([vendor::CALL_UID.into(), a, b, c], vendor::UID_REGISTERS.map(u64::from)),
        2 => ([vendor::FEATURES.into(), vendor::STATUS.into(), b, c], [0, 1, b, c]),
        3 => ([a & 0x3fff_ffff, a, b, c], [unsupported, a, b, c]),
        _ => ([0x8600_4580 | a & 0x7f, b, a, c], [unsupported, b, a, c]),
    }
}

fn place(random: &mut Random, box_offset: u64) -> u64 {
    match random.below(16) {
        0 => OPEN,
        1..8 => CHANNEL + (random.below(CHANNELS * CHANNEL_SIZE) & !7),
        8 => random.below(0x1000),
        9 => random.below(0x1000) & !7,
        10 => 0x1000 - random.below(32),
        11 => MIRROR + random.below(RESERVATION - box_offset),
        12 => MIRROR - random.below(32),
        // Across the edge to the RAM before.
        13 => 0_u64.wrapping_sub(random.below(8)),
        _ => random.below(RESERVATION - 64),
    }
}

fn storm(cpu: usize) {
    let mut random = Random::new(SEED.load(Ordering::Relaxed).wrapping_add(cpu as u64));
    let box_offset = load(BOX_START) - region().base;
    if cpu != 0 {
        probes::prepare(cpu);
        BUSY.fetch_add(1, Ordering::AcqRel);
        smp::barrier(1);
        let mut answered = 0;
        for _ in 0..ACCESSES.load(Ordering::Relaxed) {
            let number = random.below(PROBES.len() as u64) as usize;
            let offset = place(&mut random, box_offset);
            if random.below(16) == 0 {
                // One that keeps to the protocol, and may lose its channel at each step.
                let (arguments, wanted) = known(&mut random);
                let results = try_call(arguments);
                check!(results.is_none_or(|results| results == wanted), "{arguments:x?}: {results:x?}");
            }
            answered += u64::from(probes::access(cpu, number, offset, box_offset, &mut random));
        }
        ANSWERED.fetch_add(answered, Ordering::AcqRel);
        BUSY.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    smp::barrier(1);
    let (mut calls, mut begun_again) = (0_u64, 0_u64);
    while BUSY.load(Ordering::Acquire) != 0 {
        let (arguments, wanted) = known(&mut random);
        match try_call(arguments) {
            Some(results) => {
                calls += 1;
                check!(results == wanted, "{arguments:x?}: {results:x?}, not {wanted:x?}");
            }
            None => begun_again += 1,
        }
    }
    println!("doorbell: {calls} calls, {begun_again} begun again");
    check!(calls > 100, "{calls} calls");
}

/// Runs it, with `accesses` on each CPU but the first.
pub fn run(accesses: u64, seed: u64) {
    ACCESSES.store(accesses, Ordering::Relaxed);
    SEED.store(seed, Ordering::Relaxed);
    let cpus = smp::start_all();
    check!(cpus > 1, "one CPU makes no storm");
    smp::on_all(storm);
    let (answered, all) = (ANSWERED.load(Ordering::Relaxed), accesses * (cpus as u64 - 1));
    println!("doorbell: {all} accesses from {} CPUs, {answered} answered", cpus - 1);
    check!(answered > all / 50 && answered < all, "{answered} of {all} answered");
    smp::on_all(|cpu| {
        let magic = load(guest_abi::doorbell::MAGIC);
        check!(magic == PRESENT, "CPU {cpu}: {magic:#x}");
        // SAFETY: changes nothing.
        check!(unsafe { guest_abi::call::is_exeunt() }, "CPU {cpu}: Exeunt does not answer");
    });
}
