//! Elasticsearch: the transport between nodes (`ES`, length, request, status and version; TcpHeader in its source), and by
//! what an HTTP request shows itself to be for it.

use crate::l7::text::has;
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const MARK: &[u8] = b"ES";
/// Of a ping, in place of the length.
const PING: u32 = u32::MAX;
const MAX_LENGTH: u32 = 1 << 30;
/// Request or response, error, compressed, handshake.
const STATUS: u8 = 0x0f;
/// 1.0.0 is 1000099; from 8 on, numbers of a transport version of their own.
const VERSIONS: std::ops::Range<u32> = 1_000_000..100_000_000;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if !d.starts_with(&MARK[..d.len().min(2)]) {
        return Verdict::No;
    }
    let Some(len) = look.u32(2) else { return Verdict::More };
    if len == PING {
        return Verdict::payload(Class::Elasticsearch);
    }
    if !(13..MAX_LENGTH).contains(&len) {
        return Verdict::No;
    }
    let (Some(status), Some(version)) = (d.get(14), look.u32(15)) else { return Verdict::More };
    if *status > STATUS || !VERSIONS.contains(&version) {
        return Verdict::No;
    }
    if version < 9_000_000 {
        let digits = [b'0' + (version / 1_000_000) as u8, b'.', b'0' + (version / 10_000 % 10) as u8];
        notes.facts.put(Fact::Version, &digits);
    }
    Verdict::payload(Class::Elasticsearch)
}

/// Endpoints that begin a path.
const FIRST: [&[u8]; 10] = [
    b"/_bulk",
    b"/_search",
    b"/_msearch",
    b"/_cluster/",
    b"/_cat/",
    b"/_nodes",
    b"/_mget",
    b"/_ilm/",
    b"/_index_template",
    b"/_aliases",
];
/// Those behind an index's name.
const LATER: [&[u8]; 6] = [b"/_search", b"/_bulk", b"/_doc/", b"/_msearch", b"/_mapping", b"/_update/"];

/// Whether the path of an HTTP request is one of Elasticsearch's. Other servers have such paths too: a sign only with
/// its port or a field of its own (`X-Elastic-Product`).
pub fn is_path(path: &[u8]) -> bool {
    FIRST.iter().any(|p| path.starts_with(p)) || LATER.iter().any(|p| has(path, p))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream};

    #[test]
    fn transport_messages() {
        let handshake = hex("4553 00000036 0000000000000001 08 006ad287 00000019");
        let told = client(9300, &handshake, Class::Elasticsearch);
        assert_eq!(told.facts.get(Fact::Version), Some("7.0"));
        client(9300, &hex("4553 ffffffff"), Class::Elasticsearch);
        no_stream(9300, &hex("4553 00000036 0000000000000001 18 006ad287 00000019"));
        no_stream(9300, b"ESTABLISHED and so on and on");
    }

    #[test]
    fn paths() {
        assert!(is_path(b"/_bulk") && is_path(b"/logs-2024/_search?q=x") && !is_path(b"/search") && !is_path(b"/"));
    }
}
