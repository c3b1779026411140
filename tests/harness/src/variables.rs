//! The variables that the runner takes, and how they are kept from the machines of the tests.

use std::process::Command;

use runner::variables::VARIABLES;

/// What a person may set for all tests: another QEMU, a ready image of Exeunt.
const PASSED_ON: [&str; 2] = ["QEMU", "EXEUNT_BIN"];
/// What a make sets for those below it.
const OF_MAKE: [&str; 3] = ["MAKEFLAGS", "MAKELEVEL", "MFLAGS"];

/// Their names.
pub fn all() -> impl Iterator<Item = &'static str> {
    VARIABLES.iter().map(|variable| variable.name)
}

/// Keeps from a command what whoever called the tests has set for machines of their own.
pub fn clear(command: &mut Command) {
    for variable in all().filter(|name| !PASSED_ON.contains(name)).chain(OF_MAKE) {
        command.env_remove(variable);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_makefile_passes_on_what_there_is() {
        let list = include_str!("../../../scripts/variables");
        let listed: BTreeSet<&str> = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert_eq!(listed, all().collect());
    }

    #[test]
    fn no_variable_of_a_caller_reaches_a_machine() {
        let mut command = Command::new("true");
        clear(&mut command);
        let is_removed = |name: &str| command.get_envs().any(|(other, value)| other == name && value.is_none());
        assert!(is_removed("SMP") && is_removed("MAKEFLAGS"));
        assert!(!is_removed("QEMU") && !is_removed("EXEUNT_BIN"));
    }
}
