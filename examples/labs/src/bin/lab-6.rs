//! Lab 6: Exeunt torn down. The frame is `labs::tear_down`; what you write is `yours/lab_6.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[cfg_attr(feature = "solutions", path = "../../solutions/lab_6.rs")]
#[cfg_attr(not(feature = "solutions"), path = "../../yours/lab_6.rs")]
mod yours;

#[cfg(target_os = "none")]
mod lab {
    use guests::start::Start;
    use labs::tear_down::Yours;

    use crate::yours;

    pub fn run(start: &Start) {
        labs::tear_down::run(start, &Yours { tear_down: yours::tear_down, load: yours::load });
    }
}

guests::entry!(lab::run);
