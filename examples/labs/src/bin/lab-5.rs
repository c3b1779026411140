//! Lab 5: a second CPU. The frame is `labs::second_cpu`; what you write is `yours/lab_5.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[cfg_attr(feature = "solutions", path = "../../solutions/lab_5.rs")]
#[cfg_attr(not(feature = "solutions"), path = "../../yours/lab_5.rs")]
mod yours;

#[cfg(target_os = "none")]
mod lab {
    use guests::start::Start;
    use labs::second_cpu::Yours;

    use crate::yours;

    pub fn run(start: &Start) {
        labs::second_cpu::run(start, &Yours { turn_on: yours::turn_on });
    }
}

guests::entry!(lab::run);
