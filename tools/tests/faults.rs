//! The places where tests can make Exeunt die: each stands in the sources once, and a build for people has none.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{build, root};
use hypervisor::faults::PLACES;

/// How often each place stands in the image's sources.
fn in_the_sources() -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for file in fs::read_dir(root().join("exeunt/src")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for part in text.split("fault_point!(\"").skip(1) {
            let (name, _) = part.split_once('"').unwrap();
            *places.entry(name.to_owned()).or_default() += 1;
        }
    }
    places
}

#[test]
fn each_place_stands_in_the_sources_once() {
    let sources = in_the_sources();
    let wrong: Vec<_> = PLACES.iter().filter(|&&name| sources.get(name) != Some(&1)).collect();
    assert!(wrong.is_empty(), "not there, or more than once: {wrong:?}");
    assert_eq!(sources.len(), PLACES.len(), "places that hypervisor/src/faults.rs does not name");
}

/// A word that is in a build with faults and in no other.
const WORDS: &[u8] = b"no fault was taken at ";

#[test]
fn only_a_build_for_the_tests_has_places_to_die() {
    let has = |profile: &str| {
        let image = fs::read(build(profile).bin).unwrap();
        image.windows(WORDS.len()).any(|window| window == WORDS)
    };
    assert!(has("faults"), "the build with faults has none");
    assert!(!has("release") && !has("debug"), "a build for people has faults");
}
