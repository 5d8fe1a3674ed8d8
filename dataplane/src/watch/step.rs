//! One node's part in a packet's way: what it decided, and what it wrote.

use super::names;
use super::record::{End, Record};
use crate::graph::Direction;
use crate::graph::packet::{NO_FLOW, NO_WAY, NONE};
use crate::plan::Plan;
use serde::{Deserialize, Serialize};

/// Bytes that are the same between two that are not, and are shown with them.
const GAP: usize = 3;

/// A node, and what it did with the packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub node: String,
    /// What it decided; nothing: the packet went by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub says: Vec<String>,
    /// Length of the packet behind it, in bytes.
    pub len: u32,
    /// How many bytes it put in front of the packet; below zero: cut off.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub front: i64,
    /// How many it put behind the packet, or took from there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub back: i64,
    /// The packet is in other memory now: put together, cut, or opened from several frames. `edits` are of its beginning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
    /// What it wrote over, of the packet's first bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
}

/// Bytes that were others before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// Place in the packet as it is behind the node.
    pub at: usize,
    /// In hexadecimal; of bytes in front of the old packet nothing.
    pub before: String,
    pub after: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde wants it
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// What happened to the packet between two records. `before`: `None` for the first.
pub fn step(before: Option<&Record>, now: &Record, plan: &Plan) -> Step {
    let mut step = Step { node: now.node.to_owned(), len: now.len, ..Step::default() };
    if let Some(before) = before {
        if before.frame == now.frame {
            step.front = i64::from(before.offset) - i64::from(now.offset);
            step.back = i64::from(now.len) - i64::from(before.len) - step.front;
            step.edits = edits(&before.bytes, &now.bytes, step.front);
        } else {
            step.moved = true;
            step.edits = edits(&before.bytes, &now.bytes, 0);
        }
    }
    step.says = says(before, now, plan);
    step
}

/// What was written over between two looks at the same bytes.
pub fn overwritten(before: &[u8], after: &[u8]) -> Vec<Edit> {
    edits(before, after, 0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Differences over the bytes that both have, and those put in front. `front`: how far the packet's beginning moved forward.
fn edits(before: &[u8], now: &[u8], front: i64) -> Vec<Edit> {
    let old = |at: usize| usize::try_from(at as i64 - front).ok().and_then(|at| before.get(at)).copied();
    // What was behind the bytes that were kept is not known to be new.
    let end = now.len().min(usize::try_from(before.len() as i64 + front).unwrap_or(0));
    let mut edits = Vec::new();
    let mut at = 0;
    while at < end {
        if old(at) == Some(now[at]) {
            at += 1;
            continue;
        }
        let from = at;
        let mut to = at + 1;
        // What is new in front is one thing, what was written over behind it another.
        let border = usize::try_from(front).ok().filter(|border| from < *border).unwrap_or(end).min(end);
        while at < border && at < to + GAP {
            if old(at) != Some(now[at]) {
                to = at + 1;
            }
            at += 1;
        }
        let was: Vec<u8> = (from..to).filter_map(old).collect();
        edits.push(Edit { at: from, before: hex(&was), after: hex(&now[from..to]) });
        at = to;
    }
    edits
}

/// TTL or hop limit, of a packet that begins with its IP header.
fn ttl(record: &Record) -> Option<u8> {
    let at = if record.bytes.first()? >> 4 == 6 { 7 } else { 8 };
    record.bytes.get(at).copied()
}

fn says(before: Option<&Record>, now: &Record, plan: &Plan) -> Vec<String> {
    let mut says = Vec::new();
    let (facts, meta) = (&now.facts, &now.facts.meta);
    let old = before.map(|before| &before.facts);
    let was = old.map(|old| &old.meta);
    let new = |changed: bool| before.is_none() || changed;
    match now.node {
        "rx" => says.push(format!("from port {}", names::port(plan, meta.port_in))),
        "parse" => says.push(names::ends(&facts.headers)),
        "flow" => says.extend(names::flow(now).map(|flow| {
            let whose = match meta.direction {
                Direction::FromInitiator => "initiator",
                Direction::FromResponder => "responder",
            };
            format!("flow {flow}, from its {whose}")
        })),
        "classify" => {
            says.extend(names::class(facts).map(|class| format!("class {class}")));
            says.extend(names::application(plan, facts).map(|app| format!("application {app}")));
        }
        "policy" => {
            says.push(names::rule(plan, facts).map_or_else(|| "no rule".to_owned(), |rule| format!("rule {rule}")));
            match names::tunnel(plan, meta.tunnel_out) {
                Some(tunnel) => says.push(format!("into tunnel {tunnel}")),
                None if now.end == End::Going => says.push("in clear".to_owned()),
                None => {}
            }
            if meta.compress {
                says.push("may be compressed".to_owned());
            }
        }
        "select" if meta.way != NO_WAY && new(was.is_some_and(|was| was.tunnel_out != NONE)) => {
            let peer = facts.peer.map_or_else(|| "no peer yet".to_owned(), |peer| format!("to {}", peer.ip()));
            says.push(format!("way {}, {peer}", meta.way));
        }
        "route" if now.end == End::Going => {
            let mac = facts.hop.map(names::mac).unwrap_or_default();
            says.push(format!("out by port {}, next hop {mac}", names::port(plan, meta.port_out)));
        }
        "icmp"
            if before.is_some_and(|before| ttl(before).is_some_and(|ttl_before| Some(ttl_before) != ttl(now)))
                && old.is_some_and(|old| old.headers.proto == facts.headers.proto) =>
        {
            let ttl = |record: &Record| ttl(record).map_or_else(String::new, |ttl| ttl.to_string());
            says.push(format!("TTL {} -> {}", before.map(ttl).unwrap_or_default(), ttl(now)));
        }
        "compress" if before.is_some_and(|before| before.len > now.len) => {
            says.push(format!("compressed, {} bytes less", before.map_or(0, |before| before.len - now.len)));
        }
        "seal" if meta.sealed && was.is_none_or(|was| !was.sealed) => {
            says.extend(names::tunnel(plan, meta.tunnel_out).map(|tunnel| format!("sealed for tunnel {tunnel}")));
            says.extend(facts.peer.map(|peer| format!("to {}", peer.ip())));
        }
        "offload" if meta.flow != NO_FLOW => says.push(format!("flow is on tier {}", facts.tier.name())),
        _ => {}
    }
    if let (Some(was), Some(old)) = (was, old) {
        if was.tunnel_in != meta.tunnel_in {
            says.extend(names::tunnel(plan, meta.tunnel_in).map(|tunnel| format!("opened, from tunnel {tunnel}")));
        }
        let inner = matches!(now.node, "open" | "decompress" | "icmp" | "reassemble" | "join");
        if inner
            && (old.headers.src, old.headers.proto, old.headers.dst)
                != (facts.headers.src, facts.headers.proto, facts.headers.dst)
        {
            let what = if now.node == "icmp" { "became the error its sender gets: " } else { "" };
            says.push(format!("{what}{}", names::ends(&facts.headers)));
        }
    }
    match now.end {
        End::Dropped(reason) => says.push(format!("DROPPED: {}. {}", reason.code(), reason.help())),
        End::Held => says.push("held: waits for its next hop's address, or for a session".to_owned()),
        End::Sent => says.push(format!("sent by port {}", names::port(plan, meta.port_out))),
        End::Gathered | End::Going => {}
    }
    says
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: u32, bytes: &[u8]) -> Record {
        let mut record = Record::empty(128);
        (record.offset, record.len, record.node) = (offset, bytes.len() as u32, "icmp");
        record.bytes.extend_from_slice(bytes);
        record
    }

    #[test]
    fn what_was_written_is_told_from_what_was_moved() {
        let plan = Plan::default();
        let (before, mut now) = (record(20, &[1, 2, 3, 4, 5, 6, 7, 8, 9]), record(22, &[3, 4, 9, 6, 9, 8]));
        let step = step(Some(&before), &now, &plan);
        assert_eq!((step.front, step.back), (-2, -1));
        let edit = Edit { at: 2, before: "050607".into(), after: "090609".into() };
        assert_eq!(step.edits, [edit], "changes with few bytes between are one");
        now.offset = 18;
        now.bytes = vec![9, 9, 1, 2, 3];
        now.len = 11;
        let step = super::step(Some(&before), &now, &plan);
        assert_eq!((step.front, step.back), (2, 0));
        assert_eq!(step.edits, [Edit { at: 0, before: String::new(), after: "0909".into() }]);
        // Written over behind what is new.
        now.bytes = vec![9, 9, 7, 2, 3];
        let edits = super::step(Some(&before), &now, &plan).edits;
        let new = Edit { at: 0, before: String::new(), after: "0909".into() };
        assert_eq!(edits, [new, Edit { at: 2, before: "01".into(), after: "07".into() }]);
        now.frame = 7;
        assert!(super::step(Some(&before), &now, &plan).moved);
        let nothing = super::step(Some(&before), &before, &plan);
        assert!(nothing.edits.is_empty() && nothing.front == 0 && nothing.says.is_empty());
        let mut before = record(0, &[0x45; 20]);
        before.bytes[8] = 64;
        let mut now = record(0, &[0x45; 20]);
        now.bytes[8] = 63;
        assert_eq!(super::step(Some(&before), &now, &plan).says, ["TTL 64 -> 63"]);
    }
}
