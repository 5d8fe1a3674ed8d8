//! A record as one line of JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::FlowRecord;

#[derive(Serialize)]
struct Line<'a> {
    start_ms: u64,
    end_ms: u64,
    proto: u8,
    /// The initiator, `address:port`.
    a: String,
    b: String,
    #[serde(skip_serializing_if = "is_zero")]
    vlan: [u16; 2],
    #[serde(skip_serializing_if = "is_none")]
    network: u32,
    packets_ab: u64,
    bytes_ab: u64,
    packets_ba: u64,
    bytes_ba: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<&'a str>,
    class: &'a str,
    by: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    alpn: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    facts: BTreeMap<&'a str, &'a str>,
    tier: &'a str,
    encrypted: bool,
    reason: &'a str,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's shape
fn is_zero(vlan: &[u16; 2]) -> bool {
    *vlan == [0, 0]
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's shape
fn is_none(network: &u32) -> bool {
    *network == 0
}

/// Writes the line with its end.
///
/// # Errors
/// `out`'s.
pub fn write(r: &FlowRecord, out: &mut impl std::io::Write) -> std::io::Result<()> {
    let line = Line {
        start_ms: r.start_ms,
        end_ms: r.end_ms,
        proto: r.proto,
        a: r.initiator.to_string(),
        b: r.responder.to_string(),
        vlan: r.vlan,
        network: r.network,
        packets_ab: r.packets[0],
        bytes_ab: r.bytes[0],
        packets_ba: r.packets[1],
        bytes_ba: r.bytes[1],
        application: r.application.get(),
        class: r.class.name(),
        by: r.by.name(),
        alpn: r.alpn.name(),
        host: r.host.get(),
        facts: r.facts.iter().map(|(fact, value)| (fact.name(), value)).collect(),
        tier: r.tier,
        encrypted: r.encrypted,
        reason: r.reason.name(),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}
