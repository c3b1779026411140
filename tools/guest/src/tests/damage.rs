//! A box may be damaged in any way: there is an answer, or an error in words.

use guest_abi::blackbox::{Header, SIZE, checksum};
use proptest::prelude::*;
use view::fixture;

use super::fake::Fake;
use crate::commands::log::Follower;
use crate::commands::{about, crashes, exits, log, status};
use crate::snapshot::{Snapshot, Wanted};

/// Asks for everything.
fn ask(fake: &Fake) {
    let Ok(context) = fake.context() else { return };
    let asked =
        [about::run(&context), status::run(&context), exits::run(&context), log::run(&context), crashes::run(&context)];
    for result in asked {
        match result {
            Ok(said) => assert!(!said.text.is_empty() && !said.text.contains('\x1b')),
            Err(trouble) => assert!(!trouble.to_string().is_empty()),
        }
    }
    if let Ok(source) = context.source() {
        let _ = Follower::default().next(&*source);
        let _ = Snapshot::take(&*source, Wanted { all: true, ..Wanted::default() });
    }
}

/// Makes the header's checksum right again, so that what was changed in it is believed.
fn sign(bytes: &mut [u8]) {
    let core = bytes.len() - SIZE;
    let end = core + Header::SIZE - 8;
    let sum = checksum(&bytes[core..end]);
    bytes[end..end + 8].copy_from_slice(&sum.to_le_bytes());
}

proptest! {
    #[test]
    fn a_box_with_random_damage_is_no_panic(
        changes in prop::collection::vec((any::<u32>(), any::<u64>()), 1..40),
        signed in any::<bool>(),
    ) {
        let mut builder = fixture::crash();
        builder.previous = Some(fixture::boot().core());
        let (mut bytes, start) = (builder.build(), builder.header.start);
        for (place, value) in changes {
            // Half of them where the numbers are that everything hangs on.
            let core = bytes.len() - SIZE;
            let random = place as usize >> 1;
            let place = if place & 1 == 0 { core + random % 0x200 } else { random % bytes.len() };
            let place = place & !7;
            bytes[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
        if signed {
            sign(&mut bytes);
        }
        ask(&Fake::of(bytes, start, 2));
    }

    #[test]
    fn a_box_that_is_somewhere_else_or_cut_off_is_no_panic(start in any::<u64>(), units in 0_usize..40) {
        let mut bytes = fixture::boot().build();
        bytes.resize(units * SIZE, 0);
        ask(&Fake::of(bytes, start, 1));
    }
}
