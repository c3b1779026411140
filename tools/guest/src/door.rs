//! The doorbell: whether Exeunt is there, and calls to it.
//!
//! Owns the protocol of `guest_abi::doorbell` on the program's side: the retries and their limit.

use guest_abi::doorbell::{self, A0, DONE, GO, LEFT, MAGIC, OPEN, PRESENT, R0};
use guest_abi::vendor::{self, Failure};

use crate::page::{Failed, Page};
use crate::trouble::Trouble;

/// So often a call is tried that others disturb. All channels have to be taken between two stores for one to fail.
const TRIES: u32 = 1000;

/// What answers at the doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Exeunt.
    Present,
    /// What it has left.
    Left,
}

/// Who answers on the CPU that asks.
///
/// # Errors
/// [`Trouble::Silent`], [`Trouble::Strange`], [`Trouble::Mapping`].
pub fn presence(page: &dyn Page) -> Result<Presence, Trouble> {
    match page.load(MAGIC)? {
        PRESENT => Ok(Presence::Present),
        LEFT => Ok(Presence::Left),
        magic => Err(Trouble::Strange(magic)),
    }
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// x0 to x3.
    Registers([u64; 4]),
    /// It was a LEAVE, and Exeunt has left.
    Gone,
}

/// Makes a call: x0 to x3.
///
/// # Errors
/// [`Trouble::Left`], [`Trouble::Crowded`], and those of [`presence`].
pub fn call(page: &dyn Page, arguments: [u64; 4]) -> Result<Answer, Trouble> {
    for _ in 0..TRIES {
        // Before each try: a store must not go to the memory that Exeunt has left.
        if presence(page)? == Presence::Left {
            return Err(Trouble::Left);
        }
        let ticket = page.load(OPEN)?;
        let channel = doorbell::channel(ticket);
        for (place, argument) in (channel + A0..).step_by(8).zip(arguments) {
            page.store(place, argument)?;
        }
        page.store(channel + GO, doorbell::seal(ticket, arguments))?;
        let answer = answer(page, channel, ticket)?;
        // Last of all: of memory anything may look like an answer, zeros for example.
        if presence(page)? == Presence::Left {
            return if arguments[0] as u32 == vendor::LEAVE { Ok(Answer::Gone) } else { Err(Trouble::Left) };
        }
        if let Some(registers) = answer {
            return Ok(Answer::Registers(registers));
        }
        std::thread::yield_now();
    }
    Err(Trouble::Crowded(TRIES))
}

/// The answer in a channel, if it is that to `ticket`.
fn answer(page: &dyn Page, channel: u64, ticket: u64) -> Result<Option<[u64; 4]>, Failed> {
    if page.load(channel + DONE)? != ticket {
        return Ok(None);
    }
    let mut registers = [0; 4];
    for (place, register) in (channel + R0..).step_by(8).zip(&mut registers) {
        *register = page.load(place)?;
    }
    Ok((page.load(channel + DONE)? == ticket).then_some(registers))
}

/// Makes a call that has an answer: x1 to x3 of it. `command` is what to call it in an error.
///
/// # Errors
/// As [`call`]; [`Trouble::Refused`], [`Trouble::TooOld`], [`Trouble::Nonsense`].
pub fn ask(page: &dyn Page, command: &'static str, function: u32, arguments: [u64; 3]) -> Result<[u64; 3], Trouble> {
    let [x1, x2, x3] = arguments;
    let Answer::Registers(registers) = call(page, [function.into(), x1, x2, x3])? else { return Err(Trouble::Left) };
    vendor::results(registers).map_err(|failure| trouble(command, failure))
}

/// A failed call in words.
#[must_use]
pub const fn trouble(command: &'static str, failure: Failure) -> Trouble {
    match failure {
        Failure::Refused(vendor::Error::NotSupported) => Trouble::TooOld(command),
        Failure::Refused(error) => Trouble::Refused(command, error),
        Failure::Absent(x0) => Trouble::Nonsense(command, x0),
    }
}
