//! Links the EL2 binary: position independent, at address 0, laid out by `boot/exeunt.ld`. Does nothing for a build for
//! the workstation.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=../boot/exeunt.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    // `-z notext`: the precompiled `core` keeps addresses in read-only data; they are relocated before stage 1 makes it
    // so.
    for argument in [
        &format!("-T{here}/../boot/exeunt.ld"),
        "-pie",
        "-znotext",
        "--pack-dyn-relocs=relr",
        "--no-dynamic-linker",
        "-zmax-page-size=4096",
        "--build-id=none",
        "--hash-style=sysv",
        // Where debug information describes a function that was discarded, it names this address and not 0, which is
        // Exeunt's entry: a debugger would mistake the one for the other.
        "-zdead-reloc-in-nonalloc=.debug_*=0xffffffffffffffff",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
