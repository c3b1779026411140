//! What STATUS tells: the summary word, and the record per CPU.
//!
//! Owns how both are composed, and in which order the counters stand in the record. The facts come from [`Machine`].

use guest_abi::record::{EXIT_CLASSES, EXIT_NAMES, STATUS_MAGIC, STATUS_VERSION, StatusCpu, StatusHeader, status_size};
use guest_abi::vendor::{CpuState, Error, Policy, Summary};

use super::control::Control;
use super::{Answer, Buffer, Services, Sink};
use crate::counters::{Counters, Exit};
use crate::lifecycle::EntryLevel;

const _: () = assert!(Exit::ALL.len() == EXIT_NAMES.len() && Exit::ALL.len() <= EXIT_CLASSES);

/// What STATUS has to know of the machine.
pub trait Machine {
    /// CPUs that the device tree names.
    fn cpus(&self) -> u16;
    /// The number of the calling CPU.
    fn this_cpu(&self) -> u16;
    /// What the EL2 of one of the CPUs is.
    fn state(&self, cpu: u16) -> CpuState;
    /// All that there is to say of one of the CPUs.
    fn describe(&self, cpu: u16) -> StatusCpu;
    /// The level at which the host was entered.
    fn entry_level(&self) -> EntryLevel;
    /// Whether the host's KVM may have EL2.
    fn lends_to_kvm(&self) -> bool;
    /// CNTPCT_EL0.
    fn time(&self) -> u64;
    /// CNTFRQ_EL0.
    fn frequency(&self) -> u64;
}

/// A CPU's counters as the record has them.
#[must_use]
pub fn exits(counters: &Counters) -> [u64; EXIT_CLASSES] {
    let mut exits = [0; EXIT_CLASSES];
    for (count, &exit) in exits.iter_mut().zip(Exit::ALL) {
        *count = counters.get(exit);
    }
    exits
}

/// The summary. Asks every CPU for its state, so it costs a little more with each.
pub fn summary(machine: &impl Machine, control: &Control) -> Summary {
    let cpus = machine.cpus();
    let live = (0..cpus).filter(|&cpu| machine.state(cpu) == CpuState::Live).count() as u64;
    let [kexec, crash] = control.policies().map(|policy| u64::from(policy == Policy::Resident));
    let flag = |set, bit| if set { bit } else { 0 };
    Summary(
        (machine.state(machine.this_cpu()) as u64) << Summary::STATE_SHIFT
            | (machine.entry_level() as u64) << Summary::ENTRY_LEVEL_SHIFT
            | flag(control.is_locked(), Summary::LOCKED)
            | kexec << Summary::KEXEC_POLICY_SHIFT
            | crash << Summary::CRASH_POLICY_SHIFT
            | flag(machine.lends_to_kvm(), Summary::KVM_LEND)
            | u64::from(cpus) << Summary::CPUS_SHIFT
            | live << Summary::LIVE_SHIFT,
    )
}

/// Out of line, since a record takes room on the stack twice.
#[inline(never)]
fn put_cpu(services: &impl Services, cpu: u16, offset: usize, sink: &mut dyn Sink) {
    sink.put(offset, &services.describe(cpu).to_bytes());
}

/// Answers STATUS.
///
/// # Errors
///
/// `InvalidParameter`: a record is wanted from an unknown CPU on, or its memory cannot be written.
pub(super) fn answer(services: &impl Services, buffer: Option<Buffer>, first: u64) -> Result<Answer, Error> {
    let cpus = services.cpus();
    let summary = summary(services, services.control());
    let mut described = 0;
    if let Some(buffer) = buffer {
        if first >= u64::from(cpus) {
            return Err(Error::InvalidParameter);
        }
        let first = first as u16;
        // A page has room for fewer than 2^16.
        let room = ((buffer.size - StatusHeader::SIZE) / StatusCpu::SIZE) as u16;
        described = room.min(cpus - first);
        let log = services.log();
        let header = StatusHeader {
            magic: STATUS_MAGIC,
            version: STATUS_VERSION,
            header_size: StatusHeader::SIZE as u16,
            record_size: status_size(cpus),
            cpu_size: StatusCpu::SIZE as u16,
            cpus,
            first_cpu: first,
            described,
            reserved: 0,
            summary: summary.0,
            time: services.time(),
            frequency: services.frequency(),
            log_end: log.end(),
            log_size: log.size(),
        };
        let written = services.with_buffer(buffer, |sink| {
            sink.put(0, &header.to_bytes());
            for place in 0..described {
                let offset = StatusHeader::SIZE + usize::from(place) * StatusCpu::SIZE;
                put_cpu(services, first + place, offset, sink);
            }
        });
        written.map_err(|_| Error::InvalidParameter)?;
    }
    Ok(Answer::four([0, u64::from(status_size(cpus)), summary.0, u64::from(described)]))
}
