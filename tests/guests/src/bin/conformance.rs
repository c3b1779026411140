//! Every call of the ABI of EL2 in every state. The test itself is in `src/conformance`.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(conformance, stays_at_el2);
