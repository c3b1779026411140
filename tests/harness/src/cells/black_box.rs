//! The black box on a machine: that it survives a reset, and what the next start finds in it.
//!
//! That it is in the dumps, those cells ask that make dumps.

use crate::cell::{Cell, Context, Outcome};
use crate::ensure;
use crate::machine::Entry;

/// The first start resets the machine, the second says what the first has left.
const RESET_ONCE: &str = "exeunt crashes >/tmp/left || exit; cat /tmp/left; \
                          if grep -q '^There is nothing' /tmp/left; then reboot -f; sleep 100; fi";

/// A reset in place leaves the box of the start before it.
fn after_a_reset(context: &Context, entry: Entry) -> Outcome {
    let machine = context.machine().entered(entry, "").with("REBOOT", 1).with("RUN", RESET_ONCE);
    let ran = machine.run()?.ended_with(0)?;
    ran.line_with("the last start in this memory (number 1) has left its black box").ok_or("no line at the start")?;
    for line in [
        "Exeunt itself did not die in the start before this one.",
        "Exeunt starts, for the first time in this memory",
        "the host is entered at 0x40400000",
        "CPU 3   a CPU comes up under Exeunt",
        "CPU 0   the host resets the machine",
        "INFO  Exeunt ",
    ] {
        ensure!(ran.stdout.contains(line), "the second start has no {line:?}: {}", ran.stdout);
    }
    Ok(())
}

pub(super) fn cells() -> Vec<Cell> {
    [(Entry::VirtualEl2, false), (Entry::El1, true)]
        .into_iter()
        .map(|(entry, slow)| {
            Cell::new(format!("black-box/after-a-reset-{}", entry.name()), move |context| after_a_reset(context, entry))
                .slow(slow)
        })
        .collect()
}
