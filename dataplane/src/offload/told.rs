//! What workers are told about their flows, as events for those who asked to follow flows.

use super::lane::{FlowRef, What};
use crate::flow::Endpoint;
use crate::telemetry::journal::{Journal, Kind, Note};

/// Nothing is told of counts, which come every second.
pub(super) fn tell(journal: &Journal, worker: usize, flow: &FlowRef, what: &What) {
    let (kind, text, reason) = match what {
        What::Placed => (Kind::FlowOffloaded, "went down into the driver".to_owned(), None),
        What::Blocked => (Kind::FlowOffloaded, "went down into the device, which drops it".to_owned(), None),
        What::Dropped(_) => (Kind::FlowOffloaded, "went down into the driver, which drops it".to_owned(), None),
        What::Refused(why) => (Kind::FlowRefused, format!("stays with its worker: {}", why.code()), Some(why)),
        What::Left(why, ..) => (Kind::FlowDemoted, format!("came back to its worker: {}", why.code()), Some(why)),
        What::Counted(_) | What::Judge(..) => return,
    };
    let key = &flow.key;
    let [a, b] = [key.low(), key.high()].map(|(address, port)| Endpoint::new(address, port, key.is_v6()));
    let l4 = match key.proto() {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    };
    let note = Note::new(kind, format!("{worker}:{}", flow.idx.0), format!("{l4} {a} {b} {text}"));
    let note = note.with("l4", l4).with("ends", vec![a.to_string(), b.to_string()]);
    journal.tell(match reason {
        Some(reason) => note.with("reason", reason.code()).with("help", reason.help()),
        None => note.with("tier", if matches!(what, What::Blocked) { "nic" } else { "xdp" }),
    });
}
