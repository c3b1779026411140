//! The finished image, for the tests that read it. Owns nothing: `scripts/build` does the building.

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Builds Exeunt as `profile` ("release" or "debug").
pub fn build(profile: &str) -> Built {
    let mut script = Command::new(root().join("scripts/build"));
    // What cargo sets for a test would reach the build, and make it differ from the one that people start.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            script.env_remove(name);
        }
    }
    let output = script.env("PROFILE", profile).env("QUIET", "1").output().expect("scripts/build starts");
    assert!(output.status.success(), "scripts/build ({profile}) fails:\n{}", String::from_utf8_lossy(&output.stderr));
    let target = root().join("target");
    Built {
        elf: target.join("aarch64-unknown-none-softfloat").join(profile).join("exeunt"),
        bin: target.join(format!("exeunt-{profile}.bin")),
    }
}
