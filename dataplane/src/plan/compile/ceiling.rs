//! What an application may take at most: the ceiling of its intent, or the policy's `[[limit]]` where that is lower. Workers hold
//! it, over all flows of the application together.

use super::super::contract::{Because, Reason};
use super::{Draft, Effect, Given, book};
use crate::config::policy::Shared;
use crate::io::steer::Meter;

/// Bytes that may pass at once, at least: more than the largest packet.
const BURST: u64 = 65_536;

/// Bits per second, and whether they are the policy's.
fn lowest(given: &Given<'_>, draft: &Draft<'_>) -> Option<(u64, bool)> {
    let asked = draft.intent.ceiling.as_ref().map(|ceiling| ceiling.value);
    let limit = given.policy.terms.ceilings.get(&draft.intent.name).and_then(|limit| limit.bandwidth.as_ref());
    match (asked, limit.map(|limit| limit.value)) {
        (Some(asked), Some(limit)) => Some((asked.min(limit), limit < asked)),
        (asked, limit) => asked.map(|asked| (asked, false)).or_else(|| limit.map(|limit| (limit, true))),
    }
}

/// The meter that all of the draft's rules share.
pub(super) fn set(given: &Given<'_>, draft: &mut Draft<'_>) {
    draft.ceiling = lowest(given, draft).map(|(bits, _)| {
        let rate = (bits / 8).max(1);
        // As much as a rule's meter has by default: 50 ms of the rate.
        Shared { of: draft.intent.name.as_str().into(), meter: Meter { rate, burst: (rate / 20).max(BURST) } }
    });
}

/// What is enforced, and where it is not.
pub(super) fn say(given: &Given<'_>, draft: &mut Draft<'_>) {
    let Some((bits, by_policy)) = lowest(given, draft) else { return };
    if draft.own == Effect::Drop {
        return;
    }
    let whose = if by_policy { "limit of the policy" } else { "ceiling" };
    if let Some(passes) = draft.all.iter().find(|because| because.reason == Reason::PolicyPasses) {
        let because = Because {
            reason: Reason::NoMeter,
            text: format!("the {whose} of {} holds only for what workers see", book::bits(bits)),
            by: passes.by.clone(),
        };
        draft.all.push(because);
    }
    if !draft.kernel {
        draft.notes.push(format!(
            "{whose} of {}: workers hold all of its flows to it together, both directions, and drop what is over (`metered`)",
            book::bits(bits)
        ));
    }
}
