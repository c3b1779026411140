//! The changes to the tree, in place, before the host gets it.
//!
//! What the host must not see is cut out, what it needs is put in, and the rest moves together: no FDT_NOP stays
//! behind, because not every reader copes with one (to the `fdt` crate a tree ends there). All changes are planned and
//! counted before the first byte is written, so that a tree without room for them stays as it is.
//!
//! To add another node or property: one more [`Put`], what it writes in [`Writer::put`] (which also counts it), and
//! where it goes in [`Plan::make`].

use super::names::{Name, Names};
use super::platform::{Cells, Layout, List, Platform, Region, Reserved, Span};
use super::{TreeError, token, words};

/// What the tree shall say to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edits {
    /// The memory that the host must never touch: becomes a `no-map` child of `/reserved-memory`, without what is
    /// [`Self::blackbox`].
    pub exeunt: Region,
    /// The end of that memory which the host may read, so that its dumps have it: becomes a child without `no-map`.
    pub blackbox: Region,
    /// The host's initial RAM disk.
    pub initrd: Option<Region>,
    /// Take the GIC's interrupt translation services out, and what refers to them.
    ///
    /// Linux cannot turn LPIs off once they are on. Over a kexec without EFI, which would keep their tables reserved,
    /// they overwrite the next kernel's memory; a kernel that knows of no ITS never turns them on.
    pub hide_its: bool,
    /// Words for the host's command line, which come before its own, so that of two that contradict each other the
    /// host's counts. May be empty.
    pub arguments: &'static [u8],
}

impl Edits {
    /// What the host of this machine needs, with Exeunt in the memory `exeunt`, of which `blackbox` is the end.
    #[must_use]
    pub fn new(platform: &Platform, exeunt: Region, blackbox: Region) -> Self {
        Self { exeunt, blackbox, initrd: platform.initrd(), hide_its: !platform.efi, arguments: &[] }
    }
}

/// Changes the tree at the start of `buffer`, of which `platform` is the scan, and returns how many bytes of it are in
/// use now. The total size that the header says is more, if there was room left: what lies in between has no meaning.
///
/// - The kernel's and the RAM disk's module nodes go.
/// - `/chosen/bootargs`, which was Exeunt's, becomes the kernel module's, or goes if that has none.
///   [`Edits::arguments`] stand in front of it.
/// - `linux,initrd-start` and `-end` are set, or go.
/// - `/reserved-memory` gets Exeunt's memory, with a property that says what devices can write to all the same, and the
///   black box at its end as a node of its own. An entry of the memory
///   reservation block that is in it goes: before 6.4 Linux reads the block first, and then leaves what is reserved in
///   its memory map.
/// - The ITS nodes go, and each `msi-map` and `msi-parent` that refers to one, if [`Edits::hide_its`] says so.
///
/// The total size grows only if the tree has no room left. `buffer` may be longer than the tree and is the limit for
/// that. Offsets in `platform` are those of the tree before the edit: do not use it with the tree afterwards.
///
/// # Errors
///
/// [`TreeError::NoChosen`], [`TreeError::ReservedMemory`], [`TreeError::CellsTooSmall`], [`TreeError::NoRoom`], and
/// [`TreeError::Changed`] for a tree that is not the one of the scan. The tree is untouched then.
pub fn edit(buffer: &mut [u8], platform: &Platform, edits: &Edits) -> Result<usize, TreeError> {
    let layout = &platform.layout;
    let total = super::total_size(buffer)?;
    let used = layout.used;
    let expected = [(STRUCT_SIZE, layout.struct_size), (STRINGS, layout.strings), (STRINGS_SIZE, layout.strings_size)];
    if used as usize > total
        || total > buffer.len()
        || expected.iter().any(|&(field, value)| read(buffer, field) != value)
    {
        return Err(TreeError::Changed);
    }
    let mut splices = NO_SPLICES;
    let mut plan = Plan {
        lift: None,
        splices: &mut splices,
        writing: Writing { names: layout.names.clone(), strings_size: layout.strings_size, layout, edits },
        end: 0,
    };
    plan.make(buffer)?;
    let needed = (plan.end + plan.writing.strings_size - layout.strings_size) as usize;
    if needed > buffer.len() {
        return Err(TreeError::NoRoom { needed, available: buffer.len() });
    }

    drop_reservations(buffer, platform, edits.exeunt);
    if let Some(Lift { to, property }) = plan.lift {
        put_last_first(&mut buffer[to as usize..property.end as usize], (property.end - property.start) as usize);
        let length = to as usize + 4;
        // Nobody vouches for what is there: somebody may have changed it since the scan.
        write(buffer, length, read(buffer, length).wrapping_add(padded(edits.arguments) as u32));
    }
    plan.move_what_stays(buffer, used);
    for splice in plan.splices.iter() {
        let place = &mut buffer[splice.to as usize..][..splice.put() as usize];
        Writer { writing: &mut plan.writing, place: Some(place), at: 0 }.put(splice.what);
    }
    // The strings block is the end of what is in use.
    let strings = plan.end - layout.strings_size;
    for (offset, name) in plan.writing.names.added(layout.strings_size) {
        let text = name.terminated();
        buffer[(strings + offset) as usize..][..text.len()].copy_from_slice(text);
    }

    write(buffer, TOTAL_SIZE, total.max(needed) as u32);
    write(buffer, STRUCT_SIZE, layout.struct_size + plan.end - used);
    write(buffer, STRINGS, strings);
    write(buffer, STRINGS_SIZE, plan.writing.strings_size);
    Ok(needed)
}

/// Takes the entries that lie in `exeunt` out of the memory reservation block, which keeps its size.
fn drop_reservations(buffer: &mut [u8], platform: &Platform, exeunt: Region) {
    let block = platform.layout.reservations as usize;
    let entries = buffer.get_mut(block..).unwrap_or_default().as_chunks_mut::<RESERVATION>().0;
    // The entries and the zeros after them.
    let Some(entries) = entries.get_mut(..=platform.reserved.len()) else { return };
    for (index, region) in platform.reserved.iter().enumerate().rev() {
        if exeunt.contains(*region) {
            entries.copy_within(index + 1.., index);
        }
    }
}

/// Puts the last `length` bytes before the others: the result of [`slice::rotate_right`] at a tenth of its size, for a
/// few bytes.
fn put_last_first(bytes: &mut [u8], length: usize) {
    bytes.reverse();
    for half in <[_; 2]>::from(bytes.split_at_mut(length)) {
        half.reverse();
    }
}

/// The black box's `compatible`.
const BOX_COMPATIBLE: &[u8] = b"exeunt,black-box";

/// What Exeunt keeps from the CPUs and not from devices, which no SMMU stops: its own memory, the black box, and the
/// memory of the host's crash kernel. For drivers and people that let others aim a device.
const DMA_NOT_COVERED: &[u8] = b"exeunt\0black-box\0crash-kernel";

/// Bytes of an entry of the memory reservation block (DTSpec 5.3.2).
const RESERVATION: usize = 16;

// Offsets of the header's fields (DTSpec 5.2).
const TOTAL_SIZE: usize = 4;
const STRINGS: usize = 12;
const STRINGS_SIZE: usize = 32;
const STRUCT_SIZE: usize = 36;

/// The header field at `offset`. There is a header.
fn read(buffer: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes([buffer[offset], buffer[offset + 1], buffer[offset + 2], buffer[offset + 3]])
}

/// Sets the header field at `offset`.
fn write(buffer: &mut [u8], offset: usize, value: u32) {
    buffer[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
}

/// Something that is put into the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    /// Nothing: something goes instead.
    Nothing,
    /// The beginning of a command line, inside of the property that has the rest.
    Arguments,
    /// A command line, as a property.
    Bootargs,
    /// The properties of `/chosen` that say where the initial RAM disk is.
    Initrd,
    /// A `/reserved-memory` with Exeunt's memory and the black box.
    ReservedMemory,
    /// What Linux wants of a `/reserved-memory` and this one lacks.
    ReservedProperties,
    /// Exeunt's memory and the black box, as children of the `/reserved-memory` that is there.
    ReservedChild,
}

/// A change at one place: something goes, or something comes. Offsets and lengths are in bytes; all but `to` are those
/// of the tree after the [`Lift`] and before everything else.
#[derive(Clone, Copy, Debug)]
struct Splice {
    at: u32,
    length: u32,
    /// Where it goes in the new tree.
    to: u32,
    what: Put,
}

impl Splice {
    /// How much goes.
    fn cut(self) -> u32 {
        if self.what == Put::Nothing { self.length } else { 0 }
    }

    /// How much comes.
    fn put(self) -> u32 {
        if self.what == Put::Nothing { 0 } else { self.length }
    }
}

/// The kernel module's `bootargs` become those of `/chosen` by being moved there, ahead of all child nodes.
///
/// The property's bytes trade places with what lies between, which needs no memory and changes no length.
#[derive(Clone, Copy, Debug)]
struct Lift {
    to: u32,
    property: Span,
}

impl Lift {
    /// Where what began at `at` begins after the move.
    fn start(self, at: u32) -> u32 {
        if at < self.to || at >= self.property.end {
            at
        } else if at < self.property.start {
            at + (self.property.end - self.property.start)
        } else {
            at - self.property.start + self.to
        }
    }

    /// Where `span` is after the move.
    fn span(self, span: Span) -> Span {
        let (to, length) = (self.to, self.property.end - self.property.start);
        // An end is not inside of what it ends, so it is not for `start`.
        let end = if span.end > to && span.end <= self.property.start { span.end + length } else { span.end };
        Span { start: self.start(span.start), end }
    }
}

/// How many splices there can be: one for each ITS node and for each reference to one, five others that go and four
/// that come.
const MAX_SPLICES: usize = Platform::MAX_ITS + Platform::MAX_MSI + 9;

/// A constant, so that it is not put together on the stack first.
const NO_SPLICES: List<Splice, MAX_SPLICES> = List::new(Splice { at: 0, length: 0, to: 0, what: Put::Nothing });

/// All changes, in the order of their places.
struct Plan<'a> {
    lift: Option<Lift>,
    /// Kept by whoever makes the plan, so that it is not copied: it is most of what the edit needs on the stack.
    splices: &'a mut List<Splice, MAX_SPLICES>,
    writing: Writing<'a>,
    /// Where the old strings end in the new tree.
    end: u32,
}

impl Plan<'_> {
    /// Plans all changes of the tree in `buffer`.
    fn make(&mut self, buffer: &[u8]) -> Result<(), TreeError> {
        let Writing { layout, edits, .. } = self.writing;
        let chosen = layout.chosen.ok_or(TreeError::NoChosen)?;
        self.lift = layout.kernel_bootargs.map(|property| Lift { to: chosen.properties_end, property });
        if self.lift.is_some_and(|lift| lift.to > lift.property.start || lift.property.end > layout.used) {
            return Err(TreeError::Changed);
        }
        let gone = [chosen.bootargs, chosen.initrd_start, chosen.initrd_end, layout.kernel, layout.ramdisk];
        for span in gone.into_iter().flatten() {
            self.cut(span)?;
        }
        if edits.hide_its {
            for its in layout.its.iter() {
                self.cut(its.node)?;
            }
            for msi in layout.msi.iter() {
                // The value follows the token, the length and the name (DTSpec 5.4.1).
                let value = buffer.get(msi.property.start as usize + 12..msi.property.end as usize);
                if refers_to_its(value.ok_or(TreeError::Changed)?, msi.is_map, layout) {
                    self.cut(msi.property)?;
                }
            }
        }

        if !edits.arguments.is_empty() {
            match self.lift {
                // Behind the token, the length and the name.
                Some(lift) => self.put(lift.to + 12, Put::Arguments)?,
                None => self.put(chosen.properties_end, Put::Bootargs)?,
            }
        }
        if edits.initrd.is_some() {
            let length = self.lift.map_or(0, |lift| lift.property.end - lift.property.start);
            self.put(chosen.properties_end + length, Put::Initrd)?;
        }
        layout.root_cells.check(edits.exeunt)?;
        match layout.reserved {
            None => self.put(chosen.end, Put::ReservedMemory)?,
            Some(reserved) => {
                // Linux's __reserved_mem_check_root (drivers/of/of_reserved_mem.c) wants the root's cells, and
                // `ranges`.
                let Cells { address, size } = layout.root_cells;
                if reserved.address_cells.is_some_and(|cells| cells != address)
                    || reserved.size_cells.is_some_and(|cells| cells != size)
                {
                    return Err(TreeError::ReservedMemory);
                }
                self.put(self.lifted(reserved.properties_end), Put::ReservedProperties)?;
                self.put(self.lifted(reserved.close), Put::ReservedChild)?;
            }
        }
        self.lay_out(layout.used)
    }

    /// Where what begins at `at` begins after the lift.
    fn lifted(&self, at: u32) -> u32 {
        self.lift.map_or(at, |lift| lift.start(at))
    }

    /// Plans to take `span` out.
    fn cut(&mut self, span: Span) -> Result<(), TreeError> {
        let Span { start, end } = self.lift.map_or(span, |lift| lift.span(span));
        let length = end.checked_sub(start).filter(|_| end <= self.writing.layout.used).ok_or(TreeError::Changed)?;
        self.add(Splice { at: start, length, to: 0, what: Put::Nothing })
    }

    /// Plans to put `what` in at `at`.
    fn put(&mut self, at: u32, what: Put) -> Result<(), TreeError> {
        let mut writer = Writer { writing: &mut self.writing, place: None, at: 0 };
        writer.put(what);
        let length = writer.at as u32;
        self.add(Splice { at, length, to: 0, what })
    }

    /// Puts `splice` to its place among the others: at the same place, what comes goes first.
    fn add(&mut self, splice: Splice) -> Result<(), TreeError> {
        let index = self.splices.partition_point(|other| (other.at, other.cut()) <= (splice.at, splice.cut()));
        if self.splices.insert(index, splice) { Ok(()) } else { Err(TreeError::Changed) }
    }

    /// Finds out where everything goes, in a tree of which the first `used` bytes are in use.
    fn lay_out(&mut self, used: u32) -> Result<(), TreeError> {
        // What has been dealt with of the old tree, and where the next byte of it goes in the new one.
        let (mut from, mut to) = (0, 0);
        let mut index = 0;
        while let Some(splice) = self.splices.get_mut(index) {
            if splice.at < from {
                // Something that goes, within something larger that goes.
                if splice.put() != 0 || splice.at + splice.cut() > from {
                    return Err(TreeError::Changed);
                }
                self.splices.remove(index);
                continue;
            }
            to += splice.at - from;
            splice.to = to;
            to += splice.put();
            from = splice.at + splice.cut();
            index += 1;
        }
        self.end = to + used.checked_sub(from).ok_or(TreeError::Changed)?;
        Ok(())
    }

    /// Moves everything that stays to where it goes.
    ///
    /// The parts keep their order, so that a part which moves down never lands on one further up that has not moved,
    /// nor one that moves up on one further down: first all that move down, from the bottom, then all that move up,
    /// from the top.
    fn move_what_stays(&self, buffer: &mut [u8], used: u32) {
        let part = |index: usize, splice: &Splice| {
            let end = self.splices.get(index + 1).map_or(used, |next| next.at);
            ((splice.at + splice.cut()) as usize, end as usize, (splice.to + splice.put()) as usize)
        };
        for (index, splice) in self.splices.iter().enumerate() {
            let (start, end, to) = part(index, splice);
            if to < start {
                words::move_bytes(buffer, start, end, to);
            }
        }
        for (index, splice) in self.splices.iter().enumerate().rev() {
            let (start, end, to) = part(index, splice);
            if to > start {
                words::move_bytes(buffer, start, end, to);
            }
        }
    }
}

/// Whether the `msi-map` or `msi-parent` with this value refers to one of the ITS nodes (Linux's bindings
/// pci/pci-msi.txt and interrupt-controller/msi.txt).
fn refers_to_its(value: &[u8], is_map: bool, layout: &Layout) -> bool {
    // An entry of a map is: first requester ID, phandle, first MSI specifier, length. A parent is a phandle and as many
    // cells as the controller's `#msi-cells` says: 1 for the ITS, 0 or absent for those with which it is not mixed.
    let (first, step) = if is_map { (1, 4) } else { (0, 2) };
    let cells = value.as_chunks().0;
    let mut phandles = cells.iter().skip(first).step_by(step).map(|cell| Some(u32::from_be_bytes(*cell)));
    phandles.any(|phandle| layout.its.iter().any(|its| its.phandle == phandle))
}

impl Cells {
    /// Whether `region` can be written with as many cells.
    fn check(self, region: Region) -> Result<(), TreeError> {
        let fits = |cells, value: u64| cells >= 2 || u32::try_from(value).is_ok();
        if fits(self.address, region.start) && fits(self.size, region.size()) {
            Ok(())
        } else {
            Err(TreeError::CellsTooSmall { address: region.start })
        }
    }
}

/// What writing needs to know of the whole tree.
struct Writing<'a> {
    names: Names,
    /// Size of the strings block with the names that were added.
    strings_size: u32,
    layout: &'a Layout,
    edits: &'a Edits,
}

/// Writes tokens to `place`, or only counts them.
struct Writer<'a, 'b> {
    writing: &'a mut Writing<'b>,
    place: Option<&'a mut [u8]>,
    at: usize,
}

impl Writer<'_, '_> {
    fn put(&mut self, what: Put) {
        let Writing { layout, edits, .. } = *self.writing;
        let cells = layout.root_cells;
        match what {
            Put::Nothing => {}
            Put::Arguments => self.text(edits.arguments, b' '),
            Put::Bootargs => {
                self.header(Name::Bootargs, padded(edits.arguments));
                self.text(edits.arguments, 0);
            }
            Put::Initrd => {
                if let Some(initrd) = edits.initrd {
                    self.property(Name::InitrdStart, &[initrd.start.to_be_bytes()]);
                    self.property(Name::InitrdEnd, &[initrd.end.to_be_bytes()]);
                }
            }
            Put::ReservedMemory => {
                self.begin(b"reserved-memory");
                self.put(Put::ReservedProperties);
                self.put(Put::ReservedChild);
                self.end();
            }
            Put::ReservedProperties => {
                let lacks = |has: fn(&Reserved) -> bool| !layout.reserved.as_ref().is_some_and(has);
                if lacks(|reserved| reserved.address_cells.is_some()) {
                    self.property(Name::AddressCells, &[u32::from(cells.address).to_be_bytes()]);
                }
                if lacks(|reserved| reserved.size_cells.is_some()) {
                    self.property(Name::SizeCells, &[u32::from(cells.size).to_be_bytes()]);
                }
                if lacks(|reserved| reserved.has_ranges) {
                    self.property::<0>(Name::Ranges, &[]);
                }
            }
            Put::ReservedChild => {
                let Edits { exeunt, blackbox, .. } = *edits;
                self.child(b"exeunt@", Region { end: blackbox.start, ..exeunt });
                self.property::<0>(Name::NoMap, &[]);
                self.strings(Name::DmaNotCovered, DMA_NOT_COVERED);
                self.end();
                self.child(b"exeunt-box@", blackbox);
                self.strings(Name::Compatible, BOX_COMPATIBLE);
                self.end();
            }
        }
    }

    /// Begins a child of `/reserved-memory` for `region`.
    fn child(&mut self, name: &[u8], region: Region) {
        let cells = self.writing.layout.root_cells;
        self.begin(unit_name(&mut [0; 28], name, region.start));
        self.header(Name::Reg, 4 * (usize::from(cells.address) + usize::from(cells.size)));
        self.number(cells.address, region.start);
        self.number(cells.size, region.size());
    }

    fn begin(&mut self, name: &[u8]) {
        self.word(token::BEGIN_NODE);
        let (words, rest) = name.as_chunks::<4>();
        for word in words {
            self.bytes(*word);
        }
        // The rest, the NUL that ends it, and padding.
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        self.bytes(last);
    }

    fn end(&mut self) {
        self.word(token::END_NODE);
    }

    /// A property's token, with `length` bytes of value to follow.
    fn header(&mut self, name: Name, length: usize) {
        let name = self.writing.names.offset_for_writing(name, &mut self.writing.strings_size);
        self.word(token::PROP);
        self.word(length as u32);
        self.word(name);
    }

    /// A property with a value of numbers of `N` bytes, 4 or 8.
    fn property<const N: usize>(&mut self, name: Name, value: &[[u8; N]]) {
        self.header(name, value.len() * N);
        for word in value.as_flattened().as_chunks().0 {
            self.bytes(*word);
        }
    }

    /// A property with a text, or with several that have a NUL between them.
    fn strings(&mut self, name: Name, text: &[u8]) {
        self.header(name, text.len() + 1);
        self.text(text, 0);
    }

    /// Words of text, with `filler` after them: at least one.
    fn text(&mut self, words: &[u8], filler: u8) {
        for at in (0..padded(words)).step_by(4) {
            self.bytes(core::array::from_fn(|byte| words.get(at + byte).copied().unwrap_or(filler)));
        }
    }

    /// `value` in `cells` cells.
    fn number(&mut self, cells: u8, value: u64) {
        if cells == 2 {
            self.word((value >> 32) as u32);
        }
        self.word(value as u32);
    }

    fn word(&mut self, word: u32) {
        self.bytes(word.to_be_bytes());
    }

    fn bytes(&mut self, bytes: [u8; 4]) {
        if let Some(place) = self.place.as_mut().and_then(|place| place.get_mut(self.at..)?.first_chunk_mut()) {
            *place = bytes;
        }
        self.at += 4;
    }
}

/// How many bytes `words` take with a space or NUL after them, in whole words of the tree. None without words.
const fn padded(words: &[u8]) -> usize {
    if words.is_empty() { 0 } else { (words.len() + 1).next_multiple_of(4) }
}

/// The node name `prefix` with `address` in lower-case hexadecimal after it, as DTSpec 2.2.1 wants unit addresses.
fn unit_name<'a>(buffer: &'a mut [u8; 28], prefix: &[u8], address: u64) -> &'a [u8] {
    let digits = (u64::BITS - address.leading_zeros()).div_ceil(4).max(1);
    let mut length = prefix.len().min(buffer.len() - 16);
    buffer[..length].copy_from_slice(&prefix[..length]);
    for digit in (0..digits).rev() {
        buffer[length] = b"0123456789abcdef"[(address >> (4 * digit)) as usize & 0xf];
        length += 1;
    }
    &buffer[..length]
}
