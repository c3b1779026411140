//! EL2 given to vectors that the guest has installed. The test itself is in `src/lend.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(lend);
