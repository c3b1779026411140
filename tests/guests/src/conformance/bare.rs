//! The guest's section of a stub: the state `Gone`, on a machine with nobody else at EL2.
//!
//! Under Exeunt that state is the host's own table's, once Exeunt has left. Here the table may be anyone's: the one of
//! [`stub`], for which the option `bare` is, or that of a lab of the book. It must do what Linux's stub does.

use guest_abi::stub::{RESET_VECTORS, SET_VECTORS};
use guest_abi::vendor::Policy;

use super::case::{Case, End, VARIATIONS, Want};
use super::lists::Setting;
use super::tally::{self, Call, State};
use super::{ALL, change, everywhere, on, restart, stub, stub_call};
use crate::report;

/// Makes every call in every way, with the table `own` at EL2 of all CPUs that are on; then takes it away by its own
/// SET_VECTORS, and brings it back. Gives how many checks were made, and how many of them failed.
#[allow(clippy::must_use_candidate, reason = "the guest itself reads them at its end")]
pub fn section(own: u64) -> (usize, usize) {
    Setting {
        state: State::Gone,
        // Nobody who has policies is there.
        policies: [Policy::Leave; 2],
        restart: Some(End::El2),
        set_vectors: true,
        own,
    }
    .fill();
    tally::add(stub_call(Call::ResetVectors, "with other arguments", RESET_VECTORS, u64::MAX));
    everywhere(State::Gone);
    if report::totals().1 == 0 {
        // With a table that does not answer as it should, nobody knows what is at EL2 after these.
        elsewhere_and_back(own);
    }
    tally::print_table();
    report::totals()
}

/// To the table of [`stub`], which says by a number of its own that it is there, and back.
fn elsewhere_and_back(own: u64) {
    let who = Case {
        call: Call::OtherNumber,
        what: "the other table's",
        immediate: 0,
        x: [stub::WHO, 1, 2, 3, 4],
        want: [Want::Is(stub::OWN), Want::Same, Want::Same, Want::Same],
        end: End::Returns,
    };
    let to = |what, table| stub_call(Call::SetVectors, what, SET_VECTORS, table);
    change(State::Gone, to("to another table", stub::vectors()), true);
    change(State::Gone, who, true);
    change(State::Gone, restart("from the other table", End::El2), true);
    change(State::Gone, to("back", own), true);
    change(State::Gone, to("to another table, all at once", stub::vectors()), false);
    change(State::Gone, to("back, all at once", own), false);
    tally::clear();
    tally::add(restart("after all that", End::El2));
    on(ALL, State::Gone, 0, VARIATIONS);
    tally::print(State::Gone);
}
