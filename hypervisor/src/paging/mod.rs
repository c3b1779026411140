//! Translation tables.
