//! The directories that runs write into.
//!
//! Owns the rule that nothing of a person's is ever removed: what a run clears away lies in a directory that carries
//! this program's marker, and was listed there by name. A directory with other people's files in it gets no marker.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Marks a directory as one of ours, and says so to who finds it. Its lock is held while a run uses the directory.
const MARKER: &str = ".exeunt-run";
const WORDS: &str = "This directory belongs to Exeunt's runner, which removes what is in it when it runs again.\n";

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

    /// Takes the first of `path`, `path-2`, `path-3` and so on that no other run has.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn take_one_of(path: &Path) -> Result<Self, Error> {
        let mut number = 1;
        loop {
            let mut name = path.as_os_str().to_owned();
            if number > 1 {
                name.push(format!("-{number}"));
            }
            match Self::take(Path::new(&name)) {
                Err(Error::InUse(_)) => number += 1,
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

    /// Removes what an earlier run has left, all but the marker.
    ///
    /// # Errors
    /// See [`Error::Io`].
    pub fn clear(&self) -> Result<(), Error> {
        let io = |error| Error::Io(self.path.clone(), error);
        for entry in fs::read_dir(&self.path).map_err(io)? {
            let entry = entry.map_err(io)?;
            if entry.file_name() == MARKER {
                continue;
            }
            // A link is removed, and not what it leads to.
            if entry.file_type().map_err(io)?.is_dir() {
                fs::remove_dir_all(entry.path()).map_err(io)?;
            } else {
                fs::remove_file(entry.path()).map_err(io)?;
            }
        }
        Ok(())
    }
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
    fn what_a_run_has_made_is_cleared_and_nothing_behind_a_link() {
        let place = Temporary::new("ours");
        let elsewhere = Temporary::new("elsewhere");
        fs::write(elsewhere.0.join("thesis"), "words").unwrap();
        let output = Output::take(&place.0.join("run")).unwrap();
        fs::write(output.file("console.log"), "lines").unwrap();
        fs::create_dir_all(output.file("overlay/next")).unwrap();
        std::os::unix::fs::symlink(&elsewhere.0, output.file("link")).unwrap();
        drop(output);
        let output = Output::take(&place.0.join("run")).unwrap();
        assert!(output.file("console.log").exists(), "taking it removes nothing");
        output.clear().unwrap();
        assert_eq!(fs::read_dir(output.path()).unwrap().count(), 1);
        assert!(elsewhere.0.join("thesis").exists());
    }

    #[test]
    fn two_runs_do_not_share_one() {
        let place = Temporary::new("two");
        let first = Output::take(&place.0.join("run")).unwrap();
        assert!(matches!(Output::take(first.path()), Err(Error::InUse(_))));
        let second = Output::take_one_of(first.path()).unwrap();
        assert_eq!(second.path(), place.0.join("run-2"));
        drop(first);
        assert_eq!(Output::take_one_of(&place.0.join("run")).unwrap().path(), place.0.join("run"));
    }

    #[test]
    fn a_read_only_place_says_so() {
        let file = Temporary::new("file");
        fs::write(file.0.join("taken"), "").unwrap();
        let error = Output::take(&file.0.join("taken/run")).unwrap_err();
        assert!(error.to_string().contains("cannot be written to"), "{error}");
    }
}
