//! The hand-over of EL2 at the first call to vectors that the guest has installed (`entry=el2 kvm=lend`), as a KVM does
//! that does not call RESET_VECTORS first. With the word `refused` on the command line: that nothing of the kind
//! happens.
//!
//! Owns the vectors. They tell the registers of the EL2 that they run at.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use guest_abi::call;
use guest_abi::record::{CPU_LENT_TO_KVM, StatusCpu, StatusHeader};
use guest_abi::stub::STUB_ERR;
use guest_abi::table::{Other, bounds};
use guest_abi::vendor::{CpuState, STATUS as FIRST_OF_EXEUNT, Summary};

use crate::firmware::{self, AFFINITY_INFO, AFFINITY_OFF, PSCI_VERSION};
use crate::machine::machine;
use crate::start::Start;
use crate::{level, smp};

/// The first call of Linux to its KVM at EL2, `__kvm_hyp_init` (`arch/arm64/include/asm/kvm_asm.h`).
const KVM_INIT: u64 = 0xc600_0000;
/// The highest number below Exeunt's own in the same range.
const LAST_OF_KVM: u64 = 0xc600_44ff;
/// A call of the same form to another owner.
const STANDARD_HYPERVISOR: u64 = 0xc500_0000;
const NOT_SUPPORTED: u64 = u64::MAX;

/// CurrentEL.
const EL2: u64 = 2 << 2;
/// HCR_EL2: VM, TID3, TSC, TGE, E2H.
const HCR_OF_A_HYPERVISOR: u64 = 1 << 0 | 1 << 18 | 1 << 19 | 1 << 27 | 1 << 34;
/// SCTLR_EL2: M, C, I.
const SCTLR_ON: u64 = 1 << 0 | 1 << 2 | 1 << 12;

// Synchronous exceptions from EL1 in AArch64, at 0x400; in all others the CPU stays. They do SET_VECTORS: a table that
// does not is the last one.
global_asm!(
    ".pushsection .text.lend, \"ax\"",
    ".balign 0x800",
    ".global guest_lend_vectors",
    "guest_lend_vectors:",
    ".rept 8",
    "b .",
    ".balign 0x80",
    ".endr",
    "cbnz x0, 1f",
    "msr vbar_el2, x1",
    "eret",
    "1: mrs x0, CurrentEL",
    "mrs x2, elr_el2",
    "mrs x3, hcr_el2",
    "mrs x4, sctlr_el2",
    "mrs x5, vttbr_el2",
    "mrs x6, vbar_el2",
    "eret",
    ".balign 0x80",
    ".rept 7",
    "b .",
    ".balign 0x80",
    ".endr",
    ".popsection",
);

unsafe extern "C" {
    static guest_lend_vectors: u8;
}

/// x0 to x6 after an HVC with these in x0 and x1, and the address after it.
fn hvc(number: u64, argument: u64) -> ([u64; 7], u64) {
    let mut x = [number, argument, 0, 0, 0, 0, 0];
    let behind;
    // SAFETY: a call changes x0 to x17 at most, and the vectors above fewer.
    unsafe {
        asm!(
            "adr x18, 1f", "hvc #0", "1:",
            inout("x0") x[0], inout("x1") x[1], inout("x2") x[2], inout("x3") x[3], inout("x4") x[4], inout("x5") x[5],
            inout("x6") x[6], out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _,
            out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _, out("x18") behind, options(nostack)
        );
    }
    (x, behind)
}

/// A call whose answer changes nothing but x0.
fn gives(what: &str, number: u64, answer: u64) {
    let ([x0, x1, ..], _) = hvc(number, 0x1234);
    check!((x0, x1) == (answer, 0x1234), "{what}: {number:#x} gives {x0:#x}, {x1:#x}");
}

/// A call that the vectors answer, at real or virtual EL2: both look the same from there.
fn is_answered_by_vectors(number: u64) {
    let vectors = (&raw const guest_lend_vectors) as u64;
    let ([x0, x1, elr, hcr, sctlr, vttbr, vbar], behind) = hvc(number, 0x1234);
    check!((x0, x1) == (EL2, 0x1234), "{number:#x} gives {x0:#x}, {x1:#x}");
    check!(elr == behind, "{number:#x}: ELR_EL2 {elr:#x}, and the next instruction is at {behind:#x}");
    check!(hcr & HCR_OF_A_HYPERVISOR == 0, "HCR_EL2 {hcr:#x}");
    check!(sctlr & SCTLR_ON == 0, "SCTLR_EL2 {sctlr:#x}");
    check!(vttbr == 0, "VTTBR_EL2 {vttbr:#x}");
    check!(vbar == vectors, "VBAR_EL2 {vbar:#x}, not {vectors:#x}");
}

/// CPUs under Exeunt, as it tells itself; none where it is not.
fn live() -> u16 {
    // SAFETY: without a buffer nothing is written.
    unsafe { call::summary() }.map_or(0, Summary::live_cpus)
}

/// The bounds of the table's rows that make EL2 go to nobody, with the vectors installed or not.
fn walk(installed: bool) {
    for bound in bounds() {
        let number = u64::from(bound);
        match Other::of(number) {
            Some(Other::Stub) if installed => is_answered_by_vectors(number),
            Some(Other::Stub) => gives("a stub's", number, STUB_ERR),
            Some(Other::Fast) => gives("a fast call", number, NOT_SUPPORTED),
            Some(Other::Kvm) if !installed => gives("KVM's", number, NOT_SUPPORTED),
            _ => {}
        }
    }
    gives("another owner's", STANDARD_HYPERVISOR, NOT_SUPPORTED);
    check!(live() == 1, "a call that is not KVM's made Exeunt leave");
}

/// Where STATUS writes.
#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; 4096]>);

// SAFETY: only the boot CPU uses it.
unsafe impl Sync for Page {}

static PAGE: Page = Page(UnsafeCell::new([0; 4096]));

/// The state and the flags of CPU 1, by STATUS.
fn status_of_the_other() -> (u8, u16) {
    let page = PAGE.0.get();
    // SAFETY: the page is this CPU's, and STATUS writes no more than it is told.
    let bytes = unsafe {
        let told = call::status(page as u64, StatusHeader::SIZE as u64 + 2 * StatusCpu::SIZE as u64, 0);
        check!(told.is_ok(), "STATUS: {told:?}");
        page.read_volatile()
    };
    let part = bytes[StatusHeader::SIZE + StatusCpu::SIZE..].first_chunk().expect("a page has room");
    let cpu = StatusCpu::from_bytes(part);
    (cpu.state, cpu.flags)
}

/// On CPU 1: its EL2 is lent, and it goes off without Exeunt.
fn be_lent_and_go_off(index: usize) {
    if index == 1 {
        let _ = hvc(0, (&raw const guest_lend_vectors) as u64);
        let ([level, ..], _) = hvc(KVM_INIT, 0);
        check!(level == EL2, "CPU 1 was not lent: {level:#x}");
        smp::go_off();
    }
}

/// A CPU that was lent, went off, and comes up under Exeunt again is not lent.
fn a_cpu_is_lent_for_as_long_as_it_is_on() {
    let mpidr = machine().mpidrs()[1];
    smp::start(1);
    check!(status_of_the_other() == (CpuState::Live as u8, 0), "up: {:x?}", status_of_the_other());
    smp::on_all(be_lent_and_go_off);
    let off = || firmware::psci(AFFINITY_INFO[1], [mpidr, 0, 0]) == AFFINITY_OFF;
    check!(smp::wait_for(off), "CPU 1 is not off");
    let lent = (CpuState::Gone as u8, CPU_LENT_TO_KVM);
    check!(status_of_the_other() == lent, "lent: {:x?}", status_of_the_other());
    smp::start(1);
    check!(status_of_the_other() == (CpuState::Live as u8, 0), "up again: {:x?}", status_of_the_other());
}

/// Runs the test, on the boot CPU.
pub fn run(_: &Start) {
    let refused = machine().words().any(|word| word == "refused");
    let vectors = (&raw const guest_lend_vectors) as u64;
    check!(level::entry_level() == 2, "entered at EL{}", level::entry_level());
    // SAFETY: says where the way back is.
    let way = unsafe { call::way_back() };
    let Ok(way) = way else {
        check!(false, "REENTER: {way:?}");
        crate::report::finish("lend")
    };
    walk(false);
    for number in [KVM_INIT, LAST_OF_KVM] {
        gives("SET_VECTORS", 0, STUB_ERR);
        let ([x0, ..], _) = hvc(0, vectors);
        check!(x0 == 0, "SET_VECTORS gives {x0:#x}");
        walk(true);
        if refused {
            gives("refused", number, NOT_SUPPORTED);
            check!(live() == 1, "refused, and Exeunt has left");
            continue;
        }
        is_answered_by_vectors(number);
        check!(live() == 0, "Exeunt is still there after {number:#x}");
        // From now on it is all theirs.
        for number in [LAST_OF_KVM, KVM_INIT, STANDARD_HYPERVISOR, 0x7f, u64::from(FIRST_OF_EXEUNT)] {
            is_answered_by_vectors(number);
        }
        let version: u64;
        // SAFETY: a call to firmware that changes nothing but x0 to x3.
        unsafe {
            asm!(
                "smc #0", inout("x0") PSCI_VERSION => version, out("x1") _, out("x2") _, out("x3") _, options(nostack)
            );
        };
        check!(version >> 16 == 1, "firmware says PSCI {version:#x}");
        // SAFETY: the vectors do SET_VECTORS, and what is told of the way back is true.
        let back = unsafe { call::reenter(way) };
        check!(back.is_ok() && live() == 1, "REENTER: {back:?}");
    }
    if !refused {
        a_cpu_is_lent_for_as_long_as_it_is_on();
    }
    crate::report::finish("lend");
}
