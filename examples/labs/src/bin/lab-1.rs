//! Lab 1: the first call. The frame is `labs::first_call`; what you write is `yours/lab_1.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[cfg_attr(feature = "solutions", path = "../../solutions/lab_1.rs")]
#[cfg_attr(not(feature = "solutions"), path = "../../yours/lab_1.rs")]
mod yours;

#[cfg(target_os = "none")]
mod lab {
    use guests::start::Start;
    use labs::first_call::Yours;

    use crate::yours;

    pub fn run(start: &Start) {
        labs::first_call::run(start, &Yours { go_to_el1: yours::go_to_el1, hypercall: yours::hypercall });
    }
}

guests::entry!(lab::run, stays_at_el2);
