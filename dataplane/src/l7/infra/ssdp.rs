//! SSDP: `M-SEARCH` and `NOTIFY` over UDP, and the answers to them (UPnP Device Architecture 2.0 §1.2, §1.3).

use super::read::{header, lines};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const REQUESTS: [&[u8]; 2] = [b"M-SEARCH * HTTP/1.", b"NOTIFY * HTTP/1."];
const ANSWER: &[u8] = b"HTTP/1.1 200 OK";

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let request = REQUESTS.iter().any(|r| d.starts_with(r));
    if !request && !d.starts_with(ANSWER) {
        return Verdict::No;
    }
    let mut named = false;
    for line in lines(d).skip(1) {
        if let Some(host) = header(line, b"host") {
            if request && notes.host.get().is_none() {
                notes.host.push(host);
            }
        } else if let Some(server) = header(line, b"server") {
            notes.facts.put(Fact::Server, server);
        } else if let Some(agent) = header(line, b"user-agent") {
            notes.facts.put(Fact::UserAgent, agent);
        } else if let Some(target) = header(line, b"st").or_else(|| header(line, b"nt")) {
            notes.facts.put(Fact::Object, target);
            named = true;
        } else if header(line, b"usn").is_some() {
            named = true;
        }
    }
    // An answer says what it is the answer for; other protocols speak HTTP over UDP too.
    if request || named { Verdict::payload(Class::Ssdp) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fact, host, is_udp, udp};
    use super::*;

    #[test]
    fn searches_and_answers() {
        let d = b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nST:ssdp:all\r\n\r\n";
        is_udp(look, d, 1900, Class::Ssdp);
        assert_eq!(host(look, d, 1900).as_deref(), Some("239.255.255.250:1900"));
        assert_eq!(fact(look, d, 1900, Fact::Object).as_deref(), Some("ssdp:all"));
        let answer = b"HTTP/1.1 200 OK\r\nSERVER: x UPnP/1.0\r\nUSN: uuid:1\r\n\r\n";
        is_udp(look, answer, 9, Class::Ssdp);
        assert_eq!(fact(look, answer, 9, Fact::Server).as_deref(), Some("x UPnP/1.0"));
        assert_eq!(udp(look, b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", 1900), None);
        assert_eq!(udp(look, b"M-SEARCH / HTTP/1.1\r\n", 1900), None);
    }
}
