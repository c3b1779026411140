//! An Exeunt that breaks under its host. The test itself is in `src/broken.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(broken);
