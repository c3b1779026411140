//! PANIC, of CPUs wherever they are. The test itself is in `src/panics.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(panics);
