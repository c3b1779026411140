//! Random HVC and SMC calls. The test itself is in `src/calls.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(calls);
