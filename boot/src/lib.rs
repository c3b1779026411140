//! What runs before the hypervisor: Image header, EL2 entry, secondary entry.
#![no_std]
