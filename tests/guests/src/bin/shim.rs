//! Stands in for firmware that hands Exeunt bad input. The test itself is in `src/shim.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(shim, stays_at_el2);
