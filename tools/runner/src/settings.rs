//! What a person wants of the machine: the variables, read and checked.
//!
//! Owns the rules that bind them together. It looks at files, and starts and builds nothing.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::PathBuf;

use crate::devices::Devices;
use crate::names::{self, Name};
use crate::variables::{Values, Wrong, size};
use crate::{kernel, machine};

/// The models that TF-A knows (plat/qemu/common/common.mk): on another it stops before it has said anything.
const FIRMWARE_CPUS: [&str; 10] = [
    "cortex-a53",
    "cortex-a55",
    "cortex-a57",
    "cortex-a72",
    "cortex-a76",
    "cortex-a710",
    "neoverse-n1",
    "neoverse-n2",
    "neoverse-v1",
    "max",
];
/// And how many CPUs.
const FIRMWARE_MOST: u32 = 32;
/// The usual model.
const USUAL_CPU: &str = "cortex-a57";
/// QEMU's models that cannot have pages of 16 KiB: ID_AA64MMFR0_EL1.TGran16 is 0.
const WITHOUT_16K: [&str; 4] = ["cortex-a53", USUAL_CPU, "cortex-a72", "a64fx"];
/// The usual model for a kernel with such pages.
const USUAL_CPU_FOR_16K: &str = "neoverse-n1";
/// CPUs that a GICv2 has room for.
const GICV2_MOST: u32 = 8;

/// Who has EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// Exeunt.
    Exeunt,
    /// The host, which QEMU enters at EL2.
    NoneAtEl2,
    /// Nobody: the host is entered at EL1.
    NoneAtEl1,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// One of Debian's, which set-up fetches.
    Named(String),
    /// A person's.
    File(PathBuf),
}

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::File(file) => file.display().fmt(f),
        }
    }
}

impl Kernel {
    /// From a variable's value.
    ///
    /// # Errors
    /// It is neither; in words.
    pub fn parse(name: &str, value: &str) -> Result<Self, String> {
        if Name::of(value).is_some() {
            return Ok(Self::Named(value.to_owned()));
        }
        match fs::metadata(value) {
            Ok(file) if file.is_dir() => {
                Err(format!("{name}={value}: a directory; the kernel of a build tree is its arch/arm64/boot/Image"))
            }
            Ok(_) => Ok(Self::File(value.into())),
            Err(_) => Err(format!("{name}={value}: {}", names::what_there_is(value))),
        }
    }

    /// Whether its memory has pages of 16 KiB. What is no kernel has none.
    #[must_use]
    pub fn has_16k_pages(&self) -> bool {
        self.is_of("-16k", kernel::has_16k_pages)
    }

    /// Whether it is built with `CONFIG_PREEMPT_RT`.
    #[must_use]
    pub fn is_realtime(&self) -> bool {
        self.is_of("-rt", kernel::is_realtime)
    }

    /// Whether it is what this flavour of Debian's is: of a file its image tells.
    fn is_of(&self, flavour: &str, image_is: fn(&[u8]) -> bool) -> bool {
        match self {
            Self::Named(name) => name.ends_with(flavour),
            Self::File(file) => machine::open_kernel(file, "KERNEL").is_ok_and(|(image, _)| image_is(&image)),
        }
    }

    /// Whether its version is `wanted` or newer, as far as that can be known.
    #[must_use]
    pub fn is_at_least(&self, wanted: (u32, u32)) -> Option<bool> {
        match self {
            Self::Named(name) => Name::of(name)?.is_at_least(wanted),
            Self::File(file) => {
                let (image, _) = machine::open_kernel(file, "KERNEL").ok()?;
                Some(names::is_at_least(&kernel::version(&image)?, wanted))
            }
        }
    }

    /// The usual one.
    #[must_use]
    pub fn usual() -> Self {
        Self::Named(names::TESTED[0].to_owned())
    }
}

/// An initrd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initrd {
    /// The project's.
    Usual,
    /// A person's.
    File(PathBuf),
    /// None.
    Without,
}

/// A build of Exeunt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Optimised.
    Release,
    /// With checks that cost time.
    Debug,
    /// With places where it can be made to die.
    Faults,
}

impl Profile {
    /// As cargo calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
            Self::Faults => "faults",
        }
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// CPUs.
    pub smp: u32,
    /// RAM as the person wrote it, and in bytes.
    pub mem: (String, u64),
    /// The CPU model with its options.
    pub cpu: String,
    /// 2 or 3.
    pub gic: u32,
    /// The host's kernel.
    pub kernel: Kernel,
    /// Its initrd.
    pub initrd: Initrd,
    /// Added to the host's command line.
    pub append: String,
    /// Exeunt's own options.
    pub exeunt: String,
    /// A ready image of it.
    pub exeunt_bin: Option<PathBuf>,
    /// Which build of it.
    pub profile: Profile,
    /// A directory that is added to the initrd.
    pub overlay: Option<PathBuf>,
    /// Who has EL2.
    pub hypervisor: Hypervisor,
    /// Whether TF-A is at EL3.
    pub firmware: bool,
    /// Where the run writes to.
    pub out: Option<PathBuf>,
    /// Which QEMU.
    pub qemu: PathBuf,
    /// Further arguments for it.
    pub qemu_extra: Vec<String>,
    /// How QEMU runs the CPUs: multi or single.
    pub threads: Option<&'static str>,
    /// The machine ends after so many seconds; never, if that is 0.
    pub timeout: Option<u64>,
    /// What the guest runs.
    pub run: Option<String>,
    /// Disks, a network, a directory.
    pub devices: Devices,
    /// Where the modules of a person's kernel are.
    pub modules: Option<PathBuf>,
    /// Whether a reset starts the machine again; if nobody has said, it depends on who watches.
    pub reboot: Option<bool>,
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl Settings {
    /// What a machine is without a variable.
    ///
    /// # Panics
    /// Never: nothing of it can be wrong.
    #[must_use]
    pub fn usual() -> Self {
        Self::read(&Values::default()).expect("no variable is set")
    }

    /// Out of the variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(values: &Values) -> Result<Self, Wrong> {
        let mut wrong = Wrong::default();
        let smp = wrong.or(
            values.parse("SMP", 4, |text| text.parse().ok().filter(|cpus| is_number(text) && (1..1000).contains(cpus))),
            4,
        );
        let usual_mem = ("1G".to_owned(), 1 << 30);
        let read_mem =
            |text: &str| Some((text.to_owned(), size(text).filter(|&bytes| bytes > 0 && bytes % (1 << 20) == 0)?));
        let mem = wrong.or(values.parse("MEM", usual_mem.clone(), read_mem), usual_mem);
        let gic = wrong.or(values.choose("GIC", &[("3", 3), ("2", 2)]), 3);
        let profile = wrong.or(
            values.choose("PROFILE", &[("release", Profile::Release), ("debug", Profile::Debug)]),
            Profile::Release,
        );
        let threads = wrong
            .or(values.choose("THREADS", &[("", None), ("multi", Some("multi")), ("single", Some("single"))]), None);
        let with_exeunt = wrong.or(values.choose("HYPERVISOR", &[("exeunt", true), ("none", false)]), true);
        let at_el2 = wrong.or(values.choose("EL", &[("2", true), ("1", false)]), true);
        let firmware = wrong.or(values.choose("FIRMWARE", &[("", false), ("tf-a", true)]), false);
        // A CPU that is off waits in BL31 with WFE, which QEMU makes an idle turn of its thread: on a busy workstation
        // those take the time of the one that boots.
        let threads = threads.or(firmware.then_some("single"));
        let timeout = wrong
            .or(values.parse("TIMEOUT", None, |text| text.parse().ok().filter(|_| is_number(text)).map(Some)), None);
        let kernel = wrong.or(
            values.get("KERNEL").map_or_else(|| Ok(Kernel::usual()), |value| Kernel::parse("KERNEL", value)),
            Kernel::usual(),
        );
        let reboot = wrong.or(values.choose("REBOOT", &[("", None), ("1", Some(true)), ("0", Some(false))]), None);
        let devices = Devices::read(values).unwrap_or_else(|error| {
            wrong.0.extend(error.0);
            Devices::default()
        });
        let split = |text: &str| shlex::split(text);
        let qemu_extra = wrong.or(values.parse("QEMU_EXTRA", Vec::new(), split), Vec::new());
        let hypervisor = match (with_exeunt, at_el2) {
            (true, _) => Hypervisor::Exeunt,
            (false, true) => Hypervisor::NoneAtEl2,
            (false, false) => Hypervisor::NoneAtEl1,
        };
        let initrd = match values.get("INITRD") {
            None => Initrd::Usual,
            Some("none") => Initrd::Without,
            Some(file) => Initrd::File(file.into()),
        };
        let mut settings = Self {
            smp,
            mem,
            cpu: values.get("CPU").unwrap_or(USUAL_CPU).to_owned(),
            gic,
            kernel,
            initrd,
            append: values.get("APPEND").unwrap_or_default().to_owned(),
            exeunt: values.get("EXEUNT").unwrap_or_default().to_owned(),
            exeunt_bin: values.get("EXEUNT_BIN").map(PathBuf::from),
            profile,
            overlay: values.get("OVERLAY").map(PathBuf::from),
            hypervisor,
            firmware,
            out: values.get("OUT").map(PathBuf::from),
            qemu: values.get("QEMU").unwrap_or("qemu-system-aarch64").into(),
            qemu_extra,
            threads,
            timeout,
            run: values.get("RUN").map(str::to_owned),
            devices,
            modules: values.get("MODULES").map(PathBuf::from),
            reboot,
        };
        settings.have_pages(values, &mut wrong.0);
        settings.rules(values, with_exeunt && !at_el2, &mut wrong.0);
        wrong.unless(settings)
    }

    /// A kernel whose pages the CPU does not have stops before its first line. So it gets a CPU that has them, unless
    /// the person has named one.
    fn have_pages(&mut self, values: &Values, wrong: &mut Vec<String>) {
        if !has_no_16k(self.cpu_model()) {
            return;
        }
        let next = values.get("NEXT").and_then(|value| Some(("NEXT", Kernel::parse("NEXT", value).ok()?)));
        let mut kernels = [("KERNEL", self.kernel.clone())].into_iter().chain(next);
        let Some((variable, kernel)) = kernels.find(|(_, kernel)| kernel.has_16k_pages()) else { return };
        match values.get("CPU") {
            None => USUAL_CPU_FOR_16K.clone_into(&mut self.cpu),
            Some(cpu) => wrong.push(format!(
                "CPU={cpu} with {variable}={kernel}: this kernel has pages of 16 KiB, and {} has none of that size; \
                 {USUAL_CPU_FOR_16K} and max have",
                self.cpu_model()
            )),
        }
    }

    /// What one variable forbids another.
    fn rules(&self, values: &Values, exeunt_at_el1: bool, wrong: &mut Vec<String>) {
        let (smp, cpu) = (self.smp, &self.cpu);
        if self.gic == 2 && smp > GICV2_MOST {
            wrong.push(format!("SMP={smp} with GIC=2: a GICv2 has {GICV2_MOST} CPUs at most"));
        }
        if exeunt_at_el1 {
            wrong.push("EL=1 goes with HYPERVISOR=none: Exeunt needs EL2".to_owned());
        }
        if self.firmware {
            if self.hypervisor != Hypervisor::Exeunt || self.gic == 2 {
                wrong.push("FIRMWARE=tf-a goes with HYPERVISOR=exeunt and GIC=3".to_owned());
            }
            if smp > FIRMWARE_MOST {
                wrong.push(format!("SMP={smp} with FIRMWARE=tf-a: it knows {FIRMWARE_MOST} CPUs"));
            }
            if !FIRMWARE_CPUS.contains(&self.cpu_model()) {
                wrong.push(format!("CPU={cpu} with FIRMWARE=tf-a: it knows {}", FIRMWARE_CPUS.join(", ")));
            }
        }
        if self.initrd == Initrd::Without && (self.run.is_some() || self.overlay.is_some()) {
            wrong.push("INITRD=none leaves no place for RUN= and OVERLAY=".to_owned());
        }
        for (name, directory) in [("INITRD", false), ("EXEUNT_BIN", false), ("OVERLAY", true), ("MODULES", true)] {
            let Some(value) = values.get(name).filter(|value| (name, *value) != ("INITRD", "none")) else { continue };
            let is_there = fs::metadata(value).is_ok_and(|found| found.is_dir() == directory);
            if !is_there {
                wrong.push(format!("{name}={value}: no such {}", if directory { "directory" } else { "file" }));
            }
        }
    }

    /// The CPU model without its options.
    #[must_use]
    pub fn cpu_model(&self) -> &str {
        self.cpu.split(',').next().unwrap_or_default()
    }
}

/// Whether a model of QEMU's cannot have pages of 16 KiB.
#[must_use]
pub fn has_no_16k(model: &str) -> bool {
    WITHOUT_16K.contains(&model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variables::Target;

    fn read(set: &[(&str, &str)]) -> Result<Settings, Wrong> {
        let look_up = |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        Settings::read(&Values::read(Target::Run, [], look_up)?)
    }

    fn refused(set: &[(&str, &str)]) -> String {
        read(set).unwrap_err().to_string()
    }

    #[test]
    fn without_a_variable_it_is_the_usual_machine() {
        let settings = read(&[]).unwrap();
        assert_eq!((settings.smp, settings.mem.1, settings.gic), (4, 1 << 30, 3));
        assert_eq!((settings.cpu.as_str(), settings.hypervisor), ("cortex-a57", Hypervisor::Exeunt));
        assert_eq!((settings.kernel, settings.initrd), (Kernel::Named("6.12".to_owned()), Initrd::Usual));
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        assert_eq!(
            refused(&[("SMP", "0"), ("MEM", "1.5G"), ("EL", "1"), ("KERNEL", "/nowhere")]),
            "SMP=0: it is a number of CPUs, such as 4\n\
             MEM=1.5G: it is a size such as 512M or 4G, a multiple of 1 MiB\n\
             KERNEL=/nowhere: neither a file nor a kernel's name, which is a version such as 7.2, or one of Debian's \
             releases trixie, trixie-backports, bookworm, bookworm-backports, bullseye, testing, unstable, \
             experimental, perhaps with a flavour, as in 6.12-rt\n\
             EL=1 goes with HYPERVISOR=none: Exeunt needs EL2"
        );
    }

    #[test]
    fn a_kernel_gets_a_cpu_that_has_its_pages() {
        let cpu = |set| read(set).unwrap().cpu;
        assert_eq!(cpu(&[("KERNEL", "6.12-16k")]), "neoverse-n1");
        assert_eq!(cpu(&[("KERNEL", "testing-16k"), ("CPU", "max")]), "max");
        assert_eq!(cpu(&[("KERNEL", "6.12-rt")]), "cortex-a57");
        assert_eq!(
            refused(&[("KERNEL", "6.12-16k"), ("CPU", "cortex-a72,pmu=off")]),
            "CPU=cortex-a72,pmu=off with KERNEL=6.12-16k: this kernel has pages of 16 KiB, and cortex-a72 has none of \
             that size; neoverse-n1 and max have"
        );
        // Linux, Documentation/arch/arm64/booting.rst: the flags are at 24, the magic is at 56.
        let file = std::env::temp_dir().join(format!("exeunt-16k-{}", std::process::id()));
        for (pages, model) in [(0b010, "cortex-a57"), (0b100, "neoverse-n1"), (0b110, "cortex-a57")] {
            let mut image = [0; 64];
            image[24] = pages;
            image[56..60].copy_from_slice(b"ARM\x64");
            fs::write(&file, image).unwrap();
            let settings = read(&[("KERNEL", file.to_str().unwrap())]);
            fs::remove_file(&file).unwrap();
            assert_eq!(settings.unwrap().cpu, model, "{pages:#b}");
        }
    }

    #[test]
    fn the_next_kernel_has_to_have_its_pages_too() {
        let set = [("NEXT", "6.12-16k"), ("CPU", "a64fx")];
        let read = |set: &[(&'static str, &'static str)]| {
            let look_up =
                |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
            Settings::read(&Values::read(Target::Kexec, [], look_up).unwrap())
        };
        assert_eq!(read(&set[..1]).unwrap().cpu, "neoverse-n1");
        let wrong = read(&set).unwrap_err().to_string();
        assert!(wrong.starts_with("CPU=a64fx with NEXT=6.12-16k: this kernel has pages of 16 KiB"), "{wrong}");
    }

    #[test]
    fn variables_that_do_not_go_together_are_refused() {
        for (set, why) in [
            (&[("SMP", "9"), ("GIC", "2")][..], "a GICv2 has 8 CPUs at most"),
            (&[("INITRD", "none"), ("RUN", "true")], "no place for RUN="),
            (&[("INITRD", "/nowhere")], "INITRD=/nowhere: no such file"),
            (&[("OVERLAY", "/dev/null")], "OVERLAY=/dev/null: no such directory"),
            (&[("FIRMWARE", "tf-a"), ("GIC", "2")], "goes with HYPERVISOR=exeunt and GIC=3"),
            (&[("FIRMWARE", "tf-a"), ("CPU", "a64fx")], "it knows cortex-a53"),
            (&[("QEMU_EXTRA", "-append 'open")], "arguments, quoted as for a shell"),
            (&[("TIMEOUT", "+5")], "a number of seconds"),
        ] {
            assert!(refused(set).contains(why), "{set:?}: {}", refused(set));
        }
        let threads = |set| read(set).unwrap().threads;
        assert_eq!(threads(&[("FIRMWARE", "tf-a")]), Some("single"));
        assert_eq!(threads(&[("FIRMWARE", "tf-a"), ("THREADS", "multi")]), Some("multi"));
        let settings = read(&[("HYPERVISOR", "none"), ("EL", "1"), ("MEM", "512"), ("TIMEOUT", "0")]).unwrap();
        assert_eq!((settings.hypervisor, settings.mem.1), (Hypervisor::NoneAtEl1, 512 << 20));
        assert_eq!(settings.timeout, Some(0));
    }
}
