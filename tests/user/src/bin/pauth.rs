//! Pointer authentication at EL0: signatures verify with the key and modifier that made them and not with others, every
//! process has keys of its own, and a forged pointer ends a process.

user::program!(aarch64::run);

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::asm;
    use std::env;

    use user::{Ending, fail, has, hwcap, run_again, skip};

    /// What is signed; the values only have to be canonical user addresses.
    const SAMPLES: u64 = 1000;

    /// A pointer and a modifier in, a pointer out.
    type Signer = fn(u64, u64) -> u64;

    macro_rules! signer {
        ($name:ident, $instruction:literal) => {
            fn $name(pointer: u64, modifier: u64) -> u64 {
                let mut result = pointer;
                // SAFETY: changes the one register.
                unsafe {
                    asm!(".arch_extension pauth", concat!($instruction, " {}, {}"), inout(reg) result, in(reg) modifier,
                        options(nomem, nostack));
                }
                result
            }
        };
    }

    signer!(pacia, "pacia");
    signer!(autia, "autia");
    signer!(pacib, "pacib");
    signer!(autib, "autib");
    signer!(pacda, "pacda");
    signer!(autda, "autda");
    signer!(pacdb, "pacdb");
    signer!(autdb, "autdb");

    fn strip(pointer: u64) -> u64 {
        let mut result = pointer;
        // SAFETY: changes the one register.
        unsafe { asm!(".arch_extension pauth", "xpacd {}", inout(reg) result, options(nomem, nostack)) };
        result
    }

    fn pacga(value: u64, modifier: u64) -> u64 {
        let result;
        // SAFETY: changes the one register.
        unsafe {
            asm!(".arch_extension pauth", "pacga {}, {}, {}", out(reg) result, in(reg) value, in(reg) modifier,
                options(nomem, nostack));
        }
        result
    }

    fn pointers() -> impl Iterator<Item = (u64, u64)> {
        (1..=SAMPLES).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17 & !7, n))
    }

    /// Signs with each key, verifies, and counts how often a signature is anything but zero.
    fn round_trips() {
        let keys: [(&str, Signer, Signer); 4] =
            [("IA", pacia, autia), ("IB", pacib, autib), ("DA", pacda, autda), ("DB", pacdb, autdb)];
        for (name, sign, verify) in keys {
            let mut visible = 0;
            for (pointer, modifier) in pointers() {
                let signed = sign(pointer, modifier);
                if strip(signed) != pointer {
                    fail(&format!("key {name}: {signed:#x} does not strip to {pointer:#x}"));
                }
                if verify(signed, modifier) != pointer {
                    fail(&format!("key {name}: {signed:#x} does not verify"));
                }
                visible += u64::from(signed != pointer);
            }
            // A signature can be zero by chance, but not most of the time.
            if visible < SAMPLES / 2 {
                fail(&format!("key {name}: only {visible} of {SAMPLES} pointers changed by signing"));
            }
            println!("pauth: key {name}: {SAMPLES} pointers signed and verified, {visible} visibly signed");
        }
        if pointers().all(|(pointer, modifier)| pacia(pointer, modifier) == pacib(pointer, modifier)) {
            fail("keys IA and IB are the same");
        }
    }

    /// Verifies a pointer whose signature was changed, and uses it: with FEAT_FPAC the first is fatal, without it the
    /// second.
    fn forge() -> ! {
        let target = 42u64;
        let signed = pacda(&raw const target as u64, 1);
        // Bit 54 belongs to the signature with addresses of up to 52 bits.
        let verified = autda(signed ^ 1 << 54, 1);
        // SAFETY: not safe at all, that is the point: the pointer is not canonical, and the process is expected to end
        // here.
        let value = unsafe { (verified as *const u64).read_volatile() };
        fail(&format!("a forged pointer verified as {verified:#x} and reads {value}"))
    }

    pub fn run() {
        if !has(hwcap::PACA) {
            skip("no pointer authentication");
        }
        match env::args().nth(1).as_deref() {
            Some("forge") => forge(),
            Some("print") => {
                println!("pauth: another process signs 0x4000 as {:#x}", pacia(0x4000, 0));
                std::process::exit(i32::from(env::args().nth(2).is_some()));
            }
            _ => {}
        }
        round_trips();
        println!("pauth: this process signs 0x4000 as {:#x}", pacia(0x4000, 0));
        if run_again("print") != Ending::Status(0) {
            fail("another process cannot sign");
        }
        if has(hwcap::PACG) {
            let (one, other) = (pacga(1, 2), pacga(1, 3));
            if one & 0xffff_ffff != 0 || one == other || pacga(1, 2) != one {
                fail(&format!("pacga gives {one:#x} and {other:#x}"));
            }
            println!("pauth: pacga works");
        }
        match run_again("forge") {
            Ending::Signal(libc::SIGILL) => {
                println!("pauth: a forged pointer ends a process when it is verified (SIGILL)");
            }
            Ending::Signal(libc::SIGSEGV) => {
                println!("pauth: a forged pointer ends a process when it is used (SIGSEGV)");
            }
            other => fail(&format!("a forged pointer ended with {other:?}")),
        }
    }
}
