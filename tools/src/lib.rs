//! Tools that run on the build machine: they read what the build leaves and what Exeunt prints.
//!
//! - [`symbolize`]: a panic's report with functions and source lines.
//!
//! None of it writes a file, starts a program or is part of the image.

pub mod symbolize;
