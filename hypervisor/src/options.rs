//! Exeunt's own options, from `/chosen/bootargs`: words separated by spaces, each an option's name or `name=value`.
//!
//! [`OPTIONS`] is the one table: the parser, the messages and the documentation come from it. To add an option, add a
//! field to [`Options`] and a row to the table. Owns nothing else; what an option does is up to whoever reads
//! [`Options`].

use core::fmt::{self, Write as _};

use guest_abi::vendor::Policy;
use log::LevelFilter;

use crate::faults::Text;
use crate::lifecycle::EntryLevel;
use crate::rescue::Fail;

/// A fault that Exeunt inflicts on itself at EL2, so that tests can see what it is protected from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfTest {
    /// Store to its own text.
    WriteText,
    /// Store to its own read-only data.
    WriteRodata,
    /// Branch into its own data.
    RunData,
    /// Load from the page after Exeunt's memory, where the host's kernel can be.
    ReadHost,
    /// Recurse until the stack ends.
    StackOverflow,
    /// Lose the stack pointer.
    LostStack,
    /// Lose TPIDR_EL2, by which a CPU finds what is kept for it.
    LostCpu,
    /// Panic, when the lock of the log is held by a CPU that never gives it back.
    DeadLock,
    /// Take an exception in the report of one.
    DoubleFault,
    /// And another one in the report of that.
    TripleFault,
    /// Stop in the report of an exception.
    DeadReport,
    /// Panic.
    Panic,
}

/// What a CPU does that calls LEAVE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LeaveTest {
    /// It leaves.
    #[default]
    None,
    /// It waits before each step, so that other CPUs can look at it.
    Slow,
    /// The first one dies when it has taken stage 2 away.
    Dead,
}

/// What becomes of a KVM in a host at virtual EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kvm {
    /// It finds no granule for stage 2, and gives up.
    #[default]
    Hide,
    /// It gets EL2.
    Lend,
}

/// What becomes of writes into the memory of the host's crash kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Guard {
    /// They get an abort.
    #[default]
    On,
    /// They are counted.
    Count,
    /// Nothing.
    Off,
}

/// For what the interrupt controller is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum GicTaken {
    /// For what the device tree says.
    #[default]
    AsItIs,
    /// For one that is not known.
    Unknown,
    /// For one that holds no interrupt in virtual EL2.
    HoldsNothing,
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// `log=`: the level of Exeunt's log, also once the host runs. `None`: not given, so quiet then.
    pub log: Option<LevelFilter>,
    /// `entry=`
    pub entry: EntryLevel,
    /// `restart=`
    pub restart: Policy,
    /// `kvm=`
    pub kvm: Kvm,
    /// `guard=`
    pub guard: Guard,
    /// `fail=`
    pub fail: Fail,
    /// `watchdog=`: how long a CPU may hang, in seconds. `None`: for ever.
    pub watchdog: Option<u16>,
    /// `trace`: keep a trace of the exits from the start on, and as long a one as there is room for.
    pub trace: bool,
    /// `stats`: print how often the host left to EL2, by cause, when it powers off.
    pub stats: bool,
    /// `selftest=`
    pub selftest: Option<SelfTest>,
    /// `selftest=fault:PLACE:KIND`
    pub fault: Option<Text>,
    /// `late`: commit that fault when the host turns the machine off.
    pub late: bool,
    /// `selftest=slow-leave` and `selftest=dead-leave`.
    pub leave: LeaveTest,
    /// `selftest=unknown-gic`, `selftest=gic-holds-nothing`: nothing forbidden.
    pub gic: GicTaken,
}

/// An option, for the parser and for the reader.
#[derive(Clone, Copy, Debug)]
pub struct OptionDoc {
    /// What stands before the `=`.
    pub name: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// What may come after the `=`. Empty for an option that has no value.
    pub values: &'static [ValueDoc],
    /// For an option without a value: what it does.
    set: fn(&mut Options),
}

/// A value of an option.
#[derive(Clone, Copy, Debug)]
pub struct ValueDoc {
    /// What comes after the `=`.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// What it does.
    set: fn(&mut Options),
}

/// All options.
pub const OPTIONS: &[OptionDoc] = &[
    OptionDoc {
        name: "log",
        help: "how much Exeunt says on the console, also once the host runs; without it, all that is worth knowing at \
               start, and warnings and errors from then on",
        values: &[
            ValueDoc { name: "error", help: "what went wrong", set: |o| o.log = Some(LevelFilter::Error) },
            ValueDoc { name: "warn", help: "and what looks wrong", set: |o| o.log = Some(LevelFilter::Warn) },
            ValueDoc { name: "info", help: "and what happens", set: |o| o.log = Some(LevelFilter::Info) },
            ValueDoc { name: "debug", help: "and how", set: |o| o.log = Some(LevelFilter::Debug) },
            ValueDoc {
                name: "trace",
                help: "and each exit to EL2 that is no call",
                set: |o| o.log = Some(LevelFilter::Trace),
            },
        ],
        set: nothing,
    },
    OptionDoc {
        name: "entry",
        help: "the exception level at which the host is entered",
        values: &[
            ValueDoc { name: "el1", help: "EL1, as under any hypervisor", set: |o| o.entry = EntryLevel::El1 },
            ValueDoc {
                name: "el2",
                help: "virtual EL2: the host believes that EL2 is its own, and makes the stub calls (the default; with \
                       an interrupt controller that Exeunt does not know there is none, and the host is entered at \
                       EL1)",
                set: |o| o.entry = EntryLevel::VirtualEl2,
            },
        ],
        set: nothing,
    },
    OptionDoc {
        name: "restart",
        help: "what becomes of EL2 when the host calls SOFT_RESTART for a kexec or a crash kernel",
        values: &[
            ValueDoc {
                name: "leave",
                help: "Exeunt goes from that CPU, and the next kernel has EL2 (the default)",
                set: |o| o.restart = Policy::Leave,
            },
            ValueDoc {
                name: "resident",
                help: "Exeunt stays, and the next kernel is entered like the first",
                set: |o| o.restart = Policy::Resident,
            },
        ],
        set: nothing,
    },
    OptionDoc {
        name: "kvm",
        help: "with entry=el2: what becomes of the host's KVM",
        values: &[
            ValueDoc {
                name: "hide",
                help: "it finds that stage 2 has no page size, says so and gives up (the default)",
                set: |o| o.kvm = Kvm::Hide,
            },
            ValueDoc {
                name: "lend",
                help: "each CPU on which it asks for EL2 is given up to it; `kvm-arm.mode=nvhe` is put in front of the \
                       host's command line, for CPUs that come up afterwards",
                set: |o| o.kvm = Kvm::Lend,
            },
        ],
        set: nothing,
    },
    OptionDoc {
        name: "guard",
        help: "what becomes of a write of the host's into the memory that it keeps for its crash kernel, except by \
               those who load it",
        values: &[
            ValueDoc {
                name: "on",
                help: "it has no effect, and the host gets an abort that names the instruction (the default)",
                set: |o| o.guard = Guard::On,
            },
            ValueDoc {
                name: "count",
                help: "it is counted and has a line in the log, and from then on its page is as any other",
                set: |o| o.guard = Guard::Count,
            },
            ValueDoc {
                name: "off",
                help: "nothing: Exeunt does not look where that memory is",
                set: |o| o.guard = Guard::Off,
            },
        ],
        set: nothing,
    },
    OptionDoc {
        name: "fail",
        help: "what happens when Exeunt itself fails",
        values: &[
            ValueDoc {
                name: "leave",
                help: "the host goes on, without Exeunt on the CPU that has failed (the default); where the host is \
                       no longer known it panics",
                set: |o| o.fail = Fail::Leave,
            },
            ValueDoc { name: "panic", help: "the host panics, so that there is a dump", set: |o| o.fail = Fail::Panic },
            ValueDoc { name: "halt", help: "the machine goes off", set: |o| o.fail = Fail::Halt },
        ],
        set: nothing,
    },
    OptionDoc {
        name: "watchdog",
        help: "what becomes of a CPU of the host's that hangs with its interrupts masked",
        values: &[
            ValueDoc { name: "off", help: "it hangs (the default)", set: |o| o.watchdog = None },
            ValueDoc {
                name: SECONDS,
                help: "after so many seconds the host panics on it, and kdump follows; 10 and more are sensible \
                       ([hangs.md](hangs.md))",
                set: |_| {},
            },
        ],
        set: nothing,
    },
    OptionDoc {
        name: "stats",
        help: "when the host powers off, print how often it left to EL2, by cause",
        values: &[],
        set: |o| o.stats = true,
    },
    OptionDoc {
        name: "trace",
        help: "write down every exit in the black box from the start on, as many as its memory can keep",
        values: &[],
        set: |o| o.trace = true,
    },
    OptionDoc {
        name: "selftest",
        help: "do something forbidden at EL2 instead of starting the host, and end in a panic (for the tests)",
        values: &[
            ValueDoc {
                name: "write-text",
                help: "store to Exeunt's own text",
                set: |o| o.selftest = Some(SelfTest::WriteText),
            },
            ValueDoc {
                name: "write-rodata",
                help: "store to Exeunt's own read-only data",
                set: |o| o.selftest = Some(SelfTest::WriteRodata),
            },
            ValueDoc {
                name: "run-data",
                help: "branch into Exeunt's own data",
                set: |o| o.selftest = Some(SelfTest::RunData),
            },
            ValueDoc {
                name: "read-host",
                help: "load from the page after Exeunt's own memory, where the host's kernel can be",
                set: |o| o.selftest = Some(SelfTest::ReadHost),
            },
            ValueDoc {
                name: "stack-overflow",
                help: "recurse until the stack ends",
                set: |o| o.selftest = Some(SelfTest::StackOverflow),
            },
            ValueDoc {
                name: "lost-stack",
                help: "lose the stack pointer",
                set: |o| o.selftest = Some(SelfTest::LostStack),
            },
            ValueDoc {
                name: "lost-cpu",
                help: "lose TPIDR_EL2, by which a CPU finds what is kept for it, and take an exception",
                set: |o| o.selftest = Some(SelfTest::LostCpu),
            },
            ValueDoc {
                name: "dead-lock",
                help: "panic, when the lock of the log is held for good",
                set: |o| o.selftest = Some(SelfTest::DeadLock),
            },
            ValueDoc {
                name: "double-fault",
                help: "take an exception in the report of an exception",
                set: |o| o.selftest = Some(SelfTest::DoubleFault),
            },
            ValueDoc {
                name: "triple-fault",
                help: "and a third one in the report of that",
                set: |o| o.selftest = Some(SelfTest::TripleFault),
            },
            ValueDoc {
                name: "dead-report",
                help: "take an exception, and stop in its report",
                set: |o| o.selftest = Some(SelfTest::DeadReport),
            },
            ValueDoc {
                name: "slow-leave",
                help: "nothing forbidden: start the host, and hold a LEAVE for a while before each of its steps",
                set: |o| o.leave = LeaveTest::Slow,
            },
            ValueDoc {
                name: "dead-leave",
                help: "start the host, and have the first CPU that calls LEAVE die when it has taken stage 2 away",
                set: |o| o.leave = LeaveTest::Dead,
            },
            ValueDoc {
                name: "unknown-gic",
                help: "nothing forbidden: start the host as if the device tree named an interrupt controller that is \
                       not known",
                set: |o| o.gic = GicTaken::Unknown,
            },
            ValueDoc {
                name: "gic-holds-nothing",
                help: "nothing forbidden: start the host, and have the interrupt controller hold no interrupt in \
                       virtual EL2",
                set: |o| o.gic = GicTaken::HoldsNothing,
            },
            ValueDoc { name: "panic", help: "just panic", set: |o| o.selftest = Some(SelfTest::Panic) },
            ValueDoc {
                name: FAULT,
                help: "in a build for the tests (PROFILE=faults): start the host, and have the first CPU die that \
                       comes to this place in the code",
                set: |_| {},
            },
        ],
        set: nothing,
    },
    OptionDoc {
        name: "late",
        help: "with selftest=: do so when the host turns the machine off, and not at start",
        values: &[],
        set: |o| o.late = true,
    },
];

/// How a fault is written: the one value that is not to be taken by the letter.
const FAULT: &str = "fault:PLACE:KIND";

/// The seconds that a hang may last, and how they are written: a space is in no value.
const HANG_SECONDS: core::ops::RangeInclusive<u16> = 2..=600;
const SECONDS: &str = "2 to 600";

/// The number of seconds that `value` is, for an option that takes such.
#[inline(never)]
fn seconds(option: &OptionDoc, value: &[u8]) -> Option<u16> {
    let mut number = 0_u16;
    for byte in value {
        number = number.checked_mul(10)?.checked_add(u16::from(byte.wrapping_sub(b'0')))?;
        if !byte.is_ascii_digit() {
            return None;
        }
    }
    (option.values.last()?.name == SECONDS && HANG_SECONDS.contains(&number)).then_some(number)
}

/// What comes before the place.
const FAULT_PREFIX: &[u8] = b"fault:";

fn is_fault(value: &[u8], values: &[ValueDoc]) -> bool {
    value.starts_with(FAULT_PREFIX) && values.iter().any(|known| known.name == FAULT)
}

/// The `set` of an option that has values.
fn nothing(_: &mut Options) {}

/// How the option is written, with all its values.
impl fmt::Display for OptionDoc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        for (index, value) in self.values.iter().enumerate() {
            f.write_str(if index == 0 { "=" } else { "|" })?;
            f.write_str(value.name)?;
        }
        Ok(())
    }
}

/// An option that is not to be understood.
#[derive(Clone, Copy, Debug)]
pub enum OptionsError<'a> {
    /// There is none of this name.
    Unknown {
        /// As it was written.
        option: &'a [u8],
    },
    /// It has no such value.
    Value {
        /// The option.
        option: &'static OptionDoc,
        /// The value as it was written.
        value: &'a [u8],
    },
    /// It wants a value.
    NoValue {
        /// The option.
        option: &'static OptionDoc,
    },
    /// It has no value.
    UnwantedValue {
        /// The option.
        option: &'static OptionDoc,
    },
}

/// Bytes that may be anything: what is not printable is escaped.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| match byte {
            b' '..=b'~' => f.write_char(char::from(byte)),
            _ => write!(f, "\\x{:02x}", u32::from(byte)),
        })
    }
}

impl fmt::Display for OptionsError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown { option } => write!(f, "unknown option '{}'", Escaped(option))?,
            Self::Value { option, value } => {
                write!(f, "option '{}' has no value '{}' in this version", option.name, Escaped(value))?;
            }
            Self::NoValue { option } => write!(f, "option '{}' needs a value", option.name)?,
            Self::UnwantedValue { option } => write!(f, "option '{}' takes no value", option.name)?,
        }
        f.write_str("; known are:")?;
        OPTIONS.iter().try_for_each(|option| write!(f, " {option}"))
    }
}

impl core::error::Error for OptionsError<'_> {}

impl Options {
    /// Understands `bootargs`. Of an option that is given twice, the last one counts.
    ///
    /// # Errors
    ///
    /// The first option that is not to be understood.
    pub fn parse(bootargs: &[u8]) -> Result<Self, OptionsError<'_>> {
        let mut options = Self::default();
        for word in bootargs.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
            let mut parts = word.splitn(2, |&byte| byte == b'=');
            let name = parts.next().unwrap_or_default();
            let option = OPTIONS
                .iter()
                .find(|option| option.name.as_bytes() == name)
                .ok_or(OptionsError::Unknown { option: word })?;
            match (parts.next(), option.values) {
                (None, []) => (option.set)(&mut options),
                (None, _) => return Err(OptionsError::NoValue { option }),
                (Some(_), []) => return Err(OptionsError::UnwantedValue { option }),
                (Some(value), values) if is_fault(value, values) => {
                    let fault = Text::new(&value[FAULT_PREFIX.len()..]);
                    options.fault = Some(fault.ok_or(OptionsError::Value { option, value })?);
                }
                (Some(value), values) => match values.iter().find(|known| known.name.as_bytes() == value) {
                    Some(known) => (known.set)(&mut options),
                    None => {
                        options.watchdog = Some(seconds(option, value).ok_or(OptionsError::Value { option, value })?);
                    }
                },
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(bootargs: &str) -> String {
        Options::parse(bootargs.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn nothing_given_is_the_default() {
        for empty in ["", " ", "  \n"] {
            assert_eq!(Options::parse(empty.as_bytes()).unwrap(), Options::default());
        }
    }

    #[test]
    fn options_are_understood_in_any_order() {
        let options = Options::parse(b" stats  log=debug entry=el1 selftest=run-data").unwrap();
        assert!(options.stats);
        assert_eq!(options.log, Some(LevelFilter::Debug));
        assert_eq!((options.entry, options.restart), (EntryLevel::El1, Policy::Leave));
        assert_eq!(options.selftest, Some(SelfTest::RunData));
    }

    #[test]
    fn the_last_of_two_counts() {
        assert_eq!(Options::parse(b"log=trace log=warn").unwrap().log, Some(LevelFilter::Warn));
    }

    #[test]
    fn every_row_of_the_table_is_understood() {
        for option in OPTIONS {
            assert!(!option.help.is_empty());
            if option.values.is_empty() {
                assert_ne!(Options::parse(option.name.as_bytes()).unwrap(), Options::default(), "{option}");
            }
            for value in option.values.iter().filter(|value| value.name != SECONDS) {
                assert!(!value.help.is_empty());
                Options::parse(format!("{}={}", option.name, value.name).as_bytes()).unwrap();
            }
        }
    }

    #[test]
    fn every_self_test_and_level_has_its_own_value() {
        for name in ["log", "kvm", "selftest"] {
            let option = OPTIONS.iter().find(|option| option.name == name).unwrap();
            let meaning = |value: &ValueDoc| Options::parse(format!("{name}={}", value.name).as_bytes()).unwrap();
            for (index, value) in option.values.iter().enumerate() {
                assert!(option.values[..index].iter().all(|other| meaning(other) != meaning(value)), "{}", value.name);
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_named_beside_what_would_be() {
        let known = "; known are: log=error|warn|info|debug|trace entry=el1|el2 restart=leave|resident \
                     kvm=hide|lend guard=on|count|off fail=leave|panic|halt watchdog=off|2 to 600 \
                     stats trace \
                     selftest=write-text|write-rodata|run-data|read-host|stack-overflow|lost-stack|\
                     lost-cpu|dead-lock|double-fault|triple-fault|dead-report|slow-leave|dead-leave|unknown-gic|\
                     gic-holds-nothing|panic|fault:PLACE:KIND late";
        assert_eq!(refused("stats root=/dev/vda"), format!("unknown option 'root=/dev/vda'{known}"));
        assert_eq!(refused("entry=el3"), format!("option 'entry' has no value 'el3' in this version{known}"));
        assert_eq!(refused("log"), format!("option 'log' needs a value{known}"));
        assert_eq!(refused("log="), format!("option 'log' has no value '' in this version{known}"));
        assert_eq!(refused("stats=yes"), format!("option 'stats' takes no value{known}"));
        assert_eq!(refused("LOG=info"), format!("unknown option 'LOG=info'{known}"));
        assert!(Options::parse(b"\xff\x1b[2J").unwrap_err().to_string().starts_with(r"unknown option '\xff\x1b[2J'"));
    }

    #[test]
    fn a_hang_may_last_a_sane_number_of_seconds() {
        let asked = |bootargs: &str| Options::parse(bootargs.as_bytes()).unwrap().watchdog;
        assert_eq!([asked(""), asked("watchdog=off"), asked("watchdog=9 watchdog=off")], [None; 3]);
        assert_eq!([asked("watchdog=2"), asked("watchdog=010"), asked("watchdog=600")], [Some(2), Some(10), Some(600)]);
        for wrong in ["0", "1", "601", "65538", "+9", "-9", "9s", "1e2", "SECONDS", "on", ""] {
            let refused = refused(&format!("watchdog={wrong}"));
            assert!(refused.starts_with(&format!("option 'watchdog' has no value '{wrong}' ")), "{refused}");
            assert!(refused.contains(" watchdog=off|2 to 600 "), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(bootargs in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Err(error) = Options::parse(&bootargs) {
                prop_assert!(error.to_string().contains("known are"));
            }
        }
    }
}
