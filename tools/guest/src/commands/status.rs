//! `exeunt status`: the state of Exeunt and of each CPU. Owns what `exeunt` alone says from as well.

use std::fmt::Write;
use std::slice;

use guest_abi::blackbox::{Control, text as text_of};
use guest_abi::record::CPU_WATCHED;
use guest_abi::vendor::{Policy, Version};
use serde::Serialize;
use view::report::Count;
use view::words::{Clock, printable, state_name};

use super::{Context, Said};
use crate::host::list;
use crate::snapshot::Wanted;
use crate::trouble::{Trouble, status};
use crate::words;

/// Exeunt's state.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// Whether Exeunt is on any CPU: `present` or `left`.
    pub state: &'static str,
    /// Exeunt's version.
    pub version: String,
    /// Version of the ABI.
    pub abi: String,
    /// A debug build.
    pub debug: bool,
    /// Its options.
    pub options: String,
    /// Where the host's first instruction ran.
    pub entry: &'static str,
    /// How often it has started in this memory.
    pub starts: u32,
    /// Seconds since it started.
    pub seconds: f64,
    /// What it does at a restart.
    pub policy: Policies,
    /// LOCK was called.
    pub locked: bool,
    /// Exits are traced.
    pub tracing: bool,
    /// CPUs of the machine.
    pub cpus: u16,
    /// Those that are on and under Exeunt.
    pub under: Vec<u32>,
    /// Those that are on and that Exeunt has left.
    pub left: Vec<u32>,
    /// Those that are on and of which this program cannot tell, since it may not run there.
    pub beyond: Vec<u32>,
    /// All exits since the start.
    pub exits: u64,
    /// Exits since the start by class: those that there were.
    pub classes: Vec<Count>,
    /// Stores of the host's into the black box that had no effect.
    pub ignored_stores: u64,
    /// Wild accesses of the host's to the memory of its crash kernel.
    pub wild_accesses: u64,
    /// Where and why Exeunt has died, if it has since the machine was started: the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub died: Option<String>,
    /// Each CPU.
    pub each: Vec<Cpu>,
}

/// The policies.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Policies {
    /// At a kexec.
    pub kexec: &'static str,
    /// At a crash.
    pub crash: &'static str,
}

/// A CPU.
#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    /// Its number.
    pub cpu: usize,
    /// Its affinity, in hexadecimal.
    pub mpidr: String,
    /// What its EL2 is.
    pub state: String,
    /// Where the host's first instruction ran on it.
    pub entry: &'static str,
    /// The watchdog watches it.
    pub watched: bool,
    /// Its exits.
    pub exits: u64,
    /// How often Exeunt left it.
    pub departures: u32,
    /// How often it came back.
    pub returns: u32,
    /// What Exeunt did last on it.
    pub last: String,
}

/// Asks for all of it.
///
/// # Errors
/// As a call, and as the black box.
pub fn state(context: &Context<'_>) -> Result<State, Trouble> {
    let snapshot = context.snapshot(Wanted::default())?;
    let view = snapshot.view()?;
    let (header, live) = (view.core().header(), view.core().live());
    let control = Control::of(&live);
    let policy = |resident| if resident { Policy::Resident.words() } else { Policy::Leave.words() };
    let blocks = snapshot.cpus()?;
    let classes = Count::of_exits(&blocks);
    let version = Version::from_bits(header.exeunt_version);
    let each = blocks.iter().enumerate().map(|(cpu, block)| Cpu {
        cpu,
        mpidr: format!("{:#x}", block.mpidr),
        state: state_name(block.state),
        entry: words::level(block.entry_level),
        watched: block.flags & CPU_WATCHED != 0 && matches!(block.state, 1 | 2),
        exits: Count::sum(&Count::of_exits(slice::from_ref(block))),
        departures: block.departures,
        returns: block.returns,
        last: printable(text_of(&block.crumb)).trim_end().to_owned(),
    });
    let died = view.core().death().map(|death| {
        let seconds = Clock::of(header).seconds(death.time);
        format!("on CPU {} at {seconds:.3} s: {}", death.cpu, printable(text_of(&death.reason)))
    });
    Ok(State {
        state: if context.is_there() { "present" } else { "left" },
        version: format!("{}.{}.{}", version.major, version.minor, version.patch),
        abi: format!("{}.{}", header.abi_version >> 16, header.abi_version & 0xffff),
        debug: header.debug != 0,
        options: printable(text_of(&header.options)),
        entry: words::level(header.entry_level),
        starts: header.starts,
        seconds: Clock::of(header).seconds(context.host.time()).max(0.0),
        policy: Policies { kexec: policy(control.kexec_resident), crash: policy(control.crash_resident) },
        locked: control.locked,
        tracing: live.tracing != 0,
        cpus: header.cpus,
        under: context.under.clone(),
        left: context.left.clone(),
        beyond: context.beyond.clone(),
        exits: Count::sum(&classes),
        classes,
        ignored_stores: live.ignored_stores,
        wild_accesses: live.wild_accesses,
        died,
        each: each.collect(),
    })
}

/// The command.
///
/// # Errors
/// As [`state`].
pub fn run(context: &Context<'_>) -> Result<Said, Trouble> {
    let state = state(context)?;
    let left = if context.is_there() { 0 } else { status::LEFT };
    Ok(Said::new(text(&state), state).with_status(left))
}

fn text(state: &State) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<10}{value}");
    };
    let debug = if state.debug { ", a debug build" } else { "" };
    line("exeunt", &format!("{} (ABI {}{debug}), {}", state.version, state.abi, where_it_is(state)));
    let times = if state.starts > 1 { format!(", start {} in this memory", state.starts) } else { String::new() };
    line("started", &format!("{:.1} seconds ago{times}", state.seconds));
    if !state.options.is_empty() {
        line("options", &state.options);
    }
    line("entry", state.entry);
    line("kexec", state.policy.kexec);
    line("crash", state.policy.crash);
    line("locked", if state.locked { "yes" } else { "no" });
    line("tracing", if state.tracing { "on" } else { "off" });
    let watched: Vec<u32> = state.each.iter().filter(|cpu| cpu.watched).map(|cpu| cpu.cpu as u32).collect();
    line("watchdog", &if watched.is_empty() { "off".to_owned() } else { format!("watches CPU {}", list(&watched)) });
    line("exits", &state.exits.to_string());
    if state.ignored_stores > 0 {
        line("stores", &format!("{} into the black box, without effect", state.ignored_stores));
    }
    if state.wild_accesses > 0 {
        line("wild", &format!("{} to the memory of the crash kernel", state.wild_accesses));
    }
    if let Some(died) = &state.died {
        line("died", died);
    }
    let _ = writeln!(out, "\n CPU  state    entered at      exits  left  back  last");
    for cpu in &state.each {
        let _ = writeln!(
            out,
            "{:>4}  {:<7}  {:<11}  {:>8}  {:>4}  {:>4}  {}",
            cpu.cpu, cpu.state, cpu.entry, cpu.exits, cpu.departures, cpu.returns, cpu.last
        );
    }
    out
}

/// On which CPUs Exeunt is.
#[must_use]
pub fn where_it_is(state: &State) -> String {
    match (state.under.is_empty(), state.left.is_empty()) {
        (true, _) => "has left".to_owned(),
        (false, true) if state.beyond.is_empty() => "on every CPU that is on".to_owned(),
        (false, none_left) => {
            let left = if none_left { String::new() } else { format!(", no longer on CPU {}", list(&state.left)) };
            let beyond = match state.beyond.as_slice() {
                [] => String::new(),
                beyond => format!("; of CPU {} this program cannot tell, as it may not run there", list(beyond)),
            };
            format!("on CPU {}{left}{beyond}", list(&state.under))
        }
    }
}
