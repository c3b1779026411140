//! Links the guests as position-independent arm64 Images: `scripts/run` and the bad-input tests load them at several
//! addresses. The packages in examples/ name this file as theirs.

use std::env;

fn main() {
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    // From wherever the package is, at the same depth.
    let script = format!("{folder}/../../tests/guests/image.ld");
    println!("cargo::rerun-if-changed={script}");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    // `notext`: absolute pointers in read-only data (vtables, tables of strings) are relocated at start as well.
    for argument in [
        &format!("--script={script}"),
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
