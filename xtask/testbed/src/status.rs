//! What the edges say of themselves, read from `softdpu status --json` and `softdpu flows --json`. The one place of the
//! demo and the end-to-end tests that knows their shape.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Drop reasons that a healthy run may show: a packet that is too big or out of hops is answered in place of being sent on,
/// and a next hop is unknown for a moment at the start.
pub const EXPLAINED: [&str; 4] = ["too_big", "ttl_expired", "neighbour_unresolved", "shutdown"];

/// One edge's account.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Figures {
    /// Where the XDP program runs, per port.
    pub attach_mode: BTreeMap<String, String>,
    pub packets_encrypted: u64,
    pub packets_decrypted: u64,
    /// Bytes of the packets that the compressor saw, and what it made of them; packets it left alone count on both sides.
    pub compress_bytes_before: u64,
    pub compress_bytes_after: u64,
    pub drops_by_reason: BTreeMap<String, u64>,
    /// Bytes sent in clear although a rule encrypts their flow.
    pub escaped_bytes: u64,
    pub frames_total: u64,
    /// Frames by place: fill ring, graph, free and so on; together they are `frames_total`.
    pub frames_by_place: BTreeMap<String, u64>,
    /// What the XDP program did with the packets it saw, each under one verdict.
    pub xdp_verdicts: BTreeMap<String, u64>,
}

impl Figures {
    /// Reads a status. What is missing is 0, which the checks then show.
    pub fn read(status: &Value) -> Self {
        let tunnels = |pointer: &str| items(status, "tunnels").filter_map(|one| one.pointer(pointer)?.as_u64()).sum();
        let mut frames_by_place = BTreeMap::new();
        for (place, count) in items(status, "workers").filter_map(|worker| worker["frames"].as_object()).flatten() {
            *frames_by_place.entry(place.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        let frames_total = frames_by_place.remove("total").unwrap_or(0);
        let mode = |port: &Value| Some((text(port, "name"), port["mode"].as_str()?.to_owned()));
        Self {
            attach_mode: items(status, "ports").filter_map(mode).collect(),
            packets_encrypted: tunnels("/sealed/packets"),
            packets_decrypted: tunnels("/opened/packets"),
            compress_bytes_before: tunnels("/compress_in_bytes"),
            compress_bytes_after: tunnels("/compress_out_bytes"),
            drops_by_reason: sums(items(status, "drops"), "reason", "count"),
            escaped_bytes: status["escaped_bytes"].as_u64().unwrap_or(0),
            frames_total,
            frames_by_place,
            xdp_verdicts: sums(items(status, "xdp"), "verdict", "packets"),
        }
    }

    /// Bytes before and after compression since `earlier`.
    pub fn compressed_since(&self, earlier: &Self) -> (u64, u64) {
        (
            self.compress_bytes_before.saturating_sub(earlier.compress_bytes_before),
            self.compress_bytes_after.saturating_sub(earlier.compress_bytes_after),
        )
    }

    /// Drops that nothing explains.
    pub fn unexplained(&self) -> BTreeMap<String, u64> {
        let pairs = self.drops_by_reason.iter().filter(|(reason, _)| !EXPLAINED.contains(&reason.as_str()));
        pairs.map(|(reason, count)| (reason.clone(), *count)).collect()
    }

    /// Whether every frame of the UMEMs is somewhere.
    pub fn balanced(&self) -> bool {
        self.frames_total > 0 && self.frames_by_place.values().sum::<u64>() == self.frames_total
    }

    /// Packets that the XDP program saw.
    pub fn seen_by_xdp(&self) -> u64 {
        self.xdp_verdicts.values().sum()
    }
}

fn items<'a>(value: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[list].as_array().into_iter().flatten()
}

fn text(item: &Value, key: &str) -> String {
    item[key].as_str().unwrap_or_default().to_owned()
}

/// Counts above 0 by name, added up where a name comes twice.
fn sums<'a>(items: impl Iterator<Item = &'a Value>, name: &str, count: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (name, count) in
        items.filter_map(|item| Some((text(item, name), item[count].as_u64().filter(|count| *count > 0)?)))
    {
        *sums.entry(name).or_default() += count;
    }
    sums
}

/// One flow, as `softdpu flows` or `softdpu classify` tells it.
#[derive(Debug, Clone)]
pub struct Flow {
    /// `tcp`, `udp` and so on.
    pub l4: String,
    /// The initiator, `ip:port`.
    pub a: String,
    pub b: String,
    pub class: String,
    pub host: Option<String>,
    /// Both directions together.
    pub packets: u64,
    pub bytes: u64,
}

/// Reads an array of flows, of either verb: `flows` has the class and counts by direction, `classify` the protocol and sums.
pub fn flows(value: &Value) -> Vec<Flow> {
    let flow = |flow: &Value| {
        let count = |names: [&str; 3]| names.iter().filter_map(|name| flow[*name].as_u64()).sum();
        Flow {
            l4: text(flow, "l4").to_lowercase(),
            a: text(flow, "a"),
            b: text(flow, "b"),
            class: text(flow, if flow["class"].is_string() { "class" } else { "protocol" }),
            host: flow["host"].as_str().filter(|host| !host.is_empty()).map(str::to_owned),
            packets: count(["packets", "packets_ab", "packets_ba"]),
            bytes: count(["bytes", "bytes_ab", "bytes_ba"]),
        }
    };
    value.as_array().into_iter().flatten().map(flow).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missing_status_passes_no_check() {
        let figures = Figures::read(&json!({}));
        assert!(!figures.balanced());
        assert_eq!(figures.packets_encrypted, 0);
    }

    #[test]
    fn a_lost_frame_and_an_odd_drop_show() {
        let status = json!({
            "workers": [{"frames": {"total": 10, "fill": 4, "free": 6, "tx": 0}}, {"frames": {"total": 5, "fill": 5}}],
            "drops": [{"reason": "too_big", "count": 3}, {"reason": "no_route", "count": 1}, {"reason": "bad_icv", "count": 0}],
            "tunnels": [{"sealed": {"packets": 5}, "opened": {"packets": 2}}, {"sealed": {"packets": 1}}],
        });
        let mut figures = Figures::read(&status);
        assert!(figures.balanced());
        assert_eq!((figures.packets_encrypted, figures.packets_decrypted), (6, 2));
        assert_eq!(figures.unexplained(), BTreeMap::from([("no_route".to_owned(), 1)]));
        figures.frames_by_place.insert("free".into(), 5);
        assert!(!figures.balanced());
    }

    #[test]
    fn flows_of_both_verbs_read_alike() {
        let live = json!([{"l4": "tcp", "a": "10.1.0.2:4000", "b": "10.2.0.2:80", "class": "http", "host": "x", "packets_ab": 1,
                           "packets_ba": 2, "bytes_ab": 10, "bytes_ba": 20}]);
        let file = json!([{"l4": "TCP", "a": "10.1.0.2:4000", "b": "10.2.0.2:80", "protocol": "http", "host": "", "packets": 3,
                           "bytes": 30}]);
        let (live, file) = (flows(&live).remove(0), flows(&file).remove(0));
        assert_eq!(
            (&live.l4, &live.class, live.packets, live.bytes),
            (&file.l4, &file.class, file.packets, file.bytes)
        );
        assert_eq!((live.host.as_deref(), file.host), (Some("x"), None));
    }
}
