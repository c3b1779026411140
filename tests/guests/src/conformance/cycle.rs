//! The way out of Exeunt and back: RESET_VECTORS, SOFT_RESTART and LEAVE, REENTER, the restart policies and LOCK, and
//! what STATUS says of it all.
//!
//! Owns the order of these steps. What each call answers between them is in `lists.rs`.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use guest_abi::call;
use guest_abi::record::{STATUS_MAGIC, STATUS_VERSION, StatusCpu, StatusHeader, status_size};
use guest_abi::stub::{RESET_VECTORS, SET_VECTORS, STUB_ERR};
use guest_abi::vendor::{self, CpuState, Error, Failure, Policy, RESTART_CRASH, RESTART_KEXEC, Summary};

use super::case::{self, Case, End, VARIATIONS, Want};
use super::lists::{self, Setting};
use super::resume;
use super::stub;
use super::tally::{self, Call, State};
use super::{ALL, change, everywhere, is_quick, on, restart, restart_with, stub_call};
use crate::level;
use crate::machine::machine;
use crate::random::Random;
use crate::smp;

/// How the host was entered, and what it has set.
#[derive(Clone, Copy)]
pub struct Host {
    /// `Live` as the table names it here.
    pub live: State,
    /// Where a payload under Exeunt begins.
    pub under_exeunt: End,
    /// It has vectors of its own, and Exeunt leaves to those.
    pub sets_vectors: bool,
}

/// The way back, as REENTER has told it.
static VECTORS: AtomicU64 = AtomicU64::new(0);
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The table at which REENTER does something.
pub fn vectors() -> u64 {
    VECTORS.load(Ordering::Relaxed)
}

/// The number to call at the table.
pub fn number() -> u64 {
    NUMBER.load(Ordering::Relaxed)
}

impl Host {
    /// What a CPU's EL2 is once Exeunt has left it to the host.
    fn outside(self) -> State {
        if self.sets_vectors { State::Gone } else { State::Stub }
    }

    fn setting(self, state: State, policies: [Policy; 2]) -> Setting {
        let live = matches!(state, State::LiveEl1 | State::LiveEl2);
        Setting {
            state,
            policies,
            restart: if live { None } else { Some(End::El2) },
            set_vectors: if live { self.sets_vectors || self.live == State::LiveEl1 } else { state == State::Gone },
            own: stub::vectors(),
        }
    }
}

const LEAVE_LEAVE: [Policy; 2] = [Policy::Leave; 2];

/// Asks for the way back.
pub fn learn_the_way_back(host: Host) {
    // SAFETY: the calls of this file are what is tested; where they change what EL2 is, that is meant. This one changes
    // nothing.
    match unsafe { call::way_back() } {
        Ok(way) => {
            VECTORS.store(way.vectors, Ordering::Relaxed);
            NUMBER.store(way.number, Ordering::Relaxed);
            let inside = machine().reserved.is_some_and(|own| own.contains(way.vectors));
            tally::single(host.live, Call::Reenter, inside, format_args!("names a table at {:#x}", way.vectors));
        }
        Err(failure) => tally::single(host.live, Call::Reenter, false, format_args!("fails: {failure:?}")),
    }
}

/// Runs all of it. Every CPU is `Live`, and at the end again, but locked.
pub fn run(host: Host) {
    learn_the_way_back(host);
    status_of_all(host, CpuState::Live, 0, 0);
    log(host);
    policies(host);
    smp::on_all(trace_at_once);
    host.setting(host.live, LEAVE_LEAVE).fill();
    everywhere(host.live);

    resident(host);
    by_reset_vectors(host);
    by_soft_restart(host);
    kexec_and_crash(host);
    if host.sets_vectors {
        // Whatever was installed and is gone, LEAVE after it leaves the host's own stub behind.
        resume::run(host);
    }
    by_leave(host);
    leave_at_once(host);
    if machine().words().any(|word| word == "slow-leave") {
        during_leave(host);
    }
    lock(host);
}

/// The vectors that each CPU's host has set, as STATUS tells.
pub fn vectors_of_all() -> Option<[u64; super::CPUS]> {
    record().map(|(_, cpus)| cpus.map(|cpu| cpu.host_vectors))
}

/// A record of all CPUs, as STATUS writes it.
fn record() -> Option<(StatusHeader, [StatusCpu; super::CPUS])> {
    let page = case::own_page(crate::cpu::index());
    let cpus = machine().mpidrs().len();
    // SAFETY: the page is the calling CPU's, and nobody else uses it.
    let bytes = unsafe {
        call::status(page, u64::from(status_size(cpus as u16)), 0).ok()?;
        (page as *const [u8; 4096]).read_volatile()
    };
    let header = StatusHeader::from_bytes(bytes.first_chunk()?);
    let part = |index: usize| bytes[StatusHeader::SIZE + index * StatusCpu::SIZE..].first_chunk();
    Some((header, core::array::from_fn(|index| part(index).map_or(StatusCpu::default(), StatusCpu::from_bytes))))
}

fn status_of_all(host: Host, state: CpuState, departures: u32, returns: u32) {
    let Some((header, cpus)) = record() else {
        tally::single(host.live, Call::Status, false, format_args!("of all CPUs"));
        return;
    };
    let count = machine().mpidrs().len() as u16;
    let summary = Summary(header.summary);
    let level = if host.live == State::LiveEl1 { 1 } else { 2 };
    let held = header.magic == STATUS_MAGIC
        && header.version == STATUS_VERSION
        && usize::from(header.header_size) == StatusHeader::SIZE
        && header.record_size == status_size(count)
        && usize::from(header.cpu_size) == StatusCpu::SIZE
        && (header.cpus, header.first_cpu, header.described, header.reserved) == (count, 0, count, 0)
        && header.frequency == read_register!("cntfrq_el0")
        && header.time <= read_register!("cntpct_el0")
        && header.log_end > 0
        && header.log_size > 0
        && summary.state() == Some(CpuState::Live)
        && summary.entry_level() == level
        && !summary.is_locked()
        && [summary.kexec_policy(), summary.crash_policy()] == LEAVE_LEAVE
        && summary.cpus() == count;
    tally::single(host.live, Call::Status, held, format_args!("the header: {header:x?}"));
    for (index, (cpu, &mpidr)) in cpus.iter().zip(machine().mpidrs()).enumerate() {
        let vectors = if host.sets_vectors { stub::vectors() } else { 0 };
        let held = cpu.mpidr == mpidr
            && cpu.state == state as u8
            && cpu.entry_level == level
            && (cpu.flags, cpu.reserved) == (0, 0)
            && cpu.host_vectors == vectors
            && (cpu.departures, cpu.returns) == (departures, returns);
        let StatusCpu { mpidr, state, entry_level, flags, host_vectors, departures, returns, .. } = *cpu;
        let what = format_args!(
            "CPU {index}: mpidr {mpidr:#x} state {state} level {entry_level} flags {flags} vectors {host_vectors:#x} \
             out {departures} in {returns}"
        );
        tally::single(host.live, Call::Status, held, what);
    }
}

/// The log is text, and can be read in pieces.
fn log(host: Host) {
    let page = case::own_page(crate::cpu::index());
    let mut position = 0;
    let (mut pieces, mut bytes, mut text) = (0, 0, true);
    // SAFETY: the page is the calling CPU's.
    while let Ok(read) = unsafe { call::log_read(position, page, 100) } {
        if read.copied == 0 {
            break;
        }
        // SAFETY: as before; Exeunt has written it.
        let piece = unsafe { (page as *const [u8; 100]).read_volatile() };
        text &= piece[..read.copied as usize].iter().all(|byte| byte.is_ascii_graphic() || b" \r\n\t".contains(byte));
        text &= read.next == position + read.lost + read.copied;
        position = read.next;
        pieces += 1;
        bytes += read.copied;
    }
    let held = text && bytes > 0;
    tally::single(host.live, Call::LogRead, held, format_args!("{bytes} bytes of text in {pieces} pieces"));
}

pub fn set_policies(kexec: Policy, crash: Policy) -> bool {
    // SAFETY: the policies are this test's to set.
    unsafe {
        call::restart_policy(RESTART_KEXEC, kexec).is_ok()
            && call::restart_policy(RESTART_CRASH, crash) == Ok([kexec as u64, crash as u64])
    }
}

fn policies(host: Host) {
    for [kexec, crash] in [
        [Policy::Resident, Policy::Leave],
        [Policy::Leave, Policy::Resident],
        [Policy::Resident, Policy::Resident],
        [Policy::Leave, Policy::Leave],
    ] {
        let set = set_policies(kexec, crash);
        // SAFETY: without a buffer nothing is written.
        let told = unsafe { call::summary() }.map(|summary| [summary.kexec_policy(), summary.crash_policy()]);
        let held = set && told == Ok([kexec, crash]);
        tally::single(
            host.live,
            Call::RestartPolicy,
            held,
            format_args!("kexec {}, crash {}", kexec.words(), crash.words()),
        );
    }
}

/// TRACE by all CPUs at once: each has what it has asked for itself.
fn trace_at_once(index: usize) {
    let steps = [(vendor::TRACE_START, 1), (vendor::TRACE_QUERY, 1), (vendor::TRACE_STOP, 0), (vendor::TRACE_QUERY, 0)];
    let mut wrong = 0;
    for (change, traced) in (0..2000).flat_map(|_| steps) {
        // SAFETY: whether exits are traced is this test's to say.
        wrong += u32::from(unsafe { call::trace(change) }.map(|trace| trace.is_traced) != Ok(traced != 0));
    }
    check!(wrong == 0, "TRACE by all CPUs at once: {wrong} wrong answers on CPU {index}");
}

/// A payload under Exeunt, from every CPU and under all conditions.
fn resident(host: Host) {
    let set = set_policies(Policy::Resident, Policy::Resident);
    check!(set, "the policies cannot be set");
    tally::clear();
    tally::add(restart("policy resident", host.under_exeunt));
    everywhere(host.live);
    check!(set_policies(Policy::Leave, Policy::Leave), "the policies cannot be set back");
    own_vectors(host);
}

/// Vectors do not survive a payload under Exeunt, nor EL2's time outside. Which table is the stub's Exeunt learns again
/// from the second that is set.
fn own_vectors(host: Host) {
    if host.sets_vectors {
        resume::install(host.live);
        change(host.live, stub_call(Call::SetVectors, "the host's own table", SET_VECTORS, stub::vectors()), false);
    }
}

/// SET_VECTORS to REENTER's table and the number, on one CPU or on all at once.
fn back(only: usize, from: State) {
    tally::clear();
    let table = VECTORS.load(Ordering::Relaxed);
    tally::add(stub_call(Call::SetVectors, "to REENTER's table", SET_VECTORS, table));
    on(only, from, 6, 7);
    tally::print(from);
    come_in(only);
}

fn come_in(only: usize) {
    tally::clear();
    tally::add(Case {
        call: Call::Reenter,
        what: "at its table",
        immediate: 0,
        x: [number(), 0x1111, 0x2222, 0x3333, 0x4444],
        want: [Want::Is(0), Want::Is(VECTORS.load(Ordering::Relaxed)), Want::Is(number()), Want::Same],
        end: End::Returns,
    });
    on(only, State::Table, 9, 10);
    tally::print(State::Table);
}

/// By RESET_VECTORS: each CPU for itself, all calls outside, all calls at REENTER's table, and back.
fn by_reset_vectors(host: Host) {
    let outside = host.outside();
    // One CPU is outside: nobody can promise anything for it, and STATUS tells.
    tally::clear();
    tally::add(stub_call(Call::ResetVectors, "out of Exeunt", RESET_VECTORS, 1));
    on(1, host.live, 3, 4);
    tally::print(host.live);
    // SAFETY: refused, or the test has failed.
    let locked = unsafe { call::lock() };
    let held = locked == Err(Failure::Refused(Error::WrongState));
    tally::single(host.live, Call::Lock, held, format_args!("with a CPU outside: {locked:?}"));
    let other = record().map(|(header, cpus)| (cpus[1].state, Summary(header.summary).live_cpus()));
    let state = if outside == State::Stub { CpuState::Stub } else { CpuState::Gone };
    let held = other == Some((state as u8, machine().mpidrs().len() as u16 - 1));
    tally::single(
        host.live,
        Call::Status,
        held,
        format_args!("with a CPU outside: its state, and CPUs live: {other:?}"),
    );
    back(1, outside);

    change(host.live, stub_call(Call::ResetVectors, "out of Exeunt", RESET_VECTORS, 1), true);
    host.setting(outside, LEAVE_LEAVE).fill();
    everywhere(outside);
    tally::clear();
    tally::add(stub_call(Call::SetVectors, "to REENTER's table", SET_VECTORS, VECTORS.load(Ordering::Relaxed)));
    on(ALL, outside, 6, 7);
    tally::print(outside);
    host.setting(State::Table, LEAVE_LEAVE).fill();
    everywhere(State::Table);
    come_in(ALL);
    own_vectors(host);
    host.setting(host.live, LEAVE_LEAVE).fill();
    on(ALL, host.live, 0, VARIATIONS);
    tally::print(host.live);
}

/// By SOFT_RESTART, under all conditions; what is left is the resident stub.
fn by_soft_restart(host: Host) {
    let step = if is_quick() { 5 } else { 1 };
    for conditions in (0..VARIATIONS).step_by(step) {
        tally::clear();
        tally::add(restart("policy leave", End::El2));
        on(ALL, host.live, conditions, conditions + 1);
        tally::print(host.live);
        back(ALL, State::Stub);
    }
}

/// How a host restarts: in words, what it has done before, x2, and whether that is a kexec.
struct Sign {
    what: &'static str,
    before: Before,
    x2: u64,
    kexec: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// SET_VECTORS to a table that is not the stub's.
    Vectors,
    /// The same, and the call by which Linux 5.10 puts its stub back.
    Resume,
}

/// Flattened trees (DTSpec 5), big-endian words: `/chosen` has one property, of this name.
const fn tree(name: [u8; 20]) -> [u32; 31] {
    let mut words = [0; 31];
    let head = [0xd00d_feed, 31 * 4, 14 * 4, 26 * 4, 40, 17, 16, 0, 20, 12 * 4];
    let chosen = [1, 0, 1, u32::from_be_bytes(*b"chos"), u32::from_be_bytes(*b"en\0\0"), 3, 4, 0, 0x5000_0000, 2, 2, 9];
    let mut at = 0;
    while at < 31 {
        let word = match at {
            0..10 => head[at],
            14..26 => chosen[at - 14],
            26.. => {
                let byte = 4 * (at - 26);
                u32::from_be_bytes([name[byte], name[byte + 1], name[byte + 2], name[byte + 3]])
            }
            _ => 0,
        };
        words[at] = word.to_be();
        at += 1;
    }
    words
}

#[repr(align(8))]
struct Tree([u32; 31]);

static KEXECS_TREE: Tree = Tree(tree(*b"linux,initrd-start\0\0"));
static CRASH_KERNELS_TREE: Tree = Tree(tree(*b"linux,elfcorehdr\0\0\0\0"));

/// Which policy counts, by what tells a kexec from a crash (docs/kexec.md).
fn kexec_and_crash(host: Host) {
    let [kexecs, crash_kernels] =
        [&KEXECS_TREE, &CRASH_KERNELS_TREE].map(|tree| core::ptr::from_ref(&tree.0).addr() as u64);
    let sign = |what, before, x2, kexec| Sign { what, before, x2, kexec };
    let signs = [
        sign("in a crash", Before::Nothing, 0, false),
        sign("in a kexec", Before::Vectors, 0, true),
        sign("in a crash after a resume", Before::Resume, 0, false),
        sign("in a kexec of Linux 5.10", Before::Nothing, 0x5e8f_3002, true),
        sign("in a crash of Linux 5.10, with stale vectors", Before::Vectors, 4, false),
        sign("in a kexec without a copy", Before::Nothing, kexecs, true),
        sign("in a crash with a tree, with stale vectors", Before::Vectors, crash_kernels, false),
    ];
    for [kexec, crash] in [[Policy::Leave, Policy::Resident], [Policy::Resident, Policy::Leave]] {
        check!(set_policies(kexec, crash), "the policies cannot be set");
        for sign in &signs {
            let policy = if sign.kexec { kexec } else { crash };
            kexec_or_crash(host, sign, policy);
        }
    }
    check!(set_policies(Policy::Leave, Policy::Leave), "the policies cannot be set back");
    own_vectors(host);
}

fn kexec_or_crash(host: Host, sign: &Sign, policy: Policy) {
    // A host that was entered at EL1 has no vectors to install. Without a stub of its own none can be put back.
    if sign.before != Before::Nothing && host.live == State::LiveEl1 {
        return;
    }
    // Where nobody needs to guess that it is a crash, whoever runs under Exeunt is stopped: one CPU restarts, and the
    // others are outside.
    let stops = !sign.kexec && sign.x2 != 0;
    let who = if stops { 0 } else { ALL };
    let others = 1..if stops { smp::online() } else { 1 };
    for cpu in others.clone() {
        tally::clear();
        tally::add(stub_call(Call::ResetVectors, "out of the way of a crash", RESET_VECTORS, 1));
        on(cpu, host.live, 3, 4);
        tally::print(host.live);
    }
    match sign.before {
        Before::Nothing => {}
        // As Linux does: not to the stub that it has set up for itself at first.
        Before::Vectors => {
            tally::clear();
            tally::add(stub_call(Call::SetVectors, "before a restart", SET_VECTORS, stub::vectors() + 0x800));
            on(who, host.live, 6, 7);
            tally::print(host.live);
        }
        Before::Resume => resume::install_and_resume(host.live),
    }
    let end = if policy == Policy::Leave { End::El2 } else { host.under_exeunt };
    tally::clear();
    tally::add(restart_with(sign.what, sign.x2, end));
    on(who, host.live, 4, 5);
    tally::print(host.live);
    if policy == Policy::Leave {
        back(who, State::Stub);
    }
    for cpu in others {
        back(cpu, State::Stub);
    }
}

/// The CPU that calls LEAVE.
static CALLER: AtomicUsize = AtomicUsize::new(0);
/// CPUs that have told that they are about to spin.
static SPINNING: AtomicUsize = AtomicUsize::new(0);
/// Ends the spinning.
static RELEASE: AtomicU64 = AtomicU64::new(0);
/// Conditions of the round.
static ROUND: AtomicUsize = AtomicUsize::new(0);
/// The state from which LEAVE is called.
static FROM: AtomicUsize = AtomicUsize::new(0);

/// One CPU calls LEAVE, the others spin and find all their registers as they were.
fn leave_and_spin(index: usize) {
    let mut random = Random::new(read_register!("cntvct_el0") ^ index as u64);
    let conditions = (ROUND.load(Ordering::Acquire) + 5 * index) as u32 % VARIATIONS;
    let state = State::ALL[FROM.load(Ordering::Acquire)];
    if index != CALLER.load(Ordering::Acquire) {
        SPINNING.fetch_add(1, Ordering::AcqRel);
        let outcome = case::spin(index, conditions, RELEASE.as_ptr() as u64, &mut random);
        tally::note(state, 1, index, conditions, &outcome);
        return;
    }
    check!(smp::wait_for(|| SPINNING.load(Ordering::Acquire) == smp::online() - 1), "the others do not spin");
    let Some(leave) = tally::case(0) else { return };
    let outcome = case::perform(&leave, index, conditions, &mut random);
    RELEASE.store(1, Ordering::Release);
    tally::note(state, 0, index, conditions, &outcome);
}

fn leave_case(cpus: u64) -> Case {
    Case {
        call: Call::Leave,
        what: "by one CPU",
        immediate: 0,
        x: [vendor::LEAVE.into(), 0x1111, 0x2222, 0x3333, 0x4444],
        want: [Want::Is(0), Want::Is(cpus), Want::Same, Want::Same],
        end: End::Returns,
    }
}

/// By LEAVE, from each CPU, the others spinning with and without interrupts; once with a CPU that is outside already.
fn by_leave(host: Host) {
    let outside = host.outside();
    let cpus = smp::online() as u64;
    FROM.store(host.live as usize, Ordering::Release);
    for round in 0..=smp::online() {
        let one_outside = round == smp::online();
        let caller = round % smp::online();
        if one_outside {
            tally::clear();
            tally::add(stub_call(Call::ResetVectors, "before LEAVE", RESET_VECTORS, 1));
            on((caller + 1) % smp::online(), host.live, 1, 2);
            tally::print(host.live);
        }
        tally::clear();
        tally::add(leave_case(cpus - u64::from(one_outside)));
        tally::add(Case { call: Call::Leave, what: "by another CPU, meanwhile spinning", ..leave_case(0) });
        CALLER.store(caller, Ordering::Release);
        ROUND.store(3 * round, Ordering::Release);
        SPINNING.store(0, Ordering::Release);
        RELEASE.store(0, Ordering::Release);
        smp::on_all(leave_and_spin);
        tally::print(host.live);
        host.setting(outside, LEAVE_LEAVE).fill();
        on(ALL, outside, round as u32, round as u32 + 1);
        tally::print(outside);
        back(ALL, outside);
        own_vectors(host);
    }
    if host.sets_vectors {
        return;
    }
    // SAFETY: without a buffer nothing is written.
    let live = unsafe { call::summary() }.map(Summary::live_cpus);
    tally::single(host.live, Call::Status, live == Ok(cpus as u16), format_args!("CPUs live after REENTER: {live:?}"));
}

/// The case that the others make while the LEAVE is under way.
static WINDOW_CASE: AtomicUsize = AtomicUsize::new(0);
/// Milliseconds from the moment at which STATUS tells of the LEAVE to the call.
static DELAY: AtomicU64 = AtomicU64::new(0);
/// Calls that were answered after the LEAVE.
static CAUGHT: AtomicUsize = AtomicUsize::new(0);
/// What LEAVE has said: CPUs, or `u64::MAX` for a failure.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Whether STATUS says that the caller of LEAVE is in state `Leaving`. Nothing once Exeunt does not answer.
fn is_leaving(caller: usize) -> Option<bool> {
    record().map(|(_, cpus)| cpus[caller].state == CpuState::Leaving as u8)
}

fn wait_ms(milliseconds: u64) {
    let end = read_register!("cntvct_el0") + read_register!("cntfrq_el0") * milliseconds / 1000;
    while read_register!("cntvct_el0") < end {
        core::hint::spin_loop();
    }
}

fn call_during_leave(index: usize) {
    let mut random = Random::new(read_register!("cntvct_el0") ^ index as u64);
    let conditions = (ROUND.load(Ordering::Acquire) + 5 * index) as u32 % VARIATIONS;
    let caller = CALLER.load(Ordering::Acquire);
    if index == caller {
        check!(smp::wait_for(|| SPINNING.load(Ordering::Acquire) == smp::online() - 1), "the others do not wait");
        // SAFETY: every CPU is meant to be outside afterwards.
        let left = unsafe { call::leave() };
        LEFT.store(left.unwrap_or(u64::MAX), Ordering::Release);
        return;
    }
    SPINNING.fetch_add(1, Ordering::AcqRel);
    let mut seen = Some(false);
    smp::wait_for(|| {
        seen = is_leaving(caller);
        seen != Some(false)
    });
    let number = WINDOW_CASE.load(Ordering::Acquire);
    let Some(case) = tally::case(number) else { return };
    if seen != Some(true) {
        return;
    }
    // Exeunt answers as ever until the LEAVE is announced, which no call can look at.
    wait_ms(DELAY.load(Ordering::Acquire));
    let outcome = case::perform(&case, index, conditions, &mut random);
    if outcome.problem.is_some() && Some(outcome.x[0]) == lists::answer_while_live(&case) {
        return;
    }
    CAUGHT.fetch_add(1, Ordering::AcqRel);
    tally::note(State::Leaving, number, index, conditions, &outcome);
}

/// Each call, made by every other CPU while one CPU's LEAVE is under way: the answer comes when that is over, from who
/// is there then.
fn during_leave(host: Host) {
    let outside = host.outside();
    let setting = host.setting(outside, LEAVE_LEAVE);
    let cpus = smp::online();
    let mut number = 0;
    loop {
        lists::in_the_window(&setting);
        let Some(case) = tally::case(number) else { break };
        let mut caught = 0;
        // `selftest=slow-leave` announces the LEAVE 20 ms after it has begun, and catches CPUs 20 ms later: a call that
        // came before the one or a look that came after the other is no call in the window.
        for attempt in 0..8 {
            lists::in_the_window(&setting);
            WINDOW_CASE.store(number, Ordering::Release);
            DELAY.store(22 + 2 * attempt as u64, Ordering::Release);
            CALLER.store((number + attempt) % cpus, Ordering::Release);
            ROUND.store(7 * number + attempt, Ordering::Release);
            SPINNING.store(0, Ordering::Release);
            CAUGHT.store(0, Ordering::Release);
            smp::on_all(call_during_leave);
            caught = CAUGHT.load(Ordering::Acquire);
            if caught > 0 {
                tally::print_one(State::Leaving, number);
            }
            let left = LEFT.load(Ordering::Acquire);
            if case.call == Call::Lock && left == u64::MAX {
                // It came first, and nobody has left.
                return;
            }
            let held = match case.call {
                // Who left before the LEAVE was announced is not counted, and has the same answer.
                Call::SoftRestart | Call::ResetVectors => (1..=cpus as u64).contains(&left),
                // Another LEAVE may have been announced first.
                Call::Leave => left == cpus as u64 || left == u64::MAX,
                _ => left == cpus as u64,
            };
            check!(held, "LEAVE left {left} of {cpus} CPUs, {} while another called it", case.call.name());
            back(ALL, if case.call == Call::SetVectors { State::Gone } else { outside });
            own_vectors(host);
            if caught > 0 {
                break;
            }
        }
        check!(caught > 0, "no CPU made {} while a LEAVE was under way", case.call.name());
        number += 1;
    }
}

/// LEAVE by all CPUs at once: one of them does it, and takes the others along.
fn leave_at_once(host: Host) {
    for _ in 0..8 {
        tally::clear();
        tally::add(Case {
            call: Call::Leave,
            what: "by all at once",
            want: [Want::Any, Want::Any, Want::Same, Want::Same],
            ..leave_case(0)
        });
        WINNERS.store(0, Ordering::Release);
        OTHERS.store(0, Ordering::Release);
        FROM.store(host.live as usize, Ordering::Release);
        smp::on_all(leave_too);
        tally::print(host.live);
        let (winners, others) = (WINNERS.load(Ordering::Acquire), OTHERS.load(Ordering::Acquire));
        check!((winners, others) == (1, smp::online() - 1), "{winners} LEAVEs succeeded, {others} came too late");
        back(ALL, host.outside());
        own_vectors(host);
    }
}

/// CPUs that left all, and those that a stub has answered.
static WINNERS: AtomicUsize = AtomicUsize::new(0);
static OTHERS: AtomicUsize = AtomicUsize::new(0);

fn leave_too(index: usize) {
    let mut random = Random::new(read_register!("cntvct_el0") ^ index as u64);
    let Some(case) = tally::case(0) else { return };
    smp::barrier(1);
    let outcome = case::perform(&case, index, index as u32, &mut random);
    match outcome.x[..2] {
        [0, count] if count == smp::online() as u64 => WINNERS.fetch_add(1, Ordering::AcqRel),
        [STUB_ERR, _] => OTHERS.fetch_add(1, Ordering::AcqRel),
        _ => 0,
    };
    tally::note(State::ALL[FROM.load(Ordering::Acquire)], 0, index, index as u32, &outcome);
}

/// Nobody leaves any longer.
fn lock(host: Host) {
    tally::clear();
    tally::add(Case {
        call: Call::Lock,
        what: "",
        immediate: 0,
        x: [vendor::LOCK.into(), 0x1111, 0x2222, 0x3333, 0x4444],
        want: [Want::Is(0), Want::Same, Want::Same, Want::Same],
        end: End::Returns,
    });
    on(0, host.live, 0, 1);
    tally::print(host.live);
    let setting = Setting {
        state: State::Locked,
        restart: Some(host.under_exeunt),
        ..host.setting(host.live, [Policy::Resident; 2])
    };
    setting.fill();
    everywhere(State::Locked);
    // SAFETY: without a buffer nothing is written.
    let told = unsafe { call::summary() }.map(|summary| (summary.is_locked(), summary.live_cpus()));
    let held = told == Ok((true, smp::online() as u16));
    tally::single(State::Locked, Call::Status, held, format_args!("locked, and CPUs live: {told:?}"));
}

/// The host as it was entered.
pub fn host(sets_vectors: bool) -> Host {
    if level::entry_level() == 2 {
        Host { live: State::LiveEl2, under_exeunt: End::VirtualEl2, sets_vectors }
    } else {
        Host { live: State::LiveEl1, under_exeunt: End::El1, sets_vectors }
    }
}
