//! One page for a browser, with all that a box says: a time line of each CPU, tables, life cycle, log.
//!
//! Owns the data in it; `page.html` draws them. The page fetches nothing, and its policy forbids it to. What stands in
//! a box is text there and never markup, whatever it is.

use std::collections::HashMap;

use guest_abi::blackbox::BlackBox;
use serde_json::{Value, json};

use crate::report::{Count, Report};
use crate::timeline::{State, Timeline};
use crate::words::{ExitKind, event_words, exit_kind, exit_label, exit_words};

const TEMPLATE: &str = include_str!("page.html");
const PLACE: &str = "@DATA@";

/// The page, as the contents of a file.
#[must_use]
pub fn page(of: &BlackBox<'_>) -> String {
    // Within a script element nothing but its end tag, and the begin of a comment, have a meaning; both begin alike.
    let data = data(of).to_string().replace('<', "\\u003c");
    let (before, after) = TEMPLATE.split_once(PLACE).unwrap_or((TEMPLATE, ""));
    [before, &data, after].concat()
}

/// Strings that occur often, each once.
#[derive(Default)]
struct Strings {
    list: Vec<String>,
    places: HashMap<String, usize>,
}

impl Strings {
    fn place(&mut self, text: String) -> usize {
        let list = &mut self.list;
        *self.places.entry(text).or_insert_with_key(|text| {
            list.push(text.clone());
            list.len() - 1
        })
    }
}

fn data(of: &BlackBox<'_>) -> Value {
    let (timeline, report) = (Timeline::of(of), Report::of(of));
    // Microseconds, to the nanosecond.
    let micros = |time: u64| (timeline.clock.seconds(time) * 1e9).round() / 1e3;
    let mut strings = Strings::default();
    let mut tracks = Vec::new();
    for track in &timeline.tracks {
        let state = |state: State| State::ALL.iter().position(|&other| other == state);
        let spans: Vec<Value> =
            track.spans.iter().map(|span| json!([micros(span.from), micros(span.to), state(span.state)])).collect();
        let mut exits = Vec::new();
        for record in &track.exits {
            let kind = exit_kind(record);
            exits.push(json!([
                micros(record.time),
                (timeline.clock.length(record.duration.into()) * 1e9).round() / 1e3,
                ExitKind::ALL.iter().position(|&other| other == kind),
                strings.place(exit_label(record)),
                strings.place(exit_words(record)),
                format!("{:#x}", record.pc),
                format!("{:#x}", record.esr),
            ]));
        }
        tracks.push(json!({"cpu": track.cpu, "lost": track.lost, "spans": spans, "exits": exits}));
    }
    let exeunt = &report.exeunt;
    let cpus = report.cpus.iter().map(|cpu| {
        let exits = Count::sum(&cpu.classes);
        let stop = report.stops.iter().find(|stop| stop.cpu == cpu.cpu);
        let stopped = stop.map_or_else(String::new, |stop| format!("{:.6} s: {}", stop.seconds, stop.why));
        json!([cpu.cpu, cpu.mpidr, cpu.state, exits, cpu.crumb, stopped])
    });
    let counts =
        |counts: &[Count]| -> Vec<Value> { counts.iter().map(|count| json!([count.name, count.count])).collect() };
    let life = timeline.events.iter().map(|event| json!([micros(event.time), event.cpu, event_words(event)]));
    json!({
        "title": format!("Exeunt {} on {} CPU{}", exeunt.version, exeunt.cpus, if exeunt.cpus == 1 { "" } else { "s" }),
        "facts": facts(&report),
        "end": micros(timeline.end),
        "states": State::ALL.map(State::words),
        "kinds": ExitKind::ALL.map(ExitKind::words),
        "tracks": tracks,
        "strings": strings.list,
        "classes": counts(&report.classes),
        "registers": counts(&report.registers),
        "cpus": cpus.collect::<Vec<_>>(),
        "life": life.collect::<Vec<_>>(),
        "lifeLost": report.life_lost,
        "log": report.log,
        "logLost": report.log_lost,
    })
}

/// The lines on top: each with whether it is bad news.
fn facts(report: &Report) -> Vec<(String, bool)> {
    let exeunt = &report.exeunt;
    let entered = if exeunt.entry_level == 2 { "virtual EL2" } else { "EL1" };
    let build = if exeunt.debug { ", a debug build" } else { "" };
    let mut lines = vec![(
        format!(
            "Black box at {}, ABI {}{build}; the host was entered at {entered}; start {} in this memory{}",
            exeunt.address,
            exeunt.abi,
            exeunt.starts,
            if exeunt.options.is_empty() { String::new() } else { format!("; options: {}", exeunt.options) },
        ),
        false,
    )];
    if let Some(death) = &report.death {
        let why = if death.reason.is_empty() { &death.syndrome } else { &death.reason };
        lines.push((
            format!("Exeunt has died at {:.6} s on CPU {}: {}. {why}", death.seconds, death.cpu, death.cause),
            true,
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Builder};

    fn page_of(builder: &Builder) -> String {
        let bytes = builder.build();
        page(&BlackBox::new(&bytes, builder.header.start).unwrap())
    }

    fn data_in(page: &str) -> Value {
        let (_, rest) = page.split_once("id=\"data\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn it_has_everything_and_fetches_nothing() {
        let page = page_of(&fixture::kexec());
        for outside in ["http:", "https:", "src=", "@import", "url(", "fetch(", "XMLHttpRequest", "import("] {
            assert!(!page.contains(outside), "{outside}");
        }
        let data = data_in(&page);
        assert_eq!(data["tracks"].as_array().unwrap().len(), 4);
        assert_eq!(data["life"].as_array().unwrap().len(), 14);
        let exits = data["tracks"][1]["exits"].as_array().unwrap();
        let last = exits.last().unwrap();
        assert_eq!(data["strings"][last[4].as_u64().unwrap() as usize], "SMC CPU_OFF (PSCI); does not return");
        assert_eq!(last[0], 2_004_000.0);
    }

    #[test]
    fn what_stands_in_a_box_is_no_markup() {
        let mut builder = fixture::boot();
        builder.log("</script><script>alert(1)</script><!-- <script>");
        builder.header.options[..10].copy_from_slice(b"</script>\0");
        let page = page_of(&builder);
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(!page.contains("<!-- "));
        assert!(data_in(&page)["log"].as_str().unwrap().ends_with("</script><script>alert(1)</script><!-- <script>"));
    }
}
