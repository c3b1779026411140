//! Numbers out of what machines print.

use std::collections::BTreeMap;

/// The counters of the line `all CPUs: exits: smc 9, hvc 0, ...` that Exeunt prints with its option `stats`.
#[must_use]
pub fn exits(console: &str) -> Option<BTreeMap<String, u64>> {
    let line = console.lines().rev().find(|line| line.contains("all CPUs: exits:"))?;
    let (_, counters) = line.split_once("exits:")?;
    counters.split(',').map(counter).collect()
}

/// From `data abort 3` to the name and the number.
fn counter(text: &str) -> Option<(String, u64)> {
    let (name, number) = text.trim().rsplit_once(' ')?;
    Some((name.to_owned(), number.parse().ok()?))
}

/// The names of [`exits`] in the order in which STATUS has them, as far as there are any.
const EXITS: [&str; 8] =
    ["smc", "hvc", "data abort", "instruction abort", "system register", "undefined", "other", "interrupt"];

/// The counters of all CPUs that the test module's command `status` prints, by the names of [`exits`].
#[must_use]
pub fn status_exits(output: &str) -> BTreeMap<String, u64> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for line in output.lines().filter(|line| line.starts_with("cpu ")) {
        let counters = line.split_once(" exits ").map_or("", |(_, counters)| counters).split(' ');
        for (name, counter) in EXITS.iter().zip(counters) {
            *sums.entry((*name).to_owned()).or_default() += counter.parse().unwrap_or(0);
        }
    }
    sums
}

/// The numbers that the guest `rounds` prints, by name.
#[must_use]
pub fn rounds(console: &str) -> BTreeMap<String, u64> {
    console.lines().filter_map(|line| counter(line.trim().strip_prefix("rounds: ")?)).collect()
}

/// The lines that the guest `sysregs` prints for the encodings that it can reach: the encoding, and how.
#[must_use]
pub fn sweep(console: &str) -> BTreeMap<String, String> {
    let entry = |line: &str| {
        let mut words = line.trim().strip_prefix("sweep: ")?.splitn(3, ' ');
        let (level, encoding, access) = (words.next()?, words.next()?, words.next()?);
        Some((format!("{level} {encoding}"), access.to_owned()))
    };
    console.lines().filter_map(entry).collect()
}

/// The commands that a page of the documentation shows: lines of its code blocks, or lines with four spaces before
/// them, that call make, one of the scripts or what set-up has put below target/, or make a file for them, without the
/// comments after them. Blocks with a name behind their language are left out: the cells `loaders/` run those.
pub fn commands(page: &str) -> impl Iterator<Item = &str> {
    let (mut in_code, mut is_named) = (false, false);
    page.lines().filter_map(move |line| {
        if let Some(language) = line.strip_prefix("```") {
            in_code = !in_code;
            is_named = language.split_whitespace().count() > 1;
        }
        let line = if in_code { line } else { line.strip_prefix("    ")? };
        let (command, _) = line.split_once(" # ").unwrap_or((line, ""));
        let is_command = ["make ", "scripts/", "target/", "truncate "].iter().any(|begin| line.starts_with(begin));
        (!is_named && is_command).then(|| command.trim_end())
    })
}

/// The sessions of a page: in blocks that begin with "```console run", lines with a `$` are typed, and the lines after
/// each are what it prints, `...` for any.
#[must_use]
pub fn sessions(page: &str) -> Vec<(&str, Vec<&str>)> {
    let mut sessions: Vec<(&str, Vec<&str>)> = Vec::new();
    for block in page.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("console run\n")) {
        for line in block.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                sessions.push((command, Vec::new()));
            } else if let Some((_, lines)) = sessions.last_mut() {
                lines.push(line);
            }
        }
    }
    sessions
}

/// The value of the line `NAME VALUE` of a command's output.
#[must_use]
pub fn value<'a>(output: &'a str, name: &str) -> Option<&'a str> {
    output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// A line of /proc/iomem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// First address.
    pub start: u64,
    /// Last address.
    pub end: u64,
    /// How deep it is nested.
    pub depth: usize,
    /// What it is.
    pub name: String,
}

/// The lines of /proc/iomem in `output`.
#[must_use]
pub fn resources(output: &str) -> Vec<Resource> {
    let resource = |line: &str| {
        let (range, name) = line.split_once(" : ")?;
        let (start, end) = range.trim().split_once('-')?;
        Some(Resource {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            depth: (line.len() - line.trim_start().len()) / 2,
            name: name.to_owned(),
        })
    };
    output.lines().filter_map(resource).collect()
}

/// From `4G` or `512M` to bytes.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.len().checked_sub(1)?);
    let unit = match unit {
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok().map(|number| number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_counters_counts() {
        let console = "\
[exeunt     1.0 cpu0] INFO  CPU 0: exits: smc 8, hvc 0
[exeunt     1.0 cpu0] INFO  all CPUs: exits: smc 10, hvc 0, data abort 2, system register 0\n";
        let exits = exits(console).unwrap();
        assert_eq!((exits["smc"], exits["hvc"], exits["data abort"], exits["system register"]), (10, 0, 2, 0));
        assert!(super::exits("nothing").is_none());
    }

    #[test]
    fn commands_of_a_page_are_in_its_code_blocks() {
        let page = "make no\n```\nmake run      # a shell\nmake run RUN='echo #1'\nmaker\n  make no\n\
                    truncate -s 1G x\nscripts/symbolize x\n```\nmake no\n\
                    ```sh disk\ntruncate -s 1 named\n```\n```sh\nmake clean\n```\n    make gdb\n    no\n";
        let found: Vec<&str> = commands(page).collect();
        assert_eq!(
            found,
            ["make run", "make run RUN='echo #1'", "truncate -s 1G x", "scripts/symbolize x", "make clean", "make gdb"]
        );
    }

    #[test]
    fn sessions_of_a_page_are_in_their_blocks() {
        let page = "$ no\n```console run\n$ make a\none\n...\n$ make b\n```\n```\n$ no\n```\n";
        assert_eq!(sessions(page), [("make a", vec!["one", "..."]), ("make b", vec![])]);
    }

    #[test]
    fn counters_of_a_status_are_added_up() {
        let status = "ok summary 0x40000 cpus 2 live 1\n\
cpu 0 mpidr 0 state 1 returns 0 exits 8 3 0 0 100 0 400 0 0 0 0 0\n\
cpu 1 mpidr 0x1 state 0 returns 0 exits 1 1 0 0 50 0 30 0 0 0 0 0\n";
        let exits = status_exits(status);
        assert_eq!((exits["smc"], exits["hvc"], exits["system register"], exits["other"]), (9, 4, 150, 430));
        assert_eq!((exits.len(), exits["interrupt"]), (EXITS.len(), 0));
        assert!(status_exits("nothing").is_empty());
    }

    #[test]
    fn rounds_are_read_by_name() {
        let rounds =
            rounds("rounds: frequency 1000000000\r\nrounds: hvc-psci-version 300\nrounds: 1 checks, 0 failed\n");
        assert_eq!((rounds["frequency"], rounds["hvc-psci-version"]), (1_000_000_000, 300));
        assert_eq!(rounds.len(), 2);
    }

    #[test]
    fn sweeps_are_read_with_their_values() {
        let sweep = sweep("sweep: EL1 S3_0_C0_C0_0 r 0x411fd070\nsysregs: 3\nsweep: EL0 S3_3_C13_C0_2 rw\n");
        assert_eq!(sweep["EL1 S3_0_C0_C0_0"], "r 0x411fd070");
        assert_eq!(sweep["EL0 S3_3_C13_C0_2"], "rw");
        assert_eq!(sweep.len(), 2);
    }

    #[test]
    fn resources_have_a_depth() {
        let resources = resources(
            "40000000-401fffff : System RAM\n40200000-403fffff : reserved\n  40400000-41ffffff : Kernel code\n",
        );
        assert_eq!(resources.len(), 3);
        assert_eq!((resources[1].start, resources[1].end, resources[1].depth), (0x4020_0000, 0x403f_ffff, 0));
        assert_eq!((resources[2].depth, &*resources[2].name), (1, "Kernel code"));
    }

    #[test]
    fn values_and_sizes_are_read() {
        assert_eq!(value("cpus 4\nrelease 6.12\n", "release"), Some("6.12"));
        assert_eq!(value("cpuset 4\n", "cpu"), None);
        assert_eq!((size("512M"), size("64G"), size("x"), size("")), (Some(512 << 20), Some(64 << 30), None, None));
    }
}
