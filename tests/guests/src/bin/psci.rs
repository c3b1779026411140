//! PSCI calls by name. The test itself is in `src/psci.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(psci);
