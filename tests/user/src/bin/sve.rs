//! SVE at EL0: vector lengths can be chosen, arithmetic is right in each of them, and Z, P and FFR survive being
//! preempted by other threads with other contents and other lengths.

user::program!(aarch64::run);

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::asm;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use user::{fail, has, hwcap, skip};

    /// Bytes of the longest vector (Arm ARM: 2048 bits).
    const LONGEST: usize = 256;
    /// Linux `include/uapi/linux/prctl.h`.
    const PR_SVE_SET_VL: i32 = 50;
    const PR_SVE_VL_LEN_MASK: i32 = 0xffff;
    /// Threads, several for each CPU that a test machine has.
    const THREADS: u64 = 16;
    /// Rounds of each thread, and turns of the loop in which it waits to be preempted.
    const ROUNDS: u64 = 20;
    const TURNS: u64 = 200_000;

    static SWITCHES: AtomicU64 = AtomicU64::new(0);

    /// Z0 to Z31, P0 to P15 and FFR, each as long as the vector length says, one after the other.
    #[repr(C, align(64))]
    struct Registers {
        z: [u8; 32 * LONGEST],
        p: [u8; 17 * LONGEST / 8],
    }

    impl Registers {
        fn random(mut seed: u64) -> Self {
            let mut registers = Self { z: [0; 32 * LONGEST], p: [0; 17 * LONGEST / 8] };
            for byte in registers.z.iter_mut().chain(&mut registers.p) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (seed >> 56) as u8;
            }
            registers
        }
    }

    fn vector_length() -> u64 {
        let length;
        // SAFETY: the CPU has SVE; RDVL changes nothing else.
        unsafe { asm!(".arch_extension sve", "rdvl {}, #1", out(reg) length, options(nomem, nostack)) };
        length
    }

    /// Asks for vectors of `bytes` and returns what this thread got.
    fn set_vector_length(bytes: u64) -> u64 {
        // SAFETY: changes the vector length of this thread, whose vector registers nobody uses across the call.
        let got = unsafe { libc::prctl(PR_SVE_SET_VL, bytes) };
        if got < 0 { fail("PR_SVE_SET_VL") } else { u64::from((got & PR_SVE_VL_LEN_MASK).cast_unsigned()) }
    }

    /// Loads or stores Z0 to Z31 and P0 to P15 at the addresses in these operands.
    macro_rules! z_and_p {
        ($instruction:literal, $z:literal, $p:literal) => {
            concat!(
                ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, ",
                "16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31\n",
                $instruction,
                " z\\n, [{",
                $z,
                "}, #\\n, mul vl]\n.endr\n",
                ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n",
                $instruction,
                " p\\n, [{",
                $p,
                "}, #\\n, mul vl]\n.endr"
            )
        };
    }

    /// Loads all SVE registers, lets time pass without a system call, and stores them again. FFR takes its value from
    /// P0 with all elements up to a boundary true, as the architecture demands of it.
    fn hold(registers: &Registers, after: &mut Registers, active: u64) {
        // SAFETY: 32 vectors and 17 predicates of any length fit into both arguments; all registers that change are
        // declared.
        unsafe {
            asm!(
                ".arch_extension sve",
                "whilelo p0.b, xzr, {active}",
                "wrffr p0.b",
                z_and_p!("ldr", "z", "p"),
                "2: subs {turns}, {turns}, #1",
                "b.ne 2b",
                z_and_p!("str", "z_after", "p_after"),
                "rdffr p0.b",
                "str p0, [{p_after}, #16, mul vl]",
                active = in(reg) active,
                z = in(reg) &raw const registers.z,
                p = in(reg) &raw const registers.p,
                z_after = in(reg) &raw mut after.z,
                p_after = in(reg) &raw mut after.p,
                turns = inout(reg) TURNS => _,
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _,
                out("v15") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _,
                out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _,
                out("v29") _, out("v30") _, out("v31") _, out("p0") _, out("p1") _, out("p2") _, out("p3") _,
                out("p4") _, out("p5") _, out("p6") _, out("p7") _, out("p8") _, out("p9") _, out("p10") _,
                out("p11") _, out("p12") _, out("p13") _, out("p14") _, out("p15") _, out("ffr") _,
                options(nostack)
            );
        }
    }

    /// FFR in memory when its first `active` elements of `length` are true: one bit for each byte of a vector.
    fn ffr(active: u64, length: u64) -> Vec<u8> {
        (0..length / 8).map(|byte| (0..8).map(|bit| u8::from(8 * byte + bit < active) << bit).sum()).collect()
    }

    fn holding_thread(number: u64, longest: u64) {
        let length = set_vector_length((longest >> (number % 3)).max(16));
        if length != vector_length() {
            fail("RDVL and PR_SVE_SET_VL disagree");
        }
        let (z, p) = (32 * length as usize, 16 * length as usize / 8);
        for round in 0..ROUNDS {
            let registers = Registers::random(number << 32 | round);
            let mut after = Registers { z: [0; 32 * LONGEST], p: [0; 17 * LONGEST / 8] };
            let active = (number * 7 + round) % (length + 1);
            hold(&registers, &mut after, active);
            if after.z[..z] != registers.z[..z] {
                fail(&format!("thread {number}, round {round}: Z registers changed"));
            }
            if after.p[..p] != registers.p[..p] {
                fail(&format!("thread {number}, round {round}: P registers changed"));
            }
            if after.p[p..p + length as usize / 8] != ffr(active, length)[..] {
                fail(&format!("thread {number}, round {round}: FFR changed"));
            }
        }
        // SAFETY: fills a structure of this function with this thread's resource usage.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
            usage
        };
        SWITCHES.fetch_add(usage.ru_nivcsw.cast_unsigned(), Ordering::Relaxed);
    }

    /// A sum over a vector loop must be that of the scalar loop, whatever the length.
    fn arithmetic(longest: u64) {
        let values: Vec<u64> = (0..1000).map(|n| n * n + 7).collect();
        let expected: u64 = values.iter().map(|value| value * 3).sum();
        let mut lengths = Vec::new();
        let mut length = 16;
        while length <= longest {
            let got = set_vector_length(length);
            if !lengths.contains(&got) {
                lengths.push(got);
            }
            let sum: u64;
            // SAFETY: reads `values` under a predicate that ends with it.
            unsafe {
                asm!(
                    ".arch_extension sve",
                    "mov {index}, xzr",
                    "mov z0.d, #0",
                    "whilelo p0.d, {index}, {count}",
                    "2: ld1d {{z1.d}}, p0/z, [{values}, {index}, lsl #3]",
                    "mul z1.d, z1.d, #3",
                    "add z0.d, p0/m, z0.d, z1.d",
                    "incd {index}",
                    "whilelo p0.d, {index}, {count}",
                    "b.first 2b",
                    "ptrue p0.d",
                    "uaddv d0, p0, z0.d",
                    "fmov {sum}, d0",
                    index = out(reg) _,
                    count = in(reg) values.len(),
                    values = in(reg) values.as_ptr(),
                    sum = out(reg) sum,
                    out("v0") _, out("v1") _, out("p0") _,
                    options(nostack)
                );
            }
            if sum != expected {
                fail(&format!("vectors of {got} bytes: the sum is {sum}, not {expected}"));
            }
            length += 16;
        }
        println!("sve: the sum is right with vectors of {lengths:?} bytes");
    }

    pub fn run() {
        if !has(hwcap::SVE) {
            skip("no SVE");
        }
        let longest = set_vector_length(LONGEST as u64);
        println!("sve: vectors of up to {longest} bytes");
        arithmetic(longest);
        let threads: Vec<_> =
            (0..THREADS).map(|number| thread::spawn(move || holding_thread(number, longest))).collect();
        for thread in threads {
            thread.join().expect("a thread that failed has ended the program");
        }
        let switches = SWITCHES.load(Ordering::Relaxed);
        if switches == 0 {
            fail("no thread was ever preempted, so nothing was shown");
        }
        println!("sve: {THREADS} threads kept Z, P and FFR over {switches} involuntary context switches");
    }
}
