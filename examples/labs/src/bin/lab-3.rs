//! Lab 3: stage 2, drawn and changed. The frame is `labs::map`; what you write is `yours/lab_3.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[cfg_attr(feature = "solutions", path = "../../solutions/lab_3.rs")]
#[cfg_attr(not(feature = "solutions"), path = "../../yours/lab_3.rs")]
mod yours;

#[cfg(target_os = "none")]
mod lab {
    use guests::start::Start;
    use labs::map::Yours;

    use crate::yours;

    pub fn run(start: &Start) {
        labs::map::run(start, &Yours { map: yours::map, change: yours::change });
    }
}

guests::entry!(lab::run);
