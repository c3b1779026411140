//! Lab 7: be the stub. The frame is `labs::stub`; what you write is `yours/lab_7.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[cfg_attr(feature = "solutions", path = "../../solutions/lab_7.rs")]
#[cfg_attr(not(feature = "solutions"), path = "../../yours/lab_7.rs")]
mod yours;

#[cfg(target_os = "none")]
mod lab {
    use guests::start::Start;
    use labs::stub::Yours;

    use crate::yours;

    pub fn run(start: &Start) {
        labs::stub::run(start, &Yours { vectors: yours::vectors });
    }
}

guests::entry!(lab::run, stays_at_el2);
