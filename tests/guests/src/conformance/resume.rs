//! Vectors that the host installs beside its own stub's and means to be run: Linux's resume from hibernation before
//! 5.16 (`arch/arm64/kernel/hibernate-asm.S`).
//!
//! Owns two tables, one that answers and one that puts the stub back, and what is called while they are installed.

use core::arch::{asm, global_asm};

use guest_abi::stub::{FINALISE_EL2, RESET_VECTORS, SET_VECTORS, STUB_ERR};
use guest_abi::table::{CALLS, Other, bounds};
use guest_abi::vendor::{self, Error};

use super::case::{Case, End, VARIATIONS, Want};
use super::cycle::{self, Host};
use super::stub;
use super::tally::{self, Call, State};
use super::{ALL, change, everywhere, is_quick, on, stub_call};
use crate::smp;

// Synchronous exceptions from EL1 in AArch64, at 0x400; in all others the CPU stays.
global_asm!(
    ".macro RESUME_TABLE name, instruction:vararg",
    ".balign 0x800",
    ".global \\name",
    "\\name:",
    ".rept 8",
    "b .",
    ".balign 0x80",
    ".endr",
    "\\instruction",
    "eret",
    ".balign 0x80",
    ".rept 7",
    "b .",
    ".balign 0x80",
    ".endr",
    ".endm",
    ".pushsection .text.vectors, \"ax\"",
    "RESUME_TABLE guest_answering_vectors, mvn x0, x0",
    "RESUME_TABLE guest_resume_vectors, msr vbar_el2, x24",
    ".popsection",
);

unsafe extern "C" {
    static guest_answering_vectors: u8;
    static guest_resume_vectors: u8;
}

/// What Linux 5.10 has in x0 when it makes the call: the end of the last page that it has copied, in its linear map.
const LINEAR: u64 = 0xffff_0000_0000_1000;

fn add(call: Call, what: &'static str, immediate: u16, x0: u64, answer: u64) {
    let want = [Want::Is(answer), Want::Same, Want::Same, Want::Same];
    tally::add(Case { call, what, immediate, x: [x0, 1, 2, 3, 0x5a5a_a5a5], want, end: End::Returns });
}

/// While other vectors are installed than the stub's: no number is Exeunt's but those that it knows, and none with a
/// high word.
fn answered_by_vectors() {
    tally::clear();
    let vectors = |what, immediate, x0: u64| add(Call::OtherNumber, what, immediate, x0, !x0);
    for bound in bounds() {
        if Other::of(bound.into()) == Some(Other::Stub) {
            vectors("by the vectors", 0, bound.into());
            vectors("by the vectors, another immediate", 0x4a48, bound.into());
        }
        vectors("an address, by the vectors", 0, LINEAR & !0xfff | u64::from(bound));
    }
    for call in CALLS {
        vectors("a call's number with a high word, by the vectors", 0, call.number | 1 << 63);
    }
    for low in [0x0000_1000, 0x7fff_f000, 0x8000_0000, 0x8123_4000, 0x8400_0000, 0xffff_f000] {
        vectors("an address, by the vectors", 0, LINEAR & !0xffff_ffff | low);
    }
    for number in [0x5, 0x7f, stub::WHO, STUB_ERR] {
        vectors("by the vectors", 0, number);
    }
    // By Exeunt, as ever.
    let not_supported = Error::NotSupported.to_register();
    add(Call::FinaliseEl2, "", 0, FINALISE_EL2, STUB_ERR);
    add(Call::OtherNumber, "KVM's", 0, 0xc600_0000, not_supported);
    add(Call::OtherNumber, "fast calls of other owners", 0, 0x8500_0000, not_supported);
    add(Call::OtherImmediate, "VERSION", 1, vendor::VERSION.into(), not_supported);
    add(Call::SetVectors, "x1 misaligned", 0, SET_VECTORS, STUB_ERR);
}

/// The call of a resume, on the calling CPU: with the host's own stub in x24.
fn resume(index: usize) {
    let mut x0 = LINEAR + ((index as u64) << 31);
    let before = x0;
    // SAFETY: the vectors change VBAR_EL2 alone.
    unsafe { asm!("hvc #0", inout("x0") x0, in("x24") stub::vectors(), options(nostack)) };
    check!(x0 == before, "the resume on CPU {index} changed x0 to {x0:#x}");
}

/// Installs vectors, makes calls that they answer, and puts the stub back as a resume does, on all CPUs.
pub fn run(host: Host) {
    let answering = (&raw const guest_answering_vectors).addr() as u64;
    change(host.live, stub_call(Call::SetVectors, "beside the stub", SET_VECTORS, answering), true);
    answered_by_vectors();
    if is_quick() {
        on(ALL, host.live, 0, VARIATIONS);
        tally::print(host.live);
    } else {
        everywhere(host.live);
    }
    // With another address it is the host's own stub, of which nothing is run.
    change(host.live, stub_call(Call::SetVectors, "the stub again", SET_VECTORS, stub::vectors()), true);
    answered_by_exeunt(host);
    install_and_resume(host.live);
    let own = cycle::vectors_of_all();
    let held = own.is_some_and(|all| all.iter().take(smp::online()).all(|&vectors| vectors == stub::vectors()));
    tally::single(host.live, Call::Status, held, format_args!("the vectors after a resume: {own:x?}"));
    answered_by_exeunt(host);
}

/// Exeunt stands in for the stub again.
fn answered_by_exeunt(host: Host) {
    tally::clear();
    for number in [0x5, 0x7f, stub::WHO, LINEAR, RESET_VECTORS | 1 << 32] {
        add(Call::OtherNumber, "with the stub back", 0, number, STUB_ERR);
    }
    on(ALL, host.live, 0, 4);
    tally::print(host.live);
}

/// Installs the vectors of a resume from hibernation on each CPU.
pub fn install(live: State) {
    let resuming = (&raw const guest_resume_vectors).addr() as u64;
    change(live, stub_call(Call::SetVectors, "for a resume", SET_VECTORS, resuming), false);
}

/// The same, and has them put the host's own stub back.
pub fn install_and_resume(live: State) {
    install(live);
    smp::on_all(resume);
}
