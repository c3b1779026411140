//! `make trace`: boots the host with each exit traced, perhaps has it kexec or die, and leaves the trace.
//!
//! The machine is that of `make kexec` and `make kdump`; of a boot it is the first half of theirs. When it goes off,
//! QEMU holds it, and its monitor writes out Exeunt's 2 MiB. Owns what is made of them.

use std::fmt::Write as _;
use std::fs;

use dump::Options;
use view::timeline::Timeline;
use view::{Report, Trace as Format};

use crate::guest::Script;
use crate::kdump::Kdump;
use crate::kexec::Kexec;
use crate::output::Output;
use crate::placement::{EXEUNT, RAM_BASE};
use crate::progress::Progress;
use crate::restart::{MEMORY, Ran, Verdict, Wanted, begin, in_cpus, kernel_line, last_words, run, tells, what_ended};
use crate::variables::{Target, Values, Wrong};
use crate::workstation::Places;

/// The name of the directory below target/, if nobody has named one.
const DIRECTORY: &str = "trace";
/// What is in it at the end.
const PAGE: &str = "trace.html";
const PERFETTO: &str = "trace.json";
const ALONE: &str = "exeunt.box";

/// What a person wants.
#[derive(Clone, Debug)]
pub enum Trace {
    /// A boot, and what the host runs then.
    Boot(Box<Wanted>, String),
    /// A boot and a kexec.
    Kexec(Box<Kexec>),
    /// A boot and a crash.
    Crash(Box<Kdump>),
}

/// What of these goes with which.
const OF_ONE: [(&str, &[&str]); 6] = [
    ("RUN", &["boot"]),
    ("CRASH", &["crash"]),
    ("CRASHKERNEL", &["crash"]),
    ("NEXT", &["kexec", "crash"]),
    ("POLICY", &["kexec", "crash"]),
    ("FROM", &["kexec", "crash"]),
];

impl Trace {
    /// Out of the variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(values: &Values) -> Result<Self, Wrong> {
        let mut wrong = Wrong::default();
        let what = wrong.or(values.choose("WHAT", &["boot", "kexec", "crash"].map(|what| (what, what))), "boot");
        for (name, goes_with) in OF_ONE {
            if let Some(value) = values.get(name).filter(|_| !goes_with.contains(&what)) {
                wrong.0.push(format!("{name}={value}: it goes with WHAT={}", goes_with.join(" or WHAT=")));
            }
        }
        if values.get("HYPERVISOR") == Some("none") {
            wrong.0.push("HYPERVISOR=none: it is Exeunt that traces".to_owned());
        }
        let read = match what {
            "kexec" => Kexec::read(values).map(|kexec| Self::Kexec(Box::new(kexec.traced(DIRECTORY)))),
            "crash" => Kdump::read(values).map(|kdump| Self::Crash(Box::new(kdump.traced(DIRECTORY)))),
            _ => Wanted::read(Target::Trace, values).map(|wanted| {
                let mut wanted = wanted.traced(DIRECTORY);
                // Lines about single calls would take most of the time of these calls.
                wanted.settings.exeunt = wanted.settings.exeunt.replace("log=debug ", "");
                Self::Boot(Box::new(wanted), values.get("RUN").unwrap_or_default().to_owned())
            }),
        };
        match read {
            Ok(trace) => wrong.unless(trace),
            Err(Wrong(lines)) => Err(Wrong([wrong.0, lines].concat())),
        }
    }

    /// Does it. The directory is kept until the verdict was read.
    ///
    /// # Errors
    /// Something could not be built or started; in words.
    pub fn run(&self, places: &Places, progress: &Progress) -> Result<(Output, Ran, Verdict), String> {
        let (output, ran, mut verdict) = match self {
            Self::Boot(wanted, command) => boot(wanted, command, places, progress)?,
            Self::Kexec(kexec) => kexec.run(places, progress)?,
            Self::Crash(kdump) => kdump.run(places, progress)?,
        };
        match write(&output, places) {
            Ok(words) => verdict.line(&words),
            Err(error) => verdict.wrong.push(error),
        }
        Ok((output, ran, verdict))
    }
}

/// Boots the host, and has it run the command.
fn boot(
    wanted: &Wanted,
    command: &str,
    places: &Places,
    progress: &Progress,
) -> Result<(Output, Ran, Verdict), String> {
    let output = begin(wanted, places, progress, DIRECTORY, &wanted.parts(), (&[], &[]))?;
    fs::create_dir_all(output.file("overlay")).map_err(|error| error.to_string())?;
    let script = Script::TraceBoot.with(&[("command", command)]);
    let (output, ran) = run(wanted, places, output, script, &["first"], progress, tells(phase))?;
    progress.end();
    let mut verdict = Verdict::default();
    verdict.line(&ran.facts);
    verdict.line(&kernel_line(&ran.said, "host", "first"));
    if let Some(why) = what_ended(&ran) {
        verdict.wrong.push(why);
    }
    if ran.said.last("first", "release").is_empty() && verdict.passed() {
        verdict.wrong.push(format!("the host did not come up: {}", last_words(&ran.console)));
    }
    let status = ran.said.last("first", "status");
    verdict.check(["", "0"].contains(&status), || format!("the command returned {status}"));
    "the host has booted, and its exits are traced".clone_into(&mut verdict.why);
    Ok((output, ran, verdict))
}

fn phase(who: &str, what: &str, value: &str) -> Option<String> {
    ((who, what) == ("first", "release")).then(|| format!("Linux {value} is up"))
}

/// Makes the files out of Exeunt's memory, and says where they are and what is in them.
fn write(output: &Output, places: &Places) -> Result<String, String> {
    let memory = output.file(MEMORY);
    if !memory.exists() {
        return Err("there is no trace: the machine did not go off, and nobody could take its memory out".to_owned());
    }
    let options = Options { base: Some(RAM_BASE + EXEUNT), ..Options::default() };
    let found = dump::find(&memory, &options)?;
    let black_box = found.black_box();
    let report = Report::of(&black_box);
    let put = |name: &str, content: &[u8]| {
        let path = output.file(name);
        fs::write(&path, content).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok::<_, String>(path)
    };
    let alone = put(ALONE, &found.bytes)?;
    let perfetto = put(PERFETTO, Format::Perfetto.make(&black_box).as_bytes())?;
    let page = put(PAGE, Format::Html.make(&black_box).as_bytes())?;
    fs::remove_file(&memory).map_err(|error| format!("{}: {error}", memory.display()))?;
    let timeline = Timeline::of(&black_box);
    let kept: usize = timeline.tracks.iter().map(|track| track.exits.len()).sum();
    let lost: u64 = timeline.tracks.iter().fold(0, |sum, track| sum.saturating_add(track.lost));
    if kept == 0 {
        return Err(format!("no exit was traced; the box is {}", places.short(&alone)));
    }
    let seconds = timeline.clock.seconds(timeline.end);
    let mut words: String = found.notes.iter().map(|note| note.clone() + "\n").collect();
    let _ = write!(
        words,
        "traced: {kept} exits of {} in {seconds:.3} s, {lost} older ones lost; {} events\n\
         a page for a browser: {}\n\
         for Perfetto (https://ui.perfetto.dev, \"Open trace file\"): {}\n\
         the box itself: scripts/exeunt-dump {}",
        in_cpus(report.exeunt.cpus),
        report.life.len(),
        places.short(&page),
        places.short(&perfetto),
        places.short(&alone),
    );
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Trace, Wrong> {
        let look_up = |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        Trace::read(&Values::read(Target::Trace, [], look_up)?)
    }

    #[test]
    fn a_boot_is_traced_unless_something_else_is_asked_for() {
        let Trace::Boot(wanted, command) = read(&[("RUN", "nproc")]).unwrap() else { panic!("no boot") };
        assert_eq!(
            (wanted.settings.exeunt.as_str(), command.as_str()),
            ("entry=el2 restart=leave stats trace", "nproc")
        );
        assert!(matches!(read(&[("WHAT", "kexec"), ("POLICY", "resident")]), Ok(Trace::Kexec(_))));
        assert!(matches!(read(&[("WHAT", "crash"), ("CRASH", "sysrq")]), Ok(Trace::Crash(_))));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (set, why) in [
            (&[("WHAT", "reboot")][..], "WHAT=reboot: it is boot, kexec or crash"),
            (&[("WHAT", "kexec"), ("RUN", "true")], "RUN=true: it goes with WHAT=boot"),
            (&[("CRASH", "null")], "CRASH=null: it goes with WHAT=crash"),
            (&[("POLICY", "leave")], "POLICY=leave: it goes with WHAT=kexec or WHAT=crash"),
            (&[("HYPERVISOR", "none")], "it is Exeunt that traces"),
            (&[("WHAT", "crash"), ("CRASH", "nul"), ("SMP", "0")], "SMP=0"),
        ] {
            let wrong = read(set).unwrap_err().to_string();
            assert!(wrong.contains(why), "{set:?}: {wrong}");
        }
    }
}
