//! Where an arm64 Linux keeps its crash kernel: `crashk_res` and `crashk_low_res` in the kernel's data.
//!
//! Both are a `struct resource` (include/linux/ioport.h) with the name "Crash kernel" (kernel/kexec_core.c, since 6.9
//! kernel/crash_reserve.c). They look like this in Linux 5.10 to 7.2:
//!
//! | offset | field | value |
//! |---|---|---|
//! | 0 | `start` | the first byte of the memory; 0 without |
//! | 8 | `end` | the last byte; 0 without |
//! | 16 | `name` | the virtual address of "Crash kernel" |
//! | 24 | `flags` | IORESOURCE_BUSY, IORESOURCE_SYSTEM_RAM |
//! | 32 | `desc` | IORES_DESC_CRASH_KERNEL |
//!
//! The image lies in one piece of physical memory, and virtual addresses in it are physical ones plus a constant. One
//! address in the kernel's text, virtual and physical, is enough for that: the image begins at the Image header
//! (booting.rst) below it. The kernel knows the memory before its first PSCI call: `setup_arch` reserves it in
//! `arm64_memblock_init` or `bootmem_init`, and calls `psci_dt_init` after both.

use super::Ram;
use crate::devicetree::Region;
use crate::paging::PAGE_SIZE;

/// IORESOURCE_BUSY | IORESOURCE_SYSRAM | IORESOURCE_MEM.
const FLAGS: u64 = 0x8100_0200;
/// IORES_DESC_CRASH_KERNEL.
const DESC: u64 = 1;
/// What `name` points to.
const NAME: [u8; 13] = *b"Crash kernel\0";

/// Where the fields are.
mod field {
    pub const START: u64 = 0;
    pub const END: u64 = 8;
    pub const NAME: u64 = 16;
    pub const FLAGS: u64 = 24;
    pub const DESC: u64 = 32;
}

/// An image begins `text_offset` after a multiple of this, and since 5.8 `text_offset` is 0.
const BASE_ALIGNMENT: u64 = 2 << 20;

/// No image is larger: the distance that a branch bridges limits text and modules together to this, and Debian's have
/// less than a third of it.
const MAX_IMAGE: u64 = 128 << 20;

/// Where the header's fields are, and its magic number in the low word of what is there.
mod header {
    pub const IMAGE_SIZE: u64 = 16;
    pub const MAGIC: u64 = 56;
    pub const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"ARM\x64");
}

/// The two resources lie in one compilation unit: so far behind the one that was found first the other is not looked
/// for.
const APART: u64 = 4 * PAGE_SIZE;

/// A Linux in the host's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its image, BSS included.
    pub image: Region,
    /// A virtual address in it minus the physical one, modulo 2^64.
    pub offset: u64,
}

/// A Linux that has memory for a crash kernel, or would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashKernel {
    kernel: Kernel,
    /// The physical addresses of the two `struct resource`; 0 where there is none.
    resources: [u64; 2],
}

impl Kernel {
    /// The Linux whose text has `address`, at the virtual address `virtual_address`.
    #[must_use]
    pub fn around(address: u64, virtual_address: u64, ram: &impl Ram) -> Option<Self> {
        let mut base = address & !(BASE_ALIGNMENT - 1);
        loop {
            if ram.word(base + header::MAGIC)? as u32 == header::MAGIC_VALUE {
                let size = ram.word(base + header::IMAGE_SIZE)?;
                let image = Region { start: base, end: base.checked_add(size)? };
                let fits = size <= MAX_IMAGE && image.has(address) && ram.has(image);
                return fits.then_some(Self { image, offset: virtual_address.wrapping_sub(address) });
            }
            base = base.checked_sub(BASE_ALIGNMENT).filter(|base| address - base < MAX_IMAGE)?;
        }
    }

    /// Looks for the two resources, from the end of the image on: they are in its data.
    #[must_use]
    pub fn crash_kernel(self, ram: &impl Ram) -> Option<CrashKernel> {
        let mut found = CrashKernel { kernel: self, resources: [0; 2] };
        let mut page = self.image.end.wrapping_sub(1) & !(PAGE_SIZE - 1);
        let mut first = self.image.start;
        while page >= first && page != 0 {
            let mut from = page;
            while let Some(at) = ram.position(from, FLAGS).filter(|&at| at >= from && at - page < PAGE_SIZE) {
                let resource = at - field::FLAGS;
                if found.read(resource, ram).is_ok() {
                    let [one, other] = &mut found.resources;
                    match (*one, *other) {
                        (0, _) => *one = resource,
                        (_, 0) => *other = resource,
                        _ => return None,
                    }
                    first = first.max(page.saturating_sub(APART));
                }
                from = (at & !15) + 16;
                if from - page >= PAGE_SIZE {
                    break;
                }
            }
            page -= PAGE_SIZE;
        }
        (found.resources[0] != 0).then_some(found)
    }

    /// The physical address of a virtual one, if that is in the image, with `size` bytes after it.
    fn translate(self, address: u64, size: u64) -> Option<u64> {
        let address = address.wrapping_sub(self.offset);
        let end = address.checked_add(size)?;
        (address >= self.image.start && end <= self.image.end).then_some(address)
    }

    /// Whether `text` is at `address`.
    fn has_text(address: u64, text: &[u8], ram: &impl Ram) -> bool {
        let mut word = (u64::MAX, 0);
        (address..).zip(text).all(|(at, &byte)| {
            if word.0 != at & !7 {
                word = (at & !7, ram.word(at & !7).unwrap_or_default());
            }
            word.1.to_le_bytes()[(at & 7) as usize] == byte
        })
    }
}

impl CrashKernel {
    /// The memory that each resource names now; nothing if one is no resource any more, so that this kernel is not
    /// there any more.
    #[must_use]
    pub fn regions(&self, ram: &impl Ram) -> Option<[Option<Region>; 2]> {
        let [one, other] = self.resources;
        let read = |resource| if resource == 0 { Ok(None) } else { self.read(resource, ram) };
        Some([read(one).ok()?, read(other).ok()?])
    }

    /// The physical addresses of the two `struct resource`; 0 where there is none.
    #[must_use]
    pub const fn resources(&self) -> [u64; 2] {
        self.resources
    }

    /// The kernel.
    #[must_use]
    pub const fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The memory that the resource at `resource` names, if it names any.
    fn read(&self, resource: u64, ram: &impl Ram) -> Result<Option<Region>, NoResource> {
        let word = |offset: u64| resource.checked_add(offset).and_then(|at| ram.word(at)).ok_or(NoResource);
        if word(field::FLAGS)? != FLAGS || word(field::DESC)? != DESC {
            return Err(NoResource);
        }
        let name = self.kernel.translate(word(field::NAME)?, NAME.len() as u64).ok_or(NoResource)?;
        if !Kernel::has_text(name, &NAME, ram) {
            return Err(NoResource);
        }
        match (word(field::START)?, word(field::END)?) {
            (0, 0) => Ok(None),
            // What a shrink to nothing leaves.
            (start, end) if end.wrapping_add(1) == start => Ok(None),
            (start, end) => {
                let region = Region { start, end: end.wrapping_add(1) };
                let aligned = start.is_multiple_of(PAGE_SIZE) && region.end.is_multiple_of(PAGE_SIZE);
                let apart = !region.overlaps(self.kernel.image);
                let fits = region.start < region.end && aligned && apart && ram.has(region);
                fits.then_some(Some(region)).ok_or(NoResource)
            }
        }
    }
}

/// There is no such resource.
struct NoResource;
