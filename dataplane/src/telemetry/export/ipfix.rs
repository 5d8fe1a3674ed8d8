//! IPFIX messages (RFC 7011) of biflow records (RFC 5103): the bytes.

use super::FlowRecord;

/// Largest message, bytes: fits any path without fragments (RFC 7011 §10.3.3 wants less than the path MTU).
pub const MAX_MESSAGE: usize = 1400;
const HEADER: usize = 16;
const VERSION: u16 = 10;
const TEMPLATE_SET: u16 = 2;
const VARIABLE: u16 = 0xffff;
const ENTERPRISE: u16 = 0x8000;
/// Private enterprise number of reversed elements (RFC 5103 §6.1).
const REVERSE: u32 = 29_305;
/// That of documentation (RFC 5612), for elements IANA has none for: softdpu has no number of its own.
const OWN: u32 = 32_473;

/// Templates: one per family.
const V4: u16 = 256;
const V6: u16 = 257;

/// Element, length, enterprise; in the order in which [`Message::record`] writes.
type Field = (u16, u16, Option<u32>);

const COMMON: [Field; 18] = [
    (152, 8, None),           // flowStartMilliseconds
    (153, 8, None),           // flowEndMilliseconds
    (7, 2, None),             // sourceTransportPort
    (11, 2, None),            // destinationTransportPort
    (4, 1, None),             // protocolIdentifier
    (136, 1, None),           // flowEndReason
    (239, 1, None),           // biflowDirection
    (58, 2, None),            // vlanId
    (1, 8, None),             // octetDeltaCount
    (2, 8, None),             // packetDeltaCount
    (1, 8, Some(REVERSE)),    // reverseOctetDeltaCount
    (2, 8, Some(REVERSE)),    // reversePacketDeltaCount
    (96, VARIABLE, None),     // applicationName (RFC 6759): the operator's, else that of the class
    (1, VARIABLE, Some(OWN)), // host name: of TLS, HTTP, DNS …
    (2, VARIABLE, Some(OWN)), // tier
    (3, 1, Some(OWN)),        // encrypted by softdpu: 1, else 2 (a truthValue, RFC 7011 §6.1.5)
    (4, VARIABLE, Some(OWN)), // what the class rests on
    (5, VARIABLE, Some(OWN)), // class
];
const ADDRESSES_V4: [Field; 2] = [(8, 4, None), (12, 4, None)];
const ADDRESSES_V6: [Field; 2] = [(27, 16, None), (28, 16, None)];

/// A message while it is put together.
pub struct Message {
    bytes: Vec<u8>,
    /// The data set that is open: where it starts, and of which template.
    open: Option<(usize, u16)>,
    records: u32,
}

impl Message {
    pub fn new() -> Self {
        let mut bytes = Vec::with_capacity(MAX_MESSAGE);
        bytes.resize(HEADER, 0);
        Self { bytes, open: None, records: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.len() == HEADER
    }

    /// Data records so far.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Adds both templates.
    pub fn templates(&mut self) {
        self.close();
        let start = self.begin_set(TEMPLATE_SET);
        for (id, addresses) in [(V4, ADDRESSES_V4), (V6, ADDRESSES_V6)] {
            let fields = addresses.iter().chain(&COMMON);
            self.u16(id);
            self.u16((addresses.len() + COMMON.len()) as u16);
            for (element, length, enterprise) in fields {
                self.u16(element | if enterprise.is_some() { ENTERPRISE } else { 0 });
                self.u16(*length);
                if let Some(number) = enterprise {
                    self.bytes.extend(number.to_be_bytes());
                }
            }
        }
        self.end_set(start);
    }

    /// Adds a record. `false`: it does not fit any more, and the message is as it was.
    pub fn record(&mut self, r: &FlowRecord) -> bool {
        let before = (self.bytes.len(), self.open);
        let v4 = r.initiator.addr.is_ipv4();
        let template = if v4 { V4 } else { V6 };
        if self.open.is_none_or(|(_, of)| of != template) {
            self.close();
            let start = self.begin_set(template);
            self.open = Some((start, template));
        }
        for end in [&r.initiator, &r.responder] {
            match end.addr {
                std::net::IpAddr::V4(a) => self.bytes.extend(a.octets()),
                std::net::IpAddr::V6(a) => self.bytes.extend(a.octets()),
            }
        }
        self.u64(r.start_ms);
        self.u64(r.end_ms);
        self.u16(r.initiator.port);
        self.u16(r.responder.port);
        // The initiator is the source: biflowDirection 1 (RFC 5103 §6.3).
        self.bytes.extend([r.proto, r.reason as u8, 1]);
        self.u16(r.vlan[0]);
        self.u64(r.bytes[0]);
        self.u64(r.packets[0]);
        self.u64(r.bytes[1]);
        self.u64(r.packets[1]);
        self.text(r.application.get().unwrap_or(r.class.name()));
        self.text(r.host.get().unwrap_or_default());
        self.text(r.tier);
        self.bytes.push(if r.encrypted { 1 } else { 2 });
        self.text(r.by.name());
        self.text(r.class.name());
        if self.bytes.len() > MAX_MESSAGE {
            if self.open != before.1 {
                // The set that was open before is closed; its length is right where it is.
                self.open = None;
            }
            self.bytes.truncate(before.0);
            if self.open.is_none()
                && let Some((start, _)) = before.1
            {
                self.end_set(start);
            }
            return false;
        }
        self.records += 1;
        true
    }

    /// The message's bytes, header filled in. `sequence`: data records sent before it (RFC 7011 §3.1).
    pub fn finish(mut self, seconds: u32, sequence: u32, domain: u32) -> Vec<u8> {
        self.close();
        let len = self.bytes.len() as u16;
        let mut header = Vec::with_capacity(HEADER);
        header.extend(VERSION.to_be_bytes());
        header.extend(len.to_be_bytes());
        header.extend(seconds.to_be_bytes());
        header.extend(sequence.to_be_bytes());
        header.extend(domain.to_be_bytes());
        self.bytes[..HEADER].copy_from_slice(&header);
        self.bytes
    }

    fn begin_set(&mut self, id: u16) -> usize {
        let start = self.bytes.len();
        self.u16(id);
        self.u16(0);
        start
    }

    fn end_set(&mut self, start: usize) {
        let len = (self.bytes.len() - start) as u16;
        self.bytes[start + 2..start + 4].copy_from_slice(&len.to_be_bytes());
    }

    fn close(&mut self) {
        if let Some((start, _)) = self.open.take() {
            self.end_set(start);
        }
    }

    fn u16(&mut self, n: u16) {
        self.bytes.extend(n.to_be_bytes());
    }

    fn u64(&mut self, n: u64) {
        self.bytes.extend(n.to_be_bytes());
    }

    /// RFC 7011 §7: names here are shorter than 255 bytes, so one byte of length does.
    fn text(&mut self, text: &str) {
        let text = &text.as_bytes()[..text.len().min(254)];
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::record;
    use super::*;

    /// Set identifiers and lengths of a message.
    fn sets(message: &[u8]) -> Vec<(u16, usize)> {
        let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        assert_eq!((word(0), usize::from(word(2))), (VERSION, message.len()));
        let (mut at, mut out) = (HEADER, Vec::new());
        while at < message.len() {
            let len = usize::from(word(at + 2));
            assert!(len > 4 && at + len <= message.len(), "set of {len} at {at}");
            out.push((word(at), len));
            at += len;
        }
        out
    }

    #[test]
    fn templates_and_records_add_up() {
        let mut m = Message::new();
        m.templates();
        assert!(m.record(&record("192.0.2.1", "198.51.100.2", "shop.example")));
        assert!(m.record(&record("192.0.2.1", "198.51.100.3", "")));
        assert!(m.record(&record("2001:db8::1", "2001:db8::2", "six.example")));
        assert_eq!(m.records(), 3);
        let bytes = m.finish(7, 40, 9);
        assert_eq!(bytes[4..16], [0, 0, 0, 7, 0, 0, 0, 40, 0, 0, 0, 9]);
        let fixed = |addresses: usize| addresses + 58;
        let text = |host: &str| 5 + 2 * "tls".len() + host.len() + "worker".len() + "handshake".len();
        let v4 = 4 + 2 * fixed(8) + text("shop.example") + text("");
        let v6 = 4 + fixed(32) + text("six.example");
        let template = 4 + 2 * (4 + 20 * 4 + 7 * 4);
        assert_eq!(sets(&bytes), [(TEMPLATE_SET, template), (V4, v4), (V6, v6)]);
    }

    #[test]
    fn what_does_not_fit_leaves_a_whole_message() {
        for second_is_v6 in [false, true] {
            let mut m = Message::new();
            let mut n = 0;
            while m.record(&record("192.0.2.1", "192.0.2.2", &"a".repeat(100))) {
                n += 1;
            }
            if second_is_v6 {
                assert!(!m.record(&record("2001:db8::1", "2001:db8::2", &"a".repeat(200))));
            }
            assert_eq!(m.records(), n);
            let bytes = m.finish(0, 0, 0);
            assert!(bytes.len() <= MAX_MESSAGE);
            assert_eq!(sets(&bytes).len(), 1);
        }
    }
}
