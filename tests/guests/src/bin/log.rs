//! Prints Exeunt's log. The test itself is in `src/log.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(log);
