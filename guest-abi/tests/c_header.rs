//! Keeps `tests/module/exeunt_abi.h` the same as the contract: the test module for Linux is in C.
//!
//! `UPDATE_DOCS=1 cargo test -p guest-abi --test c_header` writes the file anew.

mod rendered;

use std::fmt::{Display, Write as _};

use guest_abi::record::Field;
use guest_abi::table::{CALLS, CODES, RECORDS};
use guest_abi::vendor::{self, CpuState, Policy, Summary};
use guest_abi::{record, stub};

const HEAD: &str = "\
/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The ABI of EL2 for C: numbers and records of docs/abi.md. Rendered from the crate guest-abi by its test `c_header`;
 * not to be edited. The includer has u8 to u64; records are little-endian.
 */
#ifndef EXEUNT_ABI_H
#define EXEUNT_ABI_H
";

fn define(page: &mut String, name: impl Display, value: u64) {
    writeln!(page, "#define EXEUNT_{name} {value:#x}ULL").expect("a string has room");
}

/// From `StatusHeader` to `status_header`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_uppercase() && index > 0 {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// A field as C declares it. Fields wider than a register are arrays of 64-bit numbers.
fn member(field: &Field) -> String {
    match field.size {
        1 | 2 | 4 | 8 => format!("\tu{} {};\n", 8 * field.size, field.name),
        size => format!("\tu64 {}[{}];\n", field.name, size / 8),
    }
}

fn page() -> String {
    let mut page = String::from(HEAD);
    let out = &mut page;
    out.push_str("\n/* x0 of a call */\n");
    for call in CALLS {
        define(out, format_args!("CALL_{}", call.name), call.number);
    }
    out.push_str("\n/* x0 of an answer */\n");
    for (value, name, _) in CODES {
        define(out, name, *value);
    }
    out.push_str("\n/* w0 to w3 of CALL_UID */\n");
    for (index, word) in vendor::UID_REGISTERS.into_iter().enumerate() {
        define(out, format_args!("UID_{index}"), word.into());
    }
    out.push_str("\n/* arguments */\n");
    define(out, "PAGE", vendor::PAGE);
    define(out, "VECTORS_ALIGNMENT", stub::VECTORS_ALIGNMENT);
    define(out, "RESTART_KEXEC", vendor::RESTART_KEXEC.into());
    define(out, "RESTART_CRASH", vendor::RESTART_CRASH.into());
    for policy in Policy::ALL {
        define(out, format_args!("POLICY_{}", policy.words().to_uppercase()), policy as u64);
    }
    out.push_str("\n/* x2 of STATUS */\n");
    define(out, "SUMMARY_STATE_SHIFT", Summary::STATE_SHIFT.into());
    define(out, "SUMMARY_ENTRY_LEVEL_SHIFT", Summary::ENTRY_LEVEL_SHIFT.into());
    define(out, "SUMMARY_LOCKED", Summary::LOCKED);
    define(out, "SUMMARY_KEXEC_POLICY_SHIFT", Summary::KEXEC_POLICY_SHIFT.into());
    define(out, "SUMMARY_CRASH_POLICY_SHIFT", Summary::CRASH_POLICY_SHIFT.into());
    define(out, "SUMMARY_KVM_LEND", Summary::KVM_LEND);
    define(out, "SUMMARY_CPUS_SHIFT", Summary::CPUS_SHIFT.into());
    define(out, "SUMMARY_LIVE_SHIFT", Summary::LIVE_SHIFT.into());
    out.push_str("\n/* state of a CPU */\n");
    for state in CpuState::ALL {
        define(out, format_args!("STATE_{}", state.words().to_uppercase()), state as u64);
    }
    out.push_str("\n/* records */\n");
    define(out, "STATUS_MAGIC", record::STATUS_MAGIC.into());
    define(out, "CPU_LENT_TO_KVM", record::CPU_LENT_TO_KVM.into());
    define(out, "CPU_IN_VIRTUAL_EL2", record::CPU_IN_VIRTUAL_EL2.into());
    define(out, "CPU_DIED", record::CPU_DIED.into());
    define(out, "CPU_WATCHED", record::CPU_WATCHED.into());
    for record in RECORDS {
        let name = snake(record.name);
        let members: String = record.fields.iter().map(member).collect();
        write!(out, "\nstruct exeunt_{name} {{\n{members}}};\n").expect("a string has room");
        writeln!(out, "_Static_assert(sizeof(struct exeunt_{name}) == {}, \"{name}\");", record.size)
            .expect("a string has room");
    }
    out.push_str("\n#endif\n");
    page
}

#[test]
fn c_header_is_current() {
    rendered::assert_current("tests/module/exeunt_abi.h", &page());
}

#[test]
fn fields_that_are_no_register_are_arrays_of_them() {
    for record in RECORDS {
        for field in record.fields {
            assert!(matches!(field.size, 1 | 2 | 4) || field.size % 8 == 0, "{}", field.name);
        }
    }
}
