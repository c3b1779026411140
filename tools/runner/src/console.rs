//! What comes out of the machine's serial port.
//!
//! Owns the two lines with which the project's initramfs puts a RUN in a frame, and a bare-metal guest says how it
//! ended; and the words with which Exeunt ends.

/// The line before a command's output.
const BEGIN: &str = "exeunt-run: begin";
/// What is before the status in the line after it.
const END: &str = "exeunt-run: exit status ";

/// How Exeunt's own end begins.
const ENDS: [&str; 2] = ["EXEUNT PANIC", "EXEUNT CANNOT START"];

/// Where a piece of the console belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort<'a> {
    /// The command has said it.
    Command(&'a str),
    /// Everybody else.
    Other(&'a str),
    /// One of the frame's own lines.
    Frame,
}

/// Sorts the lines of a console.
#[derive(Debug, Default)]
pub struct Sorter {
    in_command: bool,
}

impl Sorter {
    /// Where `line`, without its end, belongs. The command's last line may lack its end, and so have the frame's on it.
    pub fn sort<'a>(&mut self, line: &'a str) -> Sort<'a> {
        let line = line.trim_end_matches('\r');
        if !self.in_command {
            if line.ends_with(BEGIN) {
                self.in_command = true;
                return Sort::Frame;
            }
            return Sort::Other(line);
        }
        match line.rfind(END).filter(|&at| is_number(&line[at + END.len()..])) {
            Some(at) => {
                self.in_command = false;
                if at == 0 { Sort::Frame } else { Sort::Command(&line[..at]) }
            }
            None => Sort::Command(line),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What Exeunt said when it ended, if it did.
#[must_use]
pub fn end_of_exeunt(console: &str) -> Option<&str> {
    let found = |line: &'static str| console.find(line);
    let at = ENDS.into_iter().filter_map(found).min()?;
    console[at..].lines().next().map(str::trim_end)
}

/// The exit status that the guest said last: a command may print such a line too.
#[must_use]
pub fn status(console: &str) -> Option<i32> {
    let at = console.rfind(END)? + END.len();
    let digits = console[at..].split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_output_is_what_is_in_the_frame() {
        let mut sorter = Sorter::default();
        let console = [
            ("[    0.000000] Booting Linux\r", Sort::Other("[    0.000000] Booting Linux")),
            ("exeunt-run: begin\r", Sort::Frame),
            ("one", Sort::Command("one")),
            ("exeunt-run: exit status unknown", Sort::Command("exeunt-run: exit status unknown")),
            ("no end of lineexeunt-run: exit status 3\r", Sort::Command("no end of line")),
            ("[    1.000000] reboot: Power down", Sort::Other("[    1.000000] reboot: Power down")),
        ];
        for (line, expected) in console {
            assert_eq!(sorter.sort(line), expected, "{line}");
        }
        assert_eq!(sorter.sort("exeunt-run: begin"), Sort::Frame);
        assert_eq!(sorter.sort("exeunt-run: exit status 0"), Sort::Frame);
    }

    #[test]
    fn the_last_status_counts() {
        assert_eq!(status("exeunt-run: exit status 1\nexeunt-run: exit status 42\r\n"), Some(42));
        assert_eq!(status("exeunt-run: exit status \n"), None);
        assert_eq!(status("nothing"), None);
    }

    #[test]
    fn the_end_of_exeunt_is_found() {
        let console = "x\n[exeunt 0.1 cpu0] EXEUNT CANNOT START: no host kernel\r\nEXEUNT PANIC: later\n";
        assert_eq!(end_of_exeunt(console), Some("EXEUNT CANNOT START: no host kernel"));
        assert_eq!(end_of_exeunt("EXEUNT"), None);
    }
}
