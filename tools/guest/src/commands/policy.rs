//! `exeunt policy` and `exeunt lock`: what becomes of Exeunt at a restart.

use guest_abi::vendor::{LOCK, Policy, RESTART_CRASH, RESTART_KEXEC, RESTART_POLICY};
use serde_json::json;

use super::status::Policies;
use super::{Context, Said};
use crate::door;
use crate::trouble::Trouble;

/// Which restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The host's kexec.
    Kexec,
    /// The host's crash.
    Crash,
    /// Both.
    Both,
}

impl Which {
    const fn bits(self) -> u32 {
        match self {
            Self::Kexec => RESTART_KEXEC,
            Self::Crash => RESTART_CRASH,
            Self::Both => RESTART_KEXEC | RESTART_CRASH,
        }
    }
}

/// Reads the policies, or sets them first.
///
/// # Errors
/// As the call.
pub fn run(context: &Context<'_>, set: Option<(Which, Policy)>) -> Result<Said, Trouble> {
    context.needs_exeunt()?;
    let arguments = set.map_or([0; 3], |(which, policy)| [which.bits().into(), policy as u64, 0]);
    let what = if set.is_some() { "to change its policy" } else { "to tell its policy" };
    let [kexec, crash, _] = door::ask(context.page, what, RESTART_POLICY, arguments)?;
    let words = |bits: u64| {
        let policy = Policy::from_bits(bits as u32).ok_or(Trouble::Nonsense("the policy", bits))?;
        Ok::<_, Trouble>(policy.words())
    };
    let policies = Policies { kexec: words(kexec)?, crash: words(crash)? };
    let explain = |policy| match policy {
        "leave" => "leave: Exeunt goes, and what comes next has EL2",
        _ => "resident: Exeunt stays below what comes next",
    };
    let text = format!("kexec  {}\ncrash  {}\n", explain(policies.kexec), explain(policies.crash));
    Ok(Said::new(text, policies))
}

/// Locks.
///
/// # Errors
/// As the call, and [`Trouble::NotConfirmed`].
pub fn lock(context: &Context<'_>, confirmed: bool) -> Result<Said, Trouble> {
    context.needs_exeunt()?;
    if !confirmed {
        return Err(Trouble::NotConfirmed);
    }
    door::ask(context.page, "to lock itself", LOCK, [0; 3])?;
    let text = "Exeunt is locked: it stays below this machine until that is reset.\n".to_owned();
    Ok(Said::new(text, json!({ "locked": true })))
}
