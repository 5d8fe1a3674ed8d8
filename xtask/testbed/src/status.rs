//! What the edges say of themselves, read from `softdpu status --json` and `softdpu flows --json`. The one place of the
//! demo and the end-to-end tests that knows their shape.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Drop reasons that a healthy run may show: what is too big is answered, not lost; the rest happens at start and stop.
pub const EXPLAINED: [&str; 5] = ["too_big", "ttl_expired", "neighbour_unresolved", "replay", "shutdown"];

/// One edge's account.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Figures {
    pub attach_mode: String,
    pub packets_encrypted: u64,
    pub packets_decrypted: u64,
    /// Bytes of the inner packets that the compressor saw, and what it made of them; packets it left alone count on
    /// both sides.
    pub compress_bytes_before: u64,
    pub compress_bytes_after: u64,
    pub drops_by_reason: BTreeMap<String, u64>,
    pub frames_total: u64,
    /// Frames by place: fill ring, kernel, graph, free…; together they are `frames_total`.
    pub frames_by_place: BTreeMap<String, u64>,
    /// Per port, what the XDP program counted: every packet it saw, under a verdict or a reason.
    pub steered: BTreeMap<String, u64>,
}

impl Figures {
    /// Reads a status. What is missing is 0, which the checks then show.
    pub fn read(status: &Value) -> Self {
        let sum = |list: &str, key: &str| -> u64 {
            let items = status[list].as_array().into_iter().flatten();
            items.filter_map(|item| item[key].as_u64()).sum()
        };
        let numbers = |value: &Value| -> BTreeMap<String, u64> {
            let pairs = value.as_object().into_iter().flatten();
            pairs.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).filter(|pair| pair.1 > 0).collect()
        };
        let ports = || status["ports"].as_array().into_iter().flatten();
        let modes: Vec<&str> = ports().filter_map(|port| port["mode"].as_str()).collect();
        let steered = ports().map(|port| (name(port), numbers(&port["steer"]).values().sum())).collect();
        let mut frames_by_place = numbers(&status["frames"]);
        let frames_total = frames_by_place.remove("total").unwrap_or(0);
        Self {
            attach_mode: modes.join(", "),
            packets_encrypted: sum("tunnels", "packets_sealed"),
            packets_decrypted: sum("tunnels", "packets_opened"),
            compress_bytes_before: status["compress"]["bytes_before"].as_u64().unwrap_or(0),
            compress_bytes_after: status["compress"]["bytes_after"].as_u64().unwrap_or(0),
            drops_by_reason: numbers(&status["drops"]),
            frames_total,
            frames_by_place,
            steered,
        }
    }

    /// Bytes before and after compression since `earlier`.
    pub fn compressed_since(&self, earlier: &Self) -> (u64, u64) {
        (
            self.compress_bytes_before - earlier.compress_bytes_before.min(self.compress_bytes_before),
            self.compress_bytes_after - earlier.compress_bytes_after.min(self.compress_bytes_after),
        )
    }

    /// Drops that nothing explains.
    pub fn unexplained(&self) -> BTreeMap<String, u64> {
        let pairs = self.drops_by_reason.iter().filter(|(reason, _)| !EXPLAINED.contains(&reason.as_str()));
        pairs.map(|(reason, count)| (reason.clone(), *count)).collect()
    }

    /// Whether every frame of the UMEM is somewhere.
    pub fn balanced(&self) -> bool {
        self.frames_total > 0 && self.frames_by_place.values().sum::<u64>() == self.frames_total
    }
}

fn name(item: &Value) -> String {
    item["name"].as_str().unwrap_or_default().to_owned()
}

/// One flow, with the keys that `softdpu flows` and `softdpu classify` share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Flow {
    pub l4: String,
    /// The initiator, `ip:port`.
    pub a: String,
    pub b: String,
    pub protocol: String,
    #[serde(default)]
    pub host: Option<String>,
    pub packets: u64,
    pub bytes: u64,
}

/// Reads flows: an array, or an object with the array under `flows`. Those that do not read are left out.
pub fn flows(value: &Value) -> Vec<Flow> {
    let list = value.as_array().or_else(|| value["flows"].as_array());
    list.into_iter().flatten().filter_map(|flow| Flow::deserialize(flow).ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
            "frames": {"total": 10, "fill": 4, "free": 6, "tx": 0},
            "drops": {"too_big": 3, "no_route": 1, "bad_icv": 0},
            "tunnels": [{"packets_sealed": 5, "packets_opened": 2}, {"packets_sealed": 1}],
        });
        let mut figures = Figures::read(&status);
        assert!(figures.balanced());
        assert_eq!((figures.packets_encrypted, figures.packets_decrypted), (6, 2));
        assert_eq!(figures.unexplained(), BTreeMap::from([("no_route".to_owned(), 1)]));
        figures.frames_by_place.insert("free".into(), 5);
        assert!(!figures.balanced());
    }
}
