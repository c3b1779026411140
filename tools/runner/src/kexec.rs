//! `make kexec`: boots the host, loads the next kernel with kexec-tools, has it started by `kexec -e`, and says what
//! became of EL2.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::guest::Script;
use crate::kconfig;
use crate::output::Output;
use crate::progress::Progress;
use crate::restart::{
    Entry, Policy, Ran, Verdict, Wanted, answer_of, begin, in_cpus, in_words, is_there_at_the_end, last_words,
    make_initrd, put, run, stub_calls, tells, what_ended,
};
use crate::settings::Kernel;
use crate::variables::{Target, Values, Wrong};
use crate::workstation::Places;

/// Exeunt's first and last word, no memory (a device, and nothing at all, twice), and no multiple of 4.
const REFUSED: [&str; 6] = ["0x40200000", "0x403ffffc", "0x9000000", "0x0", "0x8000000000", "0x48000002"];

/// A call that the host makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// None.
    Nothing,
    /// Each CPU asks for a SOFT_RESTART to places that cannot be, is refused, and the kernel goes on.
    Refused,
    /// LOCK: Exeunt stays, whatever the policy is.
    Lock,
    /// Another CPU begins a LEAVE when the kexec has begun, a slow one.
    Leave,
}

impl Call {
    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Refused => "refused",
            Self::Lock => "lock",
            Self::Leave => "leave",
        }
    }
}

/// What a person wants.
#[derive(Clone, Debug)]
pub struct Kexec {
    wanted: Wanted,
    call: Call,
}

impl Kexec {
    /// Out of the variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(values: &Values) -> Result<Self, Wrong> {
        let choices = [("", Call::Nothing), ("refused", Call::Refused), ("lock", Call::Lock), ("leave", Call::Leave)];
        let mut wrong = Wrong::default();
        let call = wrong.or(values.choose("CALL", &choices), Call::Nothing);
        let mut wanted = match Wanted::read(Target::Kexec, values) {
            Ok(wanted) => wanted,
            Err(Wrong(lines)) => return Err(Wrong([lines, wrong.0].concat())),
        };
        if call != Call::Nothing {
            let what = format!("CALL={}", call.name());
            if !wanted.with_exeunt() {
                wrong.0.push(format!("{what}: it goes with HYPERVISOR=exeunt"));
            }
            wrong.0.extend(wanted.can_have_module(&what, &wanted.settings.kernel).err());
        }
        if call == Call::Leave {
            if wanted.entry == Entry::El1 {
                wrong.0.push("CALL=leave: it goes with ENTRY=el2".to_owned());
            }
            wanted.settings.exeunt.push_str(" selftest=slow-leave");
        }
        wrong.unless(Self { wanted, call })
    }

    /// The same, traced.
    #[must_use]
    pub fn traced(self, directory: &'static str) -> Self {
        Self { wanted: self.wanted.traced(directory), ..self }
    }

    /// Does it. The directory is kept until the verdict was read.
    ///
    /// # Errors
    /// Something could not be built or started; in words.
    pub fn run(&self, places: &Places, progress: &Progress) -> Result<(Output, Ran, Verdict), String> {
        let wanted = &self.wanted;
        let mut needs = kconfig::TO_KEXEC.to_vec();
        if self.call != Call::Nothing {
            needs.push(kconfig::MODULES);
        }
        let output = begin(wanted, places, progress, "kexec", &wanted.parts(), (&needs, &[]))?;

        progress.phase("building what the guests run");
        let next_command_line = Wanted::next_command_line();
        let cpus = wanted.settings.smp.to_string();
        let overlay = output.file("overlay");
        let programs = output.file("programs");
        put(&kvm_program(places)?, &programs.join("tests/kvm"))?;
        fs::create_dir_all(overlay.join("next")).map_err(|error| error.to_string())?;
        let next = Script::KexecNext.with(&[("cpus", &cpus)]);
        make_initrd(places, &overlay.join("next/initrd"), &next, Some(&programs))?;
        put(&wanted.next_image(places, &output)?, &overlay.join("next/vmlinuz"))?;
        if self.call != Call::Nothing {
            put(&wanted.test_module(places, &wanted.settings.kernel)?, &overlay.join("tests/exeunt_test.ko"))?;
        }
        let from = wanted.from.map(|from| from.to_string()).unwrap_or_default();
        let script = Script::KexecFirst.with(&[
            ("call", self.call.name()),
            ("refused_addresses", &REFUSED.join(" ")),
            ("from", &from),
            ("next_command_line", &next_command_line),
        ]);
        let (output, ran) = run(wanted, places, output, script, &["first", "next"], progress, tells(phase))?;
        progress.end();
        fs::remove_dir_all(&programs).map_err(|error| format!("{}: {error}", programs.display()))?;
        let verdict = self.judge(&ran);
        Ok((output, ran, verdict))
    }

    /// What the run shows.
    fn judge(&self, ran: &Ran) -> Verdict {
        let (wanted, said) = (&self.wanted, &ran.said);
        let mut verdict = Verdict::of_two_kernels(ran);
        let calls = stub_calls(&ran.console);
        let stays = is_there_at_the_end(&ran.console);
        if wanted.with_exeunt() {
            verdict.line(&format!("stub calls that Exeunt saw: {}", in_words(&calls)));
            verdict.line(&format!("Exeunt at the end: {}", if stays { "stays" } else { "gone" }));
        }
        let guest = said.last("next", "guest");
        let last = wanted.settings.smp - 1;
        match guest {
            "" => {}
            "0" => verdict.line(&format!("a KVM guest on the next kernel's CPUs 0 and {last}: ran")),
            "77" => verdict.line("a KVM guest: the program needs a GICv3"),
            status => verdict.line(&format!("a KVM guest on the next kernel: failed with status {status}")),
        }
        verdict.line(&format!("{} s in all", ran.took.as_secs()));
        if let Some(why) = what_ended(ran) {
            verdict.wrong.push(why);
        }
        // What has gone wrong already is told in the words of whoever failed.
        let is_silent = |who| said.last(who, "release").is_empty() && verdict.passed();
        if is_silent("first") {
            verdict.wrong.push(format!("the host did not come up: {}", last_words(&ran.console)));
        } else if is_silent("next") {
            verdict.wrong.push(format!("the next kernel did not come up: {}", last_words(&ran.console)));
        }
        if !verdict.passed() {
            return verdict;
        }
        let level = wanted.level();
        for who in ["first", "next"] {
            let started = said.last(who, "level");
            verdict.check(started == level, || format!("the {who} kernel started at {started}"));
        }
        let cpus = said.last("next", "cpus");
        verdict.check(cpus == wanted.settings.smp.to_string(), || format!("the next kernel has {}", in_cpus(cpus)));
        verdict.check(["", "0", "77"].contains(&guest), || format!("a KVM guest failed with status {guest}"));
        self.judge_exeunt(ran, stays, &mut verdict);
        verdict
    }

    /// What became of EL2.
    fn judge_exeunt(&self, ran: &Ran, stays: bool, verdict: &mut Verdict) {
        let (wanted, said) = (&self.wanted, &ran.said);
        let kvm = said.last("next", "kvm");
        let kvm_works = kvm.ends_with("mode initialized successfully");
        if !wanted.with_exeunt() {
            let works = if kvm_works { "works" } else { "no" };
            verdict.why = format!("bare QEMU, next kernel at {}, KVM {works}", wanted.level());
            return;
        }
        let mut policy = wanted.policy;
        let mut left = false;
        match self.call {
            Call::Nothing => {}
            Call::Refused => {
                for address in REFUSED {
                    let by = said.last("first", &format!("refused-{address}"));
                    let all = by == wanted.settings.smp.to_string();
                    verdict.check(all, || format!("SOFT_RESTART to {address} was refused by {by} CPUs"));
                }
            }
            // Locked, Exeunt takes every soft restart for resident.
            Call::Lock => {
                let answer = said.last("first", "lock");
                verdict.check(answer == "ok", || format!("LOCK answers {answer}"));
                policy = Policy::Resident;
            }
            Call::Leave => {
                let mut answers =
                    ran.console.lines().filter_map(|line| line.split_once("LEAVE at a restart answered "));
                let answer = answers.next_back().map(|(_, answer)| answer.trim());
                let began = said.last("first", "leave") == "ok" && answer.is_some();
                verdict.check(began, || "there was no LEAVE".to_owned());
                // It has left before the kexec could ask for anything.
                left = matches!(answer, Some("0" | "0x0"));
                if left {
                    policy = Policy::Leave;
                }
            }
        }
        let calls = stub_calls(&ran.console);
        let restarter = calls.iter().rfind(|call| call.name == "SOFT_RESTART").map(|call| call.cpu);
        match (wanted.entry, policy) {
            (Entry::VirtualEl2, Policy::Leave) => {
                verdict.check(!stays, || "Exeunt is still there".to_owned());
                let when = if left { "a LEAVE during the kexec" } else { "SOFT_RESTART" };
                if kvm.is_empty() && matches!(wanted.next, Kernel::File(_)) {
                    // A person's kernel need not have KVM.
                    verdict.why =
                        format!("Exeunt left at {when}; the next kernel is at EL2, and has no KVM to show it");
                } else {
                    verdict.check(kvm_works, || format!("KVM says: {kvm}"));
                    let guest = said.last("next", "guest");
                    verdict.check(!guest.is_empty(), || "the next kernel has no /dev/kvm".to_owned());
                    let ran = if guest == "0" { ", and a guest ran" } else { "" };
                    verdict.why = format!("Exeunt left at {when}; the next kernel has EL2, KVM initialised{ran}");
                }
            }
            (Entry::VirtualEl2, Policy::Resident) => {
                verdict.check(stays, || "Exeunt is gone".to_owned());
                verdict.check(!kvm_works, || format!("KVM says: {kvm}"));
                "the next kernel is at virtual EL2, and Exeunt still under it".clone_into(&mut verdict.why);
            }
            (Entry::El1, _) => {
                verdict.check(stays, || "Exeunt is gone".to_owned());
                "the next kernel is at EL1, and Exeunt still under it".clone_into(&mut verdict.why);
            }
        }
        if left {
            verdict.check(restarter.is_none(), || "SOFT_RESTART came to an Exeunt that had left".to_owned());
        } else if wanted.entry == Entry::VirtualEl2 {
            let expected = wanted.from.unwrap_or(0);
            let came = restarter.map_or_else(|| "none".to_owned(), |cpu| cpu.to_string());
            verdict.check(restarter == Some(expected), || format!("SOFT_RESTART came from CPU {came}"));
        } else {
            let is_none = restarter.is_none() || self.call == Call::Refused;
            verdict.check(is_none, || "a kernel that was entered at EL1 called SOFT_RESTART".to_owned());
        }
        match self.call {
            Call::Refused => {
                let cpus = wanted.settings.smp;
                let _ =
                    write!(verdict.why, "; before, {cpus} CPUs were refused SOFT_RESTARTs to places that cannot be");
            }
            Call::Lock => verdict.why += ", which the host had locked",
            _ => {}
        }
    }
}

/// The words for what a guest has told.
fn phase(who: &str, what: &str, value: &str) -> Option<String> {
    match (who, what) {
        ("first", "release") => Some(format!("Linux {value} is up")),
        ("first", "loaded") => Some("the next kernel is loaded; kexec".to_owned()),
        ("next", "release") => Some(format!("the next kernel is up: Linux {value}")),
        _ => None,
    }
}

/// A guest for the next kernel's KVM (tests/user): the toolchain's own linker makes it, as in the tests.
fn kvm_program(places: &Places) -> Result<std::path::PathBuf, String> {
    const TARGET: &str = "aarch64-unknown-linux-musl";
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&places.root).args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "exeunt-user",
        "--target",
        TARGET,
    ]);
    cargo.arg("--target-dir").arg(places.target()).env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
    answer_of(&mut cargo, "the build of the guest's programs")?;
    Ok(places.target().join(TARGET).join("release/kvm"))
}
