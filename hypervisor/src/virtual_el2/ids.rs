//! What the host reads in the ID registers, where it differs from what the CPU says.
//!
//! Owns the two filters. One is for the host in any state, if it is to find no granule for stage 2; the other is for
//! virtual EL2 alone, which has no FEAT_VHE and no nested virtualisation. Fields: Arm ARM (DDI 0487), D24.2.

use crate::syndrome::Encoding;

/// ID_AA64MMFR0_EL1.
pub const MMFR0: Encoding = Encoding::new(3, 0, 0, 7, 0);
/// ID_AA64MMFR1_EL1.
pub const MMFR1: Encoding = Encoding::new(3, 0, 0, 7, 1);
/// ID_AA64MMFR2_EL1.
pub const MMFR2: Encoding = Encoding::new(3, 0, 0, 7, 2);
/// ID_AA64MMFR4_EL1.
pub const MMFR4: Encoding = Encoding::new(3, 0, 0, 7, 4);

/// ID_AA64MMFR0_EL1 TGran4_2 \[43:40\], TGran64_2 \[39:36\], TGran16_2 \[35:32\].
const TGRAN_2: u64 = 0xfff << 32;
/// The same, each 1: the granule is not supported at stage 2 (0 would mean "as at stage 1").
const TGRAN_2_NONE: u64 = 0x111 << 32;
/// ID_AA64MMFR1_EL1.VH, bits \[11:8\].
const VH: u64 = 0xf << 8;
/// ID_AA64MMFR2_EL1.NV, bits \[27:24\].
const NV: u64 = 0xf << 24;
/// ID_AA64MMFR4_EL1.NV_frac, bits \[23:20\].
const NV_FRAC: u64 = 0xf << 20;

/// How many reads of ID registers HCR_EL2.TID3 traps on a CPU after each window. Then it goes off there, and the host
/// reads what the CPU says.
///
/// Linux decides by values that it has noted: each CPU that comes up stores its ID registers once
/// (`__cpuinfo_store_cpu`), and what all CPUs have in common is what KVM asks (`kvm_set_ipa_limit`:
/// `read_sanitised_ftr_reg(SYS_ID_AA64MMFR0_EL1)`), and what it shows to programs that read an ID register. So the
/// reads that count come early, and those that come later are single features looked at again. There can be many of
/// these: until all features are known, Linux 6.12 asks ID_AA64ISAR0_EL1 each time it wants a random number
/// (`__cpu_has_rng`), which on a CPU without FEAT_RNG was 48,394 times for one crash kernel.
///
/// Seen on QEMU's cortex-a57, neoverse-n2 and max, with 6.1 and 6.12: a CPU at boot stores ID_AA64MMFR0_EL1 with its
/// read number 12 to 34. One that comes up again first looks at each feature that was found before, and stores it with
/// number 78 to 153. A CPU with three times the features still has its turn.
///
/// Even a CPU that stored its true value too late would not give KVM a granule. KVM has decided at boot, and of values
/// that differ Linux keeps the one that it calls safe, which is "none" for these fields (`ftr_id_aa64mmfr0`).
pub const TRAPPED_READS: u16 = 512;

/// Whether a register belongs to the ID space, where every encoding can be read.
#[must_use]
pub const fn is_id_space(register: Encoding) -> bool {
    register.op0 == 3 && register.op1 == 0 && register.crn == 0 && register.crm >= 1 && register.crm <= 7
}

/// The ID register as the host reads it at EL1, where HCR_EL2.TID3 traps it: as it is, but without a granule for stage
/// 2 if that is wanted. KVM then says "PAGE_SIZE not supported at Stage-2" and gives up.
#[must_use]
pub const fn at_el1(register: Encoding, value: u64, hide_stage2_granules: bool) -> u64 {
    match (register, hide_stage2_granules) {
        (Encoding { op0: 3, op1: 0, crn: 0, crm: 7, op2: 0 }, true) => value & !TGRAN_2 | TGRAN_2_NONE,
        _ => value,
    }
}

/// The ID register as the host reads it in virtual EL2: without FEAT_VHE too, since HCR_EL2.E2H cannot be set there,
/// and Linux before 5.12 sets it as soon as it sees the feature; and without FEAT_NV.
#[must_use]
pub const fn at_virtual_el2(register: Encoding, value: u64, hide_stage2_granules: bool) -> u64 {
    let value = at_el1(register, value, hide_stage2_granules);
    match register {
        Encoding { op0: 3, op1: 0, crn: 0, crm: 7, op2: 1 } => value & !VH,
        Encoding { op0: 3, op1: 0, crn: 0, crm: 7, op2: 2 } => value & !NV,
        Encoding { op0: 3, op1: 0, crn: 0, crm: 7, op2: 4 } => value & !NV_FRAC,
        _ => value,
    }
}
