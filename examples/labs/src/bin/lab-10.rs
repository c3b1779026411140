//! Lab 10: your own calls in the black box. The frame is `labs::own_trace`; what you write is `yours/lab_10.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[cfg_attr(feature = "solutions", path = "../../solutions/lab_10.rs")]
#[cfg_attr(not(feature = "solutions"), path = "../../yours/lab_10.rs")]
mod yours;

#[cfg(target_os = "none")]
mod lab {
    use guests::start::Start;
    use labs::own_trace::Yours;

    use crate::yours;

    pub fn run(start: &Start) {
        labs::own_trace::run(start, &Yours { find: yours::find });
    }
}

guests::entry!(lab::run);
