//! Recognisers: each family on messages of its own, asked as the inspector asks, by way of the table of all of them.

use anyhow::{Result, ensure};
use softdpu::flow::Direction;
use softdpu::l7::{Class, Found, Look, Notes, Table, Verdict};
use softdpu_testbed::hostile::{PREFACE, dns, h2, hello, question, quic, records};

use super::{Entry, scene::noise};
use crate::micro::Case;

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Tcp,
    Udp,
}
use By::{Tcp, Udp};

/// Name (family first), how it travels, port of the server, and what the client says. `None`: nobody's.
type Message = (&'static str, By, u16, Option<Class>, Vec<u8>);

fn messages() -> Vec<Message> {
    let hello = hello("shop.example", 200, 200);
    let initial = quic::initial(&[7; 8], 1, &quic::crypto(0, &hello));
    let http = b"GET /catalogue.html HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
    let http2 = [PREFACE, &h2(0, 4, 0, 0, &[]), &h2(4, 8, 0, 0, &[0, 1, 0, 0])].concat();
    let sip = b"REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP a\r\nUser-Agent: phone 1\r\n\r\n";
    let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    let wireguard = [&[1, 0, 0, 0][..], &noise(144)].concat();
    let snmp =
        b"\x30\x26\x02\x01\x01\x04\x06public\xa0\x19\x02\x04\x01\x02\x03\x04\x02\x01\0\x02\x01\0\x30\x0b\x30\x09\
                 \x06\x05\x2b\x06\x01\x02\x01\x05\0";
    let mqtt = b"\x10\x11\0\x04MQTT\x04\x02\0\x3c\0\x05Bus41";
    let kafka = b"\0\0\0\x14\0\x12\0\0\0\0\0\x01\0\x0aconsumer-1";
    vec![
        ("web-tls", Tcp, 443, Some(Class::Tls), records(&hello, 4000)),
        ("web-http", Tcp, 80, Some(Class::Http), http.to_vec()),
        ("web-http2", Tcp, 80, Some(Class::Http2), http2),
        ("web-quic", Udp, 443, Some(Class::Quic), initial),
        ("web-dns", Udp, 53, Some(Class::Dns), dns([1, 0, 0, 0], &question(3, 8))),
        ("remote-ssh", Tcp, 22, Some(Class::Ssh), b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec()),
        ("mail-smtp", Tcp, 25, Some(Class::Smtp), b"EHLO a.example\r\nMAIL FROM:<a@b.example>\r\n".to_vec()),
        ("mail-imap", Tcp, 143, Some(Class::Imap), b"a001 CAPABILITY\r\n".to_vec()),
        (
            "files-bittorrent",
            Tcp,
            6881,
            Some(Class::Bittorrent),
            b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x05".to_vec(),
        ),
        ("data-redis", Tcp, 6379, Some(Class::Redis), b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n".to_vec()),
        ("data-postgresql", Tcp, 5432, Some(Class::Postgresql), b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec()),
        ("queue-kafka", Tcp, 9092, Some(Class::Kafka), kafka.to_vec()),
        ("queue-mqtt", Tcp, 1883, Some(Class::Mqtt), mqtt.to_vec()),
        ("infra-snmp", Udp, 161, Some(Class::Snmp), snmp.to_vec()),
        ("voice-sip", Udp, 5060, Some(Class::Sip), sip.to_vec()),
        ("voice-stun", Udp, 3478, Some(Class::Stun), stun),
        ("vpn-wireguard", Udp, 51_820, Some(Class::Wireguard), wireguard),
        ("industry-modbus", Tcp, 502, Some(Class::Modbus), b"\0\x01\0\0\0\x06\x01\x03\0\0\0\x0a".to_vec()),
        ("measure-iperf3", Tcp, 5201, Some(Class::Iperf3), b"asn7vbw54sdcb6x6rl3nptv5ywwgf4ek5s26\0".to_vec()),
        ("nobody-tcp", Tcp, 9999, None, noise(1400)),
        ("nobody-udp", Udp, 9999, None, noise(1200)),
        ("nobody-text", Tcp, 9999, None, b"hello there, is this a protocol that anybody knows? ".repeat(8)),
    ]
}

pub fn entries() -> Vec<Entry> {
    let entry = |(name, by, port, class, data): Message| {
        let title = format!("recognisers asked about {name}, {} B, per message", data.len());
        Entry::new(format!("recognise/{name}"), title, 64, move || case(by, port, class, data.clone()))
    };
    messages().into_iter().map(entry).collect()
}

fn class_of(verdict: Verdict) -> Option<Class> {
    match verdict {
        Verdict::Class(Found { class, .. })
        | Verdict::Other(Found { class, .. })
        | Verdict::Settled(Found { class, .. })
        | Verdict::Done(Found { class, .. }) => Some(class),
        Verdict::No | Verdict::More => None,
    }
}

fn case(by: By, port: u16, class: Option<Class>, data: Vec<u8>) -> Result<Case<'static>> {
    let table = if by == Tcp { &Table::get().tcp } else { &Table::get().udp };
    let ask = move |data: &[u8], notes: &mut Notes| {
        let look = Look { last: false, ..Look::whole(data, Direction::FromInitiator, (40_000, port)) };
        table.ask(&look, notes)
    };
    let mut notes = Notes::default();
    let told = class_of(ask(&data, &mut notes));
    ensure!(told == class, "told as {told:?} instead of {class:?}");
    Ok(Case::new("", "", move |n| {
        for _ in 0..n {
            std::hint::black_box(ask(std::hint::black_box(&data), &mut notes));
        }
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_family_has_a_message_that_it_tells() {
        for (name, by, port, class, data) in messages() {
            case(by, port, class, data).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let families: std::collections::BTreeSet<_> =
            messages().iter().filter(|m| m.3.is_some()).filter_map(|m| m.0.split('-').next()).collect();
        assert_eq!(families.len(), softdpu::l7::FAMILIES.len());
    }
}
