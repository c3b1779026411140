//! Faults on purpose, in the places where Exeunt may die: their names, and what may happen there.
//!
//! Owns the two lists. A build with the feature `faults` of the package `exeunt` has them in its code; no other one has
//! anything of them. Two ways choose: the option `selftest=fault:PLACE:KIND`, for the first CPU that comes to the
//! place, and the call [`ARM`], for a guest that wants to have many in one boot.

/// The places, by the name that `fault_point!` gives them. Each name stands in one place of the sources
/// (tools/tests/faults.rs).
pub const PLACES: &[&str] = &[
    // exits
    "hvc",
    "smc",
    "answered",
    "sync",
    "abort",
    "dispatch",
    "injected",
    "execution",
    "doorbell-load",
    "doorbell-store",
    "doorbell-call",
    "traced-begin",
    "traced-end",
    // calls
    "stub-call",
    "stub-answer",
    "own-call",
    "own-answer",
    "status",
    "host-page",
    "reset-begin",
    "reset-out",
    "restart-begin",
    "restart-decided",
    "restart-told",
    "restart-leaves",
    "restart-stays",
    "restart-set-up",
    "restart-window",
    // LEAVE
    "leave-begin",
    "leave-step",
    "leave-judged",
    "leave-over",
    "held",
    "held-leaves",
    "goes",
    "departs",
    "last-steps",
    // coming back
    "back-begin",
    "back-counted",
    "back-set-up",
    "back-told",
    // PSCI
    "smc-before",
    "smc-after",
    "off",
    "arrive",
    "arrived",
    "enter-set-up",
    "enter-level",
    "enter-last",
    // tables and lines
    "stage2-hide",
    "stage2-show",
    "stage2-edit",
    "log-line",
    "log-ring",
    "event",
    // the window
    "window",
    "window-done",
    // the report
    "report-begin",
    "report-registers",
    "report-backtrace",
    "report-again",
    "rescue-tell",
    "rescue-plan",
    "rescue-go",
    "rescue-kept",
    "rescue-last",
];

/// The number of the place with this name.
///
/// # Panics
///
/// At compile time, where there is none.
#[must_use]
pub const fn number(name: &str) -> u16 {
    let mut index = 0;
    while index < PLACES.len() {
        if is_same(PLACES[index].as_bytes(), name.as_bytes()) {
            return index as u16;
        }
        index += 1;
    }
    panic!("no such place")
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut index = 0;
    while index < one.len() && index < other.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    one.len() == other.len()
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A store to read-only data.
    Store = 1,
    /// An undefined instruction.
    Undefined = 2,
    /// A panic.
    Panic = 3,
    /// The stack pointer is lost.
    LostStack = 4,
    /// TPIDR_EL2 is lost.
    LostCpu = 5,
    /// The stack overflows.
    Overflow = 6,
    /// The emergency stack is no longer mapped, and then a store to read-only data.
    LostPage = 7,
    /// The top of the CPU's own stack, where the host's registers are, is no longer mapped, and the same.
    LostFrame = 8,
}

impl Kind {
    /// All, in the order of their numbers.
    pub const ALL: [(Self, &str); 8] = [
        (Self::Store, "store"),
        (Self::Undefined, "undefined"),
        (Self::Panic, "panic"),
        (Self::LostStack, "lost-stack"),
        (Self::LostCpu, "lost-cpu"),
        (Self::Overflow, "overflow"),
        (Self::LostPage, "lost-page"),
        (Self::LostFrame, "lost-frame"),
    ];

    /// The one with this number.
    #[must_use]
    pub fn of(number: u64) -> Option<Self> {
        Self::ALL.iter().find(|(kind, _)| *kind as u64 == number).map(|(kind, _)| *kind)
    }
}

/// How a fault is written in the options: `PLACE:KIND`. Only a build with faults knows what that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    bytes: [u8; 40],
    length: usize,
}

impl Text {
    /// Nothing if it is too long for any.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; 40];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        Some(Self { bytes, length: text.len() })
    }

    /// As it was written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// A fault that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The number of its place.
    pub place: u16,
    /// What happens there.
    pub kind: Kind,
}

impl Fault {
    /// From `PLACE:KIND`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let colon = text.iter().position(|&byte| byte == b':')?;
        let (place, kind) = (&text[..colon], &text[colon + 1..]);
        let place = PLACES.iter().position(|name| name.as_bytes() == place)?;
        let (kind, _) = Kind::ALL.iter().find(|(_, name)| name.as_bytes() == kind)?;
        Some(Self { place: place as u16, kind: *kind })
    }

    /// As a number that is not 0.
    #[must_use]
    pub const fn to_word(self) -> u32 {
        (self.place as u32) << 8 | self.kind as u32
    }

    /// From such a number.
    #[must_use]
    pub fn of_word(word: u32) -> Option<Self> {
        let kind = Kind::of((word & 0xff).into())?;
        (((word >> 8) as usize) < PLACES.len()).then_some(Self { place: (word >> 8) as u16, kind })
    }
}

/// By HVC, in x0: arms a fault on a CPU, in a build with faults. In x1 the number of a place, in x2 of a kind, in x3
/// the MPIDR of the CPU; up to [`WAITING`] of one CPU happen in the order in which they were armed. With x2 0 nothing
/// is armed, and x1 to x3 are the name of the place, eight bytes each; x0 is all ones behind the last. With x2 all ones
/// nothing waits any longer, x0 is how many did, x1 is 1 if since the last such call two CPUs have lost TPIDR_EL2 in
/// the same instant, and what was unmapped is mapped again. It is no call of the contract.
pub const ARM: u64 = 0x8600_fffe;

/// How many faults of one CPU can wait.
pub const WAITING: usize = 4;

/// The name of a place in three registers.
#[must_use]
pub fn packed_name(place: usize) -> Option<[u64; 3]> {
    let name = PLACES.get(place)?.as_bytes();
    let word = |index: usize| {
        let byte = |at: usize| u64::from(name.get(8 * index + at).copied().unwrap_or(0));
        (0..8).fold(0, |word, at| word | byte(at) << (8 * at))
    };
    Some([word(0), word(1), word(2)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_a_name_of_its_own_that_three_registers_hold() {
        for (index, name) in PLACES.iter().enumerate() {
            assert_eq!(usize::from(number(name)), index, "{name}");
            assert!(name.len() <= 24, "{name}");
            let packed = packed_name(index).unwrap().map(u64::to_le_bytes).concat();
            assert_eq!(core::str::from_utf8(&packed).unwrap().trim_end_matches('\0'), *name);
        }
        assert!(PLACES.len() >= 50);
        assert_eq!(packed_name(PLACES.len()), None);
    }

    #[test]
    fn faults_are_read_as_they_are_written() {
        for (place, name) in PLACES.iter().enumerate() {
            for (kind, word) in Kind::ALL {
                let fault = Fault { place: place as u16, kind };
                let text = Text::new(format!("{name}:{word}").as_bytes()).unwrap();
                assert_eq!(Fault::parse(text.bytes()), Some(fault));
                assert_eq!(Fault::of_word(fault.to_word()), Some(fault));
                assert_eq!(Kind::of(kind as u64), Some(kind));
            }
        }
        for wrong in ["", ":", "hvc", "hvc:", ":store", "hvc:store:", "hvc:nothing", "nowhere:store"] {
            assert_eq!(Fault::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(Text::new(&[b'x'; 41]), None);
        for word in [0, 9, PLACES.len() as u32 * 256 + 1, u32::MAX] {
            assert_eq!(Fault::of_word(word), None, "{word:#x}");
        }
    }
}
