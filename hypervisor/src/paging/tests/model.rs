//! What a sequence of changes ought to mean, said as simply as possible: the last change that covers an address
//! decides.
//!
//! Also the two things that are tested, stage 2 and EL2's stage 1, behind one trait, so that every test is made for
//! both.

use std::fmt::Debug;
use std::ops::Range;

use super::memory::Memory;
use super::thinned;
use super::walker::{self, Fault, Found, Kind, S1, S2};
use crate::paging::registers::{MAIR_EL2, PaRange};
use crate::paging::stage1::Stage1;
use crate::paging::stage2::{Layout, Stage2};
use crate::paging::{Error, stage1, stage2};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const TIB: u64 = 1 << 40;

/// One change: a range, and what it becomes (output address of its first byte, permissions; `None` is a hole).
#[derive(Clone, Debug)]
pub(crate) struct Step<P> {
    pub range: Range<u64>,
    pub to: Option<(u64, P)>,
}

/// All changes so far.
#[derive(Clone, Debug)]
pub(crate) struct Model<P> {
    steps: Vec<Step<P>>,
}

impl<P: Copy + PartialEq> Model<P> {
    /// Nothing is mapped in an address space of `bits` bits.
    pub fn new(bits: u32) -> Self {
        Self { steps: vec![Step { range: 0..1 << bits, to: None }] }
    }

    pub fn add(&mut self, step: Step<P>) {
        self.steps.push(step);
    }

    /// Which change decides about `input`.
    fn decider(&self, input: u64) -> usize {
        self.steps.iter().rposition(|step| step.range.contains(&input)).expect("outside of the address space")
    }

    /// Output address and permissions for `input`.
    pub fn expect(&self, input: u64) -> Option<(u64, P)> {
        let step = &self.steps[self.decider(input)];
        step.to.map(|(output, permissions)| (output + (input - step.range.start), permissions))
    }

    /// The level of the largest block that can stand for `input`: one that the deciding change covers wholly, with its
    /// output aligned alike, and that no later change has cut. Larger ones may be in place where they say the same.
    pub fn level(&self, input: u64) -> u32 {
        let decider = self.decider(input);
        let step = &self.steps[decider];
        let shift_of = |level: u32| 39 - 9 * level;
        let first_level = u32::from(step.to.is_some());
        (first_level..3)
            .find(|&level| {
                let size = 1 << shift_of(level);
                let block = input / size * size..(input / size + 1) * size;
                let aligned = step.to.is_none_or(|(output, _)| output.abs_diff(step.range.start) % size == 0);
                let covered = step.range.start <= block.start && block.end <= step.range.end;
                let cut = |later: &Step<P>| later.range.start < block.end && block.start < later.range.end;
                aligned && covered && !self.steps[decider + 1..].iter().any(cut)
            })
            .unwrap_or(3)
    }

    /// Where what is expected may change, in ascending order, with the end of the address space.
    pub fn edges(&self) -> Vec<u64> {
        let mut edges: Vec<u64> = self.steps.iter().flat_map(|step| [step.range.start, step.range.end]).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    /// Addresses at which something is most likely to be wrong: around each edge, and around the borders of the blocks
    /// that contain it.
    pub fn probes(&self) -> Vec<u64> {
        let end = self.steps[0].range.end;
        let mut probes = Vec::new();
        for edge in self.edges() {
            for size in [4 * KIB, 2 * MIB, GIB, 512 * GIB] {
                let below = edge / size * size;
                for place in [below, below + size] {
                    probes.extend([place.wrapping_sub(1), place, place + 4 * KIB, place + 0xabc]);
                }
            }
        }
        probes.retain(|&probe| probe < end);
        probes.sort_unstable();
        probes.dedup();
        let one_of = probes.len() / 8 + 1;
        thinned(probes, one_of).collect()
    }
}

/// A stage of translation under test.
pub(crate) trait Subject: Sized {
    /// Permissions as the walker answers them.
    type P: Copy + Debug + PartialEq;

    fn bits(&self) -> u32;
    fn apply(&mut self, memory: &mut Memory, step: &Step<Self::P>) -> Result<(), Error>;
    /// The independent walker.
    fn walk(&self, memory: &Memory, input: u64) -> Result<Found<Self::P>, Fault>;
    /// The builder's own lookup, in the walker's words.
    fn query(&self, memory: &Memory, input: u64) -> Option<Found<Self::P>>;
    /// Root address, number of root pages and their level.
    fn root(&self) -> (u64, usize, u32);
}

/// A stage 2 on a certain CPU.
pub(crate) struct SecondStage {
    pub tables: Stage2,
    /// ID_AA64MMFR0_EL1.PARange.
    parange: u64,
}

impl SecondStage {
    pub fn new(memory: &mut Memory, ipa_bits: u32, parange: u64) -> Self {
        let layout = Layout::new(ipa_bits, PaRange::from_id_aa64mmfr0(parange)).expect("a possible size");
        Self { tables: Stage2::new(memory, layout).expect("enough memory"), parange }
    }
}

/// What stage 2 can say, in the walker's words.
pub(crate) const STAGE_2_ATTRIBUTES: [(stage2::Attributes, S2); 3] = {
    let all = S2 { kind: Kind::NormalWriteBackInnerShareable, read: true, write: true, execute: true };
    [
        (stage2::Attributes::Executable, all),
        (stage2::Attributes::ExecuteNever, S2 { execute: false, ..all }),
        (stage2::Attributes::ReadOnly, S2 { write: false, execute: false, ..all }),
    ]
};

impl Subject for SecondStage {
    type P = S2;

    fn bits(&self) -> u32 {
        self.tables.layout().ipa_bits()
    }

    fn apply(&mut self, memory: &mut Memory, step: &Step<S2>) -> Result<(), Error> {
        match step.to {
            Some((output, permissions)) => {
                assert_eq!(output, step.range.start, "stage 2 is identity");
                let (attributes, _) = STAGE_2_ATTRIBUTES.into_iter().find(|(_, found)| *found == permissions).unwrap();
                self.tables.map(memory, step.range.clone(), attributes)
            }
            None => self.tables.unmap(memory, step.range.clone()),
        }
    }

    fn walk(&self, memory: &Memory, input: u64) -> Result<Found<S2>, Fault> {
        let load = |address| memory.load(address);
        walker::stage2(self.tables.vtcr_el2(), self.tables.vttbr_el2(), self.parange, input, load)
    }

    fn query(&self, memory: &Memory, input: u64) -> Option<Found<S2>> {
        let mapping = self.tables.query(memory, input)?;
        let (_, permissions) = STAGE_2_ATTRIBUTES.into_iter().find(|(known, _)| *known == mapping.attributes).unwrap();
        Some(Found { pa: mapping.output, level: mapping.level.into(), permissions })
    }

    fn root(&self) -> (u64, usize, u32) {
        let layout = self.tables.layout();
        (self.tables.vttbr_el2(), layout.root_pages(), layout.start_level().into())
    }
}

/// EL2's stage 1 on a certain CPU.
pub(crate) struct FirstStage {
    pub tables: Stage1,
    /// ID_AA64MMFR0_EL1.PARange.
    parange: u64,
}

/// What EL2 code can ask for, in the walker's words.
pub(crate) const STAGE_1_ATTRIBUTES: [(stage1::Attributes, S1); 4] = {
    let normal = Kind::NormalWriteBackInnerShareable;
    [
        (stage1::Attributes::Text, S1 { kind: normal, write: false, execute: true }),
        (stage1::Attributes::Rodata, S1 { kind: normal, write: false, execute: false }),
        (stage1::Attributes::Data, S1 { kind: normal, write: true, execute: false }),
        (stage1::Attributes::Device, S1 { kind: Kind::DeviceNgnre, write: true, execute: false }),
    ]
};

impl FirstStage {
    pub fn new(memory: &mut Memory, parange: u64) -> Self {
        let tables = Stage1::new(memory, PaRange::from_id_aa64mmfr0(parange)).expect("enough memory");
        Self { tables, parange }
    }
}

impl Subject for FirstStage {
    type P = S1;

    fn bits(&self) -> u32 {
        48
    }

    fn apply(&mut self, memory: &mut Memory, step: &Step<S1>) -> Result<(), Error> {
        match step.to {
            Some((output, permissions)) => {
                let (attributes, _) = STAGE_1_ATTRIBUTES.into_iter().find(|(_, found)| *found == permissions).unwrap();
                self.tables.map(memory, step.range.clone(), output, attributes)
            }
            None => self.tables.unmap(memory, step.range.clone()),
        }
    }

    fn walk(&self, memory: &Memory, input: u64) -> Result<Found<S1>, Fault> {
        let load = |address| memory.load(address);
        walker::stage1_el2(self.tables.tcr_el2(), self.tables.ttbr0_el2(), MAIR_EL2, self.parange, input, load)
    }

    fn query(&self, memory: &Memory, input: u64) -> Option<Found<S1>> {
        let mapping = self.tables.query(memory, input)?;
        let (_, permissions) = STAGE_1_ATTRIBUTES.into_iter().find(|(known, _)| *known == mapping.attributes).unwrap();
        Some(Found { pa: mapping.output, level: mapping.level.into(), permissions })
    }

    fn root(&self) -> (u64, usize, u32) {
        (self.tables.ttbr0_el2(), 1, 0)
    }
}

/// A subject with its memory and its model.
pub(crate) struct Bench<S: Subject> {
    pub subject: S,
    pub memory: Memory,
    pub model: Model<S::P>,
}

impl<S: Subject> Bench<S> {
    pub fn new(mut memory: Memory, make: impl FnOnce(&mut Memory) -> S) -> Self {
        let subject = make(&mut memory);
        let model = Model::new(subject.bits());
        Self { subject, memory, model }
    }

    /// Makes a change in the tables and in the model.
    pub fn apply(&mut self, step: Step<S::P>) -> Result<(), Error> {
        self.subject.apply(&mut self.memory, &step)?;
        self.model.add(step);
        Ok(())
    }

    /// Compares tables, model and builder's lookup at `input`; returns the level at which the walk ended.
    pub fn check(&self, input: u64) -> u32 {
        let walked = self.subject.walk(&self.memory, input);
        let (level, found) = match walked {
            Ok(found) => (found.level, Some((found.pa, found.permissions))),
            Err(Fault::Translation(level)) => (level, None),
            Err(fault) => panic!("{input:#x}: {fault:x?}"),
        };
        assert_eq!(found, self.model.expect(input), "translation of {input:#x}");
        let (.., first_level) = self.subject.root();
        assert!(
            level <= self.model.level(input).max(first_level),
            "{input:#x} ends at level {level}, a larger block would do"
        );
        assert_eq!(self.subject.query(&self.memory, input), walked.ok(), "lookup of {input:#x}");
        level
    }

    /// [`Bench::check`] where something is likely to be wrong.
    pub fn check_probes(&self) {
        for probe in self.model.probes() {
            self.check(probe);
        }
    }

    /// Compares the whole address space: every block, page and hole is looked at from its first to its last byte.
    pub fn sweep(&self) {
        if cfg!(miri) {
            return self.check_probes();
        }
        let edges = self.model.edges();
        let end = 1 << self.subject.bits();
        let mut edges = edges.into_iter().peekable();
        let mut at = 0;
        while at < end {
            let level = self.check(at);
            let entry = 1_u64 << (39 - 9 * level);
            while edges.next_if(|&edge| edge <= at).is_some() {}
            let until = (at / entry * entry + entry).min(*edges.peek().unwrap_or(&end));
            self.check(until - 1);
            at = until;
        }
    }

    /// Physical addresses of all tables that a walk can reach, one for each 4 KiB.
    pub fn reachable(&self) -> Vec<u64> {
        let (root, pages, level) = self.subject.root();
        let mut found = Vec::new();
        let mut todo: Vec<(u64, u32)> = (0..pages as u64).map(|page| (root + page * 4096, level)).collect();
        while let Some((table, level)) = todo.pop() {
            found.push(table);
            if level < 3 {
                let entries = (0..512).map(|index| self.memory.load(table + index * 8));
                let tables = entries.filter(|entry| entry % 4 == 3);
                todo.extend(tables.map(|entry| (entry % (1 << 48) / 4096 * 4096, level + 1)));
            }
        }
        found.sort_unstable();
        found
    }
}
