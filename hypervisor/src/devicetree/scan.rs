//! The pass over a flattened tree.
//!
//! It visits every token of the structure block once, checks that the block is well formed, and notes what Exeunt
//! needs. Whatever the bytes are, it neither panics nor reads outside the slice, and its work is bounded by the slice's
//! length.
//!
//! A node's properties come in any order, so a node is judged when the last of them has been seen: at its first child
//! or its end.

use super::names::{Cache, Name, Names};
use super::platform::{
    Cells, Chosen, Conduit, Gic, Gicv2, Its, List, Module, Msi, Platform, Region, Reserved, Span, Value,
};
use super::{MAX_SIZE, TreeError, token, words};
use crate::uart::{self, Spacing, Uart};

/// Levels of nodes that are looked at, the root included. Nodes below are only checked to be well formed: the deepest
/// ones that matter here, consoles and MSI users behind some buses, are at about half of that.
const MAX_DEPTH: usize = 16;

/// Levels below the root at which a console is looked for.
const MAX_PATH: usize = 6;

/// What absent `#address-cells` and `#size-cells` stand for (DTSpec 2.3.5).
const DEFAULT_CELLS: Cells = Cells { address: 2, size: 1 };

/// What a GICv1 or GICv2 is compatible with: the names under which Linux's drivers/irqchip/irq-gic.c finds one. All of
/// them have GICD and GICC as the first two entries of `reg`, and GICC_PMR where a GICv2 has it.
const GICV2_NAMES: [&[u8]; 9] = [
    b"arm,gic-400",
    b"arm,cortex-a15-gic",
    b"arm,cortex-a9-gic",
    b"arm,cortex-a7-gic",
    b"arm,pl390",
    b"arm,arm11mp-gic",
    b"arm,arm1176jzf-devchip-gic",
    b"qcom,msm-8660-qgic",
    b"qcom,msm-qgic2",
];

/// UARTs among which the console is looked for.
const MAX_UARTS: usize = 8;

/// Reads the tree at the start of `dtb` into `platform`, of which nothing remains from before.
///
/// # Errors
///
/// A [`TreeError`] that says what is wrong with the tree; `platform` is blank then.
pub fn scan(dtb: &[u8], platform: &mut Platform) -> Result<(), TreeError> {
    platform.reset();
    let result = scan_into(dtb, platform);
    if result.is_err() {
        platform.reset();
    }
    result
}

/// Reads the tree into a blank `platform`.
fn scan_into(dtb: &[u8], platform: &mut Platform) -> Result<(), TreeError> {
    let tree = fdt::Fdt::new(dtb).map_err(|error| match error {
        fdt::FdtError::BadMagic | fdt::FdtError::BadPtr => TreeError::NotATree,
        fdt::FdtError::BufferTooSmall => match super::total_size(dtb) {
            Ok(size) => TreeError::TooLarge { size },
            Err(error) => error,
        },
    })?;
    if tree.total_size() > MAX_SIZE {
        return Err(TreeError::TooLarge { size: tree.total_size() });
    }
    let dtb = dtb.get(..tree.total_size()).ok_or(TreeError::Header)?;
    let header = Header::read(dtb)?;

    let used = header.strings + header.strings_size;
    let layout = &mut platform.layout;
    layout.used = used;
    layout.reservations = header.reservations;
    layout.struct_size = header.struct_size;
    layout.strings = header.strings;
    layout.strings_size = header.strings_size;

    // `fdt` would panic without a block, and read on without its end.
    let block = &dtb[..header.structure as usize];
    let reservations = header.reservations as usize;
    if !block[reservations..].chunks_exact(16).any(|entry| entry.iter().all(|&byte| byte == 0)) {
        return Err(TreeError::Header);
    }
    for entry in tree.memory_reservations() {
        let value_error = TreeError::Value { property: "memory reservation", offset: reservations };
        let region = Region::new(entry.address() as u64, entry.size() as u64).ok_or(value_error)?;
        if !platform.reserved.push(region) {
            return Err(TreeError::TooMany { what: "memory reservations", limit: Platform::MAX_RESERVED });
        }
    }

    // With ASCII and a NUL at the end, every offset into the block is a terminated string that any reader can take.
    let strings = &dtb[header.strings as usize..used as usize];
    if !strings.is_ascii() {
        return Err(TreeError::Name { offset: header.strings as usize });
    }
    if strings.last().is_some_and(|&last| last != 0) {
        return Err(TreeError::Name { offset: used as usize - 1 });
    }

    let structure = &dtb[header.structure as usize..][..header.struct_size as usize];
    let mut scanner = Scanner {
        dtb,
        words: words::view(structure).ok_or(TreeError::Misaligned)?,
        structure,
        base: header.structure,
        strings,
        platform,
        names: Cache::EMPTY,
        frames: [Frame::EMPTY; MAX_DEPTH],
        uarts: [Candidate { uart: Uart::pl011(0), path: [0; MAX_PATH], depth: 0 }; MAX_UARTS],
        uart_count: 0,
        highest_cpu: 0,
        stdout: None,
        chosen_initrd: [Data::ABSENT; 2],
        aliases: None,
        unknown: Data::ABSENT,
    };
    scanner.run()?;
    scanner.find_console();
    Ok(())
}

/// The fields of the header (DTSpec 5.2) that matter, checked against each other.
struct Header {
    structure: u32,
    struct_size: u32,
    strings: u32,
    strings_size: u32,
    reservations: u32,
}

impl Header {
    /// `dtb` is as long as the header's `totalsize`.
    fn read(dtb: &[u8]) -> Result<Self, TreeError> {
        /// The format's version, and that with which it has to be compatible.
        const VERSION: u32 = 17;

        let header: &[u8; super::HEADER_SIZE] = dtb.first_chunk().ok_or(TreeError::Header)?;
        let [_, _, structure, strings, reservations, version, compatible, _, strings_size, struct_size] =
            core::array::from_fn(|i| {
                u32::from_be_bytes([header[4 * i], header[4 * i + 1], header[4 * i + 2], header[4 * i + 3]])
            });
        if version < VERSION || compatible > VERSION {
            return Err(TreeError::Version { version });
        }
        // The blocks stand in the order in which the specification wants them, apart from each other. `edit` relies on
        // it.
        let in_order = reservations as usize >= super::HEADER_SIZE
            && reservations <= structure
            && structure.checked_add(struct_size).is_some_and(|end| end <= strings)
            && strings.checked_add(strings_size).is_some_and(|end| end as usize <= dtb.len());
        let aligned = reservations.is_multiple_of(8) && structure.is_multiple_of(4) && struct_size.is_multiple_of(4);
        if in_order && aligned {
            Ok(Self { structure, struct_size, strings, strings_size, reservations })
        } else {
            Err(TreeError::Header)
        }
    }
}

/// What a node is, by its place in the tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Root,
    Chosen,
    Aliases,
    Cpus,
    ReservedMemory,
    Kernel,
    Ramdisk,
    Its(u8),
    Other,
}

/// How the addresses of a node's children relate to physical ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    /// They are physical addresses: the root, and buses with an empty `ranges`.
    Physical,
    /// The bus has windows: its `ranges`.
    Windows,
    /// They are not memory addresses: no `ranges`.
    Unrelated,
}

/// A property's value: index of its first word in the structure block, and length in bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Data {
    /// 0, where no value can be, if there is no such property.
    word: u32,
    length: u32,
}

impl Data {
    const ABSENT: Self = Self { word: 0, length: 0 };

    const fn is_present(self) -> bool {
        self.word != 0
    }

    /// The value if there is one.
    fn present(self) -> Option<Self> {
        self.is_present().then_some(self)
    }

    /// Takes `other` if there is none yet: of properties with equal names, the first one counts.
    fn or_take(&mut self, other: Self) {
        if !self.is_present() {
            *self = other;
        }
    }
}

/// A node of which the properties have been seen, and the children not yet.
#[derive(Clone, Copy)]
struct Frame {
    kind: Kind,
    space: Space,
    cells: Cells,
    name: u32,
    ranges: Data,
}

impl Frame {
    const EMPTY: Self =
        Self { kind: Kind::Other, space: Space::Unrelated, cells: DEFAULT_CELLS, name: 0, ranges: Data::ABSENT };
}

/// The node of which the properties are being seen.
///
/// Aligned so that a blank one is written in words of 8 bytes: the target has strict alignment.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Node {
    kind: Kind,
    /// Index of the BEGIN_NODE token.
    start: u32,
    address_cells: Option<u8>,
    size_cells: Option<u8>,
    device: Device,
    disabled: bool,
    failed: bool,
    without_psci: bool,
    no_map: bool,
    phandle: Data,
    reg: Data,
    ranges: Data,
    compatible: Data,
    bootargs: Data,
    method: Data,
    spacing: Spacing,
}

/// A node's `device_type`, as far as it is not obsolete.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Device {
    Memory,
    Cpu,
    Other,
}

/// A UART and where it is in the tree.
#[derive(Clone, Copy)]
struct Candidate {
    uart: Uart,
    /// Index of the names of the nodes that lead to it, the root left out.
    path: [u32; MAX_PATH],
    depth: usize,
}

struct Scanner<'a> {
    dtb: &'a [u8],
    /// The structure block: big-endian words.
    words: &'a [u32],
    /// The same as bytes.
    structure: &'a [u8],
    /// Offset of the structure block in the tree.
    base: u32,
    strings: &'a [u8],
    platform: &'a mut Platform,
    names: Cache,
    frames: [Frame; MAX_DEPTH],
    uarts: [Candidate; MAX_UARTS],
    uart_count: usize,
    highest_cpu: u64,
    stdout: Option<Value>,
    /// The properties `linux,initrd-start` and `linux,initrd-end` of `/chosen`.
    chosen_initrd: [Data; 2],
    aliases: Option<Span>,
    /// The last `compatible` in which nothing was known.
    unknown: Data,
}

impl<'a> Scanner<'a> {
    fn run(&mut self) -> Result<(), TreeError> {
        // What has not been visited.
        let mut rest = self.words;
        // Nodes that are open. The innermost one has the number depth - 1.
        let mut depth = 0;
        // The innermost node, and whether more properties of it can come.
        let mut node = Node::new(Kind::Other, 0);
        let mut open = false;
        loop {
            let Some((tag, behind)) = rest.split_first() else { return Err(self.broken(rest)) };
            match u32::from_be(*tag) {
                token::PROP => {
                    let [length, name, value @ ..] = behind else { return Err(self.broken(rest)) };
                    let (length, name) = (u32::from_be(*length), u32::from_be(*name));
                    let Some(next) = value.get(words_in(length)..) else { return Err(self.broken(rest)) };
                    if !open || name as usize >= self.strings.len() {
                        return Err(self.broken(rest));
                    }
                    if let Some(name) = self.names.look_up(&mut self.platform.layout.names, self.strings, name) {
                        self.property(&mut node, name, Data { word: self.index(value) as u32, length })?;
                    }
                    rest = next;
                }
                token::BEGIN_NODE => {
                    let start = self.index(rest);
                    if open {
                        self.properties_end(&node, depth - 1, start)?;
                    }
                    // The rest of the frame is filled in by `properties_end`, which nothing that reads it comes before.
                    if let Some(frame) = self.frames.get_mut(depth) {
                        frame.name = start as u32 + 1;
                    }
                    node = Node::new(kind(depth, &self.structure[4 * start + 4..]), start as u32);
                    open = true;
                    depth += 1;
                    rest = self.skip_name(behind)?;
                }
                token::END_NODE => {
                    let start = self.index(rest);
                    if depth == 0 {
                        return Err(self.broken(rest));
                    }
                    depth -= 1;
                    if open {
                        self.properties_end(&node, depth, start)?;
                        open = false;
                    }
                    if let Some(&Frame { kind, .. }) = self.frames.get(depth)
                        && kind != Kind::Other
                    {
                        self.node_end(kind, start);
                    }
                    rest = behind;
                    if depth == 0 {
                        break;
                    }
                }
                token::NOP => rest = behind,
                _ => return Err(self.broken(rest)),
            }
        }
        match rest.iter().map(|&word| u32::from_be(word)).find(|&word| word != token::NOP) {
            Some(token::END) => Ok(()),
            _ => Err(self.broken(rest)),
        }
    }

    /// The number of the word at which `rest`, the rest of the structure block, begins.
    fn index(&self, rest: &[u32]) -> usize {
        self.words.len() - rest.len()
    }

    /// The error for a structure block that is broken where `rest` of it begins.
    #[cold]
    fn broken(&self, rest: &[u32]) -> TreeError {
        TreeError::Structure { offset: self.offset(self.index(rest)) as usize }
    }

    /// Offset in the tree of the word with number `at`.
    fn offset(&self, at: usize) -> u32 {
        self.base + 4 * at as u32
    }

    /// The words from number `from` up to `to`, as offsets in the tree.
    fn span(&self, from: usize, to: usize) -> Span {
        Span { start: self.offset(from), end: self.offset(to) }
    }

    /// Checks the node's name at the start of `words`, and returns what is after it.
    #[inline]
    fn skip_name(&self, words: &'a [u32]) -> Result<&'a [u32], TreeError> {
        const HIGH_BITS: u32 = 0x8080_8080;
        const LOW_BITS: u32 = 0x0101_0101;
        let mut rest = words;
        while let Some((word, behind)) = rest.split_first() {
            let word = u32::from_le(*word);
            // The high bit of the first byte that is 0, and perhaps more above it. Below that bit there is the name's
            // end, and what is above it is padding, which may be anything.
            let zero = word.wrapping_sub(LOW_BITS) & !word & HIGH_BITS;
            if word & HIGH_BITS & zero.wrapping_sub(1) & !zero != 0 {
                break;
            }
            if zero != 0 {
                return Ok(behind);
            }
            rest = behind;
        }
        Err(TreeError::Name { offset: self.offset(self.index(rest)) as usize })
    }

    /// The name that begins at word `at`.
    fn name(&self, at: usize) -> &'a [u8] {
        let bytes = self.structure.get(4 * at..).unwrap_or_default();
        bytes.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Notes the node's property `name` with the value `data`.
    #[inline]
    fn property(&mut self, node: &mut Node, name: Name, data: Data) -> Result<(), TreeError> {
        let in_chosen = node.kind == Kind::Chosen;
        match name {
            Name::Reg => node.reg.or_take(data),
            Name::Compatible => node.compatible.or_take(data),
            Name::Ranges => node.ranges.or_take(data),
            Name::Method => node.method.or_take(data),
            Name::RegShift => node.spacing.shift = self.small_cell(data),
            Name::RegIoWidth => node.spacing.width = self.small_cell(data),
            Name::RegOffset => node.spacing.offset = self.cell(data).unwrap_or(u32::MAX),
            Name::AddressCells => node.address_cells = Some(self.cell_count(node, name, data)?),
            Name::SizeCells => node.size_cells = Some(self.cell_count(node, name, data)?),
            Name::Phandle | Name::LinuxPhandle => node.phandle.or_take(data),
            Name::DeviceType => {
                node.device = match self.bytes(data) {
                    b"cpu\0" => Device::Cpu,
                    b"memory\0" => Device::Memory,
                    _ => Device::Other,
                }
            }
            Name::EnableMethod => node.without_psci = self.bytes(data) != b"psci\0",
            Name::Status => {
                let status = self.bytes(data);
                node.disabled = !matches!(status, b"okay\0" | b"ok\0");
                node.failed = status.starts_with(b"fail");
            }
            Name::MsiMap | Name::MsiParent => {
                let property = self.whole(data);
                if !self.platform.layout.msi.push(Msi { property, is_map: name == Name::MsiMap }) {
                    return Err(TreeError::TooMany { what: "MSI properties", limit: Platform::MAX_MSI });
                }
            }
            Name::Bootargs if node.bootargs.is_present() => {
                return Err(TreeError::Duplicate { what: "'bootargs' in one node" });
            }
            Name::Bootargs => node.bootargs = data,
            Name::InitrdStart | Name::InitrdEnd if in_chosen => {
                let place = &mut self.chosen_initrd[usize::from(name == Name::InitrdEnd)];
                if place.is_present() {
                    return Err(TreeError::Duplicate { what: "'linux,initrd-start' or '-end'" });
                }
                *place = data;
            }
            Name::StdoutPath | Name::LinuxStdoutPath if in_chosen => {
                self.stdout = self.stdout.or(Some(self.value(data)));
            }
            Name::UefiSystemTable if in_chosen => self.platform.efi = true,
            Name::NoMap => node.no_map = true,
            Name::InitrdStart
            | Name::InitrdEnd
            | Name::StdoutPath
            | Name::LinuxStdoutPath
            | Name::UefiSystemTable
            | Name::DmaNotCovered => {}
        }
        Ok(())
    }

    /// All of the property with the value `data`: three words come before it (DTSpec 5.4.1).
    fn whole(&self, data: Data) -> Span {
        self.span(data.word as usize - 3, data.word as usize + words_in(data.length))
    }

    /// The value in `data`, as an offset in the tree.
    fn value(&self, data: Data) -> Value {
        Value { at: self.offset(data.word as usize), length: data.length }
    }

    /// The value in `data`.
    #[inline]
    fn bytes(&self, data: Data) -> &'a [u8] {
        let bytes = self.structure.get(4 * data.word as usize..).unwrap_or_default();
        bytes.get(..data.length as usize).unwrap_or_default()
    }

    /// The value in `data`, if it is one cell.
    fn cell(&self, data: Data) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(data).try_into().ok()?))
    }

    /// The same, if it is small, else a number that is none.
    fn small_cell(&self, data: Data) -> u8 {
        self.cell(data).and_then(|cell| cell.try_into().ok()).unwrap_or(u8::MAX)
    }

    /// The value of `#address-cells` or `#size-cells`.
    fn cell_count(&self, node: &Node, name: Name, data: Data) -> Result<u8, TreeError> {
        /// More cells than any bus needs: PCI has 3.
        const MAX_CELLS: u32 = 8;
        match self.cell(data) {
            Some(count) if count <= MAX_CELLS => Ok(count as u8),
            _ => Err(self.bad_value(name.text(), node, data)),
        }
    }

    /// The error for a property with an impossible value, or for a node that lacks it.
    #[cold]
    fn bad_value(&self, property: &'static str, node: &Node, data: Data) -> TreeError {
        let at = if data.is_present() { data.word } else { node.start };
        TreeError::Value { property, offset: self.offset(at as usize) as usize }
    }

    /// Judges the node at level `depth`: its last property lies before word `at`.
    #[inline]
    fn properties_end(&mut self, node: &Node, depth: usize, at: usize) -> Result<(), TreeError> {
        // QEMU's guest-loader writes modules into a `/chosen` without cells. As Xen does: the root's count then.
        let default = if node.kind == Kind::Chosen { self.platform.layout.root_cells } else { DEFAULT_CELLS };
        let space = match node.ranges {
            Data::ABSENT => Space::Unrelated,
            Data { length: 0, .. } => Space::Physical,
            _ => Space::Windows,
        };
        let Some(frame) = self.frames.get_mut(depth) else { return Ok(()) };
        let name = frame.name;
        *frame = Frame {
            kind: node.kind,
            space,
            cells: Cells {
                address: node.address_cells.unwrap_or(default.address),
                size: node.size_cells.unwrap_or(default.size),
            },
            name,
            ranges: node.ranges,
        };
        let Some(above) = depth.checked_sub(1) else {
            return self.root(node);
        };
        let parent = self.frames[above];
        if parent.kind == Kind::Cpus {
            // As Linux's of_get_next_cpu_node (drivers/of/base.c): a CPU that is "disabled" can be turned on, one that
            // is "fail" cannot.
            let is_cpu = node.device == Device::Cpu
                || self.name(name as usize).split(|&byte| byte == b'@').next() == Some(b"cpu");
            return if is_cpu && !node.failed { self.cpu(node, parent.cells) } else { Ok(()) };
        }
        self.raise_highest(node, depth, &parent);
        match node.kind {
            Kind::Chosen => {
                let chosen = Chosen {
                    properties_end: self.offset(at),
                    end: 0,
                    bootargs: node.bootargs.present().map(|data| self.whole(data)),
                    initrd_start: self.chosen_initrd[0].present().map(|data| self.whole(data)),
                    initrd_end: self.chosen_initrd[1].present().map(|data| self.whole(data)),
                };
                if self.platform.layout.chosen.replace(chosen).is_some() {
                    return Err(TreeError::Duplicate { what: "/chosen" });
                }
                self.platform.options = node.bootargs.present().map(|data| self.value(data));
                self.platform.loader_initrd = self.loader_initrd(node)?;
            }
            Kind::ReservedMemory => {
                let reserved = Reserved {
                    properties_end: self.offset(at),
                    close: 0,
                    address_cells: node.address_cells,
                    size_cells: node.size_cells,
                    has_ranges: node.ranges.is_present(),
                };
                if self.platform.layout.reserved.replace(reserved).is_some() {
                    return Err(TreeError::Duplicate { what: "/reserved-memory" });
                }
            }
            Kind::Aliases => self.aliases = Some(self.span(node.start as usize, at)),
            _ if node.disabled => {}
            _ if parent.kind == Kind::Chosen => self.module(node, depth, parent.cells)?,
            _ if parent.kind == Kind::ReservedMemory => self.claim(node)?,
            _ if parent.kind == Kind::Root && node.device == Device::Memory => self.memory(node, parent.cells)?,
            _ => {
                if node.compatible.is_present() {
                    self.device(node, depth)?;
                }
            }
        }
        Ok(())
    }

    /// Notes where a node ends for which that matters; its END_NODE token is at word `at`.
    fn node_end(&mut self, kind: Kind, at: usize) {
        let (token, behind) = (self.offset(at), self.offset(at + 1));
        let layout = &mut self.platform.layout;
        match kind {
            Kind::Chosen => {
                if let Some(chosen) = &mut layout.chosen {
                    chosen.end = behind;
                }
            }
            Kind::ReservedMemory => {
                if let Some(reserved) = &mut layout.reserved {
                    reserved.close = token;
                }
            }
            Kind::Kernel => {
                if let Some(span) = &mut layout.kernel {
                    span.end = behind;
                }
            }
            Kind::Ramdisk => {
                if let Some(span) = &mut layout.ramdisk {
                    span.end = behind;
                }
            }
            Kind::Its(index) => {
                if let Some(its) = layout.its.get_mut(usize::from(index)) {
                    its.node.end = behind;
                }
            }
            Kind::Root | Kind::Aliases | Kind::Cpus | Kind::Other => {}
        }
    }

    /// The root: everything below depends on its cells.
    fn root(&mut self, node: &Node) -> Result<(), TreeError> {
        let cells = |count: Option<u8>, property| match count {
            // Linux and the specification disagree on what an absent one means.
            Some(count @ (1 | 2)) => Ok(count),
            _ => Err(self.bad_value(property, node, Data::ABSENT)),
        };
        let cells = Cells {
            address: cells(node.address_cells, "/#address-cells")?,
            size: cells(node.size_cells, "/#size-cells")?,
        };
        self.platform.layout.root_cells = cells;
        self.frames[0].space = Space::Physical;
        Ok(())
    }

    /// An enabled CPU.
    fn cpu(&mut self, node: &Node, cells: Cells) -> Result<(), TreeError> {
        /// The bits of MPIDR_EL1 that tell CPUs apart: Aff3 (39:32), Aff2, Aff1, Aff0 (23:0). Linux's binding
        /// (cpus.yaml) wants all others 0 in `reg`.
        const AFFINITY: u64 = 0xff_00ff_ffff;
        let mut values = self.numbers(node.reg);
        let mpidr = match (cells, values.next(cells.address), values.is_empty()) {
            (Cells { address: 1 | 2, size: 0 }, Some(mpidr), true) if mpidr & !AFFINITY == 0 => mpidr,
            _ => return Err(self.bad_value("cpu reg", node, node.reg)),
        };
        // Trees list CPUs in ascending order as a rule, and then there is nothing to search.
        if mpidr <= self.highest_cpu && self.platform.cpus.contains(&mpidr) {
            return Err(TreeError::Duplicate { what: "CPU with the same reg" });
        }
        self.highest_cpu = self.highest_cpu.max(mpidr);
        if !self.platform.cpus.push(mpidr) {
            return Err(TreeError::TooMany { what: "CPUs", limit: Platform::MAX_CPUS });
        }
        self.platform.cpu_without_psci |= node.without_psci;
        Ok(())
    }

    /// A bank of RAM.
    fn memory(&mut self, node: &Node, cells: Cells) -> Result<(), TreeError> {
        let mut values = self.numbers(node.reg);
        while !values.is_empty() {
            let region = values.region(cells).ok_or_else(|| self.bad_value("memory reg", node, node.reg))?;
            if region.size() != 0 && !join(&mut self.platform.memory, region) {
                return Err(TreeError::TooMany { what: "ranges of RAM", limit: Platform::MAX_MEMORY });
            }
        }
        Ok(())
    }

    /// The initial RAM disk that the properties of `/chosen`, the node, say: with both of them and a size, as Linux's
    /// `early_init_dt_check_for_initrd` (drivers/of/fdt.c) wants it.
    fn loader_initrd(&self, node: &Node) -> Result<Option<Region>, TreeError> {
        const NAMES: [&str; 2] = ["linux,initrd-start", "linux,initrd-end"];
        let mut ends = [0; 2];
        for ((end, data), name) in ends.iter_mut().zip(self.chosen_initrd).zip(NAMES) {
            if !data.is_present() {
                return Ok(None);
            }
            let cells = (data.length / 4) as u8;
            let is_number = matches!(data.length, 4 | 8);
            *end =
                self.numbers(data).next(cells).filter(|_| is_number).ok_or_else(|| self.bad_value(name, node, data))?;
        }
        let [start, end] = ends;
        if start > end {
            return Err(self.bad_value(NAMES[1], node, self.chosen_initrd[1]));
        }
        Ok(Some(Region { start, end }).filter(|initrd| initrd.size() != 0))
    }

    /// A child of `/reserved-memory`: RAM that somebody keeps, if its place is settled (Linux's
    /// `__reserved_mem_reserve_reg`, drivers/of/of_reserved_mem.c, which takes the root's cells, and leaves out what
    /// makes no sense).
    fn claim(&mut self, node: &Node) -> Result<(), TreeError> {
        let mut values = self.numbers(node.reg);
        while let Some(region) = values.region(self.platform.layout.root_cells) {
            let platform = &mut *self.platform;
            let is_there = match (region.size(), node.no_map) {
                (0, _) => true,
                (_, true) => join(&mut platform.no_map, region),
                (_, false) => join(&mut platform.claimed, region),
            };
            if !is_there {
                let limit = if node.no_map { Platform::MAX_NO_MAP } else { Platform::MAX_CLAIMED };
                return Err(TreeError::TooMany { what: "ranges in /reserved-memory", limit });
            }
        }
        Ok(())
    }

    /// A child of `/chosen`: perhaps a module (Xen's docs/misc/arm/device-tree/booting.txt describes the binding).
    fn module(&mut self, node: &Node, depth: usize, cells: Cells) -> Result<(), TreeError> {
        let kind = {
            let strings = || self.bytes(node.compatible).split(|&byte| byte == 0);
            if !strings().any(|string| string == b"multiboot,module") {
                return Ok(());
            }
            match strings().find_map(|string| match string {
                b"multiboot,kernel" => Some(Kind::Kernel),
                b"multiboot,ramdisk" => Some(Kind::Ramdisk),
                _ => None,
            }) {
                Some(kind) => kind,
                None => return Ok(()),
            }
        };
        let mut values = self.numbers(node.reg);
        let region = match (values.region(cells), values.is_empty()) {
            (Some(region), true) if region.size() != 0 => region,
            _ => return Err(self.bad_value("module reg", node, node.reg)),
        };
        let bootargs = node.bootargs.present();
        let module = Module { region, bootargs: bootargs.map(|data| self.value(data)) };
        let property = bootargs.map(|data| self.whole(data));
        let span = self.span(node.start as usize, node.start as usize);
        self.frames[depth].kind = kind;
        let platform = &mut *self.platform;
        if kind == Kind::Kernel {
            if platform.kernel.replace(module).is_some() {
                return Err(TreeError::Duplicate { what: "multiboot,kernel module" });
            }
            platform.layout.kernel = Some(span);
            platform.layout.kernel_bootargs = property;
        } else {
            if platform.ramdisk.replace(module).is_some() {
                return Err(TreeError::Duplicate { what: "multiboot,ramdisk module" });
            }
            platform.layout.ramdisk = Some(span);
        }
        Ok(())
    }

    /// A node that says what it is compatible with.
    fn device(&mut self, node: &Node, depth: usize) -> Result<(), TreeError> {
        // A tree has many of a kind side by side.
        if self.is_same(node.compatible, self.unknown) {
            return Ok(());
        }
        for string in self.bytes(node.compatible).split(|&byte| byte == 0) {
            // Most nodes have nothing of Arm's, nor a GICv2 of Qualcomm's.
            if !string.starts_with(b"arm,") && !string.starts_with(b"qcom,msm-") {
                let Some(kind) = uart::Kind::of(string) else { continue };
                self.uart(node, depth, kind);
                return Ok(());
            }
            match string {
                b"arm,psci-0.2" | b"arm,psci-1.0" => {
                    self.platform.psci = match self.bytes(node.method) {
                        b"smc\0" => Some(Conduit::Smc),
                        b"hvc\0" => Some(Conduit::Hvc),
                        _ => None,
                    }
                }
                b"arm,gic-v3" => {
                    self.gic(node, depth);
                    self.platform.gic = Some(Gic::V3);
                }
                b"arm,armv8-timer" => self.platform.timer_node = Some(self.base + 4 * node.start),
                name if GICV2_NAMES.contains(&name) => {
                    self.gic(node, depth);
                    self.platform.gic = match *self.platform.gic_registers {
                        [distributor, cpu_interface, ..] => {
                            Some(Gic::V2(Gicv2 { distributor: distributor.start, cpu_interface: cpu_interface.start }))
                        }
                        _ => None,
                    };
                }
                b"arm,gic-v3-its" => {
                    let phandle = self.cell(node.phandle);
                    let its = &mut self.platform.layout.its;
                    self.frames[depth].kind = Kind::Its(its.len() as u8);
                    let start = self.base + 4 * node.start;
                    if !its.push(Its { node: Span { start, end: start }, phandle }) {
                        return Err(TreeError::TooMany { what: "ITS nodes", limit: Platform::MAX_ITS });
                    }
                }
                _ => match uart::Kind::of(string) {
                    Some(kind) => self.uart(node, depth, kind),
                    None => continue,
                },
            }
            return Ok(());
        }
        self.unknown = node.compatible;
        Ok(())
    }

    /// Whether two values are the same, padding included.
    fn is_same(&self, one: Data, other: Data) -> bool {
        let words = |data: Data| self.words.get(data.word as usize..).unwrap_or_default().iter();
        one.length == other.length
            && words(one).zip(words(other)).take(words_in(one.length)).all(|(one, other)| one == other)
    }

    /// Where the GIC of the node at level `depth` has its registers, as far as they can be found.
    #[inline(never)]
    fn gic(&mut self, node: &Node, depth: usize) {
        self.platform.gic_registers.clear();
        let Some(bus) = depth.checked_sub(1) else { return };
        let mut values = self.numbers(node.reg);
        while let Some(region) = values.region(self.frames[bus].cells)
            && let Some(start) = self.translate(bus, region.start)
            && let Some(region) = Region::new(start, region.size())
            && self.platform.gic_registers.push(region)
        {}
    }

    /// A UART: remembers where it is, so that `stdout-path` can find it.
    #[cold]
    fn uart(&mut self, node: &Node, depth: usize, kind: uart::Kind) {
        let Some(place) = self.uarts.get(self.uart_count) else { return };
        let mut candidate = Candidate { depth, ..*place };
        let Some(names) = candidate.path.get_mut(..depth) else { return };
        for (name, frame) in names.iter_mut().zip(&self.frames[1..]) {
            *name = frame.name;
        }
        let address = self.numbers(node.reg).next(self.frames[depth - 1].cells.address);
        let base = address.and_then(|address| self.translate(depth - 1, address));
        if let Some(uart) = base.and_then(|base| Uart::new(kind, base, node.spacing)) {
            self.uarts[self.uart_count] = Candidate { uart, ..candidate };
            self.uart_count += 1;
        }
    }

    /// The physical address for `address` as the children of the node at level `depth` see it.
    fn translate(&self, depth: usize, mut address: u64) -> Option<u64> {
        for level in (0..=depth).rev() {
            let bus = &self.frames[level];
            match bus.space {
                Space::Physical => {}
                Space::Unrelated => return None,
                Space::Windows => {
                    let above = self.frames[level.checked_sub(1)?].cells;
                    // Without an address no row of numbers would ever end.
                    if bus.cells.address == 0 {
                        return None;
                    }
                    let mut values = self.numbers(bus.ranges);
                    loop {
                        let child = values.next(bus.cells.address)?;
                        let parent = values.next(above.address)?;
                        let size = values.next(bus.cells.size)?;
                        if let Some(offset) = address.checked_sub(child).filter(|&offset| offset < size) {
                            address = parent.checked_add(offset)?;
                            break;
                        }
                    }
                }
            }
        }
        Some(address)
    }

    /// Raises the highest address to that of the node's registers and of its windows.
    #[inline]
    fn raise_highest(&mut self, node: &Node, depth: usize, parent: &Frame) {
        // Behind windows all addresses are inside of them, and they have been counted.
        if parent.space != Space::Physical {
            return;
        }
        let mut highest = self.platform.highest;
        let mut values = self.numbers(node.reg);
        while let Some(region) = values.region(parent.cells) {
            highest = highest.max(region.end);
        }
        let bus = self.frames[depth];
        if bus.space == Space::Windows {
            let mut values = self.numbers(bus.ranges);
            while values.skip(bus.cells.address)
                && let Some(region) = values.region(Cells { address: parent.cells.address, size: bus.cells.size })
            {
                highest = highest.max(region.end);
            }
        }
        self.platform.highest = highest;
    }

    /// The value in `data` as a row of numbers.
    #[inline]
    fn numbers(&self, data: Data) -> Numbers<'a> {
        let words = self.words.get(data.word as usize..).unwrap_or_default();
        // A value that is no multiple of a cell's size leaves a rest that no number is read from.
        Numbers { words: words.get(..data.length as usize / 4).unwrap_or_default() }
    }

    /// Finds the UART that `/chosen/stdout-path` names.
    fn find_console(&mut self) {
        let Some(path) = self.stdout.and_then(|value| value.text(self.dtb)) else { return };
        // What follows a colon are the UART's parameters.
        let path = path.split(|&byte| byte == b':').next().unwrap_or_default();
        let path = if path.first() == Some(&b'/') { Some(path) } else { self.alias(path) };
        let Some(path) = path.and_then(|path| path.strip_prefix(b"/")) else { return };
        let candidates = self.uarts.get(..self.uart_count).unwrap_or_default();
        let found = candidates.iter().find(|candidate| {
            let names = candidate.path.get(..candidate.depth).unwrap_or_default();
            let mut steps = path.split(|&byte| byte == b'/');
            names.iter().all(|&name| steps.next().is_some_and(|step| is_named(self.name(name as usize), step)))
                && steps.next().is_none()
        });
        self.platform.console = found.map(|candidate| candidate.uart);
    }

    /// The path for which the property `alias` of `/aliases` stands.
    fn alias(&self, alias: &[u8]) -> Option<&'a [u8]> {
        let span = self.aliases?;
        let [begin, end] = [span.start, span.end].map(|offset| (offset - self.base) as usize / 4);
        let mut rest = self.skip_name(self.words.get(begin + 1..end)?).ok()?;
        while let Some((tag, behind)) = rest.split_first() {
            rest = behind;
            if u32::from_be(*tag) != token::PROP {
                continue;
            }
            let [length, name, value @ ..] = behind else { return None };
            let (length, name) = (u32::from_be(*length), u32::from_be(*name));
            if self.strings.get(name as usize..)?.strip_prefix(alias).is_some_and(|end| end.first() == Some(&0)) {
                let word = (end - value.len()) as u32;
                return self.bytes(Data { word, length }).split(|&byte| byte == 0).next();
            }
            rest = value.get(words_in(length)..)?;
        }
        None
    }
}

impl Node {
    fn new(kind: Kind, start: u32) -> Self {
        Self {
            kind,
            start,
            address_cells: None,
            size_cells: None,
            device: Device::Other,
            disabled: false,
            failed: false,
            without_psci: false,
            no_map: false,
            phandle: Data::ABSENT,
            reg: Data::ABSENT,
            ranges: Data::ABSENT,
            compatible: Data::ABSENT,
            bootargs: Data::ABSENT,
            method: Data::ABSENT,
            spacing: Spacing::DEFAULT,
        }
    }
}

/// What the node at level `depth` is of which `name` begins with the name.
#[inline]
fn kind(depth: usize, name: &[u8]) -> Kind {
    match depth {
        0 => Kind::Root,
        1 if name.starts_with(b"chosen\0") => Kind::Chosen,
        1 if name.starts_with(b"aliases\0") => Kind::Aliases,
        1 if name.starts_with(b"cpus\0") => Kind::Cpus,
        1 if name.starts_with(b"reserved-memory\0") => Kind::ReservedMemory,
        _ => Kind::Other,
    }
}

/// How many words a value of `length` bytes takes.
const fn words_in(length: u32) -> usize {
    // Not `div_ceil`, which asks whether there is a rest.
    (length as usize).saturating_add(3) / 4
}

/// Whether `step` of a path names the node `name`: all of it, or without the unit address.
fn is_named(name: &[u8], step: &[u8]) -> bool {
    match name.strip_prefix(step) {
        Some(rest) => rest.is_empty() || (rest[0] == b'@' && !step.contains(&b'@')),
        None => false,
    }
}

/// A row of numbers of some cells each.
#[derive(Clone, Copy)]
struct Numbers<'a> {
    words: &'a [u32],
}

impl Numbers<'_> {
    fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Leaves out a number of `cells` cells, and says whether it was there.
    fn skip(&mut self, cells: u8) -> bool {
        match self.words.get(usize::from(cells)..) {
            Some(rest) => {
                self.words = rest;
                true
            }
            None => false,
        }
    }

    /// The next number, of `cells` cells. `None` if it is not there or does not fit into 64 bits.
    #[inline]
    fn next(&mut self, cells: u8) -> Option<u64> {
        let (number, rest) = self.words.split_at_checked(usize::from(cells))?;
        self.words = rest;
        if let [high, low] = number {
            return Some(u64::from(u32::from_be(*high)) << 32 | u64::from(u32::from_be(*low)));
        }
        number.iter().try_fold(0u64, |value, cell| {
            if value >> 32 == 0 { Some(value << 32 | u64::from(u32::from_be(*cell))) } else { None }
        })
    }

    /// The next address and size.
    #[inline]
    fn region(&mut self, cells: Cells) -> Option<Region> {
        if cells.address == 0 {
            return None;
        }
        let start = self.next(cells.address)?;
        Region::new(start, self.next(cells.size)?)
    }
}

/// Puts `region` to `list`, which is in ascending order, at its place and joined with what it touches, and says whether
/// there was room.
fn join<const N: usize>(list: &mut List<Region, N>, mut region: Region) -> bool {
    let first = list.partition_point(|other| other.end < region.start);
    while let Some(other) = list.get(first)
        && other.start <= region.end
    {
        region = Region { start: region.start.min(other.start), end: region.end.max(other.end) };
        list.remove(first);
    }
    list.insert(first, region)
}

impl Platform {
    /// Forgets everything.
    fn reset(&mut self) {
        self.memory.clear();
        self.cpus.clear();
        self.psci = None;
        self.console = None;
        self.gic = None;
        self.gic_registers.clear();
        self.timer_node = None;
        self.kernel = None;
        self.ramdisk = None;
        self.reserved.clear();
        self.no_map.clear();
        self.claimed.clear();
        self.highest = 0;
        self.efi = false;
        self.cpu_without_psci = false;
        self.loader_initrd = None;
        self.options = None;
        let layout = &mut self.layout;
        layout.used = 0;
        layout.names = Names::EMPTY;
        layout.chosen = None;
        layout.kernel = None;
        layout.kernel_bootargs = None;
        layout.ramdisk = None;
        layout.reserved = None;
        layout.its.clear();
        layout.msi.clear();
    }
}
