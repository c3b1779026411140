//! Every system instruction in virtual EL2. The test itself is in `src/encodings.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(encodings, stays_at_el2);
