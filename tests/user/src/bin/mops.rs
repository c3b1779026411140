//! The memory copy and memory set instructions (FEAT_MOPS) at EL0, in all sizes and directions, on several threads that
//! preempt each other in the middle of them.

user::program!(aarch64::run);

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::asm;
    use std::thread;

    use user::{fail, has2, hwcap, skip};

    const THREADS: u64 = 8;
    const ROUNDS: u64 = 60;
    /// Bytes of each buffer.
    const SIZE: usize = 96 * 1024;

    /// `memcpy`: the buffers do not overlap.
    fn copy_forward(to: *mut u8, from: *const u8, length: usize) {
        // SAFETY: the caller's buffers hold `length` bytes; all that changes is declared.
        unsafe {
            asm!(
                ".arch_extension mops",
                "cpyfp [{0}]!, [{1}]!, {2}!", "cpyfm [{0}]!, [{1}]!, {2}!", "cpyfe [{0}]!, [{1}]!, {2}!",
                inout(reg) to => _, inout(reg) from => _, inout(reg) length => _, options(nostack)
            );
        }
    }

    /// `memmove`.
    fn copy(to: *mut u8, from: *const u8, length: usize) {
        // SAFETY: as in `copy_forward`.
        unsafe {
            asm!(
                ".arch_extension mops",
                "cpyp [{0}]!, [{1}]!, {2}!", "cpym [{0}]!, [{1}]!, {2}!", "cpye [{0}]!, [{1}]!, {2}!",
                inout(reg) to => _, inout(reg) from => _, inout(reg) length => _, options(nostack)
            );
        }
    }

    /// `memset`.
    fn set(to: *mut u8, value: u8, length: usize) {
        // SAFETY: as in `copy_forward`.
        unsafe {
            asm!(
                ".arch_extension mops",
                "setp [{0}]!, {1}!, {2:x}", "setm [{0}]!, {1}!, {2:x}", "sete [{0}]!, {1}!, {2:x}",
                inout(reg) to => _, inout(reg) length => _, in(reg) u64::from(value), options(nostack)
            );
        }
    }

    fn next(state: &mut u64) -> usize {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize
    }

    fn work(seed: u64) {
        let mut state = seed;
        let mut model: Vec<u8> = (0..SIZE).map(|_| next(&mut state) as u8).collect();
        let mut memory = model.clone();
        let mut other = vec![0; SIZE];
        for round in 0..ROUNDS {
            let length = next(&mut state) % (SIZE / if round % 4 == 0 { 2 } else { 100 });
            let (from, to) = (next(&mut state) % (SIZE - length), next(&mut state) % (SIZE - length));
            let base = memory.as_mut_ptr();
            match round % 3 {
                0 => {
                    copy_forward(other.as_mut_ptr(), base.wrapping_add(from), length);
                    if other[..length] != model[from..from + length] {
                        fail(&format!("thread {seed}, round {round}: cpyf of {length} bytes"));
                    }
                }
                1 => {
                    copy(base.wrapping_add(to), base.wrapping_add(from), length);
                    model.copy_within(from..from + length, to);
                }
                _ => {
                    set(base.wrapping_add(to), round as u8, length);
                    model[to..to + length].fill(round as u8);
                }
            }
            if memory != model {
                fail(&format!("thread {seed}, round {round}: {length} bytes from {from} to {to}"));
            }
        }
    }

    pub fn run() {
        if !has2(hwcap::MOPS) {
            skip("no MOPS (QEMU has it since 8.2, Linux since 6.5)");
        }
        let threads: Vec<_> = (1..=THREADS).map(|seed| thread::spawn(move || work(seed))).collect();
        for thread in threads {
            thread.join().expect("a thread that failed has ended the program");
        }
        println!("mops: {THREADS} threads, {ROUNDS} copies and sets each");
    }
}
