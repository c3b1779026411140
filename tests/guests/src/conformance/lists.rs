//! The calls, and what docs/abi.md says that each answers in each state.
//!
//! Owns the lists of cases that leave the state as it is. Calls that change it are in the module above.

use guest_abi::record::{STATUS_VERSION, StatusCpu, StatusHeader, status_size};
use guest_abi::stub::{
    FINALISE_EL2, GET_ICH_VTR_EL2, RESET_VECTORS, SET_VECTORS, SOFT_RESTART, STUB_CALLS_END, STUB_ERR,
};
use guest_abi::table::{Other, bounds};
use guest_abi::vendor::{self, Error, Policy};

use super::case::{Case, End, OWN_ENTRY, OWN_PAGE, Want};
use super::stub;
use super::tally::{self, Call, State};
use crate::firmware::{Conduit, PSCI_FEATURES, PSCI_VERSION, SMCCC_VERSION, call_by};
use crate::machine::{Gic, machine};

use Want::{Any, Is, Same};

/// What the lists depend on besides the state.
#[derive(Clone, Copy)]
pub struct Setting {
    /// The state.
    pub state: State,
    /// Policies for a kexec and for a crash.
    pub policies: [Policy; 2],
    /// Where a SOFT_RESTART goes, if one is to be made: not where it would change the state.
    pub restart: Option<End>,
    /// SET_VECTORS to the host's own table is among the cases.
    pub set_vectors: bool,
    /// The host's own table: that of [`stub`], or one that is looked at in its place.
    pub own: u64,
}

/// SMCCC_ARCH_FEATURES (DEN0028).
const ARCH_FEATURES: u64 = 0x8000_0001;
/// QEMU's virt has its PL011 there.
const DEVICE: u64 = 0x0900_0000;

fn refused(code: u64) -> [Want; 4] {
    [Is(code), Same, Same, Same]
}

fn error(error: Error) -> [Want; 4] {
    refused(error.to_register())
}

fn returns(call: Call, what: &'static str, x: [u64; 5], want: [Want; 4]) {
    tally::add(Case { call, what, immediate: 0, x, want, end: End::Returns });
}

/// x0 to x4 of a call with up to three arguments; x4 must stay.
fn arguments(number: u64, [x1, x2, x3]: [u64; 3]) -> [u64; 5] {
    [number, x1, x2, x3, 0x5a5a_a5a5_0f0f_f0f0]
}

impl Setting {
    fn is_live(&self) -> bool {
        matches!(self.state, State::LiveEl1 | State::LiveEl2 | State::Locked)
    }

    /// Fills the list.
    pub fn fill(&self) {
        tally::clear();
        self.set_vectors();
        self.soft_restart();
        self.other_stub_calls();
        self.own_calls();
        self.other_numbers();
        self.bounds();
        self.immediates();
    }

    fn set_vectors(&self) {
        let list = |what, x1, want| returns(Call::SetVectors, what, arguments(SET_VECTORS, [x1, 2, 3]), want);
        let owns_el2 = self.state != State::LiveEl1 && crate::level::entry_level() == 2 || !self.is_live();
        if self.set_vectors {
            let want = if owns_el2 { refused(0) } else { refused(STUB_ERR) };
            list("x1 the host's own table", self.own, want);
        }
        // The host's own stub looks at nothing.
        if self.state == State::Gone {
            return;
        }
        for (what, x1) in [
            ("x1 misaligned", stub::vectors() + 1),
            ("x1 misaligned", stub::vectors() + 4),
            ("x1 misaligned", stub::vectors() + 0x400),
        ] {
            list(what, x1, refused(STUB_ERR));
        }
        for (what, x1) in bad_addresses() {
            list(what, x1 & !0x7ff, refused(STUB_ERR));
        }
    }

    fn soft_restart(&self) {
        if let Some(end) = self.restart {
            tally::add(Case {
                call: Call::SoftRestart,
                what: "x1 a payload",
                immediate: 0,
                x: [SOFT_RESTART, OWN_ENTRY, 0x1111_2222_3333_4444, 0x5555_6666_7777_8888, 0x9999_aaaa_bbbb_cccc],
                want: [Is(0x1111_2222_3333_4444), Is(0x5555_6666_7777_8888), Is(0x9999_aaaa_bbbb_cccc), Same],
                end,
            });
        }
        // Stubs do not look where they go.
        if !self.is_live() {
            return;
        }
        let list = |what, x1| {
            returns(Call::SoftRestart, what, [SOFT_RESTART, x1, 2, 3, 4], refused(STUB_ERR));
        };
        for offset in 1..4 {
            list("x1 misaligned", OWN_ENTRY + offset);
        }
        for (what, x1) in bad_addresses() {
            list(what, x1);
        }
    }

    fn other_stub_calls(&self) {
        let list = |call, what, number, want| returns(call, what, arguments(number, [1, 2, 3]), want);
        if !self.is_live() {
            list(Call::ResetVectors, "with nothing to reset", RESET_VECTORS, refused(0));
        } else if self.state == State::Locked {
            list(Call::ResetVectors, "after LOCK", RESET_VECTORS, refused(STUB_ERR));
        }
        list(Call::FinaliseEl2, "", FINALISE_EL2, refused(STUB_ERR));
        let has_register = matches!(machine().gic, Some(Gic::V3 { .. })) && self.state != State::Gone;
        let want = if has_register { [Is(0), Any, Same, Same] } else { refused(STUB_ERR) };
        list(Call::GetIchVtr, "", GET_ICH_VTR_EL2, want);
    }

    fn own_calls(&self) {
        let list = |call, what, id: u64, x: [u64; 3], want| {
            let want = if self.is_live() { want } else { refused(STUB_ERR) };
            returns(call, what, arguments(id, x), want);
        };
        let junk = [0x1111, 0x2222, 0x3333];
        let uid = vendor::UID_REGISTERS.map(|word| Is(u64::from(word)));
        list(Call::Count, "", vendor::CALL_COUNT.into(), junk, [Is(12), Same, Same, Same]);
        list(Call::Uid, "", vendor::CALL_UID.into(), junk, uid);
        list(
            Call::Revision,
            "",
            vendor::REVISION.into(),
            junk,
            [Is(vendor::ABI_MAJOR.into()), Is(vendor::ABI_MINOR.into()), Same, Same],
        );
        let version = [Is(vendor::ABI_VERSION.into()), Any, Same, Same];
        list(Call::Version, "", vendor::VERSION.into(), junk, version);
        list(Call::Version, "with the SVE hint", u64::from(vendor::VERSION) | 1 << 16, junk, version);
        list(Call::Version, "with a high word", u64::from(vendor::VERSION) | 0xdead_beef << 32, junk, version);
        for id in vendor::CALLS.into_iter().chain([vendor::CALL_COUNT, vendor::CALL_UID, vendor::REVISION]) {
            let flags = match id {
                vendor::STATUS => u64::from(STATUS_VERSION),
                vendor::RESTART_POLICY => 0b11,
                _ => 0,
            };
            list(
                Call::Features,
                "w1 a call",
                vendor::FEATURES.into(),
                [id.into(), 2, 3],
                [Is(0), Is(flags), Same, Same],
            );
        }
        for id in [0, 4, 0x8600_4510, 0xc600_4502 ^ 1 << 30, 0x8400_0000, u64::MAX] {
            list(Call::Features, "w1 unknown", vendor::FEATURES.into(), [id, 2, 3], error(Error::NotSupported));
        }
        Self::status(list);
        self.policy(list);
        Self::log_read(list);
        Self::trace(list);
        Self::stage2_range(list);
        Self::panic(list);
        // At its table, which may be the resident stub's, it does something.
        if !matches!(self.state, State::Stub | State::Table) {
            let what = if self.is_live() { "for the way back" } else { "elsewhere" };
            list(Call::Reenter, what, vendor::REENTER.into(), junk, [Is(0), Any, Any, Same]);
        }
        if !self.is_live() || self.state == State::Locked {
            let what = if self.is_live() { "after LOCK" } else { "elsewhere" };
            list(Call::Leave, what, vendor::LEAVE.into(), junk, error(Error::Locked));
            list(Call::Lock, what, vendor::LOCK.into(), junk, refused(0));
        }
    }

    fn status(list: impl Fn(Call, &'static str, u64, [u64; 3], [Want; 4])) {
        let cpus = machine().mpidrs().len() as u64;
        let all = Is(u64::from(status_size(cpus as u16)));
        let one = |what, x, want| list(Call::Status, what, vendor::STATUS.into(), x, want);
        let invalid = error(Error::InvalidParameter);
        one("without a buffer", [0, 0, 0], [Is(0), all, Any, Is(0)]);
        one("without a buffer", [7, 0, 0], [Is(0), all, Any, Is(0)]);
        let header = StatusHeader::SIZE as u64;
        let cpu = StatusCpu::SIZE as u64;
        one("into a page", [OWN_PAGE, 4096, 0], [Is(0), all, Any, Is(cpus)]);
        one("of the last CPU", [OWN_PAGE + 64, 512, cpus - 1], [Is(0), all, Any, Is(1)]);
        one("with room for the header", [OWN_PAGE + 4096 - header, header, 0], [Is(0), all, Any, Is(0)]);
        one("with room for one CPU", [OWN_PAGE, header + 2 * cpu - 1, 0], [Is(0), all, Any, Is(1)]);
        one("without room for the header", [OWN_PAGE, header - 1, 0], invalid);
        one("without room for the header", [OWN_PAGE, 1, 0], invalid);
        for offset in [1, 2, 4] {
            one("x1 misaligned", [OWN_PAGE + offset, 1024, 0], invalid);
        }
        one("across a page's end", [OWN_PAGE + 4096 - header, header + 1, 0], invalid);
        one("across a page's end", [OWN_PAGE, 4097, 0], invalid);
        one("across a page's end", [OWN_PAGE, u64::MAX, 0], invalid);
        one("of an unknown CPU", [OWN_PAGE, 4096, cpus], invalid);
        one("of an unknown CPU", [OWN_PAGE, 4096, u64::MAX], invalid);
        one("of an unknown CPU", [OWN_PAGE, 4096, 1 << 16], invalid);
        for (what, x1) in bad_addresses() {
            one(what, [x1 & !7, 128, 0], invalid);
        }
    }

    fn policy(&self, list: impl Fn(Call, &'static str, u64, [u64; 3], [Want; 4])) {
        let [kexec, crash] = self.policies.map(|policy| policy as u64);
        let now = [Is(0), Is(kexec), Is(crash), Same];
        let one =
            |what, x1, x2, want| list(Call::RestartPolicy, what, vendor::RESTART_POLICY.into(), [x1, x2, 3], want);
        one("read", 0, 0, now);
        one("read", 0, 77, now);
        one("read", 1 << 32, u64::MAX, now);
        one("kexec as it is", 1, kexec, now);
        one("crash as it is", 2, crash, now);
        one("another policy", 1, 2, error(Error::InvalidParameter));
        one("another policy", 3, 0xffff_ffff, error(Error::InvalidParameter));
        one("other bits", 4, 0, error(Error::InvalidParameter));
        one("other bits", 0x8000_0001, 1, error(Error::InvalidParameter));
        if self.state == State::Locked {
            for which in 1..4 {
                one("leave after LOCK", which, 0, error(Error::Locked));
            }
        }
    }

    fn log_read(list: impl Fn(Call, &'static str, u64, [u64; 3], [Want; 4])) {
        let one = |what, x, want| list(Call::LogRead, what, vendor::LOG_READ.into(), x, want);
        let invalid = error(Error::InvalidParameter);
        one("without a buffer", [0, 0, 0], [Is(0), Is(0), Any, Any]);
        one("into a page", [0, OWN_PAGE, 4096], [Is(0), Any, Any, Any]);
        one("of one byte", [0, OWN_PAGE + 4095, 1], [Is(0), Is(1), Any, Any]);
        one("past the end", [u64::MAX, OWN_PAGE, 64], invalid);
        one("past the end", [1 << 63, 0, 0], invalid);
        one("across a page's end", [0, OWN_PAGE + 4095, 2], invalid);
        one("across a page's end", [0, OWN_PAGE, u64::MAX], invalid);
        for (what, x2) in bad_addresses() {
            one(what, [0, x2, 64], invalid);
        }
    }

    fn trace(list: impl Fn(Call, &'static str, u64, [u64; 3], [Want; 4])) {
        let one = |what, w1, want| list(Call::Trace, what, vendor::TRACE.into(), [w1, 2, 3], want);
        // A CPU that came up while another one was traced may be, too.
        one("to stop at first", 2, [Is(0), Is(0), Any, Same]);
        one("before", 0, [Is(0), Is(0), Any, Same]);
        one("to start", 1, [Is(0), Is(1), Any, Same]);
        one("again", 1, [Is(0), Is(1), Any, Same]);
        one("meanwhile", 0, [Is(0), Is(1), Any, Same]);
        one("with a high word", 1 << 32, [Is(0), Is(1), Any, Same]);
        one("another value", 3, error(Error::InvalidParameter));
        one("another value", 0xffff_ffff, error(Error::InvalidParameter));
        one("to stop", 2, [Is(0), Is(0), Any, Same]);
    }

    fn stage2_range(list: impl Fn(Call, &'static str, u64, [u64; 3], [Want; 4])) {
        let one = |what, x1, want| list(Call::Stage2Range, what, vendor::STAGE2_RANGE.into(), [x1, 2, 3], want);
        let own = machine().reserved.map_or(0, |own| own.base);
        let rights = vendor::RANGE_MAPPED | vendor::RANGE_READ | vendor::RANGE_WRITE;
        one("of a hole", own, [Is(0), Is(own), Any, Is(0)]);
        one("of the end of RAM", machine().ram.end() - 1, [Is(0), Any, Is(machine().ram.end()), Any]);
        one("of a device", 0x0900_0000, [Is(0), Is(0), Any, Is(rights)]);
        one("past the last address", 1 << 52, error(Error::InvalidParameter));
        one("past the last address", u64::MAX, error(Error::InvalidParameter));
    }

    /// Those that nobody takes. What becomes of the others is the test [`crate::panics`].
    fn panic(list: impl Fn(Call, &'static str, u64, [u64; 3], [Want; 4])) {
        let cpus = machine().mpidrs().len() as u64;
        for unknown in [cpus, 0xffff, 0x1_0000, 0xffff_fffe, 1 << 32 | cpus] {
            let want = error(Error::InvalidParameter);
            list(Call::Panic, "of an unknown CPU", vendor::PANIC.into(), [unknown, 2, 3], want);
        }
        let want = error(Error::WrongState);
        list(Call::CrashKernel, "without a crash kernel", vendor::CRASH_KERNEL.into(), [1, 2, 3], want);
    }

    fn other_numbers(&self) {
        let live = self.is_live();
        let stub =
            |what, number: u64| returns(Call::OtherNumber, what, arguments(number, [1, 2, 3]), refused(STUB_ERR));
        for number in STUB_CALLS_END..0x20 {
            stub("0x5 to 0x1f", number);
        }
        for shift in [5, 6, 7, 11, 15, 16, 20, 24, 30] {
            stub("with bit 31 clear", 1 << shift);
        }
        for number in [0x7fff_ffff, STUB_ERR, 0x0600_4500, 0x4600_4502, 0x0400_0000] {
            stub("with bit 31 clear", number);
        }
        for number in 0..STUB_CALLS_END {
            stub("a stub call's with a high word", number | 1 << 32);
            stub("a stub call's with a high word", number | 1 << 63);
        }
        let is_own = self.state == State::Gone && self.own == stub::vectors();
        let answer = if is_own { stub::OWN } else { STUB_ERR };
        returns(Call::OtherNumber, "the host's own stub's", arguments(stub::WHO, [1, 2, 3]), refused(answer));
        let fast = if live { error(Error::NotSupported) } else { refused(STUB_ERR) };
        let other = |what, number| returns(Call::OtherNumber, what, arguments(number, [1, 2, 3]), fast);
        for number in [0xc600_0000, 0xc600_0001, 0xc600_0020, 0x8600_0000, 0x8600_0001] {
            other("KVM's", number);
        }
        for id in vendor::CALLS {
            other("Exeunt's by the other convention", u64::from(id ^ 1 << 30));
        }
        for number in [0x8600_44ff, 0x8600_450f, 0xc600_450f, 0x8600_ff02, 0xc600_ff01, 0x8602_4500, 0x86fe_4502] {
            other("next to Exeunt's", number);
        }
        for owner in [1, 2, 3, 5, 7, 31, 48, 63] {
            other("fast calls of other owners", 1 << 31 | owner << 24);
        }
        let version = call_by(Conduit::Smc, PSCI_VERSION, [0; 3]);
        let psci = |what, number, x1, answer| {
            let want = if live { [Is(answer), Any, Any, Any] } else { refused(STUB_ERR) };
            returns(Call::Psci, what, arguments(number, [x1, 2, 3]), want);
        };
        psci("VERSION", PSCI_VERSION, 1, version);
        psci("FEATURES of VERSION", PSCI_FEATURES, PSCI_VERSION, 0);
        psci("unknown", 0x8400_001f, 1, u64::MAX);
        for (what, number) in [("SMCCC_VERSION", SMCCC_VERSION), ("ARCH_FEATURES", ARCH_FEATURES)] {
            let answer = call_by(Conduit::Smc, number, [SMCCC_VERSION, 2, 3]);
            let want = if live { [Is(answer), Any, Any, Any] } else { refused(STUB_ERR) };
            returns(Call::Architecture, what, arguments(number, [SMCCC_VERSION, 2, 3]), want);
        }
    }

    /// The bounds of each row of the table's other numbers; of fast calls with the hint and a high word, too.
    fn bounds(&self) {
        for bound in bounds() {
            self.bound(u64::from(bound));
            if u64::from(bound) & 1 << 31 != 0 {
                self.bound(u64::from(bound) ^ 1 << 16 | 0xdead_beef << 32);
            }
        }
    }

    fn bound(&self, x0: u64) {
        let Some(kind) = Other::of(x0) else { return };
        let x = arguments(x0, [1, 2, 3]);
        let (call, answer) = match kind {
            Other::Psci => (Call::Psci, None),
            Other::Architecture => (Call::Architecture, None),
            Other::Stub => (Call::OtherNumber, Some(STUB_ERR)),
            Other::Kvm | Other::Fast => (Call::OtherNumber, Some(Error::NotSupported.to_register())),
        };
        let want = match answer {
            _ if !self.is_live() => refused(STUB_ERR),
            Some(answer) => refused(answer),
            None => [Is(call_by(Conduit::Smc, x0, [1, 2, 3])), Any, Any, Any],
        };
        returns(call, "at a bound of the table's", x, want);
    }

    /// Stubs do not look at the immediate; Exeunt's fast calls have the immediate 0.
    fn immediates(&self) {
        let live = self.is_live();
        let fast = if live { error(Error::NotSupported) } else { refused(STUB_ERR) };
        for (what, number, want) in [
            ("FINALISE_EL2", FINALISE_EL2, refused(STUB_ERR)),
            ("0x7f", 0x7f, refused(STUB_ERR)),
            ("VERSION", vendor::VERSION.into(), fast),
            ("CALL_UID", vendor::CALL_UID.into(), fast),
            ("PSCI_VERSION", PSCI_VERSION, fast),
        ] {
            for immediate in [1, 2, 0x800, 0x4a48, 0xea1, 0x8000, 0xffff] {
                let x = arguments(number, [1, 2, 3]);
                tally::add(Case { call: Call::OtherImmediate, what, immediate, x, want, end: End::Returns });
            }
        }
    }
}

/// Addresses that are not the host's RAM.
pub fn bad_addresses() -> impl Iterator<Item = (&'static str, u64)> + Clone {
    let (ram, own) = (machine().ram, machine().reserved);
    // A bare machine has none of it.
    let own = own.map(|own| [own.base, own.base + own.size / 2, own.end() - 0x800]);
    let own = own.into_iter().flatten().map(|address| ("x1 in Exeunt's memory", address));
    let others = [
        ("x1 past RAM", ram.end()),
        ("x1 past RAM", ram.base - 0x800),
        ("x1 past RAM", 1 << 40),
        ("x1 past RAM", 1 << 52),
        ("x1 past RAM", !0x7ff),
    ];
    [("x1 zero", 0), ("x1 in a device", DEVICE)].into_iter().chain(own).chain(others)
}

/// Fills the list with one case of each kind, as they are answered once a LEAVE is over: by who is there then.
pub fn in_the_window(setting: &Setting) {
    tally::clear();
    let own = setting.state == State::Gone;
    let one = |call, what, number, x1, want| returns(call, what, arguments(number, [x1, 2, 3]), want);
    let what = "while a LEAVE is under way";
    one(Call::SetVectors, what, SET_VECTORS, stub::vectors(), refused(0));
    tally::add(Case {
        call: Call::SoftRestart,
        what,
        immediate: 0,
        x: [SOFT_RESTART, OWN_ENTRY, 0x2222, 0x3333, 0x4444],
        want: [Is(0x2222), Is(0x3333), Is(0x4444), Same],
        end: End::El2,
    });
    one(Call::ResetVectors, what, RESET_VECTORS, 1, refused(0));
    one(Call::FinaliseEl2, what, FINALISE_EL2, 1, refused(STUB_ERR));
    let has_register = matches!(machine().gic, Some(Gic::V3 { .. })) && !own;
    let register = if has_register { [Is(0), Any, Same, Same] } else { refused(STUB_ERR) };
    one(Call::GetIchVtr, what, GET_ICH_VTR_EL2, 1, register);
    for (call, id) in [
        (Call::Count, vendor::CALL_COUNT),
        (Call::Uid, vendor::CALL_UID),
        (Call::Revision, vendor::REVISION),
        (Call::Version, vendor::VERSION),
        (Call::Features, vendor::FEATURES),
        (Call::Status, vendor::STATUS),
        (Call::RestartPolicy, vendor::RESTART_POLICY),
        (Call::Leave, vendor::LEAVE),
        (Call::LogRead, vendor::LOG_READ),
        (Call::Trace, vendor::TRACE),
        (Call::Stage2Range, vendor::STAGE2_RANGE),
    ] {
        one(call, what, id.into(), 0, refused(STUB_ERR));
    }
    one(Call::Psci, what, PSCI_VERSION, 1, refused(STUB_ERR));
    one(Call::Architecture, what, SMCCC_VERSION, 1, refused(STUB_ERR));
    one(Call::OtherNumber, what, 0x7f, 1, refused(STUB_ERR));
    let x = arguments(vendor::VERSION.into(), [1, 2, 3]);
    let want = refused(STUB_ERR);
    tally::add(Case { call: Call::OtherImmediate, what, immediate: 0x4a48, x, want, end: End::Returns });
    // The CPU 0xfffe is none.
    one(Call::Panic, what, vendor::PANIC.into(), 0xfffe, refused(STUB_ERR));
    one(Call::CrashKernel, what, vendor::CRASH_KERNEL.into(), 0, refused(STUB_ERR));
    // The last, since it is a promise for good if it comes before the LEAVE.
    one(Call::Lock, what, vendor::LOCK.into(), 0, refused(STUB_ERR));
}

/// What Exeunt answers in x0 to a case of [`in_the_window`] that comes before the LEAVE is announced; nothing for calls
/// whose answer then is the same as later.
pub fn answer_while_live(case: &Case) -> Option<u64> {
    match case.call {
        Call::SetVectors => Some(STUB_ERR),
        Call::OtherImmediate | Call::Features => Some(Error::NotSupported.to_register()),
        Call::Count => Some(vendor::CALLS.len() as u64),
        Call::Uid => Some(vendor::UID_REGISTERS[0].into()),
        Call::Revision => Some(vendor::ABI_MAJOR.into()),
        Call::Version => Some(vendor::ABI_VERSION.into()),
        Call::CrashKernel => Some(Error::WrongState.to_register()),
        Call::Status | Call::LogRead | Call::Panic => Some(Error::InvalidParameter.to_register()),
        Call::GetIchVtr | Call::RestartPolicy | Call::Leave | Call::Lock | Call::Trace | Call::Stage2Range => Some(0),
        Call::Psci => Some(call_by(Conduit::Smc, PSCI_VERSION, [0; 3])),
        Call::Architecture => Some(call_by(Conduit::Smc, SMCCC_VERSION, [0; 3])),
        _ => None,
    }
}
