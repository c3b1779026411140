//! tmp
pub use core::sync::atomic::AtomicU64;
