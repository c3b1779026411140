//! Links the guests as position-independent arm64 Images: `scripts/run` and the bad-input tests load them at several
//! addresses.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=image.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    // `notext`: absolute pointers in read-only data (vtables, tables of strings) are relocated at start as well.
    for argument in [
        &format!("--script={folder}/image.ld"),
        "-pie",
        "--no-dynamic-linker",
        "-znotext",
        "-znorelro",
        "--hash-style=sysv",
        "--gc-sections",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
