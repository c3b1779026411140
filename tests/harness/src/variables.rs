//! The variables that the scripts take: `scripts/variables`, the list that the Makefile has too.

use std::process::Command;

const LIST: &str = include_str!("../../../scripts/variables");

/// What a person may set for all tests: another QEMU, a ready image of Exeunt.
const PASSED_ON: [&str; 2] = ["QEMU", "EXEUNT_BIN"];
/// What a make sets for those below it.
const OF_MAKE: [&str; 3] = ["MAKEFLAGS", "MAKELEVEL", "MFLAGS"];

/// Each with the file that describes it.
fn described() -> impl Iterator<Item = (&'static str, &'static str)> {
    LIST.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '))
}

/// Their names.
pub fn all() -> impl Iterator<Item = &'static str> {
    described().map(|(name, _)| name)
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
    use std::fs;

    use super::*;
    use crate::paths;

    #[test]
    fn each_is_described_where_the_list_says() {
        assert!(described().count() > 30);
        for (name, file) in described() {
            let text = fs::read_to_string(paths::root().join(file)).expect("the list names a file");
            // A script's own variables have small letters, so that this is a comment or a line of help.
            let described = text.lines().any(|line| {
                let mut words = line.split(|letter: char| !letter.is_ascii_uppercase() && !"_=".contains(letter));
                (line.starts_with('#') || line.contains("@echo"))
                    && words.any(|word| word.starts_with(&format!("{name}=")))
            });
            assert!(described, "{file} does not describe {name}=");
        }
        assert_eq!(all().collect::<BTreeSet<_>>().len(), all().count(), "a variable stands in the list twice");
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
