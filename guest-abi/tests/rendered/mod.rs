//! Files that are rendered from the sources, for the tests that keep them current.

use std::fs;
use std::path::Path;

/// Fails unless the file at `path` below the workspace holds `text`, and shows the first line that differs. With
/// UPDATE_DOCS in the environment the file is written first.
pub fn assert_current(path: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, text).expect("a rendered file can be written");
    }
    let written = fs::read_to_string(&file).expect("a rendered file is there");
    if written == text {
        return;
    }
    let same = written.lines().zip(text.lines()).take_while(|(old, new)| old == new).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(the end)").to_owned();
    panic!(
        "{path} is stale: UPDATE_DOCS=1 cargo test --package {} --test {}\nline {}: {}\nis now:  {}",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_CRATE_NAME"),
        same + 1,
        line(&written),
        line(text)
    );
}
