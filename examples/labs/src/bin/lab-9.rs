//! Lab 9: a CPU that hangs. The frame is `labs::rescue`; what you write is `yours/lab_9.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[cfg_attr(feature = "solutions", path = "../../solutions/lab_9.rs")]
#[cfg_attr(not(feature = "solutions"), path = "../../yours/lab_9.rs")]
mod yours;

#[cfg(target_os = "none")]
mod lab {
    use guests::start::Start;
    use labs::rescue::Yours;

    use crate::yours;

    pub fn run(start: &Start) {
        labs::rescue::run(start, &Yours { rescue: yours::rescue, is_exeunts: yours::is_exeunts });
    }
}

guests::entry!(lab::run);
