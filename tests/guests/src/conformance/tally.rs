//! What was called in which state: one line for each case, and the table at the end.
//!
//! Owns the counts, and the list of cases that all CPUs work on.

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::case::{Case, Conditions, End, Outcome, Want};

/// What the CPU's EL2 is: a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In virtual EL2, before the exception return to EL1.
    VirtualEl2,
    /// Exeunt is live, the host was entered at EL1.
    LiveEl1,
    /// Exeunt is live, the host was entered at virtual EL2.
    LiveEl2,
    /// Exeunt is live and locked.
    Locked,
    /// Another CPU's LEAVE is under way.
    Leaving,
    /// The resident stub's vectors.
    Stub,
    /// The host's own vectors.
    Gone,
    /// The vectors that REENTER names, before the second call.
    Table,
}

impl State {
    /// All, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::VirtualEl2,
        Self::LiveEl1,
        Self::LiveEl2,
        Self::Locked,
        Self::Leaving,
        Self::Stub,
        Self::Gone,
        Self::Table,
    ];

    /// Its name in lines and table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::VirtualEl2 => "virtual-el2",
            Self::LiveEl1 => "live-el1",
            Self::LiveEl2 => "live-el2",
            Self::Locked => "locked",
            Self::Leaving => "leaving",
            Self::Stub => "stub",
            Self::Gone => "gone",
            Self::Table => "table",
        }
    }
}

macro_rules! calls {
    ($($name:ident $words:literal,)*) => {
        /// What is called: a row of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the words say it")]
        pub enum Call {
            $($name,)*
        }

        impl Call {
            const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in lines and table.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)*
                }
            }
        }
    };
}

calls! {
    SetVectors "SET_VECTORS",
    SoftRestart "SOFT_RESTART",
    ResetVectors "RESET_VECTORS",
    FinaliseEl2 "FINALISE_EL2",
    GetIchVtr "GET_ICH_VTR_EL2",
    Count "CALL_COUNT",
    Uid "CALL_UID",
    Revision "REVISION",
    Version "VERSION",
    Features "FEATURES",
    Status "STATUS",
    RestartPolicy "RESTART_POLICY",
    Leave "LEAVE",
    Lock "LOCK",
    Reenter "REENTER",
    LogRead "LOG_READ",
    Trace "TRACE",
    Stage2Range "STAGE2_RANGE",
    Panic "PANIC",
    CrashKernel "CRASH_KERNEL",
    Psci "PSCI",
    Architecture "architecture's",
    OtherNumber "other numbers",
    OtherImmediate "other immediates",
}

const STATES: usize = State::ALL.len();
const CALLS: usize = Call::ALL.len();

static TABLE: [[AtomicU32; STATES]; CALLS] = [const { [const { AtomicU32::new(0) }; STATES] }; CALLS];
static WRONG: AtomicUsize = AtomicUsize::new(0);
/// Wrong cases that are described; the rest is counted.
const DESCRIBED: usize = 30;

/// The most cases in a list.
const MOST: usize = 512;

struct Shared(UnsafeCell<[Option<Case>; MOST]>);

// SAFETY: written by the boot CPU while no other looks at it.
unsafe impl Sync for Shared {}

static LIST: Shared = Shared(UnsafeCell::new([None; MOST]));
static LENGTH: AtomicUsize = AtomicUsize::new(0);
static DONE: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];
static BAD: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];
static RESULT: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];

/// Begins a new list.
pub fn clear() {
    for number in 0..LENGTH.swap(0, Ordering::AcqRel) {
        DONE[number].store(0, Ordering::Relaxed);
        BAD[number].store(0, Ordering::Relaxed);
    }
}

/// Adds a case.
///
/// # Panics
/// When the list is full.
pub fn add(case: Case) {
    let number = LENGTH.load(Ordering::Relaxed);
    assert!(number < MOST, "more than {MOST} cases in a list");
    // SAFETY: only the boot CPU changes the list, while the others wait.
    unsafe { (*LIST.0.get())[number] = Some(case) };
    LENGTH.store(number + 1, Ordering::Release);
}

/// The case with this number.
pub fn case(number: usize) -> Option<Case> {
    if number >= LENGTH.load(Ordering::Acquire) {
        return None;
    }
    // SAFETY: see `Shared`.
    unsafe { (*LIST.0.get())[number] }
}

/// Counts what came of the case with this number.
pub fn note(state: State, number: usize, cpu: usize, conditions: u32, outcome: &Outcome) {
    let Some(case) = case(number) else { return };
    TABLE[case.call as usize][state as usize].fetch_add(1, Ordering::Relaxed);
    DONE[number].fetch_add(1, Ordering::Relaxed);
    RESULT[number].store(outcome.x[0], Ordering::Relaxed);
    let Some(problem) = outcome.problem else {
        check!(true, "");
        return;
    };
    BAD[number].fetch_add(1, Ordering::Relaxed);
    if WRONG.fetch_add(1, Ordering::Relaxed) < DESCRIBED {
        let Case { call, what, immediate, x, .. } = case;
        println!(
            "conformance: WRONG: {} CPU {cpu} {} {what} #{immediate:#x} {x:x?} ({}): {problem}; x0 to x3 {:x?}",
            state.name(),
            call.name(),
            Conditions(conditions),
            outcome.x
        );
    }
    check!(false, "{} in {}", case.call.name(), state.name());
}

/// What a line says of results.
struct Results {
    want: [Want; 4],
    end: End,
    x0: u64,
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.end {
            End::El2 => return f.write_str("the payload at EL2"),
            End::VirtualEl2 => return f.write_str("the payload at virtual EL2"),
            End::El1 => return f.write_str("the payload at EL1"),
            End::Returns => {}
        }
        match self.want[0] {
            Want::Is(value) if value.cast_signed() < 0 => write!(f, "{}", value.cast_signed()),
            Want::Is(value) => write!(f, "{value:#x}"),
            _ => write!(f, "{:#x}", self.x0),
        }
    }
}

/// Prints a line for each case of the list; neighbours of the same kind share one.
pub fn print(state: State) {
    let mut first = 0;
    while let Some(one) = case(first) {
        let same = |other: Case| other.call == one.call && other.what == one.what && other.want[0] == one.want[0];
        let mut last = first;
        while case(last).is_some_and(same) {
            last += 1;
        }
        print_range(state, &one, first..last);
        first = last;
    }
}

/// Prints the line of one case.
pub fn print_one(state: State, number: usize) {
    if let Some(one) = case(number) {
        print_range(state, &one, number..number + 1);
    }
}

fn print_range(state: State, one: &Case, range: Range<usize>) {
    let sum =
        |counts: &[AtomicU32]| counts[range.clone()].iter().map(|count| count.load(Ordering::Relaxed)).sum::<u32>();
    let (done, bad) = (sum(&DONE), sum(&BAD));
    let results = Results { want: one.want, end: one.end, x0: RESULT[range.start].load(Ordering::Relaxed) };
    let (name, call, what) = (state.name(), one.call.name(), one.what);
    if bad == 0 && done > 0 {
        println!("conformance: {name}: {call} {what} -> {results}: ok, {done} times");
    } else {
        println!("conformance: {name}: {call} {what} -> expected {results}: WRONG, {bad} of {done} times");
        check!(done > 0, "{name}: {call} {what} was never called");
    }
}

/// Counts one call that is no case of a list, and says what came of it.
pub fn single(state: State, call: Call, held: bool, what: fmt::Arguments) {
    TABLE[call as usize][state as usize].fetch_add(1, Ordering::Relaxed);
    let (name, call) = (state.name(), call.name());
    println!("conformance: {name}: {call} {what}: {}", if held { "ok" } else { "WRONG" });
    check!(held, "{name}: {call} {what}");
}

/// Prints the table.
pub fn print_table() {
    crate::console::print(format_args!("conformance: {:16}", ""));
    for state in State::ALL {
        crate::console::print(format_args!("{:>12}", state.name()));
    }
    println!("");
    for call in Call::ALL {
        crate::console::print(format_args!("conformance: {:16}", call.name()));
        for count in &TABLE[*call as usize] {
            crate::console::print(format_args!("{:>12}", count.load(Ordering::Relaxed)));
        }
        println!("");
    }
}
