//! A walk through the states: random calls on all CPUs at once, each of which goes out of Exeunt and comes back in
//! between whenever it likes, so that the calls of one meet every change of another's.
//!
//! Owns the random calls and their answers, of which less is known than of a case in the lists: who answers, what that
//! one may say, and that nothing else changes. `walk=N` is the number of calls, of all CPUs together; `seed=N` repeats
//! a walk where time repeats, too.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest_abi::call;
use guest_abi::stub::{GET_ICH_VTR_EL2, RESET_VECTORS, SET_VECTORS, SOFT_RESTART, STUB_CALLS_END, STUB_ERR};
use guest_abi::vendor::{self, Error, Policy};

use super::case::{self, Case, End, OWN_PAGE, VARIATIONS, Want};
use super::cycle::{self, Host};
use super::lists;
use super::stub;
use super::tally::Call;
use super::{restart, stub_call};
use crate::calls;
use crate::firmware::Conduit;
use crate::machine::machine;
use crate::random::Random;
use crate::smp;

/// Calls of a CPU between two changes of its state.
const BLOCK: u64 = 64;
/// Calls of a CPU in a round, in which the policies stay as they are.
const ROUND: u64 = 64 * BLOCK;
/// Tries to come back while another CPU's LEAVE is in the way.
const TRIES: u32 = 1_000_000;

/// Exeunt's own calls that [`vendor::CALLS`] does not have.
const GENERAL: [u32; 3] = [vendor::CALL_COUNT, vendor::CALL_UID, vendor::REVISION];

/// Who answers on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Exeunt,
    /// The resident stub.
    Resident,
    /// The host's own stub.
    Own,
}

static CALLS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static CHANGES: AtomicU64 = AtomicU64::new(0);
static LEAVES: AtomicU64 = AtomicU64::new(0);
static OVERTAKEN: AtomicU64 = AtomicU64::new(0);

/// The part of the calls that each CPU makes in this round, and the number that its random ones depend on.
static PLAN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// SOFT_RESTART stays under Exeunt in this round, and nobody calls LEAVE.
static STAYS: AtomicBool = AtomicBool::new(false);
static IS_LOCKED: AtomicBool = AtomicBool::new(false);

/// Asks who answers.
fn ask() -> Who {
    // SAFETY: whoever is there answers both and does nothing else.
    unsafe {
        if call::version().is_ok() {
            Who::Exeunt
        } else if call::hvc([stub::WHO, 0, 0, 0, 0])[0] == stub::OWN {
            Who::Own
        } else {
            Who::Resident
        }
    }
}

struct Walker {
    index: usize,
    random: Random,
    who: Who,
    host: Host,
}

impl Walker {
    /// A value that is no address of the host's RAM, unless of this CPU's own page.
    fn value(&mut self) -> u64 {
        let raw = self.random.value();
        let ram = machine().ram;
        match self.random.below(4) {
            0 => OWN_PAGE + (raw & 0x1fff),
            1 => {
                let bad = lists::bad_addresses();
                let nth = self.random.below(bad.clone().count() as u64) as usize;
                bad.map(|(_, address)| address).nth(nth).unwrap_or_default()
            }
            _ if ram.contains(raw & !0xfff) => raw | 1 << 60,
            _ => raw,
        }
    }

    /// An address that no table and no entry can be at.
    fn bad_address(&mut self) -> u64 {
        match self.value() {
            value if value & !0xffff == OWN_PAGE => value | 1,
            value => value,
        }
    }

    /// x0 to x4 and the immediate of a call that leaves all as it is; nothing if this one would not.
    fn draw(&mut self) -> Option<([u64; 5], u16)> {
        let is_exeunt = self.who == Who::Exeunt;
        let (stays, is_locked) = (STAYS.load(Ordering::Relaxed), IS_LOCKED.load(Ordering::Relaxed));
        let mut x: [u64; 5] = core::array::from_fn(|_| self.value());
        let immediate = if self.random.below(32) == 0 { self.random.next() as u16 } else { 0 };
        match self.random.below(8) {
            0 => x[0] = self.random.below(STUB_CALLS_END),
            1..4 => {
                const CALLS: usize = vendor::CALLS.len();
                let number = self.random.below((CALLS + GENERAL.len()) as u64) as usize;
                let id = vendor::CALLS.get(number).copied().unwrap_or_else(|| GENERAL[number - CALLS]);
                // What a function identifier does not consist of.
                let rest = if self.random.below(4) == 0 { self.random.next() & !0xffff_ffff | 1 << 16 } else { 0 };
                x[0] = u64::from(id) | rest;
            }
            _ => x[0] = calls::number(&mut self.random),
        }
        match (x[0], own(x[0])) {
            // The host's own stub looks at nothing, and no stub looks where a restart goes.
            (SET_VECTORS, _) if self.who == Who::Own => return None,
            (SOFT_RESTART, _) if !is_exeunt || !stays => return None,
            (SET_VECTORS | SOFT_RESTART, _) => x[1] = self.bad_address(),
            (RESET_VECTORS, _) | (_, Some(vendor::LEAVE | vendor::LOCK)) if is_exeunt && !is_locked => return None,
            // At its table, which a LEAVE leaves behind, it is the way back.
            (_, Some(vendor::REENTER)) if !is_exeunt || !stays => return None,
            // Policies are the round's.
            (_, Some(vendor::RESTART_POLICY)) => x[1] &= !0b11,
            // What becomes of the others is the test `panics`.
            (_, Some(vendor::PANIC)) => {
                let cpus = machine().mpidrs().len() as u64;
                x[1] = (x[1] & !0xffff_ffff) | (cpus + self.random.below(0xffff_0000));
            }
            (_, Some(vendor::TRACE)) if self.random.below(2) == 0 => x[1] &= 0b11,
            (number, None) if number == cycle::number() => return None,
            _ => {}
        }
        Some((x, immediate))
    }

    /// A random call, and whether what comes of it is right.
    fn call(&mut self) {
        let (x, immediate) = loop {
            if let Some(drawn) = self.draw() {
                break drawn;
            }
        };
        let want = [Want::Any; 4];
        let case = Case { call: Call::OtherNumber, what: "", immediate, x, want, end: End::Returns };
        let conditions = self.random.below(VARIATIONS.into()) as u32;
        let outcome = case::perform(&case, self.index, conditions, &mut self.random);
        let before = x.map(|value| case::resolve(value, self.index));
        let mut held = is_answer(self.who, before, immediate, outcome.x);
        if !held && self.who == Who::Exeunt {
            // Another CPU's LEAVE came in between.
            self.who = ask();
            held = self.who != Who::Exeunt && is_answer(self.who, before, immediate, outcome.x);
            OVERTAKEN.fetch_add(1, Ordering::Relaxed);
        }
        CALLS[self.who as usize].fetch_add(1, Ordering::Relaxed);
        let held = held && outcome.problem.is_none();
        check!(
            held,
            "walk: {:?} on CPU {}: #{immediate:#x} {before:x?} gave {:x?}{}{}",
            self.who,
            self.index,
            outcome.x,
            if outcome.problem.is_some() { ", " } else { "" },
            Words(outcome.problem)
        );
    }

    /// Makes a call that changes who is there, and says what was in x0.
    fn make(&mut self, what: &str, case: &Case) -> u64 {
        let conditions = self.random.below(VARIATIONS.into()) as u32;
        let outcome = case::perform(case, self.index, conditions, &mut self.random);
        CHANGES.fetch_add(1, Ordering::Relaxed);
        let held = outcome.problem.is_none();
        check!(held, "walk: CPU {}: {what}: {}; {:x?}", self.index, Words(outcome.problem), outcome.x);
        outcome.x[0]
    }

    fn restart(&mut self, end: End) {
        self.make("SOFT_RESTART", &restart("", end));
    }

    /// Leaves, comes back or restarts, or not.
    fn change(&mut self) {
        let (stays, is_locked) = (STAYS.load(Ordering::Relaxed), IS_LOCKED.load(Ordering::Relaxed));
        self.who = ask();
        match (self.who, self.random.below(5)) {
            (Who::Exeunt, 0) if stays => self.restart(self.host.under_exeunt),
            (Who::Exeunt, 0) | (Who::Resident | Who::Own, 1) => self.restart(End::El2),
            (Who::Exeunt, 1) if !is_locked => {
                self.make("RESET_VECTORS", &stub_call(Call::ResetVectors, "", RESET_VECTORS, 1));
            }
            (Who::Exeunt, 2) if !is_locked && !stays => self.leave(),
            (Who::Resident, 0) => {
                let table = stub_call(Call::SetVectors, "", SET_VECTORS, stub::vectors());
                self.make("SET_VECTORS to the host's own", &table);
            }
            (Who::Resident | Who::Own, 2 | 3) => self.come_back(),
            _ => {}
        }
        self.who = ask();
    }

    fn leave(&mut self) {
        let case = Case {
            call: Call::Leave,
            what: "",
            immediate: 0,
            x: [vendor::LEAVE.into(), 1, 2, 3, 4],
            want: [Want::Any, Want::Any, Want::Same, Want::Same],
            end: End::Returns,
        };
        let x0 = self.make("LEAVE", &case);
        // If somebody else's came first, a stub has answered.
        check!(matches!(x0, 0 | STUB_ERR), "walk: CPU {}: LEAVE: {x0:#x}", self.index);
        LEAVES.fetch_add(u64::from(x0 == 0), Ordering::Relaxed);
        check!(ask() != Who::Exeunt, "walk: CPU {}: Exeunt is there after LEAVE", self.index);
    }

    /// SET_VECTORS to REENTER's table and the number.
    fn come_back(&mut self) {
        let table = cycle::vectors();
        if self.make("SET_VECTORS to REENTER's", &stub_call(Call::SetVectors, "", SET_VECTORS, table)) != 0 {
            return;
        }
        let case = Case {
            call: Call::Reenter,
            what: "",
            immediate: 0,
            x: [cycle::number(), 1, 2, 3, 4],
            want: [Want::Any, Want::Any, Want::Any, Want::Same],
            end: End::Returns,
        };
        let busy = Error::Busy.to_register();
        let last = (0..TRIES).map(|_| self.make("REENTER", &case)).find(|&x0| x0 != busy);
        check!(last == Some(0), "walk: CPU {}: REENTER: {last:x?}", self.index);
    }
}

struct Words(Option<case::Problem>);

impl core::fmt::Display for Words {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |problem| problem.fmt(f))
    }
}

/// Which of Exeunt's own calls this is.
fn own(x0: u64) -> Option<u32> {
    let id = x0 as u32 & !(1 << 16);
    (vendor::CALLS.contains(&id) || GENERAL.contains(&id)).then_some(id)
}

/// Whether `after` may be in x0 to x3.
fn is_answer(who: Who, before: [u64; 5], immediate: u16, after: [u64; 4]) -> bool {
    let is_same = after[1..] == before[1..4];
    let refused = |code| after[0] == code && is_same;
    let [x0, w1, ..] = before;
    if x0 == GET_ICH_VTR_EL2 {
        return refused(STUB_ERR) || after[0] == 0 && after[2..] == before[2..4];
    }
    if who != Who::Exeunt {
        return refused(if x0 == RESET_VECTORS { 0 } else { STUB_ERR });
    }
    let Some(id) = own(x0) else {
        let is_right = calls::is_allowed(Conduit::Hvc, immediate.into(), x0, after[0]);
        return is_right && (is_same || after[0] != STUB_ERR);
    };
    if immediate != 0 {
        return refused(Error::NotSupported.to_register());
    }
    let is_locked = IS_LOCKED.load(Ordering::Relaxed);
    match id {
        vendor::CALL_COUNT => refused(vendor::CALLS.len() as u64),
        vendor::CALL_UID => after == vendor::UID_REGISTERS.map(u64::from),
        vendor::REVISION => after[..2] == [vendor::ABI_MAJOR.into(), vendor::ABI_MINOR.into()],
        vendor::VERSION => after[0] == vendor::ABI_VERSION.into() && after[2..] == before[2..4],
        vendor::FEATURES if vendor::CALLS.contains(&(w1 as u32)) => after[0] == 0,
        vendor::FEATURES => after[0] == 0 || refused(Error::NotSupported.to_register()),
        vendor::LEAVE if is_locked => refused(Error::Locked.to_register()),
        vendor::LOCK if is_locked => refused(0),
        vendor::PANIC => refused(Error::InvalidParameter.to_register()),
        vendor::CRASH_KERNEL => refused(Error::WrongState.to_register()) || refused(Error::Busy.to_register()),
        vendor::REENTER => after[0] == 0 && after[1] == cycle::vectors(),
        _ => after[0] == 0 || refused(Error::InvalidParameter.to_register()),
    }
}

fn work(index: usize) {
    let [calls, seed] = PLAN.each_ref().map(|word| word.load(Ordering::Acquire));
    let host = cycle::host(false);
    let mut walker = Walker { index, random: Random::new(seed + index as u64), who: ask(), host };
    for number in 0..calls {
        walker.call();
        if number % BLOCK == BLOCK - 1 {
            walker.change();
        }
    }
}

/// All CPUs come back, once all have ended their part and nobody leaves.
fn come_home(index: usize) {
    let mut walker = Walker { index, random: Random::new(index as u64), who: ask(), host: cycle::host(false) };
    if walker.who != Who::Exeunt {
        walker.come_back();
    }
    check!(ask() == Who::Exeunt, "walk: CPU {index} is not back");
}

/// One round: so many calls of each CPU.
fn round(calls: u64, stays: bool, seed: u64) {
    STAYS.store(stays, Ordering::Release);
    PLAN[0].store(calls, Ordering::Release);
    PLAN[1].store(seed, Ordering::Release);
    smp::on_all(work);
}

/// Walks, with all CPUs live; at the end they are again, and Exeunt is locked.
pub fn run(calls: u64) {
    let seed = machine().number("seed").unwrap_or_else(|| read_register!("cntvct_el0"));
    let each = calls / smp::online() as u64;
    println!("walk: {each} calls on each of {} CPUs, seed={seed}", smp::online());
    cycle::learn_the_way_back(cycle::host(false));
    let (mut done, mut number) = (0, 0);
    while done < each {
        // The last round is after LOCK.
        let is_last = each - done <= ROUND;
        let stays = is_last || number % 2 == 0;
        smp::on_all(come_home);
        let policy = if stays { Policy::Resident } else { Policy::Leave };
        check!(cycle::set_policies(policy, policy), "walk: the policies cannot be set");
        if is_last {
            // SAFETY: every CPU is under Exeunt and means to stay.
            let locked = unsafe { call::lock() };
            check!(locked.is_ok(), "walk: LOCK: {locked:?}");
            IS_LOCKED.store(true, Ordering::Release);
        }
        let now = ROUND.min(each - done);
        round(now, stays, seed.wrapping_add(number << 8));
        (done, number) = (done + now, number + 1);
        if number % 64 == 0 {
            println!("walk: {done} of {each} calls on each CPU");
        }
    }
    // SAFETY: without a buffer nothing is written.
    let told = unsafe { call::summary() }.map(|summary| (summary.is_locked(), summary.live_cpus()));
    check!(told == Ok((true, smp::online() as u16)), "walk: locked, and CPUs live: {told:?}");
    let [exeunt, resident, own] = CALLS.each_ref().map(|count| count.load(Ordering::Relaxed));
    let [changes, leaves, overtaken] = [&CHANGES, &LEAVES, &OVERTAKEN].map(|count| count.load(Ordering::Relaxed));
    println!(
        "walk: {exeunt} calls to Exeunt, {resident} to the resident stub, {own} to the host's own; {changes} changes, \
         {leaves} LEAVEs, {overtaken} calls overtaken by one"
    );
}
