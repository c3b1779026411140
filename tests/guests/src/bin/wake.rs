//! Who a LEAVE wakes, and who not. The test itself is in `src/wake.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(wake);
