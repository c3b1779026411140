//! Lab 2: what a syndrome says. The frame is `labs::decode`; what you write is `yours/lab_2.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[cfg_attr(feature = "solutions", path = "../../solutions/lab_2.rs")]
#[cfg_attr(not(feature = "solutions"), path = "../../yours/lab_2.rs")]
mod yours;

#[cfg(target_os = "none")]
mod lab {
    use guests::start::Start;

    use crate::yours;

    pub fn run(_: &Start) {
        labs::decode::run(yours::decode);
    }
}

guests::entry!(lab::run, stays_at_el2);
