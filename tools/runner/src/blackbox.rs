//! Exeunt's black box in what a run has left: found, said in words, and compared with what the run knows.
//!
//! The search is exeunt-dump's, the words are exeunt-view's. Owns how both are asked here, and what a box has to say of
//! a host that died in a way that the runner has chosen.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use dump::{Found, Options};
use guest_abi::blackbox::{Kind, Stop as Why};
use guest_abi::stub;
use view::Report;
use view::report::Stop;

use crate::restart::{Entry, Policy};
use crate::workstation::Places;

/// How many of each CPU's last exits are shown after a run.
const EXITS: usize = 4;

/// Finds the box in a dump.
///
/// # Errors
/// There is none; in words.
pub fn find(dump: &Path, places: &Places) -> Result<Found, String> {
    dump::find(dump, &Options { python: places.target().join("drgn/bin/python"), ..Options::default() })
}

/// The box of a dump, and what it says: all, or in some ten lines.
///
/// # Errors
/// There is none; in words.
pub fn read(dump: &Path, places: &Places, short: bool) -> Result<(Report, String), String> {
    let found = find(dump, places)?;
    let report = Report::of(&found.black_box());
    let mut words: String = found.notes.iter().map(|note| note.clone() + "\n").collect();
    words += &if short { report.short().to_string() } else { report.text(EXITS).to_string() };
    Ok((report, words))
}

/// What a run knows of a host that died over Exeunt.
#[derive(Clone, Debug)]
pub struct Death {
    /// How it was entered.
    pub entry: Entry,
    /// What was to become of Exeunt.
    pub policy: Policy,
    /// The CPU on which it died.
    pub from: u32,
    /// How many there are.
    pub cpus: u32,
    /// So many of the others hang where they do not hear the host's stop.
    pub stuck: u32,
    /// Whether each of the others that hears it is known to have gone off by itself.
    pub others_go_off: bool,
    /// Whether it did not die at all, and Exeunt started its crash kernel.
    pub forced: bool,
    /// Whether Exeunt was made to die on a CPU.
    pub killed: bool,
    /// The machine's RAM.
    pub ram: Range<u64>,
}

impl Death {
    /// What the box says otherwise.
    #[must_use]
    pub fn compare(&self, with: &Report) -> Vec<String> {
        let mut wrong: Vec<String> = Vec::new();
        let mut check = |holds: bool, what: String| {
            if !holds {
                wrong.push(format!("the black box: {what}"));
            }
        };
        let (at_el2, stays) = (self.entry == Entry::VirtualEl2, self.policy == Policy::Resident);
        match &with.death {
            Some(death) if !self.killed => check(false, format!("Exeunt itself has died: {}", death.reason)),
            None if self.killed => check(false, "Exeunt has not died".to_owned()),
            _ => {}
        }
        let exeunt = &with.exeunt;
        check(u32::from(exeunt.cpus) == self.cpus, format!("it has {} CPUs", exeunt.cpus));
        check(exeunt.entry_level == if at_el2 { 2 } else { 1 }, format!("entered at EL{}", exeunt.entry_level));
        check(exeunt.stays_after_crash == stays, format!("Exeunt stays after a crash: {}", exeunt.stays_after_crash));
        let has_log = with.log_lost != 0 || with.log.contains(" INFO  Exeunt ");
        check(has_log && with.log.ends_with('\n'), format!("the log is not there, or is cut: {:?}", with.log));

        if self.killed {
            let died = with.stops.iter().filter(|stop| stop.why == Why::Died.words()).count();
            check(died == 1, format!("Exeunt died on {died} CPUs"));
            // The others are under Exeunt, or were called by it that has died.
            return wrong;
        }
        // A host at EL1 has nobody to call: it goes on at EL1, and Exeunt stays.
        let restarts: Vec<_> = with.life.iter().filter(|event| event.kind == Kind::SoftRestart as u16).collect();
        let exeunt = if stays { "stays" } else { "leaves" };
        let expected = (at_el2 && !self.forced).then(|| format!("CPU {}, after a crash; Exeunt {exeunt}", self.from));
        let seen = restarts.iter().map(|event| {
            let (_, rest) = event.words.split_once(", ").unwrap_or_default();
            format!("CPU {}, {rest}", event.cpu)
        });
        let seen: Vec<String> = seen.collect();
        check(seen.iter().eq(&expected), format!("SOFT_RESTART by {seen:?}, and not by {expected:?}"));

        let stopped: Vec<u16> = with.stops.iter().map(|stop| stop.cpu).collect();
        let once: BTreeSet<u16> = stopped.iter().copied().collect();
        check(once.len() == stopped.len(), format!("a CPU has stopped twice: {stopped:?}"));
        let in_order = with.stops.is_sorted_by(|one, next| one.seconds <= next.seconds);
        check(in_order, "the CPUs have stopped in no order".to_owned());
        let has = |why: Why| with.stops.iter().filter(move |stop| stop.why == why.words());
        let off: BTreeSet<u32> = has(Why::Off).map(|stop| stop.cpu.into()).collect();
        let others: BTreeSet<u32> = (0..self.cpus).filter(|&cpu| cpu != self.from).collect();
        let caught: BTreeSet<u32> = has(Why::Caught).map(|stop| stop.cpu.into()).collect();
        if self.others_go_off {
            let on_their_way = on_their_way_off(&with.log);
            let hung = caught.difference(&on_their_way).count();
            let is_right = hung == self.stuck as usize && caught.is_subset(&others) && on_their_way.is_subset(&caught);
            check(is_right, format!("CPUs {caught:?} were caught, of {} that hang", self.stuck));
            let others: BTreeSet<u32> = others.difference(&caught).copied().collect();
            check(off == others, format!("CPUs {off:?} went off, and not {others:?}"));
        }
        let crashed = match self.entry {
            _ if self.forced => Why::Forced,
            Entry::VirtualEl2 => Why::SoftRestart,
            Entry::El1 => Why::Crashed,
        };
        let stop = if self.others_go_off { with.stops.last() } else { has(crashed).next() };
        let stop = stop.map(|stop| (u32::from(stop.cpu), stop.why.as_str()));
        let is_right = stop == Some((self.from, crashed.words()));
        check(is_right, format!("the last CPU that stopped, and why: {stop:?}"));
        for stop in &with.stops {
            if let Err(what) = self.are_plausible(stop) {
                check(false, format!("CPU {}: {what}", stop.cpu));
            }
        }
        wrong
    }

    /// Whether the registers of a CPU are those of a Linux at this place.
    fn are_plausible(&self, stop: &Stop) -> Result<(), String> {
        /// SCTLR_EL1.M.
        const MMU: u64 = 1;
        /// TTBR1_EL1.BADDR, without the bits that FEAT_LPA2 and FEAT_CnP have there.
        const TABLE: u64 = 0xffff_ffff_ffc0;
        const CPU_OFF: u64 = 0x8400_0002;
        /// Everything of the kernel's is above.
        const KERNEL: u64 = 0xffff << 48;
        let get = |name: &str| {
            let found = stop.registers.iter().find(|register| register.name == name);
            found.map(|register| register.value.0).ok_or_else(|| format!("there is no {name}"))
        };
        let is = |holds: bool, name: &str, value: u64| {
            if holds { Ok(()) } else { Err(format!("{}, and its {name} is {value:#x}", stop.why)) }
        };
        let [x0, x1, pc, sctlr, table, vectors] =
            [get("x0")?, get("x1")?, get("PC")?, get("SCTLR_EL1")?, get("TTBR1_EL1")?, get("VBAR_EL1")?];
        is(pc == stop.pc.0, "PC", pc)?;
        is(self.ram.contains(&(table & TABLE)), "TTBR1_EL1", table)?;
        is(vectors >= KERNEL, "VBAR_EL1", vectors)?;
        if stop.why == Why::Off.words() {
            is(x0 == CPU_OFF, "x0", x0)?;
            is(pc >= KERNEL, "PC", pc)?;
            is(sctlr & MMU != 0, "SCTLR_EL1", sctlr)?;
        } else if stop.why == Why::SoftRestart.words() {
            is(x0 == stub::SOFT_RESTART, "x0", x0)?;
            is(self.ram.contains(&x1), "x1", x1)?;
            // cpu_soft_restart is where virtual and physical addresses are the same.
            is(self.ram.contains(&pc), "PC", pc)?;
        } else if stop.why == Why::Crashed.words() {
            is(self.ram.contains(&pc), "PC", pc)?;
            is(sctlr & MMU == 0, "SCTLR_EL1", sctlr)?;
        }
        Ok(())
    }
}

/// How to see all of it.
#[must_use]
pub fn hint(dump: &Path, places: &Places) -> String {
    format!("the black box: scripts/exeunt-dump {}", places.short(dump))
}

/// The CPUs that Exeunt has caught between their last word and their CPU_OFF. A Linux that stops its other CPUs waits
/// until each has written its crash note (`waiting_for_crash_ipi`), and not until it is off: on a busy workstation it
/// calls SOFT_RESTART before the slowest is. Who hangs has written none.
fn on_their_way_off(log: &str) -> BTreeSet<u32> {
    let of = |line: &str| {
        let (_, rest) = line.split_once(": the crash note of CPU ")?;
        rest.strip_suffix(" stays as it is: it is written already")?.parse().ok()
    };
    log.lines().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use guest_abi::blackbox::BlackBox;
    use view::fixture::{self, Builder, EXEUNT};

    use super::*;

    const RAM: Range<u64> = 0x4000_0000..0x8000_0000;

    fn expected() -> Death {
        let (entry, policy) = (Entry::VirtualEl2, Policy::Resident);
        Death { entry, policy, from: 2, cpus: 4, stuck: 0, others_go_off: true, forced: false, killed: false, ram: RAM }
    }

    /// The others go off, and the third CPU starts the crash kernel over Exeunt.
    fn crashed() -> Builder {
        let mut b = fixture::boot();
        b.live.control = 4;
        b.log("[exeunt     0.011074 cpu0] INFO  Exeunt 0.1.0\n");
        for (turn, cpu) in [3, 0, 1].into_iter().enumerate() {
            b.event(5000 + turn as u64, cpu, Kind::CpuOff, 0, 0);
            stop(&mut b, cpu, 5000 + turn as u64, Why::Off);
        }
        b.event(5003, 2, Kind::SoftRestart, 0x6e99_a660, 3);
        stop(&mut b, 2, 5003, Why::SoftRestart);
        b
    }

    fn stop(b: &mut Builder, cpu: u16, micros: u64, why: Why) {
        let block = &mut b.cpus[usize::from(cpu)];
        (block.stop, block.stop_time, block.pstate) = (why as u32, Builder::at(micros), 0x3c5);
        (block.ttbr1_el1, block.vbar_el1) = (0x98_0000_4229_c001, 0xffff_a1c3_c841_0800);
        let restarts = why == Why::SoftRestart;
        block.pc = if restarts { 0x4229_80dc } else { 0xffff_a1c3_c844_3c88 };
        block.sctlr_el1 = 0x3050_0800 | u64::from(!restarts);
        (block.x[0], block.x[1]) = if restarts { (1, 0x6e99_a660) } else { (0x8400_0002, 0x1_0000) };
    }

    fn compare(death: &Death, with: &Builder) -> String {
        let bytes = with.build();
        death.compare(&Report::of(&BlackBox::new(&bytes, with.header.start).unwrap())).join("; ")
    }

    #[test]
    fn a_crash_is_what_the_run_has_asked_for() {
        assert_eq!(compare(&expected(), &crashed()), "");
        for (other, words) in [
            (Death { from: 1, ..expected() }, "SOFT_RESTART by [\"CPU 2, after a crash; Exeunt stays\"]"),
            (Death { policy: Policy::Leave, ..expected() }, "Exeunt stays after a crash: true"),
            (Death { entry: Entry::El1, ..expected() }, "entered at EL2"),
            (Death { entry: Entry::El1, ..expected() }, "and not by None"),
            (Death { entry: Entry::El1, ..expected() }, "and why: Some((2, \"it called SOFT_RESTART\"))"),
            (Death { cpus: 5, ..expected() }, "it has 4 CPUs"),
            (Death { ram: 0x4000_0000..0x4200_0000, ..expected() }, "TTBR1_EL1 is 0x98"),
        ] {
            let said = compare(&other, &crashed());
            assert!(said.contains(words), "{words}: {said}");
        }
    }

    #[test]
    fn whatever_is_missing_is_said() {
        type Change = fn(&mut Builder);
        let changes: [(Change, &str); 8] = [
            (|b| b.cpus[0].stop = 0, "CPUs {1, 3} went off, and not {0, 1, 3}"),
            (|b| b.cpus[0].stop_time = Builder::at(6000), "the last CPU that stopped, and why: Some((0, \"it went off"),
            (|b| b.cpus[3].x[0] = 0, "CPU 3: it went off by CPU_OFF, and its x0 is 0x0"),
            (|b| b.cpus[2].x[1] = EXEUNT - (1 << 30), "CPU 2: it called SOFT_RESTART, and its x1 is 0x200000"),
            (|b| b.cpus[1].vbar_el1 = 0, "CPU 1: it went off by CPU_OFF, and its VBAR_EL1 is 0x0"),
            (|b| b.cpus[1].pc = 0x4000_0000, "CPU 1: it went off by CPU_OFF, and its PC is"),
            (|b| b.death.cause = 2, "Exeunt itself has died"),
            (|b| _ = b.log("[exeunt 5.0 cpu0] INFO"), "the log is not there, or is cut"),
        ];
        for (change, words) in changes {
            let mut b = crashed();
            change(&mut b);
            let said = compare(&expected(), &b);
            assert!(said.contains(words), "{words}: {said}");
        }
        // Where Exeunt was made to die it has.
        let killed = Death { killed: true, ..expected() };
        assert!(compare(&killed, &crashed()).contains("Exeunt has not died; the black box: Exeunt died on 0 CPUs"));
        let mut dead = crashed();
        (dead.death.cause, dead.cpus[2].stop) = (1, Why::Died as u32);
        assert_eq!(compare(&killed, &dead), "");
        // One that hangs is caught, and no other.
        let stuck = |stuck| Death { stuck, ..expected() };
        let mut caught = crashed();
        (caught.cpus[0].stop, caught.cpus[0].x[0]) = (Why::Caught as u32, 7);
        assert_eq!(compare(&stuck(1), &caught), "");
        assert!(compare(&stuck(2), &caught).contains("CPUs {0} were caught, of 2 that"));
        assert!(compare(&expected(), &caught).contains("CPUs {0} were caught, of 0 that"));
        assert!(compare(&stuck(1), &crashed()).contains("CPUs {} were caught, of 1 that"));
        // Who was only slow to go off has written its note before.
        caught
            .log("[exeunt     5.0 cpu2] INFO  CPU 2: the crash note of CPU 0 stays as it is: it is written already\n");
        assert_eq!(compare(&expected(), &caught), "");
        assert!(compare(&stuck(1), &caught).contains("CPUs {0} were caught, of 1 that"));
        // Where one of the others is on its way, it need not have gone off.
        let mut hangs = crashed();
        hangs.cpus[0].stop = 0;
        assert_eq!(compare(&Death { others_go_off: false, ..expected() }, &hangs), "");
    }
}
