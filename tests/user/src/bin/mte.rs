//! Memory tagging at EL0: tags can be set and read back, matching accesses work, and others end in SIGSEGV with
//! SEGV_MTESERR at the right address, or in asynchronous mode with SEGV_MTEAERR.

user::program!(aarch64::run);

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::asm;
    use std::env;
    use std::sync::atomic::{AtomicU64, Ordering};

    use user::{Ending, fail, has2, hwcap, run_again, skip};

    /// Linux `include/uapi/linux/prctl.h`.
    const PR_SET_TAGGED_ADDR_CTRL: i32 = 55;
    const PR_TAGGED_ADDR_ENABLE: u64 = 1;
    const PR_MTE_TCF_SYNC: u64 = 1 << 1;
    const PR_MTE_TCF_ASYNC: u64 = 2 << 1;
    /// IRG may choose any tag but 0.
    const PR_MTE_TAGS: u64 = 0xfffe << 3;
    /// Linux `arch/arm64/include/uapi/asm/mman.h`.
    const PROT_MTE: i32 = 0x20;
    /// Linux `include/uapi/asm-generic/siginfo.h`.
    const SEGV_MTEAERR: i32 = 8;
    const SEGV_MTESERR: i32 = 9;
    /// Bytes that share a tag.
    const GRANULE: usize = 16;
    /// Bytes of the tagged memory.
    const SIZE: usize = 64 * 1024;

    static EXPECTED_ADDRESS: AtomicU64 = AtomicU64::new(0);
    static EXPECTED_CODE: AtomicU64 = AtomicU64::new(0);

    fn mode(check: u64) {
        // SAFETY: sets this thread's tag checking.
        let result =
            unsafe { libc::prctl(PR_SET_TAGGED_ADDR_CTRL, PR_TAGGED_ADDR_ENABLE | check | PR_MTE_TAGS, 0, 0, 0) };
        if result != 0 {
            fail("PR_SET_TAGGED_ADDR_CTRL");
        }
    }

    fn tagged_memory() -> *mut u8 {
        // SAFETY: fresh anonymous memory.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE | PROT_MTE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED { fail("mmap with PROT_MTE") } else { memory.cast() }
    }

    /// IRG: `pointer` with a random tag.
    fn random_tag(pointer: *mut u8) -> *mut u8 {
        let tagged;
        // SAFETY: changes the one register.
        unsafe { asm!(".arch_extension memtag", "irg {}, {}", out(reg) tagged, in(reg) pointer, options(nostack)) };
        tagged
    }

    /// STG: gives the granule at `pointer` the pointer's tag.
    fn set_tag(pointer: *mut u8) {
        // SAFETY: `pointer` is in the tagged memory.
        unsafe { asm!(".arch_extension memtag", "stg {0}, [{0}]", in(reg) pointer, options(nostack)) };
    }

    /// LDG: `pointer` with the tag of its granule.
    fn get_tag(pointer: *mut u8) -> *mut u8 {
        let mut tagged = pointer;
        // SAFETY: `pointer` is in the tagged memory.
        unsafe { asm!(".arch_extension memtag", "ldg {0}, [{0}]", inout(reg) tagged, options(nostack)) };
        tagged
    }

    fn tag(pointer: *mut u8) -> u64 {
        (pointer as u64) >> 56 & 0xf
    }

    extern "C" fn handler(_: i32, information: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel gives a valid siginfo; for SIGSEGV it has an address.
        let (code, address) = unsafe { ((*information).si_code, (*information).si_addr() as u64) };
        let expected = EXPECTED_CODE.load(Ordering::Relaxed) as i32;
        let right = code == expected && (code == SEGV_MTEAERR || address == EXPECTED_ADDRESS.load(Ordering::Relaxed));
        // SAFETY: ends the process; the status says what the handler saw.
        unsafe { libc::_exit(if right { 0 } else { 2 }) };
    }

    /// Accesses memory through a pointer with the wrong tag; the handler ends the process.
    fn fault(check: u64, code: i32) -> ! {
        mode(check);
        let memory = tagged_memory();
        let right = random_tag(memory);
        set_tag(right);
        let wrong = (right as u64 ^ 1 << 56) as *mut u8;
        // The kernel reports the address without its tag unless asked for it.
        EXPECTED_ADDRESS.store(memory as u64, Ordering::Relaxed);
        EXPECTED_CODE.store(u64::from(code.cast_unsigned()), Ordering::Relaxed);
        // SAFETY: installs a handler that ends the process.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut());
            wrong.write_volatile(1);
            // An asynchronous fault is reported at the next entry to the kernel.
            libc::sched_yield();
        }
        fail("a store with the wrong tag went through")
    }

    pub fn run() {
        if !has2(hwcap::MTE) {
            skip("no MTE (QEMU needs -machine mte=on)");
        }
        match env::args().nth(1).as_deref() {
            Some("sync") => fault(PR_MTE_TCF_SYNC, SEGV_MTESERR),
            Some("async") => fault(PR_MTE_TCF_ASYNC, SEGV_MTEAERR),
            _ => {}
        }
        mode(PR_MTE_TCF_SYNC);
        let memory = tagged_memory();
        let mut seen = 0u32;
        for offset in (0..SIZE).step_by(GRANULE) {
            let granule = memory.wrapping_add(offset);
            let tagged = random_tag(granule);
            set_tag(tagged);
            if get_tag(granule) != tagged {
                fail(&format!("the tag of {tagged:?} reads back as {:?}", get_tag(granule)));
            }
            seen |= 1 << tag(tagged);
            // SAFETY: in the tagged memory, with the right tag.
            unsafe { tagged.cast::<[u8; 8]>().write_volatile(offset.to_le_bytes()) };
        }
        for offset in (0..SIZE).step_by(GRANULE) {
            // SAFETY: in the tagged memory, with the tag that it has.
            let value = unsafe { get_tag(memory.wrapping_add(offset)).cast::<[u8; 8]>().read_volatile() };
            if value != offset.to_le_bytes() {
                fail(&format!("offset {offset:#x} reads {value:x?}"));
            }
        }
        if seen & 1 != 0 || seen.count_ones() < 8 {
            fail(&format!("IRG chose the tags {seen:#06x}"));
        }
        println!("mte: {} granules tagged, used and read back, tags {seen:#06x}", SIZE / GRANULE);
        for (name, code) in [("sync", "SEGV_MTESERR"), ("async", "SEGV_MTEAERR")] {
            match run_again(name) {
                Ending::Status(0) => println!("mte: a wrong tag gives {code}"),
                other => fail(&format!("a wrong tag in {name} mode: {other:?}")),
            }
        }
    }
}
