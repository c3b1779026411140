//! The doorbell: how a program of root's reaches EL2 from an unmodified Linux, without a kernel module.
//!
//! Owns the layout of its page. Exeunt's 2 MiB are no RAM to Linux, so that root may map them through `/dev/mem`, also
//! with STRICT_DEVMEM. Stage 2 has nothing there: a load or store comes to EL2 as a data abort, with a syndrome that
//! says which register it is about, and Exeunt answers in the place of memory. What the doorbell has to offer:
//!
//! - The first page of the 2 MiB has registers: [`MAGIC`], which tells that Exeunt is there; and [`CHANNELS`] channels,
//!   by which the calls of [`crate::vendor`] are made.
//! - From [`MIRROR`] on the black box ([`crate::blackbox`]) can be read, all of it, from [`Header::start`] on.
//!
//! Accesses are loads and stores of one general-purpose register of 64 bits, aligned: compile them so, for instance as
//! volatile accesses to `u64`. The mirror can also be read in 1, 2 and 4 bytes. Any other access, and one to another
//! place in the 2 MiB, is answered as everywhere in there: by a synchronous external abort, of which Linux makes
//! SIGBUS. A store to a register that can only be read has no effect; a load of one that can only be stored to gives 0.
//!
//! To make a call:
//!
//! 1. Load [`OPEN`]: it gives a *ticket*, which no other program has, and which is good for one call. It is never 0.
//!    Bits 3:0 are the number of the channel.
//! 2. Store the function identifier and its arguments, x0 to x3, to [`A0`] and the following three.
//! 3. Store [`seal`] of ticket and arguments to [`GO`]. The call is made on the CPU that stores.
//! 4. Load [`DONE`]. If that is the ticket, load x0 to x3 of the answer from [`R0`] and the following three, and load
//!    [`DONE`] again: if it still is the ticket, they are yours. In both cases otherwise: begin again with step 1.
//!
//! There is no lock that a program could die with. When all channels are in use, [`OPEN`] takes the one that was opened
//! first away from its owner, who sees it by the ticket. The seal keeps a call from being made with what somebody else
//! has stored.
//!
//! When a LEAVE succeeds there is no answer: from then on loads and stores in the 2 MiB reach the memory itself, and a
//! load of [`MAGIC`] gives [`LEFT`]. The doubleword after it, at [`MAILBOX`], is then the offset of the [`Mailbox`]
//! from the beginning of the 2 MiB. What a program stores to the registers by mistake of the moment harms nothing
//! there: nobody else uses the memory from [`MAGIC`] to the end of the last channel. A load of [`OPEN`] gives all ones,
//! and the [`DONE`] of that channel does not. LEAVE by the doorbell keeps a way back open that one by HVC does not:
//! VBAR_EL2 is the resident stub's, which answers the stub calls as the host's own would, and HCR_EL2.TSC stays set
//! until the host sets vectors of its own or restarts. The stub passes each SMC on to firmware as it is. But if
//! [`Mailbox::back`] is [`Mailbox::round`], the CPU first comes back under Exeunt. On a Linux with debugfs a read of
//! `/sys/kernel/debug/psci` makes SMCs on the CPU that reads; without, turning another CPU off and on does.
//!
//! [`Header::start`]: crate::blackbox::Header::start

use crate::record::{Field, Plain, record};

/// Offset of the magic: [`PRESENT`] or [`LEFT`].
pub const MAGIC: u64 = 0x40;
/// Load of [`MAGIC`] while Exeunt is there: "EXEUNTDB" in memory.
pub const PRESENT: u64 = u64::from_le_bytes(*b"EXEUNTDB");
/// Load of [`MAGIC`] when Exeunt is not there: what stands in memory, "EXEUNTLF".
pub const LEFT: u64 = u64::from_le_bytes(*b"EXEUNTLF");
/// Offset of the version of the ABI, as the call VERSION tells it, while Exeunt is there.
pub const VERSION: u64 = 0x48;
/// Offset of the mailbox's offset, when Exeunt is not there.
pub const MAILBOX: u64 = 0x48;
/// Offset: a load opens a channel and gives its ticket.
pub const OPEN: u64 = 0x50;
/// Offset: a load gives the size of the black box in bytes, which is that of the mirror.
pub const BOX_SIZE: u64 = 0x58;
/// Offset: a load gives the address of the black box's first byte.
pub const BOX_START: u64 = 0x60;

/// Offset of channel 0.
pub const CHANNEL: u64 = 0x100;
/// Bytes of a channel.
pub const CHANNEL_SIZE: u64 = 0x80;
/// How many channels there are.
pub const CHANNELS: u64 = 16;

/// Offset in a channel: x0 of the call, the function identifier; x1 to x3 follow. Store.
pub const A0: u64 = 0x00;
/// Offset in a channel: a store of the right [`seal`] makes the call.
pub const GO: u64 = 0x20;
/// Offset in a channel: the ticket of the call whose answer is there; 0 if there is none. Load.
pub const DONE: u64 = 0x28;
/// Offset in a channel: x0 of the answer; x1 to x3 follow. Load.
pub const R0: u64 = 0x30;
/// Offset in a channel: the ticket of its owner. Load.
pub const TICKET: u64 = 0x50;

/// Offset of the mirror of the black box.
pub const MIRROR: u64 = 0x1_0000;

/// The channel of a ticket.
#[must_use]
pub const fn channel(ticket: u64) -> u64 {
    CHANNEL + (ticket % CHANNELS) * CHANNEL_SIZE
}

/// What a store to [`GO`] must be, so that the call is made with what its caller has stored.
#[must_use]
pub const fn seal(ticket: u64, arguments: [u64; 4]) -> u64 {
    let mut seal = ticket;
    let mut index = 0;
    while index < arguments.len() {
        seal = (seal ^ arguments[index]).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        index += 1;
    }
    seal
}

record! {
    /// What lies in Exeunt's memory for a program that wants it back.
    Mailbox: 32 bytes;
    /// number of the LEAVE by which Exeunt has gone, 0 if it has not yet gone by one
    round: u64,
    /// store the round here, and each CPU comes back at its next SMC
    back: u64,
    /// how many CPUs that LEAVE has left
    cpus: u64,
    /// 0
    reserved: u64,
}

/// Offset of [`Mailbox::back`].
pub const MAILBOX_BACK: u64 = 8;
