//! A set of CPUs, in words: which were caught in a stop, and which were not.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::psci::MAX_CPUS;

const WORDS: usize = MAX_CPUS.div_ceil(64);

/// CPUs, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSet([u64; WORDS]);

impl CpuSet {
    /// Takes one in. A number that no CPU has is none.
    pub fn insert(&mut self, cpu: usize) {
        if let Some(word) = self.0.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
        }
    }

    /// Whether one is in it.
    #[must_use]
    pub fn has(&self, cpu: usize) -> bool {
        self.0.get(cpu / 64).is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Each, in rising order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + Clone {
        let set = *self;
        (0..MAX_CPUS).filter(move |&cpu| set.has(cpu))
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<T: IntoIterator<Item = usize>>(cpus: T) -> Self {
        let mut set = Self::default();
        cpus.into_iter().for_each(|cpu| set.insert(cpu));
        set
    }
}

/// "CPU 1", "CPUs 1, 2, 5", "CPUs 1, 4 to 127".
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.count() {
            0 => return f.write_str("no CPU"),
            1 => "CPU ",
            _ => "CPUs ",
        })?;
        let mut separator = "";
        for start in self.iter().filter(|&cpu| cpu == 0 || !self.has(cpu - 1)) {
            let end = (start..MAX_CPUS).find(|&cpu| !self.has(cpu)).unwrap_or(MAX_CPUS);
            match end - start {
                1 => write!(f, "{separator}{start}")?,
                2 => write!(f, "{separator}{start}, {}", end - 1)?,
                _ => write!(f, "{separator}{start} to {}", end - 1)?,
            }
            separator = ", ";
        }
        Ok(())
    }
}

/// A set to which CPUs add themselves.
#[derive(Debug)]
pub struct AtomicCpuSet([AtomicU64; WORDS]);

impl AtomicCpuSet {
    /// Without any.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }

    /// Takes one in.
    pub fn insert(&self, cpu: usize) {
        if let Some(word) = self.0.get(cpu / 64) {
            word.fetch_or(1 << (cpu % 64), Ordering::Release);
        }
    }

    /// Takes all out.
    pub fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Who is in it.
    #[must_use]
    pub fn get(&self) -> CpuSet {
        CpuSet(self.0.each_ref().map(|word| word.load(Ordering::Acquire)))
    }
}

impl Default for AtomicCpuSet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        cpus.iter().copied().collect()
    }

    #[test]
    fn a_set_is_said_in_words() {
        for (cpus, words) in [
            (&[][..], "no CPU"),
            (&[0], "CPU 0"),
            (&[127], "CPU 127"),
            (&[1, 2], "CPUs 1, 2"),
            (&[1, 3], "CPUs 1, 3"),
            (&[1, 2, 3], "CPUs 1 to 3"),
            (&[1, 2, 5], "CPUs 1, 2, 5"),
            (&[0, 2, 63, 64, 65, 126, 127], "CPUs 0, 2, 63 to 65, 126, 127"),
            (&[0, 1, 3, 4, 125, 126, 127], "CPUs 0, 1, 3, 4, 125 to 127"),
        ] {
            assert_eq!(set(cpus).to_string(), words);
            assert_eq!(set(cpus).iter().collect::<Vec<_>>(), cpus);
            assert_eq!(set(cpus).count() as usize, cpus.len());
        }
    }

    #[test]
    fn a_number_that_is_no_cpus_is_in_no_set() {
        let shared = AtomicCpuSet::new();
        for cpu in [3, MAX_CPUS - 1, MAX_CPUS, usize::MAX] {
            shared.insert(cpu);
        }
        assert_eq!(shared.get(), set(&[3, MAX_CPUS - 1, MAX_CPUS, usize::MAX]));
        assert_eq!(shared.get(), set(&[3, MAX_CPUS - 1]));
        assert!(!shared.get().has(usize::MAX));
        shared.clear();
        assert!(shared.get().is_empty());
    }
}
