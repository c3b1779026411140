//! The records that calls write into the caller's memory: fixed layout, little-endian, versioned.
//!
//! Owns the layouts. A record is read and written through bytes, so that neither side needs `unsafe` or the right
//! alignment. Each has a table of its fields for the documentation.

/// One field of a record.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Bytes from the record's start.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// What it says: its documentation.
    pub meaning: &'static str,
}

/// How a field is in bytes.
pub(crate) trait Plain: Sized {
    fn put(self, bytes: &mut [u8]);
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(impl Plain for $type {
            fn put(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }

            fn get(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<Self>()];
                own.copy_from_slice(bytes);
                Self::from_le_bytes(own)
            }
        })*
    };
}

plain!(u8, u16, u32, u64);

impl<T: Plain + Copy + Default, const N: usize> Plain for [T; N] {
    fn put(self, bytes: &mut [u8]) {
        for (value, bytes) in self.into_iter().zip(bytes.chunks_exact_mut(size_of::<T>())) {
            value.put(bytes);
        }
    }

    fn get(bytes: &[u8]) -> Self {
        let mut values = [T::default(); N];
        for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(size_of::<T>())) {
            *value = T::get(bytes);
        }
        values
    }
}

macro_rules! record {
    (
        $(#[doc = $doc:literal])* $name:ident: $size:literal bytes;
        $($(#[doc = $meaning:literal])* $field:ident: $type:ty,)*
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct $name {
            $($(#[doc = $meaning])* pub $field: $type,)*
        }

        // The layout is part of the contract, and without padding every byte of it has a name.
        const _: () = assert!(size_of::<$name>() == $size);
        const _: () = assert!(0 $(+ size_of::<$type>())* == $size);

        impl Default for $name {
            fn default() -> Self {
                Self::from_bytes(&[0; $size])
            }
        }

        impl $name {
            /// Bytes.
            pub const SIZE: usize = $size;

            /// The fields, in their order.
            pub const FIELDS: &[Field] = &[$(Field {
                name: stringify!($field),
                offset: core::mem::offset_of!($name, $field),
                size: size_of::<$type>(),
                meaning: concat!($($meaning),*),
            },)*];

            /// As in memory.
            #[must_use]
            pub fn to_bytes(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                $({
                    const OFFSET: usize = core::mem::offset_of!($name, $field);
                    self.$field.put(&mut bytes[OFFSET..OFFSET + size_of::<$type>()]);
                })*
                bytes
            }

            /// From memory.
            #[must_use]
            pub fn from_bytes(bytes: &[u8; $size]) -> Self {
                Self {
                    $($field: {
                        const OFFSET: usize = core::mem::offset_of!($name, $field);
                        <$type as Plain>::get(&bytes[OFFSET..OFFSET + size_of::<$type>()])
                    },)*
                }
            }
        }
    };
}

pub(crate) use record;

/// [`StatusHeader::magic`]: "EXST" in memory.
pub const STATUS_MAGIC: u32 = u32::from_le_bytes(*b"EXST");

/// [`StatusHeader::version`]. A reader that knows version n reads any later one too: fields are only ever added, at the
/// end of the header or of a CPU's part, whose sizes the header says.
pub const STATUS_VERSION: u16 = 1;

/// How many counters [`StatusCpu::exits`] has room for.
pub const EXIT_CLASSES: usize = 12;

/// What each of [`StatusCpu::exits`] counts; those without a name are 0.
pub const EXIT_NAMES: [&str; 8] =
    ["smc", "hvc", "data abort", "instruction abort", "system register", "undefined", "other", "interrupt"];

const _: () = assert!(EXIT_NAMES.len() <= EXIT_CLASSES);

/// [`StatusCpu::flags`], bit 0: EL2 was handed to the host's KVM.
pub const CPU_LENT_TO_KVM: u16 = 1 << 0;
/// [`StatusCpu::flags`], bit 1: the host is still in virtual EL2; it has not yet gone to EL1.
pub const CPU_IN_VIRTUAL_EL2: u16 = 1 << 1;
/// [`StatusCpu::flags`], bit 2: Exeunt has died on the CPU, and has not come back to it since.
pub const CPU_DIED: u16 = 1 << 2;
/// [`StatusCpu::flags`], bit 3: the watchdog watches it, and its ticks are among the exits by an interrupt.
pub const CPU_WATCHED: u16 = 1 << 3;

record! {
    /// What STATUS writes first.
    StatusHeader: 64 bytes;
    /// "EXST"
    magic: u32,
    /// version of the record, 1
    version: u16,
    /// bytes of this header
    header_size: u16,
    /// bytes that the record would have with all CPUs
    record_size: u32,
    /// bytes of one CPU's part
    cpu_size: u16,
    /// CPUs of the machine
    cpus: u16,
    /// number of the first CPU after this header
    first_cpu: u16,
    /// how many CPUs follow this header
    described: u16,
    /// 0
    reserved: u32,
    /// the summary that x2 has
    summary: u64,
    /// CNTPCT_EL0 when the record was made
    time: u64,
    /// CNTFRQ_EL0: ticks per second
    frequency: u64,
    /// position of the log's end: bytes written since the start
    log_end: u64,
    /// bytes of the log that are kept
    log_size: u64,
}

record! {
    /// One CPU in STATUS's record.
    StatusCpu: 128 bytes;
    /// affinity, as in MPIDR_EL1 and in the device tree
    mpidr: u64,
    /// what the CPU's EL2 is: 0 off, 1 stub, 2 live, 3 leaving, 4 gone
    state: u8,
    /// Exception level at which the host's first instruction ran on it: 0 none yet, 1, or 2 for virtual EL2
    entry_level: u8,
    /// bit 0: lent to KVM; bit 1: the host is still in virtual EL2; bit 2: Exeunt has died on it
    flags: u16,
    /// 0
    reserved: u32,
    /// exits to EL2 by class: smc, hvc, data abort, instruction abort, system register, undefined, other, interrupt;
    /// four unused
    exits: [u64; EXIT_CLASSES],
    /// VBAR_EL2 that the host has set, 0 if none
    host_vectors: u64,
    /// how often Exeunt left this CPU; a CPU that was off and was then started without Exeunt counts as left when it
    /// comes back
    departures: u32,
    /// how often it came back by REENTER
    returns: u32,
}

/// CPUs that STATUS can describe in one page.
pub const CPUS_IN_PAGE: usize = (crate::vendor::PAGE as usize - StatusHeader::SIZE) / StatusCpu::SIZE;

/// Size of STATUS's record for this many CPUs.
#[must_use]
pub const fn status_size(cpus: u16) -> u32 {
    (StatusHeader::SIZE + cpus as usize * StatusCpu::SIZE) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of which no two neighbours are alike.
    fn pattern<const N: usize>() -> [u8; N] {
        core::array::from_fn(|index| (index * 37 + 11) as u8)
    }

    #[test]
    fn records_are_the_same_after_a_way_through_memory() {
        assert_eq!(StatusHeader::from_bytes(&pattern()).to_bytes(), pattern());
        assert_eq!(StatusCpu::from_bytes(&pattern()).to_bytes(), pattern());
    }

    #[test]
    fn fields_are_where_the_table_says_and_little_endian() {
        let header =
            StatusHeader { record_size: 0x0403_0201, log_end: 0x1122_3344_5566_7788, ..StatusHeader::default() };
        let bytes = header.to_bytes();
        assert_eq!(bytes[8..12], [1, 2, 3, 4]);
        assert_eq!(bytes[48..56], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        let mut cpu = StatusCpu { returns: 5, ..StatusCpu::default() };
        cpu.exits[1] = 0x0102;
        let bytes = cpu.to_bytes();
        assert_eq!((bytes[24], bytes[25], bytes[124]), (2, 1, 5));
        assert_eq!(bytes.iter().filter(|&&byte| byte != 0).count(), 3);
    }

    #[test]
    fn fields_fill_their_record_without_a_gap() {
        for (size, fields) in [(StatusHeader::SIZE, StatusHeader::FIELDS), (StatusCpu::SIZE, StatusCpu::FIELDS)] {
            let end = fields.iter().fold(0, |end, field| {
                assert_eq!(field.offset, end, "{}", field.name);
                end + field.size
            });
            assert_eq!(end, size);
        }
    }

    #[test]
    fn the_magic_reads_as_text() {
        assert_eq!(&StatusHeader { magic: STATUS_MAGIC, ..StatusHeader::default() }.to_bytes()[..4], b"EXST");
    }
}
