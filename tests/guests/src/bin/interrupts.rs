//! Interrupts that are pending while the host is in virtual EL2. The test itself is in `src/interrupts.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(interrupts, stays_at_el2);
