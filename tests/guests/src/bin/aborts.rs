//! Loads, stores, branches and page-table walks into Exeunt's memory. The test itself is in `src/aborts.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(aborts);
