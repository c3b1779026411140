//! What a device tree says about the machine, in the form that Exeunt works with.
//!
//! Fixed capacities and no references into the tree, so that it can be filled at start and kept in a static.

use core::fmt;

use super::names::Names;
use crate::uart::Uart;

/// A range of physical addresses, from `start` up to but not including `end`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Region {
    /// The first address.
    pub start: u64,
    /// The address after the last one.
    pub end: u64,
}

impl Region {
    /// `size` bytes from `start` on, or `None` if they go past the end of the address space.
    #[must_use]
    pub const fn new(start: u64, size: u64) -> Option<Self> {
        match start.checked_add(size) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// The whole pages of `page` bytes (a power of two) that this lies in, or `None` if they go past the end of the
    /// address space.
    #[must_use]
    pub const fn in_pages(self, page: u64) -> Option<Self> {
        match self.end.checked_next_multiple_of(page) {
            Some(end) => Some(Self { start: self.start & !(page - 1), end }),
            None => None,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether `address` lies in this.
    #[must_use]
    pub const fn has(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Whether all of `other` lies in this one.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

/// As Linux prints ranges in `/proc/iomem`: the last address included.
impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.end.saturating_sub(1))
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

/// A list with room for `N` elements. Dereferences to the slice of those that are there.
#[derive(Clone)]
pub struct List<T, const N: usize> {
    items: [T; N],
    length: usize,
}

impl<T: Copy, const N: usize> List<T, N> {
    /// A list without elements; `blank` fills the unused places.
    pub(super) const fn new(blank: T) -> Self {
        Self { items: [blank; N], length: 0 }
    }

    /// Appends an element and says whether there was room.
    #[must_use]
    pub(crate) fn push(&mut self, item: T) -> bool {
        match self.items.get_mut(self.length) {
            Some(place) => {
                *place = item;
                self.length += 1;
                true
            }
            None => false,
        }
    }

    /// Puts an element before the one at `index` and says whether there was room.
    #[must_use]
    pub(super) fn insert(&mut self, index: usize, item: T) -> bool {
        if index > self.length || !self.push(item) {
            return false;
        }
        self.items.copy_within(index..self.length - 1, index + 1);
        self.items[index] = item;
        true
    }

    /// Takes away the element at `index`.
    pub(super) fn remove(&mut self, index: usize) {
        if index < self.length {
            self.items.copy_within(index + 1..self.length, index);
            self.length -= 1;
        }
    }

    /// Takes away all elements.
    pub(super) fn clear(&mut self) {
        self.length = 0;
    }
}

impl<T, const N: usize> core::ops::Deref for List<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items[..self.length]
    }
}

impl<T, const N: usize> core::ops::DerefMut for List<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.length]
    }
}

impl<T: fmt::Debug, const N: usize> fmt::Debug for List<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().fmt(f)
    }
}

/// The instruction with which PSCI firmware is called: the `psci` node's `method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// `smc #0`: firmware at EL3.
    Smc,
    /// `hvc #0`: something else is at EL2.
    Hvc,
}

/// The generation of the interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// Memory-mapped CPU interface.
    V2(Gicv2),
    /// System-register CPU interface (also GICv4, which is the same to software here).
    V3,
}

/// Where the registers of a GICv2 are: the first two entries of its node's `reg` (Linux's binding `arm,gic.yaml`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gicv2 {
    /// Base address of the distributor, GICD.
    pub distributor: u64,
    /// Base address of the CPU interface, GICC.
    pub cpu_interface: u64,
}

/// A file that the loader put into memory and described under `/chosen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Where it is. This is the file's size: a kernel needs what its Image header says.
    pub region: Region,
    /// The value of the node's `bootargs`.
    pub(super) bootargs: Option<Value>,
}

impl Module {
    /// See [`Platform::UNREAD`].
    const UNREAD: Self = Self { region: Region { start: 0, end: 0 }, bootargs: None };

    /// The module's command line, without the terminating NUL, in the tree that was scanned.
    #[must_use]
    pub fn bootargs<'a>(&self, dtb: &'a [u8]) -> Option<&'a [u8]> {
        self.bootargs?.text(dtb)
    }
}

/// The machine, as far as Exeunt needs to know it.
#[derive(Clone, Debug)]
pub struct Platform {
    /// RAM, in ascending order; ranges that touch are one.
    pub memory: List<Region, { Self::MAX_MEMORY }>,
    /// The affinity fields of each usable CPU's MPIDR_EL1 (Aff0 to Aff2 and Aff3, at their bits), in the tree's order.
    pub cpus: List<u64, { Self::MAX_CPUS }>,
    /// How to call PSCI firmware of version 0.2 or later. `None`: there is none.
    pub psci: Option<Conduit>,
    /// The UART that `/chosen/stdout-path` names. `None`: it names none, or one of a kind that is not known.
    pub console: Option<Uart>,
    /// The interrupt controller. `None`: one that Exeunt does not know, or a GICv2 whose registers cannot be found.
    pub gic: Option<Gic>,
    /// The interrupt controller's registers (`reg`): its distributor's, then, of a GICv3, its regions of
    /// redistributors, then others; as far as they can be found.
    pub gic_registers: List<Region, { Self::MAX_GIC_REGISTERS }>,
    /// The BEGIN_NODE token of the architecture's timer.
    pub(super) timer_node: Option<u32>,
    /// The host's kernel: the module that is `multiboot,kernel`.
    pub kernel: Option<Module>,
    /// The host's initial RAM disk: the module that is `multiboot,ramdisk`.
    pub ramdisk: Option<Module>,
    /// The entries of the memory reservation block.
    pub reserved: List<Region, { Self::MAX_RESERVED }>,
    /// What `/reserved-memory` keeps for somebody and has as `no-map`: not even the host's linear map may have it. In
    /// ascending order; ranges that touch are one.
    pub no_map: List<Region, { Self::MAX_NO_MAP }>,
    /// What `/reserved-memory` keeps for somebody otherwise, in the same way.
    pub claimed: List<Region, { Self::MAX_CLAIMED }>,
    /// The address after the highest one that RAM, a device or a bus window of the machine has.
    pub highest: u64,
    /// `/chosen` has `linux,uefi-system-table`: the kernel that gets this tree knows what EFI reserved.
    pub efi: bool,
    /// A CPU has an `enable-method` other than `psci`: the host could start it without Exeunt noticing.
    pub cpu_without_psci: bool,
    /// `linux,initrd-start` and `-end` of `/chosen`: the loader passed an initial RAM disk as if Exeunt were a kernel.
    pub loader_initrd: Option<Region>,
    /// The value of `/chosen/bootargs`, which is Exeunt's own.
    pub(super) options: Option<Value>,
    /// What [`edit()`](super::edit()) needs to know.
    pub(super) layout: Layout,
}

impl Platform {
    /// Ranges of RAM that there is room for.
    pub const MAX_MEMORY: usize = 32;
    /// CPUs that there is room for.
    pub const MAX_CPUS: usize = 256;
    /// Entries of the memory reservation block that there is room for.
    pub const MAX_RESERVED: usize = 32;
    /// `no-map` ranges of `/reserved-memory` that there is room for. The trees of telephones have dozens, mostly side
    /// by side.
    pub const MAX_NO_MAP: usize = 64;
    /// Other ranges of `/reserved-memory` that there is room for.
    pub const MAX_CLAIMED: usize = 32;
    /// Interrupt translation services that there is room for.
    pub const MAX_ITS: usize = 16;
    /// Entries of the interrupt controller's `reg` that there is room for.
    pub const MAX_GIC_REGISTERS: usize = 4;
    /// `msi-map` and `msi-parent` properties that there is room for.
    pub const MAX_MSI: usize = 64;

    /// A platform of which nothing is known yet.
    pub const EMPTY: Self = Self {
        memory: List::new(Region { start: 0, end: 0 }),
        cpus: List::new(0),
        psci: None,
        console: None,
        gic: None,
        gic_registers: List::new(Region { start: 0, end: 0 }),
        timer_node: None,
        kernel: None,
        ramdisk: None,
        reserved: List::new(Region { start: 0, end: 0 }),
        no_map: List::new(Region { start: 0, end: 0 }),
        claimed: List::new(Region { start: 0, end: 0 }),
        highest: 0,
        efi: false,
        cpu_without_psci: false,
        loader_initrd: None,
        options: None,
        layout: Layout::EMPTY,
    };

    /// What a static holds until [`scan()`](super::scan()) overwrites all of it. It means nothing; but where
    /// [`Platform::EMPTY`] has bytes that are not zero, which would put kilobytes of zeroes around them into the image,
    /// this has zeroes too.
    pub const UNREAD: Self = Self {
        psci: Some(Conduit::Smc),
        console: Some(Uart::UNREAD),
        gic: Some(Gic::V2(Gicv2 { distributor: 0, cpu_interface: 0 })),
        kernel: Some(Module::UNREAD),
        ramdisk: Some(Module::UNREAD),
        layout: Layout::UNREAD,
        ..Self::EMPTY
    };

    /// A property of the node of the architecture's timer, in the tree that was scanned.
    #[must_use]
    pub fn timer_property<'a>(&self, dtb: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
        let mut rest = dtb.get(self.timer_node? as usize..)?.as_chunks::<4>().0;
        let mut next = |count: usize| {
            let (taken, others) = rest.split_at_checked(count)?;
            rest = others;
            Some(taken)
        };
        let number = |words: &[[u8; 4]]| words.first().map(|&word| u32::from_be_bytes(word));
        // BEGIN_NODE, and the name, whose last word ends in a zero.
        next(1)?;
        while number(next(1)?)? & 0xff != 0 {}
        loop {
            match number(next(1)?)? {
                PROP => {
                    let (length, string) = (number(next(1)?)? as usize, number(next(1)?)? as usize);
                    let value = next(length.div_ceil(4))?.as_flattened();
                    let text = dtb.get(self.layout.strings as usize..)?.get(string..)?;
                    if text.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0)) {
                        return value.get(..length);
                    }
                }
                NOP => {}
                _ => return None,
            }
        }
    }

    /// Exeunt's own options: `/chosen/bootargs` without the terminating NUL, in the tree that was scanned.
    #[must_use]
    pub fn options<'a>(&self, dtb: &'a [u8]) -> &'a [u8] {
        self.options.and_then(|value| value.text(dtb)).unwrap_or_default()
    }

    /// The host's initial RAM disk: the module, or what the loader passed as if Exeunt were a kernel.
    #[must_use]
    pub fn initrd(&self) -> Option<Region> {
        self.ramdisk.map(|module| module.region).or(self.loader_initrd)
    }

    /// How many bytes of RAM there are.
    #[must_use]
    pub fn memory_size(&self) -> u64 {
        self.memory.iter().map(|region| region.size()).sum()
    }
}

/// Tokens of the structure block (DTSpec 5.4.1).
const PROP: u32 = 3;
const NOP: u32 = 4;

/// Where a property's value is, in bytes from the start of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub at: u32,
    pub length: u32,
}

impl Value {
    /// The value.
    pub fn bytes(self, dtb: &[u8]) -> Option<&[u8]> {
        dtb.get(self.at as usize..)?.get(..self.length as usize)
    }

    /// The value as a string: up to the first NUL.
    pub fn text(self, dtb: &[u8]) -> Option<&[u8]> {
        self.bytes(dtb)?.split(|&byte| byte == 0).next()
    }
}

/// A part of the structure block, in bytes from the start of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub start: u32,
    pub end: u32,
}

/// `#address-cells` and `#size-cells`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cells {
    pub address: u8,
    pub size: u8,
}

/// `/chosen`, for the edit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen {
    /// Behind the last property.
    pub properties_end: u32,
    /// Behind the END_NODE token.
    pub end: u32,
    /// Properties that the host must not see as they are.
    pub bootargs: Option<Span>,
    pub initrd_start: Option<Span>,
    pub initrd_end: Option<Span>,
}

/// `/reserved-memory`, for the edit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    /// Behind the last property.
    pub properties_end: u32,
    /// The END_NODE token.
    pub close: u32,
    pub address_cells: Option<u8>,
    pub size_cells: Option<u8>,
    pub has_ranges: bool,
}

/// A property that names interrupt translation services.
#[derive(Clone, Copy, Debug)]
pub(super) struct Msi {
    pub property: Span,
    /// It is an `msi-map`, not an `msi-parent`.
    pub is_map: bool,
}

/// An interrupt translation service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Its {
    pub node: Span,
    pub phandle: Option<u32>,
}

/// Where the parts of the tree are that the edit changes. Offsets are in bytes from the start of the tree.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// All of the tree that is in use: the end of the strings block.
    pub used: u32,
    /// The memory reservation block.
    pub reservations: u32,
    pub struct_size: u32,
    pub strings: u32,
    pub strings_size: u32,
    pub root_cells: Cells,
    pub names: Names,
    pub chosen: Option<Chosen>,
    pub kernel: Option<Span>,
    pub kernel_bootargs: Option<Span>,
    pub ramdisk: Option<Span>,
    pub reserved: Option<Reserved>,
    pub its: List<Its, { Platform::MAX_ITS }>,
    pub msi: List<Msi, { Platform::MAX_MSI }>,
}

impl Layout {
    const EMPTY: Self = Self {
        used: 0,
        reservations: 0,
        struct_size: 0,
        strings: 0,
        strings_size: 0,
        root_cells: Cells { address: 0, size: 0 },
        names: Names::EMPTY,
        chosen: None,
        kernel: None,
        kernel_bootargs: None,
        ramdisk: None,
        reserved: None,
        its: List::new(Its { node: Span { start: 0, end: 0 }, phandle: None }),
        msi: List::new(Msi { property: Span { start: 0, end: 0 }, is_map: false }),
    };

    /// See [`Platform::UNREAD`].
    const UNREAD: Self = Self {
        names: Names::UNREAD,
        chosen: Some(Chosen { properties_end: 0, end: 0, bootargs: None, initrd_start: None, initrd_end: None }),
        reserved: Some(Reserved {
            properties_end: 0,
            close: 0,
            address_cells: None,
            size_cells: None,
            has_ranges: false,
        }),
        ..Self::EMPTY
    };
}
