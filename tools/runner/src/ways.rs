//! The ways in which a host dies (`CRASH=`).
//!
//! Owns the one table of them: what each is called, what it takes, and what is to be seen of it, with Exeunt and
//! without. `make kdump` and the drill go by it, and docs/running.md has it.

use crate::settings::Kernel;

/// What part other CPUs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// None.
    Bystanders,
    /// There has to be one.
    Needed,
    /// They do the same.
    Alike,
}

/// What a machine without Exeunt has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bare {
    /// The same dump.
    Same,
    /// A dump in which CPUs are missing.
    Less,
    /// Nothing.
    Lost,
    /// It does not exist there.
    Impossible,
}

/// What ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its own panic.
    Panic,
    /// A panic, of what Exeunt gave it.
    Told,
    /// Exeunt started its crash kernel without it.
    Forced,
    /// Its own panic, while or after Exeunt died.
    WithoutExeunt,
    /// It had no crash kernel yet, and Exeunt gave it up.
    GivenUp,
}

/// Which CPUs beside the one that dies do not hear the host's own stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// None.
    Nobody,
    /// One.
    One,
    /// All.
    All,
}

/// On which CPU the host panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The one that `FROM=` names.
    From,
    /// Of several that hang, the one that Exeunt finds first.
    Found,
    /// The one that gets the console's interrupts: the first.
    First,
}

/// Who is asked to have it die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nobody.
    Nobody,
    /// Itself, by the magic key.
    Host,
    /// Exeunt, by a program.
    Exeunt,
}

/// Kernels with PREEMPT_RT that do not die so.
#[derive(Debug, PartialEq, Eq)]
pub struct NotRealtime {
    /// From this version on.
    pub from: (u32, u32),
    /// And why.
    pub why: &'static str,
}

/// One way.
#[derive(Debug, PartialEq, Eq)]
pub struct Way {
    /// What `CRASH=` takes.
    pub name: &'static str,
    /// What happens.
    pub what: &'static str,
    /// Whether it takes the test module (tests/module/crash.c).
    pub has_module: bool,
    /// What part other CPUs have.
    pub others: Others,
    /// Whether all others are known to go off by themselves, but those that are stuck.
    pub others_go_off: bool,
    /// Who is stuck.
    pub stuck: Stuck,
    /// Where the host panics.
    pub on: On,
    /// What ends it.
    pub end: End,
    /// What a machine without Exeunt has of it.
    pub bare: Bare,
    /// Who is asked for it.
    pub asked: Asked,
    /// Exeunt's option without which nobody would notice.
    pub watchdog: Option<&'static str>,
    /// Which kernels with PREEMPT_RT do not die so.
    pub not_realtime: Option<NotRealtime>,
    /// What somebody types at the console then, and the words by which it is known that it was this.
    pub typed: Option<(&'static [u8], &'static str)>,
}

/// QEMU's key for a break at the console of a run: Ctrl-A b.
const BREAK: &[u8] = b"\x01b";
/// What Linux takes for the magic key: a break, and a letter.
const MAGIC_CRASH: &[u8] = b"\x01bc";
/// What has Exeunt notice. The boot and the panic mask interrupts for less.
const WATCHDOG: Option<&str> = Some("watchdog=5");
/// And what would not, for long.
const LONG_WATCHDOG: Option<&str> = Some("watchdog=60");

/// Most are like this.
const USUAL: Way = Way {
    name: "",
    what: "",
    has_module: true,
    others: Others::Bystanders,
    others_go_off: true,
    stuck: Stuck::Nobody,
    on: On::From,
    end: End::Panic,
    bare: Bare::Same,
    asked: Asked::Nobody,
    watchdog: None,
    not_realtime: None,
    typed: None,
};

/// While another CPU is busy, or on its way up or down.
const BUSY: Way = Way { others: Others::Needed, others_go_off: false, ..USUAL };

/// A program asks Exeunt for it.
const ASKED: Way = Way { bare: Bare::Impossible, asked: Asked::Exeunt, ..USUAL };

/// By the magic key, and Exeunt dies too.
const KILLED: Way =
    Way { has_module: false, end: End::WithoutExeunt, bare: Bare::Impossible, asked: Asked::Host, ..USUAL };

/// All of them, in the order in which the drill takes them. The first is what `make kdump` does unasked.
pub const WAYS: [Way; 29] = [
    Way {
        name: "sysrq",
        what: "the magic key `c` (/proc/sysrq-trigger)",
        has_module: false,
        asked: Asked::Host,
        ..USUAL
    },
    Way { name: "null", what: "a null pointer, in process context", ..USUAL },
    Way { name: "irq", what: "a null pointer in an interrupt", ..USUAL },
    Way { name: "timer", what: "a null pointer in a timer", ..USUAL },
    Way { name: "masked", what: "a null pointer with D, A, I and F masked", ..USUAL },
    Way { name: "bug", what: "BUG()", ..USUAL },
    Way { name: "overflow", what: "the kernel's stack overflows", ..USUAL },
    Way { name: "hvc", what: "a null pointer right behind a call to EL2", bare: Bare::Impossible, ..USUAL },
    Way {
        name: "hvc-other",
        what: "a null pointer while the next CPU makes nothing but calls to EL2",
        bare: Bare::Impossible,
        ..BUSY
    },
    Way {
        name: "stuck",
        what: "a null pointer while the next CPU spins with D, A, I and F masked",
        others: Others::Needed,
        stuck: Stuck::One,
        bare: Bare::Less,
        ..USUAL
    },
    Way {
        name: "stuck-all",
        what: "a null pointer while all others do that",
        others: Others::Needed,
        stuck: Stuck::All,
        bare: Bare::Less,
        ..USUAL
    },
    Way {
        name: "stuck-stop",
        what: "a null pointer, and the next CPU hangs in the kernel's own stop",
        others: Others::Needed,
        stuck: Stuck::One,
        bare: Bare::Less,
        ..USUAL
    },
    Way { name: "hotplug", what: "BUG() on a CPU that has just been brought up (`FROM=`: the last one)", ..BUSY },
    Way { name: "hotplug-down", what: "a null pointer on a CPU that is taken off (`FROM=`: the last one)", ..BUSY },
    Way {
        name: "leave",
        what: "a null pointer while the next CPU is in LEAVE",
        others: Others::Needed,
        bare: Bare::Impossible,
        ..USUAL
    },
    Way {
        name: "restart",
        what: "a null pointer on the way into a kexec (Linux then enters no crash kernel, on any machine)",
        others_go_off: false,
        ..USUAL
    },
    Way {
        name: "wild",
        what: "over all of the memory that is kept for the crash kernel, and then a null pointer",
        bare: Bare::Lost,
        ..USUAL
    },
    Way {
        name: "lockup",
        what: "it spins with D, A, I and F masked, and nobody asks for anything",
        end: End::Told,
        bare: Bare::Lost,
        watchdog: WATCHDOG,
        ..USUAL
    },
    Way {
        name: "lockup-all",
        what: "all CPUs do that",
        others: Others::Alike,
        stuck: Stuck::All,
        on: On::Found,
        end: End::Told,
        bare: Bare::Lost,
        watchdog: WATCHDOG,
        ..USUAL
    },
    Way { name: "panic", what: "`exeunt panic`", has_module: false, end: End::Told, ..ASKED },
    Way {
        name: "panic-stuck",
        what: "it spins with D, A, I and F masked, and `exeunt panic CPU` on another CPU asks for it",
        others: Others::Needed,
        end: End::Told,
        ..ASKED
    },
    Way {
        name: "forced",
        what: "`exeunt panic --force`: it does not die, and its crash kernel begins all the same",
        has_module: false,
        stuck: Stuck::All,
        end: End::Forced,
        ..ASKED
    },
    Way {
        name: "forced-deaf",
        what: "the next CPU spins, its vectors are loops, and `exeunt panic --force` comes after `exeunt panic CPU`",
        others: Others::Needed,
        stuck: Stuck::All,
        end: End::Forced,
        ..ASKED
    },
    Way {
        name: "killed",
        what: "the magic key, and Exeunt dies in the SOFT_RESTART; of a host at EL1, when the first CPU goes off",
        ..KILLED
    },
    Way { name: "killed-before", what: "the magic key, after Exeunt has died on a CPU", ..KILLED },
    Way {
        name: "hung-early",
        what: "it hangs before its console works: there is no crash kernel yet, and Exeunt says where it stood",
        has_module: false,
        end: End::GivenUp,
        // force_legacy_kthread() of Linux's kernel/printk/internal.h. 6.1-rt hangs.
        not_realtime: Some(NotRealtime {
            from: (6, 12),
            why: "it prints from a thread, and does not wait for its early console",
        }),
        bare: Bare::Lost,
        watchdog: WATCHDOG,
        ..USUAL
    },
    Way {
        name: "lockup-deaf",
        what: "it spins with everything masked, and its vectors are loops: a panic is no help",
        others: Others::Needed,
        stuck: Stuck::All,
        end: End::Forced,
        bare: Bare::Lost,
        watchdog: WATCHDOG,
        ..USUAL
    },
    Way {
        name: "lockup-break",
        what: "all CPUs spin with everything masked, and somebody sends a break to the console",
        others: Others::Alike,
        stuck: Stuck::All,
        on: On::Found,
        end: End::Told,
        bare: Bare::Lost,
        watchdog: LONG_WATCHDOG,
        typed: Some((BREAK, "a break on the console, and interrupts are masked")),
        ..USUAL
    },
    Way {
        name: "busy-all",
        what: "all CPUs spin with interrupts enabled, and somebody sends the magic key to the console",
        others: Others::Alike,
        on: On::First,
        asked: Asked::Host,
        not_realtime: Some(NotRealtime {
            from: (0, 0),
            why: "it takes what is typed in a thread, and no thread runs while all CPUs are busy",
        }),
        typed: Some((MAGIC_CRASH, "sysrq: Trigger a crash")),
        ..USUAL
    },
];

/// As somebody has written it for a lab of the book (`scripts/lab`): the drill knows nothing of it.
pub const YOURS: Way = Way { name: "yours", what: "as you have written it for lab 11", ..USUAL };

impl Way {
    /// The way of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<&'static Self> {
        WAYS.iter().chain([&YOURS]).find(|way| way.name == name)
    }

    /// Whether it is that one.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// Whether a CPU is on its way up or down.
    #[must_use]
    pub fn is_in_hotplug(&self) -> bool {
        self.name.starts_with("hotplug")
    }

    /// Why this kernel does not die so, if it does not. Of a release that moves on it is taken for new.
    #[must_use]
    pub fn why_not(&self, kernel: &Kernel) -> Option<&'static str> {
        let NotRealtime { from, why } = self.not_realtime.as_ref()?;
        (kernel.is_realtime() && kernel.is_at_least(*from).unwrap_or(true)).then_some(*why)
    }

    /// How many CPUs are stuck, of so many.
    #[must_use]
    pub const fn stuck_of(&self, cpus: u32) -> u32 {
        match self.stuck {
            Stuck::Nobody => 0,
            Stuck::One => 1,
            Stuck::All => cpus - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_and_words() {
        let names: BTreeSet<&str> = WAYS.iter().map(|way| way.name).collect();
        assert_eq!(names.len(), WAYS.len());
        assert!(WAYS.iter().chain([&YOURS]).all(|way| !way.name.is_empty() && !way.what.is_empty()));
        assert!(WAYS.iter().all(|way| Way::of(way.name) == Some(way)));
        assert_eq!((Way::of("nul"), Way::of("")), (None, None));
    }

    #[test]
    fn what_goes_with_what() {
        for way in &WAYS {
            let name = way.name;
            assert!(way.asked != Asked::Exeunt || way.bare == Bare::Impossible, "{name}: bare QEMU has nobody to ask");
            assert!(way.end != End::WithoutExeunt || way.bare == Bare::Impossible, "{name}: nobody is there who dies");
            assert!(way.stuck != Stuck::One || way.others == Others::Needed, "{name}: who is stuck?");
            assert!(way.watchdog.is_none() || way.bare == Bare::Lost, "{name}: what does the watchdog save?");
        }
    }

    #[test]
    fn those_of_the_test_module_are_described_there() {
        let source = include_str!("../../../tests/module/crash.c");
        let begin = source.find("crash KIND").unwrap();
        let end = source.find("Whether an oops").unwrap();
        let mut documented: BTreeSet<&str> = source[begin..end]
            .lines()
            .filter_map(|line| line.strip_prefix(" *\t"))
            .filter(|line| !line.starts_with('\t'))
            .filter_map(|line| line.split('\t').next())
            .collect();
        // The kernel does not die of it, and somebody asks or notices then.
        assert!(documented.remove("spin") && documented.remove("deaf"));
        let by_another = ["panic-stuck", "forced-deaf", "lockup-deaf", "lockup-break"];
        let ours = |way: &&Way| way.has_module && !by_another.contains(&way.name);
        let known: BTreeSet<&str> = WAYS.iter().chain([&YOURS]).filter(ours).map(|way| way.name).collect();
        assert_eq!(documented, known);
    }
}
