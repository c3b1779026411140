//! Boxes that were never written by EL2: a boot, a kexec and a crash, made up.
