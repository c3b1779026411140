//! The debug information of the host's kernel: SYMBOLS=.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::kconfig;
use crate::settings::Kernel;
use crate::variables::Values;
use crate::workstation::Places;

/// Where it comes from.
#[derive(Clone, Debug)]
pub enum Symbols {
    /// Debian's debug package of the kernel with this name.
    Fetched(String),
    /// A person's vmlinux.
    File(PathBuf),
}

impl Symbols {
    /// What SYMBOLS says, for this kernel.
    ///
    /// # Errors
    /// In words.
    pub fn read(values: &Values, kernel: &Kernel) -> Result<Option<Self>, String> {
        match (values.get("SYMBOLS"), kernel) {
            (None | Some("0"), _) => Ok(None),
            (Some("1"), Kernel::Named(name)) => Ok(Some(Self::Fetched(name.clone()))),
            (Some("1"), Kernel::File(image)) => {
                // The ELF of a build lies at the top of its tree.
                let vmlinux = kconfig::tree_of(image).map(|tree| tree.join("vmlinux")).filter(|path| path.is_file());
                match vmlinux {
                    Some(vmlinux) => Ok(Some(Self::File(vmlinux))),
                    None => Err("SYMBOLS=1: of a file Debian has none; SYMBOLS= takes your vmlinux".to_owned()),
                }
            }
            (Some(path), _) => {
                let mut magic = [0; 4];
                match File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
                    Ok(()) if magic == *b"\x7fELF" => Ok(Some(Self::File(path.into()))),
                    Err(_) if !std::path::Path::new(path).is_file() => {
                        Err(format!("SYMBOLS={path}: it is 1, or a vmlinux"))
                    }
                    _ => Err(format!("SYMBOLS={path}: no ELF; a build leaves it as vmlinux at the top of its tree")),
                }
            }
        }
    }

    /// The part of set-up that fetches it.
    #[must_use]
    pub fn part(&self) -> Option<String> {
        match self {
            Self::Fetched(name) => Some(format!("debug:{name}")),
            Self::File(_) => None,
        }
    }

    /// The vmlinux.
    #[must_use]
    pub fn file(&self, places: &Places) -> PathBuf {
        match self {
            Self::Fetched(name) => places.target().join("guest/debug").join(name).join("vmlinux"),
            Self::File(file) => file.clone(),
        }
    }
}
