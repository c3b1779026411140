//! Runs Exeunt on QEMU, and says what came of it. The library behind `make run` and its like, which the tests use too.

pub mod archive;
pub mod child;
pub mod console;
pub mod devices;
pub mod gdb;
pub mod guest;
pub mod hibernate;
pub mod kdump;
pub mod kernel;
pub mod kexec;
pub mod machine;
pub mod modules;
pub mod output;
pub mod placement;
pub mod progress;
pub mod qemu;
pub mod qmp;
pub mod report;
pub mod restart;
pub mod run;
pub mod settings;
pub mod soak;
pub mod variables;
pub mod workstation;
