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
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    use aarch64_cpu::registers::{MPIDR_EL1, Readable, TCR_EL2, TPIDR_EL2, TTBR0_EL2};
    use boot::CpuBoot;
    use hypervisor::faults::{Fault, Kind, PLACES, WAITING, packed_name};

    /// CPUs that can have faults of their own: by Aff1 and Aff0, as QEMU numbers them.
    const CPUS: usize = 128;

    /// What waits, for each CPU in the order in which it is to happen.
    static ARMED: [[AtomicU32; WAITING]; CPUS] = [const { [const { AtomicU32::new(0) }; WAITING] }; CPUS];

    /// MPIDR_EL1 of the CPU that has lost TPIDR_EL2 last, and of the last one during whose search for its structure
    /// another one did. `vectors` writes them.
    #[unsafe(export_name = "exeunt_lost_last")]
    static LOST: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

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
        let any = ANY.load(Ordering::Relaxed);
        if let Some(fault) = here(any)
            && ANY.compare_exchange(any, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            // Of several CPUs that come at once, one.
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
            Kind::LostPage => {
                unmap(0, (&raw const __emergency_stack_top).addr() as u64 - 16);
                store();
            }
            Kind::LostFrame => {
                let cpu = core::ptr::with_exposed_provenance::<CpuBoot>(TPIDR_EL2.get() as usize);
                // SAFETY: this CPU's structure begins with it.
                unmap(1, unsafe { (*cpu).stack_top } - 16);
                store();
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

    unsafe extern "C" {
        static __emergency_stack_top: u8;
    }

    /// The descriptors that were taken away: where, and what.
    static UNMAPPED: [[AtomicU64; 2]; 2] = [const { [const { AtomicU64::new(0) }; 2] }; 2];

    /// Takes the page with this address out of EL2's tables.
    fn unmap(which: usize, address: u64) {
        const PAGE: u64 = 0xffff_ffff_f000;
        let bits = 64 - (TCR_EL2.get() & 0x3f);
        let mut level = 4 - (bits - 12).div_ceil(9);
        let mut table = TTBR0_EL2.get() & PAGE;
        loop {
            let place = table + (address >> (39 - 9 * level) & 511) * 8;
            // SAFETY: EL2's tables are mapped to themselves. What is taken away is used by nothing but reports and the
            // frame of this CPU's host, which is what this is for.
            unsafe {
                let entry = core::ptr::with_exposed_provenance_mut::<u64>(place as usize);
                let descriptor = entry.read_volatile();
                if level < 3 && descriptor & 3 == 3 {
                    (table, level) = (descriptor & PAGE, level + 1);
                    continue;
                }
                UNMAPPED[which][0].store(place, Ordering::Relaxed);
                UNMAPPED[which][1].store(descriptor, Ordering::Relaxed);
                entry.write_volatile(0);
                asm!("dsb ish", "tlbi vae2is, {}", "dsb ish", "isb", in(reg) address >> 12);
            }
            return;
        }
    }

    /// Gives back what was taken away.
    fn map() {
        for [place, descriptor] in &UNMAPPED {
            let place = place.swap(0, Ordering::Relaxed);
            if place != 0 {
                let entry = core::ptr::with_exposed_provenance_mut::<u64>(place as usize);
                // SAFETY: what was there; nothing can be in a TLB of a page that was not mapped.
                unsafe {
                    entry.write_volatile(descriptor.load(Ordering::Relaxed));
                    asm!("dsb ish", "isb");
                }
            }
        }
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
            u64::MAX => {
                map();
                x[1] = u64::from(LOST[1].swap(0, Ordering::Relaxed) != 0);
                waiting.iter().map(|word| u64::from(word.swap(0, Ordering::Relaxed) != 0)).sum()
            }
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
