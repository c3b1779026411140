//! Virtual EL2 as the host sees it, and what it does to hardware.
