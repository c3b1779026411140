//! A guest: a program that runs in Linux's place, asks Exeunt who it is, and turns the machine off.
//!
//! `make guest EXAMPLE=hello` builds and runs it. The runtime (`tests/guests`) brings it from an Image's first
//! instruction to here: it has a stack, a console, an MMU, and is at EL1, where an HVC is a call to EL2.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod hello {
    use guest_abi::call;
    use guests::start::Start;
    use guests::{firmware, println, registers};

    /// What it does.
    pub fn run(start: &Start) {
        println!("hello, from EL{}; I was entered at EL{}", registers::current_el(), start.level);
        // SAFETY: the CPU is at EL1, and the call changes nothing.
        match unsafe { call::version() } {
            Ok((_, version)) => {
                println!("Exeunt {}.{}.{} answers my call", version.major, version.minor, version.patch);
            }
            Err(failure) => println!("nobody answers: {failure:?}"),
        }
        firmware::exit(0)
    }
}

guests::entry!(hello::run);
