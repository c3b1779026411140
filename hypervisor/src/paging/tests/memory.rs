//! A fake [`TableMemory`] for tests: pages in a vector, an upper limit, and a record of what was done to them.
//!
//! Checks on the way that the engine keeps to the contract: only pages that were given out are touched, nothing is
//! freed twice.

use std::cell::RefCell;

use crate::paging::TableMemory;

/// What the engine did, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Alloc { table: u64 },
    Free { table: u64 },
    Write { table: u64, index: usize, descriptor: u64 },
    Fence,
    Invalidate,
}

/// A page that nobody uses.
const FREE: usize = usize::MAX;

/// Memory for tables from `base` on.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    base: u64,
    /// For each page the number of the first page of the allocation that it belongs to, or [`FREE`].
    owner: Vec<usize>,
    /// Boxed for Miri: borrowing one slice of all descriptors for each access makes it crawl.
    content: Vec<Box<[u64; 512]>>,
    /// How many pages may be in use at the same time.
    pub limit: usize,
    /// Recorded if there.
    pub events: Option<Vec<Event>>,
}

impl Memory {
    /// No limit but that of the test machine.
    pub fn new() -> Self {
        Self::at(0x4020_0000)
    }

    /// The same with pages from `base` (a multiple of 64 KiB) on.
    pub fn at(base: u64) -> Self {
        Self { base, owner: Vec::new(), content: Vec::new(), limit: usize::MAX, events: None }
    }

    /// Number of pages in use.
    pub fn used(&self) -> usize {
        self.owner.iter().filter(|&&owner| owner != FREE).count()
    }

    fn number(&self, table: u64) -> usize {
        assert!(table >= self.base && table.is_multiple_of(4096), "{table:#x} is no table");
        ((table - self.base) / 4096) as usize
    }

    /// Position of a descriptor, checked to be in the allocation that begins at `table`.
    fn place(&self, table: u64, index: usize) -> (usize, usize) {
        let first = self.number(table);
        let page = first + index / 512;
        assert!(self.owner[page] == first, "descriptor {index} of {table:#x} is not ours");
        (page, index % 512)
    }

    /// What a table walk reads at a physical address.
    pub fn load(&self, address: u64) -> u64 {
        let page = self.number(address & !0xfff);
        assert!(self.owner[page] != FREE, "walk through a free page at {address:#x}");
        self.content[page][(address % 4096 / 8) as usize]
    }

    pub fn record(&mut self, event: Event) {
        if let Some(events) = &mut self.events {
            events.push(event);
        }
    }
}

impl TableMemory for Memory {
    fn alloc(&mut self, pages: usize) -> Option<u64> {
        assert!(pages.is_power_of_two() && pages <= 16);
        if self.used() + pages > self.limit {
            return None;
        }
        let fits = |first: usize| {
            first.is_multiple_of(pages) && self.owner[first..].iter().take(pages).all(|&owner| owner == FREE)
        };
        let first =
            (0..=self.owner.len()).find(|&first| fits(first)).unwrap_or(self.owner.len().next_multiple_of(pages));
        let end = self.owner.len().max(first + pages);
        self.owner.resize(end, FREE);
        self.content.resize_with(end, || Box::new([0; 512]));
        self.owner[first..first + pages].fill(first);
        self.content[first..first + pages].fill_with(|| Box::new([0; 512]));
        let table = self.base + first as u64 * 4096;
        self.record(Event::Alloc { table });
        Some(table)
    }

    fn free(&mut self, table: u64) {
        let page = self.number(table);
        assert!(self.owner[page] == page, "{table:#x} freed twice, or never given out");
        assert!(self.owner.get(page + 1) != Some(&page), "the initial tables are never freed");
        self.owner[page] = FREE;
        self.record(Event::Free { table });
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        let (page, index) = self.place(table, index);
        self.content[page][index]
    }

    fn write(&mut self, table: u64, index: usize, descriptor: u64) {
        let (page, place) = self.place(table, index);
        self.content[page][place] = descriptor;
        self.record(Event::Write { table, index, descriptor });
    }

    fn fence(&mut self) {
        self.record(Event::Fence);
    }
}

/// Memory that a test looks into while a change has it.
impl TableMemory for &RefCell<Memory> {
    fn alloc(&mut self, pages: usize) -> Option<u64> {
        self.borrow_mut().alloc(pages)
    }

    fn free(&mut self, table: u64) {
        self.borrow_mut().free(table);
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        self.borrow().read(table, index)
    }

    fn write(&mut self, table: u64, index: usize, descriptor: u64) {
        self.borrow_mut().write(table, index, descriptor);
    }

    fn fence(&mut self) {
        self.borrow_mut().fence();
    }
}
