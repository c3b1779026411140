//! The first instructions on every CPU: from the state that firmware or PSCI leaves (MMU and D-cache off) to Rust.
//!
//! Cache maintenance. Memory written with the D-cache off goes past the caches, so a line that a loader left there
//! could hide it (a clean line) or overwrite it later (a dirty one). Therefore all that is written here (read-only data
//! by relocation, data, BSS with the tables that `exeunt_early` builds in it, the boot stack) is cleaned and
//! invalidated to the point of coherency before the first write and invalidated again before the MMU and the caches go
//! on (Arm ARM, B2.8 "Mismatched memory attributes").

use core::arch::naked_asm;
use core::mem::offset_of;

use crate::{CpuBoot, HCR_EL2_RW, SCTLR_EL2_MMU_OFF};

/// The first registers of EL2: EL1 is AArch64 and nothing is trapped, the MMU is off, and the vectors are Exeunt's.
/// Changes x1. The block that takes it names `hcr` and `sctlr`.
macro_rules! first_registers {
    () => {
        "ldr x1, ={hcr}
         msr hcr_el2, x1
         ldr x1, ={sctlr}
         msr sctlr_el2, x1
         adrp x1, exeunt_vectors
         add x1, x1, :lo12:exeunt_vectors
         msr vbar_el2, x1"
    };
}

/// Makes TCR2_EL2 and SCTLR2_EL2 0, where they exist and EL2 may write them. They count with HCR_EL2.E2H 0 too: with
/// TCR2_EL2.PIE, for one, the permissions of EL2's stage 1 are another register's and not its tables'. Changes `$x` and
/// the flags.
///
/// TCR2_EL2 comes with FEAT_TCR2 (ID_AA64MMFR3_EL1.TCRX, bits \[3:0\]). Where there is an EL3 it opens the register:
/// Linux asks that of it (booting.rst). Nobody asks that it open SCTLR2_EL2 (FEAT_SCTLR2, bits \[7:4\]), so with an EL3
/// (ID_AA64PFR0_EL1.EL3, bits \[15:12\]) that one is left alone. It is 0 to the CPU where SCR_EL3.SCTLR2En is 0, and
/// else what firmware has made it. QEMU 10 has neither register.
macro_rules! no_extensions {
    ($x:literal) => {
        concat!(
            "mrs ",
            $x,
            ", S3_0_C0_C7_3\n", // ID_AA64MMFR3_EL1
            "tst ",
            $x,
            ", #0xf\n",
            "b.eq 71f\n",
            "msr S3_4_C2_C0_3, xzr\n", // TCR2_EL2
            "71: tst ",
            $x,
            ", #0xf0\n",
            "b.eq 72f\n",
            "mrs ",
            $x,
            ", id_aa64pfr0_el1\n",
            "tst ",
            $x,
            ", #0xf000\n",
            "b.ne 72f\n",
            "msr S3_4_C1_C0_3, xzr\n", // SCTLR2_EL2
            "72:"
        )
    };
}

pub(crate) use {first_registers, no_extensions};

/// The boot CPU's entry, by way of the Image header. In: x0 = physical address of the device tree.
///
/// | register | holds |
/// |---|---|
/// | x19 | base: where the image really is |
/// | x20 | the device tree's address |
/// | x21 | CNTPCT_EL0 at the first instruction |
/// | x22 | CurrentEL, as the register has it (EL << 2) |
/// | x23 | the smallest D-cache line in bytes |
///
/// # Safety
/// Only the Image header branches here.
#[unsafe(naked)]
#[unsafe(link_section = ".text.beside_tables")]
pub(crate) unsafe extern "C" fn start() -> ! {
    naked_asm!(
        "mrs x21, cntpct_el0",
        "mov x20, x0",
        "adrp x19, __image_start",
        "mrs x22, CurrentEL",
        "msr daifset, #0xf",
        // Below EL2 the registers of EL2 are out of reach: exeunt_early says so on the console.
        "cmp x22, #(2 << 2)",
        "b.ne 1f",
        first_registers!(),
        "adrp x1, exeunt_boot_cpu",
        "add x1, x1, :lo12:exeunt_boot_cpu",
        "msr tpidr_el2, x1",
        "isb",
        "1:",
        "mrs x23, ctr_el0",
        "ubfx x23, x23, #16, #4", // CTR_EL0.DminLine: log2 of words
        "mov x1, #4",
        "lsl x23, x1, x23",
        "adrp x0, __text_end",
        "adrp x1, __boot_stack_top",
        // Four lines at a time. The range is whole pages; where four lines are more than a page (a line has 2 KiB at
        // most), the last ones lie in what nobody has used yet, behind the boot stack.
        "2: dc civac, x0",
        "add x0, x0, x23",
        "dc civac, x0",
        "add x0, x0, x23",
        "dc civac, x0",
        "add x0, x0, x23",
        "dc civac, x0",
        "add x0, x0, x23",
        "cmp x0, x1",
        "b.lo 2b",
        "dsb sy",
        "bl {relocate}",
        // BSS holds no stale byte, whatever the loader left there.
        "adrp x0, __bss_start",
        "adrp x1, __bss_end",
        "3: stp xzr, xzr, [x0, #16]",
        "stp xzr, xzr, [x0, #32]",
        "stp xzr, xzr, [x0, #48]",
        "stp xzr, xzr, [x0], #64",
        "cmp x0, x1",
        "b.lo 3b",
        "adrp x0, __boot_stack_top",
        "mov sp, x0",
        "mov x29, xzr",
        "mov x30, xzr",
        "mov x0, x20",
        "mov x1, x19",
        "mov x2, x22",
        "bl exeunt_early",
        "mov x25, x0",
        "adrp x0, __text_end",
        "adrp x1, __boot_stack_top",
        "dsb sy",
        "4: dc ivac, x0",
        "add x0, x0, x23",
        "dc ivac, x0",
        "add x0, x0, x23",
        "dc ivac, x0",
        "add x0, x0, x23",
        "dc ivac, x0",
        "add x0, x0, x23",
        "cmp x0, x1",
        "b.lo 4b",
        "dsb sy",
        "mov x0, x25",
        "bl {mmu_on}",
        "mov x0, x20",
        "mov x1, x21",
        "b exeunt_main",
        hcr = const HCR_EL2_RW,
        sctlr = const SCTLR_EL2_MMU_OFF,
        relocate = sym relocate,
        mmu_on = sym mmu_on,
    )
}

/// Makes data what it begins as. In: x19 = base. Changes x0 to x5.
///
/// # Safety
/// Done once, before anything reads data.
#[unsafe(naked)]
#[unsafe(link_section = ".text.beside_tables")]
unsafe extern "C" fn relocate() {
    naked_asm!(
        // 16 bytes at a time: the linker pads it, and puts what it begins as after the read-only data.
        "adrp x0, __data_start",
        "adrp x1, __data_end",
        "add x1, x1, :lo12:__data_end",
        "adrp x2, __data_load",
        "add x2, x2, :lo12:__data_load",
        "2: cmp x0, x1",
        "b.hs 3f",
        "ldp x3, x4, [x2], #16",
        "stp x3, x4, [x0], #16",
        "b 2b",
        // Relocate, from the RELR table (ELF gABI, SHT_RELR): an even word is the address of a word to relocate, an odd
        // one a bitmap of which of the 63 words after the last are to be relocated too. x3 is the next word's place.
        "3: adrp x0, __relr_start",
        "add x0, x0, :lo12:__relr_start",
        "adrp x1, __relr_end",
        "add x1, x1, :lo12:__relr_end",
        "4: cmp x0, x1",
        "b.hs 8f",
        "ldr x2, [x0], #8",
        "tbnz x2, #0, 5f",
        "add x3, x19, x2",
        "ldr x4, [x3]",
        "add x4, x4, x19",
        "str x4, [x3], #8",
        "b 4b",
        "5: lsr x2, x2, #1",
        "6: cbz x2, 7f",
        "rbit x4, x2",
        "clz x4, x4", // the number of the lowest bit
        "ldr x5, [x3, x4, lsl #3]",
        "add x5, x5, x19",
        "str x5, [x3, x4, lsl #3]",
        "sub x4, x2, #1",
        "and x2, x2, x4", // without that bit
        "b 6b",
        "7: add x3, x3, #(63 * 8)",
        "b 4b",
        "8: ret",
    )
}

/// Where PSCI starts every CPU but the boot CPU, and every CPU that wakes from a power-down state. In: x0 = physical
/// address of this CPU's [`CpuBoot`]; EL2h, MMU and D-cache off, DAIF masked (Arm DEN0022, 6.4 "CPU_ON"). Out:
/// `exeunt_secondary`, with everything in place and x0 = CNTPCT_EL0.
///
/// # Safety
/// Only firmware may start a CPU here, and only with the address of a [`CpuBoot`] that was cleaned to the point of
/// coherency.
#[unsafe(naked)]
#[unsafe(link_section = ".text.beside_tables")]
pub unsafe extern "C" fn secondary_entry() -> ! {
    naked_asm!(
        "msr daifset, #0xf",
        first_registers!(),
        "msr tpidr_el2, x0",
        "mrs x19, cntpct_el0",
        "isb",
        "bl {mmu_on}",
        "mov x0, x19",
        "b exeunt_secondary",
        hcr = const HCR_EL2_RW,
        sctlr = const SCTLR_EL2_MMU_OFF,
        mmu_on = sym mmu_on,
    )
}

/// Turns EL2's MMU and caches on and takes the stack and TPIDR_EL2 that belong to this CPU. In: x0 = [`CpuBoot`]. Keeps
/// x19 to x28; x29 and the stack are new, so that a backtrace ends here.
///
/// The TLB may hold anything after a reset, hence the invalidation before the MMU goes on. It is for this CPU alone,
/// and so is the instruction cache's: others may be running.
///
/// # Safety
/// The tables map this code where it runs.
#[unsafe(naked)]
#[unsafe(link_section = ".text.beside_tables")]
unsafe extern "C" fn mmu_on() {
    naked_asm!(
        "ldp x1, x2, [x0, #{ttbr0}]",
        "ldp x3, x4, [x0, #{mair}]",
        "ldp x5, x6, [x0, #{stack}]",
        "msr ttbr0_el2, x1",
        "msr tcr_el2, x2",
        "msr mair_el2, x3",
        no_extensions!("x7"),
        "tlbi alle2",
        "ic iallu",
        "dsb nsh",
        "isb",
        "msr sctlr_el2, x4",
        "isb",
        "mov sp, x5",
        "msr tpidr_el2, x6",
        "mov x29, xzr",
        "ret",
        ttbr0 = const offset_of!(CpuBoot, ttbr0_el2),
        mair = const offset_of!(CpuBoot, mair_el2),
        stack = const offset_of!(CpuBoot, stack_top),
    )
}

const _: () = {
    assert!(offset_of!(CpuBoot, tcr_el2) == offset_of!(CpuBoot, ttbr0_el2) + 8);
    assert!(offset_of!(CpuBoot, sctlr_el2) == offset_of!(CpuBoot, mair_el2) + 8);
    assert!(offset_of!(CpuBoot, tpidr_el2) == offset_of!(CpuBoot, stack_top) + 8);
};
