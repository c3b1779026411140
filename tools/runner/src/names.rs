//! What Debian's kernels are called: by a version or a release, and perhaps a flavour. `7.2`, `6.12-rt`, `testing-16k`.
//!
//! Owns what is a name and what is not; scripts/lib.sh has the same lists, and scripts/guest-packages finds out which
//! package a name is.

/// Kernels with which the tests work. The first is the usual one.
pub const TESTED: [&str; 6] = ["6.12", "6.1", "6.12-rt", "6.12-16k", "backports", "5.10"];

/// Releases of Debian, in the order in which a version is looked for.
const RELEASES: [&str; 8] =
    ["trixie", "trixie-backports", "bookworm", "bookworm-backports", "bullseye", "testing", "unstable", "experimental"];
/// The kernels of releases that get no others.
const SETTLED: [(&str, (u32, u32)); 3] = [("bullseye", (5, 10)), ("bookworm", (6, 1)), ("trixie", (6, 12))];
/// Other names of releases.
const RELEASES_TOO: [&str; 7] =
    ["backports", "stable", "stable-backports", "oldstable", "oldstable-backports", "forky", "sid"];
/// Without one it is `cloud`. `arm64` is the kernel that people install.
const FLAVOURS: [&str; 4] = ["cloud", "arm64", "rt", "16k"];

/// A name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// The newest kernel of a version that some release has.
    Version(&'a str),
    /// The newest kernel of a release.
    Release(&'a str),
}

impl<'a> Name<'a> {
    /// Of a text, if it is one.
    #[must_use]
    pub fn of(text: &'a str) -> Option<Self> {
        let name = FLAVOURS.iter().find_map(|flavour| text.strip_suffix(flavour)?.strip_suffix('-')).unwrap_or(text);
        let mut parts = name.split('.');
        let are_numbers = parts.all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        if are_numbers && name.contains('.') {
            return Some(Self::Version(name));
        }
        RELEASES.iter().chain(&RELEASES_TOO).any(|release| *release == name).then_some(Self::Release(name))
    }

    /// Whether the kernel is `wanted` or newer. Of a release that moves on nobody knows.
    #[must_use]
    pub fn is_at_least(self, wanted: (u32, u32)) -> Option<bool> {
        match self {
            Self::Version(version) => Some(is_at_least(version, wanted)),
            Self::Release(name) => {
                SETTLED.iter().find(|(release, _)| *release == name).map(|(_, version)| *version >= wanted)
            }
        }
    }
}

/// Whether the kernel that this is a name of is soon another one: what is not released yet, and backports.
#[must_use]
pub fn moves_on(name: &str) -> bool {
    Name::of(name).is_some_and(|name| name.is_at_least((0, 0)).is_none())
}

/// Whether version `text`, whatever is behind it, is `wanted` or newer: two numbers.
#[must_use]
pub fn is_at_least(text: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).is_some_and(|version| version >= wanted)
}

/// What to say of a text that is neither a file nor a name.
#[must_use]
pub fn what_there_is(text: &str) -> String {
    let (name, rest) = text.split_once('-').unwrap_or((text, ""));
    if Name::of(name).is_some() && !rest.is_empty() {
        return format!("Debian has the flavours {}, as in {name}-{}", FLAVOURS.join(", "), FLAVOURS[2]);
    }
    let all = RELEASES.iter().chain(&RELEASES_TOO);
    let near = all.map(|release| (strsim::damerau_levenshtein(text, release), release)).min();
    if let Some((_, release)) = near.filter(|(distance, _)| *distance <= 2) {
        return format!("neither a file nor a kernel's name; perhaps {release}");
    }
    format!(
        "neither a file nor a kernel's name, which is a version such as 7.2, or one of Debian's releases {}, perhaps \
         with a flavour, as in 6.12-rt",
        RELEASES.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_up_has_the_same_lists() {
        let script = include_str!("../../../scripts/lib.sh");
        let list = |name: &str| {
            let line = script.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap();
            line.trim_matches('"').split(' ').map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(list("KERNEL_ALIASES"), TESTED);
        assert_eq!(list("KERNEL_RELEASES"), RELEASES);
        assert_eq!(list("KERNEL_RELEASES_TOO"), RELEASES_TOO);
        assert_eq!(list("KERNEL_FLAVOURS"), FLAVOURS);
    }

    #[test]
    fn names_are_versions_and_releases() {
        for (text, name) in [
            ("6.12", Some(Name::Version("6.12"))),
            ("6.12-rt", Some(Name::Version("6.12"))),
            ("6.12.118-16k", Some(Name::Version("6.12.118"))),
            ("testing", Some(Name::Release("testing"))),
            ("bookworm-backports-arm64", Some(Name::Release("bookworm-backports"))),
            ("7", None),
            ("7.", None),
            ("7.2-foo", None),
            ("../7.2", None),
            ("Image", None),
            ("", None),
            ("-rt", None),
        ] {
            assert_eq!(Name::of(text), name, "{text}");
        }
        assert!(TESTED.iter().all(|name| Name::of(name).is_some()));
        assert!(moves_on("testing-16k") && !moves_on("trixie") && !moves_on("6.12"));
    }

    #[test]
    fn set_up_takes_the_same_names() {
        let lib = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/lib.sh");
        for text in ["6.12", "6.12-rt", "testing-16k", "forky", "backports", "7", "7.2-foo", "../7.2", "", "a.b"] {
            let script = format!("source {lib}; name_of \"$1\"");
            let output = std::process::Command::new("bash").args(["-c", &script, "bash", text]).output().unwrap();
            assert_eq!(output.status.success(), Name::of(text).is_some(), "{text}: {output:?}");
        }
    }

    #[test]
    fn what_is_none_is_told_what_there_is() {
        assert!(what_there_is("6.12-foo").contains("the flavours cloud, arm64, rt, 16k, as in 6.12-rt"));
        assert!(what_there_is("tesing").contains("perhaps testing"));
        assert!(what_there_is("/nowhere").contains("a version such as 7.2"));
    }

    #[test]
    fn versions_are_compared_by_numbers() {
        assert!(is_at_least("7.3.4+deb13-cloud-arm64", (7, 3)) && is_at_least("7.10", (7, 3)));
        assert!(!is_at_least("6.12.118", (7, 3)) && !is_at_least("testing", (7, 3)));
        let of = |name| Name::of(name).unwrap().is_at_least((6, 12));
        assert_eq!(
            ["6.1-rt", "6.12-rt", "bookworm-rt", "trixie", "testing"].map(of),
            [Some(false), Some(true), Some(false), Some(true), None]
        );
    }
}
