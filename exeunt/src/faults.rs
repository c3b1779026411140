//! Faults on purpose in the middle of Exeunt's work, in builds with the feature `faults`.
//!
//! Owns what waits, and what happens. The places are those of [`fault_point!`]; without the feature it is nothing but a
//! look, at compile time, whether `hypervisor::faults` has the name. It is ground: it imports nothing of the image.

/// A place where Exeunt may be made to die.
macro_rules! fault_point {
    ($name:literal) => {{
        const PLACE: u16 = hypervisor::faults::number($name);
        #[cfg(feature = "faults")]
        $crate::faults::at(PLACE);
        #[cfg(not(feature = "faults"))]
        let _ = PLACE;
    }};
}

pub(crate) use fault_point;

#[cfg(feature = "faults")]
pub use armed::{arm_any, at, call};

#[cfg(feature = "faults")]
mod armed {
    use core::arch::{asm, naked_asm};
    use core::hint::black_box;
    use core::sync::atomic::{AtomicU32, Ordering};

    use aarch64_cpu::registers::{MPIDR_EL1, Readable};
    use hypervisor::faults::{Fault, Kind, PLACES, WAITING, packed_name};

    /// CPUs that can have faults of their own: by Aff1 and Aff0, as QEMU numbers them.
    const CPUS: usize = 128;

    /// What waits, for each CPU in the order in which it is to happen.
    static ARMED: [[AtomicU32; WAITING]; CPUS] = [const { [const { AtomicU32::new(0) }; WAITING] }; CPUS];

    /// What waits for any CPU.
    static ANY: AtomicU32 = AtomicU32::new(0);

    fn of(mpidr: u64) -> &'static [AtomicU32; WAITING] {
        &ARMED[((mpidr & 0xf) + (mpidr >> 4 & 0xff0)) as usize % CPUS]
    }

    /// Arms a fault for the first CPU that comes to its place.
    pub fn arm_any(fault: Fault) {
        ANY.store(fault.to_word(), Ordering::Relaxed);
    }

    /// A CPU is at this place.
    pub fn at(place: u16) {
        let here = |word: u32| Fault::of_word(word).filter(|fault| fault.place == place);
        if let Some(fault) = here(ANY.load(Ordering::Relaxed)) {
            ANY.store(0, Ordering::Relaxed);
            commit(fault);
        }
        let first = of(MPIDR_EL1.get()).iter().find(|word| word.load(Ordering::Relaxed) != 0);
        if let Some(first) = first
            && let Some(fault) = here(first.load(Ordering::Relaxed))
        {
            first.store(0, Ordering::Relaxed);
            commit(fault);
        }
    }

    #[cold]
    #[inline(never)]
    fn commit(fault: Fault) -> ! {
        match fault.kind {
            Kind::Store => store(),
            // SAFETY: an exception, after which nothing here is used again.
            Kind::Undefined => unsafe { asm!("udf #0") },
            Kind::Panic => panic!("asked for, at {}", PLACES[usize::from(fault.place)]),
            Kind::LostStack => lose_stack(),
            Kind::LostCpu => {
                // SAFETY: the next store is an exception, after which nothing here is used again.
                unsafe { asm!("msr tpidr_el2, {}", in(reg) (&raw const CONSTANT).addr()) };
                store();
            }
            Kind::Overflow => {
                let _ = black_box(overflow(0));
            }
        }
        panic!("no fault was taken at {}", PLACES[usize::from(fault.place)]);
    }

    /// Something in read-only data.
    static CONSTANT: [u64; 2] = [1, 2];

    fn store() {
        // SAFETY: it is mapped to be read alone. If it can be written, it is what it was.
        unsafe { asm!("str {word}, [{place}]", word = in(reg) CONSTANT[0], place = in(reg) &raw const CONSTANT) };
    }

    #[unsafe(naked)]
    extern "C" fn lose_stack() {
        naked_asm!("mov x0, #0", "mov sp, x0", "str x0, [sp]", "ret")
    }

    #[expect(unconditional_recursion, reason = "that is the point")]
    fn overflow(depth: u64) -> u64 {
        let frame = black_box([depth; 16]);
        overflow(depth + 1) + frame[(depth % 16) as usize]
    }

    /// [`hypervisor::faults::ARM`], with x0 to x17 of the caller.
    pub fn call(x: &mut [u64; 18]) {
        let [_, place, kind, mpidr, ..] = *x;
        let waiting = of(mpidr);
        x[0] = match kind {
            0 => match packed_name(place as usize) {
                Some(name) => {
                    x[1..4].copy_from_slice(&name);
                    0
                }
                None => u64::MAX,
            },
            // Nothing waits any longer; and how much there was.
            u64::MAX => waiting.iter().map(|word| u64::from(word.swap(0, Ordering::Relaxed) != 0)).sum(),
            _ => {
                let fault = Kind::of(kind).map(|kind| Fault { place: place as u16, kind });
                match fault.zip(waiting.iter().find(|word| word.load(Ordering::Relaxed) == 0)) {
                    Some((fault, free)) => {
                        free.store(fault.to_word(), Ordering::Relaxed);
                        0
                    }
                    None => u64::MAX,
                }
            }
        };
    }
}
