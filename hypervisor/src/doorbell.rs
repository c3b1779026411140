//! The doorbell: the registers in the first page of Exeunt's 2 MiB, by which a program of root's makes calls.
//!
//! Owns the channels and what a load or store of theirs does. The layout and the protocol are
//! [`guest_abi::doorbell`]'s. Which exception is an access ([`access`]) is decided here too; what a call does is
//! [`crate::own_calls`]'s, and is done by whoever has asked [`Doorbell::store`], which holds nothing meanwhile.
//!
//! # Many CPUs, and programs that keep to nothing
//!
//! Nobody waits here, for no lock and for no other CPU: all is in atomic words, and whoever comes too late has no
//! effect. A CPU that dies at EL2 in the middle takes one channel with it at most.
//!
//! The state of a channel is one word: the ticket of its owner, and in the place of the channel's number, which the
//! ticket has in these bits and which is known, how far the call is.
//!
//! | from | to | by |
//! |---|---|---|
//! | any but Answering | Open, with a later ticket | a load of OPEN |
//! | Open | Called | a store to GO with the right seal |
//! | Called | Answering, Done | the CPU that has made the call |
//! | Called | Open | that CPU, if the store is made again |
//!
//! Tickets only grow, and a ticket is Done once at most. So a program that finds its ticket in DONE before and after it
//! has loaded the results has those of its own call: between Done and the next Done there is a later ticket. And a call
//! is made with the arguments that the seal was made of, since those that are looked at are those that are passed on.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::doorbell::{
    A0, BOX_SIZE, BOX_START, CHANNEL, CHANNEL_SIZE, CHANNELS, DONE, GO, MAGIC, MIRROR, OPEN, PRESENT, R0, TICKET,
    VERSION, seal,
};
use guest_abi::vendor::{ABI_VERSION, PAGE};

use crate::inject::{is_el0, pstate};
use crate::smccc::{self, Call, Conduit};
use crate::syndrome::{self, Esr, FaultKind};

/// How far a channel's call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Phase {
    /// Opened, or with ticket 0 not even that.
    Open = 0,
    /// The call is being made.
    Called = 1,
    /// Its answer is being written.
    Answering = 2,
    /// It is there.
    Done = 3,
}

/// State of a channel: owner's ticket, and [`Phase`] in the place of the channel's number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    const PHASE: u64 = CHANNELS - 1;

    const fn new(ticket: u64, phase: Phase) -> Self {
        Self(ticket & !Self::PHASE | phase as u64)
    }

    const fn is(self, phase: Phase) -> bool {
        self.0 & Self::PHASE == phase as u64
    }

    /// The ticket of the channel `index`, 0 if it was never opened.
    const fn ticket(self, index: u64) -> u64 {
        let ticket = self.0 & !Self::PHASE;
        if ticket == 0 { 0 } else { ticket | index }
    }
}

/// One channel.
struct Channel {
    state: AtomicU64,
    arguments: [AtomicU64; 4],
    results: [AtomicU64; 4],
}

impl Channel {
    const fn new() -> Self {
        Self { state: AtomicU64::new(0), arguments: zeros(), results: zeros() }
    }

    fn state(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    /// One step of the table above. False: another CPU was there first.
    fn step(&self, from: State, to: State) -> bool {
        self.state.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

const fn zeros() -> [AtomicU64; 4] {
    [const { AtomicU64::new(0) }; 4]
}

/// A call that a store has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Ring {
    ticket: Ticket,
    /// x0 to x3.
    pub arguments: [u64; 4],
}

/// Whose call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Ring {
    /// Whose call it is.
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whether the doorbell may make this call: only those of Exeunt's own range, which [`crate::own_calls::call`]
    /// answers. No other call was meant for a program: a stub call belongs to the kernel, PSCI too.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        let function = self.arguments[0];
        function >> 32 == 0
            && smccc::classify(Conduit::Hvc, function, 0) == Call::Own
            && !(function & u64::from(smccc::CALL_64) != 0 && smccc::is_kvm(function))
    }
}

/// What the registers tell of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Address of the black box's first byte.
    pub box_start: u64,
    /// Its size in bytes.
    pub box_size: u64,
}

/// The registers. Shared by all CPUs.
pub struct Doorbell {
    /// The last ticket that was given.
    last: AtomicU64,
    channels: [Channel; CHANNELS as usize],
}

impl Doorbell {
    /// No channel is open.
    #[must_use]
    pub const fn new() -> Self {
        // The first ticket is not 0, nor is it so without its channel's number.
        Self { last: AtomicU64::new(CHANNELS - 1), channels: [const { Channel::new() }; CHANNELS as usize] }
    }

    /// A load at `offset` of the page, which is a multiple of 8; nothing if no register is there.
    #[must_use]
    pub fn load(&self, offset: u64, facts: Facts) -> Option<u64> {
        Some(match offset {
            MAGIC => PRESENT,
            VERSION => ABI_VERSION.into(),
            OPEN => self.open(),
            BOX_SIZE => facts.box_size,
            BOX_START => facts.box_start,
            _ => {
                let (index, channel, register) = self.channel(offset)?;
                match register {
                    Register::Argument(_) | Register::Go => 0,
                    // Ordered before the next look at the state: who finds its ticket there has seen its own results.
                    Register::Result(number) => channel.results[number].load(Ordering::Acquire),
                    Register::Done => {
                        let state = channel.state();
                        if state.is(Phase::Done) { state.ticket(index) } else { 0 }
                    }
                    Register::Ticket => channel.state().ticket(index),
                }
            }
        })
    }

    /// A store of `value` at `offset` of the page, which is a multiple of 8. With a call: it is to be made, then
    /// [`Self::answer`]ed or, if the store will be made again, [`Self::take_back`].
    ///
    /// # Errors
    /// There is no register.
    pub fn store(&self, offset: u64, value: u64) -> Result<Option<Ring>, NoRegister> {
        match offset {
            MAGIC | VERSION | OPEN | BOX_SIZE | BOX_START => Ok(None),
            _ => {
                let (index, channel, register) = self.channel(offset).ok_or(NoRegister)?;
                match register {
                    Register::Argument(number) => channel.arguments[number].store(value, Ordering::Release),
                    Register::Go => return Ok(Self::go(index, channel, value)),
                    Register::Done | Register::Result(_) | Register::Ticket => {}
                }
                Ok(None)
            }
        }
    }

    /// The call has been made. If another program has the channel now, nobody hears of it.
    pub fn answer(&self, Ticket(ticket): Ticket, results: [u64; 4]) {
        let channel = self.of(ticket);
        let answering = State::new(ticket, Phase::Answering);
        if channel.step(State::new(ticket, Phase::Called), answering) {
            for (place, result) in channel.results.iter().zip(results) {
                // After the state: who sees the result of a later call does not see the state of an earlier one again.
                place.store(result, Ordering::Release);
            }
            let done = State::new(ticket, Phase::Done);
            channel.state.store(done.0, Ordering::Release);
        }
    }

    /// The call has not been made, and the host will make the store again.
    pub fn take_back(&self, Ticket(ticket): Ticket) {
        let open = State::new(ticket, Phase::Open);
        let _ = self.of(ticket).step(State::new(ticket, Phase::Called), open);
    }

    /// Gives a ticket for the channel that was opened first. If that is being written to at this moment, or another
    /// CPU is faster, it is taken from its new owner before it has it: that sees it, and opens another one.
    fn open(&self) -> u64 {
        let ticket = self.last.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        let channel = self.of(ticket);
        let state = channel.state();
        // In the order of the tickets, so that none is given back.
        if !state.is(Phase::Answering) && state.ticket(0) < ticket & !State::PHASE {
            let _ = channel.step(state, State::new(ticket, Phase::Open));
        }
        ticket
    }

    fn go(index: u64, channel: &Channel, value: u64) -> Option<Ring> {
        let state = channel.state();
        let ticket = state.ticket(index);
        if !state.is(Phase::Open) || ticket == 0 {
            return None;
        }
        let mut arguments = [0; 4];
        for (argument, place) in arguments.iter_mut().zip(&channel.arguments) {
            *argument = place.load(Ordering::Acquire);
        }
        (seal(ticket, arguments) == value && channel.step(state, State::new(ticket, Phase::Called)))
            .then_some(Ring { ticket: Ticket(ticket), arguments })
    }

    fn of(&self, ticket: u64) -> &Channel {
        &self.channels[(ticket % CHANNELS) as usize]
    }

    /// The channel and its register at this offset of the page.
    fn channel(&self, offset: u64) -> Option<(u64, &Channel, Register)> {
        let offset = offset.checked_sub(CHANNEL)?;
        let index = offset / CHANNEL_SIZE;
        let channel = self.channels.get(usize::try_from(index).ok()?)?;
        Some((index, channel, Register::at(offset % CHANNEL_SIZE)?))
    }
}

impl Default for Doorbell {
    fn default() -> Self {
        Self::new()
    }
}

/// There is no register at this offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRegister;

/// A register of a channel.
enum Register {
    Argument(usize),
    Go,
    Done,
    Result(usize),
    Ticket,
}

impl Register {
    /// The one at this offset, if it is aligned and there is one.
    const fn at(offset: u64) -> Option<Self> {
        /// The last of four.
        const A3: u64 = A0 + 3 * 8;
        const R3: u64 = R0 + 3 * 8;
        if !offset.is_multiple_of(8) {
            return None;
        }
        Some(match offset {
            A0..=A3 => Self::Argument(((offset - A0) / 8) as usize),
            GO => Self::Go,
            DONE => Self::Done,
            R0..=R3 => Self::Result(((offset - R0) / 8) as usize),
            TICKET => Self::Ticket,
            _ => return None,
        })
    }
}

/// An access of the host's to the doorbell's page or to the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a bit of the syndrome or of the host's state")]
pub struct Access {
    /// To what.
    pub target: Target,
    /// It is a store.
    pub is_store: bool,
    /// The register, 31 for the zero register.
    pub register: u8,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    sign_extend: bool,
    to_64bit: bool,
    big_endian: bool,
}

/// What an access is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Offset in the page of registers.
    Registers(u64),
    /// Offset in the black box.
    Mirror(u64),
}

/// The access of a data abort of the host's that a translation fault at `offset` of the 2 MiB has caused, if the
/// doorbell answers it: see [`guest_abi::doorbell`]. `sctlr_el1` and `spsr` are the host's, and say in which order it
/// has its bytes.
#[must_use]
pub fn access(esr: Esr, offset: u64, box_size: u64, spsr: u64, sctlr_el1: u64) -> Option<Access> {
    let abort = esr.abort()?;
    // Whatever the architecture may yet add to a syndrome is no plain access. Of those that are known: FEAT_LS64's, a
    // Guarded Control Stack's, one to a tag, and one that FEAT_NV2 has made.
    let is_plain = esr.iss2() == 0 && esr.bits() & (syndrome::ISS_VNCR | syndrome::ISS_LST) == 0;
    if !is_plain
        || abort.on_stage1_walk()
        || abort.is_cache_maintenance()
        || abort.fault().kind != FaultKind::Translation
    {
        return None;
    }
    let access = abort.access()?;
    let size = u64::from(access.size);
    if !offset.is_multiple_of(size) {
        return None;
    }
    let is_store = abort.is_write();
    let target = match offset {
        0..PAGE if size == 8 => Target::Registers(offset),
        // Aligned, so that it does not go over the box's end.
        MIRROR.. if !is_store && offset - MIRROR < box_size => Target::Mirror(offset - MIRROR),
        _ => return None,
    };
    Some(Access {
        target,
        is_store,
        register: access.register,
        size: access.size,
        sign_extend: access.sign_extend,
        to_64bit: access.register_is_64bit,
        big_endian: is_big_endian(spsr, sctlr_el1),
    })
}

/// Whether the host's data accesses are big-endian.
const fn is_big_endian(spsr: u64, sctlr_el1: u64) -> bool {
    /// SCTLR_EL1.E0E, bit 24: data accesses of EL0 in AArch64 are big-endian.
    const E0E: u64 = 1 << 24;
    /// SCTLR_EL1.EE, bit 25: those of EL1.
    const EE: u64 = 1 << 25;
    /// SPSR_EL2.E, bit 9: those of AArch32.
    const E: u64 = 1 << 9;
    if spsr & pstate::NRW != 0 {
        spsr & E != 0
    } else if is_el0(spsr) {
        sctlr_el1 & E0E != 0
    } else {
        sctlr_el1 & EE != 0
    }
}

impl Access {
    /// What the register holds after a load of `memory`, of which the low `size` bytes are the ones at the address, the
    /// first of them lowest.
    #[must_use]
    pub const fn loaded(&self, memory: u64) -> u64 {
        let unused = 64 - 8 * self.size as u32;
        let value = self.in_order(memory << unused >> unused);
        let value = if self.sign_extend { ((value << unused).cast_signed() >> unused).cast_unsigned() } else { value };
        if self.to_64bit { value } else { value & 0xffff_ffff }
    }

    /// What memory would hold after a store of the register, in the same form.
    #[must_use]
    pub const fn stored(&self, register: u64) -> u64 {
        let unused = 64 - 8 * self.size as u32;
        self.in_order(register << unused >> unused)
    }

    const fn in_order(&self, value: u64) -> u64 {
        if self.big_endian { value.swap_bytes() >> (64 - 8 * self.size as u32) } else { value }
    }
}

#[cfg(test)]
mod tests;
