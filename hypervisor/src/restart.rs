//! Why a host restarts: on purpose, or because it has died.
//!
//! Owns that decision. The stub ABI does not tell; SOFT_RESTART is the same call for a kexec and for a crash kernel.
//! What tells is what Linux does before it, and what it passes:
//!
//! | Linux | kexec | crash |
//! |---|---|---|
//! | 4.8 to 5.15 | x2 is `kimage->head`: a page, IND_INDIRECTION | x2 is `kimage->head`: IND_DONE, nothing to copy |
//! | from 5.16 on | SET_VECTORS on this CPU before: EL2's vectors get out of the way of the copy | no SET_VECTORS |
//! | from 6.17 on | or none, if there is nothing to copy; then x2 is a device tree | x2 may be a tree |
//!
//! Nothing is to be copied in a kexec if all segments are in contiguous memory already (kexec_file_load only). A crash
//! kernel's tree has `linux,elfcorehdr` in `/chosen`, and no other has.
//!
//! (`arch/arm64/kernel/machine_kexec.c` and `relocate_kernel.S`, `include/linux/kexec.h`, `drivers/of/kexec.c`.) With
//! kexec_load, which is what kexec-tools uses unless told otherwise, x2 is 0 from 5.16 on: the tree is the purgatory's
//! business. Such a kexec always copies.
//!
//! What does not tell is which CPUs are off. A kexec takes all others off by CPU_OFF and asks AFFINITY_INFO about each,
//! a crash stops them by CPU_OFF too and asks nobody; but with one CPU, or with the others taken off before, both look
//! the same, and a kexec whose firmware is slow goes on without the answer.
//!
//! An entry in the memory that the host keeps for a crash kernel says that it is one, where Exeunt knows that memory
//! ([`crate::guard`]).
//!
//! The signs are asked in the order entry, head, tree, vectors: all but the last come with the call and cannot be
//! stale. SET_VECTORS can, if a host has called it for something else and not put its own stub back;
//! [`crate::virtual_el2`] knows those that do put it back (hibernation). So with kexec_load a host from 5.16 on that
//! leaves other vectors behind, and then dies, is taken for one that restarts on purpose; no such Linux is known. A
//! host that is no Linux, and passes none of this, has crashed unless it has called SET_VECTORS. That is a guess, and
//! enough to choose what becomes of Exeunt on one CPU. It is not enough to stop the others ([`Restarts::is_sure`]).

use crate::devicetree;

/// Why the host restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// On purpose.
    Kexec,
    /// It has crashed.
    Crash,
}

/// `kimage->head` (Linux `include/linux/kexec.h`): the entry is the address of a page with more of them.
const IND_INDIRECTION: u64 = 1 << 1;
/// The entry is the last.
const IND_DONE: u64 = 1 << 2;
/// An entry's flags are below the smallest page's size.
const FLAGS: u64 = 0xfff;

/// Where Linux tells a crash kernel the address of the dying kernel's core header, and no other kernel.
/// What only a crash kernel's tree has in `/chosen`: where the core header is.
pub(crate) const ELF_CORE_HEADER: &str = "linux,elfcorehdr";

/// Why, and how surely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarts {
    /// Why.
    pub why: Restart,
    /// Something has said so. Else there was just no sign of the other.
    pub is_sure: bool,
}

impl Restarts {
    /// The host has crashed, and nobody needs to guess it.
    pub const CRASHED: Self = Self { why: Restart::Crash, is_sure: true };

    /// Whether that is so.
    #[must_use]
    pub fn has_crashed(self) -> bool {
        self == Self::CRASHED
    }
}

/// What is known when SOFT_RESTART is called.
#[derive(Clone, Copy)]
pub struct Signs<'a> {
    /// The entry is in the memory that the host keeps for a crash kernel.
    pub in_crash_kernel: bool,
    /// x2 of the call.
    pub x2: u64,
    /// The host has installed vectors by SET_VECTORS on this CPU, and they are not its own stub's.
    pub has_vectors: bool,
    /// Reads a word of the host's RAM, at a multiple of 4; nothing where there is none.
    pub word: &'a dyn Fn(u64) -> Option<u32>,
}

impl Restart {
    /// Takes a SOFT_RESTART for one or the other.
    #[must_use]
    pub fn of(signs: &Signs) -> Restarts {
        let shown = signs.in_crash_kernel.then_some(Self::Crash).or_else(|| Self::of_head(signs.x2));
        let shown = shown.or_else(|| Self::of_tree(signs.x2, signs.word));
        let shown = shown.or_else(|| signs.has_vectors.then_some(Self::Kexec));
        Restarts { why: shown.unwrap_or(Self::Crash), is_sure: shown.is_some() }
    }

    /// By x2 as `kimage->head`, if it can be that.
    const fn of_head(x2: u64) -> Option<Self> {
        match x2 {
            IND_DONE => Some(Self::Crash),
            _ if x2 & FLAGS == IND_INDIRECTION && x2 > FLAGS => Some(Self::Kexec),
            _ => None,
        }
    }

    /// By the tree at x2, if there is one. It is 8-byte aligned (booting.rst), and address 0 says that there is none.
    fn of_tree(x2: u64, word: impl Fn(u64) -> Option<u32>) -> Option<Self> {
        if x2 == 0 || !x2.is_multiple_of(8) {
            return None;
        }
        let at = |offset: u32| word(x2.checked_add(offset.into())?);
        devicetree::chosen_has(ELF_CORE_HEADER, &at).map(|crashed| if crashed { Self::Crash } else { Self::Kexec })
    }
}

#[cfg(test)]
pub(crate) mod tests;
