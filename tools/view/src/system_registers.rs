//! Names of system registers and system instructions by their encoding.
//!
//! Owns the names of those that Exeunt has no row for: the ID space, PSTATE, the GIC's CPU interface, maintenance. All
//! others it takes from where EL2 has them.
//!
//! Source: Arm ARM (DDI 0487), C5 and D24.

use guest_abi::blackbox::{OTHERS, register_key};
use hypervisor::features::IdRegister;
use hypervisor::syndrome::{EC_SHIFT, Encoding, Esr, ExceptionClass};
use hypervisor::virtual_el2::decode::{self, Field, Operation};
use hypervisor::virtual_el2::registers;

/// The ID space, op0 3, op1 0, CRn 0, by CRm from 1 on and op2.
const ID_SPACE: [[&str; 8]; 7] = [
    ["PFR0", "PFR1", "DFR0", "AFR0", "MMFR0", "MMFR1", "MMFR2", "MMFR3"],
    ["ISAR0", "ISAR1", "ISAR2", "ISAR3", "ISAR4", "ISAR5", "MMFR4", "ISAR6"],
    ["MVFR0", "MVFR1", "MVFR2", "", "PFR2", "DFR1", "MMFR5", ""],
    ["AA64PFR0", "AA64PFR1", "AA64PFR2", "", "AA64ZFR0", "AA64SMFR0", "", "AA64FPFR0"],
    ["AA64DFR0", "AA64DFR1", "AA64DFR2", "", "AA64AFR0", "AA64AFR1", "", ""],
    ["AA64ISAR0", "AA64ISAR1", "AA64ISAR2", "AA64ISAR3", "", "", "", ""],
    ["AA64MMFR0", "AA64MMFR1", "AA64MMFR2", "AA64MMFR3", "AA64MMFR4", "", "", ""],
];

macro_rules! others {
    ($($name:literal, $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {
        const TABLE: &[(u32, &str)] = &[$((register_key($op0, $op1, $crn, $crm, $op2), $name),)*];
    };
}

others! {
    // PSTATE.
    "SPSel", 3, 0, 4, 2, 0;
    "CurrentEL", 3, 0, 4, 2, 2;
    "PAN", 3, 0, 4, 2, 3;
    "UAO", 3, 0, 4, 2, 4;
    "ALLINT", 3, 0, 4, 3, 0;
    "PM", 3, 0, 4, 3, 1;
    "NZCV", 3, 3, 4, 2, 0;
    "DAIF", 3, 3, 4, 2, 1;
    "SVCR", 3, 3, 4, 2, 2;
    "DIT", 3, 3, 4, 2, 5;
    "SSBS", 3, 3, 4, 2, 6;
    "TCO", 3, 3, 4, 2, 7;
    // Debug.
    "MDCCINT_EL1", 2, 0, 0, 2, 0;
    "MDRAR_EL1", 2, 0, 1, 0, 0;
    "OSLAR_EL1", 2, 0, 1, 0, 4;
    "OSLSR_EL1", 2, 0, 1, 1, 4;
    "OSDLR_EL1", 2, 0, 1, 3, 4;
    "DBGPRCR_EL1", 2, 0, 1, 4, 4;
    "DBGAUTHSTATUS_EL1", 2, 0, 7, 14, 6;
    "MDCCSR_EL0", 2, 3, 0, 1, 0;
    // The GIC's CPU interface.
    "ICC_IAR0_EL1", 3, 0, 12, 8, 0;
    "ICC_EOIR0_EL1", 3, 0, 12, 8, 1;
    "ICC_HPPIR0_EL1", 3, 0, 12, 8, 2;
    "ICC_BPR0_EL1", 3, 0, 12, 8, 3;
    "ICC_DIR_EL1", 3, 0, 12, 11, 1;
    "ICC_RPR_EL1", 3, 0, 12, 11, 3;
    "ICC_SGI1R_EL1", 3, 0, 12, 11, 5;
    "ICC_ASGI1R_EL1", 3, 0, 12, 11, 6;
    "ICC_SGI0R_EL1", 3, 0, 12, 11, 7;
    "ICC_IAR1_EL1", 3, 0, 12, 12, 0;
    "ICC_EOIR1_EL1", 3, 0, 12, 12, 1;
    "ICC_HPPIR1_EL1", 3, 0, 12, 12, 2;
    // Caches.
    "DC IVAC", 1, 0, 7, 6, 1;
    "DC ISW", 1, 0, 7, 6, 2;
    "DC IGVAC", 1, 0, 7, 6, 3;
    "DC IGSW", 1, 0, 7, 6, 4;
    "DC IGDVAC", 1, 0, 7, 6, 5;
    "DC IGDSW", 1, 0, 7, 6, 6;
    "DC CSW", 1, 0, 7, 10, 2;
    "DC CGSW", 1, 0, 7, 10, 4;
    "DC CGDSW", 1, 0, 7, 10, 6;
    "DC CISW", 1, 0, 7, 14, 2;
    "DC CIGSW", 1, 0, 7, 14, 4;
    "DC CIGDSW", 1, 0, 7, 14, 6;
    "DC ZVA", 1, 3, 7, 4, 1;
    "DC CVAC", 1, 3, 7, 10, 1;
    "DC CVAU", 1, 3, 7, 11, 1;
    "DC CVAP", 1, 3, 7, 12, 1;
    "DC CIVAC", 1, 3, 7, 14, 1;
    "IC IALLUIS", 1, 0, 7, 1, 0;
    "IC IALLU", 1, 0, 7, 5, 0;
    "IC IVAU", 1, 3, 7, 5, 1;
    // Address translation.
    "AT S1E1R", 1, 0, 7, 8, 0;
    "AT S1E1W", 1, 0, 7, 8, 1;
    "AT S1E2R", 1, 4, 7, 8, 0;
    "AT S1E2W", 1, 4, 7, 8, 1;
    "AT S12E1R", 1, 4, 7, 8, 4;
    "AT S12E1W", 1, 4, 7, 8, 5;
    // TLBs.
    "TLBI VMALLE1IS", 1, 0, 8, 3, 0;
    "TLBI VAE1IS", 1, 0, 8, 3, 1;
    "TLBI ASIDE1IS", 1, 0, 8, 3, 2;
    "TLBI VMALLE1", 1, 0, 8, 7, 0;
    "TLBI VAE1", 1, 0, 8, 7, 1;
    "TLBI ASIDE1", 1, 0, 8, 7, 2;
    "TLBI ALLE2OS", 1, 4, 8, 1, 0;
    "TLBI ALLE1OS", 1, 4, 8, 1, 4;
    "TLBI VMALLS12E1OS", 1, 4, 8, 1, 6;
    "TLBI ALLE2IS", 1, 4, 8, 3, 0;
    "TLBI VAE2IS", 1, 4, 8, 3, 1;
    "TLBI ALLE1IS", 1, 4, 8, 3, 4;
    "TLBI VMALLS12E1IS", 1, 4, 8, 3, 6;
    "TLBI ALLE2", 1, 4, 8, 7, 0;
    "TLBI VAE2", 1, 4, 8, 7, 1;
    "TLBI ALLE1", 1, 4, 8, 7, 4;
    "TLBI VMALLS12E1", 1, 4, 8, 7, 6;
}

/// The encoding in a key ([`register_key`]).
pub const fn encoding(key: u32) -> Encoding {
    Encoding::new(
        (key >> 14) as u8 & 3,
        (key >> 11) as u8 & 7,
        (key >> 7) as u8 & 15,
        (key >> 3) as u8 & 15,
        key as u8 & 7,
    )
}

/// The key of an encoding.
pub const fn key(encoding: Encoding) -> u32 {
    register_key(encoding.op0, encoding.op1, encoding.crn, encoding.crm, encoding.op2)
}

/// How MSR (immediate) calls a field of PSTATE.
pub const fn field(field: Field) -> &'static str {
    match field {
        Field::Uao => "UAO",
        Field::Pan => "PAN",
        Field::SpSel => "SPSel",
        Field::AllInt => "ALLINT",
        Field::Pm => "PM",
        Field::Ssbs => "SSBS",
        Field::Dit => "DIT",
        Field::Tco => "TCO",
        Field::DaifSet => "DAIFSet",
        Field::DaifClr => "DAIFClr",
    }
}

/// The name of a register or instruction; where there is none, as an assembler takes it.
pub fn name(register: Encoding) -> String {
    if let Some(name) = registers::name(register) {
        return name.to_owned();
    }
    let wanted = key(register);
    let listed = TABLE.iter().find(|&&(key, _)| key == wanted).map(|&(_, name)| name);
    let id = || IdRegister::ALL.iter().find(|id| key(id.encoding()) == wanted).map(|id| id.name());
    if let Some(name) = listed.or_else(id) {
        return name.to_owned();
    }
    let Encoding { op0, op1, crn, crm, op2 } = register;
    match (op0, op1, crn) {
        (3, 0, 0) if (1..=7).contains(&crm) => match ID_SPACE[usize::from(crm) - 1][usize::from(op2 & 7)] {
            "" => register.to_string(),
            name if name.starts_with("MVFR") => format!("{name}_EL1"),
            name => format!("ID_{name}_EL1"),
        },
        (2, 0, 0) if (4..=7).contains(&op2) => {
            format!("DBG{}{crm}_EL1", ["BVR", "BCR", "WVR", "WCR"][usize::from(op2) - 4])
        }
        (1, _, 8 | 9) => format!("TLBI {register}"),
        (1, _, _) => format!("SYS {register}"),
        (0, _, _) => match operation_of(register) {
            Some(Operation::WriteField { field: of, .. }) => field(of).to_owned(),
            _ => register.to_string(),
        },
        _ => register.to_string(),
    }
}

/// What an MSR with this encoding and the zero register is.
fn operation_of(register: Encoding) -> Option<Operation> {
    let Encoding { op0, op1, crn, crm, op2 } = register;
    let [op0, op1, crn, crm, op2] = [op0, op1, crn, crm, op2].map(u64::from);
    let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | 31 << 5 | crm << 1;
    Esr::new((ExceptionClass::SystemRegister as u64) << EC_SHIFT | iss).system_access().map(decode::from_syndrome)
}

/// The name for a key of the black box.
pub fn name_of_key(key: u32) -> String {
    match key {
        OTHERS => "all others".to_owned(),
        // 16 bits are an encoding; the rest is damage.
        key if key >> 16 != 0 => format!("key {key:#x}"),
        key => name(encoding(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_the_names_of_the_arm_arm() {
        for (key, name) in [
            (register_key(3, 4, 1, 1, 0), "HCR_EL2"),
            (register_key(3, 0, 0, 0, 0), "MIDR_EL1"),
            (register_key(3, 0, 0, 4, 0), "ID_AA64PFR0_EL1"),
            (register_key(3, 0, 0, 7, 4), "ID_AA64MMFR4_EL1"),
            (register_key(3, 0, 0, 3, 1), "MVFR1_EL1"),
            (register_key(3, 0, 0, 6, 7), "S3_0_C0_C6_7"),
            (register_key(3, 0, 4, 2, 2), "CurrentEL"),
            (register_key(0, 3, 4, 15, 6), "DAIFSet"),
            (register_key(0, 3, 2, 0, 0), "S0_3_C2_C0_0"),
            (register_key(2, 0, 0, 5, 5), "DBGBCR5_EL1"),
            (register_key(1, 4, 8, 7, 4), "TLBI ALLE1"),
            (register_key(1, 4, 8, 0, 1), "TLBI S1_4_C8_C0_1"),
            (register_key(1, 0, 7, 14, 2), "DC CISW"),
            (OTHERS, "all others"),
            (0x1_0000, "key 0x10000"),
        ] {
            assert_eq!(name_of_key(key), name);
        }
    }

    #[test]
    fn every_key_has_a_name_and_none_is_empty() {
        for number in 0..=u32::from(u16::MAX) {
            let name = name_of_key(number);
            assert!(!name.is_empty() && name != "ID__EL1", "{number:#x}");
            assert_eq!(key(encoding(number)), number);
        }
    }
}
