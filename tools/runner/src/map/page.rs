//! The map as text, and as a page that needs nothing beside it.
//!
//! Owns what a stretch of addresses is called, and how it is drawn. The page is read on a phone too: one column, and
//! bands whose heights grow with the logarithm of their sizes, since 2 MiB lie beside a TiB.

use std::fmt::Write as _;

use super::tree::Place;
use super::walk::{Piece, Shape};

/// What a map is of.
#[derive(Clone, Debug)]
pub struct Map {
    /// One line on the machine.
    pub machine: String,
    /// Of which CPU, as a person counts.
    pub cpu: usize,
    /// VTCR_EL2 and VTTBR_EL2.
    pub registers: (u64, u64),
    /// How it is walked.
    pub shape: Shape,
    /// All that the tables say.
    pub pieces: Vec<Piece>,
    /// What the machine has where.
    pub places: Vec<Place>,
    /// Exeunt's 2 MiB.
    pub exeunt: (u64, u64),
    /// The first byte of the black box, if there is one; it goes on to their end.
    pub black_box: Option<u64>,
}

/// Bytes as people say it: the largest unit in which it is whole.
#[must_use]
pub fn size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

/// What a piece is, for words and colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// RAM by the device tree.
    Ram,
    /// Mapped, and no RAM that the tree names.
    Device,
    /// Not mapped: Exeunt's.
    Exeunt,
    /// The black box.
    Box,
    /// Not mapped, and not Exeunt's either.
    Hole,
}

impl Sort {
    const ALL: [Self; 5] = [Self::Ram, Self::Device, Self::Exeunt, Self::Box, Self::Hole];

    const fn class(self) -> &'static str {
        match self {
            Self::Ram => "ram",
            Self::Device => "device",
            Self::Exeunt => "exeunt",
            Self::Box => "box",
            Self::Hole => "hole",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Ram => "RAM of the host",
            Self::Device => "devices, and where nothing is",
            Self::Exeunt => "Exeunt's own: the host has nothing there",
            Self::Box => "Exeunt's black box: the host may read it",
            Self::Hole => "not mapped",
        }
    }
}

impl Map {
    fn sort(&self, piece: &Piece) -> Sort {
        let (start, end) = self.exeunt;
        let in_exeunt = start <= piece.start && piece.end <= end;
        match (piece.attributes, in_exeunt) {
            (Some(_), true) if self.black_box.is_some_and(|first| first <= piece.start) => Sort::Box,
            (None, true) => Sort::Exeunt,
            (None, false) => Sort::Hole,
            (Some(_), _) => {
                let ram = self.in_it(piece).filter(|place| place.is_ram).count();
                if ram > 0 { Sort::Ram } else { Sort::Device }
            }
        }
    }

    /// What the machine has in a piece, by the tree.
    fn in_it(&self, piece: &Piece) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(move |place| place.start < piece.end && piece.start < place.end)
    }

    /// The devices in a piece. Those of a kind that lie side by side are one: QEMU has 32 places for virtio in a row.
    fn devices(&self, piece: &Piece) -> Vec<Place> {
        // Without the address of the one, and with what a window is for.
        let kind = |place: &Place| {
            let (name, rest) = place.name.split_once('@').unwrap_or((&place.name, ""));
            (name.to_owned(), rest.split_once(": ").map(|(_, what)| what.to_owned()))
        };
        let mut devices: Vec<(Place, usize)> = Vec::new();
        for place in self.in_it(piece).filter(|place| !place.is_ram) {
            match devices.last_mut() {
                Some((last, count)) if last.end == place.start && kind(last) == kind(place) => {
                    last.end = place.end;
                    *count += 1;
                }
                _ => devices.push((place.clone(), 1)),
            }
        }
        let named = devices.into_iter().map(|(place, count)| match count {
            1 => place,
            _ => Place { name: format!("{}, {count} of them in a row", place.name), ..place },
        });
        named.collect()
    }

    /// What the host may do there.
    fn rights(piece: &Piece) -> String {
        let Some(attributes) = piece.attributes else { return "nothing".to_owned() };
        let can =
            [(attributes.can_read(), "read"), (attributes.can_write(), "write"), (attributes.can_execute(), "execute")];
        let can: Vec<&str> = can.into_iter().filter(|&(can, _)| can).map(|(_, word)| word).collect();
        if can.is_empty() { "nothing".to_owned() } else { can.join(", ") }
    }

    /// What else there is to say: the type of the memory if it is not the usual one, and where it leads.
    fn remarks(piece: &Piece) -> Vec<String> {
        let mut remarks = Vec::new();
        let Some(attributes) = piece.attributes else { return remarks };
        if attributes.memory() != "Normal Write-Back" {
            remarks.push(attributes.memory().to_owned());
        }
        if !attributes.is_accessed() {
            remarks.push("the first access faults".to_owned());
        }
        if piece.offset != 0 {
            remarks.push(format!("NOT IDENTITY: leads to {:#x}", piece.start.wrapping_add(piece.offset)));
        }
        remarks
    }

    /// Of which blocks it is made.
    fn blocks(piece: &Piece) -> String {
        let blocks = piece.blocks.iter().rev().map(|(length, count)| format!("{count} x {}", size(*length)));
        blocks.collect::<Vec<_>>().join(", ")
    }

    /// What is there, in words.
    fn what(&self, piece: &Piece) -> &'static str {
        match self.sort(piece) {
            Sort::Ram => "RAM",
            Sort::Device if self.in_it(piece).next().is_some() => "devices",
            Sort::Device => "nothing that the device tree names",
            Sort::Exeunt => "Exeunt",
            Sort::Box => "Exeunt's black box",
            Sort::Hole => "not mapped",
        }
    }

    fn head(&self) -> String {
        let Shape { bits, start, .. } = self.shape;
        format!(
            "stage 2 of CPU {}: addresses of {bits} bits, {} from level {start} on; VTCR_EL2 {:#x}, VTTBR_EL2 {:#x}",
            self.cpu,
            match self.shape.first_tables() {
                1 => "one table".to_owned(),
                tables => format!("{tables} tables in a row"),
            },
            self.registers.0,
            self.registers.1
        )
    }

    /// RAM of the tree, RAM that the host has, and whether all addresses mean what they say.
    fn sums(&self) -> String {
        let named: u64 = self.places.iter().filter(|place| place.is_ram).map(|place| place.end - place.start).sum();
        let ram = |piece: &&Piece| self.sort(piece) == Sort::Ram;
        let has: u64 = self
            .pieces
            .iter()
            .filter(ram)
            .flat_map(|piece| {
                self.in_it(piece)
                    .filter(|place| place.is_ram)
                    .map(|place| place.end.min(piece.end) - place.start.max(piece.start))
            })
            .sum();
        let moved = self.pieces.iter().filter(|piece| piece.offset != 0).count();
        let identity = if moved == 0 {
            "every address is the physical one".to_owned()
        } else {
            format!("{moved} ranges lead elsewhere")
        };
        format!("RAM: {} by the device tree, of which the host has {}; {identity}", size(named), size(has))
    }

    /// The map for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n\n", self.machine, self.head());
        let _ = writeln!(text, "{:14}  {:14}  {:>10}  the host may          what is there", "from", "to", "size");
        for piece in &self.pieces {
            let mut line = format!(
                "{:#014x}  {:#014x}  {:>10}  {:20}  {} ({})",
                piece.start,
                piece.end - 1,
                size(piece.size()),
                Self::rights(piece),
                self.what(piece),
                Self::blocks(piece)
            );
            for remark in Self::remarks(piece) {
                let _ = write!(line, "; {remark}");
            }
            let _ = writeln!(text, "{line}");
            if self.sort(piece) == Sort::Device {
                for place in self.devices(piece) {
                    let _ = writeln!(
                        text,
                        "    {:#014x}  {:#014x}  {:>10}  {}",
                        place.start,
                        place.end - 1,
                        size(place.end - place.start),
                        place.name
                    );
                }
            }
        }
        let _ = writeln!(text, "\n{}", self.sums());
        text
    }

    /// The map for a browser.
    #[must_use]
    pub fn page(&self) -> String {
        let mut bands = String::new();
        for piece in &self.pieces {
            let sort = self.sort(piece);
            let _ = writeln!(
                bands,
                "<section class=\"band {}\" style=\"min-height:{:.1}rem\">",
                sort.class(),
                height(piece)
            );
            let _ = writeln!(
                bands,
                "<h2>{} <small>{}</small></h2>\n<p class=\"at\">{:#014x} &ndash; {:#014x}</p>",
                escaped(self.what(piece)),
                size(piece.size()),
                piece.start,
                piece.end - 1
            );
            let mut facts = format!("the host may: {}; made of {}", Self::rights(piece), Self::blocks(piece));
            for remark in Self::remarks(piece) {
                let _ = write!(facts, "; {remark}");
            }
            let _ = writeln!(bands, "<p>{}</p>", escaped(&facts));
            if sort == Sort::Device {
                bands.push_str("<ul>\n");
                for place in self.devices(piece) {
                    let _ = writeln!(
                        bands,
                        "<li><span class=\"at\">{:#x}</span> {} <small>{}</small></li>",
                        place.start,
                        escaped(&place.name),
                        size(place.end - place.start)
                    );
                }
                bands.push_str("</ul>\n");
            }
            bands.push_str("</section>\n");
        }
        let legend = Sort::ALL.into_iter().fold(String::new(), |mut legend, sort| {
            let _ = write!(legend, "<li><span class=\"key {}\"></span>{}</li>", sort.class(), escaped(sort.words()));
            legend
        });
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>Stage 2 of a machine under Exeunt</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <h1>The host's stage 2</h1>\n<p>{}</p>\n<p>{}</p>\n<p>{}</p>\n<ul class=\"legend\">{legend}</ul>\n\
             {}\n<p class=\"note\">Below, the heights grow with the logarithm of the sizes. The lowest address is on \
             top.</p>\n{bands}</main>\n</body>\n</html>\n",
            escaped(&self.machine),
            escaped(&self.head()),
            escaped(&self.sums()),
            self.to_scale()
        )
    }

    /// A drawing to scale of what lies around RAM: up to the end of the last RAM that the tree names.
    fn to_scale(&self) -> String {
        const WIDTH: f64 = 1000.0;
        let Some(end) = self.places.iter().filter(|place| place.is_ram).map(|place| place.end).max() else {
            return String::new();
        };
        // In KiB, which a float has room for.
        let scale = |address: u64| {
            let kib = |address: u64| f64::from(u32::try_from(address >> 10).unwrap_or(u32::MAX));
            kib(address.min(end)) / kib(end).max(1.0) * WIDTH
        };
        let mut rects = String::new();
        let mut drawn: Vec<&Piece> = self.pieces.iter().filter(|piece| piece.start < end).collect();
        // What is too thin to be seen gets a hair's breadth, and lies on top.
        drawn.sort_by_key(|piece| std::cmp::Reverse(piece.size()));
        for piece in drawn {
            let width = (scale(piece.end) - scale(piece.start)).max(5.0);
            let _ = write!(
                rects,
                "<rect class=\"{}\" x=\"{:.2}\" y=\"0\" width=\"{width:.2}\" height=\"60\">\
                 <title>{}: {:#x} to {:#x}, {}</title></rect>",
                self.sort(piece).class(),
                scale(piece.start),
                escaped(self.what(piece)),
                piece.start,
                piece.end - 1,
                size(piece.size())
            );
        }
        format!(
            "<svg viewBox=\"0 0 {WIDTH} 60\" role=\"img\" aria-label=\"The map to scale\" preserveAspectRatio=\"none\">\
             {rects}</svg>\n<p class=\"note\">To scale, from address 0 to the end of RAM at {end:#x}.</p>"
        )
    }
}

/// In rem: 4 KiB take 3, each doubling a quarter more.
fn height(piece: &Piece) -> f64 {
    3.0 + 0.25 * (f64::from(piece.size().ilog2()) - 12.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "\
:root { color-scheme: light dark; --ram: #b7e0b1; --device: #c9d8f0; --exeunt: #e3a5a0; --box: #f2d48a; \
--hole: #d8d8d8; --ink: #1b1b1b; --paper: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ram: #2f5f33; --device: #2d4266; --exeunt: #7c3833; --box: #6b5516; \
--hole: #444444; --ink: #f0f0f0; --paper: #161616; } }
body { margin: 0; font: 1rem/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
main { max-width: 46rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; }
h2 { font-size: 1rem; margin: 0; }
small { font-weight: normal; opacity: .8; }
p { margin: .3rem 0; overflow-wrap: anywhere; }
.at { font-family: ui-monospace, monospace; font-size: .85rem; }
.note { font-size: .85rem; opacity: .8; }
.band { padding: .5rem .75rem; border: 1px solid var(--paper); border-radius: .3rem; box-sizing: border-box; }
.band ul { margin: .3rem 0; padding-left: 1.1rem; font-size: .9rem; overflow-wrap: anywhere; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .9rem; }
.key { display: inline-block; width: 1rem; height: 1rem; border-radius: .2rem; margin-right: .4rem; \
vertical-align: -.15rem; }
.ram { background: var(--ram); fill: var(--ram); }
.device { background: var(--device); fill: var(--device); }
.exeunt { background: var(--exeunt); fill: var(--exeunt); }
.box { background: var(--box); fill: var(--box); }
.hole { background: var(--hole); fill: var(--hole); }
svg { width: 100%; height: 3.5rem; display: block; }
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::walk::{Attributes, walk};
    use super::*;

    /// A machine with 1 GiB from 1 GiB on, Exeunt in its second 2 MiB, and the box at their end.
    fn map() -> Map {
        const LEAF: u64 = 0x7fd;
        const XN: u64 = 1 << 54;
        let read = &mut |table: u64, entries: usize| {
            let of = |index: usize| match (table, index as u64) {
                (0x1000, 1) => 0x2003,
                (0x1000, index) => index << 30 | LEAF | XN,
                (0x2000, 1) => 0x3003,
                (0x2000, index) => (0x4000_0000 + (index << 21)) | LEAF,
                (0x3000, index) if index < 496 => 0,
                (_, index) => (0x4020_0000 + (index << 12)) | 0x77f | XN,
            };
            Ok((0..entries).map(of).collect())
        };
        let shape = Shape { bits: 39, start: 1, root: 0x1000 };
        let place = |start, size, name: &str, is_ram| Place { start, end: start + size, name: name.to_owned(), is_ram };
        Map {
            machine: "Linux <6> & more".to_owned(),
            cpu: 0,
            registers: (0x8002_3558, 0x1000),
            shape,
            pieces: walk(shape, read).unwrap(),
            places: vec![
                place(0x0900_0000, 0x1000, "pl011@9000000", false),
                place(0x0a00_0000, 0x200, "virtio_mmio@a000000", false),
                place(0x0a00_0200, 0x200, "virtio_mmio@a000200", false),
                place(0x0a00_0400, 0x200, "virtio_mmio@a000400", false),
                place(0x0a00_0800, 0x200, "virtio_mmio@a000800", false),
                place(0x4000_0000, 1 << 30, "RAM", true),
            ],
            exeunt: (0x4020_0000, 0x4040_0000),
            black_box: Some(0x403f_0000),
        }
    }

    #[test]
    fn the_text_says_what_is_where() {
        assert_eq!(
            map().text(),
            "Linux <6> & more\n\
             stage 2 of CPU 0: addresses of 39 bits, one table from level 1 on; VTCR_EL2 0x80023558, VTTBR_EL2 \
             0x1000\n\n\
             from            to                    size  the host may          what is there\n\
             0x000000000000  0x00003fffffff       1 GiB  read, write           devices (1 x 1 GiB)\n    \
             0x000009000000  0x000009000fff       4 KiB  pl011@9000000\n    \
             0x00000a000000  0x00000a0005ff  1536 bytes  virtio_mmio@a000000, 3 of them in a row\n    \
             0x00000a000800  0x00000a0009ff   512 bytes  virtio_mmio@a000800\n\
             0x000040000000  0x0000401fffff       2 MiB  read, write, execute  RAM (1 x 2 MiB)\n\
             0x000040200000  0x0000403effff    1984 KiB  nothing               Exeunt (496 x 4 KiB)\n\
             0x0000403f0000  0x0000403fffff      64 KiB  read                  Exeunt's black box (16 x 4 KiB)\n\
             0x000040400000  0x00007fffffff    1020 MiB  read, write, execute  RAM (510 x 2 MiB)\n\
             0x000080000000  0x007fffffffff     510 GiB  read, write           nothing that the device tree names \
             (510 x 1 GiB)\n\n\
             RAM: 1 GiB by the device tree, of which the host has 1022 MiB; every address is the physical one\n"
        );
    }

    #[test]
    fn the_page_needs_nothing_beside_it() {
        let page = map().page();
        for words in
            ["Linux &lt;6&gt; &amp; more", "pl011@9000000", "Exeunt's black box", "width=device-width", "<svg "]
        {
            assert!(page.contains(words), "{words}");
        }
        for outside in ["http://", "https://", "src=", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<section").count(), map().pieces.len());
        assert_eq!(page.matches("<rect").count(), 5, "the drawing to scale ends with RAM");
        assert_eq!(page.matches("<section").count(), page.matches("</section>").count());
    }

    #[test]
    fn what_is_not_identity_is_shouted() {
        let mut map = map();
        let device = Attributes::default();
        map.pieces = vec![Piece {
            start: 0,
            end: 4096,
            attributes: Some(device),
            offset: 0x1000,
            blocks: BTreeMap::from([(4096, 1)]),
        }];
        let text = map.text();
        assert!(text.contains("NOT IDENTITY: leads to 0x1000"), "{text}");
        assert!(text.contains("1 ranges lead elsewhere") && text.contains("Device; the first access faults"), "{text}");
    }

    #[test]
    fn sizes_are_whole() {
        assert_eq!(
            [4096, 2 << 20, 1020 << 20, 3 << 40, 100].map(size),
            ["4 KiB", "2 MiB", "1020 MiB", "3 TiB", "100 bytes"]
        );
    }
}
