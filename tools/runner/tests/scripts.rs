//! The scripts that work without cargo, in a clone of their own that has nothing but them.
//!
//! Owns what it makes below the directory for temporary files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A clone's scripts, and its own target/.
struct Clone(PathBuf);

impl Clone {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("exeunt-scripts-{}-{name}", std::process::id()));
        let scripts = root.join("scripts");
        fs::create_dir_all(&scripts).unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts");
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), scripts.join(entry.file_name())).unwrap();
            }
        }
        Self(root)
    }

    /// A file below target/, and the directories that it takes.
    fn with(self, file: &str) -> Self {
        let file = self.0.join("target").join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "words").unwrap();
        self
    }

    fn run(&self, script: &str, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(self.0.join("scripts").join(script));
        let Output { status, stderr, .. } = command.args(arguments).output().unwrap();
        (status.code().unwrap_or(-1), String::from_utf8(stderr).unwrap())
    }

    fn has(&self, file: &str) -> bool {
        self.0.join("target").join(file).exists()
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn with_everything(name: &str) -> Clone {
    [
        "debug/runner",
        "exeunt-release.bin",
        "run/.exeunt-run",
        "run/console.log",
        "kdump-2/.exeunt-run",
        "tests/people/shell/machine-1/.exeunt-run",
        "guest/kernels/6.12/vmlinuz",
        "qemu-7.2/qemu-system-aarch64",
        "debian/disk.qcow2",
        "thesis/chapter-1",
        "run.old/console.log",
    ]
    .into_iter()
    .fold(Clone::new(name), Clone::with)
}

#[test]
fn clean_removes_what_was_made_and_nothing_else() {
    let clone = with_everything("clean");
    let (status, said) = clone.run("clean", &[]);
    assert_eq!(status, 0, "{said}");
    for gone in ["debug", "exeunt-release.bin", "run", "kdump-2", "tests"] {
        assert!(!clone.has(gone) && said.contains(&format!("removing target/{gone} (")), "{gone}: {said}");
    }
    for left in ["guest/kernels/6.12/vmlinuz", "qemu-7.2", "debian/disk.qcow2", "thesis/chapter-1", "run.old"] {
        assert!(clone.has(left), "{left}: {said}");
    }
    assert!(said.contains("left in target/: debian guest qemu-7.2 run.old thesis"), "{said}");

    let (status, said) = clone.run("clean", &["downloads"]);
    assert_eq!(status, 0, "{said}");
    assert!(!clone.has("guest") && !clone.has("qemu-7.2"), "{said}");
    assert!(clone.has("debian/disk.qcow2") && clone.has("thesis/chapter-1"), "{said}");
}

#[test]
fn clean_waits_for_a_machine_that_runs() {
    let clone = with_everything("busy");
    let mark = fs::File::open(clone.0.join("target/kdump-2/.exeunt-run")).unwrap();
    mark.lock().unwrap();
    let (status, said) = clone.run("clean", &[]);
    assert_eq!(status, 125, "{said}");
    assert!(said.contains("a machine is running in target/kdump-2: nothing was removed"), "{said}");
    assert!(clone.has("debug/runner") && clone.has("run/console.log"));
}

#[test]
fn clean_of_a_fresh_clone_has_nothing_to_do() {
    let clone = Clone::new("fresh");
    let (status, said) = clone.run("clean", &[]);
    assert_eq!((status, said.as_str()), (0, "exeunt: there is no target/: nothing to remove\n"));
    assert_eq!(clone.run("clean", &["everything"]).0, 125);
}

/// As where a clone lies on a read-only file system: the cause is said, and not what failed for it.
#[test]
fn a_target_that_cannot_be_made_is_said_by_all() {
    let clone = Clone::new("read-only");
    fs::write(clone.0.join("target"), "no directory").unwrap();
    for script in ["run", "kexec", "kdump", "soak", "gdb", "setup", "build"] {
        let (status, said) = clone.run(script, &[]);
        assert_eq!(status, 125, "{script}: {said}");
        assert_eq!(said, "exeunt: target/ cannot be made: File exists\n", "{script}");
    }
}
