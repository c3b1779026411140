//! Which QEMU the tests use and what it has.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::cell::Missed;
use crate::paths;

/// A QEMU program.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// Its path, or its name to be looked for.
    pub program: PathBuf,
    /// Major and minor version.
    pub version: (u32, u32),
    /// CPU models.
    models: BTreeSet<String>,
}

impl Qemu {
    fn ask(program: PathBuf) -> Option<Self> {
        let output = |argument: &[&str]| {
            let output = Command::new(&program).args(argument).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let version = parse_version(&output(&["--version"])?)?;
        let models = parse_models(&output(&["-machine", "virt", "-cpu", "help"])?);
        Some(Self { program, version, models })
    }

    /// The QEMU of this machine, or the one that the variable QEMU names; none before set-up.
    pub fn usual() -> Option<&'static Self> {
        static USUAL: OnceLock<Option<Qemu>> = OnceLock::new();
        let program = || std::env::var_os("QEMU").unwrap_or_else(|| "qemu-system-aarch64".into()).into();
        USUAL.get_or_init(|| Self::ask(program())).as_ref()
    }

    /// The QEMU that scripts/private-qemu has unpacked for `version`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn private(version: &str) -> Result<Self, Missed> {
        let program = paths::target().join(format!("qemu-{version}")).join("qemu-system-aarch64");
        Self::ask(program)
            .ok_or_else(|| format!("there is no target/qemu-{version}: run scripts/setup test-all").into())
    }

    /// Whether it has the CPU model; properties after a comma do not count.
    #[must_use]
    pub fn has(&self, cpu: &str) -> bool {
        self.models.contains(cpu.split(',').next().unwrap_or(cpu))
    }

    /// Skips the cell when this QEMU lacks the CPU model.
    ///
    /// # Errors
    /// [`Missed::Skipped`], with the reason.
    pub fn needs(&self, cpu: &str) -> Result<(), Missed> {
        let (major, minor) = self.version;
        if self.has(cpu) {
            Ok(())
        } else {
            Err(Missed::Skipped(format!("QEMU {major}.{minor} has no CPU model {cpu}")))
        }
    }

    /// The CPU model with what it needs to run at a bearable speed: before 10.0 `max` computes pointer authentication
    /// codes as the architecture does, and a kernel then spends most of its time on them.
    #[must_use]
    pub fn cpu(&self, model: &str) -> String {
        if model == "max" && self.version < (10, 0) { "max,pauth-impdef=on".to_owned() } else { model.to_owned() }
    }
}

/// The usual QEMU.
///
/// # Errors
/// When there is none.
pub fn usual() -> Result<&'static Qemu, Missed> {
    Qemu::usual().ok_or_else(|| "there is no qemu-system-aarch64: run `make setup`".into())
}

/// From `QEMU emulator version 10.0.2 (Debian …)`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let number = text.lines().next()?.split("version ").nth(1)?;
    let mut parts = number.split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The first words of the lines that `-cpu help` prints.
fn parse_models(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qemu(version: (u32, u32)) -> Qemu {
        let models = parse_models("Available CPUs:\n  a64fx\n  cortex-a57\n  max                  (alias)\n");
        Qemu { program: PathBuf::new(), version, models }
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"), Some((10, 0)));
        assert_eq!(parse_version("QEMU emulator version 7.2.22"), Some((7, 2)));
        assert_eq!(parse_version("command not found"), None);
    }

    #[test]
    fn models_are_looked_up_without_their_properties() {
        let qemu = qemu((7, 2));
        assert!(qemu.has("max,lpa2=off") && qemu.has("cortex-a57") && !qemu.has("neoverse-v1"));
        assert!(matches!(qemu.needs("neoverse-v1"), Err(Missed::Skipped(reason)) if reason.contains("7.2")));
    }

    #[test]
    fn old_versions_get_a_faster_max() {
        assert_eq!(qemu((7, 2)).cpu("max"), "max,pauth-impdef=on");
        assert_eq!(qemu((10, 0)).cpu("max"), "max");
        assert_eq!(qemu((7, 2)).cpu("cortex-a57"), "cortex-a57");
    }
}
