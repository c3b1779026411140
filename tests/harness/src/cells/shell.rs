//! Pieces of the shell scripts that cells run in the guest.

/// A busy process for each CPU, which notes how often it has worked and whether its data ever changed.
const WORKERS: &str = r#"work() { dd if=/bin/busybox bs=64k count=8 2>/dev/null | sha256sum; }
sum=$(work)
for worker in $(seq $(nproc)); do
    while :; do
        [ "$(work)" = "$sum" ] || echo $worker >>/tmp/wrong
        echo >>/tmp/worked
    done &
done"#;

/// What the processes of [`WORKERS`] have noted.
const WORKED: &str = "echo worked $(wc -l </tmp/worked)
echo wrong $(cat /tmp/wrong 2>/dev/null | wc -l)";

/// The kernel's complaints, with `bad` before each.
const COMPLAINTS: &str = "dmesg |
    grep -E 'WARNING:|BUG:|Oops|Internal error|Call trace|detected stall|soft lockup|failed to' | sed 's/^/bad /'
true";

/// The script with the pieces that it names in capitals, and the number of rounds.
pub fn script(text: &str, rounds: u32) -> String {
    [("WORKERS", WORKERS), ("WORKED", WORKED), ("COMPLAINTS", COMPLAINTS), ("ROUNDS", &rounds.to_string())]
        .iter()
        .fold(text.to_owned(), |text, (name, piece)| text.replace(name, piece))
}
