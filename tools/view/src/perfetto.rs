//! A trace for ui.perfetto.dev.
//!
//! Owns the use of the Trace Event Format (JSON), which Perfetto and Chrome's about:tracing open: two tracks for each
//! CPU, one of where the host is, and one of the exits to EL2; the life cycle as instants. Times are microseconds.

use guest_abi::blackbox::{BlackBox, Kind};
use serde_json::{Value, json};

use crate::report::{Exit, Report};
use crate::timeline::{State, Timeline};
use crate::words::event_words;

/// The trace, as the contents of a file.
#[must_use]
pub fn trace(of: &BlackBox<'_>) -> String {
    let (timeline, report) = (Timeline::of(of), Report::of(of));
    let micros = |time: u64| timeline.clock.seconds(time) * 1e6;
    let mut events = vec![json!({
        "ph": "M", "pid": 1, "name": "process_name",
        "args": {"name": format!("Exeunt {}, {} CPUs", report.exeunt.version, report.exeunt.cpus)},
    })];
    for track in &timeline.tracks {
        let [host, exits] = tracks(track.cpu);
        for (tid, name) in [(host, format!("CPU {}: host", track.cpu)), (exits, format!("CPU {}: EL2", track.cpu))] {
            events.push(json!({"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}}));
            let sort = json!({"sort_index": tid});
            events.push(json!({"ph": "M", "pid": 1, "tid": tid, "name": "thread_sort_index", "args": sort}));
        }
        for span in track.spans.iter().filter(|span| !matches!(span.state, State::Off | State::Unknown)) {
            let (begin, end) = (micros(span.from), micros(span.to));
            events.push(slice(host, "host", span.state.words(), begin, end - begin, &json!({})));
        }
        for record in &track.exits {
            let exit = Exit::of(record, &timeline.clock);
            let arguments = json!({
                "words": exit.words, "class": exit.class, "pc": exit.pc, "esr": exit.esr,
                "subject": exit.subject, "answer": exit.answer,
            });
            events.push(slice(exits, &exit.kind, &exit.label, exit.seconds * 1e6, exit.took * 1e6, &arguments));
        }
        if track.lost != 0 {
            let first = track.exits.first().map_or(0.0, |record| micros(record.time));
            let name = format!("{} older exits are lost", track.lost);
            events.push(json!({
                "ph": "i", "s": "t", "pid": 1, "tid": exits, "cat": "lost", "name": name, "ts": first,
            }));
        }
    }
    for event in &timeline.events {
        // These concern all CPUs.
        let all = matches!(
            Kind::of(event.kind),
            Some(Kind::Leave | Kind::Died | Kind::PowerOff | Kind::Reset | Kind::Locked | Kind::Policy)
        );
        events.push(json!({
            "ph": "i", "s": if all { "g" } else { "t" }, "pid": 1, "tid": tracks(event.cpu)[0], "cat": "life",
            "name": event_words(event), "ts": micros(event.time),
        }));
    }
    // Their order does not matter to Perfetto, and a file in the order of time is easier to look through.
    events.sort_by(|one, other| time_of(one).total_cmp(&time_of(other)));
    let whole = json!({
        "displayTimeUnit": "ns",
        "otherData": {
            "exeunt": report.exeunt.version, "options": report.exeunt.options,
            "lost": timeline.tracks.iter().fold(0_u64, |sum, track| sum.saturating_add(track.lost)),
        },
        "traceEvents": events,
    });
    whole.to_string()
}

/// The numbers of a CPU's tracks.
fn tracks(cpu: u16) -> [u32; 2] {
    let first = 2 * u32::from(cpu) + 1;
    [first, first + 1]
}

fn slice(track: u32, kind: &str, name: &str, begin: f64, length: f64, arguments: &Value) -> Value {
    json!({
        "ph": "X", "pid": 1, "tid": track, "cat": kind, "name": name, "ts": begin, "dur": length, "args": arguments,
    })
}

/// Metadata has no time, and comes first.
fn time_of(event: &Value) -> f64 {
    event["ts"].as_f64().unwrap_or(f64::MIN)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::fixture;

    fn events(builder: &fixture::Builder) -> Vec<Value> {
        let bytes = builder.build();
        let text = trace(&BlackBox::new(&bytes, builder.header.start).unwrap());
        let whole: Value = serde_json::from_str(&text).unwrap();
        whole["traceEvents"].as_array().unwrap().clone()
    }

    /// The rules of the format (the document "Trace Event Format"), as far as it is used here.
    #[test]
    fn it_is_what_perfetto_opens() {
        for builder in [fixture::boot(), fixture::kexec(), fixture::crash()] {
            let events = events(&builder);
            let (mut named, mut used) = (BTreeSet::new(), BTreeSet::new());
            let mut last: BTreeMap<u64, f64> = BTreeMap::new();
            for event in &events {
                assert!(event["name"].as_str().is_some_and(|name| !name.is_empty()) && event["pid"] == 1, "{event}");
                let tid = event["tid"].as_u64();
                match event["ph"].as_str().unwrap() {
                    "M" => named.extend(tid),
                    "i" => {
                        assert!(["g", "t"].contains(&event["s"].as_str().unwrap()));
                        assert!(event["ts"].as_f64().unwrap() >= 0.0);
                        used.extend(tid);
                    }
                    "X" => {
                        let (begin, length) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
                        assert!(begin >= 0.0 && length >= 0.0 && event["args"].is_object(), "{event}");
                        // Slices of one track follow each other: Perfetto would drop one that crosses another.
                        let before = last.insert(tid.unwrap(), begin + length).unwrap_or_default();
                        assert!(begin >= before - 1e-6, "{event}");
                        used.extend(tid);
                    }
                    other => panic!("{other}"),
                }
            }
            assert!(used.is_subset(&named) && named.len() == 8);
        }
    }

    #[test]
    fn each_exit_and_event_of_the_box_is_there() {
        let builder = fixture::kexec();
        let events = events(&builder);
        let count = |phase: &str, kind: &str| {
            events.iter().filter(|event| event["ph"] == phase && event["cat"] == kind).count()
        };
        assert_eq!(count("X", "register"), 4 * 17);
        assert_eq!(count("X", "exception return"), 4);
        assert_eq!(count("X", "PSCI call"), 3 + 3 + 3);
        assert_eq!(count("X", "stub call"), 5);
        assert_eq!(count("i", "life"), 14);
        let restart = events.iter().find(|event| event["name"] == "SOFT_RESTART").unwrap();
        assert_eq!(restart["args"]["words"], "HVC SOFT_RESTART (stub call); does not return");
        assert!((restart["ts"].as_f64().unwrap() - 2_020_000.0).abs() < 0.1);
    }
}
