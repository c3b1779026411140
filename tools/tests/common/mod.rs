//! The finished image, for the tests that read it. Owns nothing: `scripts/build` does the building.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// What a build leaves.
#[allow(dead_code, reason = "each test uses the part that it needs")]
pub struct Built {
    /// The ELF file, with symbols and debug information.
    pub elf: PathBuf,
    /// The raw image.
    pub bin: PathBuf,
}

/// The directory of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tools/ is in the workspace")
}

/// Builds Exeunt as `profile` ("release" or "debug"), once for all tests of a file.
pub fn build(profile: &str) -> Built {
    static DONE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !done.contains(profile) {
        let mut script = Command::new(root().join("scripts/build"));
        let output = script.env("PROFILE", profile).env("QUIET", "1").output().expect("scripts/build starts");
        assert!(
            output.status.success(),
            "scripts/build ({profile}) fails:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        done.insert(profile.to_owned());
    }
    let target = root().join("target");
    Built {
        elf: target.join("aarch64-unknown-none-softfloat").join(profile).join("exeunt"),
        bin: target.join(format!("exeunt-{profile}.bin")),
    }
}
