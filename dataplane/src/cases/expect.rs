//! What is expected, held against what was seen.

use std::ops::Range;

use serde::Serialize;

use super::device::{FlowSeen, Out, Seen};
use super::file::{Expect, Ignore, Tier, Verdict};
use super::read::Reader;
use crate::config::at::At;
use crate::config::{Code, known_classes};
use crate::graph::DropReason;
use crate::io::pcap;
use crate::io::steer;
use crate::offload;

/// One statement.
#[derive(Debug)]
pub struct Statement {
    pub what: &'static str,
    pub is: Is,
    pub span: Range<usize>,
}

#[derive(Debug)]
pub enum Is {
    /// In the words of [`said`].
    Word(String),
    /// Bytes of the frame, or of the packet before it was sealed; `None`: any.
    Bytes(Vec<Option<u8>>),
    Packets(Vec<Vec<u8>>, Vec<Ignore>),
}

/// All statements about one packet.
#[derive(Debug, Default)]
pub struct Expected {
    pub statements: Vec<Statement>,
}

/// A statement that is not true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub what: String,
    pub expected: String,
    pub seen: String,
    pub file: String,
    pub line: usize,
    pub column: usize,
}

const NONE: &str = "none";

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Kernel => "kernel",
            Self::Dropped => "dropped",
            Self::Waits => "waits",
        }
    }
}

impl Tier {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Worker => "worker",
            Self::Kernel => "kernel",
        }
    }
}

/// Checks names and bytes. `None`: something is wrong, and was said.
pub fn typed(reader: &mut Reader<'_>, expect: &At<Expect>) -> Option<Expected> {
    let before = reader.problems.len();
    let mut out = Expected::default();
    let mut word = |what, is: String, span| out.statements.push(Statement { what, is: Is::Word(is), span });
    if let Some(verdict) = &expect.verdict {
        word("verdict", verdict.as_str().to_owned(), verdict.span());
    }
    if let Some(tier) = &expect.tier {
        word("tier", tier.as_str().to_owned(), tier.span());
    }
    for (what, flag) in [("encrypted", &expect.encrypted), ("compressed", &expect.compressed)] {
        if let Some(flag) = flag {
            word(what, flag.to_string(), flag.span());
        }
    }
    for (what, number) in [("packets", &expect.packets), ("length", &expect.length)] {
        if let Some(number) = number {
            word(what, number.to_string(), number.span());
        }
    }
    for (what, number) in [("ttl", &expect.ttl), ("dscp", &expect.dscp)] {
        if let Some(number) = number {
            word(what, number.to_string(), number.span());
        }
    }
    if let Some(port) = &expect.port {
        reader.port(port);
        word("port", port.to_string(), port.span());
    }
    let names = [
        ("reason", &expect.reason),
        ("steer", &expect.steer),
        ("rule", &expect.rule),
        ("intent", &expect.intent),
        ("tunnel", &expect.tunnel),
        ("offload", &expect.offload),
        ("class", &expect.class),
        ("host", &expect.host),
        ("application", &expect.application),
    ];
    for (what, name) in names {
        let Some(name) = name else { continue };
        if name.as_str() != NONE {
            known(reader, what, name);
        }
        word(what, (**name).clone(), name.span());
    }
    for (what, text) in [("bytes", &expect.bytes), ("inner", &expect.inner)] {
        let Some(text) = text else { continue };
        if let Some(bytes) = pattern(reader, text) {
            out.statements.push(Statement { what, is: Is::Bytes(bytes), span: text.span() });
        }
    }
    if let Some(capture) = &expect.capture {
        let path = reader.folder.join(&capture.0);
        match pcap::frames(&path) {
            Ok(frames) => {
                let packets = frames.iter().map(|frame| ip_of(frame).to_vec()).collect();
                let is = Is::Packets(packets, expect.ignore.clone());
                out.statements.push(Statement { what: "capture", is, span: capture.span() });
            }
            Err(error) => {
                let help = "name a pcap or pcapng file; a relative path starts at this file's folder";
                reader.bad(Code::Unreadable, capture.span(), error.to_string(), help);
            }
        }
    }
    out.statements.sort_by_key(|statement| statement.span.start);
    if out.statements.is_empty() && reader.problems.len() == before {
        reader.bad(
            Code::MissingKey,
            expect.span(),
            "nothing is expected",
            "write for example: verdict = \"forwarded\"",
        );
    }
    (reader.problems.len() == before).then_some(out)
}

fn known(reader: &mut Reader<'_>, what: &'static str, name: &At<String>) {
    let (text, span) = (name.as_str(), name.span());
    let policy = reader.policy;
    match what {
        "reason" => {
            let codes = DropReason::ALL.iter().map(|reason| reason.code());
            reader.named("drop reason", text, span, codes.chain(steer::Reason::ALL.iter().map(|reason| reason.name())));
        }
        "steer" => {
            let mut names: Vec<String> = reader.steer_names().into_iter().collect();
            names.sort();
            reader.named("steering rule", text, span, names.iter().map(String::as_str));
        }
        "rule" => {
            reader.named("rule", text, span, policy.rules.iter().map(|rule| &*rule.name));
        }
        "intent" => {
            reader.named("intent", text, span, policy.intents.iter().map(|intent| intent.name.as_str()));
        }
        "tunnel" => {
            reader.tunnel(text, span);
        }
        "offload" => {
            let codes = offload::Reason::ALL.iter().map(|reason| reason.code());
            reader.named("offload reason", text, span, codes);
        }
        "class" => {
            reader.named("class", text, span, known_classes().collect::<Vec<_>>().into_iter());
        }
        "application" => {
            reader.named("application", text, span, policy.applications.iter().map(|app| app.name.as_str()));
        }
        _ => {}
    }
}

/// Hex digits, white space and colons between bytes, `??` for any byte.
pub fn pattern(reader: &mut Reader<'_>, text: &At<String>) -> Option<Vec<Option<u8>>> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace() && *c != ':').collect();
    let byte = |pair: &[char]| match pair {
        ['?', '?'] => Some(None),
        [a, b] => Some(Some((a.to_digit(16)? << 4 | b.to_digit(16)?) as u8)),
        _ => None,
    };
    let bytes: Option<Vec<Option<u8>>> = digits.chunks(2).map(byte).collect();
    if bytes.is_none() || digits.is_empty() {
        let help = "write two digits for each byte, with or without spaces: \"45 00 00 1c\"";
        reader.bad(Code::ImpossibleValue, text.span(), "this is not in hex digits", help);
        return None;
    }
    bytes
}

/// The IP packet of an Ethernet frame, without padding.
pub fn ip_of(frame: &[u8]) -> &[u8] {
    match softdpu_ebpf_common::walk::walk(frame) {
        Ok(h) => frame.get(usize::from(h.l3_off)..usize::from(h.end)).unwrap_or(frame),
        Err(_) => frame.get(14..).unwrap_or(frame),
    }
}

/// What a statement is about, as it was seen.
fn said(what: &str, seen: &Seen, flow: &FlowSeen) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| NONE.to_owned());
    let inner = seen.out.first().map(Out::ip);
    let field = |v4: fn(&[u8]) -> Option<u32>, v6: fn(&[u8]) -> Option<u32>| {
        let of = |ip: &&[u8]| if ip.first().is_some_and(|b| b >> 4 == 4) { v4(ip) } else { v6(ip) };
        inner.as_ref().and_then(of).map_or(NONE.to_owned(), |n| n.to_string())
    };
    match what {
        "verdict" => seen.verdict.as_str().to_owned(),
        "port" => or_none(&seen.out.first().map(|out| out.port.clone())),
        "reason" => or_none(&seen.reason),
        "steer" => or_none(&seen.steer),
        "rule" => or_none(&flow.rule),
        "intent" => or_none(&flow.intent),
        "tunnel" => or_none(&seen.out.iter().find_map(|out| out.tunnel.clone())),
        "encrypted" => (!seen.out.is_empty() && seen.out.iter().all(|out| out.tunnel.is_some())).to_string(),
        "compressed" => seen.compressed.to_string(),
        "tier" => flow.tier.as_str().to_owned(),
        "offload" => or_none(&flow.offload),
        "class" => or_none(&flow.class),
        "host" => or_none(&flow.host),
        "application" => or_none(&flow.application),
        "packets" => seen.out.len().to_string(),
        "length" => inner.map_or(NONE.to_owned(), |ip| ip.len().to_string()),
        "ttl" => field(|ip| ip.get(8).map(|b| u32::from(*b)), |ip| ip.get(7).map(|b| u32::from(*b))),
        "dscp" => field(
            |ip| ip.get(1).map(|b| u32::from(*b >> 2)),
            |ip| Some((u32::from(*ip.first()?) << 4 | u32::from(*ip.get(1)?) >> 4) >> 2 & 63),
        ),
        _ => NONE.to_owned(),
    }
}

/// Expected, and seen, of each statement that is not true. `all`: every packet that left, for captures.
pub fn failures<'e>(
    expected: &'e Expected,
    seen: &Seen,
    flow: &FlowSeen,
    all: &[Out],
) -> Vec<(&'e Statement, String, String)> {
    let mut wrong = Vec::new();
    for statement in &expected.statements {
        let (want, got) = match &statement.is {
            Is::Word(want) => (want.clone(), said(statement.what, seen, flow)),
            Is::Bytes(want) => {
                let first = seen.out.first();
                let got = first.map(|out| if statement.what == "bytes" { &out.frame[..] } else { out.ip() });
                match difference(want, got) {
                    None => continue,
                    Some(difference) => difference,
                }
            }
            Is::Packets(want, ignore) => match of_packets(want, ignore, all) {
                None => continue,
                Some(difference) => difference,
            },
        };
        if want != got {
            wrong.push((statement, want, got));
        }
    }
    wrong
}

/// What was expected and what was there instead. `None`: it fits.
fn difference(want: &[Option<u8>], got: Option<&[u8]>) -> Option<(String, String)> {
    let Some(got) = got else { return Some((format!("{} bytes", want.len()), "nothing left".to_owned())) };
    let at = want.iter().zip(got).position(|(want, got)| want.is_some_and(|want| want != *got));
    match at {
        None if want.len() == got.len() => None,
        None => Some((format!("{} bytes", want.len()), format!("{} bytes", got.len()))),
        Some(at) => {
            let want: Vec<String> =
                want[at..].iter().take(8).map(|b| b.map_or("??".into(), |b| format!("{b:02x}"))).collect();
            let got: Vec<String> = got[at..].iter().take(8).map(|b| format!("{b:02x}")).collect();
            Some((format!("{} from byte {at}", want.join(" ")), got.join(" ")))
        }
    }
}

fn of_packets(want: &[Vec<u8>], ignore: &[Ignore], all: &[Out]) -> Option<(String, String)> {
    if want.len() != all.len() {
        return Some((format!("{} packets", want.len()), format!("{} packets", all.len())));
    }
    want.iter().zip(all).enumerate().find_map(|(at, (want, out))| {
        let masked = masked(want, ignore);
        let (want, got) = difference(&masked, Some(out.ip()))?;
        Some((format!("packet {}: {want}", at + 1), got))
    })
}

fn masked(packet: &[u8], ignore: &[Ignore]) -> Vec<Option<u8>> {
    let mut bytes: Vec<Option<u8>> = packet.iter().copied().map(Some).collect();
    let Ok(headers) = softdpu_ebpf_common::walk::walk_ip(packet, 0) else { return bytes };
    let v4 = packet[0] >> 4 == 4;
    let sum = match headers.proto {
        6 => Some(16),
        17 => Some(6),
        1 | 58 => Some(2),
        _ => None,
    };
    let places = ignore.iter().flat_map(|ignore| match ignore {
        Ignore::Ttl if v4 => vec![8, 10, 11],
        Ignore::Ttl => vec![7],
        Ignore::Id if v4 => vec![4, 5, 10, 11],
        Ignore::Id => Vec::new(),
        Ignore::Checksum => {
            sum.map_or(Vec::new(), |at| vec![usize::from(headers.l4_off) + at, usize::from(headers.l4_off) + at + 1])
        }
    });
    for at in places {
        if let Some(byte) = bytes.get_mut(at) {
            *byte = None;
        }
    }
    bytes
}
