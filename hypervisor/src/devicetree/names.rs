//! The property names that Exeunt knows, and where a tree's strings block has them.
//!
//! A property refers to its name by an offset into the strings block, and equal names share one. So strings are
//! compared once for each name, and not for each property.

/// Defines [`Name`] and its texts.
macro_rules! names {
    ($($name:ident = $text:literal,)*) => {
        /// A property name that Exeunt knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Name { $($name,)* }

        impl Name {
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; COUNT] = [$(Self::$name,)*];

            /// The name as it stands in the strings block, with its terminating NUL.
            pub const fn terminated(self) -> &'static [u8] {
                match self { $(Self::$name => concat!($text, "\0").as_bytes(),)* }
            }

            /// The name.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        /// How many there are.
        const COUNT: usize = [$($text,)*].len();
    };
}

names! {
    AddressCells = "#address-cells",
    SizeCells = "#size-cells",
    Bootargs = "bootargs",
    Compatible = "compatible",
    DeviceType = "device_type",
    DmaNotCovered = "exeunt,dma-not-covered",
    EnableMethod = "enable-method",
    InitrdEnd = "linux,initrd-end",
    InitrdStart = "linux,initrd-start",
    Method = "method",
    MsiMap = "msi-map",
    MsiParent = "msi-parent",
    NoMap = "no-map",
    Phandle = "phandle",
    LinuxPhandle = "linux,phandle",
    Ranges = "ranges",
    Reg = "reg",
    RegIoWidth = "reg-io-width",
    RegOffset = "reg-offset",
    RegShift = "reg-shift",
    Status = "status",
    StdoutPath = "stdout-path",
    LinuxStdoutPath = "linux,stdout-path",
    UefiSystemTable = "linux,uefi-system-table",
}

/// The offset of a name that the tree does not have.
const ABSENT: u32 = u32::MAX;

/// Where the strings block has each [`Name`].
#[derive(Clone, Debug)]
pub(super) struct Names {
    at: [u32; COUNT],
}

impl Names {
    /// Of a tree of which nothing has been read.
    pub const EMPTY: Self = Self { at: [ABSENT; COUNT] };

    /// See [`Platform::UNREAD`](super::Platform::UNREAD).
    pub const UNREAD: Self = Self { at: [0; COUNT] };

    /// Which of the known names stands at `offset`, if any.
    fn compare(&mut self, strings: &[u8], offset: u32) -> Option<Name> {
        /// A name's first four bytes as a number, which is quicker to tell from others than a string.
        const fn head(text: [u8; 4]) -> u32 {
            u32::from_be_bytes(text)
        }
        const ADDRESS_CELLS: u32 = head(*b"#add");
        const SIZE_CELLS: u32 = head(*b"#siz");
        const BOOTARGS: u32 = head(*b"boot");
        const COMPATIBLE: u32 = head(*b"comp");
        const DEVICE_TYPE: u32 = head(*b"devi");
        const ENABLE_METHOD: u32 = head(*b"enab");
        const LINUX: u32 = head(*b"linu");
        const METHOD: u32 = head(*b"meth");
        const MSI: u32 = head(*b"msi-");
        const NO_MAP: u32 = head(*b"no-m");
        const PHANDLE: u32 = head(*b"phan");
        const RANGES: u32 = head(*b"rang");
        const REG: u32 = head(*b"reg\0");
        const REG_: u32 = head(*b"reg-");
        const STATUS: u32 = head(*b"stat");
        const STDOUT_PATH: u32 = head(*b"stdo");

        let rest = strings.get(offset as usize..)?;
        let candidates: &[Name] = match head(*rest.first_chunk()?) {
            ADDRESS_CELLS => &[Name::AddressCells],
            SIZE_CELLS => &[Name::SizeCells],
            BOOTARGS => &[Name::Bootargs],
            COMPATIBLE => &[Name::Compatible],
            DEVICE_TYPE => &[Name::DeviceType],
            ENABLE_METHOD => &[Name::EnableMethod],
            LINUX => {
                &[Name::InitrdStart, Name::InitrdEnd, Name::LinuxPhandle, Name::LinuxStdoutPath, Name::UefiSystemTable]
            }
            METHOD => &[Name::Method],
            MSI => &[Name::MsiMap, Name::MsiParent],
            NO_MAP => &[Name::NoMap],
            PHANDLE => &[Name::Phandle],
            RANGES => &[Name::Ranges],
            REG => &[Name::Reg],
            REG_ => &[Name::RegIoWidth, Name::RegOffset, Name::RegShift],
            STATUS => &[Name::Status],
            STDOUT_PATH => &[Name::StdoutPath],
            _ => return None,
        };
        let name = *candidates.iter().find(|name| rest.starts_with(name.terminated()))?;
        self.at[name as usize] = offset;
        Some(name)
    }

    /// The offset of `name` for a property that is to be written. One that the tree lacks goes to the end of the
    /// strings block, whose size is `*block`.
    pub fn offset_for_writing(&mut self, name: Name, block: &mut u32) -> u32 {
        let at = &mut self.at[name as usize];
        if *at == ABSENT {
            *at = *block;
            *block += name.terminated().len() as u32;
        }
        *at
    }

    /// The names that [`Self::offset_for_writing`] added after a block of `old_block` bytes, with their offsets.
    pub fn added(&self, old_block: u32) -> impl Iterator<Item = (u32, Name)> {
        Name::ALL
            .into_iter()
            .map(|name| (self.at[name as usize], name))
            .filter(move |&(at, _)| at != ABSENT && at >= old_block)
    }
}

/// What has been found out about offsets into the strings block, unknown names too.
///
/// Direct-mapped: an offset has one place, and the later of two that share it wins.
pub(super) struct Cache {
    /// The offset in the upper 24 bits, and below it one more than the name's number, [`Self::UNKNOWN`], or 0 for
    /// nothing yet.
    places: [u32; Self::PLACES],
}

impl Cache {
    /// Twice as many as QEMU's trees have names.
    const PLACES: usize = 128;

    /// A name that means nothing to Exeunt.
    const UNKNOWN: u32 = 0xff;

    /// Nothing is known yet.
    pub const EMPTY: Self = Self { places: [0; Self::PLACES] };

    /// Which of the known names stands at `offset`, if any. `strings` must end with a NUL, and be no longer than a tree
    /// may be.
    #[inline]
    pub fn look_up(&mut self, names: &mut Names, strings: &[u8], offset: u32) -> Option<Name> {
        let place = &mut self.places[offset as usize % Self::PLACES];
        if *place >> 8 != offset || *place == 0 {
            let number = names.compare(strings, offset).map_or(Self::UNKNOWN, |name| name as u32 + 1);
            *place = offset << 8 | number;
        }
        Name::ALL.get((*place & 0xff).wrapping_sub(1) as usize).copied()
    }
}

// Offsets have 24 bits in the cache.
const _: () = assert!(super::MAX_SIZE <= 1 << 24);
