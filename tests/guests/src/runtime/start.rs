//! From the Image's entry to the test: relocation, BSS, stack, console, device tree, stage 1.
//!
//! Owns the entry points of the boot CPU and of secondary CPUs. A CPU that is entered at EL2 goes to EL1
//! ([`crate::level`]), except in a guest that wants to stay ([`crate::shim`], and for a while [`crate::conformance`]),
//! which gets neither vectors nor stage 1 before [`settle`].

use core::arch::{global_asm, naked_asm};
use core::panic::PanicInfo;

use crate::registers::current_el;
use crate::{cpu, level, machine, paging};

/// How the guest was entered.
pub struct Start {
    /// x0: the address of the device tree.
    pub tree: u64,
    /// CNTVCT_EL0 as the guest's second instruction read it (the first is the branch in the Image header).
    pub counter: u64,
    /// x1 to x3, which the boot protocol wants zero.
    pub reserved: [u64; 3],
    /// SCTLR_EL1 at entry.
    pub sctlr: u64,
    /// DAIF at entry.
    pub daif: u64,
    /// SPSel at entry.
    pub spsel: u64,
    /// The Exception level at entry.
    pub level: u64,
}

unsafe extern "C" {
    static __image_start: u8;
}

unsafe extern "Rust" {
    fn guest_main(start: &Start);
    static GUEST_STAYS_AT_EL2: bool;
}

/// Where the image was loaded.
#[must_use]
pub fn image_base() -> u64 {
    core::ptr::addr_of!(__image_start) as u64
}

// x19: CNTVCT_EL0, x20: device tree, x21 to x23: x1 to x3 at entry; x24 to x28: scratch.
global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".global guest_entry",
    "guest_entry:",
    "mrs x19, cntvct_el0",
    "mov x20, x0",
    "mov x21, x1",
    "mov x22, x2",
    "mov x23, x3",
    // Each relocation is R_AARCH64_RELATIVE: add the load address to the addend and store it (ELF for AArch64, 5.7.16).
    "adrp x24, __image_start",
    "add x24, x24, :lo12:__image_start",
    "adrp x25, __rela_start",
    "add x25, x25, :lo12:__rela_start",
    "adrp x26, __rela_end",
    "add x26, x26, :lo12:__rela_end",
    "1: cmp x25, x26",
    "b.hs 2f",
    "ldr x27, [x25]",
    "ldr x28, [x25, #16]",
    "add x28, x28, x24",
    "str x28, [x24, x27]",
    "add x25, x25, #24",
    "b 1b",
    "2:",
    "adrp x25, __bss_start",
    "add x25, x25, :lo12:__bss_start",
    "adrp x26, __bss_end",
    "add x26, x26, :lo12:__bss_end",
    "3: cmp x25, x26",
    "b.hs 4f",
    "stp xzr, xzr, [x25], #16",
    "b 3b",
    "4:",
    "adrp x25, {STACKS}",
    "add x25, x25, :lo12:{STACKS}",
    "mov x26, #{STACK}",
    "add sp, x25, x26",
    "mov x0, x20",
    "mov x1, x19",
    "mov x2, x21",
    "mov x3, x22",
    "mov x4, x23",
    "mov x29, xzr",
    "mov x30, xzr",
    "b {boot}",
    ".popsection",
    STACKS = sym cpu::STACKS,
    STACK = const cpu::STACK,
    boot = sym boot,
);

extern "C" fn boot(tree: u64, counter: u64, x1: u64, x2: u64, x3: u64) -> ! {
    let start = Start {
        tree,
        counter,
        reserved: [x1, x2, x3],
        sctlr: read_register!("sctlr_el1"),
        daif: read_register!("daif"),
        spsel: read_register!("SPSel"),
        level: current_el(),
    };
    level::note_entry_level(start.level);
    // SAFETY: the `guest!` macro of the binary defines it.
    if start.level == 1 || unsafe { !GUEST_STAYS_AT_EL2 } {
        level::go_to_el1(0);
        // Vectors first: they tell what goes wrong while the tree is read.
        cpu::prepare(0).adopt();
        machine::read(tree);
        settle();
    }
    // SAFETY: the `guest!` macro of the binary defines it.
    unsafe { guest_main(&start) };
    crate::report::finish("guest")
}

/// Brings the boot CPU to EL1 if it is not there, with vectors and stage 1. The device tree has been read.
pub fn settle() {
    level::go_to_el1(0);
    cpu::prepare(0).adopt();
    paging::build();
    paging::enable();
}

/// Where a secondary CPU comes in.
///
/// # Safety
/// For CPU_ON only, with x0 = the CPU's own [`cpu::Cpu`], prepared.
#[unsafe(naked)]
pub unsafe extern "C" fn secondary_entry() -> ! {
    naked_asm!(
        "ldr x1, [x0, #{STACK_TOP}]",
        "mov sp, x1",
        "mov x29, xzr",
        "mov x30, xzr",
        "b {secondary}",
        STACK_TOP = const cpu::STACK_TOP,
        secondary = sym secondary,
    )
}

extern "C" fn secondary(cpu: &'static cpu::Cpu) -> ! {
    level::go_to_el1(cpu.index());
    cpu.adopt();
    paging::enable();
    crate::smp::work(cpu.index())
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    crate::console::seize();
    println!("FAIL: {info}");
    // The exit status that Rust programs have after a panic.
    crate::firmware::exit(101)
}
