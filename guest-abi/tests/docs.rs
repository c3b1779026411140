//! Keeps `docs/abi.md` the same as the contract.
//!
//! `UPDATE_DOCS=1 cargo test -p guest-abi --test docs` writes the file anew.

mod rendered;

use std::fmt::{Display, Write as _};

use guest_abi::table::{CALLS, CAUTIONS, CODES, CallDoc, Family, OTHERS, Other, RECORDS, SUMMARY, State, bounds};
use guest_abi::vendor::CpuState;

const HEAD: &str = "\
# The ABI of EL2

How a host talks to EL2 under Exeunt, and after Exeunt. This page is rendered from the crate `guest-abi`, which guests
and tools can use as it is: numbers, types, records and, for AArch64, functions that issue the calls.

A call is `hvc #0` from EL1 with its number in x0. There are two kinds, and neither can be mistaken for the other:

- The **stub calls** of Linux have small numbers. A kernel that was entered at EL2 makes them after it has gone on to
  EL1. [History](history.md) says why they are as they are, and [virtual EL2](virtual-el2.md) how a host under Exeunt
  comes to make them.
- **Exeunt's own** are fast calls of the SMC Calling Convention in the vendor-specific hypervisor range (owner 6).

What other hypervisors answer is in [peers](peers.md). How Exeunt goes, and comes back, is in [leaving](leaving.md).

A call may be made at any moment: with the MMU on or off, interrupts masked or not, from EL1t or EL1h. It uses no stack.
All registers that it does not name stay as they were: x0 to x30, SP, SIMD, and the system registers of EL1. If the
immediate is not 0, the stub calls are answered all the same, as by Linux's stub; fast calls are NOT_SUPPORTED while
Exeunt is live.
";

/// A line of a table.
fn row<const N: usize>(page: &mut String, cells: [&dyn Display; N]) {
    for cell in cells {
        write!(page, "| {cell} ").expect("a string has room");
    }
    page.push_str("|\n");
}

fn head<const N: usize>(page: &mut String, title: &str, columns: [&str; N]) {
    write!(page, "\n## {title}\n\n").expect("a string has room");
    columns_of(page, columns);
}

fn columns_of<const N: usize>(page: &mut String, columns: [&str; N]) {
    row(page, columns.each_ref().map(|column| column as &dyn Display));
    page.push_str(&"|---".repeat(N));
    page.push_str("|\n");
}

fn number(call: &CallDoc) -> String {
    if call.family == Family::Stub { call.number.to_string() } else { format!("0x{:08x}", call.number) }
}

fn registers(list: &[(&str, &str)]) -> String {
    if list.is_empty() {
        return "-".into();
    }
    list.iter().map(|(name, meaning)| format!("{name}: {meaning}")).collect::<Vec<_>>().join("<br>")
}

fn page() -> String {
    let mut page = String::from(HEAD);
    let out = &mut page;

    head(out, "States", ["state", "what it is"]);
    for state in State::ALL {
        row(out, [&state.name(), &state.meaning()]);
    }
    out.push_str("\nA state is one CPU's. `STATUS` tells it for all.\n");

    head(out, "Calls", ["x0", "call", "known to", "what it is for", "where the rule comes from"]);
    for call in CALLS {
        row(out, [&number(call), &call.name, &call.known_to, &call.purpose, &call.source]);
    }

    head(out, "Registers", ["call", "in", "out", "also changed"]);
    for call in CALLS {
        row(out, [&call.name, &registers(call.inputs), &registers(call.outputs), &call.clobbers]);
    }
    out.push_str("\nAfter an error x0 has the code, and nothing else has changed.\n");
    out.push_str(
        "\nThe host's RAM is what `/memory` of the device tree names, without Exeunt's 2 MiB. RAM that is added later\n\
         does not count. A buffer also lies outside of what the tree keeps for others: `no-map` and `/memreserve/`\n\
         ([memory](memory.md)).\n",
    );

    let states = State::ALL.map(State::name);
    head(out, "Answers by state", ["x0", "call", states[0], states[1], states[2], states[3], states[4]]);
    for call in CALLS {
        let [stub, el1, el2, leaving, gone] = call.answers;
        row(out, [&number(call), &call.name, &stub, &el1, &el2, &leaving, &gone]);
    }
    for other in OTHERS {
        let [stub, el1, el2, leaving, gone] = other.answers;
        row(out, [&other.what, &"-", &stub, &el1, &el2, &leaving, &gone]);
    }

    head(out, "Codes", ["x0", "name", "what it says"]);
    for (value, name, meaning) in CODES {
        let value = if value.cast_signed() < 0 { value.cast_signed().to_string() } else { format!("{value:#x}") };
        row(out, [&value, name, meaning]);
    }
    out.push_str("\nNegative codes are sign-extended to 64 bits, also in calls of the 32-bit convention.\n\n");
    columns_of(out, ["call", "code", "when"]);
    for call in CALLS {
        for (code, when) in call.errors {
            row(out, [&call.name, code, when]);
        }
    }

    head(out, "Records", ["bits of the summary", "meaning"]);
    for (bits, meaning) in SUMMARY {
        row(out, [bits, meaning]);
    }
    out.push('\n');
    columns_of(out, ["state in summary and record", "name"]);
    for state in CpuState::ALL {
        row(out, [&(state as u8), &state.words()]);
    }
    out.push_str(
        "\nRecords are little-endian. A later version only adds fields, at a record's end. A reader takes the sizes \
         from the header, and the meaning of the fields from the version.\n",
    );
    for record in RECORDS {
        write!(out, "\n### {}, {} bytes, {}\n\n", record.name, record.size, record.place).expect("a string has room");
        columns_of(out, ["offset", "bytes", "field", "meaning"]);
        for field in record.fields {
            let name = format!("`{}`", field.name);
            row(out, [&field.offset, &field.size, &name, &field.meaning.trim()]);
        }
    }

    head(out, "What a caller must be prepared for", ["what", "what to know"]);
    for (what, about) in CAUTIONS {
        row(out, [what, about]);
    }
    page
}

#[test]
fn abi_page_is_current() {
    rendered::assert_current("docs/abi.md", &page());
}

#[test]
fn every_call_of_the_contract_is_in_the_table_once() {
    use guest_abi::{stub, vendor};
    let queries = [vendor::CALL_COUNT, vendor::CALL_UID, vendor::REVISION];
    let own = queries.iter().chain(&vendor::CALLS).map(|&id| u64::from(id));
    let expected: Vec<u64> = (0..stub::STUB_CALLS_END).chain(own).collect();
    let written: Vec<u64> = CALLS.iter().map(|call| call.number).collect();
    assert_eq!(written, expected);
}

#[test]
fn texts_that_repeat_numbers_repeat_the_right_ones() {
    use guest_abi::vendor::{ABI_MAJOR, ABI_MINOR, UID, UID_REGISTERS};
    let output =
        |name: &str, index: usize| CALLS.iter().find(|call| call.name == name).expect("in the table").outputs[index].1;
    let registers = UID_REGISTERS.map(|word| format!("{word:#010x}")).join(", ");
    let hex = format!("{:032x}", u128::from_be_bytes(UID));
    let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    assert_eq!(output("CALL_UID", 0), format!("{registers}: UUID {uuid}"));
    assert_eq!(output("CALL_COUNT", 0), guest_abi::vendor::CALLS.len().to_string());
    assert_eq!(output("REVISION", 0), format!("major, {ABI_MAJOR}"));
    assert_eq!(output("REVISION", 1), format!("minor, {ABI_MINOR}"));
    assert!(output("PANIC", 0).contains(&format!("{:#x}", guest_abi::vendor::PANIC_SYNDROME)));
    for call in CALLS.iter().filter(|call| call.family != Family::Stub) {
        let since = match call.name {
            "TRACE" | "STAGE2_RANGE" => "1.1",
            "PANIC" => "1.2",
            "CRASH_KERNEL" => "1.3",
            _ => "1.0",
        };
        assert_eq!(call.known_to, format!("Exeunt, ABI {since}"), "{}", call.name);
    }
}

#[test]
fn the_other_numbers_are_named_as_they_are() {
    for row in OTHERS {
        // The two that say "any other" are told by bit 31.
        for &(first, last) in row.numbers.iter().filter(|_| !matches!(row.kind, Other::Stub | Other::Fast)) {
            assert!(row.what.contains(&format!("{first:#x} to {last:#x}")), "{}", row.what);
        }
    }
}

#[test]
fn every_number_is_in_one_row() {
    use guest_abi::vendor;
    let rows = [
        (4, None),
        (5, Some(Other::Stub)),
        (1 << 32, Some(Other::Stub)),
        (0x7fff_ffff, Some(Other::Stub)),
        (1 << 63 | 0x7fff_ffff, Some(Other::Stub)),
        (0x8000_0000, Some(Other::Architecture)),
        (0x8001_0000, Some(Other::Architecture)),
        (0x8000_ffff, Some(Other::Architecture)),
        (0x8002_0000, Some(Other::Fast)),
        (0x8100_0000, Some(Other::Fast)),
        (0x83ff_ffff, Some(Other::Fast)),
        (0x8400_0000, Some(Other::Psci)),
        (0xdead_8401_001f, Some(Other::Psci)),
        (0x8400_0020, Some(Other::Fast)),
        (0x8600_0000, Some(Other::Fast)),
        (0xc5ff_ffff, Some(Other::Fast)),
        (0xc600_0000, Some(Other::Kvm)),
        (0xc601_44ff, Some(Other::Kvm)),
        (0xc600_4500, Some(Other::Fast)),
        (u64::from(vendor::STATUS), None),
        (u64::from(vendor::STATUS) | 1 << 16 | 1 << 40, None),
        (u64::from(vendor::STATUS) ^ 1 << 30, Some(Other::Fast)),
        (u64::MAX, Some(Other::Fast)),
    ];
    for (x0, row) in rows {
        assert_eq!(Other::of(x0), row, "{x0:#x}");
    }
    for call in CALLS {
        assert_eq!(Other::of(call.number), None, "{}", call.name);
    }
    // A walk along the bounds comes to every row.
    for kind in [Other::Stub, Other::Kvm, Other::Psci, Other::Architecture, Other::Fast] {
        assert!(bounds().filter(|&number| Other::of(number.into()) == Some(kind)).count() >= 2, "{kind:?}");
    }
}

#[test]
fn no_cell_breaks_its_table() {
    for line in page().lines().filter(|line| line.starts_with('|')) {
        assert!(!line.contains("  "), "{line}");
    }
}

/// The tables of `docs/doorbell.md` have the offsets of the contract, each beside its name.
#[test]
fn the_doorbells_page_has_its_offsets() {
    use guest_abi::doorbell as door;
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/doorbell.md")).expect("it is there");
    let rows = [
        (door::MAGIC, "MAGIC |"),
        (door::VERSION, "VERSION, or MAILBOX |"),
        (door::MAILBOX, "VERSION, or MAILBOX |"),
        (door::OPEN, "OPEN |"),
        (door::BOX_SIZE, "BOX_SIZE |"),
        (door::BOX_START, "BOX_START |"),
        (door::MIRROR, "the mirror of the black box |"),
        (door::A0, "A0, followed by A1 to A3 |"),
        (door::GO, "GO |"),
        (door::DONE, "DONE |"),
        (door::R0, "R0, followed by R1 to R3 |"),
        (door::TICKET, "TICKET |"),
    ];
    for (offset, name) in rows {
        assert!(page.contains(&format!("| {offset:#04x} | {name}")), "{offset:#x}: {name}");
    }
    let channels = format!(
        "| {:#x} | channel 0, followed by {} more at steps of {:#x} |",
        door::CHANNEL,
        door::CHANNELS - 1,
        door::CHANNEL_SIZE
    );
    assert!(page.contains(&channels), "{channels}");
    let end = door::CHANNEL + door::CHANNELS * door::CHANNEL_SIZE - 1;
    assert!(page.contains(&format!("from {:#x} to {end:#x}", door::MAGIC)));
    for (word, at) in [(door::PRESENT, "EXEUNTDB"), (door::LEFT, "EXEUNTLF")] {
        assert_eq!(word.to_le_bytes(), *at.as_bytes());
        assert!(page.contains(at));
    }
}
