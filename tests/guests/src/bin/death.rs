//! An Exeunt that dies on a CPU, in each place of its code. The test itself is in `src/death.rs`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(death);
