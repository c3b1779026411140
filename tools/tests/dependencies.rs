//! What the project depends on: under which licences, and that all of it is used.

#[allow(dead_code, reason = "nothing here looks at a build")]
mod common;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::root;
use exeunt_tools::rooms::files_below;
use serde_json::Value;

/// What is built for: the image and the guests, the programs in the host, and the workstation's.
fn targets() -> [String; 3] {
    let workstation = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    ["aarch64-unknown-none-softfloat".to_owned(), "aarch64-unknown-linux-musl".to_owned(), workstation]
}

/// Licences under which a dependency may be taken: they ask for no more than that they are named.
const LICENCES: [&str; 10] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Others, each looked at: docs/dependencies.md says what they ask for.
const OTHERS: [(&str, &str); 2] = [("fdt", "MPL-2.0"), ("libbz2-rs-sys", "bzip2-1.0.6")];

/// All packages by their id, as cargo knows them for `target`.
fn packages(target: &str) -> Vec<Value> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--format-version=1", "--locked", "--filter-platform", target];
    let output = Command::new(cargo).current_dir(root()).args(arguments).output().expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let mut all: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let used: Vec<String> = list(&all["resolve"]["nodes"]).iter().map(|node| text(&node["id"]).to_owned()).collect();
    let packages = all["packages"].take();
    list(&packages).iter().filter(|package| used.iter().any(|id| id == text(&package["id"]))).cloned().collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether what an SPDX expression says can be met by [`LICENCES`]: one side of each OR, and both of each AND.
fn is_allowed(licence: &str) -> bool {
    let plain = |part: &str| part.trim().trim_matches(['(', ')']).trim().to_owned();
    // Before SPDX became usual a slash meant OR. In an AND of ORs each stands in brackets.
    let licence = licence.replace('/', " OR ");
    if licence.contains('(') {
        return licence.split(" AND ").all(|part| is_allowed(&plain(part)));
    }
    licence.split(" OR ").any(|side| side.split(" AND ").all(|part| LICENCES.contains(&&*plain(part))))
}

#[test]
fn licences_are_known_ones() {
    let mut found = BTreeMap::new();
    for target in targets() {
        for package in packages(&target) {
            found.insert(text(&package["name"]).to_owned(), text(&package["license"]).to_owned());
        }
    }
    assert!(found.len() > 50, "only {} packages are found", found.len());
    let is_other = |name: &str, licence: &str| OTHERS.contains(&(name, licence));
    let wrong: Vec<_> =
        found.iter().filter(|(name, licence)| !is_allowed(licence) && !is_other(name, licence)).collect();
    assert!(wrong.is_empty(), "licences that nobody has looked at: {wrong:?}");
}

#[test]
fn dependencies_are_used() {
    let packages = packages(&targets()[2]);
    // The name by which code calls a package.
    let names: BTreeMap<&str, &str> = packages
        .iter()
        .filter_map(|package| {
            let library = list(&package["targets"]).iter().find(|target| {
                list(&target["kind"]).iter().any(|kind| matches!(text(kind), "lib" | "proc-macro" | "rlib"))
            })?;
            Some((text(&package["name"]), text(&library["name"])))
        })
        .collect();
    let (mut count, mut unused) = (0, Vec::new());
    for package in packages.iter().filter(|package| package["source"].is_null()) {
        let manifest = Path::new(text(&package["manifest_path"]));
        let folder = manifest.parent().expect("a manifest is in a folder");
        let sources: String = files_below(folder, &["rs"])
            .expect("the sources can be listed")
            .iter()
            .map(|path| fs::read_to_string(path).expect("a source can be read"))
            .collect();
        for dependency in list(&package["dependencies"]) {
            count += 1;
            let name = text(&dependency["name"]);
            let called = names.get(name).copied().unwrap_or(name).replace('-', "_");
            if !sources.contains(&*called) {
                unused.push(format!("{}: {name}", text(&package["name"])));
            }
        }
    }
    assert!(count > 30, "only {count} dependencies are found");
    assert!(unused.is_empty(), "dependencies that nothing uses: {unused:?}");
}

#[test]
fn expressions_are_understood() {
    for fine in ["MIT", "MIT OR Apache-2.0", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"]
    {
        assert!(is_allowed(fine), "{fine}");
    }
    for wrong in ["", "GPL-2.0", "MIT AND GPL-2.0", "(MIT OR Apache-2.0) AND GPL-3.0", "MPL-2.0"] {
        assert!(!is_allowed(wrong), "{wrong}");
    }
}
