//! Where Exeunt is, as the device tree tells it.

use std::fs;
use std::io;
use std::path::Path;

use guest_abi::RESERVATION;

use crate::trouble::Trouble;

/// The device tree of the running kernel.
pub const TREE: &str = "/proc/device-tree";

/// What the tree says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Address of Exeunt's 2 MiB.
    pub base: u64,
    /// Address of the black box's core, if there is one.
    pub core: Option<u64>,
    /// Address of the black box's first byte, and its size.
    pub black_box: Option<(u64, u64)>,
}

/// Looks for Exeunt in the tree at `tree`.
///
/// # Errors
/// [`Trouble::NoExeunt`], [`Trouble::Tree`], [`Trouble::BadTree`].
pub fn find(tree: &Path) -> Result<Place, Trouble> {
    // Without a tree nothing can be said; a tree without the node says that there is none.
    fs::read_dir(tree).map_err(|error| Trouble::Tree(tree.to_owned(), error))?;
    let reserved = tree.join("reserved-memory");
    let entries = match fs::read_dir(&reserved) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Trouble::NoExeunt),
        Err(error) => return Err(Trouble::Tree(reserved, error)),
    };
    let (mut base, mut core, mut black_box) = (None, None, None);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with("exeunt@") {
            base = Some(reg(&reserved, &entry.path())?.0);
        } else if let Some(address) = name.strip_prefix("exeunt-box@") {
            let address = u64::from_str_radix(address, 16);
            core = Some(address.map_err(|_| Trouble::BadTree(format!("the name {name} is no address")))?);
            black_box = Some(reg(&reserved, &entry.path())?);
        }
    }
    let base = base.ok_or(Trouble::NoExeunt)?;
    if !base.is_multiple_of(RESERVATION) || base.checked_add(RESERVATION).is_none() {
        return Err(Trouble::BadTree(format!("its address {base:#x} is no multiple of 2 MiB with 2 MiB after it")));
    }
    Ok(Place { base, core, black_box })
}

/// Address and size in a node's `reg`.
fn reg(parent: &Path, node: &Path) -> Result<(u64, u64), Trouble> {
    let read = |path: &Path| fs::read(path).map_err(|error| Trouble::Tree(path.to_owned(), error));
    let cells = |name: &str, usual: usize| match fs::read(parent.join(name)) {
        Ok(bytes) => bytes.try_into().map_or(usual, |bytes| u32::from_be_bytes(bytes) as usize),
        Err(_) => usual,
    };
    let (address, size) = (cells("#address-cells", 2), cells("#size-cells", 2));
    let path = node.join("reg");
    let bytes = read(&path)?;
    let number = |first: usize, count: usize| {
        let bytes = bytes.get(4 * first..4 * (first + count)).filter(|_| (1..=2).contains(&count))?;
        Some(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    };
    number(0, address)
        .zip(number(address, size))
        .ok_or_else(|| Trouble::BadTree(format!("{} has {} bytes", path.display(), bytes.len())))
}
