//! The variables that people set, in the environment or for make: `make run SMP=8`.
//!
//! Owns the one table of them: what each is called, what it takes, which targets take it. What is not in the table is
//! refused with the nearest name, if make was given it; the environment has variables of everybody's.

use std::collections::BTreeMap;
use std::fmt;

/// What a person asks for: a target of the Makefile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `make run`.
    Run,
    /// `make gdb`.
    Gdb,
    /// `make map`.
    Map,
    /// `make kexec`.
    Kexec,
    /// `make kdump`.
    Kdump,
    /// `make soak`.
    Soak,
    /// `make drill`.
    Drill,
    /// scripts/hibernate.
    Hibernate,
    /// `make debian`.
    Debian,
    /// `make debian-dump`.
    DebianDump,
    /// `make trace`.
    Trace,
}

/// Targets that start one machine as a person describes it.
const MACHINE: &[Target] = &[
    Target::Run,
    Target::Gdb,
    Target::Map,
    Target::Kexec,
    Target::Kdump,
    Target::Trace,
    Target::Soak,
    Target::Hibernate,
    Target::Debian,
];
/// Those and the drill, which has many machines.
const WITH_DRILL: &[Target] = &[
    Target::Run,
    Target::Gdb,
    Target::Map,
    Target::Kexec,
    Target::Kdump,
    Target::Trace,
    Target::Soak,
    Target::Hibernate,
    Target::Debian,
    Target::Drill,
];
/// Those with a kernel that a person chooses: Debian boots its disk's.
const WITH_KERNEL: &[Target] = &[
    Target::Run,
    Target::Gdb,
    Target::Map,
    Target::Kexec,
    Target::Kdump,
    Target::Trace,
    Target::Soak,
    Target::Hibernate,
    Target::Drill,
];
/// Those in which a kernel starts another one.
const RESTART: &[Target] = &[Target::Kexec, Target::Kdump, Target::Trace, Target::Soak, Target::Hibernate];

/// One variable.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it takes, as help and errors say it.
    pub takes: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// Who takes it.
    pub of: &'static [Target],
}

const fn variable(name: &'static str, takes: &'static str, help: &'static str, of: &'static [Target]) -> Variable {
    Variable { name, takes, help, of }
}

/// All that there are.
pub const VARIABLES: &[Variable] = &[
    variable("SMP", "a number of CPUs, such as 4", "CPUs (4)", MACHINE),
    variable(
        "MEM",
        "a size such as 512M or 4G, a multiple of 1 MiB",
        "RAM (1G, of debian 2G); more than this workstation has will do",
        MACHINE,
    ),
    variable(
        "CPU",
        "a CPU model of QEMU, with its options",
        "the CPU (cortex-a57; with a kernel of 16 KiB pages neoverse-n1)",
        MACHINE,
    ),
    variable("GIC", "2 or 3", "the version of the interrupt controller (3)", MACHINE),
    variable(
        "KERNEL",
        "a kernel's name or a file",
        "the host's kernel (6.12): one of Debian's by its version or release (7.2, 6.12-rt, testing), or a file: an \
         arm64 Image, also compressed, or an EFI zboot image",
        WITH_KERNEL,
    ),
    variable(
        "INITRD",
        "a file, or none",
        "instead of the project's initramfs; `none` for no initrd",
        &[Target::Run, Target::Gdb, Target::Map],
    ),
    variable("APPEND", "words for a kernel", "added to the host's command line", MACHINE),
    variable("EXEUNT", "options of Exeunt", "Exeunt's own options (docs/options.md)", MACHINE),
    variable("EXEUNT_BIN", "a file", "a ready image of Exeunt: nothing is built then", WITH_DRILL),
    variable("PROFILE", "release or debug", "which build of Exeunt (release, of gdb debug)", WITH_DRILL),
    variable(
        "OVERLAY",
        "a directory",
        "what is in it is added to the initrd",
        &[Target::Run, Target::Gdb, Target::Map],
    ),
    variable("FIRMWARE", "tf-a", "Arm's Trusted Firmware at EL3, below Exeunt", MACHINE),
    variable("HYPERVISOR", "exeunt or none", "none: the same host on bare QEMU, entered at the level EL", MACHINE),
    variable("EL", "1 or 2", "with HYPERVISOR=none: the level at which the host is entered (2)", MACHINE),
    variable(
        "OUT",
        "a directory",
        "where console.log and all that a run makes goes (target/run and so on)",
        WITH_DRILL,
    ),
    variable("QEMU", "a program", "which QEMU (qemu-system-aarch64)", WITH_DRILL),
    variable("QEMU_EXTRA", "arguments, quoted as for a shell", "further arguments for QEMU", MACHINE),
    variable(
        "THREADS",
        "multi or single",
        "QEMU runs the CPUs in a thread each, or in turn in one: with more CPUs than the workstation has, 8 CPUs with \
         64 GiB boot in 15 seconds in turn, and in 220 in threads",
        MACHINE,
    ),
    variable("TIMEOUT", "a number of seconds", "the machine is ended after that time; 0: never", MACHINE),
    variable(
        "RUN",
        "a shell command",
        "the guest runs it as root and powers off, instead of giving a shell",
        &[Target::Run, Target::Map, Target::Trace, Target::Debian],
    ),
    variable(
        "DISK",
        "a disk image, or several, quoted as for a shell",
        "disks for the guest, raw or qcow2: it writes into these files",
        &[Target::Run, Target::Gdb, Target::Map],
    ),
    variable(
        "SNAPSHOT",
        "1",
        "what the guest writes to the disks is forgotten at the end",
        &[Target::Run, Target::Gdb, Target::Map],
    ),
    variable(
        "NET",
        "1, or a port of this workstation",
        "a network; the guest's ssh server is behind a free port of 127.0.0.1, or behind that one",
        &[Target::Run, Target::Gdb, Target::Map],
    ),
    variable(
        "SHARE",
        "a directory",
        "the guest has it as /mnt/share, to read and to write",
        &[Target::Run, Target::Gdb, Target::Map],
    ),
    variable(
        "REBOOT",
        "1 or 0",
        "whether a reset starts the machine again, or ends the run (0; on a terminal and without RUN= 1)",
        &[Target::Run],
    ),
    variable(
        "WHAT",
        "boot, kexec or crash",
        "what is traced (boot); each of the others comes after a boot",
        &[Target::Trace],
    ),
    variable("GDB_ARGS", "arguments, quoted as for a shell", "further arguments for gdb", &[Target::Gdb]),
    variable("ENTRY", "el1 or el2", "how the host is entered: at virtual EL2, or at EL1 (el2)", RESTART),
    variable("POLICY", "leave or resident", "what becomes of Exeunt at the restart (leave)", RESTART),
    variable("NEXT", "a kernel's name or a file", "the kernel that comes after (as KERNEL; of soak 6.1)", RESTART),
    variable(
        "FROM",
        "the number of a CPU",
        "the CPU that restarts or dies (0)",
        &[Target::Kexec, Target::Kdump, Target::Trace, Target::Hibernate],
    ),
    variable("CALL", "refused, lock or leave", "a call that the host makes before, or during", &[Target::Kexec]),
    variable(
        "CRASH",
        "a way to die",
        "how the host dies (sysrq; a Debian only if asked)",
        &[Target::Kdump, Target::Trace, Target::Debian],
    ),
    variable(
        "MODULES",
        "a directory",
        "where the modules of a kernel of your own are: its lib/modules/VERSION, or its build tree",
        WITH_KERNEL,
    ),
    variable(
        "TREE",
        "a directory",
        "the build tree of a kernel of your own, for the test module; if KERNEL is in one, it is that",
        &[Target::Kexec, Target::Kdump, Target::Trace, Target::Soak, Target::Drill],
    ),
    variable(
        "CRASHKERNEL",
        "a size, as the kernel takes it",
        "how much memory is kept for the crash kernel",
        &[Target::Kdump, Target::Trace],
    ),
    variable(
        "SYMBOLS",
        "1, or a vmlinux",
        "names and types are read with the kernel's debug information: 1 fetches it (320 MB)",
        &[Target::Kdump, Target::Gdb],
    ),
    variable("DUMP_DISK", "a size", "how large the disk for the dump is (as RAM)", &[Target::Kdump]),
    variable(
        "FORMAT",
        "kdump or elf",
        "a compressed dump, or an ELF, as gdb takes it (kdump; elf for a kernel that libkdumpfile does not take)",
        &[Target::Kdump],
    ),
    variable("LEVEL", "a number from 0 to 31", "which pages makedumpfile leaves out", &[Target::Kdump]),
    variable("READ", "1", "all of /proc/vmcore is read, in each way that there is", &[Target::Kdump]),
    variable(
        "FILL",
        "a number of sixteenths, up to 15",
        "so much of the memory is filled with a pattern, which the dump must have",
        &[Target::Kdump],
    ),
    variable("TURNS", "a number", "for some ways to die: how often", &[Target::Kdump]),
    variable(
        "CHECKS",
        "1 or 0",
        "whether purgatory first compares the crash kernel with its digest, which takes 10 seconds and more (1)",
        &[Target::Kdump],
    ),
    variable("BACK", "1", "the crash kernel starts the host's kernel again", &[Target::Kdump]),
    variable("JSON", "a file", "what came of the run, for programs", RESTART),
    variable(
        "JUNIT",
        "a file",
        "the same in the format of JUnit, as continuous integration reads it",
        &[Target::Kexec, Target::Kdump, Target::Trace, Target::Soak, Target::Hibernate, Target::Drill],
    ),
    variable("DRILL", "parts of names", "the cells that are run (all)", &[Target::Drill]),
    variable("ROUNDS", "a number of kexecs", "how many (100, with HOURS= 4)", &[Target::Soak]),
    variable(
        "HOURS",
        "a number such as 8 or 0.5",
        "so long by the guest's clock it works hard between the kexecs",
        &[Target::Soak],
    ),
];

/// What a person has set.
#[derive(Clone, Debug, Default)]
pub struct Values(BTreeMap<&'static str, String>);

/// What is wrong with what was set, in words. Each stands for itself: a person mends all at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wrong(pub Vec<String>);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Wrong {
    /// What a variable says; and if that is wrong, `usual`, so that all that is wrong is said at once.
    pub fn or<T>(&mut self, said: Result<T, String>, usual: T) -> T {
        said.unwrap_or_else(|error| {
            self.0.push(error);
            usual
        })
    }

    /// The same for what has checked several variables.
    pub fn or_all<T>(&mut self, said: Result<T, Self>, usual: impl FnOnce() -> T) -> T {
        said.unwrap_or_else(|Self(lines)| {
            self.0.extend(lines);
            usual()
        })
    }

    /// `checked`, if nothing was wrong.
    ///
    /// # Errors
    /// What was.
    pub fn unless<T>(self, checked: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(checked) } else { Err(self) }
    }
}

impl Values {
    /// Takes what `target` takes out of the environment `look_up`. `given` are the names that make was given: each has
    /// to be one of the target's.
    ///
    /// # Errors
    /// A name that is none.
    pub fn read<'a>(
        target: Target,
        given: impl IntoIterator<Item = &'a str>,
        look_up: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Wrong> {
        let mut wrong = Vec::new();
        for name in given {
            match VARIABLES.iter().find(|variable| variable.name == name) {
                Some(variable) if variable.of.contains(&target) => {}
                Some(variable) => {
                    let of: Vec<&str> = variable.of.iter().map(|target| target.name()).collect();
                    wrong.push(format!("{name}: `make {}` does not take it, but {}", target.name(), of.join(", ")));
                }
                None => wrong.push(match nearest(name, target) {
                    Some(other) => format!("{name}: there is no such variable; perhaps {other}"),
                    None => format!("{name}: there is no such variable; `make help` names all"),
                }),
            }
        }
        if !wrong.is_empty() {
            return Err(Wrong(wrong));
        }
        let of_target = VARIABLES.iter().filter(|variable| variable.of.contains(&target));
        let set = of_target.filter_map(|variable| Some((variable.name, look_up(variable.name)?)));
        Ok(Self(set.filter(|(_, value)| !value.is_empty()).collect()))
    }

    /// The same, with `value` where nobody has set `name`.
    #[must_use]
    pub fn or(mut self, name: &'static str, value: &str) -> Self {
        self.0.entry(name).or_insert_with(|| value.to_owned());
        self
    }

    /// The value of `name`, if it was set.
    ///
    /// # Panics
    /// There is no such variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        assert!(VARIABLES.iter().any(|variable| variable.name == name), "{name}");
        self.0.get(name).map(String::as_str)
    }

    /// The value of `name` as `read` reads it, or what `usual` is without.
    ///
    /// # Errors
    /// In words, with what it takes.
    pub fn parse<T>(&self, name: &str, usual: T, read: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let Some(value) = self.get(name) else { return Ok(usual) };
        read(value).ok_or_else(|| {
            let takes = VARIABLES.iter().find(|variable| variable.name == name).map_or("", |variable| variable.takes);
            format!("{name}={value}: it is {takes}")
        })
    }

    /// One of a few words.
    ///
    /// # Errors
    /// As for [`Values::parse`].
    pub fn choose<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, String> {
        self.parse(name, choices[0].1, |value| {
            choices.iter().find(|(word, _)| *word == value).map(|&(_, choice)| choice)
        })
    }
}

/// The name that somebody may have meant.
fn nearest(name: &str, target: Target) -> Option<&'static str> {
    let of_target = VARIABLES.iter().filter(|variable| variable.of.contains(&target));
    let alike = of_target.map(|variable| (strsim::damerau_levenshtein(name, variable.name), variable.name));
    alike.filter(|&(distance, other)| distance <= 1 + other.len() / 4).min().map(|(_, name)| name)
}

impl Target {
    /// As make knows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Gdb => "gdb",
            Self::Map => "map",
            Self::Kexec => "kexec",
            Self::Kdump => "kdump",
            Self::Soak => "soak",
            Self::Drill => "drill",
            Self::Hibernate => "hibernate",
            Self::Debian => "debian",
            Self::DebianDump => "debian-dump",
            Self::Trace => "trace",
        }
    }
}

/// A size in bytes: a number with K, M, G or T, or in MiB without.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        b'T' | b't' => (&text[..text.len() - 1], 40),
        _ => (text, 20),
    };
    let number: u64 = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn read(target: Target, given: &[&str], set: &[(&str, &str)]) -> Result<Values, Wrong> {
        let look_up = |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        Values::read(target, given.iter().copied(), look_up)
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_the_nearest() {
        let wrong = read(Target::Run, &["SPM", "KERNAL", "FOO"], &[]).unwrap_err();
        assert_eq!(
            wrong.0,
            [
                "SPM: there is no such variable; perhaps SMP",
                "KERNAL: there is no such variable; perhaps KERNEL",
                "FOO: there is no such variable; `make help` names all"
            ]
        );
        let wrong = read(Target::Run, &["CRASH"], &[]).unwrap_err();
        assert_eq!(wrong.to_string(), "CRASH: `make run` does not take it, but kdump, trace, debian");
    }

    #[test]
    fn the_environment_is_everybodys() {
        let values =
            read(Target::Run, &["SMP"], &[("SMP", "8"), ("CRASH", "null"), ("SPM", "1"), ("MEM", "")]).unwrap();
        assert_eq!(values.get("SMP"), Some("8"));
        assert_eq!((values.get("CRASH"), values.get("MEM")), (None, None));
    }

    #[test]
    fn a_value_that_is_none_says_what_it_takes() {
        let values = read(Target::Run, &[], &[("GIC", "4"), ("SMP", "two")]).unwrap();
        let gic = values.choose("GIC", &[("3", 3), ("2", 2)]);
        assert_eq!(gic, Err("GIC=4: it is 2 or 3".to_owned()));
        let smp = values.parse("SMP", 4_u32, |text| text.parse().ok());
        assert_eq!(smp, Err("SMP=two: it is a number of CPUs, such as 4".to_owned()));
        assert_eq!(values.choose("PROFILE", &[("release", 1), ("debug", 2)]), Ok(1));
    }

    #[test]
    fn sizes_are_read_as_qemu_writes_them() {
        for (text, bytes) in
            [("1G", Some(1 << 30)), ("512", Some(512 << 20)), ("64k", Some(64 << 10)), ("2T", Some(2 << 40))]
        {
            assert_eq!(size(text), bytes, "{text}");
        }
        for text in ["", "G", "-1G", "+1G", "1.5G", "1 G", "99999999999999999999", "999999999999T"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn every_name_stands_once() {
        let names: BTreeSet<&str> = VARIABLES.iter().map(|variable| variable.name).collect();
        assert_eq!(names.len(), VARIABLES.len());
        assert!(VARIABLES.iter().all(|variable| !variable.of.is_empty() && !variable.help.is_empty()));
    }
}
