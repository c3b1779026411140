//! Results for programs: JSON of one run, and JUnit's XML of several.

use std::fs;
use std::path::Path;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;

use crate::restart::{Ran, StubCall, Verdict, is_there_at_the_end, stub_calls};

/// What came of one run. Its fields are the JSON's; later versions may have more.
#[derive(Debug, Serialize)]
pub struct Result<'a> {
    /// The target: kexec, kdump, soak.
    pub target: &'a str,
    /// Whether all was as it should be.
    pub passed: bool,
    /// Why it has passed; empty if it has not.
    pub why: &'a str,
    /// What was not as it should be.
    pub wrong: &'a [String],
    /// One line on the machine.
    pub machine: &'a str,
    /// Seconds that the machine ran.
    pub seconds: f64,
    /// The stub calls that Exeunt saw, in order.
    pub stub_calls: Vec<Call>,
    /// Whether Exeunt was there when the machine went off.
    pub exeunt_at_the_end: bool,
    /// What the guests complained of, in their words.
    pub complaints: Vec<String>,
    /// The console.
    pub console: String,
}

/// A stub call.
#[derive(Debug, Serialize)]
pub struct Call {
    /// Its name in Linux.
    pub name: &'static str,
    /// The CPU that made it.
    pub cpu: u32,
}

impl From<StubCall> for Call {
    fn from(StubCall { cpu, name }: StubCall) -> Self {
        Self { name, cpu }
    }
}

impl<'a> Result<'a> {
    /// Of a run.
    #[must_use]
    pub fn new(target: &'a str, ran: &'a Ran, verdict: &'a Verdict) -> Self {
        Self {
            target,
            passed: verdict.passed(),
            why: if verdict.passed() { &verdict.why } else { "" },
            wrong: &verdict.wrong,
            machine: &ran.facts,
            seconds: ran.took.as_secs_f64(),
            stub_calls: stub_calls(&ran.console).into_iter().map(Call::from).collect(),
            exeunt_at_the_end: is_there_at_the_end(&ran.console),
            complaints: ran.said.complaints(),
            console: ran.log.display().to_string(),
        }
    }

    /// As JSON.
    ///
    /// # Errors
    /// It cannot be written; in words.
    pub fn write_json(&self, file: &Path) -> std::result::Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())? + "\n";
        fs::write(file, text).map_err(|error| format!("JSON={}: {error}", file.display()))
    }
}

/// One test of a JUnit file.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub end: CaseEnd,
    /// What it said.
    pub output: String,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseEnd {
    /// As it should.
    Passed,
    /// Not, and why.
    Failed(String),
    /// It was not for it to say, and why: a machine without Exeunt fails in the same way.
    Skipped(String),
}

/// Writes a JUnit file.
///
/// # Errors
/// It cannot be written; in words.
pub fn write_junit(file: &Path, suite: &str, cases: &[Case]) -> std::result::Result<(), String> {
    let text = junit(suite, cases)?;
    fs::write(file, text).map_err(|error| format!("JUNIT={}: {error}", file.display()))
}

/// The text without the two characters that XML has not and quick-junit lets pass. Control characters it drops itself.
fn printable(text: &str) -> String {
    text.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

fn junit(suite: &str, cases: &[Case]) -> std::result::Result<String, String> {
    let mut tests = TestSuite::new(printable(suite));
    for case in cases {
        let status = match &case.end {
            CaseEnd::Passed => TestCaseStatus::success(),
            CaseEnd::Failed(why) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(printable(why));
                status
            }
            CaseEnd::Skipped(why) => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(printable(why));
                status
            }
        };
        let mut test = TestCase::new(printable(&case.name), status);
        test.set_classname(printable(suite)).set_time(case.took);
        if !case.output.is_empty() {
            test.set_system_out(printable(&case.output));
        }
        tests.add_test_case(test);
    }
    let mut report = Report::new("exeunt");
    report.add_test_suite(tests);
    report.to_string().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::child::End;
    use crate::guest::Said;

    #[test]
    fn junit_has_what_the_cases_say_and_no_character_that_xml_forbids() {
        let case = |name: &str, end, output: &str| Case {
            name: name.to_owned(),
            took: Duration::from_millis(1500),
            end,
            output: output.to_owned(),
        };
        let text = junit(
            "drill",
            &[
                case("good", CaseEnd::Passed, ""),
                case("bad", CaseEnd::Failed("a < b & \"c\"".to_owned()), "\u{1b}[1mred\u{0}\u{ffff}"),
                case("alike", CaseEnd::Skipped("bare QEMU fails too".to_owned()), ""),
            ],
        )
        .unwrap();
        assert!(text.contains(r#"tests="3""#) && text.contains(r#"failures="1""#) && text.contains(r#"time="1.500""#));
        assert!(text.contains("a &lt; b &amp; &quot;c&quot;"), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{0}', '\u{ffff}']), "{text:?}");
    }

    #[test]
    fn json_has_what_a_run_has() {
        let ran = Ran {
            end: End::Exited(0),
            said: Said::default(),
            console: "[exeunt     3.4 cpu2] DEBUG stub call 0x1, x1 0x40\n".to_owned(),
            log: PathBuf::from("target/kexec/console.log"),
            took: Duration::from_secs(2),
            facts: "Linux".to_owned(),
        };
        let verdict = Verdict { why: "it went".to_owned(), ..Verdict::default() };
        let value = serde_json::to_value(Result::new("kexec", &ran, &verdict)).unwrap();
        assert_eq!(value["passed"], true);
        assert_eq!(value["stub_calls"][0]["name"], "SOFT_RESTART");
        assert_eq!(value["stub_calls"][0]["cpu"], 2);
        assert_eq!(value["exeunt_at_the_end"], false);
    }
}
