//! Every system register that the ID registers promise. The test itself is in `src/sysregs.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(sysregs);
