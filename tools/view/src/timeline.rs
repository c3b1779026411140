//! What each CPU did when: a box's events and exits, put together to spans of time.
//!
//! Owns how they are put together. A span is where the host was between two exits; the exits themselves are the time at
//! EL2. Where neither says anything the span is called unknown, and no more is drawn than the box tells.

use guest_abi::blackbox::{BlackBox, Event, IN_VIRTUAL_EL2, Kind, NO_RETURN, TraceRecord, WENT_NATIVE};

use crate::words::{Clock, ExitKind, exit_kind};

/// Where a CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The box does not tell.
    Unknown,
    /// Off, or not yet started.
    Off,
    /// Exeunt starts, on the way to the host's first instruction.
    Start,
    /// The host, at EL0 with EL2 emulated.
    VirtualEl2,
    /// The host, in hardware.
    El1,
    /// Suspended by the host.
    Suspended,
    /// On its own: Exeunt has left it.
    Outside,
}

impl State {
    /// All, in the order of a page's numbers.
    pub const ALL: [Self; 7] =
        [Self::Unknown, Self::Off, Self::Start, Self::VirtualEl2, Self::El1, Self::Suspended, Self::Outside];

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Unknown => "not recorded",
            Self::Off => "off",
            Self::Start => "Exeunt starts (EL2)",
            Self::VirtualEl2 => "virtual EL2",
            Self::El1 => "EL1",
            Self::Suspended => "suspended",
            Self::Outside => "without Exeunt",
        }
    }
}

/// A span of one CPU's time, in counter values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its begin.
    pub from: u64,
    /// Its end.
    pub to: u64,
    /// Where the CPU was.
    pub state: State,
}

/// One CPU's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// The CPU's number.
    pub cpu: u16,
    /// From Exeunt's first instruction to the end of what is known, without a gap.
    pub spans: Vec<Span>,
    /// The exits that are kept, the oldest first.
    pub exits: Vec<TraceRecord>,
    /// How many were traced before them, and are lost.
    pub lost: u64,
}

/// All of a box.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// How times become seconds.
    pub clock: Clock,
    /// The counter at Exeunt's first instruction.
    pub begin: u64,
    /// The last time that the box knows of.
    pub end: u64,
    /// The CPUs.
    pub tracks: Vec<Track>,
    /// The life cycle, the oldest first.
    pub events: Vec<Event>,
}

/// How long a record's time may lie before the start or behind all others until it counts as damage: a century.
const CENTURY: u64 = 100 * 366 * 24 * 3600;

impl Timeline {
    /// Of a box.
    #[must_use]
    pub fn of(of: &BlackBox<'_>) -> Self {
        let header = of.core().header();
        let clock = Clock::of(header);
        let begin = header.started;
        let latest = begin.saturating_add(header.frequency.saturating_mul(CENTURY));
        let known = |time: u64| (begin..=latest).contains(&time);
        let mut events: Vec<Event> = of.core().events().filter(|event| known(event.time)).collect();
        // CPUs take their number and then the time, each at its own pace.
        events.sort_by_key(|event| event.time);
        let mut end = events.last().map_or(begin, |event| event.time);
        let mut exits = Vec::new();
        for cpu in 0..header.cpus {
            let mut of_cpu: Vec<TraceRecord> = of.trace(cpu).filter(|record| known(record.time)).collect();
            of_cpu.sort_by_key(|record| record.time);
            end = of_cpu.iter().fold(end, |end, record| end.max(end_of(record)));
            exits.push((cpu, of_cpu));
        }
        let complete = of.core().live().events as usize == events.len();
        let tracks = exits.into_iter().map(|(cpu, exits)| {
            let traced = of.cpu(cpu).map_or(0, |block| block.traced);
            let lost = traced.saturating_sub(exits.len() as u64);
            let own: Vec<Event> = events.iter().copied().filter(|event| event.cpu == cpu).collect();
            let spans = spans(header.entry_level, complete, &own, &exits, begin, end);
            Track { cpu, spans, exits, lost }
        });
        Self { tracks: tracks.collect(), clock, begin, end, events }
    }
}

fn end_of(record: &TraceRecord) -> u64 {
    record.time.saturating_add(record.duration.into())
}

/// Where a CPU is after an event, if that says it. A soft restart under which Exeunt stays enters the next payload as
/// the host was entered.
fn after(event: &Event, entry: State) -> Option<State> {
    Some(match Kind::of(event.kind)? {
        Kind::Started => State::Start,
        Kind::HostEntered | Kind::CpuUp => entry,
        Kind::Native | Kind::CameBack => State::El1,
        Kind::CpuOff | Kind::PowerOff | Kind::Reset | Kind::Died => State::Off,
        Kind::Suspends => State::Suspended,
        Kind::SoftRestart if event.second & 2 != 0 => entry,
        Kind::SoftRestart | Kind::ResetVectors | Kind::Leave | Kind::LentToKvm | Kind::Left => State::Outside,
        _ => return None,
    })
}

/// What a record says of the time before it, and of that after it.
fn around(record: &TraceRecord) -> (State, State) {
    let before = if record.flags & IN_VIRTUAL_EL2 == 0 { State::El1 } else { State::VirtualEl2 };
    let after = match exit_kind(record) {
        _ if record.flags & WENT_NATIVE != 0 => State::El1,
        ExitKind::Psci if record.flags & NO_RETURN != 0 => State::Off,
        _ if record.flags & NO_RETURN != 0 => State::Outside,
        _ => before,
    };
    (before, after)
}

/// A point in time at which something is known.
enum Point<'a> {
    Begin(&'a TraceRecord),
    End(&'a TraceRecord),
    Event(&'a Event),
}

fn spans(level: u8, complete: bool, events: &[Event], exits: &[TraceRecord], begin: u64, end: u64) -> Vec<Span> {
    let entry = if level == 2 { State::VirtualEl2 } else { State::El1 };
    let mut points: Vec<(u64, Point<'_>)> = Vec::with_capacity(2 * exits.len() + events.len());
    for exit in exits {
        points.push((exit.time, Point::Begin(exit)));
        points.push((end_of(exit), Point::End(exit)));
    }
    points.extend(events.iter().map(|event| (event.time, Point::Event(event))));
    // Stable: of the same time, an exit ends before the next one begins.
    points.sort_by_key(|&(time, _)| time);
    let mut spans = Vec::new();
    let mut put = |from: u64, to: u64, state: State| match spans.last_mut() {
        Some(Span { to: last, state: same, .. }) if *same == state => *last = to,
        _ if from < to => spans.push(Span { from, to, state }),
        _ => {}
    };
    let mut since = begin;
    let is_first = events.first().is_some_and(|event| Kind::of(event.kind) == Some(Kind::Started));
    let mut state = match complete {
        // The event is written when there is a box to write it into, some time after the first instruction.
        true if is_first => State::Start,
        true => State::Off,
        false => State::Unknown,
    };
    for (time, point) in points {
        let next = match point {
            Point::Begin(exit) => {
                let (before, _) = around(exit);
                // It was there when it came, whatever the events say.
                if matches!(state, State::Unknown | State::VirtualEl2 | State::El1) {
                    state = before;
                }
                before
            }
            // An exit that did not return ends with what its event says.
            Point::End(exit) if exit.flags & NO_RETURN != 0 && matches!(state, State::Off | State::Outside) => state,
            Point::End(exit) => around(exit).1,
            Point::Event(event) => after(event, entry).unwrap_or(state),
        };
        put(since, time, state);
        since = time;
        state = next;
    }
    put(since, end, state);
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Builder};

    fn timeline(builder: &Builder) -> Timeline {
        let bytes = builder.build();
        Timeline::of(&BlackBox::new(&bytes, builder.header.start).expect("the fixture is a box"))
    }

    fn states(track: &Track) -> Vec<State> {
        track.spans.iter().map(|span| span.state).collect()
    }

    #[test]
    fn a_boot_goes_from_virtual_el2_to_el1() {
        let timeline = timeline(&fixture::boot());
        assert_eq!(states(&timeline.tracks[0]), [State::Start, State::VirtualEl2, State::El1]);
        for track in &timeline.tracks[1..] {
            assert_eq!(states(track), [State::Off, State::VirtualEl2, State::El1], "CPU {}", track.cpu);
        }
    }

    #[test]
    fn a_kexec_ends_without_exeunt() {
        let timeline = timeline(&fixture::kexec());
        assert_eq!(states(&timeline.tracks[0]).last(), Some(&State::Outside));
        assert_eq!(states(&timeline.tracks[1]).last(), Some(&State::Off));
    }

    #[test]
    fn spans_cover_the_whole_time_and_do_not_overlap() {
        for builder in [fixture::boot(), fixture::kexec(), fixture::crash()] {
            let timeline = timeline(&builder);
            for track in &timeline.tracks {
                let mut at = timeline.begin;
                for span in &track.spans {
                    assert_eq!(span.from, at);
                    assert!(span.to > span.from);
                    at = span.to;
                }
                assert_eq!(at, timeline.end);
            }
        }
    }

    #[test]
    fn what_no_event_tells_is_told_by_the_exits() {
        let mut builder = Builder::new(1, 64);
        for _ in 0..70 {
            builder.event(5, 9, Kind::Suspends, 0, 0);
        }
        builder.exit(100, 0, fixture::access(0xc082, true, 0, 0));
        builder.exit(200, 0, fixture::call(hypervisor::syndrome::ExceptionClass::Hvc64, 0, 0));
        builder.event(300, 9, Kind::Suspends, 0, 0);
        // An event of a CPU that there is not, and a time that is damage.
        builder.event(u64::MAX / 1000, 0, Kind::CpuOff, 0, 0);
        let timeline = timeline(&builder);
        assert_eq!(states(&timeline.tracks[0]), [State::VirtualEl2, State::El1]);
        assert_eq!(timeline.end, Builder::at(300));
    }
}
