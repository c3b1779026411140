//! Exeunt dies, and its host does not: a build with faults is made to die in each place of its code, on one CPU, while
//! this guest has it do what leads there. After each death the guest looks whether the CPU goes on with the registers
//! that it had, whether a stub answers at EL2, whether the other CPUs run on under Exeunt, and brings it back.
//!
//! The words on the command line: `kinds` commits every kind of fault in each place, else there is one for each place,
//! another for the next; `only=PLACE` looks at one place alone. In the end several CPUs lose TPIDR_EL2 in the same
//! instant, which alone is `only=together`.
//!
//! CPU 0 watches and never dies itself, except by a LEAVE's verdict; CPU 1 is the one that mostly dies, CPU 2 counts
//! for good, and CPU 3 is turned off and on.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::fmt::{self, Display};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use guest_abi::call::{self, WayBack};
use guest_abi::doorbell::{A0, GO, MIRROR, OPEN, channel, seal};
use guest_abi::record::{CPU_DIED, StatusCpu, StatusHeader};
use guest_abi::stub::{RESET_VECTORS, SOFT_RESTART, STUB_ERR};
use guest_abi::vendor::{self, CpuState, Policy, RESTART_CRASH, RESTART_KEXEC};

use crate::conformance::{landing, stub};
use crate::cpu::{Context, DAIF, EL1H};
use crate::firmware::{self, AFFINITY_INFO, AFFINITY_OFF, CPU_OFF, CPU_ON, PSCI_VERSION};
use crate::machine::machine;
use crate::paging::SCTLR_OFF;
use crate::random::Random;
use crate::start::{Start, secondary_entry};
use crate::{cpu, doorbell, level, smp};

/// The call that arms a fault (`hypervisor/src/faults.rs`).
const ARM: u64 = 0x8600_fffe;
/// Kinds of fault, by their numbers there.
const KINDS: [(u64, &str); 8] = [
    (1, "store"),
    (2, "undefined"),
    (3, "panic"),
    (4, "lost-stack"),
    LOST_CPU,
    (6, "overflow"),
    (7, "lost-page"),
    LOST_FRAME,
];
/// With TPIDR_EL2.
const LOST_CPU: (u64, &str) = (5, "lost-cpu");
/// With the memory that the host's registers are in.
const LOST_FRAME: (u64, &str) = (8, "lost-frame");
/// The syndrome of the SError by which a host panics that cannot go on (`hypervisor/src/rescue.rs`).
const SERROR: u64 = 0xbf45_5855;

/// One that always has its turn: nobody was told before of the death, and only the rescue without a stack is left.
const ALWAYS: (&str, (u64, &str)) = ("rescue-tell", LOST_FRAME);

/// The CPU that dies.
const VICTIM: usize = 1;
/// The CPU that counts.
const COUNTER: usize = 2;
/// The CPU that is turned on.
const TARGET: usize = 3;
const CPUS: usize = 4;

/// What leads to a place, and where Exeunt dies there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A call of Exeunt's own.
    Own,
    /// The same, traced.
    Traced,
    /// STATUS with a buffer.
    Status,
    /// A PSCI call by SMC.
    Smc,
    /// A stub call that nobody knows.
    Unknown,
    /// A load from the 2 MiB.
    Abort,
    /// A fetch outside of RAM.
    Fetch,
    /// A load from the mirror of the black box.
    DoorbellLoad,
    /// A store to the doorbell.
    DoorbellStore,
    /// The one that makes a call.
    DoorbellCall,
    /// RESET_VECTORS.
    Reset,
    /// SOFT_RESTART, with Exeunt leaving.
    Restart,
    /// SOFT_RESTART, with Exeunt staying.
    Stay,
    /// The same, of a host at virtual EL2.
    StayWindow,
    /// LEAVE.
    Leave,
    /// LEAVE of another CPU, by which this one is held.
    Held,
    /// REENTER.
    Back,
    /// CPU_ON.
    On,
    /// CPU_OFF.
    Off,
    /// The other CPU of a CPU_ON.
    Arrive,
    /// A call of Exeunt's own, and the report of a death in it.
    Report,
    /// And a second one.
    ReportAgain,
    /// The other CPU of a CPU_ON, which begins at virtual EL2.
    Window,
    /// A call that vectors of the guest's own answer, in virtual EL2.
    Vectors,
}

impl Way {
    /// Whether it is one of a host that was entered at EL2 alone.
    const fn is_of_el2(self) -> bool {
        matches!(self, Self::StayWindow | Self::Window | Self::Vectors)
    }

    /// Whether a host that has lost its registers can be told by an SError.
    const fn bears_lost_frame(self) -> bool {
        use Way::{Abort, DoorbellCall, DoorbellLoad, DoorbellStore, Own, Report, ReportAgain, Reset, Smc, Status};
        matches!(
            self,
            Own | Status | Smc | Self::Unknown | Abort | DoorbellLoad | DoorbellStore | DoorbellCall | Reset | Report
        ) || matches!(self, ReportAgain)
    }

    /// The CPU that dies on it.
    const fn victim(self) -> usize {
        if matches!(self, Self::Arrive | Self::Window) { TARGET } else { VICTIM }
    }
}

/// The places, and what leads there.
const PLACES: &[(&str, Way)] = &[
    ("hvc", Way::Own),
    ("smc", Way::Smc),
    ("answered", Way::Own),
    ("sync", Way::Abort),
    ("abort", Way::Abort),
    ("dispatch", Way::Abort),
    ("injected", Way::Abort),
    ("execution", Way::Fetch),
    ("doorbell-load", Way::DoorbellLoad),
    ("doorbell-store", Way::DoorbellStore),
    ("doorbell-call", Way::DoorbellCall),
    ("traced-begin", Way::Traced),
    ("traced-end", Way::Traced),
    ("stub-call", Way::Unknown),
    ("stub-answer", Way::Unknown),
    ("own-call", Way::Own),
    ("own-answer", Way::Own),
    ("status", Way::Status),
    ("host-page", Way::Status),
    ("reset-begin", Way::Reset),
    ("reset-out", Way::Reset),
    ("restart-begin", Way::Restart),
    ("restart-decided", Way::Restart),
    ("restart-told", Way::Restart),
    ("restart-leaves", Way::Restart),
    ("restart-stays", Way::Stay),
    ("restart-set-up", Way::Stay),
    ("restart-window", Way::StayWindow),
    ("leave-begin", Way::Leave),
    ("leave-step", Way::Leave),
    ("leave-judged", Way::Leave),
    ("leave-over", Way::Leave),
    ("held", Way::Held),
    ("held-leaves", Way::Held),
    ("goes", Way::Reset),
    ("departs", Way::Reset),
    ("last-steps", Way::Reset),
    ("back-begin", Way::Back),
    ("back-counted", Way::Back),
    ("back-set-up", Way::Back),
    ("back-told", Way::Back),
    ("smc-before", Way::On),
    ("smc-after", Way::On),
    ("off", Way::Off),
    ("arrive", Way::Arrive),
    ("arrived", Way::Arrive),
    ("enter-set-up", Way::Arrive),
    ("enter-level", Way::Arrive),
    ("enter-last", Way::Arrive),
    ("stage2-hide", Way::Leave),
    ("stage2-show", Way::Leave),
    ("stage2-edit", Way::Fetch),
    ("log-line", Way::Unknown),
    ("log-ring", Way::Unknown),
    ("event", Way::Reset),
    ("window", Way::Window),
    ("window", Way::Vectors),
    ("window-done", Way::Window),
    ("window-done", Way::Vectors),
    ("report-begin", Way::Report),
    ("report-registers", Way::Report),
    ("report-backtrace", Way::Report),
    ("report-again", Way::ReportAgain),
    ("rescue-plan", Way::ReportAgain),
    ("rescue-go", Way::ReportAgain),
    ("rescue-kept", Way::ReportAgain),
    ("rescue-last", Way::ReportAgain),
    ("rescue-tell", Way::Report),
    ("rescue-plan", Way::Report),
    ("rescue-go", Way::Report),
    ("rescue-kept", Way::Report),
    ("rescue-last", Way::Report),
];

global_asm!(
    ".pushsection .text.death, \"ax\"",
    ".global guest_death_hvc, guest_death_smc, guest_death_load, guest_death_store",
    "guest_death_hvc: hvc #0",
    "brk #{END}",
    "guest_death_smc: smc #0",
    "brk #{END}",
    "guest_death_load: ldr x1, [x5]",
    "brk #{END}",
    "guest_death_store: str x1, [x5]",
    "brk #{END}",
    ".popsection",
    END = const crate::code::END_IMMEDIATE,
);

unsafe extern "C" {
    static guest_death_hvc: u8;
    static guest_death_smc: u8;
    static guest_death_load: u8;
    static guest_death_store: u8;
}

macro_rules! instruction {
    ($name:ident) => {
        (&raw const $name).addr() as u64
    };
}

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; 4096]>);

// SAFETY: each is used by one CPU.
unsafe impl Sync for Page {}

static PAGES: [Page; CPUS] = [const { Page(UnsafeCell::new([0; 4096])) }; CPUS];

// What CPUs do: each has a place for a task and counts those that it has done.

static TASKS: [AtomicPtr<()>; CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; CPUS];
static COUNT: AtomicU64 = AtomicU64::new(0);
static WORKING: [AtomicBool; CPUS] = [const { AtomicBool::new(false) }; CPUS];

fn work(index: usize) {
    if index == 0 {
        return watch();
    }
    WORKING[index].store(true, Ordering::Release);
    loop {
        let task = TASKS[index].load(Ordering::Acquire);
        if !task.is_null() {
            // SAFETY: `begin` has stored a `fn()`.
            let task = unsafe { core::mem::transmute::<*mut (), fn()>(task) };
            task();
            TASKS[index].store(core::ptr::null_mut(), Ordering::Release);
        }
        if index == COUNTER {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
        core::hint::spin_loop();
    }
}

fn begin(cpu: usize, task: fn()) {
    TASKS[cpu].store(task as *mut (), Ordering::Release);
}

fn is_done(cpu: usize) -> bool {
    smp::wait_for(|| TASKS[cpu].load(Ordering::Acquire).is_null())
}

/// Runs a task on a CPU. It may be this one.
fn run_on(cpu: usize, what: &str, task: fn()) {
    if cpu == 0 {
        return task();
    }
    begin(cpu, task);
    check!(is_done(cpu), "{}: CPU {cpu} does not come back", what);
}

// What Exeunt says.

fn is_exeunt() -> bool {
    // SAFETY: answered by Exeunt, or refused by a stub.
    unsafe { call::version() }.is_ok()
}

fn arm(place: u64, kind: u64, cpu: usize) -> [u64; 4] {
    // SAFETY: a build with faults answers; what dies later is what this guest is for.
    unsafe { call::hvc([ARM, place, kind, machine().mpidrs()[cpu], 0]) }
}

/// The number of a place.
fn number(name: &str) -> Option<u64> {
    for place in 0.. {
        let [x0, words @ ..] = arm(place, 0, 0);
        if x0 != 0 {
            return None;
        }
        let mut bytes = [0; 24];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        if &bytes[..length] == name.as_bytes() {
            return Some(place);
        }
    }
    None
}

/// What STATUS says of a CPU. On CPU 0.
fn status(cpu: usize) -> StatusCpu {
    let page = PAGES[0].0.get();
    // SAFETY: the page is this CPU's.
    let bytes = unsafe {
        let status = call::status(page as u64, 4096, 0);
        check!(status.is_ok(), "STATUS: {status:?}");
        page.read_volatile()
    };
    bytes[StatusHeader::SIZE + cpu * StatusCpu::SIZE..]
        .first_chunk()
        .map_or(StatusCpu::default(), StatusCpu::from_bytes)
}

static WAY: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Brings Exeunt back on the calling CPU, if it is not there.
fn come_back() {
    if is_exeunt() {
        return;
    }
    let [vectors, number] = [0, 1].map(|index: usize| WAY[index].load(Ordering::Acquire));
    // SAFETY: the CPU is outside, in a stub.
    let back = unsafe { call::reenter(WayBack { vectors, number }) };
    check!(back.is_ok(), "CPU {}: REENTER: {back:?}", cpu::index());
}

// What the CPU that dies does, and what it finds. All of it is kept for CPU 0 to look at.

static X0: AtomicU64 = AtomicU64::new(0);
static ESR: AtomicU64 = AtomicU64::new(0);
/// Registers that are not what they were, or the way ended elsewhere.
static WRONG: AtomicUsize = AtomicUsize::new(0);
static STILL_THERE: AtomicBool = AtomicBool::new(false);
static ARGUMENTS: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];
static CODE: AtomicU64 = AtomicU64::new(0);
static MMU_OFF: AtomicBool = AtomicBool::new(false);

/// What a CPU finds after an instruction.
struct Found {
    x0: u64,
    esr: u64,
    /// Registers that are not what they were.
    wrong: usize,
}

/// Executes what was asked for with random registers, and looks at all of them.
fn attempt() -> Found {
    let mut random = Random::new(read_register!("cntvct_el0") ^ (cpu::index() as u64) << 48);
    let mut context = Context::new(CODE.load(Ordering::Relaxed), EL1H | DAIF);
    for register in &mut context.x {
        *register = random.next();
    }
    for (register, argument) in context.x.iter_mut().zip(&ARGUMENTS) {
        *register = argument.load(Ordering::Relaxed);
    }
    if MMU_OFF.load(Ordering::Relaxed) {
        context.sctlr = SCTLR_OFF;
    }
    context.sp_el0 = random.next() & !15;
    context.sp_el1 = random.next() & !15;
    let before = context;
    // SAFETY: a call or an access that ends with an exception.
    unsafe { context.enter() };
    // x0 is an answer, and x1 to x3 may be.
    let mut wrong = context.x[4..].iter().zip(&before.x[4..]).filter(|(now, before)| now != before).count();
    wrong += usize::from(context.sp_el0 != before.sp_el0) + usize::from(context.sp_el1 != before.sp_el1);
    Found { x0: context.x[0], esr: context.esr, wrong }
}

fn execute() {
    let Found { x0, esr, wrong } = attempt();
    X0.store(x0, Ordering::Relaxed);
    ESR.store(esr, Ordering::Relaxed);
    WRONG.store(wrong, Ordering::Relaxed);
    STILL_THERE.store(is_exeunt(), Ordering::Release);
}

fn prepare(code: u64, arguments: [u64; 6]) {
    CODE.store(code, Ordering::Relaxed);
    MMU_OFF.store(false, Ordering::Relaxed);
    for (place, argument) in ARGUMENTS.iter().zip(arguments) {
        place.store(argument, Ordering::Relaxed);
    }
}

/// A SOFT_RESTART, and where it lands.
fn restart() {
    let index = cpu::index();
    landing::prepare(index);
    let mut context = Context::new(instruction!(guest_death_hvc), EL1H | DAIF);
    context.x[..5].copy_from_slice(&[SOFT_RESTART, landing::entry(index), 1, 2, 3]);
    let entries = landing::last(index).count;
    // SAFETY: the call goes to the payload, which comes back with a `brk`.
    unsafe { context.enter() };
    let landed = landing::last(index);
    let came = context.ended_at(landing::end()) && landed.count == entries + 1 && landed.x[..3] == [1, 2, 3];
    X0.store(landed.current_el >> 2, Ordering::Relaxed);
    ESR.store(context.esr, Ordering::Relaxed);
    WRONG.store(usize::from(!came), Ordering::Relaxed);
    STILL_THERE.store(is_exeunt(), Ordering::Release);
}

fn leave() {
    // SAFETY: all CPUs of this guest can live in a stub.
    let _ = unsafe { call::leave() };
}

fn go_out() {
    // SAFETY: the guest is made for it.
    let left = unsafe { call::reset_vectors() };
    check!(left.is_ok(), "RESET_VECTORS: {left:?}");
}

fn trace(change: u32) {
    // SAFETY: whether exits are traced has no effect on the guest.
    let _ = unsafe { call::trace(change) };
}

fn turn_off() {
    WORKING[cpu::index()].store(false, Ordering::Release);
    smp::go_off();
}

fn is_off(cpu: usize) -> bool {
    smp::wait_for(|| firmware::psci(AFFINITY_INFO[1], [machine().mpidrs()[cpu], 0, 0]) == AFFINITY_OFF)
}

/// Turns a CPU on that was turned off by [`turn_off`], and waits until it works.
fn turn_on(cpu: usize, what: &str) {
    let area = core::ptr::from_ref(cpu::prepare(cpu)) as u64;
    let result = firmware::psci(CPU_ON[1], [machine().mpidrs()[cpu], secondary_entry as *const () as u64, area]);
    check!(result == 0, "{what}: CPU_ON of CPU {cpu}: {result}");
    comes_up(cpu, what);
}

/// Waits for a CPU that somebody turns on.
fn comes_up(cpu: usize, what: &str) {
    check!(smp::wait_for(|| smp::online() == CPUS), "{what}: CPU {cpu} does not come up");
    smp::join();
    check!(smp::wait_for(|| WORKING[cpu].load(Ordering::Acquire)), "{what}: CPU {cpu} does not work");
}

fn policy(policy: Policy) {
    // SAFETY: changes the policy alone.
    let set = unsafe { call::restart_policy(RESTART_KEXEC | RESTART_CRASH, policy) };
    check!(set.is_ok(), "RESTART_POLICY: {set:?}");
}

/// How many GiB blocks have been executed in.
static BLOCKS: AtomicU64 = AtomicU64::new(0);

/// Goes the way, with whatever is armed. Gives the CPU that has died.
fn go(way: Way, what: &str) {
    let own = machine().reserved.map_or(0, |own| own.base);
    let (hvc, smc) = (instruction!(guest_death_hvc), instruction!(guest_death_smc));
    let uid = u64::from(vendor::CALL_UID);
    match way {
        Way::Own | Way::Traced | Way::Report | Way::ReportAgain => prepare(hvc, [uid, 0, 0, 0, 0, 0]),
        Way::Status => prepare(hvc, [vendor::STATUS.into(), PAGES[VICTIM].0.get() as u64, 4096, 0, 0, 0]),
        Way::Smc => prepare(smc, [PSCI_VERSION, 0, 0, 0, 0, 0]),
        Way::Unknown => prepare(hvc, [0x7f, 0, 0, 0, 0, 0]),
        Way::Abort => prepare(instruction!(guest_death_load), [0, 0, 0, 0, 0, own + 0x2000]),
        Way::DoorbellLoad => prepare(instruction!(guest_death_load), [0, 0, 0, 0, 0, own + MIRROR]),
        Way::DoorbellCall => {
            let ticket = doorbell::load(OPEN);
            let (channel, arguments) = (channel(ticket), [uid, 0, 0, 0]);
            for (index, argument) in (0..).zip(arguments) {
                doorbell::store(channel + A0 + 8 * index, argument);
            }
            prepare(instruction!(guest_death_store), [0, seal(ticket, arguments), 0, 0, 0, own + channel + GO]);
        }
        Way::DoorbellStore => prepare(instruction!(guest_death_store), [0, 0, 0, 0, 0, own + A0]),
        Way::Fetch => {
            // A block that was not executed in before.
            let block = BLOCKS.fetch_add(1, Ordering::Relaxed) + 64;
            prepare(block << 30, [0; 6]);
            MMU_OFF.store(true, Ordering::Relaxed);
        }
        Way::Reset => prepare(hvc, [RESET_VECTORS, 0, 0, 0, 0, 0]),
        Way::Leave => prepare(hvc, [vendor::LEAVE.into(), 0, 0, 0, 0, 0]),
        Way::Back => {
            let [vectors, number] = [0, 1].map(|index: usize| WAY[index].load(Ordering::Acquire));
            prepare(hvc, [number, vectors, 0, 0, 0, 0]);
        }
        Way::On => {
            let area = core::ptr::from_ref(cpu::prepare(TARGET)) as u64;
            prepare(smc, [CPU_ON[1], machine().mpidrs()[TARGET], secondary_entry as *const () as u64, area, 0, 0]);
        }
        Way::Off => prepare(smc, [CPU_OFF, 0, 0, 0, 0, 0]),
        Way::Vectors => prepare(hvc, [stub::WHO, 0, 0, 0, 0, 0]),
        Way::Restart | Way::Stay | Way::StayWindow | Way::Held | Way::Arrive | Way::Window => {}
    }
    match way {
        Way::Restart | Way::Stay | Way::StayWindow => run_on(VICTIM, what, restart),
        Way::Held => {
            run_on(COUNTER, what, leave);
            STILL_THERE.store(true, Ordering::Release);
            run_on(VICTIM, what, || STILL_THERE.store(is_exeunt(), Ordering::Release));
        }
        Way::Arrive | Way::Window => {
            turn_on(TARGET, what);
            run_on(TARGET, what, || STILL_THERE.store(is_exeunt(), Ordering::Release));
        }
        Way::Off => {
            WORKING[VICTIM].store(false, Ordering::Release);
            smp::count_out();
            begin(VICTIM, execute);
            check!(is_off(VICTIM), "{what}: it is not off");
            TASKS[VICTIM].store(core::ptr::null_mut(), Ordering::Release);
            STILL_THERE.store(false, Ordering::Release);
        }
        _ => run_on(VICTIM, what, execute),
    }
}

/// What x0 may be afterwards; nothing: it is what it was.
fn answers(way: Way) -> &'static [u64] {
    match way {
        Way::Own
        | Way::Traced
        | Way::Status
        | Way::Unknown
        | Way::Leave
        | Way::Back
        | Way::Vectors
        | Way::Report
        | Way::ReportAgain => &[STUB_ERR],
        // SUCCESS, or ALREADY_ON, or ON_PENDING.
        Way::On => &[0, 0xffff_ffff_ffff_fffc, 0xffff_fffc, 0xffff_ffff_ffff_fffb, 0xffff_fffb],
        Way::Smc => &[0x1_0001, 0x1_0000, 2, 0x1_0003],
        _ => &[0],
    }
}

/// One death.
fn die(place: &str, number: u64, way: Way, kind: (u64, &str)) {
    struct What<'a>(&'a str, &'a str);

    impl Display for What<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}:{}", self.0, self.1)
        }
    }

    let what = What(place, kind.1);
    let victim = way.victim();
    println!("death: {what}");
    X0.store(0, Ordering::Relaxed);
    WRONG.store(0, Ordering::Relaxed);
    STILL_THERE.store(true, Ordering::Release);
    match way {
        Way::Traced => run_on(VICTIM, place, || trace(vendor::TRACE_START)),
        Way::Stay | Way::StayWindow => policy(Policy::Resident),
        Way::Back => run_on(VICTIM, place, || {
            go_out();
            // SAFETY: the table is the one that Exeunt named.
            let set = unsafe { call::set_vectors(WAY[0].load(Ordering::Acquire)) };
            check!(set.is_ok(), "SET_VECTORS: {set:?}");
        }),
        Way::Vectors => run_on(VICTIM, place, || {
            // Of a CPU that has come back Exeunt knows no vectors, and takes the next ones for installed ones.
            go_out();
            come_back();
            // SAFETY: the table answers.
            let set = unsafe { call::set_vectors(stub::vectors()) };
            check!(set.is_ok(), "SET_VECTORS: {set:?}");
        }),
        Way::On | Way::Arrive | Way::Window => {
            begin(TARGET, turn_off);
            check!(is_off(TARGET), "{what}: the target does not go off");
            TASKS[TARGET].store(core::ptr::null_mut(), Ordering::Release);
        }
        Way::Report | Way::ReportAgain => {
            let first = arm(self::number("own-call").unwrap_or(u64::MAX), 1, victim);
            check!(first[0] == 0, "{what}: not armed");
            if way == Way::ReportAgain {
                arm(self::number("report-registers").unwrap_or(u64::MAX), 1, victim);
            }
        }
        _ => {}
    }
    check!(arm(number, kind.0, victim)[0] == 0, "{what}: not armed");
    go(way, place);
    if way == Way::On {
        comes_up(TARGET, place);
    }

    // It has happened, it was survived, and everybody goes on.
    come_back();
    check!(arm(0, u64::MAX, victim)[0] == 0, "{what}: did not happen");
    check!(!STILL_THERE.load(Ordering::Acquire), "{what}: Exeunt is still there");
    if kind == LOST_FRAME {
        let esr = ESR.load(Ordering::Relaxed);
        check!(esr == SERROR, "{what}: ESR {esr:#x}");
    } else if !matches!(way, Way::Held | Way::Arrive | Way::Window | Way::Off) {
        let (x0, esr, wrong) = (X0.load(Ordering::Relaxed), ESR.load(Ordering::Relaxed), WRONG.load(Ordering::Relaxed));
        check!(wrong == 0, "{what}: {wrong} registers are wrong, ESR {esr:#x}");
        let expected = if matches!(way, Way::Restart | Way::Stay | Way::StayWindow) { &[2][..] } else { answers(way) };
        check!(expected.contains(&x0), "{what}: x0 is {x0:#x}, ESR {esr:#x}");
    }
    let StatusCpu { state, flags, .. } = status(victim);
    let left = [CpuState::Stub, CpuState::Gone].map(|state| state as u8);
    check!(left.contains(&state) && flags & CPU_DIED != 0, "{what}: STATUS says {state}, flags {flags:#x}");
    let before = COUNT.load(Ordering::Relaxed);
    check!(smp::wait_for(|| COUNT.load(Ordering::Relaxed) > before), "{what}: the others do not run");

    // And all is as before.
    if way == Way::Off {
        turn_on(VICTIM, place);
    }
    for cpu in [VICTIM, COUNTER, TARGET] {
        run_on(cpu, place, come_back);
    }
    match way {
        Way::Traced => run_on(VICTIM, place, || trace(vendor::TRACE_STOP)),
        Way::Stay | Way::StayWindow => policy(Policy::Leave),
        _ => {}
    }
    all_are_back(what);
}

fn all_are_back(what: impl Display) {
    for cpu in 0..CPUS {
        let StatusCpu { state, flags, .. } = status(cpu);
        let is_back = state == CpuState::Live as u8 && flags & CPU_DIED == 0;
        check!(is_back, "{what}: CPU {cpu} is in state {state} in the end, flags {flags:#x}");
    }
}

// All CPUs but CPU 0 lose TPIDR_EL2 in the same instant.

/// In how many turns Exeunt shall have seen two of them at a time. How they meet is the machine's business.
const MEETINGS: u64 = 5;
/// The most turns.
const TURNS: usize = 100;

/// CPUs that are about to.
static READY: AtomicUsize = AtomicUsize::new(0);
/// How many registers of each were wrong; all ones if it was not answered by a stub.
static WRONG_OF: [AtomicUsize; CPUS] = [const { AtomicUsize::new(0) }; CPUS];

fn lose() {
    READY.fetch_add(1, Ordering::AcqRel);
    smp::wait_for(|| READY.load(Ordering::Acquire) == CPUS - 1);
    let Found { x0, wrong, .. } = attempt();
    let died = x0 == STUB_ERR && !is_exeunt();
    WRONG_OF[cpu::index()].store(if died { wrong } else { usize::MAX }, Ordering::Release);
}

/// Gives how often Exeunt has died.
fn lose_together() -> usize {
    let (what, place, (kind, _)) = ("together", number("own-call").unwrap_or(u64::MAX), LOST_CPU);
    let (mut turns, mut met) = (0, 0);
    while met < MEETINGS && turns < TURNS {
        turns += 1;
        println!("death: {} CPUs lose TPIDR_EL2, turn {turns}", CPUS - 1);
        prepare(instruction!(guest_death_hvc), [vendor::CALL_UID.into(), 0, 0, 0, 0, 0]);
        READY.store(0, Ordering::Release);
        for cpu in 1..CPUS {
            check!(arm(place, kind, cpu)[0] == 0, "{what}: not armed");
        }
        for cpu in 1..CPUS {
            begin(cpu, lose);
        }
        for (cpu, wrong) in WRONG_OF.iter().enumerate().skip(1) {
            check!(is_done(cpu), "{what}: CPU {cpu} does not come back");
            let wrong = wrong.load(Ordering::Acquire);
            check!(wrong == 0, "{what}: {wrong} registers of CPU {cpu} are wrong");
        }
        for cpu in 1..CPUS {
            run_on(cpu, what, come_back);
            let [waiting, together, ..] = arm(0, u64::MAX, cpu);
            check!(waiting == 0, "{what}: CPU {cpu} did not die");
            met += together;
        }
        all_are_back(what);
    }
    println!("death: two CPUs at a time had lost TPIDR_EL2 in {met} of {turns} turns");
    check!(met >= MEETINGS, "{what}: two CPUs at a time in {met} of {turns} turns");
    turns * (CPUS - 1)
}

fn watch() {
    // SAFETY: Exeunt is there, and the call changes nothing.
    let way = unsafe { call::way_back() }.expect("REENTER names a way back");
    WAY[0].store(way.vectors, Ordering::Release);
    WAY[1].store(way.number, Ordering::Release);
    for (cpu, works) in WORKING.iter().enumerate().skip(1) {
        check!(smp::wait_for(|| works.load(Ordering::Acquire)), "CPU {cpu} does not work");
    }
    let (all, only) = (machine().words().any(|word| word == "kinds"), machine().option("only"));
    let at_el2 = level::entry_level() == 2;
    let mut deaths = 0;
    for (index, &(place, way)) in PLACES.iter().enumerate() {
        if only.is_some_and(|only| only != place) || way.is_of_el2() && !at_el2 {
            continue;
        }
        let Some(number) = number(place) else {
            check!(false, "{place}: there is no such place");
            continue;
        };
        for (turn, &kind) in KINDS.iter().enumerate() {
            let is_its_turn = all || turn == index % KINDS.len() || (place, kind) == ALWAYS;
            match kind {
                LOST_FRAME if is_its_turn && !way.bears_lost_frame() && all => continue,
                LOST_FRAME if is_its_turn && !way.bears_lost_frame() => die(place, number, way, KINDS[0]),
                _ if is_its_turn => die(place, number, way, kind),
                _ => continue,
            }
            deaths += 1;
        }
    }
    // No place is left out.
    for place in 0.. {
        if arm(place, 0, 0)[0] != 0 {
            let known = PLACES
                .iter()
                .enumerate()
                .filter(|(index, (name, _))| PLACES[..*index].iter().all(|(before, _)| before != name));
            let known = known.count();
            check!(place as usize == known, "{place} places, of which {known} are known here");
            break;
        }
    }
    if only.is_none_or(|only| only == "together") {
        deaths += lose_together();
    }
    println!("death: Exeunt has died {deaths} times");
    crate::report::finish("death");
}

/// Runs the test, on the boot CPU.
pub fn run(_: &Start) {
    level::set_vectors(stub::vectors());
    let cpus = smp::start_all();
    check!(cpus == CPUS, "{cpus} CPUs");
    smp::on_all(work);
}
