//! Tools that run on the build machine: they read what the build leaves and what Exeunt prints.
//!
//! - [`symbolize`]: a panic's report with functions and source lines.
//! - [`image`]: what must hold for the finished ELF file (no SIMD, small frames, only Armv8.0), with [`a64`] to decode
//!   its instructions and [`frames`] to follow the stack pointer through them.
//! - [`rooms`]: which file of a crate needs which other, with [`source`] to read Rust as the compiler does.
//! - [`book`], [`prose`] and [`quotes`]: the pages of docs/ as mdBook wants them, how long their sentences are, and
//!   whether the code in them is the project's; [`lab`]: what came of a lab.
//!
//! None of it starts a program or is part of the image, and nothing but [`book`] writes a file.

pub mod a64;
pub mod book;
pub mod frames;
pub mod image;
pub mod lab;
pub mod prose;
pub mod quotes;
pub mod rooms;
pub mod source;
pub mod symbolize;
