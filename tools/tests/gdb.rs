//! gdb's words: the tables that its script shares with Rust are current, and its own tests pass.
//!
//! `UPDATE_DOCS=1 cargo test -p exeunt-tools --test gdb` writes tools/gdb/tables.json anew.

use std::fmt::{Debug, Write as _};
use std::path::Path;
use std::process::Command;

use guest_abi::{RESERVATION, blackbox, table};
use hypervisor::features::IdRegister;
use hypervisor::syndrome::{Encoding, Esr, ExceptionClass};
use hypervisor::virtual_el2::{registers, system};
use serde_json::{Map, Value, json};

#[path = "../../guest-abi/tests/rendered/mod.rs"]
mod rendered;

/// Of which level an exception of this class comes, as the log says it.
fn level(class: ExceptionClass) -> &'static str {
    let words = Esr::new(u64::from(class as u8) << 26).to_string();
    ["from EL1 or EL0", "from EL2"].into_iter().find(|level| words.contains(level)).unwrap_or_default()
}

/// A fault status code in words, as the log says it.
fn fault(status: u64) -> String {
    let abort = Esr::new(u64::from(ExceptionClass::DataAbortLower as u8) << 26 | status).abort();
    abort.expect("the class is an abort's").fault().to_string()
}

/// A system instruction as it is written, from the name of its variant: `DcCisw` is DC CISW.
fn instruction(operation: impl Debug) -> String {
    let name = format!("{operation:?}");
    let operand = name.rfind(char::is_uppercase).unwrap_or(0);
    format!("{} {}", &name[..operand], &name[operand..]).to_uppercase()
}

/// Every register and system instruction that has a name, by its key.
fn names() -> Vec<Value> {
    let mut names = Vec::new();
    let mut add = |encoding: Encoding, name: &str| {
        let Encoding { op0, op1, crn, crm, op2 } = encoding;
        names.push((blackbox::register_key(op0, op1, crn, crm, op2), name.to_owned()));
    };
    for key in 0..1_u32 << 16 {
        let part = |shift: u32, mask: u32| (key >> shift & mask) as u8;
        let encoding = Encoding::new(part(14, 3), part(11, 7), part(7, 15), part(3, 15), part(0, 7));
        if let Some(name) = registers::name(encoding) {
            add(encoding, name);
        }
    }
    for register in IdRegister::ALL {
        add(register.encoding(), register.name());
    }
    for operation in system::SetWay::ALL {
        add(operation.encoding(), &instruction(operation));
    }
    for operation in system::Maintenance::ALL {
        add(operation.encoding(), &instruction(operation));
    }
    names.sort();
    names.dedup_by_key(|(key, _)| *key);
    names.into_iter().map(|(key, name)| json!({ "key": key, "name": name })).collect()
}

fn black_box() -> Value {
    let records: Map<String, Value> = blackbox::RECORDS
        .iter()
        .map(|(name, size, fields)| {
            let fields: Vec<Value> = fields
                .iter()
                .map(|field| json!({ "name": field.name, "offset": field.offset, "size": field.size }))
                .collect();
            ((*name).to_owned(), json!({ "size": size, "fields": fields }))
        })
        .collect();
    let words = |rows: Vec<(u16, &str)>| -> Map<String, Value> {
        rows.into_iter().map(|(number, words)| (number.to_string(), words.into())).collect()
    };
    json!({
        "magic": blackbox::MAGIC,
        "size": blackbox::SIZE,
        "live": blackbox::LIVE,
        "death": blackbox::DEATH,
        "history": blackbox::HISTORY,
        "events": blackbox::EVENTS,
        "exit_names": blackbox::EXIT_NAMES,
        "records": records,
        "kinds": words(blackbox::Kind::ALL.iter().map(|&kind| (kind as u16, kind.words())).collect()),
        "stops": words(blackbox::Stop::ALL.iter().map(|&stop| (stop as u16, stop.words())).collect()),
        "causes": words(blackbox::Cause::ALL.iter().map(|&cause| (cause as u16, cause.words())).collect()),
        "flags": {
            "in virtual EL2": blackbox::IN_VIRTUAL_EL2,
            "goes native": blackbox::WENT_NATIVE,
            "does not return": blackbox::NO_RETURN,
            "gets an exception": blackbox::INJECTED,
        },
    })
}

fn tables() -> String {
    let classes: Vec<Value> = ExceptionClass::ALL
        .iter()
        .map(|&class| {
            json!({
                "number": class as u8,
                "name": format!("{class:?}"),
                "words": class.words(),
                "from": level(class),
            })
        })
        .collect();
    let faults: Vec<String> = (0..64).map(fault).collect();
    let calls: Vec<Value> =
        table::CALLS.iter().map(|call| json!({ "number": call.number, "name": call.name })).collect();
    let tables = json!({
        "classes": classes,
        "faults": faults,
        "registers": names(),
        "calls": calls,
        "reservation": RESERVATION,
        "black_box": black_box(),
    });
    let mut text = String::new();
    render(&mut text, &tables, 0);
    text.push('\n');
    text
}

/// One row of a table to a line: so that it can be read, and a difference be seen.
fn render(text: &mut String, value: &Value, depth: usize) {
    let (begin, end, rows): (_, _, Vec<(String, &Value)>) = match value {
        Value::Object(map) if map.values().any(|value| value.is_object() || value.is_array()) || depth == 0 => {
            ('{', '}', map.iter().map(|(name, value)| (format!("{}: ", json!(name)), value)).collect())
        }
        Value::Array(rows) if rows.len() > 8 || rows.iter().any(Value::is_object) => {
            ('[', ']', rows.iter().map(|row| (String::new(), row)).collect())
        }
        _ => return write!(text, "{value}").expect("a string has room"),
    };
    text.push(begin);
    for (index, (name, row)) in rows.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(text, "{comma}\n{}{name}", "  ".repeat(depth + 1)).expect("a string has room");
        render(text, row, depth + 1);
    }
    write!(text, "\n{}{end}", "  ".repeat(depth)).expect("a string has room");
}

#[test]
fn tables_are_current() {
    rendered::assert_current("tools/gdb/tables.json", &tables());
}

#[test]
fn the_scripts_own_tests_pass() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("gdb");
    let output = Command::new("python3")
        // Nothing is left among the sources.
        .args(["-B", "-m", "unittest", "discover", "--pattern", "test_*.py", "--start-directory"])
        .arg(&directory)
        .output()
        .expect("python3 starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("Ran 0 tests"), "{said}");
}
