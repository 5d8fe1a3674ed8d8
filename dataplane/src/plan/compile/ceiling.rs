//! What an application may take at most: the ceiling of its intent, or the policy's `[[limit]]` where that is lower; and the most
//! connections that `[[limit]]` lets it have. Workers hold it to both, over all of its flows together.

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

fn connections(given: &Given<'_>, draft: &Draft<'_>) -> Option<u32> {
    let limit = given.policy.terms.ceilings.get(&draft.intent.name)?.connections.as_ref()?;
    Some(u32::try_from(limit.value).unwrap_or(u32::MAX))
}

/// What all of the draft's rules share.
pub(super) fn set(given: &Given<'_>, draft: &mut Draft<'_>) {
    let meter = lowest(given, draft).map(|(bits, _)| {
        let rate = (bits / 8).max(1);
        // As much as a rule's meter has by default: 50 ms of the rate.
        Meter { rate, burst: (rate / 20).max(BURST) }
    });
    let connections = connections(given, draft);
    let any = meter.is_some() || connections.is_some();
    draft.ceiling = any.then(|| Shared { of: draft.intent.name.as_str().into(), meter, connections });
}

/// What is enforced, and where it is not.
pub(super) fn say(given: &Given<'_>, draft: &mut Draft<'_>) {
    if draft.own == Effect::Drop {
        return;
    }
    if let Some((bits, by_policy)) = lowest(given, draft) {
        let whose = if by_policy { "limit of the policy" } else { "ceiling" };
        let does = "workers hold all of its flows to it together, both directions, and drop what is over (`metered`)";
        say_one(draft, &format!("{whose} of {}", book::bits(bits)), does);
    }
    if let Some(most) = connections(given, draft) {
        let does = "workers count all of its flows together, and drop further ones until others have ended (`connection_limit`)";
        say_one(draft, &format!("limit of the policy of {most} connections"), does);
    }
}

fn say_one(draft: &mut Draft<'_>, what: &str, does: &str) {
    if let Some(passes) = draft.all.iter().find(|because| because.reason == Reason::PolicyPasses) {
        let because = Because {
            reason: Reason::NoMeter,
            text: format!("the {what} holds only for what workers see"),
            by: passes.by.clone(),
        };
        draft.all.push(because);
    }
    if !draft.kernel {
        draft.notes.push(format!("{what}: {does}"));
    }
}
