//! A doorbell, its Exeunt and its Linux, made up.
//!
//! Owns what they do, by the contract in `guest_abi::doorbell`. Between two accesses of the program under test it can
//! let another one act.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use guest_abi::blackbox::{CpuBlock, LIVE, SIZE};
use guest_abi::doorbell::{
    self, A0, BOX_SIZE, BOX_START, CHANNEL, CHANNEL_SIZE, CHANNELS, DONE, GO, LEFT, MAGIC, MAILBOX, MIRROR, Mailbox,
    OPEN, PRESENT, R0, TICKET,
};
use guest_abi::vendor::{
    CALLS, CRASH_KERNEL, Error, LEAVE, LOCK, PANIC, PANIC_HERE, RESTART_POLICY, STAGE2_RANGE, STATUS, TRACE,
    TRACE_QUERY, TRACE_START,
};
use view::fixture::{ADDRESS, Builder, EXEUNT};

use crate::commands::Context;
use crate::find::Place;
use crate::host::Host;
use crate::page::{Failed, Page};
use crate::trouble::Trouble;

/// Where the made-up mailbox is.
pub const PLACE: u64 = 0x3000;

#[derive(Clone, Copy, Default)]
struct Channel {
    ticket: u64,
    arguments: [u64; 4],
    done: u64,
    results: [u64; 4],
}

/// Exeunt's 2 MiB, and the CPUs that it is on.
pub struct Fake {
    /// The black box.
    pub bytes: RefCell<Vec<u8>>,
    /// Address of its first byte.
    pub start: u64,
    channels: RefCell<[Channel; CHANNELS as usize]>,
    tickets: Cell<u64>,
    /// CPUs by whether Exeunt is on them.
    pub under: RefCell<BTreeMap<u32, bool>>,
    /// The CPU on which the program is.
    pub at: Cell<u32>,
    /// Memory after Exeunt has left.
    pub memory: RefCell<BTreeMap<u64, u64>>,
    pub kexec: Cell<u64>,
    pub crash: Cell<u64>,
    pub locked: Cell<bool>,
    pub tracing: RefCell<BTreeMap<u32, bool>>,
    /// Ranges of stage 2: the first address past each, and its rights.
    pub ranges: Vec<(u64, u64)>,
    /// The CPU on which Linux has panicked.
    pub panicked: Cell<Option<u32>>,
    /// A CPU that hangs: a program that is to go there never comes back.
    pub hangs: Cell<Option<u32>>,
    /// So often LEAVE answers that it is busy.
    pub busy: Cell<u32>,
    /// So many accesses the program has made.
    pub accesses: Cell<u64>,
    /// Opens so many channels as another program, before each access of this one's.
    pub disturbs: Cell<u64>,
    /// What another program does before the access with this number.
    pub at_access: RefCell<Option<(u64, Intruder)>>,
    /// So many accesses in all that have reached memory and were stores below the mailbox.
    pub spilled: Cell<u64>,
    /// Loads of the mirror that went into a trace.
    pub traced_loads: Cell<u64>,
    /// Waits that were made.
    pub waits: Cell<u32>,
    /// No SMC can be made on this CPU.
    pub without_smc: Cell<Option<u32>>,
    /// An SMC on this CPU goes past Exeunt.
    pub deaf: Cell<Option<u32>>,
    /// CPUs on which the program may not run.
    pub beyond: RefCell<Vec<u32>>,
    /// Nobody answers.
    pub silent: Cell<bool>,
    /// What nobody has stored to is zeros in memory.
    pub zeros: Cell<bool>,
    /// The round of a LEAVE, 0 for one that keeps no way back.
    pub round: Cell<u64>,
    /// Columns of the terminal.
    pub columns: Cell<Option<u16>>,
}

/// What another program, or Exeunt, does between two accesses.
pub type Intruder = Box<dyn Fn(&Fake)>;

impl Fake {
    pub fn new(builder: &Builder, cpus: u32) -> Self {
        Self::of(builder.build(), builder.header.start, cpus)
    }

    pub fn of(bytes: Vec<u8>, start: u64, cpus: u32) -> Self {
        Self {
            bytes: RefCell::new(bytes),
            start,
            channels: RefCell::default(),
            tickets: Cell::new(7),
            under: RefCell::new((0..cpus).map(|cpu| (cpu, true)).collect()),
            at: Cell::new(0),
            memory: RefCell::default(),
            kexec: Cell::new(0),
            crash: Cell::new(1),
            locked: Cell::new(false),
            tracing: RefCell::default(),
            ranges: vec![(EXEUNT, 15), (ADDRESS, 0), (EXEUNT + 0x20_0000, 3), (1 << 40, 7)],
            panicked: Cell::new(None),
            hangs: Cell::new(None),
            busy: Cell::new(0),
            accesses: Cell::new(0),
            disturbs: Cell::new(0),
            at_access: RefCell::new(None),
            spilled: Cell::new(0),
            traced_loads: Cell::new(0),
            waits: Cell::new(0),
            without_smc: Cell::new(None),
            deaf: Cell::new(None),
            beyond: RefCell::default(),
            silent: Cell::new(false),
            zeros: Cell::new(false),
            round: Cell::new(5),
            columns: Cell::new(None),
        }
    }

    pub fn context(&self) -> Result<Context<'_>, Trouble> {
        let black_box = Some((self.start, self.bytes.borrow().len() as u64));
        let place = Place { base: EXEUNT, core: Some(ADDRESS), black_box };
        Context::new(self, self, place, "/nonexistent/kcore".into())
    }

    /// Another program opens a channel.
    pub fn open(&self) -> u64 {
        let ticket = self.tickets.get();
        self.tickets.set(ticket + 1);
        // Tickets grow, so that the one that was opened first is taken.
        let channel = Channel { ticket, ..Channel::default() };
        self.channels.borrow_mut()[(ticket % CHANNELS) as usize] = channel;
        ticket
    }

    /// Another program makes a call.
    pub fn call_as_another(&self, arguments: [u64; 4]) {
        let ticket = self.open();
        let channel = (ticket % CHANNELS) as usize;
        self.channels.borrow_mut()[channel].arguments = arguments;
        self.go(channel, doorbell::seal(ticket, arguments));
    }

    /// Exeunt leaves all CPUs; `round` is 0 if by another way than LEAVE.
    pub fn leave(&self, round: u64) {
        self.under.borrow_mut().values_mut().for_each(|under| *under = false);
        let cpus = self.under.borrow().len() as u64;
        let mailbox = Mailbox { round, back: 0, cpus, reserved: 0 };
        let mut memory = self.memory.borrow_mut();
        memory.insert(MAGIC, LEFT);
        memory.insert(MAILBOX, PLACE);
        for (offset, word) in (PLACE..).step_by(8).zip(mailbox.to_bytes().as_chunks::<8>().0) {
            memory.insert(offset, u64::from_le_bytes(*word));
        }
    }

    pub fn is_under(&self) -> bool {
        self.under.borrow()[&self.at.get()]
    }

    fn go(&self, channel: usize, seal: u64) {
        let Channel { ticket, arguments, .. } = self.channels.borrow()[channel];
        if ticket == 0 || seal != doorbell::seal(ticket, arguments) {
            return;
        }
        let Some(results) = self.answer(arguments) else { return };
        let mut channels = self.channels.borrow_mut();
        channels[channel].results = results;
        channels[channel].done = ticket;
    }

    fn answer(&self, [x0, x1, x2, x3]: [u64; 4]) -> Option<[u64; 4]> {
        let refused = |error: Error| Some([error.to_register(), x1, x2, x3]);
        match x0 as u32 {
            STATUS => Some([0, 64, 0x0001_0001_0000_0202, 0]),
            RESTART_POLICY => {
                if x1 > 3 || x2 > 1 {
                    return refused(Error::InvalidParameter);
                }
                if x1 != 0 && x2 == 0 && self.locked.get() {
                    return refused(Error::Locked);
                }
                for (bit, policy) in [(1, &self.kexec), (2, &self.crash)] {
                    if x1 & bit != 0 {
                        policy.set(x2);
                    }
                }
                Some([0, self.kexec.get(), self.crash.get(), x3])
            }
            LOCK => {
                self.locked.set(true);
                Some([0, x1, x2, x3])
            }
            LEAVE if self.locked.get() => refused(Error::Locked),
            LEAVE if self.busy.get() > 0 => {
                self.busy.set(self.busy.get() - 1);
                refused(Error::Busy)
            }
            LEAVE => {
                self.leave(self.round.get());
                None
            }
            STAGE2_RANGE => {
                let mut first = 0;
                for &(end, rights) in &self.ranges {
                    if x1 < end {
                        return Some([0, first, end, rights]);
                    }
                    first = end;
                }
                refused(Error::InvalidParameter)
            }
            TRACE => {
                let mut tracing = self.tracing.borrow_mut();
                let on = tracing.entry(self.at.get()).or_default();
                if x1 != u64::from(TRACE_QUERY) {
                    *on = x1 == u64::from(TRACE_START);
                }
                let on = *on;
                Some([0, on.into(), 128, x3])
            }
            PANIC => {
                let cpu = if x1 == u64::from(PANIC_HERE) { self.at.get().into() } else { x1 };
                match self.under.borrow().get(&(cpu as u32)) {
                    None => refused(Error::InvalidParameter),
                    Some(false) => refused(Error::WrongState),
                    Some(true) => {
                        self.panicked.set(Some(cpu as u32));
                        Some([0, x1, x2, x3])
                    }
                }
            }
            // Nobody has loaded one.
            CRASH_KERNEL => refused(Error::WrongState),
            other => {
                assert!(!CALLS.contains(&other), "{other:#x} is not made up yet");
                refused(Error::NotSupported)
            }
        }
    }

    /// What happens before each access.
    fn before(&self) {
        let number = self.accesses.get();
        self.accesses.set(number + 1);
        for _ in 0..self.disturbs.get() {
            self.open();
        }
        let due = self.at_access.borrow().as_ref().is_some_and(|&(at, _)| at == number);
        if due {
            let (_, act) = self.at_access.borrow_mut().take().unwrap();
            act(self);
        }
    }
}

/// The number of a channel, and the register in it.
fn channel_of(offset: u64) -> Option<(usize, u64)> {
    let offset = offset.checked_sub(CHANNEL)?;
    (offset < CHANNELS * CHANNEL_SIZE).then_some(((offset / CHANNEL_SIZE) as usize, offset % CHANNEL_SIZE))
}

impl Page for Fake {
    fn load(&self, offset: u64) -> Result<u64, Failed> {
        self.before();
        if self.silent.get() {
            return Err(Failed::Aborted);
        }
        if !self.is_under() {
            return Ok(self.memory.borrow().get(&offset).copied().unwrap_or(if self.zeros.get() {
                0
            } else {
                0xdead_beef
            }));
        }
        let bytes = self.bytes.borrow();
        match offset {
            MAGIC => Ok(PRESENT),
            OPEN => Ok(self.open()),
            BOX_SIZE => Ok(bytes.len() as u64),
            BOX_START => Ok(self.start),
            _ => {
                if let Some((number, register)) = channel_of(offset) {
                    let channel = self.channels.borrow()[number];
                    return match register {
                        DONE => Ok(channel.done),
                        R0..=0x48 => Ok(channel.results[((register - R0) / 8) as usize]),
                        TICKET => Ok(channel.ticket),
                        _ => Err(Failed::Aborted),
                    };
                }
                let place = offset.checked_sub(MIRROR).ok_or(Failed::Aborted)? as usize;
                let traced = *self.tracing.borrow().get(&self.at.get()).unwrap_or(&false);
                self.traced_loads.set(self.traced_loads.get() + u64::from(traced));
                let word = bytes.get(place..place + 8).ok_or(Failed::Aborted)?;
                Ok(u64::from_le_bytes(word.try_into().unwrap()))
            }
        }
    }

    fn store(&self, offset: u64, value: u64) -> Result<(), Failed> {
        self.before();
        if !self.is_under() {
            if offset < PLACE {
                self.spilled.set(self.spilled.get() + 1);
            }
            self.memory.borrow_mut().insert(offset, value);
            return Ok(());
        }
        let Some((number, register)) = channel_of(offset) else { return Err(Failed::Aborted) };
        match register {
            GO => self.go(number, value),
            A0..GO => self.channels.borrow_mut()[number].arguments[(register / 8) as usize] = value,
            _ => {}
        }
        Ok(())
    }
}

impl Host for Fake {
    fn cpus(&self) -> Result<Vec<u32>, Trouble> {
        Ok(self.under.borrow().keys().copied().collect())
    }

    fn beyond(&self) -> Result<Vec<u32>, Trouble> {
        Ok(self.beyond.borrow().clone())
    }

    fn stay(&self) -> Result<(), Trouble> {
        Ok(())
    }

    fn mpidr(&self, cpu: u32) -> Option<u64> {
        // Linux was started on the last.
        let cpus = self.under.borrow().len() as u64;
        (u64::from(cpu) < cpus).then(|| (u64::from(cpu) + cpus - 1) % cpus)
    }

    fn pin(&self, cpu: u32) -> Result<(), Trouble> {
        assert_ne!(self.hangs.get(), Some(cpu), "the program never comes back");
        self.at.set(cpu);
        Ok(())
    }

    fn make_smc(&self, cpu: u32, others: &[u32]) -> Result<(), String> {
        assert_eq!(cpu, self.at.get());
        assert!(others.contains(&cpu));
        if self.without_smc.get() == Some(cpu) {
            return Err("no way".to_owned());
        }
        let round = self.memory.borrow()[&PLACE];
        let asked = self.memory.borrow()[&(PLACE + doorbell::MAILBOX_BACK)] == round && round != 0;
        if asked && self.deaf.get() != Some(cpu) {
            self.under.borrow_mut().insert(cpu, true);
        }
        Ok(())
    }

    fn time(&self) -> u64 {
        Builder::at(12_300_000)
    }

    fn columns(&self) -> Option<u16> {
        self.columns.get()
    }

    fn wait(&self, _time: Duration) {
        self.waits.set(self.waits.get() + 1);
    }
}

/// Changes the counters of CPU 0's block.
pub fn count(fake: &Fake, class: usize, more: u64) {
    let mut bytes = fake.bytes.borrow_mut();
    let (first, _) = bytes.as_mut_slice().split_at_mut(CpuBlock::SIZE);
    let mut block = CpuBlock::from_bytes((&*first).try_into().unwrap());
    block.exits[class] += more;
    first.copy_from_slice(&block.to_bytes());
}

/// The offset of [`Live`](guest_abi::blackbox::Live) in a box.
pub const fn live(bytes: &[u8]) -> usize {
    bytes.len() - SIZE + LIVE
}
