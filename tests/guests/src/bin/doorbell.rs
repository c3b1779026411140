//! The doorbell, accesses of every kind to it, and LEAVE by it. The test itself is in `src/doorbell`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(doorbell);
