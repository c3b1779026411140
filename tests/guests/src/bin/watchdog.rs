//! The watchdog of Exeunt. The test itself is in `src/watchdog.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(watchdog);
