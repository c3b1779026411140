//! Prints CNTVCT_EL0: ticks of the generic timer since the machine's reset, whichever kernel asks and however many came
//! before.

user::program!(aarch64::run);

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::asm;

    pub fn run() {
        let ticks: u64;
        // SAFETY: reads a counter that Linux leaves open to programs, after all that came before.
        unsafe { asm!("isb", "mrs {0}, cntvct_el0", out(reg) ticks, options(nostack)) };
        println!("{ticks}");
    }
}
