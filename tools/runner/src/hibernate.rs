//! Boots the host, has it hibernate to a virtio disk, boots it again on another machine and has it resume there; then
//! lets it die, and its crash kernel come up.
//!
//! 5.10 and 6.1 put EL2's vectors back in different ways when they resume (docs/virtual-el2.md).

use std::fs::{self, File};

use crate::guest::Script;
use crate::kconfig;
use crate::modules;
use crate::names;
use crate::output::Output;
use crate::progress::Progress;
use crate::restart::{
    Entry, Policy, Ran, Verdict, Wanted, add_disk, begin, in_words, make_initrd, put, run, stub_calls, tells,
    what_ended,
};
use crate::variables::{Target, Values, Wrong};
use crate::workstation::Places;

/// Room for the image of a machine with 1 GiB, of which little is in use.
const DISK: u64 = 1 << 30;

/// From this version on a kernel puts its stub back by a call, and no longer by vectors of its own.
const OWN_STUB: (u32, u32) = (5, 16);

/// What Exeunt says when the image is written over the memory that it guards, and when it guards some.
const LIFTED: &str = "lifted: another kernel runs";
const GUARDED: &str = "which the host keeps for a crash kernel";

/// What a person wants.
#[derive(Clone, Debug)]
pub struct Hibernate {
    wanted: Wanted,
}

impl Hibernate {
    /// Out of the variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(values: &Values) -> Result<Self, Wrong> {
        let values = values.clone().or("KERNEL", "5.10").or("SMP", "2");
        let mut wanted = Wanted::read(Target::Hibernate, &values)?;
        wanted.settings.append = format!("crashkernel=256M no_console_suspend {}", wanted.settings.append);
        Ok(Self { wanted })
    }

    /// Does it. The directory is kept until the verdict was read.
    ///
    /// # Errors
    /// Something could not be built or started; in words.
    pub fn run(&self, places: &Places, progress: &Progress) -> Result<(Output, Ran, Verdict), String> {
        let mut wanted = self.wanted.clone();
        let mut parts = wanted.parts();
        parts.push("disk".to_owned());
        let output =
            begin(&wanted, places, progress, "hibernate", &parts, (&kconfig::TO_HIBERNATE, &kconfig::TO_DUMP[..1]))?;
        // Both machines are alike but for what they run: the kernel of the first goes on in the second.
        let disk = output.file("disk");
        File::create(&disk).and_then(|file| file.set_len(DISK)).map_err(|error| error.to_string())?;
        add_disk(&mut wanted.settings, &disk, "");

        let first = Output::take(&output.file("first")).map_err(|error| error.to_string())?;
        let next_command_line = Wanted::next_command_line();
        let from = wanted.from.unwrap_or(0).to_string();
        let modules = modules::DISK.join(" ");
        let with_exeunt = u8::from(wanted.with_exeunt()).to_string();
        let variables = [
            ("modules", modules.as_str()),
            ("next_command_line", &next_command_line),
            ("from", &from),
            ("with_exeunt", &with_exeunt),
        ];
        for each in [&first, &output] {
            let overlay = each.file("overlay");
            fs::create_dir_all(overlay.join("next")).map_err(|error| error.to_string())?;
            if let Some(from) = wanted.modules_of(&wanted.settings.kernel, places) {
                modules::take(&modules::DISK, &from, &overlay.join("modules"))?;
            }
            make_initrd(places, &overlay.join("next/initrd"), &Script::HibernateNext.with(&[]), None)?;
            put(&wanted.next_image(places, each)?, &overlay.join("next/vmlinuz"))?;
        }
        // It ends when the image is on the disk, without a word from the script.
        let script = Script::HibernateFirst.with(&variables);
        let (_first, before) = run(&wanted, places, first, script, &["first", "next"], progress, tells(phase))?;
        progress.phase("the other machine boots, and resumes");
        let script = Script::HibernateResume.with(&variables);
        let (output, ran) = run(&wanted, places, output, script, &["first", "next"], progress, tells(phase))?;
        progress.end();
        fs::remove_file(&disk).map_err(|error| format!("{}: {error}", disk.display()))?;
        let verdict = self.judge(&before, &ran);
        Ok((output, ran, verdict))
    }

    fn judge(&self, before: &Ran, ran: &Ran) -> Verdict {
        let (wanted, said) = (&self.wanted, &ran.said);
        let mut verdict = Verdict::of_two_kernels(ran);
        let calls = stub_calls(&ran.console);
        if wanted.with_exeunt() {
            verdict.line(&format!("stub calls that Exeunt saw: {}", in_words(&calls)));
        }
        verdict.line(&format!("{} s for the second machine", ran.took.as_secs()));
        verdict.wrong.extend(before.said.complaints().first().map(|why| format!("on the first machine, {why}")));
        verdict.wrong.extend(what_ended(ran));
        verdict.check(!said.last("first", "resumed").is_empty(), || "the host did not resume".to_owned());
        verdict.check(!said.last("next", "release").is_empty(), || "the crash kernel did not come up".to_owned());
        if !verdict.passed() {
            return verdict;
        }
        let cpus = said.last("first", "cpus");
        let all = cpus == wanted.settings.smp.to_string();
        verdict.check(all, || format!("the host has {cpus} CPUs after it has resumed"));
        if wanted.with_exeunt() {
            // The image is written over the memory of the crash kernel, whose guard ends with that: a panic of the
            // kernel that comes back would be no panic to it.
            let after = ran.console.split_once(LIFTED).map(|(_, after)| after.contains(GUARDED));
            verdict.check(after.is_some(), || "the guard of the crash kernel did not end with the resume".to_owned());
            verdict.check(after != Some(true), || "the crash kernel is guarded again after the resume".to_owned());
        }
        let how = if wanted.with_exeunt() && wanted.entry == Entry::VirtualEl2 {
            // Whatever vectors it has installed for the resume, it has not left them behind: that was a crash.
            let policy = if wanted.policy == Policy::Leave { "leave" } else { "resident" };
            let taken = ran
                .console
                .lines()
                .any(|line| line.contains("SOFT_RESTART to ") && line.contains(&format!("(Crash, {policy})")));
            verdict.check(taken, || "Exeunt did not take SOFT_RESTART for a crash".to_owned());
            let set = calls.iter().any(|call| call.name == "SET_VECTORS" && call.cpu == 0);
            verdict.check(set, || "the host resumed without SET_VECTORS".to_owned());
            let were_run = ran.console.contains("the host's vectors answer");
            if names::is_at_least(said.last("first", "release"), OWN_STUB) {
                verdict.check(!were_run, || "its vectors were run".to_owned());
                "put its stub back by a call"
            } else {
                verdict.check(were_run, || "its vectors were not run".to_owned());
                "had its own vectors put its stub back"
            }
        } else {
            "has no stub"
        };
        verdict.why = format!("the host hibernated, resumed on another machine, {how}, and died into its crash kernel");
        verdict
    }
}

/// The words for what a guest has told.
fn phase(who: &str, what: &str, value: &str) -> Option<String> {
    match (who, what) {
        ("first", "hibernates") => Some("the host hibernates".to_owned()),
        ("first", "resumed") => Some("the host has resumed; it dies".to_owned()),
        ("next", "release") => Some(format!("the crash kernel is up: Linux {value}")),
        _ => None,
    }
}
