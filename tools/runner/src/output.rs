//! The directories that runs write into.
//!
//! Owns the rule that nothing of a person's is ever removed: what a run clears away lies in a directory that carries
//! this program's marker. A directory with other people's files in it gets no marker.
//!
//! A run keeps what the one before it has left in the directory [`PREVIOUS`], and removes what that one had kept.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Marks a directory as one of ours, and says so to who finds it. Its lock is held while a run uses the directory.
const MARKER: &str = ".exeunt-run";
const WORDS: &str = "This directory belongs to Exeunt's runner. Its next run moves what is here to `previous`, and \
                     removes what is there.\n";
/// Where in its directory a run keeps what the one before it has left.
pub const PREVIOUS: &str = "previous";

/// A directory that this run has to itself.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    /// Locked.
    _marker: File,
}

/// Why a directory cannot be used.
#[derive(Debug)]
pub enum Error {
    /// It has files in it and no marker.
    NotOurs(PathBuf),
    /// Another run has it.
    InUse(PathBuf),
    /// Its file system refuses.
    Io(PathBuf, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs(path) => write!(
                f,
                "{} has files in it that no run has made, and is left alone; \
                 name an empty directory, or one that is not there",
                path.display()
            ),
            Self::InUse(path) => write!(f, "{}: another machine is using it", path.display()),
            Self::Io(path, error) => write!(f, "{} cannot be written to: {error}", path.display()),
        }
    }
}

impl Output {
    /// Takes the directory at `path` and makes it if need be. What an earlier run has left stays.
    ///
    /// # Errors
    /// See [`Error`]. Nothing was changed then.
    pub fn take(path: &Path) -> Result<Self, Error> {
        let io = |error| Error::Io(path.to_owned(), error);
        let marker = path.join(MARKER);
        if !marker.exists() && path.exists() && fs::read_dir(path).map_err(io)?.next().is_some() {
            return Err(Error::NotOurs(path.to_owned()));
        }
        fs::create_dir_all(path).map_err(io)?;
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&marker).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        file.set_len(0).and_then(|()| file.write_all(WORDS.as_bytes())).map_err(io)?;
        Ok(Self { path: path.to_owned(), _marker: file })
    }

    /// Takes the first of `path`, `path-2`, `path-3` and so on that no other run has. One that has files in it and no
    /// marker is renamed first, and `say` told: earlier versions of this program made directories without one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn take_one_of(path: &Path, say: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        let mut number = 1;
        loop {
            let name = numbered(path, number);
            match Self::take(&name) {
                Err(Error::InUse(_)) => number += 1,
                Err(Error::NotOurs(_)) => {
                    let mut other = name.clone().into_os_string();
                    other.push(".old");
                    let free =
                        (1..u32::MAX).map(|number| numbered(Path::new(&other), number)).find(|free| !free.exists());
                    let free = free.unwrap_or(other.into());
                    fs::rename(&name, &free).map_err(|error| Error::Io(name.clone(), error))?;
                    say(&format!(
                        "{} has files in it that no run has made: it is {} now",
                        name.display(),
                        free.display()
                    ));
                }
                done => return done,
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes room: what the run before has left goes to [`PREVIOUS`], and what was there is removed. Whether something
    /// was kept.
    ///
    /// # Errors
    /// See [`Error::Io`].
    pub fn clear(&self) -> Result<bool, Error> {
        let io = |error| Error::Io(self.path.clone(), error);
        let previous = self.path.join(PREVIOUS);
        // A link is removed, and not what it leads to.
        match fs::symlink_metadata(&previous) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&previous).map_err(io)?,
            Ok(_) => fs::remove_file(&previous).map_err(io)?,
            Err(_) => {}
        }
        let mut kept = false;
        for entry in fs::read_dir(&self.path).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            if name == MARKER {
                continue;
            }
            fs::create_dir_all(&previous).map_err(io)?;
            fs::rename(self.path.join(&name), previous.join(&name)).map_err(io)?;
            kept = true;
        }
        Ok(kept)
    }
}

/// `path` itself for 1, `path-2` for 2 and so on.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    if number > 1 {
        name.push(format!("-{number}"));
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("exeunt-output-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_persons_directory_is_left_alone() {
        let place = Temporary::new("persons");
        fs::write(place.0.join("thesis"), "words").unwrap();
        let error = Output::take(&place.0).unwrap_err();
        assert!(matches!(error, Error::NotOurs(_)), "{error}");
        assert_eq!(fs::read_dir(&place.0).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(place.0.join("thesis")).unwrap(), "words");
    }

    #[test]
    fn what_a_run_has_made_is_kept_until_the_next_but_one() {
        let place = Temporary::new("ours");
        let elsewhere = Temporary::new("elsewhere");
        fs::write(elsewhere.0.join("thesis"), "words").unwrap();
        let path = place.0.join("run");
        let output = Output::take(&path).unwrap();
        assert!(!output.clear().unwrap(), "there is nothing to keep");
        fs::write(output.file("console.log"), "first").unwrap();
        fs::create_dir_all(output.file("overlay/next")).unwrap();
        std::os::unix::fs::symlink(&elsewhere.0, output.file("link")).unwrap();
        std::os::unix::fs::symlink(&elsewhere.0, output.file(PREVIOUS)).unwrap();
        drop(output);
        let output = Output::take(&path).unwrap();
        assert!(output.file("console.log").exists(), "taking it removes nothing");
        assert!(output.clear().unwrap());
        assert_eq!(fs::read_to_string(output.file("previous/console.log")).unwrap(), "first");
        assert!(output.file("previous/link").is_symlink());
        assert!(!output.file("console.log").exists() && !output.file("overlay").exists());
        fs::write(output.file("console.log"), "second").unwrap();
        assert!(output.clear().unwrap());
        assert_eq!(fs::read_to_string(output.file("previous/console.log")).unwrap(), "second");
        assert!(!output.file("previous/overlay").exists());
        // Neither as something to keep nor as the place for it was a link followed.
        assert_eq!(fs::read_dir(&elsewhere.0).unwrap().count(), 1);
        assert!(elsewhere.0.join("thesis").exists());
    }

    #[test]
    fn what_is_in_the_way_of_the_usual_place_is_renamed() {
        let place = Temporary::new("way");
        let path = place.0.join("run");
        for round in ["run.old", "run.old-2"] {
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("thesis"), round).unwrap();
            let mut said = String::new();
            let output = Output::take_one_of(&path, &mut |line| line.clone_into(&mut said)).unwrap();
            assert_eq!(output.path(), path);
            assert!(said.ends_with(&format!("it is {} now", place.0.join(round).display())), "{said}");
            assert_eq!(fs::read_to_string(place.0.join(round).join("thesis")).unwrap(), round);
            fs::remove_dir_all(&path).unwrap();
        }
    }

    #[test]
    fn two_runs_do_not_share_one() {
        let place = Temporary::new("two");
        let first = Output::take(&place.0.join("run")).unwrap();
        assert!(matches!(Output::take(first.path()), Err(Error::InUse(_))));
        let second = Output::take_one_of(first.path(), &mut |_| ()).unwrap();
        assert_eq!(second.path(), place.0.join("run-2"));
        drop(first);
        assert_eq!(Output::take_one_of(&place.0.join("run"), &mut |_| ()).unwrap().path(), place.0.join("run"));
    }

    #[test]
    fn a_read_only_place_says_so() {
        let file = Temporary::new("file");
        fs::write(file.0.join("taken"), "").unwrap();
        let error = Output::take(&file.0.join("taken/run")).unwrap_err();
        assert!(error.to_string().contains("cannot be written to"), "{error}");
    }
}
