//! The contract as data: every call, in which state it answers what, and every record.
//!
//! Owns the wording. `docs/abi.md` is rendered from it (`tests/docs.rs`), and nothing at EL2 uses it.

use crate::record::{Field, StatusCpu, StatusHeader};

/// A record that a call writes.
#[derive(Clone, Copy, Debug)]
pub struct RecordDoc {
    /// Its name.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// Its fields.
    pub fields: &'static [Field],
}

/// Every record.
pub const RECORDS: &[RecordDoc] = &[
    RecordDoc { name: "StatusHeader", size: StatusHeader::SIZE, fields: StatusHeader::FIELDS },
    RecordDoc { name: "StatusCpu", size: StatusCpu::SIZE, fields: StatusCpu::FIELDS },
];
