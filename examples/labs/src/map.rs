//! Lab 3: draw stage 2 by calls, and change it without a call.

use guest_abi::call;
use guest_abi::vendor::RANGE_EXECUTE;
use guests::machine::machine;
use guests::println;
use guests::start::Start;

/// A range that stage 2 treats alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// The first address after it.
    pub end: u64,
    /// What the host may do there: `RANGE_*` of `guest_abi::vendor`.
    pub rights: u64,
}

/// What you write.
pub struct Yours {
    /// Calls `draw` for each range, from address 0 on.
    pub map: fn(draw: &mut dyn FnMut(Range)),
    /// Makes the block at address 0, where devices are, executable. No call of Exeunt's does that.
    pub change: fn(),
}

/// Most ranges that the lab looks at.
const ROOM: usize = 32;

/// The map, as the frame asks for it.
fn right() -> ([Option<Range>; ROOM], usize) {
    let mut ranges = [None; ROOM];
    let (mut count, mut address) = (0, 0);
    // SAFETY: at EL1, and the call changes nothing.
    while let Ok(range) = unsafe { call::stage2_range(address) } {
        ranges[count] = Some(Range { start: range.start, end: range.end, rights: range.rights });
        count += 1;
        address = range.end;
    }
    (ranges, count)
}

/// Runs it.
pub fn run(_: &Start, yours: &Yours) {
    let (ranges, count) = right();
    let mut drawn = 0;
    (yours.map)(&mut |range| {
        println!("lab: {:#014x} to {:#014x}, rights {:#05b}", range.start, range.end, range.rights);
        want!(drawn < count, "you draw a range after the last one: {range:x?}");
        want!(
            ranges[drawn] == Some(range),
            "range {drawn} is {:x?}, and you draw {range:x?}",
            ranges[drawn].unwrap_or(range)
        );
        drawn += 1;
    });
    want!(drawn == count, "{count} ranges are there, and you have drawn {drawn}");
    println!("lab: the map is right; now the change");
    (yours.change)();
    // SAFETY: as above.
    let Ok(first) = (unsafe { call::stage2_range(0) }) else { saw!("Exeunt no longer answers") };
    want!(first.rights & RANGE_EXECUTE != 0, "the block at 0 still has rights {:#05b}: no execution", first.rights);
    let reserved = machine().reserved.map_or(0, |range| range.base);
    println!("lab: Exeunt is at {reserved:#x} as before");
    solved!("{count} ranges are drawn, and the first is executable now")
}
