//! Lab 4: a register that is yours. The frame is `labs::trapped`; what you write is `yours/lab_4.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[cfg_attr(feature = "solutions", path = "../../solutions/lab_4.rs")]
#[cfg_attr(not(feature = "solutions"), path = "../../yours/lab_4.rs")]
mod yours;

#[cfg(target_os = "none")]
mod lab {
    use guests::start::Start;
    use labs::trapped::Yours;

    use crate::yours;

    pub fn run(_: &Start) {
        labs::trapped::run(&Yours { hcr: yours::HCR, handle: yours::handle });
    }
}

guests::entry!(lab::run, stays_at_el2);
