//! The stop of all CPUs in a crash. The test itself is in `src/stop.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(stop);
