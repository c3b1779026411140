//! Where things are.

use std::path::{Path, PathBuf};

/// The project's directory.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/")).to_owned()
}

/// Where everything that is built goes; the scripts say so.
#[must_use]
pub fn target() -> PathBuf {
    root().join("target")
}

/// The directory of the cell `name`, for its consoles.
#[must_use]
pub fn of_cell(name: &str) -> PathBuf {
    target().join("tests").join(name)
}

/// Exeunt with its symbols.
#[must_use]
pub fn exeunt_elf(profile: &str) -> PathBuf {
    target().join("aarch64-unknown-none-softfloat").join(profile).join("exeunt")
}
