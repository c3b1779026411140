//! What runs inside a guest, and what it says.
//!
//! The scripts are files of their own, in guest/ of this package. Owns how variables get into them, and how their lines
//! are read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A script of guest/.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// kexec-first.sh
    KexecFirst,
    /// kexec-next.sh
    KexecNext,
    /// kdump-first.sh
    KdumpFirst,
    /// kdump-crash.sh
    KdumpCrash,
    /// kdump-back.sh
    KdumpBack,
    /// soak.sh
    Soak,
    /// hibernate-first.sh
    HibernateFirst,
    /// hibernate-resume.sh
    HibernateResume,
    /// hibernate-next.sh
    HibernateNext,
    /// trace-boot.sh
    TraceBoot,
    /// hung-where.sh
    HungWhere,
}

const COMMON: &str = include_str!("../guest/common.sh");

impl Script {
    const fn text(self) -> &'static str {
        match self {
            Self::KexecFirst => include_str!("../guest/kexec-first.sh"),
            Self::KexecNext => include_str!("../guest/kexec-next.sh"),
            Self::KdumpFirst => include_str!("../guest/kdump-first.sh"),
            Self::KdumpCrash => include_str!("../guest/kdump-crash.sh"),
            Self::KdumpBack => include_str!("../guest/kdump-back.sh"),
            Self::Soak => include_str!("../guest/soak.sh"),
            Self::HibernateFirst => include_str!("../guest/hibernate-first.sh"),
            Self::HibernateResume => include_str!("../guest/hibernate-resume.sh"),
            Self::HibernateNext => include_str!("../guest/hibernate-next.sh"),
            Self::TraceBoot => include_str!("../guest/trace-boot.sh"),
            Self::HungWhere => include_str!("../guest/hung-where.sh"),
        }
    }

    /// The script as a guest's shell gets it, with these variables.
    #[must_use]
    pub fn with(self, variables: &[(&str, &str)]) -> String {
        assignments(variables) + COMMON + self.text()
    }
}

/// The variables as a shell reads them.
#[must_use]
pub fn assignments(variables: &[(&str, &str)]) -> String {
    let mut script = String::new();
    for (name, value) in variables {
        let _ = writeln!(script, "{name}='{}'", value.replace('\'', r"'\''"));
    }
    script
}

/// What the kernels of a run have said: lines `WHO WHAT VALUE`.
#[derive(Clone, Debug, Default)]
pub struct Said {
    values: BTreeMap<(String, String), Vec<String>>,
}

impl Said {
    /// Takes a line, and gives what it was if it was one of these.
    pub fn take<'a>(&mut self, line: &'a str, kernels: &[&str]) -> Option<(&'a str, &'a str, &'a str)> {
        let mut words = line.trim_end_matches('\r').splitn(3, ' ');
        let (who, what) = (words.next()?, words.next()?);
        if !kernels.contains(&who) {
            return None;
        }
        let value = words.next().unwrap_or_default();
        self.values.entry((who.to_owned(), what.to_owned())).or_default().push(value.to_owned());
        Some((who, what, value))
    }

    /// What `who` said last of `what`; nothing is an empty text.
    #[must_use]
    pub fn last(&self, who: &str, what: &str) -> &str {
        self.all(who, what).last().map_or("", String::as_str)
    }

    /// All that `who` said of `what`.
    #[must_use]
    pub fn all(&self, who: &str, what: &str) -> &[String] {
        self.values.get(&(who.to_owned(), what.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// What any of the kernels complained of, in its own words.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let bad = self.values.iter().filter(|((_, what), _)| what == "bad");
        bad.flat_map(|((who, _), lines)| lines.iter().map(move |line| format!("{who}: {line}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn any_value_reaches_the_script_as_it_is() {
        let value = r#"it's "$HOME" \ `x`"#;
        let script = Script::KdumpBack.with(&[("next_command_line", value), ("call", "")]);
        let begin = &script[..script.find("# shellcheck").unwrap()];
        let shell = format!("{begin}\nprintf %s \"$next_command_line\"");
        let output = Command::new("sh").args(["-c", &shell]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
    }

    #[test]
    fn a_release_of_two_numbers_is_known() {
        let script = Script::KdumpCrash.with(&[]);
        let begin = script.find("has_two_numbers() {").unwrap();
        let end = begin + script[begin..].find("\n}\n").unwrap() + 3;
        let is_so = |release| {
            let shell = format!("{}has_two_numbers \"$1\"", &script[begin..end]);
            Command::new("sh").args(["-c", &shell, "sh", release]).status().unwrap().success()
        };
        for release in ["7.3-cloud-arm64", "7.3-rc5+deb14-arm64", "6.19", "7.3+"] {
            assert!(is_so(release), "{release}");
        }
        for release in ["6.1.0-57-cloud-arm64", "7.2.12", "6.12.118+deb13-rt-arm64", "7.3.0-rc1", "", "7", "linux-7.3"]
        {
            assert!(!is_so(release), "{release}");
        }
    }

    #[test]
    fn lines_are_read_by_who_said_them() {
        let mut said = Said::default();
        let kernels = ["first", "next"];
        for line in
            ["first release 6.12\r", "first bad WARNING: CPU: 0", "first bad Oops", "next level EL2", "other x y"]
        {
            said.take(line, &kernels);
        }
        assert_eq!(said.take("next dumped", &kernels), Some(("next", "dumped", "")));
        assert_eq!((said.last("first", "release"), said.last("next", "release")), ("6.12", ""));
        assert_eq!(said.complaints(), ["first: WARNING: CPU: 0", "first: Oops"]);
        assert_eq!(said.all("other", "x").len(), 0);
    }
}
