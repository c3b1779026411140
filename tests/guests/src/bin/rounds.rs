//! Instruction counts for `make bench`. The test itself is in `src/rounds.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(rounds, stays_at_el2);
