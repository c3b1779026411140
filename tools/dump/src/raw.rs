//! Memory out of a file that is nothing else: QEMU's `pmemsave`, or a box alone.
//!
//! Owns how the address of the first byte is found when nobody says it: by a box, which knows its own.

use std::fs::File;

use guest_abi::blackbox::{Header, MAGIC, SIZE};

use crate::{Memory, length_of, read_some};

/// Such a file.
#[derive(Debug)]
pub struct Raw {
    file: File,
    base: u64,
    length: u64,
}

impl Raw {
    /// Opens it. Without `base`, the first box in it tells where it lies.
    ///
    /// # Errors
    /// It cannot be read, or its boxes do not agree; in words.
    pub fn open(file: File, base: Option<u64>) -> Result<Self, String> {
        let length = length_of(&file)?;
        if let Some(base) = base {
            if !base.is_multiple_of(SIZE as u64) {
                return Err(format!("{base:#x} is no multiple of 64 KiB, as which memory has to begin here"));
            }
            base.checked_add(length).ok_or("memory ends before that")?;
            return Ok(Self { file, base, length });
        }
        let mut bases = Vec::new();
        let mut damaged = String::new();
        for offset in (0..length).step_by(SIZE) {
            let mut bytes = [0; Header::SIZE];
            let read = read_some(&file, offset, &mut bytes).map_err(|error| error.to_string())?;
            if !bytes.starts_with(&MAGIC.to_le_bytes()) {
                continue;
            }
            match Header::read(&bytes[..read]) {
                Ok(header) => bases.extend(header.address.checked_sub(offset)),
                Err(error) => damaged = format!("at offset {offset:#x}: {error}"),
            }
        }
        bases.sort_unstable();
        bases.dedup();
        match bases[..] {
            [base] if base.checked_add(length).is_some() => Ok(Self { file, base, length }),
            [] | [_] if !damaged.is_empty() => Err(damaged),
            [] | [_] => Err("no dump that is known here (an ELF, or one of makedumpfile's), and taken as memory it \
                             has no black box"
                .to_owned()),
            _ => {
                let words: Vec<String> = bases.iter().map(|base| format!("{base:#x}")).collect();
                Err(format!(
                    "its boxes do not agree where this memory begins: {}; --base=ADDRESS says it",
                    words.join(", ")
                ))
            }
        }
    }
}

impl Memory for Raw {
    fn places(&self) -> Vec<u64> {
        (0..self.length).step_by(SIZE).map(|offset| self.base + offset).collect()
    }

    fn read(&self, places: &[u64], length: usize) -> Result<Vec<Option<Vec<u8>>>, String> {
        let one = |&place: &u64| {
            let Some(offset) = place.checked_sub(self.base).filter(|&offset| offset < self.length) else {
                return Ok(None);
            };
            let mut bytes = vec![0; length];
            let read = read_some(&self.file, offset, &mut bytes).map_err(|error| error.to_string())?;
            Ok((read == length).then_some(bytes))
        };
        places.iter().map(one).collect()
    }
}
